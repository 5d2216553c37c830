//! Built-in tools: what runs inside the agent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use mesh_core::ids::ToolName;
use mesh_core::limits::RESULT_BYTES_MAX;
use mesh_core::record::Effect;
use nix::sys::statvfs::statvfs;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::programs::{Offered, Programs};
use super::files::{
    Encoding, FileError, FileRoots, ListArguments, MoveArguments, PathArguments, ReadArguments, WriteArguments,
};
use super::provider::{About, Absent, Job, Kind, Offer, Offers, Parts, Place, Provider, Run, Runs};
use crate::config::class::meminfo_bytes;
use crate::config::value::show_duration;
use crate::config::{Config, Files};
use crate::runtime::outcome::{RunEnd, RunOutcome};
use crate::runtime::process::Launcher;
use crate::runtime::spool::{Spool, SpoolError};
use crate::tasks::{StrayError, Strays};

mod desktop;
mod programs;
mod shell;

/// Time that a built-in tool may take: they read a little, unless a disk hangs.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Calls of `device.info` that look at the disks at once: half of the calls that a device runs at once, so that a disk
/// which is dead leaves places for others.
const DEVICE_INFO_AT_WORK_MAX: usize = 8;

/// A tool that runs inside the agent.
#[derive(Debug, Clone)]
enum Builtin {
    /// `noop`, which does nothing: to measure what a call costs besides its tool.
    #[cfg(feature = "fault-points")]
    Noop,
    /// `device.info`, with threads for it: a disk that it asks for its size may be dead.
    DeviceInfo(Strays),
    /// `files.list`
    FilesList(Arc<FileRoots>),
    /// `files.read`
    FilesRead(Arc<FileRoots>),
    /// `files.stat`
    FilesStat(Arc<FileRoots>),
    /// `files.write`
    FilesWrite(Arc<FileRoots>),
    /// `files.move`
    FilesMove(Arc<FileRoots>),
    /// `files.remove`
    FilesRemove(Arc<FileRoots>),
}

impl Builtin {
    fn changes(&self) -> bool {
        match self {
            #[cfg(feature = "fault-points")]
            Self::Noop => false,
            Self::DeviceInfo(_) | Self::FilesList(_) | Self::FilesRead(_) | Self::FilesStat(_) => false,
            Self::FilesWrite(_) | Self::FilesMove(_) | Self::FilesRemove(_) => true,
        }
    }
}

/// A built-in tool as it is told to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// Its name, which no other provider can take.
    pub name: &'static str,
    description: &'static str,
    owner_only: bool,
}

const DEVICE_INFO: Told =
    Told { name: "device.info", description: "what this device is and how it does", owner_only: false };
const FILES_LIST: Told = Told { name: "files.list", description: "lists a directory", owner_only: true };
const FILES_READ: Told = Told { name: "files.read", description: "reads a file", owner_only: true };
const FILES_STAT: Told = Told { name: "files.stat", description: "tells of a file or directory", owner_only: true };
const FILES_WRITE: Told = Told { name: "files.write", description: "writes a whole file", owner_only: true };
const FILES_MOVE: Told = Told { name: "files.move", description: "gives a file another name", owner_only: true };
const FILES_REMOVE: Told =
    Told { name: "files.remove", description: "removes a file or an empty directory", owner_only: true };

/// Those whose names no other tool can have, also where this device does not offer them.
pub const RESERVED: [Told; 3] = [DEVICE_INFO, FILES_LIST, FILES_READ];
/// All that this program does itself. Of those that came later a tool of the settings may have the name.
const ALL: [Told; 7] = [DEVICE_INFO, FILES_LIST, FILES_READ, FILES_STAT, FILES_WRITE, FILES_MOVE, FILES_REMOVE];
/// Why one whose name is another's is not offered, and the next step.
const TAKEN: (&str, &str) = ("a tool of sigil.toml has this name", "give that one another name to have this one");

/// All built-in tools at most.
pub const COUNT_MAX: usize = ALL.len() + programs::COUNT;

