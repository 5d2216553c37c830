//! Models fetched through the REST API of a real agent, from a server of our own: nothing without a yes to licence and size, what
//! broke off is taken up, another file is not used, and a fetch ends when its model is removed.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use memory_models::catalogue::MODELS;
use serde_json::{Value, json};

use crate::harness::{Home, skip, text, wait_until};

/// Time for 91 MB through loopback and their hash, beside other tests.
const FETCHED_WITHIN: Duration = Duration::from_mins(2);

/// What the server does with a request: so many bytes of the answer, then the connection ends, or stands still.
#[derive(Debug, Clone, Copy)]
enum Answer {
    Whole,
    Cut(u64),
    Still(u64),
}

/// A server of files; without a directory they are zeros. What it was asked, each with the first byte.
#[derive(Clone)]
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<(String, u64)>>>,
}

impl Server {
    fn start(dir: Option<PathBuf>, answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/files", listener.local_addr().expect("an address"));
        let server = Self { url, asked: Arc::default() };
        let noted = server.asked.clone();
        std::thread::spawn(move || {
            let mut answers = answers.into_iter();
            // The test ends with its process; until then some connections stand still.
            let mut still = Vec::new();
            for stream in listener.incoming().flatten() {
                let answer = answers.next().unwrap_or(Answer::Whole);
                still.extend(serve(stream, dir.as_ref(), answer, &noted));
            }
        });
        server
    }

    fn asked(&self) -> Vec<(String, u64)> {
        self.asked.lock().expect("no panic").clone()
    }
}

/// Answers one request; gives a connection back that is to stay open.
fn serve(
    mut stream: TcpStream,
    dir: Option<&PathBuf>,
    answer: Answer,
    noted: &Mutex<Vec<(String, u64)>>,
) -> Option<TcpStream> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    let head: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let from = |line: &String| line.to_lowercase().strip_prefix("range: bytes=")?.strip_suffix('-')?.parse().ok();
    let from: u64 = head.iter().find_map(from).unwrap_or(0);
    let name = path.rsplit('/').next()?.to_owned();
    let file = MODELS.iter().flat_map(memory_models::catalogue::Entry::files).find(|file| file.name == name)?;
    noted.lock().expect("no panic").push((name, from));
    let status = match from {
        0 => "200 OK".to_owned(),
        _ => format!("206 Partial Content\r\ncontent-range: bytes {from}-{}/{}", file.bytes - 1, file.bytes),
    };
    let rest = file.bytes - from;
    let told = format!("HTTP/1.1 {status}\r\ncontent-length: {rest}\r\nconnection: close\r\n\r\n");
    stream.write_all(told.as_bytes()).ok()?;
    let (most, stays) = match answer {
        Answer::Whole => (rest, false),
        Answer::Cut(bytes) => (bytes, false),
        Answer::Still(bytes) => (bytes, true),
    };
    let mut body: Box<dyn std::io::Read> = match dir {
        Some(dir) => {
            let mut file = File::open(dir.join(file.name)).ok()?;
            std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(from)).ok()?;
            Box::new(file.take(most))
        }
        None => Box::new(std::io::repeat(0).take(most)),
    };
    std::io::copy(&mut body, &mut stream).ok()?;
    stays.then_some(stream)
}

fn home_of(server: &Server) -> Home {
    let mut home = Home::new("hub");
    home.set_env("SIGIL_TEST_MODEL_SOURCE", &server.url);
    home.started()
}

#[track_caller]
fn model(home: &Home) -> Value {
    home.get("models").expect(200)["items"][0].clone()
}

/// The yes that the list asks for.
fn yes(home: &Home) -> Value {
    let model = model(home);
    json!({ "licence": model["licence"], "bytes": model["bytes"] })
}

#[track_caller]
fn pull(home: &Home) {
    let begun = home.post(&format!("models/{}/pull", MODELS[0].name), &yes(home)).expect(202);
    assert_eq!(text(&begun, "name"), MODELS[0].name);
}

