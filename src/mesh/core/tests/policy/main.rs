//! Who may use what: the table of cases, a slow evaluator (`test_kit/slow.rs`) beside the compiled one, and laws of both.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may stop at what it did not expect")]

mod policy_edits;
mod policy_laws;
mod policy_table;
mod world;
