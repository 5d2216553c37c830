//! Frames, welcomes and stored rows by the thousand, each changed from a valid one: no panic, no lost home, no start that
//! fails without saying which rows keep it from that. The bytes on the wire are changed in the shell (`sigil`, its
//! `fuzz`); here is what has come through.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use mesh_core::audience::Audience;
use mesh_core::config::Config;
use mesh_core::entry::Place;
use mesh_core::epoch::Fence;
use mesh_core::frame::{Authors, DigestRow, EntryItem, Places};
use mesh_core::ids::PublicKey;
use mesh_core::io::{Batch, Image, Welcome, Write};
use mesh_core::peer::{BootError, Peer, joined};
use mesh_core::record::{Source, TruncatedRun, Truncation};
use mesh_core::test_kit::{Machine, Mutation, at, done, fuzz};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;

use super::*;

/// Frames that one peer gets in a row; each counts as a case.
const SESSION: u64 = 20;
/// Clocks of the device whose store the fixture is, when it is read.
const LATER_MS: u64 = 100_000_000;
/// Wakes in a second of quiet time, beyond which a peer would be busy with nothing.
const WAKES_MAX: usize = 400;

/// Lines of a fixture: a name and its bytes.
fn fixture(name: &str) -> Vec<(String, Vec<Vec<u8>>)> {
    let path = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let text = std::fs::read_to_string(path).unwrap();
    let line = |line: &str| {
        let mut words = line.split(' ');
        let name = words.next().unwrap().to_owned();
        (name, words.map(|word| HEXLOWER.decode(word.as_bytes()).unwrap()).collect())
    };
    text.lines().map(line).collect()
}

/// An honest founder that leads, and those who speak with it.
#[derive(Clone)]
struct Scene {
    desk: Desk,
    /// May write whatever it likes, as whatever it was let in.
    liar: Author,
    tier: Tier,
    /// A member that keeps quiet.
    target: Author,
    mutation: Mutation,
    /// Bodies of every kind.
    bodies: Vec<(Kind, Vec<u8>)>,
    pieces: Vec<Vec<u8>>,
    /// Whatever has been named so far.
    ids: Vec<ReqId>,
    hashes: Vec<Hash>,
    sent: Vec<SignedEntry>,
    /// Bytes that the liar has made the peer look at.
    received: usize,
    runs: usize,
    /// Counter of the liar's calls.
    calls: u64,
}

impl Scene {
    fn new() -> Self {
        let mut honest = Honest::new();
        let (liar, mut target) = (honest.author(1), honest.author(2));
        honest.admit(&target, Tier::Shared);
        let directory = offers_append(&mut target);
        honest.hears(&target, pushed(directory));
        let kinds = [
            ("genesis", Kind::GENESIS),
            ("approved", Kind::MEMBERSHIP),
            ("revoked", Kind::MEMBERSHIP),
            ("directory", Kind::DIRECTORY),
            ("call", Kind::CALL),
            ("outcome", Kind::OUTCOME),
            ("cancel", Kind::CANCEL),
            ("person", Kind(10)),
            ("agent", Kind(11)),
            ("token", Kind(12)),
            ("consent", Kind::CONSENT),
            ("workspace", Kind(13)),
            ("member", Kind(14)),
            ("binding", Kind(15)),
            ("rule", Kind(16)),
            ("device", Kind(17)),
            ("mode", Kind(18)),
            ("check", Kind(19)),
            ("tools", Kind(21)),
            ("audit", Kind::AUDIT),
            ("checkpoint", Kind::CHECKPOINT),
            ("truncation", Kind::TRUNCATION),
            ("of-a-newer-version", Kind(98)),
        ];
        let of_kind = |name: &str| kinds.iter().rfind(|(kind, _)| name.starts_with(kind)).unwrap().1;
        let bodies = fixture("entries.txt")
            .into_iter()
            .map(|(name, words)| (of_kind(&name), words.get(2).map(|sealed| sealed[16..].to_vec()).unwrap_or_default()))
            .collect::<Vec<_>>();
        let pieces = bodies.iter().map(|(_, body)| body.clone()).collect();
        Self {
            desk: honest.0,
            liar,
            tier: Tier::Shared,
            target,
            mutation: Mutation::new(0),
            bodies,
            pieces,
            ids: vec![ReqId([0; 16])],
            hashes: vec![Hash::ZERO],
            sent: Vec::new(),
            received: 0,
            runs: 0,
            calls: 0,
        }
    }

