//! An end's side: by which of its relays a packet goes. Each end decides for what it sends and takes what comes by any
//! of them, so that the two need not agree. Which relay is in use may change while the connection on top stays.

use std::collections::BTreeMap;

use crate::ids::PeerId;

/// Time for which what was sent may be unanswered before it goes by two relays: well above what a packet and its
/// answer take on one continent, and so short that no call is a second late.
const DOUBT_MS: u64 = 250;
/// Time without sending after which doubt begins anew: an acknowledgement is not answered.
const PAUSE_MS: u64 = 550;
/// First and longest time for which a relay that did not do its part is asked last.
const PENALTY_MS: u64 = 30_000;
const PENALTY_MS_MAX: u64 = 600_000;
/// The same for one that could not: it had no link just now.
const PASSING_MS: u64 = 1_000;
/// Relays of which mistakes are remembered.
const REMEMBERED_MAX: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Carrier {
    relay: PeerId,
    /// When something came by it last.
    heard_ms: Option<u64>,
    /// Something came by it since the other end has last proven to be there.
    is_fresh: bool,
}

/// Relays by which a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ways {
    /// None is there.
    None,
    /// By this one.
    One(PeerId),
    /// By both, since it is in doubt whether the first passes anything on.
    Both(PeerId, PeerId),
}

/// The relays between this peer and another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Path {
    /// The one in use first.
    carriers: Vec<Carrier>,
    /// When the first packet was sent that is unanswered, and when the last was.
    unanswered: Option<(u64, u64)>,
    /// Since when packets go by two.
    doubted_ms: Option<u64>,
    switches: u32,
}

impl Path {
    /// Adds a relay, behind those that are there.
    pub fn add(&mut self, relay: PeerId) {
        if !self.carriers.iter().any(|carrier| carrier.relay == relay) {
            self.carriers.push(Carrier { relay, heard_ms: None, is_fresh: false });
        }
    }

    /// Takes out a relay that is gone.
    pub fn remove(&mut self, relay: PeerId) {
        if self.present() == Some(relay) && self.carriers.len() > 1 {
            self.switches = self.switches.saturating_add(1);
        }
        self.carriers.retain(|carrier| carrier.relay != relay);
    }

    /// The relay in use.
    #[must_use]
    pub fn present(&self) -> Option<PeerId> {
        self.carriers.first().map(|carrier| carrier.relay)
    }

    /// All relays, the one in use first.
    pub fn relays(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.carriers.iter().map(|carrier| carrier.relay)
    }

    /// Number of times that another relay took over.
    #[must_use]
    pub const fn switches(&self) -> u32 {
        self.switches
    }

    /// Something came by this relay. It may be anything: who passes packets on can make some up.
    pub fn handle_heard(&mut self, relay: PeerId, now_ms: u64) {
        if let Some(carrier) = self.carriers.iter_mut().find(|carrier| carrier.relay == relay) {
            (carrier.heard_ms, carrier.is_fresh) = (Some(now_ms), true);
        }
    }

    /// A connection has come up by this relay: it is the one in use.
    pub fn prefer(&mut self, relay: PeerId) {
        if let Some(at) = self.carriers.iter().position(|carrier| carrier.relay == relay) {
            let preferred = self.carriers.remove(at);
            self.carriers.insert(0, preferred);
            (self.unanswered, self.doubted_ms) = (None, None);
        }
    }

    /// Something that the other end has proven to be its own came since the last time, by whichever relay. If it came
    /// while packets went by two, and the second was heard meanwhile, that is the one that passes on what it gets. If it
    /// came while one alone was heard, and not the one in use, it came by that one, which the other end uses by now.
    pub fn handle_proven(&mut self) {
        self.unanswered = None;
        let doubted = self.doubted_ms.take();
        let second_answers =
            |since: u64| self.carriers.get(1).is_some_and(|second| second.heard_ms.is_some_and(|heard| heard >= since));
        let mut fresh = self.carriers.iter().enumerate().filter(|(_, carrier)| carrier.is_fresh).map(|(at, _)| at);
        let taken = match (doubted, fresh.next(), fresh.next()) {
            (Some(since), ..) if second_answers(since) => Some(1),
            (_, Some(at), None) if at > 0 => Some(at),
            (_, _, _) => None,
        };
        if let Some(at) = taken {
            self.take_up(at);
        }
        for carrier in &mut self.carriers {
            carrier.is_fresh = false;
        }
    }

