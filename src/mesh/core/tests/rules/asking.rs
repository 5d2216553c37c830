//! Calls that ask: they wait for a person, wherever she sits, and run only by her yes.

use mesh_core::answer_words::{said_before, too_late};
use mesh_core::entry::{Kind, encode};
use mesh_core::frame::{EntryItem, Frame, Phase};
use mesh_core::ids::{Hash, ReqId};
use mesh_core::io::{AnswerChoice, CallState, Command, Edit, Input, NewAnswer, NewCall, Refusal, Reply};
use mesh_core::policy::{
    Binding, Choice, Consent, Device, Key, Note, Otherwise, Person, Role, Rule, RuleVerdict, Value, Verdict, Workspace,
};
use mesh_core::record::{Ending, Tier};
use mesh_core::test_kit::{Net, id};

use crate::call;

const WAIT_MS: u64 = 20_000;

fn parse<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn change(net: &mut Net, n: usize, changes: Vec<(Key, Option<Value>)>) {
    let edit = Edit { by: parse("person:owner"), changes, declared: false, force: false, seen: Vec::new() };
    let reply = net.command(n, Command::Edit(edit));
    assert!(matches!(reply, Reply::Edited { .. }), "{reply:?}");
}

/// `home` holds everything. Mia is a member, Anna an admin; what members use of `echo` is asked about.
fn home(net: &mut Net) {
    let asks = Rule {
        who: Some(vec![parse("role:member")]),
        tools: Some(vec![parse("echo")]),
        wait_ms: Some(WAIT_MS),
        ..Rule::of(RuleVerdict::Ask)
    };
    let changes = vec![
        (Key::Person(parse("mia")), Some(Value::Person(Person::default()))),
        (Key::Person(parse("anna")), Some(Value::Person(Person::default()))),
        (
            Key::Workspace(parse("home")),
            Some(Value::Workspace(Workspace {
                otherwise: Otherwise { agents: Verdict::Ask, ..Otherwise::default() },
                ..Workspace::default()
            })),
        ),
        (Key::Member(parse("home"), parse("mia")), Some(Value::Member(Role::Member))),
        (Key::Member(parse("home"), parse("anna")), Some(Value::Member(Role::Admin))),
        (Key::Binding(parse("home"), parse("main")), Some(Value::Binding(Binding::default()))),
        (Key::Rule(parse("home/doors")), Some(Value::Rule(asks))),
    ];
    change(net, 0, changes);
}

fn by_mia(target: usize) -> NewCall {
    NewCall { principal: Some(parse("person:mia")), ttl_ms: 20_000, ..call(target) }
}

fn answer(net: &mut Net, n: usize, id: ReqId, by: &str, choice: AnswerChoice) -> Reply {
    net.command(n, Command::Answer(NewAnswer { id, by: parse(by), choice, note: Note::default() }))
}

fn says(net: &mut Net, n: usize, id: ReqId, by: &str, choice: AnswerChoice) {
    let reply = answer(net, n, id, by, choice);
    assert!(matches!(reply, Reply::Answered { .. }), "{reply:?}");
}

fn state(net: &Net, n: usize, id: &ReqId) -> CallState {
    net.record(n, id).unwrap().state
}

fn waits(net: &Net, n: usize, id: &ReqId) -> bool {
    net.peer(n).approvals().iter().any(|approval| approval.id == *id)
}

fn ended(net: &Net, n: usize, id: &ReqId) -> (CallState, String) {
    let record = net.record(n, id).unwrap();
    (record.state, record.reason)
}

