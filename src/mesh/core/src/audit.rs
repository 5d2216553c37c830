//! The audit: what was refused at a door, and who changed what is said about rights (`docs/protocol.md`, Audit).
//!
//! Calls tell of themselves, by their headers, consents and outcomes; here is only what leaves no trace otherwise. A peer
//! gathers what happens at its doors, equal things counted, and signs it for owners as one entry now and then; owners keep
//! such entries until they are old or too many. Nothing in them is an argument or a result.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::audit_record::{AuditBatch, AuditRow, ROWS_MAX};
use crate::budget::Amount;
use crate::effects::Effects;
use crate::entry::{self, Place, SignedEntry};
use crate::ids::PeerId;
use crate::rows;

/// Most rows of one entry of who is no owner: so much of all that it may say stays for calls.
const GUEST_ROWS_MAX: usize = 8;
/// Most bytes of one entry's rows.
const BATCH_BYTES_MAX: usize = 16 * 1024;
/// Between something that happens after a pause and its entry: what comes with it goes along.
const GATHER_MS: u64 = 1_000;
/// Between two entries of an owner.
const EVERY_MS: u64 = 10_000;
/// Between two entries of anyone else: in all the time for which they stay in its log they take a fifth of its budget.
const GUEST_EVERY_MS: u64 = 60_000;
/// Time for which entries are kept.
pub const KEPT_MS: u64 = 90 * 24 * 60 * 60 * 1_000;
/// Most that is kept of all authors together. Of whoever has most the oldest goes first.
pub const KEPT: Amount = Amount { entries: 32_768, bytes: 64 * 1024 * 1024 };
/// Between two looks for what is too old.
const LOOK_EVERY_MS: u64 = 60 * 60 * 1_000;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Audit {
    /// All that has happened here since our last entry.
    pending: AuditBatch,
    due_ms: Option<u64>,
    /// When the next entry may come.
    next_ms: u64,
    /// Of each author the entries that are kept, in order of their times, with their bytes.
    kept: BTreeMap<PeerId, BTreeMap<(u64, Place), u64>>,
    sizes: BTreeMap<PeerId, Amount>,
    all: Amount,
    look_ms: u64,
}

impl Audit {
    /// Takes back a row of [`rows::audit`]. `None`: it is damaged.
    pub(crate) fn restore(&mut self, key: &[u8], value: &Bytes) -> Option<()> {
        let (at_ms, place) = rows::audit_of(key)?;
        self.count(at_ms, place, value.len() as u64);
        Some(())
    }

    fn count(&mut self, at_ms: u64, place: Place, bytes: u64) {
        if self.kept.entry(place.author).or_default().insert((at_ms, place), bytes).is_none() {
            self.sizes.entry(place.author).or_default().add(Amount::one(bytes));
            self.all.add(Amount::one(bytes));
        }
    }

    /// Something has happened at a door of ours.
    pub(crate) fn note(&mut self, mut row: AuditRow, fx: &Effects<'_>) {
        (row.at_ms, row.last_ms) = (fx.now.wall_ms, fx.now.wall_ms);
        if let Some(like) = self.pending.rows.iter_mut().find(|other| other.is_like(&row)) {
            like.add(&row);
        } else if self.pending.rows.len() < ROWS_MAX {
            self.pending.rows.push(row);
        } else {
            self.pending.left_out = self.pending.left_out.saturating_add(u64::from(row.count));
        }
        self.due_ms.get_or_insert(self.next_ms.max(fx.now.mono_ms + GATHER_MS));
    }

    /// Events so far are to be signed now: the process ends.
    pub(crate) fn sign_now(&mut self, now: u64) {
        self.due_ms = self.due_ms.map(|_| now);
    }

    pub(crate) fn poll_timeout(&self) -> Option<u64> {
        let look = (!self.kept.is_empty()).then_some(self.look_ms);
        [self.due_ms, look].into_iter().flatten().min()
    }

    /// Drops what is too old. Answers the body of an entry of ours, when one is due.
    pub(crate) fn handle_timeout(&mut self, is_owner: bool, fx: &mut Effects<'_>) -> Option<Vec<u8>> {
        let now = fx.now.mono_ms;
        if self.look_ms <= now && !self.kept.is_empty() {
            self.look_ms = now + LOOK_EVERY_MS;
            self.drop_old(fx);
        }
        self.due_ms.filter(|due| *due <= now)?;
        let (rows_max, every_ms) = if is_owner { (ROWS_MAX, EVERY_MS) } else { (GUEST_ROWS_MAX, GUEST_EVERY_MS) };
        let mut bytes = 0;
        let fits = |row: &&AuditRow| {
            bytes += entry::encode(*row).len();
            bytes <= BATCH_BYTES_MAX
        };
        let count = self.pending.rows.iter().take(rows_max).take_while(fits).count().max(1);
        let rest = self.pending.rows.split_off(count.min(self.pending.rows.len()));
        let batch = std::mem::replace(&mut self.pending, AuditBatch { rows: rest, left_out: 0 });
        self.next_ms = now + every_ms;
        self.due_ms = (!self.pending.rows.is_empty()).then_some(self.next_ms);
        Some(entry::encode(&batch))
    }

