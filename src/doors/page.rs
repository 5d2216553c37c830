//! The web page: the files of `ui/dist`, as they were built and committed, with the headers that tame what runs in them. The
//! same for everybody; what they show they ask of REST. They go out packed to whoever takes that.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request};
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use flate2::Compression;
use flate2::write::GzEncoder;
use rust_embed::RustEmbed;
use tokio::sync::OnceCell;

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

/// Files of fewer bytes are one packet either way.
const PACKED_MIN: usize = 512;

/// What is packed, at most once per process: files of the program alone, so that nobody's bytes are ever packed or unpacked
/// here, and that what is kept is as much as they are (130 kB).
static PACKED: LazyLock<BTreeMap<Cow<'static, str>, OnceCell<Option<Bytes>>>> =
    LazyLock::new(|| Dist::iter().map(|name| (name, OnceCell::new())).collect());

/// The files of the page.
pub(super) fn routes() -> Router<Arc<App>> {
    let root = |name: &'static str| {
        get(async move |request: Request<Body>| {
            let (arrival, asked) = who(&request);
            serve(arrival.as_ref(), &asked, name, EACH_TIME).await
        })
    };
    let asset = async |Path(name): Path<String>, request: Request<Body>| {
        let (arrival, asked) = who(&request);
        serve(arrival.as_ref(), &asked, &format!("assets/{name}"), FOR_EVER).await
    };
    Router::new()
        .route("/", root("index.html"))
        .route("/manifest.webmanifest", root("manifest.webmanifest"))
        .route("/icon.svg", root("icon.svg"))
        .route("/sw.js", root("sw.js"))
        .route("/assets/{name}", get(asset))
}

/// What counts of a request, without its body.
fn who(request: &Request<Body>) -> (Option<Arrival>, HeaderMap) {
    (request.extensions().get::<Arrival>().cloned(), request.headers().clone())
}

async fn serve(arrival: Option<&Arrival>, asked: &HeaderMap, name: &str, kept: &'static str) -> Response {
    // Over the tailnet the page would go without TLS; there is REST.
    let by_http = matches!(arrival, Some(Arrival::Http { .. } | Arrival::Socket { .. }));
    let Some(file) = Dist::get(name).filter(|_| by_http) else {
        return OpError::new(ErrorCode::NotFound, "the web page has no such file").into_response();
    };
    let hash = data_encoding::HEXLOWER.encode(&file.metadata.sha256_hash());
    let hash = hash.get(..32).unwrap_or(&hash);
    let plain = match file.data {
        Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        Cow::Owned(bytes) => Bytes::from(bytes),
    };
    let packed = if takes_gzip(asked) { packed(name, &plain).await } else { None };
    let tag = if packed.is_some() { format!("\"{hash}-gz\"") } else { format!("\"{hash}\"") };
    let coded = packed.is_some();
    let mut response = if knows(asked, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Body::from(packed.unwrap_or(plain)).into_response()
    };
    let modified = response.status() != StatusCode::NOT_MODIFIED;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type(name)));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(kept));
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(HeaderName::from_static("permissions-policy"), HeaderValue::from_static(PERMISSIONS));
    headers.insert(HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin"));
    if coded && modified {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    response
}

/// A file as gzip; nothing where that is not smaller. Packed by a thread for what computes: 340 kB take longer than a step may.
async fn packed(name: &str, plain: &Bytes) -> Option<Bytes> {
    let cell = PACKED.get(name).filter(|_| plain.len() >= PACKED_MIN)?;
    let pack = async || {
        let plain = plain.clone();
        let made = tokio::task::spawn_blocking(move || gzip(&plain).ok().filter(|made| made.len() < plain.len())).await;
        made.ok().flatten().map(Bytes::from)
    };
    cell.get_or_init(pack).await.clone()
}

/// The same bytes for the same file, for they have a tag: without a name and a time.
fn gzip(plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain)?;
    encoder.finish()
}

