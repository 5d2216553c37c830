//! The plan of dials: which member is dialled when, and where. Pure: time and randomness come in, due dials come out.
//!
//! A member says itself where it is, and whoever is there gets our packets. So only where it was seen last is it dialled
//! as often as there is reason to; all that it merely says has a budget, which changing what it says does not renew.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_core::ids::PeerId;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::address::Address;
use super::dial::SOCKETS_PER_HOST_MAX;
use super::link::Linked;
use super::members::Members;
use crate::mesh::bucket::{Bucket, Flow};

/// Head start of the lower peer's dial over the higher's, so that one connection is made and not two.
const YIELD: Duration = Duration::from_millis(300);
/// A link that lived this long was a success: the next dial waits as little as the first.
const SUCCESS: Duration = Duration::from_secs(5);
/// First and longest pause between two dials. With longer ones a mesh would take longer than six seconds to settle
/// after a cut is healed (with 30 s it took up to 13 s).
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Pauses before a member that is linked by a relay is dialled for a direct link, the last again and again. They begin
/// anew when where it is changes, or where we are.
const UPGRADES: [Duration; 4] =
    [Duration::from_secs(5), Duration::from_secs(30), Duration::from_mins(2), Duration::from_mins(10)];
/// A direct link that lived this long was no flapping one.
const STEADY: Duration = Duration::from_secs(30);
/// Budget of dials to addresses at which a member was not last seen. At once: a whole directory. After that owners go on at
/// a pace that only matters to one with more addresses than seconds in a race and the longest pause together; guests, whose
/// directories could send this device to people who know nothing of this mesh, so rarely that each address gets a few
/// packets a minute.
const OF_OWNER: Flow = Flow { units: 1, within: Duration::from_secs(1), ahead: 32 };
const OF_OTHERS: Flow = Flow { units: 1, within: Duration::from_secs(4), ahead: 32 };

/// See the module.
#[derive(Debug)]
pub(super) struct DialPlan {
    me: PeerId,
    /// Every member but ourselves.
    dials: BTreeMap<PeerId, Dial>,
    /// Last seen addresses of members: those of their doors, since everyone dials from its own.
    seen: BTreeMap<PeerId, Address>,
    /// Members whose links have lost our address: dead, although the other end may not have noticed yet.
    moved: BTreeSet<PeerId>,
    /// Number of the newest dial.
    last: u64,
}

/// A dial that is to begin now.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) peer: PeerId,
    /// Comes back with the end of the dial.
    pub(super) number: u64,
    /// Best first; empty only if it may be reached by a relay.
    pub(super) addresses: Vec<Address>,
    /// By a relay too: it is not linked, and there is one for it.
    pub(super) by_relay: bool,
    /// It is to replace a link that has lost our address.
    pub(super) moved: bool,
    /// Cancelled when the dial has become pointless.
    pub(super) cancel: CancellationToken,
}

impl Due {
    /// A dial that is in no plan: a relay told where the peer may be tried.
    pub(super) fn punched(peer: PeerId, address: Address) -> Self {
        // Numbers of the plan begin at 1.
        let (addresses, cancel) = (vec![address], CancellationToken::new());
        Self { peer, number: 0, addresses, by_relay: false, moved: false, cancel }
    }
}

/// State of dialling one member.
#[derive(Debug)]
struct Dial {
    addresses: Vec<Address>,
    /// The one of them that has its turn next.
    next: usize,
    owner: bool,
    /// Peers by which it may be linked.
    relays: Vec<PeerId>,
    linked: Linked,
    /// Dials for a direct link while there is a relayed one, and direct links that did not last.
    upgrades: usize,
    /// All that was taken of [`OF_OWNER`] or [`OF_OTHERS`].
    taken: Bucket,
    backoff: Backoff,
    state: DialState,
}

#[derive(Debug)]
enum DialState {
    /// Linked; or nowhere to dial.
    Resting,
    /// Due then.
    Waiting(Instant),
    /// Under way; dropping the guard ends it.
    Running(u64, #[expect(dead_code, reason = "held for its drop")] DropGuard),
}

impl DialPlan {
    pub(super) fn new(me: PeerId) -> Self {
        Self { me, dials: BTreeMap::new(), seen: BTreeMap::new(), moved: BTreeSet::new(), last: 0 }
    }

