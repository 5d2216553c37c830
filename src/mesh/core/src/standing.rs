//! A call as rights see it at one peer and one moment: for whoever asks why it waits, or what became of it.

use std::collections::BTreeSet;

use crate::ids::{Hash, PeerId};
use crate::policy::{Consent, Request};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The question that it asks. Of a call that is over here: as if it were asked again, so that no answer to it counts.
    pub request: Request,
    /// All that people said that is about it and counts yet.
    pub answers: Vec<HeldAnswer>,
    /// Devices that have said something about rights which its origin knew and which is not here: until it is, the call is
    /// neither let through nor denied.
    pub behind: BTreeSet<PeerId>,
    /// Milliseconds within which it must start; `None`: it is over here.
    pub left_ms: Option<u64>,
}

/// Something that a person said to a call, or to those like it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldAnswer {
    /// Hash of its entry.
    pub id: Hash,
    /// The device at which it was said.
    pub at: PeerId,
    /// Author and statement.
    pub consent: Consent,
    /// Milliseconds for which it counts yet.
    pub left_ms: u64,
}
