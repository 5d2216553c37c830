//! Plugins that are a gRPC server in a container of their own ([`served`]), by `proto/sigil/v1/tool.proto`.
//!
//! `tools` is pure: what a server describes, as this device offers it. `connection` is the one connection to it; `live` is the server that
//! answers now; `run` is one call.
//! Whatever a server sends is bounded: messages, events in a second, headers, parts, output, time.

mod connection;
mod live;
mod run;
pub mod served;
mod tools;
