//! The plan as it is carried out, the phases of a run, and the predicates of liveness.

use mesh_core::entry::{Effect, Ending, Payload};
use mesh_core::epoch::Epoch;
use mesh_core::ids::{Hash, ReqId};
use mesh_core::io::{CallState, Command, NewCall};
use mesh_core::limits;
use mesh_core::rows;

use super::{
    Event, HEALED_US, L2_CUT_US, Phase, Purpose, QUIET_US, SETTLE_US, SETUP_US, Sim, State, TERMINAL_US, UNSETTLED_US,
    World,
};
use crate::net::pair_of;
use crate::node::Node;
use crate::plan::{Ask, MS, NEVER, SECOND};
use crate::predicates::{Holder, Told};
use crate::trace::Mark;

/// Extra wait of class 0 before it claims.
const CLASS_0_US: u64 = 500 * MS;
/// Longest fsync that comes by chance.
const ODD_FSYNC_US: u64 = 300 * MS;

impl World {
    pub(super) fn ask(&mut self, index: usize) {
        let ask: Ask = self.plan.asks[index].1.clone();
        let origin = ask.origin;
        if self.peers[origin].state != State::Running {
            return;
        }
        let node = match ask.target {
            None => "any".to_owned(),
            Some(target) => {
                let id = self.peers[target].id;
                let view = self.peers[origin].node.as_ref().map(Node::view);
                let named = view
                    .and_then(|view| view.nodes.iter().find(|node| node.peer == id).map(|node| node.node_id.clone()));
                named.unwrap_or_else(|| self.wanted_name(target)).to_string()
            }
        };
        let text = format!("{{\"n\":{}}}", ask.argument);
        let arguments = if ask.blob {
            let hash = Hash::of(text.as_bytes());
            self.peers[origin].blobs.insert(hash);
            Payload::Blob { hash, len: text.len() as u64 }
        } else {
            Payload::Inline(text.into())
        };
        let call = NewCall {
            node,
            tool: ask.tool.parse().expect("a valid constant"),
            arguments,
            ttl_ms: ask.ttl_ms,
            timeout_ms: ask.timeout_ms.unwrap_or(60_000),
            effect: ask.strict.then_some(Effect::Once),
            principal: "owner".into(),
            client_key: ask.key,
        };
        self.trace.story(self.now, || {
            format!("p{origin} is asked for {} at {} within {} ms", call.tool, call.node, call.ttl_ms)
        });
        self.command(origin, Purpose::Ask(index), Command::Call(call));
    }

    // --- Phases and what must hold in them ------------------------------------------------------------------------

    pub(super) fn enter(&mut self, phase: Phase) {
        self.trace.story(self.now, || format!("== {phase:?}"));
        self.trace.mark(self.now, || Mark::Phase(format!("{phase:?}")));
        self.takeover = None;
        self.phase = phase;
        self.phase_at = self.now;
        match phase {
            Phase::Setup => {}
            Phase::Faults => {
                self.faults_at = self.now;
                self.sparse_holds = true;
                self.refresh_cuts();
                for index in 0..self.plan.faults.len() {
                    self.at(self.plan.faults[index].0, Event::Fault(index));
                }
                for index in 0..self.plan.asks.len() {
                    self.at(self.plan.asks[index].0, Event::Ask(index));
                }
                for peer in 0..self.peers.len() {
                    if self.peers[peer].state == State::Absent && self.peers[peer].plan.join_at < NEVER {
                        self.at(self.peers[peer].plan.join_at, Event::Join(peer));
                    }
                }
                self.at(self.plan.faults_us, Event::Phase(Phase::Quiet));
            }
            Phase::Quiet => {
                self.calm();
                self.at(QUIET_US, Event::Phase(Phase::Healed));
            }
            Phase::Healed => {
                self.split.clear();
                self.sparse_holds = false;
                for pair in self.pairs.values_mut() {
                    pair.single = [false; 2];
                }
                self.refresh_cuts();
            }
            Phase::LinkCut => self.cut_one_link(),
            Phase::End => self.count_endings(),
        }
        self.unsettle();
        self.settle_noted = matches!(phase, Phase::Setup | Phase::Faults | Phase::LinkCut | Phase::End);
    }

