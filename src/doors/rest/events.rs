//! Events of the mesh, as server-sent events.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event as Sse, KeepAlive};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use futures_util::stream::{self, Stream};
use mesh_core::ids::PeerId;
use mesh_core::io::{NodeView, View};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use utoipa::openapi::Object;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::{IntoParams, ToSchema};

use super::extract::{Query, check_accept};
use super::model::time;
use super::shapes::{TOPICS, Topics, of_query};
use crate::doors::app::{App, AppState};
use crate::doors::identity::Identity;
use crate::doors::ops::calls;
use crate::doors::ops::devices::{is_online, name_of};
use crate::mesh::{Event, EventKind, EventLog, Surroundings};
use crate::status::OpError;
use crate::text::visible;

/// Silence after which a comment is sent, so that both ends notice a dead connection.
const HEARTBEAT: Duration = Duration::from_secs(15);

fn topic(what: &EventKind) -> &'static str {
    match what {
        EventKind::Gateway(_) => "gateway",
        EventKind::Nodes => "nodes",
        EventKind::Call(..) => "call",
        EventKind::Pending => "pending",
        EventKind::Nearby => "nearby",
        EventKind::Warning(_) => "warning",
    }
}

/// Filter of events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventQuery {
    /// Comma-separated; default all.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    topics: Option<Topics>,
}

/// An event of the stream, field by field.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes what the stream writes")]
struct StreamedEvent {
    /// Given as `Last-Event-ID`, it makes the stream go on after this event.
    #[schema(pattern = "^[0-9a-f]{1,16}-[0-9]{1,20}$")]
    id: String,
    /// Its topic, or `reset`.
    #[schema(schema_with = event_words)]
    event: String,
    /// JSON on one line.
    data: String,
}

fn event_words() -> Object {
    let words = TOPICS.into_iter().chain(["reset"]);
    let about = "Its topic, or `reset`.";
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).description(Some(about)).build()
}

/// Events, as they happen (`text/event-stream`).
///
/// Each event has an id; a client that comes back with it as `Last-Event-ID` gets what it missed. When that is too old,
/// or of an earlier run of the agent, it gets `reset`: read everything anew. The details of an event are read from its route.
/// Those of `nodes`, `pending` and `nearby` say in `changed` which devices (`node_id`, `peer_id`) and `what`: joined, left, renamed, online,
/// offline or changed; without it, of events that were missed, any may have.
/// A token that does not look after the mesh gets the topics `gateway`, `nodes` and, of calls that it may see, `call`; the
/// stream ends when it is revoked.
#[utoipa::path(get, path = "/api/v1/events", operation_id = "streamEvents", tag = "operation",
    params(EventQuery, ("Last-Event-ID" = String, Header, description = "Id of the last event that was seen")),
    responses((status = 200, description = "Events without end", body = StreamedEvent, content_type = "text/event-stream")))]
pub(super) async fn events(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Query(query): Query<EventQuery>,
    headers: HeaderMap,
) -> Result<Response, OpError> {
    check_accept(&headers, "text/event-stream")?;
    let wanted = |topic: &&str| query.topics.as_ref().is_none_or(|topics| topics.0.iter().any(|word| word == topic));
    let topics = TOPICS.into_iter().filter(wanted).collect();
    let last = headers.get("last-event-id").map_or(Last::Nothing, |id| {
        id.to_str().ok().and_then(|id| read_id(app.started_ms, id)).map_or(Last::Foreign, Last::Event)
    });
    let stop = app.stop.clone().cancelled_owned();
    let over = who.ended().cancelled_owned();
    let stream = feed(app, who, topics, last).take_until(stop).take_until(over);
    let keep_alive = KeepAlive::new().interval(HEARTBEAT).text("heartbeat");
    Ok(axum::response::Sse::new(stream).keep_alive(keep_alive).into_response())
}

/// An id of a run of the agent. Those of one run never pass for those of another: numbers start anew with the process.
pub(super) fn write_id(run: u64, id: u64) -> String {
    format!("{run:x}-{id}")
}

/// The number in an id of this run; `None` for any other text.
pub(super) fn read_id(run: u64, text: &str) -> Option<u64> {
    let (shown, id) = text.split_once('-')?;
    (u64::from_str_radix(shown, 16) == Ok(run)).then(|| id.parse().ok()).flatten()
}

/// The last event that the client has seen.
#[derive(Debug, Clone, Copy)]
enum Last {
    /// It does not say.
    Nothing,
    /// Something that is not of this run.
    Foreign,
    /// This event.
    Event(u64),
}