    /// Takes over a new set of members. One whose addresses changed is dialled anew without the pause that had grown.
    pub(super) fn handle_members(&mut self, members: &Members, linked: impl Fn(PeerId) -> Linked, now: Instant) {
        let stays = |peer: &PeerId| members.get(peer).is_some_and(|member| !member.leaving);
        self.dials.retain(|peer, _| stays(peer));
        self.seen.retain(|peer, _| stays(peer));
        for (peer, member) in members.iter().filter(|(peer, _)| **peer != self.me && stays(peer)) {
            let linked = linked(*peer);
            let state = match linked {
                Linked::Directly => DialState::Resting,
                Linked::No | Linked::ByRelay | Linked::ByTailnet => DialState::Waiting(now + self.head_start(*peer)),
            };
            let dial = self.dials.entry(*peer).or_insert_with(|| Dial::new(now));
            (dial.owner, dial.linked) = (member.owner, linked);
            let has_way = dial.relays.is_empty() && !member.relays.is_empty() && linked == Linked::No;
            dial.relays.clone_from(&member.relays);
            if dial.addresses != member.addresses || has_way {
                dial.addresses.clone_from(&member.addresses);
                (dial.backoff, dial.upgrades) = (Backoff::default(), 0);
                dial.state = state;
            }
        }
    }

    /// A link to this member is up. `seen` is where it is, if that is worth another dial.
    pub(super) fn handle_linked(&mut self, peer: PeerId, seen: Option<Address>, linked: Linked, now: Instant) {
        if let Some(seen) = seen {
            self.seen.insert(peer, seen);
        }
        self.moved.remove(&peer);
        if let Some(dial) = self.dials.get_mut(&peer) {
            dial.linked = linked;
            if matches!(dial.state, DialState::Waiting(_) | DialState::Resting) {
                dial.rest(now);
            }
        }
    }

    /// The link to this member, which had lived that long, is gone.
    pub(super) fn handle_unlinked(&mut self, peer: PeerId, lived: Duration, now: Instant, random: u64) {
        if let Some(dial) = self.dials.get_mut(&peer) {
            if lived >= SUCCESS {
                dial.backoff = Backoff::default();
            }
            if lived >= STEADY && dial.linked == Linked::Directly {
                dial.upgrades = 0;
            }
            dial.linked = Linked::No;
        }
        self.schedule(peer, now, random);
    }

    /// A dial has ended; its success was told by [`Self::handle_linked`].
    pub(super) fn handle_dialled(&mut self, peer: PeerId, number: u64, now: Instant, random: u64) {
        let Some(dial) = self.dials.get_mut(&peer) else { return };
        if matches!(dial.state, DialState::Running(running, _) if running == number) {
            dial.rest(now);
            if dial.linked == Linked::No || self.moved.contains(&peer) {
                self.schedule(peer, now, random);
            }
        }
    }

    /// The links to these members have lost our address: they are dialled at once, although they are linked.
    pub(super) fn handle_moved(&mut self, peers: impl IntoIterator<Item = PeerId>, now: Instant) {
        self.moved.extend(peers);
        for peer in &self.moved {
            if let Some(dial) = self.dials.get_mut(peer) {
                dial.backoff = Backoff::default();
                dial.state = DialState::Waiting(now);
            }
        }
    }

    /// We are on another network: what was tried in vain may do now.
    pub(super) fn handle_network(&mut self, now: Instant) {
        for dial in self.dials.values_mut() {
            (dial.taken, dial.next, dial.upgrades) = (Bucket::new(now), 0, 0);
        }
    }

    /// Makes the dials of all that are not linked directly due now.
    pub(super) fn retry_now(&mut self, now: Instant) {
        for dial in self.dials.values_mut() {
            if dial.linked != Linked::Directly {
                dial.backoff = Backoff::default();
                dial.state = DialState::Waiting(now);
            }
        }
    }

    /// The time at which [`Self::handle_timeout`] has something to do, if there is one.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.dials
            .values()
            .filter_map(|dial| match dial.state {
                DialState::Waiting(at) => Some(at),
                DialState::Resting | DialState::Running(..) => None,
            })
            .min()
    }

