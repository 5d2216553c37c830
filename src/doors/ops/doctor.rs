//! The health of this device's part of the mesh: what is wrong, and what to do about it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use memory_models::BUILT_IN;
use memory_models::catalogue::MODELS;
use mesh_core::budget::OverBudget;
use mesh_core::ids::PeerId;
use mesh_core::io::{DiskSpace, Halt, NodeView, StoppedLog, View};
use mesh_core::policy::Mode;
use mesh_core::record::Tier;
use mesh_core::tailnet::Untagged;
use nix::sys::statvfs::FsFlags;

use super::devices::{is_online, name_of};
use super::policy::conflicts_to_end;
use super::tools;
use crate::doors::DoorState;
use crate::doors::settings::Settings;
use crate::memory::{Meaning, MemoryHandle, ModelFiles, models_of};
use crate::mesh::MeshHandle;
use crate::mesh::Surroundings;
use crate::mesh::clock::{now, rfc3339};
use crate::mesh::disk_room::disk_space;
use crate::mesh::transport::lan::Discovery;
use crate::mesh::transport::{Address, LinkInfo, UnderlayKind};
use crate::ownership;
use crate::runtime::container::EngineState;
use crate::runtime::sandbox::Offered;
use crate::status::{ErrorCode, OpError};

/// Edits in two halves that are told one by one; of more only the number is.
const CONFLICTS_TOLD_MAX: usize = 4;

/// Severity of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Ok,
    /// It works, but should not stay so.
    Warn,
    /// Something does not work.
    Error,
}

impl Severity {
    /// The word for it in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// A thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Stable word.
    pub id: &'static str,
    /// Severity.
    pub severity: Severity,
    /// Finding.
    pub cause: String,
    /// Next step; `None` when all is as it should be.
    pub fix: Option<String>,
}

impl Check {
    fn ok(id: &'static str, cause: impl Into<String>) -> Self {
        Self { id, severity: Severity::Ok, cause: cause.into(), fix: None }
    }

    fn warn(id: &'static str, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { id, severity: Severity::Warn, cause: cause.into(), fix: Some(fix.into()) }
    }

    fn error(id: &'static str, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { severity: Severity::Error, ..Self::warn(id, cause, fix) }
    }
}

/// Looks at the mesh, at the settings, at the files of `home` and at the machine. The checks are in a fixed order.
///
/// # Errors
/// The thread that looks ended early.
pub async fn examine(
    mesh: &MeshHandle,
    memory: &MemoryHandle,
    settings: &Settings,
    sandbox: Option<Arc<Offered>>,
    home: &Path,
) -> Result<Vec<Check>, OpError> {
    let (view, around, settings, home) = (mesh.view(), mesh.surroundings(), settings.clone(), home.to_owned());
    let model = memory.meaning().and_then(model_at_work);
    let full = memory.full();
    tokio::task::spawn_blocking(move || {
        let mut checks = checks(&view, &around, &settings, &home);
        checks.push(sandbox_of_tools(sandbox.as_deref()));
        checks.extend(model);
        checks.extend(full.iter().map(|peer| memory_is_full(peer, &view)));
        checks
    })
    .await
    .map_err(|error| OpError::new(ErrorCode::Internal, error.to_string()))
}

/// Looks at the files of a home and at the machine: all that can be said without an agent. `free_min`: bytes that must
/// be free on its disk, as its settings say.
#[must_use]
pub fn examine_home(home: &Path, free_min: Option<u64>) -> Vec<Check> {
    let mut checks = vec![home_modes(home)];
    checks.extend(hands(home));
    checks.extend([disk(home, free_min), clock(), files(), model(home)]);
    checks
}

fn checks(view: &Arc<View>, around: &Surroundings, settings: &Settings, home: &Path) -> Vec<Check> {
    let mut checks =
        vec![membership(view), gateway(view), links(view), relays(view, around), discovery(around), tailnet(around)];
    checks.extend(examine_home(home, settings.loaded().free_min));
    let found = settings.findings(home);
    if found.is_empty() {
        checks.push(Check::ok("settings", "the settings that run are those of sigil.toml"));
    }
    checks.extend(found.into_iter().map(|(what, press)| Check::warn("settings", what, press)));
    checks.extend(attention(view).into_iter().map(|(what, press)| Check::error("attention", what, press)));
    checks
}

