//! Files under the roots that the owner allows, and nothing else.
//!
//! The kernel resolves each path below an open root (`openat2` with `RESOLVE_BENEATH`), so that neither `..` nor a
//! symbolic link can lead out, not even when someone changes the tree meanwhile. What is not a plain file is never
//! opened, nor anything of the kernel or of sigil itself (`guard`).
//!
//! All of it blocks, and on a dead network disk for ever: so it runs on threads that nobody waits for, a few for each
//! root, and a disk that is dead costs no more than those.

use std::collections::BinaryHeap;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use futures_util::future::join_all;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use serde::{Deserialize, Serialize};

use self::guard::{Guard, Refused};
use crate::config::value::show_size;
use crate::tasks::Strays;

mod change;
mod guard;

pub use change::{Changed, MoveArguments, PathArguments, WriteArguments, Written};

/// Entries of one list, at most; about 3 MiB of JSON.
pub const ENTRIES_MAX: usize = 10_000;
/// Entries of one list when the caller says nothing.
pub const ENTRIES_DEFAULT: usize = 1_000;
/// Bytes of a file in one JSON answer. It is held in memory, and escaping may make it six times as long.
pub const CONTENT_BYTES_MAX: u64 = 1024 * 1024;
/// Bytes of a file in one JSON answer when the caller says nothing.
pub const CONTENT_BYTES_DEFAULT: u64 = 256 * 1024;
/// Tries when the tree is changed while the kernel resolves a `..` in it.
const TRIES: usize = 16;
/// Longest path, as the kernel has it.
const PATH_BYTES_MAX: usize = 4096;
/// Calls that may be at work below one root at once; the next waits for a place. Half of the calls that a device runs
/// at once, so that a root whose disk is dead leaves places for the others.
const AT_WORK_MAX: usize = 8;
/// Time after which a root that does not answer is shown as unreachable.
const ROOT_WITHIN: Duration = Duration::from_secs(2);
/// Bytes of a file that are in memory at once when it is read raw.
const CHUNK: u64 = 32 * 1024;

/// A failure of a files tool. Fit for the caller.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// An argument that nothing can be done with.
    #[error("{0}")]
    Argument(String),
    /// Not a path.
    #[error("`{shown}` is not a path: {why}", shown = .path.escape_debug())]
    Path {
        /// The name that was asked for.
        path: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// Not below a root.
    #[error("`{path}` is, or leads, outside of what this device allows: {roots}")]
    Outside {
        /// The name that was asked for.
        path: String,
        /// The roots, for people.
        roots: String,
    },
    /// In the home of this agent: its key and its books.
    #[error("`{0}` belongs to sigil itself")]
    Ours(String),
    /// In a file system such as `/proc`.
    #[error("`{0}` belongs to the kernel of this device: it shows its state, and is no file")]
    Kernel(String),
    /// Symbolic links that lead to each other.
    #[error("`{0}` leads round in a circle: symbolic links in it lead to each other, or are more than 40")]
    Loop(String),
    /// A pipe, a device, a socket; or a directory where a file belongs.
    #[error("`{path}` is {what}, not {wanted}")]
    Kind {
        /// The name that was asked for.
        path: String,
        /// Kind of the file.
        what: &'static str,
        /// Kind that it should be.
        wanted: &'static str,
    },
    /// The system says no.
    #[error("`{path}`: {}", .errno.desc())]
    System {
        /// The name that was asked for.
        path: String,
        /// The cause.
        errno: Errno,
    },
    /// More than one answer holds.
    #[error("{asked} bytes are too many for one answer: at most {}", show_size(*.max))]
    TooLarge {
        /// The name that was asked for.
        asked: u64,
        /// The limit.
        max: u64,
    },
    /// The caller insists on text.
    #[error("`{0}` is not UTF-8 here: ask for the encoding base64 or raw")]
    NotText(String),
}

impl FileError {
    /// True if the owner of this device has not allowed it; all else merely fails.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Outside { .. } | Self::Ours(_) | Self::Kernel(_) => true,
            Self::Argument(_)
            | Self::Path { .. }
            | Self::Loop(_)
            | Self::Kind { .. }
            | Self::System { .. }
            | Self::TooLarge { .. }
            | Self::NotText(_) => false,
        }
    }

    /// True if the arguments themselves are wrong, whatever files there are.
    #[must_use]
    pub fn is_of_arguments(&self) -> bool {
        match self {
            Self::Argument(_) | Self::Path { .. } | Self::TooLarge { .. } => true,
            Self::Outside { .. }
            | Self::Ours(_)
            | Self::Kernel(_)
            | Self::Loop(_)
            | Self::Kind { .. }
            | Self::System { .. }
            | Self::NotText(_) => false,
        }
    }
}

