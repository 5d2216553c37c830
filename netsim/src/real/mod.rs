//! Scenarios with real processes on a real kernel: `netsim scenarios`. Each is a file that says who is there and what
//! happens; the promises are read from outside, at the peers' doors, in their logs and in the files that their tools
//! leave.

mod clock;
mod fail;
mod http;
mod judge;
mod load;
mod network;
mod peer;
mod relay;
mod scenario;
mod stage;
mod steps;
mod table;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clap::{Args, ValueEnum};

use self::clock::{LOOK_EVERY, interrupted, now};
use self::fail::Fail;
use self::scenario::Scenario;
use self::stage::{Measured, Stage};
use self::table::Outcome;
use crate::dice::Dice;

/// When our own thread gets no turn for so long, or no fsync, neither did the peers. Half of what a lease is.
const STALL: Duration = Duration::from_millis(600);
/// Between two looks at the disk.
const DISK_EVERY: Duration = Duration::from_millis(300);
/// Tries of a scenario on a machine that stands still again and again.
const RUNS_MAX: usize = 3;
/// Lines of each peer's log that are shown when a scenario fails.
const LOG_LINES: usize = 25;

/// Which scenarios to run, and how.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The program under test [default: next to this one, else target/release/sigil]
    #[arg(long, value_name = "PATH")]
    sigil: Option<PathBuf>,
    /// Only scenarios whose name contains this
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Which set
    #[arg(long, value_enum, default_value = "all")]
    set: Set,
    /// Runs of each
    #[arg(long, default_value_t = 1, value_name = "N")]
    times: usize,
    /// Runs side by side
    #[arg(long, default_value_t = 2, value_name = "N")]
    threads: usize,
    /// Only names and titles
    #[arg(long)]
    list: bool,
    /// Writes the table of results into this file
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
    /// Leaves the homes of failed runs, with their logs
    #[arg(long)]
    keep: bool,
    /// Tells each run's story, also when all is well
    #[arg(long)]
    verbose: bool,
}

/// A set of scenarios.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Set {
    /// All.
    All,
    /// The set that every commit runs.
    Ci,
}

/// Runs what is asked for. False if a promise was broken, or if nothing may be skipped and something had to be.
pub(crate) fn run(options: &Options) -> bool {
    let mut scenarios = match scenario::all(&scenario::directory()) {
        Ok(scenarios) => scenarios,
        Err(why) => return complain(&why),
    };
    scenarios.retain(|scenario| {
        (options.set == Set::All || scenario.ci)
            && (options.only.is_empty() || options.only.iter().any(|part| scenario.name.contains(part.as_str())))
    });
    if options.list {
        for scenario in &scenarios {
            println!("{:<34}{} {}", scenario.name, if scenario.ci { "ci" } else { "  " }, scenario.title);
        }
        return true;
    }
    if scenarios.is_empty() {
        return complain("no scenario has such a name");
    }
    network::sweep();
    if let Some(why) = network::missing() {
        return skip("all scenarios", &why);
    }
    let Some(program) = options.sigil.clone().or_else(program) else {
        return skip("all scenarios", "the program is not built: `cargo build --release`, or `--sigil PATH`");
    };
    let program = match program.canonicalize() {
        Ok(program) => program,
        Err(error) => return complain(&format!("{}: {error}", program.display())),
    };
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        if let Err(error) = signal_hook::flag::register(signal, interrupted().clone()) {
            return complain(&format!("signals cannot be caught: {error}"));
        }
    }
    let fault_points = has_fault_points(&program);
    let mut complete = true;
    scenarios.retain(|scenario| {
        let fits = fault_points || !scenario.needs_fault_points();
        if !fits {
            complete &= skip(&scenario.name, "the program is built without `--features fault-points`");
        }
        fits
    });
    let outcomes = run_all(options, &scenarios, &program);
    table::print(&scenarios, &outcomes);
    if interrupted().load(Ordering::Relaxed) {
        return complain("stopped before the end");
    }
    if let Some(file) = &options.table
        && let Err(error) = std::fs::write(
            file,
            table::markdown(&scenarios, &outcomes, &said(&program, "--version"), &said(Path::new("date"), "+%F")),
        )
    {
        return complain(&format!("{}: {error}", file.display()));
    }
    let failed = scenarios.iter().zip(&outcomes).any(|(scenario, outcomes)| {
        outcomes.iter().any(|outcome| outcome.result.as_ref().is_err_and(|fail| !scenario.allows(fail)))
    });
    complete && !failed
}

fn complain(why: &str) -> bool {
    eprintln!("{why}");
    false
}

/// Says that something cannot run here; a failure when nothing may be skipped.
fn skip(what: &str, why: &str) -> bool {
    println!("skipped {what}: {why}");
    if std::env::var("SIGIL_TEST_REQUIRE").is_ok_and(|require| require == "all") {
        complain("SIGIL_TEST_REQUIRE=all forbids skipping")
    } else {
        true
    }
}

/// `sigil` beside this program, where cargo puts both.
fn program() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok()?.with_file_name("sigil");
    beside.exists().then_some(beside)
}

