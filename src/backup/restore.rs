//! Putting a backup back.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use bytes::Bytes;
use memory_core::ids::WorkspaceId;
use mesh_core::ids::{Hash, NodeId};
use mesh_core::io::View;
use mesh_core::limits;
use ring::digest::{Context, SHA256};
use tokio::sync::mpsc;

use super::error::BackupError;
use super::format::{Contents, Manifest, Part, Reader};
use super::{BLOBS, HIGH_WATER, MEMORY, NAME, SETTINGS, STORE};
use crate::memory::Returning;
use crate::mesh;
use crate::mesh::blob_needs;
use crate::mesh::identity::{self, DeviceKey};
use crate::mesh::store::{FORMAT_NUMBER, FjallStore, Row, Store as _, row_of};
use crate::platform;

/// Directory in the home in which all is made ready before anything takes its place. A start refuses a home that has it.
pub const UNFINISHED: &str = ".restoring";

/// Directory of logs in a home.
const LOGS: &str = "logs";
/// Rows are written in batches of this many bytes.
const BATCH_BYTES: usize = 1024 * 1024;
/// Bytes of the rows that a start reads into memory: many times what the largest mesh has.
const IMAGE_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Longest path of a home.
const PATH_BYTES_MAX: usize = 4096;

/// Which device the restored home is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The one of the backup: for when its home is gone for good. Two homes with one key would disturb each other.
    Same,
    /// Another one, with the settings of the backup and nothing else.
    New,
}

/// A home that was put back.
#[derive(Debug)]
pub struct Restored {
    /// All that the backup said of itself.
    pub manifest: Manifest,
    /// All that was in it.
    pub contents: Contents,
    /// The mesh that the device belonged to; none for a new device.
    pub view: Option<View>,
}

/// Reads what a backup says of itself, and nothing else of it.
///
/// # Errors
/// It is no backup.
pub fn peek(from: impl Read) -> Result<Manifest, BackupError> {
    Ok(Reader::open(from)?.manifest().clone())
}

/// Puts a backup back into an empty home, which is made if it is not there. All of it or nothing: until the whole file was
/// judged, it lies in a directory of its own. Blocks. `progress` is told the bytes read so far, now and then.
///
/// The rows count as older than what their device has promised since, whether they are or not, so it goes on under a new
/// incarnation: it starts no call that its former one may have run.
///
/// # Errors
/// The file is no backup, not whole or not to be believed; the home is not empty; or the disk says no. The home is then
/// as it was.
pub fn restore(
    from: impl Read,
    home: &Path,
    device: Device,
    progress: impl FnMut(u64),
) -> Result<Restored, BackupError> {
    let made = !home.exists();
    if !is_empty(home)? {
        return Err(BackupError::NotEmpty(home.to_owned()));
    }
    let stage = home.join(UNFINISHED);
    let restored = clear(&stage)
        .and_then(|()| platform::create_private_dir(&stage).map_err(BackupError::file("making", &stage)))
        .and_then(|()| Restoring::new(&stage, device)?.run(from, home, progress))
        .and_then(|restored| move_up(&stage, home).map(|()| restored));
    if restored.is_err() {
        // What is left of it is told by the next start.
        let _ = clear(&stage);
        if made {
            let _ = fs::remove_dir(home);
        }
    }
    restored
}

/// True if nothing lies there but what a restore has left that was broken off, and the log of a start that was refused
/// for that.
///
/// # Errors
/// It cannot be looked at, or is no directory.
pub fn is_empty(home: &Path) -> Result<bool, BackupError> {
    match fs::read_dir(home) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(BackupError::file("looking into", home)(error)),
        Ok(mut entries) => {
            Ok(entries
                .all(|entry| entry.is_ok_and(|entry| entry.file_name() == UNFINISHED || entry.file_name() == LOGS)))
        }
    }
}

fn clear(stage: &Path) -> Result<(), BackupError> {
    match fs::remove_dir_all(stage) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(BackupError::file("removing", stage)(error)),
        _ => Ok(()),
    }
}

