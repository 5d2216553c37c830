//! Links as QUIC gives them: datagrams that get lost, streams that stall while a cut lasts and die when an end loses
//! patience, ends that learn of it at different times, and node sessions on top. Knows of the peers at its ends only
//! what [`Hosts`] tells.

mod pairs;

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::epoch::Epoch;
use mesh_core::frame::{Channel, Frame};
use mesh_core::ids::PeerId;
use mesh_core::io::{Input, SessionId};
use mesh_core::relay::Via;

use crate::env::Env;
use crate::event::Event;
use crate::plan::{MS, Plan, SECOND};
use crate::trace::Moment;
use pairs::Pairs;
pub(crate) use pairs::pair_of;

/// The peers at the ends of the links.
pub(crate) trait Hosts {
    fn id(&self, peer: usize) -> PeerId;
    /// The peer with this id, if it is one of ours.
    fn index_of(&self, id: &PeerId) -> Option<usize>;
    /// True if its process is there, frozen or not.
    fn is_running(&self, peer: usize) -> bool;
    /// True if it runs and is not frozen.
    fn is_awake(&self, peer: usize) -> bool;
    /// Time at which it thaws, if it is frozen.
    fn frozen_until(&self, peer: usize) -> Option<u64>;
    /// True if `peer` holds `other` to be an owner.
    fn is_owner(&self, peer: usize, other: usize) -> bool;
    /// True if `peer` holds `other` approved.
    fn trusts(&self, peer: usize, other: usize) -> bool;
    /// Peers by which `peer` wants to be linked to `other`, best first.
    fn relays(&self, peer: usize, other: usize) -> Vec<usize>;
    /// The epoch that it follows.
    fn gateway(&self, peer: usize) -> Option<Epoch>;
    /// Hands an input to its core, at once or when it thaws.
    fn input(&mut self, env: &mut Env, network: &mut Network, peer: usize, input: Input);
    /// Hands it a frame that arrived from a linked peer.
    fn receive(&mut self, env: &mut Env, network: &mut Network, from: usize, to: usize, frame: Frame);
}

/// A node's stream at its gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Session {
    gateway: usize,
    id: SessionId,
    conn: u64,
}

/// All links, and all node sessions over them.
pub(crate) struct Network {
    pub(crate) pairs: Pairs,
    /// Number of the newest connection.
    conns: u64,
    /// Group of each peer in a split; empty = none.
    pub(crate) split: Vec<u8>,
    /// Pairs that have no link of their own while [`Self::sparse_holds`].
    sparse: BTreeSet<(usize, usize)>,
    pub(crate) sparse_holds: bool,
    /// Datagrams lost of 1,000, everywhere.
    pub(crate) loss: u64,
    /// Time that each peer takes to look at a frame.
    lag_us: Vec<u64>,
    /// By node: its stream.
    sessions: Vec<Option<Session>>,
    registering: Vec<bool>,
    /// By gateway and node: the stream that the gateway knows.
    registered: BTreeMap<(usize, usize), SessionId>,
    session_ids: SessionId,
    /// By peer: it relays for others; `None` where nobody knows of relays.
    relays: Vec<Option<bool>>,
    /// Peers whose processes pass nothing on: gone, or frozen.
    silent: BTreeSet<usize>,
    /// Pairs that lost their link although a second relay was there for long, and when.
    pub(crate) dropped: Vec<(u64, (usize, usize))>,
}

/// Time for which a relay is in doubt before another takes over, and for which that one must have been there.
const DOUBT_US: (u64, u64) = (250 * MS, 900 * MS);
const THERE_US: u64 = 8 * SECOND;

/// Time that an end takes to notice that nothing comes any more: idle timeout and keep-alive, or an error at once.
fn patience(env: &mut Env) -> u64 {
    if env.dice.chance(700) { env.dice.range(1_800 * MS..=2_400 * MS) } else { env.dice.range(0..=2_400 * MS) }
}

