//! Bytes as they come from the wire, from a person and from the disk, by the thousand, each changed from valid ones: no
//! panic, and no start that fails without a next step. What has come through the decoders is changed further in the
//! core (`src/mesh/core/tests/hostile/fuzz.rs`); `mesh_core::test_kit::fuzz` says how many there are and how one is run
//! again. Inputs that once failed are kept in `tests/corpus` and run each time.

use std::fs;
use std::path::PathBuf;
use std::str::FromStr as _;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use mesh_core::config::Config;
use mesh_core::crypto::{Signer as _, Symbolic, Verifier};
use mesh_core::entry::SignedEntry;
use mesh_core::frame::{EntryItem, Frame};
use mesh_core::ids::{Hash, NodeId, PublicKey, ReqId, Signature};
use mesh_core::io::{Batch, Command, Input, Space, Welcome, Write};
use mesh_core::peer::joined;
use mesh_core::record::{Effect, Tier};
use mesh_core::test_kit::{Desk, Mutation, at, fuzz, offers, tool};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::check_words::CheckWords;
use super::clock;
use super::disk_room::DiskRoom;
use super::error::FatalError;
use super::identity::DeviceKey;
use super::invite::InviteCode;
use super::machine::Machine;
use super::store::{FjallStore, Store as _};
use super::transport::{Address, JoinAnswer, JoinRequest, wire};

/// Believes every signature, so that what is changed gets as far as it can.
struct Gullible;

impl Verifier for Gullible {
    fn verify(&self, _: &PublicKey, _: &[u8], _: &Signature) -> bool {
        true
    }
}

/// Inputs of one kind that once failed.
fn kept(kind: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(kind);
    let Ok(files) = fs::read_dir(folder) else { return Vec::new() };
    files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
}

/// Runs one input, and shows it if it fails.
fn run(kind: &str, input: &[u8], look: impl FnOnce(&[u8])) {
    struct Shown<'a>(&'a str, &'a [u8]);
    impl Drop for Shown<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("keep it as a file in tests/corpus/{}: {}", self.0, HEXLOWER.encode(self.1));
            }
        }
    }
    let shown = Shown(kind, input);
    look(input);
    drop(shown);
}

/// Changes of the golden inputs of one kind, after those that are kept.
fn changes(kind: &str, share: u64, golden: &[Vec<u8>], mut look: impl FnMut(&[u8])) {
    for input in kept(kind) {
        run(kind, &input, &mut look);
    }
    fuzz(kind, share, &[], |case| {
        let mut mutation = Mutation::new(case);
        let mut input = mutation.pick(golden).clone();
        mutation.bytes(&mut input, golden);
        run(kind, &input, &mut look);
    });
}

/// A founder that leads, and what it hands to a newcomer.
fn home() -> (Desk, Symbolic, Welcome) {
    let newcomer = Symbolic::new(7);
    let mut founder = Desk::founder(Symbolic::new(0), at(1_000_000));
    founder.ask(Command::SetDirectory(offers(vec![tool("echo", Effect::None)])));
    founder.pass(5_000);
    let key = newcomer.public_key();
    let node_id = "bureau".parse().unwrap();
    let welcome = founder.approve(Command::Approve { key, node_id, tier: Tier::Shared, stay: None });
    founder.step(Input::LinkUp(key.peer_id()));
    (founder, newcomer, welcome)
}

/// Entries of every kind, as the core's fixture has them.
fn entries() -> Vec<SignedEntry> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/mesh/core/tests/fixtures/entries.txt");
    let text = fs::read_to_string(path).unwrap();
    let bytes = |word: &str| HEXLOWER.decode(word.as_bytes()).unwrap();
    let line = |line: &str| {
        let words: Vec<Vec<u8>> = line.split(' ').skip(1).map(bytes).collect();
        let signature = Signature::from_slice(&words[0]).unwrap();
        SignedEntry::trusted(&words[1], signature, words.get(2).map_or(&[][..], Vec::as_slice)).unwrap()
    };
    text.lines().map(line).collect()
}

