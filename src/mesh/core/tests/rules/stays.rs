//! Ephemeral devices: let in for a while, for some tools, for one call; gone by themselves.

use mesh_core::ids::Hash;
use mesh_core::io::{CallState, Command, Edit, NewCall, Refusal, Reply};
use mesh_core::limits::{STAY_AFTER_CALL_MS, STAY_GRACE_MS, STAY_MS_MAX, STAY_SCOPE_MAX};
use mesh_core::policy::{Cause, Key, Rule, RuleRef, RuleVerdict, Value, Workspace};
use mesh_core::record::{Directory, Effect, Ending, StayTerms, Tier, ToolDecl};
use mesh_core::test_kit::{Net, id, key, offers, tool};

use crate::call;

const HOUR_MS: u64 = 3_600_000;

fn stay(lasts_ms: u64) -> StayTerms {
    StayTerms { lasts_ms, scope: None, one_time: false }
}

/// Two owners, and a device that stays for so long; the first leads and let it in.
fn with_visitor(stay: StayTerms) -> Net {
    let mut net = Net::of(2);
    net.invite_for(0, 2, "visitor", stay);
    net.join_all();
    net.pass(1_000);
    net
}

fn belongs(net: &Net, at: usize, n: usize) -> bool {
    net.peer(at).members().any(|member| member == id(n))
}

#[test]
fn a_stay_ends_by_itself_at_its_time_and_everywhere() {
    let mut net = with_visitor(stay(HOUR_MS));
    assert_eq!(net.peer(1).tier(&id(2)), Some(Tier::Ephemeral));
    let shown = net.peer(1).view().by_peer(&id(2)).cloned().unwrap();
    let until_ms = shown.stay.map(|stay| stay.until_ms);
    assert!(until_ms.is_some_and(|until| until > net.now().wall_ms), "{until_ms:?}");
    net.pass(HOUR_MS - 60_000);
    assert!((0..3).all(|n| belongs(&net, n, 2)));
    net.pass(62_000);
    assert!((0..2).all(|n| !belongs(&net, n, 2)));
    assert!(net.peer(2).is_revoked(), "it is told");
    // It may be let in again: by another owner, and for longer.
    assert!(matches!(net.approve_for(1, 2, "visitor", stay(2 * HOUR_MS)), Reply::Approved(_)));
    net.join_all();
    net.pass(HOUR_MS);
    assert!((0..2).all(|n| belongs(&net, n, 2)));
}

#[test]
fn another_stay_goes_on_from_now_and_a_name_changes_no_time() {
    let mut net = with_visitor(stay(HOUR_MS));
    net.pass(HOUR_MS / 2);
    assert!(matches!(net.approve_for(0, 2, "visitor", stay(HOUR_MS)), Reply::Approved(_)));
    let until =
        |net: &Net| net.peer(0).view().by_peer(&id(2)).and_then(|node| node.stay.clone()).map(|stay| stay.until_ms);
    let before = until(&net);
    let renamed = net.command(0, Command::Rename { peer: id(2), node_id: "guest".parse().unwrap() });
    assert_eq!((renamed, until(&net)), (Reply::Renamed, before));
    net.pass(HOUR_MS / 2 + 60_000);
    assert!((0..2).all(|n| belongs(&net, n, 2)));
    net.pass(HOUR_MS / 2);
    assert!((0..2).all(|n| !belongs(&net, n, 2)));
    // Raised for good, it stays.
    let mut net = with_visitor(stay(HOUR_MS));
    net.approve(0, 2, "visitor", Tier::Shared);
    net.pass(2 * HOUR_MS);
    assert!((0..3).all(|n| belongs(&net, n, 2)));
}

#[test]
fn where_its_host_is_away_another_owner_ends_a_stay_a_while_later() {
    let mut net = with_visitor(stay(HOUR_MS));
    net.split(&[&[0], &[1, 2]]);
    net.pass(HOUR_MS + STAY_GRACE_MS / 2);
    assert!(belongs(&net, 1, 2) && !belongs(&net, 0, 2));
    net.pass(STAY_GRACE_MS);
    assert!(!belongs(&net, 1, 2));
    net.join_all();
    net.pass(5_000);
    assert!((0..2).all(|n| !belongs(&net, n, 2)));
}

