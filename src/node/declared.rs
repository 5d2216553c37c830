//! The providers that the settings ask for, in the versions in which they are in force.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use mesh_core::ids::ToolName;
use mesh_core::limits::TOOLS_MAX;

use super::builtin::{self, Builtins};
use super::catalogue::{Member, Origin};
use super::commands::{Commands, LEVEL, Starter};
use super::plugins::Installed;
use super::provider::Provider;
use super::resting::Resting;
use super::servers;
use crate::config::Config;
use crate::plugin::{Plugin, PluginName, Tier};

/// Tools that the settings may add, so that with all built-in ones they fit into a directory record.
const COMMAND_TOOLS_MAX: usize = TOOLS_MAX - builtin::ALL.len();

/// Providers of the settings. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Declared {
    builtins: Arc<Builtins>,
    commands: BTreeMap<ToolName, Arc<Commands>>,
    /// Servers of the settings that are not hosted.
    unhosted: BTreeMap<PluginName, (Plugin, Arc<Resting>)>,
    plugins: BTreeMap<PluginName, Held>,
    starter: Starter,
}

/// An installed plugin in force.
#[derive(Clone)]
struct Held {
    /// What it was made of.
    installed: Installed,
    provider: Arc<dyn Provider>,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("name", &self.installed.name).finish_non_exhaustive()
    }
}

/// Said of plugins in containers.
const NO_CONTAINERS: &str = "the container tier is not there yet";
/// Said of MCP servers and gRPC servers that are plugins.
const NO_SERVERS: &str = "plugins that are servers are not run yet";

