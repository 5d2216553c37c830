//! The helper on the side of the agent: the program `sigil-shim`, which is in ours, and how one is started with an order.

use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use data_encoding::HEXLOWER;
use sigil_shim::wire::{self, Go, Network, Report};

/// The hidden command by which our own program is the helper, where there is none of its own.
const COMMAND: &str = "tool-exec";
/// The static helper; empty where it could not be built.
const STATIC: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sigil-shim"));
/// The reason for which it could not.
const WHY_NOT: &str = env!("SIGIL_SHIM_WHY");
/// Names of its files, before the hash.
const PREFIX: &str = "shim-";
/// How often a start is tried again while the file is still open elsewhere for writing: a child that another thread has just
/// started holds it until it becomes its program.
const BUSY_TRIES: u32 = 20;
/// Bytes that a helper may say; it says a few hundred.
const SAID_MAX: u64 = 64 * 1024;

/// The program that stands between us and a tool.
#[derive(Debug, Clone)]
pub struct Helper {
    program: PathBuf,
    /// The directory of its file, which a cleaner may take away.
    dir: PathBuf,
    /// Why it is our own program, and no level but `bare` can be had.
    ours: Option<String>,
}

/// Our ends of what a tool was started with.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) said: UnixStream,
    pub(super) stdin: PipeWriter,
    pub(super) stdout: PipeReader,
    pub(super) stderr: PipeReader,
    /// By which the socket comes at which the tool asks for what is outside, where its network is restricted.
    pub(super) way_out: Option<UnixStream>,
}

impl Helper {
    /// Writes the static helper into a directory, which is made if needed, unless it is there; older ones there are removed.
    /// Where there is none, or it cannot be run from there, `own` is used: our own program.
    ///
    /// # Errors
    /// There is neither.
    pub fn install(dir: &Path, own: Option<PathBuf>) -> io::Result<Self> {
        match written(dir) {
            Ok(program) => Ok(Self { program, dir: dir.to_owned(), ours: None }),
            Err(why) => match own {
                Some(program) => Ok(Self { program, dir: dir.to_owned(), ours: Some(why.to_string()) }),
                None => Err(why),
            },
        }
    }

    /// The reason for which it can do no more than the level `bare`.
    #[must_use]
    pub fn only_bare(&self) -> Option<&str> {
        self.ours.as_deref()
    }

    /// Its file, for the self-test and for containers.
    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// Puts its file back, if a cleaner took it away. Blocks.
    ///
    /// # Errors
    /// It cannot be written, or does not run.
    pub(super) fn put_back(&self) -> io::Result<()> {
        if self.program.exists() { Ok(()) } else { written(&self.dir).map(drop) }
    }

    /// Starts it with an order; `spawn` makes the process.
    ///
    /// # Errors
    /// It cannot be started, or it ended before it took the order.
    pub(super) fn start<C>(&self, go: &Go, mut spawn: impl FnMut(Command) -> io::Result<C>) -> io::Result<(C, Ends)> {
        let (said, its) = UnixStream::pair()?;
        let ((its_stdin, stdin), (stdout, its_stdout), (stderr, its_stderr)) = (io::pipe()?, io::pipe()?, io::pipe()?);
        let (mut tries, mut again) = (0, self.ours.is_none());
        let child = loop {
            let mut command = Command::new(&self.program);
            command.args(self.ours.is_some().then_some(COMMAND)).env_clear().current_dir("/");
            command.stdin(Stdio::from(OwnedFd::from(its.try_clone()?))).stdout(Stdio::null()).stderr(Stdio::null());
            match spawn(command) {
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES => {
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound && again => {
                    again = false;
                    written(&self.dir)?;
                }
                made => break made?,
            }
        };
        drop(its);
        let (way_out, its_way_out) = match go.network {
            Network::Restricted => UnixStream::pair().map(|(ours, its)| (Some(ours), Some(its)))?,
            Network::None | Network::Host => (None, None),
        };
        let mut fds = vec![its_stdin.as_fd(), its_stdout.as_fd(), its_stderr.as_fd()];
        fds.extend(its_way_out.as_ref().map(|its| its.as_fd()));
        wire::send(&said, go, &fds)?;
        Ok((child, Ends { said, stdin, stdout, stderr, way_out }))
    }
}

/// Everything that a helper has said, once it has ended or become the tool.
pub(super) fn said(socket: &UnixStream) -> Vec<Report> {
    let mut bytes = Vec::new();
    // What came before an error counts.
    let _ = socket.take(SAID_MAX).read_to_end(&mut bytes);
    wire::reports(&bytes)
}

/// The next that a helper says; `None` at its end, or if that is no report. Blocks.
pub(super) fn next(mut socket: &UnixStream) -> Option<Report> {
    let mut frame = vec![0; 4];
    socket.read_exact(&mut frame).ok()?;
    let len = frame.first_chunk().map(|len| u64::from(u32::from_le_bytes(*len))).filter(|len| *len <= SAID_MAX)?;
    socket.take(len).read_to_end(&mut frame).ok()?;
    wire::reports(&frame).pop()
}

/// To be called first thing in `main`, before any thread is started: becomes the tool when the program was started as the
/// helper, and then returns only if that failed.
#[must_use]
pub fn entry() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    (args.next()? == COMMAND && args.next().is_none()).then(sigil_shim::start::entry)
}

