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

/// Runs every plan of a folder, in the order of their names.
pub(crate) fn run(folder: &Path) -> Result<bool, String> {
    let told = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .map_err(told)?
        .map(|file| file.map(|file| file.path()))
        .collect::<Result<_, _>>()
        .map_err(told)?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    let mut kept = true;
    for path in &paths {
        let case = Case::read(path)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        if let Some(violation) = world::run(&case, Level::Off).violation {
            kept = false;
            println!("{name}: {}", report::line(case.seed, &violation));
        }
    }
    println!("{} plans that once failed, {}", paths.len(), if kept { "all promises kept" } else { "and fail again" });
    Ok(kept && !paths.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_once_failed_does_not_fail_again() {
        assert!(run(&Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions")).unwrap());
    }
}
