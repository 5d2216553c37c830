//! The stream of events.

use super::*;

#[tokio::test]
async fn events_resume_where_a_client_left() {
    let fake = Fake::start().await;
    let mut live = fake.events("?topics=warning,gateway", None).await;
    fake.events.push(ACCEPTED_MS, EventKind::Nodes);
    fake.events.push(ACCEPTED_MS, EventKind::Warning("one\nid: 99".to_owned()));
    fake.events.push(ACCEPTED_MS, EventKind::Gateway(Some((twin(1), 5))));
    let (id, name, data) = live.next().await.unwrap();
    assert_eq!((name.as_str(), &data["text"]), ("warning", &json!("one\nid: 99")));
    assert_eq!(data["at"], time(ACCEPTED_MS));
    let (_, name, data) = live.next().await.unwrap();
    assert_eq!((name.as_str(), &data["gateway"]["node_id"]), ("gateway", &json!("nas")));

    let mut resumed = fake.events("", Some(&id)).await;
    assert_eq!(resumed.next().await.unwrap().1, "gateway");
    fake.events.push(ACCEPTED_MS, EventKind::Pending);
    assert_eq!(resumed.next().await.unwrap().1, "pending");

    for strange in ["1-1", "x", "", "0"] {
        let mut reset = fake.events("", Some(strange)).await;
        let (id, name, _) = reset.next().await.unwrap();
        assert_eq!(name, "reset", "{strange}");
        drop(reset);
        let mut reset = fake.events("", Some(&id)).await;
        fake.events.push(ACCEPTED_MS, EventKind::Nearby);
        assert_eq!(reset.next().await.unwrap().1, "nearby");
    }
    for n in 0..=crate::mesh::EVENTS_KEPT {
        fake.events.push(n as u64, EventKind::Nodes);
    }
    let mut too_old = fake.events("", Some(&id)).await;
    assert_eq!(too_old.next().await.unwrap().1, "reset");

    // A client that has seen no event yet can resume as well.
    let (early_id, ..) = fake.events("?topics=pending", None).await.block().await.unwrap();
    fake.events.push(ACCEPTED_MS, EventKind::Pending);
    let mut early = fake.events("?topics=pending", Some(&early_id)).await;
    assert_eq!(early.next().await.unwrap().1, "pending");

    fake.get("/api/v1/events?topics=weather").await.problem(422, "invalid");
    let headers = [("accept", "application/json")];
    fake.ask_with(Method::GET, "/api/v1/events", &headers, None).await.problem(406, "not_acceptable");
}

#[tokio::test]
async fn s28_the_stream_tells_a_token_what_concerns_its_holder_until_it_is_revoked() {
    let fake = Fake::start().await;
    let made = fake.post("/api/v1/tokens", r#"{"principal":"device:desk"}"#).await.ok(201);
    let (host, bearer) =
        (format!("127.0.0.1:{}", fake.bound.http.port()), format!("Bearer {}", made["token"].as_str().unwrap()));
    let stream = tokio::net::TcpStream::connect(fake.bound.http).await.unwrap();
    let headers = [("host", &*host), ("authorization", &*bearer)];
    let response = send(stream, &fake.tasks, Method::GET, "/api/v1/events", &headers, None).await;
    assert_eq!(response.status(), 200);
    let mut live = Events { body: response.into_body(), text: String::new() };
    fake.post("/api/v1/calls", r#"{"node":"desk","tool":"echo"}"#).await.ok(202);
    fake.events.push(ACCEPTED_MS, EventKind::Warning("about the mesh".to_owned()));
    fake.events.push(ACCEPTED_MS, EventKind::Nodes);
    assert_eq!(live.next().await.unwrap().1, "nodes", "another's call is not told, nor what asks for attention");
    let one = format!("/api/v1/tokens/{}", made["id"].as_str().unwrap());
    fake.ask(Method::DELETE, &one, None).await.ok(204);
    fake.events.push(ACCEPTED_MS, EventKind::Nodes);
    assert!(live.next().await.is_none(), "it counts no more");
}

#[tokio::test]
async fn a_slow_reader_misses_nothing_that_is_kept() {
    let fake = Fake::start().await;
    let mut live = fake.events("?topics=warning", None).await;
    // More than the live feed holds (1024), fewer than are kept (4096), before the reader gets a turn.
    for n in 0..3000 {
        fake.events.push(n, EventKind::Warning(n.to_string()));
    }
    for n in 0..3000 {
        assert_eq!(live.next().await.unwrap().2["text"], n.to_string());
    }
}
