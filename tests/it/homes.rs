//! A home and its agent's life: copied and moved homes, ports, what a start in the background keeps of its starter,
//! reloads, signals, cleaners, and other users' hands.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Home, PATIENCE, text, wait_until};

/// A home whose agents run in the background, as people start them. They end with it.
struct Detached {
    dir: TempDir,
}

impl Detached {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("sgl").tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("home")).expect("a fresh directory");
        fs::set_permissions(dir.path().join("home"), fs::Permissions::from_mode(0o700)).expect("ours");
        let home = Self { dir };
        home.settings("");
        home
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    fn settings(&self, toml: &str) {
        fs::write(self.home().join("sigil.toml"), format!("discovery.lan = false\n{toml}")).expect("it is written");
    }

    /// Runs a line of shell; `$S` is the program with this home, `$P` without one.
    fn shell(&self, line: &str) -> Output {
        let mut command = Command::new("sh");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SIGIL_")) {
            command.env_remove(name);
        }
        command.env("SIGIL_STORAGE_FREE_MIN", "0B");
        let program = format!("timeout 60 {}", env!("CARGO_BIN_EXE_sigil"));
        command.env("S", format!("{program} --home {}", self.home().display())).env("P", program);
        command.args(["-c", line]).current_dir(self.dir.path());
        command.stdin(Stdio::null()).output().expect("the shell runs")
    }

    #[track_caller]
    fn expect(&self, line: &str, code: i32) -> String {
        let output = self.shell(line);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{line}: {said}");
        said
    }

    #[track_caller]
    fn json(&self, line: &str, code: i32) -> Value {
        let output = self.shell(line);
        assert_eq!(output.status.code(), Some(code), "{line}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    fn endpoints(&self) -> Value {
        fs::read(self.home().join("run/endpoints.json"))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    fn pid(&self) -> Option<i32> {
        self.endpoints()["pid"].as_i64().and_then(|pid| pid.try_into().ok())
    }

    #[track_caller]
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().expect("it runs")), signal).expect("it is ours");
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home().join("logs/agent.log")).unwrap_or_default()
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        let pid = self.pid();
        let stopped = self.shell("$S down").status.success();
        if let Some(pid) = pid.filter(|_| !stopped) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(done.success());
}

#[test]
fn b04_commands_on_a_copy_of_a_home_leave_the_original_alone() {
    let home = Detached::new();
    home.expect("$S up --detach --name attic", 0);
    copy(&home.home(), &home.dir.path().join("copy"));
    for command in ["status", "down", "leave", "invite", "token"] {
        let said = home.expect(&format!("$P --home copy {command}"), 5);
        assert!(said.contains("a copy of"), "{command}: {said}");
    }
    let said = home.expect("$P --home copy up --detach", 8);
    assert!(said.contains("identity.key"), "two homes with one key: {said}");
    home.expect("$S status", 0);
    // A socket that leads to the original, too: a copy by hard links.
    fs::remove_file(home.dir.path().join("copy/run/sigil.sock")).expect("it was copied");
    fs::hard_link(home.home().join("run/sigil.sock"), home.dir.path().join("copy/run/sigil.sock")).expect("a link");
    assert!(home.expect("$P --home copy status", 4).contains("not that of the home"));
    assert!(!home.shell("$P --home copy down").status.success());
    home.expect("$S status", 0);
    home.expect("$S down", 0);
    // Now the copy may go on in its place.
    fs::remove_file(home.dir.path().join("copy/run/sigil.sock")).expect("the link");
    home.expect("$P --home copy up --detach", 0);
    home.expect("$P --home copy down", 0);
}

#[test]
fn b04_a_home_that_was_moved_can_be_reached_and_stopped() {
    let home = Detached::new();
    home.expect("$S up --detach", 0);
    fs::rename(home.home(), home.dir.path().join("moved")).expect("it is moved");
    home.expect("$S status", 5);
    home.expect("$P --home moved status", 0);
    home.expect("$P --home moved down", 0);
    assert!(!home.home().exists(), "the agent has not made it anew at its old place");
}

