//! Attacks from within: peers of our own making that speak the protocol with real keys and lie. A thousand
//! strangers that ask to join, a member that sends what it may not, and handshakes that nobody finishes.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use mesh_core::audience::Audience;
use mesh_core::entry::{BodyCommitment, Entry, Kind, Salt, SignedEntry, decode, encode};
use mesh_core::epoch::{Claim, Epoch};
use mesh_core::frame::{Beacon, EntryItem, Frame, Phase};
use mesh_core::ids::{Hash, Incarnation, MeshId, NodeId, PeerId, ReqId};
use mesh_core::io::Welcome;
use mesh_core::limits;
use mesh_core::record::{
    CancelRequest, ChangeKind, Directory, Effect, Ending, Fitness, Header, MembershipChange, Outcome, Payload, Source,
    Tier, ToolDecl,
};
use quinn::{RecvStream, SendStream};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use sigil::mesh::blobs::BlobStore;
use sigil::mesh::identity::DeviceKey;
use sigil::mesh::invite::InviteCode;
use sigil::mesh::transport::wire::encode_frame;
use sigil::mesh::transport::{
    FetchError, JoinAnswer, JoinConversation, JoinRequest, LinkEvent, Links, LinksConfig, Member, Members, RefusalCode,
    RelayConfig,
};
use sigil::tasks::TaskGroup;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use crate::bad_input::{client, identity, within_bounds};
use crate::harness::{Home, Mesh, PATIENCE, call_is_over, items, observe, resident_bytes, text, wait_for, wait_until};

const YEAR_MS: u64 = 365 * 24 * 3600 * 1000;

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// A peer without an agent: keys and links, and whoever holds it decides what is said on them.
pub(crate) struct Loose {
    pub(crate) key: DeviceKey,
    pub(crate) links: Links,
    pub(crate) events: mpsc::Receiver<LinkEvent>,
    tasks: TaskGroup,
    _dir: TempDir,
}

impl Loose {
    /// With a fresh key, behind an address of this machine. Within a runtime.
    pub(crate) fn new(listen: SocketAddr) -> Self {
        Self::with_key(fresh_key(), listen)
    }

    /// With this key.
    fn with_key(key: DeviceKey, listen: SocketAddr) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let blobs = BlobStore::open(&dir.path().join("blobs")).expect("a blob store");
        let tasks = TaskGroup::default();
        let (tx, events) = mpsc::channel(1024);
        let relay = RelayConfig::NONE;
        let config = LinksConfig { key: key.clone(), listen, services: [].into(), relay, blobs, tasks: tasks.clone() };
        let links = Links::start(config, tx).expect("a socket");
        Self { key, links, events, tasks, _dir: dir }
    }

    pub(crate) fn id(&self) -> PeerId {
        self.key.peer_id()
    }

    /// Links to the peer that welcomed it. The approval by which it belongs.
    #[track_caller]
    fn follow(&self, key: &mesh_core::ids::PublicKey, at: SocketAddr, welcome: &Welcome) -> Hash {
        let member = Member {
            key: *key,
            addresses: vec![at.into()],
            services: None,
            relays: Vec::new(),
            leaving: false,
            owner: true,
            node: None,
        };
        self.links.set_members(Members::from([(key.peer_id(), member)]));
        let own = |entry: &&SignedEntry| {
            entry.record::<MembershipChange>().is_some_and(|change| change.subject == self.key.public_key())
        };
        let newest = welcome.trust.iter().filter(own).max_by_key(|entry| entry.entry.hlc);
        newest.expect("its approval").hash
    }

    /// Asks to join, and the first answer; nothing when there is none.
    pub(crate) async fn ask(
        &self,
        at: SocketAddr,
        secret: Option<[u8; 16]>,
        name: &str,
    ) -> Option<(JoinConversation, JoinAnswer)> {
        let request = JoinRequest {
            secret,
            node_id: name.parse().expect("a name"),
            platform: "linux".to_owned(),
            version: "0".to_owned(),
        };
        let mut conversation = self.links.join(&[at.into()], None, &request).await.ok()?;
        let step = timeout(PATIENCE, conversation.answers.recv()).await.ok()??;
        Some((conversation, step))
    }
}

// --- strangers ---

