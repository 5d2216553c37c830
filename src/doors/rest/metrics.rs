//! `/metrics`, in the format of Prometheus. Counters are kept by the `metrics` crate, for the whole process; gauges are
//! read from the mesh when someone asks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use mesh_core::ids::PeerId;
use mesh_core::io::{CallState, Usage, View};
use metrics::{counter, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::sync::broadcast::error::RecvError;

use super::extract::check_accept;
use crate::doors::app::{App, AppState};
use crate::doors::ops::devices::is_online;
use crate::mesh::EventKind;
use crate::status::OpError;
use crate::tasks::TaskGroup;

/// The process's recorder; made at the first use. Counters that are touched before count nowhere.
pub fn recorder() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another metrics recorder is installed: /metrics stays empty");
        }
        metrics::describe_counter!(
            "sigil_call_endings_total",
            "Endings that were recorded here, by ending and whether confirmed"
        );
        metrics::describe_counter!("sigil_http_requests_total", "Requests at the doors, by route and status");
        metrics::describe_counter!("sigil_gateway_changes_total", "Changes of gateway seen here");
        metrics::describe_gauge!("sigil_open_calls", "Calls without an ending that this device knows of");
        metrics::describe_gauge!("sigil_open_calls_of", "Calls without an ending, by origin");
        metrics::describe_gauge!(
            "sigil_open_call_bytes",
            "Bytes of their arguments that are held in memory, by origin"
        );
        metrics::describe_gauge!("sigil_ended_calls_held", "Calls that ended unconfirmed and are held, by origin");
        metrics::describe_gauge!("sigil_log_entries", "Entries of a device's log that are kept here, by author");
        metrics::describe_gauge!("sigil_log_bytes", "Bytes of a device's log that are kept here, by author");
        metrics::describe_gauge!("sigil_log_stopped", "1 while a device's log is stopped here, over its budget");
        metrics::describe_gauge!("sigil_blob_bytes", "Bytes of large arguments and outputs that are kept here");
        metrics::describe_gauge!("sigil_links", "Links to other devices");
        metrics::describe_gauge!("sigil_nodes", "Approved devices, by whether they are online");
        metrics::describe_gauge!("sigil_gateway_epoch", "Epoch of the gateway; 0 while none is known");
        metrics::describe_gauge!("sigil_is_gateway", "1 while this device is the gateway");
        metrics::describe_gauge!("sigil_pending_devices", "Devices that await approval");
        metrics::describe_gauge!(
            "sigil_loop_step_max_seconds",
            "Longest time that the one loop of the mesh took for one thing, since the start"
        );
        metrics::describe_gauge!("sigil_nearby_devices", "Strangers on the local network");
        metrics::describe_gauge!("process_resident_memory_bytes", "Resident memory");
        metrics::describe_gauge!("process_start_time_seconds", "When the agent started, seconds since 1970");
        handle
    })
}

/// Counts the events of the mesh.
pub(in crate::doors) fn watch(app: &Arc<App>, tasks: &TaskGroup) {
    recorder();
    let (_, mut live) = app.mesh().events().since(None);
    let stop = tasks.stopping();
    tasks.spawn(async move {
        while let Some(event) = stop.run_until_cancelled(live.recv()).await {
            match event {
                Ok(event) => match &event.what {
                    EventKind::Call(_, row) => {
                        if let CallState::Ended(ending) = row.state {
                            let confirmed = if row.confirmed { "true" } else { "false" };
                            counter!("sigil_call_endings_total", "ending" => ending.as_str(), "confirmed" => confirmed)
                                .increment(1);
                        }
                    }
                    EventKind::Gateway(_) => counter!("sigil_gateway_changes_total").increment(1),
                    EventKind::Nodes | EventKind::Pending | EventKind::Nearby | EventKind::Warning(_) => {}
                },
                Err(RecvError::Lagged(missed)) => counter!("sigil_events_uncounted_total").increment(missed),
                Err(RecvError::Closed) => break,
            }
        }
    });
}

