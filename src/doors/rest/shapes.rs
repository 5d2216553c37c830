//! Values as clients write them: names, ids, cursors, words, numbers. Each type reads its text, and brings the pattern and
//! the bounds that the description of the API shows. A test holds the two together: what a type reads fits its pattern,
//! and what fits the pattern is read, unless the type has a `format`, which says more than a pattern can.
//!
//! Only the shape is judged here. A well-formed name that nobody has is the business of the operation.

use std::fmt;
use std::time::Duration;

use memory_core::ids::MessageKey;
use mesh_core::ids::{Hash, NodeId, ReqId, ToolName};
use mesh_core::limits;
use mesh_core::names::PREFIX_MIN;
use mesh_core::policy::{self, AgentName, Domain, Note, PersonId, Principal, Title, Verdict};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer};
use tracing::Level;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::{Object, RefOr};
use utoipa::{PartialSchema, ToSchema};

use crate::config::{PolicySettings, QUIC_PORT_DEFAULT};
use crate::doors::ops;
use crate::doors::ops::logins::LOGIN_BYTES_MAX;
use crate::doors::ops::policy::EditId;
use crate::mesh::check_words::CheckWords;
use crate::mesh::invite::{InviteCode, InviteCodeError};
use crate::mesh::transport::Address;
use crate::mesh::{AuditCursor, CallCursor, CallStateFilter};
use crate::status::{ErrorCode, OpError};

/// A value that is read from a text: a part of the path, of the query or of a body, or a header.
pub(super) trait Shape: Sized {
    /// Reads it. The error is a sentence without a dot, fit for a person.
    fn read(text: &str) -> Result<Self, String>;
}

/// Longest name of what runs tools: that of a tool, after where it comes from.
const PROVIDER_NAME_MAX: usize = 96;

/// `text` for an error: short, and without what could steer a terminal.
fn shown(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_default).collect()
}

/// Declares types by pattern, lengths, example and reader.
macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident($of:ty) {
        pattern $pattern:expr, length $min:literal..=$max:expr, $(format $format:literal,)? example $example:expr, read $read:expr
    })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone)]
            pub(super) struct $name(pub(super) $of);

            impl Shape for $name {
                fn read(text: &str) -> Result<Self, String> {
                    let read: fn(&str) -> Result<$of, String> = $read;
                    read(text).map(Self)
                }
            }

            impl PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    let text = ObjectBuilder::new().schema_type(Type::String).pattern(Some($pattern));
                    let text = text.examples([$example]);
                    // A pattern beside a format has its bounds in itself: of a text with a checksum there is no shortest one.
                    let formats: &[&str] = &[$($format)?];
                    match formats.first() {
                        Some(format) => text.format(Some(SchemaFormat::Custom((*format).to_owned()))).into(),
                        None => text.min_length(Some($min)).max_length(Some($max)).into(),
                    }
                }
            }

            impl ToSchema for $name {}

            impl<'de> Deserialize<'de> for $name {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    let text = String::deserialize(deserializer)?;
                    Self::read(&text).map_err(serde::de::Error::custom)
                }
            }
        )*

        #[cfg(test)]
        const TEXTS: &[tests::Text] = &[$(tests::Text {
            name: stringify!($name),
            pattern: $pattern,
            length: $min..=$max,
            example: $example,
            has_format: { let formats: &[&str] = &[$($format)?]; !formats.is_empty() },
            reads: |text| <$name as Shape>::read(text).is_ok(),
        },)*];
    };
}

