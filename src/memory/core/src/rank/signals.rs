//! The thirteen signals, each a number for every piece of the index.
//!
//! Sums run over terms in the order of their hashes and over pieces in order of ordinals, in 64 bits; what is left of the
//! order of arrival is far below the 1e-4 to which scores are rounded.

use std::collections::BTreeSet;

use crate::index::Index;
use crate::index::columns::{Column, Links, NONE};
use crate::index::segment::Posting;
use crate::text::dates::{Date, Named, asks_when};
use crate::text::grams::{Term, terms, terms_without};
use crate::text::{lang, names};

/// BM25's saturation and its share of length.
const K1: f64 = 1.2;
const B: f64 = 0.75;
/// Terms in more than this share of the pieces say too little for what they cost.
const COMMON_PERCENT: usize = 15;
/// Terms in no more pieces than this are never too frequent: small stores have few of anything.
const COMMON_MIN: usize = 30;

/// See the module. All have the index's length; of dead pieces they mean nothing.
#[derive(Debug)]
pub(super) struct Signals {
    pub(super) own: Vec<f64>,
    pub(super) window: Vec<f64>,
    pub(super) wide: Vec<f64>,
    pub(super) vector: Vec<f64>,
    pub(super) vector_window: Vec<f64>,
    pub(super) neighbour: Vec<f64>,
    pub(super) sitting: Vec<f64>,
    pub(super) coverage: Vec<f64>,
    pub(super) answers: Vec<f64>,
    pub(super) date: Vec<f64>,
    pub(super) when: Vec<f64>,
    pub(super) who: Vec<f64>,
    pub(super) asks: Vec<f64>,
}

impl Signals {
    /// Computes them for a question; `vector` has been checked against the index's model.
    pub(super) fn of(index: &Index, links: &Links, question: &str, vector: Option<&[f32]>) -> Self {
        let pass = Pass { columns: index.columns(), dead: index.dead(), links, living: index.pieces().0 };
        let words = Words::of(&pass, index, question);
        let wide = pass.z((0..pass.columns.len()).map(|at| pass.around(&words.own, at, 3)).collect());
        let (own, window) = (pass.z(words.own), pass.z(words.window));
        let (vector, vector_window) = pass.meaning(index, vector);
        let sum = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a + b).collect() };
        let asked_before: Vec<f64> =
            own.iter().zip(pass.columns).map(|(own, column)| if column.asks { own.max(0.0) } else { 0.0 }).collect();
        let speaker = pass.only_named_speaker(question);
        let (named, asks_when) = (Named::of(question), asks_when(question));
        let column = |value: &dyn Fn(&Column) -> f64| pass.columns.iter().map(value).collect::<Vec<f64>>();
        Self {
            neighbour: pass.best_neighbour(&sum(&own, &vector)),
            sitting: pass.best_of_sitting(&sum(&window, &vector_window)),
            answers: links.previous.iter().map(|before| value(&asked_before, *before).unwrap_or(0.0)).collect(),
            date: column(&|it| if named.is_empty() { 0.0 } else { named.fit(Date::of(it.time_ms, it.offset_min)) }),
            when: column(&|it| f64::from(u8::from(asks_when && it.tells_time))),
            who: column(&|it| f64::from(u8::from(speaker.is_some_and(|speaker| speaker == it.speaker)))),
            asks: column(&|it| f64::from(u8::from(it.asks))),
            coverage: words.coverage,
            own,
            window,
            wide,
            vector,
            vector_window,
        }
    }
}

fn value(values: &[f64], ordinal: u32) -> Option<f64> {
    values.get(ordinal as usize).copied()
}

struct Pass<'a> {
    columns: &'a [Column],
    dead: &'a [bool],
    links: &'a Links,
    living: usize,
}

