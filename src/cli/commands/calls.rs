//! Calling tools, and looking at calls.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep_until};

use super::console::{read_all, show};
use crate::cli::args::{CallArgs, CallsArgs, arguments};
use crate::cli::client::{Client, Extras, segment};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Tone, Ui, clean, clean_lines, fields, items, relative, short, table, text};

/// Longest time for which the agent holds one look at an open call before it answers that nothing has changed.
const LOOK: Duration = Duration::from_secs(1);

pub(super) async fn call(client: &Client, args: CallArgs, ui: Ui) -> Result<Exit, Failure> {
    let body = Value::Object(request(&args)?);
    let mut headers = Vec::new();
    if let Some(key) = &args.key {
        headers.push(("idempotency-key", key.as_str()));
    }
    let extras = Extras { body: Some(&body), headers: &headers, within: None };
    let answer = client.ask(Method::POST, "/api/v1/calls", extras).await?;
    let accepted = answer.json()?;
    let id = text(&accepted, "id");
    if args.no_wait {
        return Ok(show(ui, "sigil.call/1", accepted, |call| text(call, "id")));
    }
    let (call, interrupted) = wait(client, &id, accepted, args.wait, ui).await?;
    let state = text(&call, "state");
    let exit = Exit::of_call(&state);
    if exit == Exit::Queued {
        let because = match text(&call, "why") {
            because if because.is_empty() => because,
            because => format!("\n  {because}"),
        };
        let why = if interrupted { "Not waiting any longer" } else { "Still open" };
        ui.say(&format!(
            "{why}: call {id} is {state}; it goes on by itself until it ends or expires ({}).{because}\n  look:  sigil calls {id}\n  stop:  sigil cancel {id}",
            relative(&call, "expires_at")
        ));
        if ui.json {
            ui.document("sigil.call/1", call);
        } else {
            ui.print(&id);
        }
        return Ok(exit);
    }
    if ui.json {
        ui.document("sigil.call/1", call);
    } else {
        show_end(client, &call, ui).await?;
    }
    Ok(exit)
}

fn request(args: &CallArgs) -> Result<Map<String, Value>, Failure> {
    let usage = |why: String| Failure::new(Exit::Usage, why);
    let arguments = match args.input.as_deref() {
        None => arguments(&args.args).map_err(usage)?,
        Some(input) => {
            let json = match input.strip_prefix('@') {
                Some(path) => {
                    let file = std::fs::File::open(path).map_err(|error| usage(format!("reading {path}: {error}")))?;
                    read_all(path, file)?
                }
                None if input == "-" => read_all("standard input", std::io::stdin())?,
                None => input.to_owned(),
            };
            serde_json::from_str(&json).map_err(|error| usage(format!("the input is not JSON: {error}")))?
        }
    };
    let mut body = Map::from_iter([
        ("node".to_owned(), json!(args.node)),
        ("tool".to_owned(), json!(args.tool)),
        ("arguments".to_owned(), arguments),
    ]);
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    set("ttl_s", args.ttl.map(Value::from));
    set("timeout_s", args.timeout.map(Value::from));
    set("effect", args.effect.map(|effect| json!(effect.as_str())));
    Ok(body)
}

