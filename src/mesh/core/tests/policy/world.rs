//! A world to ask questions about: what people said, what the mesh knows of its devices, and yeses given so far.

use std::collections::BTreeMap;

use mesh_core::entry::Place;
use mesh_core::ids::{Hash, Incarnation, NodeId, PeerId, ReqId};
use mesh_core::policy::{
    Agent, Binding, Choice, Consent, Device, DeviceFacts, DeviceTools, Domain, Given, Key, Mode, Name, Note, Offered,
    Otherwise, Person, Policy, Request, Role, Rule, RuleRef, Said, Statement, Title, Token, Value, View, Workspace,
    WorkspaceId,
};
use mesh_core::record::Tier;
use mesh_core::test_kit::slow;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) records: BTreeMap<Key, Value>,
    pub(crate) devices: BTreeMap<PeerId, DeviceFacts>,
    pub(crate) given: Vec<Given>,
    /// The device at which it is asked where a case names none.
    pub(crate) origin: String,
    /// Tokens that are over.
    pub(crate) over: Vec<String>,
}

pub(crate) fn peer(node: &str) -> PeerId {
    PeerId(Hash::of(node.as_bytes()).0)
}

/// A call by its name in the table, as its header has it.
pub(crate) fn call(name: &str) -> (ReqId, Hash) {
    let hash = Hash::of(name.as_bytes());
    (ReqId::from_slice(&hash.0[..16]).unwrap(), hash)
}

pub(crate) const fn place(author: u8, seq: u64) -> Place {
    Place { author: PeerId([author; 32]), incarnation: Incarnation(1), seq }
}

/// A statement that knew of no other.
pub(crate) fn said(key: Key, value: Value) -> Said {
    Policy::default().edit((key, Some(value)), "person:owner".parse().unwrap(), false, &|_| true)
}

impl World {
    pub(crate) fn policy(&self) -> Policy {
        let mut policy = Policy::default();
        for ((key, value), seq) in self.records.iter().zip(1..) {
            let said = said(key.clone(), value.clone());
            assert_eq!(Said::from_body(&said.to_body().unwrap()).as_ref(), Some(&said));
            policy.insert(place(1, seq), Statement { hlc: seq, said });
        }
        policy
    }

    pub(crate) fn view_of(&self, policy: &Policy) -> View {
        let mut view = View::new(policy, &|_| true, self.devices.values().cloned());
        for given in &self.given {
            assert!(view.consents_mut().insert(given.clone()));
        }
        view
    }

