//! A member that lies, against one honest peer.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may stop at what it did not expect")]

mod budgets;
mod fuzz;
mod merge;
mod rates;
mod standing;
mod stays;
mod truncation;
mod unpaid;

use std::ops::{Deref, DerefMut};

use mesh_core::audience::Audience;
use mesh_core::config::Config;
use mesh_core::crypto::{Signer as _, Symbolic};
use mesh_core::entry::{Entry, Kind, SignedEntry, encode};
use mesh_core::epoch::{Claim, Epoch};
use mesh_core::frame::{Answer, AnswerKind, Authors, Beacon, Dispatch, Frame, Phase};
use mesh_core::ids::{Hash, Incarnation, MeshId, PeerId, ReqId};
use mesh_core::io::{CallState, Command, Edit, Fact, Input, NewCall, Now, Output, Refusal, Reply, Space};
use mesh_core::limits;
use mesh_core::policy::{Binding, Choice, Consent, Key, Note, Person, Role, Rule, RuleVerdict, Value, Workspace};
use mesh_core::protocol_rule::ProtocolRules;
use mesh_core::record::{
    CancelRequest, ChangeKind, Directory, Effect, Ending, Header, MembershipChange, Outcome, Payload, Tier, ToolDecl,
};
use mesh_core::rows;
use mesh_core::test_kit::{self, Author, Desk, offers, outcome, pushed, tool};

const YEAR_MS: u64 = 365 * 24 * 3600 * 1000;

/// Settings of honest peers.
fn config() -> Config {
    #[cfg(feature = "mutants")]
    let rules = budgets::left_out::LEFT_OUT.get().map(ProtocolRules::all_but).unwrap_or_default();
    #[cfg(not(feature = "mutants"))]
    let rules = ProtocolRules::default();
    Config { rules, ..Config::default() }
}

/// An honest peer that founded the mesh and leads it.
struct Honest(Desk);

impl Deref for Honest {
    type Target = Desk;

    fn deref(&self) -> &Desk {
        &self.0
    }
}

impl DerefMut for Honest {
    fn deref_mut(&mut self) -> &mut Desk {
        &mut self.0
    }
}

impl Honest {
    fn new() -> Self {
        let now = Now { mono_ms: 1_000_000, wall_ms: 1_800_000_000_000 };
        let mut honest = Self(Desk::founder(Symbolic::new(0), now));
        honest.machine.config = config();
        if honest.machine.config.rules != ProtocolRules::default() {
            honest.crash();
        }
        honest.ask(Command::SetDirectory(offers(vec![tool("append", Effect::Once)])));
        honest.pass(4_000);
        assert!(honest.peer().leads());
        honest
    }

    /// A member that may write whatever it likes.
    fn author(&self, n: u64) -> Author {
        Author::new(Symbolic::new(n), self.peer().view().mesh, self.now)
    }

    /// Approves a member and links to it.
    fn admit(&mut self, author: &Author, tier: Tier) {
        let node_id = format!("n{}", author.id().short()).parse().unwrap();
        self.approve(Command::Approve { key: author.public_key(), node_id, tier, stay: None });
        self.step(Input::LinkUp(author.id()));
    }

    fn hears(&mut self, from: &Author, frame: Frame) -> Vec<Output> {
        self.step(Input::Recv(from.id(), frame))
    }

    /// A call of our own for another peer.
    fn call(&mut self, node: &PeerId) -> ReqId {
        let new = NewCall { timeout_ms: 60_000, ..test_kit::call(node, "append") };
        let reply = self.ask(Command::Call(new));
        let Reply::Call { id, .. } = reply else { panic!("{reply:?}") };
        id
    }

    fn state(&self, id: &ReqId) -> Option<CallState> {
        self.peer().open_call(id).map(|record| record.state)
    }

    /// Rows of the log that it holds, of all authors.
    fn log_rows(&self) -> usize {
        self.machine.disk.state().keys(Space::Log).count()
    }
}

fn offers_append(author: &mut Author) -> SignedEntry {
    author.says(Kind::DIRECTORY, encode(&offers(vec![tool("append", Effect::Once)])))
}

fn header(origin: &PeerId, counter: u64, target: PeerId) -> Header {
    test_kit::header(origin, counter, target, "append")
}

