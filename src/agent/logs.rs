//! Logs of an agent: to stderr, and to a ring that the doors show.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Config, LogFormat};
use crate::doors::LogRing;
use crate::mesh::store::OpenReport;

/// Starts logging as the settings say.
pub(super) fn start(config: &Config) -> LogRing {
    let ring = LogRing::default();
    let filter: tracing_subscriber::filter::Targets = config.log.level.parse().unwrap_or_default();
    let registry = tracing_subscriber::registry().with(filter).with(ring.layer());
    // Colours are for people at a terminal; a file, a pipe and the journal get none.
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let text = tracing_subscriber::fmt::layer().with_ansi(colours).with_writer(io::stderr);
    // Someone else may have set a subscriber in tests; the ring still works through ours only.
    let _ = match config.log.format {
        LogFormat::Json => registry.with(text.json()).try_init(),
        LogFormat::Text => registry.with(text).try_init(),
    };
    ring
}

/// Logs what the opening of the store has found.
pub(super) fn report(report: &OpenReport) {
    for repair in &report.repaired {
        tracing::warn!(
            file = repair.file,
            cut_at = repair.cut_at,
            promised = repair.promised,
            why = repair.why,
            "the store was repaired"
        );
    }
    if let Some(loss) = &report.lost {
        tracing::error!(
            why = loss.why, kept_at = ?loss.kept_at,
            "the store could not be repaired: this device has lost its membership and starts anew; join the mesh again"
        );
    }
    if report.rolled_back {
        tracing::warn!("the store is older than what it had promised: this device takes a new incarnation");
    }
}
