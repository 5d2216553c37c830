//! Frames as protobuf, both ways. Pure: bytes in, checked values or a typed error out.
//!
//! Signed things travel as the bytes that were signed. What comes out of `decode_*` has had every signature checked.

use std::sync::Arc;

use bytes::Bytes;
use mesh_core::crypto::Verifier;
use mesh_core::entry::{EntryError, Place, SignedEntry};
use mesh_core::epoch::{Claim, Epoch, Fence};
use mesh_core::frame::{Authors, Beacon, DigestRow, EntryItem, Frame, Phase, Places};
use mesh_core::ids::{
    ATTEMPTS_MAX, Attempt, Hash, Incarnation, InvalidId, MeshId, NodeId, PeerId, PublicKey, ReqId, Signature,
};
use mesh_core::io::Welcome;
use mesh_core::limits::{self, cut};
use mesh_core::record::Tier;
use prost::Message as _;
use prost::encoding::WireType;

use super::join_messages::{JoinAnswer, JoinRequest, RefusalCode};
use crate::pb;

/// Largest frame on the mesh stream. A sync frame stops once its entries reach [`limits::SYNC_BYTES_MAX`], so it may go
/// over by one entry; the rest is room for the signatures and lengths of many small ones.
pub const FRAME_BYTES_MAX: usize = limits::SYNC_BYTES_MAX + limits::ENTRY_BYTES_MAX + 256 * 1024;
/// Largest frame in one datagram: below the smallest path that QUIC accepts (RFC 9000 §14). Larger ones take the
/// stream.
pub const DATAGRAM_BYTES_MAX: usize = 1200;
/// Largest answer to a join: the approvals of a mesh and as many directory records as fit.
pub const WELCOME_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Statements about rights in a welcome: as many as have room for their envelopes.
const RIGHTS_MAX: usize = limits::RIGHTS_BYTES_MAX / 256;
/// Largest request to join.
pub const JOIN_REQUEST_BYTES_MAX: usize = 1024;
/// Entries in one frame: an entry is never smaller than the key, mesh id and hash that it carries, so this is more than
/// [`FRAME_BYTES_MAX`] holds.
const ENTRIES_MAX: usize = 8192;
/// Bytes of entries that are checked and looked at in one go: about a millisecond.
const PART_BYTES_MAX: usize = 64 * 1024;
/// Longest platform and version texts of a newcomer, in bytes.
pub(super) const WORD_BYTES_MAX: usize = 64;

