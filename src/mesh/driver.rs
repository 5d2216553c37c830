//! The driver: the one task that owns the core, feeds it what happens, and carries out what it says.
//!
//! Its loop awaits nothing but the next thing to happen: the network, tools, other tasks and long reads of the store
//! answer through its inbox.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::frame::Frame;
use mesh_core::ids::{Hash, PeerId};
use mesh_core::io::{Batch, CmdId, Command, Fact, Input, Output, Reply};
use mesh_core::parts;
use mesh_core::rows::InviteRow;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::mesh::adapters::Adapters;
use crate::mesh::admission::{Admission, Conversations, Destination, Effect, Step};
use crate::mesh::blob_fetch::BlobFetch;
use crate::mesh::blob_needs;
use crate::mesh::call_queries::{CallQueries, PageQuery};
use crate::mesh::cards;
use crate::mesh::clock;
use crate::mesh::error::FatalError;
use crate::mesh::events::EventKind;
use crate::mesh::fault_points::FaultPoints;
use crate::mesh::joining::InviteInfo;
use crate::mesh::log_reader;
use crate::mesh::machine::Machine;
use crate::mesh::node_sessions::NodeSessions;
use crate::mesh::publisher::Publisher;
use crate::mesh::reach::Reach;
use crate::mesh::replies::{Replies, ReplyTo};
use crate::mesh::request::Request;
use crate::mesh::snapshot::Surroundings;
use crate::mesh::store::{DurableNote, Store, StoreError};
use crate::mesh::transport::lan::LanEvent;
use crate::mesh::transport::{LinkEvent, Links, Members, ServiceId};
use crate::mesh::turns::Turns;

/// Time between two comparisons of our own directory record with what it should say.
const DIRECTORY_EVERY: Duration = Duration::from_secs(15);
/// Time between two publications of links, queue length and the like, when nothing else makes us.
const SURROUNDINGS_EVERY: Duration = Duration::from_secs(1);

/// The core and all owners beside it.
pub(super) struct Driver {
    pub(super) machine: Machine,
    pub(super) store: Arc<dyn Store>,
    pub(super) links: Links,
    pub(super) adapters: Adapters,
    pub(super) inbox: Inbox,
    pub(super) publisher: Publisher,
    pub(super) reach: Reach,
    pub(super) admission: Admission,
    pub(super) conversations: Conversations,
    pub(super) replies: Replies,
    pub(super) queries: CallQueries,
    pub(super) blobs: BlobFetch,
    pub(super) sessions: NodeSessions,
    pub(super) faults: FaultPoints,
}

/// The ways in, in the order in which the loop looks at them.
#[derive(Debug)]
pub(super) struct Inbox {
    /// Inputs that the driver has for the core itself; they come before all others.
    pub(super) own: VecDeque<Input>,
    pub(super) durable: mpsc::Receiver<DurableNote>,
    pub(super) inputs: mpsc::Receiver<Input>,
    pub(super) links: mpsc::Receiver<LinkEvent>,
    /// All that guests brought, last of all.
    pub(super) guests: Turns,
    /// Steps of our conversations by their number.
    pub(super) steps: mpsc::Receiver<(u64, Step)>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) lan: mpsc::Receiver<LanEvent>,
}

/// Facts of one step that change what is published.
#[derive(Debug, Default)]
struct News {
    view: bool,
    trust: bool,
    gateway: bool,
}

