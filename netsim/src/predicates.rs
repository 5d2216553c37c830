//! The promises of the protocol (`docs/protocol.md`, Invariants), each a named function. The simulator calls them as
//! things happen, so that they cost little; what they judge by is kept outside the cores: the global log of tool runs,
//! and the rows on the disks.

mod limits;
mod logs;
mod trust;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use mesh_core::entry::{Kind, Place, SignedEntry};
use mesh_core::epoch::Epoch;
use mesh_core::frame::{Answer, AnswerKind, Dispatch, Frame};
use mesh_core::ids::{Attempt, Hash, Incarnation, PeerId, ReqId};
use mesh_core::io::{Batch, CallRecord, CallState, Invocation, Space};
use mesh_core::policy::Principal;
use mesh_core::record::{CancelRequest, Ending, Header, Outcome, Payload, Tier};
use mesh_core::rows::{self, CallOutline, Row as _};
use mesh_core::test_kit::MemDisk;

use crate::node;
use crate::plan::MS;
pub(crate) use logs::Holder;

/// A promise that was broken.
#[derive(Debug, Clone)]
pub(crate) struct Violation {
    pub(crate) predicate: &'static str,
    pub(crate) at: u64,
    pub(crate) what: String,
}

/// One run of a tool, as the world outside saw it.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) peer: usize,
    pub(crate) at: u64,
    /// Ending of the tool itself, once there is one.
    pub(crate) ended: Option<Ending>,
}

/// A call as its header says, from the first disk that held it.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) origin: PeerId,
    pub(crate) header: Arc<Header>,
    /// Hash of its header's entry.
    pub(crate) entry: Hash,
    /// Of its row in logs.
    pub(crate) key: Vec<u8>,
}

/// A call that is over, by a durable row of a peer's books.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) target: PeerId,
    pub(crate) state: CallState,
    pub(crate) confirmed: bool,
    /// The incarnation of the target that it was meant for.
    pub(crate) incarnation: Option<Incarnation>,
}

impl Told {
    pub(crate) fn of(record: &CallRecord) -> Self {
        let incarnation = record.header.target_incarnation;
        Self { target: record.header.target, state: record.state, confirmed: record.confirmed, incarnation }
    }

    pub(crate) fn of_row(row: &CallOutline) -> Self {
        let incarnation = row.header.target_incarnation;
        Self { target: row.header.target, state: row.state, confirmed: row.confirmed, incarnation }
    }
}

/// Subject of a row of a log, as far as it must be noted for each peer that holds it.
#[derive(Debug, Clone, Copy)]
enum Noted {
    Call(ReqId),
    Cancel(ReqId),
    Other,
}

/// By call, attempt and gateway.
type Dispatches = BTreeMap<(ReqId, Attempt, PeerId), Taken>;

/// A dispatch as its target got it.
#[derive(Debug, Clone, Copy)]
struct Taken {
    epoch: Epoch,
    /// Highest epoch that the target had obeyed when it came: run something for, or raised its durable fence to.
    obeyed: Epoch,
    /// When its TTL expires, counted from its arrival.
    deadline: u64,
}

