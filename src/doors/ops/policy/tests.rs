//! The table of cases (`mesh-core`'s tests), with rights read from the file that people write.

use std::collections::BTreeMap;

use mesh_core::entry::Place;
use mesh_core::ids::{Hash, Incarnation, NodeId, PeerId, ReqId};
use mesh_core::policy::{
    Choice, Consent, Credential, Device, DeviceFacts, DeviceTools, Given, Key, Mode, Note, Offered, Policy, Principal,
    Request, Statement, Title, Token, Value, Verdict, View,
};
use mesh_core::record::Tier;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::*;
use crate::config::{Devices, PolicySettings};
use crate::status::ErrorCode;

const CASES: &str = include_str!("../../../mesh/core/tests/policy/cases/cases.jsonl");
const WORLDS: &str = include_str!("../../../mesh/core/tests/policy/cases/worlds.json");
const FAMILY: &str = include_str!("../../../mesh/core/tests/policy/cases/family.toml");
const HOMELAB: &str = include_str!("../../../mesh/core/tests/policy/cases/homelab.toml");

fn peer(node: &str) -> PeerId {
    PeerId(Hash::of(node.as_bytes()).0)
}

fn call(name: &str) -> (ReqId, Hash) {
    let hash = Hash::of(name.as_bytes());
    (ReqId::from_slice(&hash.0[..16]).unwrap(), hash)
}

/// `None` where nothing is said.
fn read<T: DeserializeOwned>(json: &Json) -> Option<T> {
    (!json.is_null()).then(|| serde_json::from_value(json.clone()).unwrap())
}

/// A world of the table.
struct World {
    json: Json,
    devices: BTreeMap<PeerId, DeviceFacts>,
    records: BTreeMap<Key, Value>,
    settings: PolicySettings,
}

impl Devices for World {
    fn peer(&self, node: &NodeId) -> Option<PeerId> {
        self.devices.values().find(|device| device.node == *node).map(|device| device.peer)
    }

    fn node(&self, peer: &PeerId) -> Option<NodeId> {
        self.devices.get(peer).map(|device| device.node.clone())
    }
}

impl World {
    fn load(name: &str) -> Self {
        let worlds: Json = serde_json::from_str(WORLDS).unwrap();
        let json = worlds[name].clone();
        let mut world = Self {
            json: json.clone(),
            devices: BTreeMap::new(),
            records: BTreeMap::new(),
            settings: PolicySettings::default(),
        };
        for (node, said) in json["nodes"].as_object().unwrap() {
            world.device(node, said);
        }
        let text = match json["policy"].as_str() {
            Some(policy) if policy.starts_with("family") => FAMILY,
            Some(policy) if policy.starts_with("homelab") => HOMELAB,
            _ => "",
        };
        world.settings = PolicySettings::parse(text).unwrap();
        world.take(text);
        world
    }

    /// Takes up what the settings say.
    fn take(&mut self, text: &str) {
        let said = self.settings.records(self, Some(text)).unwrap();
        if said.keys().any(|key| matches!(key, Key::Workspace(_))) {
            self.records.insert(Key::Mode, Value::Mode(Mode::Workspaces));
        }
        self.records.extend(said);
        let json = self.json.clone();
        for (name, token) in json["tokens"].as_object().into_iter().flatten() {
            let token = Token {
                title: Title::default(),
                holder: read(&token["for"]).unwrap(),
                hash: Hash::ZERO,
                nodes: read(&token["nodes"]),
                tools: read(&token["tools"]),
                read_only: false,
                expires_ms: (token["over"] == Json::Bool(true)).then_some(0),
            };
            self.records.insert(Key::Token(name.parse().unwrap()), Value::Token(token));
        }
    }

    fn device(&mut self, node: &str, said: &Json) {
        let open: Vec<String> = read(&said["open"]).unwrap_or_default();
        let (mut approved, mut tools) = (BTreeMap::new(), Vec::new());
        for (tool, state) in said["tools"].as_object().unwrap() {
            let (name, hash): (mesh_core::ids::ToolName, _) = (tool.parse().unwrap(), Hash::of(tool.as_bytes()));
            match state.as_str().unwrap() {
                "approved" => drop(approved.insert(name.clone(), hash)),
                "changed" => drop(approved.insert(name.clone(), Hash::of(b"as it was"))),
                _ => {}
            }
            tools.push(Offered { name, owner_only: !open.contains(tool), hash, review: false });
        }
        let tier = match said["tier"].as_str().unwrap() {
            "owner" => Tier::Owner,
            "shared" => Tier::Shared,
            _ => Tier::Ephemeral,
        };
        let (peer, node) = (peer(node), node.parse().unwrap());
        let (deny, scope) = (read(&said["deny"]).unwrap_or_default(), read(&said["scope"]));
        self.devices.insert(
            peer,
            DeviceFacts { peer, node, confirmed: true, tier, trusted: true, untagged: None, scope, tools, deny },
        );
        self.records.insert(Key::Tools(peer), Value::Tools(DeviceTools { approved }));
        let people = read(&said["people"]).unwrap();
        self.records.insert(Key::Device(peer), Value::Device(Device { people, ..Device::default() }));
    }

