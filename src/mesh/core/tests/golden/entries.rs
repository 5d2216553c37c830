//! Entries of every kind, as they are signed, stored and sent.

use std::collections::BTreeMap;

use bytes::Bytes;
use mesh_core::audience::Audience;
use mesh_core::audit_record::{AuditBatch, AuditRow, Happened};
use mesh_core::crypto::{Signer as _, Symbolic};
use mesh_core::entry::{Kind, SignedEntry, encode};
use mesh_core::ids::{Hash, Incarnation, MeshId, PeerId, Signature};
use mesh_core::policy::{
    Agent, Binding, Check, Choice, Consent, Content, Device, DeviceTools, Key, Known, Mode, Otherwise, Person, Role,
    Rule, RuleVerdict, Said, Title, Token, Value, Verdict, Workspace,
};
use mesh_core::record::{
    CancelRequest, ChangeKind, Directory, Effect, Ending, Fitness, Genesis, Header, MembershipChange, Outcome, Part,
    Payload, Source, Stay, TaggedNode, Tier, ToolDecl, TruncatedRun, Truncation,
};
use mesh_core::test_kit::{Author, at, header, offers, outcome, tool};

const FILE: &str = "entries.txt";

/// One statement of each kind about rights.
fn rights() -> Vec<(&'static str, Key, Content)> {
    fn parse<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
        text.parse().unwrap()
    }
    let (peer, ws) = (Symbolic::new(8).public_key().peer_id(), || parse("family"));
    let tools = || Some(vec![parse("node:hub:lights.*"), parse("tv.?")]);
    let person = Person { title: parse("Mia"), role: Role::Admin, logins: vec![Hash([1; 32])], suspended: true };
    let token = Token {
        title: Title::default(),
        holder: parse("agent:sean/ha"),
        hash: Hash([2; 32]),
        nodes: Some(vec![parse("cam-*")]),
        tools: tools(),
        read_only: true,
        expires_ms: Some(77),
    };
    let otherwise = Otherwise { agents: Verdict::Ask, ..Otherwise::default() };
    let rule = Rule {
        who: Some(vec![parse("agent:*/claude"), parse("role:guest"), parse("mia")]),
        nodes: Some(vec![parse("hub")]),
        tools: tools(),
        approvers: Some(vec![parse("self"), parse("role:owner")]),
        wait_ms: Some(5000),
        note: parse("n"),
        ..Rule::of(RuleVerdict::Ask)
    };
    let device = Device { title: parse("t"), icon: parse("i"), people: vec![parse("mia")] };
    let check = Check {
        principal: parse("device:panel"),
        workspace: Some(ws()),
        node: parse("hub"),
        tool: parse("lock.open"),
        expect: Verdict::Ask,
    };
    let approved = BTreeMap::from([(parse("Lights.On"), Hash([3; 32]))]);
    let value = |value| Content::Value(Box::new(value));
    vec![
        ("person", Key::Person(parse("mia")), value(Value::Person(person))),
        ("agent", Key::Agent(parse("mia"), parse("claude")), value(Value::Agent(Agent::default()))),
        ("token", Key::Token(parse("ha")), value(Value::Token(token))),
        (
            "workspace",
            Key::Workspace(ws()),
            value(Value::Workspace(Workspace { title: parse("F"), icon: parse("x"), otherwise })),
        ),
        ("member", Key::Member(ws(), parse("device:panel")), value(Value::Member(Role::Guest))),
        ("binding", Key::Binding(ws(), parse("main")), value(Value::Binding(Binding { nodes: None, tools: tools() }))),
        ("rule", Key::Rule(parse("family/doors")), value(Value::Rule(rule))),
        ("rule-deleted", Key::Rule(parse("mesh/doors")), Content::Deleted),
        ("device", Key::Device(peer), value(Value::Device(device))),
        ("mode", Key::Mode, value(Value::Mode(Mode::Workspaces))),
        ("check", Key::Check(parse("c")), value(Value::Check(check))),
        ("tools", Key::Tools(peer), value(Value::Tools(DeviceTools { approved }))),
    ]
}

