//! Peers in their role of offering tools: the newest directory record of each, and if it is online.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::effects::Effects;
use crate::entry::SignedEntry;
use crate::ids::{Incarnation, NodeId, PeerId};
use crate::io::NodeView;
use crate::limits;
use crate::names::PREFIX_MIN;
use crate::policy::bounds::LIST_MAX;
use crate::record::{Directory, Tier, ToolDecl};
use crate::rows;
use crate::trust::{Member, Trust};

#[derive(Debug, Clone, Copy, Default)]
struct Presence {
    online: bool,
    changed_ms: u64,
}

/// All nodes that are known here.
#[derive(Debug, Clone, Default)]
pub(crate) struct Nodes {
    directories: BTreeMap<PeerId, (SignedEntry, Arc<Directory>)>,
    presence: BTreeMap<PeerId, Presence>,
    /// Peers that are online according to the gateway that we follow.
    told_online: BTreeSet<PeerId>,
}

impl Nodes {
    /// Restores a row of [`crate::io::Space::Directory`]. `None`: it is damaged.
    pub(crate) fn restore(&mut self, value: &[u8]) -> Option<()> {
        let entry = SignedEntry::from_stored(value)?;
        let directory = read(&entry)?;
        self.directories.insert(entry.author, (entry, Arc::new(directory)));
        Some(())
    }

