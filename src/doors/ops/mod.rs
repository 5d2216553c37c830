//! Operations: what can be asked of an agent, as plain async functions over [`MeshHandle`](crate::mesh::MeshHandle).
//!
//! They answer values of the mesh's own types, or a typed [`OpError`](crate::status::OpError). Each group of routes renders
//! them in its own form; nothing here knows HTTP.

pub mod approvals;
pub mod audit;
pub mod calls;
pub mod devices;
pub mod doctor;
pub mod hours;
pub mod joining;
pub mod logins;
pub mod memory;
pub mod models;
pub mod policy;
pub mod providers;
pub mod pulls;
pub mod sessions;
pub mod tokens;
pub mod tools;
