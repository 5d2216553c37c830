//! One that fills what is held by author besides its log: heads, rows of digests, bodies that never come, directories,
//! contradictions, truncations. Each has a share, and leaves with its author.

use mesh_core::frame::{DigestRow, EntryItem, Places};
use mesh_core::policy::{Content, Key, Person, Said, Value};
use mesh_core::record::{TruncatedRun, Truncation};
use mesh_core::rows::LackingRow;
use serde::Serialize;

use super::*;

fn approve(honest: &mut Honest, author: &Author, tier: Tier) {
    let node_id = format!("n{}", author.id().short()).parse().unwrap();
    honest.approve(Command::Approve { key: author.public_key(), node_id, tier, stay: None });
}

/// Its next entry is the first one of this incarnation.
fn begin(author: &mut Author, incarnation: u32) {
    (author.incarnation, author.seq, author.previous) = (Incarnation(incarnation), 0, Hash::ZERO);
}

fn heads_of(honest: &Honest, author: &Author) -> usize {
    let state = honest.machine.disk.state();
    state.keys(Space::Heads).filter(|key| rows::log_of(key).is_some_and(|(of, _)| of == author.id())).count()
}

fn digests(out: &[Output], to: PeerId) -> Vec<(Authors, Vec<DigestRow>)> {
    let digest = |output: &Output| {
        let Output::Send(peer, Frame::Digest { authors, rows, .. }) = output else { return None };
        (*peer == to).then(|| (*authors, rows.clone()))
    };
    out.iter().filter_map(digest).collect()
}

fn envelope(entry: &SignedEntry) -> Frame {
    pushed(entry.without_body())
}

fn call_for(author: &mut Author, counter: u64, target: PeerId) -> (ReqId, SignedEntry) {
    let call = header(&author.id(), counter, target);
    (call.id, author.says(Kind::CALL, encode(&call)))
}

/// Bodies of this author that are known to be lacking.
fn lacking_of(honest: &Honest, author: &Author) -> usize {
    let meta = honest.machine.disk.scan(Space::Meta, Vec::new(), vec![u8::MAX]);
    meta.filter(|(key, _)| matches!(rows::lacking_of(key), Some(Some(place)) if place.author == author.id())).count()
}

#[test]
fn h1_a_digest_has_no_more_rows_than_are_taken() {
    let mut honest = Honest::new();
    let liar = honest.author(1);
    honest.admit(&liar, Tier::Owner);
    let mut authors: Vec<Author> = (10..137).map(|n| honest.author(n)).collect();
    for author in &mut authors {
        approve(&mut honest, author, Tier::Owner);
        let mut entries = Vec::new();
        for incarnation in 1..=limits::INCARNATIONS_MAX as u32 {
            begin(author, incarnation);
            entries.push(EntryItem { entry: author.says(Kind::CHECKPOINT, Vec::new()), left_ms: None });
        }
        honest.hears(&liar, Frame::Entries { entries, more: false });
    }
    let heads = honest.machine.disk.state().keys(Space::Heads).count();
    assert!(heads > limits::DIGEST_ROWS_MAX, "{heads}");
    let other = honest.author(2);
    approve(&mut honest, &other, Tier::Shared);
    let mut parts = digests(&honest.step(Input::LinkUp(other.id())), other.id());
    let last = parts.iter().position(|(of, _)| of.until.is_none()).unwrap();
    parts.truncate(last + 1);
    assert!(parts.len() > 1, "{}", parts.len());
    assert_eq!(parts[0].0.from, Authors::ALL.from);
    assert_eq!(parts.last().unwrap().0.until, None);
    assert!(parts.windows(2).all(|two| two[0].0.until == Some(two[1].0.from)), "nobody is left out");
    assert!(
        parts
            .iter()
            .all(|(of, rows)| rows.len() <= limits::DIGEST_ROWS_MAX && rows.iter().all(|row| of.contains(&row.author)))
    );
    assert_eq!(parts.iter().map(|(_, rows)| rows.len()).sum::<usize>(), heads);
    // Of whom a part does not speak nothing is sent.
    let (of, rows) = parts.last().unwrap().clone();
    let rows = rows.into_iter().skip(1).collect();
    let out = honest.hears(&other, Frame::Digest { authors: of, rows, changes: Hash::ZERO });
    let entries = |output: &Output| {
        let Output::Send(_, Frame::Entries { entries, .. }) = output else { return Vec::new() };
        entries.iter().map(|item| item.entry.author).collect()
    };
    let sent: Vec<PeerId> = out.iter().flat_map(entries).collect();
    assert!(!sent.is_empty() && sent.iter().all(|author| of.contains(author)), "{sent:?}");
}