/// Gives all that is ready its place. The directory that keeps a start away goes last.
fn move_up(stage: &Path, home: &Path) -> Result<(), BackupError> {
    let failed = || BackupError::file("filling", home);
    for entry in fs::read_dir(stage).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        fs::rename(entry.path(), home.join(entry.file_name())).map_err(failed())?;
    }
    platform::sync_dir(home).map_err(failed())?;
    fs::remove_dir(stage).map_err(failed())?;
    platform::sync_dir(home).map_err(failed())
}

/// A large payload on its way to its file.
struct Payload {
    hash: Hash,
    file: File,
    sum: Context,
    len: u64,
}

/// A home that is being made ready.
struct Restoring<'a> {
    stage: &'a Path,
    device: Device,
    /// None for a new device.
    store: Option<FjallStore>,
    files: BTreeSet<String>,
    batch: Vec<Row>,
    batch_bytes: usize,
    last_key: Vec<u8>,
    image_bytes: u64,
    /// Payloads that the rows need and that have not come yet.
    needed: BTreeSet<Hash>,
    payload: Option<Payload>,
    /// The workspace whose memory comes back at present, and those that have.
    memory: Option<Returning>,
    workspaces: BTreeSet<WorkspaceId>,
}

impl<'a> Restoring<'a> {
    fn new(stage: &'a Path, device: Device) -> Result<Self, BackupError> {
        // All is durable before anything is moved, so nobody listens when it is.
        let store = match device {
            Device::Same => Some(FjallStore::open(&stage.join(STORE), mpsc::channel(1).0)?.0),
            Device::New => None,
        };
        let blobs = stage.join(BLOBS);
        platform::create_private_dir(&blobs).map_err(BackupError::file("making", &blobs))?;
        Ok(Self {
            stage,
            device,
            store,
            files: BTreeSet::new(),
            batch: Vec::new(),
            batch_bytes: 0,
            last_key: Vec::new(),
            image_bytes: 0,
            needed: BTreeSet::new(),
            payload: None,
            memory: None,
            workspaces: BTreeSet::new(),
        })
    }

    fn run(mut self, from: impl Read, home: &Path, mut progress: impl FnMut(u64)) -> Result<Restored, BackupError> {
        let mut reader = Reader::open(from)?;
        let manifest = reader.manifest().clone();
        if manifest.store_format != FORMAT_NUMBER {
            return Err(BackupError::StoreFormat { found: manifest.store_format, readable: FORMAT_NUMBER });
        }
        let contents = loop {
            match reader.next()? {
                Part::File { name, bytes } => self.file(&name, &bytes)?,
                Part::Row { key, value } => self.row(key, value)?,
                Part::Memory { workspace, key, value } => self.memory_row(WorkspaceId(workspace), key, value)?,
                Part::Blob(hash) => self.payload(hash)?,
                Part::BlobBytes(bytes) => self.payload_bytes(&bytes)?,
                Part::End(contents) => break contents,
            }
            progress(reader.at());
        };
        self.end_payload()?;
        self.end_memory()?;
        let view = self.end_rows(&manifest)?;
        if self.device == Device::Same {
            self.note_original(&manifest, home)?;
        }
        let dirs = [self.stage.to_owned(), self.stage.join(BLOBS)];
        for dir in &dirs {
            platform::sync_dir(dir).map_err(BackupError::file("syncing", dir))?;
        }
        Ok(Restored { manifest, contents, view })
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), BackupError> {
        let is_known = [SETTINGS, NAME, identity::FILE].contains(&name);
        let is_name = || std::str::from_utf8(bytes).is_ok_and(|text| text.trim().parse::<NodeId>().is_ok());
        if !is_known || (name == NAME && !is_name()) {
            return Err(BackupError::Damaged("it holds a file that no home has"));
        }
        if !self.files.insert(name.to_owned()) {
            return Err(BackupError::Damaged("it holds a file twice"));
        }
        if self.device == Device::Same || name == SETTINGS {
            let path = self.stage.join(name);
            new_file(&path)
                .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
                .map_err(BackupError::file("writing", &path))?;
        }
        Ok(())
    }