impl Driver {
    /// Does what the boot said, then runs until `stop` and hands the gateway role on.
    ///
    /// # Errors
    /// The store has failed: the process must end.
    pub(super) async fn run(mut self, out: Vec<Output>, stop: CancellationToken) -> Result<(), FatalError> {
        self.perform(out);
        self.publish_all();
        self.look_at_disk();
        let mut directory = tokio::time::interval(DIRECTORY_EVERY);
        let mut publish = tokio::time::interval(SURROUNDINGS_EVERY);
        publish.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut stopping: Option<oneshot::Receiver<Reply>> = None;
        loop {
            let deadline = self.machine.peer.poll_timeout();
            tokio::select! {
                biased;
                () = stop.cancelled(), if stopping.is_none() => {
                    let (tx, rx) = oneshot::channel();
                    self.command(Command::Stop, Some(ReplyTo::Door(tx)));
                    stopping = Some(rx);
                }
                () = async { if let Some(done) = &mut stopping { let _ = done.await; } }, if stopping.is_some() => {
                    return Ok(());
                }
                note = self.inbox.durable.recv() => match note {
                    Some(DurableNote::Durable(txn)) => self.step(Input::Durable(txn)),
                    Some(DurableNote::Failed(error)) => return Err(error.into()),
                    None => return Err(StoreError::Closed.into()),
                },
                () = clock::sleep_until(deadline) => self.step(Input::Wake),
                Some(input) = self.inbox.inputs.recv() => self.handle_input(input),
                Some(event) = self.inbox.links.recv() => {
                    match self.inbox.guests.turn_of(&event) {
                        Some(guest) => self.inbox.guests.keep(guest, event),
                        None => self.handle_link(event),
                    }
                    // However much the links bring, a door gets its turn.
                    if let Ok(request) = self.inbox.requests.try_recv() {
                        self.handle_request(request);
                    }
                }
                Some((number, step)) = self.inbox.steps.recv() => {
                    self.admission.handle_step(number, step, &self.publisher.view());
                }
                Some(request) = self.inbox.requests.recv() => self.handle_request(request),
                Some(event) = self.inbox.lan.recv() => self.handle_lan(event),
                () = self.blobs.swelled() => {
                    let mut needed = blob_needs::of_calls(self.machine.peer.open_calls());
                    needed.extend(cards::named(&self.publisher.view()));
                    self.blobs.sweep(needed);
                }
                _ = publish.tick(), if self.has_news() => {
                    self.publish_surroundings();
                    self.queries.drop_closed();
                }
                _ = directory.tick() => {
                    self.refresh_directory();
                    self.look_at_disk();
                    self.fetch_cards();
                }
                () = self.inbox.guests.wait(|| self.store.is_behind()), if !self.inbox.guests.is_empty() => {
                    self.handle_guest()?;
                    // Whoever else waits for this thread goes first.
                    tokio::task::yield_now().await;
                }
            }
            self.finish_turn()?;
            if self.inbox.guests.note_other() {
                self.handle_guest()?;
            }
        }
    }

    /// Does all that the last turn of the loop left to do at once.
    fn finish_turn(&mut self) -> Result<(), FatalError> {
        loop {
            if let Some(effect) = self.admission.poll_effect() {
                self.carry_out(effect)?;
            } else if let Some(input) = self.inbox.own.pop_front() {
                self.step(input);
            } else {
                break;
            }
        }
        if self.faults.take_end_of_cut() {
            self.refresh_members();
        }
        Ok(())
    }

    /// The next thing that a guest brought, and all that it leads to, unless the disk is behind: then the guest waits, and
    /// not whoever else writes.
    fn handle_guest(&mut self) -> Result<(), FatalError> {
        if !self.store.is_behind()
            && let Some(event) = self.inbox.guests.next()
        {
            let began = clock::stopwatch();
            self.handle_link(event);
            self.finish_turn()?;
            self.inbox.guests.note_work(began.elapsed());
        }
        Ok(())
    }

    // --- the core

    /// One step of the core, and what it says.
    fn step(&mut self, input: Input) {
        let began = clock::stopwatch();
        let (mut out, machine) = (Vec::new(), &mut self.machine);
        machine.peer.step(clock::now(), &mut machine.rng, input, &mut out);
        self.perform(out);
        self.publisher.note_step(began.elapsed());
    }

    fn command(&mut self, command: Command, reply: Option<ReplyTo>) {
        let id = self.replies.expect(reply);
        self.step(Input::Command(id, command));
    }

