//! A program that stays: started like any other, in a process group of its own, spoken to by its three streams, and ended
//! honestly. Nothing of its group outlives it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::process::Child;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::container::{Command, Dialer, Ends, Instance, Order, Runtime, RuntimeError, Stop, Told};
use super::egress::Gate;
use super::process::{Group, Launcher, Running, Said, Spec, WayOut, show_end};
use super::run_dir::RunDir;
use super::sandbox::Sandbox;
use super::streams::Streams;
use crate::tasks::TaskGroup;

/// Between the end of its input, `SIGTERM` and `SIGKILL`.
const GRACE: Duration = Duration::from_millis(500);
/// Time that a killed process is waited for. One that hangs in the kernel may take for ever.
const KILL_WAIT: Duration = Duration::from_secs(1);
/// Bytes of its error stream that are kept, the last ones.
const TAIL_BYTES_MAX: usize = 4096;

/// A running program. Nothing of it is left when this is dropped.
pub struct Server(Kind);

enum Kind {
    Process {
        child: Child,
        group: Group,
        said: Option<Said>,
        _dir: RunDir,
        _gate: Option<Gate>,
        /// Keeps the thread that started it, with which it would die.
        _launcher: Launcher,
    },
    /// In a container of its own.
    Contained { runtime: Arc<dyn Runtime>, instance: Instance, ends: Ends, stop: Stop },
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

/// The last that a program wrote to its error stream. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tail(Arc<Mutex<VecDeque<u8>>>);

impl Tail {
    /// Reads a stream until it ends.
    pub async fn read(self, mut stream: impl AsyncRead + Unpin) {
        let mut chunk = vec![0; 4096];
        while let Ok(len @ 1..) = stream.read(&mut chunk).await {
            let mut tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            tail.extend(chunk.iter().take(len));
            let over = tail.len().saturating_sub(TAIL_BYTES_MAX);
            tail.drain(..over);
        }
    }

    /// The last that came, in lines, without control characters.
    #[must_use]
    pub fn text(&self) -> String {
        let tail: Vec<u8> = self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        crate::text::visible_lines(&String::from_utf8_lossy(&tail)).trim().to_owned()
    }
}

impl Server {
    /// Starts a program in a sandbox, with a way out where its network is restricted. Returns it with what it reads, what it
    /// writes, and its error stream.
    ///
    /// # Errors
    /// The reason for which it did not start, for people.
    pub async fn start(
        launcher: &Launcher,
        spec: Spec,
        sandbox: Sandbox,
        way_out: Option<WayOut>,
    ) -> Result<(Self, Sender, Receiver, Errors), String> {
        let Running { child, group, mut said, streams, dir, gate, .. } =
            launcher.launch_out(spec, sandbox, way_out).started().await?;
        let Streams { stdin, stdout, stderr } = streams;
        let begun = tokio::task::spawn_blocking(move || said.begin().map(|()| said)).await;
        let said = begun.unwrap_or_else(|error| Err(error.to_string()))?;
        let kind =
            Kind::Process { child, group, said: Some(said), _dir: dir, _gate: gate, _launcher: launcher.clone() };
        Ok((Self(kind), stdin, stdout, Errors(Box::new(stderr))))
    }

    /// The same in a container, in a task of its own: one that nobody waits for any more is ended, and not left.
    ///
    /// # Errors
    /// The reason for which it did not start, for people.
    pub async fn start_in(
        runtime: Arc<dyn Runtime>,
        order: &Order,
        command: Command,
        tasks: &TaskGroup,
    ) -> Result<(Self, Sender, Receiver, Errors), RuntimeError> {
        let (done, started) = oneshot::channel();
        let order = order.clone();
        tasks.spawn(async move {
            let started = Self::start_alone(runtime, &order, command).await;
            if let Err(Ok((server, ..))) = done.send(started) {
                server.end().await;
            }
        });
        started.await.unwrap_or_else(|_| Err(RuntimeError::NotStarted("this agent is stopping".to_owned())))
    }

    async fn start_alone(
        runtime: Arc<dyn Runtime>,
        order: &Order,
        command: Command,
    ) -> Result<(Self, Sender, Receiver, Errors), RuntimeError> {
        let instance = runtime.start(order).await?;
        let exec = match runtime.exec(&instance, command).await {
            Ok(exec) => exec,
            Err(error) => {
                runtime.stop(instance).await;
                return Err(error);
            }
        };
        let (ends, stop, Streams { stdin, stdout, stderr }) = exec.split();
        Ok((Self(Kind::Contained { runtime, instance, ends, stop }), stdin, stdout, Errors(Box::new(stderr))))
    }

