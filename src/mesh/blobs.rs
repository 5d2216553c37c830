//! Large payloads, in files named by the SHA-256 of what is in them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE32_NOPAD;
use mesh_core::ids::Hash;
use mesh_core::io::DiskSpace;
use mesh_core::record::Payload;
use ring::digest;
use tempfile::TempPath;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Notify;

use crate::mesh::blob_ledger::{FINISHED_MS, Ledger, PUT_MS};
use crate::mesh::clock;
use crate::mesh::disk_room::DiskGauge;
use crate::platform;

/// Files that are being written. Whatever is in there at start is of a process that is gone.
const TMP: &str = "tmp";
/// Bytes that a writer writes between two looks at the disk.
const LOOK_AFTER_BYTES: u64 = 1 << 20;

/// The reason for which a blob was not kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// The disk says no.
    #[error("keeping a blob on disk")]
    Io(#[from] io::Error),
    /// More bytes came than were allowed.
    #[error("more than {max} bytes")]
    TooLarge {
        /// Limit of this writer.
        max: u64,
    },
    /// Other bytes came than were promised.
    #[error("the bytes hash to {got} instead of {expected}")]
    WrongHash {
        /// Hash that was asked for.
        expected: Hash,
        /// Hash of the received bytes.
        got: Hash,
    },
}

/// Result of [`BlobStore::sweep`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Files deleted.
    pub deleted: u64,
    /// Bytes that remain.
    pub bytes: u64,
    /// True if more remains than should, and some of it only for a moment.
    pub pinned: bool,
}

/// Files named by their hash. Cheap to clone; a file that is there is whole and durable, and never changes.
#[derive(Debug, Clone)]
pub struct BlobStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    arrived: Notify,
    ledger: Ledger,
    arriving: Mutex<BTreeMap<Hash, u64>>,
    /// Unset where nobody set a floor: tests, and a backup that only reads.
    disk: OnceLock<DiskGauge>,
}

/// Whoever's bytes are to be written, by which they may take room on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mesh) enum RoomFor {
    /// What one who is no owner wants fetched: down to the floor.
    Guests,
    /// Bytes that an owner wants fetched: down to half of it.
    Owners,
    /// Bytes that are being written already, results of tools among it: down to an eighth, which is left for the log.
    UnderWay,
}

impl RoomFor {
    const fn left_free(self, floor: u64) -> u64 {
        match self {
            Self::Guests => floor,
            Self::Owners => floor / 2,
            Self::UnderWay => floor / 8,
        }
    }
}

impl Inner {
    fn set_arriving(&self, hash: Hash, bytes: Option<u64>) {
        let mut arriving = self.arriving.lock().unwrap_or_else(PoisonError::into_inner);
        match bytes {
            Some(bytes) => arriving.insert(hash, bytes),
            None => arriving.remove(&hash),
        };
    }
}

impl BlobStore {
    /// Opens the store in `dir`, created as needed, and removes what an earlier process left half-written. Blocks.
    pub fn open(dir: &Path) -> io::Result<Self> {
        platform::create_private_dir(dir)?;
        let tmp = dir.join(TMP);
        match fs::remove_dir_all(&tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => platform::create_private_dir(&tmp)?,
        }
        let store = Self(Arc::new(Inner {
            dir: dir.to_owned(),
            arrived: Notify::new(),
            ledger: Ledger::default(),
            arriving: Mutex::default(),
            disk: OnceLock::new(),
        }));
        store.0.ledger.set(store.count()?.1);
        Ok(store)
    }

    /// Looks at the disk from now on before it writes.
    pub(in crate::mesh) fn watch_disk(&self, gauge: DiskGauge) {
        let _ = self.0.disk.set(gauge);
    }

    /// The disk as it is now. `None`: nobody watches it, or it does not say.
    pub(in crate::mesh) fn disk(&self) -> Option<DiskSpace> {
        self.0.disk.get().and_then(DiskGauge::look)
    }

    /// Bytes that may be written for these.
    pub(in crate::mesh) fn room_for(&self, whose: RoomFor) -> u64 {
        self.disk().map_or(u64::MAX, |space| space.free.saturating_sub(whose.left_free(space.floor)))
    }

    /// Number of all blobs on disk, and their bytes. Blocks.
    pub fn count(&self) -> io::Result<(u64, u64)> {
        let (mut blobs, mut bytes) = (0, 0);
        for entry in fs::read_dir(&self.0.dir)? {
            let entry = entry?;
            if entry.file_name().to_str().and_then(parse).is_some() {
                bytes += entry.metadata()?.len();
                blobs += 1;
            }
        }
        Ok((blobs, bytes))
    }

