//! Files under the roots that the owner allows, and nothing else.
//!
//! The kernel resolves each path below an open root (`openat2` with `RESOLVE_BENEATH`), so that neither `..` nor a
//! symbolic link can lead out, not even when someone changes the tree meanwhile. What is not a plain file is never
//! opened.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use mesh_core::record::Ending;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use serde::{Deserialize, Serialize};

use crate::config::value::show_size;

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

/// A failure of a files tool. Fit for the caller.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
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
    /// Ending of a call with it.
    #[must_use]
    pub fn ending(&self) -> Ending {
        match self {
            Self::Path { .. } | Self::Outside { .. } | Self::Ours(_) => Ending::Denied,
            Self::Kind { .. } | Self::System { .. } | Self::TooLarge { .. } | Self::NotText(_) => Ending::Failed,
        }
    }
}

/// Arguments of `files.list`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `path` and `limit`, both optional")]
pub struct ListArguments {
    /// Directory; without it the roots are listed.
    pub path: Option<String>,
    /// Entries, 1 to [`ENTRIES_MAX`]; [`ENTRIES_DEFAULT`] when absent.
    pub limit: Option<usize>,
}

/// Arguments of `files.read`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `path`, and perhaps `offset`, `length`, `encoding`")]
pub struct ReadArguments {
    /// File.
    pub path: String,
    /// First byte.
    #[serde(default)]
    pub offset: u64,
    /// Bytes; [`CONTENT_BYTES_DEFAULT`] when absent, or all for raw.
    pub length: Option<u64>,
    /// Encoding of the bytes.
    #[serde(default)]
    pub encoding: Encoding,
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
    /// As asked; empty for the roots.
    pub path: String,
    /// By name.
    pub entries: Vec<Entry>,
    /// True if there are more than the limit; then these are any of them.
    pub truncated: bool,
}

/// See [`Listing`].
#[derive(Debug, Serialize)]
pub struct Entry {
    /// Its name, with � for what is not UTF-8. For a root, its path.
    pub name: String,
    /// `file`, `directory`, `symlink` or `other`; `missing` for a root that is not there.
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
    /// As asked.
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
    /// Start of the next part; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_offset: Option<u64>,
}

/// The roots.
#[derive(Debug)]
pub struct FileRoots {
    roots: Vec<PathBuf>,
    home: PathBuf,
}

impl FileRoots {
    /// `roots` are absolute, without `..`. Nothing in `home` is ever told, unless a root lies in it.
    #[must_use]
    pub fn new(roots: Vec<PathBuf>, home: PathBuf) -> Self {
        Self { roots, home: std::fs::canonicalize(&home).unwrap_or(home) }
    }

