//! Changes below the roots, where their owner allows that: a file is written whole or not at all, a name is moved without taking
//! another's, and one thing is removed at a time. What a change is about is looked at as for reading, and never followed when
//! it is a link.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};

use data_encoding::{BASE64, HEXLOWER};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::fs::{RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};

use super::{CONTENT_BYTES_MAX, Entry, FileError, FileRoots, entry, errno_of, kind, place, what};

/// Names of files that are being written. What an agent that was killed has left may be removed.
const PART_PREFIX: &str = ".sigil-part-";

/// Arguments of `files.stat` and `files.remove`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `path` or `path_bytes`")]
pub struct PathArguments {
    /// What is meant.
    pub path: Option<String>,
    /// The same in base64, for a path that is not UTF-8.
    pub path_bytes: Option<String>,
}

/// Arguments of `files.write`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "an object with `path` or `path_bytes`, `content`, and perhaps `encoding` and `replace`"
)]
pub struct WriteArguments {
    /// File.
    pub path: Option<String>,
    /// The same in base64, for a path that is not UTF-8.
    pub path_bytes: Option<String>,
    /// All that is to be in it.
    pub content: String,
    /// How that is written here.
    #[serde(default)]
    pub encoding: Written,
    /// True if it may take the place of a file that is there.
    #[serde(default)]
    pub replace: bool,
}

/// How bytes are written in JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Written {
    /// As text.
    #[default]
    Utf8,
    /// In base64.
    Base64,
}

/// Arguments of `files.move`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `from` or `from_bytes`, and `to` or `to_bytes`")]
pub struct MoveArguments {
    /// What is there.
    pub from: Option<String>,
    /// The same in base64.
    pub from_bytes: Option<String>,
    /// Where it is to be.
    pub to: Option<String>,
    /// The same in base64.
    pub to_bytes: Option<String>,
}

/// Answer of a change.
#[derive(Debug, Serialize)]
pub struct Changed {
    /// What was changed, as it was asked for.
    pub path: String,
    /// Bytes that were written; absent where none were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

fn named(text: Option<&str>, bytes: Option<&str>, field: &str) -> Result<std::path::PathBuf, FileError> {
    place(text, bytes)?.ok_or_else(|| FileError::Argument(format!("missing field `{field}`")))
}

impl PathArguments {
    /// What is meant.
    ///
    /// # Errors
    /// Nothing, or it is no path.
    pub fn place(&self) -> Result<std::path::PathBuf, FileError> {
        named(self.path.as_deref(), self.path_bytes.as_deref(), "path")
    }
}

impl WriteArguments {
    /// The file that is meant.
    ///
    /// # Errors
    /// None is named, or it is no path.
    pub fn place(&self) -> Result<std::path::PathBuf, FileError> {
        named(self.path.as_deref(), self.path_bytes.as_deref(), "path")
    }

    fn bytes(&self) -> Result<Vec<u8>, FileError> {
        let bytes = match self.encoding {
            Written::Utf8 => self.content.as_bytes().to_vec(),
            Written::Base64 => BASE64
                .decode(self.content.as_bytes())
                .map_err(|error| FileError::Argument(format!("`content` is not base64: {error}")))?,
        };
        let asked = bytes.len() as u64;
        if asked > CONTENT_BYTES_MAX {
            return Err(FileError::TooLarge { asked, max: CONTENT_BYTES_MAX });
        }
        Ok(bytes)
    }
}

impl MoveArguments {
    /// What is moved, and where to.
    ///
    /// # Errors
    /// One is not named, or is no path.
    pub fn places(&self) -> Result<(std::path::PathBuf, std::path::PathBuf), FileError> {
        let from = named(self.from.as_deref(), self.from_bytes.as_deref(), "from")?;
        Ok((from, named(self.to.as_deref(), self.to_bytes.as_deref(), "to")?))
    }
}

/// A name in a directory that was opened and looked at.
struct Spot<'a> {
    dir: OwnedFd,
    name: &'a OsStr,
    shown: String,
}

