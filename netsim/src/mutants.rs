//! The tests of the tests: every rule of the cores left out once, and which predicate misses it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use mesh_core::config::Config;
use mesh_core::mutants::{Mutant, Mutation};

use crate::plan::{Case, MS, Profile};
use crate::trace::Level;
use crate::world;

pub(crate) fn probe(seeds: u64, only: Option<&str>) {
    for mutant in Mutant::ALL {
        let name = format!("{mutant:?}");
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let base = Config { mutation: Mutation::of(*mutant), ..Config::default() };
        let mut line = format!("{name:<20}");
        for profile in [Profile::Two, Profile::Default] {
            let mut caught: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
            let mut settle = Vec::new();
            for seed in 0..seeds {
                let case = Case { config: base.clone(), ..Case::drawn(seed, profile) };
                let outcome = world::run(&case, Level::Off);
                settle.extend(outcome.stats.settle_us);
                if let Some(v) = outcome.violation {
                    let e = caught.entry(v.predicate).or_insert((0, seed));
                    e.0 += 1;
                }
            }
            settle.sort_unstable();
            let at = |p: usize| settle.get(settle.len().saturating_sub(1) * p / 1000).map_or(0, |us| us / MS);
            let _ = write!(line, " | {profile:?} {caught:?} settle {} {}", at(500), at(990));
        }
        println!("{line}");
    }
}