    /// Nobody takes our word any more.
    pub(crate) fn forget_pending(&mut self) {
        self.pending = AuditBatch::default();
        self.due_ms = None;
    }

    /// Keeps what an author says happened. Its clock may be ahead: then it counts as of now.
    pub(crate) fn hear(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) {
        if AuditBatch::of(entry).is_none() {
            return;
        }
        let (at_ms, place) = ((entry.entry.hlc >> 16).min(fx.now.wall_ms), entry.place());
        let row = rows::audit(at_ms, &place).put(entry);
        self.count(at_ms, place, row.value.as_ref().map_or(0, Bytes::len) as u64);
        fx.writes.push(row);
        self.look_ms = self.look_ms.max(1);
        while self.all.entries > KEPT.entries || self.all.bytes > KEPT.bytes {
            let most = self.sizes.iter().max_by_key(|(_, size)| (size.bytes, size.entries)).map(|(author, _)| *author);
            if !most.is_some_and(|author| self.drop_oldest(&author, u64::MAX, fx)) {
                break;
            }
        }
    }

    /// Drops the oldest entry of an author, if it is from before `until_ms`.
    fn drop_oldest(&mut self, author: &PeerId, until_ms: u64, fx: &mut Effects<'_>) -> bool {
        let Some(kept) = self.kept.get_mut(author) else { return false };
        let Some(oldest) = kept.first_entry().filter(|oldest| oldest.key().0 < until_ms) else { return false };
        let ((at_ms, place), bytes) = oldest.remove_entry();
        fx.delete(rows::audit(at_ms, &place));
        self.all.take(Amount::one(bytes));
        if kept.is_empty() {
            self.kept.remove(author);
            self.sizes.remove(author);
        } else if let Some(size) = self.sizes.get_mut(author) {
            size.take(Amount::one(bytes));
        }
        true
    }