struct Feed {
    app: Arc<App>,
    who: Identity,
    log: Arc<EventLog>,
    topics: Vec<&'static str>,
    waiting: VecDeque<Arc<Event>>,
    live: broadcast::Receiver<Arc<Event>>,
    /// Newest that was looked at, whether sent or not.
    seen: u64,
    /// Newest of those before which nothing is known of what was.
    missed: u64,
    /// As it was when devices were told of last.
    told: (Arc<View>, Arc<Surroundings>),
    /// Sent before anything else.
    first: Option<Sse>,
}

impl Feed {
    /// Goes on after `last`; without one, or when what follows it is gone, from now.
    fn new(app: Arc<App>, who: Identity, topics: Vec<&'static str>, last: Last) -> Self {
        let log = app.mesh().events();
        let seen = log.newest();
        let (old, live) = log.since(Some(seen));
        let waiting = old.unwrap_or_default().into();
        let told = (app.mesh().view(), app.mesh().surroundings());
        let mut feed = Self { app, who, log, topics, waiting, live, seen, missed: seen, told, first: None };
        match last {
            // An id alone is no event, but the browser remembers it: so even this client can resume.
            Last::Nothing => feed.first = Some(Sse::default().id(write_id(feed.app.started_ms, seen))),
            Last::Foreign => feed.start_over("the agent has been started anew since"),
            Last::Event(last) => feed.catch_up(last, "the events after this id are not kept any more"),
        }
        feed
    }

    fn catch_up(&mut self, after: u64, too_old: &'static str) {
        let (old, live) = self.log.since(Some(after));
        match old {
            Some(old) => (self.waiting, self.live, self.seen) = (old.into(), live, after),
            None => self.start_over(too_old),
        }
    }

    fn start_over(&mut self, why: &'static str) {
        self.seen = self.log.newest();
        let (old, live) = self.log.since(Some(self.seen));
        (self.waiting, self.live) = (old.unwrap_or_default().into(), live);
        let id = write_id(self.app.started_ms, self.seen);
        self.first = Some(Sse::default().id(id).event("reset").data(json!({ "reason": why }).to_string()));
    }

    async fn next(&mut self) -> Option<Sse> {
        loop {
            if let Some(first) = self.first.take() {
                return Some(first);
            }
            let event = match self.waiting.pop_front() {
                Some(event) => event,
                None => match self.live.recv().await {
                    Ok(event) => event,
                    Err(broadcast::error::RecvError::Closed) => return None,
                    // This client reads slowly: what it missed is still in the log, or it starts over.
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        self.catch_up(self.seen, "events came faster than they were read");
                        continue;
                    }
                },
            };
            self.seen = event.id;
            if !self.topics.contains(&topic(&event.what)) {
                continue;
            }
            if !self.app.counts(&self.who) {
                return None;
            }
            if self.concerns(&event.what).await {
                return Some(self.write(&event).await);
            }
        }
    }

    /// True if the caller may see this. Of calls those that its routes show.
    async fn concerns(&self, what: &EventKind) -> bool {
        match what {
            EventKind::Gateway(_) | EventKind::Nodes => true,
            EventKind::Pending | EventKind::Nearby | EventKind::Warning(_) => {
                self.who.may_look(&self.app.mesh().view().rights)
            }
            EventKind::Call(id, _) => calls::concerns(self.app.mesh(), &self.who, *id).await,
        }
    }

    async fn write(&mut self, event: &Event) -> Sse {
        let topic = topic(&event.what);
        let mut data = match &event.what {
            EventKind::Gateway(gateway) => match gateway {
                Some((peer, epoch)) => {
                    let view = self.app.mesh().view();
                    let node = name_of(&view, peer);
                    json!({ "gateway": { "peer_id": peer.to_string(), "node_id": node, "epoch": epoch, "self": *peer == view.me } })
                }
                None => json!({ "gateway": null }),
            },
            EventKind::Call(id, row) => {
                let mut data = json!({
                    "id": id.to_string(),
                    "state": row.state.as_str(),
                    "attempt": row.attempt,
                    "confirmed": row.confirmed,
                    "reason": row.reason,
                    "peer": row.peer.to_string(),
                });
                // Of one that has left the book meanwhile this is not said.
                if let (Ok(Some(call)), Some(members)) = (self.app.mesh().call(*id).await, data.as_object_mut()) {
                    let view = self.app.mesh().view();
                    members.insert("node".to_owned(), view.target_name(&call.header).as_ref().to_string().into());
                    members.insert("tool".to_owned(), call.header.tool.to_string().into());
                    members.insert("origin".to_owned(), name_of(&view, &call.origin).into());
                    members
                        .insert("principal".to_owned(), view.asked_by(&call.header, &call.origin).to_string().into());
                }
                data
            }
            EventKind::Warning(text) => json!({ "text": text }),
            EventKind::Nodes | EventKind::Pending | EventKind::Nearby if event.id <= self.missed => json!({}),
            EventKind::Nodes => {
                let before = std::mem::replace(&mut self.told.0, self.app.mesh().view());
                json!({ "changed": nodes_changed(&before, &self.told.0) })
            }
            EventKind::Pending | EventKind::Nearby => {
                let before = std::mem::replace(&mut self.told.1, self.app.mesh().surroundings());
                let asking =
                    |of: &Surroundings| of.pending.iter().map(|it| (it.peer, it.node_id.to_string())).collect();
                let strangers = |of: &Surroundings| of.nearby.iter().map(|it| (it.peer, visible(&it.name))).collect();
                let is_asking = matches!(event.what, EventKind::Pending);
                let of = |it: &Surroundings| if is_asking { asking(it) } else { strangers(it) };
                // The other kind is told by its own events.
                let (was, is) = (of(&before), of(&self.told.1));
                let mut kept = Surroundings::clone(&self.told.1);
                if is_asking {
                    kept.nearby.clone_from(&before.nearby);
                } else {
                    kept.pending.clone_from(&before.pending);
                }
                self.told.1 = Arc::new(kept);
                json!({ "changed": named_changed(&was, &is) })
            }
        };
        if let Some(members) = data.as_object_mut() {
            members.insert("at".to_owned(), Value::String(time(event.at_ms)));
        }
        // One line: JSON escapes line breaks, so nothing in it can forge a field of the stream.
        Sse::default().id(write_id(self.app.started_ms, event.id)).event(topic).data(data.to_string())
    }
}

