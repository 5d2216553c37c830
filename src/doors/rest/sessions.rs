//! Sessions of the web page: a code from this device's socket opens one, a cookie keeps it.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{SET_COOKIE, USER_AGENT};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use mesh_core::policy::Principal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{JSON, Nothing, Segment, body, body_or_default, check_accept};
use super::model::{Page, time};
use super::rights::RoleName;
use super::shapes::{SessionId, SignInCode};
use crate::doors::app::{App, AppState};
use crate::doors::identity::Identity;
use crate::doors::listen::Arrival;
use crate::doors::sessions::{self, SessionInfo};
use crate::doors::{auth, ops};
use crate::status::{ErrorCode, OpError};

/// Terms of a session's cookie besides its value: no script reads it, no page of another site makes a browser send it, and
/// without a domain it goes to the page's own host alone. How long it counts is said here, not by the browser.
const COOKIE_TERMS: &str = "Path=/; HttpOnly; SameSite=Strict";
/// Seconds for which a browser keeps the cookie.
const COOKIE_AGE: u64 = sessions::IDLE_ADMIN.as_secs();

/// A code for the web page.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CodeAnswer {
    /// Opens one session; whoever has it can. Shown this once.
    code: String,
    /// The page, with the code behind the `#`, which no browser sends.
    url: String,
    /// The page without the code.
    page: String,
    /// Time of its end.
    expires_at: String,
}

/// Makes a code that opens one session of the web page. Only through the unix socket.
#[utoipa::path(post, path = "/api/v1/ui/codes", operation_id = "createUiCode", tag = "operation", request_body = Option<Nothing>,
    responses((status = 201, description = "The code", body = CodeAnswer)))]
pub(super) async fn code(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    request: Request<Body>,
) -> Result<(StatusCode, Json<CodeAnswer>), OpError> {
    let Nothing {} = body_or_default(request).await?;
    if !cfg!(feature = "ui") {
        return Err(OpError::new(ErrorCode::NotFound, "this sigil was built without the web page")
            .hint("build it with the feature `ui`"));
    }
    let (code, ends_ms) = ops::sessions::code(&app.context, &who)?;
    let page = format!("http://{}:{}/", app.context.sessions.host(), app.bound.http.port());
    let url = format!("{page}#/in/{code}");
    Ok((StatusCode::CREATED, Json(CodeAnswer { code, url, page, expires_at: time(ends_ms) })))
}

/// Whoever a session is for.
#[derive(Debug, Serialize, ToSchema)]
struct SessionHolder {
    /// As rights know it.
    id: String,
    /// For people.
    name: String,
    /// What it is.
    kind: HolderKind,
    /// Role in the mesh; null of a device.
    role: Option<RoleName>,
}

/// Kind of a holder.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum HolderKind {
    /// A person.
    Person,
    /// The device itself, at which no person sits.
    Device,
}

impl SessionHolder {
    fn new(app: &App, holder: &Principal) -> Self {
        let (kind, name) = match holder {
            Principal::Person(person) | Principal::Agent(person, _) => (HolderKind::Person, person.to_string()),
            Principal::Device(node) => (HolderKind::Device, node.to_string()),
        };
        let role = ops::sessions::role(&app.context, holder).map(Into::into);
        Self { id: holder.to_string(), name, kind, role }
    }
}

/// The caller's session.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SessionAnswer {
    /// By which it is listed and ended.
    #[schema(value_type = SessionId)]
    id: String,
    /// Whoever sits at this device.
    principal: SessionHolder,
    /// Name of this device.
    node_id: String,
    /// Name of its mesh.
    mesh_name: String,
    /// Identity of its mesh.
    mesh_id: String,
    /// Goes along with whatever changes something, as the header `X-Sigil-CSRF`.
    csrf: String,
    /// Time of its end, if it is not used again.
    expires_at: String,
    /// Time up to which it is new: it may edit rights, join from a device that is alone, and end other sessions.
    fresh_until: String,
    /// Version of the program.
    version: String,
}

impl SessionAnswer {
    fn new(app: &App, cookie: &str, info: &SessionInfo) -> Self {
        let (view, session) = (app.mesh().view(), &info.session);
        let fresh_ms = u64::try_from(sessions::FRESH.as_millis()).unwrap_or(u64::MAX);
        Self {
            id: session.id.clone(),
            principal: SessionHolder::new(app, &session.holder),
            node_id: view.node_id.to_string(),
            mesh_name: view.mesh_name.clone(),
            mesh_id: view.mesh.to_string(),
            csrf: sessions::csrf_of(cookie),
            expires_at: time(info.ends_ms),
            fresh_until: time(session.made_ms.saturating_add(fresh_ms)),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// A code.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SignIn {
    /// As `sigil ui` has printed it.
    code: SignInCode,
}

/// Opens a session of the web page, and sets its cookie. Only on loopback HTTP, under the page's own host name: a cookie of
/// `127.0.0.1` would go to every other service of this machine.
#[utoipa::path(post, path = "/api/v1/session", operation_id = "signIn", tag = "operation", security(()), request_body = SignIn,
    responses((status = 200, description = "The session", body = SessionAnswer)))]
