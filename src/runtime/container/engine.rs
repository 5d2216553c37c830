//! The engine of containers of this device, by the Docker Engine API over its unix socket: looked for, followed, and asked for
//! containers. What it holds of this home that nobody here owns is removed.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::models::{ContainerCreateResponse, ImageInspect};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, EventsOptionsBuilder, InspectContainerOptions,
    ListContainersOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use data_encoding::HEXLOWER;
use futures_util::future::{BoxFuture, join_all};
use futures_util::{StreamExt as _, TryStreamExt as _};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use sigil_shim::wire::{self, Report};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::create::{Bound, HOME_LABEL, Marks, body};
use super::{EngineFacts, EngineState, ImageFacts, Instance, Order, Runtime, RuntimeError};
use crate::plugin::{ContainerConfig, Image, NetworkMode};
use crate::runtime::egress::{Behalf, Pass, Proxy};
use crate::runtime::helper::Helper;
use crate::tasks::TaskGroup;

/// Longest wait for an answer. A create takes 20 to 100 ms, and much longer on a busy machine with a slow disk.
const ANSWER_S: u64 = 60;
/// Longest wait for the first words of an engine.
const GREETED_WITHIN: Duration = Duration::from_secs(10);
/// Time for the helper to come up in a container that the engine calls started.
const UP_WITHIN: Duration = Duration::from_secs(10);
/// How often a container that does not come up is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// First wait before an engine that is gone is tried again; doubled each time.
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
/// Longest such wait.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// How often an engine that works is asked if it still does, and rid of what nobody owns.
const CARE_EVERY: Duration = Duration::from_mins(1);
/// Time that a stop gives to those who own containers, of the agent's grace.
const STOP_WITHIN: Duration = Duration::from_millis(800);
/// How often it is looked then.
const STOP_LOOK_EVERY: Duration = Duration::from_millis(20);
/// Directory of the home for what is bound into containers.
const DIR: &str = "containers";
/// Names of containers, before something random.
const PREFIX: &str = "sigil-";

/// The engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

struct Shared {
    state: watch::Sender<EngineState>,
    connected: Mutex<Option<Connected>>,
    marks: Marks,
    /// Names of containers that somebody here owns, also before they are made.
    owned: Mutex<BTreeSet<String>>,
    helper: Helper,
    proxy: Proxy,
    home: PathBuf,
    dir: PathBuf,
}

/// An engine that answers.
#[derive(Clone)]
struct Connected {
    docker: Docker,
    facts: Arc<EngineFacts>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("marks", &self.shared.marks).finish_non_exhaustive()
    }
}

/// The reason for which an engine is not used, with the next step.
type Missing = (String, String);

impl Engine {
    /// Looks for an engine from now on, at the first of these sockets that there is ([`sockets`]). `home`: that of the agent,
    /// told apart by `identity` from others of the same path; what an agent that was killed has left there is removed.
    ///
    /// # Errors
    /// When the directory for what is bound into containers cannot be made.
    pub fn start(
        home: &Path,
        identity: &str,
        sockets: Vec<PathBuf>,
        helper: Helper,
        proxy: Proxy,
        tasks: &TaskGroup,
    ) -> io::Result<Self> {
        let dir = home.join("run").join(DIR);
        let _ = fs::remove_dir_all(&dir);
        crate::platform::create_private_dir(&dir)?;
        let real = fs::canonicalize(home)?;
        let mark = digest(&SHA256, format!("{}\n{identity}", real.display()).as_bytes());
        let marks = Marks { home: HEXLOWER.encode(mark.as_ref().get(..16).unwrap_or_default()), boot: random() };
        let shared = Arc::new(Shared {
            state: watch::Sender::default(),
            connected: Mutex::default(),
            marks,
            owned: Mutex::default(),
            helper,
            proxy,
            home: real,
            dir,
        });
        let engine = Self { shared };
        match engine.shared.helper.only_bare() {
            Some(why) => {
                let why = format!("this build of sigil has no helper, which containers are started with: {why}");
                let fix = "a build on Linux with a static C library (libc.a) has one".to_owned();
                engine.shared.state.send_replace(EngineState::Absent { why, fix });
            }
            None => tasks.spawn(engine.clone().keep(sockets, tasks.clone())),
        }
        Ok(engine)
    }

