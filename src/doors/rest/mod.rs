//! REST: `/api/v1`, the same on every peer. Each handler parses a request, runs an [operation](crate::doors::ops) and renders
//! what it answers.

mod calls;
mod doctor;
mod events;
mod extract;
mod guard;
mod health;
mod joining;
mod logs;
mod metrics;
mod model;
mod nodes;
mod openapi;
mod payload;
mod problem;
mod routes;
#[cfg(test)]
mod tests;
mod tokens;

pub(super) use metrics::watch;
pub use problem::{PROBLEM_JSON, Problem};
pub use routes::document;
pub(super) use routes::router;
