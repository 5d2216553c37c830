//! Built-in tools that programs of a desktop do, and commands that an owner allows: with an X server that shows nothing to
//! anybody and real programs where they are there, and with a stand-in that counts what it is started with.

use std::fs::{self, Permissions};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::harness::{Home, PATIENCE, done, items, now, skip, text, wait_until};

/// Python of the system: what is below a home is out of reach of a tool.
const PYTHON: &str = "/usr/bin/python3";

fn run(home: &Home, tool: &str, arguments: &Value) -> Value {
    let body = json!({ "node": "desk", "tool": tool, "arguments": arguments, "ttl_s": 60 });
    let id = text(&home.post("calls", &body).json(), "id").to_owned();
    home.wait_ended(&id, PATIENCE)
}

fn absent(home: &Home, tool: &str) -> Option<(String, String)> {
    let shown = home.get("providers/sigil").json();
    let all = items(&json!({ "items": shown["absent"] })).to_vec();
    let found = all.into_iter().find(|absent| absent["tool"] == tool)?;
    Some((text(&found, "why").to_owned(), text(&found, "fix").to_owned()))
}

/// A program that tells a socket of the test with what it was started, and what it was given.
struct StandIn {
    dir: tempfile::TempDir,
    started: Arc<Mutex<Vec<Value>>>,
}

impl StandIn {
    fn new(names: &[&str]) -> Self {
        let dir = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap();
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        fs::set_permissions(&socket, Permissions::from_mode(0o777)).unwrap();
        let started: Arc<Mutex<Vec<Value>>> = Arc::default();
        let kept = started.clone();
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (mut stream, mut said) = (stream, String::new());
                let _ = stream.read_to_string(&mut said);
                kept.lock().unwrap().push(serde_json::from_str(&said).unwrap());
            }
        });
        let script = format!(
            "#!{PYTHON}\nimport json, os, socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect({:?})\n\
             s.sendall(json.dumps({{'argv': sys.argv, 'stdin': sys.stdin.read(), 'display': os.environ.get('DISPLAY')}}).encode())\n\
             s.close()\nprint('from the stand-in', end='')\n",
            socket.to_string_lossy()
        );
        for name in names {
            let program = dir.path().join(name);
            fs::write(&program, &script).unwrap();
            fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        }
        Self { dir, started }
    }

    fn path(&self) -> String {
        format!("{}:/usr/local/bin:/usr/bin:/bin", self.dir.path().display())
    }

    /// What was started last, once as many were as are expected.
    fn last(&self, count: usize) -> Value {
        wait_until("the stand-in has told", PATIENCE, || self.started.lock().unwrap().len() >= count);
        let started = self.started.lock().unwrap();
        assert_eq!(started.len(), count, "{started:?}");
        started[count - 1].clone()
    }
}

#[test]
fn a_device_without_a_desktop_says_what_is_lacking() {
    let home = Home::new("desk").started();
    for (tool, why, fix) in [
        ("notify", "session bus", "session of a desktop"),
        ("clipboard.read", "no display", "session of a desktop"),
        ("clipboard.write", "no display", "session of a desktop"),
        ("screen.capture", "no display", "session of a desktop"),
        ("shell.run", "no command", "shell.allow"),
    ] {
        let (told, next) = absent(&home, tool).expect(tool);
        assert!(told.contains(why) && next.contains(fix), "{tool}: {told}; {next}");
        assert!(home.tool(&format!("node:desk:{tool}")).is_none());
    }
    assert!(done(&home, &["plugin", "list"]).contains("screen.capture"));
}

#[test]
fn the_program_of_the_desktop_is_started_with_words_and_nothing_else() {
    if !Path::new(PYTHON).exists() {
        return skip("desktop_stand_in", "the stand-in is written in Python, and there is no /usr/bin/python3");
    }
    let stand_in = StandIn::new(&["notify-send", "wl-copy", "wl-paste", "grim"]);
    let mut home = Home::new("desk");
    home.set_env("PATH", &stand_in.path());
    home.set_env("WAYLAND_DISPLAY", "wayland-7");
    home.set_env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere/bus");
    home.start();
    let arguments = |value: &Value| value["argv"].as_array().unwrap()[1..].to_vec();
    let ended =
        run(&home, "notify", &json!({ "title": "--help; rm -rf /", "body": "<b>x</b>", "urgency": "critical" }));
    assert_eq!(ended["state"], "done", "{ended}");
    let expected = ["--app-name=sigil", "--urgency=critical", "--", "--help; rm -rf /", "&lt;b&gt;x&lt;/b&gt;"];
    assert_eq!(arguments(&stand_in.last(1)), expected);
    let ended = run(&home, "clipboard.write", &json!({ "text": "a\n$(id)" }));
    assert_eq!((&ended["state"], &stand_in.last(2)["stdin"]), (&json!("done"), &json!("a\n$(id)")), "{ended}");
    let ended = run(&home, "clipboard.read", &json!({}));
    assert_eq!(ended["output"], "from the stand-in", "{ended}");
    stand_in.last(3);
    let ended = run(&home, "screen.capture", &json!({}));
    assert_eq!((&ended["state"], &ended["parts"][0]["media_type"]), (&json!("done"), &json!("image/png")), "{ended}");
    assert_eq!(arguments(&stand_in.last(4)), ["-"]);
    // What does not fit starts nothing.
    let ended = run(&home, "notify", &json!({ "title": "x", "icon": "/etc/passwd" }));
    assert!(ended["state"] == "failed" && text(&ended, "reason").contains("invalid_argument"), "{ended}");
    stand_in.last(4);
    // A tool of the owner's own with such a name stays what it is.
    let settings = home.path("sigil.toml");
    let before = fs::read_to_string(&settings).unwrap_or_default();
    fs::write(&settings, format!("{before}\n[tools.notify]\ncommand = \"echo\"\nargs = [\"mine\"]\n")).unwrap();
    done(&home, &["reload"]);
    wait_until("it is taken", PATIENCE, || absent(&home, "notify").is_some_and(|(why, _)| why.contains("sigil.toml")));
    assert!(text(&run(&home, "notify", &json!({})), "output").contains("mine"));
    stand_in.last(4);
}