#[test]
fn h1_one_who_is_no_owner_starts_few_incarnations() {
    let mut honest = Honest::new();
    let mut liar = honest.author(1);
    honest.admit(&liar, Tier::Shared);
    let says = |honest: &mut Honest, liar: &mut Author, incarnations: std::ops::Range<u32>| {
        for incarnation in incarnations {
            begin(liar, incarnation);
            let entry = liar.says(Kind::CHECKPOINT, Vec::new());
            honest.hears(liar, pushed(entry));
        }
    };
    says(&mut honest, &mut liar, 100..164);
    assert_eq!(heads_of(&honest, &liar), limits::GUEST_INCARNATIONS_MAX);
    // An honest device that was restored so often is approved anew.
    honest.ask(Command::Revoke { peer: liar.id(), unsaid: false });
    honest.admit(&liar, Tier::Shared);
    says(&mut honest, &mut liar, 200..264);
    assert_eq!(heads_of(&honest, &liar), 2 * limits::GUEST_INCARNATIONS_MAX);
}

#[test]
fn h2_bodies_that_never_come_keep_out_no_others() {
    let mut honest = Honest::new();
    let me = honest.id();
    let (mut liar, mut owner, mut guest) = (honest.author(1), honest.author(2), honest.author(3));
    honest.admit(&liar, Tier::Shared);
    approve(&mut honest, &owner, Tier::Owner);
    approve(&mut honest, &guest, Tier::Shared);
    for counter in 1..=4_200 {
        let (_, entry) = call_for(&mut liar, counter, me);
        honest.hears(&liar, envelope(&entry));
    }
    assert_eq!(lacking_of(&honest, &liar), limits::LACKING_PER_GUEST_MAX);
    let mut late = Vec::new();
    for author in [&mut owner, &mut guest] {
        let (id, entry) = call_for(author, 1, me);
        honest.hears(&liar, envelope(&entry));
        assert_eq!(lacking_of(&honest, author), 1);
        late.push((id, entry));
    }
    // All are asked for at once, and whoever is an owner first.
    let out = [honest.step(Input::LinkUp(owner.id())), honest.pass(1_500)].concat();
    let wanted: Vec<Places> = out
        .iter()
        .find_map(|output| if let Output::Send(_, Frame::Want(wanted)) = output { Some(wanted.clone()) } else { None })
        .expect("they are asked for");
    for author in [&owner, &guest] {
        assert!(wanted.iter().any(|places| places.author == author.id()), "{wanted:?}");
    }
    for (id, entry) in late {
        honest.hears(&owner, pushed(entry));
        assert!(honest.peer().open_call(&id).is_some(), "its body is taken");
    }
    honest.ask(Command::Revoke { peer: liar.id(), unsaid: false });
    assert!(lacking_of(&honest, &liar) <= limits::LACKING_PER_EXCLUDED_MAX);
    honest.crash();
    assert!(lacking_of(&honest, &liar) <= limits::LACKING_PER_EXCLUDED_MAX);
}

/// Places that the honest device asks a neighbour for, once that neighbour has nothing of what it was asked for before.
fn asked_next(honest: &mut Honest, neighbour: &Author) -> Vec<Places> {
    let nothing = Frame::Bodies { entries: Vec::new(), until: None };
    let out = [honest.hears(neighbour, nothing), honest.pass(1_500)].concat();
    let wanted = out
        .into_iter()
        .find_map(|output| if let Output::Send(_, Frame::Want(wanted)) = output { Some(wanted) } else { None });
    wanted.unwrap_or_default()
}