#[test]
fn a_call_that_asks_waits_everywhere_and_runs_by_a_yes_once() {
    let mut net = Net::of(3);
    home(&mut net);
    let call = net.ask(1, by_mia(2));
    net.pass(1_000);
    for n in 0..3 {
        assert_eq!(state(&net, n, &call), CallState::Open(Phase::Asking), "at {n}");
        let approvals = net.peer(n).approvals();
        let [approval] = approvals.as_slice() else { panic!("{approvals:?}") };
        let people: Vec<String> = approval.asks[0].1.iter().map(ToString::to_string).collect();
        assert_eq!(
            (approval.asks[0].0.to_string().as_str(), people.as_slice()),
            ("home/doors", &["anna".to_owned(), "owner".to_owned()][..])
        );
    }
    assert_eq!(net.runs(&call), 0);
    says(&mut net, 0, call, "person:anna", AnswerChoice::Once);
    net.pass(1_000);
    assert_eq!(net.runs(&call), 1);
    assert!(net.peer(0).approvals().is_empty());
    // Another of the same kind asks again.
    let next = net.ask(1, by_mia(2));
    net.pass(1_000);
    assert!(waits(&net, 0, &next));
    assert_eq!(net.runs(&next), 0);
}

#[test]
fn an_hour_lets_calls_alike_run_until_it_is_over_and_dies_with_the_process() {
    let mut net = Net::of(2);
    home(&mut net);
    let first = net.ask(1, by_mia(0));
    net.pass(500);
    says(&mut net, 0, first, "person:owner", AnswerChoice::Hour);
    net.pass(1_000);
    let second = net.ask(1, by_mia(0));
    net.pass(1_000);
    assert_eq!((net.runs(&first), net.runs(&second)), (1, 1));
    net.finish_tools(0);
    net.pass(3_600_000);
    let third = net.ask(1, by_mia(0));
    net.pass(1_000);
    assert_eq!(net.runs(&third), 0, "the hour is over");
    says(&mut net, 0, third, "person:owner", AnswerChoice::Hour);
    net.pass(1_000);
    assert_eq!(net.runs(&third), 1);
    for n in 0..2 {
        net.restart(n);
    }
    net.join_all();
    let fourth = net.ask(1, by_mia(0));
    net.pass(1_000);
    assert_eq!(net.runs(&fourth), 0, "nobody knows what is left of it");
}

#[test]
fn an_hour_that_is_taken_back_lets_nothing_through() {
    let mut net = Net::of(2);
    home(&mut net);
    net.pass(1_000);
    for by in ["person:owner", "person:anna"] {
        let first = net.ask(1, by_mia(0));
        net.pass(500);
        assert!(waits(&net, 0, &first), "an hour that is taken back counts for {by}");
        says(&mut net, 0, first, "person:owner", AnswerChoice::Hour);
        net.pass(1_000);
        let second = net.ask(1, by_mia(0));
        net.pass(1_000);
        assert_eq!((net.runs(&first), net.runs(&second)), (1, 1));
        net.finish_tools(0);
        let hours = net.peer(1).hours();
        assert_eq!((hours.len(), hours[0].at, hours[0].consent.by.as_str()), (1, id(0), "owner"));
        let hour = hours[0].id;
        let take_back = |net: &mut Net, by: &str| net.command(0, Command::TakeBack { hour, by: parse(by) });
        for no in ["person:mia", "agent:owner/claude", "device:n1"] {
            let refused = take_back(&mut net, no);
            assert!(matches!(refused, Reply::Refused(Refusal::NotApprover(_))), "{no}: {refused:?}");
        }
        assert_eq!(net.peer(0).hours().len(), 1);
        for _ in 0..2 {
            let taken = take_back(&mut net, by);
            assert!(matches!(&taken, Reply::TakenBack { of } if *of == [parse("home/doors")]), "{by}: {taken:?}");
        }
        net.pass(1_000);
        assert!(net.peer(0).hours().is_empty() && net.peer(1).hours().is_empty());
    }
    let last = net.ask(1, by_mia(0));
    net.pass(1_000);
    assert_eq!(net.runs(&last), 0);
    let nothing = net.command(0, Command::TakeBack { hour: Hash([7; 32]), by: parse("person:owner") });
    assert!(matches!(nothing, Reply::Refused(Refusal::UnknownHour(_))), "{nothing:?}");
}

