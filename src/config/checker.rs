//! Values of the settings, checked one by one, so that every error reads alike.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use mesh_core::limits;

use super::settings::{ConfigError, FILE_NAME};
use crate::position::Position;
use crate::value::{DURATION_RULE, parse_duration, show_duration};

/// Longest part of a bad value that its error repeats.
const SHOWN_BYTES_MAX: usize = 80;
/// Origin of each value that is not from the file.
pub(super) type Origins = BTreeMap<&'static str, String>;

/// Values of one reading of the settings.
pub(super) struct Checker<'a> {
    pub(super) home: &'a Path,
    /// The file.
    pub(super) text: &'a str,
    pub(super) origins: Origins,
}

impl Checker<'_> {
    pub(super) fn bad(&self, key: &str, value: impl Into<String>, allowed: impl Into<String>) -> ConfigError {
        self.bad_at(key, key, value.into(), allowed.into())
    }

    /// A value that is not allowed, at `path` of the file.
    pub(super) fn bad_at(&self, path: &str, key: &str, value: String, allowed: String) -> ConfigError {
        let (at, key) = if let Some(origin) = self.origins.get(key) {
            (String::new(), format!("{key} (from {origin})"))
        } else {
            let at = Position::of(self.text, path).map(|at| format!("{FILE_NAME}:{at}: "));
            (at.unwrap_or_default(), key.to_owned())
        };
        let shown = limits::cut(&value, SHOWN_BYTES_MAX);
        let value = if shown.len() < value.len() { format!("{shown}…") } else { value };
        // The rules of names are whole sentences.
        let allowed = allowed.strip_prefix("it must be ").map(ToOwned::to_owned).unwrap_or(allowed);
        ConfigError::Value { at, key, value, allowed }
    }

    pub(super) fn one_of<T: Copy>(
        &self,
        key: &str,
        value: Option<String>,
        default: T,
        allowed: &[(&str, T)],
    ) -> Result<T, ConfigError> {
        let Some(value) = value else { return Ok(default) };
        let meaning = allowed.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning);
        meaning.ok_or_else(|| {
            let words: Vec<&str> = allowed.iter().map(|(word, _)| *word).collect();
            self.bad(key, value, format!("one of {}", words.join(", ")))
        })
    }

    pub(super) fn count(
        &self,
        key: &str,
        value: Option<String>,
        default: u16,
        within: RangeInclusive<u16>,
    ) -> Result<u16, ConfigError> {
        let Some(text) = value else { return Ok(default) };
        let parsed = text.parse().ok().filter(|count| within.contains(count));
        parsed.ok_or_else(|| self.bad(key, text, format!("a number from {} to {}", within.start(), within.end())))
    }

    pub(super) fn duration(
        &self,
        key: &str,
        value: Option<String>,
        default: Duration,
        allowed: std::ops::RangeInclusive<Duration>,
    ) -> Result<Duration, ConfigError> {
        let Some(text) = value else { return Ok(default) };
        parse_duration(&text).filter(|duration| allowed.contains(duration)).ok_or_else(|| {
            let range = format!("from {} to {}", show_duration(*allowed.start()), show_duration(*allowed.end()));
            self.bad(key, text, format!("{DURATION_RULE}, {range}"))
        })
    }
}

/// A path that begins with `~/`, as the shell of whoever runs this agent would read it; `None` for any other text, and
/// where nobody's home is known.
pub(super) fn in_home(text: &str) -> Option<String> {
    let (rest, home) = (text.strip_prefix("~/")?, std::env::var("HOME").ok()?);
    home.starts_with('/').then(|| format!("{}/{rest}", home.trim_end_matches('/')))
}
