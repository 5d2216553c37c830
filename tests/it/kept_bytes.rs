//! Large arguments and results: kept as long as somebody needs them, bounded while the agent runs, and when they are gone,
//! that is said.

use serde_json::json;

use crate::harness::{Home, Mesh, PATIENCE, SOON, call_is_over, files_below, now, text, wait_until};

const MIB: u64 = 1024 * 1024;
/// Beyond this the oldest blobs go (`docs/protocol.md`, Blobs).
const KEPT_BYTES: u64 = 256 * MIB;
/// Size of one result.
const RESULT_BYTES: u64 = 60 * MIB;

fn blob_bytes(home: &Home) -> u64 {
    files_below(&home.path("blobs")).iter().filter_map(|file| std::fs::metadata(file).ok()).map(|file| file.len()).sum()
}

#[test]
fn b03_b10_what_an_open_call_needs_stays_and_what_is_too_much_goes_and_is_told() {
    // Each result differs, so that each is a blob of its own.
    let large = format!("cat >/dev/null; printf %s \"$SIGIL_REQUEST_ID\"; head -c {RESULT_BYTES} /dev/zero");
    let attic = Home::new("attic").with_tool("large", &large, "none");
    let bureau = Home::new("bureau").with_tool("len", "wc -c", "once");
    let mut mesh = Mesh::of(vec![attic, bureau]);
    mesh.homes[1].stop();
    mesh.homes[0].wait_node("bureau", "offline");

    // 80 KB of arguments wait for a device that is off: they are a blob.
    let arguments = json!({ "long": "x".repeat(80_000) });
    let body = json!({ "node": "bureau", "tool": "len", "arguments": arguments, "ttl_s": 120 });
    let waiting = text(&mesh.homes[0].post("calls", &body).expect(202), "id").to_owned();
    let results: Vec<String> = (0..6)
        .map(|_| {
            let id = mesh.homes[0].call("attic", "large", 60);
            assert_eq!(mesh.homes[0].wait_confirmed(&id, PATIENCE)["state"], "done");
            id
        })
        .collect();
    wait_until("what is too much goes while it runs", PATIENCE, || blob_bytes(&mesh.homes[0]) <= KEPT_BYTES);

    let (first, last) = (&results[0], &results[5]);
    let kept = mesh.homes[0].get(&format!("calls/{last}/result"));
    assert_eq!((kept.status, kept.body.len() as u64 > RESULT_BYTES), (200, true));
    let asked = now();
    let gone = mesh.homes[0].get(&format!("calls/{first}/result"));
    assert!(asked.elapsed() < SOON, "it is told at once");
    let told = gone.problem(410);
    assert_eq!(text(&told, "code"), "result_gone", "{told}");
    let call = mesh.homes[0].get_call(first);
    assert!(call["result_url"].is_null(), "{call}");
    let said = mesh.homes[0].cli(&["result", first]);
    assert!(said.code != 0 && said.stderr.contains("not kept"), "{said:?}");

    // Over a restart of its origin, too, the arguments stay; and its device has them when it comes back.
    mesh.homes[0].stop();
    mesh.homes[0].start();
    assert!(!call_is_over(&mesh.homes[0].get_call(&waiting)));
    // Nothing was put in just now any more, and they are the oldest of all that is too much.
    for _ in 0..2 {
        let id = mesh.homes[0].call("attic", "large", 60);
        assert_eq!(mesh.homes[0].wait_confirmed(&id, PATIENCE)["state"], "done");
    }
    wait_until("what is too much goes again", PATIENCE, || blob_bytes(&mesh.homes[0]) <= KEPT_BYTES);
    mesh.homes[1].start();
    let ended = mesh.homes[0].wait_confirmed(&waiting, PATIENCE);
    assert_eq!(ended["state"], "done", "{ended}");
    let output = mesh.homes[0].get(&format!("calls/{waiting}/result")).text();
    assert_eq!(output.trim(), arguments.to_string().len().to_string());
}
