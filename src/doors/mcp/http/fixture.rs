//! What the conformance suite of MCP asks a server for besides tools of devices: prompts, resources, completion, log messages, and tools
//! that ask their client for something. The product has none of it, and says none of it: this is compiled for tests alone, and answers
//! only where `SIGIL_TEST_MCP_FIXTURE` names the hosted MCP server whose tools, on whichever device, the suite is to find under the names
//! that it knows. Those are called through the mesh like others.

#![expect(
    clippy::indexing_slicing,
    reason = "a JSON value gives null for what is not there, and this is compiled for tests"
)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use futures_util::stream;
use mesh_core::ids::ToolName;
use ring::hmac;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use super::{Asking, FRESH_LIST, Fresh, Listed, Visit, document, result, streamed};
use crate::doors::app::App;
use crate::doors::mcp::wire::{Era, RpcError};
use crate::mesh::clock::{now, rfc3339};

/// Pause between two messages of a stream.
const PAUSE: Duration = Duration::from_millis(50);
/// Key of what a client is to bring back. What is protected is a test.
const KEY: &[u8] = b"fixture";

static SAID: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("fixture.json")).expect("it is JSON, in this repository"));
/// Questions to clients that are open.
static ASKED: Mutex<BTreeMap<String, oneshot::Sender<Value>>> = Mutex::new(BTreeMap::new());

fn server() -> Option<String> {
    std::env::var("SIGIL_TEST_MCP_FIXTURE").ok().filter(|name| !name.is_empty())
}

