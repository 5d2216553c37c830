//! The web page: the files of `ui/dist`, as they were built and committed, with the headers that tame what runs in them. The
//! same for everybody; what they show they ask of REST.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use rust_embed::{EmbeddedFile, RustEmbed};

use crate::doors::app::App;
use crate::doors::listen::Arrival;
use crate::status::{ErrorCode, OpError};

/// The built page.
#[derive(RustEmbed)]
#[folder = "ui/dist/"]
struct Dist;

/// What the page may do: its own scripts and styles from files, requests to its own origin, and text into the document only by
/// the one policy by which Svelte makes templates; the other one knows the address of the page's worker and no other. No frame
/// around it, no form that leaves.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; \
     connect-src 'self'; font-src 'self'; manifest-src 'self'; worker-src 'self'; form-action 'none'; base-uri 'none'; \
     frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types svelte-trusted-html sigil-worker";

/// What of the machine the page may ever ask a person for: what a tool of a browser could need, and nothing else.
const PERMISSIONS: &str = "camera=(self), microphone=(self), geolocation=(self), screen-wake-lock=(self), accelerometer=(), \
     autoplay=(), bluetooth=(), display-capture=(), encrypted-media=(), fullscreen=(self), gyroscope=(), hid=(), \
     identity-credentials-get=(), idle-detection=(), local-fonts=(), magnetometer=(), midi=(), otp-credentials=(), payment=(), \
     publickey-credentials-create=(), publickey-credentials-get=(), serial=(), storage-access=(), usb=(), \
     window-management=(), xr-spatial-tracking=()";

/// Names of files with a hash in it never mean anything else.
const FOR_EVER: &str = "public, max-age=31536000, immutable";
/// The others are asked for each time.
const EACH_TIME: &str = "no-cache";

/// The files of the page.
pub(super) fn routes() -> Router<Arc<App>> {
    let root = |name: &'static str| get(async move |request: Request<Body>| serve(&request, name, EACH_TIME));
    let asset =
        async |Path(name): Path<String>, request: Request<Body>| serve(&request, &format!("assets/{name}"), FOR_EVER);
    Router::new()
        .route("/", root("index.html"))
        .route("/manifest.webmanifest", root("manifest.webmanifest"))
        .route("/icon.svg", root("icon.svg"))
        .route("/sw.js", root("sw.js"))
        .route("/assets/{name}", get(asset))
}

fn serve(request: &Request<Body>, name: &str, kept: &'static str) -> Response {
    // Over the tailnet the page would go without TLS; there is REST.
    let by_http = matches!(request.extensions().get::<Arrival>(), Some(Arrival::Http { .. } | Arrival::Socket { .. }));
    match Dist::get(name).filter(|_| by_http) {
        Some(file) => with(request.headers(), &file, name, kept),
        None => OpError::new(ErrorCode::NotFound, "the web page has no such file").into_response(),
    }
}

fn with(asked: &HeaderMap, file: &EmbeddedFile, name: &str, kept: &'static str) -> Response {
    let tag = data_encoding::HEXLOWER.encode(&file.metadata.sha256_hash());
    let tag = format!("\"{}\"", tag.get(..32).unwrap_or(&tag));
    let known = asked.get_all(IF_NONE_MATCH).iter().any(|shown| shown.as_bytes() == tag.as_bytes());
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Body::from(file.data.clone().into_owned()).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type(name)));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(kept));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(HeaderName::from_static("permissions-policy"), HeaderValue::from_static(PERMISSIONS));
    headers.insert(HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    response
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, end)| end) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("webmanifest") => "application/manifest+json",
        Some("txt") => "text/plain; charset=utf-8",
        Some(_) | None => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_was_built_and_runs_nothing_from_within_its_text() {
        let index = Dist::get("index.html").expect("ui/dist is committed");
        let html = String::from_utf8(index.data.into_owned()).unwrap();
        for inline in ["<style", " style=", " onclick=", "javascript:"] {
            assert!(!html.contains(inline), "{inline}");
        }
        assert_eq!(html.matches("<script").count(), html.matches(" src=\"/assets/").count(), "{html}");
        for name in Dist::iter() {
            assert_ne!(media_type(&name), "application/octet-stream", "{name}");
        }
    }
}
