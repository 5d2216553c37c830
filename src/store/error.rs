//! Failures of a store.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a store does not work.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has it open.
    #[error("the store `{dir}` is in use by {}; one agent at a time may run on a home directory", process(*.pid))]
    Locked {
        /// Directory of the store.
        dir: PathBuf,
        /// The process; 0 if it did not say which it is.
        pid: u32,
    },
    /// It was written by a version of the program that lays out its rows otherwise. Nothing of it was touched.
    #[error("the store `{dir}` has format {found}, this version of sigil reads only format {readable}; {remedy}")]
    Format {
        /// Directory of the store.
        dir: PathBuf,
        /// Its format.
        found: u32,
        /// The format of this program.
        readable: u32,
        /// Next step, for people.
        remedy: &'static str,
    },
    /// A file or directory of ours cannot be used.
    #[error("{doing} `{path}`")]
    File {
        /// The operation that failed.
        doing: &'static str,
        /// Its file or directory.
        path: PathBuf,
        /// Cause.
        #[source]
        source: Arc<io::Error>,
    },
    /// fjall failed.
    #[error("{doing} in the local store")]
    Engine {
        /// The operation that failed.
        doing: &'static str,
        /// Cause.
        #[source]
        source: Arc<fjall::Error>,
    },
    /// A key is empty, too long, or one of the engine's own.
    #[error("a key of {len} bytes cannot be stored")]
    BadKey {
        /// Its length.
        len: usize,
    },
    /// The writer is gone: the store was closed, or its thread died.
    #[error("the local store is closed")]
    Closed,
}

fn process(pid: u32) -> String {
    if pid == 0 { "another process".to_owned() } else { format!("process {pid}") }
}

impl StoreError {
    pub(super) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { doing, path, source: Arc::new(source) }
    }

    pub(super) fn engine(doing: &'static str) -> impl FnOnce(fjall::Error) -> Self {
        move |source| Self::Engine { doing, source: Arc::new(source) }
    }
}
