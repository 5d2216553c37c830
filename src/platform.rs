//! Parts that differ between operating systems. Everything here is for Unix; Windows would get its own.

use std::fmt;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Uid, geteuid};
use serde::{Deserialize, Serialize};

/// A monotonic clock that counts while the machine sleeps.
#[cfg(any(target_os = "linux", target_os = "android"))]
const BOOTTIME: ClockId = ClockId::CLOCK_BOOTTIME;
/// On macOS and the BSDs the monotonic clock is the one that counts through sleep, or the best there is.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const BOOTTIME: ClockId = ClockId::CLOCK_MONOTONIC;

/// `PATH` of a program that is started where none is set.
pub const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";

/// Name and value of the setting by which the heap gives freed pages back at once (`docs/decisions/0065`).
pub const HEAP_SETTING: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "0");

/// Begins this process anew with [`HEAP_SETTING`], unless it has it: the heap reads its settings when a program begins, and
/// from the environment alone. The process keeps its id, arguments and open files. Comes back if it has the setting, or where
/// it cannot begin anew; then it goes on with a larger heap.
pub fn set_heap() {
    use std::os::unix::process::CommandExt as _;
    let (name, value) = HEAP_SETTING;
    if std::env::var_os(name).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let mut args = std::env::args_os();
    let mut command = std::process::Command::new(program);
    if let Some(called) = args.next() {
        command.arg0(called);
    }
    let _ = command.args(args).env(name, value).exec();
}

/// Milliseconds since the machine started, sleep included.
#[must_use]
pub fn boottime_ms() -> u64 {
    // The call fails for a clock that the system lacks, and this one it has.
    clock_gettime(BOOTTIME)
        .map_or(0, |time| time.tv_sec().unsigned_abs() * 1000 + time.tv_nsec().unsigned_abs() / 1_000_000)
}

/// The permission bits of a file, if anyone but its owner may read or write it.
#[must_use]
pub fn open_to_others(metadata: &Metadata) -> Option<u32> {
    let mode = metadata.mode() & 0o7777;
    (mode & 0o077 != 0).then_some(mode)
}

/// Creates a directory, and its parents, that only its owner may enter. One that exists stays as it is.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Creates a directory that only we may enter, or takes one that is there if it is exactly that: a directory of ours, no
/// link to one, and closed to everybody else. For places that others may write to, such as `/tmp`.
///
/// # Errors
/// It cannot be made; or what is there is something else, or somebody else's.
pub fn claim_private_dir(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made,
    }
    let found = fs::symlink_metadata(path)?;
    let refused = |why| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    if !found.is_dir() {
        refused("it is no directory")
    } else if Uid::from_raw(found.uid()) != geteuid() {
        refused("it belongs to another user")
    } else if open_to_others(&found).is_some() {
        refused("other users may enter it")
    } else {
        Ok(())
    }
}

/// Closes every descriptor but the three standard ones: what whoever started us had open, such as the lock of a script.
/// To be called before the program opens anything.
pub fn close_inherited() {
    // The listing has a descriptor of its own, which is closed before the loop: closing it again fails and harms nobody.
    let listed = fs::read_dir("/dev/fd").map(|open| {
        let numbers = open.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        numbers.collect::<Vec<i32>>()
    });
    for number in listed.unwrap_or_else(|_| (3..1024).collect()).into_iter().filter(|number| *number > 2) {
        let _ = nix::unistd::close(number);
    }
}

/// Identity of a file or directory on this machine: the same under all of its names and after a rename, another one for
/// every copy. Meaningless on another machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct FileId {
    /// Number of the file system.
    pub device: u64,
    /// Number in it.
    pub inode: u64,
}

impl FileId {
    /// Identity of what a path leads to.
    ///
    /// # Errors
    /// Nothing is there, or it cannot be looked at.
    pub fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|found| Self { device: found.dev(), inode: found.ino() })
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.device, self.inode)
    }
}

impl FromStr for FileId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let numbers =
            text.split_once('-').and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?)));
        numbers.map(|(device, inode)| Self { device, inode }).ok_or("it must be two numbers with a dash between them")
    }
}

