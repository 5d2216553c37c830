//! Reasons for which a backup is not taken or not put back.

use std::io;
use std::path::{Path, PathBuf};

use crate::memory::MemoryError;
use crate::mesh::FatalError;
use crate::mesh::identity::IdentityError;
use crate::store::StoreError;

/// The reason for which a backup was not taken or not put back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// A file or directory cannot be used.
    #[error("{doing} `{path}`")]
    File {
        /// The operation that failed.
        doing: &'static str,
        /// Its file or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// There is nothing to back up.
    #[error("`{0}` is no home of a device: it has no device key")]
    NoHome(PathBuf),
    /// A file is larger than any that a home has.
    #[error("`{name}` has more than {max} bytes")]
    TooLarge {
        /// The file, or what else.
        name: String,
        /// The limit.
        max: u64,
    },
    /// The file is something else.
    #[error("this is no backup of sigil")]
    NotABackup,
    /// Another version of the program wrote it.
    #[error("the backup has format {found}, this version of sigil reads only format {readable}")]
    Version {
        /// Its format.
        found: u32,
        /// The format of this program.
        readable: u32,
    },
    /// Its rows are laid out otherwise.
    #[error("the backup is of a store of format {found}, this version of sigil reads only format {readable}")]
    StoreFormat {
        /// Format of its rows.
        found: u32,
        /// The format of this program.
        readable: u32,
    },
    /// It ends too early.
    #[error("the backup is cut off: it ends after {0} bytes")]
    CutOff(u64),
    /// Its bytes are not those that were written.
    #[error("the backup is damaged: {0}")]
    Damaged(&'static str),
    /// Whoever wrote it could not write it whole.
    #[error("the backup was given up while it was written: {0}")]
    GivenUp(String),
    /// The key in it is none, or another device's than its rows are.
    #[error("the backup holds no usable device key")]
    Identity(#[from] IdentityError),
    /// The store failed.
    #[error("keeping the rows of the backup")]
    Store(#[from] StoreError),
    /// The memory of a workspace cannot be read, or not be kept.
    #[error("the memory of the device")]
    Memory(#[from] MemoryError),
    /// No agent could start from its rows.
    #[error("the backup holds no mesh that can be taken up")]
    Mesh(#[source] FatalError),
    /// Something lies in the home.
    #[error("`{0}` is not empty: a backup goes into an empty home only")]
    NotEmpty(PathBuf),
}

impl BackupError {
    pub(super) fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { doing, path, source }
    }
}
