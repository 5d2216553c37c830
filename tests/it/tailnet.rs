//! Links over a tailnet: the real tailscaled in three networks of their own, and a control server of the tests
//! (`tests/tailnet/`). The directory with the three programs is in `SIGIL_TEST_TAILNET`; `./test` builds them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Cli, Home, PATIENCE, items, now, observe, skip, text, wait_converged, wait_for, wait_until};
use crate::netns::Network;

/// Peers on the tailnet; control is one more of their network.
pub(crate) const PEERS: usize = 3;
pub(crate) const NAMES: [&str; PEERS] = ["attic", "bureau", "cellar"];
pub(crate) const CONTROL: &str = "10.77.0.4";
pub(crate) const PORT: &str = "8500";

/// The programs; the reason where they are not there.
fn programs() -> Result<PathBuf, String> {
    let dir = std::env::var_os("SIGIL_TEST_TAILNET").map(PathBuf::from).unwrap_or_default();
    let missing = ["tailscaled", "tailscale", "tailnet-control"].into_iter().find(|name| !dir.join(name).exists());
    match missing {
        Some(name) => Err(format!("{name} is not in SIGIL_TEST_TAILNET; ./test builds it where it can have Go")),
        None if !std::path::Path::new("/dev/net/tun").exists() => Err("there is no /dev/net/tun".to_owned()),
        None if quiet(&mut Command::new("iptables")).status().is_err() => Err("iptables is missing".to_owned()),
        None => Ok(dir),
    }
}

/// A process that ends with the test.
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The control server, which does what it is told.
pub(crate) struct Control {
    lines: ChildStdin,
    answers: BufReader<ChildStdout>,
    _process: Running,
}

impl Control {
    #[track_caller]
    fn new(mut command: Command) -> Self {
        command.args(["--address", CONTROL, "--port", PORT]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("control starts");
        let (lines, answers) = (process.stdin.take().expect("its input"), process.stdout.take().expect("its output"));
        let mut control = Self { lines, answers: BufReader::new(answers), _process: Running(process) };
        assert_eq!(control.answer(), "ready");
        control
    }

    #[track_caller]
    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.lines, "{line}").expect("control runs");
        assert_eq!(self.answer(), "ok", "{line}");
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("control answers");
        line.trim().to_owned()
    }
}

/// A tailnet: its control server, and a tailscaled for each of the peers that have one.
pub(crate) struct Tailnet {
    // Ended first.
    daemons: Vec<Option<Running>>,
    pub(crate) control: Control,
    pub(crate) network: Network,
    /// Auth key that control asks for.
    key: Option<String>,
    programs: PathBuf,
    dir: tempfile::TempDir,
}

impl Tailnet {
    fn new() -> Result<Self, String> {
        Self::with(PEERS, None)
    }

