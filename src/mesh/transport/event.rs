//! Events of the links, for the mesh.

use mesh_core::frame::Frame;
use mesh_core::ids::PeerId;
use mesh_core::relay::Via;
use mesh_core::tailnet::Netmap;
use tokio::sync::OwnedSemaphorePermit;

use super::join_messages::JoinAttempt;
use super::stream::{ServiceId, ServiceIo};

/// The places of a frame in the queue of all links, by its size: one link has so many, so that its frames do not keep out
/// another's, and so have all links to those who are no owners. They are free again when this is dropped.
#[derive(Debug)]
pub struct Turn {
    #[expect(dead_code, reason = "held until the frame was looked at")]
    pub(super) places: OwnedSemaphorePermit,
    /// Places among those of all guests; none if an owner sent it.
    pub(super) of_guests: Option<OwnedSemaphorePermit>,
}

impl Turn {
    /// One that takes no place of anybody.
    #[cfg(test)]
    pub(crate) fn for_test(guest: bool) -> Self {
        let place = || {
            let places = std::sync::Arc::new(tokio::sync::Semaphore::new(1));
            places.try_acquire_owned().expect("it is free")
        };
        Self { places: place(), of_guests: guest.then(place) }
    }

    /// True unless an owner sent the frame.
    #[must_use]
    pub const fn is_of_guest(&self) -> bool {
        self.of_guests.is_some()
    }
}

/// An event of the links. Those of one peer come in their order.
#[derive(Debug)]
pub enum LinkEvent {
    /// A link is up; or a newer one took the place of the one there was, and what was under way on that may be lost.
    /// With the number that the other process drew at its start.
    Up(PeerId, u64, Via),
    /// The link is gone.
    Down(PeerId),
    /// A linked peer sent this; every signature in it has been checked. One with many entries comes in parts.
    Frame(PeerId, Frame, Turn),
    /// An address of this machine has come or gone: [`super::Links::local_addresses`] says otherwise now.
    Network,
    /// The tailnet of this machine is another than before.
    Tailnet(Netmap),
    /// Someone asks to join.
    JoinAttempt(JoinAttempt),
    /// A linked peer opened a stream to a service that is offered here.
    Stream {
        /// The peer.
        peer: PeerId,
        /// The service.
        service: ServiceId,
        /// The stream.
        io: ServiceIo,
    },
    /// A linked peer broke the protocol. For counters; the link is closed when it goes on.
    Bad {
        /// The peer.
        peer: PeerId,
        /// The mistake.
        what: String,
    },
}
