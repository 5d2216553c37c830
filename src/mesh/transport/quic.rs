//! The QUIC endpoint: its socket, its settings, and the codes with which connections are closed.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::{AckFrequencyConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use quinn_proto::HashedConnectionIdGenerator;
use socket2::{Domain, Protocol, Socket, Type};

use crate::mesh::identity::DeviceKey;

/// Keep-alive and idle timeout of a link. A silent peer shows after at most their sum, 2.4 s.
pub(super) const KEEP_ALIVE: Duration = Duration::from_millis(600);
pub(super) const IDLE: Duration = Duration::from_millis(1800);
/// Unacknowledged bytes that one connection may hold; well above a payload under way, so that it never blocks a small
/// frame.
const SEND_WINDOW: u64 = 16 * 1024 * 1024;
/// Bytes that a connection may send us unread until it has become a link: a request to join fits many times.
const STRANGER_WINDOW: u32 = 64 * 1024;
/// The same for a link, over all its streams.
const LINK_WINDOW: u32 = 16 * 1024 * 1024;
/// Unread bytes of one stream.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// Streams that a linked peer may have open towards us: mesh, node, blobs and joins.
const LINK_STREAMS: u32 = 64;
/// Packets that the other end takes before it acknowledges them, unless [`ACK_DELAY`] passes or one is missing. By
/// default it is every second one, and quinn sends that acknowledgement before it hands on what came: on small frames,
/// which are what a call is made of, a quarter of all datagrams.
const PACKETS_PER_ACK: u32 = 10;
/// Time that the other end may hold an acknowledgement for something of its own to send along. Between two beacons
/// there is nothing, so that it is a waking of its own: soon after, the processor is still awake and its caches are
/// warm, which makes a mesh at rest a fifth cheaper than the usual 25 ms do.
const ACK_DELAY: Duration = Duration::from_millis(3);
/// The largest packet that is tried by a relay: with the 12 bytes before it, it fits into an Ethernet frame.
const RELAYED_MTU: u16 = 1440;
/// Round trip that a new connection by a relay begins with: a lost first packet costs 0.3 s, and not one second
/// (`docs/measurements.md`).
const RELAYED_RTT: Duration = Duration::from_millis(100);
/// Packets over a node of a tailnet in this program, in bytes: no larger one is tried.
const SLOW_MTU: u16 = 1200;
/// All that is sent there at the beginning, in bytes: four packets, since the ring of the node holds three.
const SLOW_WINDOW: u64 = 4 * SLOW_MTU as u64;
/// The largest payload there: the MTU of tailnets, 1280, less the headers of IPv4 and UDP.
const TAILNET_PAYLOAD: u16 = 1252;
/// Unread datagrams, in bytes; older ones give way.
const DATAGRAM_BUFFER: usize = 64 * 1024;

/// Why a connection was closed, as the other end learns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    /// Nothing more to say.
    Done = 0,
    /// The process ends.
    Stopping = 1,
    /// You do not belong to the mesh (any more).
    Revoked = 2,
    /// There is a link already, and it stays.
    Duplicate = 3,
    /// A newer link took this one's place.
    Replaced = 4,
    /// You broke the protocol.
    Protocol = 5,
    /// Too much waits, or too many are here.
    Overload = 6,
    /// It took too long.
    Timeout = 7,
    /// You were let in for the tag of another node of this tailnet than the one that you come from.
    OtherNode = 8,
}

impl Code {
    /// Closes a connection.
    pub(super) fn close(self, connection: &quinn::Connection) {
        connection.close(VarInt::from_u32(self as u32), b"");
    }

    /// True if the other end closed the connection with this.
    pub(super) fn is_why(self, connection: &quinn::Connection) -> bool {
        matches!(
            connection.close_reason(),
            Some(quinn::ConnectionError::ApplicationClosed(close)) if close.error_code == VarInt::from_u32(self as u32)
        )
    }
}

/// The two ends of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// Keeps the connection alive: its pings, and the answers to them, are signs of life both ways.
    Dialled,
    /// Answers. If both pinged, a mesh at rest would send twice as much.
    Accepted,
}

/// Settings of every connection. A new one is a stranger's: one stream, little room. See [`raise_limits`].
pub(super) fn transport(end: End) -> Arc<TransportConfig> {
    Arc::new(settings(end))
}

/// The same for connections by a relay. Packets are 1,200 bytes until larger ones have come through.
pub(super) fn relayed_transport(end: End) -> Arc<TransportConfig> {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(RELAYED_MTU);
    let mut config = settings(end);
    config.initial_rtt(RELAYED_RTT).mtu_discovery_config(Some(discovery));
    Arc::new(config)
}

