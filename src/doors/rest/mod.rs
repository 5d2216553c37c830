//! REST: `/api/v1`, the same on every peer. Each handler parses a request, runs an [operation](crate::doors::ops) and renders
//! what it answers.

mod approvals;
mod audit;
mod backup;
pub mod calls;
mod conflicts;
pub mod doctor;
mod dry_run;
mod embedding;
mod events;
mod explain;
pub mod extract;
mod guard;
mod health;
mod hours;
mod joining;
pub mod logs;
#[cfg(feature = "mcp")]
mod mcp_clients;
mod memory;
pub mod metrics;
pub mod model;
mod models;
mod nodes;
#[cfg(test)]
mod openapi;
mod parts;
mod payload;
mod pending;
pub mod problem;
mod providers;
mod queries;
mod results;
mod rights;
mod routes;
mod sessions;
mod shapes;
mod stay;
#[cfg(test)]
mod tests;
mod tokens;
mod tools;
mod vacuum;

pub(crate) use guard::HOME_HEADER;
pub(super) use metrics::watch;
pub use problem::PROBLEM_JSON;
#[cfg(test)]
pub(crate) use routes::document;
pub(super) use routes::router;
