//! Places of one door. A connection that waits for its next request holds a place only for as long as nobody else wants
//! it: half a request shuts no door. Nor do answers without end: of a caller that has more than its share of them one ends.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::identity::Budget;

/// One part of so many of all places is what each caller that shares a budget has for itself.
const SHARE: usize = 16;

/// The places of a door.
#[derive(Debug)]
pub(super) struct Seats {
    max: usize,
    taken: Mutex<Taken>,
    /// Wakes the listener: a place may be had again.
    freed: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    /// Rises by one whenever a connection begins to wait for a request.
    turn: u64,
    by_number: BTreeMap<u64, Taker>,
}

/// A connection that has a place.
#[derive(Debug)]
struct Taker {
    /// It proved who it is.
    proven: bool,
    /// By this token or login.
    by: Option<Budget>,
    /// Since when it waits for a request.
    turn: u64,
    /// Answers under way; 0 = it waits for a request.
    answers: usize,
    lost: CancellationToken,
}

impl Taken {
    /// The place that the token or login which has most places has had for longest, if it has more than `share`.
    fn oldest_of_most(&self, share: usize) -> Option<u64> {
        let mut counts: BTreeMap<&Budget, usize> = BTreeMap::new();
        for by in self.by_number.values().filter_map(|taker| taker.by.as_ref()) {
            *counts.entry(by).or_default() += 1;
        }
        let (most, _) = counts.into_iter().filter(|(_, count)| *count > share).max_by_key(|(_, count)| *count)?;
        let of_most = self.by_number.iter().filter(|(_, taker)| taker.by.as_ref() == Some(most));
        of_most.min_by_key(|(_, taker)| taker.turn).map(|(number, _)| *number)
    }
}

impl Seats {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, taken: Mutex::default(), freed: Notify::new() })
    }

    /// Gives a new connection a place. When all are taken, it gets that of the connection that has waited longest for a
    /// request, of those first that never proved who they are. While each of them is being answered, that of the oldest which has
    /// not proven who it is, or of the token, login, session or client that has most, if it has more than a [`SHARE`]th of all; else it
    /// waits.
    ///
    /// # Cancel safety
    /// No place is lost.
    pub(super) async fn take(self: &Arc<Self>) -> Seat {
        loop {
            let freed = self.freed.notified();
            if let Some(seat) = self.try_take() {
                return seat;
            }
            freed.await;
        }
    }

    fn try_take(self: &Arc<Self>) -> Option<Seat> {
        let mut taken = self.lock();
        if taken.by_number.len() >= self.max {
            let waiting = taken.by_number.iter().filter(|(_, taker)| taker.answers == 0);
            let first = waiting.min_by_key(|(_, taker)| (taker.proven, taker.turn)).map(|(number, _)| *number);
            let unproven = taken.by_number.iter().filter(|(_, taker)| !taker.proven);
            let unproven = unproven.min_by_key(|(_, taker)| taker.turn).map(|(number, _)| *number);
            let number = first.or(unproven).or_else(|| taken.oldest_of_most((self.max / SHARE).max(2)))?;
            if let Some(taker) = taken.by_number.remove(&number) {
                taker.lost.cancel();
            }
        }
        taken.turn += 1;
        let (number, lost) = (taken.turn, CancellationToken::new());
        let taker = Taker { proven: false, by: None, turn: number, answers: 0, lost: lost.clone() };
        taken.by_number.insert(number, taker);
        let mark = SeatMark { seats: self.clone(), number };
        Some(Seat { mark, lost })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place, held by the task of a connection; free again when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    mark: SeatMark,
    lost: CancellationToken,
}

impl Seat {
    /// The name of the place, for the requests of its connection.
    pub(super) fn mark(&self) -> SeatMark {
        self.mark.clone()
    }

    /// Resolves when the place was given to another connection.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.mark.seats.lock().by_number.remove(&self.mark.number);
        self.mark.seats.freed.notify_one();
    }
}

/// The name of a place. In the extensions of each request of its connection.
#[derive(Debug, Clone)]
pub(super) struct SeatMark {
    seats: Arc<Seats>,
    number: u64,
}

