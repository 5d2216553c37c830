//! Rights: explained, shown as a table, edited, begun from a template.
//!
//! [`Held`] is what the mesh knows at one moment, [`Rights`] the same as it is asked. Whether an edit may be made is judged
//! by the core; here it is only put into its records.

mod ask;
mod call;
mod conflicts;
mod dry_run;
mod edit;
mod explain;
mod matrix;
mod templates;
#[cfg(test)]
pub(in crate::doors) mod tests;

pub use ask::{Question, ask, matrix};
pub use call::{CallExplanation, PersonAnswer, explain_call};
pub use conflicts::{Conflict, ConflictText, EditId, conflicts_to_end, end_conflict};
pub use dry_run::{Changed, LAST_MAX, Tried, dry_run};
pub use edit::{ETag, Edited, Held, IfMatch, Part, SaidBy, declare, replace, set_mode};
pub(super) use edit::{for_edit, write};
pub use explain::{Asked, Explanation, Looked, Rights};
pub use matrix::{By, CELLS_MAX, Cell, Matrix, Source};
pub use templates::{TEMPLATES, Template, template};
