//! Edits that did not know each other: registers, and what their heads amount to.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::entry::Place;
use mesh_core::ids::{Hash, Incarnation, PeerId};
use mesh_core::policy::{
    Agent, Binding, Content, Device, DeviceTools, InvalidRecord, Key, Known, Mode, NotAllowed, Otherwise, Person,
    Policy, Principal, Register, Role, Rule, RuleVerdict, Said, Statement, Title, Token, Value, Verdict, View, Who,
    Workspace, bounds,
};
use proptest::prelude::*;
use proptest::sample::select;

use crate::world::{World, peer, place};

fn parse<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

const ALL: &dyn Fn(&Place) -> bool = &|_| true;

/// Statements about one key, each by an author of its own, none of whom knew another.
fn heads(key: &Key, contents: Vec<Content>) -> Policy {
    let mut policy = Policy::default();
    for (content, author) in contents.into_iter().zip(1..) {
        let by = parse("person:owner");
        let said = Said { key: key.clone(), content, generation: 1, knew: Vec::new(), by, declared: false };
        policy.insert(place(author, 1), Statement { hlc: u64::from(author), said });
    }
    policy
}

fn value(value: Value) -> Content {
    Content::Value(Box::new(value))
}

fn of(key: &Key, contents: Vec<Content>) -> View {
    View::new(&heads(key, contents), ALL, [])
}

#[test]
fn a_person_is_what_all_heads_let_her_be() {
    let key = Key::Person(parse("mia"));
    let (a, b, c) = (Hash([1; 32]), Hash([2; 32]), Hash([3; 32]));
    let admin = Person { role: Role::Admin, logins: vec![a, b], ..Person::default() };
    let guest = Person { role: Role::Guest, logins: vec![b, c], title: parse("Mia"), ..Person::default() };
    let view = of(&key, vec![value(Value::Person(admin.clone())), value(Value::Person(guest))]);
    let person = view.person(&parse("mia")).unwrap();
    assert_eq!((person.role, &person.logins, person.title.as_str()), (Role::Guest, &vec![b], "Mia"));
    let suspended = value(Value::Person(Person { suspended: true, ..Person::default() }));
    for other in [suspended, Content::Unreadable] {
        let view = of(&key, vec![value(Value::Person(admin.clone())), other]);
        assert!(view.person(&parse("mia")).unwrap().suspended && view.role(&parse("mia")).is_none());
    }
    assert!(of(&key, vec![value(Value::Person(admin)), Content::Deleted]).person(&parse("mia")).is_none());
}

#[test]
fn workspaces_beat_the_open_mode_and_the_strictest_answer_counts() {
    let modes = |contents| of(&Key::Mode, contents).mode();
    let (open, workspaces) = (value(Value::Mode(Mode::Open)), value(Value::Mode(Mode::Workspaces)));
    assert_eq!(modes(vec![workspaces.clone(), open.clone()]), Mode::Workspaces);
    assert_eq!(modes(vec![open.clone(), Content::Unreadable]), Mode::Workspaces);
    assert_eq!(modes(vec![open]), Mode::Open);
    let otherwise = |members, agents| {
        let otherwise = Otherwise { members, agents, ..Otherwise::default() };
        value(Value::Workspace(Workspace { otherwise, ..Workspace::default() }))
    };
    let both = vec![otherwise(Verdict::Allow, Verdict::Deny), otherwise(Verdict::Ask, Verdict::Allow)];
    let view = of(&Key::Workspace(parse("home")), both.clone());
    let (_, home) = view.workspaces().next().unwrap();
    assert_eq!((home.otherwise.members, home.otherwise.agents), (Verdict::Ask, Verdict::Deny));
    let gone = both.into_iter().chain([Content::Deleted]).collect();
    assert_eq!(of(&Key::Workspace(parse("home")), gone).workspaces().count(), 0);
}

/// A home in which Mia may use everything of `hub`, but for what `more` says.
fn home() -> World {
    let mut world = World::load("open");
    world.set(Key::Mode, Value::Mode(Mode::Workspaces));
    world.set(Key::Person(parse("mia")), Value::Person(Person::default()));
    world.set(Key::Workspace(parse("home")), Value::Workspace(Workspace::default()));
    world.set(Key::Member(parse("home"), parse("mia")), Value::Member(Role::Member));
    world.set(Key::Binding(parse("home"), parse("main")), Value::Binding(Binding::default()));
    world
}

