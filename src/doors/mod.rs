//! The doors that people and their programs use, the same on every peer.

pub mod rest;
