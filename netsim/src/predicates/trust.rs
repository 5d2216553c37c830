//! excluded-has-no-effect, ended-authority-has-no-effect and revocation-wins: what a revocation or demotion ends, and that
//! nothing brings it back unasked. Judged
//! by the membership changes on a peer's disk, read here without the core's own rules.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use mesh_core::entry::SignedEntry;
use mesh_core::ids::{PeerId, ReqId};
use mesh_core::io::Space;
use mesh_core::record::{ChangeKind, MembershipChange, Tier};
use mesh_core::test_kit::MemDisk;

use super::Checks;

/// A membership change as a disk holds it.
#[derive(Debug)]
pub(super) struct Held {
    row: Bytes,
    entry: SignedEntry,
    subject: PeerId,
    change: MembershipChange,
}

impl Held {
    /// True if it ends the authority that its subject had as an owner.
    fn ends(&self) -> bool {
        !matches!(self.change.what, ChangeKind::Approved { tier: Tier::Owner, .. })
    }

    fn removes(&self) -> bool {
        matches!(self.change.what, ChangeKind::Revoked { .. })
    }

    fn spares(&self, said: &Self) -> bool {
        self.change.stands.contains(&said.entry.hash)
    }

    /// True if its signer knew that change about the same peer: it names it, or a later one of the same log; or both
    /// are of one log.
    fn knows(&self, other: &Self, held: &[Arc<Self>]) -> bool {
        let ChangeKind::Approved { after, .. } = &self.change.what else { return false };
        let reaches = |last: &Self| {
            let (last, place) = (last.entry.place(), other.entry.place());
            (last.author, last.incarnation) == (place.author, place.incarnation) && last.seq >= place.seq
        };
        self.subject == other.subject
            && (self.entry.hash != other.entry.hash && reaches(self)
                || held.iter().any(|last| after.contains(&last.entry.hash) && reaches(last)))
    }
}

/// Those who were made owners without doubt: the founder, whom nobody approves, and whom they approved where no change
/// held could void it.
fn welcome(held: &[Arc<Held>]) -> BTreeSet<PeerId> {
    let contested = |said: &Held| {
        held.iter().any(|other| other.subject == said.entry.author && other.ends() && !other.spares(said))
    };
    let approvals: Vec<&Arc<Held>> = held.iter().filter(|said| !said.removes()).collect();
    let subjects: BTreeSet<PeerId> = approvals.iter().map(|said| said.subject).collect();
    let authors = approvals.iter().map(|said| said.entry.author);
    let mut welcome: BTreeSet<PeerId> = authors.filter(|author| !subjects.contains(author)).collect();
    loop {
        let before = welcome.len();
        for said in approvals.iter().filter(|said| !said.ends()) {
            if welcome.contains(&said.entry.author) && !contested(said) {
                welcome.insert(said.subject);
            }
        }
        if welcome.len() == before {
            return welcome;
        }
    }
}

