//! The home of this device as one file.

use std::convert::Infallible;
use std::io::{self, BufWriter, Write};
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::results::RawBytes;
use crate::doors::app::AppState;
use crate::doors::identity::Identity;
use crate::status::{ErrorCode, OpError};

/// Bytes of one piece of a backup.
const PIECE_BYTES: usize = 64 * 1024;
/// Pieces that wait for the client; then the backup waits.
const PIECES: usize = 4;
/// Time for which a backup waits until the client takes a piece: a disk that spins up, not a client that hangs.
const STALL_MAX: Duration = Duration::from_mins(1);

/// A backup of this device, its key included: by the unix socket only.
///
/// Two are taken at once. One that could not be written whole ends with the reason, which `sigil restore` shows; one of which
/// nothing was read for a minute just ends.
#[utoipa::path(get, path = "/api/v1/backup", operation_id = "getBackup", tag = "operation",
    responses((status = 200, description = "What `sigil restore` reads", body = RawBytes, content_type = "application/octet-stream")))]
pub(super) async fn backup(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
) -> Result<Response, OpError> {
    identity.require_socket("a backup, which holds the key of this device, is taken", "`sigil backup` takes one")?;
    let place = app.backups.clone().try_acquire_owned().map_err(|_| {
        OpError::new(ErrorCode::Conflict, "as many backups of this device as may be are being taken already")
            .hint("wait until one of them has ended; one of which nothing is read ends by itself within a minute")
            .retry_after(Duration::from_secs(10))
    })?;
    let source = app.context.backup.clone();
    let (pieces, taken) = mpsc::channel(PIECES);
    let pieces = Pieces { to: Some(pieces), stall_max: STALL_MAX, runtime: Handle::current() };
    tokio::task::spawn_blocking(move || {
        let _place = place;
        if let Err(error) = source.write(BufWriter::with_capacity(PIECE_BYTES, pieces)) {
            tracing::warn!(error = &error as &dyn std::error::Error, "a backup was given up");
        }
    });
    let body = Body::from_stream(ReceiverStream::new(taken).map(Ok::<_, Infallible>));
    Ok(([(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))], body).into_response())
}

/// A writer whose bytes go to a client, which may be slow or gone. Not for a thread of the runtime.
struct Pieces {
    /// `None` once the client has failed: nobody waits for it again.
    to: Option<mpsc::Sender<Bytes>>,
    stall_max: Duration,
    runtime: Handle,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(to) = &self.to else { return Err(io::ErrorKind::BrokenPipe.into()) };
        match self.runtime.block_on(to.send_timeout(Bytes::copy_from_slice(bytes), self.stall_max)) {
            Ok(()) => Ok(bytes.len()),
            Err(failed) => {
                self.to = None;
                Err(match failed {
                    SendTimeoutError::Timeout(_) => io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("nothing of it was read for {} s", self.stall_max.as_secs()),
                    ),
                    SendTimeoutError::Closed(_) => io::ErrorKind::BrokenPipe.into(),
                })
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_backup_of_which_nothing_is_read_ends() {
        let (to, mut taken) = mpsc::channel(1);
        let mut pieces = Pieces { to: Some(to), stall_max: Duration::from_millis(50), runtime: Handle::current() };
        let writing = tokio::task::spawn_blocking(move || {
            let first = pieces.write(b"one").map_err(|error| error.kind());
            let stalled = pieces.write(b"two").map_err(|error| error.kind());
            // What is said about it is not waited for again.
            let after = pieces.write(b"why").map_err(|error| error.kind());
            (first, stalled, after)
        });
        let (first, stalled, after) = writing.await.unwrap();
        assert_eq!(first, Ok(3));
        assert_eq!((stalled, after), (Err(io::ErrorKind::TimedOut), Err(io::ErrorKind::BrokenPipe)));
        assert_eq!(taken.recv().await.as_deref(), Some(&b"one"[..]));
        assert_eq!(taken.recv().await, None, "its reader sees the end");
    }
}
