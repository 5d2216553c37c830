//! Opening the doors: listeners in front, groups of routes behind them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::Router;

use crate::doors::app::{App, Context};
use crate::doors::listen::{Bound, ListenError, Listeners};
use crate::doors::{rest, tailnet};
use crate::tasks::TaskGroup;

/// Opens both doors, and that on the tailnet where it is wanted, and serves until `tasks` stops: then no new connection is taken, event streams end, requests under
/// way are finished.
///
/// # Errors
/// See [`ListenError`]; nothing is left open then.
pub async fn serve(
    context: Context,
    unix_path: &Path,
    http_addr: SocketAddr,
    tasks: &TaskGroup,
) -> Result<Bound, ListenError> {
    let listeners = Listeners::bind(unix_path, http_addr).await?;
    let bound = listeners.bound().clone();
    let socket_gone = context.socket_gone.clone();
    let app = Arc::new(App::new(context, bound.clone(), tasks.stopping()));
    rest::watch(&app, tasks);
    #[cfg(feature = "mcp")]
    crate::doors::mcp::watch(&app, tasks);
    let routes = routes(app.clone());
    if let Some(api) = app.context.tailnet.clone() {
        let surroundings = app.mesh().watch_surroundings();
        tailnet::start(api, bound.http.port(), surroundings, routes.clone(), app.tailnet.clone(), tasks);
    }
    listeners.serve(&routes, socket_gone, tasks);
    Ok(bound)
}

/// All groups of routes, behind the one guard. A path that no group knows is answered by REST.
pub(super) fn routes(app: Arc<App>) -> Router {
    let others = Router::new();
    #[cfg(feature = "mcp")]
    let others = others.merge(crate::doors::mcp::routes());
    #[cfg(feature = "ui")]
    let others = others.merge(crate::doors::page::routes());
    rest::router(app, others)
}
