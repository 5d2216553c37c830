//! A workspace on a real database.

use std::path::Path;

use memory_core::compaction::{Settings, Trigger};
use memory_core::ids::WorkspaceId;
use tempfile::TempDir;

use mesh_core::rooms::Approvals;

use super::authors::Authors;
use super::*;
use crate::mesh::identity::DeviceKey;

pub(super) const WS: WorkspaceId = WorkspaceId([7; 16]);
const ASKED: Trigger = Trigger::Asked { keep: 0 };

pub(super) fn open_with(dir: &Path, settings: Settings) -> Workspace {
    let key = DeviceKey::load_or_create(dir).unwrap();
    Workspace::open(&dir.join("memory"), WS, key, settings).unwrap()
}

pub(super) fn open(dir: &Path) -> Workspace {
    open_with(dir, Settings::default())
}

pub(super) fn said(id: &str, text: &str) -> NewMessage {
    NewMessage {
        id: Some(id.to_owned()),
        conversation: "talk".to_owned(),
        session: None,
        speaker: "Ann".to_owned(),
        text: text.to_owned(),
        time: Some((id.bytes().map(i64::from).sum::<i64>() * 60_000, 60)),
    }
}

pub(super) fn put(workspace: &mut Workspace, id: &str, text: &str) -> Appended {
    workspace.append(vec![said(id, text)], false).unwrap().remove(0)
}

fn question(text: &str) -> Question {
    Question { text: text.to_owned(), mode: Mode::Auto, limit: 10, tokens_max: 2_000, as_of_ms: None, vector: None }
}

pub(super) fn found(workspace: &mut Workspace, text: &str) -> Vec<String> {
    let answer = workspace.ask(&question(text)).unwrap();
    assert!(answer.hits.iter().all(|hit| hit.parts.sum() == hit.score));
    answer.hits.into_iter().map(|hit| hit.said.external_id).collect()
}

/// Files below a directory that have these bytes.
pub(super) fn files_with(dir: &Path, needle: &str) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            count += files_with(&entry.path(), needle);
        } else if std::fs::read(entry.path()).unwrap().windows(needle.len()).any(|part| part == needle.as_bytes()) {
            count += 1;
        }
    }
    count
}

#[test]
fn what_is_appended_is_found_after_a_restart_and_once() {
    let home = TempDir::new().unwrap();
    let mut workspace = open(home.path());
    assert_eq!(put(&mut workspace, "a", "the boiler is at 1.6 bar").outcome, Outcome::Stored);
    put(&mut workspace, "b", "pasta again tonight");
    assert_eq!(put(&mut workspace, "a", "the boiler is at 1.6 bar").outcome, Outcome::Unchanged);
    let beside = put(&mut workspace, "a", "the boiler was replaced");
    assert_eq!(beside.outcome, Outcome::Beside);
    let at = found(&mut workspace, "boiler pressure bar");
    assert_eq!(at.first().map(String::as_str), Some("a"));
    drop(workspace);
    let mut again = open(home.path());
    assert_eq!(found(&mut again, "boiler pressure bar"), at);
    assert_eq!(again.reader().stats().messages, 3);
    assert_eq!(again.reader().get(&beside.key).unwrap().message.text, "the boiler was replaced");
    assert_eq!(again.reader().by_external_id("a").unwrap().len(), 2);
}

#[test]
fn a_message_over_its_limits_leaves_nothing_of_its_request() {
    let home = TempDir::new().unwrap();
    let mut workspace = open(home.path());
    let long = said("b", &"x".repeat(memory_core::limits::TEXT_BYTES_MAX + 1));
    assert!(matches!(workspace.append(vec![said("a", "x"), long], false), Err(MemoryError::Message(_))));
    assert_eq!(workspace.reader().stats().messages, 0);
}

