//! Seeds by the thousand, and what came out of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

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
    took_s: f64,
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
        self.stats.epochs_led += stats.epochs_led;
        for (word, count) in stats.endings {
            *self.stats.endings.entry(word).or_default() += count;
        }
        self.stats.settle_us.extend(stats.settle_us);
        self.stats.takeovers.extend(stats.takeovers);
        if let Some(violation) = violation {
            self.violations.insert(seed, violation);
        }
    }

    fn per_second(&self) -> f64 {
        self.seeds as f64 / self.took_s.max(0.001)
    }

    /// Times without a leader after the leader crashed, or was asked to stop, by class of the successor.
    fn takeovers(&self, asked: bool, class: impl Fn(u8) -> bool) -> Spread {
        let chosen = self.stats.takeovers.iter().filter(|(was_asked, of, _)| *was_asked == asked && class(*of));
        Spread::of(chosen.map(|(_, _, took)| *took).collect())
    }
}

/// Spread of times, in milliseconds.
struct Spread {
    count: usize,
    p50: u64,
    p99: u64,
    max: u64,
}

impl Spread {
    fn of(mut times_us: Vec<u64>) -> Self {
        times_us.sort_unstable();
        let at = |permille: usize| {
            let place = times_us.len().saturating_sub(1) * permille / 1000;
            times_us.get(place).copied().unwrap_or_default() / MS
        };
        Self { count: times_us.len(), p50: at(500), p99: at(990), max: at(1000) }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { count, p50, p99, max } = self;
        if *count == 0 { f.write_str("–") } else { write!(f, "{p50} / {p99} / {max} ms of {count}") }
    }
}

/// A violation in one line.
pub(crate) fn line(seed: u64, violation: &Violation) -> String {
    let Violation { predicate, at, what } = violation;
    format!("VIOLATION seed {seed} {predicate} at {:.3} s: {what}", *at as f64 / SECOND as f64)
}

fn sum_of(seeds: Range<u64>, case: &(impl Fn(u64) -> Case + Sync), threads: usize, keep_going: bool) -> Sum {
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
                    let outcome = world::run(&case(seed), Level::Off);
                    if outcome.violation.is_some() && !keep_going {
                        stop.store(true, Ordering::Relaxed);
                    }
                    sum.lock().unwrap_or_else(PoisonError::into_inner).add(seed, outcome.stats, outcome.violation);
                }
            });
        }
    });
    let mut sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    sum.took_s = began.elapsed().map_or(0.0, |took| took.as_secs_f64());
    sum
}

/// Runs the seeds, prints the summary; false if any seed broke a promise.
pub(crate) fn run(seeds: Range<u64>, case: &(impl Fn(u64) -> Case + Sync), threads: usize, keep_going: bool) -> bool {
    let sum = sum_of(seeds, case, threads, keep_going);
    print(&sum);
    let Some((seed, violation)) = sum.violations.first_key_value() else { return true };
    list(&sum);
    // The same seed again, this time with its story.
    let outcome = world::run(&case(*seed), Level::Story);
    println!("\nthe last of seed {seed} before {} failed:\n{}", violation.predicate, outcome.trace.tail(TAIL));
    false
}

fn list(sum: &Sum) {
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    for violation in sum.violations.values() {
        *kinds.entry(violation.predicate).or_default() += 1;
    }
    println!("violations    {kinds:?}");
    for (seed, violation) in sum.violations.iter().take(LISTED) {
        println!("{}", line(*seed, violation));
    }
}

fn print(sum: &Sum) {
    let stats = &sum.stats;
    println!("seeds         {} ({:.1}/s)", sum.seeds, sum.per_second());
    println!("virtual hours {:.2}", stats.virtual_us as f64 / SECOND as f64 / 3600.0);
    println!("events        {} ({:.0}/s)", stats.events, stats.events as f64 / sum.took_s.max(0.001));
    println!("epochs        {}", stats.epochs_led);
    println!("calls         {} accepted, {} refused, {} runs", stats.accepted, stats.refused, stats.runs);
    for (word, count) in &stats.endings {
        println!("  {word:<22} {count:>8}  {:5.2} %", *count as f64 * 100.0 / stats.accepted.max(1) as f64);
    }
    println!("              p50 / p99 / max");
    println!("settling      {}", Spread::of(stats.settle_us.clone()));
    println!("crash         {} (successor of class 1 and above)", sum.takeovers(false, |class| class > 0));
    println!("              {} (class 0)", sum.takeovers(false, |class| class == 0));
    println!("clean stop    {}", sum.takeovers(true, |_| true));
}

/// Cost of a profile's seed, in seeds of the quickest.
fn share(profile: Profile) -> u64 {
    match profile {
        Profile::Fleet => 100,
        Profile::Big | Profile::Clocks => 10,
        Profile::Default
        | Profile::Five
        | Profile::Two
        | Profile::Relay
        | Profile::Disks
        | Profile::Queue
        | Profile::Halves
        | Profile::Ages
        | Profile::Rights
        | Profile::People
        | Profile::Tokens => 1,
    }
}

