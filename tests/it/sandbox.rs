//! What a hostile tool tries in the sandbox of the process tier, at the levels `confined` and `isolated`, as root and as an
//! ordinary user. `tests/sandbox/attack.py` is the tool; whether it got through is counted by what it has done, and asked of
//! it as well. The numbers of its rows are those of the table of escapes in the design.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use nix::unistd::geteuid;
use serde_json::json;
use sigil::runtime::egress::{Pass, Proxy};
use sigil::runtime::outcome::{RunEnd, RunOutcome};
use sigil::runtime::process::{Launcher, Spec, WayOut, run};
use sigil::runtime::sandbox::{Gap, Level, Limits, Network, Offered, Sandbox};
use sigil::runtime::spool::{BlobSink, BlobSinks, OutputLimits, Spool};
use sigil::tasks::TaskGroup;
use tokio_util::sync::CancellationToken;

use crate::harness::{SOON, now, skip, wait_until};

/// Where the one who is attacked has its things, in a process of its own.
const HERE: &str = "SIGIL_TEST_SANDBOX";
/// Python of the system: what is below a home is out of reach of a tool.
const PYTHON: &str = "/usr/bin/python3";
/// An ordinary user, whom no machine knows.
const USER: u32 = 61500;
/// A value that nothing but the tool may ever see.
const SECRET: &str = "hunter2-of-the-sandbox";

/// These tools say little.
pub(crate) struct NoBlobs;

impl BlobSinks for NoBlobs {
    fn create(&self) -> BoxFuture<'_, std::io::Result<Box<dyn BlobSink>>> {
        Box::pin(async { Err(std::io::ErrorKind::Unsupported.into()) })
    }
}

/// Runs the test `sandbox::inside` in a process of its own, as a user.
fn as_user(uid: u32) {
    let dir = tempfile::Builder::new().prefix("sigil-sandbox-").permissions(Permissions::from_mode(0o755)).tempdir();
    let dir = dir.unwrap();
    let people = dir.path().join("people");
    fs::create_dir(&people).unwrap();
    if geteuid().is_root() {
        // A setuid program of root, which is what it would have to be to harm.
        let setuid = dir.path().join("id");
        fs::copy("/usr/bin/id", &setuid).unwrap();
        fs::set_permissions(&setuid, Permissions::from_mode(0o4755)).unwrap();
        nix::unistd::chown(&people, Some(uid.into()), Some(uid.into())).unwrap();
        nix::unistd::chown(dir.path(), Some(uid.into()), Some(uid.into())).unwrap();
    }
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sandbox/attack.py"), dir.path().join("attack.py")).unwrap();
    // This program by a descriptor: the user cannot get to where it is.
    let program = File::open(std::env::current_exe().unwrap()).unwrap();
    let mut command = Command::new("setpriv");
    if geteuid().is_root() && uid != 0 {
        let uid = uid.to_string();
        command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups"]);
    }
    let output = command
        .args(["/proc/self/fd/0", "--exact", "sandbox::inside", "--nocapture"])
        .env(HERE, dir.path())
        .env("HOME", &people)
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
        .env("SIGIL_TEST_INHERITED", SECRET)
        .current_dir("/")
        .stdin(Stdio::from(program))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "as user {uid}:\n{said}");
    for line in said.lines().filter(|line| line.starts_with("# ")) {
        eprintln!("user {uid}: {line}");
    }
    assert!(said.contains("# all of it was tried"), "as user {uid}:\n{said}");
    if let Some(left) = said.lines().find_map(|line| line.strip_prefix("# cannot: ")) {
        skip("sandbox", &format!("as user {uid}: {left}"));
    }
}

#[test]
fn a_hostile_tool_reaches_nothing_as_root_and_as_a_user() {
    if !Path::new(PYTHON).exists() {
        return skip("sandbox", "the hostile tool is written in Python, and there is no /usr/bin/python3");
    }
    if geteuid().is_root() {
        as_user(0);
        as_user(USER);
    } else {
        as_user(geteuid().as_raw());
    }
}

/// All that there is to attack.
struct Prey {
    here: PathBuf,
    home: PathBuf,
    launcher: Launcher,
    victim: Child,
    tcp: TcpListener,
    udp: UdpSocket,
    sockets: Vec<UnixListener>,
    datagrams: UnixDatagram,
    abstracts: UnixListener,
    abstract_name: String,
}