/// Arguments of `files.list`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `path` or `path_bytes`, `limit` and `cursor`, all optional")]
pub struct ListArguments {
    /// Directory; without it the roots are listed.
    pub path: Option<String>,
    /// The same in base64, for a path that is not UTF-8.
    pub path_bytes: Option<String>,
    /// Entries, 1 to [`ENTRIES_MAX`]; [`ENTRIES_DEFAULT`] when absent.
    pub limit: Option<usize>,
    /// Start: `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// Arguments of `files.read`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "an object with `path` or `path_bytes`, and perhaps `offset`, `length`, `encoding`"
)]
pub struct ReadArguments {
    /// File.
    pub path: Option<String>,
    /// The same in base64, for a path that is not UTF-8.
    pub path_bytes: Option<String>,
    /// First byte.
    #[serde(default)]
    pub offset: u64,
    /// Bytes; [`CONTENT_BYTES_DEFAULT`] when absent, or all for raw.
    pub length: Option<u64>,
    /// Encoding of the bytes.
    #[serde(default)]
    pub encoding: Encoding,
}

impl ListArguments {
    /// The directory that is meant; `None` = the roots.
    ///
    /// # Errors
    /// It is no path, or a cursor stands beside none.
    pub fn place(&self) -> Result<Option<PathBuf>, FileError> {
        let place = place(self.path.as_deref(), self.path_bytes.as_deref())?;
        if place.is_none() && self.cursor.is_some() {
            return Err(FileError::Argument("`cursor` belongs to a directory: give its `path` too".to_owned()));
        }
        Ok(place)
    }

    fn limit(&self) -> Result<usize, FileError> {
        let limit = self.limit.unwrap_or(ENTRIES_DEFAULT);
        let wrong = || FileError::Argument(format!("`limit` must be 1 to {ENTRIES_MAX}"));
        if (1..=ENTRIES_MAX).contains(&limit) { Ok(limit) } else { Err(wrong()) }
    }

    /// The name after which the page begins.
    fn after(&self) -> Result<Option<CString>, FileError> {
        let read = |text: &String| {
            let name = BASE64URL_NOPAD.decode(text.as_bytes()).ok().filter(|name| !name.is_empty());
            let wrong = || FileError::Argument("`cursor` is not the `next_cursor` of a page before".to_owned());
            name.and_then(|name| CString::new(name).ok()).ok_or_else(wrong)
        };
        self.cursor.as_ref().map(read).transpose()
    }
}

impl ReadArguments {
    /// The file that is meant.
    ///
    /// # Errors
    /// None is named, or it is no path.
    pub fn place(&self) -> Result<PathBuf, FileError> {
        place(self.path.as_deref(), self.path_bytes.as_deref())?
            .ok_or_else(|| FileError::Argument("missing field `path`".to_owned()))
    }
}

/// A path as it is named: as text, or in base64.
fn place(text: Option<&str>, bytes: Option<&str>) -> Result<Option<PathBuf>, FileError> {
    let path = match (text, bytes) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(FileError::Argument("`path` and `path_bytes` both name a path: give one".to_owned()));
        }
        (Some(text), None) => OsString::from(text),
        (None, Some(bytes)) => {
            let wrong = |error| FileError::Argument(format!("`path_bytes` is not base64: {error}"));
            OsString::from_vec(BASE64.decode(bytes.as_bytes()).map_err(wrong)?)
        }
    };
    let bad = |why| {
        let path = path.to_string_lossy();
        Err(FileError::Path { path: mesh_core::limits::cut(&path, 200).to_owned(), why })
    };
    if path.is_empty() || path.as_bytes().contains(&0) {
        return bad("it is empty or holds a NUL");
    }
    if path.len() > PATH_BYTES_MAX {
        return bad("it is longer than 4096 bytes");
    }
    Ok(Some(path.into()))
}

