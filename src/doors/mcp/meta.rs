//! Tools of the mesh itself: by which the others are found, described, called, looked after, and memory is used. They are the same for
//! everybody, so that a client needs no others.

use std::sync::Arc;
use std::time::Duration;

use mesh_core::ids::ReqId;
use mesh_core::io::NodeView;
use mesh_core::policy::Domain;
use mesh_core::record::ToolDecl;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::calls::{Asked, answer};
use super::list::{self, Listed};
use super::names::{Meant, Names};
use super::own::{arguments, entry};
use super::{memory, result, standing};
use crate::doors::app::App;
use crate::doors::identity::Identity;
use crate::doors::ops::calls;
use crate::doors::ops::devices::{is_online, why_offline};
use crate::mesh::clock::rfc3339;
use crate::status::{ErrorCode, OpError};

/// Tools that one search gives, where it names no number, and at most.
const FOUND: usize = 20;
const FOUND_MAX: usize = 100;
/// Longest wait for the end of a call that is looked at.
const LOOK_MAX: Duration = Duration::from_secs(25);
/// Longest text that is looked for, characters.
const QUERY_CHARS_MAX: usize = 500;

/// A tool of the mesh itself.
struct Own {
    name: &'static str,
    title: &'static str,
    description: &'static str,
    input: fn() -> Value,
    /// Whether it changes nothing.
    reads: bool,
    /// Whether twice is as good as once.
    again: bool,
    /// Whether its results are standings of calls.
    stands: bool,
}

const OWN: [Own; 6] = [
    Own {
        name: "sigil_call",
        title: "Call a tool of a device",
        description: "Call a tool of a device of this mesh by its name (from sigil_find_tools). If the device is asleep, the call is \
            kept and runs when it is back; the answer then has state `queued` and a call_id for sigil_call_status. If a person has to \
            agree, the state is `waiting_for_approval`: only that person can, at one of their devices.",
        input: || {
            json!({ "type": "object", "required": ["name"], "additionalProperties": false, "properties": {
                "name": { "type": "string", "description": "Name of the tool" },
                "arguments": { "type": "object", "description": "Its arguments, as sigil_describe_tool says" },
                "ttl_s": { "type": "integer", "minimum": 1, "maximum": 604_800, "description": "Seconds within which it must start" },
                "idempotency_key": { "type": "string", "minLength": 1, "maxLength": 128,
                    "description": "The same key and call run once, however often they are sent" },
            } })
        },
        reads: false,
        again: false,
        stands: true,
    },
    Own {
        name: "sigil_call_status",
        title: "Look at a call",
        description: "How a call stands, and its result once it is over. wait_s waits for its end.",
        input: || {
            json!({ "type": "object", "required": ["call_id"], "additionalProperties": false, "properties": {
                "call_id": { "type": "string" },
                "wait_s": { "type": "integer", "minimum": 0, "maximum": 25, "description": "Seconds to wait for its end" },
            } })
        },
        reads: true,
        again: true,
        stands: true,
    },
    Own {
        name: "sigil_cancel_call",
        title: "Stop a call",
        description: "Stop a call that is queued or runs. One that is over stays as it ended.",
        input: || {
            json!({ "type": "object", "required": ["call_id"], "additionalProperties": false, "properties": {
                "call_id": { "type": "string" },
                "reason": { "type": "string", "maxLength": 200 },
            } })
        },
        reads: false,
        again: true,
        stands: true,
    },
    Own {
        name: "sigil_describe_tool",
        title: "Describe a tool",
        description: "All that is told of a tool of a device: what it does, its arguments, whether its device is there.",
        input: || {
            json!({ "type": "object", "required": ["name"], "additionalProperties": false,
                "properties": { "name": { "type": "string" } } })
        },
        reads: true,
        again: true,
        stands: false,
    },
    Own {
        name: "sigil_find_tools",
        title: "Find tools",
        description: "Find tools of all devices of this mesh by words, and by device. Without words all are listed.",
        input: || {
            json!({ "type": "object", "additionalProperties": false, "properties": {
                "query": { "type": "string", "description": "Words of its name or description" },
                "device": { "type": "string", "description": "Only tools of this device" },
                "limit": { "type": "integer", "minimum": 1, "maximum": FOUND_MAX },
            } })
        },
        reads: true,
        again: true,
        stands: false,
    },
    Own {
        name: "sigil_nodes",
        title: "List devices",
        description: "The devices of this mesh: which are there, which are away and since when.",
        input: || json!({ "type": "object", "additionalProperties": false }),
        reads: true,
        again: true,
        stands: false,
    },
];

