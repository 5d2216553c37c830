//! News of links on their way to the mesh. The link table never waits for the queue of the mesh: what finds it full
//! stays here and is told when there is room. It is state, so that what is kept is bounded: of each peer at most that
//! it went down and that it is up again.

use std::collections::VecDeque;

use mesh_core::ids::PeerId;
use mesh_core::relay::Via;
use tokio::sync::mpsc;
use tokio::sync::mpsc::Permit;
use tokio::sync::mpsc::error::TrySendError;

use super::event::LinkEvent;

/// News that wait to be told, oldest first. A `G` is returned as go-ahead once the news that it waits for is told.
#[derive(Debug)]
pub(super) struct News<G> {
    waiting: VecDeque<Item<G>>,
}

#[derive(Debug)]
enum Item<G> {
    Up(PeerId, u64, Via, G),
    Down(PeerId),
    Network,
}

impl<G> News<G> {
    pub(super) fn new() -> Self {
        Self { waiting: VecDeque::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// A link is up. Nothing of it may be told before this, so it waits for the go-ahead. Returns an earlier link of
    /// the peer whose turn never came.
    pub(super) fn push_up(&mut self, peer: PeerId, nonce: u64, via: Via, go_ahead: G) -> Option<G> {
        let earlier = self.waiting.iter().position(|item| matches!(item, Item::Up(up, ..) if *up == peer));
        let overtaken = earlier.and_then(|at| self.waiting.remove(at));
        self.waiting.push_back(Item::Up(peer, nonce, via, go_ahead));
        match overtaken {
            Some(Item::Up(.., go_ahead)) => Some(go_ahead),
            Some(Item::Down(_) | Item::Network) | None => None,
        }
    }

    /// A link whose `Up` was told is gone.
    pub(super) fn push_down(&mut self, peer: PeerId) {
        self.waiting.push_back(Item::Down(peer));
    }

    /// Own addresses have changed.
    pub(super) fn push_network(&mut self) {
        if !self.waiting.iter().any(|item| matches!(item, Item::Network)) {
            self.waiting.push_back(Item::Network);
        }
    }

    /// Tells as much as there is room for, the first with `permit`, if there is one. Returns the links that may go
    /// ahead now. When nobody listens any more, nothing is kept: the links are about to be closed.
    pub(super) fn flush(&mut self, events: &mpsc::Sender<LinkEvent>, permit: Option<Permit<'_, LinkEvent>>) -> Vec<G> {
        let mut go_ahead = Vec::new();
        let mut permit = permit;
        while let Some(item) = self.waiting.pop_front() {
            let permit = match permit.take().map_or_else(|| events.try_reserve(), Ok) {
                Ok(permit) => permit,
                Err(TrySendError::Full(())) => {
                    self.waiting.push_front(item);
                    break;
                }
                Err(TrySendError::Closed(())) => {
                    self.waiting.clear();
                    break;
                }
            };
            match item {
                Item::Up(peer, nonce, via, go) => {
                    permit.send(LinkEvent::Up(peer, nonce, via));
                    go_ahead.push(go);
                }
                Item::Down(peer) => permit.send(LinkEvent::Down(peer)),
                Item::Network => permit.send(LinkEvent::Network),
            }
        }
        go_ahead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerId = PeerId([1; 32]);
    const B: PeerId = PeerId([2; 32]);

    fn told(events: &mut mpsc::Receiver<LinkEvent>) -> Vec<String> {
        std::iter::from_fn(|| events.try_recv().ok())
            .map(|event| match event {
                LinkEvent::Up(peer, nonce, _) => format!("up {peer:?} {nonce}"),
                LinkEvent::Down(peer) => format!("down {peer:?}"),
                LinkEvent::Network => "network".to_owned(),
                LinkEvent::Frame(..)
                | LinkEvent::Tailnet(_)
                | LinkEvent::JoinAttempt(_)
                | LinkEvent::Stream { .. }
                | LinkEvent::Bad { .. } => panic!("{event:?}"),
            })
            .collect()
    }

    #[test]
    fn what_finds_the_queue_full_is_told_in_its_order_when_there_is_room() {
        let (tx, mut rx) = mpsc::channel(1);
        let mut news = News::new();
        assert_eq!(news.push_up(A, 1, Via::Direct, "a1"), None);
        assert_eq!(news.push_up(B, 1, Via::Direct, "b1"), None);
        news.push_network();
        assert_eq!(news.flush(&tx, None), ["a1"]);
        news.push_down(A);
        news.push_network();
        assert_eq!(news.push_up(A, 2, Via::Direct, "a2"), None);
        let mut all = told(&mut rx);
        let mut went = Vec::new();
        while !news.is_empty() {
            went.extend(news.flush(&tx, None));
            all.extend(told(&mut rx));
        }
        assert_eq!(went, ["b1", "a2"]);
        let expected = [
            format!("up {A:?} 1"),
            format!("up {B:?} 1"),
            "network".to_owned(),
            format!("down {A:?}"),
            format!("up {A:?} 2"),
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn a_link_that_was_replaced_before_it_was_told_is_never_told() {
        let (tx, mut rx) = mpsc::channel(8);
        let mut news = News::new();
        assert_eq!(news.push_up(A, 1, Via::Direct, "first"), None);
        assert_eq!(news.push_up(A, 2, Via::Direct, "second"), Some("first"));
        assert_eq!(news.flush(&tx, None), ["second"]);
        assert_eq!(told(&mut rx), [format!("up {A:?} 2")]);
    }

    #[test]
    fn nobody_listens_any_more() {
        let (tx, rx) = mpsc::channel(1);
        drop(rx);
        let mut news = News::new();
        news.push_up(A, 1, Via::Direct, ());
        assert!(news.flush(&tx, None).is_empty() && news.is_empty());
    }
}