/// The gateway that a node wants to be registered at.
fn wanted(hosts: &impl Hosts, node: usize) -> Option<usize> {
    let epoch = hosts.gateway(node)?;
    let gateway = hosts.index_of(&epoch.peer)?;
    (gateway != node && hosts.is_running(node)).then_some(gateway)
}

impl Network {
    pub(crate) fn new(plan: &Plan) -> Self {
        let count = plan.peers.len();
        Self {
            pairs: Pairs::new(count, &plan.latency_us),
            conns: 0,
            split: Vec::new(),
            sparse: plan.sparse.iter().copied().collect(),
            sparse_holds: false,
            loss: 0,
            lag_us: plan.peers.iter().map(|peer| peer.lag_us).collect(),
            sessions: vec![None; count],
            registering: vec![false; count],
            registered: BTreeMap::new(),
            session_ids: 0,
            relays: plan.peers.iter().map(|peer| peer.relays).collect(),
            silent: BTreeSet::new(),
            dropped: Vec::new(),
        }
    }

    /// True if `peer`'s core was told of a link to `other`.
    pub(crate) fn sees_link(&self, peer: usize, other: usize) -> bool {
        let (key, end) = pair_of(peer, other);
        peer != other && self.pairs[&key].view[end] != 0
    }

    // --- Frames ---------------------------------------------------------------------------------------------------

    /// `from`'s core sends a frame.
    pub(crate) fn send(&mut self, env: &mut Env, from: usize, to: usize, frame: Frame) {
        let (key, end) = pair_of(from, to);
        let pair = &self.pairs[&key];
        let conn = pair.view[end];
        if conn == 0 || conn != pair.conn || !pair.alive {
            return;
        }
        match frame.channel() {
            Channel::Datagram => {
                let loss = pair.loss[end].max(self.loss);
                if pair.stops(end) || env.dice.chance(loss) {
                    return;
                }
                if env.dice.chance(self.loss / 10) {
                    self.datagram(env, key, end, conn, frame.clone());
                }
                self.datagram(env, key, end, conn, frame);
            }
            Channel::Stream | Channel::Node => {
                if frame.channel() == Channel::Node
                    && !self.has_session(from, to)
                    && !self.registered.contains_key(&(from, to))
                {
                    return;
                }
                if pair.stops(end) {
                    self.pairs.of(key).stalled.push((end, frame));
                } else {
                    self.stream(env, key, end, conn, frame);
                }
            }
        }
    }

    fn datagram(&self, env: &mut Env, key: (usize, usize), end: usize, conn: u64, frame: Frame) {
        let latency = self.latency(key);
        let late = if self.loss > 0 && env.dice.chance(50) { env.dice.range(0..=SECOND) } else { 0 };
        let delay = latency + env.dice.range(0..=latency) + late + self.lag(key, end);
        env.at(delay, Event::Deliver { key, end, conn, frame: Box::new(frame) });
    }

    fn stream(&mut self, env: &mut Env, key: (usize, usize), end: usize, conn: u64, frame: Frame) {
        let latency = self.latency(key);
        // A lost packet of a stream costs a retransmission, not the frame.
        let again = if env.dice.chance(self.loss) { env.dice.range(20 * MS..=250 * MS) } else { 0 };
        let lane = usize::from(frame.channel() == Channel::Node);
        let due = env.now + latency + env.dice.range(0..=latency / 2) + again + self.lag(key, end);
        let pair = self.pairs.of(key);
        let due = due.max(pair.arrives[end][lane] + 1);
        pair.arrives[end][lane] = due;
        let delay = due - env.now;
        env.at(delay, Event::Deliver { key, end, conn, frame: Box::new(frame) });
    }

    /// Time that the slower of two ends takes to look at a frame.
    pub(crate) fn lag_of(&self, key: (usize, usize)) -> u64 {
        self.lag(key, 0).max(self.lag(key, 1))
    }

    /// Time that the receiving end takes to look at a frame.
    fn lag(&self, key: (usize, usize), end: usize) -> u64 {
        self.lag_us[if end == 0 { key.1 } else { key.0 }]
    }

