//! What operators see of their services, and what they can do to one while another is busy: over HTTP against a server
//! in this process, and in the log lines of `lifeboat serve`.

use crate::rig::name;
use crate::serving::{PASSWORD, Serving, set_up};
use crate::site::{Answered, Site};
use crate::util::{PATIENCE, guest, lifeboat, prebuilt};
use lifeboat_api::access::Grant;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::event::Event;
use lifeboat_host::service::QUEUE_MAX;
use lifeboat_journal::storage::{Operation, SimulatedStorage};
use lifeboat_server::EVENTS_KEPT_MAX;
use reqwest::Method;
use serde_json::{Value, json};
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// A size whose VMs may run for longer than any test, however busy the machine is.
const LONG: &str =
    "[[size]]\nname = 'long'\nfuel = 1_000_000_000_000_000_000\nmemory = '16MiB'\ndeadline_ms = 86400000\n";

/// Work that takes longer than that. A test that sends it does not stop the server, but leaves it as a crash does.
const ENDLESS: &str = "100000000000000000";

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Starts a server with a service `bank` of size `long`. Returns it with its admin's token.
async fn bank(folder: &tempfile::TempDir) -> (Site, String) {
    let site = Site::start(folder.path(), LONG).await;
    let admin = site.log_in("admin").await;
    site.deploy(&admin, "bank", "work.wat", "").await;
    (site, admin)
}

