//! What a container of a plugin is made of.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::egress::Egress;
use super::image::Image;
use super::limits::MemoryLimit;
use super::types::{Container, NetworkMode, Plugin, Program, Protocol, Pull, Runs, User, Value};

/// A container as an engine is to make it, apart from what is the same for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerConfig {
    /// Its image.
    pub image: Image,
    /// When that is fetched.
    pub pull: Pull,
    /// The file that says which image may run: see [`Container`].
    pub pin: Option<PathBuf>,
    /// Program and arguments in place of those of the image; empty: those of the image.
    pub command: Vec<String>,
    /// Its environment, which is given to the tool and not to the engine.
    pub env: BTreeMap<String, Value>,
    /// Its network.
    pub network: NetworkMode,
    /// Places that it may reach, where that is restricted.
    pub egress: Vec<Egress>,
    /// Bound read-only.
    pub read: Vec<PathBuf>,
    /// Bound.
    pub write: Vec<PathBuf>,
    /// Where these led when they were allowed: see [`Program`].
    pub allowed: BTreeMap<PathBuf, PathBuf>,
    /// The user that it runs as.
    pub user: User,
    /// Bytes of memory.
    pub memory_limit: u64,
    /// Share of the cores, in thousandths.
    pub cpu_limit: u32,
    /// Processes.
    pub pids_limit: u32,
    /// Bytes of its `/tmp`.
    pub tmp_size: u64,
    /// Bytes of shared memory; 0: none.
    pub shm_size: u64,
    /// Port at which its tool listens, if it speaks gRPC.
    pub grpc_port: Option<u16>,
}

/// A plugin that does not run in a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this plugin does not run in a container")]
pub struct NotAContainer;

/// Share of the cores of a container whose manifest says nothing: one core.
pub(super) const CPU_DEFAULT: u32 = 1000;
/// Processes of a plugin whose manifest says nothing.
pub(super) const PIDS_DEFAULT: u32 = 256;

impl ContainerConfig {
    /// The container that a manifest asks for.
    ///
    /// # Errors
    /// It asks for none.
    pub fn from_manifest(plugin: &Plugin) -> Result<Self, NotAContainer> {
        let Runs::Container(program, container) = &plugin.execution.runs else { return Err(NotAContainer) };
        let Program {
            command,
            env,
            network,
            egress,
            read,
            write,
            allowed,
            memory_limit,
            cpu_limit,
            pids_limit,
            tmp_size,
        } = program.clone();
        let Container { image, pull, user, shm_size, pin, instance: _, warm: _, idle: _ } = container.clone();
        Ok(Self {
            image,
            pull,
            pin,
            command,
            env,
            network,
            egress,
            read,
            write,
            allowed,
            user,
            memory_limit: memory_limit.unwrap_or(MemoryLimit::DEFAULT).bytes(),
            cpu_limit: cpu_limit.unwrap_or(CPU_DEFAULT),
            pids_limit: pids_limit.unwrap_or(PIDS_DEFAULT),
            tmp_size,
            shm_size,
            grpc_port: match plugin.execution.protocol {
                Protocol::Grpc(port) => Some(port),
                Protocol::Json | Protocol::Mcp => None,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<ContainerConfig, NotAContainer> {
        ContainerConfig::from_manifest(&crate::plugin::read(text).unwrap().plugin)
    }

    #[test]
    fn seed_c1_a_container_from_a_manifest() {
        let manifest = "
name: python-tool
execution:
  tier: container
  image: ghcr.io/org/python-tool:latest
  network: restricted
  egress: [api.example.org]
  memory_limit: 256Mi
tools: [{ name: run }]
";
        let found = config(manifest).unwrap();
        assert_eq!(found.image.as_str(), "ghcr.io/org/python-tool:latest");
        assert_eq!((found.network, found.memory_limit), (NetworkMode::Restricted, 268_435_456));
        assert_eq!(found.grpc_port, None);
        assert_eq!((found.cpu_limit, found.pids_limit, found.tmp_size), (1000, 256, 64 << 20));
        assert_eq!(found.user, User::Ids(65534, 65534));
        let grpc = manifest.replace("  tier: container", "  tier: container\n  protocol: grpc\n  grpc_port: 50051");
        assert_eq!(config(&grpc).unwrap().grpc_port, Some(50051));
        let process = "{name: x, execution: {tier: process, command: [cat]}, tools: [{name: run}]}";
        assert_eq!(config(process), Err(NotAContainer));
    }
}
