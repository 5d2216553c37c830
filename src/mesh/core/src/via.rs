//! Ways of links, and the reach of a peer by them.

/// Way of a link's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Via {
    /// From one end to the other.
    #[default]
    Direct,
    /// By a third peer. Which one may change while the link stays.
    Relayed,
}

/// Reach of a peer, for the choice of the better gateway: by direct links and relays first, since as gateway it
/// would have relayed links; then by direct links alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reach {
    /// Members that it could be linked to, itself included.
    pub(crate) could: usize,
    /// Members that it has a direct link to, itself included.
    pub(crate) direct: usize,
}