    /// Nothing goes wrong any more; everyone is awake.
    pub(super) fn calm(&mut self) {
        self.loss = 0;
        for pair in self.pairs.values_mut() {
            pair.loss = [0; 2];
        }
        for peer in 0..self.peers.len() {
            self.peers[peer].armed = None;
            self.peers[peer].stall_us = 0;
            self.peers[peer].full_until = 0;
            self.thaw(peer);
            if self.peers[peer].state == State::Down {
                let delay = self.dice.range(0..=100 * MS);
                self.at(delay, Event::Boot(peer));
            }
        }
    }

    /// Anything about the shape of the mesh changed.
    pub(crate) fn unsettle(&mut self) {
        self.dirty = true;
    }

    /// True if a peer counts for the election: running, and not excluded.
    pub(super) fn member(&self, peer: usize) -> bool {
        self.peers[peer].awake() && !self.peers[peer].revoked
    }

    /// True if every component has one gateway that all follow, or none when nobody may lead.
    pub(super) fn settled(&self) -> bool {
        let count = self.peers.len();
        let mut done = vec![false; count];
        for start in 0..count {
            if done[start] || !self.member(start) {
                continue;
            }
            let mut component = vec![start];
            done[start] = true;
            let mut next = 0;
            while let Some(&at) = component.get(next) {
                next += 1;
                for (other, done) in done.iter_mut().enumerate() {
                    if !*done
                        && self.member(other)
                        && !self.pairs[&pair_of(at, other).0].is_cut()
                        && self.trusts(at, other)
                        && self.trusts(other, at)
                    {
                        *done = true;
                        component.push(other);
                    }
                }
            }
            let may_lead = |peer: &usize| self.peers[*peer].plan.eligible && self.peers[*peer].owner;
            let gateway = self.peers[start].gateway;
            let agreed = component.iter().all(|peer| self.peers[*peer].gateway == gateway);
            let sound = match gateway {
                Some(epoch) => component.iter().any(|peer| self.peers[*peer].id == epoch.peer),
                None => !component.iter().any(may_lead),
            };
            if !agreed || !sound {
                return false;
            }
        }
        true
    }

    /// **one-gateway-for-all**, kept up as things change: when the mesh settled, and for how long it was not.
    pub(super) fn note_settled(&mut self) {
        let settled = self.settled();
        if settled && self.settled_at.is_none() {
            let stretch = self.now - self.unsettled_at;
            let late = self.unsettled_at.max(self.phase_at + SETTLE_US);
            if self.must_be_settled() && self.now > late + UNSETTLED_US {
                self.checks.fail("one-gateway-for-all", self.now, || {
                    format!("no one gateway for all for {} ms", stretch / MS)
                });
            }
            self.settled_at = Some(self.now);
        } else if !settled && let Some(at) = self.settled_at.take() {
            self.unsettled_at = self.now;
            self.note_settling(at);
        }
    }

    /// **one-gateway-for-all**, afterwards: once settled, in a mesh where nothing goes wrong, nobody changes gateways
    /// but to hand over to a better one.
    pub(super) fn gateway_stays(&mut self, peer: usize, epoch: Option<Epoch>) {
        let before = self.peers[peer].gateway;
        let calm = self.must_be_settled()
            && self.now >= self.phase_at + SETTLE_US
            && self.settled_at.is_some_and(|at| self.now >= at + SECOND);
        if calm && !self.plan.handovers && before.is_some() && before != epoch {
            self.checks.fail("one-gateway-for-all", self.now, || {
                format!("p{peer} goes from {before:?} to {epoch:?}, and nothing is wrong")
            });
        }
    }

    pub(super) fn must_be_settled(&self) -> bool {
        matches!(self.phase, Phase::Quiet | Phase::Healed)
    }

    pub(super) fn note_settling(&mut self, at: u64) {
        let at = at.max(self.phase_at);
        if !self.settle_noted && self.now >= at + SECOND {
            self.settle_noted = true;
            self.stats.settle_us.push(at - self.phase_at);
        }
    }

