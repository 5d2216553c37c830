//! Which items count: a pure function of their set.
//!
//! What is known of one message or one batch is a **row**; rows merge, in any order and any number of times, to the same
//! row. Rows hold no text, only revisions; texts are looked up by those.
//!
//! - Of two contents under one caller's id the one with the lower stamp keeps the key; the other lives on under
//!   [`MessageKey::variant`].
//! - Of corrections the highest generation counts, then the highest stamp.
//! - A tombstone on a key beats everything that was or will be said under it, for ever; on a variant, that content.
//! - A message belongs to one batch: of those that captured its present revision, the one with the highest algorithm, then
//!   the lowest stamp. What other batches say of it does not count.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::group::Stamp;
use crate::ids::{BatchId, MessageKey, Rev, WorkspaceId};
use crate::item::{Body, Fact, Head, Line, Rewrite, Summary};
use crate::limits;

/// Rewrites of one line as it is, and heads that rest on the same lines, that are kept; of them the first that stands its check is
/// shown. Those of lines that have changed since do not count among them: they would take the places of later ones, at those
/// who had them before they were erased.
const CANDIDATES_MAX: usize = 4;

/// A correction without its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Corrected {
    /// See [`crate::item::Correction::generation`].
    pub generation: u32,
    /// When and by whom.
    pub stamp: Stamp,
    /// Revision of the message with its text.
    pub rev: Rev,
}

/// A batch that captured a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Capture {
    /// When and by whom, the first time.
    pub stamp: Stamp,
    /// Generation of the algorithm.
    pub algorithm: u16,
    /// Revision that it captured.
    pub rev: Rev,
}

/// All that is known under one key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageRow {
    /// Contents that were appended under it, each with its first stamp.
    pub contents: BTreeMap<Rev, Stamp>,
    /// It is forgotten.
    pub forgotten: bool,
    /// The correction that counts.
    pub corrected: Option<Corrected>,
    /// The batches that captured it.
    pub captures: BTreeMap<BatchId, Capture>,
}

impl MessageRow {
    /// Adds what another row knows. Commutative, associative, idempotent.
    pub fn merge(&mut self, other: &Self) {
        for (rev, stamp) in &other.contents {
            self.contents.entry(*rev).and_modify(|known| *known = (*known).min(*stamp)).or_insert(*stamp);
        }
        self.forgotten |= other.forgotten;
        self.corrected = self.corrected.max(other.corrected);
        for (batch, capture) in &other.captures {
            self.captures.entry(*batch).and_modify(|known| *known = (*known).min(*capture)).or_insert(*capture);
        }
    }

    /// The batch to which the message belongs, when it now has revision `rev`.
    #[must_use]
    pub fn batch_of(&self, rev: Rev) -> Option<BatchId> {
        self.captures
            .iter()
            .filter(|(_, capture)| capture.rev == rev)
            .min_by_key(|(batch, capture)| (std::cmp::Reverse(capture.algorithm), capture.stamp, **batch))
            .map(|(batch, _)| *batch)
    }

    /// The content that keeps the key.
    #[must_use]
    pub fn holder(&self) -> Option<Rev> {
        self.contents.iter().min_by_key(|(rev, stamp)| (**stamp, **rev)).map(|(rev, _)| *rev)
    }
}

/// All that a batch says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchRow {
    /// Its header, as it was said first.
    pub summary: Option<(Stamp, Summary)>,
    /// Models' words for its lines, by message as it was, the earliest few.
    pub rewrites: BTreeMap<(MessageKey, Rev), BTreeMap<Stamp, Rewrite>>,
    /// Its facts, by message and number, as they were said first.
    pub facts: BTreeMap<(MessageKey, u8), (Stamp, Fact)>,
    /// Models' words in front of it, by what they rest on, the earliest few.
    pub heads: BTreeMap<BTreeSet<(MessageKey, Rev)>, BTreeMap<Stamp, Head>>,
}

