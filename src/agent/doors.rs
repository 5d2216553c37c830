//! The doors of an agent: REST over a unix socket and over loopback.

use std::net::{Ipv4Addr, SocketAddr};

use super::error::AgentError;
use super::home::Home;
use super::ports::{self, Ports};
use crate::config::{Config, HTTP_PORT_DEFAULT};
use crate::doors::{self, Bound, ListenError, LogRing};
use crate::mesh::MeshHandle;
use crate::tasks::TaskGroup;

/// Opens them. Requests wait until the mesh runs.
pub(super) async fn open(
    config: &Config,
    kept: Ports,
    home: &Home,
    mesh: MeshHandle,
    logs: LogRing,
    tasks: &TaskGroup,
) -> Result<Bound, AgentError> {
    let (socket, tokens) = (home.socket()?, home.open_tokens()?);
    let serve = async |port: u16| {
        let context = doors::Context {
            mesh: mesh.clone(),
            tokens: tokens.clone(),
            logs: logs.clone(),
            home: home.path().to_owned(),
            call_ttl: config.calls.ttl,
        };
        doors::serve(context, &socket, SocketAddr::from((Ipv4Addr::LOCALHOST, port)), tasks).await
    };
    let is_taken = |error: &ListenError| matches!(error, ListenError::PortInUse(_));
    ports::open("http", config.listen.http_port.or(kept.http), HTTP_PORT_DEFAULT, serve, is_taken).await
}
