//! Small worlds gone through completely: every order of events within stated bounds, where seeds only sample. The peers in
//! them are the product's own cores; what the models themselves say is the network, the disks and the bounds.

mod election;
mod machine;
mod run;

use std::process::ExitCode;
use std::time::Instant;

use mesh_core::config::Config;
use stateright::{Checker, Model};

/// Goes through all models; fails when one finds a promise broken.
pub(crate) fn all(config: &Config) -> ExitCode {
    let model = run::Run { crashes: 2, config: config.clone() };
    let t = Instant::now();
    let checker = model.checker().threads(2).spawn_bfs().join();
    println!("run: {} states, depth {} in {:?}", checker.unique_state_count(), checker.max_depth(), t.elapsed());
    for (name, path) in checker.discoveries() {
        println!("  {name}: {} steps {:?}", path.clone().into_actions().len(), path.into_actions());
    }
    for (ticks, crashes, duplicates) in [(2, 1, 0), (2, 1, 1), (3, 1, 0), (3, 1, 1)] {
        let model = election::Elect { ticks, crashes, duplicates, config: config.clone() };
        let t = Instant::now();
        let checker = model.checker().threads(2).timeout(std::time::Duration::from_secs(25)).spawn_bfs().join();
        println!(
            "election {ticks} {crashes} {duplicates}: {} states, depth {} in {:?}",
            checker.unique_state_count(),
            checker.max_depth(),
            t.elapsed()
        );
        for (name, path) in checker.discoveries() {
            println!("  {name}: {} steps {:?}", path.clone().into_actions().len(), path.into_actions());
        }
    }
    ExitCode::SUCCESS
}
