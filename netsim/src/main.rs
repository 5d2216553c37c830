//! netsim: the cores of sigil's mesh under virtual time. `run` drives seeds by the thousand, `explain` tells the story
//! of one, `shrink` cuts a failing plan down, `regressions` runs those that once failed. Everything that happens
//! follows from seed and plan.
#![expect(clippy::indexing_slicing, reason = "the indices are the simulator's own, and a wrong one must stop the run")]
#![expect(clippy::cast_precision_loss, reason = "statistics for people")]

mod dice;
mod env;
mod event;
mod explain;
mod hostile;
mod keys;
mod memory;
mod models;
#[cfg(feature = "mutants")]
mod mutants;
mod network;
mod node;
mod plan;
mod predicates;
mod real;
mod regressions;
mod report;
mod trace;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::models::Bounds;
use crate::plan::{Case, Profile};
use crate::trace::Level;

/// A run is thousands of small records that live for microseconds, on as many threads as there are cores.
#[global_allocator]
static HEAP: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(about = "Drives the mesh's cores under virtual time and checks what they promise")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// Kind of the peers' keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Keys {
    /// With symbols that cost nothing; the core cannot tell.
    Symbolic,
    /// With Ed25519, and every link checks.
    Real,
}

/// Which run.
#[derive(Debug, Args)]
struct Which {
    /// The seed of the noise.
    seed: u64,
    /// The mixture that the seed's plan is drawn from.
    #[arg(long, value_enum, default_value = "default")]
    profile: Profile,
    /// This plan in place of the seed's.
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Leaves this rule out.
    #[cfg(feature = "mutants")]
    #[arg(long, value_name = "RULE")]
    without: Option<String>,
}

