//! Sudden death: the process is killed, or the power fails. What was reported durable is there afterwards, and nothing
//! is there that was not written.
//!
//! A kill alone proves little: what was written without fsync lives on in the page cache. So the power is cut as well:
//! the store lies on an ext4 in a file, which lies on an XFS, and a reflink copy of that file is the disk at one
//! instant. A writer that leaves out the fsync must be caught by it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use super::tests::{count, numbered, open};
use super::writer::NO_FSYNC;
use super::{Batch, DurableNote};

const CHILD_HOME: &str = "SIGIL_STORE_TEST_HOME";
/// Batches that the child may be ahead of what is durable.
const AHEAD: u64 = 100;
/// Between two batches of the child.
const PACE: Duration = Duration::from_micros(100);
/// A child goes on for some multiple of this before it dies.
const STEP: Duration = Duration::from_millis(7);

/// Number of rounds: few in every run, as many as wanted by hand.
fn rounds(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Every fourth batch is one that nobody waits for.
fn batch(n: u64) -> Batch {
    Batch { sync: !n.is_multiple_of(4), ..numbered(n) }
}

/// Not a test of its own: the process that writes until it is killed.
#[test]
fn child_that_writes() {
    let Some(home) = std::env::var_os(CHILD_HOME) else { return };
    let (store, mut notes, report) = open(Path::new(&home));
    assert!(report.lost.is_none() && !report.rolled_back, "{report:?}");
    let start = count(&store);
    let mut out = std::io::stdout();
    writeln!(out, "start {start}").unwrap();
    let mut durable = start;
    for n in start + 1.. {
        // Without fsync it would fill the disk in no time.
        std::thread::sleep(PACE);
        store.commit(n, batch(n));
        loop {
            let note = if n - durable > AHEAD { notes.blocking_recv() } else { notes.try_recv().ok() };
            match note {
                Some(DurableNote::Durable(txn)) => {
                    durable = txn;
                    writeln!(out, "durable {txn}").unwrap();
                }
                Some(DurableNote::Failed(error)) => panic!("{error:?}"),
                None => break,
            }
        }
    }
}

/// The child, and what it has promised so far.
struct Writing {
    child: Child,
    promised: Arc<AtomicU64>,
    reader: std::thread::JoinHandle<()>,
}

impl Writing {
    fn start(home: &Path, fsync: bool) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "--nocapture", "store::crash_tests::child_that_writes"]);
        command.env(CHILD_HOME, home).stdout(Stdio::piped()).stderr(Stdio::inherit());
        if !fsync {
            command.env(NO_FSYNC, "1");
        }
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let promised = Arc::new(AtomicU64::new(0));
        let told = promised.clone();
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let number = line.strip_prefix("durable ").or(line.strip_prefix("start "));
                if let Some(number) = number.and_then(|text| text.parse().ok()) {
                    told.fetch_max(number, Ordering::SeqCst);
                }
            }
        });
        Self { child, promised, reader }
    }

    fn promised(&self) -> u64 {
        self.promised.load(Ordering::SeqCst)
    }

    /// Waits until more is promised than this.
    fn promises_more_than(&mut self, before: u64) {
        while self.promised() <= before {
            assert!(self.child.try_wait().unwrap().is_none(), "the child ended by itself");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Kills it; answers what it had promised.
    fn kill(mut self) -> u64 {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.reader.join().unwrap();
        self.promised.load(Ordering::SeqCst)
    }
}

/// The store of this home after a death: how many batches it holds. All of them whole, or this panics.
fn held(home: &Path) -> u64 {
    let (store, _, report) = open(home);
    assert!(report.lost.is_none() && !report.rolled_back, "{report:?}");
    count(&store)
}

#[test]
fn what_was_reported_durable_survives_kills() {
    let rounds = rounds("SIGIL_TEST_KILLS", 12);
    let mut home = TempDir::new().unwrap();
    let mut promised = 0;
    for round in 0..rounds {
        if round % 25 == 0 {
            (home, promised) = (TempDir::new().unwrap(), 0);
        }
        let mut writing = Writing::start(home.path(), true);
        writing.promises_more_than(promised);
        std::thread::sleep(STEP * u32::try_from(round * 7 % 13).unwrap());
        promised = writing.kill();
        let held = held(home.path());
        assert!(held >= promised, "round {round}: {promised} were promised, {held} are there");
        promised = held;
    }
    println!("{rounds} kills, nothing promised was lost");
}

/// A disk whose state at an instant can be kept.
struct Disk {
    dir: TempDir,
    mounted: Vec<PathBuf>,
}

impl Disk {
    /// `Err` says why there is none on this machine.
    fn new() -> Result<Self, String> {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
        let mut disk = Self { dir: dir.map_err(|error| error.to_string())?, mounted: Vec::new() };
        let outer = disk.dir.path().join("outer.img");
        run("truncate", &["-s", "2G", text(&outer)])?;
        run("mkfs.xfs", &["-q", "-m", "reflink=1", text(&outer)])?;
        let below = disk.mount(&outer, "below")?;
        let image = below.join("disk.img");
        run("truncate", &["-s", "400M", text(&image)])?;
        run("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0", text(&image)])?;
        disk.mount(&image, "disk")?;
        Ok(disk)
    }

    fn mount(&mut self, image: &Path, name: &str) -> Result<PathBuf, String> {
        let at = self.dir.path().join(name);
        std::fs::create_dir_all(&at).map_err(|error| error.to_string())?;
        run("mount", &["-o", "loop", text(image), text(&at)])?;
        self.mounted.push(at.clone());
        Ok(at)
    }

    fn unmount(&mut self) {
        if let Some(at) = self.mounted.pop() {
            run("umount", &["-l", text(&at)]).unwrap();
        }
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("disk/home")
    }

    /// The disk as it is at this instant, mounted for `look`.
    fn cut<T>(&mut self, look: impl FnOnce(&Path) -> T) -> T {
        let below = self.dir.path().join("below");
        let (image, copy) = (below.join("disk.img"), below.join("cut.img"));
        run("cp", &["--reflink=always", text(&image), text(&copy)]).unwrap();
        let at = self.mount(&copy, "cut").unwrap();
        let seen = look(&at.join("home"));
        self.unmount();
        std::fs::remove_file(&copy).unwrap();
        seen
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        while let Some(at) = self.mounted.pop() {
            let _ = run("umount", &["-l", text(&at)]);
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{program} {arguments:?}: {}", said.trim())) }
}

/// Cuts the power this often while a writer is at work. Counts how often a promise was missing; `None`: no such disk
/// can be had here, which is said.
fn power_cuts(test: &str, rounds: u64, fsync: bool) -> Option<u64> {
    let mut broken = 0;
    let mut round = 0;
    while round < rounds {
        let mut disk = match Disk::new() {
            Ok(disk) => disk,
            Err(why) => {
                skip(test, &why);
                return None;
            }
        };
        std::fs::create_dir_all(disk.home()).unwrap();
        std::fs::File::open(disk.dir.path().join("disk")).unwrap().sync_all().unwrap();
        let mut writing = Writing::start(&disk.home(), fsync);
        for _ in 0..rounds.min(round + 20) - round {
            let before = writing.promised();
            writing.promises_more_than(before);
            std::thread::sleep(STEP * u32::try_from(round * 5 % 7).unwrap());
            let promised = writing.promised();
            let held = disk.cut(|home| if fsync { held(home) } else { held_anyhow(home) });
            broken += u64::from(held < promised);
            assert!(!fsync || held >= promised, "round {round}: {promised} were promised, {held} are there");
            round += 1;
        }
        writing.kill();
    }
    Some(broken)
}

/// The same as [`held`] where anything may be wrong.
fn held_anyhow(home: &Path) -> u64 {
    std::panic::catch_unwind(|| held(home)).unwrap_or(0)
}

/// As the black-box tests do it: what cannot run here is noted, or a failure where nothing may be skipped.
fn skip(test: &str, why: &str) {
    let all = std::env::var("SIGIL_TEST_REQUIRE").as_deref() == Ok("all");
    assert!(!all, "{test} cannot run here: {why} (SIGIL_TEST_REQUIRE=all forbids skipping)");
    eprintln!("skipped {test}: {why}");
    if let Some(list) = std::env::var_os("SIGIL_TEST_SKIPS") {
        let mut list = std::fs::OpenOptions::new().create(true).append(true).open(list).unwrap();
        writeln!(list, "{test}: {why}").unwrap();
    }
}

#[test]
fn what_was_reported_durable_survives_power_cuts() {
    let rounds = rounds("SIGIL_TEST_POWER_CUTS", 12);
    if let Some(broken) = power_cuts("power cuts", rounds, true) {
        println!("{rounds} power cuts, nothing promised was lost");
        assert_eq!(broken, 0);
    }
}

#[test]
fn a_writer_without_fsync_is_caught() {
    let rounds = 12;
    if let Some(broken) = power_cuts("power cuts without fsync", rounds, false) {
        println!("without fsync {broken} of {rounds} power cuts lost a promise");
        assert!(broken > 0, "a writer that does not sync was not noticed in {rounds} power cuts");
    }
}
