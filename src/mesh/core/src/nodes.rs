//! Peers in their role of offering tools: the newest directory record of each, and if it is online.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::effects::Effects;
use crate::entry::{Place, SignedEntry};
use crate::ids::{Incarnation, NodeId, PeerId, ToolName};
use crate::io::{LogReader, NodeView, Output};
use crate::limits;
use crate::names::PREFIX_MIN;
use crate::policy::bounds::LIST_MAX;
use crate::record::{Directory, Tier, ToolDecl};
use crate::rows::{self, Row as _};
use crate::tailnet::Untagged;
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
    /// Clock and place of the newest directory of each peer that has said one and does not belong now.
    aside: BTreeMap<PeerId, (u64, Place)>,
    /// Those of them that belong again, and whose directories are being read.
    reading: BTreeSet<PeerId>,
    /// They are being read for the second time.
    again: bool,
    presence: BTreeMap<PeerId, Presence>,
    /// Peers that are online according to the gateway that we follow.
    told_online: BTreeSet<PeerId>,
    /// Changes of the directories, since this process began.
    changes: u64,
    /// Told by the shell.
    untagged: BTreeMap<PeerId, Untagged>,
}

impl Nodes {
    /// Restores a row of [`crate::io::Space::Directory`]. `None`: it is damaged.
    pub(crate) fn restore(&mut self, value: &[u8]) -> Option<()> {
        let entry = SignedEntry::from_stored(value)?;
        let directory = read(&entry)?;
        self.directories.insert(entry.author, (entry, Arc::new(directory)));
        self.changes += 1;
        Some(())
    }

    /// Takes back a row of [`crate::io::Space::Meta`]. `None`: it is one of ours and damaged.
    pub(crate) fn restore_aside(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let Some(author) = rows::directory_at_of(key) else { return Some(()) };
        let author = author?;
        let at = <(u64, Place)>::from_bytes(value).filter(|(_, place)| place.author == author)?;
        self.aside.insert(author, at);
        Some(())
    }

    /// Membership has changed: of whoever does not belong only the place of its directory is kept, and the directory of
    /// whoever belongs again is read from the log. `me`: our own stays, we say it again if we belong again.
    pub(crate) fn settle(&mut self, me: &PeerId, trust: &Trust, fx: &mut Effects<'_>) {
        let is_excluded = |author: &PeerId| author != me && trust.member(author).is_none();
        let out: Vec<SignedEntry> =
            self.directories.extract_if(.., |author, _| is_excluded(author)).map(|(_, (entry, _))| entry).collect();
        for entry in out {
            self.changes += 1;
            fx.delete(rows::directory(&entry.author));
            self.put_aside(&entry, fx);
            fx.view_changed = true;
        }
        if self.reading.is_empty() {
            self.again = false;
            self.read_aside(trust, fx);
        }
    }

    fn put_aside(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) {
        let (at, known) = ((entry.entry.hlc, entry.place()), self.aside.get(&entry.author));
        if known.is_none_or(|known| (known.0, known.1.seq) < (at.0, at.1.seq)) {
            fx.put(rows::directory_at(&entry.author), &at);
            self.aside.insert(entry.author, at);
        }
    }

    fn read_aside(&mut self, trust: &Trust, fx: &mut Effects<'_>) {
        let places = self.aside.values().map(|(_, place)| place);
        let back: Vec<Place> = places.filter(|place| trust.member(&place.author).is_some()).copied().collect();
        if !back.is_empty() {
            self.reading = back.iter().map(|place| place.author).collect();
            let ranges = back.iter().map(|place| (place.author, place.incarnation, place.seq, place.seq)).collect();
            fx.out.push(Output::ReadLog { reader: LogReader::Directories, ranges });
        }
    }

    /// Our own log has answered, and what it holds was applied: the directories of `read`. What came in the step that asked
    /// is there the second time; what is not has been truncated, so that a newer one comes, or comes itself in its place.
    pub(crate) fn handle_log_read(&mut self, read: &BTreeSet<PeerId>, more: bool, trust: &Trust, fx: &mut Effects<'_>) {
        let over = !more && self.again;
        for author in std::mem::take(&mut self.reading) {
            if (over || read.contains(&author)) && self.aside.remove(&author).is_some() {
                fx.delete(rows::directory_at(&author));
            }
        }
        self.again = !more;
        self.read_aside(trust, fx);
    }

    /// The tailnet of this device says for whom a tag does not count now.
    pub(crate) fn note_untagged(&mut self, untagged: BTreeMap<PeerId, Untagged>, fx: &mut Effects<'_>) {
        if self.untagged != untagged {
            self.untagged = untagged;
            self.changes += 1;
            fx.view_changed = true;
        }
    }