    /// Looks for an engine, and follows it, for as long as the agent runs.
    async fn keep(self, sockets: Vec<PathBuf>, tasks: TaskGroup) {
        let stopping = tasks.stopping();
        let mut wait = BACKOFF_FIRST;
        loop {
            let round = async {
                match self.connect(&sockets).await {
                    Ok(connected) => {
                        let why = self.follow(connected).await;
                        tracing::warn!(target: "sigil::events::containers", "the container engine is gone: {why}");
                        self.is(EngineState::Gone { why });
                        true
                    }
                    Err((why, fix)) => {
                        let was = self.shared.state.borrow().clone();
                        self.is(match was {
                            // It was there, and calls wait for it.
                            EngineState::Gone { .. } | EngineState::Ready(_) => EngineState::Gone { why },
                            EngineState::Looking | EngineState::Absent { .. } => EngineState::Absent { why, fix },
                        });
                        false
                    }
                }
            };
            match stopping.run_until_cancelled(round).await {
                None => break,
                Some(true) => wait = BACKOFF_FIRST,
                Some(false) => {}
            }
            if stopping.run_until_cancelled(sleep(wait)).await.is_none() {
                break;
            }
            wait = (wait * 2).min(BACKOFF_MAX);
        }
        // Calls end, and pools are closed, in the grace of a stop. What is left then would be removed at the next start, and
        // people wonder about it until then.
        let until = Instant::now() + STOP_WITHIN;
        while !self.owned().is_empty() && Instant::now() < until {
            sleep(STOP_LOOK_EVERY).await;
        }
        let left = std::mem::take(&mut *self.owned());
        if let Ok(Connected { docker, .. }) = self.connected() {
            join_all(left.iter().map(|name| remove(&docker, name))).await;
        }
    }

    async fn connect(&self, sockets: &[PathBuf]) -> Result<Connected, Missing> {
        let mut why = None;
        for socket in sockets.iter().filter(|socket| socket.exists()) {
            match self.greet(socket).await {
                Ok(found) => return Ok(found),
                // What there is counts more than what there is not.
                Err(found) => {
                    why.get_or_insert(found);
                }
            }
        }
        Err(why.unwrap_or_else(|| {
            let tried: Vec<_> = sockets.iter().map(|socket| socket.display().to_string()).collect();
            let why = format!("there is no container engine on this device (tried {})", tried.join(", "));
            (
                why,
                "install Docker or Podman, and let whoever runs sigil use its socket; all else works without"
                    .to_owned(),
            )
        }))
    }

