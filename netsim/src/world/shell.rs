//! The shell of a simulated peer: inputs in, outputs out, disk, tools, replies.

use mesh_core::crypto::Signer;
use mesh_core::entry::{Effect, Ending, Payload, Tier};
use mesh_core::epoch::Epoch;
use mesh_core::frame::{AnswerKind, Frame};
use mesh_core::ids::{Attempt, Hash, Incarnation, PeerId, ReqId};
use mesh_core::io::{
    Batch, CallState, CmdId, Command, Fact, Input, Invocation, Now, Output, Reply, Space, ToolOutcome, TxnId,
};
use mesh_core::limits;
use mesh_core::rows;

use super::{Accepted, Event, Phase, Purpose, State, WALL_MS, World};
use crate::node::Node;
use crate::plan::{MS, Near, SECOND};
use crate::predicates::output_of;
use crate::trace::Mark;

impl World {
    /// The peer's index, if it is one of ours.
    pub(crate) fn index_of(&self, id: &PeerId) -> Option<usize> {
        self.peers.iter().position(|peer| peer.id == *id)
    }

    /// True if `peer` holds `other` approved.
    pub(crate) fn trusts(&self, peer: usize, other: usize) -> bool {
        self.peers[peer].trusted.contains(&self.peers[other].id)
    }

    pub(super) fn now_of(&self, peer: usize) -> Now {
        let peer = &self.peers[peer];
        let ms = peer.own_us(self.now) / MS;
        let wall = WALL_MS + ms.cast_signed() + peer.wall_off_ms;
        Now { mono_ms: peer.mono_ms + ms, wall_ms: wall.max(0).cast_unsigned() }
    }

    /// The time by a peer's own clock of durations, in microseconds.
    fn own_now(&self, peer: usize) -> u64 {
        let sim = &self.peers[peer];
        sim.mono_ms * MS + sim.own_us(self.now)
    }

    /// Hands an input to a peer's core, at once or when it thaws.
    pub(crate) fn input(&mut self, peer: usize, input: Input) {
        if self.peers[peer].state != State::Running {
            return;
        }
        if self.peers[peer].frozen() && !self.peers[peer].thawing {
            self.peers[peer].held.push(input);
            return;
        }
        let now = self.now_of(peer);
        self.peers[peer].trusted_before.clear();
        if self.peers[peer].node.is_none() {
            return;
        }
        let mut out = std::mem::take(&mut self.out);
        // Whom the peer holds to be out it does not even hear.
        if let Input::Recv(from, Frame::Dispatch(dispatch)) = &input
            && self.peers[peer].trusted.contains(from)
        {
            self.checks.dispatched(self.own_now(peer), peer, dispatch, &self.peers[peer].disk);
        }
        if !matches!(input, Input::Recv(..)) {
            self.trace.detail(self.now, || format!("p{peer} :: {input:?}"));
        }
        if let Some(node) = &mut self.peers[peer].node {
            node.step(now, &mut self.dice, input, &mut out);
        }
        self.outputs(peer, &mut out);
        self.out = out;
        self.set_timer(peer);
    }

    pub(super) fn set_timer(&mut self, peer: usize) {
        let Some(timeout) = self.peers[peer].node.as_ref().and_then(Node::poll_timeout) else { return };
        let own = timeout.saturating_sub(self.peers[peer].mono_ms).saturating_mul(MS);
        let due = self.peers[peer].world_us(own).max(self.now);
        if self.peers[peer].wake_at.is_some_and(|at| at <= due && at >= self.now) {
            return;
        }
        self.peers[peer].wake_at = Some(due);
        let boot = self.peers[peer].boot;
        self.at(due - self.now, Event::Wake { peer, boot, at: due });
    }