    /// Looked at now and then: deadlines of the liveness predicates, and whether the phase is over.
    pub(super) fn look(&mut self) {
        self.at(250 * MS, Event::Look);
        for (peer, sim) in self.peers.iter().enumerate() {
            if let Some(node) = &sim.node {
                self.checks.queue_within_limit(self.now, peer, sim.id, node.open_calls(), &sim.config);
            }
        }
        if let Some(at) = self.settled_at {
            self.note_settling(at);
        }
        let since = self.now - self.phase_at;
        match self.phase {
            Phase::Setup => {
                let here = self.peers.iter().all(|sim| sim.plan.join_at > 0 || sim.state == State::Running);
                let linked = self.pairs.iter().all(|(key, pair)| {
                    pair.view[0] != 0
                        || self.peers[key.0].state != State::Running
                        || self.peers[key.1].state != State::Running
                });
                if here && linked && self.settled_at.is_some_and(|at| self.now >= at + 500 * MS) {
                    self.enter(Phase::Faults);
                } else if since > SETUP_US + self.peers.len() as u64 * 300 * MS {
                    let beliefs = self.beliefs();
                    self.checks.fail("setup", self.now, || format!("not all joined, linked and settled: {beliefs}"));
                }
            }
            Phase::Quiet | Phase::Healed => {
                let late = self.unsettled_at.max(self.phase_at + SETTLE_US - UNSETTLED_US) + UNSETTLED_US;
                if self.settled_at.is_none() && self.now > late {
                    let beliefs = self.beliefs();
                    self.checks.fail("one-gateway-for-all", self.now, || format!("not settled: {beliefs}"));
                }
                if self.phase == Phase::Healed {
                    self.accepted_calls_end();
                }
            }
            Phase::LinkCut => {
                if since > L2_CUT_US {
                    self.enter(Phase::End);
                }
            }
            Phase::Faults | Phase::End => {}
        }
    }

    pub(super) fn beliefs(&self) -> String {
        let believes = self.peers.iter().enumerate().map(|(peer, sim)| {
            let whom = sim.gateway.map(|epoch| (self.index_of(&epoch.peer), epoch.counter));
            format!(
                "p{peer} {:?} {whom:?} links {}",
                sim.state,
                (0..self.peers.len()).filter(|other| *other != peer && self.sees_link(peer, *other)).count()
            )
        });
        believes.collect::<Vec<_>>().join(", ")
    }

    /// The leader goes while nothing else is wrong: how long until another leads?
    pub(super) fn note_takeover(&mut self, peer: usize, asked: bool) {
        let leads = self.peers[peer].gateway.is_some_and(|epoch| epoch.peer == self.peers[peer].id);
        let calm = self.loss == 0
            && self.pairs.iter().all(|(_, pair)| !pair.is_cut() && pair.loss == [0; 2])
            && self.peers.iter().all(|sim| {
                matches!(sim.state, State::Running | State::Absent)
                    && !sim.frozen()
                    && sim.stall_us == 0
                    && sim.stalled_until <= self.now
            });
        let followed = (0..self.peers.len())
            .all(|other| !self.peers[other].awake() || self.peers[other].gateway == self.peers[peer].gateway);
        let linked = (0..self.peers.len())
            .all(|other| other == peer || !self.peers[other].awake() || self.sees_link(other, peer));
        let heir = |other: &Sim| other.awake() && other.plan.eligible && other.owner;
        let heirs = self.peers.iter().enumerate().any(|(other, sim)| other != peer && heir(sim));
        let undisturbed = leads && heirs && calm && followed && linked && self.phase == Phase::Faults;
        self.takeover = undisturbed.then_some((self.now, asked));
    }

    /// **takeover-in-time** where nothing else goes wrong another leads within 200 ms and a round trip of a clean stop
    /// of the gateway, and within 2 s of its crash (class 0: [`CLASS_0_US`] more). Slow disks, which the promise does
    /// not count, are added.
    pub(super) fn taken_over(&mut self, heir: usize, asked: bool, class: u8, took: u64) {
        let latency = self.pairs.iter().map(|(_, pair)| pair.latency_us).max().unwrap_or(0);
        let within = if asked { 200 * MS } else { 2 * SECOND + if class == 0 { CLASS_0_US } else { 0 } };
        let disks = 2 * self.peers[heir].plan.fsync_us.1 + ODD_FSYNC_US;
        if took > within + 4 * latency + disks {
            let how = if asked { "clean stop" } else { "crash" };
            self.checks
                .fail("takeover-in-time", self.now, || format!("p{heir} leads only {} ms after a {how}", took / MS));
        }
    }

