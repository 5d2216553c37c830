//! Which membership changes count. A revocation voids what the revoked author wrote beyond the cut-off, which may be
//! another revocation; and that one may be the cause why the first counts for nothing.
//!
//! The result is the grounded extension of an attack graph (Dung 1995, abstract argumentation), in which revocations
//! attack the changes that they void: a revocation counts once nothing that is still open can void it or its signer,
//! and is skipped once something that counts does. What is left then contradicts each other (owners who revoked each
//! other in two halves of the mesh); of those the one whose signer is nearest to the founder counts, then by peer id.

use std::collections::{BTreeMap, BTreeSet};

use super::Revocation;
use crate::entry::SignedEntry;
use crate::ids::{Hash, Incarnation, PeerId};
use crate::record::{ChangeKind, MembershipChange, Tier};

/// An approval or revocation that is held.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) entry: SignedEntry,
    pub(super) subject: PeerId,
    pub(super) change: MembershipChange,
    /// Of a revocation: what stands of its subject, by incarnation.
    pub(super) cutoffs: BTreeMap<Incarnation, u64>,
}

impl Record {
    pub(super) fn new(entry: SignedEntry) -> Option<Self> {
        let change: MembershipChange = entry.record()?;
        let subject = change.subject.peer_id();
        let mut cutoffs = BTreeMap::new();
        if let ChangeKind::Revoked { cutoffs: said, .. } = &change.what {
            for (incarnation, seq) in said {
                // Of two for one incarnation the lower: nothing unseen may stand.
                cutoffs
                    .entry(*incarnation)
                    .and_modify(|cutoff: &mut u64| *cutoff = (*cutoff).min(*seq))
                    .or_insert(*seq);
            }
            if subject == entry.author {
                // One's own departure is the cut-off of that incarnation, whatever it names.
                cutoffs.insert(entry.entry.incarnation, entry.entry.seq);
            }
        }
        Some(Self { entry, subject, change, cutoffs })
    }

    fn is_leave(&self) -> bool {
        matches!(self.change.what, ChangeKind::Revoked { left: true, .. }) && self.subject == self.entry.author
    }

    /// True if this approval was given by one who knew that revocation.
    pub(super) fn takes_back(&self, revocation: &Self, after: &[Hash]) -> bool {
        after.contains(&revocation.entry.hash) && self.entry.entry.generation > revocation.entry.entry.generation
    }

    pub(super) fn revocation(&self, taken_back: &BTreeSet<Hash>) -> Revocation {
        Revocation {
            key: self.change.subject,
            by: self.entry.author,
            hlc: self.entry.entry.hlc,
            cutoffs: self.cutoffs.clone(),
            hash: self.entry.hash,
            generation: self.entry.entry.generation,
            taken_back: taken_back.contains(&self.entry.hash),
        }
    }
}

/// Revocations by whom they remove.
pub(super) type RevocationsBySubject<'a> = BTreeMap<PeerId, Vec<&'a Record>>;

/// Owners and approvals that a set of revocations leaves standing.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Everyone who was ever an owner by approvals that stand, with the distance from the founder.
    pub(super) owners: BTreeMap<PeerId, u32>,
    /// Revocations that an approval takes back which stands and knew them.
    pub(super) taken_back: BTreeSet<Hash>,
}

/// Result of judging the set.
#[derive(Debug)]
pub(super) struct Judged<'a> {
    /// Everyone who would be an owner had nobody ever been revoked, with the distance from the founder.
    pub(super) depths: BTreeMap<PeerId, u32>,
    /// The revocations that count.
    pub(super) revocations: RevocationsBySubject<'a>,
    pub(super) standing: Standing,
    /// True if some contradicted each other, so that their order decided.
    #[cfg(test)]
    pub(super) by_order: bool,
}

impl<'a> Judged<'a> {
    pub(super) fn revocations_of(&self, peer: &PeerId) -> &[&'a Record] {
        self.revocations.get(peer).map_or(&[], Vec::as_slice)
    }

    pub(super) fn is_void(&self, record: &Record) -> bool {
        is_void(record, &self.revocations, &self.standing.taken_back)
    }

    /// Signer of the revocation that voids this; the first by hash, if there are several.
    pub(super) fn voided_by(&self, record: &Record) -> Option<PeerId> {
        let voids = |one: &&&Record| voids(one, record, &self.standing.taken_back);
        self.revocations_of(&record.entry.author)
            .iter()
            .filter(voids)
            .min_by_key(|one| one.entry.hash)
            .map(|r| r.entry.author)
    }
}