    pub(super) fn wake(&mut self, peer: usize, boot: u64, at: u64) {
        let sim = &mut self.peers[peer];
        if sim.boot != boot || sim.wake_at != Some(at) || sim.state != State::Running || sim.frozen() {
            return;
        }
        sim.wake_at = None;
        let now_ms = sim.mono_ms + sim.own_us(self.now) / MS;
        if sim.node.as_ref().and_then(Node::poll_timeout).is_some_and(|timeout| timeout <= now_ms) {
            self.input(peer, Input::Wake);
            let sim = &mut self.peers[peer];
            let again = sim.node.as_ref().and_then(Node::poll_timeout).is_some_and(|timeout| timeout <= now_ms);
            sim.spins = if again { sim.spins + 1 } else { 0 };
            if sim.spins > 50 {
                self.checks.fail("spin", self.now, || format!("p{peer} asks to be woken at once, again and again"));
            }
        } else {
            self.set_timer(peer);
        }
    }

    pub(super) fn outputs(&mut self, peer: usize, out: &mut Vec<Output>) {
        for output in out.drain(..) {
            match output {
                Output::Send(to, frame) => self.send_out(peer, &to, frame),
                Output::Commit(txn, batch) => self.commit(peer, txn, batch),
                Output::ReadLog { to, ranges } => {
                    let input = self.read_log(peer, to, &ranges);
                    let delay = self.dice.range(20..=1_000);
                    self.input_later(peer, delay, input);
                }
                Output::Invoke(invocation) => self.invoke(peer, &invocation),
                Output::Kill(id, attempt) => {
                    if self.peers[peer].tools.contains(&(id, attempt)) {
                        let boot = self.peers[peer].boot;
                        let delay = self.dice.range(0..=20 * MS);
                        self.at(delay, Event::ToolDone { peer, boot, id, attempt, ending: Ending::Cancelled });
                    }
                }
                Output::Fetch { hash, from, .. } => {
                    let delay = self.dice.range(MS..=100 * MS);
                    let has = from.iter().filter_map(|id| self.index_of(id)).find(|other| {
                        self.sees_link(peer, *other)
                            && self.peers[*other].awake()
                            && self.peers[*other].blobs.contains(&hash)
                    });
                    let input = if has.is_some() || self.peers[peer].blobs.contains(&hash) {
                        self.peers[peer].blobs.insert(hash);
                        Input::Fetched(hash)
                    } else {
                        Input::FetchFailed(hash)
                    };
                    self.input_later(peer, delay, input);
                }
                Output::Reply(cmd, reply) => self.reply(peer, cmd, reply),
                Output::Fact(fact) => self.fact(peer, fact),
            }
        }
    }

    pub(super) fn input_later(&mut self, peer: usize, delay: u64, input: Input) {
        let boot = self.peers[peer].boot;
        self.at(delay, Event::Input { peer, boot, input: Box::new(input) });
    }

    pub(super) fn send_out(&mut self, peer: usize, to: &PeerId, frame: Frame) {
        let Some(to_index) = self.index_of(to) else { return };
        self.trace.detail(self.now, || format!("p{peer} -> p{to_index} {frame:?}"));
        if matches!(frame, Frame::Dispatch(_)) {
            // One frame may bring a call and, after it, the revocation of its target.
            let trusted = self.trusts(peer, to_index) || self.peers[peer].trusted_before.contains(to);
            self.checks.dispatches_to_members_only(self.now, peer, to_index, trusted);
        }
        if let Frame::Answer(answer) = &frame
            && matches!(
                answer.what,
                AnswerKind::Fenced(_) | AnswerKind::Rejected(_) | AnswerKind::Running { .. } | AnswerKind::Ended(_)
            )
        {
            self.checks.not_obeyed(peer, answer.id, answer.attempt, *to);
        }
        self.send(peer, to_index, frame);
    }

