//! The yardstick: what QUIC itself costs on this machine, and what one fsync of the disk under the homes costs.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use quinn::rustls::RootCertStore;
use quinn::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::time::Instant;

use crate::stats::Samples;

/// Bytes of one message: about a small frame of ours.
const MESSAGE: usize = 256;

/// One QUIC stream on loopback whose other end sends back what it gets. That end is a thread with a runtime of its own, as
/// it would be in another process.
pub(crate) struct Echo {
    endpoint: quinn::Endpoint,
    connection: quinn::Connection,
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    thread: std::thread::JoinHandle<Option<()>>,
}

impl Echo {
    pub(crate) async fn open() -> Result<Self> {
        let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).context("a certificate")?;
        let certificate = certified.cert.der().clone();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
        let (told, address) = tokio::sync::oneshot::channel();
        let theirs = certificate.clone();
        let thread = std::thread::spawn(move || serve(theirs, key, told));
        let address = address.await.context("the other end of the echo")?;

        let mut roots = RootCertStore::empty();
        roots.add(certificate).context("a certificate")?;
        let config = quinn::ClientConfig::with_root_certificates(Arc::new(roots)).context("TLS")?;
        let endpoint = quinn::Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).context("a socket")?;
        let connecting = endpoint.connect_with(config, address, "localhost").context("dialling")?;
        let connection = connecting.await.context("dialling")?;
        let (send, recv) = connection.open_bi().await.context("a stream")?;
        Ok(Self { endpoint, connection, send, recv, thread })
    }

    /// A message there and back.
    pub(crate) async fn once(&mut self) -> Result<Duration> {
        let mut message = [7; MESSAGE];
        let began = Instant::now();
        self.send.write_all(&message).await.context("the echo")?;
        self.recv.read_exact(&mut message).await.context("the echo")?;
        Ok(began.elapsed())
    }

    pub(crate) async fn close(self) {
        self.connection.close(0u32.into(), b"");
        self.endpoint.wait_idle().await;
        let _ = self.thread.join();
    }
}

/// The other end. Whatever goes wrong here, the one that measures sees as a broken stream.
fn serve(
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    told: tokio::sync::oneshot::Sender<SocketAddr>,
) -> Option<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    runtime.block_on(async {
        let config = quinn::ServerConfig::with_single_cert(vec![certificate], key).ok()?;
        let endpoint = quinn::Endpoint::server(config, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).ok()?;
        told.send(endpoint.local_addr().ok()?).ok()?;
        let connection = endpoint.accept().await?.await.ok()?;
        let (mut send, mut recv) = connection.accept_bi().await.ok()?;
        let mut message = [0; MESSAGE];
        while recv.read_exact(&mut message).await.is_ok() {
            send.write_all(&message).await.ok()?;
        }
        Some(())
    })
}

/// Appends a page to a file and syncs it, one at a time.
pub(crate) fn fsync(dir: &Path, rounds: usize) -> Result<Samples> {
    let path = dir.join("fsync");
    let mut file = OpenOptions::new().create(true).append(true).open(&path).context("a file")?;
    let mut samples = Samples::default();
    for _ in 0..rounds {
        let began = Instant::now();
        file.write_all(&[7; 4096]).and_then(|()| file.sync_data()).context("writing a file")?;
        samples.add(began.elapsed());
    }
    drop(file);
    std::fs::remove_file(&path).context("removing a file")?;
    Ok(samples)
}

/// Time between two readings of the clock is far below all that is measured here.
pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
