//! Calling tools, and looking at calls.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::console::{read_all, show};
use crate::cli::args::{CallArgs, CallsArgs, arguments};
use crate::cli::body::{Body, raw};
use crate::cli::client::{Client, Extras, segment};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Tone, Ui, clean, clean_lines, fields, items, relative, short, table, text};

/// Longest time for which the agent holds one look at an open call, or at bytes that are coming, before it answers that
/// nothing has changed.
const LOOK: Duration = Duration::from_secs(1);
/// Wait for the end of a call if the person names none.
const WAIT_DEFAULT: Duration = Duration::from_secs(20);
/// Time without a new byte of a result after which it is given up, if the person names no wait. More than the 10 s after
/// which the agent tries a stalled transfer anew.
const BYTES_STALL_MAX: Duration = Duration::from_secs(30);

pub(super) async fn call(client: &Client, args: CallArgs, ui: Ui) -> Result<Exit, Failure> {
    let body = request(&args)?;
    let mut headers = Vec::new();
    if let Some(key) = &args.key {
        headers.push(("idempotency-key", key.as_str()));
    }
    let began = Instant::now();
    let extras = Extras { body: Some(body), headers: &headers, within: None };
    let answer = client.ask(Method::POST, "/api/v1/calls", extras).await;
    // Sent, and no answer: it may be on disk there or not.
    let answer = answer.map_err(|failure| {
        if failure.exit == Exit::NoAgent && failure.problem.is_none() && failure.detail.contains("silent") {
            failure.hint("the call may have been accepted: look at `sigil calls` before you make it again")
        } else {
            failure
        }
    });
    let accepted = answer?.json()?;
    let id = text(&accepted, "id");
    if args.no_wait {
        return Ok(show(ui, "sigil.call/1", accepted, |call| text(call, "id")));
    }
    let deadline = began + args.wait.unwrap_or(WAIT_DEFAULT);
    let (call, interrupted) = wait(client, &id, accepted, deadline, ui).await?;
    let exit = Exit::of_ending(&call);
    if exit == Exit::Queued {
        tell_open(&call, interrupted, ui);
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
        show_end(client, &call, args.wait.map(|wait| began + wait), ui).await?;
    }
    Ok(exit)
}

fn tell_open(call: &Value, interrupted: bool, ui: Ui) {
    let because = match text(call, "why") {
        because if because.is_empty() => because,
        because => format!("\n  {because}"),
    };
    let why = if interrupted { "Not waiting any longer" } else { "Still open" };
    let (id, state) = (text(call, "id"), text(call, "state"));
    ui.say(&format!(
        "{why}: call {id} is {state}; it goes on by itself until it ends or expires ({}).{because}\n  look:  sigil calls {id}\n  stop:  sigil cancel {id}",
        relative(call, "expires_at")
    ));
}

/// Body of the request. The arguments stand in it as the person has written them.
fn request(args: &CallArgs) -> Result<String, Failure> {
    #[derive(Serialize)]
    struct Request<'a> {
        node: &'a str,
        tool: &'a str,
        arguments: Box<RawValue>,
        #[serde(skip_serializing_if = "Option::is_none")]
        ttl_s: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        timeout_s: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        effect: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        workspace: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        agent: Option<&'a str>,
    }
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
    let body = Request {
        node: &args.node,
        tool: &args.tool,
        arguments,
        ttl_s: args.ttl,
        timeout_s: args.timeout,
        effect: args.effect.map(crate::cli::args::Effect::as_str),
        workspace: args.workspace.as_deref(),
        agent: args.agent.as_deref(),
    };
    Ok(raw(&body).get().to_owned())
}

