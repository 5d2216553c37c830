//! Relaying: how a relay is asked for, how it is kept, and how a connection is made by it (`docs/protocol.md`,
//! Relaying).
//!
//! The end that dials opens a stream of service 4 to the relay and names the other end; the relay opens one of service 3
//! there. Both get a token for each way, and packets travel as relay frames (`mux`) until one of the streams ends. Each
//! stream is also the sign that the relay is there: when it ends, so does the way.
//!
//! With the tokens the relay tells each end where it sees the other, and the two try each other there at once: where
//! their routers allow, a direct link takes the place of the relayed one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use mesh_core::ids::PeerId;
use mesh_core::relay::{Ask, ROUNDS_MS, Refusal, Via, may_be_punched};
use quinn::{RecvStream, SendStream};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::address::canonical;
use super::dial::{self, Unanswered};
use super::dial_plan::Due;
use super::link::{Answered, Link, Linked};
use super::mux::{End, Hop, Token};
use super::quic::Code;
use super::relay_socket::Added;
use super::shared::{LinksState, ToTable, random};
use super::stream::{self, ServiceId, StreamError, Tag};
use super::underlay::UnderlayKind;

/// Relays that carry one link: the second takes over when the first falls silent.
const CARRIERS: usize = 2;
/// Time for a relay to answer, and what of it the relay has to ask the other end.
const OPEN_MAX: Duration = Duration::from_secs(1);
const RING_MAX: Duration = Duration::from_millis(800);
/// Interval at which a relay looks if a pair may go on, and an end if it still needs its relays.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Interval at which is looked if a relayed link has got anything: well below the least doubt.
const PROVE_EVERY: Duration = Duration::from_millis(100);
/// Time for which packets of a connection that is over are still sent.
const FORGET_AFTER: Duration = Duration::from_millis(500);
/// Time for which a relay is kept without a link that it carries: longer than a dial.
const UNUSED_MAX: Duration = Duration::from_secs(10);
/// First byte of the answer when a pair is taken; any other is a [`Refusal`].
const READY: u8 = 0;

/// The tokens of one end.
#[derive(Debug, Clone, Copy)]
struct Tokens {
    /// With what it sends.
    send: Token,
    /// With what it gets.
    receive: Token,
}

impl Tokens {
    fn encode(self) -> [u8; 16] {
        (u128::from(self.send) << 64 | u128::from(self.receive)).to_be_bytes()
    }

    async fn read(recv: &mut RecvStream) -> Result<Self, StreamError> {
        let [send, receive] = [stream::read_array(recv).await?, stream::read_array(recv).await?];
        Ok(Self { send: u64::from_be_bytes(send), receive: u64::from_be_bytes(receive) })
    }
}

/// Address at which a relay sees the other end, as it is told: IPv6 (IPv4 as `::ffff:`), then the port, big endian.
type Seen = [u8; 18];

fn seen(link: &quinn::Connection) -> Seen {
    let socket = canonical(link.remote_address());
    let ip = match socket.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut seen = [0; 18];
    for (to, from) in seen.iter_mut().zip(ip.octets().into_iter().chain(socket.port().to_be_bytes())) {
        *to = from;
    }
    seen
}

async fn read_seen(recv: &mut RecvStream) -> Result<SocketAddr, StreamError> {
    let (ip, port) = (stream::read_array::<16>(recv).await?, stream::read_array::<2>(recv).await?);
    Ok(canonical((Ipv6Addr::from(ip), u16::from_be_bytes(port)).into()))
}

/// What an end is told of a pair: its tokens, and where the other end is seen.
#[derive(Debug, Clone, Copy)]
struct Told {
    tokens: Tokens,
    seen: SocketAddr,
}

impl Told {
    async fn read(recv: &mut RecvStream) -> Result<Self, StreamError> {
        Ok(Self { tokens: Tokens::read(recv).await?, seen: read_seen(recv).await? })
    }
}

// --- the end that dials