    /// This scene, with the liar let in as something.
    fn of(&self, case: u64) -> Self {
        let mut scene = self.clone();
        scene.mutation = Mutation::new(case);
        scene.tier = *scene.mutation.pick(&[Tier::Shared, Tier::Shared, Tier::Owner]);
        let liar = scene.liar.clone();
        let node_id = "liar".parse().unwrap();
        scene.desk.approve(Command::Approve { key: liar.public_key(), node_id, tier: scene.tier, stay: None });
        scene.desk.step(Input::LinkUp(liar.id()));
        scene.desk.step(Input::Session(liar.id(), 7));
        if scene.mutation.once_in(2) {
            scene.desk.step(Input::LinkUp(scene.target.id()));
        }
        for to in [liar.id(), scene.target.id()] {
            let new = NewCall { timeout_ms: 60_000, ..test_kit::call(&to, "append") };
            if let Reply::Call { id, .. } = scene.desk.ask(Command::Call(new)) {
                scene.ids.push(id);
            }
        }
        let me = scene.desk.id();
        scene.ids.extend([ReqId::new(&liar.id(), Incarnation(1), 1), ReqId::new(&me, Incarnation(1), 1)]);
        scene.hashes.extend(scene.desk.peer().grant_of(&liar.id()));
        scene.hashes.extend(scene.desk.peer().grant_of(&me));
        scene
    }

    // --- What a frame is made of --------------------------------------------------------------------------------------

    /// A good value, or one time in six an odd one.
    fn mostly<T>(&mut self, good: T, odd: impl FnOnce(&mut Self) -> T) -> T {
        if self.mutation.once_in(6) { odd(self) } else { good }
    }

    fn number(&mut self, good: u64) -> u64 {
        self.mostly(good, |scene| scene.mutation.number(good))
    }

    fn peer(&mut self) -> PeerId {
        let known = [self.desk.id(), self.liar.id(), self.target.id(), PeerId([0; 32]), PeerId([255; 32])];
        *self.mutation.pick(&known)
    }

    fn peers(&mut self) -> Vec<PeerId> {
        let many: u16 = *self.mutation.pick(&[0, 1, 3, 2_000]);
        (0..many).map(|n| if n < 3 { self.peer() } else { PeerId(Hash::of(&[n.to_le_bytes()[0], 9]).0) }).collect()
    }

    fn key(&mut self) -> PublicKey {
        let keys = [0, 1, 2, 33].map(|n| Symbolic::new(n).public_key());
        *self.mutation.pick(&keys)
    }

    fn incarnation(&mut self) -> Incarnation {
        let own = self.desk.peer().view().incarnation;
        let any = Incarnation(self.mutation.number(1) as u32);
        *self.mutation.pick(&[Incarnation(1), Incarnation(1), own, any])
    }

    fn id(&mut self) -> ReqId {
        if self.mutation.once_in(8) {
            let (of, incarnation) = (self.peer(), self.incarnation());
            let id = ReqId::new(&of, incarnation, self.mutation.number(1));
            self.ids.push(id);
            return id;
        }
        *self.mutation.pick(&self.ids)
    }

    fn hash(&mut self) -> Hash {
        *self.mutation.pick(&self.hashes)
    }

    fn hashes(&mut self) -> Vec<Hash> {
        let many = *self.mutation.pick(&[0, 0, 1, 3, 5_000]);
        (0..many).map(|_| self.hash()).collect()
    }

