//! netsim: the cores of sigil's mesh under virtual time. `run` drives seeds by the thousand, `replay` tells the story of
//! one. Everything that happens follows from the seed.
#![expect(clippy::indexing_slicing, reason = "the indices are the simulator's own, and a wrong one must stop the run")]
#![expect(clippy::cast_precision_loss, reason = "statistics for people")]

#[global_allocator]
static HEAP: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod dice;
mod disk;
mod models;
#[cfg(feature = "mutants")]
mod mutants;
mod net;
mod node;
mod plan;
mod predicates;
mod report;
mod trace;
mod world;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::plan::Profile;
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
    /// Small worlds, gone through completely.
    Models {
        #[arg(long)]
        mutants: bool,
    },
    /// Leaves each rule of the cores out in turn: which predicate misses it.
    #[cfg(feature = "mutants")]
    Mutants {
        /// How many seeds of each profile.
        #[arg(long, default_value_t = 300)]
        seeds: u64,
        /// This rule alone.
        #[arg(long)]
        only: Option<String>,
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
        Command::Models { mutants } => {
            #[cfg(feature = "mutants")]
            if mutants {
                for mutant in mesh_core::mutants::Mutant::ALL {
                    println!("-- {mutant:?}");
                    models::all(&mesh_core::config::Config {
                        mutation: mesh_core::mutants::Mutation::of(*mutant),
                        ..mesh_core::config::Config::default()
                    });
                }
            }
            models::all(&mesh_core::config::Config::default())
        }
        #[cfg(feature = "mutants")]
        Command::Mutants { seeds, only } => mutants::probe(seeds, only.as_deref()),
        Command::Replay { seed, profile, verbose } => {
            let level = if verbose { Level::All } else { Level::Story };
            let outcome = world::run(seed, profile, level);
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
