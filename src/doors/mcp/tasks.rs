//! Calls as tasks of MCP: a task is a call of the queue, and its id that of the call. There is no second book of them.

use std::sync::Arc;
use std::time::Duration;

use mesh_core::ids::ReqId;
use mesh_core::io::{CallState, View};
use mesh_core::record::Ending;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::result;
use super::standing::{self, Standing};
use super::wire::RpcError;
use crate::doors::app::App;
use crate::doors::identity::Identity;
use crate::doors::ops::calls::{self, Reading};
use crate::mesh::clock::rfc3339;

/// Time for which a call that is over can be asked for at least: as long as the mesh keeps those of others.
const KEPT: Duration = Duration::from_hours(7 * 24);
/// Pause between two looks at a call that runs, and at one that waits for a device or a person.
const POLL: Duration = Duration::from_secs(2);
const POLL_AWAY: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct TaskParams {
    #[serde(rename = "taskId")]
    task_id: String,
}

/// The call that is meant. One that does not concern the caller is as unknown as one that there is not.
async fn found(app: &Arc<App>, who: &Identity, params: &str) -> Result<Reading, RpcError> {
    let params: TaskParams =
        serde_json::from_str(params).map_err(|error| RpcError::invalid_params(format!("the parameters: {error}")))?;
    let unknown = || RpcError::invalid_params("there is no such task, or it is not yours");
    let id: ReqId = params.task_id.parse().map_err(|_| unknown())?;
    calls::read(app.mesh(), who, &app.stop, id, Duration::ZERO).await.map_err(|_| unknown())
}

/// `tasks/get`.
pub(super) async fn get(app: &Arc<App>, who: &Identity, params: &str) -> Result<Map<String, Value>, RpcError> {
    let reading = found(app, who, params).await?;
    let standing = standing::of(app.mesh(), &reading, None).await;
    let mut task = of(&app.mesh().view(), &reading, &standing);
    match status(reading.record().state) {
        "completed" => {
            let mut result = result::of(app, who, &reading, None).await;
            result.insert("resultType".to_owned(), "complete".into());
            task.insert("result".to_owned(), Value::Object(result));
        }
        "failed" => {
            let error = RpcError::internal(standing.text).with(Value::Object(standing.value));
            task.insert("error".to_owned(), error.value());
        }
        _ => {}
    }
    Ok(task)
}

/// `tasks/cancel`.
pub(super) async fn cancel(app: &Arc<App>, who: &Identity, params: &str) -> Result<Map<String, Value>, RpcError> {
    let reading = found(app, who, params).await?;
    let reason = Some("its MCP client cancelled the task".to_owned());
    match calls::cancel(app.mesh(), who, reading.own.header.id, reason).await {
        Ok(_) => Ok(Map::new()),
        Err(error) => Err(RpcError::internal(error.detail)),
    }
}

/// `tasks/update`: no task asks its client for anything, so that there is nothing to say. Above all no consent.
pub(super) async fn update(app: &Arc<App>, who: &Identity, params: &str) -> Result<Map<String, Value>, RpcError> {
    found(app, who, params).await.map(|_| Map::new())
}

/// The answer to a call that goes on by itself.
pub(super) fn created(view: &View, reading: &Reading, standing: &Standing) -> Map<String, Value> {
    let mut task = of(view, reading, standing);
    task.insert("resultType".to_owned(), "task".into());
    task
}

/// A call that waits for a person works too: the client has nothing to give to it. What a tool says of its own failure is its result;
/// where no tool has come to an end, the task has failed.
const fn status(state: CallState) -> &'static str {
    match state {
        CallState::Open(_) => "working",
        CallState::Ended(Ending::Cancelled) => "cancelled",
        CallState::Ended(Ending::Done | Ending::Failed) => "completed",
        CallState::Ended(Ending::Interrupted | Ending::Expired | Ending::Denied | Ending::Undeliverable) => "failed",
    }
}

fn of(view: &View, reading: &Reading, standing: &Standing) -> Map<String, Value> {
    let (header, record) = (&reading.own.header, reading.record());
    let poll = if standing::is_stuck(view, record) { POLL_AWAY } else { POLL };
    let newest = record.history.iter().map(|row| row.at_ms).max().unwrap_or(header.accepted_ms);
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let mut task = Map::new();
    task.insert("taskId".to_owned(), header.id.to_string().into());
    task.insert("status".to_owned(), status(record.state).into());
    task.insert("statusMessage".to_owned(), standing.text.clone().into());
    task.insert("createdAt".to_owned(), rfc3339(header.accepted_ms).into());
    task.insert("lastUpdatedAt".to_owned(), rfc3339(newest.max(header.accepted_ms)).into());
    task.insert("ttlMs".to_owned(), header.ttl_ms.saturating_add(millis(KEPT)).into());
    task.insert("pollIntervalMs".to_owned(), millis(poll).into());
    task
}
