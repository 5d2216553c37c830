//! One run: the peers as their shells would drive them, on a network, under virtual time.

mod calls;
mod commands;
mod director;
mod liveness;
mod mesh;
mod peer;
mod people;
mod rights;
mod slowly;
mod statements;
mod stats;
mod words;

use crate::plan::Case;
use crate::predicates::Violation;
use crate::trace::{Level, Trace};
use director::Director;
pub(crate) use stats::Stats;

/// Outcome of a run.
pub(crate) struct Outcome {
    pub(crate) violation: Option<Violation>,
    pub(crate) stats: Stats,
    pub(crate) trace: Trace,
}

/// Runs one case. A panic of a core breaks a promise like any other.
pub(crate) fn run(case: &Case, level: Level) -> Outcome {
    std::panic::catch_unwind(|| run_to_the_end(case, level)).unwrap_or_else(|_| Outcome {
        violation: Some(Violation { predicate: "panic", at: 0, what: "see standard error".into() }),
        stats: Stats::default(),
        trace: Trace::new(Level::Off),
    })
}

fn run_to_the_end(case: &Case, level: Level) -> Outcome {
    let mut run = Director::new(case, level);
    run.drive();
    Outcome { violation: run.mesh.checks.violation, stats: run.mesh.stats, trace: run.env.trace }
}
