//! A container as the engine is told to make it: the same for all, but for what a manifest may choose. Each option was measured
//! (`docs/decisions/0124`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountType, ResourcesUlimits,
    RestartPolicy, RestartPolicyNameEnum,
};
use sigil_shim::wire::{CONTAINER, CONTAINER_DIR, CONTAINER_SHIM, Network, TEMP_DIR};

use super::facts::Order;
use crate::plugin::{ContainerConfig, NetworkMode, User};

/// The label that holds whose containers they are: [`Marks::home`].
pub(super) const HOME_LABEL: &str = "sigil.home";
/// The label of the agent's start.
const BOOT_LABEL: &str = "sigil.boot";
/// The label of the plugin.
const PROVIDER_LABEL: &str = "sigil.provider";
/// Open files of a process, and processes of a user: no process can raise them.
const OPEN_FILES: i64 = 1_024;
const PROCESSES: i64 = 4_096;
/// Containers are ended before what the machine needs more, when its memory runs out.
const OOM_SCORE: i64 = 500;

/// Labels of the containers of this agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marks {
    /// Of this home, on this machine.
    pub(super) home: String,
    /// Of this start of the agent.
    pub(super) boot: String,
}

/// What is bound into a container, as it is called outside.
#[derive(Debug, Clone)]
pub(super) struct Bound {
    /// The helper.
    pub(super) shim: PathBuf,
    /// The directory with the socket.
    pub(super) dir: PathBuf,
    /// `/etc/hosts`, and `/etc/resolv.conf`: with a network of the device these are the engine's.
    pub(super) hosts: PathBuf,
    pub(super) resolv: PathBuf,
    /// What the manifest asks for, with all links followed.
    pub(super) read: Vec<(PathBuf, PathBuf)>,
    pub(super) write: Vec<(PathBuf, PathBuf)>,
}

