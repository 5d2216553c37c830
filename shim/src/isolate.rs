//! The level `isolated`: a world of processes, mounts and IPC of the tool's own, and of a network where that is restricted.
//!
//! The helper that the agent started (*outer*) makes the world and stays outside, for the agent to end by its group. Its
//! child (*init*) is the first process of the world: it shuts itself in as the tool will be, starts the tool, reaps what that
//! leaves, and tells the agent how it ended. When init ends the kernel ends the world, so nothing outlives the tool.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode, Stdio};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use rustix::mount::{MountFlags, mount};
use rustix::net::RecvFlags;
use rustix::process::{DumpableBehavior, WaitOptions, WaitStatus, getegid, geteuid, set_dumpable_behavior, wait};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, configure_capability_in_ambient_set, set_capabilities,
};

use crate::confine::{confine, drop_root, rules};
use crate::own_net;
use crate::process::{NOT_STARTED, Streams, Why, control as agent_socket, die_with_parent, explain, running, tool};
use crate::view;
use crate::wire::{self, Exit, Go, Network, Report, User};

/// Word by which outer starts init.
pub const INIT: &str = "init";
/// Ourselves, also where our file is out of sight.
const OURSELVES: &str = "/proc/self/exe";

/// Outer: makes the world, and waits until it is gone. `init` tells the rest. By `by` the agent gets the socket that listens for
/// what is to go out, where the network is restricted.
pub(crate) fn isolate(control: &UnixStream, go: &Go, streams: Streams, by: Option<OwnedFd>) -> Result<ExitCode, Why> {
    let mut world =
        CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC;
    world.set(CloneFlags::CLONE_NEWNET, go.network == Network::Restricted);
    let failed = |errno| format!("a world of its own: {errno}");
    if geteuid().is_root() {
        // The view is made by root, who sees all that is to stay in it; the world then by the user, in which root is nobody.
        unshare(CloneFlags::CLONE_NEWNS).map_err(failed)?;
        view::make(go, go.user)?;
        drop_root(go.user)?;
        die_with_parent()?;
        // The maps below are the user's to write only so.
        set_dumpable_behavior(DumpableBehavior::Dumpable).map_err(|errno| format!("as the user: {errno}"))?;
        unshare(world).map_err(failed)?;
        map(go.user)?;
    } else {
        let user = User { uid: geteuid().as_raw(), gid: getegid().as_raw() };
        unshare(world).map_err(failed)?;
        map(user)?;
        view::make(go, user)?;
    }
    if let Some(by) = by {
        own_net::loopback_up()?;
        own_net::hand_listener(&UnixStream::from(by))?;
    }
    // Of the rights that it has in there now, init needs one more: to mount its own /proc.
    let admin = CapabilitySet::SYS_ADMIN;
    set_capabilities(None, CapabilitySets { effective: admin, permitted: admin, inheritable: admin })
        .and_then(|()| configure_capability_in_ambient_set(admin, true))
        .map_err(|errno| format!("the rights of a world of its own: {errno}"))?;
    // What asks the group to end is meant for the tool. Init puts its own mask back.
    SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP])
        .thread_block()
        .map_err(|errno| format!("signals: {errno}"))?;
    let (ours, its) = UnixStream::pair().map_err(|error| format!("a socket: {error}"))?;
    let mut init = Command::new(OURSELVES)
        .arg(INIT)
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(its)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("the first process of its world: {error}"))?;
    let [stdin, stdout, stderr] = &streams;
    wire::send(&ours, go, &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd(), control.as_fd()])
        .map_err(|error| format!("telling the first process of its world: {error}"))?;
    // Whoever reads the streams is to see their end with the tool's.
    drop(streams);
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let status = init.wait().map_err(|error| format!("waiting for it: {error}"))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(NOT_STARTED)))
}

/// Names in the new world are those outside, of this user alone.
fn map(user: User) -> Result<(), Why> {
    let User { uid, gid } = user;
    let lines = [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{uid} {uid} 1")),
        ("gid_map", format!("{gid} {gid} 1")),
    ];
    for (file, line) in lines {
        fs::write(format!("/proc/self/{file}"), line)
            .map_err(|error| format!("its user in a world of its own: {error}"))?;
    }
    Ok(())
}

/// Init: the whole of it.
#[must_use]
pub fn init() -> ExitCode {
    let Ok(link) = agent_socket() else { return ExitCode::from(NOT_STARTED) };
    // Outer tells the agent nothing from here on; without its order there is nobody to tell.
    let Ok((go, [stdin, stdout, stderr, control])) = wire::receive::<4>(&link) else {
        return ExitCode::from(NOT_STARTED);
    };
    let control = UnixStream::from(control);
    match run(&link, &control, &go, [stdin, stdout, stderr]) {
        Ok(report) => {
            let _ = wire::tell(&control, &report);
            ExitCode::SUCCESS
        }
        Err(why) => {
            let _ = wire::tell(&control, &Report::NotStarted(why));
            ExitCode::from(NOT_STARTED)
        }
    }
}

fn run(link: &UnixStream, control: &UnixStream, go: &Go, streams: Streams) -> Result<Report, Why> {
    die_with_parent()?;
    // Outer may have ended before; its number is not seen from in here, but its end of the socket is.
    let peek = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    if rustix::net::recv(link, &mut [0_u8; 1], peek).is_ok() {
        return Err("the agent is gone".to_owned());
    }
    // As the first process we are spared what we do not wait for; the tool gets the mask that we have.
    SigSet::empty().thread_set_mask().map_err(|errno| format!("signals: {errno}"))?;
    mount("proc", "/proc", "proc", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)
        .map_err(|errno| format!("its own /proc: {errno}"))?;
    let none = CapabilitySet::empty();
    clear_ambient_capability_set()
        .and_then(|()| set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none }))
        .map_err(|errno| format!("giving up rights: {errno}"))?;
    // What the agent told us is in our memory, and its socket is among our files.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|errno| format!("closing ourselves: {errno}"))?;
    confine(go, rules(go)?)?;
    let tool = tool(go, streams).spawn().map_err(|error| explain(&go.command, &error))?.id();
    wire::tell(control, &Report::Ready).map_err(|error| format!("the agent is gone: {error}"))?;
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if u32::try_from(pid.as_raw_nonzero().get()) == Ok(tool) => {
                return Ok(Report::Ended { exit: exit(status), left: left() });
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(format!("waiting for it: {errno}")),
        }
    }
}

pub(crate) fn exit(status: WaitStatus) -> Exit {
    let small = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    match status.terminating_signal() {
        Some(signal) => Exit::Signal(small(signal)),
        None => Exit::Code(small(status.exit_status().unwrap_or(i32::MAX))),
    }
}

/// Names of what is still running: all of it is ours by now, or a child of what is.
fn left() -> Vec<String> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Ok(None) => break,
            Err(_) => return Vec::new(),
        }
    }
    running(|_| true)
}