impl BatchRow {
    /// Adds what another row knows. Commutative, associative, idempotent.
    pub fn merge(&mut self, other: &Self) {
        if let Some((stamp, summary)) = &other.summary
            && self.summary.as_ref().is_none_or(|(known, _)| stamp < known)
        {
            self.summary = Some((*stamp, summary.clone()));
        }
        for (key, rewrites) in &other.rewrites {
            add_earliest(self.rewrites.entry(*key).or_default(), rewrites);
        }
        for (place, said) in &other.facts {
            let known = self.facts.entry(*place).or_insert(*said);
            if said.0 < known.0 {
                *known = *said;
            }
        }
        for (sources, heads) in &other.heads {
            add_earliest(self.heads.entry(sources.clone()).or_default(), heads);
        }
    }
}

fn add_earliest<T: Clone>(known: &mut BTreeMap<Stamp, T>, more: &BTreeMap<Stamp, T>) {
    known.extend(more.iter().map(|(stamp, said)| (*stamp, said.clone())));
    while known.len() > CANDIDATES_MAX {
        known.pop_last();
    }
}

/// The rows of a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    workspace: WorkspaceId,
    messages: BTreeMap<MessageKey, MessageRow>,
    batches: BTreeMap<BatchId, BatchRow>,
}

impl Rows {
    /// No rows.
    #[must_use]
    pub fn new(workspace: WorkspaceId) -> Self {
        Self { workspace, messages: BTreeMap::new(), batches: BTreeMap::new() }
    }

    /// The workspace.
    #[must_use]
    pub fn workspace(&self) -> &WorkspaceId {
        &self.workspace
    }

    /// All that is known under a key.
    #[must_use]
    pub fn message(&self, key: &MessageKey) -> Option<&MessageRow> {
        self.messages.get(key)
    }

    /// All that a batch says.
    #[must_use]
    pub fn batch(&self, batch: &BatchId) -> Option<&BatchRow> {
        self.batches.get(batch)
    }

    /// All keys that are forgotten.
    pub fn tombstones(&self) -> impl Iterator<Item = MessageKey> {
        self.messages.iter().filter(|(_, row)| row.forgotten).map(|(key, _)| *key)
    }

    /// Adds one item.
    pub fn insert(&mut self, stamp: Stamp, body: &Body) {
        match body {
            Body::Message(message) => {
                let row = MessageRow { contents: BTreeMap::from([(message.rev(), stamp)]), ..MessageRow::default() };
                self.add(message.key(&self.workspace), &row);
            }
            Body::Correction(it) => {
                let corrected = Corrected { generation: it.generation, stamp, rev: it.rev() };
                self.add(it.target, &MessageRow { corrected: Some(corrected), ..MessageRow::default() });
            }
            Body::Tombstone(key) => self.add(*key, &MessageRow { forgotten: true, ..MessageRow::default() }),
            Body::Summary(it) => {
                // Whoever names a batch says what it is of; so one id never stands for two sets of messages.
                if it.batch != BatchId::of(&self.workspace, it.algorithm, &it.covers) {
                    return;
                }
                for (key, rev) in &it.covers {
                    let capture = Capture { stamp, algorithm: it.algorithm, rev: *rev };
                    let captures = BTreeMap::from([(it.batch, capture)]);
                    self.add(*key, &MessageRow { captures, ..MessageRow::default() });
                }
                self.add_batch(it.batch, &BatchRow { summary: Some((stamp, it.clone())), ..BatchRow::default() });
            }
            Body::Rewrite(it) => {
                let rewrites = BTreeMap::from([((it.key, it.rev), BTreeMap::from([(stamp, it.clone())]))]);
                self.add_batch(it.batch, &BatchRow { rewrites, ..BatchRow::default() });
            }
            Body::Fact(it) => {
                let facts = BTreeMap::from([((it.key, it.number), (stamp, *it))]);
                self.add_batch(it.batch, &BatchRow { facts, ..BatchRow::default() });
            }
            Body::Head(it) => {
                let sources = it.sources.iter().copied().collect();
                let heads = BTreeMap::from([(sources, BTreeMap::from([(stamp, it.clone())]))]);
                self.add_batch(it.batch, &BatchRow { heads, ..BatchRow::default() });
            }
            // Found in the texts that count, wherever they are; nothing of them merges.
            Body::Standing(_) | Body::Unknown(_) => {}
        }
    }