impl Prey {
    fn new(here: &Path) -> Self {
        let home = here.join("people/.sigil");
        fs::DirBuilder::new().mode(0o700).create(&home).unwrap();
        let private = |path: PathBuf| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, SECRET).unwrap();
        };
        private(home.join("identity.key"));
        private(home.join("secrets/photo-key"));
        private(here.join("people/.ssh/id_ed25519"));
        private(here.join("people/.bashrc"));
        private(here.join("plugin/tool.py"));
        let launcher = Launcher::start(home.join("work"), None, &TaskGroup::default()).unwrap();
        let sockets = [home.join("sigil.sock"), here.join("docker.sock")].map(|path| {
            let socket = UnixListener::bind(&path).unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
            socket
        });
        let datagrams = UnixDatagram::bind(here.join("log")).unwrap();
        fs::set_permissions(here.join("log"), Permissions::from_mode(0o777)).unwrap();
        let abstract_name = format!("sigil-test-{}", std::process::id());
        let abstracts = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&abstract_name).unwrap()).unwrap();
        let tcp = TcpListener::bind(("0.0.0.0", 0)).unwrap();
        let udp = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
        for unblocked in sockets.iter().chain([&abstracts]).map(|socket| socket.set_nonblocking(true)) {
            unblocked.unwrap();
        }
        tcp.set_nonblocking(true).unwrap();
        udp.set_nonblocking(true).unwrap();
        datagrams.set_nonblocking(true).unwrap();
        let victim = Command::new("sleep").arg("1000").spawn().unwrap();
        Self {
            here: here.to_owned(),
            home,
            launcher,
            victim,
            tcp,
            udp,
            sockets: sockets.into(),
            datagrams,
            abstracts,
            abstract_name,
        }
    }

    async fn offered(&self) -> Offered {
        self.launcher.offered().wait_for(Option::is_some).await.unwrap().as_deref().unwrap().clone()
    }

    fn sandbox(&self, level: Level) -> Sandbox {
        let best = Sandbox::best(level);
        let limits = Limits { memory: Some(256 << 20), processes: Some(64), ..best.limits };
        let read = vec![self.here.join("attack.py"), self.here.join("plugin"), self.here.join("id")];
        Sandbox { wanted: level, read, limits, ..best }
    }

    async fn run(&self, sandbox: Sandbox, command: &[&str], stdin: String, limit: u64) -> (RunOutcome, String) {
        self.run_until(sandbox, command, stdin, limit, &CancellationToken::new()).await
    }

    async fn run_until(
        &self,
        sandbox: Sandbox,
        command: &[&str],
        stdin: String,
        limit: u64,
        cancel: &CancellationToken,
    ) -> (RunOutcome, String) {
        let spec = Spec {
            command: command[0].into(),
            args: command[1..].iter().map(|&arg| arg.to_owned()).collect(),
            env: BTreeMap::from([("GIVEN".to_owned(), SECRET.to_owned())]),
            cwd: None,
            keep_running: false,
        };
        let mut spool = Spool::new(&NoBlobs, OutputLimits { inline: 1 << 20, total: limit });
        // Nothing is named that it may reach.
        let (proxy, _told) = Proxy::start(&TaskGroup::default());
        let way_out = (sandbox.network == Network::Restricted).then(|| WayOut { proxy, pass: Pass::default() });
        let launch = self.launcher.launch_out(spec, sandbox, way_out);
        let time = Duration::from_mins(1);
        let outcome = run(launch, time, Bytes::from(stdin), cancel, &mut spool, |_| ()).await;
        let output = match spool.finish().await {
            Ok(output) => format!("{output:?}"),
            Err(why) => why.to_string(),
        };
        (outcome, output)
    }

    /// Runs the hostile tool. What got through is returned, one line each.
    async fn attack(&mut self, level: Level, network: Network, daemon: &str) -> Vec<String> {
        let at = |path: &str| self.here.join(path);
        let hosts = ["127.0.0.1".to_owned(), "0.0.0.0".to_owned()];
        let given = json!({
            "writes": [
                "/usr/bin/attacked", "/etc/attacked", at("people/.bashrc"), at("plugin/tool.py"), at("attack.py"),
                self.home.join("identity.key"),
            ],
            "reads": [
                at("people/.ssh/id_ed25519"), self.home.join("identity.key"), self.home.join("secrets/photo-key"),
                "/etc/shadow", at("people/.bashrc"),
            ],
            "private": level == Level::Isolated,
            "agent": std::process::id(),
            "victim": self.victim.id(),
            "hosts": hosts,
            "tcp": self.tcp.local_addr().unwrap().port(),
            "udp": self.udp.local_addr().unwrap().port(),
            "sockets": [self.home.join("sigil.sock"), at("docker.sock")],
            "datagrams": at("log"),
            "abstract": self.abstract_name,
            "setuid": at("id").exists().then(|| at("id")),
            "daemon": daemon,
        });
        let script = at("attack.py");
        let command = [PYTHON, script.to_str().unwrap()];
        let sandbox = Sandbox { network, ..self.sandbox(level) };
        let (outcome, output) = self.run(sandbox, &command, given.to_string(), 1 << 20).await;
        assert_eq!(outcome.end, RunEnd::Done, "{level}: {outcome:?} {output}");
        assert!(output.contains("# done"), "{level}: {outcome:?} {output}");
        let output = output.split_once("b\"").map_or("", |(_, lines)| lines).replace("\\n", "\n");
        let (told, mut through): (Vec<_>, Vec<_>) =
            output.lines().map(str::to_owned).partition(|line| line.starts_with('#') || line.starts_with('"'));
        for line in told.iter().filter(|line| line.contains("processes")) {
            println!("# {level}: {line}");
        }
        // A datagram goes out of its hands in a network of its own as well; if it came anywhere is seen here.
        through.retain(|line| network == Network::None || !line.contains("udp"));
        through.extend(self.harm());
        through
    }

    /// What has been done to us.
    fn harm(&mut self) -> Vec<String> {
        let mut harm = Vec::new();
        for path in [
            "people/.sigil/identity.key",
            "people/.sigil/secrets/photo-key",
            "people/.ssh/id_ed25519",
            "people/.bashrc",
            "plugin/tool.py",
        ] {
            if fs::read_to_string(self.here.join(path)).ok().as_deref() != Some(SECRET) {
                harm.push(format!("{path} is changed"));
            }
        }
        for dir in ["/usr/bin", "/etc", "", "people", "people/.sigil", "plugin"] {
            if self.here.join(dir).join("attacked").exists() {
                harm.push(format!("something was written into {dir}"));
            }
        }
        let state = fs::read_to_string(format!("/proc/{}/stat", self.victim.id())).unwrap();
        if !state.contains(") S ") {
            harm.push(format!("the victim: {state}"));
        }
        if self.tcp.accept().is_ok() || self.udp.recv(&mut [0; 8]).is_ok() {
            harm.push("the network was reached".to_owned());
        }
        if self.sockets.iter().chain([&self.abstracts]).any(|socket| socket.accept().is_ok())
            || self.datagrams.recv(&mut [0; 8]).is_ok()
        {
            harm.push("a service was reached".to_owned());
        }
        harm
    }
}

