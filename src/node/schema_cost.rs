//! What a schema may cost: how often it is walked through when it is compiled, and when arguments are held against it. A schema of a
//! kilobyte that refers to itself twice at each of thirty places asks for a billion steps, so whoever writes one could stop this
//! device. Pure.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use serde_json::{Map, Value};

/// Steps of compiling one schema: each subschema once, and once more for each way that leads to it by references. One of the largest
/// public servers (with blocks in blocks, each of thirty kinds) needs a few hundred.
const COMPILED_MAX: u64 = 5_000;
/// Steps at one chain of values, from the arguments themselves down to the deepest that they may hold.
const CHECKED_MAX: u64 = 20_000;
/// Subschemas that lead into each other in one row. Whoever walks through them calls itself.
const ROW_MAX: usize = 400;
/// Places that all subschemas lead to, together: what counting them takes.
const PLACES_MAX: usize = 100_000;

/// A reason for which a schema costs too much, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Costly {
    /// More than [`COMPILED_MAX`] steps.
    #[error("its parts refer to each other in more than {COMPILED_MAX} ways")]
    Compiled,
    /// More than [`CHECKED_MAX`] steps.
    #[error("it would look at one value more than {CHECKED_MAX} times")]
    Checked,
    /// More than [`ROW_MAX`].
    #[error("more than {ROW_MAX} of its parts refer to each other in one row")]
    Row,
    /// In place: no value would ever be done with.
    #[error("one of its parts refers to itself for the same value")]
    Endless,
    /// By something other than a path or an anchor within it.
    #[error("it refers to something outside of it, or by another name than a path or an anchor in it")]
    Elsewhere,
}

/// Steps at one chain of values at most `depth` deep, at most.
///
/// # Errors
/// It costs too much.
pub(super) fn of(schema: &Value, depth: usize) -> Result<u64, Costly> {
    let mut walk = Walk {
        root: schema,
        anchors: HashMap::new(),
        compiled: HashMap::new(),
        held: HashMap::new(),
        places: 0,
        checked: HashMap::new(),
    };
    walk.find_anchors(schema);
    if walk.compiled(schema, &mut Vec::new())? > COMPILED_MAX {
        return Err(Costly::Compiled);
    }
    walk.checked(schema, depth)
}

/// A subschema, by where it is in memory: it is one as long as its schema is borrowed.
type Id = *const Value;

struct Walk<'a> {
    root: &'a Value,
    anchors: HashMap<&'a str, Vec<&'a Value>>,
    compiled: HashMap<Id, u64>,
    held: HashMap<Id, Rc<Held<'a>>>,
    /// Of all of these together.
    places: usize,
    /// By depth as well.
    checked: HashMap<(Id, usize), u64>,
}

/// A part of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place<'a> {
    /// The member of this name.
    Named(&'a str),
    /// Any member.
    Member,
    /// Any item of a list.
    Item,
}

/// What is held against one value.
struct Held<'a> {
    steps: u64,
    /// What is held against its parts, and how often.
    below: BTreeMap<(Place<'a>, Id), (&'a Value, u64)>,
}

impl<'a> Held<'a> {
    fn add(&mut self, place: Place<'a>, id: Id, schema: &'a Value, count: u64) {
        let (_, sum) = self.below.entry((place, id)).or_insert((schema, 0));
        *sum = sum.saturating_add(count);
    }
}

/// What a subschema consists of.
#[derive(Default)]
struct Parts<'a> {
    /// Held against the same value.
    here: Vec<&'a Value>,
    /// Held against a part of it.
    below: Vec<(Place<'a>, &'a Value)>,
    /// What the others have looked at is looked at again, for what is left over.
    twice: bool,
}

