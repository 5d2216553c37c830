//! The stage: plays a scenario's steps with real peers, and measures how long things take.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::clock::{now, wait_for};
use super::fail::{Fail, broken};
use super::load::{Load, Made, SharedBook};
use super::network::{self, Network, Side};
use super::peer::{Peer, since};
use super::relay::{Relay, Weather};
use super::scenario::{PeerSpec, Scenario, Step};
use crate::dice::Dice;

/// Time that one gateway must be followed by all before it counts as settled: longer than a lease, and than a link that
/// is dead goes unnoticed (2.4 s), so that nobody lives on what was before the fault.
const SETTLED_FOR: Duration = Duration::from_secs(3);
/// Founding, inviting and linking everyone.
const SETUP_WITHIN: Duration = Duration::from_secs(30);
/// A wait that begins this soon after a fault has seen all that came of it.
const WATCHED: Duration = Duration::from_millis(500);

/// A gateway's peer id and epoch.
pub(super) type Leadership = (String, u64);

/// Measured values.
#[derive(Debug, Clone, Default)]
pub(super) struct Measured {
    /// From a fault until another gateway was followed by all.
    pub(super) takeovers: Vec<Duration>,
    /// From a fault until one gateway was followed by all, and stayed.
    pub(super) settles: Vec<Duration>,
    /// From the last fault until every call had its ending.
    pub(super) ended: Option<Duration>,
    /// Calls by their ending as their origin tells it.
    pub(super) endings: BTreeMap<String, usize>,
}

/// A running scenario. Fields are dropped in this order: first the calls end, then the peers, then their network.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    pub(super) load: Option<Load>,
    pub(super) scenario: &'a Scenario,
    pub(super) peers: Vec<Peer>,
    pub(super) relay: Option<Relay>,
    pub(super) network: Network,
    pub(super) book: SharedBook,
    pub(super) measured: Measured,
    /// The events, for people.
    pub(super) story: Vec<String>,
    pub(super) root: TempDir,
    began: Instant,
    /// The last fault, or the end of one.
    pub(super) disturbed: Instant,
    /// No members any more.
    pub(super) out: BTreeSet<usize>,
    /// Frozen, or told to stop.
    pub(super) silent: BTreeSet<usize>,
    /// Those whose home was rolled back: what they did before, they cannot know.
    pub(super) rolled_back: BTreeSet<usize>,
    /// True if nobody has looked since then who leads.
    pub(super) unsettled: bool,
    /// The last step saw one gateway followed by all members.
    just_settled: bool,
    /// The gateway that was settled on last.
    pub(super) settled: Option<Leadership>,
    pub(super) names: BTreeMap<String, usize>,
    pub(super) calls: BTreeMap<String, Made>,
}

impl<'a> Stage<'a> {
    /// Builds the network and the homes, starts the peers and makes the members one mesh.
    pub(super) fn new(scenario: &'a Scenario, program: &Path, dice: Dice) -> Result<Self, Fail> {
        let root = tempfile::Builder::new().prefix(&format!("{}-", network::fresh_prefix())).tempdir();
        let root = root.map_err(|error| Fail::Trouble(format!("a directory for the homes: {error}")))?;
        let side = |peer: &PeerSpec| match (peer.inside, peer.second) {
            (_, true) => Side::Second,
            (true, false) => Side::Inside,
            (false, false) => Side::Outside,
        };
        let sides: Vec<Side> = scenario.peers.iter().map(side).collect();
        let network = Network::new(&sides)?;
        let peer = |(index, spec)| Peer::new(root.path(), spec, scenario.lan, network.namespace(index), program);
        let peers = scenario.peers.iter().enumerate().map(peer).collect::<Result<Vec<_>, _>>()?;
        let began = now();
        let mut stage = Self {
            load: None,
            scenario,
            peers,
            relay: None,
            network,
            book: SharedBook::default(),
            measured: Measured::default(),
            story: Vec::new(),
            root,
            began,
            disturbed: began,
            out: BTreeSet::new(),
            silent: BTreeSet::new(),
            rolled_back: BTreeSet::new(),
            unsettled: false,
            just_settled: false,
            settled: None,
            names: BTreeMap::new(),
            calls: BTreeMap::new(),
        };
        stage.set_up(dice)?;
        Ok(stage)
    }