#[test]
fn seed_m1_a_batch_of_the_oldest_is_summarized_its_facts_extracted_and_trimmed() {
    let home = TempDir::new().unwrap();
    let mut workspace = open_with(home.path(), Settings { batch: 5, window: 3, facts: true });
    for id in ["a", "b", "c", "d", "e", "f", "g"] {
        put(&mut workspace, id, &format!("the code of box {id} is {}4", id.len()));
    }
    let report = workspace.compact(ASKED).unwrap();
    assert_eq!((report.summaries_created, report.messages_processed, report.messages_trimmed), (1, 5, 5));
    assert_eq!(report.facts_extracted, workspace.reader().stats().facts);
    let (recent, _) = workspace.reader().list(Wanted::Recent, None, 9).unwrap();
    assert_eq!(recent.iter().map(|item| item.message.id.as_str()).collect::<Vec<_>>(), ["f", "g"]);
    // Less than a batch too, when somebody asks; by itself only with the window on top.
    assert!(!workspace.is_compaction_due());
    assert_eq!(workspace.compact(Trigger::Unasked).unwrap().summaries_created, 0);
    assert_eq!(workspace.compact(Trigger::Asked { keep: 1 }).unwrap().messages_trimmed, 1);
    let before = found(&mut workspace, "code of box c");
    drop(workspace);
    let mut again = open(home.path());
    assert_eq!(again.reader().stats().recent, 1);
    assert_eq!(found(&mut again, "code of box c"), before, "search does not know the tier");
}

#[test]
fn seed_m2_seven_messages_make_one_summary_of_five() {
    let home = TempDir::new().unwrap();
    let mut workspace = open_with(home.path(), Settings { batch: 5, window: 3, facts: true });
    for id in ["a", "b", "c", "d", "e", "f", "g"] {
        put(&mut workspace, id, &format!("the meter {id} showed 17{id}"));
    }
    assert_eq!(workspace.compact(ASKED).unwrap().summaries_created, 1);
    let summaries = workspace.reader().summaries(i64::MIN, i64::MAX, 9).unwrap();
    assert!(summaries.len() == 1 && !summaries[0].lines.is_empty());
    assert!(workspace.reader().stats().recent <= 5);
}

#[test]
fn seed_m3_alice_yields_a_fact() {
    let home = TempDir::new().unwrap();
    let mut workspace = open(home.path());
    put(&mut workspace, "a", "Alice is a software engineer at Acme Corp");
    assert!(workspace.compact(ASKED).unwrap().facts_extracted >= 1);
    let facts = workspace.reader().facts("alice", None, 9).unwrap();
    assert!(facts.iter().any(|fact| fact.object.contains("software engineer")), "{facts:?}");
}

#[test]
fn a_newer_value_supersedes_and_a_correction_is_found_instead() {
    let home = TempDir::new().unwrap();
    let mut workspace = open(home.path());
    for (id, text) in [("a", "the door code is 1111"), ("b", "the door code is 2222")] {
        put(&mut workspace, id, text);
        workspace.compact(ASKED).unwrap();
    }
    let facts = workspace.reader().facts("door code", None, 9).unwrap();
    let current: Vec<_> = facts.iter().filter(|fact| !fact.superseded).map(|fact| fact.object.as_str()).collect();
    assert_eq!((facts.len(), current), (2, vec!["2222"]));
    let key = workspace.reader().by_external_id("b").unwrap()[0].key;
    assert!(workspace.correct(&key, "the door code is 3333".to_owned()).unwrap());
    assert!(!workspace.correct(&key, "the door code is 3333".to_owned()).unwrap());
    let hit = workspace.ask(&question("door code 3333")).unwrap().hits.remove(0);
    assert_eq!((hit.said.text.as_str(), hit.was.as_deref()), ("the door code is 3333", Some("the door code is 2222")));
    assert_eq!(workspace.reader().stats().recent, 1, "what was corrected is summarized anew");
    drop(workspace);
    assert_eq!(open(home.path()).reader().get(&key).unwrap().message.text, "the door code is 3333");
}

