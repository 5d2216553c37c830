use super::*;
use crate::config::{self, Overrides};
use crate::node::declared::Declared;
use crate::node::testing::means;
use crate::runtime::process::Launcher;
use crate::runtime::spool::testing::{MemorySinks, sha256};
use crate::runtime::spool::{BlobSink, BlobSinks};
use futures_util::future::BoxFuture;
use mesh_core::ids::Hash;
use mesh_core::ids::{Incarnation, PeerId, PublicKey};
use mesh_core::record::{Effect, Header};
use proptest::prelude::*;
use std::io;

struct Bench {
    host: ToolHost,
    declared: Declared,
    inputs: mpsc::Receiver<Input>,
    tasks: TaskGroup,
    dir: tempfile::TempDir,
}

fn origin() -> PeerId {
    PublicKey([7; 32]).peer_id()
}

fn bench_with(text: &str, blobs: Arc<dyn Blobs>) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let text = text.replace("DIR", dir.path().to_str().unwrap());
    std::fs::write(dir.path().join("sigil.toml"), text).unwrap();
    let config = config::load(dir.path(), &Overrides::default()).unwrap().0;
    let tasks = TaskGroup::default();
    let work = dir.path().join("work");
    let launcher = Launcher::start(work, None, &tasks).unwrap();
    let (sender, inputs) = mpsc::channel(64);
    let host = ToolHost::new(blobs, sender, tasks.clone());
    let declared = Declared::new(&config, means(&config.home, launcher, &tasks)).unwrap();
    host.put_in_force(declared.members(), config.node.deny.clone());
    Bench { host, declared, inputs, tasks, dir }
}

fn bench(text: &str) -> Bench {
    bench_with(text, Arc::new(MemorySinks::default()))
}

fn invocation(counter: u64, tool: &str, timeout_ms: u64, arguments: Payload) -> Invocation {
    let id = ReqId::new(&origin(), Incarnation(1), counter);
    let header = Header {
        id,
        target: origin(),
        node_id: "whatever-its-origin-wrote".parse().unwrap(),
        tool: tool.parse().unwrap(),
        arguments,
        effect: Effect::Once,
        ttl_ms: 60_000,
        accepted_ms: 0,
        timeout_ms,
        principal: "person:owner".parse().expect("a name"),
        client_key: None,
        token: None,
        workspace: None,
        rule: String::new(),
        mark: Vec::new(),
        target_incarnation: None,
    };
    Invocation { id, attempt: 1, header: Arc::new(header), origin: origin(), node_id: "nas".parse().unwrap() }
}

impl Bench {
    async fn next(&mut self) -> Input {
        tokio::time::timeout(Duration::from_secs(20), self.inputs.recv()).await.expect("in time").expect("an input")
    }

    /// The end of a run; lines of progress before it are skipped.
    async fn end(&mut self) -> (ReqId, Attempt, ToolOutcome) {
        loop {
            let input = self.next().await;
            if let Input::ToolEnded(id, attempt, outcome) = input {
                return (id, attempt, outcome);
            }
            assert!(matches!(input, Input::ToolProgress(..)), "not of a tool: {input:?}");
        }
    }

    fn running(&self) -> usize {
        self.host.running_now().len()
    }

    async fn call(&mut self, tool: &str, arguments: &[u8]) -> ToolOutcome {
        self.call_with(tool, Payload::Inline(Bytes::copy_from_slice(arguments))).await
    }

    async fn call_with(&mut self, tool: &str, arguments: Payload) -> ToolOutcome {
        let invocation = invocation(1, tool, 0, arguments);
        let run = (invocation.id, invocation.attempt);
        self.host.invoke(invocation);
        let (id, attempt, outcome) = self.end().await;
        assert_eq!((id, attempt), run);
        assert_eq!(self.running(), 0);
        outcome
    }
}

