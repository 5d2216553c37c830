//! The MCP door: the whole mesh as one server of the Model Context Protocol, at `/mcp` of the same listeners and behind the same
//! guard as REST, over the same [operations](crate::doors::ops). `sigil mcp` brings it to clients that speak over pipes.
//!
//! Both eras of the protocol are spoken without a book of sessions: whatever a client needs to come back to is a call of the mesh.

mod calls;
mod clients;
mod desk;
mod hang_ups;
mod http;
mod list;
mod memory;
mod meta;
mod names;
mod own;
mod resources;
mod result;
mod standing;
mod subscribe;
mod tasks;
mod wire;

pub(crate) use clients::{Client, PINNED_MAX, Profile, Terms};
pub(in crate::doors) use desk::Desk;
pub(in crate::doors) use hang_ups::watch;
pub(in crate::doors) use http::routes;
pub(crate) use http::{KEEP_HEADER, PATH, PROFILE_HEADER};
pub(crate) use wire::{SESSION_HEADER, headers_of};