    pub(super) fn commit(&mut self, peer: usize, txn: TxnId, batch: Batch) {
        self.trace.detail(self.now, || {
            let rows: Vec<&str> = batch.writes.iter().map(|write| write.space.name()).collect();
            format!("p{peer} commits {txn} sync={} {rows:?}", batch.sync)
        });
        if self.peers[peer].full_until > self.now {
            // A write that fails is the end of the process, and a new one reads what is really there.
            self.trace.story(self.now, || format!("p{peer}'s disk is full"));
            let (boot, down_us) = (self.peers[peer].boot, self.peers[peer].full_until - self.now);
            self.at(0, Event::Crash { peer, boot, down_us });
            return;
        }
        let waited = batch.sync;
        let changes = batch.writes.iter().any(|write| write.space == Space::Trust);
        self.peers[peer].disk.commit(txn, batch);
        if changes {
            let sim = &self.peers[peer];
            self.checks.revocation_not_undone(self.now, peer, &sim.trusted, &sim.disk);
        }
        self.begin_sync(peer);
        if waited {
            self.armed(peer, Near::Commit);
        }
    }

    pub(super) fn begin_sync(&mut self, peer: usize) {
        let sim = &mut self.peers[peer];
        if let Some(txn) = sim.disk.begin_sync() {
            let (low, high) = sim.plan.fsync_us;
            let stall = std::mem::take(&mut sim.stall_us);
            sim.stalled_until = self.now + stall;
            let boot = sim.boot;
            let odd = if self.dice.chance(3) { self.dice.range(20 * MS..=300 * MS) } else { 0 };
            let delay = self.dice.range(low..=high) + stall + odd;
            self.at(delay, Event::Synced { peer, boot, txn });
        }
    }

    pub(super) fn synced(&mut self, peer: usize, boot: u64, txn: TxnId) {
        if self.peers[peer].boot != boot || self.peers[peer].disk.syncing != Some(txn) {
            return;
        }
        let batches = self.peers[peer].disk.end_sync(txn);
        self.peers[peer].rolled_back = false;
        self.note_durable(peer, &batches);
        self.input(peer, Input::Durable(txn));
        self.begin_sync(peer);
        self.armed(peer, Near::Durable);
    }

    pub(super) fn note_durable(&mut self, peer: usize, batches: &[Batch]) {
        for batch in batches {
            self.checks.on_durable(self.now, peer, batch, &self.peers[peer].disk);
        }
    }

    pub(super) fn read_log(&self, peer: usize, to: PeerId, ranges: &[(PeerId, Incarnation, u64, u64)]) -> Input {
        let mut entries = Vec::new();
        let mut bytes = 0;
        for (author, incarnation, first, last) in ranges {
            let key = |seq| rows::entry(author, *incarnation, seq).key;
            for (key, value) in self.peers[peer].disk.scan(Space::Log, key(*first), key(*last)) {
                if bytes + value.len() > limits::SYNC_BYTES_MAX && !entries.is_empty() {
                    return Input::LogRead { to, entries, more: true };
                }
                bytes += value.len();
                entries.extend(self.checks.entry_of(key, value));
            }
        }
        Input::LogRead { to, entries, more: false }
    }

    // --- Tools ----------------------------------------------------------------------------------------------------