    /// The same for the slow evaluator.
    pub(crate) fn said(&self) -> slow::World<'_> {
        slow::World { records: &self.records, devices: &self.devices, given: &self.given }
    }

    pub(crate) fn view(&self) -> View {
        self.view_of(&self.policy())
    }

    pub(crate) fn set(&mut self, key: Key, value: Value) {
        value.check(&key).unwrap();
        self.records.insert(key, value);
    }

    pub(crate) fn rule(&mut self, at: &str, rule: Rule) {
        self.set(Key::Rule(at.parse().unwrap()), Value::Rule(rule));
    }

    /// A world of the table, by name.
    pub(crate) fn load(name: &str) -> Self {
        let worlds: Json = serde_json::from_str(include_str!("cases/worlds.json")).unwrap();
        let json = &worlds[name];
        let mut world = Self { origin: json["origin"].as_str().unwrap().to_owned(), ..Self::default() };
        for (node, said) in json["nodes"].as_object().unwrap() {
            world.device(node, said);
        }
        match json["policy"].as_str() {
            Some("family.json") => world.settings(include_str!("cases/family.json")),
            Some("homelab.json") => world.settings(include_str!("cases/homelab.json")),
            _ => {}
        }
        for (name, token) in json["tokens"].as_object().into_iter().flatten() {
            if token["over"] == Json::Bool(true) {
                world.over.push(name.clone());
            }
            let token = Token {
                title: Title::default(),
                holder: read(&token["for"]).unwrap(),
                hash: Hash::ZERO,
                nodes: read(&token["nodes"]),
                tools: read(&token["tools"]),
                read_only: false,
                expires_ms: None,
            };
            world.set(Key::Token(name.parse().unwrap()), Value::Token(token));
        }
        for (number, consent) in json["consents"].as_array().into_iter().flatten().enumerate() {
            world.consent(number, consent);
        }
        world
    }

    fn device(&mut self, node: &str, said: &Json) {
        let open: Vec<String> = read(&said["open"]).unwrap_or_default();
        let mut approved = BTreeMap::new();
        let mut tools = Vec::new();
        for (tool, state) in said["tools"].as_object().unwrap() {
            let name: mesh_core::ids::ToolName = tool.parse().unwrap();
            let hash = Hash::of(tool.as_bytes());
            match state.as_str().unwrap() {
                "approved" => drop(approved.insert(name.clone(), hash)),
                "changed" => drop(approved.insert(name.clone(), Hash::of(b"as it was"))),
                "pending" => {}
                other => panic!("{other}"),
            }
            tools.push(Offered { name, owner_only: !open.contains(tool), hash, review: false });
        }
        let tier = match said["tier"].as_str().unwrap() {
            "owner" => Tier::Owner,
            "shared" => Tier::Shared,
            "ephemeral" => Tier::Ephemeral,
            other => panic!("{other}"),
        };
        let (peer, node_id) = (peer(node), node.parse::<NodeId>().unwrap());
        let (deny, scope) = (read(&said["deny"]).unwrap_or_default(), read(&said["scope"]));
        self.devices.insert(
            peer,
            DeviceFacts {
                peer,
                node: node_id,
                confirmed: true,
                tier,
                trusted: true,
                untagged: None,
                scope,
                tools,
                deny,
            },
        );
        self.set(Key::Tools(peer), Value::Tools(DeviceTools { approved }));
        let people = read(&said["people"]).unwrap();
        self.set(Key::Device(peer), Value::Device(Device { people, ..Device::default() }));
    }

    /// Reads what people write into `sigil.toml`, here as JSON.
    fn settings(&mut self, text: &str) {
        let settings: Json = serde_json::from_str(text).unwrap();
        self.set(Key::Mode, Value::Mode(Mode::Workspaces));
        for (id, said) in settings["people"].as_object().unwrap() {
            let person = Person {
                title: read(&said["name"]).unwrap_or_default(),
                role: read(&said["role"]).unwrap_or_default(),
                logins: Vec::new(),
                suspended: said["suspended"] == Json::Bool(true),
            };
            self.set(Key::Person(id.parse().unwrap()), Value::Person(person));
        }
        for (id, said) in settings["agents"].as_object().into_iter().flatten() {
            let (person, agent) = id.split_once('/').unwrap();
            let value = Agent {
                title: read(&said["name"]).unwrap_or_default(),
                suspended: said["suspended"] == Json::Bool(true),
            };
            self.set(Key::Agent(person.parse().unwrap(), agent.parse().unwrap()), Value::Agent(value));
        }
        for (id, said) in settings["workspaces"].as_object().unwrap() {
            let domain: Domain = id.parse().unwrap();
            for (name, rule) in said["rules"].as_object().into_iter().flatten() {
                let at = RuleRef { domain: domain.clone(), name: name.parse().unwrap() };
                self.set(Key::Rule(at), Value::Rule(rule_of(rule)));
            }
            if let Some(workspace) = domain.workspace() {
                self.workspace(workspace, said);
            }
        }
    }

    fn workspace(&mut self, id: &WorkspaceId, said: &Json) {
        let title = read(&said["title"]).unwrap_or_default();
        let otherwise: Otherwise = read(&said["otherwise"]).unwrap_or_default();
        self.set(Key::Workspace(id.clone()), Value::Workspace(Workspace { title, otherwise, ..Workspace::default() }));
        for (seat, role) in said["members"].as_object().into_iter().flatten() {
            let role: Role = read(role).unwrap();
            self.set(Key::Member(id.clone(), seat.parse().unwrap()), Value::Member(role));
        }
        let mut bind = |name: &str, said: &Json| {
            let name: Name = name.parse().unwrap();
            let binding = Binding { nodes: read(&said["nodes"]), tools: read(&said["tools"]) };
            self.set(Key::Binding(id.clone(), name), Value::Binding(binding));
        };
        if !said["nodes"].is_null() || !said["tools"].is_null() {
            bind("main", said);
        }
        for (name, binding) in said["bind"].as_object().into_iter().flatten() {
            bind(name, binding);
        }
    }

    fn consent(&mut self, number: usize, said: &Json) {
        let text = |field: &str| said[field].as_str().unwrap();
        if said["age_s"].as_u64().is_some_and(|age_s| age_s >= 3600) {
            return;
        }
        let choice = match text("choice") {
            "once" => Choice::Once { call: call(text("call")).0, header: call(text("call")).1 },
            "deny" => Choice::Deny { call: call(text("call")).0, header: call(text("call")).1 },
            "hour" => Choice::Hour {
                principal: text("principal").parse().unwrap(),
                domain: text("workspace").parse().unwrap(),
                target: peer(text("node")),
                tool: text("tool").parse().unwrap(),
            },
            other => panic!("{other}"),
        };
        let by = text("by").parse().unwrap();
        let consent = Consent { choice, by, of: read(&said["of"]).unwrap(), note: Note::default() };
        let hash = Hash::of(&number.to_be_bytes());
        self.given.push(Given { hash, at: peer(text("at")), consent });
    }

    /// One request of the table.
    pub(crate) fn request(&self, case: &Json) -> Request {
        let text = |field: &str| case[field].as_str();
        Request {
            principal: text("principal").unwrap().parse().unwrap(),
            origin: peer(text("origin").unwrap_or(&self.origin)),
            credential: text("token").map(|token| mesh_core::policy::Credential {
                token: token.parse().unwrap(),
                over: self.over.iter().any(|over| over == token),
            }),
            workspace: text("workspace").map(|workspace| workspace.parse().unwrap()),
            target: peer(text("node").unwrap()),
            tool: text("tool").unwrap().parse().unwrap(),
            call: text("call").map(call),
        }
    }
}

/// `None` where nothing is said.
fn read<T: DeserializeOwned>(json: &Json) -> Option<T> {
    (!json.is_null()).then(|| serde_json::from_value(json.clone()).unwrap())
}

fn rule_of(said: &Json) -> Rule {
    let verdict = read(&said["verdict"]).unwrap();
    let wait = said["wait"].as_str().map(|wait| wait.strip_suffix('m').unwrap().parse::<u64>().unwrap());
    let bound: Vec<PeerId> = match said["verdict"].as_str() {
        Some("always") => said["nodes"].as_array().unwrap().iter().map(|node| peer(node.as_str().unwrap())).collect(),
        _ => Vec::new(),
    };
    Rule {
        who: read(&said["who"]),
        nodes: read(&said["nodes"]),
        tools: read(&said["tools"]),
        approvers: read(&said["approvers"]),
        wait_ms: wait.map(|minutes| minutes * 60_000),
        of: read(&said["of"]).unwrap_or_default(),
        bound,
        ..Rule::of(verdict)
    }
}
