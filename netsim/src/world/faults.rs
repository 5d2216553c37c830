//! The plan's faults, carried out.

use std::collections::BTreeSet;

use mesh_core::entry::Tier;
use mesh_core::io::{Command, Space};
use mesh_core::rows;

use super::{Event, Phase, Purpose, Sim, State, World};
use crate::disk::Snapshot;
use crate::net::pair_of;
use crate::node;
use crate::plan::{Fault, MS};
use crate::trace::{Being, Mark};

/// A machine without a clock of its own believes that it is the day it was built.
const CLOCKLESS_MS: i64 = 10 * 365 * 24 * 3_600 * 1_000;

/// A run that began so long ago has put a checkpoint into its target's log (after 200 ms), and slow disks have synced
/// it.
const RECEIVED_US: u64 = 1_200 * MS;

impl World {
    pub(super) fn fault(&mut self, index: usize) {
        let fault = self.plan.faults[index].1.clone();
        if self.phase != Phase::Faults {
            return;
        }
        self.trace.story(self.now, || format!("-- {fault:?}"));
        self.trace.mark(self.now, || Mark::Fault(format!("{fault:?}")));
        self.takeover = None;
        match fault {
            Fault::Split { groups } => {
                self.split = groups;
                self.split_at = self.now;
                self.refresh_cuts();
            }
            Fault::Unsplit => {
                self.split.clear();
                self.refresh_cuts();
            }
            Fault::Cut { a, b } | Fault::Uncut { a, b } => {
                let (key, _) = pair_of(a, b);
                self.pairs.of(key).single = [matches!(fault, Fault::Cut { .. }); 2];
                self.refresh_cuts();
            }
            Fault::CutOneWay { from, to } => {
                let (key, end) = pair_of(from, to);
                self.pairs.of(key).single[end] = true;
                self.refresh_cuts();
            }
            Fault::OneWay { from, to, loss } => {
                let (key, end) = pair_of(from, to);
                self.pairs.of(key).loss[end] = loss;
            }
            Fault::Loss { loss } => self.loss = loss,
            Fault::Crash { peer, down_us } => self.crash(peer, down_us),
            Fault::CrashNear { peer, near, after_us, down_us } => {
                self.peers[peer].armed = Some((near, after_us, down_us));
            }
            Fault::Stop { peer, down_us } => {
                if self.peers[peer].awake() {
                    self.note_takeover(peer, true);
                    self.command(peer, Purpose::Stop(down_us), Command::Stop);
                    let boot = self.peers[peer].boot;
                    // The shell does not wait for ever (`docs/protocol.md`, Election).
                    self.at(150 * MS, Event::Exit { peer, boot, down_us });
                }
            }
            Fault::Suspend { peer, for_us } => self.freeze(peer, for_us),
            Fault::Stall { peer, for_us } => self.peers[peer].stall_us = for_us,
            Fault::WallJump { peer, by_ms } => self.peers[peer].wall_off_ms += by_ms,
            Fault::ClockLost { peer, down_us, for_us } => {
                if self.peers[peer].state == State::Running {
                    self.crash(peer, down_us);
                    self.peers[peer].wall_off_ms -= CLOCKLESS_MS;
                    self.at(down_us + for_us, Event::ClockFound { peer, by_ms: CLOCKLESS_MS });
                }
            }
            Fault::Revoke { by, peer } => {
                let id = self.peers[peer].id;
                let owner = self.peers[by].plan.tier == Tier::Owner;
                if owner && self.peers[by].awake() && self.peers[peer].state != State::Absent {
                    self.command(by, Purpose::Other, Command::Revoke { peer: id });
                }
            }
            Fault::Leave { peer } => {
                if self.peers[peer].awake() {
                    self.command(peer, Purpose::Leave, Command::Leave);
                }
            }
            Fault::Backup { peer } => {
                if matches!(self.peers[peer].state, State::Running | State::Down) {
                    self.peers[peer].backup = Some((self.now, self.peers[peer].disk.snapshot()));
                }
            }
            Fault::Restore { peer, down_us, unnoticed } => self.restore(peer, down_us, unnoticed),
            Fault::Wipe { peer, heir, down_us } => {
                if self.peers[peer].state == State::Running {
                    self.crash(peer, down_us);
                    self.peers[peer].state = State::Gone;
                    self.trace.mark(self.now, || Mark::Is(peer, Being::Gone));
                    self.at(down_us, Event::Join(heir));
                }
            }
            Fault::DiskFull { peer, for_us } => self.peers[peer].full_until = self.now + for_us,
        }
    }

    /// Power fails and the last backup is played back. What the peer had promised since is lost: what it obeyed, forgot
    /// and told before is not held against its new incarnation, and receipts that it gave since are void. Where its own
    /// store does not tell it, something is promised only if the others can, and no call was in hand (README, what is
    /// assumed); else the plan is not carried out.
    fn restore(&mut self, peer: usize, down_us: u64, unnoticed: bool) {
        if self.peers[peer].state != State::Running {
            return;
        }
        let Some((since, backup)) = self.peers[peer].backup.take() else { return };
        if unnoticed && (node::is_in_hand(&backup, self.peers[peer].id) || !self.others_received(peer, since)) {
            return;
        }
        self.crash(peer, down_us);
        if unnoticed {
            self.retract(peer, &backup);
        }
        let sim = &mut self.peers[peer];
        sim.disk.restore(&backup);
        sim.rolled_back = !unnoticed;
        self.checks.rolled_back(peer, sim.id, &sim.disk);
        let known = &self.checks.told[peer];
        self.accepted.retain(|id, accepted| accepted.origin != peer || known.contains_key(id));
    }

    /// True if all that ran at a peer since its backup began long enough before it was alone for the others to hear of
    /// it.
    fn others_received(&self, peer: usize, since: u64) -> bool {
        let runs = self.checks.runs.values().filter(|run| run.peer == peer && run.at >= since);
        runs.map(|run| run.at).all(|at| at + RECEIVED_US <= self.split_at)
    }

    /// Forgets all that a peer signed since its backup and no other disk holds: it was never said.
    fn retract(&mut self, peer: usize, backup: &Snapshot) {
        let (from, to) = rows::logs_of(&self.peers[peer].id);
        let kept: BTreeSet<&[u8]> = backup.keys(Space::Log).collect();
        for (key, value) in self.peers[peer].disk.scan(Space::Log, from, to) {
            let elsewhere = |(other, sim): (usize, &Sim)| other != peer && sim.disk.applied(Space::Log, key).is_some();
            if !kept.contains(key) && !self.peers.iter().enumerate().any(elsewhere) {
                self.checks.never_said(key, value);
            }
        }
    }
}