/// The order for an engine.
pub(super) fn body(order: &Order, marks: &Marks, bound: &Bound, is_podman: bool) -> ContainerCreateBody {
    let Order { config, image, provider } = order;
    let has_network = config.network == NetworkMode::Host;
    let (user, owner) = match config.user {
        User::Ids(uid, gid) => (Some(format!("{uid}:{gid}")), format!("uid={uid},gid={gid}")),
        // Whom the image means is not known here.
        User::OfImage => (None, "mode=1777".to_owned()),
    };
    let in_memory = format!("rw,noexec,nosuid,nodev,size={},{owner}", config.tmp_size);
    let places = image.volumes.iter().map(String::as_str).chain([TEMP_DIR]);
    let mut mounts = vec![mount(&bound.shim, CONTAINER_SHIM, true), mount(&bound.dir, CONTAINER_DIR, true)];
    if !has_network {
        mounts.extend([mount(&bound.hosts, "/etc/hosts", true), mount(&bound.resolv, "/etc/resolv.conf", true)]);
    }
    let told = |(from, to): &(PathBuf, PathBuf), read_only| mount(from, &to.to_string_lossy(), read_only);
    mounts.extend(bound.read.iter().map(|paths| told(paths, true)));
    mounts.extend(bound.write.iter().map(|paths| told(paths, false)));
    let memory = i64::try_from(config.memory_limit).unwrap_or(i64::MAX);
    let limit =
        |name: &str, most: i64| ResourcesUlimits { name: Some(name.to_owned()), soft: Some(most), hard: Some(most) };
    let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    ContainerCreateBody {
        image: Some(image.id.clone()),
        entrypoint: Some(vec![CONTAINER_SHIM.to_owned()]),
        cmd: Some(vec![CONTAINER.to_owned(), network_word(config).to_owned()]),
        user,
        hostname: (!has_network).then(|| "sigil".to_owned()),
        labels: Some(HashMap::from([
            label(HOME_LABEL, &marks.home),
            label(BOOT_LABEL, &marks.boot),
            label(PROVIDER_LABEL, provider),
        ])),
        // Podman has systemd look at it, which is not everywhere.
        healthcheck: (!is_podman)
            .then(|| HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
        network_disabled: Some(!has_network),
        attach_stdin: Some(false),
        attach_stdout: Some(false),
        attach_stderr: Some(false),
        open_stdin: Some(false),
        stop_timeout: Some(1),
        host_config: Some(HostConfig {
            network_mode: Some(if has_network { "host" } else { "none" }.to_owned()),
            readonly_rootfs: Some(true),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
            pids_limit: Some(config.pids_limit.into()),
            memory: Some(memory),
            memory_swap: Some(memory),
            nano_cpus: Some(i64::from(config.cpu_limit) * 1_000_000),
            ipc_mode: Some(if config.shm_size > 0 { "private" } else { "none" }.to_owned()),
            shm_size: (config.shm_size > 0).then(|| i64::try_from(config.shm_size).unwrap_or(i64::MAX)),
            log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
            oom_score_adj: Some(OOM_SCORE),
            restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
            auto_remove: Some(false),
            init: Some(false),
            privileged: Some(false),
            ulimits: Some(vec![limit("nofile", OPEN_FILES), limit("core", 0), limit("nproc", PROCESSES)]),
            tmpfs: Some(places.map(|place| (place.to_owned(), in_memory.clone())).collect()),
            mounts: Some(mounts),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

/// The word by which the helper knows which sockets a tool may make. One that speaks gRPC listens on its own loopback, which is all
/// the network that its container has.
fn network_word(config: &ContainerConfig) -> &'static str {
    let network = match (config.network, config.grpc_port) {
        (NetworkMode::None, None) => Network::None,
        (NetworkMode::Restricted, _) => Network::Restricted,
        (NetworkMode::None, Some(_)) | (NetworkMode::Host, _) => Network::Host,
    };
    network.as_str()
}

/// A bind of something that is there: the engine makes no directories for us.
fn mount(from: &Path, to: &str, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(from.to_string_lossy().into_owned()),
        target: Some(to.to_owned()),
        read_only: Some(read_only),
        ..Mount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::{ContainerConfig, read};
    use crate::runtime::container::facts::ImageFacts;

    fn order(more: &str) -> Order {
        let text = format!("name: x\nexecution:\n  tier: container\n  image: a/b:1\n{more}tools: [{{ name: run }}]\n");
        let config = ContainerConfig::from_manifest(&read(&text).unwrap().plugin).unwrap();
        let image = ImageFacts { id: "sha256:1".to_owned(), command: Vec::new(), volumes: vec!["/data".to_owned()] };
        Order { config, image, provider: "x".to_owned() }
    }

    fn made(order: &Order) -> serde_json::Value {
        let marks = Marks { home: "h".to_owned(), boot: "b".to_owned() };
        let bound = Bound {
            shim: "/s".into(),
            dir: "/d".into(),
            hosts: "/h".into(),
            resolv: "/r".into(),
            read: vec![("/real".into(), "/srv".into())],
            write: Vec::new(),
        };
        serde_json::to_value(body(order, &marks, &bound, false)).unwrap()
    }

    #[test]
    fn a_container_has_no_more_than_its_manifest_asks_for() {
        let made = made(&order("  memory_limit: 32Mi\n  pids_limit: 7\n  cpu_limit: 500m\n"));
        assert_eq!(
            (&made["NetworkDisabled"], &made["User"], &made["Image"]),
            (&true.into(), &"65534:65534".into(), &"sha256:1".into())
        );
        assert_eq!(made["Labels"]["sigil.home"], "h");
        let host = &made["HostConfig"];
        for (key, value) in [
            ("NetworkMode", serde_json::json!("none")),
            ("ReadonlyRootfs", true.into()),
            ("CapDrop", serde_json::json!(["ALL"])),
            ("SecurityOpt", serde_json::json!(["no-new-privileges:true"])),
            ("PidsLimit", 7.into()),
            ("Memory", (32 << 20).into()),
            ("MemorySwap", (32 << 20).into()),
            ("NanoCpus", 500_000_000.into()),
            ("IpcMode", "none".into()),
            ("Privileged", false.into()),
        ] {
            assert_eq!(host[key], value, "{key}");
        }
        // What the image would write to disk is in memory, as its /tmp is.
        assert!(host["Tmpfs"]["/data"].as_str().unwrap().contains("noexec,nosuid,nodev,size=67108864,uid=65534"));
        assert_eq!(host["Tmpfs"]["/data"], host["Tmpfs"]["/tmp"]);
        let targets: Vec<_> = host["Mounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| (one["Target"].as_str().unwrap(), one["ReadOnly"].as_bool().unwrap()))
            .collect();
        assert_eq!(
            targets,
            [
                ("/.sigil-shim", true),
                ("/.sigil", true),
                ("/etc/hosts", true),
                ("/etc/resolv.conf", true),
                ("/srv", true)
            ]
        );
        assert_eq!(made["Env"], serde_json::Value::Null, "nothing of the environment passes the engine");
    }

    #[test]
    fn only_one_that_says_so_has_the_network_of_the_device() {
        let restricted = made(&order("  network: restricted\n  egress: [a.example]\n"));
        assert_eq!(
            (&restricted["NetworkDisabled"], &restricted["HostConfig"]["NetworkMode"]),
            (&true.into(), &"none".into())
        );
        let host = made(&order("  network: host\n  user: image\n  shm_size: 1Mi\n"));
        assert_eq!((&host["NetworkDisabled"], &host["HostConfig"]["NetworkMode"]), (&false.into(), &"host".into()));
        assert_eq!((&host["User"], &host["HostConfig"]["IpcMode"]), (&serde_json::Value::Null, &"private".into()));
        assert!(host["HostConfig"]["Tmpfs"]["/tmp"].as_str().unwrap().ends_with("mode=1777"));
    }
}
