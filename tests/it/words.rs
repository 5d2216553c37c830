//! Models that write for memory, through the doors of a real agent: by one that says its prompt's own words (compiled into test
//! builds), by models that fail in every way, and by the real one where its weights are.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use memory_models::catalogue::{Entry, MODELS};
use serde_json::{Value, json};

use crate::harness::{Home, PATIENCE, text, wait_until};

const BASE: &str = "workspaces/home/memory";
/// Time for words: beside other tests a process starts slowly.
const WRITTEN_WITHIN: Duration = Duration::from_mins(2);

fn writer() -> &'static Entry {
    MODELS.iter().find(|entry| entry.writes()).expect("a model that writes")
}

/// Files that are the model's by name and size.
fn hollow(home: &Home, entry: &Entry) -> PathBuf {
    let dir = home.path("models").join(entry.name);
    fs::create_dir_all(&dir).expect("a directory");
    for file in entry.files() {
        fs::File::create(dir.join(file.name)).and_then(|made| made.set_len(file.bytes)).expect("a file");
    }
    dir
}

fn home_with(kind: &str, settings: &str) -> Home {
    let mut home = Home::new("hub").with_config(&format!("[memory]\nbatch = 5\nwindow = 100\n{settings}"));
    home.set_env("SIGIL_TEST_WRITER", kind);
    let log = home.path("told");
    home.set_env("SIGIL_TEST_WRITER_LOG", log.to_str().expect("UTF-8"));
    hollow(&home, writer());
    home
}

fn scripted(kind: &str) -> Home {
    home_with(kind, "summarizer = \"model\"\n").started()
}

const TALK: [&str; 5] = [
    "Ben is allergic to peanuts",
    "the code of the freezer is 4711 since May",
    "we decided that Friday is the day for the fence, for 300 euros",
    "pasta again tonight",
    "the next appointment is on Monday at 8:30",
];

#[track_caller]
fn append(home: &Home, texts: &[&str]) -> Vec<String> {
    let message = |(n, text): (usize, &&str)| json!({ "text": text, "speaker": "Ann", "timestamp": format!("2026-11-01T10:{n:02}:00Z") });
    let messages: Vec<Value> = texts.iter().enumerate().map(message).collect();
    let taken = home.post(&format!("{BASE}/messages:batch"), &json!({ "messages": messages })).expect(200);
    taken["items"].as_array().expect("items").iter().map(|item| text(item, "id").to_owned()).collect()
}

#[track_caller]
fn compact(home: &Home) {
    let report = home.post(&format!("{BASE}:compact"), &json!({ "all": true })).expect(200);
    assert!(report["summaries_created"].as_u64() > Some(0), "{report}");
}

#[track_caller]
fn writing(home: &Home) -> Value {
    home.get(&format!("{BASE}/writing")).expect(200)
}

#[track_caller]
fn summaries(home: &Home) -> Vec<Value> {
    home.get(&format!("{BASE}/summaries")).expect(200)["items"].as_array().expect("items").clone()
}

/// The heads that are shown.
#[track_caller]
fn heads(home: &Home) -> Vec<String> {
    summaries(home).iter().filter(|it| it["head"].is_object()).map(|it| text(&it["head"], "text").to_owned()).collect()
}

#[track_caller]
fn facts_of_models(home: &Home) -> Vec<Value> {
    let facts = home.get(&format!("{BASE}/facts")).expect(200)["items"].as_array().expect("items").clone();
    facts.into_iter().filter(|fact| fact["by"] == "model").collect()
}

/// How often the model was told something.
fn told(home: &Home) -> usize {
    fs::read_to_string(home.path("told")).map_or(0, |text| text.lines().count())
}

#[track_caller]
fn wait_written(home: &Home) {
    wait_until("the model has nothing left to write", WRITTEN_WITHIN, || {
        let now = writing(home);
        now["state"] == "idle" && told(home) > 0
    });
}