/// A device of which no more memory is taken here.
fn memory_is_full(peer: &PeerId, view: &View) -> Check {
    let name = name_of(view, peer).unwrap_or_else(|| peer.short());
    let what = format!("no more memory of {name} is taken: it has used up its share of the room on this device");
    let press = format!("if {name} should not write so much: `sigil forget {name} --with-their-guests`");
    Check::warn("memory", what, press)
}

/// Next step by which a log that is stopped here goes on.
fn next_step_of(stopped: &StoppedLog, view: &View) -> String {
    let name = name_of(view, &stopped.peer).unwrap_or_else(|| stopped.peer.short());
    let is_owner = view.by_peer(&stopped.peer).is_some_and(|node| node.tier == Tier::Owner);
    let next = match (&stopped.over, stopped.until_ms) {
        (OverBudget::Disk, _) => return "make room on this device's disk, or set `storage.free_min` lower".to_owned(),
        (OverBudget::EntryBytes(_), _) => "update sigil on that device".to_owned(),
        (_, Some(until_ms)) => format!("it goes on at {}", rfc3339(until_ms)),
        (_, None) if is_owner => "it goes on when that device has dropped its older entries: let it run".to_owned(),
        (_, None) => format!("if it should write that much, make it an owner: `sigil approve {name} --tier owner`"),
    };
    format!("{next}; if it should not write that much, `sigil forget {name}`")
}

/// Findings that a person must act on before the mesh works as it should, each with the next step.
#[must_use]
pub fn attention(view: &Arc<View>) -> Vec<(String, String)> {
    let named = |peer: &PeerId| name_of(view, peer).unwrap_or_else(|| peer.short());
    let mut found: Vec<(String, String)> = Vec::new();
    for again in &view.awaiting_reapproval {
        let why = again.why();
        if again.peer == view.me {
            let press = format!("on an owner's device: `sigil approve {}`", again.peer.short());
            found.push((format!("this device awaits re-approval, and nothing it asks for runs: {why}"), press));
        } else {
            let press = format!("`sigil approve {0}` or `sigil reject {0}`", again.peer.short());
            found.push((format!("`{}` awaits re-approval: {why}", again.node_id), press));
        }
    }
    for node in &view.nodes {
        let name = &node.node_id;
        if let Some(wanted) = &node.asks {
            let press =
                format!("`sigil rename {name} {wanted}` on an owner's device gives it that name, if it should have it");
            found.push((format!("`{name}` asks to be called `{wanted}`"), press));
        } else if !node.confirmed && view.rights.mode() == Mode::Workspaces {
            let press = format!("`sigil rename {name} {name}` on an owner's device confirms it, or gives it another");
            found.push((format!("`{name}` named itself, so that rules which name devices give it nothing"), press));
        }
    }
    found.extend(conflicts_to_end(view, CONFLICTS_TOLD_MAX));
    let waits = tools::pending(view);
    for node in &view.nodes {
        let names: Vec<&str> =
            waits.iter().filter(|waits| waits.peer == node.peer).map(|waits| waits.tool.name.as_str()).collect();
        if let Some((first, rest)) = names.split_first() {
            let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
            let what = format!("`{}` has added or changed `{first}`{more}: nobody can use that yet", node.node_id);
            let press = format!("`sigil pending` shows it; `sigil approve {} --tools` approves it", node.node_id);
            found.push((what, press));
        }
    }
    found.extend(view.nodes.iter().filter_map(|node| untagged(node, view)));
    for halt in &view.halts {
        let press = match halt {
            Halt::Unknown { .. } => "update sigil on this device",
            Halt::Copied => "remove `identity.key` from the copy's home and join it again as a device of its own",
        };
        found.push((format!("this device neither becomes gateway nor starts calls: {halt}"), press.to_owned()));
    }
    for peer in &view.copied {
        let press = "stop one of them, remove `identity.key` from its home, and join it again as a device of its own";
        found.push((format!("`{}` runs twice under one key, and gets no calls", named(peer)), press.to_owned()));
    }
    for stopped in &view.stopped {
        found.push((format!("`{}`: {stopped}", named(&stopped.peer)), next_step_of(stopped, view)));
    }
    if let Some(DiskSpace { free, floor }) = view.disk {
        let what = format!(
            "the disk of this device is nearly full ({} MiB free, and new work needs {}): no call is accepted or begun here",
            free >> 20,
            floor >> 20
        );
        found.push((what, "make room on it, or set `storage.free_min` lower".to_owned()));
    }
    for peer in &view.forked {
        let press = format!("if it was restored from a backup, restart it; if not, `sigil forget {}`", peer.short());
        found.push((format!("`{}` signed two conflicting log entries", named(peer)), press));
    }
    found
}

