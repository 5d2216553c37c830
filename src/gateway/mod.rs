//! The elected role.

pub mod node_service;
