//! The providers that the settings ask for, in the versions in which they are in force.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use mesh_core::ids::ToolName;
use mesh_core::limits::TOOLS_MAX;

use super::builtin::{self, Builtins};
use super::catalogue::{Member, Origin};
use super::commands::{Commands, Starter};
use super::containers::{Contained, Containers};
use super::foreign::node::{ForeignNode, Hosting};
use super::foreign::records::Record;
use super::grpc::served::Served;
use super::mcp::hosted::{Hosted, McpHost};
use super::plugins::Installed;
use super::provider::Provider;
use super::resting::Resting;
use super::servers::{self, WrittenBy};
use crate::config::Config;
use crate::plugin::{Plugin, PluginName, Protocol};

/// Tools that the settings may add, so that with all built-in ones they fit into a directory record.
const COMMAND_TOOLS_MAX: usize = TOOLS_MAX - builtin::COUNT_MAX;

/// All that providers are made with. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Means {
    /// Starts programs.
    pub starter: Starter,
    /// Hosts servers.
    pub hosting: McpHost,
    /// Runs containers.
    pub containers: Containers,
    /// Hosts foreign nodes.
    pub foreign: Hosting,
}

/// Providers of the settings. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Declared {
    builtins: Arc<Builtins>,
    commands: BTreeMap<ToolName, Arc<Commands>>,
    servers: BTreeMap<PluginName, Held<Plugin>>,
    plugins: BTreeMap<PluginName, Held<Installed>>,
    nodes: BTreeMap<PluginName, Held<Record>>,
    means: Means,
}

/// A provider in force.
#[derive(Clone)]
struct Held<T> {
    /// What it was made of.
    of: T,
    provider: Arc<dyn Provider>,
}

impl<T> fmt::Debug for Held<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").finish_non_exhaustive()
    }
}

/// Said of what asks for more than its tier gives.
const NOT_SO: &str = "its least level is a container, and it is a process";
/// Said of gRPC servers that ask for it.
const NO_NETWORK: &str = "plugins that speak gRPC are run without the network of this device";

impl Means {
    /// `before`: what it is to take the place of, if there is something.
    fn provider(
        &self,
        plugin: &Plugin,
        folder: Option<&Path>,
        by: WrittenBy,
        before: Option<&Arc<dyn Provider>>,
    ) -> Arc<dyn Provider> {
        if Commands::runs(plugin) {
            return Arc::new(Commands::new(plugin.clone(), folder.map(Path::to_owned), self.starter.clone()));
        }
        if let Some(spec) = servers::spec(plugin, folder, by) {
            let before = before.map(|before| before.offers().borrow().clone()).unwrap_or_default();
            return Arc::new(Hosted::start(spec, self.hosting.clone(), &before));
        }
        if let Some(contained) = Contained::start(plugin, &self.containers) {
            return Arc::new(contained);
        }
        if let Some(served) = Served::start(plugin, folder, &self.containers, &self.hosting) {
            return Arc::new(served);
        }
        let (why, fix) = match plugin.execution.protocol {
            Protocol::Grpc(_) => (NO_NETWORK, "`network: none` or `restricted` lets it run"),
            Protocol::Json | Protocol::Mcp => (NOT_SO, "a lower `min_level`, or an `image`, lets it run"),
        };
        Arc::new(Resting::stopped(plugin, why, fix))
    }