/// Connects to a member, directly or, if that takes longer than a step of a race, by a relay where one is named for it.
pub(super) async fn reach(shared: &Arc<LinksState>, due: &Due) -> Result<Answered, Unanswered> {
    let direct = dial::race(shared, &due.addresses, Some(due.peer));
    if !due.by_relay {
        return direct.await;
    }
    let relayed = async {
        sleep(dial::RACE_STEP).await;
        if !ensure(shared, due.peer).await {
            return None;
        }
        by_any(shared, due.peer).await
    };
    let (mut direct, mut relayed) = (pin!(direct), pin!(relayed));
    tokio::select! {
        biased;
        answered = &mut direct => match answered {
            Ok(answered) => Ok(answered),
            Err(unanswered) => relayed.await.ok_or(unanswered),
        },
        answered = &mut relayed => match answered {
            Some(answered) => Ok(answered),
            None => direct.await,
        },
    }
}

/// Connects to a member by the relays that there are for it, each a step later than the one before, and each by itself:
/// one that ruins its own handshake ruins no other's.
async fn by_any(shared: &Arc<LinksState>, peer: PeerId) -> Option<Answered> {
    let state = &shared.relay;
    let mut tried = BTreeSet::new();
    let mut racing: FuturesUnordered<BoxFuture<'_, (PeerId, Option<Answered>)>> = FuturesUnordered::new();
    loop {
        // Another may have come meanwhile.
        let next = state.routes.relays(peer).into_iter().find(|relay| !tried.contains(relay));
        if let Some(relay) = next {
            tried.insert(relay);
            racing.push(Box::pin(async move { (relay, dial::by_relay(shared, peer, relay).await) }));
        }
        tokio::select! {
            biased;
            finished = racing.next() => match finished {
                Some((relay, Some(answered))) => {
                    if !prove(shared, &answered.connection, peer) {
                        Code::Done.close(&answered.connection);
                        return None;
                    }
                    state.penalties(|penalties, _| penalties.forgive(peer, relay));
                    return Some(answered);
                }
                Some((relay, None)) => {
                    // Perhaps nobody is there; but others have their turn.
                    state.penalties(|penalties, now| penalties.note(peer, relay, true, now));
                    state.routes.let_go(peer, relay);
                }
                None => return None,
            },
            () = sleep(dial::RACE_STEP) => {}
        }
    }
}

/// Notes that `peer` has proven its key at the other end of a connection by a relay: it goes by all relays from now on.
/// False if the relay was not opened for that peer.
pub(super) fn prove(shared: &Arc<LinksState>, connection: &quinn::Connection, peer: PeerId) -> bool {
    let address = connection.remote_address();
    if !shared.relay.routes.prove(address, peer) {
        return false;
    }
    let (state, connection) = (shared.clone(), connection.clone());
    shared.tasks.spawn(async move {
        connection.closed().await;
        // Its last word is still under way.
        sleep(FORGET_AFTER).await;
        state.relay.routes.forget(address, peer);
    });
    true
}

/// Makes sure that there is a relay for this peer, two if so many are there. True as soon as there is one.
pub(super) async fn ensure(shared: &Arc<LinksState>, peer: PeerId) -> bool {
    let state = &shared.relay;
    let named = shared.members.borrow().get(&peer).map_or_else(Vec::new, |member| member.relays.clone());
    let present = state.routes.relays(peer);
    let mut chosen = state.penalties(|penalties, now| penalties.choose(peer, &named, now));
    chosen.retain(|relay| !present.contains(relay));
    chosen.truncate(CARRIERS.saturating_sub(present.len()));
    let (tell, mut told) = tokio::sync::mpsc::channel(CARRIERS);
    for relay in chosen {
        if !state.begin_opening(peer, relay) {
            continue;
        }
        let (shared, tell) = (shared.clone(), tell.clone());
        shared.tasks.clone().spawn(async move {
            let opened = open(&shared, peer, relay).await;
            shared.relay.end_opening(peer, relay);
            match opened {
                Ok(carrier) => {
                    // Whoever asked may have stopped waiting.
                    let _ = tell.try_send(());
                    drop(tell);
                    carrier.hold(&shared, true).await;
                }
                Err(why) => {
                    tracing::debug!(peer = %peer.short(), relay = %relay.short(), %why, "no relay");
                    shared.relay.penalties(|penalties, now| penalties.note(peer, relay, why.is_passing(), now));
                }
            }
        });
    }
    drop(tell);
    if present.is_empty() { told.recv().await.is_some() } else { true }
}

