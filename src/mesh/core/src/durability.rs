//! Batches on their way to the disk, and what waits for them to be durable.

use std::collections::VecDeque;

use crate::effects::Then;
use crate::io::{Batch, Output, TxnId, Write};

/// Numbers of the batches, and what waits for each.
#[derive(Debug, Clone, Default)]
pub(crate) struct Durability {
    last: TxnId,
    /// The newest batch that the disk was asked to sync.
    synced: TxnId,
    durable: TxnId,
    pending: VecDeque<(TxnId, Vec<Then>)>,
}

impl Durability {
    /// True if nothing that a step without writes could wait for is still on its way to the disk.
    pub(crate) const fn is_settled(&self) -> bool {
        self.durable >= self.synced
    }

    /// Ends a step: its one batch goes out, and `then` waits for that, or for the last one that is being synced.
    pub(crate) fn commit(&mut self, writes: Vec<Write>, sync: bool, then: Vec<Then>, out: &mut Vec<Output>) {
        if !writes.is_empty() {
            self.last += 1;
            let sync = sync || !then.is_empty();
            if sync {
                self.synced = self.last;
            }
            out.push(Output::Commit(self.last, Batch { writes, sync }));
        }
        if !then.is_empty() {
            match self.pending.back_mut() {
                Some((txn, waiting)) if *txn == self.synced => waiting.extend(then),
                _ => self.pending.push_back((self.synced, then)),
            }
        }
    }

    /// This batch and all before it are durable: what may happen now, in order.
    pub(crate) fn handle_durable(&mut self, txn: TxnId) -> Vec<Then> {
        self.durable = self.durable.max(txn);
        let mut due = Vec::new();
        while let Some((_, then)) = self.pending.pop_front_if(|(at, _)| *at <= txn) {
            due.extend(then);
        }
        due
    }
}
