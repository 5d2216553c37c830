//! The link table: one link to each approved peer that can be reached. It alone decides who is dialled and when, and
//! which of two connections stays; one decision at a time, so that both ends come to the same one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::dial_plan::{DialPlan, Due};
use super::link::{Link, NewLink, Outbox};
use super::members::Members;
use super::news::News;
use super::quic::{self, Code};
use super::relay;
use super::session;
use super::shared::{LinksState, Taken, ToTable, random};
use super::underlay::UnderlayKind;

/// Grace of a link that was replaced: it still takes what is under way on it, and the other end learns of the new one.
const REPLACED: Duration = Duration::from_millis(500);
/// Grace of a link to a peer that was revoked: time to learn that it was, and to say whom it approved.
const FAREWELL: Duration = Duration::from_secs(1);
/// Age at which a link that replaced one whose address had gone may itself be replaced in the same way: long enough
/// for two who moved together to come to one link, and no longer than a dead link lives.
const MOVED_AGAIN: Duration = Duration::from_millis(1800);

/// See the module.
pub(super) struct LinkTable {
    shared: Arc<LinksState>,
    members: watch::Receiver<Arc<Members>>,
    dials: DialPlan,
    news: News<GoAhead>,
    /// Number of the newest link.
    last: u64,
}

/// A link that was taken and runs once the mesh knows of it.
struct GoAhead {
    link: Arc<Link>,
    outbox: Outbox,
    reply: oneshot::Sender<Taken>,
}

impl LinkTable {
    pub(super) fn new(shared: Arc<LinksState>) -> Self {
        let (members, dials) = (shared.members.subscribe(), DialPlan::new(shared.me));
        Self { shared, members, dials, news: News::new(), last: 0 }
    }

