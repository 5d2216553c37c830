//! Compaction by rules on chats with planted facts: what must be covered, cited and right.

#[path = "../examples/summaries/table.rs"]
mod table;

use serde_json::Value;
use table::{Table, compact};

fn sum(chats: &str) -> Table {
    let chats: Vec<Value> = serde_json::from_str(chats).expect("a file of chats");
    let mut sum = Table::default();
    for chat in &chats {
        let compacted = compact(chat);
        println!("{}: {}", chat["name"], compacted.table);
        println!("{:#?} {:#?} {:#?}", compacted.missed, compacted.facts, compacted.lines);
        sum += compacted.table;
    }
    println!("all: {sum}");
    sum
}

/// 90 of 100 planted facts covered and 75 right, nothing invented, every line cited.
#[track_caller]
fn assert_stands(table: &Table) {
    assert!(table.covered * 100 >= table.planted * 90, "{table}");
    assert!(table.right * 100 >= table.planted * 75, "{table}");
    assert_eq!((table.invented, table.cited), (0, table.lines), "{table}");
}

#[test]
fn chats_with_small_talk_keep_their_facts() {
    let table = sum(include_str!("fixtures/batches.json"));
    assert_eq!(table.planted, 45);
    assert_stands(&table);
}

#[test]
fn of_what_is_put_right_changed_or_denied_the_newest_stands() {
    let table = sum(include_str!("fixtures/chats.json"));
    assert_stands(&table);
    assert!(table.old >= 9 && table.stale == 0, "{table}");
}