/// Mia asks for the lamp, while one key has these heads.
fn asked(key: &Key, contents: Vec<Content>) -> (Verdict, String) {
    let world = home();
    let mut policy = world.policy();
    policy.merge(&heads(key, contents));
    let view = world.view_of(&policy);
    let decision = view.decide(&view.question(&parse("person:mia"), None, &parse("server"), &parse("lamp")).unwrap());
    (decision.verdict, decision.rule.to_string())
}

fn rule(verdict: RuleVerdict, tool: &str) -> Content {
    let who = Some(vec![Who::People]);
    value(Value::Rule(Rule { who, tools: Some(vec![parse(tool)]), ..Rule::of(verdict) }))
}

#[test]
fn of_several_heads_a_rule_gives_what_all_give_and_takes_what_any_takes() {
    use RuleVerdict::{Allow, Ask, Deny};
    let key = Key::Rule(parse("home/lamps"));
    let ask = |contents: Vec<Content>| asked(&key, contents).0;
    assert_eq!(ask(vec![rule(Allow, "lamp")]), Verdict::Allow);
    assert_eq!(ask(vec![rule(Allow, "lamp"), rule(Allow, "*")]), Verdict::Allow);
    assert_eq!(ask(vec![rule(Allow, "lamp"), rule(Allow, "files.*")]), Verdict::Deny);
    assert_eq!(ask(vec![rule(Allow, "lamp"), Content::Deleted]), Verdict::Deny);
    assert_eq!(ask(vec![rule(Allow, "lamp"), rule(Ask, "lamp")]), Verdict::Ask);
    assert_eq!(ask(vec![rule(Ask, "lamp"), rule(Deny, "lamp")]), Verdict::Deny);
    assert_eq!(ask(vec![rule(Allow, "lamp"), Content::Unreadable]), Verdict::Deny);
    // What was denied stays denied, although another took the rule away.
    assert_eq!(asked(&key, vec![rule(Deny, "lamp"), Content::Deleted]), (Verdict::Deny, "home/lamps".to_owned()));
}

#[test]
fn a_deny_that_one_deleted_and_another_kept_still_denies_what_others_give() {
    use RuleVerdict::{Allow, Ask, Deny};
    for (kept, left) in [(Deny, Verdict::Deny), (Ask, Verdict::Ask)] {
        let mut world = home();
        let Content::Value(all) = rule(Allow, "*") else { panic!() };
        world.set(Key::Rule(parse("home/all")), *all);
        let mut policy = world.policy();
        policy.merge(&heads(&Key::Rule(parse("home/lamps")), vec![rule(kept, "lamp"), Content::Deleted]));
        let view = world.view_of(&policy);
        let request = view.question(&parse("person:mia"), None, &parse("server"), &parse("lamp")).unwrap();
        let decision = view.decide(&request);
        assert_eq!((decision.verdict, decision.rule.to_string()), (left, "home/lamps".to_owned()));
    }
}

#[test]
fn an_approver_is_one_of_all_heads_and_the_shortest_wait_counts() {
    let ask = |approvers: &[&str], wait_ms| {
        let who = Some(vec![Who::People]);
        let approvers = Some(approvers.iter().map(|approver| parse(approver)).collect());
        value(Value::Rule(Rule { who, approvers, wait_ms, ..Rule::of(RuleVerdict::Ask) }))
    };
    let mut world = home();
    for person in ["anna", "ben"] {
        world.set(Key::Person(parse(person)), Value::Person(Person::default()));
    }
    let mut policy = world.policy();
    let both = vec![ask(&["anna", "ben"], Some(9000)), ask(&["ben", "self"], Some(5000))];
    policy.merge(&heads(&Key::Rule(parse("home/lamps")), both));
    let view = world.view_of(&policy);
    let request = view.question(&parse("person:mia"), None, &parse("server"), &parse("lamp")).unwrap();
    let decision = view.decide(&request);
    let [open] = decision.asks.as_slice() else { panic!("{decision:?}") };
    assert_eq!((view.approvers(&request, open), open.wait_ms), (vec![parse("ben")], 5000));
}

