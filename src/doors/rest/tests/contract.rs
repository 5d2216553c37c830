//! Nothing is taken but what the description of the API says.

use super::*;
use crate::doors::rest::document;

fn description() -> Value {
    serde_json::to_value(document()).unwrap()
}

/// Operations as (method, path, operation).
fn operations(api: &Value) -> Vec<(String, String, Value)> {
    let paths = api["paths"].as_object().unwrap();
    let of_path = |(path, item): (&String, &Value)| {
        let all = item.as_object().unwrap().iter().filter(|(_, operation)| operation["operationId"].is_string());
        all.map(|(method, operation)| (method.to_uppercase(), path.clone(), operation.clone())).collect::<Vec<_>>()
    };
    paths.iter().flat_map(of_path).collect()
}

fn has_rule(resolve: &dyn Fn(&Value) -> Value, schema: &Value) -> bool {
    let schema = resolve(schema);
    let has = |name: &str| !schema[name].is_null();
    let all = |of: &Value| of.as_object().into_iter().flatten().all(|(_, member)| has_rule(resolve, member));
    if let Some(several) = schema["oneOf"].as_array() {
        return several.iter().all(|schema| has_rule(resolve, schema));
    }
    match schema["type"].as_str() {
        Some("array") => has("maxItems") && has_rule(resolve, &schema["items"]),
        Some("object") if schema["additionalProperties"] == false => all(&schema["properties"]),
        Some("object") => {
            let names = has("maxProperties") && has_rule(resolve, &schema["propertyNames"]);
            names && has_rule(resolve, &schema["additionalProperties"])
        }
        Some("null") => true,
        _ if schema["type"].to_string().contains("boolean") => true,
        _ => has("pattern") || has("enum") || (has("maximum") && (has("minimum") || has("exclusiveMinimum"))),
    }
}

#[test]
fn k06_every_parameter_and_every_member_of_a_body_has_its_rule() {
    let api = description();
    let resolve = |schema: &Value| match schema["$ref"].as_str() {
        Some(reference) => api["components"]["schemas"][reference.rsplit('/').next().unwrap()].clone(),
        None => schema.clone(),
    };
    let has_rule = |schema: &Value| has_rule(&resolve, schema);
    for (method, path, operation) in operations(&api) {
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().unwrap();
            // By their standards whatever these say and nobody understands is passed over.
            let is_lenient = ["Prefer", "Last-Event-ID"].contains(&name);
            assert!(is_lenient || has_rule(&parameter["schema"]), "{method} {path}: {parameter}");
        }
        let body = &operation["requestBody"]["content"]["application/json"]["schema"];
        if body.is_null() {
            assert!(operation["requestBody"].is_null(), "{method} {path} takes something else than JSON");
            continue;
        }
        let body = resolve(body);
        let forms = body["oneOf"].as_array().cloned().unwrap_or_else(|| vec![body]);
        for form in forms.iter().map(resolve) {
            assert_eq!(form["additionalProperties"], false, "{method} {path}: {form}");
            for (name, member) in form["properties"].as_object().into_iter().flatten() {
                // Arguments are for the tool.
                assert!(name == "arguments" || has_rule(member), "{method} {path}, {name}: {member}");
            }
        }
    }
}

#[test]
fn every_answer_is_described() {
    let api = description();
    for (method, path, operation) in operations(&api) {
        let responses = operation["responses"].as_object().unwrap();
        assert!(!responses.contains_key("default"), "{method} {path}");
        for reference in responses.values().filter_map(|response| response["$ref"].as_str()) {
            let name = reference.rsplit('/').next().unwrap();
            let schema = &api["components"]["responses"][name]["content"][PROBLEM_JSON]["schema"];
            assert_eq!(schema["$ref"], "#/components/schemas/Problem", "{reference}");
        }
    }
}

#[tokio::test]
async fn k06_no_body_is_taken_that_is_not_an_object_of_known_members() {
    let fake = Fake::start().await;
    let mut seen = 0;
    for (method, path, operation) in operations(&description()) {
        if operation["requestBody"].is_null() {
            continue;
        }
        let ask = async |body: &str, headers: &[(&str, &str)]| {
            fake.ask_with(method.parse().unwrap(), &filled(&path), headers, Some(body)).await
        };
        for body in ["[]", "[null,null]", "null", "7", "\"x\"", "[{}]", " [ ]", r#"{"nonsense":1}"#] {
            ask(body, &[]).await.problem(422, "invalid");
        }
        for body in ["{", "[", "\u{feff}{}"] {
            ask(body, &[]).await.problem(400, "bad_request");
        }
        ask("{}", &[("content-type", "text/plain")]).await.problem(415, "unsupported_media");
        seen += 1;
    }
    assert!(seen >= 9, "{seen}");
    assert!(fake.books().invites.is_empty(), "nothing of it did anything");
}

