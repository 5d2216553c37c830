//! Promises about all that people say of rights: a taking stays until somebody who knew it says something else, who holds
//! the same decides the same, and an edit arrives. Knowledge is the world's own record here: what the disk and the books
//! of an author held when it spoke, whatever its statement says that it knew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_core::entry::Place;
use mesh_core::ids::{Hash, NodeId, PeerId};
use mesh_core::io::View;
use mesh_core::policy::{
    self, Content, InForce, Key, Mode, Principal, Request, RuleVerdict, Seat, Statement, Value, Verdict,
};
use mesh_core::record::Tier;
use mesh_core::rows;

use super::peer::{Peers, Sim, State};
use crate::network::{Network, pair_of};
use crate::node::Node;
use crate::plan::MS;
use crate::predicates::Checks;

/// An edit is in force at whoever is linked to its author within so long of its fsync (the design's number), and of what
/// a look takes to see it.
const ARRIVES_US: u64 = 500 * MS + 250 * MS;

/// A statement as it was made.
struct Made {
    statement: Statement,
    /// Statements about its key that its author held, and all that these were made in the knowledge of.
    knew: BTreeSet<Place>,
    by: usize,
    /// When it was first seen on its author's disk to stay.
    durable: Option<u64>,
}

/// How two peers are linked: since when, and by which connection and which starts of them.
#[derive(PartialEq, Eq, Clone, Copy)]
struct Link {
    conn: u64,
    starts: (u64, u64),
    /// Time that a frame and its answers may take on it beyond [`ARRIVES_US`].
    slack_us: u64,
}

/// What a peer holds, and how it decides by that.
struct Verdicts {
    of: Arc<policy::View>,
    held: Held,
    verdicts: Vec<(Verdict, String)>,
}

/// All by which a peer decides: statements that stand, members, and what they offer.
#[derive(PartialEq, Eq)]
struct Held {
    said: Vec<Place>,
    members: Vec<(PeerId, NodeId, bool, Tier, Option<Hash>)>,
    out: Vec<PeerId>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Statements {
    made: BTreeMap<Place, Made>,
    links: BTreeMap<(usize, usize), (Link, u64)>,
    verdicts: BTreeMap<usize, Verdicts>,
}

fn standing(said: &InForce) -> impl Iterator<Item = (&Key, &Place, &Statement)> {
    said.keys().flat_map(move |key| said.standing(key).map(move |(place, statement)| (key, place, statement)))
}

/// Somebody asks for a tool at a device, with nothing said to that very call.
fn request(principal: Principal, origin: PeerId, target: PeerId, tool: &str) -> Request {
    Request {
        principal,
        origin,
        credential: None,
        workspace: None,
        target,
        tool: tool.parse().expect("a valid constant"),
        call: None,
    }
}

/// A decision with what an hour gives left out, since answers are not for everyone.
fn decide(rights: &policy::View, request: &Request) -> (Verdict, String) {
    let decision = rights.decide(request);
    let verdict = if decision.consents.is_empty() { decision.verdict } else { Verdict::Ask };
    let rule = if decision.consents.is_empty() { decision.rule.to_string() } else { String::new() };
    (verdict, rule)
}

impl Statements {
    /// A peer has made a step: what it says, and what it holds by now.
    pub(super) fn note_step(&mut self, now: u64, sim: &Sim, checks: &mut Checks) {
        let Some(view) = sim.node.as_ref().map(Node::view) else { return };
        let before = &sim.said_before;
        if view.said.is_same(before) && sim.rights_before.as_ref().is_some_and(|had| Arc::ptr_eq(had, &view.rights)) {
            return;
        }
        for (key, place, statement) in standing(&view.said) {
            let own = place.author == sim.id && place.incarnation == view.incarnation;
            let is_known = self.made.get(place).is_some_and(|made| made.statement == *statement);
            if own && !is_known {
                self.note_made(sim.index, key, *place, statement, before);
            }
        }
        self.taking_stands(now, sim.index, &view, checks);
    }

    fn note_made(&mut self, by: usize, key: &Key, place: Place, statement: &Statement, before: &InForce) {
        let mut knew = BTreeSet::new();
        for (held, _) in before.standing(key).filter(|(held, _)| **held != place) {
            knew.insert(*held);
            knew.extend(self.made.get(held).into_iter().flat_map(|made| &made.knew));
        }
        // It said this itself, also where that did not stand when it went on.
        let first = Place { seq: 0, ..place };
        let own = self.made.range(first..place).filter(|(_, made)| made.statement.said.key == *key);
        knew.extend(own.map(|(own, _)| *own));
        self.made.insert(place, Made { statement: statement.clone(), knew, by, durable: None });
    }