#[test]
fn bindings_tokens_devices_and_tools_hold_what_all_heads_name() {
    let binding = |nodes: &str| value(Value::Binding(Binding { nodes: Some(vec![parse(nodes)]), tools: None }));
    let main = Key::Binding(parse("home"), parse("other"));
    let mut world = home();
    world.records.remove(&Key::Binding(parse("home"), parse("main")));
    let Content::Value(all) = rule(RuleVerdict::Allow, "*") else { panic!() };
    world.set(Key::Rule(parse("home/all")), *all);
    let held = |contents| {
        let mut policy = world.policy();
        policy.merge(&heads(&main, contents));
        let view = world.view_of(&policy);
        let request = view.question(&parse("person:mia"), None, &parse("server"), &parse("lamp")).unwrap();
        view.decide(&request).rule.to_string()
    };
    assert_eq!(held(vec![binding("*"), binding("server")]), "home/all");
    assert_eq!(held(vec![binding("*"), binding("laptop")]), "default");
    assert_eq!(held(vec![binding("*"), Content::Deleted]), "default");
    // One that cannot be read holds everything, and gives nothing of it.
    assert_eq!(held(vec![binding("*"), Content::Unreadable]), "home/other");

    let people = |people: &[&str]| {
        let people = people.iter().map(|person| parse(person)).collect();
        value(Value::Device(Device { people, ..Device::default() }))
    };
    let speaks = |contents| {
        let view = View::new(&heads(&Key::Device(peer("tablet")), contents), ALL, home().devices.into_values());
        ["anna", "mia"].map(|person| view.speaks_for(&peer("tablet"), &Principal::Person(parse(person))))
    };
    assert_eq!(speaks(vec![people(&["mia", "anna"]), people(&["anna"])]), [true, false]);
    assert_eq!(speaks(vec![people(&["anna"]), Content::Deleted]), [false, false]);

    let token = |holder: &str| {
        let holder = parse(holder);
        let hash = Hash::ZERO;
        value(Value::Token(Token {
            title: Title::default(),
            holder,
            hash,
            nodes: None,
            tools: None,
            read_only: false,
            expires_ms: None,
        }))
    };
    let opens = |contents| {
        let mut policy = world.policy();
        policy.merge(&heads(&Key::Token(parse("t")), contents));
        policy.merge(&heads(&main, vec![binding("*")]));
        let view = world.view_of(&policy);
        let mut request = view.question(&parse("person:mia"), None, &parse("server"), &parse("lamp")).unwrap();
        request.credential = Some(mesh_core::policy::Credential { token: parse("t"), over: false });
        view.decide(&request).rule.to_string()
    };
    assert_eq!(opens(vec![token("person:mia")]), "home/all");
    assert_eq!(opens(vec![token("person:mia"), token("person:anna")]), "token:over");
    assert_eq!(opens(vec![token("person:mia"), Content::Deleted]), "token:over");

    let tools = |tools: &[&str]| {
        let approved = tools.iter().map(|tool| (parse(tool), Hash::of(tool.as_bytes()))).collect();
        value(Value::Tools(DeviceTools { approved }))
    };
    let state = |contents| {
        let view = View::new(&heads(&Key::Tools(peer("tablet")), contents), ALL, home().devices.into_values());
        view.tools(&peer("tablet")).map(|(tool, state)| format!("{tool} {state:?}")).collect::<Vec<_>>()
    };
    assert_eq!(
        state(vec![tools(&["lamp"]), tools(&["lamp", "device.info"])]),
        ["device.info Pending", "lamp Approved"]
    );
    assert_eq!(state(vec![]), ["device.info Approved", "lamp Approved"]);
    assert_eq!(state(vec![tools(&[])]), ["device.info Pending", "lamp Pending"]);
}

#[test]
fn an_agent_that_one_suspended_is_suspended_although_another_took_its_record_away() {
    let mut world = home();
    let Content::Value(all) =
        value(Value::Rule(Rule { who: Some(vec![Who::Everyone]), ..Rule::of(RuleVerdict::Allow) }))
    else {
        panic!()
    };
    world.set(Key::Rule(parse("home/all")), *all);
    let suspended = value(Value::Agent(Agent { suspended: true, ..Agent::default() }));
    let mut policy = world.policy();
    policy.merge(&heads(&Key::Agent(parse("mia"), parse("bot")), vec![suspended, Content::Deleted]));
    let view = world.view_of(&policy);
    let ask = |who: &str| {
        view.decide(&view.question(&parse(who), None, &parse("server"), &parse("lamp")).unwrap()).rule.to_string()
    };
    assert_eq!(ask("agent:mia/bot"), "principal:suspended");
    assert_eq!(ask("agent:mia/other"), "home/all");
}

