//! One that is fast: an hour has so much of it, and a device runs so many of its calls.

use std::num::NonZeroU8;

use mesh_core::budget::{Amount, Budget, OverBudget};
use mesh_core::config::{Config, Rate};
use mesh_core::ids::Attempt;
use mesh_core::policy::{Otherwise, Verdict, WorkspaceId};

use super::*;

const HOUR_MS: u64 = 3_600_000;

/// An honest peer whose budgets of guests are small.
fn small(change: impl FnOnce(&mut Budget)) -> Honest {
    let mut honest = Honest::new();
    let mut config = Config::default();
    change(&mut config.budgets.guest);
    honest.machine.config = config;
    honest.crash();
    honest.pass(4_000);
    honest
}

#[test]
fn s14_an_hour_has_so_much_of_a_guest_and_its_log_goes_on_after_it() {
    let mut honest = small(|guest| guest.per_hour = Amount { entries: 10, bytes: 1 << 30 });
    let (mut liar, mut other) = (honest.author(1), honest.author(2));
    honest.admit(&liar, Tier::Shared);
    honest.admit(&other, Tier::Shared);
    let target = honest.author(3).id();
    let before = honest.log_rows();
    let said: Vec<SignedEntry> = (1..=100)
        .map(|counter| {
            let header = header(&liar.id(), counter, target);
            liar.says(Kind::CALL, encode(&header))
        })
        .collect();
    for entry in &said {
        honest.hears(&liar, pushed(entry.clone()));
    }
    assert_eq!(honest.log_rows(), before + 20, "others allow twice of it");
    let stopped = honest.peer().view().stopped;
    assert!(matches!(stopped[..], [ref one] if matches!(one.over, OverBudget::PerHour(_)) && one.until_ms.is_some()));
    let call = header(&other.id(), 1, target);
    let entry = other.says(Kind::CALL, encode(&call));
    honest.hears(&other, pushed(entry));
    assert_eq!(honest.log_rows(), before + 21, "nobody else's stops");
    // An hour later it goes on. What it caught up on was said long ago: that is bounded by the total alone.
    let later = HOUR_MS + 1_000;
    honest.now = Now { mono_ms: honest.now.mono_ms + later, wall_ms: honest.now.wall_ms + later };
    honest.step(Input::Wake);
    assert!(honest.peer().view().stopped.is_empty());
    for entry in &said[20..] {
        honest.hears(&liar, pushed(entry.clone()));
    }
    assert_eq!(honest.log_rows(), before + 101);
    // Of what it says now, an hour has so much again.
    liar.hlc = honest.now.wall_ms << 16;
    for counter in 101..=200 {
        let header = header(&liar.id(), counter, target);
        let entry = liar.says(Kind::CALL, encode(&header));
        honest.hears(&liar, pushed(entry));
    }
    let taken = honest.log_rows() - before - 101;
    assert!((1..=20).contains(&taken) && honest.peer().view().stopped.len() == 1, "{taken}");
}

#[test]
fn s14_a_device_runs_so_many_calls_of_a_guest() {
    let mut honest = small(|guest| guest.journal = 3);
    let (mut liar, mut other) = (honest.author(1), honest.author(2));
    honest.admit(&liar, Tier::Shared);
    honest.admit(&other, Tier::Shared);
    let me = honest.id();
    let ran = |honest: &mut Honest, author: &mut Author, counter: u64| {
        let call = header(&author.id(), counter, me);
        let entry = author.says(Kind::CALL, encode(&call));
        let out = honest.hears(author, pushed(entry));
        let runs = out.iter().filter_map(|output| if let Output::Invoke(run) = output { Some(run) } else { None });
        let runs: Vec<(ReqId, Attempt)> = runs.map(|run| (run.id, run.attempt)).collect();
        for (id, attempt) in &runs {
            honest.step(Input::ToolEnded(*id, *attempt, test_kit::done()));
        }
        runs.len()
    };
    let all: usize = (1..=10).map(|counter| ran(&mut honest, &mut liar, counter)).sum();
    assert_eq!(all, 3);
    assert_eq!(ran(&mut honest, &mut other, 1), 1, "nobody else's are fewer");
    // Also after a restart.
    honest.crash();
    honest.step(Input::LinkUp(liar.id()));
    honest.pass(4_000);
    assert_eq!((11..=15).map(|counter| ran(&mut honest, &mut liar, counter)).sum::<usize>(), 0);
}

