//! Keys of the core's rows in the engine.

use std::ops::Bound;

use mesh_core::io::Space;

/// The engine's key of a row: the number of its space, then its key.
pub(super) fn stored_key(space: Space, key: &[u8]) -> Vec<u8> {
    [&[number(space)], key].concat()
}

/// The space and the key of a row, out of its key on disk. `None`: it is none of ours.
#[must_use]
pub fn row_of(stored: &[u8]) -> Option<(Space, &[u8])> {
    let (first, key) = stored.split_first()?;
    let space = Space::ALL.into_iter().find(|space| number(*space) == *first)?;
    Some((space, key))
}

/// The key of a row of a space, out of the engine's.
pub(super) fn own_key(stored: &[u8]) -> Vec<u8> {
    stored.get(1..).unwrap_or_default().to_vec()
}

/// The engine's bounds of a range of keys of one space.
pub(super) fn stored_bounds(
    space: Space,
    start: Bound<Vec<u8>>,
    end: Bound<Vec<u8>>,
) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    let stored = |key: Vec<u8>| stored_key(space, &key);
    let start = match start {
        Bound::Unbounded => Bound::Included(vec![number(space)]),
        Bound::Included(_) | Bound::Excluded(_) => start.map(stored),
    };
    let end = match end {
        Bound::Unbounded => Bound::Excluded(vec![number(space) + 1]),
        Bound::Included(_) | Bound::Excluded(_) => end.map(stored),
    };
    (start, end)
}

/// These numbers are the format on disk: never change one. 0 is the engine's own.
const fn number(space: Space) -> u8 {
    match space {
        Space::Meta => 1,
        Space::Log => 2,
        Space::Heads => 3,
        Space::Trust => 4,
        Space::Directory => 5,
        Space::Invites => 6,
        Space::Open => 7,
        Space::Calls => 8,
        Space::CallsByTime => 9,
        Space::Keys => 10,
        Space::Journal => 11,
        Space::ForgottenMarks => 12,
        Space::BlobReaders => 13,
        Space::Policy => 14,
        Space::Audit => 15,
    }
}