fn written(dir: &Path) -> io::Result<PathBuf> {
    if STATIC.is_empty() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, WHY_NOT));
    }
    crate::platform::create_private_dir(dir)?;
    let hash = ring::digest::digest(&ring::digest::SHA256, STATIC);
    let name = format!("{PREFIX}{}", HEXLOWER.encode(hash.as_ref().get(..8).unwrap_or_default()));
    let path = dir.join(&name);
    // Not by its name alone: whoever can write here could have put anything there.
    if !fs::read(&path).is_ok_and(|found| found == STATIC) {
        for entry in fs::read_dir(dir)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                let _ = fs::remove_file(entry.path()); // what cannot be removed does not disturb
            }
        }
        let part = dir.join(format!("{name}.part"));
        let _ = fs::remove_file(&part);
        let mut file = File::options().write(true).create_new(true).mode(0o755).open(&part)?;
        file.write_all(STATIC)?;
        drop(file);
        fs::rename(&part, &path)?;
    }
    // The user of the tools begins it anew at the level `isolated`; nobody else gets into the home.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    let mut tries = 0;
    loop {
        // A file system may let no program run. Without an order it says so and ends.
        let tried = Command::new(&path).env_clear().stdin(Stdio::null()).stderr(Stdio::null()).status();
        match tried {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => {
                return Err(io::Error::new(error.kind(), format!("{} does not run: {error}", path.display())));
            }
            Ok(_) => return Ok(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::test_kit::{Mutation, fuzz};
    use sigil_shim::wire::{Exit, Level, Limits, User};

    use super::*;

    /// Bytes that a hostile tool could put in the place of the helper's, or a helper of another version: they are read or
    /// refused, and what is read is what was written.
    #[test]
    fn fuzz_what_the_agent_and_its_helper_tell_each_other() {
        let order = Go {
            agent: 7,
            level: Level::Isolated,
            network: Network::None,
            unix_sockets: true,
            user: User::NOBODY,
            limits: Limits { memory: Some(1 << 30), processes: Some(16), ..Limits::FREE },
            dir: "/home/work/1".into(),
            hide: vec!["/home".into()],
            read: vec!["/music".into(), "/etc/x".into()],
            write: Vec::new(),
            command: "tool".into(),
            args: vec!["--all".into(), "".into()],
            env: vec![("PATH".into(), "/bin".into())],
        };
        let told = [
            Report::Ready,
            Report::NotStarted("there is no such program".to_owned()),
            Report::Ended { exit: Exit::Signal(9), left: vec!["sleep (3)".to_owned()] },
        ];
        let framed = |body: &[u8]| [&u32::try_from(body.len()).unwrap().to_le_bytes(), body].concat();
        let said: Vec<Vec<u8>> = told.iter().map(|report| framed(&report.encode())).collect();
        assert_eq!(wire::reports(&said.concat()), told);
        assert!(Go::decode(&order.encode()) == Some(order.clone()));
        let golden: Vec<Vec<u8>> = said.iter().cloned().chain([said.concat(), order.encode()]).collect();
        fuzz("helper", 500, &[], |case| {
            let mut mutation = Mutation::new(case);
            let mut bytes = mutation.pick(&golden).clone();
            mutation.bytes(&mut bytes, &golden);
            if let Some(read) = Go::decode(&bytes) {
                assert!(read.encode() == bytes, "an order has one form");
            }
            let reports = wire::reports(&bytes);
            let again: Vec<u8> = reports.iter().flat_map(|report| framed(&report.encode())).collect();
            assert_eq!(wire::reports(&again), reports);
        });
    }
}
