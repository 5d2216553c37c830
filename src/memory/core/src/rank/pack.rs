//! Packing: what was found, as passages of text within a budget of tokens.

use std::collections::BTreeSet;

use super::Hit;
use crate::index::Index;
use crate::index::columns::Source;
use crate::item::Span;
use crate::text::tokens;

/// Text that goes out together: a hit with what belongs to it, in the order in which it was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// The hit that brought it in.
    pub hit: Hit,
    /// Its pieces: what each is a part of, and which part.
    pub pieces: Vec<(Source, Span)>,
    /// Its cost, characters / 4 of each piece rounded up.
    pub tokens: usize,
}

/// Packs hits, best first: the piece itself, the question that it answers, then its neighbours while there is room. What a
/// better hit brought is not brought again. Stops at the first hit that does not fit; the first is always taken, however
/// long. `text_of` gives the present text of a source.
#[must_use]
pub fn pack(
    index: &Index,
    hits: &[Hit],
    tokens_max: usize,
    text_of: impl Fn(&Source) -> Option<String>,
) -> Vec<Passage> {
    let cost = |ordinal: u32| {
        let column = index.column(ordinal)?;
        let text = text_of(&column.source)?;
        Some(tokens(column.span.of(&text)?))
    };
    let (mut taken, mut spent) = (BTreeSet::new(), 0);
    let mut chosen: Vec<(Hit, BTreeSet<u32>, usize)> = Vec::new();
    for hit in hits {
        if taken.contains(&hit.ordinal) {
            continue;
        }
        let question = hit.answers.then(|| index.previous(hit.ordinal)).flatten();
        let core = [Some(hit.ordinal), question].into_iter().flatten().filter(|it| !taken.contains(it));
        let core: Vec<(u32, usize)> = core.filter_map(|ordinal| Some((ordinal, cost(ordinal)?))).collect();
        let price: usize = core.iter().map(|(_, cost)| cost).sum();
        if core.is_empty() {
            continue;
        }
        if !chosen.is_empty() && spent + price > tokens_max {
            break;
        }
        spent += price;
        taken.extend(core.iter().map(|(ordinal, _)| *ordinal));
        chosen.push((*hit, core.into_iter().map(|(ordinal, _)| ordinal).collect(), price));
    }
    for (hit, ordinals, price) in &mut chosen {
        for neighbour in [index.previous(hit.ordinal), index.next(hit.ordinal)].into_iter().flatten() {
            let Some(cost) = cost(neighbour).filter(|cost| spent + cost <= tokens_max) else { continue };
            if taken.insert(neighbour) {
                ordinals.insert(neighbour);
                spent += cost;
                *price += cost;
            }
        }
    }
    let place = |ordinal: u32| index.column(ordinal).map(|it| (it.time_ms, it.source, it.number, it.span));
    chosen
        .into_iter()
        .map(|(hit, ordinals, tokens)| {
            let mut pieces: Vec<_> = ordinals.into_iter().filter_map(place).collect();
            pieces.sort_unstable();
            Passage { hit, pieces: pieces.into_iter().map(|(_, source, _, span)| (source, span)).collect(), tokens }
        })
        .collect()
}
