//! Names of things: peers, meshes, nodes, tools, requests. Each is a newtype, so that a key cannot pass for a name.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, Encoding, Specification};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Why a text is not the identifier it should be. The message is fit for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{shown}` is not a valid {what}: {why}")]
pub struct InvalidId {
    /// Kind of id that the text should have been, such as "node id".
    pub what: &'static str,
    /// The rule that it breaks.
    pub why: &'static str,
    /// The text, cut to 40 characters and escaped.
    pub shown: String,
}

impl InvalidId {
    pub(crate) fn new(what: &'static str, why: &'static str, text: &str) -> Self {
        Self { what, why, shown: text.chars().take(40).flat_map(char::escape_default).collect() }
    }
}

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub struct $name(#[serde(with = "serde_bytes")] pub [u8; $len]);

        impl Ord for $name {
            /// The order of the bytes. The first eight decide nearly always, and cost less than a call of `memcmp`.
            fn cmp(&self, other: &Self) -> Ordering {
                first_eight(&self.0).cmp(&first_eight(&other.0)).then_with(|| self.0.cmp(&other.0))
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl $name {
            /// The raw bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// Reads the raw bytes; `None` when the length is wrong.
            #[must_use]
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", &base32(&self.0)[..7])
            }
        }
    };
}

bytes_id!(
    /// SHA-256 of something: an entry, a body, a secret.
    Hash, 32
);
bytes_id!(
    /// An Ed25519 public key; every signed thing carries its author's, so that checking it needs no directory.
    PublicKey, 32
);
bytes_id!(
    /// An Ed25519 signature.
    Signature, 64
);
bytes_id!(
    /// Identity of a peer: SHA-256 of its public key. Shown as 52 characters of base32, or the first 7.
    PeerId, 32
);
bytes_id!(
    /// Identity of a mesh: the hash of its genesis entry.
    MeshId, 32
);
bytes_id!(
    /// Identity of a call: origin (64 bits), origin's incarnation (32 bits), counter (32 bits), so that byte order is
    /// the order of acceptance within one origin's incarnation. Shown as 26 characters of Crockford base32.
    ReqId, 16
);

fn first_eight(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

fn base32(bytes: &[u8]) -> String {
    BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

impl Hash {
    /// The hash of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// All zeroes: the "previous entry" of a log's first.
    pub const ZERO: Self = Self([0; 32]);
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32(&self.0))
    }
}

impl PublicKey {
    /// The peer that owns this key.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        PeerId(Hash::of(&self.0).0)
    }
}

impl PeerId {
    /// The first 7 characters, enough for people to tell their devices apart.
    #[must_use]
    pub fn short(&self) -> String {
        base32(&self.0)[..7].to_owned()
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32(&self.0))
    }
}

impl fmt::Display for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32(&self.0))
    }
}

fn parse_base32(what: &'static str, text: &str) -> Result<[u8; 32], InvalidId> {
    BASE32_NOPAD
        .decode(text.to_ascii_uppercase().as_bytes())
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| InvalidId::new(what, "it must be 52 characters of base32", text))
}

impl FromStr for PeerId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        parse_base32("peer id", text).map(Self)
    }
}

impl FromStr for MeshId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        parse_base32("mesh id", text).map(Self)
    }
}

/// Largest counter in a [`ReqId`]: 32 bits, or 50 days of a thousand calls a second. After it an origin begins a new
/// incarnation.
pub const COUNTER_MAX: u64 = u32::MAX as u64;

impl ReqId {
    /// Puts an id together; `counter` is cut to 32 bits.
    #[must_use]
    pub fn new(origin: &PeerId, incarnation: Incarnation, counter: u64) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&origin.0[..8]);
        bytes[8..12].copy_from_slice(&incarnation.0.to_be_bytes());
        bytes[12..].copy_from_slice(&counter.to_be_bytes()[4..]);
        Self(bytes)
    }

    /// Origin and incarnation: the prefix under which counters rise.
    #[must_use]
    pub fn series(&self) -> Series {
        let mut bytes = [0; 12];
        bytes.copy_from_slice(&self.0[..12]);
        Series(bytes)
    }

    /// Position in its [`Series`].
    #[must_use]
    pub fn counter(&self) -> u64 {
        let mut bytes = [0; 8];
        bytes[4..].copy_from_slice(&self.0[12..]);
        u64::from_be_bytes(bytes)
    }

    /// All that it says of its origin: the first 64 bits of that one's identity.
    pub(crate) fn origin(&self) -> &[u8] {
        &self.0[..8]
    }

    /// True if `origin` issued this id, as far as an id can tell: by 64 bits. Where the call's header is known, its
    /// author is compared as a whole.
    #[must_use]
    pub fn is_of(&self, origin: &PeerId) -> bool {
        self.0[..8] == origin.0[..8]
    }
}

fn crockford() -> &'static Encoding {
    static ENCODING: std::sync::OnceLock<Encoding> = std::sync::OnceLock::new();
    ENCODING.get_or_init(|| {
        let mut spec = Specification::new();
        spec.symbols.push_str("0123456789abcdefghjkmnpqrstvwxyz");
        spec.translate.from.push_str("ABCDEFGHJKMNPQRSTVWXYZoOiIlL");
        spec.translate.to.push_str("abcdefghjkmnpqrstvwxyz001111");
        spec.encoding().expect("the alphabet is a constant")
    })
}

impl fmt::Display for ReqId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crockford().encode(&self.0))
    }
}

impl FromStr for ReqId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        crockford()
            .decode(text.as_bytes())
            .ok()
            .and_then(|bytes| Self::from_slice(&bytes))
            .ok_or_else(|| InvalidId::new("call id", "it must be 26 characters of Crockford base32", text))
    }
}