    /// One in which the first so many peers have a tailscaled, and whose nodes need this auth key, which makes them
    /// `tag:agent-node`.
    pub(crate) fn with(hosts: usize, key: Option<&str>) -> Result<Self, String> {
        let programs = programs()?;
        let network = Network::new(PEERS + 1)?;
        let dir = tempfile::Builder::new().prefix("sgl").tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("resolv.conf"), "").expect("a file is written");
        let program = programs.join("tailnet-control").display().to_string();
        let mut command = within(&network, PEERS, &[&program]);
        command.args(key.iter().flat_map(|key| ["--auth-key", key, "--auth-tags", "tag:agent-node"]));
        let control = Control::new(command);
        let key = key.map(ToOwned::to_owned);
        let daemons = (0..PEERS).map(|_| None).collect();
        let mut tailnet = Self { daemons, control, network, key, programs, dir };
        tailnet.up(0..hosts);
        Ok(tailnet)
    }

    /// Starts a tailscaled for each of these peers, and logs it in.
    #[track_caller]
    pub(crate) fn up(&mut self, peers: std::ops::Range<usize>) {
        for peer in peers.clone() {
            self.start(peer);
        }
        let logins: Vec<Running> = peers.map(|peer| self.login(peer)).collect();
        for mut login in logins {
            let ended = wait_for("tailscale is up", PATIENCE, || login.0.try_wait().expect("its end is known"));
            assert!(ended.success(), "`tailscale up` ended with {ended}");
        }
    }

    pub(crate) fn socket(&self, peer: usize) -> String {
        self.dir.path().join(format!("{peer}.sock")).display().to_string()
    }

    pub(crate) fn start(&mut self, peer: usize) {
        let inside = |name: &str| self.dir.path().join(name).display().to_string();
        let (state, socket) = (inside(&peer.to_string()), self.socket(peer));
        // Whatever it does to the names of hosts, it does to a file of its own.
        let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        let program = self.programs.join("tailscaled").display().to_string();
        let words = ["sh", "-c", script, &inside("resolv.conf"), &program];
        let mut command = within(&self.network, peer, &words);
        command.args(["--statedir", &state, "--socket", &socket, "--no-logs-no-support"]);
        self.daemons[peer] = Some(Running(quiet(&mut command).spawn().expect("tailscaled starts")));
        wait_until("tailscaled listens", PATIENCE, || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    }

    pub(crate) fn stop(&mut self, peer: usize) {
        self.daemons[peer] = None;
    }

    /// `tailscale up`.
    fn login(&self, peer: usize) -> Running {
        let program = self.programs.join("tailscale").display().to_string();
        let server = format!("http://{CONTROL}:{PORT}");
        let mut command = within(&self.network, peer, &[&program, "--socket", &self.socket(peer)]);
        command.args(["up", "--timeout", "25s", "--accept-dns=false", "--login-server", &server]);
        command.args(["--hostname", NAMES[peer]]);
        command.args(self.key.iter().flat_map(|key| ["--auth-key", key]));
        Running(quiet(&mut command).spawn().expect("tailscale starts"))
    }

    /// A home in the network of a peer, with the tailnet, without LAN discovery, and with more settings.
    pub(crate) fn home(&self, peer: usize, settings: &str) -> Home {
        let config = format!("[tailnet]\nmode = \"host\"\nsocket = \"{}\"\n{settings}", self.socket(peer));
        Home::new(NAMES[peer]).with_config(&config).in_namespace(&self.network.namespace(peer))
    }

    /// Lets no packets of sigil through to this home but those of the tailnet.
    #[track_caller]
    pub(crate) fn cut_direct(&self, peer: usize, home: &Home) {
        let port = home.quic_address().port().to_string();
        let words = ["iptables", "-w", "-A", "INPUT", "-i", "eth0", "-p", "udp", "--dport", &port, "-j", "DROP"];
        let cut = within(&self.network, peer, &words).status().expect("iptables runs");
        assert!(cut.success(), "{cut}");
    }
}

fn within(network: &Network, peer: usize, words: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &network.namespace(peer)]).args(words);
    command
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

/// Finding of `sigil doctor` about the tailnet, with its next step.
pub(crate) fn told(home: &Home) -> (String, String) {
    let doctor = home.get("doctor").expect(200);
    let checks = doctor["checks"].as_array().expect("checks");
    let check = checks.iter().find(|check| text(check, "id") == "tailnet").expect("one about the tailnet");
    (text(check, "cause").to_owned(), text(check, "fix").to_owned())
}

/// Finds another without being given an address, and asks it to let this home in.
#[track_caller]
pub(crate) fn ask_to_join(home: &Home, at: &Home) -> Cli {
    let id = at.peer_id();
    let seen = wait_for("the other is found", Duration::from_mins(1), || {
        let nearby = home.get("nearby").expect(200);
        items(&nearby).iter().find(|nearby| text(nearby, "peer_id") == id).cloned()
    });
    assert!(seen["addresses"].to_string().contains("tailnet://100."), "{seen}");
    assert_eq!(text(&seen, "name"), at.name, "{seen}");
    home.cli(&["join", "--nearby", &at.name, "--json", "--yes", &at.check_words()])
}

