//! The sandbox of a tool: what is asked for, what this device offers, and what becomes of the two.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

pub use sigil_shim::wire::{Level, Limits, Network, User};

/// A sandbox as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// The level, if this device offers it; else the best that it offers.
    pub wanted: Level,
    /// Below this nothing is started.
    pub least: Level,
    /// Network, from [`Level::Guarded`] on.
    pub network: Network,
    /// True if it may talk to services of this device over unix sockets.
    pub unix_sockets: bool,
    /// What it may read, from [`Level::Confined`] on, beside programs, libraries and settings of the system.
    pub read: Vec<PathBuf>,
    /// What it may read and write, beside its private directory.
    pub write: Vec<PathBuf>,
    /// Where those of `read` and `write` led when they were allowed. One that leads elsewhere is not given.
    pub allowed: BTreeMap<PathBuf, PathBuf>,
    /// Bounds of each run.
    pub limits: Limits,
    /// Whom it runs as, from [`Level::Guarded`] on, where the agent is root.
    pub user: User,
}

impl Sandbox {
    /// None: the tool does as whoever runs the agent. What the owner of the device has written into its settings, without a
    /// word about what it may do, is trusted so far (`docs/decisions/0114`).
    pub const BARE: Self = Self {
        wanted: Level::Bare,
        least: Level::Bare,
        network: Network::Host,
        unix_sockets: true,
        read: Vec::new(),
        write: Vec::new(),
        allowed: BTreeMap::new(),
        limits: Limits::FREE,
        user: User::NOBODY,
    };

    /// The best that there is, without network, with usual bounds; not below `least`.
    #[must_use]
    pub fn best(least: Level) -> Self {
        Self {
            wanted: Level::Isolated,
            least,
            network: Network::None,
            unix_sockets: false,
            limits: Limits { file_size: Some(1 << 30), processes: Some(256), ..Limits::FREE },
            ..Self::BARE
        }
    }

    /// The level at which a run is started. `home`: that of the agent; `stays`: what it starts may outlive it.
    ///
    /// # Errors
    /// It would be less than the least, for people.
    pub(super) fn level(&self, offered: &Offered, home: &Path, stays: bool) -> Result<Level, String> {
        let (best, why) = if stays && offered.level == Level::Isolated && self.wanted == Level::Isolated {
            (Level::Confined, Some("what it starts may keep running, and at the level isolated nothing can"))
        } else {
            (offered.level, offered.why_no_more.as_deref())
        };
        let level = self.wanted.min(best);
        if level < self.least {
            let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
            return Err(format!("it is to run at the level {} at least, and here is {level}{why}", self.least));
        }
        if self.network == Network::Restricted {
            // Below, a tool is in the network of the device, of which ports could be closed, and no hosts.
            let why = match (level, &offered.no_own_net) {
                (Level::Isolated, None) => None,
                (Level::Isolated, Some(why)) => Some(why.as_str()),
                (Level::Bare | Level::Guarded | Level::Confined, _) => Some(why.unwrap_or("it asks for less")),
            };
            if let Some(why) = why {
                return Err(format!("a restricted network needs a world of its own, the level isolated: {why}"));
            }
        }
        for path in self.read.iter().chain(&self.write).filter(|path| self.allowed.contains_key(*path)) {
            super::led_to(path, &self.allowed)?;
        }
        if let Some(path) = self.in_home(home) {
            let path = path.display();
            return Err(format!("it asks for `{path}`, in the home of this agent, which is for no tool"));
        }
        // Only a view of its own hides the home in what it may read.
        let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let real_home = real(home);
        let is_open = |path: &&PathBuf| home.starts_with(path) || real_home.starts_with(real(path));
        let open = self.read.iter().chain(&self.write).find(is_open);
        match open {
            Some(path) if level == Level::Confined => Err(format!(
                "it may read or write `{}`, where the home of this agent is: only the level isolated could hide that",
                path.display()
            )),
            _ => Ok(level),
        }
    }

    /// What it asks for in the home of the agent, of which it may read its own files alone.
    fn in_home(&self, home: &Path) -> Option<&Path> {
        let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let (home, plugins) = (real(home), real(&home.join("plugins")));
        let is_in = |path: &Path| real(path).starts_with(&home);
        let read = self.read.iter().find(|path| is_in(path) && !real(path).starts_with(&plugins));
        read.or_else(|| self.write.iter().find(|path| is_in(path))).map(PathBuf::as_path)
    }
}

/// What this device offers, as the self-test found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    /// The best level.
    pub level: Level,
    /// Attacks that got through at that level.
    pub gaps: Vec<Gap>,
    /// Version of landlock in the kernel, as far as we know them; 0 for none.
    pub landlock: u32,
    /// The reason for which it is not [`Level::Isolated`], for people.
    pub why_no_more: Option<String>,
    /// The reason for which a tool can have no network of its own there, for people.
    pub no_own_net: Option<String>,
}

/// An attack of the self-test that got through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gap {
    /// Writing where it may not.
    Write,
    /// Reading the key of this device.
    Key,
    /// Signals to the agent.
    Signal,
    /// Talking to a service over a unix socket.
    Socket,
    /// Talking to a service over TCP.
    Tcp,
    /// More processes than it may have.
    Processes,
    /// A process that outlives it.
    Daemon,
    /// More memory than it may have, where that is shared with others: limits of processes count only what is private.
    Memory,
}

