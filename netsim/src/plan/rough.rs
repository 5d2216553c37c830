//! The rarer mixtures: clocks, disks, queues, fleets, and halves that cross each other.

use mesh_core::io::AnswerChoice;
use mesh_core::record::Tier;

use super::{Ask, FAULTS_US, Fault, MS, NEVER, Near, PeerPlan, Plan, Profile, SECOND, Says, pairs};
use crate::dice::Dice;

const HOUR_US: u64 = 3_600 * SECOND;

impl Plan {
    pub(super) fn draw_rough(seed: u64, profile: Profile) -> Self {
        let mut dice = Dice::new(seed, 1);
        let count = match profile {
            Profile::Fleet => dice.range(15..=50) as usize,
            Profile::Halves => dice.range(4..=7) as usize,
            Profile::Rights => dice.range(3..=5) as usize,
            Profile::People | Profile::Tokens | Profile::Relay => dice.range(3..=6) as usize,
            Profile::Ages => dice.range(2..=5) as usize,
            Profile::Queue => dice.range(2..=4) as usize,
            Profile::Clocks | Profile::Disks | Profile::Default | Profile::Five | Profile::Two | Profile::Big => {
                dice.pick(&[2, 3, 3, 4, 5])
            }
        };
        let forgets = matches!(profile, Profile::Disks | Profile::Clocks) && dice.chance(300);
        let wall_jumps = profile == Profile::Clocks;
        let peers = (0..count).map(|index| Self::peer(&mut dice, index, false, forgets, wall_jumps)).collect();
        let near = dice.chance(600);
        let latency_us =
            pairs(count).map(|_| if near { dice.range(200..=2_000) } else { dice.range(200..=30_000) }).collect();
        let mut plan = Self {
            faults_us: FAULTS_US,
            handovers: false,
            wall_jumps,
            crossing: profile == Profile::Halves,
            keep_entries_ms: (profile == Profile::Ages).then_some(12_000),
            open_per_target_max: (profile == Profile::Queue).then(|| dice.range(4..=20) as usize),
            queue_max: (profile == Profile::Queue).then(|| dice.range(2..=30) as usize),
            small_budgets: false,
            peers,
            sparse: if dice.chance(300) { Self::sparse(&mut dice, count) } else { Vec::new() },
            latency_us,
            faults: Vec::new(),
            asks: Vec::new(),
        };
        let quiet =
            matches!(profile, Profile::Halves | Profile::Rights | Profile::People | Profile::Tokens | Profile::Relay);
        if !quiet || dice.chance(300) {
            plan.draw_faults(&mut dice, profile);
        }
        plan.draw_asks(&mut dice, profile);
        if matches!(profile, Profile::Disks | Profile::Halves) {
            // Who is gone for good is not waited for longer than its tools may run.
            for (_, ask) in &mut plan.asks {
                ask.timeout_ms = Some(4_000);
            }
        }
        match profile {
            Profile::Clocks => plan.draw_clocks(&mut dice),
            Profile::Disks => plan.draw_disks(&mut dice),
            Profile::Queue => plan.draw_queues(&mut dice),
            Profile::Halves => plan.draw_halves(&mut dice),
            Profile::Ages => plan.draw_ages(&mut dice),
            Profile::Rights => plan.draw_rights(&mut dice),
            Profile::People => plan.draw_people(&mut dice),
            Profile::Tokens => {
                plan.draw_people(&mut dice);
                plan.draw_tokens(&mut dice);
            }
            Profile::Relay => plan.draw_relays(&mut dice),
            Profile::Fleet | Profile::Default | Profile::Five | Profile::Two | Profile::Big => {}
        }
        if profile == Profile::Halves {
            plan.draw_former_owners(seed);
            plan.draw_owners_again(seed);
        }
        if matches!(profile, Profile::Queue | Profile::Halves | Profile::Clocks) {
            plan.draw_cuts_one_way(seed);
        }
        plan.sorted()
    }

