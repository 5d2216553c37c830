//! Which membership changes count. A change to less than owner, or a revocation, ends the authority of its subject: it voids
//! what that one says as an owner and its signer had not seen, which may be another such change; and that one may be the
//! cause why the first counts for nothing.
//!
//! The result is the grounded extension of an attack graph with support (Dung 1995, abstract argumentation): each change
//! rests on the approval that it names as its author's grant, and limits attack the changes that they void. A change
//! counts once what it rests on does and nothing that is still open can void it, and is void once something that counts
//! voids it or its ground. What is left then contradicts each other (owners who revoked each other in two halves of the
//! mesh); of those limits the one that rests on the fewest approvals counts, then the one whose author was approved
//! first. Nobody has a say in how old its own approval is.
//!
//! Who attacks whom, and what rests on what, is said by hashes alone, so neither changes while the set is judged: the
//! cost is about that of reading the set.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::KnownEpochs;
use crate::entry::SignedEntry;
use crate::ids::{Hash, Incarnation, PeerId};
use crate::limits;
use crate::protocol_rule::{ProtocolRule, ProtocolRules};
use crate::record::{ChangeKind, MembershipChange, Stay, TaggedNode, Tier};

/// One author's log, as it was numbered in one incarnation.
pub(super) type LogId = (PeerId, Incarnation);
/// A place in such a log. Of two entries that an author put into one place the one of the higher hash is the later.
pub(super) type Position = (u64, Hash);
/// Positions by log.
pub(super) type Positions = BTreeMap<LogId, Position>;

/// Raises the position of a log.
pub(super) fn raise(positions: &mut Positions, log: LogId, position: Position) {
    let known = positions.entry(log).or_insert(position);
    *known = position.max(*known);
}

/// An approval or revocation that is held.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) entry: SignedEntry,
    pub(super) subject: PeerId,
    /// Its `stands` are in order.
    pub(super) change: MembershipChange,
    /// Of a revocation: what stands of its subject's log, by incarnation.
    pub(super) cutoffs: BTreeMap<Incarnation, u64>,
}

impl Record {
    /// `None`: it is no membership change, or says more than one may.
    pub(super) fn new(entry: SignedEntry) -> Option<Self> {
        let mut change: MembershipChange = entry.record()?;
        let subject = change.subject.peer_id();
        let mut cutoffs = BTreeMap::new();
        let within = match &change.what {
            ChangeKind::Revoked { cutoffs: said, .. } => {
                for (incarnation, seq) in said {
                    // Of two for one incarnation the lower: nothing unseen may stand.
                    cutoffs
                        .entry(*incarnation)
                        .and_modify(|cutoff: &mut u64| *cutoff = (*cutoff).min(*seq))
                        .or_insert(*seq);
                }
                if subject == entry.author {
                    // One's own departure is the cut-off of that incarnation, whatever it names.
                    cutoffs.insert(entry.entry.incarnation, entry.entry.seq);
                }
                true
            }
            ChangeKind::Approved { after, stay, of, .. } => {
                after.len() <= limits::CHANGES_NAMED_MAX
                    && stay.as_ref().is_none_or(Stay::is_within_limits)
                    && of.as_ref().is_none_or(TaggedNode::is_within_limits)
            }
        };
        if !within || change.stands.len() > limits::CHANGES_NAMED_MAX || change.rights.len() > limits::INCARNATIONS_MAX
        {
            return None;
        }
        change.stands.sort_unstable();
        Some(Self { entry, subject, change, cutoffs })
    }

    /// Tier that it grants; `None`: it is a revocation.
    pub(super) const fn tier(&self) -> Option<Tier> {
        match self.change.what {
            ChangeKind::Approved { tier, .. } => Some(tier),
            ChangeKind::Revoked { .. } => None,
        }
    }

    /// Time and purpose for which it lets an ephemeral device in, if it says so.
    pub(super) const fn stay(&self) -> Option<&Stay> {
        match &self.change.what {
            ChangeKind::Approved { tier: Tier::Ephemeral, stay, .. } => stay.as_ref(),
            ChangeKind::Approved { .. } | ChangeKind::Revoked { .. } => None,
        }
    }

    /// The node of a tailnet for whose tag it lets a device in, if it does.
    pub(super) const fn of(&self) -> Option<&TaggedNode> {
        match &self.change.what {
            ChangeKind::Approved { of, .. } => of.as_ref(),
            ChangeKind::Revoked { .. } => None,
        }
    }