impl Spot<'_> {
    fn system(&self, errno: Errno) -> FileError {
        FileError::System { path: self.shown.clone(), errno }
    }

    /// What has this name; `None`: nothing.
    fn stat(&self) -> Result<Option<FileStat>, FileError> {
        match fstatat(&self.dir, self.name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(self.system(errno)),
        }
    }

    /// Writes a file whose name is `part`, and gives it this one.
    fn fill(
        &self,
        part: &str,
        mut file: File,
        bytes: &[u8],
        before: Option<&FileStat>,
        replace: bool,
    ) -> Result<(), FileError> {
        let io = |error: std::io::Error| self.system(errno_of(&error));
        let system = |errno| self.system(errno);
        if let Some(before) = before {
            // Whoever may read and write it stays the same, but for setuid and the like.
            fchmod(&file, Mode::from_bits_truncate(before.st_mode & 0o777)).map_err(system)?;
        }
        file.write_all(bytes).map_err(io)?;
        file.sync_all().map_err(io)?;
        rename(&self.dir, OsStr::new(part), &self.dir, self.name, replace).map_err(system)?;
        // The name lasts as well; a file system that cannot do that has done what it could. What is opened as a path alone cannot
        // be synced.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = openat(&self.dir, ".", flags, Mode::empty()).map(File::from).map_err(system)?;
        let _ = dir.sync_all();
        Ok(())
    }
}

impl FileRoots {
    /// Tells of a file, a directory or a link itself. Blocks.
    pub fn stat(&self, path: &Path) -> Result<Entry, FileError> {
        let fd = self.open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        let shown = path.to_string_lossy().into_owned();
        let stat = fstat(&fd).map_err(|errno| FileError::System { path: shown.clone(), errno })?;
        let path_bytes = path.to_str().is_none().then(|| BASE64.encode(path.as_os_str().as_bytes()));
        Ok(Entry { path_bytes, ..entry(shown, &stat) })
    }

    /// Writes a file, whole or not at all. Blocks.
    pub fn write(&self, path: &Path, arguments: &WriteArguments) -> Result<Changed, FileError> {
        let bytes = arguments.bytes()?;
        let spot = self.spot(path)?;
        let before = spot.stat()?;
        if let Some(before) = &before {
            if !arguments.replace {
                return Err(spot.system(Errno::EEXIST));
            }
            if kind(before) != SFlag::S_IFREG {
                return Err(FileError::Kind { path: spot.shown, what: what(before), wanted: "a file" });
            }
            // It may be a file of ours by another name, which is not to be taken away either.
            self.open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        }
        let part = part_name();
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&spot.dir, part.as_str(), flags, Mode::from_bits_truncate(0o666));
        let file = File::from(file.map_err(|errno| spot.system(errno))?);
        let written = spot.fill(&part, file, &bytes, before.as_ref(), arguments.replace);
        if written.is_err() {
            let _ = unlinkat(&spot.dir, part.as_str(), UnlinkatFlags::NoRemoveDir);
        }
        written.map(|()| Changed { path: spot.shown, size: Some(bytes.len() as u64) })
    }

    /// Gives something another name, which nothing has. Blocks.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<Changed, FileError> {
        let moved = self.open(from, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        let (from, to) = (self.spot(from)?, self.spot(to)?);
        if self.guard.is_around(&moved).map_err(|errno| from.system(errno))? {
            return Err(FileError::Ours(from.shown));
        }
        match rename(&from.dir, from.name, &to.dir, to.name, false) {
            Ok(()) => Ok(Changed { path: to.shown, size: None }),
            Err(Errno::EXDEV) => {
                let why = "it would go to another disk: read it there, write it here, and remove it".to_owned();
                Err(FileError::Argument(why))
            }
            Err(errno @ Errno::ENOENT) => Err(from.system(errno)),
            Err(errno) => Err(to.system(errno)),
        }
    }

    /// Removes a file, a link itself, or an empty directory. Blocks.
    pub fn remove(&self, path: &Path) -> Result<Changed, FileError> {
        let found = self.open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        let spot = self.spot(path)?;
        let stat = fstat(&found).map_err(|errno| spot.system(errno))?;
        let flag = if kind(&stat) == SFlag::S_IFDIR { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
        unlinkat(&spot.dir, spot.name, flag).map_err(|errno| spot.system(errno))?;
        Ok(Changed { path: spot.shown, size: None })
    }

    /// The directory in which a path's last name is, and that name. A root itself has none.
    fn spot<'a>(&self, path: &'a Path) -> Result<Spot<'a>, FileError> {
        let shown = path.to_string_lossy().into_owned();
        let (_, rest) = self.split(path)?;
        let Some(Component::Normal(name)) = rest.components().next_back() else {
            let why = "its last part is no name: a root stays as it is";
            return Err(FileError::Path { path: mesh_core::limits::cut(&shown, 200).to_owned(), why });
        };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let dir = self.open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        Ok(Spot { dir, name, shown })
    }
}