/// A device that was let in for a tag of the tailnet, which does not count now.
fn untagged(node: &NodeView, view: &View) -> Option<(String, String)> {
    let (of, why) = (node.of.as_ref()?, node.untagged?);
    let name = if node.peer == view.me { "this device".to_owned() } else { format!("`{}`", node.node_id) };
    let what = format!(
        "{name} was let in for `{}` of the tailnet {}, and {}: no call from it or for it begins",
        of.tag,
        of.tailnet,
        why.sentence()
    );
    let again = match why {
        Untagged::NoTag => "give its node the tag back in the admin console of the tailnet",
        Untagged::KeyEnded => "`tailscale up --force-reauth` there",
        Untagged::NoNode => "`tailscale up` there, if it is to be in the tailnet",
    };
    let tier = match node.tier {
        Tier::Owner => "owner",
        Tier::Shared | Tier::Ephemeral => "shared",
    };
    let name = &node.node_id;
    let press = format!("{again}; or `sigil approve {name} --tier {tier}` on an owner's device, then it needs no tag");
    Some((what, press))
}

/// Findings that a person must know at a glance: revocation, no gateway, what [`attention`] finds, trouble with
/// discovery, a model that fails, settings that do not run. Each with the next step.
#[must_use]
pub fn warnings(
    view: &Arc<View>,
    around: &Surroundings,
    memory: &MemoryHandle,
    settings: &Settings,
    home: &Path,
) -> Vec<String> {
    let mut warnings = Vec::new();
    if view.revoked {
        warnings.push("this device has been revoked; `sigil leave` starts afresh".to_owned());
    } else if view.gateway.is_none() {
        warnings.push("no gateway elected; calls are accepted and queued here until there is one".to_owned());
    }
    warnings.extend(attention(view).into_iter().map(|(what, press)| format!("{what}; {press}")));
    if let Discovery::Trouble(trouble) = &around.discovery {
        warnings.push(format!("finding devices on the local network does not work: {trouble}"));
    }
    if let (told, Some(step)) = around.tailnet.told(now().wall_ms) {
        warnings.push(format!("{told}; {step}"));
    }
    if let Some(why) = memory.meaning().and_then(Meaning::trouble) {
        warnings.push(format!("{}; {MODEL_FIX}", model_fails(&why)));
    }
    warnings.extend(settings.findings(home).into_iter().map(|(what, press)| format!("{what}; {press}")));
    warnings
}

fn membership(view: &View) -> Check {
    if view.revoked {
        return Check::error(
            "membership",
            "this device has been revoked: no member of its mesh talks to it, and what it shows of the others is as of then",
            "`sigil leave` starts afresh; then an owner may let it in again, with a code of `sigil invite`",
        );
    }
    let owners = view.nodes.iter().filter(|node| node.tier == Tier::Owner).count();
    ownership(view.nodes.len(), owners)
}