    /// True if it is an approval, and whoever signed it gave or saw the name in it.
    pub(super) const fn names_seen(&self) -> bool {
        matches!(self.change.what, ChangeKind::Approved { unseen: false, .. })
    }

    /// True if it ends the authority that its subject had as an owner, if it had one.
    pub(super) fn is_limit(&self) -> bool {
        self.tier() != Some(Tier::Owner)
    }

    /// Of an approval to less than owner: how far what its subject said about rights stands, by incarnation.
    pub(super) fn rights_until(&self) -> BTreeMap<Incarnation, u64> {
        let mut until = BTreeMap::new();
        for (incarnation, seq) in &self.change.rights {
            let last = until.entry(*incarnation).or_insert(*seq);
            *last = (*last).min(*seq);
        }
        until
    }

    /// True if it takes back what its subject said about rights. Whoever leaves does not: it may be no owner any more.
    pub(super) fn unsays(&self) -> bool {
        matches!(self.change.what, ChangeKind::Revoked { unsaid: true, .. }) && self.subject != self.entry.author
    }

    pub(super) fn is_leave(&self) -> bool {
        matches!(self.change.what, ChangeKind::Revoked { left: true, .. }) && self.subject == self.entry.author
    }

    /// Nobody raises himself.
    fn raises_its_author(&self) -> bool {
        self.subject == self.entry.author && !self.is_limit()
    }

    /// True if it rests on the genesis itself.
    pub(super) fn is_of_founder(&self, founder: PeerId, genesis: Hash) -> bool {
        self.change.grant == genesis && self.entry.author == founder && !self.raises_its_author()
    }

    /// True if the change that it names as its grant, which is this one, gives its author the right to say it.
    pub(super) fn may_rest_on(&self, grant: &Self) -> bool {
        grant.subject == self.entry.author
            && !self.raises_its_author()
            && grant.tier().is_some_and(|tier| tier == Tier::Owner || self.is_leave())
    }

    pub(super) fn log(&self) -> LogId {
        (self.entry.author, self.entry.entry.incarnation)
    }

    pub(super) fn position(&self) -> Position {
        (self.entry.entry.seq, self.entry.hash)
    }

    /// Hashes of changes that this one builds on: if it counts, they must be held.
    pub(super) fn named(&self) -> impl Iterator<Item = Hash> + '_ {
        let after = match &self.change.what {
            ChangeKind::Approved { after, .. } => after.as_slice(),
            ChangeKind::Revoked { .. } => &[],
        };
        after.iter().chain(&self.change.stands).chain([&self.change.grant]).copied()
    }
}

/// Ground of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ground {
    /// Of the founder: the genesis.
    Genesis,
    /// An approval of its author.
    Approval(At),
    /// None that is held, or none that gives it this right.
    Nothing,
}

/// Index of a change in its graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At(usize);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Counts,
    Void,
}

/// A change in the graph.
#[derive(Debug)]
pub(super) struct Node<'a> {
    pub(super) record: &'a Record,
    ground: Ground,
    /// Approvals between it and the genesis; `u32::MAX`: it does not rest on the genesis.
    pub(super) depth: u32,
    /// Of an approval: the last changes about its subject that its signer had seen.
    known: Positions,
    /// Changes that rest on it.
    rest: Vec<At>,
    /// Changes that wait for what becomes of this limit.
    waiting: Vec<At>,
    /// Limits on its author that are looked at already and do not void it.
    passed: usize,
    /// True of a limit that was among those that contradict each other.
    contradicts: bool,
    state: State,
}

impl Node<'_> {
    /// True if its signer had seen that change about its subject, or a later one of the same log. Everyone knows the
    /// own log.
    pub(super) fn knows(&self, log: &LogId, position: Position) -> bool {
        (self.record.log() == *log && self.record.entry.entry.seq > position.0)
            || self.known.get(log).is_some_and(|known| *known >= position)
    }

    /// As [`Self::knows`], of all of these.
    pub(super) fn knows_all(&self, positions: &Positions) -> bool {
        positions.iter().all(|(log, position)| self.knows(log, *position))
    }

    pub(super) const fn known(&self) -> &Positions {
        &self.known
    }

    pub(super) fn counts(&self) -> bool {
        self.state == State::Counts
    }

    /// True if it has a part in what is preferred to what, although it may be void then.
    pub(super) const fn contradicts(&self) -> bool {
        self.contradicts
    }

    /// True if it rests on the genesis, over however many approvals.
    pub(super) const fn is_rooted(&self) -> bool {
        self.depth != u32::MAX
    }

    /// True if it is an approval that rests on the genesis, counting or not.
    pub(super) const fn admits_somebody(&self) -> bool {
        self.is_rooted() && self.record.tier().is_some()
    }
}

