//! Members that lie, as scenes: one honest peer, and keys that sign whatever a scene wants said. They show what a rule is
//! for whose breach takes a key and patience, which no fault of a plan has. What bounds an author's budget is tried by the
//! hostile tests of `mesh-core`.

use mesh_core::config::Config;
use mesh_core::crypto::{Signer as _, Symbolic};
use mesh_core::entry::{Kind, SignedEntry, encode};
use mesh_core::frame::{EntryItem, Frame};
use mesh_core::ids::{Hash, NodeId, PeerId, PublicKey};
use mesh_core::io::{Command, Input, Now, Space};
use mesh_core::limits;
use mesh_core::record::{ChangeKind, Effect, MembershipChange, Tier};
use mesh_core::test_kit::{Author, Desk, offers, pushed, tool};

/// Part that membership changes of the least size take of the room for them.
const CHANGE_BYTES: u64 = 1024;
/// What an owner signs about anybody rests on nothing that is held.
const NOWHERE: Hash = Hash([9; 32]);

/// A scene. The promise that it sees broken, if it does.
type Scene = fn(&Config) -> Result<(), &'static str>;

/// All of them by name.
const SCENES: &[(&str, Scene)] = &[
    ("strays fill a set", strays_fill_a_set),
    ("one owner fills the room of all", one_owner_fills_the_room_of_all),
    ("a stranger speaks", a_stranger_speaks),
    ("keys that nobody let in are removed", keys_that_nobody_let_in_are_removed),
    ("one of three that contradict each other is crowded out", one_of_three_is_crowded_out),
];

/// Plays all scenes with cores of this configuration: the name of each, and the promise that it sees broken.
pub(crate) fn all(config: &Config) -> impl Iterator<Item = (&'static str, Option<&'static str>)> {
    SCENES.iter().map(|(name, scene)| (*name, scene(config).err()))
}

/// `Err`: the promise, if it is not kept.
fn kept(promise: &'static str, kept: bool) -> Result<(), &'static str> {
    if kept { Ok(()) } else { Err(promise) }
}

fn key(n: u64) -> PublicKey {
    Symbolic::new(n).public_key()
}

/// An honest peer that founded the mesh and leads it.
struct Honest(Desk);

impl Honest {
    fn new(config: &Config) -> Self {
        let now = Now { mono_ms: 1_000_000, wall_ms: 1_800_000_000_000 };
        let mut honest = Self(Desk::founder(Symbolic::new(0), now));
        honest.0.machine.config = config.clone();
        honest.0.crash();
        honest.0.ask(Command::SetDirectory(offers(vec![tool("append", Effect::Once)])));
        honest.0.pass(4_000);
        honest
    }

    /// Lets a member in that may say whatever it likes, and links to it.
    fn admits(&mut self, n: u64, tier: Tier) -> Author {
        let author = Author::new(Symbolic::new(n), self.0.peer().view().mesh, self.0.now);
        self.0.approve(Command::Approve {
            key: author.public_key(),
            node_id: NodeId::slug("device"),
            tier,
            stay: None,
        });
        self.0.step(Input::LinkUp(author.id()));
        author
    }

    fn receives(&mut self, from: &PeerId, entry: SignedEntry) {
        self.0.step(Input::Recv(*from, pushed(entry)));
    }

    /// The approval that a member belongs by.
    fn grant_of(&self, member: &Author) -> Hash {
        self.0.peer().grant_of(&member.id()).unwrap_or(NOWHERE)
    }

    fn tier(&self, of: &PeerId) -> Option<Tier> {
        self.0.peer().tier(of)
    }

    /// Membership changes by this author that it holds.
    fn changes_by(&self, author: &PeerId) -> u64 {
        let rows = self.0.machine.disk.scan(Space::Trust, vec![], vec![255; 33]);
        rows.filter_map(|(_, row)| SignedEntry::from_stored(row)).filter(|entry| entry.author == *author).count() as u64
    }
}

/// All that an author says about members.
fn change(by: &mut Author, grant: Hash, stands: &[Hash], subject: PublicKey, what: ChangeKind) -> SignedEntry {
    by.says(
        Kind::MEMBERSHIP,
        encode(&MembershipChange {
            subject,
            grant,
            stands: stands.to_vec(),
            rights: Vec::new(),
            fence: u64::MAX,
            what,
        }),
    )
}

fn approves() -> ChangeKind {
    ChangeKind::Approved {
        tier: Tier::Shared,
        node_id: NodeId::slug("device"),
        after: Vec::new(),
        unseen: false,
        stay: None,
        of: None,
    }
}

fn revokes() -> ChangeKind {
    ChangeKind::Revoked { cutoffs: Vec::new(), left: false, unsaid: false }
}

/// So many changes that count for nothing.
fn strays(honest: &mut Honest, by: &mut Author, count: u64) {
    for n in 0..count {
        let stray = change(by, NOWHERE, &[], key(1_000 + n), approves());
        honest.receives(&by.id(), stray);
        if n % 64 == 63 {
            honest.0.pass(200);
        }
    }
    honest.0.pass(1_000);
}

/// Rule `ChangesHaveRoom`.
fn strays_fill_a_set(config: &Config) -> Result<(), &'static str> {
    let mut honest = Honest::new(config);
    let mut guest = honest.admits(1, Tier::Shared);
    let most = limits::STRAY_CHANGES_BYTES_MAX / CHANGE_BYTES;
    strays(&mut honest, &mut guest, most + 100);
    kept("limits-hold", honest.changes_by(&guest.id()) <= most)
}