/// The finding on so many owners of so many members.
fn ownership(members: usize, owners: usize) -> Check {
    match (members, owners) {
        (n, 0) => Check::error(
            "membership",
            format!("{n} devices, and none of them is an owner: nobody can be gateway, approve or revoke devices"),
            "`sigil leave` on each of them starts afresh; then join them anew with `sigil invite`",
        ),
        (1, _) => Check::ok("membership", "a mesh of one; `sigil invite` makes a code for another device"),
        (n, 1) => Check::warn(
            "membership",
            format!("{n} devices, but only one owner: if it is lost, nobody can approve or revoke devices"),
            "approve a second device as owner: `sigil approve NODE --tier owner`",
        ),
        (n, owners) => Check::ok("membership", format!("{n} devices, {owners} of them owners")),
    }
}

fn gateway(view: &View) -> Check {
    match view.gateway {
        Some(epoch) if epoch.peer == view.me => Check::ok("gateway", format!("this device, epoch {}", epoch.counter)),
        Some(epoch) => {
            let name = name_of(view, &epoch.peer).unwrap_or_else(|| epoch.peer.short());
            Check::ok("gateway", format!("`{name}`, epoch {}", epoch.counter))
        }
        None => Check::warn(
            "gateway",
            "no gateway elected: calls are queued",
            "a new one is elected within seconds; if not, switch on a device that may become gateway",
        ),
    }
}

fn links(view: &View) -> Check {
    let others = view.nodes.iter().filter(|node| node.peer != view.me).count();
    let online = view.nodes.iter().filter(|node| node.peer != view.me && is_online(view, node)).count();
    if others > 0 && view.links.is_empty() {
        return Check::warn(
            "links",
            format!("none of the {others} other devices can be reached"),
            "see that they are on and that UDP is not blocked between you and them",
        );
    }
    Check::ok("links", format!("{} links; {online} of {others} other devices online", view.links.len()))
}

/// The reason for which the link to this peer is relayed or over a tailnet, and what helps.
#[must_use]
pub fn why_not_direct(view: &View, peer: &PeerId) -> String {
    let name = name_of(view, peer).unwrap_or_else(|| peer.short());
    let told = view.by_peer(peer).and_then(|node| node.directory.as_ref()).map_or(&[][..], |record| &record.addresses);
    let is_direct = |text: &&String| matches!(Address::from(text.as_str()), Address::Udp(_) | Address::UdpName(_));
    match told.iter().find(is_direct) {
        None => format!("`{name}` tells no address; see that its agent may listen on UDP"),
        Some(first) => format!(
            "`{name}` does not answer at {first}; let UDP through to that port on the way between the two, such as a \
             router or a firewall. It is tried again by itself"
        ),
    }
}

/// Links that go by other devices or over the tailnet, and such as would if a device relayed.
fn relays(view: &View, around: &Surroundings) -> Check {
    let name = |peer: &PeerId| name_of(view, peer).unwrap_or_else(|| peer.short());
    let way = |info: &LinkInfo| match info.underlay {
        UnderlayKind::Udp => None,
        UnderlayKind::Tailnet => Some("over the tailnet".to_owned()),
        UnderlayKind::TailnetEmbedded => {
            Some("over the tailnet by a node in a program, which is slow (`tailscaled` on both does better)".to_owned())
        }
        UnderlayKind::Relay => info.relays.first().map(|relay| format!("by `{}`", name(relay))),
    };
    let indirect: Vec<String> = around
        .links
        .iter()
        .filter_map(|info| Some((info.peer, way(info)?)))
        .map(|(peer, way)| format!("`{}` is reached {way}: {}", name(&peer), why_not_direct(view, &peer)))
        .collect();
    let gateway = view.gateway.map(|epoch| epoch.peer).filter(|gateway| *gateway != view.me);
    if let Some(gateway) = gateway.filter(|gateway| !view.links.contains(gateway)) {
        return match view.relays.get(&gateway).and_then(|relays| relays.first()) {
            Some(relay) => Check::warn(
                "relays",
                format!("the gateway `{}` is not linked; `{}` is asked to relay", name(&gateway), name(relay)),
                "wait a few seconds; if it stays so, see that both are on and run the same version",
            ),
            None => Check::warn(
                "relays",
                format!("the gateway `{}` is not linked, and no device that is linked to both relays", name(&gateway)),
                "calls for this device wait until another leads; `relay.offer = \"always\"` on a device of an owner that \
                 reaches both makes it relay",
            ),
        };
    }
    match indirect.as_slice() {
        [] => Check::ok("relays", "every link is direct"),
        indirect => Check::ok("relays", indirect.join("; ")),
    }
}