    fn epoch(&mut self) -> Epoch {
        let fence = self.desk.peer().view().fence;
        let above = Epoch { counter: fence.counter + 1, class: 12, peer: self.liar.id() };
        self.mostly(above, |scene| {
            let class = *scene.mutation.pick(&[0, 3, 12, 255]);
            let near = Epoch { counter: scene.mutation.number(fence.counter), class, peer: scene.peer() };
            *scene.mutation.pick(&[fence, near])
        })
    }

    /// Signed by the liar itself, or by nobody who would be believed.
    fn claim(&mut self) -> Claim {
        let epoch = Epoch { peer: self.liar.id(), ..self.epoch() };
        let mesh = if self.mutation.once_in(9) { MeshId([1; 32]) } else { self.liar.mesh };
        let seq = self.number(1);
        Claim::sign(&self.liar.key, mesh, epoch, seq)
    }

    fn payload(&mut self) -> Payload {
        if self.mutation.once_in(3) {
            let hash = self.hash();
            return Payload::Blob { hash, len: self.mutation.number(32 * 1024) };
        }
        let bytes = *self.mutation.pick(&[0, 2, 100, limits::INLINE_BYTES_MAX, limits::INLINE_BYTES_MAX + 1, 60_000]);
        Payload::Inline(vec![b'{'; bytes].into())
    }

    fn text(&mut self) -> String {
        let bytes = *self.mutation.pick(&[0, 3, 255, 256, limits::TEXT_BYTES_MAX, limits::TEXT_BYTES_MAX + 1]);
        "\u{e9}".repeat(bytes / 2)
    }

    fn run(&mut self) -> TruncatedRun {
        let (first, last) = (self.mutation.number(1), self.mutation.number(self.liar.seq));
        TruncatedRun { first, last, hash: self.hash(), hlc: self.mutation.number(self.liar.hlc) }
    }

    /// The body of an entry: one with its fields drawn anew, or bytes of a good one changed.
    fn body(&mut self) -> (Kind, Vec<u8>) {
        match self.mutation.below(10) {
            0 | 1 => {
                let what = if self.mutation.once_in(2) {
                    let tier = *self.mutation.pick(&[Tier::Owner, Tier::Shared, Tier::Ephemeral]);
                    let node_id = self.mutation.pick(&["liar", "attic", "new"]).parse().unwrap();
                    ChangeKind::Approved {
                        tier,
                        node_id,
                        after: self.hashes(),
                        unseen: self.mutation.once_in(4),
                        stay: None,
                        of: None,
                    }
                } else {
                    let cutoffs = (0..self.mutation.below(3)).map(|_| (self.incarnation(), self.mutation.number(3)));
                    let cutoffs = cutoffs.collect::<Vec<_>>();
                    ChangeKind::Revoked { cutoffs, left: self.mutation.once_in(2), unsaid: false }
                };
                let grant = self.desk.peer().grant_of(&self.liar.id()).unwrap_or(Hash::ZERO);
                let (subject, grant, stands) = (self.key(), self.mostly(grant, Self::hash), self.hashes());
                let fence = self.number(1);
                (
                    Kind::MEMBERSHIP,
                    encode(&MembershipChange { subject, grant, stands, rights: Vec::new(), fence, what }),
                )
            }
            2 | 3 => {
                let (me, liar) = (self.desk.id(), self.liar.id());
                self.calls += 1;
                let own = ReqId::new(&liar, Incarnation(1), self.calls);
                let call = Header {
                    id: self.mostly(own, Self::id),
                    target: self.mostly(me, Self::peer),
                    arguments: self.mostly(Payload::empty(), Self::payload),
                    ttl_ms: self.number(60_000),
                    timeout_ms: self.number(1_000),
                    accepted_ms: self.number(1_800_000_000_000),
                    rule: self.mostly(String::new(), Self::text),
                    client_key: self.mostly(None, |scene| Some(scene.text())),
                    target_incarnation: self.mostly(None, |scene| Some(scene.incarnation())),
                    ..header(&liar, 1, me)
                };
                self.ids.push(call.id);
                (Kind::CALL, encode(&call))
            }
            4 | 5 => {
                let endings =
                    [Ending::Done, Ending::Failed, Ending::Interrupted, Ending::Expired, Ending::Undeliverable];
                let relayed = Source::Relayed(self.peer());
                let (id, ending) = (self.id(), *self.mutation.pick(&endings));
                let said = Outcome {
                    attempt: self.mostly(1, |scene| *scene.mutation.pick(&[0, 2, 3, 255])),
                    reason: self.mostly(String::new(), Self::text),
                    error: self.mostly(String::new(), Self::text),
                    output: self.mostly(Payload::empty(), Self::payload),
                    at_ms: self.number(1_800_000_000_000),
                    started_ms: self.number(1_800_000_000_000),
                    alias_of: self.mostly(None, |scene| Some(scene.id())),
                    source: self.mostly(Source::Target, |scene| *scene.mutation.pick(&[relayed, Source::Inferred])),
                    ..outcome(id, ending)
                };
                (Kind::OUTCOME, encode(&said))
            }
            6 => {
                let cancel = CancelRequest { id: self.id(), reason: self.text(), expired: self.mutation.once_in(2) };
                (Kind::CANCEL, encode(&cancel))
            }
            7 => {
                let runs = (0..*self.mutation.pick(&[1, 2, 300])).map(|_| self.run()).collect();
                (Kind::TRUNCATION, encode(&Truncation { runs }))
            }
            _ => {
                let (kind, mut body) = self.mutation.pick(&self.bodies).clone();
                self.mutation.bytes(&mut body, &self.pieces);
                (kind, body)
            }
        }
    }

