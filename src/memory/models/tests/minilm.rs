//! The embedder with its real weights, where they are: see `./test --help`.
#![cfg(feature = "candle")]
#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use std::path::PathBuf;

use memory_models::catalogue::{Entry, File, MODELS};
use memory_models::{Bert, Tokens, weights, wire};
use serde::Deserialize;

/// A text with what another implementation makes of it: ids by the file's own library, vectors in 64 bits.
#[derive(Deserialize)]
struct Golden {
    text: String,
    ids: Vec<u32>,
    vector: Vec<f32>,
}

fn golden() -> Vec<Golden> {
    serde_json::from_str(include_str!("golden.json")).unwrap()
}

/// The directory with the weights; `None`, told loudly, where they are not.
fn weights_dir() -> Option<PathBuf> {
    let entry = &MODELS[0];
    let dir = std::env::var_os("SIGIL_TEST_MODELS").map(|dir| PathBuf::from(dir).join(entry.name));
    if let Some(dir) = dir.filter(|dir| entry.files().iter().all(|file| dir.join(file.name).is_file())) {
        return Some(dir);
    }
    assert!(
        std::env::var("SIGIL_TEST_REQUIRE").as_deref() != Ok("all"),
        "the weights of {} are not there: `./test` fetches them",
        entry.name
    );
    let told = format!("tests with the real weights of {}: they are not there (SIGIL_TEST_MODELS)", entry.name);
    eprintln!("skipped: {told}");
    if let Some(list) = std::env::var_os("SIGIL_TEST_SKIPS") {
        use std::io::Write as _;
        let mut list = std::fs::OpenOptions::new().append(true).open(list).unwrap();
        writeln!(list, "{told}").unwrap();
    }
    None
}

fn read(entry: &Entry, dir: &std::path::Path) -> (Vec<u8>, Vec<u8>) {
    let read = |file: File| weights::read_checked(&dir.join(file.name), &file.sha().unwrap(), file.bytes).unwrap();
    (read(entry.weights), read(entry.tokenizer.unwrap()))
}

#[test]
fn tokens_and_vectors_are_those_of_other_implementations() {
    let Some(dir) = weights_dir() else { return };
    let entry = &MODELS[0];
    let (weights, tokenizer) = read(entry, &dir);
    let golden = golden();
    assert_eq!(golden.len(), 20);
    let tokens = Tokens::read(&tokenizer, entry.form().unwrap().tokens_max).unwrap();
    for it in &golden {
        assert_eq!(tokens.encode(&it.text).unwrap(), it.ids, "{}", it.text);
    }
    // Nobody writes the end of a text into a text.
    let ends = tokens.encode("the end [SEP] is here [CLS]").unwrap();
    assert_eq!(ends.iter().filter(|id| [101, 102].contains(*id)).count(), 2);
    let bert = Bert::load(&weights, &tokenizer, entry.form().unwrap()).unwrap();
    let texts: Vec<&str> = golden.iter().map(|it| it.text.as_str()).collect();
    let together = bert.embed(&texts).unwrap();
    let mut least = 1.0_f32;
    for (it, vector) in golden.iter().zip(&together) {
        memory_core::index::vectors::check(vector, entry.form().unwrap().dimension).unwrap();
        let alone = bert.embed(&[&it.text]).unwrap().remove(0);
        let cosine = |other: &[f32]| {
            let length = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>().sqrt();
            vector.iter().zip(other).map(|(a, b)| a * b).sum::<f32>() / (length(vector) * length(other))
        };
        least = least.min(cosine(&it.vector));
        assert!(cosine(&it.vector) >= 0.999, "{}: {}", it.text, cosine(&it.vector));
        // What else is in a batch changes nothing.
        assert!(cosine(&alone) >= 0.99999, "{}", it.text);
    }
    println!("least cosine of {} texts: {least}", golden.len());
}

#[test]
fn a_long_text_and_an_empty_one_have_vectors() {
    let Some(dir) = weights_dir() else { return };
    let entry = &MODELS[0];
    let (weights, tokenizer) = read(entry, &dir);
    let bert = Bert::load(&weights, &tokenizer, entry.form().unwrap()).unwrap();
    let long = "the boiler is at 1.6 bar ".repeat(400);
    let texts = vec![wire::cut(&long).to_owned(); wire::TEXTS_MAX - 1];
    let vectors = bert.embed(&[texts, vec![String::new()]].concat()).unwrap();
    assert_eq!(vectors.len(), wire::TEXTS_MAX);
    for vector in &vectors {
        memory_core::index::vectors::check(vector, entry.form().unwrap().dimension).unwrap();
    }
}

#[test]
fn weights_of_another_form_or_content_are_refused() {
    let Some(dir) = weights_dir() else { return };
    let entry = &MODELS[0];
    let (weights, tokenizer) = read(entry, &dir);
    let mut form = entry.form().unwrap();
    form.layers += 1;
    assert!(Bert::load(&weights, &tokenizer, form).is_err());
    assert!(
        Bert::load(&weights, &tokenizer, memory_models::catalogue::Form { dimension: 512, ..entry.form().unwrap() })
            .is_err()
    );
    assert!(Bert::load(&weights[..weights.len() - 1], &tokenizer, entry.form().unwrap()).is_err());
    assert!(Bert::load(b"", &tokenizer, entry.form().unwrap()).is_err());
    let other =
        weights::read_checked(&dir.join(entry.tokenizer.unwrap().name), &[0; 32], entry.tokenizer.unwrap().bytes);
    assert!(matches!(other, Err(weights::FileError::Hash { .. })));
}

/// Texts per second of processor time, for docs/measurements.md: `cargo test --release -p memory-models --features candle
/// --test minilm -- --ignored --nocapture`, with `RAYON_NUM_THREADS=1`.
#[test]
#[ignore = "a measurement"]
fn speed() {
    let Some(dir) = weights_dir() else { return };
    let entry = &MODELS[0];
    let (weights, tokenizer) = read(entry, &dir);
    let bert = Bert::load(&weights, &tokenizer, entry.form().unwrap()).unwrap();
    let texts: Vec<String> = (0..96)
        .map(|n| format!("the freezer number {n} in the cellar makes a noise like a train again and somebody has to be at home on Friday between eight and ten to open the gate for the repair man"))
        .collect();
    for batch in [1, 32] {
        let mut best = f64::MAX;
        for _ in 0..5 {
            let before = cpu_seconds();
            for part in texts.chunks(batch) {
                bert.embed(part).unwrap();
            }
            best = best.min(cpu_seconds() - before);
        }
        println!("batch {batch}: {:.1} texts per processor second", 96.0 / best);
    }
}

/// Time of this process, user and system.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}
