//! Output on its way: in memory while it is small, then in a file of the blob store. Memory stays small either way.

use std::io;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use mesh_core::entry::Payload;
use mesh_core::ids::Hash;
use mesh_core::limits::INLINE_BYTES_MAX;

/// Takes the bytes of one blob. Dropped before [`Self::finish`], it leaves nothing behind.
pub trait BlobSink: Send {
    /// Adds a chunk.
    fn write<'a>(&'a mut self, chunk: &'a [u8]) -> BoxFuture<'a, io::Result<()>>;
    /// Keeps the blob under its hash. Answers the hash and the number of bytes.
    fn finish(self: Box<Self>) -> BoxFuture<'static, io::Result<(Hash, u64)>>;
}

/// Where large outputs go.
pub trait BlobSinks: Send + Sync {
    /// Begins a blob.
    fn create(&self) -> BoxFuture<'_, io::Result<Box<dyn BlobSink>>>;
}

/// Why output was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// More than the limit.
    #[error("the output is over the limit of {}", crate::config::value::show_size(*.0))]
    TooLarge(u64),
    /// Our own store failed.
    #[error("storing the output")]
    Store(#[source] io::Error),
}

/// Output of one run.
pub struct Spool<'a> {
    sinks: &'a dyn BlobSinks,
    limit: u64,
    len: u64,
    inline: Vec<u8>,
    sink: Option<Box<dyn BlobSink>>,
}

impl<'a> Spool<'a> {
    /// An empty one that takes at most `limit` bytes.
    #[must_use]
    pub fn new(sinks: &'a dyn BlobSinks, limit: u64) -> Self {
        Self { sinks, limit, len: 0, inline: Vec::new(), sink: None }
    }

    /// Takes a chunk.
    pub async fn push(&mut self, chunk: &[u8]) -> Result<(), SpoolError> {
        let len = self.len + chunk.len() as u64;
        if len > self.limit {
            return Err(SpoolError::TooLarge(self.limit));
        }
        self.len = len;
        if self.sink.is_none() && self.inline.len() + chunk.len() > INLINE_BYTES_MAX {
            let mut sink = self.sinks.create().await.map_err(SpoolError::Store)?;
            sink.write(&std::mem::take(&mut self.inline)).await.map_err(SpoolError::Store)?;
            self.sink = Some(sink);
        }
        if let Some(sink) = &mut self.sink {
            return sink.write(chunk).await.map_err(SpoolError::Store);
        }
        self.inline.extend_from_slice(chunk);
        Ok(())
    }

    /// Ends the spool and returns its bytes as a payload.
    pub async fn finish(self) -> Result<Payload, SpoolError> {
        match self.sink {
            None => Ok(Payload::Inline(Bytes::from(self.inline))),
            Some(sink) => {
                let (hash, len) = sink.finish().await.map_err(SpoolError::Store)?;
                Ok(Payload::Blob { hash, len })
            }
        }
    }
}

/// A blob store in memory, for tests.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    /// Keeps finished blobs; counts the longest chunk that was handed over.
    #[derive(Clone, Default)]
    pub(crate) struct MemorySinks {
        pub(crate) blobs: Arc<Mutex<BTreeMap<Hash, Vec<u8>>>>,
        pub(crate) longest_chunk: Arc<Mutex<usize>>,
    }

    struct MemorySink(MemorySinks, Vec<u8>);

    impl BlobSinks for MemorySinks {
        fn create(&self) -> BoxFuture<'_, io::Result<Box<dyn BlobSink>>> {
            let sink: Box<dyn BlobSink> = Box::new(MemorySink(self.clone(), Vec::new()));
            Box::pin(async move { Ok(sink) })
        }
    }

    impl BlobSink for MemorySink {
        fn write<'a>(&'a mut self, chunk: &'a [u8]) -> BoxFuture<'a, io::Result<()>> {
            let mut longest = self.0.longest_chunk.lock().unwrap();
            *longest = chunk.len().max(*longest);
            self.1.extend_from_slice(chunk);
            Box::pin(async { Ok(()) })
        }

        fn finish(self: Box<Self>) -> BoxFuture<'static, io::Result<(Hash, u64)>> {
            let (hash, len) = (Hash::of(&self.1), self.1.len() as u64);
            self.0.blobs.lock().unwrap().insert(hash, self.1);
            Box::pin(async move { Ok((hash, len)) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testing::MemorySinks;

    #[tokio::test]
    async fn small_output_stays_inline_and_large_becomes_a_blob() {
        let sinks = MemorySinks::default();
        let mut spool = Spool::new(&sinks, u64::MAX);
        spool.push(&vec![0xff; INLINE_BYTES_MAX]).await.unwrap();
        assert_eq!(spool.finish().await.unwrap(), Payload::Inline(vec![0xff; INLINE_BYTES_MAX].into()));
        assert!(sinks.blobs.lock().unwrap().is_empty());

        let mut spool = Spool::new(&sinks, u64::MAX);
        spool.push(&vec![1; INLINE_BYTES_MAX]).await.unwrap();
        spool.push(&[2]).await.unwrap();
        let whole = [vec![1; INLINE_BYTES_MAX], vec![2]].concat();
        let payload = spool.finish().await.unwrap();
        assert_eq!(payload, Payload::Blob { hash: Hash::of(&whole), len: whole.len() as u64 });
        assert_eq!(sinks.blobs.lock().unwrap()[&payload.hash()], whole);
    }

    #[tokio::test]
    async fn the_limit_is_exact_and_named() {
        let sinks = MemorySinks::default();
        let mut spool = Spool::new(&sinks, 1024);
        spool.push(&[0; 1024]).await.unwrap();
        let error = spool.push(&[0]).await.unwrap_err();
        assert_eq!(error.to_string(), "the output is over the limit of 1KiB");
    }
}
