//! Links between peers: QUIC connections that prove the keys of both ends, what travels on them, and who is near.
//!
//! `quinn` owns every connection and every byte; an `underlay` carries its packets. [`links`] is the name,
//! `link_table` decides who is dialled and which connection stays, `session` runs one link, [`wire`] turns frames
//! into bytes and back, [`tls`] proves keys, [`lan`] only finds addresses and is never trusted, `strangers` says how
//! much of us those may use who have proven nothing. `relay` asks for relays and is one; `mux` passes their packets on,
//! and `relay_socket` is what carries a link that goes by them.

mod accept;
mod address;
mod blob;
mod dial;
mod dial_plan;
pub mod embedded;
mod embedded_door;
mod event;
mod greetings;
mod interfaces;
mod join;
mod join_messages;
pub mod lan;
mod link;
mod link_table;
pub mod links;
mod members;
mod mux;
mod networks;
mod news;
mod packet_socket;
mod quic;
mod relay;
mod relay_inbox;
mod relay_socket;
mod relay_state;
mod session;
mod shared;
pub(crate) mod shares;
mod strangers;
mod stream;
pub mod tailnet;
mod tailnet_door;
#[cfg(test)]
mod tests;
pub mod tls;
mod underlay;
mod underlays;
pub mod wire;

pub use address::{Address, HostPort, InvalidAddress, InvalidHostPort, Prefix};
pub use blob::{BlobReaders, FetchError};
pub use event::{LinkEvent, Turn};
pub use join_messages::{JoinAnswer, JoinAttempt, JoinConversation, JoinDialError, JoinRequest, RefusalCode};
pub use link::LinkInfo;
pub use links::{Links, LinksConfig, LinksError, OpenError};
pub use members::{Member, Members};
pub use mux::Relayed;
pub use quic::Code;
pub use relay_state::RelayConfig;
pub use stream::{ServiceId, ServiceIo, ServicePeer, UnknownService};
pub use underlay::UnderlayKind;
