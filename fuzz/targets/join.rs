//! What the two sides of a join conversation send: requests, and answers with the welcome that a newcomer boots from.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use mesh_core::config::Config;
use mesh_core::crypto::{Symbolic, Verifier};
use mesh_core::ids::{PublicKey, Signature};
use mesh_core::peer::joined;
use mesh_core::test_kit::at;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;
use sigil::mesh::transport::{JoinAnswer, wire};

/// Believes every signature, so that what is changed gets as far as it can.
struct Gullible;

impl Verifier for Gullible {
    fn verify(&self, _: &PublicKey, _: &[u8], _: &Signature) -> bool {
        true
    }
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = Bytes::copy_from_slice(bytes);
    let _ = wire::decode_join_request(bytes.clone());
    if let Ok(JoinAnswer::Welcome(welcome)) = wire::decode_join_answer(bytes, &Gullible) {
        let (signer, mut rng) = (Box::new(Symbolic::new(7)), ChaCha8Rng::seed_from_u64(1));
        let _ = joined(&welcome, Some(welcome.mesh), &Config::default(), signer, at(1_010_000), &mut rng);
    }
});