    /// Runs until the links are to end.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<ToTable>) {
        let shared = self.shared.clone();
        loop {
            let due = self.dials.poll_timeout();
            let mut permit = None;
            tokio::select! {
                biased;
                () = shared.drain.closing().cancelled() => return,
                Ok(()) = self.members.changed() => self.handle_members(),
                () = shared.retry.notified() => {
                    self.handle_members();
                    self.dials.retry_now(Instant::now());
                }
                Some(message) = inbox.recv() => self.handle(message),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.dial_due(),
                // In one line with all that wait for room; an error shows below as well.
                room = shared.events.reserve(), if !self.news.is_empty() => permit = room.ok(),
            }
            for GoAhead { link, outbox, reply } in self.news.flush(&shared.events, permit) {
                let _ = reply.send(Ok((link, outbox)));
            }
        }
    }

    /// Takes over a new set of members.
    fn handle_members(&mut self) {
        let members = self.members.borrow_and_update().clone();
        for link in self.shared.live.all() {
            match members.get(&link.peer) {
                Some(member) if member.leaving => self.dismiss(&link),
                Some(_) => {}
                None => Code::Revoked.close(&link.connection),
            }
        }
        let live = &self.shared.live;
        self.dials.handle_members(&members, |peer| live.how(peer), Instant::now());
    }

    fn handle(&mut self, message: ToTable) {
        let now = Instant::now();
        match message {
            ToTable::NewLink(new, reply) => self.handle_new(new, reply),
            ToTable::Closed(peer, number) => {
                let Some(link) = self.shared.live.remove(peer, number) else { return };
                self.dials.handle_unlinked(peer, link.since.elapsed(), now, random());
                self.news.push_down(peer);
            }
            ToTable::OwnAddresses(kind) => {
                self.follow_addresses(kind, now);
                self.news.push_network();
            }
            ToTable::Punched(peer, answered) => {
                let (shared, due) = (self.shared.clone(), Due::punched(peer, answered.address.clone()));
                self.shared.tasks.spawn(async move { session::dialled(&shared, *answered, &due).await });
            }
            ToTable::Dialled(peer, number) => {
                self.dials.handle_dialled(peer, number, now, random());
            }
        }
    }

    /// First the news, then the go-ahead: no frame of a link comes before its `Up`.
    fn handle_new(&mut self, new: NewLink, reply: oneshot::Sender<Taken>) {
        let (nonce, via) = (new.nonce, new.underlay.via());
        match self.take(new) {
            Ok((link, outbox)) => {
                let peer = link.peer;
                if let Some(overtaken) = self.news.push_up(peer, nonce, via, GoAhead { link, outbox, reply }) {
                    let _ = overtaken.reply.send(Err(Code::Replaced));
                }
            }
            Err(code) => drop(reply.send(Err(code))),
        }
    }

    /// Decides whether a connection becomes the link.
    fn take(&mut self, new: NewLink) -> Taken {
        let peer = new.key.peer_id();
        if !self.shared.may_link(peer) {
            return Err(Code::Revoked);
        }
        let leaving = !self.shared.is_member(peer);
        if let Some(present) = self.shared.live.get(peer) {
            let standing = |dialled: bool, nonce, kind| {
                let by_lower = dialled == (self.shared.me < peer);
                Standing { by_lower, nonce, kind }
            };
            let is_better = present.moved || new.worth() < present.worth();
            let dead = new.moved && !(is_better && present.since.elapsed() < MOVED_AGAIN);
            let newcomer = standing(new.dialled, new.nonce, new.worth());
            if !dead && !newcomer.replaces(standing(present.dialled, present.nonce, present.worth())) {
                return Err(Code::Duplicate);
            }
            if present.nonce == new.nonce {
                self.shared.tasks.spawn(async move {
                    let _ = timeout(REPLACED, present.connection.closed()).await;
                    Code::Replaced.close(&present.connection);
                });
            } else {
                // Were it another process that still runs, it would be sent calls that are meant for the newcomer.
                Code::Replaced.close(&present.connection);
            }
        }
        self.last += 1;
        let (link, outbox) = Link::new(self.last, new);
        if leaving {
            self.dismiss(&link);
        } else {
            quic::raise_limits(&link.connection);
        }
        let seen = (!leaving && link.underlay == UnderlayKind::Udp).then(|| link.address());
        self.shared.live.put(link.clone());
        self.dials.handle_linked(peer, seen, self.shared.live.how(peer), Instant::now());
        if link.underlay == UnderlayKind::Relay {
            self.shared.relay.lost.notify_one();
        }
        Ok((link, outbox))
    }

    /// Closes the link of one that was revoked, once it had time to learn that.
    fn dismiss(&self, link: &Arc<Link>) {
        if link.dismissed.swap(true, Ordering::Relaxed) {
            return;
        }
        let connection = link.connection.clone();
        self.shared.tasks.spawn(async move {
            let _ = timeout(FAREWELL, connection.closed()).await;
            Code::Revoked.close(&connection);
        });
    }

    fn dial_due(&mut self) {
        for due in self.dials.handle_timeout(Instant::now()) {
            let shared = self.shared.clone();
            self.shared.tasks.spawn(async move {
                // Only the race can be called off: once a link is handed in, it is seen through.
                let racing = relay::reach(&shared, &due);
                if let Some(Ok(answered)) = due.cancel.run_until_cancelled(racing).await {
                    session::dialled(&shared, answered, &due).await;
                } else {
                    let _ = shared.table.send(ToTable::Dialled(due.peer, due.number)).await;
                }
            });
        }
    }

    /// A connection that we accepted answers from the address at which it was asked for. When that is gone it is dead,
    /// and neither end knows: they are dialled anew. What we dialled ourselves goes on from the new address.
    fn follow_addresses(&mut self, kind: UnderlayKind, now: Instant) {
        // One that was closed has no addresses any more.
        let underlay = self.shared.underlays.get(kind);
        let own = underlay.map(|underlay| underlay.own.borrow().clone()).unwrap_or_default();
        let local = |link: &Link| link.connection.local_ip().map(|ip| ip.to_canonical());
        let links = self.shared.live.all();
        let lost = links
            .iter()
            .filter(|link| link.underlay == kind && local(link).is_some_and(|ip| !own.local.contains(&ip)))
            .map(|link| link.peer);
        self.dials.handle_moved(lost, now);
        self.dials.handle_network(now);
        self.dials.retry_now(now);
    }
}

/// The properties that decide between two connections of one pair of peers.
#[derive(Debug, Clone, Copy)]
struct Standing {
    by_lower: bool,
    nonce: u64,
    kind: UnderlayKind,
}

impl Standing {
    /// True if a newcomer takes the place of the present link. Both ends say the same, in whatever order they see the
    /// two: a direct one before a relayed one; of crossing connections the lower peer's stays, of two from the same side
    /// the newer. A new process at the other end always wins, for whatever the former one had is dead.
    fn replaces(self, present: Self) -> bool {
        let in_place = || self.kind == present.kind && (self.by_lower || !present.by_lower);
        self.nonce != present.nonce || self.kind > present.kind || in_place()
    }
}