    /// Lists a directory. Blocks.
    pub fn list(&self, arguments: &ListArguments) -> Result<Listing, FileError> {
        let Some(path) = &arguments.path else { return Ok(self.list_roots()) };
        let limit = arguments.limit.unwrap_or(ENTRIES_DEFAULT).clamp(1, ENTRIES_MAX);
        let fd = self.open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let system = |errno| FileError::System { path: path.clone(), errno };
        let at = fd.try_clone().map_err(|error| system(errno_of(&error)))?;
        let mut entries = Vec::new();
        let mut truncated = false;
        for entry in Dir::from_fd(fd).map_err(system)?.iter() {
            let entry = entry.map_err(system)?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if entries.len() == limit {
                truncated = true;
                break;
            }
            // One that is gone meanwhile is not there.
            if let Ok(stat) = fstatat(&at, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                entries.push(tell(name.to_string_lossy().into_owned(), &stat));
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Listing { path: path.clone(), entries, truncated })
    }

    fn list_roots(&self) -> Listing {
        let tell_root = |root: &PathBuf| {
            let name = root.to_string_lossy().into_owned();
            match nix::sys::stat::stat(root) {
                Ok(stat) => tell(name, &stat),
                Err(_) => Entry { name, kind: "missing", size: 0, modified_ms: 0 },
            }
        };
        Listing { path: String::new(), entries: self.roots.iter().map(tell_root).collect(), truncated: false }
    }

    /// Opens a plain file to read from, and tells its size and time of change. Blocks.
    pub fn open_file(&self, path: &str) -> Result<(File, u64, i64), FileError> {
        // First without opening it: opening a pipe may block, and opening a device may do anything.
        let fd = self.open(path, OFlag::O_PATH)?;
        let system = |errno| FileError::System { path: path.to_owned(), errno };
        let stat = fstat(&fd).map_err(system)?;
        let what = match kind(&stat) {
            SFlag::S_IFREG => {
                let again = format!("/proc/self/fd/{}", fd.as_raw_fd());
                let file = File::open(again).map_err(|error| system(errno_of(&error)))?;
                return Ok((file, size(&stat), modified_ms(&stat)));
            }
            SFlag::S_IFDIR => "a directory",
            SFlag::S_IFIFO => "a pipe",
            SFlag::S_IFSOCK => "a socket",
            SFlag::S_IFBLK | SFlag::S_IFCHR => "a device",
            _ => "something else",
        };
        Err(FileError::Kind { path: path.to_owned(), what, wanted: "a file" })
    }

    /// Reads a part of a file for a JSON answer. Blocks.
    pub fn read(&self, arguments: &ReadArguments) -> Result<Content, FileError> {
        let ReadArguments { path, offset, length, encoding } = arguments;
        let (file, size, modified_ms) = self.open_file(path)?;
        let asked = length.unwrap_or(CONTENT_BYTES_DEFAULT);
        if asked > CONTENT_BYTES_MAX {
            return Err(FileError::TooLarge { asked, max: CONTENT_BYTES_MAX });
        }
        let mut bytes = read_part(&file, *offset, asked)
            .map_err(|error| FileError::System { path: path.clone(), errno: errno_of(&error) })?;
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
            return Err(FileError::NotText(path.clone()));
        }
        let length = bytes.len() as u64;
        Ok(Content {
            path: path.clone(),
            size,
            modified_ms,
            offset: *offset,
            length,
            encoding: if text.is_some() { "utf8" } else { "base64" },
            content: text.unwrap_or_else(|| BASE64.encode(&bytes)),
            next_offset: (!at_end).then_some(offset + length),
        })
    }

    fn outside(&self, path: &str) -> FileError {
        let roots: Vec<String> = self.roots.iter().map(|root| root.display().to_string()).collect();
        FileError::Outside { path: path.to_owned(), roots: roots.join(", ") }
    }

    /// The root that a path is below, and the rest of the path.
    fn split<'a>(&'a self, path: &'a str) -> Result<(&'a Path, &'a Path), FileError> {
        let bad = |why| Err(FileError::Path { path: mesh_core::limits::cut(path, 200).to_owned(), why });
        if path.is_empty() || path.contains('\0') {
            return bad("it is empty or holds a NUL");
        }
        if path.len() > 4096 {
            return bad("it is longer than 4096 bytes");
        }
        let whole = Path::new(path);
        match self.roots.as_slice() {
            [root] if whole.is_relative() => Ok((root, whole)),
            _ if whole.is_relative() => bad("with several roots it must be absolute"),
            roots => roots
                .iter()
                .filter_map(|root| Some((root.as_path(), whole.strip_prefix(root).ok()?)))
                .max_by_key(|(root, _)| root.components().count())
                .ok_or_else(|| self.outside(path)),
        }
    }

    fn open(&self, path: &str, flags: OFlag) -> Result<OwnedFd, FileError> {
        let (root, rest) = self.split(path)?;
        let system = |errno| FileError::System { path: path.to_owned(), errno };
        let root_flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root_fd = open(root, root_flags, Mode::empty()).map_err(system)?;
        let rest = if rest.as_os_str().is_empty() { Path::new(".") } else { rest };
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let fd = (0..TRIES)
            .map(|_| openat2(root_fd.as_fd(), rest, how))
            .find(|result| !matches!(result, Err(Errno::EAGAIN)))
            .unwrap_or(Err(Errno::EAGAIN))
            .map_err(|errno| {
                if matches!(errno, Errno::EXDEV | Errno::ELOOP) {
                    self.outside(path)
                } else if errno == Errno::ENOTDIR && flags.contains(OFlag::O_DIRECTORY) {
                    FileError::Kind { path: path.to_owned(), what: "something else", wanted: "a directory" }
                } else {
                    system(errno)
                }
            })?;
        let real = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
            .map_err(|error| system(errno_of(&error)))?;
        // A root within the home is there because someone put it there; the home within a root is an accident.
        let root_in_home =
            std::fs::canonicalize(root).is_ok_and(|root| root != self.home && root.starts_with(&self.home));
        if real.starts_with(&self.home) && !root_in_home {
            return Err(FileError::Ours(path.to_owned()));
        }
        Ok(fd)
    }
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

