//! Which commands may be run as they are asked for. There is no shell in it: a command is a list of words.

use serde::Deserialize;

use super::{BuiltinError, parse};

/// Words of a command, and bytes of one: more than a person writes.
const WORDS_MAX: usize = 64;
const WORD_BYTES_MAX: usize = 4096;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `argv`, a list of words: the program, and its arguments")]
struct Arguments {
    argv: Vec<String>,
}

/// The command that a call asks for.
///
/// # Errors
/// Its arguments do not fit, or no line allows it.
pub(super) fn command(arguments: &[u8], allow: &[Vec<String>]) -> Result<Vec<String>, BuiltinError> {
    let Arguments { argv } = parse(arguments)?;
    let fits = |word: &String| word.len() <= WORD_BYTES_MAX && !word.contains('\0');
    if argv.is_empty() || argv.len() > WORDS_MAX || !argv.iter().all(fits) {
        return Err(BuiltinError::Arguments(format!("`argv` is 1 to {WORDS_MAX} words of at most 4 KiB")));
    }
    if allow.iter().any(|line| is_allowed(line, &argv)) {
        Ok(argv)
    } else {
        Err(BuiltinError::NotAllowed("no line of `shell.allow` of this device allows this command"))
    }
}

/// True if a line allows a command: word by word, as many of them. The program is the one that is written there.
fn is_allowed(line: &[String], argv: &[String]) -> bool {
    line.len() == argv.len()
        && line.first() == argv.first()
        && line.iter().zip(argv).skip(1).all(|(pattern, word)| {
            // What may be anything may not be an option: those do what nobody thought of.
            (!word.starts_with('-') || pattern.starts_with('-')) && is_like(pattern.as_bytes(), word.as_bytes())
        })
}

/// `*` is any run of characters, also none; everything else is itself.
fn is_like(pattern: &[u8], word: &[u8]) -> bool {
    let (mut at, mut from) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        match (pattern.get(at), word.get(from)) {
            (Some(b'*'), _) => {
                star = Some((at, from));
                at += 1;
            }
            (Some(one), Some(other)) if one == other => (at, from) = (at + 1, from + 1),
            (None, None) => return true,
            // Once more, with a longer run for the last star: an earlier one can take no more than it could.
            (_, _) => match star {
                Some((after, taken)) if taken < word.len() => {
                    star = Some((after, taken + 1));
                    (at, from) = (after + 1, taken + 1);
                }
                Some(_) | None => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_command_is_allowed_word_by_word() {
        let allow =
            ["systemctl status *", "journalctl -n * -u *.service", "df -h", "echo -*", "ls /srv/*/*.txt"].map(words);
        for (command, allowed) in [
            ("systemctl status sshd", true),
            ("systemctl status", false),
            ("systemctl status a b", false),
            ("systemctl stop sshd", false),
            ("systemctl status --host=evil", false),
            ("systemctl status -H", false),
            ("/usr/bin/systemctl status sshd", false),
            ("journalctl -n 10 -u a.service", true),
            ("journalctl -n 10 -u a.timer", false),
            ("journalctl -n --all -u a.service", false),
            ("df -h", true),
            ("df", false),
            ("echo -x", true),
            ("echo x", false),
            ("ls /srv/a/b.txt", true),
            ("ls /srv/.txt", false),
        ] {
            assert_eq!(allow.iter().any(|line| is_allowed(line, &words(command))), allowed, "{command}");
        }
        assert!(
            is_like(b"*", b"") && is_like(b"a*b*c", b"axbxbxc") && !is_like(b"a*b", b"axbx") && !is_like(b"", b"x")
        );
        // Not exponential.
        assert!(!is_like("*a".repeat(60).as_bytes(), "a".repeat(59).as_bytes()));
    }

    #[test]
    fn there_is_no_shell() {
        let allow = [words("echo *")];
        let argv = command(br#"{"argv":["echo","a; rm -rf $HOME | cat"]}"#, &allow).unwrap();
        assert_eq!(argv, ["echo", "a; rm -rf $HOME | cat"], "one word");
        for arguments in [
            r#"{"argv":[]}"#,
            r#"{"argv":"echo x"}"#,
            r#"{"argv":["echo","a\u0000b"]}"#,
            "{}",
            r#"{"argv":["x"],"cwd":"/"}"#,
        ] {
            assert!(matches!(command(arguments.as_bytes(), &allow), Err(BuiltinError::Arguments(_))), "{arguments}");
        }
        let refused = command(br#"{"argv":["echo"]}"#, &allow);
        assert!(matches!(refused, Err(BuiltinError::NotAllowed(_))));
    }
}
