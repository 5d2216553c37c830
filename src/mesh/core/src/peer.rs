//! One peer of the mesh: the sub-cores composed, with the one [`Peer::step`].
//!
//! Each step collects its writes into one batch. What promises something to others waits until that batch is durable
//! ([`crate::io::Input::Durable`]); what merely decides may run ahead of the disk (mesh-protocol.md §9.1).

mod age;
mod commands;
mod compaction;
mod entries;
mod founding;
mod incarnations;
mod overflow;
mod presence;
mod reissue;
mod running;
mod unsupported;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use rand_core::Rng;

use crate::calls::Book;
use crate::config::Config;
use crate::crypto::Signer;
use crate::effects::{Effects, Then};
use crate::election::Election;
use crate::entry::{CancelRequest, Directory, Fence, Kind, SignedEntry, Tier};
use crate::executor::Executor;
use crate::frame::{AnswerKind, EntryItem, Frame};
use crate::ids::{Hash, Incarnation, NodeId, PeerId, PublicKey, ReqId};
use crate::io::{
    Batch, CallRecord, CmdId, Fact, HistoryRow, Hold, Image, Input, LogReader, NodeView, Now, Output, ReapprovalView,
    Reply, Space, TxnId, View,
};
use crate::log::Logs;
use crate::protocol_rule::ProtocolRule;
use crate::rows::{self, Head, InviteRow, Row, RowKey};
use crate::trust::Trust;

use age::Age;
use compaction::Look;
pub use founding::{founded, joined, should_switch};
use incarnations::{Incarnations, Sessions};
use overflow::Overflow;
use reissue::Reissue;
use running::declared;
use unsupported::Unsupported;

/// A restored store may have lost this many claims of ours; the random part on top keeps two incarnations apart that begin with
/// the same backup. Together far below [`crate::limits::EPOCH_JUMP_MAX`].
const CLAIMS_LOST_MAX: u64 = 4_096;
const CLAIMS_APART: u64 = 32_768;
/// How long a clean stop waits for the successor's first beacon (mesh-protocol.md §4, Shutdown).
const STOP_WAIT_MS: u64 = 100;

/// Why a store is not one of a peer of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// There is no mesh in it: found one first.
    #[error("the store holds no mesh")]
    NoMesh,
    /// A row that we cannot do without does not decode.
    #[error("the store's `{0}` does not decode")]
    Damaged(&'static str),
}

#[derive(Debug, Clone, Copy, Default)]
struct Presence {
    online: bool,
    changed_ms: u64,
}

/// The state machine of one peer. A copy is for models that follow several futures; a process has one.
#[derive(Debug, Clone)]
pub struct Peer {
    me: PeerId,
    key: PublicKey,
    config: Config,
    signer: Arc<dyn Signer>,
    boot: u64,
    age: Age,
    trust: Trust,
    election: Election,
    logs: Logs,
    book: Book,
    executor: Executor,
    directory: BTreeMap<PeerId, (SignedEntry, Arc<Directory>)>,
    invites: BTreeMap<Hash, InviteRow>,
    presence: BTreeMap<PeerId, Presence>,
    /// Whoever has a link to us. Those of them that belong are the neighbours of election and log.
    linked: BTreeSet<PeerId>,
    /// Those of them that have heard why we belong, see [`Self::object`].
    objected: BTreeSet<PeerId>,
    /// Who is online as the gateway that we follow says.
    told_online: BTreeSet<PeerId>,
    counter: u64,
    last_txn: TxnId,
    /// The newest batch that the disk was asked to sync.
    synced_txn: TxnId,
    durable_txn: TxnId,
    pending: VecDeque<(TxnId, Vec<Then>)>,
    asked_wake: Option<u64>,
    unsupported: Unsupported,
    overflow: Overflow,
    reissue: Reissue,
    incarnations: Incarnations,
    sessions: BTreeMap<PeerId, Sessions>,
    look: Look,
    /// Linked peers that were shown all our membership changes, with the hash of theirs and of ours at that time.
    compared_changes: BTreeMap<PeerId, (Hash, Hash)>,
    /// Our clock at the last step.
    now_ms: u64,
    stopping: Option<(CmdId, u64)>,
}