#[test]
fn what_a_lowered_author_wrote_is_void_and_what_it_replaced_counts_again() {
    let key = Key::Mode;
    let mut policy = Policy::default();
    let by: Principal = parse("person:owner");
    let first = policy.edit((key.clone(), Some(Value::Mode(Mode::Workspaces))), by.clone(), false, ALL);
    policy.insert(place(1, 1), Statement { hlc: 1, said: first });
    let second = policy.edit((key.clone(), Some(Value::Mode(Mode::Open))), by, false, ALL);
    policy.insert(place(2, 1), Statement { hlc: 2, said: second });
    assert_eq!(View::new(&policy, ALL, []).mode(), Mode::Open);
    let stands = |place: &Place| place.author != PeerId([2; 32]);
    assert_eq!(View::new(&policy, &stands, []).mode(), Mode::Workspaces);
}

#[test]
fn an_edit_is_admitted_within_the_numbers_and_not_twice() {
    let world = home();
    let policy = world.policy();
    let all = Value::Rule(Rule::of(RuleVerdict::Deny));
    let rule = |at: &str| Key::Rule(parse(at));
    assert_eq!(policy.admit(&rule("home/none"), &all, ALL), Ok(()));
    let unknown = InvalidRecord::UnknownWorkspace(parse("work"));
    assert_eq!(policy.admit(&rule("work/none"), &all, ALL), Err(unknown));
    let mut world = world;
    world.rule("home/none", Rule { note: parse("why"), ..Rule::of(RuleVerdict::Deny) });
    let policy = world.policy();
    let twin = InvalidRecord::DuplicateRule(parse("home/none"));
    assert_eq!(policy.admit(&rule("home/nothing"), &all, ALL), Err(twin));
    assert_eq!(policy.admit(&rule("home/none"), &all, ALL), Ok(()));
    assert_eq!(policy.admit(&rule("mesh/none"), &all, ALL), Ok(()));
    for n in 0..bounds::WORKSPACE_RULES_MAX - 1 {
        let note = parse("n");
        let nodes = Some(vec![parse(&format!("n{n}"))]);
        world.rule(&format!("home/r{n}"), Rule { nodes, note, ..Rule::of(RuleVerdict::Deny) });
    }
    let full = world.policy().admit(&rule("home/more"), &Value::Rule(Rule::of(RuleVerdict::Ask)), ALL);
    assert!(matches!(full, Err(InvalidRecord::Full { max: bounds::WORKSPACE_RULES_MAX, .. })), "{full:?}");
}

