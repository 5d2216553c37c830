//! Laws of the decision, over worlds made up by chance; and the slow evaluator beside the compiled view.

use mesh_core::ids::{Hash, PeerId};
use mesh_core::policy::{
    Agent, Approver, Binding, Choice, Consent, Device, DeviceFacts, DeviceTools, Domain, Given, Key, Mode, Note,
    Offered, Otherwise, Person, PersonId, Principal, Remedy, Request, Role, Rule, RuleRef, RuleVerdict, Seat, Value,
    Verdict, Who, Workspace,
};
use mesh_core::record::Tier;
use mesh_core::tailnet::Untagged;
use mesh_core::test_kit::slow;
use proptest::prelude::*;
use proptest::sample::select;

use crate::world::{World, call, peer};

const PEOPLE: [&str; 3] = ["anna", "ben", "mia"];
const NODES: [&str; 3] = ["cam-1", "cam-2", "hub"];
const TOOLS: [&str; 3] = ["cam.see", "cam.turn", "Lamp.On"];
const WORKSPACES: [&str; 3] = ["den", "home", "work"];
const WHO: [&str; 13] = [
    "everyone",
    "people",
    "agents",
    "devices",
    "role:guest",
    "role:member",
    "role:admin",
    "role:owner",
    "ben",
    "mia",
    "agent:*/bot",
    "agent:mia/b?t",
    "device:cam-*",
];
const PRINCIPALS: [&str; 9] = [
    "person:anna",
    "person:ben",
    "person:mia",
    "person:owner",
    "person:nemo",
    "agent:mia/bot",
    "agent:anna/bot",
    "agent:owner/x",
    "device:cam-1",
];

fn parse<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn list<T>(texts: &'static [&'static str]) -> impl Strategy<Value = Option<Vec<T>>>
where
    T: std::str::FromStr<Err: std::fmt::Debug> + std::fmt::Debug + Clone + 'static,
{
    prop_oneof![
        3 => Just(None),
        1 => Just(Some(Vec::new())),
        6 => proptest::collection::vec(select(texts), 1..3)
            .prop_map(|texts| Some(texts.into_iter().map(parse).collect())),
    ]
}

const NODE_PATTERNS: [&str; 5] = ["*", "cam-*", "cam-?", "hub", "*-2"];
const TOOL_PATTERNS: [&str; 7] = ["*", "cam.*", "cam.see", "lamp.*", "*n", "node:cam-1:*", "node:*:cam.t?rn"];

fn roles() -> impl Strategy<Value = Role> {
    select(&[Role::Guest, Role::Member, Role::Admin, Role::Owner][..])
}

fn tiers() -> impl Strategy<Value = Tier> {
    select(&[Tier::Owner, Tier::Shared, Tier::Ephemeral][..])
}

fn verdicts() -> impl Strategy<Value = Verdict> {
    select(&[Verdict::Allow, Verdict::Ask, Verdict::Deny, Verdict::Deny][..])
}

fn domains() -> impl Strategy<Value = String> {
    prop_oneof![Just("mesh".to_owned()), select(&WORKSPACES[..]).prop_map(str::to_owned)]
}

const RULES: [&str; 4] = ["a", "m", "p", "z"];

fn refs() -> impl Strategy<Value = RuleRef> {
    let rule = (domains(), select(&RULES[..])).prop_map(|(domain, name)| parse(&format!("{domain}/{name}")));
    let otherwise = select(&WORKSPACES[..]).prop_map(|workspace| RuleRef::otherwise(&parse(workspace)));
    prop_oneof![4 => rule, 1 => otherwise]
}

fn approvers() -> impl Strategy<Value = Option<Vec<Approver>>> {
    list(&["self", "people", "role:owner", "role:member", "mia", "ben"])
}

/// A rule of any kind, as its domain would take it.
fn rules() -> impl Strategy<Value = (RuleRef, Rule)> {
    let plain = (
        refs(),
        select(&[RuleVerdict::Allow, RuleVerdict::Ask, RuleVerdict::Deny][..]),
        list::<Who>(&WHO),
        list(&NODE_PATTERNS),
        list(&TOOL_PATTERNS),
        approvers(),
    )
        .prop_map(|(at, verdict, who, nodes, tools, approvers)| {
            let who =
                if verdict == RuleVerdict::Allow { Some(who.unwrap_or_else(|| vec![Who::Everyone])) } else { who };
            let approvers = approvers.filter(|_| verdict == RuleVerdict::Ask);
            (at, Rule { who, nodes, tools, approvers, ..Rule::of(verdict) })
        });
    let always = (refs(), select(&["mia", "agent:mia/bot", "ben"][..]), select(&NODES[..]), refs()).prop_map(
        |(at, who, node, of)| {
            let of = RuleRef { domain: at.domain.clone(), name: of.name };
            let of = if of.is_otherwise() && at.domain == Domain::Mesh { parse("mesh/a") } else { of };
            let rule = Rule {
                who: Some(vec![parse(who)]),
                nodes: Some(vec![parse(node)]),
                tools: Some(vec![parse("cam.see"), parse("lamp.on")]),
                bound: vec![peer(node)],
                of: vec![of],
                ..Rule::of(RuleVerdict::Always)
            };
            (at, rule)
        },
    );
    prop_oneof![6 => plain, 1 => always].prop_filter("a rule's name", |(at, _)| !at.is_otherwise())
}