/// Reads one of the single values of a store.
fn read<T: Row>(meta: &BTreeMap<Vec<u8>, Bytes>, at: &RowKey<T>) -> Option<T> {
    at.read(meta.get(&at.key)?)
}

/// Counter above which a store claims that is older than its promises, and last knew `known`.
fn lost_floor(known: u64, rng: &mut dyn Rng) -> u64 {
    known + CLAIMS_LOST_MAX + rng.next_u64() % CLAIMS_APART
}

impl Peer {
    /// Takes up the work that the store holds. Ends what a crash cut, so the first outputs may already be a batch.
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
        let mut directory = BTreeMap::new();
        let mut invites = BTreeMap::new();
        let mut unsupported = Unsupported::default();
        let mut reissue = Reissue::default();
        let mut book = Book::new(me, config.keep_calls_ms);
        let mut executor = Executor::new(me, now.mono_ms);
        let saved = rows::age();
        let saved = image.rows.iter().find(|(space, key, _)| (*space, key) == (saved.space, &saved.key));
        let age = Age::restore(saved.and_then(|(_, _, value)| rows::age().read(value)), now);
        for (space, row_key, value) in image.rows {
            let good = match space {
                Space::Meta => unsupported
                    .restore(&row_key, &value)
                    .and_then(|()| reissue.restore(&row_key, &value))
                    .map(|()| drop(meta.insert(row_key, value))),
                Space::Trust => SignedEntry::from_stored(&value).map(|entry| trust.push(entry)),
                Space::Heads => rows::log_of(&row_key)
                    .zip(Head::from_bytes(&value))
                    .map(|(key, head)| heads.insert(key, head).map_or((), |_| ())),
                Space::Directory => SignedEntry::from_stored(&value).and_then(|entry| {
                    let body: Directory = entry.record()?;
                    directory.insert(entry.author, (entry, Arc::new(body)));
                    Some(())
                }),
                Space::Invites => Hash::from_slice(&row_key)
                    .zip(InviteRow::from_bytes(&value))
                    .filter(|(_, row)| row.expires_ms + 3_600_000 > now.wall_ms)
                    .map_or(Some(()), |(hash, row)| {
                        invites.insert(hash, row);
                        Some(())
                    }),
                Space::Open => book.restore(&row_key, &value, now).map(drop),
                Space::Keys => book.restore_key(&row_key, &value, age.at(now)),
                Space::Journal => executor.restore(&row_key, &value),
                Space::ForgottenMarks => executor.restore_mark(&row_key, &value),
                Space::Log | Space::Calls | Space::CallsByTime => Some(()),
            };
            good.ok_or(BootError::Damaged(space.name()))?;
        }
        let trust = Trust::new(trust, config.rules).ok_or(BootError::NoMesh)?;
        let stored = read(&meta, &rows::incarnation()).ok_or(BootError::Damaged("incarnation"))?;
        let renewed = image.rolled_back.then(|| Incarnation(rng.next_u32()));
        let incarnation = renewed.unwrap_or(stored);
        let boot = read(&meta, &rows::boot()).unwrap_or(0) + 1;
        let fence = read(&meta, &rows::fence());
        let counter = if renewed.is_some() { 0 } else { read(&meta, &rows::counter()).unwrap_or(0) };
        let known = fence.as_ref().map_or(0, |fence: &Fence| fence.epoch.counter);
        let floor = read(&meta, &rows::claim_floor()).unwrap_or(0);
        let floor = if renewed.is_some() { lost_floor(known.max(floor), rng) } else { floor };
        let look = Look::new(now.mono_ms, config.compact_every_ms);
        let mut peer = Self {
            me,
            key,
            election: Election::boot(config.clone(), me, fence, floor, now.mono_ms),
            config,
            signer: signer.into(),
            boot,
            age,
            incarnations: Incarnations::restore(
                read(&meta, &rows::incarnations()),
                incarnation,
                heads.get(&(me, incarnation)).map_or(0, |head| head.seq),
            ),
            logs: Logs::new(me, trust.mesh(), incarnation, heads, now.mono_ms),
            trust,
            book,
            executor,
            directory,
            invites,
            presence: BTreeMap::new(),
            linked: BTreeSet::new(),
            objected: BTreeSet::new(),
            told_online: BTreeSet::new(),
            counter,
            last_txn: 0,
            synced_txn: 0,
            durable_txn: 0,
            pending: VecDeque::new(),
            asked_wake: None,
            unsupported,
            overflow: Overflow::default(),
            reissue,
            sessions: BTreeMap::new(),
            look,
            compared_changes: BTreeMap::new(),
            now_ms: now.mono_ms,
            stopping: None,
        };
        peer.logs.set_changes(peer.trust.fingerprint());
        for (row_key, value) in &meta {
            peer.logs.restore(row_key, value);
        }
        peer.run(now, rng, out, |peer, fx| {
            fx.put(rows::boot(), &boot);
            fx.put(rows::incarnation(), &incarnation);
            fx.put(rows::incarnations(), peer.incarnations.row());
            if renewed.is_some() {
                // What the former incarnation had begun, it may have ended: nothing of that is ours to tell.
                fx.put(rows::claim_floor(), &floor);
                peer.executor.forget_started(fx);
            }
            peer.book.close_calls_of_former_incarnations(incarnation, fx);
            fx.sync = true;
            peer.refresh_candidates(fx);
            peer.read_unsupported(fx);
            peer.read_void(fx);
            peer.election.start(fx);
            for finished in peer.executor.interrupted(fx) {
                peer.write_outcome(&finished, fx);
            }
            if peer.is_excluded() {
                // The process may have ended between the revocation's fsync and the word of it.
                fx.then(Then::Revoked);
            }
            fx.view_changed = true;
        });
        Ok(peer)
    }

    /// One thing happened; `out` gets what to do about it.
    pub fn step(&mut self, now: Now, rng: &mut dyn Rng, input: Input, out: &mut Vec<Output>) {
        let late = self.asked_wake.is_some_and(|at| now.mono_ms > at + self.config.late_wake_ms);
        self.run(now, rng, out, |peer, fx| {
            if late && fx.enforces(ProtocolRule::WakeDetection) {
                peer.election.handle_late_wake(fx);
            }
            peer.handle(input, fx);
            peer.handle_timeouts(fx);
        });
    }

    /// When [`Input::Wake`] is due, on the clock of [`Now::mono_ms`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        self.asked_wake
    }

    fn next_timeout(&self) -> Option<u64> {
        [
            self.election.poll_timeout(),
            self.logs.poll_timeout(),
            self.book.poll_timeout(),
            self.executor.poll_timeout(),
            self.look.poll_timeout(),
            self.stopping.map(|(_, until)| until),
            self.checkpoint_due(),
            self.reissue.poll_timeout(),
            self.overflow.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Runs one step, then hands over its batch and whatever need not wait.
    fn run(
        &mut self,
        now: Now,
        rng: &mut dyn Rng,
        out: &mut Vec<Output>,
        step: impl FnOnce(&mut Self, &mut Effects<'_>),
    ) {
        self.now_ms = now.mono_ms;
        let gateway = self.election.gateway();
        let mut fx = Effects {
            now,
            age_ms: self.age.at(now),
            rng,
            rules: self.config.rules,
            me: self.me,
            writes: Vec::new(),
            then: Vec::new(),
            sync: false,
            loopback: VecDeque::new(),
            out,
            view_changed: false,
        };
        step(self, &mut fx);
        loop {
            while let Some(frame) = fx.loopback.pop_front() {
                self.handle_frame(self.me, frame, &mut fx);
            }
            if self.election.gateway() != gateway && !fx.view_changed {
                fx.view_changed = true;
            }
            // What waits for nothing that is still on its way to the disk happens now.
            if fx.writes.is_empty() && self.durable_txn >= self.synced_txn && !fx.then.is_empty() {
                for then in std::mem::take(&mut fx.then) {
                    self.handle_then(then, &mut fx);
                }
                continue;
            }
            let unfounded: Vec<Then> = fx.then.extract_if(.., |then| !fx.rules.enforces(then.rule())).collect();
            for then in unfounded {
                self.handle_then(then, &mut fx);
            }
            if fx.loopback.is_empty() {
                break;
            }
        }
        if self.election.gateway() != gateway {
            self.handle_gateway_change(&mut fx);
            while let Some(frame) = fx.loopback.pop_front() {
                self.handle_frame(self.me, frame, &mut fx);
            }
        }
        self.age.save(&mut fx);
        let Effects { writes, then, sync, view_changed, .. } = fx;
        if !writes.is_empty() {
            self.last_txn += 1;
            let sync = sync || !then.is_empty();
            if sync {
                self.synced_txn = self.last_txn;
            }
            out.push(Output::Commit(self.last_txn, Batch { writes, sync }));
        }
        if !then.is_empty() {
            match self.pending.back_mut() {
                Some((txn, waiting)) if *txn == self.synced_txn => waiting.extend(then),
                _ => self.pending.push_back((self.synced_txn, then)),
            }
        }
        if view_changed {
            out.push(Output::Fact(Fact::View));
        }
        // What is due already is not late when it is done now.
        self.asked_wake = self.next_timeout().map(|at| at.max(now.mono_ms));
    }

    fn handle(&mut self, input: Input, fx: &mut Effects<'_>) {
        match input {
            Input::Wake => {}
            Input::LinkUp(peer) => {
                if peer != self.me {
                    self.linked.insert(peer);
                    if self.trust.member(&peer).is_some() {
                        self.meet(peer, fx);
                    } else if self.trust.is_excluded(&peer) {
                        fx.then(Then::Dismiss(peer));
                    }
                }
            }
            Input::Session(peer, nonce) => self.handle_session(peer, nonce, fx),
            Input::LinkDown(peer) => {
                self.linked.remove(&peer);
                self.objected.remove(&peer);
                self.compared_changes.remove(&peer);
                self.part(peer, fx);
            }
            Input::Recv(from, frame) => {
                if self.trust.member(&from).is_some() {
                    self.handle_frame(from, frame, fx);
                } else if let Frame::Entries { entries, .. } = frame
                    && self.trust.is_excluded(&from)
                {
                    // Whom it approved while it did not know must be seen to wait. Nothing else of it is heard.
                    for item in &entries {
                        self.take_change(&item.entry, fx);
                    }
                }
            }
            Input::Durable(txn) => {
                self.durable_txn = self.durable_txn.max(txn);
                while let Some((at, _)) = self.pending.front()
                    && *at <= txn
                {
                    for then in self.pending.pop_front().map(|(_, thens)| thens).unwrap_or_default() {
                        self.handle_then(then, fx);
                    }
                }
            }
            Input::LogRead { reader, entries, more } => self.handle_log_read(reader, entries, more, fx),
            Input::ToolProgress(id, attempt, note) => {
                self.consult(fx, |executor, rules, fx| executor.handle_progress(id, attempt, note, rules, fx));
            }
            Input::ToolEnded(id, attempt, outcome) => {
                self.with_rules(fx, |executor, _, fx| executor.handle_tool_ended(id, attempt, outcome, fx));
            }
            Input::Fetched(hash) => {
                self.consult(fx, |executor, rules, fx| executor.handle_fetched(hash, rules, fx));
            }
            Input::FetchFailed(hash) => self.executor.handle_fetch_failed(hash, fx.now.mono_ms),
            Input::NodeUp(peer, session) => {
                if self.election.leading_claim().is_some() && self.trust.member(&peer).is_some() {
                    self.with_env(|book, env| book.handle_node_up(peer, session, env, fx));
                    self.tell_presence(fx);
                }
            }
            Input::NodeDown(peer, session) => {
                if self.book.handle_node_down(peer, session) {
                    self.tell_presence(fx);
                }
            }
            Input::Command(id, command) => self.handle_command(id, command, fx),
        }
    }

    fn handle_log_read(&mut self, reader: LogReader, entries: Vec<SignedEntry>, more: bool, fx: &mut Effects<'_>) {
        match reader {
            LogReader::Peer(to) => {
                let items = entries.into_iter().map(|entry| self.item(entry, fx.now.mono_ms)).collect();
                self.logs.handle_log_read(to, items, more, fx);
            }
            LogReader::Compaction => self.handle_own_log(&entries, more, fx),
            LogReader::Unsupported => self.handle_unsupported(entries, more, fx),
            LogReader::Reattest => self.handle_void(&entries, more, fx),
            LogReader::Reissue => self.say_own_again(&entries, more, fx),
            LogReader::OwnCheck => self.resolve_doubts(&entries, fx),
            LogReader::Deferred => self.take_overflow(&entries, fx),
        }
    }

    /// A linked peer that belongs is a neighbour from now on.
    fn meet(&mut self, peer: PeerId, fx: &mut Effects<'_>) {
        self.election.handle_link_up(peer, fx);
        self.logs.handle_link_up(peer, fx);
        let void = self.trust.void();
        self.share_void(&void, &[peer], fx);
        if self.election.leading_claim().is_some() {
            self.tell_presence(fx);
        }
        self.note_presence(fx);
        fx.view_changed = true;
    }

    /// And now no more.
    fn part(&mut self, peer: PeerId, fx: &mut Effects<'_>) {
        self.election.handle_link_down(peer, fx);
        self.logs.handle_link_down(peer, fx);
        self.note_presence(fx);
        fx.view_changed = true;
    }

    fn handle_frame(&mut self, from: PeerId, frame: Frame, fx: &mut Effects<'_>) {
        let may_lead = |peer: &PeerId| self.trust.is_owner(peer);
        match frame {
            Frame::Beacon(beacon) => {
                let may = may_lead(&beacon.claim.epoch.peer);
                self.election.handle_beacon(from, beacon, may, fx);
            }
            Frame::Query => self.election.handle_query(from, fx),
            Frame::Notice(claim) => {
                let may = self.may_prove(&from, &claim);
                self.election.handle_notice(&claim, may, fx);
            }
            Frame::Resign { epoch, successor } => self.election.handle_resign(from, epoch, successor, fx),
            Frame::Handover { epoch } => self.election.handle_handover(from, epoch, fx),
            Frame::Neighbours(peers) => self.logs.handle_neighbours(from, peers),
            Frame::Digest { rows, changes } => {
                self.compare_changes(from, changes, fx);
                let trust = &self.trust;
                let depth = |peer: &PeerId| trust.member(peer).map_or(u32::MAX, |member| member.depth);
                let stands = |author: &PeerId, incarnation, seq| trust.standing(author, incarnation, seq);
                self.logs.handle_digest(from, &rows, depth, stands, fx);
            }
            Frame::Entries { entries, more } => {
                for item in &entries {
                    self.ingest(from, item, fx);
                }
                if entries.first().is_some_and(|item| item.entry.entry.kind == Kind::GENESIS) {
                    self.object(from, fx);
                }
                if more {
                    self.logs.ask_more(from, fx);
                }
                self.say_directory_again(fx);
            }
            Frame::Presence { epoch, online } => {
                if self.election.gateway() == Some(epoch) && from == epoch.peer {
                    self.told_online = online.into_iter().collect();
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
            Frame::Answer(answer) => match &answer.what {
                AnswerKind::Ended(entry) => {
                    // One of our own was applied when it was written.
                    if from != self.me && entry.author == from && entry.entry.kind == Kind::OUTCOME {
                        let item = EntryItem { entry: entry.clone(), left_ms: None };
                        self.ingest(from, &item, fx);
                        self.take_forked(entry, fx);
                    }
                }
                AnswerKind::Fenced(Some(claim)) => {
                    let may = self.may_prove(&from, claim);
                    self.election.handle_notice(claim, may, fx);
                }
                AnswerKind::Waiting
                | AnswerKind::Running { .. }
                | AnswerKind::Busy
                | AnswerKind::Fenced(None)
                | AnswerKind::Rejected(_) => {
                    self.with_env(|book, env| book.handle_answer(from, &answer, env, fx));
                }
            },
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

    fn handle_then(&mut self, then: Then, fx: &mut Effects<'_>) {
        match then {
            Then::Reply(id, reply) => fx.out.push(Output::Reply(id, reply)),
            Then::Claimed(epoch) => self.election.handle_claimed(epoch, self.signer.as_ref(), fx),
            Then::Push { entry, left_ms } => {
                let gateway = self.election.gateway().map(|epoch| epoch.peer);
                self.logs.handle_durable(&entry, left_ms, gateway, fx);
                if let Some(header) = entry.header() {
                    // Accepted: only now may it be dispatched, if we are the gateway ourselves.
                    self.with_env(|book, env| book.release(&header.id, env, fx));
                }
            }
            Then::Started(id, attempt) => {
                self.with_rules(fx, |executor, rules, fx| executor.handle_started(id, attempt, rules, fx));
                self.note_started(fx.now.mono_ms);
            }
            Then::Outcome(id, attempt, entry) => {
                self.executor.keep_outcome(id, attempt, entry);
                if let Some(gateway) = self.election.gateway()
                    && (gateway.peer == self.me || self.election.is_linked(&gateway.peer))
                {
                    self.executor.tell(id, attempt, gateway.peer, fx);
                }
            }
            Then::Ended(id, attempt, confirmed) => self.book.handle_ended(&id, attempt, confirmed, fx),
            Then::Dismiss(peer) => self.dismiss(peer, fx),
            Then::Revoked => fx.fact(Fact::Revoked),
        }
    }

    fn handle_timeouts(&mut self, fx: &mut Effects<'_>) {
        let Self { election, logs, trust, .. } = self;
        let reach = |peer: &PeerId| 1 + logs.linked_to(peer).filter(|other| trust.member(other).is_some()).count();
        election.handle_timeout(self.signer.as_ref(), &reach, fx);
        self.logs.handle_timeout(self.config.sync_every_ms, fx);
        self.look_at_own_log(fx);
        let mut due = self.book.due(fx.now.mono_ms);
        if !due.is_empty() {
            due.sort_unstable();
            self.expire_here(&due, fx);
            let mut changes = Vec::new();
            self.with_env(|book, env| changes = book.handle_timeout(env, fx));
            for change in changes {
                self.write_inferred(&change, fx);
            }
        }
        self.checkpoint_runs(fx);
        self.say_again(fx);
        self.read_overflow(fx);
        if self.executor.is_due(fx.now.mono_ms) {
            let late = self.consult(fx, Executor::handle_timeout);
            for finished in late {
                self.write_outcome(&finished, fx);
            }
        }
        if let Some((id, until)) = self.stopping {
            let successor_leads = self.election.gateway().is_some_and(|epoch| epoch.peer != self.me);
            if fx.now.mono_ms >= until || successor_leads {
                self.stopping = None;
                fx.sync = true;
                fx.then(Then::Reply(id, Reply::Stopped));
            }
        }
    }

    /// Who leads has changed: sessions belong to an epoch, and a new gateway sends what waits.
    fn handle_gateway_change(&mut self, fx: &mut Effects<'_>) {
        self.book.forget_sessions();
        self.told_online.clear();
        if self.election.leading_claim().is_some() {
            let me = self.me;
            // The gateway is a node too; its session is no stream.
            self.with_env(|book, env| book.handle_node_up(me, 0, env, fx));
            self.end_undeliverable(fx);
            self.tell_presence(fx);
        }
        self.note_presence(fx);
        fx.view_changed = true;
    }

    /// Whether we do not belong: revoked, or awaiting re-approval.
    fn is_excluded(&self) -> bool {
        self.trust.member(&self.me).is_none()
    }

    /// Why this peer must not lead nor start calls, for people.
    fn hold(&self) -> Option<String> {
        if self.is_excluded() {
            return Some("this device does not belong to the mesh any more".to_owned());
        }
        self.holds().next().map(|hold| hold.to_string())
    }

    fn holds(&self) -> impl Iterator<Item = Hold> {
        self.own_hold().into_iter().chain(self.unsupported_critical())
    }

    /// A reason to hold has come or gone.
    fn handle_holds(&mut self, fx: &mut Effects<'_>) {
        self.refresh_candidates(fx);
        self.consult(fx, Executor::start_next);
        fx.view_changed = true;
    }

    fn refresh_candidates(&mut self, fx: &mut Effects<'_>) {
        let mut candidates: BTreeMap<PeerId, u8> = self
            .directory
            .iter()
            .filter(|(peer, (_, directory))| directory.eligible && **peer != self.me && self.trust.is_owner(peer))
            .map(|(peer, (_, directory))| (*peer, directory.class))
            .collect();
        for (peer, member) in &self.trust.membership().members {
            if member.tier == Tier::Owner && *peer != self.me && !self.directory.contains_key(peer) {
                candidates.insert(*peer, 0);
            }
        }
        if self.config.eligible && self.trust.is_owner(&self.me) && self.holds().next().is_none() {
            candidates.insert(self.me, self.config.class.0);
        }
        self.election.set_candidates(candidates, fx);
    }

    /// The mesh as this peer sees it.
    #[must_use]
    pub fn view(&self) -> View {
        let online = self.online_now();
        let nodes = self
            .trust
            .membership()
            .members
            .iter()
            .map(|(peer, member)| NodeView {
                peer: *peer,
                key: member.key,
                node_id: member.node_id.clone(),
                tier: member.tier,
                online: online.contains(peer),
                last_seen_ms: self.presence.get(peer).map_or(0, |presence| presence.changed_ms),
                directory: self.directory.get(peer).map(|(_, directory)| directory.clone()),
            })
            .collect();
        let pending = self.trust.membership().awaiting_reapproval.iter().map(|(peer, pending)| ReapprovalView {
            peer: *peer,
            key: pending.key,
            node_id: pending.node_id.clone(),
            tier: pending.tier,
            approved_by: pending.by,
            revoked_by: pending.revoked_by,
        });
        let own = self.trust.member(&self.me).map(|member| &member.node_id);
        let own =
            own.or_else(|| self.trust.membership().awaiting_reapproval.get(&self.me).map(|pending| &pending.node_id));
        View {
            me: self.me,
            node_id: own.map_or_else(|| NodeId::slug("revoked"), NodeId::clone),
            mesh: self.trust.mesh(),
            mesh_name: self.trust.name().to_owned(),
            incarnation: self.logs.incarnation(),
            boot: self.boot,
            revoked: self.trust.is_revoked(&self.me),
            awaiting_reapproval: pending.collect(),
            holds: self.holds().collect(),
            copied: self.copied().into_iter().collect(),
            forked: self.logs.forked().collect(),
            gateway: self.election.gateway(),
            fence: self.election.fence().epoch,
            links: self.election.neighbours().collect(),
            nodes,
        }
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

    /// How many calls have no ending yet.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.book.count_open()
    }

    /// This peer's key.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.key
    }

    /// Everyone who belongs.
    pub fn members(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.trust.membership().members.keys().copied()
    }

    /// How far this peer trusts another now; `None`: not at all.
    #[must_use]
    pub fn tier(&self, of: &PeerId) -> Option<Tier> {
        self.trust.tier(of)
    }

    /// Whether this peer holds its own revocation.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.trust.is_revoked(&self.me)
    }

    /// Whether this peer leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.election.leading_claim().is_some()
    }

    /// Whether no tool runs here.
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
