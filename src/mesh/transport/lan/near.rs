//! The devices that are near, as far as they were heard and asked. Pure: time and what was heard come in; whom to ask
//! and what to tell come out. Everything is bounded, and shared out by the address from which it came: anyone on the
//! network can make devices up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mesh_core::ids::PeerId;
use tokio::time::Instant;

use super::LanEvent;
use super::record::{Instance, Record};
use crate::mesh::transport::address::Address;
use crate::mesh::transport::interfaces::is_link_local;

/// Devices that are kept, and those of one IP address: several homes on one machine.
const DEVICES_MAX: usize = 256;
const PER_ADDRESS_MAX: usize = 8;
/// Those that are asked at once, and those of one address.
const ASKED_MAX: usize = 16;
const ASKED_PER_ADDRESS_MAX: usize = 2;
/// Questions to one that does not answer, and the pause after the first; it doubles.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(2);
/// Time after which one that is not heard any more has gone: it is asked for every minute.
const SILENCE_MAX: Duration = Duration::from_secs(150);
/// Addresses of one peer that are told.
const ADDRESSES_MAX: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Near {
    /// By the socket that it has, if it is true.
    devices: BTreeMap<SocketAddr, Device>,
    /// The last event of each peer.
    told: BTreeMap<PeerId, (String, Vec<Address>)>,
}

#[derive(Debug)]
struct Device {
    instance: Instance,
    /// Its record knows our mesh.
    is_ours: bool,
    heard: Instant,
    state: State,
}

#[derive(Debug)]
enum State {
    /// To be asked then, for the n-th time.
    Waiting(Instant, u32),
    /// Asked for the n-th time.
    Asked(u32),
    /// It did not answer, time and again.
    Silent,
    /// It said who it is, and proved it.
    Said(Said),
}

/// Who someone is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    /// Proven by its key.
    pub(super) peer: PeerId,
    /// Not proven; fit to be a name.
    pub(super) name: String,
}

impl Near {
    /// Handles a record that came from this IP address.
    pub(super) fn handle_record(&mut self, from: SocketAddr, record: &Record, is_ours: bool, now: Instant) {
        let mut socket = from;
        socket.set_port(record.port);
        let instance = record.instance;
        if let Some(device) = self.devices.get_mut(&socket) {
            device.heard = now;
            if device.instance != instance {
                device.instance = instance;
                device.is_ours = is_ours;
                if !matches!(device.state, State::Asked(_)) {
                    device.state = State::Waiting(now, 0);
                }
            }
        } else if self.make_room(socket.ip(), is_ours) {
            self.devices.insert(socket, Device { instance, is_ours, heard: now, state: State::Waiting(now, 0) });
        }
    }

    /// Whom to ask now who they are: of each address in turn.
    pub(super) fn poll_questions(&mut self, now: Instant) -> Vec<SocketAddr> {
        let mut asked: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for (socket, device) in &self.devices {
            if matches!(device.state, State::Asked(_)) {
                *asked.entry(socket.ip()).or_default() += 1;
            }
        }
        let mut free = ASKED_MAX.saturating_sub(asked.values().sum());
        let mut due: Vec<(bool, u32, Instant, SocketAddr)> = self
            .devices
            .iter()
            .filter_map(|(socket, device)| match device.state {
                State::Waiting(at, tries) if at <= now => Some((!device.is_ours, tries, at, *socket)),
                State::Waiting(..) | State::Asked(_) | State::Silent | State::Said(_) => None,
            })
            .collect();
        due.sort();
        let mut questions = Vec::new();
        for round in 1..=ASKED_PER_ADDRESS_MAX {
            for (_, tries, _, socket) in &due {
                let mine = asked.entry(socket.ip()).or_default();
                if free == 0 || *mine >= round || questions.contains(socket) {
                    continue;
                }
                if let Some(device) = self.devices.get_mut(socket) {
                    device.state = State::Asked(tries + 1);
                    *mine += 1;
                    free -= 1;
                    questions.push(*socket);
                }
            }
        }
        questions
    }