    pub(super) fn invoke(&mut self, peer: usize, invocation: &Invocation) {
        let (id, attempt) = (invocation.id, invocation.attempt);
        self.trace.mark(self.now, || Mark::Runs(peer));
        self.trace.story(self.now, || format!("p{peer} RUNS {id} attempt {attempt} {}", invocation.header.tool));
        let origin = self.index_of(&invocation.origin);
        let node = self.peers[peer].node.as_ref();
        let revoked = node.is_some_and(Node::is_revoked);
        let tier = node.and_then(|node| node.tier(&invocation.origin));
        let own = self.own_now(peer);
        let sim = &self.peers[peer];
        let (checks, now) = (&mut self.checks, self.now);
        checks.started_is_durable_and_origin_approved(now, peer, invocation, &sim.disk, origin, tier.is_some());
        checks.origin_of_sufficient_tier(now, peer, invocation, tier);
        checks.revoked_invokes_nothing(now, peer, revoked, id);
        checks.nothing_cancelled_runs(now, peer, id);
        checks.running_within_limit(now, peer, sim.tools.len() + 1, &sim.config);
        if !self.plan.wall_jumps && !self.plan.drifts() && self.slack_us == 0 {
            checks.nothing_runs_that_was_reported_expired(now, peer, id);
        }
        checks.time_is_left(now, own, peer, id, attempt);
        checks.obeyed_epochs_never_decrease(now, peer, id, attempt, &sim.disk);
        checks.nothing_runs_after_its_ending(now, peer, id, attempt);
        checks.nothing_forgotten_runs(now, peer, id);
        checks.at_most_one_run(now, peer, id, attempt);
        if attempt == 1 {
            checks.one_run_per_client_key(now, peer, invocation);
        }
        if invocation.header.target != sim.id || origin.is_none() {
            checks.fail("runs-only-when-allowed", now, || format!("{id} runs at p{peer}, which is not its target"));
        }
        if attempt > 1 && invocation.header.effect == Effect::Once {
            checks.fail("at-most-one-run", now, || format!("{id}, a call to run once, gets attempt {attempt}"));
        }
        self.not_long_after_its_time(peer, id);
        if let Payload::Blob { hash, .. } = &invocation.header.arguments
            && !self.peers[peer].blobs.contains(hash)
        {
            self.checks.fail("blob", now, || format!("{id} runs at p{peer} without its arguments"));
        }
        self.peers[peer].tools.insert((id, attempt));
        let runs_for = match invocation.header.tool.as_str() {
            "look" => self.dice.range(0..=20 * MS),
            "put" => self.dice.range(0..=300 * MS),
            _ => self.dice.range(0..=2_500 * MS),
        };
        let ending = if self.dice.chance(60) { Ending::Failed } else { Ending::Done };
        let boot = self.peers[peer].boot;
        if self.dice.chance(300) {
            self.input_later(peer, runs_for / 2, Input::ToolProgress(id, attempt, "half".into()));
        }
        self.at(runs_for, Event::ToolDone { peer, boot, id, attempt, ending });
        self.armed(peer, Near::Invoke);
    }

    /// **expired-never-runs**, coarsely: no call starts long after its time as its origin counted it. Each hop may add
    /// what the frame was on its way; a restart under a wall clock that jumps may add the time away.
    pub(super) fn not_long_after_its_time(&mut self, peer: usize, id: ReqId) {
        let Some(known) = self.checks.known.get(&id) else { return };
        let Some(origin) = self.index_of(&known.origin) else { return };
        let ttl_us = known.header.ttl_ms * MS;
        let Some(accepted) = self.accepted.get(&id) else { return };
        // With durations beyond their bound a call may start late, until its target's outcome replaces that.
        if self.plan.wall_jumps || self.plan.drifts() || accepted.origin != origin {
            return;
        }
        let late = self.now.saturating_sub(accepted.at + ttl_us);
        if late > self.slack_us + 3 * SECOND {
            self.checks.fail("expired-never-runs", self.now, || {
                format!("{id} starts at p{peer} {} ms after its time", late / MS)
            });
        }
    }

    pub(super) fn tool_done(&mut self, peer: usize, boot: u64, id: ReqId, attempt: Attempt, ending: Ending) {
        if self.peers[peer].boot != boot || !self.peers[peer].tools.contains(&(id, attempt)) {
            return;
        }
        if self.peers[peer].frozen() {
            let delay = self.peers[peer].frozen_until.saturating_sub(self.now) + self.dice.range(0..=10 * MS);
            self.at(delay, Event::ToolDone { peer, boot, id, attempt, ending });
            return;
        }
        self.peers[peer].tools.remove(&(id, attempt));
        if let Some(run) = self.checks.runs.get_mut(&(id, attempt)) {
            run.ended = Some(ending);
        }
        let said = output_of(&id, attempt);
        let output = if self.dice.chance(80) {
            self.peers[peer].blobs.insert(Hash::of(&said));
            Payload::Blob { hash: Hash::of(&said), len: said.len() as u64 }
        } else {
            Payload::Inline(said)
        };
        let reason = if ending == Ending::Done { String::new() } else { "it did not work".into() };
        let outcome = ToolOutcome { ending, reason, output, error: String::new() };
        self.trace.story(self.now, || format!("p{peer}'s run of {id} attempt {attempt} ends {}", ending.as_str()));
        self.input(peer, Input::ToolEnded(id, attempt, outcome));
        self.armed(peer, Near::Ended);
    }