#[test]
fn a_visitor_asks_for_what_it_was_let_in_for_and_nothing_else() {
    let scope = Some(vec!["node:peer-0:ec*".parse().unwrap()]);
    let mut net = with_visitor(StayTerms { scope, ..stay(HOUR_MS) });
    let open = |name: &str| ToolDecl { owner_only: false, ..tool(name, Effect::Idempotent) };
    for n in 0..2 {
        let directory = Directory { ..offers(vec![open("echo"), open("other")]) };
        net.command(n, Command::SetDirectory(directory));
    }
    net.pass(1_000);
    let allowed = net.ask(2, call(0));
    net.pass(2_000);
    assert_eq!(net.runs(&allowed), 1);
    let other = NewCall { tool: "other".parse().unwrap(), ..call(0) };
    for new in [other, call(1)] {
        let reply = net.command(2, Command::Call(new));
        let Reply::Refused(Refusal::Denied(denial)) = reply else { panic!("{reply:?}") };
        assert_eq!(denial.decision.rule, Cause::TierScope);
    }
    // Its host is held to what it says: no such terms, or too many, are no terms.
    let many = Some(vec!["a".parse().unwrap(); STAY_SCOPE_MAX + 1]);
    for bad in [StayTerms { scope: many, ..stay(1) }, stay(0), stay(STAY_MS_MAX + 1)] {
        let reply = net.approve_for(0, 3, "other", bad);
        assert!(matches!(reply, Reply::Refused(Refusal::Invalid(_))), "{reply:?}");
    }
    let (node_id, stay) = ("other".parse().unwrap(), Some(stay(1)));
    let reply = net.command(0, Command::Approve { key: key(3), node_id, tier: Tier::Owner, stay });
    assert!(matches!(reply, Reply::Refused(Refusal::Invalid(_))), "{reply:?}");
}

#[test]
fn who_was_let_in_for_one_call_makes_one_and_is_gone() {
    let mut net = with_visitor(StayTerms { one_time: true, ..stay(HOUR_MS) });
    net.tools_end = false;
    let first = net.ask(2, call(1));
    net.pass(1_000);
    // Its own device says no at once, while that one is open and after a restart; a device that does not: `tests/hostile/stays.rs`.
    for _ in 0..2 {
        let reply = net.command(2, Command::Call(call(1)));
        let Reply::Refused(Refusal::Denied(denial)) = reply else { panic!("{reply:?}") };
        assert_eq!(
            (&denial.decision.rule, denial.why.contains("for one call")),
            (&Cause::TierScope, true),
            "{denial:?}"
        );
        net.restart(2);
        net.join_all();
        net.pass(5_000);
    }
    assert_eq!(net.runs(&first), 1);
    assert!(belongs(&net, 0, 2), "its call still runs");
    // Of one that is let in for all, nothing ends with a call.
    let mut other = with_visitor(stay(HOUR_MS));
    let call_of_it = other.ask(2, call(1));
    other.pass(5_000);
    assert!(other.runs(&call_of_it) == 1 && belongs(&other, 0, 2));

    let mut net = with_visitor(StayTerms { one_time: true, ..stay(HOUR_MS) });
    let only = net.ask(2, call(1));
    net.pass(5_000);
    assert_eq!(net.runs(&only), 1);
    assert_eq!(net.record(2, &only).unwrap().state, CallState::Ended(Ending::Done), "it may read the result");
    let reply = net.command(2, Command::Call(call(1)));
    let Reply::Refused(Refusal::Denied(denial)) = reply else { panic!("{reply:?}") };
    assert_eq!(denial.decision.rule, Cause::TierScope);
    net.pass(STAY_AFTER_CALL_MS);
    assert!((0..2).all(|n| !belongs(&net, n, 2)), "its call is over, and so is its stay");
}