/// The provider of all of them.
#[derive(Debug)]
pub struct Builtins {
    tools: BTreeMap<ToolName, Builtin>,
    programs: Programs,
    files: Files,
    /// Names of ours that the settings give to tools of their own.
    taken: Vec<ToolName>,
    device_info: Strays,
    offers: watch::Sender<Arc<Offers>>,
    runs: Runs,
}

impl Builtins {
    /// Those that the settings ask for, and this device has. Blocks for some files.
    #[must_use]
    pub fn new(config: &Config, launcher: Launcher) -> Self {
        let taken = taken(config);
        let programs = Programs::look(&config.shell, |told| told.is_among(&taken), launcher);
        Self::with(config, Strays::new("device-info", DEVICE_INFO_AT_WORK_MAX), taken, programs)
    }

    /// Those of new settings, if anything has changed: looks at disks that still hang count on. Blocks for some files.
    #[must_use]
    pub fn renewed(&self, config: &Config) -> Option<Self> {
        let taken = taken(config);
        let programs = self.programs.again(&config.shell, |told| told.is_among(&taken));
        let same = self.files == config.files && self.taken == taken && programs.is_like(&self.programs);
        (!same).then(|| Self::with(config, self.device_info.clone(), taken, programs))
    }

    fn with(config: &Config, device_info: Strays, taken: Vec<ToolName>, programs: Programs) -> Self {
        let mut offered = vec![(DEVICE_INFO, Builtin::DeviceInfo(device_info.clone()))];
        #[cfg(feature = "fault-points")]
        if std::env::var_os("SIGIL_TEST_NOOP").is_some() {
            offered.push((Told { name: "noop", description: "does nothing", owner_only: false }, Builtin::Noop));
        }
        if !config.files.roots.is_empty() {
            let files = Arc::new(FileRoots::new(config.files.roots.clone(), config.home.clone()));
            offered.push((FILES_LIST, Builtin::FilesList(files.clone())));
            offered.push((FILES_READ, Builtin::FilesRead(files.clone())));
            offered.push((FILES_STAT, Builtin::FilesStat(files.clone())));
            if config.files.write {
                offered.push((FILES_WRITE, Builtin::FilesWrite(files.clone())));
                offered.push((FILES_MOVE, Builtin::FilesMove(files.clone())));
                offered.push((FILES_REMOVE, Builtin::FilesRemove(files)));
            }
        }
        let (mut tools, mut offers) = (BTreeMap::new(), Offers::default());
        for (told, tool) in offered.into_iter().filter(|(told, _)| !told.is_among(&taken)) {
            let name: ToolName = told.name.parse().expect("our own names are valid");
            let effect = if tool.changes() { Effect::Once } else { Effect::None };
            offers.tools.insert(name.clone(), Arc::new(Offer { effect, ..offer(told) }));
            tools.insert(name, tool);
        }
        for (name, Offered { told, effect, timeout, max_output }) in programs.offered() {
            let offer = Offer { effect, timeout, max_output, ..offer(told) };
            offers.tools.insert(name, Arc::new(offer));
        }
        let offers = watch::Sender::new(Arc::new(offers));
        Self { tools, programs, files: config.files.clone(), taken, device_info, offers, runs: Runs::default() }
    }
}

impl Told {
    fn is_among(&self, names: &[ToolName]) -> bool {
        names.iter().any(|name| name.folded() == self.name)
    }
}

/// Names of ours that the settings give to tools of their own.
fn taken(config: &Config) -> Vec<ToolName> {
    let is_ours = |name: &&ToolName| ALL.into_iter().chain(programs::all()).any(|told| told.name == name.folded());
    config.tools.keys().filter(is_ours).cloned().collect()
}

fn offer(told: Told) -> Offer {
    Offer {
        effect: Effect::None,
        description: told.description.to_owned(),
        owner_only: told.owner_only,
        at_once: None,
        timeout: TIMEOUT,
        max_output: RESULT_BYTES_MAX,
        card: None,
        input: None,
        in_review: false,
    }
}

