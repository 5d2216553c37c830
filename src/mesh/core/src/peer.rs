//! One peer of the mesh: the sub-cores composed, with the one [`Peer::step`].
//!
//! Each step collects its writes into one batch. What promises something to others waits until that batch is durable
//! ([`crate::io::Input::Durable`]); what merely decides may run ahead of the disk (mesh-protocol.md §9.1).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use rand_core::Rng;

use crate::calls::{self, Book, Env, Verdict};
use crate::config::Config;
use crate::crypto::Signer;
use crate::effects::{Effects, Then};
use crate::election::Election;
use crate::entry::{
    self, CancelWish, Directory, Effect, Fence, Genesis, Header, Kind, Outcome, Payload, SignedEntry, Tier, VerdictKind,
};
use crate::epoch::Claim;
use crate::executor::{Executor, Finished, Offer, Rules};
use crate::frame::{AnswerKind, Dispatch, EntryItem, Frame};
use crate::ids::{Hash, Incarnation, MeshId, NodeId, PeerId, PublicKey, ReqId};
use crate::io::{
    Batch, CallRecord, CallState, CmdId, Command, Fact, HistoryRow, Image, Input, NewCall, NodeView, Now, Output,
    Refusal, Reply, Space, TxnId, View, Welcome,
};
use crate::limits;
use crate::log::{self, Head, Ingest, Logs};
use crate::trust::{Trust, genesis_of};

const KEY_INCARNATION: &[u8] = b"incarnation";
const KEY_BOOT: &[u8] = b"boot";
const KEY_COUNTER: &[u8] = b"counter";
const KEY_FENCE: &[u8] = b"fence";
const KEY_HANDLE: &[u8] = b"handle";
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