/// What waits at a home about another that asks.
fn pending(at: &Home, other: &Home) -> Option<Value> {
    let id = other.peer_id();
    items(&at.get("pending").expect(200)).iter().find(|pending| text(pending, "peer_id") == id).cloned()
}

/// How this home is linked to another; empty if it is not.
pub(crate) fn via(home: &Home, other: &Home) -> String {
    let status = home.status();
    let links = status["links"].as_array().expect("links");
    let link = links.iter().find(|link| text(link, "node_id") == other.name);
    link.map(|link| text(link, "via").to_owned()).unwrap_or_default()
}

/// How often links of this home went down.
pub(crate) fn links_down(home: &Home) -> usize {
    home.log().matches("link down").count()
}

/// Runs a tool of `to` once, and returns how long that took.
#[track_caller]
pub(crate) fn run_once(from: &Home, to: &Home) -> Duration {
    let began = now();
    let id = from.call(&to.name, "append", 60);
    let call = from.wait_ended(&id, PATIENCE);
    assert_eq!(text(&call, "state"), "done", "{call}");
    assert_eq!(to.runs_of(&id), [1], "{call}");
    began.elapsed()
}

#[test]
fn t3_three_devices_on_a_tailnet_find_each_other_link_elect_and_heal() {
    let began = now();
    let mut tailnet = match Tailnet::new() {
        Ok(tailnet) => tailnet,
        Err(why) => return skip("t3_three_devices_on_a_tailnet_find_each_other_link_elect_and_heal", &why),
    };
    println!("tailnet of {PEERS} is up after {:.1?}", began.elapsed());
    let homes = [0, 1, 2].map(|peer| tailnet.home(peer, ""));
    for (peer, home) in homes.iter().enumerate() {
        tailnet.cut_direct(peer, home);
    }
    let [attic, bureau, cellar] = homes;

    let began = now();
    let attic = attic.started();
    let join = |home: Home| {
        let home = home.started();
        assert!(ask_to_join(&home, &attic).stdout.contains("pending"));
        wait_until("its join request is at the founder", PATIENCE, || pending(&attic, &home).is_some());
        assert_eq!(attic.cli(&["approve", &home.name, "--tier", "owner", "--json"]).code, 0);
        home
    };
    let (bureau, cellar) = (join(bureau), join(cellar));
    let all = [&attic, &bureau, &cellar];
    wait_converged(&all, PATIENCE);
    wait_until("the two that joined are linked", PATIENCE, || via(&bureau, &cellar) == "tailnet");
    let call = run_once(&bureau, &cellar);
    println!("first call {:.1?} after the start of the first agent; it took {call:.1?}", began.elapsed());
    for home in all {
        let mut others = all.iter().filter(|other| other.name != home.name);
        assert!(others.all(|other| via(home, other) == "tailnet"), "{}", home.status()["links"]);
        let (cause, fix) = told(home);
        assert!(cause.contains("on the tailnet as") && fix.is_empty(), "{cause} {fix}");
    }

    // Control and its relay are away for a while: nobody notices.
    let downs = || all.map(links_down);
    let before = downs();
    tailnet.control.tell("outage 3s");
    let began = now();
    while began.elapsed() < Duration::from_secs(4) {
        run_once(&cellar, &bureau);
    }
    assert_eq!(downs(), before);

    // tailscaled dies: that is told, a call waits, and is done once it is back.
    let began = now();
    tailnet.stop(2);
    wait_until("it is told", PATIENCE, || told(&cellar).0.contains("no tailscaled runs"));
    println!("a dead tailscaled is told after {:.1?}", began.elapsed());
    wait_until("the link is down", PATIENCE, || via(&attic, &cellar).is_empty());
    let waits = attic.call("cellar", "append", 120);
    let began = now();
    tailnet.start(2);
    wait_converged(&all, Duration::from_mins(1));
    println!("linked {:.1?} after tailscaled is back", began.elapsed());
    assert_eq!(text(&attic.wait_ended(&waits, PATIENCE), "state"), "done");
    assert_eq!(cellar.runs_of(&waits), [1]);

    // Started anew at once, as by an update, it has another interface.
    let opened = |home: &Home| home.log().matches("tailnet: open at").count();
    let (began, before) = (now(), opened(&attic));
    tailnet.stop(0);
    tailnet.start(0);
    wait_until("its underlay is opened anew", PATIENCE, || opened(&attic) > before);
    wait_until("the founder is linked again", Duration::from_mins(1), || {
        [&bureau, &cellar].iter().all(|home| via(home, &attic) == "tailnet" && via(&attic, home) == "tailnet")
    });
    wait_converged(&all, PATIENCE);
    println!("linked {:.1?} after a new start of tailscaled", began.elapsed());
    run_once(&cellar, &attic);

    // The key of a device ends, and is made longer: it is told what it is, and links again.
    tailnet.control.tell("expires bureau 72h");
    wait_until("the end is told ahead", PATIENCE, || told(&bureau).0.contains("its key expires in"));
    assert!(told(&bureau).1.contains("--force-reauth"));
    let began = now();
    tailnet.control.tell("expires bureau -1m");
    wait_until("the end is told", PATIENCE, || told(&bureau).0.contains("has expired"));
    println!("an ended key is told after {:.1?}", began.elapsed());
    wait_until("it is linked no more", PATIENCE, || via(&attic, &bureau).is_empty());
    let began = now();
    tailnet.control.tell("expires bureau 2400h");
    wait_converged(&all, Duration::from_mins(1));
    println!("linked {:.1?} after the key is good again", began.elapsed());
    run_once(&attic, &bureau);
}