    /// The next entry of the liar's log, or one that does not fit there; `None` if the wire would not let it through.
    fn entry(&mut self) -> Option<SignedEntry> {
        if self.mutation.once_in(8) && !self.sent.is_empty() {
            return Some(self.mutation.pick(&self.sent).clone());
        }
        let (kind, body) = self.body();
        let before = self.liar.clone();
        let odd = self.mutation.once_in(6);
        let (incarnation, audience) = (self.incarnation(), Audience::Call { origin: self.peer(), target: self.peer() });
        let (field, number) = (self.mutation.below(8), self.mutation.number(self.liar.seq));
        let previous = self.hash();
        let entry = self.liar.entry(kind, body, |entry| match field {
            _ if !odd => {}
            0 => entry.seq = number,
            1 => entry.hlc = number,
            2 => entry.kind = Kind(number as u16),
            3 => entry.incarnation = incarnation,
            4 => entry.previous = previous,
            5 => entry.mesh = MeshId(previous.0),
            6 => entry.critical = true,
            _ => entry.audience = audience,
        });
        if odd && !self.mutation.once_in(8) {
            self.liar = before;
        }
        let sealed = entry.sealed();
        let withheld = entry.entry.audience != Audience::Everyone && self.mutation.once_in(6);
        let sealed = if withheld { &[][..] } else { &sealed };
        let entry = SignedEntry::verify(&entry.bytes, entry.signature, sealed, &self.liar.key).ok()?;
        self.hashes.push(entry.hash);
        self.sent.push(entry.clone());
        Some(entry)
    }

    fn items(&mut self) -> Vec<EntryItem> {
        let many = 1 + self.mutation.below(4);
        let entries: Vec<SignedEntry> = (0..many).filter_map(|_| self.entry()).collect();
        let left =
            |mutation: &mut Mutation| mutation.once_in(2).then(|| mutation.number(1_000).min(limits::TTL_MS_MAX));
        entries.into_iter().map(|entry| EntryItem { left_ms: left(&mut self.mutation), entry }).collect()
    }

