//! sigil turns the devices of a family or a homelab into one private mesh. `ARCHITECTURE.md` is the map.

pub mod agent;
pub mod backup;
pub mod cli;
pub mod config;
pub mod doors;
pub mod faults;
pub mod http_client;
pub mod json;
pub mod memory;
pub mod mesh;
pub mod model_fetch;
pub mod node;
pub mod node_service;
pub mod ownership;
pub mod pb;
pub mod platform;
pub mod plugin;
pub mod position;
pub mod runtime;
pub mod secrets;
pub mod sse;
pub mod status;
pub mod store;
pub mod tasks;
pub mod text;
pub mod value;
