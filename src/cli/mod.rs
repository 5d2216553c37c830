//! Commands: a client of the REST API, plus the agent itself.

mod args;
mod body;
mod client;
mod commands;
mod demo;
mod exit;
mod fleet;
mod manual;
mod output;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use etcetera::BaseStrategy;

use crate::cli::args::{Cli, Command, PolicyCommand};
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Ui, clean};

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let (ui, ended) = match Cli::try_parse() {
        Ok(cli) => (Ui::new(cli.json), run(cli)),
        Err(error) if error.use_stderr() => (Ui::new(false), Ok(misused(&error))),
        // Help and version are what was asked for.
        Err(error) => {
            let ui = Ui::new(false);
            ui.help(&error);
            (ui, Ok(ExitCode::SUCCESS))
        }
    };
    let exit = ended.unwrap_or_else(|failure| {
        report(ui, &failure);
        failure.exit.into()
    });
    match output::lost() {
        None => exit,
        Some(failure) => {
            say(ui, &failure);
            failure.exit.into()
        }
    }
}

/// The end of a command line that is none. Whoever asked for JSON gets its document too.
fn misused(error: &clap::Error) -> ExitCode {
    if !std::env::args_os().any(|word| word == "--json") {
        error.exit();
    }
    let told = error.to_string();
    let told = told.strip_prefix("error: ").unwrap_or(&told).trim_end();
    let (detail, hint) = told.split_once("\n\n").unwrap_or((told, "see `sigil help`"));
    let failure = Failure::new(Exit::Usage, detail).hint(hint.trim());
    Ui::new(true).document("sigil.error/1", failure.to_json());
    // What it is for people goes where it always goes.
    let _ = error.print();
    Exit::Usage.into()
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let ui = Ui::new(cli.json);
    if let Command::Completions { shell } = cli.command {
        return Ok(manual::completions(shell, ui).into());
    }
    if let Command::Man { dir } = cli.command {
        return manual::pages(&dir, ui).map(ExitCode::from);
    }
    if let Command::Policy { command: PolicyCommand::Template { name } } = &cli.command {
        return commands::templates(name.as_deref(), ui).map(ExitCode::from);
    }
    let home = home(cli.home)?;
    if let Command::Up(args) = cli.command {
        return if args.detach {
            on_one_thread(up::detach(&home, &args, ui))
        } else {
            up::foreground(&home, args, ui).map(ExitCode::from)
        };
    }
    if let Command::Demo(args) = cli.command {
        return on_one_thread(demo::run(&args, ui));
    }
    on_one_thread(commands::run(cli.command, Client::new(&home), ui))
}

/// Clients need no more. The children of the demo are told to end with the thread that
/// started them, so that has to be the main one.
fn on_one_thread(work: impl Future<Output = Result<Exit, Failure>>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Failure::new(Exit::Failed, format!("the runtime does not start: {error}")))?;
    let ended = runtime.block_on(work);
    // A read of standard input that nobody waits for any more must not hold the program.
    runtime.shutdown_background();
    ended.map(ExitCode::from)
}

fn home(given: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let home = match given {
        Some(home) if home.as_os_str().is_empty() => {
            return Err(
                Failure::new(Exit::Usage, "the home is an empty path").hint("pass --home DIR, or unset SIGIL_HOME")
            );
        }
        Some(home) => home,
        None => etcetera::choose_base_strategy()
            .map_err(|error| {
                Failure::new(Exit::Failed, format!("the data directory is not known: {error}")).hint("pass --home DIR")
            })?
            .data_dir()
            .join("sigil"),
    };
    std::path::absolute(&home)
        .map_err(|error| Failure::new(Exit::Usage, format!("{} is not a usable path: {error}", home.display())))
}

fn report(ui: Ui, failure: &Failure) {
    if ui.json {
        ui.document("sigil.error/1", failure.to_json());
    }
    if failure.logged {
        return;
    }
    say(ui, failure);
}

fn say(ui: Ui, failure: &Failure) {
    let mut text = format!("error: {}", output::clean_lines(&failure.detail));
    if let Some(hint) = &failure.hint {
        text.push_str("\n  next: ");
        text.push_str(&clean(hint));
    }
    ui.say(&text);
}
