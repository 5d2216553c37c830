//! Logs of an agent: to its file or to stderr, and to a ring that the doors show.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tracing::Metadata;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::error::{AgentError, at};
use crate::config::{Config, LogFormat};
use crate::doors::LogRing;
use crate::mesh::store::OpenReport;

/// Parts of the program whose lines the level of the settings is about.
const OURS: [&str; 2] = ["sigil", "mesh_core"];

/// Beginnings of the names of libraries that call errors what we mend ourselves: those of the tailnet. A list of targets
/// shows them.
const LOUD: [&str; 3] = ["ts_", "tailscale", "kameo"];

/// Starts logging as the settings say: to `file`, or without one to stderr.
pub(super) fn start(config: &Config, file: Option<&Path>) -> Result<LogRing, AgentError> {
    let ring = LogRing::default();
    let registry =
        tracing_subscriber::registry().with(filter(&config.log.level)).with(filter_fn(may_be_told)).with(ring.layer());
    // Colours are for people at a terminal; a file, a pipe and the journal get none.
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let text = tracing_subscriber::fmt::layer();
    // Someone else may have set a subscriber in tests; the ring still works through ours only.
    let _ = match (config.log.format, file) {
        (LogFormat::Json, None) => registry.with(text.with_writer(io::stderr).json()).try_init(),
        (LogFormat::Text, None) => registry.with(text.with_ansi(colours).with_writer(io::stderr)).try_init(),
        (format, Some(path)) => {
            let file = LogFile::open(path, config.log.max_size).map_err(at("opening", path))?;
            let text = text.with_ansi(false).with_writer(Mutex::new(file));
            match format {
                LogFormat::Json => registry.with(text.json()).try_init(),
                LogFormat::Text => registry.with(text).try_init(),
            }
        }
    };
    Ok(ring)
}

/// Reads `log.level`. A level alone is about our own lines; of the libraries, whose lines others may bring about as
/// often as they like, only warnings are shown beside it. A list of targets is taken as it is.
fn filter(level: &str) -> Targets {
    match level.parse::<LevelFilter>() {
        Ok(level) => {
            let all = Targets::new()
                .with_default(level.min(LevelFilter::WARN))
                .with_targets(LOUD.map(|of| (of, LevelFilter::OFF)));
            all.with_targets(OURS.map(|of| (of, level)))
        }
        Err(_) => level.parse().unwrap_or_default(),
    }
}

/// False for what says more than it should, whatever the settings ask for: these crates of the tailnet write requests with
/// auth keys in them, and the URL at which a node is logged in.
fn may_be_told(line: &Metadata<'_>) -> bool {
    let of = line.target().split("::").next().unwrap_or_default();
    !matches!(of, "ts_control" | "ts_control_noise" | "ts_http_util" | "ts_runtime")
}

/// A log file that begins anew when it is full; the full one is kept under its name with `.1` at the end, in the place
/// of the one before. Standard error goes to the same file: what a library prints, and the word of a panic.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    /// Bytes of one file.
    max: u64,
    file: File,
    /// Bytes that it has.
    len: u64,
}

impl LogFile {
    fn open(path: &Path, max: u64) -> io::Result<Self> {
        let (file, len) = open(path)?;
        Ok(Self { path: path.to_owned(), max, file, len })
    }

    fn begin_anew(&mut self) -> io::Result<()> {
        let mut full = self.path.clone().into_os_string();
        full.push(".1");
        std::fs::rename(&self.path, full)?;
        (self.file, self.len) = open(&self.path)?;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let len = file.metadata()?.len();
    if !cfg!(test) {
        nix::unistd::dup2_stderr(&file)?;
    }
    Ok((file, len))
}

impl Write for LogFile {
    /// Takes all of a line. What cannot be written is lost: a full disk must not end the agent, nor may it grow a file
    /// beyond its size.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let bytes = line.len() as u64;
        let fits = self.len == 0 || self.len.saturating_add(bytes) <= self.max;
        if (fits || self.begin_anew().is_ok()) && self.file.write_all(line).is_ok() {
            self.len = self.len.saturating_add(bytes);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Logs what the opening of the store has found.
pub(super) fn report(report: &OpenReport) {
    for repair in &report.repaired {
        tracing::warn!(
            file = repair.file,
            cut_at = repair.cut_at,
            promised = repair.promised,
            why = repair.why,
            "the store was repaired"
        );
    }
    if let Some(loss) = &report.lost {
        tracing::error!(
            why = loss.why, kept_at = ?loss.kept_at,
            "the store could not be repaired: this device has lost its membership and starts anew; join the mesh again"
        );
    }
    if report.rolled_back {
        tracing::warn!("the store is older than what it had promised: this device takes a new incarnation");
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn b25_a_full_log_begins_anew_and_the_one_before_is_kept() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("agent.log");
        std::fs::write(&path, "of the start before\n").unwrap();
        let mut log = LogFile::open(&path, 1000).unwrap();
        for n in 0..1_000 {
            writeln!(log, "line {n}").unwrap();
        }
        let (last, before) = (std::fs::read_to_string(&path).unwrap(), home.path().join("agent.log.1"));
        let before = std::fs::read_to_string(before).unwrap();
        assert!(last.len() <= 1000 && before.len() <= 1000);
        // No line is lost or torn where one file ends and the next begins.
        let both = before + &last;
        let numbers: Vec<u32> = both.lines().map(|line| line.strip_prefix("line ").unwrap().parse().unwrap()).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{both}");
        assert_eq!(numbers.last(), Some(&999));
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_log_that_cannot_be_moved_does_not_grow() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("agent.log");
        std::fs::create_dir(home.path().join("agent.log.1")).unwrap();
        let mut log = LogFile::open(&path, 100).unwrap();
        for n in 0..1_000 {
            writeln!(log, "line {n}").unwrap();
        }
        assert!(std::fs::metadata(&path).unwrap().len() <= 100);
    }

    #[test]
    fn s11_a_level_alone_is_about_our_own_lines() {
        let info = filter("info");
        for (target, level, is_shown) in [
            ("sigil::mesh::driver", Level::INFO, true),
            ("sigil::events::link", Level::INFO, true),
            ("mesh_core::peer", Level::INFO, true),
            ("mesh_core::peer", Level::DEBUG, false),
            ("libp2p_mdns::behaviour", Level::INFO, false),
            ("quinn_proto::endpoint", Level::INFO, false),
            ("quinn_proto::endpoint", Level::WARN, true),
        ] {
            assert_eq!(info.would_enable(target, &level), is_shown, "{target} {level}");
        }
        assert!(!filter("error").would_enable("quinn", &Level::WARN));
        assert!(!filter("debug").would_enable("quinn", &Level::INFO));
        assert!(filter("sigil=debug,info").would_enable("quinn", &Level::INFO));
    }
}