fn discovery(around: &Surroundings) -> Check {
    match &around.discovery {
        Discovery::Trouble(trouble) => Check::warn(
            "discovery",
            format!("devices on the local network are not found by themselves: {trouble}"),
            "see that it is on a network and that multicast (mDNS, UDP 5353) is allowed there; or join with a code or \
             an address; known devices are still reconnected",
        ),
        Discovery::Off => {
            Check::ok("discovery", "it is switched off (`discovery.lan`): devices join by a code or an address")
        }
        Discovery::Working => Check::ok(
            "discovery",
            format!("{} strangers nearby, {} await approval", around.nearby.len(), around.pending.len()),
        ),
    }
}

/// What keeps tools from doing more than they should.
fn sandbox_of_tools(offered: Option<&Offered>) -> Check {
    let Some(offered) = offered else {
        return Check::ok("sandbox", "what this device offers as a sandbox of tools is being tested");
    };
    let open: Vec<&str> =
        offered.gaps.iter().filter(|gap| gap.is_closed_at(offered.level)).map(|gap| gap.as_str()).collect();
    if !open.is_empty() {
        let cause = format!("{offered}: a tool at that level gets through where it should not ({})", open.join(", "));
        return Check::warn(
            "sandbox",
            cause,
            "let nothing run on this device that you do not trust, and update its kernel",
        );
    }
    match &offered.why_no_more {
        None => Check::ok("sandbox", offered.to_string()),
        Some(why) => Check::ok("sandbox", format!("{offered}; not more, because: {why}")),
    }
}

/// What runs containers of tools. One that is absent is no fault of a device: a plugin that needs it says so itself.
#[must_use]
pub fn containers(engine: &EngineState) -> Check {
    match engine {
        EngineState::Looking => Check::ok("containers", "a container engine is being looked for"),
        EngineState::Absent { why, fix } => {
            Check::ok("containers", format!("no container engine is used: {why}; tools in containers need it ({fix})"))
        }
        EngineState::Ready(facts) if facts.warnings.is_empty() => Check::ok("containers", facts.to_string()),
        EngineState::Ready(facts) => Check::warn(
            "containers",
            format!("{facts} warns: {}", facts.warnings.join("; ")),
            "let nothing run in containers on this device that you do not trust, or have its kernel keep these limits",
        ),
        EngineState::Gone { why } => Check::warn(
            "containers",
            format!("the container engine is gone: {why}; what runs goes on, and tools in containers wait for it"),
            "`systemctl status docker` says why; it is taken up again by itself",
        ),
    }
}

/// The tailnet of this machine.
fn tailnet(around: &Surroundings) -> Check {
    match around.tailnet.told(now().wall_ms) {
        (told, Some(step)) => Check::warn("tailnet", told, step),
        (told, None) => Check::ok("tailnet", told),
    }
}

/// The door on the tailnet; `None` where the settings do not ask for one.
#[must_use]
pub fn tailnet_door(state: &DoorState) -> Option<Check> {
    Some(match state {
        DoorState::Off => return None,
        DoorState::Waits => {
            Check::ok("tailnet_door", "the door on the tailnet is closed until the tailnet works".to_owned())
        }
        DoorState::Open(url) => Check::ok(
            "tailnet_door",
            format!("the door on the tailnet is {url}, for people with a login (`sigil person login PERSON LOGIN`)"),
        ),
        DoorState::Failed(why) => Check::warn(
            "tailnet_door",
            format!("the door on the tailnet cannot be opened: {why}"),
            "give sigil a port that is free there: `listen.http_port` in sigil.toml, then `sigil down` and `sigil up`",
        ),
    })
}