/// Watches a call until it has ended, the wait is over, or Ctrl-C; true for the last of these.
async fn wait(client: &Client, id: &str, mut call: Value, wait: Duration, ui: Ui) -> Result<(Value, bool), Failure> {
    let deadline = Instant::now() + wait;
    let path = format!("/api/v1/calls/{}", segment(id));
    let mut pause = Duration::from_millis(5);
    let mut told = String::new();
    loop {
        let state = text(&call, "state");
        if Exit::of_call(&state) != Exit::Queued {
            ui.progress("");
            return Ok((call, false));
        }
        let said = progress_text(&call, deadline.saturating_duration_since(Instant::now()));
        if said != told {
            ui.progress(&said);
            told = said;
        }
        if Instant::now() >= deadline {
            ui.progress("");
            return Ok((call, false));
        }
        // An agent that can hold the question answers when the call ends; one that cannot is asked again, ever slower.
        let began = Instant::now();
        let look = async {
            let seconds = LOOK.min(deadline.saturating_duration_since(began)).as_secs().to_string();
            let prefer = format!("wait={seconds}");
            let extras = Extras { headers: &[("prefer", &prefer)], ..Extras::default() };
            let seen = client.ask(Method::GET, &path, extras).await?.json()?;
            if Exit::of_call(&text(&seen, "state")) == Exit::Queued {
                sleep_until(deadline.min(began + pause)).await;
            }
            Ok::<_, Failure>(seen)
        };
        tokio::select! {
            seen = look => call = seen?,
            _ = tokio::signal::ctrl_c() => {
                ui.progress("");
                return Ok((call, true));
            }
        }
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

fn progress_text(call: &Value, left: Duration) -> String {
    let last = call.get("history").and_then(Value::as_array).and_then(|history| history.last());
    let note = last.map(|row| text(row, "reason")).filter(|note| !note.is_empty()).map(|note| format!(" ({note})"));
    format!(
        "{} on {} is {}{} · waiting {} s more",
        text(call, "tool"),
        text(call, "node"),
        text(call, "state"),
        note.unwrap_or_default(),
        left.as_secs()
    )
}

/// The output to standard output; what went wrong to standard error.
async fn show_end(client: &Client, call: &Value, ui: Ui) -> Result<(), Failure> {
    let state = text(call, "state");
    match call.get("output") {
        Some(output) if !output.is_null() && text(call, "output_encoding") != "base64" => {
            print_output(ui, &output_text(output));
        }
        // Bytes, or too many of them for the call's own record.
        _ if call.get("output_bytes").and_then(Value::as_u64).unwrap_or_default() > 0 => {
            write_bytes(&result_bytes(client, &text(call, "id")).await?)?;
        }
        _ => {}
    }
    if state != "done" {
        let mut said = format!("call {} on {} {}", text(call, "tool"), text(call, "node"), sentence(&state));
        for more in
            [text(call, "reason"), call.get("error").and_then(Value::as_str).map(clean_lines).unwrap_or_default()]
        {
            if !more.is_empty() {
                said.push_str(": ");
                said.push_str(more.trim_end());
            }
        }
        if call.get("confirmed") == Some(&Value::Bool(false)) {
            said.push_str("\n  not yet confirmed by the device itself");
        }
        ui.say(&said);
        ui.say(&format!("  whole history: sigil calls {}", text(call, "id")));
    }
    Ok(())
}

async fn result_bytes(client: &Client, id: &str) -> Result<Bytes, Failure> {
    let path = format!("/api/v1/calls/{}/result", segment(id));
    match client.ask(Method::GET, &path, Extras::default()).await {
        Ok(answer) => Ok(answer.body),
        // It said nothing: as a file, that is an empty one.
        Err(failure) if failure.code() == "no_output" => Ok(Bytes::new()),
        Err(failure) => Err(failure),
    }
}

/// An ending in words.
fn sentence(state: &str) -> &str {
    match state {
        "failed" => "failed",
        "interrupted" => "was cut while it ran: it may or may not have happened, and is not tried again",
        "expired" => "was not run in time",
        "cancelled" => "was cancelled",
        "denied" => "was not allowed",
        "undeliverable" => "cannot be delivered any more",
        other => other,
    }
}

fn output_text(output: &Value) -> String {
    output.as_str().map_or_else(|| format!("{output:#}"), str::to_owned)
}

fn print_output(ui: Ui, output: &str) {
    let output = output.strip_suffix('\n').unwrap_or(output);
    // A tool's output must not steer a terminal; into a pipe it goes unchanged.
    if std::io::stdout().is_terminal() { ui.print(&clean_lines(output)) } else { ui.print(output) }
}

fn write_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let written = if stdout.is_terminal() {
        writeln!(stdout, "{}", clean_lines(&String::from_utf8_lossy(bytes)))
    } else {
        stdout.write_all(bytes)
    };
    match written.and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Failed, format!("writing the result: {error}")))
        }
        _ => Ok(()),
    }
}

