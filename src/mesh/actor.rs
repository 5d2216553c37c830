//! The shell of one peer: the one task that owns the core, feeds it what happens and does what it says.
//!
//! It never awaits the network, a tool or another actor inside its loop: those answer through its inbox.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::config::Config;
use mesh_core::entry::{Directory, Kind, SignedEntry, ToolDecl};
use mesh_core::frame::{AnswerKind, Channel, Frame};
use mesh_core::ids::{Hash, Incarnation, NodeId, PeerId, ReqId};
use mesh_core::io::{
    Batch, CallRecord, CallState, CmdId, Command, Fact, Input, LogReader, Output, Refusal, Reply, SessionId, Space,
    View,
};
use mesh_core::limits;
use mesh_core::peer::{self, BootError, Peer};
use mesh_core::rows;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use ring::rand::SecureRandom;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::faults::{self, Action, Point};
use crate::mesh::adapters::Adapters;
use crate::mesh::admission::{Admission, Admitted};
use crate::mesh::blobs::BlobStore;
use crate::mesh::call_queries::{CallCursor, CallFilter, CallPage, CallStateFilter};
use crate::mesh::clock;
use crate::mesh::error::MeshError;
use crate::mesh::events::{EventKind, EventLog};
use crate::mesh::handle::MeshHandle;
use crate::mesh::identity::DeviceKey;
use crate::mesh::request::Request;
use crate::mesh::snapshot::Surroundings;
use crate::mesh::store::{DurableNote, Store, StoreError};
use crate::mesh::transport::lan::LanEvent;
use crate::mesh::transport::{Address, LinkEvent, Links, Member, Members, ServiceId};
use crate::tasks::TaskGroup;

/// Requests of doors that may wait for the actor; then the doors wait.
const REQUESTS: usize = 1024;
/// How often own addresses are looked at: a network that changed is noticed within this.
const ADDRESSES_EVERY: Duration = Duration::from_secs(15);
/// How often links, queue length and the like are published when nothing else makes us.
const SURROUNDINGS_EVERY: Duration = Duration::from_secs(1);
/// Rows of the index of calls that one page may look at.
const SCANNED_MAX: usize = 10_000;
/// The same warning about the same peer is told again after this.
const WARN_AGAIN_MS: u64 = 10 * 60 * 1000;
/// After a test cut the links, they come back.
const CUT_FOR: Duration = Duration::from_millis(700);

/// What a peer is made of, besides the mesh itself.
#[derive(Debug)]
pub struct Parts {
    /// The device key.
    pub key: DeviceKey,
    /// Slice of the settings for the core.
    pub config: Config,
    /// The store, open.
    pub store: Arc<dyn Store>,
    /// What its writer reports.
    pub durable: mpsc::Receiver<DurableNote>,
    /// Links, open.
    pub links: Links,
    /// What happens on them.
    pub link_events: mpsc::Receiver<LinkEvent>,
    /// Strangers on the LAN.
    pub lan_events: mpsc::Receiver<LanEvent>,
    /// Large payloads.
    pub blobs: BlobStore,
    /// Name to found a mesh with, and to ask for in another.
    pub name: NodeId,
    /// What this device offers.
    pub tools: Vec<ToolDecl>,
    /// Owner of all tasks.
    pub tasks: TaskGroup,
}

