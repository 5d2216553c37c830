//! Positions in a text, for messages about what stands there.

use std::fmt;

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

impl Position {
    /// A message about what stands there.
    #[must_use]
    pub fn before(self, message: &str) -> String {
        format!("line {}, column {}: {}", self.line, self.column, message.replace('\n', ", "))
    }

    /// The place of a byte.
    #[must_use]
    pub fn of_byte(text: &str, at: usize) -> Self {
        let before = text.get(..at).unwrap_or(text);
        let line = 1 + before.bytes().filter(|byte| *byte == b'\n').count();
        let column = 1 + before.rsplit('\n').next().unwrap_or_default().chars().count();
        Self { line, column }
    }
}