#[test]
fn a9_a_thousand_join_attempts_do_not_disturb() {
    const STRANGERS: usize = 1000;
    const AT_ONCE: usize = 48;
    const PENDING_MAX: usize = 64;
    let mesh = Mesh::named(&["attic", "bureau"]);
    let (attic, bureau) = (&mesh.homes[0], &mesh.homes[1]);
    let (waiting, too_many, unanswered) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let done = AtomicBool::new(false);
    within_bounds(attic, || {
        let before = resident_bytes(attic.pid());
        let mut most = before;
        std::thread::scope(|scope| {
            let (waiting, too_many, unanswered) = (&waiting, &too_many, &unanswered);
            let done = &done;
            scope.spawn(move || {
                let asking = async {
                    let places = Semaphore::new(AT_ONCE);
                    let address = attic.quic_address();
                    let all = (0..STRANGERS).map(|n| {
                        let places = &places;
                        async move {
                            let _place = places.acquire().await.expect("never closed");
                            // As if from several machines: one address alone would soon be told to wait its turn.
                            let from = [127, 0, 0, u8::try_from(2 + n % 100).expect("small")];
                            let stranger = Loose::new((from, 0).into());
                            // A door that is busy may let a handshake fall; whoever wants in asks again.
                            for _ in 0..20 {
                                match stranger.ask(address, None, &format!("stranger-{n}")).await {
                                    Some((conversation, JoinAnswer::Waiting { .. })) => {
                                        waiting.fetch_add(1, Ordering::Relaxed);
                                        return Some((stranger, conversation));
                                    }
                                    Some((_, JoinAnswer::Refused { code, .. })) => {
                                        assert_eq!(code, RefusalCode::TooMany);
                                        too_many.fetch_add(1, Ordering::Relaxed);
                                        stranger.tasks.shutdown(Duration::ZERO).await;
                                        return None;
                                    }
                                    Some((_, JoinAnswer::Welcome(_))) => panic!("nobody said yes"),
                                    None => {}
                                }
                            }
                            unanswered.fetch_add(1, Ordering::Relaxed);
                            None
                        }
                    });
                    // Those who wait keep waiting until the end.
                    let kept = futures_util::future::join_all(all).await;
                    done.store(true, Ordering::Relaxed);
                    for (stranger, _) in kept.into_iter().flatten() {
                        stranger.tasks.shutdown(Duration::ZERO).await;
                    }
                };
                runtime().block_on(asking);
            });
            let mut calls = 0;
            while !done.load(Ordering::Relaxed) {
                let pending = items(&attic.get("pending").expect(200)).len();
                assert!(pending <= PENDING_MAX, "{pending} are pending");
                let id = bureau.call("attic", "append", 60);
                assert_eq!(bureau.wait_ended(&id, PATIENCE)["state"], "done");
                most = most.max(resident_bytes(attic.pid()));
                calls += 1;
            }
            assert!(calls > 5, "only {calls} calls meanwhile");
        });
        let after = resident_bytes(attic.pid());
        eprintln!(
            "waiting {waiting:?}, refused {too_many:?}, unanswered {unanswered:?}; {} KiB before, {} KiB at most, {} KiB after",
            before / 1024,
            most / 1024,
            after / 1024
        );
        assert!(most < before + 64 * 1024 * 1024, "grew from {before} to {most}");
        assert!(after < before + 32 * 1024 * 1024, "{before} before, {after} after");
        // One that waited may have had to make room for one of an address with fewer.
        let (waiting, too_many) = (waiting.load(Ordering::Relaxed), too_many.load(Ordering::Relaxed));
        assert!(waiting >= PENDING_MAX, "as many wait as may, and not {waiting}");
        assert_eq!(unanswered.load(Ordering::Relaxed), 0, "everyone is answered");
        assert_eq!(waiting + too_many, STRANGERS);
    });
    assert_eq!(members(attic), 2, "nobody came in by that");
    // Someone with an invite still comes in.
    let runtime = runtime();
    let member = Fellow::join(&runtime, attic, "late", "shared");
    assert_eq!(members(attic), 3);
    drop(member);
}

/// How many belong to the mesh.
#[track_caller]
fn members(home: &Home) -> usize {
    home.nodes().iter().filter(|node| text(node, "state") != "pending").count()
}

#[test]
fn a9_two_thousand_half_open_handshakes_do_not_pile_up() {
    let mesh = Mesh::named(&["attic", "bureau"]);
    let (attic, bureau) = (&mesh.homes[0], &mesh.homes[1]);
    within_bounds(attic, || {
        // Real first packets, each with connection ids of its own, taken on their way to a socket that never answers.
        let sink = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        sink.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout can be set");
        let nowhere = sink.local_addr().expect("it is bound");
        let runtime = runtime();
        let endpoint = {
            let _guard = runtime.enter();
            quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a socket")
        };
        let (key, certificate) = identity();
        let config = client(vec![certificate], &key);
        let mut packet = [0; 2048];
        let mut begun = Vec::new();
        for n in 0..2000 {
            if n % 100 == 0 {
                begun.clear();
                // Meanwhile the mesh works.
                let id = bureau.call("attic", "append", 60);
                assert_eq!(bureau.wait_ended(&id, PATIENCE)["state"], "done");
            }
            let connecting = {
                let _guard = runtime.enter();
                endpoint.connect_with(config.clone(), nowhere, "sigil").expect("a handshake begins")
            };
            begun.push(connecting);
            let len = sink.recv(&mut packet).expect("its first packet");
            let from = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            from.send_to(&packet[..len], attic.quic_address()).expect("loopback takes it");
        }
        // Whoever finishes a handshake is not kept out by those who do not.
        let member = Fellow::join(&runtime, attic, "late", "shared");
        drop(member);
    });
    mesh.wait_converged();
}

// --- a member ---

