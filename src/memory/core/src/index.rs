//! The index of one workspace: postings of terms, columns, vectors.
//!
//! A piece that is appended is found at once, from the **tail**; [`Index::seal`] makes **segments** of it, which the shell
//! stores. Ordinals are given in order of arrival and mean nothing outside: two indices of equal messages give equal scores
//! in any order of arrival ([`crate::rank`]).

pub mod columns;
mod notes;
pub mod segment;
mod tail;
pub mod vectors;

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{BatchId, MessageKey, ModelId};
use crate::text::grams::Term;
use columns::{Column, ForwardRow, Links, NONE, Source};
use notes::Notes;
use segment::{Posting, SEGMENT_PIECES, Segment, SegmentError};
use tail::Tail;
use vectors::{Signs, Vec8, VectorError};

/// See the module.
#[derive(Debug, Default)]
pub struct Index {
    segments: Vec<Segment>,
    tail: Tail,
    tail_base: u32,
    columns: Vec<Column>,
    dead: Vec<bool>,
    by_source: BTreeMap<Source, Vec<u32>>,
    signs: Option<Signs>,
    notes: Option<Notes>,
    derived: Option<Derived>,
}

/// All that follows from columns and vectors; made when it is asked for.
#[derive(Debug)]
struct Derived {
    links: Links,
    /// Length of a piece's vector plus half of both neighbours'.
    context: Vec<f64>,
}

impl Index {
    /// An empty index.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a piece and gives its ordinal. Pieces of a source that is known are added to it; see [`Index::kill`].
    pub fn append(&mut self, row: ForwardRow) -> u32 {
        let ordinal = self.columns.len() as u32;
        for (term, count) in row.terms {
            self.tail.push(Term(term), Posting { ordinal, count });
        }
        self.add_column(row.column, ordinal);
        ordinal
    }

    /// Puts back a sealed segment with its columns, before anything is appended. Pieces that are erased have none; those of
    /// which `lives` is false are dead.
    ///
    /// # Errors
    /// When it has another number of columns: it is rebuilt from the texts.
    pub fn load(
        &mut self,
        segment: Segment,
        columns: Vec<Option<Column>>,
        lives: impl Fn(&Column) -> bool,
    ) -> Result<(), SegmentError> {
        if !self.tail.is_empty() || columns.len() != segment.pieces() as usize {
            return Err(SegmentError::Damaged);
        }
        let base = self.columns.len() as u32;
        for (ordinal, column) in (base..).zip(columns) {
            if let Some(column) = column.filter(&lives) {
                self.add_column(column, ordinal);
            } else {
                self.columns.push(Column::erased());
                self.dead.push(true);
            }
        }
        self.derived = None;
        self.tail_base = self.columns.len() as u32;
        self.segments.push(segment.at(base));
        Ok(())
    }

    /// Seals the oldest [`SEGMENT_PIECES`] of the tail, less what is left of a text that would be cut, or all of it if `all`;
    /// `None` when there are fewer. Nothing that is found changes by it.
    pub fn seal(&mut self, all: bool) -> Option<&Segment> {
        let waiting = self.columns.len() - self.tail_base as usize;
        if waiting == 0 || (waiting < SEGMENT_PIECES && !all) {
            return None;
        }
        let most = self.tail_base + waiting.min(SEGMENT_PIECES) as u32;
        // The pieces of one text are in one segment: what is in none is made anew from whole texts.
        let begins = |at: &u32| self.columns.get(*at as usize).is_none_or(|column| column.number == 0);
        let end = (self.tail_base + 1..=most).rev().find(begins).unwrap_or(most);
        let sealed = self.tail.take_below(end);
        self.segments.push(Segment::seal(self.tail_base, end - self.tail_base, &sealed));
        self.tail_base = end;
        self.segments.last()
    }

    /// A segment by its place among all, with its columns; pieces that are dead have none.
    #[must_use]
    pub fn sealed(&self, place: usize) -> Option<(&Segment, Vec<Option<&Column>>)> {
        let segment = self.segments.get(place)?;
        let from = segment.base() as usize;
        let all = self.columns.iter().zip(&self.dead).skip(from).take(segment.pieces() as usize);
        Some((segment, all.map(|(column, dead)| (!dead).then_some(column)).collect()))
    }

    /// Number of segments.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Takes the postings and columns of messages out of the segments: nothing is left of them. Gives the places of the
    /// segments that changed.
    pub fn erase(&mut self, keys: &BTreeSet<MessageKey>) -> Vec<usize> {
        let mut erased: BTreeSet<u32> = BTreeSet::new();
        for key in keys {
            self.drop_notes(key);
        }
        for (ordinal, column) in (0..self.tail_base).zip(&mut self.columns) {
            if keys.contains(&column.source.message()) {
                *column = Column::erased();
                erased.insert(ordinal);
            }
        }
        for ordinal in &erased {
            if let Some(dead) = self.dead.get_mut(*ordinal as usize) {
                *dead = true;
            }
            if let Some(signs) = &mut self.signs {
                signs.remove(*ordinal);
            }
        }
        self.derived = None;
        let mut changed = Vec::new();
        for (place, segment) in self.segments.iter_mut().enumerate() {
            if erased.range(segment.base()..segment.base() + segment.pieces()).next().is_some() {
                let left: Vec<(Term, Posting)> =
                    segment.all().filter(|(_, posting)| !erased.contains(&posting.ordinal)).collect();
                *segment = Segment::seal(segment.base(), segment.pieces(), &left);
                changed.push(place);
            }
        }
        changed
    }