/// True if the program knows the variables by which tests make it fail.
fn has_fault_points(program: &Path) -> bool {
    let wanted = b"SIGIL_TEST_WALL_OFFSET_MS";
    std::fs::read(program).is_ok_and(|bytes| bytes.windows(wanted.len()).any(|window| window == wanted))
}

/// First line of what a program says; empty when it says nothing.
fn said(program: &Path, argument: &str) -> String {
    let output = Command::new(program).arg(argument).stdin(Stdio::null()).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// Outcomes by scenario. The rounds follow each other, so that a machine that is busy for a while does not spoil all
/// runs of one scenario.
fn run_all(options: &Options, scenarios: &[Scenario], program: &Path) -> Vec<Vec<Outcome>> {
    let outcomes = Mutex::new(vec![Vec::new(); scenarios.len()]);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..options.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let turn = next.fetch_add(1, Ordering::Relaxed);
                    if turn >= scenarios.len() * options.times.max(1) || interrupted().load(Ordering::Relaxed) {
                        return;
                    }
                    let (round, index) = (turn / scenarios.len(), turn % scenarios.len());
                    let outcome = run_awake(options, &scenarios[index], round, program);
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner)[index].push(outcome);
                }
            });
        }
    });
    outcomes.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// True if our own thread got no turn for a while.
fn no_turn() -> bool {
    let looked = now();
    std::thread::sleep(LOOK_EVERY);
    looked.elapsed() > STALL
}

/// True if the disk kept nothing for a while.
fn no_disk() -> bool {
    let looked = now();
    // A disk that fails altogether fails the agents too, and they say so.
    let _ = tempfile::tempfile().and_then(|mut file| file.write_all(b"still there?").and_then(|()| file.sync_all()));
    let took = looked.elapsed();
    std::thread::sleep(DISK_EVERY);
    took > STALL
}

/// Runs one scenario, and again if the machine stood still meanwhile: times then say nothing. What is said of safety
/// counts on any machine.
fn run_awake(options: &Options, scenario: &Scenario, round: usize, program: &Path) -> Outcome {
    let mut left = RUNS_MAX;
    loop {
        let (stalled, running) = (AtomicBool::new(false), AtomicBool::new(true));
        let (outcome, text) = std::thread::scope(|scope| {
            for still in [no_turn as fn() -> bool, no_disk] {
                let (stalled, running) = (&stalled, &running);
                scope.spawn(move || {
                    while running.load(Ordering::Relaxed) {
                        stalled.fetch_or(still(), Ordering::Relaxed);
                    }
                });
            }
            let (outcome, text) = run_one(options, scenario, round, program);
            running.store(false, Ordering::Relaxed);
            (outcome, text)
        });
        left -= 1;
        let harm = matches!(outcome.result, Err(Fail::Broken { promise, .. }) if promise.starts_with('S'));
        if left == 0 || harm || !stalled.load(Ordering::Relaxed) || interrupted().load(Ordering::Relaxed) {
            println!("{text}");
            return outcome;
        }
        let told = text.lines().next().unwrap_or_default();
        println!("again   {}: the machine stood still for more than {STALL:?}; else it was: {told}", scenario.name);
    }
}

/// One run, and what is to be said of it.
fn run_one(options: &Options, scenario: &Scenario, round: usize, program: &Path) -> (Outcome, String) {
    let began = now();
    let mut stage = match Stage::new(scenario, program, Dice::new(round as u64, 1)) {
        Ok(stage) => stage,
        Err(why) => {
            let outcome = Outcome {
                result: Err(why),
                measured: Measured::default(),
                took: began.elapsed(),
                refused: 0,
                unanswered: 0,
            };
            let text = table::line(scenario, &outcome);
            return (outcome, text);
        }
    };
    let result = stage.play().and_then(|()| stage.judge());
    let (refused, unanswered) = {
        let book = stage.book.lock().unwrap_or_else(PoisonError::into_inner);
        (book.refused.len(), book.unanswered)
    };
    let outcome = Outcome { result, measured: stage.measured.clone(), took: began.elapsed(), refused, unanswered };
    let failed = matches!(outcome.result, Err(Fail::Broken { .. } | Fail::Trouble(_)));
    let mut text = table::line(scenario, &outcome);
    if failed || options.verbose {
        for line in &stage.story {
            text.push_str("\n    ");
            text.push_str(line);
        }
    }
    if failed {
        for peer in &stage.peers {
            let log = peer.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
            let _ = write!(text, "\n--- {} {} ---\n{}", peer.spec.name, peer.id, tail.join("\n"));
        }
        if options.keep {
            let kept =
                stage.root.path().with_file_name(format!("sigil-scenario-{}-{}", scenario.name, std::process::id()));
            let _ = match std::fs::rename(stage.root.path(), &kept) {
                Ok(()) => write!(text, "\nhomes are left in {}", kept.display()),
                Err(error) => write!(text, "\nhomes cannot be kept: {error}"),
            };
        }
    }
    (outcome, text)
}
