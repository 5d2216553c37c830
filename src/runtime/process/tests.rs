use tempfile::TempDir;

use super::*;
use crate::runtime::outcome::Output;
use crate::runtime::spool::OutputLimits;
use crate::runtime::spool::testing::MemorySinks;
use crate::runtime::spool::testing::sha256;
use std::sync::{Arc, Mutex};

struct Bench {
    dir: TempDir,
    launcher: Launcher,
    sinks: MemorySinks,
    cancel: CancellationToken,
    notes: Arc<Mutex<Vec<String>>>,
}

/// Limits of one run.
#[derive(Clone, Copy)]
struct Bounds {
    timeout: Duration,
    output: OutputLimits,
}

/// A run with its output, if it has any.
#[derive(Debug)]
struct Ran {
    end: RunEnd,
    note: String,
    output: Output,
    stderr: String,
}

const FREE: Bounds =
    Bounds { timeout: Duration::from_secs(30), output: OutputLimits { inline: 32 * 1024, total: 64 << 20 } };

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let launcher = Launcher::start(dir.path().join("work"), None, &TaskGroup::default()).unwrap();
        let (sinks, cancel, notes) = (MemorySinks::default(), CancellationToken::new(), Arc::default());
        Self { dir, launcher, sinks, cancel, notes }
    }

    fn spec(&self, command: &str, args: &[&str]) -> Spec {
        Spec {
            command: command.into(),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            env: BTreeMap::from([("DIR".to_owned(), self.dir.path().to_str().unwrap().to_owned())]),
            cwd: None,
            keep_running: false,
        }
    }

    async fn run(&self, launch: Launch, bounds: Bounds, stdin: &[u8], note: impl FnMut(String)) -> Ran {
        let mut spool = Spool::new(&self.sinks, bounds.output);
        let stdin = Bytes::copy_from_slice(stdin);
        let RunOutcome { end, note, stderr } = run(launch, bounds.timeout, stdin, &self.cancel, &mut spool, note).await;
        let output = match end {
            RunEnd::Done | RunEnd::Failed(_) | RunEnd::Limit(_) | RunEnd::Cancelled(_) => {
                spool.finish().await.map_or(Output::Inline(Bytes::new()), |given| given.output)
            }
            RunEnd::Denied(_) | RunEnd::Lost(_) | RunEnd::NotStarted(_) => Output::Inline(Bytes::new()),
        };
        Ran { end, note, output, stderr }
    }

    async fn sh_kept(&self, script: &str) -> Ran {
        let launch = self.launcher.launch(Spec { keep_running: true, ..self.spec("sh", &["-c", script]) });
        self.run(launch, FREE, b"", |_| ()).await
    }

    async fn sh_within(&self, script: &str, bounds: Bounds, stdin: &[u8]) -> Ran {
        let launch = self.launcher.launch(self.spec("sh", &["-c", script]));
        let notes = self.notes.clone();
        let note = move |line| notes.lock().unwrap().push(line);
        self.run(launch, bounds, stdin, note).await
    }

    async fn sh(&self, script: &str) -> Ran {
        self.sh_within(script, FREE, b"").await
    }

    /// Waits until the script has written its file.
    async fn file(&self, name: &str) -> String {
        let path = self.dir.path().join(name);
        let read = async {
            loop {
                match std::fs::read_to_string(&path) {
                    Ok(text) if text.ends_with('\n') => return text,
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        timeout(Duration::from_secs(10), read).await.expect("the script writes its file")
    }
}

fn alive(pid: &str) -> bool {
    // A zombie has ended: only its parent has not asked yet.
    std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| !stat.contains(") Z "))
}

async fn gone(pid: &str) {
    let wait = async {
        while alive(pid) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(5), wait).await.expect("the process is gone");
}

fn failed(reason: &str) -> RunEnd {
    RunEnd::Failed(reason.to_owned())
}

fn inline(outcome: &Ran) -> &[u8] {
    match &outcome.output {
        Output::Inline(bytes) => bytes,
        Output::Stored { .. } => panic!("output is a blob"),
    }
}

#[tokio::test]
async fn arguments_go_in_and_output_comes_out_byte_for_byte() {
    let bench = Bench::new();
    let outcome = bench.sh_within("cat; printf '\\377\\0x'", FREE, br#"{"a":1}"#).await;
    assert_eq!(outcome.end, RunEnd::Done, "{outcome:?}");
    assert_eq!(inline(&outcome), b"{\"a\":1}\xff\0x");
    assert_eq!(outcome.stderr, "");
}

#[tokio::test]
async fn the_environment_is_what_we_give() {
    let bench = Bench::new();
    let outcome = bench.sh("env | cut -d= -f1 | sort; echo /$DIR").await;
    let text = String::from_utf8_lossy(inline(&outcome)).into_owned();
    assert!(text.ends_with(&format!("/{}\n", bench.dir.path().display())), "{text}");
    for name in text.lines().filter(|line| !line.contains('/')) {
        let ours = ["PATH", "HOME", "LANG", "DIR", "SIGIL_OUT"].contains(&name);
        assert!(ours || ["PWD", "OLDPWD", "SHLVL", "_"].contains(&name), "{name} was inherited");
    }
}

#[tokio::test]
async fn a_run_has_a_private_directory_that_does_not_stay() {
    let bench = Bench::new();
    let outcome = bench.sh("pwd; touch here").await;
    let dir = PathBuf::from(String::from_utf8_lossy(inline(&outcome)).trim());
    assert_eq!(dir.parent(), Some(bench.dir.path().join("work").canonicalize().unwrap().as_path()));
    let wait = async {
        while dir.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(5), wait).await.unwrap();
}

#[tokio::test]
async fn failures_name_code_or_signal_and_keep_output_and_error() {
    let bench = Bench::new();
    let outcome = bench.sh("echo partly; echo wrong >&2; exit 3").await;
    assert_eq!(outcome.end, failed("exit code 3"));
    assert_eq!((inline(&outcome), outcome.stderr.as_str()), (&b"partly\n"[..], "wrong"));
    let outcome = bench.sh("kill -9 $$").await;
    assert_eq!(outcome.end, failed("killed by SIGKILL"));
}

#[tokio::test]
async fn a_command_that_is_not_there_is_explained() {
    let bench = Bench::new();
    for (command, part) in [("no-such-command", "not found"), ("/etc/passwd", "may not be executed")] {
        let launch = bench.launcher.launch(bench.spec(command, &[]));
        let outcome = bench.run(launch, FREE, b"", |_| ()).await;
        let RunEnd::NotStarted(reason) = outcome.end else { panic!("it ran: {outcome:?}") };
        assert!(reason.contains(command) && reason.contains(part), "{reason}");
    }
}

#[tokio::test]
async fn large_output_streams_into_a_blob() {
    let bench = Bench::new();
    let outcome = bench.sh("head -c 3000000 /dev/zero").await;
    assert_eq!(outcome.end, RunEnd::Done);
    assert_eq!(outcome.output, Output::Stored { hash: sha256(&vec![0; 3_000_000]), len: 3_000_000 });
    assert!(*bench.sinks.longest_chunk.lock().unwrap() <= 64 * 1024);
}

#[tokio::test]
async fn output_over_the_limit_ends_the_run_and_names_the_limit() {
    let bench = Bench::new();
    let bounds = Bounds { output: OutputLimits { total: 1 << 20, ..FREE.output }, ..FREE };
    let outcome = bench.sh_within("echo $$ > $DIR/pid; head -c 100000000 /dev/zero; sleep 1000", bounds, b"").await;
    assert_eq!(outcome.end, RunEnd::Limit("the output is over the limit of 1MiB".to_owned()));
    // What fits is kept.
    assert!(matches!(outcome.output, Output::Stored { len, .. } if (1..=1 << 20).contains(&len)), "{outcome:?}");
    gone(&bench.file("pid").await).await;
}

#[tokio::test]
async fn a_run_over_its_time_is_ended_even_when_it_ignores_the_request() {
    let bench = Bench::new();
    let bounds = Bounds { timeout: Duration::from_millis(300), ..FREE };
    let began = Instant::now();
    let script = "trap '' TERM; echo $$ > $DIR/pid; echo early; while :; do sleep 0.05; done";
    let outcome = bench.sh_within(script, bounds, b"").await;
    assert_eq!(outcome.end, RunEnd::Limit("timed out after 300ms".to_owned()));
    assert_eq!(inline(&outcome), b"early\n");
    assert!(began.elapsed() < Duration::from_secs(10));
    gone(&bench.file("pid").await).await;
}

#[tokio::test]
async fn cancel_ends_grandchildren_too() {
    let bench = Arc::new(Bench::new());
    let script = "(while :; do echo x >> $DIR/ticks; sleep 0.02; done) & echo $! > $DIR/pid; wait";
    let task = tokio::task::LocalSet::new();
    let outcome = task
        .run_until(async {
            let running = tokio::task::spawn_local({
                let bench = bench.clone();
                async move { bench.sh(script).await }
            });
            let pid = bench.file("pid").await;
            bench.file("ticks").await;
            assert!(alive(&pid));
            let began = Instant::now();
            bench.cancel.cancel();
            let outcome = running.await.unwrap();
            assert!(began.elapsed() < Duration::from_secs(10));
            gone(&pid).await;
            outcome
        })
        .await;
    assert_eq!(outcome.end, RunEnd::Cancelled(String::new()));
}

#[tokio::test]
async fn a_cancel_before_the_start_starts_nothing() {
    let bench = Bench::new();
    bench.cancel.cancel();
    assert!(matches!(bench.sh("true").await.end, RunEnd::Cancelled(_)));
}

#[tokio::test]
async fn a_grandchild_that_keeps_the_pipe_cannot_keep_us() {
    let bench = Bench::new();
    let began = Instant::now();
    let outcome = bench.sh("sleep 1000 & echo $! > $DIR/pid; echo done").await;
    assert_eq!((&outcome.end, inline(&outcome)), (&RunEnd::Done, &b"done\n"[..]));
    gone(&bench.file("pid").await).await;

    // One that leaves the group survives, but is not waited for.
    let outcome = bench
        .sh("setsid sh -c \"touch $DIR/away; exec sleep 1000\" & echo $! > $DIR/pid2; until [ -e $DIR/away ]; do sleep 0.02; done; echo done")
        .await;
    assert_eq!((&outcome.end, inline(&outcome)), (&RunEnd::Done, &b"done\n"[..]));
    assert!(outcome.note.contains("holds its output"), "b15: {}", outcome.note);
    assert!(began.elapsed() < Duration::from_secs(10));
    let escaped: i32 = bench.file("pid2").await.trim().parse().unwrap();
    let _ = nix::sys::signal::kill(Pid::from_raw(escaped), Signal::SIGKILL);
}

#[tokio::test]
async fn b15_what_was_left_running_is_ended_and_named() {
    let bench = Bench::new();
    let outcome = bench.sh("sleep 1000 > /dev/null & echo $! > $DIR/pid; sleep 0.1; echo started").await;
    let pid = bench.file("pid").await;
    assert_eq!((&outcome.end, inline(&outcome)), (&RunEnd::Done, &b"started\n"[..]));
    assert_eq!(outcome.note, format!("left running, and ended with it: sleep ({})", pid.trim()));
    gone(&pid).await;
    // Also beside a failure; and nothing is said where nothing was left.
    let outcome = bench.sh("sleep 1000 & sleep 0.1; exit 3").await;
    assert_eq!(outcome.end, failed("exit code 3"));
    assert!(outcome.note.starts_with("left running, and ended with it: sleep ("), "{}", outcome.note);
    assert_eq!(bench.sh("sleep 0.01 & wait").await.note, "");
    let outcome = bench.sh("for n in $(seq 12); do sleep 1000 & done").await;
    assert!(outcome.note.ends_with(", 4 more"), "{}", outcome.note);
}

#[tokio::test]
async fn b15_a_tool_that_says_so_leaves_things_running() {
    let bench = Bench::new();
    let outcome = bench.sh_kept("sleep 1000 > /dev/null 2>&1 & echo $! > $DIR/pid; sleep 0.1; echo started").await;
    let pid = bench.file("pid").await;
    assert_eq!((&outcome.end, inline(&outcome)), (&RunEnd::Done, &b"started\n"[..]));
    assert_eq!(outcome.note, format!("left running: sleep ({})", pid.trim()));
    assert!(alive(&pid));
    let process = Pid::from_raw(pid.trim().parse().unwrap());
    nix::sys::signal::kill(process, Signal::SIGKILL).unwrap();
    // What keeps the pipe is not waited for, and the note says what becomes of its output.
    let outcome = bench.sh_kept("sleep 1000 & echo $! > $DIR/pid2; sleep 0.1; echo started").await;
    assert!(outcome.note.contains("left running: sleep (") && outcome.note.contains("no more is read"), "{outcome:?}");
    let process = Pid::from_raw(bench.file("pid2").await.trim().parse().unwrap());
    nix::sys::signal::kill(process, Signal::SIGKILL).unwrap();
    // Over its time it is ended with all that it started.
    let launch = bench
        .launcher
        .launch(Spec { keep_running: true, ..bench.spec("sh", &["-c", "sleep 1000 & echo $! > $DIR/pid3; wait"]) });
    let bounds = Bounds { timeout: Duration::from_millis(300), ..FREE };
    let outcome = bench.run(launch, bounds, b"", |_| ()).await;
    assert_eq!(outcome.end, RunEnd::Limit("timed out after 300ms".to_owned()));
    gone(&bench.file("pid3").await).await;
}

#[tokio::test]
async fn a_dropped_run_leaves_no_process() {
    let bench = Bench::new();
    {
        let mut running = pin!(bench.sh("sleep 1000 & echo $! > $DIR/pid; wait"));
        tokio::select! {
            outcome = &mut running => panic!("{outcome:?}"),
            _ = bench.file("pid") => {}
        }
    }
    gone(&bench.file("pid").await).await;
}

#[tokio::test]
async fn arguments_that_nobody_reads_do_not_block() {
    let bench = Bench::new();
    let outcome = bench.sh_within("echo hi", FREE, &vec![b' '; 1 << 20]).await;
    assert_eq!((&outcome.end, inline(&outcome)), (&RunEnd::Done, &b"hi\n"[..]));
}

#[tokio::test]
async fn progress_lines_are_passed_on() {
    let bench = Bench::new();
    let outcome = bench.sh("echo '::progress half way' >&2; echo note >&2; echo out").await;
    assert_eq!(*bench.notes.lock().unwrap(), ["half way", "note"]);
    assert_eq!(outcome.stderr, "note");
}

#[tokio::test]
async fn starts_keep_the_order_in_which_they_were_asked_for() {
    let bench = Bench::new();
    let launches: Vec<Launch> = (0..20).map(|_| bench.launcher.launch(bench.spec("sh", &["-c", "echo $$"]))).collect();
    let mut pids = Vec::new();
    for launch in launches {
        let outcome = bench.run(launch, FREE, b"", |_| ()).await;
        pids.push(String::from_utf8_lossy(inline(&outcome)).trim().parse::<u32>().unwrap());
    }
    // Process numbers rise, but for one wrap at most.
    let falls = pids.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!(falls <= 1, "{pids:?}");
}

#[tokio::test]
async fn what_a_killed_agent_left_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    std::fs::create_dir_all(work.join("run-old")).unwrap();
    std::fs::create_dir_all(work.join("mine")).unwrap();
    let _launcher = Launcher::start(work.clone(), None, &TaskGroup::default()).unwrap();
    // Beside the start, once this device is tested.
    let until = Instant::now() + Duration::from_secs(30);
    while work.join("run-old").exists() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!work.join("run-old").exists() && work.join("mine").exists());
}
