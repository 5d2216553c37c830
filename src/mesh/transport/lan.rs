//! Finds peers on the local network: a libp2p swarm of mDNS and identify whose only output is who shows which name at
//! which addresses. It runs beside the links, on a TCP port of its own, and nothing that it says is trusted: the links
//! prove the key of whoever is then dialled, or not.

use mesh_core::ids::{NodeId, PeerId};
use tokio::sync::mpsc;

use super::address::Address;
use crate::tasks::TaskGroup;

/// Settings of LAN discovery, among them everything that this peer shows.
#[derive(Clone)]
pub struct LanConfig {
    /// Seed of the device key: the same identity as on the links.
    pub seed: [u8; 32],
    /// Name to show.
    pub name: NodeId,
    /// Port of the QUIC endpoint.
    pub quic_port: u16,
    /// Owner of the task; it ends when the group stops.
    pub tasks: TaskGroup,
}

impl std::fmt::Debug for LanConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LanConfig")
            .field("name", &self.name)
            .field("quic_port", &self.quic_port)
            .finish_non_exhaustive()
    }
}

/// An event of LAN discovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LanEvent {
    /// A peer is near; or it has another name or other addresses now.
    Discovered {
        /// Its identity, as it showed it here.
        peer: PeerId,
        /// The name that it shows, made fit to be a name.
        name: String,
        /// Addresses at which its QUIC endpoint should be; 1 to 16.
        addresses: Vec<Address>,
    },
    /// Nothing came from it for minutes.
    Gone(PeerId),
    /// Discovery does not work just now, and why. It goes on trying; the mesh does not need it.
    Trouble(String),
    /// The trouble is over.
    Working,
}

/// Starts to look around and to be seen. `events` may be small: the search waits while it is full.
#[cfg(feature = "lan")]
pub fn start(config: LanConfig, events: mpsc::Sender<LanEvent>) {
    let tasks = config.tasks.clone();
    tasks.spawn(swarm::run(config, events));
}

/// Tells that this program cannot look around.
#[cfg(not(feature = "lan"))]
#[expect(clippy::needless_pass_by_value, reason = "the same face as with the feature")]
pub fn start(config: LanConfig, events: mpsc::Sender<LanEvent>) {
    config.tasks.spawn(async move {
        let _ = events.send(LanEvent::Trouble("built without lan".to_owned())).await;
    });
}

#[cfg(feature = "lan")]
mod swarm {
    use std::collections::{BTreeMap, BTreeSet};
    use std::error::Error;
    use std::io;
    use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
    use std::num::NonZeroUsize;
    use std::time::Duration;

    use futures_util::StreamExt as _;
    use libp2p::connection_limits::{self, ConnectionLimits};
    use libp2p::multiaddr::Protocol;
    use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
    use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
    use libp2p::{Multiaddr, PeerId as LibPeerId, Swarm, SwarmBuilder, identify, identity, mdns, noise, tcp, yamux};
    use mesh_core::ids::{NodeId, PeerId, PublicKey};
    use tokio::sync::mpsc;
    use tokio::time::{MissedTickBehavior, interval, sleep};

    use super::{Address, LanConfig, LanEvent};

    /// Between questions to the network, beyond the few that libp2p asks in the first seconds.
    const QUERY: Duration = Duration::from_mins(1);
    /// Lifetime of our announcement at others.
    const TTL: Duration = Duration::from_mins(3);
    /// Connections only serve to exchange names.
    const IDLE: Duration = Duration::from_secs(5);
    /// Between looks at whom to ask (again) for its name.
    const TICK: Duration = Duration::from_secs(2);
    /// Ticks between checks whether multicast works.
    const PROBE_TICKS: u32 = 15;
    /// Dials without an answer until new addresses come.
    const TRIES: u32 = 5;
    /// Peers and addresses of each that are kept: anyone on the network can make them up.
    const PEERS_MAX: usize = 256;
    const ADDRESSES_MAX: usize = 16;
    /// Longest text that a peer shows about itself, in bytes.
    const AGENT_BYTES_MAX: usize = 200;
    /// First and longest pause before a new start after a failure.
    const RESTART_MIN: Duration = Duration::from_secs(1);
    const RESTART_MAX: Duration = Duration::from_mins(1);