fn consents() -> impl Strategy<Value = (Consent, &'static str)> {
    let once = Just(Choice::Once { call: call("k").0, header: call("k").1 });
    let other = Just(Choice::Once { call: call("k").0, header: call("l").1 });
    let deny = Just(Choice::Deny { call: call("k").0, header: call("k").1 });
    let hour = (select(&PRINCIPALS[..]), domains(), select(&NODES[..]), select(&TOOLS[..])).prop_map(
        |(principal, domain, node, tool)| Choice::Hour {
            principal: parse(principal),
            domain: parse(&domain),
            target: peer(node),
            tool: parse(tool),
        },
    );
    let withdrawn = (0..4_u8).prop_map(|n| Choice::Withdrawn { consent: Hash([n; 32]) });
    let choice = prop_oneof![4 => once, 1 => other, 1 => deny, 4 => hour, 1 => withdrawn];
    let of = proptest::collection::vec(refs(), 1..8);
    (choice, select(&PEOPLE[..]), of, select(&NODES[..]))
        .prop_map(|(choice, by, of, at)| (Consent { choice, by: parse(by), of, note: Note::default() }, at))
}

fn devices() -> impl Strategy<Value = Vec<(Key, Value, DeviceFacts)>> {
    let one = (
        tiers(),
        proptest::collection::vec(select(&PEOPLE[..]), 0..3),
        prop_oneof![2 => Just(None), 1 => list(&TOOL_PATTERNS)],
        prop_oneof![5 => Just(vec![]), 1 => Just(vec![parse("cam.t*"), parse("*.turn")])],
        proptest::bool::weighted(0.97),
        proptest::bool::weighted(0.8),
        prop_oneof![40 => Just(None), 1 => Just(Some(Untagged::NoTag)), 1 => Just(Some(Untagged::KeyEnded))],
    );
    proptest::collection::vec(one, NODES.len()).prop_map(|all| {
        let make = |(node, (tier, people, scope, deny, trusted, confirmed, untagged)): (&str, _)| {
            let people: Vec<&str> = people;
            let said = Device { people: people.into_iter().map(parse).collect(), ..Device::default() };
            let tools = TOOLS.map(|tool| Offered {
                name: parse(tool),
                owner_only: tool == "cam.turn",
                hash: Hash::of(tool.as_bytes()),
                review: tool == "cam.turn",
            });
            let facts = DeviceFacts {
                peer: peer(node),
                node: parse(node),
                confirmed,
                tier,
                trusted,
                untagged,
                scope,
                tools: tools.into(),
                deny,
            };
            (Key::Device(peer(node)), Value::Device(said), facts)
        };
        NODES.into_iter().zip(all).map(make).collect()
    })
}

fn bindings() -> impl Strategy<Value = (Key, Value)> {
    let lists = (list(&NODE_PATTERNS), list(&TOOL_PATTERNS));
    (select(&WORKSPACES[..]), select(&["main", "more"][..]), lists).prop_map(|(workspace, name, (nodes, tools))| {
        (Key::Binding(parse(workspace), parse(name)), Value::Binding(Binding { nodes, tools }))
    })
}

