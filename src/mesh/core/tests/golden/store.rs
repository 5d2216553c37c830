//! A store with rows of every space.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::config::Config;
use mesh_core::crypto::Symbolic;
use mesh_core::entry::{Kind, Place, encode};
use mesh_core::ids::{Hash, Incarnation, PeerId, ReqId};
use mesh_core::io::{Batch, CallState, Command, Edit, NewCall, Reply, Space, View, Write};
use mesh_core::policy::{Key, Person, Value};
use mesh_core::record::{CancelRequest, Effect, Ending, Tier};
use mesh_core::rows::{self, OpenKey, Row, RowKey};
use mesh_core::test_kit::{self, Author, Machine, Net, at, id, outcome};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;

const FILE: &str = "store.txt";
/// The device whose store it is.
const DEVICE: usize = 1;
/// Time of its clocks when the fixture is read.
const LATER_MS: u64 = 100_000_000;

fn call(target: usize) -> NewCall {
    test_kit::call(&id(target), "echo")
}

fn secret() -> Hash {
    Hash::of(b"a secret")
}

/// A member that wrote a log of its own, was removed, and contradicts itself.
fn strange(net: &Net) -> Author {
    net.author(9)
}

/// Rows that a device writes over many steps, and by hand what it keeps for moments only.
fn golden() -> Vec<Write> {
    let mut net = Net::of(3);
    let config = Config {
        keep_entries_ms: 20_000,
        keep_calls_ms: 8_000,
        forget_after_ms: 16_000,
        compact_every_ms: 1_000,
        compact_min: 2,
        ..Config::default()
    };
    net.restart_as(DEVICE, config);
    net.join_all();
    // Forgotten by now: marks, and a log with a gap.
    net.ask(0, NewCall { ttl_ms: 2_000, ..call(DEVICE) });
    net.ask(DEVICE, NewCall { ttl_ms: 2_000, ..call(0) });
    net.pass(70_000);
    // Over: a call that a client named.
    net.ask(DEVICE, NewCall { client_key: Some("order-7".to_owned()), ..call(DEVICE) });
    // What this version does not understand, in a log that forks.
    assert!(matches!(net.approve(0, 9, "strange", Tier::Owner), Reply::Approved(_)));
    net.pass(1_000);
    let mut first = strange(&net);
    let mut second = first.clone();
    for (author, kind) in [(&mut first, 98), (&mut second, 97)] {
        let entry = author.says(Kind(kind), b"\x02anything".to_vec());
        net.hears(DEVICE, author, entry);
    }
    // Before its header came, if it ever does.
    let unknown = ReqId::new(&first.id(), Incarnation(1), 5);
    let ending = first.says(Kind::OUTCOME, encode(&outcome(unknown, Ending::Done)));
    net.hears(DEVICE, &first, ending);
    let cancel = CancelRequest { id: unknown, reason: "no more".to_owned(), expired: false };
    let cancel = first.says(Kind::CANCEL, encode(&cancel));
    net.hears(DEVICE, &first, cancel);
    // Open: its target is away.
    net.split(&[&[0, DEVICE], &[2]]);
    net.ask(DEVICE, NewCall { effect: Some(Effect::Once), ..call(2) });
    let invite = Command::Invite { secret: secret(), tier: Tier::Shared, ttl_ms: 600_000, name: None, stay: None };
    assert_eq!(net.command(DEVICE, invite), Reply::Invited);
    let changes = vec![(Key::Person("mia".parse().unwrap()), Some(Value::Person(Person::default())))];
    let by = "person:owner".parse().unwrap();
    let edit = Command::Edit(Edit { by, changes, declared: false, force: false, seen: Vec::new() });
    assert_eq!(net.command(DEVICE, edit), Reply::Edited { written: 1 });

    let disk = &net.devices[DEVICE].machine.disk;
    let all = |space| disk.scan(space, Vec::new(), vec![u8::MAX; 64]).map(move |(key, value)| (space, key, value));
    let write = |(space, key, value): (Space, &[u8], &bytes::Bytes)| {
        ((space, key.to_vec()), Write { space, key: key.to_vec(), value: Some(value.clone()) })
    };
    let mut writes: BTreeMap<(Space, Vec<u8>), Write> = Space::ALL.into_iter().flat_map(all).map(write).collect();
    let by_hand = [
        rows::claim_floor().put(&40_000),
        rows::sweep(&id(2), Incarnation(1)).put(&vec![(3, 4), (9, 9)]),
        rows::unheard(&id(8), Incarnation(2)).put(&(4, 9)),
        rows::directory_at(&id(9)).put(&(7, Place { author: id(9), incarnation: Incarnation(8), seq: 6 })),
        rows::void(&id(9), Incarnation(8)).put(&rows::VoidRow { first: 3, last: 5 }),
    ];
    for row in by_hand {
        writes.entry((row.space, row.key.clone())).or_insert(row);
    }
    writes.into_values().collect()
}