/// Three peers: the honest one, a member that lies, and the target of a call.
fn scene() -> (Honest, Author, Author) {
    let mut honest = Honest::new();
    let (liar, mut target) = (honest.author(1), honest.author(2));
    honest.admit(&liar, Tier::Shared);
    honest.admit(&target, Tier::Shared);
    let directory = offers_append(&mut target);
    honest.hears(&target, pushed(directory));
    (honest, liar, target)
}

#[test]
fn only_target_origin_and_owners_may_end_a_call() {
    let (mut honest, mut liar, mut target) = scene();
    let id = honest.call(&target.id());
    let made_up = liar.says(Kind::OUTCOME, encode(&outcome(id, Ending::Done)));
    honest.hears(&liar, pushed(made_up));
    assert!(matches!(honest.state(&id), Some(CallState::Open(_))), "by the log");
    let made_up = liar.says(Kind::OUTCOME, encode(&outcome(id, Ending::Cancelled)));
    let answer = Answer { id, attempt: 1, what: AnswerKind::Ended(made_up) };
    honest.hears(&liar, Frame::Answer(answer));
    assert!(matches!(honest.state(&id), Some(CallState::Open(_))), "by an answer");
    let cancel = CancelRequest { id, reason: String::new(), expired: false };
    let cancel = liar.says(Kind::CANCEL, encode(&cancel));
    honest.hears(&liar, pushed(cancel));
    assert!(matches!(honest.state(&id), Some(CallState::Open(_))), "by a cancel request");
    // The target may.
    let real = target.says(Kind::OUTCOME, encode(&outcome(id, Ending::Done)));
    let out = honest.hears(&target, pushed(real));
    assert!(out.contains(&Output::Fact(Fact::CallEnded(id))));
}

#[test]
fn k1_a_halted_device_begins_nothing() {
    let mut honest = Honest::new();
    let mut owner = honest.author(1);
    honest.admit(&owner, Tier::Owner);
    let me = honest.peer().view().me;
    honest.hears(&owner, Frame::Digest { authors: Authors::ALL, rows: Vec::new(), changes: Hash::ZERO });
    let led = honest.peer().view().gateway.unwrap().counter;
    let claim = Claim::sign(&owner.key, owner.mesh, Epoch { counter: led + 1, class: 15, peer: owner.id() }, 1);
    let runs = |honest: &mut Honest, owner: &mut Author, counter| {
        let call = header(&owner.id(), counter, me);
        let header = owner.says(Kind::CALL, encode(&call));
        let mut out = honest.hears(owner, pushed(header.clone()));
        let sent = Dispatch { claim: claim.clone(), header, attempt: 1, left_ms: 60_000, consents: Vec::new() };
        out.extend(honest.hears(owner, Frame::Dispatch(sent)));
        out.iter().any(|output| matches!(output, Output::Invoke(run) if run.id == call.id))
    };
    assert!(runs(&mut honest, &mut owner, 1));
    let critical = owner.entry(Kind(999), Vec::new(), |entry| entry.critical = true);
    honest.hears(&owner, pushed(critical));
    assert_eq!(honest.peer().view().halts.len(), 1, "it does not know what is asked of it");
    assert!(!runs(&mut honest, &mut owner, 2));
}