/// Rule `RoomIsShared`: whoever fills the set does not cost another owner its word.
fn one_owner_fills_the_room_of_all(config: &Config) -> Result<(), &'static str> {
    let mut honest = Honest::new(config);
    // Without shares what is by the lower identity is kept first: the approvals of the founder, the flood, and then others.
    let founder = key(0).peer_id();
    let mut later: Vec<u64> = (1..100).filter(|n| key(*n).peer_id() > founder).collect();
    later.sort_by_key(|n| key(*n).peer_id());
    let [one, .., two] = later.as_slice() else { return Err("two owners with identities above the founder's") };
    let (mut floods, mut other) = (honest.admits(*one, Tier::Owner), honest.admits(*two, Tier::Owner));
    let (grant, large) = (honest.grant_of(&floods), limits::CHANGES_NAMED_MAX as u64);
    let stands: Vec<Hash> = (0..large).map(|n| Hash::of(&n.to_be_bytes())).collect();
    // What no large one fits into any more is filled with small ones.
    let each = large * 32;
    let count = limits::CHANGES_BYTES_MAX / each;
    for n in 0..=count + each / CHANGE_BYTES {
        let stands: &[Hash] = if n < count { &stands } else { &[] };
        let flood = change(&mut floods, grant, stands, key(1_000 + n), approves());
        honest.receives(&floods.id(), flood);
        honest.0.pass(200);
    }
    let grant = honest.grant_of(&other);
    let word = change(&mut other, grant, &[], key(2_000), approves());
    honest.receives(&other.id(), word);
    honest.0.pass(1_000);
    kept("budgets-hold", honest.tier(&key(2_000).peer_id()) == Some(Tier::Shared))
}

/// Rule `StrangersUnkept`.
fn a_stranger_speaks(config: &Config) -> Result<(), &'static str> {
    let mut honest = Honest::new(config);
    let guest = honest.admits(1, Tier::Shared);
    let mut stranger = Author::new(Symbolic::new(77), guest.mesh, honest.0.now);
    let stray = change(&mut stranger, NOWHERE, &[], key(1_000), approves());
    honest.receives(&guest.id(), stray);
    honest.0.pass(1_000);
    kept("limits-hold", honest.changes_by(&stranger.id()) == 0)
}

/// Rule `LimitsOfMembers`.
fn keys_that_nobody_let_in_are_removed(config: &Config) -> Result<(), &'static str> {
    let mut honest = Honest::new(config);
    let mut owner = honest.admits(1, Tier::Owner);
    let grant = honest.grant_of(&owner);
    for n in 0..8 {
        let made_up = change(&mut owner, grant, &[], key(1_000 + n), revokes());
        honest.receives(&owner.id(), made_up);
    }
    honest.0.pass(1_000);
    kept("limits-hold", honest.0.peer().revoked_peers().is_empty())
}

/// Rule `ContradictionsKept`: of three owners that removed each other in a ring the first counts, also where the second
/// said so much that what it said of the third has no room any more.
fn one_of_three_is_crowded_out(config: &Config) -> Result<(), &'static str> {
    let mut honest = Honest::new(config);
    let mut ring: Vec<Author> = (1..=3).map(|n| honest.admits(n, Tier::Owner)).collect();
    let ids: Vec<PeerId> = ring.iter().map(Author::id).collect();
    let grants: Vec<Hash> = ring.iter().map(|owner| honest.grant_of(owner)).collect();
    strays(&mut honest, &mut ring[1], limits::STRAY_CHANGES_BYTES_MAX / CHANGE_BYTES + 10);
    let keys: Vec<PublicKey> = ring.iter().map(Author::public_key).collect();
    let said: Vec<SignedEntry> = ring
        .iter_mut()
        .enumerate()
        .map(|(at, owner)| change(owner, grants[at], &[], keys[(at + 1) % 3], revokes()))
        .collect();
    // In one frame: none is acted on before the others are here.
    let entries = said.into_iter().map(|entry| EntryItem { entry, left_ms: None }).collect();
    honest.0.step(Input::Recv(ids[1], Frame::Entries { entries, more: false }));
    honest.0.pass(2_000);
    kept("revocation-wins", honest.tier(&ids[0]) == Some(Tier::Owner) && honest.tier(&ids[1]).is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_lies_breaks_no_promise() {
        for (name, broken) in all(&Config::default()) {
            assert_eq!(broken, None, "{name}");
        }
    }
}
