//! A past for a home that has none: many known nodes, many finished calls. Made by the core itself, as it would have
//! come about, but in one go and without links.

use std::collections::VecDeque;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use mesh_core::config::Config;
use mesh_core::crypto::Signer;
use mesh_core::entry::{self, Kind};
use mesh_core::ids::{NodeId, PublicKey, Signature};
use mesh_core::io::{Command, Input, NewCall, Now, Output, Reply};
use mesh_core::peer::Peer;
use mesh_core::record::{Directory, Effect, Tier};
use mesh_core::test_kit::{self, Author, pushed};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use ring::signature::{Ed25519KeyPair, KeyPair};
use sigil::mesh::clock;
use sigil::mesh::identity::DeviceKey;
use sigil::mesh::store::{DurableNote, FjallStore, Store};
use tokio::sync::mpsc;

/// Calls that are made before their endings are looked at: well under the limit of open calls.
const AT_ONCE: usize = 16;

/// A device that is known and never there.
#[derive(Debug)]
struct Stranger(Ed25519KeyPair);

impl Signer for Stranger {
    fn public_key(&self) -> PublicKey {
        PublicKey::from_slice(self.0.public_key().as_ref()).unwrap_or(PublicKey([0; 32]))
    }

    fn sign(&self, message: &[u8]) -> Signature {
        Signature::from_slice(self.0.sign(message).as_ref()).unwrap_or(Signature([0; 64]))
    }
}

/// The core at work on a store, without its shell.
struct Alone {
    peer: Peer,
    store: FjallStore,
    durable: mpsc::Receiver<DurableNote>,
    rng: ChaCha8Rng,
    now: Now,
    commands: u64,
    made: usize,
    refused: Option<String>,
}

/// Gives the home of a stopped agent a past. Answers the names of the known nodes; each offers `tool`.
pub(crate) fn give(home: &Path, tool: &str, nodes: usize, calls: usize) -> Result<Vec<String>> {
    let key = DeviceKey::load_or_create(home).context("the device key")?;
    let (notes, durable) = mpsc::channel(16);
    let (store, _) = FjallStore::open(&home.join("store"), notes).context("the store")?;
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let now = clock::now();
    let mut out = Vec::new();
    let image = store.image().context("the store")?;
    let peer = Peer::boot(Config::default(), Box::new(key), image, now, &mut rng, &mut out);
    let peer = peer.context("the mesh in the store")?;
    let mut alone = Alone { peer, store, durable, rng, now, commands: 0, made: 0, refused: None };
    alone.perform(out);
    // Until it leads: nobody else is there.
    for _ in 0..1_000 {
        if alone.peer.leads() {
            break;
        }
        alone.now.mono_ms = alone.peer.poll_timeout().unwrap_or(0).max(alone.now.mono_ms + 1);
        alone.step(Input::Wake);
    }
    let known = (0..nodes).map(|nth| alone.meet(nth, tool)).collect::<Result<Vec<_>>>()?;
    let me = alone.peer.view().node_id.to_string();
    while alone.made < calls && alone.refused.is_none() {
        for _ in 0..AT_ONCE.min(calls - alone.made) {
            alone.call(&me, tool);
        }
    }
    if let Some(why) = alone.refused {
        bail!("making a past: {why}");
    }
    alone.store.close();
    Ok(known)
}

impl Alone {
    fn step(&mut self, input: Input) {
        let mut out = Vec::new();
        self.peer.step(self.now, &mut self.rng, input, &mut out);
        self.perform(out);
    }

    /// Does what the core says. What it writes is taken as durable at once: nobody relies on it before the store closes.
    fn perform(&mut self, out: Vec<Output>) {
        let mut todo = VecDeque::from(out);
        while let Some(output) = todo.pop_front() {
            let input = match output {
                Output::Commit(txn, mut batch) => {
                    batch.sync = false;
                    self.store.commit(txn, batch);
                    while self.durable.try_recv().is_ok() {}
                    Input::Durable(txn)
                }
                Output::Invoke(invocation) => Input::ToolEnded(invocation.id, invocation.attempt, test_kit::done()),
                Output::Reply(_, Reply::Refused(refusal)) => {
                    self.refused = Some(refusal.to_string());
                    continue;
                }
                Output::Send(..)
                | Output::ReadLog { .. }
                | Output::ReadClosed { .. }
                | Output::Kill(..)
                | Output::Fetch { .. }
                | Output::Reply(..)
                | Output::Fact(_) => continue,
            };
            let mut more = Vec::new();
            self.peer.step(self.now, &mut self.rng, input, &mut more);
            todo.extend(more);
        }
    }

    fn command(&mut self, command: Command) {
        self.commands += 1;
        self.step(Input::Command(self.commands, command));
    }

    /// Approves a device and hears what it offers.
    fn meet(&mut self, nth: usize, tool: &str) -> Result<String> {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).context("a key")?;
        let stranger = Stranger(pair);
        let name = format!("known-{nth:04}");
        let node_id: NodeId = name.parse().context("a name")?;
        self.command(Command::Approve { key: stranger.public_key(), node_id, tier: Tier::Shared, stay: None });
        let mut author = Author::new(stranger, self.peer.view().mesh, self.now);
        let directory = Directory { tools: vec![test_kit::tool(tool, Effect::None)], ..Directory::default() };
        let entry = author.says(Kind::DIRECTORY, entry::encode(&directory));
        self.step(Input::Recv(author.id(), pushed(entry)));
        Ok(name)
    }

    fn call(&mut self, node: &str, tool: &str) {
        self.made += 1;
        let call = NewCall { timeout_ms: 60_000, ..test_kit::call(node, tool) };
        self.command(Command::Call(call));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::ids::NodeId;
    use mesh_core::io::Space;
    use mesh_core::peer::founded;
    use std::ops::Bound;

    #[test]
    fn a_past_is_there_when_the_home_is_opened_again() {
        let home = tempfile::tempdir().unwrap();
        let key = DeviceKey::load_or_create(home.path()).unwrap();
        let open = || FjallStore::open(&home.path().join("store"), mpsc::channel(16).0).unwrap().0;
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let name: NodeId = "den".parse().unwrap();
        open().wipe_and_commit(founded(&key, "m", &name, clock::now(), &mut rng)).unwrap();
        assert_eq!(give(home.path(), "noop", 3, 0).unwrap(), ["known-0000", "known-0001", "known-0002"]);
        let store = open();
        let count = |space| store.range(space, Bound::Unbounded, Bound::Unbounded, false, 100).unwrap().len();
        assert_eq!((count(Space::Trust), count(Space::Directory), count(Space::Calls)), (4, 3, 0));
    }
}
