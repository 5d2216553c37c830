//! NodeService, the node side.