    /// Path of the blob, whether it is there or not.
    #[must_use]
    pub fn path(&self, hash: Hash) -> PathBuf {
        self.0.dir.join(hash.to_string())
    }

    /// True if the blob is here.
    #[must_use]
    pub fn has(&self, hash: Hash) -> bool {
        self.path(hash).exists()
    }

    /// Waits until the blob is here or known to be gone, at most for `wait`. Returns true if it is here.
    pub async fn wait_for(&self, hash: Hash, wait: Duration) -> bool {
        let arrival = async {
            loop {
                let arrived = self.0.arrived.notified();
                if self.has(hash) || self.is_gone(hash) {
                    return;
                }
                arrived.await;
            }
        };
        tokio::time::timeout(wait, arrival).await.is_ok() && self.has(hash)
    }

    /// Returns true if nobody who might have the blob has it any more, as far as is known here.
    #[must_use]
    pub fn is_gone(&self, hash: Hash) -> bool {
        self.0.ledger.is_gone(hash)
    }

    /// Notes that nobody has the blob any more: whoever waits for it need not.
    pub(in crate::mesh) fn note_gone(&self, hash: Hash) {
        self.0.ledger.note_gone(hash);
        self.0.arrived.notify_waiters();
    }

    /// Notes that somebody asks for the blob anew: it may be had somewhere.
    pub(in crate::mesh) fn note_wanted(&self, hash: Hash) {
        self.0.ledger.forget_gone(hash);
    }

    /// Waits until more lies here than is kept.
    pub(in crate::mesh) async fn swelled(&self) {
        self.0.ledger.swelled().await;
    }

    /// Asks for another look at how much lies here.
    pub(in crate::mesh) fn recheck_size(&self) {
        self.0.ledger.recheck_size();
    }

    /// Bytes of all blobs that lie here.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.ledger.bytes()
    }

    /// Bytes that are here of a blob which is being fetched, if one is.
    #[must_use]
    pub fn arriving(&self, hash: Hash) -> Option<u64> {
        self.0.arriving.lock().unwrap_or_else(PoisonError::into_inner).get(&hash).copied()
    }

    /// Bytes of a blob, if it is here.
    #[must_use]
    pub fn len_of(&self, hash: Hash) -> Option<u64> {
        fs::metadata(self.path(hash)).ok().map(|file| file.len())
    }

    /// Keeps `bytes`, which must hash to `hash`. A blob that is here already counts as new for [`sweep`](Self::sweep).
    pub async fn put(&self, hash: Hash, bytes: Bytes) -> io::Result<()> {
        self.0.ledger.pin(hash, PUT_MS);
        if self.has(hash) {
            let path = self.path(hash);
            return blocking(move || fs::File::open(path)?.set_modified(clock::system_time())).await;
        }
        let mut writer = self.writer(bytes.len() as u64)?;
        writer.write_all(&bytes).await?;
        match writer.finish(Some(hash)).await {
            Ok(_) => Ok(()),
            Err(BlobError::Io(error)) => Err(error),
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidInput, error)),
        }
    }

    /// A place to write a blob of at most `max` bytes whose hash may not be known yet.
    pub fn writer(&self, max: u64) -> io::Result<BlobWriter> {
        let (file, path) = tempfile::Builder::new().tempfile_in(self.0.dir.join(TMP))?.into_parts();
        Ok(BlobWriter {
            store: self.clone(),
            file: tokio::fs::File::from_std(file),
            path,
            digest: digest::Context::new(&digest::SHA256),
            len: 0,
            max,
            check_disk_at: 0,
            expected: None,
        })
    }

    /// A place to write a blob of at most `max` bytes that is being fetched; [`Self::arriving`] tells how far it is.
    pub fn writer_of(&self, hash: Hash, max: u64) -> io::Result<BlobWriter> {
        let writer = self.writer(max)?;
        self.0.set_arriving(hash, Some(0));
        Ok(BlobWriter { expected: Some(Arriving { store: self.clone(), hash }), ..writer })
    }

    /// Opens a blob to read it; with its length in bytes.
    pub async fn open_read(&self, hash: Hash) -> io::Result<(tokio::fs::File, u64)> {
        let file = tokio::fs::File::open(self.path(hash)).await?;
        let len = file.metadata().await?.len();
        Ok((file, len))
    }

    /// Returns the bytes of a payload: those that are inline, or the whole blob.
    pub async fn read(&self, payload: &Payload) -> io::Result<Vec<u8>> {
        match payload {
            Payload::Inline(bytes) => Ok(bytes.to_vec()),
            Payload::Blob { hash, .. } => tokio::fs::read(self.path(*hash)).await,
        }
    }

    /// Deletes the oldest blobs until all together are at most `max_bytes`; those that `keep` names, and those that were
    /// put in or finished just now, stay in any case.
    /// Blocks: look through a store of many files on a thread for such things.
    pub fn sweep(&self, max_bytes: u64, keep: &dyn Fn(Hash) -> bool) -> io::Result<Swept> {
        let mut blobs = Vec::new();
        let mut swept = Swept::default();
        for entry in fs::read_dir(&self.0.dir)? {
            let entry = entry?;
            let Some(hash) = entry.file_name().to_str().and_then(parse) else { continue };
            let metadata = entry.metadata()?;
            swept.bytes += metadata.len();
            blobs.push((metadata.modified()?, hash, metadata.len()));
        }
        blobs.sort_unstable();
        let pinned = self.0.ledger.pinned();
        for (_, hash, len) in blobs {
            if swept.bytes <= max_bytes {
                break;
            }
            if !keep(hash) && !pinned.contains_key(&hash) {
                fs::remove_file(self.path(hash))?;
                swept.bytes -= len;
                swept.deleted += 1;
            }
        }
        self.0.ledger.set_quietly(swept.bytes);
        swept.pinned = swept.bytes > max_bytes && !pinned.is_empty();
        Ok(swept)
    }
}

