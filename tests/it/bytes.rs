//! All that a tool gets and what it answers, byte for byte; and what a command says when it cannot show something.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::harness::{Home, SOON, now, skip, text, wait_until};

/// A tool that answers its arguments.
const CAT: &str = "[tools.cat]\ncommand = \"cat\"\n";

fn sigil(home: &Home, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sigil"));
    command.args(arguments).arg("--home").arg(home.path("")).current_dir(home.path("")).stdin(Stdio::null());
    command
}

/// Runs a command with `stdin`; its bytes are not touched.
#[track_caller]
fn run(home: &Home, arguments: &[&str], stdin: &[u8]) -> Output {
    let mut child = sigil(home, arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut pipe = child.stdin.take().expect("a pipe");
    let stdin = stdin.to_vec();
    let feed = std::thread::spawn(move || pipe.write_all(&stdin));
    let output = child.wait_with_output().expect("the command ends");
    feed.join().expect("the feeder ends").expect("the command reads its input");
    output
}

#[track_caller]
fn stdout(home: &Home, arguments: &[&str], stdin: &[u8]) -> Vec<u8> {
    let output = run(home, arguments, stdin);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    output.stdout
}

/// Documents that a parser and a printer would change: in numbers, keys, order, escapes or space.
fn odd_documents() -> Vec<String> {
    let numbers = [
        "12345678901234567890123",
        "1.10",
        "1e2",
        "-0",
        "-0.0",
        "1E+2",
        "0.1e-7",
        "6.10",
        "1e999",
        "-1e400",
        "1e-999",
        "9007199254740993",
        "18446744073709551616",
        "0.30000000000000004",
        "100000000000000000000000000000000000000.5",
    ];
    let strings = [
        r#""""#,
        r#""\u0041""#,
        r#""\ud800""#,
        r#""\udc00\ud800""#,
        r#""\ud83d\ude00""#,
        "\"😀\"",
        r#""\/""#,
        r#""\\\"\b\f\n\r\t""#,
        "\"\u{7f}\u{85}\u{2028}\"",
        "\"\u{202e}\u{fffd}\"",
        r#""\u0000""#,
        "\"ü\u{0}\"",
    ];
    let plain = ["null", "true", "false", "{}", "[]", "{ }", "[ ]", "[\n]"];
    let strings: Vec<&str> = strings.into_iter().filter(|text| !text.contains('\0')).collect();
    let atoms: Vec<&str> = numbers.into_iter().chain(strings).chain(plain).collect();
    let mut documents: Vec<String> = atoms.iter().map(|atom| (*atom).to_owned()).collect();
    let mut turn = (0_usize..).map(|n| atoms[(n * 7 + n / 5) % atoms.len()]);
    let mut atom = || turn.next().expect("an endless turn");
    while documents.len() < 200 {
        let (a, b, c, d) = (atom(), atom(), atom(), atom());
        documents.push(match documents.len() % 5 {
            0 => format!("{{\"z\":{a},\"a\":{b},\"z\":{c}}}"),
            1 => format!("[ {a},\t{b} ,\n{c},{d}]"),
            2 => format!("{{ \"\\u007a\" : {a} ,\"\":{b},\"ü\":[{c}, {{\"k\":{d}}}]}}"),
            3 => format!("{}{a}{}", "[".repeat(20), "]".repeat(20)),
            _ => format!("{{\"long\":\"{}\",\"n\":{a},\"m\":{b}}}", "x\\u00e9".repeat(200)),
        });
    }
    documents
}

/// Makes a call over REST whose arguments stand in the body as they are. Its id.
#[track_caller]
fn make(home: &Home, tool: &str, arguments: &str) -> String {
    let body = format!(r#"{{"node":"attic","tool":"{tool}","arguments":{arguments}}}"#);
    let answer = home.ask("POST", "/api/v1/calls", &[("Content-Type", "application/json")], body.as_bytes());
    text(&answer.expect(202), "id").to_owned()
}

#[track_caller]
fn result(home: &Home, id: &str) -> Vec<u8> {
    let ended = home.ask("GET", &format!("/api/v1/calls/{id}"), &[("Prefer", "wait=20")], b"");
    assert_eq!(ended.json()["state"], "done", "{}", ended.text());
    let result = home.get(&format!("calls/{id}/result"));
    assert_eq!(result.status, 200, "{}", result.text());
    result.body
}

#[derive(Deserialize)]
struct Row<'a> {
    id: &'a str,
    #[serde(borrow)]
    output: &'a RawValue,
    output_encoding: &'a str,
}

#[derive(Deserialize)]
struct Rows<'a> {
    #[serde(borrow)]
    items: Vec<Row<'a>>,
}

