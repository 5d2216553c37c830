//! Audiences: who may read the body of an entry (`docs/protocol.md`, Audiences).
//!
//! An author signs the class; whoever sends an entry judges by it, with the membership of that moment
//! (`Trust::may_read`). So who comes into an audience later gets the bodies then, and who leaves it gets no new ones.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::PeerId;

/// Most devices that an audience names besides the two ends of a call.
pub const APPROVERS_MAX: usize = 8;

/// Class of peers that may read the body of an entry, besides its author.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Parts", into = "Parts")]
pub enum Audience {
    /// Every member.
    Everyone,
    /// Owners, and the two ends of a call.
    Call {
        /// The peer that accepted the call.
        origin: PeerId,
        /// The one peer that may run it.
        target: PeerId,
    },
    /// Owners, the two ends of a call, and devices at which somebody may say yes to it.
    Asked {
        /// The peer that accepted the call.
        origin: PeerId,
        /// The one peer that may run it.
        target: PeerId,
        /// Those devices as the origin knew them, owners left out: 1 to [`APPROVERS_MAX`].
        approvers: Arc<[PeerId]>,
    },
    /// Owners alone.
    Owners,
    /// A class that only a newer version knows. Until it is understood, owners alone are sent the body.
    Unknown(u16),
}

impl Audience {
    /// The audience of a call between these two, that somebody at one of `approvers` may have to say yes to.
    #[must_use]
    pub fn of_call(origin: PeerId, target: PeerId, approvers: &[PeerId]) -> Self {
        match approvers.get(..approvers.len().min(APPROVERS_MAX)) {
            None | Some([]) => Self::Call { origin, target },
            Some(approvers) => Self::Asked { origin, target, approvers: approvers.into() },
        }
    }

    /// The two ends of the call that an entry is about, origin first.
    #[must_use]
    pub fn ends(&self) -> Option<(PeerId, PeerId)> {
        match self {
            Self::Call { origin, target } | Self::Asked { origin, target, .. } => Some((*origin, *target)),
            Self::Everyone | Self::Owners | Self::Unknown(_) => None,
        }
    }

    /// True if a member that is no owner belongs to it by what it says itself.
    #[must_use]
    pub fn names(&self, peer: &PeerId) -> bool {
        match self {
            Self::Everyone => true,
            Self::Call { origin, target } => origin == peer || target == peer,
            Self::Asked { origin, target, approvers } => origin == peer || target == peer || approvers.contains(peer),
            Self::Owners | Self::Unknown(_) => false,
        }
    }

    /// True if an entry about a call between these two may have it.
    #[must_use]
    pub fn is_of_call(&self, of: &PeerId, to: &PeerId) -> bool {
        match self {
            Self::Everyone | Self::Owners => false,
            Self::Call { origin, target } | Self::Asked { origin, target, .. } => origin == of && target == to,
            Self::Unknown(_) => true,
        }
    }
}

const EVERYONE: u16 = 0;
const CALL: u16 = 1;
const ASKED: u16 = 2;
const OWNERS: u16 = 3;

/// The signed form: numbers of classes are for ever.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Parts {
    class: u16,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    peers: Vec<PeerId>,
}

impl From<Parts> for Audience {
    fn from(Parts { class, peers }: Parts) -> Self {
        match (class, peers.as_slice()) {
            (EVERYONE, []) => Self::Everyone,
            (OWNERS, []) => Self::Owners,
            (CALL, [origin, target]) => Self::Call { origin: *origin, target: *target },
            (ASKED, [origin, target, approvers @ ..]) if (1..=APPROVERS_MAX).contains(&approvers.len()) => {
                Self::Asked { origin: *origin, target: *target, approvers: approvers.into() }
            }
            _ => Self::Unknown(class),
        }
    }
}

impl From<Audience> for Parts {
    fn from(audience: Audience) -> Self {
        match audience {
            Audience::Everyone => Self { class: EVERYONE, peers: Vec::new() },
            Audience::Owners => Self { class: OWNERS, peers: Vec::new() },
            Audience::Call { origin, target } => Self { class: CALL, peers: vec![origin, target] },
            Audience::Asked { origin, target, approvers } => {
                Self { class: ASKED, peers: [origin, target].into_iter().chain(approvers.iter().copied()).collect() }
            }
            Audience::Unknown(class) => Self { class, peers: Vec::new() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{decode, encode};

    #[test]
    fn a_class_of_a_newer_version_is_for_owners_until_it_is_understood() {
        let peer = PeerId([7; 32]);
        let call = Audience::Call { origin: peer, target: PeerId([8; 32]) };
        assert_eq!(decode::<Audience>(&encode(&call)), Some(call));
        let asked = Audience::of_call(peer, PeerId([8; 32]), &[PeerId([9; 32])]);
        assert_eq!(decode::<Audience>(&encode(&asked)).as_ref(), Some(&asked));
        assert!(asked.names(&PeerId([9; 32])) && !asked.names(&PeerId([10; 32])));
        assert!(asked.is_of_call(&peer, &PeerId([8; 32])) && !asked.is_of_call(&PeerId([9; 32]), &PeerId([8; 32])));
        assert_eq!(decode::<Audience>(&encode(&Audience::Everyone)), Some(Audience::Everyone));
        assert_eq!(decode::<Audience>(&encode(&Audience::Owners)), Some(Audience::Owners));
        assert!(!Audience::Owners.names(&peer) && !Audience::Owners.is_of_call(&peer, &peer));
        for parts in [
            Parts { class: 7, peers: vec![peer] },
            Parts { class: CALL, peers: vec![peer; 3] },
            Parts { class: ASKED, peers: vec![peer; 2] },
            Parts { class: ASKED, peers: vec![peer; 3 + APPROVERS_MAX] },
            Parts { class: EVERYONE, peers: vec![peer] },
            Parts { class: OWNERS, peers: vec![peer] },
        ] {
            let read: Audience = decode(&encode(&parts)).unwrap();
            assert_eq!(read, Audience::Unknown(parts.class));
            assert!(!read.names(&peer));
        }
    }
}