impl SeatMark {
    /// The connection proved who it is; by a token or login, if not by the socket.
    pub(super) fn prove(&self, by: Option<Budget>) {
        if let Some(taker) = self.seats.lock().by_number.get_mut(&self.number) {
            taker.proven = true;
            taker.by = by;
        }
    }

    /// A request has come whole: the place is kept until its answer has gone out.
    pub(super) fn answer(&self) -> Answering {
        if let Some(taker) = self.seats.lock().by_number.get_mut(&self.number) {
            taker.answers += 1;
        }
        Answering(self.clone())
    }
}

/// An answer under way.
#[derive(Debug)]
pub(super) struct Answering(SeatMark);

impl Answering {
    /// Goes on until this body is sent.
    pub(super) fn until_sent(self, body: Body) -> Body {
        Body::new(Sending { body, _answering: self })
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mut taken = self.0.seats.lock();
        taken.turn += 1;
        let turn = taken.turn;
        if let Some(taker) = taken.by_number.get_mut(&self.0.number) {
            taker.answers = taker.answers.saturating_sub(1);
            taker.turn = turn;
        }
        drop(taken);
        self.0.seats.freed.notify_one();
    }
}

/// The body of an answer under way.
#[derive(Debug)]
struct Sending {
    body: Body,
    _answering: Answering,
}

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s19_a_place_goes_to_the_next_and_proven_and_busy_ones_keep_theirs() {
        let seats = Seats::new(4);
        let mut taken: Vec<Seat> = (0..4).filter_map(|_| seats.try_take()).collect();
        taken[0].mark().prove(None);
        let answering = taken[1].mark().answer();
        let newcomer = seats.try_take().unwrap();
        let is_lost = |seat: &Seat| seat.lost.is_cancelled();
        assert_eq!(taken.iter().map(is_lost).collect::<Vec<_>>(), [false, false, true, false]);
        newcomer.mark().prove(None);
        let next = seats.try_take().unwrap();
        assert_eq!(taken.iter().map(is_lost).collect::<Vec<_>>(), [false, false, true, true]);
        // The end of one that has lost its place frees nothing.
        taken.truncate(2);
        taken[1].mark().prove(None);
        next.mark().prove(None);
        let busy = [taken[0].mark().answer(), newcomer.mark().answer(), next.mark().answer()];
        assert!(seats.try_take().is_none(), "all four are being answered");
        drop(answering);
        drop(seats.try_take().unwrap());
        assert!(is_lost(&taken[1]));
        drop(busy);
        assert_eq!(seats.lock().by_number.len(), 3);
    }

    #[test]
    fn a_request_that_proves_nothing_keeps_no_place_for_long() {
        let seats = Seats::new(2);
        let [half, known] = [(), ()].map(|()| seats.try_take().unwrap());
        known.mark().prove(None);
        let under_way = [half.mark().answer(), known.mark().answer()];
        assert!(seats.try_take().is_some() && half.lost.is_cancelled() && !known.lost.is_cancelled());
        drop(under_way);
    }

    #[test]
    fn k2_a_token_whose_answers_do_not_end_shuts_no_door() {
        let seats = Seats::new(8);
        let [panel, other] = ["panel", "other"].map(|id| Budget::Token(id.parse().unwrap()));
        let mut taken: Vec<Seat> = (0..8).filter_map(|_| seats.try_take()).collect();
        let mut answers: Vec<Answering> = taken.iter().map(|seat| seat.mark().answer()).collect();
        for (n, seat) in taken.iter().enumerate() {
            seat.mark().prove(Some(if n < 5 { panel.clone() } else { other.clone() }));
        }
        // Who has most gives way, the oldest first, as long as it has more than its share.
        for gone in 1..=3 {
            let newcomer = seats.try_take().unwrap();
            newcomer.mark().prove(None);
            let lost = taken.iter().filter(|seat| seat.lost.is_cancelled()).count();
            assert_eq!(lost, gone);
            answers.push(newcomer.mark().answer());
            taken.push(newcomer);
        }
        let lost: Vec<bool> = taken.iter().map(|seat| seat.lost.is_cancelled()).collect();
        assert_eq!(lost.iter().take(8).filter(|lost| **lost).count(), 3);
        drop(answers);
    }
}
