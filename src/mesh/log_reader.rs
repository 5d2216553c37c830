//! Reading of log entries, and of calls that are over, for the core.

use std::ops::Bound;

use bytes::Bytes;
use mesh_core::entry::SignedEntry;
use mesh_core::ids::{Incarnation, PeerId, ReqId};
use mesh_core::io::Space;
use mesh_core::{limits, rows};

use crate::mesh::store::{Store, StoreError};

/// Rows that are read at a time.
const ROWS: usize = 256;

/// Reads entries of the ranges (author, incarnation, first, last), in order, until their bytes reach
/// [`limits::SYNC_BYTES_MAX`]. Returns true beside them if that limit cut them short.
pub(super) fn read(
    store: &dyn Store,
    ranges: &[(PeerId, Incarnation, u64, u64)],
) -> Result<(Vec<SignedEntry>, bool), StoreError> {
    let mut entries: Vec<SignedEntry> = Vec::new();
    let mut bytes = 0;
    for (author, incarnation, from, until) in ranges {
        let key = |seq| rows::entry(author, *incarnation, seq).key;
        let mut next = Some(*from);
        while let Some(first) = next.filter(|first| first <= until) {
            let (start, end) = (Bound::Included(key(first)), Bound::Included(key(*until)));
            let rows = store.range(Space::Log, start, end, false, ROWS)?;
            if rows.is_empty() {
                break;
            }
            for (at, stored) in &rows {
                // A damaged row may hold an entry of another place: then we would read the same rows again for ever.
                let entry = SignedEntry::from_stored(stored).filter(|entry| Some(entry.place()) == rows::place_of(at));
                let Some(entry) = entry else { return Ok((entries, false)) };
                if bytes > 0 && bytes + entry.len() > limits::SYNC_BYTES_MAX {
                    return Ok((entries, true));
                }
                bytes += entry.len();
                next = entry.entry.seq.checked_add(1);
                entries.push(entry);
            }
        }
    }
    Ok((entries, false))
}

/// Reads rows of calls that are over, in order of their ids, until their bytes reach [`limits::SYNC_BYTES_MAX`] or they
/// are [`ROWS`]. Returns true beside them if that cut them short.
pub(super) fn read_closed(
    store: &dyn Store,
    first: &ReqId,
    last: &ReqId,
) -> Result<(Vec<(ReqId, Bytes)>, bool), StoreError> {
    let (start, end) = (Bound::Included(rows::call(first).key), Bound::Included(rows::call(last).key));
    let rows = store.range(Space::Calls, start, end, false, ROWS)?;
    let full = rows.len() == ROWS;
    let mut calls = Vec::new();
    let mut bytes = 0;
    for (key, row) in rows {
        if bytes > 0 && bytes + row.len() > limits::SYNC_BYTES_MAX {
            return Ok((calls, true));
        }
        bytes += row.len();
        calls.extend(ReqId::from_slice(&key).map(|id| (id, row)));
    }
    Ok((calls, full))
}

#[cfg(test)]
mod tests {
    use mesh_core::crypto::Symbolic;
    use mesh_core::entry::Kind;
    use mesh_core::ids::MeshId;
    use mesh_core::io::{Batch, Now};
    use mesh_core::test_kit::Author;
    use tokio::sync::mpsc;

    use super::*;
    use crate::mesh::store::MemStore;

    #[test]
    fn s07_a_row_with_an_entry_of_another_place_ends_the_reading() {
        let mut author = Author::new(Symbolic::new(1), MeshId([1; 32]), Now { mono_ms: 0, wall_ms: 0 });
        let entries: Vec<SignedEntry> = (0..4).map(|_| author.says(Kind(98), vec![1])).collect();
        let (store, log) = (MemStore::new(mpsc::channel(1).0), author.incarnation);
        let put = |seq, entry: &SignedEntry| rows::entry(&author.id(), log, seq).put(entry);
        let read_all = || read(&store, &[(author.id(), log, 1, u64::MAX)]).unwrap();
        let writes = (1..).zip(&entries).map(|(seq, entry)| put(seq, entry)).collect();
        store.commit(1, Batch { writes, sync: false });
        assert_eq!(read_all(), (entries.clone(), false));
        // The third row holds what belongs into the first: read by what they say, they never come to an end.
        store.commit(2, Batch { writes: vec![put(3, &entries[0])], sync: false });
        assert_eq!(read_all(), (entries[..2].to_vec(), false));
        let mut last = author.clone();
        last.seq = u64::MAX - 1;
        let last = last.says(Kind(98), vec![1]);
        store.commit(3, Batch { writes: vec![put(3, &entries[2]), put(u64::MAX, &last)], sync: false });
        assert_eq!(read_all().0.len(), 5);
    }
}
