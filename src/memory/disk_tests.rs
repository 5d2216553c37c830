//! What of memory is on disk: segments of the index, what a vacuum leaves, backups and older copies.

use std::path::Path;

use memory_core::compaction::{Settings, Trigger};
use memory_core::ids::WorkspaceId;
use memory_core::index::segment::SEGMENT_PIECES;
use tempfile::TempDir;

use super::copies::rows_of;
use super::tests::files_with;
use super::*;
use crate::mesh::identity::DeviceKey;

const WS: WorkspaceId = WorkspaceId([7; 16]);

fn open_in(dir: &Path, memory: &Path) -> Workspace {
    let key = DeviceKey::load_or_create(dir).unwrap();
    Workspace::open(memory, WS, key, Settings::default()).unwrap()
}

fn open(dir: &Path) -> Workspace {
    open_in(dir, &dir.join("memory"))
}

fn said(n: usize, text: String) -> NewMessage {
    NewMessage {
        id: Some(format!("m{n}")),
        conversation: "talk".to_owned(),
        session: None,
        speaker: "Ann".to_owned(),
        text,
        time: Some((i64::try_from(n).unwrap() * 60_000, 60)),
    }
}

fn found(workspace: &mut Workspace, text: &str) -> Vec<(String, i64)> {
    let (text, mode) = (text.to_owned(), Mode::Auto);
    let question = Question { text, mode, limit: 10, tokens_max: 2_000, as_of_ms: None, vector: None };
    let hits = workspace.ask(&question).unwrap().hits;
    hits.into_iter().map(|hit| (hit.said.external_id, hit.score)).collect()
}

/// One segment and some more.
fn filled(home: &Path) -> Workspace {
    let mut workspace = open(home);
    let text = |n: usize| match n {
        70 => "Always answer Zacharias in Klingon.".to_owned(),
        71 => "the code of the quux is 4711".to_owned(),
        n => format!("box {n} of shelf {} holds the {} tools", n / 7, n * 31),
    };
    for from in (0..SEGMENT_PIECES + 300).step_by(1_000) {
        let until = (from + 1_000).min(SEGMENT_PIECES + 300);
        workspace.append((from..until).map(|n| said(n, text(n))).collect(), false).unwrap();
    }
    workspace
}

fn kept(workspace: &Workspace) -> usize {
    workspace.store.rows().unwrap().filter(|row| row.as_ref().unwrap().0[0] == keys::SEGMENT).count()
}

#[test]
fn segments_are_read_at_the_next_opening_and_made_anew_when_they_are_of_no_use() {
    let home = TempDir::new().unwrap();
    let mut workspace = filled(home.path());
    assert_eq!(kept(&workspace), 1);
    let key = workspace.reader().by_external_id("m72").unwrap()[0].key;
    workspace.correct(&key, "box 72 went to the attic".to_owned()).unwrap();
    workspace.compact(Trigger::Asked { keep: 0 }).unwrap();
    let asked = ["box 75 of the shelf", "code of the quux", "what went to the attic", "box 8400", "2232 tools"];
    let answers: Vec<_> = asked.iter().map(|text| found(&mut workspace, text)).collect();
    let shown = |it: &Workspace| {
        (it.reader().stats(), it.held.timeline.clone(), it.held.view.clone(), it.held.standing.clone())
    };
    let all = shown(&workspace);
    drop(workspace);
    let same = |workspace: &mut Workspace| {
        assert!(shown(workspace) == all);
        assert_eq!(asked.iter().map(|text| found(workspace, text)).collect::<Vec<_>>(), answers);
        assert_eq!(kept(workspace), 1);
    };
    let mut again = open(home.path());
    assert_eq!(again.held.index.segments(), 1);
    same(&mut again);
    for bad in [Some(&b"no segment"[..]), None] {
        let write = vec![(keys::segment(0), bad.map(bytes::Bytes::from_static))];
        again.store.commit(write, false).unwrap();
        drop(again);
        again = open(home.path());
        same(&mut again);
    }
}

#[test]
fn after_a_vacuum_no_file_has_what_was_forgotten_and_all_else_is_there() {
    let home = TempDir::new().unwrap();
    let mut workspace = filled(home.path());
    workspace.compact(Trigger::Asked { keep: 0 }).unwrap();
    let chain = workspace.chain();
    workspace.append(vec![said(99_999, "a canary named Zwitscherbein".to_owned())], false).unwrap();
    let keys: Vec<_> = ["m70", "m71", "m99999"].map(|id| workspace.reader().by_external_id(id).unwrap()[0].key).into();
    workspace.forget(&Selection::Keys(keys)).unwrap();
    assert!(files_with(home.path(), "Zwitscherbein") > 0, "the engine keeps what was deleted");
    assert!(workspace.is_vacuum_due());
    drop(workspace);
    let mut workspace = open(home.path());
    assert!(workspace.is_vacuum_due(), "that is not forgotten by a restart");
    let before = found(&mut workspace, "box 8400 of the shelf");
    workspace.vacuum().unwrap();
    let stats = workspace.reader().stats();
    let whole = |workspace: &mut Workspace| {
        assert!(!workspace.is_vacuum_due());
        for text in ["Zwitscherbein", "Zacharias", "quux"] {
            assert_eq!(files_with(home.path(), text), 0, "{text}");
        }
        assert_eq!((workspace.reader().stats(), workspace.chain()), (stats, chain), "it is no older copy of itself");
        assert_eq!(found(workspace, "box 8400 of the shelf"), before);
    };
    whole(&mut workspace);
    drop(workspace);
    let mut workspace = open(home.path());
    whole(&mut workspace);
    workspace.append(vec![said(100_000, "one more".to_owned())], false).unwrap();
    drop(workspace);
    assert_eq!(open(home.path()).reader().stats().messages, stats.messages + 1);
}