/// Encoding of bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// In JSON: as text when they are UTF-8, else as base64.
    #[default]
    Auto,
    /// In JSON, as text.
    Utf8,
    /// In JSON, as base64.
    Base64,
    /// The bytes, and nothing else.
    Raw,
}

/// Answer of `files.list`.
#[derive(Debug, Serialize)]
pub struct Listing {
    /// As asked, with � for what is not UTF-8; empty for the roots.
    pub path: String,
    /// By name, in the order of its bytes.
    pub entries: Vec<Entry>,
    /// Start of the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// See [`Listing`].
#[derive(Debug, Serialize)]
pub struct Entry {
    /// Its name, with � for what is not UTF-8. For a root, its path.
    pub name: String,
    /// Its path in base64, for `path_bytes`: only there if the path is not UTF-8, so that `name` cannot lead to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes: Option<String>,
    /// `file`, `directory`, `symlink` or `other`; for a root also `missing`, or `unreachable` when its disk does not
    /// answer.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Bytes.
    pub size: u64,
    /// Wall time of the last change.
    pub modified_ms: i64,
}

/// Answer of `files.read` in JSON.
#[derive(Debug, Serialize)]
pub struct Content {
    /// As asked, with � for what is not UTF-8.
    pub path: String,
    /// Bytes of the whole file.
    pub size: u64,
    /// Wall time of the last change.
    pub modified_ms: i64,
    /// First byte of `content`.
    pub offset: u64,
    /// Bytes in `content`.
    pub length: u64,
    /// `utf8` or `base64`.
    pub encoding: &'static str,
    /// The bytes.
    pub content: String,
    /// Start of the next part; absent at the end, and when no bytes were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_offset: Option<u64>,
}

/// A directory that the owner allows, with the threads for work below it.
#[derive(Debug)]
struct Root {
    path: PathBuf,
    threads: Strays,
}

/// The roots.
#[derive(Debug)]
pub struct FileRoots {
    roots: Vec<Root>,
    guard: Guard,
}

impl FileRoots {
    /// `roots` are absolute, without `..`. Nothing in `home` is ever told, unless a root lies in it.
    #[must_use]
    pub fn new(roots: Vec<PathBuf>, home: PathBuf) -> Self {
        let root = |path| Root { path, threads: Strays::new("files", AT_WORK_MAX) };
        Self { roots: roots.into_iter().map(root).collect(), guard: Guard::new(home) }
    }

    /// Threads for work on this path: those of its root.
    ///
    /// # Errors
    /// It is below no root.
    pub fn threads(&self, path: &Path) -> Result<&Strays, FileError> {
        self.split(path).map(|(root, _)| &root.threads)
    }