impl Drop for Prey {
    fn drop(&mut self) {
        let _ = self.victim.kill();
        let _ = self.victim.wait();
    }
}

/// True if a process runs that has a word among its arguments.
fn runs(word: &str) -> bool {
    let named = |entry: fs::DirEntry| {
        entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok_and(|pid| pid != std::process::id()))
            && fs::read(entry.path().join("cmdline"))
                .is_ok_and(|words| words.split(|byte| *byte == 0).any(|found| found == word.as_bytes()))
    };
    fs::read_dir("/proc").unwrap().flatten().any(named)
}

/// True if a secret is among the arguments of any process, where everybody can see it.
fn is_shown(secret: &str) -> bool {
    let shown = |entry: fs::DirEntry| {
        fs::read(entry.path().join("cmdline")).is_ok_and(|words| String::from_utf8_lossy(&words).contains(secret))
    };
    fs::read_dir("/proc").unwrap().flatten().any(shown)
}

/// Not a test of its own: what the one above runs as each user.
#[tokio::test]
async fn inside() {
    let Some(here) = std::env::var_os(HERE).map(PathBuf::from) else { return };
    let mut prey = Prey::new(&here);
    let offered = prey.offered().await;
    println!("# {offered}");
    assert!(
        !offered.gaps.iter().any(|gap| gap.is_closed_at(offered.level)),
        "the self-test got through at a level that closes it: {offered:?}"
    );
    let levels: Vec<Level> =
        [Level::Confined, Level::Isolated].into_iter().filter(|level| *level <= offered.level).collect();
    if offered.level < Level::Isolated {
        println!("# cannot: {} is the best level: {:?}", offered.level, offered.why_no_more);
    }
    for level in levels {
        // Twice: the second finds nothing of the first. What outlives it at a level that lets it ends by itself.
        for round in 0..2 {
            let daemon = format!("30.{}{round}{}", level as u8, std::process::id());
            // The second time in a network of its own, if it can have one.
            let own_net = level == Level::Isolated && offered.no_own_net.is_none() && round == 1;
            let network = if own_net { Network::Restricted } else { Network::None };
            let through = prey.attack(level, network, &daemon).await;
            assert!(through.is_empty(), "at the level {level}, round {round}: {through:#?}");
            let gone = !runs(&daemon);
            assert!(gone || !Gap::Daemon.is_closed_at(level), "at the level {level} its daemon has outlived it");
        }
        on_its_way(&prey, level).await;
    }
    told_truly(&prey, offered.level).await;
    println!("# all of it was tried");
}

