//! Questions about calls, answered from what the core holds and what the store does, without holding up the loop.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use mesh_core::frame::Phase;
use mesh_core::ids::{PeerId, ReqId, ToolName};
use mesh_core::io::{CallRecord, CallState, Space, View};
use mesh_core::names::PREFIX_MIN;
use mesh_core::policy::{Principal, TokenId, Verdict};
use mesh_core::record::{Ending, Header};
use mesh_core::rows::{self, CallOutline};
use mesh_core::rule_words::NO_CONSENT;
use tokio::sync::{Semaphore, oneshot};

use crate::mesh::audit_log::{self, AuditCursor, AuditFilter, AuditPage};
use crate::mesh::error::MeshError;
use crate::mesh::store::Store;
use crate::mesh::waiters::{CallAnswer, Waiters};
use crate::tasks::TaskGroup;

/// Selection of calls to list.
#[derive(Debug, Clone, Default)]
pub struct CallFilter {
    /// Only calls for this device.
    pub node: Option<ForNode>,
    /// Only calls in this state. [`CallStateFilter::Queued`] is everything that has not started.
    pub state: Option<CallStateFilter>,
    /// Only calls of this asker.
    pub asker: Option<Asker>,
    /// Only calls of this tool.
    pub tool: Option<ToolName>,
    /// Only calls that rights have answered so, see [`verdict_of`].
    pub verdict: Option<Verdict>,
    /// Only calls that were accepted at this wall time or later.
    pub since_ms: Option<u64>,
    /// Only calls that were accepted before this wall time.
    pub until_ms: Option<u64>,
}

/// Whose calls are meant: those of a principal, or of them those that were made with one token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    /// Who asks.
    pub principal: Principal,
    /// With this token.
    pub token: Option<TokenId>,
}

impl Asker {
    /// Returns true if the call of this header is one of these.
    #[must_use]
    pub fn made(&self, header: &Header) -> bool {
        header.principal == self.principal && (self.token.is_none() || header.token == self.token)
    }
}

/// Answer that rights gave to a call, as far as its own row tells: no if it was denied, ask while it waits for a person or
/// if nobody answered in time.
#[must_use]
pub fn verdict_of(record: &CallRecord) -> Verdict {
    match record.state {
        CallState::Ended(Ending::Denied) => Verdict::Deny,
        CallState::Open(Phase::Asking) => Verdict::Ask,
        CallState::Ended(Ending::Expired) if record.reason.starts_with(NO_CONSENT) => Verdict::Ask,
        CallState::Open(_) | CallState::Ended(_) => Verdict::Allow,
    }
}

impl CallFilter {
    /// Returns true if this call is selected.
    #[must_use]
    pub fn passes(&self, record: &CallRecord) -> bool {
        self.node.as_ref().is_none_or(|node| node.is_target_of(&record.header))
            && self.state.is_none_or(|state| state.passes(record.state))
            && self.asker.as_ref().is_none_or(|asker| asker.made(&record.header))
            && self.tool.as_ref().is_none_or(|tool| record.header.tool.folded() == tool.folded())
            && self.verdict.is_none_or(|verdict| verdict_of(record) == verdict)
            && self.since_ms.is_none_or(|since| record.listed_ms() >= since)
            && self.until_ms.is_none_or(|until| record.listed_ms() < until)
    }

    /// Returns true if only calls without an ending are selected.
    #[must_use]
    pub fn is_open_only(&self) -> bool {
        matches!(
            self.state,
            Some(CallStateFilter::Open | CallStateFilter::Queued | CallStateFilter::Is(CallState::Open(_)))
        )
    }
}

/// A device that calls are for.
#[derive(Debug, Clone)]
pub enum ForNode {
    /// This one, whatever the origins of its calls call it.
    Peer(PeerId),
    /// One that is no member (any more), and that goes by this name in the calls for it, or whose peer id begins so.
    Gone {
        /// The name, or the beginning of a peer id of at least [`PREFIX_MIN`] characters in lower case.
        text: String,
        /// All members: none of them is meant.
        members: BTreeSet<PeerId>,
    },
}

