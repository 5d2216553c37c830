//! All that people said to calls that ask, as this peer holds it: entries, and for how long each is kept.
//!
//! Whether one counts is judged anew at each decision ([`crate::policy::View::decide`]). Here is only that it takes no
//! more room than it may, and that it ends: an hour when it is over by the clock of whoever holds it, or by the time at which
//! it was signed, an answer to a call together with that. An hour is held in memory alone, so a restart ends it here. One that was
//! said at this device is remembered all the same: it counts at others, and whoever said it takes it back here.

use std::collections::BTreeMap;

use crate::audience::Audience;
use crate::effects::Effects;
use crate::entry::SignedEntry;
use crate::frame::EntryItem;
use crate::ids::{Hash, PeerId, ReqId};
use crate::io::Now;
use crate::limits;
use crate::policy::{Choice, Consent, Consents, Given};
use crate::protocol_rule::{ProtocolRule, ProtocolRules};
use crate::rows::{self, ConsentRow, Row as _};
use crate::trust::Trust;

/// Time for which an answer is kept whose call is not known here yet, or has just ended.
const UNKNOWN_MS: u64 = limits::TTL_MS_MAX;

#[derive(Debug, Clone)]
struct Held {
    entry: SignedEntry,
    choice: Choice,
    /// Our clock.
    until: u64,
}

/// Need of an answer, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    /// Its call is over, runs, or is not known here.
    Little,
    /// It is about calls to come, within its hour.
    Some,
    /// A call waits for it that has not started.
    Much,
    /// It takes back an hour that is held.
    Most,
}

impl Held {
    fn left_ms(&self, now: u64) -> u64 {
        self.until.saturating_sub(now).min(limits::TTL_MS_MAX)
    }
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Answers {
    held: BTreeMap<Hash, Held>,
    /// Hours that were said here before this process began. They count for nothing here.
    former: BTreeMap<Hash, Held>,
}

/// Words of somebody, if they are an answer to an ask.
pub(crate) fn read(entry: &SignedEntry) -> Option<Consent> {
    entry.record::<Consent>().filter(|consent| consent.check().is_ok())
}

/// The call that an answer is about.
pub(crate) fn call_of(choice: &Choice) -> Option<ReqId> {
    match choice {
        Choice::Once { call, .. } | Choice::Deny { call, .. } => Some(*call),
        Choice::Hour { .. } | Choice::Withdrawn { .. } => None,
    }
}

impl Answers {
    /// Restores a row of [`rows::consent`]. `None`: it is damaged.
    pub(super) fn restore(
        &mut self,
        value: &[u8],
        now: Now,
        rules: ProtocolRules,
        consents: &mut Consents,
    ) -> Option<()> {
        let row = ConsentRow::from_bytes(value)?;
        let entry = SignedEntry::from_stored(&row.entry)?;
        let consent = read(&entry)?;
        let left = row.left_ms.saturating_sub(now.wall_ms.saturating_sub(row.saved_ms));
        let until = now.mono_ms.saturating_add(left);
        if matches!(consent.choice, Choice::Hour { .. }) && rules.enforces(ProtocolRule::HourDiesAtBoot) {
            self.former.insert(entry.hash, Held { entry, choice: consent.choice, until });
        } else {
            self.insert(entry, consent, until, consents);
        }
        Some(())
    }

    fn insert(&mut self, entry: SignedEntry, consent: Consent, until: u64, consents: &mut Consents) -> bool {
        let (hash, at, choice) = (entry.hash, entry.author, consent.choice.clone());
        let news = consents.insert(Given { hash, at, consent });
        if news {
            self.held.insert(hash, Held { entry, choice, until });
        }
        news
    }

