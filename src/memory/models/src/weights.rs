//! Files of a model: read whole, hashed, and only then believed.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use data_encoding::HEXLOWER_PERMISSIVE;
use sha2::{Digest as _, Sha256};

/// Largest file that is read, bytes. An agent's budget is far below it.
pub const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
const CHUNK: usize = 1024 * 1024;

/// SHA-256 of a file.
pub type Sha = [u8; 32];

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It cannot be read.
    #[error("reading {path}")]
    Read {
        /// Its name.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is larger than what is expected.
    #[error("{path} is larger than {max} bytes")]
    TooLarge {
        /// Its name.
        path: String,
        /// Its limit.
        max: u64,
    },
    /// It is not the file that was asked for.
    #[error("{path} has the hash {got}, and {want} was expected: it is not used")]
    Hash {
        /// Its name.
        path: String,
        /// Of what was read.
        got: String,
        /// Of the file that was asked for.
        want: String,
    },
}

/// Reads a file and checks that its hash is `want`: what is used afterwards are these very bytes.
///
/// # Errors
/// See [`FileError`].
pub fn read_checked(path: &Path, want: &Sha, max: u64) -> Result<Vec<u8>, FileError> {
    let shown = || path.display().to_string();
    let failed = |source| FileError::Read { path: shown(), source };
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    if size > max {
        return Err(FileError::TooLarge { path: shown(), max });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    // One more than there may be: a file that grows while it is read is noticed.
    file.take(max + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > max {
        return Err(FileError::TooLarge { path: shown(), max });
    }
    let got = sha_of(&bytes);
    if got == *want { Ok(bytes) } else { Err(FileError::Hash { path: shown(), got: hex(&got), want: hex(want) }) }
}

/// The hash of bytes.
#[must_use]
pub fn sha_of(bytes: &[u8]) -> Sha {
    Sha256::digest(bytes).into()
}

/// The hash of a file, which is not held in memory.
///
/// # Errors
/// It cannot be read.
pub fn hash_of(path: &Path) -> Result<Sha, FileError> {
    let failed = |source| FileError::Read { path: path.display().to_string(), source };
    let mut file = File::open(path).map_err(failed)?;
    let mut sha = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = file.read(&mut chunk).map_err(failed)?;
        if read == 0 {
            return Ok(sha.finalize().into());
        }
        sha.update(chunk.get(..read).unwrap_or_default());
    }
}

/// A hash as people write it.
#[must_use]
pub fn hex(sha: &Sha) -> String {
    data_encoding::HEXLOWER.encode(sha)
}

/// Reads what [`hex`] writes, in capitals as well.
#[must_use]
pub fn parse_hex(text: &str) -> Option<Sha> {
    HEXLOWER_PERMISSIVE.decode(text.trim().as_bytes()).ok()?.try_into().ok()
}
