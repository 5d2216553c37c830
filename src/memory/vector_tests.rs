//! Vectors of a workspace, by a model that knows words.

use std::path::Path;

use memory_core::compaction::{Settings, Trigger};
use memory_core::ids::{ModelId, WorkspaceId};
use tempfile::TempDir;

use super::*;
use crate::mesh::identity::DeviceKey;

const WS: WorkspaceId = WorkspaceId([7; 16]);
const MODEL: ModelId = ModelId([1; 16]);
const WIDE: usize = 64;

fn open(dir: &Path) -> Workspace {
    let key = DeviceKey::load_or_create(dir).unwrap();
    let settings = Settings { batch: 4, window: 2, facts: true };
    Workspace::open(&dir.join("memory"), WS, key, settings).unwrap()
}

fn put(workspace: &mut Workspace, id: &str, text: &str) -> Appended {
    let message = NewMessage {
        id: Some(id.to_owned()),
        conversation: "talk".to_owned(),
        session: None,
        speaker: "Ann".to_owned(),
        text: text.to_owned(),
        time: Some((id.bytes().map(i64::from).sum::<i64>() * 60_000, 0)),
    };
    workspace.append(vec![message], false).unwrap().remove(0)
}

/// Near to each other are texts with the same words; "basement" is a cellar.
fn vector(text: &str) -> Vec<f32> {
    let mut sum = vec![0.01_f32; WIDE];
    for word in text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty()) {
        let word = word.to_lowercase().replace("basement", "cellar");
        let mut state = word.bytes().fold(7_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        for number in &mut sum {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *number += if state >> 63 == 1 { 1.0 } else { -1.0 };
        }
    }
    let length = sum.iter().map(|x| x * x).sum::<f32>().sqrt();
    sum.iter().map(|x| x / length).collect()
}

fn said(texts: Vec<Unembedded>) -> Vec<(Unembedded, Vec<f32>)> {
    let vectors: Vec<Vec<f32>> = texts.iter().map(|text| vector(&text.text)).collect();
    texts.into_iter().zip(vectors).collect()
}

/// As the job does it; gives the texts in their order.
fn embed_all(workspace: &mut Workspace) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let texts = workspace.vectors().unembedded(MODEL, WIDE, 3).unwrap();
        if texts.is_empty() {
            return seen;
        }
        seen.extend(texts.iter().map(|text| text.text.clone()));
        let count = texts.len();
        assert_eq!(workspace.vectors().put(MODEL, &said(texts)).unwrap(), count);
    }
}

fn by_meaning(workspace: &mut Workspace, text: &str, mode: Mode) -> (Vec<String>, bool) {
    let question = Question {
        text: text.to_owned(),
        mode,
        limit: 3,
        tokens_max: 2_000,
        as_of_ms: None,
        vector: Some((MODEL, vector(text))),
    };
    let answer = workspace.ask(&question).unwrap();
    assert!(answer.hits.iter().all(|hit| hit.parts.sum() == hit.score));
    (answer.hits.into_iter().map(|hit| hit.said.external_id).collect(), answer.by_meaning)
}

#[test]
fn what_means_the_same_is_found_after_a_restart_and_words_count_until_then() {
    let home = TempDir::new().unwrap();
    let mut workspace = open(home.path());
    put(&mut workspace, "a", "the freezer stands in the cellar");
    put(&mut workspace, "b", "pasta again tonight");
    put(&mut workspace, "c", "Oskar has football on Friday");
    let (_, counted) = by_meaning(&mut workspace, "basement", Mode::Auto);
    assert!(!counted, "nothing has a vector yet");
    assert_eq!(workspace.vectors().progress().messages, 0);
    assert_eq!(embed_all(&mut workspace).len(), 3);
    let (found, counted) = by_meaning(&mut workspace, "basement", Mode::Semantic);
    assert_eq!((found.first().map(String::as_str), counted), (Some("a"), true));
    // Beside words and neighbours it is one reason of many.
    assert!(by_meaning(&mut workspace, "basement", Mode::Auto).1);
    assert!(!by_meaning(&mut workspace, "basement", Mode::Text).1);
    drop(workspace);
    let mut again = open(home.path());
    assert_eq!(again.vectors().progress(), Progress { model: Some(MODEL), messages: 3, notes: 0, unembeddable: 0 });
    assert!(embed_all(&mut again).is_empty(), "nothing is embedded twice");
    assert_eq!(by_meaning(&mut again, "basement", Mode::Semantic).0[0], "a");
    // While few have one, the words count; those that have are found when they are asked for by meaning.
    for id in ["d", "e", "f"] {
        put(&mut again, id, &format!("note {id} of the day"));
    }
    assert!(!by_meaning(&mut again, "basement", Mode::Auto).1);
    assert!(by_meaning(&mut again, "basement", Mode::Semantic).1);
}