#[test]
fn b09_a_port_that_nobody_chose_falls_back_when_another_program_has_it() {
    let home = Detached::new();
    home.expect("$S up --detach", 0);
    let port = |home: &Detached| {
        let address = home.endpoints()["quic"][0].as_str().unwrap_or_default().to_owned();
        address.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).expect("a port")
    };
    let first = port(&home);
    home.expect("$S down", 0);
    // Where an agent of another test was quicker, that is the other program.
    let other = UdpSocket::bind(("::", first)).ok();
    home.expect("$S up --detach", 0);
    let second = port(&home);
    assert_ne!(second, first);
    home.expect("$S down", 0);
    drop(other);
    home.expect("$S up --detach", 0);
    assert_eq!(port(&home), second, "the port of the last start is kept while it is free");
    home.expect("$S down", 0);
    let _other = UdpSocket::bind(("::", first)).ok();
    let said = home.expect(&format!("$S up --detach --quic-port {first}"), 1);
    assert!(said.contains("--quic-port") && said.contains("in use"), "{said}");
}

#[test]
fn b12_s22_a_start_in_the_background_keeps_nothing_of_its_starter() {
    let home = Detached::new();
    // The lock of a script, as cron jobs hold one.
    home.expect("umask 000; exec 8>lock 9<lock; flock 8; $S up --detach", 0);
    home.expect("flock -n lock true", 0);
    let pid = home.pid().expect("it runs");
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).expect("it runs"), Path::new("/"));
    let open: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("it runs")
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .collect();
    assert!(!open.iter().any(|file| file.ends_with("lock") && !file.starts_with(home.home())), "{open:?}");
    for file in ["ports.json", "name", "run/endpoints.json", "logs/agent.log"] {
        let mode = fs::metadata(home.home().join(file)).expect(file).permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file}: {mode:o}");
    }
}