    /// True if somebody who knew this statement said something else that stands here. `None`: of some that stand here
    /// nobody saw how they were made.
    fn is_replaced(&self, said: &InForce, key: &Key, place: &Place) -> Option<bool> {
        let mut replaced = false;
        for (other, _) in said.standing(key).filter(|(other, _)| *other != place) {
            replaced |= self.made.get(other)?.knew.contains(place);
        }
        Some(replaced)
    }

    /// **taking-stands**: of a taking that a peer holds, and that nobody who knew it has replaced, the effect is there.
    fn taking_stands(&self, now: u64, peer: usize, view: &View, checks: &mut Checks) {
        for (key, place, statement) in standing(&view.said) {
            let takes = matches!(key, Key::Mode | Key::Rule(_) | Key::Member(..)) && statement.said.content.takes();
            if !takes || self.is_replaced(&view.said, key, place) != Some(false) {
                continue;
            }
            if let Some(outdone) = outdone(view, key, &statement.said.content) {
                let by = self.made.get(place).map(|made| made.by);
                checks.fail("taking-stands", now, || {
                    format!("p{peer} holds what {by:?} said of {key:?} at {place:?}, and {outdone}")
                });
            }
        }
    }

    /// **same-words-same-rights**: peers that hold the same statements, members and directories decide the same of every
    /// asker, device and tool.
    pub(super) fn same_words_same_rights(&mut self, now: u64, peers: &Peers, checks: &mut Checks) {
        for sim in peers.iter() {
            let Some(view) = sim.node.as_ref().filter(|_| sim.state == State::Running).map(Node::view) else {
                self.verdicts.remove(&sim.index);
                continue;
            };
            let is_old = self.verdicts.get(&sim.index).is_some_and(|had| Arc::ptr_eq(&had.of, &view.rights));
            if !is_old {
                let (held, verdicts) = (held(&view), verdicts(&view));
                self.verdicts.insert(sim.index, Verdicts { of: view.rights, held, verdicts });
            }
        }
        let all: Vec<(&usize, &Verdicts)> = self.verdicts.iter().collect();
        for (n, (peer, one)) in all.iter().enumerate() {
            let differs = |(_, other): &&(&usize, &Verdicts)| other.held == one.held && other.verdicts != one.verdicts;
            if let Some((other, two)) = all.iter().skip(n + 1).find(differs) {
                let at = one.verdicts.iter().zip(&two.verdicts).position(|(one, two)| one != two).unwrap_or(0);
                let (one, two) = (one.verdicts.get(at), two.verdicts.get(at));
                checks.fail("same-words-same-rights", now, || {
                    format!("p{peer} and p{other} hold the same and decide {one:?} and {two:?}")
                });
            }
        }
    }

    /// **edit-arrives**: whoever has been linked to the author of an edit, an owner as it knows, for so long has it, or
    /// something that was said in its knowledge.
    pub(super) fn edit_arrives(&mut self, now: u64, peers: &Peers, network: &Network, checks: &mut Checks) {
        for (place, made) in &mut self.made {
            let author = &peers[made.by];
            if made.durable.is_none() && author.disk.keeps(&rows::statement(place)) {
                made.durable = Some(now);
            }
        }
        for (a, b) in crate::plan::pairs(peers.len()) {
            match link(peers, network, a, b) {
                Some(link) if self.links.get(&(a, b)).is_some_and(|(known, _)| *known == link) => {}
                Some(link) => drop(self.links.insert((a, b), (link, now))),
                None => drop(self.links.remove(&(a, b))),
            }
        }
        for (pair, (link, since)) in &self.links {
            for (from, to) in [*pair, (pair.1, pair.0)] {
                if let Some((place, key)) = self.late(now, (link, *since), &peers[from], &peers[to]) {
                    checks.fail("edit-arrives", now, || {
                        let ms = (now - since) / MS;
                        format!(
                            "p{to} lacks what p{from} says of {key:?} at {place:?}, and was linked to it for {ms} ms"
                        )
                    });
                }
            }
        }
    }

