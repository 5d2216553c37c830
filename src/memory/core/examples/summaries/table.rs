//! Summaries and facts of chats with planted facts, by the rules that a compaction uses, and how many of them are right.

use std::collections::BTreeSet;
use std::fmt;

use memory_core::compaction::{Draft, Settings, Trigger, Waiting, due};
use memory_core::facts::{Found, Predicate};
use memory_core::ids::WorkspaceId;
use memory_core::item::Message;
use memory_core::relation::{Shown, superseded};
use serde_json::{Value, json};

const WORKSPACE: WorkspaceId = WorkspaceId([7; 16]);

/// Counts over some chats.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    /// Planted facts.
    pub(crate) planted: usize,
    /// Those whose object stands in a line.
    pub(crate) covered: usize,
    /// Those whose subject stands in that line too.
    pub(crate) associated: usize,
    /// Lines.
    pub(crate) lines: usize,
    /// Lines with a name or number that the chat does not have.
    pub(crate) invented: usize,
    /// Lines that cite a message of the chat, and are a part of it.
    pub(crate) cited: usize,
    /// Planted facts that a stored fact has, with its subject and object.
    pub(crate) right: usize,
    /// Values that were replaced in the chat.
    pub(crate) old: usize,
    /// Those that stand as a fact of now, or in a line.
    pub(crate) stale: usize,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { planted, covered, associated, lines, invented, cited, right, old, stale } = self;
        write!(
            f,
            "{covered}/{planted} covered, {associated} with their subject; {lines} lines, {invented} invented, \
             {cited} cited; facts right {right}/{planted}; of {old} old values {stale} stand"
        )
    }
}

/// A chat after its compaction.
pub(crate) struct Compacted {
    /// Its counts.
    pub(crate) table: Table,
    /// Its lines, as `score.py` of the data set reads them.
    pub(crate) lines: Vec<Value>,
    /// Its facts, likewise.
    pub(crate) facts: Vec<Value>,
    /// Planted facts that are in no line, or right in no fact.
    pub(crate) missed: Vec<String>,
}

/// Compacts one chat as one batch.
pub(crate) fn compact(chat: &Value) -> Compacted {
    let field = |message: &Value, name: &str| message[name].as_str().expect("a text").to_owned();
    let messages: Vec<Message> = (0_i64..)
        .zip(chat["messages"].as_array().expect("messages"))
        .map(|(n, message)| Message {
            id: field(message, "id"),
            conversation: field(chat, "name"),
            session: None,
            speaker: field(message, "speaker"),
            text: field(message, "text"),
            time_ms: n * 60_000,
            offset_min: 0,
        })
        .collect();
    let waiting: Vec<Waiting> = messages
        .iter()
        .map(|message| Waiting { time_ms: message.time_ms, key: message.key(&WORKSPACE), rev: message.rev() })
        .collect();
    let settings = Settings { batch: messages.len(), ..Settings::default() };
    let capture = due(&WORKSPACE, &settings, Trigger::Asked { keep: 0 }, &waiting).expect("messages");
    let of_key = |key| messages.iter().find(|message| message.key(&WORKSPACE) == key).expect("a message of the chat");
    let texts: Vec<_> = capture.covers.iter().map(|(key, rev)| (*key, *rev, of_key(*key).clone())).collect();
    let draft = Draft::by_rules(&capture, &settings, &texts);

    let lines: Vec<(String, &Message)> = draft
        .summary
        .lines
        .iter()
        .map(|line| {
            let message = of_key(line.key);
            (line.span.of(&message.text).expect("a part of its message").to_owned(), message)
        })
        .collect();
    let shown: Vec<Shown<'_>> = draft
        .facts
        .iter()
        .map(|fact| {
            let predicate = Predicate::of(fact.predicate).expect("one of this version");
            let fact_of = Found { subject: fact.subject, predicate, object: fact.object };
            Shown { fact: fact_of, message: of_key(fact.key), corrected: false }
        })
        .collect();
    let replaced = superseded(&shown);
    let current: Vec<&Shown<'_>> =
        shown.iter().zip(&replaced).filter(|(_, by)| by.is_none()).map(|(shown, _)| shown).collect();
    let mut compacted = Compacted {
        table: count(chat, &messages, &lines),
        lines: lines
            .iter()
            .map(|(text, of)| json!({ "text": format!("{}: {text}", of.speaker), "source_ids": [of.id] }))
            .collect(),
        facts: shown
            .iter()
            .map(|it| {
                json!({
                    "subject": it.fact.subject(it.message), "predicate": it.fact.predicate.shown(),
                    "object": it.fact.object.of(&it.message.text), "source_ids": [it.message.id],
                })
            })
            .collect(),
        missed: Vec::new(),
    };
    judge_facts(chat, &current, &lines, &mut compacted);
    compacted
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(|it| it.as_str().expect("a text").to_lowercase()).collect()
}