    /// Pairs that are cut for long while most devices relay, and power failures while they do. Sometimes nothing else.
    fn draw_relays(&mut self, dice: &mut Dice) {
        let count = self.peers.len();
        for peer in &mut self.peers {
            peer.relays = Some(dice.chance(800));
            peer.eligible |= dice.chance(700);
        }
        let hub = dice.index(count);
        for _ in 0..dice.range(1..=5) {
            let a = if dice.chance(700) { hub } else { dice.index(count) };
            let b = (a + 1 + dice.index(count - 1)) % count;
            let at = dice.range(0..=14 * SECOND);
            self.faults.push((at, Fault::Cut { a, b }));
            if dice.chance(700) {
                let until = at + dice.range(2 * SECOND..=15 * SECOND);
                self.faults.push((until.min(FAULTS_US), Fault::Uncut { a, b }));
            }
        }
        for _ in 0..dice.range(1..=4) {
            let (peer, at) = (dice.index(count), dice.range(4 * SECOND..=FAULTS_US));
            let down_us = dice.range(50 * MS..=6 * SECOND);
            let near = dice.pick(&[Near::Commit, Near::Invoke, Near::Ended]);
            let fault = match dice.range(0..=3) {
                0 => Fault::Suspend { peer, for_us: down_us },
                1 => Fault::CrashNear { peer, near, after_us: dice.range(0..=20 * MS), down_us },
                _ => Fault::Crash { peer, down_us },
            };
            self.faults.push((at, fault));
        }
    }

    /// A workspace is made early; rules come and go, also in two halves, guests get places, and people answer what waits.
    fn draw_rights(&mut self, dice: &mut Dice) {
        let count = self.peers.len();
        // Half of the plans take nothing from anybody.
        let takes = dice.chance(500);
        if count > 2 && !self.peers.iter().any(|peer| peer.tier == Tier::Shared) {
            let peer = &mut self.peers[count - 1];
            (peer.tier, peer.join_at) = (Tier::Shared, 0);
        }
        for (_, ask) in &mut self.asks {
            ask.timeout_ms = Some(4_000);
        }
        if !takes {
            self.faults.retain(|(_, fault)| !matches!(fault, Fault::Revoke { .. }));
        }
        let owners: Vec<usize> = (0..count).filter(|peer| self.peers[*peer].tier == Tier::Owner).collect();
        self.faults.push((0, Fault::Govern { by: 0 }));
        if dice.chance(600) {
            let split = (0..count).map(|_| dice.range(1..=2) as u8).collect();
            let at = dice.range(SECOND..=FAULTS_US / 2);
            self.faults.push((at, Fault::Split { groups: split }));
            self.faults.push((at + dice.range(SECOND..=9 * SECOND), Fault::Unsplit));
        }
        let tool = |dice: &mut Dice| dice.pick(&["look", "put", "print", "print", "private"]).to_owned();
        for _ in 0..dice.range(2..=8) {
            let (at, by) = (dice.range(200 * MS..=FAULTS_US), dice.pick(&owners));
            let says = match dice.range(0..=9) {
                0..=5 => Says::Ask,
                6..=7 if takes => Says::Deny,
                _ => Says::Nothing,
            };
            let wait_ms = dice.range(1_000..=6_000);
            self.faults.push((at, Fault::Rule { by, tool: tool(dice), says, wait_ms }));
        }
        for peer in (0..count).filter(|peer| self.peers[*peer].tier == Tier::Shared).collect::<Vec<_>>() {
            let at = dice.range(200 * MS..=FAULTS_US / 2);
            let by = dice.pick(&owners);
            self.faults.push((at, Fault::Seat { by, peer, gives: true }));
            if takes && dice.chance(400) {
                let gone = at + dice.range(SECOND..=FAULTS_US / 2);
                self.faults.push((gone, Fault::Seat { by: dice.pick(&owners), peer, gives: false }));
            }
            // It asks as soon as it may.
            for argument in 0..dice.range(1..=4) {
                let ask = Ask {
                    origin: peer,
                    target: Some(dice.index(count)),
                    tool: dice.pick(&["look", "put", "print"]).to_owned(),
                    ttl_ms: 8_000,
                    timeout_ms: Some(4_000),
                    strict: false,
                    key: None,
                    argument: 40_000 + peer as u64 * 100 + argument,
                    blob: false,
                    cancel_after_us: None,
                    principal: None,
                    token: None,
                };
                self.asks.push((at + dice.range(0..=400 * MS), ask));
            }
        }
        for peer in (1..count).filter(|peer| self.peers[*peer].tier == Tier::Owner).collect::<Vec<_>>() {
            if takes && dice.chance(200) {
                self.faults.push((dice.range(0..=FAULTS_US), Fault::Demote { by: 0, peer }));
            }
        }
        for _ in 0..dice.range(4..=16) {
            let choice = match dice.range(0..=9) {
                0..=5 => AnswerChoice::Once,
                6..=7 => AnswerChoice::Hour,
                8 if takes => AnswerChoice::No,
                _ => AnswerChoice::Always,
            };
            let (at, peer) = (dice.range(SECOND..=FAULTS_US), dice.index(count));
            self.faults.push((at, Fault::Answer { peer, choice }));
            if takes && choice == AnswerChoice::Hour && dice.chance(500) {
                let at = dice.range(at..=FAULTS_US);
                self.faults.push((at, Fault::TakeBack { peer: dice.index(count) }));
            }
            // Two of them press at once, or in two halves.
            if dice.chance(300) {
                let choice = if takes { AnswerChoice::No } else { AnswerChoice::Once };
                let at = (at + dice.range(0..=200 * MS)).min(FAULTS_US);
                self.faults.push((at, Fault::Answer { peer: dice.index(count), choice }));
            }
        }
        for peer in owners.into_iter().filter(|peer| *peer > 0) {
            if takes && dice.chance(200) {
                let at = dice.range(FAULTS_US / 2..=FAULTS_US);
                self.faults.push((at, Fault::Revoke { by: 0, peer, unsaid: dice.chance(700) }));
            }
        }
    }