impl<'a> Pass<'a> {
    /// The speaker whom a question names, if it names exactly one.
    fn only_named_speaker(&self, question: &str) -> Option<&'a str> {
        let living = self.columns.iter().zip(self.dead).filter(|(_, dead)| !**dead);
        let speakers: BTreeSet<&'a str> = living.map(|(column, _)| column.speaker.as_str()).collect();
        let no_capitals = !question.chars().any(char::is_uppercase);
        let is_named =
            |speaker: &&&str| names(question, speaker) || (no_capitals && names(question, &speaker.to_lowercase()));
        let mut named = speakers.iter().filter(is_named);
        named.next().filter(|_| named.next().is_none()).copied()
    }

    /// Distance from the mean in standard deviations, over the living.
    fn z(&self, mut values: Vec<f64>) -> Vec<f64> {
        let living = || values.iter().zip(self.dead).filter(|(_, dead)| !**dead).map(|(value, _)| *value);
        let count = (self.living as f64).max(1.0);
        let mean = living().sum::<f64>() / count;
        let deviation = (living().map(|value| (value - mean) * (value - mean)).sum::<f64>() / count).sqrt() + 1e-9;
        for value in &mut values {
            *value = (*value - mean) / deviation;
        }
        values
    }

    /// The sum over a piece and up to `steps` to both sides within its sitting.
    fn around(&self, values: &[f64], at: usize, steps: usize) -> f64 {
        let side = |links: &[u32]| {
            let (mut sum, mut here) = (0.0, at as u32);
            for _ in 0..steps {
                match links.get(here as usize) {
                    Some(next) if *next != NONE => here = *next,
                    _ => break,
                }
                sum += value(values, here).unwrap_or(0.0);
            }
            sum
        };
        values.get(at).copied().unwrap_or(0.0) + side(&self.links.previous) + side(&self.links.next)
    }

    fn best_neighbour(&self, values: &[f64]) -> Vec<f64> {
        let better = |(before, after): (&u32, &u32)| match (value(values, *before), value(values, *after)) {
            (Some(a), Some(b)) => a.max(b),
            (Some(a), None) | (None, Some(a)) => a,
            (None, None) => 0.0,
        };
        self.links.previous.iter().zip(&self.links.next).map(better).collect()
    }

    fn best_of_sitting(&self, values: &[f64]) -> Vec<f64> {
        let mut best = vec![-9.0_f64; self.links.sittings as usize];
        for ((value, sitting), dead) in values.iter().zip(&self.links.sitting).zip(self.dead) {
            if let Some(best) = best.get_mut(*sitting as usize).filter(|_| !dead) {
                *best = best.max(*value);
            }
        }
        self.links.sitting.iter().map(|sitting| value(&best, *sitting).unwrap_or(0.0)).collect()
    }

    /// z of the cosine by signs, alone and with half of both neighbours. Pieces without a vector are average.
    fn meaning(&self, index: &Index, vector: Option<&[f32]>) -> (Vec<f64>, Vec<f64>) {
        let none = vec![0.0; self.columns.len()];
        let (Some(vector), Some(signs)) = (vector, index.signs()) else { return (none.clone(), none) };
        let dots = signs.scan(vector, self.columns.len());
        let held = dots.iter().zip(self.dead).filter_map(|(dot, dead)| dot.filter(|_| !*dead));
        let (mut sum, mut count) = (0.0, 0.0_f64);
        for dot in held {
            sum += dot;
            count += 1.0;
        }
        let average = sum / count.max(1.0);
        let alone: Vec<f64> = dots.iter().map(|dot| dot.unwrap_or(average)).collect();
        let links = self.links.previous.iter().zip(&self.links.next);
        let with = |((own, (before, after)), length): ((&f64, (&u32, &u32)), &f64)| {
            let half = |other: u32| if signs.has(other) { 0.5 * value(&alone, other).unwrap_or(0.0) } else { 0.0 };
            (own + half(*before) + half(*after)) / length
        };
        let window = alone.iter().zip(links).zip(index.context()).map(with).collect();
        (self.z(alone), self.z(window))
    }
}

/// All that the postings give: BM25 of pieces and of windows, and coverage.
struct Words {
    own: Vec<f64>,
    window: Vec<f64>,
    coverage: Vec<f64>,
}

