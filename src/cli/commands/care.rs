//! Looking after an installation: token, logs, doctor.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use super::console::show;
use crate::cli::client::{Client, Extras, noted, segment};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Ui, clean, clean_lines, items, table, text};

/// Interval at which `logs -f` looks for more.
const LOGS_EVERY: Duration = Duration::from_millis(300);

pub(super) async fn token(client: &Client, revoke_all: bool, ui: Ui) -> Result<Exit, Failure> {
    if revoke_all {
        let answer = client.ask(Method::DELETE, "/api/v1/tokens", Extras::default()).await?.json()?;
        return Ok(show(ui, "sigil.token/1", answer, |_| "All tokens are revoked.".to_owned()));
    }
    let body = client.post("/api/v1/tokens", &json!({})).await?;
    Ok(show(ui, "sigil.token/1", body, |body| text(body, "token")))
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
    loop {
        for row in items(&page) {
            line(ui, row);
        }
        if !follow {
            return Ok(Exit::Ok);
        }
        let path = format!("/api/v1/logs?limit=1000&cursor={}", segment(&text(&page, "next_cursor")));
        tokio::select! {
            () = tokio::time::sleep(LOGS_EVERY) => page = client.get(&path).await?,
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Ok),
        }
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

/// Checks that need no agent.
fn alone(client: &Client, failure: &Failure) -> Value {
    let home = client.home();
    let home_check = match std::fs::metadata(home) {
        Ok(data) if data.is_dir() => json!({ "id": "home", "state": "ok", "cause": home, "fix": "" }),
        Ok(_) => {
            json!({ "id": "home", "state": "error", "cause": format!("{} is not a directory", home.display()), "fix": "pass --home DIR" })
        }
        Err(_) => {
            json!({ "id": "home", "state": "warn", "cause": format!("{} is not there yet", home.display()), "fix": "the first `sigil up` makes it" })
        }
    };
    let stale = noted(home).filter(|noted| !crate::cli::up::alive(noted.pid));
    let cause = match stale {
        Some(noted) => format!("{}; process {} ended without cleaning up", failure.detail, noted.pid),
        None => failure.detail.clone(),
    };
    json!({ "items": [home_check, { "id": "agent", "state": "error", "cause": cause, "fix": failure.hint }] })
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

    #[tokio::test]
    async fn a_doctor_without_an_agent_is_red() {
        let home = tempfile::tempdir().expect("a temp dir");
        assert_eq!(doctor(&Client::new(home.path()), Ui::plain(true)).await.expect("checks"), Exit::DoctorError);
    }
}
