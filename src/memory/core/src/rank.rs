//! Ranking: a weighted sum of signals, explained by its parts.

pub mod pack;
mod signals;
pub mod weights;

use std::collections::{BTreeMap, BTreeSet};

use crate::index::Index;
use crate::index::columns::{Column, Source};
use crate::index::vectors::{self, Vec8};
use crate::item::Span;
use signals::Signals;
use weights::{HAND, HAND_WORDS, Weights};

/// Most hits of one query.
pub const HITS_MAX: usize = 200;
/// How many candidates by signs are looked at in 8 bits.
pub const RERANKED: usize = 200;

/// A question.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// Its words.
    pub text: &'a str,
    /// Its vector, of the model in use; without one, words alone.
    pub vector: Option<&'a [f32]>,
    /// Only what was said up to this time, milliseconds since 1970. Frequencies are of everything.
    pub as_of_ms: Option<i64>,
    /// Hits wanted; at most [`HITS_MAX`].
    pub limit: usize,
}

/// What a score is made of, in units of 1/10,000. The parts sum to [`Hit::score`] exactly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parts {
    /// Words of the piece and its neighbours, and how many of the question's they are.
    pub words: i64,
    /// Meaning.
    pub meaning: i64,
    /// All that else is in the same talk, and whether it answers a question there.
    pub talk: i64,
    /// The date that is named, or that a time is asked for.
    pub date: i64,
    /// The speaker who is named.
    pub who: i64,
    /// It asks instead of telling.
    pub asks: i64,
}

impl Parts {
    /// Their sum.
    #[must_use]
    pub fn sum(&self) -> i64 {
        let Self { words, meaning, talk, date, who, asks } = self;
        words + meaning + talk + date + who + asks
    }
}

/// Something that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    /// What.
    pub source: Source,
    /// Its best piece.
    pub ordinal: u32,
    /// That piece of its text.
    pub span: Span,
    /// In units of 1/10,000.
    pub score: i64,
    /// What the score is made of.
    pub parts: Parts,
    /// It was found since the piece before asks: that goes along with it.
    pub answers: bool,
}

/// All that was found, best first; of equal scores the lower source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The hits.
    pub hits: Vec<Hit>,
    /// True if the meaning counted: the question had a vector, and the index has some.
    pub by_meaning: bool,
}

/// Searches by words, meaning and context. `weights` replaces the hand-set tables.
///
/// A vector that is none (wrong dimension, not finite, wrong length) is left aside, and [`Found::by_meaning`] says so.
#[must_use]
pub fn search(index: &mut Index, query: &Query<'_>, weights: Option<&Weights>) -> Found {
    index.refresh();
    let vector = query
        .vector
        .filter(|vector| index.signs().is_some_and(|signs| vectors::check(vector, signs.dimension).is_ok()));
    let Some(links) = index.links() else { return Found::default() };
    let signals = Signals::of(index, links, query.text, vector);
    let weights = weights.unwrap_or(if vector.is_some() { &HAND } else { &HAND_WORDS });
    let hits = (0_u32..).zip(index.columns()).zip(index.dead()).filter_map(|((ordinal, column), dead)| {
        let told = query.as_of_ms.is_none_or(|as_of| column.time_ms <= as_of);
        let (parts, answers) = parts(&signals, weights, ordinal as usize)?;
        let hit = Hit { source: column.source, ordinal, span: column.span, score: parts.sum(), parts, answers };
        (told && !dead).then_some(hit)
    });
    Found { hits: best(hits, query.limit), by_meaning: vector.is_some() }
}

/// Searches by meaning alone: candidates by signs, then by the vectors in 8 bits that `vector_of` gives. Scores are cosines. A
/// line or a fact leads to its message.
#[must_use]
pub fn semantic(index: &mut Index, query: &Query<'_>, vector_of: impl Fn(&Source) -> Option<Vec8>) -> Found {
    index.refresh();
    let index = &*index;
    let Some((vector, signs)) = query.vector.zip(index.signs()) else { return Found::default() };
    if vectors::check(vector, signs.dimension).is_err() {
        return Found::default();
    }
    let told = |column: &Column| query.as_of_ms.is_none_or(|as_of| column.time_ms <= as_of);
    let hit = |source, ordinal, column: &Column, score| {
        let parts = Parts { meaning: units(score), ..Parts::default() };
        Hit { source, ordinal, span: column.span, score: parts.sum(), parts, answers: false }
    };
    let scanned = signs.scan(vector, index.columns().len());
    let pieces =
        (0_u32..).zip(index.columns()).zip(index.dead()).zip(scanned).filter_map(|(((ordinal, column), dead), dot)| {
            let hit = hit(column.source, ordinal, column, dot?);
            (told(column) && !dead).then_some(hit)
        });
    let notes = index.scan_notes(vector).filter_map(|(source, ordinal, dot)| {
        let column = index.column(ordinal)?;
        told(column).then(|| hit(source, ordinal, column, dot))
    });
    let exact = best(pieces.chain(notes), RERANKED).into_iter().map(|hit| {
        let meaning = vector_of(&hit.source).map_or(0, |it| units(f64::from(it.dot(vector))));
        let parts = Parts { meaning, ..Parts::default() };
        let source = Source::Message(hit.source.message());
        Hit { source, parts, score: parts.sum(), ..hit }
    });
    Found { hits: best(exact, query.limit), by_meaning: true }
}

