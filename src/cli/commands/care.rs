//! Looking after an installation: token, logs, doctor.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::console::show;
use crate::cli::args::TokenArgs;
use crate::cli::body::Body;
use crate::cli::client::{Client, Extras, noted, segment};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Ui, clean, clean_lines, items, reader_gone, relative, table, text};

/// Interval at which `logs -f` looks for more.
const LOGS_EVERY: Duration = Duration::from_millis(300);
/// Time for which `logs -f` waits for an agent that has gone.
const RESTART_WITHIN: Duration = Duration::from_secs(10);

pub(super) async fn token(client: &Client, args: TokenArgs, ui: Ui) -> Result<Exit, Failure> {
    if args.list {
        let body = client.get("/api/v1/tokens").await?;
        return Ok(show(ui, "sigil.tokens/1", body, tokens_text));
    }
    if args.revoke_all {
        let answer = client.ask(Method::DELETE, "/api/v1/tokens", Extras::default()).await?.json()?;
        return Ok(show(ui, "sigil.token/1", answer, |_| "All tokens are revoked.".to_owned()));
    }
    if let Some(id) = args.revoke {
        let path = format!("/api/v1/tokens/{}", segment(&id));
        let answer = client.ask(Method::DELETE, &path, Extras::default()).await?.json()?;
        return Ok(show(ui, "sigil.token/1", answer, |_| format!("The token {} is revoked.", clean(&id))));
    }
    let mut terms = json!({ "name": args.name, "read_only": args.read_only });
    if let (Some(terms), Some(expires_s)) = (terms.as_object_mut(), args.expires) {
        terms.insert("expires_s".into(), json!(expires_s));
    }
    if let (Some(terms), Some(holder)) = (terms.as_object_mut(), args.holder) {
        terms.insert("principal".into(), json!(super::rights::principal(holder)));
    }
    for (name, patterns) in [("nodes", args.node), ("tools", args.tool)] {
        if let Some(terms) = terms.as_object_mut().filter(|_| !patterns.is_empty()) {
            terms.insert(name.into(), json!(patterns));
        }
    }
    let body = client.post("/api/v1/tokens", &terms).await?;
    Ok(show(ui, "sigil.token/1", body, |body| text(body, "token")))
}

fn tokens_text(body: &Value) -> String {
    let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
    let rows: Vec<_> = items(body)
        .iter()
        .map(|token| {
            let listed = |name: &str| {
                token.get(name).and_then(Value::as_array).map(|list| {
                    let words: Vec<_> = list.iter().filter_map(Value::as_str).map(clean).collect();
                    if words.is_empty() { "none".to_owned() } else { words.join(" ") }
                })
            };
            let reach = match (token.get("read_only") == Some(&Value::Bool(true)), listed("tools"), listed("nodes")) {
                (true, ..) => "reads".to_owned(),
                (false, None, None) => "full".to_owned(),
                (false, tools, nodes) => {
                    let tools = tools.unwrap_or_else(|| "all".to_owned());
                    nodes.map_or_else(|| tools.clone(), |nodes| format!("{tools} of {nodes}"))
                }
            };
            vec![
                text(token, "id"),
                text(token, "name"),
                text(token, "principal"),
                reach,
                relative(token, "created_at"),
                or(relative(token, "last_used"), "not here yet"),
                or(relative(token, "expires_at"), "never"),
            ]
        })
        .collect();
    if rows.is_empty() {
        return "No tokens. `sigil token --name NAME` makes one.".to_owned();
    }
    let list = table(&["ID", "NAME", "FOR", "MAY", "MADE", "LAST USED", "ENDS"], &rows);
    format!("{list}\n\n`sigil token --revoke ID` revokes one.")
}

pub(super) async fn logs(client: &Client, follow: bool, lines: usize, ui: Ui) -> Result<Exit, Failure> {
    let body = match client.get(&format!("/api/v1/logs?limit={}", lines.clamp(1, 1000))).await {
        Err(failure) if failure.exit == Exit::NoAgent && !ui.json => {
            let log = client.home().join("logs/agent.log");
            let tail = crate::cli::up::tail(&log, 0);
            if tail.is_empty() {
                return Err(failure);
            }
            ui.print(&clean_lines(&tail));
            ui.say(&format!("No agent is running; these are the last lines of {}.", log.display()));
            return Ok(Exit::NoAgent);
        }
        other => other?,
    };
    if ui.json && !follow {
        ui.document("sigil.logs/1", body);
        return Ok(Exit::Ok);
    }
    if items(&body).is_empty() && !follow {
        ui.print("Nothing logged yet. `sigil logs -f` shows lines as they come.");
    }
    let mut page = body;
    let mut cursor = String::new();
    let mut silent_since = None;
    loop {
        for row in items(&page) {
            line(ui, row);
        }
        if !follow || reader_gone() {
            return Ok(Exit::Ok);
        }
        if let Some(next) = page.get("next_cursor").and_then(Value::as_str) {
            next.clone_into(&mut cursor);
        }
        tokio::select! {
            () = sleep(LOGS_EVERY) => {}
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Ok),
        }
        page = match client.get(&format!("/api/v1/logs?limit=1000&cursor={}", segment(&cursor))).await {
            Ok(next) => {
                silent_since = None;
                next
            }
            // Perhaps it is being started anew. The new run is followed from its beginning.
            Err(_) if silent_since.get_or_insert_with(Instant::now).elapsed() < RESTART_WITHIN => json!({}).into(),
            Err(failure) => return Err(failure),
        };
    }
}