/// One author's log, with every field of every body set at least once.
fn golden() -> Vec<(&'static str, SignedEntry)> {
    let mut author = Author::new(Symbolic::new(7), MeshId([0; 32]), at(0));
    let genesis = Genesis { name: "home".to_owned(), nonce: 42, node_id: "attic".parse().unwrap() };
    let genesis = author.says(Kind::GENESIS, encode(&genesis));
    author.mesh = MeshId(genesis.hash.0);
    let (me, other) = (author.id(), Symbolic::new(8).public_key());
    let approved = ChangeKind::Approved {
        tier: Tier::Shared,
        node_id: "den".parse().unwrap(),
        after: vec![Hash::of(b"a revocation"), Hash::of(b"another")],
        unseen: true,
        stay: None,
        of: Some(TaggedNode { tailnet: "t.example".into(), node: "n1".into(), tag: "tag:agent-node".into() }),
    };
    let stay = Stay { until_ms: 1, scope: Some(vec!["lights.*".parse().unwrap()]), one_time: true };
    let visits = ChangeKind::Approved {
        tier: Tier::Ephemeral,
        node_id: "visitor".parse().unwrap(),
        after: Vec::new(),
        unseen: false,
        stay: Some(stay),
        of: None,
    };
    let revoked =
        ChangeKind::Revoked { cutoffs: vec![(Incarnation(1), 9), (Incarnation(2), 0)], left: true, unsaid: true };
    let directory = Directory {
        addresses: vec!["10.0.0.1:7100".to_owned(), "[fd00::1]:7100".to_owned()],
        platform: "linux".to_owned(),
        version: "0.1.0".to_owned(),
        services: vec![1, 2],
        deny: vec!["files.*".parse().unwrap()],
        ..offers(vec![
            ToolDecl { description: "says it again".to_owned(), ..tool("echo", Effect::None) },
            ToolDecl { owner_only: true, ..tool("print", Effect::Once) },
        ])
    };
    let plain = header(&me, 1, other.peer_id(), "echo");
    let full = Header {
        target_incarnation: Some(Incarnation(3)),
        arguments: Payload::Blob { hash: Hash::of(b"large"), len: 1 << 20 },
        effect: Effect::Idempotent,
        client_key: Some("order-7".to_owned()),
        ..header(&me, 2, other.peer_id(), "print")
    };
    let inline = Header { arguments: Payload::Inline(Bytes::from_static(b"{}")), ..header(&me, 3, me, "echo") };
    let done = Outcome {
        output: Payload::Inline(Bytes::from_static(b"1")),
        error: "a warning".to_owned(),
        at_ms: 5,
        started_ms: 4,
        alias_of: Some(plain.id),
        ..outcome(full.id, Ending::Done)
    };
    let relayed = Outcome {
        attempt: 2,
        reason: "heard".to_owned(),
        source: Source::Relayed(other.peer_id()),
        ..outcome(plain.id, Ending::Interrupted)
    };
    let inferred = Outcome { source: Source::Inferred, ..outcome(plain.id, Ending::Expired) };
    let cancel = CancelRequest { id: plain.id, reason: "no more".to_owned(), expired: true };
    let truncation = Truncation { runs: vec![TruncatedRun { first: 2, last: 3, hash: Hash::of(b"x"), hlc: 6 }] };
    let grant = genesis.hash;
    let change = |what| {
        let stands = vec![Hash::of(b"a change that stands")];
        encode(&MembershipChange { subject: other, grant, stands, rights: vec![(Incarnation(1), 6)], fence: 40, what })
    };
    let mut entries = vec![("genesis", genesis)];
    for (name, kind, body) in [
        ("approved", Kind::MEMBERSHIP, change(approved)),
        ("revoked", Kind::MEMBERSHIP, change(revoked)),
        ("directory", Kind::DIRECTORY, encode(&directory)),
        ("call", Kind::CALL, encode(&plain)),
        ("call-with-all", Kind::CALL, encode(&full)),
        ("call-inline", Kind::CALL, encode(&inline)),
        ("outcome", Kind::OUTCOME, encode(&done)),
        ("outcome-relayed", Kind::OUTCOME, encode(&relayed)),
        ("outcome-inferred", Kind::OUTCOME, encode(&inferred)),
        ("cancel", Kind::CANCEL, encode(&cancel)),
        ("checkpoint", Kind::CHECKPOINT, Vec::new()),
        ("truncation", Kind::TRUNCATION, encode(&truncation)),
    ] {
        entries.push((name, author.says(kind, body)));
    }
    for (name, key, value) in rights() {
        let knew = vec![Known { author: me, incarnation: Incarnation(1), seq: 3 }];
        let (kind, by, content) = (key.kind(), "person:anna".parse().unwrap(), value);
        let said = Said { key, content, generation: 2, knew, by, declared: true };
        entries.push((name, author.says(kind, said.to_body().unwrap())));
    }
    let unknown = author.entry(Kind(98), b"\x03anything".to_vec(), |entry| entry.critical = true);
    entries.push(("of-a-newer-version", unknown));
    let asked = Audience::of_call(me, other.peer_id(), &[PeerId([9; 32])]);
    let once = Choice::Once { call: plain.id, header: Hash::of(b"its header") };
    let hour = Choice::Hour {
        principal: "agent:mia/claude".parse().unwrap(),
        domain: "home".parse().unwrap(),
        target: other.peer_id(),
        tool: "echo".parse().unwrap(),
    };
    for (name, choice) in [("consent", once), ("consent-hour", hour)] {
        let (of, note) = (vec!["home/doors".parse().unwrap()], "for the cat".parse().unwrap());
        let consent = Consent { choice, by: "anna".parse().unwrap(), of, note };
        entries.push((name, author.entry(Kind::CONSENT, encode(&consent), |entry| entry.audience = asked.clone())));
    }
    let row = AuditRow {
        token: Some("ha".parse().unwrap()),
        workspace: Some("home".parse().unwrap()),
        target: Some(other.peer_id()),
        node: Some("den".parse().unwrap()),
        tool: Some("echo".parse().unwrap()),
        call: Some(plain.id),
        at_ms: 5,
        last_ms: 6,
        count: 7,
        ..AuditRow::new(Happened::CallRefused, Some("agent:mia/claude".parse().unwrap()), Verdict::Deny, "home/doors")
    };
    let (_, key, content) = rights().swap_remove(0);
    let (generation, knew, by) = (2, Vec::new(), "person:anna".parse().unwrap());
    let edit = AuditRow::of_edit(&Said { key, content, generation, knew, by, declared: true });
    let batch = AuditBatch { rows: vec![row, edit], left_out: 1 };
    entries.push(("audit", author.says(Kind::AUDIT, encode(&batch))));
    entries.push(("approved-for-a-while", author.says(Kind::MEMBERSHIP, change(visits))));
    let part =
        |media_type: &str, name: &str, payload| Part { media_type: media_type.into(), name: name.into(), payload };
    let given = Outcome {
        output: Payload::Inline(Bytes::from_static(b"{}")),
        parts: vec![
            part("application/json", "", None),
            part("image/png", "cat.png", Some(Payload::Blob { hash: Hash::of(b"a cat"), len: 1 << 20 })),
        ],
        partial: true,
        ..outcome(full.id, Ending::Cancelled)
    };
    let carded = ToolDecl { card: Some(Hash::of(b"a card")), state: Fitness::REVIEW, ..tool("echo", Effect::Once) };
    entries.push(("outcome-with-parts", author.says(Kind::OUTCOME, encode(&given))));
    entries.push(("directory-with-cards", author.says(Kind::DIRECTORY, encode(&offers(vec![carded])))));
    entries
}