    /// Why the tag on which this member's approval rests does not count now.
    pub(crate) fn untagged(&self, peer: &PeerId, member: &Member) -> Option<Untagged> {
        member.of.as_ref().and_then(|_| self.untagged.get(peer)).copied()
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

    /// Runs of this tool that its node has at once, if it says so.
    pub(crate) fn at_once(&self, peer: &PeerId, tool: &ToolName) -> Option<usize> {
        let folded = tool.folded();
        let decl = self.directory(peer)?.tools.iter().find(|decl| decl.name.folded() == folded)?;
        decl.at_once.map(|most| usize::from(most.get()))
    }

    /// The tools of a node that say how many of their runs it has at once, by their names in small letters.
    pub(crate) fn with_places(&self, peer: &PeerId) -> BTreeMap<String, usize> {
        let tools = self.directory(peer).map(|directory| directory.tools.as_slice()).unwrap_or_default();
        let named = |decl: &ToolDecl| Some((decl.name.folded().into_owned(), usize::from(decl.at_once?.get())));
        // Of two that are equal in small letters the first counts.
        tools.iter().rev().filter_map(named).collect()
    }

    /// Takes a directory entry, unless it is over a limit or older than what is held. True when it was news. Of one that
    /// does not belong its place is kept.
    pub(crate) fn apply(&mut self, entry: &SignedEntry, me: &PeerId, trust: &Trust, fx: &mut Effects<'_>) -> bool {
        let Some(directory) = read(entry) else { return false };
        if entry.author != *me && trust.member(&entry.author).is_none() {
            self.put_aside(entry, fx);
            return false;
        }
        let newer = self.entry(&entry.author).is_none_or(|known| is_older(known, entry));
        if newer {
            if self.aside.remove(&entry.author).is_some() {
                fx.delete(rows::directory_at(&entry.author));
            }
            fx.put(rows::directory(&entry.author), entry);
            self.directories.insert(entry.author, (entry.clone(), Arc::new(directory)));
            self.changes += 1;
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
        self.changes += 1;
        self.directories.remove(peer).map(|(_, directory)| directory)
    }

    /// Changes of what devices say of themselves, since this process began.
    pub(crate) const fn changes(&self) -> u64 {
        self.changes
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

    /// Names of the members that ask for another name than that of their approval, as far as they get it.
    ///
    /// A requested name counts for owners, and for members whose name no owner gave or saw (`docs/decisions/0067`). It never
    /// takes a name in use: neither that of an approval nor what a peer id begins with. If several owners request one name,
    /// the senior gets it; if others do, nobody. Who does not get it keeps the name of the approval.
    pub(crate) fn chosen_names(&self, trust: &Trust) -> BTreeMap<PeerId, NodeId> {
        let members = &trust.membership().members;
        let may = members.iter().filter(|(_, member)| !member.has_given_name());
        let mut wishes: Vec<_> =
            may.filter_map(|(peer, member)| Some((member, peer, self.wish(peer, member)?))).collect();
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
        let chosen = chosen.into_iter().filter(|(wish, _)| !begins_one_of(&ids, wish.as_str()));
        chosen.map(|(wish, (peer, _))| (peer, wish.clone())).collect()
    }

    /// True if some member's peer id begins with this name.
    pub(crate) fn begins_an_id(name: &NodeId, trust: &Trust) -> bool {
        let ids: BTreeSet<String> = trust.membership().members.keys().map(PeerId::to_string).collect();
        begins_one_of(&ids, name.as_str())
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
            .map(|(peer, member)| (peer, member, chosen.remove(peer)))
            .map(|(peer, member, chosen)| NodeView {
                peer: *peer,
                key: member.key,
                confirmed: !member.takes_names_by_itself(),
                asks: self.wish(peer, member).filter(|_| member.has_given_name()).cloned(),
                node_id: chosen.unwrap_or_else(|| member.node_id.clone()),
                first_name: member.first_name.clone(),
                tier: member.tier,
                approved_by: member.by,
                stay: member.stay.clone(),
                of: member.of.clone(),
                untagged: self.untagged(peer, member),
                since_ms: member.since_ms,
                online: online.contains(peer),
                last_seen_ms: self.presence.get(peer).map_or(0, |presence| presence.changed_ms),
                directory: self.directory(peer).cloned(),
            })
            .collect()
    }
}

fn begins_one_of(ids: &BTreeSet<String>, name: &str) -> bool {
    let next = ids.range::<str, _>((Bound::Included(name), Bound::Unbounded)).next();
    name.len() >= PREFIX_MIN && next.is_some_and(|id| id.starts_with(name))
}

/// All that a directory entry says, unless it does not decode or says too much.
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
        && directory.tools.iter().all(|tool| tool.description.len() <= limits::DESCRIPTION_BYTES_MAX)
}
