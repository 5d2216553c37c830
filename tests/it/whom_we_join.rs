//! Whom a device joins, whom it lets in, and what follows: welcomes that lie, check words, invites and tokens that are
//! taken back, and the guests of a device that is forgotten.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use mesh_core::audience::Audience;
use mesh_core::entry::{BodyCommitment, Entry, Kind, Salt, SignedEntry, encode};
use mesh_core::epoch::{Claim, Epoch, Fence};
use mesh_core::ids::{Hash, MeshId, PublicKey};
use mesh_core::io::{Now, Space, Welcome};
use mesh_core::record::{ChangeKind, MembershipChange, Tier};
use mesh_core::rows::Row as _;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;
use serde_json::{Value, json};
use sigil::mesh::invite::InviteCode;
use sigil::mesh::transport::{JoinAnswer, LinkEvent};

use crate::harness::{Home, PATIENCE, items, skip, text, wait_converged, wait_until};
use crate::hostile_peer::{Loose, runtime};

/// An owner that welcomes newcomers into a mesh of its own, and says there what a test wants said.
struct Inviter {
    loose: Loose,
    mesh: MeshId,
    genesis: SignedEntry,
}

impl Inviter {
    fn new() -> Self {
        let loose = Loose::new(([127, 0, 0, 1], 0).into());
        let (mut rng, now) = (ChaCha8Rng::seed_from_u64(1), Now { mono_ms: 0, wall_ms: 1_800_000_000_000 });
        let rows = mesh_core::peer::founded(&loose.key, "trap", &"trap".parse().expect("a name"), now, &mut rng);
        let genesis = rows.writes.iter().find(|write| write.space == Space::Trust);
        let genesis = genesis.and_then(|write| SignedEntry::from_bytes(write.value.as_ref()?)).expect("a genesis");
        Self { mesh: MeshId(genesis.hash.0), loose, genesis }
    }

    fn code(&self) -> String {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], self.loose.links.local_port()));
        let (inviter, expires_ms) = (self.loose.id(), u64::MAX >> 1);
        let (mesh, addresses) = (self.mesh, vec![address.into()]);
        InviteCode { mesh, inviter, secret: [7; 16], expires_ms, tier: Tier::Owner, addresses }.to_string()
    }

    #[expect(clippy::needless_pass_by_value, reason = "bodies are made where they are passed")]
    fn says(&self, seq: u64, kind: Kind, body: Vec<u8>) -> SignedEntry {
        let Entry { incarnation, hlc, .. } = self.genesis.entry;
        let previous = if seq == 2 { self.genesis.hash } else { Hash::ZERO };
        let author = self.loose.key.public_key();
        let (mesh, hlc, salt) = (self.mesh, hlc + seq, Salt([7; 16]));
        let entry = Entry {
            mesh,
            author,
            incarnation,
            seq,
            hlc,
            kind,
            critical: false,
            previous,
            audience: Audience::Everyone,
            body: BodyCommitment::of(salt, &body),
        };
        SignedEntry::sign(&self.loose.key, entry, salt, &body)
    }

    /// An honest welcome.
    fn welcome(&self, newcomer: PublicKey) -> Welcome {
        let what = ChangeKind::Approved {
            tier: Tier::Shared,
            node_id: "guest".parse().expect("a name"),
            after: vec![],
            unseen: false,
            stay: None,
            of: None,
        };
        let grant = self.genesis.hash;
        let change =
            MembershipChange { subject: newcomer, grant, stands: Vec::new(), rights: Vec::new(), fence: 0, what };
        let approval = self.says(2, Kind::MEMBERSHIP, encode(&change));
        let epoch = Epoch { counter: 3, class: 3, peer: self.loose.id() };
        Welcome {
            mesh: self.mesh,
            trust: vec![self.genesis.clone(), approval],
            directory: Vec::new(),
            rights: Vec::new(),
            fence: self.fence(epoch),
            node_id: "guest".parse().expect("a name"),
            tier: Tier::Shared,
        }
    }

    fn fence(&self, epoch: Epoch) -> Fence {
        Fence { epoch, proof: Some(Claim::sign(&self.loose.key, self.mesh, epoch, 1)) }
    }

    /// Welcomes the next newcomer like this, while `joins` runs.
    fn answer<T>(&mut self, change: impl FnOnce(&Self, &mut Welcome), joins: impl FnOnce() -> T + Send) -> T
    where
        T: Send,
    {
        std::thread::scope(|scope| {
            let joined = scope.spawn(joins);
            let attempt = loop {
                if let LinkEvent::JoinAttempt(attempt) = self.loose.events.blocking_recv().expect("the links live") {
                    break attempt;
                }
            };
            let mut welcome = self.welcome(attempt.key);
            change(self, &mut welcome);
            attempt.answers.blocking_send(JoinAnswer::Welcome(Box::new(welcome))).expect("it listens");
            joined.join().expect("it is answered")
        })
    }
}