    /// Adds what another store knows. Commutative, associative, idempotent.
    pub fn merge(&mut self, other: &Self) {
        for (key, row) in &other.messages {
            self.add(*key, row);
        }
        for (batch, row) in &other.batches {
            self.add_batch(*batch, row);
        }
    }

    /// All that counts of all this.
    #[must_use]
    pub fn view(&self) -> View {
        let mut view = View::default();
        for (key, row) in &self.messages {
            for (key, current) in self.living(*key, row) {
                if let Some(batch) = current.batch {
                    view.covered.entry(batch).or_default().insert(key);
                }
                view.messages.insert(key, current);
            }
        }
        view
    }

    /// The messages that live under a key: one in nearly all cases.
    pub fn living<'a>(
        &'a self,
        key: MessageKey,
        row: &'a MessageRow,
    ) -> impl Iterator<Item = (MessageKey, Current)> + 'a {
        let holder = row.holder();
        row.contents.keys().filter_map(move |content| {
            let variant = key.variant(content);
            let of_variant = self.messages.get(&variant);
            if row.forgotten || of_variant.is_some_and(|of| of.forgotten) {
                return None;
            }
            let (shown, of) = if holder == Some(*content) { (key, Some(row)) } else { (variant, of_variant) };
            let corrected = of.and_then(|of| of.corrected);
            let rev = corrected.map_or(*content, |it| it.rev);
            let batch = of.and_then(|of| of.batch_of(rev));
            Some((shown, Current { caller: key, content: *content, rev, corrected, batch }))
        })
    }

    fn add(&mut self, key: MessageKey, row: &MessageRow) {
        self.messages.entry(key).or_default().merge(row);
    }

    fn add_batch(&mut self, batch: BatchId, row: &BatchRow) {
        self.batches.entry(batch).or_default().merge(row);
    }
}

/// A message that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Current {
    /// The key of its caller's id; its own, unless another content holds that.
    pub caller: MessageKey,
    /// All that was appended.
    pub content: Rev,
    /// All that it says now.
    pub rev: Rev,
    /// The correction, when it has one.
    pub corrected: Option<Corrected>,
    /// The batch to which it belongs; without one it is in tier 1.
    pub batch: Option<BatchId>,
}

/// All that counts. Equal wherever the items are equal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// The messages, by the key under which they are shown.
    pub messages: BTreeMap<MessageKey, Current>,
    /// Batches with a message left, and the messages that belong to them.
    pub covered: BTreeMap<BatchId, BTreeSet<MessageKey>>,
}

impl View {
    /// Messages that belong to no batch: tier 1.
    pub fn uncovered(&self) -> impl Iterator<Item = (MessageKey, Rev)> {
        self.messages.iter().filter(|(_, current)| current.batch.is_none()).map(|(key, current)| (*key, current.rev))
    }

    /// True if what a batch said of this revision of a message counts.
    #[must_use]
    pub fn counts(&self, batch: &BatchId, key: &MessageKey, rev: &Rev) -> bool {
        self.messages.get(key).is_some_and(|current| current.batch == Some(*batch) && current.rev == *rev)
    }

    /// Lines of a summary that count, in its order.
    pub fn lines<'a>(&'a self, row: &'a BatchRow) -> impl Iterator<Item = Line> + 'a {
        let summary = row.summary.as_ref().map(|(_, summary)| summary);
        summary.into_iter().flat_map(move |summary| {
            let revs: BTreeMap<_, _> = summary.covers.iter().copied().collect();
            let counts =
                move |line: &&Line| revs.get(&line.key).is_some_and(|rev| self.counts(&summary.batch, &line.key, rev));
            summary.lines.iter().filter(counts).copied()
        })
    }

    /// Facts that count; of one message at most [`limits::FACTS_PER_MESSAGE_MAX`], and none twice.
    #[must_use]
    pub fn facts(&self, row: &BatchRow) -> Vec<Fact> {
        let mut seen = BTreeSet::new();
        let mut facts = Vec::new();
        for (_, fact) in row.facts.values() {
            let said = (fact.key, fact.subject, fact.predicate, fact.object);
            if self.counts(&fact.batch, &fact.key, &fact.rev) && seen.insert(said) {
                facts.push(*fact);
            }
        }
        debug_assert!(facts.len() <= self.messages.len() * limits::FACTS_PER_MESSAGE_MAX);
        facts
    }