/// Mia and Tom, whose agents may use what is here, at a device that lets each ask so often.
fn shared_by_people(rate: Rate) -> Honest {
    let mut honest = Honest::new();
    honest.machine.config = Config { rate, ..Config::default() };
    honest.crash();
    honest.pass(4_000);
    let home: WorkspaceId = "home".parse().unwrap();
    let otherwise = Otherwise { members: Verdict::Allow, agents: Verdict::Allow, ..Otherwise::default() };
    let workspace = Workspace { otherwise, ..Workspace::default() };
    let mut changes = vec![
        (Key::Workspace(home.clone()), Some(Value::Workspace(workspace))),
        (Key::Binding(home.clone(), "main".parse().unwrap()), Some(Value::Binding(Binding::default()))),
    ];
    for person in ["mia", "tom"] {
        changes.push((Key::Person(person.parse().unwrap()), Some(Value::Person(Person::default()))));
        changes.push((Key::Member(home.clone(), person.parse().unwrap()), Some(Value::Member(Role::Member))));
    }
    let by = "person:owner".parse().unwrap();
    let edited = honest.ask(Command::Edit(Edit { by, changes, declared: false, force: false, seen: Vec::new() }));
    assert!(matches!(edited, Reply::Edited { .. }), "{edited:?}");
    honest
}

fn asks(honest: &mut Honest, who: &str, tool: &str, key: Option<u32>) -> Reply {
    let me = honest.id();
    let client_key = key.map(|key| format!("key-{key}"));
    honest.ask(Command::Call(NewCall {
        principal: Some(who.parse().unwrap()),
        client_key,
        ..test_kit::call(&me, tool)
    }))
}

#[test]
fn p12_an_agent_that_floods_one_tool_stops_nobody_else() {
    let mut honest = shared_by_people(Rate { per_s: 2, burst: 4 });
    let offers = offers(vec![tool("append", Effect::Once), tool("read", Effect::None)]);
    honest.ask(Command::SetDirectory(offers));
    let flood = |honest: &mut Honest| {
        let mut taken = Vec::new();
        for n in 0..500 {
            // Another name each time, since it is anybody's to choose.
            let reply = asks(honest, &format!("agent:mia/a{n}"), "append", None);
            if let Reply::Call { id, .. } = reply {
                taken.push(id);
            } else if let Reply::Refused(Refusal::RateLimited(limited)) = &reply {
                assert!((1..=500).contains(&limited.retry_after_ms), "{limited:?}");
                assert!(limited.to_string().contains("2 calls a second"), "{limited}");
            } else {
                panic!("{reply:?}");
            }
        }
        taken
    };
    let before = honest.log_rows();
    assert_eq!(flood(&mut honest).len(), 4);
    assert!(honest.log_rows() - before <= 8, "what is refused leaves nothing in the log but a row of the audit");
    for (who, tool) in [("agent:tom/a1", "append"), ("person:mia", "append"), ("agent:mia/a1", "read")] {
        let reply = asks(&mut honest, who, tool, None);
        assert!(matches!(reply, Reply::Call { created: true, .. }), "{who} {tool}: {reply:?}");
    }
    // Owners have no rate.
    for _ in 0..50 {
        assert!(matches!(asks(&mut honest, "person:owner", "append", None), Reply::Call { created: true, .. }));
    }
    // When it comes back as it was told, it is let through; what it was taken for before is not asked anew.
    honest.pass(500);
    let Reply::Call { id, created: true } = asks(&mut honest, "agent:mia/a1", "append", Some(1)) else {
        panic!("not taken")
    };
    assert!(flood(&mut honest).is_empty());
    assert_eq!(asks(&mut honest, "agent:mia/a1", "append", Some(1)), Reply::Call { id, created: false });
}

