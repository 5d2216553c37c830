//! Authentication: peer credentials on the socket; host name, origin and token or session of the page on HTTP, and on the tailnet
//! the login of the node at the other end.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method};
use mesh_core::audit_record::{AuditRow, Happened};
use mesh_core::io::View;
use mesh_core::policy::{AgentName, Person, Principal, Verdict};

use crate::doors::app::Context;
use crate::doors::identity::{Identity, Login};
use crate::doors::listen::Arrival;
use crate::doors::other_end::OtherEnd;
use crate::doors::sessions::{self, Sessions};
use crate::doors::tokens::Shown;
use crate::mesh::clock::now;
use crate::mesh::tailnet;
use crate::status::{ErrorCode, OpError};

/// The next step of whoever shows no token.
const TOKEN_HINT: &str = "`sigil token` prints one; send it as `Authorization: Bearer TOKEN`";

/// Names of the loopback door.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// Path of the MCP door: for whoever calls tools, by whatever method.
const MCP: &str = "/mcp";
/// Names an MCP client on the unix socket, which asks as an agent of this name. Else it is that of [`MCP_AGENT`].
pub(crate) const CLIENT_HEADER: &str = "sigil-mcp-client";
/// Name of an agent that has none.
const MCP_AGENT: &str = "mcp";

/// True if `authority` is one of `hosts`, at `port`. A page of another site that gets its name resolved to an address of ours
/// (DNS rebinding) still sends its own name.
fn names_us(authority: &str, hosts: &[impl AsRef<str>], port: u16) -> bool {
    let Ok(authority) = authority.parse::<Authority>() else { return false };
    let host = authority.host().trim_end_matches('.');
    let ours = hosts.iter().any(|ours| host.eq_ignore_ascii_case(ours.as_ref()));
    ours && !authority.as_str().contains('@') && authority.port_u16().unwrap_or(80) == port
}

/// `Err` if a request names another host than this door, or comes from a page of another origin.
fn check_site(request: &Request, hosts: &[impl AsRef<str>], port: u16) -> Result<(), OpError> {
    let headers = request.headers();
    let mut named = headers.get_all(HOST).iter();
    let host = named.next().and_then(|v| v.to_str().ok());
    let absolute = request.uri().authority().is_none_or(|authority| names_us(authority.as_str(), hosts, port));
    if !absolute || named.next().is_some() || !host.is_some_and(|host| names_us(host, hosts, port)) {
        let names: Vec<&str> = hosts.iter().map(AsRef::as_ref).collect();
        let plain = |name: &&&str| name.parse::<std::net::Ipv4Addr>().is_ok();
        let use_ = names.iter().find(plain).or(names.last()).copied().unwrap_or_default();
        return Err(OpError::new(ErrorCode::WrongHost, format!("this door answers as {} only", names.join(" or ")))
            .hint(format!("use http://{use_}:{port}")));
    }
    check_origin(request, hosts, port)
}

/// `Err` if a request comes from a page of another origin.
fn check_origin(request: &Request, hosts: &[impl AsRef<str>], port: u16) -> Result<(), OpError> {
    let headers = request.headers();
    // A browser names the page's origin on everything that changes something, and on every cross-origin read.
    if changes(request.method()) || matches!(request.uri().path(), "/api/v1/events" | SESSION | MCP) {
        let same_origin = headers.get_all(ORIGIN).iter().all(|origin| {
            let host = origin.to_str().ok().and_then(|o| o.strip_prefix("http://"));
            host.is_some_and(|host| names_us(host, hosts, port))
        });
        let site = headers.get("sec-fetch-site").map(axum::http::HeaderValue::as_bytes);
        if !same_origin || !matches!(site, None | Some(b"same-origin" | b"none")) {
            return Err(OpError::new(ErrorCode::CrossOrigin, "a web page of another origin may not do this"));
        }
    }
    Ok(())
}

fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// The session that a request came with.
const SESSION: &str = "/api/v1/session";
/// Header with the value that a page has to send along.
const CSRF: &str = "x-sigil-csrf";

/// True for routes that anyone on this machine may ask: they answer nothing but "yes" or "no", are files of the page that are
/// the same for everybody, or take a code (other methods than those of a session there are none).
fn is_public(method: &Method, path: &str) -> bool {
    let is_page =
        matches!(path, "/" | "/manifest.webmanifest" | "/icon.svg" | "/sw.js") || path.starts_with("/assets/");
    matches!(path, "/healthz" | "/readyz")
        || is_page && !changes(method)
        || path == SESSION && !matches!(*method, Method::GET | Method::HEAD | Method::DELETE)
}

