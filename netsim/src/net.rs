//! Links as QUIC gives them: datagrams that get lost, streams that stall while a cut lasts and die when an end loses
//! patience, ends that learn of it at different times, and node sessions on top.

use std::ops::Index;

use mesh_core::frame::{Channel, Frame};
use mesh_core::io::{Input, SessionId};

use crate::plan::{MS, SECOND, pairs};
use crate::trace::Mark;
use crate::world::{Event, State, World};

/// The path between two peers.
#[derive(Debug, Default)]
pub(crate) struct Pair {
    /// No packet passes, by sending end.
    cut: [bool; 2],
    /// A cut of this pair alone, by sending end.
    pub(crate) single: [bool; 2],
    /// Number of the present connection, 0 before the first.
    pub(crate) conn: u64,
    /// True while both ends keep it.
    pub(crate) alive: bool,
    /// The connection that the core at each end was told of, 0 = none.
    pub(crate) view: [u64; 2],
    /// Stream frames that wait for the cut to end: sending end, frame.
    stalled: Vec<(usize, Frame)>,
    /// When the last frame of (sending end, stream) arrives: streams keep their order.
    arrives: [[u64; 2]; 2],
    /// Datagrams lost of 1,000, by sending end.
    pub(crate) loss: [u64; 2],
    pub(crate) latency_us: u64,
    dialing: bool,
}

/// A node's stream at its gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) gateway: usize,
    pub(crate) id: SessionId,
    conn: u64,
}

/// Key of a pair, and which end `peer` is.
pub(crate) fn pair_of(peer: usize, other: usize) -> ((usize, usize), usize) {
    if peer < other { ((peer, other), 0) } else { ((other, peer), 1) }
}

impl Pair {
    pub(crate) fn new(latency_us: u64) -> Self {
        Self { latency_us, ..Self::default() }
    }

    /// True if packets are lost, one way or both: no link lasts then.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut != [false; 2]
    }
}

/// Paths between all peers, each pair once, the lower peer first.
#[derive(Debug)]
pub(crate) struct Pairs {
    count: usize,
    all: Vec<((usize, usize), Pair)>,
}

impl Pairs {
    /// All pairs of `count` peers, in the order of [`pairs`].
    pub(crate) fn new(count: usize, latency_us: &[u64]) -> Self {
        let all = pairs(count).zip(latency_us).map(|(key, latency_us)| (key, Pair::new(*latency_us))).collect();
        Self { count, all }
    }

    fn place(&self, (low, high): (usize, usize)) -> usize {
        low * (2 * self.count - low - 1) / 2 + high - low - 1
    }

