//! Turns of guests in the loop of the mesh. What links to those who are no owners bring waits here, a queue for each, until
//! nobody else has anything to do; it goes on one by one, each link in its turn, and all of them together get half of the
//! time. So whoever sends as much as it can slows down guests, itself first, and a call between others waits for one of
//! its frames at a time.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use mesh_core::ids::PeerId;
use tokio::time::{Instant, sleep_until};

use super::pace::Pace;
use super::transport::LinkEvent;

/// Microseconds of work for guests in a second.
const WORK_PER_S: u64 = 500_000;
/// Work at once after a pause: that of a few frames, so that whoever says little never waits.
const WORK_AHEAD: u64 = 4_000;
/// So many other things happen at most between two looks at what guests brought.
const OTHERS_FIRST: u32 = 16;
/// Time between two looks whether the disk has caught up.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// All that waits for its turn.
#[derive(Debug)]
pub(super) struct Turns {
    /// Events by link. No queue is empty.
    waiting: BTreeMap<PeerId, VecDeque<LinkEvent>>,
    /// Those links in the order of their turns.
    order: VecDeque<PeerId>,
    pace: Pace,
    /// When the next one may go on.
    next_at: Instant,
    /// Other things that have happened since the last turn.
    others: u32,
}

impl Turns {
    pub(super) fn new() -> Self {
        Self {
            waiting: BTreeMap::new(),
            order: VecDeque::new(),
            pace: Pace::new(WORK_PER_S, WORK_AHEAD),
            next_at: Instant::now(),
            others: 0,
        }
    }

    /// True if nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Whose turn this has to wait for: that of a guest whose frame it is, or on whose link it comes behind such frames.
    /// `None`: it goes on at once.
    pub(super) fn turn_of(&self, event: &LinkEvent) -> Option<PeerId> {
        match event {
            LinkEvent::Frame(peer, _, turn) if turn.is_of_guest() => Some(*peer),
            LinkEvent::Up(peer, ..) | LinkEvent::Down(peer) | LinkEvent::Frame(peer, ..) => {
                self.waiting.contains_key(peer).then_some(*peer)
            }
            LinkEvent::Network
            | LinkEvent::Tailnet(_)
            | LinkEvent::JoinAttempt(_)
            | LinkEvent::Stream { .. }
            | LinkEvent::Bad { .. } => None,
        }
    }

    /// Keeps what has to wait for the turn of this peer's link.
    pub(super) fn keep(&mut self, peer: PeerId, event: LinkEvent) {
        let queue = self.waiting.entry(peer).or_default();
        if queue.is_empty() {
            self.order.push_back(peer);
        }
        queue.push_back(event);
    }

    /// Waits until the next one may go on; while the disk is behind, until it is worth looking again.
    ///
    /// # Cancel safety
    /// Holds nothing.
    pub(super) async fn wait(&self, is_behind: impl Fn() -> bool) {
        let at = if is_behind() { self.next_at.max(Instant::now() + LOOK_AGAIN) } else { self.next_at };
        sleep_until(at).await;
    }

    /// Counts something else that has happened. True if guests have waited for long enough, and may go on.
    pub(super) fn note_other(&mut self) -> bool {
        self.others = if self.is_empty() { 0 } else { self.others + 1 };
        self.others >= OTHERS_FIRST && self.next_at <= Instant::now()
    }

    /// The next event, whose link goes to the end of the queue.
    pub(super) fn next(&mut self) -> Option<LinkEvent> {
        self.others = 0;
        let peer = self.order.pop_front()?;
        let queue = self.waiting.get_mut(&peer)?;
        let event = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&peer);
        } else {
            self.order.push_back(peer);
        }
        event
    }

    /// Notes how long the last one took.
    pub(super) fn note_work(&mut self, took: Duration) {
        let now = Instant::now();
        self.next_at = now + self.pace.take(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), now);
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::frame::Frame;
    use mesh_core::relay::Via;

    use super::*;
    use crate::mesh::transport::Turn;

    fn peer(n: u8) -> PeerId {
        PeerId([n; 32])
    }

    fn frame(n: u8, guest: bool) -> LinkEvent {
        LinkEvent::Frame(peer(n), Frame::Query, Turn::for_test(guest))
    }

    /// True if it was kept.
    fn keeps(turns: &mut Turns, event: LinkEvent) -> bool {
        let turn = turns.turn_of(&event);
        turn.is_some_and(|peer| {
            turns.keep(peer, event);
            true
        })
    }

    fn name(event: &LinkEvent) -> (u8, &'static str) {
        match event {
            LinkEvent::Up(peer, ..) => (peer.0[0], "up"),
            LinkEvent::Down(peer) => (peer.0[0], "down"),
            LinkEvent::Frame(peer, ..) => (peer.0[0], "frame"),
            LinkEvent::Network
            | LinkEvent::Tailnet(_)
            | LinkEvent::JoinAttempt(_)
            | LinkEvent::Stream { .. }
            | LinkEvent::Bad { .. } => panic!("{event:?}"),
        }
    }

    #[tokio::test]
    async fn s31_links_of_guests_take_turns_and_each_keeps_its_order() {
        let mut turns = Turns::new();
        assert!(!keeps(&mut turns, frame(1, false)), "an owner's goes on");
        assert!(!keeps(&mut turns, LinkEvent::Up(peer(7), 1, Via::Direct)), "nothing is before it");
        for event in [
            frame(7, true),
            frame(7, true),
            LinkEvent::Down(peer(7)),
            LinkEvent::Up(peer(7), 2, Via::Direct),
            frame(8, true),
        ] {
            assert!(keeps(&mut turns, event));
        }
        assert!(!keeps(&mut turns, frame(1, false)));
        let order: Vec<_> = std::iter::from_fn(|| turns.next()).map(|event| name(&event)).collect();
        assert_eq!(order, [(7, "frame"), (8, "frame"), (7, "frame"), (7, "down"), (7, "up")]);
        assert!(turns.is_empty() && !keeps(&mut turns, LinkEvent::Down(peer(7))));
    }

    #[tokio::test(start_paused = true)]
    async fn s31_guests_have_half_of_the_time_and_others_come_first() {
        let mut turns = Turns::new();
        assert!(keeps(&mut turns, frame(7, true)) && keeps(&mut turns, frame(7, true)));
        let others = (0..1_000).take_while(|_| !turns.note_other()).count();
        assert_eq!(others, OTHERS_FIRST as usize - 1, "however much else happens");
        assert!(turns.next().is_some());
        let began = Instant::now();
        turns.note_work(Duration::from_micros(WORK_AHEAD) + Duration::from_millis(50));
        assert!((0..OTHERS_FIRST * 2).all(|_| !turns.note_other()), "not before its time");
        turns.wait(|| false).await;
        let waited = began.elapsed();
        assert!((Duration::from_millis(100)..Duration::from_millis(102)).contains(&waited), "{waited:?}");
        turns.wait(|| true).await;
        assert!(began.elapsed() > waited, "while the disk is behind they wait as well");
    }
}