#[test]
fn s03_a_forged_yes_of_who_speaks_for_nobody_counts_for_nothing() {
    let mut honest = Honest::new();
    let mut panel = honest.author(1);
    honest.admit(&panel, Tier::Shared);
    let me = honest.peer().view().me;
    let asks =
        Rule { who: Some(vec!["everyone".parse().unwrap()]), wait_ms: Some(20_000), ..Rule::of(RuleVerdict::Ask) };
    let changes = vec![
        (Key::Person("mia".parse().unwrap()), Some(Value::Person(Person::default()))),
        (Key::Workspace("home".parse().unwrap()), Some(Value::Workspace(Workspace::default()))),
        (Key::Member("home".parse().unwrap(), "mia".parse().unwrap()), Some(Value::Member(Role::Member))),
        (Key::Binding("home".parse().unwrap(), "main".parse().unwrap()), Some(Value::Binding(Binding::default()))),
        (Key::Rule("home/asks".parse().unwrap()), Some(Value::Rule(asks))),
    ];
    let by = "person:owner".parse().unwrap();
    let edited = honest.ask(Command::Edit(Edit { by, changes, declared: false, force: false, seen: Vec::new() }));
    assert!(matches!(edited, Reply::Edited { .. }), "{edited:?}");
    let new =
        NewCall { principal: Some("person:mia".parse().unwrap()), ttl_ms: 20_000, ..test_kit::call(&me, "append") };
    let Reply::Call { id, .. } = honest.ask(Command::Call(new)) else { panic!("not taken") };
    honest.pass(500);
    assert!(honest.peer().approvals().iter().any(|approval| approval.id == id));
    let log = honest.machine.disk.scan(Space::Log, Vec::new(), vec![u8::MAX; 45]);
    let headers = log.filter_map(|(_, row)| SignedEntry::from_stored(row));
    let header = headers.filter(|entry| entry.header().is_some_and(|own| own.id == id)).map(|entry| entry.hash).next();
    let header = header.unwrap();
    let consent = Consent {
        choice: Choice::Once { call: id, header },
        by: "owner".parse().unwrap(),
        of: vec!["home/asks".parse().unwrap()],
        note: Note::default(),
    };
    let ends = Audience::Call { origin: me, target: me };
    let forged = panel.entry(Kind::CONSENT, encode(&consent), |entry| entry.audience = ends);
    let mut out = honest.hears(&panel, pushed(forged));
    out.extend(honest.pass(1_000));
    assert!(!out.iter().any(|output| matches!(output, Output::Invoke(run) if run.id == id)), "{out:?}");
    assert!(honest.peer().approvals().iter().any(|approval| approval.id == id), "it waits for who may say so");
}

#[test]
fn an_outcome_made_up_before_its_call_counts_no_more_than_after() {
    let (mut honest, mut liar, mut target) = scene();
    // Ids are not secret: the next one of anybody can be guessed.
    let call = header(&target.id(), 1, honest.peer().view().me);
    let made_up = liar.says(Kind::OUTCOME, encode(&outcome(call.id, Ending::Done)));
    honest.hears(&liar, pushed(made_up));
    let entry = target.says(Kind::CALL, encode(&call));
    let out = honest.hears(&target, pushed(entry));
    assert!(out.iter().any(|o| matches!(o, Output::Invoke(call_run) if call_run.id == call.id)), "{out:?}");
}

#[test]
fn outcomes_of_calls_that_never_come_do_not_block_those_that_do() {
    let (mut honest, mut liar, mut target) = scene();
    for counter in 0..3 * limits::EARLY_OUTCOMES_MAX as u64 {
        let id = ReqId::new(&liar.id(), Incarnation(9), counter);
        let large = Outcome { error: "x".repeat(20_000), ..outcome(id, Ending::Done) };
        let made_up = liar.says(Kind::OUTCOME, encode(&large));
        honest.hears(&liar, pushed(made_up));
    }
    let kept = honest.machine.disk.state().keys(Space::Open).count();
    assert!(kept * 20_000 <= limits::EARLY_BYTES_MAX, "{kept}");
    // A call of a third peer ends before its header comes here.
    let (call, executor) = (header(&target.id(), 1, liar.id()), liar.id());
    assert_eq!(call.target, executor);
    let real = liar.says(Kind::OUTCOME, encode(&outcome(call.id, Ending::Done)));
    honest.hears(&liar, pushed(real));
    let entry = target.says(Kind::CALL, encode(&call));
    let out = honest.hears(&target, pushed(entry));
    assert!(out.contains(&Output::Fact(Fact::CallEnded(call.id))));
}

