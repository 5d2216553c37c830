//! Authentication: peer credentials on the socket; host name, origin and token on loopback HTTP.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method};
use mesh_core::audit_record::{AuditRow, Happened};
use mesh_core::policy::Verdict;

use crate::doors::identity::{Identity, Shown};
use crate::doors::listen::Arrival;
use crate::doors::tokens::Tokens;
use crate::mesh::MeshHandle;
use crate::mesh::clock::now;
use crate::status::{ErrorCode, OpError};

/// True if `authority` names our loopback door. A page of another site that gets its name resolved to 127.0.0.1 (DNS
/// rebinding) still sends its own name.
fn names_us(authority: &str, port: u16) -> bool {
    let Ok(authority) = authority.parse::<Authority>() else { return false };
    let host = authority.host().trim_end_matches('.');
    let ours = host.eq_ignore_ascii_case("localhost") || host == "127.0.0.1" || host == "[::1]";
    ours && !authority.as_str().contains('@') && authority.port_u16().unwrap_or(80) == port
}

/// True for routes that anyone on this machine may ask: they answer nothing but "yes" or "no".
fn is_public(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz")
}

/// True for what whoever calls tools may read: devices and tools, and what the routes themselves keep to what concerns the
/// caller. All else is for who looks after the mesh.
fn is_for_callers(path: &str) -> bool {
    let Some(rest) = path.strip_prefix("/api/v1/") else { return path == "/openapi.json" };
    let first = rest.split('/').next().unwrap_or_default();
    matches!(first, "status" | "tools" | "calls" | "approvals" | "hours" | "events" | "tokens")
        || first == "nodes" && rest.split('/').count() <= 2
        || rest == "policy/explain"
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The caller of a request: `None` for one that nobody has proven, on a public route. `found` gets the token, also where the
/// request is refused.
///
/// # Errors
/// The other end of the socket is another user; the request names another host or comes from a page of another origin;
/// or there is no valid token.
pub(super) fn identify(
    tokens: &Tokens,
    mesh: &MeshHandle,
    request: &Request,
    found: &mut Option<Arc<Shown>>,
) -> Result<Option<Identity>, OpError> {
    let port = match request.extensions().get::<Arrival>() {
        Some(Arrival::Socket { owner: true }) => {
            return Ok(Some(Identity::Socket));
        }
        Some(Arrival::Http { port }) => *port,
        Some(Arrival::Socket { owner: false }) => {
            return Err(OpError::new(ErrorCode::Denied, "this socket serves only the user that the agent runs as")
                .hint("run the command as that user"));
        }
        None => return Err(OpError::new(ErrorCode::Internal, "the connection came in through no known door")),
    };
    let headers = request.headers();
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().and_then(|v| v.to_str().ok());
    let absolute = request.uri().authority().is_none_or(|authority| names_us(authority.as_str(), port));
    if !absolute || hosts.next().is_some() || !host.is_some_and(|host| names_us(host, port)) {
        return Err(OpError::new(ErrorCode::WrongHost, "this door answers as localhost, 127.0.0.1 or [::1] only")
            .hint(format!("use http://127.0.0.1:{port}")));
    }
    // A browser names the page's origin on everything that changes something, and on every cross-origin read.
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if changes || request.uri().path() == "/api/v1/events" {
        let same_origin = headers.get_all(ORIGIN).iter().all(|origin| {
            origin.to_str().ok().and_then(|o| o.strip_prefix("http://")).is_some_and(|host| names_us(host, port))
        });
        let site = headers.get("sec-fetch-site").map(axum::http::HeaderValue::as_bytes);
        if !same_origin || !matches!(site, None | Some(b"same-origin" | b"none")) {
            return Err(OpError::new(ErrorCode::CrossOrigin, "a web page of another origin may not do this"));
        }
    }
    if is_public(request.uri().path()) {
        return Ok(None);
    }
    let view = mesh.view();
    match bearer(headers) {
        Some(text) if let Some(shown) = tokens.find(text, &view.rights, &view.me, now().wall_ms) => {
            *found = Some(shown.clone());
            if shown.read_only && changes {
                return Err(OpError::new(ErrorCode::Denied, "this token only reads")
                    .hint("`sigil token` makes one that may do more"));
            }
            let identity = Identity::Token(shown);
            // Whatever route is added: what a token changes is a call, or it looks after the mesh.
            let path = request.uri().path();
            if changes && !path.starts_with("/api/v1/calls") {
                identity.require_admin(&view.rights)?;
            }
            if !changes && !is_for_callers(path) && !identity.may_look(&view.rights) {
                let detail = "this token shows what its holder may call, and nothing of how the mesh is looked after";
                return Err(OpError::new(ErrorCode::Denied, detail)
                    .hint("run `sigil` on this machine, or use a token of an owner or admin that is not narrowed"));
            }
            Ok(Some(identity))
        }
        shown => {
            let unknown =
                "this token is not known here, revoked or expired, or nobody may ask for its holder at this device";
            let detail = if shown.is_some() { unknown } else { "the request carries no token" };
            Err(OpError::new(ErrorCode::Unauthorized, detail)
                .hint("`sigil token` prints one; send it as `Authorization: Bearer TOKEN`"))
        }
    }
}

/// What the audit says of a caller that was refused here; `None` of one that has shown nothing.
pub(super) fn refused(request: &Request, found: Option<&Shown>, error: &OpError) -> Option<AuditRow> {
    if error.code == ErrorCode::Unauthorized && bearer(request.headers()).is_none() {
        return None;
    }
    let holder = found.map(|shown| shown.holder.clone());
    let row = AuditRow::new(Happened::DoorRefused, holder, Verdict::Deny, &format!("door:{}", error.code));
    Some(AuditRow { token: found.map(|shown| shown.id.clone()), ..row })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s28_what_a_new_route_shows_is_not_for_everybody() {
        for open in ["calls", "calls/x/result", "nodes", "nodes/hub", "tools", "status", "events", "policy/explain"] {
            assert!(is_for_callers(&format!("/api/v1/{open}")), "{open}");
        }
        for closed in [
            "policy",
            "policy/matrix",
            "people",
            "people/mia",
            "workspaces",
            "logs",
            "audit",
            "doctor",
            "nodes/hub/guests",
            "nodes/hub/rights",
            "new",
        ] {
            assert!(!is_for_callers(&format!("/api/v1/{closed}")), "{closed}");
        }
        assert!(is_for_callers("/openapi.json") && !is_for_callers("/metrics"));
    }

    #[test]
    fn only_loopback_names_are_ours() {
        for good in ["localhost:7434", "LOCALHOST:7434", "127.0.0.1:7434", "[::1]:7434"] {
            assert!(names_us(good, 7434), "{good}");
        }
        for bad in [
            "localhost",
            "localhost:7435",
            "evil.example:7434",
            "127.0.0.1.evil.example:7434",
            "a@localhost:7434",
            "",
            "127.0.0.2:7434",
            "localhost:7434/x",
        ] {
            assert!(!names_us(bad, 7434), "{bad}");
        }
        assert!(names_us("localhost", 80));
    }
}
