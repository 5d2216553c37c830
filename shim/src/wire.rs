//! What the agent tells the helper, and what the helper tells it: frames over a socket, the first with descriptors.
//!
//! A frame is its length (4 bytes, little-endian) and its body. Both sides come from one build, so there is no version to
//! agree on but the first byte, which keeps a stray program from being taken for one of them.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

/// Longest frame: what the kernel takes as arguments and environment of a program is less.
pub const FRAME_BYTES_MAX: usize = 4 << 20;
/// Longest text of a report.
const TEXT_BYTES_MAX: usize = 1024;
/// Descriptors in one message: three streams and the socket to the agent, or the files of a result.
const FDS_MAX: usize = FILES_MAX;
/// Files that a command in a container may leave as parts of its result, and one more, so that too many are told.
pub const FILES_MAX: usize = 16;
/// Word by which the helper is started as the first process of a container; that of its network follows.
pub const CONTAINER: &str = "container";
/// The file of the helper in a container.
pub const CONTAINER_SHIM: &str = "/.sigil-shim";
/// The directory in which the agent's socket is in a container, until the helper has connected.
pub const CONTAINER_DIR: &str = "/.sigil";
/// That socket.
pub const AGENT_SOCKET: &str = "/.sigil/agent.sock";
/// What a container may write that does not stay: its home as well.
pub const TEMP_DIR: &str = "/tmp";
/// The directory of a command in a container for files of its result, before a number.
pub const OUT_DIR: &str = "/tmp/.sigil-out";
/// The variable that names it.
pub const OUT_VARIABLE: &str = "SIGIL_OUT";
/// First byte of an order to start a tool.
const ORDER: u8 = 0xA1;
/// All of an order for a socket.
const SOCKET: u8 = 0xA2;
/// All of an order for a socket at which programs ask for what is outside.
const LISTENER: u8 = 0xA3;
/// Port on the loopback of a tool's own network at which it asks for what is outside, with [`Network::Restricted`].
pub const PROXY_PORT: u16 = 3128;

/// Strength of a sandbox. Each has all that the one before has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// Limits, a clean environment, a session of its own, death with the agent.
    #[default]
    Bare,
    /// Another user where the agent is root, no new privileges, and a filter of system calls, which also closes the network.
    Guarded,
    /// Only the files that are named, and no signals to others (landlock).
    Confined,
    /// Processes, mounts and IPC of its own: nothing of the rest of the device is there.
    Isolated,
}

impl Level {
    /// All of them, the weakest first.
    pub const ALL: [Self; 4] = [Self::Bare, Self::Guarded, Self::Confined, Self::Isolated];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Guarded => "guarded",
            Self::Confined => "confined",
            Self::Isolated => "isolated",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Level {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|level| level.as_str() == text);
        found.ok_or("it must be bare, guarded, confined or isolated")
    }
}

/// Network of a tool, at [`Level::Guarded`] and above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// None: no socket can be made, but connected pairs.
    #[default]
    None,
    /// One of its own, which has nothing but its loopback: at [`PROXY_PORT`] there the agent listens, and lets out what may
    /// go. Of a process at [`Level::Isolated`] alone; of a container that its engine has made without a network.
    Restricted,
    /// That of the device, by IPv4 and IPv6 alone.
    Host,
}

impl Network {
    /// All of them.
    const ALL: [Self; 3] = [Self::None, Self::Restricted, Self::Host];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Restricted => "restricted",
            Self::Host => "host",
        }
    }

    /// The one that a word is for.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|network| network.as_str() == word)
    }
}

/// Bounds of a run. `None`: as the agent itself has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of data of each of its processes (`RLIMIT_DATA`: a limit of addresses breaks what reserves many and uses few).
    pub memory: Option<u64>,
    /// Bytes of one file.
    pub file_size: Option<u64>,
    /// Processes and threads at once. Below [`Level::Isolated`] those of its user count as well, and get room for it.
    pub processes: Option<u32>,
    /// Open files of each process.
    pub open_files: u32,
    /// Bytes of its private directories together, at [`Level::Isolated`].
    pub scratch: u64,
}