/// Counts an answer. `route` is the pattern, so that clients cannot make new series.
pub(super) fn count(route: &str, status: StatusCode) {
    counter!("sigil_http_requests_total", "route" => route.to_owned(), "status" => status.as_u16().to_string())
        .increment(1);
}

#[expect(clippy::cast_precision_loss, reason = "gauges are floats; none of ours reaches 2^52")]
fn read(app: &App) {
    let (view, around) = (app.mesh().view(), app.mesh().surroundings());
    let online = view.nodes.iter().filter(|node| is_online(&view, node)).count();
    gauge!("sigil_open_calls").set(around.open_calls as f64);
    gauge!("sigil_blob_bytes").set(app.mesh().blobs().bytes() as f64);
    read_usage(&around.usage, &view);
    gauge!("sigil_links").set(view.links.len() as f64);
    gauge!("sigil_nodes", "state" => "online").set(online as f64);
    gauge!("sigil_nodes", "state" => "offline").set((view.nodes.len() - online) as f64);
    gauge!("sigil_gateway_epoch").set(view.gateway.map_or(0, |epoch| epoch.counter) as f64);
    gauge!("sigil_is_gateway").set(if view.gateway.is_some_and(|epoch| epoch.peer == view.me) { 1.0 } else { 0.0 });
    gauge!("sigil_pending_devices").set(around.pending.len() as f64);
    gauge!("sigil_nearby_devices").set(around.nearby.len() as f64);
    gauge!("sigil_loop_step_max_seconds").set(around.longest_step.as_secs_f64());
    gauge!("process_start_time_seconds").set(app.started_ms as f64 / 1000.0);
    // Linux; elsewhere the gauge is not there.
    if let Some(bytes) = resident_bytes() {
        gauge!("process_resident_memory_bytes").set(bytes as f64);
    }
}

/// Gauges of what each device fills here. One that fills nothing any more reads 0.
#[expect(clippy::cast_precision_loss, reason = "gauges are floats; none of ours reaches 2^52")]
fn read_usage(usage: &Usage, view: &View) {
    static SHOWN: Mutex<BTreeSet<(&'static str, PeerId)>> = Mutex::new(BTreeSet::new());
    let mut values: BTreeMap<(&'static str, PeerId), u64> = BTreeMap::new();
    for (origin, open) in &usage.open {
        values.insert(("sigil_open_calls_of", *origin), open.entries);
        values.insert(("sigil_open_call_bytes", *origin), open.bytes);
    }
    for (origin, ended) in &usage.ended {
        values.insert(("sigil_ended_calls_held", *origin), *ended);
    }
    for (origin, closed) in &usage.closed {
        values.insert(("sigil_closed_calls_of", *origin), closed.entries);
        values.insert(("sigil_closed_call_bytes", *origin), closed.bytes);
    }
    for (author, log) in &usage.logs {
        values.insert(("sigil_log_entries", *author), log.entries);
        values.insert(("sigil_log_bytes", *author), log.bytes);
    }
    for stopped in &view.stopped {
        values.insert(("sigil_log_stopped", stopped.peer), 1);
    }
    let mut shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    shown.extend(values.keys().copied());
    for (name, peer) in shown.iter() {
        let value = values.get(&(*name, *peer)).copied().unwrap_or(0);
        gauge!(*name, "peer" => peer.short()).set(value as f64);
    }
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Measurements for Prometheus.
#[utoipa::path(get, path = "/metrics", operation_id = "getMetrics", tag = "operation",
    responses((status = 200, description = "Text format 0.0.4", body = String, content_type = "text/plain")))]
pub(super) async fn metrics(State(app): AppState, headers: HeaderMap) -> Result<Response, OpError> {
    check_accept(&headers, "text/plain")?;
    let handle = recorder();
    read(&app);
    handle.run_upkeep();
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], handle.render()).into_response())
}
