//! Promises about all that people say of rights: a taking stays until somebody who knew it says something else, who holds
//! the same decides the same, and an edit arrives. Knowledge is the world's own record here: what the disk and the books
//! of an author held when it spoke, whatever its statement says that it knew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_core::entry::{Place, SignedEntry};
use mesh_core::ids::{Incarnation, NodeId, PeerId, ToolName};
use mesh_core::io::{NodeView, View};
use mesh_core::policy::{
    self, Content, InForce, Key, Mode, Principal, Request, RuleVerdict, Seat, Statement, ToolState, Value, Verdict,
};
use mesh_core::record::{Directory, Tier};
use mesh_core::rows;

use super::peer::{Peers, Sim, State};
use crate::network::{Network, pair_of};
use crate::plan::{Fault, MS, Plan, SECOND};
use crate::predicates::Checks;

/// An edit is in force at whoever is linked to its author within so long of its fsync (the design's number), and of what
/// a look takes to see it.
const ARRIVES_US: u64 = 500 * MS + 250 * MS;

/// Time in which a statement is passed on by whoever holds it: also that after which a link that is dead is given up, since
/// until then whoever has it is told nothing by others.
const PASSED_ON_US: u64 = 5 * SECOND;

/// Of so many questions that a look could ask it asks one.
const ASKED_OF: usize = 4;

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
    decided: Vec<(Verdict, String)>,
}

/// Name, if it is confirmed, tier and directory of a member.
type HeldMember = (PeerId, NodeId, bool, Tier, Option<Arc<Directory>>);

/// All by which a peer decides: statements that stand, members, and what they offer.
#[derive(PartialEq, Eq)]
struct Held {
    said: Vec<Place>,
    members: Vec<HeldMember>,
    out: Vec<PeerId>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Statements {
    made: BTreeMap<Place, Made>,
    links: BTreeMap<(usize, usize), (Link, u64)>,
    /// Since when a peer has had the entry of a statement in its log.
    held: BTreeMap<(usize, Place), u64>,
    verdicts: BTreeMap<usize, Verdicts>,
    ended: Vec<Ended>,
}

/// The end of somebody's authority as an owner.
struct Ended {
    by: usize,
    of: usize,
    /// How far whoever ended it held each of its logs.
    until: BTreeMap<Incarnation, u64>,
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

/// A decision with what an hour gives left out, and which of several asks it settles, since answers are not for everyone.
fn decide(rights: &policy::View, request: &Request) -> (Verdict, String) {
    let decision = rights.decide(request);
    let asks = decision.verdict == Verdict::Ask || !decision.consents.is_empty();
    if asks { (Verdict::Ask, String::new()) } else { (decision.verdict, decision.rule.to_string()) }
}

impl Statements {
    /// A peer has made a step: what it says, and what it holds by now.
    pub(super) fn note_step(&mut self, now: u64, sim: &Sim, checks: &mut Checks) {
        let Some(node) = &sim.node else { return };
        let (before, (rights, said)) = (&sim.said_before, node.rights());
        if said.is_same(before) && sim.rights_before.as_ref().is_some_and(|had| Arc::ptr_eq(had, &rights)) {
            return;
        }
        let view = node.view();
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

    /// What counts of a key at a peer that holds this: what nobody replaced who knew it. Where it was not seen how something
    /// was said, what the peer itself makes of it.
    pub(super) fn counting<'a>(&self, said: &'a InForce, key: &Key) -> Vec<&'a Content> {
        let content = |(_, statement): (&'a Place, &'a Statement)| &statement.said.content;
        if said.standing(key).all(|(place, _)| self.made.contains_key(place)) {
            let is_head = |(place, _): &(&Place, &Statement)| self.is_replaced(said, key, place) == Some(false);
            return said.standing(key).filter(is_head).map(content).collect();
        }
        said.heads(key).into_iter().map(content).collect()
    }

    /// **newcomers-know**: whoever joins a mesh of workspaces knows from the start that it is one.
    pub(super) fn newcomers_know(&self, now: u64, owner: &Sim, newcomer: &Sim, checks: &mut Checks) {
        let at = owner.index;
        let (Some(owner), Some(node)) = (&owner.node, &newcomer.node) else { return };
        let (rights, said) = owner.rights();
        // Its welcome was made a moment ago: it need not tell what its maker has got since.
        let is_old = |place: &Place| self.held.get(&(at, *place)).is_some_and(|at| now > at + SECOND);
        let known = rights.mode() == Mode::Workspaces && said.standing(&Key::Mode).all(|(place, _)| is_old(place));
        if known && node.rights().0.mode() != Mode::Workspaces {
            let peer = newcomer.index;
            checks.fail("newcomers-know", now, || format!("p{peer} joins and holds the mesh for open"));
        }
    }