    /// Now and then an owner is lowered or removed, and answers as one; in one half or in both.
    fn draw_former_owners(&mut self, seed: u64) {
        let mut dice = Dice::new(seed, 6);
        for peer in (1..self.peers.len()).filter(|peer| self.peers[*peer].tier == Tier::Owner).collect::<Vec<_>>() {
            if !dice.chance(200) {
                continue;
            }
            let at = dice.range(0..=FAULTS_US / 2);
            let ends = if dice.chance(600) {
                Fault::Demote { by: 0, peer }
            } else {
                Fault::Revoke { by: 0, peer, unsaid: false }
            };
            self.faults.push((at, ends));
            for _ in 0..dice.range(1..=3) {
                self.faults.push((at + dice.range(100 * MS..=FAULTS_US / 2), Fault::Forge { peer }));
            }
        }
    }

    /// Now and then a member becomes an owner, perhaps again.
    fn draw_owners_again(&mut self, seed: u64) {
        let mut dice = Dice::new(seed, 7);
        let lowered = self.faults.iter().filter_map(|(at, fault)| {
            if let Fault::Demote { peer, .. } = fault { Some((*at, *peer, 400)) } else { None }
        });
        let guests = (1..self.peers.len()).filter(|peer| self.peers[*peer].tier == Tier::Shared);
        let raised: Vec<(u64, usize, u64)> = lowered.chain(guests.map(|peer| (3 * SECOND, peer, 300))).collect();
        for (at, peer, permille) in raised {
            if dice.chance(permille) {
                let at = at + dice.range(500 * MS..=FAULTS_US / 2);
                self.faults.push((at.min(FAULTS_US), Fault::Raise { by: 0, peer }));
            }
        }
    }

