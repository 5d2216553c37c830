//! The tools that this device offers: a value, made anew when the settings change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::entry::{Effect, ToolDecl};
use mesh_core::ids::ToolName;
use mesh_core::limits::RESULT_BYTES_MAX;

use super::files::FileRoots;
use crate::config::{CommandTool, Config};

/// Time that a built-in tool may take: they read a little, unless a disk hangs.
const BUILTIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Implementation of a tool.
#[derive(Debug, Clone)]
pub enum Run {
    /// `noop`
    Noop,
    /// `device.info`
    DeviceInfo,
    /// `files.list`
    FilesList(Arc<FileRoots>),
    /// `files.read`
    FilesRead(Arc<FileRoots>),
    /// A program.
    Command(Arc<CommandTool>),
}

/// One tool.
#[derive(Debug, Clone)]
pub struct Tool {
    /// Its declaration in the mesh.
    pub decl: ToolDecl,
    /// Longest run.
    pub timeout: Duration,
    /// Bytes of output.
    pub max_output: u64,
    /// True if the owner of this device forbids it (`node.deny`). It is known, so that a call in the queue can be
    /// answered with the reason, but not offered.
    pub denied: bool,
    /// Its implementation.
    pub run: Run,
}

/// All tools of this device, by name.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    tools: BTreeMap<ToolName, Tool>,
}

impl Catalogue {
    /// The tools that the settings ask for.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let mut catalogue = Self::default();
        catalogue.builtin(config, "device.info", "what this device is and how it does", false, Run::DeviceInfo);
        if !config.files.roots.is_empty() {
            let roots = Arc::new(FileRoots::new(config.files.roots.clone(), config.home.clone()));
            catalogue.builtin(config, "files.list", "lists a directory", true, Run::FilesList(roots.clone()));
            catalogue.builtin(config, "files.read", "reads a file", true, Run::FilesRead(roots));
        }
        for (name, tool) in &config.tools {
            let decl = ToolDecl {
                name: name.clone(),
                effect: tool.effect,
                description: tool.description.clone(),
                owner_only: true,
            };
            let run = Run::Command(Arc::new(tool.clone()));
            catalogue.add(config, decl, tool.timeout, tool.max_output, run);
        }
        catalogue
    }

    /// Offers `noop` too, which does nothing: to measure what a call costs besides its tool.
    pub fn offer_noop(&mut self, config: &Config) {
        self.builtin(config, "noop", "does nothing", false, Run::Noop);
    }

    /// Declarations for the mesh: all tools but the denied ones, by name.
    #[must_use]
    pub fn decls(&self) -> Vec<ToolDecl> {
        self.tools.values().filter(|tool| !tool.denied).map(|tool| tool.decl.clone()).collect()
    }

    /// One tool, denied or not.
    #[must_use]
    pub fn get(&self, name: &ToolName) -> Option<&Tool> {
        self.tools.get(name)
    }

    fn builtin(&mut self, config: &Config, name: &str, description: &str, owner_only: bool, run: Run) {
        let name = name.parse().expect("our own names are valid");
        let decl = ToolDecl { name, effect: Effect::None, description: description.to_owned(), owner_only };
        self.add(config, decl, BUILTIN_TIMEOUT, RESULT_BYTES_MAX, run);
    }

    fn add(&mut self, config: &Config, decl: ToolDecl, timeout: Duration, max_output: u64, run: Run) {
        let denied = config.node.deny.iter().any(|pattern| pattern.matches(&decl.name));
        self.tools.insert(decl.name.clone(), Tool { decl, timeout, max_output, denied, run });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    fn catalogue(text: &str) -> Catalogue {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("sigil.toml"), text).unwrap();
        Catalogue::new(&crate::config::load(home.path(), &Overrides::default()).unwrap().0)
    }

    fn names(catalogue: &Catalogue) -> Vec<String> {
        catalogue.decls().into_iter().map(|decl| decl.name.to_string()).collect()
    }

    #[test]
    fn files_tools_need_roots() {
        assert_eq!(names(&catalogue("")), ["device.info"]);
        let with = catalogue("[files]\nroots = ['/tmp']\n[tools.backup]\ncommand = 'true'\n");
        assert_eq!(names(&with), ["backup", "device.info", "files.list", "files.read"]);
        let decls = with.decls();
        assert!(decls.iter().all(|decl| decl.owner_only != (decl.name.as_str() == "device.info")));
        assert_eq!(decls[0].effect, Effect::Once);
        assert_eq!(decls[1].effect, Effect::None);
    }

    #[test]
    fn denied_tools_are_known_but_not_offered() {
        let catalogue = catalogue("[node]\ndeny = ['files.*']\n[files]\nroots = ['/tmp']\n");
        assert_eq!(names(&catalogue), ["device.info"]);
        assert!(catalogue.get(&"files.read".parse().unwrap()).unwrap().denied);
    }
}