    fn set_up(&mut self, dice: Dice) -> Result<(), Fail> {
        if let Some(links) = &self.scenario.links {
            let linked: BTreeSet<(usize, usize)> =
                links.iter().map(|(a, b)| Ok((self.who(a)?, self.who(b)?))).collect::<Result<_, Fail>>()?;
            for a in 0..self.peers.len() {
                for b in (0..self.peers.len()).filter(|b| a != *b) {
                    if !linked.contains(&(a, b)) && !linked.contains(&(b, a)) {
                        self.network.drop_input(a, b, 1.0)?;
                    }
                }
            }
        }
        if self.scenario.relay.is_some() {
            let (namespace, address) = self.network.detour()?;
            let doors: Vec<_> = (0..self.peers.len()).map(|peer| self.network.address(peer)).collect();
            // Good weather while the mesh is founded.
            let relay = Relay::new(&namespace, address, &doors, Weather::default(), dice);
            let relay = relay.map_err(|error| Fail::Trouble(format!("the relay: {error}")))?;
            self.relay = Some(relay);
        }
        for peer in &mut self.peers {
            peer.start()?;
        }
        for index in 0..self.peers.len() {
            let spec = &self.peers[index].spec;
            if index == 0 {
                self.peers[0].joined = true;
            } else if spec.member {
                let (via, tier) = (spec.via.clone(), spec.tier.clone());
                let via = via.map_or(Ok(0), |via| self.who(&via))?;
                self.join(index, via, &tier)?;
            }
        }
        let members = self.members();
        let ready = wait_for(SETUP_WITHIN, || {
            let gateway = self.agreed(&members)?;
            let all = members.iter().all(|peer| self.peers[*peer].knows(members.len()));
            (all || self.scenario.links.is_some()).then_some(gateway)
        })?;
        self.settled = ready;
        if let (Some(relay), Some(weather)) = (&self.relay, self.scenario.relay) {
            relay.set(weather);
        }
        self.say("the mesh stands");
        match &self.settled {
            Some(_) => Ok(()),
            None => Err(Fail::Trouble("the mesh does not come together in the beginning".to_owned())),
        }
    }

    pub(super) fn say(&mut self, what: &str) {
        self.story.push(format!("{:8.3} {what}", since(self.began).as_secs_f64()));
    }

    // --- who is meant ---

    pub(super) fn who(&self, name: &str) -> Result<usize, Fail> {
        if let Some(known) = self.names.get(name) {
            return Ok(*known);
        }
        let found = match name {
            "gateway" | "follower" => {
                let members = self.members();
                let gateway = self.agreed(&members).and_then(|(id, _)| self.by_id(&id));
                let follower =
                    members.into_iter().rev().find(|peer| Some(*peer) != gateway && self.peers[*peer].runs());
                if name == "gateway" { gateway } else { follower }
            }
            _ => self.peers.iter().position(|peer| peer.spec.name == name),
        };
        found.ok_or_else(|| Fail::Trouble(format!("nobody is `{name}`")))
    }

    pub(super) fn all(&self, names: &[String]) -> Result<Vec<usize>, Fail> {
        names.iter().map(|name| self.who(name)).collect()
    }

    fn by_id(&self, id: &str) -> Option<usize> {
        self.peers.iter().position(|peer| peer.id == id)
    }

    pub(super) fn made(&self, call: &str) -> Result<Made, Fail> {
        self.calls.get(call).cloned().ok_or_else(|| Fail::Trouble(format!("no call is named `{call}`")))
    }

    /// Members that run and answer.
    pub(super) fn members(&self) -> Vec<usize> {
        let is_member = |index: &usize| {
            let peer = &self.peers[*index];
            peer.joined && peer.runs() && !self.out.contains(index) && !self.silent.contains(index)
        };
        (0..self.peers.len()).filter(is_member).collect()
    }

    pub(super) fn some_or_members(&self, who: Option<&Vec<String>>) -> Result<Vec<usize>, Fail> {
        who.map_or_else(|| Ok(self.members()), |names| self.all(names))
    }

    // --- looking ---

    /// The gateway that all of these follow, when it is one of them.
    pub(super) fn agreed(&self, who: &[usize]) -> Option<Leadership> {
        let mut named = who.iter().map(|peer| self.peers[*peer].gateway());
        let first = named.next()??;
        let one = named.all(|other| other.as_ref() == Some(&first));
        (one && who.iter().any(|peer| self.peers[*peer].id == first.0)).then_some(first)
    }

