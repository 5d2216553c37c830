//! The doors that people and their programs use, the same on every peer, gateway or not: listeners, authentication,
//! operations, and the groups of routes that offer them.
//!
//! Everything here is a client of [`MeshHandle`](crate::mesh::MeshHandle); it decides nothing but who may ask, and how
//! the answer is put.

pub mod app;
pub(crate) mod auth;
pub mod identity;
pub mod listen;
pub mod log_ring;
#[cfg(feature = "mcp")]
pub(crate) mod mcp;
pub mod ops;
pub mod other_end;
#[cfg(feature = "ui")]
mod page;
mod questions;
pub mod rest;
mod seats;
mod serve;
pub mod sessions;
pub mod settings;
mod tailnet;
pub mod tokens;

pub use app::Context;
pub use identity::Identity;
pub use listen::{Bound, ListenError};
pub use log_ring::LogRing;
pub use ops::pulls::Pulls;
pub use serve::serve;
pub use sessions::Sessions;
pub use settings::Settings;
pub use tailnet::DoorState;
pub use tokens::Tokens;
