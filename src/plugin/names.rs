//! Names of plugins and of secrets.

use std::fmt;
use std::str::FromStr;

use mesh_core::ids::ToolName;

/// Longest name of a plugin: it stands before each of its tools, whose whole name has at most 64 characters.
const PLUGIN_CHARS_MAX: usize = 32;
/// Longest name of a secret.
const SECRET_CHARS_MAX: usize = 64;

/// A text that is no such name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it must be {0}")]
pub struct InvalidName(pub &'static str);

/// Name of a plugin: 1 to 32 of a-z, 0-9 and `-`. A tool of the settings is a plugin that has the tool's own name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PluginName(String);

/// Name of a secret of this device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName(String);

impl PluginName {
    /// The rule of names, for messages.
    pub const RULE: &str = "1 to 32 of a-z, 0-9 and -, starting with a letter or digit";

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Any text as a name, such as one from the file of another program; `None` if there is nothing of it left.
    #[must_use]
    pub fn slug(text: &str) -> Option<Self> {
        let mut slug = String::new();
        for letter in text.chars().flat_map(char::to_lowercase) {
            if letter.is_ascii_lowercase() || letter.is_ascii_digit() {
                slug.push(letter);
            } else if !slug.is_empty() && !slug.ends_with('-') {
                slug.push('-');
            }
        }
        slug.truncate(PLUGIN_CHARS_MAX);
        slug.trim_matches('-').parse().ok()
    }
}

impl FromStr for PluginName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let sound = (1..=PLUGIN_CHARS_MAX).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with('-');
        if sound { Ok(Self(text.to_owned())) } else { Err(InvalidName(Self::RULE)) }
    }
}

impl From<&ToolName> for PluginName {
    fn from(tool: &ToolName) -> Self {
        Self(tool.as_str().to_owned())
    }
}

impl fmt::Display for PluginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl SecretName {
    /// The rule of names, for messages.
    pub const RULE: &str = "1 to 64 of a-z, A-Z, 0-9, . _ and -, starting with a letter or digit";

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let sound = (1..=SECRET_CHARS_MAX).contains(&text.len())
            && text.bytes().all(plain)
            && text.starts_with(|first: char| first.is_ascii_alphanumeric());
        if sound { Ok(Self(text.to_owned())) } else { Err(InvalidName(Self::RULE)) }
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_within_a_path_and_a_tools_name() {
        for good in ["a", "photo-tools", "7zip", &"a".repeat(32)] {
            assert_eq!(good.parse::<PluginName>().map(|name| name.to_string()).as_deref(), Ok(good));
        }
        for bad in ["", "-a", "A", "a.b", "a/b", "a_b", "ä", &"a".repeat(33)] {
            assert!(bad.parse::<PluginName>().is_err(), "{bad:?}");
        }
        for bad in ["", ".x", "-x", "a/b", "a b", "..", &"a".repeat(65)] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad:?}");
        }
        assert!("photo-key".parse::<SecretName>().is_ok() && "GITHUB_TOKEN".parse::<SecretName>().is_ok());
        assert_eq!(PluginName::slug("Brave Search_2").map(|name| name.to_string()).as_deref(), Some("brave-search-2"));
        assert_eq!(PluginName::slug("@!"), None);
    }
}