/// It stays so once the device at which it was taken back speaks for nobody any more.
#[test]
fn an_hour_that_is_taken_back_does_not_come_back_with_the_device_that_said_so() {
    let mut net = Net::of(3);
    home(&mut net);
    change(
        &mut net,
        0,
        vec![(Key::Device(id(2)), Some(Value::Device(Device { people: vec![parse("anna")], ..Device::default() })))],
    );
    net.pass(1_000);
    let first = net.ask(1, by_mia(0));
    net.pass(500);
    says(&mut net, 0, first, "person:owner", AnswerChoice::Hour);
    net.pass(1_000);
    net.finish_tools(0);
    let hour = net.peer(2).hours()[0].id;
    let taken = net.command(2, Command::TakeBack { hour, by: parse("person:anna") });
    assert!(matches!(taken, Reply::TakenBack { .. }), "{taken:?}");
    net.pass(1_000);
    change(&mut net, 0, vec![(Key::Person(parse("anna")), None)]);
    net.pass(1_000);
    let second = net.ask(1, by_mia(0));
    net.pass(1_000);
    assert_eq!(net.runs(&second), 0);
    assert!(net.peer(0).hours().is_empty());
}

/// Whoever said it takes it back after a restart of the device as well: it counts at others.
#[test]
fn an_hour_is_taken_back_where_it_was_said_after_a_restart() {
    let mut net = Net::of(3);
    home(&mut net);
    net.pass(1_000);
    let first = net.ask(2, by_mia(1));
    net.pass(500);
    says(&mut net, 0, first, "person:owner", AnswerChoice::Hour);
    net.pass(1_000);
    net.finish_tools(1);
    net.restart(0);
    net.join_all();
    net.pass(2_000);
    let hours = net.peer(0).hours();
    assert_eq!((hours.len(), net.peer(1).hours().len()), (1, 1));
    assert!(hours[0].left_ms > 3_500_000 && hours[0].left_ms <= 3_600_000, "{}", hours[0].left_ms);
    let taken = net.command(0, Command::TakeBack { hour: hours[0].id, by: parse("person:owner") });
    assert!(matches!(taken, Reply::TakenBack { .. }), "{taken:?}");
    net.pass(1_000);
    let second = net.ask(2, by_mia(1));
    net.pass(1_000);
    assert_eq!(net.runs(&second), 0);
    assert!((0..3).all(|n| net.peer(n).hours().is_empty()));
}

/// Answers to calls that wait keep out no withdrawal, and it may not be shortened by whoever passes it on.
#[test]
fn what_is_taken_back_has_room() {
    let mut net = Net::of(2);
    home(&mut net);
    net.pass(1_000);
    let first = net.ask(1, by_mia(0));
    net.pass(500);
    says(&mut net, 0, first, "person:owner", AnswerChoice::Hour);
    net.pass(1_000);
    net.finish_tools(0);
    let hour = net.peer(1).hours()[0].id;
    let taken = net.command(0, Command::TakeBack { hour, by: parse("person:owner") });
    assert!(matches!(taken, Reply::TakenBack { .. }), "{taken:?}");
    net.pass(1_000);
    assert!((0..2).all(|n| net.peer(n).hours().is_empty()));
    // Hours of days to come push it out no sooner than what it takes back is over.
    for _ in 0..20 {
        let next = net.ask(1, by_mia(0));
        net.pass(300);
        says(&mut net, 0, next, "person:owner", AnswerChoice::Once);
        net.pass(300);
        net.finish_tools(0);
    }
    assert!((0..2).all(|n| net.peer(n).hours().is_empty()));
}

