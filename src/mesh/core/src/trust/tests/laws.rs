//! Laws of judging: its cost, and that a set of changes is judged as a set.

use proptest::prelude::*;

use super::*;

/// Changes of a flood, as one owner may sign them: flat, in a chain of sybils, back and forth, or against each other.
fn flood(kind: usize, count: u64) -> Vec<SignedEntry> {
    let one = by(0, 2, root()).owner(1);
    let mut records = vec![one.clone()];
    let mut last = (1, one.hash);
    for n in 1..=count {
        let (author, grant) = last;
        let said = match kind {
            0 => by(1, n, one.hash).owner(n + 100),
            1 => by(author, n, grant).owner(n + 100),
            2 if n % 2 == 0 => by(1, n, one.hash).revokes(n / 2 % 300 + 100),
            2 => by(1, n, one.hash).owner(n / 2 % 300 + 100),
            _ if n <= count / 2 => by(1, n, one.hash).owner(n + 100),
            _ => {
                let mine = records[(n - count / 2) as usize].hash;
                by(n - count / 2 + 100, 1, mine).revokes(n % (count / 2) + 100)
            }
        };
        last = (n + 100, said.hash);
        records.push(said);
    }
    records
}

#[test]
fn s09_a_flood_costs_in_proportion_to_what_it_sends() {
    for kind in 0..4 {
        let cost = |count| {
            let held = trust(&flood(kind, count));
            argumentation::judge(id(0), root(), &held.records, ProtocolRules::default()).compared.get()
        };
        let (small, large) = (cost(400), cost(1_600));
        assert!(large <= 5 * small.max(400), "flood {kind}: {small}, four times as many {large}");
    }
}

/// A change that one of four owners (the founder and three) may sign, in one of two incarnations.
#[derive(Debug, Clone)]
struct Saying {
    author: u64,
    incarnation: u32,
    back: u64,
    subject: u64,
    tier: Option<Tier>,
    leaves: bool,
    grant: usize,
    names: Vec<usize>,
    stands: Vec<usize>,
    cutoffs: [Option<u64>; 2],
}

fn saying() -> impl Strategy<Value = Saying> {
    let tier = prop::sample::select(vec![None, None, Some(Tier::Owner), Some(Tier::Owner), Some(Tier::Shared)]);
    let which = || proptest::collection::vec(0..20_usize, 0..5);
    (
        (0..4_u64, 1..3_u32, 0..3_u64, 0..6_u64),
        (tier, proptest::bool::weighted(0.1), 0..8_usize),
        (which(), which()),
        [proptest::option::of(0..12_u64), proptest::option::of(0..12_u64)],
    )
        .prop_map(|((author, incarnation, back, subject), (tier, leaves, grant), (names, stands), cutoffs)| {
            Saying { author, incarnation, back, subject, tier, leaves, grant, names, stands, cutoffs }
        })
}

/// The founder approves three owners; then anybody says anything, mostly by a grant that it has.
fn script(sayings: &[Saying]) -> Vec<SignedEntry> {
    let one = by(0, 2, root()).owner(1);
    let mut records = vec![one.clone(), by(0, 3, root()).owner(2), by(1, 1, one.hash).owner(3)];
    for (i, said) in sayings.iter().enumerate() {
        let hashes = |of: &[usize]| of.iter().filter_map(|at| records.get(*at)).map(|entry| entry.hash).collect();
        let grants: Vec<Hash> =
            records.iter().filter(|entry| subject(entry) == id(said.author)).map(|e| e.hash).collect();
        let grant =
            if said.author == 0 && said.grant < 5 { None } else { grants.get(said.grant % grants.len().max(1)) };
        let word = Word {
            incarnation: said.incarnation,
            author: said.author,
            seq: i as u64 + 4 - said.back,
            grant: grant.copied().unwrap_or_else(root),
            stands: hashes(&said.stands),
            fence: 0,
        };
        let cutoffs = (1..).map(Incarnation).zip(said.cutoffs).filter_map(|(log, cutoff)| Some((log, cutoff?)));
        records.push(match said.tier {
            _ if said.leaves => word.leaves(),
            None => {
                word.says(said.subject, ChangeKind::Revoked { cutoffs: cutoffs.collect(), left: false, unsaid: false })
            }
            Some(tier) => {
                let after = hashes(&said.names);
                word.says(
                    said.subject,
                    ChangeKind::Approved {
                        tier,
                        node_id: "macbook".parse().unwrap(),
                        after,
                        unseen: false,
                        stay: None,
                        of: None,
                    },
                )
            }
        });
    }
    records
}

fn subject(entry: &SignedEntry) -> PeerId {
    entry.record::<MembershipChange>().unwrap().subject.peer_id()
}

