//! Signals: which of them end an agent, which have it read its settings anew, and which it lives through.

use std::future::poll_fn;
use std::io::{self, IsTerminal as _};
use std::task::Poll;

use nix::sys::signal::Signal;
use tokio::signal::unix::{self, SignalKind};

/// These end it cleanly.
const STOPPING: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT];
/// These would end it at once by default, and mean nothing to it: sent by mistake, or by a limit of its starter.
const IGNORED: [Signal; 7] = [
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGIO,
    // A file that has grown to its limit: the write fails, and that is told.
    Signal::SIGXFSZ,
];

/// A request that came by a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SignalRequest {
    /// End cleanly.
    Stop(Signal),
    /// Read the settings anew.
    Reload,
}

/// The signals that this process waits for, from its making on.
#[derive(Debug)]
pub(super) struct Signals {
    all: Vec<(Signal, unix::Signal)>,
    /// A terminal that is closed sends the same signal as a person who wants a reload.
    on_terminal: bool,
}

impl Signals {
    /// Takes the signals that must not end a process that starts.
    pub(super) fn early() -> io::Result<Self> {
        let all = IGNORED.into_iter().chain([Signal::SIGHUP]).map(taken).collect::<io::Result<_>>()?;
        Ok(Self { all, on_terminal: has_terminal() })
    }

    /// Takes those that end it too: until then they do so at once.
    pub(super) fn with_stopping(mut self) -> io::Result<Self> {
        for signal in STOPPING {
            self.all.push(taken(signal)?);
        }
        Ok(self)
    }

    /// The next request.
    ///
    /// # Cancel safety
    /// No signal is lost.
    pub(super) async fn next(&mut self) -> SignalRequest {
        loop {
            let signal = poll_fn(|context| {
                let came = self.all.iter_mut().find_map(|(signal, taken)| match taken.poll_recv(context) {
                    Poll::Ready(Some(())) => Some(*signal),
                    Poll::Ready(None) | Poll::Pending => None,
                });
                came.map_or(Poll::Pending, Poll::Ready)
            });
            let signal = signal.await;
            if STOPPING.contains(&signal) || (signal == Signal::SIGHUP && self.on_terminal && !has_terminal()) {
                return SignalRequest::Stop(signal);
            }
            if signal == Signal::SIGHUP {
                return SignalRequest::Reload;
            }
            tracing::info!(%signal, "a signal that means nothing here");
        }
    }
}

fn taken(signal: Signal) -> io::Result<(Signal, unix::Signal)> {
    Ok((signal, unix::signal(SignalKind::from_raw(signal as i32))?))
}

/// True while one of the standard streams is a terminal that is there.
fn has_terminal() -> bool {
    io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal()
}
