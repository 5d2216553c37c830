//! The three streams of a program, from our side: arguments in, output and lines of progress out.

use std::convert::Infallible;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::time::Instant;

use super::progress::ErrorStream;
use super::spool::{Spool, SpoolError};

/// Bytes read from a pipe at once.
const CHUNK: usize = 32 * 1024;

/// Our ends of the streams of a tool.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) stdin: pipe::Sender,
    pub(super) stdout: pipe::Receiver,
    pub(super) stderr: pipe::Receiver,
}

impl Streams {
    /// Hands the arguments over, and takes all that the tool says until both of its streams are closed.
    ///
    /// # Errors
    /// Its output is not taken any more.
    pub(super) async fn pump(
        self,
        stdin: Bytes,
        spool: &mut Spool<'_>,
        errors: &mut ErrorStream,
        note: &mut impl FnMut(String),
    ) -> Result<(), SpoolError> {
        let Self { stdin: to_tool, stdout, stderr } = self;
        // What the tool said before it gave too much is read before that ends it.
        let streams = async { tokio::try_join!(biased; read_errors(stderr, errors, note), read_output(stdout, spool)) };
        tokio::select! {
            result = streams => result.map(|_| ()),
            never = feed(to_tool, stdin) => match never {},
        }
    }
}

/// Hands the arguments over and closes the pipe. A tool that does not read them is free not to.
async fn feed(mut pipe: pipe::Sender, stdin: Bytes) -> Infallible {
    let _ = pipe.write_all(&stdin).await;
    drop(pipe);
    std::future::pending().await
}

async fn read_output(mut pipe: pipe::Receiver, spool: &mut Spool<'_>) -> Result<(), SpoolError> {
    let mut chunk = vec![0; CHUNK];
    // Reading a pipe of ours does not fail; if it did, it would be at its end.
    while let Ok(len @ 1..) = pipe.read(&mut chunk).await {
        spool.push(chunk.get(..len).unwrap_or_default()).await?;
    }
    Ok(())
}

async fn read_errors(
    mut pipe: pipe::Receiver,
    errors: &mut ErrorStream,
    note: &mut impl FnMut(String),
) -> Result<(), SpoolError> {
    let mut chunk = vec![0; 4096];
    while let Ok(len @ 1..) = pipe.read(&mut chunk).await {
        errors.push(chunk.get(..len).unwrap_or_default(), Instant::now(), note);
    }
    Ok(())
}
