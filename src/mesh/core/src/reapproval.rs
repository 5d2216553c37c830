//! Devices whose approval turned out to be void, as people see them.

use crate::ids::{NodeId, PeerId, PublicKey};
use crate::record::Tier;

/// A device that an owner may approve again, or revoke. Until then nothing that it asks for runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReapprovalView {
    /// Identity.
    pub peer: PeerId,
    /// Key, to approve it.
    pub key: PublicKey,
    /// Name that it was given.
    pub node_id: NodeId,
    /// Its tier.
    pub tier: Tier,
    /// Its approver.
    pub approved_by: PeerId,
    /// Peer that had revoked the approver without knowing of this device; `None`: the approver awaits re-approval
    /// itself.
    pub revoked_by: Option<PeerId>,
}

impl ReapprovalView {
    /// Why it waits, for people.
    #[must_use]
    pub fn why(&self) -> String {
        let by = self.approved_by.short();
        match self.revoked_by {
            Some(revoker) => format!("peer {by} approved it after peer {} had removed that one", revoker.short()),
            None => format!("peer {by} approved it, and awaits re-approval itself"),
        }
    }
}