/// A request over the tailnet, from the network of a peer: status and body of its answer. `head`: more lines of headers.
#[track_caller]
fn web(tailnet: &Tailnet, from: usize, at: &str, method: &str, path: &str, head: &[&str], body: &str) -> (u16, String) {
    let mut request = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    let (host, json) = (format!("host: {at}"), "content-type: application/json");
    let named = head.iter().any(|line| line.starts_with("host:"));
    let more = [(!named).then_some(host.as_str()), (!body.is_empty()).then_some(json)];
    for line in head.iter().copied().chain(more.into_iter().flatten()) {
        request.extend([line, "\r\n"]);
    }
    let request = format!("{request}\r\n{body}");
    let (ip, port) = at.rsplit_once(':').expect("an address and a port");
    let script = "exec 3<>\"/dev/tcp/$0/$1\" && printf %s \"$2\" >&3 && cat <&3";
    let words = ["timeout", "10", "bash", "-c", script, ip, port, &request];
    let answered = within(&tailnet.network, from, &words).stdin(Stdio::null()).output().expect("bash runs");
    let answer = String::from_utf8(answered.stdout).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, body.to_owned())
}

/// The door of `attic` on the tailnet: who comes in over it is who has the login of the node at the other end.
#[track_caller]
fn door_for_logins(tailnet: &Tailnet, attic: &Home, login: &str) {
    let url = wait_for("the door on the tailnet is open", PATIENCE, || {
        let url = text(&attic.status()["endpoints"], "tailnet").to_owned();
        (!url.is_empty()).then_some(url)
    });
    let addresses = attic.status()["endpoints"]["quic"].to_string();
    let ip = addresses.split("tailnet://").nth(1).and_then(|rest| rest.split(':').next()).expect("its address");
    let at = format!("{ip}:{}", url.rsplit(':').next().expect("a port"));
    let (bureau, cellar) = (1, 2);
    let get = |from, path: &str| web(tailnet, from, &at, "GET", path, &[], "");
    let is = |answer: (u16, String), status: u16, says: &str| {
        assert!(answer.0 == status && answer.1.contains(says), "{answer:?} is not {status} {says}");
    };
    assert_eq!(get(cellar, "/healthz").0, 200);
    is(get(cellar, "/api/v1/nodes"), 403, &format!("nobody here has the login `{login}`"));
    is(get(bureau, "/api/v1/nodes"), 403, "has tags, and so no user");
    assert_eq!(
        web(tailnet, 0, &at, "GET", "/api/v1/nodes", &["host: evil.example"], "").0,
        0,
        "not from this machine itself"
    );

    assert_eq!(attic.cli(&["person", "add", "mia", "--json"]).code, 0);
    assert_eq!(attic.cli(&["person", "login", "mia", &login.to_uppercase(), "--json"]).code, 0);
    is(get(cellar, "/api/v1/nodes"), 200, "bureau");
    is(get(cellar, "/api/v1/doctor"), 403, "this login shows");
    is(web(tailnet, cellar, &at, "GET", "/api/v1/nodes", &["host: evil.example:80"], ""), 421, "wrong_host");
    let body = r#"{"node":"attic","tool":"append","arguments":{},"ttl_s":60}"#;
    let post = |head: &[&str]| web(tailnet, cellar, &at, "POST", "/api/v1/calls", head, body);
    is(post(&["origin: http://evil.example"]), 403, "cross_origin");
    let host = format!("host: {}", url.trim_start_matches("http://"));
    let (status, answer) = post(&[&host]);
    assert_eq!(status, 202, "{answer}");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    let id = text(&answer, "id");
    assert_eq!(text(&attic.wait_ended(id, PATIENCE), "state"), "done");
    assert_eq!(attic.runs_of(id), [1]);
    // She sees her own calls, and nobody else's.
    let others = attic.call("attic", "append", 60);
    attic.wait_ended(&others, PATIENCE);
    let (status, calls) = get(cellar, "/api/v1/calls");
    assert!(status == 200 && calls.contains(id) && !calls.contains(&others), "{calls}");
    // By this door nobody answers for a person, and nobody's rights are edited.
    is(web(tailnet, cellar, &at, "PUT", "/api/v1/people/kai", &[], r#"{"role":"owner"}"#), 403, "denied");

    assert_eq!(attic.cli(&["person", "login", "mia", login, "--remove", "--json"]).code, 0);
    is(get(cellar, "/api/v1/nodes"), 403, "nobody here has the login");
}

/// The reason for which a call is refused, or does not end as done; `None`: it does. One that is accepted in the moment before the
/// tag is lost waits, and its time is short.
#[track_caller]
fn refusal(from: &Home, to: &Home) -> Option<String> {
    match from.try_call(&to.name, "append", 3) {
        Err(refused) => Some(refused.text()),
        Ok(id) => {
            let call = from.wait_ended(&id, PATIENCE);
            (text(&call, "state") != "done").then(|| call.to_string())
        }
    }
}

#[test]
fn seed_t4_a_tag_lets_in_a_lost_one_refuses_or_holds_calls_and_a_person_needs_none() {
    let name = "seed_t4_a_tag_lets_in_a_lost_one_refuses_or_holds_calls_and_a_person_needs_none";
    let mut tailnet = match Tailnet::new() {
        Ok(tailnet) => tailnet,
        Err(why) => return skip(name, &why),
    };
    tailnet.control.tell("tags bureau tag:agent-node tag:other");
    let attic = tailnet.home(0, "required_tag = \"tag:agent-node\"\ntier = \"owner\"\ndoor = true\n").started();

    // The tag lets in, and nobody is asked.
    let mut bureau = tailnet.home(1, "").started();
    let began = now();
    let joined = ask_to_join(&bureau, &attic);
    assert_eq!(text(&joined.json(0), "state"), "member");
    println!("let in by its tag after {:.1?}", began.elapsed());
    wait_converged(&[&attic, &bureau], PATIENCE);
    assert!(attic.nodes().iter().any(|node| text(node, "node_id") == "bureau" && text(node, "tier") == "owner"));

    // What a sleeping device was asked outlasts a key that ends meanwhile.
    bureau.stop();
    let asked = attic.call("bureau", "append", 300);
    tailnet.control.tell("expires bureau -1m");
    wait_until("it is known", Duration::from_mins(1), || {
        refusal(&attic, &bureau).is_some_and(|why| why.contains("tailnet:key-expired"))
    });
    bureau.start();
    let waits = wait_for("the reason is told", Duration::from_mins(1), || {
        let call = attic.get(&format!("calls/{asked}")).expect(200);
        text(&call, "why").contains("the key of its node of the tailnet has expired").then_some(call)
    });
    assert_eq!(text(&waits, "state"), "queued", "{waits}");
    tailnet.control.tell("expires bureau 2400h");
    assert_eq!(text(&attic.wait_ended(&asked, Duration::from_mins(1)), "state"), "done");
    assert_eq!(bureau.runs_of(&asked), [1]);

    // One without it waits, with its name and user; approved by hand it belongs.
    let cellar = tailnet.home(2, "").started();
    assert!(ask_to_join(&cellar, &attic).stdout.contains("pending"));
    let waits = wait_for("its join request is at the founder", PATIENCE, || pending(&attic, &cellar));
    assert_eq!(text(&waits["tailnet"], "name"), "cellar", "{waits}");
    let login = text(&waits["tailnet"], "login").to_owned();
    assert!(login.contains('@') && text(&waits, "why").contains(&login), "{waits}");
    assert!(text(&waits, "why").contains("without `tag:agent-node`"), "{waits}");
    assert_eq!(cellar.nodes().len(), 1, "it sees nothing of the mesh");
    assert_eq!(attic.nodes().len(), 3, "two, and one that waits");
    assert_eq!(attic.cli(&["approve", "cellar", "--tier", "owner", "--json"]).code, 0);
    let all = [&attic, &bureau, &cellar];
    wait_converged(&all, PATIENCE);
    let pairs = || all.iter().flat_map(|from| all.iter().map(move |to| (*from, *to))).filter(|(a, b)| a.name != b.name);
    let run_all = || {
        for (from, to) in pairs() {
            run_once(from, to);
        }
    };
    wait_until("all are linked directly", Duration::from_mins(1), || pairs().all(|(a, b)| via(a, b) == "direct"));
    run_all();
    let before = all.map(links_down);
    door_for_logins(&tailnet, &attic, &login);

    // The tag goes: no call from or to that device, at each of the three; links stay.
    let began = now();
    tailnet.control.tell("tags bureau tag:other");
    let is_of_bureau = |a: &Home, b: &Home| a.name == "bureau" || b.name == "bureau";
    wait_until("every call of it is refused", Duration::from_mins(1), || {
        let mut pairs = pairs().filter(|(a, b)| is_of_bureau(a, b));
        pairs.all(|(from, to)| refusal(from, to).is_some_and(|why| why.contains("tailnet:tag-lost")))
    });
    println!("a lost tag refuses calls after {:.1?}", began.elapsed());
    run_once(&attic, &cellar);
    run_once(&cellar, &attic);
    let told = attic.status()["warnings"].to_string();
    assert!(
        told.contains("`bureau` was let in for `tag:agent-node`") && told.contains("sigil approve bureau"),
        "{told}"
    );

    // It comes back, and ends with the key.
    tailnet.control.tell("tags bureau tag:agent-node");
    wait_until("calls go again", Duration::from_mins(1), || pairs().all(|(from, to)| refusal(from, to).is_none()));
    tailnet.control.tell("expires bureau -1m");
    wait_until("a key that has ended is the reason", Duration::from_mins(1), || {
        refusal(&attic, &bureau).is_some_and(|why| why.contains("tailnet:key-expired"))
    });
    tailnet.control.tell("expires bureau 2400h");
    wait_until("calls go again", Duration::from_mins(1), || pairs().all(|(from, to)| refusal(from, to).is_none()));

    // Approved by hand, it needs no tag.
    assert_eq!(attic.cli(&["approve", "bureau", "--tier", "owner", "--json"]).code, 0);
    wait_until("all know it", PATIENCE, || {
        all.iter().all(|home| home.get("nodes/bureau").expect(200)["let_in_for"].is_null())
    });
    tailnet.control.tell("tags bureau");
    observe(Duration::from_secs(8), run_all);

    // And links beside the tailnet never notice that tailscaled is gone.
    tailnet.stop(0);
    wait_until("it is told", PATIENCE, || self::told(&attic).0.contains("no tailscaled runs"));
    run_all();
    assert_eq!(all.map(links_down), before);
}