/// True if the request names the host of the page.
pub(super) fn is_at(request: &Request, page: &str, port: u16) -> bool {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    host.is_some_and(|host| names_us(host, &[page], port))
}

/// The cookie of a session.
pub(super) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let pairs = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(';'));
    let mut ours = pairs.filter_map(|pair| pair.trim().strip_prefix(sessions::COOKIE)?.strip_prefix('='));
    // Of two, one was set by somebody else.
    ours.next().filter(|_| ours.next().is_none())
}

/// The session of a request to the page's host, if it came with one that counts.
///
/// # Errors
/// It changes something, and the page did not send along what only it knows.
fn session(sessions: &Sessions, request: &Request, from: &OtherEnd, view: &View) -> Result<Option<Identity>, OpError> {
    let Some(cookie) = cookie(request.headers()) else { return Ok(None) };
    let Some(session) = sessions.find(cookie, from.user(), view, now().wall_ms) else { return Ok(None) };
    let shown = request.headers().get(CSRF).map(axum::http::HeaderValue::as_bytes);
    if changes(request.method()) && !shown.is_some_and(|shown| sessions::is_csrf_of(cookie, shown)) {
        return Err(OpError::new(
            ErrorCode::Csrf,
            format!("the header `{CSRF}` is missing or not that of this session"),
        )
        .hint("reload the page"));
    }
    Ok(Some(Identity::Session(session)))
}

/// True for what whoever calls tools may read: devices and tools, and what the routes themselves keep to what concerns the
/// caller. All else is for who looks after the mesh.
fn is_for_callers(path: &str) -> bool {
    let Some(rest) = path.strip_prefix("/api/v1/") else { return matches!(path, "/openapi.json" | MCP) };
    let first = rest.split('/').next().unwrap_or_default();
    matches!(first, "status" | "tools" | "calls" | "approvals" | "hours" | "events" | "tokens" | "session" | "sessions")
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
    context: &Context,
    request: &Request,
    found: &mut Option<Arc<Shown>>,
) -> Result<Option<Identity>, OpError> {
    let Context { mesh, tokens, sessions, .. } = context;
    let mut at_page = None;
    let node = match request.extensions().get::<Arrival>() {
        Some(Arrival::Socket { owner: true }) if request.uri().path() == MCP => {
            return client(request.headers(), &mesh.view()).map(Some);
        }
        Some(Arrival::Socket { owner: true }) => {
            return Ok(Some(Identity::Socket));
        }
        Some(Arrival::Socket { owner: false }) => {
            return Err(OpError::new(ErrorCode::Denied, "this socket serves only the user that the agent runs as")
                .hint("run the command as that user"));
        }
        Some(Arrival::Http { port, from }) => {
            let page = sessions.host();
            at_page = is_at(request, &page, *port).then_some(from);
            if at_page.is_some() {
                check_site(request, &[page], *port)?;
            } else {
                check_site(request, &LOOPBACK, *port)?;
            }
            None
        }
        Some(Arrival::Tailnet(visit)) => {
            check_site(request, &visit.site.hosts, visit.site.port)?;
            Some(&visit.node)
        }
        None => return Err(OpError::new(ErrorCode::Internal, "the connection came in through no known door")),
    };
    let (method, path) = (request.method(), request.uri().path());
    if is_public(method, path) {
        return Ok(None);
    }
    let view = mesh.view();
    // Under another name than its own the page has no session: a cookie of `127.0.0.1` is one of every service of this machine.
    // Nor has an MCP client one: whoever is signed in here is a person.
    let session = match at_page {
        Some(from) if path != MCP => session(sessions, request, from, &view)?,
        Some(_) | None => None,
    };
    let identity = match bearer(request.headers()) {
        Some(text) if let Some(shown) = tokens.find(text, &view.rights, &view.me, now().wall_ms) => {
            *found = Some(shown.clone());
            if shown.read_only && changes(request.method()) {
                return Err(OpError::new(ErrorCode::Denied, "this token only reads")
                    .hint("`sigil token` makes one that may do more"));
            }
            Identity::Token(shown)
        }
        None if let Some(session) = session => session,
        None if let Some(node) = node => Identity::Login(Arc::new(login(node, &view)?)),
        shown => {
            let unknown =
                "this token is not known here, revoked or expired, or nobody may ask for its holder at this device";
            let (detail, hint) = match shown {
                Some(_) => (unknown, TOKEN_HINT),
                None if at_page.is_some() => ("nobody is signed in here", "run `sigil ui` on this device"),
                None => ("the request carries no token", TOKEN_HINT),
            };
            return Err(OpError::new(ErrorCode::Unauthorized, detail).hint(hint));
        }
    };
    // Whatever route is added: what is changed here is a call, or looks after the mesh.
    if changes(method) && !path.starts_with("/api/v1/calls") && path != MCP && !is_own(&identity, path) {
        identity.require_admin(&view.rights)?;
    }
    if !changes(method) && !is_for_callers(path) && !identity.may_look(&view.rights) {
        let shows = match &identity {
            Identity::Token(_) => "this token",
            Identity::Login(_) => "this login",
            Identity::Socket | Identity::Client(_) | Identity::Session(_) => "this session",
        };
        let detail = format!("{shows} shows what its holder may call, and nothing of how the mesh is looked after");
        return Err(OpError::new(ErrorCode::Denied, detail)
            .hint("run `sigil` on this machine, or use a token of an owner or admin that is not narrowed"));
    }
    Ok(Some(identity))
}

