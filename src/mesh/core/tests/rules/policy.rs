//! What is said about rights, at the three points of a call: where it is accepted, at the gateway, and at its target.

use mesh_core::entry::{Kind, SignedEntry};
use mesh_core::frame::{EntryItem, Frame};
use mesh_core::io::{CallState, Command, Edit, Input, NewCall, Refusal, Reply};
use mesh_core::policy::{Binding, Cause, Key, Mode, Person, Role, Rule, RuleVerdict, Value, Workspace};
use mesh_core::record::{Directory, Effect, Ending, Tier};
use mesh_core::rule_words::rule_of;
use mesh_core::test_kit::{Net, id, offers, tool};

use crate::call;

fn parse<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn change(net: &mut Net, n: usize, changes: Vec<(Key, Option<Value>)>) {
    let edit = Edit { by: parse("person:owner"), changes, declared: false, force: false, seen: Vec::new() };
    let reply = net.command(n, Command::Edit(edit));
    assert!(matches!(reply, Reply::Edited { .. }), "{reply:?}");
}

/// Mia is a member of `home`, to which everything belongs and where a rule gives `echo` to people.
fn home(net: &mut Net) {
    let changes = vec![
        (Key::Person(parse("mia")), Some(Value::Person(Person::default()))),
        (Key::Workspace(parse("home")), Some(Value::Workspace(Workspace::default()))),
        (Key::Member(parse("home"), parse("mia")), Some(Value::Member(Role::Member))),
        (Key::Binding(parse("home"), parse("main")), Some(Value::Binding(Binding::default()))),
        (Key::Rule(parse("home/echo")), Some(echo(RuleVerdict::Allow))),
    ];
    change(net, 0, changes);
}

fn echo(verdict: RuleVerdict) -> Value {
    Value::Rule(Rule { who: Some(vec![parse("people")]), tools: Some(vec![parse("echo")]), ..Rule::of(verdict) })
}

fn by_mia(target: usize) -> NewCall {
    NewCall { principal: Some(parse("person:mia")), ..call(target) }
}

fn asked(net: &mut Net, n: usize, new: NewCall) -> Reply {
    net.command(n, Command::Call(new))
}

fn denied_by(reply: &Reply) -> Cause {
    let Reply::Refused(Refusal::Denied(denial)) = reply else { panic!("{reply:?}") };
    denial.decision.rule.clone()
}

#[test]
fn a_mesh_without_workspaces_decides_as_ever_and_its_headers_say_who_asks() {
    let mut net = Net::of(1);
    net.invite(0, 1, "phone", Tier::Shared);
    net.join_all();
    for n in 0..2 {
        let call = net.ask(n, call(0));
        let record = net.peer(0).open_call(&call).cloned();
        let header = record.map(|record| record.header);
        if let Some(header) = header {
            let who = ["person:owner", "device:phone"][n];
            assert_eq!((header.principal.to_string().as_str(), header.rule.as_str()), (who, "builtin/open"));
            assert!(header.mark.len() <= 1, "by what it belongs, and no more");
        }
    }
    let named = NewCall { workspace: Some(parse("home")), ..call(0) };
    assert_eq!(denied_by(&asked(&mut net, 0, named)), Cause::WorkspaceUnknown);
    let lent = asked(&mut net, 1, by_mia(0));
    assert_eq!(denied_by(&lent), Cause::PrincipalDevice);
}

#[test]
fn a_call_is_denied_where_it_is_asked_and_the_rule_is_named() {
    let mut net = Net::of(2);
    home(&mut net);
    assert!(matches!(asked(&mut net, 1, by_mia(0)), Reply::Call { created: true, .. }));
    change(&mut net, 0, vec![(Key::Rule(parse("home/no-echo")), Some(echo(RuleVerdict::Deny)))]);
    let reply = asked(&mut net, 1, by_mia(0));
    assert_eq!(denied_by(&reply).to_string(), "home/no-echo");
    assert_eq!(
        denied_by(&asked(&mut net, 0, NewCall { principal: Some(parse("person:tim")), ..call(1) })),
        Cause::PrincipalUnknown
    );
}