    /// A frame arrives, if what it travelled on is still there.
    pub(crate) fn deliver<H: Hosts>(
        &mut self,
        env: &mut Env,
        hosts: &mut H,
        key: (usize, usize),
        end: usize,
        conn: u64,
        frame: Frame,
    ) {
        let (from, to) = if end == 0 { key } else { (key.1, key.0) };
        let pair = &self.pairs[&key];
        let kept = pair.conn == conn && pair.alive && pair.view[1 - end] == conn;
        if !kept {
            return;
        }
        let channel = frame.channel();
        if pair.stops(end) {
            if channel != Channel::Datagram {
                self.pairs.of(key).stalled.push((end, frame));
            }
            return;
        }
        // What its old gateway had sent may still reach a node that has moved on: that is what the fence is for.
        let stale = matches!(frame, Frame::Dispatch(_) | Frame::Cancel { .. }) && env.dice.chance(500);
        if channel == Channel::Node && !self.has_session(from, to) && !stale {
            return;
        }
        hosts.receive(env, self, from, to, frame);
    }

    // --- Connections ----------------------------------------------------------------------------------------------

    /// The plan changed what reaches what. True if a pair was cut or joined.
    pub(crate) fn refresh_cuts(&mut self, env: &mut Env) -> bool {
        let mut changed = false;
        let keys: Vec<(usize, usize)> = self.pairs.iter().map(|(key, _)| *key).collect();
        for key in keys {
            let split = self.split.get(key.0) != self.split.get(key.1);
            let sparse = self.sparse_holds && self.sparse.contains(&key);
            let pair = self.pairs.of(key);
            let cut = pair.single.map(|single| split || sparse || single);
            if cut == pair.cut {
                continue;
            }
            pair.cut = cut;
            changed = true;
            env.moment(|| Moment::Cut(key.0, key.1, cut != [false; 2]));
            if self.pairs[&key].alive && self.pairs[&key].relay.is_some() {
                // What is relayed does not notice; but a direct link may be had now.
                if cut == [false; 2] {
                    self.dial(env, key);
                }
            } else if self.pairs[&key].alive {
                let conn = self.pairs[&key].conn;
                let stalled = std::mem::take(&mut self.pairs.of(key).stalled);
                let (still, free): (Vec<_>, Vec<_>) = stalled.into_iter().partition(|(end, _)| cut[*end]);
                self.pairs.of(key).stalled = still;
                for (end, frame) in free {
                    self.stream(env, key, end, conn, frame);
                }
                if cut != [false; 2] {
                    for end in 0..2 {
                        let patience = patience(env);
                        env.at(patience, Event::Detect { key, conn, end });
                    }
                }
            } else if cut == [false; 2] {
                self.dial(env, key);
            }
        }
        if changed {
            self.look_at_relays(env);
        }
        changed
    }

    /// A process stops or begins to pass things on.
    pub(crate) fn note_awake(&mut self, env: &mut Env, peer: usize, awake: bool) {
        if !self.has_relays() {
            return;
        }
        if awake {
            self.silent.remove(&peer)
        } else {
            self.silent.insert(peer)
        };
        self.look_at_relays(env);
    }

    /// Relayed connections stop and go on with what their relays stand on, all of one relay in one moment.
    fn look_at_relays(&mut self, env: &mut Env) {
        let relayed: Vec<_> =
            self.pairs.iter().filter_map(|(key, pair)| Some((*key, pair.relay.filter(|_| pair.alive)?))).collect();
        for (key, relay) in relayed {
            let blocked = !self.passes(relay, key);
            let conn = self.pairs[&key].conn;
            let was = std::mem::replace(&mut self.pairs.of(key).blocked, blocked);
            if blocked && !was {
                let doubt = env.dice.range(DOUBT_US.0..=DOUBT_US.1);
                env.at(doubt, Event::Doubt { key, conn });
            } else if was && !blocked {
                self.release(env, key);
            }
        }
    }

