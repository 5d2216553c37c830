//! The levels `guarded` and `confined`: another user, the files that are named, no new privileges, the filter.

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, LandlockStatus, RestrictionStatus,
    Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
    path_beneath_rules,
};
use rustix::process::{Gid, Resource, Uid, geteuid};
use rustix::system::sysinfo;
use rustix::thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::filter::filter;
use crate::process::{Why, limit};
use crate::wire::{Go, Level, Network, User};

/// The newest rules that we ask for; an older kernel gets those that it knows.
const NEWEST: ABI = ABI::V10;

/// What every tool may read: programs, libraries, settings of the system, and what runtimes ask of the machine and of
/// themselves. Of processes only its own: `self` is the tool when it is looked up, since the helper becomes it.
const READABLE: &[&str] = &[
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/bin",
    "/sbin",
    "/etc",
    "/nix/store",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/loadavg",
    "/proc/uptime",
    "/proc/version",
    "/proc/filesystems",
    "/dev/zero",
    "/dev/random",
    "/dev/urandom",
];
/// Devices that every tool may write to.
const WRITABLE: &[&str] = &["/dev/null", "/dev/zero", "/dev/full"];
/// The same, where they are of its own world.
const OWN: &[&str] = &["/tmp", "/var/tmp", "/dev/shm"];

/// Becomes another user, if this is root, with no other groups. Also as root in a world of its own a tool would be root to
/// too much.
pub(crate) fn drop_root(user: User) -> Result<(), Why> {
    if !geteuid().is_root() {
        return Ok(());
    }
    if user.uid == 0 || user.gid == 0 {
        return Err("it would run as root: `runtime.user` must be another user".to_owned());
    }
    let failed = |errno| format!("becoming user {}: {errno}", user.uid);
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    set_thread_groups(&[]).map_err(failed)?;
    set_thread_res_gid(gid, gid, gid).map_err(failed)?;
    set_thread_res_uid(uid, uid, uid).map_err(failed)
}

/// The rules for files that the level asks for, with all that they name opened: root sees more of it than the tool.
pub(crate) fn rules(go: &Go) -> Result<Option<RulesetCreated>, Why> {
    if go.level < Level::Confined {
        return Ok(None);
    }
    made(go).map(Some).map_err(|error| format!("the rules for files (landlock): {error}"))
}

/// Shuts the tool in, as far as its level says. Nothing can be taken back afterwards.
pub(crate) fn confine(go: &Go, rules: Option<RulesetCreated>) -> Result<(), Why> {
    if let Some(processes) = go.limits.processes {
        // In a world of its own only its own count, and the first process of it. Elsewhere all of its user's do, of which there
        // are no more than processes at all.
        let others = if go.level == Level::Isolated { 1 } else { u64::from(sysinfo().procs) };
        limit(Resource::Nproc, others + u64::from(processes))?;
    }
    if let Some(rules) = rules {
        let status = rules.restrict_self().map_err(|error| format!("the rules for files (landlock): {error}"))?;
        if status.ruleset == RulesetStatus::NotEnforced {
            return Err("the kernel has no rules for files (landlock), or they are turned off".to_owned());
        }
    }
    set_no_new_privs(true).map_err(|errno| format!("no new privileges: {errno}"))?;
    seccompiler::apply_filter(&filter(go.network, go.unix_sockets, go.level == Level::Isolated))
        .map_err(|error| format!("the filter of calls: {error}"))
}

fn made(go: &Go) -> Result<RulesetCreated, RulesetError> {
    let all = AccessFs::from_all(NEWEST);
    let read = AccessFs::from_read(NEWEST);
    let write = AccessFs::from_file(NEWEST) & !(BitFlags::from(AccessFs::Execute));
    let mut rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(all)?;
    // Where it is restricted there is nothing but its own loopback to connect to.
    if go.network == Network::None {
        rules = rules.handle_access(AccessNet::from_all(NEWEST))?;
    }
    let scope = if go.unix_sockets { Scope::Signal.into() } else { Scope::from_all(NEWEST) };
    let own: &[&str] = if go.level == Level::Isolated { OWN } else { &[] };
    let processes: &[&str] = if go.level == Level::Isolated { &["/proc"] } else { &[] };
    let mut rules = rules
        .scope(scope)?
        .create()?
        .add_rules(path_beneath_rules(READABLE, read))?
        .add_rules(path_beneath_rules(processes, read))?
        .add_rules(path_beneath_rules(WRITABLE, write))?
        .add_rules(path_beneath_rules(own, all))?
        .add_rules(path_beneath_rules(&go.read, read))?
        .add_rules(path_beneath_rules(&go.write, all))?
        .add_rules(path_beneath_rules(["."], all))?
        .add_rules(path_beneath_rules([&go.command], read))?;
    if go.unix_sockets {
        rules = rules.add_rules(path_beneath_rules(["/"], AccessFs::ResolveUnix))?;
    }
    Ok(rules)
}

/// The version of landlock that this kernel has, as far as we know them; 0 for none. Asked by an empty set of rules.
pub(crate) fn landlock_version() -> u32 {
    let status = Ruleset::default().handle_access(AccessFs::from_all(NEWEST)).and_then(Ruleset::create);
    match status.and_then(RulesetCreated::restrict_self) {
        Ok(RestrictionStatus { landlock: LandlockStatus::Available { effective_abi, .. }, .. }) => effective_abi as u32,
        _ => 0,
    }
}
