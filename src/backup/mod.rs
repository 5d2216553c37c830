//! A home in one file: taken from a running or a stopped agent, and put back into an empty home.
//!
//! In it are the settings, the kept name, the device key, the rows of the store and of the memory of workspaces, each as they
//! were at one moment, and those large payloads that an open call needs. Not in it: results of calls that have ended, and what a start makes anew.
//!
//! Whatever a file says is taken for hostile until it is judged: sizes before memory is used, each key and hash, the sum
//! of the whole file, and last the mesh that the rows tell of, which is taken up in memory before anything of it reaches
//! the home.

mod error;
mod format;
mod restore;
mod take;

pub use error::BackupError;
pub use format::{Contents, Left, Manifest, inspect};
pub use restore::{Device, Restored, UNFINISHED, is_empty, peek, restore};
pub use take::Source;

/// Files of a home that a backup holds as they are.
const SETTINGS: &str = "sigil.toml";
const NAME: &str = "name";
/// Where the large payloads of a home lie, its store, and the high-water mark of that.
const BLOBS: &str = "blobs";
const STORE: &str = "store";
/// Where the memory of workspaces lies.
const MEMORY: &str = "memory";
const HIGH_WATER: &str = "high-water";