#[test]
fn what_is_forgotten_or_corrected_while_a_model_has_it_gets_no_vector() {
    let home = TempDir::new().unwrap();
    let mut workspace = open(home.path());
    let secret = put(&mut workspace, "a", "the canary sings in the cellar").key;
    let wrong = put(&mut workspace, "b", "the code is 4471").key;
    put(&mut workspace, "c", "pasta again tonight");
    let in_flight = said(workspace.vectors().unembedded(MODEL, WIDE, 9).unwrap());
    assert_eq!(in_flight.len(), 3);
    workspace.forget(&Selection::Keys(vec![secret])).unwrap();
    workspace.correct(&wrong, "the code is 9090".to_owned()).unwrap();
    assert_eq!(workspace.vectors().put(MODEL, &in_flight).unwrap(), 1);
    assert_eq!(workspace.vectors().progress().messages, 1);
    // A second time as well, and after a restart: the old answer of a job that was slow.
    drop(workspace);
    let mut again = open(home.path());
    assert_eq!(again.vectors().put(MODEL, &in_flight).unwrap(), 1);
    assert_eq!(embed_all(&mut again), ["the code is 9090"]);
    assert_eq!(by_meaning(&mut again, "canary", Mode::Semantic).0.iter().filter(|id| *id == "a").count(), 0);
    again.vacuum().unwrap();
    assert_eq!(super::tests::files_with(&home.path().join("memory"), "canary"), 0);
}

#[test]
fn the_vectors_of_what_is_forgotten_go_with_it() {
    let home = TempDir::new().unwrap();
    let mut workspace = open(home.path());
    for (id, text) in [
        (
            "a",
            "The spare key of the cellar is with Mrs. Okafor, and then we talked about the weather for a very long time",
        ),
        ("b", "Ben is allergic to peanuts"),
        ("c", "pasta again tonight"),
        ("d", "the domain expires on 4 June"),
    ] {
        put(&mut workspace, id, text);
    }
    let key = workspace.reader().by_external_id("a").unwrap()[0].key;
    embed_all(&mut workspace);
    let report = workspace.compact(Trigger::Asked { keep: 0 }).unwrap();
    assert!(report.facts_extracted > 0);
    let notes = embed_all(&mut workspace);
    assert!(notes.iter().any(|text| text.contains("Okafor")), "{notes:?}");
    let before = workspace.vectors().progress();
    assert_eq!((before.messages, before.notes), (4, notes.len()));
    drop(workspace);
    let mut again = open(home.path());
    assert_eq!(again.vectors().progress(), before);
    again.forget(&Selection::Keys(vec![key])).unwrap();
    let after = again.vectors().progress();
    assert!(after.messages == 3 && after.notes < before.notes);
    assert!(again.store.vectors(key.0[0]).unwrap().iter().all(|(row, _)| !row.starts_with(&keys::vector_prefix(&key))));
    assert!(!by_meaning(&mut again, "The spare key is with Mrs. Okafor", Mode::Semantic).0.contains(&"a".to_owned()));
    drop(again);
    assert_eq!(open(home.path()).vectors().progress(), after);
}

#[test]
fn a_fact_leads_to_a_long_message_that_says_it_in_the_middle_of_much_else() {
    let home = TempDir::new().unwrap();
    let mut workspace = open(home.path());
    let chatter = "We walked along the river and counted boats and dogs and then bought bread. ".repeat(6);
    put(&mut workspace, "a", &format!("{chatter} Ben is allergic to peanuts. {chatter}"));
    put(&mut workspace, "b", "who is that, allergic or not, to what?");
    embed_all(&mut workspace);
    workspace.compact(Trigger::Asked { keep: 0 }).unwrap();
    let notes = embed_all(&mut workspace);
    assert!(notes.iter().any(|text| text == "Ben is allergic to peanuts"), "{notes:?}");
    let question = Question {
        text: "Ben is allergic to peanuts".to_owned(),
        mode: Mode::Semantic,
        limit: 3,
        tokens_max: 2_000,
        as_of_ms: None,
        vector: Some((MODEL, vector("Ben is allergic to peanuts"))),
    };
    let answer = workspace.ask(&question).unwrap();
    let hit = &answer.hits[0];
    assert!(hit.said.external_id == "a" && hit.score > 9_900, "{}", hit.score);
    assert!(hit.said.text.contains("peanuts"), "the piece that says it is shown: {}", hit.said.text);
}

#[test]
fn a_model_that_is_another_replaces_all_vectors() {
    let home = TempDir::new().unwrap();
    let mut workspace = open(home.path());
    put(&mut workspace, "a", "the freezer stands in the cellar");
    let late = said(workspace.vectors().unembedded(MODEL, WIDE, 9).unwrap());
    embed_all(&mut workspace);
    let other = ModelId([2; 16]);
    assert_eq!(workspace.vectors().unembedded(other, WIDE, 9).unwrap().len(), 1);
    assert_eq!(workspace.vectors().put(MODEL, &late).unwrap(), 0, "those of the one before are not taken");
    assert_eq!(workspace.vectors().progress().messages, 0);
    // What is no vector is not taken either.
    let text = workspace.vectors().unembedded(other, WIDE, 9).unwrap().remove(0);
    for bad in [vec![f32::NAN; WIDE], vec![0.5; WIDE], vec![1.0]] {
        assert_eq!(workspace.vectors().put(other, &[(text.clone(), bad)]).unwrap(), 0);
    }
    workspace.vectors().pass_over(&text);
    assert!(workspace.vectors().unembedded(other, WIDE, 9).unwrap().is_empty());
    assert_eq!(workspace.vectors().progress().unembeddable, 1);
    assert!(
        !by_meaning(&mut workspace, "cellar", Mode::Semantic).1,
        "a question's vector of another model does not count"
    );
}