#[test]
fn s05_early_outcomes_of_one_author_do_not_evict_those_of_others() {
    let (mut honest, mut liar, mut target) = scene();
    // The target's ending, and the origin's cancel request for another call, come before the headers that they are
    // about.
    let (ended, stopped) = (header(&target.id(), 1, target.id()), header(&target.id(), 2, target.id()));
    let real = target.says(Kind::OUTCOME, encode(&outcome(ended.id, Ending::Done)));
    honest.hears(&target, pushed(real));
    let cancel = CancelRequest { id: stopped.id, reason: "enough".to_owned(), expired: false };
    let cancel = target.says(Kind::CANCEL, encode(&cancel));
    honest.hears(&target, pushed(cancel));
    for counter in 0..3 * limits::EARLY_OUTCOMES_MAX as u64 {
        let id = ReqId::new(&liar.id(), Incarnation(9), counter);
        let made_up = liar.says(Kind::OUTCOME, encode(&outcome(id, Ending::Done)));
        honest.hears(&liar, pushed(made_up));
        let cancel = CancelRequest { id, reason: String::new(), expired: false };
        let made_up = liar.says(Kind::CANCEL, encode(&cancel));
        honest.hears(&liar, pushed(made_up));
        if counter == 100 {
            honest.crash();
            honest.step(Input::LinkUp(liar.id()));
            honest.step(Input::LinkUp(target.id()));
        }
    }
    let kept = honest.machine.disk.state().keys(Space::Open).count();
    assert!(kept <= 2 * limits::EARLY_OUTCOMES_MAX + 1, "{kept}");
    for call in [&ended, &stopped] {
        let entry = target.says(Kind::CALL, encode(call));
        honest.hears(&target, pushed(entry));
    }
    assert_eq!(honest.state(&ended.id), None, "it is over");
    let row = honest.machine.disk.applied_row(&rows::call(&ended.id)).unwrap();
    assert_eq!((row.state, row.confirmed), (CallState::Ended(Ending::Done), true));
    let open = honest.machine.disk.applied_row(&rows::open_call(&stopped.id)).unwrap();
    assert!(open.cancel.is_some(), "it is to be stopped");
}

#[test]
fn s17_whoever_shows_itself_all_the_time_is_not_asked_for_bodies_all_the_time() {
    let (mut honest, liar, mut target) = scene();
    let call = header(&target.id(), 1, liar.id());
    let withheld = target.says(Kind::CALL, encode(&call)).without_body();
    honest.step(Input::LinkDown(target.id()));
    honest.hears(&liar, pushed(withheld));
    let mut wanted = 0;
    for _ in 0..200 {
        let digest = Frame::Digest { authors: Authors::ALL, rows: Vec::new(), changes: Hash::ZERO };
        let mut out = honest.hears(&liar, digest);
        out.extend(honest.hears(&liar, Frame::Bodies { entries: Vec::new(), until: None }));
        out.extend(honest.pass(20));
        wanted += out.iter().filter(|o| matches!(o, Output::Send(to, Frame::Want(_)) if *to == liar.id())).count();
    }
    assert!((2..=6).contains(&wanted), "{wanted} times in four seconds");
}

#[test]
fn only_the_gateway_tells_how_a_call_stands() {
    let (mut honest, liar, target) = scene();
    let id = honest.call(&target.id());
    let before = honest.state(&id);
    let running = Frame::Progress { id, attempt: 3, state: Phase::Running, note: "honestly".to_owned() };
    honest.hears(&liar, running);
    assert_eq!(honest.state(&id), before);
}

#[test]
fn a_header_over_the_limits_or_of_another_origin_is_kept_but_not_acted_on() {
    let (mut honest, mut liar, target) = scene();
    let me = honest.peer().view().me;
    let good = header(&liar.id(), 1, me);
    let with = |change: fn(&mut Header)| {
        let mut bad = good.clone();
        change(&mut bad);
        bad
    };
    let huge = Payload::Blob { hash: Hash::of(b"x"), len: 1 << 40 };
    let bad = [
        with(|h| h.ttl_ms = u64::MAX),
        with(|h| h.ttl_ms = 0),
        with(|h| h.timeout_ms = u64::MAX),
        with(|h| h.rule = "p".repeat(10_000)),
        with(|h| h.client_key = Some(String::new())),
        Header { arguments: huge, ..good.clone() },
        header(&target.id(), 1, me),
        header(&me, 1, me),
    ];
    for header in bad {
        let entry = liar.says(Kind::CALL, encode(&header));
        let before = honest.log_rows();
        let out = honest.hears(&liar, pushed(entry));
        assert_eq!(honest.state(&header.id), None, "{header:?}");
        assert!(!out.iter().any(|o| matches!(o, Output::Invoke(_) | Output::Fetch { .. })), "{out:?}");
        assert_eq!(honest.log_rows(), before + 1, "its log goes on");
    }
    let entry = liar.says(Kind::CALL, encode(&good));
    let out = honest.hears(&liar, pushed(entry));
    assert!(out.iter().any(|o| matches!(o, Output::Invoke(_))), "a good one runs: {out:?}");
}

