//! The tests of the tests: every rule of the cores left out once, and who misses it. A rule of safety that nobody
//! misses is a missing predicate, a fault that never happens, or needless code.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use mesh_core::config::Config;
use mesh_core::protocol_rule::{ProtocolRule, ProtocolRules};

use crate::hostile;
use crate::models::{self, Bounds};
use crate::plan::{Case, MS, Profile};
use crate::regressions;
use crate::trace::Level;
use crate::world;

/// Where a rule is looked for, the quick ones first. (`big` and `fleet` are the same faults, slower.)
const PROFILES: [Profile; 11] = [
    Profile::Two,
    Profile::Default,
    Profile::Relay,
    Profile::Rights,
    Profile::People,
    Profile::Tokens,
    Profile::Clocks,
    Profile::Disks,
    Profile::Queue,
    Profile::Halves,
    Profile::Ages,
];
/// Seeds of a profile that are run at once when one catch is enough.
const BITE: u64 = 25;
/// Seeds of each profile that a rule may hide from when one catch is enough.
const QUICK_SEEDS: u64 = 500;

/// Seeds that must have missed a rule, or the models are asked too.
const RARE: u64 = 10;

/// Purpose of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Safety,
    /// Without it everything is right, later.
    Speed,
}

/// Kind and place of a rule.
const fn about(mutant: ProtocolRule) -> (Kind, &'static str) {
    use Kind::{Safety, Speed};
    match mutant {
        ProtocolRule::ReceiptDurable
        | ProtocolRule::ClaimDurable
        | ProtocolRule::EntryDurable
        | ProtocolRule::StartedDurable
        | ProtocolRule::OutcomeDurable
        | ProtocolRule::EndingDurable
        | ProtocolRule::RevocationDurable => (Safety, "effects.rs `Then`"),
        ProtocolRule::HeaderDurable => (Safety, "calls/queue.rs `dispatch`"),
        ProtocolRule::DispatchToMembers => (Safety, "calls/queue.rs `dispatch`, peer/entries.rs"),
        ProtocolRule::FenceDurable => (Safety, "election.rs `raise_fence`"),
        ProtocolRule::CounterDurable => (Safety, "incarnations.rs `use_id`"),
        ProtocolRule::KeyAtOrigin | ProtocolRule::OpenLimit | ProtocolRule::PolicyAtAccept => {
            (Safety, "calls/accept.rs")
        }
        ProtocolRule::EarlyDurable => (Safety, "calls/early.rs"),
        ProtocolRule::Journal | ProtocolRule::AttemptOrder | ProtocolRule::MarkChecked => {
            (Safety, "executor.rs `handle_screened`")
        }
        ProtocolRule::BootRule => (Safety, "executor.rs `interrupted`"),
        ProtocolRule::Fence => (Safety, "election.rs `observe`"),
        ProtocolRule::EpochJump => (Safety, "election.rs `is_plausible`"),
        ProtocolRule::SecondLook | ProtocolRule::SecondLookAtCancel | ProtocolRule::SecondLookAtPolicy => {
            (Safety, "executor.rs `handle_started`")
        }
        ProtocolRule::KnewVector => (Safety, "policy/register.rs `heads`"),
        ProtocolRule::TakingWins => (Safety, "policy/register.rs `counting`"),
        ProtocolRule::Redecide => (Safety, "peer.rs `run`"),
        ProtocolRule::WelcomePolicy => (Safety, "membership.rs `welcome`"),
        ProtocolRule::LocalDeny | ProtocolRule::SpeaksFor => (Safety, "policy/decide.rs `admit`, `not_for`"),
        ProtocolRule::TierCap | ProtocolRule::EveryRole | ProtocolRule::AgentCeiling => {
            (Safety, "policy/decide.rs `levels`")
        }
        ProtocolRule::RuleBeatsRole => (Safety, "policy/decide.rs `judge`"),
        ProtocolRule::MeshEverywhere => (Safety, "policy/decide.rs `Judging::new`"),
        ProtocolRule::ConsentBound => (Safety, "policy/decide.rs `of_call`"),
        ProtocolRule::KeyScope => (Safety, "calls/keys.rs `key_id`"),
        ProtocolRule::DenialConfirmed => (Safety, "calls/confirming.rs"),
        ProtocolRule::OwnRevocation => (Safety, "executor.rs, executor/screen.rs"),
        ProtocolRule::Tier => (Safety, "rights.rs `rule`"),
        ProtocolRule::PolicyAtDispatch => (Safety, "calls/queue.rs `dispatch`, calls/inferred.rs `denied`"),
        ProtocolRule::PolicyAtTarget => (Safety, "executor.rs `handle_screened`"),
        ProtocolRule::MarkWaits | ProtocolRule::AskWaits | ProtocolRule::ConsentApprover => {
            (Safety, "rights.rs `rule`")
        }
        ProtocolRule::ConsentNo | ProtocolRule::HourEnds | ProtocolRule::HourDiesAtBoot => {
            (Safety, "rights/answers.rs `hear`")
        }
        ProtocolRule::AskAtTarget => (Safety, "executor.rs `handle_screened`, `asks`, `handle_started`"),
        ProtocolRule::OnceIsOnce => (Safety, "calls.rs `apply_outcome`, executor.rs"),
        ProtocolRule::MarkRaised => (Safety, "executor.rs `forget`"),
        ProtocolRule::RunsCheckpointed => (Safety, "peer.rs `time_checkpoint`"),
        ProtocolRule::KeyAtTarget => (Safety, "executor.rs `repeats`"),
        ProtocolRule::KeyInJournal | ProtocolRule::RunningLimit => (Safety, "executor.rs `start_next`"),
        ProtocolRule::TargetConfirms => (Safety, "calls.rs `apply_outcome`"),
        ProtocolRule::Reissued => (Safety, "reattestation.rs `read`"),
        ProtocolRule::ExpiryMargin => (Safety, "calls.rs `handle_timeout`"),
        ProtocolRule::QueueLimit | ProtocolRule::OpenShare => (Safety, "calls.rs `defers`"),
        ProtocolRule::PlaceShare => (Safety, "executor/places.rs, calls/sessions.rs `has_credit`"),
        ProtocolRule::ToolRunningLimit => (Safety, "executor/places.rs `may_run`"),
        ProtocolRule::AnyIsOwners => (Safety, "tiers.rs `may_be_chosen`"),
        ProtocolRule::EndingBudget => (Safety, "executor.rs `refuses`"),
        ProtocolRule::ClosedBudget => (Safety, "calls/closed.rs `handle_timeout`"),
        ProtocolRule::FreedBySteps => (Safety, "spending.rs `release`"),
        ProtocolRule::DiskFloor | ProtocolRule::LogBudget => (Safety, "spending.rs `takes`"),
        ProtocolRule::FormerOwnerBudget => (Safety, "spending.rs `budget_of`"),
        ProtocolRule::RevocationWins => (Safety, "trust/derivation.rs `deciding`"),
        ProtocolRule::CutoffVoids
        | ProtocolRule::DemotionEndsAuthority
        | ProtocolRule::UnseenIsVoid
        | ProtocolRule::NothingOlder => (Safety, "trust/argumentation.rs `voids`"),
        ProtocolRule::LetInForNobody => (Safety, "peer/commands.rs `welcome`"),
        ProtocolRule::RunsEndWithStanding => (Safety, "executor.rs `stop_excluded`"),
        ProtocolRule::UnsaidIsVoid | ProtocolRule::AuthorStanding => (Safety, "trust.rs `rights_stand_until`"),
        ProtocolRule::FenceOfFormerOwner => (Safety, "trust.rs `may_prove`"),
        ProtocolRule::ChangesHaveRoom | ProtocolRule::RoomIsShared => (Safety, "trust/shares.rs `beyond`"),
        ProtocolRule::StrangersUnkept => (Safety, "trust.rs `take`, trust/shares.rs `add`, peer/entries.rs"),
        ProtocolRule::LimitsOfMembers => (Safety, "trust/argumentation.rs `decide`"),
        ProtocolRule::ContradictionsKept => (Safety, "trust.rs `shares`"),
        ProtocolRule::Query => (Speed, "election.rs `query_all`"),
        ProtocolRule::RelaysStayNamed => (Speed, "relay.rs `wanted`"),
        ProtocolRule::LinkDownGrace => (Speed, "election.rs `handle_link_down`"),
        ProtocolRule::Forward => (Speed, "election.rs `forward`"),
        ProtocolRule::WakeDetection => (Speed, "peer.rs `step`"),
        ProtocolRule::Notice => (Speed, "election.rs `correct`"),
        ProtocolRule::Successor => (Speed, "election.rs `stop`"),
        ProtocolRule::DigestOnLinkUp => (Speed, "log.rs `handle_link_up`"),
        ProtocolRule::DigestOnLinkDown => (Speed, "log.rs `handle_link_down`"),
        ProtocolRule::EntriesAge | ProtocolRule::TruncationSparesOpen => (Safety, "compaction.rs `is_dead`"),
        ProtocolRule::GapNeedsTruncation => (Safety, "log.rs `ingest`"),
        ProtocolRule::Audience => (Safety, "trust.rs `may_read`"),
        ProtocolRule::BodiesAsked => (Safety, "log/bodies.rs `ask_next`"),
        ProtocolRule::BodiesRecounted => (Safety, "log/bodies.rs `recount_bodies`"),
    }
}

