//! Compacts chats with planted facts by rules and prints how many are covered, invented, cited and right.
//!
//! `summaries CHATS.json [SUMMARIES.json FACTS.json]`: reads the first, and writes the others as the scorer of such a data
//! set reads them.

mod table;

use serde_json::{Value, json};
use table::{Table, compact};

fn main() {
    let mut args = std::env::args().skip(1);
    let read = args.next().expect("CHATS.json [SUMMARIES.json FACTS.json]");
    let chats: Vec<Value> =
        serde_json::from_str(&std::fs::read_to_string(read).expect("a file of chats")).expect("JSON");
    let (mut summaries, mut facts, mut sum) = (Vec::new(), Vec::new(), Table::default());
    for chat in &chats {
        let compacted = compact(chat);
        let name = chat["name"].as_str().expect("a name");
        println!("{name}: {}", compacted.table);
        for missed in &compacted.missed {
            println!("  {missed}");
        }
        sum += compacted.table;
        summaries.push(json!({ "name": name, "lines": compacted.lines }));
        facts.push(json!({ "name": name, "facts": compacted.facts }));
    }
    println!("all: {sum}");
    if let (Some(summaries_path), Some(facts_path)) = (args.next(), args.next()) {
        std::fs::write(summaries_path, json!(summaries).to_string()).expect("written");
        std::fs::write(facts_path, json!(facts).to_string()).expect("written");
    }
}
