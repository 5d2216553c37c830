//! The plan's faults, carried out.

use mesh_core::entry::Tier;
use mesh_core::io::Command;

use super::{Event, Phase, Purpose, State, World};
use crate::net::pair_of;
use crate::plan::{Fault, MS};
use crate::trace::{Being, Mark};

/// A machine without a clock of its own believes that it is the day it was built.
const CLOCKLESS_MS: i64 = 10 * 365 * 24 * 3_600 * 1_000;

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
                    let life = self.peers[peer].life;
                    // The shell does not wait for ever (mesh-protocol.md §4, Shutdown).
                    self.at(150 * MS, Event::Exit { peer, life, down_us });
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
                    self.peers[peer].backup = Some(self.peers[peer].disk.snapshot());
                }
            }
            Fault::Restore { peer, down_us } => self.restore(peer, down_us),
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

    /// Power fails and the last backup is played back. What the peer had promised since is lost, and it knows: what it
    /// obeyed, forgot and told before is not held against its new life, and receipts that it gave since are void.
    fn restore(&mut self, peer: usize, down_us: u64) {
        if self.peers[peer].state != State::Running {
            return;
        }
        let Some(backup) = self.peers[peer].backup.take() else { return };
        self.crash(peer, down_us);
        let sim = &mut self.peers[peer];
        sim.disk.restore(&backup);
        sim.rolled_back = true;
        self.checks.rolled_back(peer, sim.id, &sim.disk);
        let known = &self.checks.told[peer];
        self.accepted.retain(|id, accepted| accepted.origin != peer || known.contains_key(id));
    }
}
