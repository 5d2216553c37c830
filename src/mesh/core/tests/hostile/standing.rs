//! What is left of a device that was removed: nothing of what it was allowed, and nothing that goes on.

use mesh_core::io::{AnswerChoice, NewAnswer};
use mesh_core::policy::{Device, Domain, Otherwise, Principal, Seat, Verdict};

use super::*;

fn edit(honest: &mut Honest, changes: Vec<(Key, Option<Value>)>) {
    let by = "person:owner".parse().unwrap();
    let edited = honest.ask(Command::Edit(Edit { by, changes, declared: false, force: false, seen: Vec::new() }));
    assert!(matches!(edited, Reply::Edited { .. }), "{edited:?}");
}

fn anna_is_at(device: PeerId) -> Vec<(Key, Option<Value>)> {
    let anna = Person { role: Role::Owner, ..Person::default() };
    vec![
        (Key::Person("anna".parse().unwrap()), Some(Value::Person(anna))),
        (
            Key::Device(device),
            Some(Value::Device(Device { people: vec!["anna".parse().unwrap()], ..Device::default() })),
        ),
    ]
}

fn speaks_for_anna(honest: &Honest, device: &Author) -> bool {
    honest.peer().view().rights.speaks_for(&device.id(), &"person:anna".parse().unwrap())
}

#[test]
pub(crate) fn k1_whoever_is_let_in_again_speaks_for_nobody() {
    let mut honest = Honest::new();
    let phone = honest.author(1);
    honest.admit(&phone, Tier::Shared);
    edit(&mut honest, anna_is_at(phone.id()));
    assert!(speaks_for_anna(&honest, &phone));
    // A tier or a name that changes takes nothing away.
    honest.admit(&phone, Tier::Owner);
    honest.admit(&phone, Tier::Shared);
    assert!(speaks_for_anna(&honest, &phone));
    assert_eq!(honest.ask(Command::Revoke { peer: phone.id(), unsaid: false }), Reply::Revoked);
    honest.admit(&phone, Tier::Shared);
    assert!(!speaks_for_anna(&honest, &phone), "whoever has the phone now is not Anna");
    honest.crash();
    assert!(!speaks_for_anna(&honest, &phone), "nor after a restart");
    // Who says so again means this device.
    edit(&mut honest, anna_is_at(phone.id()));
    assert!(speaks_for_anna(&honest, &phone));
}

/// The output that stops a run.
fn is_stopped(out: &[Output], id: ReqId) -> bool {
    out.iter().any(|output| matches!(output, Output::Kill(of, _) if *of == id))
}

/// A call of this author that runs at the honest device.
fn runs(honest: &mut Honest, author: &mut Author, counter: u64, change: impl FnOnce(&mut Header)) -> ReqId {
    let mut call = header(&author.id(), counter, honest.id());
    change(&mut call);
    let entry = author.says(Kind::CALL, encode(&call));
    let out = honest.hears(author, pushed(entry));
    assert!(out.iter().any(|output| matches!(output, Output::Invoke(run) if run.id == call.id)), "{out:?}");
    call.id
}

#[test]
pub(crate) fn k1_what_runs_for_a_device_that_is_removed_is_stopped() {
    let mut honest = Honest::new();
    let (mut phone, mut panel) = (honest.author(1), honest.author(2));
    honest.admit(&phone, Tier::Shared);
    honest.admit(&panel, Tier::Shared);
    let (first, other) = (runs(&mut honest, &mut phone, 1, |_| {}), runs(&mut honest, &mut panel, 1, |_| {}));
    let out = honest.command(Command::Revoke { peer: phone.id(), unsaid: false });
    assert!(is_stopped(&out, first), "{out:?}");
    assert!(!is_stopped(&out, other), "and nothing of another");
}

#[test]
fn k1_what_runs_for_somebody_who_is_suspended_is_stopped() {
    let mut honest = Honest::new();
    let mut phone = honest.author(1);
    honest.admit(&phone, Tier::Shared);
    edit(&mut honest, anna_is_at(phone.id()));
    let of_anna = runs(&mut honest, &mut phone, 1, |call| call.principal = "person:anna".parse().unwrap());
    let of_phone = runs(&mut honest, &mut phone, 2, |_| {});
    let anna = Person { role: Role::Owner, suspended: true, ..Person::default() };
    let by = "person:owner".parse().unwrap();
    let changes = vec![(Key::Person("anna".parse().unwrap()), Some(Value::Person(anna)))];
    let edit = Edit { by, changes, declared: false, force: false, seen: Vec::new() };
    let out = honest.command(Command::Edit(edit));
    assert!(is_stopped(&out, of_anna) && !is_stopped(&out, of_phone), "{out:?}");
}

#[test]
fn k4_a_device_that_asks_by_anothers_name_is_shown_and_let_by_its_own() {
    let mut honest = Honest::new();
    let (mut liar, panel) = (honest.author(1), honest.author(2));
    honest.admit(&liar, Tier::Shared);
    honest.admit(&panel, Tier::Shared);
    let name = |honest: &Honest, of: &Author| {
        let view = honest.peer().view();
        view.by_peer(&of.id()).unwrap().node_id.clone()
    };
    let (own, others) = (name(&honest, &liar), name(&honest, &panel));
    let otherwise = Otherwise { devices: Verdict::Ask, ..Otherwise::default() };
    let home = || "home".parse().unwrap();
    let changes = vec![
        (Key::Workspace(home()), Some(Value::Workspace(Workspace { otherwise, ..Workspace::default() }))),
        (Key::Member(home(), Seat::Device(own.clone())), Some(Value::Member(Role::Member))),
        (Key::Binding(home(), "main".parse().unwrap()), Some(Value::Binding(Binding::default()))),
    ];
    edit(&mut honest, changes);
    let mut call = header(&liar.id(), 1, honest.id());
    (call.principal, call.workspace) = (Principal::Device(others.clone()), Some(home()));
    let entry = liar.says(Kind::CALL, encode(&call));
    honest.hears(&liar, pushed(entry));
    let approvals = honest.peer().approvals();
    let [approval] = approvals.as_slice() else { panic!("{approvals:?}") };
    let asked_by = honest.peer().view().asked_by(&approval.header, &approval.origin).into_owned();
    assert_eq!(asked_by, Principal::Device(own.clone()));
    let answer = NewAnswer {
        id: call.id,
        by: "person:owner".parse().unwrap(),
        choice: AnswerChoice::Always,
        note: Note::default(),
    };
    let reply = honest.ask(Command::Answer(answer));
    assert!(matches!(reply, Reply::Answered { .. }), "{reply:?}");
    let view = honest.peer().view();
    let rules = view.said.keys().filter(|key| matches!(key, Key::Rule(at) if at.domain == Domain::Workspace(home())));
    let who: Vec<String> = rules
        .filter_map(|key| match view.said.value(key) {
            Some(Value::Rule(rule)) => Some(rule.who.iter().flatten().map(ToString::to_string).collect::<String>()),
            _ => None,
        })
        .collect();
    assert_eq!(who, [format!("device:{own}")], "and nothing is given to {others}");
}