const TOOLS: &str = r#"
    [node]
    deny = ["secret*"]
    [files]
    roots = ["DIR"]
    [tools.echo]
    command = "cat"
    [tools.secret-x]
    command = "cat"
    [tools.tell]
    command = "sh"
    args = ["-c", "echo '::progress one' >&2; printf $SIGIL_REQUEST_ID/$SIGIL_ATTEMPT/$SIGIL_TOOL/$SIGIL_NODE"]
    [tools.sleep]
    command = "sh"
    args = ["-c", "echo so far; echo >> DIR/started; exec sleep 1000"]
    [tools.large]
    command = "head"
    args = ["-c", "100000", "/dev/zero"]
    [tools.fail]
    command = "sh"
    args = ["-c", "echo so far; echo wrong >&2; exit 3"]
    [tools.flood]
    command = "sh"
    args = ["-c", "echo wrong >&2; exec head -c 100000 /dev/zero"]
    max_output = "40KiB"
"#;

#[tokio::test]
async fn programs_and_builtins_run() {
    let mut bench = bench(TOOLS);
    let outcome = bench.call("echo", br#"{"a":[1]}"#).await;
    assert_eq!((outcome.ending, &outcome.output), (Ending::Done, &Payload::Inline(Bytes::from(&br#"{"a":[1]}"#[..]))));
    assert_eq!(bench.call("echo", b"").await.output, Payload::Inline(Bytes::from("{}")));
    let outcome = bench.call("device.info", b"{}").await;
    assert_eq!(outcome.ending, Ending::Done, "{outcome:?}");
    assert!(matches!(bench.call("large", b"{}").await.output, Payload::Blob { len: 100_000, .. }));
}

#[tokio::test]
async fn output_of_a_run_that_failed_is_kept_and_of_one_that_was_lost_is_not() {
    let mut bench = bench(TOOLS);
    for (tool, output, reason) in
        [("fail", Some("so far\n"), "exit code 3"), ("flood", None, "the output is over the limit of 40KiB")]
    {
        let outcome = bench.call(tool, b"{}").await;
        assert_eq!(
            (outcome.ending, outcome.reason.as_str(), outcome.error.as_str()),
            (Ending::Failed, reason, "wrong")
        );
        assert_eq!(outcome.partial, output.is_none(), "{tool}");
        match output {
            Some(output) => assert_eq!(outcome.output, Payload::Inline(output.into()), "{tool}"),
            None => assert_eq!(outcome.output.len(), 40 * 1024, "what fits"),
        }
    }
}

#[tokio::test]
async fn progress_and_identity_reach_the_right_places() {
    let mut bench = bench(TOOLS);
    let invocation = invocation(9, "tell", 0, Payload::empty());
    let id = invocation.id;
    bench.host.invoke(invocation);
    let Input::ToolProgress(of, 1, note) = bench.next().await else { panic!("progress") };
    assert_eq!((of, note.as_str()), (id, "one"));
    let (_, _, outcome) = bench.end().await;
    assert_eq!(outcome.output, Payload::Inline(format!("{id}/1/tell/nas").into()));
}

#[tokio::test]
async fn what_is_not_allowed_is_denied_with_its_reason() {
    let mut bench = bench(TOOLS);
    for (tool, arguments, part) in [
        ("nothing", "{}", "offers no tool `nothing`"),
        ("secret-x", "{}", "(local:secret*)"),
        ("secret-x", "{", "(local:secret*)"),
        ("files.read", r#"{"path":"../x"}"#, "outside"),
        ("files.read", r#"{"path":"/proc/self/mem"}"#, "outside"),
    ] {
        let outcome = bench.call(tool, arguments.as_bytes()).await;
        assert_eq!(outcome.ending, Ending::Denied, "{tool}: {outcome:?}");
        assert!(outcome.reason.contains(part), "{}", outcome.reason);
    }
    assert_eq!(bench.call("files.read", br#"{"path":"none"}"#).await.ending, Ending::Failed);
}

#[tokio::test]
async fn l04_arguments_that_are_wrong_are_called_so_and_not_denied() {
    let mut bench = bench(TOOLS);
    let deep = "[".repeat(10_000);
    for (tool, arguments, part) in [
        ("echo", &b"{"[..], "not JSON"),
        ("echo", b"{} {}", "not JSON"),
        ("echo", b"\"\xff\"", "not JSON"),
        ("echo", deep.as_bytes(), "deeper than 64"),
        ("echo", " ".repeat(ARGUMENTS_BYTES_MAX + 1).as_bytes(), "over the limit of 1MiB"),
        ("device.info", br#"{"x":1}"#, "unknown field"),
        ("files.list", br#"{"limit":0,"path":"."}"#, "`limit` must be 1 to 10000"),
        ("files.read", b"null", "expected an object"),
    ] {
        let outcome = bench.call(tool, arguments).await;
        assert_eq!(outcome.ending, Ending::Failed, "{tool}: {outcome:?}");
        let reason = &outcome.reason;
        assert!(reason.starts_with("invalid_argument: ") && reason.contains(part), "{reason}");
    }
}

#[tokio::test]
async fn b15_the_reason_of_a_call_names_what_was_ended_with_it() {
    let mut bench = bench(
        "[tools.server]\ncommand = 'sh'\nargs = ['-c', 'sleep 1000 & sleep 0.1; echo started']\n\
         [tools.kept]\ncommand = 'sh'\nargs = ['-c', 'exec > /dev/null 2>&1; sleep 1 & sleep 0.1']\nkeep_running = true\n",
    );
    let outcome = bench.call("server", b"").await;
    assert_eq!(outcome.ending, Ending::Done);
    assert!(outcome.reason.starts_with("left running, and ended with it: sleep ("), "{}", outcome.reason);
    let outcome = bench.call("kept", b"").await;
    assert!(outcome.reason.starts_with("left running: sleep ("), "{}", outcome.reason);
}

#[tokio::test]
async fn a_kill_ends_exactly_the_one_run_once() {
    let mut bench = bench(TOOLS);
    let sleep = |counter| invocation(counter, "sleep", 0, Payload::empty());
    let (one, two) = (sleep(1).id, sleep(2).id);
    bench.host.invoke(sleep(1));
    bench.host.invoke(sleep(1));
    bench.host.invoke(sleep(2));
    let started = bench.dir.path().join("started");
    let wait = async {
        while std::fs::read(&started).map_or(0, |lines| lines.len()) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap();
    assert_eq!(bench.running(), 2);
    bench.host.kill(two, 2); // another attempt: nobody's
    bench.host.kill(two, 1);
    bench.host.kill(two, 1);
    let (id, attempt, outcome) = bench.end().await;
    assert_eq!((id, attempt, outcome.ending), (two, 1, Ending::Cancelled));
    assert_eq!((outcome.output, outcome.partial), (Payload::Inline("so far\n".into()), true));
    assert_eq!(bench.running(), 1);
    bench.host.kill(one, 1);
    let (id, attempt, _) = bench.end().await;
    assert_eq!((id, attempt), (one, 1));
    assert_eq!(std::fs::read(&started).unwrap().len(), 2, "the doubled invocation ran once");
    assert!(bench.inputs.try_recv().is_err(), "no second end");
}

#[tokio::test]
async fn the_shorter_time_counts() {
    let mut bench = bench(TOOLS);
    bench.host.invoke(invocation(1, "sleep", 200, Payload::empty()));
    let (_, _, outcome) = bench.end().await;
    assert_eq!((outcome.ending, outcome.reason.as_str()), (Ending::Failed, "timed out after 200ms"));
}

#[tokio::test]
async fn a_shutdown_ends_what_runs() {
    let bench = bench("[tools.sleep]\ncommand = 'sh'\nargs = ['-c', 'echo $$ > DIR/pid; exec sleep 1000']\n");
    bench.host.invoke(invocation(1, "sleep", 0, Payload::empty()));
    let path = bench.dir.path().join("pid");
    let pid = async {
        loop {
            match std::fs::read_to_string(&path) {
                Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let pid = tokio::time::timeout(Duration::from_secs(10), pid).await.unwrap();
    assert!(!bench.tasks.shutdown(Duration::ZERO).await);
    let gone = async {
        let stat = format!("/proc/{pid}/stat");
        while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("the process is gone");
}

#[tokio::test]
async fn large_arguments_come_from_the_blob_store() {
    let blobs = MemorySinks::default();
    let bytes = format!(r#"{{"a":"{}"}}"#, "x".repeat(40_000)).into_bytes();
    let hash = sha256(&bytes);
    blobs.blobs.lock().unwrap().insert(hash, bytes.clone());
    let mut bench = bench_with(TOOLS, Arc::new(blobs));
    let blob = |hash| Payload::Blob { hash: Hash(hash), len: bytes.len() as u64 };
    let outcome = bench.call_with("echo", blob(hash)).await;
    assert_eq!((outcome.ending, outcome.output), (Ending::Done, blob(hash)));
    let outcome = bench.call_with("echo", blob([9; 32])).await;
    assert_eq!(outcome.ending, Ending::Failed);
    assert!(outcome.reason.starts_with("the arguments could not be read here: "), "{}", outcome.reason);
}

impl Blobs for MemorySinks {
    fn read<'a>(&'a self, payload: &'a Payload) -> BoxFuture<'a, io::Result<Vec<u8>>> {
        let Hash(hash) = payload.hash();
        let bytes = self.blobs.lock().unwrap().get(&hash).cloned();
        Box::pin(async move { bytes.ok_or_else(|| io::ErrorKind::NotFound.into()) })
    }

    fn keep(&self, Hash(hash): Hash, bytes: Bytes) -> BoxFuture<'_, io::Result<()>> {
        self.blobs.lock().unwrap().insert(hash, bytes.to_vec());
        Box::pin(async { Ok(()) })
    }
}

struct BrokenSinks;

impl Blobs for BrokenSinks {
    fn read<'a>(&'a self, _: &'a Payload) -> BoxFuture<'a, io::Result<Vec<u8>>> {
        panic!("a bug")
    }

    fn keep(&self, _: Hash, _: Bytes) -> BoxFuture<'_, io::Result<()>> {
        panic!("a bug")
    }
}

impl BlobSinks for BrokenSinks {
    fn create(&self) -> BoxFuture<'_, io::Result<Box<dyn BlobSink>>> {
        panic!("a bug")
    }
}

struct FullSinks;

impl Blobs for FullSinks {
    fn read<'a>(&'a self, _: &'a Payload) -> BoxFuture<'a, io::Result<Vec<u8>>> {
        Box::pin(async { Err(io::ErrorKind::StorageFull.into()) })
    }

    fn keep(&self, _: Hash, _: Bytes) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async { Err(io::ErrorKind::StorageFull.into()) })
    }
}

impl BlobSinks for FullSinks {
    fn create(&self) -> BoxFuture<'_, io::Result<Box<dyn BlobSink>>> {
        Box::pin(async { Err(io::ErrorKind::StorageFull.into()) })
    }
}

#[tokio::test]
async fn a_panic_inside_and_a_full_disk_are_ends_too() {
    let mut broken = bench_with(TOOLS, Arc::new(BrokenSinks));
    for arguments in [Payload::empty(), Payload::Blob { hash: Hash([1; 32]), len: 1 }] {
        let outcome = broken.call_with("large", arguments).await;
        assert_eq!(outcome.ending, Ending::Failed);
        assert!(outcome.reason.contains("broke down"), "{}", outcome.reason);
    }
    let mut full = bench_with(TOOLS, Arc::new(FullSinks));
    let outcome = full.call("large", b"").await;
    assert_eq!(outcome.ending, Ending::Failed);
    assert!(outcome.reason.contains("storing the output: no storage space"), "{}", outcome.reason);
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![Just(serde_json::Value::Null), any::<i64>().prop_map(Into::into), ".*".prop_map(Into::into)];
    leaf.prop_recursive(6, 64, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            proptest::collection::btree_map("[\\[{\"\\\\a]*", inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

fn true_depth(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::Array(items) => 1 + items.iter().map(true_depth).max().unwrap_or(0),
        serde_json::Value::Object(items) => 1 + items.values().map(true_depth).max().unwrap_or(0),
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::String(_) => 0,
    }
}

mod replacing;

proptest! {
    #[test]
    fn the_scan_sees_the_true_depth(value in json()) {
        let text = value.to_string();
        let depth = true_depth(&value);
        prop_assert!(!deeper_than(text.as_bytes(), depth));
        prop_assert!(depth == 0 || deeper_than(text.as_bytes(), depth - 1));
        prop_assert_eq!(check_arguments(text.as_bytes()), Ok(()));
    }

    #[test]
    fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = check_arguments(&bytes);
    }
}

#[test]
fn the_limit_of_depth_is_exact() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert_eq!(check_arguments(nested(ARGUMENTS_DEPTH_MAX).as_bytes()), Ok(()));
    assert_eq!(check_arguments(nested(ARGUMENTS_DEPTH_MAX + 1).as_bytes()), Err(ArgumentsError::TooDeep));
}