/// It stays taken back at a device that was away then, and where that was said in another half.
#[test]
fn an_hour_that_is_taken_back_elsewhere_lets_nothing_through_here() {
    let mut net = Net::of(3);
    home(&mut net);
    net.pass(1_000);
    let first = net.ask(2, by_mia(1));
    net.pass(500);
    says(&mut net, 0, first, "person:owner", AnswerChoice::Hour);
    net.pass(1_000);
    net.finish_tools(1);
    net.split(&[&[0], &[1, 2]]);
    let hour = net.peer(0).hours()[0].id;
    net.command(0, Command::TakeBack { hour, by: parse("person:owner") });
    net.pass(1_000);
    let second = net.ask(2, by_mia(1));
    net.pass(1_000);
    assert_eq!(net.runs(&second), 1, "nobody there knows");
    net.finish_tools(1);
    net.join_all();
    net.pass(2_000);
    let third = net.ask(2, by_mia(1));
    net.pass(1_000);
    assert_eq!(net.runs(&third), 0);
    assert!((0..3).all(|n| net.peer(n).hours().is_empty()));
}

/// A device that relays an hour says how much of it is left. Whoever kept it back has no second hour by that.
#[test]
fn k1_an_hour_that_is_shown_late_is_over() {
    for (late_ms, counts) in [(1_000, true), (3_600_000 + 11 * 60_000, false)] {
        let mut net = Net::of(3);
        home(&mut net);
        net.pass(1_000);
        net.split(&[&[0, 1], &[2]]);
        let first = net.ask(1, by_mia(2));
        net.pass(500);
        says(&mut net, 0, first, "person:owner", AnswerChoice::Hour);
        net.pass(late_ms);
        net.split(&[&[0], &[1], &[2]]);
        // All that the third has not heard of the first one's log, with as much time as can be said.
        let held = net.devices[2].log().iter().map(|entry| entry.hash).collect::<Vec<_>>();
        let missed =
            net.devices[0].log().into_iter().filter(|entry| entry.author == id(0) && !held.contains(&entry.hash));
        let entries: Vec<_> = missed.map(|entry| EntryItem { entry, left_ms: Some(3_600_000) }).collect();
        assert!(entries.iter().any(|item| item.entry.entry.kind == Kind::CONSENT));
        net.link(1, 2);
        net.input(2, Input::Recv(id(1), Frame::Entries { entries, more: false }));
        net.pass(2_000);
        let next = net.ask(1, by_mia(2));
        net.pass(2_000);
        assert_eq!(net.runs(&next) > 0, counts, "shown after {late_ms} ms");
    }
}

#[test]
fn a_no_ends_it_and_beats_a_yes_of_another_half() {
    let mut net = Net::of(3);
    home(&mut net);
    net.split(&[&[0, 1], &[2]]);
    let call = net.ask(1, by_mia(2));
    net.pass(1_000);
    net.split(&[&[0], &[1], &[2]]);
    says(&mut net, 0, call, "person:anna", AnswerChoice::Once);
    says(&mut net, 1, call, "person:owner", AnswerChoice::No);
    net.join_all();
    net.pass(5_000);
    assert_eq!(net.runs(&call), 0);
    for n in 0..3 {
        let (state, reason) = ended(&net, n, &call);
        assert_eq!(state, CallState::Ended(Ending::Denied), "at {n}: {reason}");
        assert!(reason.contains("owner said no") && reason.contains("home/doors"), "{reason}");
    }
    assert!(matches!(
        answer(&mut net, 0, call, "person:anna", AnswerChoice::Once),
        Reply::Refused(Refusal::AlreadyDecided(_) | Refusal::AskOver(_) | Refusal::UnknownCall(_))
    ));
}

#[test]
fn nobody_answers_and_the_call_expires_for_want_of_a_yes() {
    let mut net = Net::of(2);
    home(&mut net);
    let call = net.ask(1, by_mia(0));
    net.pass(20_000 + WAIT_MS + 10_000);
    let (state, reason) = ended(&net, 1, &call);
    assert_eq!(state, CallState::Ended(Ending::Expired));
    assert!(reason.starts_with("no_consent") && reason.contains("home/doors"), "{reason}");
    assert_eq!(
        answer(&mut net, 0, call, "person:anna", AnswerChoice::Once),
        Reply::Refused(Refusal::UnknownCall(call))
    );
}

