//! Devices seen on the LAN. They say who they are, and nothing of it is trusted.

use std::collections::BTreeMap;

use mesh_core::ids::PeerId;
use mesh_core::io::{Now, View};
use mesh_core::names::{self, Found};

use crate::mesh::error::JoinError;
use crate::mesh::snapshot::Nearby;
use crate::mesh::transport::lan::{Discovery, LanEvent};

/// Devices that are kept, at most.
const DEVICES_MAX: usize = 256;

/// Devices that are seen now, and the state of discovery itself.
#[derive(Debug, Default)]
pub(super) struct NearbyDevices {
    seen: BTreeMap<PeerId, Nearby>,
    discovery: Discovery,
}

impl NearbyDevices {
    /// Notes what discovery saw. Returns true if the devices that are seen have changed.
    pub(super) fn note(&mut self, event: LanEvent, now: Now) -> bool {
        match event {
            LanEvent::Discovered { peer, name, addresses, node } => {
                if self.seen.len() < DEVICES_MAX || self.seen.contains_key(&peer) {
                    self.seen.insert(peer, Nearby { peer, name, addresses, node, seen_ms: now.wall_ms });
                }
                true
            }
            LanEvent::Gone(peer) => {
                self.seen.remove(&peer);
                true
            }
            LanEvent::State(discovery) => {
                self.discovery = discovery;
                false
            }
        }
    }

    /// Returns the devices that are no members.
    pub(super) fn strangers(&self, view: &View) -> Vec<Nearby> {
        self.seen.values().filter(|device| view.by_peer(&device.peer).is_none()).cloned().collect()
    }

    /// Searches the strangers for the one that `text` names; `None` = the only one there is.
    pub(super) fn find(&self, text: Option<&str>, view: &View) -> Result<Nearby, JoinError> {
        let strangers = self.strangers(view);
        let found = match text {
            Some(text) => names::find(text, strangers, |device| (device.peer, device.name.as_str())),
            None => Found::of(strangers),
        };
        match found {
            Found::One(device) => Ok(device),
            Found::Several(_) => {
                let many = "several devices are nearby under that name; name one by its peer id".to_owned();
                Err(JoinError::Rejected(many))
            }
            Found::None => Err(JoinError::NotNearby(text.unwrap_or("any").to_owned())),
        }
    }

    /// Returns the state of discovery itself.
    pub(super) fn discovery(&self) -> Discovery {
        self.discovery.clone()
    }
}
