//! Memory by meaning, through the doors of a real agent: by a model that knows words (compiled into test builds), by models
//! that fail in every way, and by the real one where its weights are.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use memory_models::catalogue::MODELS;
use serde_json::{Value, json};

use crate::harness::{Home, PATIENCE, SOON, now, text, wait_until};

const BASE: &str = "workspaces/home/memory";
/// Time for vectors: the job waits for silence first, and the real model computes beside other tests.
const EMBEDDED_WITHIN: Duration = Duration::from_mins(2);

/// Files that are the model's by name and size.
fn hollow(home: &Home) -> PathBuf {
    let dir = home.path("models").join(MODELS[0].name);
    fs::create_dir_all(&dir).expect("a directory");
    for file in MODELS[0].files() {
        fs::File::create(dir.join(file.name)).and_then(|made| made.set_len(file.bytes)).expect("a file");
    }
    dir
}

fn scripted(kind: &str) -> Home {
    let mut home = Home::new("hub").with_config("[memory]\nbatch = 5\nwindow = 100\n");
    home.set_env("SIGIL_TEST_MODEL", kind);
    hollow(&home);
    home.started()
}

#[track_caller]
fn append(home: &Home, texts: &[&str]) -> Vec<String> {
    let message = |(n, text): (usize, &&str)| json!({ "text": text, "speaker": "Ann", "timestamp": format!("2026-11-01T10:{n:02}:00Z") });
    let messages: Vec<Value> = texts.iter().enumerate().map(message).collect();
    let taken = home.post(&format!("{BASE}/messages:batch"), &json!({ "messages": messages })).expect(200);
    taken["items"].as_array().expect("items").iter().map(|item| text(item, "id").to_owned()).collect()
}

#[track_caller]
fn embedding(home: &Home) -> Value {
    home.get(&format!("{BASE}/embedding")).expect(200)
}

#[track_caller]
fn wait_embedded(home: &Home, messages: u64) {
    wait_until("every message has its vector", EMBEDDED_WITHIN, || {
        let now = embedding(home);
        now["state"] == "idle" && now["messages"] == json!(messages)
    });
}

/// The texts that are found, and what did not take part.
#[track_caller]
fn ask(home: &Home, question: &str, mode: &str) -> (Vec<String>, Value) {
    let body = json!({ "queries": [question], "mode": mode });
    let answer = home.post(&format!("{BASE}:query"), &body).expect(200)["answers"][0].clone();
    let hits = answer["retrieved"].as_array().expect("hits").iter().map(|hit| text(hit, "text").to_owned());
    (hits.collect(), answer["degraded"].clone())
}

/// The texts that are found once the question has its vector in time: beside other tests the model may be late.
#[track_caller]
fn by_meaning(home: &Home, question: &str, mode: &str) -> Vec<String> {
    let mut found = Vec::new();
    wait_until("the meaning counts", PATIENCE, || {
        let (texts, degraded) = ask(home, question, mode);
        found = texts;
        degraded == json!([])
    });
    found
}

const TALK: [&str; 6] = [
    "the freezer stands in the cellar",
    "pasta again tonight",
    "Oskar has football on Friday",
    "Ben is allergic to peanuts",
    "the physician comes at eight",
    "somebody left the gate open",
];

fn hosts_of(home: &Home) -> usize {
    let dir = home.path("models").join(MODELS[0].name);
    let needle = dir.to_str().expect("UTF-8").as_bytes();
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    processes
        .filter(|entry| {
            fs::read(entry.path().join("cmdline"))
                .is_ok_and(|line| line.windows(needle.len()).any(|part| part == needle))
        })
        .count()
}

#[test]
fn what_was_said_is_found_by_meaning_and_what_is_forgotten_never_again() {
    let mut home = scripted("words");
    let ids = append(&home, &TALK);
    wait_embedded(&home, 6);
    assert_eq!(hosts_of(&home), 1, "one process runs the model");
    for mode in ["semantic", "auto"] {
        assert_eq!(by_meaning(&home, "basement", mode)[0], TALK[0], "{mode}");
    }
    assert_eq!(ask(&home, "basement", "text").1, json!(["vectors"]));
    home.post(&format!("{BASE}:compact"), &json!({ "all": true })).expect(200);
    wait_until("facts have their vectors", EMBEDDED_WITHIN, || embedding(&home)["lines_and_facts"].as_u64() > Some(0));
    let stats = home.get(&format!("{BASE}/stats")).expect(200);
    assert_eq!((text(&stats, "model"), stats["embedded"].as_u64()), (MODELS[0].name, Some(6)));
    // Killed hard, the process of the model goes too, and nothing is made twice afterwards.
    home.kill9();
    wait_until("no process is left", PATIENCE, || hosts_of(&home) == 0);
    home.start();
    wait_embedded(&home, 6);
    assert_eq!(embedding(&home)["made"], 0);
    assert_eq!(by_meaning(&home, "basement", "semantic")[0], TALK[0]);
    home.post(&format!("{BASE}:forget"), &json!({ "ids": [ids[0]] })).expect(200);
    append(&home, &["a vacation in spring"]);
    wait_embedded(&home, 6);
    assert!(!by_meaning(&home, "basement", "semantic").contains(&TALK[0].to_owned()));
    home.kill9();
    home.start();
    wait_embedded(&home, 6);
    assert!(!by_meaning(&home, "basement", "semantic").contains(&TALK[0].to_owned()));
    assert_eq!(by_meaning(&home, "holiday", "semantic")[0], "a vacation in spring");
}

