//! Entries of every kind, as they are signed, stored and sent.

use bytes::Bytes;
use mesh_core::crypto::{Signer as _, Symbolic};
use mesh_core::entry::{Kind, SignedEntry, encode};
use mesh_core::ids::{Hash, Incarnation, MeshId, Signature};
use mesh_core::record::{
    CancelRequest, ChangeKind, Directory, Effect, Ending, Genesis, Header, MembershipChange, Outcome, Payload, Source,
    Tier, ToolDecl, TruncatedRun, Truncation,
};
use mesh_core::test_kit::{Author, at, header, offers, outcome, tool};

const FILE: &str = "entries.txt";

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
    };
    let revoked = ChangeKind::Revoked { cutoffs: vec![(Incarnation(1), 9), (Incarnation(2), 0)], left: true };
    let directory = Directory {
        addresses: vec!["10.0.0.1:7100".to_owned(), "[fd00::1]:7100".to_owned()],
        platform: "linux".to_owned(),
        version: "0.1.0".to_owned(),
        services: vec![1, 2],
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
        encode(&MembershipChange { subject: other, grant, stands, fence: 40, what })
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
    let unknown = author.entry(Kind(98), b"\x03anything".to_vec(), |entry| entry.critical = true);
    entries.push(("of-a-newer-version", unknown));
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
            Kind::CANCEL => read.record::<CancelRequest>().map(|body| encode(&body)),
            Kind::TRUNCATION => read.record::<Truncation>().map(|body| encode(&body)),
            _ => read.body().map(<[u8]>::to_vec),
        };
        assert_eq!(again.as_deref(), entry.body(), "{name}");
        assert_eq!((read.hash, read.bytes.clone()), (entry.hash, entry.bytes.clone()), "{name}");
    }
}