    /// Takes an answer; true if it is news. `left_ms`: time that its hour, or its call, has left; `None`: nobody knows.
    /// `waits`: of a call, that it is known here and has not started.
    pub(super) fn hear(
        &mut self,
        entry: &SignedEntry,
        (left_ms, hour_ms): (Option<u64>, u64),
        waits: &dyn Fn(&ReqId) -> bool,
        trust: &Trust,
        consents: &mut Consents,
        fx: &mut Effects<'_>,
    ) -> bool {
        let Some(consent) = read(entry) else { return false };
        let hour = matches!(consent.choice, Choice::Hour { .. });
        // Of an hour of which nobody knows how much is left, nothing is.
        // And who shows it may have kept it for longer than it says.
        let age_ms = fx.now.wall_ms.saturating_sub(entry.entry.hlc >> 16);
        let by_clocks = (hour_ms + limits::STAY_GRACE_MS).saturating_sub(age_ms);
        let told = |left_ms: Option<u64>| left_ms.unwrap_or(0).min(hour_ms).min(by_clocks);
        let left_ms = match consent.choice {
            Choice::Hour { .. } => told(left_ms),
            // Whoever passes it on does not shorten what it takes away.
            Choice::Withdrawn { .. } => UNKNOWN_MS,
            Choice::Once { .. } | Choice::Deny { .. } => left_ms.unwrap_or(UNKNOWN_MS),
        };
        let endless = hour && !fx.enforces(ProtocolRule::HourEnds);
        let until = if endless { u64::MAX } else { fx.now.mono_ms + left_ms };
        if let Some(held) = self.held.get_mut(&entry.hash) {
            held.until = held.until.min(until);
            return false;
        }
        let refused = matches!(consent.choice, Choice::Deny { .. }) && !fx.enforces(ProtocolRule::ConsentNo);
        let new = (&entry.author, &consent.choice);
        if left_ms == 0 || refused || !self.make_room(new, waits, trust, consents, fx) {
            return false;
        }
        let news = self.insert(entry.clone(), consent, until, consents);
        if news && !(hour && fx.enforces(ProtocolRule::HourDiesAtBoot)) {
            let row = ConsentRow { entry: entry.to_stored(), left_ms, saved_ms: fx.now.wall_ms };
            fx.put(rows::consent(&entry.hash), &row);
        }
        news
    }

    /// Makes room for one more answer: of its author, if that has used up its share; else, if all is full, of all. Evicts
    /// the least needed first; among those a guest's, then one of the author with most here, then the one that expires
    /// first. False: everything here is needed as much as the new one.
    fn make_room(
        &mut self,
        new: (&PeerId, &Choice),
        waits: &dyn Fn(&ReqId) -> bool,
        trust: &Trust,
        consents: &mut Consents,
        fx: &mut Effects<'_>,
    ) -> bool {
        let (author, owner) = (new.0, trust.is_owner(new.0));
        let max = if owner { limits::CONSENTS_PER_OWNER_MAX } else { limits::CONSENTS_PER_GUEST_MAX };
        let mut counts: BTreeMap<PeerId, usize> = BTreeMap::new();
        for held in self.held.values() {
            *counts.entry(held.entry.author).or_default() += 1;
        }
        let count_of = |author: &PeerId| counts.get(author).copied().unwrap_or(0);
        let own = count_of(author);
        let over_own = own >= max;
        if !over_own && self.held.len() < crate::policy::bounds::CONSENTS_MAX {
            return true;
        }
        let rank_new = self.need(author, new.1, waits);
        let order = |held: &Held| {
            let by = &held.entry.author;
            (self.need(by, &held.choice, waits), trust.is_owner(by), std::cmp::Reverse(count_of(by)), held.until)
        };
        let may_go = self.held.iter().filter(|(_, held)| !over_own || held.entry.author == *author);
        let first = may_go.min_by_key(|(_, held)| order(held)).map(|(hash, held)| (*hash, order(held)));
        let Some((hash, (rank, of_owner, std::cmp::Reverse(count), _))) = first else { return false };
        let is_less = rank < rank_new || (rank == rank_new && (over_own || (owner && !of_owner) || count > own));
        if is_less {
            self.end(&hash, consents, fx);
        }
        is_less
    }

