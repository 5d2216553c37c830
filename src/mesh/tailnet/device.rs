//! The node in this program, by the crate `tailscale`. It lives on a thread and a runtime of its own: what the crate starts there
//! ends with it, whatever state it is in, and its work takes no turn of the one thread that all else waits for.
//!
//! The crate may leave any question unanswered for ever, and its network stack may panic: each wait has a limit, and a stack that
//! answers with an error is dead. Who made the node makes another then, with the same keys.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use tailscale::netstack::UdpSocket;
use tailscale::{AuthState, InternalErrorKind, NodeInfo};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::EMBEDDED_PORT;
use super::answers::{Node, ToldNode};
use super::embedded::{Ask, Device, Packets, Running, TailscaleConfig, Told};
use crate::tasks::TaskGroup;
use crate::{faults, platform};

/// Longest wait for an answer of a node.
const ASK_MAX: Duration = Duration::from_secs(2);
/// Time in which one must be on its tailnet, unless it waits for a person: a slow control server takes some seconds. One that
/// begins while the server is away is never told when it is back.
const START_MAX: Duration = Duration::from_secs(10);
/// Time for an end in order, so that the control server knows.
const END_MAX: Duration = Duration::from_secs(1);
/// Interval of looks at what its tailnet says of it: its tags, and the end of its key.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Time without an answer to such a look after which it is dead. A control server that is away for a while is no reason: what
/// it knows of the tailnet stays true meanwhile.
const SILENT_MAX: Duration = Duration::from_mins(1);
/// Time for which all that is sent may stay unanswered, once anything has come: a node that has lost its relay goes on as if nothing
/// were wrong.
const UNANSWERED_MAX: Duration = Duration::from_secs(15);
/// Packets on their way out. The ring of the stack has room for three, and the sender waits for it.
const OUT: usize = 16;
/// Packets that have come and are not read yet.
const COME: usize = 256;
/// News and questions that wait.
const NEWS: usize = 16;
const ASKS: usize = 64;

/// Makes nodes by the crate `tailscale`.
#[derive(Debug)]
pub struct Embedded;

impl Device for Embedded {
    fn begin(&self, config: TailscaleConfig, tasks: &TaskGroup) -> io::Result<Running> {
        let (told_tx, told) = mpsc::channel(NEWS);
        let (asks, asked) = mpsc::channel(ASKS);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        tasks.thread("tailnet", move |stop| {
            // With two makers of TLS in the program, the crate panics unless one is chosen.
            let _ = rustls::crypto::ring::default_provider().install_default();
            runtime.block_on(async {
                let living = stop.run_until_cancelled(live(&config, &told_tx, asked));
                let ended = tokio::select! {
                    biased;
                    () = told_tx.closed() => None,
                    ended = living => ended,
                };
                if let Some(why) = ended {
                    let _ = told_tx.send(Told::Ended(why)).await;
                }
            });
            runtime.shutdown_background();
        })?;
        Ok(Running { told, asks })
    }
}

/// Lives until it is dead, and says of what.
async fn live(config: &TailscaleConfig, told: &mpsc::Sender<Told>, asked: mpsc::Receiver<Ask>) -> String {
    let settings = match settings(config) {
        Ok(settings) => settings,
        Err(why) => return why,
    };
    let key = config.auth_key.as_ref().map(|key| key.reveal().to_owned());
    let device = match timeout(START_MAX, tailscale::Device::new(&settings, key)).await {
        Ok(Ok(device)) => device,
        Ok(Err(_)) => return "the control server cannot be reached, or refused it".to_owned(),
        Err(_) => return format!("the control server did not answer within {} s", START_MAX.as_secs()),
    };
    let why = on_tailnet(&device, told, asked).await;
    device.shutdown(Some(END_MAX)).await;
    why
}

/// Joins, listens, and carries packets until it is dead.
async fn on_tailnet(device: &tailscale::Device, told: &mpsc::Sender<Told>, asked: mpsc::Receiver<Ask>) -> String {
    let own = match joined(device, told).await {
        Ok(own) => own,
        Err(why) => return why,
    };
    let Some(node) = node_of(&own) else { return "its tailnet tells no id of it".to_owned() };
    let at = SocketAddr::from((own.tailnet_address.ipv4.addr(), EMBEDDED_PORT));
    let socket = match timeout(ASK_MAX, device.udp_bind(at)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => return format!("it cannot listen at {at}: {error}"),
        Err(_) => return format!("it cannot listen at {at}: no answer"),
    };
    let (out, sent) = mpsc::channel(OUT);
    let (come, received) = mpsc::channel(COME);
    let open = Told::Open { node: node.clone(), at, packets: Packets { out, come: received } };
    if told.send(open).await.is_err() {
        return "nobody wants it any more".to_owned();
    }
    let echo = Cell::new(Echo::default());
    tokio::select! {
        why = send_all(&socket, sent, &echo) => why,
        why = receive_all(&socket, come, &echo) => why,
        why = answer_all(device, asked) => why,
        why = look_at_it(device, node, at, told, &echo) => why,
    }
}

