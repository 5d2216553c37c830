//! `netsim memory`: the pure core of memory in a world of its own. Two to six holders append, correct, forget, compact and have a
//! model write, while halves part, devices crash at any step of a compaction, and policy takes holders out; then they rest, and
//! what was promised is looked at. Everything follows from the seed.
//!
//! | promise | is |
//! | --- | --- |
//! | MS1 | what was accepted is held at every holder, or forgotten |
//! | MS2 | what is forgotten is nowhere, for ever: at no holder that knows it, and after a rest at none |
//! | MS3 | all holders see the same |
//! | MS4 | a device that may not hold receives nothing |
//! | MS5 | after a rest nobody has anything to ask another for |
//! | MS6 | no message is in two summaries |
//! | MS7 | no head says what nobody said |
//! | ML1 | after a rest fewer than two batches wait |

mod holder;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use self::world::{Seen, World};

/// A rule that is left out, to see that a promise misses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Without {
    /// Tombstones are kept for ever.
    NoExpiry,
    /// A tombstone beats what is said after it.
    OldestWins,
    /// What has changed since a draft was made is looked at again in the commit.
    Recheck,
    /// Of two batches the one that was said first has the message, and not the one that came first.
    OneWinner,
    /// What comes late of something that is forgotten is kept erased.
    Late,
    /// Who may hold is asked before each frame.
    Policy,
}

const RULES: [(Without, &str); 6] = [
    (Without::NoExpiry, "tombstones are kept for ever"),
    (Without::OldestWins, "a tombstone beats what is said later"),
    (Without::Recheck, "re-check at commit"),
    (Without::OneWinner, "a message belongs to the batch that was said first"),
    (Without::Late, "what comes late of what is forgotten is kept erased"),
    (Without::Policy, "who may hold is asked before each frame"),
];

/// Runs seeds on `threads`; prints what they came to. False: a promise was broken, and the least seed of it is told.
pub(crate) fn run(from: u64, seeds: u64, threads: usize) -> bool {
    let (all, broken) = of_seeds(from, seeds, threads, None);
    if let Some((seed, why)) = broken {
        println!("seed {seed}: {why}\nagain: netsim memory --from {seed} --seeds 1");
        return false;
    }
    println!(
        "memory: {seeds} seeds, {} messages, {} forgotten, {} batches, {} words of models, {} crashes, {} frames: all promises held",
        all.messages, all.forgotten, all.batches, all.heads, all.crashes, all.frames
    );
    true
}

/// Leaves each rule out in turn. False: nothing missed one of them.
pub(crate) fn mutants(seeds: u64, threads: usize) -> bool {
    let mut missed = true;
    for (rule, said) in RULES {
        if let Some((seed, why)) = of_seeds(0, seeds, threads, Some(rule)).1 {
            println!("without \"{said}\": seed {seed}: {why}");
        } else {
            println!("without \"{said}\": nothing misses it in {seeds} seeds");
            missed = false;
        }
    }
    missed
}

/// The sum of all seeds, and the least that breaks a promise.
fn of_seeds(from: u64, seeds: u64, threads: usize, without: Option<Without>) -> (Seen, Option<(u64, String)>) {
    let (next, stop) = (AtomicU64::new(from), AtomicU64::new(from + seeds));
    let work = || {
        let (mut sum, mut broken) = (Seen::default(), None::<(u64, String)>);
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed >= stop.load(Ordering::SeqCst) {
                return (sum, broken);
            }
            match World::new(seed, without).run() {
                Ok(seen) => sum = sum.plus(&seen),
                Err(why) => {
                    // Lower seeds are still looked at.
                    stop.fetch_min(seed, Ordering::SeqCst);
                    if broken.as_ref().is_none_or(|(known, _)| seed < *known) {
                        broken = Some((seed, why));
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let started: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        let ended = started.into_iter().map(|thread| thread.join().expect("a seed does not panic"));
        ended.fold((Seen::default(), None), |(sum, broken), (seen, also)| {
            let least = [broken, also].into_iter().flatten().min();
            (sum.plus(&seen), least)
        })
    })
}

impl Seen {
    fn plus(&self, other: &Self) -> Self {
        Self {
            frames: self.frames + other.frames,
            messages: self.messages + other.messages,
            forgotten: self.forgotten + other.forgotten,
            batches: self.batches + other.batches,
            heads: self.heads + other.heads,
            crashes: self.crashes + other.crashes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_runs_twice_alike() {
        for seed in 0..3 {
            let run = || format!("{:?}", World::new(seed, None).run());
            assert_eq!(run(), run());
        }
    }

    #[test]
    fn a_few_seeds_hold_every_promise() {
        assert_eq!(of_seeds(0, 12, 1, None).1, None);
    }
}