    /// Need of an answer: of one author only so many about one call can be needed.
    fn need(&self, author: &PeerId, choice: &Choice, waits: &dyn Fn(&ReqId) -> bool) -> Need {
        let Some(id) = call_of(choice) else {
            return match choice {
                Choice::Hour { .. } => Need::Some,
                // What is taken back stays so for as long as it would count.
                Choice::Withdrawn { consent } if self.known(consent).is_some() => Need::Most,
                Choice::Withdrawn { .. } | Choice::Once { .. } | Choice::Deny { .. } => Need::Little,
            };
        };
        let alike = |held: &&Held| held.entry.author == *author && call_of(&held.choice) == Some(id);
        let many = || self.held.values().filter(alike).count() > limits::CONSENTS_OF_CALL_MAX;
        if waits(&id) && !many() { Need::Much } else { Need::Little }
    }

    fn end(&mut self, hash: &Hash, consents: &mut Consents, fx: &mut Effects<'_>) {
        if self.held.remove(hash).is_some() {
            consents.end(hash);
            fx.delete(rows::consent(hash));
        }
    }

    /// Ends the answers to a call that is over.
    pub(super) fn end_call(&mut self, id: &ReqId, consents: &mut Consents, fx: &mut Effects<'_>) {
        let of_call = self.held.iter().filter(|(_, held)| call_of(&held.choice) == Some(*id));
        let of_call: Vec<Hash> = of_call.map(|(hash, _)| *hash).collect();
        for hash in of_call {
            self.end(&hash, consents, fx);
        }
    }

    /// Ends what is over by now; true if there was any.
    pub(super) fn handle_timeout(&mut self, consents: &mut Consents, fx: &mut Effects<'_>) -> bool {
        let now = fx.now.mono_ms;
        let over: Vec<Hash> = self.held.iter().filter(|(_, held)| held.until <= now).map(|(hash, _)| *hash).collect();
        for hash in &over {
            self.end(hash, consents, fx);
        }
        self.former.retain(|hash, held| {
            if held.until <= now && !self.held.contains_key(hash) {
                fx.delete(rows::consent(hash));
            }
            held.until > now
        });
        !over.is_empty()
    }

    /// When [`Self::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        self.held.values().chain(self.former.values()).map(|held| held.until).min()
    }

    /// Time for which an answer counts yet, for others; `None`: it is not held.
    pub(super) fn left_ms(&self, hash: &Hash, now: u64) -> Option<u64> {
        self.known(hash).map(|held| held.left_ms(now))
    }

    /// An answer that is held, or was said here before this process began.
    fn known(&self, hash: &Hash) -> Option<&Held> {
        self.held.get(hash).or_else(|| self.former.get(hash))
    }

    /// Hours that were said here before this process began, and are not over.
    pub(super) fn former(&self) -> impl Iterator<Item = Given> {
        let unheld = self.former.iter().filter(|(hash, _)| !self.held.contains_key(*hash));
        unheld
            .filter_map(|(hash, held)| Some(Given { hash: *hash, at: held.entry.author, consent: read(&held.entry)? }))
    }

    /// Those to whom an answer was told; `None`: it is not held.
    pub(super) fn audience(&self, hash: &Hash) -> Option<Audience> {
        self.known(hash).map(|held| held.entry.entry.audience.clone())
    }

    /// Answers with what they have left, for the target of a call that rests on them.
    pub(super) fn items(&self, hashes: &[Hash], now: u64) -> Vec<EntryItem> {
        let held = hashes.iter().filter_map(|hash| self.held.get(hash)).take(limits::CONSENTS_OF_CALL_MAX);
        held.map(|held| EntryItem { entry: held.entry.clone(), left_ms: Some(held.left_ms(now)) }).collect()
    }

    /// The answer of this hash.
    pub(super) fn get(&self, hash: &Hash) -> Option<Consent> {
        read(&self.held.get(hash)?.entry)
    }
}
