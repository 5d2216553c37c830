//! Which of several statements about one key count, by what each knew of the others.
//!
//! Who is honest knows only what was there before. So where two knew each other, or more than two in a circle, one of them
//! lies, and most likely by naming places that nobody can have seen yet. Then what names the very place of another
//! statement is believed before what names a place at which nothing was said.

use std::collections::BTreeSet;

use super::said::Statement;
use crate::entry::Place;

/// A statement with its place.
type At<'a> = (&'a Place, &'a Statement);

/// Of each statement the numbers of those that it knew.
type Knew = Vec<Vec<usize>>;

/// Those of `all`, in the order of their places, that nothing else of them replaces. Of some at least one.
pub(super) fn heads<'a>(all: Vec<At<'a>>) -> Vec<At<'a>> {
    if all.len() < 2 {
        return all;
    }
    let mut heads = BTreeSet::new();
    for circle in outermost(&knew(&all, false)) {
        if circle.len() == 1 {
            heads.extend(circle);
            continue;
        }
        let within: Vec<At<'a>> = circle.iter().filter_map(|node| all.get(*node)).copied().collect();
        for circle_yet in outermost(&knew(&within, true)) {
            let of = circle_yet.iter().filter_map(|node| Some((circle.get(*node)?, within.get(*node)?)));
            let last = of.max_by_key(|(_, (place, statement))| (statement.said.generation, statement.hlc, **place));
            heads.extend(last.map(|(node, _)| *node));
        }
    }
    heads.iter().filter_map(|node| all.get(*node)).copied().collect()
}

/// Knowledge of each: what came before it in its log, and of other logs the last up to where it says; all before that was
/// known to that one. `exact`: only where it names the very place.
fn knew(all: &[At<'_>], exact: bool) -> Knew {
    let log = |place: &Place| (place.author, place.incarnation);
    let before = |wanted: Place| {
        let node = all.partition_point(|(place, _)| **place <= wanted).checked_sub(1)?;
        let (found, _) = all.get(node)?;
        (log(found) == log(&wanted) && (!exact || **found == wanted)).then_some(node)
    };
    let of = |(node, (place, statement)): (usize, &At<'_>)| {
        let own = node.checked_sub(1).filter(|node| all.get(*node).is_some_and(|(other, _)| log(other) == log(place)));
        let others = statement.said.knew.iter().map(|known| Place {
            author: known.author,
            incarnation: known.incarnation,
            seq: known.seq,
        });
        // Of its own log it knows no more than what came before it, whatever it says.
        let others = others.filter(|known| log(known) != log(place)).filter_map(before);
        own.into_iter().chain(others).collect()
    };
    all.iter().enumerate().map(of).collect()
}

/// Nodes that are reached from one along these edges, itself too, in order. What was `seen` is left out.
fn reach(from: usize, edges: &Knew, seen: &mut [bool]) -> BTreeSet<usize> {
    let (mut reached, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(node) = next.pop() {
        let Some(seen) = seen.get_mut(node).filter(|seen| !**seen) else { continue };
        *seen = true;
        reached.insert(node);
        next.extend(edges.get(node).into_iter().flatten());
    }
    reached
}

/// The strongly connected components of the graph that no node outside of them knows, each in order; a single node is a
/// component of its own.
fn outermost(knew: &Knew) -> Vec<Vec<usize>> {
    let mut known_by: Knew = vec![Vec::new(); knew.len()];
    for (node, known) in knew.iter().enumerate() {
        for other in known {
            if let Some(known_by) = known_by.get_mut(*other) {
                known_by.push(node);
            }
        }
    }
    // Whoever knew such a start, and was not reached from it, would have been a start before it, and have reached it. So
    // what knew the last start belongs to its circle, and so on among those that no later one reaches.
    let mut seen = vec![false; knew.len()];
    let starts: Vec<usize> = (0..knew.len()).rev().filter(|node| !reach(*node, knew, &mut seen).is_empty()).collect();
    let mut seen = vec![false; knew.len()];
    let mut circles = Vec::new();
    for start in starts.into_iter().rev() {
        if !reach(start, knew, &mut seen).is_empty() {
            circles.push(reach(start, &known_by, &mut vec![false; knew.len()]).into_iter().collect());
        }
    }
    circles
}
