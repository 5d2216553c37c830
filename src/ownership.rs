//! Whose hands a home is in: who besides us could change what lies there, and whose files lie there already.
//!
//! `sigil.toml` names programs that the agent runs, `identity.key` is who it is: a home that another user can write is that
//! user's agent.

use std::fmt;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User, geteuid};

/// Entries of one directory that are looked at: more than a home has, but for its blobs.
const ENTRIES_MAX: usize = 1000;
/// The one file of a home that root may own while the agent is another user's: an administrator's settings.
const SETTINGS: &str = "sigil.toml";

/// The directory of a home with the private directories of runs.
const RUNS: &str = "work";

/// Something in or above a home that is not ours alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The sentence for people.
    pub cause: String,
    /// The next step.
    pub fix: String,
}

/// The reason for which an agent does not start on a home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotOurs(Finding);

impl fmt::Display for NotOurs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.cause)
    }
}

impl std::error::Error for NotOurs {}

impl NotOurs {
    /// The next step.
    #[must_use]
    pub fn fix(&self) -> &str {
        &self.0.fix
    }
}

/// Refuses a home that another user owns or can change, and one that would be made in another user's directory.
///
/// # Errors
/// The first finding.
pub fn check(home: &Path) -> Result<(), NotOurs> {
    let us = Us::now();
    let first = match fs::metadata(home) {
        Ok(found) => us.home(home, &found).into_iter().next(),
        Err(_) => us.place(home),
    };
    first.map_or(Ok(()), |finding| Err(NotOurs(finding)))
}

/// All that is not ours in a home: each of it keeps [`check`] from passing.
#[must_use]
pub fn findings(home: &Path) -> Vec<Finding> {
    fs::metadata(home).map_or(Vec::new(), |found| Us::now().home(home, &found))
}

/// Directories above a home in which another user could put another home in its place.
#[must_use]
pub fn above(home: &Path) -> Vec<Finding> {
    let us = Us::now();
    let parents = home.ancestors().skip(1).filter_map(|path| Some((path, fs::metadata(path).ok()?)));
    let loose = parents.filter(|(_, found)| {
        let sticky = found.mode() & 0o1000 != 0;
        !us.trusts(found.uid()) || (!sticky && us.others_write(found) != 0)
    });
    loose
        .map(|(path, found)| Finding {
            cause: format!(
                "{} belongs to {} and has mode {:o}: others could put another home in the place of this one",
                path.display(),
                user(found.uid()),
                found.mode() & 0o7777
            ),
            fix: format!("chmod go-w {}, or move the home to a directory of yours", path.display()),
        })
        .collect()
}

/// A user as people know it.
#[must_use]
pub fn user(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => format!("user `{}`", user.name),
        Ok(None) | Err(_) => format!("user {uid}"),
    }
}

/// The user that this process runs as.
struct Us {
    uid: Uid,
    /// The group that has nobody but us in it, where users have one: write permission for it opens nothing.
    own_group: Option<u32>,
}

impl Us {
    fn now() -> Self {
        let uid = geteuid();
        let own_group = User::from_uid(uid).ok().flatten().and_then(|user| {
            let group = Group::from_gid(Gid::from_raw(user.gid.as_raw())).ok().flatten()?;
            let alone = group.name == user.name && group.mem.iter().all(|member| *member == user.name);
            alone.then_some(group.gid.as_raw())
        });
        Self { uid, own_group }
    }

    /// True for us and for root, who can do all that we can.
    fn trusts(&self, uid: u32) -> bool {
        uid == 0 || Uid::from_raw(uid) == self.uid
    }

    /// Write permissions that others than us have, as bits of the mode.
    fn others_write(&self, found: &Metadata) -> u32 {
        let group = if self.own_group == Some(found.gid()) { 0 } else { 0o020 };
        found.mode() & (0o002 | group)
    }

    /// A home that is not there yet: what root makes in another user's directory locks that user out.
    fn place(&self, home: &Path) -> Option<Finding> {
        let (parent, found) = home.ancestors().skip(1).find_map(|path| Some((path, fs::metadata(path).ok()?)))?;
        (self.uid.is_root() && !self.trusts(found.uid())).then(|| self.owned_by(parent, found.uid(), "its directory"))
    }

    fn home(&self, home: &Path, found: &Metadata) -> Vec<Finding> {
        if Uid::from_raw(found.uid()) != self.uid {
            return vec![self.owned_by(home, found.uid(), "the home")];
        }
        let mut findings = Vec::new();
        if self.others_write(found) != 0 {
            findings.push(writable(home, found));
        }
        // Who may not enter a directory reaches nothing in it, whatever the modes there are.
        let inner = self.entries(home, found.mode(), &mut findings);
        for (path, reach) in inner {
            // What lies there is of whoever a tool runs as, and goes with the run, or at the next start.
            if path.file_name().is_none_or(|name| name != RUNS) {
                self.entries(&path, reach, &mut findings);
            }
        }
        findings
    }