    /// What waited goes on.
    fn release(&mut self, env: &mut Env, key: (usize, usize)) {
        let conn = self.pairs[&key].conn;
        for (end, frame) in std::mem::take(&mut self.pairs.of(key).stalled) {
            self.stream(env, key, end, conn, frame);
        }
    }

    /// True if this peer passes packets of this pair on: by direct links that nothing is wrong with.
    fn passes(&self, relay: usize, key: (usize, usize)) -> bool {
        let leg = |end: usize| {
            let leg = &self.pairs[&pair_of(relay, end).0];
            leg.usable() && leg.relay.is_none() && !leg.is_cut()
        };
        relay != key.0 && relay != key.1 && !self.silent.contains(&relay) && leg(key.0) && leg(key.1)
    }

    /// The relay that a pair has now: named at either end, and willing there.
    fn relay_for<H: Hosts>(&self, hosts: &H, key: (usize, usize), but: Option<usize>) -> Option<usize> {
        let named = [hosts.relays(key.0, key.1), hosts.relays(key.1, key.0)].concat();
        let willing = |relay: &usize| {
            Some(*relay) != but
                && self.relays[*relay] == Some(true)
                && self.passes(*relay, key)
                && [key.0, key.1].into_iter().all(|end| hosts.trusts(*relay, end) && hosts.trusts(end, *relay))
        };
        named.into_iter().find(willing)
    }

    /// A relay has been silent for too long: another takes over, or the ends lose the link.
    pub(crate) fn doubt<H: Hosts>(&mut self, env: &mut Env, hosts: &mut H, key: (usize, usize), conn: u64) {
        let pair = &self.pairs[&key];
        if pair.conn != conn || !pair.alive || !pair.blocked {
            return;
        }
        let Some(dead) = pair.relay else { return };
        if let Some(relay) = self.relay_for(hosts, key, Some(dead)) {
            env.story(|| format!("p{relay} relays p{}-p{} in place of p{dead}", key.0, key.1));
            let pair = self.pairs.of(key);
            (pair.relay, pair.blocked) = (Some(relay), false);
            self.release(env, key);
            return;
        }
        let ends = [key.0, key.1];
        let is_owner = |peer: usize, end: usize| hosts.is_owner(end, peer);
        let second = (0..self.lag_us.len()).find(|relay| {
            let since = |end: usize| self.pairs[&pair_of(*relay, end).0].since;
            *relay != dead
                && self.relays[*relay] == Some(true)
                && self.passes(*relay, key)
                && ends.into_iter().all(|end| {
                    hosts.is_awake(end)
                        && hosts.trusts(*relay, end)
                        && is_owner(*relay, end)
                        && env.now >= since(end) + THERE_US
                })
        });
        let leads = |me: usize, other: usize| hosts.gateway(me).is_some_and(|epoch| epoch.peer == hosts.id(other));
        if second.is_some() && (leads(key.0, key.1) || leads(key.1, key.0)) {
            self.dropped.push((env.now, key));
        }
        for end in 0..2 {
            let patience = patience(env);
            env.at(patience, Event::Detect { key, conn, end });
        }
    }

    /// True if this peer could relay for a pair, if all three want it.
    pub(crate) fn could_relay(&self, relay: usize, key: (usize, usize)) -> bool {
        self.relays[relay] == Some(true) && self.passes(relay, key)
    }

    fn latency(&self, key: (usize, usize)) -> u64 {
        let leg = |relay: usize, end: usize| self.pairs[&pair_of(relay, end).0].latency_us;
        match self.pairs[&key].relay {
            None => self.pairs[&key].latency_us,
            Some(relay) => leg(relay, key.0) + leg(relay, key.1),
        }
    }

    /// True where peers know of relays.
    fn has_relays(&self) -> bool {
        self.relays.iter().any(Option::is_some)
    }

    /// Someone of the pair wants a link.
    pub(crate) fn dial(&mut self, env: &mut Env, key: (usize, usize)) {
        if !self.pairs.of(key).dialing {
            self.pairs.of(key).dialing = true;
            let delay = env.dice.range(5 * MS..=400 * MS);
            env.at(delay, Event::Dial(key));
        }
    }

