//! The one client of web servers that are no device of ours: of models to fetch, and of MCP servers at an address.

use std::error::Error as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// Longest time for a connection to be there, with each address of a name.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Silence after which it is looked if the other end is still there: a stream may be silent for long.
const KEEPALIVE: Duration = Duration::from_mins(1);
/// Time for which a connection that nobody uses is kept.
const IDLE_MAX: Duration = Duration::from_mins(1);
/// Connections to one server that are kept so.
const IDLE_CONNECTIONS_MAX: usize = 4;
/// Most bytes of the headers of an answer.
const HEADERS_BYTES_MAX: usize = 64 * 1024;

/// A reason for which a request has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// This machine trusts nobody, so nobody can be spoken to over TLS.
    #[error("this machine knows no certificate authorities: install its package `ca-certificates`")]
    NoAuthorities,
    /// There was no connection: nothing was sent.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// The connection broke off after something was sent.
    #[error("the connection broke off: {0}")]
    BrokenOff(String),
}

/// Speaks HTTP/1.1, over TLS to `https://` addresses, with the certificates that this machine trusts. It follows no redirect, uses no
/// proxy, keeps no cookies, and takes no compressed answers. Connections are used again. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    has_authorities: bool,
}

impl HttpClient {
    /// A client, with connections of its own.
    #[must_use]
    pub fn new() -> Self {
        let (tls, has_authorities) = tls();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_MAX));
        tcp.set_keepalive(Some(KEEPALIVE));
        let https =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .http1_max_buf_size(HEADERS_BYTES_MAX)
            .build(https);
        Self { client, has_authorities }
    }

    /// Sends a request to the address that it names, and gives the head of its answer. How long that may take, and how much of
    /// the body is read, is for who asks.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, HttpError> {
        if !self.has_authorities && request.uri().scheme_str() == Some("https") {
            return Err(HttpError::NoAuthorities);
        }
        let agent = hyper::header::HeaderValue::from_static(concat!("sigil/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(hyper::header::USER_AGENT, agent);
        self.client.request(request).await.map_err(|error| {
            let mut why = error.to_string();
            let mut cause = error.source();
            // The last cause is the one that says something to people.
            while let Some(deeper) = cause {
                why = deeper.to_string();
                cause = deeper.source();
            }
            if error.is_connect() { HttpError::Unreachable(why) } else { HttpError::BrokenOff(why) }
        })
    }
}

impl Default for HttpClient {
    fn default() -> Self {
        Self::new()
    }
}

/// TLS with the certificates that this machine trusts, read once; false: it trusts none.
fn tls() -> (rustls::ClientConfig, bool) {
    static READ: OnceLock<(Arc<rustls::RootCertStore>, bool)> = OnceLock::new();
    let (roots, some) = READ
        .get_or_init(|| {
            let mut roots = rustls::RootCertStore::empty();
            let (taken, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            (Arc::new(roots), taken > 0)
        })
        .clone();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    #[expect(clippy::expect_used, reason = "ring knows the versions of TLS that rustls speaks by default")]
    let builder = builder.expect("the provider fits the versions");
    (builder.with_root_certificates(roots).with_no_client_auth(), some)
}
