//! The calls that somebody got a receipt for. They end, and everyone's books and logs agree.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::ids::ReqId;
use mesh_core::io::CallState;
use mesh_core::limits;
use mesh_core::record::Ending;

use super::peer::{Peers, State};
use super::stats::Stats;
use crate::plan::{MS, Plan, SECOND};
use crate::predicates::{Checks, Holder, Told};

/// accepted-calls-end: within this time of the full healing, or of the call's own time.
const TERMINAL_US: u64 = 30 * SECOND;

/// A call that someone got a receipt for.
#[derive(Debug, Clone)]
pub(super) struct Accepted {
    pub(super) origin: usize,
    pub(super) at: u64,
    pub(super) ttl_ms: u64,
    /// Additional time that its origin may wait for its ending when the target is not there any more.
    pub(super) timeout_ms: u64,
}

/// All of them, and how far they are.
#[derive(Default)]
pub(super) struct Calls {
    accepted: BTreeMap<ReqId, Accepted>,
    /// Calls whose confirmed ending their origin has told since the healing: nothing crashes any more, and
    /// outcome-never-changes keeps them.
    over: BTreeSet<ReqId>,
    /// Calls that were seen to have an ending at their origin.
    seen_ended: BTreeSet<ReqId>,
    /// When a call was last seen open at its origin, after the healing.
    open_at: u64,
}

impl Calls {
    pub(super) fn accept(&mut self, id: ReqId, call: Accepted) {
        self.accepted.insert(id, call);
    }

    pub(super) fn get(&self, id: &ReqId) -> Option<&Accepted> {
        self.accepted.get(id)
    }

    /// Voids the receipts of a peer for calls that are not among these.
    pub(super) fn void_but(&mut self, origin: usize, known: &BTreeMap<ReqId, Told>) {
        self.accepted.retain(|id, accepted| accepted.origin != origin || known.contains_key(id));
    }

    /// **accepted-calls-end** in 30 s after the full healing every accepted call is terminal at its origin, or by its
    /// own time when that is later; and where the target is there, it has confirmed the ending.
    pub(super) fn accepted_calls_end(
        &mut self,
        now: u64,
        phase_at: u64,
        peers: &Peers,
        plan: &Plan,
        checks: &mut Checks,
    ) {
        let mut open = 0;
        let mut broken = None;
        let mut over = Vec::new();
        for (id, accepted) in &self.accepted {
            if self.over.contains(id) {
                continue;
            }
            let sim = &peers[accepted.origin];
            if sim.state != State::Running || sim.revoked {
                continue;
            }
            let Some(told) = peers[accepted.origin].told(id, checks) else {
                if checks.is_dropped_by_origin(id) {
                    continue;
                }
                broken.get_or_insert(format!("p{} accepted {id} and does not know it", accepted.origin));
                continue;
            };
            if matches!(told.state, CallState::Ended(_)) && self.seen_ended.insert(*id) {
                self.open_at = now;
            }
            if peers.is_of_flood(accepted.origin, &told.target) {
                continue; // others take no more of its log
            }
            let target = peers.index_of(&told.target);
            if target.is_some_and(|target| peers[target].awake() && !peers.trusts(target, accepted.origin)) {
                // Its origin was removed and does not know it: nobody can tell it anything any more.
                continue;
            }
            // A target that was restored from a backup since has nothing to say about it.
            let same_incarnation = |target: usize| {
                let boot = peers[target].node.as_ref().map(|node| node.view().incarnation);
                told.incarnation.is_none() || told.incarnation == boot
            };
            let target_there = target.is_some_and(|target| {
                peers[target].is_member() && peers.trusts(accepted.origin, target) && same_incarnation(target)
            });
            // Nor has one that has forgotten it, when its origin was away for all of that time; and what it says after
            // the origin's books are closed changes nothing.
            let closed = sim.has_closed(id);
            let late = plan.keep_entries_ms.is_some() && closed;
            let target_there = target_there && !late && !target.is_some_and(|target| checks.is_past(target, id));
            let ended = matches!(told.state, CallState::Ended(_)) && (told.confirmed || !target_there);
            if ended {
                if told.confirmed {
                    over.push(*id);
                }
                continue;
            }
            open += 1;
            let own = accepted.ttl_ms + accepted.timeout_ms + 4 * limits::epsilon_ms(accepted.ttl_ms);
            let own = accepted.at + own * MS + 5 * SECOND;
            let own = if plan.drifts() { own + own / 8 } else { own };
            let due = (phase_at + TERMINAL_US).max(own);
            if now > due {
                let history = peers[accepted.origin].node.as_ref().and_then(|node| node.open_call(id));
                let history = history.map(|record| {
                    record
                        .history
                        .iter()
                        .map(|row| (row.state.as_str(), row.attempt, row.reason.as_str()))
                        .collect::<Vec<_>>()
                });
                broken.get_or_insert(format!(
                    "{id} of p{} for {target:?} is still {} (confirmed {}) at its origin: {history:?}",
                    accepted.origin,
                    told.state.as_str(),
                    told.confirmed,
                ));
            }
        }
        self.over.extend(over);
        if let Some(what) = broken {
            checks.fail("accepted-calls-end", now, || what);
        }
        if open > 0 {
            self.open_at = now;
        }
    }

