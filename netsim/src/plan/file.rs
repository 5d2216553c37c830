//! A run as a file, for people to read, cut down and keep: TOML with one line per peer, fault and ask.

use std::fmt::Write as _;
use std::path::Path;

use mesh_core::config::Config;
use serde::{Deserialize, Serialize};

use super::{Plan, Profile};

/// Cause of a run: the noise of a seed, and a plan.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) seed: u64,
    /// The mixture that the plan was drawn from.
    pub(crate) profile: Profile,
    /// Reason why this file is kept, in one line.
    pub(crate) history: String,
    /// True: entries are signed with Ed25519 and checked at every link; false: with symbols.
    pub(crate) real_keys: bool,
    /// Base of every peer's configuration; the plan has the last word.
    pub(crate) config: Config,
    pub(crate) plan: Plan,
}

/// [`Case`] without what does not belong into a file.
#[derive(Deserialize)]
struct File {
    seed: u64,
    profile: Profile,
    #[serde(default)]
    history: String,
    #[serde(flatten)]
    plan: Plan,
}

impl Case {
    /// As the seed says.
    pub(crate) fn drawn(seed: u64, profile: Profile) -> Self {
        let plan = Plan::draw(seed, profile);
        Self { seed, profile, history: String::new(), real_keys: false, config: Config::default(), plan }
    }

    /// The same noise with another plan.
    pub(crate) fn with_plan(&self, plan: Plan) -> Self {
        Self { plan, ..self.clone() }
    }

    /// Reads [`Self::to_text`].
    pub(crate) fn from_text(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        file.plan.check()?;
        let File { seed, profile, history, plan } = file;
        Ok(Self { seed, profile, history, real_keys: false, config: Config::default(), plan })
    }

    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Self::from_text(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// The text of a plan file.
    pub(crate) fn to_text(&self) -> String {
        let plan = &self.plan;
        let mut text = String::new();
        let mut value = |name: &str, value: toml::Value| {
            let _ = writeln!(text, "{name} = {value}");
        };
        value("seed", inline(&self.seed));
        value("profile", inline(&self.profile));
        value("history", inline(&self.history));
        value("faults_us", inline(&plan.faults_us));
        value("handovers", inline(&plan.handovers));
        value("wall_jumps", inline(&plan.wall_jumps));
        if plan.crossing {
            value("crossing", inline(&plan.crossing));
        }
        if let Some(most) = &plan.open_per_target_max {
            value("open_per_target_max", inline(most));
        }
        if plan.small_budgets {
            value("small_budgets", inline(&plan.small_budgets));
        }
        if let Some(most) = &plan.queue_max {
            value("queue_max", inline(most));
        }
        if let Some(age) = &plan.keep_entries_ms {
            value("keep_entries_ms", inline(age));
        }
        value("sparse", inline(&plan.sparse));
        value("latency_us", inline(&plan.latency_us));
        let mut list = |name: &str, lines: Vec<toml::Value>| {
            let _ = writeln!(text, "{name} = [");
            for line in lines {
                let _ = writeln!(text, "    {line},");
            }
            let _ = writeln!(text, "]");
        };
        list("peers", plan.peers.iter().map(inline).collect());
        list("faults", plan.faults.iter().map(timed::inline).collect());
        list("asks", plan.asks.iter().map(timed::inline).collect());
        text
    }
}

fn inline<T: Serialize>(value: &T) -> toml::Value {
    toml::Value::try_from(value).expect("plans are plain data")
}

impl Plan {
    /// Checks that every number of a peer names one.
    fn check(&self) -> Result<(), String> {
        let count = self.peers.len();
        let named = self.faults.iter().flat_map(|(_, fault)| fault.peers());
        let asked = self.asks.iter().flat_map(|(_, ask)| [Some(ask.origin), ask.target].into_iter().flatten());
        let alike = self.peers.iter().filter_map(|peer| peer.named_like);
        let sparse = self.sparse.iter().flat_map(|(a, b)| [*a, *b]);
        if let Some(peer) = named.chain(asked).chain(alike).chain(sparse).find(|peer| *peer >= count) {
            return Err(format!("there is no peer {peer} among {count}"));
        }
        if self.latency_us.len() != super::pairs(count).count() {
            return Err("latency_us wants one number per pair of peers".into());
        }
        if count < 2 {
            return Err("it takes two peers".into());
        }
        Ok(())
    }
}

/// Something at a time, in one table.
pub(super) mod timed {
    use serde::de::DeserializeOwned;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct At<T> {
        at_us: u64,
        #[serde(flatten)]
        what: T,
    }

    pub(super) fn inline<T: Serialize>((at_us, what): &(u64, T)) -> toml::Value {
        super::inline(&At { at_us: *at_us, what })
    }

    pub(in super::super) fn serialize<T: Serialize, S: Serializer>(
        items: &[(u64, T)],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(items.iter().map(|(at_us, what)| At { at_us: *at_us, what }))
    }

    pub(in super::super) fn deserialize<'de, T: DeserializeOwned, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<(u64, T)>, D::Error> {
        let items = Vec::<At<T>>::deserialize(deserializer)?;
        Ok(items.into_iter().map(|item| (item.at_us, item.what)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_reads_back_as_it_was_written() {
        for profile in Profile::ALL {
            for seed in 0..20 {
                let case = Case::drawn(seed, profile);
                let again = Case::from_text(&case.to_text()).unwrap();
                assert!(case.plan == again.plan && case.seed == again.seed, "{profile:?} {seed}");
            }
        }
    }

    #[test]
    fn a_plan_about_a_peer_that_is_not_there_is_refused() {
        let mut case = Case::drawn(1, Profile::Two);
        case.plan.faults.push((0, super::super::Fault::Leave { peer: 2 }));
        assert!(Case::from_text(&case.to_text()).unwrap_err().contains("no peer 2"));
    }
}
