//! Links between peers: QUIC connections that prove the keys of both ends, what travels on them, and who is near.
//!
//! `quinn` owns every connection and every byte. [`links`] keeps one link to each approved peer that can be reached,
//! [`wire`] turns frames into bytes and back, [`tls`] proves keys, [`lan`] only finds addresses and is never trusted.

mod accept;
mod blob;
mod dial;
mod join;
pub mod lan;
mod link;
pub mod links;
mod quic;
mod stream;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod wire;

pub use join::{JoinAnswer, JoinAttempt, JoinConversation, JoinDialError, JoinRequest, JoinStep};
pub use links::{FetchError, LinkEvent, Links, LinksConfig, LinksError, Member, Members};
pub use quic::Code;
pub use stream::{NodeIo, NodePeer};
