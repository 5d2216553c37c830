//! Ways into a mesh and out of it.

use std::time::Duration;

use mesh_core::ids::{MeshId, NodeId, PeerId};
use mesh_core::record::Tier;

use crate::mesh::MeshHandle;
use crate::mesh::{Invite, JoinTarget, Joined, Nearby, Pending};
use crate::status::{ErrorCode, OpError};

/// Lifetime of an invite that names none: long enough to walk to another room.
pub const INVITE_TTL_DEFAULT: Duration = Duration::from_mins(15);
/// Longest lifetime of an invite.
pub const INVITE_TTL_MAX: Duration = Duration::from_hours(7 * 24);

/// Devices that await approval, in the order in which they first asked.
#[must_use]
pub fn pending(mesh: &MeshHandle) -> Vec<Pending> {
    let mut waiting = mesh.surroundings().pending.clone();
    waiting.sort_by_key(|pending| (pending.since_ms, pending.peer));
    waiting
}

/// Strangers seen on the local network, by name.
#[must_use]
pub fn nearby(mesh: &MeshHandle) -> Vec<Nearby> {
    let mut seen = mesh.surroundings().nearby.clone();
    seen.sort_by(|a, b| (&a.name, a.peer.to_string()).cmp(&(&b.name, b.peer.to_string())));
    seen
}

/// Makes a single-use invite that grants `tier`; `ttl` = [`INVITE_TTL_DEFAULT`] if none is named.
///
/// # Errors
/// `ttl` is below one second or above [`INVITE_TTL_MAX`], or the mesh refuses.
pub async fn invite(mesh: &MeshHandle, tier: Tier, ttl: Option<Duration>) -> Result<Invite, OpError> {
    let ttl = ttl.unwrap_or(INVITE_TTL_DEFAULT);
    if !(Duration::from_secs(1)..=INVITE_TTL_MAX).contains(&ttl) {
        let detail = format!("an invite must expire after 1 to {} seconds", INVITE_TTL_MAX.as_secs());
        return Err(OpError::new(ErrorCode::Invalid, detail));
    }
    Ok(mesh.invite(tier, ttl).await?)
}

/// The state of this device after a join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinState {
    /// This device belongs to `mesh` under the name `node_id`.
    Member {
        /// The name that it got.
        node_id: NodeId,
        /// The mesh.
        mesh: MeshId,
    },
    /// A person at the other device must approve; the agent keeps asking.
    Pending {
        /// The device that must approve.
        peer: PeerId,
        /// This device: the id that the person there compares.
        me: PeerId,
    },
}

/// Joins another mesh. `force` = even when that means leaving a mesh of several devices.
///
/// # Errors
/// Each cause has its own code: see [`JoinError`](crate::mesh::JoinError).
pub async fn join(mesh: &MeshHandle, target: JoinTarget, force: bool) -> Result<JoinState, OpError> {
    let joined = mesh.join(target, force).await?;
    let view = mesh.view();
    Ok(match joined {
        Joined::Member(node_id) => JoinState::Member { node_id, mesh: view.mesh },
        Joined::Pending { peer } => JoinState::Pending { peer, me: view.me },
    })
}

/// Leaves the mesh and founds one of its own, which is answered. Open calls end as undeliverable.
///
/// # Errors
/// The mesh refuses.
pub async fn leave(mesh: &MeshHandle) -> Result<MeshId, OpError> {
    mesh.leave().await?;
    Ok(mesh.view().mesh)
}
