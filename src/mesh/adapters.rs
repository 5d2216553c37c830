//! The rest of the program as the mesh sees it: links to registered nodes, and runs of tools.

use mesh_core::frame::Frame;
use mesh_core::ids::{Attempt, PeerId, ReqId};
use mesh_core::io::Invocation;

use crate::mesh::transport::ServiceIo;

/// Everything that the mesh needs of the rest of the program. No method of these may wait.
pub struct Adapters {
    /// Node streams, from both sides.
    pub nodes: Box<dyn NodeLinks>,
    /// Tools of this device.
    pub tools: Box<dyn ToolRuns>,
}

/// `NodeService` from both sides: as the gateway that nodes register with, and as a node of the gateway that the view
/// shows.
///
/// Nodes that register and leave, and the answers and dispatches that arrive, come back as
/// [`Input`](mesh_core::io::Input)s.
pub trait NodeLinks: Send {
    /// Sends a frame of class Node: to a registered node when we lead, to our gateway otherwise. False = not sent.
    #[must_use]
    fn send(&self, peer: PeerId, frame: Frame) -> bool;
    /// Sends all registered nodes away, to the new gateway if it is known: we lead no more.
    fn abdicate(&self, moved_to: Option<PeerId>);
    /// Serves a `NodeService` connection that a linked peer opened.
    fn accept(&self, stream: ServiceIo);
    /// Ends the stream of a registered node at once: it does not belong to the mesh any more.
    fn dismiss(&self, peer: PeerId);
    /// Registers now instead of after a pause: a link has come up.
    fn retry_now(&self);
}

/// Runs of this device's tools. Each invocation gets exactly one
/// [`Input::ToolEnded`](mesh_core::io::Input::ToolEnded).
pub trait ToolRuns: Send {
    /// Starts a tool.
    fn invoke(&self, invocation: Invocation);
    /// Stops a tool; it ends as cancelled.
    fn kill(&self, id: ReqId, attempt: Attempt);
}
