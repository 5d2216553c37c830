//! Output on its way: in memory while it is small, then in a file of the blob store. Memory stays small either way.

use std::io;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::outcome::Output;

/// Parts of one result, its output among them.
pub const PARTS_MAX: usize = 16;

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
    /// More parts than a result may have.
    #[error("the result has more than {PARTS_MAX} parts")]
    TooMany,
    /// Our own store failed.
    #[error("storing the output")]
    Store(#[source] io::Error),
}

impl SpoolError {
    /// All of it in one line, with its cause.
    #[must_use]
    pub fn story(&self) -> String {
        match self {
            Self::TooLarge(_) | Self::TooMany => self.to_string(),
            Self::Store(source) => format!("{self}: {source}"),
        }
    }

    /// The same again: the cause of an error of the system cannot be shared.
    fn again(&self) -> Self {
        match self {
            Self::TooLarge(limit) => Self::TooLarge(*limit),
            Self::TooMany => Self::TooMany,
            Self::Store(source) => Self::Store(io::Error::new(source.kind(), source.to_string())),
        }
    }
}

/// Limits of all that one run gives, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct OutputLimits {
    /// Kept in memory; more goes to blobs.
    pub inline: usize,
    /// Taken at all.
    pub total: u64,
}

/// Kind of a part: its type, and its name, which may be empty. As whoever gave it says, so nothing is sure of either.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kind {
    /// Type of its bytes (RFC 6838).
    pub media_type: String,
    /// Name of a file.
    pub name: String,
}

/// All that a run gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Its output, the first part.
    pub output: Output,
    /// Kind of that, if it was said.
    pub kind: Option<Kind>,
    /// What follows, in order.
    pub more: Vec<(Kind, Output)>,
    /// The limit that was too small for all of it: these are the first bytes of so many.
    pub cut_at: Option<u64>,
}

/// All that one run gives: its output, and parts that follow. Once it has refused a chunk it takes nothing more; over its
/// limit, what fits is kept, and if the store failed there is nothing at all, whoever asks for it.
pub struct Spool<'a> {
    sinks: &'a dyn BlobSinks,
    limits: OutputLimits,
    /// Bytes of all parts, and of those of them that are in memory for good.
    len: u64,
    kept_inline: usize,
    /// Of the part that is being given.
    inline: Vec<u8>,
    sink: Option<Box<dyn BlobSink>>,
    /// Kinds of the first part, and of those that follow.
    kind: Option<Kind>,
    more: Vec<Kind>,
    /// Those that are whole: all but the last.
    whole: Vec<Output>,
    refused: Option<SpoolError>,
}

impl<'a> Spool<'a> {
    /// An empty one.
    #[must_use]
    pub fn new(sinks: &'a dyn BlobSinks, limits: OutputLimits) -> Self {
        Self {
            sinks,
            limits,
            len: 0,
            kept_inline: 0,
            inline: Vec::new(),
            sink: None,
            kind: None,
            more: Vec::new(),
            whole: Vec::new(),
            refused: None,
        }
    }

    /// Says of which kind the output is: the first part.
    pub fn set_kind(&mut self, kind: Kind) {
        self.kind = Some(kind);
    }

    /// Begins another part: what is pushed from now on is its.
    ///
    /// # Errors
    /// There are as many as there may be, or the one before cannot be kept.
    pub async fn begin(&mut self, kind: Kind) -> Result<(), SpoolError> {
        if self.more.len() + 1 >= PARTS_MAX {
            return Err(SpoolError::TooMany);
        }
        match self.end_part().await {
            Ok(output) => self.whole.push(output),
            Err(why) => {
                self.refused = Some(why.again());
                return Err(why);
            }
        }
        self.more.push(kind);
        Ok(())
    }

    /// Takes a chunk of the part that was begun last; the output is the first.
    pub async fn push(&mut self, chunk: &[u8]) -> Result<(), SpoolError> {
        if let Some(why) = &self.refused {
            return Err(why.again());
        }
        let room = usize::try_from(self.limits.total.saturating_sub(self.len)).unwrap_or(usize::MAX);
        let fits = chunk.get(..room).unwrap_or(chunk);
        let taken = match self.take(fits).await {
            Ok(()) if fits.len() < chunk.len() => Err(SpoolError::TooLarge(self.limits.total)),
            taken => taken,
        };
        if let Err(why) = &taken {
            self.refused = Some(why.again());
        }
        taken
    }