#[test]
fn h2_bodies_that_nobody_has_hide_none_that_somebody_has() {
    let mut honest = Honest::new();
    let me = honest.id();
    let (mut guest, neighbour) = (honest.author(1), honest.author(2));
    honest.admit(&guest, Tier::Shared);
    approve(&mut honest, &neighbour, Tier::Owner);
    let mut last = None;
    for counter in 1..=(limits::LACKING_PER_GUEST_MAX as u64 + 6) {
        let (id, entry) = call_for(&mut guest, counter, me);
        honest.hears(&guest, envelope(&entry));
        last = Some((id, entry));
    }
    let (id, entry) = last.unwrap();
    let place = entry.place();
    let is_asked = |wanted: &[Places]| {
        wanted.iter().any(|run| run.author == place.author && (run.first..=run.last).contains(&place.seq))
    };
    honest.step(Input::LinkDown(guest.id()));
    honest.step(Input::LinkUp(neighbour.id()));
    honest.pass(1_500);
    let rounds = (0..40).take_while(|_| !is_asked(&asked_next(&mut honest, &neighbour))).count();
    assert!(rounds < 40, "it is never asked for");
    assert!(lacking_of(&honest, &guest) <= limits::LACKING_PER_GUEST_MAX);
    honest.hears(&neighbour, pushed(entry));
    assert!(honest.peer().open_call(&id).is_some(), "its body is taken");
    // What was asked for in vain is asked for again, also after a restart.
    honest.crash();
    honest.step(Input::LinkUp(neighbour.id()));
    honest.pass(1_500);
    let first = |wanted: &[Places]| wanted.iter().any(|run| run.author == guest.id() && run.first <= 2);
    assert!((0..40).any(|_| first(&asked_next(&mut honest, &neighbour))), "nobody asks for the first any more");
}

#[test]
fn h2_a_guests_body_comes_however_many_others_lack_theirs() {
    let mut honest = Honest::new();
    let me = honest.id();
    let (neighbour, mut late) = (honest.author(1), honest.author(2));
    honest.admit(&neighbour, Tier::Shared);
    for n in 10..50 {
        let mut liar = honest.author(n);
        approve(&mut honest, &liar, Tier::Shared);
        for counter in 1..=70 {
            let (_, entry) = call_for(&mut liar, counter, me);
            honest.hears(&neighbour, envelope(&entry));
        }
    }
    approve(&mut honest, &late, Tier::Shared);
    let (id, entry) = call_for(&mut late, 1, me);
    honest.hears(&neighbour, envelope(&entry));
    assert_eq!(lacking_of(&honest, &late), 0, "there is no room left");
    let asked = |wanted: &[Places]| wanted.iter().any(|run| run.author == late.id());
    let rounds = (0..400).take_while(|_| !asked(&asked_next(&mut honest, &neighbour))).count();
    assert!(rounds < 400, "it is never asked for");
    honest.hears(&neighbour, pushed(entry));
    assert!(honest.peer().open_call(&id).is_some(), "its body is taken");
}

