//! Joining and inviting, as the name's callers see it.

use mesh_core::ids::{NodeId, PeerId};

use crate::mesh::invite::InviteCode;
use crate::mesh::transport::Address;

/// The device or mesh to join.
#[derive(Debug, Clone)]
pub enum JoinTarget {
    /// The mesh that an invite is for.
    Code(InviteCode),
    /// A device seen on the LAN: by name, or prefix of its peer id; `None` = the only one there is.
    Nearby(Option<String>),
    /// A device at an address.
    Address(Address),
}

/// The result of a join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joined {
    /// We are in, under this name.
    Member(NodeId),
    /// A person over there must approve us; the agent keeps asking.
    Pending {
        /// The device at which that person must do so.
        peer: PeerId,
    },
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