#[test]
fn what_is_forgotten_is_gone_and_does_not_come_back() {
    let home = TempDir::new().unwrap();
    let mut workspace = open(home.path());
    put(&mut workspace, "a", "the code of the safe is 4711");
    let kept = put(&mut workspace, "b", "the boiler is at 1.6 bar");
    workspace.compact(ASKED).unwrap();
    let key = workspace.reader().by_external_id("a").unwrap()[0].key;
    workspace.correct(&key, "the code of the safe is 4712".to_owned()).unwrap();
    let selection = Selection::Keys(vec![key]);
    let preview = workspace.preview(&selection).unwrap();
    assert_eq!(preview.messages, [key]);
    assert_eq!(workspace.reader().stats().messages, 2, "a preview does nothing");
    assert_eq!(workspace.forget(&selection).unwrap(), preview);
    assert_eq!(workspace.forget(&selection).unwrap(), Forgotten::default());
    assert!(!found(&mut workspace, "code of the safe 4711").contains(&"a".to_owned()));
    assert_eq!(put(&mut workspace, "a", "the code of the safe is 4711").outcome, Outcome::Forgotten);
    assert!(workspace.store.about(&key).unwrap().is_empty(), "no text about it is left");
    drop(workspace);
    let mut again = open(home.path());
    assert!(matches!(again.reader().get(&key), Err(MemoryError::UnknownItem(_))));
    assert_eq!(put(&mut again, "a", "something else").outcome, Outcome::Forgotten);
    assert_eq!(again.reader().get(&kept.key).unwrap().message.text, "the boiler is at 1.6 bar");
    assert_eq!((again.reader().stats().messages, again.reader().stats().forgotten), (1, 1));
}

#[test]
fn by_conversation_and_speaker_and_without_ids_of_callers() {
    let home = TempDir::new().unwrap();
    let mut workspace = open(home.path());
    let nameless = |text: &str| NewMessage { id: None, ..said("x", text) };
    let first = workspace.append(vec![nameless("one"), nameless("two"), nameless("one")], true).unwrap();
    assert_eq!(first[0].key, first[2].key);
    assert_eq!(workspace.reader().stats().messages, 2);
    let drawn = workspace.append(vec![nameless("one"), nameless("one")], false).unwrap();
    assert_ne!(drawn[0].key, drawn[1].key);
    let selection = Selection::Speaker { speaker: "Ann".to_owned(), since_ms: 0 };
    assert_eq!(workspace.preview(&selection).unwrap().messages.len(), 4);
    assert_eq!(workspace.forget(&Selection::Conversation("talk".to_owned())).unwrap().messages.len(), 4);
    let again = workspace.append(vec![nameless("one")], true).unwrap();
    assert_eq!(again[0].outcome, Outcome::Forgotten, "the same import does not bring it back");
}

#[test]
fn a_list_has_pages_and_every_message_once() {
    let home = TempDir::new().unwrap();
    let mut workspace = open(home.path());
    let messages: Vec<_> = (0..700).map(|n| said(&format!("m{n}"), &format!("text {n}"))).collect();
    assert_eq!(workspace.append(messages, false).unwrap().len(), 700);
    let (mut seen, mut after) = (std::collections::BTreeSet::new(), None);
    loop {
        let (items, next) = workspace.reader().list(Wanted::All, after, 64).unwrap();
        seen.extend(items.into_iter().map(|item| item.key));
        after = next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 700);
    drop(workspace);
    assert_eq!(open(home.path()).reader().stats().messages, 700, "groups of 256 are all there");
    assert!(files_with(home.path(), "text 699") > 0);
}

#[test]
fn standing_instructions_go_along_and_time_can_be_turned_back() {
    let home = TempDir::new().unwrap();
    let mut workspace = open(home.path());
    put(&mut workspace, "a", "Always answer in English.");
    put(&mut workspace, "c", "the boiler is at 1.6 bar");
    let answer = workspace.ask(&question("boiler")).unwrap();
    assert_eq!(answer.standing.len(), 1);
    assert!(!answer.by_meaning, "there is no model");
    let early = Question { as_of_ms: Some(i64::from(b'b') * 60_000), ..question("boiler") };
    assert!(workspace.ask(&early).unwrap().hits.iter().all(|hit| hit.said.external_id != "c"));
    assert!(workspace.ask(&Question { mode: Mode::Facts, ..question("boiler") }).unwrap().hits.is_empty());
    workspace.compact(ASKED).unwrap();
    assert!(!workspace.ask(&Question { mode: Mode::Facts, ..question("boiler") }).unwrap().hits.is_empty());
}

