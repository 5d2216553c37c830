//! What tools with a restricted network asked for outside, told to the audit.

use mesh_core::audit_record::{AuditRow, HOST_BYTES_MAX, Happened, Outside};
use mesh_core::ids::ReqId;
use mesh_core::limits;
use mesh_core::policy::{Principal, Verdict};
use tokio::sync::mpsc;

use crate::mesh::{MeshHandle, note_refused};
use crate::runtime::egress::Told;

/// Tells all of it, for as long as there is something that asks.
pub async fn follow(mesh: MeshHandle, mut went_out: mpsc::Receiver<Told>) {
    while let Some(told) = went_out.recv().await {
        let call: Option<ReqId> = told.behalf.call.as_ref().and_then(|call| call.parse().ok());
        let principal = match call {
            Some(call) => asker(&mesh, call).await,
            None => None,
        };
        note_refused(&mesh, AuditRow { call, target: Some(mesh.view().me), ..row(told, principal) });
    }
}

/// Who has asked for a call.
async fn asker(mesh: &MeshHandle, call: ReqId) -> Option<Principal> {
    let record = mesh.call(call).await.ok()??;
    Some(mesh.view().asked_by(&record.header, &record.origin).into_owned())
}

fn row(told: Told, principal: Option<Principal>) -> AuditRow {
    let Told { behalf, host, port, allowed, why, sent, received, count } = told;
    let verdict = if allowed { Verdict::Allow } else { Verdict::Deny };
    let host = limits::cut(&host, HOST_BYTES_MAX).to_owned();
    AuditRow {
        count,
        tool: behalf.tool.and_then(|tool| tool.parse().ok()),
        outside: Some(Outside { host, port, sent, received }),
        ..AuditRow::new(Happened::Egress, principal, verdict, &format!("{}: {why}", behalf.provider))
    }
}