#[test]
fn a_yes_after_the_cancel_runs_nothing() {
    let mut net = Net::of(2);
    home(&mut net);
    let call = net.ask(1, by_mia(0));
    net.pass(500);
    net.split(&[&[0], &[1]]);
    net.command(1, Command::Cancel { id: call, reason: "no more".to_owned() });
    says(&mut net, 0, call, "person:owner", AnswerChoice::Once);
    let ran = net.runs(&call);
    net.join_all();
    net.pass(5_000);
    assert!(ran <= 1 && net.runs(&call) == ran, "the target had not heard of it, or nothing runs");
    let held = net.ask(1, by_mia(0));
    net.pass(500);
    net.command(1, Command::Cancel { id: held, reason: "no more".to_owned() });
    net.pass(500);
    assert!(matches!(answer(&mut net, 0, held, "person:owner", AnswerChoice::Once), Reply::Refused(_)));
    net.pass(1_000);
    assert_eq!((net.runs(&held), ended(&net, 1, &held).0), (0, CallState::Ended(Ending::Cancelled)));
}

#[test]
fn gateway_target_and_origin_restart_between_and_nothing_is_lost() {
    let mut net = Net::of(3);
    home(&mut net);
    let call = net.ask(1, by_mia(2));
    net.pass(500);
    for n in [0, 1, 2] {
        net.restart(n);
    }
    net.join_all();
    assert!(waits(&net, 0, &call));
    net.split(&[&[0], &[1, 2]]);
    says(&mut net, 0, call, "person:anna", AnswerChoice::Once);
    net.restart(0);
    net.restart(2);
    net.join_all();
    net.pass(2_000);
    assert_eq!(net.runs(&call), 1, "the yes is in its log, and in its rows");
}

#[test]
fn only_who_may_answer_answers_and_no_agent_does() {
    let mut net = Net::of(2);
    net.invite(0, 2, "panel", Tier::Shared);
    net.join_all();
    home(&mut net);
    let call = net.ask(1, by_mia(0));
    net.pass(500);
    for (n, by) in [(0, "person:mia"), (0, "agent:anna/claude"), (0, "device:device-0"), (0, "person:tim")] {
        let reply = answer(&mut net, n, call, by, AnswerChoice::Once);
        assert!(matches!(reply, Reply::Refused(Refusal::NotApprover(_))), "{by}: {reply:?}");
    }
    assert!(matches!(answer(&mut net, 2, call, "person:anna", AnswerChoice::Once), Reply::Refused(_)));
    net.pass(1_000);
    assert_eq!(net.runs(&call), 0);
}

#[test]
fn a_phone_of_an_approver_sees_the_call_and_says_yes() {
    let mut net = Net::of(2);
    net.invite(0, 2, "phone", Tier::Shared);
    net.join_all();
    home(&mut net);
    let device = Device { people: vec![parse("anna")], ..Device::default() };
    change(&mut net, 0, vec![(Key::Device(id(2)), Some(Value::Device(device)))]);
    let call = net.ask(1, by_mia(0));
    net.pass(1_000);
    assert!(waits(&net, 2, &call), "its audience has the phone");
    says(&mut net, 2, call, "person:anna", AnswerChoice::Once);
    net.pass(1_000);
    assert_eq!(net.runs(&call), 1);
    net.finish_tools(0);
    net.pass(1_000);
    assert_eq!(state(&net, 2, &call), CallState::Ended(Ending::Done));
}

#[test]
fn always_is_a_rule_beside_the_one_that_asks() {
    let mut net = Net::of(2);
    home(&mut net);
    let call = net.ask(1, by_mia(0));
    net.pass(500);
    says(&mut net, 0, call, "person:owner", AnswerChoice::Always);
    net.pass(1_000);
    let next = net.ask(1, by_mia(0));
    net.pass(1_000);
    assert_eq!((net.runs(&call), net.runs(&next)), (1, 1));
}

