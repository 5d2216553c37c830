//! Signing in to the web page, and out of it.

use mesh_core::ids::NodeId;
use mesh_core::policy::{Principal, Role};
use tokio::time::Instant;

use crate::doors::app::Context;
use crate::doors::identity::Identity;
use crate::doors::other_end::User;
use crate::doors::sessions::{Session, SessionInfo, Sessions, SignedIn};
use crate::mesh::clock::now;
use crate::status::{ErrorCode, OpError};

/// Next step of whoever has no session, or one that is too old.
const AGAIN: &str = "run `sigil ui` on this device";

/// Role of whoever a session is for: in the mesh, or, of a device that nobody sits at, none.
#[must_use]
pub fn role(context: &Context, holder: &Principal) -> Option<Role> {
    context.mesh.view().rights.role(holder.person()?)
}

/// Name of this device.
#[must_use]
pub fn here(context: &Context) -> NodeId {
    context.mesh.view().node_id.clone()
}

/// A new code, and the wall time of its end in milliseconds. Only through the unix socket: whoever can open that sits here.
///
/// # Errors
/// The caller did not come by the socket, or this device has left its mesh.
pub fn code(context: &Context, who: &Identity) -> Result<(String, u64), OpError> {
    who.require_socket("a code for the web page is made", "run `sigil ui` on this machine")?;
    sitter(context)?;
    context.sessions.code(now().wall_ms)
}

/// Opens a session.
///
/// # Errors
/// See [`Sessions::sign_in`].
pub async fn sign_in(context: &Context, code: &str, user_agent: &str, user: User) -> Result<SignedIn, OpError> {
    let holder = sitter(context)?;
    let signed_in = context.sessions.sign_in(code, holder, user_agent, user, (Instant::now(), now().wall_ms))?;
    save(context, true).await;
    Ok(signed_in)
}

/// The caller's session, and when it ends if it is not used again.
///
/// # Errors
/// [`ErrorCode::Unauthorized`]: the caller has none.
pub async fn current(context: &Context, who: &Identity) -> Result<SessionInfo, OpError> {
    let session = own(who)?;
    save(context, false).await;
    let open = context.sessions.list(&context.mesh.view(), now().wall_ms);
    let info = open.into_iter().find(|info| info.session.id == session.id);
    info.ok_or_else(|| OpError::new(ErrorCode::Unauthorized, "this session is over").hint(AGAIN))
}

/// Ends the caller's session.
///
/// # Errors
/// [`ErrorCode::Unauthorized`]: the caller has none. [`ErrorCode::StoreFailed`]: a restart would bring it back.
pub async fn sign_out(context: &Context, who: &Identity) -> Result<(), OpError> {
    let id = own(who)?.id.clone();
    context.sessions.end(|session| session.id == id);
    save_ended(context).await
}

/// All sessions of this device, the one that was used last first.
///
/// # Errors
/// [`ErrorCode::Denied`] for a token or login.
pub fn list(context: &Context, who: &Identity) -> Result<Vec<SessionInfo>, OpError> {
    sits_here(who)?;
    Ok(context.sessions.list(&context.mesh.view(), now().wall_ms))
}

/// Ends one session.
///
/// # Errors
/// [`ErrorCode::UnknownSession`]; [`ErrorCode::StoreFailed`] as [`sign_out`].
/// [`ErrorCode::NotFresh`] if it is another than the caller's own, whose own is older than
/// [`FRESH`](crate::doors::sessions::FRESH): a stolen one locks nobody out. [`ErrorCode::Denied`] for a token or login.
pub async fn end(context: &Context, who: &Identity, id: &str) -> Result<(), OpError> {
    sits_here(who)?;
    if !matches!(who, Identity::Session(own) if own.id == id) {
        fresh(who)?;
    }
    if context.sessions.end(|session| session.id == id) == 0 {
        return Err(OpError::new(ErrorCode::UnknownSession, "there is no session of that id")
            .hint("GET /api/v1/sessions lists them"));
    }
    save_ended(context).await
}

/// Ends all sessions but the caller's own.
///
/// # Errors
/// As [`end`].
pub async fn end_all(context: &Context, who: &Identity) -> Result<usize, OpError> {
    sits_here(who)?;
    fresh(who)?;
    let own = match who {
        Identity::Session(own) => Some(own.id.clone()),
        Identity::Socket | Identity::Client(_) | Identity::Token(_) | Identity::Login(_) => None,
    };
    let ended = context.sessions.end(|session| own.as_ref() != Some(&session.id));
    if own.is_none() {
        context.sessions.move_away()?;
    }
    save_ended(context).await?;
    Ok(ended)
}

fn sitter(context: &Context) -> Result<Principal, OpError> {
    let view = context.mesh.view();
    view.rights.sits_at(&view.me).ok_or_else(|| {
        OpError::new(ErrorCode::NotMember, "this device does not belong to a mesh any more")
            .hint("`sigil leave` starts afresh")
    })
}

fn own(who: &Identity) -> Result<&Session, OpError> {
    match who {
        Identity::Session(session) => Ok(session),
        Identity::Socket | Identity::Client(_) | Identity::Token(_) | Identity::Login(_) => {
            Err(OpError::new(ErrorCode::Unauthorized, "nobody is signed in here").hint(AGAIN))
        }
    }
}

fn sits_here(who: &Identity) -> Result<(), OpError> {
    if who.sits_here() {
        return Ok(());
    }
    Err(OpError::new(ErrorCode::Denied, "sessions are looked after by whoever sits at this device").hint(AGAIN))
}

fn fresh(who: &Identity) -> Result<(), OpError> {
    match who {
        Identity::Session(_) => who.require_fresh(now().wall_ms, "other sessions are ended", AGAIN),
        Identity::Socket | Identity::Client(_) | Identity::Token(_) | Identity::Login(_) => Ok(()),
    }
}

/// Writes the file, on a thread that may wait. What was opened or used counts without it.
async fn save(context: &Context, always: bool) {
    if let Err(error) = written(context, always).await {
        tracing::warn!(%error, "sessions of the page are not kept over a restart");
    }
}

/// The same for what was ended: nobody is told so before no restart brings it back.
async fn save_ended(context: &Context) -> Result<(), OpError> {
    written(context, true).await.map_err(|error| {
        OpError::new(ErrorCode::StoreFailed, format!("ended for now, but its end could not be written: {error}"))
            .hint("make room on the disk of this device, then `sigil ui --sign-out` there: till then a restart brings it back")
    })
}

async fn written(context: &Context, always: bool) -> std::io::Result<()> {
    let (sessions, now_ms) = (context.sessions.clone(), now().wall_ms);
    let written = tokio::task::spawn_blocking(move || Sessions::save(&sessions, always, now_ms)).await;
    written.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}
