//! The start of a mesh: takes up what the store holds, and puts the parts of the driver together.

use std::collections::VecDeque;
use std::sync::Arc;

use mesh_core::config::Config;
use mesh_core::ids::NodeId;
use mesh_core::io::{Input, Output, Space, View};
use mesh_core::peer::Peer;
use mesh_core::policy::ToolPattern;
use mesh_core::record::{Directory, ToolDecl};
use mesh_core::tailnet::TagRule;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::mesh::adapters::Adapters;
use crate::mesh::admission::{Admission, Conversations};
use crate::mesh::blob_fetch::BlobFetch;
use crate::mesh::blob_readers::CallReaders;
use crate::mesh::blobs::BlobStore;
use crate::mesh::call_queries::CallQueries;
use crate::mesh::clock;
use crate::mesh::disk_room::DiskRoom;
use crate::mesh::driver::{Driver, Inbox};
use crate::mesh::error::FatalError;
use crate::mesh::fault_points::FaultPoints;
use crate::mesh::handle::MeshHandle;
use crate::mesh::identity::DeviceKey;
use crate::mesh::machine::{self, Machine};
use crate::mesh::node_sessions::NodeSessions;
use crate::mesh::publisher::Publisher;
use crate::mesh::reach::Reach;
use crate::mesh::replies::Replies;
use crate::mesh::store::{DurableNote, Store};
use crate::mesh::transport::lan::LanEvent;
use crate::mesh::transport::{LinkEvent, Links};
use crate::mesh::turns::Turns;
use crate::tasks::TaskGroup;

/// Inputs of nodes and tools, and requests of doors, that may wait for the driver; then their senders wait.
const INBOX: usize = 1024;
/// Steps of our conversations that may wait for the driver; then the conversations wait.
const STEPS: usize = 64;

/// Parts that a mesh is put together from.
#[derive(Debug)]
pub struct Parts {
    /// The device key.
    pub key: DeviceKey,
    /// Slice of the settings for the core.
    pub config: Config,
    /// The store, open.
    pub store: Arc<dyn Store>,
    /// Reports of its writer.
    pub durable: mpsc::Receiver<DurableNote>,
    /// Links, open.
    pub links: Links,
    /// Events on them.
    pub link_events: mpsc::Receiver<LinkEvent>,
    /// Strangers on the LAN.
    pub lan_events: mpsc::Receiver<LanEvent>,
    /// Large payloads.
    pub blobs: BlobStore,
    /// Room on the disk.
    pub disk: DiskRoom,
    /// Name to found a mesh with, and to ask for in another.
    pub name: NodeId,
    /// Tools that this device offers.
    pub tools: Vec<ToolDecl>,
    /// Tools that it forbids itself.
    pub deny: Vec<ToolPattern>,
    /// Tag of the tailnet that lets devices in.
    pub tag_rule: Option<TagRule>,
    /// Owner of all tasks.
    pub tasks: TaskGroup,
}

/// Takes up the mesh that the store holds, or founds one. Reads the whole store: blocks.
///
/// # Errors
/// The store does not work, or holds no mesh that can be taken up.
pub fn boot(parts: Parts) -> Result<Booted, FatalError> {
    let mut rng = machine::entropy();
    let mut image = parts.store.image()?;
    if !image.rows.iter().any(|(space, ..)| *space == Space::Trust) {
        parts.store.wipe_and_commit(machine::founded(&parts.key, &parts.name, &mut rng))?;
        image = parts.store.image()?;
    }
    let Parts {
        key,
        config,
        store,
        durable,
        links,
        link_events,
        lan_events,
        blobs,
        disk,
        name,
        tools,
        deny,
        tag_rule,
        tasks,
    } = parts;
    blobs.watch_disk(disk.gauge());
    let own_record = Directory {
        addresses: Vec::new(),
        platform: crate::platform::name().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        class: config.class.0,
        eligible: config.eligible,
        tools,
        services: links.services().iter().map(|service| service.0).collect(),
        name: None,
        deny,
    };
    let (machine, out) = Machine::boot(key, config, name.clone(), disk, image, rng)?;
    let me = machine.peer.public_key().peer_id();
    // The name that this device gave itself in this mesh.
    let view = machine.peer.view();
    let said = view.by_peer(&me).and_then(|own| own.directory.as_ref()?.name.clone());
    let own_record = Directory { name: said, ..own_record };
    let publisher = Publisher::new(machine.peer.view());
    links.serve_blobs(Arc::new(CallReaders::new(store.clone(), publisher.watch_view())));
    let (requests_tx, requests) = mpsc::channel(INBOX);
    let (inputs_tx, inputs) = mpsc::channel(INBOX);
    let (steps_tx, steps) = mpsc::channel(STEPS);
    let handle = MeshHandle {
        requests: requests_tx,
        view: publisher.watch_view(),
        surroundings: publisher.watch_surroundings(),
        events: publisher.events(),
        blobs: blobs.clone(),
    };
    let to_core = inputs_tx.clone();
    let mut admission = Admission::new(name);
    admission.set_tag_rule(tag_rule);
    let driver = move |adapters| Driver {
        machine,
        adapters,
        inbox: Inbox {
            own: VecDeque::new(),
            durable,
            inputs,
            links: link_events,
            guests: Turns::new(),
            steps,
            requests,
            lan: lan_events,
        },
        publisher,
        reach: Reach::new(own_record),
        admission,
        conversations: Conversations::new(links.clone(), tasks.clone(), steps_tx),
        replies: Replies::default(),
        queries: CallQueries::new(store.clone(), tasks.clone()),
        blobs: BlobFetch::new(me, blobs, links.clone(), to_core, tasks),
        sessions: NodeSessions::default(),
        faults: FaultPoints::default(),
        store,
        links,
    };
    Ok(Booted { handle, inputs: inputs_tx, driver: Box::new(driver), out })
}

/// Takes up, in memory only, the mesh that a store holds: what a start would find. Reads the whole store: blocks.
///
/// # Errors
/// The store does not work, or holds no mesh that can be taken up.
pub fn judge(store: &dyn Store, key: DeviceKey) -> Result<View, FatalError> {
    let (image, mut rng) = (store.image()?, machine::entropy());
    let peer = Peer::boot(Config::default(), Box::new(key), image, clock::now(), &mut rng, &mut Vec::new())?;
    Ok(peer.view())
}

/// A mesh that is taken up and does nothing yet: adapters that need its handle or its inputs are built now.
pub struct Booted {
    /// The face of the mesh. Its requests wait for [`run`](Self::run).
    pub handle: MeshHandle,
    inputs: mpsc::Sender<Input>,
    driver: Box<dyn FnOnce(Adapters) -> Driver + Send>,
    /// Outputs of the boot.
    out: Vec<Output>,
}

impl Booted {
    /// Returns a way into the core for nodes and tools. It holds 1024 inputs; senders wait while it is full.
    #[must_use]
    pub fn inputs(&self) -> mpsc::Sender<Input> {
        self.inputs.clone()
    }

    /// Runs until `stop`, then hands the gateway role on.
    ///
    /// # Errors
    /// The store has failed: the process must end.
    pub async fn run(self, adapters: Adapters, stop: CancellationToken) -> Result<(), FatalError> {
        let Self { handle: _, inputs: _, driver, out } = self;
        // Once in the life of a process, and some kilobytes large.
        Box::pin(driver(adapters).run(out, stop)).await
    }
}