/// A blob in the making. Dropped without [`finish`](Self::finish), it leaves nothing behind.
pub struct BlobWriter {
    store: BlobStore,
    file: tokio::fs::File,
    path: TempPath,
    digest: digest::Context,
    len: u64,
    max: u64,
    /// Length at which it looks at the disk again.
    check_disk_at: u64,
    expected: Option<Arriving>,
}

/// A blob on its way here, for as long as this lives.
struct Arriving {
    store: BlobStore,
    hash: Hash,
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.store.0.set_arriving(self.hash, None);
    }
}

impl BlobWriter {
    /// Makes the blob durable and lets it be seen under its hash, which must be `expected` if that is known.
    ///
    /// # Cancel safety
    /// When cancelled, the blob is there or not, but never in part.
    pub async fn finish(mut self, expected: Option<Hash>) -> Result<(Hash, u64), BlobError> {
        self.file.flush().await?;
        let got = finish_hash(self.digest);
        if let Some(expected) = expected.filter(|expected| *expected != got) {
            return Err(BlobError::WrongHash { expected, got });
        }
        // Until it is here or not, it is on its way.
        let _arriving = self.expected;
        let (file, path, store, len) = (self.file.into_std().await, self.path, self.store, self.len);
        let target = store.path(got);
        blocking(move || {
            file.sync_all()?;
            path.persist(target)?;
            platform::sync_dir(&store.0.dir)?;
            store.0.ledger.add(got, len, FINISHED_MS);
            store.0.arrived.notify_waiters();
            Ok(())
        })
        .await?;
        Ok((got, len))
    }

    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True if nothing came yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl AsyncWrite for BlobWriter {
    /// Fails with [`BlobError::TooLarge`] inside an [`io::ErrorKind::FileTooLarge`] beyond the limit, and with
    /// [`io::ErrorKind::StorageFull`] when the rest of the disk is for the log.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.len.saturating_add(bytes.len() as u64) > self.max {
            let error = BlobError::TooLarge { max: self.max };
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::FileTooLarge, error)));
        }
        if self.len >= self.check_disk_at {
            if self.store.room_for(RoomFor::UnderWay) < LOOK_AFTER_BYTES {
                let error = "the disk of this device is nearly full: what is left of it is for the log";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::StorageFull, error)));
            }
            self.check_disk_at = self.len.saturating_add(LOOK_AFTER_BYTES);
        }
        let written = ready!(Pin::new(&mut self.file).poll_write(cx, bytes))?;
        self.digest.update(bytes.get(..written).unwrap_or(bytes));
        self.len += written as u64;
        if let Some(Arriving { store, hash }) = &self.expected {
            store.0.set_arriving(*hash, Some(self.len));
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_shutdown(cx)
    }
}

impl fmt::Debug for BlobWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobWriter").field("len", &self.len).field("max", &self.max).finish_non_exhaustive()
    }
}

fn finish_hash(digest: digest::Context) -> Hash {
    Hash::from_slice(digest.finish().as_ref()).expect("SHA-256 has 32 bytes")
}