#[test]
fn a_result_that_cannot_be_is_not_fetched() {
    let (mut honest, _, mut target) = scene();
    let id = honest.call(&target.id());
    let output = Payload::Blob { hash: Hash::of(b"x"), len: limits::RESULT_BYTES_MAX + 1 };
    let huge = Outcome { output, ..outcome(id, Ending::Done) };
    let entry = target.says(Kind::OUTCOME, encode(&huge));
    let out = honest.hears(&target, pushed(entry));
    assert!(!out.iter().any(|o| matches!(o, Output::Fetch { .. })), "{out:?}");
    assert!(matches!(honest.state(&id), Some(CallState::Open(_))));
}

#[test]
fn a_clock_a_year_ahead_moves_nobody_elses() {
    let (mut honest, mut liar, target) = scene();
    let year = (honest.now.wall_ms + YEAR_MS) << 16;
    for hlc in [year, u64::MAX] {
        let entry = liar.entry(Kind(999), Vec::new(), |entry| entry.hlc = hlc);
        honest.hears(&liar, pushed(entry));
    }
    let new = honest.author(3);
    let reply = honest.ask(Command::Approve {
        key: new.public_key(),
        node_id: "new".parse().unwrap(),
        tier: Tier::Shared,
        stay: None,
    });
    let Reply::Approved(welcome) = reply else { panic!("{reply:?}") };
    let latest = welcome.trust.iter().map(|entry| entry.entry.hlc >> 16).max().unwrap();
    assert!(latest <= honest.now.wall_ms + 61_000, "{latest}");
    let id = honest.call(&target.id());
    assert!(honest.state(&id).is_some());
}

#[test]
fn approvals_of_one_who_may_not_neither_count_nor_stand_in_the_way() {
    let (mut honest, mut liar, target) = scene();
    let new = honest.author(3);
    let grant = honest.peer().grant_of(&liar.id()).unwrap();
    let says = |subject: &Author, what| {
        encode(&MembershipChange {
            subject: subject.public_key(),
            grant,
            stands: Vec::new(),
            rights: Vec::new(),
            fence: 0,
            what,
        })
    };
    let owner = |name: &str| ChangeKind::Approved {
        tier: Tier::Owner,
        node_id: name.parse().unwrap(),
        after: Vec::new(),
        unseen: false,
        stay: None,
        of: None,
    };
    let out = ChangeKind::Revoked { cutoffs: Vec::new(), left: false, unsaid: false };
    for body in [says(&new, owner("new")), says(&target, out), says(&target, owner("target"))] {
        let entry = liar.says(Kind::MEMBERSHIP, body);
        honest.hears(&liar, pushed(entry));
    }
    let view = honest.peer().view();
    assert_eq!(view.nodes.len(), 3);
    assert!(view.nodes.iter().all(|node| node.tier == Tier::Shared || node.peer == view.me));
    honest.admit(&new, Tier::Shared);
    // Out, in again, and then more trusted than before: each is a later change than the one before.
    let revoked = honest.ask(Command::Revoke { peer: target.id(), unsaid: false });
    assert_eq!(revoked, Reply::Revoked);
    for tier in [Tier::Shared, Tier::Owner] {
        honest.admit(&target, tier);
        let tier_now = honest.peer().view().nodes.iter().find(|node| node.peer == target.id()).map(|node| node.tier);
        assert_eq!(tier_now, Some(tier));
    }
}

#[test]
fn entries_out_of_their_place_are_not_taken() {
    let (mut honest, mut liar, target) = scene();
    let held = honest.log_rows();
    let (seq, previous) = (liar.seq, liar.previous);
    let refused = |liar: &mut Author, honest: &mut Honest, change: &dyn Fn(&mut Entry)| {
        (liar.seq, liar.previous) = (seq, previous);
        let entry = liar.entry(Kind(999), vec![1], change);
        let out = honest.hears(liar, pushed(entry));
        assert_eq!(honest.log_rows(), held, "{out:?}");
        out
    };
    refused(&mut liar, &mut honest, &|entry| entry.mesh = MeshId([7; 32]));
    let stranger = Symbolic::new(77).public_key();
    refused(&mut liar, &mut honest, &|entry| entry.author = stranger);
    let asked = refused(&mut liar, &mut honest, &|entry| entry.seq += 5);
    assert!(asked.iter().any(|o| matches!(o, Output::Send(_, Frame::Digest { .. }))), "a gap is asked about");
    refused(&mut liar, &mut honest, &|entry| entry.previous = Hash::of(b"another"));

    // In its place it is taken, although nobody knows what it is, and goes on to those who lack it.
    (liar.seq, liar.previous) = (seq, previous);
    let entry = liar.says(Kind(999), vec![1]);
    let out = honest.hears(&liar, pushed(entry.clone()));
    assert_eq!(honest.log_rows(), held + 1);
    let relayed =
        |o: &Output| matches!(o, Output::Send(to, frame) if *to == target.id() && *frame == pushed(entry.clone()));
    assert!(out.iter().any(relayed), "{out:?}");

    // A second one for the same place is not, and is told of.
    (liar.seq, liar.previous) = (seq, previous);
    let fork = liar.says(Kind(999), vec![2]);
    let out = honest.hears(&liar, pushed(fork));
    assert_eq!(honest.log_rows(), held + 1);
    assert!(out.iter().any(|o| matches!(o, Output::Fact(Fact::Warning(..)))), "{out:?}");
}