    /// Waits until it has ended by itself; says how. What is left of its group is ended then.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn ended(&mut self) -> String {
        match &mut self.0 {
            Kind::Process { child, group, said, .. } => {
                let exit = child.wait().await;
                group.kill();
                match (exit, said.take()) {
                    (Ok(exit), Some(said)) => said.story(exit),
                    (Ok(exit), None) => exit.to_string(),
                    (Err(error), _) => format!("waiting for it: {error}"),
                }
            }
            Kind::Contained { ends, .. } => match ends.told().await {
                Told::Ended { exit, .. } => show_end(exit),
                Told::NotStarted(why) => why,
                Told::Lost => "its container is gone".to_owned(),
            },
        }
    }

    /// Connects to its own loopback, where it is in a container.
    #[must_use]
    pub fn dialer(&self) -> Option<Dialer> {
        match &self.0 {
            Kind::Process { .. } => None,
            Kind::Contained { instance, .. } => Some(instance.dialer()),
        }
    }

    /// Ends it at once.
    pub async fn kill(self) {
        match self.0 {
            Kind::Process { mut child, mut group, .. } => {
                group.kill();
                let _ = timeout(KILL_WAIT, child.wait()).await;
            }
            Kind::Contained { runtime, instance, .. } => runtime.stop(instance).await,
        }
    }

    /// Ends it. Whoever calls has closed its input: it is given a moment to end by itself, then told to, then killed.
    pub async fn end(self) {
        match self.0 {
            Kind::Process { mut child, mut group, .. } => {
                if timeout(GRACE, child.wait()).await.is_err() {
                    group.terminate();
                    let _ = timeout(GRACE, child.wait()).await;
                }
                group.kill();
                let _ = timeout(KILL_WAIT, child.wait()).await;
            }
            Kind::Contained { runtime, instance, mut ends, stop } => {
                if timeout(GRACE, ends.told()).await.is_err() {
                    stop.stop();
                    let _ = timeout(GRACE, ends.told()).await;
                }
                runtime.stop(instance).await;
            }
        }
    }
}

/// The error stream of a program.
pub struct Errors(Box<dyn AsyncRead + Send + Unpin>);

impl Errors {
    /// Keeps the last of it in `tail`, until it ends.
    pub async fn into_tail(self, tail: Tail) {
        tail.read(self.0).await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::io::AsyncWriteExt as _;

    use super::*;
    use crate::tasks::TaskGroup;

    fn launcher(dir: &std::path::Path) -> Launcher {
        Launcher::start(dir.join("work"), None, &TaskGroup::default()).unwrap()
    }

    fn sh(script: &str) -> Spec {
        let args = vec!["-c".to_owned(), script.to_owned()];
        Spec { command: "sh".into(), args, env: BTreeMap::new(), cwd: None, keep_running: false }
    }

    fn alive(pid: &str) -> bool {
        std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| !stat.contains(") Z "))
    }

    async fn line(stdout: &mut Receiver) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            line.push(stdout.read_u8().await.unwrap());
        }
        String::from_utf8(line).unwrap().trim().to_owned()
    }

    #[tokio::test]
    async fn it_answers_and_ends_when_its_input_does() {
        let dir = tempfile::tempdir().unwrap();
        let (server, mut stdin, mut stdout, errors) = Server::start(
            &launcher(dir.path()),
            sh("echo warn >&2; while read l; do echo got $l; done; echo bye >&2"),
            Sandbox::BARE,
            None,
        )
        .await
        .unwrap();
        stdin.write_all(b"x\n").await.unwrap();
        assert_eq!(line(&mut stdout).await, "got x");
        drop(stdin);
        server.end().await;
        let tail = Tail::default();
        errors.into_tail(tail.clone()).await;
        assert_eq!(tail.text(), "warn\nbye", "no signal ended it");
    }

    #[tokio::test]
    async fn one_that_does_not_listen_is_ended_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let script = "trap '' TERM; sh -c \"trap '' TERM; echo \\$\\$; while :; do sleep 1; done\" & echo $$; while :; do sleep 1; done";
        let (server, stdin, mut stdout, _errors) =
            Server::start(&launcher(dir.path()), sh(script), Sandbox::BARE, None).await.unwrap();
        let pids = [line(&mut stdout).await, line(&mut stdout).await];
        drop(stdin);
        server.end().await;
        for pid in pids {
            let gone = async {
                while alive(&pid) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(Duration::from_secs(5), gone).await.expect("nothing of it is left");
        }
    }

    #[tokio::test]
    async fn its_end_is_told_and_so_is_why_it_did_not_start() {
        let dir = tempfile::tempdir().unwrap();
        let (mut server, _stdin, _stdout, _errors) =
            Server::start(&launcher(dir.path()), sh("exit 3"), Sandbox::BARE, None).await.unwrap();
        assert_eq!(server.ended().await, "exit code 3");
        let none = Spec { command: "/nowhere/x".into(), ..sh("") };
        let why = Server::start(&launcher(dir.path()), none, Sandbox::BARE, None).await.err().unwrap();
        assert!(why.contains("/nowhere/x") && why.contains("not found"), "{why}");
    }
}