    async fn take(&mut self, chunk: &[u8]) -> Result<(), SpoolError> {
        self.len += chunk.len() as u64;
        if self.sink.is_none() && self.kept_inline + self.inline.len() + chunk.len() > self.limits.inline {
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

    async fn end_part(&mut self) -> Result<Output, SpoolError> {
        match self.sink.take() {
            None => {
                self.kept_inline += self.inline.len();
                Ok(Output::Inline(Bytes::from(std::mem::take(&mut self.inline))))
            }
            Some(sink) => {
                let (hash, len) = sink.finish().await.map_err(SpoolError::Store)?;
                Ok(Output::Stored { hash, len })
            }
        }
    }

    /// Everything that came, byte for byte, as far as the limit lets it.
    ///
    /// # Errors
    /// The store has refused a chunk, or a blob cannot be kept.
    pub async fn finish(mut self) -> Result<Given, SpoolError> {
        let cut_at = match self.refused.take() {
            None | Some(SpoolError::TooMany) => None,
            Some(SpoolError::TooLarge(limit)) => Some(limit),
            Some(why @ SpoolError::Store(_)) => return Err(why),
        };
        let last = self.end_part().await?;
        let mut outputs = self.whole.into_iter().chain([last]);
        let output = outputs.next().unwrap_or(Output::Inline(Bytes::new()));
        Ok(Given { output, kind: self.kind, more: self.more.into_iter().zip(outputs).collect(), cut_at })
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

    fn kind(name: &str) -> Kind {
        Kind { media_type: "text/plain".to_owned(), name: name.to_owned() }
    }

    #[tokio::test]
    async fn small_output_stays_inline_and_large_becomes_a_blob() {
        let sinks = MemorySinks::default();
        let mut spool = Spool::new(&sinks, LIMITS);
        spool.push(&[0xff; LIMITS.inline]).await.unwrap();
        let given = spool.finish().await.unwrap();
        assert_eq!(given.output, Output::Inline(vec![0xff; LIMITS.inline].into()));
        assert_eq!((given.kind, given.more, given.cut_at), (None, Vec::new(), None));
        assert!(sinks.blobs.lock().unwrap().is_empty());

        let mut spool = Spool::new(&sinks, LIMITS);
        spool.push(&[1; LIMITS.inline]).await.unwrap();
        spool.push(&[2]).await.unwrap();
        let whole = [vec![1; LIMITS.inline], vec![2]].concat();
        let Output::Stored { hash, len } = spool.finish().await.unwrap().output else { panic!("a blob") };
        assert_eq!(len, whole.len() as u64);
        assert_eq!(sinks.blobs.lock().unwrap()[&hash], whole);
    }

    #[tokio::test]
    async fn the_limit_is_exact_and_named_and_what_fits_is_kept() {
        let sinks = MemorySinks::default();
        let mut spool = Spool::new(&sinks, OutputLimits { total: 1024, ..LIMITS });
        spool.push(&[0; 1000]).await.unwrap();
        let error = spool.push(&[1; 25]).await.unwrap_err();
        assert_eq!(error.to_string(), "the output is over the limit of 1KiB");
        let error = spool.push(&[2]).await.unwrap_err();
        assert_eq!(error.to_string(), "the output is over the limit of 1KiB", "nothing comes after a gap");
        let given = spool.finish().await.unwrap();
        let Output::Stored { hash, len: 1024 } = given.output else { panic!("a blob") };
        assert_eq!(given.cut_at, Some(1024));
        assert_eq!(sinks.blobs.lock().unwrap()[&hash], [vec![0; 1000], vec![1; 24]].concat());
    }

    #[tokio::test]
    async fn parts_share_the_room_in_memory_and_the_limit() {
        let sinks = MemorySinks::default();
        let mut spool = Spool::new(&sinks, OutputLimits { inline: 32, total: 100 });
        spool.push(&[0; 20]).await.unwrap();
        spool.set_kind(kind("a"));
        spool.begin(kind("b")).await.unwrap();
        spool.push(&[1; 20]).await.unwrap();
        spool.begin(kind("c")).await.unwrap();
        spool.push(&[2; 12]).await.unwrap();
        spool.begin(kind("d")).await.unwrap();
        spool.push(&[3; 60]).await.unwrap_err();
        let given = spool.finish().await.unwrap();
        assert_eq!((given.output, given.kind), (Output::Inline(vec![0; 20].into()), Some(kind("a"))));
        let shown = |(kind, output): (Kind, Output)| match output {
            Output::Inline(bytes) => (kind.name, true, bytes.len() as u64),
            Output::Stored { len, .. } => (kind.name, false, len),
        };
        let more: Vec<_> = given.more.into_iter().map(shown).collect();
        let part = |name: &str, inline, len| (name.to_owned(), inline, len);
        assert_eq!(more, [part("b", false, 20), part("c", true, 12), part("d", false, 48)]);
        assert_eq!(given.cut_at, Some(100));
    }

    #[tokio::test]
    async fn there_are_only_so_many_parts() {
        let sinks = MemorySinks::default();
        let mut spool = Spool::new(&sinks, LIMITS);
        for _ in 1..PARTS_MAX {
            spool.begin(kind("x")).await.unwrap();
        }
        assert!(matches!(spool.begin(kind("x")).await, Err(SpoolError::TooMany)));
        assert_eq!(spool.finish().await.unwrap().more.len(), PARTS_MAX - 1);
    }
}
