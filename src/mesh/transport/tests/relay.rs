//! Links by a relay, over real sockets on loopback.

use mesh_core::relay::Via;

use super::super::mux::Malice;
use super::*;

/// A word that comes later than this is lost for whoever waits for it. A change of relays is to take less than a second; here the
/// processor is shared with all other tests, and no figure is taken.
const TOO_LATE: Duration = Duration::from_secs(8);

/// A family of peers that all know each other. `apart` do not know where the other is, but that the rest may relay.
fn acquaint(peers: &[&Peer], apart: (PeerId, PeerId)) {
    for me in peers {
        let others = peers.iter().filter(|peer| peer.id() != me.id());
        let members = others.map(|other| {
            let pair = (me.id(), other.id());
            if pair == apart || (pair.1, pair.0) == apart {
                let (id, member) = other.unreachable();
                let between = peers.iter().map(|peer| peer.id());
                let relays = between.filter(|relay| *relay != apart.0 && *relay != apart.1).collect();
                (id, Member { relays, ..member })
            } else {
                other.member()
            }
        });
        me.links.set_members(members.collect());
    }
}

async fn linked_by(a: &mut Peer, b: PeerId) -> Via {
    a.wait(|event| match event {
        LinkEvent::Up(peer, _, via) if peer == b => Some(via),
        LinkEvent::Up(..)
        | LinkEvent::Down(_)
        | LinkEvent::Frame(..)
        | LinkEvent::Network
        | LinkEvent::Tailnet(_)
        | LinkEvent::JoinAttempt(_)
        | LinkEvent::Stream { .. }
        | LinkEvent::Bad { .. } => None,
    })
    .await
}

fn relays(a: &Peer, b: &Peer) -> Vec<PeerId> {
    let infos = a.links.infos();
    infos.into_iter().find(|info| info.peer == b.id()).map_or_else(Vec::new, |info| info.relays)
}

/// No link of `a` to `b` went down so far.
fn never_down(a: &mut Peer, b: PeerId) {
    while let Ok(event) = a.events.try_recv() {
        assert!(!matches!(event, LinkEvent::Down(down) if down == b), "the link went down");
    }
}