fn without(mutant: Option<ProtocolRule>) -> Config {
    Config { rules: mutant.map(ProtocolRules::all_but).unwrap_or_default(), ..Config::default() }
}

/// A case with the rule of this name left out.
pub(crate) fn without_named(case: Case, rule: Option<&str>) -> Result<Case, String> {
    let Some(rule) = rule else { return Ok(case) };
    let known = ProtocolRule::ALL.iter().find(|known| format!("{known:?}") == rule);
    let known = known.ok_or_else(|| format!("no rule is called {rule}"))?;
    Ok(Case { config: Config { rules: ProtocolRules::all_but(*known), ..case.config.clone() }, ..case })
}

/// Results of the seeds of one profile.
#[derive(Debug, Default)]
struct Seen {
    run: u64,
    /// By predicate: which seeds.
    missed: BTreeMap<&'static str, BTreeSet<u64>>,
    settle_us: Vec<u64>,
    /// After a stop, and after a crash.
    takeover_us: [Vec<u64>; 2],
}

impl Seen {
    fn caught(&self) -> u64 {
        self.missed.values().map(|seeds| seeds.len() as u64).sum()
    }
}

/// Runs these seeds; those that fail with every rule in place do not count.
fn look(profile: Profile, seeds: std::ops::Range<u64>, config: &Config, sound: &BTreeSet<u64>) -> Seen {
    let next = AtomicU64::new(seeds.start);
    let seen = Mutex::new(Seen::default());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    if sound.contains(&seed) {
                        continue;
                    }
                    let mut case = Case::drawn(seed, profile);
                    case.config.rules = config.rules;
                    let outcome = world::run(&case, Level::Off);
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.run += 1;
                    seen.settle_us.extend(outcome.stats.settle_us);
                    for (stopped, _, took) in outcome.stats.takeovers {
                        seen.takeover_us[usize::from(!stopped)].push(took);
                    }
                    if let Some(violation) = outcome.violation {
                        seen.missed.entry(violation.predicate).or_default().insert(seed);
                    }
                }
            });
        }
    });
    seen.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// The plans that are kept: each was found, or made, for some rule.
