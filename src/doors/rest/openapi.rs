//! How the description of the API in `docs/openapi.json` is made, and all that it says beyond the single operations: its head,
//! and the answers that are the same wherever they can come from. Only tests make it.

use axum::http::Method;
use utoipa::Modify;
use utoipa::OpenApi;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, Parameter, ParameterIn, PathItem};
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi as Document, Ref, RefOr, Required, Response, ResponseBuilder};

use super::problem::{PROBLEM_JSON, Problem};
use crate::status::ErrorCode;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "sigil",
        description = "One private mesh out of your devices. Every peer serves this API, gateway or not, on a unix socket (no token \
                       needed for the user it runs as) and on loopback HTTP.\n\nErrors are RFC 9457 problems. A request \
                       is refused with 400 or 422 if it says what this description excludes: an unknown or repeated \
                       parameter or member, a text that is not of its pattern, a number out of its bounds. What is well formed \
                       and cannot be done is answered with another status. A `format` names what a pattern cannot say: \
                       `sigil-code`: the code ends with a checksum; `sigil-check-words`: the words are of the list of \
                       BIP-39; `sigil-address`: an IP address, or a host name of letters, digits and hyphens between \
                       dots, with a port of 1 to 65535 if any, and of a zone that is an interface of this device; \
                       `sigil-name`, `sigil-principal`: no word that means something in a rule; `sigil-rights`: what \
                       `sigil.toml` may say about rights; `sigil-time`: a day and a time that there are, of a zone up to 18 hours \
                       off UTC; `sigil-memory-text`: at least one letter that is seen. The state of what is edited is its `ETag`: an edit names in \
                       `If-Match` the state that it is of, and 412 tells that somebody else has edited since.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(Problem)),
    modifiers(&Security),
    security(("token" = [])),
    tags(
        (name = "mesh", description = "Devices and their tools"),
        (name = "joining", description = "Ways in and out"),
        (name = "calls", description = "Running tools"),
        (name = "memory", description = "What was said, kept and found again"),
        (name = "rights", description = "Who may use what"),
        (name = "operation", description = "State of the agent"),
    )
)]
struct Head;

struct Security;

impl Modify for Security {
    fn modify(&self, api: &mut Document) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("Loopback HTTP only; `sigil token` prints one"))
            .build();
        api.components.get_or_insert_default().add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

pub(super) fn head() -> Document {
    Head::openapi()
}

