//! Ranking: a weighted sum of signals, explained by its parts.

pub mod pack;
mod signals;
pub mod weights;

use std::collections::{BTreeMap, BTreeSet};

use crate::index::Index;
use crate::index::columns::Source;
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
    /// What else is in the same talk, and whether it answers a question there.
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

/// What was found, best first; of equal scores the lower source.
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

/// Searches by meaning alone: candidates by signs, then by the vectors in 8 bits that `vector_of` gives. Scores are cosines.
#[must_use]
pub fn semantic(index: &Index, query: &Query<'_>, vector_of: impl Fn(&Source) -> Option<Vec8>) -> Found {
    let Some((vector, signs)) = query.vector.zip(index.signs()) else { return Found::default() };
    if vectors::check(vector, signs.dimension).is_err() {
        return Found::default();
    }
    let scanned = signs.scan(vector, index.columns().len());
    let candidates =
        (0_u32..).zip(index.columns()).zip(index.dead()).zip(scanned).filter_map(|(((ordinal, column), dead), dot)| {
            let told = query.as_of_ms.is_none_or(|as_of| column.time_ms <= as_of);
            let parts = Parts { meaning: units(dot?), ..Parts::default() };
            let hit =
                Hit { source: column.source, ordinal, span: column.span, score: parts.sum(), parts, answers: false };
            (told && !dead).then_some(hit)
        });
    let exact = best(candidates, RERANKED).into_iter().map(|hit| {
        let meaning = vector_of(&hit.source).map_or(0, |it| units(f64::from(it.dot(vector))));
        let parts = Parts { meaning, ..Parts::default() };
        Hit { parts, score: parts.sum(), ..hit }
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
