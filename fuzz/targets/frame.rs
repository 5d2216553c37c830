//! Bytes that a member sends over its link, decoded and taken by a founder that leads.
#![no_main]

use std::sync::OnceLock;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use mesh_core::crypto::{Signer as _, Symbolic, Verifier};
use mesh_core::ids::{PeerId, PublicKey, Signature};
use mesh_core::io::{Command, Input};
use mesh_core::record::{Effect, Tier};
use mesh_core::test_kit::{Desk, at, offers, tool};
use sigil::mesh::transport::wire;

/// Entries of one part, of one who is no owner.
const PART_ENTRIES: usize = 16;

/// Believes every signature, so that what is changed gets as far as it can.
struct Gullible;

impl Verifier for Gullible {
    fn verify(&self, _: &PublicKey, _: &[u8], _: &Signature) -> bool {
        true
    }
}

/// A founder that leads, with one member on a link, which is also returned.
fn home() -> (Desk, PeerId) {
    let member = Symbolic::new(7).public_key();
    let mut founder = Desk::founder(Symbolic::new(0), at(1_000_000));
    founder.ask(Command::SetDirectory(offers(vec![tool("echo", Effect::None)])));
    founder.pass(5_000);
    let node_id = "bureau".parse().unwrap();
    founder.approve(Command::Approve { key: member.clone(), node_id, tier: Tier::Shared, stay: None });
    founder.step(Input::LinkUp(member.peer_id()));
    (founder, member.peer_id())
}

fuzz_target!(|bytes: &[u8]| {
    static HOME: OnceLock<(Desk, PeerId)> = OnceLock::new();
    let Ok(parts) = wire::parts(Bytes::copy_from_slice(bytes), PART_ENTRIES) else { return };
    let frames: Vec<_> = parts.into_iter().map_while(|part| part.check(&Gullible).ok()).collect();
    if frames.is_empty() {
        return;
    }
    let (home, member) = HOME.get_or_init(home);
    let mut desk = home.clone();
    for frame in frames {
        desk.step(Input::Recv(*member, frame));
    }
    desk.pass(100);
});