/// The path of an operation, with an id that is well formed.
fn filled(path: &str) -> String {
    match path.split('/').nth(3) {
        Some("workspaces") if path.contains("/memory") => {
            path.replace("{workspace}", "home").replace("{message}", &"a".repeat(26))
        }
        Some("models") => path.replace("{name}", "all-minilm-l6-v2"),
        Some("mcp") => path.replace("{principal}", "agent:owner%2Fclaude"),
        Some("policy") => path.replace("{id}", &"0".repeat(16)),
        Some("calls" | "approvals") => path.replace("{id}", &"0".repeat(26)),
        _ => path.replace("{id}", "phone"),
    }
}

#[tokio::test]
async fn l16_a_packed_body_is_told_as_one_and_no_fault_speaks_of_our_types() {
    let fake = Fake::start().await;
    let mut seen = 0;
    for (method, path, _) in operations(&description()).iter().filter(|(.., body)| !body["requestBody"].is_null()) {
        let ask = async |body: &str, headers: &[(&str, &str)]| {
            fake.ask_with(method.parse().unwrap(), &filled(path), headers, Some(body)).await
        };
        for coding in ["gzip", "br", "identity, gzip"] {
            let fault = ask("{}", &[("content-encoding", coding)]).await.problem(415, "unsupported_media");
            assert!(fault["hint"].as_str().unwrap().contains("Content-Encoding"), "{fault}");
        }
        for body in ["[]", "[null,null]", "7"] {
            let fault = ask(body, &[]).await.problem(422, "invalid");
            let detail = fault["detail"].as_str().unwrap();
            assert!(detail.contains("object") && !detail.contains("struct"), "{path}: {detail}");
        }
        seen += 1;
    }
    assert!(seen >= 9, "{seen}");
    fake.ask_with(Method::POST, "/api/v1/invites", &[("content-encoding", "identity")], Some("{}")).await.ok(201);
}

#[tokio::test]
async fn k06_a_query_has_known_parameters_once() {
    let fake = Fake::start().await;
    for (method, path, _) in operations(&description()) {
        let path = filled(&path);
        let problem =
            fake.ask(method.parse().unwrap(), &format!("{path}?colour=red"), None).await.problem(422, "invalid");
        assert!(problem["detail"].as_str().unwrap().contains("`colour`"), "{method} {path}: {problem}");
    }
    for (query, says) in [
        ("calls?limit=1&limit=1", "twice"),
        ("calls?limit=1&%6cimit=1", "twice"),
        ("calls?limit=%2B1", "whole number"),
        ("calls?node=", "names no device"),
        ("logs?level=", "is not a level"),
        ("logs?level=INFO", "is not a level"),
        ("events?topics=", "is not a topic"),
        ("events?topics=call,", "is not a topic"),
        ("nodes/nas?with_guests=1", "no parameter"),
    ] {
        let problem = fake.get(&format!("/api/v1/{query}")).await.problem(422, "invalid");
        assert!(problem["detail"].as_str().unwrap().contains(says), "{query}: {problem}");
    }
    fake.ask(Method::DELETE, "/api/v1/nodes/nas?with_guests=1", None).await.problem(422, "invalid");
    fake.ask(Method::HEAD, "/api/v1/status?a=1", None).await;
    assert_eq!(fake.get("/api/v1/calls?limit=1").await.status, 200);
    assert!(fake.books().revoked.is_empty());
}

#[tokio::test]
async fn k06_a_head_that_is_too_long_is_answered_with_the_reason() {
    let fake = Fake::start().await;
    fake.get(&format!("/api/v1/nodes/{}", "a".repeat(9 * 1024))).await.problem(414, "uri_too_long");
    fake.get(&format!("/api/v1/nodes?{}", "a".repeat(9 * 1024))).await.problem(414, "uri_too_long");
    let long = "a".repeat(17 * 1024);
    fake.ask_with(Method::GET, "/healthz", &[("x-long", &long)], None).await.problem(431, "headers_too_large");
    fake.get("/healthz").await;
}