impl ForNode {
    /// One that is none of the members of this view. None of them must be called so.
    #[must_use]
    pub fn gone(text: &str, view: &View) -> Self {
        Self::Gone { text: text.to_owned(), members: view.nodes.iter().map(|node| node.peer).collect() }
    }

    /// Returns true if this device is the target of a call.
    #[must_use]
    pub fn is_target_of(&self, header: &Header) -> bool {
        match self {
            Self::Peer(peer) => header.target == *peer,
            Self::Gone { text, members } => {
                let begins = || text.len() >= PREFIX_MIN && header.target.to_string().starts_with(text);
                !members.contains(&header.target) && (header.node_id.as_str() == text || begins())
            }
        }
    }
}

/// See [`CallFilter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallStateFilter {
    /// Exactly this one.
    Is(CallState),
    /// Accepted, waiting for a person, queued or dispatched.
    Queued,
    /// Any ending.
    Ended,
    /// No ending yet.
    Open,
}

impl CallStateFilter {
    /// Returns true if a call in `state` passes.
    #[must_use]
    pub fn passes(self, state: CallState) -> bool {
        match self {
            Self::Is(wanted) => wanted == state,
            Self::Queued => {
                matches!(state, CallState::Open(Phase::Accepted | Phase::Asking | Phase::Queued | Phase::Dispatched))
            }
            Self::Ended => matches!(state, CallState::Ended(_)),
            Self::Open => matches!(state, CallState::Open(_)),
        }
    }

    /// Reads the word that people use: `queued`, `open`, `ended`, or a state's own name.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "queued" => Self::Queued,
            "open" => Self::Open,
            "ended" => Self::Ended,
            "asking" => Self::Is(CallState::Open(Phase::Asking)),
            "accepted" => Self::Is(CallState::Open(Phase::Accepted)),
            "dispatched" => Self::Is(CallState::Open(Phase::Dispatched)),
            "running" => Self::Is(CallState::Open(Phase::Running)),
            "done" => Self::Is(CallState::Ended(Ending::Done)),
            "failed" => Self::Is(CallState::Ended(Ending::Failed)),
            "interrupted" => Self::Is(CallState::Ended(Ending::Interrupted)),
            "expired" => Self::Is(CallState::Ended(Ending::Expired)),
            "cancelled" => Self::Is(CallState::Ended(Ending::Cancelled)),
            "denied" => Self::Is(CallState::Ended(Ending::Denied)),
            "undeliverable" => Self::Is(CallState::Ended(Ending::Undeliverable)),
            _ => return None,
        })
    }
}

/// Start of a page of calls: wall time of acceptance and id of the last one shown; newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallCursor {
    /// Wall time of acceptance.
    pub accepted_ms: u64,
    /// The call.
    pub id: ReqId,
}

/// A page of calls, newest first.
#[derive(Debug, Clone)]
pub struct CallPage {
    /// The calls.
    pub items: Vec<CallRecord>,
    /// Start of the next page, if there is one.
    pub next: Option<CallCursor>,
}

/// Listings that read the store at the same time; more wait for their turn.
const LISTINGS_MAX: usize = 2;
/// Rows of the index of calls that one page may look at.
const SCANNED_MAX: usize = 10_000;

/// Answers questions about calls. What the core holds is answered at once, as it was at that moment; what only the
/// store holds is read on a thread that may block.
#[derive(Debug)]
pub(super) struct CallQueries {
    store: Arc<dyn Store>,
    tasks: TaskGroup,
    turns: Arc<Semaphore>,
    waiters: Waiters,
}

impl CallQueries {
    /// Creates one for this store.
    pub(super) fn new(store: Arc<dyn Store>, tasks: TaskGroup) -> Self {
        Self { store, tasks, turns: Arc::new(Semaphore::new(LISTINGS_MAX)), waiters: Waiters::default() }
    }

    /// Answers with this call: `held` as the core holds it, else as the store does.
    pub(super) fn answer_call(&self, held: Option<&CallRecord>, id: ReqId, reply: CallAnswer) {
        if let Some(record) = held {
            drop(reply.send(Ok(Some(record.clone()))));
            return;
        }
        let store = self.store.clone();
        self.tasks.spawn(async move {
            let read = tokio::task::spawn_blocking(move || stored_call(store.as_ref(), &id)).await;
            drop(reply.send(read.unwrap_or(Err(MeshError::Stopping))));
        });
    }

