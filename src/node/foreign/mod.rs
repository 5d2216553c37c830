//! Foreign nodes: programs of somebody else, on this machine or another, that offer tools by `proto/sigil/v1/node.proto` alone. This
//! device hosts them ([decision 0142](../../../docs/decisions/0142-foreign-nodes-at-their-host.md)): their calls are its calls, with
//! its journal, so that each runs at most once, and one that is cut off ends as interrupted.
//!
//! `records` are those that were let in, and the certificate; `door` is where they come in; `node` is one of them as a provider.
//! Whatever a foreign node sends is bounded: connections, the time before it is known who it is, messages in a second and their
//! size, names, tools, results.

pub mod door;
pub mod node;
pub mod records;