#[test]
pub(super) fn p12_no_more_of_a_tool_run_at_once_than_its_device_says() {
    let mut honest = Honest::new();
    honest.machine.config = config();
    let one = ToolDecl { at_once: NonZeroU8::new(1), ..tool("append", Effect::Once) };
    honest.ask(Command::SetDirectory(offers(vec![one])));
    let (mut guest, mut owner) = (honest.author(1), honest.author(2));
    honest.admit(&guest, Tier::Shared);
    honest.admit(&owner, Tier::Owner);
    let me = honest.id();
    let mut began: Vec<(ReqId, Attempt, PeerId)> = Vec::new();
    let note = |out: Vec<Output>, began: &mut Vec<(ReqId, Attempt, PeerId)>| {
        for output in out {
            if let Output::Invoke(run) = output {
                began.push((run.id, run.attempt, run.origin));
            }
        }
    };
    // The guest comes first, with as much as it likes.
    for counter in 1..=50 {
        let call = header(&guest.id(), counter, me);
        let entry = guest.says(Kind::CALL, encode(&call));
        note(honest.hears(&guest, pushed(entry)), &mut began);
    }
    for counter in 1..=3 {
        let call = header(&owner.id(), counter, me);
        let entry = owner.says(Kind::CALL, encode(&call));
        note(honest.hears(&owner, pushed(entry)), &mut began);
    }
    note(honest.command(Command::Call(test_kit::call(&me, "append"))), &mut began);
    for ended in 0..10 {
        assert_eq!(began.len(), ended + 1, "one at a time");
        let (id, attempt, _) = began[ended];
        note(honest.step(Input::ToolEnded(id, attempt, test_kit::done())), &mut began);
    }
    let owners = began.iter().take(5).filter(|(_, _, origin)| *origin != guest.id()).count();
    assert!(owners >= 2, "they do not wait behind all that a guest asked for: {began:?}");
}

/// A gateway that lets through what its target forbids gets the denial at once, also while all places of the tool are taken: such
/// a call takes no place in the queue of the device.
#[test]
pub(super) fn k1_a_call_that_is_not_allowed_does_not_wait_for_a_place() {
    let mut honest = Honest::new();
    honest.machine.config = config();
    let lock = ToolDecl { at_once: NonZeroU8::new(1), owner_only: true, ..tool("append", Effect::Once) };
    honest.ask(Command::SetDirectory(offers(vec![lock])));
    let (owner, mut guest) = (honest.author(1), honest.author(2));
    honest.admit(&owner, Tier::Owner);
    honest.admit(&guest, Tier::Shared);
    let me = honest.id();
    honest.hears(&owner, Frame::Digest { authors: Authors::ALL, rows: Vec::new(), changes: Hash::ZERO });
    let led = honest.peer().view().gateway.unwrap().counter;
    let claim = Claim::sign(&owner.key, owner.mesh, Epoch { counter: led + 1, class: 15, peer: owner.id() }, 1);
    let sends = |honest: &mut Honest, author: &mut Author| {
        let call = header(&author.id(), 1, me);
        let header = author.says(Kind::CALL, encode(&call));
        let sent = Dispatch { claim: claim.clone(), header, attempt: 1, left_ms: 60_000, consents: Vec::new() };
        (call.id, honest.hears(&owner, Frame::Dispatch(sent)))
    };
    let mut helper = honest.author(3);
    honest.admit(&helper, Tier::Owner);
    let (runs, out) = sends(&mut honest, &mut helper);
    assert!(out.iter().any(|output| matches!(output, Output::Invoke(run) if run.id == runs)), "{out:?}");
    let (denied, out) = sends(&mut honest, &mut guest);
    let ends = |output: &Output| matches!(output, Output::Fact(Fact::Call(id, row)) if *id == denied && row.state == CallState::Ended(Ending::Denied));
    assert!(out.iter().any(ends), "{out:?}");
}