pub(super) async fn calls(client: &Client, args: CallsArgs, ui: Ui) -> Result<Exit, Failure> {
    if let Some(id) = &args.id {
        let body = client.get(&format!("/api/v1/calls/{}", segment(id))).await?;
        return Ok(show(ui, "sigil.call/1", body, |call| call_text(call, ui)));
    }
    let mut path = format!("/api/v1/calls?limit={}", args.limit);
    let state = if args.queued { Some("queued".to_owned()) } else { args.state };
    for (name, value) in [("node", &args.node), ("state", &state), ("cursor", &args.cursor)] {
        if let Some(value) = value {
            let _ = write!(path, "&{name}={}", segment(value));
        }
    }
    let filtered = args.node.is_some() || state.is_some();
    let body = client.get(&path).await?;
    Ok(show(ui, "sigil.calls/1", body, |body| calls_text(body, filtered, ui)))
}

fn calls_text(body: &Value, filtered: bool, ui: Ui) -> String {
    let rows: Vec<_> = items(body)
        .iter()
        .map(|call| {
            let unsure = if call.get("confirmed") == Some(&Value::Bool(false))
                && Exit::of_call(&text(call, "state")) != Exit::Queued
            {
                "?"
            } else {
                ""
            };
            vec![
                text(call, "id"),
                text(call, "node"),
                text(call, "tool"),
                format!("{}{unsure}", ui.state(&text(call, "state"))),
                relative(call, "created_at"),
                text(call, "reason"),
            ]
        })
        .collect();
    if rows.is_empty() {
        let none = if filtered {
            "No such calls. `sigil calls` lists all."
        } else {
            "No calls yet. `sigil tools` lists what can be called."
        };
        return none.to_owned();
    }
    let mut list = table(&["CALL", "NODE", "TOOL", "STATE", "MADE", "REASON"], &rows);
    if let Some(cursor) = body.get("next_cursor").and_then(Value::as_str) {
        let _ = write!(list, "\n\nMore: sigil calls --cursor {}", clean(cursor));
    }
    list
}

fn call_text(call: &Value, ui: Ui) -> String {
    let mut pairs = vec![
        ("call", ui.paint(Tone::Strong, &text(call, "id"))),
        ("node", text(call, "node")),
        ("tool", text(call, "tool")),
        ("state", ui.state(&text(call, "state"))),
    ];
    for name in ["why", "confirmed", "reason", "error", "effect", "attempt", "alias_of"] {
        let value = text(call, name);
        if !value.is_empty() {
            pairs.push((name, value));
        }
    }
    pairs.push(("made", relative(call, "created_at")));
    pairs.push(("expires", relative(call, "expires_at")));
    let mut said = fields(&pairs);
    let history = call.get("history").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let rows: Vec<_> = history
        .iter()
        .map(|row| vec![text(row, "at"), ui.state(&text(row, "state")), peer_text(row), text(row, "reason")])
        .collect();
    if !rows.is_empty() {
        said.push_str("\n\n");
        said.push_str(&table(&["AT", "STATE", "BY", "REASON"], &rows));
    }
    said
}

fn peer_text(row: &Value) -> String {
    match text(row, "node") {
        node if node.is_empty() => short(&text(row, "peer")),
        node => node,
    }
}

pub(super) async fn result(client: &Client, id: &str, output: Option<&Path>, ui: Ui) -> Result<Exit, Failure> {
    let call = client.get(&format!("/api/v1/calls/{}", segment(id))).await?;
    let state = text(&call, "state");
    let exit = Exit::of_call(&state);
    if exit == Exit::Queued {
        return Err(Failure::new(exit, format!("call {} is still {state}", clean(id)))
            .hint(format!("look again later, or stop it with `sigil cancel {}`", clean(id))));
    }
    if state != "done" && output.is_none() {
        if ui.json {
            ui.document("sigil.result/1", call);
        } else {
            show_end(client, &call, ui).await?;
        }
        return Ok(exit);
    }
    let bytes = result_bytes(client, id).await?;
    if let Some(path) = output {
        let written = std::fs::write(path, &bytes);
        written.map_err(|error| Failure::new(Exit::Failed, format!("writing {}: {error}", path.display())))?;
        let told = json!({ "id": id, "state": state, "file": path, "bytes": bytes.len() });
        if ui.json {
            ui.document("sigil.result/1", told);
        } else {
            ui.say(&format!("{} bytes written to {}", bytes.len(), path.display()));
        }
    } else if ui.json {
        let output = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        let mut call = call;
        if let Some(fields) = call.as_object_mut() {
            fields.insert("output".into(), output);
        }
        ui.document("sigil.result/1", call);
    } else {
        write_bytes(&bytes)?;
    }
    Ok(exit)
}