/// True if the client says that it takes gzip (RFC 9110, 12.5.3): by its name, else by `*`, and not with the weight 0. Whoever
/// says nothing gets files as they are.
fn takes_gzip(asked: &HeaderMap) -> bool {
    let mut any = false;
    for member in
        asked.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()).flat_map(|all| all.split(','))
    {
        let mut parts = member.split(';').map(str::trim);
        let coding = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let wanted = weight.is_none_or(|weight| weight.parse().is_ok_and(|weight: f32| weight > 0.0));
        if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") {
            return wanted;
        }
        any |= coding == "*" && wanted;
    }
    any
}

/// True if the client has the form with this tag. Compared weakly, as `If-None-Match` is.
fn knows(asked: &HeaderMap, tag: &str) -> bool {
    let shown =
        asked.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).flat_map(|all| all.split(','));
    shown.map(str::trim).any(|shown| shown.strip_prefix("W/").unwrap_or(shown) == tag)
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

    fn accepting(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (ACCEPT_ENCODING, HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn gzip_is_for_whoever_takes_it() {
        for taken in [
            &["gzip"][..],
            &["gzip, deflate, br, zstd"],
            &["br", "GZIP;q=0.5"],
            &["*"],
            &["x-gzip"],
            &["br;q=1.0, gzip; q=0.001"],
        ] {
            assert!(takes_gzip(&accepting(taken)), "{taken:?}");
        }
        for not in [
            &[][..],
            &[""],
            &["br"],
            &["gzip;q=0"],
            &["*, gzip;q=0.000"],
            &["*;q=0"],
            &["identity"],
            &["gzipped"],
            &["gzip;q=x"],
        ] {
            assert!(!takes_gzip(&accepting(not)), "{not:?}");
        }
    }

    #[test]
    fn a_tag_is_known_in_a_list_and_weakly() {
        let shown = |value: &'static str| HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_static(value))]);
        for known in ["\"ab-gz\"", "\"x\", W/\"ab-gz\"", "W/\"ab-gz\""] {
            assert!(knows(&shown(known), "\"ab-gz\""), "{known}");
        }
        for not in ["\"ab\"", "ab-gz", "\"ab-gz", ""] {
            assert!(!knows(&shown(not), "\"ab-gz\""), "{not}");
        }
    }

    #[tokio::test]
    async fn every_file_has_forms_with_tags_of_their_own_and_the_same_text() {
        let arrival = Arrival::Socket { owner: true };
        for name in Dist::iter() {
            let plain = serve(Some(&arrival), &accepting(&[]), &name, EACH_TIME).await;
            let packed = serve(Some(&arrival), &accepting(&["gzip"]), &name, EACH_TIME).await;
            for response in [&plain, &packed] {
                assert_eq!(response.status(), StatusCode::OK);
                assert_eq!(response.headers()[VARY], "accept-encoding");
            }
            assert!(!plain.headers().contains_key(CONTENT_ENCODING));
            let coded = packed.headers().contains_key(CONTENT_ENCODING);
            assert_eq!(coded, plain.headers()[ETAG] != packed.headers()[ETAG], "{name}");
            let tag = packed.headers()[ETAG].clone();
            let again =
                HeaderMap::from_iter([(IF_NONE_MATCH, tag), (ACCEPT_ENCODING, HeaderValue::from_static("gzip"))]);
            assert_eq!(
                serve(Some(&arrival), &again, &name, EACH_TIME).await.status(),
                StatusCode::NOT_MODIFIED,
                "{name}"
            );
            let plain = axum::body::to_bytes(plain.into_body(), usize::MAX).await.unwrap();
            let packed = axum::body::to_bytes(packed.into_body(), usize::MAX).await.unwrap();
            assert_eq!(coded, plain.len() >= PACKED_MIN, "{name}");
            if coded {
                let mut unpacked = Vec::new();
                io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed[..]), &mut unpacked).unwrap();
                assert_eq!(unpacked, plain, "{name}");
                assert!(packed.len() < plain.len(), "{name}: {} of {}", packed.len(), plain.len());
            }
        }
    }
}
