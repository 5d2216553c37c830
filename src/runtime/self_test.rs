//! What this device offers is found out by attacking it: the helper runs as a hostile tool at each level, and what it
//! reaches is a gap. Versions of kernels promise less than they seem to.

use std::io::{self, Read as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use sigil_shim::wire::{Go, Report};

use super::helper::{self, Ends, Helper};
use super::sandbox::{Gap, Level, Limits, Network, Offered, User};

/// The file of the home that nobody else may read, whatever happens.
const KEY: &str = "identity.key";
/// Name of what the attacker writes into the home, if it can.
const MARK: &str = "sigil-self-test";
/// Processes that the attacker may have, so that it need not start many to have too many.
const PROCESSES: u32 = 6;
/// Private memory that the attacker may have, bytes.
const MEMORY: u64 = 24 << 20;
/// Time for one level. It takes a few milliseconds.
const LEVEL_TIME: Duration = Duration::from_secs(5);
/// Time after the end of the attacker in which what it left must be gone.
const GONE_WITHIN: Duration = Duration::from_millis(200);
/// Bytes of what the attacker says.
const SAID_MAX: usize = 4096;

/// What was found at one level.
struct Found {
    gaps: Vec<Gap>,
    landlock: u32,
}

/// Attacks each level from the best one down, until one of them holds. Blocks for some ten milliseconds, and for seconds where
/// something hangs. `home`: that of the agent, in which the attacker gets a directory below `work`.
pub(super) fn attack(helper: &Helper, home: &Path, work: &Path) -> Offered {
    if let Some(why) = helper.only_bare() {
        return Offered::bare(why.to_owned());
    }
    let mut why_no_more = None;
    for level in [Level::Isolated, Level::Confined, Level::Guarded] {
        match at(level, Network::None, helper, home, work) {
            Ok(Found { gaps, landlock }) => {
                let no_own_net = (level == Level::Isolated).then(|| no_own_net(helper, home, work)).flatten();
                return Offered { level, gaps, landlock, why_no_more, no_own_net };
            }
            Err(why) => {
                why_no_more.get_or_insert(why);
            }
        }
    }
    Offered::bare(why_no_more.unwrap_or_default())
}

/// The reason for which a tool can have no network of its own.
fn no_own_net(helper: &Helper, home: &Path, work: &Path) -> Option<String> {
    match at(Level::Isolated, Network::Restricted, helper, home, work) {
        Ok(Found { gaps, .. }) if gaps.contains(&Gap::Tcp) => Some("it reaches this device from there".to_owned()),
        Ok(_) => None,
        Err(why) => Some(why),
    }
}

fn at(level: Level, network: Network, helper: &Helper, home: &Path, work: &Path) -> Result<Found, String> {
    let told = |error: io::Error| error.to_string();
    let dir = tempfile::Builder::new().prefix("run-test-").tempdir_in(work).map_err(told)?;
    let user = User::NOBODY;
    super::give_to(dir.path(), level, user).map_err(told)?;
    // Names of sockets are short, and homes may be deep.
    let services = tempfile::tempdir().map_err(told)?;
    let socket = services.path().join("s");
    let service = UnixListener::bind(&socket).map_err(told)?;
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(told)?;
    open_to_all(services.path(), &socket).map_err(told)?;
    let port_number = port.local_addr().map_err(told)?.port();
    // Elsewhere processes of others count as well, and as many would have to be started.
    let processes = if Gap::Processes.is_closed_at(level) { PROCESSES } else { 0 };
    let args = [
        "attack".into(),
        "all".into(),
        home.as_os_str().to_owned(),
        home.join(KEY).into_os_string(),
        std::process::id().to_string().into(),
        socket.into_os_string(),
        port_number.to_string().into(),
        processes.to_string().into(),
        MEMORY.to_string().into(),
    ];
    let go = Go {
        agent: std::process::id(),
        level,
        network,
        unix_sockets: false,
        user,
        limits: Limits { processes: Some(PROCESSES), memory: Some(MEMORY), ..Limits::FREE },
        dir: dir.path().to_owned(),
        hide: vec![home.to_owned()],
        read: Vec::new(),
        write: Vec::new(),
        command: helper.program().into(),
        args: args.into(),
        env: Vec::new(),
    };
    let (mut child, ends) = helper.start(&go, |mut command: Command| command.spawn()).map_err(told)?;
    let found = listen(level, &mut child, ends);
    // Its group has the number of the helper. What left the group ends by itself, soon.
    if let Ok(group) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let _ = child.kill();
    let _ = child.wait();
    drop((service, port));
    // Counted by what it has done: at the level `isolated` it writes into a home of its own.
    let written = std::fs::remove_file(home.join(MARK)).is_ok();
    found.map(|found| Found { gaps: written.then_some(Gap::Write).into_iter().chain(found.gaps).collect(), ..found })
}

fn listen(level: Level, child: &mut Child, ends: Ends) -> Result<Found, String> {
    // Nobody takes the way out of its network, if it has one.
    let Ends { said, stdin, mut stdout, stderr: _stderr, way_out: _way_out } = ends;
    drop(stdin);
    let mut text = Vec::new();
    let mut chunk = [0; 512];
    let mut within = LEVEL_TIME;
    let mut daemon = false;
    while text.len() < SAID_MAX {
        let time = PollTimeout::try_from(within).unwrap_or(PollTimeout::MAX);
        let ready =
            poll(&mut [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)], time).map_err(|errno| errno.to_string())?;
        if ready == 0 {
            daemon = text.ends_with(b"\n") && within == GONE_WITHIN;
            break;
        }
        match stdout.read(&mut chunk) {
            Ok(len @ 1..) => text.extend(chunk.get(..len).unwrap_or_default()),
            Ok(0) | Err(_) => break,
        }
        // The last of its lines: after it only what it has left keeps its output open.
        if text.ends_with(b"\n") && text.windows(9).any(|word| word == b"landlock ") {
            within = GONE_WITHIN;
        }
    }
    if !text.ends_with(b"\n") || within != GONE_WITHIN {
        let _ = child.kill();
    }
    let _ = child.wait();
    let _ = said.set_read_timeout(Some(GONE_WITHIN));
    for report in helper::said(&said) {
        if let Report::NotStarted(why) = report {
            return Err(why);
        }
    }
    let text = String::from_utf8_lossy(&text);
    let landlock = text.lines().find_map(|line| line.strip_prefix("landlock ")?.parse().ok());
    let landlock = landlock.ok_or_else(|| format!("the self-test at the level {level} did not come to its end"))?;
    let through = Gap::ALL.into_iter().filter(|gap| match gap {
        Gap::Daemon => daemon,
        Gap::Write => false,
        Gap::Key | Gap::Signal | Gap::Socket | Gap::Tcp | Gap::Processes | Gap::Memory => {
            text.lines().any(|line| line == gap.as_str())
        }
    });
    Ok(Found { gaps: through.collect(), landlock })
}

/// Lets every user of this device at a socket: what keeps the attacker from it is to be its level alone.
fn open_to_all(dir: &Path, socket: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o777))
}
