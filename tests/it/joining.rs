//! Two devices and a code; leaving; and the demo that shows it all.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Home, Mesh, PATIENCE, items, observe, text, wait_converged, wait_for};

#[test]
fn a1_the_demo_keeps_its_promises() {
    let output = Command::new("timeout")
        .args(["120", env!("CARGO_BIN_EXE_sigil"), "demo", "--once", "--json"])
        .output()
        .expect("the demo runs");
    let (report, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{report}\n{told}");
    let report: Value = serde_json::from_str(&report).expect("one machine-readable report");
    assert!(report.get("schema").is_some(), "{report}");
}

#[test]
fn a2_two_devices_and_a_code_make_one_mesh() {
    let (first, second) = (Home::new("attic").started(), Home::new("bureau").started());
    assert_eq!(first.nodes().len(), 1, "a mesh of one");
    let alone = text(&second.status(), "mesh_id").to_owned();
    let code = first.invite();
    let joined = second.join(&code);
    assert!((200..300).contains(&joined.status), "{}", joined.text());

    wait_converged(&[&first, &second], Duration::from_secs(10));
    for home in [&first, &second] {
        let mut names: Vec<String> = home.nodes().iter().map(|node| text(node, "node_id").to_owned()).collect();
        names.sort();
        assert_eq!(names, ["attic", "bureau"], "at {}", home.name);
    }
    let (one, two) = (first.status(), second.status());
    assert_eq!(one["mesh_id"], two["mesh_id"]);
    assert_ne!(two["mesh_id"], alone.as_str());
    assert_eq!(one["gateway"]["peer_id"], two["gateway"]["peer_id"]);
    assert_eq!(one["gateway"]["epoch"], two["gateway"]["epoch"]);

    // A call in each direction.
    for (origin, target) in [(&first, "bureau"), (&second, "attic")] {
        let id = origin.call(target, "device.info", 60);
        assert_eq!(origin.wait_ended(&id, PATIENCE)["state"], "done");
    }
}

#[test]
fn a2_a_used_an_expired_and_an_unreachable_code_each_say_so() {
    let mut inviter = Home::new("attic").started();
    let newcomer = Home::new("bureau").started();
    let third = Home::new("cellar").started();

    let used = inviter.invite();
    assert!((200..300).contains(&newcomer.join(&used).status));
    assert_eq!(third.join(&used).problem(409)["code"], "invite_used");

    let invite = inviter.cli(&["invite", "--expires", "1s", "--json"]).json(0);
    let expired = text(&invite, "code").to_owned();
    let ends = text(&invite, "expires_at").to_owned();
    assert!(!ends.is_empty(), "{invite}");
    // The subject is the passing of that second: a try before its end would use the code up.
    observe(Duration::from_millis(1_500), || {});
    assert_eq!(third.join(&expired).problem(410)["code"], "invite_expired");

    let orphan = inviter.invite();
    inviter.stop();
    let down = third.join(&orphan).problem(503);
    assert_eq!(down["code"], "inviter_down");

    let nonsense = third.join("this-is-not-a-code").problem(422);
    assert_eq!(nonsense["code"], "invite_invalid");
    let mut codes = [text(&down, "code"), text(&nonsense, "code"), "invite_used", "invite_expired"];
    codes.sort_unstable();
    assert!(codes.windows(2).all(|pair| pair[0] != pair[1]), "each cause has its own code: {codes:?}");
}

#[test]
fn a2_the_same_device_may_show_its_code_again() {
    let (inviter, newcomer) = (Home::new("attic").started(), Home::new("bureau").started());
    let code = inviter.invite();
    assert!((200..300).contains(&newcomer.join(&code).status));
    let again = newcomer.join(&code);
    assert!((200..300).contains(&again.status), "a lost reply must not cost the invite: {}", again.text());
}

#[test]
fn a_name_that_is_taken_gets_a_number() {
    let (inviter, newcomer) = (Home::new("attic").started(), Home::new("attic").started());
    let joined = newcomer.join(&inviter.invite());
    assert!((200..300).contains(&joined.status), "{}", joined.text());
    wait_for("the newcomer has its name", PATIENCE, || (newcomer.status()["node_id"] == "attic-2").then_some(()));
    inviter.wait_node("attic-2", "online");
}

#[test]
fn leaving_goes_back_to_a_mesh_of_one() {
    let mesh = Mesh::named(&["attic", "bureau"]);
    let left = mesh.homes[1].post("leave", &json!({}));
    assert!((200..300).contains(&left.status), "{}", left.text());
    wait_for("a mesh of one", PATIENCE, || {
        let nodes = mesh.homes[1].get("nodes");
        (nodes.status == 200 && items(&nodes.json()).len() == 1).then_some(())
    });
    wait_for("the others see that it left", PATIENCE, || {
        (mesh.homes[0].node_state("bureau").as_deref() != Some("online")).then_some(())
    });
}

#[test]
fn another_mesh_is_joined_only_on_purpose() {
    let mesh = Mesh::named(&["attic", "bureau"]);
    let other = Home::new("cellar").started();
    let refused = mesh.homes[1].join(&other.invite()).problem(409);
    assert_eq!(refused["code"], "would_leave");
}