impl Limits {
    /// Those of a tool of which nothing is known: the usual soft limit of a login for open files.
    pub const FREE: Self = Self { memory: None, file_size: None, processes: None, open_files: 1024, scratch: 64 << 20 };
}

/// A user and a group, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Group; no others.
    pub gid: u32,
}

impl User {
    /// `nobody`, by the number that it has everywhere.
    pub const NOBODY: Self = Self { uid: 65534, gid: 65534 };
}

/// An order to start a tool.
#[derive(Clone, PartialEq, Eq)]
pub struct Go {
    /// Process of the agent: the helper ends when it is another's child.
    pub agent: u32,
    /// Level, which is reached or nothing starts.
    pub level: Level,
    /// Network.
    pub network: Network,
    /// True if it may talk to services of this device over unix sockets.
    pub unix_sockets: bool,
    /// Whom it runs as, from [`Level::Guarded`] on, where the agent is root.
    pub user: User,
    /// Bounds.
    pub limits: Limits,
    /// Where it begins, and may write.
    pub dir: PathBuf,
    /// Directories that are empty for it at [`Level::Isolated`].
    pub hide: Vec<PathBuf>,
    /// What it may read, beside programs, libraries and settings of the system.
    pub read: Vec<PathBuf>,
    /// What it may read and write, beside [`Self::dir`].
    pub write: Vec<PathBuf>,
    /// Looked up in the `PATH` of [`Self::env`], or a path.
    pub command: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// All of its environment.
    pub env: Vec<(OsString, OsString)>,
}

impl fmt::Debug for Go {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the values of the environment: there are secrets among them.
        f.debug_struct("Go").field("level", &self.level).field("command", &self.command).finish_non_exhaustive()
    }
}

/// What the first process of a container is told to do.
#[derive(Debug)]
pub enum Order {
    /// To start a command: with its three streams, and the socket on which it is told of.
    Start(Box<Go>, [OwnedFd; 4]),
    /// To hand over a TCP socket of the container's network, which is not connected yet: by this socket.
    Socket(OwnedFd),
    /// To hand over a TCP socket that listens at [`PROXY_PORT`] of the container's network: by this socket.
    Listener(OwnedFd),
}

/// What the helper says. First `Ready` or `NotStarted`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// All of the sandbox is set. The helper becomes the tool next, or has started it.
    Ready,
    /// The tool has not run, for people.
    NotStarted(String),
    /// Files that it has left as parts of its result, in a container: their names, with the files themselves as descriptors.
    Files(Vec<String>),
    /// The socket that was asked for, as a descriptor.
    Socket,
    /// The tool has ended, at [`Level::Isolated`]; at others the helper's own end is the tool's.
    Ended {
        /// Exit code, or signal.
        exit: Exit,
        /// Names of processes that it left, a few at most; they end with it.
        left: Vec<String>,
    },
}

/// The way in which a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself.
    Code(u8),
    /// By a signal.
    Signal(u8),
    /// The kernel has killed it for want of memory: its container was over its limit.
    Memory,
}

/// Sends an order with its descriptors.
///
/// # Errors
/// The other side is gone, or it is longer than [`FRAME_BYTES_MAX`].
pub fn send(socket: &UnixStream, go: &Go, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_frame(socket, &framed(&go.encode())?, fds)
}

/// Asks the first process of a container for a TCP socket of the container's network, to be handed over by `by`.
///
/// # Errors
/// The other side is gone.
pub fn ask_for_socket(socket: &UnixStream, by: BorrowedFd<'_>) -> io::Result<()> {
    send_frame(socket, &framed(&[SOCKET])?, &[by])
}

/// The same, for one that listens at [`PROXY_PORT`].
///
/// # Errors
/// The other side is gone.
pub fn ask_for_listener(socket: &UnixStream, by: BorrowedFd<'_>) -> io::Result<()> {
    send_frame(socket, &framed(&[LISTENER])?, &[by])
}

fn send_frame(socket: &UnixStream, frame: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = sendmsg(socket, &[IoSlice::new(frame)], &mut control, SendFlags::NOSIGNAL)?;
    let mut rest: &UnixStream = socket;
    rest.write_all(frame.get(sent..).unwrap_or_default())
}

