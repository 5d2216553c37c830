//! A model without weights, for tests of the whole program: vectors of words, or what no model should say.

use std::io::{Read, Write};
use std::time::Duration;

use crate::wire::{self, Outcome, Reply, Request, WireError};

/// Name of the setting in the child's environment.
pub const SETTING: &str = "SIGIL_TEST_MODEL";
/// Words that mean the same to it: a text with one of a row is near to one with another of it.
const SAME: [&[&str]; 4] =
    [&["cellar", "basement"], &["car", "automobile", "vehicle"], &["doctor", "physician"], &["holiday", "vacation"]];

/// Serves as `kind` says: `words`, or one that fails: `nan`, `short`, `foreign`, `garbage`, `abort`, `panic`, `hang`; with `/word` after
/// it only for texts that have the word, else it is `words`.
///
/// # Errors
/// The pipe.
///
/// # Panics
/// The kind is `panic`.
pub fn serve(kind: &str, dimension: usize, from: &mut impl Read, to: &mut impl Write) -> Result<(), WireError> {
    let (kind, trap) = kind.split_once('/').map_or((kind, None), |(kind, word)| (kind, Some(word)));
    wire::send(to, &Reply { id: 0, outcome: Outcome::Ready { version: wire::VERSION, dimension } })?;
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