    fn policy(&self) -> Policy {
        let mut policy = Policy::default();
        let owner: Principal = "person:owner".parse().unwrap();
        for ((key, value), seq) in self.records.iter().zip(1..) {
            value.check(key).unwrap();
            let said = policy.edit((key.clone(), Some(value.clone())), owner.clone(), false, &|_| true);
            let place = Place { author: PeerId([1; 32]), incarnation: Incarnation(1), seq };
            policy.insert(place, Statement { hlc: seq, said });
        }
        policy
    }

    fn rights(&self) -> Rights {
        let mut view = View::new(&self.policy(), &|_| true, self.devices.values().cloned());
        for (number, said) in self.json["consents"].as_array().into_iter().flatten().enumerate() {
            if let Some(given) = given(number, said) {
                assert!(view.consents_mut().insert(given));
            }
        }
        Rights { view, said: self.settings.clone() }
    }

    fn request(&self, case: &Json) -> Request {
        let text = |field: &str| case[field].as_str();
        let is_over = |token: &str| self.json["tokens"][token]["over"] == Json::Bool(true);
        Request {
            principal: text("principal").unwrap().parse().unwrap(),
            origin: peer(text("origin").or(self.json["origin"].as_str()).unwrap()),
            credential: text("token").map(|token| Credential { token: token.parse().unwrap(), over: is_over(token) }),
            workspace: text("workspace").map(|workspace| workspace.parse().unwrap()),
            target: peer(text("node").unwrap()),
            tool: text("tool").unwrap().parse().unwrap(),
            call: text("call").map(call),
        }
    }
}

fn given(number: usize, said: &Json) -> Option<Given> {
    let text = |field: &str| said[field].as_str().unwrap();
    if said["age_s"].as_u64().is_some_and(|age_s| age_s >= 3600) {
        return None;
    }
    let choice = match text("choice") {
        "once" => Choice::Once { call: call(text("call")).0, header: call(text("call")).1 },
        "deny" => Choice::Deny { call: call(text("call")).0, header: call(text("call")).1 },
        _ => Choice::Hour {
            principal: text("principal").parse().unwrap(),
            domain: text("workspace").parse().unwrap(),
            target: peer(text("node")),
            tool: text("tool").parse().unwrap(),
        },
    };
    let by = text("by").parse().unwrap();
    let consent = Consent { choice, by, of: read(&said["of"]).unwrap(), note: Note::default() };
    Some(Given { hash: Hash::of(&number.to_be_bytes()), at: peer(text("at")), consent })
}

/// A world of the table as a peer holds it: rights, what was said, and its devices.
pub(in crate::doors) fn held(name: &str) -> (View, Policy, Vec<DeviceFacts>) {
    let world = World::load(name);
    (world.rights().view, world.policy(), world.devices.into_values().collect())
}

/// The device at which a case is asked.
pub(in crate::doors) fn origin(case: &Json) -> String {
    let worlds: Json = serde_json::from_str(WORLDS).unwrap();
    let world = &worlds[case["world"].as_str().unwrap()];
    case["origin"].as_str().or(world["origin"].as_str()).unwrap().to_owned()
}

