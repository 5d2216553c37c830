//! Tools as an MCP client sees them: those that it may use, of all devices, whether these are there or not.
//!
//! The same tools give the same bytes, in any order of asking and at each device of tier owner: clients keep prompts that begin
//! with the list. So nothing in it depends on who is online, but `_meta`, which models do not see.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesh_core::ids::{Hash, PeerId, ToolName};
use mesh_core::io::{NodeView, View};
use mesh_core::policy::{Credential, Request, Verdict};
use mesh_core::record::{Effect, Tier, ToolDecl};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::names::{Names, any_name};
use crate::doors::identity::Identity;
use crate::doors::ops::devices::is_online;
use crate::mesh::MeshHandle;
use crate::node::card::{Hints, ToolDescription, sorted};

/// Cards that are kept parsed. A mesh has at most 512 tools on each device; what is thrown out is read again.
const CARDS_MAX: usize = 4_096;
/// Wait for all cards of a list that are not here: owners' devices have them already.
const CARDS_WAIT: Duration = Duration::from_secs(1);

/// Cards that were read, by their hash: what has the same hash says the same for ever.
#[derive(Debug, Default)]
pub(super) struct Cards {
    read: Mutex<BTreeMap<Hash, Arc<ToolDescription>>>,
}

impl Cards {
    /// The card of a tool of a device, if there is one and it can be had within `wait`.
    pub(super) async fn of(
        &self,
        mesh: &MeshHandle,
        peer: PeerId,
        tool: &ToolDecl,
        wait: Duration,
    ) -> Option<Arc<ToolDescription>> {
        let hash = tool.card?;
        if let Some(about) = self.read.lock().unwrap_or_else(PoisonError::into_inner).get(&hash) {
            return Some(about.clone());
        }
        let bytes = mesh.payloads().card(hash, peer, wait).await.ok()?;
        let about = Arc::new(ToolDescription::read(&bytes).ok()?);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.len() >= CARDS_MAX {
            read.clear();
        }
        read.insert(hash, about.clone());
        Some(about)
    }
}

/// A tool that the caller may use, perhaps once somebody has said yes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Open<'v> {
    pub(super) node: &'v NodeView,
    pub(super) tool: &'v ToolDecl,
    /// True if a person has to say yes first.
    pub(super) asks: bool,
}

/// All tools that the caller may use, by device and name.
pub(super) fn open<'v>(view: &'v View, who: &Identity) -> Vec<Open<'v>> {
    open_of(view, who, |_, _| true)
}

/// Those of them that `wanted` picks. One function decides, here as for each call.
pub(super) fn open_of<'v>(
    view: &'v View,
    who: &Identity,
    wanted: impl Fn(&NodeView, &ToolDecl) -> bool,
) -> Vec<Open<'v>> {
    let Some(principal) = who.holder().cloned().or_else(|| view.rights.sits_at(&view.me)) else { return Vec::new() };
    let credential = who.token().map(|shown| Credential { token: shown.id.clone(), over: false });
    let mut open = Vec::new();
    for node in &view.nodes {
        for tool in node.tools().iter().filter(|tool| wanted(node, tool)) {
            let request = Request {
                principal: principal.clone(),
                origin: view.me,
                credential: credential.clone(),
                workspace: None,
                target: node.peer,
                tool: tool.name.clone(),
                call: None,
            };
            match view.rights.decide(&request).verdict {
                Verdict::Allow => open.push(Open { node, tool, asks: false }),
                Verdict::Ask => open.push(Open { node, tool, asks: true }),
                Verdict::Deny => {}
            }
        }
    }
    open
}

/// A tool, and all that is told of it.
type Told<'v> = (Open<'v>, Option<Arc<ToolDescription>>);

/// A tool as it is listed.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    /// Its name.
    pub(super) name: String,
    /// All that is told of it.
    pub(super) entry: Value,
}