#[test]
fn an_invite_lets_in_for_a_while_that_begins_when_it_is_used() {
    let mut net = Net::of(1);
    let secret = Hash::of(b"for a while");
    let stay = Some(StayTerms { scope: Some(Vec::new()), ..stay(HOUR_MS) });
    let invite = Command::Invite { secret, tier: Tier::Ephemeral, ttl_ms: 2 * HOUR_MS, name: None, stay: stay.clone() };
    assert_eq!(net.command(0, invite), Reply::Invited);
    net.pass(HOUR_MS + 60_000);
    let reply = net.command(0, Command::Redeem { secret, key: key(1), node_id: "visitor".parse().unwrap() });
    assert!(matches!(reply, Reply::Approved(_)), "{reply:?}");
    assert!(belongs(&net, 0, 1));
    net.pass(HOUR_MS - 60_000);
    assert!(belongs(&net, 0, 1));
    net.pass(120_000);
    assert!(!belongs(&net, 0, 1));
    let bad = Command::Invite { secret, tier: Tier::Shared, ttl_ms: HOUR_MS, name: None, stay };
    assert!(matches!(net.command(0, bad), Reply::Refused(Refusal::Invalid(_))));
}

#[test]
fn whoever_leads_by_then_says_that_the_one_call_is_over() {
    let mut net = with_visitor(StayTerms { one_time: true, ..stay(HOUR_MS) });
    net.tools_end = false;
    let only = net.ask(2, call(1));
    net.pass(1_000);
    assert_eq!(net.leader(), Some(0));
    // The gateway is gone before it hears the ending, and another owner leads.
    net.split(&[&[0], &[1, 2]]);
    net.finish_tools(1);
    assert_eq!(net.runs(&only), 1);
    net.pass(10_000);
    assert!(net.peer(1).leads());
    assert_eq!(net.record(1, &only).unwrap().state, CallState::Ended(Ending::Done));
    let reply = net.command(2, Command::Call(call(1)));
    let Reply::Refused(Refusal::Denied(denial)) = reply else { panic!("{reply:?}") };
    assert_eq!(denial.decision.rule, Cause::TierScope);
    net.pass(STAY_AFTER_CALL_MS);
    net.join_all();
    net.pass(5_000);
    assert!((0..2).all(|n| !belongs(&net, n, 2)), "whoever let it in removes it");
}

#[test]
fn a_call_that_was_denied_has_not_been_used() {
    let mut net = with_visitor(StayTerms { one_time: true, ..stay(HOUR_MS) });
    let refused = NewCall { tool: "nothing".parse().unwrap(), ..call(1) };
    assert!(matches!(net.command(2, Command::Call(refused)), Reply::Refused(_)));
    net.tools_end = false;
    // It is taken, and a rule forbids it before it has begun.
    net.cut_off(1);
    let first = net.ask(2, call(1));
    net.pass(1_000);
    let by = "person:owner".parse().unwrap();
    let deny = Rule { tools: Some(vec!["echo".parse().unwrap()]), ..Rule::of(RuleVerdict::Deny) };
    let at: RuleRef = "mesh/no".parse().unwrap();
    let workspace = (Key::Workspace("w".parse().unwrap()), Some(Value::Workspace(Workspace::default())));
    let changes = vec![workspace, (Key::Rule(at.clone()), Some(Value::Rule(deny)))];
    let edit = |changes| Command::Edit(Edit { by, changes, declared: false, force: false, seen: Vec::new() });
    assert!(matches!(net.command(0, edit(changes)), Reply::Edited { .. }));
    net.pass(2_000);
    let state = |net: &Net, id| net.record(0, id).unwrap().state;
    assert_eq!(state(&net, &first), CallState::Ended(Ending::Denied));
    net.pass(2 * STAY_AFTER_CALL_MS);
    assert!(belongs(&net, 0, 2), "it has not made its call");
    let by = "person:owner".parse().unwrap();
    let allow = Rule { who: Some(vec!["devices".parse().unwrap()]), ..Rule::of(RuleVerdict::Allow) };
    let changes = vec![(Key::Rule(at), None), (Key::Rule("mesh/yes".parse().unwrap()), Some(Value::Rule(allow)))];
    let edit = Command::Edit(Edit { by, changes, declared: false, force: false, seen: Vec::new() });
    assert!(matches!(net.command(0, edit), Reply::Edited { .. }));
    net.join_all();
    net.pass(5_000);
    let second = net.ask(2, call(1));
    net.pass(2_000);
    net.finish_tools(1);
    net.pass(5_000);
    assert_eq!(state(&net, &second), CallState::Ended(Ending::Done));
    net.pass(STAY_AFTER_CALL_MS);
    assert!((0..2).all(|n| !belongs(&net, n, 2)));
}
