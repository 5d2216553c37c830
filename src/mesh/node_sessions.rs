//! Node streams that are registered with us, as far as the core must be told of them again when we lead anew.

use std::collections::BTreeMap;

use mesh_core::ids::PeerId;
use mesh_core::io::{Input, SessionId, View};

/// Present sessions by peer, and whether we led when we last looked.
#[derive(Debug, Default)]
pub(super) struct NodeSessions {
    present: BTreeMap<PeerId, SessionId>,
    led: bool,
}

impl NodeSessions {
    /// Notes a session that begins.
    pub(super) fn note_up(&mut self, peer: PeerId, session: SessionId) {
        self.present.insert(peer, session);
    }

    /// Notes a session that ended. One that is not the peer's present one changes nothing.
    pub(super) fn note_down(&mut self, peer: PeerId, session: SessionId) {
        if self.present.get(&peer) == Some(&session) {
            self.present.remove(&peer);
        }
    }

    /// Forgets the sessions of peers that are no members, and returns those peers.
    pub(super) fn take_strangers(&mut self, view: &View) -> Vec<PeerId> {
        let gone = self.present.extract_if(.., |peer, _| view.by_peer(peer).is_none());
        gone.map(|(peer, _)| peer).collect()
    }

    /// Notes whether we lead. Returns true if we led before and do not any more.
    pub(super) fn note_leading(&mut self, leads: bool) -> bool {
        std::mem::replace(&mut self.led, leads) && !leads
    }

    /// Returns the inputs that tell the core of all present sessions again.
    pub(super) fn announce(&self) -> impl Iterator<Item = Input> {
        self.present.iter().map(|(peer, session)| Input::NodeUp(*peer, *session))
    }
}
