//! The table of cases (`mesh-core`'s tests) on real peers: three of each world run, of its other devices only keys and links
//! are there, which say what no door can (tools that were approved in another form, yeses for an hour). The policy is set through
//! REST, through the command line and from the file of settings; each time all three explain every case alike. Then calls come
//! to one of them whose origin asked nobody, and it ends them by the same verdict and rule; and those of which the table says what
//! people answered stand alike at all three.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use mesh_core::audience::Audience;
use mesh_core::entry::{Kind, encode};
use mesh_core::frame::{EntryItem, Frame};
use mesh_core::ids::{Hash, Incarnation, PeerId, ReqId};
use mesh_core::policy::{Choice, Consent, Content, DeviceTools, Key, Note, Offered, Said, Value};
use mesh_core::record::{Directory, Effect, Fitness, Header, ToolDecl};
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};

use crate::harness::{Home, PATIENCE, items, text, wait_converged, wait_until};
use crate::hostile_peer::{Fellow, header, peer, runtime};

const CASES: &str = include_str!("../../src/mesh/core/tests/policy/cases/cases.jsonl");
const WORLDS: &str = include_str!("../../src/mesh/core/tests/policy/cases/worlds.json");
const FAMILY: &str = include_str!("../../src/mesh/core/tests/policy/cases/family.toml");
const HOMELAB: &str = include_str!("../../src/mesh/core/tests/policy/cases/homelab.toml");

/// Seconds of an hour.
const HOUR_S: u64 = 3_600;
/// Tools that every device has of its own.
const BUILTIN: [&str; 3] = ["device.info", "files.list", "files.read"];

/// True of a case about one call, to which people have answered something: a question names no call.
fn is_about_one_call(case: &Json) -> bool {
    !case["call"].is_null()
}

fn read<T: DeserializeOwned>(json: &Json) -> Option<T> {
    (!json.is_null()).then(|| serde_json::from_value(json.clone()).expect("as the table says"))
}

struct World<'a> {
    name: &'static str,
    json: Json,
    homes: Vec<Home>,
    fellows: BTreeMap<String, Fellow<'a>>,
    /// A device of an owner that nobody knows in the table: it may speak for anyone.
    probe: Fellow<'a>,
    /// Ids of tokens, by their names in the table.
    tokens: BTreeMap<String, String>,
}

impl<'a> World<'a> {
    /// The devices, with what each offers; those of `real`, the first an owner's, run.
    fn start(name: &'static str, real: &[&str], runtime: &'a tokio::runtime::Runtime) -> Self {
        let worlds: Json = serde_json::from_str(WORLDS).expect("JSON");
        let json = worlds[name].clone();
        let mut homes: Vec<Home> = Vec::new();
        for node in real {
            let said = &json["nodes"][*node];
            let mut home = Home::new(node);
            let deny: Vec<String> = read(&said["deny"]).unwrap_or_default();
            let roots = format!("[files]\nroots = [{:?}]\n", home.path(""));
            home = home.with_config(&format!("[node]\ndeny = {deny:?}\n{roots}"));
            for tool in said["tools"].as_object().into_iter().flatten().map(|(tool, _)| tool) {
                if !BUILTIN.contains(&tool.as_str()) {
                    home = home.with_tool(tool, "cat", "idempotent");
                }
            }
            let home = home.started();
            if let Some(first) = homes.first() {
                let code = text(&first.post("invites", &json!({ "tier": "owner" })).json(), "code").to_owned();
                assert!((200..300).contains(&home.join(&code).status));
            }
            homes.push(home);
        }
        let first = &homes[0];
        let probe = Fellow::join(runtime, first, "probe", "owner");
        let mut fellows = BTreeMap::new();
        for (node, said) in json["nodes"].as_object().expect("devices") {
            let tier = text(said, "tier");
            if !real.contains(&node.as_str()) {
                let terms = match (tier, &said["scope"]) {
                    ("ephemeral", Json::Null) => json!({ "stay": { "for_s": HOUR_S } }),
                    ("ephemeral", scope) => json!({ "stay": { "for_s": HOUR_S, "tools": scope } }),
                    (tier, _) => json!({ "tier": tier }),
                };
                let mut fellow = Fellow::join_by(runtime, first, node, &terms);
                let directory = Directory {
                    tools: tools(said),
                    deny: read(&said["deny"]).unwrap_or_default(),
                    ..Directory::default()
                };
                fellow.says(Kind::DIRECTORY, encode(&directory));
                fellows.insert(node.clone(), fellow);
            }
        }
        let mut world = Self { name, json, homes, fellows, probe, tokens: BTreeMap::new() };
        world.approve_tools();
        let tier = |node: &String| world.json["nodes"][node]["tier"].as_str().unwrap_or("owner");
        for node in world.fellows.keys().filter(|node| tier(node) != "owner") {
            let said = world.first().cli(&["rename", node, node]);
            assert_eq!(said.code, 0, "an owner confirms its name: {said:?}");
        }
        let all: Vec<&Home> = world.homes.iter().collect();
        wait_converged(&all, PATIENCE);
        world
    }