/// A [`Loose`] peer that belongs to the mesh of a home, is linked to it, and writes a log.
pub(crate) struct Fellow<'a> {
    runtime: &'a Runtime,
    pub(crate) home: PeerId,
    pub(crate) loose: Loose,
    pub(crate) mesh: MeshId,
    /// The approval by which it belongs.
    pub(crate) grant: Hash,
    pub(crate) incarnation: Incarnation,
    seq: u64,
    previous: Hash,
}

impl Drop for Fellow<'_> {
    fn drop(&mut self) {
        self.runtime.block_on(self.loose.tasks.shutdown(Duration::ZERO));
    }
}

/// No secret in tests.
const SALT: Salt = Salt([7; 16]);

/// True if an entry is in this frame.
fn carries(frame: &Frame, hash: Hash) -> bool {
    matches!(frame, Frame::Entries { entries, .. } if entries.iter().any(|item| item.entry.hash == hash))
}

/// An entry as it is pushed.
pub(crate) fn pushed(entry: SignedEntry) -> Frame {
    Frame::Entries { entries: vec![EntryItem { entry, left_ms: None }], more: false }
}

pub(crate) fn wall_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_millis()).expect("fits for long")
}

impl<'a> Fellow<'a> {
    /// Joins with an invite for this tier, like any device.
    #[track_caller]
    pub(crate) fn join(runtime: &'a Runtime, home: &Home, name: &str, tier: &str) -> Self {
        Self::join_by(runtime, home, name, &json!({ "tier": tier }))
    }

    /// Joins with an invite on these terms.
    #[track_caller]
    pub(crate) fn join_by(runtime: &'a Runtime, home: &Home, name: &str, terms: &Value) -> Self {
        let loose = {
            let _guard = runtime.enter();
            Loose::new(([127, 0, 0, 1], 0).into())
        };
        let (key, welcome) = Self::welcome(&loose, runtime, home, name, terms);
        let grant = loose.follow(&key, home.quic_address(), &welcome);
        let (mesh, home) = (welcome.mesh, key.peer_id());
        let incarnation = Incarnation(1);
        let fellow = Self { runtime, home, loose, mesh, grant, incarnation, seq: 0, previous: Hash::ZERO };
        fellow.wait_linked();
        fellow
    }

    /// Joins once more, with the key that it has: after it was removed. Its log starts anew.
    #[track_caller]
    pub(crate) fn join_again(&mut self, home: &Home, name: &str, tier: &str) {
        let again = {
            let _guard = self.runtime.enter();
            Loose::with_key(self.loose.key.clone(), ([127, 0, 0, 1], 0).into())
        };
        let old = std::mem::replace(&mut self.loose, again);
        self.runtime.block_on(old.tasks.shutdown(Duration::ZERO));
        let (key, welcome) = Self::welcome(&self.loose, self.runtime, home, name, &json!({ "tier": tier }));
        self.grant = self.loose.follow(&key, home.quic_address(), &welcome);
        (self.incarnation, self.seq, self.previous) = (Incarnation(self.incarnation.0 + 1), 0, Hash::ZERO);
        self.wait_linked();
    }

    #[track_caller]
    fn welcome(
        loose: &Loose,
        runtime: &Runtime,
        home: &Home,
        name: &str,
        terms: &Value,
    ) -> (mesh_core::ids::PublicKey, Box<Welcome>) {
        let answer = home.post("invites", terms);
        assert!((200..300).contains(&answer.status), "{}", answer.text());
        let code: InviteCode = text(&answer.json(), "code").parse().expect("a code");
        wait_for("a welcome", PATIENCE, || {
            let asked = runtime.block_on(loose.ask(home.quic_address(), Some(code.secret), name));
            match asked {
                Some((conversation, JoinAnswer::Welcome(welcome))) => Some((conversation.key, welcome)),
                Some((_, JoinAnswer::Refused { code, detail })) if code != RefusalCode::TooMany => {
                    panic!("{code:?}: {detail}")
                }
                _ => None,
            }
        })
    }

    /// Goes on as a [`Flood`]: its link is a plain connection from now on.
    pub(crate) fn flood(&self, at: SocketAddr) -> Flood {
        self.loose.links.set_members(Members::new());
        self.runtime.block_on(Flood::open(&self.loose.key, at)).expect("a member is approved")
    }

    pub(crate) fn id(&self) -> PeerId {
        self.loose.id()
    }

    #[track_caller]
    fn wait_linked(&self) {
        wait_until("a link", PATIENCE, || self.loose.links.infos().iter().any(|link| link.peer == self.home));
    }

    /// Links to another home of its mesh in place of the one that it joined by.
    #[track_caller]
    pub(crate) fn turn_to(&mut self, home: &Home) {
        let key = mesh_key(home);
        let member = Member {
            key,
            addresses: vec![home.quic_address().into()],
            services: None,
            relays: Vec::new(),
            leaving: false,
            owner: true,
            node: None,
        };
        self.home = key.peer_id();
        self.loose.links.set_members(Members::from([(self.home, member)]));
        self.wait_linked();
    }

