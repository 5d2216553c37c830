//! Rights: explained, shown as a table, edited, begun from a template.
//!
//! All of it is over [`Rights`] and [`Held`]: what the mesh knows at one moment. Nothing here asks the mesh.

mod edit;
mod explain;
mod matrix;
mod templates;
#[cfg(test)]
mod tests;

pub use edit::{ETag, Edit, Held, IfMatch, Planned};
pub use explain::{Asked, Explanation, Looked, Rights};
pub use matrix::{By, CELLS_MAX, Cell, Matrix, Source};
pub use templates::{TEMPLATES, Template, template};
