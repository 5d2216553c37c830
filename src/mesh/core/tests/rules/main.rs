//! The rules that only races show, each in the smallest mesh that shows it: whole peers, cut apart and joined again.
#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

mod asking;
mod audience;
mod calls;
mod compaction;
mod handover;
mod joining;
mod membership;
mod policy;
mod relaying;
mod restored;
mod revoked;
mod rights;
mod stays;
mod tags;
mod versions;

use mesh_core::entry::{Kind, SignedEntry};
use mesh_core::io::NewCall;
use mesh_core::record::Effect;
use mesh_core::test_kit::{self, Author, id};

/// A call of `echo` at a device.
fn call(target: usize) -> NewCall {
    test_kit::call(&id(target), "echo")
}

/// The same, to be run once and no more.
fn once(target: usize) -> NewCall {
    NewCall { effect: Some(Effect::Once), ..call(target) }
}

/// An entry of a kind that has no meaning yet.
fn of_unknown_kind(author: &mut Author, kind: u16, critical: bool) -> SignedEntry {
    author.entry(Kind(kind), b"\x02something new".to_vec(), |entry| entry.critical = critical)
}
