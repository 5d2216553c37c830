use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes as Given};
use axum::extract::State as Of;
use axum::response::{IntoResponse as _, Response as Answer};
use axum::routing::any;
use serde_json::json;
use serde_json::value::RawValue;

use super::super::session::AskError;
use super::super::wire::{Era, NOT_TAKEN};
use super::*;
use crate::tasks::TaskGroup;

/// What a server was asked: method of HTTP, headers, message.
#[derive(Debug, Clone)]
struct Asked {
    method: String,
    headers: HeaderMap,
    said: Value,
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

type Says = Arc<dyn Fn(&Asked) -> Answer + Send + Sync>;

/// A server on loopback, which answers as it is told; and all that it was asked.
async fn server(says: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> (String, Arc<Mutex<Vec<Asked>>>) {
    async fn answer(
        Of((says, seen)): Of<(Says, Arc<Mutex<Vec<Asked>>>)>,
        method: Method,
        headers: HeaderMap,
        body: Given,
    ) -> Answer {
        let asked =
            Asked { method: method.to_string(), headers, said: serde_json::from_slice(&body).unwrap_or_default() };
        seen.lock().unwrap().push(asked.clone());
        says(&asked)
    }
    let seen: Arc<Mutex<Vec<Asked>>> = Arc::default();
    let app = Router::new().route("/mcp", any(answer)).with_state((Arc::new(says) as Says, seen.clone()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    TaskGroup::default().spawn(async move { axum::serve(listener, app).await.unwrap() });
    (url, seen)
}

fn document(message: &Value) -> Answer {
    ([("content-type", "application/json"), ("mcp-session-id", "s-1")], message.to_string()).into_response()
}

fn events(text: String) -> Answer {
    ([("content-type", "text/event-stream")], text).into_response()
}

fn event(message: &Value) -> String {
    format!("event: message\ndata: {message}\n\n")
}

fn refused(status: u16, body: &'static str) -> Answer {
    (StatusCode::from_u16(status).unwrap(), body).into_response()
}

fn result(asked: &Asked, result: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": asked.said["id"], "result": result })
}

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

fn remote(url: &str, headers: &[(&str, &str)]) -> Remote {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Remote::new(url, &headers).unwrap()
}

/// A server of the older era with sessions, which answers calls with `call`.
fn legacy(asked: &Asked, call: impl Fn(&Asked) -> Answer) -> Answer {
    match asked.said["method"].as_str() {
        Some("server/discover") => {
            refused(400, r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"No session"},"id":null}"#)
        }
        Some("initialize") => document(&result(
            asked,
            &json!({ "protocolVersion": "2025-06-18", "serverInfo": { "name": "x", "version": "2" }, "capabilities": {} }),
        )),
        _ if asked.header(SESSION) != Some("s-1") => refused(400, "no session"),
        Some("tools/list") => document(&result(asked, &json!({ "tools": [{ "name": "a" }] }))),
        Some("tools/call") => call(asked),
        None if asked.method == "GET" && asked.header("last-event-id").is_none() => {
            events(event(&json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" })))
        }
        None if asked.method == "GET" => refused(405, ""),
        _ => refused(202, ""),
    }
}

#[tokio::test]
async fn a_server_of_the_older_era_is_greeted_listened_to_and_taken_leave_of() {
    let (url, seen) = server(|asked| {
        legacy(asked, |asked| {
            let progress = json!({ "method": "notifications/progress", "params": { "progressToken": asked.said["id"], "progress": 1, "total": 2 } });
            events(format!(": hello\n\n{}{}", event(&progress), event(&result(asked, &json!({ "content": [] })))))
        })
    })
    .await;
    let remote = remote(&url, &[("Authorization", "Bearer hunter2"), ("X-Org", "me")]);
    let (session, work) = remote.talk(Redactor::default());
    let asks = async {
        let (era, greeted) = session.greet(None).await.unwrap();
        assert_eq!((era, greeted.version.as_str()), (Era::Legacy, "2"));
        assert_eq!(session.tools(era).await.unwrap().len(), 1);
        let mut asked = session.call(era, "a", &raw("{\"n\": 12345678901234567890123}")).await.unwrap();
        assert_eq!((&mut asked.answer).await.unwrap(), Ok(json!({ "content": [] })));
        assert_eq!(asked.notes.recv().await.as_deref(), Some("50%"));
        let mut changes = session.changes();
        changes.wait_for(|changes| *changes > 0).await.unwrap();
    };
    tokio::select! {
        () = asks => {}
        why = work => panic!("{why}"),
    }
    drop(session);
    remote.farewell().await;
    let seen = seen.lock().unwrap().clone();
    assert!(seen.iter().all(|asked| asked.header("authorization") == Some("Bearer hunter2") && asked.header("x-org") == Some("me")));
    let after = seen.iter().skip_while(|asked| asked.said["method"] != "initialize").skip(1).collect::<Vec<_>>();
    assert!(
        after.iter().all(|asked| asked.header(SESSION) == Some("s-1") && asked.header(VERSION) == Some("2025-06-18")),
        "{after:?}"
    );
    assert_eq!(after.last().map(|asked| asked.method.as_str()), Some("DELETE"));
    assert!(!format!("{remote:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_server_of_the_newer_era_is_told_in_headers_what_a_message_is() {
    let (url, seen) = server(|asked| match asked.said["method"].as_str() {
        Some("server/discover") => document(&result(asked, &json!({ "supportedVersions": ["2026-07-28"] }))),
        Some("subscriptions/listen") => events(event(&json!({ "method": "notifications/tools/list_changed" }))),
        _ => document(&result(asked, &json!("b"))),
    })
    .await;
    let remote = remote(&url, &[]);
    let (session, work) = remote.talk(Redactor::default());
    let asks = async {
        let (era, _) = session.greet(None).await.unwrap();
        assert_eq!(era, Era::Modern);
        let listening = session.listen().await;
        let mut asked = session.call(era, "tür", &raw("{}")).await.unwrap();
        assert_eq!((&mut asked.answer).await.unwrap(), Ok(json!("b")));
        let mut changes = session.changes();
        // It is opened again after it has ended.
        changes.wait_for(|changes| *changes > 1).await.unwrap();
        drop(listening);
    };
    tokio::select! {
        () = asks => {}
        why = work => panic!("{why}"),
    }
    drop(session);
    remote.farewell().await;
    let seen = seen.lock().unwrap().clone();
    for asked in &seen {
        assert_eq!(
            (asked.method.as_str(), asked.header(VERSION), asked.header(SESSION)),
            ("POST", Some("2026-07-28"), None)
        );
        assert_eq!(asked.header(METHOD), asked.said["method"].as_str());
    }
    let call = seen.iter().find(|asked| asked.said["method"] == "tools/call").unwrap();
    assert_eq!(call.header(NAME), Some("=?base64?dMO8cg==?="));
}

/// Tells when it is gone.
struct Ends(mpsc::Sender<()>);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.try_send(());
    }
}

#[tokio::test]
async fn a_request_that_nobody_waits_for_is_given_up_with_its_connection() {
    let (began, mut begun) = mpsc::channel(4);
    let (over, mut ended) = mpsc::channel(4);
    let (url, seen) = server(move |asked| {
        if asked.said["method"] == "server/discover" {
            return document(&result(asked, &json!({ "supportedVersions": ["2026-07-28"] })));
        }
        began.try_send(()).unwrap();
        let over = over.clone();
        // A stream that says nothing, and notices its end.
        let ends = Ends(over);
        let silent = futures_util::stream::unfold(ends, |ends| async move {
            sleep(Duration::from_millis(50)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b":\n")), ends))
        });
        ([("content-type", "text/event-stream")], Body::from_stream(silent)).into_response()
    })
    .await;
    let remote = remote(&url, &[]);
    let (session, work) = remote.talk(Redactor::default());
    let asks = async {
        let (era, _) = session.greet(None).await.unwrap();
        let asked = session.call(era, "a", &raw("{}")).await.unwrap();
        begun.recv().await.unwrap();
        session.tell(wire::cancelled(asked.id, "cancelled"));
        ended.recv().await.unwrap();
    };
    tokio::select! {
        () = asks => {}
        why = work => panic!("{why}"),
    }
    assert_eq!(seen.lock().unwrap().len(), 2, "nothing is told besides");
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_taken_up_where_it_did() {
    let (url, seen) = server(|asked| {
        if asked.header("last-event-id") == Some("7") {
            return events(event(&json!({ "jsonrpc": "2.0", "id": 3, "result": "late" })));
        }
        legacy(asked, |_| events("id: 7\nretry: 10\ndata:\n\n".to_owned()))
    })
    .await;
    let remote = remote(&url, &[]);
    let (session, work) = remote.talk(Redactor::default());
    let asks = async {
        let (era, _) = session.greet(None).await.unwrap();
        let mut asked = session.call(era, "a", &raw("{}")).await.unwrap();
        assert_eq!((&mut asked.answer).await.unwrap(), Ok(json!("late")));
    };
    tokio::select! {
        () = asks => {}
        why = work => panic!("{why}"),
    }
    assert!(seen.lock().unwrap().iter().any(|asked| asked.header("last-event-id") == Some("7")));
}

#[tokio::test]
async fn each_refusal_is_told_with_its_cause() {
    let greets = async |status: u16, headers: &[(&str, &str)]| {
        let (url, _) = server(move |_| refused(status, "no")).await;
        let remote = remote(&url, headers);
        let (session, work) = remote.talk(Redactor::default());
        tokio::join!(session.greet(None), async { timeout(Duration::from_secs(2), work).await.unwrap_or_default() })
    };
    let (said, why) = greets(401, &[]).await;
    assert!(matches!(said, Err(AskError::Refused(..) | AskError::Over)), "{said:?}");
    assert!(why.contains("401") && why.contains("was given no headers") && why.contains("sigil secret set"), "{why}");
    let (_, why) = greets(403, &[("authorization", "Bearer x")]).await;
    assert!(why.contains("403") && why.contains("does not take what it was given"), "{why}");
    // Somebody else answers there: not a server of either era.
    let (said, _) = greets(404, &[]).await;
    let Err(AskError::Refused("initialize", why)) = said else { panic!("{said:?}") };
    assert!(why.contains("404"), "{why}");

    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", closed.local_addr().unwrap());
    drop(closed);
    let remote = remote(&url, &[]);
    let (session, work) = remote.talk(Redactor::default());
    let (said, why) = tokio::join!(session.greet(None), work);
    assert!(
        matches!(said, Err(AskError::Refused(..) | AskError::Over)) && why.contains("cannot be reached"),
        "{said:?} {why}"
    );
}

#[tokio::test]
async fn what_may_have_happened_is_told_apart_from_what_has_not() {
    let (url, _) = server(|asked| {
        legacy(asked, |asked| match asked.said["params"]["name"].as_str() {
            Some("bad gateway") => refused(502, "<html>"),
            Some("broken off") => events("data: half".to_owned()),
            Some("elsewhere") => (StatusCode::FOUND, [("location", "http://other/")]).into_response(),
            Some("forgotten") => refused(404, ""),
            _ => refused(400, r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32602,"message":"bad hunter2-hunter2"}}"#),
        })
    })
    .await;
    let mut redactor = Redactor::default();
    redactor.add("key", "hunter2-hunter2");
    let remote = remote(&url, &[]);
    let (session, work) = remote.talk(redactor);
    let asks = async {
        let (era, _) = session.greet(None).await.unwrap();
        let call = async |tool: &str| {
            let mut asked = session.call(era, tool, &raw("{}")).await.unwrap();
            (&mut asked.answer).await.ok()
        };
        assert_eq!(call("bad gateway").await, None, "lost");
        assert_eq!(call("broken off").await, None, "lost");
        let Some(Err(error)) = call("elsewhere").await else { panic!("refused") };
        assert!(error.code == NOT_TAKEN && error.message.contains("http://other/"), "{error:?}");
        let Some(Err(error)) = call("bad").await else { panic!("refused") };
        assert!(error.code == -32602 && error.message == "bad [secret key]", "{error:?}");
        let _ = call("forgotten").await;
    };
    let ((), why) = tokio::join!(asks, work);
    assert_eq!(why, "it has forgotten the session");
}