fn rename(from: &OwnedFd, name: &OsStr, to: &OwnedFd, new: &OsStr, replace: bool) -> Result<(), Errno> {
    let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
    renameat_with(from.as_fd(), name, to.as_fd(), new, flags).map_err(|errno| Errno::from_raw(errno.raw_os_error()))
}

fn part_name() -> String {
    let mut bytes = [0; 8];
    // Entropy of the system does not fail once the system runs; a name that is taken is refused.
    let _ = SystemRandom::new().fill(&mut bytes);
    format!("{PART_PREFIX}{}", HEXLOWER.encode(&bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    struct Bench {
        dir: tempfile::TempDir,
        roots: FileRoots,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for name in ["root/sub", "root/agent/.sigil", "other", "outside"] {
                fs::create_dir_all(dir.path().join(name)).unwrap();
            }
            fs::write(dir.path().join("root/agent/.sigil/identity.key"), "key").unwrap();
            fs::write(dir.path().join("outside/x"), "outside").unwrap();
            let roots = vec![dir.path().join("root"), dir.path().join("other")];
            let roots = FileRoots::new(roots, dir.path().join("root/agent/.sigil"));
            Self { dir, roots }
        }

        fn at(&self, name: &str) -> std::path::PathBuf {
            self.dir.path().join(name)
        }

        fn write(&self, name: &str, content: &str, replace: bool) -> Result<Changed, FileError> {
            let arguments = WriteArguments { content: content.to_owned(), replace, ..WriteArguments::default() };
            self.roots.write(&self.at(name), &arguments)
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.at(name)).unwrap_or_default()
        }

        /// Nothing is left of what was not done.
        fn is_tidy(&self) -> bool {
            let parts = |dir: &str| {
                let names = fs::read_dir(self.at(dir)).unwrap().flatten().map(|entry| entry.file_name());
                names.filter(|name| name.to_string_lossy().starts_with(PART_PREFIX)).count()
            };
            ["root", "root/sub", "other", "outside", "root/agent/.sigil"].into_iter().all(|dir| parts(dir) == 0)
        }
    }

    #[test]
    fn a_file_is_written_whole_moved_and_removed() {
        let bench = Bench::new();
        assert_eq!(bench.write("root/sub/a", "one", false).unwrap().size, Some(3));
        assert!(matches!(bench.write("root/sub/a", "two", false), Err(FileError::System { errno: Errno::EEXIST, .. })));
        fs::set_permissions(bench.at("root/sub/a"), fs::Permissions::from_mode(0o4640)).unwrap();
        bench.write("root/sub/a", "two", true).unwrap();
        let mode = fs::metadata(bench.at("root/sub/a")).unwrap().permissions().mode() & 0o7777;
        assert_eq!((bench.read("root/sub/a").as_str(), mode), ("two", 0o640));
        let found = bench.roots.stat(&bench.at("root/sub/a")).unwrap();
        assert_eq!((found.kind, found.size), ("file", 3));
        // To another root too, but never onto something.
        bench.write("other/b", "there", false).unwrap();
        let moved = |from: &str, to: &str| bench.roots.rename(&bench.at(from), &bench.at(to));
        assert!(matches!(moved("root/sub/a", "other/b"), Err(FileError::System { errno: Errno::EEXIST, .. })));
        moved("root/sub/a", "other/c").unwrap();
        assert_eq!((bench.read("other/c").as_str(), bench.read("other/b").as_str()), ("two", "there"));
        assert!(!bench.at("root/sub/a").exists());
        bench.roots.remove(&bench.at("other/c")).unwrap();
        bench.write("root/sub/d", "x", false).unwrap();
        let kept = bench.roots.remove(&bench.at("root/sub"));
        assert!(matches!(kept, Err(FileError::System { errno: Errno::ENOTEMPTY, .. })), "one thing at a time");
        bench.roots.remove(&bench.at("root/sub/d")).unwrap();
        bench.roots.remove(&bench.at("root/sub")).unwrap();
        assert!(!bench.at("root/sub").exists() && !bench.at("other/c").exists());
        let arguments =
            WriteArguments { content: "AAEC".to_owned(), encoding: Written::Base64, ..WriteArguments::default() };
        bench.roots.write(&bench.at("other/e"), &arguments).unwrap();
        assert_eq!(fs::read(bench.at("other/e")).unwrap(), [0, 1, 2]);
    }

    #[test]
    fn nothing_outside_and_nothing_of_ours_is_changed() {
        let bench = Bench::new();
        symlink(bench.at("outside"), bench.at("root/out")).unwrap();
        symlink(bench.at("outside/x"), bench.at("root/link")).unwrap();
        symlink(bench.at("outside/new"), bench.at("root/new")).unwrap();
        fs::hard_link(bench.at("root/agent/.sigil/identity.key"), bench.at("root/key")).unwrap();
        for name in [
            "outside/y",
            "root/../outside/y",
            "root/out/y",
            "root/sub/../../outside/y",
            "root/agent/.sigil/sigil.toml",
            "root/agent/.sigil/identity.key",
            "root/key",
            "root/link",
            "root/new",
            "root",
            "root/sub/.",
            "root/sub/..",
        ] {
            let refused = bench.write(name, "evil", true);
            assert!(refused.is_err(), "{name}: {refused:?}");
        }
        let moved = |from: &str, to: &str| bench.roots.rename(&bench.at(from), &bench.at(to));
        for (from, to) in [
            ("outside/x", "root/x"),
            ("root/out/x", "root/x"),
            ("root/agent", "root/away"),
            ("root/agent/.sigil", "root/away"),
            ("root/agent/.sigil/identity.key", "root/away"),
            ("root/key", "root/away"),
            ("root", "other/root"),
        ] {
            assert!(moved(from, to).is_err(), "{from}");
        }
        bench.write("root/mine", "x", false).unwrap();
        for to in ["outside/y", "root/out/y", "root/agent/.sigil/y"] {
            assert!(moved("root/mine", to).is_err(), "{to}");
        }
        for name in
            ["outside/x", "root/out/x", "root/agent/.sigil/identity.key", "root/key", "root", "root/agent/.sigil"]
        {
            assert!(bench.roots.remove(&bench.at(name)).is_err(), "{name}");
        }
        // A link is removed itself, and what it leads to stays.
        bench.roots.remove(&bench.at("root/link")).unwrap();
        assert_eq!(
            (bench.read("outside/x").as_str(), bench.read("root/agent/.sigil/identity.key").as_str()),
            ("outside", "key")
        );
        assert_eq!(fs::read_dir(bench.at("outside")).unwrap().count(), 1);
        assert!(bench.at("root/key").exists() && bench.is_tidy());
    }
}