#[test]
fn who_manages_edits_up_to_his_own_role_and_an_owner_stays() {
    let mut world = home();
    for (person, role) in [("anna", Role::Owner), ("sean", Role::Admin), ("kai", Role::Member)] {
        world.set(Key::Person(parse(person)), Value::Person(Person { role, ..Person::default() }));
    }
    world.set(Key::Person(parse("owner")), Value::Person(Person { suspended: true, ..Person::default() }));
    let annas = Device { people: vec![parse("anna")], ..Device::default() };
    world.set(Key::Device(peer("laptop")), Value::Device(annas));
    world.set(Key::Member(parse("home"), parse("kai")), Value::Member(Role::Admin));
    let view = world.view();
    let may = |by: &str, key: &Key, value: Option<Value>| view.may_edit(&parse(by), key, value.as_ref());
    let person = |role| Some(Value::Person(Person { role, ..Person::default() }));
    let deny = || Some(Value::Rule(Rule::of(RuleVerdict::Deny)));
    let rule = |at: &str| Key::Rule(parse(at));
    let of = |id: &str| Key::Person(parse(id));

    assert!(matches!(may("agent:anna/bot", &rule("home/a"), deny()), Err(NotAllowed::NoPerson(_))));
    for (by, mesh, home) in [("anna", true, true), ("sean", false, true), ("kai", false, true), ("mia", false, false)] {
        let by = format!("person:{by}");
        assert_eq!(may(&by, &rule("mesh/a"), deny()).is_ok(), mesh, "{by}");
        assert_eq!(may(&by, &Key::Mode, Some(Value::Mode(Mode::Open))).is_ok(), mesh, "{by}");
        assert_eq!(may(&by, &rule("home/a"), deny()).is_ok(), home, "{by}");
    }
    let main = Key::Binding(parse("home"), parse("main"));
    assert!(may("person:sean", &main, None).is_ok() && may("person:kai", &main, None).is_err());
    let seat = |id: &str| Key::Member(parse("home"), parse(id));
    assert!(may("person:kai", &seat("mia"), Some(Value::Member(Role::Admin))).is_ok());
    assert!(may("person:kai", &seat("mia"), Some(Value::Member(Role::Owner))).is_err());
    assert!(may("person:mia", &seat("mia"), Some(Value::Member(Role::Admin))).is_err());

    assert!(may("person:sean", &of("mia"), person(Role::Guest)).is_ok());
    assert!(may("person:sean", &of("mia"), person(Role::Admin)).is_err());
    assert!(may("person:sean", &of("anna"), None).is_err());
    // To speak for an owner would be a way up.
    let speaks = |id: &str| Some(Value::Device(Device { people: vec![parse(id)], ..Device::default() }));
    assert!(may("person:sean", &Key::Device(peer("tablet")), speaks("mia")).is_ok());
    assert!(may("person:sean", &Key::Device(peer("tablet")), speaks("sean")).is_ok());
    assert!(may("person:sean", &Key::Device(peer("tablet")), speaks("anna")).is_err());

    assert_eq!(may("person:anna", &of("anna"), person(Role::Admin)), Err(NotAllowed::LastOwner));
    assert_eq!(may("person:anna", &of("anna"), None), Err(NotAllowed::LastOwner));
    assert_eq!(may("person:anna", &of("sean"), person(Role::Owner)), Ok(()));
}

/// Whatever is said of `owner`, and of those who sit at devices: at one somebody sits who may do everything.
#[test]
fn r01_an_owner_stays_whatever_is_said() {
    let person = |role, suspended| Value::Person(Person { role, suspended, ..Person::default() });
    let at = |people: &[&str]| {
        let people = people.iter().map(|id| parse(id)).collect();
        Value::Device(Device { people, ..Device::default() })
    };
    let (owner, anna, ghost) = (Key::Person(parse("owner")), Key::Person(parse("anna")), Key::Person(parse("ghost")));
    let devices = [peer("laptop"), peer("server")];
    let mut world = home();
    world.set(owner.clone(), person(Role::Member, true));
    // An owner who sits nowhere is none who stays.
    world.set(anna.clone(), person(Role::Owner, false));
    let manages = |world: &World| {
        let view = world.view();
        let sits = devices.map(|device| view.sits_at(&device).unwrap());
        let lifts =
            |by: &Principal| view.may_edit(by, &owner, None).is_ok() && view.may_edit(by, &Key::Mode, None).is_ok();
        (view.role(&parse("owner")), sits.map(|by| lifts(&by)))
    };
    let info = |world: &World, by: &str| {
        let view = world.view();
        let asked = view.question(&parse(by), None, &parse("server"), &parse("device.info")).unwrap();
        view.decide(&asked).verdict
    };
    assert_eq!(manages(&world), (Some(Role::Owner), [true, true]));
    assert_eq!(info(&world, "person:owner"), Verdict::Allow);
    // Nor who sits with others, or is a guest, or suspended.
    world.set(ghost.clone(), person(Role::Guest, false));
    for people in [&["ghost"][..], &["ghost", "anna"], &["nobody-said"]] {
        world.set(Key::Device(devices[0]), at(people));
        world.set(Key::Device(devices[1]), at(&["ghost"]));
        let (role, lifts) = manages(&world);
        assert_eq!(role, Some(Role::Owner), "{people:?}");
        assert!(lifts.contains(&true), "{people:?}");
    }
    // Where another owner sits, `owner` is suspended, and they keep their devices.
    world.set(Key::Device(devices[0]), at(&["anna"]));
    assert_eq!(manages(&world), (None, [true, false]));
    assert_eq!(info(&world, "person:owner"), Verdict::Deny);
    world.set(anna, person(Role::Owner, true));
    assert_eq!(manages(&world), (Some(Role::Owner), [true, true]));
}