    /// Rewrites of a line that may be shown, earliest first; the first that [`crate::verify::supported`] accepts is.
    pub fn rewrites<'a>(&'a self, row: &'a BatchRow, key: &MessageKey) -> impl Iterator<Item = &'a Rewrite> + 'a {
        let now = self.messages.get(key).map(|current| (*key, current.rev));
        now.and_then(|now| row.rewrites.get(&now))
            .into_iter()
            .flat_map(BTreeMap::values)
            .filter(|it| self.counts(&it.batch, &it.key, &it.rev))
    }

    /// Heads that may be shown, earliest first; the first that [`crate::verify::head_stands`] accepts is. All its sources
    /// must count.
    pub fn heads<'a>(&'a self, row: &'a BatchRow) -> impl Iterator<Item = &'a Head> + 'a {
        let counts = |head: &Head| head.sources.iter().all(|(key, rev)| self.counts(&head.batch, key, rev));
        let all = row.heads.values().flatten().filter(|(_, head)| counts(head));
        all.collect::<BTreeMap<_, _>>().into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::Hlc;
    use crate::ids::{AuthorId, Incarnation, ModelId};
    use crate::item::{Correction, Extractor, Message, Span, Subject};
    use proptest::prelude::*;

    const WS: WorkspaceId = WorkspaceId([7; 16]);

    fn stamp(n: u64) -> Stamp {
        Stamp { hlc: Hlc(n), author: AuthorId([(n % 3) as u8; 16]), incarnation: Incarnation(1), index: 0 }
    }

    fn message(id: u8, content: u8) -> Message {
        Message {
            id: id.to_string(),
            conversation: String::new(),
            session: None,
            speaker: String::new(),
            text: format!("text {content}"),
            time_ms: 0,
            offset_min: 0,
        }
    }

    fn key(id: u8) -> MessageKey {
        message(id, 0).key(&WS)
    }

    fn summary(algorithm: u16, covers: Vec<(MessageKey, Rev)>) -> Summary {
        let lines = covers.iter().map(|(key, _)| Line { key: *key, span: Span::new(0, 4) }).collect();
        Summary { batch: BatchId::of(&WS, algorithm, &covers), algorithm, covers, lines }
    }

    fn rows(items: &[(u64, Body)]) -> Rows {
        let mut rows = Rows::new(WS);
        for (n, body) in items {
            rows.insert(stamp(*n), body);
        }
        rows
    }

    /// Items as peers that know more or less of each other say them.
    fn body() -> impl Strategy<Value = Body> {
        let covers = || {
            proptest::collection::btree_map(0u8..4, 0u8..3, 1..4)
                .prop_map(|map| map.into_iter().map(|(id, c)| (key(id), message(id, c).rev())).collect::<Vec<_>>())
        };
        prop_oneof![
            4 => (0u8..4, 0u8..3).prop_map(|(id, content)| Body::Message(message(id, content))),
            1 => (0u8..4, 0u32..3, 0u8..3).prop_map(|(id, generation, content)| Body::Correction(Correction {
                target: key(id), generation, text: format!("new {content}"),
            })),
            1 => (0u8..4).prop_map(|id| Body::Tombstone(key(id))),
            1 => (0u8..4, 0u8..3).prop_map(|(id, content)| Body::Tombstone(key(id).variant(&message(id, content).rev()))),
            3 => (1u16..3, covers()).prop_map(|(algorithm, covers)| Body::Summary(summary(algorithm, covers))),
            2 => (1u16..3, covers(), 0u8..8, 0u16..3).prop_map(|(algorithm, covers, number, predicate)| Body::Fact(Fact {
                batch: BatchId::of(&WS, algorithm, &covers), key: covers[0].0, rev: covers[0].1, number, predicate,
                subject: Subject::Speaker, object: Span::new(0, 4), extractor: Extractor::Rules,
            })),
            1 => (1u16..3, covers(), 0u8..9).prop_map(|(algorithm, covers, text)| Body::Rewrite(Rewrite {
                batch: BatchId::of(&WS, algorithm, &covers), key: covers[0].0, rev: covers[0].1,
                model: ModelId([0; 16]), text: format!("words {text}"),
            })),
            1 => (1u16..3, covers(), 0u8..9).prop_map(|(algorithm, covers, text)| Body::Head(Head {
                batch: BatchId::of(&WS, algorithm, &covers), model: ModelId([0; 16]),
                text: format!("words {text}"), sources: covers,
            })),
        ]
    }

    /// Stamps are unique, as in groups.
    fn items() -> impl Strategy<Value = Vec<(u64, Body)>> {
        proptest::collection::vec(body(), 0..40).prop_map(|bodies| (1..).zip(bodies).collect())
    }

    proptest! {
        #[test]
        fn merging_is_commutative_associative_and_idempotent(all in items(), cuts in (0usize..40, 0usize..40)) {
            let (a, b) = (cuts.0.min(cuts.1).min(all.len()), cuts.0.max(cuts.1).min(all.len()));
            let (x, y, z) = (rows(&all[..a]), rows(&all[a..b]), rows(&all[b..]));
            let merged = |parts: &[&Rows]| {
                let mut sum = Rows::new(WS);
                for part in parts {
                    sum.merge(part);
                }
                sum
            };
            let whole = rows(&all);
            prop_assert_eq!(&merged(&[&x, &y, &z]), &whole);
            prop_assert_eq!(&merged(&[&z, &x, &y, &x]), &whole);
            prop_assert_eq!(&merged(&[&merged(&[&y, &z]), &x]), &whole);
            prop_assert_eq!(&merged(&[&whole, &whole]), &whole);
        }

        #[test]
        fn the_order_of_arrival_does_not_matter(all in items(), seed: u64) {
            let mut shuffled = all.clone();
            shuffled.sort_by_key(|(n, _)| n.wrapping_mul(seed | 1).rotate_left(17));
            shuffled.extend(all.iter().take(5).cloned());
            prop_assert_eq!(rows(&all).view(), rows(&shuffled).view());
        }

        #[test]
        fn no_message_is_in_two_summaries_and_no_fact_said_twice(all in items()) {
            let rows = rows(&all);
            let view = rows.view();
            let (mut lines, mut facts) = (BTreeSet::new(), BTreeSet::new());
            for batch in view.covered.keys() {
                let row = rows.batch(batch).unwrap();
                for line in view.lines(row) {
                    prop_assert!(lines.insert(line.key), "in two summaries");
                }
                for fact in view.facts(row) {
                    prop_assert!(facts.insert((fact.key, fact.predicate, fact.object)), "said twice");
                }
            }
        }

        #[test]
        fn no_message_is_lost(all in items()) {
            let view = rows(&all).view();
            let tombstone = |body: &Body| if let Body::Tombstone(key) = body { Some(*key) } else { None };
            let forgotten: BTreeSet<_> = all.iter().filter_map(|(_, body)| tombstone(body)).collect();
            let shown: BTreeSet<_> = view.messages.values().map(|it| (it.caller, it.content)).collect();
            for (_, body) in &all {
                let Body::Message(message) = body else { continue };
                let (key, rev) = (message.key(&WS), message.rev());
                let gone = forgotten.contains(&key) || forgotten.contains(&key.variant(&rev));
                prop_assert_eq!(shown.contains(&(key, rev)), !gone);
            }
            let covered: usize = view.covered.values().map(BTreeSet::len).sum();
            prop_assert_eq!(covered + view.uncovered().count(), view.messages.len());
        }

        #[test]
        fn a_tombstone_wins_for_ever(before in items(), id in 0u8..4, after in items()) {
            let mut rows = rows(&before);
            rows.insert(stamp(0), &Body::Tombstone(key(id)));
            for (n, body) in &after {
                rows.insert(stamp(1_000 + n), body);
            }
            let view = rows.view();
            prop_assert!(view.messages.values().all(|it| it.caller != key(id)));
            for row in view.covered.keys().filter_map(|batch| rows.batch(batch)) {
                prop_assert!(view.lines(row).all(|line| line.key != key(id)));
                prop_assert!(view.facts(row).iter().all(|fact| fact.key != key(id)));
                prop_assert!(view.heads(row).all(|head| head.sources.iter().all(|(source, _)| *source != key(id))));
            }
        }

        #[test]
        fn rows_read_as_they_were_written(all in items()) {
            let rows = rows(&all);
            for row in rows.messages.values() {
                prop_assert_eq!(crate::codec::decode::<MessageRow>(&crate::codec::encode(row)), Some(row.clone()));
            }
            for row in rows.batches.values() {
                prop_assert_eq!(crate::codec::decode::<BatchRow>(&crate::codec::encode(row)), Some(row.clone()));
            }
        }
    }

    #[test]
    fn of_two_contents_under_one_id_the_earlier_keeps_it() {
        let (one, two) = (message(1, 1), message(1, 2));
        let view = rows(&[(2, Body::Message(two.clone())), (1, Body::Message(one.clone()))]).view();
        assert_eq!(view.messages[&key(1)].content, one.rev());
        assert_eq!(view.messages[&key(1).variant(&two.rev())].content, two.rev());
        let again = rows(&[(1, Body::Message(one.clone())), (5, Body::Message(one))]).view();
        assert_eq!(again.messages.len(), 1, "the same message twice is one");
    }

    #[test]
    fn what_was_forgotten_as_a_variant_stays_so_when_the_earlier_content_comes_late() {
        let late = message(1, 2);
        let forget = Body::Tombstone(key(1).variant(&late.rev()));
        let view = rows(&[(9, Body::Message(late)), (10, forget), (1, Body::Message(message(1, 1)))]).view();
        assert_eq!(view.messages.keys().collect::<Vec<_>>(), [&key(1)]);
        assert_eq!(view.messages[&key(1)].content, message(1, 1).rev());
    }

    #[test]
    fn a_corrected_message_leaves_its_summary_and_waits_for_another() {
        let rev = message(1, 1).rev();
        let mut rows = rows(&[(1, Body::Message(message(1, 1))), (2, Body::Summary(summary(1, vec![(key(1), rev)])))]);
        assert_eq!(rows.view().uncovered().count(), 0);
        let correction = Correction { target: key(1), generation: 1, text: "better".to_owned() };
        rows.insert(stamp(3), &Body::Correction(correction.clone()));
        let view = rows.view();
        assert_eq!(view.uncovered().collect::<Vec<_>>(), [(key(1), correction.rev())]);
        assert!(view.covered.is_empty(), "a batch without messages is not shown");
        rows.insert(stamp(4), &Body::Summary(summary(1, vec![(key(1), correction.rev())])));
        assert_eq!(rows.view().uncovered().count(), 0);
    }

    #[test]
    fn heads_that_count_no_more_take_no_place_of_later_ones() {
        let covers = vec![(key(1), message(1, 1).rev()), (key(2), message(2, 1).rev())];
        let batch = BatchId::of(&WS, 1, &covers);
        let head = |n: u64, sources: &[(MessageKey, Rev)]| {
            let text = format!("head {n}");
            Body::Head(Head { batch, model: ModelId([0; 16]), text, sources: sources.to_vec() })
        };
        let mut all = vec![(1, Body::Message(message(1, 1))), (2, Body::Message(message(2, 1)))];
        all.push((3, Body::Summary(summary(1, covers.clone()))));
        all.extend((10..20).map(|n| (n, head(n, &covers))));
        all.push((30, Body::Tombstone(key(1))));
        all.push((40, head(40, &covers[1..])));
        let seen = |rows: &Rows| {
            let view = rows.view();
            view.heads(rows.batch(&batch).unwrap()).map(|head| head.text.clone()).collect::<Vec<_>>()
        };
        assert_eq!(seen(&rows(&all)), ["head 40"]);
        // Who never had what was erased sees the same.
        all.retain(|(n, _)| !(10..20).contains(n));
        assert_eq!(seen(&rows(&all)), ["head 40"]);
    }

    #[test]
    fn a_batch_with_another_batchs_id_is_not_taken() {
        let rev = message(1, 1).rev();
        let mut forged = summary(1, vec![(key(1), rev)]);
        forged.batch = BatchId([9; 16]);
        let view = rows(&[(1, Body::Message(message(1, 1))), (2, Body::Summary(forged))]).view();
        assert_eq!(view.uncovered().count(), 1);
    }
}