    /// Sends a frame to the home; after too much that is malformed the link is down for a moment.
    #[track_caller]
    pub(crate) fn send(&self, frame: &Frame) {
        wait_until("a link that takes a frame", PATIENCE, || self.loose.links.send(self.home, frame));
    }

    /// An entry for the next place of the log. `change` may take it out of there.
    #[expect(clippy::needless_pass_by_value, reason = "bodies are made where they are passed")]
    pub(crate) fn entry(&self, kind: Kind, body: Vec<u8>, change: impl FnOnce(&mut Entry)) -> SignedEntry {
        let me = self.id();
        let ends = |target| Audience::Call { origin: me, target };
        let audience = match kind {
            Kind::CALL => ends(decode::<Header>(&body).map_or(me, |header| header.target)),
            Kind::OUTCOME | Kind::CANCEL => ends(me),
            _ => Audience::Everyone,
        };
        let mut entry = Entry {
            mesh: self.mesh,
            author: self.loose.key.public_key(),
            incarnation: self.incarnation,
            seq: self.seq + 1,
            hlc: wall_ms() << 16,
            kind,
            critical: false,
            previous: self.previous,
            audience,
            body: BodyCommitment::of(SALT, &body),
        };
        change(&mut entry);
        SignedEntry::sign(&self.loose.key, entry, SALT, &body)
    }

    /// Writes an entry into its log and sends it.
    pub(crate) fn says(&mut self, kind: Kind, body: Vec<u8>) -> SignedEntry {
        let entry = self.entry(kind, body, |_| {});
        self.takes(&entry);
        self.send(&pushed(entry.clone()));
        entry
    }

    pub(crate) fn takes(&mut self, entry: &SignedEntry) {
        (self.seq, self.previous) = (entry.entry.seq, entry.hash);
    }

    /// True if such a frame comes in time.
    fn hears_within(&mut self, within: Duration, wanted: impl Fn(&Frame) -> bool) -> bool {
        let events = &mut self.loose.events;
        let hearing = async {
            loop {
                if let LinkEvent::Frame(_, frame, _) = events.recv().await.expect("links have ended")
                    && wanted(&frame)
                {
                    return;
                }
            }
        };
        self.runtime.block_on(async { timeout(within, hearing).await }).is_ok()
    }

    /// Waits until an entry came here through the home.
    #[track_caller]
    fn hears_entry(&mut self, what: &str, hash: Hash) {
        assert!(self.hears_within(PATIENCE, |frame| carries(frame, hash)), "waited for: {what}");
    }

    /// After this, the home has dealt with everything that was sent before: `witness` has got a later entry from it.
    #[track_caller]
    fn settle(&mut self, witness: &mut Fellow<'_>) {
        let entry = self.says(Kind(4242), b"a marker".to_vec());
        let marker = |frame: &Frame| carries(frame, entry.hash);
        // After too much that is malformed the home closes the link, and with it goes what was under way.
        wait_until("an entry of an unknown kind is relayed", PATIENCE, || {
            witness.hears_within(Duration::from_millis(500), marker) || {
                self.send(&pushed(entry.clone()));
                false
            }
        });
    }

    pub(crate) fn offers_append(&mut self) {
        let tool = ToolDecl {
            name: "append".parse().expect("a name"),
            effect: Effect::Once,
            description: String::new(),
            owner_only: false,
            at_once: None,
            card: None,
            state: Fitness::READY,
        };
        self.says(Kind::DIRECTORY, encode(&Directory { tools: vec![tool], ..Directory::default() }));
    }
}

/// What must hold whatever was sent.
struct Watch<'a> {
    mesh: &'a Mesh,
    gateway: Option<(String, u64)>,
    /// Calls that were really made.
    made: BTreeSet<String>,
}

impl Watch<'_> {
    /// One of the agents leads, and what was sent took nobody's epoch away. (A machine that is too busy may move the role
    /// between the two by itself; what exactly a lie does to it, the core's own tests say.)
    #[track_caller]
    fn assert_led_by_us(&self, home: &Home, what: &str) {
        let before = self.gateway.as_ref().map_or(0, |(_, counter)| *counter);
        let (gateway, counter) = wait_for("somebody leads", PATIENCE, || home.gateway());
        assert!(self.mesh.homes.iter().any(|home| home.peer_id() == gateway), "after {what}: {gateway} leads");
        assert!((before..before + 100).contains(&counter), "after {what}: {before} before, {counter} now");
    }

    /// The agents live, lead as before, work, and ran nothing that nobody asked for.
    #[track_caller]
    fn fine_after(&mut self, what: &str) {
        for (from, to) in [(0, "bureau"), (1, "attic")] {
            let home = &self.mesh.homes[from];
            self.assert_led_by_us(home, what);
            assert!(!home.log().contains("panicked"), "after {what}: {}", home.log_tail());
            let id = home.call(to, "append", 60);
            self.made.insert(id.clone());
            let call = home.wait_ended(&id, PATIENCE);
            assert_eq!(call["state"], "done", "after {what}: {call}");
        }
        for home in &self.mesh.homes {
            for (ran, _) in home.witness() {
                assert!(self.made.contains(&ran), "after {what}: {ran} ran at {}, which nobody asked for", home.name);
            }
        }
    }
}