/// Asks a relay to carry packets to and from `peer`.
async fn open(shared: &Arc<LinksState>, peer: PeerId, relay: PeerId) -> Result<Carrier, Refusal> {
    let link = shared.live.get(relay).filter(|link| link.underlay == UnderlayKind::Udp).ok_or(Refusal::NotLinked)?;
    let asking = async {
        let (mut send, mut recv) = stream::open(&link.connection, Tag::Service(ServiceId::RELAYING)).await?;
        send.write_all(&peer.0).await.map_err(|_| StreamError::Broken)?;
        let [answer] = stream::read_array(&mut recv).await?;
        if answer != READY {
            return Ok(Err(Refusal::of_code(answer)));
        }
        let told = Told::read(&mut recv).await?;
        Ok::<_, StreamError>(Ok((send, recv, told)))
    };
    // One that says nothing has refused, and one whose link breaks has no link.
    let (send, recv, told) = match timeout(OPEN_MAX, asking).await {
        Ok(Ok(answer)) => answer?,
        Ok(Err(_)) => return Err(Refusal::NotLinked),
        Err(_) => return Err(Refusal::Declined),
    };
    Carrier::begin(shared, link, peer, told, send, recv).ok_or(Refusal::Declined)
}

/// Keeps two relays for each relayed link that we dialled, while there are any to be had, and tells the routes which
/// links have got something that only the other end can have sent.
pub(super) async fn keep(shared: Arc<LinksState>) {
    let keeping = async {
        let mut ticks = interval(PROVE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut proven: BTreeMap<PeerId, (u64, u64)> = BTreeMap::new();
        let mut looked = Instant::now();
        loop {
            // Without a relayed link nobody is woken.
            if !shared.live.all().iter().any(|link| link.underlay == UnderlayKind::Relay) {
                proven.clear();
                shared.relay.lost.notified().await;
            }
            let lost = tokio::select! {
                _ = ticks.tick() => false,
                () = shared.relay.lost.notified() => true,
            };
            let looks = lost || looked.elapsed() >= LOOK_EVERY;
            if looks {
                looked = Instant::now();
            }
            for link in shared.live.all().iter().filter(|link| link.underlay == UnderlayKind::Relay) {
                let now = (link.number, frames_taken(&link.connection));
                if proven.insert(link.peer, now) != Some(now) {
                    shared.relay.routes.note_proven(link.peer);
                }
                if !looks {
                    continue;
                }
                let rtt_ms = u64::try_from(link.connection.rtt().as_millis()).unwrap_or(u64::MAX);
                shared.relay.routes.note_rtt(link.peer, rtt_ms);
                if link.dialled && shared.relay.routes.relays(link.peer).len() < CARRIERS {
                    let (shared, peer) = (shared.clone(), link.peer);
                    shared.tasks.clone().spawn(async move {
                        ensure(&shared, peer).await;
                    });
                }
            }
        }
    };
    shared.drain.closing().run_until_cancelled(keeping).await;
}

/// Frames of the packets that the other end was found to have sealed.
fn frames_taken(connection: &quinn::Connection) -> u64 {
    let frames = connection.stats().frame_rx;
    frames.acks + frames.stream + frames.datagram + frames.ping + frames.crypto
}

// --- a relay of ours

/// A relay in use, at either end.
struct Carrier {
    peer: PeerId,
    link: Arc<Link>,
    receive: Token,
    /// Where the relay sees the other end.
    seen: SocketAddr,
    /// Cancelled when it is no use.
    ended: CancellationToken,
    /// Open for as long as the relay is used.
    send: SendStream,
    recv: RecvStream,
}

impl Carrier {
    /// None if it is no use.
    fn begin(
        shared: &Arc<LinksState>,
        link: Arc<Link>,
        peer: PeerId,
        told: Told,
        send: SendStream,
        recv: RecvStream,
    ) -> Option<Self> {
        let Tokens { send: outward, receive } = told.tokens;
        let (mux, routes) = (&shared.relay.mux, &shared.relay.routes);
        let relay = link.connection.clone();
        let Added { heard, ended } = routes.add(peer, link.peer, relay.clone(), outward)?;
        if !mux.put_end(receive, End { relay, relay_peer: link.peer, peer, inbox: routes.inbox.clone(), heard }) {
            routes.remove(peer, link.peer);
            return None;
        }
        tracing::debug!(peer = %peer.short(), relay = %link.peer.short(), "relayed");
        Some(Self { peer, link, receive, seen: told.seen, ended, send, recv })
    }

    /// Until the relay ends it, or, at the end that asked, until no link needs it.
    async fn hold(mut self, shared: &Arc<LinksState>, asked: bool) {
        let mut ticks = interval(LOOK_EVERY);
        let mut used = Instant::now();
        let (peer, relay) = (self.peer, self.link.peer);
        let mut punching = pin!(punch(shared, peer, self.seen));
        let mut punches = true;
        let why = loop {
            tokio::select! {
                () = &mut punching, if punches => punches = false,
                ended = stream::read_array::<1>(&mut self.recv) => {
                    break Some(ended.map_or(Refusal::NotLinked, |[code]| Refusal::of_code(code)));
                }
                _ = self.link.connection.closed() => break Some(Refusal::NotLinked),
                () = self.ended.cancelled(), if asked => break None,
                _ = ticks.tick() => {
                    let is_used = shared.live.get(peer).is_some_and(|link| link.underlay == UnderlayKind::Relay);
                    if is_used {
                        used = Instant::now();
                    } else if asked && used.elapsed() >= UNUSED_MAX {
                        break None;
                    }
                }
            }
        };
        shared.relay.mux.remove(self.receive);
        shared.relay.routes.remove(peer, relay);
        let _ = self.send.finish();
        if let Some(why) = why {
            tracing::debug!(peer = %peer.short(), relay = %relay.short(), %why, "relayed no more");
            if asked {
                shared.relay.penalties(|penalties, now| penalties.note(peer, relay, why.is_passing(), now));
            }
            shared.relay.lost.notify_one();
        }
    }
}

/// Tries the other end directly where the relay sees it, in rounds that both ends count from the same moment, until there
/// is a direct link or all rounds are over.
async fn punch(shared: &Arc<LinksState>, peer: PeerId, seen: SocketAddr) {
    if !may_be_punched(seen) {
        return;
    }
    let began = Instant::now();
    for round_ms in ROUNDS_MS {
        sleep_until(began + Duration::from_millis(round_ms)).await;
        if shared.live.how(peer) == Linked::Directly || !shared.is_member(peer) || !shared.relay.may_punch(peer) {
            continue;
        }
        let Some(answered) = dial::punch(shared, peer, seen).await else { continue };
        tracing::debug!(peer = %peer.short(), address = %seen, "punched");
        // An error says that the links are at their end.
        let _ = shared.table.send(ToTable::Punched(peer, Box::new(answered))).await;
        return;
    }
}

/// A relay says that `link.peer` is to be reached by it, or is about to reach us: the other half of [`serve_relaying`].
pub(super) async fn serve_relayed(
    shared: &Arc<LinksState>,
    link: &Arc<Link>,
    mut send: SendStream,
    mut recv: RecvStream,
) {
    let reading = async {
        let peer = PeerId(stream::read_array(&mut recv).await?);
        Ok::<_, StreamError>((peer, Told::read(&mut recv).await?))
    };
    let Ok(Ok((peer, told))) = timeout(OPEN_MAX, reading).await else { return };
    let is_direct = link.underlay == UnderlayKind::Udp;
    let refused = if !shared.is_member(peer) || !shared.is_owner(link.peer) || peer == shared.me {
        Some(Refusal::NotMember)
    } else if !is_direct {
        Some(Refusal::OneHop)
    } else if !shared.relay.may_ask(link.peer) {
        Some(Refusal::Busy)
    } else {
        None
    };
    if let Some(why) = refused {
        return refuse(&mut send, why).await;
    }
    let Some(mut carrier) = Carrier::begin(shared, link.clone(), peer, told, send, recv) else { return };
    if carrier.send.write_all(&[READY]).await.is_ok() {
        shared.relay.lost.notify_one();
    }
    carrier.hold(shared, false).await;
}

// --- the relay

/// Relays between the peer of this link and the one that it names, until one of the two ends it.
pub(super) async fn serve_relaying(
    shared: &Arc<LinksState>,
    link: &Arc<Link>,
    mut send: SendStream,
    mut recv: RecvStream,
) {
    let Ok(Ok(peer)) = timeout(OPEN_MAX, stream::read_array(&mut recv)).await else { return };
    let peer = PeerId(peer);
    let refused = match relay(shared, link, peer, &mut send, &mut recv).await {
        Ok(why) | Err(why) => why,
    };
    refuse(&mut send, refused).await;
}

/// Says why, and waits until that is known.
async fn refuse(send: &mut SendStream, why: Refusal) {
    if send.write_all(&[why.code()]).await.is_ok() && send.finish().is_ok() {
        let _ = timeout(OPEN_MAX, send.stopped()).await;
    }
}

/// Why it came to an end, or to nothing.
async fn relay(
    shared: &Arc<LinksState>,
    from: &Arc<Link>,
    peer: PeerId,
    send: &mut SendStream,
    recv: &mut RecvStream,
) -> Result<Refusal, Refusal> {
    let mux = &shared.relay.mux;
    if !shared.relay.may_ask(from.peer) {
        return Err(Refusal::Busy);
    }
    let ask = |peer: PeerId| Ask { peer, member: shared.is_member(peer), link: via(shared, peer) };
    let ticket = mux.desk(|desk| desk.open(ask(from.peer), ask(peer), mux.now_ms()))?;
    let (there, back) = (Tokens::drawn(), Tokens::drawn());
    let relayed = async {
        let to = shared.live.get(peer).ok_or(Refusal::NotLinked)?;
        // What one end sends comes in under its token and goes out under the other's.
        let (of_asker, of_other) =
            (Tokens { send: there.send, receive: back.receive }, Tokens { send: back.send, receive: there.receive });
        let hop = |from: &Link, to: &Link, token| Hop {
            from: from.connection.clone(),
            to: to.connection.clone(),
            to_peer: to.peer,
            token,
            ticket,
        };
        let is_new = mux.put_hop(there.send, hop(from, &to, there.receive))
            && mux.put_hop(back.send, hop(&to, from, back.receive));
        if !is_new {
            return Err(Refusal::Busy);
        }
        #[cfg(test)]
        if mux.lies() {
            let _ = send.write_all(&[[READY].as_slice(), &of_asker.encode(), &[0; 18]].concat()).await;
            let _ = stream::read_array::<1>(recv).await;
            return Ok(Refusal::Idle);
        }
        let ringing = async {
            let (mut ring, mut answer) = stream::open(&to.connection, Tag::Service(ServiceId::RELAYED)).await?;
            let say = [from.peer.0.as_slice(), &of_other.encode(), &seen(&from.connection)].concat();
            ring.write_all(&say).await.map_err(|_| StreamError::Broken)?;
            let [answered] = stream::read_array(&mut answer).await?;
            Ok::<_, StreamError>((answered, ring, answer))
        };
        let (mut ring, mut answer) = match timeout(RING_MAX, ringing).await {
            Ok(Ok((READY, ring, answer))) => (ring, answer),
            Ok(Ok((code, ..))) => return Err(Refusal::of_code(code)),
            Ok(Err(_)) | Err(_) => return Err(Refusal::NotLinked),
        };
        let ready = [[READY].as_slice(), &of_asker.encode(), &seen(&to.connection)].concat();
        if send.write_all(&ready).await.is_err() {
            return Ok(Refusal::Idle);
        }
        let mut ticks = interval(LOOK_EVERY);
        let why = loop {
            tokio::select! {
                _ = stream::read_array::<1>(recv) => break Refusal::Idle,
                _ = stream::read_array::<1>(&mut answer) => break Refusal::NotLinked,
                _ = from.connection.closed() => break Refusal::NotLinked,
                _ = to.connection.closed() => break Refusal::NotLinked,
                _ = ticks.tick() => {
                    let verdict = mux.desk(|desk| desk.verdict(ticket, ask(from.peer), ask(peer), mux.now_ms()));
                    if let Some(why) = verdict {
                        break why;
                    }
                }
            }
        };
        let _ = ring.write_all(&[why.code()]).await;
        let _ = ring.finish();
        Ok(why)
    };
    let ended = relayed.await;
    mux.remove(there.send);
    mux.remove(back.send);
    mux.desk(|desk| desk.close(ticket));
    ended
}

impl Tokens {
    fn drawn() -> Self {
        Self { send: random(), receive: random() }
    }
}

fn via(shared: &LinksState, peer: PeerId) -> Option<Via> {
    shared.live.get(peer).map(|link| link.underlay.via())
}
