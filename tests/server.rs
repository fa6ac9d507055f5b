//! The server over HTTP: access, answers, and clients that misbehave.

use crate::site::{Answered, PASSWORD, Site, tls_file, tls_table};
use crate::util::PATIENCE;
use futures::{StreamExt, stream};
use lifeboat_api::access::Grant;
use lifeboat_api::clock::{Clock, SystemClock, Timestamp};
use lifeboat_api::lines::Line;
use lifeboat_api::transaction::Outcome;
use lifeboat_client::{Backoff, Client, LineIds, Progress, Server as ClientsServer, uuid_v7};
use lifeboat_journal::storage::DiskStorage;
use lifeboat_server::tls;
use lifeboat_server::{DRAINED_TIME_MAX, Listener, STREAMS_PER_USER_MAX};
use proptest::prelude::*;
use reqwest::Method;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpSocket, TcpStream};

/// Creates a folder for a server's data.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Starts a server with a service `bank` of `work.wat`. Returns it with its admin's token.
async fn bank(folder: &tempfile::TempDir) -> (Site, String) {
    let site = Site::start(folder.path(), "").await;
    let admin = site.log_in("admin").await;
    site.deploy(&admin, "bank", "work.wat", "size=small").await;
    (site, admin)
}

fn sequence(answered: &Answered) -> u64 {
    answered.header("lifeboat-sequence").parse().unwrap_or_else(|_| panic!("{answered:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_needs_the_grant_that_its_description_states() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    let before = sequence(&site.transact(&admin, "bank", "first", "1").await);
    let description = site.get("/openapi.json", "").await.json();
    let stranger = site.user(&admin, "stranger", "elsewhere", &Grant::ALL).await;
    let expired = site.log_in("stranger").await;
    let revoked = site.log_in("stranger").await;
    assert_eq!(site.post("/v1/logout", &revoked, "").await.status, 204);
    let mut with_all_but = std::collections::BTreeMap::new();
    for grant in Grant::ALL {
        let others: Vec<Grant> = Grant::ALL.into_iter().filter(|other| *other != grant).collect();
        let token = site.user(&admin, &format!("no-{}", grant.word()), "bank", &others).await;
        with_all_but.insert(grant.word(), token);
    }
    let mut operations = Vec::new();
    for (path, methods) in description["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let needs = operation["x-lifeboat-needs"].as_str().expect("it says what it needs");
            let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes()).expect("a method");
            let path = path
                .replace("{name}", "bank")
                .replace("{service}", "bank")
                .replace("{user}", "stranger")
                .replace("{grant}", "operate")
                .replace("{id}", "first");
            let try_with = async |token: Option<&str>| {
                let mut request = site.client.request(method.clone(), site.url(&path)).body("1");
                if let Some(token) = token {
                    request = request.bearer_auth(token);
                }
                Answered::of(request.send().await.expect("answered")).await
            };
            if needs == "nobody" {
                assert_ne!(try_with(None).await.code_or_empty(), "not_authenticated", "{method} {path}");
                continue;
            }
            operations.push((method.clone(), path.clone()));
            let nonsense = format!("lifeboat_{}", "0".repeat(64));
            for token in [None, Some(""), Some("nonsense"), Some(nonsense.as_str()), Some(&revoked)] {
                let answered = try_with(token).await;
                assert_eq!((answered.status, answered.code().as_str()), (401, "not_authenticated"), "{method} {path}");
            }
            let lacking = match needs {
                "user" => continue,
                "admin" => &stranger,
                grant => &with_all_but[grant],
            };
            let answered = try_with(Some(lacking)).await;
            let code = if needs == "admin" { "not_admin" } else { "not_granted" };
            assert_eq!((answered.status, answered.code().as_str()), (403, code), "{method} {path} with {lacking}");
            if needs != "admin" {
                // To a user without grants, a service looks like a missing one.
                assert_eq!(try_with(Some(&stranger)).await.status, 403, "{method} {path}");
            }
        }
    }
    assert!(operations.len() >= 21, "{operations:?}");
    // Only an authenticated user learns that the path is not text.
    for (token, status, code) in [("", 401, "not_authenticated"), (&*admin, 400, "not_text")] {
        let answered = site.get("/v1/services/%ff", token).await;
        assert_eq!((answered.status, answered.code().as_str()), (status, code));
    }
    assert_eq!(sequence(&site.transact(&admin, "bank", "second", "1").await), before + 1, "nothing was dispatched");
    // A day later every token has expired, including the admin's.
    site.clock.advance(Duration::from_secs(25 * 60 * 60));
    for (method, path) in operations {
        for token in [&expired, &admin] {
            let request = site.request(method.clone(), &path, token).body("1");
            let answered = Answered::of(request.send().await.expect("answered")).await;
            assert_eq!((answered.status, answered.code().as_str()), (401, "not_authenticated"), "{method} {path}");
            assert!(answered.text().contains("expired"), "{method} {path}: {answered:?}");
        }
    }
    let admin = site.log_in("admin").await;
    assert_eq!(sequence(&site.transact(&admin, "bank", "third", "1").await), before + 2, "nothing was dispatched");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_states_what_the_server_checks() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    let description = site.get("/openapi.json", "").await.json();
    let operation = |method: &str, path: &str| description["paths"][path][method].clone();
    let schema = |operation: &Value, name: &str| {
        let parameters = operation["parameters"].as_array().expect("parameters");
        parameters.iter().find(|parameter| parameter["name"] == name).expect("it is there")["schema"].clone()
    };
    let names = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$";
    let grant = operation("put", "/v1/users/{user}/grants/{service}/{grant}");
    assert_eq!(schema(&grant, "user")["pattern"], names);
    assert_eq!(schema(&grant, "service")["pattern"], names);
    assert_eq!(schema(&grant, "grant")["enum"], json!(["transact", "observe", "operate"]));
    let deploy = operation("put", "/v1/services/{name}");
    assert_eq!(schema(&deploy, "failover")["enum"], json!(["direct", "shadow", "auto"]));
    assert!(schema(&deploy, "size")["enum"].as_array().expect("sizes").contains(&json!("small")));
    assert_eq!(schema(&deploy, "fuel")["minimum"], 10_000);
    let user = &description["components"]["schemas"]["NewUser"];
    assert_eq!((&user["properties"]["user"]["pattern"], &user["additionalProperties"]), (&json!(names), &json!(false)));
    assert_eq!(user["properties"]["password"]["minLength"], 8);
    assert_eq!(description["components"]["schemas"]["DropRequest"]["properties"]["user"]["pattern"], names);
    for (path, is_required) in [("/v1/services/{name}/transactions", false), ("/v1/services/{name}/query", false)] {
        assert_eq!(operation("post", path)["requestBody"]["required"], is_required);
    }
    let (longest, too_long) = ("x".repeat(64), "x".repeat(65));
    let names =
        [("a", 201), ("A.b_c-9", 201), (&*longest, 201), (&*too_long, 400), ("-a", 400), ("a b", 400), ("é", 400)];
    for (name, status) in names {
        let user = json!({ "user": name, "password": PASSWORD }).to_string();
        assert_eq!(site.post("/v1/users", &admin, user).await.status, status, "{name}");
        let dropped = site.post("/v1/services/bank/drop", &admin, json!({ "user": name }).to_string()).await;
        assert_eq!(dropped.status, if status == 201 { 200 } else { status }, "{name}");
    }
    for (password, status) in [("1234567", 400), ("12345678", 201)] {
        let user = json!({ "user": format!("with-{password}"), "password": password }).to_string();
        assert_eq!(site.post("/v1/users", &admin, user).await.status, status, "{password}");
    }
    for (query, status) in [("fuel=9999", 400), ("failover=both", 400), ("size=none", 400), ("fuel=10000", 422)] {
        assert_eq!(site.put(&format!("/v1/services/new?{query}"), &admin, "no wasm").await.status, status, "{query}");
    }
    for (word, status) in [("transact", 204), ("everything", 400)] {
        assert_eq!(site.put(&format!("/v1/users/a/grants/bank/{word}"), &admin, "").await.status, status, "{word}");
    }
    assert_eq!(site.post("/v1/services/bank/transactions", &admin, "").await.status, 200);
    let metrics = site.request(Method::GET, "/metrics", &admin).header("Accept", "text/plain;version=0.0.4");
    let metrics = Answered::of(metrics.send().await.expect("answered")).await;
    assert_eq!(metrics.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert!(metrics.text().contains("# TYPE lifeboat_transactions_total counter\n"), "{}", metrics.text());
    assert!(!metrics.text().contains("# EOF"), "{}", metrics.text());
    site.stop().await;
}

/// Returns the description of the API.
async fn description(site: &Site) -> Value {
    site.get("/openapi.json", "").await.json()
}

/// Returns the schema of a parameter of an operation.
fn parameter(description: &Value, method: &str, path: &str, name: &str) -> Value {
    let parameters = description["paths"][path][method]["parameters"].as_array().expect("parameters");
    parameters.iter().find(|parameter| parameter["name"] == name).expect("it is there")["schema"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_lists_every_kind_of_event_that_the_server_takes() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    let kinds = parameter(&description(&site).await, "get", "/v1/events", "event");
    let kinds = kinds["enum"].as_array().expect("an enumeration").clone();
    let refused = site.get("/v1/events?follow=false&event=nonsense", &admin).await;
    let listed = kinds.iter().map(|kind| kind.as_str().expect("a word")).collect::<Vec<_>>().join(", ");
    let detail = refused.json()["detail"].to_string();
    assert!(detail.ends_with(&format!("it must be one of {listed}\"")), "{detail}");
    for kind in kinds {
        let path = format!("/v1/events?follow=false&event={}", kind.as_str().expect("a word"));
        assert_eq!(site.get(&path, &admin).await.status, 200, "{kind}");
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_has_the_status_of_events_of_a_service_that_is_not_there() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    assert_eq!(site.get("/v1/events?service=nosuch", &admin).await.code(), "not_found");
    let responses = &description(&site).await["paths"]["/v1/events"]["get"]["responses"];
    assert!(responses["404"]["content"].get("application/problem+json").is_some(), "{responses}");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_says_who_changes_a_password_with_the_old_one() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    let own = site.put("/v1/users/admin/password", &admin, json!({ "password": PASSWORD }).to_string()).await;
    assert_eq!((own.status, own.code().as_str()), (403, "old_password"));
    let operation = description(&site).await["paths"]["/v1/users/{user}/password"]["put"].clone();
    assert!(operation["description"].as_str().is_some_and(|text| text.contains("\"old\"")), "{operation}");
    let of_403 = operation["responses"]["403"]["description"].as_str().expect("a text");
    assert!(of_403.contains("old_password"), "{of_403}");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_has_as_many_characters_as_the_description_says_whatever_they_are() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    let schemas = description(&site).await["components"]["schemas"].clone();
    let chars_max = schemas["NewUser"]["properties"]["password"]["maxLength"].as_u64().expect("a bound");
    for (schema, field) in [("NewPassword", "password"), ("NewPassword", "old"), ("LogInRequest", "password")] {
        assert_eq!(schemas[schema]["properties"][field]["maxLength"], chars_max, "{schema}.{field}");
    }
    // As ASCII JSON, each character takes twelve bytes.
    let escaped = |chars: u64| r"\ud83d\ude00".repeat(usize::try_from(chars).expect("few"));
    let user = |chars| format!(r#"{{"user":"ada","password":"{}"}}"#, escaped(chars));
    assert_eq!(site.post("/v1/users", &admin, user(chars_max + 1)).await.code(), "password");
    assert_eq!(site.post("/v1/users", &admin, user(chars_max)).await.status, 201);
    let logged_in = site.post("/v1/login", "", user(chars_max)).await;
    assert_eq!(logged_in.status, 200, "{logged_in:?}");
    let ada = logged_in.json()["token"].as_str().expect("a token").to_owned();
    let too_long = format!(r#"{{"password":"another one","old":"{}"}}"#, escaped(chars_max + 1));
    for token in [&ada, &admin] {
        assert_eq!(site.put("/v1/users/ada/password", token, too_long.clone()).await.code(), "old_password");
    }
    let changed = format!(r#"{{"password":"{0}","old":"{0}"}}"#, escaped(chars_max));
    assert_eq!(site.put("/v1/users/ada/password", &ada, changed).await.status, 204);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_accepts_only_the_patterns_of_its_parameters() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    for (method, path, code) in [
        (Method::GET, "/v1/services/a%20b", "not_a_name"),
        (Method::DELETE, "/v1/services/a%20b", "not_a_name"),
        (Method::POST, "/v1/services/a%20b/transactions", "not_a_name"),
        (Method::POST, "/v1/services/a%20b/transactions:batch", "not_a_name"),
        (Method::POST, "/v1/services/-/query", "not_a_name"),
        (Method::GET, "/v1/services/a%20b/transactions/1", "not_a_name"),
        (Method::PUT, "/v1/users/a%20b/password", "not_a_name"),
        (Method::DELETE, "/v1/users/a%20b", "not_a_name"),
        (Method::DELETE, "/v1/users/admin/grants/a%20b/transact", "not_a_name"),
        (Method::DELETE, "/v1/users/admin/grants/bank/everything", "not_a_grant"),
        (Method::GET, "/v1/services/bank/transactions/%C3%BC%0A", "not_an_id"),
        (Method::GET, "/v1/services/bank/transactions/%7F", "not_an_id"),
    ] {
        let request = site.request(method.clone(), path, &admin).body("1");
        let answered = Answered::of(request.send().await.expect("answered")).await;
        assert_eq!((answered.status, answered.code().as_str()), (400, code), "{method} {path}");
    }
    let pattern = parameter(&description(&site).await, "get", "/v1/services/{name}/transactions/{id}", "id");
    assert_eq!(pattern["pattern"], lifeboat_api::transaction::ID_PATTERN);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_under_which_a_transaction_is_executed_can_be_looked_up() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    let longest = "x".repeat(128);
    for (id, in_path) in [("a b", "a%20b"), ("...", "..."), (".x", ".x"), ("a/b", "a%2Fb"), (&*longest, &*longest)] {
        assert_eq!(site.transact(&admin, "bank", id, "1").await.status, 200, "{id}");
        let found = site.get(&format!("/v1/services/bank/transactions/{in_path}"), &admin).await;
        assert_eq!((found.status, found.header("lifeboat-repeated")), (200, "true"), "{id}: {found:?}");
    }
    for id in [".", ".."] {
        let refused = site.transact(&admin, "bank", id, "1").await;
        assert_eq!((refused.status, refused.code().as_str()), (400, "not_an_id"), "{id}");
    }
    for id in ["..", "ü", "a\\n"] {
        let line = format!("{{\"id\":\"{id}\",\"text\":\"1\"}}\n");
        let batch = site.post("/v1/services/bank/transactions:batch", &admin, line).await;
        assert_eq!(batch.json()["outcome"], "denied", "{batch:?}");
        let dropped = site.post("/v1/services/bank/drop", &admin, format!(r#"{{"user":"admin","id":"{id}"}}"#)).await;
        assert_eq!((dropped.status, dropped.code().as_str()), (400, "not_an_id"), "{id}");
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_accepted_whatever_its_content_type_is() {
    let folder = folder();
    let site = Site::start(folder.path(), "").await;
    let admin = site.log_in("admin").await;
    for (user, content_type) in [("a", "text/plain"), ("b", "application/x-www-form-urlencoded"), ("c", "")] {
        let body = json!({ "user": user, "password": PASSWORD }).to_string();
        let request = site.request(Method::POST, "/v1/users", &admin).header("Content-Type", content_type).body(body);
        assert_eq!(request.send().await.expect("answered").status(), 201, "{content_type}");
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_says_that_content_types_are_ignored() {
    let folder = folder();
    let site = Site::start(folder.path(), "").await;
    for methods in description(&site).await["paths"].as_object().expect("paths").values() {
        for operation in methods.as_object().expect("methods").values() {
            let Some(body) = operation.get("requestBody") else { continue };
            let text = body["description"].as_str().unwrap_or_default();
            assert!(text.contains("Content-Type is ignored"), "{operation}");
        }
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_outcome_has_its_status_code() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    let ok = site.transact(&admin, "bank", "a b", "1").await;
    assert_eq!((ok.status, ok.text(), ok.header("lifeboat-outcome")), (200, "1", "ok"));
    assert_eq!((ok.header("lifeboat-vm"), ok.header("lifeboat-transaction-id")), ("bank/1", "a%20b"));
    assert!(ok.header("lifeboat-fuel-used").parse::<u64>().expect("a number") > 0);
    let again = site.transact(&admin, "bank", "a b", "1").await;
    assert_eq!((again.status, again.text(), again.header("lifeboat-repeated")), (200, "1", "true"));
    let other = site.transact(&admin, "bank", "a b", "2").await;
    assert_eq!((other.status, other.code().as_str(), other.header("lifeboat-outcome")), (409, "id_reused", "denied"));
    let refused = site.transact(&admin, "bank", "r", "refuse").await;
    assert_eq!(
        (refused.status, refused.code().as_str(), refused.header("lifeboat-outcome")),
        (422, "refused", "refused")
    );
    assert_eq!(refused.json()["detail"], "refused on request");
    let failed = site.transact(&admin, "bank", "f", "boom").await;
    assert_eq!((failed.status, failed.code().as_str(), failed.header("lifeboat-outcome")), (422, "failed", "failed"));
    let query = site.post("/v1/services/bank/query", &admin, "?").await;
    assert_eq!((query.status, query.text()), (200, "1"));
    let large = site.post("/v1/services/bank/transactions", &admin, vec![b'x'; 1024 * 1024 + 1]).await;
    let large = (large.status, large.code(), large.header("lifeboat-outcome").to_owned());
    assert_eq!(large, (413, "body_too_large".into(), "denied".into()));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_looks_up_only_answers_to_their_own_ids() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    assert_eq!(site.transact(&admin, "bank", "a b", "1").await.status, 200);
    assert_eq!(site.transact(&admin, "bank", "r", "refuse").await.status, 422);
    let found = site.get("/v1/services/bank/transactions/a%20b", &admin).await;
    assert_eq!((found.status, found.text(), found.header("lifeboat-repeated")), (200, "1", "true"));
    let found = site.get("/v1/services/bank/transactions/r", &admin).await;
    assert_eq!((found.status, found.header("lifeboat-outcome")), (422, "refused"));
    let unknown = site.get("/v1/services/bank/transactions/never", &admin).await;
    assert_eq!((unknown.status, unknown.code().as_str()), (404, "unknown"));
    // An answer cannot be looked up by an id that no client sent.
    let without = site.post("/v1/services/bank/transactions", &admin, "refuse").await;
    assert_eq!((without.status, without.header("lifeboat-transaction-id")), (422, ""));
    let line = site.post("/v1/services/bank/transactions:batch", &admin, "{\"text\":\"refuse\"}\n").await.json();
    assert_eq!((&line["id"], &line["outcome"]), (&Value::Null, &json!("refused")));
    let ada = site.user(&admin, "ada", "bank", &[Grant::Transact]).await;
    assert_eq!(site.get("/v1/services/bank/transactions/r", &ada).await.status, 404);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_operators_see_what_a_guest_said_about_its_trap() {
    const SUMMARY: &str = "trap: wasm `unreachable` instruction executed";
    let folder = folder();
    let site = Site::start(folder.path(), "").await;
    let admin = site.log_in("admin").await;
    site.deploy(&admin, "count", "counter.wasm", "size=small").await;
    let ada = site.user(&admin, "ada", "count", &[Grant::Transact, Grant::Observe]).await;
    let bob = site.user(&admin, "bob", "count", &[Grant::Transact, Grant::Operate]).await;
    let overflow = r#"{"add":9223372036854775807}"#;
    site.transact(&admin, "count", "first", overflow).await;
    for (user, sees) in [(&admin, true), (&ada, false), (&bob, true)] {
        let shown = |text: &str| match sees {
            true => {
                let rest = text.strip_prefix(SUMMARY).expect("the same text for all");
                assert!(rest.starts_with("; it said: thread ") && rest.contains("panicked at "), "{text}");
            }
            false => assert_eq!(text, SUMMARY),
        };
        let answered = site.transact(user, "count", "x", overflow).await;
        assert_eq!((answered.status, answered.header("lifeboat-outcome")), (422, "failed"));
        shown(answered.json()["detail"].as_str().expect("a text"));
        let found = site.get("/v1/services/count/transactions/x", user).await;
        shown(found.json()["detail"].as_str().expect("a text"));
        let line = format!("{{\"json\":{overflow}}}\n");
        let line = site.post("/v1/services/count/transactions:batch", user, line).await.json();
        shown(line["cause"].as_str().expect("a text"));
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_causes_a_failover_sees_it_in_its_answer() {
    let folder = folder();
    let site = Site::start(folder.path(), "").await;
    let admin = site.log_in("admin").await;
    site.deploy(&admin, "bank", "work.wat", "size=small&fuel=400000").await;
    let (mut printed, mut count) = (Vec::new(), 0);
    while printed.len() < 3 {
        count += 1;
        let answered = site.transact(&admin, "bank", &count.to_string(), "1000").await;
        assert_eq!((answered.status, answered.text()), (200, count.to_string().as_str()));
        if !answered.header("lifeboat-failover").is_empty() {
            printed.push(answered.header("lifeboat-failover").to_owned());
        }
        assert!(count < 2_000, "it never fails over");
    }
    assert!(
        printed[0].starts_with("Trigger process failover: triggered: bank/1 on m1 -> bank/2 on m2 (state "),
        "{printed:?}"
    );
    assert!(printed[1].contains("bank/2 on m2 -> bank/3 on m1"), "{printed:?}");
    let usage = site.get("/v1/services/bank/usage", &admin).await.json();
    assert_eq!(usage["failovers"]["cpu"], 3, "{usage}");
    assert_eq!(usage["outcomes"]["ok"], count, "{usage}");
    let events = site.get("/v1/events?follow=false&event=failover", &admin).await;
    assert_eq!(events.text().matches("event: failover").count(), 3, "{}", events.text());
    assert!(events.text().contains(&printed[2]), "{}", events.text());
    let metrics = site.get("/metrics", &admin).await;
    assert!(metrics.text().contains(r#"lifeboat_failovers_total{service="bank",cause="cpu"} 3"#), "{}", metrics.text());
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_line_of_a_batch_is_denied_in_its_place() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    let path = "/v1/services/bank/transactions:batch";
    let lines = "{\"id\":\"1\",\"text\":\"1\"}\nnonsense\n{\"id\":\"3\",\"user\":\"eve\",\"text\":\"1\"}\n{\"query\":true,\"text\":\"\"}\n{\"id\":\"5\",\"text\":\"refuse\"}";
    let answered = site.post(path, &admin, lines).await;
    let answers: Vec<Value> =
        answered.text().lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    let outcomes: Vec<&str> = answers.iter().map(|answer| answer["outcome"].as_str().expect("a word")).collect();
    assert_eq!(outcomes, ["ok", "denied", "denied", "ok", "refused"], "{answers:?}");
    assert!(answers[1]["cause"].as_str().expect("why").starts_with("line 2 "), "{answers:?}");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_answered_in_order_while_it_is_sent() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    let path = "/v1/services/bank/transactions:batch";
    let (mut sender, receiver) = tokio::sync::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(1);
    let body = stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|piece| (piece, receiver)) });
    sender.send(Ok(b"{\"id\":\"x1\",\"text\":\"1\"}\n".to_vec())).await.expect("taken");
    let request = site.request(Method::POST, path, &admin).body(reqwest::Body::wrap_stream(body)).send();
    let mut response = request.await.expect("answered").bytes_stream();
    for number in 2..50 {
        let answer = response.next().await.expect("an answer").expect("whole");
        assert!(
            answer.starts_with(format!("{{\"id\":\"x{}\",\"outcome\":\"ok\"", number - 1).as_bytes()),
            "{answer:?}"
        );
        sender.send(Ok(format!("{{\"id\":\"x{number}\",\"text\":\"1\"}}\n").into_bytes())).await.expect("taken");
    }
    assert!(response.next().await.expect("an answer").is_ok());
    // After a broken body, the answers remain valid, and their lines can be sent again.
    sender.send(Err(std::io::Error::other("gone"))).await.expect("taken");
    sender = tokio::sync::mpsc::channel(1).0;
    drop(sender);
    let lines: String = (1..50).map(|number| format!("{{\"id\":\"x{number}\",\"text\":\"1\"}}\n")).collect();
    let again = site.post(path, &admin, lines).await;
    assert_eq!(again.text().lines().count(), 49);
    let count = site.post("/v1/services/bank/query", &admin, "").await;
    assert_eq!(count.text(), "49", "each was executed once");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_takes_longer_than_ids_are_retained_is_done_to_its_end() {
    const HOURS: u64 = 40;
    let folder = folder();
    let site = Site::start(folder.path(), "[tokens]\nlifetime_hours = 1000\n").await;
    let admin = site.log_in("admin").await;
    site.deploy(&admin, "bank", "work.wat", "size=small").await;
    let client = Client::new(&ClientsServer { url: site.url(""), ca: None }, Some(&admin)).expect("a client");
    let (clock, start) = (Arc::clone(&site.clock), site.clock.now());
    let mut ids = LineIds::new([7; 32], Vec::new());
    let draw_id = move |number| {
        if let Some(block) = ids.next_block(number, clock.now()) {
            ids.begin(block);
        }
        Ok(ids.id(number))
    };
    let (lines, receiver) = tokio::sync::mpsc::channel::<std::io::Result<Line>>(1);
    let input = stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|line| (line, receiver)) });
    let mut batch = client.batch("bank", input.boxed(), draw_id, Backoff::default());
    for number in 1..=HOURS {
        lines.send(Ok(Line { number, bytes: Ok(br#"{"text":"1"}"#.to_vec()) })).await.expect("taken");
        let progress = batch.next().await.expect("it goes on").expect("an answer");
        let Progress::Answer(answer) = progress else { panic!("{progress:?}") };
        assert_eq!(answer.outcome, Outcome::Ok, "line {number}: {answer:?}");
        site.clock.advance(Duration::from_secs(60 * 60));
    }
    // The same holds for an id with the time at which the first line was sent.
    let denied = site.transact(&admin, "bank", &uuid_v7(start, [8; 10]), "1").await;
    assert_eq!((denied.status, denied.code().as_str()), (409, "id_too_old"));
    drop((lines, batch));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_cannot_be_deployed_is_refused_with_the_reason() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    let exists = site.put("/v1/services/bank", &admin, crate::rig::guest_bytes("count.wat")).await;
    assert_eq!((exists.status, exists.code().as_str()), (409, "service_exists"));
    let refused = site.put("/v1/services/junk", &admin, "no wasm").await;
    assert_eq!((refused.status, refused.code().as_str()), (422, "workload_refused"));
    // A library panics at this workload.
    let hostile = crate::rig::guest_bytes("refused/alias-chain-150.wat");
    let refused = site.put("/v1/services/junk", &admin, hostile).await;
    assert_eq!((refused.status, refused.code().as_str()), (422, "workload_refused"));
    for (query, code) in [
        ("size=gigantic", "no_such_size"),
        ("fuel=9999", "fuel"),
        ("failover=maybe", "failover"),
        ("allow_net=db", "allow_net"),
        ("allow_net=http://db,public", "allow_net"),
        ("retry=always", "retry"),
    ] {
        let wrong = site.put(&format!("/v1/services/junk?{query}"), &admin, "").await;
        assert_eq!((wrong.status, wrong.code().as_str()), (400, code));
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_lists_only_services_that_they_may_observe() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    let observer = site.user(&admin, "observer", "bank", &[Grant::Observe]).await;
    site.deploy(&admin, "idle", "count.wat", "").await;
    site.deploy(&admin, "shop", "count.wat", "allow_net=http://db:5432,private+https://*.example.org").await;
    let caller = site.user(&admin, "caller", "shop", &[Grant::Transact]).await;
    let theirs = site.get("/v1/services", &caller).await.json();
    assert!(theirs["services"][0].get("network").is_none(), "{theirs}");
    let allow =
        json!([{"target": "http://db:5432", "private": true}, {"target": "https://*.example.org", "private": false}]);
    let of_admin = site.get("/v1/services/shop", &admin).await.json();
    assert_eq!(of_admin["network"], json!({"allow": allow, "retry": "ask"}), "{of_admin}");
    let theirs = site.get("/v1/services", &observer).await.json();
    assert_eq!(theirs["services"][0]["network"], json!({"allow": [], "retry": "ask"}), "{theirs}");
    assert_eq!(theirs["services"].as_array().expect("a list").len(), 1, "{theirs}");
    assert_eq!(theirs["services"][0]["vm"]["resources"]["cpu"]["unit"], "fuel", "{theirs}");
    assert_eq!(theirs["services"][0]["queue_length"], 0, "{theirs}");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_service_stays_stopped_until_an_operator_starts_it() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    site.deploy(&admin, "idle", "count.wat", "").await;
    for id in ["a", "b", "c"] {
        assert_eq!(site.transact(&admin, "idle", id, "x").await.status, 200);
    }
    let stopped = site.post("/v1/services/idle/stop", &admin, "").await.json();
    assert_eq!((&stopped["state"], &stopped["queue_length"]), (&json!("stopped"), &Value::Null), "{stopped}");
    let denied = site.transact(&admin, "idle", "d", "x").await;
    assert_eq!((denied.status, denied.code().as_str()), (503, "stopped"));
    site.stop().await;

    let site = Site::start(folder.path(), "").await;
    assert_eq!(site.get("/v1/services/idle", &admin).await.json()["state"], "stopped");
    let started = site.post("/v1/services/idle/start", &admin, "").await.json();
    assert_eq!((&started["state"], &started["vm"]["sequence"]), (&json!("running"), &json!(3)), "{started}");
    assert_eq!(site.transact(&admin, "idle", "c", "x").await.header("lifeboat-repeated"), "true");
    assert_eq!(site.transact(&admin, "idle", "d", "x").await.text(), "4");
    // Stopped and started while the server runs.
    assert_eq!(site.post("/v1/services/idle/stop", &admin, "").await.status, 200);
    assert_eq!(site.post("/v1/services/idle/start", &admin, "").await.status, 200);
    assert_eq!(site.transact(&admin, "idle", "d", "x").await.header("lifeboat-repeated"), "true");
    assert_eq!(site.transact(&admin, "idle", "e", "x").await.text(), "5");
    assert_eq!(site.post("/v1/services/idle/failover", &admin, "").await.json()["vm"]["id"], "idle/2");
    assert_eq!(site.post("/v1/services/idle/snapshot", &admin, "").await.json()["vm"]["snapshot_sequence"], 5);
    assert_eq!(site.delete("/v1/services/idle", &admin).await.status, 204);
    assert_eq!(site.delete("/v1/services/idle", &admin).await.status, 404);
    site.deploy(&admin, "idle", "count.wat", "").await;
    assert_eq!(site.transact(&admin, "idle", "a", "x").await.text(), "1", "nothing of the old one is left");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_parameter_or_body_is_named_with_the_accepted_values() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    let printed = async |method: Method, path: &str, body: &'static str| {
        let answered =
            Answered::of(site.request(method, path, &admin).body(body).send().await.expect("answered")).await;
        assert_eq!(answered.status, 400, "{answered:?}");
        let detail = answered.json()["detail"].as_str().expect("a text").to_owned();
        (answered.code(), detail)
    };
    for (path, what) in [
        ("/v1/services/new?fuel=abc", "the parameter 'fuel' is 'abc'; it must be a whole number"),
        ("/v1/services/new?sice=small", "there is no parameter 'sice'; the parameters are: size, fuel, failover"),
        ("/v1/services/new?fuel=1&fuel=2", "the parameter 'fuel' is given more than once"),
    ] {
        let (code, detail) = printed(Method::PUT, path, "").await;
        assert!(code == "query" && detail.starts_with(what), "{detail}");
    }
    for (query, what) in [
        ("follow=maybe", "the parameter 'follow' is 'maybe'; it must be true or false"),
        ("service=%20", "the parameter 'service' is ' '; it must be a name: "),
        (
            "follow=false&event=nonsense",
            "the parameter 'event' is 'nonsense'; it must be one of sla_failure, failover, ",
        ),
    ] {
        let (code, detail) = printed(Method::GET, &format!("/v1/events?{query}"), "").await;
        assert!(code == "query" && detail.starts_with(what), "{detail}");
    }
    let (code, detail) = printed(Method::POST, "/v1/services/bank/drop", "{\"usr\":\"ada\"}").await;
    assert!(code == "not_the_shape" && detail.starts_with("the body has an unknown field 'usr'; "), "{detail}");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_resumes_with_the_events_that_it_may_see() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    site.deploy(&admin, "vault", "work.wat", "").await;
    let observer = site.user(&admin, "observer", "bank", &[Grant::Observe]).await;
    let events = site.request(Method::GET, "/v1/events", &observer).send().await.expect("answered");
    let mut events = events.bytes_stream();
    for service in ["vault", "bank"] {
        let path = format!("/v1/services/{service}/failover");
        assert_eq!(site.post(&path, &admin, "").await.status, 200);
    }
    let mut text = String::new();
    while !text.contains("event: failover") || !text.ends_with("\n\n") {
        text += std::str::from_utf8(&events.next().await.expect("goes on").expect("whole")).expect("text");
    }
    assert!(text.contains("bank/1 on m") && !text.contains("vault"), "{text}");
    let id = text.lines().rev().find_map(|line| line.strip_prefix("id: ")).expect("an id").to_owned();
    assert_eq!(site.post("/v1/services/bank/failover", &admin, "").await.status, 200);
    let request = site.request(Method::GET, "/v1/events?follow=false&service=bank", &observer);
    let rest = Answered::of(request.header("Last-Event-ID", id).send().await.expect("answered")).await;
    assert_eq!(rest.text().matches("event: ").count(), 1, "{}", rest.text());
    assert!(rest.text().contains("bank/2 on m"), "{}", rest.text());
    assert_eq!(site.get("/v1/events?service=vault", &observer).await.status, 403);
    drop(events);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_log_in_does_not_reveal_whether_the_user_exists() {
    let folder = folder();
    let site = Site::start(folder.path(), "").await;
    let [wrong, nobody] = ["admin", "nobody"].map(|user| json!({"user": user, "password": "nonsense"}).to_string());
    let (wrong, nobody) = (site.post("/v1/login", "", wrong).await, site.post("/v1/login", "", nobody).await);
    assert_eq!((wrong.status, wrong.text()), (nobody.status, nobody.text()));
    assert_eq!(wrong.code(), "wrong_credentials");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_attempts_at_a_password_are_slowed_down() {
    let folder = folder();
    let site = Site::start(folder.path(), "").await;
    let mut codes = Vec::new();
    for _ in 0..8 {
        codes.push(site.post("/v1/login", "", json!({"user": "admin", "password": "nonsense"}).to_string()).await);
    }
    let last = codes.last().expect("some");
    assert_eq!((last.status, last.code().as_str()), (429, "too_many_attempts"));
    assert!(last.header("retry-after").parse::<u64>().expect("seconds") > 0);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_admin_changes_the_account_of_another() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    let ada = site.user(&admin, "ada", "bank", &[Grant::Transact]).await;
    let whoami = site.get("/v1/whoami", &ada).await.json();
    assert_eq!((&whoami["user"], &whoami["grants"]), (&json!("ada"), &json!({"bank": ["transact"]})));
    let path = "/v1/users/ada/password";
    let without_old = site.put(path, &ada, json!({"password": "another one"}).to_string()).await;
    assert_eq!((without_old.status, without_old.code().as_str()), (403, "old_password"));
    let changed = site.put(path, &ada, json!({"password": "another one", "old": PASSWORD}).to_string()).await;
    assert_eq!(changed.status, 204);
    assert_eq!(site.get("/v1/whoami", &ada).await.status, 401, "its tokens are void");
    assert_eq!(site.put(path, &admin, json!({"password": PASSWORD}).to_string()).await.status, 204);
    let ada = site.log_in("ada").await;
    assert_eq!(site.put("/v1/users/admin/password", &ada, "{}").await.status, 403);
    assert_eq!(site.transact(&ada, "bank", "1", "1").await.status, 200);
    assert_eq!(site.delete("/v1/users/ada/grants/bank/transact", &admin).await.status, 204);
    assert_eq!(site.transact(&ada, "bank", "2", "1").await.status, 403);
    assert_eq!(site.delete("/v1/users/admin", &admin).await.code(), "last_admin");
    assert_eq!(site.delete("/v1/users/ada", &admin).await.status, 204);
    assert_eq!(site.get("/v1/whoami", &ada).await.status, 401);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_back_waits_for_no_other_at_a_start() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    assert_eq!(site.transact(&admin, "bank", "1", "1").await.status, 200);
    site.stop().await;
    let storage = DiskStorage::open(&folder.path().join("data")).expect("it is there");
    let site = Site::starting(Arc::new(storage), folder.path(), "").await;
    assert_eq!(site.transact(&admin, "bank", "2", "1").await.status, 200);
    assert_eq!(site.post("/v1/services/bank/query", &admin, "").await.status, 200);
    assert_eq!(site.transact("nonsense", "bank", "2", "1").await.status, 401);
    // For a service that is not running, the server does not know yet whether it will run.
    let starting = site.transact(&admin, "vault", "1", "1").await;
    assert_eq!((starting.status, starting.code().as_str()), (503, "starting"));
    assert_eq!(site.get("/v1/services", &admin).await.code(), "starting");
    assert_eq!(site.delete("/v1/services/bank", &admin).await.code(), "starting");
    site.server.begin();
    assert_eq!(site.transact(&admin, "vault", "1", "1").await.status, 404);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_executed_once_over_all_connections() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    let both = stream::iter(0..40).map(|index| {
        let (site, admin) = (&site, &admin);
        async move { site.transact(admin, "bank", &format!("t{}", index / 2), "50000").await }
    });
    let answers: Vec<Answered> = both.buffered(8).collect().await;
    for pair in answers.chunks(2) {
        assert_eq!((pair[0].status, pair[0].text()), (200, pair[1].text()));
    }
    // A request that is cut off after any byte is executed at most once.
    let request = format!(
        "POST /v1/services/bank/transactions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {admin}\r\nIdempotency-Key: \"cut\"\r\nContent-Length: 4\r\n\r\n1000"
    );
    for length in 0..=request.len() {
        let mut stream = TcpStream::connect(site.address).await.expect("accepted");
        stream.write_all(&request.as_bytes()[..length]).await.expect("sent");
        drop(stream);
    }
    let answered = site.transact(&admin, "bank", "cut", "1000").await;
    assert_eq!((answered.status, answered.text()), (200, "21"));
    assert_eq!(site.post("/v1/services/bank/query", &admin, "").await.text(), "21");
    site.stop().await;
}

/// Returns `big-reply.wat`, whose `boom` counts and answers with `reply_bytes` zeros.
fn talkative(reply_bytes: u32) -> String {
    let text = String::from_utf8(crate::rig::guest_bytes("big-reply.wat")).expect("text");
    let pages = 1 + reply_bytes.div_ceil(65_536);
    let big = "(return (call $answer (i32.const 0) (i32.const 0) (i32.const 0x4000000)))";
    let counted = format!(
        "(global.set $count (i64.add (global.get $count) (i64.const 1)))
        (return (call $answer (i32.const 0) (i32.const 65536) (i32.const {reply_bytes})))"
    );
    let guest = text.replace("(i32.const 1025)", &format!("(i32.const {pages})"));
    let guest = guest.replace("(memory.grow (i32.const 1024))", &format!("(memory.grow (i32.const {pages}))"));
    assert!(guest.contains(big), "the guest is not what it was");
    guest.replace(big, &counted)
}

/// Opens a connection with a small receive buffer, so that the server is still writing when its client disconnects.
async fn narrow(site: &Site) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("set");
    socket.connect(site.address).await.expect("accepted")
}

/// Reads `bytes` of an answer and disconnects. The unread rest makes the kernel reset the connection.
async fn vanish_after(mut stream: TcpStream, request: &str, bytes: usize) {
    stream.write_all(request.as_bytes()).await.expect("sent");
    stream.read_exact(&mut vec![0; bytes]).await.expect("so much is answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_while_it_is_answered_doubles_nothing_when_it_comes_back() {
    const REPLY_BYTES: u32 = 2 * 1024 * 1024;
    let folder = folder();
    let site = Site::start(folder.path(), "").await;
    let admin = site.log_in("admin").await;
    assert_eq!(site.put("/v1/services/bank?size=medium", &admin, talkative(REPLY_BYTES)).await.status, 201);
    let cuts = [0, 1, 12, 17, 200, 4_096, 100_000, 1_000_000];
    for (id, bytes) in cuts.into_iter().enumerate() {
        let request = format!(
            "POST /v1/services/bank/transactions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {admin}\r\nIdempotency-Key: \"{id}\"\r\nContent-Length: 4\r\n\r\nboom"
        );
        vanish_after(narrow(&site).await, &request, bytes).await;
    }
    for (id, bytes) in cuts.into_iter().enumerate() {
        let answered = site.transact(&admin, "bank", &id.to_string(), "boom").await;
        assert_eq!((answered.status, answered.body.len()), (200, REPLY_BYTES as usize));
        // A request whose answer had begun was executed.
        assert!(bytes == 0 || answered.header("lifeboat-repeated") == "true", "{bytes} bytes were read");
    }
    let count = site.post("/v1/services/bank/query", &admin, "").await;
    assert_eq!(count.text(), cuts.len().to_string(), "each was executed once");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_client_vanishes_while_it_is_answered_resumes_where_it_was() {
    const LINES: usize = 100;
    let folder = folder();
    let site = Site::start(folder.path(), "").await;
    let admin = site.log_in("admin").await;
    assert_eq!(site.put("/v1/services/bank?size=medium", &admin, talkative(20 * 1024)).await.status, 201);
    let lines: String = (0..LINES).map(|id| format!("{{\"id\":\"{id}\",\"text\":\"boom\"}}\n")).collect();
    let path = "/v1/services/bank/transactions:batch";
    for bytes in [0, 1, 150, 5_000, 200_000, 1_000_000, 5_000_000] {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {admin}\r\nContent-Length: {}\r\n\r\n{lines}",
            lines.len()
        );
        vanish_after(narrow(&site).await, &request, bytes).await;
    }
    let answered = site.post(path, &admin, lines).await;
    let answers: Vec<Value> =
        answered.text().lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    assert_eq!(answers.len(), LINES);
    for (id, answer) in answers.iter().enumerate() {
        assert_eq!((&answer["id"], &answer["outcome"]), (&json!(id.to_string()), &json!("ok")));
    }
    let count = site.post("/v1/services/bank/query", &admin, "").await;
    assert_eq!(count.text(), LINES.to_string(), "each was executed once");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_idle_or_half_open_connections_starve_nobody() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    let request = format!("GET /v1/whoami HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {admin}\r\n\r\n");
    let mut held = Vec::new();
    for index in 0..2_000 {
        let mut stream = TcpStream::connect(site.address).await.expect("accepted");
        // Every second connection has sent half of a head.
        let sent = if index % 2 == 1 { request.len() / 2 } else { 0 };
        stream.write_all(&request.as_bytes()[..sent]).await.expect("sent");
        held.push((stream, sent));
    }
    for id in 0..20 {
        assert_eq!(site.transact(&admin, "bank", &id.to_string(), "1").await.status, 200);
    }
    for (stream, sent) in &mut held {
        stream.write_all(&request.as_bytes()[*sent..]).await.expect("held");
        let mut answer = vec![0; 1024];
        let length = stream.read(&mut answer).await.expect("answered");
        assert!(answer[..length].starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer[..length]));
    }
    drop(held);
    site.stop().await;
}

const FEW_PLACES: &str = "[server.limits]\nconnections_max = 8\nheader_deadline_ms = 500\nbody_deadline_ms = 500\n";

#[tokio::test(flavor = "multi_thread")]
async fn heads_or_bodies_that_do_not_come_are_not_waited_for() {
    let folder = folder();
    let site = Site::start(folder.path(), FEW_PLACES).await;
    let admin = site.log_in("admin").await;
    site.deploy(&admin, "bank", "work.wat", "").await;
    let mut head = TcpStream::connect(site.address).await.expect("accepted");
    head.write_all(b"POST /v1/services/bank/transactions HTTP/1.1\r\nHo").await.expect("sent");
    assert_eq!(head.read(&mut [0; 1]).await.unwrap_or(0), 0, "the server hangs up");
    let mut body = TcpStream::connect(site.address).await.expect("accepted");
    let request = format!(
        "POST /v1/services/bank/query HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {admin}\r\nContent-Length: 9\r\n\r\nx"
    );
    body.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = vec![0; 1024];
    let length = body.read(&mut answer).await.expect("answered");
    assert!(answer[..length].starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&answer[..length]));
    drop((head, body));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_cannot_take_every_place() {
    let folder = folder();
    let site = Site::start(folder.path(), FEW_PLACES).await;
    site.log_in("admin").await;
    // The address may have half of eight places, and the client has one of them. Other addresses would still find the
    // other half.
    let mut places = Vec::new();
    let mut is_full = false;
    while !is_full {
        let mut stream = TcpStream::connect(site.address).await.expect("the kernel accepts");
        let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
        is_full = stream.write_all(request).await.is_err() || stream.read(&mut [0; 64]).await.unwrap_or(0) == 0;
        places.push(stream);
        assert!(places.len() <= 5, "one address has {} places", places.len());
    }
    drop(places);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_answered_before_it_has_sent_all_is_not_reset() {
    const PIECES: usize = 64;
    let folder = folder();
    let limits = "[server.limits]\nbody_bytes_max = 1024\n";
    // On a busy machine, the client may not get to send within the usual second.
    let site = Site::start_draining(folder.path(), limits, DRAINED_TIME_MAX).await;
    let admin = site.log_in("admin").await;
    site.deploy(&admin, "bank", "work.wat", "").await;
    let too_long = "x".repeat(2048);
    for (path, token, body, status) in [
        ("nothing/transactions:batch", admin.as_str(), "{\"text\":\"1\"}\n", "404 "),
        ("bank/transactions", "lifeboat_nobodys", "1", "401 "),
        ("bank/transactions", &admin, &too_long, "413 "),
    ] {
        let mut stream = TcpStream::connect(site.address).await.expect("accepted");
        let request = format!(
            "POST /v1/services/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 100000\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        // The server has sent its answer and its end. The client has read neither.
        let answered = async {
            while !stream.ready(Interest::READABLE).await.expect("open").is_read_closed() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, answered).await.expect("it answers at once");
        for _ in 0..PIECES {
            stream.write_all(&[b'x'; 1024]).await.expect("no reset");
        }
        stream.shutdown().await.expect("no reset");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("no reset");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_server_does_not_wait_for_clients_that_hang_up_on_nothing() {
    let folder = folder();
    let site = Site::start(folder.path(), "").await;
    let idle = TcpStream::connect(site.address).await.expect("accepted");
    site.stop().await;
    drop(idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_from_two_addresses_keep_a_third_out_for_no_time() {
    let folder = folder();
    let site = Site::start(folder.path(), "[server.limits]\nconnections_max = 32\n").await;
    let from = async |last: u8| {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, last], 0).into()).expect("an address of loopback");
        socket.connect(site.address).await.expect("the kernel accepts")
    };
    let mut idle = Vec::new();
    for index in 0..32 {
        let mut stream = from(2 + index % 2).await;
        if index % 4 < 2 {
            // Half of a head.
            stream.write_all(b"GET /healthz HTT").await.expect("sent");
        }
        idle.push(stream);
    }
    let start = std::time::Instant::now();
    let admin = site.log_in("admin").await;
    assert_eq!(site.get("/v1/whoami", &admin).await.status, 200);
    assert!(start.elapsed() < lifeboat_server::UNAUTHENTICATED_IDLE_MAX, "it waited {:?}", start.elapsed());
    // The connections whose places were taken are closed, in the order of their arrival.
    assert_eq!(idle[0].read(&mut [0; 1]).await.unwrap_or(0), 0);
    drop(idle);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_ins_that_do_not_come_whole_keep_a_third_address_out_for_no_time() {
    let folder = folder();
    let site = Site::start(folder.path(), "[server.limits]\nconnections_max = 32\n").await;
    let mut held = Vec::new();
    for index in 0..32 {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 2 + index % 2], 0).into()).expect("an address of loopback");
        let mut stream = socket.connect(site.address).await.expect("the kernel accepts");
        let request = b"POST /v1/login HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 50\r\n\r\n";
        stream.write_all(request).await.expect("sent");
        // The server asks for the body, which does not arrive.
        stream.read_exact(&mut [0; 25]).await.expect("it asks");
        held.push(stream);
    }
    let admin = site.log_in("admin").await;
    assert_eq!(site.get("/v1/whoami", &admin).await.status, 200);
    // It received the place of the first of these. That connection is closed before its time is over; otherwise it
    // would get an answer.
    assert_eq!(held[1].read(&mut [0; 1]).await.unwrap_or(0), 0);
    drop(held);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_what_is_under_way() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    let head = |path: &str, more: &str| {
        format!("POST /v1/services/bank/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {admin}\r\n{more}\r\n")
    };
    let mut single = TcpStream::connect(site.address).await.expect("accepted");
    let request = head("transactions", "Content-Length: 4\r\nExpect: 100-continue\r\n");
    single.write_all(request.as_bytes()).await.expect("sent");
    single.read_exact(&mut [0; 25]).await.expect("it asks for the body");
    let mut batch = TcpStream::connect(site.address).await.expect("accepted");
    batch.write_all(head("transactions:batch", "Transfer-Encoding: chunked\r\n").as_bytes()).await.expect("sent");
    batch.write_all(b"15\r\n{\"id\":\"a\",\"text\":\"1\"}\r\n1\r\n\n\r\n").await.expect("sent");
    let mut answers = String::new();
    while !answers.contains("\"ok\"") {
        let mut piece = [0; 1024];
        let length = batch.read(&mut piece).await.expect("answered");
        answers += std::str::from_utf8(&piece[..length]).expect("text");
    }
    let stopping = tokio::spawn(site.stop());
    // The client continues to send, and the connection is not reset before it has read the reason for its end.
    while !answers.contains("draining") {
        let mut piece = [0; 1024];
        let length = batch.read(&mut piece).await.expect("no reset");
        assert!(length > 0, "it ends without a line: {answers}");
        answers += std::str::from_utf8(&piece[..length]).expect("text");
    }
    assert!(answers.contains("\"status\":503"), "{answers}");
    drop(batch);
    single.write_all(b"1000").await.expect("sent");
    let mut answer = String::new();
    single.read_to_string(&mut answer).await.expect("answered");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n2"), "{answer}");
    stopping.await.expect("it ends");
}

/// Starts `bank` until it is found to run. A stop from a client that has disconnected may run in between, or between
/// the start and the status. Each stop does so once.
async fn started(site: &Site, admin: &str) {
    for _ in 0..100 {
        let shown = site.post("/v1/services/bank/start", admin, "").await;
        match shown.json()["state"].as_str() {
            Some("running") => return,
            Some("stopped") => {}
            _ => panic!("neither started nor stopped: {shown:?}"),
        }
    }
    panic!("more stops than were asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_who_hang_up_leave_no_service_half_way() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    for round in 0..30_u64 {
        for operation in ["stop", "start", "stop", "start"] {
            let request = format!(
                "POST /v1/services/bank/{operation} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {admin}\r\nContent-Length: 0\r\n\r\n"
            );
            let mut stream = TcpStream::connect(site.address).await.expect("accepted");
            stream.write_all(request.as_bytes()).await.expect("sent");
            drop(stream);
        }
        started(&site, &admin).await;
        let answered = site.transact(&admin, "bank", &round.to_string(), "1").await;
        assert!(answered.status == 200 || answered.status == 503, "{answered:?}");
    }
    started(&site, &admin).await;
    let mut count = 0;
    for round in 0..30_u64 {
        let answered = loop {
            let answered = site.transact(&admin, "bank", &round.to_string(), "1").await;
            if answered.status == 200 {
                break answered;
            }
            assert_eq!((answered.status, answered.code().as_str()), (503, "stopped"));
            site.post("/v1/services/bank/start", &admin, "").await;
        };
        count = count.max(answered.text().parse().expect("a count"));
    }
    assert_eq!(count, 30, "each was executed once");
    site.stop().await;
    let data = folder.path().join("data");
    crate::util::lifeboat(["data", "verify", "--data"]).arg(data).output().exits(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_becomes_void_ends_its_streams_or_batches() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    let ada = site.user(&admin, "ada", "bank", &[Grant::Transact, Grant::Observe]).await;
    let mut events = site.request(Method::GET, "/v1/events", &ada).send().await.expect("answered").bytes_stream();
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(1);
    let body = stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|piece| (piece, receiver)) });
    sender.send(Ok(b"{\"text\":\"1\"}\n".to_vec())).await.expect("taken");
    let request = site.request(Method::POST, "/v1/services/bank/transactions:batch", &ada);
    let answers = request.body(reqwest::Body::wrap_stream(body)).send().await.expect("answered");
    let mut answers = answers.bytes_stream();
    assert!(answers.next().await.expect("one").expect("whole").windows(4).any(|word| word == b"\"ok\""));
    let created = events.next().await.expect("one").expect("whole");
    assert!(created.windows(7).any(|word| word == b"created"), "{created:?}");
    assert_eq!(site.post("/v1/logout", &ada, "").await.status, 204);
    // Both lines are sent at once: a line that is sent after the end of the batch may break the connection before that
    // end is read.
    sender.send(Ok(b"{\"text\":\"1\"}\n".repeat(2))).await.expect("taken");
    let last = answers.next().await.expect("a last line").expect("whole");
    let last: Value = serde_json::from_slice(&last).expect("JSON");
    assert_eq!((&last["status"], &last["code"]), (&json!(401), &json!("not_authenticated")), "{last}");
    // No line after it is answered or executed.
    assert!(answers.next().await.is_none(), "the batch ends");
    assert_eq!(site.post("/v1/services/bank/query", &admin, "").await.text(), "1");
    assert_eq!(site.post("/v1/services/bank/failover", &admin, "").await.status, 200);
    assert!(events.next().await.is_none(), "the stream ends, and tells nothing");
    // Not earlier: the client would send another request over a connection that the server closes.
    drop(sender);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_put_back_for_a_moment_logs_nobody_out() {
    const HOUR: Duration = Duration::from_secs(60 * 60);
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    let right = site.clock.now();
    let expires = site.get("/v1/whoami", &admin).await.json()["expires"].clone();
    site.clock.set(Timestamp(1_000_000_000));
    let whoami = site.get("/v1/whoami", &admin).await.json();
    assert_eq!(whoami["expires"], "1970-01-02T00:01:01Z", "by the clock as it is, with a minute of grace");
    let since = site.log_in("admin").await;
    assert_eq!(site.get("/v1/whoami", &since).await.status, 200);
    site.clock.set(right);
    assert_eq!(site.get("/v1/whoami", &admin).await.json()["expires"], expires);
    // The token is valid for a lifetime by the clock as it was. The server cannot know that the clock was wrong.
    assert_eq!(site.get("/v1/whoami", &since).await.status, 401, "who logged in by a clock of long ago logs in again");
    site.clock.advance(HOUR * 24);
    assert_eq!(site.get("/v1/whoami", &admin).await.status, 401);
    // Nor does it keep tokens valid that were issued before.
    site.clock.advance(HOUR);
    site.clock.set(right);
    assert_eq!(site.get("/v1/whoami", &admin).await.status, 401);
    site.stop().await;
}

/// Sends the head of a request, and returns once the server asks for the body. At that time the token was valid.
async fn ask_before_body(site: &Site, method: &str, path: &str, token: &str, body_bytes: usize) -> TcpStream {
    let mut stream = TcpStream::connect(site.address).await.expect("accepted");
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {body_bytes}\r\n\
         Expect: 100-continue\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = [0; 25];
    stream.read_exact(&mut answer).await.expect("answered");
    assert_eq!(&answer, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_becomes_void_while_a_body_is_sent_does_nothing() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    site.user(&admin, "ada", "bank", &[]).await;
    let eve = json!({ "user": "eve", "password": PASSWORD, "is_admin": true }).to_string();
    let other = json!({ "user": "other", "password": PASSWORD, "is_admin": true }).to_string();
    let password = json!({ "password": "another one of theirs" }).to_string();
    for (method, path, body) in [
        ("POST", "/v1/users", &*other),
        ("PUT", "/v1/users/ada/password", &password),
        ("POST", "/v1/services/bank/transactions", "1"),
        ("POST", "/v1/services/bank/query", "?"),
    ] {
        assert_eq!(site.post("/v1/users", &admin, eve.clone()).await.status, 201);
        let token = site.log_in("eve").await;
        let mut stream = ask_before_body(&site, method, path, &token, body.len()).await;
        assert_eq!(site.delete("/v1/users/eve", &admin).await.status, 204);
        stream.write_all(body.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        assert!(answer.starts_with("HTTP/1.1 401 "), "{method} {path}: {answer}");
    }
    assert!(!site.get("/v1/users", &admin).await.text().contains("other"));
    site.log_in("ada").await;
    assert_eq!(site.post("/v1/services/bank/query", &admin, "?").await.text(), "0", "nothing was dispatched");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_while_a_body_is_sent_does_nothing() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    site.user(&admin, "ada", "bank", &[]).await;
    let other = json!({ "user": "other", "password": PASSWORD, "is_admin": true }).to_string();
    let password = json!({ "password": "another one of theirs" }).to_string();
    for (method, path, body) in [
        ("POST", "/v1/users", &*other),
        ("PUT", "/v1/users/ada/password", &password),
        ("POST", "/v1/services/bank/transactions", "1"),
        ("POST", "/v1/services/bank/query", "?"),
        ("PUT", "/v1/services/new", "(component)"),
    ] {
        let token = site.log_in("admin").await;
        let mut stream = ask_before_body(&site, method, path, &token, body.len()).await;
        site.clock.advance(Duration::from_secs(25 * 60 * 60));
        stream.write_all(body.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("expired"), "{method} {path}: {answer}");
    }
    let admin = site.log_in("admin").await;
    assert_eq!(site.post("/v1/services/bank/query", &admin, "?").await.text(), "0", "nothing was dispatched");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_two_tokens_has_none() {
    let folder = folder();
    let site = Site::start(folder.path(), "").await;
    let admin = site.log_in("admin").await;
    for tokens in [[&*admin, &*admin], [&admin, "nonsense"], ["nonsense", &admin]] {
        let request = tokens.into_iter().fold(site.client.get(site.url("/v1/whoami")), |request, token| {
            request.header("Authorization", format!("Bearer {token}"))
        });
        let answered = Answered::of(request.send().await.expect("answered")).await;
        assert_eq!((answered.status, answered.code().as_str()), (401, "not_authenticated"));
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_users_can_take_every_stream_of_events() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    let open = async |token: &str| site.request(Method::GET, "/v1/events", token).send().await.expect("answered");
    // A user who may observe nothing needs no stream.
    let nobody = site.user(&admin, "nobody", "bank", &[Grant::Transact]).await;
    let refused = Answered::of(open(&nobody).await).await;
    assert_eq!((refused.status, refused.code().as_str()), (403, "not_granted"));
    let mut streams = Vec::new();
    for user in 0..12 {
        let token = site.user(&admin, &format!("user-{user}"), "bank", &[Grant::Observe]).await;
        let before = streams.len();
        loop {
            let stream = open(&token).await;
            if stream.status() != 200 {
                let refused = Answered::of(stream).await;
                assert_eq!((refused.status, refused.code().as_str()), (503, "too_many_streams"));
                assert!(!refused.header("retry-after").is_empty());
                break;
            }
            streams.push(stream);
        }
        let theirs = streams.len() - before;
        assert!((1..=STREAMS_PER_USER_MAX).contains(&theirs), "user {user} has {theirs}");
        assert!(user > 0 || theirs == STREAMS_PER_USER_MAX);
    }
    assert_eq!(open(&admin).await.status(), 200);
    drop(streams);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_created_again_shows_new_observers_nothing_of_the_former() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    assert_eq!(site.post("/v1/services/bank/failover", &admin, "").await.status, 200);
    assert_eq!(site.delete("/v1/services/bank", &admin).await.status, 204);
    site.deploy(&admin, "bank", "work.wat", "size=small").await;
    let ada = site.user(&admin, "ada", "bank", &[Grant::Observe]).await;
    let events = async |token: &str| site.get("/v1/events?follow=false&service=bank", token).await.text().to_owned();
    let (theirs, all) = (events(&ada).await, events(&admin).await);
    assert_eq!(theirs.matches("event: ").count(), 1, "{theirs}");
    assert!(theirs.contains("event: created"), "{theirs}");
    assert!(all.contains("event: failover") && all.matches("event: created").count() == 2, "{all}");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_over_for_its_token_does_not_hold_up_the_end_of_the_server() {
    let folder = folder();
    let site = Site::start(folder.path(), "[server.limits]\nbody_deadline_ms = 3600000\n").await;
    let admin = site.log_in("admin").await;
    site.deploy(&admin, "bank", "work.wat", "size=small").await;
    let ada = site.user(&admin, "ada", "bank", &[Grant::Transact]).await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(1);
    let body = stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|piece| (piece, receiver)) });
    sender.send(Ok(b"{\"text\":\"1\"}\n".to_vec())).await.expect("taken");
    let request = site.request(Method::POST, "/v1/services/bank/transactions:batch", &ada);
    let answers = request.body(reqwest::Body::wrap_stream(body)).send().await.expect("answered");
    let mut answers = answers.bytes_stream();
    answers.next().await.expect("one").expect("whole");
    assert_eq!(site.post("/v1/logout", &ada, "").await.status, 204);
    sender.send(Ok(b"{\"text\":\"1\"}\n".to_vec())).await.expect("taken");
    answers.next().await.expect("a last line").expect("whole");
    // The client neither sends anything nor ends its request. A server that waited for that would cut the answer off.
    let ((), after) = futures::future::join(site.stop(), answers.next()).await;
    assert!(after.is_none(), "it ends as it should: {after:?}");
    drop(sender);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_a_certificate_speaks_tls_alone() {
    let folder = folder();
    let (certificate, key) = (tls_file("server.pem"), tls_file("server.key"));
    let tls = tls_table(&certificate, &key);
    let site = Site::start(folder.path(), &tls).await;
    let admin = site.log_in("admin").await;
    assert_eq!(site.get("/v1/whoami", &admin).await.status, 200);
    assert!(reqwest::get(format!("http://{}/healthz", site.address)).await.is_err(), "nothing is said in the clear");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_certificate_stays_on_loopback() {
    let everywhere = "0.0.0.0:0".parse().expect("an address");
    let refused = Listener::bind(everywhere, None, false).await.expect_err("there is no TLS").to_string();
    assert!(refused.contains("--insecure") && refused.contains("[server.tls]"), "{refused}");
    assert!(Listener::bind(everywhere, None, true).await.is_ok());
}

#[test]
fn an_unusable_key_is_refused_with_its_file() {
    let wrong =
        tls::load(&tls_file("server.pem"), &tls_file("README.md"), SystemClock.now()).expect_err("it is no key");
    let wrong = wrong.iter().map(ToString::to_string).collect::<String>();
    assert!(wrong.starts_with("the key '") && wrong.contains("README.md"), "{wrong}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_of_a_service_that_spins_is_always_answered() {
    let folder = folder();
    let site = Site::start(folder.path(), "").await;
    let admin = site.log_in("admin").await;
    site.deploy(&admin, "spinner", "work.wat", "size=small&fuel=20000000").await;
    site.deploy(&admin, "neighbour", "count.wat", "size=small").await;
    let spinning = async {
        let mut outcomes = Vec::new();
        for index in 0..12 {
            // Every third transaction needs more than a whole tank.
            let work = if index % 3 == 2 { "100000000" } else { "1000000" };
            let answered = site.transact(&admin, "spinner", &index.to_string(), work).await;
            outcomes.push(answered.header("lifeboat-outcome").to_owned());
        }
        outcomes
    };
    let neighbour = async {
        for index in 0..200 {
            let answered = site.transact(&admin, "neighbour", &index.to_string(), "x").await;
            assert_eq!((answered.status, answered.text()), (200, (index + 1).to_string().as_str()));
        }
    };
    let (outcomes, ()) = futures::future::join(spinning, neighbour).await;
    let of = |outcome: &str| outcomes.iter().filter(|found| *found == outcome).count();
    assert_eq!((of("ok"), of("failed")), (8, 4), "{outcomes:?}");
    let usage = site.get("/v1/services/spinner/usage", &admin).await.json();
    assert!(usage["failovers"]["cpu"].as_u64().expect("a number") >= 1, "{usage}");
    assert!(usage["sla_failures"]["cpu"].as_u64().expect("a number") >= 4, "{usage}");
    site.stop().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Each case sends many requests, each over a connection of its own. A handler that panics answers 500.
    #[test]
    fn no_bytes_make_the_server_panic_or_fail(
        seeds in prop::collection::vec((0usize..12, prop::collection::vec(any::<u8>(), 0..120), any::<bool>()), 20),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let folder = folder();
        let (site, admin) = runtime.block_on(bank(&folder));
        for (target, bytes, has_token) in seeds {
            let noise = String::from_utf8_lossy(&bytes).replace(['\r', '\n', ' '], "");
            let paths = [
                "/v1/login", "/v1/users", "/v1/services/bank/transactions", "/v1/services/bank/transactions:batch",
                "/v1/services/bank/query", "/v1/services/new", "/v1/users/admin/password", "/v1/events?follow=false",
            ];
            let path = paths.get(target).map_or_else(|| format!("/{noise}"), |path| (*path).to_owned());
            let method = ["POST", "PUT", "GET", "DELETE"][bytes.len() % 4];
            let token = if has_token { &admin } else { &noise };
            let mut request = format!(
                "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\nIdempotency-Key: {noise}\r\nLast-Event-ID: {noise}\r\nContent-Length: {}\r\n\r\n",
                bytes.len()
            ).into_bytes();
            request.extend_from_slice(&bytes);
            let mut stream = std::net::TcpStream::connect(site.address).expect("accepted");
            stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
            // The server may close the connection before it has read everything.
            let _ = stream.write_all(&request);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            let answer = String::from_utf8_lossy(&answer).into_owned();
            prop_assert!(!answer.starts_with("HTTP/1.1 5"), "{answer}");
        }
        let alive = runtime.block_on(site.get("/healthz", ""));
        prop_assert_eq!(alive.status, 200);
        runtime.block_on(site.stop());
    }
}