/// Memory of the predicates.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    pub(crate) violation: Option<Violation>,
    epochs_led: BTreeMap<Epoch, (usize, u64)>,
    /// By target: the last dispatch received from each gateway.
    dispatches: Vec<Dispatches>,
    obeyed: Vec<Epoch>,
    fences: Vec<Epoch>,
    pub(crate) runs: BTreeMap<(ReqId, Attempt), Run>,
    pub(crate) known: BTreeMap<ReqId, Known>,
    headers: Vec<BTreeSet<ReqId>>,
    /// By peer: the closed calls of its books.
    pub(crate) told: Vec<BTreeMap<ReqId, Told>>,
    confirmed: BTreeMap<(ReqId, Attempt), (Hash, Outcome)>,
    places: BTreeMap<Place, Hash>,
    /// Where the confirmed endings stand.
    spoken: BTreeMap<(ReqId, Attempt), Vec<u8>>,
    /// Peers at which a backup was played back.
    restored: BTreeSet<usize>,
    /// By peer: rows of its own log that its disk held once, and when they went.
    dropped: Vec<BTreeMap<Vec<u8>, u64>>,
    /// By peer: when its journal last forgot something.
    forgot: Vec<u64>,
    ids: Vec<PeerId>,
    /// Time that entries are kept, where that can be seen.
    keep_entries_us: Option<u64>,
    /// Rows of logs that some disk held before, and what each is about: an entry is judged once, not at each peer.
    /// And since when.
    rows: HashMap<Vec<u8>, (Bytes, SignedEntry, Noted, u64)>,
    /// The last row of the books of each call that some disk held.
    books: HashMap<Vec<u8>, (Bytes, CallOutline)>,
    /// Membership changes that some disk held, by their rows.
    changes: HashMap<Vec<u8>, Arc<trust::Held>>,
    /// By peer: calls that its log says are to be stopped.
    cancels: Vec<BTreeSet<ReqId>>,
    /// By peer: whoever its disk says was revoked at some time, or lowered from owner.
    ended: Vec<BTreeSet<PeerId>>,
    /// When somebody other than the target first wrote that a call had expired, and who.
    expired: BTreeMap<ReqId, (u64, PeerId)>,
    forgotten: Vec<BTreeMap<Vec<u8>, u64>>,
    keys: BTreeMap<(PeerId, Option<PeerId>, String), ReqId>,
    /// By call whose first attempt was journaled as started: if its target held its origin for an owner then. `None` where
    /// that changed in the very step.
    started_for_owner: BTreeMap<ReqId, Option<bool>>,
    /// By origin, if it held itself for an owner, and client key: the call that it made.
    receipts: BTreeMap<(usize, bool, String), ReqId>,
}

/// A client key with whose it is: a device that asks for itself is known by its key, not by its name.
fn key_of(principal: &Principal, key: &str) -> String {
    match principal {
        Principal::Device(_) => format!("device {key}"),
        Principal::Person(_) | Principal::Agent(..) => format!("{principal} {key}"),
    }
}

impl Checks {
    pub(crate) fn new(ids: Vec<PeerId>, keep_entries_us: Option<u64>) -> Self {
        let peers = ids.len();
        Self {
            dropped: vec![BTreeMap::new(); peers],
            forgot: vec![0; peers],
            ids,
            keep_entries_us,
            dispatches: vec![BTreeMap::new(); peers],
            obeyed: vec![Epoch::ZERO; peers],
            fences: vec![Epoch::ZERO; peers],
            headers: vec![BTreeSet::new(); peers],
            told: vec![BTreeMap::new(); peers],
            cancels: vec![BTreeSet::new(); peers],
            ended: vec![BTreeSet::new(); peers],
            forgotten: vec![BTreeMap::new(); peers],
            ..Self::default()
        }
    }

