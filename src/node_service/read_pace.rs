//! The pace at which bytes of those who are no owners are read: also of messages that are not whole yet, and of streams
//! that nobody has registered.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use mesh_core::ids::PeerId;
use tokio::time::Instant;

use crate::mesh::pace::{Pace, ReadPace};

/// Bytes in a second that are read of one peer, on all its streams together, and at once after a pause: as of its link.
const GUEST_BYTES_PER_S: u64 = 512 * 1024;
const GUEST_BYTES_AHEAD: u64 = 512 * 1024;

/// Paces of all peers with a stream, or with one shortly before.
#[derive(Debug, Default)]
pub(super) struct Paces(Mutex<BTreeMap<PeerId, Arc<Mutex<Pace>>>>);

impl Paces {
    /// The pace of one more stream of this peer. It holds while `applies` says so.
    pub(super) fn of(&self, peer: PeerId, applies: impl Fn() -> bool + Send + 'static) -> GuestPace {
        let mut paces = lock(&self.0);
        // Whoever comes again at once has not paused.
        let now = Instant::now();
        paces.retain(|_, pace| Arc::strong_count(pace) > 1 || !lock(pace).is_rested(now));
        let pace = paces.entry(peer).or_insert_with(|| {
            let pace = Pace::new(GUEST_BYTES_PER_S, GUEST_BYTES_AHEAD);
            Arc::new(Mutex::new(pace))
        });
        GuestPace { applies: Box::new(applies), pace: ReadPace::of(pace.clone()) }
    }
}

/// The pace of one stream.
pub(super) struct GuestPace {
    applies: Box<dyn Fn() -> bool + Send>,
    pace: ReadPace,
}

impl fmt::Debug for GuestPace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestPace").field("pace", &self.pace).finish_non_exhaustive()
    }
}

impl GuestPace {
    /// Ready when the next bytes may be read.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.pace.poll_ready(cx)
    }

    /// Notes that so many were read.
    pub(super) fn note(&mut self, bytes: usize) {
        if bytes > 0 && (self.applies)() {
            self.pace.note(bytes);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::sleep;

    use super::*;
    use crate::node_service::stream::Guarded;

    /// Bytes that are read in 2 s of so many streams of one peer that send as fast as they can.
    async fn read_of(streams: usize, is_guest: bool) -> usize {
        let (paces, peer) = (Paces::default(), PeerId([1; 32]));
        let (tasks, mut reads) = (crate::tasks::TaskGroup::default(), tokio::task::JoinSet::new());
        for _ in 0..streams {
            let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
            let mut io = Guarded::paced(ours, peer, paces.of(peer, move || is_guest));
            tasks.spawn(async move { while theirs.write_all(&[0; 16 * 1024]).await.is_ok() {} });
            reads.spawn(async move {
                let (mut all, mut buffer) = (0, vec![0; 16 * 1024]);
                let end = sleep(Duration::from_secs(2));
                tokio::pin!(end);
                loop {
                    tokio::select! {
                        biased;
                        () = &mut end => return all,
                        read = io.read(&mut buffer) => all += read.unwrap_or(0),
                    }
                    if all > 64 << 20 {
                        return all;
                    }
                }
            });
        }
        reads.join_all().await.into_iter().sum()
    }

    #[tokio::test(start_paused = true)]
    async fn m4_however_many_streams_a_guest_opens_its_bytes_come_at_its_pace() {
        let most = GUEST_BYTES_AHEAD + 2 * GUEST_BYTES_PER_S;
        let (one, many) = (read_of(1, true).await as u64, read_of(16, true).await as u64);
        let slack = 16 * 64 * 1024;
        assert!(one <= most + slack && one >= GUEST_BYTES_AHEAD, "{one}");
        assert!(many <= most + slack && many >= GUEST_BYTES_AHEAD, "{many}");
        assert!(read_of(1, false).await as u64 > 2 * most, "an owner's have no pace");
    }

    #[tokio::test]
    async fn m4_whoever_comes_again_at_once_has_not_paused() {
        let (paces, peer) = (Paces::default(), PeerId([1; 32]));
        let mut first = paces.of(peer, || true);
        first.note(GUEST_BYTES_AHEAD as usize);
        assert!(!first.pace.waits());
        drop(first);
        let mut again = paces.of(peer, || true);
        again.note(64 * 1024);
        assert!(again.pace.waits());
    }
}
