//! Calls that wait for a person.

use super::*;
use mesh_core::io::Approval;

impl Fake {
    /// Makes a call that waits for the answer of these people.
    async fn waiting(&self, approvers: &[&str]) -> ReqId {
        let body = r#"{"node":"desk","tool":"slow","arguments":{"n":1.10}}"#;
        let id = self.post("/api/v1/calls", body).await.ok(202)["id"].as_str().unwrap().parse().unwrap();
        let mut books = self.books();
        let header = books.calls[&id].header.clone();
        let people = approvers.iter().map(|person| person.parse().unwrap()).collect();
        let asks = vec![("home/doors".parse().unwrap(), people)];
        let origin = key(1).peer_id();
        books.approvals.push(Approval { id, header, origin, asks, why: "a rule asks".to_owned(), left_ms: 60_000 });
        id
    }
}

#[tokio::test]
async fn calls_that_wait_are_listed_and_answered() {
    let fake = Fake::start().await;
    assert_eq!(fake.get("/api/v1/approvals").await.ok(200)["items"], json!([]));
    let first = fake.waiting(&["owner"]).await;
    let second = fake.waiting(&["anna"]).await;
    let page = fake.get("/api/v1/approvals?limit=1").await.ok(200);
    let shown = &page["items"][0];
    assert_eq!((&shown["call_id"], &shown["choices"]), (&json!(second.to_string()), &json!([])));
    let cursor = page["next_cursor"].as_str().unwrap();
    let page = fake.get(&format!("/api/v1/approvals?limit=1&cursor={cursor}")).await.ok(200);
    let shown = &page["items"][0];
    assert_eq!(page["next_cursor"], Value::Null);
    assert_eq!(shown["choices"], json!(["once", "hour", "always", "no"]));
    let text = |name: &str| shown[name].as_str().unwrap();
    assert_eq!([text("node"), text("tool"), text("origin"), text("state")], ["desk", "slow", "desk", "asking"]);
    assert_eq!([text("principal"), text("why")], ["person:owner", "a rule asks"]);
    assert_eq!(shown["asks"], json!([{ "rule": "home/doors", "approvers": ["person:owner"] }]));
    let list = fake.get("/api/v1/approvals").await;
    assert!(String::from_utf8_lossy(&list.body).contains(r#""arguments":{"n":1.10}"#), "as they were written");

    let path = |id: ReqId| format!("/api/v1/approvals/{id}");
    let refused = fake.post(&path(second), r#"{"answer":"once"}"#).await.problem(403, "not_approver");
    assert_eq!(refused["approvers"], json!(["person:anna"]));
    assert!(refused["hint"].as_str().unwrap().contains("anna may"), "{refused}");
    // The same again is answered alike, whatever has become of the call; another answer is told what there was.
    for _ in 0..2 {
        let given = fake.post(&path(first), r#"{"answer":"once","note":"only today"}"#).await.ok(200);
        assert_eq!(given, json!({ "call_id": first.to_string(), "answer": "once", "asks": ["home/doors"] }));
    }
    assert_eq!(fake.books().answers, [(first, AnswerChoice::Once)]);
    let told = fake.post(&path(first), r#"{"answer":"no"}"#).await.problem(409, "already_decided");
    assert!(told["detail"].as_str().unwrap().contains("owner said yes"), "{told}");
    fake.end(first, Ending::Done, Payload::empty());
    fake.post(&path(first), r#"{"answer":"once"}"#).await.ok(200);
    fake.post(&path(first), r#"{"answer":"hour"}"#).await.problem(409, "already_decided");
    fake.books().approvals.clear();
    fake.end(second, Ending::Expired, Payload::empty());
    fake.post(&path(second), r#"{"answer":"no"}"#).await.problem(410, "ask_over");
    fake.post(&format!("/api/v1/approvals/{}", "0".repeat(26)), r#"{"answer":"no"}"#)
        .await
        .problem(404, "unknown_call");
    for bad in [r#"{"answer":"yes"}"#, r#"{"answer":"no","note":"a\nb"}"#, "{}"] {
        fake.post(&path(first), bad).await.problem(422, "invalid");
    }
}

#[tokio::test]
async fn s28_no_token_answers_for_a_person() {
    let fake = Fake::start().await;
    let id = fake.waiting(&["owner"]).await;
    let path = format!("/api/v1/approvals/{id}");
    let refused = fake.post_by_token(&path, r#"{"answer":"once"}"#).await.problem(403, "not_approver");
    assert_eq!(refused["approvers"], json!(["person:owner"]));
    let host = format!("127.0.0.1:{}", fake.bound.http.port());
    for terms in [r#"{"principal":"device:desk"}"#, r#"{"read_only":true}"#, r#"{"principal":"agent:owner/claude"}"#] {
        let made = fake.post("/api/v1/tokens", terms).await.ok(201);
        let bearer = format!("Bearer {}", made["token"].as_str().unwrap());
        let headers = [("host", &*host), ("authorization", &*bearer)];
        fake.http(Method::POST, &path, &headers).await.problem(403, "denied");
        let shown = fake.http(Method::GET, "/api/v1/approvals", &headers).await.ok(200);
        let own = made["principal"] == "person:owner";
        assert_eq!(shown["items"].as_array().unwrap().len(), usize::from(own), "{terms}");
        assert!(!own || shown["items"][0]["choices"] == json!([]), "nor is it told that it may");
    }
    assert!(fake.books().answers.is_empty());
}
