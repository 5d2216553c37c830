//! One that fills: its log stops here, what it holds of the book is its share, and nobody else is kept out.

#[cfg(feature = "mutants")]
pub(super) mod left_out;

use mesh_core::audience::Audience;
use mesh_core::budget::{Amount, Budget, OverBudget};
use mesh_core::frame::{EntryItem, Places};
use mesh_core::record::{TruncatedRun, Truncation};

use super::*;

/// An honest peer whose budgets are small.
fn small(change: impl FnOnce(&mut Budget)) -> Honest {
    let mut honest = Honest::new();
    let mut config = config();
    change(&mut config.budgets.guest);
    honest.machine.config = config;
    honest.crash();
    honest.pass(4_000);
    assert!(honest.peer().leads());
    honest
}

fn few(entries: u64) -> Amount {
    Amount { entries, bytes: 1 << 30 }
}

fn says_call(author: &mut Author, counter: u64, target: PeerId) -> SignedEntry {
    let header = header(&author.id(), counter, target);
    author.says(Kind::CALL, encode(&header))
}

#[test]
fn s05_over_its_budget_a_log_stops_and_nobody_elses_does() {
    let mut honest = small(|guest| guest.log = few(10));
    let (mut liar, mut other) = (honest.author(1), honest.author(2));
    honest.admit(&liar, Tier::Shared);
    honest.admit(&other, Tier::Shared);
    let target = honest.author(3).id();
    let before = honest.log_rows();
    for counter in 1..=100 {
        let entry = says_call(&mut liar, counter, target);
        honest.hears(&liar, pushed(entry));
    }
    assert_eq!(honest.log_rows(), before + 20, "others allow twice of it");
    let stopped = honest.peer().view().stopped;
    assert_eq!(stopped.len(), 1);
    assert_eq!((stopped[0].peer, stopped[0].at), (liar.id(), 20));
    assert!(matches!(stopped[0].over, OverBudget::Log(_)), "{:?}", stopped[0].over);
    // Its digest says so, so that nobody sends it again and again.
    let out = honest.step(Input::LinkUp(liar.id()));
    let told = out.iter().any(|output| {
        matches!(output, Output::Send(_, Frame::Digest { rows, .. })
            if rows.iter().any(|row| row.author == liar.id() && row.stopped))
    });
    assert!(told);
    let entry = says_call(&mut other, 1, target);
    honest.hears(&other, pushed(entry));
    assert!(honest.peer().view().stopped.iter().all(|log| log.peer == liar.id()));
    // Also after a restart.
    honest.crash();
    honest.step(Input::LinkUp(liar.id()));
    let entry = says_call(&mut liar, 101, target);
    honest.hears(&liar, pushed(entry));
    assert!(honest.log_rows() <= before + 21 + 32, "a crash forgets no more than a little");
}

#[test]
fn s05_arguments_over_the_inline_limit_stop_a_log() {
    let mut honest = Honest::new();
    let mut liar = honest.author(1);
    honest.admit(&liar, Tier::Shared);
    let target = honest.author(3).id();
    let large = |bytes: usize| Payload::Inline(vec![b' '; bytes].into());
    let over = Header { arguments: large(limits::INLINE_BYTES_MAX + 1), ..header(&liar.id(), 1, target) };
    let entry = liar.says(Kind::CALL, encode(&over));
    honest.hears(&liar, pushed(entry));
    assert_eq!(honest.state(&over.id), None, "it is not acted on");
    let before = honest.log_rows();
    let huge = Header { arguments: large(250_000), ..header(&liar.id(), 2, target) };
    let entry = liar.says(Kind::CALL, encode(&huge));
    honest.hears(&liar, pushed(entry));
    assert_eq!(honest.log_rows(), before, "and what is larger still is not even kept");
    assert!(matches!(honest.peer().view().stopped[0].over, OverBudget::EntryBytes(_)));
}

