//! Cost of a decision and of taking up an edit, in a large mesh: 100 workspaces, 1,000 devices, 10,000 tools, 1,000 rules,
//! an asker who is in 8 workspaces.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a measurement may stop at what it did not expect")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use mesh_core::entry::Place;
use mesh_core::ids::{Hash, Incarnation, PeerId};
use mesh_core::policy::{
    Binding, Device, DeviceFacts, Key, Mode, Offered, Person, Policy, Request, Role, Rule, RuleVerdict, Statement,
    Value, View, Workspace,
};
use mesh_core::record::Tier;

const WORKSPACES: u64 = 100;
const NODES: u64 = 1_000;
const TOOLS_OF_EACH: u64 = 10;
const RULES_OF_EACH: u64 = 9;
const MESH_RULES: u64 = 100;
const MEMBER_OF: u64 = 8;

fn parse<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn peer(n: u64) -> PeerId {
    PeerId(Hash::of(&n.to_be_bytes()).0)
}

/// Kinds of tools that devices offer: `k0.do` to `k99.do`.
fn tool(node: u64, n: u64) -> String {
    format!("k{}.do{n}", (node * 7 + n) % 100)
}

fn rule(n: u64) -> Rule {
    let verdict = [RuleVerdict::Allow, RuleVerdict::Allow, RuleVerdict::Ask, RuleVerdict::Deny];
    let who = ["people", "role:guest", "agent:*/bot", "mia", "agents", "role:member"];
    let nodes = [format!("n{}-*", n % 10), "*".to_owned(), format!("n*-{}", n % 50), format!("n{}-?", n % 10)];
    let tools = [
        format!("k{}.*", n % 100),
        format!("k{}.do?", n % 100),
        format!("*.do{}", n % 10),
        format!("node:n1-*:k{}*", n % 10),
    ];
    let index = |len: usize| usize::try_from(n).unwrap() % len;
    Rule {
        who: Some(vec![parse(who[index(6)]), parse(who[index(5)])]),
        nodes: (!n.is_multiple_of(3)).then(|| vec![parse(&nodes[index(4)])]),
        tools: Some(vec![parse(&tools[index(4)]), parse(&format!("x{n}.*"))]),
        ..Rule::of(verdict[index(4)])
    }
}

fn place(seq: u64) -> Place {
    Place { author: peer(0), incarnation: Incarnation(1), seq }
}

struct Large {
    policy: Policy,
    view: View,
    requests: Vec<Request>,
}