    fn draw_clocks(&mut self, dice: &mut Dice) {
        let count = self.peers.len();
        if dice.chance(400) {
            // Up to a tenth too fast or too slow: far beyond what durations may be wrong by.
            for peer in &mut self.peers {
                peer.drift_ppm = dice.range(0..=200_000).cast_signed() - 100_000;
            }
        }
        for _ in 0..dice.range(0..=3) {
            let peer = dice.index(count);
            let down_us = dice.range(50 * MS..=2 * SECOND);
            let fault = Fault::ClockLost { peer, down_us, for_us: dice.range(SECOND..=12 * SECOND) };
            self.faults.push((dice.range(0..=FAULTS_US), fault));
        }
        let hours = dice.range(1..=8) * HOUR_US;
        match dice.range(0..=99) {
            // A night: all devices sleep, and wake in any order.
            0..=29 => {
                let at = dice.range(0..=10 * SECOND);
                for peer in 0..count {
                    let (from, longer) = (dice.range(0..=5 * SECOND), dice.range(0..=10 * SECOND));
                    self.faults.push((at + from, Fault::Suspend { peer, for_us: hours + longer }));
                }
                self.lengthen(dice, at, hours);
            }
            // One lid is closed for an hour while the others go on. Slow to simulate, hence seldom.
            30..=33 => {
                let (peer, at) = (dice.index(count), dice.range(0..=10 * SECOND));
                self.faults.push((at, Fault::Suspend { peer, for_us: HOUR_US }));
                self.lengthen(dice, at, HOUR_US);
            }
            _ => {}
        }
    }

    /// Shifts all that was to happen after `at` by `by`; some calls may wait that long.
    fn lengthen(&mut self, dice: &mut Dice, at: u64, by: u64) {
        self.faults_us += by;
        let forgets = self.peers.iter().any(|peer| peer.forget_after_ms < by / MS);
        for (when, fault) in &mut self.faults {
            if *when > at && !matches!(fault, Fault::Suspend { for_us, .. } if *for_us >= HOUR_US) {
                *when += by;
            }
        }
        for (when, ask) in &mut self.asks {
            if *when > at {
                *when += by;
            }
            // A journal may forget only what is older than any call may wait.
            if dice.chance(300) && !forgets {
                ask.ttl_ms = dice.range(60_000..=12 * 3_600_000);
            }
        }
    }

    /// Calls that are over soon; whoever sleeps long, or comes late, finds that most of it is gone.
    fn draw_ages(&mut self, dice: &mut Dice) {
        let count = self.peers.len();
        for (at, ask) in &mut self.asks {
            ask.ttl_ms = ask.ttl_ms.min(3_000);
            ask.timeout_ms = Some(4_000);
            ask.key = None; // a key is forgotten with its call
            *at /= dice.range(1..=2);
        }
        for peer in &mut self.peers {
            peer.forget_after_ms = 9_000;
        }
        if dice.chance(600) {
            let (peer, at) = (dice.index(count), dice.range(0..=4 * SECOND));
            let for_us = dice.range(8 * SECOND..=30 * SECOND);
            let fault = match dice.range(0..=2) {
                0 => Fault::Suspend { peer, for_us },
                1 => Fault::Crash { peer, down_us: for_us },
                _ => Fault::Stop { peer, down_us: for_us },
            };
            self.faults.push((at, fault));
        }
        if count > 2 && dice.chance(600) {
            self.peers[count - 1].join_at = dice.range(8..=18) * SECOND;
        }
        if dice.chance(400) {
            let (peer, at) = (dice.index(count), dice.range(0..=10 * SECOND));
            self.faults.push((at, Fault::Backup { peer }));
            let at = at + dice.range(SECOND..=10 * SECOND);
            self.faults
                .push((at, Fault::Restore { peer, down_us: dice.range(50 * MS..=2 * SECOND), unnoticed: false }));
        }
    }

    fn draw_disks(&mut self, dice: &mut Dice) {
        let count = self.peers.len();
        for peer in &mut self.peers {
            if dice.chance(200) {
                peer.fsync_us = (20 * MS, 200 * MS); // a memory card
            }
        }
        if dice.chance(250) {
            return self.draw_rollback(dice);
        }
        let mut left = false;
        for _ in 0..dice.range(1..=4) {
            let (at, peer) = (dice.range(0..=FAULTS_US), dice.index(count));
            let down_us = dice.range(50 * MS..=3 * SECOND);
            match dice.range(0..=9) {
                0..=3 => {
                    self.faults.push((dice.range(0..=at), Fault::Backup { peer }));
                    self.faults.push((at, Fault::Restore { peer, down_us, unnoticed: false }));
                }
                4..=5 => self.wipe(dice, at, peer, down_us),
                6..=8 => self.faults.push((at, Fault::DiskFull { peer, for_us: down_us })),
                _ if !left && peer != 0 => {
                    left = true;
                    self.faults.push((at, Fault::Leave { peer }));
                }
                _ => {}
            }
        }
    }