prop_compose! {
    fn worlds(consents_max: usize)(
        devices in devices(),
        people in proptest::collection::vec((roles(), proptest::bool::weighted(0.05)), PEOPLE.len()),
        owner_suspended in proptest::bool::weighted(0.05),
        agent in proptest::option::weighted(0.1, any::<bool>()),
        otherwise in proptest::collection::vec((verdicts(), verdicts(), verdicts(), verdicts()), WORKSPACES.len()),
        seats in proptest::collection::vec(
            (select(&WORKSPACES[..]), select(&["anna", "ben", "mia", "device:cam-1"][..]), roles()), 0..7),
        bindings in proptest::collection::vec(bindings(), 0..5),
        rules in proptest::collection::vec(rules(), 0..10),
        approved in proptest::option::weighted(0.1, proptest::collection::vec((select(&TOOLS[..]), any::<bool>()), 0..3)),
        consents in proptest::collection::vec(consents(), 0..=consents_max),
        open in proptest::bool::weighted(0.05),
    ) -> World {
        let mut world = World::default();
        for (key, value, facts) in devices {
            world.set(key, value);
            world.devices.insert(facts.peer, facts);
        }
        for (id, (role, suspended)) in PEOPLE.iter().zip(people) {
            world.set(Key::Person(parse(id)), Value::Person(Person { role, suspended, ..Person::default() }));
        }
        if owner_suspended {
            world.set(Key::Person(parse("owner")), Value::Person(Person { suspended: true, ..Person::default() }));
        }
        if let Some(suspended) = agent {
            world.set(Key::Agent(parse("mia"), parse("bot")), Value::Agent(Agent { suspended, ..Agent::default() }));
        }
        for (id, (members, guests, agents, devices)) in WORKSPACES.iter().zip(otherwise) {
            let otherwise = Otherwise { members, guests, agents, devices };
            world.set(Key::Workspace(parse(id)), Value::Workspace(Workspace { otherwise, ..Workspace::default() }));
        }
        for (workspace, seat, role) in seats {
            world.set(Key::Member(parse(workspace), parse::<Seat>(seat)), Value::Member(role));
        }
        for (key, value) in bindings {
            world.set(key, value);
        }
        for (at, rule) in rules {
            world.set(Key::Rule(at), Value::Rule(rule));
        }
        if let Some(approved) = approved {
            let hash = |tool: &str, same| if same { Hash::of(tool.as_bytes()) } else { Hash::ZERO };
            let approved = approved.into_iter().map(|(tool, same)| (parse(tool), hash(tool, same))).collect();
            world.set(Key::Tools(peer("hub")), Value::Tools(DeviceTools { approved }));
        }
        if !open {
            world.set(Key::Mode, Value::Mode(Mode::Workspaces));
        }
        for ((consent, at), n) in consents.into_iter().zip(0..) {
            world.given.push(Given { hash: Hash([n; 32]), at: peer(at), consent });
        }
        world
    }
}

prop_compose! {
    fn requests()(
        principal in select(&PRINCIPALS[..]),
        origin in select(&NODES[..]),
        workspace in proptest::option::weighted(0.25, domains()),
        target in select(&NODES[..]),
        tool in select(&["cam.see", "cam.turn", "Lamp.On", "lamp.on"][..]),
        called in any::<bool>(),
    ) -> Request {
        Request {
            principal: parse(principal),
            origin: peer(origin),
            credential: None,
            workspace: workspace.map(|workspace| parse(&workspace)),
            target: peer(target),
            tool: parse(tool),
            call: called.then(|| call("k")),
        }
    }
}

