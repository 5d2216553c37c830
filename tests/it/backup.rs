//! `sigil backup` and `sigil restore`: a home in one file, taken while calls run, and put back where there is none.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;
use testbed::witness;

use crate::harness::{Home, Mesh, PATIENCE, text, wait_until};

/// A place outside of all homes.
fn outside() -> TempDir {
    tempfile::Builder::new().prefix("sgl").tempdir().expect("a temporary directory")
}

/// Removes all that lies in a home.
fn wipe(home: &Path) {
    for entry in fs::read_dir(home).expect("it is there") {
        let path = entry.expect("readable").path();
        if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.expect("it is ours");
    }
}

fn listed(home: &Path) -> BTreeSet<PathBuf> {
    fs::read_dir(home).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

#[track_caller]
fn backed_up(home: &Home, file: &Path) {
    let taken = home.cli(&["backup", file.to_str().expect("UTF-8")]);
    assert_eq!(taken.code, 0, "{taken:?}");
}

#[track_caller]
fn restored(home: &Home, file: &Path, flag: &str, code: i32) -> String {
    let put_back = home.cli(&["restore", file.to_str().expect("UTF-8"), flag]);
    assert_eq!(put_back.code, code, "{put_back:?}");
    format!("{}{}", put_back.stdout, put_back.stderr)
}

#[test]
fn a_backup_taken_while_calls_run_brings_the_device_back_and_runs_nothing_twice() {
    let place = outside();
    let (runs, file) = (place.path().join("runs"), place.path().join("backup"));
    let tool = |home: Home| {
        let put = witness::tool("put", "once", &runs, "", "");
        let long = witness::tool("long", "once", &runs, "", "; sleep 1");
        let size = "[tools.size]\ncommand = \"wc\"\nargs = [\"-c\"]\neffect = \"once\"\n";
        home.with_config(&[put, long, size.to_owned()].join("\n"))
    };
    let mut mesh = Mesh::of(vec![Home::new("attic"), tool(Home::new("cellar"))]);
    let who = mesh.homes[1].peer_id();
    // Ran before, runs now; and a call of its own whose arguments are a blob, and whose target is away.
    let before = mesh.homes[0].call("cellar", "put", 60);
    mesh.homes[0].wait_ended(&before, PATIENCE);
    let running = mesh.homes[0].call("cellar", "long", 60);
    let mine = mesh.homes[1].call("cellar", "long", 60);
    wait_until("both run", PATIENCE, || witness::read(&runs).len() == 3);
    let large = "x".repeat(100_000);
    mesh.homes[0].stop();
    let answer = mesh.homes[1]
        .post("calls", &json!({ "node": "attic", "tool": "append", "arguments": { "large": large }, "ttl_s": 600 }));
    let waits = text(&answer.json(), "id").to_owned();
    backed_up(&mesh.homes[1], &file);
    assert_eq!(fs::metadata(&file).expect("it is there").permissions().mode() & 0o777, 0o600);
    assert!(listed(&mesh.homes[1].path("blobs")).iter().any(|path| path.is_file()), "the arguments are a blob");
    // What comes after it: the runs end, and one more runs, of which the backup knows nothing.
    mesh.homes[0].start();
    mesh.wait_converged();
    let after = mesh.homes[0].call("cellar", "put", 60);
    for id in [&running, &after] {
        assert_eq!(mesh.homes[0].wait_confirmed(id, PATIENCE)["state"], "done");
    }
    mesh.homes[0].wait_ended(&waits, PATIENCE);
    let waiting = {
        mesh.homes[1].kill9();
        mesh.homes[0].call("cellar", "put", 60)
    };

    wipe(&mesh.homes[1].path(""));
    let said = restored(&mesh.homes[1], &file, "--identity-gone", 0);
    assert!(said.contains("cellar of mesh of attic, with 2 devices"), "{said}");
    mesh.homes[1].start();
    mesh.wait_converged();
    assert_eq!((mesh.homes[1].peer_id(), mesh.homes[1].leads() || mesh.homes[0].leads()), (who, true));
    for id in [&before, &running, &after] {
        assert_eq!(mesh.homes[0].wait_confirmed(id, PATIENCE)["state"], "done");
    }
    mesh.homes[0].wait_ended(&waiting, PATIENCE);
    mesh.homes[1].wait_ended(&mine, PATIENCE);
    let done = mesh.homes[0].call("cellar", "put", 60);
    assert_eq!(mesh.homes[0].wait_confirmed(&done, PATIENCE)["state"], "done", "it is the member that it was");
    let ran: Vec<_> = witness::read(&runs).into_iter().map(|(id, _)| id).collect();
    let once: BTreeSet<_> = ran.iter().collect();
    assert_eq!(ran.len(), once.len(), "something ran twice: {ran:?}");
    for id in [&before, &running, &mine, &after, &done] {
        assert!(once.contains(id), "{id} ran");
    }
    assert_eq!(mesh.homes[0].runs_of(&waits), [1], "what it had asked for ran once, too");
    assert_eq!(listed(&mesh.homes[1].path("")).iter().filter(|path| path.ends_with(".restoring")).count(), 0);
}

#[test]
fn what_an_open_call_needs_is_in_the_backup() {
    let place = outside();
    let file = place.path().join("backup");
    let tool = |home: Home| home.with_config("[tools.size]\ncommand = \"wc\"\nargs = [\"-c\"]\neffect = \"once\"\n");
    let mut mesh = Mesh::of(vec![tool(Home::new("attic")), Home::new("cellar")]);
    mesh.homes[0].stop();
    let arguments = json!({ "large": "x".repeat(100_000) });
    let answer =
        mesh.homes[1].post("calls", &json!({ "node": "attic", "tool": "size", "arguments": arguments, "ttl_s": 600 }));
    assert!(answer.is_success(), "{}", answer.text());
    let blobs = || listed(&mesh.homes[1].path("blobs")).into_iter().filter(|path| path.is_file()).collect::<Vec<_>>();
    let kept = fs::read(&blobs()[0]).expect("the arguments");
    mesh.homes[1].kill9();
    // Without an agent, too.
    backed_up(&mesh.homes[1], &file);
    wipe(&mesh.homes[1].path(""));
    restored(&mesh.homes[1], &file, "--identity-gone", 0);
    let blobs = listed(&mesh.homes[1].path("blobs"));
    assert_eq!(blobs.iter().filter_map(|path| fs::read(path).ok()).collect::<Vec<_>>(), [kept]);
}

#[test]
fn b04_a_restored_home_beside_its_living_original_is_refused() {
    let place = outside();
    let file = place.path().join("backup");
    let mut home = Home::new("attic").started();
    backed_up(&home, &file);
    let mut copy = Home::new("copy");
    wipe(&copy.path(""));
    let said = restored(&copy, &file, "--identity-gone", 8);
    assert!(said.contains("is not gone") && said.contains("sigil --home"), "{said}");
    assert_eq!(listed(&copy.path("")), BTreeSet::new(), "nothing was left");
    // Gone when it is restored, and back when it is started.
    home.stop();
    restored(&copy, &file, "--identity-gone", 0);
    home.start();
    let up = copy.cli(&["up", "--detach"]);
    assert!(up.code == 8 && up.stderr.contains("is a copy of"), "{up:?}");
    home.stop();
    copy.start();
    assert_eq!(text(&copy.status(), "node_id"), "attic");
}

#[test]
fn b04_two_homes_with_one_key_on_two_machines_are_halted() {
    let place = outside();
    let file = place.path().join("backup");
    let mut mesh = Mesh::named(&["attic", "cellar"]);
    backed_up(&mesh.homes[1], &file);
    let mut copy = Home::new("copy");
    wipe(&copy.path(""));
    mesh.homes[1].stop();
    restored(&copy, &file, "--identity-gone", 0);
    // Of another machine, the start finds no trace of the original here.
    fs::remove_dir_all(copy.path("run")).expect("it is there");
    mesh.homes[1].start();
    copy.start();
    wait_until("somebody sees that there are two", PATIENCE, || {
        let told = [&mesh.homes[0], &copy].map(|home| home.status()["warnings"].to_string());
        told.iter().any(|told| told.contains("under one key") || told.contains("use this key"))
    });
}

#[test]
fn k5_a_file_that_is_cut_flipped_or_none_is_refused_and_the_home_is_left_alone() {
    let place = outside();
    let file = place.path().join("backup");
    let mut home = Home::new("attic").started();
    backed_up(&home, &file);
    home.stop();
    let whole = fs::read(&file).expect("it is there");
    let copy = Home::new("copy");
    wipe(&copy.path(""));
    let bad = place.path().join("bad");
    let refused = |bytes: &[u8], why: &str| {
        fs::write(&bad, bytes).expect("writable");
        fs::set_permissions(&bad, fs::Permissions::from_mode(0o600)).expect("ours");
        let said = restored(&copy, &bad, "--identity-gone", 1);
        assert!(said.contains(why) && said.contains("next:"), "{said}");
        assert_eq!(listed(&copy.path("")), BTreeSet::new(), "{why}");
    };
    for part in 1..8 {
        refused(&whole[..whole.len() * part / 8], "cut off");
        let mut flipped = whole.clone();
        flipped[whole.len() * part / 8] ^= 0x10;
        refused(&flipped, "");
    }
    refused(b"settings", "no backup of sigil");
    refused(&[], "no backup of sigil");
    let mut newer = whole.clone();
    newer[19] = 9;
    refused(&newer, "format 9");
    refused(&[whole.as_slice(), b"more"].concat(), "damaged");
    // Others could have put anything into it.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).expect("ours");
    assert!(restored(&copy, &file, "--identity-gone", 4).contains("mode 666"));
}

#[test]
fn a_backup_asks_which_device_it_is_and_replaces_nothing_unasked() {
    let place = outside();
    let file = place.path().join("backup");
    let name = file.to_str().expect("UTF-8");
    let home = Home::new("attic").started();
    backed_up(&home, &file);
    let again = home.cli(&["backup", name]);
    assert!(again.code == 8 && again.stderr.contains("--force"), "{again:?}");
    let taken = home.cli(&["--json", "backup", name, "--force"]).json(0);
    assert!(taken["contents"]["rows"].as_u64() > Some(5) && taken["peer_id"] == json!(home.peer_id()), "{taken}");
    let there = home.cli(&["restore", name, "--identity-gone"]);
    assert!(there.code == 8 && there.stderr.contains("not empty"), "{there:?}");
    let mut copy = Home::new("copy");
    wipe(&copy.path(""));
    let unsaid = copy.cli(&["restore", name]);
    assert!(unsaid.code == 2 && unsaid.stderr.contains("--as-new-device"), "{unsaid:?}");
    // What a restore has left that was killed.
    fs::create_dir(copy.path(".restoring")).expect("a fresh directory");
    fs::write(copy.path(".restoring/store"), "half").expect("writable");
    let half = copy.cli(&["up", "--detach"]);
    assert!(half.code == 1 && half.stderr.contains("broken off"), "{half:?}");
    let told = home.path("sigil.toml");
    restored(&copy, &file, "--as-new-device", 0);
    let names: Vec<_> = listed(&copy.path("")).into_iter().filter(|path| path.is_file()).collect();
    assert_eq!(names, [copy.path("sigil.toml")], "the settings and nothing else");
    assert_eq!(fs::read(told).expect("settings"), fs::read(copy.path("sigil.toml")).expect("settings"));
    copy.start();
    assert_ne!(copy.peer_id(), home.peer_id());
    // The key leaves by the socket only.
    let token = home.cli(&["--json", "token"]).json(0);
    let bearer = format!("Bearer {}", text(&token, "token"));
    let host = format!("127.0.0.1:{}", home.http_port);
    home.ask_http(&host, "GET", "/api/v1/backup", &[("authorization", &bearer)]).problem(403);
    // No home, no backup; and nothing is made by looking.
    let none = Home::new("none");
    wipe(&none.path(""));
    assert_eq!(none.cli(&["backup", name, "--force"]).code, 3);
    assert_eq!(listed(&none.path("")), BTreeSet::new());
}