    #[derive(NetworkBehaviour)]
    struct Behaviour {
        limits: connection_limits::Behaviour,
        mdns: mdns::tokio::Behaviour,
        identify: identify::Behaviour,
    }

    /// Runs until the group stops; starts anew after a failure.
    pub(super) async fn run(config: LanConfig, events: mpsc::Sender<LanEvent>) {
        let stop = config.tasks.stopping();
        let search = async {
            let mut pause = RESTART_MIN;
            loop {
                let mut lan = Lan { events: &events, near: BTreeMap::new(), trouble: None };
                let why = match swarm(&config) {
                    Ok(swarm) => match lan.run(swarm).await {
                        Ok(()) => return,
                        Err(error) => error.to_string(),
                    },
                    Err(error) => error.to_string(),
                };
                if lan.tell(LanEvent::Trouble(why)).await.is_err() {
                    return;
                }
                sleep(pause).await;
                pause = (pause * 2).min(RESTART_MAX);
            }
        };
        stop.run_until_cancelled(Box::pin(search)).await;
    }

    fn swarm(config: &LanConfig) -> Result<Swarm<Behaviour>, Box<dyn Error + Send + Sync>> {
        let keypair = identity::Keypair::ed25519_from_bytes(config.seed)?;
        let agent = format!("sigil/{} quic={} name={}", env!("CARGO_PKG_VERSION"), config.quic_port, config.name);
        let limits = ConnectionLimits::default()
            .with_max_pending_incoming(Some(16))
            .with_max_pending_outgoing(Some(32))
            .with_max_established_incoming(Some(64))
            .with_max_established_outgoing(Some(64))
            .with_max_established_per_peer(Some(2));
        let mut swarm = SwarmBuilder::with_existing_identity(keypair)
            .with_tokio()
            .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)?
            .with_behaviour(|key| {
                let mdns = mdns::Config { ttl: TTL, query_interval: QUERY, enable_ipv6: false };
                let identify = identify::Config::new("/sigil/lan/1".to_owned(), key.public())
                    .with_agent_version(agent)
                    .with_cache_size(0);
                Ok(Behaviour {
                    limits: connection_limits::Behaviour::new(limits),
                    mdns: mdns::tokio::Behaviour::new(mdns, key.public().to_peer_id())?,
                    identify: identify::Behaviour::new(identify),
                })
            })?
            .with_swarm_config(|swarm| {
                swarm
                    .with_idle_connection_timeout(IDLE)
                    .with_notify_handler_buffer_size(NonZeroUsize::MIN)
                    .with_per_connection_event_buffer_size(8)
            })
            .build();
        swarm.listen_on(Multiaddr::empty().with(Protocol::Ip4(Ipv4Addr::UNSPECIFIED)).with(Protocol::Tcp(0)))?;
        // A machine without IPv6 does without.
        let v6 = Multiaddr::empty().with(Protocol::Ip6(std::net::Ipv6Addr::UNSPECIFIED)).with(Protocol::Tcp(0));
        let _ = swarm.listen_on(v6);
        Ok(swarm)
    }

    struct Lan<'a> {
        events: &'a mpsc::Sender<LanEvent>,
        near: BTreeMap<LibPeerId, Near>,
        trouble: Option<String>,
    }

    /// Someone near.
    #[derive(Default)]
    struct Near {
        /// From mDNS.
        addresses: BTreeSet<Multiaddr>,
        /// From identify, over an encrypted connection.
        said: Option<Said>,
        /// Dials since a new address came; [`TRIES`] = enough.
        tries: u32,
        /// The last event that was sent of it.
        told: Option<LanEvent>,
    }

    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Said {
        peer: PeerId,
        quic_port: u16,
        name: NodeId,
    }

    /// Nobody listens to our events any more.
    struct Undelivered;

    impl Lan<'_> {
        /// `Ok` when nobody listens any more.
        async fn run(&mut self, mut swarm: Swarm<Behaviour>) -> Result<(), io::Error> {
            let mut tick = interval(TICK);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut ticks = 0_u32;
            loop {
                let told = tokio::select! {
                    _ = tick.tick() => {
                        self.ask(&mut swarm);
                        ticks = ticks.wrapping_add(1);
                        if ticks % PROBE_TICKS == 1 { self.probe().await } else { Ok(()) }
                    }
                    event = swarm.select_next_some() => {
                        if let SwarmEvent::ListenerClosed { reason: Err(error), .. } = event {
                            return Err(error);
                        }
                        self.on_event(&mut swarm, event).await
                    }
                };
                if let Err(Undelivered) = told {
                    return Ok(());
                }
            }
        }

        async fn tell(&self, event: LanEvent) -> Result<(), Undelivered> {
            self.events.send(event).await.map_err(|_| Undelivered)
        }

        async fn on_event(
            &mut self,
            swarm: &mut Swarm<Behaviour>,
            event: SwarmEvent<BehaviourEvent>,
        ) -> Result<(), Undelivered> {
            // Dials that fail, connections that come and go: the next tick looks again.
            let SwarmEvent::Behaviour(event) = event else { return Ok(()) };
            match event {
                BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                    let me = *swarm.local_peer_id();
                    for (peer, address) in found {
                        if peer != me {
                            self.on_found(peer, address);
                        }
                    }
                    self.ask(swarm);
                    self.tell_new().await
                }
                BehaviourEvent::Mdns(mdns::Event::Expired(expired)) => {
                    for (peer, address) in expired {
                        self.on_expired(peer, &address).await?;
                    }
                    self.tell_new().await
                }
                BehaviourEvent::Identify(event) => {
                    if let identify::Event::Received { peer_id, info, .. } = event {
                        self.on_said(peer_id, said(info.public_key, &info.agent_version));
                    }
                    self.tell_new().await
                }
                BehaviourEvent::Limits(never) => match never {},
            }
        }

        fn on_found(&mut self, peer: LibPeerId, address: Multiaddr) {
            if self.near.len() >= PEERS_MAX && !self.near.contains_key(&peer) {
                return;
            }
            let near = self.near.entry(peer).or_default();
            if near.addresses.len() < ADDRESSES_MAX && near.addresses.insert(address) {
                near.tries = 0;
            }
        }

        async fn on_expired(&mut self, peer: LibPeerId, address: &Multiaddr) -> Result<(), Undelivered> {
            let Some(near) = self.near.get_mut(&peer) else { return Ok(()) };
            near.addresses.remove(address);
            if !near.addresses.is_empty() {
                return Ok(());
            }
            match self.near.remove(&peer) {
                Some(Near { said: Some(said), told: Some(_), .. }) => self.tell(LanEvent::Gone(said.peer)).await,
                Some(_) | None => Ok(()),
            }
        }

        fn on_said(&mut self, peer: LibPeerId, said: Option<Said>) {
            if self.near.len() >= PEERS_MAX && !self.near.contains_key(&peer) {
                return;
            }
            let near = self.near.entry(peer).or_default();
            near.tries = TRIES;
            near.said = said;
        }

        /// Connects to those who have not said yet who they are at their present addresses.
        fn ask(&mut self, swarm: &mut Swarm<Behaviour>) {
            for (peer, near) in &mut self.near {
                if near.tries < TRIES && !near.addresses.is_empty() {
                    near.tries += 1;
                    let dial = DialOpts::peer_id(*peer)
                        .condition(PeerCondition::DisconnectedAndNotDialing)
                        .addresses(near.addresses.iter().cloned().collect())
                        .build();
                    // Connected or dialling already: then it will say so.
                    let _ = swarm.dial(dial);
                }
            }
        }

        async fn tell_new(&mut self) -> Result<(), Undelivered> {
            let mut events = Vec::new();
            for near in self.near.values_mut() {
                let event = near.event();
                if event.is_some() && near.told != event {
                    near.told.clone_from(&event);
                    events.extend(event);
                }
            }
            for event in events {
                self.tell(event).await?;
            }
            Ok(())
        }

        async fn probe(&mut self) -> Result<(), Undelivered> {
            let trouble = multicast()
                .err()
                .map(|error| format!("this network carries no multicast, so devices nearby cannot be seen ({error})"));
            if trouble == self.trouble {
                return Ok(());
            }
            self.trouble.clone_from(&trouble);
            self.tell(trouble.map_or(LanEvent::Working, LanEvent::Trouble)).await
        }
    }

    impl Near {
        /// The event of its present state: none before mDNS *and* the peer itself have spoken, so that no one from
        /// outside the network appears as near.
        fn event(&self) -> Option<LanEvent> {
            let said = self.said.as_ref()?;
            let ips: BTreeSet<IpAddr> = self.addresses.iter().filter_map(ip).collect();
            let addresses: Vec<Address> =
                ips.into_iter().map(|ip| SocketAddr::from((ip, said.quic_port)).into()).collect();
            (!addresses.is_empty()).then(|| LanEvent::Discovered {
                peer: said.peer,
                name: said.name.to_string(),
                addresses,
            })
        }
    }

    fn ip(address: &Multiaddr) -> Option<IpAddr> {
        match address.iter().next() {
            Some(Protocol::Ip4(ip)) if !ip.is_unspecified() && !ip.is_multicast() => Some(ip.into()),
            // Link-local ones would need the interface they are on.
            Some(Protocol::Ip6(ip)) if !ip.is_unspecified() && !ip.is_multicast() && !ip.is_unicast_link_local() => {
                Some(ip.into())
            }
            _ => None,
        }
    }

    /// Reads `sigil/0.1.0 quic=7433 name=laptop`. `None` for other programs, and for nonsense.
    fn said(key: identity::PublicKey, agent: &str) -> Option<Said> {
        let key = PublicKey(key.try_into_ed25519().ok()?.to_bytes());
        if agent.len() > AGENT_BYTES_MAX || !agent.starts_with("sigil/") {
            return None;
        }
        let word = |name: &str| agent.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        Some(Said {
            peer: key.peer_id(),
            quic_port: word("quic")?.parse().ok().filter(|port| *port != 0)?,
            name: NodeId::slug(word("name").unwrap_or_default()),
        })
    }

    /// Tries to send an empty question to mDNS: libp2p only logs when that fails.
    fn multicast() -> io::Result<()> {
        const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_nonblocking(true)?;
        socket.join_multicast_v4(&GROUP, &Ipv4Addr::UNSPECIFIED)?;
        // A DNS header that asks nothing.
        socket.send_to(&[0; 12], (GROUP, 5353)).map(|_| ())
    }

    #[cfg(test)]
    mod tests {
        use proptest::prelude::*;

        use super::*;

        fn key() -> identity::PublicKey {
            identity::Keypair::ed25519_from_bytes([7; 32]).unwrap().public()
        }

        #[test]
        fn the_identity_is_that_of_the_links() {
            let pair = ring::signature::Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
            let expected =
                PublicKey::from_slice(ring::signature::KeyPair::public_key(&pair).as_ref()).unwrap().peer_id();
            let said = said(key(), "sigil/0.1.0 quic=7433 name=laptop").unwrap();
            assert_eq!((said.peer, said.quic_port, said.name.as_str()), (expected, 7433, "laptop"));
        }

        #[test]
        fn other_programs_and_nonsense_are_not_peers() {
            let long = format!("sigil/1 quic=1 name={}", "a".repeat(300));
            for agent in ["rust-libp2p/0.57", "sigil/1", "sigil/1 quic=0 name=a", "sigil/1 quic=99999 name=a", &long] {
                assert_eq!(said(key(), agent), None, "{agent}");
            }
            assert_eq!(said(key(), "sigil/1 quic=1 name=\u{1b}[31mX").unwrap().name.as_str(), "31mx");
        }

        #[test]
        fn nobody_is_near_before_mdns_and_the_peer_have_both_spoken() {
            let mut near = Near { said: said(key(), "sigil/1 quic=7433 name=a"), ..Near::default() };
            assert_eq!(near.event(), None);
            near.addresses.insert("/ip4/192.168.1.9/tcp/4001".parse().unwrap());
            near.addresses.insert("/dns4/example.org/tcp/4001".parse().unwrap());
            let Some(LanEvent::Discovered { addresses, .. }) = near.event() else { panic!("{:?}", near.event()) };
            assert_eq!(addresses, [Address::from("192.168.1.9:7433")]);
        }

        proptest! {
            #[test]
            fn no_agent_text_panics(agent in ".*") {
                if let Some(said) = said(key(), &agent) {
                    prop_assert!(said.name.as_str().parse::<NodeId>().is_ok());
                }
            }
        }
    }
}