/// The set as a graph, judged.
#[derive(Debug)]
pub(super) struct Graph<'a> {
    rules: ProtocolRules,
    /// By hash.
    nodes: Vec<Node<'a>>,
    said: BTreeMap<PeerId, Vec<At>>,
    limits: BTreeMap<PeerId, Vec<At>>,
    /// To be looked at.
    queue: VecDeque<At>,
    /// True if some contradicted each other, so that their order decided.
    #[cfg(test)]
    pub(super) by_order: bool,
    /// Times that a limit was compared with a change.
    #[cfg(test)]
    pub(super) compared: std::cell::Cell<u64>,
}

/// Decides which changes count.
pub(super) fn judge(
    founder: PeerId,
    genesis: Hash,
    records: &BTreeMap<Hash, Record>,
    rules: ProtocolRules,
) -> Graph<'_> {
    let mut graph = Graph {
        rules,
        nodes: Vec::with_capacity(records.len()),
        said: BTreeMap::new(),
        limits: BTreeMap::new(),
        queue: VecDeque::new(),
        #[cfg(test)]
        by_order: false,
        #[cfg(test)]
        compared: std::cell::Cell::new(0),
    };
    let index: BTreeMap<&Hash, At> = records.keys().enumerate().map(|(at, hash)| (hash, At(at))).collect();
    for (at, record) in records.values().enumerate().map(|(at, record)| (At(at), record)) {
        let ground = if record.is_of_founder(founder, genesis) {
            Ground::Genesis
        } else {
            let grant = records.get(&record.change.grant).filter(|grant| record.may_rest_on(grant));
            grant.and_then(|_| index.get(&record.change.grant)).map_or(Ground::Nothing, |at| Ground::Approval(*at))
        };
        graph.said.entry(record.entry.author).or_default().push(at);
        if record.is_limit() {
            graph.limits.entry(record.subject).or_default().push(at);
        }
        graph.nodes.push(Node {
            record,
            ground,
            depth: u32::MAX,
            known: Positions::new(),
            rest: Vec::new(),
            waiting: Vec::new(),
            passed: 0,
            contradicts: false,
            state: State::Open,
        });
    }
    graph.measure();
    for at in graph.all() {
        graph.node_mut(at).known = graph.known_to(at, &index);
    }
    graph.decide(founder);
    graph
}

