//! NodeService, the gateway side.
