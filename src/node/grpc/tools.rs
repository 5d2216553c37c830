//! Tools of a gRPC server as this device offers them. Pure, but for the file of pins.
//!
//! What its manifest lists was seen by whoever installed it, and what the manifest says of it counts alone. If it lists none, the
//! server tells its tools, and all of them are held back until an owner has seen them, as those of MCP servers are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::ids::{Hash, ToolName};
use mesh_core::limits::TOOLS_MAX;
use mesh_core::record::Effect;
use serde_json::{Value, json};

use crate::json::deeper_than;
use crate::node::card::{SCHEMA_BYTES_MAX, SCHEMA_DEPTH_MAX};
use crate::node::mcp::spec::{ServerSpec, Transport};
use crate::node::mcp::tools::{self, PinFile, Pinned};
use crate::node::mcp::wire::Greeted;
use crate::node::provider::Offer;
use crate::node::{commands, provider::Absent};
use crate::pb;
use crate::plugin::{ContainerConfig, Plugin};
use crate::text::visible;

/// Longest name or version of a server, characters.
const WORD_CHARS_MAX: usize = 100;

/// What a server described, read.
#[derive(Debug, Clone, Default)]
pub(super) struct Described {
    greeted: Greeted,
    /// As the list of an MCP server, by which they are pinned and shown.
    tools: Vec<Value>,
    effects: BTreeMap<ToolName, Effect>,
    times: BTreeMap<String, Duration>,
    /// Tools that cannot be read, and why.
    unreadable: Vec<(String, String)>,
}

/// What of it is offered.
#[derive(Debug, Clone, Default)]
pub(super) struct Offered {
    pub(super) tools: BTreeMap<ToolName, Arc<Offer>>,
    /// Names of the tools at the server, by those that they have here.
    pub(super) names: BTreeMap<ToolName, String>,
    pub(super) absent: Vec<Absent>,
}

/// Reads what a server describes.
///
/// # Errors
/// It describes too much; for people.
pub(super) fn read(response: pb::DescribeResponse) -> Result<Described, String> {
    let count = response.tools.len();
    if count > TOOLS_MAX {
        return Err(format!("it describes {count} tools, more than {TOOLS_MAX}"));
    }
    let word = |text: &str| visible(text).chars().take(WORD_CHARS_MAX).collect::<String>();
    let greeted = Greeted { name: word(&response.name), version: word(&response.version) };
    let mut described = Described { greeted, ..Described::default() };
    for tool in response.tools {
        let read = schema(&tool.input_schema).and_then(|input| Ok((input, schema(&tool.output_schema)?)));
        let (input, output) = match read {
            Ok(schemas) => schemas,
            Err(why) => {
                described.unreadable.push((word(&tool.name), why));
                continue;
            }
        };
        let effect = match tool.effect.as_str() {
            "none" => Effect::None,
            "idempotent" => Effect::Idempotent,
            _ => Effect::Once,
        };
        if let Ok(name) = tool.name.parse() {
            described.effects.insert(name, effect);
        }
        if tool.timeout_seconds > 0 {
            described.times.insert(tool.name.clone(), Duration::from_secs(tool.timeout_seconds.into()));
        }
        let annotations = json!({ "effect": tool.effect, "timeoutSeconds": tool.timeout_seconds });
        let mut told = json!({
            "name": tool.name, "title": tool.title, "description": tool.description, "annotations": annotations,
        });
        for (key, schema) in [("inputSchema", input), ("outputSchema", output)] {
            if let (Some(schema), Some(told)) = (schema, told.as_object_mut()) {
                told.insert(key.to_owned(), schema);
            }
        }
        described.tools.push(told);
    }
    Ok(described)
}

fn schema(text: &str) -> Result<Option<Value>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() > SCHEMA_BYTES_MAX || deeper_than(text.as_bytes(), SCHEMA_DEPTH_MAX) {
        return Err("a schema of it is too large".to_owned());
    }
    let schema: Value = serde_json::from_str(text).map_err(|error| format!("a schema of it is no JSON: {error}"))?;
    if schema.is_object() { Ok(Some(schema)) } else { Err("a schema of it is no object".to_owned()) }
}