pub(crate) fn header(id: ReqId, target: PeerId) -> Header {
    Header {
        id,
        target,
        node_id: "attic".parse().expect("a name"),
        tool: "append".parse().expect("a name"),
        arguments: Payload::Inline(b"{}".as_slice().into()),
        effect: Effect::Once,
        ttl_ms: 60_000,
        accepted_ms: wall_ms(),
        timeout_ms: 60_000,
        principal: "device:hostile".parse().expect("a name"),
        client_key: None,
        token: None,
        workspace: None,
        rule: String::new(),
        mark: Vec::new(),
        target_incarnation: None,
    }
}

pub(crate) fn outcome(id: ReqId, ending: Ending) -> Outcome {
    Outcome {
        id,
        attempt: 1,
        ending,
        reason: String::new(),
        output: Payload::Inline(b"\"made up\"".as_slice().into()),
        parts: Vec::new(),
        partial: false,
        error: String::new(),
        at_ms: wall_ms(),
        started_ms: 0,
        alias_of: None,
        source: Source::Target,
    }
}

pub(crate) fn peer(home: &Home) -> PeerId {
    home.peer_id().parse().expect("a peer id")
}

#[test]
fn a9_entries_that_are_not_right_are_not_taken() {
    let mesh = Mesh::named(&["attic", "bureau"]);
    let attic = &mesh.homes[0];
    let runtime = runtime();
    let mut liar = Fellow::join(&runtime, attic, "liar", "owner");
    let mut witness = Fellow::join(&runtime, attic, "witness", "shared");
    let mut watch = Watch { mesh: &mesh, gateway: attic.gateway(), made: BTreeSet::new() };
    liar.settle(&mut witness);

    let liar_id = liar.id();
    let call_of = |n: u64| encode(&header(ReqId::new(&liar_id, Incarnation(1), n), peer(attic)));
    let body = call_of(1);
    let good = liar.entry(Kind::CALL, body.clone(), |_| {});
    let mut signature = good.signature;
    signature.0[3] ^= 1;
    let unsigned = SignedEntry::trusted(&good.bytes, signature, &good.sealed()).unwrap();
    let forged = liar.entry(Kind::CALL, body.clone(), |entry| entry.author = mesh_key(attic));
    let stranger = fresh_key();
    let foreign = {
        let entry = Entry { author: stranger.public_key(), ..good.entry.clone() };
        SignedEntry::sign(&stranger, entry, SALT, &body)
    };
    let elsewhere = liar.entry(Kind::CALL, body.clone(), |entry| entry.mesh = MeshId([7; 32]));
    // Beyond the markers that are written meanwhile.
    let gap = liar.entry(Kind::CALL, body, |entry| entry.seq += 30);
    let large = liar.entry(Kind(4243), vec![7; limits::ENTRY_BYTES_MAX], |_| {});
    for (what, entry) in [
        ("a signature that is none", unsigned),
        ("another's name", forged),
        ("a stranger's entry", foreign),
        ("another mesh", elsewhere),
        ("a gap", gap),
        ("an entry that is too large", large),
    ] {
        for _ in 0..3 {
            liar.send(&pushed(entry.clone()));
        }
        liar.settle(&mut witness);
        watch.fine_after(what);
    }
    assert!(attic.get(&format!("calls/{}", ReqId::new(&liar.id(), Incarnation(1), 1))).status == 404);

    // Its own call, in its place, is a call: what was refused above was refused for what was wrong with it.
    let id = ReqId::new(&liar.id(), Incarnation(1), 1);
    watch.made.insert(id.to_string());
    liar.says(Kind::CALL, encode(&header(id, peer(attic))));
    wait_until("it is known", PATIENCE, || attic.get(&format!("calls/{id}")).status == 200);
    let call = attic.wait_ended(&id.to_string(), PATIENCE);
    assert_eq!((text(&call, "state"), attic.runs_of(&id.to_string())), ("done", vec![1]), "{call}");
    watch.fine_after("a real call");

    // Who contradicts itself is not believed any more, and people are told.
    let body = call_of(2);
    let fork = liar.entry(Kind::CALL, body.clone(), |entry| entry.seq -= 1);
    let chainless = liar.entry(Kind::CALL, body.clone(), |entry| entry.previous = Hash::of(b"another"));
    for (what, entry) in [("a fork", fork), ("a chain that breaks", chainless)] {
        liar.send(&pushed(entry));
        liar.settle(&mut witness);
        watch.fine_after(what);
    }
    liar.says(Kind::CALL, body);
    liar.settle(&mut witness);
    watch.fine_after("a call of one that contradicts itself");
    let warnings = attic.status()["warnings"].to_string();
    assert!(warnings.contains("`liar` signed two conflicting log entries"), "{warnings}");
}

