//! Who is online: the gateway knows by its node streams, the others by its word.

use std::collections::BTreeSet;

use super::{Peer, Presence};
use crate::effects::Effects;
use crate::frame::Frame;
use crate::ids::PeerId;

impl Peer {
    pub(super) fn online_now(&self) -> BTreeSet<PeerId> {
        let mut online: BTreeSet<PeerId> = if self.election.leading_claim().is_some() {
            self.book.online().collect()
        } else if self.election.gateway().is_some() {
            self.told_online.clone()
        } else {
            self.election.neighbours().collect()
        };
        online.insert(self.me);
        online
    }

    pub(super) fn note_presence(&mut self, fx: &mut Effects<'_>) {
        let online = self.online_now();
        let peers: Vec<PeerId> = self.trust.membership().members.keys().copied().collect();
        for peer in peers {
            let presence = self.presence.entry(peer).or_default();
            let now = online.contains(&peer);
            if presence.online != now {
                *presence = Presence { online: now, changed_ms: fx.now.wall_ms };
                fx.view_changed = true;
            }
        }
    }

    pub(super) fn tell_presence(&mut self, fx: &mut Effects<'_>) {
        if let Some(epoch) = self.election.leading_claim().map(|claim| claim.epoch) {
            let online: Vec<PeerId> = self.book.online().collect();
            let peers: Vec<PeerId> = self.election.neighbours().collect();
            for peer in peers {
                fx.send(peer, Frame::Presence { epoch, online: online.clone() });
            }
        }
        self.note_presence(fx);
    }
}