/// What happens to three peers that edit one rule and meet now and then.
#[derive(Debug, Clone)]
enum Happens {
    Edit { at: usize, content: Option<Rule> },
    Meet { from: usize, to: usize },
}

fn edits() -> impl Strategy<Value = Option<Rule>> {
    let rule = (
        select(&[RuleVerdict::Allow, RuleVerdict::Ask, RuleVerdict::Deny][..]),
        proptest::option::of(select(&["people", "mia", "role:guest"][..])),
        proptest::option::of(select(&["lamp", "*", "files.*"][..])),
    );
    let rule = rule.prop_map(|(verdict, who, tool)| {
        let who = who.or((verdict == RuleVerdict::Allow).then_some("everyone"));
        Rule { who: who.map(|who| vec![parse(who)]), tools: tool.map(|tool| vec![parse(tool)]), ..Rule::of(verdict) }
    });
    proptest::option::weighted(0.8, rule)
}

fn happenings() -> impl Strategy<Value = Vec<Happens>> {
    let edit = (0..3_usize, edits()).prop_map(|(at, content)| Happens::Edit { at, content });
    let meet = (0..3_usize, 0..3_usize).prop_map(|(from, to)| Happens::Meet { from, to });
    proptest::collection::vec(prop_oneof![edit, meet], 1..20)
}

fn key() -> Key {
    Key::Rule(parse("home/lamps"))
}

/// The peers' registers afterwards, and what each edit knew.
fn live(happenings: Vec<Happens>) -> ([Register; 3], BTreeMap<Place, BTreeSet<Place>>) {
    let mut peers = [(); 3].map(|()| Register::default());
    let mut knew = BTreeMap::new();
    let mut seqs = [0; 3];
    for happens in happenings {
        match happens {
            Happens::Edit { at, content } => {
                let said = peers[at].edit((key(), content.map(Value::Rule)), parse("person:owner"), false, ALL);
                seqs[at] += 1;
                let here = place(u8::try_from(at).unwrap(), seqs[at]);
                knew.insert(here, peers[at].statements().map(|(place, _)| *place).collect());
                peers[at].insert(here, Statement { hlc: seqs[at], said });
            }
            Happens::Meet { from, to } => {
                let other = peers[from].clone();
                peers[to].merge(&other);
            }
        }
    }
    (peers, knew)
}

fn heads_of(register: &Register, stands: &dyn Fn(&Place) -> bool) -> BTreeSet<Place> {
    register.heads(stands).into_iter().map(|(place, _)| *place).collect()
}

fn join(a: &Register, b: &Register) -> Register {
    let mut joined = a.clone();
    joined.merge(b);
    joined
}

/// A register as many who lie could fill it.
fn wild() -> impl Strategy<Value = Register> {
    let known = (0..4_u8, 0..6_u64).prop_map(|(author, seq)| Known {
        author: PeerId([author; 32]),
        incarnation: Incarnation(1),
        seq,
    });
    let one = (0..4_u8, 1..5_u64, 0..4_u64, proptest::collection::vec(known, 0..4), edits());
    proptest::collection::vec(one, 1..10).prop_map(|all| {
        let mut register = Register::default();
        for (author, seq, generation, knew, rule) in all {
            let content = rule.map_or(Content::Deleted, |rule| value(Value::Rule(rule)));
            let by = parse("person:owner");
            let said = Said { key: key(), content, generation, knew, by, declared: false };
            register.insert(place(author, seq), Statement { hlc: seq, said });
        }
        register
    })
}

/// All that Mia may do with the lamp where this rule stands in a home that otherwise gives her everything, or nothing.
fn may(policy: &Policy, otherwise: Verdict) -> Verdict {
    let mut world = home();
    let otherwise = Otherwise { members: otherwise, ..Otherwise::default() };
    world.set(Key::Workspace(parse("home")), Value::Workspace(Workspace { otherwise, ..Workspace::default() }));
    let mut all = world.policy();
    all.merge(policy);
    let view = world.view_of(&all);
    view.decide(&view.question(&parse("person:mia"), None, &parse("server"), &parse("lamp")).unwrap()).verdict
}