    /// True once no call has been open at its origin for so long.
    pub(super) fn all_over_for(&self, us: u64, now: u64) -> bool {
        now >= self.open_at + us
    }

    /// **books-and-logs-agree**, as far as people can see it: two seconds after the last call ended at its origin, what
    /// the origin's book says of a call, confirmed, every member's book that knows the call says too. Of a target that
    /// was removed one half may have received its own outcome and the other the origin's: the ending is the same, but
    /// not whether it is confirmed; and a member that is no owner may not re-issue what it alone has received. Whoever is
    /// outside of a call's audience is told nothing of it any more: an owner that was lowered keeps what it had then.
    pub(super) fn books_agree(&self, now: u64, peers: &Peers, plan: &Plan, checks: &mut Checks) {
        let mut broken = None;
        for (id, accepted) in &self.accepted {
            if !peers[accepted.origin].is_member() {
                continue;
            }
            let Some(told) = peers[accepted.origin].told(id, checks) else { continue };
            if peers.is_of_flood(accepted.origin, &told.target) {
                continue;
            }
            let target = peers.index_of(&told.target);
            let unsure = plan.keep_entries_ms.is_some() && !told.confirmed; // its books may be closed by now
            if unsure || target.is_some_and(|target| checks.is_past(target, id)) {
                continue;
            }
            for peer in (0..peers.len()).filter(|peer| peers[*peer].is_member()) {
                // What somebody wrote after being removed does not reach those who hold that.
                let hears = |other: usize| peers.trusts(peer, other) && peers.trusts(other, peer);
                let hears = |other: usize| other == peer || hears(other);
                let target_is_in = target.is_some_and(hears);
                let over = if target_is_in { told.confirmed } else { matches!(told.state, CallState::Ended(_)) };
                let silent = !target_is_in && !peers[peer].owner;
                let outside = !peers[peer].owner && peer != accepted.origin && Some(peer) != target;
                if outside || !hears(accepted.origin) || !over || silent {
                    continue;
                }
                let Some(record) = peers[peer].told(id, checks) else { continue };
                // Its books on a call that nobody confirmed are closed after a while, and the target came later.
                let closed = peers[peer].has_closed(id);
                if plan.keep_entries_ms.is_some() && closed && !record.confirmed {
                    continue;
                }
                // Whose clock says that there is time left awaits another attempt; the target may know that there is
                // none. A clock that was set back while a peer was down gives it all its time again.
                let time = (accepted.ttl_ms + 4 * limits::epsilon_ms(accepted.ttl_ms)) * MS + SECOND;
                let since = if plan.wall_jumps { accepted.at.max(peers[peer].booted_at) } else { accepted.at };
                let awaits = told.state == CallState::Ended(Ending::Interrupted)
                    && matches!(record.state, CallState::Open(_))
                    && now < since + time;
                if awaits {
                    continue;
                }
                if record.state != told.state || (target_is_in && record.confirmed != told.confirmed) {
                    broken.get_or_insert(format!(
                        "{id} is {} at its origin p{}, and {} (confirmed {}) at p{peer}",
                        told.state.as_str(),
                        accepted.origin,
                        record.state.as_str(),
                        record.confirmed
                    ));
                }
            }
        }
        if let Some(what) = broken {
            checks.fail("books-and-logs-agree", now, || what);
        }
    }

    /// Counts the endings at the origins.
    pub(super) fn count_endings(&self, peers: &Peers, checks: &Checks, stats: &mut Stats) {
        for (id, accepted) in &self.accepted {
            let word = match peers[accepted.origin].told(id, checks) {
                Some(told) if told.confirmed => told.state.as_str().to_owned(),
                Some(told) => format!("{}*", told.state.as_str()),
                None => "origin gone".to_owned(),
            };
            *stats.endings.entry(word).or_default() += 1;
        }
    }
}

/// **books-and-logs-agree** and **limits-hold**, of the logs; **bodies-arrive**.
pub(super) fn logs_agree(now: u64, peers: &Peers, checks: &mut Checks) {
    for author in (0..peers.len()).filter(|peer| peers[*peer].is_member()) {
        let holder = |peer: usize| {
            let sim = &peers[peer];
            Holder { peer, id: sim.id, owner: sim.owner, disk: &sim.disk }
        };
        let hears = |peer: &usize| {
            peers[*peer].is_member() && *peer != author && peers.trusts(*peer, author) && peers.trusts(author, *peer)
        };
        let others: Vec<Holder<'_>> = (0..peers.len()).filter(hears).map(holder).collect();
        checks.logs_agree(now, &holder(author), &others);
    }
}