    /// Handles the answer to a question; `None` if there was none.
    pub(super) fn handle_answer(&mut self, socket: SocketAddr, said: Option<Said>, now: Instant) {
        let Some(device) = self.devices.get_mut(&socket) else { return };
        let State::Asked(tries) = device.state else { return };
        device.state = match said {
            Some(said) => State::Said(said),
            None if tries >= TRIES => State::Silent,
            None => State::Waiting(now + PAUSE * (1 << tries.min(8)), tries),
        };
    }

    /// Drops those that are not heard any more.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.devices.retain(|_, device| now.saturating_duration_since(device.heard) < SILENCE_MAX);
    }

    /// The time of the next question or of the next that will have gone.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let next = |device: &Device| {
            let gone = device.heard + SILENCE_MAX;
            if let State::Waiting(at, _) = device.state { at.min(gone) } else { gone }
        };
        self.devices.values().map(next).min()
    }

    /// All that has changed since the last call.
    pub(super) fn poll_events(&mut self) -> Vec<LanEvent> {
        let mut now: BTreeMap<PeerId, (String, Vec<Address>)> = BTreeMap::new();
        for (socket, device) in &self.devices {
            if let State::Said(Said { peer, name }) = &device.state {
                let (shown, addresses) = now.entry(*peer).or_default();
                shown.clone_from(name);
                addresses.push(Address::from(*socket));
            }
        }
        for (_, addresses) in now.values_mut() {
            addresses.sort_by_key(|address| (address.ip().is_some_and(is_link_local), address.clone()));
            addresses.truncate(ADDRESSES_MAX);
        }
        let gone: BTreeSet<PeerId> = self.told.keys().filter(|peer| !now.contains_key(peer)).copied().collect();
        let mut events: Vec<LanEvent> = gone.into_iter().map(LanEvent::Gone).collect();
        for (peer, shown) in &now {
            if self.told.get(peer) != Some(shown) {
                let (name, addresses) = shown.clone();
                events.push(LanEvent::Discovered { peer: *peer, name, addresses, node: None });
            }
        }
        self.told = now;
        events
    }

    /// Makes room for one more of this address, in the place of one that has said nothing: of one of the address with
    /// the most of those, the one that was heard first. One that knows the mesh takes the place of any that does not.
    fn make_room(&mut self, ip: IpAddr, is_ours: bool) -> bool {
        let of = |devices: &BTreeMap<SocketAddr, Device>, ip| devices.keys().filter(|socket| socket.ip() == ip).count();
        let is_full = of(&self.devices, ip) >= PER_ADDRESS_MAX;
        if !is_full && self.devices.len() < DEVICES_MAX {
            return true;
        }
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for socket in self.devices.keys() {
            *counts.entry(socket.ip()).or_default() += 1;
        }
        let victim = self
            .devices
            .iter()
            .filter(|(socket, _)| !is_full || socket.ip() == ip)
            .filter(|(_, device)| !matches!(device.state, State::Said(_)) || (is_ours && !device.is_ours))
            .min_by_key(|(socket, device)| {
                let count = counts.get(&socket.ip()).copied().unwrap_or_default();
                (
                    matches!(device.state, State::Said(_)),
                    device.is_ours,
                    !matches!(device.state, State::Silent),
                    std::cmp::Reverse(count),
                    device.heard,
                )
            })
            .map(|(socket, _)| *socket);
        victim.is_some_and(|socket| self.devices.remove(&socket).is_some())
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::ids::MeshId;

    use super::*;

    fn record(n: u64) -> Record {
        Record::new(Instance(n), 7433, MeshId([1; 32]))
    }

    fn with_port(mut record: Record, port: u16) -> Record {
        record.port = port;
        record
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn said(n: u8) -> Said {
        Said { peer: PeerId([n; 32]), name: format!("n{n}") }
    }

    /// Asks and answers until nobody is left to ask; those in `real` say who they are.
    fn settle(near: &mut Near, real: &BTreeMap<SocketAddr, u8>, mut now: Instant) -> usize {
        let mut asked = 0;
        for _ in 0..200 {
            for socket in near.poll_questions(now) {
                asked += 1;
                near.handle_answer(socket, real.get(&socket).map(|n| said(*n)), now);
            }
            now += Duration::from_millis(10);
        }
        asked
    }

    #[test]
    fn one_that_is_heard_is_asked_and_told_once() {
        let (mut near, now) = (Near::default(), Instant::now());
        near.handle_record(at("10.0.0.2:5353"), &record(1), false, now);
        near.handle_record(at("10.0.0.2:5353"), &record(1), false, now);
        assert_eq!(near.poll_events(), []);
        assert_eq!(near.poll_questions(now), [at("10.0.0.2:7433")]);
        assert_eq!(near.poll_questions(now), []);
        near.handle_answer(at("10.0.0.2:7433"), Some(said(1)), now);
        near.handle_record(at("[fe80::2%3]:5353"), &record(1), false, now);
        for socket in near.poll_questions(now) {
            near.handle_answer(socket, Some(said(1)), now);
        }
        let addresses = vec![at("10.0.0.2:7433").into(), at("[fe80::2%3]:7433").into()];
        let expected = LanEvent::Discovered { peer: PeerId([1; 32]), name: "n1".to_owned(), addresses, node: None };
        assert_eq!(near.poll_events(), [expected]);
        assert_eq!(near.poll_events(), []);
        // Another process there is asked anew.
        near.handle_record(at("10.0.0.2:5353"), &record(2), false, now);
        assert_eq!(near.poll_questions(now).len(), 1);
        near.handle_answer(at("10.0.0.2:7433"), Some(said(1)), now);
        near.poll_events();
        let later = now + SILENCE_MAX;
        assert!(near.poll_timeout().is_some_and(|at| at <= later));
        near.handle_timeout(later);
        assert_eq!(near.poll_events(), [LanEvent::Gone(PeerId([1; 32]))]);
    }

    #[test]
    fn one_that_does_not_answer_is_asked_five_times() {
        let (mut near, mut now) = (Near::default(), Instant::now());
        near.handle_record(at("10.0.0.2:5353"), &record(1), false, now);
        let mut asked = 0;
        for _ in 0..1_000 {
            for socket in near.poll_questions(now) {
                asked += 1;
                near.handle_answer(socket, None, now);
            }
            now += Duration::from_millis(100);
        }
        assert_eq!(asked, TRIES);
    }

    #[test]
    fn s11_made_up_devices_keep_no_real_one_out() {
        type Flood<'a> = &'a dyn Fn(u64) -> (SocketAddr, u16);
        let one_address: Flood = &|n| (at("10.0.0.66:5353"), 1024 + u16::try_from(n % 60_000).unwrap());
        let many_addresses: Flood = &|n| (SocketAddr::from(([10, 0, 1, u8::try_from(n % 250).unwrap()], 5353)), 7433);
        for flood in [one_address, many_addresses] {
            let (mut near, mut now) = (Near::default(), Instant::now());
            let real: BTreeMap<SocketAddr, u8> = (1..=9).map(|n| (at(&format!("10.0.0.{n}:7433")), n)).collect();
            let pour = |near: &mut Near, from: u64, now| {
                for n in from..from + 6_000 {
                    let (from, port) = flood(n);
                    near.handle_record(from, &with_port(record(1000 + n), port), false, now);
                }
            };
            for (round, socket) in real.keys().enumerate() {
                pour(&mut near, 6_000 * round as u64, now);
                near.handle_record(*socket, &record(u64::from(socket.port())), false, now);
                assert!(near.devices.contains_key(socket), "{socket}");
                settle(&mut near, &real, now);
                pour(&mut near, 6_000 * round as u64, now);
                now += Duration::from_secs(1);
            }
            assert!(near.devices.len() <= DEVICES_MAX);
            let seen = near.devices.values().filter(|device| matches!(device.state, State::Said(_))).count();
            assert_eq!(seen, real.len());
            // The mesh's own come in even if all others are real.
            near.handle_record(at("10.0.0.66:5353"), &with_port(record(7), 7), true, now);
            assert!(near.devices.contains_key(&at("10.0.0.66:7")));
            assert!(near.poll_questions(now).contains(&at("10.0.0.66:7")), "and are asked first");
        }
    }
}