#[test]
fn h2_many_guests_together_leave_owners_their_places() {
    let mut honest = Honest::new();
    let me = honest.id();
    let link = honest.author(1);
    honest.admit(&link, Tier::Shared);
    let mut all = 0;
    for n in 10..50 {
        let mut liar = honest.author(n);
        approve(&mut honest, &liar, Tier::Shared);
        for counter in 1..=70 {
            let (_, entry) = call_for(&mut liar, counter, me);
            honest.hears(&link, envelope(&entry));
        }
        all += lacking_of(&honest, &liar);
    }
    assert_eq!(all, limits::LACKING_OF_GUESTS_MAX);
    let mut owner = honest.author(2);
    approve(&mut honest, &owner, Tier::Owner);
    let (id, entry) = call_for(&mut owner, 1, me);
    honest.hears(&link, envelope(&entry));
    honest.hears(&link, pushed(entry));
    assert!(honest.peer().open_call(&id).is_some(), "its body is taken");
    // The rows say the same after a restart.
    let state = honest.machine.disk.state();
    let lacking = |key: &&[u8]| rows::lacking_of(key).is_some();
    assert_eq!(state.keys(Space::Meta).filter(lacking).count(), limits::LACKING_OF_GUESTS_MAX);
    let row = honest.machine.disk.scan(Space::Meta, Vec::new(), vec![u8::MAX]).find(|(key, _)| lacking(key));
    assert!(<LackingRow as rows::Row>::from_bytes(row.unwrap().1).is_some());
}

#[test]
fn h3_a_directory_leaves_with_its_author_and_comes_back_with_it() {
    let mut honest = Honest::new();
    let mut liar = honest.author(1);
    honest.admit(&liar, Tier::Shared);
    let directory = offers_append(&mut liar);
    honest.hears(&liar, pushed(directory));
    let is_held = |honest: &Honest| honest.machine.disk.has(&rows::directory(&liar.id()));
    let is_shown = |honest: &Honest| {
        honest.peer().view().nodes.iter().any(|node| node.peer == liar.id() && node.directory.is_some())
    };
    assert!(is_held(&honest) && is_shown(&honest));
    honest.ask(Command::Revoke { peer: liar.id(), unsaid: false });
    assert!(!is_held(&honest));
    let new = honest.author(2);
    let approve = |author: &Author, name: &str| Command::Approve {
        key: author.public_key(),
        node_id: name.parse().unwrap(),
        tier: Tier::Shared,
        stay: None,
    };
    let welcome = honest.approve(approve(&new, "new"));
    assert!(welcome.directory.iter().all(|entry| entry.author != liar.id()));
    honest.crash();
    assert!(!is_held(&honest));
    honest.approve(approve(&liar, "back"));
    honest.pass(100);
    assert!(is_held(&honest) && is_shown(&honest), "it is read from the log");
    assert!(!honest.machine.disk.has(&rows::directory_at(&liar.id())));
}

#[test]
fn h6_of_what_contradicts_a_log_place_and_hash_are_kept() {
    let mut honest = Honest::new();
    let mut liar = honest.author(1);
    honest.admit(&liar, Tier::Shared);
    for incarnation in 1..=64 {
        begin(&mut liar, incarnation);
        let mut other = liar.clone();
        let entry = liar.says(Kind::CHECKPOINT, Vec::new());
        honest.hears(&liar, pushed(entry));
        let large = other.says(Kind::CHECKPOINT, vec![7; 200_000]);
        honest.hears(&liar, pushed(large));
    }
    let rows = honest.machine.disk.scan(Space::Meta, Vec::new(), vec![u8::MAX]);
    let forks: Vec<usize> = rows.filter(|(key, _)| rows::fork_of(key).is_some()).map(|(_, row)| row.len()).collect();
    assert_eq!(forks.len(), limits::GUEST_INCARNATIONS_MAX);
    assert!(forks.iter().all(|bytes| *bytes < 128), "{forks:?}");
    assert_eq!(honest.peer().view().forked, [liar.id()]);
    honest.crash();
    assert_eq!(honest.peer().view().forked, [liar.id()]);
}

/// A truncation, and what nobody reads.
#[derive(Serialize)]
struct Padded {
    runs: Vec<TruncatedRun>,
    padding: String,
}