#[test]
fn nobody_leads_who_may_not_nor_from_too_far_ahead() {
    let (mut honest, liar, _) = scene();
    let led = honest.peer().view().gateway.unwrap();
    let claim =
        |liar: &Author, counter| Claim::sign(&liar.key, liar.mesh, Epoch { counter, class: 12, peer: liar.id() }, 1);
    let beacon = |claim| Frame::Beacon(Beacon { claim, age_ms: 0, covered: std::sync::Arc::default() });
    let far = 1_000_000_000;
    for counter in [led.counter + 1, far, u64::MAX] {
        honest.hears(&liar, beacon(claim(&liar, counter)));
        honest.hears(&liar, Frame::Notice(claim(&liar, counter)));
    }
    assert_eq!(honest.peer().view().gateway, Some(led));
    // An owner may lead, though not from beyond what a mesh can have seen.
    let owner = honest.author(3);
    honest.admit(&owner, Tier::Owner);
    for counter in [far, u64::MAX] {
        honest.hears(&owner, beacon(claim(&owner, counter)));
        honest.hears(&owner, Frame::Notice(claim(&owner, counter)));
    }
    assert_eq!(honest.peer().view().gateway, Some(led));
    assert_eq!(honest.peer().view().fence, led);
    // Nor may anybody end or hand over the epoch of another.
    honest.hears(&owner, Frame::Resign { epoch: led, successor: Some(owner.id()) });
    honest.hears(&owner, Frame::Handover { epoch: led });
    assert_eq!(honest.peer().view().gateway, Some(led));
}

#[test]
fn s25_what_an_owner_claimed_in_another_mesh_leads_nobody_here() {
    let mut honest = Honest::new();
    let owner = honest.author(3);
    honest.admit(&owner, Tier::Owner);
    let led = honest.peer().view().gateway.unwrap();
    let epoch = Epoch { counter: led.counter + 1, class: 12, peer: owner.id() };
    let former = Claim::sign(&owner.key, MeshId([9; 32]), epoch, 1);
    let beacon =
        |claim: &Claim| Frame::Beacon(Beacon { claim: claim.clone(), age_ms: 0, covered: std::sync::Arc::default() });
    let mut call = honest.author(4);
    honest.admit(&call, Tier::Shared);
    let header = call.says(Kind::CALL, encode(&header(&call.id(), 1, honest.id())));
    honest.hears(&owner, Frame::Digest { authors: Authors::ALL, rows: Vec::new(), changes: Hash::ZERO });
    honest.hears(&owner, beacon(&former));
    honest.hears(&owner, Frame::Notice(former.clone()));
    let fenced = Answer { id: ReqId([0; 16]), attempt: 1, what: AnswerKind::Fenced(Some(former.clone())) };
    honest.hears(&owner, Frame::Answer(fenced));
    let dispatch = Dispatch { claim: former, header, attempt: 1, left_ms: 60_000, consents: Vec::new() };
    let out = honest.hears(&owner, Frame::Dispatch(dispatch));
    assert!(!out.iter().any(|o| matches!(o, Output::Invoke(_))), "{out:?}");
    let view = honest.peer().view();
    assert_eq!((view.gateway, view.fence), (Some(led), led));
    // The same in this mesh is followed.
    honest.hears(&owner, beacon(&Claim::sign(&owner.key, owner.mesh, epoch, 1)));
    assert_eq!(honest.peer().view().gateway, Some(epoch));
}

const KEY: &str = "nightly-1";

fn keyed(node: &(impl ToString + ?Sized), tool: &str) -> Command {
    Command::Call(NewCall { client_key: Some(KEY.to_owned()), ..test_kit::call(node, tool) })
}