async fn says_something(from: &Peer, to: &mut Peer, n: u64) {
    assert!(from.links.send(to.id(), &digest(n)));
    let (sender, expected) = (from.id(), digest(n));
    to.wait(|event| {
        matches!(event, LinkEvent::Frame(peer, frame, _) if peer == sender && frame == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn two_that_cannot_reach_each_other_are_linked_by_a_third_and_directly_as_soon_as_they_can() {
    let (mut a, mut b, r) = (Peer::start(), Peer::start(), Peer::start());
    acquaint(&[&a, &b, &r], (a.id(), b.id()));
    assert_eq!(linked_by(&mut a, b.id()).await, Via::Relayed);
    assert_eq!(linked_by(&mut b, a.id()).await, Via::Relayed);
    says_something(&a, &mut b, 1).await;
    says_something(&b, &mut a, 2).await;
    // A large frame: many packets of a run.
    assert!(a.links.send(b.id(), &many_neighbours()));
    assert_eq!(b.wait_frame().await, many_neighbours());
    assert_eq!(relays(&a, &b), [r.id()]);
    assert_eq!(relays(&b, &a), [r.id()]);
    let relayed = r.links.relayed();
    assert_eq!(relayed.pairs.len(), 1);
    assert!(relayed.bytes > 64_000, "{relayed:?}");
    // Services and blobs do not ask how a link travels.
    let hash = Hash::of(b"a picture");
    b.blobs.put(hash, Bytes::from_static(b"a picture")).await.unwrap();
    a.links.fetch(b.id(), hash, 100).await.unwrap();

    for (me, other) in [(&a, &b), (&b, &a)] {
        me.links.set_members([other.member(), r.member()].into());
    }
    let up = linked_by(&mut a, b.id()).await;
    assert_eq!(up, Via::Direct, "and nothing went down: the next that is told is that it is up");
    assert_eq!(linked_by(&mut b, a.id()).await, Via::Direct);
    says_something(&a, &mut b, 3).await;
    assert_eq!(relays(&a, &b), []);
    until("the relay is let go", || r.links.relayed().pairs.is_empty()).await;
    never_down(&mut a, b.id());
    never_down(&mut b, a.id());
}

#[tokio::test]
async fn a_relay_that_dies_is_replaced_by_the_second_and_the_link_stays() {
    let (mut a, mut b, first, second) = (Peer::start(), Peer::start(), Peer::start(), Peer::start());
    acquaint(&[&a, &b, &first, &second], (a.id(), b.id()));
    linked_by(&mut a, b.id()).await;
    linked_by(&mut b, a.id()).await;
    until("both relays are there", || relays(&a, &b).len() == 2 && relays(&b, &a).len() == 2).await;
    let present = relays(&a, &b)[0];
    let (dying, other) = if present == first.id() { (first, second) } else { (second, first) };
    let _home = dying.kill().await;
    // Everything that is said meanwhile arrives.
    for n in 0..40 {
        let said = Instant::now();
        says_something(&a, &mut b, n).await;
        assert!(said.elapsed() < TOO_LATE, "{:?} of silence", said.elapsed());
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(relays(&a, &b)[0], other.id());
    never_down(&mut a, b.id());
    assert!(b.links.infos().iter().any(|info| info.peer == a.id()));
}

/// A relay that is used and one that is not, of which the first does this to all that it passes on from now on, and every
/// word arrives.
async fn harmed(malice: Malice) {
    let (mut a, mut b, first, second) = (Peer::start(), Peer::start(), Peer::start(), Peer::start());
    acquaint(&[&a, &b, &first, &second], (a.id(), b.id()));
    linked_by(&mut a, b.id()).await;
    linked_by(&mut b, a.id()).await;
    until("both relays are there", || relays(&a, &b).len() == 2 && relays(&b, &a).len() == 2).await;
    let used = relays(&a, &b)[0];
    let hostile = if used == first.id() { &first } else { &second };
    *hostile.links.shared.relay.mux.malice.lock().unwrap() = malice;
    for n in 0..40 {
        let said = Instant::now();
        says_something(&a, &mut b, n).await;
        assert!(said.elapsed() < TOO_LATE, "{malice:?}: {:?} of silence", said.elapsed());
        sleep(Duration::from_millis(100)).await;
    }
    never_down(&mut a, b.id());
    if matches!(malice, Malice::Drops | Malice::Flips | Malice::Delays) {
        assert_ne!(relays(&a, &b)[0], hostile.id(), "{malice:?}: it is used no more");
    }
}

#[tokio::test]
async fn a_relay_that_drops_everything_is_as_one_that_is_gone() {
    harmed(Malice::Drops).await;
}

#[tokio::test]
async fn a_relay_that_changes_everything_is_as_one_that_is_gone() {
    harmed(Malice::Flips).await;
}

#[tokio::test]
async fn a_relay_that_repeats_everything_does_no_harm() {
    harmed(Malice::Repeats).await;
}

#[tokio::test]
async fn a_relay_that_delays_everything_is_as_one_that_is_gone() {
    harmed(Malice::Delays).await;
}

#[tokio::test]
async fn a_relay_that_reorders_everything_does_no_harm() {
    harmed(Malice::Reorders).await;
}

#[tokio::test]
async fn a_relay_that_floods_does_no_harm() {
    harmed(Malice::Floods).await;
}

/// Two relays, of which the first does this from its first packet on: the link comes up as soon as if only the other were
/// there, words come both ways, and nothing goes down.
async fn hostile_from_the_start(malice: Malice) {
    let (mut a, mut b, first, second) = (Peer::start(), Peer::start(), Peer::start(), Peer::start());
    *first.links.shared.relay.mux.malice.lock().unwrap() = malice;
    acquaint(&[&a, &b, &first, &second], (a.id(), b.id()));
    let began = Instant::now();
    assert_eq!(linked_by(&mut a, b.id()).await, Via::Relayed);
    linked_by(&mut b, a.id()).await;
    let up = began.elapsed();
    assert!(up < TOO_LATE, "{malice:?}: up after {up:?}");
    for n in 0..30 {
        let said = Instant::now();
        says_something(&a, &mut b, n).await;
        says_something(&b, &mut a, n + 1_000).await;
        assert!(said.elapsed() < TOO_LATE, "{malice:?}: {:?} of silence", said.elapsed());
        sleep(Duration::from_millis(50)).await;
    }
    never_down(&mut a, b.id());
    never_down(&mut b, a.id());
}

#[tokio::test]
async fn a_relay_that_drops_everything_from_the_start() {
    hostile_from_the_start(Malice::Drops).await;
}

#[tokio::test]
async fn a_relay_that_changes_everything_from_the_start() {
    hostile_from_the_start(Malice::Flips).await;
}

#[tokio::test]
async fn a_relay_that_repeats_everything_from_the_start() {
    hostile_from_the_start(Malice::Repeats).await;
}

#[tokio::test]
async fn a_relay_that_delays_everything_from_the_start() {
    hostile_from_the_start(Malice::Delays).await;
}

#[tokio::test]
async fn a_relay_that_reorders_everything_from_the_start() {
    hostile_from_the_start(Malice::Reorders).await;
}

#[tokio::test]
async fn a_relay_that_floods_from_the_start() {
    hostile_from_the_start(Malice::Floods).await;
}

#[tokio::test]
async fn a_relay_that_lies_about_who_is_reachable() {
    hostile_from_the_start(Malice::Lies).await;
}

#[tokio::test]
async fn a_relay_that_listens_sees_neither_what_is_said_nor_a_key() {
    const CANARY: &[u8] = b"a-canary-that-nobody-else-may-hear";
    let (mut a, mut b, r) = (Peer::start(), Peer::start(), Peer::start());
    *r.links.shared.relay.mux.malice.lock().unwrap() = Malice::Listens;
    acquaint(&[&a, &b, &r], (a.id(), b.id()));
    linked_by(&mut a, b.id()).await;
    linked_by(&mut b, a.id()).await;
    let hash = Hash::of(CANARY);
    b.blobs.put(hash, Bytes::from_static(CANARY)).await.unwrap();
    a.links.fetch(b.id(), hash, 100).await.unwrap();
    let heard = r.links.shared.relay.mux.held.lock().unwrap().clone();
    // What it does see: frames, how many, how long, and the token that it gave itself.
    assert!(heard.len() > 2_000 && heard.first() == Some(&1), "it heard {} bytes", heard.len());
    let contains = |bytes: &[u8]| heard.windows(bytes.len()).any(|window| window == bytes);
    assert!(!contains(CANARY) && !contains(&hash.0));
    for peer in [&a, &b] {
        assert!(!contains(&peer.id().0) && !contains(&peer.key.public_key().0));
    }
}

#[tokio::test]
async fn of_three_relays_two_are_hostile_from_the_start() {
    for malice in [Malice::Drops, Malice::Flips] {
        let (mut a, mut b) = (Peer::start(), Peer::start());
        let (first, second, third) = (Peer::start(), Peer::start(), Peer::start());
        for hostile in [&first, &second] {
            *hostile.links.shared.relay.mux.malice.lock().unwrap() = malice;
        }
        acquaint(&[&a, &b, &first, &second, &third], (a.id(), b.id()));
        assert_eq!(linked_by(&mut a, b.id()).await, Via::Relayed);
        linked_by(&mut b, a.id()).await;
        says_something(&a, &mut b, 1).await;
        says_something(&b, &mut a, 2).await;
    }
}

#[tokio::test]
async fn a_relay_that_knows_one_of_the_two_no_more_ends_it_at_once() {
    let (mut a, mut b, r) = (Peer::start(), Peer::start(), Peer::start());
    acquaint(&[&a, &b, &r], (a.id(), b.id()));
    linked_by(&mut a, b.id()).await;
    r.links.set_members([a.member()].into());
    a.wait_down(b.id()).await;
    b.wait_down(a.id()).await;
    assert!(r.links.relayed().pairs.is_empty());
}

#[tokio::test]
async fn nobody_relays_for_whom_it_does_not_know_nor_by_a_relayed_link() {
    let (a, b, r) = (Peer::start(), Peer::start(), Peer::start());
    acquaint(&[&a, &b, &r], (a.id(), b.id()));
    r.links.set_members([a.member()].into());
    until("it was asked and refused", || r.links.relayed().refused > 0).await;
    assert!(r.links.relayed().pairs.is_empty());
    assert!(a.links.infos().iter().all(|info| info.peer != b.id()));
}

#[tokio::test]
async fn frames_that_are_nobodys_are_dropped_and_counted() {
    let (mut a, b, r) = (Peer::start(), Peer::start(), Peer::start());
    acquaint(&[&a, &b, &r], (a.id(), b.id()));
    linked_by(&mut a, b.id()).await;
    let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for n in 0..100_u64 {
        let frame = [[1, 0, 0, 0].as_slice(), &n.to_be_bytes(), &[0x40; 40]].concat();
        for to in [&a, &b, &r] {
            stranger.send_to(&frame, to.socket()).unwrap();
        }
        stranger.send_to(&[1], r.socket()).unwrap();
        stranger.send_to(&[], r.socket()).unwrap();
    }
    until("they are counted", || r.links.relayed().unknown >= 100 && a.links.relayed().unknown >= 100).await;
    assert_eq!(a.links.infos().len(), 2, "and nothing else happens");
}
