//! netsim: the cores of sigil's mesh under virtual time. `run` drives seeds by the thousand, `replay` tells the story of
//! one. Everything that happens follows from the seed.
#![expect(clippy::indexing_slicing, reason = "the indices are the simulator's own, and a wrong one must stop the run")]
#![expect(clippy::cast_precision_loss, reason = "statistics for people")]

#[global_allocator]
static HEAP: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod dice;
mod disk;
mod keys;
mod net;
mod node;
mod plan;
mod predicates;
mod report;
mod trace;
mod world;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::plan::{Case, Profile};
use crate::trace::Level;

#[derive(Debug, Parser)]
#[command(about = "Drives the mesh's cores under virtual time and checks what they promise")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Many seeds; ends 1 at the first that breaks a promise.
    Run {
        /// How many.
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
        /// The first.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Which mixture of plans.
        #[arg(long, value_enum, default_value = "default")]
        profile: Profile,
        /// Seeds at once.
        #[arg(long, default_value_t = 2)]
        threads: usize,
        /// Goes on after a violation and lists all of them.
        #[arg(long)]
        keep_going: bool,
    },
    /// One seed, told as a story.
    Replay {
        /// Which.
        seed: u64,
        /// As it was run.
        #[arg(long, value_enum, default_value = "default")]
        profile: Profile,
        /// Every frame and batch too.
        #[arg(long)]
        verbose: bool,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run { seeds, from, profile, threads, keep_going } => {
            report::run(from..from.saturating_add(seeds), profile, threads.max(1), keep_going)
        }
        Command::Replay { seed, profile, verbose } => {
            let level = if verbose { Level::All } else { Level::Story };
            let outcome = world::run(&Case::drawn(seed, profile), level);
            print!("{}", outcome.trace.text());
            match outcome.violation {
                Some(violation) => {
                    println!("{}", report::line(seed, &violation));
                    ExitCode::FAILURE
                }
                None => ExitCode::SUCCESS,
            }
        }
    }
}
