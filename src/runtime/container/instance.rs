//! A container that takes commands.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown};
use sigil_shim::wire::{self, Exit, Go, Level, Limits, Network, Report, User};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use tokio::io::Interest;
use tokio::net::unix::pipe;

use super::facts::RuntimeError;
use crate::runtime::egress::{Behalf, Gate, Pass, Proxy};
use crate::runtime::streams::Streams;

/// Time for the helper to take an order: it does nothing else.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);
/// Time for a connection within one machine.
const DIALLED_WITHIN: Duration = Duration::from_secs(1);
/// Bytes that a helper says of one command; it says a few hundred.
const SAID_MAX: usize = 64 * 1024;

/// A container. When this is dropped all that runs in it ends.
#[derive(Debug)]
pub struct Instance {
    /// Its name at the engine.
    pub(super) name: String,
    /// To its helper. Held while an order is sent, so that two do not mix.
    link: Arc<Mutex<UnixStream>>,
    /// What is bound into it.
    dir: Option<TempDir>,
    /// The way out of its network, where that is restricted.
    gate: Option<Gate>,
}

/// Connects to what listens in a container. Held only while that is wanted: its container goes on meanwhile. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Dialer(Arc<Mutex<UnixStream>>);

/// A command for a container.
#[derive(Clone, PartialEq, Eq)]
pub struct Command {
    /// Program and arguments.
    pub program: Vec<String>,
    /// Its environment, over that of the image.
    pub env: BTreeMap<String, String>,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the environment: there are secrets in it.
        f.debug_struct("Command").field("program", &self.program.first()).finish_non_exhaustive()
    }
}

/// A command that was handed over.
#[derive(Debug)]
pub struct Exec {
    /// From its helper. Closed for writing, the command is asked to end, and half a second later it is killed.
    control: tokio::net::UnixStream,
    pub(in crate::runtime) streams: Streams,
}

/// What becomes of a command.
#[derive(Debug)]
pub(in crate::runtime) struct Ends {
    control: Arc<tokio::net::UnixStream>,
    said: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// Ends a command.
#[derive(Debug)]
pub(in crate::runtime) struct Stop(Arc<tokio::net::UnixStream>);

/// What a helper has told of a command.
#[derive(Debug)]
pub(in crate::runtime) enum Told {
    /// It has ended. With names of what it has left running, and files that are parts of its result.
    Ended { exit: Exit, left: Vec<String>, files: Vec<(String, std::fs::File)> },
    /// It has not run.
    NotStarted(String),
    /// Its container is gone.
    Lost,
}

impl Instance {
    /// One whose helper is at the other end of `link`; `dir` goes with it.
    #[must_use]
    pub fn new(name: String, link: UnixStream, dir: Option<TempDir>) -> Self {
        Self { name, link: Arc::new(Mutex::new(link)), dir, gate: None }
    }

    /// Opens the way out of its network, before anything but its helper runs in it.
    ///
    /// # Errors
    /// Its helper hands none over.
    pub(super) async fn open(&mut self, proxy: &Proxy, pass: Pass) -> Result<(), RuntimeError> {
        let link = self.link.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let (ours, theirs) = UnixStream::pair()?;
            let link = link.lock().unwrap_or_else(PoisonError::into_inner);
            link.set_write_timeout(Some(TAKEN_WITHIN))?;
            wire::ask_for_listener(&link, theirs.as_fd())?;
            io::Result::Ok(ours)
        });
        let asked = asked.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        let opened = match asked {
            Ok(by) => proxy.opened(by, pass).await,
            Err(error) => Err(error),
        };
        self.gate =
            Some(opened.map_err(|error| RuntimeError::NotStarted(format!("the way out of its network: {error}")))?);
        Ok(())
    }

    /// What goes out of it from now on is for this.
    pub fn serves(&self, behalf: Behalf) {
        if let Some(gate) = &self.gate {
            gate.serves(behalf);
        }
    }

    /// True if its helper is there.
    #[must_use]
    pub fn lives(&self) -> bool {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let peek = recv(std::os::fd::AsRawFd::as_raw_fd(&*link), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
        // It says nothing by itself.
        peek == Err(nix::errno::Errno::EAGAIN)
    }

    /// Hands a command over.
    ///
    /// # Errors
    /// Its helper does not take it: it has not run.
    pub async fn exec(&self, command: Command) -> Result<Exec, RuntimeError> {
        let link = self.link.clone();
        let handed = tokio::task::spawn_blocking(move || {
            let (control, its_control) = UnixStream::pair()?;
            let ((its_stdin, stdin), (stdout, its_stdout), (stderr, its_stderr)) =
                (io::pipe()?, io::pipe()?, io::pipe()?);
            let fds = [its_stdin.as_fd(), its_stdout.as_fd(), its_stderr.as_fd(), its_control.as_fd()];
            let link = link.lock().unwrap_or_else(PoisonError::into_inner);
            link.set_write_timeout(Some(TAKEN_WITHIN))?;
            wire::send(&link, &order(command), &fds)?;
            Ok((control, [OwnedFd::from(stdin), stdout.into(), stderr.into()]))
        });
        let handed: io::Result<_> = handed.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        let here = |(control, [stdin, stdout, stderr]): (UnixStream, [OwnedFd; 3])| {
            control.set_nonblocking(true)?;
            let streams = Streams {
                stdin: pipe::Sender::from_owned_fd(stdin)?,
                stdout: pipe::Receiver::from_owned_fd(stdout)?,
                stderr: pipe::Receiver::from_owned_fd(stderr)?,
            };
            io::Result::Ok(Exec { control: tokio::net::UnixStream::from_std(control)?, streams })
        };
        handed.and_then(here).map_err(|error| RuntimeError::NotStarted(format!("its helper is gone: {error}")))
    }

    /// Connects to what listens in it.
    #[must_use]
    pub fn dialer(&self) -> Dialer {
        Dialer(self.link.clone())
    }

    /// Ends all that runs in it. Returns its name.
    pub(super) fn close(self) -> String {
        let Self { name, link, dir, gate } = self;
        drop((gate, link, dir));
        name
    }
}