    async fn greet(&self, socket: &Path) -> Result<Connected, Missing> {
        let shown = socket.display();
        let start =
            || format!("start the container engine: `systemctl status docker` says why {shown} does not answer");
        let probed = tokio::net::UnixStream::connect(socket).await;
        match probed {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let why = format!("there is no container engine at {shown}");
                return Err((why, start()));
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let why = format!("the container engine at {shown} does not let this user in");
                let fix = "`usermod -aG docker USER` does; whoever may use Docker is as good as root on this device";
                return Err((why, fix.to_owned()));
            }
            Err(error) => return Err((format!("the container engine at {shown} does not answer: {error}"), start())),
        }
        let greeted = async {
            let docker = Docker::connect_with_unix(&socket.to_string_lossy(), ANSWER_S, API_DEFAULT_VERSION)?
                .negotiate_version()
                .await?;
            let version = docker.version().await?;
            let info = docker.info().await?;
            Ok::<_, bollard::errors::Error>((docker, version, info))
        };
        let (docker, version, info) = match timeout(GREETED_WITHIN, greeted).await {
            Ok(Ok(greeted)) => greeted,
            Ok(Err(error)) => {
                return Err((format!("the container engine at {shown} does not answer: {}", story(&error)), start()));
            }
            Err(_) => return Err((format!("the container engine at {shown} does not answer in time"), start())),
        };
        let is_podman =
            version.components.iter().flatten().any(|part| part.name.to_ascii_lowercase().contains("podman"));
        let name = if is_podman { "Podman" } else { "Docker" };
        let text =
            |text: Option<String>| crate::text::visible(&text.unwrap_or_default()).chars().take(40).collect::<String>();
        let name = format!("{name} {} (API {})", text(version.version), text(version.api_version));
        let warnings = info.warnings.unwrap_or_default();
        // Of networks there are none here.
        let warnings = warnings.iter().filter(|line| line.contains("limit") || line.contains("cgroup"));
        let warnings = warnings.map(|line| crate::text::visible(line).chars().take(200).collect()).collect();
        let facts = EngineFacts { name, socket: socket.to_owned(), is_podman, warnings };
        Ok(Connected { docker, facts: Arc::new(facts) })
    }

    /// Uses an engine until it does not work any more; returns why.
    async fn follow(&self, connected: Connected) -> String {
        let Connected { docker, facts } = connected.clone();
        // First of all: what is left of agents before is gone soon after a start.
        if let Err(error) = self.reap(&docker).await {
            return story(&error);
        }
        *self.held() = Some(connected);
        tracing::info!(target: "sigil::events::containers", engine = %facts, "container engine found");
        self.is(EngineState::Ready(facts));
        let filters = HashMap::from([("label", vec![self.label()])]);
        let mut events = std::pin::pin!(docker.events(Some(EventsOptionsBuilder::new().filters(&filters).build())));
        let mut care = interval(CARE_EVERY);
        care.set_missed_tick_behavior(MissedTickBehavior::Delay);
        care.tick().await;
        let why = loop {
            tokio::select! {
                event = events.next() => match event {
                    // What happens to containers their helpers tell.
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break story(&error),
                    None => break "it has ended the conversation".to_owned(),
                },
                _ = care.tick() => if let Err(error) = self.reap(&docker).await {
                    break story(&error);
                },
            }
        };
        *self.held() = None;
        why
    }

    fn label(&self) -> String {
        format!("{HOME_LABEL}={}", self.shared.marks.home)
    }

    /// Removes containers of this home that nobody here owns. Those of others it does not see.
    async fn reap(&self, docker: &Docker) -> Result<(), bollard::errors::Error> {
        let filters = HashMap::from([("label", vec![self.label()])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let found = docker.list_containers(Some(options)).await?;
        let is_ours = |labels: Option<&HashMap<String, String>>| {
            labels.and_then(|labels| labels.get(HOME_LABEL)) == Some(&self.shared.marks.home)
        };
        let left: Vec<String> = {
            let owned = self.owned();
            let ours = found.iter().filter(|one| is_ours(one.labels.as_ref()));
            let names = ours.filter_map(|one| Some(one.names.as_ref()?.first()?.trim_start_matches('/').to_owned()));
            // An image may have our labels, and whoever runs it by hand gets them: names are ours alone.
            names.filter(|name| name.starts_with(PREFIX) && !owned.contains(name)).collect()
        };
        if !left.is_empty() {
            tracing::info!(target: "sigil::events::containers", containers = left.len(), "removing containers that were left");
            join_all(left.iter().map(|name| remove(docker, name))).await;
        }
        Ok(())
    }

    fn is(&self, state: EngineState) {
        self.shared.state.send_if_modified(|held| {
            let differs = *held != state;
            *held = state;
            differs
        });
    }

    fn owned(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.shared.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, Option<Connected>> {
        self.shared.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connected(&self) -> Result<Connected, RuntimeError> {
        let held = self.held().clone();
        held.ok_or_else(|| {
            RuntimeError::Unreachable(match &*self.shared.state.borrow() {
                EngineState::Absent { why, .. } | EngineState::Gone { why } => why.clone(),
                EngineState::Looking | EngineState::Ready(_) => "it is being looked for".to_owned(),
            })
        })
    }

    async fn start_one(&self, order: &Order) -> Result<Instance, RuntimeError> {
        let connected = self.connected()?;
        let name = format!("{PREFIX}{}", random());
        self.owned().insert(name.clone());
        let started = self.start_as(&connected, order, &name).await;
        if started.is_err() {
            remove(&connected.docker, &name).await;
            self.owned().remove(&name);
        }
        started
    }

    async fn start_as(
        &self,
        Connected { docker, facts }: &Connected,
        order: &Order,
        name: &str,
    ) -> Result<Instance, RuntimeError> {
        let (engine, config) = (self.clone(), order.config.clone());
        let prepared = tokio::task::spawn_blocking(move || {
            let bound = engine.prepare(&config)?;
            let (dir, listener) = engine.door().map_err(here)?;
            Ok((Bound { dir: dir.path().to_owned(), ..bound }, dir, listener))
        });
        let (bound, dir, listener) =
            prepared.await.unwrap_or_else(|error| Err(RuntimeError::NotStarted(error.to_string())))?;
        let body = body(order, &self.shared.marks, &bound, facts.is_podman);
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let ContainerCreateResponse { warnings, .. } =
            docker.create_container(Some(options), body).await.map_err(refused)?;
        for warning in warnings {
            tracing::debug!(container = name, "the container engine warns: {}", crate::text::visible(&warning));
        }
        docker.start_container(name, None::<StartContainerOptions>).await.map_err(refused)?;
        let link = self.come_up(docker, name, listener).await?;
        // Connected once, by what was there before any program of the image.
        let _ = fs::remove_file(dir.path().join(SOCKET));
        let mut instance = Instance::new(name.to_owned(), link, Some(dir));
        if order.config.network == NetworkMode::Restricted {
            let behalf = Behalf { provider: order.provider.clone(), ..Behalf::default() };
            instance.open(&self.shared.proxy, Pass { rules: order.config.egress.clone(), behalf }).await?;
        }
        Ok(instance)
    }

    /// Waits for the helper of a container.
    async fn come_up(&self, docker: &Docker, name: &str, listener: UnixListener) -> Result<UnixStream, RuntimeError> {
        listener.set_nonblocking(true).map_err(here)?;
        let listener = tokio::net::UnixListener::from_std(listener).map_err(here)?;
        let until = Instant::now() + UP_WITHIN;
        let stream = loop {
            match timeout(LOOK_EVERY, listener.accept()).await {
                Ok(accepted) => break accepted.map_err(here)?.0,
                Err(_) if Instant::now() > until => {
                    return Err(RuntimeError::NotStarted("its helper does not come up".to_owned()));
                }
                Err(_) => {
                    let found =
                        docker.inspect_container(name, None::<InspectContainerOptions>).await.map_err(refused)?;
                    let state = found.state.unwrap_or_default();
                    if state.running == Some(false) {
                        let (code, said) = (state.exit_code.unwrap_or_default(), state.error.unwrap_or_default());
                        let why = format!("it ended at once: exit code {code} {}", crate::text::visible(&said));
                        return Err(RuntimeError::NotStarted(why.trim_end().to_owned()));
                    }
                }
            }
        };
        let link = stream.into_std().and_then(|link| link.set_nonblocking(false).map(|()| link)).map_err(here)?;
        let greeted = tokio::task::spawn_blocking(move || {
            link.set_read_timeout(Some(UP_WITHIN))?;
            let mut hello = [0; HELLO_BYTES];
            (&link).read_exact(&mut hello)?;
            Ok((wire::reports(&hello) == [Report::Ready]).then_some(link))
        });
        match greeted.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(Some(link)) => Ok(link),
            Ok(None) => Err(RuntimeError::NotStarted("what came up is no helper of ours".to_owned())),
            Err(error) => Err(here(error)),
        }
    }

    /// A directory with a socket for one helper. Blocks.
    fn door(&self) -> io::Result<(TempDir, UnixListener)> {
        crate::platform::create_private_dir(&self.shared.dir)?;
        let dir = tempfile::Builder::new().prefix("c-").tempdir_in(&self.shared.dir)?;
        // Also where the umask of the agent would have none in.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        // Names of sockets are short, and homes may be deep.
        let opened = fs::File::open(dir.path())?;
        let socket = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", opened.as_raw_fd()));
        let listener = UnixListener::bind(&socket)?;
        // Whoever runs in the container is another user. Nobody else gets into the home.
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o666))?;
        Ok((dir, listener))
    }

    /// What is bound into each container of a plugin. Blocks.
    fn prepare(&self, config: &ContainerConfig) -> Result<Bound, RuntimeError> {
        self.shared.helper.put_back().map_err(here)?;
        let file = |name: &str, text: &str| {
            let path = self.shared.dir.join(name);
            if !path.exists() {
                crate::platform::create_private_dir(&self.shared.dir)?;
                fs::write(&path, text)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
            }
            Ok(path)
        };
        let real = |path: &PathBuf| {
            let leads = crate::runtime::led_to(path, &config.allowed).map_err(RuntimeError::NotAllowed)?;
            self.may_bind(path, leads).map(|real| (real, path.clone()))
        };
        Ok(Bound {
            shim: self.shared.helper.program().to_owned(),
            dir: PathBuf::new(),
            hosts: file("hosts", HOSTS).map_err(here)?,
            resolv: file("resolv.conf", "").map_err(here)?,
            read: config.read.iter().map(real).collect::<Result<_, _>>()?,
            write: config.write.iter().map(real).collect::<Result<_, _>>()?,
        })
    }

    /// Where a path leads, if a container may have it: never to our home, or to what rules this device.
    fn may_bind(&self, path: &Path, real: PathBuf) -> Result<PathBuf, RuntimeError> {
        let refused = |why: String| RuntimeError::NotAllowed(format!("it may not have `{}`: {why}", path.display()));
        if self.shared.home.starts_with(&real) || real.starts_with(&self.shared.home) {
            return Err(refused("the home of this agent is there".to_owned()));
        }
        let is_socket = |path: &Path| {
            fs::metadata(path).is_ok_and(|found| std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()))
        };
        if real == Path::new("/")
            || is_socket(&real)
            || [Path::new("/run"), Path::new("/var/run"), Path::new("/proc"), Path::new("/sys"), Path::new("/dev")]
                .contains(&real.as_path())
        {
            return Err(refused("whoever has that rules this device".to_owned()));
        }
        Ok(real)
    }
}

