//! `sigil approvals`.

use clap::{Args, Subcommand, ValueEnum};

/// Calls that wait for a person's answer, here and at other devices
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ApprovalsArgs {
    #[command(subcommand)]
    pub(crate) command: Option<ApprovalsCommand>,
    /// Calls on a page
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub(crate) limit: u32,
    /// Start of the page: `next_cursor` of the page before
    #[arg(long)]
    pub(crate) cursor: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ApprovalsCommand {
    /// Answer one, as the person who sits at this device
    Answer {
        /// The call
        call: String,
        /// The answer
        #[arg(value_enum)]
        answer: Answer,
        /// Remark for people
        #[arg(long)]
        note: Option<String>,
    },
    /// List the yeses for an hour that count yet
    Hours,
    /// Take back a yes for an hour: calls like it ask again
    Withdraw {
        /// Its id, or as much of its beginning as no other has
        id: String,
    },
}

/// What a person says to a call.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Answer {
    /// Yes, to this call
    #[value(alias = "once")]
    Yes,
    /// Yes, and for an hour to those like it
    Hour,
    /// Yes, and to those like it from now on, by a rule
    Always,
    /// No
    No,
}

impl Answer {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "once",
            Self::Hour => "hour",
            Self::Always => "always",
            Self::No => "no",
        }
    }
}
