//! What is said about rights, over the log: who is heard, what stands, and that all who hold the same say the same.

use mesh_core::entry::{Kind, SignedEntry, encode};
use mesh_core::ids::{Hash, Incarnation, PeerId, ToolName};
use mesh_core::io::{Command, Edit, Halt, Refusal, Reply, Space};
use mesh_core::policy::{
    Binding, Check, Content, DeviceTools, InvalidRecord, Key, Mode, NotAllowed, Person, PersonId, Role, Rule,
    RuleVerdict, Said, Value, Verdict, Workspace,
};
use mesh_core::record::{ChangeKind, MembershipChange, Tier};
use mesh_core::test_kit::{Net, id, key};

use crate::versions::of_version;

fn parse<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn edit(by: &str, changes: Vec<(Key, Option<Value>)>) -> Command {
    Command::Edit(Edit { by: parse(by), changes, declared: false, force: false, seen: Vec::new() })
}

fn person(name: &str, role: Role) -> (Key, Option<Value>) {
    (Key::Person(parse(name)), Some(Value::Person(Person { role, ..Person::default() })))
}

fn rule(at: &str, verdict: RuleVerdict) -> (Key, Option<Value>) {
    (Key::Rule(parse(at)), Some(Value::Rule(Rule { who: Some(vec![parse("people")]), ..Rule::of(verdict) })))
}

/// The owner at device `n` makes these changes.
fn change(net: &mut Net, n: usize, changes: Vec<(Key, Option<Value>)>) {
    let written = changes.len();
    assert_eq!(net.command(n, edit("person:owner", changes)), Reply::Edited { written });
}

fn role(net: &Net, n: usize, name: &str) -> Option<Role> {
    net.peer(n).view().rights.role(&parse::<PersonId>(name))
}

/// All these devices agree, in everything, about rights.
fn agree(net: &Net, devices: &[usize]) {
    let first = net.peer(devices[0]).view().rights;
    assert!(devices.iter().all(|n| net.peer(*n).view().rights == first), "they differ");
}

/// Last words of a device about rights.
fn last_said(net: &Net, n: usize) -> Vec<SignedEntry> {
    let log = net.devices[n].log();
    log.into_iter().filter(|entry| entry.author == id(n) && entry.entry.kind.is_about_rights()).collect()
}

#[test]
fn an_edit_reaches_everyone_and_outlives_a_restart() {
    let mut net = Net::of(3);
    net.split(&[&[0, 1], &[1, 2]]);
    change(&mut net, 0, vec![person("mia", Role::Guest), person("anna", Role::Admin)]);
    for n in 0..3 {
        assert_eq!((role(&net, n, "mia"), role(&net, n, "anna")), (Some(Role::Guest), Some(Role::Admin)));
    }
    net.restart(2);
    assert_eq!(role(&net, 2, "anna"), Some(Role::Admin));
    agree(&net, &[0, 1, 2]);
    // What holds already is not said again.
    assert_eq!(net.command(1, edit("person:owner", vec![person("mia", Role::Guest)])), Reply::Edited { written: 0 });
    assert!(last_said(&net, 0).iter().all(|entry| entry.entry.critical));
}

#[test]
fn of_two_halves_the_lower_role_holds_until_somebody_edits_who_knows_both() {
    let mut net = Net::of(2);
    net.split(&[&[0], &[1]]);
    change(&mut net, 0, vec![person("mia", Role::Admin)]);
    change(&mut net, 1, vec![person("mia", Role::Guest)]);
    net.join_all();
    assert_eq!((role(&net, 0, "mia"), role(&net, 1, "mia")), (Some(Role::Guest), Some(Role::Guest)));
    change(&mut net, 0, vec![person("mia", Role::Member)]);
    assert_eq!((role(&net, 0, "mia"), role(&net, 1, "mia")), (Some(Role::Member), Some(Role::Member)));
    agree(&net, &[0, 1]);
}

