//! Everything that asks a running agent.

mod calls;
mod care;
mod mesh;

pub(super) use self::mesh::epoch;

use std::io::{BufRead, IsTerminal, Read};

use serde_json::Value;

use crate::cli::args::Command;
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Ui;

/// Longest standard input or file that is read for a command: the largest arguments of a call and some room, so that
/// the agent itself can say what is too large.
const INPUT_BYTES_MAX: u64 = 2 * 1024 * 1024;

pub(crate) async fn run(command: Command, client: Client, ui: Ui) -> Result<Exit, Failure> {
    let client = &client;
    match command {
        Command::Down => super::up::down(client, ui).await,
        Command::Status => mesh::status(client, ui).await,
        Command::Invite(args) => mesh::invite(client, &args, ui).await,
        Command::Join(args) => mesh::join(client, args, ui).await,
        Command::Leave => mesh::leave(client, ui).await,
        Command::Nearby => mesh::nearby(client, ui).await,
        Command::Pending => mesh::pending(client, ui).await,
        Command::Approve(args) => mesh::approve(client, &args, ui).await,
        Command::Reject { id } => mesh::reject(client, &id, ui).await,
        Command::Forget { node } => mesh::forget(client, &node, ui).await,
        Command::Nodes { id: None } => mesh::nodes(client, ui).await,
        Command::Nodes { id: Some(id) } => mesh::node(client, &id, ui).await,
        Command::Tools { node } => mesh::tools(client, node.as_deref(), ui).await,
        Command::Call(args) => calls::call(client, args, ui).await,
        Command::Calls(args) => calls::calls(client, args, ui).await,
        Command::Result { id, output } => calls::result(client, &id, output.as_deref(), ui).await,
        Command::Cancel { id, reason } => calls::cancel(client, &id, reason, ui).await,
        Command::Token { revoke_all } => care::token(client, revoke_all, ui).await,
        Command::Logs { follow, lines } => care::logs(client, follow, lines, ui).await,
        Command::Doctor => care::doctor(client, ui).await,
        // Handled before there is a client.
        Command::Up(_) | Command::Demo(_) => Ok(Exit::Usage),
    }
}

/// Shows an answer: as it is under `--json`, else as `human` puts it.
fn show(ui: Ui, schema: &str, body: Value, human: impl FnOnce(&Value) -> String) -> Exit {
    if ui.json {
        ui.document(schema, body);
    } else {
        ui.print(&human(&body));
    }
    Exit::Ok
}

/// Reads a whole stream, up to [`INPUT_BYTES_MAX`].
fn read_all(what: &str, from: impl Read) -> Result<String, Failure> {
    let mut text = String::new();
    let read = from.take(INPUT_BYTES_MAX + 1).read_to_string(&mut text);
    read.map_err(|error| Failure::new(Exit::Usage, format!("reading {what}: {error}")))?;
    if text.len() as u64 > INPUT_BYTES_MAX {
        return Err(Failure::new(Exit::Usage, format!("{what} is longer than {} MiB", INPUT_BYTES_MAX >> 20)));
    }
    Ok(text)
}

/// Asks the person at the terminal; `None` when there is none.
fn confirm(ui: Ui, question: &str) -> Option<bool> {
    let stdin = std::io::stdin();
    if ui.json || !stdin.is_terminal() || !ui.live {
        return None;
    }
    ui.say(&format!("{question} [y/N]"));
    let mut line = String::new();
    stdin.lock().read_line(&mut line).ok()?;
    Some(matches!(line.trim(), "y" | "Y" | "yes"))
}
