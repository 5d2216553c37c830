//! Tools in containers, with a real engine: Docker as Debian has it, which `./test` installs. The tests start it themselves, with
//! a socket, a place for its data and no network of its own, and end it by its number. Its images are made on the spot, of busybox.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::models::{ContainerCreateBody, ContainerSummary, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder,
    StartContainerOptions,
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::{Value, json};
use sigil::plugin::ContainerConfig;
use sigil::runtime::container::engine::Engine;
use sigil::runtime::container::run::{Bounds, run};
use sigil::runtime::container::{EngineState, ImageFacts, Order, Runtime, RuntimeError};
use sigil::runtime::egress::Proxy;
use sigil::runtime::helper::Helper;
use sigil::runtime::outcome::{Output, RunEnd};
use sigil::runtime::spool::{OutputLimits, Spool};
use sigil::tasks::TaskGroup;
use tokio_util::sync::CancellationToken;

use crate::harness::{Home, PATIENCE, SOON, done, items, now, skip, text, wait_for, wait_until};
use crate::sandbox::NoBlobs;

const IMAGE: &str = "test/box:1";
/// A place that another program would have on disk: in our containers it is in memory.
const VOLUME: &str = "VOLUME /data";
/// A container of somebody else.
const NEIGHBOUR: &str = "neighbour";
/// What calls in containers may take on a busy machine.
pub(crate) const SLOWLY: Duration = Duration::from_secs(20);

/// An engine of the tests. All that it has started goes with it.
pub(crate) struct Dockerd {
    dir: tempfile::TempDir,
    process: Option<Child>,
    runtime: tokio::runtime::Runtime,
}

