//! Files that the files tools never open, by whatever name they are reached.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat, stat};
use nix::sys::statfs::fstatfs;

use crate::mesh::clock;

/// File systems of the kernel, by the numbers of `linux/magic.h`: they hold its state, and that of processes, and no
/// files. Reading one of those may tell a key, block for ever, or do something.
const KERNEL: [u64; 33] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xf97c_ff8c, // selinuxfs
    0x4341_5d53, // smackfs
    0x5a3c_69f0, // apparmorfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0xcafe_4a11, // bpf
    0x6265_6570, // configfs
    0x6165_676c, // pstore
    0xde5e_81e4, // efivarfs
    0x4249_4e4d, // binfmt_misc
    0x6573_5543, // fusectl
    0x9584_58f6, // hugetlbfs
    0x1980_0202, // mqueue
    0x1cd1,      // devpts
    0x6759_6969, // rpc_pipefs
    0x6e66_7364, // nfsd
    0xabba_1974, // xenfs
    0x9fa1,      // openpromfs
    0x9fa2,      // usbdevfs
    0x0765_5821, // resctrl
    0x6c6f_6f70, // binder
    0x6e73_6673, // nsfs
    0x5049_4446, // pidfs
    0x5049_5045, // pipefs
    0x534f_434b, // sockfs
    0x0904_1934, // anonymous inodes
    0x444d_4142, // dma-buf
    0x5345_434d, // secretmem
];
/// File systems that hold files and may all the same say that they have no blocks.
const STORAGE: [u64; 15] = [
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0x794c_7630, // overlayfs
    0x6573_5546, // FUSE
    0x6969,      // NFS
    0x517b,      // SMB
    0xff53_4d42, // CIFS
    0xfe53_4d42, // SMB 2
    0x0102_1997, // 9P
    0x5346_414f, // AFS
    0x6b41_4653, // kAFS
    0x00c3_6400, // Ceph
    0x7375_7245, // Coda
    0x786f_4256, // shared folders of VirtualBox
    0x0187,      // autofs, where others are mounted on demand
];
/// Directory in the home in which tools run: what lies there is theirs.
const WORK: &CStr = c"work";
/// Levels below the home that are looked through; the store has four.
const DEPTH_MAX: usize = 16;
/// Directories whose content is remembered; a home has a few hundred.
const REMEMBERED_MAX: usize = 4096;
/// Age from which a directory that changed is taken for one whose next change will show in its times: those may be as
/// coarse as two seconds.
const SETTLED_MS: i64 = 3_000;

/// A file, whatever its names.
type Identity = (u64, u64);

/// A reason not to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// In a file system of the kernel.
    Kernel,
    /// In the home of this agent: its key and its books.
    Ours,
}

/// Looks at what was opened, by its identity: a bind mount or a hard link is another path to the same file.
#[derive(Debug)]
pub(super) struct Guard {
    home: PathBuf,
    /// Directories of the home as they were read last: reading ten thousand names takes longer than most calls.
    remembered: Mutex<BTreeMap<Identity, Arc<Content>>>,
    settled_ms: i64,
}

/// All that lies in a directory.
#[derive(Debug)]
struct Content {
    /// Times of its last changes, of what it holds and of itself: as long as they are the same, so is all of this.
    changed: (i64, i64, i64, i64),
    /// Numbers of all that is in it, sorted.
    inodes: Vec<u64>,
    /// A path that may be a directory.
    dirs: Vec<CString>,
}

impl Content {
    fn changed(stat: &FileStat) -> (i64, i64, i64, i64) {
        (stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec)
    }

    fn read(dir: &mut Dir, stat: &FileStat) -> nix::Result<Self> {
        let (mut inodes, mut dirs) = (Vec::new(), Vec::new());
        for entry in dir.iter() {
            let entry = entry?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            inodes.push(entry.ino());
            if matches!(entry.file_type(), None | Some(Type::Directory)) {
                dirs.push(entry.file_name().to_owned());
            }
        }
        inodes.sort_unstable();
        Ok(Self { changed: Self::changed(stat), inodes, dirs })
    }

    /// Time since it changed.
    fn age_ms(&self) -> i64 {
        let (modified_s, _, changed_s, _) = self.changed;
        let newest_ms = modified_s.max(changed_s).saturating_mul(1000);
        i64::try_from(clock::now().wall_ms).unwrap_or(i64::MAX).saturating_sub(newest_ms)
    }
}

impl Guard {
    pub(super) fn new(home: PathBuf) -> Self {
        Self {
            home: std::fs::canonicalize(&home).unwrap_or(home),
            remembered: Mutex::default(),
            settled_ms: SETTLED_MS,
        }
    }

