//! Connections of members that are no links: whoever is known may ask something beside its link, a few times at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use mesh_core::ids::PeerId;

/// Such connections of one member. Both ends may dial at once, anew after a change of networks, and ask to join again;
/// each may hold an encoded welcome until it is taken.
const OF_PEER_MAX: usize = 4;

/// Those that are there now.
#[derive(Debug, Clone, Default)]
pub(super) struct Greetings(Arc<Mutex<BTreeMap<PeerId, usize>>>);

impl Greetings {
    /// Takes a place for a connection of `peer`; `None` if it has all of its own.
    pub(super) fn enter(&self, peer: PeerId) -> Option<Greeting> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(peer).or_default();
        if *count >= OF_PEER_MAX {
            return None;
        }
        *count += 1;
        Some(Greeting { greetings: self.clone(), peer })
    }
}

/// A place; free again when dropped.
#[derive(Debug)]
pub(super) struct Greeting {
    greetings: Greetings,
    peer: PeerId,
}

impl Drop for Greeting {
    fn drop(&mut self) {
        let mut held = self.greetings.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::test_kit::id;

    use super::*;

    #[test]
    fn k2_a_member_has_a_few_connections_beside_its_link_and_keeps_out_nobody_else() {
        let greetings = Greetings::default();
        let mut held: Vec<Greeting> = (0..OF_PEER_MAX).filter_map(|_| greetings.enter(id(1))).collect();
        assert_eq!(held.len(), OF_PEER_MAX);
        assert!(greetings.enter(id(1)).is_none());
        assert!(greetings.enter(id(2)).is_some(), "another's are its own");
        held.pop();
        assert!(greetings.enter(id(1)).is_some(), "one has ended");
        held.clear();
        assert!(greetings.0.lock().unwrap().is_empty(), "nothing is kept of those that are gone");
    }
}
