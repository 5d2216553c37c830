//! The home of this device as one file.

use std::convert::Infallible;
use std::io::{self, BufWriter, Write};

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::problem::Problems;
use crate::doors::app::AppState;
use crate::doors::identity::Identity;
use crate::status::OpError;

/// Bytes of one piece of a backup.
const PIECE_BYTES: usize = 64 * 1024;
/// Pieces that wait for the client; then the backup waits.
const PIECES: usize = 4;

/// A backup of this device, its key included: by the unix socket only.
///
/// One that could not be written whole ends with the reason, which `sigil restore` shows.
#[utoipa::path(get, path = "/api/v1/backup", operation_id = "getBackup", tag = "operation",
    responses((status = 200, description = "What `sigil restore` reads", body = Vec<u8>, content_type = "application/octet-stream"),
              Problems))]
pub(super) async fn backup(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
) -> Result<Response, OpError> {
    identity.require_socket("a backup, which holds the key of this device, is taken", "`sigil backup` takes one")?;
    let source = app.context.backup.clone();
    let (pieces, taken) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let out = BufWriter::with_capacity(PIECE_BYTES, Pieces(pieces));
        if let Err(error) = source.write(out) {
            tracing::warn!(error = &error as &dyn std::error::Error, "a backup was given up");
        }
    });
    let body = Body::from_stream(ReceiverStream::new(taken).map(Ok::<_, Infallible>));
    Ok(([(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))], body).into_response())
}

/// A writer whose bytes go to a client, which may be slow or gone.
struct Pieces(mpsc::Sender<Bytes>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Bytes::copy_from_slice(bytes));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
