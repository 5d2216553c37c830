//! Positions of keys in a file of settings, for messages about what stands there.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::settings::FILE_NAME;
use crate::position::Position;

impl Position {
    /// The place of the value at `path`, such as `tools.x.timeout`; if there is none, that of the last key before it that
    /// is there. Keys in it may hold dots themselves. `None` when none is there, or the text is not TOML.
    #[must_use]
    pub fn of(text: &str, path: &str) -> Option<Self> {
        let root = DeTable::parse(text).ok()?;
        let (mut table, mut rest, mut found) = (root.get_ref(), path, None);
        loop {
            let of_path = |key: &str| match rest.strip_prefix(key) {
                Some("") => true,
                Some(after) => after.starts_with('.'),
                None => false,
            };
            let next =
                table.iter().filter(|(key, _)| of_path(key.get_ref())).max_by_key(|(key, _)| key.get_ref().len());
            let Some((key, value)) = next else { return found };
            rest = rest.get(key.get_ref().len() + 1..).unwrap_or_default();
            let DeValue::Table(inner) = value.get_ref() else {
                return Some(Self::of_byte(text, value.span().start));
            };
            found = Some(Self::of_byte(text, key.span().start));
            if rest.is_empty() {
                return found;
            }
            table = inner;
        }
    }
}

/// The place of a key in the file of `home`, as messages begin with it: `sigil.toml:7:12: `. Empty if it is not there.
#[must_use]
pub fn position_in_file(home: &Path, path: &str) -> String {
    let text = std::fs::read_to_string(home.join(FILE_NAME)).unwrap_or_default();
    Position::of(&text, path).map(|at| format!("{FILE_NAME}:{at}: ")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_by_its_path() {
        let text = "[calls]\nttl = '1h'\n[tools.a]\ncommand = 'x'\n[tools.'a.b']\nenv = { 'é' = '1', X = '2' }\n";
        for (path, place) in [
            ("calls.ttl", Some("2:7")),
            ("calls.rate", Some("1:2")),
            ("tools.a.command", Some("4:11")),
            ("tools.a.b.env.X", Some("6:24")),
            ("tools.a.b.command", Some("5:8")),
            ("tools.a", Some("3:8")),
            ("log.level", None),
        ] {
            assert_eq!(Position::of(text, path).map(|place| place.to_string()).as_deref(), place, "{path}");
        }
        assert_eq!(Position::of("[", "a"), None);
    }
}
