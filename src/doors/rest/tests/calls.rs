//! Calls through the doors.

use super::*;

#[tokio::test]
async fn a_call_is_accepted_and_read_back() {
    let fake = Fake::start().await;
    let body = r#"{"node":"desk","tool":"echo","arguments":{"b" : 1.10,"a":"ü"},"ttl_s":90,"effect":"once"}"#;
    let answer = fake.post("/api/v1/calls", body).await;
    let call = answer.ok(202);
    let id = call["id"].as_str().unwrap();
    assert_eq!(answer.header("location"), format!("/api/v1/calls/{id}"));
    assert_eq!(answer.header("preference-applied"), "");
    let call = fake.get(&format!("/api/v1/calls/{id}")).await;
    assert!(String::from_utf8_lossy(&call.body).contains(r#""output":{"b" : 1.10,"a":"ü"}"#), "byte for byte");
    let call = call.ok(200);
    assert_eq!(call["state"], "done");
    assert_eq!(call["ttl_s"], 90);
    assert!(String::from_utf8_lossy(&fake.get(&format!("/api/v1/calls/{id}")).await.body).contains("\"ttl_s\":90,"));
    assert_eq!(call["effect"], "once");
    assert_eq!(call["output_encoding"], "json");
    assert_eq!(call["created_at"], time(ACCEPTED_MS + 1));
    assert_eq!(call["expires_at"], time(ACCEPTED_MS + 90_001));
    assert_eq!(call["history"][1]["state"], "done");
    assert_eq!(call["history"][0]["node"], "desk");
    assert_eq!(call.get("alias_of"), None);
    fake.get("/api/v1/calls/zzz").await.problem(422, "invalid");
    fake.get(&format!("/api/v1/calls/{}", "0".repeat(26))).await.problem(404, "unknown_call");
}

#[tokio::test]
async fn prefer_wait_answers_with_the_ending_or_in_time_without() {
    let fake = Fake::start().await;
    let body = r#"{"tool":"node:desk:slow"}"#;
    let late = fake.ask_with(Method::POST, "/api/v1/calls", &[("prefer", "wait=0")], Some(body)).await;
    assert_eq!(late.ok(202)["state"], "queued");
    assert_eq!(late.header("preference-applied"), "wait=0");

    let mut events = fake.events("?topics=call", None).await;
    let (answer, ()) =
        tokio::join!(fake.ask_with(Method::POST, "/api/v1/calls", &[("prefer", "wait=30")], Some(body)), async {
            let (_, _, data) = events.next().await.unwrap();
            let output = Payload::Inline(Bytes::from_static(b"plain text"));
            fake.end(data["id"].as_str().unwrap().parse().unwrap(), Ending::Done, output);
        });
    let call = answer.ok(200);
    assert_eq!((&call["state"], &call["output"]), (&json!("done"), &json!("plain text")));
    assert_eq!(call["output_encoding"], "text");
    assert_eq!(answer.header("preference-applied"), "wait=30");
}

#[tokio::test]
async fn an_idempotency_key_finds_its_call() {
    let fake = Fake::start().await;
    let headers = [("idempotency-key", "k1")];
    let first =
        fake.ask_with(Method::POST, "/api/v1/calls", &headers, Some(r#"{"tool":"node:desk:slow"}"#)).await.ok(202);
    let again =
        fake.ask_with(Method::POST, "/api/v1/calls", &headers, Some(r#"{"tool":"node:desk:slow"}"#)).await.ok(202);
    assert_eq!(first["id"], again["id"]);
    let other = r#"{"tool":"node:desk:slow","arguments":[1]}"#;
    let conflict = fake.ask_with(Method::POST, "/api/v1/calls", &headers, Some(other)).await.problem(409, "key_reused");
    assert_eq!(conflict["call"], first["id"]);
    fake.end(first["id"].as_str().unwrap().parse().unwrap(), Ending::Done, Payload::empty());
    fake.ask_with(Method::POST, "/api/v1/calls", &headers, Some(r#"{"tool":"node:desk:slow"}"#)).await.ok(200);
    let long = "k".repeat(256);
    let headers = [("idempotency-key", long.as_str())];
    fake.ask_with(Method::POST, "/api/v1/calls", &headers, Some(other)).await.problem(422, "invalid");
}

#[tokio::test]
async fn bad_calls_are_refused_with_the_reason() {
    let fake = Fake::start().await;
    let refused =
        async |body: &str, status: u16, code: &str| fake.post("/api/v1/calls", body).await.problem(status, code);
    refused("{", 400, "bad_request").await;
    refused("", 400, "bad_request").await;
    for none in ["[]", "null", r#"["desk","echo"]"#, "\"desk\"", "1"] {
        let hint = refused(none, 422, "invalid").await["hint"].as_str().map(str::to_owned);
        assert!(hint.is_some_and(|hint| hint.contains("/openapi.json")), "{none}");
    }
    refused(r#"{"tool":"echo"}"#, 422, "invalid").await;
    refused(r#"{"node":"desk","tool":"echo","args":{}}"#, 422, "invalid").await;
    refused(r#"{"node":"desk","tool":"echo","ttl_s":0.5}"#, 422, "invalid").await;
    refused(r#"{"node":"desk","tool":"echo","ttl_s":604801}"#, 422, "invalid").await;
    let zero = refused(r#"{"node":"desk","tool":"echo","timeout_s":0}"#, 422, "invalid").await;
    assert!(zero["hint"].as_str().unwrap().contains("default"));
    refused(r#"{"node":"nas","tool":"node:desk:echo"}"#, 422, "invalid").await;
    refused(r#"{"node":"desk","tool":"node:desk:echo"}"#, 422, "invalid").await;
    refused(r#"{"node":"desk","tool":"echo","ttl_s":0.9999999}"#, 422, "invalid").await;
    refused(r#"{"node":"desk","tool":"echo","tool":"echo"}"#, 422, "invalid").await;
    refused(r#"{"node":"ABCDEFG","tool":"echo"}"#, 404, "unknown_node").await;
    refused(r#"{"node":"attic","tool":"echo"}"#, 404, "unknown_node").await;
    refused(r#"{"node":"desk","tool":"nope"}"#, 404, "unknown_tool").await;
    for bad in ["a:b", "a/b", "", "\\u0000", "é"] {
        refused(&format!(r#"{{"node":"desk","tool":"{bad}"}}"#), 422, "invalid").await;
        refused(&format!(r#"{{"node":"{bad}","tool":"echo"}}"#), 422, "invalid").await;
    }
    refused(&format!(r#"{{"node":"{}","tool":"echo"}}"#, "n".repeat(300)), 422, "invalid").await;
    let full = refused(r#"{"node":"tv","tool":"echo"}"#, 429, "queue_full").await;
    assert_eq!(full["retry_after_s"], 2.5);
    let full = fake.post("/api/v1/calls", r#"{"node":"tv","tool":"echo"}"#).await;
    assert_eq!(full.header("retry-after"), "3");

    let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let call = |arguments: &str| format!(r#"{{"node":"desk","tool":"echo","arguments":{arguments}}}"#);
    fake.post("/api/v1/calls", &call(&nested(64))).await.ok(202);
    refused(&call(&nested(65)), 422, "invalid").await;
    refused(&call(&nested(10_000)), 422, "invalid").await;
    let text = |len: usize| format!("\"{}\"", "a".repeat(len - 2));
    fake.post("/api/v1/calls", &call(&text(1024 * 1024))).await.ok(202);
    refused(&call(&text(1024 * 1024 + 1)), 413, "too_large").await;
    refused(&call(&text(2 * 1024 * 1024)), 413, "too_large").await;
    let headers = [("content-type", "text/plain")];
    fake.ask_with(Method::POST, "/api/v1/calls", &headers, Some(&call("1"))).await.problem(415, "unsupported_media");
    let headers = [("accept", "image/png")];
    fake.ask_with(Method::POST, "/api/v1/calls", &headers, Some(&call("1"))).await.problem(406, "not_acceptable");
}

#[tokio::test]
async fn calls_are_listed_by_pages() {
    let fake = Fake::start().await;
    for n in 0..7 {
        let tool = if n % 2 == 0 { "echo" } else { "slow" };
        fake.post("/api/v1/calls", &json!({ "node": "desk", "tool": tool }).to_string()).await.ok(202);
    }
    fake.post("/api/v1/calls", r#"{"node":"nas","tool":"files.read"}"#).await.ok(202);
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = fake.get(&format!("/api/v1/calls?limit=3{cursor}")).await.ok(200);
        seen.extend(page["items"].as_array().unwrap().iter().map(|call| call["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen.len(), 8);
    assert!(seen.windows(2).all(|pair| pair[0] > pair[1]), "newest first, none twice: {seen:?}");
    assert_eq!(fake.get("/api/v1/calls?state=queued").await.ok(200)["items"].as_array().unwrap().len(), 4);
    let nas = fake.get("/api/v1/calls?node=nas").await.ok(200);
    assert_eq!(nas["items"].as_array().unwrap().len(), 1);
    assert!(nas["items"][0]["why"].as_str().unwrap().contains("offline"));
    assert_eq!(fake.get("/api/v1/calls?node=gone").await.ok(200)["items"], json!([]));
    for bad in ["limit=0", "limit=201", "limit=x", "cursor=x", "state=lost", "node=a:b", "foo=1"] {
        fake.get(&format!("/api/v1/calls?{bad}")).await.problem(422, "invalid");
    }
}

#[tokio::test]
async fn f21_a_call_is_shown_and_listed_by_its_target() {
    let fake = Fake::start().await;
    let made = fake.post("/api/v1/calls", r#"{"node":"nas","tool":"files.read"}"#).await.ok(202);
    let path = format!("/api/v1/calls/{}", made["id"].as_str().unwrap());
    let written = |name: &str| {
        for call in fake.books().calls.values_mut() {
            Arc::make_mut(&mut call.header).node_id = node_id(name);
        }
    };
    let listed = async |node: &str| {
        let page = fake.get(&format!("/api/v1/calls?node={node}")).await.ok(200);
        page["items"].as_array().unwrap().len()
    };
    // Its origin wrote another device's name.
    written("desk");
    let call = fake.get(&path).await.ok(200);
    assert_eq!(call["node"], "nas");
    assert!(call["why"].as_str().unwrap().contains("`nas` is offline"), "{call}");
    assert_eq!((listed("nas").await, listed("desk").await, listed(&twin(1).to_string()).await), (1, 0, 1));
    // Of a device that has gone there is only what was written; it is not another's name for that.
    fake.view.send_modify(|view| Arc::make_mut(view).nodes.retain(|node| node.peer != twin(1)));
    assert_eq!(fake.get(&path).await.ok(200)["node"], twin(1).short());
    assert_eq!((listed("desk").await, listed("nas").await, listed(&twin(1).to_string()).await), (0, 0, 1));
    written("barn");
    assert_eq!(fake.get(&path).await.ok(200)["node"], "barn");
    assert_eq!(listed("barn").await, 1);
}

#[tokio::test]
async fn results_are_served_as_they_are() {
    let fake = Fake::start().await;
    let make = async |tool: &str| {
        let call = fake.post("/api/v1/calls", &json!({ "node": "desk", "tool": tool }).to_string()).await.ok(202);
        let id: ReqId = call["id"].as_str().unwrap().parse().unwrap();
        (id, format!("/api/v1/calls/{id}/result"))
    };
    let (id, url) = make("slow").await;
    assert_eq!(fake.get(&url).await.problem(409, "not_ended")["state"], "queued");
    fake.end(id, Ending::Done, Payload::Inline(Bytes::from_static(b"{\"a\":1}")));
    let result = fake.get(&url).await;
    result.ok(200);
    assert_eq!((result.header("content-type"), &result.body[..]), ("application/json", &b"{\"a\":1}"[..]));
    assert_eq!(result.header("content-length"), "7");

    let (id, url) = make("slow").await;
    fake.end(id, Ending::Done, Payload::Inline(Bytes::from_static(b"<html>")));
    assert_eq!(fake.get(&url).await.header("content-type"), "text/plain; charset=utf-8");

    let (_, url) = make("fail").await;
    fake.get(&url).await.problem(404, "no_output");

    // Over 256 KiB: not inside the call, but whole at its own address.
    let large = Bytes::from(vec![0xff; 300 * 1024]);
    let (id, url) = make("blob").await;
    let (hash, len) = (Hash::of(&large), large.len() as u64);
    fake.blobs.put(hash, large.clone()).await.unwrap();
    fake.end(id, Ending::Done, Payload::Blob { hash, len });
    let call = fake.get(&format!("/api/v1/calls/{id}")).await.ok(200);
    assert_eq!((&call["output"], &call["output_bytes"], &call["result_url"]), (&Value::Null, &json!(len), &json!(url)));
    let result = fake.get(&url).await;
    assert_eq!((result.status, result.header("content-type")), (200, "application/octet-stream"));
    assert_eq!(result.body, large);

    // In a file, but small enough to be shown.
    let text = Bytes::from("x".repeat(40 * 1024));
    let (id, _) = make("blob").await;
    let (hash, len) = (Hash::of(&text), text.len() as u64);
    fake.blobs.put(hash, text.clone()).await.unwrap();
    fake.end(id, Ending::Done, Payload::Blob { hash, len });
    let call = fake.get(&format!("/api/v1/calls/{id}")).await.ok(200);
    assert_eq!(call["output"].as_str().unwrap().as_bytes(), &text[..]);
    assert_eq!(fake.get("/api/v1/calls?limit=1").await.ok(200)["items"][0]["output"], Value::Null);
}

#[tokio::test]
async fn an_output_that_is_elsewhere_is_null_with_its_size() {
    let fake = Fake::start().await;
    let call = fake.post("/api/v1/calls", r#"{"node":"desk","tool":"blob"}"#).await.ok(202);
    let id: ReqId = call["id"].as_str().unwrap().parse().unwrap();
    fake.end(id, Ending::Done, Payload::Blob { hash: Hash([1; 32]), len: 100 });
    let call = fake.get(&format!("/api/v1/calls/{id}")).await.ok(200);
    assert_eq!((&call["state"], &call["output"], &call["output_bytes"]), (&json!("done"), &Value::Null, &json!(100)));
}

/// The target has said that `alias` is a repeat of `first`; both came with one key if they are `keyed`.
fn repeats(fake: &Fake, alias: &str, first: &str, keyed: bool) {
    let mut books = fake.books();
    for id in [first, alias] {
        let call = books.calls.get_mut(&id.parse::<ReqId>().unwrap()).unwrap();
        Arc::make_mut(&mut call.header).client_key = keyed.then(|| "order-7".parse().unwrap());
    }
    let call = books.calls.get_mut(&alias.parse::<ReqId>().unwrap()).unwrap();
    call.alias_of = Some(first.parse().unwrap());
    call.state = CallState::Ended(Ending::Cancelled);
}

/// A device that is asked for something names somebody else's call, whose id it can count to.
#[tokio::test]
async fn s04_a_target_shows_no_other_call_by_calling_its_own_a_repeat() {
    let fake = Fake::start().await;
    let secret = fake.post("/api/v1/calls", r#"{"node":"desk","tool":"echo","arguments":["salaries"]}"#).await.ok(202);
    let asked =
        [(r#"{"node":"desk","tool":"echo","arguments":[7]}"#, true), (r#"{"node":"desk","tool":"slow"}"#, false)];
    for (asked, keyed) in asked {
        let call = fake.post("/api/v1/calls", asked).await.ok(202);
        let (secret, call) = (secret["id"].as_str().unwrap(), call["id"].as_str().unwrap());
        repeats(&fake, call, secret, keyed);
        let shown = fake.get(&format!("/api/v1/calls/{call}")).await.ok(200);
        assert_eq!((&shown["state"], &shown["id"]), (&json!("cancelled"), &json!(call)), "{shown}");
        assert!(!shown.to_string().contains("salaries"), "{shown}");
        fake.post(&format!("/api/v1/calls/{call}/cancel"), r#"{"reason":"mine alone"}"#).await;
        assert!(!fake.books().cancelled.contains(&secret.parse::<ReqId>().unwrap()));
    }
}

#[tokio::test]
async fn an_alias_reads_as_the_call_that_it_repeats() {
    let fake = Fake::start().await;
    let first = fake.post("/api/v1/calls", r#"{"node":"desk","tool":"echo","arguments":[7]}"#).await.ok(202);
    let alias = fake.post("/api/v1/calls", r#"{"node":"desk","tool":"echo","arguments":[7]}"#).await.ok(202);
    let (first, alias) = (first["id"].as_str().unwrap(), alias["id"].as_str().unwrap());
    repeats(&fake, alias, first, true);
    let shown = fake.get(&format!("/api/v1/calls/{alias}")).await.ok(200);
    assert_eq!((&shown["id"], &shown["alias_of"]), (&json!(alias), &json!(first)));
    assert_eq!((&shown["state"], &shown["output"]), (&json!("done"), &json!([7])));
    assert_eq!(&fake.get(&format!("/api/v1/calls/{alias}/result")).await.body[..], b"[7]");
}

#[tokio::test]
async fn cancelling_says_whether_it_is_over() {
    let fake = Fake::start().await;
    let open = fake.post("/api/v1/calls", r#"{"node":"desk","tool":"slow"}"#).await.ok(202);
    let id = open["id"].as_str().unwrap().to_owned();
    fake.post(&format!("/api/v1/calls/{id}/cancel"), r#"{"reason":"changed my mind"}"#).await.ok(202);
    assert_eq!(fake.books().cancelled, [id.parse::<ReqId>().unwrap()]);
    fake.end(id.parse().unwrap(), Ending::Cancelled, Payload::empty());
    assert_eq!(fake.ask(Method::POST, &format!("/api/v1/calls/{id}/cancel"), None).await.ok(200)["state"], "cancelled");
    let long = json!({ "reason": "x".repeat(501) }).to_string();
    fake.post(&format!("/api/v1/calls/{id}/cancel"), &long).await.problem(422, "invalid");
    fake.post(&format!("/api/v1/calls/{}/cancel", "0".repeat(26)), "{}").await.problem(404, "unknown_call");
}

#[tokio::test]
async fn a_call_that_names_no_ttl_gets_that_of_the_settings() {
    let fake = Fake::start().await;
    assert_eq!(fake.post("/api/v1/calls", r#"{"tool":"node:desk:slow"}"#).await.ok(202)["ttl_s"], 7200);
    let named = r#"{"tool":"node:desk:slow","ttl_s":60}"#;
    assert_eq!(fake.post("/api/v1/calls", named).await.ok(202)["ttl_s"], 60);
}
