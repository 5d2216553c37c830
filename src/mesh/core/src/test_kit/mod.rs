//! Peers in memory, for tests, models and benches: a disk that forgets what was not synced ([`MemDisk`]), a core on
//! such a disk ([`Machine`]), one device with a clock ([`Desk`]), and several with links ([`Net`]).
//!
//! Compiled with the feature `test-kit` only; the product has none of it.
#![expect(
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop at what it did not expect"
)]

mod author;
mod desk;
mod disk;
mod machine;
mod mutation;
mod net;
pub mod slow;

pub use author::{Author, pushed};
pub use desk::Desk;
pub use disk::{MemDisk, Snapshot};
pub use machine::Machine;
pub use mutation::{Mutation, fuzz};
pub use net::{Device, Net, id, key};

use bytes::Bytes;

use crate::ids::{Incarnation, PeerId, ReqId};
use crate::io::{NewCall, Now, ToolOutcome};
use crate::record::{Directory, Effect, Ending, Fitness, Header, Outcome, Payload, Source, ToolDecl, TruncatedRun};

/// Wall time at which the clocks of tests begin.
const WALL_MS: u64 = 1_750_000_000_000;

/// Clocks that show `ms` since the beginning.
pub const fn at(ms: u64) -> Now {
    Now { mono_ms: ms, wall_ms: WALL_MS + ms }
}

/// A tool that anyone may call.
pub fn tool(name: &str, effect: Effect) -> ToolDecl {
    ToolDecl {
        name: name.parse().unwrap(),
        effect,
        description: String::new(),
        owner_only: false,
        at_once: None,
        card: None,
        state: Fitness::READY,
    }
}

/// The directory record of a desktop that offers these tools and may lead.
pub fn offers(tools: Vec<ToolDecl>) -> Directory {
    Directory { eligible: true, class: 3, tools, ..Directory::default() }
}

/// A call with an empty JSON object as arguments, one minute to live and one second to run.
pub fn call(node: &(impl ToString + ?Sized), tool: &str) -> NewCall {
    NewCall {
        node: node.to_string(),
        tool: tool.parse().unwrap(),
        arguments: Payload::Inline(Bytes::from_static(b"{}")),
        ttl_ms: 60_000,
        timeout_ms: 1_000,
        effect: None,
        principal: None,
        credential: None,
        workspace: None,
        client_key: None,
    }
}

/// The header of a call that `origin` signs, to be run once by `target`.
pub fn header(origin: &PeerId, counter: u64, target: PeerId, tool: &str) -> Header {
    Header {
        id: ReqId::new(origin, Incarnation(1), counter),
        target,
        node_id: "attic".parse().unwrap(),
        tool: tool.parse().unwrap(),
        arguments: Payload::empty(),
        effect: Effect::Once,
        ttl_ms: 60_000,
        accepted_ms: WALL_MS,
        timeout_ms: 60_000,
        principal: "device:attic".parse().unwrap(),
        token: None,
        workspace: None,
        rule: String::new(),
        mark: Vec::new(),
        client_key: None,
        target_incarnation: None,
    }
}

/// The first attempt's outcome, as its target would say it.
pub fn outcome(id: ReqId, ending: Ending) -> Outcome {
    Outcome {
        id,
        attempt: 1,
        ending,
        reason: String::new(),
        output: Payload::empty(),
        parts: Vec::new(),
        partial: false,
        error: String::new(),
        at_ms: 0,
        started_ms: 0,
        alias_of: None,
        source: Source::Target,
    }
}

/// The end of a tool that did its work.
pub fn done() -> ToolOutcome {
    let output = Payload::Inline(Bytes::from_static(b"1"));
    ToolOutcome {
        ending: Ending::Done,
        reason: String::new(),
        output,
        parts: Vec::new(),
        partial: false,
        error: String::new(),
    }
}

/// The runs that these dead entries, which come in order, amount to.
pub fn runs_of(dead: impl IntoIterator<Item = TruncatedRun>) -> Vec<TruncatedRun> {
    crate::log::with_runs(&[], dead)
}