#[test]
fn s06_an_origin_has_a_share_of_the_book_and_the_forgotten_has_none() {
    let mut honest = small(|guest| guest.open = few(5));
    let (mut liar, mut other) = (honest.author(1), honest.author(2));
    honest.admit(&liar, Tier::Shared);
    honest.admit(&other, Tier::Shared);
    let target = honest.author(3).id();
    for counter in 1..=50 {
        let entry = says_call(&mut liar, counter, target);
        honest.hears(&liar, pushed(entry));
    }
    assert_eq!(honest.peer().open_count(), 10, "twice of what it allows itself");
    let entry = says_call(&mut other, 1, target);
    honest.hears(&other, pushed(entry));
    assert_eq!(honest.peer().open_count(), 11);
    let usage = honest.peer().usage();
    assert!(usage.open.iter().any(|(origin, open)| *origin == liar.id() && open.entries == 10));
    honest.ask(Command::Revoke { peer: liar.id(), unsaid: false });
    assert_eq!(honest.peer().open_count(), 1, "forgetting frees what it had filled");
    assert!(honest.peer().usage().open.iter().all(|(origin, _)| *origin != liar.id()));
    honest.crash();
    assert_eq!(honest.peer().open_count(), 1, "also after a restart");
}

#[test]
#[expect(clippy::wildcard_enum_match_arm, reason = "any other reply fails the test")]
fn s14_a_guest_is_held_to_its_rate_by_its_own_device() {
    let mut honest = Honest::new();
    let guest = Symbolic::new(7);
    let approve =
        Command::Approve { key: guest.public_key(), node_id: "guest".parse().unwrap(), tier: Tier::Shared, stay: None };
    let welcome = honest.approve(approve);
    let mut desk = Desk::newcomer(guest, &welcome, honest.now);
    desk.ask(Command::SetDirectory(offers(vec![tool("append", Effect::Once)])));
    let me = desk.id();
    let mut accepted = 0;
    let refused = loop {
        let new = NewCall { ttl_ms: 1, ..test_kit::call(&me, "append") };
        match desk.ask(Command::Call(new)) {
            Reply::Call { .. } => accepted += 1,
            Reply::Refused(refusal) => break refusal,
            reply => panic!("{reply:?}"),
        }
    };
    assert_eq!(accepted, 200, "the burst");
    let Refusal::OverBudget { over, retry_after_ms } = refused else { panic!("{refused:?}") };
    assert_eq!((over, retry_after_ms <= 20), (OverBudget::Rate(50), true));
    desk.pass(1_000);
    let new = NewCall { ttl_ms: 1, ..test_kit::call(&me, "append") };
    assert!(matches!(desk.ask(Command::Call(new)), Reply::Call { .. }), "and 50 in each second after that");
}

#[test]
fn s14_a_full_disk_takes_no_new_work() {
    let mut honest = Honest::new();
    let me = honest.id();
    honest.step(Input::Disk(mesh_core::io::DiskSpace { free: 10, floor: 20 }));
    let reply = honest.ask(Command::Call(test_kit::call(&me, "append")));
    assert_eq!(reply, Reply::Refused(Refusal::DiskFull { free: 10, floor: 20 }));
    assert!(honest.peer().view().disk.is_some());
    honest.step(Input::Disk(mesh_core::io::DiskSpace { free: 30, floor: 20 }));
    assert!(matches!(honest.ask(Command::Call(test_kit::call(&me, "append"))), Reply::Call { .. }));
    assert_eq!(honest.peer().view().disk, None);
}

#[test]
fn s17_blobs_of_one_origin_are_wanted_only_so_many() {
    let mut honest = small(|guest| guest.blobs = 3);
    let mut liar = honest.author(1);
    honest.admit(&liar, Tier::Shared);
    let target = honest.author(3).id();
    let mut fetched = 0;
    for counter in 1..=50 {
        let arguments = Payload::Blob { hash: Hash::of(&[counter as u8]), len: 100_000 };
        let header = Header { arguments, ..header(&liar.id(), counter, target) };
        let entry = liar.says(Kind::CALL, encode(&header));
        let out = honest.hears(&liar, pushed(entry));
        fetched += out.iter().filter(|output| matches!(output, Output::Fetch { .. })).count();
    }
    assert_eq!(fetched, 6);
}

#[test]
fn s30_a_call_of_the_future_is_listed_by_when_it_came() {
    let mut honest = Honest::new();
    let mut liar = honest.author(1);
    honest.admit(&liar, Tier::Shared);
    let target = honest.author(3).id();
    let now_ms = honest.now.wall_ms;
    let future = Header { accepted_ms: now_ms + 100 * YEAR_MS, ..header(&liar.id(), 1, target) };
    let entry = liar.says(Kind::CALL, encode(&future));
    honest.hears(&liar, pushed(entry));
    let record = honest.peer().open_call(&future.id).unwrap();
    assert_eq!(record.listed_ms(), now_ms);
    let keys: Vec<_> = honest.machine.disk.state().keys(Space::CallsByTime).map(<[u8]>::to_vec).collect();
    assert!(keys.iter().all(|key| rows::by_time_of(key).unwrap().0 <= now_ms + 1_000));
}

