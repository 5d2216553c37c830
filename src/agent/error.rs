//! Errors of an agent.

use std::io;
use std::path::{Path, PathBuf};

use crate::config::{self, ConfigError, LogFormat};
use crate::doors::ListenError;
use crate::mesh::FatalError;
use crate::mesh::identity::IdentityError;
use crate::mesh::store::StoreError;
use crate::mesh::transport::LinksError;
use crate::node::declared::DeclaredError;
use crate::ownership::NotOurs;

/// A reason for which an agent did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The home is in other hands than ours.
    #[error(transparent)]
    NotOurs(#[from] NotOurs),
    /// The settings cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The settings declare tools that cannot be offered.
    #[error("{at}{error}")]
    Tools {
        /// The file, line and column.
        at: String,
        /// What is wrong there.
        error: DeclaredError,
    },
    /// The device key cannot be read or made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The store cannot be opened: most often, another agent runs on this home.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The UDP port cannot be opened.
    #[error(transparent)]
    Links(#[from] LinksError),
    /// The HTTP doors cannot be opened.
    #[error(transparent)]
    Doors(#[from] ListenError),
    /// The mesh did not start, or has failed.
    #[error(transparent)]
    Mesh(#[from] FatalError),
    /// A file or directory of the home.
    #[error("{doing} `{path}`")]
    Home {
        /// The operation that failed.
        doing: &'static str,
        /// Its object.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Nothing is free near the default.
    #[error("no free {what} port between {from} and {until}; name one with --{what}-port")]
    NoPort {
        /// "quic" or "http".
        what: &'static str,
        /// First tried.
        from: u16,
        /// Last tried.
        until: u16,
    },
    /// A restore was broken off here.
    #[error("a restore into `{0}` was broken off, and what lies there is not whole")]
    HalfRestored(PathBuf),
    /// The name is not valid.
    #[error(transparent)]
    Name(#[from] mesh_core::ids::InvalidId),
}

/// End of an agent by an error.
#[derive(Debug)]
pub struct Ended {
    /// The cause.
    pub error: AgentError,
    /// The form of the log, if it was begun.
    pub log: Option<LogFormat>,
}

/// Adds to an error in the settings where it stands.
pub(super) fn in_file(home: &Path) -> impl Fn(DeclaredError) -> AgentError + '_ {
    move |error| AgentError::Tools { at: config::position_in_file(home, &error.key()), error }
}

/// Adds to an error of the file system what was done to which path.
pub(super) fn at<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> AgentError + 'a {
    move |source| AgentError::Home { doing, path: path.to_owned(), source }
}
