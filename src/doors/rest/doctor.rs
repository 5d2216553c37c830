//! What is wrong with this device's part of the mesh, and what to do about it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use mesh_core::io::View;
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::check_accept;
use super::model::{self, is_online, now_ms};
use super::problem::Problems;
use super::{DoctorCheck, Shared};
use crate::mesh::Surroundings;
use crate::status::{ErrorCode, Fault};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    /// As it should be.
    Ok,
    /// It works, but should not stay so.
    Warn,
    /// Something does not work.
    Error,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Check {
    /// Stable word.
    pub id: String,
    /// How bad it is.
    pub state: CheckState,
    /// What was found.
    pub cause: String,
    /// What to do; null when it is as it should be.
    pub fix: Option<String>,
}

impl Check {
    /// As it should be.
    pub fn ok(id: &str, cause: impl Into<String>) -> Self {
        Self { id: id.to_owned(), state: CheckState::Ok, cause: cause.into(), fix: None }
    }

    /// It works, but should not stay so.
    pub fn warn(id: &str, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { id: id.to_owned(), state: CheckState::Warn, cause: cause.into(), fix: Some(fix.into()) }
    }

    /// Something does not work.
    pub fn error(id: &str, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { state: CheckState::Error, ..Self::warn(id, cause, fix) }
    }
}

/// All checks.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Report {
    /// The worst of them.
    pub state: CheckState,
    /// In a fixed order.
    pub checks: Vec<Check>,
}

/// Looks for what is wrong, and says what to do.
#[utoipa::path(get, path = "/api/v1/doctor", operation_id = "getDoctor", tag = "operation",
    responses((status = 200, description = "What was found", body = Report), Problems))]
pub(super) async fn doctor(State(app): Shared, headers: HeaderMap) -> Result<Json<Report>, Fault> {
    check_accept(&headers, "application/json")?;
    let (view, around) = (app.mesh().view(), app.mesh().surroundings());
    let (home, more) = (app.context.home.clone(), app.context.checks.clone());
    let checks = tokio::task::spawn_blocking(move || examine(&view, &around, &home, &more))
        .await
        .map_err(|error| Fault::new(ErrorCode::Internal, error.to_string()))?;
    let state = checks.iter().map(|check| check.state).max().unwrap_or(CheckState::Ok);
    Ok(Json(Report { state, checks }))
}

fn examine(view: &View, around: &Surroundings, home: &Path, more: &[DoctorCheck]) -> Vec<Check> {
    let mut checks = vec![
        membership(view),
        gateway(view),
        links(view),
        discovery(around),
        home_modes(home),
        disk(home),
        clock(),
        files(),
    ];
    checks.extend(model::attention(view).into_iter().map(|(what, press)| Check::error("attention", what, press)));
    checks.extend(more.iter().map(|check| (check.0)()));
    checks
}

fn membership(view: &View) -> Check {
    if view.revoked {
        return Check::error(
            "membership",
            "this device has been revoked: nobody in its mesh talks to it",
            "`sigil leave` starts afresh; then join again with a new code",
        );
    }
    let owners = view.nodes.iter().filter(|node| node.tier == mesh_core::entry::Tier::Owner).count();
    match (view.nodes.len(), owners) {
        (1, _) => Check::ok("membership", "a mesh of one; `sigil invite` lets another device in"),
        (n, 1) => Check::warn(
            "membership",
            format!("{n} devices, but only one owner: if it is lost, nobody can let devices in or out"),
            "approve a second device as owner: `sigil approve NODE --tier owner`",
        ),
        (n, owners) => Check::ok("membership", format!("{n} devices, {owners} of them owners")),
    }
}

fn gateway(view: &View) -> Check {
    match view.gateway {
        Some(epoch) if epoch.peer == view.me => {
            Check::ok("gateway", format!("this device leads, epoch {}", epoch.counter))
        }
        Some(epoch) => {
            let name = model::name_of(view, &epoch.peer).unwrap_or_else(|| epoch.peer.short());
            Check::ok("gateway", format!("`{name}` leads, epoch {}", epoch.counter))
        }
        None => Check::warn(
            "gateway",
            "no gateway is known: calls wait",
            "a new one is elected within seconds; if not, switch on a device that may lead",
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

fn discovery(around: &Surroundings) -> Check {
    match &around.discovery_trouble {
        Some(trouble) => Check::warn(
            "discovery",
            format!("devices on the local network are not found by themselves: {trouble}"),
            "allow multicast (mDNS, UDP 5353), or join with a code or an address; known devices are still reconnected",
        ),
        None => {
            Check::ok("discovery", format!("{} strangers nearby, {} wait", around.nearby.len(), around.pending.len()))
        }
    }
}

/// Whatever others may read of the home, the key must be ours alone.
fn home_modes(home: &Path) -> Check {
    let key = home.join("identity.key");
    match std::fs::metadata(&key) {
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => Check::error(
            "identity",
            format!("other users may read {}", key.display()),
            format!("chmod 600 {}", key.display()),
        ),
        Ok(_) => Check::ok("identity", "the device key is readable by its owner only"),
        Err(error) => Check::error(
            "identity",
            format!("{}: {error}", key.display()),
            "restore the home from a backup: without its key this device is a new one after the next start",
        ),
    }
}

/// Free space below which the store soon cannot keep a promise: 64 MiB, one result; worth a word: 1 GiB.
fn disk(home: &Path) -> Check {
    const LOW: u64 = 1 << 30;
    const TOO_LOW: u64 = 64 << 20;
    let fix = "free some space on that disk";
    match nix::sys::statvfs::statvfs(home) {
        Ok(stat) => {
            let free = stat.blocks_available().saturating_mul(stat.fragment_size());
            let text = format!("{} MiB free at {}", free >> 20, home.display());
            match free {
                0..TOO_LOW => Check::error("disk", text, fix),
                TOO_LOW..LOW => Check::warn("disk", text, fix),
                LOW.. => Check::ok("disk", text),
            }
        }
        Err(error) => Check::warn("disk", format!("{}: {error}", home.display()), "see that the home is mounted"),
    }
}

/// Nothing is decided by the wall clock, but every time that people see comes from it.
fn clock() -> Check {
    /// 2026-01-01, before which no sigil existed.
    const EARLIEST_MS: u64 = 1_767_225_600_000;
    if now_ms() < EARLIEST_MS {
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
    fn a_key_that_others_may_read_is_an_error() {
        let home = tempfile::tempdir().unwrap();
        let key = home.path().join("identity.key");
        assert_eq!(home_modes(home.path()).state, CheckState::Error);
        std::fs::write(&key, "x").unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(home_modes(home.path()).state, CheckState::Error);
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(home_modes(home.path()).state, CheckState::Ok);
    }
}