#[test]
fn s31_digests_are_answered_at_a_pace() {
    let mut honest = Honest::new();
    let liar = honest.author(1);
    honest.admit(&liar, Tier::Shared);
    let empty = || Frame::Digest { authors: Authors::ALL, rows: Vec::new(), changes: Hash::ZERO };
    let mut answered = 0;
    for _ in 0..500 {
        let out = honest.hears(&liar, empty());
        answered += out
            .iter()
            .filter(|output| matches!(output, Output::Send(_, Frame::Entries { entries, .. }) if !entries.is_empty()))
            .count();
    }
    assert!(answered < 100, "{answered}");
    let out = honest.pass(2_000);
    assert!(out.iter().any(|output| matches!(output, Output::Send(_, Frame::Entries { .. }))), "the last one waits");
}

#[test]
fn s05_arguments_of_an_open_call_are_stored_once_and_come_back() {
    let mut honest = Honest::new();
    let mut liar = honest.author(1);
    honest.admit(&liar, Tier::Shared);
    let arguments = Payload::Inline(vec![b'7'; 30_000].into());
    let call = Header { arguments, ..header(&liar.id(), 1, liar.id()) };
    let entry = liar.says(Kind::CALL, encode(&call));
    honest.hears(&liar, pushed(entry));
    let rows: Vec<usize> = honest.machine.disk.state().rows(Space::Open).map(bytes::Bytes::len).collect();
    assert!(rows.len() == 1 && (30_000..32_000).contains(&rows[0]), "{rows:?}");
    honest.crash();
    let record = honest.peer().open_call(&call.id).expect("it is open still");
    assert_eq!(*record.header, call);
}

#[test]
fn s31_bodies_that_are_wanted_are_read_at_a_pace() {
    let mut honest = Honest::new();
    let liar = honest.author(1);
    honest.admit(&liar, Tier::Shared);
    let incarnation = honest.peer().view().incarnation;
    let me = honest.id();
    let wanted = || vec![Places { author: me, incarnation, first: 1, last: 2 }];
    let is_answer = |output: &&Output| matches!(output, Output::Send(_, Frame::Bodies { .. }));
    let mut answered = 0;
    for _ in 0..500 {
        let frame = Frame::Want(wanted());
        answered += honest.hears(&liar, frame).iter().filter(is_answer).count();
    }
    assert!((1..100).contains(&answered), "{answered}");
    let out = honest.pass(2_000);
    assert_eq!(out.iter().filter(is_answer).count(), 1, "the last one waits");
}

#[test]
fn s05_client_keys_are_few_and_leave_memory_when_their_time_is_over() {
    const DAY_MS: u64 = 24 * 3600 * 1000;
    let mut honest = small(|guest| guest.keys = 3);
    let mut liar = honest.author(1);
    honest.admit(&liar, Tier::Shared);
    let me = honest.id();
    let mut asks = |honest: &mut Honest, counter: u64| {
        let client_key = Some(format!("key-{counter}"));
        let call = Header { client_key, ..test_kit::header(&liar.id(), counter, me, "append") };
        let entry = liar.says(Kind::CALL, encode(&call));
        honest.hears(&liar, pushed(entry));
        honest.machine.disk.state().keys(Space::Keys).count()
    };
    let kept = (1..=20).map(|counter| asks(&mut honest, counter)).max();
    assert_eq!(kept, Some(6), "others allow twice of it");
    let later = honest.now;
    honest.now = Now { mono_ms: later.mono_ms + 2 * DAY_MS, wall_ms: later.wall_ms + 2 * DAY_MS };
    honest.step(Input::Wake);
    assert_eq!(asks(&mut honest, 21), 1, "those whose time is over are gone, and there is room for one more");
}

