//! Texts that people type or paste: invite codes, addresses, check words, names and ids.
#![no_main]

use std::str::FromStr as _;

use libfuzzer_sys::fuzz_target;
use mesh_core::ids::{NodeId, ReqId};
use sigil::mesh::check_words::CheckWords;
use sigil::mesh::invite::InviteCode;
use sigil::mesh::transport::Address;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(code) = InviteCode::from_str(&text) {
        assert_eq!(InviteCode::from_str(&code.to_string()).as_ref().map(ToString::to_string), Ok(code.to_string()));
    }
    let said = [
        InviteCode::from_str(&text).err().map(|error| error.to_string()),
        Address::of_person(&text, 7423).err().map(|error| error.to_string()),
        CheckWords::from_str(&text).err().map(|error| error.to_string()),
        NodeId::from_str(&text).err().map(|error| error.to_string()),
    ];
    assert!(said.iter().flatten().all(|said| !said.is_empty()));
    assert!(NodeId::slug(&text).as_str().len() <= 63);
    let _ = (Address::from(&*text), ReqId::from_str(&text));
});
