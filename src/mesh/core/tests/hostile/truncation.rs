//! Tests: what a member says is gone of its log, in whatever order it comes, and what nobody may say.

use mesh_core::entry::{Kind, SignedEntry, encode};
use mesh_core::frame::{Authors, EntryItem, Frame};
use mesh_core::ids::{Hash, Incarnation};
use mesh_core::io::{Output, Space};
use mesh_core::limits;
use mesh_core::record::{ChangeKind, Directory, MembershipChange, Tier, TruncatedRun, Truncation};
use mesh_core::rows::{self, Head};
use mesh_core::test_kit::{Author, pushed, runs_of};
use proptest::prelude::*;

use super::{Honest, scene};

fn one(entry: &SignedEntry) -> TruncatedRun {
    TruncatedRun { first: entry.entry.seq, last: entry.entry.seq, hash: entry.hash, hlc: entry.entry.hlc }
}

fn truncation(liar: &mut Author, runs: Vec<TruncatedRun>) -> SignedEntry {
    liar.says(Kind::TRUNCATION, encode(&Truncation { runs }))
}

fn named(n: usize) -> Vec<u8> {
    encode(&Directory { platform: n.to_string(), ..Directory::default() })
}

/// State held of one author: its rows in the log, how far it is held, and its directory entry.
fn held(honest: &Honest, of: &Author) -> (Vec<u64>, Option<Head>, Option<SignedEntry>) {
    let disk = &honest.machine.disk;
    let log = disk.logs_of(&of.id()).filter_map(|(key, _)| rows::place_of(key));
    let seqs = log.filter(|place| place.incarnation == of.incarnation).map(|place| place.seq).collect();
    let head = disk.applied_row(&rows::head(&of.id(), of.incarnation));
    (seqs, head, disk.applied_row(&rows::directory(&of.id())))
}

/// The truncations that are kept.
fn truncations(honest: &Honest) -> Vec<SignedEntry> {
    let rows = honest.machine.disk.scan(Space::Meta, Vec::new(), vec![u8::MAX]);
    rows.filter(|(key, _)| rows::truncation_of(key).is_some())
        .filter_map(|(_, row)| SignedEntry::from_stored(row))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A peer that got all entries before they were dropped, one that got them after, and one that got some of each
    /// from both in any order: all end with the same.
    #[test]
    fn whole_and_dropped_logs_merge_to_the_same(
        dead in proptest::collection::vec(any::<bool>(), 1..24),
        order in proptest::collection::vec(0..40_usize, 0..60),
    ) {
        let mut whole = Honest::new();
        let mut author = whole.author(1);
        let mut entries: Vec<SignedEntry> = Vec::new();
        for n in 0..dead.len() {
            entries.push(author.says(Kind::DIRECTORY, named(n)));
        }
        let last = entries.len() - 1;
        let is_dead = |n: usize| n != last && dead[n];
        let gone = entries.iter().enumerate().filter(|(n, _)| is_dead(*n)).map(|(_, entry)| one(entry));
        let runs = runs_of(gone.collect::<Vec<_>>());
        let some = !runs.is_empty();
        if some {
            entries.push(truncation(&mut author, runs));
        }
        let latest = entries.len() - 1;
        entries.push(author.says(Kind::DIRECTORY, named(99)));

        whole.admit(&author, Tier::Shared);
        for entry in &entries {
            whole.hears(&author, pushed(entry.clone()));
        }
        whole.pass(400);

        let mut other = Honest::new();
        other.admit(&author, Tier::Shared);
        for n in order.into_iter().filter(|n| *n < entries.len()) {
            other.hears(&author, pushed(entries[n].clone()));
        }
        // As one answers who has dropped it: its author's truncation first, then what is left.
        let left = (0..entries.len()).filter(|n| *n >= dead.len() || !is_dead(*n));
        for n in some.then_some(latest).into_iter().chain(left) {
            other.hears(&author, pushed(entries[n].clone()));
        }
        other.pass(400);

        let (seqs, head, directory) = held(&whole, &author);
        prop_assert_eq!(held(&other, &author), (seqs.clone(), head, directory));
        let alive: Vec<u64> = (0..entries.len())
            .filter(|n| *n >= dead.len() || !is_dead(*n))
            .map(|n| n as u64 + 1)
            .collect();
        prop_assert_eq!(seqs, alive);
    }
}

