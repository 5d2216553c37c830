//! The door on the tailnet: HTTP at the address that this machine has there, for people at other nodes of it. It opens and
//! closes as tailscaled comes and goes. Who is at the other end tailscaled is asked for when a connection comes, and again
//! while it is there.
//!
//! The socket takes what comes in by the interface of the tailnet alone, so nobody elsewhere can pretend to be at an address of
//! it; what goes over it the tailnet has encrypted.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::listen::{Arrival, CONNECTIONS_MAX, Site, Visit, connection, pause};
use super::seats::Seats;
use crate::mesh::Surroundings;
use crate::mesh::clock::now;
use crate::mesh::tailnet::{Condition, Identity, LocalApi};
use crate::tasks::TaskGroup;

/// Interval of looks at the interface: a tailscaled that starts anew makes another, and a socket of the one before hears
/// nothing any more.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Interval at which tailscaled is asked again who is at the other end: a login that ended stays for at most so long.
const ASK_EVERY: Duration = Duration::from_secs(30);
/// Connections that the system keeps before they are taken.
const BACKLOG: i32 = 128;

/// The state of the door on the tailnet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum DoorState {
    /// The settings do not ask for it.
    #[default]
    Off,
    /// It is to be there, and the tailnet does not work; its own check says why.
    Waits,
    /// It is at this URL.
    Open(String),
    /// It cannot be opened, for people.
    Failed(String),
}

/// Where the door is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    ip: IpAddr,
    /// Name of this machine in the DNS of the tailnet; empty if it has none.
    dns: String,
    /// Name and number of the interface that has the address.
    interface: (String, u32),
}

impl Place {
    /// The place that the tailnet gives now.
    fn of(condition: &Condition) -> Option<Self> {
        let Condition::Running { ip, dns, .. } = condition else { return None };
        let interfaces = if_addrs::get_if_addrs().ok()?;
        let interface = interfaces.into_iter().find(|interface| interface.ip() == *ip)?;
        Some(Self { ip: *ip, dns: dns.clone(), interface: (interface.name.clone(), interface.index?) })
    }

    /// Hosts by which browsers and programs may call it: its address, and its name with and without the domain.
    fn hosts(&self) -> Vec<String> {
        let ip = match self.ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let short = self.dns.split_once('.').map(|(short, _)| short.to_owned());
        let names = [Some(ip), short, Some(self.dns.clone())].into_iter().flatten();
        names.filter(|name| !name.is_empty()).collect()
    }
}

/// Keeps the door open while there is a tailnet, until `tasks` stops.
pub(super) fn start(
    api: LocalApi,
    port: u16,
    surroundings: watch::Receiver<Arc<Surroundings>>,
    routes: Router,
    told: watch::Sender<DoorState>,
    tasks: &TaskGroup,
) {
    told.send_replace(DoorState::Waits);
    let keeper = Keeper { api, port, routes, tasks: tasks.clone(), told, open: None };
    tasks.spawn(keeper.run(surroundings));
}

struct Keeper {
    api: LocalApi,
    port: u16,
    routes: Router,
    tasks: TaskGroup,
    told: watch::Sender<DoorState>,
    open: Option<(Place, CancellationToken)>,
}

