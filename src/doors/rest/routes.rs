//! The table of routes, and the description of the API that is made from it.

use std::sync::Arc;

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::MethodRouter;
use axum::{Router, middleware};
use utoipa::Path;
use utoipa::openapi::HttpMethod;
use utoipa_axum::{PathItemExt as _, paste};
#[cfg(test)]
use utoipa_axum::{router::OpenApiRouter, routes};

#[cfg(feature = "mcp")]
use super::mcp_clients;
#[cfg(test)]
use super::openapi;
use super::{
    approvals, audit, backup, calls, conflicts, doctor, dry_run, embedding, events, explain, guard, health, hours,
    joining, logs, memory, metrics, models, nodes, parts, pending, providers, queries, rights, sessions, tokens, tools,
    vacuum,
};
use crate::doors::app::App;

/// The table of routes, from which both are made: what answers, and the description of it. That is half a megabyte of code and
/// takes as much memory while it is made, so the program has the copy in `docs/` instead (docs/decisions/0154).
macro_rules! table {
    ($($module:ident::$handler:ident),* $(,)?) => {
        fn answering() -> Router<Arc<App>> {
            let routes = Router::new();
            $(let routes = answers!(routes, $module::$handler);)*
            routes
        }

        #[cfg(test)]
        fn described() -> OpenApiRouter<Arc<App>> {
            let routes = OpenApiRouter::with_openapi(openapi::head());
            #[cfg(feature = "mcp")]
            let routes =
                routes.routes(routes!(mcp_clients::list)).routes(routes!(mcp_clients::set)).routes(routes!(mcp_clients::revoke));
            routes$(.routes(routes!($module::$handler)))*
        }
    };
}

/// One handler at the path and methods that its description says.
macro_rules! answers {
    ($routes:expr, $module:ident::$handler:ident) => {{
        let (path, methods) = paste! { (
            <$module::[<__path_ $handler>] as Path>::path(),
            <$module::[<__path_ $handler>] as Path>::methods(),
        ) };
        let on = |routes: MethodRouter<_>, method: &HttpMethod| routes.on(method.to_method_filter(), $module::$handler);
        $routes.route(&path, methods.iter().fold(MethodRouter::new(), on))
    }};
}

table! {
    nodes::status, nodes::rename, nodes::list, nodes::show, nodes::forget, nodes::approve, nodes::guests,
    nodes::rights, nodes::tools, tools::show, pending::approve_tools, pending::reject_tools, pending::list,
    joining::approve, joining::reject, joining::nearby, joining::invites, joining::invite, joining::void_invite,
    joining::join, joining::leave, tokens::list, tokens::mint, tokens::revoke_all, tokens::revoke, sessions::code,
    sessions::current, sessions::sign_in, sessions::sign_out, sessions::list, sessions::end_all, sessions::end,
    rights::all, rights::put_all, rights::put_mode, explain::explain, rights::matrix, dry_run::dry_run,
    conflicts::list, conflicts::end, rights::rules, rights::put_rules, rights::people, rights::person,
    rights::put_person, rights::delete_person, rights::put_login, rights::delete_login, rights::workspaces,
    rights::workspace, rights::put_workspace, rights::delete_workspace, memory::append, memory::ask, memory::compact,
    memory::forget, memory::items, memory::show, memory::forget_one, memory::correct, memory::stats,
    embedding::embedding, embedding::writing, vacuum::vacuum, memory::summaries, memory::facts, providers::list,
    providers::show, models::list, models::pull, models::remove, models::verify, calls::create, calls::list,
    calls::show, calls::result, parts::part, explain::explain_call, calls::cancel, audit::list, approvals::list,
    approvals::answer, hours::list, hours::take_back, events::events, logs::logs, doctor::doctor, doctor::reload, backup::backup, metrics::metrics,
    health::healthz, health::readyz, self::description,
}

/// All routes, and those of `others`, guarded.
pub(crate) fn router(app: Arc<App>, others: Router<Arc<App>>) -> Router {
    let own = answering();
    #[cfg(feature = "mcp")]
    let own = answers!(answers!(answers!(own, mcp_clients::list), mcp_clients::set), mcp_clients::revoke);
    guard::guarded(own.layer(middleware::from_fn(queries::check)).merge(others), app)
}

/// What [`queries::DESCRIPTION`] is a copy of.
#[cfg(test)]
pub(crate) fn document() -> utoipa::openapi::OpenApi {
    openapi::completed(described().into_openapi())
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", operation_id = "getOpenapi", tag = "operation",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value)))]
async fn description() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], queries::DESCRIPTION)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each parameter of a query stands in the copy as it is read from there.
    #[test]
    fn parameters_of_queries_are_known() {
        let known = queries::Queries::of(queries::DESCRIPTION);
        assert!(known.takes("GET", "/api/v1/calls", "state") && !known.takes("GET", "/api/v1/calls", "colour"));
    }

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
