//! Messages between node and gateway.

use mesh_core::crypto::Verifier;
use mesh_core::ids::PublicKey;
use mesh_core::io::Now;
use mesh_core::test_kit::{self, Author, Mutation, fuzz};
use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn any_call_survives_the_wire(
        arguments in proptest::collection::vec(any::<u8>(), 0..200),
        counter in 0_u64..1 << 48,
        left_ms in 0..=limits::TTL_MS_MAX,
        attempt in 1..=3_u8,
    ) {
        let header = header(call_id(counter), Payload::Inline(arguments.into()));
        let dispatch = Dispatch { header, left_ms, attempt, ..dispatch(counter) };
        let Some(ToNode::ToolExecute(request)) = dispatch_to_pb(&dispatch).and_then(|m| m.msg) else {
            panic!("no request");
        };
        let request = pb::ToolExecuteRequest::decode(request.encode_to_vec().as_slice()).expect("encoded");
        prop_assert_eq!(client::dispatch_from_pb(request, id(GATEWAY), &mut None, &key(0)), Ok(dispatch));
    }

    #[test]
    fn noise_never_passes_for_a_message(noise in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(request) = pb::ToolExecuteRequest::decode(noise.as_slice()) {
            prop_assert!(client::dispatch_from_pb(request, id(GATEWAY), &mut None, &key(0)).is_err());
        }
        if let Ok(answer) = pb::CallAnswer::decode(noise.as_slice()) {
            let _ = answer_from_pb(answer, &key(0));
        }
    }
}

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
    let call = test_kit::header(&author.id(), 1, test_kit::id(1), "echo");
    let epoch = Epoch { counter: 3, class: 3, peer: author.id() };
    let claim = Claim::sign(&author.key, mesh, epoch, 1);
    let header = author.says(Kind::CALL, entry::encode(&call));
    let ended = author.says(Kind::OUTCOME, entry::encode(&test_kit::outcome(call.id, Ending::Done)));
    let dispatch =
        dispatch_to_pb(&Dispatch { claim: claim.clone(), header, attempt: 1, left_ms: 1_000, consents: Vec::new() })
            .unwrap();
    let answers = [
        AnswerKind::Waiting,
        AnswerKind::Running { note: "half".to_owned() },
        AnswerKind::Asking,
        AnswerKind::Busy,
        AnswerKind::Fenced(Some(claim)),
        AnswerKind::Rejected("no".to_owned()),
        AnswerKind::Ended(ended),
    ];
    let answers = answers.map(|what| client::answer_to_pb(Answer { id: call.id, attempt: 1, what }).encode_to_vec());
    let golden: Vec<Vec<u8>> = answers.into_iter().chain([dispatch.encode_to_vec()]).collect();
    let (gateway, mut known) = (author.key.public_key().peer_id(), None);
    fuzz("node", 8, &[], |case| {
        let mut mutation = Mutation::new(case);
        let mut bytes = mutation.pick(&golden).clone();
        mutation.bytes(&mut bytes, &golden);
        if let Ok(pb::GatewayMessage { msg: Some(ToNode::ToolExecute(request)) }) = pb::GatewayMessage::decode(&*bytes)
        {
            let _ = client::dispatch_from_pb(request, gateway, &mut known, &Gullible);
        }
        match pb::NodeMessage::decode(&*bytes) {
            Ok(pb::NodeMessage { msg: Some(FromNode::ToolResult(result)) }) => {
                let _ = result_from_pb(result, gateway, &Gullible);
            }
            Ok(pb::NodeMessage { msg: Some(FromNode::Answer(answer)) }) => {
                let _ = answer_from_pb(answer, &Gullible);
            }
            Ok(_) | Err(_) => {}
        }
    });
}