#[test]
fn s05_whoever_has_used_up_its_keys_has_some_again_when_their_time_is_over() {
    const DAY_MS: u64 = 24 * 3600 * 1000;
    let mut honest = Honest::new();
    honest.machine.config.budgets.owner.keys = 3;
    honest.crash();
    honest.pass(4_000);
    let me = honest.id();
    let asks = |honest: &mut Honest, key: u64| {
        let client_key = Some(format!("key-{key}"));
        honest.ask(Command::Call(NewCall { client_key, ..test_kit::call(&me, "append") }))
    };
    for key in 1..=3 {
        assert!(matches!(asks(&mut honest, key), Reply::Call { created: true, .. }));
    }
    let refused = asks(&mut honest, 4);
    assert!(matches!(refused, Reply::Refused(Refusal::OverBudget { over: OverBudget::Keys(3), .. })), "{refused:?}");
    let later = honest.now;
    honest.now = Now { mono_ms: later.mono_ms + 2 * DAY_MS, wall_ms: later.wall_ms + 2 * DAY_MS };
    honest.step(Input::Wake);
    assert!(matches!(asks(&mut honest, 4), Reply::Call { created: true, .. }));
}

#[test]
fn s05_a_dispatch_brings_no_more_headers_into_the_book_than_the_share_of_their_origin() {
    let mut honest = small(|guest| guest.open = few(5));
    let (mut liar, accomplice) = (honest.author(1), honest.author(2));
    honest.admit(&liar, Tier::Shared);
    honest.admit(&accomplice, Tier::Owner);
    let me = honest.id();
    let led = honest.peer().view().gateway.unwrap();
    honest.hears(&accomplice, Frame::Digest { authors: Authors::ALL, rows: Vec::new(), changes: Hash::ZERO });
    let epoch = Epoch { counter: led.counter + 1, class: 3, peer: accomplice.id() };
    let mut busy = 0;
    for counter in 1..=50 {
        let header = liar.says(Kind::CALL, encode(&header(&liar.id(), counter, me)));
        let claim = Claim::sign(&accomplice.key, accomplice.mesh, epoch, 1);
        let dispatch = Dispatch { claim, header, attempt: 1, left_ms: 60_000, consents: Vec::new() };
        let out = honest.hears(&accomplice, Frame::Dispatch(dispatch));
        let is_busy = |o: &Output| matches!(o, Output::Send(_, Frame::Answer(Answer { what: AnswerKind::Busy, .. })));
        busy += usize::from(out.iter().any(is_busy));
    }
    assert!(honest.peer().open_count() <= 10, "twice of what it allows itself: {}", honest.peer().open_count());
    assert!(busy >= 40, "{busy}");
}

/// A call whose arguments are a blob that nobody brings.
fn says_call_without_arguments(author: &mut Author, counter: u64, target: PeerId) -> SignedEntry {
    let arguments = Payload::Blob { hash: Hash::of(&counter.to_be_bytes()), len: 100_000 };
    author.says(Kind::CALL, encode(&Header { arguments, ..header(&author.id(), counter, target) }))
}

/// Runs that these outputs begin, of calls of this origin.
fn begun(out: &[Output], origin: PeerId) -> usize {
    out.iter().filter(|output| matches!(output, Output::Invoke(run) if run.origin == origin)).count()
}

#[test]
fn k2_calls_whose_arguments_never_come_take_no_place() {
    let mut honest = Honest::new();
    let (mut liar, mut owner, mut other) = (honest.author(1), honest.author(2), honest.author(3));
    honest.admit(&liar, Tier::Shared);
    honest.admit(&owner, Tier::Owner);
    honest.admit(&other, Tier::Shared);
    let me = honest.id();
    for counter in 1..=60 {
        for author in [&mut liar, &mut owner] {
            let entry = says_call_without_arguments(author, counter, me);
            honest.hears(author, pushed(entry));
        }
    }
    let out = honest.command(Command::Call(test_kit::call(&me, "append")));
    assert_eq!(begun(&out, me), 1, "our own call runs");
    let entry = says_call(&mut other, 1, me);
    let out = honest.hears(&other, pushed(entry));
    assert_eq!(begun(&out, other.id()), 1, "and another guest's");
    // What comes all the same runs, within its origin's share.
    let mut ran = 0;
    for counter in 1..=60_u64 {
        let out = honest.step(Input::Fetched(Hash::of(&counter.to_be_bytes())));
        ran += begun(&out, owner.id());
    }
    assert!(ran > 0, "arguments that come late are not too late");
}

