//! Merging of calls and directories: whatever order entries of different authors come in, and however often, who holds
//! them all says the same.

use std::collections::VecDeque;

use proptest::prelude::*;

use mesh_core::ids::Attempt;
use mesh_core::record::Source;

use super::*;

/// Entries that may exist about one call until it was over.
#[derive(Debug, Clone)]
struct Story {
    effect: Effect,
    /// The target's endings, by attempt. None: it was never received.
    endings: Vec<Ending>,
    cancel: bool,
    /// Ending that the origin inferred before it received the target's.
    inferred: Option<Ending>,
    /// The same of two owners, and the last attempt of the endings that each received from the target.
    owners: [(Option<Ending>, usize); 2],
}

fn story() -> impl Strategy<Value = Story> {
    let last =
        prop::sample::select(vec![Ending::Done, Ending::Failed, Ending::Cancelled, Ending::Expired, Ending::Denied]);
    let inferred =
        || prop::option::of(prop::sample::select(vec![Ending::Cancelled, Ending::Expired, Ending::Undeliverable]));
    let owners = [(inferred(), 0..4_usize), (inferred(), 0..4_usize)];
    (prop::bool::ANY, 0..3_usize, last, prop::bool::ANY, inferred(), owners).prop_map(
        |(once, cuts, last, cancel, inferred, owners)| {
            let mut endings = vec![Ending::Interrupted; if once { cuts.min(1) } else { cuts }];
            if !once || endings.is_empty() {
                endings.push(last);
            }
            Story { effect: if once { Effect::Once } else { Effect::None }, endings, cancel, inferred, owners }
        },
    )
}

/// Observable result.
#[derive(Debug, PartialEq)]
struct Seen {
    state: CallState,
    attempt: Attempt,
    confirmed: bool,
    reason: String,
    tools: usize,
}

/// A bystander receives the logs of all who said something, in the order of `picks` (whose next entry; every other number
/// repeats an earlier one), then what is left. Without `confirms` nothing is received from the target itself.
fn told(story: &Story, confirms: bool, picks: &[(usize, u8)]) -> Seen {
    let mut honest = Honest::new();
    let mut authors: Vec<Author> = (1..=4).map(|n| honest.author(n)).collect();
    for author in &authors {
        honest.admit(author, Tier::Owner);
    }
    let target_id = authors[1].id();
    let call = Header { effect: story.effect, ..header(&authors[0].id(), 1, target_id) };
    let id = call.id;
    let endings: Vec<Outcome> = (1..)
        .zip(&story.endings)
        .map(|(attempt, ending)| Outcome { attempt, reason: format!("{attempt}"), ..outcome(id, *ending) })
        .collect();
    let inferred = |ending: Ending| encode(&Outcome { source: Source::Inferred, ..outcome(id, ending) });
    let mut said = [const { VecDeque::new() }; 4];
    said[0].push_back(authors[0].says(Kind::CALL, encode(&call)));
    if story.cancel {
        let cancel = CancelRequest { id, reason: "no more".to_owned(), expired: false };
        said[0].push_back(authors[0].says(Kind::CANCEL, encode(&cancel)));
    }
    said[0].extend(story.inferred.map(|ending| authors[0].says(Kind::OUTCOME, inferred(ending))));
    said[1].push_back(offers_append(&mut authors[1]));
    for outcome in endings.iter().filter(|_| confirms) {
        said[1].push_back(authors[1].says(Kind::OUTCOME, encode(outcome)));
    }
    said[1].push_back(authors[1].says(Kind::DIRECTORY, encode(&Directory::default())));
    for (owner, (ending, reissue)) in (2..).zip(story.owners) {
        said[owner].extend(ending.map(|ending| authors[owner].says(Kind::OUTCOME, inferred(ending))));
        for outcome in endings.iter().take(reissue).cloned() {
            let again = Outcome { source: Source::Relayed(target_id), ..outcome };
            said[owner].push_back(authors[owner].says(Kind::OUTCOME, encode(&again)));
        }
    }
    let mut order: Vec<(usize, SignedEntry)> = Vec::new();
    for (author, again) in picks.iter().copied().chain((0..4).cycle().map(|author| (author, 0))) {
        if said.iter().all(VecDeque::is_empty) {
            break;
        }
        order.extend(said[author].pop_front().map(|entry| (author, entry)));
        if again > 0 && !order.is_empty() {
            order.push(order[usize::from(again) % order.len()].clone());
        }
    }
    for (author, entry) in order {
        honest.hears(&authors[author], pushed(entry));
    }
    let closed = || honest.machine.disk.applied_row(&rows::call(&id));
    let record = honest.peer().open_call(&id).cloned().or_else(closed).unwrap();
    let directory = honest.peer().view().nodes.into_iter().find(|node| node.peer == target_id).unwrap().directory;
    Seen {
        state: record.state,
        attempt: record.attempt,
        confirmed: record.confirmed,
        reason: record.reason,
        tools: directory.unwrap().tools.len(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_order_of_arrival_decides_nothing(
        story in story(),
        one in picks(),
        other in picks(),
    ) {
        let seen = told(&story, true, &one);
        prop_assert_eq!(&seen, &told(&story, true, &other));
        prop_assert!(seen.confirmed && matches!(seen.state, CallState::Ended(_)), "{:?}", seen);
        prop_assert_eq!(seen.tools, 0);
    }

    #[test]
    fn nor_does_it_where_nothing_is_received_from_the_target(story in story(), one in picks(), other in picks()) {
        let seen = told(&story, false, &one);
        prop_assert_eq!(&seen, &told(&story, false, &other));
        prop_assert!(!seen.confirmed, "{:?}", seen);
    }
}

fn picks() -> impl Strategy<Value = Vec<(usize, u8)>> {
    prop::collection::vec((0..4_usize, 0..6_u8), 0..24)
}
