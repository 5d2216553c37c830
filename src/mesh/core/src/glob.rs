//! Patterns that rules name devices, tools and agents by.
//!
//! `*` is any run of characters, also none, and crosses dots; `?` is exactly one character; a pattern is about the whole
//! name. There is nothing else, so that nobody has to know a syntax (`docs/decisions/0040`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{InvalidId, text_form};

/// Most bytes of one pattern: two names of the largest kind with what stands between them.
pub const PATTERN_BYTES_MAX: usize = 140;

/// One pattern, with its shape, by which most are matched without walking through it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Glob {
    text: Box<str>,
    shape: Shape,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Shape {
    /// `*`.
    Any,
    /// No `*` and no `?`.
    Exact,
    /// One `*`, at the end.
    Prefix,
    /// One `*`, at the start.
    Suffix,
    /// Anything else.
    Wild,
}

impl Glob {
    /// `None` unless all characters are plain ones or wildcards, and no `*` follows another.
    fn new(text: &str, plain: fn(u8) -> bool) -> Option<Self> {
        let allowed = |b| plain(b) || matches!(b, b'*' | b'?');
        if text.is_empty() || text.len() > PATTERN_BYTES_MAX || !text.bytes().all(allowed) || text.contains("**") {
            return None;
        }
        let wild = text.bytes().filter(|b| matches!(b, b'*' | b'?')).count();
        let shape = match wild {
            0 => Shape::Exact,
            1 if text == "*" => Shape::Any,
            1 if text.ends_with('*') => Shape::Prefix,
            1 if text.starts_with('*') => Shape::Suffix,
            _ => Shape::Wild,
        };
        Some(Self { text: text.into(), shape })
    }

    fn matches(&self, name: &str) -> bool {
        let (text, name) = (self.text.as_bytes(), name.as_bytes());
        match self.shape {
            Shape::Any => true,
            Shape::Exact => text == name,
            Shape::Prefix => text.split_last().is_some_and(|(_, prefix)| name.starts_with(prefix)),
            Shape::Suffix => text.split_first().is_some_and(|(_, suffix)| name.ends_with(suffix)),
            Shape::Wild => walk(text, name),
        }
    }

    fn is_exact(&self) -> bool {
        self.shape == Shape::Exact
    }
}

/// Walks through both; at a mismatch the last `*` takes one character more. At most `pattern * name` steps.
fn walk(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        match (pattern.get(p), name.get(n)) {
            (None, None) => return true,
            (Some(b'*'), _) => {
                star = Some((p + 1, n));
                p += 1;
                continue;
            }
            (Some(b'?'), Some(_)) => {
                (p, n) = (p + 1, n + 1);
                continue;
            }
            (Some(a), Some(b)) if a == b => {
                (p, n) = (p + 1, n + 1);
                continue;
            }
            (None | Some(_), _) => {}
        }
        match star {
            Some((after, taken)) if taken < name.len() => {
                star = Some((after, taken + 1));
                (p, n) = (after, taken + 1);
            }
            Some(_) | None => return false,
        }
    }
}

const fn of_node(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'
}

const fn of_tool(b: u8) -> bool {
    of_node(b) || matches!(b, b'.' | b'_')
}

/// The name, to patterns, of a device that rights know by no name (`docs/decisions/0067`): no device is called so, and of
/// all patterns only `*` selects it.
pub(crate) const UNKNOWN: &str = "";

/// Devices by their names, such as `cam-*`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodePattern(Glob);

text_form!(NodePattern);

impl NodePattern {
    /// True if the pattern selects this device. Of one that rights know by no name, whose
    /// name is empty to them, it does if it selects all.
    #[must_use]
    pub fn matches(&self, node: &str) -> bool {
        self.0.matches(node)
    }

    /// True if the pattern may mean this device: where it takes something away, a device that rights know by no name could
    /// be any.
    #[must_use]
    pub fn may_mean(&self, node: &str) -> bool {
        node == UNKNOWN || self.matches(node)
    }

    /// True if it is a name, without wildcards.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.0.is_exact()
    }
}

impl fmt::Display for NodePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl FromStr for NodePattern {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Glob::new(text, of_node).map(Self).ok_or_else(|| {
            InvalidId::new("pattern of devices", "it may have a-z, 0-9, -, * and ?, and no two * together", text)
        })
    }
}

/// Tools by their names, such as `camera.*`, or tools of some devices, such as `node:cam-*:camera.*`.
///
/// Names are compared in small letters, so that `Exec.Run` does not slip by `exec.*`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ToolPattern {
    node: Option<NodePattern>,
    tool: Glob,
}

text_form!(ToolPattern);

impl ToolPattern {
    /// True if the pattern selects this tool of this device. `tool` is in small letters, as by
    /// [`crate::ids::ToolName::folded`].
    #[must_use]
    pub fn matches(&self, node: &str, tool: &str) -> bool {
        self.is_about(tool) && self.selects(node)
    }

    /// True if the pattern may mean this tool of this device, see [`NodePattern::may_mean`]. `tool` is in small letters.
    #[must_use]
    pub fn may_mean(&self, node: &str, tool: &str) -> bool {
        self.is_about(tool) && self.node.as_ref().is_none_or(|pattern| pattern.may_mean(node))
    }