    pub(crate) fn of(&mut self, key: (usize, usize)) -> &mut Pair {
        let place = self.place(key);
        &mut self.all[place].1
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &((usize, usize), Pair)> {
        self.all.iter()
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut Pair> {
        self.all.iter_mut().map(|(_, pair)| pair)
    }
}

impl Index<&(usize, usize)> for Pairs {
    type Output = Pair;

    fn index(&self, key: &(usize, usize)) -> &Pair {
        &self.all[self.place(*key)].1
    }
}

impl World {
    fn pair(&mut self, key: (usize, usize)) -> &mut Pair {
        self.pairs.of(key)
    }

    /// True if `peer`'s core was told of a link to `other`.
    pub(crate) fn sees_link(&self, peer: usize, other: usize) -> bool {
        let (key, end) = pair_of(peer, other);
        peer != other && self.pairs[&key].view[end] != 0
    }

    fn usable(&self, key: (usize, usize)) -> bool {
        let pair = &self.pairs[&key];
        pair.alive && pair.view == [pair.conn; 2]
    }

    // --- Frames ---------------------------------------------------------------------------------------------------

    /// `from`'s core sends a frame.
    pub(crate) fn send(&mut self, from: usize, to: usize, frame: Frame) {
        let (key, end) = pair_of(from, to);
        let pair = &self.pairs[&key];
        let conn = pair.view[end];
        if conn == 0 || conn != pair.conn || !pair.alive {
            return;
        }
        match frame.channel() {
            Channel::Datagram => {
                let loss = pair.loss[end].max(self.loss);
                if pair.cut[end] || self.dice.chance(loss) {
                    return;
                }
                if self.dice.chance(self.loss / 10) {
                    self.datagram(key, end, conn, frame.clone());
                }
                self.datagram(key, end, conn, frame);
            }
            Channel::Stream | Channel::Node => {
                if frame.channel() == Channel::Node
                    && !self.has_session(from, to)
                    && !self.registered.contains_key(&(from, to))
                {
                    return;
                }
                if pair.cut[end] {
                    self.pair(key).stalled.push((end, frame));
                } else {
                    self.stream(key, end, conn, frame);
                }
            }
        }
    }

    fn datagram(&mut self, key: (usize, usize), end: usize, conn: u64, frame: Frame) {
        let latency = self.pairs[&key].latency_us;
        let late = if self.loss > 0 && self.dice.chance(50) { self.dice.range(0..=SECOND) } else { 0 };
        let delay = latency + self.dice.range(0..=latency) + late + self.lag(key, end);
        self.at(delay, Event::Deliver { key, end, conn, frame: Box::new(frame) });
    }

    fn stream(&mut self, key: (usize, usize), end: usize, conn: u64, frame: Frame) {
        let latency = self.pairs[&key].latency_us;
        // A lost packet of a stream costs a retransmission, not the frame.
        let again = if self.dice.chance(self.loss) { self.dice.range(20 * MS..=250 * MS) } else { 0 };
        let lane = usize::from(frame.channel() == Channel::Node);
        let due = self.now + latency + self.dice.range(0..=latency / 2) + again + self.lag(key, end);
        let pair = self.pair(key);
        let due = due.max(pair.arrives[end][lane] + 1);
        pair.arrives[end][lane] = due;
        let delay = due - self.now;
        self.at(delay, Event::Deliver { key, end, conn, frame: Box::new(frame) });
    }

    /// Time that the receiving end takes to look at a frame.
    fn lag(&self, key: (usize, usize), end: usize) -> u64 {
        self.peers[if end == 0 { key.1 } else { key.0 }].plan.lag_us
    }

    /// A frame arrives, if what it travelled on is still there.
    pub(crate) fn deliver(&mut self, key: (usize, usize), end: usize, conn: u64, frame: Frame) {
        let (from, to) = if end == 0 { key } else { (key.1, key.0) };
        let pair = &self.pairs[&key];
        let kept = pair.conn == conn && pair.alive && pair.view[1 - end] == conn;
        if !kept {
            return;
        }
        let class = frame.channel();
        if pair.cut[end] {
            if class != Channel::Datagram {
                self.pair(key).stalled.push((end, frame));
            }
            return;
        }
        // What its old gateway had sent may still reach a node that has moved on: that is what the fence is for.
        let stale = matches!(frame, Frame::Dispatch(_) | Frame::Cancel { .. }) && self.dice.chance(500);
        if class == Channel::Node && !self.has_session(from, to) && !stale {
            return;
        }
        self.trace.detail(self.now, || format!("p{to} <- p{from} {frame:?}"));
        if !self.peers[to].key.all_hold(&frame) {
            self.checks.fail("signature", self.now, || format!("p{from} sends p{to} what does not verify: {frame:?}"));
        }
        let id = self.peers[from].id;
        self.input(to, Input::Recv(id, frame));
    }

    // --- Connections ----------------------------------------------------------------------------------------------

    /// The plan changed what reaches what.
    pub(crate) fn refresh_cuts(&mut self) {
        let keys: Vec<(usize, usize)> = self.pairs.iter().map(|(key, _)| *key).collect();
        for key in keys {
            let split = self.split.get(key.0) != self.split.get(key.1);
            let sparse = self.sparse_holds && self.plan.sparse.contains(&key);
            let pair = self.pair(key);
            let cut = pair.single.map(|single| split || sparse || single);
            if cut == pair.cut {
                continue;
            }
            pair.cut = cut;
            self.unsettle();
            self.trace.mark(self.now, || Mark::Cut(key.0, key.1, cut != [false; 2]));
            if self.pairs[&key].alive {
                let conn = self.pairs[&key].conn;
                let stalled = std::mem::take(&mut self.pair(key).stalled);
                let (still, free): (Vec<_>, Vec<_>) = stalled.into_iter().partition(|(end, _)| cut[*end]);
                self.pair(key).stalled = still;
                for (end, frame) in free {
                    self.stream(key, end, conn, frame);
                }
                if cut != [false; 2] {
                    for end in 0..2 {
                        let patience = self.patience();
                        self.at(patience, Event::Detect { key, conn, end });
                    }
                }
            } else if cut == [false; 2] {
                self.dial(key);
            }
        }
    }

    /// Time until an end notices that nothing comes any more: idle timeout and keep-alive, or an error at once.
    fn patience(&mut self) -> u64 {
        if self.dice.chance(700) { self.dice.range(1_800 * MS..=2_400 * MS) } else { self.dice.range(0..=2_400 * MS) }
    }

    /// Someone of the pair wants a link.
    pub(crate) fn dial(&mut self, key: (usize, usize)) {
        if !self.pair(key).dialing {
            self.pair(key).dialing = true;
            let delay = self.dice.range(5 * MS..=400 * MS);
            self.at(delay, Event::Dial(key));
        }
    }

    /// All pairs of a peer.
    pub(crate) fn dial_all(&mut self, peer: usize) {
        for other in (0..self.peers.len()).filter(|other| *other != peer) {
            self.dial(pair_of(peer, other).0);
        }
    }

    /// A dial comes through, or is given up until something changes.
    pub(crate) fn dialled(&mut self, key: (usize, usize)) {
        self.pair(key).dialing = false;
        let (a, b) = key;
        let wanted = self.peers[a].awake() && self.peers[b].awake() && !self.pairs[&key].is_cut();
        if !wanted || (self.pairs[&key].alive && self.usable(key)) {
            return;
        }
        if !self.trusts(a, b) || !self.trusts(b, a) {
            return;
        }
        if self.pairs[&key].alive && self.pairs[&key].view != [self.pairs[&key].conn; 2] {
            // Its LinkUps are on their way.
            return;
        }
        for end in 0..2 {
            if self.pairs[&key].view[end] != 0 {
                self.lose_sessions(key, end, true);
            }
        }
        self.conns += 1;
        let conn = self.conns;
        let latency = self.pairs[&key].latency_us;
        let dialler = self.dice.index(2);
        let pair = self.pair(key);
        pair.conn = conn;
        pair.alive = true;
        pair.stalled.clear();
        pair.arrives = [[0; 2]; 2];
        self.at(0, Event::LinkUp { key, conn, end: dialler });
        let later = self.dice.range(0..=latency * 4 / 5);
        self.at(later, Event::LinkUp { key, conn, end: 1 - dialler });
        self.trace.story(self.now, || format!("link p{a}-p{b} is up"));
    }

    pub(crate) fn link_up(&mut self, key: (usize, usize), conn: u64, end: usize) {
        if self.pairs[&key].conn != conn || !self.pairs[&key].alive {
            return;
        }
        let (me, other) = if end == 0 { key } else { (key.1, key.0) };
        if self.peers[me].state != State::Running {
            return;
        }
        self.pair(key).view[end] = conn;
        let id = self.peers[other].id;
        self.input(me, Input::LinkUp(id));
        self.register(me);
        self.register(other);
    }

    /// An end notices, or not: the cut may be over by now.
    pub(crate) fn detect(&mut self, key: (usize, usize), conn: u64, end: usize) {
        let (me, other) = if end == 0 { key } else { (key.1, key.0) };
        let pair = &self.pairs[&key];
        if pair.view[end] != conn || pair.conn != conn {
            return;
        }
        if self.peers[me].frozen() {
            let patience = self.patience() + self.peers[me].frozen_until.saturating_sub(self.now);
            self.at(patience, Event::Detect { key, conn, end });
            return;
        }
        if pair.alive && !pair.is_cut() && self.peers[other].awake() {
            return;
        }
        self.end_down(key, end);
    }

    /// This end's core is told that the link is gone; the other end learns of it in its own time.
    pub(crate) fn end_down(&mut self, key: (usize, usize), end: usize) {
        let (me, other) = if end == 0 { key } else { (key.1, key.0) };
        let latency = self.pairs[&key].latency_us;
        let pair = self.pair(key);
        let conn = pair.conn;
        pair.view[end] = 0;
        pair.alive = false;
        pair.stalled.clear();
        let told = pair.view[1 - end] == conn;
        let cut = pair.is_cut();
        if told {
            let delay = if cut || !self.peers[other].awake() { self.patience() } else { latency };
            self.at(delay, Event::Detect { key, conn, end: 1 - end });
        }
        self.trace.story(self.now, || format!("p{me} lost its link to p{other}"));
        let id = self.peers[other].id;
        let sessions_first = self.dice.chance(500);
        if sessions_first {
            self.lose_sessions(key, end, false);
        }
        self.input(me, Input::LinkDown(id));
        if !sessions_first {
            self.lose_sessions(key, end, false);
        }
        self.dial(key);
    }

    /// A process is gone: its ends of all connections with it.
    pub(crate) fn drop_ends(&mut self, peer: usize, clean: bool) {
        for other in (0..self.peers.len()).filter(|other| *other != peer) {
            let (key, end) = pair_of(peer, other);
            let latency = self.pairs[&key].latency_us;
            let pair = self.pair(key);
            pair.view[end] = 0;
            pair.alive = false;
            pair.stalled.clear();
            let conn = pair.conn;
            if pair.view[1 - end] == conn && conn != 0 {
                let delay = if clean && !pair.is_cut() { latency } else { self.patience() };
                self.at(delay, Event::Detect { key, conn, end: 1 - end });
            }
        }
        if let Some(session) = self.sessions[peer].take() {
            self.trace.detail(self.now, || format!("p{peer}'s session {} at p{} ended", session.id, session.gateway));
        }
        self.registered.retain(|(gateway, _), _| *gateway != peer);
    }

    // --- Node sessions --------------------------------------------------------------------------------------------

    fn has_session(&self, a: usize, b: usize) -> bool {
        [(a, b), (b, a)].into_iter().any(|(node, gateway)| {
            self.sessions[node].is_some_and(|session| {
                session.gateway == gateway && self.registered.get(&(gateway, node)) == Some(&session.id)
            })
        })
    }

    /// The gateway that a node wants to be registered at.
    fn wanted(&self, node: usize) -> Option<usize> {
        let epoch = self.peers[node].gateway?;
        let gateway = self.index_of(&epoch.peer)?;
        (gateway != node && self.peers[node].state == State::Running).then_some(gateway)
    }

    /// The node role of `node` looks whether its stream is where it should be.
    pub(crate) fn register(&mut self, node: usize) {
        let wanted = self.wanted(node);
        if let Some(session) = self.sessions[node]
            && Some(session.gateway) != wanted
        {
            self.sessions[node] = None;
            // The end of a stream may be long on its way, and the old gateway go on dispatching meanwhile.
            let delay =
                if self.dice.chance(200) { self.dice.range(0..=3 * SECOND) } else { self.dice.range(0..=30 * MS) };
            self.at(delay, Event::Goodbye { gateway: session.gateway, node, id: session.id });
        }
        if wanted.is_some() && self.sessions[node].is_none() && !self.registering[node] {
            self.registering[node] = true;
            let delay = self.dice.range(MS..=50 * MS);
            self.at(delay, Event::Register(node));
        }
    }

    pub(crate) fn try_register(&mut self, node: usize) {
        self.registering[node] = false;
        let Some(gateway) = self.wanted(node) else { return };
        if self.sessions[node].is_some() || !self.sees_link(node, gateway) {
            return;
        }
        let (key, _) = pair_of(node, gateway);
        let leads = self.peers[gateway].gateway.is_some_and(|epoch| epoch.peer == self.peers[gateway].id);
        let reachable = self.usable(key) && !self.pairs[&key].is_cut();
        if !leads || !reachable || !self.peers[gateway].awake() || !self.peers[node].awake() {
            self.registering[node] = true;
            let delay = self.dice.range(50 * MS..=250 * MS);
            self.at(delay, Event::Register(node));
            return;
        }
        self.session_ids += 1;
        let session = Session { gateway, id: self.session_ids, conn: self.pairs[&key].conn };
        self.sessions[node] = Some(session);
        self.registered.insert((gateway, node), session.id);
        let id = self.peers[node].id;
        self.trace.story(self.now, || format!("p{node} registers at p{gateway}, session {}", session.id));
        self.input(gateway, Input::NodeUp(id, session.id));
    }

    /// A stream's end reaches the gateway, perhaps long after a new one is there.
    pub(crate) fn goodbye(&mut self, gateway: usize, node: usize, id: SessionId) {
        if self.registered.get(&(gateway, node)) == Some(&id) {
            self.registered.remove(&(gateway, node));
        }
        let peer = self.peers[node].id;
        self.input(gateway, Input::NodeDown(peer, id));
    }

    /// Sessions over a connection end as this end of it ends.
    fn lose_sessions(&mut self, key: (usize, usize), end: usize, late: bool) {
        let (me, other) = if end == 0 { key } else { (key.1, key.0) };
        // As the node:
        if self.sessions[me].is_some_and(|session| session.gateway == other) {
            let session = self.sessions[me].take();
            self.register(me);
            if late && let Some(session) = session {
                let delay = self.dice.range(0..=500 * MS);
                self.at(delay, Event::Goodbye { gateway: other, node: me, id: session.id });
            }
        }
        // As the gateway:
        if let Some(id) = self.registered.get(&(me, other)).copied() {
            let delay = if late { self.dice.range(0..=500 * MS) } else { 0 };
            if delay == 0 {
                self.goodbye(me, other, id);
            } else {
                self.at(delay, Event::Goodbye { gateway: me, node: other, id });
            }
        }
    }

    /// `gateway` does not lead any more: it ends its nodes' streams.
    pub(crate) fn close_sessions(&mut self, gateway: usize) {
        let nodes: Vec<(usize, SessionId)> =
            self.registered.iter().filter(|((at, _), _)| *at == gateway).map(|((_, node), id)| (*node, *id)).collect();
        for (node, id) in nodes {
            self.at(1, Event::Goodbye { gateway, node, id });
            let (key, _) = pair_of(node, gateway);
            let delay = self.pairs[&key].latency_us;
            self.at(delay, Event::Moved { node, id });
        }
    }

    /// A node learns that its stream was ended by the gateway.
    pub(crate) fn moved(&mut self, node: usize, id: SessionId) {
        if self.sessions[node].is_some_and(|session| session.id == id) {
            self.sessions[node] = None;
            self.register(node);
        }
    }

    /// Links to peers that are not approved any more are closed.
    pub(crate) fn close_untrusted(&mut self, peer: usize) {
        for other in (0..self.peers.len()).filter(|other| *other != peer) {
            let (key, end) = pair_of(peer, other);
            if self.pairs[&key].view[end] != 0 && !self.trusts(peer, other) {
                self.end_down(key, end);
            } else if self.pairs[&key].view[end] == 0 && self.trusts(peer, other) {
                self.dial(key);
            }
        }
    }
}