#[test]
#[ignore = "writes the fixture"]
fn write_entries() {
    let line = |(name, entry): (&str, SignedEntry)| {
        (name.to_owned(), vec![entry.signature.0.to_vec(), entry.bytes.to_vec(), entry.sealed().to_vec()])
    };
    super::write(FILE, golden().into_iter().map(line));
}

#[test]
fn entries_of_every_kind_read_as_what_was_written() {
    let golden = golden();
    let kept = super::read(FILE);
    assert_eq!(kept.len(), golden.len());
    for ((name, words), (expected, entry)) in kept.into_iter().zip(golden) {
        assert_eq!(name, expected);
        let signature = Signature::from_slice(&words[0]).unwrap();
        let read = SignedEntry::verify(&words[1], signature, &words[2], &Symbolic::new(7)).unwrap();
        assert_eq!(read.entry, entry.entry, "{name}");
        // Its body, too, says the same, and nothing of it is lost.
        let again = match read.entry.kind {
            Kind::GENESIS => read.record::<Genesis>().map(|body| encode(&body)),
            Kind::MEMBERSHIP => read.record::<MembershipChange>().map(|body| encode(&body)),
            Kind::DIRECTORY => read.record::<Directory>().map(|body| encode(&body)),
            Kind::CALL => read.header().map(|body| encode(&*body)),
            Kind::OUTCOME => read.record::<Outcome>().map(|body| encode(&body)),
            Kind::CONSENT => read.record::<Consent>().map(|body| encode(&body)),
            Kind::CANCEL => read.record::<CancelRequest>().map(|body| encode(&body)),
            Kind::TRUNCATION => read.record::<Truncation>().map(|body| encode(&body)),
            Kind::AUDIT => AuditBatch::of(&read).map(|body| encode(&body)),
            kind if kind.is_about_rights() => read.body().and_then(Said::from_body).map(|body| body.to_body().unwrap()),
            _ => read.body().map(<[u8]>::to_vec),
        };
        assert_eq!(again.as_deref(), entry.body(), "{name}");
        assert_eq!((read.hash, read.bytes.clone()), (entry.hash, entry.bytes.clone()), "{name}");
    }
}