    /// A node whose whole disk is played back while nobody sees it, after it ran a call that the others know of.
    fn draw_rollback(&mut self, dice: &mut Dice) {
        // Nothing else goes wrong: whether the others know of a run must follow from the plan alone.
        self.faults.clear();
        self.sparse.clear();
        let count = self.peers.len();
        let peer = dice.range(1..=count as u64 - 1) as usize;
        // What such a device says before it learns of it contradicts its former incarnation: it is asked, and asks
        // nothing itself.
        self.peers[peer].eligible = false;
        self.peers[peer].tier = Tier::Shared;
        self.peers[peer].join_at = 0;
        self.asks.retain(|(_, ask)| ask.origin != peer);
        let copied = dice.range(SECOND..=6 * SECOND);
        self.faults.push((copied, Fault::Backup { peer }));
        let apart = copied + dice.range(SECOND..=6 * SECOND);
        for argument in 0..dice.range(1..=3) {
            let ask = Ask {
                origin: 0,
                target: Some(peer),
                tool: dice.pick(&["put", "print", "print"]).to_owned(),
                ttl_ms: dice.pick(&[8_000, 15_000, 25_000]),
                timeout_ms: None,
                strict: false,
                key: None,
                argument: 30_000 + argument,
                blob: false,
                cancel_after_us: None,
                principal: None,
                token: None,
            };
            self.asks.push((apart - dice.range(0..=2_500 * MS), ask));
        }
        let groups = (0..count).map(|other| if other == peer { 2 } else { 1 }).collect();
        self.faults.push((apart, Fault::Split { groups }));
        let back = apart + dice.range(0..=4 * SECOND);
        self.faults.push((back, Fault::Restore { peer, down_us: dice.range(50 * MS..=SECOND), unnoticed: true }));
        self.faults.push((back + dice.range(0..=2 * SECOND), Fault::Unsplit));
    }

    /// A device loses its disk and comes back as a new peer that would like the old name; somebody may revoke the old
    /// one.
    fn wipe(&mut self, dice: &mut Dice, at: u64, peer: usize, down_us: u64) {
        let wiped = |fault: &Fault| matches!(fault, Fault::Wipe { .. });
        if self.faults.iter().any(|(_, fault)| wiped(fault))
            || (0..peer).all(|other| self.peers[other].tier != Tier::Owner)
        {
            return;
        }
        let heir = self.peers.len();
        self.peers.push(PeerPlan { join_at: NEVER, named_like: Some(peer), ..self.peers[peer].clone() });
        self.latency_us = pairs(heir + 1).map(|_| dice.range(200..=10_000)).collect();
        for (_, fault) in &mut self.faults {
            if let Fault::Split { groups } = fault {
                groups.push(groups[peer]);
            }
        }
        self.faults.push((at, Fault::Wipe { peer, heir, down_us }));
        if dice.chance(600) {
            self.faults.push((at + dice.range(SECOND..=6 * SECOND), Fault::Revoke { by: 0, peer, unsaid: false }));
        }
    }

    fn draw_queues(&mut self, dice: &mut Dice) {
        let count = self.peers.len();
        for peer in &mut self.peers {
            peer.credits = Some((dice.range(1..=2) as usize, dice.range(0..=3) as usize));
            if dice.chance(500) {
                peer.lag_us = dice.range(MS..=60 * MS);
            }
        }
        for burst in 0..dice.range(1..=3) {
            let at = dice.range(0..=FAULTS_US);
            let (origin, target) = (dice.index(count), dice.index(count));
            for number in 0..dice.range(10..=80) {
                let ask = Ask {
                    origin: if dice.chance(800) { origin } else { dice.index(count) },
                    target: Some(target),
                    tool: dice.pick(&["look", "put", "print"]).to_owned(),
                    ttl_ms: dice.pick(&[2_000, 8_000, 30_000]),
                    timeout_ms: None,
                    strict: false,
                    key: None,
                    argument: 100_000 + burst * 1_000 + number,
                    blob: false,
                    cancel_after_us: dice.chance(50).then(|| dice.range(0..=2 * SECOND)),
                    principal: None,
                    token: None,
                };
                self.asks.push((at + number * dice.range(0..=20 * MS), ask));
            }
        }
    }

