//! `sigil model`.

use std::path::PathBuf;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Models that memory can use on this device: what they are for, their licences and sizes, and what is here
    List,
    /// Get a model: its licence and size are shown first, and nothing comes without a yes
    Pull {
        /// Its name [default: the recommended one]
        name: Option<String>,
        /// Yes to its licence and size
        #[arg(short, long)]
        yes: bool,
        /// Get its files from here instead: a URL, to which the names of the files are added
        #[arg(long, value_name = "URL")]
        from: Option<String>,
    },
    /// Read every file of a model and compare its hash
    Verify {
        /// Its name [default: all that are here]
        name: Option<String>,
    },
    /// Remove a model's files; memory goes on by words
    Remove {
        /// Its name
        name: String,
    },
    /// Take a file of a model that is known by its hash, from this disk or from a URL
    Add {
        /// A file, or a URL
        #[arg(value_name = "FILE|URL")]
        from: PathBuf,
        /// Its SHA-256; a URL needs one
        #[arg(long, value_name = "HEX", value_parser = sha)]
        sha256: Option<memory_models::weights::Sha>,
    },
}

fn sha(text: &str) -> Result<memory_models::weights::Sha, &'static str> {
    memory_models::weights::parse_hex(text).ok_or("a SHA-256 has 64 of 0-9 and a-f")
}
