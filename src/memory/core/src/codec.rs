//! Version byte and CBOR: how every value of memory is written.

use serde::{Deserialize, Serialize};

/// Version of the values; readers refuse others.
pub(crate) const VERSION: u8 = 1;

/// Encodes plain data.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    bytes.push(VERSION);
    cbor4ii::serde::to_vec(bytes, value).expect("our values are plain data")
}

/// Decodes; `None` when it is of another version, malformed.
pub(crate) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    let (version, body) = bytes.split_first()?;
    if *version != VERSION {
        return None;
    }
    cbor4ii::serde::from_slice(body).ok()
}
