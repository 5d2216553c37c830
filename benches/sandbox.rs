//! What a sandbox costs: `/bin/true` by `posix_spawn`, and through the helper at each level, in turns, so that both meet the same
//! load. Prints medians, and the tenth part that was quickest: on a busy machine that is nearer to what it costs by itself.
//! `SIGIL_BENCH_RUNS=N` (default 200).

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use sigil::runtime::outcome::RunEnd;
use sigil::runtime::process::{Launcher, Spec, run};
use sigil::runtime::sandbox::{Level, Sandbox};
use sigil::runtime::spool::{BlobSink, BlobSinks, OutputLimits, Spool};
use sigil::tasks::TaskGroup;
use tokio_util::sync::CancellationToken;

struct NoBlobs;

impl BlobSinks for NoBlobs {
    fn create(&self) -> BoxFuture<'_, std::io::Result<Box<dyn BlobSink>>> {
        Box::pin(async { Err(std::io::ErrorKind::Unsupported.into()) })
    }
}

fn main() {
    let runs = std::env::var("SIGIL_BENCH_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    runtime.block_on(measure(runs));
}

async fn measure(runs: usize) {
    let home = tempfile::tempdir().expect("a directory");
    let launcher = Launcher::start(home.path().join("work"), None, &TaskGroup::default()).expect("a launcher");
    let offered = launcher.offered().wait_for(Option::is_some).await.expect("tested").clone().expect("tested");
    println!("{offered}");
    let levels: Vec<Level> = Level::ALL.into_iter().filter(|level| *level <= offered.level).collect();
    let mut raw = Vec::new();
    let mut ours = vec![Vec::new(); levels.len()];
    for _ in 0..runs {
        let began = now();
        let mut child = std::process::Command::new("/bin/true").stdin(Stdio::null()).spawn().expect("it starts");
        child.wait().expect("it ends");
        raw.push(began.elapsed());
        for (level, times) in levels.iter().zip(&mut ours) {
            let began = now();
            one(&launcher, *level).await;
            times.push(began.elapsed());
        }
    }
    println!("{:<11} {:>9} {:>9}", "", "p50", "p10");
    let row = |name: &str, times: &mut [Duration]| {
        times.sort();
        let at = |part: usize| times.get(times.len() / part).copied().unwrap_or_default();
        println!("{name:<11} {:>9} {:>9}", show(at(2)), show(at(10)));
    };
    row("posix_spawn", &mut raw);
    for (level, mut times) in levels.into_iter().zip(ours) {
        row(level.as_str(), &mut times);
    }
}

async fn one(launcher: &Launcher, level: Level) {
    let spec =
        Spec { command: "/bin/true".into(), args: Vec::new(), env: BTreeMap::new(), cwd: None, keep_running: false };
    let sandbox = if level == Level::Bare { Sandbox::BARE } else { Sandbox { wanted: level, ..Sandbox::best(level) } };
    let mut spool = Spool::new(&NoBlobs, OutputLimits { inline: 1024, total: 1024 });
    let launch = launcher.launch_in(spec, sandbox);
    let cancel = CancellationToken::new();
    let outcome = run(launch, Duration::from_secs(10), Bytes::new(), &cancel, &mut spool, |_| ()).await;
    assert_eq!(outcome.end, RunEnd::Done, "{level}: {outcome:?}");
}

fn show(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

#[expect(clippy::disallowed_methods, reason = "a measurement, on an awake machine")]
fn now() -> Instant {
    Instant::now()
}
