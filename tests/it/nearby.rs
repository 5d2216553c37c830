//! Two devices on one LAN, nothing configured.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{Home, PATIENCE, items, skip, text, wait_converged, wait_until};
use crate::netns::Network;

#[test]
fn a10_strangers_see_each_other_nearby_and_one_joins_after_approval() {
    let network = match Network::new(2) {
        Ok(network) => network,
        Err(why) => return skip("a10_strangers_see_each_other_nearby_and_one_joins_after_approval", &why),
    };
    let mut attic = Home::new("attic").with_only_config("").in_namespace(&network.namespace(0)).started();
    let mut bureau = Home::new("bureau").with_only_config("").in_namespace(&network.namespace(1)).started();
    let (attic_id, bureau_id) = (attic.peer_id(), bureau.peer_id());
    let sees = |home: &Home, peer: &str| {
        items(&home.get("nearby").expect(200)).iter().any(|nearby| text(nearby, "peer_id") == peer)
    };
    wait_until("they see each other", Duration::from_secs(3), || sees(&attic, &bureau_id) && sees(&bureau, &attic_id));
    // Seen is not asked: nobody awaits approval.
    assert!(items(&attic.get("pending").expect(200)).is_empty());
    assert_eq!(attic.nodes().len(), 1);

    // Nobody is asked before a person has compared whom it would be.
    let unsure = bureau.cli(&["join", "--nearby", "--json"]).json(8);
    assert_eq!((&unsure["code"], &unsure["peer_id"]), (&Value::from("confirm_peer"), &Value::from(attic_id.as_str())));
    assert!(items(&attic.get("pending").expect(200)).is_empty());
    let asked = bureau.cli(&["join", "--nearby", "--json", "--yes", &attic.check_words()]);
    assert!(asked.stdout.contains("pending"), "{asked:?}");
    let mut pending = Value::Null;
    wait_until("its join request is at the other", PATIENCE, || {
        pending = items(&attic.get("pending").expect(200)).first().cloned().unwrap_or_default();
        text(&pending, "peer_id") == bureau_id
    });
    assert_eq!(text(&pending, "node_id"), "bureau");
    let approved = attic.cli(&["approve", "bureau", "--json"]);
    assert_eq!(approved.code, 0, "{approved:?}");
    wait_converged(&[&attic, &bureau], PATIENCE);
    wait_until("no one is nearby any more", PATIENCE, || !sees(&attic, &bureau_id));

    // Known peers find each other without multicast.
    attic.stop();
    bureau.stop();
    network.without_multicast(0);
    network.without_multicast(1);
    attic.start();
    bureau.start();
    wait_converged(&[&attic, &bureau], PATIENCE);
}
