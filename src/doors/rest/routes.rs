//! The table of routes, and the description of the API that is made from it.

use std::sync::Arc;

use axum::{Json, Router, middleware};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

#[cfg(feature = "mcp")]
use super::mcp_clients;
use super::queries::Queries;
use super::{
    approvals, audit, backup, calls, conflicts, doctor, dry_run, embedding, events, explain, guard, health, hours,
    joining, logs, memory, metrics, models, nodes, openapi, parts, pending, providers, queries, rights, sessions,
    tokens, tools, vacuum,
};
use crate::doors::app::App;

/// All routes, and those of `others`, guarded.
pub(crate) fn router(app: Arc<App>, others: Router<Arc<App>>) -> Router {
    let (router, api) = described().split_for_parts();
    let queries = Arc::new(Queries::of(api));
    let own = router.layer(middleware::from_fn_with_state(queries, queries::check));
    guard::guarded(own.merge(others), app)
}

fn described() -> OpenApiRouter<Arc<App>> {
    let routes = OpenApiRouter::with_openapi(openapi::head());
    #[cfg(feature = "mcp")]
    let routes = routes.routes(routes!(mcp_clients::list)).routes(routes!(mcp_clients::set, mcp_clients::revoke));
    routes
        .routes(routes!(nodes::status))
        .routes(routes!(nodes::rename))
        .routes(routes!(nodes::list))
        .routes(routes!(nodes::show, nodes::forget))
        .routes(routes!(nodes::approve))
        .routes(routes!(nodes::guests))
        .routes(routes!(nodes::rights))
        .routes(routes!(nodes::tools))
        .routes(routes!(tools::show))
        .routes(routes!(pending::approve_tools))
        .routes(routes!(pending::reject_tools))
        .routes(routes!(pending::list))
        .routes(routes!(joining::approve))
        .routes(routes!(joining::reject))
        .routes(routes!(joining::nearby))
        .routes(routes!(joining::invites, joining::invite))
        .routes(routes!(joining::void_invite))
        .routes(routes!(joining::join))
        .routes(routes!(joining::leave))
        .routes(routes!(tokens::list, tokens::mint, tokens::revoke_all))
        .routes(routes!(tokens::revoke))
        .routes(routes!(sessions::code))
        .routes(routes!(sessions::current, sessions::sign_in, sessions::sign_out))
        .routes(routes!(sessions::list, sessions::end_all))
        .routes(routes!(sessions::end))
        .routes(routes!(rights::all, rights::put_all))
        .routes(routes!(rights::put_mode))
        .routes(routes!(explain::explain))
        .routes(routes!(rights::matrix))
        .routes(routes!(dry_run::dry_run))
        .routes(routes!(conflicts::list))
        .routes(routes!(conflicts::end))
        .routes(routes!(rights::rules, rights::put_rules))
        .routes(routes!(rights::people))
        .routes(routes!(rights::person, rights::put_person, rights::delete_person))
        .routes(routes!(rights::put_login, rights::delete_login))
        .routes(routes!(rights::workspaces))
        .routes(routes!(rights::workspace, rights::put_workspace, rights::delete_workspace))
        .routes(routes!(memory::append))
        .routes(routes!(memory::ask))
        .routes(routes!(memory::compact))
        .routes(routes!(memory::forget))
        .routes(routes!(memory::items))
        .routes(routes!(memory::show, memory::forget_one))
        .routes(routes!(memory::correct))
        .routes(routes!(memory::stats))
        .routes(routes!(embedding::embedding))
        .routes(routes!(embedding::writing))
        .routes(routes!(vacuum::vacuum))
        .routes(routes!(memory::summaries))
        .routes(routes!(memory::facts))
        .routes(routes!(providers::list))
        .routes(routes!(providers::show))
        .routes(routes!(models::list))
        .routes(routes!(models::remove))
        .routes(routes!(models::verify))
        .routes(routes!(models::pull))
        .routes(routes!(calls::create, calls::list))
        .routes(routes!(calls::show))
        .routes(routes!(calls::result))
        .routes(routes!(parts::part))
        .routes(routes!(explain::explain_call))
        .routes(routes!(calls::cancel))
        .routes(routes!(audit::list))
        .routes(routes!(approvals::list))
        .routes(routes!(approvals::answer))
        .routes(routes!(hours::list))
        .routes(routes!(hours::take_back))
        .routes(routes!(events::events))
        .routes(routes!(logs::logs))
        .routes(routes!(doctor::doctor))
        .routes(routes!(doctor::reload))
        .routes(routes!(backup::backup))
        .routes(routes!(metrics::metrics))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(description))
}

/// The whole description, version 3.1 of its format. `docs/openapi.json` is a copy.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    openapi::completed(described().into_openapi())
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", operation_id = "getOpenapi", tag = "operation",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value)))]
async fn description() -> Json<utoipa::openapi::OpenApi> {
    Json(document())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `SIGIL_BLESS=1` writes the copy anew.
    #[test]
    fn the_copy_in_docs_is_current() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
        let fresh = document().to_pretty_json().unwrap() + "\n";
        if std::env::var_os("SIGIL_BLESS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &fresh).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            kept == fresh,
            "docs/openapi.json is not current; run the tests once with SIGIL_BLESS=1 and look at the change"
        );
    }
}
