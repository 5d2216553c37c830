//! The network falls apart and comes together again.

use std::time::Duration;

use crate::harness::{Home, Mesh, PATIENCE, skip, text, wait_converged, wait_until};
use crate::netns::Network;

#[test]
fn a7_both_sides_of_a_partition_accept_calls_and_agree_after_healing() {
    let network = match Network::new(4) {
        Ok(network) => network,
        Err(why) => return skip("a7_both_sides_of_a_partition_accept_calls_and_agree_after_healing", &why),
    };
    let names = ["attic", "bureau", "cellar", "dormer"];
    let homes = names.iter().enumerate().map(|(i, name)| Home::new(name).in_namespace(&network.namespace(i))).collect();
    let mut mesh = Mesh::of(homes);
    // The fourth is off, and will be revoked on one side of the partition.
    mesh.homes[3].stop();
    for home in &mesh.homes[..3] {
        home.wait_node("dormer", "offline");
    }

    // 2|1 with the gateway alone.
    let alone = mesh.leader();
    let (left, right) = ((alone + 1) % 3, (alone + 2) % 3);
    let mut groups = [0; 4];
    groups[alone] = 1;
    network.split(&groups);
    let old = mesh.homes[alone].peer_id();
    wait_until("the two elect one of them", PATIENCE, || {
        let gateway = mesh.homes[left].gateway();
        gateway.as_ref().is_some_and(|(peer, _)| *peer != old) && gateway == mesh.homes[right].gateway()
    });
    let mut calls = Vec::new();
    for (origin, target) in [(alone, left), (alone, right), (left, right), (right, left), (left, alone), (alone, alone)]
    {
        let target = mesh.homes[target].name.clone();
        calls.push((origin, mesh.homes[origin].call(&target, "append", 120)));
    }
    // Within each side work goes on.
    for (origin, id) in [&calls[2], &calls[3], &calls[5]] {
        assert_eq!(mesh.homes[*origin].wait_ended(id, PATIENCE)["state"], "done");
    }
    let deleted = mesh.homes[left].delete("nodes/dormer");
    assert!((200..300).contains(&deleted.status), "{}", deleted.text());
    assert_eq!(mesh.homes[alone].get("nodes/dormer").status, 200, "the other side cannot know yet");

    // Then everyone alone.
    groups[left] = 2;
    network.split(&groups);
    wait_until("each leads itself", PATIENCE, || mesh.homes[..3].iter().all(Home::leads));
    for (origin, target) in [(left, right), (right, alone), (alone, left)] {
        let target = mesh.homes[target].name.clone();
        calls.push((origin, mesh.homes[origin].call(&target, "append", 120)));
    }

    network.heal();
    wait_converged(&[&mesh.homes[0], &mesh.homes[1], &mesh.homes[2]], PATIENCE);
    for (origin, id) in &calls {
        let call = mesh.homes[*origin].wait_confirmed(id, Duration::from_mins(1));
        assert_eq!(call["state"], "done", "{call}");
        mesh.assert_told_truly(&call);
    }
    mesh.assert_nothing_ran_twice();
    for home in &mesh.homes[..3] {
        wait_until("the revocation is everywhere", PATIENCE, || home.get("nodes/dormer").status == 404);
    }
    mesh.homes[3].start();
    wait_until("the revoked device learns of it", PATIENCE, || mesh.homes[3].status()["revoked"] == true);
    for home in &mesh.homes[..3] {
        assert_eq!(home.get("nodes/dormer").status, 404, "a revocation is never undone");
    }
}

#[test]
fn a7_two_peers_that_lose_each_other_both_work_and_then_agree() {
    let network = match Network::new(2) {
        Ok(network) => network,
        Err(why) => return skip("a7_two_peers_that_lose_each_other_both_work_and_then_agree", &why),
    };
    let homes = (0..2).map(|i| Home::new(["attic", "bureau"][i]).in_namespace(&network.namespace(i))).collect();
    let mesh = Mesh::of(homes);
    network.split(&[0, 1]);
    wait_until("each leads itself", PATIENCE, || mesh.homes.iter().all(Home::leads));
    let calls: Vec<String> =
        (0..2).map(|origin| mesh.homes[origin].call(["bureau", "attic"][origin], "append", 120)).collect();
    network.heal();
    mesh.wait_converged();
    for (origin, id) in calls.iter().enumerate() {
        let call = mesh.homes[origin].wait_confirmed(id, PATIENCE);
        assert_eq!(call["state"], "done", "{call}");
        assert_eq!(mesh.runs_of(text(&call, "id")), [1]);
    }
}
