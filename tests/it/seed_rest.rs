//! REST routes of nodes: listing, reading, approving, removing.

use serde_json::json;

use crate::harness::{Home, Mesh, PATIENCE, items, text, wait_for, wait_until};

#[test]
fn seed_r1_get_nodes_lists() {
    let home = Home::new("attic").started();
    let list = home.get("nodes").expect(200);
    assert_eq!(items(&list).len(), 1);
    assert_eq!(text(&items(&list)[0], "node_id"), "attic");
    assert!(list.get("next_cursor").is_some(), "{list}");
}

#[test]
fn seed_r2_get_node_returns_it_and_an_unknown_one_is_404() {
    let home = Home::new("attic").started();
    assert_eq!(home.get("nodes/attic").expect(200)["peer_id"], home.peer_id());
    assert_eq!(home.get("nodes/nowhere").problem(404)["code"], "unknown_node");
}

#[test]
fn seed_r3_post_approve_approves_a_join_request() {
    let attic = Home::new("attic").started();
    let stranger = Home::new("bureau").started();
    let asked = stranger.ask_to_join(&attic);
    assert_eq!(asked.status, 202, "{}", asked.text());
    let peer = stranger.peer_id();
    wait_until("its join request is here", PATIENCE, || {
        items(&attic.get("pending").expect(200)).iter().any(|waiting| text(waiting, "peer_id") == peer)
    });
    assert_eq!(attic.get(&format!("nodes/{peer}")).expect(200)["state"], "pending");
    attic.post(&format!("nodes/{peer}/approve"), &json!({})).expect(200);
    attic.wait_node("bureau", "online");
    stranger.wait_node("attic", "online");
    assert!(items(&attic.get("pending").expect(200)).is_empty());
    assert_eq!(attic.post("nodes/nowhere/approve", &json!({})).problem(404)["status"], 404);
}

#[test]
fn seed_r4_delete_revokes_and_forgets_and_ends_its_queued_calls() {
    let mut mesh = Mesh::named(&["attic", "bureau", "cellar"]);
    mesh.homes[2].stop();
    mesh.homes[0].wait_node("cellar", "offline");
    let waiting = mesh.homes[0].call("cellar", "append", 600);

    let deleted = mesh.homes[0].delete("nodes/cellar");
    assert!((200..300).contains(&deleted.status), "{}", deleted.text());
    for home in &mesh.homes[..2] {
        wait_until("it is forgotten", PATIENCE, || home.get("nodes/cellar").status == 404);
    }
    let call = mesh.homes[0].wait_ended(&waiting, PATIENCE);
    assert_eq!(call["state"], "undeliverable", "{call}");
    assert!(!text(&call, "reason").is_empty(), "{call}");

    // It is not approve again, and what waited for it does not run.
    mesh.homes[2].start();
    wait_for("the forgotten device learns of it", PATIENCE, || {
        (mesh.homes[2].status()["revoked"] == true).then_some(())
    });
    assert_eq!(mesh.homes[0].get("nodes/cellar").status, 404);
    assert!(mesh.runs_of(&waiting).is_empty());

    let Err(refused) = mesh.homes[2].try_call("attic", "append", 60) else { panic!("it belongs to nothing") };
    assert_eq!(refused.problem(403)["code"], "not_member");

    // Only a new approval brings it back, and it belongs as before.
    let joined = mesh.homes[2].join(&mesh.homes[0].invite());
    assert!((200..300).contains(&joined.status), "{}", joined.text());
    mesh.homes[0].wait_node("cellar", "online");
    assert_eq!(mesh.homes[2].status()["revoked"], false);
    let call = mesh.homes[2].call("attic", "append", 60);
    assert_eq!(mesh.homes[2].wait_confirmed(&call, PATIENCE)["state"], "done");
    assert!(mesh.runs_of(&waiting).is_empty());

    // The link of one that is online drops, its tools go with it, and it learns of it as well; `leave` starts anew.
    let links = |home: &Home| home.status()["links"].as_array().map_or(0, Vec::len);
    wait_until("all are linked", PATIENCE, || links(&mesh.homes[0]) == 2);
    assert!(mesh.homes[0].tool("node:bureau:append").is_some());
    let deleted = mesh.homes[0].delete("nodes/bureau");
    assert!((200..300).contains(&deleted.status), "{}", deleted.text());
    assert!(mesh.homes[0].tool("node:bureau:append").is_none());
    wait_until("its link drops", PATIENCE, || links(&mesh.homes[0]) == 1);
    wait_until("it learns of it", PATIENCE, || mesh.homes[1].status()["revoked"] == true);
    wait_until("it has no links", PATIENCE, || links(&mesh.homes[1]) == 0);
    let left = mesh.homes[1].post("leave", &json!({}));
    assert!((200..300).contains(&left.status), "{}", left.text());
    wait_until("a mesh of one", PATIENCE, || {
        let status = mesh.homes[1].status();
        status["revoked"] == false && mesh.homes[1].nodes().len() == 1
    });
    assert_eq!(mesh.homes[0].get("nodes/bureau").status, 404);
}