/// The device key must be readable by its owner only, whatever else of the home others may read.
fn home_modes(home: &Path) -> Check {
    let key = home.join("identity.key");
    match std::fs::metadata(&key) {
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => Check::error(
            "identity",
            format!("other users may read {}", key.display()),
            format!("chmod 600 {}", key.display()),
        ),
        Ok(_) => Check::ok("identity", "the device key is readable by its owner only"),
        Err(_) if !home.join("store").exists() => Check::ok("identity", "no device key yet: the first start makes one"),
        Err(error) => Check::error(
            "identity",
            format!("{}: {error}", key.display()),
            "restore the home from a backup: without its key this device is a new one after the next start",
        ),
    }
}

/// Who else could change what lies in the home.
fn hands(home: &Path) -> Vec<Check> {
    let inside = ownership::findings(home);
    let above = ownership::above(home);
    if inside.is_empty() && above.is_empty() {
        return vec![Check::ok("hands", "nobody else may change what lies in the home")];
    }
    let inside = inside.into_iter().map(|finding| Check::error("hands", finding.cause, finding.fix));
    inside.chain(above.into_iter().map(|finding| Check::warn("hands", finding.cause, finding.fix))).collect()
}

/// Bytes above the floor of free space below which a warning is due: 512 MiB, a day of a busy mesh.
const LOW_AHEAD: u64 = 512 << 20;

/// Free space, beside what new work needs (`free_min`, or by the size of the file system).
fn disk(home: &Path, free_min: Option<u64>) -> Check {
    let read_only = nix::sys::statvfs::statvfs(home).is_ok_and(|stat| stat.flags().contains(FsFlags::ST_RDONLY));
    if read_only {
        return Check::error(
            "disk",
            format!("the file system of {} is mounted read-only", home.display()),
            "mount it for writing: `mount -o remount,rw …`; if the kernel made it so, look for errors of the disk",
        );
    }
    match disk_space(home, free_min) {
        Ok(space) => room(space, home),
        Err(error) => Check::warn("disk", format!("{}: {error}", home.display()), "see that the home is mounted"),
    }
}

fn room(DiskSpace { free, floor }: DiskSpace, home: &Path) -> Check {
    let fix = "free some space on that disk, or set `storage.free_min` lower";
    let text = format!("{} MiB free at {}; new work needs {}", free >> 20, home.display(), floor >> 20);
    if free < floor {
        Check::error("disk", text, fix)
    } else if free - floor < LOW_AHEAD {
        Check::warn("disk", text, fix)
    } else {
        Check::ok("disk", text)
    }
}

/// What memory is searched by. Nothing is wrong without a model.
fn model(home: &Path) -> Check {
    let files = ModelFiles::new(models_of(home));
    let told = match (BUILT_IN, files.in_use(), MODELS.first()) {
        (false, _, _) => "memory is searched by words: this program was built without models".to_owned(),
        (true, Some(entry), _) => format!("memory is searched by meaning, with {}", entry.name),
        (true, None, Some(entry)) => format!(
            "memory is searched by words; `sigil model pull` gets a model of {} MB ({}), and then by meaning as well",
            entry.bytes() / 1_000_000,
            entry.licence
        ),
        (true, None, None) => "memory is searched by words".to_owned(),
    };
    let told = match files.writer() {
        Some(entry) if BUILT_IN => format!("{told}; {} writes heads for summaries", entry.name),
        Some(_) | None => told,
    };
    Check::ok("model", told)
}

/// What went wrong with the model of a running agent.
fn model_at_work(meaning: &Meaning) -> Option<Check> {
    let why = meaning.trouble()?;
    Some(Check::warn("model", model_fails(&why), MODEL_FIX))
}

/// Next step when the model fails.
const MODEL_FIX: &str = "`sigil model verify` reads its files; it is tried again by itself";

fn model_fails(why: &str) -> String {
    format!("the model does not work, and memory is searched by words meanwhile: {why}")
}

/// Nothing is decided by the wall clock, but every time that people see comes from it.
fn clock() -> Check {
    /// 2026-01-01, before which no sigil existed.
    const EARLIEST_MS: u64 = 1_767_225_600_000;
    if now().wall_ms < EARLIEST_MS {
        return Check::warn("clock", "this device believes that it is before 2026", "set its clock, best by NTP");
    }
    Check::ok("clock", "the clock is plausible")
}

