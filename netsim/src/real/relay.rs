//! A small UDP relay between the peers: delays, reorders, doubles and loses packets. It stands in a namespace of its
//! own; the peers' kernels send it whatever is meant for another peer, so that nobody need be told of it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use serde::Deserialize;

use super::clock::now;
use super::network::{QUIC_PORT, relay_port};
use crate::dice::Dice;

/// Packets that may be under way at once; more are lost, as in any router.
const HELD_MAX: usize = 20_000;
/// From the port that faces a sender to that which faces its receiver.
const FAR_PORTS: u16 = 10_000;
/// Largest UDP packet.
const PACKET_BYTES_MAX: usize = 65_536;
/// Pause between two looks of a waiting thread at its stop flag.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Treatment of packets.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Weather {
    /// Least and greatest delay, milliseconds. Each packet draws its own, so they overtake each other.
    pub(super) delay_ms: [u64; 2],
    /// Part of the packets that is lost.
    pub(super) loss: f64,
    /// Part of the packets that arrives twice, each time with a delay of its own.
    pub(super) twice: f64,
}

impl Default for Weather {
    fn default() -> Self {
        Self { delay_ms: [0, 0], loss: 0.0, twice: 0.0 }
    }
}

/// A packet under way; earliest first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    due: Instant,
    number: u64,
    exit: usize,
    door: SocketAddr,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Inside {
    weather: Weather,
    dice: Dice,
    held: BinaryHeap<Reverse<Held>>,
    number: u64,
}

#[derive(Debug)]
struct RelayState {
    inside: Mutex<Inside>,
    more: Condvar,
    stop: AtomicBool,
}

/// The relay; its threads end when it goes.
#[derive(Debug)]
pub(super) struct Relay {
    shared: Arc<RelayState>,
    threads: Vec<JoinHandle<()>>,
}

/// One way into the relay, and where its packets leave. For each (sender, receiver) there are two: one faces the
/// sender, the other the receiver. What the receiver begins by itself goes through another pair, so that no kernel on
/// the way takes one for the other.
struct Gate {
    socket: UdpSocket,
    /// The gate on the other side, and the door to which it sends.
    exit: usize,
    door: SocketAddr,
}

impl Relay {
    /// A relay in `namespace` at `address` between peers whose doors are at these addresses.
    pub(super) fn new(
        namespace: &str,
        address: Ipv4Addr,
        doors: &[Ipv4Addr],
        weather: Weather,
        dice: Dice,
    ) -> io::Result<Self> {
        let pairs: Vec<(usize, usize)> =
            (0..doors.len()).flat_map(|a| (0..doors.len()).map(move |b| (a, b))).filter(|(a, b)| a != b).collect();
        let ports = pairs.iter().flat_map(|(from, to)| [relay_port(*from, *to), relay_port(*from, *to) + FAR_PORTS]);
        let sockets = bind_within(namespace, ports.map(|port| (address, port).into()).collect())?;
        let ends = pairs.iter().flat_map(|(from, to)| [*to, *from]);
        let mut gates = Vec::new();
        for (index, (socket, to)) in sockets.into_iter().zip(ends).enumerate() {
            socket.set_read_timeout(Some(LOOK_EVERY))?;
            gates.push(Gate { socket, exit: index ^ 1, door: (doors[to], QUIC_PORT).into() });
        }
        let inside = Mutex::new(Inside { weather, dice, held: BinaryHeap::new(), number: 0 });
        let shared = Arc::new(RelayState { inside, more: Condvar::new(), stop: AtomicBool::new(false) });
        let gates = Arc::new(gates);
        let mut threads = Vec::new();
        for gate in 0..gates.len() {
            let (shared, gates) = (shared.clone(), gates.clone());
            threads.push(std::thread::spawn(move || shared.take(&gates[gate])));
        }
        let (sending, exits) = (shared.clone(), gates);
        threads.push(std::thread::spawn(move || sending.send(&exits)));
        Ok(Self { shared, threads })
    }

    /// Changes the weather, for packets that come from now on.
    pub(super) fn set(&self, weather: Weather) {
        self.shared.inside.lock().unwrap_or_else(PoisonError::into_inner).weather = weather;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.more.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has been reported already.
            let _ = thread.join();
        }
    }
}

/// Opens the sockets inside the namespace, from a thread that moves there and ends: sockets stay where they were made.
fn bind_within(namespace: &str, addresses: Vec<SocketAddr>) -> io::Result<Vec<UdpSocket>> {
    let place = File::open(Path::new("/run/netns").join(namespace))?;
    let opening = std::thread::spawn(move || {
        setns(&place, CloneFlags::CLONE_NEWNET)?;
        addresses.into_iter().map(UdpSocket::bind).collect()
    });
    opening.join().unwrap_or_else(|_| Err(io::Error::other("the thread that opens the relay's sockets panicked")))
}

impl RelayState {
    fn take(&self, gate: &Gate) {
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        while !self.stop.load(Ordering::Relaxed) {
            // Time to look at `stop`; or a refusal from a peer that is down, which the sender will notice by itself.
            let Ok(len) = gate.socket.recv(&mut buffer) else { continue };
            self.hold(gate, &buffer[..len]);
            self.more.notify_one();
        }
    }

    fn hold(&self, gate: &Gate, bytes: &[u8]) {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let Weather { delay_ms: [least, greatest], loss, twice } = inside.weather;
        let lost = draw(&mut inside.dice, loss);
        let copies = if lost { 0 } else { 1 + usize::from(draw(&mut inside.dice, twice)) };
        for _ in 0..copies {
            if inside.held.len() >= HELD_MAX {
                return;
            }
            let delay = inside.dice.range(least..=greatest.max(least));
            inside.number += 1;
            let (due, number) = (now() + Duration::from_millis(delay), inside.number);
            let held = Held { due, number, exit: gate.exit, door: gate.door, bytes: bytes.to_vec() };
            inside.held.push(Reverse(held));
        }
    }

    fn send(&self, gates: &[Gate]) {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.stop.load(Ordering::Relaxed) {
            let wait = match inside.held.peek() {
                Some(Reverse(first)) => first.due.saturating_duration_since(now()),
                None => LOOK_EVERY,
            };
            if !wait.is_zero() {
                inside = self.more.wait_timeout(inside, wait).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            let Some(Reverse(held)) = inside.held.pop() else { continue };
            drop(inside);
            // A peer that is down refuses: that is its affair.
            let _ = gates[held.exit].socket.send_to(&held.bytes, held.door);
            inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[expect(clippy::cast_sign_loss, reason = "a part of 1 is at least 0")]
fn draw(dice: &mut Dice, part: f64) -> bool {
    dice.chance((part * 1000.0) as u64)
}