/// The bytes that a document of `--json` holds.
fn embedded(row: &Row<'_>) -> Vec<u8> {
    let string = || serde_json::from_str::<String>(row.output.get()).expect("a string");
    match row.output_encoding {
        "json" => row.output.get().as_bytes().to_vec(),
        "text" => string().into_bytes(),
        "base64" => data_encoding::BASE64.decode(string().as_bytes()).expect("base64"),
        other => panic!("{other}"),
    }
}

/// Point 8 of the acceptance.
#[test]
fn b02_two_hundred_odd_documents_come_back_byte_for_byte() {
    let home = Home::new("attic").with_config(CAT).started();
    let documents = odd_documents();
    assert_eq!(documents.len(), 200);
    let ids: Vec<String> = documents.iter().map(|document| make(&home, "cat", document)).collect();
    for (id, document) in ids.iter().zip(&documents) {
        assert_eq!(String::from_utf8_lossy(&result(&home, id)), *document);
    }
    // One document holds them all: no row of it, however odd, keeps the others from being read (B1).
    let listed = stdout(&home, &["calls", "--json", "--limit", "200"], b"");
    let listed = String::from_utf8(listed).expect("text");
    let rows: Rows<'_> = serde_json::from_str(&listed).expect("one document");
    assert_eq!(rows.items.len(), 200);
    for (id, document) in ids.iter().zip(&documents) {
        let row = rows.items.iter().find(|row| row.id == id).expect("it is listed");
        assert_eq!(String::from_utf8_lossy(&embedded(row)), *document, "{}", row.output_encoding);
        let portable = serde_json::from_str::<serde_json::Value>(document).is_ok();
        assert_eq!(row.output_encoding, if portable { "json" } else { "text" }, "{document}");
    }
    // Through the command, ten documents in each call; and alone where something is odd in itself.
    let packs = documents.chunks(20).map(|pack| format!("[{}]", pack.join(",\n ")));
    let alone = ["1e999", "null", r#""\ud800""#, "6.10", r#"{"z":1.10,"a":1e2,"z":12345678901234567890123}"#];
    for document in packs.chain(alone.map(str::to_owned)) {
        let called = stdout(&home, &["call", "attic", "cat", "--input", "-"], format!(" {document}\n").as_bytes());
        assert_eq!(String::from_utf8_lossy(&called), document);
        let shown = stdout(&home, &["call", "attic", "cat", "--input", &document, "--json"], b"");
        let row: Row<'_> = serde_json::from_slice(&shown).expect("one document");
        assert_eq!(String::from_utf8_lossy(&embedded(&row)), document);
        let fetched = stdout(&home, &["result", row.id], b"");
        assert_eq!(String::from_utf8_lossy(&fetched), document);
        let fetched = stdout(&home, &["result", row.id, "--json"], b"");
        assert_eq!(embedded(&serde_json::from_slice(&fetched).expect("one document")), document.as_bytes());
    }
    let named = ["id=12345678901234567890123", "v=1.10", "t=6.10 kg", "z=1e999"];
    let named: Vec<&str> = named.iter().flat_map(|named| ["--arg", named]).collect();
    let called = stdout(&home, &[&["call", "attic", "cat"][..], &named].concat(), b"");
    let written = br#"{"id":12345678901234567890123,"v":1.10,"t":"6.10 kg","z":1e999}"#;
    assert_eq!(String::from_utf8_lossy(&called), String::from_utf8_lossy(written));
}

/// The other half of point 8.
#[test]
fn b02_fifty_binary_outputs_come_back_byte_for_byte() {
    let home = Home::new("attic");
    let shared = home.path("shared");
    std::fs::create_dir(&shared).expect("a directory");
    let file = |n: usize| {
        let mut state = n as u32 + 1;
        let mut byte = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        // Up to what is inline, above it, and above what a call's own document shows.
        let len = [1, 2, 100, 32_768, 32_769, 70_000, 300_000][n % 7];
        let mut bytes: Vec<u8> = (0..len).map(|_| byte()).collect();
        match n % 4 {
            0 => bytes.push(b'\n'),
            1 => bytes.extend(b"\r\n\0"),
            2 => bytes.insert(0, 0xef),
            _ => {}
        }
        bytes
    };
    for n in 0..50 {
        std::fs::write(shared.join(format!("b{n}")), file(n)).expect("a file");
    }
    let home = home.with_config(&format!("[files]\nroots = [{:?}]\n", shared.display().to_string())).started();
    let ids: Vec<String> =
        (0..50).map(|n| make(&home, "files.read", &format!(r#"{{"path":"b{n}","encoding":"raw"}}"#))).collect();
    for (n, id) in ids.iter().enumerate() {
        assert!(result(&home, id) == file(n), "b{n} over REST");
    }
    for n in (0..50).step_by(5) {
        let path = format!("path=b{n}");
        let called = ["call", "attic", "files.read", "--arg", &path, "--arg", "encoding=raw"];
        assert!(stdout(&home, &called, b"") == file(n), "b{n} through `call`");
        assert!(stdout(&home, &["result", &ids[n], "-o", "-"], b"") == file(n), "b{n} through `result -o -`");
        stdout(&home, &["result", &ids[n], "-o", "got"], b"");
        assert!(std::fs::read(home.path("got")).expect("the file") == file(n), "b{n} into a file");
        let shown = stdout(&home, &["result", &ids[n], "--json"], b"");
        assert!(embedded(&serde_json::from_slice(&shown).expect("one document")) == file(n), "b{n} through `--json`");
    }
}

#[test]
fn l08_a_dash_is_standard_output_and_no_file() {
    let home = Home::new("attic").with_config(CAT).started();
    let document = "{\"a\": 1.10}";
    let id = make(&home, "cat", document);
    result(&home, &id);
    assert_eq!(stdout(&home, &["result", &id, "-o", "-"], b""), document.as_bytes());
    assert!(!home.path("-").exists());
    let both = run(&home, &["result", &id, "-o", "-", "--json"], b"");
    assert_eq!(both.status.code(), Some(2), "{both:?}");
}

#[test]
fn b07_output_that_could_not_be_written_is_told() {
    let home = Home::new("attic").with_config(CAT).started();
    let id = make(&home, "cat", "{\"a\":1}");
    result(&home, &id);
    let commands: [&[&str]; 15] = [
        &["nodes"],
        &["nodes", "--json"],
        &["status"],
        &["calls"],
        &["calls", &id],
        &["tools"],
        &["invite"],
        &["token"],
        &["call", "attic", "cat"],
        &["call", "attic", "cat", "--json"],
        &["result", &id],
        &["logs"],
        &["doctor"],
        &["--help"],
        &["completions", "bash"],
    ];
    for arguments in commands {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let output = sigil(&home, arguments).stdout(full).stderr(Stdio::piped()).output().expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {told}");
        assert!(told.contains("No space left on device"), "{arguments:?}: {told}");
        // A reader that has gone is no error.
        let mut child =
            sigil(&home, arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("standard output"), "{arguments:?}: {output:?}");
        assert_ne!(output.status.code(), Some(1), "{arguments:?}");
    }
}

#[test]
fn b13_a_follower_ends_with_its_reader_and_goes_on_with_a_new_run() {
    let mut home = Home::new("attic").started();
    let mut child = sigil(&home, &["logs", "-f"]).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe"));
    lines.read_line(&mut String::new()).expect("a line");
    drop(lines);
    wait_until("the follower ends", Duration::from_secs(5), || child.try_wait().expect("ours").is_some());

    let followed = home.path("followed");
    let file = std::fs::File::create(&followed).expect("a file");
    let mut child = sigil(&home, &["logs", "-f"]).stdout(file).spawn().expect("it starts");
    let ready = || std::fs::read_to_string(&followed).unwrap_or_default().matches("ready pid=").count();
    wait_until("the first run is followed", Duration::from_secs(5), || ready() == 1);
    home.stop();
    home.start();
    wait_until("the new run is followed", Duration::from_secs(5), || ready() == 2);
    child.kill().expect("ours");
    child.wait().expect("it ended");
}

/// A FUSE file system whose daemon answers nothing stands for a network disk that is dead.
#[test]
fn b08_a_dead_disk_holds_neither_start_nor_stop() {
    let mut home = Home::new("attic");
    let disks = tempfile::tempdir().expect("a directory");
    let (dead, alive) = (disks.path().join("dead"), disks.path().join("alive"));
    std::fs::create_dir(&dead).expect("a directory");
    std::fs::create_dir(&alive).expect("a directory");
    std::fs::write(alive.join("note"), "milk").expect("a file");
    let script = "exec 3<>/dev/fuse && mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 none \"$0\" && \
                  echo mounted && read line; umount -l \"$0\"";
    let mut disk = Command::new("sh")
        .args(["-c", script])
        .arg(&dead)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell");
    let mut said = String::new();
    BufReader::new(disk.stdout.take().expect("a pipe")).read_line(&mut said).expect("it reads");
    if said.trim() != "mounted" {
        disk.wait().expect("it ended");
        return skip("b08_a_dead_disk_holds_neither_start_nor_stop", "mounting FUSE needs root and /dev/fuse");
    }
    let config = format!(
        "[files]\nroots = [{:?}, {:?}]\n[tools.far]\ncommand = {:?}\n",
        dead.display().to_string(),
        alive.display().to_string(),
        dead.join("program").display().to_string()
    );
    home = home.with_config(&config);
    let began = now();
    home.start();
    assert!(began.elapsed() < SOON, "the start does not wait: {:?}", began.elapsed());
    let read = |path: &std::path::Path| {
        let path = format!("path={}", String::from_utf8_lossy(path.as_os_str().as_bytes()));
        run(&home, &["call", "attic", "files.read", "--arg", &path, "--timeout", "1s"], b"")
    };
    let hung = read(&dead.join("f"));
    let told = String::from_utf8_lossy(&hung.stderr).into_owned();
    assert!(hung.status.code() == Some(1) && told.contains("timed out after 1s"), "{told}");
    assert!(read(&alive.join("note")).status.success(), "the other root goes on");
    let roots = String::from_utf8(stdout(&home, &["call", "attic", "files.list"], b"")).expect("text");
    assert!(roots.contains("\"unreachable\"") && roots.contains("\"directory\""), "{roots}");
    wait_until("the dead disk is told", SOON, || {
        let log = home.log();
        log.contains("files.roots:") && log.contains("tools.far.command:") && log.contains("does not answer")
    });
    let began = now();
    home.stop();
    assert!(began.elapsed() < SOON, "nor does the stop: {:?}", began.elapsed());
    drop(disk.stdin.take());
    disk.wait().expect("it ended");
}