#[test]
fn killed_when_vectors_are_durable_none_is_lost_and_none_is_made_twice() {
    let mut home = Home::new("hub").with_config("[memory]\nbatch = 5\nwindow = 100\n");
    home.set_env("SIGIL_TEST_MODEL", "words");
    home.set_env("SIGIL_FAULT", "memory_embedded:die");
    hollow(&home);
    home.start();
    append(&home, &TALK);
    assert!(!home.reap().success(), "it dies at the point");
    home.set_env("SIGIL_FAULT", "");
    home.start();
    wait_embedded(&home, 6);
    assert_eq!(embedding(&home)["made"], 0);
    assert_eq!(by_meaning(&home, "basement", "semantic")[0], TALK[0]);
}

#[test]
fn a_model_that_fails_is_told_and_stops_nothing() {
    for kind in ["nan", "short", "foreign", "garbage", "abort", "panic"] {
        let home = scripted(kind);
        append(&home, &TALK);
        wait_until("the job says what went wrong", EMBEDDED_WITHIN, || embedding(&home)["why"].is_string());
        let (found, degraded) = ask(&home, "freezer", "auto");
        assert_eq!((found[0].as_str(), degraded), (TALK[0], json!(["vectors"])), "{kind}");
        assert_eq!(embedding(&home)["messages"], 0, "{kind}");
        // What its process said last is told, without the texts that it was given.
        let said = match kind {
            "abort" => "(signal 6); it said: memory allocation of 4711 bytes failed",
            "panic" => "it said: panicked at ",
            _ => "the model does not work",
        };
        for command in [&["doctor", "--json"][..], &["status"]] {
            // While it is tried again nothing is wrong.
            wait_until("it is told", PATIENCE, || {
                let told = home.cli(command).stdout;
                assert!(!told.contains("freezer"), "{kind}: {told}");
                told.contains("the model does not work") && told.contains(said)
            });
        }
        let log = home.log();
        assert!(log.contains("the model failed") && !log.contains("freezer"), "{kind}: {log}");
        let compacted = home.post(&format!("{BASE}:compact"), &json!({})).expect(200);
        assert_eq!(compacted["summaries_created"], 1, "{kind}");
    }
}

