//! Seeds by the thousand, and what came out of them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use crate::plan::{Case, MS, Profile, SECOND};
use crate::predicates::Violation;
use crate::trace::Level;
use crate::world::{self, Stats};

/// Lines of the story shown with a violation.
const TAIL: usize = 40;
/// Violations listed by one run that keeps going.
const LISTED: usize = 50;

#[derive(Default)]
struct Sum {
    seeds: u64,
    stats: Stats,
    violations: BTreeMap<u64, Violation>,
}

impl Sum {
    fn add(&mut self, seed: u64, stats: Stats, violation: Option<Violation>) {
        self.seeds += 1;
        self.stats.virtual_us += stats.virtual_us;
        self.stats.events += stats.events;
        self.stats.accepted += stats.accepted;
        self.stats.refused += stats.refused;
        self.stats.runs += stats.runs;
        self.stats.reigns += stats.reigns;
        for (word, count) in stats.endings {
            *self.stats.endings.entry(word).or_default() += count;
        }
        self.stats.settle_us.extend(stats.settle_us);
        if let Some(violation) = violation {
            self.violations.insert(seed, violation);
        }
    }
}

/// A violation in one line.
pub(crate) fn line(seed: u64, violation: &Violation) -> String {
    let Violation { predicate, at, what } = violation;
    format!("VIOLATION seed {seed} {predicate} at {:.3} s: {what}", *at as f64 / SECOND as f64)
}

/// Runs the seeds, prints the summary; fails if any seed broke a promise.
pub(crate) fn run(seeds: Range<u64>, profile: Profile, threads: usize, keep_going: bool) -> ExitCode {
    let began = SystemTime::now();
    let sum = Mutex::new(Sum::default());
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let outcome = world::run(&Case::drawn(seed, profile), Level::Off);
                    if outcome.violation.is_some() && !keep_going {
                        stop.store(true, Ordering::Relaxed);
                    }
                    sum.lock().unwrap_or_else(PoisonError::into_inner).add(seed, outcome.stats, outcome.violation);
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    print(&sum, began.elapsed().map_or(0.0, |took| took.as_secs_f64()));
    let Some((seed, violation)) = sum.violations.first_key_value() else { return ExitCode::SUCCESS };
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    for violation in sum.violations.values() {
        *kinds.entry(violation.predicate).or_default() += 1;
    }
    println!("violations    {kinds:?}");
    for (seed, violation) in sum.violations.iter().take(LISTED) {
        println!("{}", line(*seed, violation));
    }
    // The same seed again, this time with its story.
    let outcome = world::run(&Case::drawn(*seed, profile), Level::Story);
    println!("\nthe last of seed {seed} before {} failed:\n{}", violation.predicate, outcome.trace.tail(TAIL));
    ExitCode::FAILURE
}

fn print(sum: &Sum, took: f64) {
    let stats = &sum.stats;
    println!("seeds         {} ({:.1}/s)", sum.seeds, sum.seeds as f64 / took.max(0.001));
    println!("virtual hours {:.2}", stats.virtual_us as f64 / SECOND as f64 / 3600.0);
    println!("events        {} ({:.0}/s)", stats.events, stats.events as f64 / took.max(0.001));
    println!("reigns        {}", stats.reigns);
    println!("calls         {} accepted, {} refused, {} runs", stats.accepted, stats.refused, stats.runs);
    for (word, count) in &stats.endings {
        println!("  {word:<22} {count:>8}  {:5.2} %", *count as f64 * 100.0 / stats.accepted.max(1) as f64);
    }
    let mut settle = stats.settle_us.clone();
    settle.sort_unstable();
    if let Some(last) = settle.last() {
        let at = |permille: usize| settle[(settle.len() - 1) * permille / 1000] / MS;
        println!("settling      p50 {} ms, p99 {} ms, max {} ms of {}", at(500), at(990), last / MS, settle.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_twice_gives_the_same_log() {
        for seed in [1, 2] {
            let story = || world::run(&Case::drawn(seed, Profile::Default), Level::All).trace.text();
            let (first, second) = (story(), story());
            assert!(!first.is_empty());
            assert!(first == second, "seed {seed} went two ways");
        }
    }

    #[test]
    fn a_handful_of_seeds_keeps_all_promises() {
        for (profile, seeds) in [(Profile::Default, 0..8), (Profile::Two, 0..8), (Profile::Big, 0..1)] {
            for seed in seeds {
                let outcome = world::run(&Case::drawn(seed, profile), Level::Off);
                assert!(outcome.violation.is_none(), "{profile:?}: {}", line(seed, &outcome.violation.unwrap()));
            }
        }
    }
}