fn plans() -> Result<Vec<(String, Case)>, String> {
    regressions::all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions"))
}

/// Which of these plans fail, by what.
fn fail(plans: &[(String, Case)], config: &Config) -> Vec<(String, &'static str)> {
    let fails = |(name, case): &(String, Case)| {
        let mut case = case.clone();
        case.config.rules = config.rules;
        Some((name.clone(), world::run(&case, Level::Off).violation?.predicate))
    };
    plans.iter().filter_map(fails).collect()
}

/// Median, 99th percentile and maximum in milliseconds.
fn spread(times: &mut [u64]) -> String {
    times.sort_unstable();
    let Some(last) = times.last() else { return "none".into() };
    let at = |permille: usize| times[(times.len() - 1) * permille / 1000] / MS;
    format!("{} / {} / {}", at(500), at(990), last / MS)
}

/// The first to miss a rule: kept plans, scenes, seeds in small bites of every profile, models.
fn first_catch(mutant: ProtocolRule, plans: &[(String, Case)], profiles: &[Profile]) -> Option<String> {
    let config = without(Some(mutant));
    if let Some((plan, predicate)) = fail(plans, &config).into_iter().next() {
        return Some(format!("{predicate}, plan {plan}"));
    }
    if let Some(by) = seen(mutant, &config) {
        return Some(by);
    }
    for bite in 0..QUICK_SEEDS / BITE {
        for profile in profiles.iter().copied() {
            let seeds = bite * BITE..(bite + 1) * BITE;
            let seen = look(profile, seeds.clone(), &config, &BTreeSet::new());
            for (predicate, caught) in &seen.missed {
                // Once more with the rule in place: a defect of the core is not this mutant's.
                let whole = |seed: &&u64| world::run(&Case::drawn(**seed, profile), Level::Off).violation.is_none();
                if let Some(seed) = caught.iter().find(whole) {
                    return Some(format!("{predicate}, {} seed {seed}", profile.name()));
                }
            }
        }
        if bite == 0
            && let Some(by) = refuted(&config)
        {
            return Some(by);
        }
    }
    None
}