#[test]
fn f21_a_call_shows_under_the_device_that_it_is_for() {
    let mesh = Mesh::named(&["attic", "bureau"]);
    let (attic, bureau) = (&mesh.homes[0], &mesh.homes[1]);
    let runtime = runtime();
    let mut liar = Fellow::join(&runtime, attic, "liar", "shared");
    // It calls the bureau, and writes that this is the attic.
    let id = ReqId::new(&liar.id(), Incarnation(1), 1);
    liar.says(Kind::CALL, encode(&header(id, peer(bureau))));
    for home in [attic, bureau] {
        wait_until("the call is known", PATIENCE, || home.get(&format!("calls/{id}")).status == 200);
        assert_eq!(home.get(&format!("calls/{id}")).expect(200)["node"], "bureau");
        assert_eq!(items(&home.get("calls?node=attic").expect(200)).len(), 0);
        assert_eq!(items(&home.get("calls?node=bureau").expect(200)).len(), 1);
    }
}

pub(crate) fn fresh_key() -> DeviceKey {
    DeviceKey::load_or_create(tempfile::tempdir().expect("a directory").path()).expect("a key")
}

/// The key of a home. Public: every entry of it says so.
pub(crate) fn mesh_key(home: &Home) -> mesh_core::ids::PublicKey {
    DeviceKey::load_or_create(home.path("").as_path()).expect("its key").public_key()
}

#[test]
fn a9_a_clock_a_year_ahead_stops_nobody() {
    let mesh = Mesh::named(&["attic", "bureau"]);
    let attic = &mesh.homes[0];
    let runtime = runtime();
    let mut liar = Fellow::join(&runtime, attic, "liar", "shared");
    let mut witness = Fellow::join(&runtime, attic, "witness", "shared");
    let mut watch = Watch { mesh: &mesh, gateway: attic.gateway(), made: BTreeSet::new() };
    for hlc in [(wall_ms() + YEAR_MS) << 16, u64::MAX] {
        let entry = liar.entry(Kind(4242), vec![1], |entry| entry.hlc = hlc);
        liar.takes(&entry);
        liar.send(&pushed(entry.clone()));
        witness.hears_entry("what is odd but signed is relayed", entry.hash);
    }
    watch.fine_after("a clock a year ahead");
    let newcomer = Fellow::join(&runtime, attic, "newcomer", "shared");
    assert_eq!(attic.node_state("newcomer").as_deref(), Some("offline"), "linked, but no node");
    let removed = attic.delete("nodes/newcomer");
    assert!((200..300).contains(&removed.status), "{}", removed.text());
    wait_until("bureau hears of it", PATIENCE, || mesh.homes[1].node_state("newcomer").is_none());
    drop(newcomer);
    watch.fine_after("an approval and a removal since");
}

#[test]
fn a9_a_member_has_no_say_in_what_is_not_its_own() {
    let mesh = Mesh::named(&["attic", "bureau"]);
    let attic = &mesh.homes[0];
    let runtime = runtime();
    let mut liar = Fellow::join(&runtime, attic, "liar", "shared");
    let mut target = Fellow::join(&runtime, attic, "target", "shared");
    let mut watch = Watch { mesh: &mesh, gateway: attic.gateway(), made: BTreeSet::new() };
    target.offers_append();
    wait_until("target offers its tool", PATIENCE, || attic.tool("node:target:append").is_some());

    // Calls in another's name, for another's id.
    for origin in [peer(attic), peer(&mesh.homes[1]), target.id()] {
        let id = ReqId::new(&origin, Incarnation(1), 9);
        liar.says(Kind::CALL, encode(&header(id, peer(attic))));
        liar.settle(&mut target);
        assert_eq!(attic.get(&format!("calls/{id}")).status, 404);
    }
    watch.fine_after("calls in another's name");

    // A call that waits for its target, which is no node now.
    let id = attic.call("target", "append", 60);
    watch.made.insert(id.clone());
    let req: ReqId = id.parse().expect("an id");
    wait_until("it is queued", PATIENCE, || text(&attic.get_call(&id), "state") == "queued");
    liar.says(Kind::OUTCOME, encode(&outcome(req, Ending::Done)));
    liar.says(Kind::CANCEL, encode(&CancelRequest { id: req, reason: "not mine".to_owned(), expired: false }));
    liar.send(&Frame::Progress { id: req, attempt: 1, state: Phase::Running, note: "not mine".to_owned() });
    liar.settle(&mut target);
    observe(Duration::from_millis(300), || assert_eq!(text(&attic.get_call(&id), "state"), "queued"));
    watch.fine_after("endings of another's call");
    target.says(Kind::OUTCOME, encode(&outcome(req, Ending::Done)));
    let call = attic.wait_ended(&id, PATIENCE);
    assert_eq!((text(&call, "state"), &call["confirmed"]), ("done", &Value::from(true)));

    // Who belongs is for owners to say, and nothing that others say stands in their way.
    let grant = liar.grant;
    let says = |subject, what| {
        encode(&MembershipChange { subject, grant, stands: Vec::new(), rights: Vec::new(), fence: 0, what })
    };
    let friend = fresh_key();
    let owner = |name: &str| ChangeKind::Approved {
        tier: Tier::Owner,
        node_id: node(name),
        after: Vec::new(),
        unseen: false,
        stay: None,
        of: None,
    };
    for body in [
        says(friend.public_key(), owner("friend")),
        says(liar.loose.key.public_key(), owner("liar")),
        says(mesh_key(&mesh.homes[1]), ChangeKind::Revoked { cutoffs: Vec::new(), left: false, unsaid: false }),
    ] {
        let entry = liar.entry(Kind::MEMBERSHIP, body, |_| {});
        liar.takes(&entry);
        liar.send(&pushed(entry));
    }
    liar.settle(&mut target);
    assert_eq!(attic.nodes().len(), 4);
    assert_eq!(attic.node_state("bureau").as_deref(), Some("online"));
    watch.fine_after("approvals by one who may not");
}