    /// The dials that are due, which are under way from now on.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<Due> {
        let mut due = Vec::new();
        for (peer, dial) in &mut self.dials {
            if !matches!(dial.state, DialState::Waiting(at) if at <= now) {
                continue;
            }
            let seen = self.seen.get(peer);
            let mut addresses: Vec<_> = seen.cloned().into_iter().chain(dial.turn(seen, now)).collect();
            if dial.linked == Linked::ByTailnet && !self.moved.contains(peer) {
                // Another link of that kind would be no better.
                addresses.retain(|address| !matches!(address, Address::Tailnet(_)));
                if addresses.is_empty() {
                    dial.rest(now);
                    continue;
                }
            }
            let by_relay = dial.linked == Linked::No && !dial.relays.is_empty();
            if addresses.is_empty() && !by_relay {
                dial.state = dial.until_turn(now).map_or(DialState::Resting, |wait| DialState::Waiting(now + wait));
                continue;
            }
            self.last += 1;
            let cancel = CancellationToken::new();
            dial.state = DialState::Running(self.last, cancel.clone().drop_guard());
            let moved = self.moved.contains(peer);
            due.push(Due { peer: *peer, number: self.last, addresses, by_relay, moved, cancel });
        }
        due
    }

    /// Plans the next dial of a member that is not linked.
    fn schedule(&mut self, peer: PeerId, now: Instant, random: u64) {
        let head_start = self.head_start(peer);
        if let Some(dial) = self.dials.get_mut(&peer) {
            dial.state = DialState::Waiting(now + dial.backoff.next(random) + head_start);
        }
    }

    /// The lower peer dials first.
    fn head_start(&self, peer: PeerId) -> Duration {
        if self.me < peer { Duration::ZERO } else { YIELD }
    }
}

impl Dial {
    fn new(now: Instant) -> Self {
        Self {
            addresses: Vec::new(),
            next: 0,
            owner: false,
            relays: Vec::new(),
            linked: Linked::No,
            upgrades: 0,
            taken: Bucket::new(now),
            backoff: Backoff::default(),
            state: DialState::Resting,
        }
    }

    /// No dial is due, but one for a better link.
    fn rest(&mut self, now: Instant) {
        self.state = match self.linked {
            Linked::No | Linked::Directly => DialState::Resting,
            Linked::ByRelay | Linked::ByTailnet => {
                let pause = UPGRADES.get(self.upgrades).or(UPGRADES.last()).copied().unwrap_or(STEADY);
                self.upgrades += 1;
                DialState::Waiting(now + pause)
            }
        };
    }

    fn flow(&self) -> &'static Flow {
        if self.owner { &OF_OWNER } else { &OF_OTHERS }
    }

    /// The addresses whose turn it is: all of them, best first, or as many as the budget has, each in its turn. The one
    /// at which the member was seen is free.
    fn turn(&mut self, seen: Option<&Address>, now: Instant) -> Vec<Address> {
        let all = self.addresses.len();
        let mut turn = Vec::new();
        while turn.len() < all
            && let Some(address) = self.addresses.get(self.next % all)
            && (seen == Some(address) || self.taken.take(self.flow(), cost(address), now))
        {
            turn.push(address.clone());
            self.next = (self.next + 1) % all;
        }
        if turn.len() == all {
            self.next = 0;
        }
        turn
    }

    /// Time until the next address has its turn; `None` if there is none.
    fn until_turn(&self, now: Instant) -> Option<Duration> {
        let address = self.addresses.get(self.next % self.addresses.len().max(1))?;
        Some(self.taken.until(self.flow(), cost(address), now))
    }
}

/// Sockets that are dialled for an address.
fn cost(address: &Address) -> u64 {
    match address {
        Address::UdpName(_) => SOCKETS_PER_HOST_MAX as u64,
        Address::Udp(_) | Address::Tailnet(_) | Address::Relay { .. } | Address::Unknown(_) => 1,
    }
}

/// Pauses that double from 0.2 s to 2 s, each drawn between half and all of its length, so that peers that lost each
/// other in the same moment do not stay in step.
#[derive(Debug, Clone, Default)]
struct Backoff(u32);

