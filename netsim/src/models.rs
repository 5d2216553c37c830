//! Small worlds gone through completely: every order of events within stated bounds, where seeds only sample. The peers
//! in them are the product's own cores; what the models themselves say is the network, the disks and the bounds.

mod asking;
mod election;
mod machine;
mod rights;
mod run;
mod trust;

use std::fmt::Debug;
use std::hash::Hash;
use std::time::{Duration, SystemTime};

use mesh_core::config::Config;
use stateright::{Checker, Expectation, HasDiscoveries, Model};

use self::asking::Consenting;
use self::election::Elect;
use self::rights::Edits;
use self::run::Run;
use self::trust::Merge;
use crate::hostile;

/// Result of going through a model.
#[derive(Debug)]
pub(crate) struct Shown {
    /// The model and its bounds.
    pub(crate) model: &'static str,
    pub(crate) states: usize,
    /// Steps of the longest way.
    pub(crate) depth: usize,
    pub(crate) took: Duration,
    /// A promise that is broken, and a way there.
    pub(crate) broken: Option<(&'static str, Vec<String>)>,
    /// Situations that should be possible and are not: then the model shows nothing.
    pub(crate) never: Vec<&'static str>,
}

/// Depth of the models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bounds {
    /// Seconds.
    Quick,
    /// A minute.
    Full,
}

/// Goes through one model, to its end or the first broken promise.
fn go<M>(name: &'static str, model: M) -> Shown
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Eq + Hash + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let began = SystemTime::now();
    let expected: Vec<(&'static str, Expectation)> =
        model.properties().into_iter().map(|property| (property.name, property.expectation)).collect();
    let checker = model.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let mut found = checker.discoveries();
    let mut shown = Shown {
        model: name,
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        took: began.elapsed().unwrap_or_default(),
        broken: None,
        never: Vec::new(),
    };
    for (name, expectation) in expected {
        match (expectation, found.remove(name)) {
            (Expectation::Always | Expectation::Eventually, Some(path)) => {
                let steps = path.into_actions().iter().map(|action| format!("{action:?}")).collect();
                shown.broken.get_or_insert((name, steps));
            }
            (Expectation::Sometimes, None) => shown.never.push(name),
            (Expectation::Always | Expectation::Eventually, None) | (Expectation::Sometimes, Some(_)) => {}
        }
    }
    shown
}

/// Each model with cores of this configuration, lazily, the quickest first.
pub(crate) fn all(bounds: Bounds, config: &Config) -> impl Iterator<Item = Shown> {
    let models: Vec<fn(&Config) -> Shown> = match bounds {
        Bounds::Quick => vec![
            |config| {
                let config = config.clone();
                go("trust: 3 owners, 2 membership changes", Merge { changes: 2, each: 2, device: true, config })
            },
            |config| {
                let config = config.clone();
                go("rights: 2 writers of a rule, 2 words", Edits { words: 2, config })
            },
            |config| {
                let config = config.clone();
                go("asking: 2 approvers, a cancel request", Consenting { crashes: 0, config })
            },
            |config| {
                let config = config.clone();
                go("run: 2 revocations", Run { crashes: 0, changes: true, moments: 1, config })
            },
            |config| {
                let config = config.clone();
                go("run: 1 crash, 3 moments", Run { crashes: 1, changes: false, moments: 3, config })
            },
            |config| {
                let config = config.clone();
                go("election: 2 deadlines each, 1 crash", Elect { ticks: 2, crashes: 1, duplicates: 0, config })
            },
        ],
        Bounds::Full => vec![
            |config| {
                let config = config.clone();
                go("rights: 2 writers of a rule, 3 words", Edits { words: 3, config })
            },
            |config| {
                let config = config.clone();
                go("asking: 2 approvers, a cancel request, 1 crash", Consenting { crashes: 1, config })
            },
            |config| {
                let config = config.clone();
                go("run: 1 crash, 2 revocations", Run { crashes: 1, changes: true, moments: 1, config })
            },
            |config| {
                let config = config.clone();
                go("run: 2 crashes, 3 moments", Run { crashes: 2, changes: false, moments: 3, config })
            },
            |config| {
                let config = config.clone();
                go(
                    "election: 2 deadlines each, 1 crash, 1 frame twice",
                    Elect { ticks: 2, crashes: 1, duplicates: 1, config },
                )
            },
            |config| {
                let config = config.clone();
                go("trust: 3 owners, 2 membership changes", Merge { changes: 2, each: 2, device: true, config })
            },
            |config| {
                let config = config.clone();
                go(
                    "trust: 3 owners, a membership change of each about the others or a newcomer",
                    Merge { changes: 3, each: 1, device: false, config },
                )
            },
        ],
    };
    let config = config.clone();
    models.into_iter().map(move |model| model(&config))
}

/// Plays the scenes, goes through all models and prints what they show. Whether they keep all promises, and could break
/// them.
pub(crate) fn print(bounds: Bounds) -> bool {
    let mut good = true;
    for (scene, broken) in hostile::all(&Config::default()) {
        good &= broken.is_none();
        println!("{scene:<70} {}", broken.map_or_else(|| "holds".to_owned(), |promise| format!("BROKEN: {promise}")));
    }
    for shown in all(bounds, &Config::default()) {
        let Shown { model, states, depth, took, broken, never } = shown;
        println!("{model:<70} {states:>7} states, {depth:>2} steps at most, {:>5.1} s", took.as_secs_f64());
        if let Some((promise, steps)) = broken {
            good = false;
            println!("  BROKEN: {promise}\n    {}", steps.join("\n    "));
        } else if !never.is_empty() {
            good = false;
            println!("  never: {}", never.join(", "));
        }
    }
    good
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_of_events_keeps_all_promises() {
        for shown in all(Bounds::Quick, &Config::default()) {
            println!("{}: {} states in {:?}", shown.model, shown.states, shown.took);
            assert!(shown.broken.is_none(), "{}: {:?}", shown.model, shown.broken);
            assert!(shown.never.is_empty(), "{} never shows {:?}", shown.model, shown.never);
            assert!(shown.states > 500, "{} is too small to show anything", shown.model);
        }
    }
}