fn is_own(name: &str) -> bool {
    let tools = SAID["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
    tools.iter().any(|tool| tool["name"] == name)
}

fn object(of: &Value) -> Map<String, Value> {
    of.as_object().cloned().unwrap_or_default()
}

/// An answer to a question of ours.
pub(super) fn heard(body: &[u8]) {
    let Ok(answer) = serde_json::from_slice::<Value>(body) else { return };
    let asked = answer["id"].as_str().and_then(|id| ASKED.lock().unwrap_or_else(PoisonError::into_inner).remove(id));
    if let Some(asked) = asked {
        let _ = asked.send(answer["result"].clone());
    }
}

/// What the door offers, with what the suite asks for.
pub(super) fn capabilities(mut said: Value, era: Era) -> Value {
    if server().is_none() {
        return said;
    }
    let offered = &mut said["capabilities"];
    offered["prompts"] = json!({});
    offered["completions"] = json!({});
    if era == Era::Legacy {
        offered["logging"] = json!({});
        offered["resources"] = json!({ "subscribe": true });
    }
    said
}

/// The list, with the tools of the hosted server under their own names, and with those of this module.
pub(super) fn list(tools: &mut Vec<Listed>) {
    let Some(server) = server() else { return };
    let address = format!(":{server}");
    let renamed = tools.iter().filter_map(|tool| {
        let (_, name) = tool.entry["_meta"]["sigil/address"].as_str()?.split_once(&address)?.1.split_once('.')?;
        let mut entry = tool.entry.clone();
        entry["name"] = name.into();
        Some(Listed { name: name.to_owned(), entry })
    });
    let own = SAID["tools"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|entry| Listed { name: entry["name"].as_str().unwrap_or_default().to_owned(), entry: entry.clone() });
    let more: Vec<Listed> = renamed.chain(own).collect();
    tools.extend(more);
}

/// The call that the door makes of one that the suite asks for: of a tool of the hosted server, under its name in the list; and once a
/// client has said what `test_tool_with_task` asked for, of one that takes its time.
pub(super) fn instead(visit: &Visit, asking: &Asking<'_>) -> Option<String> {
    server().filter(|_| asking.method == "tools/call")?;
    let said = asking.params?.get();
    let (params, mut call): (Params, Value) = (serde_json::from_str(said).ok()?, serde_json::from_str(said).ok()?);
    if params.name == "test_tool_with_task" {
        let label = params.input_responses["user_name"]["content"]["name"].clone();
        call = json!({ "name": name(&visit.app, "slow_compute")?, "arguments": { "seconds": 1, "label": label } });
    } else {
        call["name"] = name(&visit.app, &params.name)?.into();
    }
    Some(call.to_string())
}

fn name(app: &App, name: &str) -> Option<String> {
    let server = server()?;
    let is_it = |tool: &ToolName| {
        tool.as_str().rsplit_once('.').is_some_and(|(of, its)| of.starts_with(&server) && its == name)
    };
    let view = app.mesh().view();
    let mut tools = view.nodes.iter().flat_map(|node| node.tools().iter().map(move |tool| (node.peer, &tool.name)));
    let (peer, tool) = tools.find(|(_, tool)| is_it(tool))?;
    Some(app.mcp.names(&view).tool(&peer, tool).to_owned())
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Params {
    name: String,
    arguments: Value,
    uri: String,
    input_responses: Value,
    request_state: Option<String>,
    task_id: String,
}

/// A task that waits for its client.
#[derive(Debug, Default)]
struct Held {
    since_ms: u64,
    /// What it has not been told yet.
    asked: Map<String, Value>,
    is_cancelled: bool,
}

static HELD: Mutex<BTreeMap<String, Held>> = Mutex::new(BTreeMap::new());

/// The answer to a request that the product does not have; `None`: it is one of the product's.
pub(super) fn answer(visit: &Visit, asking: &Asking<'_>) -> Option<Result<Response, RpcError>> {
    server()?;
    let params = asking.params.and_then(|params| serde_json::from_str::<Params>(params.get()).ok()).unwrap_or_default();
    let whole = |it: Value, fresh| {
        Some(Ok(document(StatusCode::OK, result(&asking.id, visit.era, object(&it), fresh).to_string())))
    };
    match (asking.method.as_str(), visit.era) {
        ("prompts/list", _) => whole(json!({ "prompts": SAID["prompts"] }), FRESH_LIST),
        ("resources/list", _) => whole(json!({ "resources": SAID["resources"] }), FRESH_LIST),
        ("resources/templates/list", _) => whole(json!({ "resourceTemplates": SAID["templates"] }), FRESH_LIST),
        ("completion/complete", _) => {
            whole(json!({ "completion": { "values": [], "total": 0, "hasMore": false } }), Fresh::No)
        }
        ("logging/setLevel" | "resources/subscribe" | "resources/unsubscribe", Era::Legacy) => {
            whole(json!({}), Fresh::No)
        }
        ("resources/read", _) => whole(json!({ "contents": [contents(&params.uri)?] }), FRESH_LIST),
        ("prompts/get", _) => match rounds(visit, &params) {
            Some(Ok(Some(more))) => whole(more, Fresh::No),
            Some(Err(error)) => Some(Err(error)),
            Some(Ok(None)) | None => {
                let messages = filled(SAID["messages"].get(&params.name)?, &params.arguments);
                whole(json!({ "messages": messages }), Fresh::No)
            }
        },
        ("tools/call", Era::Modern) if params.name == "failing_job" && !visit.said.knows_tasks() => {
            Some(Err(RpcError::needs_tasks()))
        }
        ("tools/call", Era::Modern) if visit.said.knows_tasks() && SAID["tasks"].get(&params.name).is_some() => {
            let held = Held { since_ms: now().wall_ms, asked: object(&SAID["tasks"][&params.name]), ..Held::default() };
            let id = format!("fixture-{}", drawn());
            let mut task = object(&held.told(&id));
            task.remove("inputRequests");
            task.insert("resultType".to_owned(), "task".into());
            HELD.lock().unwrap_or_else(PoisonError::into_inner).insert(id, held);
            whole(Value::Object(task), Fresh::No)
        }
        ("tasks/get" | "tasks/update" | "tasks/cancel", Era::Modern) if visit.said.knows_tasks() => {
            let mut all = HELD.lock().unwrap_or_else(PoisonError::into_inner);
            let held = all.get_mut(&params.task_id)?;
            if asking.method == "tasks/get" {
                return whole(held.told(&params.task_id), Fresh::No);
            }
            held.is_cancelled |= asking.method == "tasks/cancel";
            held.asked.retain(|name, _| !params.input_responses[name].is_object());
            whole(json!({}), Fresh::No)
        }
        ("tools/call", _) if is_own(&params.name) => call(visit, asking, &params),
        _ => None,
    }
}

impl Held {
    fn told(&self, id: &str) -> Value {
        let at = rfc3339(self.since_ms);
        let mut told =
            json!({ "taskId": id, "createdAt": at, "lastUpdatedAt": at, "ttlMs": 600_000, "pollIntervalMs": 200 });
        if self.is_cancelled {
            told["status"] = "cancelled".into();
        } else if self.asked.is_empty() {
            told["status"] = "completed".into();
            told["result"] =
                json!({ "resultType": "complete", "content": [{ "type": "text", "text": "It is done." }] });
        } else {
            told["status"] = "input_required".into();
            told["inputRequests"] = Value::Object(self.asked.clone());
        }
        told
    }
}

fn drawn() -> String {
    let mut drawn = [0; 8];
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut drawn);
    data_encoding::HEXLOWER.encode(&drawn)
}

fn contents(uri: &str) -> Option<Value> {
    let is_it = |it: &&Value| it["uri"] == uri;
    let known = SAID["contents"].as_array().into_iter().flatten().find(is_it).cloned();
    known.or_else(|| {
        let id = uri.strip_prefix("test://template/")?.strip_suffix("/data")?;
        let text = json!({ "id": id, "templateTest": true, "data": format!("Data for ID: {id}") }).to_string();
        Some(json!({ "uri": uri, "mimeType": "application/json", "text": text }))
    })
}

/// The same, with each `{{name}}` replaced by the argument of this name.
fn filled(what: &Value, arguments: &Value) -> Value {
    let mut text = what.to_string();
    for (name, value) in arguments.as_object().into_iter().flatten() {
        let value = Value::from(value.as_str().unwrap_or_default()).to_string();
        text = text.replace(&format!("{{{{{name}}}}}"), value.trim_matches('"'));
    }
    serde_json::from_str(&text).unwrap_or_default()
}

fn call(visit: &Visit, asking: &Asking<'_>, params: &Params) -> Option<Result<Response, RpcError>> {
    let said = |text: String| json!({ "content": [{ "type": "text", "text": text }] });
    let whole = |it: Value| {
        Some(Ok(document(StatusCode::OK, result(&asking.id, visit.era, object(&it), Fresh::No).to_string())))
    };
    match (params.name.as_str(), visit.era) {
        ("test_missing_capability", Era::Modern) if !visit.said.knows("sampling") => {
            Some(Err(RpcError::needs("sampling", &json!({ "sampling": {} }))))
        }
        ("test_tool_with_logging", Era::Legacy) => {
            let words = SAID["logs"].as_array().into_iter().flatten();
            let log = |word: &Value| {
                let params = json!({ "level": "info", "logger": "fixture", "data": word });
                json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": params })
            };
            Some(Ok(talk(&asking.id, words.map(log).collect(), None)))
        }
        (name, Era::Legacy) if SAID["asks"].get(name).is_some() => {
            let mut question = filled(SAID["asks"].get(name)?, &params.arguments);
            let id = drawn();
            let (answered, answer) = oneshot::channel();
            ASKED.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), answered);
            question["jsonrpc"] = "2.0".into();
            question["id"] = id.into();
            Some(Ok(talk(&asking.id, [question].into(), Some(answer))))
        }
        (_, Era::Modern) => match rounds(visit, params) {
            Some(Ok(Some(more))) => whole(more),
            Some(Err(error)) => Some(Err(error)),
            Some(Ok(None)) if params.name == "test_tool_with_task" => None,
            Some(Ok(None)) => whole(said(format!("state-ok: {}", params.input_responses))),
            None => whole(said("It is done.".to_owned())),
        },
        (_, Era::Legacy) => whole(said("It is done.".to_owned())),
    }
}

