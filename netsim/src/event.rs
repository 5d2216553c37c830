//! The events of a run.

use mesh_core::frame::Frame;
use mesh_core::ids::{Attempt, ReqId};
use mesh_core::io::{Input, SessionId, TxnId};
use mesh_core::record::Ending;

/// Something that happens at a moment.
pub(crate) enum Event {
    Wake {
        peer: usize,
        boot: u64,
        at: u64,
    },
    Synced {
        peer: usize,
        boot: u64,
        txn: TxnId,
    },
    Input {
        peer: usize,
        boot: u64,
        input: Box<Input>,
    },
    ToolDone {
        peer: usize,
        boot: u64,
        id: ReqId,
        attempt: Attempt,
        ending: Ending,
    },
    Deliver {
        key: (usize, usize),
        end: usize,
        conn: u64,
        frame: Box<Frame>,
    },
    Detect {
        key: (usize, usize),
        conn: u64,
        end: usize,
    },
    /// Nothing has come by the relay of a connection for a while.
    Doubt {
        key: (usize, usize),
        conn: u64,
    },
    LinkUp {
        key: (usize, usize),
        conn: u64,
        end: usize,
    },
    Dial((usize, usize)),
    Register(usize),
    Goodbye {
        gateway: usize,
        node: usize,
        id: SessionId,
    },
    Moved {
        node: usize,
        id: SessionId,
    },
    CloseUntrusted {
        peer: usize,
        boot: u64,
    },
    Crash {
        peer: usize,
        boot: u64,
        down_us: u64,
    },
    Exit {
        peer: usize,
        boot: u64,
        down_us: u64,
    },
    Boot(usize),
    /// The network tells a machine what time it is.
    ClockFound {
        peer: usize,
        by_ms: i64,
    },
    Thaw {
        peer: usize,
        boot: u64,
    },
    Join(usize),
    Fault(usize),
    Ask(usize),
    Cancel {
        peer: usize,
        id: ReqId,
    },
    Phase(Phase),
    Look,
}

/// A part of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Everyone who is there from the start joins.
    Setup,
    /// Things go wrong.
    Faults,
    /// Nothing more goes wrong, the topology stays.
    Quiet,
    /// Everything is whole again.
    Healed,
    /// One link is cut.
    LinkCut,
    /// Over.
    End,
}