/// What has become of members.
fn nodes_changed(before: &View, now: &View) -> Vec<Value> {
    let told = |node: &NodeView, what: &str| json!({ "node_id": node.node_id.to_string(), "peer_id": node.peer.to_string(), "what": what });
    let of_one = |node: &NodeView| {
        let Some(was) = before.by_peer(&node.peer) else { return Some(told(node, "joined")) };
        let is_online = is_online(now, node);
        let what = match is_online != self::is_online(before, was) {
            true if is_online => "online",
            true => "offline",
            false if was.node_id != node.node_id => "renamed",
            false if was == node => return None,
            false => "changed",
        };
        Some(told(node, what))
    };
    let gone = before.nodes.iter().filter(|was| now.by_peer(&was.peer).is_none()).map(|was| told(was, "left"));
    now.nodes.iter().filter_map(of_one).chain(gone).collect()
}

/// What has become of devices of which a name is known.
fn named_changed(before: &BTreeMap<PeerId, String>, now: &BTreeMap<PeerId, String>) -> Vec<Value> {
    let told = |(peer, name): (&PeerId, &String), what: &str| json!({ "node_id": name, "peer_id": peer.to_string(), "what": what });
    let news = now.iter().filter_map(|it| match before.get(it.0) {
        None => Some(told(it, "joined")),
        Some(was) if was == it.1 => None,
        Some(_) => Some(told(it, "renamed")),
    });
    let gone = before.iter().filter(|(peer, _)| !now.contains_key(*peer)).map(|it| told(it, "left"));
    news.chain(gone).collect()
}

fn feed(
    app: Arc<App>,
    who: Identity,
    topics: Vec<&'static str>,
    last: Last,
) -> impl Stream<Item = Result<Sse, Infallible>> + Send + 'static {
    let feed = Feed::new(app, who, topics, last);
    stream::unfold(feed, |mut feed| async move { feed.next().await.map(|event| (Ok(event), feed)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_another_run_are_not_taken() {
        assert_eq!(read_id(0x1a, &write_id(0x1a, 7)), Some(7));
        assert_eq!(read_id(0x1a, &write_id(0x1b, 7)), None);
        for bad in ["", "7", "1a-", "-7", "1a-x", "1a-7-7"] {
            assert_eq!(read_id(0x1a, bad), None, "{bad}");
        }
    }

    #[test]
    fn devices_that_have_a_name_alone_are_told_of_by_it() {
        let of =
            |all: &[(u8, &str)]| all.iter().map(|(peer, name)| (PeerId([*peer; 32]), (*name).to_owned())).collect();
        let (before, now) = (of(&[(1, "a"), (2, "b"), (3, "c")]), of(&[(1, "a"), (2, "x"), (4, "d")]));
        let told: Vec<(String, String)> = named_changed(&before, &now)
            .iter()
            .map(|it| (it["node_id"].as_str().unwrap().to_owned(), it["what"].as_str().unwrap().to_owned()))
            .collect();
        let want =
            [("x", "renamed"), ("d", "joined"), ("c", "left")].map(|(name, what)| (name.to_owned(), what.to_owned()));
        assert_eq!(told, want);
        assert!(named_changed(&now, &now).is_empty());
    }

    #[test]
    fn every_kind_has_its_topic() {
        for what in [EventKind::Gateway(None), EventKind::Nodes, EventKind::Pending, EventKind::Nearby] {
            assert!(TOPICS.contains(&topic(&what)));
        }
    }
}
