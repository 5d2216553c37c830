//! A model's words for the summaries of a workspace: which summary waits for them, and what of them is kept.
//!
//! The model works beside the workspace. That it is asked is durable before it is, so a summary with which it dies is not asked
//! about for ever; its words and the note that it has answered are one durable step, so none is said twice.

use memory_core::ids::{BatchId, MessageKey, ModelId, Rev};
use memory_core::item::Body;
use memory_core::writing::{Reading, Taken, Tried};

use super::error::MemoryError;
use super::keys;
use super::workspace::Workspace;
use crate::faults::{self, Point};

/// What is kept of a model's words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// Heads.
    pub heads: u64,
    /// Facts.
    pub facts: u64,
    /// Heads that the check refused, and those of what has changed meanwhile.
    pub heads_refused: u64,
    /// Facts alike.
    pub facts_refused: u64,
}

impl Kept {
    /// The sum of two.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            heads: self.heads + other.heads,
            facts: self.facts + other.facts,
            heads_refused: self.heads_refused + other.heads_refused,
            facts_refused: self.facts_refused + other.facts_refused,
        }
    }
}

impl Workspace {
    /// The next summary that this model is to be asked about, noted durably as asked; `None` when none waits.
    ///
    /// # Errors
    /// The disk.
    pub fn begin_words(&mut self, model: ModelId) -> Result<Option<Reading>, MemoryError> {
        while let Some((batch, mut tried)) = self.next_words(model) {
            let Some(row) = self.held.rows.batch(&batch) else { break };
            let reading = Reading::of(&self.held.view, row, |key| self.held.message(key, &self.store))?;
            // Another holder's model may have written already.
            if reading.is_none() || self.reader().head(row)?.is_some() {
                tried.over = true;
            }
            self.store.commit(vec![(keys::tried(&batch), Some(keys::encode(&tried).into()))], false)?;
            self.tried.insert(batch, tried);
            if let Some(reading) = reading.filter(|_| !tried.over) {
                let _ = faults::pass(Point::MemoryTold);
                return Ok(Some(reading));
            }
        }
        Ok(None)
    }

    /// Of the summaries that wait the one that was tried the least: one with which a model fails holds up no other.
    fn next_words(&self, model: ModelId) -> Option<(BatchId, Tried)> {
        let mut best: Option<(BatchId, Tried)> = None;
        for batch in self.held.view.covered.keys() {
            let Some(row) = self.held.rows.batch(batch) else { continue };
            let Some(next) = Tried::next(&self.held.view, row, model, self.tried.get(batch)) else { continue };
            if best.is_none_or(|(_, best)| next.attempts < best.attempts) {
                best = Some((*batch, next));
            }
            if next.attempts == 1 {
                break;
            }
        }
        best
    }

    /// Keeps what was taken of a model's words, as far as what they are of is as it was; durable on return.
    ///
    /// # Errors
    /// The disk.
    pub fn keep_words(&mut self, reading: &Reading, taken: Taken) -> Result<Kept, MemoryError> {
        let batch = reading.batch();
        let counts = |(key, rev): &(MessageKey, Rev)| self.held.view.counts(&batch, key, rev);
        let stands = |body: &Body| match body {
            Body::Head(head) => head.sources.iter().all(counts),
            Body::Fact(fact) => counts(&(fact.key, fact.rev)),
            Body::Message(_)
            | Body::Correction(_)
            | Body::Tombstone(_)
            | Body::Summary(_)
            | Body::Rewrite(_)
            | Body::Standing(_)
            | Body::Unknown(_) => false,
        };
        let count = |bodies: &[Body], heads: bool| {
            bodies.iter().filter(|body| matches!(body, Body::Head(_)) == heads).count() as u64
        };
        let said = (count(&taken.bodies, true), count(&taken.bodies, false));
        let bodies: Vec<Body> = taken.bodies.into_iter().filter(stands).collect();
        let (heads, facts) = (count(&bodies, true), count(&bodies, false));
        let mut writes = Vec::new();
        if let Some(tried) = self.tried.get_mut(&batch) {
            // What was told is noted, so that lines which have changed meanwhile are asked about again.
            tried.over = true;
            writes.push((keys::tried(&batch), Some(keys::encode(tried).into())));
        }
        if bodies.is_empty() {
            self.store.commit(writes, false)?;
        } else {
            self.say(&bodies, writes)?;
        }
        let _ = faults::pass(Point::MemoryWritten);
        Ok(Kept {
            heads,
            facts,
            heads_refused: u64::from(taken.head_refused) + said.0 - heads,
            facts_refused: taken.facts_refused as u64 + said.1 - facts,
        })
    }
}