/// The operations of a path with their methods.
pub(super) fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    let all = [
        (Method::GET, get),
        (Method::PUT, put),
        (Method::POST, post),
        (Method::DELETE, delete),
        (Method::PATCH, patch),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// Adds what all operations have in common: the problems that they may answer, and that neither a header nor the body of an
/// operation that has defaults for all of it is required.
pub(super) fn completed(mut api: Document) -> Document {
    for (path, item) in &mut api.paths.paths {
        for (method, operation) in operations(item) {
            for parameter in operation.parameters.iter_mut().flatten() {
                if let RefOr::T(parameter) = parameter {
                    relax_header(parameter);
                }
            }
            if let Some(RefOr::T(body)) = &mut operation.request_body {
                relax_body(body);
            }
            for status in problems(path, &method, operation) {
                let reference = RefOr::Ref(Ref::from_response_name(component(status)));
                operation.responses.responses.insert(status.to_string(), reference);
            }
        }
    }
    let responses = &mut api.components.get_or_insert_default().responses;
    for code in ErrorCode::ALL {
        responses.insert(component(code.http()), described(code.http()).into());
    }
    api
}

fn component(status: u16) -> String {
    format!("Problem{status}")
}

fn relax_header(parameter: &mut Parameter) {
    if matches!(parameter.parameter_in, ParameterIn::Header) {
        parameter.required = Required::False;
    }
}

/// A body that may be absent is described as one that may be `null`, which it may not.
fn relax_body(body: &mut RequestBody) {
    for content in body.content.values_mut() {
        let RefOr::T(content) = content else { continue };
        let Some(RefOr::T(Schema::OneOf(one))) = &mut content.schema else { continue };
        let null = SchemaType::Type(Type::Null);
        let is_null =
            |schema: &RefOr<Schema>| matches!(schema, RefOr::T(Schema::Object(object)) if object.schema_type == null);
        if one.items.iter().any(is_null) {
            one.items.retain(|schema| !is_null(schema));
            content.schema = one.items.pop();
            body.required = Some(Required::False);
        }
    }
}

/// The statuses of the problems that an operation may answer with.
fn problems(path: &str, method: &Method, operation: &Operation) -> Vec<u16> {
    let id = operation.operation_id.as_deref().unwrap_or_default();
    let is_public = operation
        .security
        .as_ref()
        .is_some_and(|schemes| schemes.iter().any(|scheme| *scheme == SecurityRequirement::default()));
    // What cannot be read, whom we do not serve, our own faults.
    let mut statuses = vec![400, 403, 414, 421, 422, 431, 500, 503];
    if !is_public {
        statuses.push(401);
    }
    if operation.request_body.is_some() {
        statuses.extend([408, 413, 415]);
    }
    if method == Method::GET {
        statuses.push(406);
    } else {
        // The state of the mesh, budgets, and the room on the disk.
        statuses.extend([409, 429, 507]);
    }
    if path.starts_with("/api/v1/policy") {
        // A device or workspace that is named.
        statuses.extend([404, 409, 413]);
    }
    let of_rights = ["/api/v1/policy", "/api/v1/people", "/api/v1/workspaces"];
    let is_memory = path.contains("/memory");
    if matches!(*method, Method::PUT | Method::DELETE)
        && !is_memory
        && of_rights.iter().any(|start| path.starts_with(start))
    {
        statuses.extend([404, 412, 428]);
    }
    if path.contains('{') || ["createCall", "join", "rename", "listTools", "listCalls", "listAudit"].contains(&id) {
        statuses.push(404);
    }
    if [
        "getNode",
        "listGuests",
        "listRightsBy",
        "listTools",
        "listCalls",
        "listAudit",
        "getResult",
        "getResultPart",
        "getBackup",
    ]
    .contains(&id)
    {
        statuses.push(409);
    }
    if ["approveTools", "rejectTools"].contains(&id) {
        statuses.push(412);
    }
    if ["explain", "explainCall", "getMatrix"].contains(&id) {
        statuses.push(429);
    }
    if ["createCall"].contains(&id) {
        statuses.push(406);
    }
    if ["signIn"].contains(&id) {
        // A code that was never printed, or is over, and tries.
        statuses.extend([404, 410, 429]);
    }
    if ["createUiCode"].contains(&id) {
        statuses.push(404);
    }
    if ["join", "getResult", "getResultPart", "answerApproval"].contains(&id) {
        statuses.push(410);
    }
    statuses.sort_unstable();
    statuses.dedup();
    statuses
}

/// The answers with this status, for the description of the API: which codes they may have, and which headers they bring.
fn described(status: u16) -> Response {
    let codes = ErrorCode::ALL.iter().filter(|code| code.http() == status);
    let lines: Vec<_> = codes.map(|code| format!("`{code}`: {}", code.title())).collect();
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let text = |about: &str| {
        let schema = ObjectBuilder::new().schema_type(Type::String);
        HeaderBuilder::new().schema(Some(schema)).description(Some(about.to_owned())).build()
    };
    let response = ResponseBuilder::new().description(lines.join("; ")).content(PROBLEM_JSON, content);
    let response = match status {
        401 => response.header("WWW-Authenticate", text("The scheme: Bearer")),
        405 => response.header("Allow", text("The methods of this route")),
        429 | 503 | 507 => response.header("Retry-After", text("Seconds after which another try makes sense")),
        _ => response,
    };
    response.build()
}