/// All that the key names, and the row written anew from what is read of both.
fn again(space: Space, key: &[u8], value: &[u8]) -> Option<(&'static str, Write)> {
    fn put<T: Row>(name: &'static str, at: RowKey<T>, value: &[u8]) -> Option<(&'static str, Write)> {
        let row = at.read(value)?;
        Some((name, at.put(&row)))
    }
    let hash = Hash::from_slice;
    match space {
        Space::Meta => meta(key, value),
        Space::Log => {
            let Place { author, incarnation, seq } = rows::place_of(key)?;
            put("entry", rows::entry(&author, incarnation, seq), value)
        }
        Space::Heads => {
            let (author, incarnation) = rows::log_of(key)?;
            put("head", rows::head(&author, incarnation), value)
        }
        Space::Trust => put("trust", rows::trust(&hash(key)?), value),
        Space::Directory => put("directory", rows::directory(&PeerId::from_slice(key)?), value),
        Space::Invites => put("invite", rows::invite(&hash(key)?), value),
        Space::Open => match OpenKey::of(key)? {
            OpenKey::Call(id) => put("open call", rows::open_call(&id), value),
            OpenKey::EarlyOutcome(id) => put("early outcome", rows::early_outcome(&id, &hash(key.get(16..)?)?), value),
            OpenKey::EarlyCancel(id) => put("early cancel", rows::early_cancel(&id), value),
            OpenKey::Consent(of) => put("consent", rows::consent(&of), value),
        },
        Space::Calls => put("call", rows::call(&ReqId::from_slice(key)?), value),
        Space::CallsByTime => {
            let (accepted_ms, id) = rows::by_time_of(key)?;
            put("call by time", rows::call_by_time(accepted_ms, &id), value)
        }
        Space::Keys => put("client key", rows::client_key(&hash(key)?), value),
        Space::Journal => {
            let (id, attempt) = rows::journal_of(key)?;
            put("journal", rows::journal(&id, attempt), value)
        }
        Space::BlobReaders => {
            let (blob, peer) = key.split_at(32);
            put("blob reader", rows::blob_reader(&hash(blob)?, &PeerId::from_slice(peer)?), value)
        }
        Space::Policy => put("statement", rows::statement(&rows::place_of(key)?), value),
        Space::Audit => {
            let (at_ms, place) = rows::audit_of(key)?;
            put("audit", rows::audit(at_ms, &place), value)
        }
        Space::ForgottenMarks => put("forgotten mark", rows::forgotten_mark(&rows::series_of(key)?), value),
    }
}

fn meta(key: &[u8], value: &[u8]) -> Option<(&'static str, Write)> {
    fn put<T: Row>(name: &'static str, key: &[u8], at: RowKey<T>, value: &[u8]) -> Option<(&'static str, Write)> {
        let row = (at.key == key).then(|| at.read(value)).flatten()?;
        Some((name, at.put(&row)))
    }
    if let Some((author, incarnation)) = rows::fork_of(key) {
        return put("fork", key, rows::fork(&author, incarnation), value);
    }
    if let Some((author, incarnation)) = rows::truncation_of(key) {
        return put("truncation", key, rows::truncation(&author, incarnation), value);
    }
    if let Some((author, incarnation)) = rows::sweep_of(key) {
        return put("sweep", key, rows::sweep(&author, incarnation), value);
    }
    if let Some(place) = rows::unsupported_of(key) {
        return put("unsupported", key, rows::unsupported(&place?), value);
    }
    if let Some(author) = rows::directory_at_of(key) {
        return put("directory at", key, rows::directory_at(&author?), value);
    }
    if let Some(log) = rows::void_of(key) {
        let (author, incarnation) = log?;
        return put("void", key, rows::void(&author, incarnation), value);
    }
    if let Some(log) = rows::unheard_of(key) {
        let (author, incarnation) = log?;
        return put("unheard", key, rows::unheard(&author, incarnation), value);
    }
    put("fence", key, rows::fence(), value)
        .or_else(|| put("incarnation", key, rows::incarnation(), value))
        .or_else(|| put("incarnations", key, rows::incarnations(), value))
        .or_else(|| put("age", key, rows::age(), value))
        .or_else(|| put("boot", key, rows::boot(), value))
        .or_else(|| put("counter", key, rows::counter(), value))
        .or_else(|| put("claim floor", key, rows::claim_floor(), value))
}