/// Rows 13, 14 and 37: output without end, no end when asked, and secrets while it runs.
async fn on_its_way(prey: &Prey, level: Level) {
    let before = size_of(&prey.home);
    let flood = ["head", "-c", "10000000000", "/dev/zero"];
    let (outcome, output) = prey.run(prey.sandbox(level), &flood, String::new(), 1 << 20).await;
    assert!(format!("{:?}", outcome.end).contains("over the limit"), "{outcome:?}: {output}");
    // Directories of runs that are over may go meanwhile.
    assert!(size_of(&prey.home) < before + (64 << 10), "the flood is in the home");

    let word = format!("20.{}{}", level as u8, std::process::id());
    let endless = format!("trap '' TERM INT HUP; setsid sleep {word} & while :; do sleep {word}; done");
    let (cancel, sandbox) = (CancellationToken::new(), prey.sandbox(level));
    let stop = async {
        let started = async {
            while !runs(&word) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), started).await.expect("it runs");
        assert!(!is_shown(SECRET), "a secret is in the list of processes");
        cancel.cancel();
        now()
    };
    let command = ["sh", "-c", endless.as_str()];
    let ((outcome, _), asked) = tokio::join!(prey.run_until(sandbox, &command, String::new(), 1 << 20, &cancel), stop);
    assert!(matches!(outcome.end, RunEnd::Cancelled(_)), "{outcome:?}");
    assert!(asked.elapsed() < SOON, "it took {:?}", asked.elapsed());
    if Gap::Daemon.is_closed_at(level) {
        wait_until("all of it is gone", Duration::from_secs(2), || !runs(&word));
    }
}

/// Ends are told as they were, at every level.
async fn told_truly(prey: &Prey, best: Level) {
    for level in Level::ALL.into_iter().filter(|level| *level <= best) {
        let sandbox = prey.sandbox(level);
        let end = async |sandbox: &Sandbox, command: &[&str]| {
            prey.run(sandbox.clone(), command, String::new(), 1 << 20).await.0
        };
        assert_eq!(end(&sandbox, &["true"]).await.end, RunEnd::Done, "{level}");
        assert_eq!(
            end(&sandbox, &["sh", "-c", "exit 7"]).await.end,
            RunEnd::Failed("exit code 7".to_owned()),
            "{level}"
        );
        let killed = end(&sandbox, &["sh", "-c", "kill -9 $$"]).await.end;
        assert_eq!(killed, RunEnd::Failed("killed by SIGKILL".to_owned()), "{level}");
        let large = Sandbox { limits: Limits { file_size: Some(4096), ..sandbox.limits }, ..sandbox.clone() };
        let end_of_large = end(&large, &["dd", "if=/dev/zero", "of=large", "bs=64k", "count=1"]).await.end;
        assert_eq!(end_of_large, RunEnd::Failed("over its limit for the size of a file".to_owned()), "{level}");
        for (command, part) in [("no-such-command", "not found"), ("/etc/passwd", "may not be executed")] {
            let RunEnd::NotStarted(why) = end(&sandbox, &[command]).await.end else { panic!("{level}: {command} ran") };
            assert!(why.contains(command) && why.contains(part), "{level}: {why}");
        }
        let left = end(&sandbox, &["sh", "-c", "sleep 1000 >/dev/null 2>&1 & exit 0"]).await;
        assert_eq!(left.end, RunEnd::Done, "{level}");
        assert!(left.note.contains("left running, and ended with it: s"), "{level}: {left:?}");
    }
    let RunEnd::Done = prey.run(network(prey, Network::Host), &reach(prey), String::new(), 1 << 20).await.0.end else {
        panic!("a tool with the network of the host reaches it");
    };
    let refused = prey.run(network(prey, Network::None), &reach(prey), String::new(), 1 << 20).await.0.end;
    assert!(best < Level::Guarded || matches!(refused, RunEnd::Failed(_)), "{refused:?}");
    // The level isolated hides the home in what it may read.
    if best == Level::Isolated {
        let services = Sandbox { unix_sockets: true, read: vec![prey.here.clone()], ..prey.sandbox(best) };
        let socket = prey.here.join("docker.sock");
        let script = format!("import socket; socket.socket(socket.AF_UNIX).connect({socket:?})");
        let (outcome, _) = prey.run(services, &[PYTHON, "-c", &script], String::new(), 1 << 20).await;
        assert_eq!(outcome.end, RunEnd::Done, "a tool that may use unix sockets: {outcome:?}");
    }
}

fn network(prey: &Prey, network: Network) -> Sandbox {
    Sandbox { network, wanted: Level::Isolated, ..prey.sandbox(Level::Bare) }
}

fn reach(prey: &Prey) -> [&'static str; 3] {
    let port = prey.tcp.local_addr().unwrap().port();
    let script = format!("import socket; socket.create_connection(('127.0.0.1', {port}), 5)");
    [PYTHON, "-c", script.leak()]
}

/// Bytes of all files below a directory.
fn size_of(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => size_of(&entry.path()),
        found => found.map_or(0, |found| found.len()),
    };
    entries.map(of).sum()
}
