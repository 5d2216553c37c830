//! Black-box tests: the built binary, real processes, real sockets, a home each.
//!
//! A test's name says what it checks. What stands before (`a3_`, `seed_n1_`, `s01_`) only groups tests of one subject, so
//! that `cargo test -- a3_` runs them together; it never changes. A test that needs more than a plain user has (network
//! namespaces) says why it was skipped, and fails instead when `SIGIL_TEST_REQUIRE=all`.
#![cfg(test)]

mod asking;
mod attacks;
mod audience;
mod audit;
mod backup;
mod bad_input;
mod bytes;
mod client_keys;
mod command_line;
#[cfg(target_os = "linux")]
mod containers;
mod damaged_store;
#[cfg(target_os = "linux")]
mod desktop;
mod doors;
#[cfg(target_os = "linux")]
mod egress;
mod explain_call;
#[cfg(feature = "fault-points")]
mod faults;
mod field_lessons;
mod foreign_node;
mod freezing;
mod gateway_loss;
#[cfg(target_os = "linux")]
mod grpc_tool;
mod harness;
mod homes;
mod hostile_peer;
mod hot_reload;
mod joining;
mod kept_bytes;
mod mcp;
mod mcp_door;
#[cfg(feature = "fault-points")]
mod meaning;
mod memory;
#[cfg(feature = "fault-points")]
mod model_pull;
mod nearby;
mod netns;
mod offline_queue;
mod partition;
mod pending_tools;
mod plugins;
mod policy_cases;
mod rates;
mod rights;
mod rows;
#[cfg(target_os = "linux")]
mod sandbox;
mod seed_nodes;
mod seed_rest;
mod seed_workspaces;
mod standing;
mod stays;
mod strangers;
mod tailnet;
mod tailnet_embedded;
mod tool_exec;
mod whom_we_join;
#[cfg(feature = "fault-points")]
mod words;
#[cfg(feature = "fault-points")]
mod wrong_clock;