/// All tools that a manifest lists, whoever has seen its server.
pub(super) fn listed(plugin: &Plugin) -> BTreeMap<ToolName, Arc<Offer>> {
    plugin.tools.iter().map(|tool| (tool.name.clone(), Arc::new(commands::offer(plugin, tool, false)))).collect()
}

/// What is offered of what a server described. `listed`: what its manifest lists. Reads and writes its pins, and compiles schemas:
/// not for a loop.
pub(super) fn offered(
    plugin: &Plugin,
    config: &ContainerConfig,
    listed: &BTreeMap<ToolName, Arc<Offer>>,
    described: &Described,
    pins: &PinFile,
    approved: &BTreeMap<ToolName, Hash>,
) -> Offered {
    if listed.is_empty() {
        reviewed(plugin, config, described, pins, approved)
    } else {
        chosen(plugin, listed, described)
    }
}

/// Those that the manifest lists and the server has.
fn chosen(plugin: &Plugin, listed: &BTreeMap<ToolName, Arc<Offer>>, described: &Described) -> Offered {
    let mut offered = Offered::default();
    for (name, offer) in listed {
        let own = name.as_str().strip_prefix(&plugin.prefix).unwrap_or(name.as_str());
        let has = |tool: &Value| tool.get("name").and_then(Value::as_str) == Some(own);
        if described.tools.iter().any(has) {
            offered.tools.insert(name.clone(), offer.clone());
            offered.names.insert(name.clone(), own.to_owned());
        } else {
            let unreadable = described.unreadable.iter().find(|(of, _)| of == own).map(|(_, why)| why.clone());
            let why = unreadable.unwrap_or_else(|| "its server does not describe it".to_owned());
            offered.absent.push(absent(name.to_string(), why));
        }
    }
    offered
}

fn absent(tool: String, why: String) -> Absent {
    Absent { tool, why, fix: "another version of the plugin may have it".to_owned() }
}

