//! The rules that only races show, each in the smallest mesh that shows it: whole peers, cut apart and joined again.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may stop at what it did not expect")]

mod calls;
mod compaction;
mod handover;
mod membership;
mod net;
mod restored;
mod versions;
