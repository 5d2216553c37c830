//! limits-hold and books-and-logs-agree for the logs: what is dropped is dead, what is dead is dropped, and nothing
//! else is missing anywhere.

use std::collections::BTreeMap;

use mesh_core::entry::{Kind, SignedEntry};
use mesh_core::ids::{PeerId, ReqId};
use mesh_core::policy::{Choice, Consent};
use mesh_core::record::{CancelRequest, Outcome};
use mesh_core::rows;
use mesh_core::test_kit::MemDisk;

use super::Checks;
use crate::node;
use crate::plan::{MS, SECOND};

/// Clocks differ by so much, and an entry is durable so much later than it was written.
const SLACK_US: u64 = 2 * SECOND;
/// After this time everyone holds an entry, or has dropped it.
const TOLD_US: u64 = 5 * SECOND;

/// After this time everyone who may read a body has it.
const BODIES_US: u64 = 10 * SECOND;

/// A log as one peer holds it.
pub(crate) struct Holder<'a> {
    pub(crate) peer: usize,
    pub(crate) id: PeerId,
    /// True if it is an owner.
    pub(crate) owner: bool,
    pub(crate) disk: &'a MemDisk,
}

impl Holder<'_> {
    /// Rows of an author's log.
    fn rows_of(&self, author: &PeerId) -> BTreeMap<Vec<u8>, &bytes::Bytes> {
        self.disk.logs_of(author).map(|(key, value)| (key.to_vec(), value)).collect()
    }
}

/// True if the author of this entry, whose disk this is, still has to do with its subject.
fn is_in_hand(entry: &SignedEntry, disk: &MemDisk) -> bool {
    let open = |id: &ReqId| disk.keeps(&rows::open_call(id));
    match entry.entry.kind {
        Kind::CALL => entry.header().is_none_or(|header| open(&header.id)),
        Kind::CANCEL => entry.record::<CancelRequest>().is_none_or(|cancel| open(&cancel.id)),
        Kind::OUTCOME => entry
            .record::<Outcome>()
            .is_none_or(|outcome| open(&outcome.id) || disk.keeps(&rows::journal(&outcome.id, outcome.attempt))),
        Kind::CONSENT => entry.record::<Consent>().is_none_or(|consent| match consent.choice {
            Choice::Once { call, .. } | Choice::Deny { call, .. } => open(&call),
            Choice::Hour { .. } | Choice::Withdrawn { .. } => false,
        }),
        Kind::DIRECTORY | Kind::CHECKPOINT | Kind::TRUNCATION | Kind::AUDIT => false,
        _ => true,
    }
}

impl Checks {
    /// **truncates-only-the-dead**: what a peer drops of a log is old, is no membership change, and its author has
    /// nothing to do with it any more.
    pub(super) fn kept_what_is_alive(&mut self, now: u64, peer: usize, key: &[u8], disk: &MemDisk) {
        let Some((_, entry, _, seen)) = self.rows.get(key) else { return };
        let (age, entry) = (now - seen, entry.clone());
        let kind = entry.entry.kind;
        if matches!(kind, Kind::GENESIS | Kind::MEMBERSHIP) {
            self.fail("truncates-only-the-dead", now, || format!("p{peer} drops a membership change from a log"));
        }
        if self.keep_entries_us.is_some_and(|keep| age + SLACK_US < keep) {
            self.fail("truncates-only-the-dead", now, || {
                format!("p{peer} drops an entry of kind {} after {} ms", kind.0, age / MS)
            });
        }
        let own = self.ids.get(peer) == Some(&entry.author);
        if own {
            self.dropped[peer].insert(key.to_vec(), now);
            // What was played back takes up again what its former self had dropped.
            if !self.restored.contains(&peer) && is_in_hand(&entry, disk) {
                self.fail("truncates-only-the-dead", now, || {
                    format!("p{peer} drops an entry of its own of kind {} that it may need", kind.0)
                });
            }
        }
    }