    fn frame(&mut self) -> Option<Frame> {
        let attempt = 1 + self.mutation.below(3) as u8;
        Some(match self.mutation.below(20) {
            0 => {
                let covered = self.peers().into_iter().collect::<BTreeSet<_>>();
                Frame::Beacon(Beacon {
                    claim: self.claim(),
                    age_ms: self.mutation.number(100),
                    covered: covered.into(),
                })
            }
            1 => Frame::Notice(self.claim()),
            2 => Frame::Resign { epoch: self.epoch(), successor: self.mutation.once_in(2).then(|| self.peer()) },
            3 => Frame::Handover { epoch: self.epoch() },
            4 => Frame::Neighbours { peers: self.peers(), relayed: self.peers() },
            5 => {
                let many = *self.mutation.pick(&[0, 1, 5, 300]);
                let rows = (0..many).map(|_| DigestRow {
                    author: self.peer(),
                    incarnation: self.incarnation(),
                    seq: self.mutation.number(3),
                    stopped: self.mutation.once_in(2),
                });
                let rows = rows.collect();
                Frame::Digest { authors: Authors::ALL, rows, changes: self.hash() }
            }
            6..=11 => Frame::Entries { entries: self.items(), more: self.mutation.once_in(3) },
            12 => {
                let many = *self.mutation.pick(&[0, 1, 5, limits::WANTED_MAX]);
                let places = (0..many).map(|_| {
                    let first = self.mutation.number(1);
                    let last = self.mutation.number(first);
                    Places { author: self.peer(), incarnation: self.incarnation(), first, last }
                });
                Frame::Want(places.collect())
            }
            13 => {
                let seq = self.mutation.number(1);
                let place = Place { author: self.peer(), incarnation: self.incarnation(), seq };
                Frame::Bodies { entries: self.items(), until: self.mutation.once_in(2).then_some(place) }
            }
            14 => Frame::Presence { epoch: self.epoch(), online: self.peers() },
            15 => {
                let state = *self.mutation.pick(&[Phase::Accepted, Phase::Asking, Phase::Queued, Phase::Running]);
                Frame::Progress { id: self.id(), attempt, state, note: limits::cut(&self.text(), 4_096).to_owned() }
            }
            16 | 17 => {
                let left_ms = self.mutation.number(1_000).min(limits::TTL_MS_MAX);
                let before = self.liar.clone();
                let header = self.entry()?;
                self.liar = before; // a dispatch brings nothing into a log
                Frame::Dispatch(Dispatch { claim: self.claim(), header, attempt, left_ms, consents: Vec::new() })
            }
            18 => {
                let what = match self.mutation.below(6) {
                    0 => AnswerKind::Waiting,
                    1 => AnswerKind::Running { note: limits::cut(&self.text(), 4_096).to_owned() },
                    2 => {
                        if self.mutation.once_in(2) {
                            AnswerKind::Busy
                        } else {
                            AnswerKind::Asking
                        }
                    }
                    3 => AnswerKind::Fenced(self.mutation.once_in(2).then(|| self.claim())),
                    4 => AnswerKind::Rejected(limits::cut(&self.text(), 4_096).to_owned()),
                    _ => AnswerKind::Ended(self.entry()?),
                };
                Frame::Answer(Answer { id: self.id(), attempt, what })
            }
            _ => Frame::Cancel { id: self.id() },
        })
    }

    // --- What happens -------------------------------------------------------------------------------------------------

    fn hears(&mut self, frame: Frame) {
        self.received += 200 + size(&frame);
        let from = if self.mutation.once_in(10) { self.target.id() } else { self.liar.id() };
        let out = self.desk.step(Input::Recv(from, frame));
        for output in out {
            if let Output::Invoke(run) = output {
                self.ids.push(run.id);
                self.runs += 1;
                if self.mutation.once_in(2) {
                    self.desk.step(Input::ToolEnded(run.id, run.attempt, done()));
                }
            }
        }
    }