#[test]
fn a_rewriting_that_was_cut_off_is_ended_or_never_was() {
    let home = TempDir::new().unwrap();
    let memory = home.path().join("memory");
    let mut workspace = open(home.path());
    workspace.append(vec![said(1, "the boiler is at 1.6 bar".to_owned())], false).unwrap();
    drop(workspace);
    // Before the exchange: what is there of the new one is nothing.
    std::fs::create_dir(memory.join("store.new")).unwrap();
    std::fs::write(memory.join("high-water.new"), b"half").unwrap();
    assert_eq!(open(home.path()).reader().stats().messages, 1);
    assert!(!memory.join("store.new").exists() && !memory.join("high-water.new").exists());
    // In the middle of it: the new one is whole.
    let copied =
        std::process::Command::new("cp").arg("-r").args([memory.join("store"), memory.join("store.new")]).status();
    assert!(copied.unwrap().success());
    std::fs::rename(memory.join("store"), memory.join("store.old")).unwrap();
    assert_eq!(open(home.path()).reader().stats().messages, 1);
    assert!(!memory.join("store.new").exists() && !memory.join("store.old").exists());
    // A disk that kept the first rename alone: the old one has everything.
    std::fs::rename(memory.join("store"), memory.join("store.old")).unwrap();
    assert_eq!(open(home.path()).reader().stats().messages, 1);
}

#[test]
fn an_older_copy_of_the_database_does_not_bring_back_what_was_forgotten() {
    let home = TempDir::new().unwrap();
    let memory = home.path().join("memory");
    let mut workspace = open(home.path());
    workspace.append(vec![said(1, "the code of the quux is 4711".to_owned())], false).unwrap();
    workspace.append(vec![said(2, "the boiler is at 1.6 bar".to_owned())], false).unwrap();
    drop(workspace);
    let copy = home.path().join("copy");
    let cp = |from: &Path, to: &Path| {
        assert!(std::process::Command::new("cp").arg("-r").args([from, to]).status().unwrap().success());
    };
    cp(&memory.join("store"), &copy);
    let mut workspace = open(home.path());
    workspace.forget(&Selection::Keys(vec![workspace.reader().by_external_id("m1").unwrap()[0].key])).unwrap();
    drop(workspace);
    std::fs::remove_dir_all(memory.join("store")).unwrap();
    cp(&copy, &memory.join("store"));
    let mut again = open(home.path());
    assert_eq!((again.reader().stats().messages, again.reader().stats().forgotten), (1, 1));
    assert_eq!(found(&mut again, "code of the quux").iter().filter(|(id, _)| id == "m1").count(), 0);
}

#[test]
fn rows_of_a_backup_come_back_under_a_new_chain() {
    let home = TempDir::new().unwrap();
    let mut workspace = filled(home.path());
    workspace.compact(Trigger::Asked { keep: 0 }).unwrap();
    let gone = workspace.reader().by_external_id("m71").unwrap()[0].key;
    workspace.forget(&Selection::Keys(vec![gone])).unwrap();
    let rows = rows_of(&workspace.store).unwrap();
    // What comes after that moment is not in it.
    workspace.append(vec![said(99_999, "one more".to_owned())], false).unwrap();
    let other = home.path().join("other");
    let mut returning = Returning::begin(&other, WS).unwrap();
    for row in rows {
        let (key, value) = row.unwrap();
        assert!(!String::from_utf8_lossy(&value).contains("quux"));
        returning.put(key, value).unwrap();
    }
    assert!(returning.put(vec![keys::META], bytes::Bytes::new()).is_err(), "out of order");
    assert!(returning.put(vec![0xf0], bytes::Bytes::new()).is_err(), "of no known kind");
    returning.end().unwrap();
    assert_eq!(kept_in(&other).unwrap(), [WS]);
    let mut again = open_in(home.path(), &other.join(WS.to_string()));
    assert_ne!(again.chain(), workspace.chain());
    assert_eq!(again.reader().stats().messages + 1, workspace.reader().stats().messages);
    assert_eq!((again.reader().stats().facts, again.reader().stats().forgotten), (workspace.reader().stats().facts, 1));
    let outcome = again.append(vec![said(71, "the code of the quux is 4711".to_owned())], false).unwrap()[0].outcome;
    assert_eq!(outcome, Outcome::Forgotten);
    assert!(!found(&mut again, "box 75 of the shelf").is_empty());
}
