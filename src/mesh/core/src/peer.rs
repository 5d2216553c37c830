//! One peer of the mesh: the sub-cores composed, with the one [`Peer::step`].
//!
//! Each step collects its writes into one batch. What promises something to others waits until that batch is durable
//! ([`crate::io::Input::Durable`]); what merely decides may run ahead of the disk.
//!
//! Here are boot, step and dispatch; `entries` is the way of an entry from the wire into the store, `commands` the table of
//! what a door may ask for. All else belongs to the sub-cores: each owns its state, decides by `crate::facts::Facts`, and writes what
//! it wants done into `Effects`.

mod commands;
mod entries;
mod founding;

use std::collections::BTreeMap;

use bytes::Bytes;
use rand_core::Rng;

use crate::age::Age;
use crate::audit::Audit;
use crate::calls::Book;
use crate::compaction::Compaction;
use crate::config::Config;
use crate::crypto::Signer;
use crate::durability::Durability;
use crate::effects::{Effects, Then};
use crate::election::Election;
use crate::entry::{Kind, SignedEntry};
use crate::epoch::{Claim, Epoch, Fence};
use crate::executor::{Executor, Screened, screen};
use crate::facts::Local;
use crate::frame::{Answer, AnswerKind, Dispatch, EntryItem, Frame};
use crate::ids::{Attempt, Hash, Incarnation, PeerId, PublicKey, ReqId};
use crate::incarnations::{Incarnations, lost_floor};
use crate::invites::Invites;
use crate::io::{
    Batch, CallRecord, CmdId, DiskSpace, Fact, HistoryRow, Image, Input, LogReader, Now, Output, Space, Usage, View,
    Write,
};
use crate::links::Links;
use crate::log::Logs;
use crate::log::bodies::Bodies;
use crate::log::unsupported::Unsupported;
use crate::membership;
use crate::nodes::Nodes;
use crate::protocol_rule::ProtocolRule;
use crate::reattestation::Reattestation;
use crate::record::{CancelRequest, Tier};
use crate::relay;
use crate::rights::Rights;
use crate::rows::{self, Head, InviteRow, OpenKey, Row, RowKey};
use crate::spending::Spending;
use crate::stays::Stays;
use crate::trust::Trust;
use entries::Judges;

pub use founding::{BadWelcome, BootError, Joined, founded, joined, known_incarnations, should_switch};

/// Reasons for which a call of ours does not get on, although others are linked.
const NO_READER: &str = "withheld by the devices reachable now: none of them is an owner, or the node itself";
const NO_BODY: &str =
    "withheld by the devices reachable now: the node wrote an outcome, and none of them has its content";

/// Times of the peer itself, on the clock of [`Now::mono_ms`].
#[derive(Debug, Clone)]
struct Timers {
    /// The last step.
    now: Now,
    /// The age of this store.
    age: Age,
    /// When [`Input::Wake`] was asked for.
    asked_wake: Option<u64>,
    /// The command that asked for a clean stop, and until when it waits for a successor.
    stopping: Option<(CmdId, u64)>,
}

/// The state machine of one peer. A copy is for models that follow several futures; a process has one.
#[derive(Debug, Clone)]
pub struct Peer {
    local: Local,
    timers: Timers,
    durability: Durability,
    trust: Trust,
    election: Election,
    logs: Logs,
    nodes: Nodes,
    links: Links,
    incarnations: Incarnations,
    book: Book,
    executor: Executor,
    invites: Invites,
    rights: Rights,
    upkeep: Upkeep,
}

/// All that is done now and then about what the logs hold.
#[derive(Debug, Clone)]
struct Upkeep {
    reattestation: Reattestation,
    compaction: Compaction,
    audit: Audit,
    stays: Stays,
}

/// The [`Facts`] of a peer. A macro, since each field is borrowed by itself: what is not among them may change meanwhile.
macro_rules! facts {
    ($peer:expr) => {
        crate::facts::Facts {
            now_ms: $peer.timers.now.mono_ms,
            local: &$peer.local,
            trust: &$peer.trust,
            election: &$peer.election,
            logs: &$peer.logs,
            nodes: &$peer.nodes,
            links: &$peer.links,
            incarnations: &$peer.incarnations,
            rights: &$peer.rights,
        }
    };
}
use facts;