/// True for a name that no tool of a device has.
pub(super) fn is_own(name: &str) -> bool {
    OWN.iter().any(|own| own.name == name) || memory::is_own(name)
}

/// Those that the caller may use, as they are listed.
pub(super) fn listed(app: &App, who: &Identity) -> Vec<Listed> {
    let own = OWN.iter().map(|own| {
        let schema = if own.stands { standing::schema() } else { json!({ "type": "object" }) };
        entry(own.name, own.title, own.description, &(own.input)(), &schema, (own.reads, own.again))
    });
    let mut listed: Vec<Listed> = own.chain(memory::listed(app, who)).collect();
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    listed
}

/// What a tool of our own comes to.
pub(super) enum Did<'a> {
    /// This.
    Answer(Map<String, Value>),
    /// A call of a tool of a device.
    Call(Asked<'a>),
}

/// A value as the result of a tool.
pub(super) fn value(value: Value) -> Map<String, Value> {
    let mut result = Map::new();
    result.insert("content".to_owned(), json!([{ "type": "text", "text": value.to_string() }]));
    result.insert("structuredContent".to_owned(), value);
    result.insert("isError".to_owned(), false.into());
    result
}

/// Runs a tool of our own.
pub(super) async fn run<'a>(app: &Arc<App>, who: &Identity, name: &str, said: &'a str) -> Result<Did<'a>, OpError> {
    let done = |result: Map<String, Value>| Ok(Did::Answer(result));
    match name {
        "sigil_call" => Ok(Did::Call(call(app, who, said)?)),
        "sigil_call_status" => done(status(app, who, said).await?),
        "sigil_cancel_call" => done(cancel(app, who, said).await?),
        "sigil_describe_tool" => done(value(describe(app, who, said).await?)),
        "sigil_find_tools" => done(value(find(app, who, said).await?)),
        "sigil_nodes" => done(value(nodes(app, who))),
        _ => done(value(memory::run(app, who, name, said).await?)),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CallArguments<'a> {
    name: String,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    ttl_s: Option<u32>,
    idempotency_key: Option<String>,
}

fn call<'a>(app: &Arc<App>, who: &Identity, said: &'a str) -> Result<Asked<'a>, OpError> {
    let asked: CallArguments<'a> = serde_json::from_str(said)
        .map_err(|error| OpError::new(ErrorCode::Invalid, format!("the arguments: {error}")))?;
    let meant = meant(app, who, &asked.name)?;
    let ttl = asked.ttl_s.map(|seconds| ttl(f64::from(seconds))).transpose()?;
    let key = asked.idempotency_key.map(key).transpose()?;
    Ok(Asked { meant, arguments: object(asked.arguments)?, key, ttl, workspace: None, output: None })
}

/// Arguments as they were written, which are an object.
pub(super) fn object(arguments: Option<&RawValue>) -> Result<&str, OpError> {
    match arguments.map(RawValue::get) {
        None | Some("null") => Ok("{}"),
        Some(text) if text.starts_with('{') => Ok(text),
        Some(_) => Err(OpError::new(ErrorCode::Invalid, "`arguments` must be an object")),
    }
}

/// Time within which a call must start, in seconds as a client wrote them.
pub(super) fn ttl(seconds: f64) -> Result<Duration, OpError> {
    let max = Duration::from_millis(mesh_core::limits::TTL_MS_MAX);
    let ttl = Duration::try_from_secs_f64(seconds).ok().filter(|ttl| (Duration::from_secs(1)..=max).contains(ttl));
    ttl.ok_or_else(|| OpError::new(ErrorCode::Invalid, format!("the time to live must be 1 to {} s", max.as_secs())))
}

