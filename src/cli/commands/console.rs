//! The terminal of a command: answers, input, and a question to the person there.

use std::io::{BufRead, IsTerminal, Read};

use nix::sys::termios::{self, LocalFlags, SetArg};
use serde_json::Value;

use crate::cli::body::Body;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Ui;

/// Longest standard input or file that is read for a command: the largest arguments of a call and some room, so that
/// the agent itself can say what is too large.
const INPUT_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// Shows an answer: as it is under `--json`, else as `human` puts it.
pub(super) fn show(ui: Ui, schema: &str, body: Body, human: impl FnOnce(&Value) -> String) -> Exit {
    if ui.json {
        ui.document(schema, body);
    } else {
        ui.print(&human(&body));
    }
    Exit::Ok
}

/// Reads a whole stream, up to [`INPUT_BYTES_MAX`].
pub(super) fn read_all(what: &str, from: impl Read) -> Result<String, Failure> {
    let mut text = String::new();
    let read = from.take(INPUT_BYTES_MAX + 1).read_to_string(&mut text);
    read.map_err(|error| Failure::new(Exit::Usage, format!("reading {what}: {error}")))?;
    if text.len() as u64 > INPUT_BYTES_MAX {
        return Err(Failure::new(Exit::Usage, format!("{what} is longer than {} MiB", INPUT_BYTES_MAX >> 20)));
    }
    Ok(text)
}

/// Asks the person at the terminal for a secret, which is not shown; `None` when there is no terminal.
pub(super) async fn ask_unseen(ui: Ui, question: &str) -> Option<Result<String, Failure>> {
    if ui.json || !std::io::stdin().is_terminal() {
        return None;
    }
    ui.say(question);
    let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Usage, format!("reading the terminal: {error}"));
    let before = match termios::tcgetattr(std::io::stdin()) {
        Ok(before) => before,
        Err(error) => return Some(Err(failed(&error))),
    };
    let mut unseen = before.clone();
    unseen.local_flags.remove(LocalFlags::ECHO);
    if let Err(error) = termios::tcsetattr(std::io::stdin(), SetArg::TCSAFLUSH, &unseen) {
        return Some(Err(failed(&error)));
    }
    let line = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().lock().take(INPUT_BYTES_MAX).read_line(&mut line).map(|_| line)
    });
    // Ctrl-C must leave a terminal that shows what is typed.
    let read = tokio::select! {
        read = line => match read {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(error)) => Err(failed(&error)),
            Err(error) => Err(failed(&error)),
        },
        _ = tokio::signal::ctrl_c() => Err(Failure::new(Exit::Failed, "nothing was done")),
    };
    let _ = termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, &before);
    Some(read)
}

/// Asks the person at the terminal; `None` when there is none.
pub(super) fn confirm(ui: Ui, question: &str) -> Option<bool> {
    let stdin = std::io::stdin();
    if ui.json || !stdin.is_terminal() || !ui.live {
        return None;
    }
    ui.say(&format!("{question} [y/N]"));
    let mut line = String::new();
    stdin.lock().read_line(&mut line).ok()?;
    Some(matches!(line.trim(), "y" | "Y" | "yes"))
}
