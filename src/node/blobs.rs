//! Large arguments come from the mesh's blob store, and large outputs go there.

use std::io;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use mesh_core::ids::Hash;
use mesh_core::limits::RESULT_BYTES_MAX;
use mesh_core::record::Payload;
use tokio::io::AsyncWriteExt;

use crate::mesh::blobs::{BlobError, BlobStore, BlobWriter};
use crate::runtime::spool::{BlobSink, BlobSinks};

/// A store of blobs, as runs of tools need it.
pub trait Blobs: BlobSinks {
    /// Reads a payload as a whole. Memory takes it: arguments are at most 1 MiB.
    fn read<'a>(&'a self, payload: &'a Payload) -> BoxFuture<'a, io::Result<Vec<u8>>>;
    /// Keeps bytes, which hash to `hash`.
    fn keep(&self, hash: Hash, bytes: Bytes) -> BoxFuture<'_, io::Result<()>>;
}

impl Blobs for BlobStore {
    fn read<'a>(&'a self, payload: &'a Payload) -> BoxFuture<'a, io::Result<Vec<u8>>> {
        Box::pin(BlobStore::read(self, payload))
    }

    fn keep(&self, hash: Hash, bytes: Bytes) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(self.put(hash, bytes))
    }
}

impl BlobSinks for BlobStore {
    fn create(&self) -> BoxFuture<'_, io::Result<Box<dyn BlobSink>>> {
        Box::pin(async {
            let sink: Box<dyn BlobSink> = Box::new(self.writer(RESULT_BYTES_MAX)?);
            Ok(sink)
        })
    }
}

impl BlobSink for BlobWriter {
    fn write<'a>(&'a mut self, chunk: &'a [u8]) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(self.write_all(chunk))
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, io::Result<([u8; 32], u64)>> {
        Box::pin(async {
            match BlobWriter::finish(*self, None).await {
                Ok((Hash(hash), len)) => Ok((hash, len)),
                Err(BlobError::Io(error)) => Err(error),
                Err(error @ (BlobError::TooLarge { .. } | BlobError::WrongHash { .. })) => Err(io::Error::other(error)),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::outcome::Output;
    use crate::runtime::spool::{OutputLimits, Spool};

    const LIMITS: OutputLimits = OutputLimits { inline: 32 * 1024, total: 100_000 };

    #[tokio::test]
    async fn output_lands_in_the_store_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::open(dir.path()).unwrap();
        let mut spool = Spool::new(&store, LIMITS);
        spool.push(&vec![1; 60_000]).await.unwrap();
        spool.push(&vec![2; 40_000]).await.unwrap();
        let Output::Stored { hash, len: 100_000 } = spool.finish().await.unwrap().output else { panic!("a blob") };
        assert_eq!(
            store.read(&Payload::Blob { hash: Hash(hash), len: 100_000 }).await.unwrap(),
            [vec![1; 60_000], vec![2; 40_000]].concat()
        );

        let mut spool = Spool::new(&store, LIMITS);
        spool.push(&vec![3; 60_000]).await.unwrap();
        drop(spool);
        assert!(!store.has(Hash::of(&vec![3; 60_000])));
        assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    }
}