pub(crate) fn node(name: &str) -> NodeId {
    name.parse().expect("a name")
}

#[test]
fn a9_nobody_leads_by_a_lie() {
    let mesh = Mesh::named(&["attic", "bureau"]);
    let attic = &mesh.homes[0];
    let runtime = runtime();
    let mut liar = Fellow::join(&runtime, attic, "liar", "shared");
    let mut usurper = Fellow::join(&runtime, attic, "usurper", "owner");
    let mut watch = Watch { mesh: &mesh, gateway: attic.gateway(), made: BTreeSet::new() };
    let led = watch.gateway.as_ref().expect("somebody leads").1;
    let claim =
        |by: &Fellow<'_>, counter| Claim::sign(&by.loose.key, by.mesh, Epoch { counter, class: 15, peer: by.id() }, 1);
    let beacon = |claim| Frame::Beacon(Beacon { claim, age_ms: 0, covered: std::sync::Arc::default() });

    for counter in [led + 1, 1_000_000_000, u64::MAX] {
        liar.send(&beacon(claim(&liar, counter)));
        liar.send(&Frame::Notice(claim(&liar, counter)));
    }
    // In attic's own name, and in the usurper's, with a signature of its own.
    for peer in [peer(attic), usurper.id()] {
        let forged = Claim { epoch: Epoch { counter: led + 1, class: 15, peer }, ..claim(&liar, led + 1) };
        liar.send(&beacon(forged.clone()));
        liar.send(&Frame::Notice(forged));
    }
    let leading = Epoch { counter: led, class: 3, peer: peer(attic) };
    liar.send(&Frame::Resign { epoch: leading, successor: Some(liar.id()) });
    liar.send(&Frame::Handover { epoch: leading });
    liar.send(&Frame::Presence { epoch: leading, online: vec![liar.id()] });
    liar.settle(&mut usurper);
    watch.fine_after("claims of one who may not lead");

    // An owner might lead, but from no epoch that nobody can have reached.
    for counter in [1_000_000_000, u64::MAX] {
        usurper.send(&beacon(claim(&usurper, counter)));
        usurper.send(&Frame::Notice(claim(&usurper, counter)));
    }
    usurper.settle(&mut liar);
    watch.fine_after("claims from too far ahead");
    assert_eq!(attic.node_state("bureau").as_deref(), Some("online"));
}

// --- a member that breaks the protocol itself ---

#[test]
fn a9_bytes_that_are_no_frames_close_only_their_own_link() {
    let mesh = Mesh::named(&["attic", "bureau"]);
    let attic = &mesh.homes[0];
    let runtime = runtime();
    let mut watch = Watch { mesh: &mesh, gateway: attic.gateway(), made: BTreeSet::new() };
    let liar = Fellow::join(&runtime, attic, "liar", "shared");
    let key = liar.loose.key.clone();
    drop(liar);
    within_bounds(attic, || {
        let noise: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let framed = |body: &[u8]| [&u32::try_from(body.len()).expect("small").to_be_bytes(), body].concat();
        let endless = [u32::MAX.to_be_bytes().as_slice(), &[0; 4096]].concat();
        let many: Vec<u8> = (0..64).flat_map(|n| framed(&noise[n * 100..][..100])).collect();
        // Deep nesting where protobuf has none, and a length that points beyond the end.
        let odd = framed(&[0x3a, 0xff, 0xff, 0xff, 0xff, 0x7f, 0x0a]);
        for (what, tag, bytes) in [
            ("noise on the mesh stream", MESH, &noise),
            ("a frame without end", MESH, &endless),
            ("frames of noise", MESH, &many),
            ("a length that lies", MESH, &odd),
            ("a stream of no kind", 9, &noise),
            ("noise for a node service", 2, &noise),
            ("noise for a blob", 4, &noise),
            ("noise for a join", 3, &noise),
            ("a request without end", 3, &endless),
        ] {
            runtime.block_on(async {
                let (connection, mesh_send, mesh_recv) = speak(&key, attic.quic_address()).await;
                let (mut send, recv) = if tag == MESH {
                    (mesh_send, mesh_recv)
                } else {
                    let (mut send, recv) = connection.open_bi().await.expect("a link takes streams");
                    send.write_all(&[tag]).await.expect("it takes bytes");
                    (send, recv)
                };
                // Whatever becomes of it: refused, reset or closed.
                let _ = timeout(Duration::from_secs(5), send.write_all(bytes)).await;
                let _ = send.finish();
                let _ = timeout(Duration::from_millis(300), connection.closed()).await;
                connection.close(0_u32.into(), b"");
                drop(recv);
            });
            watch.fine_after(what);
        }
        // Datagrams, too.
        runtime.block_on(async {
            let (connection, _send, _recv) = speak(&key, attic.quic_address()).await;
            for chunk in noise.chunks(1000) {
                let _ = connection.send_datagram(chunk.to_vec().into());
            }
            let why = timeout(PATIENCE, connection.closed()).await.expect("closed after too much of it");
            assert!(matches!(why, quinn::ConnectionError::ApplicationClosed(_)), "{why:?}");
        });
        watch.fine_after("noise in datagrams");
    });
    assert!(items(&attic.get("calls").expect(200)).iter().all(call_is_over));
}

