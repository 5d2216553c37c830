//! One that is fast: an hour has so much of it, and a device runs so many of its calls.

use mesh_core::budget::{Amount, Budget, OverBudget};
use mesh_core::config::Config;
use mesh_core::ids::Attempt;

use super::*;

const HOUR_MS: u64 = 3_600_000;

/// An honest peer whose budgets of guests are small.
fn small(change: impl FnOnce(&mut Budget)) -> Honest {
    let mut honest = Honest::new();
    let mut config = Config::default();
    change(&mut config.budgets.guest);
    honest.machine.config = config;
    honest.crash();
    honest.pass(4_000);
    honest
}

#[test]
fn s14_an_hour_has_so_much_of_a_guest_and_its_log_goes_on_after_it() {
    let mut honest = small(|guest| guest.per_hour = Amount { entries: 10, bytes: 1 << 30 });
    let (mut liar, mut other) = (honest.author(1), honest.author(2));
    honest.admit(&liar, Tier::Shared);
    honest.admit(&other, Tier::Shared);
    let target = honest.author(3).id();
    let before = honest.log_rows();
    let said: Vec<SignedEntry> = (1..=100)
        .map(|counter| {
            let header = header(&liar.id(), counter, target);
            liar.says(Kind::CALL, encode(&header))
        })
        .collect();
    for entry in &said {
        honest.hears(&liar, pushed(entry.clone()));
    }
    assert_eq!(honest.log_rows(), before + 20, "others allow twice of it");
    let stopped = honest.peer().view().stopped;
    assert!(matches!(stopped[..], [ref one] if matches!(one.over, OverBudget::PerHour(_)) && one.until_ms.is_some()));
    let call = header(&other.id(), 1, target);
    let entry = other.says(Kind::CALL, encode(&call));
    honest.hears(&other, pushed(entry));
    assert_eq!(honest.log_rows(), before + 21, "nobody else's stops");
    // An hour later it goes on. What it caught up on was said long ago: that is bounded by the total alone.
    let later = HOUR_MS + 1_000;
    honest.now = Now { mono_ms: honest.now.mono_ms + later, wall_ms: honest.now.wall_ms + later };
    honest.step(Input::Wake);
    assert!(honest.peer().view().stopped.is_empty());
    for entry in &said[20..] {
        honest.hears(&liar, pushed(entry.clone()));
    }
    assert_eq!(honest.log_rows(), before + 101);
    // Of what it says now, an hour has so much again.
    liar.hlc = honest.now.wall_ms << 16;
    for counter in 101..=200 {
        let header = header(&liar.id(), counter, target);
        let entry = liar.says(Kind::CALL, encode(&header));
        honest.hears(&liar, pushed(entry));
    }
    let taken = honest.log_rows() - before - 101;
    assert!((1..=20).contains(&taken) && honest.peer().view().stopped.len() == 1, "{taken}");
}

#[test]
fn s14_a_device_runs_so_many_calls_of_a_guest() {
    let mut honest = small(|guest| guest.journal = 3);
    let (mut liar, mut other) = (honest.author(1), honest.author(2));
    honest.admit(&liar, Tier::Shared);
    honest.admit(&other, Tier::Shared);
    let me = honest.id();
    let ran = |honest: &mut Honest, author: &mut Author, counter: u64| {
        let call = header(&author.id(), counter, me);
        let entry = author.says(Kind::CALL, encode(&call));
        let out = honest.hears(author, pushed(entry));
        let runs = out.iter().filter_map(|output| if let Output::Invoke(run) = output { Some(run) } else { None });
        let runs: Vec<(ReqId, Attempt)> = runs.map(|run| (run.id, run.attempt)).collect();
        for (id, attempt) in &runs {
            honest.step(Input::ToolEnded(*id, *attempt, test_kit::done()));
        }
        runs.len()
    };
    let all: usize = (1..=10).map(|counter| ran(&mut honest, &mut liar, counter)).sum();
    assert_eq!(all, 3);
    assert_eq!(ran(&mut honest, &mut other, 1), 1, "nobody else's are fewer");
    // Also after a restart.
    honest.crash();
    honest.step(Input::LinkUp(liar.id()));
    honest.pass(4_000);
    assert_eq!((11..=15).map(|counter| ran(&mut honest, &mut liar, counter)).sum::<usize>(), 0);
}