#[test]
fn nobody_says_what_is_gone_of_anothers_log() {
    let (mut honest, mut liar, mut target) = scene();
    let first = target.seq;
    for n in 0..3 {
        let entry = target.says(Kind::DIRECTORY, named(n));
        honest.hears(&target, pushed(entry));
    }
    // Both write their first incarnation under one number; the liar's truncation is long enough for either.
    assert_eq!(liar.incarnation, target.incarnation);
    for _ in 0..5 {
        let entry = liar.says(Kind::DIRECTORY, named(7));
        honest.hears(&liar, pushed(entry));
    }
    let run = TruncatedRun { first: 1, last: 4, hash: target.previous, hlc: 0 };
    let entry = truncation(&mut liar, vec![run]);
    honest.hears(&liar, pushed(entry));
    honest.pass(100);
    let (log, ..) = held(&honest, &target);
    assert_eq!(log, (1..=first + 3).collect::<Vec<_>>());
    assert_eq!(held(&honest, &liar).0, [5, 6], "its own it may");
    // A gap in the other's log is a gap as before.
    let missing = target.says(Kind::DIRECTORY, named(8));
    let after = target.says(Kind::DIRECTORY, named(9));
    honest.hears(&liar, pushed(after.clone()));
    assert_eq!(held(&honest, &target).0, log);
    for entry in [missing, after] {
        honest.hears(&liar, pushed(entry));
    }
    assert_eq!(held(&honest, &target).0.len(), log.len() + 2);
}

#[test]
fn a_truncation_that_cannot_be_true_is_not_taken() {
    let run_of = |first, last| TruncatedRun { first, last, hash: Hash::of(b"x"), hlc: u64::MAX };
    let many: Vec<TruncatedRun> =
        (0..=limits::TRUNCATED_RUNS_MAX as u64).map(|n| run_of(2 * n + 1, 2 * n + 1)).collect();
    let bad = [
        vec![],
        vec![run_of(0, 1)],
        vec![run_of(2, 1)],
        vec![run_of(1, u64::MAX)],
        vec![run_of(1, 2), run_of(2, 3)],
        vec![run_of(1, 1), run_of(2, 2)],
        vec![run_of(3, 3), run_of(1, 1)],
        vec![run_of(1, 11)],
        many,
    ];
    for runs in bad {
        let (mut honest, mut liar, _) = scene();
        for n in 0..10 {
            let entry = liar.says(Kind::DIRECTORY, named(n));
            honest.hears(&liar, pushed(entry));
        }
        let entry = truncation(&mut liar, runs.clone());
        honest.hears(&liar, pushed(entry));
        honest.pass(100);
        assert!(truncations(&honest).is_empty(), "{runs:?}");
        assert_eq!(held(&honest, &liar).0, (1..=11).collect::<Vec<_>>(), "all is there, and its log goes on: {runs:?}");
    }
    // As far as there is room for incarnations, and no further.
    let (mut honest, mut liar, _) = scene();
    for incarnation in 0..3 * limits::INCARNATIONS_MAX as u32 {
        (liar.incarnation, liar.seq) = (Incarnation(1000 + incarnation), u64::MAX / 2);
        let entry = truncation(&mut liar, vec![run_of(1, u64::MAX / 3)]);
        honest.hears(&liar, pushed(entry));
    }
    let kept = truncations(&honest).len();
    let state = honest.machine.disk.state();
    let of_liar = |key: &[u8]| rows::log_of(key).is_some_and(|(author, _)| author == liar.id());
    let heads = state.keys(Space::Heads).filter(|key| of_liar(key)).count();
    assert!(kept <= limits::INCARNATIONS_MAX && heads <= limits::INCARNATIONS_MAX + 1, "{kept} {heads}");
}