    /// Answers when the call has ended: at once if it has, or if there is no such call.
    pub(super) fn answer_when_ended(&mut self, held: Option<&CallRecord>, id: ReqId, reply: CallAnswer) {
        if held.is_some_and(|record| matches!(record.state, CallState::Open(_))) {
            self.waiters.add(id, reply);
        } else {
            self.answer_call(held, id, reply);
        }
    }

    /// Answers those that waited for this call, whose ending is durable. What the store wrote this moment is still in
    /// memory, so it is read at once.
    pub(super) fn answer_ended(&mut self, held: Option<&CallRecord>, id: &ReqId) {
        for reply in self.waiters.take(id) {
            let call = held.map_or_else(|| stored_call(self.store.as_ref(), id), |record| Ok(Some(record.clone())));
            drop(reply.send(call));
        }
    }

    /// Answers all that wait: every call has ended, and the core holds none.
    pub(super) fn answer_all(&mut self) {
        for (id, reply) in self.waiters.take_all() {
            drop(reply.send(stored_call(self.store.as_ref(), &id)));
        }
    }

    /// Drops those that did not want to wait any longer.
    pub(super) fn drop_closed(&mut self) {
        self.waiters.drop_closed();
    }

    /// Returns true if somebody waits for the ending of a call.
    pub(super) fn has_waiters(&self) -> bool {
        !self.waiters.is_empty()
    }

    /// Answers with a page of the audit, newest first.
    pub(super) fn answer_audit(
        &self,
        filter: AuditFilter,
        after: Option<AuditCursor>,
        limit: usize,
        reply: oneshot::Sender<Result<AuditPage, MeshError>>,
    ) {
        let (store, turns) = (self.store.clone(), self.turns.clone());
        self.tasks.spawn(async move {
            let Ok(_turn) = turns.acquire().await else { return };
            let read = move || audit_log::read_page(store.as_ref(), &filter, after, limit);
            let read = tokio::task::spawn_blocking(read).await;
            drop(reply.send(read.unwrap_or(Err(MeshError::Stopping))));
        });
    }

    /// Answers with a page of calls, newest first. `held` are the calls that the core holds, all of them: the page
    /// shows these as they are now, and every other call as the store has it.
    pub(super) fn answer_page<'a>(
        &self,
        held: impl Iterator<Item = &'a CallRecord>,
        query: PageQuery,
        reply: oneshot::Sender<Result<CallPage, MeshError>>,
    ) {
        let held = HeldCalls::take(held, &query);
        if query.filter.is_open_only() {
            drop(reply.send(Ok(held.into_page(query.limit))));
            return;
        }
        let (store, turns) = (self.store.clone(), self.turns.clone());
        self.tasks.spawn(async move {
            let Ok(_turn) = turns.acquire().await else { return };
            let read = tokio::task::spawn_blocking(move || read_page(store.as_ref(), held, &query)).await;
            drop(reply.send(read.unwrap_or(Err(MeshError::Stopping))));
        });
    }
}

/// One page that was asked for.
#[derive(Debug)]
pub(super) struct PageQuery {
    pub(super) filter: CallFilter,
    /// The last call of the page before.
    pub(super) after: Option<CallCursor>,
    /// Calls on the page, at most.
    pub(super) limit: usize,
}

impl PageQuery {
    /// Returns true if this call may be on the page.
    fn fits(&self, record: &CallRecord) -> bool {
        self.filter.passes(record) && self.after.is_none_or(|after| cursor(record) < after)
    }
}

/// The calls that the core holds at one moment, as far as one page needs them.
#[derive(Debug)]
struct HeldCalls {
    /// All of them, sorted: the store's row of such a call is not looked at.
    ids: Vec<ReqId>,
    /// The newest ones that fit, one more than the page may have.
    fitting: BTreeMap<CallCursor, CallRecord>,
}

