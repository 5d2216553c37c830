//! Links between peers.

pub mod lan;
pub mod quic;
pub mod tls;
pub mod wire;