/// Watches a call until it has ended, the deadline has come, or Ctrl-C; true for the last of these.
async fn wait(client: &Client, id: &str, mut call: Body, deadline: Instant, ui: Ui) -> Result<(Body, bool), Failure> {
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
async fn show_end(client: &Client, call: &Value, deadline: Option<Instant>, ui: Ui) -> Result<(), Failure> {
    let state = text(call, "state");
    if call.get("output_bytes").and_then(Value::as_u64).unwrap_or_default() > 0 {
        ui.output(&result_bytes(client, &text(call, "id"), None, deadline, ui).await?);
    }
    tell_parts(call, ui);
    let reason = text(call, "reason");
    if state == "done" {
        if !reason.is_empty() {
            ui.say(&format!("note: {reason}"));
        }
        return Ok(());
    }
    let mut said = format!("call {} on {} {}", text(call, "tool"), text(call, "node"), sentence(&state));
    for more in [reason, call.get("error").and_then(Value::as_str).map(clean_lines).unwrap_or_default()] {
        if !more.is_empty() {
            said.push_str(": ");
            said.push_str(more.trim_end());
        }
    }
    if call.get("confirmed") == Some(&Value::Bool(false)) {
        said.push_str("\n  not yet confirmed by the device itself");
    }
    ui.say(&said);
    if matches!(Exit::of_ending(call), Exit::Denied | Exit::Expired) {
        ui.say(&format!("  why: sigil policy explain --call {}", text(call, "id")));
    }
    ui.say(&format!("  whole history: sigil calls {}", text(call, "id")));
    Ok(())
}

/// The parts of a result that do not go to standard output, each with the way to it.
fn tell_parts(call: &Value, ui: Ui) {
    let parts = call.get("parts").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let shown = call.get("output_bytes").and_then(Value::as_u64).unwrap_or_default() > 0;
    for part in parts.iter().skip(usize::from(shown)) {
        let number = |name: &str| part.get(name).and_then(Value::as_u64).unwrap_or_default();
        let name = match text(part, "name") {
            name if name.is_empty() => String::new(),
            name => format!("{name}, "),
        };
        let (n, kind, bytes) = (number("n"), text(part, "media_type"), number("bytes"));
        let press = format!("`sigil result {} --part {n} -o FILE`", text(call, "id"));
        ui.say(&format!("part {n}: {name}{kind}, {bytes} bytes: {press}"));
    }
}

/// The bytes of a result, or of one of its parts. They are waited for until the deadline; without one, for as long as they come.
async fn result_bytes(
    client: &Client,
    id: &str,
    part: Option<u8>,
    deadline: Option<Instant>,
    ui: Ui,
) -> Result<Bytes, Failure> {
    let part = part.map(|part| format!("/{part}")).unwrap_or_default();
    let path = format!("/api/v1/calls/{}/result{part}", segment(id));
    let mut seen = 0;
    let mut give_up = deadline.unwrap_or_else(|| Instant::now() + BYTES_STALL_MAX);
    loop {
        let seconds = LOOK.min(give_up.saturating_duration_since(Instant::now())).as_secs();
        let prefer = format!("wait={seconds}");
        let extras = Extras { headers: &[("prefer", &prefer)], ..Extras::default() };
        let asked = tokio::select! {
            asked = client.ask(Method::GET, &path, extras) => Some(asked),
            _ = tokio::signal::ctrl_c() => None,
        };
        ui.progress("");
        let away = match asked {
            Some(Ok(answer)) => return Ok(answer.body),
            // It said nothing: as a file, that is an empty one.
            Some(Err(failure)) if failure.code() == "no_output" && part.is_empty() => return Ok(Bytes::new()),
            Some(Err(failure)) if failure.exit == Exit::ResultAway => failure,
            Some(Err(failure)) => return Err(failure),
            None => {
                let left = Failure::new(Exit::ResultAway, "not waiting any longer for the bytes of the result");
                return Err(left.hint(format!("the call has ended; fetch them with `sigil result {}`", clean(id))));
            }
        };
        let bytes = |name: &str| {
            away.problem.as_ref().and_then(|problem| problem.get(name)).and_then(Value::as_u64).unwrap_or_default()
        };
        let received = bytes("received_bytes");
        if received != seen {
            seen = received;
            give_up = deadline.unwrap_or_else(|| Instant::now() + BYTES_STALL_MAX);
        }
        if Instant::now() >= give_up {
            let detail = format!("the call has ended, but {}", away.detail);
            let next = format!("`sigil result {}` fetches it once it is here", clean(id));
            return Err(Failure { detail, hint: Some(next), ..away });
        }
        ui.progress(&format!(
            "the call has ended; {received} of {} bytes of its result are here",
            bytes("output_bytes")
        ));
        // An agent that is too old to hold the question must not be asked without a pause.
        if seconds == 0 || bytes("output_bytes") == 0 {
            sleep_until(give_up.min(Instant::now() + Duration::from_millis(200))).await;
        }
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

pub(super) async fn result(
    client: &Client,
    id: &str,
    part: Option<u8>,
    output: Option<&Path>,
    patience: Option<Duration>,
    ui: Ui,
) -> Result<Exit, Failure> {
    let to_stdout = output.is_some_and(|path| path.as_os_str() == "-");
    if to_stdout && ui.json {
        return Err(Failure::new(Exit::Usage, "the bytes and the JSON document cannot both go to standard output")
            .hint("leave out one of `-o -` and `--json`"));
    }
    let deadline = patience.map(|patience| Instant::now() + patience);
    let seen = client.get(&format!("/api/v1/calls/{}", segment(id))).await?;
    let (mut call, interrupted) = match deadline {
        Some(deadline) => wait(client, id, seen, deadline, ui).await?,
        None => (seen, false),
    };
    let state = text(&call, "state");
    let exit = Exit::of_ending(&call);
    if exit == Exit::Queued {
        if interrupted {
            tell_open(&call, interrupted, ui);
            return Ok(exit);
        }
        return Err(Failure::new(exit, format!("call {} is still {state}", clean(id)))
            .hint(format!("wait for it with `--wait 1h`, or stop it with `sigil cancel {}`", clean(id))));
    }
    if state != "done" && output.is_none() && part.is_none() {
        if ui.json {
            ui.document("sigil.result/1", call);
        } else {
            show_end(client, &call, deadline, ui).await?;
        }
        return Ok(exit);
    }
    let bytes = result_bytes(client, id, part, deadline, ui).await?;
    if let Some(path) = output.filter(|_| !to_stdout) {
        let written = std::fs::write(path, &bytes);
        written.map_err(|error| Failure::new(Exit::Failed, format!("writing {}: {error}", path.display())))?;
        let told = json!({ "id": id, "state": state, "file": path, "bytes": bytes.len() });
        if ui.json {
            ui.document("sigil.result/1", told);
        } else {
            ui.say(&format!("{} bytes written to {}", bytes.len(), path.display()));
        }
    } else if ui.json {
        let (output, encoding) = embed(&bytes);
        call.set("output", output);
        call.set("output_encoding", raw(&encoding));
        ui.document("sigil.result/1", call);
    } else {
        ui.output(&bytes);
        if part.is_none() {
            tell_parts(&call, ui);
        }
    }
    Ok(exit)
}

/// Bytes inside JSON, as the agent embeds small ones: JSON that every parser takes as it is, other text as a string, the
/// rest in base64; and the name of the form.
fn embed(bytes: &[u8]) -> (Box<RawValue>, &'static str) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return (raw(&data_encoding::BASE64.encode(bytes)), "base64");
    };
    match serde_json::from_str(text) {
        Ok(json) if crate::json::is_portable(bytes) => (json, "json"),
        _ => (raw(&text), "text"),
    }
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
        assert_eq!(body, r#"{"node":"attic","tool":"device.info","arguments":{}}"#);
        let line = "sigil call any t --input [1] --ttl 1h --timeout 5s --effect once --key k";
        assert_eq!(
            request(&call_args(line)).expect("valid"),
            r#"{"node":"any","tool":"t","arguments":[1],"ttl_s":3600,"timeout_s":5,"effect":"once"}"#
        );
    }

    #[test]
    fn b02_input_is_sent_as_it_is_written() {
        let file = tempfile::NamedTempFile::new().expect("a temp file");
        let odd = "{ \"z\": 1.10,\n\t\"a\":1e2,\"z\":12345678901234567890123, \"h\":\"\\ud800\", \"x\":1e999 }";
        std::fs::write(file.path(), format!("  {odd}\n")).expect("writable");
        let body = request(&call_args(&format!("sigil call a t --input @{}", file.path().display()))).expect("valid");
        assert_eq!(body, format!("{{\"node\":\"a\",\"tool\":\"t\",\"arguments\":{odd}}}"));
        let body = request(&call_args("sigil call a t --input null")).expect("valid");
        assert!(body.ends_with(r#""arguments":null}"#), "{body}");
    }

    #[test]
    fn b02_bytes_are_embedded_without_a_loss() {
        let shown = |bytes: &[u8]| {
            let (json, encoding) = embed(bytes);
            (json.get().to_owned(), encoding)
        };
        assert_eq!(shown(b"{\"a\": 1.10}\n"), ("{\"a\": 1.10}".to_owned(), "json"));
        assert_eq!(shown(b"1e999"), ("\"1e999\"".to_owned(), "text"));
        assert_eq!(shown(b"\xff\x00"), ("\"/wA=\"".to_owned(), "base64"));
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

    /// An agent that gives these answers, one to a connection.
    fn agent(answers: Vec<String>) -> (tempfile::TempDir, impl Future<Output = ()>) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let home = tempfile::tempdir().expect("a temp dir");
        std::fs::create_dir(home.path().join("run")).expect("a fresh dir");
        let listener = tokio::net::UnixListener::bind(home.path().join("run/sigil.sock")).expect("a fresh path");
        let serve = async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("someone connects");
                let _ = stream.read(&mut [0; 4096]).await.expect("a request");
                stream.write_all(answer.as_bytes()).await.expect("the client reads");
            }
        };
        (home, serve)
    }

    fn away(received: u64) -> String {
        let body = format!(
            r#"{{"status":503,"code":"result_away","detail":"on its way","received_bytes":{received},"output_bytes":9}}"#
        );
        format!("HTTP/1.1 503 x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn b06_bytes_are_waited_for_while_they_come() {
        let whole = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\nall".to_owned();
        let (home, serve) = agent(vec![away(0), away(4), away(8), whole]);
        let client = Client::new(home.path());
        let (bytes, ()) = tokio::join!(result_bytes(&client, "c1", None, None, Ui::plain(false)), serve);
        assert_eq!(bytes.expect("they came").as_ref(), b"all");
    }

    #[tokio::test]
    async fn b06_a_result_on_its_way_has_an_exit_of_its_own() {
        let (home, serve) = agent(vec![away(4)]);
        let client = Client::new(home.path());
        let deadline = Some(Instant::now());
        let (bytes, ()) = tokio::join!(result_bytes(&client, "c1", None, deadline, Ui::plain(false)), serve);
        let failure = bytes.expect_err("the time is over");
        assert_eq!(failure.exit as u8, 9);
        assert_eq!(failure.detail, "the call has ended, but on its way");
        assert!(failure.hint.is_some_and(|hint| hint.contains("sigil result c1")));
    }
}