pub(super) async fn sign_in(State(app): AppState, request: Request<Body>) -> Result<Response, OpError> {
    let from = match request.extensions().get::<Arrival>() {
        Some(Arrival::Http { port, from }) if auth::is_at(&request, &app.context.sessions.host(), *port) => {
            from.clone()
        }
        Some(Arrival::Socket { .. }) => {
            let SignIn { code: SignInCode(_) } = body(request).await?;
            return Err(elsewhere());
        }
        // Of whoever has proven nothing no body is read in vain: half a one would keep a place.
        Some(Arrival::Http { .. } | Arrival::Tailnet(_)) | None => return Err(elsewhere()),
    };
    let agent = request.headers().get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default().to_owned();
    let SignIn { code: SignInCode(code) } = body(request).await?;
    let signed_in = ops::sessions::sign_in(&app.context, &code, &agent, from.user()).await?;
    let now = app.context.sessions.list(&app.mesh().view(), crate::mesh::clock::now().wall_ms);
    let info = now.into_iter().find(|info| info.session == signed_in.session);
    let info = info.ok_or_else(|| OpError::new(ErrorCode::Internal, "the session ended at once"))?;
    let mut response = Json(SessionAnswer::new(&app, &signed_in.cookie, &info)).into_response();
    set_cookie(
        &mut response,
        &format!("{}={}; {COOKIE_TERMS}; Max-Age={COOKIE_AGE}", sessions::COOKIE, signed_in.cookie),
    );
    Ok(response)
}

/// The page's name is not told: whoever sits here gets it from `sigil ui`.
fn elsewhere() -> OpError {
    OpError::new(ErrorCode::Denied, "nobody signs in under this name")
        .hint("run `sigil ui` on this device, and open the page that it names")
}

fn set_cookie(response: &mut Response, text: &str) {
    if let Ok(mut value) = HeaderValue::from_str(text) {
        value.set_sensitive(true);
        response.headers_mut().insert(SET_COOKIE, value);
    }
}

/// The caller's session of the web page.
#[utoipa::path(get, path = "/api/v1/session", operation_id = "getSession", tag = "operation",
    responses((status = 200, description = "The session", body = SessionAnswer)))]
pub(super) async fn current(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    headers: HeaderMap,
) -> Result<Json<SessionAnswer>, OpError> {
    check_accept(&headers, JSON)?;
    let info = ops::sessions::current(&app.context, &who).await?;
    Ok(Json(SessionAnswer::new(&app, auth::cookie(&headers).unwrap_or_default(), &info)))
}

/// Ends the caller's session of the web page.
#[utoipa::path(delete, path = "/api/v1/session", operation_id = "signOut", tag = "operation",
    responses((status = 204, description = "It is over")))]
pub(super) async fn sign_out(State(app): AppState, Extension(who): Extension<Identity>) -> Result<Response, OpError> {
    ops::sessions::sign_out(&app.context, &who).await?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    set_cookie(&mut response, &format!("{}=; {COOKIE_TERMS}; Max-Age=0", sessions::COOKIE));
    Ok(response)
}

/// A session of the web page.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SessionItem {
    /// By which it is ended.
    #[schema(value_type = SessionId)]
    id: String,
    /// Whoever it is for.
    principal: String,
    /// What its browser calls itself; not proven.
    user_agent: String,
    /// Time of its beginning.
    created_at: String,
    /// Time of its last use.
    last_used: String,
    /// Time of its end, if it is not used again.
    expires_at: String,
    /// True if it is the caller's own.
    current: bool,
}

/// The sessions of this device's web page. Through the unix socket, or by one of them.
#[utoipa::path(get, path = "/api/v1/sessions", operation_id = "listSessions", tag = "operation",
    responses((status = 200, description = "The one that was used last first", body = Page<SessionItem>)))]
pub(super) async fn list(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    headers: HeaderMap,
) -> Result<Json<Page<SessionItem>>, OpError> {
    check_accept(&headers, JSON)?;
    let item = |info: SessionInfo| SessionItem {
        id: info.session.id.clone(),
        principal: info.session.holder.to_string(),
        created_at: time(info.session.made_ms),
        last_used: time(info.used_ms),
        expires_at: time(info.ends_ms),
        current: matches!(&who, Identity::Session(own) if *own == info.session),
        user_agent: info.user_agent,
    };
    let sessions = ops::sessions::list(&app.context, &who)?;
    Ok(Json(Page::whole(sessions.into_iter().map(item).collect())))
}

/// Ends a session of the web page. Through the unix socket, or by a session that is younger than 5 minutes; its own each session
/// may end.
#[utoipa::path(delete, path = "/api/v1/sessions/{id}", operation_id = "endSession", tag = "operation",
    params(("id" = inline(SessionId), Path, description = "Its id, as the list shows it")),
    responses((status = 204, description = "It is over")))]
pub(super) async fn end(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(SessionId(id)): Segment<SessionId>,
) -> Result<StatusCode, OpError> {
    ops::sessions::end(&app.context, &who, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends all sessions of the web page but the caller's own. Through the unix socket, or by a session that is younger than 5 minutes.
#[utoipa::path(delete, path = "/api/v1/sessions", operation_id = "endSessions", tag = "operation",
    responses((status = 204, description = "They are over")))]
pub(super) async fn end_all(State(app): AppState, Extension(who): Extension<Identity>) -> Result<StatusCode, OpError> {
    ops::sessions::end_all(&app.context, &who).await?;
    Ok(StatusCode::NO_CONTENT)
}
