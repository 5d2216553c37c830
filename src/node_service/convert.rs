//! Messages of `node.proto` that came in, as frames of the channel `Node`: signatures, ids and limits checked.

use mesh_core::crypto::Verifier;
use mesh_core::entry::Kind;
use mesh_core::epoch::Claim;
use mesh_core::frame::{Answer, AnswerKind, Dispatch};
use mesh_core::ids::{InvalidId, PeerId, ReqId};
use mesh_core::limits;
use mesh_core::record::{Header, Outcome};

use crate::mesh::transport::wire::{self, attempt_from_pb, claim_from_pb, entry_from_pb, items_from_pb};
use crate::pb;
use crate::pb::call_answer::What;

/// A reason for which a message is dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ConvertError {
    /// A field that we need.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// An entry that is something else.
    #[error("{0} is malformed")]
    Malformed(&'static str),
    /// An id.
    #[error(transparent)]
    Id(#[from] InvalidId),
    /// A part that mesh frames have too.
    #[error(transparent)]
    Wire(#[from] wire::WireError),
    /// A signed thing of someone else.
    #[error("{0} is not by the peer that sent it")]
    Author(&'static str),
    /// The message and what is signed speak of different calls.
    #[error("{0} is about another call or attempt")]
    Mismatch(&'static str),
}

/// A claim that has been checked: a leader's comes with each of its calls, and only the first time is worth a signature
/// check (about 50 µs).
pub(crate) type KnownClaim = Option<(pb::Claim, Claim)>;

fn checked_claim(claim: pb::Claim, known: &mut KnownClaim, verifier: &dyn Verifier) -> Result<Claim, ConvertError> {
    if let Some((_, checked)) = known.as_ref().filter(|(seen, _)| *seen == claim) {
        return Ok(checked.clone());
    }
    let checked = claim_from_pb(claim.clone(), verifier)?;
    *known = Some((claim, checked.clone()));
    Ok(checked)
}

/// A request of `gateway`, checked. What runs is what the origin signed; the contract's text fields are not looked at.
pub(crate) fn dispatch_from_pb(
    request: pb::ToolExecuteRequest,
    gateway: PeerId,
    known: &mut KnownClaim,
    verifier: &dyn Verifier,
) -> Result<Dispatch, ConvertError> {
    let id: ReqId = request.request_id.parse()?;
    let claim = checked_claim(request.claim.ok_or(ConvertError::Missing("the claim"))?, known, verifier)?;
    if claim.epoch.peer != gateway {
        return Err(ConvertError::Author("the claim"));
    }
    let header = entry_from_pb(&request.header.ok_or(ConvertError::Missing("the signed header"))?, verifier)?;
    if header.entry.kind != Kind::CALL {
        return Err(ConvertError::Malformed("the header"));
    }
    let call: Header = header.record().ok_or(ConvertError::Malformed("the header"))?;
    if call.id != id {
        return Err(ConvertError::Mismatch("the header"));
    }
    let left_ms = request.left_ms.min(limits::TTL_MS_MAX);
    if request.consents.len() > limits::CONSENTS_OF_CALL_MAX {
        return Err(ConvertError::Malformed("what people said to it"));
    }
    let consents = items_from_pb(request.consents, verifier)?;
    if consents.iter().any(|item| item.entry.entry.kind != Kind::CONSENT) {
        return Err(ConvertError::Malformed("what people said to it"));
    }
    Ok(Dispatch { claim, header, attempt: attempt_from_pb(request.attempt)?, left_ms, consents })
}

/// A result with its signed outcome, from the peer that ran the call. A result without one, from a client that knows
/// only the contract's first fields, proves nothing to other peers and ends no call.
pub(crate) fn result_from_pb(
    result: pb::ToolResult,
    peer: PeerId,
    verifier: &dyn Verifier,
) -> Result<Answer, ConvertError> {
    let id: ReqId = result.request_id.parse()?;
    let outcome = result.outcome.ok_or(ConvertError::Missing("the signed outcome"))?;
    let attempt = attempt_from_pb(result.attempt)?;
    let entry = entry_from_pb(&outcome, verifier)?;
    if entry.author != peer {
        return Err(ConvertError::Author("the outcome"));
    }
    if entry.entry.kind != Kind::OUTCOME {
        return Err(ConvertError::Malformed("the outcome"));
    }
    let outcome: Outcome = entry.record().ok_or(ConvertError::Malformed("the outcome"))?;
    if outcome.id != id || outcome.attempt != attempt {
        return Err(ConvertError::Mismatch("the outcome"));
    }
    Ok(Answer { id, attempt, what: AnswerKind::Ended(entry) })
}

/// Anything short of a result.
pub(crate) fn answer_from_pb(answer: pb::CallAnswer, verifier: &dyn Verifier) -> Result<Answer, ConvertError> {
    let what = match answer.what.ok_or(ConvertError::Missing("what"))? {
        What::Waiting(_) => AnswerKind::Waiting,
        What::Running(running) => AnswerKind::Running { note: cut(running.note) },
        What::Lacking(_) => AnswerKind::Lacking,
        What::Asking(_) => AnswerKind::Asking,
        What::Busy(_) => AnswerKind::Busy,
        What::Fenced(fenced) => {
            AnswerKind::Fenced(fenced.proof.map(|proof| claim_from_pb(proof, verifier)).transpose()?)
        }
        What::Refused(reason) => AnswerKind::Rejected(cut(reason)),
    };
    Ok(Answer { id: answer.request_id.parse()?, attempt: attempt_from_pb(answer.attempt)?, what })
}

/// A text of a peer, within [`limits::TEXT_BYTES_MAX`].
pub(crate) fn cut(mut text: String) -> String {
    text.truncate(limits::cut(&text, limits::TEXT_BYTES_MAX).len());
    text
}