#[test]
fn what_waits_is_denied_once_the_tool_is_taken_away_and_nothing_runs() {
    let mut net = Net::of(3);
    home(&mut net);
    net.split(&[&[0, 1], &[2]]);
    let call = net.ask(1, by_mia(2));
    change(&mut net, 0, vec![(Key::Rule(parse("home/echo")), None)]);
    net.pass(1_000);
    let record = net.peer(1).open_call(&call).cloned().unwrap();
    assert_eq!(record.state, CallState::Ended(Ending::Denied), "{record:?}");
    assert!(record.reason.contains("default"), "{}", record.reason);
    assert!(!record.confirmed);
    net.join_all();
    net.pass(5_000);
    // The target says so too, by the same rule, and goes on saying so when the call's time is over.
    for _ in 0..2 {
        for n in 0..3 {
            let record = net.record(n, &call).unwrap();
            assert_eq!((record.state, record.confirmed), (CallState::Ended(Ending::Denied), true), "{n}: {record:?}");
            assert!(record.reason.contains("default"), "{n}: {}", record.reason);
        }
        net.pass(200_000);
    }
    assert!(net.devices[2].ran.is_empty());
}

#[test]
fn a_target_confirms_a_denial_whose_rule_it_has_not_heard() {
    let mut net = Net::of(2);
    home(&mut net);
    // One that never leads: alone, an owner would follow itself, and run what it hears of.
    net.invite(0, 2, "lamp", Tier::Shared);
    net.join_all();
    net.pass(1_000);
    net.cut_off(2);
    assert!(net.peer(0).leads());
    let call = net.ask(0, by_mia(2));
    change(&mut net, 1, vec![(Key::Rule(parse("home/echo")), None)]);
    net.pass(1_000);
    // It gets what the gateway wrote: the call and its ending. The rule was taken by the other.
    let held = net.devices[2].log();
    let is_news = |entry: &SignedEntry| entry.author == id(0) && held.iter().all(|had| had.hash != entry.hash);
    let news: Vec<SignedEntry> = net.devices[0].log().into_iter().filter(is_news).collect();
    assert!(news.iter().any(|entry| entry.entry.kind == Kind::OUTCOME), "the gateway has denied it");
    for entry in news {
        let entries = vec![EntryItem { entry, left_ms: Some(60_000) }];
        net.input(2, Input::Recv(id(0), Frame::Entries { entries, more: false }));
    }
    net.pass(1_000);
    let record = net.record(2, &call).unwrap();
    assert_eq!((record.state, record.confirmed), (CallState::Ended(Ending::Denied), true), "{record:?}");
    assert_eq!(rule_of(&record), Some(Cause::Default), "{}", record.reason);
    net.join_all();
    net.pass(5_000);
    assert!(net.devices[2].ran.is_empty());
}

#[test]
fn a_gateway_that_knows_more_than_the_origin_denies_what_reaches_it() {
    let mut net = Net::of(3);
    home(&mut net);
    net.split(&[&[0], &[1], &[2]]);
    net.pass(5_000);
    change(&mut net, 0, vec![(Key::Rule(parse("home/echo")), None)]);
    // The header comes to the gateway while its origin and its target cannot be asked any more.
    let call = net.ask(1, by_mia(2));
    let header = net.devices[1].log().into_iter().rfind(|entry| entry.header().is_some_and(|own| own.id == call));
    let entries = vec![EntryItem { entry: header.unwrap(), left_ms: None }];
    net.input(0, Input::Recv(id(1), Frame::Entries { entries, more: false }));
    let record = net.peer(0).open_call(&call).cloned().unwrap();
    assert_eq!((record.state, record.confirmed), (CallState::Ended(Ending::Denied), false), "{record:?}");
    net.join_all();
    net.pass(5_000);
    assert!(net.devices[2].ran.is_empty());
}

