//! The helper that stands between the agent and a tool: limits, and death with the agent.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use sigil::runtime::outcome::{Output, RunEnd, RunOutcome};
use sigil::runtime::process::{Launcher, Spec, run};
use sigil::runtime::spool::{BlobSink, BlobSinks, OutputLimits, Spool};
use sigil::tasks::TaskGroup;
use tokio_util::sync::CancellationToken;

const SIGIL: &str = env!("CARGO_BIN_EXE_sigil");

/// These tools say little.
struct NoBlobs;

impl BlobSinks for NoBlobs {
    fn create(&self) -> BoxFuture<'_, std::io::Result<Box<dyn BlobSink>>> {
        Box::pin(async { Err(std::io::ErrorKind::Unsupported.into()) })
    }
}

async fn through_sigil(command: &str, args: &[&str]) -> (RunOutcome, Output) {
    let dir = tempfile::tempdir().unwrap();
    let launcher = Launcher::start(dir.path().join("work"), Some(SIGIL.into()), &TaskGroup::default()).unwrap();
    let launch = launcher.launch(Spec {
        command: command.into(),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        env: BTreeMap::from([("SIGIL_ATTEMPT".to_owned(), "1".to_owned())]),
        cwd: None,
        keep_running: false,
    });
    let mut spool = Spool::new(&NoBlobs, OutputLimits { inline: 1024, total: 1 << 20 });
    let time = Duration::from_secs(30);
    let outcome = run(launch, time, Bytes::from("{}"), &CancellationToken::new(), &mut spool, |_| ()).await;
    (outcome, spool.finish().await.unwrap().output)
}

#[tokio::test]
async fn a_tool_starts_with_limits_and_its_own_arguments() {
    let script = "ulimit -c; ulimit -n; umask; echo $0 $1 $SIGIL_ATTEMPT; cat";
    let (outcome, output) = through_sigil("sh", &["-c", script, "a b", "c"]).await;
    assert_eq!(outcome.end, RunEnd::Done, "{outcome:?}");
    assert_eq!(output, Output::Inline(Bytes::from("0\n1024\n0077\na b c 1\n{}")));
}

#[tokio::test]
async fn a_tool_that_cannot_be_started_is_explained() {
    for (command, part) in [("no-such-command", "not found"), ("/etc/passwd", "may not be executed")] {
        let (outcome, _) = through_sigil(command, &[]).await;
        let RunEnd::NotStarted(reason) = outcome.end else { panic!("it ran: {outcome:?}") };
        assert!(reason.contains(command) && reason.contains(part), "{reason}");
    }
}

/// An agent that the tests can kill: this very program, with the one test that is none.
const AGENT: &str = "SIGIL_TEST_TOOL_EXEC_AGENT";

#[tokio::test]
async fn an_agent_with_a_tool() {
    let Some(dir) = std::env::var_os(AGENT).map(std::path::PathBuf::from) else { return };
    let launcher = Launcher::start(dir.join("work"), Some(SIGIL.into()), &TaskGroup::default()).unwrap();
    let launch = launcher.launch(Spec {
        command: "sh".into(),
        args: vec![
            "-c".to_owned(),
            format!("echo $$ >{0}/pid.part; mv {0}/pid.part {0}/pid; sleep 1000", dir.display()),
        ],
        env: BTreeMap::new(),
        cwd: None,
        keep_running: false,
    });
    let mut spool = Spool::new(&NoBlobs, OutputLimits { inline: 1024, total: 1 << 20 });
    let time = Duration::from_mins(10);
    run(launch, time, Bytes::new(), &CancellationToken::new(), &mut spool, |_| ()).await;
}

#[test]
fn a_tool_dies_with_its_agent() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tool_exec::an_agent_with_a_tool", "--nocapture"])
        .env(AGENT, dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid = dir.path().join("pid");
    wait_until("the tool runs", || pid.exists());
    let command = Path::new("/proc").join(std::fs::read_to_string(&pid).unwrap().trim()).join("cmdline");
    assert!(std::fs::read_to_string(&command).unwrap().starts_with("sh"));
    agent.kill().unwrap();
    agent.wait().unwrap();
    wait_until("the tool is gone", || std::fs::read_to_string(&command).map_or(true, |words| words.is_empty()));
}

#[test]
fn nobody_else_can_use_it() {
    let refused = Command::new(SIGIL).arg("tool-exec").stdin(Stdio::null()).output().unwrap();
    assert_eq!(refused.status.code(), Some(127));
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Duration::from_secs(10);
    let began = now();
    while !condition() {
        assert!(now().duration_since(began) < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[expect(clippy::disallowed_methods, reason = "a deadline of a test")]
fn now() -> Instant {
    Instant::now()
}
