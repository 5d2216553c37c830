//! Black-box tests: the built binary, real processes, real sockets, a home each.
//!
//! A test's name says what it checks: `a3_…` is point 3 of the acceptance list, `seed_n1_…` is row SEED-N1 of the
//! contract. A test that needs more than a plain user has (network namespaces) says why it was skipped, and fails
//! instead when `SIGIL_TEST_REQUIRE=all`.

#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod client_keys;
#[cfg(test)]
mod command_line;
#[cfg(test)]
mod damaged_store;
#[cfg(test)]
mod doors;
#[cfg(test)]
#[cfg(feature = "fault-points")]
mod faults;
#[cfg(test)]
mod freezing;
#[cfg(test)]
mod gateway_loss;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod hostile_peer;
#[cfg(test)]
mod joining;
#[cfg(test)]
mod nearby;
#[cfg(test)]
mod netns;
#[cfg(test)]
mod offline_queue;
#[cfg(test)]
mod partition;
#[cfg(test)]
mod seed_nodes;
#[cfg(test)]
mod seed_rest;
#[cfg(test)]
mod tool_exec;
#[cfg(test)]
#[cfg(feature = "fault-points")]
mod wrong_clock;