fn keyed_header(origin: &Author, counter: u64, target: PeerId, tool: &str) -> Header {
    let arguments = Payload::Inline(bytes::Bytes::from_static(b"{}"));
    let client_key = Some(KEY.to_owned());
    Header { client_key, arguments, ..test_kit::header(&origin.id(), counter, target, tool) }
}

/// The call that this command made, which must be a new one.
fn made(honest: &mut Honest, command: Command) -> ReqId {
    let reply = honest.ask(command);
    let Reply::Call { id, created: true } = reply else { panic!("{reply:?}") };
    assert!(id.is_of(&honest.id()));
    id
}

#[test]
fn s04_a_shared_device_answers_no_owners_script_by_its_key() {
    let (mut honest, mut liar, _) = scene();
    let directory = offers_append(&mut liar);
    honest.hears(&liar, pushed(directory));
    // A call of its own, for itself, and what it says came of it.
    let call = keyed_header(&liar, 1, liar.id(), "append");
    let entry = liar.says(Kind::CALL, encode(&call));
    honest.hears(&liar, pushed(entry));
    let forged = liar.says(Kind::OUTCOME, encode(&outcome(call.id, Ending::Done)));
    honest.hears(&liar, pushed(forged));
    let any = made(&mut honest, keyed("any", "append"));
    assert_ne!(any, call.id);
    // The same of its owner's own next question.
    assert_eq!(honest.ask(keyed("any", "append")), Reply::Call { id: any, created: false });
}

#[test]
fn s04_a_call_that_is_denied_takes_no_key() {
    let (mut honest, mut liar, _) = scene();
    let me = honest.id();
    let lamp = ToolDecl { owner_only: true, ..tool("lamp", Effect::Once) };
    honest.ask(Command::SetDirectory(offers(vec![lamp])));
    let call = keyed_header(&liar, 1, me, "lamp");
    let entry = liar.says(Kind::CALL, encode(&call));
    let out = honest.hears(&liar, pushed(entry));
    assert!(!out.iter().any(|o| matches!(o, Output::Invoke(_))), "{out:?}");
    let out = honest.command(keyed(&me, "lamp"));
    assert!(out.iter().any(|o| matches!(o, Output::Invoke(run) if run.origin == me)), "{out:?}");
    // Nor does one of an owner that the target's own tools deny.
    let mut owner = honest.author(3);
    honest.admit(&owner, Tier::Owner);
    let call = Header { client_key: Some("k2".to_owned()), ..keyed_header(&owner, 1, me, "gone") };
    let entry = owner.says(Kind::CALL, encode(&call));
    honest.hears(&owner, pushed(entry));
    let new = NewCall { client_key: Some("k2".to_owned()), ..test_kit::call(&me, "lamp") };
    let out = honest.command(Command::Call(new));
    assert!(out.iter().any(|o| matches!(o, Output::Invoke(run) if run.origin == me)), "{out:?}");
}

#[test]
fn s04_a_key_of_a_shared_device_is_refused_to_nobody_else() {
    let (mut honest, mut liar, target) = scene();
    let call = keyed_header(&liar, 1, target.id(), "append");
    let entry = liar.says(Kind::CALL, encode(&call));
    honest.hears(&liar, pushed(entry));
    let me = honest.id();
    made(&mut honest, keyed(&me, "append"));
}

#[test]
fn s04_any_goes_where_another_owner_went_only_by_its_own_choice() {
    let (mut honest, _, target) = scene();
    let mut owner = honest.author(3);
    honest.admit(&owner, Tier::Owner);
    let principal = "person:owner".parse().unwrap();
    let call = Header { principal, ..keyed_header(&owner, 1, target.id(), "append") };
    let entry = owner.says(Kind::CALL, encode(&call));
    honest.hears(&owner, pushed(entry));
    // Owners share their keys: the same is the same call, anything else is refused, and `any` is somebody here.
    assert_eq!(honest.ask(keyed(&target.id(), "append")), Reply::Call { id: call.id, created: false });
    assert_eq!(honest.ask(keyed("any", "append")), Reply::Refused(Refusal::KeyReused(call.id)));
}