    fn row(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), BackupError> {
        let Some((space, _)) = row_of(&key) else {
            return Err(BackupError::Damaged("it holds a row of no known kind"));
        };
        if key <= self.last_key {
            return Err(BackupError::Damaged("its rows are out of order"));
        }
        let Some(store) = &self.store else { return Ok(()) };
        if space.in_image() {
            self.image_bytes += (key.len() + value.len()) as u64;
            if self.image_bytes > IMAGE_BYTES_MAX {
                return Err(BackupError::TooLarge { name: "what a start reads".to_owned(), max: IMAGE_BYTES_MAX });
            }
        }
        self.needed.extend(blob_needs::of_row(&key, &value));
        self.last_key.clone_from(&key);
        self.batch_bytes += key.len() + value.len();
        self.batch.push((key, Bytes::from(value)));
        if self.batch_bytes >= BATCH_BYTES {
            self.batch_bytes = 0;
            store.put_back(std::mem::take(&mut self.batch))?;
        }
        Ok(())
    }

    fn memory_row(&mut self, workspace: WorkspaceId, key: Vec<u8>, value: Vec<u8>) -> Result<(), BackupError> {
        if self.device == Device::New {
            return Ok(());
        }
        if self.memory.as_ref().is_none_or(|at| at.workspace() != workspace) {
            self.end_memory()?;
            if !self.workspaces.insert(workspace) {
                return Err(BackupError::Damaged("it holds the memory of a workspace twice"));
            }
            self.memory = Some(Returning::begin(&self.stage.join(MEMORY), workspace)?);
        }
        if let Some(memory) = &mut self.memory {
            memory.put(key, Bytes::from(value))?;
        }
        Ok(())
    }

    fn end_memory(&mut self) -> Result<(), BackupError> {
        self.memory.take().map_or(Ok(()), |memory| memory.end().map_err(BackupError::from))
    }

    fn payload(&mut self, hash: Hash) -> Result<(), BackupError> {
        self.end_payload()?;
        if self.store.is_none() {
            return Ok(());
        }
        if !self.needed.remove(&hash) {
            return Err(BackupError::Damaged("it holds a payload that nothing needs"));
        }
        let path = self.stage.join(BLOBS).join(hash.to_string());
        let file = new_file(&path).map_err(BackupError::file("writing", &path))?;
        self.payload = Some(Payload { hash, file, sum: Context::new(&SHA256), len: 0 });
        Ok(())
    }

    fn payload_bytes(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        let Some(payload) = &mut self.payload else { return Ok(()) };
        payload.len += bytes.len() as u64;
        if payload.len > limits::RESULT_BYTES_MAX {
            return Err(BackupError::TooLarge { name: payload.hash.to_string(), max: limits::RESULT_BYTES_MAX });
        }
        payload.sum.update(bytes);
        payload.file.write_all(bytes).map_err(BackupError::file("writing", &self.stage.join(BLOBS)))
    }

    fn end_payload(&mut self) -> Result<(), BackupError> {
        let Some(payload) = self.payload.take() else { return Ok(()) };
        if payload.sum.finish().as_ref() != payload.hash.0 {
            return Err(BackupError::Damaged("a payload does not have its hash"));
        }
        payload.file.sync_all().map_err(BackupError::file("writing", &self.stage.join(BLOBS)))
    }

    /// Judges key and rows together, as a start does.
    fn end_rows(&mut self, manifest: &Manifest) -> Result<Option<View>, BackupError> {
        let Some(store) = self.store.take() else { return Ok(None) };
        if !self.batch.is_empty() {
            store.put_back(std::mem::take(&mut self.batch))?;
        }
        if !self.files.contains(identity::FILE) {
            return Err(BackupError::Damaged("it holds no device key"));
        }
        let key = DeviceKey::load(&self.stage.join(identity::FILE))?;
        if key.peer_id().to_string() != manifest.peer_id {
            return Err(BackupError::Damaged("its key is another device's than it says"));
        }
        store.end_restore()?;
        let view = mesh::judge(&store, key).map_err(BackupError::Mesh)?;
        store.close();
        drop(store);
        let mark = self.stage.join(HIGH_WATER);
        File::open(&mark).and_then(|file| file.sync_all()).map_err(BackupError::file("syncing", &mark))?;
        Ok(Some(view))
    }

