//! Ranks a data set in the form of JSON Lines and prints a run file that its scorer reads.
//!
//! `membench FOLDER [VECTORS]`: FOLDER holds `*.messages.jsonl` and `questions.jsonl`; VECTORS a `<name>.f32` for each
//! of those, rows of 384 little-endian 32-bit numbers in the order of the lines. Data sets stay where they are: those that
//! exist may be measured with, not shipped.
#![expect(clippy::indexing_slicing, reason = "a tool for measuring by hand")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use memory_core::ids::{MessageKey, ModelId, WorkspaceId};
use memory_core::index::Index;
use memory_core::index::columns::{ForwardRow, Source};
use memory_core::index::vectors::Vec8;
use memory_core::item::Message;
use memory_core::rank::{Query, search};
use serde_json::{Value, json};

const DIMENSION: usize = 384;
const MODEL: ModelId = ModelId([1; 16]);

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("a file of the data set");
    text.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn vectors(path: Option<PathBuf>) -> Vec<Vec<f32>> {
    let Some(path) = path else { return Vec::new() };
    let bytes = std::fs::read(path).expect("a file of vectors");
    let numbers: Vec<f32> = bytes.chunks_exact(4).map(|it| f32::from_le_bytes([it[0], it[1], it[2], it[3]])).collect();
    numbers.chunks_exact(DIMENSION).map(<[f32]>::to_vec).collect()
}

/// `2023-05-08T13:56:00` as milliseconds since 1970.
fn time_ms(stamp: &str) -> i64 {
    let n = |from: usize, to: usize| stamp[from..to].parse::<i64>().expect("a number");
    let (y, m, d) = (n(0, 4), n(5, 7), n(8, 10));
    let shifted = if m <= 2 { y - 1 } else { y };
    let era = shifted.div_euclid(400);
    let of_era = shifted - era * 400;
    let of_year = (153 * ((m + 9) % 12) + 2) / 5 + d - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    ((days * 24 + n(11, 13)) * 60 + n(14, 16)) * 60_000
}

/// A question as its file has it, and its vector.
type Asked = (Value, Option<Vec<f32>>);

fn main() {
    let mut args = std::env::args().skip(1).map(PathBuf::from);
    let folder = args.next().expect("FOLDER [VECTORS]");
    let vector_folder = args.next();
    let vector_file = |name: &str| vector_folder.as_ref().map(|it| it.join(format!("{name}.f32")));
    let workspace = WorkspaceId([7; 16]);
    let mut questions: BTreeMap<String, Vec<Asked>> = BTreeMap::new();
    let mut question_vectors = vectors(vector_file("questions")).into_iter();
    for question in lines(&folder.join("questions.jsonl")) {
        let workspace = question["workspace"].as_str().expect("a workspace").to_owned();
        questions.entry(workspace).or_default().push((question, question_vectors.next()));
    }
    for (name, questions) in questions {
        let mut index = Index::new();
        if vector_folder.is_some() {
            index.use_model(MODEL, DIMENSION);
        }
        let mut ids: BTreeMap<MessageKey, String> = BTreeMap::new();
        let messages = lines(&folder.join(format!("{name}.messages.jsonl")));
        let mut message_vectors = vectors(vector_file(&name)).into_iter();
        for message in &messages {
            let text = |field: &str| message[field].as_str().expect("a text").to_owned();
            let message = Message {
                id: text("id"),
                conversation: name.clone(),
                session: Some(text("session")),
                speaker: text("speaker"),
                text: text("text"),
                time_ms: time_ms(&text("timestamp")),
                offset_min: 0,
            };
            let key = message.key(&workspace);
            ids.insert(key, message.id.clone());
            for row in ForwardRow::of(Source::Message(key), &message, &message.text) {
                index.append(row);
            }
            if let Some(vector) = message_vectors.next() {
                index.put_vector(MODEL, &Source::Message(key), &Vec8::of(&vector)).expect("a vector");
            }
        }
        index.seal(true);
        for (question, vector) in questions {
            let text = question["question"].as_str().expect("a question");
            #[expect(clippy::disallowed_methods, reason = "measures itself")]
            let start = Instant::now();
            let query = Query { text, vector: vector.as_deref(), as_of_ms: None, limit: 50 };
            let found = search(&mut index, &query, None);
            let ms = start.elapsed().as_secs_f64() * 1e3;
            let retrieved: Vec<Value> = found
                .hits
                .iter()
                .filter_map(|hit| ids.get(&hit.source.message()))
                .map(|id| json!({ "id": id }))
                .collect();
            println!("{}", json!({ "qid": question["qid"], "ms": ms, "retrieved": retrieved }));
        }
    }
}
