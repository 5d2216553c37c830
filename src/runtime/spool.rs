//! Output on its way: in memory while it is small, then in a file of the blob store. Memory stays small either way.

use std::io;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::outcome::Output;

/// Takes the bytes of one blob. Dropped before [`Self::finish`], it leaves nothing behind.
pub trait BlobSink: Send {
    /// Adds a chunk.
    fn write<'a>(&'a mut self, chunk: &'a [u8]) -> BoxFuture<'a, io::Result<()>>;
    /// Keeps the blob under its SHA-256. Returns that and the number of bytes.
    fn finish(self: Box<Self>) -> BoxFuture<'static, io::Result<([u8; 32], u64)>>;
}

/// A store for large outputs.
pub trait BlobSinks: Send + Sync {
    /// Starts a blob.
    fn create(&self) -> BoxFuture<'_, io::Result<Box<dyn BlobSink>>>;
}

/// A reason for which output was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// More than the limit.
    #[error("the output is over the limit of {}", crate::config::value::show_size(*.0))]
    TooLarge(u64),
    /// Our own store failed.
    #[error("storing the output")]
    Store(#[source] io::Error),
}

impl SpoolError {
    /// All of it in one line, with its cause.
    #[must_use]
    pub fn story(&self) -> String {
        match self {
            Self::TooLarge(_) => self.to_string(),
            Self::Store(source) => format!("{self}: {source}"),
        }
    }

    /// The same again: the cause of an error of the system cannot be shared.
    fn again(&self) -> Self {
        match self {
            Self::TooLarge(limit) => Self::TooLarge(*limit),
            Self::Store(source) => Self::Store(io::Error::new(source.kind(), source.to_string())),
        }
    }
}

/// Limits of one output, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct OutputLimits {
    /// Kept in memory; more goes to a blob.
    pub inline: usize,
    /// Taken at all.
    pub total: u64,
}

/// Output of one run. Once it has refused a chunk there is no output any more, whoever asks for it.
pub struct Spool<'a> {
    sinks: &'a dyn BlobSinks,
    limits: OutputLimits,
    len: u64,
    inline: Vec<u8>,
    sink: Option<Box<dyn BlobSink>>,
    refused: Option<SpoolError>,
}

impl<'a> Spool<'a> {
    /// An empty one.
    #[must_use]
    pub fn new(sinks: &'a dyn BlobSinks, limits: OutputLimits) -> Self {
        Self { sinks, limits, len: 0, inline: Vec::new(), sink: None, refused: None }
    }

    /// Takes a chunk.
    pub async fn push(&mut self, chunk: &[u8]) -> Result<(), SpoolError> {
        let taken = self.take(chunk).await;
        if let Err(why) = &taken {
            self.refused = Some(why.again());
            self.sink = None;
        }
        taken
    }

    async fn take(&mut self, chunk: &[u8]) -> Result<(), SpoolError> {
        let len = self.len + chunk.len() as u64;
        if len > self.limits.total {
            return Err(SpoolError::TooLarge(self.limits.total));
        }
        self.len = len;
        if self.sink.is_none() && self.inline.len() + chunk.len() > self.limits.inline {
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

    /// Everything that came, byte for byte.
    ///
    /// # Errors
    /// A chunk was refused, or the blob cannot be kept.
    pub async fn finish(self) -> Result<Output, SpoolError> {
        if let Some(why) = self.refused {
            return Err(why);
        }
        match self.sink {
            None => Ok(Output::Inline(Bytes::from(self.inline))),
            Some(sink) => {
                let (hash, len) = sink.finish().await.map_err(SpoolError::Store)?;
                Ok(Output::Stored { hash, len })
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
        pub(crate) blobs: Arc<Mutex<BTreeMap<[u8; 32], Vec<u8>>>>,
        pub(crate) longest_chunk: Arc<Mutex<usize>>,
    }

    pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
        ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().try_into().unwrap()
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

        fn finish(self: Box<Self>) -> BoxFuture<'static, io::Result<([u8; 32], u64)>> {
            let (hash, len) = (sha256(&self.1), self.1.len() as u64);
            self.0.blobs.lock().unwrap().insert(hash, self.1);
            Box::pin(async move { Ok((hash, len)) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testing::MemorySinks;

    const LIMITS: OutputLimits = OutputLimits { inline: 32, total: u64::MAX };

    #[tokio::test]
    async fn small_output_stays_inline_and_large_becomes_a_blob() {
        let sinks = MemorySinks::default();
        let mut spool = Spool::new(&sinks, LIMITS);
        spool.push(&[0xff; LIMITS.inline]).await.unwrap();
        assert_eq!(spool.finish().await.unwrap(), Output::Inline(vec![0xff; LIMITS.inline].into()));
        assert!(sinks.blobs.lock().unwrap().is_empty());

        let mut spool = Spool::new(&sinks, LIMITS);
        spool.push(&[1; LIMITS.inline]).await.unwrap();
        spool.push(&[2]).await.unwrap();
        let whole = [vec![1; LIMITS.inline], vec![2]].concat();
        let Output::Stored { hash, len } = spool.finish().await.unwrap() else { panic!("a blob") };
        assert_eq!(len, whole.len() as u64);
        assert_eq!(sinks.blobs.lock().unwrap()[&hash], whole);
    }

    #[tokio::test]
    async fn the_limit_is_exact_and_named() {
        let sinks = MemorySinks::default();
        let mut spool = Spool::new(&sinks, OutputLimits { total: 1024, ..LIMITS });
        spool.push(&[0; 1024]).await.unwrap();
        let error = spool.push(&[0]).await.unwrap_err();
        assert_eq!(error.to_string(), "the output is over the limit of 1KiB");
        let error = spool.finish().await.unwrap_err();
        assert_eq!(error.to_string(), "the output is over the limit of 1KiB", "a part is not the output");
    }
}
