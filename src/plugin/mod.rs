//! Plugins: what runs tools, in one type whoever wrote it down.
//!
//! A `plugin.yaml`, and `[tools.NAME]` and `[mcp_servers.NAME]` of `sigil.toml`, become a [`Plugin`]; past that nothing is
//! checked again. All of it is pure: nothing here opens a file, starts a program, or knows the mesh beyond its names.

mod address;
mod check;
mod command;
mod container;
mod egress;
mod image;
mod import;
mod limits;
mod names;
mod raw;
mod schema;
mod types;
mod yaml;

pub use address::{Place, place};
pub use check::{Invalid, Source, server};
pub use command::CommandTool;
pub use container::{ContainerConfig, NotAContainer};
pub use egress::{Egress, EgressHost, InvalidEgress, plain_host_name};
pub use image::{Image, InvalidImage, validate_image};
pub use import::{Import, ImportError, Imported, import};
pub use limits::{InvalidLimit, MemoryLimit, parse_memory_limit};
pub use names::{InvalidName, PluginName, SecretName};
pub use raw::{RawServer, RawValue, SERVER_KEYS};
pub use schema::schema;
pub use types::{
    Cancel, Capability, Consent, Container, Execution, Instance, Level, Mcp, NetworkMode, Plugin, Process, Program,
    Protocol, Pull, Remote, Runs, Tier, ToolEntry, ToolOutput, UnknownNetworkMode, User, Value,
};
pub use yaml::{FILE_NAME, MANIFEST_BYTES_MAX, ManifestError, Read, read};