impl Dockerd {
    /// One with the image and a neighbour; `None` where there cannot be one.
    pub(crate) fn new(test: &str) -> Option<Self> {
        if !geteuid().is_root() {
            skip(test, "a container engine needs root");
            return None;
        }
        let there =
            |program: &str| ["/usr/sbin", "/usr/bin", "/bin"].iter().any(|dir| Path::new(dir).join(program).exists());
        if !there("dockerd") || !there("busybox") {
            skip(test, "dockerd or busybox is missing (docker.io and busybox-static in Debian)");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("sgld").tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut engine = Self { dir, process: None, runtime };
        if let Err(why) = engine.up() {
            skip(test, &why);
            return None;
        }
        engine.import();
        engine.neighbour();
        Some(engine)
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn up(&mut self) -> Result<(), String> {
        let path = |name: &str| self.dir.path().join(name);
        let log = fs::File::options().create(true).append(true).open(path("log")).unwrap();
        let child = Command::new("dockerd")
            .arg("--data-root")
            .arg(path("data"))
            .arg("--exec-root")
            .arg(path("exec"))
            .arg("-p")
            .arg(path("pid"))
            .args(["-H", &self.host(), "--iptables=false", "--ip6tables=false", "--bridge=none", "--log-level=warn"])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| format!("dockerd does not start: {error}"))?;
        self.process = Some(child);
        let began = now();
        while self.runtime.block_on(async { self.docker().ok()?.ping().await.ok() }).is_none() {
            if let Some(exit) = self.process.as_mut().unwrap().try_wait().unwrap() {
                self.process = None;
                let log = self.log();
                return Err(format!("dockerd cannot run here ({exit}): {}", log.lines().last().unwrap_or_default()));
            }
            assert!(began.elapsed() < Duration::from_secs(30), "dockerd does not answer: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn docker(&self) -> Result<Docker, bollard::errors::Error> {
        Docker::connect_with_unix(&self.socket().to_string_lossy(), 30, bollard::API_DEFAULT_VERSION)
    }

    fn import(&self) {
        let root = self.dir.path().join("root");
        for dir in ["bin", "tmp", "etc", "proc", "data"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists()).unwrap();
        fs::copy(busybox, root.join("bin/busybox")).unwrap();
        for name in ["sh", "cat", "echo", "sleep", "head", "id", "ls", "touch", "tail", "mkdir", "env", "true"] {
            symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        let tar = Command::new("tar").arg("-C").arg(&root).args(["-cf", "-", "."]).output().unwrap();
        assert!(tar.status.success());
        self.import_tar(IMAGE, tar.stdout, vec![VOLUME.to_owned()]);
    }

    /// Makes an image of a tar.
    pub(crate) fn import_tar(&self, image: &str, tar: Vec<u8>, changes: Vec<String>) {
        let (repo, tag) = image.split_once(':').unwrap();
        let options = CreateImageOptionsBuilder::new().from_src("-").repo(repo).tag(tag).build();
        let options = bollard::query_parameters::CreateImageOptions { changes, ..options };
        self.runtime.block_on(async {
            let body = bollard::body_full(Bytes::from(tar));
            let docker = self.docker().unwrap();
            let mut told = docker.create_image(Some(options), Some(body), None);
            while let Some(info) = told.next().await {
                info.unwrap();
            }
        });
    }

    /// A container that somebody else has started, with a label that looks a little like ours.
    fn neighbour(&self) {
        let body = ContainerCreateBody {
            image: Some(IMAGE.to_owned()),
            entrypoint: Some(vec!["/bin/sleep".to_owned(), "900".to_owned()]),
            labels: Some(HashMap::from([("sigil.home".to_owned(), "0123456789abcdef0123456789abcdef".to_owned())])),
            // It ignores what asks it to end, for which the engine would wait 10 s.
            stop_signal: Some("SIGKILL".to_owned()),
            network_disabled: Some(true),
            host_config: Some(HostConfig { network_mode: Some("none".to_owned()), ..HostConfig::default() }),
            ..ContainerCreateBody::default()
        };
        self.runtime.block_on(async {
            let docker = self.docker().unwrap();
            let name = CreateContainerOptionsBuilder::new().name(NEIGHBOUR).build();
            docker.create_container(Some(name), body).await.unwrap();
            docker.start_container(NEIGHBOUR, None::<StartContainerOptions>).await.unwrap();
        });
    }

    fn all(&self) -> Vec<ContainerSummary> {
        let options = ListContainersOptionsBuilder::new().all(true).build();
        self.runtime.block_on(async { self.docker().unwrap().list_containers(Some(options)).await.unwrap() })
    }

    /// Containers that are not the neighbour's.
    pub(crate) fn ours(&self) -> Vec<ContainerSummary> {
        let is_other = |one: &ContainerSummary| one.names.iter().flatten().any(|name| name.contains(NEIGHBOUR));
        self.all().into_iter().filter(|one| !is_other(one)).collect()
    }

    fn neighbour_runs(&self) -> bool {
        let found = self.runtime.block_on(async {
            self.docker().unwrap().inspect_container(NEIGHBOUR, None::<InspectContainerOptions>).await
        });
        found.is_ok_and(|found| found.state.is_some_and(|state| state.running == Some(true)))
    }

    /// Kills it the hard way, and with it what it calls containerd. Containers go on.
    fn kill9(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
        let file = self.dir.path().join("exec/containerd/containerd.pid");
        let number = fs::read_to_string(&file).unwrap_or_default();
        let stat = PathBuf::from(format!("/proc/{}/stat", number.trim()));
        let ended = || fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        wait_until("its containerd has ended", PATIENCE, ended);
        // Whoever reaps it may take its time, and the next one would wait for it.
        let _ = fs::remove_file(file);
    }

    /// Ends what an engine that was killed while it made a container has forgotten: what is started for our directory, and its
    /// children.
    fn end_what_is_left(&self) {
        let here = self.dir.path().to_string_lossy().into_owned();
        let numbers =
            || fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let is_ours = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.starts_with(b"/usr/bin/containerd-shim") && String::from_utf8_lossy(&line).contains(&here)
        };
        let parent = |pid: i32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse::<i32>().ok()
        };
        let ours: Vec<i32> = numbers().filter(is_ours).collect();
        let children: Vec<i32> = numbers().filter(|pid| parent(*pid).is_some_and(|of| ours.contains(&of))).collect();
        for pid in children.into_iter().chain(ours) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    /// Asks it to end, and all of its containers.
    fn down(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let _ = kill(Pid::from_raw(i32::try_from(process.id()).unwrap()), Signal::SIGTERM);
        let began = now();
        while began.elapsed() < Duration::from_secs(15) {
            if process.try_wait().unwrap().is_some() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = process.kill();
        let _ = process.wait();
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // What a killed one has left is ended by a new one.
        if self.process.is_none() {
            let _ = self.up();
        }
        self.down();
        self.end_what_is_left();
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let here = self.dir.path().to_string_lossy().into_owned();
        let places = mounts.lines().filter_map(|line| line.split_ascii_whitespace().nth(1));
        let mut places: Vec<&str> = places.filter(|place| place.starts_with(&here)).collect();
        places.reverse();
        for place in places {
            let _ = Command::new("umount").arg(place).status();
        }
    }
}

fn manifest(more: &str, tools: &str) -> String {
    format!(
        "name: box\nversion: 1.0.0\nexecution:\n  tier: container\n  image: {IMAGE}\n  pull: never\n  memory_limit: 64Mi\n{more}tools:\n{tools}"
    )
}

fn tool(name: &str, script: &str) -> String {
    format!("  - {{ name: {name}, effect: once, args: [sh, -c, {}] }}\n", Value::from(script))
}

/// A device that uses an engine, with a plugin.
fn device(host: &str, manifest: &str) -> Home {
    let mut home = Home::new("box");
    home.set_env("DOCKER_HOST", host);
    home.start();
    install(&home, manifest);
    home
}

fn install(home: &Home, manifest: &str) {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("plugin.yaml"), manifest).unwrap();
    done(home, &["plugin", "install", &from.path().to_string_lossy(), "--allow", "host-data,secrets"]);
}

fn provider(home: &Home) -> Value {
    // As a plugin, or as a server of the settings.
    let found = ["box", "mcp_servers.box"].map(|name| home.get(&format!("providers/{name}")));
    found.into_iter().find(|answer| answer.status == 200).map_or(Value::Null, |answer| answer.json())
}

fn wait_state(home: &Home, state: &str) {
    wait_until(&format!("it is {state}: {}", provider(home)), PATIENCE, || provider(home)["state"] == state);
}

fn call(home: &Home, tool: &str) -> Value {
    let id = home.call("box", tool, 60);
    home.wait_ended(&id, SLOWLY)
}

/// A directory that whoever runs in a container may write.
pub(crate) fn open_dir(home: &Home, name: &str) -> PathBuf {
    let dir =
        tempfile::Builder::new().prefix(name).permissions(Permissions::from_mode(0o777)).tempdir().unwrap().keep();
    assert!(!dir.starts_with(home.path("")));
    fs::set_permissions(&dir, Permissions::from_mode(0o777)).unwrap();
    dir
}

#[test]
fn seed_c5_a_runtime_starts_and_stops_containers_for_real() {
    let Some(dockerd) = Dockerd::new("seed_c5") else { return };
    let home = tempfile::tempdir().unwrap();
    let text = manifest("  network: none\n", &tool("run", "true"));
    let config = ContainerConfig::from_manifest(&sigil::plugin::read(&text).unwrap().plugin).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let tasks = TaskGroup::default();
    let order = runtime.block_on(async {
        let helper = Helper::install(&home.path().join("run"), None).unwrap();
        let engine: Arc<dyn Runtime> = Arc::new(
            Engine::start(home.path(), "1", vec![dockerd.socket()], helper, Proxy::start(&tasks).0, &tasks).unwrap(),
        );
        let mut state = engine.state();
        let ready =
            tokio::time::timeout(PATIENCE, state.wait_for(|state| matches!(state, EngineState::Ready(_)))).await;
        ready.expect("it is found").expect("it is there");
        let image = engine.image(&config.image).await.unwrap().expect("it was imported");
        assert_eq!(image.volumes, ["/data"]);
        let order = Order { config: config.clone(), image, provider: "box".to_owned() };

        let instance = engine.start(&order).await.unwrap();
        assert!(instance.lives());
        // A process in it for each command, one after the other and side by side.
        let said = async |script: &str, stdin: &str| {
            let program = ["sh", "-c", script].map(str::to_owned).to_vec();
            let command =
                sigil::runtime::container::Command { program, env: [("KEY".to_owned(), "value".to_owned())].into() };
            let exec = engine.exec(&instance, command).await.unwrap();
            let mut spool = Spool::new(&NoBlobs, OutputLimits { inline: 65_536, total: 65_536 });
            let bounds = Bounds { time: Duration::from_secs(10), memory: 64 << 20 };
            let cancel = CancellationToken::new();
            let stdin = Bytes::from(stdin.to_owned());
            let outcome = run(exec, bounds, stdin, Arc::default(), &cancel, &mut spool, |_| ()).await;
            let Output::Inline(output) = spool.finish().await.unwrap().output else { panic!("it is small") };
            (outcome.end, String::from_utf8_lossy(&output).trim().to_owned())
        };
        assert_eq!(said("cat; echo $KEY; id -u", "in ").await, (RunEnd::Done, "in value\n65534".to_owned()));
        assert_eq!(said("exit 3", "").await.0, RunEnd::Failed("exit code 3".to_owned()));
        let (one, two) = tokio::join!(said("sleep 0.3; echo one", ""), said("echo two", ""));
        assert_eq!((one.1.as_str(), two.1.as_str()), ("one", "two"));
        engine.stop(instance).await;
        let image = ImageFacts { id: format!("sha256:{}", "0".repeat(64)), ..order.image.clone() };
        let refused = engine.start(&Order { image, ..order.clone() }).await.unwrap_err();
        assert!(matches!(refused, RuntimeError::Refused(_)), "{refused:?}");
        // One that nobody stops is removed when the agent ends.
        let left = engine.start(&order).await.unwrap();
        (order, left)
    });
    assert_eq!(dockerd.ours().len(), 1, "one was stopped, and one did not start");
    runtime.block_on(tasks.shutdown(Duration::from_secs(3)));
    drop(order);
    wait_until("no container is left", SLOWLY, || dockerd.ours().is_empty());
    assert!(dockerd.neighbour_runs());
}

#[test]
fn tools_in_containers_run_side_by_side_within_their_bounds_and_nothing_outlives_its_call() {
    let Some(dockerd) = Dockerd::new("containers") else { return };
    let home = Home::new("x");
    let dir = open_dir(&home, "sglw");
    drop(home);
    let tools = [
        tool("hello", "echo hello $(cat) $SIGIL_TOOL; echo part > $SIGIL_OUT/a.txt"),
        tool("other", "echo other"),
        tool("fail", "echo why >&2; exit 7"),
        tool("slow", &format!("echo x >> {0}/slow; sleep 60; echo y >> {0}/slow", dir.display())),
        tool("greedy", "head -c 200000000 /dev/zero | tail >/dev/null; exit $?"),
        tool("daemon", &format!("(sleep 1; echo alive > {}/daemon) & echo left", dir.display())),
        tool(
            "escape",
            "ls -A /tmp /data; touch /x /etc/x /bin/x; touch /data/x /tmp/x && echo memory; cat /proc/1/environ; ls /sys/class/net",
        ),
        tool("secret", "echo $KEY | cat >&2; echo ${#KEY}"),
    ];
    fs::write(dir.join("seen"), "").unwrap();
    let more = format!("  write: [{}]\n  env: {{ KEY: {{ secret: key }} }}\n  warm: 1\n", dir.display());
    let mut home = Home::new("box");
    home.set_env("DOCKER_HOST", &dockerd.host());
    fs::create_dir_all(home.path("secrets")).unwrap();
    fs::write(home.path("secrets/key"), "hunter2-hunter2\n").unwrap();
    fs::set_permissions(home.path("secrets/key"), Permissions::from_mode(0o600)).unwrap();
    home.start();
    install(&home, &manifest(&more, &tools.concat()));
    wait_state(&home, "ready");
    let shown = provider(&home);
    assert_eq!(
        (text(&shown, "kind"), text(&shown, "level"), text(&shown, "tier")),
        ("container", "container", "container")
    );
    let doctor = home.cli(&["doctor", "--json"]).stdout;
    assert!(doctor.contains("Docker") && doctor.contains("containers"), "{doctor}");

    // Two tools of one image at once, beside one that goes on.
    let slow = home.call("box", "box.slow", 60);
    wait_until("it runs", SLOWLY, || dir.join("slow").exists());
    let (one, two) = (home.call("box", "box.hello", 60), home.call("box", "box.other", 60));
    let (one, two) = (home.wait_ended(&one, SLOWLY), home.wait_ended(&two, SLOWLY));
    assert_eq!((&one["output"], &two["output"]), (&json!("hello {} box.hello\n"), &json!("other\n")), "{one} {two}");
    assert_eq!(
        (&one["parts"][1]["name"], &one["parts"][1]["media_type"]),
        (&json!("a.txt"), &json!("text/plain")),
        "{one}"
    );
    home.post(&format!("calls/{slow}/cancel"), &json!({}));
    let began = now();
    assert_eq!(text(&home.wait_ended(&slow, PATIENCE), "state"), "cancelled");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());

    let failed = call(&home, "box.fail");
    assert_eq!(
        (text(&failed, "state"), text(&failed, "reason"), text(&failed, "error")),
        ("failed", "exit code 7", "why")
    );
    let greedy = call(&home, "box.greedy");
    assert!(
        text(&greedy, "state") == "failed" && text(&greedy, "reason").contains("memory limit of 64MiB"),
        "{greedy}"
    );
    let daemon = call(&home, "box.daemon");
    assert!(text(&daemon, "state") == "done" && text(&daemon, "reason").contains("ended with it"), "{daemon}");
    let escape = call(&home, "box.escape");
    let output = escape["output"].as_str().unwrap();
    assert!(output.ends_with("memory\nlo\n"), "its volume and /tmp are in memory, and there is no network: {escape}");
    let errors = text(&escape, "error");
    let refused = errors.matches("Read-only file system").count();
    assert!(refused == 3 && errors.contains("/proc/1/environ': Permission denied"), "{escape}");
    let secret = call(&home, "box.secret");
    assert_eq!((&secret["output"], text(&secret, "error")), (&json!(15), "[secret key]"), "{secret}");
    // What a call leaves is gone with it: the next one finds nothing of it.
    let again = call(&home, "box.escape");
    assert!(!again["output"].as_str().unwrap().lines().any(|line| line == "x"), "{again}");

    wait_until("one waits for the next call, and no other is left", SLOWLY, || dockerd.ours().len() == 1);
    let inspected: Vec<String> = dockerd
        .ours()
        .iter()
        .map(|one| {
            let id = one.id.clone().unwrap();
            let found = dockerd.runtime.block_on(async {
                dockerd.docker().unwrap().inspect_container(&id, None::<InspectContainerOptions>).await.unwrap()
            });
            serde_json::to_string(&found).unwrap()
        })
        .collect();
    assert!(!inspected.concat().contains("hunter2") && !home.log().contains("hunter2"), "a secret passes no engine");
    assert!(!dir.join("daemon").exists(), "what it left was ended before it did anything");
    assert_eq!(fs::read_to_string(dir.join("slow")).unwrap(), "x\n");

    home.stop();
    wait_until("no container is left", SLOWLY, || dockerd.ours().is_empty());
    assert!(dockerd.neighbour_runs());
    let _ = fs::remove_dir_all(dir);
}

#[test]
fn an_agent_that_is_killed_with_five_containers_leaves_none_of_them() {
    let Some(dockerd) = Dockerd::new("containers_kill") else { return };
    let dir = open_dir(&Home::new("x"), "sglk");
    let script = format!("echo x >> {0}/began; sleep 60; echo x >> {0}/ended", dir.display());
    let more = format!("  write: [{}]\n  warm: 1\n  concurrency: 5\n", dir.display());
    let mut home = device(&dockerd.host(), &manifest(&more, &tool("slow", &script)));
    wait_state(&home, "ready");
    let calls: Vec<String> = (0..5).map(|_| home.call("box", "box.slow", 600)).collect();
    let began = || fs::read_to_string(dir.join("began")).unwrap_or_default().lines().count();
    wait_until("five run", SLOWLY, || began() == 5);
    home.kill9();
    // Without anybody's help they end; what is left of them is removed by the next start.
    let running = |one: &ContainerSummary| one.state.is_some_and(|state| state.to_string() == "running");
    wait_until("none runs any more", PATIENCE, || !dockerd.ours().iter().any(running));
    assert!(dockerd.ours().len() >= 5, "nobody has removed them");
    let old: Vec<_> = dockerd.ours().into_iter().map(|one| one.id).collect();
    let again = now();
    home.start();
    wait_until("they are gone", SOON, || !dockerd.ours().iter().any(|one| old.contains(&one.id)));
    assert!(again.elapsed() < SOON, "{:?}", again.elapsed());
    eprintln!("five containers were gone {:?} after the start", again.elapsed());
    for id in calls {
        assert_eq!(text(&home.wait_ended(&id, PATIENCE), "state"), "interrupted");
    }
    assert!(began() == 5 && !dir.join("ended").exists(), "each ran once, and none to its end");
    assert!(dockerd.neighbour_runs());
    home.stop();
    wait_until("no container is left", SLOWLY, || dockerd.ours().is_empty());
    let _ = fs::remove_dir_all(dir);
}

#[test]
fn an_engine_that_ends_and_comes_back_is_told_of_and_taken_up_again() {
    let Some(mut dockerd) = Dockerd::new("containers_engine") else { return };
    let dir = open_dir(&Home::new("x"), "sgle");
    let tools = [
        tool("hello", &format!("echo x >> {}/hello; echo hello", dir.display())),
        tool("slow", &format!("echo x >> {0}/began; sleep 600; echo x >> {0}/ended", dir.display())),
    ];
    let mut home = device(&dockerd.host(), &manifest(&format!("  write: [{}]\n", dir.display()), &tools.concat()));
    wait_state(&home, "ready");
    let began = |count: usize| {
        wait_until("it runs", SLOWLY, || {
            fs::read_to_string(dir.join("began")).is_ok_and(|text| text.lines().count() == count)
        });
    };

    // Killed, it leaves its containers running; the next one ends them.
    let slow = home.call("box", "box.slow", 600);
    began(1);
    dockerd.kill9();
    wait_state(&home, "unhealthy");
    assert!(text(&provider(&home), "why").contains("engine is gone"), "{}", provider(&home));
    let doctor = home.cli(&["doctor", "--json"]).stdout;
    assert!(doctor.contains("containers") && doctor.contains("gone"), "{doctor}");
    assert_eq!(call(&home, "append")["state"], "done", "all else goes on");
    dockerd.up().unwrap();
    wait_state(&home, "ready");
    let ended = wait_for("its call has ended", PATIENCE, || {
        let call = home.get_call(&slow);
        (!["accepted", "queued", "dispatched", "running"].contains(&text(&call, "state"))).then_some(call)
    });
    assert_eq!(text(&ended, "state"), "interrupted", "{ended}");
    assert_eq!(call(&home, "box.hello")["output"], "hello\n");

    // Stopped cleanly, it ends them itself, while a call waits for it to come back.
    let slow = home.call("box", "box.slow", 600);
    began(2);
    dockerd.down();
    assert_eq!(text(&home.wait_ended(&slow, PATIENCE), "state"), "interrupted");
    wait_state(&home, "unhealthy");
    let waits = home.call("box", "box.hello", 60);
    dockerd.up().unwrap();
    let waited = home.wait_ended(&waits, SLOWLY);
    assert_eq!((text(&waited, "state"), &waited["output"]), ("done", &json!("hello\n")), "{waited}");
    assert_eq!(fs::read_to_string(dir.join("hello")).unwrap().lines().count(), 2);
    assert!(!dir.join("ended").exists());
    home.stop();
    wait_until("no container is left", SLOWLY, || dockerd.ours().is_empty());
    let _ = fs::remove_dir_all(dir);
}

#[test]
fn without_an_engine_it_is_told_what_to_do_and_all_else_works() {
    let home = device("unix:///nowhere/docker.sock", &manifest("", &tool("hello", "echo hello")));
    wait_state(&home, "stopped");
    let shown = provider(&home);
    assert_eq!((&shown["tools"], text(&shown, "kind")), (&json!([]), "container"));
    let absent = &items(&json!({ "items": shown["absent"] }))[0].clone();
    assert!(text(absent, "tool") == "box.hello" && text(absent, "why").contains("/nowhere/docker.sock"), "{shown}");
    assert!(text(absent, "fix").contains("install Docker or Podman"), "{shown}");
    let listed = home.cli(&["plugin", "list"]);
    assert!(listed.stdout.contains("box") && listed.stdout.contains("stopped"), "{listed:?}");
    let doctor = home.cli(&["doctor", "--json"]).stdout;
    assert!(doctor.contains("no container engine"), "{doctor}");
    // Others may have been told of it in the moment before; what is asked then is denied.
    let refused = wait_for("it is offered no more", SLOWLY, || match home.try_call("box", "box.hello", 60) {
        Ok(id) => {
            assert_eq!(text(&home.wait_ended(&id, SLOWLY), "state"), "denied");
            None
        }
        Err(refused) => Some(refused.json()),
    });
    assert_eq!((text(&refused, "code"), &refused["hint"]), ("unknown_tool", &absent["fix"]), "{refused}");
    assert!(text(&refused, "detail").contains("/nowhere/docker.sock"), "{refused}");
    assert_eq!(text(&call(&home, "append"), "state"), "done");
}

/// A server of the Model Context Protocol, in the older of its eras, as a line of shell can be one.
const SERVER: &str = r#"while read -r line; do
  id=${line#*\"id\":}; id=${id%%[,\}]*}
  case $line in
    *initialize\"*) echo "{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":{\"protocolVersion\":\"2025-06-18\",\"capabilities\":{\"tools\":{}},\"serverInfo\":{\"name\":\"sh\",\"version\":\"1\"}}}" ;;
    *tools/list*) echo "{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":{\"tools\":[{\"name\":\"hi\",\"inputSchema\":{\"type\":\"object\"}},{\"name\":\"die\",\"inputSchema\":{\"type\":\"object\"}}]}}" ;;
    *\"die\"*) echo "out of paper" >&2; exit 3 ;;
    *tools/call*) echo "{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"hi from $HOME as $(id -u) with ${#KEY}\"}]}}" ;;
    *\"id\"*) echo "{\"jsonrpc\":\"2.0\",\"id\":$id,\"error\":{\"code\":-32601,\"message\":\"no such method\"}}" ;;
  esac
done"#;

#[test]
fn an_mcp_server_runs_in_a_container() {
    let Some(dockerd) = Dockerd::new("containers_mcp") else { return };
    let args = json!(["-c", SERVER]);
    let mut home = Home::new("box").with_config(&format!(
        "[mcp_servers.box]\nimage = \"{IMAGE}\"\ncommand = \"sh\"\nargs = {args}\nenv = {{ KEY = {{ secret = \"key\" }} }}\n"
    ));
    home.set_env("DOCKER_HOST", &dockerd.host());
    fs::create_dir_all(home.path("secrets")).unwrap();
    fs::write(home.path("secrets/key"), "hunter2-hunter2\n").unwrap();
    fs::set_permissions(home.path("secrets/key"), Permissions::from_mode(0o600)).unwrap();
    home.start();
    wait_state(&home, "ready");
    let shown = provider(&home);
    assert_eq!((text(&shown, "kind"), text(&shown, "tier"), text(&shown, "level")), ("mcp", "container", "container"));
    wait_until("its tools are known", PATIENCE, || home.tool("node:box:box.hi").is_some());
    assert_eq!(call(&home, "box.hi")["output"], "hi from /tmp as 65534 with 15");
    assert_eq!(dockerd.ours().len(), 1);
    // It ends in the middle: nobody knows what happened, and it comes back.
    let died = call(&home, "box.die");
    assert_eq!(text(&died, "state"), "interrupted", "{died}");
    wait_until("it is back", SLOWLY, || text(&call(&home, "box.hi"), "state") == "done");
    assert_eq!(dockerd.ours().len(), 1);
    assert!(home.log().contains("exit code 3") && home.log().contains("out of paper"), "{}", home.log());
    home.stop();
    wait_until("no container is left", SLOWLY, || dockerd.ours().is_empty());
    assert!(dockerd.neighbour_runs());
}

/// Times of ours beside those of the engine alone, with the same options, in one run. By hand: `--ignored --nocapture`.
#[test]
#[ignore = "prints figures"]
fn figures_of_cold_and_warm_starts_beside_the_engine_alone() {
    let dockerd = Dockerd::new("figures").expect("an engine");
    let home = tempfile::tempdir().unwrap();
    let manifest = manifest("", &tool("run", "true"));
    let config = ContainerConfig::from_manifest(&sigil::plugin::read(&manifest).unwrap().plugin).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let tasks = TaskGroup::default();
    runtime.block_on(async {
        let helper = Helper::install(&home.path().join("run"), None).unwrap();
        let engine =
            Engine::start(home.path(), "1", vec![dockerd.socket()], helper, Proxy::start(&tasks).0, &tasks).unwrap();
        engine.state().wait_for(|state| matches!(state, EngineState::Ready(_))).await.unwrap();
        let image = engine.image(&config.image).await.unwrap().unwrap();
        let order = Order { config, image, provider: "box".to_owned() };
        let docker = dockerd.docker().unwrap();
        let raw = || ContainerCreateBody {
            image: Some(IMAGE.to_owned()),
            entrypoint: Some(vec!["/bin/true".to_owned()]),
            user: Some("65534:65534".to_owned()),
            network_disabled: Some(true),
            host_config: Some(HostConfig {
                network_mode: Some("none".to_owned()),
                readonly_rootfs: Some(true),
                cap_drop: Some(vec!["ALL".to_owned()]),
                security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
                pids_limit: Some(256),
                memory: Some(64 << 20),
                memory_swap: Some(64 << 20),
                nano_cpus: Some(1_000_000_000),
                ipc_mode: Some("none".to_owned()),
                tmpfs: Some(
                    ["/tmp", "/data"]
                        .map(|dir| (dir.to_owned(), "rw,noexec,nosuid,nodev,size=67108864".to_owned()))
                        .into(),
                ),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let run_in = async |instance: &sigil::runtime::container::Instance| {
            let command =
                sigil::runtime::container::Command { program: vec!["/bin/true".to_owned()], env: BTreeMap::default() };
            let exec = engine.exec(instance, command).await.unwrap();
            let mut spool = Spool::new(&NoBlobs, OutputLimits { inline: 65_536, total: 65_536 });
            let bounds = Bounds { time: Duration::from_secs(10), memory: 64 << 20 };
            let cancel = CancellationToken::new();
            let outcome =
                run(exec, bounds, Bytes::from_static(b"{}"), Arc::default(), &cancel, &mut spool, |_| ()).await;
            assert_eq!(outcome.end, RunEnd::Done);
        };
        let (mut raw_cold, mut cold, mut warm, mut plain) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for round in 0..21 {
            let began = now();
            let name = format!("raw-{round}");
            let options = CreateContainerOptionsBuilder::new().name(&name).build();
            docker.create_container(Some(options), raw()).await.unwrap();
            docker.start_container(&name, None::<StartContainerOptions>).await.unwrap();
            let mut ended = docker.wait_container(&name, None::<bollard::query_parameters::WaitContainerOptions>);
            while let Some(ended) = ended.next().await {
                ended.unwrap();
            }
            raw_cold.push(began.elapsed());
            docker.remove_container(&name, None::<bollard::query_parameters::RemoveContainerOptions>).await.unwrap();

            let began = now();
            let instance = engine.start(&order).await.unwrap();
            run_in(&instance).await;
            cold.push(began.elapsed());
            for _ in 0..10 {
                let began = now();
                run_in(&instance).await;
                warm.push(began.elapsed());
                let began = now();
                assert!(tokio::process::Command::new("/bin/true").status().await.unwrap().success());
                plain.push(began.elapsed());
            }
            engine.stop(instance).await;
        }
        for (name, times) in [
            ("engine alone: create, start, wait", &raw_cold),
            ("ours, cold: start, command, end", &cold),
            ("ours, waiting: command, end", &warm),
            ("/bin/true as a process", &plain),
        ] {
            let mut sorted = times.clone();
            sorted.sort();
            let at = |part: usize| sorted[sorted.len() * part / 10];
            eprintln!("{name:36} n={:3} p10={:8.2?} p50={:8.2?} p90={:8.2?}", sorted.len(), at(1), at(5), at(9));
        }
    });
    runtime.block_on(tasks.shutdown(Duration::from_secs(3)));
    eprintln!("load {}", fs::read_to_string("/proc/loadavg").unwrap().trim());
}