impl Held {
    fn new(installed: &Installed, starter: &Starter) -> Self {
        let provider: Arc<dyn Provider> = match installed.allowed() {
            None => Arc::new(Resting::waiting(installed)),
            Some(plugin) if Commands::runs(plugin) && plugin.execution.min_level > LEVEL => {
                let least = plugin.execution.min_level;
                let why =
                    format!("it runs at level {least} or above, and this version runs processes at level {LEVEL}");
                let fix = "a plugin that asks for no `min_level` runs; what it then can do, `gaps` of `sigil plugin list --json` says";
                Arc::new(Resting::stopped(plugin, &why, fix))
            }
            Some(plugin) if Commands::runs(plugin) => {
                Arc::new(Commands::new(plugin.clone(), Some(installed.folder.clone()), starter.clone()))
            }
            Some(plugin) => {
                let why = match plugin.tier() {
                    Some(Tier::Container) => NO_CONTAINERS,
                    Some(Tier::Process) | None => NO_SERVERS,
                };
                let fix = "a plugin with `tier: process` and `protocol: json` runs with this version";
                Arc::new(Resting::stopped(plugin, why, fix))
            }
        };
        Self { installed: installed.clone(), provider }
    }
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
    /// Those of the first settings; `starter` starts their programs.
    ///
    /// # Errors
    /// The settings make none.
    pub fn new(config: &Config, starter: Starter) -> Result<Self, DeclaredError> {
        check(config)?;
        let none = Self {
            builtins: Arc::new(Builtins::new(config)),
            commands: BTreeMap::new(),
            unhosted: BTreeMap::new(),
            plugins: BTreeMap::new(),
            starter,
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

    /// The same with these installed plugins in place of those before. One of which nothing has changed stays in its version.
    #[must_use]
    pub fn with_plugins(&self, installed: &[Installed]) -> Self {
        let held = installed.iter().map(|installed| {
            let same = self.plugins.get(&installed.name).filter(|held| held.installed == *installed).cloned();
            (installed.name.clone(), same.unwrap_or_else(|| Held::new(installed, &self.starter)))
        });
        Self { plugins: held.collect(), ..self.clone() }
    }

    /// All of them.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        let builtins = Member { origin: Origin::Builtin, provider: self.builtins.clone() };
        let commands = self
            .commands
            .iter()
            .map(|(name, command)| Member { origin: Origin::Settings(name.clone()), provider: command.clone() });
        let plugins = self
            .plugins
            .iter()
            .map(|(name, held)| Member { origin: Origin::Plugin(name.clone()), provider: held.provider.clone() });
        let unhosted = self
            .unhosted
            .iter()
            .map(|(name, (_, server))| Member { origin: Origin::Server(name.to_string()), provider: server.clone() });
        std::iter::once(builtins).chain(commands).chain(unhosted).chain(plugins).collect()
    }

    fn with_commands(&self, config: &Config) -> Self {
        let commands = config.tools.iter().map(|(name, tool)| {
            let same = self.commands.get(name).filter(|command| command.plugin() == tool).cloned();
            let new = || Arc::new(Commands::new(tool.clone(), None, self.starter.clone()));
            (name.clone(), same.unwrap_or_else(new))
        });
        let unhosted = config.mcp_servers.iter().filter_map(|(name, plugin)| {
            let (why, fix) = servers::hindrance(plugin)?;
            let same = self.unhosted.get(name).filter(|(same, _)| same == plugin).cloned();
            let new = || (plugin.clone(), Arc::new(Resting::stopped(plugin, why, fix)));
            Some((name.clone(), same.unwrap_or_else(new)))
        });
        Self { commands: commands.collect(), unhosted: unhosted.collect(), ..self.clone() }
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
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::Overrides;
    use crate::node::catalogue::Catalogue;
    use crate::node::plugins::Plugins;
    use crate::node::provider::Kind;
    use crate::node::roster::Roster;
    use crate::plugin::Consent;
    use crate::runtime::process::Launcher;
    use crate::secrets::Secrets;
    use crate::tasks::TaskGroup;
    use mesh_core::record::Effect;

    struct Bench {
        starter: Starter,
        home: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            let launcher = Launcher::start(home.path().join("work"), None, &TaskGroup::default()).unwrap();
            let secrets = Secrets::of(home.path());
            Self { starter: Starter { launcher, secrets }, home }
        }

        fn config(&self, text: &str) -> Config {
            std::fs::write(self.home.path().join("sigil.toml"), text).unwrap();
            crate::config::load(self.home.path(), &Overrides::default()).unwrap().0
        }

        fn declared(&self, text: &str) -> Result<Declared, DeclaredError> {
            Declared::new(&self.config(text), self.starter.clone())
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
    async fn installed_plugins_wait_for_their_owner_and_those_that_cannot_run_say_why() {
        let bench = Bench::new();
        let plugins = Plugins::of(bench.home.path());
        let install = |manifest: &str, allowed: &[Consent]| {
            let from = tempfile::tempdir().unwrap();
            std::fs::write(from.path().join("plugin.yaml"), manifest).unwrap();
            plugins.install(from.path(), &allowed.iter().copied().collect()).unwrap();
        };
        let process = |name: &str| {
            format!("name: {name}\nexecution: {{ tier: process, command: [cat] }}\ntools: [{{ name: echo }}]")
        };
        install(&process("a"), &[Consent::Process]);
        install(&process("b"), &[]);
        install(&process("d").replace("tier", "min_level: isolated, tier"), &[Consent::Process]);
        install("name: c\nversion: 1.2.0\nexecution: { image: x }\ntools: [{ name: echo }]", &[]);
        let installed = plugins.list().unwrap();
        let settings = "[mcp_servers.s]\nimage = 'mcp/time'\n";
        let declared = bench.declared(settings).unwrap().with_plugins(&installed);
        assert_eq!(names(&declared), ["a.echo", "device.info"]);
        let members = declared.members();
        let roster = Roster::of(&members, &catalogue(&declared), &Roster::default());
        let told = |name: &str| {
            let listed = roster.find(name).unwrap();
            (listed.state.told().0, listed.about.kind, listed.tools.len(), listed.about.absent.clone())
        };
        assert_eq!(told("a"), ("ready", Kind::Process, 1, Vec::new()));
        let (state, kind, tools, absent) = told("b");
        assert_eq!((state, kind, tools, absent[0].tool.as_str()), ("review", Kind::Process, 0, "b.echo"));
        assert!(absent[0].fix.contains("sigil plugin allow b --process"), "{absent:?}");
        let (state, _, _, absent) = told("d");
        assert!(state == "stopped" && absent[0].why.contains("level isolated"), "{absent:?}");
        assert!(roster.find("a").unwrap().about.gaps[1].contains("asks for none"));
        let (state, kind, _, absent) = told("c");
        assert!(state == "stopped" && kind == Kind::Container && absent[0].why.contains("not there yet"), "{absent:?}");
        assert_eq!((told("mcp_servers.s").0, told("mcp_servers.s").1), ("stopped", Kind::Mcp));
        let absent: Vec<_> = told("sigil").3.into_iter().map(|absent| absent.tool).collect();
        assert_eq!(absent, ["files.list", "files.read"]);
        // Only what has changed is replaced.
        plugins.allow(&"b".parse().unwrap(), &BTreeSet::from([Consent::Process])).unwrap();
        let next = declared.with_plugins(&plugins.list().unwrap());
        let kept = next.members().iter().filter(|new| members.iter().any(|old| old.is(new))).count();
        assert_eq!((kept, names(&next)), (5, vec!["a.echo".to_owned(), "b.echo".to_owned(), "device.info".to_owned()]));
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