/// Patterns share their parts.
macro_rules! name {
    () => {
        "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    };
}
macro_rules! device {
    () => {
        concat!("(", name!(), "|[A-Za-z2-7]{7,52})")
    };
}
macro_rules! tool {
    () => {
        "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
    };
}
macro_rules! topics {
    () => {
        "(gateway|nodes|call|pending|nearby|warning)"
    };
}

/// Words of the topics of events.
pub(super) const TOPICS: [&str; 6] = ["gateway", "nodes", "call", "pending", "nearby", "warning"];
/// Characters of a peer id.
const PEER_ID_LEN: usize = 52;
/// Longest name of a node.
const NODE_ID_MAX: usize = 63;
/// Longest name of a tool.
const TOOL_NAME_MAX: usize = 64;
/// Longest text of rights, bytes.
const RIGHTS_TEXT_MAX: usize = 1 << 20;
/// Longest run of spaces and hyphens around words.
const GAP_MAX: usize = 9;
/// Longest text of words, code and address of another device; each is far more than any of them has.
const WORDS_MAX: usize = 4 * 8 + 5 * GAP_MAX;
const CODE_MAX: usize = 2048;
const ADDRESS_MAX: usize = 300;

/// Longest texts of memory, characters; bytes are counted by memory itself.
const MEMORY_TEXT_MAX: usize = memory_core::limits::TEXT_BYTES_MAX;
const MEMORY_NAME_MAX: usize = memory_core::limits::NAME_BYTES_MAX;
const SPEAKER_MAX: usize = memory_core::limits::SPEAKER_BYTES_MAX;
const QUESTION_MAX: usize = 2_000;

texts! {
    /// Id of a call.
    CallId(ReqId) {
        // 128 bits in 26 characters of 5: two bits of the last one are 0.
        pattern "^[0-9A-TV-Za-tv-z]{25}[048CGMORWcgmorw]$", length 26..=26,
        example "2nzv4a80000000000000000004",
        read |text| text.parse().map_err(|error: mesh_core::ids::InvalidId| error.to_string())
    }

    /// A device: its name, its peer id, or a prefix of that of at least 7 characters.
    DeviceRef(String) {
        pattern concat!("^", device!(), "$"), length 1..=NODE_ID_MAX,
        example "attic",
        read |text| {
            let is_prefix = (PREFIX_MIN..=PEER_ID_LEN).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphabetic() || matches!(byte, b'2'..=b'7'));
            if is_prefix || text.parse::<NodeId>().is_ok() {
                return Ok(text.to_owned());
            }
            Err(format!(
                "`{}` names no device: a name has 1 to 63 of a-z, 0-9 and -, a peer id or its beginning 7 to 52 of a-z and 2-7",
                shown(text)
            ))
        }
    }

    /// Name of a device.
    NodeName(NodeId) {
        pattern concat!("^", name!(), "$"), length 1..=NODE_ID_MAX,
        example "attic",
        read |text| text.parse().map_err(|error: mesh_core::ids::InvalidId| error.to_string())
    }

    /// Name of a tool, on the device that is named beside it.
    NameOfTool(ToolName) {
        pattern concat!("^", tool!(), "$"), length 1..=TOOL_NAME_MAX,
        example "device.info",
        read |text| text.parse().map_err(|error: mesh_core::ids::InvalidId| error.to_string())
    }

    /// Address of a tool: its device and its name.
    ToolAddress((String, ToolName)) {
        pattern concat!("^node:", device!(), ":", tool!(), "$"), length 8..=5 + NODE_ID_MAX + 1 + TOOL_NAME_MAX,
        example "node:attic:device.info",
        read |text| {
            let (device, tool) = text.strip_prefix("node:").and_then(|rest| rest.split_once(':')).ok_or_else(|| {
                format!("`{}` is no address of a tool, such as `node:attic:device.info`", shown(text))
            })?;
            Ok((DeviceRef::read(device)?.0, NameOfTool::read(tool)?.0))
        }
    }

    /// Name of a person.
    PersonName(PersonId) {
        pattern concat!("^", name!(), "$"), length 1..=NODE_ID_MAX, format "sigil-name",
        example "mia",
        read |text| text.parse().map_err(|error: mesh_core::ids::InvalidId| error.to_string())
    }

    /// A login of a tailnet, mostly a mail address.
    LoginName(String) {
        pattern "^[A-Za-z0-9][A-Za-z0-9.@_+-]{0,253}$", length 1..=LOGIN_BYTES_MAX,
        example "mia@example.org",
        read |text| {
            let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b".@_+-".contains(&byte);
            let starts = text.starts_with(|c: char| c.is_ascii_alphanumeric());
            if starts && text.len() <= LOGIN_BYTES_MAX && text.bytes().all(is_fit) {
                return Ok(text.to_owned());
            }
            Err(format!("a login has at most {LOGIN_BYTES_MAX} letters, digits and characters of .@_+-, and begins with one of the former"))
        }
    }

    /// Name of a workspace; `mesh` is what holds in all of them.
    SpaceName(Domain) {
        pattern concat!("^", name!(), "$"), length 1..=NODE_ID_MAX, format "sigil-name",
        example "family",
        read |text| text.parse().map_err(|error: mesh_core::ids::InvalidId| error.to_string())
    }

    /// Name of an agent of whoever asks.
    NameOfAgent(AgentName) {
        pattern concat!("^", name!(), "$"), length 1..=NODE_ID_MAX, format "sigil-name",
        example "claude",
        read |text| text.parse().map_err(|error: mesh_core::ids::InvalidId| error.to_string())
    }

    /// Who asks: a person, an agent of a person, or a device.
    Asker(Principal) {
        pattern concat!("^(person:", name!(), "|agent:", name!(), "/", name!(), "|device:", name!(), ")$"), length 1..=140,
        format "sigil-principal",
        example "person:mia",
        read |text| text.parse().map_err(|error: mesh_core::ids::InvalidId| error.to_string())
    }

    /// Rights as the sections `people`, `agents`, `devices`, `workspaces` and `checks` of `sigil.toml` say them.
    RightsText(PolicySettings) {
        pattern "^[\\s\\S]*$", length 0..=RIGHTS_TEXT_MAX, format "sigil-rights",
        example "[people.mia]\n",
        read |text| {
            if text.len() > RIGHTS_TEXT_MAX {
                return Err(format!("the text may have at most {RIGHTS_TEXT_MAX} bytes"));
            }
            PolicySettings::parse(text).map_err(|error| error.to_string())
        }
    }

    /// `If-Match`: the state that an edit is of.
    EntityTags(ops::policy::IfMatch) {
        pattern "^(\\*|(W/)?\"[!#-+\\--~]{0,64}\"(, ?(W/)?\"[!#-+\\--~]{0,64}\"){0,7})$", length 1..=560, format "sigil-entity-tags",
        example "\"9f86d081884c7d659a2feaa0c55ad015\"",
        read |text| text.parse()
    }

    /// Place in the list of calls.
    CallsCursor(CallCursor) {
        pattern "^[A-Za-z0-9_-]{32}$", length 32..=32,
        example "AAABjx8pbAAAAAAAAAAAAAAAAAAAAAAA",
        read |text| {
            let read = || {
                let bytes = data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
                let (time, id) = bytes.split_first_chunk::<8>()?;
                Some(CallCursor { accepted_ms: u64::from_be_bytes(*time), id: ReqId::from_slice(id)? })
            };
            read().ok_or_else(|| "`cursor` is not one that this route gave out".to_owned())
        }
    }

    /// Place in the audit: of calls and of what else happened there.
    AuditPlace(ops::audit::Place) {
        pattern "^([A-Za-z0-9_-]{72})?\\.([A-Za-z0-9_-]{32})?$", length 1..=105,
        example ".AAABjx8pbAAAAAAAAAAAAAAAAAAAAAAA",
        read |text| {
            let read = || {
                let (row, call) = text.split_once('.')?;
                let bytes = |text: &str| data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).ok();
                let row = (!row.is_empty()).then_some(row).map(|row| {
                    let row = bytes(row)?;
                    let (key, row) = row.split_last_chunk::<2>()?;
                    let (at_ms, place) = mesh_core::rows::audit_of(key)?;
                    Some(AuditCursor { at_ms, place, row: u16::from_be_bytes(*row) })
                });
                let call = (!call.is_empty()).then_some(call).map(|call| Some(CallsCursor::read(call).ok()?.0));
                let whole = row != Some(None) && call != Some(None);
                whole.then(|| ops::audit::Place { rows: row.flatten(), calls: call.flatten() })
            };
            read().ok_or_else(|| "`cursor` is not one that this route gave out".to_owned())
        }
    }

    /// Place in the log: a run of the agent, and a line of it.
    LogCursor((u64, u64)) {
        pattern "^[0-9a-f]{1,16}-[0-9]{1,19}$", length 3..=36,
        example "19a8c2f4e10-42",
        read |text| {
            let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'));
            let read = || {
                let (run, line) = text.split_once('-')?;
                let fits = is_hex(run) && run.len() <= 16 && line.len() <= 19 && line.bytes().all(|byte| byte.is_ascii_digit());
                if fits { Some((u64::from_str_radix(run, 16).ok()?, line.parse().ok()?)) } else { None }
            };
            read().ok_or_else(|| "`cursor` is not one that this route gave out".to_owned())
        }
    }

    /// Id of an invite.
    InviteId(String) {
        pattern "^[a-z2-7]{16}$", length 16..=16,
        example "mjv67tkxorooqgwi",
        read |text| base32("id of an invite", text, 16)
    }

    /// Id of a yes for an hour.
    HourId(Hash) {
        // 256 bits in 52 characters of 5: four bits of the last one are 0.
        pattern "^[a-z2-7]{51}[aq]$", length 52..=52,
        example "mjv67tkxorooqgwimjv67tkxorooqgwimjv67tkxorooqgwimjva",
        read |text| {
            let bytes = data_encoding::BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).ok();
            let hash = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()).map(Hash);
            hash.filter(|hash| hash.to_string() == text)
                .ok_or_else(|| "it must be an id that `GET /api/v1/hours` shows".to_owned())
        }
    }

    /// Id of something that was edited in two halves of the mesh, or of one of its texts.
    EditRef(EditId) {
        pattern "^[0-9a-f]{16}$", length 16..=16,
        example "5f0c1d2e3a4b5968",
        read |text| EditId::read(text).ok_or_else(|| "it must be an id that the list of conflicts shows".to_owned())
    }

    /// Form of a tool, as it was shown: a hash of its whole declaration.
    ToolForm(Hash) {
        pattern "^[0-9a-f]{64}$", length 64..=64,
        example "5f0c1d2e3a4b59685f0c1d2e3a4b59685f0c1d2e3a4b59685f0c1d2e3a4b5968",
        read |text| {
            let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok();
            let hash = bytes.and_then(|bytes| bytes.try_into().ok()).map(Hash);
            hash.ok_or_else(|| "`shown` must be as the list of what waits says it: 64 digits of base 16".to_owned())
        }
    }

    /// Id of a token.
    TokenId(policy::TokenId) {
        pattern concat!("^", name!(), "$"), length 1..=NODE_ID_MAX,
        example "mjv67tkxor",
        read |text| text.parse().map_err(|error: mesh_core::ids::InvalidId| error.to_string())
    }

    /// Id of a session of the web page.
    SessionId(String) {
        pattern "^[a-z2-7]{16}$", length 16..=16,
        example "mjv67tkxormjv67t",
        read |text| {
            let good = text.len() == 16 && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
            good.then(|| text.to_owned()).ok_or_else(|| "the id of a session has 16 letters or digits".to_owned())
        }
    }

    /// Code that opens a session of the web page.
    SignInCode(String) {
        pattern "^[A-Za-z2-7]{5}[ -]?[A-Za-z2-7]{5}$", length 10..=11,
        example "MJV67-TKXOR",
        read |text| {
            let is_letter = |c: char| matches!(c, 'A'..='Z' | 'a'..='z' | '2'..='7');
            let parts = text.split_once(['-', ' ']).or_else(|| text.split_at_checked(5));
            let good = parts.is_some_and(|(a, b)| [a, b].iter().all(|part| part.len() == 5 && part.chars().all(is_letter)));
            good.then(|| text.to_owned()).ok_or_else(|| "a code has twice 5 letters or digits".to_owned())
        }
    }

    /// Name of a token, for people.
    TokenName(Title) {
        pattern "^[^\\x00-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]*$",
        length 0..=ops::tokens::TOKEN_NAME_MAX,
        example "backup of the attic",
        read |text| text.parse().map_err(|error: mesh_core::ids::InvalidId| error.to_string())
    }

    /// Remark on an answer, for people.
    AnswerNote(Note) {
        pattern "^[^\\x00-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]*$",
        length 0..=policy::bounds::NOTE_CHARS_MAX,
        example "only today",
        read |text| text.parse().map_err(|error: mesh_core::ids::InvalidId| error.to_string())
    }

    /// Reason for people.
    Reason(String) {
        pattern "^[^\\x00]*$", length 0..=ops::calls::REASON_MAX,
        example "not needed any more",
        read |text| {
            let max = ops::calls::REASON_MAX;
            if text.chars().count() > max || text.contains('\0') {
                return Err(format!("a reason has at most {max} characters, and no NUL"));
            }
            Ok(text.to_owned())
        }
    }

    /// Name that a client gives to a call of its own.
    ClientKey(String) {
        pattern "^[!-~]([ -~]{0,253}[!-~])?$", length 1..=limits::CLIENT_KEY_BYTES_MAX,
        example "lamp-2026-11-26",
        read |text| {
            let max = limits::CLIENT_KEY_BYTES_MAX;
            let is_printable = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
            if (1..=max).contains(&text.len()) && is_printable && text.trim() == text {
                return Ok(text.to_owned());
            }
            Err(format!("Idempotency-Key must be one value of 1 to {max} printable ASCII characters"))
        }
    }

    /// Id of a message in memory.
    MemoryId(MessageKey) {
        // 128 bits in 26 characters of 5: two bits of the last one are 0.
        pattern "^[a-z2-7]{25}[aeimquy4]$", length 26..=26,
        example "mjv67tkxorooqgwimjv67tkxoq",
        read |text| {
            let key = MessageKey::parse(text).filter(|key| key.to_string() == text);
            key.ok_or_else(|| format!("`{}` is no id of a message in memory: it has 26 of a-z and 2-7", shown(text)))
        }
    }

    /// Name of a model.
    ModelName(String) {
        pattern concat!("^", name!(), "$"), length 1..=NODE_ID_MAX,
        example "all-minilm-l6-v2",
        read |text| {
            let name = text.parse::<NodeId>().map(|_| text.to_owned());
            name.map_err(|_| format!("`{}` names no model: a name has 1 to {NODE_ID_MAX} of a-z, 0-9 and -", shown(text)))
        }
    }

    /// Name of what runs tools.
    ProviderName(String) {
        pattern "^[A-Za-z0-9][A-Za-z0-9._-]*$", length 1..=PROVIDER_NAME_MAX,
        example "photo-tools",
        read |text| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
            let starts = text.starts_with(|first: char| first.is_ascii_alphanumeric());
            if starts && text.len() <= PROVIDER_NAME_MAX && text.bytes().all(plain) {
                return Ok(text.to_owned());
            }
            Err(format!("`{}` names nothing that runs tools: a name has 1 to {PROVIDER_NAME_MAX} of a-z, A-Z, 0-9, . _ and -", shown(text)))
        }
    }

    /// Text of a message.
    MemoryText(String) {
        pattern "^[\\s\\S]*\\S[\\s\\S]*$", length 1..=MEMORY_TEXT_MAX, format "sigil-memory-text",
        example "The boiler pressure should stay at 1.6 bar.",
        read |text| within("a text", text, MEMORY_TEXT_MAX)
    }

    /// Name that a caller gives to a message, a conversation or a session.
    MemoryName(String) {
        pattern "^[\\s\\S]+$", length 1..=MEMORY_NAME_MAX,
        example "D1:3",
        read |text| {
            if text.is_empty() || text.chars().count() > MEMORY_NAME_MAX {
                return Err(format!("a name in memory has 1 to {MEMORY_NAME_MAX} characters"));
            }
            Ok(text.to_owned())
        }
    }

    /// Who said a message.
    SpeakerName(String) {
        pattern "^[\\s\\S]*$", length 0..=SPEAKER_MAX,
        example "Ann",
        read |text| {
            if text.chars().count() > SPEAKER_MAX {
                return Err(format!("the name of a speaker has at most {SPEAKER_MAX} characters"));
            }
            Ok(text.to_owned())
        }
    }

    /// When something was said: RFC 3339. Without a zone it is UTC.
    MessageTime((i64, i16)) {
        pattern "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2}(\\.[0-9]{1,9})?)?(Z|[+-][0-9]{2}:[0-9]{2})?$",
        length 16..=35, format "sigil-time",
        example "2026-11-27T14:30:00+01:00",
        read |text| read_time(text).ok_or_else(|| format!("`{}` is no time such as 2026-11-27T14:30:00+01:00", shown(text)))
    }

    /// A question, or words of a topic.
    MemoryQuestion(String) {
        pattern "^[\\s\\S]*\\S[\\s\\S]*$", length 1..=QUESTION_MAX, format "sigil-memory-text",
        example "How high should the pressure of the boiler be?",
        read |text| within("a question", text, QUESTION_MAX)
    }

    /// Place in the list of messages.
    MemoryCursor(crate::memory::Place) {
        pattern "^[A-Za-z0-9_-]{32}$", length 32..=32,
        example "AAABjx8pbAAAAAAAAAAAAAAAAAAAAAAA",
        read |text| {
            let read = || {
                let bytes = data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
                let (time, key) = bytes.split_first_chunk::<8>()?;
                Some((i64::from_be_bytes(*time), MessageKey(key.try_into().ok()?)))
            };
            read().ok_or_else(|| "`cursor` is not one that this route gave out".to_owned())
        }
    }

    /// Topics of events, with commas between them.
    Topics(Vec<String>) {
        pattern concat!("^", topics!(), "(,", topics!(), "){0,15}$"), length 4..=160,
        example "call,nodes",
        read |text| {
            let words: Vec<_> = text.split(',').collect();
            if words.len() > 16 {
                return Err("there are at most 16 topics in a list".to_owned());
            }
            let topics = words.into_iter().map(|word| {
                let known = TOPICS.contains(&word);
                let unknown = || format!("`{}` is not a topic: {}", shown(word), TOPICS.join(", "));
                if known { Ok(word.to_owned()) } else { Err(unknown()) }
            });
            topics.collect()
        }
    }

    /// Check words of a device: four of the list, in any case, with spaces or hyphens between them.
    Words(CheckWords) {
        pattern "^[ -]{0,9}[A-Za-z]{3,8}([ -]{1,9}[A-Za-z]{3,8}){3}[ -]{0,9}$", length 15..=WORDS_MAX,
        format "sigil-check-words",
        example "abandon ability able about",
        read |text| {
            let gap = text.split(|letter: char| letter.is_ascii_alphabetic()).map(str::len).max();
            if gap > Some(GAP_MAX) || !text.bytes().all(|byte| byte.is_ascii_alphabetic() || matches!(byte, b' ' | b'-')) {
                return Err(crate::mesh::check_words::NoCheckWords.to_string());
            }
            text.parse().map_err(|error: crate::mesh::check_words::NoCheckWords| error.to_string())
        }
    }

    /// Code of `sigil invite`: in any case, with space anywhere after `sigil1-`, with a checksum at its end.
    Code(InviteCode) {
        pattern "^\\s{0,99}[Ss][Ii][Gg][Ii][Ll]1-[\\s0-9A-TV-Za-tv-z-]{1,2041}$", length 7..=CODE_MAX,
        format "sigil-code",
        example "sigil1-c3v367jhtjfvcybj5s6cpqbvv3x9jysn7drws1tn1xe99kx93ab0dsvpey5p3gred5vzksfsnbc8me2b38j6hph1rcrp5p210ffbx10yaqxchj0whwm43g7f6jsk9v3b000038gsdbsjj0g4r00040k5r83ft000000000000000000000004se20hzg0001cq10c0000000000000000000000000b5rb3zc4nf",
        read |text| {
            if text.len() > CODE_MAX || text.len() - text.trim_start().len() > 99 {
                return Err(InviteCodeError::TooLong.to_string());
            }
            text.parse().map_err(|error: InviteCodeError| error.to_string())
        }
    }

    /// Where a device is: an IP address or a host name, with or without a port.
    DeviceAddress(Address) {
        pattern "^[!-~]([ -~]{0,298}[!-~])?$", length 1..=ADDRESS_MAX,
        format "sigil-address",
        example "192.0.2.20:7433",
        read |text| {
            let is_printable = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
            if text.len() > ADDRESS_MAX || !is_printable || text.trim() != text {
                return Err("an address is one of at most 300 printable ASCII characters, without space around it".to_owned());
            }
            Address::of_person(text, QUIC_PORT_DEFAULT).map_err(|error| error.to_string())
        }
    }
}

