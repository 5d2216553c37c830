//! The task of discovery: asks the network, answers it, and asks those that it hears of who they are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use mesh_core::ids::{MeshId, NodeId};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::near::{Near, Said};
use super::record::{self, Heard, Instance, PACKET_BYTES_MAX, Record};
use super::sockets::Sockets;
use super::{Discovery, LanEvent};
use crate::mesh::transport::address::canonical;
use crate::mesh::transport::dial;
use crate::mesh::transport::interfaces::Interfaces;
use crate::mesh::transport::quic::Code;
use crate::mesh::transport::shared::{LinksState, random};
use crate::mesh::transport::shares::{Rate, Share};
use crate::mesh::transport::stream::{self, Tag};

/// Questions to the network after a start or a change of it; each shows us as well.
const FIRST: [Duration; 3] = [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(3)];
/// Between questions later on.
const QUERY: Duration = Duration::from_mins(1);
/// Between our answers (RFC 6762 §6).
const ANSWER: Duration = Duration::from_secs(1);
/// Packets per second, and in a burst, that are looked at; a network with more is under attack.
const READ: Share = Share { per_address: 20, per_prefix: 150, all: 200 };
/// Time for one device to say who it is.
const ASK_MAX: Duration = Duration::from_secs(3);
/// Longest name that is taken, in bytes.
pub(in crate::mesh::transport) const NAME_BYTES_MAX: usize = 256;

/// A device that was asked: its socket, and who it says it is.
type Answer = (SocketAddr, Option<Said>);

/// Runs until nobody listens any more.
pub(super) async fn run(shared: Arc<LinksState>, events: mpsc::Sender<LanEvent>) {
    let (mut own, mut mesh) = (shared.underlays.udp.own.clone(), shared.mesh.subscribe());
    let now = Instant::now();
    let mut search = Search {
        interfaces: own.borrow_and_update().interfaces.clone(),
        mesh: *mesh.borrow_and_update(),
        shared,
        ears: Ears { sockets: Sockets::default(), reading: Rate::new(READ, now) },
        near: Near::default(),
        instance: Instance(random()),
        turns: 0,
        next: now,
        answer_at: None,
        answered: None,
        trouble: None,
    };
    let mut asked: FuturesUnordered<BoxFuture<'static, Answer>> = FuturesUnordered::new();
    let mut buffer = [0; PACKET_BYTES_MAX];
    loop {
        let now = Instant::now();
        asked.extend(search.near.poll_questions(now).into_iter().map(|socket| search.ask(socket)));
        for event in search.near.poll_events() {
            if events.send(event).await.is_err() {
                return;
            }
        }
        let due = [search.near.poll_timeout(), search.answer_at].into_iter().flatten().fold(search.next, Instant::min);
        tokio::select! {
            changed = own.changed() => {
                if changed.is_err() {
                    return;
                }
                let interfaces = own.borrow_and_update().interfaces.clone();
                if interfaces != search.interfaces {
                    search.interfaces = interfaces;
                    // Whoever saw us there shall not know us here.
                    search.begin_anew(Instance(random()));
                }
            }
            changed = mesh.changed() => {
                if changed.is_err() {
                    return;
                }
                search.mesh = *mesh.borrow_and_update();
                search.begin_anew(search.instance);
            }
            Some((socket, said)) = asked.next() => search.near.handle_answer(socket, said, Instant::now()),
            (from, heard) = search.ears.hear(&mut buffer) => search.handle(from, &heard),
            () = sleep_until(due) => {
                if let Some(event) = search.handle_timeout(Instant::now()).await
                    && events.send(event).await.is_err()
                {
                    return;
                }
            }
        }
    }
}

struct Search {
    shared: Arc<LinksState>,
    interfaces: Interfaces,
    /// The mesh that we know; none before the mesh runs.
    mesh: Option<MeshId>,
    ears: Ears,
    near: Near,
    instance: Instance,
    /// Questions since the network changed, and the time of the next one.
    turns: usize,
    next: Instant,
    /// Our next answer, if someone has asked; and the last one.
    answer_at: Option<Instant>,
    answered: Option<Instant>,
    trouble: Option<String>,
}

/// All that is heard, within the budget for it.
struct Ears {
    sockets: Sockets,
    reading: Rate,
}

impl Ears {
    /// The next packet that concerns us. What is over the budget is dropped unread.
    ///
    /// # Cancel safety
    /// No packet is lost.
    async fn hear(&mut self, buffer: &mut [u8; PACKET_BYTES_MAX]) -> (SocketAddr, Heard) {
        loop {
            let (len, from) = self.sockets.receive(buffer).await;
            let from = canonical(from);
            if self.reading.take(from.ip(), Instant::now())
                && let Some(heard) = buffer.get(..len).and_then(record::read)
            {
                return (from, heard);
            }
        }
    }
}

