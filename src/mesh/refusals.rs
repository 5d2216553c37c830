//! What happens outside of the core, told to the audit.

use mesh_core::audit_record::AuditRow;

use crate::mesh::handle::MeshHandle;
use crate::mesh::request::Request;

/// Tells the audit that a door has refused something, or that a tool has asked for something outside. Nobody waits for it, and
/// while very much is asked it is not told.
pub fn note_refused(mesh: &MeshHandle, row: AuditRow) {
    let _ = mesh.requests.try_send(Request::Refused(Box::new(row)));
}
