//! The end of a command: exit codes, and errors that name the next step.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::node::builtin::INVALID_ARGUMENT;
use crate::status::ErrorCode;

/// Exit codes that scripts rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Ok = 0,
    /// It was tried and failed.
    Failed = 1,
    /// Not understood, by this program, the agent or the tool, and nothing has run; also what clap ends with.
    Usage = 2,
    NotFound = 3,
    Denied = 4,
    /// No agent runs for this home, or it does not answer.
    NoAgent = 5,
    /// The call is still open.
    Queued = 6,
    /// Too late: what was asked for has not happened.
    Expired = 7,
    /// Something else stands in the way.
    Conflict = 8,
    /// The call has run, but the bytes of its result are not here yet.
    ResultAway = 9,
    DoctorWarning = 10,
    DoctorError = 11,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// As much of the exit of a call as the word of its state tells.
    pub(crate) fn of_call(state: &str) -> Self {
        match state {
            "done" => Self::Ok,
            "accepted" | "asking" | "queued" | "dispatched" | "running" => Self::Queued,
            "expired" => Self::Expired,
            "denied" => Self::Denied,
            // failed, interrupted, cancelled, undeliverable, and whatever a newer agent may say
            _ => Self::Failed,
        }
    }

    /// The exit of a waited-for call. Arguments that the tool did not take are wrong usage, as those that this program
    /// does not take: nothing has run.
    pub(crate) fn of_ending(call: &Value) -> Self {
        let text = |name: &str| call.get(name).and_then(Value::as_str).unwrap_or_default();
        let exit = Self::of_call(text("state"));
        let not_taken = matches!(exit, Self::Failed | Self::Denied) && text("reason").starts_with(INVALID_ARGUMENT);
        if not_taken { Self::Usage } else { exit }
    }

    /// The exit of a refused request: by the one table of error codes; by the HTTP status for a code that this program
    /// is too old to know.
    pub(crate) fn of_problem(status: u16, code: &str) -> Self {
        if let Some(known) = ErrorCode::parse(code) {
            return Self::of_code(known.exit());
        }
        match status {
            400 | 405 | 406 | 413 | 414 | 415 | 422 | 431 => Self::Usage,
            401 | 403 | 421 => Self::Denied,
            404 => Self::NotFound,
            409 | 412 | 428 => Self::Conflict,
            408 | 410 | 504 => Self::Expired,
            _ => Self::Failed,
        }
    }
}

impl Exit {
    fn of_code(code: u8) -> Self {
        let all = [
            Self::Ok,
            Self::Usage,
            Self::NotFound,
            Self::Denied,
            Self::NoAgent,
            Self::Queued,
            Self::Expired,
            Self::Conflict,
            Self::ResultAway,
        ];
        all.into_iter().find(|exit| *exit as u8 == code).unwrap_or(Self::Failed)
    }
}

/// Failure of a command, for people and for scripts.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// One sentence: what failed.
    pub(crate) detail: String,
    /// One sentence: what to do next.
    pub(crate) hint: Option<String>,
    /// The agent's own words, as `problem+json`.
    pub(crate) problem: Option<Value>,
    /// It stands in the log that this program writes: not to be said a second time.
    pub(crate) logged: bool,
}

impl Failure {
    pub(crate) fn new(exit: Exit, detail: impl Into<String>) -> Self {
        Self { exit, detail: detail.into(), hint: None, problem: None, logged: false }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Reads the document that another run of this program printed under `--json`.
    pub(crate) fn from_document(document: &Value) -> Self {
        let text = |name: &str| document.get(name).and_then(Value::as_str).map(str::to_owned);
        let exit = document.get("exit").and_then(Value::as_u64).and_then(|code| code.try_into().ok());
        let mut failure = Self::new(exit.map_or(Exit::Failed, Exit::of_code), text("detail").unwrap_or_default());
        failure.hint = text("hint");
        failure
    }

    /// Reads an answer that is not a success.
    pub(crate) fn from_answer(status: u16, body: &[u8]) -> Self {
        let problem: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let text = |name: &str| problem.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let detail = text("detail")
            .or(text("title"))
            .map_or_else(|| format!("the agent answered with HTTP {status} and no explanation"), str::to_owned);
        let exit = Exit::of_problem(status, text("code").unwrap_or_default());
        let hint = text("hint").map(str::to_owned);
        Self { exit, detail, hint, problem: problem.is_object().then_some(problem), logged: false }
    }

    /// The code of the problem, if the agent gave one.
    pub(crate) fn code(&self) -> &str {
        self.problem.as_ref().and_then(|problem| problem.get("code")).and_then(Value::as_str).unwrap_or_default()
    }

    /// The document that `--json` prints.
    pub(crate) fn to_json(&self) -> Value {
        let mut document = match &self.problem {
            Some(problem) => problem.clone(),
            None => json!({ "detail": self.detail, "hint": self.hint }),
        };
        if let Some(fields) = document.as_object_mut() {
            fields.insert("exit".into(), json!(self.exit as u8));
        }
        document
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_of_calls_have_their_exit() {
        let table = [
            ("done", 0),
            ("failed", 1),
            ("interrupted", 1),
            ("expired", 7),
            ("cancelled", 1),
            ("denied", 4),
            ("undeliverable", 1),
            ("accepted", 6),
            ("queued", 6),
            ("dispatched", 6),
            ("running", 6),
        ];
        for (state, exit) in table {
            assert_eq!(Exit::of_call(state) as u8, exit, "{state}");
        }
    }

    #[test]
    fn l13_arguments_that_a_tool_does_not_take_are_wrong_usage() {
        let exit = |state: &str, reason: &str| Exit::of_ending(&json!({ "state": state, "reason": reason }));
        assert_eq!(exit("failed", "invalid_argument: `path` is missing"), Exit::Usage);
        assert_eq!(exit("failed", "exit status 1"), Exit::Failed);
        assert_eq!(exit("denied", "invalid_argument: x"), Exit::Usage);
        assert_eq!(exit("denied", "the owner forbids it"), Exit::Denied);
        assert_eq!(exit("done", ""), Exit::Ok);
    }

    #[test]
    fn problems_have_their_exit() {
        let table =
            [(400, 2), (404, 3), (403, 4), (401, 4), (409, 8), (422, 2), (410, 7), (429, 1), (503, 1), (500, 1)];
        for (status, exit) in table {
            assert_eq!(Exit::of_problem(status, "") as u8, exit, "{status}");
        }
        for code in ErrorCode::ALL {
            assert_eq!(Exit::of_problem(code.http(), code.as_str()) as u8, code.exit(), "{code}");
        }
        assert_eq!(Exit::of_problem(409, "not_ended"), Exit::Queued);
        assert_eq!(Exit::of_problem(409, "key_reused"), Exit::Conflict);
        assert_eq!(Exit::of_problem(503, "result_away"), Exit::ResultAway, "b06: it ran, unlike what expired");
    }

    #[test]
    fn a_problem_keeps_the_words_of_the_agent() {
        let failure = Failure::from_answer(
            429,
            br#"{"status":429,"code":"queue_full","detail":"queue full: 1000 calls wait","hint":"try again in 2 s"}"#,
        );
        assert_eq!(failure.detail, "queue full: 1000 calls wait");
        assert_eq!(failure.hint.as_deref(), Some("try again in 2 s"));
        assert_eq!(failure.code(), "queue_full");
        assert_eq!(failure.to_json()["exit"], 1);
        let failure = Failure::from_answer(502, b"<html>");
        assert!(failure.detail.contains("502"), "{}", failure.detail);
        assert!(failure.problem.is_none());
    }
}