#[test]
fn k2_a_guests_runs_leave_places_for_others() {
    let mut honest = Honest::new();
    let (mut liar, mut other) = (honest.author(1), honest.author(2));
    honest.admit(&liar, Tier::Shared);
    honest.admit(&other, Tier::Shared);
    let me = honest.id();
    let mut ran = 0;
    for counter in 1..=200 {
        let entry = says_call(&mut liar, counter, me);
        let out = honest.hears(&liar, pushed(entry));
        ran += begun(&out, liar.id());
    }
    assert_eq!(ran, 2, "of four places");
    let entry = says_call(&mut other, 1, me);
    let out = honest.hears(&other, pushed(entry));
    assert_eq!(begun(&out, other.id()), 1);
    let out = honest.command(Command::Call(test_kit::call(&me, "append")));
    assert_eq!(begun(&out, me), 1);
}

#[test]
fn s14_what_others_write_does_not_fill_the_disk() {
    let mut honest = Honest::new();
    let (mut guest, mut owner) = (honest.author(1), honest.author(2));
    honest.admit(&guest, Tier::Shared);
    honest.admit(&owner, Tier::Owner);
    let target = honest.author(3).id();
    let grows = |honest: &mut Honest, author: &mut Author, counter| {
        let before = honest.log_rows();
        let entry = says_call(author, counter, target);
        honest.hears(author, pushed(entry));
        honest.log_rows() > before
    };
    assert!(grows(&mut honest, &mut guest, 1) && grows(&mut honest, &mut owner, 1));
    honest.step(Input::Disk(mesh_core::io::DiskSpace { free: 15, floor: 20 }));
    assert!(!grows(&mut honest, &mut guest, 2), "below the floor no guest's log goes on");
    assert!(honest.peer().view().stopped.iter().all(|log| log.over == OverBudget::Disk));
    assert!(grows(&mut honest, &mut owner, 2));
    honest.step(Input::Disk(mesh_core::io::DiskSpace { free: 5, floor: 20 }));
    assert!(!grows(&mut honest, &mut owner, 3), "below half of it no new work of owners comes in");
    honest.step(Input::Disk(mesh_core::io::DiskSpace { free: 30, floor: 20 }));
    assert!(honest.peer().view().stopped.is_empty());
}

/// Endings that an honest peer signed.
fn endings_of(honest: &Honest) -> usize {
    let me = honest.id();
    let rows = honest.machine.disk.logs_of(&me).filter_map(|(_, row)| SignedEntry::from_stored(row));
    rows.filter(|entry| entry.entry.kind == Kind::OUTCOME).count()
}

#[test]
fn s14_calls_that_never_run_are_within_their_origins_budget_too() {
    let mut honest = small(|guest| guest.journal = 10);
    let (mut liar, mut owner) = (honest.author(1), honest.author(2));
    honest.admit(&liar, Tier::Shared);
    honest.admit(&owner, Tier::Owner);
    let me = honest.id();
    // Denied, cancelled and expired.
    for counter in 1..=60 {
        let call = Header { ttl_ms: 10, ..test_kit::header(&liar.id(), counter, me, "gone") };
        let entry = liar.says(Kind::CALL, encode(&call));
        let item = EntryItem { entry, left_ms: Some(u64::from(counter % 3 > 0) * 10) };
        honest.hears(&liar, Frame::Entries { entries: vec![item], more: false });
        if counter % 5 == 0 {
            let cancel = CancelRequest { id: call.id, reason: "no".to_owned(), expired: false };
            let entry = liar.says(Kind::CANCEL, encode(&cancel));
            honest.hears(&liar, pushed(entry));
        }
        honest.pass(50);
    }
    honest.pass(60_000);
    assert_eq!(endings_of(&honest), 10);
    let entry = owner.says(Kind::CALL, encode(&test_kit::header(&owner.id(), 1, me, "gone")));
    honest.hears(&owner, pushed(entry));
    assert_eq!(endings_of(&honest), 11, "an owner's call ends as ever");
    honest.ask(Command::Revoke { peer: liar.id(), unsaid: false });
    assert_eq!(honest.peer().open_count(), 0, "forgetting frees what could not be ended");
}

#[test]
fn s14_answers_to_unknown_calls_cost_an_honest_target_nothing() {
    let mut honest = small(|guest| guest.per_hour = few(5));
    let mut target = honest.author(1);
    honest.admit(&target, Tier::Shared);
    let origin = honest.author(3).id();
    for counter in 1..=50 {
        let id = header(&origin, counter, target.id()).id;
        let about = Audience::Call { origin, target: target.id() };
        let entry = target.entry(Kind::OUTCOME, encode(&outcome(id, Ending::Denied)), |entry| entry.audience = about);
        honest.hears(&target, pushed(entry));
    }
    assert!(honest.peer().view().stopped.is_empty(), "{:?}", honest.peer().view().stopped);
}