impl Words {
    fn of(pass: &Pass<'_>, index: &Index, question: &str) -> Self {
        let count = pass.columns.len();
        let lengths: Vec<f64> = pass.columns.iter().map(|column| f64::from(column.length)).collect();
        let windows: Vec<f64> = (0..count).map(|at| pass.around(&lengths, at, 1)).collect();
        let (own_norm, window_norm) = (norms(&lengths, pass), norms(&windows, pass));
        let mut out = Self { own: vec![0.0; count], window: vec![0.0; count], coverage: vec![0.0; count] };

        let language = lang::of(question);
        let asked = unique(terms_without(question, language.question_words));
        let all = unique(terms(question));
        // A question of frequent words alone is still a question.
        let common = (pass.living * COMMON_PERCENT / 100).max(COMMON_MIN);
        let mut postings = Vec::new();
        let mut is_rare = |term: &Term| {
            index.postings(*term, &mut postings);
            !postings.is_empty() && postings.len() <= common
        };
        let rare: Vec<Term> = all.iter().copied().filter(|term| is_rare(term)).collect();
        let used = if rare.is_empty() { all } else { rare };

        let mut scratch = Scratch { counts: vec![0; count], touched: Vec::new() };
        let mut asked_idf = 0.0;
        for term in used {
            index.postings(term, &mut postings);
            if postings.is_empty() {
                continue;
            }
            let own_idf = idf(pass.living, postings.len());
            for posting in &postings {
                add_bm25(&mut out.own, &own_norm, posting.ordinal, f64::from(posting.count), own_idf);
            }
            scratch.spread(&postings, pass.links);
            let window_idf = idf(pass.living, scratch.touched.len());
            let counts_for_coverage = asked.binary_search(&term).is_ok();
            if counts_for_coverage {
                asked_idf += own_idf;
            }
            for ordinal in scratch.touched.drain(..) {
                let at = ordinal as usize;
                let count = scratch.counts.get_mut(at).map_or(0, std::mem::take);
                add_bm25(&mut out.window, &window_norm, ordinal, f64::from(count), window_idf);
                if let Some(coverage) = out.coverage.get_mut(at).filter(|_| counts_for_coverage) {
                    *coverage += own_idf;
                }
            }
        }
        for coverage in &mut out.coverage {
            *coverage /= asked_idf + 1e-9;
        }
        out
    }
}

/// How often a term is in each window.
struct Scratch {
    counts: Vec<u32>,
    touched: Vec<u32>,
}

impl Scratch {
    fn spread(&mut self, postings: &[Posting], links: &Links) {
        for posting in postings {
            let at = posting.ordinal as usize;
            let neighbours = [links.previous.get(at), links.next.get(at)];
            for ordinal in neighbours.into_iter().flatten().copied().chain([posting.ordinal]) {
                if let Some(count) = self.counts.get_mut(ordinal as usize) {
                    if *count == 0 {
                        self.touched.push(ordinal);
                    }
                    *count += u32::from(posting.count);
                }
            }
        }
    }
}

/// Sorted by hash, each once.
fn unique(mut terms: Vec<Term>) -> Vec<Term> {
    terms.sort_unstable();
    terms.dedup();
    terms
}

fn norms(lengths: &[f64], pass: &Pass<'_>) -> Vec<f64> {
    let total: f64 = lengths.iter().zip(pass.dead).filter(|(_, dead)| !**dead).map(|(length, _)| *length).sum();
    let mean = (total / (pass.living as f64).max(1.0)).max(1e-9);
    lengths.iter().map(|length| K1 * (1.0 - B + B * length / mean)).collect()
}

fn idf(living: usize, holding: usize) -> f64 {
    let (n, df) = (living as f64, holding as f64);
    (1.0 + (n - df + 0.5).max(0.0) / (df + 0.5)).ln()
}

fn add_bm25(scores: &mut [f64], norms: &[f64], ordinal: u32, count: f64, idf: f64) {
    if let (Some(score), Some(norm)) = (scores.get_mut(ordinal as usize), norms.get(ordinal as usize)) {
        *score += idf * count * (K1 + 1.0) / (count + norm);
    }
}