impl Keeper {
    async fn run(mut self, mut surroundings: watch::Receiver<Arc<Surroundings>>) {
        let stop = self.tasks.stopping();
        loop {
            let place = Place::of(&surroundings.borrow_and_update().tailnet.condition);
            self.follow(place);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = surroundings.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Opens and closes, so that the door is there and nowhere else.
    fn follow(&mut self, place: Option<Place>) {
        if self.open.as_ref().map(|(open, _)| open) == place.as_ref() && place.is_some() {
            return;
        }
        if let Some((_, stop)) = self.open.take() {
            stop.cancel();
        }
        let Some(place) = place else { return self.tell(DoorState::Waits) };
        let at = SocketAddr::from((place.ip, self.port));
        match bind(at, &place.interface.0) {
            Ok(listener) => {
                let hosts = place.hosts();
                let url = format!("http://{}:{}", hosts.last().map_or("", String::as_str), self.port);
                let stop = self.tasks.stopping().child_token();
                let door = Door {
                    ip: place.ip,
                    api: self.api.clone(),
                    routes: self.routes.clone(),
                    site: Arc::new(Site { hosts, port: self.port }),
                    tasks: self.tasks.clone(),
                    stop: stop.clone(),
                };
                self.tasks.spawn(door.serve(listener));
                self.open = Some((place, stop));
                self.tell(DoorState::Open(url));
            }
            Err(error) => self.tell(DoorState::Failed(format!("listening on {at} failed: {error}"))),
        }
    }

    fn tell(&self, state: DoorState) {
        self.told.send_if_modified(|now| {
            let is_news = *now != state;
            if is_news {
                match &state {
                    DoorState::Open(url) => tracing::info!("door on the tailnet: {url}"),
                    DoorState::Failed(why) => tracing::warn!("door on the tailnet: {why}"),
                    DoorState::Off | DoorState::Waits => tracing::info!("door on the tailnet: closed"),
                }
                *now = state;
            }
            is_news
        });
    }
}

/// Opens a TCP socket that hears this interface alone, where the system can.
fn bind(at: SocketAddr, interface: &str) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of the door before this one may not have ended yet.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    #[cfg(target_os = "linux")]
    socket.bind_device(Some(interface.as_bytes()))?;
    #[cfg(not(target_os = "linux"))]
    let _ = interface;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The door while it is open at one place.
struct Door {
    ip: IpAddr,
    api: LocalApi,
    routes: Router,
    site: Arc<Site>,
    tasks: TaskGroup,
    stop: CancellationToken,
}

impl Door {
    async fn serve(self, listener: TcpListener) {
        let seats = Seats::new(CONNECTIONS_MAX);
        while let Some(accepted) = self.stop.run_until_cancelled(listener.accept()).await {
            match accepted {
                // From this machine itself comes whoever has an account on it, and not whoever is logged in to the tailnet.
                Ok((_, from)) if from.ip() == self.ip => {}
                Ok((stream, from)) => {
                    let Some(seat) = self.stop.run_until_cancelled(seats.take()).await else { break };
                    let (api, site, routes, stop) =
                        (self.api.clone(), self.site.clone(), self.routes.clone(), self.stop.clone());
                    self.tasks.spawn(async move {
                        let Some(node) = asked(&api, from).await else { return };
                        let visit = Arc::new(Visit { site, node });
                        let served = serve_one(stream, &visit, &routes, stop, seat);
                        tokio::select! {
                            () = served => {}
                            () = changed(&api, from, &visit.node) => {}
                        }
                    });
                }
                Err(error) => pause(&error).await,
            }
        }
    }
}

async fn serve_one(
    stream: TcpStream,
    visit: &Arc<Visit>,
    routes: &Router,
    stop: CancellationToken,
    seat: super::seats::Seat,
) {
    let _ = stream.set_nodelay(true);
    connection(stream, Arrival::Tailnet(visit.clone()), routes, stop, seat).await;
}

/// The node at this address, whose key has not ended.
async fn asked(api: &LocalApi, at: SocketAddr) -> Option<Identity> {
    match api.whois(at).await {
        Ok(Some(identity)) if !identity.node.has_ended(now().wall_ms) => Some(identity),
        Ok(_) => {
            tracing::debug!(%at, "no node of the tailnet is there, or its key has ended");
            None
        }
        Err(error) => {
            tracing::debug!(%at, "tailscaled does not say who it is: {error}");
            None
        }
    }
}

/// Returns when another is at this address than was, or nobody.
async fn changed(api: &LocalApi, at: SocketAddr, was: &Identity) {
    loop {
        tokio::time::sleep(ASK_EVERY).await;
        let is_same = |now: &Identity| {
            (&now.node.stable_id, &now.login, &now.node.tags) == (&was.node.stable_id, &was.login, &was.node.tags)
        };
        if !asked(api, at).await.as_ref().is_some_and(is_same) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_by_its_address_and_its_names() {
        let interface = ("tailscale0".to_owned(), 7);
        let place =
            |ip: &str, dns: &str| Place { ip: ip.parse().unwrap(), dns: dns.to_owned(), interface: interface.clone() };
        assert_eq!(place("100.64.0.1", "attic.t.example").hosts(), ["100.64.0.1", "attic", "attic.t.example"]);
        assert_eq!(place("fd7a::1", "").hosts(), ["[fd7a::1]"]);
    }

    #[test]
    fn a_tailnet_that_does_not_work_has_no_place() {
        assert_eq!(Place::of(&Condition::Stopped), None);
        let ip = "100.100.100.1".parse().unwrap();
        let running =
            Condition::Running { name: String::new(), dns: String::new(), ip, others: 0, key_expiry_ms: None };
        assert_eq!(Place::of(&running), None, "no interface here has that address");
    }
}
