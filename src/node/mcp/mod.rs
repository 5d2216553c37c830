//! MCP servers that this device hosts: what is said of them ([`spec`]), and how they are run ([`hosted`]).
//!
//! `wire`, `result` and `tools` are pure: messages, answers as parts, lists of tools and what of them is in review. `session` is a
//! conversation over two streams; `remote` carries one over HTTP; `hosted` keeps the process that it is with.

#[cfg(test)]
mod fuzz;
pub mod hosted;
mod remote;
mod result;
mod session;
pub mod spec;
pub(in crate::node) mod tools;
pub(in crate::node) mod wire;
