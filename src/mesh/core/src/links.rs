//! Links to other peers, as far as they are told by the shell: which are up, by which processes, and what was shown
//! over each of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::effects::Effects;
use crate::ids::{Hash, PeerId};
use crate::io::Fact;
use crate::trust::Trust;
use crate::via::Via;

/// Time for which two processes that alternate keep calls from a peer, counted from the last change.
const COPIED_MS: u64 = 600_000;
/// Time in which a process whose place another took is back if it still runs: the longest pause between two dials (2 s)
/// and a second to connect.
const RETURN_MS: u64 = 3_000;
/// Time for which a neighbour is not shown all our membership changes again, for each change that it was shown.
const COMPARED_MS: u64 = 4;
/// Nonces of former processes that are remembered of one peer.
const SESSIONS_KEPT: usize = 8;

/// Processes of one other peer, by their nonces.
#[derive(Debug, Clone, Default)]
struct Sessions {
    now: u64,
    /// When the present one came, by our clock.
    since: u64,
    former: VecDeque<u64>,
    copied_until: u64,
}

/// Sets of membership changes that differed.
#[derive(Debug, Clone, Copy)]
struct Comparison {
    /// Hash of theirs, and of ours.
    sets: (Hash, Hash),
    /// When they may be compared again.
    until: u64,
}

/// All links. Those of peers that belong are the neighbours of election and log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Links {
    linked: BTreeSet<PeerId>,
    /// Peers whose links are relayed, or will be when they come up.
    relayed: BTreeSet<PeerId>,
    /// Linked peers that were shown why we belong.
    objected: BTreeSet<PeerId>,
    /// Linked peers that were shown all our membership changes.
    compared: BTreeMap<PeerId, Comparison>,
    /// Members that showed a claim of a former owner to an epoch that was not known when it was one, and with whose
    /// authority its own ended.
    stranded: BTreeSet<(PeerId, PeerId)>,
    sessions: BTreeMap<PeerId, Sessions>,
}

impl Links {
    pub(crate) fn handle_link_up(&mut self, peer: PeerId) {
        self.linked.insert(peer);
    }

    /// The link to this peer that comes up next travels like that.
    pub(crate) fn handle_via(&mut self, peer: PeerId, via: Via) {
        match via {
            Via::Direct => self.relayed.remove(&peer),
            Via::Relayed => self.relayed.insert(peer),
        };
    }

    pub(crate) fn handle_link_down(&mut self, peer: &PeerId) {
        self.linked.remove(peer);
        self.relayed.remove(peer);
        self.objected.remove(peer);
        self.compared.remove(peer);
    }

    pub(crate) fn is_up(&self, peer: &PeerId) -> bool {
        self.linked.contains(peer)
    }

    /// Way of the link to a peer, or the one it would take if nothing else is told.
    pub(crate) fn via(&self, peer: &PeerId) -> Via {
        if self.relayed.contains(peer) { Via::Relayed } else { Via::Direct }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.linked.iter().copied()
    }

    /// True for the first objection over a link: somebody tells us all that it needs to know to be excluded; if we are
    /// not, it lacks what we hold.
    pub(crate) fn begin_objection(&mut self, to: PeerId) -> bool {
        self.objected.insert(to)
    }

    /// True if a neighbour that holds other membership changes than we do is to be shown all of ours, which are `held`:
    /// once for each pair of sets, so that neither a truncated log nor one that lags hides a change; and not often while
    /// many are on their way, since the next digest compares again.
    pub(crate) fn begin_comparison(&mut self, with: PeerId, theirs: Hash, trust: &Trust, now_ms: u64) -> bool {
        let sets = (theirs, trust.fingerprint());
        let last = self.compared.get(&with);
        let differs = theirs != Hash::ZERO && sets.0 != sets.1;
        let begins = differs && last.is_none_or(|last| last.sets != sets && last.until <= now_ms);
        if begins {
            let until = now_ms + COMPARED_MS * trust.held() as u64;
            self.compared.insert(with, Comparison { sets, until });
        }
        begins
    }

    /// True if a member is believed that shows a claim of a former owner to an epoch that was not known when it was one.
    /// It may have followed that one where nobody had heard of it, and would follow nobody below; but it need not show
    /// that twice: `ended` is whose authority ended with which that of the former owner did.
    pub(crate) fn begin_rescue(&mut self, of: PeerId, ended: PeerId) -> bool {
        self.stranded.insert((of, ended))
    }

    /// A process of that peer is linked. One whose nonce comes back after another's runs beside that other.
    pub(crate) fn handle_session(&mut self, peer: PeerId, nonce: u64, fx: &mut Effects<'_>) {
        let sessions = self.sessions.entry(peer).or_default();
        if sessions.now == nonce {
            return;
        }
        let returned = sessions.former.contains(&nonce);
        if sessions.now != 0 {
            sessions.former.retain(|former| *former != sessions.now);
            sessions.former.push_back(sessions.now);
            if sessions.former.len() > SESSIONS_KEPT {
                sessions.former.pop_front();
            }
        }
        (sessions.now, sessions.since) = (nonce, fx.now.mono_ms);
        if returned {
            sessions.copied_until = fx.now.mono_ms + COPIED_MS;
            fx.fact(Fact::Warning("runs twice: two devices use its key, and neither gets calls", peer));
            fx.view_changed = true;
        }
    }

    /// Nonce of the process of a peer that is linked, or was last; 0 if none was.
    pub(crate) fn process(&self, peer: &PeerId) -> u64 {
        self.sessions.get(peer).map_or(0, |sessions| sessions.now)
    }

    /// When an attempt that was given to one process of a peer may be given to its present one. If that is another, the
    /// journals of the two are the same only if the former is gone, and if it is not, it comes back soon.
    pub(crate) fn may_repeat_at(&self, peer: &PeerId, given: u64) -> u64 {
        self.sessions
            .get(peer)
            .filter(|sessions| sessions.now != given)
            .map_or(0, |sessions| sessions.since + RETURN_MS)
    }

    /// True if a peer runs twice, as far as this peer saw.
    pub(crate) fn is_copied(&self, peer: &PeerId, now_ms: u64) -> bool {
        self.sessions.get(peer).is_some_and(|sessions| sessions.copied_until > now_ms)
    }

    /// All peers that run twice, as far as this peer saw.
    pub(crate) fn copied(&self, now_ms: u64) -> impl Iterator<Item = PeerId> + '_ {
        self.sessions.iter().filter(move |(_, sessions)| sessions.copied_until > now_ms).map(|(peer, _)| *peer)
    }
}