impl HeldCalls {
    fn take<'a>(held: impl Iterator<Item = &'a CallRecord>, query: &PageQuery) -> Self {
        let mut ids = Vec::new();
        let mut newest: BTreeMap<CallCursor, &CallRecord> = BTreeMap::new();
        for record in held {
            ids.push(record.header.id);
            if query.fits(record) {
                newest.insert(cursor(record), record);
                if newest.len() > query.limit + 1 {
                    newest.pop_first();
                }
            }
        }
        ids.sort_unstable();
        Self { ids, fitting: newest.into_iter().map(|(at, record)| (at, record.clone())).collect() }
    }

    fn has(&self, id: &ReqId) -> bool {
        self.ids.binary_search(id).is_ok()
    }

    fn into_page(self, limit: usize) -> CallPage {
        Page::new(limit).with_rest(self)
    }
}

/// A page in the making.
struct Page {
    limit: usize,
    items: Vec<CallRecord>,
    more: bool,
}

impl Page {
    fn new(limit: usize) -> Self {
        Self { limit, items: Vec::new(), more: false }
    }

    /// Adds a call, or notes that there is one more.
    fn push(&mut self, record: CallRecord) {
        if self.items.len() < self.limit {
            self.items.push(record);
        } else {
            self.more = true;
        }
    }

    /// Ends with the held calls that are left.
    fn with_rest(mut self, held: HeldCalls) -> CallPage {
        for (_, record) in held.fitting.into_iter().rev() {
            self.push(record);
        }
        self.done()
    }

    fn done(self) -> CallPage {
        let next = if self.more { self.items.last().map(cursor) } else { None };
        CallPage { items: self.items, next }
    }
}

impl CallCursor {
    fn from_key(key: &[u8]) -> Option<Self> {
        rows::by_time_of(key).map(|(accepted_ms, id)| Self { accepted_ms, id })
    }
}

fn cursor(record: &CallRecord) -> CallCursor {
    CallCursor { accepted_ms: record.listed_ms(), id: record.header.id }
}

fn stored_call(store: &dyn Store, id: &ReqId) -> Result<Option<CallRecord>, MeshError> {
    let at = rows::call(id);
    let stored = store.get(at.space, &at.key).map_err(MeshError::Store)?;
    Ok(stored.and_then(|stored| at.read(&stored)))
}

/// Reads a call if it may be on the page.
fn stored_fitting(store: &dyn Store, id: &ReqId, query: &PageQuery) -> Result<Option<CallRecord>, MeshError> {
    let at = rows::call(id);
    let Some(stored) = store.get(at.space, &at.key).map_err(MeshError::Store)? else { return Ok(None) };
    // In a narrow listing most calls fall out by their state, and reading that alone costs less than reading all.
    if let Some(wanted) = query.filter.state
        && CallOutline::of_call(&stored).is_some_and(|call| !wanted.passes(call.state))
    {
        return Ok(None);
    }
    Ok(at.read(&stored).filter(|record| query.fits(record)))
}

/// Walks the index of calls from the newest down, and puts the held calls in their places.
fn read_page(store: &dyn Store, mut held: HeldCalls, query: &PageQuery) -> Result<CallPage, MeshError> {
    let mut page = Page::new(query.limit);
    let below = |at_ms, id: &ReqId| Bound::Excluded(rows::call_by_time(at_ms, id).key);
    let mut end = match (query.after, query.filter.until_ms) {
        (Some(after), _) => below(after.accepted_ms, &after.id),
        (None, Some(until_ms)) => below(until_ms, &ReqId([0; 16])),
        (None, None) => Bound::Unbounded,
    };
    let mut scanned = 0;
    loop {
        let rows = store.range(Space::CallsByTime, Bound::Unbounded, end, true, 256).map_err(MeshError::Store)?;
        let Some((last, _)) = rows.last() else { break };
        for (key, _) in &rows {
            let Some(at) = CallCursor::from_key(key) else { continue };
            if query.filter.since_ms.is_some_and(|since| at.accepted_ms < since) {
                return Ok(page.with_rest(held));
            }
            while let Some(newer) = held.fitting.last_entry().filter(|newer| *newer.key() >= at) {
                page.push(newer.remove());
            }
            if !held.has(&at.id)
                && let Some(record) = stored_fitting(store, &at.id, query)?
            {
                page.push(record);
            }
            if page.more {
                return Ok(page.done());
            }
        }
        scanned += rows.len();
        if scanned >= SCANNED_MAX {
            // The page ends where the search did, whether it is full or not.
            return Ok(CallPage { items: page.items, next: CallCursor::from_key(last) });
        }
        end = Bound::Excluded(last.clone());
    }
    Ok(page.with_rest(held))
}