#[test]
fn a_rule_about_the_owner_without_a_name_reads_as_it_was_written() {
    let mut net = Net::of(2);
    home(&mut net);
    let asks = Rule { tools: Some(vec![parse("echo")]), wait_ms: Some(WAIT_MS), ..Rule::of(RuleVerdict::Ask) };
    change(&mut net, 0, vec![(Key::Rule(parse("mesh/careful")), Some(Value::Rule(asks)))]);
    let by_owner = net.ask(1, call(0));
    net.pass(500);
    says(&mut net, 0, by_owner, "person:owner", AnswerChoice::Always);
    net.pass(1_000);
    let (next, by_mia) = (net.ask(1, call(0)), net.ask(1, by_mia(0)));
    net.pass(1_000);
    assert_eq!((net.runs(&by_owner), net.runs(&next), net.runs(&by_mia)), (1, 1, 0));
    assert!(waits(&net, 0, &by_mia), "it denies nobody else anything");
}

#[test]
fn an_approver_that_was_taken_its_role_before_the_target_looked_counts_no_more() {
    let mut net = Net::of(3);
    home(&mut net);
    net.split(&[&[0, 1], &[2]]);
    let call = net.ask(1, by_mia(2));
    net.pass(500);
    says(&mut net, 0, call, "person:anna", AnswerChoice::Once);
    change(&mut net, 0, vec![(Key::Member(parse("home"), parse("anna")), Some(Value::Member(Role::Member)))]);
    net.join_all();
    net.pass(3_000);
    assert_eq!(net.runs(&call), 0);
    assert!(waits(&net, 0, &call));
}

#[test]
fn a_call_right_after_its_origin_was_raised_waits_until_the_others_know() {
    let mut net = Net::of(2);
    net.invite(0, 2, "laptop", Tier::Shared);
    net.join_all();
    home(&mut net);
    // Raised by one half; the other, with the target, hears of the call first.
    net.split(&[&[0, 2], &[1]]);
    let raised = net.approve(0, 2, "laptop", Tier::Owner);
    assert!(matches!(raised, Reply::Approved(_)), "{raised:?}");
    net.pass(500);
    let call = net.ask(2, NewCall { ttl_ms: 60_000, ..call(1) });
    net.join_all();
    net.pass(5_000);
    assert_eq!(net.runs(&call), 1, "{:?}", net.record(2, &call));
}

#[test]
fn the_same_answer_again_is_known_also_once_the_call_is_over_and_another_is_told_who_was_faster() {
    let mut net = Net::of(3);
    home(&mut net);
    let (yes, no) = (net.ask(1, by_mia(2)), net.ask(1, by_mia(2)));
    net.pass(500);
    net.split(&[&[0, 1], &[2]]);
    for _ in 0..2 {
        says(&mut net, 0, yes, "person:anna", AnswerChoice::Once);
    }
    let late = answer(&mut net, 0, yes, "person:owner", AnswerChoice::No);
    let Reply::Refused(Refusal::AlreadyDecided(told)) = late else { panic!("{late:?}") };
    assert!(told.contains("anna said yes (home/doors)"), "{told}");
    let body = NewAnswer { id: no, by: parse("person:anna"), choice: AnswerChoice::No, note: parse("not now") };
    assert!(matches!(net.command(0, Command::Answer(body)), Reply::Answered { .. }));
    net.join_all();
    net.pass(5_000);
    let said = |id: &ReqId, by: &str, choice| said_before(&net.record(0, id).unwrap(), &parse(by), choice);
    let of = Some(vec![parse("home/doors")]);
    assert_eq!((net.runs(&yes), said(&yes, "anna", AnswerChoice::Once)), (1, of.clone()));
    assert_eq!((net.runs(&no), said(&no, "anna", AnswerChoice::No)), (0, of));
    assert_eq!(said(&yes, "anna", AnswerChoice::Hour), None);
    assert_eq!(said(&yes, "ann", AnswerChoice::Once), None);
    assert_eq!(said(&no, "owner", AnswerChoice::No), None);
    for (id, says) in [(&yes, "has run and is done: anna said yes"), (&no, "is denied: anna said no: not now")] {
        let record = net.record(1, id).unwrap();
        let Refusal::AlreadyDecided(told) = too_late(&record) else { panic!("{id}") };
        assert!(told.contains(says), "{told}");
    }
}

