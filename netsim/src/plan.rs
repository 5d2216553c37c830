//! The plan of a run, drawn from its own stream of the seed: who takes part, what goes wrong, what is asked for.
//! Times are microseconds from the end of the setup.

use mesh_core::entry::Tier;

use crate::dice::Dice;

/// A second of virtual time.
pub(crate) const SECOND: u64 = 1_000_000;
/// A millisecond of virtual time.
pub(crate) const MS: u64 = 1_000;
/// How long things go wrong.
pub(crate) const FAULTS_US: u64 = 20 * SECOND;

/// Which mixture of plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Profile {
    /// 2 to 6 peers, everything may go wrong.
    Default,
    /// The two-peer home, with many crashes around commits.
    Two,
    /// 8 to 14 peers.
    Big,
}

/// One peer.
#[derive(Debug, Clone)]
pub(crate) struct PeerPlan {
    pub(crate) class: u8,
    pub(crate) eligible: bool,
    pub(crate) tier: Tier,
    /// By invite, or approved by hand.
    pub(crate) invited: bool,
    /// When it joins; zero = during setup.
    pub(crate) join_at: u64,
    /// How wrong its wall clock is from the start.
    pub(crate) skew_ms: i64,
    /// Shortest and longest fsync.
    pub(crate) fsync_us: (u64, u64),
    pub(crate) forget_after_ms: u64,
    pub(crate) handover_after_ms: u64,
    pub(crate) handover_settle_ms: u64,
}

/// What a crash waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Near {
    /// The next batch that is waited for.
    Commit,
    /// The next start of a tool.
    Invoke,
    /// The next end of a tool.
    Ended,
    /// The next promise made durable.
    Durable,
}

/// What goes wrong.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Only peers of one group reach each other.
    Split(Vec<u8>),
    /// The split is over; single cuts remain.
    Unsplit,
    /// One pair does not reach each other.
    Cut(usize, usize),
    /// It does again.
    Uncut(usize, usize),
    /// Datagrams of one direction vanish, this many of 1,000.
    OneWay(usize, usize, u64),
    /// Datagrams of all vanish, this many of 1,000.
    Loss(u64),
    /// Power fails; back after so long.
    Crash { peer: usize, down_us: u64 },
    /// Power fails so long after what is named.
    CrashNear { peer: usize, near: Near, after_us: u64, down_us: u64 },
    /// A clean stop; back after so long.
    Stop { peer: usize, down_us: u64 },
    /// Frozen.
    Suspend { peer: usize, for_us: u64 },
    /// The next fsync takes so long.
    Stall { peer: usize, for_us: u64 },
    /// The wall clock is set.
    WallJump { peer: usize, by_ms: i64 },
    /// Somebody is thrown out.
    Revoke { by: usize, peer: usize },
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) origin: usize,
    /// `None` = any node.
    pub(crate) target: Option<usize>,
    pub(crate) tool: &'static str,
    pub(crate) ttl_ms: u64,
    /// Whether the caller wants "once" whatever the tool says.
    pub(crate) strict: bool,
    pub(crate) key: Option<String>,
    /// Distinguishes the arguments.
    pub(crate) argument: u64,
    /// Whether the arguments are a blob.
    pub(crate) blob: bool,
    /// Cancelled so long after the receipt.
    pub(crate) cancel_after_us: Option<u64>,
}

/// All of it.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) peers: Vec<PeerPlan>,
    /// Pairs without a way to each other until the final healing.
    pub(crate) sparse: Vec<(usize, usize)>,
    /// Least one-way latency of each pair, in the order of [`pairs`].
    pub(crate) latency_us: Vec<u64>,
    pub(crate) faults: Vec<(u64, Fault)>,
    pub(crate) asks: Vec<(u64, Ask)>,
    /// Whether a better peer is handed the role soon enough to be seen.
    pub(crate) handovers: bool,
    /// Whether wall clocks jump: then time across a restart is not kept.
    pub(crate) wall_jumps: bool,
}

/// All unordered pairs.
pub(crate) fn pairs(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).flat_map(move |a| (a + 1..count).map(move |b| (a, b)))
}

const DAY_MS: i64 = 24 * 3600 * 1000;

