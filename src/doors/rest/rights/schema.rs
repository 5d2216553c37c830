//! Shapes of what is said about rights: those of the settings, which are read by the types of `config/policy.rs`.

use mesh_core::policy::bounds::{LIST_MAX, NOTE_CHARS_MAX, OF_MAX, PATTERN_BYTES_MAX, TITLE_CHARS_MAX};
use utoipa::openapi::schema::{AdditionalProperties, ArrayBuilder, Object, ObjectBuilder, Schema, Type};
use utoipa::openapi::{OneOfBuilder, RefOr};
use utoipa::{PartialSchema, ToSchema};

/// A name of something in the settings.
const NAME: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";
/// Devices by name, with no two `*` together.
const NODES: &str = "^(\\*|(\\*?[a-z0-9?-])+\\*?)$";
/// Tools by name, with no two `*` together.
const TOOLS: &str = "^(node:(\\*|(\\*?[a-z0-9?-])+\\*?):)?(\\*|(\\*?[a-z0-9._?-])+\\*?)$";
/// Whom a rule is about.
const WHO: &str = "^(role:(owner|admin|member|guest)|(person:|device:)?[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?|agent:[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?/[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)$";
/// Who may say yes.
const APPROVER: &str = "^(role:(owner|admin|member|guest)|[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)$";
/// A rule of a workspace.
const RULE: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?/[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";
/// A person, or a device that is a member itself.
const SEAT: &str = "^(device:)?[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";
/// A time.
const WAIT: &str = "^([1-9][0-9]{0,2}(s|m)|([1-9]|1[0-9]|2[0-4])h|([1-9]|1[0-9]|2[0-3])h([1-9]|[1-5][0-9])m)$";
/// Text in one line.
const TEXT: &str = "^[^\\x00-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]*$";
/// Most members of a table: what a mesh may have of the largest of them.
const TABLE_MAX: usize = 2_048;

fn text(pattern: &str) -> Schema {
    ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern)).into()
}

fn line(max: usize) -> Schema {
    ObjectBuilder::new().schema_type(Type::String).pattern(Some(TEXT)).max_length(Some(max)).into()
}

fn word(words: &[&str]) -> Schema {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words.iter().copied())).into()
}

fn role() -> Schema {
    word(&["guest", "member", "admin", "owner"])
}

fn verdict() -> Schema {
    word(&["allow", "ask", "deny"])
}

fn list(of: Schema, max: usize) -> Schema {
    ArrayBuilder::new().items(RefOr::T(of)).max_items(Some(max)).into()
}

/// A member that may be null, which is as if it were left out.
fn or_null(schema: Schema) -> Schema {
    OneOfBuilder::new().item(schema).item(ObjectBuilder::new().schema_type(Type::Null)).into()
}

/// A list of texts, or null.
fn texts(pattern: &str) -> Schema {
    or_null(list(text(pattern), LIST_MAX))
}

/// A list of patterns of names, or null.
fn patterns(pattern: &str) -> Schema {
    let text = ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern));
    or_null(list(text.min_length(Some(1)).max_length(Some(PATTERN_BYTES_MAX)).into(), LIST_MAX))
}

/// A list of patterns of devices, or null.
pub(in crate::doors::rest) fn node_patterns() -> Schema {
    patterns(NODES)
}

/// A list of patterns of tools, or null.
pub(in crate::doors::rest) fn tool_patterns() -> Schema {
    patterns(TOOLS)
}

/// A list of so many patterns of tools at most, or null.
pub(in crate::doors::rest) fn stay_tools(max: usize) -> Schema {
    or_null(list(text(TOOLS), max))
}

/// A table by names.
fn table(names: &str, of: impl Into<RefOr<Schema>>) -> Schema {
    let names = ObjectBuilder::new().schema_type(Type::String).pattern(Some(names)).build();
    let table = ObjectBuilder::new().schema_type(Type::Object).property_names(Some(Schema::Object(names)));
    let of = AdditionalProperties::RefOr(of.into());
    table.additional_properties(Some(of)).max_properties(Some(TABLE_MAX)).into()
}

fn members(of: Vec<(&str, Schema)>) -> ObjectBuilder {
    let object = ObjectBuilder::new().schema_type(Type::Object);
    let object = of.into_iter().fold(object, |object, (name, schema)| object.property(name, schema));
    object.additional_properties(Some(AdditionalProperties::FreeForm(false)))
}

/// Declares types of bodies that have a name in the description.
macro_rules! shapes {
    ($($(#[$doc:meta])* $name:ident = $title:literal: $schema:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub(in crate::doors::rest) struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let object: Object = $schema.build();
                RefOr::T(Schema::Object(object))
            }
        }

        impl ToSchema for $name {
            fn name() -> std::borrow::Cow<'static, str> {
                $title.into()
            }
        }
    )*};
}

shapes! {
    /// `[workspaces.ID.rules.NAME]`.
    RuleShape = "Rule": members(vec![
        ("verdict", word(&["always", "allow", "ask", "deny"])),
        ("who", texts(WHO)),
        ("nodes", patterns(NODES)),
        ("tools", patterns(TOOLS)),
        ("approvers", texts(APPROVER)),
        ("wait", or_null(text(WAIT))),
        ("of", list(text(RULE), OF_MAX)),
        ("note", line(NOTE_CHARS_MAX)),
    ])
    .required("verdict")
    .description(Some(
        "`who`: people by name, `role:ROLE`, `people`, `agents`, `devices`, `everyone`, `agent:PERSON/AGENT`, `device:NODE`; \
         a rule that allows needs it. `nodes`, `tools`: absent = all, empty = none; `*` is any run of characters, `?` one. \
         `approvers`, `wait`: of an ask. `of`: the asks that an `always` settles.",
    ));

    /// `[workspaces.ID]`.
    WorkspaceShape = "Workspace": members(vec![
        ("title", line(TITLE_CHARS_MAX)),
        ("icon", line(TITLE_CHARS_MAX)),
        ("nodes", patterns(NODES)),
        ("tools", patterns(TOOLS)),
        ("otherwise", members(["members", "guests", "agents", "devices"].map(|who| (who, verdict())).to_vec()).into()),
        ("members", table(SEAT, role())),
        ("bind", table(NAME, Schema::from(members(vec![("nodes", patterns(NODES)), ("tools", patterns(TOOLS))])))),
        ("rules", table(NAME, rule())),
    ])
    .description(Some(
        "As `[workspaces.ID]` of `sigil.toml`. `nodes`, `tools`, `bind`: what belongs to it; without any of them nothing does. \
         `otherwise`: what holds where no rule speaks; default deny.",
    ));

    /// Rules by name.
    RulesShape = "Rules": members(vec![("rules", table(NAME, rule()))])
        .required("rules")
        .description(Some("As `[workspaces.ID.rules]` of `sigil.toml`."));
}

fn rule() -> RefOr<Schema> {
    RuleShape::schema()
}

#[cfg(test)]
mod tests {
    use mesh_core::policy::{NodePattern, ToolPattern};
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    proptest! {
        #[test]
        fn k06_a_pattern_of_names_is_read_as_it_is_described(text in "(node:)?[a-z*?._:-]{0,9}|[a-z]{135,145}") {
            let fits = |rule| Regex::new(rule).unwrap().is_match(&text) && text.len() <= PATTERN_BYTES_MAX;
            prop_assert_eq!(text.parse::<NodePattern>().is_ok(), fits(NODES), "devices: {}", text);
            prop_assert_eq!(text.parse::<ToolPattern>().is_ok(), fits(TOOLS), "tools: {}", text);
        }
    }
}
