//! Compacts batches of chats by rules and prints summaries and facts as their scorer reads them.
//!
//! `summaries BATCHES.json SUMMARIES.json FACTS.json`: reads the first, writes the others.

use memory_core::facts::extract;
use memory_core::item::Message;
use memory_core::select::select;
use serde_json::{Value, json};

fn main() {
    let mut args = std::env::args().skip(1);
    let mut path = || args.next().expect("BATCHES.json SUMMARIES.json FACTS.json");
    let (read, summaries_path, facts_path) = (path(), path(), path());
    let text = std::fs::read_to_string(read).expect("a file of batches");
    let batches: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let (mut summaries, mut facts) = (Vec::new(), Vec::new());
    for batch in &batches {
        let field = |message: &Value, name: &str| message[name].as_str().expect("a text").to_owned();
        let messages: Vec<Message> = (0_i64..)
            .zip(batch["messages"].as_array().expect("messages"))
            .map(|(n, message)| Message {
                id: field(message, "id"),
                conversation: field(batch, "name"),
                session: None,
                speaker: field(message, "speaker"),
                text: field(message, "text"),
                time_ms: n * 60_000,
                offset_min: 0,
            })
            .collect();
        let (mut lines, mut found) = (Vec::new(), Vec::new());
        for (selected, message) in select(&messages).iter().filter_map(|it| Some((it, messages.get(it.at)?))) {
            let shown = selected.span.of(&message.text).expect("a span of the text");
            lines.push(json!({ "text": format!("{}: {shown}", message.speaker), "source_ids": [message.id] }));
            for fact in extract(message) {
                found.push(json!({
                    "subject": fact.subject(message), "predicate": fact.predicate.shown(),
                    "object": fact.object.of(&message.text), "source_ids": [message.id],
                }));
            }
        }
        summaries.push(json!({ "name": batch["name"], "lines": lines }));
        facts.push(json!({ "name": batch["name"], "facts": found }));
    }
    std::fs::write(summaries_path, json!(summaries).to_string()).expect("written");
    std::fs::write(facts_path, json!(facts).to_string()).expect("written");
}