/// Why bytes of a peer are not a frame that we take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Not protobuf of this shape.
    #[error("the bytes are not a message of this protocol")]
    Malformed,
    /// A kind of frame that a newer version may know. Harmless.
    #[error("the frame is of a kind that is not known here")]
    Unknown,
    /// A field that must be there.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A field with too many bytes or items, or a key, hash or id that is not as long as it must be.
    #[error("`{field}` has a length of {len}, which it may not have")]
    Length {
        /// Which.
        field: &'static str,
        /// Bytes or items.
        len: usize,
    },
    /// A number without a meaning.
    #[error("`{0}` is out of range")]
    Range(&'static str),
    /// A name that breaks the rules.
    #[error(transparent)]
    Id(#[from] InvalidId),
    /// The leader did not sign this.
    #[error("a claim carries a signature that is not its leader's")]
    Claim,
    /// An entry that we may not take.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// Ours: the frame travels on the `NodeService` stream.
    #[error("this kind of frame does not travel on the mesh stream")]
    NotHere,
    /// Ours: the frame is over [`FRAME_BYTES_MAX`].
    #[error("a frame of {0} bytes is over the limit")]
    TooLarge(usize),
}

/// Encodes a frame of the channels datagram and stream.
pub fn encode_frame(frame: &Frame) -> Result<Bytes, WireError> {
    let bytes = pb::MeshFrame { frame: Some(frame_to_pb(frame)?) }.encode_to_vec();
    if bytes.len() > FRAME_BYTES_MAX { Err(WireError::TooLarge(bytes.len())) } else { Ok(bytes.into()) }
}

/// A frame that a peer sent, or some of the entries of one, not checked yet.
#[derive(Debug)]
pub struct Part {
    frame: pb::mesh_frame::Frame,
    /// As sent.
    bytes: usize,
}

impl Part {
    /// Its length as it was sent, in bytes, or nearly so.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of its entries.
    #[must_use]
    pub fn entries(&self) -> usize {
        use pb::mesh_frame::Frame as Pb;
        match &self.frame {
            Pb::Entries(entries) => entries.items.len(),
            Pb::Bodies(bodies) => bodies.items.len(),
            Pb::Beacon(_)
            | Pb::Query(_)
            | Pb::Notice(_)
            | Pb::Resign(_)
            | Pb::Handover(_)
            | Pb::Neighbours(_)
            | Pb::Digest(_)
            | Pb::Presence(_)
            | Pb::Progress(_)
            | Pb::Want(_) => 0,
        }
    }

    /// Checks every signature in it.
    ///
    /// # Errors
    /// It is not what a peer may send.
    pub fn check(self, verifier: &dyn Verifier) -> Result<Frame, WireError> {
        frame_from_pb(self.frame, verifier)
    }
}

/// Reads a frame that a peer sent, in parts that take a moment each: one of more than `most` entries, or many bytes of
/// them, comes to several frames that say the same.
///
/// # Errors
/// It is not of this protocol, or over its limits.
pub fn parts(bytes: Bytes, most: usize) -> Result<Vec<Part>, WireError> {
    at_most("frame", bytes.len(), FRAME_BYTES_MAX)?;
    at_most("items", most_fields(&bytes).ok_or(WireError::Malformed)?, ENTRIES_MAX)?;
    let len = bytes.len();
    let frame = pb::MeshFrame::decode(bytes).map_err(|_| WireError::Malformed)?;
    let mut frame = frame.frame.ok_or(WireError::Unknown)?;
    let mut parts = Vec::new();
    if let pb::mesh_frame::Frame::Entries(pb::Entries { items, .. })
    | pb::mesh_frame::Frame::Bodies(pb::Bodies { items, .. }) = &mut frame
    {
        take_parts(items, most, &mut parts);
    }
    let taken: usize = parts.iter().map(Part::bytes).sum();
    // The last one says what comes after all of them.
    parts.push(Part { frame, bytes: len.saturating_sub(taken) });
    Ok(parts)
}

/// Takes entries off the front until one part is left.
fn take_parts(items: &mut Vec<pb::EntryItem>, most: usize, parts: &mut Vec<Part>) {
    let mut bytes: usize = items.iter().map(prost::Message::encoded_len).sum();
    if items.len() <= most && bytes <= PART_BYTES_MAX {
        return;
    }
    let mut part = Vec::new();
    bytes = 0;
    for item in std::mem::take(items) {
        let len = item.encoded_len();
        if part.len() >= most || (!part.is_empty() && bytes + len > PART_BYTES_MAX) {
            let frame = pb::Entries { items: std::mem::take(&mut part), more: false };
            parts.push(Part { frame: pb::mesh_frame::Frame::Entries(frame), bytes });
            bytes = 0;
        }
        bytes += len;
        part.push(item);
    }
    *items = part;
}

/// The number of fields of the message in a frame: decoded, each takes fifty times of what the shortest ones take here.
fn most_fields(frame: &[u8]) -> Option<usize> {
    let mut most = 0;
    let mut rest = frame;
    while !rest.is_empty() {
        let (_, kind) = prost::encoding::decode_key(&mut rest).ok()?;
        if kind != WireType::LengthDelimited {
            skip(kind, &mut rest)?;
            continue;
        }
        let len = usize::try_from(prost::encoding::decode_varint(&mut rest).ok()?).ok()?;
        let (mut message, after) = rest.split_at_checked(len)?;
        rest = after;
        let mut fields = 0;
        // One that is none, if its kind is known here, is found when it is decoded.
        while let Ok((_, kind)) = prost::encoding::decode_key(&mut message)
            && skip(kind, &mut message).is_some()
        {
            fields += 1;
        }
        most = most.max(fields);
    }
    Some(most)
}

/// Passes over one field.
fn skip(kind: WireType, rest: &mut &[u8]) -> Option<()> {
    prost::encoding::skip_field(kind, 1, rest, prost::encoding::DecodeContext::default()).ok()
}

/// Decodes and checks a frame that a peer sent, its parts put together again.
#[cfg(test)]
pub(crate) fn decode_frame(bytes: Bytes, verifier: &dyn Verifier) -> Result<Frame, WireError> {
    let mut parts = parts(bytes, 16)?;
    let last = parts.pop().expect("a frame has a part");
    let mut before = Vec::new();
    for part in parts {
        assert!(part.bytes() <= FRAME_BYTES_MAX && (1..=16).contains(&part.entries()));
        let Frame::Entries { entries, more: false } = part.check(verifier)? else { panic!("a part of no entries") };
        before.extend(entries);
    }
    let mut whole = last.check(verifier)?;
    if let Frame::Entries { entries, .. } | Frame::Bodies { entries, .. } = &mut whole {
        assert!(entries.len() <= 16);
        entries.splice(0..0, before);
    }
    Ok(whole)
}

fn frame_to_pb(frame: &Frame) -> Result<pb::mesh_frame::Frame, WireError> {
    use pb::mesh_frame::Frame as Pb;
    Ok(match frame {
        Frame::Beacon(beacon) => Pb::Beacon(pb::Beacon {
            claim: Some(claim_to_pb(&beacon.claim)),
            age_ms: beacon.age_ms,
            covered: peers_to_pb(beacon.covered.iter()),
        }),
        Frame::Query => Pb::Query(pb::Query {}),
        Frame::Notice(claim) => Pb::Notice(claim_to_pb(claim)),
        Frame::Resign { epoch, successor } => Pb::Resign(pb::Resign {
            epoch: Some(epoch_to_pb(epoch)),
            successor: successor.map(|peer| copy(&peer.0)).unwrap_or_default(),
        }),
        Frame::Handover { epoch } => Pb::Handover(pb::Handover { epoch: Some(epoch_to_pb(epoch)) }),
        Frame::Neighbours { peers, relayed } => {
            Pb::Neighbours(pb::Neighbours { peers: peers_to_pb(peers), relayed: peers_to_pb(relayed) })
        }
        Frame::Digest { rows, .. } if rows.len() > limits::DIGEST_ROWS_MAX => {
            return Err(WireError::Length { field: "rows", len: rows.len() });
        }
        Frame::Digest { authors, rows, changes } => Pb::Digest(pb::Digest {
            from: if authors.from == Authors::ALL.from { Bytes::new() } else { copy(&authors.from.0) },
            until: authors.until.map(|until| copy(&until.0)).unwrap_or_default(),
            rows: rows
                .iter()
                .map(|row| pb::DigestRow {
                    author: copy(&row.author.0),
                    incarnation: row.incarnation.0,
                    seq: row.seq,
                    stopped: row.stopped,
                })
                .collect(),
            changes: if *changes == Hash::ZERO { Bytes::new() } else { copy(&changes.0) },
        }),
        Frame::Entries { entries, more } => {
            Pb::Entries(pb::Entries { items: entries.iter().map(item_to_pb).collect(), more: *more })
        }
        Frame::Want(wanted) => Pb::Want(pb::Want {
            places: wanted
                .iter()
                .map(|places| pb::Places {
                    author: copy(&places.author.0),
                    incarnation: places.incarnation.0,
                    first: places.first,
                    last: places.last,
                })
                .collect(),
        }),
        Frame::Bodies { entries, until } => Pb::Bodies(pb::Bodies {
            items: entries.iter().map(item_to_pb).collect(),
            until: until.map(|place| pb::DigestRow {
                author: copy(&place.author.0),
                incarnation: place.incarnation.0,
                seq: place.seq,
                stopped: false,
            }),
        }),
        Frame::Presence { epoch, online } => {
            Pb::Presence(pb::Presence { epoch: Some(epoch_to_pb(epoch)), online: peers_to_pb(online) })
        }
        Frame::Progress { id, attempt, state, note } => Pb::Progress(pb::Progress {
            id: copy(&id.0),
            attempt: u32::from(*attempt),
            state: phase_to_pb(*state),
            note: cut(note, limits::TEXT_BYTES_MAX).to_owned(),
        }),
        Frame::Dispatch(_) | Frame::Answer(_) | Frame::Cancel { .. } => return Err(WireError::NotHere),
    })
}

fn frame_from_pb(frame: pb::mesh_frame::Frame, verifier: &dyn Verifier) -> Result<Frame, WireError> {
    use pb::mesh_frame::Frame as Pb;
    Ok(match frame {
        Pb::Beacon(beacon) => Frame::Beacon(Beacon {
            claim: claim_from_pb(beacon.claim.ok_or(WireError::Missing("claim"))?, verifier)?,
            age_ms: beacon.age_ms,
            covered: Arc::new(peers_from_pb("covered", &beacon.covered)?),
        }),
        Pb::Query(pb::Query {}) => Frame::Query,
        Pb::Notice(claim) => Frame::Notice(claim_from_pb(claim, verifier)?),
        Pb::Resign(resign) => Frame::Resign {
            epoch: epoch_from_pb(resign.epoch.as_ref())?,
            successor: if resign.successor.is_empty() {
                None
            } else {
                Some(peer_from_pb("successor", &resign.successor)?)
            },
        },
        Pb::Handover(handover) => Frame::Handover { epoch: epoch_from_pb(handover.epoch.as_ref())? },
        Pb::Neighbours(neighbours) => Frame::Neighbours {
            peers: peers_from_pb("peers", &neighbours.peers)?,
            relayed: peers_from_pb("relayed", &neighbours.relayed)?,
        },
        Pb::Digest(digest) => {
            at_most("rows", digest.rows.len(), limits::DIGEST_ROWS_MAX)?;
            let bound = |field, bound: &[u8]| -> Result<Option<PeerId>, WireError> {
                if bound.is_empty() { Ok(None) } else { peer_from_pb(field, bound).map(Some) }
            };
            let row = |row: &pb::DigestRow| {
                Ok(DigestRow {
                    author: peer_from_pb("author", &row.author)?,
                    incarnation: Incarnation(row.incarnation),
                    seq: row.seq,
                    stopped: row.stopped,
                })
            };
            let from = bound("from", &digest.from)?.unwrap_or(Authors::ALL.from);
            Frame::Digest {
                authors: Authors { from, until: bound("until", &digest.until)? },
                rows: digest.rows.iter().map(row).collect::<Result<_, WireError>>()?,
                changes: match digest.changes.len() {
                    0 => Hash::ZERO,
                    len => Hash::from_slice(&digest.changes).ok_or(WireError::Length { field: "changes", len })?,
                },
            }
        }
        Pb::Entries(entries) => Frame::Entries { entries: items_from_pb(entries.items, verifier)?, more: entries.more },
        Pb::Want(want) => {
            at_most("places", want.places.len(), limits::WANTED_MAX)?;
            let places = |places: &pb::Places| {
                Ok(Places {
                    author: peer_from_pb("author", &places.author)?,
                    incarnation: Incarnation(places.incarnation),
                    first: places.first,
                    last: places.last,
                })
            };
            Frame::Want(want.places.iter().map(places).collect::<Result<_, WireError>>()?)
        }
        Pb::Bodies(bodies) => {
            let place = |row: pb::DigestRow| {
                Ok::<_, WireError>(Place {
                    author: peer_from_pb("author", &row.author)?,
                    incarnation: Incarnation(row.incarnation),
                    seq: row.seq,
                })
            };
            Frame::Bodies {
                entries: items_from_pb(bodies.items, verifier)?,
                until: bodies.until.map(place).transpose()?,
            }
        }
        Pb::Presence(presence) => Frame::Presence {
            epoch: epoch_from_pb(presence.epoch.as_ref())?,
            online: peers_from_pb("online", &presence.online)?,
        },
        Pb::Progress(progress) => {
            at_most("note", progress.note.len(), limits::TEXT_BYTES_MAX)?;
            Frame::Progress {
                id: req_id_from_pb(&progress.id)?,
                attempt: attempt_from_pb(progress.attempt)?,
                state: phase_from_pb(progress.state)?,
                note: progress.note,
            }
        }
    })
}

/// An entry on its way, for the wire.
#[must_use]
pub(crate) fn item_to_pb(item: &EntryItem) -> pb::EntryItem {
    pb::EntryItem { entry: Some(entry_to_pb(&item.entry)), left_ms: item.left_ms }
}

/// Entries on their way, each checked.
///
/// # Errors
/// When there are too many of them, or one is not what its author signed.
pub(crate) fn items_from_pb(items: Vec<pb::EntryItem>, verifier: &dyn Verifier) -> Result<Vec<EntryItem>, WireError> {
    at_most("items", items.len(), ENTRIES_MAX)?;
    let item = |item: pb::EntryItem| {
        let entry = item.entry.ok_or(WireError::Missing("entry"))?;
        let left_ms = item.left_ms;
        if left_ms.is_some_and(|left| left > limits::TTL_MS_MAX) {
            return Err(WireError::Range("left_ms"));
        }
        Ok(EntryItem { entry: entry_from_pb(&entry, verifier)?, left_ms })
    };
    items.into_iter().map(item).collect()
}

/// An epoch for the wire.
#[must_use]
pub fn epoch_to_pb(epoch: &Epoch) -> pb::Epoch {
    pb::Epoch { counter: epoch.counter, class: u32::from(epoch.class), peer: copy(&epoch.peer.0) }
}

/// Reads an epoch; a missing one is an error.
pub fn epoch_from_pb(epoch: Option<&pb::Epoch>) -> Result<Epoch, WireError> {
    let epoch = epoch.ok_or(WireError::Missing("epoch"))?;
    Ok(Epoch {
        counter: epoch.counter,
        class: u8::try_from(epoch.class).map_err(|_| WireError::Range("class"))?,
        peer: peer_from_pb("peer", &epoch.peer)?,
    })
}

/// A claim for the wire.
#[must_use]
pub fn claim_to_pb(claim: &Claim) -> pb::Claim {
    pb::Claim {
        mesh: copy(&claim.mesh.0),
        epoch: Some(epoch_to_pb(&claim.epoch)),
        seq: claim.seq,
        key: copy(&claim.key.0),
        signature: copy(&claim.signature.0),
    }
}

/// Reads a claim and checks its signature.
#[expect(clippy::needless_pass_by_value, reason = "a checked claim takes the place of the unchecked one")]
pub fn claim_from_pb(claim: pb::Claim, verifier: &dyn Verifier) -> Result<Claim, WireError> {
    let claim = Claim {
        mesh: MeshId::from_slice(&claim.mesh).ok_or(WireError::Length { field: "mesh", len: claim.mesh.len() })?,
        epoch: epoch_from_pb(claim.epoch.as_ref())?,
        seq: claim.seq,
        key: PublicKey::from_slice(&claim.key).ok_or(WireError::Length { field: "key", len: claim.key.len() })?,
        signature: signature_from_pb(&claim.signature)?,
    };
    if claim.verify(verifier) { Ok(claim) } else { Err(WireError::Claim) }
}

/// An entry for the wire: its signed bytes, as they are.
#[must_use]
pub fn entry_to_pb(entry: &SignedEntry) -> pb::SignedEntry {
    pb::SignedEntry { entry: entry.bytes.clone(), signature: copy(&entry.signature.0), body: entry.sealed() }
}

/// Reads an entry and checks its signature.
pub fn entry_from_pb(entry: &pb::SignedEntry, verifier: &dyn Verifier) -> Result<SignedEntry, WireError> {
    let signature = signature_from_pb(&entry.signature)?;
    at_most("entry", entry.entry.len() + entry.body.len(), limits::ENTRY_BYTES_MAX)?;
    // It copies what it keeps, so that one kept entry does not keep the whole frame it came in.
    Ok(SignedEntry::verify(&entry.entry, signature, &entry.body, verifier)?)
}

/// Reads an attempt: 1 to [`ATTEMPTS_MAX`].
pub fn attempt_from_pb(attempt: u32) -> Result<Attempt, WireError> {
    Attempt::try_from(attempt)
        .ok()
        .filter(|attempt| (1..=ATTEMPTS_MAX).contains(attempt))
        .ok_or(WireError::Range("attempt"))
}

/// Reads the 32 bytes of a peer id.
pub fn peer_from_pb(field: &'static str, peer: &[u8]) -> Result<PeerId, WireError> {
    PeerId::from_slice(peer).ok_or(WireError::Length { field, len: peer.len() })
}

/// Reads the 16 bytes of a call's id.
pub fn req_id_from_pb(id: &[u8]) -> Result<ReqId, WireError> {
    ReqId::from_slice(id).ok_or(WireError::Length { field: "id", len: id.len() })
}

/// Encodes a request to join.
#[must_use]
pub fn encode_join_request(request: &JoinRequest) -> Bytes {
    pb::JoinRequest {
        secret: request.secret.map(|secret| copy(&secret)).unwrap_or_default(),
        node_id: request.node_id.to_string(),
        platform: cut(&request.platform, WORD_BYTES_MAX).to_owned(),
        version: cut(&request.version, WORD_BYTES_MAX).to_owned(),
    }
    .encode_to_vec()
    .into()
}

/// Reads a request to join. Control characters in its texts are refused: people will read them.
pub fn decode_join_request(bytes: Bytes) -> Result<JoinRequest, WireError> {
    at_most("request", bytes.len(), JOIN_REQUEST_BYTES_MAX)?;
    let request = pb::JoinRequest::decode(bytes).map_err(|_| WireError::Malformed)?;
    let secret = match request.secret.len() {
        0 => None,
        len => Some(request.secret.as_ref().try_into().map_err(|_| WireError::Length { field: "secret", len })?),
    };
    Ok(JoinRequest {
        secret,
        node_id: request.node_id.parse()?,
        platform: word("platform", request.platform)?,
        version: word("version", request.version)?,
    })
}

/// Encodes an answer to a join. Directory records that would take it over [`WELCOME_BYTES_MAX`] are left out: the log
/// brings them anyway.
pub fn encode_join_answer(answer: &JoinAnswer) -> Result<Bytes, WireError> {
    use pb::join_reply::{Reply, Waiting};
    let reply = match answer {
        JoinAnswer::Waiting { node_id } => Reply::Waiting(Waiting { node_id: node_id.to_string() }),
        JoinAnswer::Welcome(welcome) => Reply::Welcome(welcome_to_pb(welcome)),
        JoinAnswer::Refused { code, detail } => Reply::Refusal(pb::JoinRefusal {
            code: code.as_str().to_owned(),
            detail: cut(detail, limits::TEXT_BYTES_MAX).to_owned(),
        }),
    };
    let bytes = pb::JoinReply { reply: Some(reply) }.encode_to_vec();
    if bytes.len() > WELCOME_BYTES_MAX { Err(WireError::TooLarge(bytes.len())) } else { Ok(bytes.into()) }
}

/// Reads an answer to a join; every entry in it is checked.
pub fn decode_join_answer(bytes: Bytes, verifier: &dyn Verifier) -> Result<JoinAnswer, WireError> {
    use pb::join_reply::Reply;
    at_most("reply", bytes.len(), WELCOME_BYTES_MAX)?;
    let reply = pb::JoinReply::decode(bytes).map_err(|_| WireError::Malformed)?;
    Ok(match reply.reply.ok_or(WireError::Unknown)? {
        Reply::Waiting(waiting) => JoinAnswer::Waiting { node_id: waiting.node_id.parse()? },
        Reply::Welcome(welcome) => JoinAnswer::Welcome(Box::new(welcome_from_pb(&welcome, verifier)?)),
        Reply::Refusal(refusal) => {
            at_most("detail", refusal.detail.len(), limits::TEXT_BYTES_MAX)?;
            JoinAnswer::Refused { code: RefusalCode::parse(&refusal.code), detail: refusal.detail }
        }
    })
}

/// A welcome for the wire.
#[must_use]
pub fn welcome_to_pb(welcome: &Welcome) -> pb::Welcome {
    let trust: Vec<_> = welcome.trust.iter().map(entry_to_pb).collect();
    let rights: Vec<_> = welcome.rights.iter().map(entry_to_pb).collect();
    let taken = trust.iter().chain(&rights).map(size).sum();
    let mut room = (WELCOME_BYTES_MAX - 64 * 1024).saturating_sub(taken);
    let directory = welcome
        .directory
        .iter()
        .map(entry_to_pb)
        .take_while(|entry| {
            let fits = size(entry) <= room;
            room = room.saturating_sub(size(entry));
            fits
        })
        .collect();
    pb::Welcome {
        mesh: copy(&welcome.mesh.0),
        trust,
        directory,
        rights,
        fence: Some(epoch_to_pb(&welcome.fence.epoch)),
        fence_proof: welcome.fence.proof.as_ref().map(claim_to_pb),
        node_id: welcome.node_id.to_string(),
        tier: match welcome.tier {
            Tier::Ephemeral => 1,
            Tier::Shared => 2,
            Tier::Owner => 3,
        },
    }
}

/// Reads a welcome; every entry in it is checked.
pub fn welcome_from_pb(welcome: &pb::Welcome, verifier: &dyn Verifier) -> Result<Welcome, WireError> {
    at_most("trust", welcome.trust.len(), 8 * limits::PEERS_MAX)?;
    at_most("directory", welcome.directory.len(), limits::WELCOME_DIRECTORIES_MAX)?;
    at_most("rights", welcome.rights.len(), RIGHTS_MAX)?;
    let entries = |entries: &[pb::SignedEntry]| -> Result<Vec<_>, WireError> {
        entries.iter().map(|entry| entry_from_pb(entry, verifier)).collect()
    };
    Ok(Welcome {
        mesh: MeshId::from_slice(&welcome.mesh).ok_or(WireError::Length { field: "mesh", len: welcome.mesh.len() })?,
        trust: entries(&welcome.trust)?,
        directory: entries(&welcome.directory)?,
        rights: entries(&welcome.rights)?,
        fence: Fence {
            epoch: epoch_from_pb(welcome.fence.as_ref())?,
            proof: welcome.fence_proof.clone().map(|claim| claim_from_pb(claim, verifier)).transpose()?,
        },
        node_id: welcome.node_id.parse::<NodeId>()?,
        tier: match welcome.tier {
            1 => Tier::Ephemeral,
            2 => Tier::Shared,
            3 => Tier::Owner,
            _ => return Err(WireError::Range("tier")),
        },
    })
}

fn size(entry: &pb::SignedEntry) -> usize {
    // Tags, lengths and the signature.
    entry.entry.len() + entry.body.len() + 96
}

fn word(field: &'static str, text: String) -> Result<String, WireError> {
    at_most(field, text.len(), WORD_BYTES_MAX)?;
    if text.chars().any(char::is_control) { Err(WireError::Range(field)) } else { Ok(text) }
}

fn phase_to_pb(phase: Phase) -> u32 {
    match phase {
        Phase::Accepted => 1,
        Phase::Queued => 2,
        Phase::Dispatched => 3,
        Phase::Running => 4,
        Phase::Asking => 5,
    }
}

fn phase_from_pb(state: u32) -> Result<Phase, WireError> {
    Ok(match state {
        1 => Phase::Accepted,
        2 => Phase::Queued,
        3 => Phase::Dispatched,
        4 => Phase::Running,
        5 => Phase::Asking,
        _ => return Err(WireError::Range("state")),
    })
}

fn signature_from_pb(signature: &[u8]) -> Result<Signature, WireError> {
    Signature::from_slice(signature).ok_or(WireError::Length { field: "signature", len: signature.len() })
}

fn peers_to_pb<'a>(peers: impl IntoIterator<Item = &'a PeerId>) -> Vec<Bytes> {
    peers.into_iter().map(|peer| copy(&peer.0)).collect()
}