/// Fault of a welcome.
type Lie = fn(&Inviter, &mut Welcome);

#[test]
fn s07_s23_a_welcome_that_lies_costs_nothing_and_bricks_nobody() {
    let runtime = runtime();
    let _guard = runtime.enter();
    let mut inviter = Inviter::new();
    let mut home = Home::new("bureau").started();
    let before = home.status();
    let own = text(&before, "mesh_id").to_owned();
    let lies: [(&str, Lie); 6] = [
        ("another mesh than the code's", |_, welcome| welcome.mesh = MeshId([9; 32])),
        ("no genesis", |_, welcome| drop(welcome.trust.remove(0))),
        ("no approval", |_, welcome| drop(welcome.trust.pop())),
        ("a fence that wraps", |inviter, welcome| {
            welcome.fence = inviter.fence(Epoch { counter: u64::MAX, ..welcome.fence.epoch });
        }),
        ("a fence of nobody", |_, welcome| welcome.fence.proof = None),
        ("a fence of another epoch", |_, welcome| welcome.fence.epoch.counter += 1),
    ];
    for (what, lie) in lies {
        let code = inviter.code();
        let refused = inviter.answer(lie, || home.join(&code).problem(403));
        assert_eq!(refused["code"], "join_rejected", "{what}: {refused}");
        assert!(text(&refused, "hint").contains("still where it was"), "{what}: {refused}");
        assert_eq!(home.status()["mesh_id"], own.as_str(), "{what}");
    }
    // The 998 bytes that bricked a device: a directory entry that does not decode. The rest is good, so it is in.
    let code = inviter.code();
    let odd = |inviter: &Inviter, welcome: &mut Welcome| {
        welcome.directory.push(inviter.says(3, Kind::DIRECTORY, b"\xff".repeat(900)));
    };
    let joined = inviter.answer(odd, || home.join(&code).expect(200));
    assert_eq!(
        (&joined["state"], &joined["node_id"], &joined["tier"]),
        (&json!("member"), &json!("guest"), &json!("shared"))
    );
    home.stop();
    home.start();
    assert_eq!(home.status()["mesh_id"], joined["mesh_id"]);
}

#[test]
fn s08_nobody_is_joined_by_address_before_a_person_has_compared_whom() {
    let (attic, bureau) = (Home::new("attic").started(), Home::new("bureau").started());
    let address = attic.quic_address().to_string();
    let unsure = bureau.cli(&["join", "--address", &address]);
    assert_eq!(unsure.code, 8, "{unsure:?}");
    assert!(unsure.stderr.contains(&attic.check_words()), "it says whom it would be: {unsure:?}");
    assert!(unsure.stderr.contains(&bureau.check_words()), "and what that one would see: {unsure:?}");
    let other = bureau.cli(&["join", "--address", &address, "--yes", &bureau.check_words()]);
    assert_eq!(other.code, 8, "{other:?}");
    assert!(items(&attic.get("pending").expect(200)).is_empty(), "nobody was asked");

    let words = attic.check_words().replace(' ', "-");
    let asked = bureau.cli(&["join", "--address", &address, "--yes", &words, "--json"]).json(0);
    assert_eq!(asked["state"], "pending");
    // The approving side shows the same words, and does not approve another than was compared.
    let pending = attic.cli(&["pending"]);
    assert!(pending.stdout.contains(&bureau.check_words()) && pending.stdout.contains("shared"), "{pending:?}");
    let wrong = attic.cli(&["approve", "bureau", "--yes", &attic.check_words()]);
    assert_eq!(wrong.code, 8, "{wrong:?}");
    let approved = attic.cli(&["approve", "bureau", "--yes", &bureau.check_words()]);
    assert_eq!(approved.code, 0, "{approved:?}");
    assert!(approved.stdout.contains("a shared device") && approved.stdout.contains("device.info"), "{approved:?}");
    wait_converged(&[&attic, &bureau], PATIENCE);
}