    fn first(&self) -> &Home {
        &self.homes[0]
    }

    fn id(&self, node: &str) -> PeerId {
        let home = self.homes.iter().find(|home| home.name == node);
        home.map_or_else(|| self.fellows[node].id(), peer)
    }

    /// Says which tools are approved where not all are: of devices that run through the door.
    fn approve_tools(&mut self) {
        for (node, said) in self.json["nodes"].as_object().expect("devices").clone() {
            let states = said["tools"].as_object().cloned().unwrap_or_default();
            if states.values().all(|state| state == "approved") {
                continue;
            }
            if !self.fellows.contains_key(&node) {
                let offers = || {
                    let list = self.first().get(&format!("tools?node={node}")).expect(200);
                    items(&list).iter().map(|tool| text(tool, "name").to_owned()).collect::<BTreeSet<String>>()
                };
                let pending = states.iter().filter(|(_, state)| *state == "pending");
                let pending: BTreeSet<String> = pending.map(|(tool, _)| tool.clone()).collect();
                wait_until("its tools are known", PATIENCE, || pending.is_subset(&offers()));
                // What it forbids itself it does not offer.
                let approved: Vec<Json> = offers().difference(&pending).map(|tool| json!({ "name": tool })).collect();
                self.first().post(&format!("nodes/{node}/tools"), &json!({ "tools": approved })).expect(200);
                continue;
            }
            let mut approved = BTreeMap::new();
            for tool in tools(&said) {
                let offered = Offered::of(&tool);
                match states[tool.name.as_str()].as_str() {
                    Some("approved") => drop(approved.insert(offered.name, offered.hash)),
                    Some("changed") => drop(approved.insert(offered.name, Hash::of(b"as it was"))),
                    _ => {}
                }
            }
            let said = Said {
                key: Key::Tools(self.id(&node)),
                content: Content::Value(Box::new(Value::Tools(DeviceTools { approved }))),
                generation: 1,
                knew: Vec::new(),
                by: "person:owner".parse().expect("a name"),
                declared: false,
            };
            self.probe.says(said.key.kind(), said.to_body().expect("a body"));
        }
    }

    /// The policy of this world, with whose devices these are.
    fn policy(&self) -> String {
        let mut text = match self.name {
            "family" => FAMILY.to_owned(),
            "homelab" => HOMELAB.to_owned(),
            _ => return String::new(),
        };
        for (node, said) in self.json["nodes"].as_object().expect("devices") {
            let people: Vec<String> = read(&said["people"]).unwrap_or_default();
            if !people.is_empty() {
                text = format!("{text}\n[devices.{node}]\npeople = {people:?}\n");
            }
        }
        text
    }

    fn wait_agreed(&self) {
        let state = |home: &Home| home.get("policy").header("etag").map(str::to_owned);
        wait_until("all hold the same", PATIENCE, || self.homes.iter().all(|home| state(home) == state(self.first())));
    }

    /// Makes the tokens of the table, and revokes those whose time is over there.
    fn make_tokens(&mut self) {
        for (name, said) in self.json["tokens"].as_object().into_iter().flatten() {
            let mut body = json!({ "principal": said["for"] });
            for list in ["nodes", "tools"] {
                if !said[list].is_null() {
                    body[list] = said[list].clone();
                }
            }
            let made = self.homes[0].post("tokens", &body).expect(201);
            let id = text(&made, "id").to_owned();
            if said["over"] == true {
                self.homes[0].delete(&format!("tokens/{id}"));
            }
            self.tokens.insert(name.clone(), id);
        }
    }