#[test]
fn s05_calls_that_are_over_stay_within_their_origins_budget() {
    let mut honest = small(|guest| guest.closed = few(20));
    let mut liar = honest.author(1);
    honest.admit(&liar, Tier::Shared);
    let me = honest.id();
    let own = honest.command(Command::Call(test_kit::call(&me, "append")));
    let run = own.iter().find_map(|output| if let Output::Invoke(run) = output { Some(run.id) } else { None });
    honest.step(Input::ToolEnded(run.unwrap(), 1, test_kit::done()));
    let rows = |honest: &Honest| {
        let state = honest.machine.disk.state();
        (state.keys(Space::Calls).count(), state.keys(Space::CallsByTime).count())
    };
    let before = rows(&honest);
    let itself = liar.id();
    for counter in 1..=200 {
        let entry = says_call(&mut liar, counter, itself);
        honest.hears(&liar, pushed(entry));
        let over = outcome(header(&itself, counter, itself).id, Ending::Done);
        let entry = liar.says(Kind::OUTCOME, encode(&over));
        honest.hears(&liar, pushed(entry));
    }
    assert_eq!(rows(&honest).0, before.0 + 200);
    honest.pass(2_000);
    let after = rows(&honest);
    assert!(after.0 <= before.0 + 20 && after.0 > before.0 + 10, "{before:?} {after:?}");
    assert_eq!(after.0 - before.0, after.1 - before.1, "they leave the list too");
    honest.crash();
    honest.pass(2_000);
    assert!(rows(&honest).0 >= before.0 + 10, "counted once");
    let newest = header(&liar.id(), 200, liar.id()).id;
    assert!(honest.machine.disk.has(&rows::call(&newest)), "the oldest went");
    assert!(honest.machine.disk.has(&rows::call(&run.unwrap())), "and none of our own");
}

#[test]
fn s05_what_a_truncation_frees_is_not_filled_again_at_once() {
    let mut honest = Honest::new();
    let mut config = Config { keep_entries_ms: 20_000, ..config() };
    config.budgets.guest.log = few(10);
    honest.machine.config = config;
    honest.crash();
    honest.pass(4_000);
    let mut liar = honest.author(1);
    honest.admit(&liar, Tier::Shared);
    let target = honest.author(3).id();
    let says = |honest: &mut Honest, liar: &mut Author, counters: std::ops::RangeInclusive<u64>| {
        for counter in counters {
            let entry = says_call(liar, counter, target);
            honest.hears(liar, pushed(entry));
        }
    };
    says(&mut honest, &mut liar, 1..=15);
    let run = TruncatedRun { first: 1, last: liar.seq, hash: liar.previous, hlc: liar.hlc };
    let entry = liar.says(Kind::TRUNCATION, encode(&Truncation { runs: vec![run] }));
    honest.hears(&liar, pushed(entry));
    honest.pass(500);
    assert_eq!(honest.machine.disk.logs_of(&liar.id()).count(), 1, "its rows are gone");
    says(&mut honest, &mut liar, 16..=30);
    let stopped = honest.peer().view().stopped;
    assert_eq!(stopped.len(), 1, "more than its budget in a moment");
    assert!(matches!(stopped[0].over, OverBudget::Log(_)), "{:?}", stopped[0].over);
    honest.pass(20_000);
    assert!(honest.peer().view().stopped.is_empty(), "an honest author has all of it back in time");
}

#[test]
fn k2_a_lowered_owner_keeps_what_it_had_and_gets_a_guests_share() {
    let mut honest = Honest::new();
    let mut config = config();
    config.budgets.guest.log = few(10);
    config.budgets.owner.log = few(80);
    honest.machine.config = config;
    honest.crash();
    honest.pass(4_000);
    let mut boss = honest.author(1);
    honest.admit(&boss, Tier::Owner);
    let target = honest.author(3).id();
    for counter in 1..=400 {
        if counter == 51 {
            let node_id = "boss".parse().unwrap();
            honest.ask(Command::Approve { key: boss.public_key(), node_id, tier: Tier::Shared, stay: None });
        }
        let entry = says_call(&mut boss, counter, target);
        honest.hears(&boss, pushed(entry));
    }
    let held = honest.machine.disk.logs_of(&boss.id()).count();
    assert_eq!(held, 2 * (50 + 10), "what it had, and a guest's share");
}