#[test]
fn an_edit_is_made_wholly_or_not_at_all_and_by_those_who_may() {
    let mut net = Net::of(1);
    change(&mut net, 0, vec![person("anna", Role::Admin), person("mia", Role::Member)]);
    let refused = |net: &mut Net, by: &str, changes| {
        let reply = net.command(0, edit(by, changes));
        let Reply::Refused(refusal) = reply else { panic!("{reply:?}") };
        refusal
    };
    let good = person("oma", Role::Guest);
    let refusal = refused(&mut net, "person:anna", vec![good.clone(), person("sean", Role::Owner)]);
    assert!(matches!(refusal, Refusal::NotAllowed(NotAllowed::AboveOwn { .. })), "{refusal:?}");
    assert_eq!(role(&net, 0, "oma"), None);
    let refusal = refused(&mut net, "agent:owner/claude", vec![good.clone()]);
    assert!(matches!(refusal, Refusal::NotAllowed(NotAllowed::NoPerson(_))), "{refusal:?}");
    let refusal = refused(&mut net, "person:owner", vec![good, rule("home/doors", RuleVerdict::Deny)]);
    assert!(matches!(refusal, Refusal::InvalidRecord(InvalidRecord::UnknownWorkspace(_))), "{refusal:?}");
    assert_eq!(last_said(&net, 0).len(), 2);
}

#[test]
fn the_first_workspace_makes_workspaces_decide_and_is_the_owners() {
    let mut net = Net::of(1);
    change(&mut net, 0, vec![person("anna", Role::Admin)]);
    let home = || (Key::Workspace(parse("home")), Some(Value::Workspace(Workspace::default())));
    let by_admin = net.command(0, edit("person:anna", vec![home()]));
    assert!(matches!(by_admin, Reply::Refused(Refusal::NotAllowed(NotAllowed::Role { .. }))), "{by_admin:?}");
    assert_eq!(net.command(0, edit("person:owner", vec![home()])), Reply::Edited { written: 2 });
    assert_eq!(net.peer(0).view().rights.mode(), Mode::Workspaces);
    // And going back is not undone by the next one.
    change(&mut net, 0, vec![(Key::Mode, Some(Value::Mode(Mode::Open)))]);
    let garden = (Key::Workspace(parse("garden")), Some(Value::Workspace(Workspace::default())));
    change(&mut net, 0, vec![garden]);
    assert_eq!(net.peer(0).view().rights.mode(), Mode::Open);
}

