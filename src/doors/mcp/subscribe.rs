//! Clients that listen: told when the list of tools changes, for as long as the connection and the right to it last. In the newer era that
//! is `subscriptions/listen`, in the older one the stream that a GET opens.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream};
use mesh_core::ids::Hash;
use mesh_core::io::View;
use mesh_core::policy::Principal;
use mesh_core::record::ToolDecl;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::desk::Listening;
use super::list;
use super::wire::{META_SUBSCRIPTION, RpcError};
use crate::doors::app::App;
use crate::doors::identity::Identity;

/// Pause between two words about changes: what happens meanwhile is told at once.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    #[serde(default)]
    tools_list_changed: bool,
}

#[derive(Deserialize)]
struct ListenParams {
    #[serde(default)]
    notifications: Wanted,
}

/// A client that listens.
pub(super) struct Subscription {
    app: Arc<App>,
    who: Identity,
    principal: Principal,
    /// Id of the request of the newer era.
    id: Option<Value>,
    wants_tools: bool,
    _place: Listening,
    view: watch::Receiver<Arc<View>>,
    edited: watch::Receiver<()>,
    known: Hash,
    told: Option<Instant>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Open,
    Over,
}

impl Subscription {
    pub(super) fn open(
        app: Arc<App>,
        who: Identity,
        principal: Principal,
        id: &Value,
        params: &str,
    ) -> Result<Self, RpcError> {
        let params: ListenParams = serde_json::from_str(params)
            .map_err(|error| RpcError::invalid_params(format!("the parameters: {error}")))?;
        let wants_tools = params.notifications.tools_list_changed;
        Self::new(app, who, principal, Some(id.clone()), wants_tools).ok_or_else(RpcError::too_many)
    }

    /// That of a client of the older era, which cannot choose; `None`: too many listen.
    pub(super) fn of_older_era(app: Arc<App>, who: Identity, principal: Principal) -> Option<Self> {
        Self::new(app, who, principal, None, true)
    }

    fn new(app: Arc<App>, who: Identity, principal: Principal, id: Option<Value>, wants_tools: bool) -> Option<Self> {
        let place = app.mcp.listen(&principal)?;
        let (view, edited) = (app.mesh().watch_view(), app.mcp.clients.watch());
        let known = fingerprint(&app.mesh().view(), &who);
        Some(Self {
            app,
            who,
            principal,
            id,
            wants_tools,
            _place: place,
            view,
            edited,
            known,
            told: None,
            state: State::New,
        })
    }

    fn meta(&self) -> Value {
        json!({ META_SUBSCRIPTION: self.id })
    }

    async fn next(&mut self) -> Option<Value> {
        // The older era has no first word and no last one.
        let is_older = self.id.is_none();
        match self.state {
            State::New if !is_older => {
                self.state = State::Open;
                let accepted = if self.wants_tools { json!({ "toolsListChanged": true }) } else { json!({}) };
                Some(json!({
                    "jsonrpc": "2.0",
                    "method": "notifications/subscriptions/acknowledged",
                    "params": { "notifications": accepted, "_meta": self.meta() },
                }))
            }
            State::New | State::Open => {
                if self.changed().await {
                    let params = if is_older { json!({}) } else { json!({ "_meta": self.meta() }) };
                    return Some(
                        json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": params }),
                    );
                }
                self.state = State::Over;
                if is_older {
                    return None;
                }
                let result = json!({ "resultType": "complete", "_meta": self.meta() });
                Some(json!({ "jsonrpc": "2.0", "id": self.id, "result": result }))
            }
            State::Over => None,
        }
    }

    /// True once the list is another one; false once nothing is told any more.
    async fn changed(&mut self) -> bool {
        let stop = self.app.stop.clone();
        loop {
            let news = tokio::select! {
                biased;
                () = stop.cancelled() => return false,
                news = self.view.changed() => news,
                news = self.edited.changed() => news,
            };
            if news.is_err() {
                return false;
            }
            let view = self.view.borrow_and_update().clone();
            if !self.app.counts(&self.who) || !self.app.mcp.clients.is_admitted(&self.principal) {
                return false;
            }
            let now = fingerprint(&view, &self.who);
            if now == self.known || !self.wants_tools {
                continue;
            }
            if let Some(told) = self.told
                && let Some(pause) = PAUSE.checked_sub(told.elapsed())
            {
                if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                    return false;
                }
                // Of all that has changed meanwhile one word is enough.
                self.known = fingerprint(&self.app.mesh().view(), &self.who);
            } else {
                self.known = now;
            }
            self.told = Some(Instant::now());
            return true;
        }
    }

    pub(super) fn messages(self) -> impl Stream<Item = Value> + Send + 'static {
        stream::unfold(self, |mut it| async move { Some((it.next().await?, it)) })
    }
}

/// Stands for the list of a caller: what is in it, not who is online.
fn fingerprint(view: &View, who: &Identity) -> Hash {
    let mut text = Vec::new();
    for open in list::open(view, who) {
        let ToolDecl { name, effect, description, card, .. } = open.tool;
        text.extend_from_slice(&open.node.peer.0);
        text.extend_from_slice(open.node.node_id.as_str().as_bytes());
        // What it is called and how it is marked depends on these (`names.rs`, `list.rs`).
        let node = (&open.node.first_name, open.node.confirmed, open.node.tier);
        let rest = format!(" {node:?} {name} {effect:?} {description} {card:?} {}\n", open.asks);
        text.extend_from_slice(rest.as_bytes());
    }
    Hash::of(&text)
}