#[test]
fn a_target_that_has_not_heard_of_the_rule_waits_for_it_and_does_not_deny() {
    let mut net = Net::of(3);
    net.split(&[&[0, 1], &[2]]);
    home(&mut net);
    let call = net.ask(1, by_mia(2));
    net.join_all();
    net.pass(5_000);
    assert_eq!(net.devices[2].ran.iter().filter(|run| run.id == call).count(), 1);
    assert_eq!(net.devices[2].ran[0].header.workspace, Some(parse("home")));
}

#[test]
fn a_taking_that_only_the_target_knows_denies_there() {
    let mut net = Net::of(3);
    home(&mut net);
    net.split(&[&[0, 1], &[2]]);
    change(&mut net, 2, vec![(Key::Member(parse("home"), parse("mia")), None)]);
    let call = net.ask(1, by_mia(2));
    net.join_all();
    net.pass(5_000);
    assert!(net.devices[2].ran.iter().all(|run| run.id != call));
}

#[test]
fn back_to_the_open_mode_owners_may_what_they_could_before() {
    let mut net = Net::of(2);
    home(&mut net);
    change(&mut net, 0, vec![(Key::Mode, Some(Value::Mode(Mode::Open)))]);
    assert!(matches!(asked(&mut net, 1, call(0)), Reply::Call { created: true, .. }));
    assert_eq!(net.peer(1).view().rights.mode(), Mode::Open);
    assert_eq!(id(0), net.peer(0).view().me);
}

#[test]
fn a_ban_of_the_device_itself_is_told_by_its_pattern_at_origin_gateway_and_target() {
    let mut net = Net::of(3);
    home(&mut net);
    net.split(&[&[0, 1], &[2]]);
    let waits = net.ask(1, by_mia(2));
    // As the shell does: what is forbidden is not offered, and the pattern is shown.
    let banned = Directory { deny: vec![parse("ec*")], ..offers(vec![tool("other", Effect::Idempotent)]) };
    assert_eq!(net.command(2, Command::SetDirectory(banned)), Reply::Noted);
    net.join_all();
    net.pass(5_000);
    let ban: Cause = parse("local:ec*");
    for n in 0..3 {
        let record = net.record(n, &waits).unwrap();
        assert_eq!((record.state, record.confirmed), (CallState::Ended(Ending::Denied), true), "at {n}: {record:?}");
        assert_eq!(rule_of(&record), Some(ban.clone()), "at {n}: {}", record.reason);
        assert_eq!(denied_by(&asked(&mut net, n, by_mia(2))), ban, "at {n}");
    }
    assert!(net.devices[2].ran.is_empty());
    let nothing = NewCall { tool: parse("nothing"), ..by_mia(2) };
    assert!(matches!(asked(&mut net, 1, nothing), Reply::Refused(Refusal::UnknownTool { .. })));
}

#[test]
fn a_call_tells_what_its_origin_knew_and_this_device_does_not() {
    let mut net = Net::of(3);
    net.split(&[&[0, 1], &[2]]);
    home(&mut net);
    let call = net.ask(1, by_mia(2));
    // Its header comes to the target, and what was said before it does not.
    let header = net.devices[1].log().into_iter().rfind(|entry| entry.header().is_some_and(|own| own.id == call));
    let entries = vec![EntryItem { entry: header.unwrap(), left_ms: None }];
    net.input(2, Input::Recv(id(1), Frame::Entries { entries, more: false }));
    let header = net.peer(1).open_call(&call).unwrap().header.clone();
    let [origin, target] = [1, 2].map(|n| net.peer(n).standing(&header, id(1)));
    assert!(origin.behind.is_empty() && origin.request.call.is_some(), "{origin:?}");
    assert!(target.behind.contains(&id(0)), "{target:?}");
    net.join_all();
    net.pass(5_000);
    let done = net.peer(2).standing(&header, id(1));
    assert!(done.behind.is_empty() && done.request.call.is_none() && done.left_ms.is_none(), "{done:?}");
    assert_eq!(net.runs(&call), 1);
}