    /// Lists a directory. Blocks.
    pub fn list(&self, path: &Path, arguments: &ListArguments) -> Result<Listing, FileError> {
        let (limit, after) = (arguments.limit()?, arguments.after()?);
        let shown = path.to_string_lossy().into_owned();
        let fd = self.open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let system = |errno| FileError::System { path: shown.clone(), errno };
        let at = fd.try_clone().map_err(|error| system(errno_of(&error)))?;
        let (names, more) = page(Dir::from_fd(fd).map_err(system)?, after.as_deref(), limit).map_err(system)?;
        let next_cursor = names.last().filter(|_| more).map(|name| BASE64URL_NOPAD.encode(name.to_bytes()));
        // One that is gone meanwhile is not there.
        let tell = |name: CString| {
            let stat = fstatat(&at, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
            let name = OsStr::from_bytes(name.to_bytes());
            let path = path.join(name);
            let path_bytes = path.to_str().is_none().then(|| BASE64.encode(path.as_os_str().as_bytes()));
            Some(Entry { path_bytes, ..entry(name.to_string_lossy().into_owned(), &stat) })
        };
        let entries = names.into_iter().filter_map(tell).collect();
        Ok(Listing { path: shown, entries, next_cursor })
    }

    /// Lists the roots; one that does not answer within `ROOT_WITHIN` is told as unreachable.
    pub async fn list_roots(&self) -> Listing {
        let tell = |root: &Root| {
            let (name, path, threads) =
                (root.path.to_string_lossy().into_owned(), root.path.clone(), root.threads.clone());
            async move {
                let look = threads.run(move || nix::sys::stat::stat(&path));
                let missing = |kind| Entry { name: name.clone(), path_bytes: None, kind, size: 0, modified_ms: 0 };
                match tokio::time::timeout(ROOT_WITHIN, look).await {
                    Ok(Ok(Ok(stat))) => entry(name.clone(), &stat),
                    Ok(Ok(Err(_))) => missing("missing"),
                    Ok(Err(_)) | Err(_) => missing("unreachable"),
                }
            }
        };
        let entries = join_all(self.roots.iter().map(tell)).await;
        Listing { path: String::new(), entries, next_cursor: None }
    }

    /// Opens a plain file to read from, and tells its size and time of change. Blocks.
    pub fn open_file(&self, path: &Path) -> Result<(File, u64, i64), FileError> {
        // First without opening it: opening a pipe may block, and opening a device may do anything.
        let fd = self.open(path, OFlag::O_PATH)?;
        let shown = || path.to_string_lossy().into_owned();
        let system = |errno| FileError::System { path: shown(), errno };
        let stat = fstat(&fd).map_err(system)?;
        if kind(&stat) != SFlag::S_IFREG {
            return Err(FileError::Kind { path: shown(), what: what(&stat), wanted: "a file" });
        }
        let again = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let file = File::open(again).map_err(|error| system(errno_of(&error)))?;
        Ok((file, size(&stat), modified_ms(&stat)))
    }

    /// Reads a part of a file for a JSON answer. Blocks.
    pub fn read(&self, path: &Path, arguments: &ReadArguments) -> Result<Content, FileError> {
        let ReadArguments { offset, length, encoding, .. } = arguments;
        let shown = path.to_string_lossy().into_owned();
        let asked = length.unwrap_or(CONTENT_BYTES_DEFAULT);
        if asked > CONTENT_BYTES_MAX {
            return Err(FileError::TooLarge { asked, max: CONTENT_BYTES_MAX });
        }
        let (file, size, modified_ms) = self.open_file(path)?;
        let mut bytes = read_part(&file, *offset, asked)
            .map_err(|error| FileError::System { path: shown.clone(), errno: errno_of(&error) })?;
        let at_end = (bytes.len() as u64) < asked || offset.saturating_add(asked) >= size;
        let text = match encoding {
            Encoding::Base64 | Encoding::Raw => None,
            Encoding::Auto | Encoding::Utf8 => {
                // A character that the length has cut apart belongs to the next part.
                if !at_end
                    && let Err(error) = std::str::from_utf8(&bytes)
                    && error.error_len().is_none()
                    && error.valid_up_to() > 0
                {
                    bytes.truncate(error.valid_up_to());
                }
                std::str::from_utf8(&bytes).ok().map(str::to_owned)
            }
        };
        if text.is_none() && *encoding == Encoding::Utf8 {
            return Err(FileError::NotText(shown));
        }
        let length = bytes.len() as u64;
        Ok(Content {
            path: shown,
            size,
            modified_ms,
            offset: *offset,
            length,
            encoding: if text.is_some() { "utf8" } else { "base64" },
            content: text.unwrap_or_else(|| BASE64.encode(&bytes)),
            // Nothing follows nothing: a reader would ask for the same place for ever.
            next_offset: (!at_end && length > 0).then_some(offset + length),
        })
    }

    /// Reads a part of a file, chunk by chunk, for as long as `take` wants more. Blocks.
    pub fn read_raw(
        &self,
        path: &Path,
        arguments: &ReadArguments,
        mut take: impl FnMut(Vec<u8>) -> bool,
    ) -> Result<(), FileError> {
        let (file, _, _) = self.open_file(path)?;
        let (mut at, mut left) = (arguments.offset, arguments.length.unwrap_or(u64::MAX));
        loop {
            let chunk = read_part(&file, at, left.min(CHUNK)).map_err(|error| FileError::System {
                path: path.to_string_lossy().into_owned(),
                errno: errno_of(&error),
            })?;
            let len = chunk.len() as u64;
            if len == 0 || !take(chunk) {
                return Ok(());
            }
            at = at.saturating_add(len);
            left -= len;
        }
    }

    fn outside(&self, path: &Path) -> FileError {
        let roots: Vec<String> = self.roots.iter().map(|root| root.path.display().to_string()).collect();
        FileError::Outside { path: path.to_string_lossy().into_owned(), roots: roots.join(", ") }
    }

    /// The root that a path is below, and the rest of the path.
    fn split<'r, 'p>(&'r self, path: &'p Path) -> Result<(&'r Root, &'p Path), FileError> {
        match self.roots.as_slice() {
            [root] if path.is_relative() => Ok((root, path)),
            _ if path.is_relative() => Err(FileError::Path {
                path: mesh_core::limits::cut(&path.to_string_lossy(), 200).to_owned(),
                why: "with several roots it must be absolute",
            }),
            roots => roots
                .iter()
                .filter_map(|root| Some((root, path.strip_prefix(&root.path).ok()?)))
                .max_by_key(|(root, _)| root.path.components().count())
                .ok_or_else(|| self.outside(path)),
        }
    }

    fn open(&self, path: &Path, flags: OFlag) -> Result<OwnedFd, FileError> {
        let (root, rest) = self.split(path)?;
        let shown = || path.to_string_lossy().into_owned();
        let system = |errno| FileError::System { path: shown(), errno };
        let root_flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root_fd = open(&root.path, root_flags, Mode::empty()).map_err(system)?;
        let rest = if rest.as_os_str().is_empty() { Path::new(".") } else { rest };
        let fd = open_beneath(&root_fd, rest, flags).map_err(|errno| {
            if errno == Errno::EXDEV {
                self.outside(path)
            } else if errno == Errno::ELOOP && leads_through_kernel(&root_fd, rest) {
                // The kernel says this of links in /proc too, which are none.
                FileError::Kernel(shown())
            } else if errno == Errno::ELOOP {
                FileError::Loop(shown())
            } else if errno == Errno::ENOTDIR && flags.contains(OFlag::O_DIRECTORY) {
                FileError::Kind { path: shown(), what: "something else", wanted: "a directory" }
            } else {
                system(errno)
            }
        })?;
        match self.guard.check(&fd, &root.path).map_err(system)? {
            Ok(()) => Ok(fd),
            Err(Refused::Kernel) => Err(FileError::Kernel(shown())),
            Err(Refused::Ours) => Err(FileError::Ours(shown())),
        }
    }
}

fn open_beneath(root: &OwnedFd, rest: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    (0..TRIES)
        .map(|_| openat2(root.as_fd(), rest, how))
        .find(|result| !matches!(result, Err(Errno::EAGAIN)))
        .unwrap_or(Err(Errno::EAGAIN))
}

/// True if the longest beginning of the path that can be opened is in a file system of the kernel.
fn leads_through_kernel(root: &OwnedFd, rest: &Path) -> bool {
    let mut opened = rest.ancestors().skip(1).filter(|before| !before.as_os_str().is_empty());
    let opened = opened.find_map(|before| open_beneath(root, before, OFlag::O_PATH).ok());
    opened.is_some_and(|fd| guard::is_of_kernel(&fd).unwrap_or(true))
}

/// The first `limit` names after `after`, in the order of their bytes, whatever the order of the directory; and whether
/// more follow. Memory holds no more than those.
fn page(mut dir: Dir, after: Option<&CStr>, limit: usize) -> nix::Result<(Vec<CString>, bool)> {
    let mut first = BinaryHeap::new();
    let mut more = false;
    for entry in dir.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") || after.is_some_and(|after| name <= after) {
            continue;
        }
        first.push(name.to_owned());
        if first.len() > limit {
            more = true;
            first.pop();
        }
    }
    Ok((first.into_sorted_vec(), more))
}