/// Takes an order and its `N` descriptors.
///
/// # Errors
/// The other side is gone, or what came is no order.
pub fn receive<const N: usize>(socket: &UnixStream) -> io::Result<(Go, [OwnedFd; N])> {
    let (body, fds) = receive_frame(socket)?;
    let go = Go::decode(&body).ok_or_else(malformed)?;
    Ok((go, fds.try_into().map_err(|_| malformed())?))
}

/// Takes an order with the three streams of its tool, and, with [`Network::Restricted`], the socket by which the one that
/// listens at [`PROXY_PORT`] is handed over.
///
/// # Errors
/// The other side is gone, or what came is no order.
pub fn receive_tool(socket: &UnixStream) -> io::Result<(Go, [OwnedFd; 3], Option<OwnedFd>)> {
    let (body, mut fds) = receive_frame(socket)?;
    let go = Go::decode(&body).ok_or_else(malformed)?;
    let by = (go.network == Network::Restricted).then(|| fds.pop()).flatten();
    Ok((go, fds.try_into().map_err(|_| malformed())?, by))
}

/// Takes an order to the first process of a container.
///
/// # Errors
/// The other side is gone, or what came is no order.
pub fn receive_in_container(socket: &UnixStream) -> io::Result<Order> {
    let (body, fds) = receive_frame(socket)?;
    if let [kind @ (SOCKET | LISTENER)] = body.as_slice() {
        let [by] = fds.try_into().map_err(|_| malformed())?;
        return Ok(if *kind == SOCKET { Order::Socket(by) } else { Order::Listener(by) });
    }
    let go = Go::decode(&body).ok_or_else(malformed)?;
    Ok(Order::Start(Box::new(go), fds.try_into().map_err(|_| malformed())?))
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "this is no order of the agent")
}

fn receive_frame(socket: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut len = [0; 4];
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut len)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if got.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let fds: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| if let RecvAncillaryMessage::ScmRights(fds) = message { Some(fds) } else { None })
        .flatten()
        .collect();
    let mut rest: &UnixStream = socket;
    rest.read_exact(len.get_mut(got.bytes..).unwrap_or_default())?;
    let len = usize::try_from(u32::from_le_bytes(len)).ok().filter(|len| *len <= FRAME_BYTES_MAX);
    let mut body = vec![0; len.ok_or_else(malformed)?];
    rest.read_exact(&mut body)?;
    Ok((body, fds))
}

/// Says something to the agent.
///
/// # Errors
/// It is gone.
pub fn tell(socket: &UnixStream, report: &Report) -> io::Result<()> {
    let mut socket: &UnixStream = socket;
    socket.write_all(&framed(&report.encode())?)
}

/// Says something to the agent, with descriptors.
///
/// # Errors
/// It is gone.
pub fn tell_with(socket: &UnixStream, report: &Report, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_frame(socket, &framed(&report.encode())?, fds)
}

/// Reads once what a helper says, with what descriptors come along. 0: it has said all.
///
/// # Errors
/// As of reading a socket.
pub fn hear(socket: impl AsFd, said: &mut Vec<u8>, fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut chunk = [0; 4096];
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut chunk)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            fds.extend(more);
        }
    }
    said.extend(chunk.iter().take(got.bytes));
    Ok(got.bytes)
}

/// All reports in what the helper has said until its end. What is cut off or no report is left out with all after it.
#[must_use]
pub fn reports(mut said: &[u8]) -> Vec<Report> {
    let mut found = Vec::new();
    while let Some((len, rest)) = said.split_first_chunk() {
        let len = usize::try_from(u32::from_le_bytes(*len)).unwrap_or(usize::MAX);
        let Some((body, rest)) = rest.split_at_checked(len) else { break };
        let Some(report) = Report::decode(body) else { break };
        found.push(report);
        said = rest;
    }
    found
}

fn framed(body: &[u8]) -> io::Result<Vec<u8>> {
    let len = u32::try_from(body.len()).ok().filter(|_| body.len() <= FRAME_BYTES_MAX);
    let len = len.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "its arguments are too long"))?;
    Ok([&len.to_le_bytes(), body].concat())
}