    /// **taking-stands**: of a taking that a peer holds, and that nobody who knew it has replaced, the effect is there.
    fn taking_stands(&self, now: u64, peer: usize, view: &View, checks: &mut Checks) {
        for (key, place, statement) in standing(&view.said) {
            let takes = match key {
                Key::Mode | Key::Rule(_) | Key::Member(..) | Key::Person(_) => statement.said.content.takes(),
                Key::Tools(_) => true,
                Key::Token(_) => statement.said.content == Content::Deleted,
                Key::Agent(..) | Key::Workspace(_) | Key::Binding(..) | Key::Device(_) | Key::Check(_) => false,
            };
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
            let Some(node) = sim.node.as_ref().filter(|_| sim.state == State::Running) else {
                self.verdicts.remove(&sim.index);
                continue;
            };
            let rights = node.rights().0;
            if !self.verdicts.get(&sim.index).is_some_and(|had| Arc::ptr_eq(&had.of, &rights)) {
                let view = node.view();
                let held = held(&view);
                // Some of all questions, the same at all who hold the same.
                let verdicts = verdicts(&view, held.said.len() % ASKED_OF);
                self.verdicts.insert(sim.index, Verdicts { of: rights, held, decided: verdicts });
            }
        }
        let all: Vec<(&usize, &Verdicts)> = self.verdicts.iter().collect();
        for (n, (peer, one)) in all.iter().enumerate() {
            let differs = |(_, other): &&(&usize, &Verdicts)| other.held == one.held && other.decided != one.decided;
            if let Some((other, two)) = all.iter().skip(n + 1).find(differs) {
                let at = one.decided.iter().zip(&two.decided).position(|(one, two)| one != two).unwrap_or(0);
                let (one, two) = (one.decided.get(at), two.decided.get(at));
                checks.fail("same-words-same-rights", now, || {
                    format!("p{peer} and p{other} hold the same and decide {one:?} and {two:?}")
                });
            }
        }
    }

    /// True if `by` holds `of` for an owner, whose authority it may end now.
    pub(super) fn may_end(by: usize, of: usize, peers: &Peers) -> bool {
        peers[by].node.as_ref().and_then(|node| node.tier(&peers[of].id)) == Some(Tier::Owner)
    }

    /// What `by` was told to say of `of` is said, or was refused.
    pub(super) fn note_end(&mut self, by: usize, of: usize, might: bool, peers: &Peers) {
        if !might || Self::may_end(by, of, peers) {
            return;
        }
        let mut until = BTreeMap::new();
        for (_, value) in peers[by].disk.logs_of(&peers[of].id) {
            if let Some(Place { incarnation, seq, .. }) = SignedEntry::from_stored(value).map(|entry| entry.place()) {
                let last = until.entry(incarnation).or_insert(seq);
                *last = seq.max(*last);
            }
        }
        self.ended.push(Ended { by, of, until });
    }