    /// Has people say the yeses for an hour that are left, at the devices of the table.
    fn say_yes(&mut self) {
        for said in self.json["consents"].as_array().cloned().unwrap_or_default() {
            let age_s = said["age_s"].as_u64().unwrap_or(0);
            if said["choice"] != "hour" || age_s >= HOUR_S {
                continue;
            }
            let choice = Choice::Hour {
                principal: text(&said, "principal").parse().expect("a name"),
                domain: text(&said, "workspace").parse().expect("a name"),
                target: self.id(text(&said, "node")),
                tool: text(&said, "tool").parse().expect("a name"),
            };
            let of = read(&said["of"]).expect("asks");
            let consent = Consent { choice, by: text(&said, "by").parse().expect("a name"), of, note: Note::default() };
            let at = self.fellows.get_mut(text(&said, "at")).expect("a device of ours");
            let ends = Audience::Call { origin: at.id(), target: at.id() };
            let entry = at.entry(Kind::CONSENT, encode(&consent), |entry| entry.audience = ends);
            at.takes(&entry);
            // An hour of which 1 s is left in the table lasts for the test.
            let left_ms = (HOUR_S - age_s).max(600) * 1_000;
            at.send(&Frame::Entries { entries: vec![EntryItem { entry, left_ms: Some(left_ms) }], more: false });
        }
    }

    fn cases(&self) -> Vec<Json> {
        let all = CASES.lines().map(|line| serde_json::from_str::<Json>(line).expect("JSON"));
        all.filter(|case| case["world"] == self.name).collect()
    }

    /// Verdict and rule of a case.
    fn expected(case: &Json) -> (String, String) {
        (text(case, "expect").to_owned(), text(case, "rule").to_owned())
    }

    /// Explains a case at a device; verdict and rule.
    fn explained(&self, home: &Home, case: &Json, by_cli: bool) -> (String, String) {
        let origin = case["origin"].as_str().or(self.json["origin"].as_str()).expect("an origin");
        let token = case["token"].as_str().map(|token| self.tokens[token].clone());
        let (who, node, tool) = (text(case, "principal"), text(case, "node"), text(case, "tool"));
        let optional = [("workspace", case["workspace"].as_str().map(str::to_owned)), ("token", token)];
        let given = optional.iter().filter_map(|(name, value)| Some((*name, value.clone()?)));
        let (status, told) = if by_cli {
            let mut words =
                ["policy", "explain", who, node, tool, "--origin", origin, "--json"].map(str::to_owned).to_vec();
            for (name, value) in given {
                words.extend([format!("--{name}"), value]);
            }
            let said = home.cli(&words.iter().map(String::as_str).collect::<Vec<_>>());
            if said.code == 3 { (404, Json::Null) } else { (200, said.json(0)) }
        } else {
            let more = given.fold(String::new(), |more, (name, value)| format!("{more}&{name}={value}"));
            let path = format!("policy/explain?principal={who}&node={node}&tool={tool}&origin={origin}{more}");
            let answer = home.get(&path);
            (answer.status, answer.json())
        };
        if status == 404 {
            return ("deny".to_owned(), "device:unknown".to_owned());
        }
        (text(&told, "verdict").to_owned(), text(&told, "rule").to_owned())
    }