/// Frames of every kind that an honest peer sends, and one for each kind of entry.
fn frames() -> Vec<Vec<u8>> {
    use mesh_core::test_kit::{Net, id};
    let mut net = Net::of(3);
    net.ask(0, mesh_core::test_kit::call(&id(1), "echo"));
    net.pass(4_000);
    let seen = net.devices.iter().flat_map(|device| &device.got).map(|(_, frame)| frame.clone());
    let mut frames: Vec<Frame> = seen.collect();
    let item = |entry| EntryItem { entry, left_ms: Some(1_000) };
    frames.extend(entries().into_iter().map(|entry| Frame::Entries { entries: vec![item(entry)], more: false }));
    let mut bytes: Vec<Vec<u8>> =
        frames.iter().filter_map(|frame| Some(wire::encode_frame(frame).ok()?.to_vec())).collect();
    bytes.sort_unstable_by_key(|bytes| (bytes.len(), Hash::of(bytes)));
    bytes.dedup();
    bytes
}

#[test]
fn fuzz_frames_are_decoded_and_taken_or_refused() {
    let (home, member, _) = home();
    let member = member.public_key().peer_id();
    let mut desk = home.clone();
    let (mut taken, mut all) = (0, 0_u64);
    changes("frame", 70, &frames(), |bytes| {
        all += 1;
        if let Ok(frame) = wire::decode_frame(Bytes::copy_from_slice(bytes), &Gullible) {
            taken += 1;
            desk.step(Input::Recv(member, frame));
        }
        if all.is_multiple_of(50) {
            desk.crash();
            desk.pass(1_000);
            desk = home.clone();
        }
    });
    assert!(all < 100 || taken * 20 > all, "{taken} of {all} frames got as far as the core");
}

/// Messages of every kind that the two sides of a join conversation send.
fn joins() -> Vec<Vec<u8>> {
    let waiting = JoinAnswer::Waiting { node_id: "attic".parse().unwrap() };
    let request = JoinRequest {
        secret: Some([7; 16]),
        node_id: "bureau".parse().unwrap(),
        platform: "linux".to_owned(),
        version: "1".to_owned(),
    };
    let answers = [JoinAnswer::Welcome(Box::new(home().2)), waiting];
    let answers = answers.iter().map(|answer| wire::encode_join_answer(answer).unwrap());
    answers.chain([wire::encode_join_request(&request)]).map(|bytes| bytes.to_vec()).collect()
}

#[test]
fn fuzz_join_messages_are_decoded_and_judged() {
    let (home, newcomer, _) = home();
    let golden = joins();
    changes("join", 25, &golden, |bytes| {
        let bytes = Bytes::copy_from_slice(bytes);
        let _ = wire::decode_join_request(bytes.clone());
        if let Ok(JoinAnswer::Welcome(welcome)) = wire::decode_join_answer(bytes, &Gullible) {
            let (signer, mut rng) = (Box::new(newcomer.clone()), ChaCha8Rng::seed_from_u64(1));
            let _ = joined(&welcome, Some(home.peer().view().mesh), &Config::default(), signer, home.now, &mut rng);
        }
    });
}

/// Texts of every kind that people type or paste.
fn texts() -> [String; 7] {
    let code = InviteCode {
        mesh: home().0.peer().view().mesh,
        inviter: Symbolic::new(0).public_key().peer_id(),
        secret: [0x5e; 16],
        expires_ms: 1_767_225_600_000,
        tier: Tier::Owner,
        addresses: ["192.168.1.7:7423", "[fd00::1]:7423", "attic.example:7423"].map(Address::from).to_vec(),
    };
    [
        code.to_string(),
        CheckWords::of(&code.inviter).to_string(),
        "udp:[fe80::1%eth0]:7423".to_owned(),
        "relay:attic.example/abc".to_owned(),
        "living-room".to_owned(),
        ReqId([3; 16]).to_string(),
        code.inviter.to_string(),
    ]
}

