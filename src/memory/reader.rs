//! One open workspace, read: questions (`ask.rs`) and looking through it (`browse.rs`) are asked of this.

use memory_core::ids::WorkspaceId;

use super::held::Held;
use super::store::Store;

/// A workspace as it is read: what of it is in memory, and the texts on disk. All methods block.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    pub(super) id: WorkspaceId,
    pub(super) held: &'a Held,
    pub(super) store: &'a Store,
}