    /// Decides about a file below `root`. A root within the home is there because someone put it there; the home within
    /// a root is an accident. Blocks.
    pub(super) fn check(&self, file: impl AsFd, root: &Path) -> nix::Result<Result<(), Refused>> {
        let file = file.as_fd();
        if is_of_kernel(file)? {
            return Ok(Err(Refused::Kernel));
        }
        let real = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
            .map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
        let own_root =
            std::fs::canonicalize(root).ok().filter(|root| *root != self.home && root.starts_with(&self.home));
        if real.starts_with(&self.home) && own_root.is_none() {
            return Ok(Err(Refused::Ours));
        }
        let except = own_root.and_then(|root| stat(&root).ok()).map(|root| identity(&root));
        let ours = self.holds(identity(&fstat(file)?), except)?;
        Ok(if ours { Err(Refused::Ours) } else { Ok(()) })
    }

    /// True if the home lies in this directory: with it the home would move. Blocks.
    pub(super) fn is_around(&self, file: impl AsFd) -> nix::Result<bool> {
        let real = std::fs::read_link(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))
            .map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
        Ok(self.home.starts_with(real))
    }

    /// True if this file is the home or anything in it, but for the directory `except`. What a name directly in the home
    /// stands for is ours too when it is a symbolic link, such as a key that lies elsewhere.
    fn holds(&self, wanted: Identity, except: Option<Identity>) -> nix::Result<bool> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut home = match Dir::open(&self.home, flags, Mode::empty()) {
            Ok(home) => home,
            Err(Errno::ENOENT) => return Ok(false),
            Err(errno) => return Err(errno),
        };
        if identity(&fstat(&home)?) == wanted {
            return Ok(true);
        }
        let mut inside = Vec::new();
        for entry in home.iter() {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                inside.push(entry.file_name().to_owned());
            }
        }
        for name in inside {
            // One that is gone meanwhile, or a link that leads nowhere, is no file.
            let Ok(found) = fstatat(&home, name.as_c_str(), AtFlags::empty()) else { continue };
            let own = identity(&found);
            if own == wanted && Some(own) != except {
                return Ok(true);
            }
            let is_dir = nix::sys::stat::SFlag::from_bits_truncate(found.st_mode) & nix::sys::stat::SFlag::S_IFMT
                == nix::sys::stat::SFlag::S_IFDIR;
            if is_dir && Some(own) != except && name.as_c_str() != WORK {
                let Ok(mut dir) = Dir::openat(&home, name.as_c_str(), flags, Mode::empty()) else { continue };
                if self.below(&mut dir, wanted, except, DEPTH_MAX)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// True if `wanted` lies in this directory or below it.
    fn below(&self, dir: &mut Dir, wanted: Identity, except: Option<Identity>, depth: usize) -> nix::Result<bool> {
        let stat = fstat(&*dir)?;
        let (device, _) = identity(&stat);
        let content = self.content(dir, &stat)?;
        // The number of a mount point here is that of the directory under it; such a one is looked into below.
        let (wanted_device, inode) = wanted;
        if device == wanted_device && content.inodes.binary_search(&inode).is_ok() && Some(wanted) != except {
            return Ok(true);
        }
        for name in content.dirs.iter().filter(|_| depth > 0) {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
            let Ok(mut dir) = Dir::openat(&*dir, name.as_c_str(), flags, Mode::empty()) else { continue };
            let own = identity(&fstat(&dir)?);
            if Some(own) != except && (own == wanted || self.below(&mut dir, wanted, except, depth - 1)?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// All that lies in a directory, read only if it has changed since the last look.
    fn content(&self, dir: &mut Dir, stat: &FileStat) -> nix::Result<Arc<Content>> {
        let own = identity(stat);
        let lock = || self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(&own).filter(|known| known.changed == Content::changed(stat)) {
            return Ok(known.clone());
        }
        let content = Arc::new(Content::read(dir, stat)?);
        let mut remembered = lock();
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        // One that has just changed may change again within the same tick of its clock.
        if content.age_ms() > self.settled_ms {
            remembered.insert(own, content.clone());
        } else {
            remembered.remove(&own);
        }
        Ok(content)
    }
}

fn identity(stat: &FileStat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

/// True for a file or directory in a file system of the kernel.
pub(super) fn is_of_kernel(file: impl AsFd) -> nix::Result<bool> {
    let system = fstatfs(file.as_fd())?;
    #[expect(clippy::cast_sign_loss, reason = "a number of 32 bits, in a type that differs between platforms")]
    let magic = system.filesystem_type().0 as u64 & 0xffff_ffff;
    Ok(is_kernel(magic, system.blocks()))
}

/// One without blocks that is not known to hold files is taken for one of the kernel: new ones come with each release.
fn is_kernel(magic: u64, blocks: u64) -> bool {
    KERNEL.contains(&magic) || (blocks == 0 && !STORAGE.contains(&magic))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    #[test]
    fn s10_file_systems_of_the_kernel_are_told_from_those_of_files() {
        for path in ["/proc", "/proc/self/mem", "/proc/self/environ", "/sys", "/sys/kernel", "/dev/pts"] {
            if let Ok(file) = File::open(path) {
                assert!(is_of_kernel(&file).unwrap(), "{path}");
            }
        }
        for path in ["/", "/tmp", "/usr", "/dev/shm"] {
            if let Ok(file) = File::open(path) {
                assert!(!is_of_kernel(&file).unwrap(), "{path}");
            }
        }
        // A FUSE file system that answers no statfs, a tmpfs without a limit; a kernel's own that nobody knows yet.
        assert!(!is_kernel(0x6573_5546, 0) && !is_kernel(0x0102_1994, 0));
        assert!(is_kernel(0x1234_5678, 0) && !is_kernel(0x1234_5678, 1));
    }

    fn home() -> (tempfile::TempDir, Guard) {
        let dir = tempfile::tempdir().unwrap();
        for name in ["home/store/db/parts", "home/work/run-1", "home/shared", "root", "secrets"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        for name in ["home/identity.key", "home/store/db/parts/1", "home/work/run-1/x", "home/shared/note", "root/own"]
        {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let guard = Guard::new(dir.path().join("home"));
        (dir, guard)
    }

    #[test]
    fn s10_a_hard_link_into_the_home_is_the_home() {
        let (dir, guard) = home();
        let at = |name: &str| dir.path().join(name);
        let check = |name: &str, root: &str| guard.check(File::open(at(name)).unwrap(), &at(root)).unwrap();
        fs::hard_link(at("home/identity.key"), at("root/key")).unwrap();
        fs::hard_link(at("home/store/db/parts/1"), at("root/part")).unwrap();
        fs::hard_link(at("home/identity.key"), at("home/shared/key")).unwrap();
        assert_eq!(check("root/own", "root"), Ok(()));
        for (name, root) in [
            ("root/key", "root"),
            ("root/part", "root"),
            ("home/store", ""),
            ("home/shared/note", ""),
            // A root in the home shows what is in it, and no more of the home.
            ("home/shared/key", "home/shared"),
        ] {
            assert_eq!(check(name, root), Err(Refused::Ours), "{name}");
        }
        assert_eq!(check("home/shared/note", "home/shared"), Ok(()));
        assert_eq!(check("home/shared", "home/shared"), Ok(()));
    }

    #[test]
    fn s10_a_key_that_lies_elsewhere_is_ours_too() {
        let (dir, guard) = home();
        let at = |name: &str| dir.path().join(name);
        fs::rename(at("home/identity.key"), at("secrets/key")).unwrap();
        symlink(at("secrets/key"), at("home/identity.key")).unwrap();
        assert_eq!(guard.check(File::open(at("secrets/key")).unwrap(), dir.path()).unwrap(), Err(Refused::Ours));
        // So is a whole directory that was moved to a larger disk.
        fs::rename(at("home/store"), at("secrets/store")).unwrap();
        symlink(at("secrets/store"), at("home/store")).unwrap();
        let part = File::open(at("secrets/store/db/parts/1")).unwrap();
        assert_eq!(guard.check(part, dir.path()).unwrap(), Err(Refused::Ours));
    }

    #[test]
    fn what_is_remembered_of_the_home_is_true_when_it_changes() {
        let (dir, mut guard) = home();
        let at = |name: &str| dir.path().join(name);
        let check = |guard: &Guard| guard.check(File::open(at("root/own")).unwrap(), &at("root")).unwrap();
        let remembered = |guard: &Guard| guard.remembered.lock().unwrap().len();
        // It has just been made, so nothing of it is remembered.
        assert_eq!((check(&guard), remembered(&guard)), (Ok(()), 0));
        guard.settled_ms = i64::MIN;
        let long_ago = std::time::SystemTime::now() - std::time::Duration::from_mins(1);
        File::open(at("home/store/db/parts")).unwrap().set_modified(long_ago).unwrap();
        for _ in 0..2 {
            assert_eq!((check(&guard), remembered(&guard)), (Ok(()), 4));
        }
        fs::hard_link(at("root/own"), at("home/store/db/parts/2")).unwrap();
        assert_eq!(check(&guard), Err(Refused::Ours), "a new name shows at once");
    }

    #[test]
    fn a_home_that_is_not_there_holds_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(Guard::new("/nowhere".into()).check(file.as_file(), Path::new("/")).unwrap(), Ok(()));
    }
}