#[test]
fn k4_any_goes_to_no_device_that_only_says_it_has_the_tool() {
    let (mut honest, mut liar, _) = scene();
    let directory = liar.says(Kind::DIRECTORY, encode(&offers(vec![tool("backup", Effect::Once)])));
    honest.hears(&liar, pushed(directory));
    let reply = honest.ask(Command::Call(test_kit::call("any", "backup")));
    assert!(matches!(reply, Reply::Refused(Refusal::UnknownNode(_))), "{reply:?}");
    // Whoever names it means it; but its answer is nobody's who asks for any.
    let named = made(&mut honest, keyed(&liar.id(), "backup"));
    assert!(matches!(honest.ask(keyed("any", "backup")), Reply::Refused(_)));
    assert_eq!(honest.ask(keyed(&liar.id(), "backup")), Reply::Call { id: named, created: false });
    let mut owner = honest.author(3);
    honest.admit(&owner, Tier::Owner);
    let directory = owner.says(Kind::DIRECTORY, encode(&offers(vec![tool("backup", Effect::Once)])));
    honest.hears(&owner, pushed(directory));
    let reply = honest.ask(Command::Call(test_kit::call("any", "backup")));
    let Reply::Call { id, .. } = reply else { panic!("{reply:?}") };
    assert_eq!(honest.peer().open_call(&id).unwrap().header.target, owner.id());
}

#[test]
fn only_a_gateway_may_dispatch_and_only_in_its_own_name() {
    let (mut honest, mut liar, _) = scene();
    let me = honest.peer().view().me;
    let led = honest.peer().view().gateway.unwrap();
    let mut owner = honest.author(3);
    honest.admit(&owner, Tier::Owner);
    let call = header(&liar.id(), 1, me);
    let entry = liar.says(Kind::CALL, encode(&call));
    honest.hears(&owner, Frame::Digest { authors: Authors::ALL, rows: Vec::new(), changes: Hash::ZERO });
    let claims = |of: &Author, counter| Claim::sign(&of.key, of.mesh, Epoch { counter, class: 3, peer: of.id() }, 1);
    let refused = |honest: &mut Honest, from: &Author, claim: Claim, header: SignedEntry| {
        let dispatch = Dispatch { claim, header, attempt: 1, left_ms: 60_000, consents: Vec::new() };
        let out = honest.hears(from, Frame::Dispatch(dispatch));
        assert!(!out.iter().any(|o| matches!(o, Output::Invoke(_))), "{out:?}");
        let no = |o: &Output| {
            matches!(
                o,
                Output::Send(_, Frame::Answer(Answer { what: AnswerKind::Rejected(_) | AnswerKind::Fenced(_), .. }))
            )
        };
        assert!(out.iter().any(no), "{out:?}");
    };
    refused(&mut honest, &liar, claims(&liar, led.counter + 1), entry.clone());
    refused(&mut honest, &liar, claims(&owner, led.counter + 1), entry.clone());
    refused(&mut honest, &owner, claims(&owner, 0), entry.clone());
    refused(&mut honest, &owner, claims(&owner, 1_000_000_000), entry.clone());
    let stranger = honest.author(77);
    let mut by_stranger = honest.author(77);
    let foreign = by_stranger.says(Kind::CALL, encode(&header(&stranger.id(), 1, me)));
    refused(&mut honest, &owner, claims(&owner, led.counter + 1), foreign);
    let borrowed = owner.says(Kind::CALL, encode(&call));
    refused(&mut honest, &owner, claims(&owner, led.counter + 1), borrowed);
    // A real one is obeyed.
    let dispatch = Dispatch {
        claim: claims(&owner, led.counter + 1),
        header: entry,
        attempt: 1,
        left_ms: 60_000,
        consents: Vec::new(),
    };
    let out = honest.hears(&owner, Frame::Dispatch(dispatch));
    assert!(out.iter().any(|o| matches!(o, Output::Invoke(_))), "{out:?}");
}

#[test]
fn an_entry_under_our_own_name_does_not_take_the_place_of_ours() {
    let (mut honest, mut liar, _) = scene();
    let (me, incarnation) = (honest.id(), honest.peer().view().incarnation);
    let ours = rows::entry(&me, incarnation, 2);
    let before = honest.machine.disk.applied_row(&ours).unwrap();
    let own = Symbolic::new(0).public_key();
    let entry = liar.entry(Kind(999), vec![1], |entry| {
        (entry.author, entry.incarnation, entry.seq) = (own, incarnation, 2);
    });
    honest.hears(&liar, pushed(entry));
    assert_eq!(honest.machine.disk.applied_row(&ours), Some(before));
}