    /// Notes of which home this one is a copy, so that a start beside the original's agent is refused.
    fn note_original(&self, manifest: &Manifest, home: &Path) -> Result<(), BackupError> {
        let original = Path::new(&manifest.home);
        if original == home || !original.is_absolute() || manifest.home.len() > PATH_BYTES_MAX {
            return Ok(());
        }
        let run = self.stage.join("run");
        let record = serde_json::json!({
            "pid": 0, "socket": original.join("run/sigil.sock"), "home": original, "peer_id": manifest.peer_id,
        });
        platform::create_private_dir(&run)
            .and_then(|()| new_file(&run.join("endpoints.json")))
            .and_then(|mut file| file.write_all(record.to_string().as_bytes()))
            .map_err(BackupError::file("writing", &run))
    }
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::super::format::Writer;
    use super::*;

    type Parts<'a> = &'a dyn Fn(&mut Writer<&mut Vec<u8>>) -> io::Result<()>;

    /// A file with a true sum that holds `parts`, which it counts as `contents`.
    fn crafted(peer_id: &str, contents: Contents, parts: Parts<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let manifest = Manifest { store_format: FORMAT_NUMBER, peer_id: peer_id.to_owned(), ..Manifest::default() };
        let mut writer = Writer::new(&mut bytes, &manifest).unwrap();
        parts(&mut writer).unwrap();
        writer.end(&contents).unwrap();
        bytes
    }

    fn counts(files: u64, rows: u64, blobs: u64) -> Contents {
        Contents { files, rows, blobs, ..Contents::default() }
    }

    #[test]
    fn k5_a_file_with_a_true_sum_and_false_parts_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let key = DeviceKey::load_or_create(&dir.path().join("other")).unwrap();
        let id = key.peer_id().to_string();
        let key_bytes = fs::read(dir.path().join("other").join(identity::FILE)).unwrap();
        let home = dir.path().join("home");
        let refused = |peer_id: &str, contents: Contents, parts: Parts<'_>| {
            let bytes = crafted(peer_id, contents, parts);
            let error = restore(&*bytes, &home, Device::Same, |_| ()).unwrap_err();
            assert!(!home.exists(), "{error:?}");
            error
        };
        let damaged = |contents: Contents, parts: Parts<'_>| {
            let error = refused(&id, contents, parts);
            assert!(matches!(error, BackupError::Damaged(_)), "{error:?}");
        };
        for name in ["../out", "run/sigil.sock", "tokens", "store", ""] {
            damaged(counts(1, 0, 0), &|writer| writer.file(name, b"x"));
        }
        damaged(counts(1, 0, 0), &|writer| writer.file(NAME, b"No Name"));
        damaged(counts(2, 0, 0), &|writer| writer.file(SETTINGS, b"").and_then(|()| writer.file(SETTINGS, b"")));
        for key in [&b""[..], b"\0seq", b"\xff"] {
            damaged(counts(0, 1, 0), &|writer| writer.row(key, b"x"));
        }
        damaged(counts(0, 2, 0), &|writer| writer.row(b"\x01b", b"").and_then(|()| writer.row(b"\x01a", b"")));
        damaged(counts(0, 0, 1), &|writer| writer.blob(&Hash([1; 32])));
        damaged(counts(0, 7, 0), &|writer| writer.row(b"\x01b", b""));
        damaged(counts(0, 1, 0), &|writer| writer.row(b"\x01b", b""));
        let with_key: Parts<'_> = &|writer| writer.file(identity::FILE, &key_bytes);
        assert!(matches!(refused("somebody", counts(1, 0, 0), with_key), BackupError::Damaged(_)));
        assert!(matches!(refused(&id, counts(1, 0, 0), with_key), BackupError::Mesh(_)), "it holds no mesh");
        let no_key: Parts<'_> = &|writer| writer.file(identity::FILE, b"no key");
        assert!(matches!(refused(&id, counts(1, 0, 0), no_key), BackupError::Identity(_)));
    }

    #[test]
    fn a_home_in_which_something_lies_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("x"), "").unwrap();
        let refused = restore(&b""[..], dir.path(), Device::New, |_| ());
        assert!(matches!(refused, Err(BackupError::NotEmpty(_))), "{refused:?}");
        assert!(!is_empty(dir.path()).unwrap() && is_empty(&dir.path().join("none")).unwrap());
    }
}
