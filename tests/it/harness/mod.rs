//! Common ground of all tests: homes with a running agent, a mesh of them, waiting for conditions, witnesses.

mod home;
mod mesh;

use std::fmt::Write as _;
use std::io::Write as _;
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use home::{Cli, Home, done, files_below, free_port};
pub(crate) use mesh::{Mesh, call_is_over, wait_converged};
use serde_json::Value;
pub(crate) use testbed::http::Response;
pub(crate) use testbed::text;

/// Time allowed for anything that has no bound of its own: generous, because CI machines are small and busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What waits for nothing is there within this: far below the time of what it would have to wait for, far above what a machine
/// takes that is busy with everything else. How fast it is, `sigil-bench` says and no test.
pub(crate) const SOON: Duration = Duration::from_secs(15);

/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The clock of the tests.
#[expect(clippy::disallowed_methods, reason = "tests run outside of the product, on an awake machine")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Looks until `look` gives a value; panics with `what` when that takes longer than `within`.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let started = now();
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(started.elapsed() < within, "waited {within:?} for: {what}");
        thread::sleep(LOOK_EVERY);
    }
}

/// Looks until `condition` holds.
#[track_caller]
pub(crate) fn wait_until(what: &str, within: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, within, || condition().then_some(()));
}

/// Lets time pass while `look` is called again and again: for what must *stay* true, and for tests whose subject is
/// the time itself (a freeze, a TTL). Never a stand-in for waiting on a condition.
pub(crate) fn observe(during: Duration, mut look: impl FnMut()) {
    let started = now();
    while started.elapsed() < during {
        look();
        thread::sleep(LOOK_EVERY);
    }
}

/// A number from the environment, for tests whose length can be chosen.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Says that a test could not run here and why; a failure when nothing may be skipped.
pub(crate) fn skip(test: &str, why: &str) {
    assert!(
        std::env::var("SIGIL_TEST_REQUIRE").as_deref() != Ok("all"),
        "{test} cannot run here: {why} (SIGIL_TEST_REQUIRE=all forbids skipping)"
    );
    eprintln!("skipped {test}: {why}");
    if let Some(list) = std::env::var_os("SIGIL_TEST_SKIPS") {
        let line = format!("{test}: {why}\n");
        let written = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(list)
            .and_then(|mut f| f.write_all(line.as_bytes()));
        if let Err(error) = written {
            eprintln!("the skip could not be noted: {error}");
        }
    }
}

/// The `items` of a list.
#[track_caller]
pub(crate) fn items(list: &Value) -> &[Value] {
    list["items"].as_array().unwrap_or_else(|| panic!("no items in {list}"))
}

/// Sorted durations on one line, with the median and the worst.
pub(crate) fn distribution(name: &str, times: &[Duration]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort();
    let mut line = format!("{name}: n={}", sorted.len());
    if let (Some(median), Some(worst)) = (sorted.get(sorted.len() / 2), sorted.last()) {
        let _ = write!(line, " p50={median:.2?} worst={worst:.2?} all={sorted:.2?}");
    }
    line
}

/// The middle one of some durations.
pub(crate) fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted[sorted.len() / 2]
}

/// Resident memory of a process.
#[track_caller]
pub(crate) fn resident_bytes(pid: nix::unistd::Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux reports VmRSS");
    kib.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") * 1024
}