/// A text that says something, of at most so many characters; how many bytes it may have, memory itself says.
fn within(what: &str, text: &str, max: usize) -> Result<String, String> {
    let says = text.chars().any(|letter| matches!(letter, '!'..='~' | '\u{a1}'..) && !letter.is_whitespace());
    if !says || text.chars().count() > max {
        return Err(format!("{what} has 1 to {max} characters, and not only spaces"));
    }
    Ok(text.to_owned())
}

/// Milliseconds since 1970, and minutes east of UTC.
fn read_time(text: &str) -> Option<(i64, i16)> {
    let (local, offset) = match text.len().checked_sub(6).and_then(|at| text.split_at_checked(at)) {
        Some((local, zone)) if zone.starts_with(['+', '-']) && zone.get(3..4) == Some(":") => {
            let number = |at: std::ops::Range<usize>| {
                zone.get(at).filter(|it| it.bytes().all(|b| b.is_ascii_digit()))?.parse::<i16>().ok()
            };
            let minutes = number(1..3)? * 60 + number(4..6)?;
            (local, if zone.starts_with('-') { -minutes } else { minutes })
        }
        Some(_) | None => (text.strip_suffix('Z').unwrap_or(text), 0),
    };
    let plain = local.bytes().enumerate().all(|(at, byte)| match at {
        4 | 7 => byte == b'-',
        10 => byte == b'T',
        13 | 16 => byte == b':',
        19 => byte == b'.',
        _ => byte.is_ascii_digit(),
    });
    if !plain || !matches!(local.len(), 16 | 19 | 21..=29) || offset.abs() > 18 * 60 {
        return None;
    }
    let time: jiff::civil::DateTime = local.parse().ok()?;
    let utc = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_millisecond();
    Some((utc.checked_sub(i64::from(offset) * 60_000)?, offset))
}

