//! The book of all calls that were made, and a steady stream of them.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;

use super::clock::now;
use super::http::{Answer, ask};

/// A call for which a receipt was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Made {
    /// Its id.
    pub(super) id: String,
    /// At whose door, by index.
    pub(super) origin: usize,
    /// For whom, by index.
    pub(super) target: usize,
}

/// All requests to the doors.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// Calls with a receipt.
    pub(super) made: Vec<Made>,
    /// Refusals of the doors.
    pub(super) refused: Vec<String>,
    /// Questions without an answer: the agent was down, or died over it.
    pub(super) unanswered: usize,
}

/// A book that many write.
pub(super) type SharedBook = Arc<Mutex<Book>>;

/// A call as it is asked for.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// Index of the origin, and its door.
    pub(super) origin: usize,
    /// The origin's socket.
    pub(super) socket: PathBuf,
    /// Index of the target.
    pub(super) target: usize,
    /// Name or peer id by which it is asked for.
    pub(super) node: String,
    /// The tool.
    pub(super) tool: String,
    /// Time to live, seconds.
    pub(super) ttl_s: f64,
    /// The client's key.
    pub(super) key: Option<String>,
}

/// Makes one call and writes down what came of it.
pub(super) fn make(asked: &Asked, book: &SharedBook) -> io::Result<Answer> {
    let Asked { origin, socket, target, node, tool, ttl_s, key } = asked;
    let body = json!({ "node": node, "tool": tool, "arguments": {}, "ttl_s": ttl_s });
    let answer = ask(socket, "POST", "calls", Some(&body), key.as_deref());
    let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
    match &answer {
        Ok(yes) if yes.is_yes() => book.made.push(Made { id: yes.text("id"), origin: *origin, target: *target }),
        Ok(no) => book.refused.push(format!("{} {}", no.status, no.text("code"))),
        Err(_) => book.unanswered += 1,
    }
    answer
}

/// A stream of calls; it ends when it goes.
#[derive(Debug)]
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Each list of calls is made in turn, `rate` a second, by a thread of its own.
    pub(super) fn new(lists: Vec<Vec<Asked>>, rate: u32, book: &SharedBook) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let step = Duration::from_secs(1) / rate.max(1);
        let feed = |list: Vec<Asked>| {
            let (stop, book) = (stop.clone(), book.clone());
            std::thread::spawn(move || {
                let mut next = now();
                for asked in list.iter().cycle() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    // Whatever comes of it is in the book.
                    let _ = make(asked, &book);
                    // A door that was slow for a while is not flooded afterwards.
                    next = (next + step).max(now());
                    std::thread::sleep(next.saturating_duration_since(now()));
                }
            })
        };
        Self { threads: lists.into_iter().map(feed).collect(), stop }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has been reported already.
            let _ = thread.join();
        }
    }
}
