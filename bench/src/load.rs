//! Calls through a door, over connections that are kept.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::echo::Echo;
use crate::stats::Samples;

/// Pause of a client that finds the queue full.
const FULL_PAUSE: Duration = Duration::from_millis(5);

/// One connection to a peer's socket.
struct Line {
    sender: SendRequest<Full<Bytes>>,
    /// Ends with the line.
    _connection: JoinSet<()>,
}

impl Line {
    async fn open(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).await.context("the agent's socket")?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.context("the agent's socket")?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // Whatever goes wrong on the connection, the request sees it too.
            let _ = connection.await;
        });
        Ok(Self { sender, _connection: tasks })
    }

    /// Makes a call, and how long that took. A full queue is waited for, and is not part of it.
    async fn call(&mut self, node: &str, tool: &str, wait: bool) -> Result<Duration> {
        loop {
            let began = Instant::now();
            if self.is_taken(node, tool, wait).await? {
                return Ok(began.elapsed());
            }
            tokio::time::sleep(FULL_PAUSE).await;
        }
    }

    /// Makes a call. Waiting, it must end `done`; else it must be accepted. False if the queue is full.
    async fn is_taken(&mut self, node: &str, tool: &str, wait: bool) -> Result<bool> {
        let body = json!({ "node": node, "tool": tool, "ttl_s": 60 }).to_string();
        let mut request = Request::post("/api/v1/calls").header("host", "localhost");
        request = request.header("content-type", "application/json");
        if wait {
            request = request.header("prefer", "wait=30");
        }
        let request = request.body(Full::new(Bytes::from(body)))?;
        self.sender.ready().await.context("the agent's socket")?;
        let response = self.sender.send_request(request).await.context("the agent's socket")?;
        let status = response.status();
        let body = response.into_body().collect().await.context("the agent's answer")?.to_bytes();
        let done = || String::from_utf8_lossy(&body).contains(r#""state":"done""#);
        let good = if wait { status == StatusCode::OK && done() } else { status == StatusCode::ACCEPTED };
        if good || status == StatusCode::TOO_MANY_REQUESTS {
            return Ok(good);
        }
        let text = String::from_utf8_lossy(&body);
        bail!("a call of {tool} on {node} went wrong: {status} {text}")
    }
}

/// One call after another, each waited for. The first tenth warms up.
pub(crate) async fn sequential(socket: &Path, node: &str, tool: &str, calls: usize) -> Result<Samples> {
    let mut line = Line::open(socket).await?;
    let mut samples = Samples::default();
    for call in 0..calls + calls / 10 {
        let took = line.call(node, tool, true).await?;
        if call >= calls / 10 {
            samples.add(took);
        }
    }
    Ok(samples)
}

/// The same, with an echo before each call: echoes by themselves keep both ends awake and their caches warm, which nothing
/// does for a call, and so take a third of what they take in between. Calls, and echoes.
pub(crate) async fn beside_echoes(socket: &Path, node: &str, tool: &str, rounds: usize) -> Result<(Samples, Samples)> {
    let mut echo = Echo::open().await?;
    let mut line = Line::open(socket).await?;
    let (mut calls, mut echoes) = (Samples::default(), Samples::default());
    for round in 0..rounds + rounds / 10 {
        let echoed = echo.once().await?;
        let took = line.call(node, tool, true).await?;
        if round >= rounds / 10 {
            calls.add(took);
            echoes.add(echoed);
        }
    }
    echo.close().await;
    Ok((calls, echoes))
}

/// `calls` in all, `width` of them under way at once, to these nodes in turn. Time of all, and of each of them.
pub(crate) async fn at_once(
    socket: &Path,
    nodes: &[String],
    tool: &str,
    (calls, width): (usize, usize),
    wait: bool,
) -> Result<(Duration, Samples)> {
    let mut lines = Vec::new();
    for _ in 0..width {
        lines.push(Line::open(socket).await?);
    }
    let next = AtomicUsize::new(0);
    let next = &next;
    let began = Instant::now();
    let mut all: FuturesUnordered<_> = lines
        .into_iter()
        .map(|mut line| async move {
            let mut took = Vec::new();
            loop {
                let call = next.fetch_add(1, Ordering::Relaxed);
                let node = nodes.get(call % nodes.len().max(1));
                let Some(node) = node.filter(|_| call < calls) else { return Ok::<_, anyhow::Error>(took) };
                took.push(line.call(node, tool, wait).await?);
            }
        })
        .collect();
    let mut samples = Samples::default();
    while let Some(took) = all.next().await {
        took?.into_iter().for_each(|took| samples.add(took));
    }
    Ok((began.elapsed(), samples))
}