fn base32(what: &str, text: &str, len: usize) -> Result<String, String> {
    if text.len() == len && text.bytes().all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'2'..=b'7')) {
        return Ok(text.to_owned());
    }
    Err(format!("`{}` is no {what}: it has {len} of a-z and 2-7", shown(text)))
}

/// Declares words of which a value is one.
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident($of:ty) { $($word:literal)+, what $what:literal, read $read:expr })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub(super) struct $name(pub(super) $of);

        impl $name {
            const WORDS: &[&str] = &[$($word),+];
        }

        impl Shape for $name {
            fn read(text: &str) -> Result<Self, String> {
                let read: fn(&str) -> Option<$of> = $read;
                let found = Self::WORDS.contains(&text).then(|| read(text)).flatten();
                found.map(Self).ok_or_else(|| {
                    format!(concat!("`{}` is not a ", $what, ": it is one of {}"), shown(text), Self::WORDS.join(", "))
                })
            }
        }

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new().schema_type(Type::String).enum_values(Some(Self::WORDS.iter().copied())).into()
            }
        }

        impl ToSchema for $name {}

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::read(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    )*};
}

words! {
    /// States of calls.
    CallStates(CallStateFilter) {
        "open" "queued" "ended" "accepted" "asking" "dispatched" "running" "done" "failed" "interrupted" "expired" "cancelled"
        "denied" "undeliverable",
        what "state", read CallStateFilter::parse
    }

    /// A verdict.
    VerdictWord(Verdict) {
        "allow" "ask" "deny",
        what "verdict", read |text| match text {
            "allow" => Some(Verdict::Allow),
            "ask" => Some(Verdict::Ask),
            _ => Some(Verdict::Deny),
        }
    }

    /// Severity of log lines.
    LogLevel(Level) {
        "error" "warn" "info" "debug" "trace",
        what "level", read |text| text.parse().ok()
    }
}

