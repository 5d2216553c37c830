//! What is known and asked for of an engine, its images and its containers.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::plugin::ContainerConfig;

/// State of the engine of containers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum EngineState {
    /// It is being looked for.
    #[default]
    Looking,
    /// There is none that this agent can use.
    Absent {
        /// The cause, for people.
        why: String,
        /// The next step.
        fix: String,
    },
    /// It works.
    Ready(Arc<EngineFacts>),
    /// It was there, and does not answer now; it is tried again.
    Gone {
        /// The cause, for people.
        why: String,
    },
}

/// Facts of an engine, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineFacts {
    /// Its name and version, and that of its API.
    pub name: String,
    /// Its socket.
    pub socket: PathBuf,
    /// True if it is Podman, which knows some things otherwise.
    pub is_podman: bool,
    /// What it warns of: limits that this kernel does not keep, say.
    pub warnings: Vec<String>,
}

impl fmt::Display for EngineFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.socket.display())
    }
}

/// What is known of an image on this device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// Its identity: containers are made of this one, also when its name moves on.
    pub id: String,
    /// Program and arguments that it starts by itself.
    pub command: Vec<String>,
    /// Places that it would have on disk; in a container of ours they are in memory.
    pub volumes: Vec<String>,
}

/// A container as it is to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What its manifest asks for.
    pub config: ContainerConfig,
    /// Its image.
    pub image: ImageFacts,
    /// The plugin that it is for.
    pub provider: String,
}

/// A reason for which an engine did not do what it was asked for. For people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// It cannot be asked.
    #[error("the container engine does not answer: {0}")]
    Unreachable(String),
    /// It said no.
    #[error("the container engine refuses it: {0}")]
    Refused(String),
    /// The container did not come up.
    #[error("its container did not start: {0}")]
    NotStarted(String),
    /// What is asked for is not done.
    #[error("{0}")]
    NotAllowed(String),
}
