//! Plans by the thousand: each profile is a mixture.

use mesh_core::record::Tier;

use super::{Ask, FAULTS_US, Fault, MS, Near, PeerPlan, Plan, Profile, SECOND, connected, pairs};
use crate::dice::Dice;

const DAY_MS: i64 = 24 * 3600 * 1000;

impl Plan {
    pub(crate) fn draw(seed: u64, profile: Profile) -> Self {
        let mut dice = Dice::new(seed, 1);
        let count = match profile {
            Profile::Default => dice.pick(&[2, 2, 3, 3, 3, 4, 4, 5, 5, 6]),
            Profile::Two => 2,
            Profile::Big => dice.range(8..=14) as usize,
            Profile::Five => 5,
            Profile::Fleet
            | Profile::Clocks
            | Profile::Disks
            | Profile::Queue
            | Profile::Halves
            | Profile::Ages
            | Profile::Rights
            | Profile::People
            | Profile::Tokens
            | Profile::Relay => {
                return Self::draw_rough(seed, profile);
            }
        };
        let handovers = dice.chance(100);
        let forgets = dice.chance(150);
        let wall_jumps = dice.chance(300);
        let peers = (0..count).map(|index| Self::peer(&mut dice, index, handovers, forgets, wall_jumps)).collect();
        let sparse = if count > 2 && dice.chance(200) { Self::sparse(&mut dice, count) } else { Vec::new() };
        let near = dice.chance(600);
        let latency_us =
            pairs(count).map(|_| if near { dice.range(200..=2_000) } else { dice.range(200..=30_000) }).collect();
        let mut plan = Self {
            faults_us: FAULTS_US,
            peers,
            sparse,
            latency_us,
            faults: Vec::new(),
            asks: Vec::new(),
            handovers,
            wall_jumps,
            crossing: false,
            keep_entries_ms: None,
            open_per_target_max: None,
            queue_max: None,
            small_budgets: false,
        };
        plan.draw_faults(&mut dice, profile);
        plan.draw_asks(&mut dice, profile);
        plan.draw_limits(seed);
        plan.draw_cuts_one_way(seed);
        // Speed is measured with about a dozen calls, and a flood has a hundred.
        if profile != Profile::Five {
            plan.draw_flood(seed);
        }
        plan.sorted()
    }

    /// Now and then nothing passes from one peer to another while it does the other way.
    pub(super) fn draw_cuts_one_way(&mut self, seed: u64) {
        let mut dice = Dice::new(seed, 4);
        if !dice.chance(150) {
            return;
        }
        let count = self.peers.len();
        for _ in 0..dice.range(1..=3) {
            let (from, at) = (dice.index(count), dice.range(0..=FAULTS_US));
            let to = (from + 1 + dice.index(count - 1)) % count;
            self.faults.push((at, Fault::CutOneWay { from, to }));
            let until = at + dice.range(100 * MS..=9 * SECOND);
            self.faults.push((until.min(FAULTS_US), Fault::Uncut { a: from, b: to }));
        }
    }

    /// Now and then the limits are so small that they are reached.
    fn draw_limits(&mut self, seed: u64) {
        let mut dice = Dice::new(seed, 3);
        if dice.chance(100) {
            self.open_per_target_max = Some(dice.range(1..=8) as usize);
            self.queue_max = Some(dice.range(1..=8) as usize);
            let credits = Some((dice.range(1..=3) as usize, dice.range(1..=4) as usize));
            for peer in &mut self.peers {
                peer.credits = credits;
            }
        }
    }

    /// Now and then budgets are small, and one peer asks for whatever it likes.
    fn draw_flood(&mut self, seed: u64) {
        let mut dice = Dice::new(seed, 5);
        let count = self.peers.len();
        if count < 3 || !dice.chance(60) {
            return;
        }
        self.small_budgets = true;
        let floods = 1 + dice.index(count - 1);
        let peer = &mut self.peers[floods];
        (peer.floods, peer.tier, peer.join_at) = (true, Tier::Shared, 0);
        let begins = dice.range(SECOND..=8 * SECOND);
        let ttl_ms = dice.pick(&[2_000, 8_000, 15_000]);
        for argument in 0..dice.range(60..=160) {
            let ask = Ask {
                origin: floods,
                target: Some(dice.index(count)),
                tool: "put".to_owned(),
                ttl_ms,
                timeout_ms: None,
                strict: false,
                key: None,
                argument: 20_000 + argument,
                blob: dice.chance(100),
                cancel_after_us: None,
                principal: None,
                token: None,
            };
            self.asks.push((begins + argument * dice.range(MS..=20 * MS), ask));
        }
    }