    /// **only-owners-say**: of what a former owner says beyond what was held by whoever lowered or removed it nothing holds at
    /// those who know that. Where its authority ended once only, by one who is an owner still.
    #[expect(clippy::wildcard_enum_match_arm, reason = "any other fault is about nobody's authority")]
    pub(super) fn only_owners_say(&self, now: u64, peers: &Peers, plan: &Plan, checks: &mut Checks) {
        for Ended { by, of, until } in &self.ended {
            let (ender, former) = (peers[*by].id, peers[*of].id);
            let about = |fault: &Fault| match fault {
                Fault::Demote { peer, .. } | Fault::Revoke { peer, .. } => *peer == *of,
                Fault::Raise { peer, .. } | Fault::Leave { peer } | Fault::Steal { peer } | Fault::Forge { peer } => {
                    [*of, *by].contains(peer)
                }
                Fault::Restore { peer, .. } | Fault::Wipe { peer, .. } => [*of, *by].contains(peer),
                _ => false,
            };
            if plan.faults.iter().filter(|(_, fault)| about(fault)).count() != 1 || !peers[*by].is_member() {
                continue;
            }
            for sim in peers.iter().filter(|sim| sim.is_member()) {
                let Some(node) = &sim.node else { continue };
                if node.tier(&former) == Some(Tier::Owner) || node.tier(&ender) != Some(Tier::Owner) {
                    continue;
                }
                let (_, said) = node.rights();
                let beyond = |(_, place, _): &(&Key, &Place, &Statement)| {
                    place.author == former && until.get(&place.incarnation).is_none_or(|last| place.seq > *last)
                };
                if let Some((key, place, _)) = standing(&said).find(beyond) {
                    let peer = sim.index;
                    checks.fail("only-owners-say", now, || {
                        format!("p{peer} holds what p{of} said of {key:?} at {place:?}, which p{by} had not heard")
                    });
                }
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
        for sim in peers.iter() {
            for place in self.made.keys() {
                if sim.is_member() && sim.disk.keeps(&rows::entry(&place.author, place.incarnation, place.seq)) {
                    self.held.entry((sim.index, *place)).or_insert(now);
                } else {
                    self.held.remove(&(sim.index, *place));
                }
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
                if let Some((place, key)) = self.held_back(now, (link, *since), &peers[from], &peers[to]) {
                    checks.fail("edit-arrives", now, || {
                        format!("p{to} lacks what is said of {key:?} at {place:?}, which p{from} could have passed on")
                    });
                }
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
        if to.node.as_ref()?.tier(&from.id) != Some(Tier::Owner) {
            return None;
        }
        let within = ARRIVES_US + link.slack_us;
        let is_due = |made: &Made| made.durable.is_some_and(|at| now > at.max(since) + within);
        self.lacking(from, to, |place, made| place.author == from.id && is_due(made))
    }

    /// A statement of somebody else that `from` holds in its log, and `to` should have of it by now.
    fn held_back(&self, now: u64, (link, since): (&Link, u64), from: &Sim, to: &Sim) -> Option<(Place, &Key)> {
        let node = to.node.as_ref()?;
        let within = PASSED_ON_US + link.slack_us;
        self.lacking(from, to, |place, _| {
            place.author != from.id
                && place.author != to.id
                && node.tier(&place.author) == Some(Tier::Owner)
                && self.held.get(&(from.index, *place)).is_some_and(|at| now > *at.max(&since) + within)
        })
    }

    /// The first of those statements that stand at `from` and `to` neither holds nor knows to be replaced.
    fn lacking(&self, from: &Sim, to: &Sim, due: impl Fn(&Place, &Made) -> bool) -> Option<(Place, &Key)> {
        let ((_, said), (_, held)) = (from.node.as_ref()?.rights(), to.node.as_ref()?.rights());
        let late = self.made.iter().filter(|(place, made)| due(place, made));
        let mut late = late.map(|(place, made)| (*place, &made.statement.said.key));
        let late = late.find(|(place, key)| {
            let stands = said.standing(key).any(|(own, _)| own == place);
            let has =
                |other: &Place| other == place || self.made.get(other).is_some_and(|made| made.knew.contains(place));
            stands && !held.is_void(place) && !held.standing(key).any(|(other, _)| has(other))
        });
        // A log that is stopped brings nothing more.
        let is_stopped = |place: &Place| {
            to.node.as_ref().is_some_and(|node| node.view().stopped.iter().any(|log| log.peer == place.author))
        };
        late.filter(|(place, _)| !is_stopped(place))
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
        (Key::Tools(of), Content::Value(value)) => {
            let Value::Tools(said) = &**value else { return None };
            let used = |(name, state): &(&ToolName, ToolState)| {
                *state == ToolState::Approved && !said.approved.contains_key(*name)
            };
            let used = rights.tools(of).find(used);
            used.map(|(tool, _)| format!("`{tool}` of {of:?} is approved"))
        }
        (Key::Token(token), Content::Deleted) => rights.token(token).map(|_| format!("token {token} counts")),
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
        (Key::Person(person), Content::Value(value)) => {
            let suspended = matches!(&**value, Value::Person(person) if person.suspended);
            let asks = |node: &NodeView| request(Principal::Person(person.clone()), view.me, node.peer, "look");
            let mut decided = view.nodes.iter().map(|node| decide(rights, &asks(node)));
            let given = decided.find(|(verdict, _)| suspended && *verdict != Verdict::Deny);
            given.map(|(verdict, by)| format!("{by} says {verdict:?} to {person}"))
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
    let members = view
        .nodes
        .iter()
        .map(|node| (node.peer, node.node_id.clone(), node.confirmed, node.tier, node.directory.clone()));
    let out = view.copied.iter().chain(&view.forked).copied().collect();
    Held { said: standing(&view.said).map(|(_, place, _)| *place).collect(), members: members.collect(), out }
}

/// Decisions on everyone's wish for every tool of everybody, one of [`ASKED_OF`] of these, from this one on.
fn verdicts(view: &View, from: usize) -> Vec<(Verdict, String)> {
    let owner: Principal = "person:owner".parse().expect("a valid constant");
    let agent: Principal = "agent:owner/helper".parse().expect("a valid constant");
    let (mut all, mut number) = (Vec::new(), from);
    for origin in &view.nodes {
        let people = view.rights.people().map(|(person, _)| Principal::Person(person.clone()));
        let device = Principal::Device(origin.node_id.clone());
        for principal in [owner.clone(), agent.clone(), device].into_iter().chain(people) {
            for target in &view.nodes {
                for tool in target.tools() {
                    number += 1;
                    if number % ASKED_OF == 0 {
                        let tool = tool.name.as_str();
                        all.push(decide(&view.rights, &request(principal.clone(), origin.peer, target.peer, tool)));
                    }
                }
            }
        }
    }
    all
}
