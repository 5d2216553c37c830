//! A socket whose packets are carried by somebody else in this program: that of a node of a tailnet, for QUIC.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::mesh::tailnet::embedded::Packets;

/// See the module.
#[derive(Debug)]
pub(super) struct PacketSocket {
    at: SocketAddr,
    out: mpsc::Sender<(SocketAddr, Bytes)>,
    come: Mutex<mpsc::Receiver<(SocketAddr, Bytes)>>,
}

impl PacketSocket {
    /// The socket at this address, with its packets.
    pub(super) fn new(at: SocketAddr, packets: Packets) -> Arc<Self> {
        let Packets { out, come } = packets;
        Arc::new(Self { at, out, come: Mutex::new(come) })
    }
}

impl AsyncUdpSocket for PacketSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Room { out: self.out.clone(), waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let packet = (transmit.destination, Bytes::copy_from_slice(transmit.contents));
        self.out.try_send(packet).map_err(|error| match error {
            TrySendError::Full(_) => io::ErrorKind::WouldBlock.into(),
            TrySendError::Closed(_) => gone(),
        })
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut come = self.come.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta.iter_mut()) {
            let (addr, packet) = match come.poll_recv(cx) {
                Poll::Ready(Some(packet)) => packet,
                Poll::Ready(None) if count == 0 => return Poll::Ready(Err(gone())),
                Poll::Ready(None) | Poll::Pending => break,
            };
            let len = packet.len().min(buf.len());
            if let (Some(to), Some(from)) = (buf.get_mut(..len), packet.get(..len)) {
                to.copy_from_slice(from);
            }
            *meta = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: Some(self.at.ip()) };
            count += 1;
        }
        if count == 0 { Poll::Pending } else { Poll::Ready(Ok(count)) }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.at)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the node of the tailnet has ended")
}

/// Waits until the socket takes a packet.
struct Room {
    out: mpsc::Sender<(SocketAddr, Bytes)>,
    waiting: Option<Pin<Box<dyn Future<Output = bool> + Send + Sync>>>,
}

impl UdpPoller for Room {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let out = self.out.clone();
        // The place is given back at once: another may take it, and then it is waited for anew.
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(async move { out.reserve_owned().await.is_ok() }));
        let there = ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        Poll::Ready(if there { Ok(()) } else { Err(gone()) })
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").finish_non_exhaustive()
    }
}