#[test]
fn what_is_gone_stays_gone() {
    let (mut honest, mut liar, _) = scene();
    let entries: Vec<SignedEntry> = (0..6).map(|n| liar.says(Kind::DIRECTORY, named(n))).collect();
    for entry in &entries {
        honest.hears(&liar, pushed(entry.clone()));
    }
    let whole = TruncatedRun { first: 1, ..one(&entries[3]) };
    let more = truncation(&mut liar, vec![whole]);
    let less = truncation(&mut liar, vec![TruncatedRun { first: 1, ..one(&entries[1]) }]);
    honest.hears(&liar, pushed(more.clone()));
    honest.hears(&liar, pushed(less));
    honest.pass(100);
    let kept: Vec<Hash> = truncations(&honest).iter().map(|entry| entry.hash).collect();
    assert_eq!(kept, [more.hash]);
    for entry in &entries {
        honest.hears(&liar, pushed(entry.clone()));
    }
    assert_eq!(held(&honest, &liar).0, [5, 6, 7, 8]);
}

/// Fingerprint of the membership changes in an outgoing digest.
fn digest_of(out: &[Output]) -> Option<Hash> {
    out.iter().find_map(|o| if let Output::Send(_, Frame::Digest { changes, .. }) = o { Some(*changes) } else { None })
}

#[test]
fn a_stolen_key_hides_no_membership_change() {
    let mut honest = Honest::new();
    let (mut owner, friend) = (honest.author(1), honest.author(2));
    let new = honest.author(3);
    honest.admit(&owner, Tier::Owner);
    honest.admit(&friend, Tier::Owner);
    let what = ChangeKind::Approved {
        tier: Tier::Shared,
        node_id: "new".parse().unwrap(),
        after: Vec::new(),
        unseen: false,
        stay: None,
        of: None,
    };
    let grant = honest.peer().grant_of(&owner.id()).unwrap();
    let change =
        MembershipChange { subject: new.public_key(), grant, stands: Vec::new(), rights: Vec::new(), fence: 0, what };
    let change = owner.says(Kind::MEMBERSHIP, encode(&change));
    let run = one(&change);
    let entry = truncation(&mut owner, vec![run]);
    honest.hears(&owner, pushed(entry));
    let knows = |honest: &Honest| honest.peer().view().nodes.iter().any(|node| node.peer == new.id());
    assert!(!knows(&honest));
    // Somebody who holds it sees that the sets differ, and shows all it has; as this one would.
    // What is read from the log for a digest brings directories, too.
    let changes_alone = |entries: &[EntryItem]| {
        let kinds: Vec<Kind> = entries.iter().map(|item| item.entry.entry.kind).collect();
        kinds.contains(&Kind::MEMBERSHIP) && !kinds.contains(&Kind::DIRECTORY)
    };
    let told = |out: &[Output]| {
        let to = |o: &Output| matches!(o, Output::Send(to, Frame::Entries { entries, .. }) if *to == friend.id() && changes_alone(entries));
        out.iter().filter(|o| to(o)).count()
    };
    let digest = |changes| Frame::Digest { authors: Authors::ALL, rows: Vec::new(), changes };
    let out = honest.hears(&friend, digest(Hash::of(b"another set")));
    assert_eq!(told(&out), 1);
    assert_eq!(told(&honest.hears(&friend, digest(Hash::of(b"another set")))), 0, "once");
    let own = digest_of(&out);
    honest.hears(&friend, pushed(change));
    assert!(knows(&honest), "also from a place of the log that is gone");
    let later = honest.pass(60_000);
    let said = digest_of(&later).expect("a digest now and then");
    assert_ne!(Some(said), own);
    assert_eq!(told(&honest.hears(&friend, digest(said))), 0, "the same set");
}

#[test]
fn what_is_gone_need_not_be_understood_any_more() {
    let mut honest = Honest::new();
    let mut owner = honest.author(1);
    honest.admit(&owner, Tier::Owner);
    let entry = owner.entry(Kind(999), Vec::new(), |entry| entry.critical = true);
    honest.hears(&owner, pushed(entry.clone()));
    let unsupported = |honest: &Honest| {
        honest.machine.disk.state().keys(Space::Meta).filter(|key| rows::unsupported_of(key).is_some()).count()
    };
    assert_eq!((unsupported(&honest), honest.peer().view().halts.len()), (1, 1));
    let entry = truncation(&mut owner, vec![one(&entry)]);
    honest.hears(&owner, pushed(entry));
    assert_eq!((unsupported(&honest), honest.peer().view().halts.len()), (0, 0));
}
