//! The format that is written today, as fixtures: a store with rows of every space, and entries of every kind. Today's
//! code reads them, and finds in them what was put in.
//!
//! A deliberate change of the format writes them anew:
//! `cargo test --release -p mesh-core --test golden -- --ignored`.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may stop at what it did not expect")]

mod entries;
mod store;

use std::path::PathBuf;

use data_encoding::HEXLOWER;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Writes lines of words, of which all but the first are bytes.
fn write(name: &str, lines: impl IntoIterator<Item = (String, Vec<Vec<u8>>)>) {
    let line = |(name, words): (String, Vec<Vec<u8>>)| {
        let words: Vec<String> = words.iter().map(|word| HEXLOWER.encode(word)).collect();
        format!("{name} {}\n", words.join(" "))
    };
    std::fs::write(fixture(name), lines.into_iter().map(line).collect::<String>()).unwrap();
}

/// Reads [`write`].
fn read(name: &str) -> Vec<(String, Vec<Vec<u8>>)> {
    let text = std::fs::read_to_string(fixture(name)).unwrap();
    let line = |line: &str| {
        let mut words = line.split(' ').map(str::to_owned);
        let name = words.next().unwrap();
        (name, words.map(|word| HEXLOWER.decode(word.as_bytes()).unwrap()).collect())
    };
    text.lines().map(line).collect()
}
