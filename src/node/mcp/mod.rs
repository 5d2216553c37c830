//! MCP servers that this device hosts: what is said of them ([`spec`]), and how they are run.

pub mod spec;