/// Something of the peer that is done at its time; harmless when it is done early.
struct Timer {
    due: fn(&Peer) -> Option<u64>,
    fire: fn(&mut Peer, &mut Effects<'_>),
}

/// All timers, in the order in which a step looks at them.
const TIMERS: &[Timer] = &[
    Timer { due: |peer| peer.election.poll_timeout(), fire: Peer::time_election },
    Timer { due: |peer| peer.logs.poll_timeout(), fire: Peer::time_logs },
    Timer { due: |peer| peer.upkeep.compaction.poll_timeout(), fire: Peer::time_compaction },
    Timer { due: |peer| peer.book.poll_timeout(), fire: Peer::time_calls },
    Timer { due: |peer| peer.incarnations.poll_timeout(), fire: Peer::time_checkpoint },
    Timer { due: |peer| peer.upkeep.reattestation.poll_timeout(), fire: Peer::time_reattestation },
    Timer { due: |peer| peer.rights.answers_timeout(), fire: |peer, fx| peer.rights.handle_timeout(fx) },
    Timer { due: |peer| peer.book.redecide_timeout(), fire: |_, _| {} },
    Timer { due: |peer| peer.book.deferred_timeout(), fire: Peer::time_deferred },
    Timer { due: |peer| peer.book.closed.poll_timeout(), fire: Peer::time_closed },
    Timer { due: |peer| peer.executor.poll_timeout(), fire: Peer::time_executor },
    Timer { due: |peer| peer.trust.poll_timeout(), fire: |peer, fx| peer.judge_changes(Judges::Due, fx) },
    Timer { due: |peer| peer.upkeep.audit.poll_timeout(), fire: Peer::time_audit },
    Timer { due: Peer::stays_timeout, fire: |_, _| {} },
    Timer { due: |peer| peer.timers.stopping.map(|(_, until)| until), fire: Peer::time_stop },
];

/// Reads one of the single values of a store.
fn read<T: Row>(meta: &BTreeMap<Vec<u8>, Bytes>, at: &RowKey<T>) -> Option<T> {
    at.read(meta.get(&at.key)?)
}

impl Peer {
    /// Takes up the work that the store holds. Ends what a crash cut, so the first outputs may already be a batch.
    ///
    /// # Errors
    /// When the store is not one of a peer of ours.
    pub fn boot(
        config: Config,
        signer: Box<dyn Signer>,
        image: Image,
        now: Now,
        rng: &mut dyn Rng,
        out: &mut Vec<Output>,
    ) -> Result<Self, BootError> {
        let key = signer.public_key();
        let me = key.peer_id();
        let mut meta: BTreeMap<Vec<u8>, Bytes> = BTreeMap::new();
        let mut trust = Vec::new();
        let mut heads = BTreeMap::new();
        let mut nodes = Nodes::default();
        let mut invites = Invites::default();
        let mut unsupported = Unsupported::new(config.newest_kind);
        let mut reattestation = Reattestation::default();
        let mut audit = Audit::default();
        let mut bodies = Bodies::default();
        let mut rights = Rights::new(config.rules);
        let mut book = Book::new(me, config.keep_calls_ms);
        let mut executor = Executor::new(me, now.mono_ms);
        let saved = rows::age();
        let saved = image.rows.iter().find(|(space, key, _)| (*space, key) == (saved.space, &saved.key));
        let age = Age::restore(saved.and_then(|(_, _, value)| rows::age().read(value)), now);
        let mut unread = Vec::new();
        for (space, row_key, value) in image.rows {
            let unread_key = if space.is_dispensable() { row_key.clone() } else { Vec::new() };
            let good = match space {
                Space::Meta => unsupported
                    .restore(&row_key, &value)
                    .and_then(|()| reattestation.restore(&row_key, &value))
                    .and_then(|()| bodies.restore(&row_key, &value))
                    .and_then(|()| rights.restore_unheard(&row_key, &value))
                    .and_then(|()| nodes.restore_aside(&row_key, &value))
                    .map(|()| drop(meta.insert(row_key, value))),
                Space::Trust => SignedEntry::from_stored(&value).map(|entry| trust.push(entry)),
                Space::Heads => rows::log_of(&row_key)
                    .zip(Head::from_bytes(&value))
                    .map(|(key, head)| heads.insert(key, head).map_or((), |_| ())),
                Space::Directory => nodes.restore(&value),
                Space::Policy => rights.restore(&value),
                Space::Audit => audit.restore(&row_key, &value),
                Space::Invites => invites.restore(&row_key, &value, now),
                Space::Open if matches!(OpenKey::of(&row_key), Some(OpenKey::Consent(_))) => {
                    rights.restore_answer(&value, now)
                }
                Space::Open => book.restore(&row_key, &value, now).map(drop),
                Space::Keys => book.keys.restore(&row_key, &value, age.at(now)),
                Space::Journal => executor.restore(&row_key, &value),
                Space::ForgottenMarks => executor.restore_forgotten_mark(&row_key, &value),
                Space::Log | Space::Calls | Space::CallsByTime | Space::BlobReaders => Some(()),
            };
            match good {
                Some(()) => {}
                None if space.is_dispensable() => unread.push(Write { space, key: unread_key, value: None }),
                None => return Err(BootError::Damaged(space.name())),
            }
        }
        let trust = Trust::new(trust, config.rules).ok_or(BootError::NoMesh)?;
        rights.boot(&trust);
        let stored = read(&meta, &rows::incarnation()).ok_or(BootError::Damaged("incarnation"))?;
        let renewed = image.rolled_back.then(|| Incarnation(rng.next_u32()));
        let incarnation = renewed.unwrap_or(stored);
        let boot = read(&meta, &rows::boot()).unwrap_or(0) + 1;
        let fence: Option<Fence> = read(&meta, &rows::fence());
        let fence = fence.map(|fence| fence.restored(signer.as_ref(), trust.mesh()));
        let counter = if renewed.is_some() { 0 } else { read(&meta, &rows::counter()).unwrap_or(0) };
        let known = fence.as_ref().map_or(0, |fence| fence.epoch.counter);
        let floor = read(&meta, &rows::claim_floor()).unwrap_or(0);
        let floor = if renewed.is_some() { lost_floor(known.max(floor), rng) } else { floor };
        let at_start = heads.get(&(me, incarnation)).map_or(0, |head: &Head| head.seq);
        let stored = read(&meta, &rows::incarnations());
        let mut peer = Self {
            timers: Timers { now, age, asked_wake: None, stopping: None },
            durability: Durability::default(),
            election: Election::boot(config.clone(), me, trust.mesh(), fence, floor, now.mono_ms),
            logs: Logs::new(
                me,
                trust.mesh(),
                incarnation,
                heads,
                unsupported,
                Spending::new(config.budgets, config.keep_entries_ms),
                bodies,
                now.mono_ms,
            ),
            trust,
            nodes,
            links: Links::default(),
            incarnations: Incarnations::restore(stored, incarnation, counter, at_start),
            book,
            executor,
            invites,
            rights,
            upkeep: Upkeep {
                reattestation,
                compaction: Compaction::new(now.mono_ms, config.compact_every_ms),
                audit,
                stays: Stays::default(),
            },
            local: Local { me, key, signer: signer.into(), config, boot, disk: None },
        };
        peer.logs.set_changes(peer.trust.fingerprint());
        for (row_key, value) in &meta {
            peer.logs.restore(row_key, value);
            peer.book.restore_meta(row_key, value, now.mono_ms);
        }
        peer.run(now, rng, out, |peer, fx| {
            fx.put(rows::boot(), &boot);
            fx.put(rows::incarnation(), &incarnation);
            fx.put(rows::incarnations(), peer.incarnations.row());
            if !unread.is_empty() {
                let what = "rows of this device's store did not decode and were dropped: what they said of calls and devices may be missing here";
                fx.fact(Fact::Warning(what, me));
                fx.writes.extend(unread);
            }
            if renewed.is_some() {
                // What the former incarnation had begun, it may have ended: nothing of that is ours to tell.
                fx.put(rows::claim_floor(), &floor);
                peer.executor.forget_started(fx);
                peer.invites.void_all(fx);
            }
            peer.book.close_calls_of_former_incarnations(incarnation, &peer.trust, fx);
            fx.sync = true;
            peer.settle_authors(fx);
            peer.refresh_candidates(fx);
            peer.logs.unsupported.read(fx);
            peer.upkeep.reattestation.read(&facts!(peer), fx);
            peer.rights.read_unheard(&peer.trust, fx);
            peer.election.start(fx);
            for finished in peer.executor.interrupted(fx) {
                peer.write_outcome(&finished, fx);
            }
            if peer.is_excluded() {
                // The process may have ended between the revocation's fsync and telling the others.
                fx.then(Then::Revoked);
            }
            fx.view_changed = true;
        });
        Ok(peer)
    }