/// The hash that a file name stands for.
fn parse(name: &str) -> Option<Hash> {
    Hash::from_slice(&BASE32_NOPAD.decode(name.to_ascii_uppercase().as_bytes()).ok()?)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt as _;

    fn store() -> (tempfile::TempDir, BlobStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::open(&dir.path().join("blobs")).unwrap();
        (dir, store)
    }

    fn in_progress(store: &BlobStore) -> usize {
        fs::read_dir(store.0.dir.join(TMP)).unwrap().count()
    }

    #[tokio::test]
    async fn what_is_put_can_be_read_and_survives_a_new_open() {
        let (_dir, store) = store();
        let bytes = Bytes::from(vec![7; 100_000]);
        let hash = Hash::of(&bytes);
        assert!(!store.has(hash));
        store.put(hash, bytes.clone()).await.unwrap();
        store.put(hash, bytes.clone()).await.unwrap();
        let (mut file, len) = BlobStore::open(&store.0.dir).unwrap().open_read(hash).await.unwrap();
        let mut read = Vec::new();
        file.read_to_end(&mut read).await.unwrap();
        assert_eq!((read.as_slice(), len), (&*bytes, 100_000));
        assert_eq!(in_progress(&store), 0);
    }

    #[tokio::test]
    async fn a_wrong_hash_and_too_many_bytes_leave_nothing() {
        let (_dir, store) = store();
        let wrong = store.put(Hash::ZERO, Bytes::from_static(b"x")).await.unwrap_err();
        assert_eq!(wrong.kind(), io::ErrorKind::InvalidInput);
        assert!(!store.has(Hash::ZERO) && !store.has(Hash::of(b"x")));

        let mut writer = store.writer(10).unwrap();
        writer.write_all(b"0123456789").await.unwrap();
        let error = writer.write_all(b"x").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert!(error.to_string().contains("10 bytes"));
        drop(writer);
        assert_eq!(in_progress(&store), 0);
    }

    #[tokio::test]
    async fn a_waiter_wakes_when_the_blob_arrives() {
        let (_dir, store) = store();
        let hash = Hash::of(b"late");
        assert!(!store.wait_for(hash, Duration::from_millis(1)).await);
        let (came, put) =
            tokio::join!(store.wait_for(hash, Duration::from_mins(1)), store.put(hash, Bytes::from_static(b"late")));
        put.unwrap();
        assert!(came);
    }

    #[tokio::test]
    async fn b06_a_fetch_tells_how_far_it_is() {
        let (_dir, store) = store();
        let bytes = vec![5; 3000];
        let hash = Hash::of(&bytes);
        let mut writer = store.writer_of(hash, 3000).unwrap();
        assert_eq!(store.arriving(hash), Some(0));
        writer.write_all(&bytes[..1000]).await.unwrap();
        assert_eq!(store.arriving(hash), Some(1000));
        drop(writer);
        assert_eq!(store.arriving(hash), None, "broken off");
        let mut writer = store.writer_of(hash, 3000).unwrap();
        writer.write_all(&bytes).await.unwrap();
        writer.finish(Some(hash)).await.unwrap();
        assert_eq!((store.arriving(hash), store.has(hash)), (None, true));
    }

    #[tokio::test]
    async fn what_a_dead_process_left_is_removed() {
        let (_dir, store) = store();
        fs::write(store.0.dir.join(TMP).join("half"), b"half").unwrap();
        let store = BlobStore::open(&store.0.dir).unwrap();
        assert_eq!(in_progress(&store), 0);
    }

    #[tokio::test]
    async fn a_sweep_takes_the_oldest_and_keeps_what_it_must() {
        let (_dir, store) = store();
        let mut hashes = Vec::new();
        for n in 0..4_u8 {
            let bytes = vec![n; 100];
            let hash = Hash::of(&bytes);
            store.put(hash, bytes.into()).await.unwrap();
            let when = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(n));
            fs::File::open(store.path(hash)).unwrap().set_modified(when).unwrap();
            hashes.push(hash);
        }
        let stray = store.0.dir.join("README");
        fs::write(&stray, "not a blob").unwrap();
        let kept = hashes[0];
        let swept = store.sweep(200, &|_| false).unwrap();
        assert_eq!(swept, Swept { deleted: 0, bytes: 400, pinned: true }, "what a door put in just now stays");
        store.0.ledger.unpin_all();
        let swept = store.sweep(200, &|hash| hash == kept).unwrap();
        assert_eq!(swept, Swept { deleted: 2, bytes: 200, pinned: false });
        let left: Vec<_> = hashes.iter().map(|hash| store.has(*hash)).collect();
        assert_eq!(left, [true, false, false, true]);
        assert!(stray.exists());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn the_hash_is_of_all_pieces_together(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5000), 0..8)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (_dir, store) = store();
                let mut writer = store.writer(1 << 20).unwrap();
                for piece in &pieces {
                    writer.write_all(piece).await.unwrap();
                }
                let all = pieces.concat();
                let finished = writer.finish(Some(Hash::of(&all))).await.unwrap();
                assert_eq!(finished, (Hash::of(&all), all.len() as u64));
                assert_eq!(fs::read(store.path(finished.0)).unwrap(), all);
            });
        }
    }
}