/// All cases.
pub(in crate::doors) fn cases() -> Vec<Json> {
    CASES.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Explains every case, with the rights as `settings` of their world.
fn ask_all(through: impl Fn(World) -> World) {
    let (mut asked, mut wrong) = (0, Vec::new());
    for name in ["family", "homelab", "open"] {
        let world = through(World::load(name));
        let rights = world.rights();
        for case in cases().iter().filter(|case| case["world"] == name) {
            let request = world.request(case);
            let node = case["node"].as_str().unwrap().parse().unwrap();
            let told = rights.explain(&request, &node);
            let expected = (case["expect"].as_str().unwrap(), case["rule"].as_str().unwrap());
            if (told.verdict.as_str(), &*told.rule) != expected {
                wrong.push(format!("{}: {} {}, not {expected:?}", case["id"], told.verdict, told.rule));
            }
            assert_eq!(told.steps.last().map(|step| step.verdict), Some(told.verdict));
            assert!(told.text.contains(" may ") && told.text.ends_with('.'), "{}", told.text);
            assert!(told.text.contains(case["tool"].as_str().unwrap()), "{}", told.text);
            asked += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(asked, 150);
}

#[test]
fn all_cases_are_answered_alike_with_the_policy_from_a_file() {
    ask_all(|world| world);
}

#[test]
fn all_cases_are_answered_alike_with_the_policy_written_and_read_back() {
    ask_all(|mut world| {
        let back = PolicySettings::of(&world.records, &world);
        // What stands in the table about whose device it is goes into the file too.
        assert!(!back.devices.is_empty());
        let text = back.to_toml();
        world.settings = PolicySettings::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(world.settings, back, "{text}");
        world.records.retain(|key, _| matches!(key, Key::Tools(_) | Key::Mode));
        world.take(&text);
        world
    });
}

#[test]
fn all_cases_are_answered_alike_with_the_policy_as_json() {
    ask_all(|mut world| {
        let json = serde_json::to_string(&world.settings).unwrap();
        let back: PolicySettings = serde_json::from_str(&json).unwrap();
        assert_eq!(back, world.settings);
        world.settings = back;
        world
    });
}

#[test]
fn the_matrix_agrees_with_every_question() {
    for name in ["family", "homelab"] {
        let world = World::load(name);
        let rights = world.rights();
        let nodes: Vec<(NodeId, PeerId)> =
            world.devices.values().map(|device| (device.node.clone(), device.peer)).collect();
        for by in [By::Person, By::Agent, By::Device] {
            let matrix = rights.matrix(None, by, &nodes).unwrap();
            assert!(!matrix.rows.is_empty() || by == By::Agent, "{name} {by:?}");
            for (who, cells) in matrix.rows.iter().zip(&matrix.cells) {
                for ((node, tool), cell) in matrix.cols.iter().zip(cells) {
                    let Some(request) = rights.view.question(who, None, node, tool) else { continue };
                    let told = rights.explain(&request, node);
                    let cell = cell.as_ref().unwrap();
                    assert_eq!((cell.verdict, &cell.rule), (told.verdict, &told.rule));
                    assert_eq!(told.change_by.is_none(), told.verdict == Verdict::Allow, "{told:?}");
                }
            }
        }
    }
}

#[test]
fn a_parent_reads_why() {
    let world = World::load("family");
    let rights = world.rights();
    let told = |who: &str, node: &str, tool: &str| {
        let node: NodeId = node.parse().unwrap();
        let request = rights.view.question(&who.parse().unwrap(), None, &node, &tool.parse().unwrap()).unwrap();
        let told = rights.explain(&request, &node);
        format!("{} {}", told.text, told.change_by.unwrap_or_default())
    };
    for (who, node, tool, text) in [
        (
            "person:mia",
            "hub",
            "lights.on",
            "Mia may use `lights.on` of `hub`. That is rule `family/lights`: people or guests may use `lights.*` of `hub`. ",
        ),
        (
            "person:ben",
            "hub",
            "lock.open",
            "Ben may use `lock.open` of `hub` once somebody says yes. That is rule `family/doors-ask`: members or guests must ask \
             for `lock.open` of `hub`. Anna or Sean can say yes, within 5m: `sigil approvals`. \
             Whoever manages rule `family/doors-ask` lets it give the tool: `sigil rule allow`.",
        ),
        (
            "person:ben",
            "tv-living",
            "tv.play",
            "Ben may not use `tv.play` of `tv-living`. That is rule `family/no-tv-ben`: Ben may not use `tv.play`. Whoever \
             manages the workspace takes away or narrows rule `family/no-tv-ben`.",
        ),
    ] {
        assert_eq!(told(who, node, tool), text);
    }
}

#[test]
fn each_template_is_a_policy() {
    for Template { name, about, toml } in TEMPLATES {
        let settings = PolicySettings::parse(toml).unwrap_or_else(|error| panic!("{name}: {error}"));
        let world = World::load("open");
        let records = settings.records(&world, Some(toml)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!about.is_empty() && records.keys().any(|key| matches!(key, Key::Workspace(_))));
        assert_eq!(settings.warnings(&|_| false, Some(toml)), [], "{name}");
        assert_eq!(PolicySettings::parse(&settings.to_toml()).unwrap(), settings);
    }
    assert_eq!(template("family").map(|template| template.name), Some("family"));
    assert_eq!(template("palace"), None);
}

#[test]
fn an_edit_says_which_state_it_is_of() {
    let place = |seq| Place { author: peer("server"), incarnation: Incarnation(1), seq };
    let tag = ETag::of([place(1), place(2)]);
    assert_eq!(ETag::of([place(2), place(1)]), tag);
    assert_ne!(ETag::of([place(1)]), tag);
    let code = |asked: Option<&str>, now| {
        let asked = asked.map(|text| text.parse::<IfMatch>().unwrap());
        IfMatch::check(asked.as_ref(), now).err().map(|error| error.code)
    };
    assert_eq!(code(Some(&tag.to_string()), Some(tag)), None);
    assert_eq!(code(Some(&format!("\"x\", {tag}")), Some(tag)), None);
    assert_eq!(code(Some("*"), Some(tag)), None);
    assert_eq!(code(None, None), None, "a new one");
    assert_eq!(code(None, Some(tag)), Some(ErrorCode::PreconditionRequired));
    for changed in ["\"x\"", "W/\"x\""] {
        assert_eq!(code(Some(changed), Some(tag)), Some(ErrorCode::PreconditionFailed));
    }
    assert_eq!(
        code(Some(&format!("W/{tag}")), Some(tag)),
        Some(ErrorCode::PreconditionFailed),
        "a weak one never matches"
    );
    assert_eq!(code(Some("*"), None), Some(ErrorCode::PreconditionFailed), "it has gone meanwhile");
    for bad in ["", "x", "\"x", "\"x\", y"] {
        assert!(bad.parse::<IfMatch>().is_err(), "{bad}");
    }
}