impl Search {
    fn begin_anew(&mut self, instance: Instance) {
        self.instance = instance;
        (self.turns, self.next) = (0, Instant::now());
    }

    fn handle(&mut self, from: SocketAddr, heard: &Heard) {
        let now = Instant::now();
        let zone = zone(from);
        // From outside of the network nobody is near (RFC 6762 §11).
        if self.interfaces.of(from.ip(), zone).is_none() {
            return;
        }
        match heard {
            Heard::Question => {
                let due = self.answered.map_or(now, |answered| (answered + ANSWER).max(now));
                self.answer_at.get_or_insert(due);
            }
            Heard::Record(record) if record.instance != self.instance => {
                let is_ours = self.mesh.is_some_and(|mesh| record.is_of(mesh));
                if is_ours || self.shared.lan.may_ask(from.ip(), zone, &self.interfaces) {
                    self.near.handle_record(from, record, is_ours, now);
                }
            }
            Heard::Record(_) => {}
        }
    }

    /// Asks and answers what is due. Tells if that has begun to fail, or to work again.
    async fn handle_timeout(&mut self, now: Instant) -> Option<LanEvent> {
        self.near.handle_timeout(now);
        if self.answer_at.is_some_and(|at| at <= now) {
            let _ = self.show(now).await;
        }
        if self.next > now {
            return None;
        }
        self.shared.lan.look(&self.interfaces);
        let mut sent = self.ears.sockets.join(&self.interfaces);
        if sent.is_ok() {
            sent = self.ears.sockets.send(&record::question(), &self.interfaces).await;
        }
        if self.turns < FIRST.len() {
            let _ = self.show(now).await;
        }
        let pause = match (FIRST.get(self.turns), FIRST.get(self.turns + 1)) {
            (Some(this), Some(next)) => next.saturating_sub(*this),
            _ => QUERY,
        };
        (self.turns, self.next) = (self.turns + 1, now + pause);
        // An address that has just come cannot be sent from yet (RFC 4862 §5.4).
        let failed = sent.err().filter(|_| self.turns >= FIRST.len());
        let trouble = failed.map(|error| format!("this network carries no multicast here ({error})"));
        if trouble == self.trouble {
            return None;
        }
        self.trouble.clone_from(&trouble);
        Some(LanEvent::State(trouble.map_or(Discovery::Working, Discovery::Trouble)))
    }

    /// Says that we are here, once we know a mesh.
    async fn show(&mut self, now: Instant) -> std::io::Result<()> {
        (self.answer_at, self.answered) = (None, Some(now));
        let Some(mesh) = self.mesh else { return Ok(()) };
        let record = Record::new(self.instance, self.shared.underlays.udp.port(), mesh);
        self.ears.sockets.send(&record.encode(), &self.interfaces).await
    }

    /// Asks a device who it is. On a network that is not known only a member is believed to be one of ours.
    fn ask(&self, socket: SocketAddr) -> BoxFuture<'static, Answer> {
        let shared = self.shared.clone();
        let takes_strangers = shared.lan.may_ask(socket.ip(), zone(socket), &self.interfaces);
        Box::pin(async move {
            let said = timeout(ASK_MAX, hello(&shared, socket)).await.ok().flatten();
            (socket, said.filter(|said| takes_strangers || shared.is_member(said.peer)))
        })
    }
}

/// The number of the interface that a link-local IPv6 address is on; 0 for any other.
fn zone(socket: SocketAddr) -> u32 {
    if let SocketAddr::V6(v6) = socket { v6.scope_id() } else { 0 }
}

async fn hello(shared: &Arc<LinksState>, socket: SocketAddr) -> Option<Said> {
    if let Some(peer) = shared.live.at(socket) {
        return Some(Said { peer, name: String::new() });
    }
    let answered = dial::race(shared, &[socket.into()], None).await.ok()?;
    let name = async {
        let (mut send, mut recv) = stream::open(&answered.connection, Tag::Who).await.ok()?;
        let _ = send.finish();
        stream::read_message(&mut recv, NAME_BYTES_MAX).await.ok()?
    }
    .await;
    Code::Done.close(&answered.connection);
    let name = NodeId::slug(std::str::from_utf8(&name?).ok()?).to_string();
    Some(Said { peer: answered.key.peer_id(), name })
}
