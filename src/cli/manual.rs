//! What is made from the grammar of the command line: completions for shells, and man pages.

use std::path::Path;

use clap::CommandFactory as _;
use serde_json::json;

use crate::cli::args::Cli;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Ui;

/// `sigil completions SHELL`: to standard output.
pub(super) fn completions(shell: clap_complete::Shell, ui: Ui) -> Exit {
    ui.print(script(shell).trim_end());
    Exit::Ok
}

/// The completions for a shell.
fn script(shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "sigil", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// `sigil man DIR`: one page for the program and one for each command.
pub(super) fn pages(dir: &Path, ui: Ui) -> Result<Exit, Failure> {
    let made = std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Cli::command(), dir));
    made.map_err(|error| {
        Failure::new(Exit::Failed, format!("the man pages cannot be written to {}: {error}", dir.display()))
            .hint("name a directory that can be written")
    })?;
    if ui.json {
        ui.document("sigil.man/1", json!({ "dir": dir }));
    } else {
        ui.say(&format!(
            "The man pages are in {}; read one with `man -l {}`.",
            dir.display(),
            dir.join("sigil.1").display()
        ));
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l17_every_command_has_its_man_page_and_hidden_ones_have_none() {
        let dir = tempfile::tempdir().unwrap();
        pages(&dir.path().join("man1"), Ui::plain(false)).unwrap();
        let read = |page: &str| std::fs::read_to_string(dir.path().join("man1").join(page)).unwrap();
        for command in Cli::command().get_subcommands() {
            assert!(read(&format!("sigil-{}.1", command.get_name())).contains(".TH"), "{}", command.get_name());
        }
        assert!(!read("sigil-up.1").contains("own-session"));
    }

    #[test]
    fn l17_completions_know_every_command() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let script = script(shell);
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
            }
        }
    }
}
