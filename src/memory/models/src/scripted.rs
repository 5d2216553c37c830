//! Models without weights, for tests of the whole program: vectors of words, words of their prompt, or what no model should
//! say.

use std::io::{Read, Write};
use std::time::Duration;

use crate::catalogue::Entry;
use crate::wire::{self, Outcome, Reply, Request, WireError, WriteRequest};

/// Name of the setting in the environment of the child of a model.
#[must_use]
pub fn setting(entry: &Entry) -> &'static str {
    if entry.writes() { "SIGIL_TEST_WRITER" } else { "SIGIL_TEST_MODEL" }
}
/// Words that mean the same to it: a text with one of a row is near to one with another of it.
const SAME: [&[&str]; 4] =
    [&["cellar", "basement"], &["car", "automobile", "vehicle"], &["doctor", "physician"], &["holiday", "vacation"]];

/// Names the file in which a model that writes notes what it is told, a line each.
pub const LOG: &str = "SIGIL_TEST_WRITER_LOG";

/// Serves a model as `kind` says.
///
/// # Errors
/// The pipe.
///
/// # Panics
/// The kind is `panic`.
pub fn serve(kind: &str, entry: &Entry, from: &mut impl Read, to: &mut impl Write) -> Result<(), WireError> {
    let dimension = entry.dimension();
    wire::send(to, &Reply { id: 0, outcome: Outcome::Ready { version: wire::VERSION, dimension } })?;
    if entry.writes() { write(kind, from, to) } else { embed(kind, dimension, from, to) }
}

/// Writes as `kind` says: `words`, which are the prompt's own, or what fails: `lie`, `nan`, `empty`, `facts`, `numbers`, `long`,
/// `cut`, `foreign`, `garbage`, `abort`, `panic`, `hang`; with `/word` after it only for prompts that have the word, else it is
/// `words`. What it is told is noted in the file that [`LOG`] names.
fn write(kind: &str, from: &mut impl Read, to: &mut impl Write) -> Result<(), WireError> {
    let (kind, trap) = kind.split_once('/').map_or((kind, None), |(kind, word)| (kind, Some(word)));
    while let Some(WriteRequest { id, prompt }) = wire::receive(from)? {
        if let Some(path) = std::env::var_os(LOG) {
            let mut log = std::fs::OpenOptions::new().append(true).create(true).open(path)?;
            writeln!(log, "{} {}", std::process::id(), prompt.user.len())?;
        }
        let springs = trap.is_none_or(|word| prompt.user.contains(word));
        let good = || written(&prompt.user, prompt.system.contains('|'));
        let bytes = |bytes: &[u8]| Reply { id, outcome: Outcome::Words(serde_bytes::ByteBuf::from(bytes)) };
        let many = |number: usize| format!("{number} | Ann | is | here\n").repeat(9);
        match if springs { kind } else { "words" } {
            "lie" => wire::send(to, &Reply::text(id, "Xaver owes 4711 euros.\n1 | Xaver | owes | 4711 euros"))?,
            "nan" => wire::send(to, &Reply::text(id, "NaN"))?,
            "empty" => wire::send(to, &Reply::text(id, ""))?,
            "facts" => {
                wire::send(to, &Reply::text(id, &good().lines().cycle().take(500).collect::<Vec<_>>().join("\n")))?;
            }
            "numbers" => {
                let all: String = [0, 99, usize::MAX].into_iter().map(many).collect();
                wire::send(to, &Reply::text(id, &all))?;
            }
            "long" => wire::send(to, &bytes(&vec![b'x'; wire::WRITTEN_BYTES_MAX + 1]))?,
            "cut" => wire::send(to, &bytes(b"the caf\xc3"))?,
            "foreign" => wire::send(to, &Reply::text(id + 1, &good()))?,
            "garbage" => {
                to.write_all(&[7; 64])?;
                to.flush()?;
            }
            "abort" => std::process::abort(),
            // Told with the prompt, as some libraries do.
            "panic" => panic!("no words for {prompt:?}"),
            "hang" => std::thread::sleep(Duration::from_hours(1)),
            _ => wire::send(to, &Reply::text(id, &good()))?,
        }
    }
    Ok(())
}

/// Words of a prompt whose lines are `1. Ann: what she said`: of the first of them, or a fact of each that says `is`.
fn written(user: &str, facts: bool) -> String {
    let said = |line: &'_ str| Some(line.split_once(". ")?.1.split_once(": ")?.1.to_owned());
    let fact = |line: &str| {
        let (number, said) = (line.split_once(". ")?.0, said(line)?);
        let (subject, object) = said.split_once(" is ")?;
        Some(format!("{number} | {subject} | is | {}", object.split(' ').next()?))
    };
    if facts {
        user.lines().filter_map(fact).collect::<Vec<_>>().join("\n")
    } else {
        user.lines().find_map(said).unwrap_or_default()
    }
}

/// Gives vectors as `kind` says: `words`, or one that fails: `nan`, `short`, `foreign`, `garbage`, `abort`, `panic`, `hang`; with `/word` after
/// it only for texts that have the word, else it is `words`.
fn embed(kind: &str, dimension: usize, from: &mut impl Read, to: &mut impl Write) -> Result<(), WireError> {
    let (kind, trap) = kind.split_once('/').map_or((kind, None), |(kind, word)| (kind, Some(word)));
    while let Some(Request { id, texts }) = wire::receive(from)? {
        let good: Vec<Vec<f32>> = texts.iter().map(|text| vector(text, dimension)).collect();
        let springs = trap.is_none_or(|word| texts.iter().any(|text| text.contains(word)));
        match if springs { kind } else { "words" } {
            "nan" => wire::send(to, &Reply::of(id, &vec![vec![f32::NAN; dimension]; texts.len()]))?,
            "short" => wire::send(to, &Reply::of(id, good.get(1..).unwrap_or_default()))?,
            "foreign" => wire::send(to, &Reply::of(id + 1, &good))?,
            "garbage" => {
                to.write_all(&[7; 64])?;
                to.flush()?;
            }
            "abort" => {
                eprintln!("memory allocation of 4711 bytes failed");
                std::process::abort()
            }
            // Told with a text that it was given, as some libraries do.
            "panic" => panic!("no vector for {texts:?}"),
            "hang" => std::thread::sleep(Duration::from_hours(1)),
            _ => wire::send(to, &Reply::of(id, &good))?,
        }
    }
    Ok(())
}

/// A vector by the words of a text alone.
fn vector(text: &str, dimension: usize) -> Vec<f32> {
    let mut sum = vec![0.01_f32; dimension];
    for word in text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty()) {
        let word = word.to_lowercase();
        let meant = SAME.iter().find(|same| same.contains(&word.as_str())).and_then(|same| same.first());
        let mut state = meant
            .map_or(word.as_str(), |meant| meant)
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        for number in &mut sum {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *number += if state >> 63 == 1 { 1.0 } else { -1.0 };
        }
    }
    let length = sum.iter().map(|x| x * x).sum::<f32>().sqrt();
    sum.iter().map(|x| x / length).collect()
}
