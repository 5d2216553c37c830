//! The tailnet underlay, which comes and goes, and what is known of the tailnet of this machine.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::watch;

use super::address::canonical;
use super::underlay::Underlay;
use crate::mesh::clock;
use crate::mesh::tailnet::{Condition, Identity, LocalApi};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct TailnetDoor {
    now: Mutex<Now>,
    condition: watch::Sender<Condition>,
    /// Set when the tailnet is used at all.
    api: OnceLock<LocalApi>,
}

#[derive(Debug, Default)]
struct Now {
    open: Option<Arc<Underlay>>,
    /// The last address that was refused.
    refused: Option<IpAddr>,
}

impl TailnetDoor {
    /// Uses the tailnet of this tailscaled from now on. Only the first call counts.
    pub(super) fn begin(&self, api: LocalApi) {
        let _ = self.api.set(api);
    }

    /// The underlay, while it is open.
    pub(super) fn open(&self) -> Option<Arc<Underlay>> {
        self.lock().open.clone()
    }

    /// The state of the tailnet.
    pub(super) fn seen(&self) -> Condition {
        self.condition.borrow().clone()
    }

    /// Follows the state of the tailnet.
    pub(super) fn follow(&self) -> watch::Receiver<Condition> {
        self.condition.subscribe()
    }

    /// Notes the state of the tailnet. Returns true if it is news.
    pub(super) fn note(&self, condition: Condition) -> bool {
        self.condition.send_if_modified(|now| {
            let is_news = *now != condition;
            *now = condition;
            is_news
        })
    }

    /// Takes another underlay, or none, in place of the one there was.
    pub(super) fn put(&self, underlay: Option<Arc<Underlay>>) -> Option<Arc<Underlay>> {
        std::mem::replace(&mut self.lock().open, underlay)
    }

    /// The node of the tailnet at this address, if tailscaled knows one and its key has not ended.
    pub(super) async fn who_is(&self, at: SocketAddr) -> Option<Identity> {
        let api = self.api.get()?;
        match api.whois(canonical(at)).await {
            Ok(Some(identity)) => {
                let node = &identity.node;
                tracing::debug!(
                    id = node.stable_id,
                    name = node.name,
                    login = identity.login,
                    "a node of the tailnet comes"
                );
                if !node.has_ended(clock::now().wall_ms) {
                    return Some(identity);
                }
                self.note_refused(at, "its key has expired");
            }
            Ok(None) => self.note_refused(at, "it is no node of the tailnet"),
            Err(error) => self.note_refused(at, &format!("tailscaled does not say who it is: {error}")),
        }
        None
    }

    /// Notes one that is refused, and says so once: who is refused comes again and again.
    pub(super) fn note_refused(&self, at: SocketAddr, why: &str) {
        let before = self.lock().refused.replace(at.ip());
        if before != Some(at.ip()) {
            tracing::info!(ip = %at.ip(), "refused one that comes over the tailnet: {why}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