#[test]
fn an_edit_after_which_a_check_would_not_hold_is_refused_but_for_an_owner_who_insists() {
    let mut net = Net::of(1);
    let all = (Key::Binding(parse("home"), parse("main")), Some(Value::Binding(Binding::default())));
    let mia = (Key::Member(parse("home"), parse("mia")), Some(Value::Member(Role::Member)));
    let home = (Key::Workspace(parse("home")), Some(Value::Workspace(Workspace::default())));
    let check = Check {
        principal: parse("person:mia"),
        workspace: None,
        node: parse("peer-0"),
        tool: parse("echo"),
        expect: Verdict::Deny,
    };
    let check = (Key::Check(parse("mia-no-echo")), Some(Value::Check(check)));
    let changes = vec![person("mia", Role::Member), home, mia, all, check];
    assert_eq!(net.command(0, edit("person:owner", changes)), Reply::Edited { written: 6 });
    let allow = || vec![rule("home/echo", RuleVerdict::Allow)];
    let refused = net.command(0, edit("person:owner", allow()));
    let Reply::Refused(Refusal::CheckFailed { check, verdict, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!((check.as_str(), verdict), ("mia-no-echo", Verdict::Allow));
    let forced = Command::Edit(Edit {
        by: parse("person:owner"),
        changes: allow(),
        declared: false,
        force: true,
        seen: Vec::new(),
    });
    assert_eq!(net.command(0, forced), Reply::Edited { written: 1 });
}

#[test]
fn a_newcomer_knows_what_holds_before_it_has_met_anyone() {
    let mut net = Net::of(1);
    change(&mut net, 0, vec![person("mia", Role::Guest)]);
    change(&mut net, 0, vec![person("mia", Role::Admin), (Key::Mode, Some(Value::Mode(Mode::Workspaces)))]);
    net.invite(0, 1, "phone", Tier::Shared);
    assert_eq!((role(&net, 1, "mia"), net.peer(1).view().rights.mode()), (Some(Role::Admin), Mode::Workspaces));
    // What was replaced is not told.
    assert_eq!(net.backup(1).keys(Space::Policy).count(), 2);
    net.join_all();
    agree(&net, &[0, 1]);
}

#[test]
fn who_is_no_owner_may_not_edit_and_what_it_signs_all_the_same_counts_for_nothing() {
    let mut net = Net::of(1);
    net.invite(0, 1, "phone", Tier::Shared);
    net.join_all();
    let refused = net.command(1, edit("person:owner", vec![person("mia", Role::Owner)]));
    assert_eq!(refused, Reply::Refused(Refusal::NotOwner));
    assert!(matches!(net.approve(0, 7, "strange", Tier::Shared), Reply::Approved(_)));
    let mut strange = net.author(7);
    let (key, value) = person("thief", Role::Owner);
    let said = mesh_core::policy::Policy::default().edit((key.clone(), value), parse("person:thief"), false, &|_| true);
    let entry = strange.says(key.kind(), said.to_body().unwrap());
    net.hears(0, &strange, entry);
    net.pass(1_000);
    assert_eq!((role(&net, 0, "thief"), role(&net, 1, "thief")), (None, None));
    assert_eq!(net.backup(0).keys(Space::Policy).count(), 0);
    // It was an owner all the time, which only comes to be known now: then it is read from the log.
    net.restart(0);
    assert!(matches!(net.approve(0, 7, "strange", Tier::Owner), Reply::Approved(_)));
    assert_eq!(role(&net, 0, "thief"), Some(Role::Owner));
    net.join_all();
    agree(&net, &[0, 1]);
}

#[test]
fn what_a_former_owner_said_stands_as_far_as_those_saw_who_ended_that() {
    for (tier, stays) in [(None, 2), (Some(Tier::Shared), 2)] {
        let mut net = Net::of(3);
        change(&mut net, 1, vec![person("mia", Role::Guest), person("anna", Role::Admin)]);
        // It goes on where nobody sees it, and 0 ends its authority meanwhile.
        net.split(&[&[0, 2], &[1]]);
        change(&mut net, 1, vec![person("mia", Role::Owner)]);
        assert_eq!(role(&net, 1, "mia"), Some(Role::Owner));
        match tier {
            None => assert_eq!(net.command(0, Command::Revoke { peer: id(1), unsaid: false }), Reply::Revoked),
            Some(tier) => assert!(matches!(net.approve(0, 1, "peer-1", tier), Reply::Approved(_))),
        }
        net.join_all();
        net.pass(1_000);
        for n in [0, 2] {
            assert_eq!((role(&net, n, "mia"), role(&net, n, "anna")), (Some(Role::Guest), Some(Role::Admin)), "{n}");
        }
        assert_eq!(role(&net, 1, "mia"), Some(Role::Guest), "also where it was said");
        agree(&net, &[0, 2]);
        let counts = net.backup(0).keys(Space::Policy).count();
        assert!(counts >= stays, "{counts}");
        net.restart(0);
        agree(&net, &[0, 2]);
    }
}

fn verdict(net: &Net, n: usize, at: &str) -> Option<RuleVerdict> {
    let said = net.peer(n).view().said;
    match said.value(&Key::Rule(parse(at))) {
        Some(Value::Rule(rule)) => Some(rule.verdict),
        Some(_) | None => None,
    }
}

/// A thief raises a friend, lifts a ban and makes a rule: if that is said when it is removed, all of it is undone, also at
/// those who come back later, and stays so; and what another said since stands.
#[test]
fn n3_what_a_removed_owner_said_is_taken_back_with_it_if_that_is_asked() {
    for unsaid in [false, true] {
        let mut net = Net::of(4);
        change(&mut net, 0, vec![person("mia", Role::Guest), rule("mesh/doors", RuleVerdict::Deny)]);
        net.split(&[&[0, 1, 2], &[3]]);
        change(&mut net, 1, vec![person("mia", Role::Owner), (Key::Rule(parse("mesh/doors")), None)]);
        change(&mut net, 1, vec![rule("mesh/lamps", RuleVerdict::Allow), person("sean", Role::Admin)]);
        change(&mut net, 2, vec![person("sean", Role::Member)]);
        let said = net.peer(0).view().said;
        let of: Vec<Key> = said.said_by(&[id(1)].into()).map(|(key, ..)| key.clone()).collect();
        assert_eq!(of, [Key::Person(parse("mia")), Key::Rule(parse("mesh/doors")), Key::Rule(parse("mesh/lamps"))]);
        assert_eq!(net.command(0, Command::Revoke { peer: id(1), unsaid }), Reply::Revoked);
        net.restart(2);
        net.join_all();
        net.pass(1_000);
        let (mia, doors, lamps) = if unsaid {
            (Role::Guest, Some(RuleVerdict::Deny), None)
        } else {
            (Role::Owner, None, Some(RuleVerdict::Allow))
        };
        for n in [0, 2, 3] {
            assert_eq!((role(&net, n, "mia"), role(&net, n, "sean")), (Some(mia), Some(Role::Member)), "{n}");
            assert_eq!((verdict(&net, n, "mesh/doors"), verdict(&net, n, "mesh/lamps")), (doors, lamps), "{n}");
            assert_eq!(net.peer(n).view().said.said_by(&[id(1)].into()).count() == 0, unsaid, "{n}");
        }
        agree(&net, &[0, 2, 3]);
        // An owner again it gets nothing back, and what it says from now on stands.
        assert!(matches!(net.approve(0, 1, "peer-1", Tier::Owner), Reply::Approved(_)));
        net.join_all();
        net.pass(1_000);
        change(&mut net, 1, vec![person("oma", Role::Guest)]);
        net.pass(1_000);
        for n in [0, 1, 2, 3] {
            assert_eq!((role(&net, n, "mia"), role(&net, n, "oma")), (Some(mia), Some(Role::Guest)), "{n}");
        }
        agree(&net, &[0, 1, 2, 3]);
    }
}

/// A device that leaves may be no owner any more: it does not lift what it once said, whatever it signs then.
fn leaves_after_it_was_lowered(as_another: bool) {
    let mut net = Net::of(1);
    assert!(matches!(net.approve(0, 7, "strange", Tier::Owner), Reply::Approved(_)));
    let mut strange = net.author(7);
    let (at, value) = rule("mesh/doors", RuleVerdict::Deny);
    let said = mesh_core::policy::Policy::default().edit((at.clone(), value), parse("person:owner"), false, &|_| true);
    let entry = strange.says(at.kind(), said.to_body().unwrap());
    net.hears(0, &strange, entry);
    assert_eq!(verdict(&net, 0, "mesh/doors"), Some(RuleVerdict::Deny));
    assert!(matches!(net.approve(0, 7, "strange", Tier::Shared), Reply::Approved(_)));
    let approval = net.devices[0].log().into_iter().rfind(|entry| entry.entry.kind == Kind::MEMBERSHIP).unwrap();
    let leaves = MembershipChange {
        subject: key(7),
        grant: approval.hash,
        stands: Vec::new(),
        rights: Vec::new(),
        fence: 0,
        what: ChangeKind::Revoked { cutoffs: Vec::new(), left: true, unsaid: true },
    };
    if as_another {
        // Of which nothing that it said before is.
        (strange.incarnation, strange.seq, strange.previous) = (Incarnation(77), 0, Hash::ZERO);
    }
    let entry = strange.says(Kind::MEMBERSHIP, encode(&leaves));
    net.hears(0, &strange, entry);
    net.pass(1_000);
    assert!(net.peer(0).view().by_peer(&id(7)).is_none(), "it has left");
    assert_eq!(verdict(&net, 0, "mesh/doors"), Some(RuleVerdict::Deny));
}

#[test]
fn n3_whoever_leaves_takes_nothing_back() {
    leaves_after_it_was_lowered(false);
}

#[test]
fn r12_whoever_leaves_as_another_incarnation_takes_nothing_back() {
    leaves_after_it_was_lowered(true);
}

/// What the file of a device says that was removed, and of a thief that says so of what it likes, is anybody's to edit.
#[test]
fn r05_what_a_removed_owner_declared_is_edited_like_anything() {
    let mut net = Net::of(2);
    let suspended = Person { suspended: true, ..Person::default() };
    let owner = (Key::Person(parse("owner")), Some(Value::Person(suspended)));
    let declared = Edit {
        by: parse("person:owner"),
        changes: vec![rule("mesh/doors", RuleVerdict::Deny), person("anna", Role::Owner)],
        declared: true,
        force: false,
        seen: Vec::new(),
    };
    assert_eq!(net.command(1, Command::Edit(declared)), Reply::Edited { written: 2 });
    assert!(matches!(net.approve(0, 7, "strange", Tier::Owner), Reply::Approved(_)));
    let mut strange = net.author(7);
    let said = mesh_core::policy::Policy::default().edit(owner, parse("person:owner"), true, &|_| true);
    let entry = strange.says(said.key.kind(), said.to_body().unwrap());
    net.hears(0, &strange, entry);
    assert!(net.peer(0).view().rights.person(&parse("owner")).unwrap().suspended);
    for peer in [id(1), id(7)] {
        assert_eq!(net.command(0, Command::Revoke { peer, unsaid: false }), Reply::Revoked);
    }
    let gone = ["mesh/doors"].map(|at| (Key::Rule(parse(at)), None)).into_iter();
    let gone = gone.chain(["anna", "owner"].map(|id| (Key::Person(parse(id)), None))).collect();
    assert_eq!(net.command(0, edit("person:owner", gone)), Reply::Edited { written: 3 });
    assert_eq!((verdict(&net, 0, "mesh/doors"), role(&net, 0, "anna")), (None, None));
    assert!(net.peer(0).view().rights.person(&parse("owner")).is_none());
}

/// Also where somebody has said before that tiers alone decide.
#[test]
fn r10_the_first_workspace_decides_whatever_was_said_before() {
    let mut net = Net::of(1);
    let mode = |mode| (Key::Mode, Some(Value::Mode(mode)));
    let workspace = |id: &str| (Key::Workspace(parse(id)), Some(Value::Workspace(Workspace::default())));
    change(&mut net, 0, vec![person("anna", Role::Admin), mode(Mode::Open)]);
    // Who may not say so does not by the way.
    assert_eq!(net.command(0, edit("person:anna", vec![workspace("hers")])), Reply::Edited { written: 1 });
    assert_eq!(net.peer(0).view().rights.mode(), Mode::Open);
    change(&mut net, 0, vec![(Key::Workspace(parse("hers")), None)]);
    assert_eq!(net.command(0, edit("person:owner", vec![workspace("home")])), Reply::Edited { written: 2 });
    assert_eq!(net.peer(0).view().rights.mode(), Mode::Workspaces);
    // But not against what the same edit says.
    change(&mut net, 0, vec![(Key::Workspace(parse("home")), None), mode(Mode::Open)]);
    assert_eq!(
        net.command(0, edit("person:owner", vec![workspace("home"), mode(Mode::Open)])),
        Reply::Edited { written: 1 }
    );
    assert_eq!(net.peer(0).view().rights.mode(), Mode::Open);
}

/// Settings of a file can be edited once its device is no owner any more.
#[test]
fn n3_what_a_former_owner_declared_can_be_edited() {
    let mut net = Net::of(2);
    let declared = Edit {
        by: parse("person:owner"),
        changes: vec![rule("mesh/doors", RuleVerdict::Deny)],
        declared: true,
        force: false,
        seen: Vec::new(),
    };
    assert_eq!(net.command(1, Command::Edit(declared)), Reply::Edited { written: 1 });
    let lifts = || edit("person:owner", vec![(Key::Rule(parse("mesh/doors")), None)]);
    assert_eq!(net.command(0, lifts()), Reply::Refused(Refusal::Declared { file: id(1) }));
    assert!(matches!(net.approve(0, 1, "peer-1", Tier::Shared), Reply::Approved(_)));
    assert_eq!(net.command(0, lifts()), Reply::Edited { written: 1 });
    assert_eq!(verdict(&net, 0, "mesh/doors"), None);
}

#[test]
fn what_was_replaced_is_dropped_after_its_time_and_what_holds_stays() {
    let mut net = Net::of(2);
    let config = mesh_core::config::Config {
        keep_entries_ms: 20_000,
        compact_every_ms: 1_000,
        compact_min: 1,
        ..mesh_core::config::Config::default()
    };
    for n in 0..2 {
        net.restart_as(n, config.clone());
    }
    net.join_all();
    for role in [Role::Guest, Role::Admin, Role::Member] {
        change(&mut net, 0, vec![person("mia", role)]);
    }
    change(&mut net, 0, vec![person("oma", Role::Guest)]);
    change(&mut net, 1, vec![(Key::Person(parse("oma")), None)]);
    assert_eq!(net.backup(1).keys(Space::Policy).count(), 5);
    net.pass(120_000);
    for n in 0..2 {
        // The last word about Mia, and that Oma is gone.
        assert_eq!(net.backup(n).keys(Space::Policy).count(), 2, "{n}");
        assert_eq!((role(&net, n, "mia"), role(&net, n, "oma")), (Some(Role::Member), None));
    }
    let logged = net.devices[1].log();
    let said = logged.iter().filter(|entry| entry.entry.kind.is_about_rights());
    assert_eq!(said.filter_map(|entry| Said::from_body(entry.body()?)).count(), 2);
}

#[test]
fn a_version_that_does_not_know_of_rights_neither_leads_nor_starts_calls() {
    let mut net = Net::of(2);
    of_version(&mut net, 1, Kind::TRUNCATION.0);
    net.join_all();
    change(&mut net, 0, vec![person("mia", Role::Guest)]);
    assert_eq!(net.peer(1).view().halts, [Halt::Unknown { kind: 10, author: id(0) }]);
    of_version(&mut net, 1, Kind::NEWEST.0);
    net.join_all();
    assert!(net.peer(1).view().halts.is_empty());
    agree(&net, &[0, 1]);
}

/// Bytes of all statements that a device holds.
fn held_bytes(net: &Net, n: usize) -> usize {
    let rows = net.devices[n].machine.disk.scan(Space::Policy, Vec::new(), vec![u8::MAX; 45]);
    rows.map(|(_, row)| row.len()).sum()
}

#[test]
fn r11_owners_who_flood_the_others_share_one_room_and_leave_it() {
    let mut net = Net::of(2);
    net.join_all();
    change(&mut net, 0, vec![person("mia", Role::Guest)]);
    let tool = |n: usize| (parse::<ToolName>(&format!("{n:064}")), Hash::ZERO);
    let tools = DeviceTools { approved: (0..400).map(tool).collect() };
    let mut before = 0;
    for thief in 7..10 {
        assert!(matches!(net.approve(0, thief, "strange", Tier::Owner), Reply::Approved(_)));
        net.pass(500);
        let mut author = net.author(thief);
        for n in 0..140_u8 {
            let key = Key::Tools(PeerId([n; 32]));
            let content = Content::Value(Box::new(Value::Tools(tools.clone())));
            let (by, knew) = (parse("person:owner"), Vec::new());
            let said = Said { key: key.clone(), content, generation: 1, knew, by, declared: false };
            let entry = author.entry(key.kind(), said.to_body().unwrap(), |entry| entry.critical = true);
            net.hears(1, &author, entry);
        }
        net.pass(500);
        before = before.max(held_bytes(&net, 1));
    }
    let max = mesh_core::limits::STATEMENTS_ROOM_MAX as usize;
    assert!(before > max / 2 && before <= max + max / 16, "{before}");
    // Whoever says little is heard all the same.
    assert!(matches!(net.approve(0, 10, "honest", Tier::Owner), Reply::Approved(_)));
    net.pass(500);
    let mut honest = net.author(10);
    let (at, value) = person("kai", Role::Guest);
    let said = mesh_core::policy::Policy::default().edit((at.clone(), value), parse("person:owner"), false, &|_| true);
    let entry = honest.entry(at.kind(), said.to_body().unwrap(), |entry| entry.critical = true);
    net.hears(1, &honest, entry);
    for name in ["mia", "kai"] {
        assert_eq!(role(&net, 1, name), Some(Role::Guest), "{name}");
    }
    // And once they are gone with what they said, so is what it took.
    let peers = (7..10).map(id).collect();
    assert_eq!(net.command(0, Command::RevokeAll { peers, unsaid: true }), Reply::RevokedAll(Vec::new()));
    net.pass(2_000);
    assert!(held_bytes(&net, 1) < 4096, "{}", held_bytes(&net, 1));
    assert_eq!((role(&net, 1, "mia"), role(&net, 1, "kai")), (Some(Role::Guest), Some(Role::Guest)));
}