#[test]
fn n2_n5_the_last_generation_and_made_up_knowledge_freeze_no_key() {
    let mut register = Register::default();
    let by = || parse("person:owner");
    let deny = value(Value::Rule(Rule::of(RuleVerdict::Deny)));
    let last =
        Said { key: key(), content: deny.clone(), generation: u64::MAX, knew: Vec::new(), by: by(), declared: false };
    register.insert(place(1, 1), Statement { hlc: 10, said: last });
    let taken = register.edit((key(), None), by(), false, ALL);
    register.insert(place(2, 1), Statement { hlc: 11, said: taken });
    assert_eq!(heads_of(&register, ALL), BTreeSet::from([place(2, 1)]), "whoever knows it replaces it");
    let again = register.edit((key(), Some(Value::Rule(Rule::of(RuleVerdict::Ask)))), by(), false, ALL);
    register.insert(place(2, 2), Statement { hlc: 12, said: again });
    assert_eq!(heads_of(&register, ALL), BTreeSet::from([place(2, 2)]));

    // Of a void one nothing is taken over, and made-up knowledge leaves room for what is held.
    let made_up = |n: u8| Known { author: PeerId([n; 32]), incarnation: Incarnation(1), seq: 1 };
    for author in 3..8_u8 {
        let knew = (0..bounds::KNEW_MAX as u8).map(|n| made_up(author * 32 + n)).collect();
        let said = Said { key: key(), content: deny.clone(), generation: 7, knew, by: by(), declared: false };
        register.insert(place(author, 1), Statement { hlc: 13, said });
    }
    let edit = register.edit((key(), None), by(), false, ALL);
    assert!(edit.to_body().is_ok(), "{} logs", edit.knew.len());
    register.insert(place(9, 1), Statement { hlc: 14, said: edit });
    assert_eq!(heads_of(&register, ALL), BTreeSet::from([place(9, 1)]));
    let of_honest = |place: &Place| place.author == PeerId([9; 32]);
    let void = Said { key: key(), content: deny, generation: u64::MAX, knew: Vec::new(), by: by(), declared: false };
    let mut other = Register::default();
    other.insert(place(1, 1), Statement { hlc: 10, said: void });
    assert_eq!(other.edit((key(), None), by(), false, &of_honest).generation, 1);
}

/// Whatever number, clock and knowledge the heads claim, who made them up at how many devices: one edit is the only head.
#[test]
fn r02_no_claimed_number_clock_or_knowledge_outlasts_an_edit() {
    let deny = value(Value::Rule(Rule::of(RuleVerdict::Deny)));
    let forever = |author: u8| Known { author: PeerId([author; 32]), incarnation: Incarnation(1), seq: u64::MAX };
    let (numbers, clocks) = ([1, 7, u64::MAX], [1, 1 << 40, u64::MAX]);
    for liars in 1..4_u8 {
        for (generation, hlc) in numbers.into_iter().flat_map(|number| clocks.map(|clock| (number, clock))) {
            for knows_all in [false, true] {
                let mut register = Register::default();
                // Keys above and below those of the honest, who are 20 and 21.
                for author in (0..liars).map(|n| if n == 1 { 2 } else { 40 + n }) {
                    let knew = if knows_all { [2, 20, 21, 40, 41, 42].map(forever).to_vec() } else { Vec::new() };
                    let by = parse("person:owner");
                    let said = Said { key: key(), content: deny.clone(), generation, knew, by, declared: false };
                    register.insert(place(author, 5), Statement { hlc, said });
                }
                for (author, seq) in [(20, 9), (21, 9), (20, 10), (21, 300)] {
                    let said = register.edit((key(), None), parse("person:owner"), false, ALL);
                    assert!(said.to_body().is_ok());
                    register.insert(place(author, seq), Statement { hlc: 50 + seq, said });
                    let expected = BTreeSet::from([place(author, seq)]);
                    assert_eq!(heads_of(&register, ALL), expected, "{liars} {generation} {hlc} {knows_all} {seq}");
                    assert_eq!(heads_of(&register, &|place| place.author.0[0] < 40), expected);
                }
            }
        }
    }
}

