//! The home of an agent: the directory in which everything lies that it keeps.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_core::ids::Hash;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::error::{AgentError, at};
use super::ports::Ports;
use crate::doors::TokenStore;
use crate::mesh::blobs::BlobStore;
use crate::mesh::store::{DurableNote, FjallStore, OpenReport};

/// Reports of the store's writer that may wait for the mesh.
const DURABLE_NOTES: usize = 1024;
/// Longest path of a socket. The kernel takes 107 bytes.
const SOCKET_PATH_BYTES_MAX: usize = 100;

/// The addresses of a running agent: `<home>/run/endpoints.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Endpoints {
    /// Process.
    pub pid: u32,
    /// REST over a unix socket.
    pub socket: PathBuf,
    /// REST over loopback.
    pub http: String,
    /// Addresses of the mesh.
    pub quic: Vec<String>,
    /// Identity.
    pub peer_id: String,
}

/// A home, and the files in it.
pub(super) struct Home {
    path: PathBuf,
}

impl Home {
    pub(super) fn create(path: PathBuf) -> Result<Self, AgentError> {
        crate::platform::create_private_dir(&path).map_err(at("making the home", &path))?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Directory for private directories of running tools.
    pub(super) fn work(&self) -> PathBuf {
        self.path.join("work")
    }

    /// Opens the store of large payloads.
    pub(super) fn open_blobs(&self) -> Result<BlobStore, AgentError> {
        let path = self.path.join("blobs");
        BlobStore::open(&path).map_err(at("opening", &path))
    }

    /// Opens the mesh's store. The receiver gets the reports of its writer.
    pub(super) fn open_store(&self) -> Result<(FjallStore, OpenReport, mpsc::Receiver<DurableNote>), AgentError> {
        let (notes, durable) = mpsc::channel(DURABLE_NOTES);
        let (store, report) = FjallStore::open(&self.path.join("store"), notes)?;
        Ok((store, report, durable))
    }

    pub(super) fn open_tokens(&self) -> Result<Arc<TokenStore>, AgentError> {
        let path = self.path.join("tokens");
        Ok(Arc::new(TokenStore::open(path.clone()).map_err(at("reading", &path))?))
    }

    /// The ports of earlier starts; none if there was none, or the file cannot be read.
    pub(super) fn ports(&self) -> Ports {
        std::fs::read(self.ports_file()).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// Keeps the ports for the next start.
    pub(super) fn keep_ports(&self, ports: Ports) -> Result<(), AgentError> {
        let path = self.ports_file();
        std::fs::write(&path, serde_json::to_vec(&ports).unwrap_or_default()).map_err(at("writing", &path))
    }

    /// Path of the REST socket, in a directory that exists. A path that is too long for the kernel moves to the runtime
    /// directory.
    pub(super) fn socket(&self) -> Result<PathBuf, AgentError> {
        let run = self.path.join("run");
        crate::platform::create_private_dir(&run).map_err(at("making", &run))?;
        let usual = run.join("sigil.sock");
        if usual.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
            return Ok(usual);
        }
        let base = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let hash = Hash::of(usual.as_os_str().as_encoded_bytes()).to_string();
        Ok(base.join(format!("sigil-{}.sock", hash.get(..16).unwrap_or_default())))
    }

    /// Tells other processes where this agent can be reached.
    pub(super) fn publish(&self, endpoints: &Endpoints) -> Result<(), AgentError> {
        let path = self.endpoints_file();
        write_atomically(&path, &serde_json::to_vec(endpoints).unwrap_or_default()).map_err(at("writing", &path))
    }

    /// Takes that back.
    pub(super) fn unpublish(&self) {
        let _ = std::fs::remove_file(self.endpoints_file());
    }

    fn endpoints_file(&self) -> PathBuf {
        self.path.join("run").join("endpoints.json")
    }

    fn ports_file(&self) -> PathBuf {
        self.path.join("ports.json")
    }
}

fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let part = path.with_extension("part");
    std::fs::write(&part, bytes)?;
    std::fs::rename(&part, path)
}