    fn drop_old(&mut self, fx: &mut Effects<'_>) {
        let until_ms = fx.now.wall_ms.saturating_sub(KEPT_MS);
        let authors: Vec<PeerId> = self.kept.keys().copied().collect();
        for author in authors {
            while self.drop_oldest(&author, until_ms, fx) {}
        }
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng as _;

    use super::*;
    use crate::audience::Audience;
    use crate::audit_record::{Happened, Outside};
    use crate::entry::Kind;
    use crate::ids::{Incarnation, MeshId};
    use crate::io::Now;
    use crate::policy::{Content, Key, Rule, RuleVerdict, Said, Value, Verdict};
    use crate::protocol_rule::ProtocolRules;
    use crate::test_kit::{Author, at};

    struct Desk {
        audit: Audit,
        deleted: usize,
    }

    impl Desk {
        fn new() -> Self {
            Self { audit: Audit::default(), deleted: 0 }
        }

        fn at<T>(&mut self, ms: u64, wall_ms: u64, act: impl FnOnce(&mut Audit, &mut Effects<'_>) -> T) -> T {
            let (mut out, mut rng) = (Vec::new(), ChaCha8Rng::seed_from_u64(1));
            let now = Now { mono_ms: ms, wall_ms };
            let mut fx = Effects::new(PeerId([1; 32]), ProtocolRules::default(), now, 0, &mut rng, &mut out);
            let done = act(&mut self.audit, &mut fx);
            self.deleted += fx.writes.iter().filter(|write| write.value.is_none()).count();
            done
        }
    }

    fn row(tool: &str) -> AuditRow {
        AuditRow {
            tool: Some(tool.parse().unwrap()),
            ..AuditRow::new(Happened::CallRefused, Some("person:mia".parse().unwrap()), Verdict::Deny, "w/r")
        }
    }

    fn read(body: &[u8]) -> AuditBatch {
        entry::decode(body).unwrap()
    }

    #[test]
    fn equal_things_are_counted_and_an_entry_comes_every_ten_seconds_at_most() {
        let mut desk = Desk::new();
        for n in 0..5 {
            desk.at(n, 70 + n, |audit, fx| audit.note(row("lock.open"), fx));
        }
        desk.at(9, 79, |audit, fx| audit.note(row("tv.on"), fx));
        assert!(desk.at(999, 100, |audit, fx| audit.handle_timeout(true, fx)).is_none());
        let batch = read(&desk.at(1_000, 100, |audit, fx| audit.handle_timeout(true, fx)).unwrap());
        let [first, second] = batch.rows.as_slice() else { panic!("{batch:?}") };
        assert_eq!((first.count, first.at_ms, first.last_ms, second.count), (5, 70, 74, 1));
        // A flood of different things: an entry in ten seconds, and the rest is a number.
        for n in 0..1_000 {
            desk.at(1_001, 100, |audit, fx| audit.note(row(&format!("t{n}")), fx));
        }
        assert_eq!(desk.audit.poll_timeout(), Some(11_000));
        let batch = read(&desk.at(11_000, 100, |audit, fx| audit.handle_timeout(true, fx)).unwrap());
        assert_eq!((batch.rows.len(), batch.left_out), (64, 936));
        assert_eq!(desk.audit.poll_timeout(), None);
    }

    #[test]
    fn bytes_that_went_out_are_counted_together() {
        let mut desk = Desk::new();
        for (host, sent) in [("a.example", 3), ("b.example", 1), ("a.example", 4)] {
            let outside = Outside { host: host.to_owned(), port: 443, sent, received: 10 };
            let row =
                AuditRow { outside: Some(outside), ..AuditRow::new(Happened::Egress, None, Verdict::Allow, "p: r") };
            desk.at(0, 7, |audit, fx| audit.note(row, fx));
        }
        let batch = read(&desk.at(1_000, 100, |audit, fx| audit.handle_timeout(true, fx)).unwrap());
        let told = batch.rows.iter().map(|row| (row.count, row.outside.clone().unwrap()));
        let told: Vec<_> = told.map(|(count, outside)| (count, outside.sent, outside.received)).collect();
        assert_eq!(told, [(2, 7, 20), (1, 1, 10)]);
    }

    #[test]
    fn a_guest_says_little_and_less_often() {
        let mut desk = Desk::new();
        for n in 0..20 {
            desk.at(0, 0, |audit, fx| audit.note(row(&format!("t{n}")), fx));
        }
        let mut counts = Vec::new();
        for at in [1_000, 61_000, 121_000] {
            assert_eq!(desk.audit.poll_timeout(), Some(at));
            counts.push(read(&desk.at(at, 0, |audit, fx| audit.handle_timeout(false, fx)).unwrap()).rows.len());
        }
        assert_eq!(counts, [8, 8, 4]);
    }

    #[test]
    fn a_large_edit_is_told_by_its_key_and_an_entry_has_its_size() {
        let rule = |tools: usize| {
            let patterns = (0..tools).map(|n| format!("{}{n}", "x".repeat(100)).parse().unwrap()).collect();
            let rule = Rule { tools: Some(patterns), ..Rule::of(RuleVerdict::Deny) };
            Said {
                key: Key::Rule("family/doors".parse().unwrap()),
                content: Content::Value(Box::new(Value::Rule(rule))),
                generation: 1,
                knew: Vec::new(),
                by: "person:anna".parse().unwrap(),
                declared: false,
            }
        };
        let small = AuditRow::of_edit(&rule(3));
        assert_eq!(small.said().unwrap().content, rule(3).content);
        let large = AuditRow::of_edit(&rule(60));
        assert!(large.said().is_none() && large.key.is_some());
        let mut desk = Desk::new();
        for n in 0..10 {
            desk.at(0, 0, |audit, fx| audit.note(AuditRow::of_edit(&rule(25 + n)), fx));
        }
        let mut left = 10;
        for at in [1_000, 11_000] {
            let body = desk.at(at, 0, |audit, fx| audit.handle_timeout(true, fx)).unwrap();
            assert!(body.len() <= BATCH_BYTES_MAX + 64, "{}", body.len());
            left -= read(&body).rows.len();
        }
        assert!(left < 5, "{left}");
    }

    #[test]
    fn whoever_says_most_loses_its_oldest_first_and_what_is_old_goes() {
        let mut desk = Desk::new();
        let mesh = MeshId([3; 32]);
        let (mut loud, mut calm) = (Author::new(crate::crypto::Symbolic::new(1), mesh, at(1)), {
            Author::new(crate::crypto::Symbolic::new(2), mesh, at(1))
        });
        let body = |n: usize| entry::encode(&AuditBatch { rows: vec![row(&format!("t{n}"))], left_out: 0 });
        let said =
            |author: &mut Author, n| author.entry(Kind::AUDIT, body(n), |entry| entry.audience = Audience::Owners);
        let own = said(&mut calm, 0);
        desk.at(0, 50, |audit, fx| audit.hear(&own, fx));
        let max = usize::try_from(KEPT.entries).unwrap();
        for n in 0..max + 10 {
            let entry = said(&mut loud, n);
            desk.at(0, 50, |audit, fx| audit.hear(&entry, fx));
        }
        assert_eq!((desk.audit.all.entries, desk.deleted), (KEPT.entries, 11));
        assert_eq!(desk.audit.sizes[&own.author].entries, 1, "the calm one keeps its own");
        // After 90 days all of it is gone, and what is counted with it.
        desk.at(LOOK_EVERY_MS * 2, 52 + KEPT_MS, |audit, fx| audit.handle_timeout(true, fx));
        assert_eq!((desk.audit.all, desk.audit.kept.len(), desk.audit.sizes.len()), (Amount::default(), 0, 0));
        // A clock that is ahead keeps nothing longer.
        let mut ahead = Author::new(crate::crypto::Symbolic::new(3), mesh, at(1));
        let entry = ahead.entry(Kind::AUDIT, body(0), |entry| {
            (entry.hlc, entry.audience, entry.incarnation) = (u64::MAX, Audience::Owners, Incarnation(1));
        });
        desk.at(0, 50, |audit, fx| audit.hear(&entry, fx));
        assert_eq!(desk.audit.kept[&entry.author].first_key_value().unwrap().0.0, 50);
    }
}
