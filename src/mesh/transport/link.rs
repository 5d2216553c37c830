//! One link: a connection that both ends took as theirs, and the frames that wait to be written to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use mesh_core::frame::{Channel, Frame};
use mesh_core::ids::{PeerId, PublicKey};
use quinn::{RecvStream, SendStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::address::{Address, canonical};
use super::quic::Code;
use super::stream::{self, ServiceId, ServiceIo, ServicePeer};
use super::underlay::UnderlayKind;
use super::wire;

/// Frames, and bytes of them, that may wait for one peer: more than any burst of a healthy mesh. Beyond, the link
/// closes.
const QUEUE_FRAMES: usize = 4096;
const QUEUE_BYTES: usize = 8 * 1024 * 1024;

/// State of one link, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkInfo {
    /// The peer at the other end.
    pub peer: PeerId,
    /// Its address.
    pub address: Address,
    /// All that carries its packets.
    pub underlay: UnderlayKind,
    /// Round trip as QUIC measures it, microseconds.
    pub rtt_us: u64,
    /// True if we dialled.
    pub dialled: bool,
    /// The peers by which it travels, the one in use first; none if it is direct.
    pub relays: Vec<PeerId>,
}

/// How a peer is linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Linked {
    /// Not at all.
    #[default]
    No,
    /// By a third, until a direct link can be had.
    ByRelay,
    /// Over the tailnet, until one from machine to machine can be had.
    ByTailnet,
    /// As well as can be.
    Directly,
}

/// A connection that was dialled.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) connection: quinn::Connection,
    /// Proven by the handshake.
    pub(super) key: PublicKey,
    pub(super) address: Address,
    pub(super) underlay: UnderlayKind,
}

/// A connection that could be the link to its peer.
#[derive(Debug)]
pub(super) struct NewLink {
    pub(super) key: PublicKey,
    pub(super) connection: quinn::Connection,
    pub(super) underlay: UnderlayKind,
    pub(super) dialled: bool,
    /// The other process's nonce.
    pub(super) nonce: u64,
    /// The dialler says that it has lost the address of the link there is.
    pub(super) moved: bool,
}

impl NewLink {
    /// All that the link would be worth beside another of its pair.
    pub(super) fn worth(&self) -> UnderlayKind {
        self.underlay.towards(self.connection.remote_address())
    }
}

/// Frames on their way out.
pub(super) type Outbox = mpsc::Receiver<Bytes>;

/// A link.
#[derive(Debug)]
pub(super) struct Link {
    /// Its number here; a newer link has a higher one.
    pub(super) number: u64,
    pub(super) peer: PeerId,
    pub(super) key: PublicKey,
    pub(super) connection: quinn::Connection,
    pub(super) underlay: UnderlayKind,
    /// True if we dialled.
    pub(super) dialled: bool,
    pub(super) nonce: u64,
    /// True if it took the place of a link whose address had gone.
    pub(super) moved: bool,
    pub(super) since: Instant,
    /// Set when it is about to be closed because its peer was revoked.
    pub(super) dismissed: AtomicBool,
    outbox: mpsc::Sender<Bytes>,
    queued: AtomicUsize,
}

impl Link {
    pub(super) fn new(number: u64, new: NewLink) -> (Arc<Self>, Outbox) {
        let (outbox, rx) = mpsc::channel(QUEUE_FRAMES);
        let link = Self {
            number,
            peer: new.key.peer_id(),
            key: new.key,
            connection: new.connection,
            underlay: new.underlay,
            dialled: new.dialled,
            nonce: new.nonce,
            moved: new.moved,
            since: Instant::now(),
            dismissed: AtomicBool::new(false),
            outbox,
            queued: AtomicUsize::new(0),
        };
        (Arc::new(link), rx)
    }

    /// See [`super::Links::send`].
    pub(super) fn send(&self, frame: &Frame) -> bool {
        let bytes = match wire::encode_frame(frame) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!(peer = %self.peer, %error, "a frame of our own cannot be sent");
                return false;
            }
        };
        if frame.channel() == Channel::Datagram && bytes.len() <= wire::DATAGRAM_BYTES_MAX {
            match self.connection.send_datagram(bytes.clone()) {
                Ok(()) => return true,
                Err(quinn::SendDatagramError::ConnectionLost(_)) => return false,
                // Too large for this path just now: the stream takes it.
                Err(_) => {}
            }
        }
        let len = bytes.len();
        let before = self.queued.fetch_add(len, Ordering::Relaxed);
        if before + len > QUEUE_BYTES || self.outbox.try_send(bytes).is_err() {
            tracing::debug!(peer = %self.peer, "too much waits for this peer: closing the link");
            Code::Overload.close(&self.connection);
            return false;
        }
        true
    }

    /// All that the link is worth beside another of its pair.
    pub(super) fn worth(&self) -> UnderlayKind {
        self.underlay.towards(self.connection.remote_address())
    }

    /// The address of the other end.
    pub(super) fn address(&self) -> Address {
        let socket = canonical(self.connection.remote_address());
        match self.underlay {
            UnderlayKind::Udp => Address::Udp(socket),
            UnderlayKind::Tailnet | UnderlayKind::TailnetEmbedded => Address::Tailnet(socket),
            // It has none: what QUIC sees there is made up.
            UnderlayKind::Relay => Address::Unknown("relayed".to_owned()),
        }
    }

    pub(super) fn service_io(&self, service: ServiceId, send: SendStream, recv: RecvStream) -> ServiceIo {
        ServiceIo { service, peer: ServicePeer { peer: self.peer, key: self.key, address: self.address() }, send, recv }
    }

    pub(super) fn info(&self) -> LinkInfo {
        LinkInfo {
            peer: self.peer,
            address: self.address(),
            underlay: self.worth(),
            rtt_us: u64::try_from(self.connection.rtt().as_micros()).unwrap_or(u64::MAX),
            dialled: self.dialled,
            relays: Vec::new(),
        }
    }

    /// Writes a frame of the outbox.
    pub(super) async fn put(&self, send: &mut SendStream, bytes: Bytes) -> bool {
        let len = bytes.len();
        let written = stream::write_message(send, bytes).await.is_ok();
        self.queued.fetch_sub(len, Ordering::Relaxed);
        written
    }
}
