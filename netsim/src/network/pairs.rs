//! Paths between every two peers.

use std::ops::Index;

use mesh_core::frame::Frame;

use crate::plan::pairs;

/// The path between two peers.
#[derive(Debug, Default)]
pub(crate) struct Pair {
    /// No packet passes, by sending end.
    pub(super) cut: [bool; 2],
    /// A cut of this pair alone, by sending end.
    pub(crate) single: [bool; 2],
    /// Number of the present connection, 0 before the first.
    pub(crate) conn: u64,
    /// True while both ends keep it.
    pub(crate) alive: bool,
    /// The connection that the core at each end was told of, 0 = none.
    pub(crate) view: [u64; 2],
    /// Stream frames that wait for the cut to end: sending end, frame.
    pub(super) stalled: Vec<(usize, Frame)>,
    /// Arrival of the last frame of (sending end, stream): streams keep their order.
    pub(super) arrives: [[u64; 2]; 2],
    /// Datagrams lost of 1,000, by sending end.
    pub(crate) loss: [u64; 2],
    pub(crate) latency_us: u64,
    pub(super) dialing: bool,
    /// The peer that relays the present connection, if it is relayed.
    pub(crate) relay: Option<usize>,
    /// It passes nothing on just now.
    pub(super) blocked: bool,
    /// When the present connection came up.
    pub(super) since: u64,
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

    /// True if what this end sends does not get through on the present connection.
    pub(super) fn stops(&self, end: usize) -> bool {
        if self.relay.is_some() { self.blocked } else { self.cut[end] }
    }

    /// True if something does not get through on it, one way or both.
    pub(super) fn is_stopped(&self) -> bool {
        if self.relay.is_some() { self.blocked } else { self.is_cut() }
    }

    /// True if both ends have a link that works.
    pub(super) fn usable(&self) -> bool {
        self.alive && self.view == [self.conn; 2]
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