#[test]
fn s20_l02_a_code_is_read_from_a_pipe_listed_and_taken_back() {
    let (attic, bureau) = (Home::new("attic").started(), Home::new("bureau").started());
    let made = attic.cli(&["invite", "--tier", "shared"]);
    assert!(made.stderr.contains("a shared device"), "{made:?}");
    let id = text(&items(&attic.get("invites").expect(200))[0], "id").to_owned();
    let listed = attic.cli(&["invite", "--list"]);
    assert!(listed.stdout.contains(&id) && listed.stdout.contains("open"), "{listed:?}");
    assert!(!listed.stdout.contains(made.stdout.trim()), "the code itself is shown once");
    assert_eq!(attic.cli(&["invite", "--void", &id]).code, 0);
    let join = |code: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sigil"))
            .args(["join", "-", "--home"])
            .arg(bureau.path(""))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        child.stdin.take().expect("a pipe").write_all(code.as_bytes()).expect("it reads");
        child.wait_with_output().expect("it ends")
    };
    let void = join(&made.stdout);
    assert_eq!(void.status.code(), Some(7), "{void:?}");
    assert!(String::from_utf8_lossy(&void.stderr).contains("taken back"), "{void:?}");
    let good = join(&attic.invite());
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    assert!(String::from_utf8_lossy(&good.stdout).contains("an owner device"), "{good:?}");
    let used = attic.get("invites").expect(200);
    let used = items(&used).iter().find(|invite| text(invite, "state") == "used").expect("one let it in");
    assert_eq!(used["used_by"]["peer_id"], bureau.peer_id());
    // Without a terminal nobody can be asked for it.
    let asks = bureau.cli(&["join"]);
    assert_eq!(asks.code, 2, "{asks:?}");
    assert!(asks.stderr.contains("join -"), "{asks:?}");
}