/// Whether anything comes back.
#[derive(Debug, Clone, Copy, Default)]
struct Echo {
    /// Something has come since the node began.
    came: bool,
    /// The first packet that was sent since something came last.
    unanswered: Option<Instant>,
}

impl Echo {
    fn sent(self) -> Self {
        Self { unanswered: Some(self.unanswered.unwrap_or_else(Instant::now)), ..self }
    }

    /// True if it has come to hear nothing.
    fn is_lost(self) -> bool {
        self.came && self.unanswered.is_some_and(|since| since.elapsed() > UNANSWERED_MAX)
    }
}

/// Waits until it is on its tailnet; as long as it takes, where a person has to log it in.
async fn joined(device: &tailscale::Device, told: &mpsc::Sender<Told>) -> Result<NodeInfo, String> {
    const REFUSED: &str = "the control server refused it: its auth key is not good, was used up, or has expired";
    let began = Instant::now();
    let mut own = pin!(device.self_node());
    let mut asked_for: Option<String> = None;
    loop {
        match timeout(ASK_MAX, device.is_authorized()).await {
            Ok(Ok(AuthState::NotAuthorized(url))) => {
                let url = url.to_string();
                if asked_for.as_ref() != Some(&url) {
                    let _ = told.send(Told::Login(url.clone())).await;
                    asked_for = Some(url);
                }
            }
            Ok(Ok(AuthState::Authorized)) | Err(_) => {}
            Ok(Err(_)) => return Err(REFUSED.to_owned()),
        }
        match timeout(ASK_MAX, &mut own).await {
            Ok(Ok(own)) => return Ok(own),
            Ok(Err(_)) => return Err(REFUSED.to_owned()),
            Err(_) if asked_for.is_none() && began.elapsed() > START_MAX => {
                return Err(format!("the control server did not answer within {} s", START_MAX.as_secs()));
            }
            Err(_) => {}
        }
    }
}

async fn send_all(
    socket: &UdpSocket,
    mut packets: mpsc::Receiver<(SocketAddr, bytes::Bytes)>,
    echo: &Cell<Echo>,
) -> String {
    while let Some((to, packet)) = packets.recv().await {
        echo.set(echo.get().sent());
        match timeout(ASK_MAX, socket.send_to(to, &packet)).await {
            Ok(Ok(())) => {}
            Ok(Err(
                error @ (tailscale::netstack::Error::BadRequest(_) | tailscale::netstack::Error::ConnectionReset),
            )) => {
                tracing::debug!(%to, %error, "a packet is not for this tailnet");
            }
            Ok(Err(tailscale::netstack::Error::Internal(kind))) => return format!("its network stack died: {kind}"),
            Err(_) => return "its network stack takes no packet any more".to_owned(),
        }
    }
    "nobody wants it any more".to_owned()
}

async fn receive_all(
    socket: &UdpSocket,
    packets: mpsc::Sender<(SocketAddr, bytes::Bytes)>,
    echo: &Cell<Echo>,
) -> String {
    loop {
        match socket.recv_from_bytes().await {
            // One that finds no room is dropped: that is what it is to a socket.
            Ok(packet) => {
                echo.set(Echo { came: true, unanswered: None });
                drop(packets.try_send(packet));
            }
            Err(error) => return format!("its network stack died: {error}"),
        }
    }
}

async fn answer_all(device: &tailscale::Device, mut asked: mpsc::Receiver<Ask>) -> String {
    while let Some(ask) = asked.recv().await {
        match ask {
            Ask::WhoIs(ip, reply) => answer(device.peer_by_tailnet_ip(ip), reply).await,
            Ask::Named(name, reply) => answer(device.peer_by_name(&name), reply).await,
        }
    }
    "nobody wants it any more".to_owned()
}

async fn answer(
    asking: impl Future<Output = Result<Option<NodeInfo>, tailscale::Error>>,
    reply: tokio::sync::oneshot::Sender<Option<Node>>,
) {
    if let Ok(Ok(found)) = timeout(ASK_MAX, asking).await {
        let _ = reply.send(found.as_ref().and_then(node_of));
    }
}