impl From<FileId> for String {
    fn from(id: FileId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for FileId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Makes the names in a directory durable: without it, a file that was just created or renamed may vanish in a crash.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Replaces a file, or makes it, whole or not at all: it is durable, with its name, when this returns. Only its owner may read it.
/// Blocks. Two that write at once write files of their own, and one of them counts.
///
/// # Errors
/// The disk; then what was there is there still.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // A file of tempfile is 0600 from the moment it is there.
    let mut part = tempfile::NamedTempFile::new_in(dir)?;
    io::Write::write_all(&mut part, bytes)?;
    part.as_file().sync_all()?;
    part.persist(path)?;
    sync_dir(dir)
}

/// Our own program as it was started, even when the file has been replaced by an upgrade since.
#[must_use]
pub fn own_program() -> Option<PathBuf> {
    let linux = Path::new("/proc/self/exe");
    if linux.exists() { Some(linux.to_owned()) } else { std::env::current_exe().ok() }
}

/// Returns the bytes that are free for this program on the file system of `path`, and all that it has.
pub fn disk_space(path: &Path) -> io::Result<(u64, u64)> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    let unit = stat.fragment_size();
    Ok((stat.blocks_available().saturating_mul(unit), stat.blocks().saturating_mul(unit)))
}

/// True if this machine has nothing better to do than work that can wait and takes so much memory: its load is below 0.7 of
/// its cores, twice the memory is free, and no battery that is not half full is being used. What cannot be read does not count.
#[must_use]
pub fn is_at_leisure(memory_bytes: u64) -> bool {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let cores = std::thread::available_parallelism()
        .map_or(1.0, |cores| f64::from(u32::try_from(cores.get()).unwrap_or(u32::MAX)));
    let supplies = std::fs::read_dir("/sys/class/power_supply").into_iter().flatten().flatten();
    let drains = supplies.map(|supply| supply.path()).any(|supply| {
        let of = |name: &str| std::fs::read_to_string(supply.join(name)).unwrap_or_default();
        // `scope` "Device" is the battery of a mouse or a headset.
        of("status").trim() == "Discharging"
            && of("scope").trim() != "Device"
            && of("capacity").trim().parse().is_ok_and(|percent: u8| percent < 50)
    });
    let is_busy = read("/proc/loadavg").is_some_and(|text| load_of(&text).is_some_and(|load| load >= 0.7 * cores));
    let free = read("/proc/meminfo").and_then(|text| available_of(&text));
    !drains && !is_busy && free.is_none_or(|free| free >= memory_bytes.saturating_mul(2))
}

/// Load of the last minute.
fn load_of(loadavg: &str) -> Option<f64> {
    loadavg.split_whitespace().next()?.parse().ok()
}

/// Bytes that are free, or soon would be.
fn available_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib.saturating_mul(1024))
}

/// This platform's name in the contract: "linux", "darwin", …
#[must_use]
pub fn name() -> &'static str {
    #[cfg(feature = "fault-points")]
    if std::env::var("SIGIL_TEST_PLATFORM").is_ok_and(|name| name == "darwin") {
        return "darwin";
    }
    match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn leisure_is_read_from_what_the_kernel_says() {
        assert_eq!(load_of("1.25 0.8 0.7 1/300 4711\n"), Some(1.25));
        assert_eq!(load_of(""), None);
        assert_eq!(available_of("MemTotal: 8 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        assert_eq!(available_of("MemAvailable: x kB"), None);
        assert!(!is_at_leisure(u64::MAX));
    }

    #[test]
    fn s18_a_private_directory_in_a_public_place_is_ours_alone() {
        let public = tempfile::tempdir().unwrap();
        let path = public.path().join("sigil-0");
        claim_private_dir(&path).unwrap();
        claim_private_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(claim_private_dir(&path).unwrap_err().to_string().contains("other users"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        // A link to a directory of ours: whoever made it can turn it elsewhere.
        let link = public.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(claim_private_dir(&link).unwrap_err().to_string().contains("no directory"));
        let file = public.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(claim_private_dir(&file).is_err());
    }

    #[test]
    fn b04_a_copy_has_another_identity_and_a_renamed_one_has_not() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two, three] = ["one", "two", "three"].map(|name| dir.path().join(name));
        fs::create_dir(&one).unwrap();
        fs::create_dir(&two).unwrap();
        let id = FileId::of(&one).unwrap();
        assert_ne!(FileId::of(&two).unwrap(), id);
        fs::rename(&one, &three).unwrap();
        assert_eq!(FileId::of(&three).unwrap(), id);
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "1", "1-", "-1", "1-2-3"] {
            assert!(bad.parse::<FileId>().is_err(), "{bad}");
        }
    }
}
