//! The home of an agent: the directory in which everything lies that it keeps.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use mesh_core::ids::{Hash, NodeId};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::error::{AgentError, at};
use super::ports::Ports;
use crate::mesh::blobs::BlobStore;
use crate::mesh::store::{DurableNote, FjallStore, OpenReport};
use crate::platform::{self, FileId};

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
    /// The home, as its agent was started on it.
    pub home: PathBuf,
    /// Its identity on this machine: in a copy of the home, it is not that of the copy.
    pub home_id: FileId,
}

/// A home, and the files in it.
#[derive(Clone)]
pub(super) struct Home {
    path: PathBuf,
    id: FileId,
}

impl Home {
    /// Takes a home that is ours alone, or makes one.
    pub(super) fn create(path: PathBuf) -> Result<Self, AgentError> {
        crate::ownership::check(&path)?;
        if path.join(crate::backup::UNFINISHED).exists() {
            return Err(AgentError::HalfRestored(path));
        }
        platform::create_private_dir(&path).map_err(at("making the home", &path))?;
        let id = FileId::of(&path).map_err(at("looking at the home", &path))?;
        Ok(Self { path, id })
    }

    /// Identity of the directory.
    pub(super) fn id(&self) -> FileId {
        self.id
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

    /// Directory of the memory of workspaces.
    pub(super) fn memory(&self) -> PathBuf {
        self.path.join("memory")
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

    /// The name that this device was given or took at its last start.
    pub(super) fn name(&self) -> Option<NodeId> {
        std::fs::read_to_string(self.name_file()).ok().and_then(|text| text.trim().parse().ok())
    }

    /// Keeps the name for the next start.
    pub(super) fn keep_name(&self, name: &NodeId) -> Result<(), AgentError> {
        if self.name().as_ref() == Some(name) {
            return Ok(());
        }
        let path = self.name_file();
        platform::replace_file(&path, format!("{name}\n").as_bytes()).map_err(at("writing", &path))
    }

    /// Path of the REST socket, in a directory that exists and that only we may enter. A path that is too long for the
    /// kernel moves to the runtime directory, or to one of ours in the directory for temporary files.
    pub(super) fn socket(&self) -> Result<PathBuf, AgentError> {
        let run = self.path.join("run");
        platform::create_private_dir(&run).map_err(at("making", &run))?;
        let usual = run.join("sigil.sock");
        if usual.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
            return Ok(usual);
        }
        let hash = Hash::of(usual.as_os_str().as_encoded_bytes()).to_string();
        let name = format!("{}.sock", hash.get(..16).unwrap_or_default());
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let runtime = runtime.filter(|dir| platform::claim_private_dir(dir).is_ok()).map(|dir| dir.join("sigil"));
        let temporary = std::env::temp_dir().join(format!("sigil-{}", nix::unistd::geteuid()));
        for dir in runtime.into_iter().chain([temporary]) {
            match platform::claim_private_dir(&dir) {
                Ok(()) => return Ok(dir.join(name)),
                Err(error) => tracing::warn!(dir = %dir.display(), %error, "no place for the socket"),
            }
        }
        // Somebody holds the place that is ours by its name. One by chance he cannot know.
        let dir = tempfile::Builder::new().prefix("sigil-").tempdir();
        let dir = dir.map_err(at("making a directory for the socket in", &std::env::temp_dir()))?;
        Ok(dir.keep().join(name))
    }

    /// Puts back what a cleaner has taken away from under `run/`, unless the home itself is not at its place any more.
    /// True if the socket is gone, which whoever listens has to make anew; its directory is there.
    pub(super) fn keep_up(&self, endpoints: &Endpoints) -> bool {
        if FileId::of(&self.path).ok() != Some(self.id) {
            return false;
        }
        if !self.endpoints_file().exists() {
            let run = self.path.join("run");
            let written = platform::create_private_dir(&run).is_ok() && self.publish(endpoints).is_ok();
            tracing::info!(written, "run/endpoints.json has vanished and is written anew");
        }
        let there = std::fs::symlink_metadata(&endpoints.socket).is_ok_and(|found| found.file_type().is_socket());
        let Some(dir) = endpoints.socket.parent().filter(|_| !there) else { return false };
        let made = if dir.starts_with(&self.path) {
            platform::create_private_dir(dir)
        } else {
            platform::claim_private_dir(dir)
        };
        tracing::info!(directory = made.is_ok(), "the socket has vanished and is made anew");
        made.is_ok()
    }

    /// Tells other processes where this agent can be reached.
    pub(super) fn publish(&self, endpoints: &Endpoints) -> Result<(), AgentError> {
        let path = self.endpoints_file();
        platform::replace_file(&path, &serde_json::to_vec(endpoints).unwrap_or_default()).map_err(at("writing", &path))
    }

    /// Takes that back.
    pub(super) fn unpublish(&self) {
        let _ = std::fs::remove_file(self.endpoints_file());
    }

    fn endpoints_file(&self) -> PathBuf {
        self.path.join("run").join("endpoints.json")
    }

    fn name_file(&self) -> PathBuf {
        self.path.join("name")
    }

    fn ports_file(&self) -> PathBuf {
        self.path.join("ports.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b11_a_name_is_kept_with_the_home() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::create(dir.path().join("home")).unwrap();
        assert_eq!(home.name(), None);
        home.keep_name(&"attic".parse().unwrap()).unwrap();
        let again = Home::create(dir.path().join("home")).unwrap();
        assert_eq!(again.name(), Some("attic".parse().unwrap()));
        std::fs::write(dir.path().join("home/name"), "no: name").unwrap();
        assert_eq!(home.name(), None);
    }

    #[test]
    fn s18_a_socket_that_moves_lies_where_only_we_come() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::create(dir.path().join("h".repeat(120))).unwrap();
        let socket = home.socket().unwrap();
        assert!(!socket.starts_with(dir.path()) && socket.as_os_str().len() <= SOCKET_PATH_BYTES_MAX, "{socket:?}");
        platform::claim_private_dir(socket.parent().unwrap()).unwrap();
    }
}
