//! `NodeService`, the gRPC contract between a node and its gateway, from both sides: `proto/sigil/v1/node.proto`.

pub mod client;
pub(crate) mod convert;
pub mod server;
pub(crate) mod stream;
