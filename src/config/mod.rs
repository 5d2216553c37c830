//! Settings: flags > `SIGIL_*` > `sigil.toml` > defaults.
//!
//! The file is optional. It becomes a validated [`Config`] in one place, [`load`]; past it nothing is checked again.

mod checker;
pub mod class;
mod load;
mod look;
mod policy;
mod position;
mod settings;
mod tailnet;
mod tools;

pub use load::load;
pub use look::{Named, named};
pub use policy::{
    AgentRef, AgentSettings, DeviceSettings, Devices, PersonSettings, PolicyError, PolicySettings, PolicyWarning,
    RuleSettings, Wait, WorkspaceSettings, place_of_key,
};
pub use position::position_in_file;
pub use settings::{
    CALL_TTL_DEFAULT, CALLS_RUNNING_DEFAULT, CALLS_RUNNING_MAX, Calls, Config, ConfigError, Differences, Discovery,
    FILE_NAME, Files, GatewayPreference, HTTP_PORT_DEFAULT, LOG_SIZE_DEFAULT, LOG_SIZES, LanDiscovery, Listen, Log,
    LogFormat, Node, Overrides, QUIC_PORT_DEFAULT, Relay, RelayOffer, Rights, Shell, Stamp, TAILNET_SOCKET_DEFAULT,
    TOOL_TIMEOUT_DEFAULT, TOOL_TIMEOUT_MAX, Tailnet, TailnetMode, Warning,
};
pub use tailnet::{check_control_url, hostname_of, is_hostname};

pub use crate::position::Position;
pub use crate::value;