fn read_part(file: &File, offset: u64, length: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    let mut len = 0;
    while let Some(rest) = bytes.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset.saturating_add(len as u64)) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

fn entry(name: String, stat: &FileStat) -> Entry {
    let kind = match kind(stat) {
        SFlag::S_IFREG => "file",
        SFlag::S_IFDIR => "directory",
        SFlag::S_IFLNK => "symlink",
        _ => "other",
    };
    Entry { name, path_bytes: None, kind, size: size(stat), modified_ms: modified_ms(stat) }
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

/// What is no plain file, for people.
fn what(stat: &FileStat) -> &'static str {
    match kind(stat) {
        SFlag::S_IFDIR => "a directory",
        SFlag::S_IFLNK => "a link",
        SFlag::S_IFIFO => "a pipe",
        SFlag::S_IFSOCK => "a socket",
        SFlag::S_IFBLK | SFlag::S_IFCHR => "a device",
        _ => "something else",
    }
}

fn size(stat: &FileStat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

fn modified_ms(stat: &FileStat) -> i64 {
    stat.st_mtime.saturating_mul(1000).saturating_add(stat.st_mtime_nsec / 1_000_000)
}

fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Tree {
        dir: tempfile::TempDir,
        files: FileRoots,
    }

    fn tree() -> Tree {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["root/sub", "root/home/store", "other"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        std::fs::write(at("root/a.txt"), "grüße").unwrap();
        std::fs::write(at("root/bytes"), [0, 255, 1]).unwrap();
        std::fs::write(at("root/home/identity.key"), "secret").unwrap();
        std::fs::write(at("other/secret"), "secret").unwrap();
        symlink("../a.txt", at("root/sub/in")).unwrap();
        symlink("../other/secret", at("root/out")).unwrap();
        symlink(at("other/secret"), at("root/out-absolute")).unwrap();
        symlink("../other", at("root/out-dir")).unwrap();
        symlink("loop", at("root/loop")).unwrap();
        symlink("/proc/self/root", at("root/magic")).unwrap();
        nix::unistd::mkfifo(&at("root/fifo"), Mode::S_IRWXU).unwrap();
        let files = FileRoots::new(vec![at("root")], at("root/home"));
        Tree { dir, files }
    }

    impl Tree {
        fn read_with(&self, arguments: &ReadArguments) -> Result<Content, FileError> {
            self.files.read(&arguments.place()?, arguments)
        }

        fn list(&self, path: &str) -> Result<Listing, FileError> {
            self.list_with(&ListArguments { path: Some(path.to_owned()), ..ListArguments::default() })
        }

        fn list_with(&self, arguments: &ListArguments) -> Result<Listing, FileError> {
            self.files.list(&arguments.place()?.expect("a path"), arguments)
        }
    }

    fn read(tree: &Tree, path: &str) -> Result<Content, FileError> {
        tree.read_with(&ReadArguments { path: Some(path.to_owned()), ..ReadArguments::default() })
    }

    #[test]
    fn what_is_below_a_root_can_be_read() {
        let tree = tree();
        let absolute = tree.dir.path().join("root/a.txt").to_str().unwrap().to_owned();
        for path in [absolute.as_str(), "a.txt", "./sub/../a.txt", "sub/in"] {
            let content = read(&tree, path).unwrap();
            assert_eq!((content.content.as_str(), content.encoding, content.size), ("grüße", "utf8", 7));
            assert_eq!(content.next_offset, None);
        }
        let content = read(&tree, "bytes").unwrap();
        assert_eq!((content.content.as_str(), content.encoding), ("AP8B", "base64"));
    }

    #[test]
    fn nothing_leads_out() {
        let tree = tree();
        let root = tree.dir.path().join("root").to_str().unwrap().to_owned();
        let secret = tree.dir.path().join("other/secret").to_str().unwrap().to_owned();
        for path in [
            "../other/secret",
            "sub/../../other/secret",
            "out",
            "out-absolute",
            "out-dir/secret",
            "magic/etc/passwd",
            "/etc/passwd",
            "/",
            &secret,
            &format!("{root}/../other/secret"),
            &format!("{root}/sub/../../other/secret"),
            &format!("{root}x"),
            "home/identity.key",
            &format!("{root}/home/store"),
        ] {
            let error = read(&tree, path).unwrap_err();
            assert!(error.is_denied(), "{path}: {error}");
            assert!(tree.list(path).is_err(), "{path}");
        }
        for path in ["", "a\0b", &"x/".repeat(3000)] {
            assert!(matches!(read(&tree, path), Err(FileError::Path { .. })), "{path:?}");
        }
    }

    #[test]
    fn a_root_that_someone_put_into_the_home_is_allowed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("shared")).unwrap();
        std::fs::write(dir.path().join("shared/x"), "x").unwrap();
        let files = FileRoots::new(vec![dir.path().join("shared")], dir.path().to_owned());
        assert!(files.open_file(Path::new("x")).is_ok());
        let files = FileRoots::new(vec![dir.path().to_owned()], dir.path().to_owned());
        assert!(matches!(files.open_file(Path::new("shared/x")), Err(FileError::Ours(_))));
    }

    #[test]
    fn what_is_no_file_is_told_without_blocking() {
        let tree = tree();
        for (path, part) in [
            ("fifo", "a pipe, not a file"),
            ("sub", "a directory, not a file"),
            ("none", "No such file"),
            ("a.txt/x", "Not a directory"),
        ] {
            let error = read(&tree, path).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            assert!(!error.is_denied(), "{error}");
        }
        let dev = FileRoots::new(vec!["/dev".into()], "/nowhere".into());
        assert!(dev.open_file(Path::new("/dev/null")).unwrap_err().to_string().contains("a device"));
        assert!(tree.list("fifo").unwrap_err().to_string().contains("not a directory"));
    }

    #[tokio::test]
    async fn directories_are_listed_and_roots() {
        let tree = tree();
        let sub = tree.list("sub").unwrap();
        let told: Vec<_> = sub.entries.iter().map(|e| (e.name.as_str(), e.kind, e.size)).collect();
        assert_eq!(told, [("in", "symlink", 8)]);
        assert!(sub.entries[0].modified_ms > 1_600_000_000_000 && sub.next_cursor.is_none());
        let roots = FileRoots::new(vec![tree.dir.path().join("root"), "/no/where".into()], "/nowhere".into());
        let roots = roots.list_roots().await;
        assert_eq!(roots.entries.iter().map(|root| root.kind).collect::<Vec<_>>(), ["directory", "missing"]);
    }

    /// Each page goes on behind the one before, whatever comes and goes meanwhile.
    #[test]
    fn l05_pages_show_every_entry_once_in_one_order() {
        let tree = tree();
        let dir = tree.dir.path().join("root/sub");
        for n in 0..250 {
            std::fs::write(dir.join(format!("f{n:03}")), "").unwrap();
        }
        let mut arguments = ListArguments { path: Some("sub".into()), limit: Some(100), ..ListArguments::default() };
        let mut seen = Vec::new();
        let mut pages = 0;
        loop {
            let page = tree.list_with(&arguments).unwrap();
            pages += 1;
            seen.extend(page.entries.into_iter().map(|entry| entry.name));
            std::fs::write(dir.join(format!("a-new-{pages}")), "").unwrap();
            match page.next_cursor {
                Some(cursor) => arguments.cursor = Some(cursor),
                None => break,
            }
        }
        let mut all: Vec<_> = (0..250).map(|n| format!("f{n:03}")).collect();
        all.push("in".to_owned());
        assert_eq!((seen, pages), (all, 3));
    }

    #[test]
    fn l06_a_name_that_is_no_text_is_marked_and_can_be_read() {
        let tree = tree();
        std::fs::create_dir(tree.dir.path().join("root").join(OsStr::from_bytes(b"d\xfe"))).unwrap();
        std::fs::write(tree.dir.path().join("root").join(OsStr::from_bytes(b"d\xfe/x\xff")), "odd").unwrap();
        let entries = tree.list(".").unwrap().entries;
        let marked: Vec<_> = entries.into_iter().filter(|entry| entry.path_bytes.is_some()).collect();
        assert_eq!(marked.iter().map(|e| e.name.as_str()).collect::<Vec<_>>(), ["d\u{fffd}"]);
        let arguments = ListArguments { path_bytes: marked[0].path_bytes.clone(), ..ListArguments::default() };
        let inside = tree.list_with(&arguments).unwrap();
        assert_eq!((inside.path.as_str(), inside.entries[0].name.as_str()), ("./d\u{fffd}", "x\u{fffd}"));
        let path_bytes = inside.entries[0].path_bytes.clone();
        let content = tree.read_with(&ReadArguments { path_bytes, ..ReadArguments::default() }).unwrap();
        assert_eq!(content.content, "odd");
        // Its way out is as closed as any other.
        let out = BASE64.encode(b"d\xfe/../../other/secret");
        let out = ReadArguments { path_bytes: Some(out), ..ReadArguments::default() };
        assert!(tree.read_with(&out).unwrap_err().is_denied());
    }

    #[test]
    fn l04_wrong_arguments_are_no_denial() {
        let tree = tree();
        let list = |arguments: ListArguments| tree.list_with(&arguments).unwrap_err();
        let read = |arguments: ReadArguments| tree.read_with(&arguments).unwrap_err();
        let path = || Some("sub".to_owned());
        let errors = [
            list(ListArguments { path: path(), limit: Some(0), ..ListArguments::default() }),
            list(ListArguments { path: path(), limit: Some(ENTRIES_MAX + 1), ..ListArguments::default() }),
            list(ListArguments { path: path(), cursor: Some("?".into()), ..ListArguments::default() }),
            list(ListArguments { cursor: Some("YQ".into()), ..ListArguments::default() }),
            list(ListArguments { path: path(), path_bytes: Some("YQ==".into()), ..ListArguments::default() }),
            read(ReadArguments::default()),
            read(ReadArguments { path: Some(String::new()), ..ReadArguments::default() }),
            read(ReadArguments { path_bytes: Some("?".into()), ..ReadArguments::default() }),
            read(ReadArguments { path: path(), length: Some(CONTENT_BYTES_MAX + 1), ..ReadArguments::default() }),
        ];
        for error in errors {
            assert!(error.is_of_arguments() && !error.is_denied(), "{error}");
        }
    }

    #[test]
    fn l07_a_loop_of_links_is_told_as_one() {
        let tree = tree();
        for path in ["loop", "loop/x", "./sub/../loop"] {
            assert!(matches!(read(&tree, path), Err(FileError::Loop(_))), "{path}");
        }
    }

    #[test]
    fn s10_the_kernel_s_own_files_are_refused() {
        let tree = tree();
        let all = FileRoots::new(vec!["/".into()], tree.dir.path().join("root/home"));
        let open = |path: &str| all.open_file(Path::new(path)).err();
        let list = |path: &str| all.list(Path::new(path), &ListArguments::default()).err();
        for path in
            ["/proc/self/mem", "/proc/self/environ", "/proc/kmsg", "/proc/1/root/etc/passwd", "/sys/kernel/notes"]
        {
            let error = open(path).expect("refused");
            let gone = matches!(error, FileError::System { errno: Errno::ENOENT | Errno::EACCES, .. });
            assert!(gone || error.is_denied(), "{path}: {error}");
        }
        assert!(matches!(open("/proc/self/cwd/Cargo.toml"), Some(FileError::Kernel(_))));
        for path in ["/proc", "/proc/self/fd", "/sys"] {
            assert!(matches!(list(path), Some(FileError::Kernel(_))), "{path}");
        }
        let own = tree.dir.path().join("root/a.txt");
        assert!(open(own.to_str().unwrap()).is_none() && list("/").is_none());
        let key = tree.dir.path().join("root/linked-key");
        std::fs::hard_link(tree.dir.path().join("root/home/identity.key"), &key).unwrap();
        assert!(matches!(open(key.to_str().unwrap()), Some(FileError::Ours(_))));
    }

    #[test]
    fn parts_never_cut_a_character() {
        let tree = tree();
        let part = |offset, length, encoding| {
            let path = Some("a.txt".to_owned());
            tree.read_with(&ReadArguments { path, offset, length: Some(length), encoding, ..ReadArguments::default() })
        };
        let first = part(0, 3, Encoding::Auto).unwrap();
        assert_eq!((first.content.as_str(), first.next_offset), ("gr", Some(2)));
        let rest = part(2, 100, Encoding::Utf8).unwrap();
        assert_eq!((rest.content.as_str(), rest.next_offset), ("üße", None));
        assert!(matches!(part(3, 1, Encoding::Utf8), Err(FileError::NotText(_))));
        assert_eq!(part(100, 1, Encoding::Auto).unwrap().length, 0);
        assert_eq!(part(u64::MAX, 1, Encoding::Auto).map_or(0, |content| content.length), 0);
        assert!(matches!(part(0, CONTENT_BYTES_MAX + 1, Encoding::Auto), Err(FileError::TooLarge { .. })));
        let nothing = part(2, 0, Encoding::Auto).unwrap();
        assert_eq!((nothing.length, nothing.size, nothing.next_offset), (0, 7, None), "l07: no place to ask for again");
    }

    #[test]
    fn with_several_roots_the_path_says_which() {
        let tree = tree();
        let files =
            FileRoots::new(vec![tree.dir.path().join("root"), tree.dir.path().join("other")], "/nowhere".into());
        assert!(files.open_file(&tree.dir.path().join("other/secret")).is_ok());
        assert!(matches!(files.open_file(Path::new("a.txt")), Err(FileError::Path { .. })));
        // From one root into another is still out of the one.
        assert!(files.open_file(&tree.dir.path().join("root/out")).is_err());
    }
}