#[test]
fn a_summary_stands_at_once_and_gets_a_head_and_facts_by_a_model() {
    let mut home = scripted("words");
    let ids = append(&home, &TALK);
    compact(&home);
    assert!(summaries(&home)[0]["lines"].as_array().is_some_and(|lines| !lines.is_empty()));
    wait_written(&home);
    let shown = summaries(&home);
    let head = &shown[0]["head"];
    assert_eq!((text(head, "model"), heads(&home).len()), (writer().name, 1));
    assert!(TALK.contains(&text(head, "text")) && !head["sources"].as_array().expect("sources").is_empty(), "{head}");
    let facts = facts_of_models(&home);
    assert!(!facts.is_empty() && facts.iter().all(|fact| TALK.iter().any(|said| said.contains(text(fact, "object")))));
    let now = writing(&home);
    assert_eq!((now["heads"].as_u64(), text(&now, "when"), told(&home)), (Some(1), "model", 2));
    let listed = home.cli(&["memory", "show", "--summaries"]);
    assert!(listed.stdout.contains("a model)"), "{}", listed.stdout);
    assert!(home.cli(&["doctor", "--json"]).stdout.contains("writes heads for summaries"));
    // It is asked once, also after a restart.
    home.kill9();
    home.start();
    wait_written(&home);
    assert_eq!((heads(&home).len(), told(&home)), (1, 2));
    // With any message that it rests on goes the head, and another is written of what is left.
    let source = shown[0]["head"]["sources"][0].as_str().expect("an id").to_owned();
    assert!(ids.contains(&source));
    home.post(&format!("{BASE}:forget"), &json!({ "ids": [source] })).expect(200);
    wait_until("another head", WRITTEN_WITHIN, || told(&home) == 4 && writing(&home)["state"] == "idle");
    let left = summaries(&home);
    assert!(left[0]["head"]["sources"].as_array().expect("sources").iter().all(|id| id != source.as_str()), "{left:?}");
}

#[test]
fn whatever_a_model_says_nothing_of_it_stands_that_nobody_said() {
    for kind in ["lie", "nan", "empty", "numbers", "facts"] {
        let home = scripted(kind);
        append(&home, &TALK);
        compact(&home);
        wait_written(&home);
        let all = format!("{:?} {:?}", summaries(&home), facts_of_models(&home));
        assert!(!all.contains("Xaver") && !all.contains("owes") && !all.contains("NaN"), "{kind}: {all}");
        assert!(facts_of_models(&home).len() <= 8 * TALK.len(), "{kind}");
        assert_eq!((heads(&home).len(), told(&home)), (0, 2), "{kind}");
        let now = writing(&home);
        if kind == "lie" {
            assert_eq!((now["heads_refused"].as_u64(), now["facts_refused"].as_u64()), (Some(1), Some(2)), "{now}");
        }
    }
}

#[test]
fn a_model_that_fails_is_told_and_the_summary_stands() {
    for kind in ["cut", "long", "foreign", "garbage", "abort", "panic"] {
        let home = scripted(kind);
        append(&home, &TALK);
        compact(&home);
        wait_until("the job says what went wrong", WRITTEN_WITHIN, || writing(&home)["why"].is_string());
        assert!(heads(&home).is_empty() && facts_of_models(&home).is_empty(), "{kind}");
        assert!(!summaries(&home)[0]["lines"].as_array().expect("lines").is_empty(), "{kind}");
        let log = home.log();
        assert!(log.contains("the model failed") && !log.contains("freezer"), "{kind}: {log}");
    }
}

#[test]
fn a_summary_with_which_a_model_dies_does_not_hold_up_the_others_and_is_left_in_the_end() {
    let home = scripted("abort/poison");
    append(&home, &["the poison is in box 17", "box 18 is green", "box 19 is blue", "box 20 is red", "box 21 is grey"]);
    compact(&home);
    append(&home, &["the door is at 9"]);
    compact(&home);
    wait_until("the other has its head", WRITTEN_WITHIN, || heads(&home) == ["the door is at 9"]);
    wait_until("it is left", WRITTEN_WITHIN, || writing(&home)["state"] == "idle");
    assert_eq!(heads(&home), ["the door is at 9"]);
    assert_eq!(summaries(&home).len(), 2);
}

#[test]
fn killed_at_each_point_every_summary_gets_one_head() {
    for point in ["memory_told", "memory_written"] {
        let mut home = home_with("words", "summarizer = \"model\"\n");
        home.set_env("SIGIL_FAULT", &format!("{point}:die"));
        home.start();
        append(&home, &TALK);
        compact(&home);
        assert!(!home.reap().success(), "it dies at the point");
        home.set_env("SIGIL_FAULT", "");
        home.start();
        wait_until("a head", WRITTEN_WITHIN, || heads(&home).len() == 1 && writing(&home)["state"] == "idle");
        assert_eq!(told(&home), 2, "{point}");
        let mut seen: Vec<String> = facts_of_models(&home).iter().map(ToString::to_string).collect();
        let all = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!((seen.len(), all > 0), (all, true), "{point}: no fact twice");
    }
}

