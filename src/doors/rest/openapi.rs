//! The description of the API, made from the code of its routes.

use axum::Json;
use utoipa::Modify;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};

use super::problem::{Problem, Problems};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "sigil",
        description = "One private mesh out of your devices. Errors are RFC 9457 problems. Every peer serves this API, \
                       gateway or not, on a unix socket (no token needed for the user it runs as) and on loopback HTTP.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(Problem)),
    modifiers(&Security),
    security(("token" = [])),
    tags(
        (name = "mesh", description = "Devices and their tools"),
        (name = "joining", description = "Ways in and out"),
        (name = "calls", description = "Running tools"),
        (name = "operation", description = "How the agent is doing"),
    )
)]
struct Head;

struct Security;

impl Modify for Security {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("Loopback HTTP only; `sigil token` prints one"))
            .build();
        api.components.get_or_insert_default().add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

pub(super) fn head() -> utoipa::openapi::OpenApi {
    Head::openapi()
}

/// The whole description, version 3.1 of its format. `docs/openapi.json` is a copy.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    super::described().into_openapi()
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", operation_id = "getOpenapi", tag = "operation",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value), Problems))]
pub(super) async fn openapi() -> Json<utoipa::openapi::OpenApi> {
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