    /// All pairs of a peer.
    pub(crate) fn dial_all(&mut self, env: &mut Env, peer: usize) {
        for other in (0..self.lag_us.len()).filter(|other| *other != peer) {
            self.dial(env, pair_of(peer, other).0);
        }
    }

    /// A dial comes through, or is given up until something changes.
    pub(crate) fn dialled<H: Hosts>(&mut self, env: &mut Env, hosts: &mut H, key: (usize, usize)) {
        self.pairs.of(key).dialing = false;
        let (a, b) = key;
        let cut = self.pairs[&key].is_cut();
        let relay = if cut && self.has_relays() { self.relay_for(hosts, key, None) } else { None };
        let wanted = hosts.is_awake(a) && hosts.is_awake(b) && (!cut || relay.is_some());
        let is_better = !cut && self.pairs[&key].relay.is_some();
        if !wanted && self.has_relays() && !self.pairs[&key].alive && hosts.is_awake(a) && hosts.is_awake(b) {
            // As long as there is no way, both ends go on dialling.
            self.pairs.of(key).dialing = true;
            env.at(SECOND, Event::Dial(key));
        }
        if !wanted || (self.pairs[&key].alive && self.pairs[&key].usable() && !is_better) {
            return;
        }
        if !hosts.trusts(a, b) || !hosts.trusts(b, a) {
            return;
        }
        if self.pairs[&key].alive && self.pairs[&key].view != [self.pairs[&key].conn; 2] {
            // Its LinkUps are on their way.
            return;
        }
        for end in 0..2 {
            if self.pairs[&key].view[end] != 0 {
                self.lose_sessions(env, hosts, key, end, true);
            }
        }
        self.conns += 1;
        let conn = self.conns;
        let latency = self.pairs[&key].latency_us;
        let dialler = env.dice.index(2);
        let now = env.now;
        let pair = self.pairs.of(key);
        pair.conn = conn;
        pair.alive = true;
        (pair.relay, pair.blocked, pair.since) = (relay, false, now);
        pair.stalled.clear();
        pair.arrives = [[0; 2]; 2];
        env.at(0, Event::LinkUp { key, conn, end: dialler });
        let later = env.dice.range(0..=latency * 4 / 5);
        env.at(later, Event::LinkUp { key, conn, end: 1 - dialler });
        env.story(|| match relay {
            None => format!("link p{a}-p{b} is up"),
            Some(relay) => format!("link p{a}-p{b} is up, relayed by p{relay}"),
        });
        if self.has_relays() {
            self.look_at_relays(env);
        }
    }

    pub(crate) fn link_up<H: Hosts>(
        &mut self,
        env: &mut Env,
        hosts: &mut H,
        key: (usize, usize),
        conn: u64,
        end: usize,
    ) {
        if self.pairs[&key].conn != conn || !self.pairs[&key].alive {
            return;
        }
        let (me, other) = if end == 0 { key } else { (key.1, key.0) };
        if !hosts.is_running(me) {
            return;
        }
        self.pairs.of(key).view[end] = conn;
        let id = hosts.id(other);
        if self.has_relays() {
            let via = if self.pairs[&key].relay.is_some() { Via::Relayed } else { Via::Direct };
            hosts.input(env, self, me, Input::LinkVia(id, via));
        }
        hosts.input(env, self, me, Input::LinkUp(id));
        self.register(env, hosts, me);
        self.register(env, hosts, other);
    }

    /// An end notices, or not: the cut may be over by now.
    pub(crate) fn detect<H: Hosts>(
        &mut self,
        env: &mut Env,
        hosts: &mut H,
        key: (usize, usize),
        conn: u64,
        end: usize,
    ) {
        let (me, other) = if end == 0 { key } else { (key.1, key.0) };
        let pair = &self.pairs[&key];
        if pair.view[end] != conn || pair.conn != conn {
            return;
        }
        if let Some(until) = hosts.frozen_until(me) {
            let patience = patience(env) + until.saturating_sub(env.now);
            env.at(patience, Event::Detect { key, conn, end });
            return;
        }
        if pair.alive && !pair.is_stopped() && hosts.is_awake(other) {
            return;
        }
        self.end_down(env, hosts, key, end);
    }