fn peers_from_pb<C: FromIterator<PeerId>>(field: &'static str, peers: &[Bytes]) -> Result<C, WireError> {
    at_most(field, peers.len(), limits::PEERS_MAX)?;
    peers.iter().map(|peer| peer_from_pb(field, peer)).collect()
}

fn at_most(field: &'static str, len: usize, max: usize) -> Result<(), WireError> {
    if len > max { Err(WireError::Length { field, len }) } else { Ok(()) }
}

fn copy(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

#[cfg(test)]
mod tests {
    use mesh_core::audience::Audience;
    use mesh_core::crypto::{Signer as _, Symbolic};
    use mesh_core::entry::{BodyCommitment, Entry, Kind, Salt};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn peer() -> impl Strategy<Value = PeerId> {
        any::<[u8; 32]>().prop_map(PeerId)
    }

    fn epoch() -> impl Strategy<Value = Epoch> {
        (any::<u64>(), any::<u8>(), peer()).prop_map(|(counter, class, peer)| Epoch { counter, class, peer })
    }

    fn claim() -> impl Strategy<Value = Claim> {
        (any::<u64>(), any::<u8>(), any::<u64>(), 0..9_u64).prop_map(|(counter, class, seq, signer)| {
            let signer = Symbolic::new(signer);
            Claim::sign(&signer, MeshId([3; 32]), Epoch { counter, class, peer: signer.public_key().peer_id() }, seq)
        })
    }

    fn entry() -> impl Strategy<Value = SignedEntry> {
        (0..9_u64, any::<[u8; 32]>(), any::<u64>(), 100..u16::MAX, vec(any::<u8>(), 0..300)).prop_map(
            |(signer, mesh, seq, kind, body)| {
                let (signer, salt) = (Symbolic::new(signer), Salt([7; 16]));
                let audience = match seq % 4 {
                    3 => Audience::of_call(PeerId([1; 32]), PeerId([2; 32]), &[PeerId([3; 32])]),
                    0 => Audience::Everyone,
                    1 => Audience::Call { origin: PeerId([1; 32]), target: PeerId([2; 32]) },
                    _ => Audience::Unknown(kind),
                };
                let entry = Entry {
                    mesh: MeshId(mesh),
                    author: signer.public_key(),
                    incarnation: Incarnation(7),
                    seq,
                    hlc: 1,
                    kind: Kind(kind),
                    critical: false,
                    previous: Hash::ZERO,
                    audience: audience.clone(),
                    body: BodyCommitment::of(salt, &body),
                };
                let signed = SignedEntry::sign(&signer, entry, salt, &body);
                if seq % 2 == 1 && audience != Audience::Everyone { signed.without_body() } else { signed }
            },
        )
    }

    fn req_id() -> impl Strategy<Value = ReqId> {
        any::<[u8; 16]>().prop_map(ReqId)
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let phase =
            prop_oneof![Just(Phase::Accepted), Just(Phase::Queued), Just(Phase::Dispatched), Just(Phase::Running)];
        let row = || {
            (peer(), any::<u32>(), any::<u64>(), any::<bool>()).prop_map(|(author, incarnation, seq, stopped)| {
                DigestRow { author, incarnation: Incarnation(incarnation), seq, stopped }
            })
        };
        let item = || {
            (entry(), proptest::option::of(0..=limits::TTL_MS_MAX))
                .prop_map(|(entry, left_ms)| EntryItem { entry, left_ms })
        };
        prop_oneof![
            (claim(), any::<u64>(), proptest::collection::btree_set(peer(), 0..60)).prop_map(
                |(claim, age_ms, covered)| Frame::Beacon(Beacon { claim, age_ms, covered: Arc::new(covered) })
            ),
            Just(Frame::Query),
            claim().prop_map(Frame::Notice),
            (epoch(), proptest::option::of(peer())).prop_map(|(epoch, successor)| Frame::Resign { epoch, successor }),
            epoch().prop_map(|epoch| Frame::Handover { epoch }),
            (vec(peer(), 0..60), vec(peer(), 0..9)).prop_map(|(peers, relayed)| Frame::Neighbours { peers, relayed }),
            (peer(), proptest::option::of(peer()), vec(row(), 0..60), any::<[u8; 32]>()).prop_map(
                |(from, until, rows, changes)| Frame::Digest {
                    authors: Authors { from, until },
                    rows,
                    changes: Hash(changes)
                }
            ),
            (vec(item(), 0..40), any::<bool>()).prop_map(|(entries, more)| Frame::Entries { entries, more }),
            (vec(item(), 0..4), proptest::option::of(row())).prop_map(|(entries, until)| Frame::Bodies {
                entries,
                until: until.map(|DigestRow { author, incarnation, seq, stopped: _ }| Place {
                    author,
                    incarnation,
                    seq
                }),
            }),
            vec(row(), 0..4).prop_map(|rows| {
                let places = |row: DigestRow| Places {
                    author: row.author,
                    incarnation: row.incarnation,
                    first: row.seq,
                    last: row.seq.saturating_add(3),
                };
                Frame::Want(rows.into_iter().map(places).collect())
            }),
            (epoch(), vec(peer(), 0..60)).prop_map(|(epoch, online)| Frame::Presence { epoch, online }),
            (req_id(), 1..=3_u8, phase, ".{0,100}").prop_map(|(id, attempt, state, note)| Frame::Progress {
                id,
                attempt,
                state,
                note
            }),
        ]
    }

    fn welcome() -> impl Strategy<Value = Welcome> {
        let tier = prop_oneof![Just(Tier::Ephemeral), Just(Tier::Shared), Just(Tier::Owner)];
        (
            any::<[u8; 32]>(),
            vec(entry(), 0..5),
            vec(entry(), 0..5),
            vec(entry(), 0..5),
            epoch(),
            proptest::option::of(claim()),
            "[a-z]{1,9}",
            tier,
        )
            .prop_map(|(mesh, trust, directory, rights, epoch, proof, node_id, tier)| Welcome {
                mesh: MeshId(mesh),
                trust,
                directory,
                rights,
                fence: Fence { epoch, proof },
                node_id: node_id.parse().unwrap(),
                tier,
            })
    }

    proptest! {
        #[test]
        fn a_frame_survives_the_wire(frame in frame()) {
            let got = decode_frame(encode_frame(&frame).unwrap(), &Symbolic::new(0));
            prop_assert_eq!(got, Ok(frame));
        }

        #[test]
        fn a_changed_byte_is_never_a_panic(frame in frame(), at in any::<proptest::sample::Index>(), bit in 0..8) {
            let mut bytes = encode_frame(&frame).unwrap().to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            let _ = decode_frame(bytes.into(), &Symbolic::new(0));
        }

        #[test]
        fn random_bytes_are_never_a_panic(bytes in vec(any::<u8>(), 0..400)) {
            let bytes = Bytes::from(bytes);
            let verifier = Symbolic::new(0);
            let _ = decode_frame(bytes.clone(), &verifier);
            let _ = decode_join_request(bytes.clone());
            let _ = decode_join_answer(bytes, &verifier);
        }

        #[test]
        fn a_welcome_survives_the_wire(welcome in welcome()) {
            let answer = JoinAnswer::Welcome(Box::new(welcome));
            let got = decode_join_answer(encode_join_answer(&answer).unwrap(), &Symbolic::new(0));
            prop_assert_eq!(got, Ok(answer));
        }

        #[test]
        fn a_request_survives_the_wire(secret in any::<Option<[u8; 16]>>(), name in "[a-z0-9]{1,63}", word in "[ -~]{0,64}") {
            let node_id = name.parse().unwrap();
            let request = JoinRequest { secret, node_id, platform: word.clone(), version: word };
            prop_assert_eq!(decode_join_request(encode_join_request(&request)), Ok(request));
        }
    }

    #[test]
    fn signatures_are_checked() {
        let (alice, bob) = (Symbolic::new(1), Symbolic::new(2));
        let epoch = Epoch { counter: 1, class: 1, peer: alice.public_key().peer_id() };
        let mut claim = Claim::sign(&alice, MeshId([3; 32]), epoch, 1);
        claim.seq = 2;
        assert_eq!(decode_frame(encode_frame(&Frame::Notice(claim)).unwrap(), &bob), Err(WireError::Claim));
    }

    #[test]
    fn what_is_too_much_is_refused() {
        let verifier = Symbolic::new(0);
        let peers = Frame::Neighbours { peers: vec![PeerId([1; 32]); limits::PEERS_MAX + 1], relayed: Vec::new() };
        assert_eq!(
            decode_frame(encode_frame(&peers).unwrap(), &verifier),
            Err(WireError::Length { field: "peers", len: limits::PEERS_MAX + 1 })
        );
        let attempt = Frame::Progress { id: ReqId([1; 16]), attempt: 4, state: Phase::Running, note: String::new() };
        assert_eq!(decode_frame(encode_frame(&attempt).unwrap(), &verifier), Err(WireError::Range("attempt")));
        let huge = Bytes::from(vec![0; FRAME_BYTES_MAX + 1]);
        assert!(matches!(decode_frame(huge, &verifier), Err(WireError::Length { field: "frame", .. })));
        let items = vec![pb::EntryItem::default(); ENTRIES_MAX + 1];
        let hollow = pb::mesh_frame::Frame::Entries(pb::Entries { items, more: false });
        let hollow = pb::MeshFrame { frame: Some(hollow) }.encode_to_vec();
        assert!(matches!(parts(hollow.into(), 16), Err(WireError::Length { field: "items", .. })), "s31: not decoded");
        assert_eq!(decode_frame(Bytes::new(), &verifier), Err(WireError::Unknown));
        assert_eq!(encode_frame(&Frame::Cancel { id: ReqId([1; 16]) }), Err(WireError::NotHere));
    }

    #[test]
    fn h1_h3_what_is_sent_at_most_is_taken() {
        let key = Symbolic::new(1);
        let row =
            DigestRow { author: PeerId([7; 32]), incarnation: Incarnation(u32::MAX), seq: u64::MAX, stopped: true };
        let digest = |rows| Frame::Digest {
            authors: Authors { from: PeerId([1; 32]), until: Some(PeerId([9; 32])) },
            rows: vec![row; rows],
            changes: Hash([3; 32]),
        };
        let largest = digest(limits::DIGEST_ROWS_MAX);
        assert_eq!(decode_frame(encode_frame(&largest).unwrap(), &key), Ok(largest));
        let over = limits::DIGEST_ROWS_MAX + 1;
        assert_eq!(encode_frame(&digest(over)), Err(WireError::Length { field: "rows", len: over }));
        let mut author = mesh_core::test_kit::Author::new(
            Symbolic::new(2),
            MeshId([1; 32]),
            mesh_core::io::Now { mono_ms: 0, wall_ms: 0 },
        );
        let directory = (0..limits::WELCOME_DIRECTORIES_MAX).map(|_| author.says(Kind::DIRECTORY, vec![1])).collect();
        let welcome = Welcome {
            mesh: MeshId([1; 32]),
            trust: Vec::new(),
            directory,
            rights: Vec::new(),
            fence: Fence { epoch: Epoch::ZERO, proof: None },
            node_id: "n".parse().unwrap(),
            tier: Tier::Shared,
        };
        let answer = JoinAnswer::Welcome(Box::new(welcome));
        assert_eq!(decode_join_answer(encode_join_answer(&answer).unwrap(), &key), Ok(answer));
    }

    #[test]
    fn a_newcomer_cannot_put_control_characters_on_a_screen() {
        let mut request = JoinRequest {
            secret: None,
            node_id: "a".parse().unwrap(),
            platform: "linux".to_owned(),
            version: "\u{1b}[2J".to_owned(),
        };
        assert_eq!(decode_join_request(encode_join_request(&request)), Err(WireError::Range("version")));
        request.version = "1".to_owned();
        assert!(decode_join_request(encode_join_request(&request)).is_ok());
    }
}