fn verdict(world: &World, request: &Request) -> Verdict {
    world.view().decide(request).verdict
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn the_compiled_view_agrees_with_the_slow_evaluator(
        world in worlds(4), requests in proptest::collection::vec(requests(), 8),
    ) {
        let view = world.view();
        for request in requests {
            let decision = view.decide(&request);
            let slow = slow::decide(world.said(), &request);
            prop_assert_eq!((decision.verdict, decision.rule.to_string()), slow, "{:?}", request);
        }
    }

    #[test]
    fn adding_an_allow_takes_nothing_away(world in worlds(0), request in requests(), (at, rule) in rules()) {
        let before = verdict(&world, &request);
        let mut after = world;
        let who = Some(rule.who.unwrap_or_else(|| vec![Who::Everyone]));
        let rule = Rule { who, nodes: rule.nodes, tools: rule.tools, ..Rule::of(RuleVerdict::Allow) };
        after.set(Key::Rule(new(&at)), Value::Rule(rule));
        prop_assert!(verdict(&after, &request) <= before);
    }

    #[test]
    fn adding_a_deny_gives_nothing(world in worlds(4), request in requests(), (at, rule) in rules()) {
        let before = verdict(&world, &request);
        let mut after = world;
        let rule = Rule { approvers: None, of: Vec::new(), bound: Vec::new(), ..rule };
        after.set(Key::Rule(new(&at)), Value::Rule(Rule { verdict: RuleVerdict::Deny, ..rule }));
        prop_assert!(verdict(&after, &request) >= before);
    }

    #[test]
    fn adding_an_ask_without_who_gives_nothing(world in worlds(0), request in requests(), (at, rule) in rules()) {
        let before = verdict(&world, &request);
        let mut after = world;
        let rule = Rule { who: None, of: Vec::new(), bound: Vec::new(), ..rule };
        after.set(Key::Rule(new(&at)), Value::Rule(Rule { verdict: RuleVerdict::Ask, ..rule }));
        prop_assert!(verdict(&after, &request) >= before);
    }

    #[test]
    fn a_deny_of_the_mesh_without_who_always_wins(world in worlds(4), request in requests()) {
        let mut world = world;
        world.set(Key::Mode, Value::Mode(Mode::Workspaces));
        world.rule("mesh/never", Rule::of(RuleVerdict::Deny));
        prop_assert_eq!(verdict(&world, &request), Verdict::Deny);
    }

    #[test]
    fn r11_a_device_that_named_itself_gets_no_more_than_under_any_name(
        world in worlds(4),
        request in requests(),
        names in (select(&NODES[..]), select(&NODES[..])),
    ) {
        let mut world = world;
        let (origin, target) = (request.origin, request.target);
        let named = |world: &mut World, peer: PeerId, name: &str, confirmed| {
            let facts = world.devices.get_mut(&peer).unwrap();
            (facts.node, facts.confirmed) = (parse(name), confirmed || facts.tier == Tier::Owner);
        };
        let asks_itself = matches!(request.principal, Principal::Device(_));
        // What is said to one that is called so and asked within the hour is not for another.
        world.given.retain(|given| !asks_itself || !matches!(given.consent.choice, Choice::Hour { .. }));
        let verdict = |world: &World, name: &str| {
            let principal = if asks_itself { Principal::Device(parse(name)) } else { request.principal.clone() };
            verdict(world, &Request { principal, ..request.clone() })
        };
        for name in ["stranger", names.0] {
            named(&mut world, target, name, true);
            if origin != target { named(&mut world, origin, names.1, true); }
            let known = verdict(&world, if origin == target { name } else { names.1 });
            named(&mut world, target, name, false);
            if origin != target { named(&mut world, origin, "whoever", false); }
            let unknown = verdict(&world, if origin == target { name } else { "whoever" });
            let is_known = world.devices[&origin].confirmed && world.devices[&target].confirmed;
            prop_assert!(unknown >= known || is_known, "{known:?} as {name}, {unknown:?} unknown");
        }
    }

    #[test]
    fn an_agent_never_gets_more_than_its_person(world in worlds(0), request in requests()) {
        // Before anybody's yes: those are said to one or the other.
        let mut world = world;
        world.records.retain(|_, value| !matches!(value, Value::Rule(rule) if rule.verdict == RuleVerdict::Always));
        let Some(person) = request.principal.person().cloned() else { return Ok(()) };
        let view = world.view();
        let of_agent = Request { principal: Principal::Agent(person.clone(), parse("bot")), ..request.clone() };
        let of_person = Request { principal: Principal::Person(person), ..request };
        prop_assert!(view.decide(&of_agent).verdict >= view.decide(&of_person).verdict);
    }

    #[test]
    fn a_device_of_lower_tier_never_gets_more(world in worlds(0), request in requests()) {
        let mut world = world;
        // Else it may not speak for the person at all, which is no less.
        if let Some(person) = request.principal.person() {
            let people = vec![person.clone()];
            world.set(Key::Device(request.origin), Value::Device(Device { people, ..Device::default() }));
        }
        let answers = [Tier::Owner, Tier::Shared, Tier::Ephemeral].map(|tier| {
            world.devices.get_mut(&request.origin).unwrap().tier = tier;
            verdict(&world, &request)
        });
        prop_assert!(answers.is_sorted(), "{answers:?}");
    }

    #[test]
    fn naming_a_workspace_never_gives_more(world in worlds(4), request in requests()) {
        let view = world.view();
        let unnamed = view.decide(&Request { workspace: None, ..request.clone() });
        for workspace in WORKSPACES {
            let named = view.decide(&Request { workspace: Some(parse(workspace)), ..request.clone() });
            prop_assert!(named.verdict >= unnamed.verdict);
        }
        // The one that was chosen gives the same when it is named, as the header of a call names it.
        if let Some(chosen) = unnamed.workspace.clone() {
            let named = view.decide(&Request { workspace: Some(Domain::Workspace(chosen)), ..request });
            prop_assert_eq!((named.verdict, named.rule), (unnamed.verdict, unnamed.rule));
        }
    }

    #[test]
    fn what_would_change_a_no_by_rules_does(world in worlds(0), request in requests()) {
        let view = world.view();
        let decision = view.decide(&request);
        let Some(Remedy::Edit { lift, allow }) = view.would_change(&request, &decision) else { return Ok(()) };
        let mut after = world;
        for rule in lift {
            prop_assert!(after.records.remove(&Key::Rule(rule)).is_some());
        }
        if let Some((domain, who)) = allow {
            let who = who.into_iter().map(|principal| match principal {
                Principal::Person(person) if person.is_owner() => Who::Role(Role::Owner),
                Principal::Person(person) => Who::Person(person),
                Principal::Agent(person, agent) => Who::Agent(parse(&format!("{person}/{agent}"))),
                Principal::Device(node) => Who::Device(parse(node.as_str())),
            });
            let rule = Rule { who: Some(who.collect()), ..Rule::of(RuleVerdict::Allow) };
            after.set(Key::Rule(RuleRef { domain, name: parse("remedy") }), Value::Rule(rule));
        }
        let is_capped_owner = request.principal.person().is_some_and(PersonId::is_owner);
        prop_assert!(verdict(&after, &request) < Verdict::Deny || is_capped_owner);
    }

    #[test]
    fn who_may_approve_an_open_ask_settles_it(world in worlds(0), request in requests()) {
        let request = Request { call: Some(call("k")), ..request };
        let view = world.view();
        let decision = view.decide(&request);
        for ask in decision.asks {
            for person in view.approvers(&request, &ask) {
                let Some(at) = NODES.into_iter().find(|node| {
                    let device = &world.devices[&peer(node)];
                    device.trusted && device.tier != Tier::Ephemeral
                        && view.speaks_for(&peer(node), &Principal::Person(person.clone()))
                }) else { continue };
                let choice = Choice::Once { call: call("k").0, header: call("k").1 };
                let consent = Consent { choice, by: person, of: vec![ask.rule.clone()], note: Note::default() };
                let mut world = world.clone();
                world.given.push(Given { hash: Hash([9; 32]), at: peer(at), consent });
                let after = world.view().decide(&request);
                prop_assert!(!after.asks.contains(&ask));
                prop_assert_eq!(after.consents, vec![Hash([9; 32])]);
            }
        }
    }
}