/// Revocations and demotions that nobody can doubt: of their authors no membership change held says that their authority was
/// ended itself, and they were approved by changes that none may have voided.
fn sure(held: &[Arc<Held>]) -> Vec<&Arc<Held>> {
    let ended = |author: &PeerId| held.iter().any(|said| said.subject == *author && said.ends());
    let welcome = welcome(held);
    held.iter()
        .filter(|said| said.ends() && said.subject != said.entry.author)
        .filter(|said| welcome.contains(&said.entry.author) && !ended(&said.entry.author))
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
        let held = Held { row: value.clone(), subject: change.subject.peer_id(), change, entry };
        let held = Arc::new(held);
        self.changes.insert(key.to_vec(), held.clone());
        Some(held)
    }

    /// **revocation-wins** a revocation is never undone by an approval that did not know it: who is revoked and belongs
    /// all the same was approved by somebody who names that revocation, or one that came after it. The same of owners
    /// who were lowered.
    pub(crate) fn revocation_not_undone(
        &mut self,
        now: u64,
        peer: usize,
        members: &BTreeMap<PeerId, Tier>,
        disk: &MemDisk,
    ) {
        let held = self.held(disk);
        let sure = sure(&held);
        for ended in &sure {
            let Some(tier) = members.get(&ended.subject) else { continue };
            if *tier != Tier::Owner && !ended.removes() {
                continue;
            }
            let knows = |said: &&Arc<Held>| (*tier != Tier::Owner || !said.ends()) && said.knows(ended, &held);
            if !held.iter().any(|said| knows(&said)) {
                let number =
                    |of: PeerId| self.ids.iter().position(|id| *id == of).map_or("?".to_owned(), |n| format!("p{n}"));
                let (subject, by) = (number(ended.subject), number(ended.entry.author));
                self.fail("revocation-wins", now, || {
                    format!("p{peer} holds {subject} approved as {tier:?}, whom {by} had revoked or lowered")
                });
            }
        }
        self.no_void_entry_in_force(now, peer, members, &held, &sure);
    }

    /// **excluded-has-no-effect** no void entry is in force anywhere that holds the revocation: whoever belongs was
    /// approved by an approval that stands. **ended-authority-has-no-effect** nor is any change by an owner that was revoked or
    /// lowered, but what whoever did that had seen, and what it says by an approval that came later.
    fn no_void_entry_in_force(
        &mut self,
        now: u64,
        peer: usize,
        members: &BTreeMap<PeerId, Tier>,
        held: &[Arc<Held>],
        sure: &[&Arc<Held>],
    ) {
        let renewed = |said: &Held, ended: &Held| {
            held.iter().any(|grant| grant.entry.hash == said.change.grant && grant.knows(ended, held))
        };
        let void = |said: &Held| {
            sure.iter().find(|ended| {
                ended.subject == said.entry.author
                    && ended.entry.hash != said.entry.hash
                    && !ended.spares(said)
                    && !renewed(said, ended)
            })
        };
        for (member, tier) in members {
            let approvals: Vec<&Arc<Held>> =
                held.iter().filter(|said| said.subject == *member && !said.removes()).collect();
            let stands = |said: &&&Arc<Held>| void(said).is_none() && (*tier != Tier::Owner || !said.ends());
            let by_whom = || approvals.iter().filter_map(|said| void(said)).any(|ended| ended.removes());
            // The founder has none.
            if !approvals.iter().any(|said| stands(&said)) && approvals.iter().any(|said| void(said).is_some()) {
                let name = if by_whom() { "excluded-has-no-effect" } else { "ended-authority-has-no-effect" };
                self.fail(name, now, || {
                    format!("p{peer} holds {member} approved as {tier:?} by nothing but void changes")
                });
            }
        }
        // And nobody is out, or lowered, by such a change alone.
        let welcome = welcome(held);
        for ended in welcome.iter().filter(|owner| members.get(owner) != Some(&Tier::Owner)) {
            let mut limits = held.iter().filter(|said| said.subject == *ended && said.ends()).peekable();
            if limits.peek().is_some() && limits.all(|said| void(said).is_some()) {
                self.fail("ended-authority-has-no-effect", now, || {
                    format!("p{peer} holds {ended} removed or lowered by nothing but void changes")
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
    /// that somebody was, or that an owner was lowered: perhaps the one who approved it.
    pub(crate) fn own_revocation_is_durable(&mut self, now: u64, peer: usize) {
        if self.ended[peer].is_empty() {
            self.fail("excluded-has-no-effect", now, || {
                format!("p{peer} says that it was revoked before its disk holds that")
            });
        }
    }

    /// A membership change became durable.
    pub(super) fn on_change(&mut self, peer: usize, key: &[u8], value: &Bytes) {
        let Some(held) = self.change(key, value) else { return };
        if held.removes() || (held.ends() && self.was_owner(&held.subject)) {
            self.ended[peer].insert(held.subject);
        }
    }

    /// True if somebody approved a peer as an owner, or it needed nobody to.
    fn was_owner(&self, peer: &PeerId) -> bool {
        let mut about = self.changes.values().filter(|said| said.subject == *peer && !said.removes());
        let founder = || !self.changes.values().any(|said| said.subject == *peer && !said.ends());
        about.any(|said| !said.ends()) || (founder() && self.changes.values().any(|said| said.entry.author == *peer))
    }
}
