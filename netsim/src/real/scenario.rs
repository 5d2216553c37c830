//! Content of a scenario file.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::fail::Fail;
use super::relay::Weather;

/// A scenario: who is there, on which network, and what happens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scenario {
    /// The file's name without its ending.
    #[serde(skip)]
    pub(super) name: String,
    /// The promise, in one sentence.
    pub(super) title: String,
    /// True if it belongs to the set that every commit runs.
    #[serde(default)]
    pub(super) ci: bool,
    /// The promises that may break in it until something is built; any other that breaks is a failure.
    pub(super) waiting: Option<Waiting>,
    /// Time after the last fault within which one gateway must be followed by all, seconds.
    #[serde(default = "settle_s")]
    pub(super) settle_s: f64,
    /// True if the peers look for each other on the local network.
    #[serde(default)]
    pub(super) lan: bool,
    /// Behaviour of the relay between all peers; without it there is none.
    pub(super) relay: Option<Weather>,
    /// The only pairs that hear each other; without them all do.
    pub(super) links: Option<Vec<(String, String)>>,
    /// The first founds the mesh.
    pub(super) peers: Vec<PeerSpec>,
    /// In order. Each is done before the next begins.
    pub(super) steps: Vec<Step>,
}

/// one-gateway-for-all says 6 s; as much again for machines that are busy with other things.
fn settle_s() -> f64 {
    12.0
}

/// Promises that do not hold yet.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Waiting {
    /// Their names.
    pub(super) promises: Vec<String>,
    /// The feature that it waits for, in words.
    pub(super) what: String,
}

impl Scenario {
    /// True if a run that failed thus broke only what is known not to hold yet.
    pub(super) fn allows(&self, fail: &Fail) -> bool {
        let waits_for = |promise: &str| {
            self.waiting.iter().flat_map(|waiting| &waiting.promises).any(|waits_for| waits_for == promise)
        };
        matches!(fail, Fail::Broken { promise, .. } if waits_for(promise))
    }
}

/// One peer. It has the tools `append` (effect `once`), `again` (`idempotent`) and `slow` (`once`, 3 s), all of which
/// add a line to its witness file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PeerSpec {
    /// By what the steps call it, and its first name unless `node_id` says otherwise.
    pub(super) name: String,
    /// The name that it asks for.
    pub(super) node_id: Option<String>,
    /// `node.class`.
    #[serde(default = "desktop")]
    pub(super) class: String,
    /// `node.gateway`: auto, prefer, never.
    #[serde(default = "auto")]
    pub(super) gateway: String,
    /// Tier that it gets.
    #[serde(default = "owner")]
    pub(super) tier: String,
    /// Approver at the beginning, if not the founder.
    pub(super) via: Option<String>,
    /// True if it is a member from the beginning. Otherwise it starts as a mesh of its own.
    #[serde(default = "yes")]
    pub(super) member: bool,
    /// True if it stands behind the router.
    #[serde(default)]
    pub(super) inside: bool,
    /// True if it stands behind the second router, on a network of its own.
    #[serde(default)]
    pub(super) second: bool,
    /// Error of its wall clock in seconds. Needs a program with fault points.
    #[serde(default)]
    pub(super) clock_s: i64,
}

impl PeerSpec {
    /// The name that it asks for.
    pub(super) fn wanted_name(&self) -> &str {
        self.node_id.as_deref().unwrap_or(&self.name)
    }
}

fn desktop() -> String {
    "desktop".to_owned()
}

fn auto() -> String {
    "auto".to_owned()
}

fn owner() -> String {
    "owner".to_owned()
}

const fn yes() -> bool {
    true
}

fn append() -> String {
    "append".to_owned()
}

const fn ttl_s() -> f64 {
    120.0
}

const fn patience_s() -> f64 {
    30.0
}

