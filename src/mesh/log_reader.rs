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
        let mut next = *from;
        while next <= *until {
            let (start, end) = (Bound::Included(key(next)), Bound::Included(key(*until)));
            let rows = store.range(Space::Log, start, end, false, ROWS)?;
            if rows.is_empty() {
                break;
            }
            for (_, stored) in &rows {
                let Some(entry) = SignedEntry::from_stored(stored) else { return Ok((entries, false)) };
                if bytes > 0 && bytes + entry.len() > limits::SYNC_BYTES_MAX {
                    return Ok((entries, true));
                }
                bytes += entry.len();
                next = entry.entry.seq + 1;
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
        calls.extend(ReqId::from_slice(&key).map(|id| (id, Bytes::from(row))));
    }
    Ok((calls, full))
}
