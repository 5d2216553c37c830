//! excluded-has-no-effect and revocation-wins: what a revocation ends, and that nothing brings it back unasked. Judged
//! by the membership changes on a peer's disk, read here without the core's own rules.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use mesh_core::entry::SignedEntry;
use mesh_core::ids::{Hash, Incarnation, PeerId, ReqId};
use mesh_core::io::Space;
use mesh_core::record::{ChangeKind, MembershipChange};
use mesh_core::test_kit::MemDisk;

use super::Checks;

/// A membership change as a disk holds it.
#[derive(Debug)]
pub(super) struct Held {
    row: Bytes,
    entry: SignedEntry,
    subject: PeerId,
    what: ChangeKind,
}

/// A revocation that nobody can doubt: of its author no membership change held says that it was removed itself, and it
/// was approved by changes that no revocation held may have voided.
struct Sure<'a> {
    by: PeerId,
    subject: PeerId,
    generation: u32,
    hash: Hash,
    cutoffs: &'a [(Incarnation, u64)],
}

/// Those who were approved without doubt: the founder, whom nobody approves, and whom they approved where no revocation
/// held could void it.
fn welcome(held: &[Arc<Held>]) -> BTreeSet<PeerId> {
    let within = |said: &Held, cutoffs: &[(Incarnation, u64)]| {
        let place = said.entry.place();
        cutoffs.iter().any(|(incarnation, seq)| *incarnation == place.incarnation && place.seq <= *seq)
    };
    let contested = |said: &Held| {
        held.iter().any(|other| {
            other.subject == said.entry.author
                && matches!(&other.what, ChangeKind::Revoked { cutoffs, .. } if !within(said, cutoffs))
        })
    };
    let approvals: Vec<&Arc<Held>> =
        held.iter().filter(|said| matches!(said.what, ChangeKind::Approved { .. })).collect();
    let subjects: BTreeSet<PeerId> = approvals.iter().map(|said| said.subject).collect();
    let authors = approvals.iter().map(|said| said.entry.author);
    let mut welcome: BTreeSet<PeerId> = authors.filter(|author| !subjects.contains(author)).collect();
    loop {
        let before = welcome.len();
        for said in &approvals {
            if welcome.contains(&said.entry.author) && !contested(said) {
                welcome.insert(said.subject);
            }
        }
        if welcome.len() == before {
            return welcome;
        }
    }
}

fn sure(held: &[Arc<Held>]) -> Vec<Sure<'_>> {
    if !held.iter().any(|said| matches!(said.what, ChangeKind::Revoked { .. })) {
        return Vec::new();
    }
    let contested_author = |author: &PeerId| {
        held.iter().any(|said| said.subject == *author && matches!(said.what, ChangeKind::Revoked { .. }))
    };
    let welcome = welcome(held);
    held.iter()
        .filter(|said| !contested_author(&said.entry.author) && welcome.contains(&said.entry.author))
        .filter_map(|said| match &said.what {
            ChangeKind::Revoked { cutoffs, left: false } => Some(Sure {
                by: said.entry.author,
                subject: said.subject,
                generation: said.entry.entry.generation,
                hash: said.entry.hash,
                cutoffs,
            }),
            ChangeKind::Revoked { .. } | ChangeKind::Approved { .. } => None,
        })
        .collect()
}

impl Checks {
    /// The membership changes on a disk, each read once for all peers that hold it.
    fn held(&mut self, disk: &MemDisk) -> Vec<Arc<Held>> {
        disk.scan(Space::Trust, vec![], vec![255; 33]).filter_map(|(key, value)| self.change(key, value)).collect()
    }

    fn change(&mut self, key: &[u8], value: &Bytes) -> Option<Arc<Held>> {
        if let Some(held) = self.changes.get(key).filter(|held| held.row == value) {
            return Some(held.clone());
        }
        let entry = SignedEntry::from_stored(value)?;
        let change: MembershipChange = entry.record()?;
        let held = Held { row: value.clone(), subject: change.subject.peer_id(), what: change.what, entry };
        let held = Arc::new(held);
        self.changes.insert(key.to_vec(), held.clone());
        Some(held)
    }