    /// Notes the first violation.
    pub(crate) fn fail(&mut self, predicate: &'static str, at: u64, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(Violation { predicate, at, what: what() });
        }
    }

    /// **one-leader-per-epoch**: no two (peer, incarnation, boot) lead with equal epoch. And no
    /// one leads with an epoch that its disk could lose.
    pub(crate) fn one_leader_per_epoch(
        &mut self,
        now: u64,
        peer: usize,
        incarnation: u64,
        epoch: Epoch,
        disk: &MemDisk,
    ) {
        let leading = *self.epochs_led.entry(epoch).or_insert((peer, incarnation));
        if leading != (peer, incarnation) {
            self.fail("one-leader-per-epoch", now, || {
                format!(
                    "p{peer} incarnation {incarnation} leads with {epoch:?}, as did p{} incarnation {}",
                    leading.0, leading.1
                )
            });
        }
        let fence = node::durable_fence(disk);
        if fence < epoch {
            self.fail("one-leader-per-epoch", now, || {
                format!("p{peer} leads with {epoch:?} while its durable fence is {fence:?}")
            });
        }
    }

    /// A target received a dispatch, at this time by its own clock.
    pub(crate) fn dispatched(&mut self, own_now: u64, target: usize, dispatch: &Dispatch, disk: &MemDisk) {
        let Some(header) = dispatch.header.header() else { return };
        let epoch = dispatch.claim.epoch;
        let obeyed = self.obeyed[target].max(node::durable_fence(disk));
        let deadline = own_now + dispatch.left_ms.min(header.ttl_ms) * MS;
        self.dispatches[target].insert((header.id, dispatch.attempt, epoch.peer), Taken { epoch, obeyed, deadline });
    }

    /// A target said "fenced", or that it had taken the call before: that dispatch is not what it obeys.
    pub(crate) fn not_obeyed(&mut self, target: usize, id: ReqId, attempt: Attempt, gateway: PeerId) {
        self.dispatches[target].remove(&(id, attempt, gateway));
    }

    /// The target's process is gone, and what it had taken with it.
    pub(crate) fn process_gone(&mut self, target: usize) {
        self.dispatches[target].clear();
    }

    /// A backup was played back at a peer, and it will notice: its new incarnation begins with what the backup holds.
    pub(crate) fn rolled_back(&mut self, peer: usize, id: PeerId, disk: &MemDisk) {
        self.restored.insert(peer);
        self.keys.retain(|(target, ..), _| *target != id);
        self.receipts.retain(|(origin, ..), _| *origin != peer);
        self.fences[peer] = node::durable_fence(disk);
        self.obeyed[peer] = Epoch::ZERO;
        self.forgotten[peer].clear();
        self.told[peer].retain(|id, _| disk.keeps(&rows::call(id)));
    }

    /// An entry that its author lost before anybody else held it.
    pub(crate) fn never_said(&mut self, key: &[u8], value: &Bytes) {
        self.rows.remove(key);
        if let Some(entry) = SignedEntry::from_stored(value) {
            self.places.remove(&entry.place());
            if let Some(outcome) = entry.record::<Outcome>().filter(|_| entry.entry.kind == Kind::OUTCOME) {
                self.confirmed.remove(&(outcome.id, outcome.attempt));
            }
        }
    }

    fn taken(&self, target: usize, id: ReqId, attempt: Attempt) -> Vec<Taken> {
        let range = (id, attempt, PeerId([0; 32]))..=(id, attempt, PeerId([255; 32]));
        self.dispatches[target].range(range).map(|(_, taken)| *taken).collect()
    }

    /// **runs-only-when-allowed**, time: a tool is invoked only with time left by the target's own reckoning, which is
    /// at most what each dispatch that it took left it. (2 ms are the grain of the cores' clocks, and as much again
    /// across a restart.)
    pub(crate) fn time_is_left(&mut self, now: u64, own_now: u64, target: usize, id: ReqId, attempt: Attempt) {
        let deadline = self.taken(target, id, attempt).into_iter().map(|taken| taken.deadline).min();
        if let Some(deadline) = deadline
            && own_now > deadline + 4 * MS
        {
            self.fail("runs-only-when-allowed", now, || {
                format!("{id} runs at p{target} {} ms after its time", (own_now - deadline) / MS)
            });
        }
    }

    /// **obeyed-epochs-rise** for each target, obeyed epochs never decrease, across crashes. To obey is to run a tool
    /// on a dispatch that was not answered "fenced"; that dispatch's epoch is at least what had been obeyed when it
    /// came, and durable now.
    pub(crate) fn obeyed_epochs_never_decrease(
        &mut self,
        now: u64,
        target: usize,
        id: ReqId,
        attempt: Attempt,
        disk: &MemDisk,
    ) {
        let fence = node::durable_fence(disk);
        for Taken { epoch, obeyed, .. } in self.taken(target, id, attempt) {
            if epoch < obeyed {
                self.fail("obeyed-epochs-rise", now, || format!("p{target} obeys {epoch:?} after {obeyed:?}"));
            }
            if fence < epoch {
                self.fail("obeyed-epochs-rise", now, || {
                    format!("p{target} obeys {epoch:?} while its durable fence is {fence:?}")
                });
            }
            self.obeyed[target] = self.obeyed[target].max(epoch);
        }
    }

    /// **obeyed-epochs-rise**, on the disk: the durable fence never decreases.
    fn fence_never_decreases(&mut self, now: u64, peer: usize, disk: &MemDisk) {
        let fence = node::durable_fence(disk);
        let before = std::mem::replace(&mut self.fences[peer], fence);
        if fence < before {
            self.fail("obeyed-epochs-rise", now, || {
                format!("p{peer}'s durable fence fell from {before:?} to {fence:?}")
            });
        }
    }

    /// **at-most-one-run** for each (request id, attempt), tool invocations ≤ 1, over all peers and all time.
    pub(crate) fn at_most_one_run(&mut self, now: u64, peer: usize, id: ReqId, attempt: Attempt) {
        if let Some(run) = self.runs.get(&(id, attempt)) {
            let (first, at) = (run.peer, run.at);
            self.fail("at-most-one-run", now, || {
                format!("{id} attempt {attempt} runs at p{peer}, and ran at p{first} at {} ms", at / MS)
            });
        }
        self.runs.insert((id, attempt), Run { peer, at: now, ended: None });
    }

    /// **runs-only-when-allowed** a tool is invoked only if `started` for that (id, attempt) is durable, time is left
    /// by the target's own reckoning, and the call was accepted by an origin that the target holds approved. (Time is
    /// judged by the caller, who knows how long frames were on their way.)
    pub(crate) fn started_is_durable_and_origin_approved(
        &mut self,
        now: u64,
        peer: usize,
        invocation: &Invocation,
        disk: &MemDisk,
        origin: Option<usize>,
        origin_approved: bool,
    ) {
        let (id, attempt) = (invocation.id, invocation.attempt);
        if origin.is_none_or(|origin| !self.headers[origin].contains(&id)) {
            self.fail("runs-only-when-allowed", now, || {
                format!("{id} runs at p{peer} before its header is on its origin's disk")
            });
        }
        if !node::started_is_durable(disk, &id, attempt) {
            self.fail("runs-only-when-allowed", now, || {
                format!("{id} attempt {attempt} runs at p{peer} before `started` is durable")
            });
        }
        if !origin_approved {
            self.fail("runs-only-when-allowed", now, || {
                format!("{id} runs at p{peer}, which does not hold its origin approved")
            });
        }
    }

    /// **endings-are-true** for what runs: nothing runs whose attempt has a confirmed ending, and no attempt after a
    /// confirmed ending that says "never run".
    pub(crate) fn nothing_runs_after_its_ending(&mut self, now: u64, peer: usize, id: ReqId, attempt: Attempt) {
        let ended = self.confirmed.range((id, 0)..=(id, Attempt::MAX)).find(|((_, of), (_, outcome))| {
            *of == attempt || matches!(outcome.ending, Ending::Expired | Ending::Denied | Ending::Done)
        });
        if let Some(((_, of), (_, outcome))) = ended {
            let what =
                format!("{id} attempt {attempt} runs at p{peer} after attempt {of} ended {}", outcome.ending.as_str());
            self.fail("endings-are-true", now, || what);
        }
    }

    /// **endings-are-true** cancelled before start ⇒ 0: nothing runs whose origin's cancel request to stop it is on the
    /// target's disk.
    pub(crate) fn nothing_cancelled_runs(&mut self, now: u64, peer: usize, id: ReqId) {
        if self.cancels[peer].contains(&id) {
            self.fail("endings-are-true", now, || {
                format!("{id} runs at p{peer}, which holds the cancel request to stop it")
            });
        }
    }

    /// **expired-never-runs** with durations right within ε no call is invoked after anyone reported it expired.
    pub(crate) fn nothing_runs_that_was_reported_expired(&mut self, now: u64, peer: usize, id: ReqId) {
        if let Some((at, by)) = self.expired.get(&id).copied() {
            self.fail("expired-never-runs", now, || {
                format!("{id} runs at p{peer} {} ms after {by} called it expired", (now - at) / MS)
            });
        }
    }

    /// **runs-only-when-allowed** a tool for owners runs only for an origin that the target holds as an owner.
    pub(crate) fn origin_of_sufficient_tier(
        &mut self,
        now: u64,
        peer: usize,
        invocation: &Invocation,
        tier: Option<Tier>,
    ) {
        if invocation.header.tool.as_str() == node::OWNERS_TOOL && tier != Some(Tier::Owner) {
            let id = invocation.id;
            self.fail("runs-only-when-allowed", now, || {
                format!("{id}, for owners only, runs at p{peer} for one of tier {tier:?}")
            });
        }
    }

    /// **told-is-durable**: whoever waits for a call receives an ending that the disk holds.
    pub(crate) fn told_ending_is_durable(&mut self, now: u64, peer: usize, id: ReqId, disk: &MemDisk) {
        if !self.told[peer].contains_key(&id) && !node::open_call_has_ended(disk, &id) {
            self.fail("told-is-durable", now, || {
                format!("p{peer} tells an ending of {id} that its disk does not hold")
            });
        }
    }

    /// **endings-are-true** receipts given ⇒ header durable at the origin. (A client key may name a call of another
    /// origin; that one's disk counts then.)
    pub(crate) fn receipt_after_durable_header(&mut self, now: u64, peer: usize, origin: Option<usize>, id: ReqId) {
        if origin.is_none_or(|origin| !self.headers[origin].contains(&id)) {
            self.fail("endings-are-true", now, || {
                format!("p{peer} gave a receipt for {id} without its header on the origin's disk")
            });
        }
    }

    /// **endings-are-true** of one attempt: expired/denied ⇒ invocations = 0; cancelled before start ⇒ 0; done ⇒ it ran
    /// once, and what it said is what is told. The same for a call as a whole is [`Self::call_not_run`].
    fn ending_matches_runs(&mut self, now: u64, outcome: &Outcome) {
        let (id, attempt) = (outcome.id, outcome.attempt);
        let run = self.runs.get(&(id, attempt));
        let told = outcome.ending.as_str();
        let wrong = match outcome.ending {
            // A tool that the runner itself refused ended as denied without running.
            Ending::Expired | Ending::Denied => run.is_some_and(|run| run.ended != Some(Ending::Denied)),
            Ending::Cancelled => run.is_some_and(|run| run.ended != Some(Ending::Cancelled)),
            Ending::Done if outcome.alias_of.is_some() => run.is_some(),
            Ending::Done => {
                run.is_none_or(|run| run.ended != Some(Ending::Done)) || !says(&outcome.output, &id, attempt)
            }
            Ending::Failed => run.is_none_or(|run| run.ended != Some(Ending::Failed)),
            Ending::Interrupted | Ending::Undeliverable => false,
        };
        if wrong {
            let ended = run.map(|run| run.ended);
            self.fail("endings-are-true", now, || {
                format!("{id} attempt {attempt} is told {told}, but its run was {ended:?}")
            });
        }
    }

    /// **endings-are-true** of a call as its books say: confirmed expired/denied ⇒ no attempt of it ever ran (after an
    /// interruption the ending reads `interrupted`).
    fn call_not_run(&mut self, now: u64, peer: usize, id: ReqId, record: &CallOutline) {
        let CallState::Ended(ending @ (Ending::Expired | Ending::Denied)) = record.state else { return };
        let ran = self.runs.range((id, 0)..=(id, Attempt::MAX)).find(|(_, run)| run.ended != Some(Ending::Denied));
        if record.confirmed
            && let Some(((_, attempt), run)) = ran
        {
            let what =
                format!("p{peer} says {id} is {}, confirmed; attempt {attempt} ran at p{}", ending.as_str(), run.peer);
            self.fail("endings-are-true", now, || what);
        }
    }

    /// **outcome-never-changes**: the outcome of an (id, attempt), once written by the target, never changes; all
    /// replicas that have one agree.
    fn outcome_never_changes(&mut self, now: u64, peer: usize, entry: &SignedEntry, outcome: Outcome) {
        let key = (outcome.id, outcome.attempt);
        let hash = Hash::of(entry.body().unwrap_or_default());
        match self.confirmed.get(&key) {
            // A device that was rolled back says the same again in its new incarnation.
            Some((known, _)) if *known == hash => {}
            Some((_, before)) => {
                let what = format!(
                    "p{peer} holds {} attempt {} as {} ({}), but it was {} ({})",
                    outcome.id,
                    outcome.attempt,
                    outcome.ending.as_str(),
                    outcome.reason,
                    before.ending.as_str(),
                    before.reason
                );
                self.fail("outcome-never-changes", now, || what);
            }
            None => {
                self.ending_matches_runs(now, &outcome);
                self.confirmed.insert(key, (hash, outcome));
            }
        }
    }

    /// **outcome-never-changes** for the books: a record that calls itself confirmed says what the target said.
    fn books_agree(&mut self, now: u64, peer: usize, id: ReqId, record: &CallOutline) {
        let CallState::Ended(ending) = record.state else { return };
        if !record.confirmed || record.alias_of.is_some() {
            return;
        }
        let said = self.confirmed.get(&(id, record.attempt)).map(|(_, outcome)| outcome.ending);
        // A later attempt that could not start leaves the interruption as the ending, and so does a peer that gave up
        // on it.
        if said != Some(ending) && !(ending == Ending::Interrupted && said.is_none_or(|said| said != Ending::Done)) {
            self.fail("outcome-never-changes", now, || {
                format!(
                    "p{peer} says {id} attempt {} is {}, confirmed; its target said {said:?}",
                    record.attempt,
                    ending.as_str()
                )
            });
        }
    }

    /// **forgotten-never-runs** a forgotten mark never decreases; no id at or below it is invoked.
    fn forgotten_marks_never_decrease(&mut self, now: u64, peer: usize, series: &[u8], mark: u64) {
        let before = self.forgotten[peer].insert(series.to_vec(), mark).unwrap_or(0);
        if mark < before {
            self.fail("forgotten-never-runs", now, || {
                format!("p{peer}'s forgotten mark of {series:?} fell from {before} to {mark}")
            });
        }
    }

    /// **forgotten-never-runs**, where tools start.
    pub(crate) fn nothing_forgotten_runs(&mut self, now: u64, peer: usize, id: ReqId) {
        let mark = self.forgotten[peer].get(id.series().0.as_slice()).copied().unwrap_or(0);
        if mark > 0 && id.counter() <= mark {
            self.fail("forgotten-never-runs", now, || {
                format!("{id} runs at p{peer} at or below the forgotten mark {mark}")
            });
        }
    }

    /// **one-run-per-client-key**: one (principal, key) runs once at one target; a second id becomes an alias. Owners
    /// share their keys, everyone else has his own: by what its target held its origin for when it journaled the start.
    pub(crate) fn one_run_per_client_key(&mut self, now: u64, peer: usize, invocation: &Invocation) {
        let Some(key) = &invocation.header.client_key else { return };
        let Some(by_owner) = self.started_for_owner.get(&invocation.id).copied().flatten() else { return };
        // A device that asks for itself shares its keys with nobody.
        let shares = by_owner && !matches!(invocation.header.principal, Principal::Device(_));
        let of = (!shares).then_some(invocation.origin);
        // The keys of one person or agent are not another's.
        let key = key_of(&invocation.header.principal, key);
        let first = *self.keys.entry((invocation.header.target, of, key)).or_insert(invocation.id);
        if first != invocation.id {
            let id = invocation.id;
            self.fail("one-run-per-client-key", now, || {
                format!("p{peer} runs {id} under a client key that {first} ran under")
            });
        }
    }

    /// **one-run-per-client-key**: whoever asks under a key gets nobody else's call: none of another person, nor one that a
    /// device of a lower tier made, or any other device where he asks at such a one. `shares`: the call is
    /// of the same device, or he asked at an owner's and its origin was one at some time.
    pub(crate) fn keys_are_ones_own(
        &mut self,
        now: u64,
        peer: usize,
        shares: bool,
        principal: Option<&str>,
        id: ReqId,
    ) {
        let other = principal.and_then(|principal| {
            let known = self.known.get(&id)?.header.principal.to_string();
            (known != principal).then_some(known)
        });
        if !shares || other.is_some() {
            self.fail("one-run-per-client-key", now, || {
                format!("p{peer} is told of {id}, by {other:?}, under a client key of {principal:?} there")
            });
        }
    }

    /// The first attempt of a call is written down as started.
    pub(crate) fn starts(&mut self, id: ReqId, for_owner: Option<bool>) {
        self.started_for_owner.insert(id, for_owner);
    }

    /// **one-run-per-client-key**, at its origin: whoever got a receipt for a call under a key gets none for
    /// another call. An origin that was lowered, or raised, begins with no keys bound.
    pub(crate) fn one_receipt_per_client_key(
        &mut self,
        now: u64,
        (peer, owner): (usize, bool),
        key: &str,
        id: ReqId,
        created: bool,
    ) {
        let asker = self.known.get(&id).map(|known| &known.header.principal);
        let of = (peer, owner, asker.map_or_else(|| key.to_owned(), |asker| key_of(asker, key)));
        let first = self.receipts.get(&of).copied();
        match first {
            None if created => drop(self.receipts.insert(of, id)),
            Some(first) if first != id => {
                self.fail("one-run-per-client-key", now, || {
                    format!("p{peer} gave a receipt for {id} under a key that names {first}")
                });
            }
            None | Some(_) => {}
        }
    }

    /// **bodies-stay-inside**: no body is sent to a peer that the sender holds to be outside of its audience.
    /// `owner`: if that peer is one, by the sender's membership; asked for few frames only.
    pub(crate) fn bodies_stay_inside(
        &mut self,
        now: u64,
        peer: usize,
        to: &PeerId,
        owner: impl Fn() -> bool,
        frame: &Frame,
    ) {
        let entries: Vec<&SignedEntry> = if let Frame::Entries { entries, .. } | Frame::Bodies { entries, .. } = frame {
            entries.iter().map(|item| &item.entry).collect()
        } else if let Frame::Dispatch(dispatch) = frame {
            vec![&dispatch.header]
        } else if let Frame::Answer(Answer { what: AnswerKind::Ended(outcome), .. }) = frame {
            vec![outcome]
        } else {
            return;
        };
        let inside =
            |entry: &SignedEntry| entry.entry.audience.names(to) || entry.author == *to || !entry.has_body() || owner();
        if let Some(shown) = entries.into_iter().find(|entry| !inside(entry)) {
            let place = shown.place();
            self.fail("bodies-stay-inside", now, || {
                format!("p{peer} sends the body of {place:?} to {to:?}, which is no owner for it")
            });
        }
    }

    /// **no-fork**: no author has two entries at one place.
    fn no_fork(&mut self, now: u64, peer: usize, entry: &SignedEntry) {
        let hash = *self.places.entry(entry.place()).or_insert(entry.hash);
        if hash != entry.hash {
            let place = entry.place();
            self.fail("no-fork", now, || format!("p{peer} holds a second entry at {place:?}"));
        }
    }

    /// Rows became durable at a peer.
    pub(crate) fn on_durable(&mut self, now: u64, peer: usize, batch: &Batch, disk: &MemDisk) {
        let mut fence = false;
        for write in &batch.writes {
            match (write.space, &write.value) {
                (Space::Log, Some(value)) => self.on_entry(now, peer, &write.key, value),
                (Space::Log, None) => self.kept_what_is_alive(now, peer, &write.key, disk),
                (Space::Meta, _) => fence |= write.key == rows::fence().key,
                (Space::Calls, Some(value)) => {
                    if let (Some(id), Some(record)) = (ReqId::from_slice(&write.key), self.book_row(&write.key, value))
                    {
                        self.told[peer].insert(id, Told::of_row(&record));
                        self.books_agree(now, peer, id, &record);
                        self.call_not_run(now, peer, id, &record);
                    }
                }
                (Space::ForgottenMarks, Some(value)) => {
                    if let Some(mark) = u64::from_bytes(value) {
                        self.forgotten_marks_never_decrease(now, peer, &write.key, mark);
                    }
                }
                (Space::Trust, Some(value)) => self.on_change(peer, &write.key, value),
                (Space::Journal, None) => self.forgot[peer] = now,
                (Space::ForgottenMarks, None) => {
                    self.fail("forgotten-never-runs", now, || format!("p{peer} deletes a forgotten mark"));
                }
                _ => {}
            }
        }
        if fence {
            self.fence_never_decreases(now, peer, disk);
        }
    }

    fn on_entry(&mut self, now: u64, peer: usize, key: &[u8], value: &Bytes) {
        if let Some((row, _, noted, _)) = self.rows.get(key)
            && row == value
        {
            let noted = *noted;
            self.note(peer, noted);
            return;
        }
        let Some(entry) = SignedEntry::from_stored(value) else {
            self.fail("log", now, || format!("p{peer} stores an entry that does not read back"));
            return;
        };
        self.no_fork(now, peer, &entry);
        let mut noted = Noted::Other;
        if entry.entry.kind == Kind::CALL {
            if let Some(header) = entry.header() {
                noted = Noted::Call(header.id);
                self.known.entry(header.id).or_insert_with(|| Known {
                    origin: entry.author,
                    header,
                    entry: entry.hash,
                    key: key.to_vec(),
                });
            }
        } else if entry.entry.kind == Kind::OUTCOME {
            if let Some(outcome) = entry.record::<Outcome>() {
                if self.known.get(&outcome.id).is_some_and(|known| known.header.target == entry.author) {
                    self.spoken.entry((outcome.id, outcome.attempt)).or_insert_with(|| key.to_vec());
                    self.outcome_never_changes(now, peer, &entry, outcome);
                } else if outcome.ending == Ending::Expired {
                    self.expired.entry(outcome.id).or_insert((now, entry.author));
                }
            }
        } else if entry.entry.kind == Kind::CANCEL
            && let Some(cancel) = entry.record::<CancelRequest>()
            && cancel.id.is_of(&entry.author)
        {
            noted = Noted::Cancel(cancel.id);
        }
        self.note(peer, noted);
        // Some store it without its body: the whole one tells more, whenever it was stored first.
        let known = self.rows.get(key);
        let (seen, whole) = known.map_or((now, false), |(_, entry, _, seen)| (*seen, entry.has_body()));
        if entry.has_body() || !whole {
            self.rows.insert(key.to_vec(), (value.clone(), entry, noted, seen));
        }
    }

    /// A row of the books, read once for all peers whose books say the same.
    fn book_row(&mut self, key: &[u8], value: &Bytes) -> Option<CallOutline> {
        if let Some((row, read)) = self.books.get(key)
            && row == value
        {
            return Some(read.clone());
        }
        let read = CallOutline::of_call(value)?;
        self.books.insert(key.to_vec(), (value.clone(), read.clone()));
        Some(read)
    }

    /// Hash of the entry of a call's header.
    pub(crate) fn header_entry(&self, id: &ReqId) -> Option<Hash> {
        self.known.get(id).map(|known| known.entry)
    }

    /// Entry in a row of a log, read once for all peers that hold it.
    pub(crate) fn entry_of(&self, key: &[u8], value: &Bytes) -> Option<SignedEntry> {
        match self.rows.get(key) {
            Some((row, entry, ..)) if row == value => Some(entry.clone()),
            Some(_) | None => SignedEntry::from_stored(value),
        }
    }

    fn note(&mut self, peer: usize, noted: Noted) {
        match noted {
            Noted::Call(id) => self.headers[peer].insert(id),
            Noted::Cancel(id) => self.cancels[peer].insert(id),
            Noted::Other => false,
        };
    }
}

/// Output of the simulated tool.
pub(crate) fn output_of(id: &ReqId, attempt: Attempt) -> Bytes {
    Bytes::from(format!("\"{id} {attempt}\""))
}

fn says(output: &Payload, id: &ReqId, attempt: Attempt) -> bool {
    output.hash() == Hash::of(&output_of(id, attempt))
}
