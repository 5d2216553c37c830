//! The mesh as one state machine: who belongs, who leads, what all of us know, and what becomes of a call.
//!
//! Nothing in this crate has a clock, a socket, a disk, a task or entropy: time and randomness are handed in, effects come
//! out as values ([`io::Output`]). The product (`src/mesh/driver.rs`) and the simulator (`netsim/`) drive the same code.

pub mod answer_words;
pub mod audience;
pub mod audit;
pub mod audit_record;
pub mod budget;
pub mod config;
pub mod crypto;
pub mod entry;
pub mod epoch;
pub mod frame;
pub mod ids;
pub mod io;
pub mod limits;
pub mod names;
pub mod parts;
pub mod peer;
mod people;
pub mod policy;
pub mod protocol_rule;
pub mod record;
pub mod relay;
pub mod rows;
pub mod rule_words;
mod spending;
pub mod standing;
pub mod tailnet;
#[cfg(any(test, feature = "test-kit"))]
pub mod test_kit;

mod age;
mod calls;
mod compaction;
mod durability;
mod effects;
mod election;
mod executor;
mod facts;
mod glob;
mod incarnations;
mod invites;
mod links;
mod log;
mod membership;
mod nodes;
pub mod rates;
mod reapproval;
mod reattestation;
mod rights;
pub mod rooms;
mod stays;
mod tiers;
mod trust;
mod via;
