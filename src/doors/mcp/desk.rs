//! What the MCP door keeps: cards that were read, names, the requests that are under way, and who has been here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use mesh_core::ids::ReqId;
use mesh_core::io::View;
use mesh_core::policy::Principal;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::clients::Clients;
use super::list::Cards;
use super::names::Names;
use crate::doors::identity::Identity;
use crate::tasks::TaskGroup;

/// Calls whose clients have hung up and that are not cancelled yet. Past this the calls go on, as if nobody had hung up.
const HUNG_UP_MAX: usize = 1_024;
/// Requests that can be cancelled by their id; those past this are only by hanging up.
const UNDER_WAY_MAX: usize = 4_096;

/// Clients that listen at once, and those of one principal: each costs a look at all tools whenever something changes.
const LISTENING_MAX: usize = 256;
const LISTENING_EACH_MAX: usize = 64;

/// A call, and for whom it is to be cancelled.
pub(super) type HungUp = (Identity, ReqId);

/// See the module.
#[derive(Debug)]
pub(in crate::doors) struct Desk {
    pub(super) cards: Cards,
    pub(super) clients: Clients,
    names: Mutex<Option<(Arc<View>, Arc<Names>)>>,
    under_way: Mutex<BTreeMap<String, CancellationToken>>,
    listening: Mutex<BTreeMap<Principal, usize>>,
    tasks: OnceLock<TaskGroup>,
    hung_up: mpsc::Sender<HungUp>,
    to_cancel: Mutex<Option<mpsc::Receiver<HungUp>>>,
}

impl Desk {
    pub(in crate::doors) fn new(home: &std::path::Path) -> Self {
        let (hung_up, to_cancel) = mpsc::channel(HUNG_UP_MAX);
        Self {
            cards: Cards::default(),
            clients: Clients::load(home),
            names: Mutex::default(),
            under_way: Mutex::default(),
            listening: Mutex::default(),
            tasks: OnceLock::new(),
            hung_up,
            to_cancel: Mutex::new(Some(to_cancel)),
        }
    }

    /// Whose tasks those of the door are, from now on.
    pub(super) fn set_tasks(&self, tasks: &TaskGroup) {
        let _ = self.tasks.set(tasks.clone());
    }

    /// Does something that goes on when its request ends. Nothing before the door is open.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(tasks) = self.tasks.get() {
            tasks.spawn(task);
        }
    }

    /// A place for a client that listens; `None`: too many do.
    pub(super) fn listen(self: &Arc<Self>, principal: &Principal) -> Option<Listening> {
        let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        let of_it = listening.get(principal).copied().unwrap_or_default();
        if of_it >= LISTENING_EACH_MAX || listening.values().sum::<usize>() >= LISTENING_MAX {
            return None;
        }
        listening.insert(principal.clone(), of_it + 1);
        Some(Listening { desk: self.clone(), principal: principal.clone() })
    }

    /// Calls that are to be cancelled, for the first who asks.
    pub(super) fn to_cancel(&self) -> Option<mpsc::Receiver<HungUp>> {
        self.to_cancel.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Clients that were here, or of whom something was said.
    pub(in crate::doors) fn clients(&self) -> &Clients {
        &self.clients
    }

    /// The names of all tools in a view.
    pub(super) fn names(&self, view: &Arc<View>) -> Arc<Names> {
        let mut kept = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, names)) = kept.as_ref()
            && Arc::ptr_eq(of, view)
        {
            return names.clone();
        }
        let names = Arc::new(Names::of(view));
        *kept = Some((view.clone(), names.clone()));
        names
    }

    /// A request that can be cancelled by this name while the guard lives.
    pub(super) fn begin(self: &Arc<Self>, name: String) -> UnderWay {
        let cancelled = CancellationToken::new();
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let is_kept = under_way.len() < UNDER_WAY_MAX && !under_way.contains_key(&name);
        if is_kept {
            under_way.insert(name.clone(), cancelled.clone());
        }
        UnderWay { desk: self.clone(), name: Some(name).filter(|_| is_kept), cancelled }
    }

    /// Tells a request that nobody wants its answer any more.
    pub(super) fn cancel(&self, name: &str) {
        if let Some(token) = self.under_way.lock().unwrap_or_else(PoisonError::into_inner).get(name) {
            token.cancel();
        }
    }

    /// A hold on a call by its client. `by_connection`: hanging up takes the call back.
    pub(super) fn hold(&self, who: Identity, id: ReqId, by_connection: bool) -> Hold {
        Hold { hung_up: self.hung_up.clone(), call: Some((who, id)), by_connection }
    }
}

/// The place of a client that listens.
#[derive(Debug)]
pub(super) struct Listening {
    desk: Arc<Desk>,
    principal: Principal,
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut listening = self.desk.listening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_it) = listening.get_mut(&self.principal) {
            *of_it = of_it.saturating_sub(1);
        }
        listening.retain(|_, of_it| *of_it > 0);
    }
}

/// A request under way.
#[derive(Debug)]
pub(super) struct UnderWay {
    desk: Arc<Desk>,
    /// `None`: it cannot be cancelled by a name.
    name: Option<String>,
    pub(super) cancelled: CancellationToken,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            self.desk.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        }
    }
}

/// Dropped before it is let go, it cancels its call: the client has hung up while it waited for the answer.
#[derive(Debug)]
pub(super) struct Hold {
    hung_up: mpsc::Sender<HungUp>,
    call: Option<HungUp>,
    by_connection: bool,
}

impl Hold {
    /// From now on the call goes on whatever becomes of its client.
    pub(super) fn let_go(&mut self) {
        self.call = None;
    }

    /// Has the call cancelled, unless it was let go.
    pub(super) fn take_back(&mut self) {
        if let Some(call) = self.call.take()
            && self.hung_up.try_send(call).is_err()
        {
            tracing::debug!("a call goes on although its client has taken it back");
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.by_connection {
            self.take_back();
        }
    }
}