/// First byte of the mesh's own stream.
const MESH: u8 = 1;

/// Connects as a member and opens the mesh stream as far as the greetings: now it is the member's link.
async fn speak(key: &DeviceKey, at: SocketAddr) -> (quinn::Connection, SendStream, RecvStream) {
    try_speak(key, at).await.expect("a member is approved")
}

/// The same; nothing when it is refused.
async fn try_speak(key: &DeviceKey, at: SocketAddr) -> Option<(quinn::Connection, SendStream, RecvStream)> {
    let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a socket");
    let pkcs8 = PrivatePkcs8KeyDer::from(key.pkcs8_der().to_vec());
    let pair = rcgen::KeyPair::try_from(&pkcs8).expect("a key");
    let params = rcgen::CertificateParams::new(vec!["sigil".to_owned()]).expect("a plain name");
    let certificate: CertificateDer<'static> = params.self_signed(&pair).expect("a certificate").der().clone();
    let connection = endpoint
        .connect_with(client(vec![certificate], &pkcs8), at, "sigil")
        .expect("a handshake begins")
        .await
        .ok()?;
    let (mut send, mut recv) = connection.open_bi().await.ok()?;
    send.write_all(&[MESH]).await.ok()?;
    // Another process than any before it.
    send.write_all(&wall_ms().to_be_bytes()).await.ok()?;
    // The other's nonce.
    recv.read_exact(&mut [0; 8]).await.ok()?;
    Some((connection, send, recv))
}

/// A member's link without a program behind it: bytes go out as fast as the other end takes them, and nothing that it
/// says is looked at, streams that it opens for blobs included.
pub(crate) struct Flood {
    pub(crate) connection: quinn::Connection,
    send: SendStream,
    draining: tokio::task::JoinSet<()>,
}

impl Flood {
    /// The link of this key at an address; nothing when it is refused.
    pub(crate) async fn open(key: &DeviceKey, at: SocketAddr) -> Option<Self> {
        let (connection, send, mut recv) = try_speak(key, at).await?;
        let mut draining = tokio::task::JoinSet::new();
        draining.spawn(async move { while let Ok(Some(_)) = recv.read_chunk(1 << 20, false).await {} });
        Some(Self { connection, send, draining })
    }

    /// Sends a frame; false when the link is closed.
    pub(crate) async fn push(&mut self, frame: &Frame) -> bool {
        let bytes = encode_frame(frame).expect("a frame");
        let len = u32::try_from(bytes.len()).expect("small").to_be_bytes();
        self.send.write_all(&len).await.is_ok() && self.send.write_all(&bytes).await.is_ok()
    }

    /// Waits until the other end has got everything, at most so long, and closes the link.
    pub(crate) async fn close(mut self, within: Duration) {
        let _ = self.send.finish();
        let _ = timeout(within, self.send.stopped()).await;
        self.connection.close(0_u32.into(), b"");
        self.draining.abort_all();
    }
}

// --- what is not for it ---

#[test]
fn s03_a_shared_peer_gets_no_blob_that_only_calls_of_others_name() {
    let big = "cat >/dev/null; printf '\"'; yes secret | head -n 16000 | tr -d '\\n'; printf '\"'";
    let mesh = Mesh::of(vec![Home::new("attic").with_tool("big", big, "none"), Home::new("bureau")]);
    let (attic, bureau) = (&mesh.homes[0], &mesh.homes[1]);
    let runtime = runtime();
    let liar = Fellow::join(&runtime, attic, "liar", "shared");
    let friend = Fellow::join(&runtime, attic, "friend", "owner");
    let id = bureau.call("attic", "big", 60);
    assert_eq!(bureau.wait_confirmed(&id, PATIENCE)["state"], "done");
    let bytes = bureau.get(&format!("calls/{id}/result")).body;
    let (hash, len) = (Hash::of(&bytes), bytes.len() as u64);
    let fetch = |by: &Fellow<'_>| runtime.block_on(by.loose.links.fetch(peer(attic), hash, len));
    assert!(matches!(fetch(&liar), Err(FetchError::NotFound)));
    assert_eq!(fetch(&friend).expect("an owner may"), len);
}