/// Waits until a condition holds, with a time limit.
async fn until(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it comes to that");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_takes_long_to_stop_delays_no_other() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    site.deploy(&admin, "vault", "count.wat", "").await;
    site.send(&admin, "bank", "spin", ENDLESS);
    let server = site.server.clone();
    let stopping = tokio::spawn(async move { server.host().stop_service(&name("bank")).await });
    until(|| !site.server.host().has_service(&name("bank"))).await;
    let others = async {
        // This service has the same workload as the one that is being stopped. The workload stays.
        site.deploy(&admin, "branch", "work.wat", "").await;
        for service in ["vault", "branch"] {
            assert_eq!(site.transact(&admin, service, "1", "1").await.status, 200);
            assert_eq!(site.post(&format!("/v1/services/{service}/stop"), &admin, "").await.status, 200);
            assert_eq!(site.post(&format!("/v1/services/{service}/start"), &admin, "").await.status, 200);
            assert_eq!(site.transact(&admin, service, "2", "1").await.text(), "2");
            assert_eq!(site.delete(&format!("/v1/services/{service}"), &admin).await.status, 204);
        }
    };
    tokio::time::timeout(PATIENCE, others).await.expect("none of them waits");
    assert!(!stopping.is_finished());
    assert_eq!(site.transact(&admin, "bank", "3", "1").await.code(), "stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_denies_with_a_time_to_try_again() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    site.send(&admin, "bank", "spin", ENDLESS);
    until(|| site.server.host().queue_lengths()[&name("bank")] == 0).await;
    let pending = site.get("/v1/services/bank/transactions/spin", &admin).await;
    assert_eq!((pending.status, &pending.json()["state"]), (202, &json!("pending")));
    for number in 1..=QUEUE_MAX {
        site.send(&admin, "bank", &number.to_string(), "1");
    }
    let full = site.transact(&admin, "bank", "one too many", "1").await;
    assert_eq!((full.status, full.code().as_str(), full.header("lifeboat-outcome")), (429, "queue_full", "denied"));
    assert!(full.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0), "{full:?}");
    // The length of the queue is reported even for a service that is too busy to report the rest, but only to users who
    // may observe it.
    let user = site.user(&admin, "teller", "bank", &[Grant::Transact]).await;
    for (token, is_told) in [(&admin, true), (&user, false)] {
        let services = site.get("/v1/services", token).await.json();
        let service = &services["services"][0];
        // Requests for the status wait in the queue as well.
        let is_full = service["queue_length"].as_u64().is_some_and(|length| length >= QUEUE_MAX as u64);
        assert_eq!((is_full, &service["vm"]), (is_told, &Value::Null), "{services}");
        assert_eq!(service.get("queue_length").is_some(), is_told, "{services}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_whose_client_hangs_up_is_counted_all_the_same() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    // This transaction bypasses the API, and keeps the service busy meanwhile.
    site.send(&admin, "bank", "before", "1000000000");
    until(|| site.server.host().queue_length("bank") == Some(0)).await;
    let mut stream = TcpStream::connect(site.address).await.expect("accepted");
    let request = format!(
        "POST /v1/services/bank/transactions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {admin}\r\nContent-Length: 1\r\n\r\n1"
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let counted = async || {
        let usage = site.get("/v1/services/bank/usage", &admin).await.json();
        usage["outcomes"]["ok"].as_u64().expect("a number")
    };
    // It waits for the transaction before it, which takes seconds.
    until(|| site.server.host().queue_length("bank") == Some(1)).await;
    drop(stream);
    let start = Instant::now();
    while counted().await == 0 {
        assert!(start.elapsed() < PATIENCE, "it is not counted");
    }
    assert_eq!((site.post("/v1/services/bank/query", &admin, "?").await.text(), counted().await), ("2", 2));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_outcome_is_reported_as_unknown_in_every_form() {
    let folder = folder();
    for way in ["batch", "alone", "without an id"] {
        let storage = SimulatedStorage::new(1);
        let site = Site::start_on(Arc::new(storage.clone()), folder.path(), "").await;
        let admin = site.log_in("admin").await;
        site.deploy(&admin, "bank", "count.wat", "").await;
        storage.fail(Operation::SyncData, 1);
        if way == "without an id" {
            // Without an id, a retry might execute the request twice.
            let answered = site.post("/v1/services/bank/transactions", &admin, "x").await;
            assert_eq!((answered.status, answered.code().as_str()), (503, "outcome_unknown"));
            assert!(answered.header("retry-after").is_empty() && answered.text().contains("check the service's state"));
        } else if way == "batch" {
            let line = "{\"id\":\"1\",\"text\":\"x\"}\n";
            let answered = site.post("/v1/services/bank/transactions:batch", &admin, line).await;
            assert_eq!((&answered.json()["id"], &answered.json()["outcome"]), (&json!("1"), &Value::Null));
            assert!(answered.json()["cause"].as_str().is_some_and(|cause| cause.contains("send it again")));
        } else {
            let answered = site.transact(&admin, "bank", "1", "x").await;
            assert_eq!((answered.status, answered.code().as_str()), (503, "outcome_unknown"));
            assert_eq!(answered.header("lifeboat-outcome"), "", "{answered:?}");
            assert!(!answered.header("retry-after").is_empty(), "{answered:?}");
        }
        // The readiness check reports the failure, and no order on the service is reported as done.
        let ready = site.get("/readyz", "").await;
        assert_eq!((ready.status, ready.code().as_str()), (503, "storage"), "{ready:?}");
        assert_eq!(ready.text().matches("injected").count(), 1, "the cause is printed once: {}", ready.text());
        let moved = site.post("/v1/services/bank/failover", &admin, "").await;
        assert_eq!((moved.status, moved.code().as_str()), (503, "stopped"), "{moved:?}");
        let services = site.get("/v1/services", &admin).await.json();
        let service = &services["services"][0];
        assert!(service["vm"]["stopped"].is_string(), "{services}");
        assert_eq!(service["state"], "stopped", "never running beside stopped: {services}");
        assert!(service["reason"].as_str().is_some_and(|reason| reason.contains("injected")), "{services}");
        // It cannot be started either while the journal has failed, and the start is not reported as done.
        let started = site.post("/v1/services/bank/start", &admin, "").await;
        assert!(started.status >= 400 || started.json()["state"] == "stopped", "{started:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_users_with_grants_learn_that_a_service_does_not_exist() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    let stranger = site.user(&admin, "stranger", "elsewhere", &[]).await;
    let operator = site.user(&admin, "operator", "nothing", &Grant::ALL).await;
    let requests = [
        (Method::GET, "", None),
        (Method::GET, "/usage", None),
        (Method::POST, "/stop", None),
        (Method::POST, "/start", None),
        (Method::POST, "/failover", None),
        (Method::POST, "/snapshot", None),
        (Method::POST, "/transactions", Some("denied")),
        (Method::POST, "/query", Some("denied")),
        // Nothing is known about the transaction that is looked up.
        (Method::GET, "/transactions/1", None),
    ];
    let printed = "there is no service 'nothing'; deploy it, or list the existing services";
    // Only a request to a guest has an outcome.
    let check = |missing: &Answered, outcome: Option<&str>, what: &str| {
        assert_eq!((missing.status, missing.code().as_str()), (404, "not_found"), "{what}");
        let problem = missing.json();
        assert_eq!((&problem["detail"], &problem["outcome"]), (&json!(printed), &json!(outcome)), "{what}");
        assert_eq!(missing.header("lifeboat-outcome"), outcome.unwrap_or_default(), "{what}");
    };
    for (method, path, outcome) in requests {
        let ask = async |token: &str, service: &str| {
            let request = site.request(method.clone(), &format!("/v1/services/{service}{path}"), token).body("1");
            Answered::of(request.send().await.expect("answered")).await
        };
        // The same holds for an operator with grants on a service that does not exist yet or any more.
        for token in [&admin, &operator] {
            check(&ask(token, "nothing").await, outcome, &format!("{method} {path}"));
        }
        let (missing, present) = (ask(&stranger, "nothing").await, ask(&stranger, "bank").await);
        assert_eq!((missing.status, missing.code().as_str()), (403, "not_granted"), "{method} {path}");
        assert_eq!(missing.text().replace("nothing", "bank"), present.text(), "{method} {path}");
    }
    // Only an admin may do this.
    check(&site.delete("/v1/services/nothing", &admin).await, None, "DELETE");
    let line = "{\"id\":\"1\",\"text\":\"1\"}\n";
    let batch = site.post("/v1/services/nothing/transactions:batch", &admin, line).await;
    assert!(batch.text().contains("there is no service 'nothing'"), "{batch:?}");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_start_or_end_of_a_service_is_an_event() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    site.deploy(&admin, "stuck", "refuse-snapshot.wat", "").await;
    assert_eq!(site.transact(&admin, "stuck", "1", "x").await.status, 200);
    for service in ["bank", "stuck"] {
        for operation in ["stop", "start"] {
            let path = format!("/v1/services/{service}/{operation}");
            assert_eq!(site.post(&path, &admin, "").await.status, 200);
        }
    }
    assert_eq!(site.transact(&admin, "stuck", "1", "x").await.header("lifeboat-repeated"), "true");
    assert_eq!(site.delete("/v1/services/bank", &admin).await.status, 204);
    let printed = |service: &str| format!("/v1/events?follow=false&service={service}");
    let of_bank = site.get(&printed("bank"), &admin).await.events();
    let kinds: Vec<&str> = of_bank.iter().filter_map(|event| event["event"].as_str()).collect();
    assert_eq!(kinds, ["created", "stopped", "restored", "started", "removed"]);
    let created = of_bank[0]["text"].as_str().expect("a text");
    assert!(created.starts_with("Created: bank/1 on m1 (size long, workload "), "{created}");
    // The event states that this service cannot be snapshotted.
    let of_stuck = site.get(&printed("stuck"), &admin).await.events();
    let stopped = of_stuck.iter().find(|event| event["event"] == "stopped").expect("it was stopped");
    assert!(
        stopped["reason"].as_str().is_some_and(|reason| reason.contains("could not be snapshotted: ")),
        "{stopped}"
    );
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_reports_why_the_shadow_of_the_last_failover_was_lost() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    site.deploy(&admin, "frail", "refuse-restore.wat", "failover=shadow").await;
    assert_eq!(site.transact(&admin, "frail", "1", "x").await.status, 200);
    let failed_over = site.post("/v1/services/frail/failover", &admin, "").await;
    assert_eq!((failed_over.status, failed_over.code().as_str()), (503, "not_moved"), "{failed_over:?}");
    let problem = failed_over.json();
    let detail = problem["detail"].as_str().expect("a detail");
    let degraded = detail.strip_prefix("service 'frail' stays in frail/1: ").expect("it says where it stays");
    assert!(degraded.starts_with("its shadow failed: "), "{detail}");
    assert_eq!(site.post("/v1/services/frail/stop", &admin, "").await.status, 200);
    let printed = site.get("/v1/events?follow=false&service=frail&event=stopped", &admin).await.events();
    let reason = printed[0]["reason"].as_str().expect("a reason");
    assert!(reason.ends_with(&format!("it could not be snapshotted: {degraded}")), "{reason}");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_not_there_is_not_reported_as_taken() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    for (service, guest) in [("stuck", "refuse-snapshot.wat"), ("broken", "panic-snapshot.wat")] {
        site.deploy(&admin, service, guest, "").await;
        let order = async || site.post(&format!("/v1/services/{service}/snapshot"), &admin, "").await;
        assert_eq!(order().await.status, 200, "there is nothing that the empty state lacks");
        assert_eq!(site.transact(&admin, service, "1", "x").await.status, 200);
        let refused = order().await;
        assert_eq!((refused.status, refused.code().as_str()), (503, "not_snapshotted"), "{refused:?}");
        let detail = refused.json()["detail"].as_str().expect("a detail").to_owned();
        assert!(detail.starts_with(&format!("service '{service}' has no new snapshot: ")), "{detail}");
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsent_transaction_is_denied_while_a_look_up_has_no_outcome() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    let stranger = site.user(&admin, "stranger", "elsewhere", &[]).await;
    for (token, key, code) in [
        (admin.as_str(), "\u{e9}", "idempotency_key"),
        (&admin, "\"open", "idempotency_key"),
        (&admin, "..", "not_an_id"),
        (&stranger, "1", "not_granted"),
        ("nobody", "1", "not_authenticated"),
    ] {
        let request = site.request(Method::POST, "/v1/services/bank/transactions", token);
        let key = reqwest::header::HeaderValue::from_bytes(key.as_bytes()).expect("a header");
        let refused =
            Answered::of(request.header("Idempotency-Key", key).body("1").send().await.expect("answered")).await;
        assert_eq!((refused.code().as_str(), refused.header("lifeboat-outcome")), (code, "denied"), "{refused:?}");
    }
    for (token, id, code) in [(&admin, "%C3%A9", "not_an_id"), (&stranger, "1", "not_granted")] {
        let refused = site.get(&format!("/v1/services/bank/transactions/{id}"), token).await;
        assert_eq!((refused.code().as_str(), refused.header("lifeboat-outcome")), (code, ""), "{refused:?}");
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_learns_which_events_are_gone() {
    let folder = folder();
    let (site, admin) = bank(&folder).await;
    let start = site.get("/v1/events?follow=false", &admin).await.events().len();
    let read = async |id: Option<&str>, filter: &str| {
        let mut request = site.request(Method::GET, &format!("/v1/events?follow=false{filter}"), &admin);
        if let Some(id) = id {
            request = request.header("Last-Event-ID", id);
        }
        Answered::of(request.send().await.expect("answered")).await
    };
    let id = |answered: &Answered, nth: usize| {
        let mut ids = answered.text().lines().filter_map(|line| line.strip_prefix("id: "));
        ids.nth(nth).unwrap_or_else(|| panic!("{answered:?}")).to_owned()
    };
    let first = id(&read(None, "").await, 0);
    let server = first.strip_suffix("-1").expect("events are counted").to_owned();
    let started = Event::Started { service: name("bank") };
    (start..EVENTS_KEPT_MAX + 5).for_each(|_| site.events.add(&started, Timestamp(0)));
    // Five events are gone. The reader has seen the first of them.
    let resumed = read(Some(&first), "").await;
    let gap = &resumed.events()[0];
    assert_eq!(
        (&gap["event"], &gap["after"], &gap["before"], &gap["missed"]),
        (&json!("gap"), &json!(first), &json!(format!("{server}-6")), &json!(4)),
        "{gap}"
    );
    let text = gap["text"].as_str().expect("a text");
    assert!(
        text.starts_with(
            "Gap: 4 events were discarded, because only the last 10,000 events and 10,000 log lines are retained; "
        ),
        "{text}"
    );
    assert_eq!(resumed.events().len(), 1 + EVENTS_KEPT_MAX);
    // A reader that resumes after the gap misses nothing more. A filter hides no gap. A reader of all retained events
    // has none.
    assert_eq!(read(Some(&id(&resumed, 0)), "").await.events().len(), EVENTS_KEPT_MAX);
    assert_eq!(read(Some(&first), "&event=removed").await.events().len(), 1);
    assert_eq!(read(None, "").await.events().len(), EVENTS_KEPT_MAX);
    // Nothing is known about another start of the server.
    let earlier = read(Some("4-7"), "&event=removed").await.events();
    assert_eq!((&earlier[0]["after"], &earlier[0]["missed"]), (&json!("4-7"), &Value::Null), "{earlier:?}");
    assert_eq!(earlier.len(), 1, "{earlier:?}");
    site.stop().await;
}

#[test]
fn the_log_of_a_server_names_each_service_that_it_does_not_serve() {
    let folder = folder();
    set_up(folder.path());
    let (missing, stuck) = (folder.path().join("missing.wasm"), guest("refuse-snapshot.wat"));
    let service = |name: &str, workload: &std::path::Path| {
        format!("[[service]]\nname = '{name}'\nworkload = '{}'\n", workload.display())
    };
    let config = service("lost", &missing) + &service("count", &prebuilt("counter")) + &service("stuck", &stuck);
    fs::write(folder.path().join("lifeboat.toml"), config).expect("the file can be written");
    let server = Serving::start(folder.path());
    let failed = server.line("lost");
    assert!(failed.contains(" lifeboat: service 'lost' of the configuration is missing, and cannot be created: "));
    assert!(failed.contains("missing.wasm: cannot be read"), "{failed}");
    assert!(server.line(" Created: stuck/1 ").starts_with("20"));
    let serving = server.line("lifeboat: serving ");
    assert!(serving.ends_with(" lifeboat: serving 2 of 3 services: 1 could not be created"), "{serving}");
    assert!(server.has_said(" Created: count/1 "), "what came first is printed first");
    let (time, _) = serving.split_once(' ').expect("a time and a text");
    assert!(time.len() == "2026-03-01T12:00:00.123Z".len() && time.ends_with('Z'), "{serving}");
    let profile = folder.path().join("profile.toml");
    let client = |arguments: &[&str]| lifeboat(arguments.iter().copied()).env("LIFEBOAT_PROFILE", &profile);
    let url = format!("http://{}", server.address);
    let login = client(&["login", "--user", "admin", "--password-stdin", "--server", &url]);
    login.input(format!("{PASSWORD}\n")).output().exits(0);
    client(&["tx", "count", "{\"add\":1}"]).output().exits(0);
    client(&["tx", "stuck", "x"]).output().exits(0);
    let lines = server.last_lines();
    let printed = |words: &str| lines.iter().any(|line| line.contains(words));
    assert!(printed(" lifeboat: service 'stuck' is not snapshotted, and the next start replays it: "), "{lines:?}");
    assert!(printed(" lifeboat: stopped: 1 of 2 services are snapshotted, the journal is sealed ("), "{lines:?}");
}

#[test]
fn only_a_later_second_signal_ends_the_server_at_once() {
    let folder = folder();
    set_up(folder.path());
    let service = format!("[[service]]\nname = 'bank'\nworkload = '{}'\nsize = 'long'\n", guest("work.wat").display());
    fs::write(folder.path().join("lifeboat.toml"), LONG.to_owned() + &service).expect("the file can be written");
    let mut server = Serving::start(folder.path());
    server.line("lifeboat: serving ");
    let profile = folder.path().join("profile.toml");
    let client = |arguments: &[&str]| lifeboat(arguments.iter().copied()).env("LIFEBOAT_PROFILE", &profile);
    let login =
        client(&["login", "--user", "admin", "--password-stdin", "--server", &format!("http://{}", server.address)]);
    login.input(format!("{PASSWORD}\n")).output().exits(0);
    let endless = client(&["tx", "bank", "--id", "endless", "--attempts", "1", ENDLESS]).start();
    let start = Instant::now();
    let look_up = || client(&["tx", "bank", "--id", "endless", "--look-up", "--json"]).output();
    while !look_up().exits(1).contains("pending") {
        assert!(start.elapsed() < PATIENCE, "the transaction does not arrive");
    }

    let start = Instant::now();
    server.signal("TERM");
    server.signal("INT");
    let code = loop {
        match server.exit_code() {
            Some(code) => break code,
            None => server.signal("TERM"),
        }
    };
    assert!(start.elapsed() >= Duration::from_millis(500), "it ended after {:?}", start.elapsed());
    assert_eq!(code, 4);
    server.line("lifeboat: asked twice: ended at once");
    endless.kill();
}

#[test]
fn a_server_outlives_its_terminal() {
    let folder = folder();
    set_up(folder.path());
    let mut server = Serving::start(folder.path());
    server.line("lifeboat: serving ");
    for _ in 0..2 {
        server.signal("HUP");
        server.line(
            "lifeboat: SIGHUP is ignored: the server reads its configuration and its certificate only when it starts",
        );
    }
    assert_eq!(server.exit_code(), None);
    let lines = server.last_lines();
    assert!(lines.iter().any(|line| line.contains("lifeboat: stopped: every service is snapshotted")), "{lines:?}");
}
