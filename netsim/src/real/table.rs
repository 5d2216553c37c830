//! Results as lines and as a table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::fail::Fail;
use super::scenario::Scenario;
use super::stage::Measured;

/// Result of one run.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    pub(super) result: Result<(), Fail>,
    pub(super) measured: Measured,
    pub(super) took: Duration,
    pub(super) refused: usize,
    pub(super) unanswered: usize,
}

fn seconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64())
}

fn list(times: &[Duration]) -> String {
    times.iter().map(|time| seconds(*time)).collect::<Vec<_>>().join(" ")
}

fn endings(endings: &BTreeMap<String, usize>) -> String {
    if endings.is_empty() {
        return "none".to_owned();
    }
    endings.iter().map(|(word, count)| format!("{count} {word}")).collect::<Vec<_>>().join(", ")
}

fn word(scenario: &Scenario, outcome: &Outcome) -> &'static str {
    match &outcome.result {
        Ok(()) => "ok",
        Err(Fail::Interrupted) => "stopped",
        Err(fail) if scenario.allows(fail) => "waiting",
        Err(_) => "FAILED",
    }
}

/// One run in one line, and why it failed.
pub(super) fn line(scenario: &Scenario, outcome: &Outcome) -> String {
    let measured = &outcome.measured;
    let mut line = format!("{:<8}{:<34}{:>6.1} s", word(scenario, outcome), scenario.name, outcome.took.as_secs_f64());
    for (name, times) in [("takeover", &measured.takeovers), ("settled", &measured.settles)] {
        if !times.is_empty() {
            let _ = write!(line, "  {name} {} s", list(times));
        }
    }
    let _ = write!(line, "  calls: {}", endings(&measured.endings));
    if let Some(ended) = measured.ended {
        let _ = write!(line, ", the last by {} s", seconds(ended));
    }
    if outcome.refused + outcome.unanswered > 0 {
        let _ = write!(line, "; {} refused, {} unanswered", outcome.refused, outcome.unanswered);
    }
    if let Err(why) = &outcome.result {
        let _ = write!(line, "\n    {why}");
    }
    line
}

/// Sums over many runs of a scenario.
struct Sum {
    good: usize,
    takeovers: Vec<Duration>,
    settles: Vec<Duration>,
    endings: BTreeMap<String, usize>,
    took: Duration,
}

fn sum(outcomes: &[Outcome]) -> Sum {
    let mut sum = Sum {
        good: outcomes.iter().filter(|outcome| outcome.result.is_ok()).count(),
        takeovers: Vec::new(),
        settles: Vec::new(),
        endings: BTreeMap::new(),
        took: Duration::ZERO,
    };
    for outcome in outcomes {
        sum.takeovers.extend(&outcome.measured.takeovers);
        sum.settles.extend(&outcome.measured.settles);
        for (word, count) in &outcome.measured.endings {
            *sum.endings.entry(word.clone()).or_default() += count;
        }
        sum.took = sum.took.max(outcome.took);
    }
    sum.takeovers.sort_unstable();
    sum.settles.sort_unstable();
    sum
}

/// The middle one and the greatest.
fn spread(sorted: &[Duration]) -> String {
    match (sorted.get(sorted.len() / 2), sorted.last()) {
        (Some(middle), Some(last)) => format!("{} / {}", seconds(*middle), seconds(*last)),
        _ => "–".to_owned(),
    }
}

/// Prints the number of good runs of each scenario.
pub(super) fn print(scenarios: &[Scenario], outcomes: &[Vec<Outcome>]) {
    let all: Vec<&Outcome> = outcomes.iter().flatten().collect();
    let good = all.iter().filter(|outcome| outcome.result.is_ok()).count();
    let mut takeovers: Vec<Duration> = all.iter().flat_map(|outcome| &outcome.measured.takeovers).copied().collect();
    let mut settles: Vec<Duration> = all.iter().flat_map(|outcome| &outcome.measured.settles).copied().collect();
    takeovers.sort_unstable();
    settles.sort_unstable();
    println!("{good} of {} runs of {} scenarios kept every promise", all.len(), scenarios.len());
    println!("takeover (median / greatest) {} s of {}", spread(&takeovers), takeovers.len());
    println!("settling (median / greatest) {} s of {}", spread(&settles), settles.len());
}

/// The table, as a page.
pub(super) fn markdown(scenarios: &[Scenario], outcomes: &[Vec<Outcome>], version: &str, date: &str) -> String {
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let mut page = format!(
        "# Scenarios with real processes\n\n\
         Written by `netsim scenarios --times N --table FILE`: {date}, {version}, {cpus} CPUs. Times in seconds, median / greatest, \
         as seen from outside by asking every 10 ms. A takeover runs from the fault until another gateway is followed by all \
         others; settling from the last fault until one gateway is followed by all and stays so for 3 s.\n\n\
         | scenario | what must hold | runs kept | takeover | settling | calls ended | longest run |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n"
    );
    for (scenario, outcomes) in scenarios.iter().zip(outcomes) {
        let sum = sum(outcomes);
        let waiting =
            scenario.waiting.as_ref().map(|waiting| format!(" (waits for {})", waiting.what)).unwrap_or_default();
        let _ = writeln!(
            page,
            "| {}{} | {}{waiting} | {} of {} | {} | {} | {} | {:.0} |",
            scenario.name,
            if scenario.ci { " ¹" } else { "" },
            scenario.title,
            sum.good,
            outcomes.len(),
            spread(&sum.takeovers),
            spread(&sum.settles),
            endings(&sum.endings),
            sum.took.as_secs_f64(),
        );
    }
    page.push_str("\n¹ Run with every commit (`--set ci`).\n");
    page
}