#[track_caller]
fn wait_failed(home: &Home, why: &str) -> Value {
    wait_until("it is told why it failed", FETCHED_WITHIN, || {
        let pull = model(home)["pull"].clone();
        pull["state"] == "failed" && text(&pull, "why").contains(why)
    });
    model(home)
}

#[test]
fn nothing_is_fetched_without_a_yes_to_licence_and_size() {
    let server = Server::start(None, Vec::new());
    let home = home_of(&server);
    let path = format!("models/{}/pull", MODELS[0].name);
    for yes in
        [json!({ "licence": "MIT", "bytes": MODELS[0].bytes() }), json!({ "licence": MODELS[0].licence, "bytes": 1 })]
    {
        let refused = home.post(&path, &yes).expect(409);
        assert!(text(&refused, "detail").contains("Apache-2.0"), "{refused}");
    }
    assert!(home.post(&path, &json!({})).status >= 400);
    assert_eq!(home.post("models/no-such-model/pull", &yes(&home)).status, 404);
    assert_eq!((server.asked(), home.path("models").join(MODELS[0].name).exists()), (Vec::new(), false));
}

#[test]
fn what_broke_off_is_taken_up_and_another_file_is_not_kept() {
    let server = Server::start(None, vec![Answer::Cut(1_000_000), Answer::Whole]);
    let home = home_of(&server);
    pull(&home);
    let cut = wait_failed(&home, "broke off");
    assert!(text(&cut["pull"], "next").contains("goes on where it broke off"), "{cut}");
    assert_eq!((text(&cut, "state"), cut["bytes_here"].as_u64()), ("partial", Some(1_000_000)));
    pull(&home);
    let other = wait_failed(&home, "was expected");
    assert_eq!((text(&other, "state"), other["in_use"].as_bool()), ("absent", Some(false)));
    let name = MODELS[0].files()[0].name.to_owned();
    assert_eq!(server.asked(), [(name.clone(), 0), (name, 1_000_000)]);
}

#[test]
fn a_fetch_ends_when_its_model_is_removed_and_begins_anew() {
    let server = Server::start(None, vec![Answer::Still(70_000), Answer::Still(90_000)]);
    let home = home_of(&server);
    for bytes in [70_000, 90_000] {
        pull(&home);
        // A second yes while it comes changes nothing.
        pull(&home);
        wait_until("some of it is here", FETCHED_WITHIN, || {
            let pull = model(&home)["pull"].clone();
            pull["state"] == "running" && pull["bytes"] == json!(bytes)
        });
        assert_eq!(home.delete(&format!("models/{}", MODELS[0].name)).status, 204);
        let gone = model(&home);
        assert_eq!((text(&gone, "state"), &gone["pull"]), ("absent", &Value::Null));
    }
    assert_eq!(server.asked().len(), 2);
}

#[test]
fn a_model_comes_by_rest_and_is_used() {
    let name = "a_model_comes_by_rest_and_is_used";
    let weights = std::env::var_os("SIGIL_TEST_MODELS").map(|dir| PathBuf::from(dir).join(MODELS[0].name));
    let Some(weights) = weights.filter(|dir| MODELS[0].files().iter().all(|file| dir.join(file.name).is_file())) else {
        return skip(name, "the weights are not there (SIGIL_TEST_MODELS)");
    };
    let server = Server::start(Some(weights), vec![Answer::Cut(5_000_000)]);
    let home = home_of(&server);
    pull(&home);
    wait_failed(&home, "broke off");
    pull(&home);
    wait_until("it is whole", FETCHED_WITHIN, || {
        let model = model(&home);
        text(&model, "state") == "whole" && model["pull"] == Value::Null
    });
    let model = model(&home);
    assert_eq!(model["in_use"].as_bool(), Some(true), "{model}");
    let verified = home.post(&format!("models/{}/verify", MODELS[0].name), &json!({})).expect(200);
    assert_eq!(verified["sound"], true, "{verified}");
    // It is here: nobody is asked.
    let asked = server.asked().len();
    pull(&home);
    assert_eq!((asked, server.asked().len()), (3, 3));
}
