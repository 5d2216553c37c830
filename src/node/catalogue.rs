//! The tools that this device offers: a value, made from the settings at the start and at each reload.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::ids::ToolName;
use mesh_core::limits::{RESULT_BYTES_MAX, TOOLS_MAX};
use mesh_core::policy::ToolPattern;
use mesh_core::record::{Effect, ToolDecl};

use super::builtin::{self, Builtin};
use super::files::FileRoots;
use crate::config::{CommandTool, Config};
use crate::tasks::Strays;

/// Time that a built-in tool may take: they read a little, unless a disk hangs.
const BUILTIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Calls of `device.info` that look at the disks at once: half of the calls that a device runs at once, so that a disk
/// which is dead leaves places for others.
const DEVICE_INFO_AT_WORK_MAX: usize = 8;
/// Tools that the settings may add, so that with all built-in ones they fit into a directory record.
const COMMAND_TOOLS_MAX: usize = TOOLS_MAX - builtin::NAMES.len();

/// A way to run a tool.
#[derive(Debug, Clone)]
pub enum Run {
    /// Inside the agent.
    Builtin(Builtin),
    /// As a program.
    Command(Arc<CommandTool>),
}

/// One tool.
#[derive(Debug, Clone)]
pub struct Tool {
    /// Its description for the mesh.
    pub decl: ToolDecl,
    /// Longest run.
    pub timeout: Duration,
    /// Bytes of output.
    pub max_output: u64,
    /// Pattern of `node.deny` by which the owner of this device forbids it. It is known, so that a call in the queue can be
    /// answered with the reason, but not offered.
    pub denied: Option<ToolPattern>,
    /// The way to run it.
    pub run: Run,
}

/// All tools of this device, by name.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    tools: BTreeMap<ToolName, Tool>,
}

/// A reason for which settings make no catalogue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogueError {
    /// A command tool with the name of a built-in one.
    #[error("tools.{0} is not allowed: this is the name of a built-in tool, choose another")]
    Reserved(ToolName),
    /// Too many.
    #[error("{count} tools are not allowed: the settings may add at most {max}", max = COMMAND_TOOLS_MAX)]
    TooMany {
        /// Command tools in the settings.
        count: usize,
    },
}

impl Catalogue {
    /// The tools that the settings ask for.
    pub fn new(config: &Config) -> Result<Self, CatalogueError> {
        if config.tools.len() > COMMAND_TOOLS_MAX {
            return Err(CatalogueError::TooMany { count: config.tools.len() });
        }
        if let Some(name) = config.tools.keys().find(|name| builtin::NAMES.contains(&name.as_str())) {
            return Err(CatalogueError::Reserved(name.clone()));
        }
        let mut catalogue = Self::default();
        #[cfg(feature = "fault-points")]
        if std::env::var_os("SIGIL_TEST_NOOP").is_some() {
            catalogue.builtin(config, "noop", "does nothing", false, Builtin::Noop);
        }
        let info = Builtin::DeviceInfo(Strays::new("device-info", DEVICE_INFO_AT_WORK_MAX));
        catalogue.builtin(config, "device.info", "what this device is and how it does", false, info);
        if !config.files.roots.is_empty() {
            let roots = Arc::new(FileRoots::new(config.files.roots.clone(), config.home.clone()));
            catalogue.builtin(config, "files.list", "lists a directory", true, Builtin::FilesList(roots.clone()));
            catalogue.builtin(config, "files.read", "reads a file", true, Builtin::FilesRead(roots));
        }
        for (name, tool) in &config.tools {
            let decl = ToolDecl {
                name: name.clone(),
                effect: tool.effect,
                description: tool.description.clone(),
                owner_only: true,
                at_once: tool.at_once,
            };
            let run = Run::Command(Arc::new(tool.clone()));
            catalogue.add(config, decl, tool.timeout, tool.max_output, run);
        }
        Ok(catalogue)
    }

    /// Descriptions for the mesh: of all tools but the denied ones, by name.
    #[must_use]
    pub fn decls(&self) -> Vec<ToolDecl> {
        self.tools.values().filter(|tool| tool.denied.is_none()).map(|tool| tool.decl.clone()).collect()
    }

    /// One tool, denied or not.
    #[must_use]
    pub fn get(&self, name: &ToolName) -> Option<&Tool> {
        self.tools.get(name)
    }

    fn builtin(&mut self, config: &Config, name: &str, description: &str, owner_only: bool, run: Builtin) {
        let name = name.parse().expect("our own names are valid");
        let description = description.to_owned();
        let decl = ToolDecl { name, effect: Effect::None, description, owner_only, at_once: None };
        self.add(config, decl, BUILTIN_TIMEOUT, RESULT_BYTES_MAX, Run::Builtin(run));
    }

    fn add(&mut self, config: &Config, decl: ToolDecl, timeout: Duration, max_output: u64, run: Run) {
        let name = decl.name.folded();
        let denied = config.node.deny.iter().find(|pattern| pattern.is_about(&name)).cloned();
        self.tools.insert(decl.name.clone(), Tool { decl, timeout, max_output, denied, run });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    fn try_catalogue(text: &str) -> Result<Catalogue, CatalogueError> {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("sigil.toml"), text).unwrap();
        Catalogue::new(&crate::config::load(home.path(), &Overrides::default()).unwrap().0)
    }

    fn catalogue(text: &str) -> Catalogue {
        try_catalogue(text).unwrap()
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
        assert!(catalogue.get(&"files.read".parse().unwrap()).unwrap().denied.is_some());
    }

    #[test]
    fn names_of_built_in_tools_are_taken() {
        let error = try_catalogue("[tools.'device.info']\ncommand = 'x'").unwrap_err().to_string();
        assert!(["tools", "device.info", "built-in"].iter().all(|part| error.contains(part)), "{error}");
    }

    #[test]
    fn the_number_of_tools_is_bounded() {
        let tools =
            |count: usize| (0..count).map(|n| format!("[tools.t{n}]\ncommand = 'x'\n")).collect::<Vec<_>>().concat();
        assert!(try_catalogue(&tools(COMMAND_TOOLS_MAX)).is_ok());
        let error = try_catalogue(&tools(COMMAND_TOOLS_MAX + 1)).unwrap_err().to_string();
        assert!(error.contains("510 tools") && error.contains("at most 509"), "{error}");
    }
}