impl Plan {
    pub(crate) fn draw(seed: u64, profile: Profile) -> Self {
        let mut dice = Dice::new(seed, 1);
        let count = match profile {
            Profile::Default => dice.pick(&[2, 2, 3, 3, 3, 4, 4, 5, 5, 6]),
            Profile::Two => 2,
            Profile::Big => dice.range(8..=14) as usize,
        };
        let handovers = dice.chance(100);
        let forgets = dice.chance(150);
        let wall_jumps = dice.chance(300);
        let peers = (0..count).map(|index| Self::peer(&mut dice, index, handovers, forgets, wall_jumps)).collect();
        let sparse = if count > 2 && dice.chance(200) { Self::sparse(&mut dice, count) } else { Vec::new() };
        let near = dice.chance(600);
        let latency_us =
            pairs(count).map(|_| if near { dice.range(200..=2_000) } else { dice.range(200..=30_000) }).collect();
        let mut plan = Self { peers, sparse, latency_us, faults: Vec::new(), asks: Vec::new(), handovers, wall_jumps };
        plan.draw_faults(&mut dice, profile);
        plan.draw_asks(&mut dice, profile);
        plan.faults.sort_by_key(|(at, _)| *at);
        plan.asks.sort_by_key(|(at, _)| *at);
        plan
    }

    fn peer(dice: &mut Dice, index: usize, handovers: bool, forgets: bool, wall_jumps: bool) -> PeerPlan {
        let founder = index == 0;
        let slow = dice.chance(150);
        PeerPlan {
            class: dice.pick(&[0, 1, 2, 2, 3, 3, 4, 12]),
            eligible: !dice.chance(if founder { 60 } else { 150 }),
            tier: if founder || dice.chance(850) { Tier::Owner } else { Tier::Shared },
            invited: dice.chance(500),
            join_at: if founder || dice.chance(850) { 0 } else { dice.range(1..=18) * SECOND },
            skew_ms: if wall_jumps && dice.chance(400) {
                if dice.chance(500) { DAY_MS } else { -DAY_MS }
            } else {
                dice.range(0..=400).cast_signed() - 200
            },
            fsync_us: if slow { (2_000, 20_000) } else { (200, 4_000) },
            forget_after_ms: if forgets { 90_000 } else { 8 * 24 * 3600 * 1000 },
            handover_after_ms: if handovers { 3_000 } else { 30_000 },
            handover_settle_ms: if handovers { 5_000 } else { 300_000 },
        }
    }

    /// Takes links away at random while everyone stays connected.
    fn sparse(dice: &mut Dice, count: usize) -> Vec<(usize, usize)> {
        let mut gone: Vec<(usize, usize)> = Vec::new();
        for _ in 0..count * count {
            let (a, b) = (dice.index(count), dice.index(count));
            let pair = (a.min(b), a.max(b));
            if a == b || gone.contains(&pair) {
                continue;
            }
            gone.push(pair);
            if !connected(count, |x, y| !gone.contains(&(x, y))) {
                gone.pop();
            }
        }
        gone
    }

    fn draw_faults(&mut self, dice: &mut Dice, profile: Profile) {
        let count = self.peers.len();
        let faults = match profile {
            Profile::Default => dice.range(2..=16),
            Profile::Two => dice.range(4..=20),
            Profile::Big => dice.range(4..=24),
        };
        let mut revoked = false;
        for _ in 0..faults {
            let at = dice.range(0..=FAULTS_US);
            let peer = dice.index(count);
            let other = (peer + 1 + dice.index(count - 1)) % count;
            let down_us =
                if dice.chance(700) { dice.range(50 * MS..=2 * SECOND) } else { dice.range(2 * SECOND..=9 * SECOND) };
            let crashy = if profile == Profile::Two { 55 } else { 35 };
            match dice.range(0..=99) {
                roll if roll < crashy => {
                    let fault = if dice.chance(250) {
                        Fault::Crash { peer, down_us }
                    } else {
                        let near = dice.pick(&[Near::Commit, Near::Invoke, Near::Ended, Near::Durable]);
                        Fault::CrashNear { peer, near, after_us: dice.range(0..=20 * MS), down_us }
                    };
                    self.faults.push((at, fault));
                }
                roll if roll < crashy + 12 => {
                    let groups = dice.range(2..=3);
                    let split = (0..count).map(|_| dice.range(1..=groups) as u8).collect();
                    self.faults.push((at, Fault::Split(split)));
                    self.faults.push((at + dice.range(100 * MS..=9 * SECOND), Fault::Unsplit));
                }
                roll if roll < crashy + 22 => {
                    self.faults.push((at, Fault::Cut(peer, other)));
                    self.faults.push((at + dice.range(100 * MS..=9 * SECOND), Fault::Uncut(peer, other)));
                }
                roll if roll < crashy + 27 => {
                    self.faults.push((at, Fault::OneWay(peer, other, dice.range(300..=1000))));
                }
                roll if roll < crashy + 30 => self.faults.push((at, Fault::Loss(dice.range(0..=300)))),
                roll if roll < crashy + 33 => self.faults.push((at, Fault::Stop { peer, down_us })),
                roll if roll < crashy + 38 => {
                    self.faults.push((at, Fault::Suspend { peer, for_us: dice.range(300 * MS..=8 * SECOND) }));
                }
                roll if roll < crashy + 41 => {
                    self.faults.push((at, Fault::Stall { peer, for_us: dice.range(100 * MS..=1_300 * MS) }));
                }
                roll if roll < crashy + 43 && self.wall_jumps => {
                    let by_ms = dice.pick(&[DAY_MS, -DAY_MS, 3_600_000, -3_600_000, 90_000, -90_000]);
                    self.faults.push((at, Fault::WallJump { peer, by_ms }));
                }
                roll if roll < crashy + 44 && !revoked && count > 2 && peer != 0 => {
                    revoked = true;
                    self.faults.push((at, Fault::Revoke { by: if other == peer { 0 } else { other }, peer }));
                }
                _ => {}
            }
        }
        // What is left open ends before the quiescence begins, except for the topology.
        for (at, fault) in &mut self.faults {
            if !matches!(fault, Fault::Unsplit | Fault::Uncut(..)) {
                *at = (*at).min(FAULTS_US);
            }
        }
        self.faults.retain(|(at, _)| *at <= FAULTS_US);
    }