/// Tier of everyone, but for one.
fn others(trust: &Trust, but: PeerId) -> Vec<(PeerId, Tier)> {
    let members = trust.membership.members.iter().filter(|(peer, _)| **peer != but);
    members.map(|(peer, member)| (*peer, member.tier)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]
    #[test]
    fn the_order_of_arrival_and_repetition_do_not_matter(
        sayings in proptest::collection::vec(saying(), 0..14),
        order in proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..40),
    ) {
        let records = script(&sayings);
        let straight = trust(&records);
        let mut shuffled = trust(&[]);
        for (at, judges) in order {
            shuffled.take(records[at.index(records.len())].clone());
            if judges { shuffled.judge(true, 0); }
        }
        // In the end everyone is shown all, in an order in which each author is known before it speaks.
        for record in records.iter().rev().chain(&records) { shuffled.take(record.clone()); }
        shuffled.judge(true, 0);
        for record in &records { shuffled.take(record.clone()); }
        shuffled.judge(true, 0);
        prop_assert_eq!(straight.membership(), shuffled.membership());
        prop_assert_eq!(straight.void(), shuffled.void());
        prop_assert_eq!(straight.fingerprint(), shuffled.fingerprint());
        prop_assert_eq!(straight.records_in_order(), shuffled.records_in_order());
    }

    #[test]
    fn nothing_void_is_in_force(sayings in proptest::collection::vec(saying(), 0..14)) {
        let records = script(&sayings);
        let held = trust(&records);
        let graph = argumentation::judge(id(0), root(), &held.records, ProtocolRules::default());
        let counted: Vec<_> = graph.nodes().filter(|node| node.counts()).collect();
        for node in &counted {
            // It rests on what counts, up to the genesis, and nothing that counts voids it.
            let grant = node.record.change.grant;
            let founder = grant == root() && node.record.entry.author == id(0);
            let ground = counted.iter().find(|one| one.record.entry.hash == grant);
            prop_assert!(founder || ground.is_some_and(|one| one.record.subject == node.record.entry.author));
            prop_assert!(graph.voided_by(node).is_none(), "{:?}", node);
        }
        for (peer, member) in held.membership.members.iter().filter(|(_, member)| member.by.is_some()) {
            // Somebody whose word stands says so, and knows every revocation there is; and every demotion, if it is one
            // as owner.
            let about: Vec<_> = counted.iter().filter(|node| node.record.subject == *peer).collect();
            let by = about.iter().find(|node| node.record.entry.hash == member.grant).unwrap();
            prop_assert_eq!(by.record.tier(), Some(member.tier));
            prop_assert!(about
                .iter()
                .filter(|one| one.record.is_limit() && (member.tier == Tier::Owner || one.record.tier().is_none()))
                .all(|one| by.knows(&one.record.log(), one.record.position())));
        }
        let Membership { members, revocations, awaiting_reapproval, .. } = held.membership();
        for peer in awaiting_reapproval.keys() {
            prop_assert!(!members.contains_key(peer) && !revocations.contains_key(peer));
        }
        // And what is void is so for a reason.
        for node in graph.nodes().filter(|node| !node.counts() && node.depth != u32::MAX) {
            let founder = node.record.change.grant == root() && node.record.entry.author == id(0);
            let grounded = founder || counted.iter().any(|one| one.record.entry.hash == node.record.change.grant);
            let digs = node.record.is_limit() && graph.digs_itself(node);
            let peer = node.record.subject;
            let let_in = |one: &Node<'_>| one.admits_somebody() && one.record.subject == peer;
            let about_nobody = peer != id(0) && !graph.nodes().any(let_in);
            prop_assert!(!grounded || digs || about_nobody || graph.by_order || graph.voided_by(node).is_some(), "{:?}", node);
        }
        let names: BTreeSet<_> = members.values().map(|member| &member.node_id).collect();
        prop_assert_eq!(names.len(), members.len());
    }

    #[test]
    fn whoever_is_no_owner_changes_nothing_by_what_it_says_later(
        sayings in proptest::collection::vec(saying(), 0..10),
        later in proptest::collection::vec(saying(), 1..8),
    ) {
        // Of all that anybody may sign, with any grant, at any place: whoever is none says it of others in vain.
        let before = script(&sayings);
        let held = trust(&before);
        let all = script(&[sayings, later].concat());
        for author in (0..4).map(id).filter(|author| !held.is_owner(author)) {
            let said = all.iter().skip(before.len()).filter(|entry| entry.author == author);
            let with = trust(before.iter().chain(said));
            // Who contradicts whoever ended its word, and had one for longer, may have spoken before it knew.
            if argumentation::judge(id(0), root(), &with.records, ProtocolRules::default()).by_order {
                continue;
            }
            prop_assert_eq!(others(&held, author), others(&with, author));
            prop_assert!(!with.is_owner(&author), "it raised itself");
        }
    }

    #[test]
    fn k1_a_stray_that_is_dropped_changes_no_outcome(
        sayings in proptest::collection::vec(saying(), 0..16),
        dropped in proptest::collection::vec(any::<bool>(), 20),
    ) {
        let records = script(&sayings);
        let held = trust(&records);
        let graph = argumentation::judge(id(0), root(), &held.records, ProtocolRules::default());
        let (needed, _, _) = held.shares(&graph);
        let needed: BTreeSet<Hash> = needed.beyond(0).into_iter().collect();
        let kept = records.iter().zip(dropped).filter(|(entry, dropped)| !dropped || needed.contains(&entry.hash));
        let left = trust(kept.map(|(entry, _)| entry));
        prop_assert_eq!(held.fingerprint(), left.fingerprint());
        prop_assert_eq!(&held.membership().members, &left.membership().members);
        prop_assert_eq!(&held.membership().revocations, &left.membership().revocations);
    }
}
