//! The providers that the settings ask for, in the versions in which they are in force.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_core::ids::ToolName;
use mesh_core::limits::TOOLS_MAX;

use super::builtin::{self, Builtins};
use super::catalogue::{Member, Origin};
use super::commands::Command;
use super::mcp::hosted::{Hosted, McpHost};
use super::mcp::spec::ServerSpec;
use crate::config::Config;
use crate::runtime::process::Launcher;

/// Tools that the settings may add, so that with all built-in ones they fit into a directory record.
const COMMAND_TOOLS_MAX: usize = TOOLS_MAX - builtin::ALL.len();

/// Providers of the settings. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Declared {
    builtins: Arc<Builtins>,
    commands: BTreeMap<ToolName, Arc<Command>>,
    servers: BTreeMap<String, Arc<Hosted>>,
    launcher: Launcher,
}

/// A reason for which settings make no providers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeclaredError {
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

impl DeclaredError {
    /// The key of the settings that it is about.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Reserved(name) => format!("tools.{name}"),
            Self::TooMany { .. } => "tools".to_owned(),
        }
    }
}

impl Declared {
    /// Those of the first settings; `launcher` starts their programs.
    ///
    /// # Errors
    /// The settings make none.
    pub fn new(config: &Config, launcher: Launcher) -> Result<Self, DeclaredError> {
        check(config)?;
        let none = Self {
            builtins: Arc::new(Builtins::new(config)),
            commands: BTreeMap::new(),
            servers: BTreeMap::new(),
            launcher,
        };
        Ok(none.with_commands(config))
    }

    /// Those of new settings. A provider of which nothing has changed stays in its version.
    ///
    /// # Errors
    /// The settings make none; what is in force stays.
    pub fn renewed(&self, config: &Config) -> Result<Self, DeclaredError> {
        check(config)?;
        let mut new = self.with_commands(config);
        if !self.builtins.is_of(config) {
            new.builtins = Arc::new(self.builtins.renewed(config));
        }
        Ok(new)
    }

    /// All of them.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        let builtins = Member { origin: Origin::Builtin, provider: self.builtins.clone() };
        let commands = self
            .commands
            .iter()
            .map(|(name, command)| Member { origin: Origin::Settings(name.clone()), provider: command.clone() });
        let servers = self
            .servers
            .iter()
            .map(|(name, server)| Member { origin: Origin::Server(name.clone()), provider: server.clone() });
        std::iter::once(builtins).chain(commands).chain(servers).collect()
    }

    /// The same with these hosted servers in place of those before. One of which nothing has changed stays in its version;
    /// others are started beside it.
    #[must_use]
    pub fn with_servers(&self, specs: Vec<ServerSpec>, host: &McpHost) -> Self {
        let servers = specs.into_iter().map(|spec| {
            let same = self.servers.get(&spec.name).filter(|server| *server.spec() == spec).cloned();
            (spec.name.clone(), same.unwrap_or_else(|| Arc::new(Hosted::start(spec, host.clone()))))
        });
        Self { servers: servers.collect(), ..self.clone() }
    }

    fn with_commands(&self, config: &Config) -> Self {
        let commands = config.tools.iter().map(|(name, tool)| {
            let same = self.commands.get(name).filter(|command| command.tool() == tool).cloned();
            let new = || Arc::new(Command::new(name.clone(), tool.clone(), self.launcher.clone()));
            (name.clone(), same.unwrap_or_else(new))
        });
        Self { commands: commands.collect(), ..self.clone() }
    }
}

/// Looks if settings make providers.
///
/// # Errors
/// They make none.
pub fn check(config: &Config) -> Result<(), DeclaredError> {
    if config.tools.len() > COMMAND_TOOLS_MAX {
        return Err(DeclaredError::TooMany { count: config.tools.len() });
    }
    let built_in = |name: &&ToolName| builtin::ALL.iter().any(|told| told.name == name.folded());
    match config.tools.keys().find(built_in) {
        Some(name) => Err(DeclaredError::Reserved(name.clone())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;
    use crate::node::catalogue::Catalogue;
    use crate::tasks::TaskGroup;
    use mesh_core::record::Effect;

    struct Bench {
        launcher: Launcher,
        home: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            let launcher = Launcher::start(home.path().join("work"), None, &TaskGroup::default()).unwrap();
            Self { launcher, home }
        }

        fn config(&self, text: &str) -> Config {
            std::fs::write(self.home.path().join("sigil.toml"), text).unwrap();
            crate::config::load(self.home.path(), &Overrides::default()).unwrap().0
        }

        fn declared(&self, text: &str) -> Result<Declared, DeclaredError> {
            Declared::new(&self.config(text), self.launcher.clone())
        }
    }

    fn catalogue(declared: &Declared) -> Catalogue {
        Catalogue::fold(&declared.members(), &[])
    }

    fn names(declared: &Declared) -> Vec<String> {
        catalogue(declared).decls().into_iter().map(|decl| decl.name.to_string()).collect()
    }

    #[tokio::test]
    async fn files_tools_need_roots() {
        let bench = Bench::new();
        assert_eq!(names(&bench.declared("").unwrap()), ["device.info"]);
        let with = bench.declared("[files]\nroots = ['/tmp']\n[tools.backup]\ncommand = 'true'\n").unwrap();
        assert_eq!(names(&with), ["backup", "device.info", "files.list", "files.read"]);
        let decls = catalogue(&with).decls();
        assert!(decls.iter().all(|decl| decl.owner_only != (decl.name.as_str() == "device.info")));
        assert_eq!(decls[0].effect, Effect::Once);
        assert_eq!(decls[1].effect, Effect::None);
    }

    #[tokio::test]
    async fn only_what_has_changed_is_replaced() {
        let bench = Bench::new();
        let (a, b) = ("[tools.a]\ncommand = 'true'\n", "[tools.b]\ncommand = 'true'\n");
        let old = bench.declared(&format!("{a}{b}")).unwrap();
        let new = old.renewed(&bench.config(&format!("{a}{b}timeout = '3s'\n[tools.c]\ncommand = 'x'\n"))).unwrap();
        let (old, new) = (old.members(), new.members());
        let kept: Vec<String> =
            new.iter().filter(|new| old.iter().any(|old| old.is(new))).map(|kept| kept.origin.to_string()).collect();
        assert_eq!(kept, ["sigil", "tools.a"]);
        assert_eq!(new.len(), 4);
    }

    #[tokio::test]
    async fn names_of_built_in_tools_are_taken() {
        for name in ["device.info", "Files.Read"] {
            let error = Bench::new().declared(&format!("[tools.'{name}']\ncommand = 'x'")).unwrap_err().to_string();
            assert!(["tools", name, "built-in"].iter().all(|part| error.contains(part)), "{error}");
        }
    }

    #[tokio::test]
    async fn the_number_of_tools_is_bounded() {
        let bench = Bench::new();
        let tools =
            |count: usize| (0..count).map(|n| format!("[tools.t{n}]\ncommand = 'x'\n")).collect::<Vec<_>>().concat();
        assert!(bench.declared(&tools(COMMAND_TOOLS_MAX)).is_ok());
        let error = bench.declared(&tools(COMMAND_TOOLS_MAX + 1)).unwrap_err().to_string();
        assert!(error.contains("510 tools") && error.contains("at most 509"), "{error}");
    }
}