impl Go {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Encoder::default();
        to.byte(ORDER);
        to.byte(match self.level {
            Level::Bare => 0,
            Level::Guarded => 1,
            Level::Confined => 2,
            Level::Isolated => 3,
        });
        to.byte(match self.network {
            Network::None => 0,
            Network::Host => 1,
            Network::Restricted => 2,
        });
        to.byte(self.unix_sockets.into());
        let Limits { memory, file_size, processes, open_files, scratch } = self.limits;
        for number in [self.agent, self.user.uid, self.user.gid, open_files] {
            to.number(number.into());
        }
        for limit in [memory, file_size, processes.map(u64::from), Some(scratch)] {
            to.number(limit.unwrap_or(u64::MAX));
        }
        to.bytes(self.dir.as_os_str());
        to.bytes(&self.command);
        for paths in [&self.hide, &self.read, &self.write] {
            to.list(paths.iter().map(|path| path.as_os_str()));
        }
        to.list(self.args.iter().map(OsString::as_os_str));
        to.list(self.env.iter().flat_map(|(name, value)| [name.as_os_str(), value.as_os_str()]));
        to.0
    }

    /// One of its bytes; `None` if they are something else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Decoder(bytes);
        (from.byte()? == ORDER).then_some(())?;
        let level = *Level::ALL.get(usize::from(from.byte()?))?;
        let network = match from.byte()? {
            0 => Network::None,
            1 => Network::Host,
            2 => Network::Restricted,
            _ => return None,
        };
        let unix_sockets = match from.byte()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let [agent, uid, gid, open_files] = [from.small()?, from.small()?, from.small()?, from.small()?];
        let limit = |number: u64| (number != u64::MAX).then_some(number);
        let (memory, file_size) = (limit(from.number()?), limit(from.number()?));
        let processes = match limit(from.number()?) {
            None => None,
            Some(number) => Some(u32::try_from(number).ok()?),
        };
        let scratch = from.number()?;
        let (dir, command) = (from.bytes()?.into(), from.bytes()?);
        let [hide, read, write] = [from.paths()?, from.paths()?, from.paths()?];
        let args = from.list()?;
        let mut words = from.list()?.into_iter();
        let mut env = Vec::new();
        while let Some(name) = words.next() {
            env.push((name, words.next()?));
        }
        from.0.is_empty().then_some(())?;
        let limits = Limits { memory, file_size, processes, open_files, scratch };
        let user = User { uid, gid };
        Some(Self { agent, level, network, unix_sockets, user, limits, dir, hide, read, write, command, args, env })
    }
}

impl Report {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Encoder::default();
        match self {
            Self::Ready => to.byte(0),
            Self::NotStarted(why) => {
                to.byte(1);
                to.bytes(OsStr::new(shortened(why)));
            }
            Self::Files(names) => {
                to.byte(5);
                to.list(names.iter().map(|name| OsStr::new(shortened(name))));
            }
            Self::Socket => to.byte(6),
            Self::Ended { exit, left } => {
                let (kind, number) = match *exit {
                    Exit::Code(code) => (2, code),
                    Exit::Signal(signal) => (3, signal),
                    Exit::Memory => (4, 0),
                };
                to.byte(kind);
                to.byte(number);
                to.list(left.iter().map(|name| OsStr::new(shortened(name))));
            }
        }
        to.0
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let text = |bytes: OsString| shortened(&bytes.to_string_lossy()).to_owned();
        let mut from = Decoder(bytes);
        let report = match from.byte()? {
            0 => Self::Ready,
            1 => Self::NotStarted(text(from.bytes()?)),
            5 => Self::Files(from.list()?.into_iter().map(text).collect()),
            6 => Self::Socket,
            kind @ 2..=4 => {
                let number = from.byte()?;
                let exit = match kind {
                    2 => Exit::Code(number),
                    3 => Exit::Signal(number),
                    _ => Exit::Memory,
                };
                Self::Ended { exit, left: from.list()?.into_iter().map(text).collect() }
            }
            _ => return None,
        };
        from.0.is_empty().then_some(report)
    }
}

fn shortened(text: &str) -> &str {
    text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or_default()
}

#[derive(Default)]
struct Encoder(Vec<u8>);

impl Encoder {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    fn number(&mut self, number: u64) {
        self.0.extend(number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &OsStr) {
        self.number(bytes.len() as u64);
        self.0.extend(bytes.as_bytes());
    }