#[test]
fn r11_a_call_that_was_sent_once_reads_as_asking_and_says_who_may_answer() {
    let mut net = Net::of(3);
    home(&mut net);
    // First nobody is asked.
    let rule = |verdict| Value::Rule(Rule { who: Some(vec![parse("role:member")]), ..Rule::of(verdict) });
    change(&mut net, 0, vec![(Key::Rule(parse("home/doors")), Some(rule(RuleVerdict::Allow)))]);
    net.tools_end = false;
    for _ in 0..4 {
        net.ask(1, NewCall { timeout_ms: 600_000, ttl_ms: 600_000, ..by_mia(2) });
    }
    let call = net.ask(1, NewCall { ttl_ms: 600_000, ..by_mia(2) });
    net.pass(1_000);
    let gateway = net.leader().unwrap();
    assert_eq!(state(&net, gateway, &call), CallState::Open(Phase::Dispatched), "its target has no place");
    // Its target is away when somebody wants to be asked.
    net.cut_off(2);
    net.pass(10_000);
    change(&mut net, 0, vec![(Key::Rule(parse("home/doors")), Some(rule(RuleVerdict::Ask)))]);
    net.pass(2_000);
    for n in [0, 1] {
        assert_eq!(state(&net, n, &call), CallState::Open(Phase::Asking), "at {n}");
        let approvals = net.peer(n).approvals();
        let approval = approvals.iter().find(|approval| approval.id == call).unwrap();
        assert!(approval.asks[0].1.iter().any(|person| person.as_str() == "anna"), "at {n}: {approval:?}");
    }
    // And it goes on by a yes.
    net.join_all();
    net.tools_end = true;
    net.finish_tools(2);
    net.pass(1_000);
    assert_eq!(net.runs(&call), 0);
    says(&mut net, 0, call, "person:anna", AnswerChoice::Once);
    net.pass(5_000);
    assert_eq!(net.runs(&call), 1);
}

#[test]
fn r11_answers_that_nobody_needs_push_out_none_that_a_call_waits_for() {
    let mut net = Net::of(3);
    home(&mut net);
    // The call is asked twice over: one yes is not enough, so that the first has to be kept.
    let second = Rule { approvers: Some(vec![parse("anna")]), ..Rule::of(RuleVerdict::Ask) };
    change(&mut net, 0, vec![(Key::Rule(parse("home/second")), Some(Value::Rule(second)))]);
    let call = net.ask(1, NewCall { ttl_ms: 600_000, ..by_mia(2) });
    net.pass(1_000);
    says(&mut net, 0, call, "person:owner", AnswerChoice::Once);
    net.pass(1_000);
    // Owners answer calls that nobody knows, until the room of all is full.
    for who in 7..12 {
        assert!(matches!(net.approve(0, who, "strange", Tier::Owner), Reply::Approved(_)));
        net.pass(500);
        let mut flood = net.author(who);
        for n in 0..140_u32 {
            let unknown = ReqId([n.to_be_bytes(), [0; 4], [0; 4], [0; 4]].concat().try_into().unwrap());
            let choice = Choice::Once { call: unknown, header: Hash::of(&unknown.0) };
            let said = Consent { choice, by: parse("owner"), of: vec![parse("home/doors")], note: Note::default() };
            let entry = flood.says(Kind::CONSENT, encode(&said));
            net.hears(1, &flood, entry);
        }
    }
    net.pass(1_000);
    let kept = net.peer(1).approvals();
    let asks: Vec<String> = kept.iter().flat_map(|approval| &approval.asks).map(|(rule, _)| rule.to_string()).collect();
    assert_eq!(asks, ["home/second"], "the yes of before is held");
}