    /// **limits-hold** an author's log holds few old entries that nobody needs. **books-and-logs-agree** whoever is
    /// linked to it for long holds what it holds, and has dropped what it has dropped. Both where logs forget.
    /// **bodies-arrive**.
    pub(crate) fn logs_agree(&mut self, now: u64, author: &Holder<'_>, others: &[Holder<'_>]) {
        let Some(id) = self.ids.get(author.peer).copied() else { return };
        let rows = author.rows_of(&id);
        // Former incarnations rest, and what is left of them goes round without haste. The last directory, and the last
        // truncation, stay.
        let entries: Vec<_> = rows.iter().filter_map(|(key, value)| Some((key, self.entry_of(key, value)?))).collect();
        let newest = entries.iter().max_by_key(|(_, entry)| entry.entry.hlc).map(|(_, entry)| entry.entry.incarnation);
        let Some(newest) = newest else { return };
        if let Some(keep) = self.keep_entries_us {
            let idle = entries.iter().filter(|(key, entry)| {
                let old = now > self.seen(now, key) + keep + TOLD_US;
                old && entry.entry.incarnation == newest && !is_in_hand(entry, author.disk)
            });
            let count = idle.count();
            let just = self.forgot.get(author.peer).is_some_and(|at| now < at + TOLD_US);
            if count > node::COMPACT_MIN + 1 && !just {
                self.fail("limits-hold", now, || {
                    format!("p{} holds {count} old entries of its own that nobody needs", author.peer)
                });
            }
        }
        let of_incarnation = |key: &&Vec<u8>| key.get(32..36) == Some(newest.0.to_be_bytes().as_slice());
        for other in others {
            let held = other.rows_of(&id);
            self.bodies_arrive(now, author, other, &rows, &held, of_incarnation);
            if self.keep_entries_us.is_none() {
                continue;
            }
            let lost = rows
                .keys()
                .find(|key| of_incarnation(key) && !held.contains_key(*key) && now > self.seen(now, key) + TOLD_US);
            if let Some(key) = lost {
                let seq = key.get(36..).map(<[u8]>::to_vec);
                self.fail("books-and-logs-agree", now, || {
                    format!("p{} lacks entry {seq:?} of p{}", other.peer, author.peer)
                });
            }
            let dropped = &self.dropped[author.peer];
            let stays =
                held.keys().find(|key| of_incarnation(key) && dropped.get(*key).is_some_and(|at| now > at + TOLD_US));
            if let Some(key) = stays {
                let seq = key.get(36..).map(<[u8]>::to_vec);
                self.fail("limits-hold", now, || format!("p{} still holds {seq:?} of p{}", other.peer, author.peer));
            }
        }
    }

    /// When some disk held a row of a log first.
    fn seen(&self, now: u64, key: &[u8]) -> u64 {
        self.rows.get(key).map_or(now, |(.., seen)| *seen)
    }

    /// **bodies-arrive** whoever may read an entry that it holds has its body before long.
    fn bodies_arrive(
        &mut self,
        now: u64,
        author: &Holder<'_>,
        other: &Holder<'_>,
        rows: &BTreeMap<Vec<u8>, &bytes::Bytes>,
        held: &BTreeMap<Vec<u8>, &bytes::Bytes>,
        of_incarnation: impl Fn(&&Vec<u8>) -> bool,
    ) {
        let blind = rows.iter().find(|(key, value)| {
            let Some(held_value) = held.get(*key).filter(|held| **held != **value) else { return false };
            let (Some(whole), Some(here)) = (self.entry_of(key, value), self.entry_of(key, held_value)) else {
                return false;
            };
            let reader = other.owner || whole.entry.audience.names(&other.id);
            let late = now > self.seen(now, key) + BODIES_US;
            of_incarnation(key) && reader && late && whole.has_body() && !here.has_body()
        });
        if let Some((key, _)) = blind {
            let seq = key.get(36..).map(<[u8]>::to_vec);
            self.fail("bodies-arrive", now, || {
                format!("p{} lacks the body of entry {seq:?} of p{}", other.peer, author.peer)
            });
        }
    }

    /// True if nobody can tell any more how a call ended at its target: that one has forgotten it, has dropped its
    /// outcome, or never received it before its origin dropped it.
    pub(crate) fn is_past(&self, target: usize, id: &ReqId) -> bool {
        let forgotten = self.forgotten[target].get(id.series().0.as_slice()).is_some_and(|mark| id.counter() <= *mark);
        let mut outcomes = self.spoken.range((*id, 0)..=(*id, u8::MAX));
        let unsaid = outcomes.any(|(_, key)| self.dropped[target].contains_key(key));
        self.keep_entries_us.is_some()
            && (forgotten || unsaid || (!self.headers[target].contains(id) && self.is_dropped_by_origin(id)))
    }

    /// True if the origin of a call has dropped its header. A backup that is played back then does not bring it back.
    pub(crate) fn is_dropped_by_origin(&self, id: &ReqId) -> bool {
        let known = self.known.get(id);
        known.is_some_and(|known| self.dropped.iter().any(|dropped| dropped.contains_key(&known.key)))
    }
}