impl Backoff {
    /// The next pause; `random` is any number.
    fn next(&mut self, random: u64) -> Duration {
        let full = BACKOFF_MIN.saturating_mul(1 << self.0.min(16)).min(BACKOFF_MAX);
        self.0 = self.0.saturating_add(1);
        let half = full / 2;
        half + Duration::from_millis(random % (half.as_millis() as u64 + 1))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use mesh_core::ids::PublicKey;

    use super::super::members::Member;
    use super::*;

    const ME: PeerId = PeerId([5; 32]);
    const LOWER: PeerId = PeerId([1; 32]);
    const HIGHER: PeerId = PeerId([9; 32]);

    fn address(n: u8) -> Address {
        SocketAddr::from(([10, 0, 0, n], 7433)).into()
    }

    fn member(addresses: &[Address]) -> Member {
        Member {
            key: PublicKey([0; 32]),
            addresses: addresses.to_vec(),
            services: None,
            relays: Vec::new(),
            leaving: false,
            owner: true,
            node: None,
        }
    }

    fn due(plan: &mut DialPlan, now: Instant) -> Vec<(PeerId, Vec<Address>)> {
        plan.handle_timeout(now).into_iter().map(|due| (due.peer, due.addresses)).collect()
    }

    #[test]
    fn the_lower_peer_dials_first_and_a_link_ends_the_dialling() {
        let now = Instant::now();
        let mut plan = DialPlan::new(ME);
        let members: Members =
            [(LOWER, member(&[address(1)])), (HIGHER, member(&[address(2)])), (ME, member(&[address(3)]))].into();
        plan.handle_members(&members, |_| Linked::No, now);
        assert_eq!(plan.poll_timeout(), Some(now));
        assert_eq!(due(&mut plan, now), [(HIGHER, vec![address(2)])]);
        assert_eq!(plan.poll_timeout(), Some(now + YIELD));
        plan.handle_linked(LOWER, Some(address(8)), Linked::Directly, now);
        assert_eq!(plan.poll_timeout(), None);
        // Where it was seen comes first when it is lost.
        plan.handle_unlinked(LOWER, SUCCESS, now, 0);
        assert_eq!(due(&mut plan, now + BACKOFF_MIN + YIELD), [(LOWER, vec![address(8), address(1)])]);
    }

    #[test]
    fn a_dial_that_became_pointless_is_called_off() {
        let now = Instant::now();
        let mut plan = DialPlan::new(ME);
        plan.handle_members(&[(HIGHER, member(&[address(1)]))].into(), |_| Linked::No, now);
        let first = plan.handle_timeout(now).pop().unwrap();
        plan.handle_members(&[(HIGHER, member(&[address(2)]))].into(), |_| Linked::No, now);
        assert!(first.cancel.is_cancelled());
        let second = plan.handle_timeout(now).pop().unwrap();
        // The end of the first says nothing about the second.
        plan.handle_dialled(HIGHER, first.number, now, 0);
        assert_eq!(plan.poll_timeout(), None);
        plan.handle_members(&Members::new(), |_| Linked::No, now);
        assert!(second.cancel.is_cancelled());
    }

    #[test]
    fn a_link_that_lost_our_address_is_dialled_until_it_is_replaced() {
        let now = Instant::now();
        let mut plan = DialPlan::new(ME);
        plan.handle_members(&[(HIGHER, member(&[address(1)]))].into(), |_| Linked::Directly, now);
        assert_eq!(plan.poll_timeout(), None);
        plan.handle_moved([HIGHER], now);
        let dial = plan.handle_timeout(now).pop().unwrap();
        assert!(dial.moved);
        plan.handle_dialled(HIGHER, dial.number, now, 0);
        assert!(plan.poll_timeout().is_some());
        plan.handle_linked(HIGHER, None, Linked::Directly, now);
        assert_eq!(plan.poll_timeout(), None);
    }

    /// Sockets that are dialled in the given time for a member that never answers and says each time what `says` says.
    fn dialled(owner: bool, within: Duration, says: impl Fn(u8) -> Vec<Address>) -> Vec<Address> {
        let began = Instant::now();
        let mut plan = DialPlan::new(ME);
        let (mut now, mut dialled) = (began, Vec::new());
        for n in 0..u8::MAX {
            let member = Member { owner, ..member(&says(n)) };
            plan.handle_members(&[(HIGHER, member)].into(), |_| Linked::No, now);
            let Some(at) = plan.poll_timeout() else { break };
            now = at.max(now);
            if now > began + within {
                break;
            }
            for due in plan.handle_timeout(now) {
                dialled.extend(due.addresses);
                now += Duration::from_secs(1);
                plan.handle_dialled(due.peer, due.number, now, 0);
            }
        }
        dialled
    }

    #[test]
    fn f24_where_a_member_says_it_is_has_a_budget() {
        let minute = Duration::from_mins(1);
        let all: Vec<Address> = (1..=32).map(address).collect();
        for (owner, most) in [(false, 32 + 60 / 4), (true, 32 + 60)] {
            let same = dialled(owner, minute, |_| all.clone());
            let changing = dialled(owner, minute, |n| vec![address(n)]);
            assert!(same.len() <= most && changing.len() <= most, "{}, {}", same.len(), changing.len());
            // Each has its turn.
            assert!(all.iter().all(|address| same.contains(address)));
            assert!(same.len() > 32 + 10, "{}", same.len());
        }
        let names = |n: u8| vec![Address::from(format!("udp://victim-{n}.example.org:53").as_str())];
        assert!(dialled(false, minute, names).len() <= (32 + 60 / 4) / SOCKETS_PER_HOST_MAX);
    }

    #[test]
    fn f24_an_honest_member_is_dialled_as_before() {
        let now = Instant::now();
        // In a minute in vain a device of four addresses is dialled at each of them every few seconds.
        let few: Vec<Address> = (1..=4).map(address).collect();
        let owners = dialled(true, Duration::from_mins(1), |_| few.clone());
        assert!(owners.len() >= 60, "{}", owners.len());
        // Where it was seen last is free, for ever and for everyone.
        let mut plan = DialPlan::new(ME);
        plan.handle_members(&[(HIGHER, Member { owner: false, ..member(&few) })].into(), |_| Linked::No, now);
        plan.handle_linked(HIGHER, Some(address(9)), Linked::Directly, now);
        plan.handle_unlinked(HIGHER, SUCCESS, now, 0);
        let mut at = now;
        for _ in 0..100 {
            let next = plan.poll_timeout().unwrap();
            assert!(next <= at + BACKOFF_MAX, "{:?}", next - at);
            at = next;
            let due = plan.handle_timeout(at).pop().unwrap();
            assert_eq!(due.addresses[0], address(9));
            plan.handle_dialled(HIGHER, due.number, at, 0);
        }
        // On another network everything is tried again.
        plan.handle_network(at);
        plan.retry_now(at);
        assert_eq!(due(&mut plan, at), [(HIGHER, [vec![address(9)], few].concat())]);
    }

    /// Members of whom one may be linked by a relay.
    fn relayed() -> Members {
        [(HIGHER, Member { relays: vec![LOWER], ..member(&[address(1)]) })].into()
    }

    #[test]
    fn who_has_a_relay_is_dialled_by_it_at_once_and_only_while_it_is_not_linked() {
        let now = Instant::now();
        let mut plan = DialPlan::new(ME);
        plan.handle_members(&[(HIGHER, member(&[address(1)]))].into(), |_| Linked::No, now);
        let first = plan.handle_timeout(now).pop().unwrap();
        assert!(!first.by_relay);
        // There is a way now: what is under way without it is called off.
        plan.handle_members(&relayed(), |_| Linked::No, now);
        assert!(first.cancel.is_cancelled());
        let second = plan.handle_timeout(now).pop().unwrap();
        assert!(second.by_relay && second.addresses == [address(1)]);
        plan.handle_members(&relayed(), |_| Linked::No, now);
        assert!(!second.cancel.is_cancelled(), "nothing has changed");
        plan.handle_linked(HIGHER, None, Linked::ByRelay, now);
        plan.handle_dialled(HIGHER, second.number, now, 0);
        let better = plan.poll_timeout().unwrap();
        let third = plan.handle_timeout(better).pop().unwrap();
        assert!(!third.by_relay, "it is linked by one");
    }

    #[test]
    fn a_direct_link_is_tried_ever_more_rarely_and_one_that_does_not_last_is_tried_no_sooner() {
        let began = Instant::now();
        let mut plan = DialPlan::new(ME);
        plan.handle_members(&relayed(), |_| Linked::ByRelay, began);
        let (mut now, mut tries) = (began, 0);
        // It comes up for three seconds each time it is dialled, and is relayed in between.
        while let Some(at) = plan.poll_timeout() {
            if at > began + Duration::from_mins(5) {
                break;
            }
            now = at;
            for due in plan.handle_timeout(now) {
                if due.by_relay {
                    plan.handle_linked(HIGHER, None, Linked::ByRelay, now);
                } else {
                    tries += 1;
                    plan.handle_linked(HIGHER, Some(address(1)), Linked::Directly, now);
                    plan.handle_dialled(HIGHER, due.number, now, 0);
                    now += Duration::from_secs(3);
                    plan.handle_unlinked(HIGHER, Duration::from_secs(3), now, 0);
                    continue;
                }
                plan.handle_dialled(HIGHER, due.number, now, 0);
            }
        }
        assert!((2..=5).contains(&tries), "{tries}");
        // A link that stays makes up for it.
        plan.handle_linked(HIGHER, None, Linked::Directly, now);
        plan.handle_unlinked(HIGHER, STEADY, now, 0);
        plan.handle_linked(HIGHER, None, Linked::ByRelay, now);
        assert_eq!(plan.poll_timeout(), Some(now + UPGRADES[0]));
    }

    #[test]
    fn pauses_grow_to_their_longest_and_stay() {
        let mut backoff = Backoff::default();
        for n in 0..100 {
            let pause = backoff.next(n * 7919);
            let full = Duration::from_millis(200 * (1 << n.min(16))).min(BACKOFF_MAX);
            assert!(pause >= full / 2 && pause <= full, "{n}: {pause:?}");
        }
    }
}