fn tell(name: String, stat: &FileStat) -> Entry {
    let kind = match kind(stat) {
        SFlag::S_IFREG => "file",
        SFlag::S_IFDIR => "directory",
        SFlag::S_IFLNK => "symlink",
        _ => "other",
    };
    Entry { name, kind, size: size(stat), modified_ms: modified_ms(stat) }
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
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
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
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

    fn read(tree: &Tree, path: &str) -> Result<Content, FileError> {
        let path = path.to_owned();
        tree.files.read(&ReadArguments { path, offset: 0, length: None, encoding: Encoding::Auto })
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
            "loop",
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
            assert_eq!(error.ending(), Ending::Denied, "{path}: {error}");
            let list = tree.files.list(&ListArguments { path: Some(path.to_owned()), limit: None });
            assert!(list.is_err(), "{path}");
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
        assert!(files.open_file("x").is_ok());
        let files = FileRoots::new(vec![dir.path().to_owned()], dir.path().to_owned());
        assert!(matches!(files.open_file("shared/x"), Err(FileError::Ours(_))));
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
            assert_eq!(error.ending(), Ending::Failed);
        }
        let dev = FileRoots::new(vec!["/dev".into()], "/nowhere".into());
        assert!(dev.open_file("/dev/null").unwrap_err().to_string().contains("a device"));
        let list = |path: &str| tree.files.list(&ListArguments { path: Some(path.to_owned()), limit: None });
        assert!(list("fifo").unwrap_err().to_string().contains("not a directory"));
    }

    #[test]
    fn directories_are_listed_sorted_and_limited() {
        let tree = tree();
        std::fs::write(tree.dir.path().join("root/sub").join(OsStr::from_bytes(b"x\xff")), "12").unwrap();
        let list = |path: Option<&str>, limit| {
            tree.files.list(&ListArguments { path: path.map(str::to_owned), limit }).unwrap()
        };
        let sub = list(Some("sub"), None);
        let told: Vec<_> = sub.entries.iter().map(|e| (e.name.as_str(), e.kind, e.size)).collect();
        assert_eq!(told, [("in", "symlink", 8), ("x\u{fffd}", "file", 2)]);
        assert!(sub.entries[1].modified_ms > 1_600_000_000_000 && !sub.truncated);
        let cut = list(Some("."), Some(2));
        assert!(cut.truncated && cut.entries.len() == 2);
        let roots = list(None, None);
        assert_eq!((roots.entries.len(), roots.entries[0].kind), (1, "directory"));
    }

    #[test]
    fn parts_never_cut_a_character() {
        let tree = tree();
        let part = |offset, length, encoding| {
            tree.files.read(&ReadArguments { path: "a.txt".into(), offset, length: Some(length), encoding })
        };
        let first = part(0, 3, Encoding::Auto).unwrap();
        assert_eq!((first.content.as_str(), first.next_offset), ("gr", Some(2)));
        let rest = part(2, 100, Encoding::Utf8).unwrap();
        assert_eq!((rest.content.as_str(), rest.next_offset), ("üße", None));
        assert!(matches!(part(3, 1, Encoding::Utf8), Err(FileError::NotText(_))));
        assert_eq!(part(100, 1, Encoding::Auto).unwrap().length, 0);
        assert_eq!(part(u64::MAX, 1, Encoding::Auto).map_or(0, |content| content.length), 0);
        assert!(matches!(part(0, CONTENT_BYTES_MAX + 1, Encoding::Auto), Err(FileError::TooLarge { .. })));
    }

    #[test]
    fn with_several_roots_the_path_says_which() {
        let tree = tree();
        let files =
            FileRoots::new(vec![tree.dir.path().join("root"), tree.dir.path().join("other")], "/nowhere".into());
        assert!(files.open_file(tree.dir.path().join("other/secret").to_str().unwrap()).is_ok());
        assert!(matches!(files.open_file("a.txt"), Err(FileError::Path { .. })));
        // From one root into another is still out of the one.
        assert!(files.open_file(tree.dir.path().join("root/out").to_str().unwrap()).is_err());
    }
}