    /// Explains all cases at all three peers. Answers how many.
    fn explain_all(&self, how: &str, by_cli: bool) -> usize {
        let (mut wrong, mut count) = (Vec::new(), 0);
        let cases = self.cases();
        for case in cases.iter().filter(|case| !is_about_one_call(case)) {
            let expected = Self::expected(case);
            for home in &self.homes {
                let told = self.explained(home, case, by_cli);
                if told != expected {
                    wrong.push(format!("{how} at {}: {} is {told:?}, not {expected:?}", home.name, case["id"]));
                }
            }
            count += 1;
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        count
    }

    /// A table of who may use what at a device: verdict and rule, by row, device and tool.
    fn table(home: &Home, by: &str, workspace: Option<&str>) -> BTreeMap<(String, String, String), (String, String)> {
        let more = workspace.map(|workspace| format!("&workspace={workspace}")).unwrap_or_default();
        let told = home.get(&format!("policy/matrix?by={by}{more}")).expect(200);
        let at = |list: &Json, index: &Json| {
            list[usize::try_from(index.as_u64().expect("a number")).expect("small")].clone()
        };
        let cells = told["cells"].as_array().expect("cells").iter().map(|cell| {
            let (who, col) = (at(&told["rows"], &cell["row"]), at(&told["cols"], &cell["col"]));
            let place =
                (who.as_str().expect("a name").to_owned(), text(&col, "node").into(), text(&col, "tool").into());
            (place, (text(cell, "verdict").to_owned(), text(cell, "rule").to_owned()))
        });
        cells.collect()
    }

    /// The table is the same at all three peers, and each cell of it is what the same question is answered, and what the case
    /// about it says. Answers how many cells there are, and how many cases.
    fn compare_tables(&self) -> (usize, usize) {
        let (mut wrong, mut cells, mut cases) = (Vec::new(), 0, 0);
        let all = self.cases();
        let workspaces: BTreeSet<&str> = all.iter().filter_map(|case| case["workspace"].as_str()).collect();
        let known = |name: &&str| *name != "mesh" && self.first().get(&format!("workspaces/{name}")).status == 200;
        let workspaces: Vec<Option<&str>> = workspaces.into_iter().filter(known).map(Some).chain([None]).collect();
        for by in ["person", "agent", "device"] {
            for workspace in &workspaces {
                let table = Self::table(self.first(), by, *workspace);
                for home in &self.homes[1..] {
                    assert_eq!(Self::table(home, by, *workspace), table, "{by} {workspace:?} at {}", home.name);
                }
                for ((who, node, tool), told) in &table {
                    let more = workspace.map(|workspace| format!("&workspace={workspace}")).unwrap_or_default();
                    let path = format!("policy/explain?principal={who}&node={node}&tool={tool}{more}");
                    let said = self.homes[cells % 3].get(&path).expect(200);
                    if (text(&said, "verdict"), text(&said, "rule")) != (told.0.as_str(), told.1.as_str()) {
                        wrong.push(format!("{who} {node} {tool}: the table says {told:?}, not {said}"));
                    }
                    cells += 1;
                }
                // A table asks at a device of an owner, another than the target, or at the device that asks for itself.
                let like = |case: &&Json| {
                    let origin = case["origin"].as_str();
                    let asks = text(case, "principal").strip_prefix("device:");
                    let world = self.json["origin"].as_str();
                    let plain = case["token"].is_null() && !is_about_one_call(case);
                    let here = if asks.is_some() { origin.or(world) == asks } else { origin.is_none() };
                    plain && here && case["workspace"].as_str() == *workspace && world != case["node"].as_str()
                };
                for case in all.iter().filter(like) {
                    let place = (text(case, "principal").into(), text(case, "node").into(), text(case, "tool").into());
                    if let Some(told) = table.get(&place) {
                        if *told != Self::expected(case) {
                            wrong.push(format!("{}: the table says {told:?}", case["id"]));
                        }
                        cases += 1;
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        (cells, cases)
    }

    /// Waits for what was said beside the policy: questions that rest on it are answered as the table says.
    fn wait_said(&self) {
        let cases = self.cases();
        let rests = |case: &&Json| {
            let rule = text(case, "rule");
            !is_about_one_call(case) && (rule.starts_with("tool:") || text(case, "expect") == "allow")
        };
        wait_until("what was said is there", PATIENCE, || {
            let agrees = |home: &Home| {
                cases.iter().filter(rests).all(|case| self.explained(home, case, false) == Self::expected(case))
            };
            self.homes.iter().all(agrees)
        });
    }

    /// Calls whose origin asked nobody: their targets, which run, end them by themselves. Answers how many.
    fn end_at_target(&mut self) -> usize {
        let mut calls = Vec::new();
        for (case, number) in self.cases().into_iter().zip(1..) {
            let target = self.homes.iter().position(|home| home.name == text(&case, "node"));
            let origin = case["origin"].as_str();
            let from = origin.map_or(Some(&mut self.probe), |origin| self.fellows.get_mut(origin));
            let (Some(target), Some(from), true) = (target, from, case["token"].is_null()) else { continue };
            if is_about_one_call(&case) || case["workspace"] == "mesh" {
                continue;
            }
            let id = ReqId::new(&from.id(), Incarnation(1), number);
            let header = Header {
                tool: text(&case, "tool").parse().expect("a name"),
                principal: text(&case, "principal").parse().expect("a name"),
                workspace: case["workspace"].as_str().map(|workspace| workspace.parse().expect("a name")),
                effect: Effect::Idempotent,
                ..header(id, peer(&self.homes[target]))
            };
            from.says(Kind::CALL, encode(&header));
            calls.push((case, target, id));
        }
        let mut wrong = Vec::new();
        for (case, target, id) in &calls {
            let home = &self.homes[*target];
            wait_until("the call is known", PATIENCE, || home.get(&format!("calls/{id}")).status == 200);
            let expect = text(case, "expect");
            let ended = if expect == "ask" {
                wait_until("it asks", PATIENCE, || text(&home.get_call(&id.to_string()), "state") == "asking");
                let list = home.get("approvals?limit=200").expect(200);
                let call = items(&list).iter().find(|call| call["call_id"] == id.to_string()).cloned();
                call.map(|call| call["asks"].to_string()).unwrap_or_default()
            } else {
                let call = home.wait_ended(&id.to_string(), PATIENCE);
                let denied = call["state"] == "denied";
                // What ran was let run, whatever the tool made of its arguments.
                if denied != (expect == "deny") {
                    wrong.push(format!("{} ended {}: {}", case["id"], call["state"], call["reason"]));
                }
                text(&call, "reason").to_owned()
            };
            let (_, rule) = Self::expected(case);
            if expect != "allow" && !ended.contains(&rule) {
                wrong.push(format!("{}: `{ended}` does not name {rule}", case["id"]));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        calls.len()
    }

    /// Verdict and rule of a call: those that it got, or as it stands now.
    fn stands(home: &Home, id: &ReqId, by_cli: bool) -> (String, String) {
        let told = if by_cli {
            home.cli(&["policy", "explain", "--call", &id.to_string(), "--json"]).json(0)
        } else {
            home.get(&format!("calls/{id}/explanation")).expect(200)
        };
        let of = |told: &Json| (text(told, "verdict").to_owned(), text(told, "rule").to_owned());
        match text(&told, "state") {
            "denied" => of(&told),
            // What the yes was to is told with it.
            "done" | "failed" => {
                ("allow".to_owned(), told["answers"][0]["of"][0].as_str().unwrap_or_default().to_owned())
            }
            _ => of(&told["now"]),
        }
    }

    /// Calls to which people answered as the table says: they stand alike at all three, by REST and by the command line. Answers
    /// how many.
    fn answer_calls(&mut self) -> usize {
        let mut calls = Vec::new();
        for (case, number) in self.cases().into_iter().filter(is_about_one_call).zip(10_000..) {
            let (id, target) = (ReqId::new(&self.probe.id(), Incarnation(1), number), self.id(text(&case, "node")));
            let header = Header {
                tool: text(&case, "tool").parse().expect("a name"),
                principal: text(&case, "principal").parse().expect("a name"),
                workspace: case["workspace"].as_str().map(|workspace| workspace.parse().expect("a name")),
                effect: Effect::Idempotent,
                ttl_ms: HOUR_S * 1_000,
                ..header(id, target)
            };
            let call = self.probe.says(Kind::CALL, encode(&header));
            let known = |home: &Home| home.get(&format!("calls/{id}")).status == 200;
            wait_until("the call is known", PATIENCE, || self.homes.iter().all(known));
            for said in self.json["consents"].as_array().cloned().unwrap_or_default() {
                if said["call"] != case["call"] {
                    continue;
                }
                let choice = match text(&said, "choice") {
                    "once" => Choice::Once { call: id, header: call.hash },
                    _ => Choice::Deny { call: id, header: call.hash },
                };
                let by = text(&said, "by").parse().expect("a name");
                let of = read(&said["of"]).expect("asks");
                let consent = Consent { choice, by, of, note: Note::default() };
                let ends = Audience::Call { origin: self.probe.id(), target };
                // A device of an owner speaks for anyone, whichever it is.
                let at = self.fellows.get_mut(text(&said, "at")).unwrap_or(&mut self.probe);
                let entry = at.entry(Kind::CONSENT, encode(&consent), |entry| entry.audience = ends);
                at.takes(&entry);
                at.send(&Frame::Entries { entries: vec![EntryItem { entry, left_ms: Some(600_000) }], more: false });
            }
            calls.push((case, id));
        }
        // What is no answer changes nothing, so those that still ask are looked at when all else has come.
        calls.sort_by_key(|(case, _)| case["expect"] == "ask");
        for (case, id) in &calls {
            let expected = Self::expected(case);
            for home in &self.homes {
                for by_cli in [false, true] {
                    let mut last = None;
                    let agrees = || {
                        last = Some(Self::stands(home, id, by_cli));
                        last.as_ref() == Some(&expected)
                    };
                    let what = format!("{} at {}: {expected:?}", case["id"], home.name);
                    wait_until(&what, PATIENCE, agrees);
                }
            }
        }
        calls.len()
    }
}

fn tools(said: &Json) -> Vec<ToolDecl> {
    let open: BTreeSet<String> = read(&said["open"]).unwrap_or_default();
    let tools = said["tools"].as_object().into_iter().flatten();
    let decl = |(name, _): (&String, &Json)| ToolDecl {
        name: name.parse().expect("a name"),
        effect: Effect::Idempotent,
        description: String::new(),
        owner_only: !open.contains(name),
        at_once: None,
        card: None,
        state: Fitness::READY,
    };
    tools.map(decl).collect()
}

/// Sets the policy of a world in three ways, and asks each time.
fn check(name: &'static str, real: &[&str]) {
    let runtime = runtime();
    let mut world = World::start(name, real, &runtime);
    let policy = world.policy();
    let file = world.first().path("rights.toml");
    fs::write(&file, &policy).expect("it is written");
    let put = |world: &World<'_>, toml: &str| {
        let head = [("Content-Type", "application/json"), ("If-Match", "*")];
        world.first().ask("PUT", "/api/v1/policy", &head, json!({ "toml": toml }).to_string().as_bytes()).expect(200);
        world.wait_agreed();
    };
    if !policy.is_empty() {
        put(&world, &policy);
    }
    world.make_tokens();
    world.say_yes();
    world.wait_agreed();
    world.wait_said();
    let asked = world.explain_all("set by REST", false);
    assert_eq!(world.explain_all("asked by the command line", true), asked);
    let (cells, of_table) = world.compare_tables();
    let ended = world.end_at_target();
    let answered = world.answer_calls();
    if !policy.is_empty() {
        put(&world, "");
        let said = world.first().cli(&["policy", "edit", "--file", &file.display().to_string()]);
        assert_eq!(said.code, 0, "{said:?}");
        world.wait_agreed();
        world.explain_all("set by the command line", false);
        put(&world, "");
        let settings = world.first().path("sigil.toml");
        let before = fs::read_to_string(&settings).expect("the settings");
        fs::write(&settings, format!("{before}\n{policy}")).expect("it is written");
        let said = world.first().cli(&["reload"]);
        assert_eq!(said.code, 0, "{said:?}");
        world.wait_agreed();
        world.explain_all("set by the file", false);
    }
    eprintln!(
        "{name}: {asked} explained alike, {of_table} of them in tables of {cells} cells, {ended} of them ended by their target, {answered} calls that people answered"
    );
    assert_eq!(asked + answered, world.cases().len(), "none is left out");
}

#[test]
fn every_case_of_the_family_is_answered_alike_however_it_was_set_and_wherever_it_is_asked() {
    check("family", &["server", "laptop-anna", "spare"]);
}

#[test]
fn every_case_of_the_homelab_is_answered_alike_however_it_was_set_and_wherever_it_is_asked() {
    check("homelab", &["gate", "hyper-1", "db-1"]);
}

#[test]
fn every_case_of_an_open_mesh_is_answered_alike_wherever_it_is_asked() {
    check("open", &["laptop", "server", "spare"]);
}
