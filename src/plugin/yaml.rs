//! `plugin.yaml`.

use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::{Location, Options, Spanned};

use super::check::{self, Invalid, Source};
use super::raw::Raw;
use super::types::Plugin;
use crate::position::Position;
use crate::value::nearest;

/// Name of a manifest in the folder of its plugin.
pub const FILE_NAME: &str = "plugin.yaml";
/// Largest manifest: many schemas of tools fit into it.
pub const MANIFEST_BYTES_MAX: usize = 1 << 20;
/// Parts of a manifest, so that a few lines that stand for many (aliases) cost nothing.
const NODES_MAX: usize = 10_000;
/// Nesting of a manifest; schemas of tools may be 32 deep.
const DEPTH_MAX: usize = 48;

/// A manifest that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    /// The plugin.
    pub plugin: Plugin,
    /// Parts that do no harm but are hardly meant.
    pub warnings: Vec<String>,
}

/// A reason for which a manifest cannot be used. Fit for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Too many bytes.
    #[error("{FILE_NAME} has {0} bytes, and may have 1 MiB")]
    TooLarge(usize),
    /// Not YAML, or a list where a word belongs.
    #[error("{at}{why}")]
    Shape {
        /// File, line and column.
        at: String,
        /// The cause.
        why: String,
    },
    /// A value that is not one of those that are allowed.
    #[error(transparent)]
    Value(#[from] Invalid),
}

/// Known keys, by the part of the manifest that has them; `tools` is each tool's.
const KEYS: [(&str, &[&str]); 3] = [
    (
        "",
        &[
            "schema",
            "name",
            "version",
            "description",
            "capabilities",
            "prefix",
            "execution",
            "tools",
            "expose",
            "approve",
            "effects",
        ],
    ),
    (
        "execution",
        &[
            "tier",
            "protocol",
            "image",
            "pull",
            "command",
            "cwd",
            "env",
            "url",
            "headers",
            "network",
            "egress",
            "read",
            "write",
            "user",
            "memory_limit",
            "cpu_limit",
            "pids_limit",
            "tmp_size",
            "shm_size",
            "output_limit",
            "timeout",
            "concurrency",
            "instance",
            "warm",
            "idle",
            "unix_sockets",
            "keep_running",
            "min_level",
            "grpc_port",
            "lazy",
            "cancel",
        ],
    ),
    ("tools", &["name", "title", "description", "effect", "args", "input_schema", "output", "timeout", "owner_only"]),
];

/// Reads a manifest.
///
/// # Errors
/// The first thing in it that cannot be used, with its place.
pub fn read(text: &str) -> Result<Read, ManifestError> {
    if text.len() > MANIFEST_BYTES_MAX {
        return Err(ManifestError::TooLarge(text.len()));
    }
    let places = Places::of(text);
    let mut unknown = Vec::new();
    let parsed = serde_saphyr::with_deserializer_from_str_with_options(text, options(), |yaml| {
        serde_ignored::deserialize::<_, _, Raw>(yaml, |path| unknown.push(path.to_string()))
    });
    let raw = parsed.map_err(|error| shape(&error))?;
    let mut warnings: Vec<String> = unknown.iter().map(|path| unknown_key(path, &places)).collect();
    let plugin = check::manifest(raw, &places, &mut warnings)?;
    Ok(Read { plugin, warnings })
}

fn options() -> Options {
    let mut options = serde_saphyr::options! {
        leading_zero_numbers_as_strings: true,
        strict_booleans: true,
        merge_keys: serde_saphyr::MergeKeyPolicy::Error,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
    };
    if let Some(budget) = &mut options.budget {
        budget.max_nodes = NODES_MAX;
        budget.max_events = 4 * NODES_MAX;
        budget.max_depth = DEPTH_MAX;
        budget.max_aliases = 64;
        budget.max_anchors = 64;
        budget.max_documents = 1;
        budget.max_total_scalar_bytes = 4 * MANIFEST_BYTES_MAX;
    }
    options
}