/// Each link, connection and tool takes some.
fn files() -> Check {
    const ENOUGH: u64 = 1024;
    match nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) {
        Ok((soft, _)) if soft < ENOUGH => Check::warn(
            "open_files",
            format!("this process may open {soft} files only"),
            "raise the limit: `ulimit -n 4096`, or LimitNOFILE= of its service",
        ),
        Ok((soft, _)) => Check::ok("open_files", format!("this process may open {soft} files")),
        Err(error) => Check::warn("open_files", error.to_string(), "see `ulimit -n`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_judged_by_what_new_work_needs() {
        let judged = |free, floor| room(DiskSpace { free, floor }, Path::new("/home")).severity;
        let floor = 500 << 20;
        assert_eq!(judged(floor - 1, floor), Severity::Error);
        assert_eq!(judged(floor, floor), Severity::Warn);
        assert_eq!(judged(floor + LOW_AHEAD, floor), Severity::Ok);
        let home = tempfile::tempdir().expect("a temp dir");
        assert_eq!(disk(home.path(), Some(u64::MAX)).severity, Severity::Error, "the file system has less");
    }

    #[test]
    fn a_mesh_without_an_owner_is_an_error_and_one_with_a_single_one_a_warning() {
        assert_eq!([ownership(1, 1), ownership(3, 2)].map(|check| check.severity), [Severity::Ok; 2]);
        assert_eq!(ownership(2, 1).severity, Severity::Warn);
        assert_eq!([ownership(2, 0), ownership(1, 0)].map(|check| check.severity), [Severity::Error; 2]);
    }

    #[test]
    fn a_key_that_others_may_read_is_an_error() {
        let home = tempfile::tempdir().unwrap();
        let key = home.path().join("identity.key");
        assert_eq!(home_modes(home.path()).severity, Severity::Ok);
        std::fs::create_dir(home.path().join("store")).unwrap();
        assert_eq!(home_modes(home.path()).severity, Severity::Error);
        std::fs::write(&key, "x").unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(home_modes(home.path()).severity, Severity::Error);
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(home_modes(home.path()).severity, Severity::Ok);
    }

    #[test]
    fn a_stopped_log_has_the_next_step_of_its_cause() {
        let net = mesh_core::test_kit::Net::of(2);
        let view = net.peer(0).view();
        let next = |n, over, until_ms| {
            let stopped = StoppedLog { peer: mesh_core::test_kit::id(n), at: 7, over, until_ms };
            next_step_of(&stopped, &view)
        };
        let room = next(1, OverBudget::Disk, None);
        assert!(room.starts_with("make room") && !room.contains("owner"), "{room}");
        let many = OverBudget::Log(mesh_core::budget::Amount::one(1));
        assert!(next(9, many, None).contains("--tier owner"), "a guest may become one");
        assert!(!next(1, many, None).contains("--tier owner"), "an owner is one");
        assert!(next(9, OverBudget::EntryBytes(9), None).starts_with("update sigil"));
        assert!(next(9, many, Some(0)).starts_with("it goes on at 1970"));
    }

    #[test]
    fn a_device_whose_memory_is_not_taken_is_named_with_what_removes_it() {
        let net = mesh_core::test_kit::Net::of(2);
        let view = net.peer(0).view();
        let known = mesh_core::test_kit::id(1);
        let check = memory_is_full(&known, &view);
        let name = name_of(&view, &known).expect("a member has a name");
        assert_eq!((check.id, check.severity), ("memory", Severity::Warn));
        assert!(check.cause.contains(&name), "{}", check.cause);
        assert!(check.fix.is_some_and(|press| press.contains(&format!("`sigil forget {name} "))));
        let stranger = mesh_core::test_kit::id(9);
        assert!(
            memory_is_full(&stranger, &view).cause.contains(&stranger.short()),
            "one that is gone has its short id"
        );
    }
}