    /// The ways of a packet that is sent now. `rtt_ms`: round trip of the connection on top.
    pub fn send(&mut self, rtt_ms: u64, now_ms: u64) -> Ways {
        let doubt = DOUBT_MS.max(2 * rtt_ms);
        let since = match self.unanswered {
            Some((since, last)) if self.doubted_ms.is_some() || now_ms < last + PAUSE_MS => since,
            Some(_) | None => now_ms,
        };
        self.unanswered = Some((since, now_ms));
        match self.carriers.as_slice() {
            [] => Ways::None,
            [first, second, ..] if now_ms >= since + doubt => {
                self.doubted_ms.get_or_insert(now_ms);
                Ways::Both(first.relay, second.relay)
            }
            [first, rest @ ..] => match Self::other_heard(first, rest, doubt, now_ms) {
                Some(other) => Ways::Both(first.relay, other),
                None => Ways::One(first.relay),
            },
        }
    }

    /// The relay that is heard while the one in use has been silent for as long as is doubtful: perhaps the other end
    /// uses it by now, perhaps it makes packets up. Until something is proven, packets go by both.
    fn other_heard(first: &Carrier, rest: &[Carrier], doubt: u64, now_ms: u64) -> Option<PeerId> {
        let is_silent = first.heard_ms.is_none_or(|heard| now_ms >= heard + doubt);
        let heard = || rest.iter().filter(|carrier| carrier.is_fresh && carrier.heard_ms > first.heard_ms);
        if is_silent { heard().max_by_key(|carrier| carrier.heard_ms).map(|carrier| carrier.relay) } else { None }
    }

    /// The one that was in use is the last to be used again.
    fn take_up(&mut self, at: usize) {
        let taken = self.carriers.remove(at);
        self.carriers.insert(0, taken);
        self.carriers.get_mut(1..).unwrap_or_default().rotate_left(1);
        self.switches = self.switches.saturating_add(1);
    }
}

/// Relays that did not do their part for a peer, and until when they are asked last. A relay that could not for this
/// peer may well for another.
#[derive(Debug, Clone, Default)]
pub struct Penalties(BTreeMap<(PeerId, PeerId), Penalty>);

#[derive(Debug, Clone, Copy)]
struct Penalty {
    until_ms: u64,
    next_ms: u64,
}

impl Penalties {
    /// The relay failed towards `peer`; `passing`: through nobody's decision, so that it may soon be asked again.
    pub fn note(&mut self, peer: PeerId, relay: PeerId, passing: bool, now_ms: u64) {
        if self.0.len() >= REMEMBERED_MAX {
            self.0.retain(|_, penalty| penalty.until_ms > now_ms);
            if self.0.len() >= REMEMBERED_MAX {
                self.0.pop_first();
            }
        }
        let first = if passing { PASSING_MS } else { PENALTY_MS };
        let penalty = self.0.entry((peer, relay)).or_insert(Penalty { until_ms: 0, next_ms: first });
        let pause = penalty.next_ms.max(first);
        *penalty = Penalty { until_ms: now_ms + pause, next_ms: (pause * 2).min(PENALTY_MS_MAX) };
    }

    /// The relay has done its part: what was held against it is forgotten.
    pub fn forgive(&mut self, peer: PeerId, relay: PeerId) {
        self.0.remove(&(peer, relay));
    }

    /// Those of `relays` that may be asked now, in their order; who failed comes behind who did not.
    #[must_use]
    pub fn choose(&self, peer: PeerId, relays: &[PeerId], now_ms: u64) -> Vec<PeerId> {
        let is_held = |relay: &PeerId| self.0.get(&(peer, *relay)).is_some_and(|penalty| penalty.until_ms > now_ms);
        let mut chosen: Vec<PeerId> = relays.iter().copied().filter(|relay| !is_held(relay)).collect();
        // Else those that come first would be asked again and again, if two of them are hostile.
        chosen.sort_by_key(|relay| self.0.get(&(peer, *relay)).map_or(0, |penalty| penalty.next_ms));
        chosen
    }