/// The tools of all devices, by name; `any__…` among them where several offer the same.
pub(super) async fn tools(mesh: &MeshHandle, cards: &Cards, view: &View, names: &Names, who: &Identity) -> Vec<Listed> {
    let mut listed = Vec::new();
    let mut alike: BTreeMap<&ToolName, Vec<Told<'_>>> = BTreeMap::new();
    let deadline = Instant::now() + CARDS_WAIT;
    for open in open(view, who) {
        let wait = deadline.saturating_duration_since(Instant::now());
        let about = cards.of(mesh, open.node.peer, open.tool, wait).await;
        let name = names.tool(&open.node.peer, &open.tool.name);
        if !name.is_empty() {
            let entry = entry(view, names, name, open, about.as_deref());
            listed.push(Listed { name: name.to_owned(), entry });
        }
        alike.entry(&open.tool.name).or_default().push((open, about));
    }
    for (tool, all) in alike {
        let schema = |about: &Option<Arc<ToolDescription>>| about.as_ref().and_then(|about| about.input_schema.clone());
        let ([(first, about), rest @ ..], Some(name)) = (all.as_slice(), any_name(tool)) else { continue };
        let same = rest.iter().all(|(_, other)| schema(other) == schema(about));
        if !rest.is_empty() && same && !listed.iter().any(|it| it.name == name) {
            listed.push(Listed { entry: entry_of_any(&name, *first, about.as_deref(), &all), name });
        }
    }
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    listed
}

/// The schema of arguments; of a tool that does not say, any object.
pub(super) fn input_schema(about: Option<&ToolDescription>) -> Value {
    let schema = about.and_then(|about| about.input_schema.clone()).filter(Value::is_object);
    let mut schema = schema.unwrap_or_else(|| json!({}));
    // Clients take no other root than an object.
    if let Some(members) = schema.as_object_mut() {
        members.insert("type".to_owned(), "object".into());
    }
    schema
}

/// The schema of results: that of the tool, or the standing of a call that has none yet. `None` where the tool says nothing, or
/// refers within its schema, which would lead elsewhere once it stands inside of another.
pub(super) fn output_schema(about: Option<&ToolDescription>) -> Option<Value> {
    let own = about?.output_schema.clone().filter(|own| own.get("type").and_then(Value::as_str) == Some("object"))?;
    if refers(&own) {
        return None;
    }
    Some(json!({ "type": "object", "anyOf": [own, super::standing::schema()] }))
}

