//! Plugins as they are written: all values are text until they are checked, so that every error reads alike.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::types::{Cancel, Capability, Instance, Level, NetworkMode, Pull, Tier};

/// A `plugin.yaml`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "plugin")]
pub(super) struct Raw {
    /// `sigil/plugin/v1`.
    pub(super) schema: Option<String>,
    /// Its name: 1 to 32 of a-z, 0-9 and `-`.
    #[schemars(regex(pattern = "^[a-z0-9][a-z0-9-]{0,31}$"))]
    pub(super) name: Option<String>,
    /// A version by semver.org, for people.
    pub(super) version: Option<String>,
    /// For people.
    #[schemars(length(max = 200))]
    pub(super) description: Option<String>,
    /// Shown to people. Less than what is asked for below is an error.
    #[schemars(with = "Option<Vec<Capability>>")]
    pub(super) capabilities: Option<Vec<String>>,
    /// Empty: the tools are called by their names alone, and not `NAME.TOOL`.
    #[schemars(length(max = 0))]
    pub(super) prefix: Option<String>,
    /// The way in which it runs.
    pub(super) execution: RawExecution,
    /// Its tools. MCP and gRPC servers tell theirs themselves.
    pub(super) tools: Vec<RawTool>,
    /// Of an MCP server: patterns of the tools that are offered.
    pub(super) expose: Vec<String>,
    /// Of an MCP server: patterns of the tools that a person is to be asked for.
    pub(super) approve: Vec<String>,
    /// Of an MCP server: effects of running tools again.
    #[schemars(with = "BTreeMap<String, EffectShape>")]
    pub(super) effects: BTreeMap<String, String>,
}

/// The way in which a plugin runs.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "execution")]
pub(super) struct RawExecution {
    /// A process of this device, or a container (the default).
    #[schemars(with = "Option<Tier>")]
    pub(super) tier: Option<String>,
    /// `json`: one process for each call (the default).
    #[schemars(with = "Option<ProtocolShape>")]
    pub(super) protocol: Option<String>,
    /// Reference of the image, best by digest.
    pub(super) image: Option<String>,
    /// When the image is fetched.
    #[schemars(with = "Option<Pull>")]
    pub(super) pull: Option<String>,
    /// Program and arguments. In a container in place of those of the image; as a process required, `./x` is in the plugin's
    /// folder.
    pub(super) command: Vec<String>,
    /// Directory in which a process is started.
    pub(super) cwd: Option<String>,
    /// Added to the environment.
    pub(super) env: BTreeMap<String, RawValue>,
    /// Of an MCP server elsewhere: where it is.
    pub(super) url: Option<String>,
    /// Sent there with each request.
    pub(super) headers: BTreeMap<String, RawValue>,
    /// None, a proxy to the places of `egress`, or that of this device.
    #[schemars(with = "Option<NetworkMode>")]
    pub(super) network: Option<String>,
    /// Places that it may reach with `network: restricted`: `api.example.org:443`, `*.example.net`, `lan:nas.home:5000`.
    pub(super) egress: Vec<String>,
    /// Absolute paths that it may read.
    pub(super) read: Vec<String>,
    /// Absolute paths that it may write.
    pub(super) write: Vec<String>,
    /// `UID:GID`, or `image`: as the image says.
    pub(super) user: Option<String>,
    /// 16Mi to 64Gi.
    #[schemars(with = "Option<SizeShape>")]
    pub(super) memory_limit: Option<String>,
    /// Cores: `1`, `0.5`, `500m`.
    #[schemars(with = "Option<CpuShape>")]
    pub(super) cpu_limit: Option<String>,
    /// Processes.
    #[schemars(with = "Option<u32>")]
    pub(super) pids_limit: Option<String>,
    /// Size of its private `/tmp`.
    #[schemars(with = "Option<SizeShape>")]
    pub(super) tmp_size: Option<String>,
    /// Size of shared memory; 0: none.
    #[schemars(with = "Option<SizeShape>")]
    pub(super) shm_size: Option<String>,
    /// Most bytes that a call may answer.
    #[schemars(with = "Option<SizeShape>")]
    pub(super) output_limit: Option<String>,
    /// Longest run of a call; at most 24h.
    #[schemars(with = "Option<TimeShape>")]
    pub(super) timeout: Option<String>,
    /// Runs at once.
    #[schemars(with = "Option<u8>")]
    pub(super) concurrency: Option<String>,
    /// A container for each call, or one for many.
    #[schemars(with = "Option<Instance>")]
    pub(super) instance: Option<String>,
    /// Containers that wait for the next call.
    #[schemars(with = "Option<u8>", range(max = 4))]
    pub(super) warm: Option<String>,
    /// Time after which a shared container that is not used is stopped.
    #[schemars(with = "Option<TimeShape>")]
    pub(super) idle: Option<String>,
    /// A process may connect to sockets in the file system.
    #[schemars(with = "Option<bool>")]
    pub(super) unix_sockets: Option<String>,
    /// What a process leaves running when it ends by itself is not ended.
    #[schemars(with = "Option<bool>")]
    pub(super) keep_running: Option<String>,
    /// It does not run with less than this.
    #[schemars(with = "Option<Level>")]
    pub(super) min_level: Option<String>,
    /// Port within the container at which a gRPC server listens.
    #[schemars(with = "Option<u16>")]
    pub(super) grpc_port: Option<String>,
    /// Of an MCP server: started by the first call only.
    #[schemars(with = "Option<bool>")]
    pub(super) lazy: Option<String>,
    /// Of an MCP server: `restart` starts it anew if it does not end a call that was cancelled.
    #[schemars(with = "Option<Cancel>")]
    pub(super) cancel: Option<String>,
}

