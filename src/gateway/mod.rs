//! The elected role, and the doors that people use.

pub mod node_service;
pub mod rest;
pub mod status;