/// A rule's name that no world has.
fn new(at: &RuleRef) -> RuleRef {
    RuleRef { domain: at.domain.clone(), name: parse("new") }
}

/// Cases of each law: `POLICY_CASES`, else as many as take a second or so.
fn cases() -> u32 {
    std::env::var("POLICY_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(128)
}

#[test]
fn seed_w4_a_workspace_allows_and_denies_by_patterns_of_tools_and_deny_wins() {
    let mut world = World::default();
    for (node, tools) in [("iphone-sean", ["camera", "exec.run"]), ("server", ["camera", "exec.run"])] {
        let tools =
            tools.map(|tool| Offered { name: parse(tool), owner_only: true, hash: Hash::ZERO, review: false }).to_vec();
        let facts = DeviceFacts {
            peer: peer(node),
            node: parse(node),
            confirmed: true,
            tier: Tier::Owner,
            trusted: true,
            untagged: None,
            scope: None,
            tools,
            deny: vec![],
        };
        world.devices.insert(facts.peer, facts);
    }
    world.set(Key::Mode, Value::Mode(Mode::Workspaces));
    world.set(Key::Person(parse("mia")), Value::Person(Person::default()));
    world.set(Key::Workspace(parse("family")), Value::Workspace(Workspace::default()));
    world.set(Key::Member(parse("family"), parse("mia")), Value::Member(Role::Member));
    world.set(Key::Binding(parse("family"), parse("main")), Value::Binding(Binding::default()));
    let rule = |verdict, tools: &[&str]| Rule {
        who: Some(vec![Who::People]),
        tools: Some(tools.iter().map(|tool| parse(tool)).collect()),
        ..Rule::of(verdict)
    };
    world.rule("family/cameras", rule(RuleVerdict::Allow, &["node:iphone-*:camera", "exec.*"]));
    world.rule("family/no-exec", rule(RuleVerdict::Deny, &["exec.*"]));
    let view = world.view();
    let ask = |node: &str, tool: &str| {
        let decision = view.decide(&view.question(&parse("person:mia"), None, &parse(node), &parse(tool)).unwrap());
        (decision.verdict, decision.rule.to_string())
    };
    assert_eq!(ask("iphone-sean", "camera"), (Verdict::Allow, "family/cameras".to_owned()));
    assert_eq!(ask("server", "camera"), (Verdict::Deny, "default".to_owned()));
    assert_eq!(ask("server", "exec.run"), (Verdict::Deny, "family/no-exec".to_owned()));
}
