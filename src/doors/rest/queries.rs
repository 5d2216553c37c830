//! The parameters that the query of each operation may have, after the description of the API: any other is refused, and so is
//! one that stands twice, also where an operation takes none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use axum::extract::{MatchedPath, Request};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;

use crate::status::{ErrorCode, OpError};

/// The whole description, version 3.1 of its format, of the program with all its features.
pub(super) const DESCRIPTION: &str = include_str!("../../../docs/openapi.json");

/// Those of all operations, read once the first request has any.
static KNOWN: LazyLock<Queries> = LazyLock::new(|| Queries::of(DESCRIPTION));

/// Names of query parameters by path and method, in capitals.
#[derive(Debug)]
pub(super) struct Queries(BTreeMap<(String, String), BTreeSet<String>>);

/// As much of the description as is used here.
#[derive(Deserialize)]
struct Api {
    paths: BTreeMap<String, BTreeMap<String, Operation>>,
}

#[derive(Deserialize)]
struct Operation {
    #[serde(default)]
    parameters: Vec<Parameter>,
}

#[derive(Deserialize)]
struct Parameter {
    name: String,
    #[serde(rename = "in")]
    place: String,
}

impl Queries {
    /// Those of a description; none is known of one that cannot be read, which a test excludes for ours.
    pub(super) fn of(description: &str) -> Self {
        let api = serde_json::from_str::<Api>(description).map(|api| api.paths).unwrap_or_default();
        let mut names = BTreeMap::new();
        for (path, operations) in api {
            for (method, operation) in operations {
                let queries = operation.parameters.into_iter().filter(|parameter| parameter.place == "query");
                let queries = queries.map(|parameter| parameter.name).collect();
                names.insert((path.clone(), method.to_uppercase()), queries);
            }
        }
        Self(names)
    }

    /// True if an operation, its method in capitals, has such a parameter.
    #[cfg(test)]
    pub(super) fn takes(&self, method: &str, path: &str, name: &str) -> bool {
        self.0.get(&(path.to_owned(), method.to_owned())).is_some_and(|known| known.contains(name))
    }

    fn check(&self, request: &Request) -> Result<(), OpError> {
        let Some(path) = request.extensions().get::<MatchedPath>() else { return Ok(()) };
        let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
        // Of another method there is nothing to say here: it is answered 405.
        let Some(known) = self.0.get(&(path.as_str().to_owned(), method.to_string())) else { return Ok(()) };
        let mut seen = BTreeSet::new();
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(request.uri());
        let unreadable =
            |error: axum::extract::rejection::QueryRejection| OpError::new(ErrorCode::BadRequest, error.to_string());
        for (name, _) in pairs.map_err(unreadable)?.0 {
            let shown = || name.chars().take(40).flat_map(char::escape_default).collect::<String>();
            if !known.contains(&name) {
                let known: Vec<_> = known.iter().map(String::as_str).collect();
                let hint = if known.is_empty() {
                    "it takes none".to_owned()
                } else {
                    format!("it takes {}", known.join(", "))
                };
                let detail = format!("this route has no parameter `{}`", shown());
                return Err(OpError::new(ErrorCode::Invalid, detail).hint(hint));
            }
            if seen.contains(&name) {
                return Err(OpError::new(ErrorCode::Invalid, format!("the parameter `{}` stands twice", shown())));
            }
            seen.insert(name);
        }
        Ok(())
    }
}

/// Lets through what the operation takes.
pub(super) async fn check(request: Request, next: Next) -> Response {
    let checked = if request.uri().query().is_some() { KNOWN.check(&request) } else { Ok(()) };
    match checked {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}