impl<'a> Walk<'a> {
    fn find_anchors(&mut self, value: &'a Value) {
        match value {
            Value::Object(members) => {
                for key in ["$anchor", "$dynamicAnchor"] {
                    if let Some(name) = members.get(key).and_then(Value::as_str) {
                        self.anchors.entry(name).or_default().push(value);
                    }
                }
                members.values().for_each(|member| self.find_anchors(member));
            }
            Value::Array(items) => items.iter().for_each(|item| self.find_anchors(item)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn targets(&self, reference: &str) -> Result<Vec<&'a Value>, Costly> {
        let own = ["$id", "id"].into_iter().find_map(|key| self.root.get(key)?.as_str()).unwrap_or_default();
        let own = own.strip_suffix('#').unwrap_or(own);
        let fragment = reference.strip_prefix('#').or_else(|| {
            let rest = reference.strip_prefix(own).filter(|_| !own.is_empty())?;
            if rest.is_empty() { Some("") } else { rest.strip_prefix('#') }
        });
        let fragment = fragment.ok_or(Costly::Elsewhere)?;
        if fragment.is_empty() {
            return Ok(vec![self.root]);
        }
        let Some(bytes) = unescaped(fragment) else { return Err(Costly::Elsewhere) };
        if bytes.starts_with('/') {
            // One that leads nowhere the compiler tells.
            return Ok(self.root.pointer(&bytes).into_iter().collect());
        }
        self.anchors.get(bytes.as_str()).cloned().ok_or(Costly::Elsewhere)
    }

    fn parts(&self, of: &'a Map<String, Value>) -> Result<Parts<'a>, Costly> {
        let mut parts = Parts::default();
        for (key, value) in of {
            match key.as_str() {
                "$ref" | "$dynamicRef" => {
                    parts.here.extend(self.targets(value.as_str().unwrap_or_default())?);
                }
                "$recursiveRef" => parts.here.push(self.root),
                "not" | "if" | "then" | "else" => parts.here.push(value),
                "allOf" | "anyOf" | "oneOf" => parts.here.extend(value.as_array().into_iter().flatten()),
                "dependentSchemas" | "dependencies" => {
                    parts.here.extend(value.as_object().into_iter().flat_map(Map::values));
                }
                "properties" => {
                    let named = value.as_object().into_iter().flatten();
                    parts.below.extend(named.map(|(name, value)| (Place::Named(name), value)));
                }
                "patternProperties" => {
                    let any = value.as_object().into_iter().flat_map(Map::values);
                    parts.below.extend(any.map(|value| (Place::Member, value)));
                }
                // Items may be of one schema, or of one each.
                "items" | "prefixItems" if value.is_array() => {
                    let items = value.as_array().into_iter().flatten();
                    parts.below.extend(items.map(|value| (Place::Item, value)));
                }
                "items" | "contains" | "additionalItems" => parts.below.push((Place::Item, value)),
                "additionalProperties" | "propertyNames" => parts.below.push((Place::Member, value)),
                "unevaluatedItems" => {
                    parts.twice = true;
                    parts.below.push((Place::Item, value));
                }
                "unevaluatedProperties" => {
                    parts.twice = true;
                    parts.below.push((Place::Member, value));
                }
                _ => {}
            }
        }
        Ok(parts)
    }

    /// Subschemas that are walked through from this one on, where what leads back to `above` is not followed.
    fn compiled(&mut self, schema: &'a Value, above: &mut Vec<Id>) -> Result<u64, Costly> {
        let Some(members) = schema.as_object() else { return Ok(1) };
        let id: Id = schema;
        if above.contains(&id) {
            return Ok(1);
        }
        if let Some(known) = self.compiled.get(&id) {
            return Ok(*known);
        }
        if above.len() >= ROW_MAX {
            return Err(Costly::Row);
        }
        above.push(id);
        let Parts { here, below, twice } = self.parts(members)?;
        let times = if twice { 2 } else { 1 };
        let mut steps = 1_u64;
        for part in here {
            steps = steps.saturating_add(self.compiled(part, above)?.saturating_mul(times));
        }
        for (_, part) in below {
            steps = steps.saturating_add(self.compiled(part, above)?);
        }
        above.pop();
        self.compiled.insert(id, steps);
        Ok(steps)
    }

    /// All that is held against a value by this subschema and those that it leads to for the same value.
    fn held(&mut self, schema: &'a Value, above: &mut Vec<Id>) -> Result<Rc<Held<'a>>, Costly> {
        let id: Id = schema;
        if let Some(known) = self.held.get(&id) {
            return Ok(known.clone());
        }
        if above.contains(&id) {
            return Err(Costly::Endless);
        }
        if above.len() >= ROW_MAX {
            return Err(Costly::Row);
        }
        let mut held = Held { steps: 1, below: BTreeMap::new() };
        if let Some(members) = schema.as_object() {
            above.push(id);
            let Parts { here, below, twice } = self.parts(members)?;
            for part in here {
                let part = self.held(part, above)?;
                let times = if twice { 2 } else { 1 };
                held.steps = held.steps.saturating_add(part.steps.saturating_mul(times));
                for ((place, id), (schema, count)) in &part.below {
                    held.add(*place, *id, schema, count.saturating_mul(times));
                }
            }
            for (place, schema) in below {
                held.add(place, schema, schema, 1);
            }
            above.pop();
        }
        self.places += held.below.len();
        if self.places > PLACES_MAX {
            return Err(Costly::Compiled);
        }
        let held = Rc::new(held);
        self.held.insert(id, held.clone());
        Ok(held)
    }

    /// Steps at one chain of values, of which `depth` more may follow.
    fn checked(&mut self, schema: &'a Value, depth: usize) -> Result<u64, Costly> {
        let id: Id = schema;
        if let Some(known) = self.checked.get(&(id, depth)) {
            return Ok(*known);
        }
        let held = self.held(schema, &mut Vec::new())?;
        let mut at: BTreeMap<Place<'a>, u64> = BTreeMap::new();
        if let Some(below) = depth.checked_sub(1) {
            for ((place, _), (schema, count)) in &held.below {
                let steps = self.checked(schema, below)?.saturating_mul(*count);
                let sum = at.entry(*place).or_default();
                *sum = sum.saturating_add(steps);
            }
        }
        // A value is an object or a list, and a chain goes on in one of its members.
        let any = |place| at.get(&place).copied().unwrap_or_default();
        let named = at.iter().filter_map(|(place, steps)| matches!(place, Place::Named(_)).then_some(*steps)).max();
        let object = any(Place::Member).saturating_add(named.unwrap_or_default());
        let steps = held.steps.saturating_add(object.max(any(Place::Item)));
        if steps > CHECKED_MAX {
            return Err(Costly::Checked);
        }
        self.checked.insert((id, depth), steps);
        Ok(steps)
    }
}

/// A fragment of a URI as text; `None` if it is none.
fn unescaped(fragment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        bytes.push(match byte {
            b'%' => u8::try_from(digit(rest.next()?)? * 16 + digit(rest.next()?)?).ok()?,
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Two to the power of `n` ways through `n` parts.
    fn doubling(n: usize, word: &str) -> Value {
        let part = |k: usize| {
            let next = json!({ "$ref": format!("#/$defs/p{}", k + 1) });
            json!({ word: [next, next] })
        };
        let mut defs: Map<String, Value> = (0..n).map(|k| (format!("p{k}"), part(k))).collect();
        defs.insert(format!("p{n}"), json!({ "type": "string" }));
        json!({ "properties": { "s": { "$ref": "#/$defs/p0" } }, "unevaluatedProperties": false, "$defs": defs })
    }

    #[test]
    fn what_doubles_is_refused_however_small_it_is() {
        for word in ["anyOf", "allOf", "oneOf"] {
            assert!(of(&doubling(8, word), 64).is_ok());
            assert_eq!(of(&doubling(25, word), 64), Err(Costly::Compiled));
        }
        // At each level of the values, twice: nothing of it is long.
        let tree = json!({ "anyOf": [
            { "properties": { "x": { "$ref": "#" } } },
            { "properties": { "x": { "$ref": "#" } }, "required": ["y"] },
        ] });
        assert_eq!(of(&tree, 64), Err(Costly::Checked));
        let by_pattern =
            json!({ "additionalProperties": { "$ref": "#" }, "patternProperties": { "^x": { "$ref": "#" } } });
        assert_eq!(of(&by_pattern, 64), Err(Costly::Checked));
        // What is left over is found by looking at all of it again, at each level.
        let left_over = json!({ "allOf": [{ "$ref": "#/$defs/a" }], "unevaluatedProperties": false,
            "$defs": { "a": { "properties": { "y": { "$ref": "#" } } } } });
        assert_eq!((of(&left_over, 8).is_ok(), of(&left_over, 64)), (true, Err(Costly::Checked)));
    }

    #[test]
    fn what_never_ends_is_refused() {
        assert_eq!(of(&json!({ "$ref": "#" }), 64), Err(Costly::Endless));
        let round = json!({ "$ref": "#/$defs/a", "$defs": { "a": { "allOf": [{ "$ref": "#/$defs/b" }] }, "b": { "$ref": "#/$defs/a" } } });
        assert_eq!(of(&round, 64), Err(Costly::Endless));
        let row: Map<String, Value> = (0..3_000)
            .map(|k| (format!("p{k}"), json!({ "items": { "$ref": format!("#/$defs/p{}", k + 1) } })))
            .collect();
        assert_eq!(of(&json!({ "$ref": "#/$defs/p0", "$defs": row }), 64), Err(Costly::Row));
    }

    #[test]
    fn what_is_elsewhere_is_refused_and_what_is_not_is_found() {
        for far in ["other.json", "https://example.org/a#/b", "#nowhere", "#%zz"] {
            assert_eq!(of(&json!({ "$ref": far }), 64), Err(Costly::Elsewhere), "{far}");
        }
        for near in ["#/$defs/a%20b", "#here", "https://example.org/s#/$defs/a%20b"] {
            let schema = json!({ "$id": "https://example.org/s", "$ref": near, "$defs": { "a b": { "$anchor": "here", "type": "string" } } });
            assert_eq!(of(&schema, 64), Ok(2), "{near}");
        }
    }

    #[test]
    fn trees_of_blocks_as_public_servers_have_them_are_taken() {
        let kinds: Vec<Value> = (0..30)
            .map(|kind| {
                let inner = json!({ "type": "object", "properties": {
                    "text": { "type": "array", "items": { "$ref": "#/$defs/text" } },
                    "children": { "type": "array", "items": { "$ref": "#/$defs/block" } },
                } });
                json!({ "type": "object", "properties": { format!("kind{kind}"): inner, "id": { "type": "string" } } })
            })
            .collect();
        let text = json!({ "anyOf": [{ "type": "object", "properties": { "bold": { "type": "boolean" } } }, { "type": "string" }] });
        let schema = json!({ "type": "object", "properties": { "children": { "items": { "$ref": "#/$defs/block" } } },
            "$defs": { "block": { "anyOf": kinds }, "text": text } });
        let steps = of(&schema, 64).unwrap();
        assert!((100..CHECKED_MAX).contains(&steps), "{steps}");
        let any_json = json!({ "$ref": "#/$defs/v", "$defs": { "v": { "anyOf": [
            { "type": ["string", "number", "boolean", "null"] },
            { "type": "array", "items": { "$ref": "#/$defs/v" } },
        ] } } });
        assert!(of(&any_json, 64).is_ok());
    }
}
