//! Devices that are let in for a while: how long and what for, as clients write and read it.

use mesh_core::policy::ToolPattern;
use mesh_core::record::{Stay, StayTerms, Tier};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use super::rights::schema::stay_tools;
use super::shapes::Whole;
use crate::mesh::Grant;
use crate::mesh::clock::rfc3339;
use crate::status::{ErrorCode, OpError};

/// Longest stay, seconds.
const STAY_MAX_S: u64 = mesh_core::limits::STAY_MS_MAX / 1_000;

/// Seconds of a stay.
type Lasting = Whole<1, STAY_MAX_S>;

/// Tier for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum LastingTier {
    /// May call what rights give it.
    Shared,
    /// May call every tool, approve devices, and become gateway.
    Owner,
}

impl From<LastingTier> for Tier {
    fn from(tier: LastingTier) -> Self {
        match tier {
            LastingTier::Shared => Self::Shared,
            LastingTier::Owner => Self::Owner,
        }
    }
}

/// Terms of a device that is let in for a while: it is removed by itself. It may do no more than a shared one.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewStay {
    /// Seconds from its approval until it is removed.
    #[schema(schema_with = lasting)]
    for_s: Lasting,
    /// Tools that it may ask for, of what rights give it; `node:NODES:TOOLS` names devices too. Default: all; empty: none.
    #[schema(schema_with = scope)]
    #[serde(default, deserialize_with = "few")]
    tools: Option<Vec<ToolPattern>>,
    /// True if it may make one call, and is removed once that is over; default false.
    #[serde(default)]
    once: bool,
}

/// As many patterns as a stay may have.
fn few<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<ToolPattern>>, D::Error> {
    let tools = Option::<Vec<ToolPattern>>::deserialize(deserializer)?;
    let max = mesh_core::limits::STAY_SCOPE_MAX;
    if tools.as_ref().is_some_and(|tools| tools.len() > max) {
        return Err(D::Error::custom(format!("`tools` of a stay has at most {max} patterns")));
    }
    Ok(tools)
}

/// What the derived schema of a required member with words of its own cannot say.
fn lasting() -> Schema {
    let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).maximum(Some(STAY_MAX_S));
    seconds.description(Some("Seconds from its approval until it is removed.")).into()
}

fn scope() -> Schema {
    stay_tools(mesh_core::limits::STAY_SCOPE_MAX)
}

impl From<NewStay> for StayTerms {
    fn from(NewStay { for_s, tools, once }: NewStay) -> Self {
        Self { lasts_ms: for_s.0.saturating_mul(1_000), scope: tools, one_time: once }
    }
}

/// All that a body grants; `None`: it says nothing.
///
/// # Errors
/// It says both: which of them is meant nobody can know.
pub(super) fn granted(tier: Option<LastingTier>, stay: Option<NewStay>) -> Result<Option<Grant>, OpError> {
    match (tier, stay) {
        (Some(_), Some(_)) => {
            let detail = "`tier` lets a device in for good and `stay` for a while: give one of them";
            Err(OpError::new(ErrorCode::Invalid, detail).hint("with `stay` alone the device is an ephemeral one"))
        }
        (None, Some(stay)) => Ok(Some(StayTerms::from(stay).into())),
        (Some(tier), None) => Ok(Some(Tier::from(tier).into())),
        (None, None) => Ok(None),
    }
}

/// The description of a body that grants a tier for good, or a stay, in two forms.
macro_rules! describes_grant {
    ($of:ident, $about:literal, $lasting:ident, $passing:ident) => {
        impl PartialSchema for $of {
            fn schema() -> RefOr<Schema> {
                let forms = OneOfBuilder::new().item($lasting::schema()).item($passing::schema());
                forms.description(Some($about)).into()
            }
        }

        impl ToSchema for $of {
            fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
                $lasting::schemas(schemas);
                $passing::schemas(schemas);
            }
        }
    };
}
pub(super) use describes_grant;

/// Terms of a device that stays for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct StayShown {
    /// Time at which it is removed; of an invite null: that begins when it is used.
    until: Option<String>,
    /// Seconds from its approval until it is removed; null once it is approved.
    for_s: Option<u64>,
    /// Tools that it may ask for; null: all that rights give it.
    tools: Option<Vec<String>>,
    /// True if it may make one call.
    once: bool,
}

fn patterns(scope: Option<&Vec<ToolPattern>>) -> Option<Vec<String>> {
    scope.map(|scope| scope.iter().map(ToString::to_string).collect())
}

impl From<&Stay> for StayShown {
    fn from(Stay { until_ms, scope, one_time }: &Stay) -> Self {
        Self { until: Some(rfc3339(*until_ms)), for_s: None, tools: patterns(scope.as_ref()), once: *one_time }
    }
}

impl From<&StayTerms> for StayShown {
    fn from(StayTerms { lasts_ms, scope, one_time }: &StayTerms) -> Self {
        Self { until: None, for_s: Some(lasts_ms / 1_000), tools: patterns(scope.as_ref()), once: *one_time }
    }
}
