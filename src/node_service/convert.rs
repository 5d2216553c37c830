//! Frames of the channel `Node` to `node.proto` and back. Everything that comes back has been checked: signatures, ids,
//! limits.

use mesh_core::crypto::Verifier;
use mesh_core::entry::{Kind, SignedEntry};
use mesh_core::epoch::Claim;
use mesh_core::frame::{Answer, AnswerKind, Dispatch};
use mesh_core::ids::{Attempt, InvalidId, PeerId, ReqId};
use mesh_core::limits;
use mesh_core::record::{Ending, Header, Outcome, Payload};

use crate::mesh::transport::wire::{self, attempt_from_pb, claim_from_pb, claim_to_pb, entry_from_pb, entry_to_pb};
use crate::pb;
use crate::pb::call_answer::What;
use crate::pb::gateway_message::Msg as ToNode;
use crate::pb::node_message::Msg as ToGateway;

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

fn to_gateway(msg: ToGateway) -> pb::NodeMessage {
    pb::NodeMessage { msg: Some(msg) }
}

pub(crate) fn to_node(msg: ToNode) -> pb::GatewayMessage {
    pb::GatewayMessage { msg: Some(msg) }
}

/// The request, with the contract's own fields filled from the header. `None` when the header holds no call.
pub(crate) fn dispatch_to_pb(dispatch: &Dispatch) -> Option<pb::GatewayMessage> {
    let header: Header = dispatch.header.record()?;
    let arguments = match &header.arguments {
        Payload::Inline(bytes) => std::str::from_utf8(bytes).unwrap_or_default().to_owned(),
        Payload::Blob { .. } => String::new(),
    };
    Some(to_node(ToNode::ToolExecute(pb::ToolExecuteRequest {
        request_id: header.id.to_string(),
        tool_name: header.tool.into(),
        arguments,
        timeout_seconds: i32::try_from(header.timeout_ms.div_ceil(1000)).unwrap_or(i32::MAX),
        header: Some(entry_to_pb(&dispatch.header)),
        attempt: u32::from(dispatch.attempt),
        claim: Some(claim_to_pb(&dispatch.claim)),
        left_ms: dispatch.left_ms,
    })))
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
    Ok(Dispatch { claim, header, attempt: attempt_from_pb(request.attempt)?, left_ms })
}

/// A node's answer about a call, for the gateway.
pub(crate) fn answer_to_pb(answer: Answer) -> pb::NodeMessage {
    let what = match answer.what {
        AnswerKind::Ended(entry) => return result_to_pb(answer.id, answer.attempt, &entry),
        AnswerKind::Waiting => What::Waiting(pb::call_answer::Waiting {}),
        AnswerKind::Running { note } => What::Running(pb::call_answer::Running { note }),
        AnswerKind::Lacking => What::Lacking(pb::call_answer::Lacking {}),
        AnswerKind::Busy => What::Busy(pb::call_answer::Busy {}),
        AnswerKind::Fenced(proof) => What::Fenced(pb::call_answer::Fenced { proof: proof.as_ref().map(claim_to_pb) }),
        AnswerKind::Rejected(reason) => What::Refused(reason),
    };
    to_gateway(ToGateway::Answer(pb::CallAnswer {
        request_id: answer.id.to_string(),
        attempt: u32::from(answer.attempt),
        what: Some(what),
    }))
}

fn result_to_pb(id: ReqId, attempt: Attempt, entry: &SignedEntry) -> pb::NodeMessage {
    // The contract's own fields, for whoever reads only those.
    let (output, error) = entry.record::<Outcome>().map_or_else(Default::default, |outcome| {
        let output = match outcome.output {
            Payload::Inline(bytes) => String::from_utf8(bytes.into()).unwrap_or_default(),
            Payload::Blob { .. } => String::new(),
        };
        let silent = outcome.error.is_empty() && outcome.ending != Ending::Done;
        let error = match outcome.reason {
            reason if silent && reason.is_empty() => outcome.ending.as_str().to_owned(),
            reason if silent => reason,
            _ => outcome.error,
        };
        (output, error)
    });
    to_gateway(ToGateway::ToolResult(pb::ToolResult {
        request_id: id.to_string(),
        output,
        error,
        attempt: u32::from(attempt),
        outcome: Some(entry_to_pb(entry)),
    }))
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

#[cfg(test)]
mod tests {
    use mesh_core::crypto::{Signer as _, Symbolic};
    use mesh_core::entry::encode;
    use mesh_core::epoch::Epoch;
    use mesh_core::ids::{MeshId, PublicKey, Signature};
    use mesh_core::io::Now;
    use mesh_core::test_kit::{Author, Mutation, fuzz, header, id, outcome};
    use prost::Message as _;

    use super::*;

    /// Believes every signature.
    struct Gullible;

    impl Verifier for Gullible {
        fn verify(&self, _: &PublicKey, _: &[u8], _: &Signature) -> bool {
            true
        }
    }

    #[test]
    fn fuzz_messages_between_node_and_gateway_are_taken_or_dropped() {
        let mesh = MeshId([1; 32]);
        let mut author = Author::new(Symbolic::new(0), mesh, Now { mono_ms: 0, wall_ms: 0 });
        let call = header(&author.id(), 1, id(1), "echo");
        let epoch = Epoch { counter: 3, class: 3, peer: author.id() };
        let claim = Claim::sign(&author.key, mesh, epoch, 1);
        let header = author.says(Kind::CALL, encode(&call));
        let ended = author.says(Kind::OUTCOME, encode(&outcome(call.id, Ending::Done)));
        let dispatch = dispatch_to_pb(&Dispatch { claim: claim.clone(), header, attempt: 1, left_ms: 1_000 }).unwrap();
        let answers = [
            AnswerKind::Waiting,
            AnswerKind::Running { note: "half".to_owned() },
            AnswerKind::Busy,
            AnswerKind::Fenced(Some(claim)),
            AnswerKind::Rejected("no".to_owned()),
            AnswerKind::Ended(ended),
        ];
        let answers = answers.map(|what| answer_to_pb(Answer { id: call.id, attempt: 1, what }).encode_to_vec());
        let golden: Vec<Vec<u8>> = answers.into_iter().chain([dispatch.encode_to_vec()]).collect();
        let (gateway, mut known) = (author.key.public_key().peer_id(), None);
        fuzz("node", 8, &[], |case| {
            let mut mutation = Mutation::new(case);
            let mut bytes = mutation.pick(&golden).clone();
            mutation.bytes(&mut bytes, &golden);
            if let Ok(pb::GatewayMessage { msg: Some(ToNode::ToolExecute(request)) }) =
                pb::GatewayMessage::decode(&*bytes)
            {
                let _ = dispatch_from_pb(request, gateway, &mut known, &Gullible);
            }
            match pb::NodeMessage::decode(&*bytes) {
                Ok(pb::NodeMessage { msg: Some(ToGateway::ToolResult(result)) }) => {
                    let _ = result_from_pb(result, gateway, &Gullible);
                }
                Ok(pb::NodeMessage { msg: Some(ToGateway::Answer(answer)) }) => {
                    let _ = answer_from_pb(answer, &Gullible);
                }
                Ok(_) | Err(_) => {}
            }
        });
    }
}