impl Which {
    fn case(&self) -> Result<Case, String> {
        let case = match &self.plan {
            Some(path) => Case { seed: self.seed, ..Case::read(path)? },
            None => Case::drawn(self.seed, self.profile),
        };
        #[cfg(feature = "mutants")]
        let case = mutants::without_named(case, self.without.as_deref())?;
        Ok(case)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Many seeds; ends 1 at the first that breaks a promise.
    Run {
        /// Number of seeds.
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
        /// The first.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Which mixture of plans.
        #[arg(long, value_enum, default_value = "default")]
        profile: Profile,
        /// This plan with the noise of many seeds.
        #[arg(long, value_name = "FILE")]
        plan: Option<PathBuf>,
        /// Seeds at once.
        #[arg(long, default_value_t = 2)]
        threads: usize,
        /// Kind of the peers' keys.
        #[arg(long, value_enum, default_value = "symbolic")]
        keys: Keys,
        /// Goes on after a violation and lists all of them.
        #[arg(long)]
        keep_going: bool,
    },
    /// The core of memory in a world of its own, many seeds; ends 1 at the first that breaks a promise.
    Memory {
        /// Number of seeds.
        #[arg(long, default_value_t = 300)]
        seeds: u64,
        /// The first.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Seeds at once.
        #[arg(long, default_value_t = 2)]
        threads: usize,
        /// Leaves each rule out in turn instead; ends 1 when nothing misses one of them.
        #[arg(long)]
        mutants: bool,
    },
    /// Small worlds, gone through completely.
    Models {
        /// Smaller bounds.
        #[arg(long)]
        quick: bool,
    },
    /// Leaves each rule of the cores out in turn: which predicate misses it. Ends 1 when no one misses a rule of
    /// safety.
    #[cfg(feature = "mutants")]
    Mutants {
        /// Seeds of each profile.
        #[arg(long, default_value_t = 300)]
        seeds: u64,
        /// These rules alone, separated by commas.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// These profiles alone, separated by commas.
        #[arg(long, value_delimiter = ',')]
        profile: Vec<Profile>,
        /// Rules of safety only, each until it is missed once.
        #[arg(long)]
        quick: bool,
        /// Writes the table here and not to standard output.
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Real processes in network namespaces.
    Scenarios(real::Options),
    /// One seed, with its event log.
    Replay {
        #[command(flatten)]
        which: Which,
        /// Every frame and batch too.
        #[arg(long)]
        verbose: bool,
    },
    /// The plan of a seed, as a file.
    Plan {
        #[command(flatten)]
        which: Which,
    },
    /// Leaves out of a failing plan what it fails without.
    Shrink {
        #[command(flatten)]
        which: Which,
        /// Writes the plan here and not to standard output.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// One seed, told as a story: who led, who believed what, what went wrong, what became of the calls.
    Explain {
        #[command(flatten)]
        which: Which,
        /// Draws it, too.
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
    /// The plans that once failed.
    Regressions {
        /// Where they are kept.
        #[arg(default_value = "netsim/regressions")]
        folder: PathBuf,
    },
    /// Seeds of every profile, and what came out of them, as the table of the README.
    Report {
        /// Virtual cost decides how many seeds a profile gets; this many for the quickest.
        #[arg(long, default_value_t = 10_000)]
        seeds: u64,
        /// The first.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Seeds at once.
        #[arg(long, default_value_t = 2)]
        threads: usize,
        /// The page whose table is written anew.
        #[arg(long, value_name = "FILE", default_value = "netsim/README.md")]
        readme: PathBuf,
    },
}

fn main() -> ExitCode {
    match command(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("netsim: {error}");
            ExitCode::from(2)
        }
    }
}

/// Runs a command. True if all promises were kept.
fn command(command: Command) -> Result<bool, String> {
    match command {
        Command::Run { seeds, from, profile, plan, threads, keys, keep_going } => {
            let plan = plan.as_deref().map(Case::read).transpose()?;
            let case = move |seed| {
                let case =
                    plan.as_ref().map_or_else(|| Case::drawn(seed, profile), |plan| Case { seed, ..plan.clone() });
                Case { real_keys: keys == Keys::Real, ..case }
            };
            Ok(report::run(from..from.saturating_add(seeds), &case, threads.max(1), keep_going))
        }
        Command::Memory { seeds, threads, mutants: true, .. } => Ok(memory::mutants(seeds, threads)),
        Command::Memory { seeds, from, threads, mutants: false } => Ok(memory::run(from, seeds, threads)),
        Command::Models { quick } => Ok(models::print(if quick { Bounds::Quick } else { Bounds::Full })),
        #[cfg(feature = "mutants")]
        Command::Mutants { seeds, only, profile, quick, file } => {
            mutants::run(seeds, (&only, &profile), quick, file.as_deref())
        }
        Command::Scenarios(options) => Ok(real::run(&options)),
        Command::Replay { which, verbose } => {
            let outcome = world::run(&which.case()?, if verbose { Level::All } else { Level::Story });
            print!("{}", outcome.trace.text());
            Ok(told(which.seed, &outcome))
        }
        Command::Plan { which } => {
            print!("{}", which.case()?.to_text());
            Ok(true)
        }
        Command::Shrink { which, out } => {
            let case = regressions::shrink(&which.case()?)?;
            match out {
                Some(path) => write(&path, &case.to_text())?,
                None => print!("{}", case.to_text()),
            }
            Ok(true)
        }
        Command::Explain { which, svg } => {
            let case = which.case()?;
            let outcome = world::run(&case, Level::Story);
            print!("{}", explain::text(&case, &outcome));
            if let Some(path) = svg {
                write(&path, &explain::svg(&case, &outcome))?;
            }
            Ok(told(which.seed, &outcome))
        }
        Command::Regressions { folder } => regressions::run(&folder),
        Command::Report { seeds, from, threads, readme } => report::all(seeds, from, threads.max(1), &readme),
    }
}

fn told(seed: u64, outcome: &world::Outcome) -> bool {
    if let Some(violation) = &outcome.violation {
        println!("{}", report::line(seed, violation));
    }
    outcome.violation.is_none()
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}
