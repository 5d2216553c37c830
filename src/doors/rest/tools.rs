//! One tool of a device, with all that is told of it.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use mesh_core::policy::ToolState;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::extract::{JSON, Segments, check_accept};
use super::model::Tool;
use super::shapes::{DeviceRef, NameOfTool};
use crate::doors::app::AppState;
use crate::doors::ops::devices::is_online;
use crate::doors::ops::tools::{self, ToolRead};
use crate::node::card::ToolDescription;
use crate::status::OpError;

/// Wait for a card that is not here: owners' devices have them already.
const CARD_WAIT: Duration = Duration::from_secs(5);

/// What a tool says that it does; nothing rests on it. Null: it does not say.
#[derive(Debug, Default, Serialize, ToSchema)]
struct ToolHints {
    /// It changes nothing.
    read_only: Option<bool>,
    /// It may destroy something.
    destructive: Option<bool>,
    /// Twice is as good as once.
    idempotent: Option<bool>,
    /// It talks to what is outside.
    open_world: Option<bool>,
    /// True if the owner of its device says so, and not the tool.
    trusted: bool,
}

/// The provider of a tool.
#[derive(Debug, Serialize, ToSchema)]
struct ToolProvider {
    /// builtin, process, container, mcp.
    kind: String,
    /// Its name.
    name: String,
    /// Its version, if it says one.
    version: Option<String>,
}

/// A tool of a device, and all that is told of it. Text of the tool itself: a name, a promise or an order in it is nobody's but
/// its own.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ToolDetail {
    #[serde(flatten)]
    tool: Tool,
    /// Its name for people.
    title: Option<String>,
    /// Its description, in lines; that of the list is shorter.
    details: Option<String>,
    /// JSON Schema of its arguments; null: its device has not said, and looks at them when it is called.
    #[schema(value_type = Option<Object>)]
    input_schema: Option<Value>,
    /// JSON Schema of its result.
    #[schema(value_type = Option<Object>)]
    output_schema: Option<Value>,
    /// What it says that it does.
    hints: ToolHints,
    /// The provider that runs it; null: its device has not said.
    provider: Option<ToolProvider>,
    /// Level of the sandbox that it runs in.
    level: Option<String>,
    /// Longest run, seconds; null: its device has not said.
    timeout_s: Option<u64>,
    /// Examples of arguments.
    examples: Vec<Value>,
}

/// One tool of a device.
#[utoipa::path(get, path = "/api/v1/nodes/{id}/tools/{tool}", operation_id = "getTool", tag = "mesh",
    params(("id" = inline(DeviceRef), Path, description = "Name, peer id, or a prefix of one of at least 7 characters"),
           ("tool" = inline(NameOfTool), Path, description = "Its name on its device")),
    responses((status = 200, description = "The tool", body = ToolDetail)))]
pub(super) async fn show(
    State(app): AppState,
    Segments(DeviceRef(id), NameOfTool(name)): Segments<DeviceRef, NameOfTool>,
    headers: HeaderMap,
) -> Result<Json<ToolDetail>, OpError> {
    check_accept(&headers, JSON)?;
    let ToolRead { view, node, tool, about } = tools::show(app.mesh(), &id, &name, CARD_WAIT).await?;
    let state = view.rights.tools(&node.peer).find(|(of, _)| **of == name);
    let state = state.map_or(ToolState::Approved, |(_, state)| state);
    Ok(Json(detail(Tool::new(&node, &tool, is_online(&view, &node), state), about)))
}

fn detail(tool: Tool, about: Option<ToolDescription>) -> ToolDetail {
    let text = |text: String| Some(text).filter(|text| !text.is_empty());
    let Some(about) = about else {
        return ToolDetail {
            tool,
            title: None,
            details: None,
            input_schema: None,
            output_schema: None,
            hints: ToolHints::default(),
            provider: None,
            level: None,
            timeout_s: None,
            examples: Vec::new(),
        };
    };
    // A schema may be `true` too; whoever makes a form of it wants an object.
    let object = |schema: Option<Value>| schema.filter(Value::is_object);
    let (hints, provider) = (about.hints, about.provider);
    ToolDetail {
        tool,
        title: text(about.title),
        details: text(about.description),
        input_schema: object(about.input_schema),
        output_schema: object(about.output_schema),
        hints: ToolHints {
            read_only: hints.read_only,
            destructive: hints.destructive,
            idempotent: hints.idempotent,
            open_world: hints.open_world,
            trusted: hints.trusted,
        },
        provider: Some(ToolProvider { kind: provider.kind, name: provider.name, version: text(provider.version) }),
        level: text(about.level),
        timeout_s: Some(about.timeout_ms.div_ceil(1000)).filter(|seconds| *seconds > 0),
        examples: about.examples,
    }
}