/// The reason for which the mesh did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FatalError {
    /// The store does not work. The process must end: only a new one reads what is really there.
    #[error("the local store failed")]
    Store(#[from] StoreError),
    /// What the store holds makes no peer.
    #[error("the local store does not hold a mesh that can be taken up")]
    Boot(#[from] BootError),
}

/// The owner of the core.
pub(crate) struct Actor {
    pub(super) key: DeviceKey,
    pub(super) config: Config,
    pub(super) store: Arc<dyn Store>,
    durable: mpsc::Receiver<DurableNote>,
    pub(super) links: Links,
    link_events: mpsc::Receiver<LinkEvent>,
    lan_events: mpsc::Receiver<LanEvent>,
    blobs: BlobStore,
    pub(super) name: NodeId,
    tools: Vec<ToolDecl>,
    pub(super) tasks: TaskGroup,
    adapters: Adapters,
    pub(super) peer: Peer,
    pub(super) rng: ChaCha8Rng,
    inputs: mpsc::Receiver<Input>,
    pub(super) inputs_tx: mpsc::Sender<Input>,
    requests: mpsc::Receiver<Request>,
    admitted: mpsc::Receiver<Admitted>,
    pub(super) admission: Admission,
    pub(super) replies: BTreeMap<CmdId, ReplyTo>,
    pub(super) last_command: CmdId,
    /// Who waits for the ending of a call.
    waiters: BTreeMap<ReqId, Vec<oneshot::Sender<CallAnswer>>>,
    view: watch::Sender<Arc<View>>,
    surroundings: watch::Sender<Arc<Surroundings>>,
    pub(super) events: Arc<EventLog>,
    /// Present node streams at us, told again to the core when we lead anew.
    sessions: BTreeMap<PeerId, SessionId>,
    led: bool,
    /// Results that are still where they were made.
    wanted: BTreeMap<Hash, (u64, Vec<PeerId>)>,
    fetching: BTreeSet<Hash>,
    /// Addresses seen on the LAN or in an invite, by peer.
    pub(super) seen_at: BTreeMap<PeerId, Vec<Address>>,
    pub(super) surroundings_dirty: bool,
    /// When people were last told what of whom.
    warned: BTreeMap<(&'static str, PeerId), u64>,
    cut_until: Option<tokio::time::Instant>,
    pub(super) tail: VecDeque<Input>,
}

/// What the ways into the mesh do with a reply; a refusal is the error.
pub(super) type AfterReply = Box<dyn FnOnce(&mut Actor, Result<Reply, Refusal>) + Send>;

/// Who waits for the reply to a command.
pub(super) enum ReplyTo {
    Door(oneshot::Sender<Reply>),
    Admission(AfterReply),
    Nobody,
}

type CallAnswer = Result<Option<CallRecord>, MeshError>;

fn entropy() -> ChaCha8Rng {
    let mut seed = [0; 32];
    // Without entropy nothing here is safe: TLS would not have come up either.
    ring::rand::SystemRandom::new().fill(&mut seed).expect("the operating system gives random bytes");
    ChaCha8Rng::from_seed(seed)
}

/// Takes up the mesh that the store holds, or founds one. Reads the whole store: blocks.
///
/// # Errors
/// The store does not work, or holds no mesh that can be taken up.
pub fn boot(parts: Parts) -> Result<Booted, FatalError> {
    let mut rng = entropy();
    let mut image = parts.store.image()?;
    let mut out = Vec::new();
    if !image.rows.iter().any(|(space, ..)| *space == Space::Trust) {
        let mesh_name = format!("mesh of {}", parts.name);
        parts.store.wipe_and_commit(peer::founded(&parts.key, &mesh_name, &parts.name, clock::now(), &mut rng))?;
        image = parts.store.image()?;
    }
    let signer = Box::new(parts.key.clone());
    let peer = Peer::boot(parts.config.clone(), signer, image, clock::now(), &mut rng, &mut out)?;
    let (requests_tx, requests) = mpsc::channel(REQUESTS);
    let (inputs_tx, inputs) = mpsc::channel(REQUESTS);
    let view = watch::Sender::new(Arc::new(peer.view()));
    let surroundings = watch::Sender::new(Arc::new(Surroundings::default()));
    let handle = MeshHandle {
        requests: requests_tx,
        view: view.subscribe(),
        surroundings: surroundings.subscribe(),
        events: Arc::default(),
        blobs: parts.blobs.clone(),
    };
    Ok(Booted { handle, parts, peer, rng, out, inputs_tx, inputs, requests, view, surroundings })
}

/// A mesh that is taken up and does nothing yet: what needs the name or the way in is built now, and then [`run`].
///
/// [`run`]: Self::run
#[derive(Debug)]
pub struct Booted {
    /// The face of the mesh. Its requests wait for [`run`](Self::run).
    pub handle: MeshHandle,
    parts: Parts,
    peer: Peer,
    rng: ChaCha8Rng,
    out: Vec<Output>,
    inputs_tx: mpsc::Sender<Input>,
    inputs: mpsc::Receiver<Input>,
    requests: mpsc::Receiver<Request>,
    view: watch::Sender<Arc<View>>,
    surroundings: watch::Sender<Arc<Surroundings>>,
}

impl Booted {
    /// The way into the core for nodes and tools. Holds 1024; senders wait while it is full.
    #[must_use]
    pub fn inputs(&self) -> mpsc::Sender<Input> {
        self.inputs_tx.clone()
    }

    /// Runs until `stop`, then hands the gateway role on.
    ///
    /// # Errors
    /// The store has failed: the process must end.
    pub async fn run(self, adapters: Adapters, stop: CancellationToken) -> Result<(), FatalError> {
        let Self { handle, parts, peer, rng, out, inputs_tx, inputs, requests, view, surroundings } = self;
        let (admitted_tx, admitted) = mpsc::channel(64);
        let mut actor = Actor {
            key: parts.key,
            config: parts.config,
            store: parts.store,
            durable: parts.durable,
            links: parts.links,
            link_events: parts.link_events,
            lan_events: parts.lan_events,
            blobs: parts.blobs,
            name: parts.name,
            tools: parts.tools,
            tasks: parts.tasks,
            adapters,
            peer,
            rng,
            inputs,
            inputs_tx,
            requests,
            admitted,
            admission: Admission::new(admitted_tx),
            replies: BTreeMap::new(),
            last_command: 0,
            waiters: BTreeMap::new(),
            view,
            surroundings,
            events: handle.events(),
            sessions: BTreeMap::new(),
            led: false,
            wanted: BTreeMap::new(),
            fetching: BTreeSet::new(),
            seen_at: BTreeMap::new(),
            surroundings_dirty: true,
            warned: BTreeMap::new(),
            cut_until: None,
            tail: VecDeque::new(),
        };
        // The actor must see that the last handle of the others is gone.
        drop(handle);
        actor.perform(out);
        actor.publish_all();
        actor.run(stop).await
    }
}

impl Actor {
    async fn run(mut self, stop: CancellationToken) -> Result<(), FatalError> {
        let mut addresses = tokio::time::interval(ADDRESSES_EVERY);
        let mut publish = tokio::time::interval(SURROUNDINGS_EVERY);
        publish.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut stopping: Option<oneshot::Receiver<Reply>> = None;
        loop {
            let deadline = self.peer.poll_timeout();
            tokio::select! {
                biased;
                () = stop.cancelled(), if stopping.is_none() => {
                    let (tx, rx) = oneshot::channel();
                    self.command(Command::Stop, ReplyTo::Door(tx));
                    stopping = Some(rx);
                }
                () = async { if let Some(done) = &mut stopping { let _ = done.await; } }, if stopping.is_some() => {
                    return Ok(());
                }
                note = self.durable.recv() => match note {
                    Some(DurableNote::Durable(txn)) => self.input(Input::Durable(txn)),
                    Some(DurableNote::Failed(error)) => return Err(error.into()),
                    None => return Err(StoreError::Closed.into()),
                },
                () = clock::sleep_until(deadline) => self.input(Input::Wake),
                Some(input) = self.inputs.recv() => self.note_input(input),
                Some(event) = self.link_events.recv() => self.handle_link(event),
                Some(admitted) = self.admitted.recv() => self.handle_admitted(admitted)?,
                Some(request) = self.requests.recv() => self.handle_request(request),
                Some(event) = self.lan_events.recv() => self.handle_lan(event),
                _ = publish.tick(), if self.has_news() => {
                    self.publish_surroundings();
                    self.forget_waiters();
                }
                _ = addresses.tick() => self.refresh_directory(),
            }
            while let Some(input) = self.tail.pop_front() {
                self.input(input);
            }
            if self.cut_until.is_some_and(|until| tokio::time::Instant::now() >= until) {
                self.cut_until = None;
                self.refresh_members();
            }
        }
    }

    /// One step of the core, and what it says.
    pub(super) fn input(&mut self, input: Input) {
        let mut out = Vec::new();
        self.peer.step(clock::now(), &mut self.rng, input, &mut out);
        self.perform(out);
    }

    pub(super) fn command(&mut self, command: Command, reply: ReplyTo) {
        self.last_command += 1;
        self.replies.insert(self.last_command, reply);
        self.input(Input::Command(self.last_command, command));
    }

    /// After a start, and after a change of mesh: says who we are and whom we know.
    pub(super) fn publish_all(&mut self) {
        self.refresh_directory();
        self.publish_view();
        self.refresh_members();
        self.surroundings_dirty = true;
        self.publish_surroundings();
    }

    fn note_input(&mut self, input: Input) {
        match &input {
            Input::NodeUp(peer, session) => {
                self.sessions.insert(*peer, *session);
            }
            Input::NodeDown(peer, session) if self.sessions.get(peer) == Some(session) => {
                self.sessions.remove(peer);
            }
            Input::Recv(_, Frame::Dispatch(_)) => self.pass(Point::BeforeStarted),
            Input::ToolEnded(..) => self.pass(Point::AfterRun),
            Input::Fetched(hash) => {
                self.fetching.remove(hash);
                self.wanted.remove(hash);
            }
            Input::FetchFailed(hash) => {
                self.fetching.remove(hash);
            }
            Input::NodeDown(..)
            | Input::Recv(..)
            | Input::Wake
            | Input::LinkUp(_)
            | Input::Session(..)
            | Input::LinkDown(_)
            | Input::Durable(_)
            | Input::LogRead { .. }
            | Input::ToolProgress(..)
            | Input::Command(..) => {}
        }
        self.input(input);
    }

    fn pass(&mut self, point: Point) {
        if let Some(Action::Cut) = faults::pass(point) {
            self.links.set_members(Members::new());
            self.cut_until = Some(tokio::time::Instant::now() + CUT_FOR);
        }
    }

    fn perform(&mut self, out: Vec<Output>) {
        let mut view_changed = false;
        let mut trust_changed = false;
        let mut gateway_changed = false;
        for output in out {
            match output {
                Output::Send(peer, frame) => self.send(peer, frame),
                Output::Commit(txn, batch) => self.store.commit(txn, batch),
                Output::ReadLog { reader, ranges } => self.read_log(reader, &ranges),
                Output::Invoke(invocation) => {
                    self.pass(Point::AfterStarted);
                    self.adapters.tools.invoke(*invocation);
                }
                Output::Kill(id, attempt) => self.adapters.tools.kill(id, attempt),
                Output::Fetch { hash, len, from } => self.fetch(hash, len, from),
                Output::Reply(id, reply) => match self.replies.remove(&id) {
                    Some(ReplyTo::Door(tx)) => drop(tx.send(reply)),
                    Some(ReplyTo::Admission(then)) => then(self, accepted(reply)),
                    Some(ReplyTo::Nobody) | None => {}
                },
                Output::Fact(fact) => match fact {
                    Fact::Gateway(_) => gateway_changed = true,
                    Fact::View => view_changed = true,
                    Fact::Call(id, row) => self.events.push(clock::now().wall_ms, EventKind::Call(id, row)),
                    Fact::CallEnded(id) => {
                        self.surroundings_dirty = true;
                        self.answer_waiters(&id);
                    }
                    Fact::Trust => trust_changed = true,
                    Fact::Revoked => {
                        tracing::info!(target: "sigil::events::membership", "this device was removed from the mesh");
                        trust_changed = true;
                    }
                    Fact::Warning(what, peer) => self.warn(what, peer),
                },
            }
        }
        if view_changed || trust_changed || gateway_changed {
            self.publish_view();
            self.refresh_members();
            self.events.push(clock::now().wall_ms, EventKind::Nodes);
        }
        if trust_changed {
            self.dismiss_revoked();
            self.surroundings_dirty = true;
        }
        if gateway_changed {
            self.announce_gateway();
        }
    }

    /// Tells people of a peer that needs attention; the same thing once in a while, however often it shows.
    fn warn(&mut self, what: &'static str, peer: PeerId) {
        let now = clock::now().mono_ms;
        if self.warned.get(&(what, peer)).is_some_and(|last| now < *last + WARN_AGAIN_MS) {
            return;
        }
        self.warned.insert((what, peer), now);
        if self.warned.len() > limits::PEERS_MAX {
            self.warned.pop_first();
        }
        tracing::warn!(peer = %peer, what, "a peer needs attention");
        let text = format!("peer {} {what}", peer.short());
        self.events.push(clock::now().wall_ms, EventKind::Warning(text));
    }

    /// Ends the streams of registered nodes that do not belong any more.
    fn dismiss_revoked(&mut self) {
        let view = self.view();
        let Self { sessions, adapters, .. } = self;
        sessions.retain(|peer, _| {
            let belongs = view.nodes.iter().any(|node| node.peer == *peer);
            if !belongs {
                adapters.nodes.dismiss(*peer);
            }
            belongs
        });
    }

    fn announce_gateway(&mut self) {
        let view = self.view.borrow().clone();
        let leads = self.peer.leads();
        let gateway = view.gateway.map(|epoch| epoch.peer);
        let epoch = view.gateway.map_or(0, |epoch| epoch.counter);
        tracing::info!(
            target: "sigil::events::gateway",
            gateway = gateway.map(|peer| peer.short()), epoch, leads, "gateway changed"
        );
        let told = view.gateway.map(|epoch| (epoch.peer, epoch.counter));
        self.events.push(clock::now().wall_ms, EventKind::Gateway(told));
        if self.led && !leads {
            self.adapters.nodes.abdicate(gateway.filter(|peer| *peer != view.me));
        }
        self.led = leads;
        if leads {
            let sessions: Vec<_> = self.sessions.iter().map(|(peer, session)| (*peer, *session)).collect();
            self.tail.extend(sessions.into_iter().map(|(peer, session)| Input::NodeUp(peer, session)));
        }
    }

    fn send(&mut self, peer: PeerId, frame: Frame) {
        let own_outcome = if let Frame::Entries { entries, .. } = &frame {
            let me = self.peer.public_key();
            entries.iter().any(|item| item.entry.entry.kind == Kind::OUTCOME && item.entry.entry.author == me)
        } else {
            matches!(&frame, Frame::Answer(answer) if matches!(answer.what, AnswerKind::Ended(_)))
        };
        if own_outcome {
            self.pass(Point::AfterOutcome);
        }
        let sent = match frame.channel() {
            Channel::Datagram | Channel::Stream => self.links.send(peer, &frame),
            Channel::Node => self.adapters.nodes.send(peer, frame),
        };
        if !sent {
            tracing::trace!(peer = %peer, "a frame found no way out");
        }
    }

    fn read_log(&mut self, reader: LogReader, ranges: &[(PeerId, Incarnation, u64, u64)]) {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut more = false;
        'ranges: for (author, incarnation, from, until) in ranges {
            let key = |seq| rows::entry(author, *incarnation, seq).key;
            let mut next = *from;
            while next <= *until {
                let rows =
                    self.store.range(Space::Log, Bound::Included(key(next)), Bound::Included(key(*until)), false, 256);
                let Ok(rows) = rows else { return };
                if rows.is_empty() {
                    break;
                }
                for (_, stored) in &rows {
                    let Some(entry) = SignedEntry::from_stored(stored) else { break 'ranges };
                    if bytes > 0 && bytes + entry.bytes.len() > limits::SYNC_BYTES_MAX {
                        more = true;
                        break 'ranges;
                    }
                    bytes += entry.bytes.len();
                    next = entry.entry.seq + 1;
                    entries.push(entry);
                }
            }
        }
        self.tail.push_back(Input::LogRead { reader, entries, more });
    }

    /// Gets a blob from the first of these peers that has it. Tried again when one of them is linked anew.
    pub(super) fn fetch(&mut self, hash: Hash, len: u64, from: Vec<PeerId>) {
        if self.blobs.has(hash) {
            self.tail.push_back(Input::Fetched(hash));
            return;
        }
        self.wanted.insert(hash, (len, from.clone()));
        if !self.fetching.insert(hash) {
            return;
        }
        let (links, inputs) = (self.links.clone(), self.inputs_tx.clone());
        let gateway = self.view.borrow().gateway.map(|epoch| epoch.peer);
        self.tasks.spawn(async move {
            let mut result = Input::FetchFailed(hash);
            for peer in from.into_iter().chain(gateway) {
                if links.fetch(peer, hash, len).await.is_ok() {
                    result = Input::Fetched(hash);
                    break;
                }
            }
            let _ = inputs.send(result).await;
        });
    }

    fn handle_link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up(peer, nonce) => {
                tracing::info!(target: "sigil::events::link", peer = %peer.short(), "link up");
                self.input(Input::Session(peer, nonce));
                self.input(Input::LinkUp(peer));
                self.surroundings_dirty = true;
                self.adapters.nodes.retry_now();
                let wanted: Vec<_> = self
                    .wanted
                    .iter()
                    .filter(|(_, (_, from))| from.contains(&peer))
                    .map(|(hash, (len, from))| (*hash, *len, from.clone()))
                    .collect();
                for (hash, len, from) in wanted {
                    self.fetch(hash, len, from);
                }
            }
            LinkEvent::Down(peer) => {
                tracing::info!(target: "sigil::events::link", peer = %peer.short(), "link down");
                self.input(Input::LinkDown(peer));
                self.surroundings_dirty = true;
            }
            LinkEvent::Frame(peer, frame) => self.input(Input::Recv(peer, frame)),
            LinkEvent::Network => self.refresh_directory(),
            LinkEvent::JoinAttempt(attempt) => self.handle_join_attempt(attempt),
            LinkEvent::Stream { service, io, .. } => {
                // The only service that is offered: the links refuse streams of others.
                if service == ServiceId::NODE {
                    self.adapters.nodes.accept(io);
                }
            }
            LinkEvent::Bad { peer, what } => tracing::debug!(peer = %peer, what, "a peer broke the protocol"),
        }
    }

    fn handle_lan(&mut self, event: LanEvent) {
        match event {
            LanEvent::Discovered { peer, name, addresses } => {
                let known = self.view.borrow().nodes.iter().any(|node| node.peer == peer);
                self.seen_at.insert(peer, addresses.clone());
                if self.seen_at.len() > limits::PEERS_MAX {
                    self.seen_at.pop_first();
                }
                if known {
                    self.refresh_members();
                    self.links.retry_now();
                }
                self.admission.note_nearby(peer, name, addresses);
                self.events.push(clock::now().wall_ms, EventKind::Nearby);
            }
            LanEvent::Gone(peer) => {
                self.admission.forget_nearby(&peer);
                self.events.push(clock::now().wall_ms, EventKind::Nearby);
            }
            LanEvent::Trouble(why) => self.admission.discovery_trouble = Some(why),
            LanEvent::Working => self.admission.discovery_trouble = None,
        }
        self.surroundings_dirty = true;
        self.publish_surroundings();
    }

    fn handle_request(&mut self, request: Request) {
        match request {
            Request::Command(command, reply) => self.command(command, ReplyTo::Door(reply)),
            Request::Call(id, reply) => drop(reply.send(self.call(&id))),
            Request::Ended(id, reply) => self.wait_for_end(id, reply),
            Request::Calls(filter, after, limit, reply) => drop(reply.send(self.calls(&filter, after, limit))),
            Request::Want(hash, len, from) => self.fetch(hash, len, vec![from]),
            Request::Invite(tier, ttl, reply) => self.invite(tier, ttl, reply),
            Request::Join(target, force, reply) => self.join(target, force, reply),
            Request::Leave(reply) => self.leave(reply),
            Request::Admit(peer, tier, node_id, reply) => self.admit(peer, tier, node_id, reply),
            Request::Reject(peer, reply) => self.reject(peer, reply),
        }
    }

    fn call(&self, id: &ReqId) -> Result<Option<CallRecord>, MeshError> {
        if let Some(record) = self.peer.open_call(id) {
            return Ok(Some(record.clone()));
        }
        let at = rows::call(id);
        let stored = self.store.get(at.space, &at.key).map_err(MeshError::Store)?;
        Ok(stored.and_then(|stored| at.read(&stored)))
    }

    fn wait_for_end(&mut self, id: ReqId, reply: oneshot::Sender<CallAnswer>) {
        match self.call(&id) {
            Ok(Some(call)) if matches!(call.state, CallState::Open(_)) => {
                self.waiters.entry(id).or_default().push(reply);
            }
            over => drop(reply.send(over)),
        }
    }

    /// The ending is durable.
    fn answer_waiters(&mut self, id: &ReqId) {
        for reply in self.waiters.remove(id).unwrap_or_default() {
            drop(reply.send(self.call(id)));
        }
    }

    /// Drops those who did not want to wait any longer.
    fn forget_waiters(&mut self) {
        self.waiters.retain(|_, replies| {
            replies.retain(|reply| !reply.is_closed());
            !replies.is_empty()
        });
    }

    fn calls(&self, filter: &CallFilter, after: Option<CallCursor>, limit: usize) -> Result<CallPage, MeshError> {
        let passes = |record: &CallRecord| {
            filter.node.as_ref().is_none_or(|node| record.header.node_id == *node)
                && filter.state.is_none_or(|state| state.passes(record.state))
        };
        let cursor = |record: &CallRecord| CallCursor { accepted_ms: record.header.accepted_ms, id: record.header.id };
        let open_only = matches!(
            filter.state,
            Some(CallStateFilter::Open | CallStateFilter::Queued | CallStateFilter::Is(CallState::Open(_)))
        );
        let mut items: Vec<CallRecord> = Vec::new();
        let mut next = None;
        if open_only {
            let mut open: Vec<&CallRecord> = self.peer.open_calls().filter(|record| passes(record)).collect();
            open.sort_by_key(|record| std::cmp::Reverse((record.header.accepted_ms, record.header.id)));
            let below = |record: &&&CallRecord| {
                after.is_none_or(|after| (record.header.accepted_ms, record.header.id) < (after.accepted_ms, after.id))
            };
            let mut rest = open.iter().filter(below);
            items.extend(rest.by_ref().take(limit).map(|record| (*record).clone()));
            if rest.next().is_some() {
                next = items.last().map(cursor);
            }
            return Ok(CallPage { items, next });
        }
        let mut end = after
            .map_or(Bound::Unbounded, |after| Bound::Excluded(rows::call_by_time(after.accepted_ms, &after.id).key));
        let mut scanned = 0;
        loop {
            let rows = self
                .store
                .range(Space::CallsByTime, Bound::Unbounded, end.clone(), true, 256)
                .map_err(MeshError::Store)?;
            let Some((last, _)) = rows.last() else { break };
            end = Bound::Excluded(last.clone());
            for (key, _) in &rows {
                scanned += 1;
                let Some((_, id)) = rows::by_time_of(key) else { continue };
                let Some(record) = self.call(&id)? else { continue };
                if !passes(&record) {
                    continue;
                }
                if items.len() == limit {
                    return Ok(CallPage { next: items.last().map(cursor), items });
                }
                items.push(record);
            }
            if scanned >= SCANNED_MAX {
                next = last_seen(rows.last().map(|(key, _)| key.as_slice()));
                break;
            }
        }
        Ok(CallPage { items, next })
    }

    pub(super) fn publish_view(&mut self) {
        let view = Arc::new(self.peer.view());
        self.view.send_replace(view);
    }

    pub(super) fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// Whether [`Self::publish_surroundings`] or [`Self::forget_waiters`] may have something to do. At rest neither has,
    /// and nobody is woken for them.
    fn has_news(&self) -> bool {
        let shown = self.surroundings.borrow();
        self.surroundings_dirty || shown.open_calls != self.peer.open_count() || !self.waiters.is_empty()
    }

    pub(super) fn publish_surroundings(&mut self) {
        let links = self.links.infos();
        let open_calls = self.peer.open_count();
        let known = self.surroundings.borrow().clone();
        if !self.surroundings_dirty && known.open_calls == open_calls {
            return;
        }
        self.surroundings_dirty = false;
        let view = self.view();
        let nearby = self.admission.nearby(|peer| view.nodes.iter().any(|node| node.peer == *peer));
        self.surroundings.send_replace(Arc::new(Surroundings {
            links,
            nearby,
            pending: self.admission.pending(&view, &known.pending),
            discovery_trouble: self.admission.discovery_trouble.clone(),
            open_calls,
            asking_to_join: self.admission.asking_to_join(),
        }));
    }

    /// Tells the links who belongs and where they may be.
    pub(super) fn refresh_members(&mut self) {
        if self.cut_until.is_some() {
            return;
        }
        let view = self.view();
        let mut members = Members::new();
        for node in view.nodes.iter().filter(|node| node.peer != view.me) {
            // Revoked ourselves, we dial nobody; but who comes may hear why, and tell us that we are welcome again.
            if view.revoked {
                members.insert(node.peer, Member::leaving(node.key));
                continue;
            }
            let mut addresses = self.seen_at.get(&node.peer).cloned().unwrap_or_default();
            let told = node.directory.iter().flat_map(|directory| &directory.addresses);
            addresses.extend(told.map(|text| Address::from(text.as_str())));
            let mut seen = BTreeSet::new();
            addresses.retain(|address| seen.insert(address.clone()));
            let services =
                node.directory.as_ref().map(|record| record.services.iter().copied().map(ServiceId).collect());
            members.insert(node.peer, Member { key: node.key, addresses, services, leaving: false });
        }
        // Whoever was revoked may come once more, to learn it.
        for (peer, key) in self.peer.revoked_peers() {
            if peer != view.me {
                members.entry(peer).or_insert(Member::leaving(key));
            }
        }
        self.links.set_members(members);
    }

    pub(super) fn refresh_directory(&mut self) {
        let mut addresses: Vec<String> = self.links.local_addresses().iter().map(ToString::to_string).collect();
        addresses.truncate(limits::ADDRESSES_MAX);
        let directory = Directory {
            addresses,
            platform: crate::platform::name().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            class: self.config.class.0,
            eligible: self.config.eligible,
            tools: self.tools.clone(),
            services: self.links.services().iter().map(|service| service.0).collect(),
        };
        self.command(Command::SetDirectory(directory), ReplyTo::Nobody);
    }

    /// Switches to another mesh: ends what is open, replaces the store's rows, and starts anew.
    pub(super) fn switch(&mut self, rows: Batch) -> Result<(), FatalError> {
        let mut batch = self.peer.depart(clock::now(), &mut self.rng);
        batch.writes.extend(rows.writes);
        self.links.set_members(Members::new());
        self.adapters.nodes.abdicate(None);
        self.store.wipe_and_commit(batch)?;
        // What the writer had reported is of the old mesh, whose numbers start anew with the new one.
        while let Ok(note) = self.durable.try_recv() {
            if let DurableNote::Failed(error) = note {
                return Err(error.into());
            }
        }
        self.sessions.clear();
        self.led = false;
        self.tail.clear();
        self.replies.clear();
        // Leaving has ended every call.
        for id in self.waiters.keys().copied().collect::<Vec<_>>() {
            self.answer_waiters(&id);
        }
        self.seen_at.retain(|_, addresses| !addresses.is_empty());
        let mut out = Vec::new();
        let image = self.store.image()?;
        let signer = Box::new(self.key.clone());
        self.peer = Peer::boot(self.config.clone(), signer, image, clock::now(), &mut self.rng, &mut out)?;
        self.perform(out);
        self.publish_all();
        self.events.push(clock::now().wall_ms, EventKind::Nodes);
        self.links.retry_now();
        Ok(())
    }
}

/// A reply, or the refusal that it is.
fn accepted(reply: Reply) -> Result<Reply, Refusal> {
    if let Reply::Refused(why) = reply { Err(why) } else { Ok(reply) }
}

fn last_seen(key: Option<&[u8]>) -> Option<CallCursor> {
    let (accepted_ms, id) = rows::by_time_of(key?)?;
    Some(CallCursor { accepted_ms, id })
}