    // --- Facts and replies ----------------------------------------------------------------------------------------

    pub(super) fn fact(&mut self, peer: usize, fact: Fact) {
        match fact {
            Fact::Gateway(epoch) => self.gateway_changed(peer, epoch),
            Fact::Trust => {
                self.refresh_trust(peer);
                let boot = self.peers[peer].boot;
                let delay = self.dice.range(MS..=150 * MS);
                self.at(delay, Event::CloseUntrusted { peer, boot });
            }
            Fact::Revoked => {
                self.trace.story(self.now, || format!("p{peer} holds its own revocation"));
                self.checks.own_revocation_is_durable(self.now, peer);
                self.peers[peer].revoked = true;
                self.dirty = true;
                let boot = self.peers[peer].boot;
                let delay = self.dice.range(0..=2 * SECOND);
                self.at(delay, Event::Crash { peer, boot, down_us: 0 });
            }
            Fact::Call(id, row) => {
                if let CallState::Ended(ending) = row.state
                    && self.accepted.get(&id).is_some_and(|accepted| accepted.origin == peer)
                {
                    self.trace.mark(self.now, || Mark::Ended(peer, ending.as_str(), row.confirmed));
                }
                self.trace.story(self.now, || {
                    let by = self.peers.iter().position(|sim| sim.id == row.peer);
                    format!(
                        "p{peer} has {id} {} (attempt {}, by {by:?}, confirmed {}) {}",
                        row.state.as_str(),
                        row.attempt,
                        row.confirmed,
                        row.reason
                    )
                });
            }
            Fact::Warning(text, about) => {
                let about = self.index_of(&about);
                self.trace.story(self.now, || format!("p{peer} warns about {about:?}: {text}"));
            }
            Fact::CallEnded(id) => self.checks.told_ending_is_durable(self.now, peer, id, &self.peers[peer].disk),
            Fact::View => {}
        }
    }

    pub(super) fn refresh_trust(&mut self, peer: usize) {
        if let Some(node) = &self.peers[peer].node {
            let (trusted, owner) = (node.members().collect(), node.tier(&self.peers[peer].id) == Some(Tier::Owner));
            let sim = &mut self.peers[peer];
            sim.owner = owner;
            // One step may bring several membership changes.
            let mut before = std::mem::replace(&mut sim.trusted, trusted);
            sim.trusted_before.append(&mut before);
            self.dirty = true;
        }
    }

    pub(super) fn gateway_changed(&mut self, peer: usize, epoch: Option<Epoch>) {
        let me = self.peers[peer].id;
        let led = self.peers[peer].gateway.is_some_and(|epoch| epoch.peer == me);
        let leads = epoch.is_some_and(|epoch| epoch.peer == me);
        self.gateway_stays(peer, epoch);
        self.peers[peer].gateway = epoch;
        self.dirty = true;
        self.trace.story(self.now, || match epoch {
            Some(epoch) => {
                let whom = self.peers.iter().position(|sim| sim.id == epoch.peer);
                format!("p{peer} follows p{} in epoch {} class {}", whom.unwrap_or(99), epoch.counter, epoch.class)
            }
            None => format!("p{peer} follows nobody"),
        });
        self.trace.mark(self.now, || {
            let whom =
                epoch.and_then(|epoch| Some((self.peers.iter().position(|sim| sim.id == epoch.peer)?, epoch.counter)));
            Mark::Follows(peer, whom)
        });
        if let (true, Some(epoch)) = (leads, epoch) {
            if let Some((since, asked)) = self.takeover.take() {
                self.stats.takeovers.push((asked, epoch.class, self.now - since));
                self.taken_over(peer, asked, epoch.class, self.now - since);
            }
            self.stats.epochs_led += 1;
            let boot = self.peers[peer].boot;
            self.checks.one_leader_per_epoch(self.now, peer, boot, epoch, &self.peers[peer].disk);
        }
        if led && !leads {
            self.close_sessions(peer);
        }
        self.register(peer);
        if self.phase == Phase::LinkCut && !self.plan.handovers && epoch != self.kept {
            self.checks.fail("one-cut-moves-nothing", self.now, || {
                format!("one link cut, and p{peer} goes from {:?} to {epoch:?}", self.kept)
            });
        }
    }

