//! The replicated log: one chain of signed entries per author, and the exchange of what others lack
//! (`docs/protocol.md`, Log).
//!
//! The entries themselves live in the store; here are only the heads, so that memory does not grow with history.

pub(crate) mod bodies;
mod truncation;
pub(crate) mod unsupported;

use std::collections::{BTreeMap, BTreeSet, btree_map};

use crate::audience::Audience;
use crate::crypto::Signer;
use crate::effects::{Effects, Then};
use crate::entry::{BodyCommitment, Entry, Kind, Place, Salt, SignedEntry};
use crate::frame::{Authors, DigestRow, EntryItem, Frame, Places};
use crate::ids::{Hash, Incarnation, MeshId, PeerId};
use crate::io::{Fact, LogReader, Now, Output, StoppedLog};
use crate::limits;
use crate::protocol_rule::ProtocolRule;
use crate::rows::{self, ForkRow, Head, Row as _};
use crate::spending::{self, Charge, Spending};
use crate::trust::Trust;
use crate::via::Via;
use bodies::Bodies;
use truncation::Dropped;
pub(crate) use truncation::with_runs;
use unsupported::Unsupported;

/// A foreign clock may push ours at most this far: one that is wrong by years must not order all later entries.
const HLC_PUSH_MS: u64 = 60_000;
/// Least time between two digests that a gap makes us send to one neighbour.
const GAP_DIGEST_EVERY_MS: u64 = 200;
/// A digest or a request that makes us read our log costs its sender so much of its time: at most 256 KiB in 25 ms.
const READ_MS: u64 = 25;
/// Time for which a neighbour may be ahead of that pace.
const READ_BURST_MS: u64 = 500;

/// The fate of an entry that somebody sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ingest {
    /// Taken: apply it.
    New,
    /// Held already.
    Known,
    /// Some before it are missing; they have been asked for.
    Gap,
    /// Not of this mesh, or its author does not belong.
    Refused,
    /// It contradicts what the author said before.
    Fork,
    /// Its author is over its budget: its log stops before it.
    Stopped,
}

#[derive(Debug, Clone, Default)]
struct Neighbour {
    /// Places up to which it holds each log, as far as we know.
    knows: BTreeMap<(PeerId, Incarnation), u64>,
    /// Way of our link to it.
    via: Via,
    /// Peers that it is linked to.
    neighbours: BTreeSet<PeerId>,
    /// Those of them to whom its link is relayed.
    relayed: BTreeSet<PeerId>,
    /// Authors of whom it takes nothing for now.
    refuses: BTreeSet<PeerId>,
    /// Its digests that are to be answered when it may, the oldest first.
    asked: Vec<(Authors, Vec<DigestRow>)>,
    /// Bodies that it wants, to be read when it may.
    wanted: Option<Vec<Places>>,
    /// Our clock up to which what was read for it lasts, at that pace.
    answered_until: u64,
    /// Bodies that it has asked for and may have as soon as they are here.
    owed: BTreeSet<Place>,
    next_digest: u64,
    /// A gap showed too soon after the last digest: it is asked about at `next_digest`.
    digest_deferred: bool,
}

impl Neighbour {
    /// True if our log may be read for it now.
    const fn may_ask(&self, now: u64) -> bool {
        self.answered_until <= now + READ_BURST_MS
    }

    /// Our log is read for it.
    fn note_read(&mut self, now: u64) {
        self.answered_until = self.answered_until.max(now) + READ_MS;
    }

    /// A digest of it waits. There is room for the rows of one as large as any; the oldest give way.
    fn defer(&mut self, authors: Authors, rows: Vec<DigestRow>) {
        self.asked.push((authors, rows));
        let rows = |asked: &[(Authors, Vec<DigestRow>)]| asked.iter().map(|(_, rows)| rows.len()).sum::<usize>();
        while self.asked.len() > limits::DIGESTS_WAITING_MAX || rows(&self.asked) > limits::DIGEST_ROWS_MAX {
            self.asked.remove(0);
        }
    }

    /// When a digest is owed to it, or an answer to what it has asked for.
    fn poll_timeout(&self) -> Option<u64> {
        let waits = !self.asked.is_empty() || self.wanted.is_some();
        let answer = waits.then(|| self.answered_until.saturating_sub(READ_BURST_MS));
        let digest = self.digest_deferred.then_some(self.next_digest);
        answer.into_iter().chain(digest).min()
    }
}