const BEGIN: &str = "<!-- results: written by `netsim report` -->";
const END: &str = "<!-- end of results -->";

/// Runs seeds of all profiles and writes their results into the page; false if any seed broke a promise.
pub(crate) fn all(seeds: u64, from: u64, threads: usize, readme: &Path) -> Result<bool, String> {
    let told = |error: std::io::Error| format!("{}: {error}", readme.display());
    let page = std::fs::read_to_string(readme).map_err(told)?;
    let (before, rest) = page.split_once(BEGIN).ok_or_else(|| format!("no `{BEGIN}` in {}", readme.display()))?;
    let (_, after) = rest.split_once(END).ok_or_else(|| format!("no `{END}` in {}", readme.display()))?;
    let mut table = format!(
        "{BEGIN}\n{}, {threads} threads. Times are p50 / p99 / max.\n\n\
         | profile | seeds | per second | broken promises | calls accepted | settling after the last fault | leader \
         crashes, class ≥ 1 follows | leader stops |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n",
        today()
    );
    let mut endings: BTreeMap<String, BTreeMap<Profile, f64>> = BTreeMap::new();
    let mut kept = true;
    for profile in Profile::ALL {
        println!("== {}", profile.name());
        let count = (seeds / share(profile)).max(1);
        let sum = sum_of(from..from + count, &|seed| Case::drawn(seed, profile), threads, true);
        print(&sum);
        if !sum.violations.is_empty() {
            kept = false;
            list(&sum);
        }
        let _ = writeln!(
            table,
            "| {} | {} | {:.0} | {} | {} | {} | {} | {} |",
            profile.name(),
            sum.seeds,
            sum.per_second(),
            sum.violations.len(),
            sum.stats.accepted,
            Spread::of(sum.stats.settle_us.clone()),
            sum.takeovers(false, |class| class > 0),
            sum.takeovers(true, |_| true),
        );
        for (word, calls) in &sum.stats.endings {
            let percent = *calls as f64 * 100.0 / sum.stats.accepted.max(1) as f64;
            endings.entry(word.clone()).or_default().insert(profile, percent);
        }
    }
    let _ = write!(
        table,
        "\nHow calls ended at their origins, in percent; a star: not confirmed by the target.\n\n| ending |"
    );
    let names: Vec<&str> = Profile::ALL.iter().map(|profile| profile.name()).collect();
    let _ = writeln!(table, " {} |\n| --- |{}", names.join(" | "), " --- |".repeat(names.len()));
    for (word, by_profile) in endings {
        let cells = Profile::ALL.iter().map(|profile| by_profile.get(profile).copied().unwrap_or_default());
        let cells: Vec<String> = cells.map(|percent| format!("{percent:.2}")).collect();
        let _ = writeln!(table, "| {} | {} |", word.replace('*', "\\*"), cells.join(" | "));
    }
    std::fs::write(readme, format!("{before}{table}{END}{after}")).map_err(told)?;
    Ok(kept)
}

/// The date of today, UTC.
fn today() -> String {
    let days = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400);
    // Days since 1 March of the year 0, in eras of 400 years (Howard Hinnant, "chrono-compatible low-level date
    // algorithms").
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_twice_gives_the_same_log() {
        for profile in Profile::ALL {
            let seeds = if profile == Profile::Fleet { 1..2 } else { 1..4 };
            for seed in seeds {
                let case = Case::drawn(seed, profile);
                let story = || world::run(&case, Level::All).trace.text();
                let (first, second) = (story(), story());
                assert!(first.len() > 10_000);
                assert!(first == second, "seed {seed} of {profile:?} went two ways");
            }
        }
    }

    #[test]
    fn a_plan_from_its_file_runs_as_the_drawn_one() {
        let case = Case::drawn(5, Profile::Default);
        let again = Case::from_text(&case.to_text()).unwrap();
        let story = |case: &Case| world::run(case, Level::All).trace.text();
        assert!(story(&case) == story(&again));
    }

    #[test]
    fn a_handful_of_seeds_keeps_all_promises() {
        for profile in Profile::ALL {
            for seed in 0..(8 / share(profile)).max(1) {
                let outcome = world::run(&Case::drawn(seed, profile), Level::Off);
                assert!(outcome.violation.is_none(), "{profile:?}: {}", line(seed, &outcome.violation.unwrap()));
            }
        }
    }

    #[test]
    fn real_keys_hold() {
        let case = Case { real_keys: true, ..Case::drawn(2, Profile::Two) };
        let outcome = world::run(&case, Level::Off);
        assert!(outcome.violation.is_none() && outcome.stats.accepted > 0);
    }

    #[test]
    fn times_are_spread_as_they_are() {
        let spread = Spread::of((0..=100).map(|n| n * MS).collect());
        assert_eq!((spread.count, spread.p50, spread.p99, spread.max), (101, 50, 99, 100));
        assert_eq!(Spread::of(Vec::new()).to_string(), "–");
    }
}