fn shape(error: &serde_saphyr::Error) -> ManifestError {
    let at = error.location().and_then(position).map_or_else(|| format!("{FILE_NAME}: "), shown_at);
    let told = error.without_snippet().to_string();
    let mut lines = told.lines().map(str::trim).filter(|line| !line.is_empty());
    let why = lines.next().unwrap_or("it is not YAML");
    // The place is said already.
    let why = why.find(" at line ").and_then(|end| why.get(..end)).unwrap_or(why);
    let why = why.strip_prefix("error: ").unwrap_or(why);
    ManifestError::Shape { at, why: why.to_owned() }
}

fn shown_at(position: Position) -> String {
    format!("{FILE_NAME}:{position}: ")
}

fn position(location: Location) -> Option<Position> {
    let (line, column) = (usize::try_from(location.line()).ok()?, usize::try_from(location.column()).ok()?);
    (line > 0).then_some(Position { line, column: column.max(1) })
}

fn unknown_key(path: &str, places: &Places) -> String {
    let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
    let kind = if section.starts_with("tools.") { "tools" } else { section };
    let known = KEYS.iter().find(|(name, _)| *name == kind).map_or(&[][..], |(_, keys)| *keys);
    let hint = nearest(key, known.iter().copied());
    let at = places.key_at(path).map_or_else(|| format!("{FILE_NAME}: "), shown_at);
    format!("{at}unknown key `{path}`{hint}")
}

/// Places of keys and values, by their paths: `execution.network`, `tools.0.name`.
#[derive(Debug, Default)]
struct Places(Option<Spanned<Tree>>);

/// The shape of a text, with places.
#[derive(Debug)]
enum Tree {
    Leaf,
    List(Vec<Spanned<Tree>>),
    Map(Vec<(Spanned<String>, Spanned<Tree>)>),
}

impl Places {
    /// Those of a text; none if it is not YAML.
    fn of(text: &str) -> Self {
        Self(serde_saphyr::from_str_with_options(text, options()).ok())
    }

    /// The place of the value at a path, or of the last part before it that is there.
    fn value_at(&self, path: &str) -> Option<Position> {
        let mut node = self.0.as_ref()?;
        let mut found = None;
        let mut rest = path;
        while !rest.is_empty() {
            let Some((_, value, left)) = node.value.step(rest) else { break };
            found = position(value.referenced);
            (node, rest) = (value, left);
        }
        found
    }

    fn key_at(&self, path: &str) -> Option<Position> {
        let mut node = self.0.as_ref()?;
        let mut rest = path;
        loop {
            let (key, value, left) = node.value.step(rest)?;
            if left.is_empty() {
                return position(key);
            }
            (node, rest) = (value, left);
        }
    }
}

impl Tree {
    /// One step along a path: the place of its key, what stands there, and the rest. Keys may hold dots themselves.
    fn step<'a, 'p>(&'a self, path: &'p str) -> Option<(Location, &'a Spanned<Tree>, &'p str)> {
        match self {
            Self::Leaf => None,
            Self::List(items) => {
                let (index, rest) = path.split_once('.').unwrap_or((path, ""));
                let item = items.get(index.parse::<usize>().ok()?)?;
                Some((item.referenced, item, rest))
            }
            Self::Map(entries) => {
                let rest_after = |key: &str| match path.strip_prefix(key)? {
                    "" => Some(""),
                    rest => rest.strip_prefix('.'),
                };
                let found = entries.iter().filter_map(|(key, value)| Some((key, value, rest_after(&key.value)?)));
                found.max_by_key(|(key, ..)| key.value.len()).map(|(key, value, rest)| (key.referenced, value, rest))
            }
        }
    }
}

impl Source for Places {
    fn key(&self, key: &str) -> String {
        key.to_owned()
    }

    fn at(&self, key: &str) -> String {
        self.value_at(key).map_or_else(|| format!("{FILE_NAME}: "), shown_at)
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OfTree)
    }
}

struct OfTree;

impl<'de> Visitor<'de> for OfTree {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }

    fn visit_str<E>(self, _: &str) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Tree::Map(map))
    }
}

#[cfg(test)]
mod tests;
