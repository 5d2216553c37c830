//! S10 for calls and directories: whatever order entries of different authors come in, and however often, who holds them
//! all says the same.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::entry::decode;
use crate::ids::Attempt;
use crate::io::CallRecord;

/// What an origin and a target may have said of one call until it was over.
#[derive(Debug, Clone)]
struct Story {
    effect: Effect,
    /// The target's endings, by attempt.
    endings: Vec<Ending>,
    wish: bool,
    /// What the origin said before it heard of the target.
    guess: Option<Ending>,
}

fn story() -> impl Strategy<Value = Story> {
    let last =
        prop::sample::select(vec![Ending::Done, Ending::Failed, Ending::Cancelled, Ending::Expired, Ending::Denied]);
    let guess = prop::option::of(prop::sample::select(vec![Ending::Cancelled, Ending::Expired, Ending::Undeliverable]));
    (prop::bool::ANY, 0..3_usize, last, prop::bool::ANY, guess).prop_map(|(once, cuts, last, wish, guess)| {
        let mut endings = vec![Ending::Interrupted; if once { cuts.min(1) } else { cuts }];
        if !once || endings.is_empty() {
            endings.push(last);
        }
        Story { effect: if once { Effect::Once } else { Effect::None }, endings, wish, guess }
    })
}

/// What is observable in the end.
#[derive(Debug, PartialEq)]
struct Seen {
    state: CallState,
    attempt: Attempt,
    confirmed: bool,
    reason: String,
    tools: usize,
}

/// A bystander hears both logs in the order of `picks` (true: the origin's next entry; every other number repeats an
/// earlier one), then what is left.
fn told(story: &Story, picks: &[(bool, u8)]) -> Seen {
    let mut honest = Honest::new();
    let (mut origin, mut target) = (Liar::new(1, &honest), Liar::new(2, &honest));
    honest.admit(&origin, Tier::Owner);
    honest.admit(&target, Tier::Owner);
    let call = Header { effect: story.effect, ..header(&origin.id(), 1, target.id()) };
    let id = call.id;
    let mut said = [Vec::new(), Vec::new()];
    said[0].push(origin.says(Kind::CALL, encode(&call)));
    if story.wish {
        let wish = CancelWish { id, reason: "no more".to_owned(), expired: false };
        said[0].push(origin.says(Kind::CANCEL, encode(&wish)));
    }
    if let Some(guess) = story.guess {
        said[0].push(origin.says(Kind::OUTCOME, encode(&outcome(id, guess))));
    }
    said[1].push(offers_append(&mut target));
    for (at, ending) in story.endings.iter().enumerate() {
        let outcome = Outcome { attempt: at as Attempt + 1, reason: format!("{at}"), ..outcome(id, *ending) };
        said[1].push(target.says(Kind::OUTCOME, encode(&outcome)));
    }
    said[1].push(target.says(Kind::DIRECTORY, encode(&Directory::default())));
    let mut order: Vec<SignedEntry> = Vec::new();
    let mut next = said.map(VecDeque::from);
    let rest = [(true, 0), (false, 0)].into_iter().cycle();
    for (of_origin, again) in picks.iter().copied().chain(rest) {
        let [of, other] = &mut next;
        let (first, second) = if of_origin { (of, other) } else { (other, of) };
        let Some(entry) = first.pop_front().or_else(|| second.pop_front()) else { break };
        order.push(entry);
        if again > 0 {
            let at = usize::from(again) % order.len();
            order.extend(order.get(at).cloned());
        }
    }
    let mut closed: Option<CallRecord> = None;
    for entry in order {
        let from = if entry.author == origin.id() { &origin } else { &target };
        for output in honest.hears(from, pushed(entry)) {
            if let Output::Commit(_, batch) = output {
                let rows = batch.writes.iter().filter(|write| write.space == Space::Calls && write.key == id.0);
                closed = rows.filter_map(|write| decode(write.value.as_ref()?)).last().or(closed);
            }
        }
    }
    let record = honest.peer.open_call(&id).cloned().or(closed).unwrap();
    let directory = honest.peer.view().nodes.into_iter().find(|node| node.peer == target.id()).unwrap().directory;
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
        one in prop::collection::vec((prop::bool::ANY, 0..6_u8), 0..12),
        other in prop::collection::vec((prop::bool::ANY, 0..6_u8), 0..12),
    ) {
        let seen = told(&story, &one);
        prop_assert_eq!(&seen, &told(&story, &other));
        prop_assert!(seen.confirmed && matches!(seen.state, CallState::Ended(_)), "{:?}", seen);
        prop_assert_eq!(seen.tools, 0);
    }
}