impl Gap {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Write, Self::Key, Self::Signal, Self::Socket, Self::Tcp, Self::Processes, Self::Daemon, Self::Memory];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Key => "key",
            Self::Signal => "signal",
            Self::Socket => "socket",
            Self::Tcp => "tcp",
            Self::Processes => "processes",
            Self::Daemon => "daemon",
            Self::Memory => "memory",
        }
    }

    /// True if a level promises that this does not get through.
    #[must_use]
    pub fn is_closed_at(self, level: Level) -> bool {
        let from = match self {
            Self::Socket | Self::Tcp => Level::Guarded,
            Self::Write | Self::Key | Self::Signal => Level::Confined,
            Self::Processes | Self::Daemon => Level::Isolated,
            // Only a container counts all of it.
            Self::Memory => return false,
        };
        level >= from
    }
}

impl Offered {
    /// Only what needs nothing of the device.
    #[must_use]
    pub fn bare(why: String) -> Self {
        Self { level: Level::Bare, gaps: Vec::new(), landlock: 0, why_no_more: Some(why), no_own_net: None }
    }
}

impl fmt::Display for Offered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut layers = Vec::new();
        if self.level >= Level::Confined {
            layers.push(format!("landlock {}", self.landlock));
        }
        if self.level >= Level::Guarded {
            layers.push("seccomp".to_owned());
        }
        if self.level == Level::Isolated {
            layers.push("userns".to_owned());
            if self.no_own_net.is_none() {
                layers.push("netns".to_owned());
            }
        }
        let layers = if layers.is_empty() { String::new() } else { format!("{}; ", layers.join(", ")) };
        let gaps: Vec<&str> = self.gaps.iter().map(|gap| gap.as_str()).collect();
        let gaps = if gaps.is_empty() { "-".to_owned() } else { gaps.join(", ") };
        write!(f, "{} ({layers}limits by rlimit); gaps: {gaps}", self.level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(level: Level) -> Offered {
        let why = Some("no user namespaces".to_owned());
        Offered { level, gaps: Vec::new(), landlock: 7, why_no_more: why, no_own_net: None }
    }

    #[test]
    fn a_tool_gets_what_is_there_and_never_less_than_its_least() {
        let home = Path::new("/home/u/.sigil");
        let level = |sandbox: &Sandbox, at| sandbox.level(&offered(at), home, false);
        for at in Level::ALL {
            assert_eq!(level(&Sandbox::BARE, at), Ok(Level::Bare));
        }
        let sandbox = Sandbox::best(Level::Confined);
        assert_eq!(level(&sandbox, Level::Isolated), Ok(Level::Isolated));
        assert_eq!(level(&sandbox, Level::Confined), Ok(Level::Confined));
        let why = level(&sandbox, Level::Guarded).unwrap_err();
        assert!(["confined", "guarded", "no user namespaces"].iter().all(|part| why.contains(part)), "{why}");
    }

    #[test]
    fn a_restricted_network_is_not_made_up() {
        let home = Path::new("/home/u/.sigil");
        let restricted = Sandbox { network: Network::Restricted, ..Sandbox::best(Level::Guarded) };
        assert_eq!(restricted.level(&offered(Level::Isolated), home, false), Ok(Level::Isolated));
        let none = Offered { no_own_net: Some("no loopback".to_owned()), ..offered(Level::Isolated) };
        for (offered, stays, part) in [
            (offered(Level::Confined), false, "no user namespaces"),
            (offered(Level::Isolated), true, "keep running"),
            (none, false, "no loopback"),
        ] {
            let why = restricted.level(&offered, home, stays).unwrap_err();
            assert!(why.contains("level isolated") && why.contains(part), "{why}");
        }
    }

    #[test]
    fn what_stays_running_cannot_be_isolated() {
        let home = Path::new("/home/u/.sigil");
        let stays = |least| Sandbox::best(least).level(&offered(Level::Isolated), home, true);
        assert_eq!(stays(Level::Guarded), Ok(Level::Confined));
        assert!(stays(Level::Isolated).unwrap_err().contains("keep running"));
    }

    #[test]
    fn nothing_that_is_read_opens_the_home() {
        let home = Path::new("/home/u/.sigil");
        let sandbox = Sandbox { read: vec!["/home/u".into()], ..Sandbox::best(Level::Confined) };
        assert_eq!(sandbox.level(&offered(Level::Isolated), home, false), Ok(Level::Isolated));
        assert!(sandbox.level(&offered(Level::Confined), home, false).unwrap_err().contains("home of this agent"));
        for inside in ["/home/u/.sigil", "/home/u/.sigil/key", "/home/u/.sigil/plugins"] {
            let write = Sandbox { write: vec![inside.into()], ..Sandbox::best(Level::Bare) };
            assert!(
                write.level(&offered(Level::Isolated), home, false).unwrap_err().contains("for no tool"),
                "{inside}"
            );
        }
        let own = Sandbox { read: vec!["/home/u/.sigil/plugins/x".into()], ..Sandbox::best(Level::Bare) };
        assert_eq!(own.level(&offered(Level::Isolated), home, false), Ok(Level::Isolated));
        let beside = Sandbox { read: vec!["/home/u/music".into()], ..sandbox };
        assert_eq!(beside.level(&offered(Level::Confined), home, false), Ok(Level::Confined));
    }

    #[test]
    fn it_is_told_in_one_line() {
        assert_eq!(
            offered(Level::Isolated).to_string(),
            "isolated (landlock 7, seccomp, userns, netns; limits by rlimit); gaps: -"
        );
        let gaps = Offered { gaps: vec![Gap::Socket, Gap::Daemon], ..offered(Level::Guarded) };
        assert_eq!(gaps.to_string(), "guarded (seccomp; limits by rlimit); gaps: socket, daemon");
        assert_eq!(Offered::bare(String::new()).to_string(), "bare (limits by rlimit); gaps: -");
    }
}