#[cfg(test)]
mod tests {
    use mesh_core::ids::{Incarnation, PeerId};
    use mesh_core::io::Batch;
    use mesh_core::record::{Effect, Header, Payload};
    use proptest::prelude::*;
    use tokio::sync::mpsc;

    use super::*;
    use crate::mesh::store::MemStore;

    const NAS: PeerId = PeerId([8; 32]);

    fn call(n: u64, accepted_ms: u64, state: CallState) -> CallRecord {
        let origin = PeerId([7; 32]);
        let header = Header {
            id: ReqId::new(&origin, Incarnation(1), n),
            target: if n.is_multiple_of(3) { NAS } else { origin },
            target_incarnation: None,
            node_id: "desk".parse().unwrap(),
            tool: "echo".parse().unwrap(),
            arguments: Payload::empty(),
            effect: Effect::Idempotent,
            ttl_ms: 1,
            accepted_ms,
            timeout_ms: 1,
            principal: "person:owner".parse().expect("a name"),
            client_key: None,
            token: None,
            workspace: None,
            rule: String::new(),
            mark: Vec::new(),
        };
        CallRecord {
            header: Arc::new(header),
            origin,
            state,
            confirmed: false,
            attempt: 1,
            output: Payload::empty(),
            parts: Vec::new(),
            partial: false,
            error: String::new(),
            reason: String::new(),
            alias_of: None,
            history: Vec::new(),
        }
    }

    /// A store with all of these in its index, and those that are not held as rows.
    fn store(calls: &[(CallRecord, bool)]) -> MemStore {
        let store = MemStore::new(mpsc::channel(8).0);
        let mut batch = Batch::default();
        for (record, held) in calls {
            let Header { id, accepted_ms, .. } = &*record.header;
            batch.writes.push(rows::call_by_time(*accepted_ms, id).put(&rows::Empty));
            if !held {
                batch.writes.push(rows::call(id).put(record));
            }
        }
        store.commit(1, batch);
        store
    }

    /// All pages of a listing, one after the other.
    fn pages(store: &dyn Store, calls: &[(CallRecord, bool)], filter: &CallFilter, limit: usize) -> Vec<CallCursor> {
        let (mut after, mut shown) = (None, Vec::new());
        loop {
            let query = PageQuery { filter: filter.clone(), after, limit };
            let held = calls.iter().filter(|(_, held)| *held).map(|(record, _)| record);
            let held = HeldCalls::take(held, &query);
            let page =
                if filter.is_open_only() { held.into_page(limit) } else { read_page(store, held, &query).unwrap() };
            assert!(page.items.len() <= limit);
            shown.extend(page.items.iter().map(cursor));
            after = page.next;
            if after.is_none() {
                return shown;
            }
        }
    }