#[test]
fn h7_a_truncation_ahead_of_its_place_is_small_and_paid_for() {
    let mut honest = Honest::new();
    let mut liar = honest.author(1);
    honest.admit(&liar, Tier::Shared);
    let run = |first| TruncatedRun { first, last: first, hash: Hash::of(b"x"), hlc: 1 };
    let kept = |honest: &Honest| {
        let rows = honest.machine.disk.scan(Space::Meta, Vec::new(), vec![u8::MAX]);
        rows.filter(|(key, _)| rows::truncation_of(key).is_some()).map(|(_, row)| row.len()).collect::<Vec<_>>()
    };
    for incarnation in 100..164 {
        begin(&mut liar, incarnation);
        liar.seq = 2;
        let padded = Padded { runs: vec![run(1)], padding: "x".repeat(200_000) };
        let entry = liar.says(Kind::TRUNCATION, encode(&padded));
        honest.hears(&liar, pushed(entry));
    }
    assert_eq!(kept(&honest), [0_usize; 0]);
    let used = |honest: &Honest| {
        let logs = honest.peer().usage().logs;
        logs.iter().find(|(of, _)| *of == liar.id()).map_or(0, |(_, held)| held.bytes)
    };
    let before = used(&honest);
    let mut author = liar.clone();
    for incarnation in 200..264 {
        begin(&mut author, incarnation);
        author.seq = 10_000;
        let runs: Vec<TruncatedRun> = (0..limits::TRUNCATED_RUNS_MAX as u64).map(|n| run(2 * n + 1)).collect();
        let entry = author.says(Kind::TRUNCATION, encode(&Truncation { runs }));
        assert!(entry.len() <= limits::TRUNCATION_BYTES_MAX, "there is room for all runs: {}", entry.len());
        honest.hears(&liar, pushed(entry));
    }
    let rows = kept(&honest);
    assert_eq!(rows.len(), limits::GUEST_INCARNATIONS_MAX);
    assert!(used(&honest) >= before + 4 * 15_000, "{}", used(&honest));
}

/// The next statement of an author about one person. It claims this generation.
fn says_of_mia(author: &mut Author, generation: u64) -> EntryItem {
    says(author, generation, Content::Value(Box::new(Value::Person(Person::default()))))
}

fn says(author: &mut Author, generation: u64, content: Content) -> EntryItem {
    let (key, by) = (Key::Person("mia".parse().unwrap()), "person:owner".parse().unwrap());
    let said = Said { key, content, generation, knew: Vec::new(), by, declared: false };
    let body = said.to_body().unwrap();
    EntryItem { entry: author.entry(said.key.kind(), body, |entry| entry.critical = true), left_ms: None }
}

fn statements(honest: &Honest) -> usize {
    honest.machine.disk.state().keys(Space::Policy).count()
}

#[test]
fn n1_statements_that_do_not_stand_are_not_held_and_an_owners_are_so_many() {
    let mut honest = Honest::new();
    let mut liar = honest.author(1);
    honest.admit(&liar, Tier::Owner);
    let max = limits::STATEMENTS_MAX as usize;
    let send = |honest: &mut Honest, liar: &mut Author, count: usize| {
        for _ in 0..count / 100 {
            let entries = (0..100).map(|_| says_of_mia(liar, 1)).collect();
            honest.hears(liar, Frame::Entries { entries, more: false });
        }
    };
    send(&mut honest, &mut liar, 500);
    assert_eq!(statements(&honest), 500);
    approve(&mut honest, &liar, Tier::Shared);
    send(&mut honest, &mut liar, 500);
    assert_eq!(statements(&honest), 500, "it is no owner any more");
    honest.crash();
    assert_eq!(statements(&honest), 500);

    let mut other = honest.author(2);
    honest.admit(&other, Tier::Owner);
    send(&mut honest, &mut other, max + 400);
    assert_eq!(statements(&honest), 500 + max, "an owner has its share");

    // r06: what takes away has a share of its own, and that is an end too.
    let person = Person { suspended: true, ..Person::default() };
    let entries = vec![says(&mut other, 1, Content::Value(Box::new(Value::Person(person))))];
    honest.hears(&other, Frame::Entries { entries, more: false });
    assert_eq!(statements(&honest), 500 + max + 1, "a suspension is heard");
    for _ in 0..max / 100 + 2 {
        let entries = (0..100).map(|_| says(&mut other, 1, Content::Deleted)).collect();
        honest.hears(&other, Frame::Entries { entries, more: false });
    }
    assert_eq!(statements(&honest), 500 + 2 * max);
}