    /// Carries out one step's outputs in their order. Replies come last: the view is published before them.
    fn perform(&mut self, out: Vec<Output>) {
        let mut news = News::default();
        let mut replies = Vec::new();
        for output in out {
            match output {
                Output::Send(peer, frame) => self.send(peer, frame),
                Output::Commit(txn, batch) => {
                    if self.machine.note_written(&batch) {
                        self.look_at_disk();
                    }
                    self.store.commit(txn, batch);
                }
                // A read that fails is not answered: the store's writer reports the failure, and the process ends.
                Output::ReadLog { reader, ranges } => {
                    if let Ok((entries, more)) = log_reader::read(self.store.as_ref(), &ranges) {
                        self.inbox.own.push_back(Input::LogRead { reader, entries, more });
                    }
                }
                Output::ReadClosed { first, last } => {
                    if let Ok((calls, more)) = log_reader::read_closed(self.store.as_ref(), &first, &last) {
                        self.inbox.own.push_back(Input::ClosedRead { calls, more });
                    }
                }
                Output::Invoke(invocation) => {
                    if self.faults.pass_invoke() {
                        self.links.set_members(Members::new());
                    }
                    self.adapters.tools.invoke(*invocation);
                }
                Output::Kill(id, attempt) => self.adapters.tools.kill(id, attempt),
                Output::Fetch { hash, len, from } => self.fetch(hash, len, from),
                Output::Reply(id, reply) => replies.push((id, reply)),
                Output::Fact(fact) => self.note_fact(fact, &mut news),
            }
        }
        self.publish_news(&news);
        for (id, reply) in replies {
            self.deliver(id, reply);
        }
    }

    fn send(&mut self, peer: PeerId, frame: Frame) {
        if self.faults.pass_send(&frame, &self.machine.peer.public_key()) {
            self.links.set_members(Members::new());
        }
        let sent = match frame {
            Frame::Dispatch(dispatch) => self.adapters.nodes.dispatch(peer, &dispatch),
            Frame::Cancel { id } => self.adapters.nodes.cancel(peer, id),
            Frame::Answer(answer) => self.adapters.gateway.answer(peer, answer),
            frame @ (Frame::Beacon(_)
            | Frame::Query
            | Frame::Notice(_)
            | Frame::Resign { .. }
            | Frame::Handover { .. }
            | Frame::Neighbours { .. }
            | Frame::Digest { .. }
            | Frame::Entries { .. }
            | Frame::Want(_)
            | Frame::Bodies { .. }
            | Frame::Presence { .. }
            | Frame::Progress { .. }) => self.links.send(peer, &frame),
        };
        if !sent {
            tracing::trace!(peer = %peer, "a frame found no way out");
        }
    }

    fn look_at_disk(&mut self) {
        let news = self.machine.look_at_disk();
        if news.is_some() {
            self.blobs.handle_disk(self.gateway());
        }
        self.inbox.own.extend(news);
    }

    fn gateway(&self) -> Option<PeerId> {
        self.publisher.view().gateway.map(|epoch| epoch.peer)
    }

    fn fetch(&mut self, hash: Hash, len: u64, from: Vec<PeerId>) {
        let here = self.blobs.fetch(hash, len, from, &self.publisher.view());
        self.inbox.own.extend(here);
    }

    /// Gets the cards of tools that are not here yet.
    fn fetch_cards(&mut self) {
        let ends = self.blobs.fetch_cards(&self.publisher.view());
        self.inbox.own.extend(ends);
    }

    fn note_fact(&mut self, fact: Fact, news: &mut News) {
        match fact {
            Fact::Gateway(_) => news.gateway = true,
            Fact::View => news.view = true,
            Fact::Call(id, row) => self.publisher.tell(EventKind::Call(id, row)),
            Fact::CallEnded(id) => {
                self.publisher.note_change();
                self.queries.answer_ended(self.machine.peer.open_call(&id), &id);
            }
            Fact::Trust => news.trust = true,
            Fact::Revoked => {
                tracing::info!(target: "sigil::events::membership", "this device was removed from the mesh");
                news.trust = true;
            }
            Fact::Warning(what, peer) => self.publisher.warn(what, peer),
        }
    }