/// Of a key about which more logs said something than one statement can name, edits name what counts first.
#[test]
fn r02_more_logs_than_a_statement_can_name_freeze_no_key() {
    let mut register = Register::default();
    for n in 0..150 {
        let at = Place { author: PeerId([3; 32]), incarnation: Incarnation(n), seq: 1 };
        let content = value(Value::Rule(Rule::of(RuleVerdict::Deny)));
        let said =
            Said { key: key(), content, generation: 1, knew: Vec::new(), by: parse("person:owner"), declared: false };
        register.insert(at, Statement { hlc: 1, said });
    }
    for seq in 1..=4 {
        let said = register.edit((key(), None), parse("person:owner"), false, ALL);
        assert!(said.to_body().is_ok(), "{} places", said.knew.len());
        register.insert(place(9, seq), Statement { hlc: 1, said });
    }
    assert_eq!(heads_of(&register, ALL), BTreeSet::from([place(9, 4)]));
}

proptest! {
    #[test]
    fn heads_are_the_edits_that_nobody_knew_of(happenings in happenings()) {
        let (peers, knew) = live(happenings);
        for register in &peers {
            let held: BTreeSet<Place> = register.statements().map(|(place, _)| *place).collect();
            let known: BTreeSet<Place> = held.iter().flat_map(|place| knew[place].iter().copied()).collect();
            prop_assert_eq!(heads_of(register, ALL), held.difference(&known).copied().collect());
        }
    }

    #[test]
    fn registers_merge_in_any_order_and_any_number_of_times(a in wild(), b in wild(), c in wild()) {
        // Each author says one thing at one place.
        let b = join(&b, &a);
        let c = join(&c, &b);
        let ab = join(&a, &b);
        prop_assert_eq!(join(&b, &a), ab.clone());
        prop_assert_eq!(join(&ab, &c), join(&a, &join(&b, &c)));
        prop_assert_eq!(join(&ab, &ab), ab.clone());
    }

    #[test]
    fn whatever_authors_make_up_something_holds(register in wild(), voided in 0..4_u8) {
        prop_assert!(!register.heads(ALL).is_empty());
        let stands = |place: &Place| place.author != PeerId([voided; 32]);
        let standing = register.statements().filter(|(place, _)| stands(place)).count();
        prop_assert_eq!(register.heads(&stands).is_empty(), standing == 0);
    }

    #[test]
    fn an_edit_by_one_who_knows_all_ends_a_conflict(happenings in happenings()) {
        let (peers, _) = live(happenings);
        let mut all = join(&join(&peers[0], &peers[1]), &peers[2]);
        let said = all.edit((key(), None), parse("person:owner"), false, ALL);
        all.insert(place(9, 1), Statement { hlc: 1, said });
        prop_assert_eq!(heads_of(&all, ALL), BTreeSet::from([place(9, 1)]));
    }

    #[test]
    fn what_is_replaced_can_be_forgotten(happenings in happenings(), which in any::<u64>()) {
        let (peers, _) = live(happenings);
        let mut all = join(&join(&peers[0], &peers[1]), &peers[2]);
        let before = heads_of(&all, ALL);
        all.forget(ALL, &|place| (which >> (place.seq * 3 + u64::from(place.author.0[0]))) & 1 == 1);
        prop_assert_eq!(heads_of(&all, ALL), before.clone());
        all.forget(ALL, &|_| true);
        prop_assert_eq!(heads_of(&all, ALL), before);
    }

    #[test]
    fn no_head_undoes_what_another_takes(contents in proptest::collection::vec(edits(), 1..4)) {
        let content = |rule: &Option<Rule>| rule.clone().map_or(Content::Deleted, |rule| value(Value::Rule(rule)));
        let all = heads(&key(), contents.iter().map(content).collect());
        let mut reversed: Vec<Content> = contents.iter().map(content).collect();
        reversed.reverse();
        let reversed = heads(&key(), reversed);
        for otherwise in [Verdict::Allow, Verdict::Ask, Verdict::Deny] {
            let together = may(&all, otherwise);
            prop_assert_eq!(together, may(&reversed, otherwise));
            for one in &contents {
                prop_assert!(together >= may(&heads(&key(), vec![content(one)]), otherwise));
            }
        }
    }
}