impl Provider for Builtins {
    fn offers(&self) -> watch::Receiver<Arc<Offers>> {
        self.offers.subscribe()
    }

    fn take(&self, job: Job) -> Box<dyn Run> {
        if let Some(run) = self.programs.take(&job, || self.runs.enter()) {
            return run;
        }
        Box::new(BuiltinRun { tool: self.tools.get(&job.tool).cloned(), job, place: self.runs.enter() })
    }

    fn about(&self) -> About {
        let offers = self.offers.borrow();
        let is_absent = |told: &&Told| !offers.tools.keys().any(|name| name.as_str() == told.name);
        let lack = |told: &Told| {
            if told.is_among(&self.taken) {
                TAKEN
            } else if self.files.roots.is_empty() {
                (
                    "no directory of this device is open to it",
                    "name directories in `files.roots` of sigil.toml, then `sigil reload`",
                )
            } else {
                (
                    "the directories of this device are open to be read alone",
                    "say `write = true` in `[files]` of sigil.toml, then `sigil reload`",
                )
            }
        };
        let absent = ALL.iter().filter(is_absent).map(|told| Absent {
            tool: told.name.to_owned(),
            why: lack(told).0.to_owned(),
            fix: lack(told).1.to_owned(),
        });
        About {
            kind: Kind::Builtin,
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            absent: absent.chain(self.programs.absent()).collect(),
            ..About::default()
        }
    }

    fn stop(&self, until: Instant) -> BoxFuture<'_, ()> {
        Box::pin(self.runs.stop(until))
    }
}

struct BuiltinRun {
    /// None = it was asked for what it does not offer, which the host does not do.
    tool: Option<Builtin>,
    job: Job,
    place: Place,
}

impl Run for BuiltinRun {
    fn finish<'a>(
        self: Box<Self>,
        parts: &'a mut Parts<'_>,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, RunOutcome> {
        Box::pin(async move {
            let Some(tool) = &self.tool else {
                return RunEnd::NotStarted(format!("there is no built-in tool `{}`", self.job.tool)).into();
            };
            let end = tokio::select! {
                biased;
                () = cancel.cancelled() => RunEnd::Cancelled(String::new()),
                () = self.place.ended() => RunEnd::Lost("its tool was replaced while it ran".to_owned()),
                result = timeout(self.job.timeout, run(tool, &self.job.arguments, &mut parts.spool)) => match result {
                    Err(_) => RunEnd::Limit(format!("timed out after {}", show_duration(self.job.timeout))),
                    Ok(Err(error)) => error.end(),
                    Ok(Ok(())) => RunEnd::Done,
                },
            };
            end.into()
        })
    }
}

/// What the reason of a call begins with that ended because of its arguments: nothing was forbidden, and nothing ran.
pub const INVALID_ARGUMENT: &str = "invalid_argument: ";
/// Chunks of a file that wait for the spool.
const CHUNKS_MAX: usize = 2;
/// Disks in one answer.
const DISKS_MAX: usize = 32;

