//! Joining and inviting, as the name's callers see it.

use std::time::Duration;

use mesh_core::ids::{Hash, NodeId, PeerId};
use mesh_core::record::{StayTerms, Tier};
use mesh_core::rows::InviteRow;

use crate::mesh::check_words::CheckWords;
use crate::mesh::invite::InviteCode;
use crate::mesh::transport::Address;

/// The device or mesh to join. A code names the device that it is of; by the other ways anyone may answer, so a person
/// has compared its check words first. Without `words` nobody is asked, and the error says whom it would be.
#[derive(Debug, Clone)]
pub enum JoinTarget {
    /// The mesh that an invite is for.
    Code(InviteCode),
    /// A device seen on the LAN.
    Nearby {
        /// By name, or prefix of its peer id; `None` = the only one there is.
        name: Option<String>,
        /// Words that the other device shows.
        words: Option<CheckWords>,
    },
    /// A device at an address.
    Address {
        /// The address.
        address: Address,
        /// Words that the other device shows.
        words: Option<CheckWords>,
    },
}

/// The result of a join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joined {
    /// We are in.
    Member {
        /// The name that we got.
        node_id: NodeId,
        /// Our tier; `None` while we do not belong after all, revoked or awaiting re-approval.
        tier: Option<Tier>,
    },
    /// A person over there must approve us; the agent keeps asking.
    Pending {
        /// The device at which that person must do so.
        peer: PeerId,
    },
}

/// An invite as its maker keeps it. The secret itself is known to nobody but who was given the code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InviteInfo {
    /// Hash of the secret, which names the invite.
    pub secret: Hash,
    /// Tier that it grants.
    pub tier: Tier,
    /// Of the ephemeral one, how long and what for.
    pub stay: Option<StayTerms>,
    /// Name that it gives; `None`: whoever comes with it names itself.
    pub name: Option<NodeId>,
    /// Wall time at which it was made.
    pub created_ms: u64,
    /// Wall time at which it expires.
    pub expires_ms: u64,
    /// Its state of this moment.
    pub state: InviteState,
}

/// State of an invite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InviteState {
    /// It may be used.
    Open,
    /// It has let this device in.
    Used(PeerId),
    /// Nobody used it in time.
    Expired,
    /// It was taken back.
    Void,
}

impl InviteInfo {
    /// The invite of this secret's hash at `now_ms`, wall time.
    pub(super) fn new(secret: Hash, row: &InviteRow, now_ms: u64) -> Self {
        let InviteRow { tier, created_ms, expires_ms, used_by, void, ref name, ref stay } = *row;
        let state = match used_by {
            Some(key) => InviteState::Used(key.peer_id()),
            None if void => InviteState::Void,
            None if expires_ms <= now_ms => InviteState::Expired,
            None => InviteState::Open,
        };
        Self { secret, tier, stay: stay.clone(), name: name.clone(), created_ms, expires_ms, state }
    }

    /// Its short name: 16 characters of the hash.
    #[must_use]
    pub fn id(&self) -> String {
        invite_id(&self.secret)
    }
}

/// The short name of the invite whose secret has this hash.
#[must_use]
pub fn invite_id(secret: &Hash) -> String {
    let head = secret.0.first_chunk::<10>().map_or(&[][..], <[u8; 10]>::as_slice);
    data_encoding::BASE32_NOPAD.encode(head).to_ascii_lowercase()
}

/// What an invite or an approval grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The tier.
    pub tier: Tier,
    /// Of the ephemeral one, how long and what for.
    pub stay: Option<StayTerms>,
}

impl From<Tier> for Grant {
    fn from(tier: Tier) -> Self {
        Self { tier, stay: None }
    }
}

impl From<StayTerms> for Grant {
    fn from(stay: StayTerms) -> Self {
        Self { tier: Tier::Ephemeral, stay: Some(stay) }
    }
}

/// Terms of an invite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InviteTerms {
    /// All that it grants.
    pub(crate) grant: Grant,
    /// Time for which it may be used.
    pub(crate) ttl: Duration,
    /// Name that it gives; `None`: whoever comes with it names itself.
    pub(crate) name: Option<NodeId>,
}

/// An invite, ready to be shown. The code is the secret itself: never log it.
#[derive(Debug, Clone)]
pub struct Invite {
    /// The code.
    pub code: InviteCode,
    /// Wall time.
    pub expires_ms: u64,
    /// Addresses of this device that did not fit into the code, best first.
    pub left_out: Vec<Address>,
}

impl Invite {
    /// What whoever hands the code on should know about its addresses. For people.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.code.addresses.iter().all(Address::is_loopback) {
            warnings.push(
                "this device is on no network now: the code has no address at which another device could find it; \
                 connect it, then make a new code"
                    .to_owned(),
            );
        }
        if !self.left_out.is_empty() {
            let left_out: Vec<String> = self.left_out.iter().map(ToString::to_string).collect();
            warnings.push(format!(
                "{} less useful addresses of this device did not fit into the code: {}; over one of those, use \
                 `sigil join --address` there",
                left_out.len(),
                left_out.join(", ")
            ));
        }
        warnings
    }
}
