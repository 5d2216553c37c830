//! A client of tailscaled's `LocalAPI`: HTTP over its unix socket. Each question is a connection of its own, has a time
//! limit and a limit of bytes, and changes nothing there.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::answers::{Identity, Status, Unreadable};

/// The host that tailscaled wants to be called.
const HOST: &str = "local-tailscaled.sock";
/// Longest wait for a status: it is written from memory, but of the whole tailnet.
const STATUS_MAX: Duration = Duration::from_secs(2);
/// Longest wait for a whois: somebody waits for it.
const WHOIS_MAX: Duration = Duration::from_millis(500);
/// Longest answers, in bytes: a status has about 1 KiB for each node.
const STATUS_BYTES_MAX: usize = 4 * 1024 * 1024;
const WHOIS_BYTES_MAX: usize = 256 * 1024;

/// The reason for which tailscaled told nothing. Fit for a person.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// There is no socket, or nobody behind it.
    #[error("no tailscaled runs on this device")]
    Absent,
    /// Somebody else than root or we ourselves listens there.
    #[error("whoever listens at {} is user {uid}, and neither root nor this one", .socket.display())]
    NotTrusted {
        /// The socket.
        socket: PathBuf,
        /// The user.
        uid: u32,
    },
    /// The socket cannot be used.
    #[error("its socket cannot be used: {0}")]
    Socket(io::Error),
    /// No answer came in time.
    #[error("it does not answer within {} ms", .0.as_millis())]
    Late(Duration),
    /// It broke off, or the answer is too long.
    #[error("its answer broke off or is too long")]
    Broken,
    /// It refuses.
    #[error("it refuses: HTTP {0}")]
    Refused(u16),
    /// It answered something else.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

/// A client of one tailscaled.
#[derive(Debug, Clone)]
pub struct LocalApi {
    socket: PathBuf,
}

impl LocalApi {
    /// Makes a client. Nothing is opened yet.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// The socket that it asks at.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks for the state of tailscaled and of its tailnet.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn status(&self) -> Result<Status, ApiError> {
        let answer = self.get("/localapi/v0/status", STATUS_BYTES_MAX, STATUS_MAX).await?;
        Ok(Status::read(&answer)?)
    }

    /// Asks who is at an address of the tailnet; `None` if nobody is.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn whois(&self, at: SocketAddr) -> Result<Option<Identity>, ApiError> {
        // Digits, dots, colons and brackets alone.
        match self.get(&format!("/localapi/v0/whois?addr={at}"), WHOIS_BYTES_MAX, WHOIS_MAX).await {
            Ok(answer) => Ok(Some(Identity::read(&answer, at.ip())?)),
            Err(ApiError::Refused(code)) if code == StatusCode::NOT_FOUND.as_u16() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn get(&self, path: &str, bytes_max: usize, within: Duration) -> Result<Bytes, ApiError> {
        timeout(within, self.ask(path, bytes_max)).await.map_err(|_| ApiError::Late(within))?
    }

    async fn ask(&self, path: &str, bytes_max: usize) -> Result<Bytes, ApiError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| {
            let absent = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
            if absent { ApiError::Absent } else { ApiError::Socket(error) }
        })?;
        let uid = stream.peer_cred().map_err(ApiError::Socket)?.uid();
        if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
            return Err(ApiError::NotTrusted { socket: self.socket.clone(), uid });
        }
        let request = Request::get(path).header(hyper::header::HOST, HOST).body(Empty::<Bytes>::new());
        let request = request.map_err(|_| ApiError::Broken)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|_| ApiError::Broken)?;
        let answering = async {
            let response = sender.send_request(request).await.map_err(|_| ApiError::Broken)?;
            if response.status() != StatusCode::OK {
                return Err(ApiError::Refused(response.status().as_u16()));
            }
            let body = Limited::new(response.into_body(), bytes_max).collect().await;
            Ok(body.map_err(|_| ApiError::Broken)?.to_bytes())
        };
        tokio::pin!(answering);
        // The connection ends first only when it broke, or when all of the answer is here.
        tokio::select! {
            biased;
            answer = &mut answering => answer,
            _ = connection => timeout(Duration::from_millis(100), answering).await.map_err(|_| ApiError::Broken)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "it ends with the runtime of its test")]
    /// A tailscaled that answers every question with these bytes, and holds the connection if they are empty.
    fn serve(answer: Vec<u8>) -> (LocalApi, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut asked = [0; 1024];
                let _ = stream.read(&mut asked).await;
                if answer.is_empty() {
                    tokio::time::sleep(Duration::from_mins(1)).await;
                }
                let _ = stream.write_all(&answer).await;
            }
        });
        (LocalApi::new(socket), dir)
    }

    fn http(code: &str, body: &str) -> Vec<u8> {
        format!("HTTP/1.1 {code}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    #[tokio::test]
    async fn it_reads_what_is_answered_and_says_why_nothing_is() {
        let absent = LocalApi::new("/nonexistent/tailscaled.sock".into());
        assert!(matches!(absent.status().await, Err(ApiError::Absent)));

        let (api, _dir) = serve(http("200 OK", include_str!("../../../tests/tailnet/answers/status.json")));
        assert_eq!(api.status().await.unwrap().state, "Running");

        let (api, _dir) = serve(http("404 Not Found", "no match for IP:port"));
        assert_eq!(api.whois("100.64.0.9:1".parse().unwrap()).await.unwrap(), None);

        let (api, _dir) = serve(http("403 Forbidden", "no"));
        assert!(matches!(api.status().await, Err(ApiError::Refused(403))));

        let (api, _dir) = serve(http("200 OK", "<html>"));
        assert!(matches!(api.status().await, Err(ApiError::Unreadable(_))));

        let (api, _dir) = serve(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{".to_vec());
        assert!(matches!(api.status().await, Err(ApiError::Broken)));
    }

    #[tokio::test]
    async fn an_answer_without_end_is_broken_off_and_silence_too() {
        let long = format!("\"{}\"", "x".repeat(WHOIS_BYTES_MAX + 1));
        let (api, _dir) = serve(http("200 OK", &long));
        assert!(matches!(api.whois("100.64.0.9:1".parse().unwrap()).await, Err(ApiError::Broken)));
        let (api, _dir) = serve(Vec::new());
        assert!(matches!(api.whois("100.64.0.9:1".parse().unwrap()).await, Err(ApiError::Late(WHOIS_MAX))));
    }
}