#[test]
fn a_question_does_not_wait_for_a_model_that_hangs() {
    let home = scripted("hang");
    append(&home, &TALK);
    wait_until("it has begun", EMBEDDED_WITHIN, || embedding(&home)["process"] != "asleep");
    let began = now();
    let (found, degraded) = ask(&home, "freezer", "auto");
    assert_eq!((found[0].as_str(), degraded), (TALK[0], json!(["vectors"])));
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

#[test]
fn one_text_with_which_a_model_dies_does_not_hold_up_the_others() {
    let home = scripted("abort/poison");
    append(&home, &[TALK[0], "this one is poison", TALK[2]]);
    wait_until("the others have their vectors", EMBEDDED_WITHIN, || {
        let now = embedding(&home);
        now["unembeddable"] == 1 && now["messages"] == 2
    });
    assert!(ask(&home, "poison", "text").0.contains(&"this one is poison".to_owned()), "it is found by words");
}

#[test]
fn models_are_shown_with_licence_and_size_and_nothing_comes_without_a_yes() {
    let home = Home::new("hub");
    let listed = home.cli(&["model", "list", "--json"]).json(0);
    let model = &listed["items"][0];
    assert_eq!(
        (text(model, "name"), text(model, "licence"), text(model, "state")),
        (MODELS[0].name, "Apache-2.0", "absent")
    );
    let pull = home.cli(&["model", "pull"]);
    assert!(pull.code == 2 && pull.stderr.contains("Apache-2.0") && pull.stderr.contains("MB"), "{pull:?}");
    assert!(!home.path("models").exists(), "nothing was begun");
    let unreachable = home.cli(&["model", "pull", "--yes", "--from", "http://127.0.0.1:1/"]);
    assert!(unreachable.code == 1 && unreachable.stderr.contains("next: "), "{unreachable:?}");
    let other = home.path("other");
    fs::write(&other, b"no weights").expect("written");
    let other = other.to_str().expect("UTF-8");
    assert_eq!(home.cli(&["model", "add", other]).code, 2);
    assert_eq!(home.cli(&["model", "add", other, "--sha256", MODELS[0].files()[1].sha256]).code, 1);
    assert_eq!(home.cli(&["model", "add", "http://127.0.0.1:1/x"]).code, 2, "a URL needs a hash");
    assert_eq!(home.cli(&["model", "verify"]).code, 3);
    hollow(&home);
    let verified = home.cli(&["model", "verify"]);
    assert!(verified.code == 1 && verified.stderr.contains("was expected"), "{verified:?}");
    assert_eq!(home.cli(&["model", "remove", MODELS[0].name]).code, 0);
    assert_eq!(home.cli(&["model", "remove", MODELS[0].name]).code, 3);
}

#[test]
fn a_model_that_is_removed_while_it_is_used_leaves_words_and_comes_back() {
    let home = scripted("words");
    append(&home, &TALK);
    wait_embedded(&home, 6);
    let listed = || home.get("models").expect(200)["items"][0].clone();
    let model = listed();
    assert_eq!((text(&model, "state"), model["in_use"].as_bool()), ("whole", Some(true)));
    assert_eq!(text(&model, "licence"), "Apache-2.0");
    let name = text(&model, "name").to_owned();
    let verified = home.post(&format!("models/{name}/verify"), &json!({})).expect(200);
    assert!(verified["sound"] == false && text(&verified, "why").contains("was expected"), "{verified}");
    assert_eq!(home.delete(&format!("models/{name}")).status, 204);
    assert_eq!(home.delete(&format!("models/{name}")).status, 404);
    assert_eq!(home.post(&format!("models/{name}/verify"), &json!({})).status, 404);
    assert_eq!(home.delete("models/no-such-model").status, 404);
    assert_eq!((text(&listed(), "state"), listed()["in_use"].as_bool()), ("absent", Some(false)));
    // It goes on by words, and takes what is new.
    let (found, degraded) = ask(&home, "freezer", "auto");
    assert_eq!((found[0].as_str(), degraded), (TALK[0], json!(["vectors"])));
    append(&home, &["the vacation begins in June"]);
    wait_until("there is no model", PATIENCE, || embedding(&home)["state"] == "no_model");
    // Once it is here again, what it made before counts, and what is lacking is made.
    hollow(&home);
    wait_embedded(&home, 7);
    assert_eq!(embedding(&home)["made"], 7);
    assert_eq!(by_meaning(&home, "holiday", "semantic")[0], "the vacation begins in June");
}

/// With `--features sigil/models`.
#[cfg(feature = "models")]
mod real {
    use super::*;
    use crate::harness::skip;
    use std::path::Path;

    #[test]
    fn with_the_real_weights_the_same_in_other_words_is_found() {
        let name = "with_the_real_weights_the_same_in_other_words_is_found";
        let weights = std::env::var_os("SIGIL_TEST_MODELS").map(|dir| Path::new(&dir).join(MODELS[0].name));
        let Some(weights) = weights.filter(|dir| MODELS[0].files().iter().all(|file| dir.join(file.name).is_file()))
        else {
            return skip(name, "the weights are not there (SIGIL_TEST_MODELS)");
        };
        let home = Home::new("hub");
        for file in MODELS[0].files() {
            let added = home.cli(&["model", "add", weights.join(file.name).to_str().expect("UTF-8")]);
            assert_eq!(added.code, 0, "{added:?}");
        }
        assert_eq!(home.cli(&["model", "verify"]).code, 0);
        let home = home.started();
        append(
            &home,
            &[
                "the freezer in the cellar makes a noise again",
                "we booked a cottage by the lake for July",
                "Ben must not eat nuts, he gets a rash",
                "the plumber wants 900 for the new boiler",
                "Oskar has football on Friday",
            ],
        );
        wait_embedded(&home, 5);
        for (question, word) in [
            ("which food is dangerous for someone", "nuts"),
            ("summer holiday plans", "cottage"),
            ("broken kitchen appliance downstairs", "freezer"),
            ("children and sports", "football"),
        ] {
            let found = by_meaning(&home, question, "semantic");
            assert!(found[0].contains(word), "{question}: {found:?}");
        }
    }
}
