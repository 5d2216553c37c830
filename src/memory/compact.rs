//! Compaction: batches of messages get a summary and facts, which point at them. Nothing is removed.

use memory_core::compaction::{Action, Capture, Compaction, Draft, Effort, Report, Trigger};
use memory_core::item::Message;
use memory_core::limits::BATCH_MESSAGES_MAX;

use super::error::MemoryError;
use super::keys;
use super::workspace::Workspace;
use crate::faults::{self, Point};

impl Workspace {
    /// Takes one batch, the oldest, if one is due; the report is of what is durable.
    ///
    /// # Errors
    /// The disk.
    pub fn compact(&mut self, trigger: Trigger) -> Result<Report, MemoryError> {
        // Enough of the oldest to see if one is due; no more is looked at.
        let beyond = match trigger {
            Trigger::Unasked => self.settings.window,
            Trigger::Asked { keep } => keep,
        };
        let waiting = self.held.oldest_waiting(self.settings.batch.saturating_add(beyond));
        let mut core = Compaction::new(self.settings);
        let first = core.handle_request(&self.id, trigger, &waiting);
        carry_out(self, core, first)
    }

    /// True if so many messages wait that a batch is taken unasked.
    #[must_use]
    pub fn is_compaction_due(&self) -> bool {
        self.held.waiting() >= self.settings.batch.saturating_add(self.settings.window)
    }

    /// Takes up a batch that was begun before the last stop, or drops it if its messages have gone elsewhere.
    pub(super) fn resume(&mut self, capture: Capture) -> Result<Report, MemoryError> {
        let is_current = |key, rev| self.held.view.messages.get(key).is_some_and(|it| it.rev == rev);
        let still_waits = capture.covers.iter().all(|(key, rev)| self.held.waits(key) && is_current(key, *rev));
        let mut core = Compaction::new(self.settings);
        let first = core.handle_found(capture, still_waits, true);
        carry_out(self, core, first)
    }
}

fn carry_out(workspace: &mut Workspace, mut core: Compaction, first: Option<Action>) -> Result<Report, MemoryError> {
    let mut report = Report::default();
    let mut next = first;
    while let Some(action) = next.take() {
        match action {
            Action::Store(capture) => {
                let row = (keys::capture(&capture.batch), Some(keys::encode(&capture).into()));
                workspace.store.commit(vec![row], false)?;
                let _ = faults::pass(Point::MemoryCaptured);
                next = core.handle_captured();
            }
            Action::Draft(capture, effort) => {
                let draft = draft(workspace, &capture, effort)?;
                let _ = faults::pass(Point::MemoryDrafted);
                next = core.handle_drafted(draft);
            }
            Action::Commit(batch, draft) => {
                let done = vec![(keys::capture(&batch), None)];
                let current = |key: &_| {
                    let current = workspace.held.view.messages.get(key)?;
                    current.batch.is_none().then_some(current.rev)
                };
                if let Some(draft) = draft.recheck(&workspace.id, current) {
                    workspace.say(&draft.bodies(), done)?;
                    report = draft.report();
                } else {
                    workspace.store.commit(done, false)?;
                }
                let _ = faults::pass(Point::MemoryCompacted);
                core.handle_committed();
            }
            Action::Drop(batch) => workspace.store.commit(vec![(keys::capture(&batch), None)], false)?,
        }
    }
    Ok(report)
}

fn draft(workspace: &Workspace, capture: &Capture, effort: Effort) -> Result<Draft, MemoryError> {
    let mut messages: Vec<(_, _, Message)> = Vec::new();
    // A message that stops the process each time is covered in the end without being read.
    if effort != Effort::HeaderOnly {
        for (key, rev) in capture.covers.iter().take(BATCH_MESSAGES_MAX) {
            if let Some(message) = workspace.held.message(key, &workspace.store)? {
                messages.push((*key, *rev, message));
            }
        }
    }
    Ok(Draft::by_rules(capture, &workspace.settings, &messages))
}