    /// This end's core is told that the link is gone; the other end learns of it in its own time.
    pub(crate) fn end_down<H: Hosts>(&mut self, env: &mut Env, hosts: &mut H, key: (usize, usize), end: usize) {
        let (me, other) = if end == 0 { key } else { (key.1, key.0) };
        let latency = self.pairs[&key].latency_us;
        let pair = self.pairs.of(key);
        let conn = pair.conn;
        pair.view[end] = 0;
        pair.alive = false;
        pair.stalled.clear();
        let told = pair.view[1 - end] == conn;
        let cut = pair.is_stopped();
        if told {
            let delay = if cut || !hosts.is_awake(other) { patience(env) } else { latency };
            env.at(delay, Event::Detect { key, conn, end: 1 - end });
        }
        env.story(|| format!("p{me} lost its link to p{other}"));
        let id = hosts.id(other);
        let sessions_first = env.dice.chance(500);
        if sessions_first {
            self.lose_sessions(env, hosts, key, end, false);
        }
        hosts.input(env, self, me, Input::LinkDown(id));
        if !sessions_first {
            self.lose_sessions(env, hosts, key, end, false);
        }
        self.dial(env, key);
        if self.has_relays() {
            self.look_at_relays(env);
        }
    }

    /// A process is gone: its ends of all connections with it.
    pub(crate) fn drop_ends(&mut self, env: &mut Env, peer: usize, clean: bool) {
        for other in (0..self.lag_us.len()).filter(|other| *other != peer) {
            let (key, end) = pair_of(peer, other);
            let latency = self.pairs[&key].latency_us;
            let pair = self.pairs.of(key);
            pair.view[end] = 0;
            pair.alive = false;
            pair.stalled.clear();
            let conn = pair.conn;
            if pair.view[1 - end] == conn && conn != 0 {
                let delay = if clean && !pair.is_stopped() { latency } else { patience(env) };
                env.at(delay, Event::Detect { key, conn, end: 1 - end });
            }
        }
        if let Some(session) = self.sessions[peer].take() {
            env.detail(|| format!("p{peer}'s session {} at p{} ended", session.id, session.gateway));
        }
        self.registered.retain(|(gateway, _), _| *gateway != peer);
        self.note_awake(env, peer, false);
    }

    // --- Node sessions --------------------------------------------------------------------------------------------

    fn has_session(&self, a: usize, b: usize) -> bool {
        [(a, b), (b, a)].into_iter().any(|(node, gateway)| {
            self.sessions[node].is_some_and(|session| {
                session.gateway == gateway && self.registered.get(&(gateway, node)) == Some(&session.id)
            })
        })
    }

    /// The node role of `node` looks whether its stream is where it should be.
    pub(crate) fn register(&mut self, env: &mut Env, hosts: &impl Hosts, node: usize) {
        let wanted = wanted(hosts, node);
        if let Some(session) = self.sessions[node]
            && Some(session.gateway) != wanted
        {
            self.sessions[node] = None;
            // The end of a stream may be long on its way, and the old gateway go on dispatching meanwhile.
            let delay = if env.dice.chance(200) { env.dice.range(0..=3 * SECOND) } else { env.dice.range(0..=30 * MS) };
            env.at(delay, Event::Goodbye { gateway: session.gateway, node, id: session.id });
        }
        if wanted.is_some() && self.sessions[node].is_none() && !self.registering[node] {
            self.registering[node] = true;
            let delay = env.dice.range(MS..=50 * MS);
            env.at(delay, Event::Register(node));
        }
    }