/// Origin (64 bits) and its incarnation (32 bits): the counters of one series are comparable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Series(#[serde(with = "serde_bytes")] pub [u8; 12]);

impl Series {
    /// All series of an origin.
    pub(crate) fn all_of(origin: &PeerId) -> std::ops::RangeInclusive<Self> {
        let of = |incarnation| ReqId::new(origin, Incarnation(incarnation), 0).series();
        of(0)..=of(u32::MAX)
    }
}

/// One incarnation of a database: random when it is made, and renewed when a rollback of it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u32);

/// Which try of a call: 1 to [`ATTEMPTS_MAX`].
pub type Attempt = u8;

/// No call is tried more often (`docs/protocol.md`, Calls).
pub const ATTEMPTS_MAX: Attempt = 3;

/// Place up to which a log is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Known {
    /// Author of the log.
    pub author: PeerId,
    /// Incarnation of that author's store.
    pub incarnation: Incarnation,
    /// Place of the last entry that is known of it.
    pub seq: u64,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.to_owned().try_into()
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                let check: fn(&str) -> bool = $check;
                if check(&text) { Ok(Self(text)) } else { Err(InvalidId::new($what, $rule, &text)) }
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
pub(crate) use text_id;

/// The conversions that serde takes a type's text form by, from its `FromStr` and `Display`.
macro_rules! text_form {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }
    };
}
pub(crate) use text_form;

text_id!(
    /// The human name of a node, such as `macbook-pro`: unique in its mesh, bound to a key at approval.
    NodeId, "node id", "it must be 1 to 63 of a-z, 0-9 and -, not starting or ending with -",
    |text| {
        (1..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-')
    }
);

text_id!(
    /// Name of a tool on its node, such as `files.read`. No `:` or `/`: they would break `node:<id>:<tool>` and paths.
    ToolName, "tool name", "it must be 1 to 64 of a-z, A-Z, 0-9, . _ and -, starting with a letter or digit",
    |text| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
    }
);

impl ToolName {
    /// The name in small letters, as patterns meet it.
    #[must_use]
    pub fn folded(&self) -> Cow<'_, str> {
        if self.0.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(self.0.to_ascii_lowercase())
        } else {
            Cow::Borrowed(&self.0)
        }
    }
}

impl NodeId {
    /// Makes a valid name out of any text, such as a machine's host name: lower case, the rest turned into `-`.
    #[must_use]
    pub fn slug(text: &str) -> Self {
        let mut slug = String::new();
        for c in text.chars().flat_map(char::to_lowercase) {
            if c.is_ascii_lowercase() || c.is_ascii_digit() {
                slug.push(c);
            } else if !slug.is_empty() && !slug.ends_with('-') {
                slug.push('-');
            }
        }
        slug.truncate(63);
        let slug = slug.trim_matches('-');
        Self(if slug.is_empty() { "node".to_owned() } else { slug.to_owned() })
    }

    /// The `n`-th variant of a name that is taken: `name-2`, `name-3`, …
    #[must_use]
    pub fn variant(&self, n: usize) -> Self {
        let suffix = format!("-{n}");
        let stem: String = self.0.chars().take(63 - suffix.len()).collect();
        Self(format!("{}{suffix}", stem.trim_end_matches('-')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_id_keeps_its_parts() {
        let origin = PublicKey([7; 32]).peer_id();
        let id = ReqId::new(&origin, Incarnation(0xdead_beef), 0x1234_5678);
        assert_eq!(id.counter(), 0x1234_5678);
        assert!(id.is_of(&origin));
        assert_eq!(id.to_string().len(), 26);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
    }

    #[test]
    fn s26_a_key_ground_to_48_equal_bits_owns_no_id_of_another() {
        let origin = PeerId([7; 32]);
        let mut look_alike = PeerId([9; 32]);
        look_alike.0[..7].copy_from_slice(&origin.0[..7]);
        let id = ReqId::new(&origin, Incarnation(1), 1);
        assert!(id.is_of(&origin) && !id.is_of(&look_alike));
        assert_ne!(ReqId::new(&look_alike, Incarnation(1), 1).series(), id.series());
    }

    #[test]
    fn names_of_nodes_and_tools_refuse_what_breaks_addresses() {
        let long = "a".repeat(300);
        for bad in ["", ":", "a:b", "a/b", "a\0b", "Ä", "A", "-a", "a-", long.as_str()] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad:?}");
        }
        for bad in ["", "a:b", "a/b", "a\0", "é", ".a", long.as_str()] {
            assert!(bad.parse::<ToolName>().is_err(), "{bad:?}");
        }
        assert!("macbook-pro".parse::<NodeId>().is_ok());
        assert!("files.read".parse::<ToolName>().is_ok());
    }

    proptest! {
        #[test]
        fn any_text_slugs_to_a_valid_name(text in ".*") {
            let slug = NodeId::slug(&text);
            prop_assert!(slug.as_str().parse::<NodeId>().is_ok());
            prop_assert!(slug.variant(2).as_str().parse::<NodeId>().is_ok());
        }

        #[test]
        fn ids_of_one_origin_sort_by_counter(a in 0..COUNTER_MAX, b in 0..COUNTER_MAX) {
            let origin = PublicKey([1; 32]).peer_id();
            let (x, y) = (ReqId::new(&origin, Incarnation(1), a), ReqId::new(&origin, Incarnation(1), b));
            prop_assert_eq!(a.cmp(&b), x.cmp(&y));
        }
    }
}
