//! All underlays of a peer: those that are always there, and those that come and go.

use std::sync::Arc;

use super::address::Address;
use super::embedded_door::EmbeddedDoor;
use super::tailnet_door::TailnetDoor;
use super::underlay::{Underlay, UnderlayKind};
use crate::mesh::tailnet::answers::is_tailnet;

/// All underlays of a peer.
#[derive(Debug)]
pub(super) struct Underlays {
    pub(super) udp: Arc<Underlay>,
    pub(super) relay: Arc<Underlay>,
    pub(super) tailnet: TailnetDoor,
    pub(super) embedded: EmbeddedDoor,
}

impl Underlays {
    /// Those that are open.
    pub(super) fn all(&self) -> Vec<Arc<Underlay>> {
        let always = [self.udp.clone(), self.relay.clone()];
        always.into_iter().chain(self.tailnet.open()).chain(self.embedded.open()).collect()
    }

    /// The underlay of this kind, if it is open.
    pub(super) fn get(&self, kind: UnderlayKind) -> Option<Arc<Underlay>> {
        match kind {
            UnderlayKind::Udp => Some(self.udp.clone()),
            UnderlayKind::Relay => Some(self.relay.clone()),
            UnderlayKind::Tailnet => self.tailnet.open(),
            UnderlayKind::TailnetEmbedded => self.embedded.open(),
        }
    }

    /// The kind by which addresses on a tailnet are dialled, if there is one.
    pub(super) fn on_tailnet(&self) -> Option<UnderlayKind> {
        let kinds = [UnderlayKind::Tailnet, UnderlayKind::TailnetEmbedded];
        kinds.into_iter().find(|kind| self.get(*kind).is_some())
    }

    /// Addresses at which others may reach us, over whatever underlay.
    ///
    /// An address on the tailnet is one of that underlay alone: by direct UDP it would look as good as one on the local
    /// network.
    pub(super) fn announced(&self) -> Vec<Address> {
        let all = self.all();
        let on_tailnet = |address: &Address| matches!(address, Address::Udp(socket) if is_tailnet(socket.ip()));
        let has_tailnet = all.iter().any(|underlay| underlay.kind == UnderlayKind::Tailnet);
        let announced = all.iter().flat_map(|underlay| underlay.own.borrow().announced.clone());
        announced.filter(|address| !(has_tailnet && on_tailnet(address))).collect()
    }
}