    /// Milliseconds until the relay is asked again; 0 if it may be asked now.
    #[must_use]
    pub fn left_ms(&self, peer: PeerId, relay: PeerId, now_ms: u64) -> u64 {
        self.0.get(&(peer, relay)).map_or(0, |penalty| penalty.until_ms.saturating_sub(now_ms))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIRST: PeerId = PeerId([1; 32]);
    const SECOND: PeerId = PeerId([2; 32]);
    const THIRD: PeerId = PeerId([3; 32]);
    const PEER: PeerId = PeerId([9; 32]);

    fn path(relays: &[PeerId]) -> Path {
        let mut path = Path::default();
        for relay in relays {
            path.add(*relay);
        }
        path
    }

    #[test]
    fn a_dead_relay_is_replaced_by_the_one_that_answers() {
        let mut path = path(&[FIRST, SECOND]);
        for now in (0..1_000).step_by(50) {
            assert_eq!(path.send(40, now), Ways::One(FIRST));
            path.handle_heard(FIRST, now + 40);
            path.handle_proven();
        }
        // The last that came by the first was at 990.
        assert_eq!(path.send(40, 1_000), Ways::One(FIRST));
        assert_eq!(path.send(40, 1_249), Ways::One(FIRST));
        assert_eq!(path.send(40, 1_250), Ways::Both(FIRST, SECOND));
        path.handle_heard(SECOND, 1_290);
        assert_eq!(path.send(40, 1_300), Ways::Both(FIRST, SECOND), "whoever is heard may make it up");
        path.handle_proven();
        assert_eq!(path.send(40, 1_310), Ways::One(SECOND));
        assert_eq!((path.present(), path.switches()), (Some(SECOND), 1));
        // Of one that answers now and then nothing is lost.
        path.handle_heard(FIRST, 1_310);
        path.handle_heard(SECOND, 1_311);
        assert_eq!(path.send(40, 1_320), Ways::One(SECOND));
    }

    #[test]
    fn a_relay_that_makes_up_packets_is_replaced_by_the_one_that_passes_them_on() {
        let mut path = path(&[FIRST, SECOND]);
        let mut now = 0;
        let mut by_second_alone = 0;
        // The other end gets what goes by the second, and answers by both; the first sends rubbish all the time.
        while now < 2_000 {
            path.handle_heard(FIRST, now);
            match path.send(10, now) {
                Ways::One(FIRST) | Ways::None => {}
                Ways::One(_) => {
                    by_second_alone += 1;
                    path.handle_heard(SECOND, now + 10);
                    path.handle_proven();
                }
                Ways::Both(..) => {
                    path.handle_heard(SECOND, now + 10);
                    path.handle_proven();
                }
            }
            now += 20;
        }
        assert_eq!((path.present(), path.switches()), (Some(SECOND), 1));
        assert!(by_second_alone > 80, "after a quarter of a second: {by_second_alone}");
    }

    #[test]
    fn a_relay_that_makes_up_packets_does_not_take_over_while_nothing_is_sent() {
        let mut path = path(&[FIRST, SECOND]);
        for now in (0..20_000).step_by(600) {
            // Beacons come and go by the first; in between the second sends rubbish.
            path.handle_heard(FIRST, now);
            path.handle_heard(SECOND, now + 1);
            path.handle_proven();
            path.handle_heard(SECOND, now + 400);
            let ways = path.send(10, now + 500);
            assert!(matches!(ways, Ways::Both(FIRST, SECOND) | Ways::One(FIRST)), "{ways:?}");
        }
        assert_eq!((path.present(), path.switches()), (Some(FIRST), 0));
    }

    #[test]
    fn the_relay_that_the_other_end_uses_by_now_is_used_once_that_is_proven() {
        let mut path = path(&[FIRST, SECOND, THIRD]);
        path.handle_heard(FIRST, 0);
        path.handle_proven();
        path.handle_heard(THIRD, 1_000);
        assert_eq!(path.send(10, 1_001), Ways::Both(FIRST, THIRD));
        path.handle_proven();
        assert_eq!(path.send(10, 1_100), Ways::One(THIRD));
        path.prefer(SECOND);
        assert_eq!(path.present(), Some(SECOND));
    }

    #[test]
    fn doubt_lasts_until_something_is_proven_however_rarely_is_sent() {
        let mut path = path(&[FIRST, SECOND]);
        for (now, ways) in [
            (0, Ways::One(FIRST)),
            (300, Ways::Both(FIRST, SECOND)),
            (900, Ways::Both(FIRST, SECOND)),
            (2_100, Ways::Both(FIRST, SECOND)),
        ] {
            assert_eq!(path.send(10, now), ways, "{now}");
        }
        path.handle_proven();
        assert_eq!(path.send(10, 2_200), Ways::One(FIRST), "the second was not heard");
    }

    #[test]
    fn silence_after_an_acknowledgement_is_no_doubt() {
        let mut path = path(&[FIRST, SECOND]);
        assert_eq!(path.send(10, 0), Ways::One(FIRST));
        assert_eq!(path.send(10, 600), Ways::One(FIRST));
        assert_eq!(path.send(10, 1_200), Ways::One(FIRST));
        // On a long line an answer takes longer than a quarter of a second.
        let mut long = super::tests::path(&[FIRST, SECOND]);
        assert_eq!(long.send(400, 0), Ways::One(FIRST));
        assert_eq!(long.send(400, 400), Ways::One(FIRST));
        assert_eq!(long.send(400, 799), Ways::One(FIRST));
        assert_eq!(long.send(400, 800), Ways::Both(FIRST, SECOND));
    }

    #[test]
    fn a_relay_that_is_gone_is_used_no_more_and_none_is_no_way() {
        let mut path = path(&[FIRST, SECOND, FIRST]);
        assert_eq!(path.relays().collect::<Vec<_>>(), [FIRST, SECOND]);
        path.remove(FIRST);
        assert_eq!((path.send(0, 0), path.switches()), (Ways::One(SECOND), 1));
        path.remove(SECOND);
        assert_eq!((path.send(0, 1), path.present()), (Ways::None, None));
        path.handle_heard(FIRST, 2);
        assert_eq!(path.send(0, 3), Ways::None, "nothing comes by one that is gone");
    }

    #[test]
    fn of_three_the_silent_one_is_tried_last() {
        let mut path = path(&[FIRST, SECOND, THIRD]);
        path.send(0, 0);
        assert_eq!(path.send(0, 250), Ways::Both(FIRST, SECOND));
        path.handle_heard(SECOND, 260);
        path.handle_proven();
        assert_eq!(path.send(0, 300), Ways::One(SECOND));
        assert_eq!(path.relays().collect::<Vec<_>>(), [SECOND, THIRD, FIRST]);
    }

    #[test]
    fn who_failed_is_asked_later_each_time_and_never_for_ever() {
        let mut penalties = Penalties::default();
        let all = [FIRST, SECOND];
        let (mut now, mut pauses) = (0, Vec::new());
        for _ in 0..8 {
            penalties.note(PEER, FIRST, false, now);
            assert_eq!(penalties.choose(PEER, &all, now), [SECOND]);
            assert_eq!(penalties.choose(THIRD, &all, now), all, "for another it may do");
            let left = penalties.left_ms(PEER, FIRST, now);
            pauses.push(left / 1_000);
            now += left;
            assert_eq!(penalties.choose(PEER, &all, now), [SECOND, FIRST], "who failed comes last");
        }
        assert_eq!(pauses, [30, 60, 120, 240, 480, 600, 600, 600]);
        penalties.forgive(PEER, FIRST);
        assert_eq!(penalties.choose(PEER, &all, now), all);
        penalties.note(PEER, FIRST, true, now);
        assert_eq!(penalties.left_ms(PEER, FIRST, now), 1_000);
        for n in 0..u8::MAX {
            penalties.note(PeerId([n; 32]), FIRST, false, now);
            penalties.note(PeerId([n; 32]), SECOND, false, now);
        }
        assert!(penalties.0.len() <= REMEMBERED_MAX);
    }

    proptest! {
        /// Whatever comes and goes, a packet goes by a relay that is there, if one is.
        #[test]
        fn a_packet_goes_by_a_relay_that_is_there(steps in proptest::collection::vec((0_u8..4, 1_u8..5, 0_u64..400), 0..200)) {
            let mut path = Path::default();
            let mut there = std::collections::BTreeSet::new();
            let mut now = 0;
            for (what, who, wait) in steps {
                now += wait;
                let relay = PeerId([who; 32]);
                match what {
                    0 => { path.add(relay); there.insert(relay); }
                    1 => { path.remove(relay); there.remove(&relay); }
                    2 if wait % 3 == 0 => path.handle_proven(),
                    2 => path.handle_heard(relay, now),
                    _ => match path.send(wait, now) {
                        Ways::None => prop_assert!(there.is_empty()),
                        Ways::One(way) => prop_assert!(there.contains(&way)),
                        Ways::Both(a, b) => prop_assert!(a != b && there.contains(&a) && there.contains(&b)),
                    },
                }
            }
        }
    }
}
