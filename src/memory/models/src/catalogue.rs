//! Models that are known: files that were hashed by us, with their licences and what they need.

use memory_core::ids::ModelId;
use sha2::{Digest as _, Sha256};

use crate::weights::Sha;

/// A model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its name: what people type, and its directory.
    pub name: &'static str,
    /// Its use, in a few words.
    pub what: &'static str,
    /// Under which terms it may be used.
    pub licence: &'static str,
    /// Who made it.
    pub by: &'static str,
    /// Languages that it knows well.
    pub languages: &'static str,
    /// Its weights.
    pub weights: File,
    /// Its tokenizer.
    pub tokenizer: File,
    /// Form of the network.
    pub form: Form,
    /// Memory of its process while it runs, bytes.
    pub memory_bytes: u64,
}

/// A file of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct File {
    /// Its name in the model's directory.
    pub name: &'static str,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, hexadecimal.
    pub sha256: &'static str,
    /// Where it is had.
    pub url: &'static str,
}

/// A BERT network: all that its weights do not tell themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// Numbers of a vector.
    pub dimension: usize,
    /// Layers.
    pub layers: usize,
    /// Heads of each.
    pub heads: usize,
    /// Tokens of a text that are read, with start and end.
    pub tokens_max: usize,
}

/// All of them, the recommended one first.
pub const MODELS: [Entry; 1] = [Entry {
    name: "all-minilm-l6-v2",
    what: "finds messages by meaning",
    licence: "Apache-2.0",
    by: "sentence-transformers (Microsoft's MiniLM, tuned)",
    languages: "English; others badly",
    weights: File {
        name: "model.safetensors",
        bytes: 90_868_376,
        sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        url: "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2/resolve/main/model.safetensors",
    },
    tokenizer: File {
        name: "tokenizer.json",
        bytes: 466_247,
        sha256: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        url: "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2/resolve/main/tokenizer.json",
    },
    form: Form { dimension: 384, layers: 6, heads: 12, tokens_max: 256 },
    memory_bytes: 200 * 1024 * 1024,
}];

impl Entry {
    /// The model of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        MODELS.iter().find(|entry| entry.name == name)
    }

    /// The model that has a file with this hash, and the file.
    #[must_use]
    pub fn with_file(sha: &Sha) -> Option<(&'static Self, File)> {
        MODELS.iter().find_map(|entry| {
            let file = entry.files().into_iter().find(|file| file.sha() == Some(*sha))?;
            Some((entry, file))
        })
    }

    /// Its files.
    #[must_use]
    pub fn files(&self) -> [File; 2] {
        [self.weights, self.tokenizer]
    }

    /// Size of all its files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files().iter().map(|file| file.bytes).sum()
    }

    /// Memory that its process may take, bytes: while it loads, file and tensors are there at once.
    #[must_use]
    pub fn budget_bytes(&self) -> u64 {
        2 * self.memory_bytes + 2 * self.bytes()
    }

    /// The id under which its vectors are kept: another file or another rule of ours gives another one.
    #[must_use]
    pub fn id(&self) -> ModelId {
        let mut sha = Sha256::new();
        sha.update(b"sigil model 1\0");
        for file in self.files() {
            sha.update(file.sha256.as_bytes());
        }
        sha.update((self.form.tokens_max as u64).to_le_bytes());
        let full: [u8; 32] = sha.finalize().into();
        let mut id = [0; 16];
        id.iter_mut().zip(full).for_each(|(to, from)| *to = from);
        ModelId(id)
    }
}

impl File {
    /// Its hash.
    #[must_use]
    pub fn sha(&self) -> Option<Sha> {
        crate::weights::parse_hex(self.sha256)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_can_be_used() {
        for entry in &MODELS {
            assert_eq!(Entry::named(entry.name), Some(entry));
            for file in entry.files() {
                let sha = file.sha().unwrap();
                assert_eq!(Entry::with_file(&sha), Some((entry, file)));
                assert!(file.url.starts_with("https://") && !file.name.contains('/') && file.bytes > 0);
            }
            assert!(entry.form.dimension.is_multiple_of(entry.form.heads));
            assert!(entry.bytes() < entry.memory_bytes);
        }
    }
}