#[tokio::test]
async fn a_workspace_is_opened_on_demand_and_closed_when_idle() {
    let home = TempDir::new().unwrap();
    let key = DeviceKey::load_or_create(home.path()).unwrap();
    let tasks = crate::tasks::TaskGroup::default();
    let idle = std::time::Duration::from_millis(30);
    let memory = MemoryHandle::new(home.path().join("memory"), key, Settings::default(), idle, tasks.clone());
    assert!(!memory.is_open() && !home.path().join("memory").exists());
    memory.run(WS, |it| it.append(vec![said("a", "the boiler is at 1.6 bar")], false)).await.unwrap();
    assert!(memory.is_open());
    while memory.is_open() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(memory.run(WS, |it| Ok(it.reader().stats().messages)).await.unwrap(), 1);
    let other = WorkspaceId([8; 16]);
    assert_eq!(
        memory.run(other, |it| Ok(it.reader().stats().messages)).await.unwrap(),
        0,
        "another workspace is another database"
    );
    assert_eq!(memory.run(WS, |it| Ok(it.reader().stats().messages)).await.unwrap(), 1);
    assert!(tasks.shutdown(std::time::Duration::from_secs(5)).await);
    assert!(matches!(memory.run(WS, |it| Ok(it.reader().stats())).await, Err(MemoryError::Closed)));
}

/// A mesh of those who have written here; the first of them let the others in.
pub(super) fn authors(of: &[&Workspace]) -> Authors {
    // Ids of authors are halves of those of peers: the rest of it is nobody's business here.
    let peer = |author: &memory_core::ids::AuthorId| {
        let mut id = [0; 32];
        id.iter_mut().zip(author.0).for_each(|(to, from)| *to = from);
        mesh_core::ids::PeerId(id)
    };
    let all: Vec<_> = of.iter().flat_map(|it| it.heads.keys().map(|chain| peer(&chain.author))).collect();
    let founder = all.first().copied().unwrap_or(mesh_core::ids::PeerId([0; 32]));
    let by = std::collections::BTreeSet::from([founder]);
    Authors::below(Approvals::of(founder, &all.into_iter().map(|peer| (peer, by.clone())).collect()))
}

/// Runs a session between two holders to its end; gives how many frames were sent.
pub(super) fn exchange(one: &mut Workspace, two: &mut Workspace) -> usize {
    let authors = authors(&[one, two]);
    exchange_of(one, two, &authors).0
}

/// The same among these authors; gives also whose memory had no room.
fn exchange_of(
    one: &mut Workspace,
    two: &mut Workspace,
    authors: &Authors,
) -> (usize, std::collections::BTreeSet<mesh_core::ids::PeerId>) {
    exchange_through(one, two, authors, |_, frame| frame)
}

/// The same over a wire that changes what the second one sends (true) and gets.
pub(super) fn exchange_through(
    one: &mut Workspace,
    two: &mut Workspace,
    authors: &Authors,
    mut wire_of: impl FnMut(bool, memory_core::replica::Frame) -> memory_core::replica::Frame,
) -> (usize, std::collections::BTreeSet<mesh_core::ids::PeerId>) {
    let ((mut a, first), (mut b, second)) = (one.begin_session().unwrap(), two.begin_session().unwrap());
    let mut wire = std::collections::VecDeque::from([(true, first), (false, second)]);
    let (mut sent, mut full) = (0, std::collections::BTreeSet::new());
    while let Some((to_two, frame)) = wire.pop_front() {
        sent += 1;
        let frame = wire_of(!to_two, memory_core::replica::Frame::decode(&frame.encode()).unwrap());
        let (holder, session) = if to_two { (&mut *two, &mut b) } else { (&mut *one, &mut a) };
        let replied = holder.handle_frame(session.clone(), frame, authors).unwrap();
        assert_eq!(replied.broken, None);
        full.extend(replied.full);
        *session = replied.session;
        wire.extend(replied.frames.into_iter().map(|frame| (!to_two, frame)));
    }
    assert!(a.is_settled() && b.is_settled());
    (sent, full)
}

pub(super) fn views(one: &Workspace, two: &Workspace) {
    assert_eq!(one.held.view, two.held.view);
    let shown = |it: &Workspace| it.reader().list(Wanted::All, None, 2_000).unwrap().0;
    assert_eq!(shown(one), shown(two));
    assert_eq!((one.reader().stats(), &one.heads), (two.reader().stats(), &two.heads));
}