fn is_loose(subjects: &[String]) -> bool {
    subjects.iter().any(|it| matches!(it.as_str(), "we" | "i" | "wir" | "ich"))
}

fn count(chat: &Value, messages: &[Message], lines: &[(String, &Message)]) -> Table {
    let all = messages.iter().map(|it| format!("{}: {}", it.speaker, it.text)).collect::<Vec<_>>().join(" ");
    let said = all.to_lowercase();
    let mut table = Table { lines: lines.len(), ..Table::default() };
    for (text, of) in lines {
        let strange = |word: &str| {
            let tells = word.starts_with(char::is_uppercase) || word.contains(char::is_numeric);
            tells && !said.contains(&word.to_lowercase())
        };
        table.invented += usize::from(text.split(|c: char| !c.is_alphanumeric()).any(strange));
        table.cited += usize::from(of.text.contains(text.as_str()));
    }
    for fact in chat["facts"].as_array().expect("facts") {
        let object = fact["object"].as_str().expect("an object").to_lowercase();
        let subjects = texts(&fact["subject"]);
        let shown = |(text, of): &(String, &Message)| format!("{}: {text}", of.speaker).to_lowercase();
        let hits: Vec<String> = lines.iter().map(shown).filter(|line| line.contains(&object)).collect();
        table.planted += 1;
        table.covered += usize::from(!hits.is_empty());
        let has_subject = |line: &String| is_loose(&subjects) || subjects.iter().any(|it| line.contains(it));
        table.associated += usize::from(hits.iter().any(has_subject));
    }
    table
}

fn judge_facts(chat: &Value, current: &[&Shown<'_>], lines: &[(String, &Message)], compacted: &mut Compacted) {
    let object_of = |it: &Shown<'_>| it.fact.object.of(&it.message.text).unwrap_or_default().to_lowercase();
    let subject_of = |it: &Shown<'_>| it.fact.subject(it.message).unwrap_or_default().to_lowercase();
    for fact in chat["facts"].as_array().expect("facts") {
        let object = fact["object"].as_str().expect("an object").to_lowercase();
        let mut subjects = texts(&fact["subject"]);
        subjects.push(fact["said_by"].as_str().expect("a speaker").to_lowercase());
        let fits = |it: &&&Shown<'_>| {
            object_of(it).contains(&object)
                && (is_loose(&subjects) || subjects.iter().any(|subject| subject_of(it).contains(subject)))
        };
        let right = current.iter().any(|it| fits(&it));
        compacted.table.right += usize::from(right);
        let covered = lines.iter().any(|(text, _)| text.to_lowercase().contains(&object));
        if !right || !covered {
            compacted.missed.push(format!("{object}: {}", if covered { "in no right fact" } else { "in no line" }));
        }
    }
    for value in texts(&chat["old"]) {
        compacted.table.old += 1;
        let in_fact = current.iter().filter(|it| it.fact.predicate != Predicate::Said);
        let is_denial = |it: &&&&Shown<'_>| it.fact.predicate.denies().is_none();
        let in_fact = in_fact.filter(|it| is_denial(&it)).any(|it| object_of(it).contains(&value));
        let messages: BTreeSet<&str> = lines
            .iter()
            .filter(|(text, _)| text.to_lowercase().contains(&value))
            .map(|(_, of)| of.id.as_str())
            .collect();
        // A line that also says what replaced it is no old one.
        let excused = texts(&chat["told_together"]);
        let in_line = messages.iter().any(|id| !excused.contains(&id.to_lowercase()));
        if in_fact || in_line {
            compacted.table.stale += 1;
            compacted.missed.push(format!("{value}: still stands"));
        }
    }
}

impl std::ops::AddAssign for Table {
    fn add_assign(&mut self, other: Self) {
        self.planted += other.planted;
        self.covered += other.covered;
        self.associated += other.associated;
        self.lines += other.lines;
        self.invented += other.invented;
        self.cited += other.cited;
        self.right += other.right;
        self.old += other.old;
        self.stale += other.stale;
    }
}