/// A client's own key for a call, by the limits of every door.
pub(super) fn key(key: String) -> Result<String, OpError> {
    let is_key = (1..=128).contains(&key.len()) && key.bytes().all(|byte| (b'!'..=b'~').contains(&byte));
    if is_key {
        Ok(key)
    } else {
        Err(OpError::new(ErrorCode::Invalid, "a key must be 1 to 128 visible ASCII characters"))
    }
}

/// The workspace that is named.
pub(super) fn workspace(name: &str) -> Result<Domain, OpError> {
    name.parse().map_err(|_| OpError::new(ErrorCode::Invalid, "this can be no name of a workspace"))
}

/// The tool that a name means, if the caller may use it. Of others it is not told that there are any.
pub(super) fn meant(app: &Arc<App>, who: &Identity, name: &str) -> Result<Meant, OpError> {
    let view = app.mesh().view();
    let unknown = || {
        let shown: String = name.chars().take(100).collect();
        OpError::new(ErrorCode::UnknownTool, format!("there is no tool `{}` for you", crate::text::visible(&shown)))
            .hint("sigil_find_tools lists those that there are; names may have changed since you asked")
    };
    let names = app.mcp.names(&view);
    let meant = names.meant(name).ok_or_else(unknown)?;
    let is_it =
        |node: &NodeView, tool: &ToolDecl| tool.name == meant.tool && meant.peer.is_none_or(|peer| node.peer == peer);
    if list::open_of(&view, who, is_it).is_empty() { Err(unknown()) } else { Ok(meant) }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatusArguments {
    call_id: String,
    #[serde(default)]
    wait_s: f64,
}

fn call_id(text: &str) -> Result<ReqId, OpError> {
    text.parse().map_err(|_| {
        OpError::new(ErrorCode::UnknownCall, "this is no id of a call").hint("use the call_id of its answer")
    })
}

async fn status(app: &Arc<App>, who: &Identity, said: &str) -> Result<Map<String, Value>, OpError> {
    let asked: StatusArguments = arguments(said)?;
    let wait = Duration::try_from_secs_f64(asked.wait_s).unwrap_or_default().min(LOOK_MAX);
    let reading = calls::read(app.mesh(), who, &app.stop, call_id(&asked.call_id)?, wait).await?;
    Ok(shown(app, who, &reading).await)
}

async fn shown(app: &Arc<App>, who: &Identity, reading: &calls::Reading) -> Map<String, Value> {
    let standing = standing::of(app.mesh(), reading, None).await;
    if !reading.has_ended() {
        return answer(standing);
    }
    result::with_standing(result::of(app, who, reading, None).await, standing)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CancelArguments {
    call_id: String,
    reason: Option<String>,
}

async fn cancel(app: &Arc<App>, who: &Identity, said: &str) -> Result<Map<String, Value>, OpError> {
    let asked: CancelArguments = arguments(said)?;
    let id = call_id(&asked.call_id)?;
    calls::cancel(app.mesh(), who, id, asked.reason).await?;
    // Stopping takes its way to the device and back.
    let reading = calls::read(app.mesh(), who, &app.stop, id, Duration::from_secs(2)).await?;
    let mut result = shown(app, who, &reading).await;
    // That it was stopped is what was asked for.
    result.insert("isError".to_owned(), false.into());
    Ok(result)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DescribeArguments {
    name: String,
}

async fn describe(app: &Arc<App>, who: &Identity, said: &str) -> Result<Value, OpError> {
    let DescribeArguments { name } = arguments(said)?;
    let (view, own) = (app.mesh().view(), listed(app, who));
    if let Some(own) = own.into_iter().find(|own| own.name == name) {
        return Ok(own.entry);
    }
    let names = app.mcp.names(&view);
    let meant = meant(app, who, &name)?;
    let listed = list::tools(app.mesh(), &app.mcp.cards, &view, &names, who).await;
    let is_it = |it: &&Listed| it.name == name || names.meant(&it.name).as_ref() == Some(&meant);
    let entry = listed.iter().find(is_it).map(|it| it.entry.clone());
    entry.ok_or_else(|| OpError::new(ErrorCode::UnknownTool, "there is no such tool any more"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FindArguments {
    #[serde(default)]
    query: String,
    device: Option<String>,
    limit: Option<usize>,
}

async fn find(app: &Arc<App>, who: &Identity, said: &str) -> Result<Value, OpError> {
    let FindArguments { query, device, limit } = arguments(said)?;
    if query.chars().count() > QUERY_CHARS_MAX {
        return Err(OpError::new(ErrorCode::Invalid, format!("a query has at most {QUERY_CHARS_MAX} characters")));
    }
    let view = app.mesh().view();
    let names = app.mcp.names(&view);
    let listed = list::tools(app.mesh(), &app.mcp.cards, &view, &names, who).await;
    let words: Vec<String> = query.to_lowercase().split_whitespace().map(ToOwned::to_owned).collect();
    let text = |entry: &Value, name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let of_device = |entry: &Value| {
        let meta = entry.get("_meta");
        let is = |name: &str| meta.and_then(|meta| meta.get(name)).and_then(Value::as_str) == device.as_deref();
        device.is_none() || is("sigil/node") || is("sigil/device")
    };
    let mut found: Vec<(usize, Value)> = Vec::new();
    for Listed { name, entry } in &listed {
        if !of_device(entry) {
            continue;
        }
        let (title, about) = (text(entry, "title"), text(entry, "description"));
        let all = format!("{name} {title} {about}").to_lowercase();
        let hits = words.iter().filter(|word| all.contains(word.as_str())).count();
        // A word of the name counts most.
        let in_name = words
            .iter()
            .filter(|word| name.contains(word.as_str()) || title.to_lowercase().contains(word.as_str()))
            .count();
        if words.is_empty() || hits > 0 {
            let about: String = about.chars().take(200).collect();
            let meta = entry.get("_meta");
            let online = meta.and_then(|meta| meta.get("sigil/online")).cloned();
            let asks = meta.and_then(|meta| meta.get("sigil/asks")).cloned();
            let shown =
                json!({ "name": name, "title": title, "description": about, "online": online, "asks_a_person": asks });
            found.push((hits + 2 * in_name, shown));
        }
    }
    // The order of those that fit alike is that of the list.
    found.sort_by_key(|(fit, _)| std::cmp::Reverse(*fit));
    let total = found.len();
    found.truncate(limit.unwrap_or(FOUND).clamp(1, FOUND_MAX));
    let tools: Vec<Value> = found.into_iter().map(|(_, shown)| shown).collect();
    Ok(json!({ "tools": tools, "total": total }))
}

fn nodes(app: &Arc<App>, who: &Identity) -> Value {
    let view = app.mesh().view();
    let names: Arc<Names> = app.mcp.names(&view);
    let open = list::open(&view, who);
    let nodes: Vec<Value> = view
        .nodes
        .iter()
        .map(|node| {
            let online = is_online(&view, node);
            json!({
                "device": names.node(&node.peer),
                "name": node.node_id.to_string(),
                "platform": node.directory.as_ref().map(|directory| directory.platform.clone()),
                "online": online,
                "here": node.peer == view.me,
                "since": (node.last_seen_ms > 0).then(|| rfc3339(node.last_seen_ms)),
                "why": why_offline(&view, node),
                "tools": open.iter().filter(|it| it.node.peer == node.peer).count(),
            })
        })
        .collect();
    let gateway = view.gateway.is_some();
    json!({ "mesh": view.mesh_name, "devices": nodes, "reaches_others": gateway })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_our_own_are_sorted_and_no_devices() {
        let names: Vec<&str> = OWN.iter().map(|own| own.name).collect();
        assert!(names.is_sorted() && names.iter().all(|name| is_own(name)));
        assert!(!is_own("sigil__device_info") && !is_own(""));
        for own in &OWN {
            crate::node::schema::InputSchema::compile(&(own.input)()).unwrap();
        }
    }

    #[test]
    fn times_and_keys_have_limits() {
        assert!(ttl(0.5).is_err() && ttl(f64::NAN).is_err() && ttl(1e12).is_err() && ttl(60.0).is_ok());
        assert!(key(String::new()).is_err() && key("a b".to_owned()).is_err() && key("a-b".to_owned()).is_ok());
    }
}
