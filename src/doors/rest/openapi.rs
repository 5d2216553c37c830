//! The head of the API's description: title, authentication, tags.

use utoipa::Modify;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};

use super::problem::Problem;

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
        (name = "operation", description = "State of the agent"),
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