#[test]
fn two_holders_have_the_same_after_a_session_also_of_halves_that_both_compacted() {
    let homes = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let settings = Settings { batch: 5, window: 3, facts: true };
    let [mut one, mut two] = [0, 1].map(|n| open_with(homes[n].path(), settings));
    let messages: Vec<_> = (0..700).map(|n| said(&format!("m{n}"), &format!("the code of box {n} is {n}4"))).collect();
    one.append(messages, false).unwrap();
    put(&mut two, "x", "the boiler is at 1.6 bar");
    exchange(&mut one, &mut two);
    views(&one, &two);
    // Apart, both take the same batch and one of their own.
    for (workspace, id) in [(&mut one, "left"), (&mut two, "right")] {
        put(workspace, id, &format!("the meter on the {id} showed 4711"));
        for _ in 0..3 {
            assert_eq!(workspace.compact(ASKED).unwrap().summaries_created, 1);
        }
    }
    exchange(&mut one, &mut two);
    views(&one, &two);
    assert_eq!(exchange(&mut one, &mut two), 4, "digest and done: nothing is sent twice");
    let covered: usize = one.held.view.covered.values().map(std::collections::BTreeSet::len).sum();
    assert_eq!(covered, 703 - one.reader().stats().recent);
    drop((one, two));
    let [one, two] = [0, 1].map(|n| open_with(homes[n].path(), settings));
    views(&one, &two);
}

#[test]
fn what_is_forgotten_at_one_holder_goes_at_the_other_and_late_copies_stay_out() {
    let homes = [TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap()];
    let [mut one, mut two, mut three] = [0, 1, 2].map(|n| open(homes[n].path()));
    let key = put(&mut one, "a", "the code of the safe is 4711").key;
    put(&mut one, "b", "the boiler is at 1.6 bar");
    exchange(&mut one, &mut two);
    two.correct(&key, "the code of the safe is 4712".to_owned()).unwrap();
    one.forget(&Selection::Keys(vec![key])).unwrap();
    // The third has the tombstone before it has anything that it is of.
    let (mut session, _) = three.begin_session().unwrap();
    let hello = one.begin_session().unwrap().1;
    session = three.handle_frame(session, hello, &authors(&[&one])).unwrap().session;
    drop(session);
    exchange(&mut one, &mut two);
    views(&one, &two);
    assert!(two.store.about(&key).unwrap().is_empty(), "its texts are gone, the correction too");
    exchange(&mut two, &mut three);
    views(&two, &three);
    for (n, workspace) in [&mut one, &mut two, &mut three].into_iter().enumerate() {
        assert_eq!(put(workspace, "a", "the code of the safe is 4711").outcome, Outcome::Forgotten);
        assert_eq!((workspace.reader().stats().messages, workspace.reader().stats().forgotten), (1, 1), "{n}");
    }
    drop((one, two, three));
    let [one, two, three] = [0, 1, 2].map(|n| open(homes[n].path()));
    views(&one, &two);
    views(&two, &three);
}

#[test]
fn one_id_with_two_contents_is_two_messages_at_both_and_each_is_forgotten_by_itself() {
    let homes = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let [mut one, mut two] = [0, 1].map(|n| open(homes[n].path()));
    let key = put(&mut one, "a", "red").key;
    put(&mut two, "a", "blue");
    exchange(&mut one, &mut two);
    views(&one, &two);
    // The earlier one has the key that its id gives; within one millisecond that is either.
    let both = one.reader().by_external_id("a").unwrap();
    let variant = both.iter().find(|item| item.key != key).unwrap();
    let first = both.iter().find(|item| item.key == key).unwrap();
    one.forget(&Selection::Keys(vec![variant.key])).unwrap();
    exchange(&mut one, &mut two);
    views(&one, &two);
    let left: Vec<String> = two.reader().by_external_id("a").unwrap().into_iter().map(|it| it.message.text).collect();
    assert_eq!(left, std::slice::from_ref(&first.message.text));
}