#[test]
fn commands_run_only_as_their_owner_has_written_them() {
    let marks = tempfile::Builder::new().permissions(Permissions::from_mode(0o777)).tempdir().unwrap();
    let mark = |name: &str| marks.path().join(name);
    let home = Home::new("desk").with_config(&format!(
        "[shell]\nallow = [[\"touch\", \"{}/*\"], [\"printf\", \"%s\", \"*\"]]\n",
        marks.path().display()
    ));
    let home = home.started();
    assert!(absent(&home, "shell.run").is_none());
    let shell = |argv: &[&str]| run(&home, "shell.run", &json!({ "argv": argv }));
    let path = |path: PathBuf| path.to_string_lossy().into_owned();
    let ended = shell(&["touch", &path(mark("a;b $(id)"))]);
    assert_eq!((&ended["state"], mark("a;b $(id)").exists()), (&json!("done"), true), "{ended}");
    assert_eq!(shell(&["printf", "%s", "x; touch y"])["output"], "x; touch y");
    for refused in [
        &["touch", "/tmp/sigil-shell-escape"][..],
        &["touch", &path(mark("x")), &path(mark("y"))],
        &["printf", "%s", "--help"],
        &["sh", "-c", "touch x"],
        &["/usr/bin/touch", &path(mark("x"))],
    ] {
        let ended = shell(refused);
        assert!(ended["state"] == "denied" && text(&ended, "reason").contains("shell.allow"), "{refused:?}: {ended}");
    }
    assert_eq!(fs::read_dir(marks.path()).unwrap().count(), 1);
    // For owners alone.
    let decl = home.tool("node:desk:shell.run").expect("it is offered");
    assert_eq!((&decl["owner_only"], &decl["effect"]), (&json!(true), &json!("once")), "{decl}");
}

/// An X server that shows nothing to anybody.
struct Screen {
    server: Child,
    display: String,
}

impl Screen {
    fn new(test: &str) -> Option<Self> {
        let there = |program: &&str| Path::new("/usr/bin").join(program).exists();
        if let Some(missing) = ["Xvfb", "xclip", "maim"].iter().find(|program| !there(program)) {
            skip(test, &format!("{missing} is missing (xvfb, xclip and maim in Debian)"));
            return None;
        }
        // It chooses a number that is free, and says which.
        let mut server = Command::new("Xvfb")
            .args(["-displayfd", "1", "-screen", "0", "320x200x24", "-nolisten", "tcp", "-ac"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut number = String::new();
        let mut said = server.stdout.take().unwrap();
        let mut byte = [0];
        while said.read(&mut byte).unwrap_or(0) == 1 && byte != *b"\n" {
            number.push(char::from(byte[0]));
        }
        Some(Self { server, display: format!(":{number}") })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[test]
fn the_clipboard_and_the_screen_of_a_real_display() {
    let Some(screen) = Screen::new("desktop_real") else { return };
    let mut home = Home::new("desk");
    home.set_env("DISPLAY", &screen.display);
    home.start();
    assert!(absent(&home, "notify").is_some());
    let began = now();
    let words = "what was written: \u{e4}\u{20ac}\n--help";
    let ended = run(&home, "clipboard.write", &json!({ "text": words }));
    assert_eq!(ended["state"], "done", "{ended}");
    for _ in 0..2 {
        let ended = run(&home, "clipboard.read", &json!({}));
        assert_eq!((&ended["state"], &ended["output"]), (&json!("done"), &json!(words)), "{ended}");
    }
    // Another program of this display sees it too.
    let seen = Command::new("xclip").args(["-selection", "clipboard", "-out"]).env("DISPLAY", &screen.display).output();
    assert_eq!(String::from_utf8_lossy(&seen.unwrap().stdout), words);
    let ended = run(&home, "screen.capture", &json!({}));
    assert_eq!((&ended["state"], &ended["parts"][0]["media_type"]), (&json!("done"), &json!("image/png")), "{ended}");
    let picture = home.get(&format!("calls/{}/result", text(&ended, "id"))).body;
    assert!(picture.starts_with(b"\x89PNG\r\n\x1a\n"), "{:?}", &picture[..picture.len().min(16)]);
    // Its size stands after the head of the first piece.
    let size = |at: usize| u32::from_be_bytes(picture[at..at + 4].try_into().unwrap());
    assert_eq!((size(16), size(20)), (320, 200));
    eprintln!("# a real display in {:.1?}", began.elapsed());
    assert!(began.elapsed() < PATIENCE);
}