/// A whole number within bounds, in JSON.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whole<const MIN: u64, const MAX: u64>(pub(super) u64);

impl<const MIN: u64, const MAX: u64> Whole<MIN, MAX> {
    fn new(value: u64) -> Result<Self, String> {
        if (MIN..=MAX).contains(&value) {
            Ok(Self(value))
        } else {
            Err(format!("{value} is not within {MIN} to {MAX}"))
        }
    }
}

/// As the query writes it: digits alone.
impl<const MIN: u64, const MAX: u64> Shape for Whole<MIN, MAX> {
    fn read(text: &str) -> Result<Self, String> {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = is_number.then(|| text.parse().ok()).flatten();
        let outside = || format!("`{}` is not a whole number within {MIN} to {MAX}", shown(text));
        number.and_then(|number| Self::new(number).ok()).ok_or_else(outside)
    }
}

impl<const MIN: u64, const MAX: u64> PartialSchema for Whole<MIN, MAX> {
    fn schema() -> RefOr<Schema> {
        whole(MIN, MAX).into()
    }
}

fn whole(min: u64, max: u64) -> Object {
    let number = ObjectBuilder::new().schema_type(Type::Integer);
    // Bounds of ours are far below what a number of JSON can hold.
    number.minimum(Some(min)).maximum(Some(max)).build()
}