    /// A statement of `from` that `to` should have by now.
    fn late(&self, now: u64, (link, since): (&Link, u64), from: &Sim, to: &Sim) -> Option<(Place, &Key)> {
        let (said, held) = (from.node.as_ref()?.view(), to.node.as_ref()?.view());
        if to.node.as_ref()?.tier(&from.id) != Some(Tier::Owner) || held.stopped.iter().any(|log| log.peer == from.id) {
            return None;
        }
        let within = ARRIVES_US + link.slack_us;
        let is_due = |made: &Made| made.durable.is_some_and(|at| now > at.max(since) + within);
        let late = self.made.iter().filter(|(place, made)| place.author == from.id && is_due(made));
        late.map(|(place, made)| (*place, &made.statement.said.key)).find(|(place, key)| {
            let stands = said.said.standing(key).any(|(own, _)| own == place);
            let has =
                |other: &Place| other == place || self.made.get(other).is_some_and(|made| made.knew.contains(place));
            stands && !held.said.is_void(place) && !held.said.standing(key).any(|(other, _)| has(other))
        })
    }
}

/// Both are up, members of each other's mesh, and have one link that nothing is wrong with.
fn link(peers: &Peers, network: &Network, a: usize, b: usize) -> Option<Link> {
    let (key, _) = pair_of(a, b);
    let pair = &network.pairs[&key];
    let sound = pair.alive && pair.view == [pair.conn; 2] && !pair.is_cut() && pair.conn != 0;
    let up = |peer: usize| peers[peer].is_member() && !peers[peer].forged;
    let both = peers.trusts(a, b) && peers.trusts(b, a);
    let starts = |peer: usize| peers[peer].boot + peers[peer].thaws;
    let slack_us = 6 * (pair.latency_us + network.lag_of(key));
    (sound && up(a) && up(b) && both).then(|| Link { conn: pair.conn, starts: (starts(a), starts(b)), slack_us })
}

/// How a taking is outdone at a peer, if it is.
fn outdone(view: &View, key: &Key, content: &Content) -> Option<String> {
    let rights = &view.rights;
    match (key, content) {
        (Key::Mode, Content::Value(value)) => {
            let left = **value == Value::Mode(Mode::Workspaces) && rights.mode() != Mode::Workspaces;
            left.then(|| "the mesh is open".to_owned())
        }
        _ if rights.mode() != Mode::Workspaces => None,
        (Key::Rule(at), Content::Value(value)) => {
            let Value::Rule(rule) = &**value else { return None };
            let tool = at.name.as_str().strip_prefix("on-")?;
            let owner: Principal = "person:owner".parse().ok()?;
            view.nodes.iter().find_map(|node| {
                let (verdict, by) = decide(rights, &request(owner.clone(), view.me, node.peer, tool));
                // What somebody has said yes to for ever does not ask any more.
                let settled = rule.verdict == RuleVerdict::Ask && by.starts_with("mesh/always-");
                let given = verdict == Verdict::Allow && !settled
                    || verdict == Verdict::Ask && rule.verdict == RuleVerdict::Deny;
                given.then(|| format!("{by} says {verdict:?} to `{tool}` of {}", node.node_id))
            })
        }
        (Key::Member(_, Seat::Device(device)), Content::Deleted) => {
            let of = view.nodes.iter().find(|node| node.node_id == *device && node.confirmed)?;
            view.nodes.iter().flat_map(|node| node.tools().iter().map(move |tool| (node, tool))).find_map(
                |(node, tool)| {
                    let asks = request(Principal::Device(device.clone()), of.peer, node.peer, tool.name.as_str());
                    let (verdict, by) = decide(rights, &asks);
                    (verdict != Verdict::Deny).then(|| format!("{by} says {verdict:?} to {device}"))
                },
            )
        }
        _ => None,
    }
}

fn held(view: &View) -> Held {
    let members = view.nodes.iter().map(|node| {
        let directory = node.directory.as_ref().map(|directory| Hash::of(&mesh_core::entry::encode(&**directory)));
        (node.peer, node.node_id.clone(), node.confirmed, node.tier, directory)
    });
    let out = view.copied.iter().chain(&view.forked).copied().collect();
    Held { said: standing(&view.said).map(|(_, place, _)| *place).collect(), members: members.collect(), out }
}

/// Decisions on everyone's wish for every tool of everybody.
fn verdicts(view: &View) -> Vec<(Verdict, String)> {
    let owner: Principal = "person:owner".parse().expect("a valid constant");
    let agent: Principal = "agent:owner/helper".parse().expect("a valid constant");
    let mut all = Vec::new();
    for origin in &view.nodes {
        for principal in [owner.clone(), agent.clone(), Principal::Device(origin.node_id.clone())] {
            for target in &view.nodes {
                let tools = target.tools().iter().map(|tool| tool.name.as_str());
                let asks = |tool| decide(&view.rights, &request(principal.clone(), origin.peer, target.peer, tool));
                all.extend(tools.map(asks));
            }
        }
    }
    all
}