    /// One thing happened; `out` gets what to do about it.
    pub fn step(&mut self, now: Now, rng: &mut dyn Rng, input: Input, out: &mut Vec<Output>) {
        let late = self.timers.asked_wake.is_some_and(|at| now.mono_ms > at + self.local.config.late_wake_ms);
        self.run(now, rng, out, |peer, fx| {
            if late && fx.enforces(ProtocolRule::WakeDetection) {
                peer.election.handle_late_wake(fx);
            }
            peer.handle(input, fx);
            peer.judge_changes(Judges::Due, fx);
            for timer in TIMERS {
                (timer.fire)(peer, fx);
            }
        });
    }

    /// When [`Input::Wake`] is due, on the clock of [`Now::mono_ms`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        self.timers.asked_wake
    }

    /// Ends every open call of ours, because this peer goes to another mesh: the rows to write with the departure.
    pub fn depart(&mut self, now: Now, rng: &mut dyn Rng) -> Batch {
        let mut out = Vec::new();
        let mut fx = self.effects(now, rng, &mut out);
        self.book.depart(&mut fx);
        Batch { writes: fx.writes, sync: true }
    }

    /// Decides anew on all calls that wait: what is said about rights has changed, or what devices offer.
    fn redecide(&mut self, fx: &mut Effects<'_>) {
        let redecided = self.book.redecide(&facts!(self), fx);
        self.write_all_inferred(redecided.denied, fx);
        for (unrun, why) in redecided.denied_here {
            let finished = self.executor.deny(unrun, &why, &facts!(self), fx);
            self.finish(finished, fx);
        }
        redecided.asking_here.iter().for_each(|id| self.executor.park(id, &facts!(self), fx));
        self.executor.stop_excluded(&facts!(self), fx);
        if redecided.frees {
            self.book.pump_all(&facts!(self), fx);
        }
    }

    fn refresh_devices(&mut self) {
        self.rights.refresh_devices(&self.trust, &self.nodes);
    }

    fn effects<'a>(&self, now: Now, rng: &'a mut dyn Rng, out: &'a mut Vec<Output>) -> Effects<'a> {
        Effects::new(self.local.me, self.local.config.rules, now, self.timers.age.at(now), rng, out)
    }

