//! Each row of `tests/README.md` has a test that carries its id.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("it is there").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// Ids that the name of a function begins with: `b03_b10_what_…` has two.
fn ids(name: &str) -> impl Iterator<Item = String> {
    let id = |part: &str| {
        let (letter, number) = part.split_at_checked(1)?;
        let number = number.parse::<u8>().ok().filter(|_| number.len() == 2)?;
        matches!(letter, "s" | "b" | "l").then(|| format!("{}{number}", letter.to_ascii_uppercase()))
    };
    name.split('_').map_while(id).collect::<Vec<_>>().into_iter()
}

#[test]
fn every_row_has_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for dir in ["src", "tests"] {
        sources(&root.join(dir), &mut files);
    }
    let text = files.iter().map(|file| fs::read_to_string(file).expect("text")).collect::<String>();
    let names = text.lines().filter_map(|line| line.trim_start().trim_start_matches("async ").strip_prefix("fn "));
    let tested: BTreeSet<String> = names.flat_map(ids).collect();
    let table = include_str!("../README.md");
    let rows = table.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" |")).map(|(id, _)| id.to_owned());
    let rows: BTreeSet<String> = rows.filter(|id| id.ends_with(|last: char| last.is_ascii_digit())).collect();
    assert_eq!(rows.len(), 33 + 23 + 12);
    assert_eq!(tested, rows);
}