    /// A call as a peer's door would show it.
    pub(super) fn told_at(&self, peer: usize, id: &ReqId) -> Option<Told> {
        let open = self.peers[peer].node.as_ref().and_then(|node| node.open_call(id));
        let over = || self.checks.told[peer].get(id).copied();
        let unsynced = || self.peers[peer].disk.applied_row(&rows::call(id));
        open.map(Told::of).or_else(over).or_else(|| unsynced().as_ref().map(Told::of))
    }

    /// **accepted-calls-end** in 30 s after the full healing every accepted call is terminal at its origin, or by its
    /// own time when that is later; and where the target is there, it has confirmed the ending.
    pub(super) fn accepted_calls_end(&mut self) {
        let mut open = 0;
        let mut broken = None;
        let mut over = Vec::new();
        for (id, accepted) in &self.accepted {
            if self.over.contains(id) {
                continue;
            }
            let sim = &self.peers[accepted.origin];
            if sim.state != State::Running || sim.revoked {
                continue;
            }
            let Some(told) = self.told_at(accepted.origin, id) else {
                if self.checks.is_dropped_by_origin(id) {
                    continue;
                }
                broken.get_or_insert(format!("p{} accepted {id} and does not know it", accepted.origin));
                continue;
            };
            if matches!(told.state, CallState::Ended(_)) && self.seen_ended.insert(*id) {
                self.open_at = self.now;
            }
            let target = self.index_of(&told.target);
            if target.is_some_and(|target| self.peers[target].awake() && !self.trusts(target, accepted.origin)) {
                // Its origin was removed and does not know it: nobody can tell it anything any more.
                continue;
            }
            // A target that was restored from a backup since has nothing to say about it.
            let same_incarnation = |target: usize| {
                let boot = self.peers[target].node.as_ref().map(|node| node.view().incarnation);
                told.incarnation.is_none() || told.incarnation == boot
            };
            let target_there = target.is_some_and(|target| {
                self.member(target) && self.trusts(accepted.origin, target) && same_incarnation(target)
            });
            // Nor has one that has forgotten it, when its origin was away for all of that time; and what it says after
            // the origin's books are closed changes nothing.
            let closed = sim.node.as_ref().is_some_and(|node| node.open_call(id).is_none());
            let late = self.plan.keep_entries_ms.is_some() && closed;
            let target_there = target_there && !late && !target.is_some_and(|target| self.checks.is_past(target, id));
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
            let own = if self.plan.drifts() { own + own / 8 } else { own };
            let due = (self.phase_at + TERMINAL_US).max(own);
            if self.now > due {
                let history = self.peers[accepted.origin].node.as_ref().and_then(|node| node.open_call(id));
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
            self.checks.fail("accepted-calls-end", self.now, || what);
        }
        let settled = self.settled_at.is_some_and(|at| self.now >= at + SECOND);
        let asked = self.now >= self.faults_at + self.plan.faults_us + 3 * SECOND + QUIET_US;
        if open > 0 {
            self.open_at = self.now;
        }
        let told = self.now >= self.open_at + 2 * SECOND;
        if told && settled && asked && self.now - self.phase_at >= HEALED_US {
            self.books_agree();
            self.logs_agree();
            self.enter(Phase::LinkCut);
        }
    }

    /// **one-cut-moves-nothing** cutting one link of a connected component does not change the gateway: the link is cut
    /// here, and every change of belief judged in [`Self::gateway_changed`].
    pub(super) fn cut_one_link(&mut self) {
        let members: Vec<usize> = (0..self.peers.len()).filter(|peer| self.member(*peer)).collect();
        let whole =
            members.iter().all(|a| members.iter().all(|b| a == b || (self.trusts(*a, *b) && self.sees_link(*a, *b))));
        if members.len() < 3 || !whole {
            self.enter(Phase::End);
            return;
        }
        self.kept = self.peers[members[0]].gateway;
        // The links to the gateway are the ones that matter.
        let leader = self.kept.and_then(|epoch| self.index_of(&epoch.peer)).filter(|_| self.dice.chance(800));
        let a = leader.unwrap_or(members[0]);
        let others: Vec<usize> = members.into_iter().filter(|peer| *peer != a).collect();
        let b = self.dice.pick(&others);
        let (key, _) = pair_of(a, b);
        self.trace.story(self.now, || format!("-- one-cut-moves-nothing: cut p{a}-p{b}"));
        self.pairs.of(key).single = [true; 2];
        self.refresh_cuts();
    }

    /// **books-and-logs-agree**, as far as people can see it: two seconds after the last call ended at its origin, what
    /// the origin's book says of a call, confirmed, every member's book that knows the call says too. Of a target that
    /// was removed one half may have received its own outcome and the other the origin's: the ending is the same, but not
    /// whether it is confirmed; and a member that is no owner may not re-issue what it alone has received.
    pub(super) fn books_agree(&mut self) {
        let mut broken = None;
        for (id, accepted) in &self.accepted {
            if !self.member(accepted.origin) {
                continue;
            }
            let Some(told) = self.told_at(accepted.origin, id) else { continue };
            let target = self.index_of(&told.target);
            let unsure = self.plan.keep_entries_ms.is_some() && !told.confirmed; // its books may be closed by now
            if unsure || target.is_some_and(|target| self.checks.is_past(target, id)) {
                continue;
            }
            for peer in (0..self.peers.len()).filter(|peer| self.member(*peer)) {
                // What somebody wrote after being removed does not reach those who hold that.
                let hears = |other: usize| self.trusts(peer, other) && self.trusts(other, peer);
                let hears = |other: usize| other == peer || hears(other);
                let target_is_in = target.is_some_and(hears);
                let over = if target_is_in { told.confirmed } else { matches!(told.state, CallState::Ended(_)) };
                let silent = !target_is_in && !self.peers[peer].owner;
                if !hears(accepted.origin) || !over || silent {
                    continue;
                }
                let Some(record) = self.told_at(peer, id) else { continue };
                // Its books on a call that nobody confirmed are closed after a while, and the target came later.
                let closed = self.peers[peer].node.as_ref().is_some_and(|node| node.open_call(id).is_none());
                if self.plan.keep_entries_ms.is_some() && closed && !record.confirmed {
                    continue;
                }
                // Whose clock says that there is time left awaits another attempt; the target may know that there is
                // none.
                let time = (accepted.ttl_ms + 4 * limits::epsilon_ms(accepted.ttl_ms)) * MS + SECOND;
                let awaits = told.state == CallState::Ended(Ending::Interrupted)
                    && matches!(record.state, CallState::Open(_))
                    && self.now < accepted.at + time;
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
            self.checks.fail("books-and-logs-agree", self.now, || what);
        }
    }

    /// **books-and-logs-agree** and **limits-hold**, of the logs.
    fn logs_agree(&mut self) {
        let mut checks = std::mem::take(&mut self.checks);
        for author in (0..self.peers.len()).filter(|peer| self.member(*peer)) {
            let holder = |peer: usize| Holder { peer, disk: &self.peers[peer].disk };
            let hears = |peer: &usize| {
                self.member(*peer) && *peer != author && self.trusts(*peer, author) && self.trusts(author, *peer)
            };
            let others: Vec<Holder<'_>> = (0..self.peers.len()).filter(hears).map(holder).collect();
            checks.logs_agree(self.now, &holder(author), &others);
        }
        self.checks = checks;
    }

    pub(super) fn count_endings(&mut self) {
        let accepted: Vec<(ReqId, usize)> = self.accepted.iter().map(|(id, call)| (*id, call.origin)).collect();
        for (id, origin) in accepted {
            let word = match self.told_at(origin, &id) {
                Some(told) if told.confirmed => told.state.as_str().to_owned(),
                Some(told) => format!("{}*", told.state.as_str()),
                None => "origin gone".to_owned(),
            };
            *self.stats.endings.entry(word).or_default() += 1;
        }
    }
}