impl<'a> Graph<'a> {
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node<'a>> {
        self.nodes.iter()
    }

    /// The limit that counts and voids this, the first by hash if there are several.
    pub(super) fn voided_by(&self, node: &Node<'_>) -> Option<&Node<'a>> {
        let limits = self.limits.get(&node.record.entry.author)?;
        limits.iter().map(|at| self.node(*at)).find(|limit| limit.counts() && self.voids(limit, node))
    }

    /// The epochs that an approval which is void proves, of whom it made an owner: those that were known to the limit
    /// that voids it or, if its author was no owner either, what that one's approval does; and whose limit that is.
    pub(super) fn known_epochs(&self) -> BTreeMap<Hash, KnownEpochs> {
        let mut void: Vec<&Node<'_>> =
            self.nodes.iter().filter(|node| node.admits_somebody() && !node.counts()).collect();
        void.sort_unstable_by_key(|node| node.depth);
        let mut known = BTreeMap::new();
        for node in void {
            let epochs = match self.voided_by(node) {
                Some(limit) => Some(KnownEpochs { counter: limit.record.change.fence, ended: limit.record.subject }),
                None => known.get(&node.record.change.grant).copied(),
            };
            if let Some(epochs) = epochs {
                known.insert(node.record.entry.hash, epochs);
            }
        }
        known
    }

    /// True if this limit would take the ground from under itself.
    #[cfg(test)]
    pub(super) fn digs_itself(&self, limit: &Node<'_>) -> bool {
        self.all().filter(|at| self.node(*at).record.entry.hash == limit.record.entry.hash).any(|at| self.digs(at))
    }

    #[expect(clippy::indexing_slicing, reason = "an index is made by the graph that it is used in")]
    fn node(&self, at: At) -> &Node<'a> {
        &self.nodes[at.0]
    }

    #[expect(clippy::indexing_slicing, reason = "an index is made by the graph that it is used in")]
    fn node_mut(&mut self, at: At) -> &mut Node<'a> {
        &mut self.nodes[at.0]
    }

    fn all(&self) -> impl Iterator<Item = At> + use<> {
        (0..self.nodes.len()).map(At)
    }

    /// Knowledge that the signer of an approval had about its subject: of what it names that which rests on the genesis. The
    /// rest need not be held.
    fn known_to(&self, at: At, index: &BTreeMap<&Hash, At>) -> Positions {
        let mut known = Positions::new();
        let record = self.node(at).record;
        if let ChangeKind::Approved { after, .. } = &record.change.what {
            let named = after.iter().filter_map(|hash| index.get(hash)).map(|at| self.node(*at));
            let about = named.filter(|one| one.is_rooted() && one.record.subject == record.subject);
            about.for_each(|one| raise(&mut known, one.record.log(), one.record.position()));
        }
        known
    }

    /// Links what rests on what, and measures the depths.
    fn measure(&mut self) {
        let mut next = VecDeque::new();
        for at in self.all() {
            match self.node(at).ground {
                Ground::Genesis => next.push_back((at, 0)),
                Ground::Approval(ground) => self.node_mut(ground).rest.push(at),
                Ground::Nothing => {}
            }
        }
        while let Some((at, depth)) = next.pop_front() {
            self.node_mut(at).depth = depth;
            next.extend(self.node(at).rest.iter().map(|above| (*above, depth.saturating_add(1))));
            self.queue.push_back(at);
        }
    }

    /// True if a limit voids what its subject said.
    fn voids(&self, limit: &Node<'_>, said: &Node<'_>) -> bool {
        #[cfg(test)]
        self.compared.set(self.compared.get() + 1);
        let (lowers, leaves) = (limit.record.tier().is_some(), said.record.is_leave());
        if limit.record.entry.hash == said.record.entry.hash
            || (lowers && !self.rules.enforces(ProtocolRule::DemotionEndsAuthority))
            || (!lowers && !self.rules.enforces(ProtocolRule::CutoffVoids))
            // Everyone may leave, whatever he may say besides; and who leaves as less than an owner takes nothing back of
            // what came before that.
            || (lowers && leaves && self.rests_on_less(said))
            || (limit.record.is_leave() && !leaves && self.came_before_less(said, limit))
        {
            return false;
        }
        let (log, position) = (limit.record.log(), limit.record.position());
        let was_seen = limit.record.change.stands.binary_search(&said.record.entry.hash).is_ok();
        let is_renewed = matches!(said.ground, Ground::Approval(grant) if self.node(grant).knows(&log, position));
        !was_seen && !is_renewed && !self.is_spared(limit, said)
    }

    /// True if a rule is left out by which this change would be void.
    fn is_spared(&self, limit: &Node<'_>, said: &Node<'_>) -> bool {
        let by_place = || {
            let stands = &limit.record.change.stands;
            let seen = self.nodes.iter().filter(|node| stands.binary_search(&node.record.entry.hash).is_ok());
            seen.filter(|node| node.record.log() == said.record.log())
                .any(|node| node.record.entry.entry.seq >= said.record.entry.entry.seq)
        };
        let by_any_grant = || {
            let grants = self.nodes.iter().filter(|node| node.record.subject == limit.record.subject);
            grants
                .filter(|node| !node.record.is_limit() && node.depth != u32::MAX)
                .any(|node| node.knows(&limit.record.log(), limit.record.position()))
        };
        (!self.rules.enforces(ProtocolRule::UnseenIsVoid) && by_place())
            || (!self.rules.enforces(ProtocolRule::NothingOlder) && by_any_grant())
    }

    /// True if this leave is that of less than an owner, and what was said does not rest on an approval later than the
    /// one that made it less.
    fn came_before_less(&self, said: &Node<'_>, leave: &Node<'_>) -> bool {
        let Ground::Approval(less) = leave.ground else { return false };
        let less = self.node(less).record;
        let is_later = |grant: At| self.node(grant).knows(&less.log(), less.position());
        less.is_limit() && !matches!(said.ground, Ground::Approval(grant) if is_later(grant))
    }

    fn rests_on_less(&self, node: &Node<'_>) -> bool {
        matches!(node.ground, Ground::Approval(grant) if self.node(grant).record.is_limit())
    }

    /// Clock of what a change rests on: for how long its author has had a say.
    fn since(&self, node: &Node<'_>) -> u64 {
        match node.ground {
            Ground::Approval(grant) => self.node(grant).record.entry.entry.hlc,
            Ground::Genesis | Ground::Nothing => 0,
        }
    }

    /// A change and all that it rests on, from itself down.
    fn ground_of(&self, at: At) -> Vec<At> {
        let mut ground = vec![at];
        let mut last = at;
        while let Ground::Approval(next) = self.node(last).ground {
            ground.push(next);
            last = next;
        }
        ground
    }

    /// True if a limit would take the ground from under itself: then it counts for nothing.
    fn digs(&self, at: At) -> bool {
        let limit = self.node(at);
        let subject = limit.record.subject;
        self.ground_of(at).into_iter().any(|under| {
            let under = self.node(under);
            under.record.entry.author == subject && self.voids(limit, under)
        })
    }

    fn decide(&mut self, founder: PeerId) {
        let approvals = self.nodes.iter().filter(|node| node.admits_somebody());
        let approved: BTreeSet<PeerId> = approvals.map(|node| node.record.subject).chain([founder]).collect();
        for at in self.all() {
            let node = self.node(at);
            // It ends nothing if nobody was let in; what is about anybody must not pile up.
            let about_nobody =
                !approved.contains(&node.record.subject) && self.rules.enforces(ProtocolRule::LimitsOfMembers);
            if !node.is_rooted() || about_nobody || (node.record.is_limit() && self.digs(at)) {
                self.settle(at, State::Void);
            }
        }
        let mut limits: Vec<At> = self.limits.values().flatten().copied().collect();
        limits.sort_by_cached_key(|at| {
            let node = self.node(*at);
            (node.depth, self.since(node), node.record.log(), node.record.position())
        });
        let all = limits.clone();
        let mut limits = limits.into_iter();
        let mut contradiction = false;
        loop {
            while let Some(at) = self.queue.pop_front() {
                self.look_at(at);
            }
            let Some(first) = limits.find(|at| self.node(*at).state == State::Open) else { return };
            if !std::mem::replace(&mut contradiction, true) {
                for at in &all {
                    self.node_mut(*at).contradicts = self.node(*at).state == State::Open;
                }
            }
            #[cfg(test)]
            {
                self.by_order = true;
            }
            self.prefer(first);
        }
    }

    /// Decides a change if that can be said by now.
    fn look_at(&mut self, at: At) {
        let node = self.node(at);
        if node.state != State::Open {
            return;
        }
        if let Ground::Approval(ground) = node.ground {
            match self.node(ground).state {
                State::Open => return,
                State::Void => return self.settle(at, State::Void),
                State::Counts => {}
            }
        }
        let limits = self.limits.get(&node.record.entry.author).map_or(&[][..], Vec::as_slice);
        let mut passed = node.passed;
        let mut waits_for = None;
        for limit in limits.iter().skip(passed) {
            // One that counts has voided it already.
            if self.node(*limit).state == State::Open && self.voids(self.node(*limit), self.node(at)) {
                waits_for = Some(*limit);
                break;
            }
            passed += 1;
        }
        self.node_mut(at).passed = passed;
        match waits_for {
            Some(limit) => self.node_mut(limit).waiting.push(at),
            None => self.settle(at, State::Counts),
        }
    }

    /// Decides a change, and what follows from that at once.
    fn settle(&mut self, at: At, state: State) {
        let mut settled = vec![(at, state)];
        while let Some((at, state)) = settled.pop() {
            if self.node(at).state != State::Open {
                continue;
            }
            self.node_mut(at).state = state;
            let waiting = std::mem::take(&mut self.node_mut(at).waiting);
            self.queue.extend(waiting);
            let rest = self.node(at).rest.clone();
            self.queue.extend(rest);
            let node = self.node(at);
            if state == State::Counts && node.record.is_limit() {
                let said = self.said.get(&node.record.subject).map_or(&[][..], Vec::as_slice);
                let open = said.iter().filter(|at| self.node(**at).state == State::Open);
                settled.extend(open.filter(|at| self.voids(node, self.node(**at))).map(|at| (*at, State::Void)));
            }
        }
    }

    /// Lets a limit count before all that contradicts it.
    fn prefer(&mut self, first: At) {
        let ground = self.ground_of(first);
        let against: Vec<At> = ground
            .iter()
            .flat_map(|under| {
                let under = self.node(*under);
                let limits = self.limits.get(&under.record.entry.author).into_iter().flatten();
                limits.filter(|at| self.node(**at).state == State::Open && self.voids(self.node(**at), under)).copied()
            })
            .collect();
        for at in against {
            self.settle(at, State::Void);
        }
        self.queue.extend(ground.into_iter().rev());
    }
}
