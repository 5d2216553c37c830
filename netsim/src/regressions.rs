//! Plans that once failed: found, cut down, kept, and run again for ever.

use std::path::Path;

use crate::plan::Case;
use crate::report;
use crate::trace::Level;
use crate::world;

/// Leaves out of a failing case what it fails without, in the same way.
pub(crate) fn shrink(case: &Case) -> Result<Case, String> {
    let Some(violation) = world::run(case, Level::Off).violation else {
        return Err(format!("seed {} breaks no promise", case.seed));
    };
    eprintln!("{}", report::line(case.seed, &violation));
    let fails = |case: &Case| {
        world::run(case, Level::Off).violation.is_some_and(|other| other.predicate == violation.predicate)
    };
    let mut runs = 0_u64;
    let plan = case.plan.shrunk(|plan| {
        runs += 1;
        fails(&case.with_plan(plan.clone()))
    });
    let shrunk = case.with_plan(plan);
    let left = |case: &Case| (case.plan.faults.len(), case.plan.asks.len(), case.plan.peers.len());
    eprintln!("faults, calls, peers: {:?} before, {:?} after {runs} runs", left(case), left(&shrunk));
    let history = format!("{}: {}", violation.predicate, violation.what);
    Ok(Case { history: if case.history.is_empty() { history } else { case.history.clone() }, ..shrunk })
}

/// The plans of a folder with their names, in the order of those.
pub(crate) fn all(folder: &Path) -> Result<Vec<(String, Case)>, String> {
    let told = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .map_err(told)?
        .map(|file| file.map(|file| file.path()))
        .collect::<Result<_, _>>()
        .map_err(told)?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    let name = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    paths.iter().map(|path| Ok((name(path), Case::read(path)?))).collect()
}

/// Runs every plan of a folder.
pub(crate) fn run(folder: &Path) -> Result<bool, String> {
    let plans = all(folder)?;
    let mut kept = true;
    for (name, case) in &plans {
        if let Some(violation) = world::run(case, Level::Off).violation {
            kept = false;
            println!("{name}: {}", report::line(case.seed, &violation));
        }
    }
    println!("{} plans that once failed, {}", plans.len(), if kept { "all promises kept" } else { "and fail again" });
    Ok(kept && !plans.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_once_failed_does_not_fail_again() {
        assert!(run(&Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions")).unwrap());
    }
}
