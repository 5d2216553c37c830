//! The blobs that must stay: those that something open needs, and results that were promised to others.

use std::collections::{BTreeSet, VecDeque};

use mesh_core::ids::{Hash, PeerId};
use mesh_core::io::{CallRecord, CallState, Space};
use mesh_core::parts;
use mesh_core::record::Payload;
use mesh_core::rows::{self, Row as _};

use crate::mesh::store::row_of;

/// Time for which the origin of a call may come for its result before that is as any other, in milliseconds.
const PROMISED_MS: u64 = 10 * 60_000;
/// Bytes of such results; beyond, the oldest are as any other.
const PROMISED_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Hashes of the arguments of all open calls, and of the results of all that stand in the book: derived whenever it is
/// asked, so no count can be wrong.
pub(super) fn of_calls<'a>(calls: impl Iterator<Item = &'a CallRecord>) -> BTreeSet<Hash> {
    let mut needed = BTreeSet::new();
    for call in calls {
        let arguments = matches!(call.state, CallState::Open(_)).then_some(&call.header.arguments);
        for payload in arguments.into_iter().chain(parts::payloads(&call.output, &call.parts)) {
            if let Payload::Blob { hash, .. } = payload {
                needed.insert(*hash);
            }
        }
    }
    needed
}

/// Those of them that a row of the store tells of, by its key on disk.
#[must_use]
pub fn of_row(stored: &[u8], value: &[u8]) -> BTreeSet<Hash> {
    let is_call = |key| matches!(rows::OpenKey::of(key), Some(rows::OpenKey::Call(_)));
    match row_of(stored) {
        Some((Space::Open, key)) if is_call(key) => {
            rows::OpenRow::from_bytes(value).map_or_else(BTreeSet::new, |row| of_calls([&*row.record].into_iter()))
        }
        Some(_) | None => BTreeSet::new(),
    }
}

/// Results of calls of others that were told lately.
#[derive(Debug, Default)]
pub(super) struct Promises {
    promised: VecDeque<(Hash, u64, u64)>,
    bytes: u64,
}

impl Promises {
    /// A tool has ended for `origin` with this among its result.
    pub(super) fn note(&mut self, output: &Payload, origin: Option<PeerId>, me: PeerId, now_ms: u64) {
        let Payload::Blob { hash, len } = output else { return };
        if origin.is_none_or(|origin| origin == me) {
            return;
        }
        self.promised.push_back((*hash, *len, now_ms + PROMISED_MS));
        self.bytes += len;
        self.trim(now_ms);
    }

    fn trim(&mut self, now_ms: u64) {
        while let Some((_, len, until_ms)) = self.promised.front()
            && (*until_ms <= now_ms || self.bytes > PROMISED_BYTES_MAX)
        {
            self.bytes = self.bytes.saturating_sub(*len);
            self.promised.pop_front();
        }
    }

    /// Those that stay.
    pub(super) fn hashes(&mut self, now_ms: u64) -> impl Iterator<Item = Hash> + '_ {
        self.trim(now_ms);
        self.promised.iter().map(|(hash, ..)| *hash)
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::frame::Phase;
    use mesh_core::record::{Ending, Part};
    use mesh_core::test_kit::{header, id};

    use super::*;

    fn blob(n: u8, len: u64) -> Payload {
        Payload::Blob { hash: Hash([n; 32]), len }
    }

    #[test]
    fn b03_arguments_of_open_calls_and_results_in_the_book_are_needed() {
        let call = |n: u8, state| CallRecord {
            header: std::sync::Arc::new(mesh_core::record::Header {
                arguments: blob(n, 1),
                ..header(&id(1), u64::from(n), id(2), "t")
            }),
            origin: id(1),
            state,
            confirmed: false,
            attempt: 1,
            output: blob(n + 100, 1),
            parts: vec![Part { media_type: "a/b".to_owned(), name: String::new(), payload: Some(blob(n + 200, 1)) }],
            partial: false,
            error: String::new(),
            reason: String::new(),
            alias_of: None,
            history: Vec::new(),
        };
        let calls = [call(1, CallState::Open(Phase::Queued)), call(2, CallState::Ended(Ending::Expired))];
        let needed: Vec<u8> = of_calls(calls.iter()).into_iter().map(|hash| hash.0[0]).collect();
        assert_eq!(needed, [1, 101, 102, 201, 202], "an ended call needs no arguments");
    }

    #[test]
    fn b10_promises_end_by_time_and_by_bytes() {
        let (me, other) = (id(0), id(1));
        let mut promises = Promises::default();
        promises.note(&blob(1, 100), Some(me), me, 0);
        promises.note(&blob(2, 100), Some(other), me, 0);
        promises.note(&blob(3, 100), Some(other), me, 5_000);
        assert_eq!(promises.hashes(5_000).map(|hash| hash.0[0]).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(promises.hashes(PROMISED_MS + 1).map(|hash| hash.0[0]).collect::<Vec<_>>(), [3]);
        promises.note(&blob(4, PROMISED_BYTES_MAX), Some(other), me, PROMISED_MS + 1);
        assert_eq!(promises.hashes(PROMISED_MS + 1).map(|hash| hash.0[0]).collect::<Vec<_>>(), [4]);
    }
}