/// An MCP client on the socket: an agent of whoever sits at this device, never she herself. Of a device at which no person sits
/// it is the device that asks.
///
/// # Errors
/// Its name can be none, it has one and no person sits here, or nothing may be asked for this agent.
fn client(headers: &HeaderMap, view: &View) -> Result<Identity, OpError> {
    let denied = |detail: String| OpError::new(ErrorCode::Denied, detail);
    let mut named = headers.get_all(CLIENT_HEADER).iter();
    let name = named.next();
    let text = name.map_or(Some(MCP_AGENT), |name| name.to_str().ok()).filter(|_| named.next().is_none());
    let agent: Option<AgentName> = text.and_then(|text| text.parse().ok());
    let agent = agent.ok_or_else(|| {
        OpError::new(ErrorCode::Invalid, "a client is named by 1 to 63 of a-z, 0-9 and -, and by no word of the rules")
    })?;
    let holder = match view.rights.sits_at(&view.me) {
        Some(Principal::Person(person)) => Principal::Agent(person, agent),
        Some(Principal::Device(_)) if name.is_some() => {
            return Err(denied("no person sits at this device, so that no agent of hers does".to_owned())
                .hint("an owner says whose a device is: `sigil person set PERSON --device NODE`"));
        }
        Some(device) => device,
        None => return Err(OpError::new(ErrorCode::NotMember, "this device belongs to no mesh now")),
    };
    if !view.rights.admits(&view.me, &holder) {
        return Err(denied(format!("nothing may be asked for `{holder}` at this device"))
            .hint("`sigil person list` shows who is suspended, and `sigil policy` which agents"));
    }
    Ok(Identity::Client(Arc::new(holder)))
}

/// True for what is changed by a person for herself, at a device that she sits at: an answer, a session.
fn is_own(identity: &Identity, path: &str) -> bool {
    let first = path.strip_prefix("/api/v1/").and_then(|rest| rest.split('/').next()).unwrap_or_default();
    identity.sits_here() && matches!(first, "approvals" | "hours" | "session" | "sessions")
}

/// The person at a node of the tailnet.
///
/// # Errors
/// Nobody is logged in there, nobody here has this login, or nothing may be asked for her at this device.
fn login(node: &tailnet::Identity, view: &View) -> Result<Login, OpError> {
    let denied = |detail| OpError::new(ErrorCode::Denied, detail);
    let Some(login) = &node.login else {
        let detail = format!("the node `{}` of the tailnet has tags, and so no user", node.node.name);
        return Err(denied(detail).hint("send a token as `Authorization: Bearer TOKEN`; `sigil token` prints one"));
    };
    let hash = Person::login(&view.mesh, login);
    if let Some(found) = Login::find(hash, &view.rights, &view.me) {
        return Ok(found);
    }
    Err(match view.rights.person_by_login(&hash) {
        Some(person) => denied(format!("nothing may be asked for `{person}` at this device")).hint(format!(
            "an owner says whose a device is: `sigil person set {person} --device NODE`; `sigil person list` shows who is suspended"
        )),
        None => denied(format!("nobody here has the login `{login}`"))
            .hint(format!("an owner says whose it is: `sigil person login PERSON {login}`")),
    })
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
        let names_us = |authority: &str, port| names_us(authority, &LOOPBACK, port);
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