/// A failure of a built-in tool. Fit for the caller.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuiltinError {
    /// Its arguments do not fit.
    #[error("arguments are not valid: {0}")]
    Arguments(String),
    /// The file or directory that it was asked for.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its output was not taken.
    #[error(transparent)]
    Output(#[from] SpoolError),
    /// Too much is at work already that does not come back.
    #[error("{0}: a disk of this device does not answer")]
    Stuck(StrayError),
    /// The owner of this device has not allowed it.
    #[error("{0}")]
    NotAllowed(&'static str),
    /// A bug of ours, caught.
    #[error("the tool broke down")]
    Broken,
}

impl BuiltinError {
    /// The end of a run with it.
    #[must_use]
    pub fn end(&self) -> RunEnd {
        match self {
            Self::File(error) if error.is_denied() => RunEnd::Denied(error.to_string()),
            Self::NotAllowed(why) => RunEnd::Denied((*why).to_owned()),
            Self::File(error) if !error.is_of_arguments() => RunEnd::Failed(error.to_string()),
            Self::Arguments(_) | Self::File(_) => RunEnd::Failed(format!("{INVALID_ARGUMENT}{self}")),
            Self::Output(error @ SpoolError::TooLarge(_)) => RunEnd::Limit(error.story()),
            Self::Output(error) => RunEnd::Failed(error.story()),
            Self::Stuck(_) | Self::Broken => RunEnd::Failed(self.to_string()),
        }
    }
}

impl From<StrayError> for BuiltinError {
    fn from(error: StrayError) -> Self {
        match error {
            StrayError::Panicked => Self::Broken,
            StrayError::Full { .. } | StrayError::NoThread(_) => Self::Stuck(error),
        }
    }
}

/// Runs a built-in tool; the output goes to `spool`. `arguments` are JSON, checked.
///
/// # Cancel safety
/// Dropping it leaves at most one look at a disk behind, on a thread that nobody waits for.
async fn run(tool: &Builtin, arguments: &[u8], spool: &mut Spool<'_>) -> Result<(), BuiltinError> {
    match tool {
        #[cfg(feature = "fault-points")]
        Builtin::Noop => Ok(spool.push(b"null").await?),
        Builtin::DeviceInfo(threads) => {
            let NoArguments {} = parse(arguments)?;
            answer(spool, threads, || Ok(device_info())).await
        }
        Builtin::FilesList(roots) => {
            let arguments = parse::<ListArguments>(arguments)?;
            let Some(path) = arguments.place()? else {
                let json = serde_json::to_vec(&roots.list_roots().await).map_err(|_| BuiltinError::Broken)?;
                return Ok(spool.push(&json).await?);
            };
            let at_work = roots.clone();
            answer(spool, roots.threads(&path)?, move || at_work.list(&path, &arguments)).await
        }
        Builtin::FilesStat(roots) => {
            let (path, at_work) = (parse::<PathArguments>(arguments)?.place()?, roots.clone());
            answer(spool, roots.threads(&path)?, move || at_work.stat(&path)).await
        }
        Builtin::FilesWrite(roots) => {
            let arguments = parse::<WriteArguments>(arguments)?;
            let (path, at_work) = (arguments.place()?, roots.clone());
            answer(spool, roots.threads(&path)?, move || at_work.write(&path, &arguments)).await
        }
        Builtin::FilesMove(roots) => {
            let ((from, to), at_work) = (parse::<MoveArguments>(arguments)?.places()?, roots.clone());
            answer(spool, roots.threads(&from)?, move || at_work.rename(&from, &to)).await
        }
        Builtin::FilesRemove(roots) => {
            let (path, at_work) = (parse::<PathArguments>(arguments)?.place()?, roots.clone());
            answer(spool, roots.threads(&path)?, move || at_work.remove(&path)).await
        }
        Builtin::FilesRead(roots) => {
            let arguments = parse::<ReadArguments>(arguments)?;
            match arguments.encoding {
                Encoding::Raw => read_raw(spool, roots, arguments).await,
                Encoding::Auto | Encoding::Utf8 | Encoding::Base64 => {
                    let (path, at_work) = (arguments.place()?, roots.clone());
                    answer(spool, roots.threads(&path)?, move || at_work.read(&path, &arguments)).await
                }
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an empty object: this tool takes no arguments")]
struct NoArguments {}

fn parse<T: DeserializeOwned>(arguments: &[u8]) -> Result<T, BuiltinError> {
    // serde would take a list for a struct too.
    if !arguments.trim_ascii_start().starts_with(b"{") {
        return Err(BuiltinError::Arguments("expected an object".to_owned()));
    }
    serde_json::from_slice(arguments).map_err(|error| BuiltinError::Arguments(error.to_string()))
}

async fn answer<T: Serialize>(
    spool: &mut Spool<'_>,
    threads: &Strays,
    work: impl FnOnce() -> Result<T, FileError> + Send + 'static,
) -> Result<(), BuiltinError> {
    let answered = threads.run(move || serde_json::to_vec(&work()?).map_err(|_| BuiltinError::Broken));
    Ok(spool.push(&answered.await??).await?)
}

async fn read_raw(spool: &mut Spool<'_>, roots: &Arc<FileRoots>, arguments: ReadArguments) -> Result<(), BuiltinError> {
    let (path, at_work) = (arguments.place()?, roots.clone());
    let threads = roots.threads(&path)?;
    let (chunks, mut inbox) = mpsc::channel::<Vec<u8>>(CHUNKS_MAX);
    let reading = threads.run(move || at_work.read_raw(&path, &arguments, |chunk| chunks.blocking_send(chunk).is_ok()));
    // Owns the inbox: when the spool takes no more, the reader hears of it.
    let spooling = async move {
        while let Some(chunk) = inbox.recv().await {
            spool.push(&chunk).await?;
        }
        Ok::<_, SpoolError>(())
    };
    let (read, spooled) = tokio::join!(reading, spooling);
    spooled?;
    Ok(read??)
}

/// Result of `device.info`. A value that cannot be found out is absent.
#[derive(Debug, Serialize)]
struct DeviceInfo {
    hostname: Option<String>,
    os: String,
    kernel: Option<String>,
    arch: &'static str,
    cpus: Option<usize>,
    memory_bytes: Option<u64>,
    memory_available_bytes: Option<u64>,
    uptime_s: Option<u64>,
    sigil_version: &'static str,
    disks: Vec<Disk>,
}

#[derive(Debug, Serialize)]
struct Disk {
    mount: String,
    size_bytes: u64,
    free_bytes: u64,
}

fn device_info() -> DeviceInfo {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let memory = read("/proc/meminfo").unwrap_or_default();
    let release = read("/etc/os-release").unwrap_or_default();
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    DeviceInfo {
        hostname: nix::unistd::gethostname().ok().map(|name| name.to_string_lossy().into_owned()),
        os: pretty.map_or(std::env::consts::OS, |name| name.trim_matches('"')).to_owned(),
        kernel: read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()),
        arch: std::env::consts::ARCH,
        cpus: std::thread::available_parallelism().ok().map(std::num::NonZero::get),
        memory_bytes: meminfo_bytes(&memory, "MemTotal"),
        memory_available_bytes: meminfo_bytes(&memory, "MemAvailable"),
        uptime_s: read("/proc/uptime").and_then(|text| text.split('.').next()?.parse().ok()),
        sigil_version: env!("CARGO_PKG_VERSION"),
        disks: disks(&read("/proc/self/mounts").unwrap_or_default()),
    }
}

/// Local disks: each device once, at its first mount. Others (network, virtual) could hang, or mean nothing.
fn disks(mounts: &str) -> Vec<Disk> {
    let mut seen = std::collections::BTreeSet::new();
    let local = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (device, mount) = (words.next()?, words.next()?);
        (device.starts_with("/dev/") && seen.insert(device)).then(|| mount.replace("\\040", " "))
    });
    local
        .take(DISKS_MAX)
        .filter_map(|mount| {
            let stat = statvfs(mount.as_str()).ok()?;
            let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
            Some(Disk { mount, size_bytes: bytes(stat.blocks()), free_bytes: bytes(stat.blocks_available()) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::outcome::Output;
    use crate::runtime::spool::OutputLimits;
    use crate::runtime::spool::testing::MemorySinks;
    use serde_json::Value;

    async fn run_tool(tool: &Builtin, arguments: &str) -> Result<Vec<u8>, BuiltinError> {
        let sinks = MemorySinks::default();
        let mut spool = Spool::new(&sinks, OutputLimits { inline: 32 * 1024, total: 64 << 20 });
        run(tool, arguments.as_bytes(), &mut spool).await?;
        Ok(match spool.finish().await.unwrap().output {
            Output::Inline(bytes) => bytes.to_vec(),
            Output::Stored { hash, .. } => sinks.blobs.lock().unwrap()[&hash].clone(),
        })
    }

    fn device_info_tool() -> Builtin {
        Builtin::DeviceInfo(Strays::new("info", 2))
    }

    #[tokio::test]
    async fn the_device_tells_of_itself() {
        let info: Value = serde_json::from_slice(&run_tool(&device_info_tool(), "{}").await.unwrap()).unwrap();
        assert_eq!(info["sigil_version"], env!("CARGO_PKG_VERSION"));
        for key in ["hostname", "os", "kernel", "arch"] {
            assert!(info[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {info}");
        }
        for key in ["cpus", "memory_bytes", "uptime_s"] {
            assert!(info[key].as_u64().is_some(), "{key}: {info}");
        }
    }

    #[tokio::test]
    async fn arguments_are_checked_and_the_error_says_what_is_expected() {
        let roots = Arc::new(FileRoots::new(vec!["/tmp".into()], "/nowhere".into()));
        let (list, read) = (Builtin::FilesList(roots.clone()), Builtin::FilesRead(roots));
        let device_info = device_info_tool();
        for (tool, arguments, part) in [
            (&device_info, r#"{"x":1}"#, "unknown field `x`"),
            (&list, r#"{"pth":"/"}"#, "expected one of `path`, `path_bytes`, `limit`, `cursor`"),
            (&list, r#"["/tmp"]"#, "expected an object"),
            (&list, "null", "expected an object"),
            (&read, "{}", "missing field `path`"),
            (&read, r#"{"path":3}"#, "expected a string"),
            (&read, r#"{"path":"x","offset":-1}"#, "expected u64"),
            (&read, r#"{"path":"x","encoding":"hex"}"#, "`auto`, `utf8`, `base64`, `raw`"),
        ] {
            let error = run_tool(tool, arguments).await.unwrap_err();
            let RunEnd::Failed(reason) = error.end() else { panic!("l04: {error:?}") };
            assert!(reason.starts_with("invalid_argument: ") && reason.contains(part), "{reason}");
        }
    }

    #[tokio::test]
    async fn raw_reads_are_the_bytes_themselves() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
        std::fs::write(dir.path().join("x"), &bytes).unwrap();
        let roots = Arc::new(FileRoots::new(vec![dir.path().to_owned()], "/nowhere".into()));
        let read = Builtin::FilesRead(roots);
        assert_eq!(run_tool(&read, r#"{"path":"x","encoding":"raw"}"#).await.unwrap(), bytes);
        let part = run_tool(&read, r#"{"path":"x","encoding":"raw","offset":7,"length":50000}"#).await.unwrap();
        assert_eq!(part, &bytes[7..50_007]);
        let json = run_tool(&read, r#"{"path":"x","length":4}"#).await.unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&json).unwrap()["next_offset"], 4);
    }

    #[tokio::test]
    async fn a_raw_read_ends_when_its_output_is_too_large() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x"), vec![7; 300_000]).unwrap();
        let roots = Arc::new(FileRoots::new(vec![dir.path().to_owned()], "/nowhere".into()));
        let sinks = MemorySinks::default();
        let mut spool = Spool::new(&sinks, OutputLimits { inline: 1024, total: 100_000 });
        let ended = run(&Builtin::FilesRead(roots), br#"{"path":"x","encoding":"raw"}"#, &mut spool).await;
        assert!(matches!(ended, Err(BuiltinError::Output(SpoolError::TooLarge(_)))), "{ended:?}");
    }

    #[test]
    fn only_local_disks_are_asked() {
        let told =
            disks("proc /proc proc rw 0 0\n/dev/none / ext4 rw 0 0\n/dev/none /again ext4 rw 0 0\nnas:/x /nas nfs\n");
        assert_eq!(told.iter().map(|disk| disk.mount.as_str()).collect::<Vec<_>>(), ["/"]);
    }
}