#[test]
fn s22_tools_of_an_agent_in_the_foreground_inherit_nothing_of_its_starter() {
    let home = Detached::new();
    home.settings("[tools.open]\ncommand = \"sh\"\nargs = [\"-c\", \"ls -l /proc/self/fd\"]\n");
    let program = env!("CARGO_BIN_EXE_sigil");
    let line = format!("exec 9>lock; exec {program} --home {} up --name attic", home.home().display());
    let mut agent = Command::new("sh")
        .args(["-c", &line])
        .env("SIGIL_STORAGE_FREE_MIN", "0B")
        .current_dir(home.dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the shell runs");
    wait_until("it is up", PATIENCE, || home.shell("$S status").status.success());
    let open = home.expect("$S call attic open", 0);
    assert!(!open.contains("lock"), "{open}");
    home.expect("$S down", 0);
    agent.wait().expect("it ends");
}

#[test]
fn b16_settings_are_reloaded_and_bad_ones_change_nothing() {
    let home = Detached::new();
    home.settings("[tools.one]\ncommand = \"echo\"\nargs = [\"one\"]\n");
    home.expect("$S up --detach --name attic", 0);
    home.expect("$S call attic two", 3);
    home.settings("calls.ttl = \"2h\"\n[tools.two]\ncommand = \"echo\"\nargs = [\"two\"]\n[listen]\nhttp_port = 1\n");
    assert!(home.json("$S --json status", 0)["warnings"].to_string().contains("sigil reload"));
    assert!(home.expect("$S doctor", 10).contains("newer"));
    let answer = home.json("$S --json reload", 0);
    assert_eq!(answer["changed"], serde_json::json!(["calls.ttl", "tools.one", "tools.two"]));
    assert_eq!(answer["at_next_start"], serde_json::json!(["listen.http_port"]));
    assert!(home.expect("$S call attic two", 0).contains("two"));
    assert_eq!(home.json("$S --json calls --limit 1", 0)["items"][0]["ttl_s"], 7200);
    home.expect("$S call attic one", 3);
    assert!(home.expect("$S doctor", 10).contains("next start"));
    // Not to be used: all stays as it was, and the command says what is wrong.
    for bad in ["[tools.three]\ncommand = \"\"\n", "not toml", "[tools.\"device.info\"]\ncommand = \"x\"\n"] {
        home.settings(bad);
        let said = home.expect("$S reload", 2);
        assert!(said.contains("stay as they were"), "{said}");
        home.expect("$S call attic two", 0);
    }
    // By a signal, with a key that means nothing.
    home.settings("[tools.four]\ncommand = \"echo\"\ntimeuot = \"1s\"\n");
    home.signal(Signal::SIGHUP);
    wait_until("it is taken", PATIENCE, || home.shell("$S call attic four").status.success());
    assert!(home.expect("$S doctor", 10).contains("timeuot"));
}

#[test]
fn b16_warnings_of_a_start_in_the_background_are_on_the_starters_screen() {
    let home = Detached::new();
    home.settings("[calls]\nrunnning = 3\n");
    let said = home.expect("$S up --detach", 0);
    assert!(said.contains("warning: ") && said.contains("did you mean `running`"), "{said}");
    home.expect("$S down", 0);
    // Also where another command starts it.
    let said = String::from_utf8_lossy(&home.shell("$S join sigil1-x").stderr).into_owned();
    assert!(said.contains("did you mean `running`"), "{said}");
}

#[test]
fn b21_logs_have_no_colours_and_json_logs_are_json_alone() {
    let home = Detached::new();
    home.settings("[log]\nformat = \"json\"\n[calls]\nrunnning = 3\n");
    home.expect("$S up --detach && $S down", 0);
    for line in home.log().lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    home.settings("");
    home.expect("$S up --detach && $S down", 0);
    assert!(!home.log().contains('\u{1b}'));
    // An error is said once.
    fs::remove_dir_all(home.home().join("store")).expect("it was made");
    fs::write(home.home().join("store"), "no directory").expect("writable");
    let said = home.expect("$S up --detach", 1);
    assert_eq!(said.matches("Not a directory").count(), 1, "{said}");
    assert!(!said.contains('\u{1b}'), "{said}");
    fs::remove_file(home.home().join("store")).expect("it is a file");
}

#[test]
fn b17_a_first_start_without_room_says_why() {
    let home = Detached::new();
    // No file may grow: as on a full disk, not even the log can be written.
    let said = home.expect("ulimit -f 0; $S up --detach", 1);
    assert!(said.contains("File too large"), "{said}");
}

#[test]
fn b17_doctor_without_an_agent_looks_at_the_home() {
    let home = Detached::new();
    home.expect("$S up --detach && $S down", 0);
    let said = home.expect("$S doctor", 11);
    assert!(["disk", "hands", "identity"].iter().all(|check| said.contains(check)), "{said}");
    home.settings("[node]\nclass = \"tablet\"\n");
    let said = home.expect("$S up --detach", 2);
    assert!(said.contains("tablet"), "{said}");
    assert!(home.expect("$S doctor", 11).contains("tablet"));
    home.settings("");
}

#[test]
fn b22_signals_end_it_cleanly_or_not_at_all() {
    let mut home = Home::new("attic").started();
    for signal in [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGALRM, Signal::SIGHUP, Signal::SIGXFSZ] {
        home.signal(signal);
    }
    wait_until("the last is handled", PATIENCE, || home.log().contains("SIGXFSZ"));
    assert_eq!(home.get("status").status, 200);
    home.signal(Signal::SIGQUIT);
    assert!(home.reap().success());
    assert!(!home.path("run/endpoints.json").exists(), "it has tidied up");
}

#[test]
fn b22_a_closed_terminal_ends_an_agent_in_the_foreground_cleanly() {
    if Command::new("script").arg("--version").stdout(Stdio::null()).status().is_err() {
        return; // No pseudo-terminal to be had.
    }
    let home = Detached::new();
    let program = env!("CARGO_BIN_EXE_sigil");
    let line = format!("exec {program} --home {} up", home.home().display());
    let mut terminal = Command::new("script")
        .args(["-q", "-c", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("script runs");
    wait_until("it is up", PATIENCE, || home.shell("$S status").status.success());
    terminal.kill().expect("the terminal closes");
    terminal.wait().expect("it ends");
    wait_until("it has tidied up", PATIENCE, || !home.home().join("run/endpoints.json").exists());
}

#[test]
fn what_a_cleaner_takes_away_comes_back() {
    let home = Home::new("attic").started();
    fs::remove_dir_all(home.path("run")).expect("it is there");
    fs::remove_dir_all(home.path("work")).expect("it is there");
    wait_until("it is reached again", PATIENCE, || home.cli(&["status"]).code == 0);
    assert_eq!(home.cli(&["call", "attic", "append"]).code, 0);
    wait_until("the record is back", PATIENCE, || home.path("run/endpoints.json").exists());
}

#[test]
fn s21_a_home_that_others_may_write_is_not_started_on() {
    let home = Detached::new();
    fs::set_permissions(home.home(), fs::Permissions::from_mode(0o777)).expect("ours");
    for line in ["$S up", "$S up --detach"] {
        let said = home.expect(line, 4);
        assert!(said.contains("may write") && said.contains("chmod go-w"), "{said}");
    }
    assert!(home.expect("$S doctor", 11).contains("may write"));
    fs::set_permissions(home.home(), fs::Permissions::from_mode(0o755)).expect("ours");
    fs::set_permissions(home.home().join("sigil.toml"), fs::Permissions::from_mode(0o666)).expect("ours");
    assert!(home.expect("$S up --detach", 4).contains("sigil.toml"));
    fs::set_permissions(home.home().join("sigil.toml"), fs::Permissions::from_mode(0o644)).expect("ours");
    home.expect("$S up --detach", 0);
    // A reload does not take what others may have written meanwhile.
    fs::set_permissions(home.home().join("sigil.toml"), fs::Permissions::from_mode(0o666)).expect("ours");
    assert!(home.expect("$S reload", 2).contains("may write"));
}

#[test]
fn b14_root_does_not_start_on_another_users_home() {
    if !nix::unistd::geteuid().is_root() {
        return; // Only root can.
    }
    let home = Detached::new();
    std::os::unix::fs::chown(home.home(), Some(65_534), None).expect("we are root");
    for line in ["$S up", "$S up --detach"] {
        let said = home.expect(line, 4);
        assert!(said.contains("belongs to") && said.contains("sudo -u"), "{said}");
    }
    assert!(home.expect("$S doctor", 11).contains("belongs to"));
    std::os::unix::fs::chown(home.home(), Some(0), None).expect("we are root");
}

#[test]
fn l13_wrong_usage_has_its_document_and_its_exit_both_ways() {
    let home = Detached::new();
    let problem = home.json("$S --json frobnicate", 2);
    assert_eq!(problem["schema"], "sigil.error/1");
    assert!(text(&problem, "detail").contains("frobnicate") && problem["exit"] == 2, "{problem}");
    for line in ["$S --json up --name A:b", "$S --json up --detach --name A:b"] {
        let problem = home.json(line, 2);
        assert!(text(&problem, "detail").contains("node.name"), "{problem}");
    }
    assert!(home.expect("$S --json --help", 0).contains("Usage"));
}

#[test]
fn l13_of_two_starts_at_once_one_ends_with_8() {
    let home = Detached::new();
    let both = home.shell("$S up --detach & $S up --detach; echo $?; wait $!; echo $?");
    let said = String::from_utf8_lossy(&both.stdout).into_owned();
    let mut codes: Vec<_> = said.lines().filter(|line| line.parse::<u8>().is_ok()).collect();
    codes.sort_unstable();
    assert_eq!(codes, ["0", "8"], "{both:?}");
}

#[test]
fn b11_a_given_name_is_kept_and_a_device_can_be_renamed() {
    let home = Detached::new();
    home.expect("$S up --detach --name nn2 && $S down", 0);
    home.expect("$S up --detach", 0);
    let other = Home::new("attic").started();
    let code = other.invite();
    assert!(home.expect(&format!("$S join {code}"), 0).contains("nn2"));
    // A name that does nothing is told.
    home.expect("$S down", 0);
    let said = home.expect("$S up --detach --name server", 0);
    assert!(said.contains("sigil rename server"), "{said}");
    assert!(home.expect("$S rename server", 0).contains("server"));
    other.wait_node("server", "online");
    let id = other.call("server", "device.info", 60);
    assert_eq!(other.wait_ended(&id, PATIENCE)["state"], "done");
    assert!(home.expect("$S rename attic", 8).contains("another member"));
    home.expect("$S rename A:b", 2);
    assert!(home.expect("$S status", 0).contains("server"), "it keeps the name that it has");
    // It outlives a restart, and is asked for in the next mesh.
    home.expect("$S rename cellar && $S down && $S up --detach", 0);
    assert!(home.expect("$S status", 0).contains("cellar"));
    // The other one hears that it leaves.
    other.wait_node("cellar", "online");
    home.expect("$S leave", 0);
    assert!(home.expect("$S status", 0).contains("cellar"));
    // So is one that is given as it joins, although the agent runs already.
    let code = other.invite();
    let said = home.expect(&format!("$S join {code} --name porch"), 0);
    assert!(said.contains("porch"), "{said}");
    other.wait_node("porch", "online");
}

#[test]
fn b23_a_tool_finds_around_itself_what_is_documented() {
    // What `docs/tools.md` says is there.
    const THERE: [&str; 8] =
        ["HOME", "LANG", "PATH", "SIGIL_ATTEMPT", "SIGIL_NODE", "SIGIL_OUT", "SIGIL_REQUEST_ID", "SIGIL_TOOL"];
    const NOT_THERE: [&str; 6] =
        ["TZ", "LC_ALL", "USER", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "SSH_AUTH_SOCK"];
    let look = "umask; pwd; : > new; stat -c %a . new";
    let mut home = Home::new("attic")
        .with_config("[tools.env]\ncommand = \"env\"\nenv = { MINE = \"x\" }\n")
        .with_tool("around", look, "none");
    for name in ["LANG"].iter().chain(&NOT_THERE) {
        home.set_env(name, "of-the-agent");
    }
    home.start();
    let env = home.cli(&["call", "attic", "env"]).stdout;
    let mut names: Vec<&str> = env.lines().filter_map(|line| line.split('=').next()).collect();
    names.sort_unstable();
    let mut expected: Vec<&str> = THERE.into_iter().chain(["MINE"]).collect();
    expected.sort_unstable();
    assert_eq!(names, expected, "{env}");
    let around = home.cli(&["call", "attic", "around"]).stdout;
    let around: Vec<&str> = around.lines().collect();
    let [umask, place, mode, new] = around[..] else { panic!("{around:?}") };
    assert_eq!((umask, mode, new), ("0077", "700", "600"));
    wait_until("its directory is gone", PATIENCE, || !Path::new(place).exists());
    let told = include_str!("../../docs/tools.md");
    let row = |what: &str| told.lines().find(|line| line.starts_with(&format!("| {what} |"))).unwrap_or_default();
    for name in THERE.iter().chain(&NOT_THERE) {
        assert!(row("environment").contains(&format!("`{name}`")), "{name}");
    }
    assert!(row("umask").contains("077") && row("working directory").contains("removed at its end"));
    assert!(include_str!("../../README.md").contains("docs/tools.md"));
}