/// All authors' heads, and what the neighbours have.
#[derive(Debug, Clone)]
pub(crate) struct Logs {
    me: PeerId,
    mesh: MeshId,
    incarnation: Incarnation,
    heads: BTreeMap<(PeerId, Incarnation), Head>,
    /// Our own entries up to here may be shown to others.
    own_durable: u64,
    hlc: u64,
    neighbours: BTreeMap<PeerId, Neighbour>,
    /// Peers that said since our start how much of our own log they hold, which was no more than we do.
    compared: BTreeSet<PeerId>,
    /// Our incarnation began in this process: nobody holds more of it.
    fresh: bool,
    /// Incarnations in which an author contradicted itself, and where.
    forks: BTreeMap<(PeerId, Incarnation), u64>,
    /// Hash over the membership changes that count here.
    changes: Hash,
    dropped: Dropped,
    pub(crate) unsupported: Unsupported,
    pub(crate) spending: Spending,
    bodies: Bodies,
    next_sync: u64,
}

impl Logs {
    #[expect(clippy::too_many_arguments, reason = "boot has read it all from rows of its own")]
    pub(crate) fn new(
        me: PeerId,
        mesh: MeshId,
        incarnation: Incarnation,
        heads: BTreeMap<(PeerId, Incarnation), Head>,
        unsupported: Unsupported,
        spending: Spending,
        bodies: Bodies,
        now: u64,
    ) -> Self {
        let own = heads.get(&(me, incarnation));
        Self {
            me,
            mesh,
            incarnation,
            own_durable: own.map_or(0, |head| head.seq),
            hlc: heads.iter().filter(|((of, _), _)| *of == me).map(|(_, head)| head.hlc).max().unwrap_or(0),
            heads,
            neighbours: BTreeMap::new(),
            compared: BTreeSet::new(),
            fresh: false,
            forks: BTreeMap::new(),
            changes: Hash::ZERO,
            dropped: Dropped::default(),
            unsupported,
            spending,
            bodies,
            next_sync: now,
        }
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    pub(crate) fn set_changes(&mut self, changes: Hash) {
        self.changes = changes;
    }

    /// Membership has changed: see [`Bodies::settle`].
    pub(crate) fn settle(&mut self, trust: &Trust, fx: &mut Effects<'_>) {
        self.bodies.settle(&self.me, trust, fx);
        self.settle_truncations(trust, fx);
    }

    /// Place of the newest entry that we hold of `author`, by incarnation.
    pub(crate) fn incarnations(&self, author: &PeerId) -> impl Iterator<Item = (Incarnation, u64)> + '_ {
        let incarnations = (*author, Incarnation(0))..=(*author, Incarnation(u32::MAX));
        self.heads.range(incarnations).map(|((_, incarnation), head)| (*incarnation, head.seq))
    }

    /// Place of the newest entry that we hold of a log; 0 = none.
    pub(crate) fn held(&self, author: &PeerId, incarnation: Incarnation) -> u64 {
        self.heads.get(&(*author, incarnation)).map_or(0, |head| head.seq)
    }

    /// Our own log starts anew.
    pub(crate) fn start_incarnation(&mut self, incarnation: Incarnation) {
        self.incarnation = incarnation;
        self.own_durable = 0;
        self.fresh = true;
    }

    /// Restores a row of [`crate::io::Space::Meta`] that was written here; others are none of its business.
    pub(crate) fn restore(&mut self, key: &[u8], value: &[u8]) {
        self.dropped.restore(key, value);
        self.spending.restore(key, value);
        if let Some(log_id) = rows::fork_of(key)
            && let Some(row) = ForkRow::from_bytes(value)
        {
            self.forks.insert(log_id, row.seq);
        }
    }

    /// True if an author contradicted itself at this place or before it: what counts there nobody can tell.
    pub(crate) fn is_forked(&self, author: &PeerId, incarnation: Incarnation, seq: u64) -> bool {
        self.forks.get(&(*author, incarnation)).is_some_and(|fork| *fork <= seq)
    }

    /// Logs that are stopped here, since their authors are over a budget.
    pub(crate) fn stopped(&self, now: Now) -> Vec<StoppedLog> {
        let newest = |author: &PeerId| self.incarnations(author).map(|(_, seq)| seq).max().unwrap_or(0);
        self.spending.stopped(newest, now)
    }