#[test]
fn frames_that_no_holder_sends_end_the_session() {
    use memory_core::replica::Frame;
    let homes = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let [mut one, mut two] = [0, 1].map(|n| open(homes[n].path()));
    put(&mut one, "a", "red");
    let group = one.group(&one.chain(), 1).unwrap().unwrap();
    let all = authors(&[&one]);
    // Groups before tombstones; nothing where something was announced; a group of another workspace.
    let (session, _) = two.begin_session().unwrap();
    let sent = memory_core::replica::Sent::of(&group);
    assert!(two.handle_frame(session.clone(), Frame::Groups(vec![sent.clone()]), &all).unwrap().broken.is_some());
    let hello = one.begin_session().unwrap().1;
    let session = two.handle_frame(session, hello, &all).unwrap().session;
    assert!(two.handle_frame(session.clone(), Frame::Groups(Vec::new()), &all).unwrap().broken.is_some());
    let other = Workspace::open(
        &homes[0].path().join("other"),
        WorkspaceId([9; 16]),
        DeviceKey::load_or_create(homes[0].path()).unwrap(),
        Settings::default(),
    );
    let mut other = other.unwrap();
    put(&mut other, "a", "red");
    let foreign = other.group(&other.chain(), 1).unwrap().unwrap();
    let foreign = memory_core::replica::Sent::of(&foreign);
    assert!(two.handle_frame(session, Frame::Groups(vec![foreign]), &all).unwrap().broken.is_some());
    assert_eq!(two.reader().stats().messages, 0);
}

#[test]
fn k2_a_tombstone_keeps_nothing_else_of_its_group_and_a_session_begins_once() {
    use memory_core::group::{Head, Hlc, SignedGroup};
    use memory_core::ids::{Incarnation, MessageKey};
    use memory_core::item::{Body, Item, Message, Salt};
    use memory_core::replica::{Frame, Sent, VERSION};
    let homes = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let (key, mut two) = (DeviceKey::load_or_create(homes[0].path()).unwrap(), open(homes[1].path()));
    let message = |n: u8| Message {
        id: format!("m{n}"),
        conversation: "talk".to_owned(),
        session: None,
        speaker: "Ann".to_owned(),
        text: "x".repeat(60_000),
        time_ms: 0,
        offset_min: 0,
    };
    let tombstones = (0..16).map(|n| Body::Tombstone(MessageKey([n; 16])));
    let bodies = tombstones.chain((0..12).map(|n| Body::Message(message(n))));
    let items: Vec<Item> = bodies.map(|body| Item::new(Salt([3; 16]), &body)).collect();
    let group = SignedGroup::sign(&key, WS, Incarnation(1), &Head::default(), Hlc::at(9), items).unwrap();
    let hello = || Frame::Hello { version: VERSION, tombstones: [1; 8] };
    let founder = mesh_core::crypto::Signer::public_key(&key).peer_id();
    let all = Authors::below(Approvals::of(founder, &std::collections::BTreeMap::new()));
    let (session, _) = two.begin_session().unwrap();
    let session = two.handle_frame(session, hello(), &all).unwrap().session;
    let came = Frame::Tombstones { groups: vec![Sent::of(&group)], last: false };
    let replied = two.handle_frame(session, came, &all).unwrap();
    assert_eq!((replied.broken, replied.taken), (None, 1));
    let kept: usize = two.tombstones.values().map(|row| super::keys::encode(row).len()).sum();
    assert_eq!(two.tombstones.len(), 16);
    assert!(kept < 16 * 2_000, "{kept} bytes for 16 tombstones");
    assert!(two.handle_frame(replied.session, hello(), &all).unwrap().broken.is_some(), "said twice");
}