    /// True if it is about a tool of this name, of some device. `tool` is in small letters.
    #[must_use]
    pub fn is_about(&self, tool: &str) -> bool {
        self.tool.matches(tool)
    }

    /// True if it names tools alone, and no devices.
    #[must_use]
    pub const fn is_of_any_node(&self) -> bool {
        self.node.is_none()
    }

    /// True if it is about tools of this device at all.
    #[must_use]
    pub fn selects(&self, node: &str) -> bool {
        self.node.as_ref().is_none_or(|pattern| pattern.matches(node))
    }

    /// True if it is the name of a tool and nothing else.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.tool.is_exact() && self.node.is_none()
    }
}

impl fmt::Display for ToolPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Some(node) => write!(f, "node:{node}:{}", self.tool.text),
            None => f.write_str(&self.tool.text),
        }
    }
}

impl FromStr for ToolPattern {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || {
            InvalidId::new(
                "pattern of tools",
                "it may have a-z, 0-9, . _ - * and ?, no two * together, and node:DEVICES: before it",
                text,
            )
        };
        if text.len() > PATTERN_BYTES_MAX {
            return Err(invalid());
        }
        let (node, tool) = match text.strip_prefix("node:") {
            Some(rest) => {
                let (node, tool) = rest.split_once(':').ok_or_else(invalid)?;
                (Some(node.parse()?), tool)
            }
            None => (None, text),
        };
        Ok(Self { node, tool: Glob::new(tool, of_tool).ok_or_else(invalid)? })
    }
}

/// Agents, as `PERSON/AGENT` with wildcards in either.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AgentPattern {
    person: Glob,
    agent: Glob,
}

text_form!(AgentPattern);

impl AgentPattern {
    /// True if the pattern selects this agent of this person.
    #[must_use]
    pub fn matches(&self, person: &str, agent: &str) -> bool {
        self.agent.matches(agent) && self.person.matches(person)
    }

    /// Id of the person whose agents alone it selects, if it names one.
    #[must_use]
    pub fn person(&self) -> Option<&str> {
        self.person.is_exact().then_some(&*self.person.text)
    }

    /// True if it is one agent, without wildcards.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.person.is_exact() && self.agent.is_exact()
    }
}

impl fmt::Display for AgentPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.person.text, self.agent.text)
    }
}

impl FromStr for AgentPattern {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let parts = text.split_once('/').filter(|_| text.len() <= PATTERN_BYTES_MAX);
        parts
            .and_then(|(person, agent)| {
                Some(Self { person: Glob::new(person, of_node)?, agent: Glob::new(agent, of_node)? })
            })
            .ok_or_else(|| InvalidId::new("pattern of agents", "it must be PERSON/AGENT of a-z, 0-9, -, * and ?", text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As short as it can be said, and as slow.
    fn slow(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => slow(rest, name) || matches!(name, [_, more @ ..] if slow(pattern, more)),
            ([b'?', rest @ ..], [_, more @ ..]) => slow(rest, more),
            ([a, rest @ ..], [b, more @ ..]) => a == b && slow(rest, more),
            _ => false,
        }
    }

    #[test]
    fn patterns_are_about_the_whole_name() {
        let tool = |text: &str| text.parse::<ToolPattern>().unwrap();
        assert!(tool("files.wipe*").matches("nas", "files.wipe"));
        assert!(tool("*").matches("nas", "a.b.c") && tool("*.get").matches("nas", "a.b.get"));
        assert!(!tool("exec.*").matches("nas", "exec") && !tool("lock").matches("nas", "lock.open"));
        assert!(!tool("db-?").matches("nas", "db-replica") && tool("db-?").matches("nas", "db-1"));
        let scoped = tool("node:cam-*:camera.*");
        assert!(scoped.matches("cam-hall", "camera.photo") && !scoped.matches("hub", "camera.photo"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for bad in
            ["", "**", "a**b", "Exec.*", "[ab]", "{a,b}", "!a", "a\\b", "node:x", "node::x", "node:x:", "a:b", "ä"]
        {
            assert!(bad.parse::<ToolPattern>().is_err(), "{bad}");
        }
        for bad in ["", "a.b", "A", "**", "node:x"] {
            assert!(bad.parse::<NodePattern>().is_err(), "{bad}");
        }
        for bad in ["", "a", "a/b/c", "/a", "A/b"] {
            assert!(bad.parse::<AgentPattern>().is_err(), "{bad}");
        }
        assert!("a".repeat(141).parse::<ToolPattern>().is_err());
    }

    #[test]
    fn a_pattern_of_many_stars_ends() {
        let pattern: ToolPattern = "*a".repeat(70).parse().unwrap();
        assert!(!pattern.matches("n", &format!("{}b", "a".repeat(63))));
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_slow_matcher(pattern in "[ab.*?-]{1,8}", name in "[ab.-]{0,8}") {
            prop_assume!(!pattern.contains("**"));
            let parsed: ToolPattern = pattern.parse().unwrap();
            prop_assert_eq!(parsed.matches("n", &name), slow(pattern.as_bytes(), name.as_bytes()));
        }

        #[test]
        fn patterns_are_read_as_they_are_written(text in "(node:[a-z*?-]{1,5}:)?[a-z.*?_-]{1,8}") {
            if let Ok(pattern) = text.parse::<ToolPattern>() {
                prop_assert_eq!(pattern.to_string(), text);
            }
        }
    }
}
