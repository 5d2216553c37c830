//! Values that a server is started with, some of them secret.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::spec::Value;

/// Shortest secret that is taken out of what is shown: a shorter one stands in every other word.
const MASKED_MIN: usize = 8;

/// Keeps secrets, by their names.
pub trait Secrets: Send + Sync {
    /// Reads one.
    ///
    /// # Errors
    /// There is none, or it cannot be read, for people. Never with the value in it.
    fn read(&self, name: &str) -> Result<String, String>;
}

/// Secrets in files of a directory, one each.
#[derive(Debug, Clone)]
pub struct SecretFiles(PathBuf);

impl SecretFiles {
    /// Those of this directory: `<home>/secrets`.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self(dir)
    }
}

impl Secrets for SecretFiles {
    fn read(&self, name: &str) -> Result<String, String> {
        let letters = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
        if name.is_empty() || name.starts_with('.') || !name.chars().all(letters) {
            return Err(format!("`{}` is no name of a secret", crate::text::visible(name)));
        }
        let read = std::fs::read_to_string(self.0.join(name));
        let text = read.map_err(|error| format!("the secret `{name}` cannot be read: {error}"))?;
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }
}

/// Secrets that a server was given, to be taken out of what is shown of it.
#[derive(Clone, Default)]
pub(super) struct Mask(Vec<(String, String)>);

impl Mask {
    /// The same text with names in place of the secrets.
    pub(super) fn hide(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (value, name)| text.replace(value, &format!("[secret {name}]")))
    }
}

/// Reads all values. Blocks.
///
/// # Errors
/// The first that cannot be read.
pub(super) fn resolve(
    values: &BTreeMap<String, Value>,
    secrets: &dyn Secrets,
) -> Result<(BTreeMap<String, String>, Mask), String> {
    let (mut read, mut mask) = (BTreeMap::new(), Mask::default());
    for (name, value) in values {
        let (text, known_as) = match value {
            Value::Text(text) => (text.clone(), None),
            Value::Secret(secret) => (secrets.read(secret)?, Some(secret.clone())),
            Value::Env(variable) => {
                let text = std::env::var(variable)
                    .map_err(|_| format!("the variable `{variable}` is not set for the agent"))?;
                (text, Some(variable.clone()))
            }
            Value::File(path) => (first_line(path)?, Some(path.display().to_string())),
        };
        if let Some(known_as) = known_as.filter(|_| text.len() >= MASKED_MIN) {
            mask.0.push((text.clone(), known_as));
        }
        read.insert(name.clone(), text);
    }
    // Of two of which one is part of the other the longer one first.
    mask.0.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
    Ok((read, mask))
}

fn first_line(path: &Path) -> Result<String, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("`{}` cannot be read: {error}", path.display()))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_and_secrets_are_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("photo-key"), "hunter2-hunter2\n").unwrap();
        std::fs::write(dir.path().join("line"), "abcdefgh\nmore").unwrap();
        let secrets = SecretFiles::new(dir.path().to_owned());
        let values = BTreeMap::from([
            ("A".to_owned(), Value::Text("plain-plain".to_owned())),
            ("B".to_owned(), Value::Secret("photo-key".to_owned())),
            ("C".to_owned(), Value::File(dir.path().join("line"))),
        ]);
        let (read, mask) = resolve(&values, &secrets).unwrap();
        assert_eq!(read.values().collect::<Vec<_>>(), ["plain-plain", "hunter2-hunter2", "abcdefgh"]);
        let hidden = mask.hide("key hunter2-hunter2, plain-plain");
        assert_eq!(hidden, "key [secret photo-key], plain-plain");
        for bad in ["../x", "", ".x", "none"] {
            assert!(secrets.read(bad).is_err(), "{bad}");
        }
        let unset = BTreeMap::from([("A".to_owned(), Value::Env("SIGIL_TEST_NOT_SET".to_owned()))]);
        assert!(resolve(&unset, &secrets).is_err());
    }
}