/// A holder hands on groups of authors that it makes up: of those who never belonged nothing is taken, and who lets in as many
/// as it likes has no more room by that.
#[test]
fn k2_made_up_authors_fill_no_memory() {
    let homes: Vec<TempDir> = (0..4).map(|_| TempDir::new().unwrap()).collect();
    let [mut honest, mut thief, mut guest, mut stranger] = [0, 1, 2, 3].map(|n| open(homes[n].path()));
    let long = |n: usize| said(&format!("m{n}"), &format!("{n} {}", "x".repeat(10_000)));
    for workspace in [&mut thief, &mut guest, &mut stranger] {
        for n in 0..40 {
            workspace.append(vec![long(n)], false).unwrap();
        }
    }
    put(&mut honest, "a", "the boiler is at 1.6 bar");
    let peer = |of: &Workspace| *authors(&[of]).peer(&of.chain().author).unwrap();
    let (founder, host, below) = (peer(&honest), peer(&thief), peer(&guest));
    // The thief has all of them, and hands them on.
    let every = authors(&[&honest, &thief, &guest, &stranger]);
    for other in [&mut guest, &mut stranger] {
        exchange_of(&mut thief, other, &every);
    }
    let by = |peer| std::collections::BTreeSet::from([peer]);
    let vouched_by = [(host, by(founder)), (below, by(host))].into_iter().collect();
    let mesh = Authors::below(Approvals::of(founder, &vouched_by)).with_room(400_000);
    let (_, full) = exchange_of(&mut honest, &mut thief, &mesh);
    let held = |it: &Workspace| -> u64 { it.filled.values().sum() };
    assert!(held(&thief) > 1_200_000);
    assert!(held(&honest) <= 400_000, "{} bytes", held(&honest));
    assert!(
        !honest.heads.keys().any(|chain| chain.author == stranger.chain().author),
        "who never belonged wrote nothing"
    );
    assert!(full.contains(&host) || full.contains(&below), "it is told");
    // Who wants little has room.
    let late_home = TempDir::new().unwrap();
    let mut late = open(late_home.path());
    put(&mut late, "b", "pasta again tonight");
    let vouched_by = [(host, by(founder)), (below, by(host)), (peer(&late), by(founder))].into_iter().collect();
    let mesh = Authors::below(Approvals::of(founder, &vouched_by)).with_room(400_000);
    exchange_of(&mut honest, &mut late, &mesh);
    assert!(found(&mut honest, "pasta tonight").contains(&"b".to_owned()));
    // What is counted is counted again when it is opened.
    let before = honest.filled.clone();
    drop(honest);
    let again = open(homes[0].path());
    assert!(again.filled.iter().all(|(author, bytes)| bytes.abs_diff(before[author]) < before[author] / 4 + 200));
}

/// Tombstones are taken also while the disk is nearly full, so their number has an end of its own.
#[test]
fn k2_tombstones_ahead_of_their_chain_are_so_many() {
    use memory_core::group::{Head, Hlc, SignedGroup};
    use memory_core::ids::{Incarnation, MessageKey};
    use memory_core::item::{Body, Item, Salt};
    use memory_core::replica::{Frame, Sent, VERSION};
    let homes = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let (key, mut two) = (DeviceKey::load_or_create(homes[0].path()).unwrap(), open(homes[1].path()));
    let founder = mesh_core::crypto::Signer::public_key(&key).peer_id();
    let all = Authors::below(Approvals::of(founder, &std::collections::BTreeMap::new()));
    let sent = |n: u64| {
        let tombstone = |at: u64| {
            let mut key = [0; 16];
            key[..8].copy_from_slice(&(n * 32 + at).to_be_bytes());
            Item::new(Salt([3; 16]), &Body::Tombstone(MessageKey(key)))
        };
        let items = (0..32).map(tombstone).collect();
        Sent::of(&SignedGroup::sign(&key, WS, Incarnation(1), &Head::default(), Hlc::at(9), items).unwrap())
    };
    let (session, _) = two.begin_session().unwrap();
    let hello = Frame::Hello { version: VERSION, tombstones: [1; 8] };
    let mut session = two.handle_frame(session, hello, &all).unwrap().session;
    for n in 0..5 {
        let groups = (n * 60..(n + 1) * 60).map(sent).collect();
        let replied = two.handle_frame(session, Frame::Tombstones { groups, last: false }, &all).unwrap();
        assert_eq!(replied.broken, None);
        session = replied.session;
    }
    assert_eq!(two.tombstones.len(), 8_192);
    drop(two);
    let again = open(homes[1].path());
    assert_eq!(again.ahead.values().copied().collect::<Vec<_>>(), [8_192], "counted again");
}