/// An unused or used invite.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
struct InviteRow {
    tier: Tier,
    expires_ms: u64,
    used_by: Option<PublicKey>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Presence {
    online: bool,
    changed_ms: u64,
}

/// The state machine of one peer.
#[derive(Debug)]
pub struct Peer {
    me: PeerId,
    key: PublicKey,
    config: Config,
    signer: Box<dyn Signer>,
    boot: u64,
    trust: Trust,
    election: Election,
    logs: Logs,
    book: Book,
    executor: Executor,
    directory: BTreeMap<PeerId, (SignedEntry, Arc<Directory>)>,
    invites: BTreeMap<Hash, InviteRow>,
    presence: BTreeMap<PeerId, Presence>,
    /// Who is online as the gateway that we follow says.
    told_online: BTreeSet<PeerId>,
    counter: u64,
    last_txn: TxnId,
    /// The newest batch that the disk was asked to sync.
    synced_txn: TxnId,
    durable_txn: TxnId,
    pending: VecDeque<(TxnId, Vec<Then>)>,
    asked_wake: Option<u64>,
    stopping: Option<(CmdId, u64)>,
    revoked: bool,
}

fn write<T: serde::Serialize>(space: Space, key: &[u8], record: &T) -> crate::io::Write {
    crate::io::Write { space, key: key.to_vec(), value: Some(entry::encode(record).into()) }
}

/// Rows of a new mesh of one.
pub fn founded(signer: &dyn Signer, mesh_name: &str, node_id: &NodeId, now: Now, rng: &mut dyn Rng) -> Batch {
    let incarnation = Incarnation(rng.next_u32());
    let body = Genesis { name: limits::cut(mesh_name, 63).to_owned(), nonce: rng.next_u64(), node_id: node_id.clone() };
    let genesis = SignedEntry::sign(
        signer,
        entry::Entry {
            mesh: MeshId([0; 32]),
            author: signer.public_key(),
            incarnation,
            seq: 1,
            hlc: now.wall_ms << 16,
            kind: Kind::GENESIS,
            critical: false,
            generation: 0,
            previous: Hash::ZERO,
            body: entry::encode(&body).into(),
        },
    );
    let head = Head { seq: 1, hash: genesis.hash, hlc: genesis.entry.hlc };
    let stored = Bytes::from(genesis.to_stored());
    let mut writes = vec![
        write(Space::Meta, KEY_INCARNATION, &incarnation),
        write(Space::Heads, &log::log_key(&genesis.author, incarnation, None), &head),
    ];
    for (space, key) in
        [(Space::Log, log::log_key(&genesis.author, incarnation, Some(1))), (Space::Trust, genesis.hash.0.to_vec())]
    {
        writes.push(crate::io::Write { space, key, value: Some(stored.clone()) });
    }
    Batch { writes, sync: true }
}

/// Rows of a newcomer to a mesh.
///
/// # Errors
/// When the welcome holds no genesis of the mesh that it names.
pub fn joined(welcome: &Welcome, rng: &mut dyn Rng) -> Result<Batch, BootError> {
    let known = welcome.trust.iter().filter_map(genesis_of).any(|(mesh, _)| mesh == welcome.mesh);
    if !known {
        return Err(BootError::NoMesh);
    }
    let mut writes = vec![
        write(Space::Meta, KEY_INCARNATION, &Incarnation(rng.next_u32())),
        write(Space::Meta, KEY_FENCE, &welcome.fence),
        write(Space::Meta, KEY_HANDLE, &welcome.node_id),
    ];
    for record in &welcome.trust {
        let (key, value) = (record.hash.0.to_vec(), Some(record.to_stored().into()));
        writes.push(crate::io::Write { space: Space::Trust, key, value });
    }
    for record in &welcome.directory {
        let (key, value) = (record.author.0.to_vec(), Some(record.to_stored().into()));
        writes.push(crate::io::Write { space: Space::Directory, key, value });
    }
    Ok(Batch { writes, sync: true })
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
        let mut book = Book::new(me, config.keep_calls_ms);
        let mut executor = Executor::new(me, now.mono_ms);
        for (space, row_key, value) in image.rows {
            let good = match space {
                Space::Meta => meta.insert(row_key, value).or(Some(Bytes::new())).map(drop),
                Space::Trust => SignedEntry::from_stored(&value).map(|entry| trust.push(entry)),
                Space::Heads => log::head_key(&row_key)
                    .zip(entry::decode::<Head>(&value))
                    .map(|(key, head)| heads.insert(key, head).map_or((), |_| ())),
                Space::Directory => SignedEntry::from_stored(&value).and_then(|entry| {
                    let body: Directory = entry.record()?;
                    directory.insert(entry.author, (entry, Arc::new(body)));
                    Some(())
                }),
                Space::Invites => Hash::from_slice(&row_key)
                    .zip(entry::decode::<InviteRow>(&value))
                    .filter(|(_, row)| row.expires_ms + 3_600_000 > now.wall_ms)
                    .map_or(Some(()), |(hash, row)| {
                        invites.insert(hash, row);
                        Some(())
                    }),
                Space::Open => book.restore(&row_key, &value, now).map(drop),
                Space::Keys => book.restore_key(&row_key, &value, now.wall_ms),
                Space::Journal => executor.restore(&row_key, &value),
                Space::Marks => executor.restore_mark(&row_key, &value),
                Space::Log | Space::Calls | Space::CallsByTime | Space::Shell => Some(()),
            };
            good.ok_or(BootError::Damaged(space.name()))?;
        }
        let trust = Trust::new(trust).ok_or(BootError::NoMesh)?;
        let read = |key: &[u8]| meta.get(key).map(AsRef::as_ref);
        let stored: Incarnation =
            read(KEY_INCARNATION).and_then(entry::decode).ok_or(BootError::Damaged("incarnation"))?;
        let renewed = image.rolled_back.then(|| Incarnation(rng.next_u32()));
        let incarnation = renewed.unwrap_or(stored);
        let boot: u64 = read(KEY_BOOT).and_then(entry::decode).unwrap_or(0) + 1;
        let fence: Option<Fence> = read(KEY_FENCE).and_then(entry::decode);
        let counter = if renewed.is_some() { 0 } else { read(KEY_COUNTER).and_then(entry::decode).unwrap_or(0) };
        let mut peer = Self {
            me,
            key,
            election: Election::boot(config.clone(), me, fence, now.mono_ms),
            config,
            signer,
            boot,
            logs: Logs::new(me, trust.mesh(), incarnation, heads, now.mono_ms),
            revoked: trust.member(&me).is_none() && trust.membership().revocations.contains_key(&me),
            trust,
            book,
            executor,
            directory,
            invites,
            presence: BTreeMap::new(),
            told_online: BTreeSet::new(),
            counter,
            last_txn: 0,
            synced_txn: 0,
            durable_txn: 0,
            pending: VecDeque::new(),
            asked_wake: None,
            stopping: None,
        };
        peer.run(now, rng, out, |peer, fx| {
            fx.put(Space::Meta, KEY_BOOT, &boot);
            fx.put(Space::Meta, KEY_INCARNATION, &incarnation);
            fx.sync = true;
            peer.refresh_candidates(fx);
            peer.election.start(fx);
            for finished in peer.executor.interrupted(fx) {
                peer.write_outcome(&finished, fx);
            }
            if peer.revoked {
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
            if late {
                peer.election.handle_late_wake(fx);
            }
            peer.handle(input, fx);
            peer.handle_timeouts(fx);
        });
    }

    /// When [`Input::Wake`] is due, on the clock of [`Now::mono_ms`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        [
            self.election.poll_timeout(),
            self.logs.poll_timeout(),
            self.book.poll_timeout(),
            self.executor.poll_timeout(),
            self.stopping.map(|(_, until)| until),
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
        let gateway = self.election.gateway();
        let mut fx = Effects {
            now,
            rng,
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
        self.asked_wake = self.poll_timeout();
    }

    fn handle(&mut self, input: Input, fx: &mut Effects<'_>) {
        match input {
            Input::Wake => {}
            Input::LinkUp(peer) => {
                if peer != self.me && self.trust.member(&peer).is_some() {
                    self.election.handle_link_up(peer, fx);
                    self.logs.handle_link_up(peer, fx);
                    if self.election.reign().is_some() {
                        self.tell_presence(fx);
                    }
                    self.note_presence(fx);
                    fx.view_changed = true;
                }
            }
            Input::LinkDown(peer) => {
                self.election.handle_link_down(peer, fx);
                self.logs.handle_link_down(peer, fx);
                self.note_presence(fx);
                fx.view_changed = true;
            }
            Input::Recv(from, frame) => {
                if self.trust.member(&from).is_some() {
                    self.handle_frame(from, frame, fx);
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
            Input::LogRead { to, entries, more } => {
                let items = entries.into_iter().map(|entry| self.item(entry, fx.now.mono_ms)).collect();
                self.logs.handle_log_read(to, items, more, fx);
            }
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
                if self.election.reign().is_some() && self.trust.member(&peer).is_some() {
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
            Frame::Digest(rows) => {
                let trust = &self.trust;
                let depth = |peer: &PeerId| trust.member(peer).map_or(u32::MAX, |member| member.depth);
                self.logs.handle_digest(from, &rows, depth, fx);
            }
            Frame::Entries { entries, more } => {
                for item in &entries {
                    self.ingest(from, item, fx);
                }
                if more {
                    self.logs.ask_more(from, fx);
                }
            }
            Frame::Presence { epoch, online } => {
                if self.election.gateway() == Some(epoch) && from == epoch.peer {
                    self.told_online = online.into_iter().collect();
                    self.note_presence(fx);
                }
            }
            Frame::Progress { id, attempt, state, note } => {
                self.book.handle_progress(from, id, attempt, state, &note, fx);
            }
            Frame::Dispatch(dispatch) => self.handle_dispatch(from, &dispatch, fx),
            Frame::Answer(answer) => match &answer.what {
                AnswerKind::Ended(entry) => {
                    if entry.author == from && entry.entry.kind == Kind::OUTCOME {
                        let item = EntryItem { entry: entry.clone(), left_ms: None };
                        self.ingest(from, &item, fx);
                        // Even when entries before it are still on their way: the outcome itself is complete.
                        if self.trust.admits(&from, entry.entry.incarnation, entry.entry.seq) {
                            self.with_env(|book, env| book.apply_outcome(entry, env, fx));
                        }
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
                | AnswerKind::Refused(_) => {
                    self.with_env(|book, env| book.handle_answer(from, &answer, env, fx));
                }
            },
            Frame::Cancel { id } => {
                let wish = self.book.is_cancelled(&id).cloned().unwrap_or(CancelWish {
                    id,
                    reason: "cancelled".to_owned(),
                    expired: false,
                });
                if self.trust.is_owner(&from) {
                    self.stop_call(&wish, fx);
                }
            }
            Frame::Stored { .. } => {} // retention by acknowledgement comes with log compaction
        }
    }

    /// Whether a claim that `from` shows proves a fence. Its author may have been thrown out since: a leader must rise
    /// above its epoch all the same, or those who once followed it would never follow anyone below.
    fn may_prove(&self, from: &PeerId, claim: &Claim) -> bool {
        let author = &claim.epoch.peer;
        self.trust.is_owner(author) || self.trust.is_owner(from) || self.trust.was_approved(author)
    }

    fn item(&self, entry: SignedEntry, now: u64) -> EntryItem {
        let left_ms = (entry.entry.kind == Kind::CALL).then(|| {
            let id = entry.record::<Header>().map(|header| header.id);
            // A call that is over here has no time left anywhere.
            id.and_then(|id| self.book.left_ms(&id, now)).unwrap_or(0)
        });
        EntryItem { entry, left_ms }
    }

    fn ingest(&mut self, from: PeerId, item: &EntryItem, fx: &mut Effects<'_>) {
        let place = item.entry.place();
        let admitted = self.trust.admits(&place.author, place.incarnation, place.seq);
        if self.logs.ingest(from, item, admitted, fx) == Ingest::New {
            self.apply(&item.entry, item.left_ms, fx);
        }
    }

    /// Applies an entry that is new to us, our own included. Unknown kinds are kept and relayed, nothing more.
    fn apply(&mut self, entry: &SignedEntry, left_ms: Option<u64>, fx: &mut Effects<'_>) {
        let author = entry.author;
        match entry.entry.kind {
            Kind::APPROVAL => self.apply_verdict(entry, fx),
            Kind::DIRECTORY => {
                let Some(directory) = entry.record::<Directory>().filter(is_reasonable) else { return };
                let newer = self
                    .directory
                    .get(&author)
                    .is_none_or(|(known, _)| (known.entry.hlc, known.entry.seq) < (entry.entry.hlc, entry.entry.seq));
                if newer {
                    fx.put_bytes(Space::Directory, author.0, entry.to_stored());
                    self.directory.insert(author, (entry.clone(), Arc::new(directory)));
                    self.refresh_candidates(fx);
                    fx.view_changed = true;
                    self.with_env(|book, env| book.pump(&author, env, fx));
                }
            }
            Kind::CALL => {
                let Some(header) = entry.record::<Header>() else { return };
                if header.id.is_of(&author) {
                    let left_ms = left_ms.unwrap_or(header.ttl_ms);
                    let id = header.id;
                    let mine = header.target == self.me;
                    if mine && self.executor.has_any(&id) && self.book.record(&id).is_none() {
                        return; // it came by a dispatch, and is over
                    }
                    self.with_env(|book, env| book.apply_header(entry, header, left_ms, env, fx));
                    if mine && author != self.me {
                        self.expire_here(&[id], fx);
                        if let Some(wish) = self.book.is_cancelled(&id).cloned() {
                            self.stop_call(&wish, fx);
                        }
                    }
                }
            }
            Kind::OUTCOME => {
                let Some(outcome) = entry.record::<Outcome>() else { return };
                let target = self.book.record(&outcome.id).map(|record| record.header.target);
                if self.trust.is_owner(&author) || outcome.id.is_of(&author) || target.is_none_or(|t| t == author) {
                    self.with_env(|book, env| book.apply_outcome(entry, env, fx));
                }
            }
            Kind::CANCEL => {
                let Some(wish) = entry.record::<CancelWish>() else { return };
                let by_origin = wish.id.is_of(&author);
                if by_origin || self.trust.is_owner(&author) {
                    self.book.apply_wish(&wish, fx);
                    self.stop_call(&wish, fx);
                    self.answer_wish(&wish, fx);
                }
            }
            _ => {}
        }
    }

    fn apply_verdict(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) {
        fx.put_bytes(Space::Trust, entry.hash.0, entry.to_stored());
        let was_member = self.trust.member(&self.me).is_some();
        if !self.trust.add(entry.clone()) {
            return;
        }
        fx.fact(Fact::Trust);
        fx.view_changed = true;
        if was_member && self.trust.member(&self.me).is_none() {
            self.revoked = true;
            fx.then(Then::Revoked);
        }
        self.refresh_candidates(fx);
        self.logs.ask_all(fx);
        self.end_undeliverable(fx);
    }

    /// Ends the calls whose target does not belong any more.
    fn end_undeliverable(&mut self, fx: &mut Effects<'_>) {
        let mut verdicts = Vec::new();
        self.with_env(|book, env| verdicts = book.undeliverable(env));
        for verdict in verdicts {
            self.write_verdict(&verdict, fx);
        }
    }

    fn handle_then(&mut self, then: Then, fx: &mut Effects<'_>) {
        match then {
            Then::Reply(id, reply) => fx.out.push(Output::Reply(id, reply)),
            Then::Claimed(epoch) => self.election.handle_claimed(epoch, self.signer.as_ref(), fx),
            Then::Push { entry, left_ms, except } => {
                self.logs.handle_durable(&entry, left_ms, except, fx);
                if entry.entry.kind == Kind::CALL
                    && let Some(header) = entry.record::<Header>()
                {
                    // Accepted: only now may it be dispatched, if we are the gateway ourselves.
                    self.with_env(|book, env| book.release(&header.id, env, fx));
                }
            }
            Then::Started(id, attempt) => {
                self.with_rules(fx, |executor, rules, fx| executor.handle_started(id, attempt, rules, fx));
            }
            Then::Outcome(id, attempt, entry) => {
                self.executor.keep_outcome(id, attempt, entry);
                if let Some(gateway) = self.election.gateway()
                    && (gateway.peer == self.me || self.election.is_linked(&gateway.peer))
                {
                    self.executor.tell(id, attempt, gateway.peer, fx);
                }
            }
            Then::Ended(id, attempt) => self.book.handle_ended(&id, attempt, fx),
            Then::Revoked => fx.fact(Fact::Revoked),
        }
    }

    fn handle_timeouts(&mut self, fx: &mut Effects<'_>) {
        self.election.handle_timeout(self.signer.as_ref(), fx);
        self.logs.handle_timeout(self.config.sync_every_ms, fx);
        let mut due = self.book.due(fx.now.mono_ms);
        if !due.is_empty() {
            due.sort_unstable();
            self.expire_here(&due, fx);
            let mut verdicts = Vec::new();
            self.with_env(|book, env| verdicts = book.handle_timeout(env, fx));
            for verdict in verdicts {
                self.write_verdict(&verdict, fx);
            }
        }
        let late = self.consult(fx, |executor, rules, fx| executor.handle_timeout(rules, fx));
        for finished in late {
            self.write_outcome(&finished, fx);
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

    /// Who leads has changed: sessions belong to a reign, and a new gateway sends what waits.
    fn handle_gateway_change(&mut self, fx: &mut Effects<'_>) {
        self.book.forget_sessions();
        self.told_online.clear();
        if self.election.reign().is_some() {
            let me = self.me;
            // The gateway is a node too; its session is no stream.
            self.with_env(|book, env| book.handle_node_up(me, 0, env, fx));
            self.end_undeliverable(fx);
            self.tell_presence(fx);
        }
        self.note_presence(fx);
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
        if self.config.eligible && self.trust.is_owner(&self.me) {
            candidates.insert(self.me, self.config.class.0);
        }
        self.election.set_candidates(candidates, fx);
    }

    // --- presence

    fn online_now(&self) -> BTreeSet<PeerId> {
        let mut online: BTreeSet<PeerId> = if self.election.reign().is_some() {
            self.book.online().collect()
        } else if self.election.gateway().is_some() {
            self.told_online.clone()
        } else {
            self.election.neighbours().collect()
        };
        online.insert(self.me);
        online
    }

    fn note_presence(&mut self, fx: &mut Effects<'_>) {
        let online = self.online_now();
        let peers: Vec<PeerId> = self.trust.membership().members.keys().copied().collect();
        for peer in peers {
            let presence = self.presence.entry(peer).or_default();
            let now = online.contains(&peer);
            if presence.online != now {
                *presence = Presence { online: now, changed_ms: fx.now.wall_ms };
                fx.view_changed = true;
            }
        }
    }

    fn tell_presence(&mut self, fx: &mut Effects<'_>) {
        if let Some(epoch) = self.election.reign().map(|claim| claim.epoch) {
            let online: Vec<PeerId> = self.book.online().collect();
            let peers: Vec<PeerId> = self.election.neighbours().collect();
            for peer in peers {
                fx.send(peer, Frame::Presence { epoch, online: online.clone() });
            }
        }
        self.note_presence(fx);
    }

    // --- running calls here

    fn handle_dispatch(&mut self, from: PeerId, dispatch: &Dispatch, fx: &mut Effects<'_>) {
        let claim = &dispatch.claim;
        let Some(header) =
            (dispatch.header.entry.kind == Kind::CALL).then(|| dispatch.header.record::<Header>()).flatten()
        else {
            return;
        };
        let (id, attempt) = (header.id, dispatch.attempt);
        let refuse = |what: AnswerKind, fx: &mut Effects<'_>| {
            fx.send(from, Frame::Answer(crate::frame::Answer { id, attempt, what }));
        };
        let may_lead = self.trust.is_owner(&from);
        if from != claim.epoch.peer || !may_lead {
            refuse(AnswerKind::Refused("only a gateway of this mesh may dispatch".to_owned()), fx);
            return;
        }
        if from != self.me && !self.election.observe(claim, may_lead, fx) {
            refuse(AnswerKind::Fenced(self.election.fence().proof.clone()), fx);
            return;
        }
        if self.revoked || self.trust.member(&self.me).is_none() {
            refuse(AnswerKind::Refused("this device was revoked".to_owned()), fx);
            return;
        }
        let place = dispatch.header.place();
        let proper = header.target == self.me
            && header.id.is_of(&place.author)
            && dispatch.header.entry.mesh == self.trust.mesh()
            && (1..=crate::ids::ATTEMPTS_MAX).contains(&attempt)
            && header.ttl_ms <= limits::TTL_MS_MAX;
        if !proper {
            refuse(AnswerKind::Refused("the header is not one for this device".to_owned()), fx);
            return;
        }
        if !self.trust.admits(&place.author, place.incarnation, place.seq) {
            refuse(AnswerKind::Refused("the call's origin does not belong to the mesh here".to_owned()), fx);
            return;
        }
        // The log may bring the header only after a crash has made us forget what became of it: it belongs in the book.
        let known = self.book.record(&id).is_some() || self.executor.has_any(&id);
        if !known {
            let header = header.clone();
            self.with_env(|book, env| book.apply_header(&dispatch.header, header, dispatch.left_ms, env, fx));
        }
        let mut left_ms = dispatch.left_ms.min(header.ttl_ms);
        if let Some(known) = self.book.left_ms(&id, fx.now.mono_ms) {
            left_ms = left_ms.min(known);
        }
        let offer = Offer { gateway: from, header, origin: place.author, attempt, left_ms };
        self.with_rules(fx, |executor, rules, fx| executor.handle_offer(offer, rules, fx));
    }

    /// Runs something of the executor that may finish an attempt, and writes that outcome; its place is free then.
    fn with_rules(
        &mut self,
        fx: &mut Effects<'_>,
        run: impl FnOnce(&mut Executor, &Rules<'_>, &mut Effects<'_>) -> Option<Finished>,
    ) {
        let finished = self.consult(fx, run);
        if let Some(finished) = finished {
            self.write_outcome(&finished, fx);
            self.consult(fx, |executor, rules, fx| executor.start_next(rules, fx));
        }
    }

    /// Lets the executor decide by the rules of this moment.
    fn consult<T>(
        &mut self,
        fx: &mut Effects<'_>,
        run: impl FnOnce(&mut Executor, &Rules<'_>, &mut Effects<'_>) -> T,
    ) -> T {
        let Self { executor, trust, book, config, directory, election, me, revoked, .. } = self;
        let own_tools = directory.get(me).map(|(_, directory)| directory.clone());
        let permits = |origin: &PeerId, header: &Header| permits(trust, own_tools.as_deref(), origin, header);
        let wish = |id: &ReqId| book.is_cancelled(id).cloned();
        let gateway = election.gateway().map(|epoch| epoch.peer);
        let rules = Rules { config, permits: &permits, wish: &wish, revoked: *revoked, gateway };
        run(executor, &rules, fx)
    }

    fn with_env<T>(&mut self, run: impl FnOnce(&mut Book, &Env<'_>) -> T) -> T {
        let Self { book, trust, config, election, directory, .. } = self;
        let is_member = |peer: &PeerId| trust.member(peer).is_some();
        let is_revoked = |peer: &PeerId| trust.is_revoked(peer);
        let is_linked = |peer: &PeerId| election.is_linked(peer);
        let declared = |peer: &PeerId, tool: &str| declared(directory, peer, tool);
        let env = Env {
            config,
            reign: election.reign(),
            is_member: &is_member,
            is_revoked: &is_revoked,
            is_linked: &is_linked,
            declared: &declared,
        };
        run(book, &env)
    }

    /// Appends a target's outcome to our log, in the batch that journals it.
    fn write_outcome(&mut self, finished: &Finished, fx: &mut Effects<'_>) {
        let Outcome { id, attempt, .. } = finished.outcome;
        let entry = self.logs.append(self.signer.as_ref(), Kind::OUTCOME, 0, entry::encode(&finished.outcome), fx);
        fx.then(Then::Outcome(id, attempt, entry.clone()));
        log::push_when_durable(&entry, None, None, fx);
        self.with_env(|book, env| book.apply_outcome(&entry, env, fx));
    }

    /// Writes an ending that is not the target's word, with a cancel wish where it must not start any more.
    fn write_verdict(&mut self, verdict: &Verdict, fx: &mut Effects<'_>) {
        if verdict.wish {
            let wish = CancelWish { id: verdict.id, reason: verdict.reason.clone(), expired: true };
            self.write_wish(&wish, fx);
        }
        let outcome = Outcome {
            id: verdict.id,
            attempt: verdict.attempt,
            ending: verdict.ending,
            reason: verdict.reason.clone(),
            output: Payload::empty(),
            error: String::new(),
            at_ms: fx.now.wall_ms,
            started_ms: 0,
            alias_of: None,
        };
        let entry = self.logs.append(self.signer.as_ref(), Kind::OUTCOME, 0, entry::encode(&outcome), fx);
        log::push_when_durable(&entry, None, None, fx);
        self.with_env(|book, env| book.apply_outcome(&entry, env, fx));
    }

    fn write_wish(&mut self, wish: &CancelWish, fx: &mut Effects<'_>) {
        let entry = self.logs.append(self.signer.as_ref(), Kind::CANCEL, 0, entry::encode(wish), fx);
        log::push_when_durable(&entry, None, None, fx);
        self.book.apply_wish(wish, fx);
        self.stop_call(wish, fx);
    }

    /// Another's wish for a call of ours: it reads as wished at once, until its target says what really happened.
    fn answer_wish(&mut self, wish: &CancelWish, fx: &mut Effects<'_>) {
        let Some(record) = self.book.record(&wish.id) else { return };
        let open = matches!(record.state, CallState::Open(_));
        if open && record.origin == self.me && record.header.target != self.me && !wish.expired {
            let (id, attempt, reason) = (wish.id, record.attempt, wish.reason.clone());
            let ending = entry::Ending::Cancelled;
            self.write_verdict(&Verdict { id, attempt, ending, reason, wish: false }, fx);
        }
    }

    /// If the call is for us: stop it, or end it before it starts.
    fn stop_call(&mut self, wish: &CancelWish, fx: &mut Effects<'_>) {
        let known = self.book.record(&wish.id).filter(|record| record.header.target == self.me);
        // A confirmed one that is still in the book was interrupted: what is wished away is the attempt after it.
        let (header, attempt) = known
            .map_or((None, 1), |record| (Some(record.header.clone()), record.attempt + u8::from(record.confirmed)));
        let wish = wish.clone();
        self.with_rules(fx, |executor, _, fx| executor.handle_wish(&wish, header, attempt, fx));
    }

    /// Calls for us whose time is over: our word makes it certain.
    fn expire_here(&mut self, due: &[ReqId], fx: &mut Effects<'_>) {
        for (id, attempt) in self.book.expired_here(due, fx.now.mono_ms) {
            if let Some(header) = self.book.record(&id).map(|record| record.header.clone()) {
                self.with_rules(fx, |executor, _, fx| executor.expire(id, attempt, header, fx));
            }
        }
    }

    // --- commands

    fn handle_command(&mut self, id: CmdId, command: Command, fx: &mut Effects<'_>) {
        let reply = match command {
            Command::Call(new) => self.accept(new, fx),
            Command::Cancel { id, reason } => self.cancel(id, &reason, fx),
            Command::Invite { secret, tier, ttl_ms } => self.invite(secret, tier, ttl_ms, fx),
            Command::Redeem { secret, key, node_id } => self.redeem(secret, key, &node_id, fx),
            Command::Approve { key, node_id, tier } => {
                self.approve(key, &node_id, tier, fx).map(|welcome| Reply::Approved(Box::new(welcome)))
            }
            Command::Revoke { peer } => self.revoke(peer, false, fx).map(|()| Reply::Revoked),
            Command::Leave => self.leave(fx),
            Command::SetDirectory(directory) => {
                self.set_directory(&directory, fx);
                Ok(Reply::Noted)
            }
            Command::Stop => {
                let asked = self.election.stop(fx);
                let wait = if asked { STOP_WAIT_MS } else { 0 };
                self.stopping = Some((id, fx.now.mono_ms + wait));
                return;
            }
        };
        match reply {
            // A promise: it waits for the fsync of whatever this step wrote, or of what was written before.
            Ok(reply) => fx.then(Then::Reply(id, reply)),
            Err(refusal) => fx.out.push(Output::Reply(id, Reply::Refused(refusal))),
        }
    }

    fn accept(&mut self, new: NewCall, fx: &mut Effects<'_>) -> Result<Reply, Refusal> {
        if self.stopping.is_some() {
            return Err(Refusal::Stopping);
        }
        let Some(tier) = self.trust.tier(&self.me).filter(|_| !self.revoked) else { return Err(Refusal::NotMember) };
        if new.arguments.len() > limits::ARGUMENTS_BYTES_MAX as u64 {
            let max = limits::ARGUMENTS_BYTES_MAX;
            return Err(Refusal::Invalid(format!("the arguments are over {max} bytes")));
        }
        if new.ttl_ms == 0 || new.ttl_ms > limits::TTL_MS_MAX {
            return Err(Refusal::Invalid("the time to live must be over 0 and at most 7 days".to_owned()));
        }
        if new.client_key.as_ref().is_some_and(|key| key.is_empty() || key.len() > limits::CLIENT_KEY_BYTES_MAX) {
            let max = limits::CLIENT_KEY_BYTES_MAX;
            return Err(Refusal::Invalid(format!("an idempotency key has 1 to {max} bytes")));
        }
        let key = new.client_key.as_ref().map(|key| calls::key_id(&new.principal, key));
        let known = key.and_then(|key| self.book.key(&key));
        let target = match known {
            Some(known) if new.node == "any" => known.target,
            _ => self.resolve(&new.node, &new.tool)?,
        };
        if let Some(known) = known {
            let same = known.sense == calls::sense_of(&target, new.tool.as_str(), &new.arguments);
            return if same {
                Ok(Reply::Call { id: known.id, created: false })
            } else {
                Err(Refusal::KeyReused(known.id))
            };
        }
        let node_id = self.trust.member(&target).map(|member| member.node_id.clone());
        let Some(node_id) = node_id else { return Err(Refusal::UnknownNode(new.node)) };
        let decl = self
            .directory
            .get(&target)
            .and_then(|(_, directory)| directory.tools.iter().find(|tool| tool.name == new.tool));
        let Some(decl) = decl else {
            return Err(Refusal::UnknownTool { node: node_id, tool: new.tool });
        };
        if decl.owner_only && tier != Tier::Owner {
            return Err(Refusal::Denied(format!(
                "`{}` may be called by devices of tier owner only, and this one is {tier:?}",
                decl.name
            )));
        }
        let (open, bytes) = self.book.own_open(&target);
        if open >= limits::OPEN_PER_TARGET_MAX || bytes + new.arguments.len() > limits::OPEN_BYTES_PER_TARGET_MAX {
            return Err(Refusal::QueueFull { node: node_id, open, retry_after_ms: 30_000 });
        }
        let effect = new.effect.map_or(decl.effect, |asked| asked.max(decl.effect));
        self.counter += 1;
        fx.put(Space::Meta, KEY_COUNTER, &self.counter);
        let id = ReqId::new(&self.me, self.logs.incarnation(), self.counter);
        let header = Header {
            id,
            target,
            node_id,
            tool: new.tool,
            arguments: new.arguments,
            effect,
            ttl_ms: new.ttl_ms,
            accepted_ms: fx.now.wall_ms,
            timeout_ms: new.timeout_ms,
            principal: new.principal,
            client_key: new.client_key,
            needs_approval: false,
        };
        let entry = self.logs.append(self.signer.as_ref(), Kind::CALL, 0, entry::encode(&header), fx);
        let ttl_ms = header.ttl_ms;
        // Not before it is durable may anyone see it: the book learns it now, but dispatches it with the push below.
        self.with_env(|book, env| book.apply_header(&entry, header, ttl_ms, env, fx));
        log::push_when_durable(&entry, Some(ttl_ms), None, fx);
        Ok(Reply::Call { id, created: true })
    }

    fn resolve(&self, node: &str, tool: &crate::ids::ToolName) -> Result<PeerId, Refusal> {
        let members = &self.trust.membership().members;
        if node == "any" {
            let online = self.online_now();
            return members
                .keys()
                .filter(|peer| declared(&self.directory, peer, tool.as_str()).is_some())
                .min_by_key(|peer| (!online.contains(*peer), self.book.own_open(peer).0, **peer != self.me))
                .copied()
                .ok_or_else(|| Refusal::UnknownNode(format!("any (nobody offers `{tool}`)")));
        }
        // Handles first, and the id read once: writing out every member's id would cost more than all the rest of a call.
        let by_handle = members.iter().find(|(_, member)| member.node_id.as_str() == node).map(|(peer, _)| *peer);
        by_handle
            .or_else(|| node.parse().ok().filter(|peer| members.contains_key(peer)))
            .ok_or_else(|| Refusal::UnknownNode(limits::cut(node, 80).to_owned()))
    }

    fn cancel(&mut self, id: ReqId, reason: &str, fx: &mut Effects<'_>) -> Result<Reply, Refusal> {
        let Some(record) = self.book.record(&id) else { return Err(Refusal::UnknownCall(id)) };
        if matches!(record.state, CallState::Ended(_)) || self.book.is_cancelled(&id).is_some() {
            return Ok(Reply::Cancelled);
        }
        let (mine, for_me, attempt) = (record.origin == self.me, record.header.target == self.me, record.attempt);
        let reason = limits::cut(reason, 500).to_owned();
        let wish = CancelWish { id, reason: reason.clone(), expired: false };
        self.write_wish(&wish, fx);
        if mine && !for_me {
            let ending = entry::Ending::Cancelled;
            self.write_verdict(&Verdict { id, attempt, ending, reason, wish: false }, fx);
        }
        Ok(Reply::Cancelled)
    }

    fn require_owner(&self) -> Result<(), Refusal> {
        if self.revoked || self.trust.member(&self.me).is_none() {
            Err(Refusal::NotMember)
        } else if self.trust.is_owner(&self.me) {
            Ok(())
        } else {
            Err(Refusal::NotOwner)
        }
    }

    fn invite(&mut self, secret: Hash, tier: Tier, ttl_ms: u64, fx: &mut Effects<'_>) -> Result<Reply, Refusal> {
        self.require_owner()?;
        let now = fx.now.wall_ms;
        let stale: Vec<Hash> =
            self.invites.iter().filter(|(_, row)| row.expires_ms + 3_600_000 < now).map(|(hash, _)| *hash).collect();
        for hash in stale {
            self.invites.remove(&hash);
            fx.delete(Space::Invites, hash.0);
        }
        if self.invites.values().filter(|row| row.used_by.is_none()).count() >= limits::INVITES_MAX {
            return Err(Refusal::Invalid(format!("{} invites are open already", limits::INVITES_MAX)));
        }
        let row = InviteRow { tier, expires_ms: now + ttl_ms, used_by: None };
        fx.put(Space::Invites, secret.0, &row);
        self.invites.insert(secret, row);
        Ok(Reply::Invited)
    }

    fn redeem(
        &mut self,
        secret: Hash,
        key: PublicKey,
        node_id: &NodeId,
        fx: &mut Effects<'_>,
    ) -> Result<Reply, Refusal> {
        self.require_owner()?;
        let Some(row) = self.invites.get(&secret).cloned() else { return Err(Refusal::InviteUnknown) };
        match row.used_by {
            // The same key again: its reply was lost. It gets the same answer.
            Some(used) if used == key && self.trust.member(&key.peer_id()).is_some() => {
                return self.welcome(&key.peer_id()).map(|welcome| Reply::Approved(Box::new(welcome)));
            }
            Some(_) => return Err(Refusal::InviteUsed),
            None if row.expires_ms <= fx.now.wall_ms => return Err(Refusal::InviteExpired),
            None => {}
        }
        let row = InviteRow { used_by: Some(key), ..row };
        fx.put(Space::Invites, secret.0, &row);
        let tier = row.tier;
        self.invites.insert(secret, row);
        self.approve(key, node_id, tier, fx).map(|welcome| Reply::Approved(Box::new(welcome)))
    }

    fn approve(
        &mut self,
        key: PublicKey,
        node_id: &NodeId,
        tier: Tier,
        fx: &mut Effects<'_>,
    ) -> Result<Welcome, Refusal> {
        self.require_owner()?;
        let peer = key.peer_id();
        if self.trust.membership().members.len() >= limits::PEERS_MAX {
            return Err(Refusal::Invalid(format!("a mesh has at most {} peers", limits::PEERS_MAX)));
        }
        if self.trust.member(&peer).is_none_or(|member| member.tier != tier) {
            let (generation, after) = self.trust.next_verdict(&peer);
            let node_id = self.trust.free_handle(node_id, &peer);
            self.say(key, VerdictKind::Approved { tier, node_id, after }, generation, fx);
        }
        self.welcome(&peer)
    }

    fn say(&mut self, subject: PublicKey, what: VerdictKind, generation: u32, fx: &mut Effects<'_>) {
        let body = entry::encode(&entry::Verdict { subject, what });
        let entry = self.logs.append(self.signer.as_ref(), Kind::APPROVAL, generation, body, fx);
        log::push_when_durable(&entry, None, None, fx);
        self.apply_verdict(&entry, fx);
    }

    fn welcome(&self, peer: &PeerId) -> Result<Welcome, Refusal> {
        let member = self.trust.member(peer).ok_or(Refusal::NotMember)?;
        Ok(Welcome {
            mesh: self.trust.mesh(),
            trust: self.trust.records_in_order(),
            directory: self.directory.values().map(|(entry, _)| entry.clone()).collect(),
            fence: self.election.fence().clone(),
            node_id: member.node_id.clone(),
            tier: member.tier,
        })
    }

    fn revoke(&mut self, peer: PeerId, left: bool, fx: &mut Effects<'_>) -> Result<(), Refusal> {
        if !left {
            self.require_owner()?;
        }
        let Some(member) = self.trust.member(&peer).cloned() else {
            return Err(Refusal::UnknownNode(peer.to_string()));
        };
        let members = &self.trust.membership().members;
        let owners = members.values().filter(|member| member.tier == Tier::Owner).count();
        if member.tier == Tier::Owner && owners == 1 && members.len() > 1 {
            return Err(Refusal::LastOwner);
        }
        if peer == self.me && !left {
            return Err(Refusal::Invalid("to remove this device itself, use leave".to_owned()));
        }
        let (generation, _) = self.trust.next_verdict(&peer);
        // Our own leave is the last of our entries that stands.
        let mark = self.logs.mark(&peer).map(|(incarnation, seq)| (incarnation, seq + u64::from(left)));
        self.say(member.key, VerdictKind::Revoked { mark, left }, generation, fx);
        Ok(())
    }

    fn leave(&mut self, fx: &mut Effects<'_>) -> Result<Reply, Refusal> {
        if self.trust.membership().members.len() > 1 && self.trust.member(&self.me).is_some() {
            let me = self.me;
            self.revoke(me, true, fx)?;
        }
        Ok(Reply::Left)
    }

    fn set_directory(&mut self, directory: &Directory, fx: &mut Effects<'_>) {
        if self.directory.get(&self.me).is_some_and(|(_, known)| **known == *directory) {
            return;
        }
        let entry = self.logs.append(self.signer.as_ref(), Kind::DIRECTORY, 0, entry::encode(directory), fx);
        log::push_when_durable(&entry, None, None, fx);
        self.apply(&entry, None, fx);
    }

    /// Ends every open call of ours, because this peer goes to another mesh: the rows to write with the departure.
    pub fn depart(&mut self, now: Now, rng: &mut dyn Rng) -> Batch {
        let mut out = Vec::new();
        let mut fx = Effects {
            now,
            rng,
            me: self.me,
            writes: Vec::new(),
            then: Vec::new(),
            sync: true,
            loopback: VecDeque::new(),
            out: &mut out,
            view_changed: false,
        };
        self.book.depart(&mut fx);
        Batch { writes: fx.writes, sync: true }
    }

    // --- reading

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
        View {
            me: self.me,
            node_id: self.trust.member(&self.me).map_or_else(|| NodeId::slug("revoked"), |m| m.node_id.clone()),
            mesh: self.trust.mesh(),
            mesh_name: self.trust.name().to_owned(),
            incarnation: self.logs.incarnation(),
            boot: self.boot,
            revoked: self.revoked,
            gateway: self.election.gateway(),
            fence: self.election.fence().epoch,
            links: self.election.neighbours().collect(),
            nodes,
        }
    }

    /// A call without a confirmed and durable ending, as this peer knows it.
    #[must_use]
    pub fn open_call(&self, id: &ReqId) -> Option<&CallRecord> {
        self.book.record(id)
    }

    /// All such calls.
    pub fn open_calls(&self) -> impl Iterator<Item = &CallRecord> {
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

    /// Whether this peer leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.election.reign().is_some()
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

fn declared(directory: &BTreeMap<PeerId, (SignedEntry, Arc<Directory>)>, peer: &PeerId, tool: &str) -> Option<Effect> {
    let (_, directory) = directory.get(peer)?;
    directory.tools.iter().find(|decl| decl.name.as_str() == tool).map(|decl| decl.effect)
}

/// Until workspaces exist: owner-tier devices may call every tool, others what is not for owners only.
fn permits(trust: &Trust, own: Option<&Directory>, origin: &PeerId, header: &Header) -> Result<(), String> {
    let Some(tier) = trust.tier(origin) else {
        return Err("the device that asked does not belong to the mesh any more".to_owned());
    };
    let Some(decl) = own.and_then(|own| own.tools.iter().find(|decl| decl.name == header.tool)) else {
        return Err(format!("this node offers no tool `{}`", header.tool));
    };
    if decl.owner_only && tier != Tier::Owner {
        return Err(format!("`{}` may be called by devices of tier owner only", header.tool));
    }
    Ok(())
}

fn is_reasonable(directory: &Directory) -> bool {
    directory.addresses.len() <= limits::ADDRESSES_MAX
        && directory.addresses.iter().all(|address| address.len() <= 64)
        && directory.tools.len() <= limits::TOOLS_MAX
        && directory.platform.len() <= 32
        && directory.version.len() <= 32
        && directory.tools.iter().all(|tool| tool.description.len() <= 800)
}