#[test]
fn forgotten_while_a_model_writes_it_never_comes_back() {
    let home = scripted("hang");
    let ids = append(&home, &TALK);
    compact(&home);
    wait_until("it is told", WRITTEN_WITHIN, || told(&home) == 1);
    home.post(&format!("{BASE}:forget"), &json!({ "ids": ids })).expect(200);
    assert!(summaries(&home).is_empty() && heads(&home).is_empty());
    // A query does not wait for it either.
    let answer = home.post(&format!("{BASE}:query"), &json!({ "queries": ["freezer"] })).expect(200);
    assert!(answer["answers"][0]["retrieved"].as_array().expect("hits").is_empty());
}

#[test]
fn by_rules_no_model_is_asked_and_without_one_it_is_said() {
    let home = home_with("words", "summarizer = \"rules\"\n").started();
    append(&home, &TALK);
    compact(&home);
    let now = writing(&home);
    assert_eq!((text(&now, "when"), text(&now, "process"), told(&home)), ("rules", "asleep", 0));
    let home = Home::new("hub").started();
    append(&home, &TALK);
    compact(&home);
    let now = writing(&home);
    assert_eq!((text(&now, "when"), text(&now, "state"), &now["model"]), ("auto", "no_model", &Value::Null));
    assert!(heads(&home).is_empty());
    assert!(!home.cli(&["doctor", "--json"]).stdout.contains("writes heads"));
}

#[test]
fn a_head_is_found_by_meaning_and_gone_with_its_source() {
    let mut home = home_with("words", "summarizer = \"model\"\n");
    home.set_env("SIGIL_TEST_MODEL", "words");
    hollow(&home, &MODELS[0]);
    home.start();
    append(&home, &TALK);
    compact(&home);
    wait_written(&home);
    let head = heads(&home).pop().expect("a head");
    let embedding = || home.get(&format!("{BASE}/embedding")).expect(200);
    wait_until("heads and facts have their vectors", WRITTEN_WITHIN, || {
        let now = embedding();
        now["state"] == "idle" && now["messages"] == json!(TALK.len()) && now["lines_and_facts"].as_u64() > Some(0)
    });
    wait_until("its words lead to what it rests on", PATIENCE, || {
        let body = json!({ "queries": [head], "mode": "semantic" });
        let answer = home.post(&format!("{BASE}:query"), &body).expect(200)["answers"][0].clone();
        answer["degraded"] == json!([]) && answer["retrieved"][0]["text"].as_str().is_some_and(|it| head.contains(it))
    });
}

#[cfg(feature = "models")]
/// The real model: that it loads, writes within its budget, and that what stands of it passes the check.
#[test]
fn the_real_model_writes() {
    let name = "the_real_model_writes";
    let entry = writer();
    let weights = std::env::var_os("SIGIL_TEST_MODELS").map(|dir| PathBuf::from(dir).join(entry.name));
    let Some(weights) = weights.filter(|dir| entry.files().iter().all(|file| dir.join(file.name).is_file())) else {
        return crate::harness::skip(name, "the weights of a model that writes are not there (SIGIL_TEST_MODELS)");
    };
    let home = Home::new("hub").with_config("[memory]\nbatch = 5\nwindow = 100\nsummarizer = \"model\"\n");
    let dir = home.path("models").join(entry.name);
    fs::create_dir_all(&dir).expect("a directory");
    for file in entry.files() {
        std::os::unix::fs::symlink(weights.join(file.name), dir.join(file.name)).expect("a link");
    }
    let home = home.started();
    append(&home, &TALK);
    compact(&home);
    wait_until("it has written", Duration::from_mins(5), || {
        let now = writing(&home);
        assert_eq!(now["why"], Value::Null, "{now}");
        let done =
            ["heads", "heads_refused", "facts", "facts_refused"].iter().filter_map(|it| now[*it].as_u64()).sum::<u64>();
        now["state"] == "idle" && done > 0
    });
    let now = writing(&home);
    println!("{now}\nheads: {:?}\nfacts: {:?}", heads(&home), facts_of_models(&home));
    assert!(now["heads"].as_u64() <= Some(1));
}