fn large() -> Large {
    let mut policy = Policy::default();
    let mut seq = 0;
    let mut say = |key: Key, value: Value| {
        value.check(&key).unwrap();
        seq += 1;
        let said = policy.edit((key, Some(value)), parse("person:owner"), false, &|_| true);
        policy.insert(place(seq), Statement { hlc: seq, said });
    };
    say(Key::Mode, Value::Mode(Mode::Workspaces));
    for person in ["mia", "anna"] {
        let role = if person == "anna" { Role::Owner } else { Role::Member };
        say(Key::Person(parse(person)), Value::Person(Person { role, ..Person::default() }));
    }
    for n in 0..MESH_RULES {
        say(Key::Rule(parse(&format!("mesh/r{n}"))), Value::Rule(rule(n * 3 + 1)));
    }
    for w in 0..WORKSPACES {
        let id = format!("w{w}");
        say(Key::Workspace(parse(&id)), Value::Workspace(Workspace::default()));
        let nodes = Some(vec![parse(&format!("n{}-*", w % 10)), parse(&format!("n{}-1*", (w + 1) % 10))]);
        say(Key::Binding(parse(&id), parse("main")), Value::Binding(Binding { nodes, tools: None }));
        let more = Binding { nodes: None, tools: Some(vec![parse(&format!("k{}.*", w % 100))]) };
        say(Key::Binding(parse(&id), parse("more")), Value::Binding(more));
        if w % (WORKSPACES / MEMBER_OF) == 0 && w / (WORKSPACES / MEMBER_OF) < MEMBER_OF {
            say(Key::Member(parse(&id), parse("mia")), Value::Member(Role::Member));
        }
        for n in 0..RULES_OF_EACH {
            say(Key::Rule(parse(&format!("{id}/r{n}"))), Value::Rule(rule(w * 17 + n)));
        }
    }
    let mut devices = Vec::new();
    for n in 0..NODES {
        let tools = (0..TOOLS_OF_EACH).map(|t| Offered {
            name: parse(&tool(n, t)),
            owner_only: true,
            hash: Hash::ZERO,
            review: false,
        });
        devices.push(DeviceFacts {
            peer: peer(n),
            node: parse(&format!("n{}-{}", n % 10, n / 10)),
            confirmed: true,
            tier: if n % 2 == 0 { Tier::Owner } else { Tier::Shared },
            trusted: true,
            untagged: None,
            scope: None,
            tools: tools.collect(),
            deny: vec![parse("screen.*")],
        });
        let people = vec![parse("mia")];
        say(Key::Device(peer(n)), Value::Device(Device { people, ..Device::default() }));
    }
    let view = View::new(&policy, &|_| true, devices);
    let mut requests = Vec::new();
    for n in 0..10_000 {
        let node = n * 7919 % NODES;
        requests.push(Request {
            principal: parse(["person:mia", "agent:mia/bot"][usize::from(n % 2 == 0)]),
            origin: peer(n * 31 % NODES),
            credential: None,
            workspace: None,
            target: peer(node),
            tool: parse(&tool(node, n % TOOLS_OF_EACH)),
            call: None,
        });
    }
    Large { policy, view, requests }
}

fn policy(c: &mut Criterion) {
    let Large { mut policy, mut view, requests } = large();
    let mut group = c.benchmark_group("policy");
    let mut next = requests.iter().cycle();
    group.bench_function("decide", |b| b.iter(|| black_box(view.decide(next.next().unwrap()))));
    let owner = |request: &Request| Request { principal: parse("person:anna"), origin: peer(0), ..request.clone() };
    let owners: Vec<Request> = requests.iter().map(owner).collect();
    let mut next = owners.iter().cycle();
    group.bench_function("decide for an owner, who is in all", |b| {
        b.iter(|| black_box(view.decide(next.next().unwrap())));
    });
    let mut seq = 1_000_000;
    for at in ["w12/r3", "mesh/r3"] {
        let key = Key::Rule(parse(at));
        group.bench_function(format!("change {at}"), |b| {
            b.iter_batched(
                || {
                    seq += 1;
                    (seq, Value::Rule(rule(seq)))
                },
                |(seq, value)| {
                    let said = policy.edit((key.clone(), Some(value)), parse("person:owner"), false, &|_| true);
                    policy.insert(place(seq), Statement { hlc: seq, said });
                    policy.forget(&key, &|_| true, &|_| true);
                    view.refresh(&policy, &|_| true, &key);
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.bench_function("compile all", |b| b.iter(|| black_box(View::new(&policy, &|_| true, []))));
    group.bench_function("clone", |b| b.iter(|| black_box(view.clone())));
    group.finish();
    percentiles(&view, &requests);
}

/// All that Criterion does not tell: how the slow ones are.
fn percentiles(view: &View, requests: &[Request]) {
    let mut times: Vec<u128> = requests
        .iter()
        .map(|request| {
            #[expect(clippy::disallowed_methods, reason = "microseconds of a measurement, while nothing sleeps")]
            let start = std::time::Instant::now();
            black_box(view.decide(request));
            start.elapsed().as_nanos()
        })
        .collect();
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
    println!("decide, one by one: p50 {} ns, p99 {} ns", at(50), at(99));
}

criterion_group!(benches, policy);
criterion_main!(benches);