/// A stream of messages, at the end of which is the result; before it, the answer to the last of them, if one is awaited.
fn talk(id: &Value, messages: VecDeque<Value>, answer: Option<oneshot::Receiver<Value>>) -> Response {
    let id = id.clone();
    let told = stream::unfold(Some((messages, answer)), move |left| {
        let id = id.clone();
        async move {
            let (mut messages, answer) = left?;
            if let Some(message) = messages.pop_front() {
                tokio::time::sleep(PAUSE).await;
                return Some((message, Some((messages, answer))));
            }
            let said = match answer {
                Some(answer) => answer.await.unwrap_or_default(),
                None => "done".into(),
            };
            let content = json!({ "content": [{ "type": "text", "text": format!("It said: {said}") }] });
            Some((result(&id, Era::Legacy, object(&content), Fresh::No), None))
        }
    });
    streamed(told, true)
}

/// What is asked of the client next; `Ok(None)` once it has said everything, and `None` where nothing is asked.
fn rounds(visit: &Visit, params: &Params) -> Option<Result<Option<Value>, RpcError>> {
    let rounds = SAID["rounds"].get(&params.name)?.as_array()?;
    let signed = |round: usize| {
        let round = format!("{} {round}", params.name);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, KEY), round.as_bytes());
        data_encoding::HEXLOWER.encode(tag.as_ref())
    };
    // A client that brings nothing back is at the beginning.
    let at = match &params.request_state {
        None => Some(0),
        Some(state) => (0..rounds.len()).find(|round| signed(*round) == *state),
    };
    let Some(at) = at else { return Some(Err(RpcError::invalid_params("`requestState` is not what was given"))) };
    let asked = rounds.get(at)?.as_object()?;
    let is_answered = asked.keys().all(|name| params.input_responses[name].is_object());
    let next = if is_answered { at + 1 } else { at };
    let Some(asked) = rounds.get(next).and_then(Value::as_object) else { return Some(Ok(None)) };
    let knows = |question: &Value| {
        let needed = question["method"].as_str().and_then(|method| method.split('/').next());
        needed.is_some_and(|needed| visit.said.knows(needed))
    };
    let asked: Map<String, Value> =
        asked.iter().filter(|(_, it)| knows(it)).map(|(name, it)| (name.clone(), it.clone())).collect();
    Some(Ok(Some(json!({ "resultType": "input_required", "inputRequests": asked, "requestState": signed(next) }))))
}
