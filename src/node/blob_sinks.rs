//! Large outputs go into the mesh's blob store.

use std::io;

use futures_util::future::BoxFuture;
use mesh_core::ids::Hash;
use mesh_core::limits::RESULT_BYTES_MAX;
use tokio::io::AsyncWriteExt;

use crate::mesh::blobs::{BlobError, BlobStore, BlobWriter};
use crate::runtime::spool::{BlobSink, BlobSinks};

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

    fn finish(self: Box<Self>) -> BoxFuture<'static, io::Result<(Hash, u64)>> {
        Box::pin(async {
            BlobWriter::finish(*self, None).await.map_err(|error| match error {
                BlobError::Io(error) => error,
                error @ (BlobError::TooLarge { .. } | BlobError::WrongHash { .. }) => io::Error::other(error),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::spool::Spool;
    use mesh_core::entry::Payload;

    #[tokio::test]
    async fn output_lands_in_the_store_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::open(dir.path()).unwrap();
        let mut spool = Spool::new(&store, 100_000);
        spool.push(&vec![1; 60_000]).await.unwrap();
        spool.push(&vec![2; 40_000]).await.unwrap();
        let Payload::Blob { hash, len: 100_000 } = spool.finish().await.unwrap() else { panic!("a blob") };
        assert_eq!(std::fs::read(store.path(hash)).unwrap(), [vec![1; 60_000], vec![2; 40_000]].concat());

        let mut spool = Spool::new(&store, 100_000);
        spool.push(&vec![3; 60_000]).await.unwrap();
        drop(spool);
        assert!(!store.has(Hash::of(&vec![3; 60_000])));
        assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    }
}
