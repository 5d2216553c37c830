//! Command tools of the settings, as plugins.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU8;
use std::time::Duration;

use mesh_core::ids::ToolName;
use mesh_core::record::Effect;

use super::limits::TMP_DEFAULT;
use super::names::PluginName;
use super::types::{
    Capability, Execution, Level, Mcp, NetworkMode, Plugin, Process, Program, Protocol, Runs, ToolEntry, ToolOutput,
    Value,
};

/// `[tools.NAME]` of the settings, validated: a program of this device's owner. It becomes a plugin of one tool without a
/// prefix, which runs as a process for each call, with the network and all files of the agent's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandTool {
    /// Its name.
    pub name: ToolName,
    /// Program, looked up in `PATH` or absolute, and its arguments, as they are: no shell reads them.
    pub command: Vec<String>,
    /// Longest run.
    pub timeout: Duration,
    /// Effect of running it again.
    pub effect: Effect,
    /// Bytes of output.
    pub max_output: u64,
    /// For people; at most 200 bytes.
    pub description: String,
    /// Added to its environment.
    pub env: BTreeMap<String, Value>,
    /// True if what it leaves running when it ends by itself is not ended.
    pub keep_running: bool,
    /// So many of its runs at once; `None`: as many as this device runs calls.
    pub at_once: Option<NonZeroU8>,
}

impl From<CommandTool> for Plugin {
    fn from(tool: CommandTool) -> Self {
        let program = Program {
            command: tool.command,
            env: tool.env,
            network: NetworkMode::Host,
            egress: Vec::new(),
            read: Vec::new(),
            write: Vec::new(),
            allowed: BTreeMap::new(),
            memory_limit: None,
            cpu_limit: None,
            pids_limit: None,
            tmp_size: TMP_DEFAULT,
        };
        let process = Process { keep_running: tool.keep_running, ..Process::default() };
        let entry = ToolEntry {
            name: tool.name.clone(),
            title: String::new(),
            description: tool.description.clone(),
            effect: tool.effect,
            args: Vec::new(),
            input_schema: None,
            output: ToolOutput::Guessed,
            timeout: None,
            owner_only: true,
        };
        Self {
            name: PluginName::from(&tool.name),
            version: None,
            description: tool.description,
            capabilities: BTreeSet::from([Capability::Files, Capability::Network]),
            prefix: String::new(),
            execution: Execution {
                protocol: Protocol::Json,
                runs: Runs::Process(program, process),
                timeout: tool.timeout,
                output_limit: tool.max_output,
                concurrency: tool.at_once,
                min_level: Level::Bare,
            },
            tools: vec![entry],
            mcp: Mcp::default(),
        }
    }
}