    /// Takes all pieces of a source out of everything that is found; `false` when there are none. Their postings stay until
    /// the index is made anew, and count for nothing.
    pub fn kill(&mut self, source: &Source) -> bool {
        let Some(ordinals) = self.by_source.remove(source) else { return false };
        if let Source::Message(key) = source {
            self.drop_notes(key);
        }
        for ordinal in ordinals {
            if let Some(signs) = &mut self.signs {
                signs.remove(ordinal);
            }
            if let Some(dead) = self.dead.get_mut(ordinal as usize) {
                *dead = true;
            }
        }
        self.derived = None;
        true
    }

    /// The model whose vectors are searched from now on. All that are held go when it is another.
    pub fn use_model(&mut self, model: ModelId, dimension: usize) {
        if self.signs.as_ref().is_none_or(|signs| signs.model != model || signs.dimension != dimension) {
            self.signs = Some(Signs::new(model, dimension));
            self.notes = Some(Notes::new(model, dimension));
            self.derived = None;
        }
    }

    /// Gives a source its vector; all its pieces share it.
    ///
    /// # Errors
    /// When it is of another model or dimension than [`Index::use_model`] said.
    pub fn put_vector(&mut self, model: ModelId, source: &Source, vector: &Vec8) -> Result<(), VectorError> {
        let signs = self.signs.as_mut().filter(|signs| signs.model == model).ok_or(VectorError::Model)?;
        if vector.dimension() != signs.dimension {
            return Err(VectorError::Dimension { got: vector.dimension(), want: signs.dimension });
        }
        for ordinal in self.by_source.get(source).into_iter().flatten() {
            signs.put(*ordinal, vector);
        }
        self.derived = None;
        Ok(())
    }

    /// Gives a head, a line or a fact its vector; `at` is its first byte in its message's text. It is found by meaning only, and leads
    /// to its message. One of a message that is not found is left out.
    ///
    /// # Errors
    /// As [`Index::put_vector`].
    pub fn put_note(&mut self, model: ModelId, source: Source, at: u32, vector: &Vec8) -> Result<(), VectorError> {
        let signs = self.signs.as_ref().filter(|signs| signs.model == model).ok_or(VectorError::Model)?;
        if vector.dimension() != signs.dimension {
            return Err(VectorError::Dimension { got: vector.dimension(), want: signs.dimension });
        }
        let key = source.message();
        if self.by_source.contains_key(&Source::Message(key))
            && let Some(notes) = &mut self.notes
        {
            notes.put(key, source, at, vector);
        }
        Ok(())
    }

    /// True if a line or a fact has its vector.
    #[must_use]
    pub fn has_note(&self, source: &Source) -> bool {
        self.notes.as_ref().is_some_and(|notes| notes.has(&source.message(), source))
    }

    /// True if the head of a batch has its vector.
    #[must_use]
    pub fn has_head(&self, batch: &BatchId) -> bool {
        self.notes.as_ref().is_some_and(|notes| notes.has_head(batch))
    }

    /// Takes out the vector of the head of a batch: something that it rests on has changed.
    pub fn drop_head(&mut self, batch: &BatchId) {
        if let Some(notes) = &mut self.notes {
            notes.remove_head(batch);
        }
    }

    /// Takes out the vectors of all heads, lines and facts of a message: another batch has it now, or it says something else.
    pub fn drop_notes(&mut self, key: &MessageKey) {
        if let Some(notes) = &mut self.notes {
            notes.remove(key);
        }
    }

    /// The model whose vectors are searched.
    #[must_use]
    pub fn model(&self) -> Option<ModelId> {
        self.signs.as_ref().map(|signs| signs.model)
    }

    /// Messages that have their vector, and lines and facts that do.
    #[must_use]
    pub fn embedded(&self) -> (usize, usize) {
        let Some(signs) = &self.signs else { return (0, 0) };
        let has = |ordinals: &&Vec<u32>| ordinals.first().is_some_and(|ordinal| signs.has(*ordinal));
        (self.by_source.values().filter(has).count(), self.notes.as_ref().map_or(0, Notes::count))
    }