/// A number in units of 1/10,000.
fn units(value: f64) -> i64 {
    (value * 10_000.0).round() as i64
}

fn parts(signals: &Signals, weights: &Weights, at: usize) -> Option<(Parts, bool)> {
    let weighted = |weight: f64, values: &[f64]| values.get(at).map(|value| weight * value);
    let answers = weighted(weights.answers, &signals.answers)?;
    let parts = Parts {
        words: units(
            weighted(weights.own, &signals.own)?
                + weighted(weights.window, &signals.window)?
                + weighted(weights.coverage, &signals.coverage)?,
        ),
        meaning: units(
            weighted(weights.vector, &signals.vector)? + weighted(weights.vector_window, &signals.vector_window)?,
        ),
        talk: units(
            weighted(weights.wide, &signals.wide)?
                + weighted(weights.neighbour, &signals.neighbour)?
                + weighted(weights.sitting, &signals.sitting)?
                + answers,
        ),
        date: units(weighted(weights.date, &signals.date)? + weighted(weights.when, &signals.when)?),
        who: units(weighted(weights.who, &signals.who)?),
        asks: units(weighted(weights.asks, &signals.asks)?),
    };
    Some((parts, answers > 0.0))
}

/// The best piece of each source, best first.
fn best(hits: impl Iterator<Item = Hit>, limit: usize) -> Vec<Hit> {
    let mut by_source: BTreeMap<Source, Hit> = BTreeMap::new();
    for hit in hits {
        let known = by_source.entry(hit.source).or_insert(hit);
        if (hit.score, std::cmp::Reverse(hit.span)) > (known.score, std::cmp::Reverse(known.span)) {
            *known = hit;
        }
    }
    let order: BTreeSet<_> = by_source.values().map(|hit| (std::cmp::Reverse(hit.score), hit.source)).collect();
    order.into_iter().take(limit.min(HITS_MAX)).filter_map(|(_, source)| by_source.get(&source).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{MessageKey, ModelId, WorkspaceId};
    use crate::index::columns::ForwardRow;
    use crate::item::Message;
    use proptest::prelude::*;

    const WS: WorkspaceId = WorkspaceId([7; 16]);
    const MODEL: ModelId = ModelId([1; 16]);

    fn said(n: usize, speaker: &str, text: &str) -> Message {
        Message {
            id: n.to_string(),
            conversation: "talk".to_owned(),
            session: None,
            speaker: speaker.to_owned(),
            text: text.to_owned(),
            time_ms: i64::try_from(n).unwrap() * 600_000,
            offset_min: 0,
        }
    }

    #[test]
    fn a_fact_or_a_line_leads_by_meaning_to_its_message_until_that_changes() {
        let unit = |at: usize| (0..8).map(|n| if n == at { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
        let messages = [said(0, "Ann", "the long story of a boiler"), said(1, "Ben", "pasta again")];
        let mut index = index(&messages);
        index.use_model(MODEL, 8);
        for (n, at) in [(0, 0), (1, 1)] {
            index.put_vector(MODEL, &source(n), &Vec8::of(&unit(at))).unwrap();
        }
        let key = source(0).message();
        let fact = Source::Fact(crate::ids::BatchId([1; 16]), key, 0);
        index.put_note(MODEL, fact, 4, &Vec8::of(&unit(5))).unwrap();
        assert!(index.has_note(&fact) && index.embedded() == (2, 1));
        let asked = unit(5);
        let query = Query { vector: Some(&asked), ..ask("x") };
        let vector_of = |of: &Source| Some(Vec8::of(&unit(if *of == fact { 5 } else { 0 })));
        let found = semantic(&mut index, &query, vector_of);
        assert_eq!((found.hits[0].source, found.hits[0].score), (source(0), 10_000));
        assert!(found.hits.iter().filter(|hit| hit.source == source(0)).count() == 1, "one hit for each message");
        // Words know nothing of it.
        assert_eq!(scores(&search(&mut index, &ask("pasta"), None))[0].0, source(1));
        index.drop_notes(&key);
        assert!(
            !index.has_note(&fact) && semantic(&mut index, &query, vector_of).hits.iter().all(|hit| hit.score < 10_000)
        );
        index.put_note(MODEL, fact, 4, &Vec8::of(&unit(5))).unwrap();
        index.kill(&source(0));
        assert_eq!(index.embedded(), (1, 0));
        // The head of a batch leads to its message, and goes alone.
        let (batch, other) = (crate::ids::BatchId([1; 16]), source(1).message());
        let head = Source::Head(batch, other);
        index.put_note(MODEL, head, 0, &Vec8::of(&unit(5))).unwrap();
        assert!(index.has_head(&batch) && index.has_note(&head) && index.embedded() == (1, 1));
        let vector_of = |of: &Source| Some(Vec8::of(&unit(if *of == head { 5 } else { 0 })));
        assert_eq!(semantic(&mut index, &query, vector_of).hits[0].source, source(1));
        index.drop_head(&batch);
        assert!(!index.has_head(&batch) && index.embedded() == (1, 0));
        index.put_note(MODEL, head, 0, &Vec8::of(&unit(5))).unwrap();
        index.drop_notes(&other);
        assert!(!index.has_head(&batch) && index.embedded() == (1, 0));
        // A note of a message that is not there is left out.
        index.put_note(MODEL, fact, 4, &Vec8::of(&unit(5))).unwrap();
        assert_eq!(index.embedded(), (1, 0));
    }

    fn source(n: usize) -> Source {
        Source::Message(said(n, "", "").key(&WS))
    }

    fn add(index: &mut Index, message: &Message) {
        for row in ForwardRow::of(Source::Message(message.key(&WS)), message, &message.text) {
            index.append(row);
        }
    }

    fn index(messages: &[Message]) -> Index {
        let mut index = Index::new();
        for message in messages {
            add(&mut index, message);
        }
        index
    }

    fn ask(text: &str) -> Query<'_> {
        Query { text, vector: None, as_of_ms: None, limit: 50 }
    }

    fn talk() -> Vec<Message> {
        vec![
            said(0, "Ann", "good morning"),
            said(1, "Ben", "who has the spare key for the cabinet?"),
            said(2, "Ann", "it is with Mrs. Okafor next door"),
            said(3, "Ben", "the boiler pressure should stay at 1.6 bar"),
            said(9, "Ann", "pasta again"),
        ]
    }

    /// Scores by source: what must not depend on ordinals.
    fn scores(found: &Found) -> Vec<(Source, i64)> {
        found.hits.iter().map(|hit| (hit.source, hit.score)).collect()
    }

    #[test]
    fn what_is_asked_for_is_found_and_explained() {
        let mut index = index(&talk());
        let found = search(&mut index, &ask("How high is the pressure of the boiler?"), None);
        assert_eq!(found.hits[0].source, source(3));
        assert!(found.hits[0].parts.words > 0 && !found.by_meaning);
        assert!(found.hits.iter().all(|hit| hit.parts.sum() == hit.score));
        let key = search(&mut index, &ask("Where is the spare key?"), None);
        assert_eq!(key.hits[0].source, source(2), "the answer comes before the question");
        assert!(key.hits[0].answers);
        let packed = pack::pack(&index, &key.hits[..1], 600, |it| {
            talk().into_iter().find(|message| Source::Message(message.key(&WS)) == *it).map(|message| message.text)
        });
        let brought: Vec<Source> = packed[0].pieces.iter().map(|(source, _)| *source).collect();
        assert_eq!(brought, [source(1), source(2), source(3)], "with its question and what follows");
        let tight = pack::pack(&index, &key.hits, 1, |_| Some("x".repeat(80)));
        assert_eq!(tight.len(), 1, "the first is always taken");
    }

    #[test]
    fn what_is_killed_or_later_is_not_found() {
        let mut index = index(&talk());
        let early = Query { as_of_ms: Some(600_000), ..ask("boiler key") };
        assert_eq!(search(&mut index, &early, None).hits.len(), 2);
        assert!(index.kill(&source(3)) && !index.kill(&source(3)));
        let found = search(&mut index, &ask("boiler pressure"), None);
        assert!(found.hits.iter().all(|hit| hit.source != source(3)));
        assert_eq!(index.pieces(), (4, 1));
        assert_eq!(search(&mut Index::new(), &ask("x"), None), Found::default());
    }

    #[test]
    fn vectors_of_another_model_or_size_never_count() {
        let mut index = index(&talk());
        let unit = |n: usize| (0..8).map(|at| if at == n { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
        let v = vectors::Vec8::of(&unit(1));
        assert_eq!(index.put_vector(MODEL, &source(1), &v), Err(vectors::VectorError::Model));
        index.use_model(MODEL, 8);
        assert_eq!(index.missing_vectors(9).len(), 5);
        index.put_vector(MODEL, &source(1), &v).unwrap();
        assert_eq!(index.missing_vectors(9).len(), 4);
        let wrong = vectors::Vec8::of(&[1.0; 4]);
        assert!(matches!(index.put_vector(MODEL, &source(2), &wrong), Err(vectors::VectorError::Dimension { .. })));
        let short = [1.0_f32; 4];
        assert!(!search(&mut index, &Query { vector: Some(&short), ..ask("x") }, None).by_meaning);
        let question = unit(1);
        let found = search(&mut index, &Query { vector: Some(&question), ..ask("x") }, None);
        assert!(found.by_meaning && found.hits.iter().any(|hit| hit.parts.meaning > 0));
        let by_meaning = semantic(&mut index, &Query { vector: Some(&question), ..ask("") }, |_| Some(v.clone()));
        assert_eq!(by_meaning.hits.iter().map(|hit| hit.source).collect::<Vec<_>>(), [source(1)]);
        index.use_model(ModelId([2; 16]), 8);
        assert_eq!(index.missing_vectors(9).len(), 5, "another model begins anew");
    }

    #[test]
    fn a_message_key_of_a_hit_is_what_forget_takes() {
        let mut index = index(&talk());
        let found = search(&mut index, &ask("boiler"), None);
        let key = found.hits[0].source.message();
        assert_eq!(MessageKey::parse(&key.to_string()), Some(key));
    }

    fn texts() -> impl Strategy<Value = Vec<String>> {
        let word = prop_oneof!["boiler", "key", "Ann", "bar", "the", "pressure", "where", "[a-d]{3,6}"];
        let text = proptest::collection::vec(word, 1..9).prop_map(|words| words.join(" "));
        proptest::collection::vec(text, 1..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn ranks_are_equal_whatever_the_order_of_arrival(texts in texts(), seed: u64, question in "(boiler|key|where) [a-d]{3}", cut in 0usize..40, dead in 0usize..40) {
            let messages: Vec<Message> = texts.iter().enumerate().map(|(n, text)| said(n, "Ann", text)).collect();
            let mut shuffled = messages.clone();
            shuffled.sort_by_key(|message| message.id.parse::<u64>().unwrap().wrapping_mul(seed | 1).rotate_left(23));
            let mut plain = index(&messages);
            // In pieces: sealed, read again, and with a tail behind.
            let mut other = Index::new();
            let cut = cut.min(shuffled.len());
            shuffled[..cut].iter().for_each(|message| add(&mut other, message));
            if let Some(segment) = other.seal(true).cloned() {
                let columns: Vec<_> = (0..segment.pieces()).map(|n| other.column(n).cloned()).collect();
                let again = crate::index::segment::Segment::read(segment.bytes().to_vec()).unwrap();
                other = Index::new();
                other.load(again, columns, |_| true).unwrap();
            }
            shuffled[cut..].iter().for_each(|message| add(&mut other, message));
            prop_assert_eq!(scores(&search(&mut plain, &ask(&question), None)), scores(&search(&mut other, &ask(&question), None)));
            // What is dead counts for nothing, as if it had never been.
            if dead < messages.len() && messages.len() > 1 {
                plain.kill(&source(dead));
                // Nothing of what is erased from a segment is left in it.
                let gone = std::collections::BTreeSet::from([source(dead).message()]);
                let _ = other.erase(&gone);
                other.kill(&source(dead));
                let rest: Vec<Message> = messages.iter().enumerate().filter(|(n, _)| *n != dead).map(|(_, it)| it.clone()).collect();
                let mut never = index(&rest);
                let expected = scores(&search(&mut never, &ask(&question), None));
                prop_assert_eq!(&scores(&search(&mut plain, &ask(&question), None)), &expected);
                prop_assert_eq!(&scores(&search(&mut other, &ask(&question), None)), &expected);
                let shown = |index: &Index| -> Vec<_> {
                    let sealed = (0..index.segments()).filter_map(|place| index.sealed(place));
                    sealed.flat_map(|(_, columns)| columns.into_iter().flatten().cloned().collect::<Vec<_>>()).collect()
                };
                prop_assert!(shown(&other).iter().all(|column| column.source != source(dead)));
            }
        }

        #[test]
        fn any_question_is_answered(texts in texts(), question in ".*") {
            let messages: Vec<Message> = texts.iter().enumerate().map(|(n, text)| said(n, "Ann", text)).collect();
            let mut index = index(&messages);
            let found = search(&mut index, &ask(&question), None);
            prop_assert_eq!(found.hits.len(), messages.len().min(50));
        }
    }
}
