//! A member without a core: it signs whatever a test wants said.

use crate::audience::Audience;
use crate::crypto::{Signer, Symbolic};
use crate::entry::{BodyCommitment, Entry, Kind, Salt, SignedEntry, decode};
use crate::frame::{EntryItem, Frame};
use crate::ids::{Hash, Incarnation, MeshId, PeerId, PublicKey};
use crate::io::Now;
use crate::record::Header;

/// No secret in tests.
const SALT: Salt = Salt([7; 16]);

/// A member with a log of its own, in which it may write whatever it likes.
#[derive(Debug, Clone)]
pub struct Author<S = Symbolic> {
    /// Its key.
    pub key: S,
    /// The mesh that its entries are about.
    pub mesh: MeshId,
    /// The incarnation that its entries are of.
    pub incarnation: Incarnation,
    /// Place of its newest entry.
    pub seq: u64,
    /// Hash of its newest entry.
    pub previous: Hash,
    /// Clock of its newest entry.
    pub hlc: u64,
}

impl<S: Signer> Author<S> {
    /// One that has said nothing yet.
    pub fn new(key: S, mesh: MeshId, now: Now) -> Self {
        Self { key, mesh, incarnation: Incarnation(1), seq: 0, previous: Hash::ZERO, hlc: now.wall_ms << 16 }
    }

    /// Its key, as the others know it.
    pub fn public_key(&self) -> PublicKey {
        self.key.public_key()
    }

    /// Its identity.
    pub fn id(&self) -> PeerId {
        self.public_key().peer_id()
    }

    /// The audience of an entry: of a header the two ends of the call, of all else about a call its owners and itself.
    fn audience(&self, kind: Kind, body: &[u8]) -> Audience {
        let me = self.id();
        let target = decode::<Header>(body).map_or(me, |header| header.target);
        match kind {
            Kind::CALL => Audience::Call { origin: me, target },
            Kind::OUTCOME | Kind::CANCEL | Kind::CONSENT => Audience::Call { origin: me, target: me },
            Kind::AUDIT => Audience::Owners,
            _ => Audience::Everyone,
        }
    }

    /// An entry in its place; `change` may take it out of there.
    #[expect(clippy::needless_pass_by_value, reason = "bodies are made where they are passed")]
    pub fn entry(&mut self, kind: Kind, body: Vec<u8>, change: impl FnOnce(&mut Entry)) -> SignedEntry {
        self.hlc += 1;
        let mut entry = Entry {
            mesh: self.mesh,
            author: self.public_key(),
            incarnation: self.incarnation,
            seq: self.seq + 1,
            hlc: self.hlc,
            kind,
            critical: false,
            previous: self.previous,
            audience: self.audience(kind, &body),
            body: BodyCommitment::of(SALT, &body),
        };
        change(&mut entry);
        let signed = SignedEntry::sign(&self.key, entry, SALT, &body);
        (self.seq, self.previous) = (signed.entry.seq, signed.hash);
        signed
    }

    /// The next entry of its log.
    pub fn says(&mut self, kind: Kind, body: Vec<u8>) -> SignedEntry {
        self.entry(kind, body, |_| {})
    }
}

/// The frame that brings one entry.
pub fn pushed(entry: SignedEntry) -> Frame {
    Frame::Entries { entries: vec![EntryItem { entry, left_ms: None }], more: false }
}
