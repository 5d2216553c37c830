//! A store in which one row, which the first byte picks, holds other bytes: a peer starts from it or says what is damaged.
#![no_main]

use std::collections::BTreeMap;
use std::sync::OnceLock;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use libfuzzer_sys::fuzz_target;
use mesh_core::config::Config;
use mesh_core::crypto::Symbolic;
use mesh_core::io::{Batch, Command, Image, Input, Space, Write};
use mesh_core::peer::{BootError, Peer};
use mesh_core::test_kit::{self, Desk, Machine, at};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;

/// Clocks of the device whose store the fixture is, when it is read.
const LATER_MS: u64 = 100_000_000;

type Rows = BTreeMap<(Space, Vec<u8>), Bytes>;

/// The rows of a device that has lived: the fixture of the core's own tests.
fn stored() -> Rows {
    let text = include_str!("../../src/mesh/core/tests/fixtures/store.txt");
    let row = |line: &str| {
        let mut words = line.split(' ');
        let name = words.next().unwrap();
        let space = Space::ALL.into_iter().find(|space| space.name() == name).unwrap();
        let mut bytes = words.map(|word| HEXLOWER.decode(word.as_bytes()).unwrap());
        ((space, bytes.next().unwrap()), bytes.next().unwrap_or_default().into())
    };
    text.lines().map(row).collect()
}

fuzz_target!(|bytes: &[u8]| {
    static STORED: OnceLock<Rows> = OnceLock::new();
    let Some((which, value)) = bytes.split_first() else { return };
    let mut rows = STORED.get_or_init(stored).clone();
    let at_row = usize::from(*which) % rows.len();
    *rows.values_mut().nth(at_row).unwrap() = Bytes::copy_from_slice(value);
    let image = rows.iter().filter(|((space, _), _)| space.in_image());
    let image = image.map(|((space, key), value)| (*space, key.clone(), value.clone())).collect();
    let image = Image { rows: image, rolled_back: false };
    let (mut rng, mut out) = (ChaCha8Rng::seed_from_u64(1), Vec::new());
    let honest = Symbolic::new(1);
    let now = at(LATER_MS);
    match Peer::boot(Config::default(), Box::new(honest.clone()), image, now, &mut rng, &mut out) {
        Ok(_) => {}
        Err(BootError::NoMesh) => return,
        Err(BootError::Damaged(what)) => {
            assert!(!what.is_empty());
            return;
        }
        Err(error) => panic!("{error}"),
    }
    let writes = rows.into_iter().map(|((space, key), value)| Write { space, key, value: Some(value) }).collect();
    let mut desk = Desk::started(Machine::new(honest, Config::default(), &Batch { writes, sync: true }), now);
    desk.step(Input::LinkUp(test_kit::id(2)));
    desk.command(Command::Call(test_kit::call("peer-1", "echo")));
    desk.pass(1_000);
    desk.crash();
});
