//! What two owners say to each other is found nowhere on a device of tier shared: not on its disk, not in its memory, not
//! in its answers.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Home, PATIENCE, files_below, text, wait_converged, wait_until};

const ARGUMENT: &str = "canary-argument-61fe0b";
const OUTPUT: &str = "canary-output-9d02c4";
const FILE: &str = "canary-file-77ac15";
const CANCELLED: &str = "canary-cancelled-3b4e98";
const WORDS: [&str; 4] = [ARGUMENT, OUTPUT, FILE, CANCELLED];

fn finds(haystack: &[u8]) -> Option<&'static str> {
    let mut words = WORDS.into_iter();
    words.find(|word| haystack.windows(word.len()).any(|window| window == word.as_bytes()))
}

/// Shows all memory of an agent that it may write and has written, in runs of pages. Answers how many bytes that were. Of
/// what its heap has only reserved, which is a thousand times as much, nothing is read.
fn with_memory(home: &Home, mut look: impl FnMut(&[u8], &str)) -> usize {
    const PAGE: u64 = 4096;
    let pid = home.pid();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("it runs");
    let mut memory = fs::File::open(format!("/proc/{pid}/mem")).expect("a test may look");
    let mut pagemap = fs::File::open(format!("/proc/{pid}/pagemap")).expect("a test may look");
    let mut looked = 0;
    for line in maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|may| may.starts_with("rw"))) {
        let (first, last) = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
        let at = |hex| u64::from_str_radix(hex, 16).expect("an address");
        let (first, last) = (at(first), at(last));
        let mut entries = vec![0; usize::try_from((last - first) / PAGE * 8).expect("fits")];
        pagemap.seek(SeekFrom::Start(first / PAGE * 8)).expect("an entry for each page");
        pagemap.read_exact(&mut entries).expect("an entry for each page");
        // The two highest bits: in memory, on swap.
        let is_there: Vec<bool> = entries.chunks_exact(8).map(|entry| entry[7] & 0xc0 != 0).collect();
        let mut page = first;
        for run in is_there.chunk_by(|one, other| one == other) {
            let mut bytes = vec![0; if run[0] { run.len() * usize::try_from(PAGE).expect("fits") } else { 0 }];
            if run[0] && memory.seek(SeekFrom::Start(page)).is_ok() && memory.read_exact(&mut bytes).is_ok() {
                looked += bytes.len();
                look(&bytes, line);
            }
            page += run.len() as u64 * PAGE;
        }
    }
    looked
}

/// Asserts that none of the words is below its directory, in its process, or in what it tells.
#[track_caller]
fn assert_clean(home: &Home, ids: &[String]) {
    for file in files_below(&home.path("")) {
        let found = fs::read(&file).ok().and_then(|bytes| finds(&bytes));
        assert!(found.is_none(), "{found:?} is in {}", file.display());
    }
    let looked = with_memory(home, |bytes, line| {
        let found = finds(bytes);
        assert!(found.is_none(), "{found:?} is in the memory of {}: {line}", home.name);
    });
    assert!(looked > 1024 * 1024, "only {looked} bytes of memory could be read");
    for id in ids {
        assert_eq!(home.get(&format!("calls/{id}")).status, 404);
    }
    for path in ["calls", "calls?state=ended", "status", "nodes", "tools"] {
        let answer = home.get(path).text();
        assert_eq!(finds(answer.as_bytes()), None, "{answer}");
        assert!(!ids.iter().any(|id| answer.contains(id.as_str())), "{answer}");
    }
}

fn guest(owner: &Home, name: &str) -> Home {
    let answer = owner.post("invites", &json!({ "tier": "shared" }));
    let home = Home::new(name).with_tool("own", "cat >/dev/null; echo '\"seen\"'", "none").started();
    assert!((200..300).contains(&home.join(text(&answer.json(), "code")).status));
    home
}

fn call(at: &Home, node: &str, tool: &str, arguments: &Value) -> String {
    let answer = at.post("calls", &json!({ "node": node, "tool": tool, "arguments": arguments, "ttl_s": 60 }));
    assert!((200..300).contains(&answer.status), "{}", answer.text());
    text(&answer.json(), "id").to_owned()
}

#[test]
fn s03_a_shared_device_finds_nothing_of_what_owners_say_to_each_other() {
    let attic = Home::new("attic").started();
    let file = format!("cat >/dev/null; printf '\"'; yes {FILE} | head -n 16000 | tr -d '\\n'; printf '\"'");
    let bureau = Home::new("bureau")
        .with_tool("say", &format!("cat >/dev/null; echo '\"{OUTPUT}\"'"), "none")
        .with_tool("file", &file, "none")
        .with_tool("wait", "cat >/dev/null; sleep 30", "none")
        .started();
    assert!((200..300).contains(&bureau.join(&attic.invite()).status));
    let before = guest(&attic, "before");
    wait_converged(&[&attic, &bureau, &before], Duration::from_secs(10));

    let said = call(&attic, "bureau", "say", &json!({ "word": ARGUMENT }));
    let file = call(&attic, "bureau", "file", &json!({}));
    let cancelled = call(&attic, "bureau", "wait", &json!({ "word": CANCELLED }));
    assert_eq!(attic.wait_confirmed(&said, PATIENCE)["state"], "done");
    assert_eq!(attic.wait_confirmed(&file, PATIENCE)["state"], "done");
    wait_until("it runs", PATIENCE, || attic.get_call(&cancelled)["state"] == "running");
    attic.post(&format!("calls/{cancelled}/cancel"), &json!({ "reason": CANCELLED }));
    assert_eq!(attic.wait_confirmed(&cancelled, PATIENCE)["state"], "cancelled");
    let result = attic.get(&format!("calls/{file}/result"));
    assert!(result.body.len() > 280_000 && finds(&result.body).is_some());

    let after = guest(&bureau, "after");
    wait_converged(&[&attic, &bureau, &before, &after], Duration::from_secs(10));
    // Both have what comes after it in those logs; and each sees its own, as origin and as target.
    for home in [&before, &after] {
        let asked = home.call("bureau", "device.info", 60);
        assert_eq!(home.wait_confirmed(&asked, PATIENCE)["state"], "done");
        // Its arguments are a blob, which their target may have.
        let ran = call(&attic, &home.name, "own", &json!({ "long": "x".repeat(100_000) }));
        assert_eq!(attic.wait_confirmed(&ran, PATIENCE)["state"], "done");
        assert_eq!(home.wait_confirmed(&ran, PATIENCE)["state"], "done");
        assert_clean(home, &[said.clone(), file.clone(), cancelled.clone()]);
    }
    assert!(finds(attic.get(&format!("calls/{said}")).text().as_bytes()).is_some(), "the words can be found at all");
}