#[test]
fn fuzz_texts_of_people_are_read_or_refused() {
    let golden = texts();
    changes("text", 15, &golden.map(String::into_bytes), |bytes| {
        let text = String::from_utf8_lossy(bytes);
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
}

/// The rows of a founder that has lived, with a log of its own.
fn lived_in(key: &DeviceKey) -> Vec<Write> {
    let name = "attic".parse().unwrap();
    let home = TempDir::new().unwrap();
    let (store, _notes, _) = open(home.path());
    store.wipe_and_commit(super::machine::founded(key, &name, &mut ChaCha8Rng::seed_from_u64(1))).unwrap();
    let room = DiskRoom::new(home.path().to_owned(), None);
    let rng = ChaCha8Rng::seed_from_u64(2);
    let (mut machine, mut outputs) =
        Machine::boot(key.clone(), Config::default(), name, room, store.image().unwrap(), rng).unwrap();
    let mut writes: Vec<Write> = store.image().unwrap().rows.into_iter().map(write).collect();
    let other = Symbolic::new(5).public_key();
    let commands = [
        Command::SetDirectory(offers(vec![tool("echo", Effect::Once)])),
        Command::Invite { secret: Hash::of(b"secret"), tier: Tier::Shared, ttl_ms: 600_000, name: None, stay: None },
        Command::Approve { key: other, node_id: "bureau".parse().unwrap(), tier: Tier::Owner, stay: None },
        Command::Call(mesh_core::test_kit::call("attic", "echo")),
    ];
    for (number, command) in (1..).zip(commands) {
        machine.peer.step(clock::now(), &mut machine.rng, Input::Command(number, command), &mut outputs);
    }
    for output in outputs {
        if let mesh_core::io::Output::Commit(_, batch) = output {
            writes.extend(batch.writes);
        }
    }
    writes
}

fn write((space, key, value): (Space, Vec<u8>, Bytes)) -> Write {
    Write { space, key, value: Some(value) }
}

fn open(home: &std::path::Path) -> (FjallStore, mpsc::Receiver<super::store::DurableNote>, super::store::OpenReport) {
    let (tx, rx) = mpsc::channel(1024);
    let (store, report) = FjallStore::open(&home.join("store"), tx).unwrap();
    (store, rx, report)
}

#[test]
fn fuzz_stores_start_or_say_what_to_do() {
    let folder = TempDir::new().unwrap();
    let key = DeviceKey::load_or_create(folder.path()).unwrap();
    let golden = lived_in(&key);
    let pool: Vec<Vec<u8>> = golden.iter().filter_map(|write| Some(write.value.as_ref()?.to_vec())).collect();
    let (mut started, mut refused) = (0, 0);
    fuzz("store", 1, &[], |case| {
        let mut mutation = Mutation::new(case);
        let home = folder.path().join(case.to_string());
        fs::create_dir(&home).unwrap();
        let (store, notes, _) = open(&home);
        let mut writes = golden.clone();
        let at = mutation.below(writes.len());
        if let Some(value) = &mut writes[at].value {
            let mut bytes = value.to_vec();
            mutation.bytes(&mut bytes, &pool);
            *value = bytes.into();
        }
        store.wipe_and_commit(Batch { writes, sync: true }).unwrap();
        let before = store.image().unwrap().rows;
        drop((store, notes));
        // A new process finds it.
        let (store, _notes, _) = open(&home);
        let image = store.image().unwrap();
        assert_eq!(image.rows, before, "the home is kept");
        let me = key.public_key().peer_id();
        let room = DiskRoom::new(home.clone(), None);
        let rng = ChaCha8Rng::seed_from_u64(case);
        match Machine::boot(key.clone(), Config::default(), "attic".parse().unwrap(), room, image, rng) {
            Ok((mut machine, _)) => {
                started += 1;
                machine.peer.step(clock::now(), &mut machine.rng, Input::Wake, &mut Vec::new());
                assert_eq!(machine.peer.view().me, me);
                let logs = [(me, machine.peer.view().incarnation, 1, u64::MAX)];
                let _ = super::log_reader::read(&store, &logs).unwrap();
            }
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("store"), "it names what is damaged: {error}");
                assert!(FatalError::Boot(error).fix().is_some(), "and the next step");
                assert_eq!(store.image().unwrap().rows, before, "nothing is lost by having tried");
            }
        }
    });
    println!("{started} stores started, {refused} said what to do");
}

/// Valid inputs for the targets of `fuzz/`, which start from them; on demand, as nothing that is tested reads them.
#[test]
#[ignore = "writes files beside the targets"]
fn golden_inputs_for_the_fuzz_targets() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let save = |kind: &str, inputs: Vec<Vec<u8>>| {
        let folder = folder.join(kind);
        fs::create_dir_all(&folder).unwrap();
        for input in inputs {
            fs::write(folder.join(Hash::of(&input).to_string()), input).unwrap();
        }
    };
    save("frame", frames());
    save("join", joins());
    save("text", texts().map(String::into_bytes).to_vec());
    let store = include_str!("core/tests/fixtures/store.txt");
    let row = |(place, line): (u8, &str)| {
        let value = line.split(' ').nth(2).unwrap_or_default();
        [&[place][..], &HEXLOWER.decode(value.as_bytes()).unwrap()].concat()
    };
    save("row", (0..=u8::MAX).zip(store.lines()).map(row).collect());
}