/// A tool.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "tool")]
pub(super) struct RawTool {
    /// Its name, to which that of the plugin is added.
    #[schemars(regex(pattern = "^[A-Za-z0-9._-]{1,64}$"))]
    pub(super) name: Option<String>,
    /// For people.
    pub(super) title: Option<String>,
    /// For people.
    #[schemars(length(max = 200))]
    pub(super) description: Option<String>,
    /// Effect of running it again.
    #[schemars(with = "Option<EffectShape>")]
    pub(super) effect: Option<String>,
    /// Added to the command.
    pub(super) args: Vec<String>,
    /// JSON Schema of its arguments.
    pub(super) input_schema: Option<serde_json::Value>,
    /// Kind of its output.
    pub(super) output: Option<RawOutput>,
    /// Longest run.
    #[schemars(with = "Option<TimeShape>")]
    pub(super) timeout: Option<String>,
    /// For owners, and whom they give it to (the default). False: for all members.
    #[schemars(with = "Option<bool>")]
    pub(super) owner_only: Option<String>,
}

/// Kind of a tool's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RawOutput {
    /// A word.
    Word(String),
    /// `{ media_type: … }`.
    Media(String),
}

/// A value of the environment or of a header: a text, or where it comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum RawValue {
    /// A text.
    Text(String),
    /// `{ secret = NAME }` and the like: the word, and what it says.
    From(String, String),
}

impl fmt::Debug for RawValue {
    /// Never a text: it may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text(..)"),
            Self::From(kind, name) => f.debug_tuple("From").field(kind).field(name).finish(),
        }
    }
}

/// `[mcp_servers.NAME]` of the settings.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the keys are described in docs/settings.md, and meant as in a manifest")]
pub struct RawServer {
    pub command: Option<String>,
    pub args: Vec<String>,
    pub env: BTreeMap<String, RawValue>,
    pub cwd: Option<String>,
    pub url: Option<String>,
    pub headers: BTreeMap<String, RawValue>,
    pub disabled: Option<String>,
    pub tier: Option<String>,
    pub image: Option<String>,
    pub read: Vec<String>,
    pub write: Vec<String>,
    pub network: Option<String>,
    pub egress: Vec<String>,
    pub expose: Vec<String>,
    pub approve: Vec<String>,
    pub effects: BTreeMap<String, String>,
    pub timeout: Option<String>,
    pub max_output: Option<String>,
    pub lazy: Option<String>,
    pub cancel: Option<String>,
}

/// The keys of [`RawServer`].
pub const SERVER_KEYS: &[&str] = &[
    "command",
    "args",
    "env",
    "cwd",
    "url",
    "headers",
    "disabled",
    "tier",
    "image",
    "read",
    "write",
    "network",
    "egress",
    "expose",
    "approve",
    "effects",
    "timeout",
    "max_output",
    "lazy",
    "cancel",
];