    fn installed(&self, installed: &Installed, before: Option<&Arc<dyn Provider>>) -> Arc<dyn Provider> {
        match installed.allowed() {
            None => Arc::new(Resting::waiting(installed)),
            Some(plugin) => self.provider(plugin, Some(&installed.folder), WrittenBy::Others, before),
        }
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
    /// Those of the first settings, made with `means`.
    ///
    /// # Errors
    /// The settings make none.
    pub fn new(config: &Config, means: Means) -> Result<Self, DeclaredError> {
        check(config)?;
        let none = Self {
            builtins: Arc::new(Builtins::new(config, means.starter.launcher.clone())),
            commands: BTreeMap::new(),
            servers: BTreeMap::new(),
            plugins: BTreeMap::new(),
            nodes: BTreeMap::new(),
            means,
        };
        Ok(none.with(config))
    }

    /// Those of new settings. A provider of which nothing has changed stays in its version.
    ///
    /// # Errors
    /// The settings make none; what is in force stays.
    pub fn renewed(&self, config: &Config) -> Result<Self, DeclaredError> {
        check(config)?;
        let mut new = self.with(config);
        if let Some(builtins) = self.builtins.renewed(config) {
            new.builtins = Arc::new(builtins);
        }
        Ok(new)
    }

    /// The same with these installed plugins in place of those before. One of which nothing has changed stays in its version;
    /// others are started beside it.
    #[must_use]
    pub fn with_plugins(&self, installed: &[Installed]) -> Self {
        let held = installed.iter().map(|of| {
            let before = self.plugins.get(&of.name);
            let same = before.filter(|held| held.of == *of).cloned();
            let new = || Held { of: of.clone(), provider: self.means.installed(of, before.map(|held| &held.provider)) };
            (of.name.clone(), same.unwrap_or_else(new))
        });
        Self { plugins: held.collect(), ..self.clone() }
    }

    /// The same with these foreign nodes in place of those before. One whose record is the same stays.
    #[must_use]
    pub fn with_nodes(&self, records: &[Record]) -> Self {
        let held = records.iter().map(|of| {
            let same = self.nodes.get(&of.name).filter(|held| held.of == *of).cloned();
            let new = || Held { of: of.clone(), provider: Arc::new(ForeignNode::new(of.clone(), &self.means.foreign)) };
            (of.name.clone(), same.unwrap_or_else(new))
        });
        Self { nodes: held.collect(), ..self.clone() }
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
            .map(|(name, held)| Member { origin: Origin::Server(name.clone()), provider: held.provider.clone() });
        let plugins = self
            .plugins
            .iter()
            .map(|(name, held)| Member { origin: Origin::Plugin(name.clone()), provider: held.provider.clone() });
        let nodes = self
            .nodes
            .iter()
            .map(|(name, held)| Member { origin: Origin::Node(name.clone()), provider: held.provider.clone() });
        std::iter::once(builtins).chain(commands).chain(servers).chain(plugins).chain(nodes).collect()
    }

    fn with(&self, config: &Config) -> Self {
        let commands = config.tools.iter().map(|(name, tool)| {
            let same = self.commands.get(name).filter(|command| command.plugin() == tool).cloned();
            let new = || Arc::new(Commands::new(tool.clone(), None, self.means.starter.clone()));
            (name.clone(), same.unwrap_or_else(new))
        });
        let servers = config.mcp_servers.iter().map(|(name, of)| {
            let before = self.servers.get(name);
            let same = before.filter(|held| held.of == *of).cloned();
            let provider = || self.means.provider(of, None, WrittenBy::Owner, before.map(|held| &held.provider));
            let new = || Held { of: of.clone(), provider: provider() };
            (name.clone(), same.unwrap_or_else(new))
        });
        Self { commands: commands.collect(), servers: servers.collect(), ..self.clone() }
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
    let built_in = |name: &&ToolName| builtin::RESERVED.iter().any(|told| told.name == name.folded());
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
    use crate::node::testing::means;
    use crate::plugin::Consent;
    use crate::runtime::process::Launcher;
    use crate::tasks::TaskGroup;
    use mesh_core::record::Effect;

    struct Bench {
        means: Means,
        home: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            let tasks = TaskGroup::default();
            let launcher = Launcher::start(home.path().join("work"), None, &tasks).unwrap();
            Self { means: means(home.path(), launcher, &tasks), home }
        }

        fn config(&self, text: &str) -> Config {
            std::fs::write(self.home.path().join("sigil.toml"), text).unwrap();
            crate::config::load(self.home.path(), &Overrides::default()).unwrap().0
        }

        fn declared(&self, text: &str) -> Result<Declared, DeclaredError> {
            Declared::new(&self.config(text), self.means.clone())
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
        assert_eq!(names(&with), ["backup", "device.info", "files.list", "files.read", "files.stat"]);
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
        let grpc = "execution: { image: x, network: host, protocol: grpc, grpc_port: 50051 }";
        install(&format!("name: c\nversion: 1.2.0\n{grpc}\ntools: [{{ name: echo }}]"), &[Consent::HostNetwork]);
        let installed = plugins.list().unwrap();
        let declared = bench.declared("").unwrap().with_plugins(&installed);
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
        let (state, kind, _, absent) = told("c");
        assert!(
            state == "stopped"
                && kind == Kind::Container
                && absent[0].why.contains("without the network of this device"),
            "{absent:?}"
        );
        let absent: Vec<_> = told("sigil").3.into_iter().map(|absent| absent.tool).collect();
        assert_eq!(absent[..2], ["files.list", "files.read"]);
        assert!(absent.iter().any(|tool| tool == "shell.run"), "{absent:?}");
        // Only what has changed is replaced.
        plugins.allow(&"b".parse().unwrap(), &BTreeSet::from([Consent::Process])).unwrap();
        let next = declared.with_plugins(&plugins.list().unwrap());
        let kept = next.members().iter().filter(|new| members.iter().any(|old| old.is(new))).count();
        assert_eq!((kept, names(&next)), (3, vec!["a.echo".to_owned(), "b.echo".to_owned(), "device.info".to_owned()]));
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
        let (count, max) = (COMMAND_TOOLS_MAX + 1, COMMAND_TOOLS_MAX);
        assert!(error.contains(&format!("{count} tools")) && error.contains(&format!("at most {max}")), "{error}");
    }
}