    /// Something else happens in between.
    fn surroundings(&mut self) {
        let liar = self.liar.id();
        let input = match self.mutation.below(14) {
            0 => Input::LinkDown(liar),
            1 | 2 => Input::LinkUp(liar),
            3 => Input::Session(liar, self.mutation.number(7)),
            4 => Input::NodeUp(self.peer(), self.mutation.number(1)),
            5 => Input::NodeDown(self.peer(), self.mutation.number(1)),
            6 => Input::Fetched(self.hash()),
            7 => Input::FetchFailed(self.hash()),
            8 => Input::FetchGone(self.hash()),
            9 => Input::ToolEnded(self.id(), 1, done()),
            10 => {
                let cancel = Command::Cancel { id: self.id(), reason: "enough".to_owned() };
                return drop(self.desk.command(cancel));
            }
            11 => return drop(self.desk.crash()),
            12 => return self.desk.held = !self.desk.held,
            _ => return self.pass(1_000),
        };
        self.desk.step(input);
    }

    /// Time passes, and what is due is done and over.
    fn pass(&mut self, ms: u64) {
        let until = self.desk.now.mono_ms + ms;
        for wakes in 0.. {
            let Some(due) = self.desk.peer().poll_timeout().filter(|due| *due <= until) else { break };
            assert!(wakes < WAKES_MAX, "it wakes again and again at {due}");
            let left = due.saturating_sub(self.desk.now.mono_ms);
            self.desk.pass(left);
            self.desk.step(Input::Wake);
        }
        let left = until.saturating_sub(self.desk.now.mono_ms);
        self.desk.now = Now { mono_ms: self.desk.now.mono_ms + left, wall_ms: self.desk.now.wall_ms + left };
    }

    /// What no frame of one who is no owner may change, and that the peer works.
    fn holds(&mut self, before: &Members, memory: usize) {
        let now = format!("{:?}", self.desk.peer()).len();
        let may = memory + 1024 * 1024 + 24 * self.received;
        assert!(now <= may, "a memory of {memory} became {now} by {} bytes", self.received);
        self.desk.release();
        self.desk.crash();
        self.pass(10_000);
        let view = self.desk.peer().view();
        if self.tier == Tier::Owner {
            return;
        }
        assert_eq!(before.without(&self.liar.id()), members(&self.desk).without(&self.liar.id()));
        assert!(self.desk.peer().leads() && view.halts.is_empty(), "{view:?}");
        let out = self.desk.command(Command::Call(test_kit::call(&self.desk.id(), "append")));
        assert!(out.iter().any(|output| matches!(output, Output::Invoke(_))), "a call of its own runs: {out:?}");
    }
}

/// Members with their tiers.
#[derive(Debug, PartialEq, Eq)]
struct Members(Vec<(PeerId, Tier)>);

impl Members {
    fn without(&self, peer: &PeerId) -> Vec<(PeerId, Tier)> {
        self.0.iter().filter(|(member, _)| member != peer).copied().collect()
    }
}

fn members(desk: &Desk) -> Members {
    Members(desk.peer().view().nodes.iter().map(|node| (node.peer, node.tier)).collect())
}

fn size(frame: &Frame) -> usize {
    let items = |entries: &[EntryItem]| entries.iter().map(|item| 600 + item.entry.len()).sum();
    match frame {
        Frame::Entries { entries, .. } | Frame::Bodies { entries, .. } => items(entries),
        Frame::Dispatch(dispatch) => 600 + dispatch.header.len(),
        Frame::Answer(Answer { what: AnswerKind::Ended(entry), .. }) => 600 + entry.len(),
        Frame::Neighbours { peers, .. } | Frame::Presence { online: peers, .. } => 32 * peers.len(),
        Frame::Beacon(beacon) => 32 * beacon.covered.len(),
        Frame::Digest { rows, .. } => 48 * rows.len(),
        Frame::Want(places) => 56 * places.len(),
        Frame::Progress { note, .. } => note.len(),
        Frame::Answer(_)
        | Frame::Query
        | Frame::Notice(_)
        | Frame::Resign { .. }
        | Frame::Handover { .. }
        | Frame::Cancel { .. } => 0,
    }
}

