//! Effects of the admission, for the driver to carry out in their order.

use std::collections::BTreeMap;

use mesh_core::ids::{MeshId, NodeId, PeerId};
use mesh_core::io::{Command, Welcome};
use mesh_core::tailnet::Untagged;
use tokio::sync::{mpsc, oneshot};

use super::conversation::Ask;
use crate::mesh::error::MeshError;
use crate::mesh::events::EventKind;
use crate::mesh::joining::{Invite, Joined};
use crate::mesh::transport::{Address, JoinAnswer};

/// The way back to a door that asked for something.
pub(in crate::mesh) type DoorReply<T> = oneshot::Sender<Result<T, MeshError>>;

/// One thing to do.
#[derive(Debug)]
pub(in crate::mesh) enum Effect {
    /// Runs a command of the core. Its reply belongs to this errand.
    Command(Command, Errand),
    /// Tells the core for whom a tag does not count now.
    Untagged(BTreeMap<PeerId, Untagged>),
    /// Starts a conversation with a peer of another mesh.
    Ask(Box<Ask>),
    /// Gives the others time to receive our leave, then reports under this number that they had the time.
    Farewell(u64),
    /// Replaces our mesh, then reports that this is done.
    Switch(Destination),
    /// Sends an answer to a newcomer.
    AnswerNewcomer(mpsc::Sender<JoinAnswer>, JoinAnswer),
    /// Answers a door.
    AnswerDoor(DoorAnswer),
    /// Notes where a peer may be reached, before what is known already.
    NoteAddresses(PeerId, Vec<Address>),
    /// Publishes the surroundings, which have changed.
    PublishSurroundings,
    /// Tells clients of an event.
    Tell(EventKind),
}

/// The mesh that replaces ours.
#[derive(Debug)]
pub(in crate::mesh) enum Destination {
    /// The one that welcomes us; it must be this one, if we know which.
    Joined(Box<Welcome>, Option<MeshId>),
    /// A new one of our own.
    Founded,
}

/// The reason for which a command was run: what its reply is for.
#[derive(Debug)]
pub(in crate::mesh) enum Errand {
    /// A newcomer with an invite, or one that is a member already, gets its welcome.
    Welcome(mpsc::Sender<JoinAnswer>),
    /// A person approved this device.
    Approve(PeerId, DoorReply<NodeId>),
    /// Its tag lets this device in.
    Tag(PeerId),
    /// A person rejected a device that awaits re-approval.
    Reject(DoorReply<()>),
    /// A person wants this invite.
    Invite(Box<Invite>, DoorReply<Invite>),
    /// We leave.
    Leave,
}

/// An answer to a door.
#[derive(Debug)]
pub(in crate::mesh) enum DoorAnswer {
    /// To a join.
    Joined(DoorReply<Joined>, Result<Joined, MeshError>),
    /// To an approval: the name that the device got.
    Approved(DoorReply<NodeId>, Result<NodeId, MeshError>),
    /// To a request for an invite.
    Invited(DoorReply<Invite>, Result<Invite, MeshError>),
    /// To a rejection or a leave.
    Done(DoorReply<()>, Result<(), MeshError>),
}

impl DoorAnswer {
    /// Sends it. A door that went away does not matter.
    pub(in crate::mesh) fn send(self) {
        match self {
            Self::Joined(door, answer) => drop(door.send(answer)),
            Self::Approved(door, answer) => drop(door.send(answer)),
            Self::Invited(door, answer) => drop(door.send(answer)),
            Self::Done(door, answer) => drop(door.send(answer)),
        }
    }
}