/// Name of the socket in the directory of a container.
const SOCKET: &str = "agent.sock";
/// What `localhost` means where there is no network.
const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost\n";
/// Bytes of the first words of a helper.
const HELLO_BYTES: usize = 5;

impl Runtime for Engine {
    fn state(&self) -> watch::Receiver<EngineState> {
        self.shared.state.subscribe()
    }

    fn image<'a>(&'a self, image: &'a Image) -> BoxFuture<'a, Result<Option<ImageFacts>, RuntimeError>> {
        Box::pin(async move {
            match self.connected()?.docker.inspect_image(image.as_str()).await {
                Ok(found) => Ok(Some(facts(found))),
                Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
                Err(error) => Err(refused(error)),
            }
        })
    }

    fn pull<'a>(
        &'a self,
        image: &'a Image,
        step: &'a mut (dyn FnMut(String) + Send),
    ) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(async move {
            let Connected { docker, .. } = self.connected()?;
            let options = CreateImageOptionsBuilder::new().from_image(image.as_str()).build();
            let mut layers: HashMap<String, (i64, i64)> = HashMap::new();
            let mut told = docker.create_image(Some(options), None, None);
            while let Some(info) = told.try_next().await.map_err(refused)? {
                let (Some(id), Some(progress)) = (info.id, info.progress_detail) else { continue };
                let (Some(current), Some(total)) = (progress.current, progress.total) else { continue };
                if layers.len() < 1_000 {
                    layers.insert(id, (current, total));
                }
                let mib = |bytes: i64| bytes / (1 << 20);
                let (current, total) = layers.values().fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
                step(format!("{} of {} MiB", mib(current), mib(total)));
            }
            Ok(())
        })
    }

    fn start<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Result<Instance, RuntimeError>> {
        Box::pin(self.start_one(order))
    }

    fn stop(&self, instance: Instance) -> BoxFuture<'_, ()> {
        let name = instance.close();
        Box::pin(async move {
            if let Ok(Connected { docker, .. }) = self.connected() {
                remove(&docker, &name).await;
            }
            // What could not be removed is nobody's, and removed with the others.
            self.owned().remove(&name);
        })
    }
}