/// The first scene that sees a promise broken; or the tests of `mesh-core` that play liars.
fn seen(mutant: ProtocolRule, config: &Config) -> Option<String> {
    let scene = hostile::all(config).find_map(|(scene, broken)| Some(format!("scene {scene}: {}", broken?)));
    let test = || ProtocolRule::AGAINST_LIARS.contains(&mutant).then(|| "hostile tests of mesh-core".to_owned());
    scene.or_else(test)
}

/// The first model that finds a promise broken.
fn refuted(config: &Config) -> Option<String> {
    models::all(Bounds::Quick, config).find_map(|shown| {
        let (promise, steps) = shown.broken?;
        Some(format!("model {}: {promise} ({} steps)", shown.model, steps.len()))
    })
}

/// Runs the rules and prints or writes the table. Whether every rule of safety was missed.
pub(crate) fn run(
    seeds: u64,
    (only, profiles): (&[String], &[Profile]),
    quick: bool,
    file: Option<&Path>,
) -> Result<bool, String> {
    let profiles = if profiles.is_empty() { &PROFILES[..] } else { profiles };
    let chosen: Vec<ProtocolRule> = ProtocolRule::ALL
        .iter()
        .copied()
        .filter(|mutant| only.is_empty() || only.contains(&format!("{mutant:?}")))
        .collect();
    if chosen.is_empty() {
        return Err(format!("no rule is called {}", only.join(" or ")));
    }
    let plans = plans()?;
    if quick { Ok(run_quick(&chosen, &plans, profiles)) } else { run_all((seeds, profiles), &chosen, &plans, file) }
}

fn run_quick(chosen: &[ProtocolRule], plans: &[(String, Case)], profiles: &[Profile]) -> bool {
    let mut good = true;
    for mutant in chosen.iter().filter(|mutant| about(**mutant).0 == Kind::Safety) {
        let by = first_catch(*mutant, plans, profiles);
        good &= by.is_some();
        println!("{:<20} {}", format!("{mutant:?}"), by.unwrap_or_else(|| "NOT MISSED".into()));
    }
    good
}

