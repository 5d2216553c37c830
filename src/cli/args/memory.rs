//! `sigil memory`.

use std::path::PathBuf;

use clap::builder::{PathBufValueParser, TypedValueParser as _};
use clap::{Args, Subcommand, ValueEnum};

use super::named;

#[derive(Debug, Subcommand)]
pub(crate) enum MemoryCommand {
    /// Add one message; it is durable when this comes back
    Add(AddArgs),
    /// Ask it something; each hit says why it was found
    Ask(MemoryAskArgs),
    /// Summarize the oldest messages and extract their facts; nothing is removed
    Compact {
        /// Leave so many of the newest as they are
        #[arg(long, default_value_t = 0, value_name = "N")]
        keep: u32,
        /// All there is, batch after batch; without it one batch
        #[arg(long)]
        all: bool,
    },
    /// How much there is; one message; or messages, summaries and facts
    Show(ShowArgs),
    /// Take in a chat: JSON Lines of "text", and if known "id", "speaker", "timestamp", "session", "conversation"
    Import {
        /// The file
        #[arg(value_parser = PathBufValueParser::new().try_map(named))]
        file: PathBuf,
        /// Conversation of lines that name none
        #[arg(long, value_name = "NAME")]
        conversation: Option<String>,
    },
    /// Write all messages to standard output, oldest first
    Export {
        /// Form: `jsonl`, which `import` reads, or `md`, for people
        #[arg(long, value_enum, default_value_t = Format::Jsonl)]
        format: Format,
    },
    /// Give a message another text
    Correct {
        /// Its id, as `ask` and `show` print it
        id: String,
        /// What it says from now on
        text: String,
    },
    /// Forget messages for ever, after showing what goes
    Forget(MemoryForgetArgs),
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// What was said
    pub(crate) text: String,
    /// Who said it
    #[arg(long, value_name = "NAME")]
    pub(crate) speaker: Option<String>,
    /// Talk that it belongs to
    #[arg(long, value_name = "NAME")]
    pub(crate) conversation: Option<String>,
    /// When it was said, such as 2026-11-27T14:30:00+01:00 [default: now]
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<String>,
    /// Id of your own: the same id and text again changes nothing
    #[arg(long)]
    pub(crate) id: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct MemoryAskArgs {
    /// The question
    pub(crate) question: String,
    /// Hits at most
    #[arg(short, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=200))]
    pub(crate) k: u32,
    /// What is looked for
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    pub(crate) mode: Mode,
    /// Tokens (characters / 4) of all texts together [default: 2000]
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u32>,
    /// Only what was said up to this time
    #[arg(long, value_name = "TIME")]
    pub(crate) as_of: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Mode {
    /// Messages, with facts and summary lines of them
    Auto,
    /// Messages
    Text,
    /// By meaning; without a model by words
    Semantic,
    /// Messages of which there are facts
    Facts,
    /// Messages that have a line in a summary
    Summary,
}

impl Mode {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Semantic => "semantic",
            Self::Facts => "facts",
            Self::Summary => "summary",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Jsonl,
    Md,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct ShowArgs {
    /// One message
    pub(crate) id: Option<String>,
    /// The oldest messages
    #[arg(long)]
    pub(crate) messages: bool,
    /// The newest summaries
    #[arg(long)]
    pub(crate) summaries: bool,
    /// Facts with these words
    #[arg(long, value_name = "TOPIC")]
    pub(crate) facts: Option<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct MemoryForgetArgs {
    /// Messages by their ids
    #[arg(conflicts_with_all = ["conversation", "speaker"])]
    pub(crate) ids: Vec<String>,
    /// A whole conversation
    #[arg(long, value_name = "NAME", conflicts_with = "speaker")]
    pub(crate) conversation: Option<String>,
    /// What one speaker said
    #[arg(long, value_name = "NAME")]
    pub(crate) speaker: Option<String>,
    /// From when on
    #[arg(long, value_name = "TIME", requires = "speaker")]
    pub(crate) since: Option<String>,
    /// Only show what would go
    #[arg(long)]
    pub(crate) preview: bool,
    /// Remove the bytes from this device's disk before this comes back, not when nobody asks for a while
    #[arg(long, conflicts_with = "preview")]
    pub(crate) now: bool,
    /// Do not ask again
    #[arg(long)]
    pub(crate) yes: bool,
}