/// One line of log; under `--json` one document per line.
fn line(ui: Ui, row: &Value) {
    if ui.json {
        ui.document("sigil.log/1", row.clone());
        return;
    }
    ui.print(&line_text(row));
}

fn line_text(row: &Value) -> String {
    if let Some(line) = row.as_str() {
        return clean(line);
    }
    [text(row, "at"), format!("{:<5}", text(row, "level")), text(row, "target"), text(row, "message")].join(" ")
}

pub(super) async fn rename(client: &Client, of: Option<&str>, name: &str, ui: Ui) -> Result<Exit, Failure> {
    let mut body = json!({ "node_id": name });
    if let (Some(of), Some(body)) = (of, body.as_object_mut()) {
        body.insert("of".into(), json!(of));
    }
    let answer = client.post("/api/v1/rename", &body).await?;
    Ok(show(ui, "sigil.rename/1", answer, |answer| {
        let (called, asks) = (text(answer, "node_id"), text(answer, "asks"));
        match (of, asks.as_str()) {
            (Some(of), _) => format!("`{}` is `{called}` now, for all members and all rules.", clean(of)),
            (None, "") => format!("This device is `{called}` now, for all members."),
            (None, asks) => format!(
                "This device goes on being `{called}`, for all members and all rules: it is no owner's, so it only asks to be \
                 called `{asks}`.\nOn an owner's device, `sigil rename {called} {asks}` gives it that name."
            ),
        }
    }))
}

/// Exit 10 when something in the file is hardly meant.
pub(super) async fn reload(client: &Client, ui: Ui) -> Result<Exit, Failure> {
    let answer = client.post("/api/v1/reload", &json!({})).await?;
    let list = |name: &str| -> Vec<String> {
        let words = answer.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        words.iter().filter_map(Value::as_str).map(clean).collect()
    };
    let (changed, waiting, warnings) = (list("changed"), list("at_next_start"), list("warnings"));
    for warning in &warnings {
        ui.say(&format!("warning: {warning}"));
    }
    show(ui, "sigil.reload/1", answer, |_| {
        let mut said = match changed.as_slice() {
            [] => "Nothing that a running agent takes has changed.".to_owned(),
            keys => format!("Taken: {}.", keys.join(", ")),
        };
        if !waiting.is_empty() {
            let _ = write!(said, "\nAt the next start (`sigil down`, `sigil up`): {}.", waiting.join(", "));
        }
        said
    });
    Ok(if warnings.is_empty() { Exit::Ok } else { Exit::DoctorWarning })
}

pub(super) async fn doctor(client: &Client, ui: Ui) -> Result<Exit, Failure> {
    let body = match client.get("/api/v1/doctor").await {
        Err(failure) if failure.exit == Exit::NoAgent => alone(client, &failure),
        other => other?,
    };
    let checks = match body.get("checks").and_then(Value::as_array) {
        Some(checks) => checks.as_slice(),
        None => items(&body),
    };
    let exit = exit_of(checks);
    let checks = checks.to_vec();
    show(ui, "sigil.doctor/1", body, |_| {
        let rows: Vec<_> = checks
            .iter()
            .map(|check| {
                vec![ui.state(&text(check, "state")), text(check, "id"), text(check, "cause"), text(check, "fix")]
            })
            .collect();
        if rows.is_empty() {
            "The agent knows no checks.".to_owned()
        } else {
            table(&["STATE", "CHECK", "CAUSE", "FIX"], &rows)
        }
    });
    Ok(exit)
}

/// The worst of the checks. A state that we do not know is not taken for health.
fn exit_of(checks: &[Value]) -> Exit {
    let mut exit = Exit::Ok;
    for check in checks {
        match text(check, "state").as_str() {
            "ok" | "info" | "skipped" => {}
            "warning" | "warn" => {
                if exit == Exit::Ok {
                    exit = Exit::DoctorWarning;
                }
            }
            _ => exit = Exit::DoctorError,
        }
    }
    exit
}