    fn list<'a>(&mut self, items: impl Iterator<Item = &'a OsStr>) {
        let items: Vec<_> = items.collect();
        self.number(items.len() as u64);
        for item in items {
            self.bytes(item);
        }
    }
}

struct Decoder<'a>(&'a [u8]);

impl Decoder<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }

    fn small(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    fn bytes(&mut self) -> Option<OsString> {
        let len = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        // The kernel takes none with a zero.
        (!bytes.contains(&0)).then(|| OsString::from_vec(bytes.to_vec()))
    }

    fn list(&mut self) -> Option<Vec<OsString>> {
        let count = self.number()?;
        // Not reserved: the count is not checked yet, and each item that is there takes eight bytes at least.
        (0..count).map(|_| self.bytes()).collect()
    }

    fn paths(&mut self) -> Option<Vec<PathBuf>> {
        Some(self.list()?.into_iter().map(PathBuf::from).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    fn go() -> Go {
        Go {
            agent: 7,
            level: Level::Isolated,
            network: Network::Host,
            unix_sockets: true,
            user: User::NOBODY,
            limits: Limits { memory: Some(1 << 30), ..Limits::FREE },
            dir: "/home/u/.sigil/work/run-1".into(),
            hide: vec!["/home".into()],
            read: vec!["/srv/a".into(), "/srv/b".into()],
            write: Vec::new(),
            command: "cat".into(),
            args: vec!["-".into(), OsString::new()],
            env: vec![("PATH".into(), "/bin".into()), ("TOKEN".into(), OsString::from_vec(vec![0xff]))],
        }
    }

    #[test]
    fn an_order_goes_over_with_its_streams() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (reader, writer) = io::pipe().unwrap();
        let long = Go { args: vec!["x".repeat(500_000).into()], ..go() };
        let sender = std::thread::spawn({
            let long = long.clone();
            move || send(&ours, &long, &[reader.as_fd(), writer.as_fd(), writer.as_fd()]).unwrap()
        });
        let (got, [_stdin, stdout, _stderr]) = receive::<3>(&theirs).unwrap();
        sender.join().unwrap();
        assert_eq!(got, long);
        std::fs::File::from(stdout).write_all(b"x").unwrap();
        assert!(receive::<3>(&theirs).is_err(), "the other side is gone");
    }

    #[test]
    fn the_number_of_streams_is_checked() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        send(&ours, &go(), &[ours.as_fd()]).unwrap();
        assert!(receive::<3>(&theirs).is_err());
    }

    #[test]
    fn every_cut_and_changed_order_is_refused_or_read_and_nothing_panics() {
        let whole = go().encode();
        assert_eq!(Go::decode(&whole), Some(go()));
        for len in 0..whole.len() {
            assert_eq!(Go::decode(&whole[..len]), None, "cut at {len}");
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut changed = whole.clone();
                changed[at] ^= 1 << bit;
                let _ = Go::decode(&changed);
            }
        }
        assert_eq!(Go::decode(&[whole, vec![0]].concat()), None);
    }

    #[test]
    fn reports_are_read_as_far_as_they_go() {
        let said = [
            Report::Ready,
            Report::NotStarted("no".to_owned()),
            Report::Ended { exit: Exit::Signal(9), left: vec!["sleep".to_owned()] },
            Report::Files(vec!["a.png".to_owned()]),
            Report::Socket,
            Report::Ended { exit: Exit::Memory, left: Vec::new() },
            Report::Ended { exit: Exit::Code(3), left: Vec::new() },
        ];
        let bytes: Vec<u8> = said.iter().flat_map(|report| framed(&report.encode()).unwrap()).collect();
        assert_eq!(reports(&bytes), said);
        assert_eq!(reports(&bytes[..bytes.len() - 1]), said[..6]);
        assert_eq!(reports(&[0xff; 64]), []);
        let long = Report::NotStarted("é".repeat(5000));
        let Report::NotStarted(why) = &reports(&framed(&long.encode()).unwrap())[0] else { panic!("read") };
        assert_eq!(why.len(), TEXT_BYTES_MAX);
    }
}