fn facts(found: ImageInspect) -> ImageFacts {
    let config = found.config.unwrap_or_default();
    let command = config.entrypoint.into_iter().flatten().chain(config.cmd.into_iter().flatten()).collect();
    ImageFacts { id: found.id.unwrap_or_default(), command, volumes: config.volumes.unwrap_or_default() }
}

async fn remove(docker: &Docker, name: &str) {
    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    match docker.remove_container(name, Some(options)).await {
        Ok(()) | Err(bollard::errors::Error::DockerResponseServerError { status_code: 404 | 409, .. }) => {}
        Err(error) => tracing::debug!(container = name, "it is not removed now: {}", story(&error)),
    }
}

/// Where engines are, the first that there is counts: what `DOCKER_HOST` names, and it alone; else the usual places.
#[must_use]
pub fn sockets() -> Vec<PathBuf> {
    if let Some(host) = std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty()) {
        // One that is elsewhere cannot bind what is here.
        return vec![PathBuf::from(host.strip_prefix("unix://").unwrap_or(&host))];
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let own = runtime.iter().flat_map(|dir| [dir.join("docker.sock"), dir.join("podman/podman.sock")]);
    let all = [PathBuf::from("/var/run/docker.sock")]
        .into_iter()
        .chain(own)
        .chain([PathBuf::from("/run/podman/podman.sock")]);
    all.collect()
}

#[expect(clippy::needless_pass_by_value, reason = "as an error is mapped")]
fn here(error: io::Error) -> RuntimeError {
    RuntimeError::NotStarted(error.to_string())
}

#[expect(clippy::needless_pass_by_value, reason = "as an error is mapped")]
fn refused(error: bollard::errors::Error) -> RuntimeError {
    if let bollard::errors::Error::DockerResponseServerError { message, .. } = &error {
        return RuntimeError::Refused(crate::text::visible(message).chars().take(500).collect());
    }
    RuntimeError::Unreachable(story(&error))
}

/// An error with all of its causes, in one line.
fn story(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !told.contains(&more) {
            told.push_str(": ");
            told.push_str(&more);
        }
        cause = error.source();
    }
    crate::text::visible(&told).chars().take(500).collect()
}

fn random() -> String {
    let mut bytes = [0; 8];
    // Entropy of the system does not fail once the system runs; a name that is taken is refused by the engine.
    let _ = SystemRandom::new().fill(&mut bytes);
    HEXLOWER.encode(&bytes)
}