    /// Lines and facts by meaning: each with a piece of its message and its cosine by signs.
    pub(crate) fn scan_notes(&self, exact: &[f32]) -> impl Iterator<Item = (Source, u32, f64)> {
        self.notes.iter().flat_map(|notes| notes.scan(exact)).filter_map(|(key, note, dot)| {
            let ordinals = self.by_source.get(&Source::Message(key))?;
            // The last piece that begins before it: pieces overlap.
            let begins = |ordinal: &&u32| self.column(**ordinal).is_some_and(|column| column.span.start <= note.at);
            let ordinal = ordinals.iter().rfind(begins).or_else(|| ordinals.first())?;
            Some((note.source, *ordinal, dot))
        })
    }

    /// The sources that have no vector of the model in use, up to `limit`.
    #[must_use]
    pub fn missing_vectors(&self, limit: usize) -> Vec<Source> {
        let lacks = |ordinals: &[u32]| {
            self.signs.as_ref().is_none_or(|signs| ordinals.iter().any(|ordinal| !signs.has(*ordinal)))
        };
        self.by_source.iter().filter(|(_, ordinals)| lacks(ordinals)).map(|(source, _)| *source).take(limit).collect()
    }

    /// True if the source is found.
    #[must_use]
    pub fn has(&self, source: &Source) -> bool {
        self.by_source.contains_key(source)
    }

    /// The pieces of a source.
    #[must_use]
    pub fn ordinals(&self, source: &Source) -> &[u32] {
        self.by_source.get(source).map_or(&[], Vec::as_slice)
    }

    /// All sources that are found.
    #[must_use]
    pub fn sources(&self) -> BTreeSet<Source> {
        self.by_source.keys().copied().collect()
    }

    /// Number of pieces that are found, and of those that are dead. From a tenth dead on it pays to make it anew.
    #[must_use]
    pub fn pieces(&self) -> (usize, usize) {
        let dead = self.dead.iter().filter(|dead| **dead).count();
        (self.columns.len() - dead, dead)
    }

    /// All that is known of a piece.
    #[must_use]
    pub fn column(&self, ordinal: u32) -> Option<&Column> {
        self.columns.get(ordinal as usize)
    }

    /// The piece before another in its sitting.
    #[must_use]
    pub fn previous(&self, ordinal: u32) -> Option<u32> {
        let links = &self.derived.as_ref()?.links;
        links.previous.get(ordinal as usize).copied().filter(|it| *it != NONE)
    }

    /// The piece after another in its sitting.
    #[must_use]
    pub fn next(&self, ordinal: u32) -> Option<u32> {
        let links = &self.derived.as_ref()?.links;
        links.next.get(ordinal as usize).copied().filter(|it| *it != NONE)
    }

    /// Brings what follows from columns and vectors up to date. [`crate::rank`] calls it before a search.
    pub(crate) fn refresh(&mut self) {
        if self.derived.is_some() {
            return;
        }
        let links = Links::of(&self.columns, &self.dead);
        let context = self.signs.as_ref().map_or_else(Vec::new, |signs| context_lengths(signs, &links));
        self.derived = Some(Derived { links, context });
    }

    pub(crate) fn columns(&self) -> &[Column] {
        &self.columns
    }

    pub(crate) fn dead(&self) -> &[bool] {
        &self.dead
    }

    pub(crate) fn links(&self) -> Option<&Links> {
        self.derived.as_ref().map(|derived| &derived.links)
    }

    pub(crate) fn context(&self) -> &[f64] {
        self.derived.as_ref().map_or(&[], |derived| &derived.context)
    }

    pub(crate) fn signs(&self) -> Option<&Signs> {
        self.signs.as_ref()
    }

    /// Living postings of a term, by ordinal.
    pub(crate) fn postings(&self, term: Term, out: &mut Vec<Posting>) {
        out.clear();
        let lives = |posting: &Posting| !self.dead.get(posting.ordinal as usize).copied().unwrap_or(true);
        for segment in &self.segments {
            out.extend(segment.postings(term).filter(lives));
        }
        let from = out.len();
        out.extend(self.tail.postings(term).filter(lives));
        if let Some(newest_first) = out.get_mut(from..) {
            newest_first.reverse();
        }
    }

    fn add_column(&mut self, column: Column, ordinal: u32) {
        self.by_source.entry(column.source).or_default().push(ordinal);
        self.columns.push(column);
        self.dead.push(false);
        self.derived = None;
    }
}

/// Lengths of v + ½ before + ½ after, by the signs: that of one vector is 1.
fn context_lengths(signs: &Signs, links: &Links) -> Vec<f64> {
    let length = |(ordinal, (previous, next)): (u32, (&u32, &u32))| {
        let part = |other: u32| if other != NONE && signs.has(other) { 1.0 } else { 0.0 };
        let (before, after) = (part(*previous), part(*next));
        let square = 1.0
            + 0.25 * (before + after)
            + before * signs.between(ordinal, *previous)
            + after * signs.between(ordinal, *next)
            + 0.5 * before * after * signs.between(*previous, *next);
        square.max(1e-6).sqrt()
    };
    (0..).zip(links.previous.iter().zip(&links.next)).map(length).collect()
}