fn run_all(
    (seeds, profiles): (u64, &[Profile]),
    chosen: &[ProtocolRule],
    plans: &[(String, Case)],
    file: Option<&Path>,
) -> Result<bool, String> {
    let mut whole: Vec<Seen> =
        profiles.iter().map(|profile| look(*profile, 0..seeds, &without(None), &BTreeSet::new())).collect();
    let flawed: Vec<BTreeSet<u64>> =
        whole.iter().map(|seen| seen.missed.values().flatten().copied().collect()).collect();
    let mut missed = String::new();
    let mut speed = String::new();
    let mut good = true;
    for mutant in chosen {
        let (kind, place) = about(*mutant);
        let config = without(Some(*mutant));
        let mut cells = Vec::new();
        let mut by: BTreeMap<&str, u64> = BTreeMap::new();
        let mut times: (Vec<u64>, [Vec<u64>; 2]) = Default::default();
        let failed = fail(plans, &config);
        for (_, predicate) in &failed {
            *by.entry(predicate).or_default() += 1;
        }
        cells.push(if failed.is_empty() { "–".into() } else { failed.len().to_string() });
        for (profile, flawed) in profiles.iter().zip(&flawed) {
            let seen = look(*profile, 0..seeds, &config, flawed);
            for (predicate, caught) in &seen.missed {
                *by.entry(predicate).or_default() += caught.len() as u64;
            }
            cells.push(if seen.caught() == 0 { "–".into() } else { format!("{}/{}", seen.caught(), seen.run) });
            times.0.extend(seen.settle_us);
            for (all, more) in times.1.iter_mut().zip(seen.takeover_us) {
                all.extend(more);
            }
        }
        // A model takes its seconds: it is asked about what seeds hardly find.
        let rare = by.values().sum::<u64>() < RARE;
        let model = if rare { seen(*mutant, &config).or_else(|| refuted(&config)) } else { None };
        good &= kind == Kind::Speed || model.is_some() || !by.is_empty();
        let by: Vec<String> = by.iter().map(|(predicate, count)| format!("{predicate} {count}")).collect();
        let by = if by.is_empty() { "–".to_owned() } else { by.join(", ") };
        let kind = if kind == Kind::Safety { "safety" } else { "speed" };
        let model = model.unwrap_or_else(|| "–".into());
        let row = format!("| {mutant:?} | {kind} | {place} | {} | {by} | {model} |", cells.join(" | "));
        println!("{row}");
        let _ = writeln!(missed, "{row}");
        if kind == "speed" {
            let [stop, crash] = &mut times.1;
            let row =
                format!("| without {mutant:?} | {} | {} | {} |", spread(&mut times.0), spread(stop), spread(crash));
            println!("{row}");
            let _ = writeln!(speed, "{row}");
        }
    }
    let mut settle: Vec<u64> = whole.iter_mut().flat_map(|seen| std::mem::take(&mut seen.settle_us)).collect();
    let [mut stop, mut crash] =
        [0, 1].map(|at| whole.iter().flat_map(|seen| seen.takeover_us[at].clone()).collect::<Vec<u64>>());
    let base =
        format!("| the core as it is | {} | {} | {} |", spread(&mut settle), spread(&mut stop), spread(&mut crash));
    println!("{base}");
    if let Some(path) = file {
        let names: Vec<&str> = profiles.iter().map(|profile| profile.name()).collect();
        let flaws: usize = flawed.iter().map(BTreeSet::len).sum();
        let text = format!(
            "# Rules left out\n\n\
            Made by `cargo run --release -p netsim --features mutants -- mutants --seeds {seeds} --file netsim/MUTANTS.md`.\n\
            Each rule of the cores is left out once (`src/mesh/core/src/protocol_rule.rs` says what each does), and {seeds} seeds of each\n\
            profile are run, and the {} plans of `regressions/`; the scenes of `hostile.rs` and the quick models too where fewer than {RARE} of them missed it. A cell says in how many some predicate missed the rule. {flaws} seeds that\n\
            fail with all rules in place do not count.\n\n\
            | rule | for | where | plans | {} | missed by | refuted by |\n|---|---|---|---|{}---|---|\n{missed}\n\
            What the rules of speed are worth: median / 99th percentile / maximum in milliseconds of virtual time, over all of\n\
            the profiles; of seeds that fail, what they showed until then.\n\n\
            | | settling after the last fault | no gateway after a clean stop | after a crash |\n|---|---|---|---|\n{base}\n{speed}",
            plans.len(),
            names.join(" | "),
            "---|".repeat(names.len()),
        );
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_of_safety_is_missed() {
        let plans = plans().unwrap();
        for mutant in ProtocolRule::ALL.iter().filter(|mutant| about(**mutant).0 == Kind::Safety) {
            assert!(first_catch(*mutant, &plans, &PROFILES).is_some(), "{mutant:?} can be left out and nobody sees it");
        }
    }
}
