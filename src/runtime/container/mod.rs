//! Containers: programs that run in an image of their own, where this device has an engine for that.
//!
//! The first process of each container is the [helper](super::helper), which is there before any program of the image and
//! starts a command for each order over a socket of its own. Streams, exit codes and secrets never pass the engine: it makes
//! containers and removes them, and that is all. When the agent dies, the socket closes, and the container ends without anybody's
//! help.

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::plugin::Image;

pub mod engine;
pub mod pool;
pub mod run;

mod create;
mod facts;
mod instance;

pub use facts::{EngineFacts, EngineState, ImageFacts, Order, RuntimeError};
pub use instance::{Command, Dialer, Exec, Instance};
pub(super) use instance::{Ends, Stop, Told};

/// What starts and stops containers: an engine, or what a test puts in its place.
pub trait Runtime: Send + Sync {
    /// State of the engine, and each change of it.
    fn state(&self) -> watch::Receiver<EngineState>;

    /// What is known of an image that is on this device; `None`: it is not.
    fn image<'a>(&'a self, image: &'a Image) -> BoxFuture<'a, Result<Option<ImageFacts>, RuntimeError>>;

    /// Fetches an image. `step` is told how far it is, for people. Dropped, it is given up.
    fn pull<'a>(
        &'a self,
        image: &'a Image,
        step: &'a mut (dyn FnMut(String) + Send),
    ) -> BoxFuture<'a, Result<(), RuntimeError>>;

    /// Starts a container, which takes commands when this returns.
    fn start<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Result<Instance, RuntimeError>>;

    /// Runs a command in a container.
    fn exec<'a>(&'a self, instance: &'a Instance, command: Command) -> BoxFuture<'a, Result<Exec, RuntimeError>> {
        Box::pin(instance.exec(command))
    }

    /// Ends a container with all that runs in it, and removes it.
    fn stop(&self, instance: Instance) -> BoxFuture<'_, ()>;
}