pub(super) async fn cancel(client: &Client, id: &str, reason: Option<String>, ui: Ui) -> Result<Exit, Failure> {
    let body = reason.map_or_else(|| json!({}), |reason| json!({ "reason": reason }));
    let answer = client.post(&format!("/api/v1/calls/{}/cancel", segment(id)), &body).await?;
    Ok(show(ui, "sigil.call/1", answer, |call| match text(call, "state") {
        state if state.is_empty() => format!("Asked to cancel {}.", clean(id)),
        state => format!("{} is {state}.", clean(id)),
    }))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Cli, Command};

    fn call_args(line: &str) -> CallArgs {
        let cli = Cli::try_parse_from(line.split_whitespace()).expect(line);
        let Command::Call(args) = cli.command else { panic!("{line}") };
        args
    }

    #[test]
    fn only_what_was_said_is_sent() {
        let body = request(&call_args("sigil call attic device.info")).expect("valid");
        assert_eq!(Value::Object(body), json!({"node": "attic", "tool": "device.info", "arguments": {}}));
        let line = "sigil call any t --input [1] --ttl 1h --timeout 5s --effect once --key k";
        let body = request(&call_args(line)).expect("valid");
        assert_eq!(
            Value::Object(body),
            json!({"node": "any", "tool": "t", "arguments": [1], "ttl_s": 3600, "timeout_s": 5, "effect": "once"})
        );
    }

    #[test]
    fn bad_input_is_a_usage_error() {
        for line in [
            "sigil call a t --input nope",
            "sigil call a t --input @/nowhere/at/all",
            "sigil call a t --arg k=1 --arg k=2",
        ] {
            assert_eq!(request(&call_args(line)).expect_err(line).exit, Exit::Usage);
        }
    }

    #[test]
    fn lists_have_an_empty_state_and_a_next_page() {
        let ui = Ui::plain(false);
        assert!(calls_text(&json!({"items": []}), false, ui).contains("sigil tools"));
        assert!(calls_text(&json!({"items": []}), true, ui).contains("sigil calls"));
        let call = json!({"id": "c1", "node": "attic", "tool": "t", "state": "expired", "confirmed": false, "created_at": "x", "reason": "off"});
        assert_eq!(
            calls_text(&json!({"items": [call], "next_cursor": "n"}), false, ui),
            "CALL  NODE   TOOL  STATE     MADE  REASON\nc1    attic  t     expired?  x     off\n\nMore: sigil calls --cursor n"
        );
    }

    #[test]
    fn a_call_is_shown_with_its_history() {
        let call = json!({"id": "c1", "node": "attic", "tool": "t", "state": "done", "confirmed": true, "attempt": 1, "created_at": "a", "expires_at": "b",
            "history": [{"state": "accepted", "at": "1", "peer": "x".repeat(52), "node": "study", "reason": ""}, {"state": "done", "at": "2", "peer": "x".repeat(52), "reason": ""}]});
        assert_eq!(
            call_text(&call, Ui::plain(false)),
            "call       c1\nnode       attic\ntool       t\nstate      done\nconfirmed  true\nattempt    1\nmade       a\nexpires    b\n\nAT  STATE     BY       REASON\n1   accepted  study\n2   done      xxxxxxx"
        );
    }

    #[test]
    fn outputs_are_shown_as_they_are() {
        assert_eq!(output_text(&json!("a\nb")), "a\nb");
        assert_eq!(output_text(&json!({"a": 1})), "{\n  \"a\": 1\n}");
    }
}