    /// In the order of time.
    pub(super) fn sorted(mut self) -> Self {
        self.faults.sort_by_key(|(at, _)| *at);
        self.asks.sort_by_key(|(at, _)| *at);
        self
    }

    pub(super) fn peer(dice: &mut Dice, index: usize, handovers: bool, forgets: bool, wall_jumps: bool) -> PeerPlan {
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
            named_like: None,
            drift_ppm: 0,
            lag_us: 0,
            credits: None,
            relays: None,
            floods: false,
        }
    }

    /// Takes links away at random while everyone stays connected.
    pub(super) fn sparse(dice: &mut Dice, count: usize) -> Vec<(usize, usize)> {
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

    pub(super) fn draw_faults(&mut self, dice: &mut Dice, profile: Profile) {
        let count = self.peers.len();
        let faults = match profile {
            Profile::Two => dice.range(4..=20),
            Profile::Big | Profile::Fleet => dice.range(4..=24),
            Profile::Default
            | Profile::Five
            | Profile::Clocks
            | Profile::Disks
            | Profile::Queue
            | Profile::Halves
            | Profile::Ages
            | Profile::Rights
            | Profile::People
            | Profile::Tokens
            | Profile::Relay => dice.range(2..=16),
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
                    self.faults.push((at, Fault::Split { groups: split }));
                    self.faults.push((at + dice.range(100 * MS..=9 * SECOND), Fault::Unsplit));
                }
                roll if roll < crashy + 22 => {
                    self.faults.push((at, Fault::Cut { a: peer, b: other }));
                    self.faults.push((at + dice.range(100 * MS..=9 * SECOND), Fault::Uncut { a: peer, b: other }));
                }
                roll if roll < crashy + 27 => {
                    self.faults.push((at, Fault::OneWay { from: peer, to: other, loss: dice.range(300..=1000) }));
                }
                roll if roll < crashy + 30 => self.faults.push((at, Fault::Loss { loss: dice.range(0..=300) })),
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
                    self.faults
                        .push((at, Fault::Revoke { by: if other == peer { 0 } else { other }, peer, unsaid: false }));
                }
                _ => {}
            }
        }
        // What is left open ends before the quiescence begins, except for the topology.
        for (at, fault) in &mut self.faults {
            if !matches!(fault, Fault::Unsplit | Fault::Uncut { .. }) {
                *at = (*at).min(FAULTS_US);
            }
        }
        self.faults.retain(|(at, _)| *at <= FAULTS_US);
    }

    pub(super) fn draw_asks(&mut self, dice: &mut Dice, profile: Profile) {
        let count = self.peers.len();
        let asks = match profile {
            Profile::Two => dice.range(6..=40),
            // As many as the prototype's scenarios had in a third of their time.
            Profile::Five => dice.range(4..=12),
            Profile::Default
            | Profile::Big
            | Profile::Fleet
            | Profile::Clocks
            | Profile::Disks
            | Profile::Queue
            | Profile::Halves
            | Profile::Ages
            | Profile::Rights
            | Profile::Relay => dice.range(4..=30),
            Profile::People | Profile::Tokens => dice.range(2..=8),
        };
        let key_target = dice.index(count);
        for argument in 0..asks {
            let at = dice.range(0..=FAULTS_US + 2 * SECOND);
            let origin = dice.index(count);
            let ttl_ms = dice.pick(&[300, 1_000, 2_000, 3_000, 5_000, 8_000, 15_000, 15_000, 25_000]);
            let ask = Ask {
                origin,
                target: if dice.chance(900) { Some(dice.index(count)) } else { None },
                tool: dice.pick(&["look", "put", "put", "print", "print", "print", "private", "absent"]).to_owned(),
                ttl_ms,
                timeout_ms: None,
                strict: dice.chance(100),
                key: None,
                argument,
                blob: dice.chance(80),
                cancel_after_us: dice.chance(120).then(|| dice.range(0..=3 * SECOND)),
                principal: None,
                token: None,
            };
            if dice.chance(120) {
                // One client key, twice or more: at one origin or at two; now and then with other arguments.
                let key = format!("key-{}", dice.range(0..=2));
                let kept = Ask {
                    target: Some(key_target),
                    tool: "print".to_owned(),
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
