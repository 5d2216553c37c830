//! Memory of a workspace, without clock, disk, socket, task, entropy or model.
//!
//! Messages and all that is made of them are **items**; items travel in signed **groups**, one chain per author and incarnation
//! of a store ([`group`]). Which of them count is a pure function of the set of items ([`resolve`]), so stores that hold
//! equal sets agree, in whatever order they were filled. Compaction ([`compaction`]) takes batches of messages and adds
//! items that point at them; it never removes a message. What counts is indexed ([`index`]) and ranked ([`rank`]).
//!
//! Times of messages are milliseconds since 1970 as their caller gave them, with the offset of its zone; all other order
//! comes from hybrid clocks ([`group::Hlc`]).

#![expect(clippy::cast_precision_loss, reason = "counts of words and messages are far below 2^52")]

pub mod compaction;
pub mod facts;
pub mod forget;
pub mod group;
pub mod holes;
pub mod ids;
pub mod index;
pub mod item;
pub mod limits;
pub mod rank;
pub mod relation;
pub mod replica;
pub mod resolve;
pub mod select;
pub mod text;
pub mod verify;
pub mod writing;

mod codec;