/// A step. A peer is meant by its name, by a name given with `name`, or by its role: `gateway`, `follower`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Step {
    /// Gives the peer that has a role now a name.
    Name { who: String, r#as: String },
    /// Lets time pass.
    Pause { seconds: f64 },
    /// Groups that do not hear each other; who is in none is not touched.
    Partition { groups: Vec<Vec<String>> },
    /// `to` hears nothing of `from`.
    CutOneWay { from: String, to: String },
    /// `to` loses a part of what `from` says.
    Lose { from: String, to: String, rate: f64 },
    /// The relay's weather changes.
    Weather(Weather),
    /// Everyone hears everyone, and the relay does nothing but relay.
    Heal,
    /// SIGKILL.
    Kill { who: Vec<String> },
    /// SIGTERM, and it must end well.
    Stop { who: String },
    /// Starts again, and is ready.
    Start { who: Vec<String> },
    /// SIGSTOP.
    Freeze { who: String },
    /// SIGCONT.
    Thaw { who: String },
    /// Arms a fault point of its next starts; an empty one disarms. Needs a program with fault points.
    Arm { who: String, fault: String },
    /// Waits until it has died of its fault.
    Dies { who: String },
    /// Puts a copy of its home aside; it must not run.
    Save { who: String },
    /// Gives it the home that was put aside; it must not run.
    Restore { who: String },
    /// `to` gets the home that `from` has, and with it its identity; neither may run.
    Copy { from: String, to: String },
    /// Its address changes to this host number.
    Move { who: String, host: u8 },
    /// `who` is linked to `to` in this way, `direct` or `relay`; how long that took is told.
    Linked { who: String, to: String, via: String, within_s: f64 },
    /// The router's outer address changes to this host number.
    MoveRouter { host: u8 },
    /// Calls from each of these to each of these, in turn, until `unload`.
    Load {
        from: Vec<String>,
        to: Vec<String>,
        /// Calls per second at each origin.
        rate: u32,
        #[serde(default = "append")]
        tool: String,
        #[serde(default = "ttl_s")]
        ttl_s: f64,
    },
    /// Ends the stream of calls.
    Unload,
    /// One call.
    Call {
        from: String,
        to: String,
        /// The name by which the device is asked for; else its name as it stands in the scenario.
        node: Option<String>,
        #[serde(default = "append")]
        tool: String,
        #[serde(default = "ttl_s")]
        ttl_s: f64,
        /// The client's own key.
        key: Option<String>,
        /// Name for later steps.
        r#as: Option<String>,
        /// Code of the refusal that the door must give, if any.
        refused: Option<String>,
    },
    /// Asks for the call not to be done, at its origin.
    Cancel { call: String },
    /// A device that is no member comes in with an invite of `at`.
    Join {
        who: String,
        at: String,
        #[serde(default = "owner")]
        tier: String,
    },
    /// A device asks at `at` to be approved.
    AskToJoin { who: String, at: String },
    /// Approves it, under this name if given. With `or_not`, a door that says no is as good: it has moved on.
    Approve {
        who: String,
        at: String,
        r#as: Option<String>,
        #[serde(default = "owner")]
        tier: String,
        #[serde(default)]
        or_not: bool,
    },
    /// Revokes it, in a way that will not stand.
    Accuse { who: String, at: String },
    /// Revokes it.
    Forget { who: String, at: String },
    /// It counts as no member from now on.
    Void { who: String },
    /// One gateway of theirs, followed by all of them (without names: all members that run), all linked. The time since
    /// the last fault is a settling time.
    Settled { who: Option<Vec<String>>, within_s: Option<f64> },
    /// As `settled`, with another gateway than `old`. The time since the last fault is a takeover.
    Takeover { old: String, who: Option<Vec<String>>, within_s: f64 },
    /// Nobody has followed another gateway since the last `settled` or `takeover`.
    Unmoved,
    /// No gateway is known there.
    Leaderless { who: Vec<String> },
    /// The call's ending as `at` (else its origin) tells it.
    Ended {
        call: String,
        /// Any of these.
        state: Vec<String>,
        at: Option<String>,
        /// Expected number of runs.
        runs: Option<usize>,
        confirmed: Option<bool>,
        #[serde(default = "patience_s")]
        within_s: f64,
    },
    /// The call has no ending.
    Open { call: String },
    /// State of a device as `at` sees it: online, offline, pending, or absent.
    Sees {
        at: String,
        who: String,
        is: String,
        #[serde(default = "patience_s")]
        within_s: f64,
    },
    /// These have these names, in any order, at each of `at` (else at all members that run).
    Names { who: Vec<String>, are: Vec<String>, at: Option<Vec<String>> },
    /// The call never ran, and after a while still has not.
    NeverRan { call: String },
    /// It knows that it was revoked.
    Revoked { who: String },
    /// It warns people of something with these words in it.
    Warns { who: String, of: String },
    /// These two calls with one key are one: one of them reads as the other, and it ran once.
    OneCall { calls: [String; 2] },
}

impl Scenario {
    fn parse(name: &str, text: &str) -> Result<Self, String> {
        let mut scenario: Self = toml::from_str(text).map_err(|error| format!("{name}: {error}"))?;
        name.clone_into(&mut scenario.name);
        if scenario.peers.is_empty() {
            return Err(format!("{name}: nobody is there"));
        }
        let cuts = |step: &Step| {
            matches!(step, Step::Partition { .. } | Step::CutOneWay { .. } | Step::Lose { .. } | Step::Move { .. })
        };
        if scenario.relay.is_some() && (scenario.links.is_some() || scenario.steps.iter().any(cuts)) {
            return Err(format!("{name}: with a relay it is the relay that cuts and loses"));
        }
        if scenario.lan && scenario.links.is_some() {
            return Err(format!("{name}: neighbours that hear each other's multicast are linked"));
        }
        Ok(scenario)
    }

    /// True if it uses what only a program with fault points has.
    pub(super) fn needs_fault_points(&self) -> bool {
        self.peers.iter().any(|peer| peer.clock_s != 0)
            || self.steps.iter().any(|step| matches!(step, Step::Arm { .. }))
    }
}

/// Where the scenarios are kept.
pub(super) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

/// All scenarios by name.
pub(super) fn all(directory: &Path) -> Result<Vec<Scenario>, String> {
    let trouble = |error: std::io::Error| format!("{}: {error}", directory.display());
    let mut scenarios = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(trouble)? {
        let path = entry.map_err(trouble)?.path();
        if path.extension().is_some_and(|ending| ending == "toml") {
            let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            scenarios.push(Scenario::parse(&name, &std::fs::read_to_string(&path).map_err(trouble)?)?);
        }
    }
    scenarios.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(scenarios)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_can_be_read() {
        let scenarios = all(&directory()).expect("all of them");
        assert!(scenarios.len() >= 30, "{}", scenarios.len());
        assert_eq!(scenarios.iter().filter(|scenario| scenario.ci).count(), 12, "the set that fits into 3 minutes");
    }

    #[test]
    fn a_misspelt_word_is_an_error() {
        let good = "title = 't'\npeers = [{ name = 'a' }]\nsteps = [{ do = 'kill', who = ['a'] }]\n";
        assert!(Scenario::parse("good", good).is_ok());
        for (word, instead) in [("name", "nam"), ("kill", "kil"), ("who", "whom"), ("title", "titel")] {
            assert!(Scenario::parse("bad", &good.replace(word, instead)).is_err(), "{instead}");
        }
    }
}
