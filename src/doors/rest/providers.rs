//! Providers of this device's tools.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::{JSON, Segment, check_accept};
use super::model::{Page, time};
use super::shapes::ProviderName;
use crate::doors::app::AppState;
use crate::doors::identity::Identity;
use crate::doors::ops::providers;
use crate::node::catalogue::Origin;
use crate::node::provider::{Absent, Kind, State as ProviderState};
use crate::node::roster::Listed;
use crate::plugin::{Level, Tier};
use crate::status::OpError;

/// Kind of what runs tools.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ProviderKind {
    /// This program.
    Builtin,
    /// Processes of this device.
    Process,
    /// Containers.
    Container,
    /// An MCP server.
    Mcp,
    /// A foreign node: a program of somebody else, which comes to this device.
    Foreign,
}

/// Origin of a provider.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ProviderSource {
    /// This program.
    Sigil,
    /// `sigil.toml`.
    Settings,
    /// A plugin that was installed.
    Plugin,
    /// A node that was let in by `sigil node add`.
    Node,
}

/// Tier in which a provider runs.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ProviderTier {
    /// A process, confined as far as the kernel can.
    Process,
    /// A container of an image of its own.
    Container,
}

/// How far a provider is confined; each level holds what the one before does.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ProviderLevel {
    /// A process group with limits.
    Bare,
    /// And system calls are filtered.
    Guarded,
    /// And paths are.
    Confined,
    /// And it sees processes and mounts of its own alone.
    Isolated,
    /// In a container.
    Container,
}

/// State of a provider.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ProviderStateName {
    /// It runs its tools.
    Ready,
    /// Not yet; calls wait a little.
    Starting,
    /// Not now; it tries to recover.
    Unhealthy,
    /// Not before its owner has looked at it: `why` says at what.
    Review,
    /// Not until its owner does something about it.
    Stopped,
}

/// A tool that is not offered.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AbsentTool {
    /// Its name.
    tool: String,
    /// The cause.
    why: String,
    /// The next step.
    fix: String,
}

/// Something that offers tools and runs them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Provider {
    /// Its name: `sigil`, `tools.NAME` or `mcp_servers.NAME` of the settings, `nodes.NAME` of a foreign node, or that of an installed plugin.
    name: String,
    /// The kind of what runs its tools.
    kind: ProviderKind,
    /// Where it comes from.
    source: ProviderSource,
    /// Its version; null: it has none.
    version: Option<String>,
    /// The tier in which it runs; null: it is this program, or runs elsewhere.
    tier: Option<ProviderTier>,
    /// How far it is confined; null: it is this program, or runs elsewhere.
    level: Option<ProviderLevel>,
    /// What that does not stop on this device.
    gaps: Vec<String>,
    /// Its state.
    state: ProviderStateName,
    /// The cause of a state that is not `ready`.
    why: Option<String>,
    /// Since when it is in it.
    #[schema(format = DateTime)]
    since: String,
    /// How it is spoken to: `json`, `mcp` or `grpc`; null: it is this program.
    protocol: Option<String>,
    /// Its tools that this device offers.
    tools: Vec<String>,
    /// Tools that it has and that are not offered, each with the reason and the next step.
    absent: Vec<AbsentTool>,
}

impl From<Listed> for Provider {
    fn from(Listed { origin, about, state, since_ms, tools }: Listed) -> Self {
        let source = match &origin {
            Origin::Builtin => ProviderSource::Sigil,
            Origin::Settings(_) | Origin::Server(_) => ProviderSource::Settings,
            Origin::Plugin(_) => ProviderSource::Plugin,
            Origin::Node(_) => ProviderSource::Node,
        };
        let why = state.told().1.map(ToOwned::to_owned);
        let tier = about.tier.map(|tier| match tier {
            Tier::Process => ProviderTier::Process,
            Tier::Container => ProviderTier::Container,
        });
        Self {
            name: origin.to_string(),
            kind: match about.kind {
                Kind::Builtin => ProviderKind::Builtin,
                Kind::Process => ProviderKind::Process,
                Kind::Container => ProviderKind::Container,
                Kind::Mcp => ProviderKind::Mcp,
                Kind::Foreign => ProviderKind::Foreign,
            },
            source,
            version: about.version,
            level: tier.is_some().then_some(match about.level {
                Level::Bare => ProviderLevel::Bare,
                Level::Guarded => ProviderLevel::Guarded,
                Level::Confined => ProviderLevel::Confined,
                Level::Isolated => ProviderLevel::Isolated,
                Level::Container => ProviderLevel::Container,
            }),
            tier,
            gaps: about.gaps,
            state: match state {
                ProviderState::Ready => ProviderStateName::Ready,
                ProviderState::Starting { .. } => ProviderStateName::Starting,
                ProviderState::Unhealthy { .. } => ProviderStateName::Unhealthy,
                ProviderState::Review { .. } => ProviderStateName::Review,
                ProviderState::Stopped { .. } => ProviderStateName::Stopped,
            },
            why,
            since: time(since_ms),
            protocol: about.protocol.map(ToOwned::to_owned),
            tools: tools.iter().map(ToString::to_string).collect(),
            absent: about.absent.into_iter().map(|Absent { tool, why, fix }| AbsentTool { tool, why, fix }).collect(),
        }
    }
}

/// Lists what runs the tools of this device: kind, state and why, and the tools that are not offered here with the next step.
#[utoipa::path(get, path = "/api/v1/providers", operation_id = "listProviders", tag = "operation",
    responses((status = 200, description = "All of them", body = Page<Provider>)))]
pub(super) async fn list(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    headers: HeaderMap,
) -> Result<Json<Page<Provider>>, OpError> {
    check_accept(&headers, JSON)?;
    let roster = app.context.roster.borrow().clone();
    let items = providers::list(app.mesh(), &who, &roster)?;
    Ok(Json(Page::whole(items.into_iter().map(Into::into).collect())))
}

/// One of what runs the tools of this device.
#[utoipa::path(get, path = "/api/v1/providers/{name}", operation_id = "getProvider", tag = "operation",
    params(("name" = inline(ProviderName), Path, description = "Its name, as the list shows it")),
    responses((status = 200, description = "It", body = Provider)))]
pub(super) async fn show(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    headers: HeaderMap,
    Segment(ProviderName(name)): Segment<ProviderName>,
) -> Result<Json<Provider>, OpError> {
    check_accept(&headers, JSON)?;
    let roster = app.context.roster.borrow().clone();
    Ok(Json(providers::show(app.mesh(), &who, &roster, &name)?.into()))
}
