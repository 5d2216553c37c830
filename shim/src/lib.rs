//! The helper between the agent and a tool, and what the two tell each other.
//!
//! The agent starts the helper once for each run of a tool and hands it a [`Go`](wire::Go) with the three streams of the
//! tool over a socket. The helper sets the [`Level`](wire::Level) that is asked for, wholly or not at all, and becomes the
//! tool; at the level `isolated` it stays as the first process of the tool's own world, reaps what the tool leaves, and tells
//! how the tool ended. What it says goes over the socket, never over the streams of the tool.
//!
//! Without the feature `levels` this is what the agent needs of it, and the level `bare` for systems that have no other.

pub mod process;
pub mod remove;
pub mod start;
pub mod wire;

#[cfg(all(feature = "levels", target_os = "linux"))]
pub mod attack;
#[cfg(all(feature = "levels", target_os = "linux"))]
mod confine;
#[cfg(all(feature = "levels", target_os = "linux"))]
pub mod container;
#[cfg(all(feature = "levels", target_os = "linux"))]
mod filter;
#[cfg(all(feature = "levels", target_os = "linux"))]
pub mod isolate;
#[cfg(all(feature = "levels", target_os = "linux"))]
mod own_net;
#[cfg(all(feature = "levels", target_os = "linux"))]
mod view;