/// Everything that a row can be.
const ALL: [&str; 28] = [
    "age",
    "boot",
    "call",
    "call by time",
    "claim floor",
    "client key",
    "counter",
    "directory",
    "directory at",
    "early cancel",
    "early outcome",
    "entry",
    "fence",
    "fork",
    "forgotten mark",
    "head",
    "incarnation",
    "incarnations",
    "invite",
    "journal",
    "open call",
    "statement",
    "sweep",
    "truncation",
    "trust",
    "unheard",
    "unsupported",
    "void",
];

#[test]
#[ignore = "writes the fixture"]
fn write_store() {
    let line = |write: Write| (write.space.name().to_owned(), vec![write.key, write.value.unwrap().to_vec()]);
    super::write(FILE, golden().into_iter().map(line));
}

fn kept() -> Vec<Write> {
    let space = |name: &str| Space::ALL.into_iter().find(|space| space.name() == name).unwrap();
    let row = |(name, mut words): (String, Vec<Vec<u8>>)| {
        let value = if words.len() > 1 { words.remove(1) } else { Vec::new() };
        Write { space: space(&name), key: words.remove(0), value: Some(value.into()) }
    };
    super::read(FILE).into_iter().map(row).collect()
}

#[test]
fn rows_of_every_sort_read_as_what_was_written() {
    let mut seen = BTreeSet::new();
    for row in kept() {
        let value = row.value.clone().unwrap();
        let (name, again) = again(row.space, &row.key, &value).unwrap_or_else(|| panic!("{row:?} does not read"));
        assert_eq!(again, row, "{name}");
        seen.insert(name);
    }
    assert_eq!(seen, BTreeSet::from(ALL));
}

/// View of a person on it.
fn shown(view: &View) -> Vec<(String, Tier, bool)> {
    let node = |node: &mesh_core::io::NodeView| (node.node_id.to_string(), node.tier, node.directory.is_some());
    view.nodes.iter().map(node).collect()
}

#[test]
fn a_peer_takes_up_its_work_from_it() {
    let writes = kept();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let key = Symbolic::new(DEVICE as u64);
    let mut machine = Machine::new(key, Config::default(), &Batch { writes: writes.clone(), sync: true });
    machine.boot(at(LATER_MS), &mut rng, 0, false);
    let view = machine.peer().view();
    let mut nodes = shown(&view);
    nodes.sort();
    let node = |name: &str, tier, told| (name.to_owned(), tier, told);
    let owner = Tier::Owner;
    assert_eq!(
        nodes,
        [
            node("peer-0", owner, true),
            node("peer-1", owner, true),
            node("peer-2", owner, true),
            node("strange", owner, false)
        ]
    );
    assert!(view.rights.person(&"mia".parse().unwrap()).is_some());
    assert_eq!((view.mesh_name.as_str(), view.forked), ("home", vec![id(9)]));
    let open: Vec<_> = machine.peer().open_calls().filter(|call| matches!(call.state, CallState::Open(_))).collect();
    assert_eq!(
        open.iter().map(|call| (call.header.target, call.header.effect)).collect::<Vec<_>>(),
        [(id(2), Effect::Once)]
    );
    let over: Vec<_> = machine
        .disk
        .scan(Space::Calls, Vec::new(), vec![u8::MAX; 17])
        .map(|(key, _)| ReqId::from_slice(key).unwrap())
        .collect();
    let named = over.iter().filter_map(|id| machine.disk.applied_row(&rows::call(id)));
    let named: Vec<_> = named.filter(|call| call.header.client_key.as_deref() == Some("order-7")).collect();
    assert_eq!((named.len(), named[0].state, named[0].confirmed), (1, CallState::Ended(Ending::Done), true));
    assert_eq!(
        machine.disk.applied_row(&rows::invite(&secret())).map(|row| (row.tier, row.used_by)),
        Some((Tier::Shared, None))
    );
}
