//! Effects of one step, collected: writes, what waits for them, messages. One batch per step.

use std::collections::VecDeque;

use rand_core::Rng;

use crate::entry::SignedEntry;
use crate::epoch::Epoch;
use crate::frame::{EntryItem, Frame};
use crate::ids::{Attempt, PeerId, ReqId};
use crate::io::{CmdId, Fact, Now, Output, Reply, Write};
use crate::limits;
use crate::protocol_rule::{ProtocolRule, ProtocolRules};
use crate::rows::{Row, RowKey};

/// Entries that one step sends to one peer as one frame: about as many as one fsync covers under load.
const JOINED_MAX: usize = 64;

/// Something that may happen only after the batch of this step is durable: a promise to others.
#[derive(Debug, Clone)]
pub(crate) enum Then {
    /// Promise something at a door.
    Reply(CmdId, Reply),
    /// Our claim is durable: lead.
    Claimed(Epoch),
    /// An entry of our own is durable: tell the others. A call may be dispatched from now on.
    Push { entry: SignedEntry, left_ms: Option<u64> },
    /// The target's `started` is durable: look a second time, then run.
    Started(ReqId, Attempt),
    /// The target's outcome is durable: tell the gateway.
    Outcome(ReqId, Attempt, SignedEntry),
    /// An ending, confirmed or not, is durable here: tell whoever waits for it on this device.
    Ended(ReqId, Attempt, bool),
    /// This peer is linked and was removed, and what says so is durable: tell it.
    Dismiss(PeerId),
    /// Our own revocation or departure is durable.
    Revoked,
}

impl Then {
    /// The rule that makes this wait for the disk.
    pub(crate) const fn rule(&self) -> ProtocolRule {
        match self {
            Self::Reply(..) => ProtocolRule::ReceiptDurable,
            Self::Claimed(_) => ProtocolRule::ClaimDurable,
            Self::Push { .. } => ProtocolRule::EntryDurable,
            Self::Started(..) => ProtocolRule::StartedDurable,
            Self::Outcome(..) => ProtocolRule::OutcomeDurable,
            Self::Ended(..) => ProtocolRule::EndingDurable,
            Self::Dismiss(_) | Self::Revoked => ProtocolRule::RevocationDurable,
        }
    }
}

/// Collector of one step's effects.
pub(crate) struct Effects<'a> {
    pub(crate) now: Now,
    /// Milliseconds that this store has been at work, see [`crate::age`].
    pub(crate) age_ms: u64,
    pub(crate) rng: &'a mut dyn Rng,
    pub(crate) rules: ProtocolRules,
    pub(crate) me: PeerId,
    pub(crate) writes: Vec<Write>,
    pub(crate) then: Vec<Then>,
    /// Set when the batch must be fsynced although nothing of this step waits for it.
    pub(crate) sync: bool,
    /// Frames to ourselves: the gateway is a node too.
    pub(crate) loopback: VecDeque<Frame>,
    pub(crate) out: &'a mut Vec<Output>,
    /// Set when [`crate::io::View`] would read differently now.
    pub(crate) view_changed: bool,
}

impl<'a> Effects<'a> {
    /// Nothing yet. `age_ms`: milliseconds that this store has been at work.
    pub(crate) fn new(
        me: PeerId,
        rules: ProtocolRules,
        now: Now,
        age_ms: u64,
        rng: &'a mut dyn Rng,
        out: &'a mut Vec<Output>,
    ) -> Self {
        Self {
            now,
            age_ms,
            rng,
            rules,
            me,
            writes: Vec::new(),
            then: Vec::new(),
            sync: false,
            loopback: VecDeque::new(),
            out,
            view_changed: false,
        }
    }

    pub(crate) fn put<T: Row>(&mut self, at: RowKey<T>, row: &T) {
        self.writes.push(at.put(row));
    }

    pub(crate) fn delete<T>(&mut self, at: RowKey<T>) {
        self.writes.push(at.delete());
    }

    pub(crate) fn then(&mut self, then: Then) {
        self.then.push(then);
    }

    pub(crate) fn send(&mut self, to: PeerId, frame: Frame) {
        if to == self.me {
            self.loopback.push_back(frame);
            return;
        }
        if let Frame::Entries { entries, more: false } = &frame
            && let Some(room) = self.room_for(to, entries)
        {
            room.extend_from_slice(entries);
            return;
        }
        self.out.push(Output::Send(to, frame));
    }

    /// The entries of the frame that goes to this peer last, if these have room there: one fsync often covers many.
    fn room_for(&mut self, to: PeerId, more: &[EntryItem]) -> Option<&mut Vec<EntryItem>> {
        let last = self.out.iter_mut().rev().find_map(|output| {
            if let Output::Send(peer, frame) = output { (*peer == to).then_some(frame) } else { None }
        });
        let Some(Frame::Entries { entries, more: false }) = last else { return None };
        let bytes: usize = entries.iter().chain(more).map(|item| item.entry.len()).sum();
        let fits = entries.len() + more.len() <= JOINED_MAX && bytes <= limits::SYNC_BYTES_MAX;
        fits.then_some(entries)
    }

    pub(crate) fn fact(&mut self, fact: Fact) {
        self.out.push(Output::Fact(fact));
    }

    /// True if this rule holds here, see [`ProtocolRule`].
    pub(crate) const fn enforces(&self, rule: ProtocolRule) -> bool {
        self.rules.enforces(rule)
    }

    /// A random number below `bound`; 0 when `bound` is 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.rng.next_u64() % bound }
    }
}