fn refers(schema: &Value) -> bool {
    match schema {
        Value::Object(members) => members.iter().any(|(name, value)| {
            matches!(name.as_str(), "$ref" | "$dynamicRef" | "$id" | "$anchor" | "$schema" | "$defs" | "definitions")
                || refers(value)
        }),
        Value::Array(items) => items.iter().any(refers),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn description(tool: &ToolDecl, about: Option<&ToolDescription>) -> String {
    let long = about.map(|about| about.description.as_str()).filter(|text| !text.is_empty());
    long.unwrap_or(&tool.description).to_owned()
}

/// The four hints. What an owner of the mesh says of the tools of a device of hers counts; what a tool says of itself makes it look no
/// more harmless, nor does what another device says of its own. `of_owner`: the device is an owner's.
fn annotations(tool: &ToolDecl, about: Option<&ToolDescription>, of_owner: bool) -> Value {
    let said = about.map(|about| about.hints.clone()).unwrap_or_default();
    let Hints { destructive, open_world, trusted, .. } = said;
    let trusted = trusted && of_owner;
    let harmless = tool.effect == Effect::None && of_owner;
    let believed = |said: Option<bool>, else_: bool| if trusted { said.unwrap_or(else_) } else { else_ };
    json!({
        "readOnlyHint": harmless,
        "destructiveHint": !harmless && believed(destructive, true),
        "idempotentHint": tool.effect != Effect::Once && of_owner,
        // A tool without a card is one of ours.
        "openWorldHint": !of_owner || about.is_some() && believed(open_world, true),
    })
}

fn entry(view: &View, names: &Names, name: &str, open: Open<'_>, about: Option<&ToolDescription>) -> Value {
    let Open { node, tool, asks } = open;
    let shown = about.map(|about| about.title.as_str()).filter(|title| !title.is_empty()).unwrap_or(tool.name.as_str());
    let mut meta = json!({
        "sigil/address": format!("node:{}:{}", node.node_id, tool.name),
        "sigil/node": node.node_id.to_string(),
        "sigil/device": names.node(&node.peer),
        "sigil/online": is_online(view, node),
        "sigil/asks": asks,
    });
    let of_owner = node.tier == Tier::Owner;
    if (!of_owner || about.is_some_and(|about| !about.hints.trusted))
        && let Some(members) = meta.as_object_mut()
    {
        members.insert("sigil/hints".to_owned(), "untrusted".into());
    }
    whole(name, &format!("{}: {shown}", node.node_id), tool, about, of_owner, meta)
}

fn entry_of_any(name: &str, first: Open<'_>, about: Option<&ToolDescription>, all: &[Told<'_>]) -> Value {
    let nodes: Vec<String> = all.iter().map(|(open, _)| open.node.node_id.to_string()).collect();
    let asks = all.iter().any(|(open, _)| open.asks);
    let meta = json!({ "sigil/address": format!("any:{}", first.tool.name), "sigil/nodes": nodes, "sigil/asks": asks });
    // It may run at each of them: it is as harmless as the least harmless.
    let of_owners = all.iter().all(|(open, _)| open.node.tier == Tier::Owner);
    let effects = || all.iter().map(|(open, _)| open.tool.effect);
    let effect = [Effect::Once, Effect::Idempotent].into_iter().find(|worse| effects().any(|effect| effect == *worse));
    let tool = ToolDecl { effect: effect.unwrap_or(Effect::None), ..first.tool.clone() };
    let all_trusted = all.iter().all(|(_, about)| about.as_ref().is_none_or(|about| about.hints.trusted));
    let about = about.map(|about| {
        let trusted = about.hints.trusted && all_trusted;
        ToolDescription { hints: Hints { trusted, ..about.hints.clone() }, ..about.clone() }
    });
    whole(name, &format!("any device: {}", tool.name), &tool, about.as_ref(), of_owners, meta)
}

fn whole(
    name: &str,
    title: &str,
    tool: &ToolDecl,
    about: Option<&ToolDescription>,
    of_owner: bool,
    meta: Value,
) -> Value {
    let mut entry = Map::new();
    entry.insert("name".to_owned(), name.into());
    entry.insert("title".to_owned(), title.into());
    entry.insert("description".to_owned(), description(tool, about).into());
    entry.insert("inputSchema".to_owned(), input_schema(about));
    if let Some(schema) = output_schema(about) {
        entry.insert("outputSchema".to_owned(), schema);
    }
    entry.insert("annotations".to_owned(), annotations(tool, about, of_owner));
    entry.insert("_meta".to_owned(), meta);
    sorted(&Value::Object(entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(output: Value) -> ToolDescription {
        ToolDescription { output_schema: Some(output), ..ToolDescription::default() }
    }

    #[test]
    fn results_have_a_schema_that_holds_for_queued_calls_too() {
        let schema = output_schema(Some(&about(json!({ "type": "object", "required": ["n"] })))).unwrap();
        assert_eq!((schema["type"].as_str(), schema["anyOf"].as_array().unwrap().len()), (Some("object"), 2));
        for none in [
            json!({ "type": "array" }),
            json!({ "type": "object", "properties": { "a": { "$ref": "#/$defs/x" } } }),
            json!(true),
        ] {
            assert_eq!(output_schema(Some(&about(none))), None);
        }
    }

    #[test]
    fn arguments_are_an_object_whatever_a_tool_says() {
        assert_eq!(input_schema(None), json!({ "type": "object" }));
        let odd = ToolDescription {
            input_schema: Some(json!({ "anyOf": [{ "type": "object" }] })),
            ..ToolDescription::default()
        };
        assert_eq!(input_schema(Some(&odd))["type"], "object");
    }

    #[test]
    fn a_tool_does_not_call_itself_harmless() {
        let tool = ToolDecl {
            name: "x".parse().unwrap(),
            effect: Effect::Once,
            description: String::new(),
            owner_only: false,
            at_once: None,
            card: None,
            state: mesh_core::record::Fitness::READY,
        };
        let hints = |trusted| Hints { read_only: Some(true), destructive: Some(false), trusted, ..Hints::default() };
        let of = |trusted| {
            annotations(&tool, Some(&ToolDescription { hints: hints(trusted), ..ToolDescription::default() }), true)
        };
        assert_eq!((&of(false)["destructiveHint"], &of(false)["readOnlyHint"]), (&json!(true), &json!(false)));
        assert_eq!(of(true)["destructiveHint"], false);
        let none = ToolDecl { effect: Effect::None, ..tool };
        // A device of somebody else says of its own tools what it likes.
        let theirs =
            annotations(&none, Some(&ToolDescription { hints: hints(true), ..ToolDescription::default() }), false);
        assert_eq!(
            theirs,
            json!({ "readOnlyHint": false, "destructiveHint": true, "idempotentHint": false, "openWorldHint": true })
        );
        let ours = annotations(&none, None, true);
        assert_eq!(
            ours,
            json!({ "readOnlyHint": true, "destructiveHint": false, "idempotentHint": true, "openWorldHint": false })
        );
    }
}
