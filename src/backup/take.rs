//! Taking a backup.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memory_core::ids::WorkspaceId;
use mesh_core::ids::Hash;
use tokio::sync::mpsc;

use super::error::BackupError;
use super::format::{Contents, FILE_BYTES_MAX, Left, Manifest, PIECE_BYTES, ROW_BYTES_MAX, Writer};
use super::{BLOBS, MEMORY, NAME, SETTINGS, STORE};
use crate::memory::{self, MemoryHandle};
use crate::mesh::blob_needs;
use crate::mesh::blobs::BlobStore;
use crate::mesh::clock;
use crate::mesh::identity::{self, DeviceKey};
use crate::mesh::store::{FORMAT_NUMBER, FjallStore, Store};

/// Rows of memory after which the agent is told that somebody still reads it: its files stay in their place then.
const KEPT_OPEN_ROWS: u64 = 10_000;

/// A home that can be backed up. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Source {
    home: PathBuf,
    store: Arc<dyn Store>,
    blobs: BlobStore,
    memory: Memory,
}

/// The way to the memory of the home.
#[derive(Debug, Clone)]
enum Memory {
    /// Through the agent that has it open, or may open it.
    Running(MemoryHandle),
    /// Nobody else is there.
    Stopped,
}

impl Source {
    /// The home of a running agent, with its open store.
    #[must_use]
    pub fn new(home: PathBuf, store: Arc<dyn Store>, blobs: BlobStore, memory: MemoryHandle) -> Self {
        Self { home, store, blobs, memory: Memory::Running(memory) }
    }

    /// A home without an agent, which cannot start while this lives. Blocks.
    ///
    /// # Errors
    /// It is none; or its store is in use, or cannot be opened.
    pub fn of_stopped(home: &Path) -> Result<Self, BackupError> {
        // Neither a key nor a store is to be made by a look.
        let is_home = home.join(identity::FILE).is_file() && home.join(STORE).is_dir();
        if !is_home {
            return Err(BackupError::NoHome(home.to_owned()));
        }
        // Nothing is written, so nobody listens when it is durable.
        let (store, _) = FjallStore::open(&home.join(STORE), mpsc::channel(1).0)?;
        let blobs = home.join(BLOBS);
        let blobs = BlobStore::open(&blobs).map_err(BackupError::file("opening", &blobs))?;
        Ok(Self { home: home.to_owned(), store: Arc::new(store), blobs, memory: Memory::Stopped })
    }

    /// Writes the backup. Where it cannot be written whole, what is written says so. Blocks; of a running agent on a thread
    /// that its runtime knows and that may block.
    ///
    /// # Errors
    /// Something of the home cannot be read, or `out` not written.
    pub fn write(&self, out: impl Write) -> Result<(), BackupError> {
        let key = DeviceKey::load(&self.home.join(identity::FILE))?;
        let manifest = Manifest {
            taken_ms: clock::now().wall_ms,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            store_format: FORMAT_NUMBER,
            peer_id: key.peer_id().to_string(),
            home: self.home.to_string_lossy().into_owned(),
        };
        let mut writer = Writer::new(out, &manifest).map_err(unwritten)?;
        match self.parts(&mut writer) {
            Ok(contents) => writer.end(&contents).map_err(unwritten),
            Err(error) => {
                // Whoever reads it may have gone.
                let _ = writer.give_up(&reason(&error));
                Err(error)
            }
        }
    }

    fn parts(&self, writer: &mut Writer<impl Write>) -> Result<Contents, BackupError> {
        let mut contents = Contents::default();
        for name in [SETTINGS, NAME, identity::FILE] {
            if let Some(bytes) = self.file(name)? {
                writer.file(name, &bytes).map_err(unwritten)?;
                contents.files += 1;
            }
        }
        let mut needed = BTreeSet::new();
        for row in self.store.snapshot()? {
            let (key, value) = row?;
            let len = (key.len() + value.len()) as u64 + 2;
            if len > ROW_BYTES_MAX {
                return Err(BackupError::TooLarge { name: "a row of the store".to_owned(), max: ROW_BYTES_MAX });
            }
            needed.extend(blob_needs::of_row(&key, &value));
            writer.row(&key, &value).map_err(unwritten)?;
            contents.rows += 1;
        }
        for workspace in memory::kept_in(&self.home.join(MEMORY)).map_err(BackupError::file("reading", &self.home))? {
            self.memory_rows(workspace, writer, &mut contents)?;
        }
        let mut bytes = 0;
        for hash in &needed {
            match self.blob(*hash, writer)? {
                Some(len) => {
                    contents.blobs += 1;
                    bytes += len;
                }
                None => contents.left.absent += 1,
            }
        }
        let (all, all_bytes) = self.blobs.count().map_err(BackupError::file("looking at", &self.home.join(BLOBS)))?;
        contents.left = Left {
            results: all.saturating_sub(contents.blobs),
            result_bytes: all_bytes.saturating_sub(bytes),
            ..contents.left
        };
        Ok(contents)
    }

    /// The rows of a workspace as they are at one moment; what is forgotten by then is not among them.
    fn memory_rows(
        &self,
        workspace: WorkspaceId,
        writer: &mut Writer<impl Write>,
        contents: &mut Contents,
    ) -> Result<(), BackupError> {
        let rows = match &self.memory {
            Memory::Running(handle) => handle.rows(workspace)?,
            Memory::Stopped => memory::rows_of_stopped(&self.home.join(MEMORY), workspace)?,
        };
        for row in rows {
            let (key, value) = row?;
            writer.memory(&workspace.0, &key, &value).map_err(unwritten)?;
            contents.memory += 1;
            if let (Memory::Running(handle), true) = (&self.memory, contents.memory.is_multiple_of(KEPT_OPEN_ROWS)) {
                handle.keep_open(workspace)?;
            }
        }
        Ok(())
    }

    fn file(&self, name: &str) -> Result<Option<Vec<u8>>, BackupError> {
        let path = self.home.join(name);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(BackupError::file("reading", &path))?,
        };
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(BackupError::file("reading", &path))?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(BackupError::TooLarge { name: path.display().to_string(), max: FILE_BYTES_MAX });
        }
        Ok(Some(bytes))
    }

    /// `None`: it is not here. One that is swept while it is read stays whole.
    fn blob(&self, hash: Hash, writer: &mut Writer<impl Write>) -> Result<Option<u64>, BackupError> {
        let path = self.blobs.path(hash);
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(BackupError::file("reading", &path))?,
        };
        writer.blob(&hash).map_err(unwritten)?;
        let mut piece = vec![0; PIECE_BYTES];
        let mut len = 0;
        loop {
            let read = file.read(&mut piece).map_err(BackupError::file("reading", &path))?;
            let Some(bytes) = piece.get(..read).filter(|bytes| !bytes.is_empty()) else { return Ok(Some(len)) };
            writer.blob_bytes(bytes).map_err(unwritten)?;
            len += read as u64;
        }
    }
}

fn unwritten(source: io::Error) -> BackupError {
    BackupError::File { doing: "writing", path: "the backup".into(), source }
}

fn reason(error: &BackupError) -> String {
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        reason = format!("{reason}: {cause}");
        source = cause.source();
    }
    reason
}