    pub(crate) fn try_register<H: Hosts>(&mut self, env: &mut Env, hosts: &mut H, node: usize) {
        self.registering[node] = false;
        let Some(gateway) = wanted(hosts, node) else { return };
        if self.sessions[node].is_some() || !self.sees_link(node, gateway) {
            return;
        }
        let (key, _) = pair_of(node, gateway);
        let leads = hosts.gateway(gateway).is_some_and(|epoch| epoch.peer == hosts.id(gateway));
        let reachable = self.pairs[&key].usable() && !self.pairs[&key].is_cut();
        if !leads || !reachable || !hosts.is_awake(gateway) || !hosts.is_awake(node) {
            self.registering[node] = true;
            let delay = env.dice.range(50 * MS..=250 * MS);
            env.at(delay, Event::Register(node));
            return;
        }
        self.session_ids += 1;
        let session = Session { gateway, id: self.session_ids, conn: self.pairs[&key].conn };
        self.sessions[node] = Some(session);
        self.registered.insert((gateway, node), session.id);
        let id = hosts.id(node);
        env.story(|| format!("p{node} registers at p{gateway}, session {}", session.id));
        hosts.input(env, self, gateway, Input::NodeUp(id, session.id));
    }

    /// A stream's end reaches the gateway, perhaps long after a new one is there.
    pub(crate) fn goodbye<H: Hosts>(
        &mut self,
        env: &mut Env,
        hosts: &mut H,
        gateway: usize,
        node: usize,
        id: SessionId,
    ) {
        if self.registered.get(&(gateway, node)) == Some(&id) {
            self.registered.remove(&(gateway, node));
        }
        let peer = hosts.id(node);
        hosts.input(env, self, gateway, Input::NodeDown(peer, id));
    }

    /// Sessions over a connection end as this end of it ends.
    fn lose_sessions<H: Hosts>(&mut self, env: &mut Env, hosts: &mut H, key: (usize, usize), end: usize, late: bool) {
        let (me, other) = if end == 0 { key } else { (key.1, key.0) };
        // As the node:
        if self.sessions[me].is_some_and(|session| session.gateway == other) {
            let session = self.sessions[me].take();
            self.register(env, hosts, me);
            if late && let Some(session) = session {
                let delay = env.dice.range(0..=500 * MS);
                env.at(delay, Event::Goodbye { gateway: other, node: me, id: session.id });
            }
        }
        // As the gateway:
        if let Some(id) = self.registered.get(&(me, other)).copied() {
            let delay = if late { env.dice.range(0..=500 * MS) } else { 0 };
            if delay == 0 {
                self.goodbye(env, hosts, me, other, id);
            } else {
                env.at(delay, Event::Goodbye { gateway: me, node: other, id });
            }
        }
    }

    /// `gateway` does not lead any more: it ends its nodes' streams.
    pub(crate) fn close_sessions(&self, env: &mut Env, gateway: usize) {
        let nodes: Vec<(usize, SessionId)> =
            self.registered.iter().filter(|((at, _), _)| *at == gateway).map(|((_, node), id)| (*node, *id)).collect();
        for (node, id) in nodes {
            env.at(1, Event::Goodbye { gateway, node, id });
            let (key, _) = pair_of(node, gateway);
            let delay = self.pairs[&key].latency_us;
            env.at(delay, Event::Moved { node, id });
        }
    }

    /// A node learns that its stream was ended by the gateway.
    pub(crate) fn moved<H: Hosts>(&mut self, env: &mut Env, hosts: &mut H, node: usize, id: SessionId) {
        if self.sessions[node].is_some_and(|session| session.id == id) {
            self.sessions[node] = None;
            self.register(env, hosts, node);
        }
    }

    /// Links to peers that are not approved any more are closed.
    pub(crate) fn close_untrusted<H: Hosts>(&mut self, env: &mut Env, hosts: &mut H, peer: usize) {
        for other in (0..self.lag_us.len()).filter(|other| *other != peer) {
            let (key, end) = pair_of(peer, other);
            if self.pairs[&key].view[end] != 0 && !hosts.trusts(peer, other) {
                self.end_down(env, hosts, key, end);
            } else if self.pairs[&key].view[end] == 0 && hosts.trusts(peer, other) {
                self.dial(env, key);
            }
        }
    }
}