    fn state() -> impl Strategy<Value = (CallState, bool)> {
        prop_oneof![
            Just((CallState::Open(Phase::Queued), true)),
            Just((CallState::Open(Phase::Running), true)),
            // An ending that is not confirmed is still held.
            Just((CallState::Ended(Ending::Failed), true)),
            Just((CallState::Ended(Ending::Failed), false)),
            Just((CallState::Ended(Ending::Done), false)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn a_listing_shows_each_call_once_newest_first_wherever_it_is_held(
            states in prop::collection::vec((state(), 0..6_u64), 0..40),
            limit in 1..9_usize,
            filter in prop_oneof![
                Just(None),
                Just(Some(CallStateFilter::Open)),
                Just(Some(CallStateFilter::Ended)),
                Just(Some(CallStateFilter::Is(CallState::Ended(Ending::Failed)))),
            ],
            nas_only: bool,
        ) {
            let calls: Vec<_> = (0..).zip(states)
                .map(|(n, ((state, held), accepted_ms))| (call(n, accepted_ms, state), held))
                .collect();
            let filter = CallFilter { node: nas_only.then_some(ForNode::Peer(NAS)), state: filter, ..CallFilter::default() };
            let mut expected: Vec<_> =
                calls.iter().map(|(record, _)| record).filter(|record| filter.passes(record)).map(cursor).collect();
            expected.sort_unstable_by(|a, b| b.cmp(a));
            prop_assert_eq!(pages(&store(&calls), &calls, &filter, limit), expected);
        }
    }

    #[test]
    fn a_call_that_ended_while_the_page_is_read_is_shown_once() {
        let open = call(1, 5, CallState::Open(Phase::Running));
        let query = PageQuery { filter: CallFilter::default(), after: None, limit: 10 };
        let held = HeldCalls::take([&open].into_iter(), &query);
        // Its row is there by the time the index is walked.
        let store = store(&[(call(1, 5, CallState::Ended(Ending::Done)), false)]);
        let page = read_page(&store, held, &query).unwrap();
        assert_eq!(page.items, [open]);
        assert_eq!(page.next, None);
    }

    #[test]
    fn a_search_that_finds_little_ends_and_says_where_to_go_on() {
        let many = u64::try_from(SCANNED_MAX).unwrap() + 300;
        let calls: Vec<_> = (0..many).map(|n| (call(n, n, CallState::Ended(Ending::Done)), false)).collect();
        let oldest_held = (call(many, 0, CallState::Ended(Ending::Failed)), true);
        let calls: Vec<_> = calls.into_iter().chain([oldest_held]).collect();
        let failed = CallFilter { state: CallStateFilter::parse("failed"), ..CallFilter::default() };
        let store = store(&calls);
        let query = PageQuery { filter: failed.clone(), after: None, limit: 10 };
        let held = calls.iter().filter(|(_, held)| *held).map(|(record, _)| record);
        let page = read_page(&store, HeldCalls::take(held, &query), &query).unwrap();
        assert!(page.items.is_empty() && page.next.is_some());
        assert_eq!(pages(&store, &calls, &failed, 10).len(), 1);
    }

    #[tokio::test]
    async fn a_call_is_answered_from_the_core_or_from_the_store() {
        let (held, stored) = (call(1, 5, CallState::Open(Phase::Running)), call(2, 6, CallState::Ended(Ending::Done)));
        let store: Arc<dyn Store> = Arc::new(store(&[(held.clone(), true), (stored.clone(), false)]));
        let mut queries = CallQueries::new(store, TaskGroup::default());
        for (record, known) in [(Some(&held), Some(&held)), (None, Some(&stored)), (None, None)] {
            let id = known.map_or(ReqId([9; 16]), |known| known.header.id);
            let (reply, answer) = oneshot::channel();
            queries.answer_call(record, id, reply);
            assert_eq!(answer.await.unwrap().unwrap().as_ref(), known);
        }
        let (reply, mut answer) = oneshot::channel();
        queries.answer_when_ended(Some(&held), held.header.id, reply);
        assert!(answer.try_recv().is_err() && queries.has_waiters());
        queries.answer_ended(Some(&stored), &held.header.id);
        assert_eq!(answer.try_recv().unwrap().unwrap(), Some(stored));
        assert!(!queries.has_waiters());
    }

    #[test]
    fn f21_calls_are_listed_by_their_target_whatever_their_origin_calls_it() {
        let (gone, members) = (PeerId([9; 32]), BTreeSet::from([NAS]));
        let to = |target: PeerId, name: &str| Header {
            target,
            node_id: name.parse().unwrap(),
            ..(*call(1, 1, CallState::Open(Phase::Queued)).header).clone()
        };
        assert!(ForNode::Peer(NAS).is_target_of(&to(NAS, "desk")));
        assert!(!ForNode::Peer(NAS).is_target_of(&to(gone, "nas")));
        let named = |text: &str| ForNode::Gone { text: text.to_owned(), members: members.clone() };
        assert!(named("attic").is_target_of(&to(gone, "attic")));
        assert!(!named("attic").is_target_of(&to(NAS, "attic")), "that is the nas, which is not gone");
        assert!(named(&gone.short()).is_target_of(&to(gone, "attic")));
        assert!(!named(&gone.to_string()[..PREFIX_MIN - 1]).is_target_of(&to(gone, "attic")));
    }
}
