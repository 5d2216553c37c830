//! The two sockets of multicast DNS, one for each family, on all interfaces that have it.

use std::collections::BTreeSet;
use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::sleep;

use super::record::PACKET_BYTES_MAX;
use crate::mesh::transport::interfaces::{Interface, Interfaces, Usefulness};

const PORT: u16 = 5353;
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
/// Pause after a socket that fails.
const PAUSE: Duration = Duration::from_millis(200);

/// See the module. A family that cannot be had is done without.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    v4: Option<Group>,
    v6: Option<Group>,
}

/// A socket, and the interfaces on which it is in its group.
#[derive(Debug)]
struct Group {
    socket: UdpSocket,
    joined: BTreeSet<u32>,
}

impl Sockets {
    /// Opens what is not open, and joins the groups on every interface that is there now.
    pub(super) fn join(&mut self, own: &Interfaces) -> io::Result<()> {
        let mut trouble = Ok(());
        for (group, domain) in [(&mut self.v4, Domain::IPV4), (&mut self.v6, Domain::IPV6)] {
            let is_meant = |interface: &&Interface| match domain {
                Domain::IPV4 => interface.has_ipv4().is_some(),
                _ => interface.has_link_local_v6(),
            };
            let here: Vec<u32> = usable(own).filter(is_meant).map(|interface| interface.index).collect();
            if here.is_empty() {
                continue;
            }
            if group.is_none() {
                match open(domain) {
                    Ok(socket) => *group = Some(Group { socket, joined: BTreeSet::new() }),
                    Err(error) => trouble = Err(error),
                }
            }
            if let Some(group) = group {
                group.joined.retain(|index| here.contains(index));
                for index in here {
                    // The kernel has a limit, and the best come first.
                    if !group.joined.contains(&index) && join(&group.socket, domain, index).is_ok() {
                        group.joined.insert(index);
                    }
                }
            }
        }
        trouble
    }

    /// Sends to everyone on all interfaces.
    ///
    /// # Errors
    /// It went out on none; the last reason.
    pub(super) async fn send(&self, packet: &[u8], own: &Interfaces) -> io::Result<()> {
        let mut sent = Err(io::Error::new(io::ErrorKind::NetworkUnreachable, "this device is on no network"));
        for interface in usable(own) {
            if let (Some(group), Some(ip)) = (&self.v4, interface.has_ipv4()) {
                let out = match SockRef::from(&group.socket).set_multicast_if_v4(&ip) {
                    Ok(()) => group.socket.send_to(packet, (GROUP_V4, PORT)).await.map(drop),
                    Err(error) => Err(error),
                };
                sent = if sent.is_ok() { sent } else { out };
            }
            if let (Some(group), true) = (&self.v6, interface.has_link_local_v6()) {
                let to = SocketAddrV6::new(GROUP_V6, PORT, 0, interface.index);
                let out = group.socket.send_to(packet, to).await.map(drop);
                sent = if sent.is_ok() { sent } else { out };
            }
        }
        sent
    }

    /// The next packet: its length and where it comes from.
    ///
    /// # Cancel safety
    /// No packet is lost.
    pub(super) async fn receive(&self, buffer: &mut [u8; PACKET_BYTES_MAX]) -> (usize, SocketAddr) {
        loop {
            let (v4, v6) = (ready(self.v4.as_ref()), ready(self.v6.as_ref()));
            let group = tokio::select! { group = v4 => group, group = v6 => group };
            match group.socket.try_recv_from(buffer) {
                Ok(received) => return received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => sleep(PAUSE).await,
            }
        }
    }
}

/// Interfaces that something is connected to.
fn usable(own: &Interfaces) -> impl Iterator<Item = &Interface> {
    own.all.iter().filter(|interface| interface.usefulness != Usefulness::NoCarrier)
}

async fn ready(group: Option<&Group>) -> &Group {
    match group {
        Some(group) => match group.socket.readable().await {
            Ok(()) => group,
            Err(_) => pending().await,
        },
        None => pending().await,
    }
}

/// Opens a socket beside those of other programs, which all share the port.
fn open(domain: Domain) -> io::Result<UdpSocket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    if domain == Domain::IPV4 {
        socket.set_multicast_ttl_v4(255)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
    } else {
        socket.set_only_v6(true)?;
        socket.set_multicast_hops_v6(255)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)).into())?;
    }
    UdpSocket::from_std(socket.into())
}

fn join(socket: &UdpSocket, domain: Domain, index: u32) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if domain == Domain::IPV4 {
        socket.join_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(index))
    } else {
        socket.join_multicast_v6(&GROUP_V6, index)
    }
}
