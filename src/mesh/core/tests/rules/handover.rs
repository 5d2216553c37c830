//! Handover: the role moves although nothing is wrong with the leader.

use mesh_core::io::CallState;
use mesh_core::record::Ending;
use mesh_core::test_kit::Net;

use crate::call;

#[test]
fn a_leaf_hands_the_role_to_the_hub_that_reaches_more() {
    let mut net = Net::of(4);
    let leader = (0..4).find(|peer| net.peer(*peer).leads()).unwrap();
    let hub = (leader + 1) % 4;
    for a in 0..4 {
        for b in a + 1..4 {
            if a != hub && b != hub {
                net.unlink(a, b);
            }
        }
    }
    let leaf = (0..4).find(|peer| *peer != hub && *peer != leader).unwrap();
    let asked = net.ask(leader, call(leaf));
    net.pass(10_000);
    assert!(net.peer(leader).leads(), "one cut link does not change the gateway");
    assert_eq!(net.runs(&asked), 0);
    net.pass(30_000);
    assert!(net.peer(hub).leads());
    assert_eq!(net.runs(&asked), 1);
    assert_eq!(net.record(leader, &asked).unwrap().state, CallState::Ended(Ending::Done));
}