fn voids(revocation: &Record, record: &Record, taken_back: &BTreeSet<Hash>) -> bool {
    // An incarnation that it does not name is unseen; unless it was taken back, when the incarnation may be newer than
    // it.
    let unseen = !taken_back.contains(&revocation.entry.hash);
    let cutoff = revocation.cutoffs.get(&record.entry.entry.incarnation);
    cutoff.map_or(unseen, |cutoff| record.entry.entry.seq > *cutoff)
}

fn is_void(record: &Record, revocations: &RevocationsBySubject<'_>, taken_back: &BTreeSet<Hash>) -> bool {
    revocations.get(&record.entry.author).is_some_and(|of| of.iter().any(|one| voids(one, record, taken_back)))
}

/// Decides which revocations count, and what they leave.
pub(super) fn judge(founder: PeerId, records: &BTreeMap<Hash, Record>) -> Judged<'_> {
    let (approvals, mut open): (Vec<&Record>, Vec<&Record>) =
        records.values().partition(|record| matches!(record.change.what, ChangeKind::Approved { .. }));
    let depths = derive_owners(founder, &approvals, &RevocationsBySubject::new()).owners;
    open.retain(|record| record.is_leave() || depths.contains_key(&record.entry.author));
    let depth = |record: &Record| depths.get(&record.entry.author).copied().unwrap_or(u32::MAX);
    open.sort_by_key(|record| {
        let entry = &record.entry;
        (depth(record), entry.author, entry.entry.incarnation, entry.entry.seq, entry.hash)
    });
    let mut counted = RevocationsBySubject::new();
    // Those that count by their order alone. What comes later and would void one of them is skipped.
    let mut by_order: Vec<&Record> = Vec::new();
    loop {
        let standing = derive_owners(founder, &approvals, &counted);
        open.retain(|one| {
            // One that takes the ground from under its own signer counts for nothing either.
            let kept = |first: &Record| is_kept(founder, &approvals, &counted, first, one);
            holds(one, &counted, &standing) && kept(one) && by_order.iter().all(|first| kept(first))
        });
        if open.is_empty() {
            return Judged {
                depths,
                revocations: counted,
                standing,
                #[cfg(test)]
                by_order: !by_order.is_empty(),
            };
        }
        let all = with(&counted, &open);
        let least = derive_owners(founder, &approvals, &all);
        let (mut certain, rest): (Vec<&Record>, Vec<&Record>) =
            open.iter().copied().partition(|one| holds(one, &all, &least));
        open = rest;
        if certain.is_empty() {
            certain.push(open.remove(0));
            by_order.extend(&certain);
        } else if !by_order.is_empty() {
            // One at a time, since two together may void what neither does alone.
            open.extend(certain.drain(1..));
        }
        counted = with(&counted, &certain);
    }
}

/// True if a revocation counts when these do.
fn holds(one: &Record, revocations: &RevocationsBySubject<'_>, standing: &Standing) -> bool {
    (one.is_leave() || standing.owners.contains_key(&one.entry.author))
        && !is_void(one, revocations, &standing.taken_back)
}

/// True if `first` still counts when `one` does too.
pub(super) fn is_kept(
    founder: PeerId,
    approvals: &[&Record],
    counted: &RevocationsBySubject<'_>,
    first: &Record,
    one: &Record,
) -> bool {
    let both = with(counted, &[one]);
    holds(first, &both, &derive_owners(founder, approvals, &both))
}

fn with<'a>(counted: &RevocationsBySubject<'a>, more: &[&'a Record]) -> RevocationsBySubject<'a> {
    let mut all = counted.clone();
    for one in more {
        all.entry(one.subject).or_default().push(one);
    }
    all
}

/// Follows the approvals from the founder on. More revocations never leave more standing.
fn derive_owners(founder: PeerId, approvals: &[&Record], revocations: &RevocationsBySubject<'_>) -> Standing {
    let mut standing = Standing { owners: BTreeMap::from([(founder, 0)]), taken_back: BTreeSet::new() };
    loop {
        let mut grown = false;
        for record in approvals {
            let ChangeKind::Approved { tier, after, .. } = &record.change.what else { continue };
            let Some(depth) = standing.owners.get(&record.entry.author).copied() else { continue };
            if is_void(record, revocations, &standing.taken_back) {
                continue;
            }
            for revocation in revocations.get(&record.subject).into_iter().flatten() {
                grown |= record.takes_back(revocation, after) && standing.taken_back.insert(revocation.entry.hash);
            }
            if *tier == Tier::Owner && standing.owners.get(&record.subject).is_none_or(|known| *known > depth + 1) {
                standing.owners.insert(record.subject, depth + 1);
                grown = true;
            }
        }
        if !grown {
            return standing;
        }
    }
}
