//! Attacks of the self-test: the helper as a hostile tool of its own, started by the agent at each level. What it reaches
//! there is a gap.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, setsid, test_kill_process};

use crate::confine::landlock_version;

/// Word by which the agent has it run.
pub const ATTACK: &str = "attack";
/// Name of what is written where nothing may be.
pub const MARK: &str = "sigil-self-test";
/// Time for which what is started for a test stays, if nothing ends it.
const STAYS: Duration = Duration::from_secs(3);

/// Runs the attacks, or what one of them has started. One line for each that got through, and at last `landlock` with the
/// version of the kernel's.
#[must_use]
pub fn entry(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(word) = args.next() else { return ExitCode::FAILURE };
    let args: Vec<String> = args.filter_map(|arg| arg.into_string().ok()).collect();
    match (word.to_str(), args.as_slice()) {
        (Some("all"), [home, key, agent, socket, port, processes, memory]) => {
            for (name, through) in [
                ("key", reads(Path::new(key))),
                ("signal", signals(agent)),
                ("socket", UnixStream::connect(socket).is_ok()),
                ("tcp", connects(port)),
                ("processes", multiplies(processes)),
                ("memory", swells(memory)),
            ] {
                if through {
                    println!("{name}");
                }
            }
            // The agent looks if it is there, and removes it: it may be in a world of ours alone.
            let _ = std::fs::write(Path::new(home).join(MARK), "");
            // Its end is seen by the agent, since it keeps our output open.
            let _ = ourselves("daemon", Stdio::inherit());
            println!("landlock {}", landlock_version());
            ExitCode::SUCCESS
        }
        (Some("daemon"), []) => {
            let _ = setsid();
            std::thread::sleep(STAYS);
            ExitCode::SUCCESS
        }
        (Some("wait"), []) => {
            std::thread::sleep(STAYS);
            ExitCode::SUCCESS
        }
        _ => ExitCode::FAILURE,
    }
}

fn reads(key: &Path) -> bool {
    File::open(key).and_then(|mut file| file.read(&mut [0; 1])).is_ok()
}

fn signals(agent: &str) -> bool {
    let agent = agent.parse().ok().and_then(Pid::from_raw);
    agent.is_some_and(|agent| test_kill_process(agent).is_ok())
}

fn connects(port: &str) -> bool {
    port.parse().is_ok_and(|port: u16| TcpStream::connect(("127.0.0.1", port)).is_ok())
}

/// Holds more memory than it may, in a file that is on no disk: a limit of private memory does not count it.
fn swells(may: &str) -> bool {
    let may: usize = may.parse().unwrap_or_default();
    let Ok(file) = memfd_create("swells", MemfdFlags::CLOEXEC) else { return false };
    let mut file = File::from(file);
    let piece = vec![1; 1 << 20];
    (0..=may >> 20).all(|_| file.write_all(&piece).is_ok())
}

/// Starts more processes than it may.
fn multiplies(may: &str) -> bool {
    let may: usize = may.parse().unwrap_or_default();
    let mut children: Vec<Child> = Vec::new();
    // Zero: not to be tried.
    let through = may > 0
        && (0..=may).all(|_| {
            let child = ourselves("wait", Stdio::null());
            let started = child.is_ok();
            children.extend(child);
            started
        });
    for child in &mut children {
        let _ = child.kill();
        let _ = child.wait();
    }
    through
}

fn ourselves(word: &str, stdout: Stdio) -> std::io::Result<Child> {
    let program = std::env::args_os().next().unwrap_or_default();
    Command::new(program).args([ATTACK, word]).stdin(Stdio::null()).stdout(stdout).stderr(Stdio::null()).spawn()
}