    fn deliver(&mut self, id: CmdId, reply: Reply) {
        match self.replies.take(id) {
            Some(ReplyTo::Door(door)) => drop(door.send(reply)),
            Some(ReplyTo::Admission(errand)) => {
                let reply = if let Reply::Refused(why) = reply { Err(why) } else { Ok(reply) };
                self.admission.handle_reply(errand, reply);
            }
            None => {}
        }
    }

    // --- what happens around it

    fn handle_input(&mut self, input: Input) {
        if let Input::NodeUp(peer, session) = input {
            self.sessions.note_up(peer, session);
        } else if let Input::NodeDown(peer, session) = input {
            self.sessions.note_down(peer, session);
        } else if let Input::ToolEnded(id, _, ended) = &input {
            let origin = self.machine.peer.open_call(id).map(|call| call.origin);
            for payload in parts::payloads(&ended.output, &ended.parts) {
                self.blobs.note_result(payload, origin);
            }
        } else {
            self.blobs.note_end(&input, self.gateway());
        }
        if self.faults.pass_input(&input) {
            self.links.set_members(Members::new());
        }
        self.step(input);
    }

    fn handle_link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up(peer, nonce, via) => {
                tracing::info!(target: "sigil::events::link", peer = %peer.short(), "link up");
                self.step(Input::Session(peer, nonce));
                self.step(Input::LinkVia(peer, via));
                self.step(Input::LinkUp(peer));
                self.publisher.note_change();
                // People see at once how it travels.
                self.publish_surroundings();
                self.adapters.gateway.retry_now();
                self.blobs.handle_link_up(peer, self.gateway());
            }
            LinkEvent::Down(peer) => {
                tracing::info!(target: "sigil::events::link", peer = %peer.short(), "link down");
                self.step(Input::LinkDown(peer));
                self.publisher.note_change();
            }
            LinkEvent::Frame(peer, frame, _turn) => self.step(Input::Recv(peer, frame)),
            LinkEvent::Network => {
                self.refresh_directory();
                self.publisher.note_change();
                self.publish_surroundings();
            }
            LinkEvent::Tailnet(netmap) => self.admission.handle_tailnet(netmap, &self.publisher.view()),
            LinkEvent::JoinAttempt(attempt) => {
                self.admission.handle_attempt(attempt, &self.publisher.view(), clock::now());
            }
            LinkEvent::Stream { service, io, .. } => {
                // The links refuse streams of services that are not offered.
                let to = match service {
                    ServiceId::NODE => &self.adapters.node_streams,
                    ServiceId::MEMORY => &self.adapters.memory_streams,
                    ServiceId(_) => return,
                };
                let _ = to.try_send(io);
            }
            LinkEvent::Bad { peer, what } => tracing::debug!(peer = %peer, what, "a peer broke the protocol"),
        }
    }

    fn handle_lan(&mut self, event: LanEvent) {
        if let LanEvent::Discovered { peer, addresses, .. } = &event {
            self.reach.note(*peer, addresses.clone());
            if self.publisher.view().by_peer(peer).is_some() {
                self.refresh_members();
                self.links.retry_now();
            }
        }
        self.admission.handle_lan(event, clock::now());
    }

    fn handle_request(&mut self, request: Request) {
        let peer = &self.machine.peer;
        match request {
            Request::Command(command, reply) => {
                if let Command::Call(_) = command
                    && let Some(news) = self.machine.look_at_disk()
                {
                    self.step(news);
                }
                self.command(command, Some(ReplyTo::Door(reply)));
            }
            Request::Call(id, reply) => self.queries.answer_call(peer.open_call(&id), id, reply),
            Request::Ended(id, reply) => self.queries.answer_when_ended(peer.open_call(&id), id, reply),
            Request::Calls(filter, after, limit, reply) => {
                self.queries.answer_page(peer.open_calls(), PageQuery { filter, after, limit }, reply);
            }
            Request::Audit(filter, after, limit, reply) => self.queries.answer_audit(filter, after, limit, reply),
            Request::Refused(row) => self.step(Input::Refused(row)),
            Request::Approvals(reply) => {
                // The door may have gone.
                let _ = reply.send(peer.approvals());
            }
            Request::Hours(reply) => drop(reply.send(peer.hours())),
            Request::Standing(header, origin, reply) => drop(reply.send(peer.standing(&header, origin))),
            Request::Want(hash, len, from) => self.fetch(hash, len, vec![from]),
            Request::Invite(terms, door) => {
                let (addresses, view) = (self.links.local_addresses(), self.publisher.view());
                self.admission.invite(terms, addresses, door, &view, clock::now());
            }
            Request::Invites(reply) => {
                let now = clock::now().wall_ms;
                let info = |(secret, row): (&Hash, &InviteRow)| InviteInfo::new(*secret, row, now);
                let _ = reply.send(peer.invites().map(info).collect());
            }
            Request::Join(target, force, door) => self.admission.join(target, force, door, &self.publisher.view()),
            Request::Leave(door) => self.admission.leave(door),
            Request::Admit(peer, grant, node_id, door) => {
                self.admission.approve(peer, grant, node_id, door, &self.publisher.view());
            }
            Request::Reject(peer, door) => self.admission.reject(peer, door, &self.publisher.view()),
            Request::Rename(name, door) => {
                self.reach.set_name(Some(name.clone()));
                self.admission.set_name(name.clone());
                self.machine.set_name(name);
                self.refresh_directory();
                // The door may have gone.
                let _ = door.send(());
            }
            Request::Offer(tools, deny, door) => {
                self.reach.set_offer(tools, deny);
                self.refresh_directory();
                // The door may have gone.
                let _ = door.send(());
            }
        }
    }

    // --- admission

    fn carry_out(&mut self, effect: Effect) -> Result<(), FatalError> {
        match effect {
            Effect::Command(command, errand) => self.command(command, Some(ReplyTo::Admission(errand))),
            Effect::Untagged(untagged) => self.step(Input::Untagged(untagged)),
            Effect::Ask(ask) => self.conversations.start(*ask),
            Effect::Farewell(number) => self.conversations.wait_for_farewell(number),
            Effect::Switch(Destination::Founded) => {
                let rows = self.machine.found();
                self.switch(rows)?;
            }
            Effect::Switch(Destination::Joined(welcome, mesh)) => match self.machine.join(&welcome, mesh) {
                Ok(joined) => {
                    if joined.left_out > 0 {
                        tracing::info!(entries = joined.left_out, "a part of the welcome is of no use here");
                    }
                    self.switch(joined.rows)?;
                }
                Err(error) => self.admission.handle_switched(Err(error)),
            },
            // The newcomer may have gone.
            Effect::AnswerNewcomer(newcomer, answer) => drop(newcomer.try_send(answer)),
            Effect::AnswerDoor(answer) => answer.send(),
            Effect::NoteAddresses(peer, addresses) => self.reach.note_first(peer, addresses),
            Effect::PublishSurroundings => {
                self.publisher.note_change();
                self.publish_surroundings();
            }
            Effect::Tell(event) => self.publisher.tell(event),
        }
        Ok(())
    }

    /// Switches to another mesh: ends what is open, replaces the store's rows, and starts anew.
    fn switch(&mut self, rows: Batch) -> Result<(), FatalError> {
        let mut batch = self.machine.depart();
        batch.writes.extend(rows.writes);
        self.links.set_members(Members::new());
        self.adapters.nodes.abdicate(None);
        self.store.wipe_and_commit(batch)?;
        // What the writer had reported is of the old mesh, whose numbers start anew with the new one.
        while let Ok(note) = self.inbox.durable.try_recv() {
            if let DurableNote::Failed(error) = note {
                return Err(error.into());
            }
        }
        self.sessions = NodeSessions::default();
        // In the new mesh it is the approval that names us.
        self.reach.set_name(None);
        self.inbox.own.clear();
        self.replies.clear();
        // Leaving has ended every call.
        self.queries.answer_all();
        let out = self.machine.reboot(self.store.image()?)?;
        self.perform(out);
        self.inbox.own.extend(self.machine.disk());
        self.publish_all();
        self.publisher.tell(EventKind::Nodes);
        self.links.retry_now();
        self.admission.handle_switched(Ok(&self.publisher.view()));
        Ok(())
    }

    // --- what others see

    /// After a start, and after a change of mesh: shows who we are and who the others are.
    fn publish_all(&mut self) {
        self.refresh_directory();
        self.publisher.publish_view(self.machine.peer.view());
        self.refresh_members();
        self.publisher.note_change();
        self.publish_surroundings();
    }

    fn publish_news(&mut self, news: &News) {
        if news.view || news.trust || news.gateway {
            self.publisher.publish_view(self.machine.peer.view());
            self.refresh_members();
            self.publisher.tell(EventKind::Nodes);
            self.admission.judge_tags(&self.publisher.view());
        }
        if news.view || news.trust {
            self.fetch_cards();
        }
        if news.trust {
            for stranger in self.sessions.take_strangers(&self.publisher.view()) {
                self.adapters.nodes.dismiss(stranger);
            }
            self.blobs.forget_strangers(&self.publisher.view());
            self.publisher.note_change();
        }
        if news.gateway {
            self.announce_gateway();
        }
    }

    fn announce_gateway(&mut self) {
        let (view, leads) = (self.publisher.view(), self.machine.peer.leads());
        let gateway = view.gateway.map(|epoch| epoch.peer);
        let epoch = view.gateway.map_or(0, |epoch| epoch.counter);
        tracing::info!(
            target: "sigil::events::gateway",
            gateway = gateway.map(|peer| peer.short()), epoch, leads, "gateway changed"
        );
        let told = view.gateway.map(|epoch| (epoch.peer, epoch.counter));
        self.publisher.tell(EventKind::Gateway(told));
        if self.sessions.note_leading(leads) {
            self.adapters.nodes.abdicate(gateway.filter(|peer| *peer != view.me));
        }
        if leads {
            self.inbox.own.extend(self.sessions.announce());
        }
    }

    /// True if the surroundings are stale, or a door may have stopped waiting. At rest neither is so, and nobody is
    /// woken.
    fn has_news(&self) -> bool {
        self.publisher.is_stale(self.machine.peer.open_count()) || self.queries.has_waiters()
    }

    fn publish_surroundings(&mut self) {
        let open_calls = self.machine.peer.open_count();
        if !self.publisher.is_stale(open_calls) {
            return;
        }
        let (view, before) = (self.publisher.view(), self.publisher.surroundings());
        self.publisher.publish_surroundings(Surroundings {
            addresses: self.links.local_addresses(),
            links: self.links.infos(),
            relayed: self.links.relayed(),
            tailnet: self.links.tailnet(),
            nearby: self.admission.strangers(&view),
            pending: self.admission.pending(&view, &before.pending, clock::now()),
            discovery: self.admission.discovery(),
            open_calls,
            longest_step: self.publisher.longest_step(),
            asking_to_join: self.admission.asking_to_join(),
            usage: self.machine.peer.usage(),
        });
    }

    /// Tells the links who belongs and where they may be.
    fn refresh_members(&self) {
        if !self.faults.are_links_cut() {
            let revoked = self.machine.peer.revoked_peers();
            let view = self.publisher.view();
            self.links.set_mesh(view.mesh);
            self.links.set_members(self.reach.members(&view, revoked));
        }
    }

    fn refresh_directory(&mut self) {
        let record = self.reach.own_record(&self.links.local_addresses());
        self.command(Command::SetDirectory(record), None);
    }
}
