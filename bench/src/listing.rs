//! Clients beside those that call: one that listens to events, one that lists calls again and again.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use testbed::http::{Request, ask_unix};
use tokio::time::Instant;

use crate::stats::Samples;

/// Longest silence of an agent within one answer.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// The event stream of an agent, read by a thread that ends with the stream.
pub(crate) struct Events(Arc<Mutex<Vec<String>>>);

impl Events {
    /// Listens from now on.
    pub(crate) fn listen(socket: &Path) -> Result<Self> {
        let mut stream = UnixStream::connect(socket).context("the agent's socket")?;
        write!(stream, "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")?;
        let names = Arc::new(Mutex::new(Vec::new()));
        let seen = names.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if let Some(name) = line.strip_prefix("event:") {
                    seen.lock().unwrap_or_else(PoisonError::into_inner).push(name.trim().to_owned());
                }
            }
        });
        Ok(Self(names))
    }

    /// Number of events of this name so far.
    pub(crate) fn named(&self, name: &str) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().filter(|seen| *seen == name).count()
    }
}

/// A list that is asked for again and again, by a thread.
pub(crate) struct Lists {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Samples>>,
}

impl Lists {
    /// Asks from now on.
    pub(crate) fn repeat(socket: &Path, path: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, socket, path) = (stop.clone(), PathBuf::from(socket), format!("/api/v1/{path}"));
        let thread = std::thread::spawn(move || {
            let mut samples = Samples::default();
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                let request = Request { method: "GET", path: &path, headers: &[], body: b"" };
                let answer = ask_unix(&socket, &request, SILENCE_MAX).context("listing calls")?;
                if !answer.is_success() {
                    bail!("listing calls: {} {}", answer.status, answer.text());
                }
                samples.add(began.elapsed());
            }
            Ok(samples)
        });
        Self { stop, thread }
    }

    /// Stops asking. Time of each answer.
    pub(crate) fn stop(self) -> Result<Samples> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the client that lists calls panicked"))?
    }
}
