//! All that the settings name and a disk should hold: the roots of the files tools, and the programs of command tools.

use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::settings::{Config, Warning};
use crate::platform::PATH_DEFAULT;
use crate::plugin::Runs;

/// Something that the settings name. Each is looked at by itself: on a dead network disk a look never comes back, and
/// must not hide what the others say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    key: String,
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    Program,
}

/// All that these settings name. Nothing is looked at yet.
#[must_use]
pub fn named(config: &Config) -> Vec<Named> {
    let named = |key: String, path: &Path, kind| Named { key, path: path.to_owned(), kind };
    let roots = config.files.roots.iter().map(|root| named("files.roots".to_owned(), root, Kind::Directory));
    let tools = config.tools.iter().map(|(name, tool)| (format!("tools.{name}.command"), tool));
    let servers = config.mcp_servers.iter().map(|(name, server)| (format!("mcp_servers.{name}.command"), server));
    // What runs in a container is looked up there.
    let programs = tools.chain(servers).filter_map(|(key, plugin)| match &plugin.execution.runs {
        Runs::Process(program, _) => Some(named(key, Path::new(program.command.first()?), Kind::Program)),
        Runs::Container(..) | Runs::Remote(_) => None,
    });
    roots.chain(programs).collect()
}

impl Named {
    /// Looks; a warning says what is missing. Blocks for as long as the disk does.
    #[must_use]
    pub fn look(&self) -> Option<Warning> {
        let why = match self.kind {
            Kind::Directory if self.path.is_dir() => return None,
            Kind::Directory => "is not a directory (now)",
            Kind::Program => why_no_program(&self.path)?,
        };
        Some(self.warning(why))
    }

    /// The warning when a look does not come back.
    #[must_use]
    pub fn silent(&self) -> Warning {
        self.warning("does not answer: its disk may be dead, or on a network that is")
    }

    fn warning(&self, why: &str) -> Warning {
        Warning(format!("{}: {} {why}", self.key, self.path.display()))
    }
}

fn why_no_program(command: &Path) -> Option<&'static str> {
    let runs = |path: &Path| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    if command.is_absolute() {
        return match command.metadata() {
            Err(_) => Some("is not there (now)"),
            Ok(found) if !found.is_file() => Some("is no program"),
            Ok(_) if !runs(command) => Some("may not be executed: `chmod +x` lets it"),
            Ok(_) => None,
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| PATH_DEFAULT.into());
    let found = std::env::split_paths(&path).any(|dir| runs(&dir.join(command)));
    (!found).then_some("is in no directory of the PATH that this agent was started with: give its whole path")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, load};

    fn warnings(text: &str) -> Vec<String> {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("bin")).unwrap();
        std::fs::write(home.path().join("bin/plain"), "x").unwrap();
        std::fs::write(home.path().join("sigil.toml"), text).unwrap();
        let config = load(home.path(), &Overrides::default()).unwrap().0;
        let dir = home.path().to_str().unwrap();
        named(&config).iter().filter_map(Named::look).map(|w| w.0.replace(dir, "HOME")).collect()
    }

    #[test]
    fn b24_what_is_missing_is_told_at_the_start() {
        assert_eq!(
            warnings("[files]\nroots = ['/tmp']\n[tools.a]\ncommand = 'sh'\n[tools.b]\ncommand = '/bin/sh'"),
            [""; 0]
        );
        let told = warnings(
            "[files]\nroots = ['/no/where']\n[tools.a]\ncommand = 'no-such-program'\n[tools.b]\ncommand = '/no/program'\n\
             [tools.c]\ncommand = './bin/plain'\n[tools.d]\ncommand = '/tmp'",
        );
        assert_eq!(told.len(), 5, "{told:?}");
        for (told, part) in told.iter().zip([
            "files.roots: /no/where is not a directory",
            "tools.a.command: no-such-program is in no directory of the PATH",
            "tools.b.command: /no/program is not there",
            "tools.c.command: HOME/./bin/plain may not be executed",
            "tools.d.command: /tmp is no program",
        ]) {
            assert!(told.contains(part), "{told}");
        }
    }
}
