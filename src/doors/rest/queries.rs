//! The parameters that the query of each operation may have, after the description of the API: any other is refused, and so is
//! one that stands twice, also where an operation takes none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use utoipa::openapi::path::ParameterIn;
use utoipa::openapi::{OpenApi, RefOr};

use super::openapi::operations;
use crate::status::{ErrorCode, OpError};

/// Names of query parameters by path and method.
#[derive(Debug)]
pub(super) struct Queries(BTreeMap<(String, String), BTreeSet<String>>);

impl Queries {
    /// Those of all operations in a description.
    pub(super) fn of(mut api: OpenApi) -> Self {
        let mut names = BTreeMap::new();
        for (path, item) in &mut api.paths.paths {
            for (method, operation) in operations(item) {
                let parameters = operation.parameters.iter().flatten().filter_map(|parameter| match parameter {
                    RefOr::T(parameter) if matches!(parameter.parameter_in, ParameterIn::Query) => {
                        Some(parameter.name.clone())
                    }
                    RefOr::T(_) | RefOr::Ref(_) => None,
                });
                names.insert((path.clone(), method.to_string()), parameters.collect());
            }
        }
        Self(names)
    }

    fn check(&self, request: &Request) -> Result<(), OpError> {
        if request.uri().query().is_none() {
            return Ok(());
        }
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
pub(super) async fn check(State(queries): State<Arc<Queries>>, request: Request, next: Next) -> Response {
    match queries.check(&request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}