/// The same for connections over a node of a tailnet in this program: what is larger than [`SLOW_MTU`] does not fit, and of
/// more than a few packets at once the node loses most.
pub(super) fn slow_transport(end: End) -> Arc<TransportConfig> {
    let mut congestion = CubicConfig::default();
    congestion.initial_window(SLOW_WINDOW);
    let mut config = settings(end);
    config
        .initial_rtt(RELAYED_RTT)
        .initial_mtu(SLOW_MTU)
        .min_mtu(SLOW_MTU)
        .mtu_discovery_config(None)
        .enable_segmentation_offload(false)
        .congestion_controller_factory(Arc::new(congestion));
    Arc::new(config)
}

/// Tells the other end that packets over a tailnet fit into its MTU alone.
pub(super) fn fit_into_tailnet(config: &mut EndpointConfig) {
    // Over 1200 and under 65528, as it must be.
    let _ = config.max_udp_payload_size(TAILNET_PAYLOAD);
}

fn settings(end: End) -> TransportConfig {
    let mut acknowledgements = AckFrequencyConfig::default();
    acknowledgements.ack_eliciting_threshold(VarInt::from_u32(PACKETS_PER_ACK)).max_ack_delay(Some(ACK_DELAY));
    let mut config = TransportConfig::default();
    config
        .keep_alive_interval(match end {
            End::Dialled => Some(KEEP_ALIVE),
            End::Accepted => None,
        })
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE.as_millis() as u32))))
        .send_window(SEND_WINDOW)
        .receive_window(VarInt::from_u32(STRANGER_WINDOW))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER))
        .ack_frequency_config(Some(acknowledgements));
    config
}

/// Gives a connection the room of a link.
pub(super) fn raise_limits(connection: &quinn::Connection) {
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(LINK_STREAMS));
    raise_window(connection);
}

/// Takes in as much at a time as from a link: for whoever waits for a welcome.
pub(super) fn raise_window(connection: &quinn::Connection) {
    connection.set_receive_window(VarInt::from_u32(LINK_WINDOW));
}

/// Settings of the endpoint. Both keys outlive the process, so that a restarted peer answers packets of its former
/// connections with a reset, and the others redial within one keep-alive instead of one idle timeout.
///
/// Each underlay has keys of its own, by the word before their labels. No packet is greased (RFC 9287): by its first byte each is told apart from relay frames.
pub(super) fn endpoint_config(key: &DeviceKey, underlay: &str) -> EndpointConfig {
    let derive = |what: &str| key.derive(&format!("{underlay}{what}"));
    let reset_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &derive("quic stateless reset"));
    let cid_key = derive("quic connection ids").into_iter().take(8).fold(0, |key, byte| key << 8 | u64::from(byte));
    let mut config = EndpointConfig::new(Arc::new(reset_key));
    config.grease_quic_bit(false);
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(cid_key)));
    config
}

/// Opens the UDP socket. `[::]` takes IPv4 as well; on a machine without IPv6 it becomes `0.0.0.0`.
pub(super) fn bind(listen: SocketAddr) -> io::Result<UdpSocket> {
    match bind_exactly(listen) {
        Err(error) if listen.is_ipv6() && listen.ip().is_unspecified() && error.kind() != io::ErrorKind::AddrInUse => {
            bind_exactly((Ipv4Addr::UNSPECIFIED, listen.port()).into())
        }
        result => result,
    }
}

/// Opens a UDP socket at one address. Where the system can, packets come in by this interface alone and go out by it, so
/// that nobody on another network can pretend to be at an address of this one.
pub(super) fn bind_to_interface(listen: SocketAddr, interface: Option<&str>) -> io::Result<UdpSocket> {
    let socket = bind_exactly(listen)?;
    #[cfg(target_os = "linux")]
    if let Some(interface) = interface {
        socket2::SockRef::from(&socket).bind_device(Some(interface.as_bytes()))?;
    }
    #[cfg(not(target_os = "linux"))]
    let _ = interface;
    Ok(socket)
}

fn bind_exactly(listen: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
    if listen.is_ipv6() && listen.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    // Room for a burst; the kernel gives what it allows, and less is no reason to fail.
    let _ = socket.set_recv_buffer_size(2 * 1024 * 1024);
    let _ = socket.set_send_buffer_size(2 * 1024 * 1024);
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    Ok(socket.into())
}