impl<const MIN: u64, const MAX: u64> ToSchema for Whole<MIN, MAX> {
    fn name() -> std::borrow::Cow<'static, str> {
        format!("Whole_{MIN}_{MAX}").into()
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Whole<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(deserializer.deserialize_any(WholeNumber)?).map_err(serde::de::Error::custom)
    }
}

/// Takes `900.0` too: to JSON, and so to those who check against a schema, it is the same number.
struct WholeNumber;

impl Visitor<'_> for WholeNumber {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<u64, E> {
        Ok(value)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<u64, E> {
        /// Every whole number below it has a double of its own.
        const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
        if value.fract() == 0.0 && (0.0..EXACT_MAX).contains(&value) {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked")]
            return Ok(value as u64);
        }
        Err(E::invalid_type(serde::de::Unexpected::Float(value), &self))
    }
}

/// Reads a member of the query, which is a text whatever its type.
pub(super) fn of_query<'de, T: Shape, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::read(&String::deserialize(deserializer)?).map(Some).map_err(serde::de::Error::custom)
}

/// Reads a member that may be absent, but not `null`.
pub(super) fn not_null<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Bounds of a time in seconds, fractions allowed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seconds {
    /// Member of the body.
    pub(super) name: &'static str,
    /// For the description.
    pub(super) about: &'static str,
    /// Shortest time; 0 = anything above 0, which counts as at least a millisecond.
    pub(super) min_s: u32,
    /// Longest time.
    pub(super) max_s: u32,
}