/// Checks that need no agent: the home, its files and its disk, and why the agent does not run.
fn alone(client: &Client, failure: &Failure) -> Body {
    let home = client.home();
    let mut is_there = false;
    let home_check = match std::fs::metadata(home) {
        Ok(data) if data.is_dir() => {
            is_there = true;
            json!({ "id": "home", "state": "ok", "cause": home, "fix": "" })
        }
        Ok(_) => {
            json!({ "id": "home", "state": "error", "cause": format!("{} is not a directory", home.display()), "fix": "pass --home DIR" })
        }
        Err(_) => {
            json!({ "id": "home", "state": "warn", "cause": format!("{} is not there yet", home.display()), "fix": "the first `sigil up` makes it" })
        }
    };
    let stale = noted(home).filter(|noted| !crate::cli::up::alive(noted.pid));
    let mut cause = match stale {
        Some(noted) => format!("{}; process {} ended without cleaning up", failure.detail, noted.pid),
        None => failure.detail.clone(),
    };
    if let Some(error) = last_error(&crate::cli::up::tail(&home.join("logs/agent.log"), 0)) {
        let _ = write!(cause, "; the last error in its log: {error}");
    }
    let mut checks = vec![home_check];
    if is_there {
        let (free_min, settings) = settings(home);
        let found = crate::doors::ops::doctor::examine_home(home, free_min);
        checks.extend(found.into_iter().map(
            |check| json!({ "id": check.id, "state": check.severity.as_str(), "cause": check.cause, "fix": check.fix }),
        ));
        checks.extend(settings);
    }
    checks.push(json!({ "id": "agent", "state": "error", "cause": cause, "fix": failure.hint }));
    json!({ "items": checks }).into()
}

/// The settings as the next start would take them: the bytes that must be free on the disk, and what is to be said.
fn settings(home: &Path) -> (Option<u64>, Vec<Value>) {
    let check = |state: &str, cause: String| json!({ "id": "settings", "state": state, "cause": cause, "fix": "correct it before the next `sigil up`" });
    match crate::config::load(home, &crate::config::Overrides::default()) {
        Ok((config, warnings)) => {
            let warnings = warnings.into_iter().map(|warning| check("warn", warning.to_string()));
            (config.storage.free_min, warnings.collect())
        }
        Err(error) => (None, vec![check("error", error.to_string())]),
    }
}

/// The last line of a log that tells an error, if the agent ended with one.
fn last_error(log: &str) -> Option<String> {
    let is_error =
        |line: &&str| line.starts_with("error:") || line.contains(" ERROR ") || line.contains("\"level\":\"ERROR\"");
    log.lines().rev().find(is_error).map(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_red_check_never_exits_0() {
        let check = |state: &str| json!({ "state": state });
        assert_eq!(exit_of(&[check("ok")]), Exit::Ok);
        assert_eq!(exit_of(&[check("ok"), check("warning")]), Exit::DoctorWarning);
        assert_eq!(exit_of(&[check("error"), check("warning")]), Exit::DoctorError);
        assert_eq!(exit_of(&[check("novel")]), Exit::DoctorError);
        assert_eq!(exit_of(&[json!({})]), Exit::DoctorError);
    }

    #[test]
    fn a_log_line_reads_as_one() {
        let row = json!({"at": "T", "level": "info", "target": "sigil", "message": "up pid=3"});
        assert_eq!(line_text(&row), "T info  sigil up pid=3");
        assert_eq!(line_text(&json!("bare\nline")), "bare\u{fffd}line");
    }

    #[test]
    fn b17_the_last_error_of_a_log_is_found_in_both_forms() {
        let text = "T  INFO sigil: ready\nT ERROR sigil: the store has failed: No space left on device\nT  INFO x: end";
        assert!(last_error(text).is_some_and(|line| line.contains("No space left")));
        let json = "{\"level\":\"INFO\"}\n{\"level\":\"ERROR\",\"fields\":{\"message\":\"full\"}}";
        assert!(last_error(json).is_some_and(|line| line.contains("full")));
        assert_eq!(last_error("T  INFO sigil: no ERRORS"), None);
    }

    #[tokio::test]
    async fn a_doctor_without_an_agent_is_red() {
        let home = tempfile::tempdir().expect("a temp dir");
        assert_eq!(doctor(&Client::new(home.path()), Ui::plain(true)).await.expect("checks"), Exit::DoctorError);
    }
}