#[test]
fn fuzz_frames_are_survived() {
    let scene = Scene::new();
    let (taken, runs, led) = (Cell::new(0), Cell::new(0), Cell::new(0));
    fuzz("frames", 500 / SESSION, &[], |case| {
        let mut scene = scene.of(case);
        let before = members(&scene.desk);
        let memory = format!("{:?}", scene.desk.peer()).len();
        for _ in 0..SESSION {
            if scene.mutation.once_in(3) {
                scene.surroundings();
            }
            if let Some(frame) = scene.frame() {
                scene.hears(frame);
            }
        }
        let liar = scene.liar.id();
        let gateway = scene.desk.peer().view().gateway;
        taken.set(taken.get() + scene.desk.machine.disk.logs_of(&liar).count());
        runs.set(runs.get() + scene.runs);
        led.set(led.get() + usize::from(gateway.is_some_and(|epoch| epoch.peer == liar)));
        scene.holds(&before, memory);
    });
    println!("{} entries taken, {} runs begun, led {} times", taken.get(), runs.get(), led.get());
}

// --- Stored rows --------------------------------------------------------------------------------------------------------

type StoredRow = (Space, Vec<u8>, Bytes);

fn space_of(name: &str) -> Space {
    Space::ALL.into_iter().find(|space| space.name() == name).unwrap()
}

/// The rows of a device that has lived.
fn stored() -> Vec<StoredRow> {
    let rows = fixture("store.txt").into_iter().map(|(space, words)| {
        let value = words.get(1).cloned().unwrap_or_default();
        (space_of(&space), words[0].clone(), value.into())
    });
    rows.collect()
}

/// Changes one to four rows: their values, their keys, or which there are.
fn damage(rows: &mut Vec<StoredRow>, mutation: &mut Mutation, pool: &[Vec<u8>]) {
    for _ in 0..=mutation.below(4) {
        let (at, other) = (mutation.below(rows.len()), mutation.below(rows.len()));
        match mutation.below(10) {
            0..=5 => {
                let mut value = rows[at].2.to_vec();
                mutation.bytes(&mut value, pool);
                rows[at].2 = value.into();
            }
            6 => mutation.bytes(&mut rows[at].1, pool),
            7 => rows[at].2 = rows[other].2.clone(),
            8 => rows[at].1 = rows[other].1.clone(),
            _ => drop(rows.remove(at)),
        }
    }
}

#[test]
fn fuzz_stored_rows_start_or_are_named() {
    let golden = stored();
    let pool: Vec<Vec<u8>> = golden.iter().map(|(_, _, value)| value.to_vec()).collect();
    let honest = Symbolic::new(1);
    let (started, refused) = (Cell::new(0), Cell::new(0));
    fuzz("rows", 250, &[], |case| {
        let mut mutation = Mutation::new(case);
        let mut rows = golden.clone();
        damage(&mut rows, &mut mutation, &pool);
        let rows: BTreeMap<_, _> = rows.into_iter().map(|(space, key, value)| ((space, key), value)).collect();
        let image = rows.iter().filter(|((space, _), _)| space.in_image());
        let image = image.map(|((space, key), value)| (*space, key.clone(), value.clone())).collect();
        let image = Image { rows: image, rolled_back: mutation.once_in(10) };
        let (mut rng, mut out) = (ChaCha8Rng::seed_from_u64(case), Vec::new());
        let now = at(LATER_MS);
        match Peer::boot(Config::default(), Box::new(honest.clone()), image, now, &mut rng, &mut out) {
            Ok(_) => started.set(started.get() + 1),
            Err(BootError::NoMesh) => return refused.set(refused.get() + 1),
            Err(BootError::Damaged(what)) => {
                refused.set(refused.get() + 1);
                assert!(!what.is_empty());
                return;
            }
            Err(error) => panic!("{error}"),
        }
        let writes = rows.into_iter().map(|((space, key), value)| Write { space, key, value: Some(value) }).collect();
        let machine = Machine::new(honest.clone(), Config::default(), &Batch { writes, sync: true });
        let mut desk = Desk::started(machine, now);
        for peer in [0, 2, 9] {
            desk.step(Input::LinkUp(test_kit::id(peer)));
        }
        let calls: Vec<ReqId> = desk.peer().open_calls().map(|call| call.header.id).collect();
        for id in calls.into_iter().take(3) {
            desk.command(Command::Cancel { id, reason: String::new() });
        }
        let new = NewCall { client_key: Some("order-7".to_owned()), ..test_kit::call("peer-1", "echo") };
        desk.command(Command::Call(new));
        let digest = Frame::Digest { authors: Authors::ALL, rows: Vec::new(), changes: Hash::ZERO };
        desk.step(Input::Recv(test_kit::id(0), digest));
        desk.pass(2_000);
        // And once more, from what it has made of them.
        desk.crash();
        let _ = desk.peer().view();
    });
    println!("{} started, {} refused", started.get(), refused.get());
}