    /// Authors that contradicted themselves in the incarnation that we saw last of them.
    pub(crate) fn forked(&self) -> impl Iterator<Item = PeerId> + '_ {
        let newest = |(author, incarnation): &(PeerId, Incarnation)| {
            let heads = self.heads.range((*author, Incarnation(0))..=(*author, Incarnation(u32::MAX)));
            heads.max_by_key(|(_, head)| head.hlc).is_some_and(|((_, newest), _)| newest == incarnation)
        };
        self.forks.keys().filter(move |incarnation| newest(incarnation)).map(|(author, _)| *author)
    }

    /// True if we hold no less of our own log than this neighbour does.
    pub(crate) fn is_compared_with(&self, peer: &PeerId) -> bool {
        self.fresh || self.compared.contains(peer)
    }

    /// Place of our newest entry in this incarnation; 0 = none.
    pub(crate) fn own_seq(&self) -> u64 {
        self.heads.get(&(self.me, self.incarnation)).map_or(0, |head| head.seq)
    }

    /// True if our own log holds this entry, which we signed in this incarnation; `None`: only its row can tell.
    pub(crate) fn holds_own(&self, entry: &SignedEntry) -> Option<bool> {
        let head = self.heads.get(&(self.me, self.incarnation));
        let (held, seq) = (head.map_or(0, |head| head.seq), entry.entry.seq);
        if self.is_dropped((self.me, self.incarnation), seq) {
            return Some(true); // nothing is left to compare it with, and nobody needs it
        }
        if seq < held { None } else { Some(head.is_some_and(|head| seq == held && head.hash == entry.hash)) }
    }

    /// True if anything is held of another incarnation of an author's database than this one.
    pub(crate) fn has_former_incarnation(&self, author: &PeerId, incarnation: Incarnation) -> bool {
        self.heads.keys().any(|(of, other)| of == author && *other != incarnation)
    }

    /// Clock of the newest entry that is held of this incarnation of an author's database.
    pub(crate) fn latest_clock(&self, author: &PeerId, incarnation: Incarnation) -> Option<u64> {
        self.heads.get(&(*author, incarnation)).map(|head| head.hlc)
    }

    /// True if an entry of ours with this clock is older than what we hold of a former incarnation of ours, and a new
    /// one would not be.
    pub(crate) fn is_older_than_former(&self, hlc: u64) -> bool {
        let former =
            self.heads.iter().filter(|((of, incarnation), _)| *of == self.me && *incarnation != self.incarnation);
        former.map(|(_, head)| head.hlc).max().is_some_and(|last| hlc <= last && last <= self.hlc)
    }

    /// True if this is the log that we write now. What a former incarnation of ours wrote, and a restored store has
    /// lost, comes back from the others.
    fn is_own(&self, author: &PeerId, incarnation: Incarnation) -> bool {
        *author == self.me && incarnation == self.incarnation
    }

    /// True if an entry may be shown to others: one of ours only once it is durable.
    pub(crate) fn may_show(&self, entry: &SignedEntry) -> bool {
        !self.is_own(&entry.author, entry.entry.incarnation) || entry.entry.seq <= self.own_durable
    }

    fn tick(&mut self, wall_ms: u64) -> u64 {
        self.hlc = (wall_ms << 16).max(self.hlc + 1);
        self.hlc
    }

    /// Writes our own next entry. It is told to the others once it is durable.
    pub(crate) fn append(
        &mut self,
        signer: &dyn Signer,
        kind: Kind,
        (audience, body): (Audience, &[u8]),
        fx: &mut Effects<'_>,
    ) -> SignedEntry {
        let hlc = self.tick(fx.now.wall_ms);
        let at = (self.me, self.incarnation);
        let previous = self.heads.get(&at).copied();
        let salt = Salt::draw(fx.rng);
        let entry = SignedEntry::sign(
            signer,
            Entry {
                mesh: self.mesh,
                author: signer.public_key(),
                incarnation: self.incarnation,
                seq: previous.map_or(0, |head| head.seq) + 1,
                hlc,
                kind,
                critical: kind.is_critical(),
                previous: previous.map_or(Hash::ZERO, |head| head.hash),
                audience,
                body: BodyCommitment::of(salt, body),
            },
            salt,
            body,
        );
        self.spending.note_own(&entry, spending::is_answer(&entry));
        self.store(&entry, fx);
        entry
    }

    fn store(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) {
        let (incarnation, seq) = (entry.entry.incarnation, entry.entry.seq);
        let head = Head { seq, hash: entry.hash, hlc: entry.entry.hlc };
        self.heads.insert((entry.author, incarnation), head);
        fx.put(rows::entry(&entry.author, incarnation, seq), entry);
        fx.put(rows::head(&entry.author, incarnation), &head);
    }

    /// Takes an entry that `from` sent.
    pub(crate) fn ingest(
        &mut self,
        from: PeerId,
        item: &EntryItem,
        charge: Charge,
        trust: &Trust,
        fx: &mut Effects<'_>,
    ) -> Ingest {
        let entry = &item.entry;
        let (author, incarnation, seq) = (entry.author, entry.entry.incarnation, entry.entry.seq);
        let admitted = trust.admits(&author, incarnation, seq);
        let is_genesis = entry.entry.kind == Kind::GENESIS && entry.hash.0 == self.mesh.0;
        if !admitted || (entry.entry.mesh != self.mesh && !is_genesis) || self.is_own(&author, incarnation) {
            return Ingest::Refused;
        }
        let head = self.heads.get(&(author, incarnation)).copied();
        if head.is_none() && !has_room(&author, self.incarnations(&author).map(|(held, _)| held), trust) {
            let what = "started too many incarnations; entries of the newest are not taken until it is removed and approved again";
            fx.fact(Fact::Warning(what, author));
            return Ingest::Refused;
        }
        // Of logs that are not held here nothing is remembered: incarnations are easily made up.
        if head.is_some() {
            self.note_known(from, entry);
        }
        let held = head.map_or(0, |head| head.seq);
        let hash = head.map_or(Hash::ZERO, |head| head.hash);
        if seq <= held {
            let forked = seq == held && hash != entry.hash;
            return if forked { self.fork(entry, held, fx) } else { Ingest::Known };
        }
        let gap = seq > held + 1;
        let passed = gap && !fx.enforces(ProtocolRule::GapNeedsTruncation);
        if gap && !passed {
            if !self.spending.is_stopped(&author) {
                self.ask_again(from, trust, fx);
            }
            return Ingest::Gap;
        }
        if entry.entry.previous != hash && !passed {
            return self.fork(entry, held, fx);
        }
        if !self.spending.takes(entry, charge, trust, fx) {
            return Ingest::Stopped;
        }
        self.hlc = self.hlc.max(entry.entry.hlc.min((fx.now.wall_ms + HLC_PUSH_MS) << 16));
        self.note_known(from, entry);
        self.store(entry, fx);
        self.step_over_runs((author, incarnation), trust, fx);
        self.relay(from, item, trust, fx);
        Ingest::New
    }

    /// The sender of an entry has it.
    fn note_known(&mut self, peer: PeerId, entry: &SignedEntry) {
        if let Some(neighbour) = self.neighbours.get_mut(&peer) {
            let knows = neighbour.knows.entry((entry.author, entry.entry.incarnation)).or_default();
            *knows = (*knows).max(entry.entry.seq);
        }
    }

    /// Ours stays, and of the other its place and hash, the first in each log that is held. Its author, if it is honest,
    /// was restored or copied: it is shown what it had said.
    fn fork(&mut self, entry: &SignedEntry, held: u64, fx: &mut Effects<'_>) -> Ingest {
        let (author, incarnation) = (entry.author, entry.entry.incarnation);
        if let btree_map::Entry::Vacant(first) = self.forks.entry((author, incarnation)) {
            first.insert(entry.entry.seq);
            fx.put(rows::fork(&author, incarnation), &ForkRow { seq: entry.entry.seq, hash: entry.hash });
            fx.view_changed = true;
        }
        // It is shown once in a while, however often it repeats what contradicts.
        let now = fx.now.mono_ms;
        if let Some(neighbour) = self.neighbours.get_mut(&author).filter(|neighbour| neighbour.may_ask(now)) {
            neighbour.note_read(now);
            let ranges = vec![(author, incarnation, held, held)];
            fx.out.push(Output::ReadLog { reader: LogReader::Peer(author), ranges });
        }
        fx.fact(Fact::Warning("signed two conflicting log entries; its newer entries are not taken", author));
        Ingest::Fork
    }

    fn ask_again(&mut self, from: PeerId, trust: &Trust, fx: &mut Effects<'_>) {
        let Some(neighbour) = self.neighbours.get_mut(&from) else { return };
        neighbour.digest_deferred = fx.now.mono_ms < neighbour.next_digest;
        if !neighbour.digest_deferred {
            neighbour.next_digest = fx.now.mono_ms + GAP_DIGEST_EVERY_MS;
            self.send_digest(from, trust, fx);
        }
    }

    /// Passes an entry on to neighbours that are linked neither to its author nor to whoever gave it to us.
    fn relay(&mut self, from: PeerId, item: &EntryItem, trust: &Trust, fx: &mut Effects<'_>) {
        let author = item.entry.author;
        let targets: Vec<PeerId> = self
            .neighbours
            .iter()
            .filter(|(peer, neighbour)| {
                **peer != from
                    && **peer != author
                    && !neighbour.neighbours.contains(&author)
                    && !neighbour.neighbours.contains(&from)
            })
            .map(|(peer, _)| *peer)
            .collect();
        for peer in targets {
            self.send_to(peer, item, trust, fx);
        }
    }

    fn send_to(&mut self, peer: PeerId, item: &EntryItem, trust: &Trust, fx: &mut Effects<'_>) {
        if let Some(neighbour) = self.neighbours.get_mut(&peer) {
            if neighbour.refuses.contains(&item.entry.author) {
                return;
            }
            let knows = neighbour.knows.entry((item.entry.author, item.entry.entry.incarnation)).or_default();
            if *knows >= item.entry.entry.seq {
                return;
            }
            *knows = item.entry.entry.seq;
            fx.send(peer, Frame::Entries { entries: vec![shown_to(item, &peer, trust)], more: false });
        }
    }

    /// An entry of our own is durable: every neighbour gets it. A call is awaited by the gateway, so that one comes
    /// first; anything else by some other peer (an outcome by its origin), so there the gateway comes last.
    pub(crate) fn handle_durable(
        &mut self,
        entry: &SignedEntry,
        left_ms: Option<u64>,
        gateway: Option<PeerId>,
        trust: &Trust,
        fx: &mut Effects<'_>,
    ) {
        self.own_durable = self.own_durable.max(entry.entry.seq);
        let mut peers: Vec<PeerId> = self.neighbours.keys().copied().collect();
        let is_call = entry.entry.kind == Kind::CALL;
        peers.sort_by_key(|peer| (Some(*peer) == gateway) != is_call);
        let item = EntryItem { entry: entry.clone(), left_ms };
        for peer in peers {
            self.send_to(peer, &item, trust, fx);
        }
    }

    /// A link, or another in the place of one: what was on its way over that is lost, and nobody waits for it.
    pub(crate) fn handle_link_up(&mut self, peer: PeerId, via: Via, trust: &Trust, fx: &mut Effects<'_>) {
        self.bodies.handle_link_gone(&peer);
        self.neighbours.insert(peer, Neighbour { via, ..Neighbour::default() });
        self.bodies.consider(peer, fx.now.mono_ms);
        if fx.enforces(ProtocolRule::DigestOnLinkUp) {
            self.send_digest(peer, trust, fx);
        }
        self.tell_neighbours(fx);
    }

    /// The others passed nothing on to us of `peer`, nor of what it passed on itself, while we said that we are linked to
    /// it: they are asked for what was lost on the link, once they know that it is gone.
    pub(crate) fn handle_link_down(&mut self, peer: PeerId, trust: &Trust, fx: &mut Effects<'_>) {
        self.neighbours.remove(&peer);
        self.bodies.handle_link_gone(&peer);
        self.tell_neighbours(fx);
        if fx.enforces(ProtocolRule::DigestOnLinkDown) {
            for other in self.neighbours.keys().copied().collect::<Vec<_>>() {
                self.ask_again(other, trust, fx);
            }
        }
    }

    fn tell_neighbours(&self, fx: &mut Effects<'_>) {
        let peers: Vec<PeerId> = self.neighbours.keys().copied().collect();
        let is_relayed = |(_, neighbour): &(&PeerId, &Neighbour)| neighbour.via == Via::Relayed;
        let relayed: Vec<PeerId> = self.neighbours.iter().filter(is_relayed).map(|(peer, _)| *peer).collect();
        for peer in &peers {
            fx.send(*peer, Frame::Neighbours { peers: peers.clone(), relayed: relayed.clone() });
        }
    }

    pub(crate) fn handle_neighbours(
        &mut self,
        from: PeerId,
        peers: Vec<PeerId>,
        relayed: Vec<PeerId>,
        fx: &mut Effects<'_>,
    ) {
        if let Some(neighbour) = self.neighbours.get_mut(&from) {
            let told = (peers.into_iter().collect(), relayed.into_iter().collect());
            // By whom others may be reached is part of what is shown.
            fx.view_changed |=
                told != (std::mem::take(&mut neighbour.neighbours), std::mem::take(&mut neighbour.relayed));
            (neighbour.neighbours, neighbour.relayed) = told;
        }
    }

    /// Peers that we have a direct link to.
    pub(crate) fn direct(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.neighbours.iter().filter(|(_, neighbour)| neighbour.via == Via::Direct).map(|(peer, _)| *peer)
    }

    /// Peers that a neighbour said it has a direct link to.
    pub(crate) fn linked_directly_to(&self, peer: &PeerId) -> impl Iterator<Item = &PeerId> {
        let told = self.neighbours.get(peer).into_iter();
        told.flat_map(|neighbour| neighbour.neighbours.iter().filter(|other| !neighbour.relayed.contains(other)))
    }

    /// Digest of what we hold and may show, in order. Of whoever was excluded there are the logs that count in part.
    fn digest(&self, trust: &Trust) -> Vec<DigestRow> {
        let mut rows: Vec<DigestRow> = self
            .heads
            .iter()
            .filter(|((author, incarnation), head)| {
                let counts = trust.standing(author, *incarnation, head.seq) > 0;
                *author == self.me || counts || !trust.is_excluded(author)
            })
            .map(|((author, incarnation), head)| {
                let own = self.is_own(author, *incarnation);
                let seq = if own { head.seq.min(self.own_durable) } else { head.seq };
                let stopped = self.spending.is_stopped(author);
                DigestRow { author: *author, incarnation: *incarnation, seq, stopped }
            })
            .collect();
        // One that stopped at its first entry.
        for author in self.spending.stopped_authors() {
            if self.incarnations(&author).next().is_none() {
                rows.push(DigestRow { author, incarnation: Incarnation(0), seq: 0, stopped: true });
            }
        }
        rows.sort_by_key(|row| (row.author, row.incarnation));
        rows
    }

    /// The same in frames, none with more rows than are taken.
    fn digest_frames(&self, trust: &Trust) -> Vec<Frame> {
        let rows = self.digest(trust);
        let mut frames = Vec::new();
        let (mut authors, mut part) = (Authors::ALL, Vec::new());
        for of_author in rows.chunk_by(|one, next| one.author == next.author) {
            if part.len() + of_author.len() > limits::DIGEST_ROWS_MAX
                && let Some(first) = of_author.first()
            {
                let rows = std::mem::take(&mut part);
                let until = Some(first.author);
                frames.push(Frame::Digest { authors: Authors { until, ..authors }, rows, changes: self.changes });
                authors.from = first.author;
            }
            part.extend_from_slice(of_author);
        }
        frames.push(Frame::Digest { authors, rows: part, changes: self.changes });
        frames
    }

    fn send_digest(&self, to: PeerId, trust: &Trust, fx: &mut Effects<'_>) {
        for frame in self.digest_frames(trust) {
            fx.send(to, frame);
        }
    }

    /// Asks every neighbour for what we lack: after trust has changed, entries refused before may be welcome.
    pub(crate) fn ask_all(&mut self, trust: &Trust, fx: &mut Effects<'_>) {
        let frames = self.digest_frames(trust);
        for peer in self.neighbours.keys() {
            for frame in &frames {
                fx.send(*peer, frame.clone());
            }
        }
    }

    /// Takes a digest, and answers it now or when its sender's pace allows it.
    pub(crate) fn handle_digest(
        &mut self,
        from: PeerId,
        authors: Authors,
        mut rows: Vec<DigestRow>,
        trust: &Trust,
        fx: &mut Effects<'_>,
    ) {
        rows.retain(|row| authors.contains(&row.author));
        if let Some(neighbour) = self.neighbours.get_mut(&from) {
            neighbour.refuses.retain(|author| !authors.contains(author));
            // Of whoever is not known here nothing is sent to it.
            let all = |author| (author, Incarnation(0))..=(author, Incarnation(u32::MAX));
            let is_known =
                |author: &PeerId| trust.member(author).is_some() || self.heads.range(all(*author)).next().is_some();
            let stopped = rows.iter().filter(|row| row.stopped && is_known(&row.author));
            neighbour.refuses.extend(stopped.map(|row| row.author));
            neighbour.asked.retain(|(of, _)| !of.overlaps(&authors));
            if !neighbour.may_ask(fx.now.mono_ms) {
                neighbour.defer(authors, rows);
                return;
            }
        }
        self.answer_digest(from, authors, &rows, trust, fx);
    }

    /// Answers a digest with what its sender lacks, authors nearest to the founder first, so that each is known before
    /// it speaks; and asks for what we lack ourselves.
    fn answer_digest(
        &mut self,
        from: PeerId,
        authors: Authors,
        rows: &[DigestRow],
        trust: &Trust,
        fx: &mut Effects<'_>,
    ) {
        self.consider(from, fx);
        let depth = |peer: &PeerId| trust.member(peer).map_or(u32::MAX, |member| member.depth);
        let theirs: BTreeMap<(PeerId, Incarnation), u64> =
            rows.iter().map(|row| ((row.author, row.incarnation), row.seq)).collect();
        // Of its own log it may have told more meanwhile than this digest says.
        let told_here = |row: &DigestRow| {
            let knows = &self.neighbours.get(&from).filter(|_| row.author == from)?.knows;
            knows.get(&(from, row.incarnation)).copied()
        };
        let mut ranges = Vec::new();
        let refuses = self.neighbours.get(&from).map(|neighbour| &neighbour.refuses);
        let takes = |row: &DigestRow| {
            authors.contains(&row.author) && refuses.is_none_or(|refuses| !refuses.contains(&row.author))
        };
        for row in self.digest(trust).into_iter().filter(takes) {
            let has = theirs.get(&(row.author, row.incarnation)).copied().max(told_here(&row)).unwrap_or(0);
            let stands = trust.standing(&row.author, row.incarnation, row.seq);
            // What its author lacks of its own log, a restored store has lost.
            if has < stands {
                ranges.push((row.author, row.incarnation, has + 1, stands));
            }
        }
        // What the neighbour has lost of its own log goes first: it must know that before it says anything else.
        ranges.sort_by_key(|(author, incarnation, ..)| (*author != from, depth(author), *author, *incarnation));
        self.send_truncations(from, &ranges, fx);
        if !ranges.is_empty() {
            if let Some(neighbour) = self.neighbours.get_mut(&from) {
                neighbour.note_read(fx.now.mono_ms);
            }
            fx.out.push(Output::ReadLog { reader: LogReader::Peer(from), ranges });
        }
        let lacking = theirs.iter().any(|((author, incarnation), seq)| {
            depth(author) != u32::MAX
                && !self.spending.is_stopped(author)
                && self.heads.get(&(*author, *incarnation)).map_or(0, |head| head.seq) < *seq
        });
        if lacking {
            self.ask_again(from, trust, fx);
        }
        let mine = (self.me, self.incarnation);
        let held = self.heads.get(&mine).map_or(0, |head| head.seq);
        if authors.contains(&self.me) && theirs.get(&mine).is_none_or(|seq| *seq <= held) {
            self.compared.insert(from);
        }
        if let Some(neighbour) = self.neighbours.get_mut(&from) {
            neighbour.knows.retain(|(author, _), _| *author == from || !authors.contains(author));
            // Of logs that are not held here nothing is remembered, as above.
            for (log_id, seq) in theirs.into_iter().filter(|(log_id, _)| self.heads.contains_key(log_id)) {
                let known = neighbour.knows.entry(log_id).or_default();
                *known = seq.max(*known);
            }
        }
    }

    /// Takes an author's truncation of its own log. Its place does not matter: whoever has a key may say so
    /// of what that key wrote, and where a revocation voids it, the rows are gone all the same at whoever took
    /// it before. But some of that incarnation must count. True if what went must not have been passed over.
    pub(crate) fn handle_truncation(&mut self, entry: &SignedEntry, trust: &Trust, fx: &mut Effects<'_>) -> bool {
        let log_id = (entry.author, entry.entry.incarnation);
        let counts = entry.entry.mesh == self.mesh && trust.standing(&log_id.0, log_id.1, u64::MAX) > 0;
        if !counts || !self.apply_truncation(entry, trust, fx) {
            return false;
        }
        let dropped = &self.dropped;
        self.bodies.forget(log_id, |seq| dropped.covers(&log_id, seq), fx);
        self.unsupported.forget(log_id, |seq| dropped.covers(&log_id, seq), fx)
    }

    /// Sends entries read for a digest.
    pub(crate) fn handle_log_read(
        &mut self,
        to: PeerId,
        items: &[EntryItem],
        more: bool,
        trust: &Trust,
        fx: &mut Effects<'_>,
    ) {
        let Some(neighbour) = self.neighbours.get_mut(&to) else { return };
        for item in items {
            let knows = neighbour.knows.entry((item.entry.author, item.entry.entry.incarnation)).or_default();
            *knows = (*knows).max(item.entry.entry.seq);
        }
        if !items.is_empty() {
            let entries = items.iter().map(|item| shown_to(item, &to, trust)).collect();
            fx.send(to, Frame::Entries { entries, more });
        }
    }

    /// More is waiting at `from`: tell it how far we are now; at once only if what it sent was `news`.
    pub(crate) fn ask_more(&mut self, from: PeerId, news: bool, trust: &Trust, fx: &mut Effects<'_>) {
        if news {
            self.send_digest(from, trust, fx);
        } else {
            self.ask_again(from, trust, fx);
        }
    }

    /// Periodic anti-entropy with one random neighbour, and the digests that are owed.
    ///
    /// True when all neighbours have been asked for what this peer lacks of bodies, and something is still lacking.
    pub(crate) fn handle_timeout(&mut self, every_ms: u64, trust: &Trust, fx: &mut Effects<'_>) -> bool {
        let now = fx.now.mono_ms;
        if self.poll_timeout().is_none_or(|at| now < at) {
            return false;
        }
        if self.spending.poll_timeout().is_some_and(|at| at <= now) {
            self.resume_stopped(trust, fx);
        }
        self.answer_asked(trust, fx);
        let owed: Vec<PeerId> = self
            .neighbours
            .iter()
            .filter(|(_, neighbour)| neighbour.digest_deferred && neighbour.next_digest <= now)
            .map(|(peer, _)| *peer)
            .collect();
        for peer in owed {
            self.ask_again(peer, trust, fx);
        }
        self.sweep(fx);
        let lacking = self.handle_bodies_timeout(trust, fx);
        if fx.now.mono_ms < self.next_sync || self.neighbours.is_empty() {
            return lacking;
        }
        self.next_sync = fx.now.mono_ms + every_ms;
        let nth = fx.below(self.neighbours.len() as u64) as usize;
        if let Some(peer) = self.neighbours.keys().nth(nth).copied() {
            self.send_digest(peer, trust, fx);
            self.consider(peer, fx);
        }
        lacking
    }

    /// Answers the digests and requests whose senders had to wait.
    fn answer_asked(&mut self, trust: &Trust, fx: &mut Effects<'_>) {
        let now = fx.now.mono_ms;
        let due: Vec<_> = self
            .neighbours
            .iter_mut()
            .filter(|(_, neighbour)| neighbour.may_ask(now))
            .map(|(peer, neighbour)| {
                let asked = (!neighbour.asked.is_empty()).then(|| neighbour.asked.remove(0));
                (*peer, asked, neighbour.wanted.take())
            })
            .collect();
        for (peer, asked, wanted) in due {
            if let Some((authors, rows)) = asked {
                self.answer_digest(peer, authors, &rows, trust, fx);
            }
            if let Some(wanted) = wanted {
                self.read_wanted(peer, &wanted, trust, fx);
            }
        }
    }

    /// Goes on with logs that have room again, and asks for what was not taken meanwhile.
    pub(crate) fn resume_stopped(&mut self, trust: &Trust, fx: &mut Effects<'_>) {
        if self.spending.resume(trust, fx) {
            self.ask_all(trust, fx);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<u64> {
        let sync = (!self.neighbours.is_empty()).then_some(self.next_sync);
        let timers = [sync, self.dropped.poll_timeout(), self.spending.poll_timeout(), self.bodies.poll_timeout()];
        self.neighbours.values().filter_map(Neighbour::poll_timeout).chain(timers.into_iter().flatten()).min()
    }
}

/// True if one more incarnation of an author is taken besides these. Those that a revocation has closed are an owner's
/// doing: they count for the most of all alone.
fn has_room(author: &PeerId, held: impl Iterator<Item = Incarnation>, trust: &Trust) -> bool {
    let (mut all, mut open) = (0, 0);
    for incarnation in held {
        all += 1;
        open += usize::from(!trust.closes(author, incarnation));
    }
    all < limits::INCARNATIONS_MAX && (trust.is_owner(author) || open < limits::GUEST_INCARNATIONS_MAX)
}

/// An entry on its way to a peer: the envelope alone, where that one is outside of the audience.
fn shown_to(item: &EntryItem, peer: &PeerId, trust: &Trust) -> EntryItem {
    let entry = trust.shown_to(&item.entry, peer);
    let left_ms = item.left_ms.filter(|_| entry.has_body());
    EntryItem { entry, left_ms }
}

/// Queues the push of an entry for when it is durable.
pub(crate) fn push_when_durable(entry: &SignedEntry, left_ms: Option<u64>, fx: &mut Effects<'_>) {
    fx.then(Then::Push { entry: entry.clone(), left_ms });
}