/// Tells what its tailnet says of it anew; dead is one that is at another address, or says nothing for long.
async fn look_at_it(
    device: &tailscale::Device,
    mut node: Node,
    at: SocketAddr,
    told: &mpsc::Sender<Told>,
    echo: &Cell<Echo>,
) -> String {
    let mut heard = Instant::now();
    let mut mute = false;
    loop {
        sleep(LOOK_EVERY).await;
        if faults::tailnet_dies() {
            kill_stack(device, at).await;
        }
        if echo.get().is_lost() {
            return "nothing comes back by it any more".to_owned();
        }
        // What knows the others needs no control server. Without it nobody can be let in.
        match timeout(ASK_MAX, device.peer_by_tailnet_ip(at.ip())).await {
            Ok(Err(_)) if mute => return "it does not know the others any more".to_owned(),
            Ok(Err(_)) => mute = true,
            Ok(Ok(_)) | Err(_) => mute = false,
        }
        match timeout(ASK_MAX, device.self_node()).await {
            Ok(Ok(own)) => {
                heard = Instant::now();
                let Some(now) = node_of(&own) else { continue };
                if !now.ips.contains(&at.ip()) {
                    return "its tailnet gave it another address".to_owned();
                }
                if now != node {
                    node = now;
                    let _ = told.send(Told::Node(node.clone())).await;
                }
            }
            Ok(Err(tailscale::Error::Internal(InternalErrorKind::Actor))) if heard.elapsed() > SILENT_MAX => {
                return format!("it says nothing for {} s", SILENT_MAX.as_secs());
            }
            Ok(Err(error)) => tracing::debug!(%error, "a look at the node of the tailnet"),
            Err(_) if heard.elapsed() > SILENT_MAX => return format!("it says nothing for {} s", SILENT_MAX.as_secs()),
            Err(_) => {}
        }
    }
}

/// For tests: what kills the stack of version 0.6.1. A socket that goes while it is read is read all the same.
async fn kill_stack(device: &tailscale::Device, at: SocketAddr) {
    let other = SocketAddr::new(at.ip(), EMBEDDED_PORT + 1);
    if let Ok(Ok(socket)) = timeout(ASK_MAX, device.udp_bind(other)).await {
        let _ = timeout(Duration::from_millis(50), socket.recv_from_bytes()).await;
        drop(socket);
    }
}

/// A node as the crate tells it.
fn node_of(info: &NodeInfo) -> Option<Node> {
    let address = &info.tailnet_address;
    let ips: [IpAddr; 2] = [address.ipv4.addr().into(), address.ipv6.addr().into()];
    let told = ToldNode {
        stable_id: info.stable_id.0.clone(),
        name: info.hostname.clone(),
        tailnet: info.tailnet.clone().unwrap_or_default(),
        ips: ips.to_vec(),
        tags: info.tags.clone(),
        // It says so of those alone of which control has told it.
        online: !info.status.to_string().starts_with("offline"),
        key_expiry_ms: info.node_key_expiry.map(|end| end.timestamp_millis()),
    };
    told.node()
}

/// The settings of the crate, with the keys of the state file; the first time new ones.
fn settings(config: &TailscaleConfig) -> Result<tailscale::Config, String> {
    let mut settings = tailscale::Config {
        key_state: keys(&config.state_file)?,
        client_name: Some("sigil".to_owned()),
        requested_hostname: Some(config.hostname.clone()),
        ..Default::default()
    };
    if let Some(url) = &config.control_url {
        settings.control_server_url = url.parse().map_err(|_| "its control URL cannot be read".to_owned())?;
    }
    Ok(settings)
}

/// The keys in a file that only its owner may read.
fn keys(path: &Path) -> Result<tailscale::keys::PersistState, String> {
    let wrong = |what: &str, why: &dyn std::fmt::Display| format!("{what} its keys at {}: {why}", path.display());
    match std::fs::read(path) {
        Ok(bytes) => {
            let found = std::fs::symlink_metadata(path).map_err(|error| wrong("reading", &error))?;
            if !found.is_file() || platform::open_to_others(&found).is_some() {
                return Err(wrong("reading", &"others than its owner may read them; `chmod 600` closes the file"));
            }
            // What is wrong in it is not told: it would be told with what it says.
            serde_json::from_slice(&bytes)
                .map_err(|_| wrong("reading", &"the file is damaged; remove it to join as a new node"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let keys = tailscale::keys::PersistState::default();
            let bytes = serde_json::to_vec(&keys).map_err(|_| wrong("writing", &"they have no form"))?;
            platform::replace_file(path, &bytes).map_err(|error| wrong("writing", &error))?;
            Ok(keys)
        }
        Err(error) => Err(wrong("reading", &error)),
    }
}
