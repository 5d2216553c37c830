//! Clients of the MCP door: listed, and what they are shown.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{JSON, Segment, body_or_default, check_accept};
use super::model::{Page, time};
use super::shapes::{Asker, NameOfTool};
use crate::doors::app::AppState;
use crate::doors::identity::Identity;
use crate::doors::mcp::{self, PINNED_MAX, Profile, Terms};
use crate::status::{ErrorCode, OpError};

/// Tools that a client is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum McpProfile {
    /// All, as long as there are at most 30; else as `compact`, with those that are pinned.
    #[default]
    Auto,
    /// All that it may use.
    Full,
    /// Those by which all others are found and called.
    Compact,
}

impl From<Profile> for McpProfile {
    fn from(profile: Profile) -> Self {
        match profile {
            Profile::Auto => Self::Auto,
            Profile::Full => Self::Full,
            Profile::Compact => Self::Compact,
        }
    }
}

impl From<McpProfile> for Profile {
    fn from(profile: McpProfile) -> Self {
        match profile {
            McpProfile::Auto => Self::Auto,
            McpProfile::Full => Self::Full,
            McpProfile::Compact => Self::Compact,
        }
    }
}

/// A client of the MCP door.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct McpClient {
    /// Whom it asks for.
    principal: String,
    /// Name and version that it gives itself; empty: it has not since the agent started.
    says: String,
    /// Tools that it is shown.
    profile: McpProfile,
    /// Names of tools that it is shown besides, where not all are.
    pinned: Vec<String>,
    /// True if it may not come any more.
    revoked: bool,
    /// Time when it was here last; null: not since the agent started.
    last_seen: Option<String>,
    /// Tools in the list that it got last; null: it has asked for none since.
    listed: Option<usize>,
}

impl McpClient {
    fn new(principal: String, client: mcp::Client) -> Self {
        let mcp::Client { terms, says, seen_ms, listed } = client;
        let Terms { profile, pinned, revoked } = terms.unwrap_or_default();
        Self { principal, says, profile: profile.into(), pinned, revoked, last_seen: seen_ms.map(time), listed }
    }
}

/// What is said of a client.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewMcpClient {
    /// Tools that it is shown; default `auto`.
    #[serde(default)]
    profile: McpProfile,
    /// Names of tools that it is shown besides, where not all are; default none.
    #[serde(default)]
    #[schema(max_items = 64)]
    pinned: Vec<NameOfTool>,
}

/// MCP clients that were here, or of whom something was said.
#[utoipa::path(get, path = "/api/v1/mcp/clients", operation_id = "listMcpClients", tag = "operation",
    responses((status = 200, description = "By whom they ask for", body = Page<McpClient>)))]
pub(super) async fn list(State(app): AppState, headers: HeaderMap) -> Result<Json<Page<McpClient>>, OpError> {
    check_accept(&headers, JSON)?;
    let all = app.mcp.clients().list();
    Ok(Json(Page::whole(all.into_iter().map(|(who, client)| McpClient::new(who, client)).collect())))
}

/// Says what a client is shown. One that was revoked may come again.
#[utoipa::path(put, path = "/api/v1/mcp/clients/{principal}", operation_id = "setMcpClient", tag = "operation",
    params(("principal" = inline(Asker), Path, description = "Whom it asks for")), request_body = Option<NewMcpClient>,
    responses((status = 200, description = "The client", body = McpClient)))]
pub(super) async fn set(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(Asker(of)): Segment<Asker>,
    request: Request<Body>,
) -> Result<Json<McpClient>, OpError> {
    let NewMcpClient { profile, pinned } = body_or_default(request).await?;
    if pinned.len() > PINNED_MAX {
        return Err(OpError::new(ErrorCode::Invalid, format!("at most {PINNED_MAX} names are pinned")));
    }
    let pinned = pinned.into_iter().map(|name| name.0.to_string()).collect();
    who.require_socket("what a client is shown is said", "run `sigil mcp clients` on this machine")?;
    let client = app.mcp.clients().set(&of, Terms { profile: profile.into(), pinned, revoked: false }).await?;
    Ok(Json(McpClient::new(of.to_string(), client)))
}

/// Lets a client come no more, here. Its streams end; what it has asked for goes on.
#[utoipa::path(delete, path = "/api/v1/mcp/clients/{principal}", operation_id = "revokeMcpClient", tag = "operation",
    params(("principal" = inline(Asker), Path, description = "Whom it asks for")),
    responses((status = 200, description = "The client", body = McpClient)))]
pub(super) async fn revoke(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(Asker(of)): Segment<Asker>,
) -> Result<Json<McpClient>, OpError> {
    who.require_socket("a client is revoked", "run `sigil mcp clients` on this machine")?;
    let client = app.mcp.clients().set(&of, Terms { revoked: true, ..Terms::default() }).await?;
    Ok(Json(McpClient::new(of.to_string(), client)))
}