    /// Runs one step, then hands over its batch and whatever need not wait.
    fn run(
        &mut self,
        now: Now,
        rng: &mut dyn Rng,
        out: &mut Vec<Output>,
        step: impl FnOnce(&mut Self, &mut Effects<'_>),
    ) {
        self.timers.now = now;
        let mut gateway = self.election.gateway();
        let mut fx = self.effects(now, rng, out);
        step(self, &mut fx);
        self.settle(&mut fx);
        while self.election.gateway() != gateway {
            gateway = self.election.gateway();
            self.handle_gateway_change(&mut fx);
            self.settle(&mut fx);
        }
        if fx.view_changed {
            self.refresh_devices();
        }
        if self.rights.take_changed() && fx.enforces(ProtocolRule::Redecide) {
            self.book.redecide_all();
        }
        if self.book.redecide_timeout().is_some() {
            self.redecide(&mut fx);
            self.settle(&mut fx);
        }
        self.end_stays(&mut fx);
        self.logs.spending.save(&mut fx);
        self.timers.age.save(&mut fx);
        let Effects { writes, then, sync, view_changed, .. } = fx;
        self.durability.commit(writes, sync, then, out);
        if view_changed {
            out.push(Output::Fact(Fact::View));
        }
        // What is due already is not late when it is done now.
        let due = TIMERS.iter().filter_map(|timer| (timer.due)(self)).min();
        self.timers.asked_wake = due.map(|at| at.max(now.mono_ms));
    }

    /// Does what this step leads to at once: frames to ourselves, and what waits for nothing.
    fn settle(&mut self, fx: &mut Effects<'_>) {
        loop {
            while let Some(frame) = fx.loopback.pop_front() {
                self.handle_frame(self.local.me, frame, fx);
            }
            // What waits for nothing that is still on its way to the disk happens now.
            if fx.writes.is_empty() && self.durability.is_settled() && !fx.then.is_empty() {
                for then in std::mem::take(&mut fx.then) {
                    self.handle_then(then, fx);
                }
                continue;
            }
            let unfounded: Vec<Then> = fx.then.extract_if(.., |then| !fx.rules.enforces(then.rule())).collect();
            for then in unfounded {
                self.handle_then(then, fx);
            }
            if fx.loopback.is_empty() {
                return;
            }
        }
    }

    // --- Dispatch -----------------------------------------------------------------------------------------------------

    fn handle(&mut self, input: Input, fx: &mut Effects<'_>) {
        match input {
            Input::Wake => {}
            Input::LinkUp(peer) => self.handle_link_up(peer, fx),
            Input::LinkVia(peer, via) => self.links.handle_via(peer, via),
            Input::Session(peer, nonce) => self.links.handle_session(peer, nonce, fx),
            Input::LinkDown(peer) => {
                self.links.handle_link_down(&peer);
                self.part(peer, fx);
            }
            Input::Recv(from, frame) => {
                if self.trust.member(&from).is_some() {
                    self.handle_frame(from, frame, fx);
                } else if let Frame::Entries { entries, .. } = frame
                    && self.trust.is_excluded(&from)
                {
                    // Whom it approved while it did not know must be seen to await re-approval. Nothing else of it is read.
                    for item in &entries {
                        self.take_change(&item.entry);
                    }
                }
            }
            Input::Durable(txn) => {
                for then in self.durability.handle_durable(txn) {
                    self.handle_then(then, fx);
                }
            }
            Input::LogRead { reader, entries, more } => self.handle_log_read(reader, entries, more, fx),
            Input::ClosedRead { calls, more } => self.book.closed.handle_read(&calls, more, &facts!(self), fx),
            Input::ToolProgress(id, attempt, note) => {
                self.executor.handle_progress(id, attempt, note, &facts!(self), fx);
            }
            Input::ToolEnded(id, attempt, outcome) => {
                let finished = self.executor.handle_tool_ended(id, attempt, outcome, fx);
                self.finish(finished, fx);
            }
            Input::Fetched(hash) => self.executor.handle_fetched(hash, &facts!(self), fx),
            Input::FetchFailed(hash) => self.executor.handle_fetch_failed(hash, fx.now.mono_ms),
            Input::FetchGone(hash) => {
                for finished in self.executor.handle_fetch_gone(hash, &facts!(self), fx) {
                    self.finish(Some(finished), fx);
                }
            }
            Input::Disk(space) => self.handle_disk(space, fx),
            Input::NodeUp(peer, session) => {
                if facts!(self).leads() && self.trust.member(&peer).is_some() {
                    self.book.handle_node_up(peer, session, &facts!(self), fx);
                    self.tell_presence(fx);
                }
            }
            Input::NodeDown(peer, session) => {
                if self.book.handle_node_down(peer, session) {
                    self.tell_presence(fx);
                }
            }
            Input::Command(id, command) => self.handle_command(id, command, fx),
            Input::Refused(row) => self.upkeep.audit.note(*row, fx),
            Input::Untagged(untagged) => self.nodes.note_untagged(untagged, fx),
        }
    }

    fn handle_frame(&mut self, from: PeerId, frame: Frame, fx: &mut Effects<'_>) {
        match frame {
            Frame::Beacon(beacon) => {
                let may = self.is_of_mesh(&beacon.claim) && self.trust.is_owner(&beacon.claim.epoch.peer);
                self.election.handle_beacon(from, beacon, may, fx);
            }
            Frame::Query => self.election.handle_query(from, fx),
            Frame::Notice(claim) => self.handle_notice(&from, &claim, fx),
            Frame::Resign { epoch, successor } => self.election.handle_resign(from, epoch, successor, fx),
            Frame::Handover { epoch } => self.election.handle_handover(from, epoch, fx),
            Frame::Neighbours { peers, relayed } => self.logs.handle_neighbours(from, peers, relayed, fx),
            Frame::Digest { authors, rows, changes } => {
                if self.links.begin_comparison(from, changes, &self.trust, fx.now.mono_ms) {
                    membership::send_records(from, &facts!(self), fx);
                }
                self.logs.handle_digest(from, authors, rows, &self.trust, fx);
            }
            Frame::Entries { entries, more } => {
                let mut news = false;
                for item in &entries {
                    news |= self.ingest(from, item, fx);
                }
                self.judge_changes(Judges::Due, fx);
                let objects = entries.first().is_some_and(|item| item.entry.entry.kind == Kind::GENESIS);
                if objects && !self.is_excluded() && self.links.begin_objection(from) {
                    membership::send_records(from, &facts!(self), fx);
                }
                if more {
                    self.logs.ask_more(from, news, &self.trust, fx);
                }
                self.renew_directory(fx);
            }
            Frame::Want(wanted) => self.logs.handle_want(from, wanted, &self.trust, fx),
            Frame::Bodies { entries, until } => {
                for item in &entries {
                    self.ingest(from, item, fx);
                }
                self.judge_changes(Judges::Due, fx);
                self.logs.handle_bodies(from, until, fx);
            }
            Frame::Presence { epoch, online } => {
                if self.election.gateway() == Some(epoch) && from == epoch.peer {
                    self.nodes.set_told_online(online);
                    self.note_presence(fx);
                }
            }
            Frame::Progress { id, attempt, state, note } => {
                // Whether a call reads as running decides how long its ending is waited for: only its gateway may say so.
                if self.election.gateway().is_some_and(|epoch| epoch.peer == from) {
                    self.book.handle_progress(from, id, attempt, state, &note, fx);
                }
            }
            Frame::Dispatch(dispatch) => self.handle_dispatch(from, &dispatch, fx),
            Frame::Answer(answer) => self.handle_answer(from, &answer, fx),
            Frame::Cancel { id } => {
                let cancel = self.book.is_cancelled(&id).cloned().unwrap_or(CancelRequest {
                    id,
                    reason: "cancelled".to_owned(),
                    expired: false,
                });
                if self.trust.is_owner(&from) {
                    self.stop_call(&cancel, fx);
                }
            }
        }
    }

    fn handle_log_read(&mut self, reader: LogReader, entries: Vec<SignedEntry>, more: bool, fx: &mut Effects<'_>) {
        match reader {
            LogReader::Peer(to) => {
                let items: Vec<_> = entries.into_iter().map(|entry| self.item(entry, fx.now.mono_ms)).collect();
                self.logs.handle_log_read(to, &items, more, &self.trust, fx);
            }
            LogReader::Want(to) => {
                let items = entries.into_iter().map(|entry| self.item(entry, fx.now.mono_ms)).collect();
                self.logs.handle_want_read(to, items, more, &self.trust, fx);
            }
            LogReader::Lacking => self.logs.handle_lacking_read(&entries, more, &self.trust, fx),
            LogReader::Compaction => {
                let known = (&self.book, &self.executor);
                let dead = self.upkeep.compaction.handle_log_read(&entries, more, known, &facts!(self), fx);
                if let Some(dead) = dead {
                    let entry = self.write(Kind::TRUNCATION, &crate::entry::encode(&dead), fx);
                    self.apply_truncation(&entry, fx);
                }
            }
            LogReader::Unsupported => {
                let (entries, critical) = self.logs.unsupported.handle_log_read(entries, more, fx);
                for entry in entries {
                    let item = self.item(entry, fx.now.mono_ms);
                    self.apply_admitted(&item.entry, item.left_ms, fx);
                }
                if critical {
                    self.handle_halts(fx);
                }
            }
            LogReader::Reattest => {
                for outcome in self.upkeep.reattestation.handle_log_read(&entries, more, &facts!(self), fx) {
                    self.issue_again(&outcome, fx);
                }
            }
            LogReader::Reissue => {
                for outcome in self.incarnations.handle_reissue(&entries) {
                    self.issue_again(&outcome, fx);
                }
                if more {
                    self.incarnations.read_reissue(&self.local.me, &self.logs, fx);
                }
            }
            LogReader::OwnCheck => {
                if self.incarnations.handle_own_check(&entries, &self.logs) {
                    self.handle_lost_state(fx);
                }
            }
            LogReader::Directories => {
                let read = entries.iter().map(|entry| entry.author).collect();
                for entry in &entries {
                    self.apply_admitted(entry, None, fx);
                }
                self.nodes.handle_log_read(&read, more, &self.trust, fx);
            }
            LogReader::Sweep => self.logs.handle_sweep_read(&entries, more, &self.trust, fx),
            LogReader::Rights => self.rights.handle_log_read(&entries, more, &self.trust, fx),
            LogReader::Deferred => {
                for (entry, left_ms) in self.book.take_deferred(entries, fx.now.mono_ms) {
                    self.apply_admitted(&entry, Some(left_ms), fx);
                }
            }
        }
    }

    fn handle_then(&mut self, then: Then, fx: &mut Effects<'_>) {
        match then {
            Then::Reply(id, reply) => fx.out.push(Output::Reply(id, reply)),
            Then::Claimed(epoch) => self.election.handle_claimed(epoch, self.local.signer.as_ref(), fx),
            Then::Push { entry, left_ms } => {
                let gateway = self.election.gateway().map(|epoch| epoch.peer);
                self.logs.handle_durable(&entry, left_ms, gateway, &self.trust, fx);
                if entry.entry.kind == Kind::CONSENT {
                    self.hear_answer(&entry, left_ms, fx);
                }
                if let Some(header) = entry.header() {
                    // Accepted: only now may it be dispatched, if we are the gateway ourselves.
                    self.book.release(&header.id, &facts!(self), fx);
                    if self.logs.nobody_may_read(&entry, &self.trust) {
                        self.book.note_withheld(|record| record.header.id == header.id, NO_READER, fx);
                    }
                }
            }
            Then::Started(id, attempt) => self.handle_started(id, attempt, fx),
            Then::Outcome(id, attempt, entry) => {
                self.executor.keep_outcome(id, attempt, entry);
                if let Some(gateway) = self.election.gateway()
                    && (gateway.peer == self.local.me || self.election.is_linked(&gateway.peer))
                {
                    self.executor.tell(id, attempt, gateway.peer, &self.trust, fx);
                }
            }
            Then::Ended(id, attempt, confirmed) => {
                self.book.handle_ended(&id, attempt, confirmed, fx);
                if confirmed {
                    self.rights.end_call(&id, fx);
                }
            }
            Then::Dismiss(peer) => {
                if self.links.is_up(&peer) && self.trust.member(&peer).is_none() {
                    membership::send_exclusion(peer, &facts!(self), fx);
                }
            }
            Then::Revoked => fx.fact(Fact::Revoked),
        }
    }

    // --- Timers -------------------------------------------------------------------------------------------------------

    fn time_election(&mut self, fx: &mut Effects<'_>) {
        let looks = self.election.looks_for_better(fx.now.mono_ms);
        let reaches = if looks { relay::reaches(&facts!(self)) } else { BTreeMap::new() };
        self.election.handle_timeout(self.local.signer.as_ref(), &reaches, fx);
    }

    fn time_logs(&mut self, fx: &mut Effects<'_>) {
        if self.logs.handle_timeout(self.local.config.sync_every_ms, &self.trust, fx) {
            let authors = self.logs.withheld_outcomes();
            self.book.note_withheld(|record| authors.contains(&record.header.target), NO_BODY, fx);
        }
    }

    fn time_compaction(&mut self, fx: &mut Effects<'_>) {
        self.upkeep.compaction.handle_timeout(&facts!(self), fx);
    }

    fn time_calls(&mut self, fx: &mut Effects<'_>) {
        let mut due = self.book.due(fx.now.mono_ms);
        if due.is_empty() {
            return;
        }
        due.sort_unstable();
        self.confirm_here(&due, fx);
        let overdue = self.book.handle_timeout(&facts!(self), fx);
        self.write_all_inferred(overdue, fx);
    }

    /// A run that lasts, and of which nothing in our log tells yet: others get evidence against an older state
    /// of ours.
    fn time_checkpoint(&mut self, fx: &mut Effects<'_>) {
        if self.incarnations.needs_checkpoint(self.logs.own_seq(), fx.now.mono_ms)
            && !self.executor.is_idle()
            && !self.is_excluded()
            && fx.enforces(ProtocolRule::RunsCheckpointed)
        {
            self.write(Kind::CHECKPOINT, &[], fx);
        }
    }

    fn time_reattestation(&mut self, fx: &mut Effects<'_>) {
        for outcome in self.upkeep.reattestation.handle_timeout(&facts!(self), fx) {
            self.issue_again(&outcome, fx);
        }
    }

    fn time_deferred(&mut self, fx: &mut Effects<'_>) {
        self.book.read_deferred(&facts!(self), fx);
    }

    fn time_closed(&mut self, fx: &mut Effects<'_>) {
        self.book.time_closed(&facts!(self), fx);
    }

    fn time_executor(&mut self, fx: &mut Effects<'_>) {
        if self.executor.is_due(fx.now.mono_ms) {
            for finished in self.executor.handle_timeout(&facts!(self), fx) {
                self.write_outcome(&finished, fx);
            }
        }
    }

    // --- Where sub-core meets sub-core --------------------------------------------------------------------------------

    fn handle_link_up(&mut self, peer: PeerId, fx: &mut Effects<'_>) {
        if peer == self.local.me {
            return;
        }
        self.links.handle_link_up(peer);
        if self.trust.member(&peer).is_some() {
            self.meet(peer, fx);
        } else if self.trust.is_excluded(&peer) {
            fx.then(Then::Dismiss(peer));
        }
    }

    /// A linked peer that belongs is a neighbour from now on.
    fn meet(&mut self, peer: PeerId, fx: &mut Effects<'_>) {
        self.election.handle_link_up(peer, fx);
        self.logs.handle_link_up(peer, self.links.via(&peer), &self.trust, fx);
        membership::send_void(&self.trust.void(), &[peer], &facts!(self), fx);
        if facts!(self).leads() {
            self.tell_presence(fx);
        }
        self.note_presence(fx);
        fx.view_changed = true;
    }

    /// And now no more.
    fn part(&mut self, peer: PeerId, fx: &mut Effects<'_>) {
        self.election.handle_link_down(peer, fx);
        self.logs.handle_link_down(peer, &self.trust, fx);
        self.note_presence(fx);
        fx.view_changed = true;
    }

    /// A claim that proves a fence. Its author may have been removed since: a leader must rise above its epoch all the
    /// same, or those who once followed it would never follow anyone below. But what it claims after that is nothing to
    /// rise above.
    fn handle_notice(&mut self, from: &PeerId, claim: &Claim, fx: &mut Effects<'_>) {
        let Epoch { counter, peer: claimant, .. } = claim.epoch;
        if !self.is_of_mesh(claim) || claim.epoch <= self.election.fence().epoch {
            return;
        }
        let may_prove = self.trust.is_owner(from)
            || self.trust.may_prove(&claimant, counter)
            || (self.trust.was_owner(&claimant) && self.links.begin_rescue(*from, self.trust.ended_with(&claimant)));
        self.election.handle_notice(claim, may_prove, fx);
    }

    /// The gateway has changed: sessions belong to an epoch, and a new gateway sends what waits.
    fn handle_gateway_change(&mut self, fx: &mut Effects<'_>) {
        self.book.forget_sessions();
        self.nodes.set_told_online([]);
        if facts!(self).leads() {
            // The gateway is a node too; its session is no stream.
            self.book.handle_node_up(self.local.me, 0, &facts!(self), fx);
            self.end_undeliverable(fx);
            self.book.redecide_all();
            self.tell_presence(fx);
        }
        self.note_presence(fx);
        fx.view_changed = true;
    }

    fn handle_dispatch(&mut self, from: PeerId, dispatch: &Dispatch, fx: &mut Effects<'_>) {
        let Some(header) = dispatch.header.header() else { return };
        let (id, attempt, place) = (header.id, dispatch.attempt, dispatch.header.place());
        let answer = |what, fx: &mut Effects<'_>| fx.send(from, Frame::Answer(Answer { id, attempt, what }));
        let may_lead = self.trust.is_owner(&from) && self.is_of_mesh(&dispatch.claim);
        if from != dispatch.claim.epoch.peer || !may_lead {
            return answer(AnswerKind::Rejected("only a gateway of this mesh may dispatch".to_owned()), fx);
        }
        if from != self.local.me && !self.election.observe(&dispatch.claim, may_lead, fx) {
            return answer(AnswerKind::Fenced(self.election.fence().proof.clone()), fx);
        }
        if let Err(reason) = screen::screen(dispatch, &header, &facts!(self), fx) {
            return answer(AnswerKind::Rejected(reason), fx);
        }
        // The log may bring the header only after a crash has made us forget what became of it: it belongs in the book.
        // So does the time that is left, also where nothing begins for now or another attempt has been here: another
        // gateway, ourselves perhaps, may believe in more.
        let is_known = self.book.record(&id).is_some();
        if !is_known && !self.executor.has_any(&id) && !self.book.has_room(&place.author, &facts!(self), fx) {
            return answer(AnswerKind::Busy, fx);
        }
        if is_known || !self.executor.has_any(&id) {
            self.book.apply_header(&dispatch.header, header.clone(), dispatch.left_ms, &facts!(self), fx);
        }
        if self.executor.is_new(&id, attempt)
            && let Some(what) = screen::reason_to_defer(&from, &place, &facts!(self))
        {
            return answer(what, fx);
        }
        self.hear_consents(&dispatch.consents, fx);
        let known_ms = self.book.left_ms(&id, fx.now.mono_ms).unwrap_or(u64::MAX);
        let left_ms = dispatch.left_ms.min(header.ttl_ms).min(known_ms);
        let (cancel, entry) = (self.book.is_cancelled(&id).cloned(), dispatch.header.hash);
        let spent = self.book.is_spent(&id, &place.author, &self.trust);
        let screened = Screened { gateway: from, header, origin: place.author, entry, attempt, left_ms, cancel, spent };
        let finished = self.executor.handle_screened(screened, &facts!(self), fx);
        self.finish(finished, fx);
    }

    fn handle_answer(&mut self, from: PeerId, answer: &Answer, fx: &mut Effects<'_>) {
        match &answer.what {
            AnswerKind::Ended(entry) => {
                // One of our own was applied when it was written.
                if from == self.local.me || entry.author != from || entry.entry.kind != Kind::OUTCOME {
                    return;
                }
                self.ingest(from, &EntryItem { entry: entry.clone(), left_ms: None }, fx);
                if let Some(outcome) = self.upkeep.reattestation.handle_forked(entry, &facts!(self)) {
                    self.book.apply_outcome(entry, &facts!(self), fx);
                    self.issue_again(&outcome, fx);
                }
            }
            AnswerKind::Fenced(Some(claim)) => self.handle_notice(&from, claim, fx),
            AnswerKind::Waiting
            | AnswerKind::Running { .. }
            | AnswerKind::Asking
            | AnswerKind::Lacking
            | AnswerKind::Busy
            | AnswerKind::Fenced(None)
            | AnswerKind::Rejected(_) => self.book.handle_answer(from, answer, &facts!(self), fx),
        }
    }

    /// `started` is durable.
    fn handle_started(&mut self, id: ReqId, attempt: Attempt, fx: &mut Effects<'_>) {
        let cancel = self.book.is_cancelled(&id).cloned();
        let finished = self.executor.handle_started(id, attempt, cancel, &facts!(self), fx);
        self.finish(finished, fx);
        // A mesh of one has nobody to tell.
        if self.trust.membership().members.len() > 1 {
            self.incarnations.note_started(self.logs.own_seq(), fx.now.mono_ms);
        }
    }

    /// True if a claim is to lead this mesh. What its device claimed in another one is no word here.
    fn is_of_mesh(&self, claim: &Claim) -> bool {
        claim.mesh == self.trust.mesh()
    }

    fn is_excluded(&self) -> bool {
        facts!(self).is_excluded_here()
    }

    /// The disk has crossed its floor, or half of it. What runs goes on.
    fn handle_disk(&mut self, space: DiskSpace, fx: &mut Effects<'_>) {
        self.local.disk = (space.free < space.floor).then_some(space);
        self.logs.spending.handle_disk(space);
        self.logs.resume_stopped(&self.trust, fx);
        fx.view_changed = true;
    }

    /// A halt has come or gone.
    fn handle_halts(&mut self, fx: &mut Effects<'_>) {
        self.refresh_candidates(fx);
        self.executor.start_next(&facts!(self), fx);
        fx.view_changed = true;
    }

    fn refresh_candidates(&mut self, fx: &mut Effects<'_>) {
        let candidates = facts!(self).candidates();
        self.election.set_candidates(candidates, fx);
    }

    fn note_presence(&mut self, fx: &mut Effects<'_>) {
        let online = facts!(self).online(self.book.online());
        self.nodes.note_online(&online, &self.trust, fx);
    }

    fn tell_presence(&mut self, fx: &mut Effects<'_>) {
        if let Some(epoch) = self.election.leading_claim().map(|claim| claim.epoch) {
            let online: Vec<PeerId> = self.book.online().collect();
            for peer in self.election.neighbours() {
                fx.send(peer, Frame::Presence { epoch, online: online.clone() });
            }
        }
        self.note_presence(fx);
    }

    // --- Questions ----------------------------------------------------------------------------------------------------

    /// The mesh as this peer sees it.
    #[must_use]
    pub fn view(&self) -> View {
        let facts = facts!(self);
        facts.view(&facts.online(self.book.online()), self.timers.now, relay::wanted(&facts))
    }

    /// Peers that are excluded, revoked or awaiting re-approval; at most [`crate::limits::REVOKED_TOLD_MAX`]. When one of them comes,
    /// it is told ([`Input::LinkUp`]), and nothing else: the shell closes its link after a moment.
    #[must_use]
    pub fn revoked_peers(&self) -> Vec<(PeerId, PublicKey)> {
        self.trust.excluded()
    }

    /// A call without a confirmed and durable ending, as this peer knows it.
    #[must_use]
    pub fn open_call(&self, id: &ReqId) -> Option<&CallRecord> {
        self.book.record(id)
    }

    /// All such calls.
    pub fn open_calls(&self) -> impl Iterator<Item = &CallRecord> + Clone {
        self.book.records()
    }

    /// Amounts that fill this peer's memory and its log, by whom.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage { logs: self.logs.spending.held().collect(), ..self.book.usage() }
    }