impl Seconds {
    /// `seconds` in whole milliseconds, rounded up.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within bounds of 32 bits")]
    pub(super) fn read(&self, seconds: f64) -> Result<Duration, OpError> {
        let Self { name, min_s, max_s, .. } = *self;
        if seconds > 0.0 && seconds >= f64::from(min_s) && seconds <= f64::from(max_s) {
            return Ok(Duration::from_millis((seconds * 1000.0).ceil() as u64));
        }
        let least = if min_s == 0 { "above 0".to_owned() } else { format!("at least {min_s}") };
        let error = OpError::new(ErrorCode::Invalid, format!("{name} must be {least} and at most {max_s} seconds"));
        Err(if seconds == 0.0 {
            error.hint(format!("leave {name} out to get the default; 0 does not mean unlimited"))
        } else {
            error
        })
    }

    /// Its schema; null means the same as leaving it out.
    pub(super) fn schema(&self) -> Object {
        let types = utoipa::openapi::schema::SchemaType::from_iter([Type::Number, Type::Null]);
        let number = ObjectBuilder::new().schema_type(types).description(Some(self.about)).maximum(Some(self.max_s));
        if self.min_s == 0 {
            number.exclusive_minimum(Some(0)).build()
        } else {
            number.minimum(Some(self.min_s)).build()
        }
    }
}

