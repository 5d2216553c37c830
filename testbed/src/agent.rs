//! The process of an agent. It never outlives its owner.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A command in a network namespace, if one is named. Settings of the person who runs it (`SIGIL_…`) are for their own
/// home and do not reach it.
#[must_use]
pub fn command(namespace: Option<&str>, words: &[&Path]) -> Command {
    let within: Vec<&Path> = namespace.iter().flat_map(|name| ["ip", "netns", "exec", name]).map(Path::new).collect();
    let mut words = within.iter().chain(words);
    let mut command = Command::new(words.next().copied().unwrap_or(Path::new("sigil")));
    command.args(words);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SIGIL_")) {
        command.env_remove(name);
    }
    // Nor does a test reach the desktop of whoever runs it.
    for name in ["DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR"] {
        command.env_remove(name);
    }
    // How full the disk of this machine is, is not what is tested.
    command.env("SIGIL_STORAGE_FREE_MIN", "0B");
    command.env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// The file that an agent's output is added to.
///
/// # Errors
/// The file cannot be opened.
pub fn log_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// An agent's process, if it runs. Dropping it kills the process.
#[derive(Debug, Default)]
pub struct Agent(Option<Child>);

impl Agent {
    /// Starts it.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(&mut self, command: &mut Command) -> io::Result<()> {
        self.kill();
        self.0 = Some(command.spawn()?);
        Ok(())
    }

    /// True if it was started and has not been seen to end.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.0.is_some()
    }

    /// Process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.0.as_ref().map(Child::id)
    }

    /// End of the process, once, if it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        let status = self.0.as_mut()?.try_wait().ok().flatten();
        if status.is_some() {
            self.0 = None;
        }
        status
    }

    /// Sends a signal to it, and to nobody else: the id stays its own until we have waited for it.
    ///
    /// # Errors
    /// It does not run, or has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = self.pid().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "does not run"))?;
        kill(Pid::from_raw(pid), signal).map_err(io::Error::from)
    }

    /// SIGKILL, and waits for the end; ends a frozen process too.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.0.take() {
            // Both fail only if it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_ends_with_its_owner_or_by_a_signal() {
        let mut agent = Agent::default();
        assert!(!agent.runs() && agent.signal(Signal::SIGTERM).is_err());
        agent.spawn(command(None, &[Path::new("sleep"), Path::new("600")]).stdout(Stdio::null())).unwrap();
        assert!(agent.runs() && agent.pid().is_some() && agent.exited().is_none());
        agent.signal(Signal::SIGTERM).unwrap();
        let ended = std::iter::repeat_with(|| agent.exited()).flatten().next().unwrap();
        assert!(!ended.success() && !agent.runs());
    }
}