// --- Welcomes -----------------------------------------------------------------------------------------------------------

/// Bytes of an entry, changed, as what somebody signed.
fn changed(entry: &SignedEntry, mutation: &mut Mutation, pool: &[Vec<u8>]) -> Option<SignedEntry> {
    let (mut bytes, mut sealed) = (entry.bytes.to_vec(), entry.sealed().to_vec());
    if mutation.once_in(2) {
        mutation.bytes(&mut bytes, pool);
    } else {
        mutation.bytes(&mut sealed, pool);
    }
    SignedEntry::trusted(&bytes, entry.signature, &sealed).ok()
}

#[test]
fn fuzz_welcomes_are_taken_up_or_refused() {
    let mut honest = Honest::new();
    let newcomer = Symbolic::new(7);
    let node_id = "bureau".parse().unwrap();
    let approve = Command::Approve { key: newcomer.public_key(), node_id, tier: Tier::Shared, stay: None };
    let golden = honest.approve(approve);
    let entries: Vec<SignedEntry> = golden.trust.iter().chain(&golden.directory).cloned().collect();
    let pool: Vec<Vec<u8>> = entries.iter().flat_map(|entry| [entry.bytes.to_vec(), entry.sealed().to_vec()]).collect();
    let now = honest.now;
    fuzz("welcomes", 125, &[], |case| {
        let mut mutation = Mutation::new(case);
        let mut welcome: Welcome = golden.clone();
        for _ in 0..=mutation.below(4) {
            let list = if mutation.once_in(3) { &mut welcome.directory } else { &mut welcome.trust };
            let at = mutation.below(list.len() + 1);
            let entry = mutation.pick(&entries).clone();
            let entry = if mutation.once_in(4) { Some(entry) } else { changed(&entry, &mut mutation, &pool) };
            match (mutation.below(8), entry) {
                (0, _) if at < list.len() => drop(list.remove(at)),
                (1, _) => list.reverse(),
                (2, _) => welcome.fence.epoch.counter = mutation.number(welcome.fence.epoch.counter),
                (3, _) => {
                    let epoch = Epoch { counter: mutation.number(1), class: 3, peer: newcomer.public_key().peer_id() };
                    let proof = Some(Claim::sign(&newcomer, welcome.mesh, epoch, 1));
                    welcome.fence = Fence { epoch, proof };
                }
                (_, Some(entry)) if at < list.len() && mutation.once_in(2) => list[at] = entry,
                (_, Some(entry)) => list.insert(at, entry),
                (_, None) => {}
            }
        }
        let mut rng = ChaCha8Rng::seed_from_u64(case);
        let config = Config::default();
        let taken = joined(&welcome, Some(golden.mesh), &config, Box::new(newcomer.clone()), now, &mut rng);
        match taken {
            Ok(taken) => {
                let mut desk = Desk::started(Machine::new(newcomer.clone(), config, &taken.rows), now);
                assert_eq!(desk.peer().view().mesh, golden.mesh);
                assert!(desk.peer().tier(&desk.id()).is_some());
                desk.pass(1_000);
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
}