    fn draw_halves(&mut self, dice: &mut Dice) {
        let count = self.peers.len();
        let groups: Vec<u8> = (0..count).map(|peer| if peer == 0 { 1 } else { dice.range(1..=2) as u8 }).collect();
        let begins = dice.range(500 * MS..=4 * SECOND);
        let ends = begins + dice.range(5 * SECOND..=13 * SECOND);
        let within = |dice: &mut Dice| dice.range(begins..=ends);
        // The founder and one of the other half are owners from the start; up to two come while the halves are apart,
        // perhaps under one name.
        for peer in &mut self.peers {
            peer.join_at = 0;
        }
        let other = groups.iter().position(|group| *group == 2).unwrap_or(count - 1);
        self.peers[other].tier = Tier::Owner;
        let late: Vec<usize> = (1..count).filter(|peer| *peer != other).take(dice.range(0..=2) as usize).collect();
        for peer in &late {
            self.peers[*peer].join_at = within(dice);
        }
        if let [first, second] = *late.as_slice()
            && dice.chance(500)
        {
            self.peers[second].named_like = Some(first);
        }
        self.faults.push((begins, Fault::Split { groups: groups.clone() }));
        self.faults.push((ends, Fault::Unsplit));
        let owner = |peers: &[PeerPlan], peer: usize| peers[peer].tier == Tier::Owner;
        for _ in 0..dice.range(0..=3) {
            let (by, peer) = (dice.index(count), dice.index(count));
            if by == peer || !owner(&self.peers, by) {
                continue;
            }
            let at = within(dice);
            self.faults.push((at, Fault::Revoke { by, peer, unsaid: false }));
            if dice.chance(400) && owner(&self.peers, peer) {
                // Each revokes the other, and neither knows.
                self.faults.push((within(dice), Fault::Revoke { by: peer, peer: by, unsaid: false }));
            }
        }
        for key in 0..dice.range(0..=2) {
            // One client key on both sides.
            let (target, argument) = (dice.index(count), 5_000 + key);
            for origin in 0..count {
                if dice.chance(500) {
                    let ask = Ask {
                        origin,
                        target: Some(target),
                        tool: "print".to_owned(),
                        ttl_ms: dice.pick(&[5_000, 25_000]),
                        timeout_ms: None,
                        strict: false,
                        key: Some(format!("half-{key}")),
                        argument,
                        blob: false,
                        cancel_after_us: None,
                        principal: None,
                        token: None,
                    };
                    self.asks.push((within(dice), ask));
                }
            }
        }
        if dice.chance(200) {
            self.draw_cut_key(dice, &groups, (begins, ends), other);
        }
    }

    /// A call under a client key is cut by a power failure of its target, and the other half has asked for the same:
    /// when the halves meet, only what the target's journal says of the key tells it that it has begun that call.
    fn draw_cut_key(&mut self, dice: &mut Dice, groups: &[u8], (begins, ends): (u64, u64), other: usize) {
        let near: Vec<usize> = (0..groups.len())
            .filter(|peer| groups[*peer] == groups[0] && *peer != other && self.peers[*peer].join_at == 0)
            .collect();
        let (origin, target) = (dice.pick(&near), dice.pick(&near));
        let at = begins + dice.range(SECOND..=2 * SECOND);
        let ask = Ask {
            origin,
            target: Some(target),
            tool: "print".to_owned(),
            ttl_ms: 25_000,
            timeout_ms: Some(4_000),
            strict: false,
            key: Some("cut".to_owned()),
            argument: 6_000,
            blob: false,
            cancel_after_us: None,
            principal: None,
            token: None,
        };
        let down_us = dice.range(100 * MS..=2 * SECOND);
        let after_us = dice.range(0..=100 * MS);
        self.faults.push((at - MS, Fault::CrashNear { peer: target, near: Near::Invoke, after_us, down_us }));
        self.asks.push((at, ask.clone()));
        self.asks.push((dice.range(at..=ends), Ask { origin: other, ..ask }));
    }
}