    /// Waits until one gateway (not `old`) is followed by all of these, and stays so; when that began.
    fn wait_settled(
        &self,
        who: &[usize],
        old: Option<&str>,
        within: Duration,
    ) -> Result<Option<(Leadership, Instant)>, Fail> {
        let mut since_when: Option<(Leadership, Instant)> = None;
        wait_for(within + SETTLED_FOR, || {
            let looked = now();
            let agreed = self.agreed(who).filter(|(id, _)| Some(id.as_str()) != old);
            match (agreed, &since_when) {
                (None, _) => since_when = None,
                (Some(gateway), Some((before, _))) if gateway == *before => {}
                (Some(gateway), _) => since_when = Some((gateway, looked)),
            }
            since_when.clone().filter(|(_, began)| since(*began) >= SETTLED_FOR)
        })
    }

    /// A fault, or the end of one, happens now.
    pub(super) fn disturb(&mut self) {
        self.disturbed = now();
        self.unsettled = true;
    }

    /// Waits for one gateway of these, and measures how long that took if it was watched from the fault on.
    pub(super) fn settle(&mut self, who: &[usize], within: Duration) -> Result<(), Fail> {
        let watched = since(self.disturbed) < WATCHED;
        let Some((gateway, began)) = self.wait_settled(who, None, within)? else {
            return Err(broken(
                "one-gateway-for-all",
                format!("no gateway followed by all within {within:?}: {}", self.beliefs(who)),
            ));
        };
        let took = began.saturating_duration_since(self.disturbed);
        self.settled = Some(gateway);
        if watched && self.unsettled {
            self.say(&format!("settled after {took:.3?}"));
            self.measured.settles.push(took);
        }
        self.unsettled = false;
        Ok(())
    }

    /// Waits for another gateway of these than `old`.
    pub(super) fn take_over(&mut self, old: usize, who: &[usize], within: Duration) -> Result<(), Fail> {
        let disturbed = self.disturbed;
        let old = self.peers[old].id.clone();
        let next = wait_for(within + Duration::from_secs(5), || {
            let looked = now();
            let gateway = self.agreed(who).filter(|(id, _)| *id != old)?;
            Some((gateway, looked.saturating_duration_since(disturbed)))
        })?;
        let Some((gateway, took)) = next else {
            return Err(broken(
                "takeover-in-time",
                format!("nobody took over within {within:?}: {}", self.beliefs(who)),
            ));
        };
        self.say(&format!("taken over after {took:.3?}"));
        self.measured.takeovers.push(took);
        self.settled = Some(gateway);
        self.unsettled = false;
        if took > within { Err(broken("takeover-in-time", format!("the takeover took {took:?}"))) } else { Ok(()) }
    }

    pub(super) fn beliefs(&self, who: &[usize]) -> String {
        let belief = |peer: &usize| {
            let peer = &self.peers[*peer];
            let name = |id: String| self.by_id(&id).map_or(id, |index| self.peers[index].spec.name.clone());
            match peer.gateway() {
                Some((id, epoch)) => format!("{} follows {} in epoch {epoch}", peer.spec.name, name(id)),
                None => format!("{} follows nobody", peer.spec.name),
            }
        };
        who.iter().map(belief).collect::<Vec<_>>().join(", ")
    }

    // --- doing ---

    /// Plays all steps.
    pub(super) fn play(&mut self) -> Result<(), Fail> {
        let scenario = self.scenario;
        for step in &scenario.steps {
            self.say(&told(step));
            self.step(step)?;
            self.just_settled = matches!(step, Step::Settled { who: None, .. });
        }
        self.load = None;
        let members = self.members();
        if !members.is_empty() && !self.just_settled {
            self.say("the end: is one gateway followed by all?");
            let within = Duration::from_secs_f64(scenario.settle_s);
            if self.unsettled {
                self.settle(&members, within)?;
            } else if self.wait_settled(&members, None, within)?.is_none() {
                return Err(broken("one-gateway-for-all", format!("it did not last: {}", self.beliefs(&members))));
            }
        }
        Ok(())
    }
}

/// Waits until `look` sees it; what was expected is a promise that is broken otherwise.
pub(super) fn expect(what: &str, within: Duration, mut look: impl FnMut() -> Result<bool, Fail>) -> Result<(), Fail> {
    let mut trouble = None;
    let seen = wait_for(within, || match look() {
        Ok(seen) => seen.then_some(Ok(())),
        Err(why) => {
            trouble = Some(why);
            None
        }
    })?;
    match (seen, trouble) {
        (Some(result), _) => result,
        (None, Some(why @ Fail::Trouble(_))) => Err(why),
        (None, _) => Err(broken("expected", what.to_owned())),
    }
}

/// A step as the story tells it.
fn told(step: &Step) -> String {
    let text = format!("{step:?}");
    text.replace(" None,", "")
        .replace("Some(", "(")
        .replace(['"', '{', '}'], "")
        .replace("  ", " ")
        .replace("who: ", "")
}