    /// Number of calls that have no ending yet.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.book.count_open()
    }

    /// This peer's key.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.local.key
    }

    /// The invites that this peer has made and still keeps, by the hash of their secrets.
    pub fn invites(&self) -> impl Iterator<Item = (&Hash, &InviteRow)> {
        self.invites.all()
    }

    /// Everyone who belongs.
    pub fn members(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.trust.membership().members.keys().copied()
    }

    /// Tier for which this peer trusts another now; `None`: not at all.
    #[must_use]
    pub fn tier(&self, of: &PeerId) -> Option<Tier> {
        self.trust.tier(of)
    }

    /// The approval by which a peer belongs, of the founder the genesis: what its own membership changes name.
    #[must_use]
    pub fn grant_of(&self, of: &PeerId) -> Option<Hash> {
        self.trust.member(of).map(|member| member.grant)
    }

    /// True if this peer holds its own revocation.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.trust.is_revoked(&self.local.me)
    }

    /// True if this peer leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        facts!(self).leads()
    }

    /// True if no tool runs here.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.executor.is_idle()
    }

    /// The newest row of a call's history, if it is in memory.
    #[must_use]
    pub fn last_row(&self, id: &ReqId) -> Option<&HistoryRow> {
        self.book.record(id).and_then(|record| record.history.last())
    }
}

#[cfg(test)]
mod tests;
