//! Two versions in one mesh.

use mesh_core::config::Config;
use mesh_core::entry::Kind;
use mesh_core::io::{Command, Fact, Halt, Reply, Space};
use mesh_core::record::{Directory, Tier};
use mesh_core::rows;
use mesh_core::test_kit::{Net, id};

use crate::{call, of_unknown_kind};

/// Peer `n` is of a version that knows kinds up to this one.
pub(crate) fn of_version(net: &mut Net, n: usize, newest: u16) {
    net.restart_as(n, Config { newest_kind: newest, ..Config::default() });
}

fn logged(net: &Net, n: usize, kind: u16) -> usize {
    net.devices[n].log().iter().filter(|entry| entry.entry.kind.0 == kind).count()
}

#[test]
fn what_an_older_peer_does_not_understand_it_keeps_and_relays_and_applies_after_an_upgrade() {
    let mut net = Net::of(3);
    // 1 knows who belongs, and nothing else; it is the only way from 0 to 2.
    of_version(&mut net, 1, Kind::MEMBERSHIP.0);
    net.split(&[&[0, 1], &[1, 2]]);
    let told = Directory { platform: "news".to_owned(), eligible: true, class: 3, ..Directory::default() };
    assert_eq!(net.command(0, Command::SetDirectory(told)), Reply::Noted);
    let platform = |net: &Net, n: usize| {
        let view = net.peer(n).view();
        let node = view.nodes.iter().find(|node| node.peer == id(0)).unwrap();
        node.directory.as_ref().map(|directory| directory.platform.clone())
    };
    assert_eq!(platform(&net, 2).as_deref(), Some("news"), "relayed");
    assert_ne!(platform(&net, 1).as_deref(), Some("news"), "not applied");
    assert!(net.peer(1).view().halts.is_empty(), "it was nothing critical");
    let unsupported =
        |net: &Net| net.backup(1).keys(Space::Meta).filter(|key| rows::unsupported_of(key).is_some()).count();
    assert_eq!(unsupported(&net), 1);
    of_version(&mut net, 1, Kind::NEWEST.0);
    assert_eq!(unsupported(&net), 0);
    assert_eq!(platform(&net, 1).as_deref(), Some("news"), "applied from its own log");
}

#[test]
fn something_critical_that_it_does_not_understand_keeps_a_peer_from_leading_and_starting() {
    let mut net = Net::of(3);
    of_version(&mut net, 0, 99);
    of_version(&mut net, 1, 99);
    // 3 is an owner of the newest version.
    assert!(matches!(net.approve(0, 3, "new", Tier::Owner), Reply::Approved(_)));
    net.join_all();
    let mut newest = net.author(3);
    let critical = of_unknown_kind(&mut newest, 98, true);
    net.hears(0, &newest, critical);
    net.pass(5_000);
    let view = net.peer(2).view();
    // Kind 98 has no meaning yet, so nobody understands it.
    assert_eq!(view.halts, [Halt::Unknown { kind: 98, author: id(3) }]);
    assert!(view.halts[0].to_string().contains("newer version"));
    for n in 0..3 {
        assert!(!net.peer(n).leads(), "{n}");
    }
    let asked = net.ask(2, call(1));
    net.pass(5_000);
    assert_eq!(net.runs(&asked), 0);
    // It outlives a restart. When its author is removed with it, all goes on.
    net.restart(2);
    net.join_all();
    assert_eq!(net.peer(2).view().halts.len(), 1);
    net.revoke(0, 3);
    net.pass(5_000);
    assert!(net.peer(2).view().halts.is_empty());
    assert_eq!(net.runs(&asked), 1);
}

#[test]
fn a_critical_entry_of_one_who_is_no_owner_holds_nobody_up() {
    let mut net = Net::of(2);
    assert!(matches!(net.approve(0, 2, "guest", Tier::Shared), Reply::Approved(_)));
    let mut guest = net.author(2);
    let critical = of_unknown_kind(&mut guest, 98, true);
    net.hears(1, &guest, critical);
    net.pass(5_000);
    assert!((0..2).all(|n| net.peer(n).view().halts.is_empty()));
    let asked = net.ask(0, call(1));
    assert_eq!(net.runs(&asked), 1);
}

#[test]
fn an_older_peer_does_not_keep_without_end_what_it_does_not_understand() {
    let mut net = Net::of(2);
    assert!(matches!(net.approve(0, 2, "guest", Tier::Shared), Reply::Approved(_)));
    let mut guest = net.author(2);
    for _ in 0..mesh_core::limits::UNSUPPORTED_PER_AUTHOR_MAX + 5 {
        let entry = of_unknown_kind(&mut guest, 98, false);
        net.hears(1, &guest, entry);
    }
    assert_eq!(logged(&net, 1, 98), mesh_core::limits::UNSUPPORTED_PER_AUTHOR_MAX);
    assert!(net.devices[1].facts.iter().any(|fact| matches!(fact, Fact::Warning(_, peer) if *peer == id(2))));
}