    fn draw_asks(&mut self, dice: &mut Dice, profile: Profile) {
        let count = self.peers.len();
        let asks = match profile {
            Profile::Default | Profile::Big => dice.range(4..=30),
            Profile::Two => dice.range(6..=40),
        };
        let key_target = dice.index(count);
        for argument in 0..asks {
            let at = dice.range(0..=FAULTS_US + 2 * SECOND);
            let origin = dice.index(count);
            let ttl_ms = dice.pick(&[300, 1_000, 2_000, 3_000, 5_000, 8_000, 15_000, 15_000, 25_000]);
            let ask = Ask {
                origin,
                target: if dice.chance(900) { Some(dice.index(count)) } else { None },
                tool: dice.pick(&["look", "put", "put", "print", "print", "print", "private", "absent"]),
                ttl_ms,
                strict: dice.chance(100),
                key: None,
                argument,
                blob: dice.chance(80),
                cancel_after_us: dice.chance(120).then(|| dice.range(0..=3 * SECOND)),
            };
            if dice.chance(120) {
                // One client key, twice or more: at one origin or at two; now and then with other arguments.
                let key = format!("key-{}", dice.range(0..=2));
                let kept = Ask {
                    target: Some(key_target),
                    tool: "print",
                    key: Some(key),
                    argument: 1_000,
                    blob: false,
                    strict: false,
                    ..ask
                };
                let origin = if dice.chance(500) { origin } else { dice.index(count) };
                let argument = if dice.chance(900) { 1_000 } else { 2_000 };
                let again = Ask { origin, argument, cancel_after_us: None, ..kept.clone() };
                self.asks.push((at + dice.pick(&[0, MS, 100 * MS, 3 * SECOND]), again));
                self.asks.push((at, kept));
            } else {
                self.asks.push((at, ask));
                if dice.chance(60) {
                    // A burst, more than may run at once.
                    for more in 0..dice.range(5..=30) {
                        let ask = Ask {
                            argument: 10_000 + argument * 100 + more,
                            key: None,
                            ..self.asks[self.asks.len() - 1].1.clone()
                        };
                        self.asks.push((at + more * 100, ask));
                    }
                }
            }
        }
    }
}

/// Whether all `count` vertices hang together by the edges (a < b) that `edge` says are there.
pub(crate) fn connected(count: usize, edge: impl Fn(usize, usize) -> bool) -> bool {
    let mut seen = vec![false; count];
    let mut open = vec![0];
    seen[0] = true;
    while let Some(at) = open.pop() {
        for (next, seen) in seen.iter_mut().enumerate() {
            if next != at && !*seen && edge(at.min(next), at.max(next)) {
                *seen = true;
                open.push(next);
            }
        }
    }
    seen.into_iter().all(|seen| seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparse_plan_leaves_everyone_connected() {
        for seed in 0..500 {
            let plan = Plan::draw(seed, Profile::Default);
            assert!(connected(plan.peers.len(), |a, b| !plan.sparse.contains(&(a, b))), "seed {seed}");
        }
    }
}