impl Dialer {
    /// Connects to a port on the loopback of its network, which has nothing else.
    ///
    /// # Errors
    /// Nobody listens there now, or its helper is gone.
    pub async fn dial(&self, port: u16) -> io::Result<tokio::net::TcpStream> {
        let link = self.0.clone();
        let dialled = tokio::task::spawn_blocking(move || {
            let (ours, theirs) = UnixStream::pair()?;
            {
                let link = link.lock().unwrap_or_else(PoisonError::into_inner);
                link.set_write_timeout(Some(TAKEN_WITHIN))?;
                wire::ask_for_socket(&link, theirs.as_fd())?;
            }
            drop(theirs);
            ours.set_read_timeout(Some(TAKEN_WITHIN))?;
            let (mut said, mut fds) = (Vec::new(), Vec::new());
            while said.len() < SAID_MAX && wire::hear(&ours, &mut said, &mut fds)? > 0 {}
            let socket = match (wire::reports(&said).into_iter().next(), fds.pop()) {
                (Some(Report::Socket), Some(socket)) if fds.is_empty() => Socket::from(socket),
                (Some(Report::NotStarted(why)), _) => return Err(io::Error::other(why)),
                _ => return Err(io::Error::other("its helper hands over no socket")),
            };
            // Whoever hands it over is in the container: only a socket of the kind that was asked for counts.
            let is_meant = socket.domain()? == Domain::IPV4
                && socket.r#type()? == Type::STREAM
                && !socket.is_listener()?
                && socket.peer_addr().is_err();
            if !is_meant {
                return Err(io::Error::other("its helper hands over something else"));
            }
            socket.connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into(), DIALLED_WITHIN)?;
            socket.set_tcp_nodelay(true)?;
            socket.set_nonblocking(true)?;
            Ok(std::net::TcpStream::from(socket))
        });
        let dialled: io::Result<_> = dialled.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        tokio::net::TcpStream::from_std(dialled?)
    }
}

/// The order for a command. A container has a level, limits and a place of its own.
fn order(Command { program, env }: Command) -> Go {
    let mut words = program.into_iter().map(OsString::from);
    Go {
        agent: std::process::id(),
        level: Level::Bare,
        network: Network::None,
        unix_sockets: false,
        user: User::NOBODY,
        limits: Limits::FREE,
        dir: "/".into(),
        hide: Vec::new(),
        read: Vec::new(),
        write: Vec::new(),
        command: words.next().unwrap_or_default(),
        args: words.collect(),
        env: env.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
    }
}

impl Exec {
    /// Apart: what tells of its end, what ends it, and its streams.
    pub(in crate::runtime) fn split(self) -> (Ends, Stop, Streams) {
        let control = Arc::new(self.control);
        (Ends { control: control.clone(), said: Vec::new(), fds: Vec::new() }, Stop(control), self.streams)
    }
}

impl Stop {
    /// Asks it to end, and half a second later it is killed.
    pub(in crate::runtime) fn stop(&self) {
        // It may be gone already.
        let _ = shutdown(std::os::fd::AsRawFd::as_raw_fd(&*self.0), Shutdown::Write);
    }
}

impl Ends {
    /// Waits until it has ended, or its container.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(in crate::runtime) async fn told(&mut self) -> Told {
        let Self { control, said, fds } = self;
        while said.len() < SAID_MAX && fds.len() <= 2 * wire::FILES_MAX {
            if control.readable().await.is_err() {
                break;
            }
            match control.try_io(Interest::READABLE, || wire::hear(&**control, said, fds)) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        let (mut names, mut told) = (Vec::new(), Told::Lost);
        let fds = std::mem::take(fds);
        for report in wire::reports(said) {
            match report {
                Report::Ready | Report::Socket => {}
                Report::Files(of) => names = of,
                Report::NotStarted(why) => told = Told::NotStarted(why),
                Report::Ended { exit, left } => told = Told::Ended { exit, left, files: Vec::new() },
            }
        }
        if let Told::Ended { files, .. } = &mut told {
            // Whoever says so is in the container: only files count.
            let given = names.into_iter().zip(fds.into_iter().map(std::fs::File::from));
            *files = given.filter(|(_, file)| file.metadata().is_ok_and(|found| found.is_file())).collect();
        }
        told
    }
}
