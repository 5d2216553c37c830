//! Calls whose clients have hung up or taken them back are cancelled.

use std::sync::Arc;

use crate::doors::app::App;
use crate::doors::ops::calls;
use crate::tasks::TaskGroup;

/// Cancels what clients have hung up on, until `tasks` stops.
pub(in crate::doors) fn watch(app: &Arc<App>, tasks: &TaskGroup) {
    app.mcp.set_tasks(tasks);
    let Some(mut calls) = app.mcp.to_cancel() else { return };
    let (stop, app) = (tasks.stopping(), app.clone());
    tasks.spawn(async move {
        while let Some(Some((who, id))) = stop.run_until_cancelled(calls.recv()).await {
            let reason = Some("its MCP client hung up or took it back".to_owned());
            if let Err(error) = calls::cancel(app.mesh(), &who, id, reason).await {
                tracing::debug!(%error, "a call that nobody waits for could not be cancelled");
            }
        }
    });
}
