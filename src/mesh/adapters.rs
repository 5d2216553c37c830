//! The rest of the program as the mesh sees it: links to registered nodes, and runs of tools.

use mesh_core::frame::{Answer, Dispatch};
use mesh_core::ids::{Attempt, PeerId, ReqId};
use mesh_core::io::Invocation;
use tokio::sync::mpsc;

use crate::mesh::transport::ServiceIo;

/// Everything that the mesh needs of the rest of the program. No method of these may wait.
pub struct Adapters {
    /// Streams of nodes that are registered here.
    pub nodes: Box<dyn NodeLinks>,
    /// Stream of this node to the gateway.
    pub gateway: Box<dyn GatewayLink>,
    /// Takes the `NodeService` connections that linked peers open. Full = closed: the node tries again.
    pub node_streams: mpsc::Sender<ServiceIo>,
    /// Takes the streams of memory that other holders open. Full = closed: they try again.
    pub memory_streams: mpsc::Sender<ServiceIo>,
    /// Tools of this device.
    pub tools: Box<dyn ToolRuns>,
}

/// `NodeService` from the gateway's side. Nodes that register and leave, and their answers, come back as
/// [`Input`](mesh_core::io::Input)s.
pub trait NodeLinks: Send {
    /// Sends a call to a node. False when it has no stream, or cannot keep up; its stream is ended then, and it registers
    /// anew.
    #[must_use]
    fn dispatch(&self, node: PeerId, dispatch: &Dispatch) -> bool;
    /// Asks a node to stop a call. False as for [`Self::dispatch`].
    #[must_use]
    fn cancel(&self, node: PeerId, id: ReqId) -> bool;
    /// Sends all registered nodes away, to the new gateway if it is known: we lead no more.
    fn abdicate(&self, moved_to: Option<PeerId>);
    /// Ends the stream of a registered node at once: it does not belong to the mesh any more.
    fn dismiss(&self, node: PeerId);
}

/// `NodeService` from the node's side: a registration with the gateway that the view shows. Dispatches and cancels come
/// back as [`Input`](mesh_core::io::Input)s.
pub trait GatewayLink: Send {
    /// Sends an answer. False when we are not registered with that gateway, or it cannot keep up; the stream is ended
    /// then, and a new one registered.
    #[must_use]
    fn answer(&self, gateway: PeerId, answer: Answer) -> bool;
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
