//! The elected role, and the doors that people use.

pub mod rest;
pub mod status;