    /// Looks at what lies in `dir`, which others may enter by the bits of `reach`. Returns the directories among it.
    fn entries(&self, dir: &Path, reach: u32, findings: &mut Vec<Finding>) -> Vec<(PathBuf, u32)> {
        let mut directories = Vec::new();
        let entries = fs::read_dir(dir).into_iter().flatten().flatten().take(ENTRIES_MAX);
        for path in entries.map(|entry| entry.path()) {
            let settings = path.file_name().is_some_and(|name| name == SETTINGS);
            // Settings that are a link are those that it leads to; of other links only the link itself is the home's.
            let found = if settings { fs::metadata(&path) } else { fs::symlink_metadata(&path) };
            let Ok(found) = found else { continue };
            let ours = Uid::from_raw(found.uid()) == self.uid || (settings && self.trusts(found.uid()));
            if !ours {
                findings.push(Finding {
                    cause: format!("{} belongs to {}, and this is {}", path.display(), user(found.uid()), self.name()),
                    fix: format!(
                        "if it is yours, as root: `chown -R {} {}`; if not, remove it",
                        self.uid,
                        path.display()
                    ),
                });
            } else if !found.is_symlink() {
                // Whoever writes it must be able to enter its directory by the same right.
                let enters = (reach & 0o011) << 1;
                if self.others_write(&found) & enters != 0 {
                    findings.push(writable(&path, &found));
                }
                if found.is_dir() {
                    directories.push((path, reach & found.mode()));
                }
            }
        }
        directories
    }

    fn owned_by(&self, path: &Path, owner: u32, what: &str) -> Finding {
        let shown = user(owner);
        let name = User::from_uid(Uid::from_raw(owner)).ok().flatten().map_or(owner.to_string(), |user| user.name);
        Finding {
            cause: format!(
                "{what} {} belongs to {shown}, and this is {}: files made now would lock {shown} out",
                path.display(),
                self.name()
            ),
            fix: format!("run it as {shown} (`sudo -u {name} sigil …`), or pass --home with a directory of your own"),
        }
    }

    fn name(&self) -> String {
        user(self.uid.as_raw())
    }
}

fn writable(path: &Path, found: &Metadata) -> Finding {
    Finding {
        cause: format!("other users may write {} (mode {:o})", path.display(), found.mode() & 0o7777),
        fix: format!("chmod go-w {}, after a look at what is in it", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A home with settings, and modes as most systems make them.
    fn home() -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join(SETTINGS), "").unwrap();
        fs::create_dir(home.path().join("blobs")).unwrap();
        fs::write(home.path().join("blobs/tmp"), "").unwrap();
        home
    }

    #[test]
    fn what_a_tool_has_left_keeps_no_agent_from_starting() {
        if !geteuid().is_root() {
            return;
        }
        let home = home();
        let run = home.path().join("work/run-1");
        fs::create_dir_all(&run).unwrap();
        chown(&run, Some(65534), Some(65534)).unwrap();
        check(home.path()).unwrap();
        chown(home.path().join("work"), Some(65534), Some(65534)).unwrap();
        check(home.path()).unwrap_err();
    }

    #[test]
    fn s21_a_home_that_others_may_write_is_refused() {
        let home = home();
        check(home.path()).unwrap();
        for mode in [0o777, 0o1777, 0o702] {
            set_mode(home.path(), mode);
            let refused = check(home.path()).unwrap_err();
            assert!(refused.to_string().contains("may write") && refused.fix().contains("chmod go-w"), "{mode:o}");
        }
        set_mode(home.path(), 0o755);
        check(home.path()).unwrap();
    }

    #[test]
    fn s21_settings_that_others_may_write_are_refused_where_they_can_be_reached() {
        let home = home();
        for file in [home.path().join(SETTINGS), home.path().join("blobs"), home.path().join("blobs/tmp")] {
            let before = fs::metadata(&file).unwrap().mode();
            set_mode(&file, before | 0o002);
            set_mode(home.path(), 0o700);
            assert_eq!(findings(home.path()), [], "nobody else enters");
            set_mode(home.path(), 0o701);
            let found = findings(home.path());
            let behind_closed =
                file.ends_with("blobs/tmp") && fs::metadata(home.path().join("blobs")).unwrap().mode() & 1 == 0;
            assert!(found.len() == 1 || behind_closed, "{}: {found:?}", file.display());
            set_mode(&file, before);
            assert_eq!(findings(home.path()), []);
        }
    }

    #[test]
    fn s21_b14_what_belongs_to_another_user_is_found() {
        if !geteuid().is_root() {
            return; // Only root can give files away.
        }
        let home = home();
        let foreign = |path: &str| {
            chown(home.path().join(path), Some(65_534), None).unwrap();
            let found = findings(home.path());
            chown(home.path().join(path), Some(0), None).unwrap();
            assert_eq!(found.len(), 1, "{path}: {found:?}");
            assert!(found[0].cause.contains("belongs to") && !found[0].fix.is_empty(), "{found:?}");
        };
        foreign(SETTINGS);
        foreign("blobs");
        foreign("blobs/tmp");
        foreign("");
        assert!(check(home.path()).is_ok());
        // Not there yet, in a directory of somebody else.
        chown(home.path(), Some(65_534), None).unwrap();
        let refused = check(&home.path().join("a/b")).unwrap_err();
        assert!(refused.to_string().contains("its directory") && refused.fix().contains("sudo -u"), "{refused}");
    }

    #[test]
    fn s21_settings_may_be_a_link_to_those_of_an_administrator() {
        let home = home();
        fs::remove_file(home.path().join(SETTINGS)).unwrap();
        symlink("/etc/passwd", home.path().join(SETTINGS)).unwrap();
        check(home.path()).unwrap();
    }

    #[test]
    fn s21_a_directory_above_in_which_the_home_can_be_replaced_is_told() {
        let top = tempfile::tempdir().unwrap();
        let home = top.path().join("loose/home");
        fs::create_dir_all(&home).unwrap();
        assert_eq!(above(&home), []);
        set_mode(&top.path().join("loose"), 0o777);
        assert_eq!(above(&home).len(), 1);
        set_mode(&top.path().join("loose"), 0o1777);
        assert_eq!(above(&home), [], "nobody can rename what is ours there");
        check(&home).unwrap();
    }
}