/// All of them, those held back that nobody has seen.
fn reviewed(
    plugin: &Plugin,
    config: &ContainerConfig,
    described: &Described,
    file: &PinFile,
    approved: &BTreeMap<ToolName, Hash>,
) -> Offered {
    let spec = ServerSpec {
        prefix: plugin.prefix.clone(),
        effects: described.effects.clone(),
        timeout: plugin.execution.timeout,
        max_output: plugin.execution.output_limit,
        trusted_first_list: false,
        ..ServerSpec::new(plugin.name.as_str(), Transport::Container(Box::new(config.clone())))
    };
    let mut list = tools::listed(&spec, &described.greeted, &described.tools);
    let of = file.read();
    let pins = tools::review(spec.trusted_first_list, &of, &mut list, approved, (&described.greeted, None));
    let kept = match &of {
        // What cannot be read is not written over: somebody may want to look at it.
        Pinned::Unreadable(why) => {
            tracing::warn!(plugin = %plugin.name, "its pins cannot be read, so all its tools are in review: {why}");
            Ok(())
        }
        Pinned::As(old) if *old == pins => Ok(()),
        Pinned::As(_) | Pinned::Never => file.write(&pins),
    };
    if let Err(error) = kept {
        tracing::warn!(plugin = %plugin.name, %error, "its pins could not be written: its tools are in review after a start");
    }
    let mut offered = Offered::default();
    for (name, tool) in list.tools {
        let mut offer = Offer { at_once: plugin.execution.concurrency, ..(*tool.offer).clone() };
        if let Some(time) = described.times.get(&tool.own_name) {
            offer.timeout = offer.timeout.min(*time);
        }
        offered.names.insert(name.clone(), tool.own_name);
        offered.tools.insert(name, Arc::new(offer));
    }
    let lacking = list.absent.into_iter().chain(described.unreadable.iter().cloned());
    offered.absent = lacking.map(|(name, why)| absent(format!("{}{name}", plugin.prefix), why)).collect();
    offered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(tools: &str) -> (Plugin, ContainerConfig) {
        let text =
            format!("name: py\nexecution: {{ protocol: grpc, grpc_port: 50051, image: x, timeout: 60s }}\n{tools}");
        let plugin = crate::plugin::read(&text).unwrap().plugin;
        let config = ContainerConfig::from_manifest(&plugin).unwrap();
        (plugin, config)
    }

    fn spec(name: &str, schema: &str) -> pb::ToolSpec {
        let (name, input_schema) = (name.to_owned(), schema.to_owned());
        pb::ToolSpec { name, input_schema, effect: "none".to_owned(), timeout_seconds: 5, ..pb::ToolSpec::default() }
    }

    fn response(tools: Vec<pb::ToolSpec>) -> pb::DescribeResponse {
        pb::DescribeResponse { name: "p\u{202e}y".to_owned(), version: "1".to_owned(), tools }
    }

    fn names(offered: &Offered) -> Vec<(&str, &str)> {
        offered.names.iter().map(|(name, own)| (name.as_str(), own.as_str())).collect()
    }

    #[test]
    fn tools_of_the_manifest_are_offered_as_it_says_if_the_server_has_them() {
        let (plugin, config) = plugin("tools: [{ name: count, effect: once }, { name: gone }]");
        let described = read(response(vec![spec("count", ""), spec("hidden", "")])).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let pins = PinFile::new(dir.path().join("py.json"));
        let offered = offered(&plugin, &config, &listed(&plugin), &described, &pins, &BTreeMap::new());
        assert_eq!(names(&offered), [("py.count", "count")]);
        let offer = &offered.tools[&"py.count".parse().unwrap()];
        assert_eq!((offer.effect, offer.in_review), (Effect::Once, false), "its manifest counts, not its server");
        assert_eq!(offered.absent[0].tool, "py.gone");
        assert_eq!(pins.read(), Pinned::Never);
    }

    #[test]
    fn what_a_server_tells_of_its_own_accord_waits_for_an_owner() {
        let (plugin, config) = plugin("");
        let dir = tempfile::tempdir().unwrap();
        let pins = PinFile::new(dir.path().join("py.json"));
        let described = |effect: &str| {
            let tool = pb::ToolSpec { effect: effect.to_owned(), ..spec("count", r#"{"type":"object"}"#) };
            read(response(vec![tool, spec("bad", "[")])).unwrap()
        };
        let offer = |described: &Described, approved: &BTreeMap<ToolName, Hash>| {
            let all = offered(&plugin, &config, &BTreeMap::new(), described, &pins, approved);
            assert_eq!((all.absent.len(), all.absent[0].tool.as_str()), (1, "py.bad"));
            (*all.tools[&"py.count".parse().unwrap()]).clone()
        };
        let none = BTreeMap::new();
        let first = offer(&described("none"), &none);
        assert_eq!((first.effect, first.timeout.as_secs(), first.in_review), (Effect::None, 5, true));
        let name: ToolName = "py.count".parse().unwrap();
        // As its review shows it, the time of the plugin is in its card.
        let shown = Offer { in_review: false, ..first };
        let hash = mesh_core::policy::Offered::of(&shown.decl(&name, true)).hash;
        assert!(!offer(&described("none"), &BTreeMap::from([(name, hash)])).in_review);
        assert!(!offer(&described("none"), &none).in_review, "it is pinned");
        assert!(offer(&described("idempotent"), &none).in_review, "it has changed");
    }

    #[test]
    fn too_much_is_refused() {
        let many = response(vec![spec("x", ""); 10_000]);
        assert!(read(many).unwrap_err().contains("10000 tools"));
        let deep = "[".repeat(50_000);
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(SCHEMA_BYTES_MAX));
        for schema in [deep.as_str(), large.as_str(), "7", "{"] {
            let described = read(response(vec![spec(&"n".repeat(4096), schema)])).unwrap();
            assert!(described.tools.is_empty());
            assert_eq!(described.unreadable[0].0.len(), WORD_CHARS_MAX, "{schema:.20}");
        }
    }
}