    /// The newest directory entry of a peer.
    pub(crate) fn entry(&self, peer: &PeerId) -> Option<&SignedEntry> {
        self.directories.get(peer).map(|(entry, _)| entry)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &SignedEntry> {
        self.directories.values().map(|(entry, _)| entry)
    }

    pub(crate) fn directory(&self, peer: &PeerId) -> Option<&Arc<Directory>> {
        self.directories.get(peer).map(|(_, directory)| directory)
    }

    pub(crate) fn directories(&self) -> impl Iterator<Item = (&PeerId, &Directory)> {
        self.directories.iter().map(|(peer, (_, directory))| (peer, &**directory))
    }

    /// The tool of that name as its node declares it now, if it offers it.
    pub(crate) fn declared(&self, peer: &PeerId, tool: &str) -> Option<&ToolDecl> {
        self.directory(peer)?.tools.iter().find(|decl| decl.name.as_str() == tool)
    }

    /// Takes a directory entry, unless it is over a limit or older than what is held. True when it was news.
    pub(crate) fn apply(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) -> bool {
        let Some(directory) = read(entry) else { return false };
        let newer = self.entry(&entry.author).is_none_or(|known| is_older(known, entry));
        if newer {
            fx.put(rows::directory(&entry.author), entry);
            self.directories.insert(entry.author, (entry.clone(), Arc::new(directory)));
            fx.view_changed = true;
        }
        newer
    }

    /// True if a peer's record of this incarnation says the same as `directory`. A new incarnation says it again: that
    /// is how the others learn that the former one is over.
    pub(crate) fn says(&self, peer: &PeerId, incarnation: Incarnation, directory: &Directory) -> bool {
        let known = self.directories.get(peer).filter(|(entry, _)| entry.entry.incarnation == incarnation);
        known.is_some_and(|(_, known)| **known == *directory)
    }

    /// Forgets a peer's record, and hands it out.
    pub(crate) fn take(&mut self, peer: &PeerId) -> Option<Arc<Directory>> {
        self.directories.remove(peer).map(|(_, directory)| directory)
    }

    /// Peers that are online according to the gateway that we follow.
    pub(crate) fn told_online(&self) -> &BTreeSet<PeerId> {
        &self.told_online
    }

    pub(crate) fn set_told_online(&mut self, online: impl IntoIterator<Item = PeerId>) {
        self.told_online = online.into_iter().collect();
    }

    /// Notes which members are online now, and when that changed.
    pub(crate) fn note_online(&mut self, online: &BTreeSet<PeerId>, trust: &Trust, fx: &mut Effects<'_>) {
        for peer in trust.membership().members.keys() {
            let presence = self.presence.entry(*peer).or_default();
            let now = online.contains(peer);
            if presence.online != now {
                *presence = Presence { online: now, changed_ms: fx.now.wall_ms };
                fx.view_changed = true;
            }
        }
    }

    /// Names of the members that have given themselves another than that of their approval, as they count.
    ///
    /// A wish never takes a name away under which somebody else is called: not the name of an approval, nor what peer
    /// ids begin with. Of owners that want one name, the one of longer standing has it; between others it is nobody's.
    /// Who does not get its wish is called as it was approved.
    pub(crate) fn chosen_names(&self, trust: &Trust) -> BTreeMap<PeerId, NodeId> {
        let members = &trust.membership().members;
        let mut wishes: Vec<_> =
            members.iter().filter_map(|(peer, member)| Some((member, peer, self.wish(peer, member)?))).collect();
        if wishes.is_empty() {
            return BTreeMap::new();
        }
        wishes.sort_by_key(|(member, peer, _)| (member.tier != Tier::Owner, member.named_hlc, **peer));
        let mut taken: BTreeSet<&str> = members.values().map(|member| member.node_id.as_str()).collect();
        let mut chosen: BTreeMap<&NodeId, (PeerId, Tier)> = BTreeMap::new();
        for (member, peer, wish) in wishes {
            if taken.insert(wish.as_str()) {
                chosen.insert(wish, (*peer, member.tier));
            } else if chosen.get(wish).is_some_and(|(_, tier)| *tier != Tier::Owner) {
                chosen.remove(wish);
            }
        }
        let ids: BTreeSet<String> = members.keys().map(PeerId::to_string).collect();
        let is_id = |wish: &str| {
            let next = ids.range::<str, _>((Bound::Included(wish), Bound::Unbounded)).next();
            wish.len() >= PREFIX_MIN && next.is_some_and(|id| id.starts_with(wish))
        };
        let chosen = chosen.into_iter().filter(|(wish, _)| !is_id(wish.as_str()));
        chosen.map(|(wish, (peer, _))| (peer, wish.clone())).collect()
    }

    /// Another name than that of its approval which a member has given itself since. What it wished before it left and
    /// came back was another name's.
    fn wish(&self, peer: &PeerId, member: &Member) -> Option<&NodeId> {
        let (entry, directory) = self.directories.get(peer)?;
        directory.name.as_ref().filter(|wish| **wish != member.node_id && entry.entry.hlc >= member.named_hlc)
    }

    /// Name of a member.
    pub(crate) fn name(&self, peer: &PeerId, trust: &Trust) -> Option<NodeId> {
        let member = trust.member(peer)?;
        // Names that others have chosen matter only for one that has chosen too.
        let chosen = self.wish(peer, member).and_then(|_| self.chosen_names(trust).remove(peer));
        Some(chosen.unwrap_or_else(|| member.node_id.clone()))
    }

    /// The member of this name: of its approval, or one that it has given itself.
    pub(crate) fn named(&self, name: &str, trust: &Trust) -> Option<PeerId> {
        let members = &trust.membership().members;
        let approved = members.iter().find(|(_, member)| member.node_id.as_str() == name).map(|(peer, _)| *peer);
        approved.or_else(|| {
            self.chosen_names(trust).into_iter().find(|(_, chosen)| chosen.as_str() == name).map(|(peer, _)| peer)
        })
    }

    /// All members as nodes.
    pub(crate) fn view(&self, online: &BTreeSet<PeerId>, trust: &Trust) -> Vec<NodeView> {
        let members = trust.membership().members.iter();
        let mut chosen = self.chosen_names(trust);
        members
            .map(|(peer, member)| NodeView {
                peer: *peer,
                key: member.key,
                node_id: chosen.remove(peer).unwrap_or_else(|| member.node_id.clone()),
                tier: member.tier,
                approved_by: member.by,
                since_ms: member.since_ms,
                online: online.contains(peer),
                last_seen_ms: self.presence.get(peer).map_or(0, |presence| presence.changed_ms),
                directory: self.directory(peer).cloned(),
            })
            .collect()
    }
}

/// What a directory entry says, unless it does not decode or says too much.
pub(crate) fn read(entry: &SignedEntry) -> Option<Directory> {
    entry.record().filter(is_reasonable)
}

/// True if `entry` is a newer word of its author than `known`.
pub(crate) fn is_older(known: &SignedEntry, entry: &SignedEntry) -> bool {
    let clock = |entry: &SignedEntry| (entry.entry.hlc, entry.entry.seq);
    clock(known) < clock(entry)
}

fn is_reasonable(directory: &Directory) -> bool {
    directory.addresses.len() <= limits::ADDRESSES_MAX
        && directory.addresses.iter().all(|address| address.len() <= 64)
        && directory.services.len() <= limits::SERVICES_MAX
        && directory.tools.len() <= limits::TOOLS_MAX
        && directory.deny.len() <= LIST_MAX
        && directory.platform.len() <= 32
        && directory.version.len() <= 32
        && directory.tools.iter().all(|tool| tool.description.len() <= 800)
}
