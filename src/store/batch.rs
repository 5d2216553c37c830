//! Batches of writes, and the rows that they come to.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::error::StoreError;

/// Longest key, in bytes: what fjall can write.
pub const KEY_BYTES_MAX: usize = u16::MAX as usize;

/// Key and value.
pub type Row = (Vec<u8>, Bytes);

/// Key, and the value that it gets; none deletes it.
pub type Write = (Vec<u8>, Option<Bytes>);

/// Writes that are applied as one.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// In order: of two to one key the last counts.
    pub writes: Vec<Write>,
    /// True if somebody waits until it is durable. One that nobody waits for may linger for 50 ms.
    pub sync: bool,
    /// True if the owner has dealt with the roll-back that [`Engine::is_rolled_back`](super::Engine::is_rolled_back)
    /// tells: with this batch it is over.
    pub ends_rollback: bool,
}

/// Rows by key; none = deleted.
pub(super) type Rows = BTreeMap<Vec<u8>, Option<Bytes>>;

/// Adds these writes, or none of them; counts the bytes of their values.
pub(super) fn merge(rows: &mut Rows, writes: Vec<Write>, bytes: &mut usize) -> Result<(), StoreError> {
    if let Some((bad, _)) = writes.iter().find(|(key, _)| !is_storable(key)) {
        return Err(StoreError::BadKey { len: bad.len() });
    }
    for (key, value) in writes {
        *bytes += value.as_ref().map_or(0, Bytes::len);
        rows.insert(key, value);
    }
    Ok(())
}

/// True for a key of the owner; those that begin with 0 are the engine's own.
fn is_storable(key: &[u8]) -> bool {
    key.first().is_some_and(|&first| first != 0) && key.len() <= KEY_BYTES_MAX
}