impl<'de> Deserialize<'de> for RawValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfValue;
        impl<'de> Visitor<'de> for OfValue {
            type Value = RawValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, or one of { secret: NAME }, { env: VARIABLE }, { file: /path }")
            }

            fn visit_str<E>(self, text: &str) -> Result<RawValue, E> {
                Ok(RawValue::Text(text.to_owned()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<RawValue, E> {
                Ok(RawValue::Text(number.to_string()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<RawValue, E> {
                Ok(RawValue::Text(number.to_string()))
            }

            fn visit_bool<E>(self, word: bool) -> Result<RawValue, E> {
                Ok(RawValue::Text(word.to_string()))
            }

            fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<RawValue, E> {
                Err(E::custom("a number with a fraction must stand in quotes, or it would lose its form"))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawValue, A::Error> {
                let Some((kind, name)) = map.next_entry::<String, String>()? else {
                    return Err(A::Error::custom("it says nothing: { secret: NAME } is meant, or a text"));
                };
                if map.next_key::<String>()?.is_some() {
                    return Err(A::Error::custom("it must say one thing: secret, env or file"));
                }
                Ok(RawValue::From(kind, name))
            }
        }
        deserializer.deserialize_any(OfValue)
    }
}

impl<'de> Deserialize<'de> for RawOutput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfOutput;
        impl<'de> Visitor<'de> for OfOutput {
            type Value = RawOutput;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("parts, or { media_type: image/png }")
            }

            fn visit_str<E>(self, text: &str) -> Result<RawOutput, E> {
                Ok(RawOutput::Word(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawOutput, A::Error> {
                match map.next_entry::<String, String>()? {
                    Some((key, media)) if key == "media_type" && map.next_key::<String>()?.is_none() => {
                        Ok(RawOutput::Media(media))
                    }
                    Some(_) | None => Err(A::Error::custom("it must be parts, or { media_type: image/png }")),
                }
            }
        }
        deserializer.deserialize_any(OfOutput)
    }
}

impl JsonSchema for RawValue {
    fn schema_name() -> Cow<'static, str> {
        "value".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let one = |key: &str| {
            json_schema!({
                "type": "object", "properties": { key: { "type": "string" } }, "required": [key], "additionalProperties": false,
            })
        };
        json_schema!({
            "description": "A text, or where it comes from: a secret of this device, a variable of the agent, a file.",
            "anyOf": [{ "type": ["string", "integer", "boolean"] }, one("secret"), one("env"), one("file")],
        })
    }
}

impl JsonSchema for RawOutput {
    fn schema_name() -> Cow<'static, str> {
        "output".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A media type, or `parts`: the files that the tool leaves in $SIGIL_OUT.",
            "anyOf": [
                { "const": "parts" },
                {
                    "type": "object", "properties": { "media_type": { "type": "string" } },
                    "required": ["media_type"], "additionalProperties": false,
                },
            ],
        })
    }
}

/// Defines the form of a value in the schema, which is text here.
macro_rules! shape {
    ($type:ident, $name:literal, $schema:tt) => {
        struct $type;
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

shape!(SizeShape, "size", {
    "description": "Bytes, or with a unit: 256Mi, 1Gi, 512Ki.", "type": ["string", "integer"], "pattern": "^[0-9]+(Ki|Mi|Gi)?$",
});
shape!(CpuShape, "cpu", {
    "description": "Cores, or thousandths of one: 1, 0.5, 500m.", "type": ["string", "number"],
    "pattern": "^([0-9]{1,6}m|[0-9]{1,6}(\\.[0-9]{1,3})?)$",
});
shape!(TimeShape, "time", {
    "description": "A duration: 500ms, 30s, 5m, 2h, 1h30m.", "type": "string", "pattern": "^([0-9]+(ms|s|m|min|h|d))+$",
});
shape!(EffectShape, "effect", {
    "description": "Effect of running a tool again: none, the same as once, or another each time (once, the default).",
    "enum": ["none", "idempotent", "once"],
});
shape!(ProtocolShape, "protocol", {
    "description": "How it is spoken to: a process for each call, an MCP server, or a server of tool.proto.",
    "enum": ["json", "mcp", "grpc"],
});