    pub(super) fn command(&mut self, peer: usize, purpose: Purpose, command: Command) {
        self.command_ids += 1;
        let id = self.command_ids;
        self.commands.insert(id, (purpose, self.now));
        self.input(peer, Input::Command(id, command));
    }

    pub(super) fn reply(&mut self, peer: usize, cmd: CmdId, reply: Reply) {
        let Some((purpose, asked_at)) = self.commands.remove(&cmd) else {
            self.checks.fail("reply", self.now, || format!("p{peer} answers command {cmd} twice"));
            return;
        };
        self.trace.story(self.now, || {
            if let Reply::Approved(welcome) = &reply {
                format!("p{peer} approves {}", welcome.node_id)
            } else {
                format!("p{peer} replies {reply:?}")
            }
        });
        match (purpose, reply) {
            (Purpose::Ask(index), Reply::Call { id, created }) => {
                let origin = self.peers.iter().position(|sim| id.is_of(&sim.id));
                self.checks.receipt_after_durable_header(self.now, peer, origin, id);
                // A wall clock that jumps may end a key's time.
                if let Some(key) = &self.plan.asks[index].1.key
                    && !self.plan.wall_jumps
                {
                    self.checks.one_receipt_per_client_key(self.now, peer, key, id, created);
                }
                if created {
                    self.trace.mark(self.now, || Mark::Accepted(peer));
                    let sim = &self.peers[peer];
                    if let Some(node) = &sim.node {
                        let open = node.open_calls();
                        self.checks.open_calls_within_limit(self.now, peer, sim.id, &id, open, &sim.config);
                    }
                    self.stats.accepted += 1;
                    let ask = &self.plan.asks[index].1;
                    let (ttl_ms, cancel) = (ask.ttl_ms, ask.cancel_after_us);
                    let timeout_ms = ask.timeout_ms.unwrap_or_default();
                    self.accepted.insert(id, Accepted { origin: peer, at: asked_at, ttl_ms, timeout_ms });
                    if let Some(delay) = cancel {
                        self.at(delay, Event::Cancel { peer, id });
                    }
                }
            }
            (Purpose::Ask(_), Reply::Refused(_)) => self.stats.refused += 1,
            (Purpose::Approve(newcomer) | Purpose::Redeem(newcomer), Reply::Approved(welcome)) => {
                self.welcome(newcomer, &welcome);
            }
            (Purpose::Invite(newcomer), Reply::Invited) => {
                let (key, node_id) = (self.peers[newcomer].key.public_key(), self.wanted_name(newcomer));
                let secret = self.invited[&newcomer];
                self.input_command_later(peer, Purpose::Redeem(newcomer), Command::Redeem { secret, key, node_id });
            }
            (Purpose::Stop(down_us), _) => {
                let boot = self.peers[peer].boot;
                self.at(0, Event::Exit { peer, boot, down_us });
            }
            (Purpose::Leave, Reply::Left) => {
                // The shell would found another mesh; this one sees it no more.
                self.peers[peer].revoked = true;
                self.dirty = true;
                let boot = self.peers[peer].boot;
                self.at(0, Event::Crash { peer, boot, down_us: 0 });
            }
            (
                Purpose::Cancel
                | Purpose::Leave
                | Purpose::Other
                | Purpose::Approve(_)
                | Purpose::Redeem(_)
                | Purpose::Invite(_)
                | Purpose::Ask(_),
                _,
            ) => {}
        }
    }

    pub(super) fn input_command_later(&mut self, peer: usize, purpose: Purpose, command: Command) {
        self.command_ids += 1;
        let id = self.command_ids;
        self.commands.insert(id, (purpose, self.now));
        let delay = self.dice.range(MS..=50 * MS);
        self.input_later(peer, delay, Input::Command(id, command));
    }
}