impl serde::Serialize for NodeName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;

    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};
    use regex::Regex;

    use super::*;

    pub(super) struct Text {
        pub(super) name: &'static str,
        pub(super) pattern: &'static str,
        pub(super) length: RangeInclusive<usize>,
        pub(super) example: &'static str,
        pub(super) has_format: bool,
        pub(super) reads: fn(&str) -> bool,
    }

    /// A text that fits, or one that is a little off.
    fn around(pattern: &str) -> impl Strategy<Value = String> {
        let fitting = proptest::string::string_regex(pattern.trim_start_matches('^').trim_end_matches('$')).unwrap();
        let odd = prop_oneof![
            Just(' '),
            Just('\n'),
            Just('-'),
            Just('_'),
            Just('8'),
            Just('u'),
            Just('ü'),
            Just('\0'),
            any::<char>()
        ];
        (fitting, any::<prop::sample::Index>(), odd, 0..4_u8).prop_map(|(fitting, at, odd, what)| {
            let mut letters: Vec<char> = fitting.chars().collect();
            let at = at.index(letters.len() + 1);
            match (what, letters.get_mut(at)) {
                (0, _) => {}
                (1, Some(letter)) => *letter = odd,
                (2, Some(_)) => drop(letters.remove(at)),
                _ => letters.insert(at, odd),
            }
            letters.into_iter().collect()
        })
    }

    #[test]
    fn k06_what_is_read_is_what_the_description_says() {
        for text in TEXTS {
            let rule = Regex::new(text.pattern).unwrap();
            let fits = |value: &str| rule.is_match(value) && text.length.contains(&value.chars().count());
            assert!(fits(text.example) && (text.reads)(text.example), "the example of {}", text.name);
            let check = |value: String| {
                if (text.reads)(&value) {
                    prop_assert!(fits(&value), "{} reads {value:?}, which the description excludes", text.name);
                } else if !text.has_format {
                    prop_assert!(!fits(&value), "{} refuses {value:?}, which the description allows", text.name);
                }
                Ok(())
            };
            let mut runner = TestRunner::new(Config { cases: 2_000, failure_persistence: None, ..Config::default() });
            runner.run(&prop_oneof![9 => around(text.pattern), 1 => ".{0,70}"], check).unwrap();
        }
    }

    #[test]
    fn every_word_of_a_list_is_read() {
        assert!(CallStates::WORDS.iter().all(|word| CallStates::read(word).is_ok()));
        assert!(LogLevel::WORDS.iter().all(|word| LogLevel::read(word).is_ok()));
        for bad in ["", "Open", "lost", "INFO", "1"] {
            assert!(CallStates::read(bad).is_err() && LogLevel::read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn whole_numbers_are_digits_within_bounds() {
        assert_eq!(Whole::<1, 200>::read("200").map(|number| number.0), Ok(200));
        for bad in ["", "0", "201", "+5", "-1", "1.0", " 1", "1e2", "99999999999999999999"] {
            assert!(Whole::<1, 200>::read(bad).is_err(), "{bad}");
        }
        for (json, reads) in [
            ("5", true),
            ("5.0", true),
            ("2e2", true),
            ("-1", false),
            ("201", false),
            ("\"5\"", false),
            ("5.5", false),
            ("null", false),
        ] {
            assert_eq!(serde_json::from_str::<Whole<1, 200>>(json).is_ok(), reads, "{json}");
        }
    }

    #[test]
    fn times_have_limits_and_zero_is_explained() {
        let one = Seconds { name: "ttl_s", about: "", min_s: 1, max_s: 2 };
        assert_eq!(one.read(1.5), Ok(Duration::from_millis(1500)));
        for bad in [0.0, -1.0, 0.9999, 2.0001, f64::INFINITY, f64::NAN] {
            assert!(one.read(bad).is_err(), "{bad}");
        }
        let any = Seconds { name: "timeout_s", min_s: 0, ..one };
        assert_eq!(any.read(5e-324), Ok(Duration::from_millis(1)));
        assert!(any.read(0.0).unwrap_err().hint.is_some());
    }
}
