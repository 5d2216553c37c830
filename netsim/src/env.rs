//! Environment shared by every part of a run: virtual time and the events to come, randomness, and the story.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::dice::Dice;
use crate::event::Event;
use crate::trace::{Moment, Trace};

/// Time, chance and story of one run.
pub(crate) struct Env {
    /// Virtual time, in microseconds since the beginning.
    pub(crate) now: u64,
    heap: BinaryHeap<Reverse<Timed>>,
    sequence: u64,
    pub(crate) dice: Dice,
    pub(crate) trace: Trace,
}

impl Env {
    pub(crate) fn new(dice: Dice, trace: Trace) -> Self {
        Self { now: 0, heap: BinaryHeap::new(), sequence: 0, dice, trace }
    }

    /// Something happens `delay` microseconds from now.
    pub(crate) fn at(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.heap.push(Reverse(Timed { at: self.now + delay, sequence: self.sequence, event }));
    }

    /// Goes on to the next event.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let Reverse(Timed { at, event, .. }) = self.heap.pop()?;
        self.now = at;
        Some(event)
    }

    /// Notes a line of the story.
    pub(crate) fn story(&mut self, line: impl FnOnce() -> String) {
        self.trace.story(self.now, line);
    }

    /// Notes what a picture shows.
    pub(crate) fn moment(&mut self, moment: impl FnOnce() -> Moment) {
        self.trace.moment(self.now, moment);
    }

    /// Notes a detail.
    pub(crate) fn detail(&mut self, line: impl FnOnce() -> String) {
        self.trace.detail(self.now, line);
    }
}

struct Timed {
    at: u64,
    sequence: u64,
    event: Event,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}
impl Eq for Timed {}
impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}