#[test]
fn s20_a_code_is_asked_for_at_a_terminal_and_not_shown_there() {
    if Command::new("script").arg("--version").stdout(Stdio::null()).status().is_err() {
        return skip("s20_a_code_is_asked_for_at_a_terminal_and_not_shown_there", "there is no `script`");
    }
    let (attic, bureau) = (Home::new("attic").started(), Home::new("bureau").started());
    let line = format!("exec {} join --home {}", env!("CARGO_BIN_EXE_sigil"), bureau.path("").display());
    let mut terminal = Command::new("script")
        .args(["-q", "-c", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script runs");
    let mut screen = BufReader::new(terminal.stdout.take().expect("a pipe"));
    let mut shown = String::new();
    screen.read_line(&mut shown).expect("it asks");
    assert!(shown.contains("it is not shown"), "{shown}");
    // It has stopped the echo once it reads: what comes sooner is thrown away.
    std::thread::sleep(Duration::from_millis(300));
    let code = attic.invite();
    let mut typed = terminal.stdin.take().expect("a pipe");
    typed.write_all(format!("{code}\n").as_bytes()).expect("it reads");
    screen.read_to_string(&mut shown).expect("it ends");
    terminal.wait().expect("it ends");
    assert!(shown.contains("Joined as bureau") && !shown.contains("sigil1-"), "{shown}");
    // Nor does anything that people are told to type hold one: arguments are there for all to read.
    let told = [include_str!("../../README.md"), include_str!("../../SECURITY.md")];
    let shows = |text: &str| ["join sigil1-", "join CODE", "join <CODE"].iter().any(|form| text.contains(form));
    assert!(!told.iter().any(|text| shows(text)));
    let made = attic.cli(&["invite"]);
    assert!(made.stderr.contains("`sigil join` and paste"), "{made:?}");
}

#[test]
fn l18_both_ways_in_say_which_tier_they_give() {
    let (attic, bureau) = (Home::new("attic").started(), Home::new("bureau").started());
    let asked = bureau.ask_to_join(&attic);
    assert_eq!(asked.status, 202, "{}", asked.text());
    let pending = attic.cli(&["pending"]);
    assert!(pending.stdout.contains("shared"), "{pending:?}");
    let approved = attic.cli(&["approve", "bureau", "--yes", &bureau.check_words()]);
    assert!(approved.stdout.contains("a shared device") && approved.stdout.contains("`--tier owner`"), "{approved:?}");
    let made = attic.cli(&["invite"]);
    assert!(made.stderr.contains("an owner device") && made.stderr.contains("`--tier shared`"), "{made:?}");
    assert!(made.stderr.contains("every tool") && made.stderr.contains("let devices in"), "{made:?}");
    for (command, tier) in [("invite", "owner"), ("approve", "shared")] {
        let help = attic.cli(&[command, "--help"]).stdout;
        assert!(help.contains(&format!("[default: {tier}]")) || help.contains(&format!("default: {tier}")), "{help}");
    }
}

#[test]
fn s02_forgetting_names_the_guests_and_takes_them_along_when_told_to() {
    let (house, boss) = (Home::new("house").started(), Home::new("boss").started());
    let (thief, friend) = (Home::new("thief").started(), Home::new("friend").started());
    for (newcomer, host) in [(&boss, &house), (&thief, &boss), (&friend, &house)] {
        newcomer.join(&host.invite()).expect(200);
        wait_until("it shows", PATIENCE, || house.node_state(&newcomer.name).is_some());
    }
    let nodes = house.cli(&["nodes"]);
    assert!(nodes.stdout.contains("LET IN BY"), "{nodes:?}");
    assert_eq!(house.get("nodes/thief").expect(200)["approved_by"]["node_id"], "boss");
    // Without a terminal nobody is asked: the guests stay, and that is said.
    let forgot = house.cli(&["forget", "boss"]);
    assert_eq!(forgot.code, 0, "{forgot:?}");
    assert!(forgot.stdout.contains("members still: thief"), "{forgot:?}");
    assert_eq!(house.get("nodes/thief").expect(200)["approved_by"]["peer_id"], boss.peer_id());
    let list: Vec<Value> = house.nodes();
    assert_eq!(list.len(), 3, "{list:?}");

    // Once more with everyone: a guest of a guest goes too, whoever else let somebody in stays.
    thief.post("invites", &json!({})).expect(201);
    let gone = house.cli(&["forget", "thief", "--with-their-guests", "--json"]).json(0);
    assert_eq!(gone["guests_forgotten"], json!([]));
    wait_until("the thief is out", Duration::from_secs(10), || house.nodes().len() == 2);
    assert!(house.node_state("friend").is_some());
}

#[test]
fn s28_a_read_only_token_reads_and_no_token_joins_or_leaves_or_makes_an_owner() {
    let home = Home::new("attic").started();
    let token = |arguments: &[&str]| {
        let made = home.cli(&[&["token", "--json"], arguments].concat()).json(0);
        (text(&made, "token").to_owned(), text(&made, "id").to_owned())
    };
    let ((reads, id), (full, _)) = (token(&["--name", "panel", "--read-only", "--expires", "90d"]), token(&[]));
    let host = format!("127.0.0.1:{}", home.http_port);
    let ask = |method: &str, path: &str, token: &str| {
        let bearer = format!("Bearer {token}");
        home.ask_http(&host, method, &format!("/api/v1/{path}"), &[("authorization", &bearer)]).status
    };
    assert_eq!([ask("GET", "status", &reads), ask("GET", "status", &full)], [200, 200]);
    // Without a word about the tier an invite makes an owner.
    for path in ["invites", "join", "leave"] {
        assert_eq!([ask("POST", path, &reads), ask("POST", path, &full)], [403, 403], "{path}");
    }
    let list = home.cli(&["token", "--list"]);
    assert!(list.stdout.contains("panel") && list.stdout.contains("reads") && list.stdout.contains("ago"), "{list:?}");
    assert_eq!(home.cli(&["token", "--revoke", &id]).code, 0);
    assert_eq!([ask("GET", "status", &reads), ask("GET", "status", &full)], [401, 200]);
}