#[test]
fn n4_truncations_ahead_of_their_logs_have_a_share_and_leave_with_their_author() {
    let mut honest = Honest::new();
    let run = |first| TruncatedRun { first, last: first, hash: Hash::of(b"x"), hlc: 1 };
    let kept = |honest: &Honest| {
        let rows = honest.machine.disk.scan(Space::Meta, Vec::new(), vec![u8::MAX]);
        rows.filter(|(key, _)| rows::truncation_of(key).is_some()).map(|(_, row)| row.len()).sum::<usize>()
    };
    let mut liars: Vec<Author> = (10..40).map(|n| honest.author(n)).collect();
    for liar in &mut liars {
        honest.admit(liar, Tier::Shared);
        for incarnation in 1..=limits::GUEST_INCARNATIONS_MAX as u32 {
            begin(liar, incarnation);
            liar.seq = 10_000;
            let runs: Vec<TruncatedRun> = (0..limits::TRUNCATED_RUNS_MAX as u64).map(|n| run(2 * n + 1)).collect();
            let entry = liar.says(Kind::TRUNCATION, encode(&Truncation { runs }));
            honest.hears(liar, pushed(entry));
        }
    }
    let most = kept(&honest);
    assert!((limits::TRUNCATIONS_AHEAD_BYTES_MAX / 2..=limits::TRUNCATIONS_AHEAD_BYTES_MAX).contains(&most), "{most}");
    let mut owner = honest.author(2);
    honest.admit(&owner, Tier::Owner);
    owner.seq = 10;
    let entry = owner.says(Kind::TRUNCATION, encode(&Truncation { runs: vec![run(1)] }));
    honest.hears(&owner, pushed(entry));
    assert!(kept(&honest) > most, "others have not taken the owners' share");
    for liar in liars {
        honest.ask(Command::Revoke { peer: liar.id(), unsaid: false });
    }
    assert!(kept(&honest) < 4_000, "{}", kept(&honest));
}

#[test]
fn n7_an_empty_frame_with_more_is_answered_at_a_pace() {
    let mut honest = Honest::new();
    let liar = honest.author(1);
    honest.admit(&liar, Tier::Shared);
    honest.pass(4_000);
    let mut answers = 0;
    for _ in 0..100 {
        let out = honest.hears(&liar, Frame::Entries { entries: Vec::new(), more: true });
        answers += digests(&out, liar.id()).len();
    }
    assert!(answers <= 1, "{answers}");
}

#[test]
fn m2_many_guests_are_revoked_by_one_command() {
    let mut honest = Honest::new();
    let guests: Vec<Author> = (10..).take(limits::REVOKED_AT_ONCE_MAX - 1).map(|n| honest.author(n)).collect();
    for guest in &guests {
        approve(&mut honest, guest, Tier::Shared);
    }
    let stranger = honest.author(2);
    let peers = guests.iter().chain([&stranger]).map(Author::id).collect();
    let out = honest.command(Command::RevokeAll { peers, unsaid: false });
    let view = honest.peer().view();
    assert!(guests.iter().all(|guest| view.by_peer(&guest.id()).is_none()), "all are gone");
    // Who is none of them is named, and stopped nobody.
    let refused = out.iter().find_map(|output| {
        let Output::Reply(_, Reply::RevokedAll(refused)) = output else { return None };
        Some(refused.clone())
    });
    let refused = refused.expect("an answer");
    assert!(matches!(refused.as_slice(), [(peer, Refusal::UnknownNode(_))] if *peer == stranger.id()), "{refused:?}");
    let peers = (0..=limits::REVOKED_AT_ONCE_MAX as u8).map(|n| PeerId([n; 32])).collect();
    assert!(matches!(honest.ask(Command::RevokeAll { peers, unsaid: false }), Reply::Refused(Refusal::Invalid(_))));
}
