//! Questions about rights over HTTP, by the table of cases.

use super::*;
use crate::doors::ops::policy::tests::{cases, held, origin};

/// Makes the mesh behind the doors a world of the table.
fn enter(fake: &Fake, name: &str) {
    let (rights, policy, devices) = held(name);
    let mut view = View::clone(&fake.view.borrow());
    view.nodes = devices.iter().map(|device| node(device.node.as_str(), device.peer, device.tier, true, &[])).collect();
    view.me = devices.iter().find(|device| device.tier == Tier::Owner).unwrap().peer;
    view.rights = Arc::new(rights);
    view.said = InForce::new(Arc::new(policy), Arc::default());
    fake.view.send_replace(Arc::new(view));
}

#[tokio::test]
async fn explain_tells_every_case_of_the_table() {
    let fake = Fake::start().await;
    let (mut asked, mut wrong) = (0, Vec::new());
    for name in ["family", "homelab", "open"] {
        enter(&fake, name);
        // What was said of one call is not asked here, and a device that is none is not found.
        let of_name =
            |case: &&Value| case["world"] == name && case["call"].is_null() && case["rule"] != "device:unknown";
        for case in cases().iter().filter(of_name) {
            let text = |field: &str| case[field].as_str();
            let mut path = format!(
                "/api/v1/policy/explain?principal={}&node={}&tool={}&origin={}",
                text("principal").unwrap(),
                text("node").unwrap(),
                text("tool").unwrap(),
                origin(case)
            );
            for optional in ["workspace", "token"] {
                path.extend(text(optional).map(|value| format!("&{optional}={value}")));
            }
            let told = fake.get(&path).await.ok(200);
            if (&told["verdict"], &told["rule"]) != (&case["expect"], &case["rule"]) {
                wrong.push(format!("{}: {} {}, not {}", case["id"], told["verdict"], told["rule"], case["rule"]));
            }
            asked += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(asked, 136);
}
