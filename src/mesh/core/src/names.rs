//! Texts by which people name a device: its name in the mesh, its peer id, or a prefix of that.

use std::borrow::Cow;

use crate::ids::PeerId;
use crate::io::{NodeView, View};
use crate::policy::Principal;
use crate::record::Header;

/// Characters of the shortest prefix of a peer id that names a peer: as many as [`PeerId::short`] shows.
pub const PREFIX_MIN: usize = 7;

/// The result of a search for one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<T> {
    /// No device has this name or such a peer id.
    None,
    /// Exactly this device.
    One(T),
    /// At least two devices: the text is ambiguous.
    Several(Vec<T>),
}

impl<T> Found<T> {
    /// The result of a search that found all of these.
    #[must_use]
    pub fn of(mut all: Vec<T>) -> Self {
        match (all.len(), all.pop()) {
            (_, None) => Self::None,
            (1, Some(one)) => Self::One(one),
            (_, Some(last)) => {
                all.push(last);
                Self::Several(all)
            }
        }
    }
}

/// Searches `devices` for the one that `text` names; `of` gives a device's peer id and name.
///
/// A name and a prefix count alike: a stranger may call itself anything, also like the prefix of somebody's peer id.
/// Peer ids are compared without regard to case, names exactly. A peer that `devices` has twice counts once.
pub fn find<T>(text: &str, devices: impl IntoIterator<Item = T>, of: impl Fn(&T) -> (PeerId, &str)) -> Found<T> {
    let prefix = (text.len() >= PREFIX_MIN).then(|| text.to_ascii_lowercase());
    let mut found: Vec<T> = Vec::new();
    for device in devices {
        let (peer, name) = of(&device);
        let named = name == text || prefix.as_ref().is_some_and(|prefix| peer.to_string().starts_with(prefix));
        if named && !found.iter().any(|known| of(known).0 == peer) {
            found.push(device);
        }
    }
    Found::of(found)
}

impl View {
    /// Returns the member of this name. Names are unique among members.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&NodeView> {
        self.nodes.iter().find(|node| node.node_id.as_str() == name)
    }

    /// Returns the member with this peer id.
    #[must_use]
    pub fn by_peer(&self, peer: &PeerId) -> Option<&NodeView> {
        self.nodes.iter().find(|node| node.peer == *peer)
    }

    /// The name of the device that a call is for: what its target is called now. The name in the header is what its
    /// origin wrote, which may be anything: only where the target is no member (any more) is it shown, unless it means a
    /// member; then the peer id, shortened.
    #[must_use]
    pub fn target_name<'a>(&'a self, header: &'a Header) -> Cow<'a, str> {
        let written = header.node_id.as_str();
        match self.by_peer(&header.target) {
            Some(node) => node.node_id.as_str().into(),
            None if self.find(written) == Found::None => written.into(),
            None => header.target.short().into(),
        }
    }

    /// The asker, as people read it. A device asks by its key, and what its header calls it may be another's name: it is
    /// called as it is called now; one that is no member (any more) as it wrote, unless that means a member.
    #[must_use]
    pub fn asked_by<'a>(&self, header: &'a Header, origin: &PeerId) -> Cow<'a, Principal> {
        let Principal::Device(written) = &header.principal else { return Cow::Borrowed(&header.principal) };
        let name = match self.by_peer(origin) {
            Some(node) => Some(node.node_id.clone()),
            None if self.find(written.as_str()) == Found::None => None,
            None => origin.short().parse().ok(),
        };
        name.map_or(Cow::Borrowed(&header.principal), |name| Cow::Owned(Principal::Device(name)))
    }

    /// Searches the members for the one that `text` names, see [`find`]. A name wins over a prefix.
    #[must_use]
    pub fn find(&self, text: &str) -> Found<&NodeView> {
        match self.by_name(text) {
            Some(node) => Found::One(node),
            None => find(text, &self.nodes, |node| (node.peer, node.node_id.as_str())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8) -> PeerId {
        let mut bytes = [0x42; 32];
        bytes[31] = last;
        PeerId(bytes)
    }

    fn look(text: &str, devices: &[(PeerId, String)]) -> Found<u8> {
        match find(text, devices, |(peer, name)| (*peer, name.as_str())) {
            Found::None => Found::None,
            Found::One((peer, _)) => Found::One(peer.0[31]),
            Found::Several(all) => Found::Several(all.into_iter().map(|(peer, _)| peer.0[31]).collect()),
        }
    }

    #[test]
    fn a_device_is_found_by_name_by_peer_id_and_by_a_prefix_that_is_long_enough() {
        let (a, b, c) = (peer(1), peer(2), PeerId([9; 32]));
        let devices = [(a, "nas".to_owned()), (b, "tv".to_owned()), (c, "desk".to_owned())];
        assert_eq!(look("nas", &devices), Found::One(1));
        assert_eq!(look("Nas", &devices), Found::None);
        assert_eq!(look(&a.to_string()[..8], &devices), Found::Several(vec![1, 2]));
        assert_eq!(look(&a.to_string().to_ascii_uppercase(), &devices), Found::One(1));
        assert_eq!(look(&c.to_string()[..7], &devices), Found::One(9));
        assert_eq!(look(&c.to_string()[..6], &devices), Found::None);
        assert_eq!(look("nobody-at-all", &devices), Found::None);
    }

    #[test]
    fn a_stranger_that_calls_itself_like_a_prefix_makes_it_ambiguous() {
        let (a, b) = (PeerId([9; 32]), peer(2));
        let devices = [(a, "nas".to_owned()), (b, a.short())];
        assert_eq!(look(&a.short(), &devices), Found::Several(vec![9, 2]));
    }

    #[test]
    fn one_peer_in_two_lists_is_one_and_two_of_one_name_are_several() {
        let devices = [(peer(1), "phone".to_owned()), (peer(1), "phone".to_owned())];
        assert_eq!(look("phone", &devices), Found::One(1));
        let devices = [(peer(1), "phone".to_owned()), (peer(2), "phone".to_owned())];
        assert_eq!(look("phone", &devices), Found::Several(vec![1, 2]));
    }
}