    /// **revocation-wins** a revocation is never undone by an approval that did not know it: who is revoked and belongs
    /// all the same was approved by somebody who names that revocation, or one that came after it.
    pub(crate) fn revocation_not_undone(&mut self, now: u64, peer: usize, members: &BTreeSet<PeerId>, disk: &MemDisk) {
        let held = self.held(disk);
        let sure = sure(&held);
        for revocation in sure.iter().filter(|revocation| members.contains(&revocation.subject)) {
            let later: Vec<Hash> = sure
                .iter()
                .filter(|other| other.subject == revocation.subject && other.generation > revocation.generation)
                .map(|other| other.hash)
                .chain([revocation.hash])
                .collect();
            let welcome_again = held.iter().any(|said| {
                said.subject == revocation.subject
                    && said.entry.entry.generation > revocation.generation
                    && matches!(&said.what, ChangeKind::Approved { after, .. } if after.iter().any(|hash| later.contains(hash)))
            });
            if !welcome_again {
                let number =
                    |of: PeerId| self.ids.iter().position(|id| *id == of).map_or("?".to_owned(), |n| format!("p{n}"));
                let (subject, by) = (number(revocation.subject), number(revocation.by));
                self.fail("revocation-wins", now, || {
                    format!("p{peer} holds {subject} approved, whom {by} had revoked")
                });
            }
        }
        self.no_void_entry_in_force(now, peer, members, &held, &sure);
    }

    /// **excluded-has-no-effect** no void entry is in force anywhere that holds the revocation: whoever belongs was
    /// approved by an approval that stands.
    fn no_void_entry_in_force(
        &mut self,
        now: u64,
        peer: usize,
        members: &BTreeSet<PeerId>,
        held: &[Arc<Held>],
        sure: &[Sure<'_>],
    ) {
        let void = |said: &Held| {
            sure.iter().any(|revocation| {
                let place = said.entry.place();
                // (Of incarnations that it does not name we say nothing: they may be newer than it.)
                let cutoff = revocation.cutoffs.iter().find(|(incarnation, _)| *incarnation == place.incarnation);
                revocation.subject == said.entry.author && cutoff.is_some_and(|(_, seq)| place.seq > *seq)
            })
        };
        for member in members {
            let approvals: Vec<bool> = held
                .iter()
                .filter(|said| said.subject == *member && matches!(said.what, ChangeKind::Approved { .. }))
                .map(|said| void(said))
                .collect();
            // The founder has none.
            if !approvals.is_empty() && approvals.iter().all(|void| *void) {
                self.fail("excluded-has-no-effect", now, || {
                    format!("p{peer} holds {member} approved by nothing but void changes")
                });
            }
        }
    }

    /// **excluded-has-no-effect** a peer that has received its revocation invokes nothing.
    pub(crate) fn revoked_invokes_nothing(&mut self, now: u64, peer: usize, revoked: bool, id: ReqId) {
        if revoked {
            self.fail("excluded-has-no-effect", now, || {
                format!("{id} runs at p{peer}, which holds its own revocation")
            });
        }
    }

    /// **excluded-has-no-effect** a gateway that has received a peer's revocation dispatches nothing to it.
    pub(crate) fn dispatches_to_members_only(&mut self, now: u64, gateway: usize, target: usize, trusted: bool) {
        if !trusted {
            self.fail("excluded-has-no-effect", now, || {
                format!("p{gateway} dispatches to p{target}, which does not belong")
            });
        }
    }

    /// **excluded-has-no-effect** whoever says that it does not belong any more has on its disk that it was removed, or
    /// that somebody was: perhaps the one who approved it.
    pub(crate) fn own_revocation_is_durable(&mut self, now: u64, peer: usize) {
        if self.removed[peer].is_empty() {
            self.fail("excluded-has-no-effect", now, || {
                format!("p{peer} says that it was revoked before its disk holds that")
            });
        }
    }

    /// A membership change became durable.
    pub(super) fn on_change(&mut self, peer: usize, key: &[u8], value: &Bytes) {
        if let Some(held) = self.change(key, value)
            && matches!(held.what, ChangeKind::Revoked { .. })
        {
            self.removed[peer].insert(held.subject);
        }
    }
}
