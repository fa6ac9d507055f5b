//! Calls in doubt: which calls are, what the next attempt of their transaction finds, and how an operator settles them.

use crate::allow_lists::Folder;
use crate::calls::{GUEST, network, open, open_with, refused};
use crate::rig::{MIB, Rig, cause, ok, size};
use crate::util::{Output, lifeboat, prebuilt};
use crate::webhook::{Reaction, Webhook};
use lifeboat_api::call::{CallResponse, DoubtReason};
use lifeboat_api::event::Event;
use lifeboat_api::size::Size;
use lifeboat_api::transaction::{Denial, RequestError};
use lifeboat_host::network::{AllowList, NetworkSettings, Retry};
use lifeboat_host::service::{Doubt, ServiceSpec, SettleError, Settlement};
use lifeboat_journal::storage::SimulatedStorage;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Stops the host while a server reads the call of `parcel`. Returns the directory.
async fn in_doubt(webhook: &Webhook, retry: Retry, mark: &str) -> (SimulatedStorage, String) {
    webhook.react(Reaction::Stall);
    let storage = SimulatedStorage::new(1);
    let rig = open(&storage, webhook, retry, 1).await.expect("starts");
    let body = format!("1{mark}{}", webhook.authority());
    let stalled = rig.send_as("courier", "parcel", &body);
    tokio::select! {
        _ = stalled => panic!("the server does not answer"),
        () = webhook.has_read(1) => {}
    }
    webhook.react(Reaction::Answer(200));
    (storage.crash(), body)
}

#[tokio::test]
async fn an_operator_settles_a_call_in_doubt_and_the_next_attempt_finds_that() {
    let response = |status| CallResponse { status, headers: Vec::new(), body: "".into(), trailers: Vec::new() };
    for (settlement, expected, calls) in
        [(Settlement::NotSent, "200", 2), (Settlement::Answered(response(202)), "202", 1)]
    {
        let webhook = Webhook::start().await;
        let (storage, body) = in_doubt(&webhook, Retry::Ask, "").await;
        let rig = open(&storage, &webhook, Retry::Ask, 2).await.expect("starts again");
        let doubts = rig.doubts("courier").await;
        let [Doubt { user, id, index: 0, method, target, .. }] = &doubts[..] else { panic!("{doubts:?}") };
        assert_eq!(
            (&**user, id.as_str(), method.as_str(), target.clone()),
            ("ada", "parcel", "POST", webhook.target())
        );
        // It is known after another start, and after a snapshot, which truncates the journal.
        rig.fail_over("courier").await;
        rig.host.stop().await.expect("it stops");
        drop(rig);
        let rig = open(&storage, &webhook, Retry::Ask, 3).await.expect("starts again");
        assert_eq!(rig.doubts("courier").await, doubts);
        assert_eq!(rig.status("courier").await.doubts, 1);
        // Until then its id is denied, and the guest learns nothing.
        let denied = rig.send_as("courier", "parcel", &body).await;
        let Err(RequestError::Denied(Denial::InDoubt { call, reason, .. })) = denied else { panic!("{denied:?}") };
        assert_eq!((call.transaction.as_str(), call.index, reason), ("parcel", 0, DoubtReason::Interrupted));
        let other = rig.settle("courier", "parcel", 1, settlement.clone()).await;
        assert!(matches!(other, Err(SettleError::NotInDoubt { .. })), "{other:?}");
        let status = if let Settlement::Answered(response) = &settlement { Some(response.status) } else { None };
        rig.settle("courier", "parcel", 0, settlement).await.expect("it is in doubt");
        assert_eq!((rig.doubts("courier").await, rig.status("courier").await.doubts), (Vec::new(), 0));
        let settled = |event: Event| match event {
            Event::CallSettled { call, by, status, .. } => Some((call.transaction, call.index, by.to_string(), status)),
            _ => None,
        };
        let settled: Vec<_> = rig.events().into_iter().filter_map(settled).collect();
        assert_eq!(settled, [("parcel".to_owned(), 0, "ada".to_owned(), status)]);
        // The decision survives a crash.
        let storage = storage.crash();
        drop(rig);
        let rig = open(&storage, &webhook, Retry::Ask, 4).await.expect("starts again");
        assert_eq!(rig.doubts("courier").await, []);
        assert_eq!(ok(&rig.send_as("courier", "parcel", &body).await), expected);
        assert_eq!(webhook.seen().len(), calls);
    }
}

#[tokio::test]
async fn a_service_may_repeat_a_call_in_doubt_under_its_key() {
    let webhook = Webhook::start().await;
    let (storage, body) = in_doubt(&webhook, Retry::Idempotent, "").await;
    let again = open(&storage, &webhook, Retry::Idempotent, 2).await.expect("starts again");
    assert_eq!(ok(&again.send_as("courier", "parcel", &body).await), "200");
    let seen = webhook.seen();
    assert_eq!((seen.len(), &seen[0]), (2, &seen[1]), "the same key and body");
}

#[tokio::test]
async fn another_request_in_the_place_of_a_repeatable_one_is_not_sent() {
    let webhook = Webhook::start().await;
    // The requests of the guest depend on the sequence number, which the next attempt does not share.
    let (storage, body) = in_doubt(&webhook, Retry::Idempotent, "#").await;
    let again = open(&storage, &webhook, Retry::Idempotent, 2).await.expect("starts again");
    let refusal = again.send_as("courier", "parcel", &body).await;
    let text = refused(&refusal);
    assert!(text.starts_with("in doubt: call 0 of an earlier attempt, POST http://"), "{text}");
    assert!(text.ends_with("make the same requests in each attempt"), "{text}");
    assert_eq!(webhook.counts(), [("parce".to_owned(), 1)].into());
}

#[tokio::test]
async fn an_id_with_calls_belongs_to_its_body() {
    for retry in Retry::ALL {
        let webhook = Webhook::start().await;
        let (storage, _) = in_doubt(&webhook, retry, "").await;
        let again = open(&storage, &webhook, retry, 2).await.expect("starts again");
        let other = again.send_as("courier", "parcel", format!("2{}", webhook.authority())).await;
        let is_denied = matches!(other, Err(RequestError::Denied(Denial::IdReused { .. })));
        assert!(is_denied && again.doubts("courier").await.len() == 1, "{retry}: {other:?}");
    }
}

#[tokio::test]
async fn a_service_that_may_call_nobody_any_more_keeps_what_its_transactions_called() {
    let response = CallResponse { status: 202, headers: Vec::new(), body: "".into(), trailers: Vec::new() };
    for (retry, settlement, expected) in [
        (Retry::Never, None, Err("in doubt: call 0 of an earlier attempt, POST http://")),
        (Retry::Idempotent, None, Err("in doubt: call 0 of an earlier attempt, POST http://")),
        (Retry::Ask, Some(Settlement::Answered(response)), Ok("202")),
    ] {
        let webhook = Webhook::start().await;
        let (mut storage, body) = in_doubt(&webhook, retry, "").await;
        if let Some(settlement) = settlement {
            let rig = open(&storage, &webhook, retry, 2).await.expect("starts again");
            rig.settle("courier", "parcel", 0, settlement).await.expect("it is in doubt");
            storage = storage.crash();
        }
        let network = NetworkSettings { allow: AllowList::default(), retry };
        let again = open_with(&storage, network, 3).await.expect("starts again");
        let answered = again.send_as("courier", "parcel", &body).await;
        match expected {
            Ok(status) => assert_eq!(ok(&answered), status),
            Err(text) => assert!(refused(&answered).starts_with(text), "{answered:?}"),
        }
        // What it never called is denied: `HTTP-request-denied`.
        assert_eq!(refused(&again.send_as("courier", "next", &body).await), "code 15");
        // And a replay shows the guest the same.
        again.fail_over("courier").await;
        let boom = format!("1!{}", webhook.authority());
        assert_eq!(refused(&again.send_as("courier", "boom", &boom).await), "code 15");
        assert_eq!((again.status("courier").await.stopped, webhook.seen().len()), (None, 1));
    }
}

#[tokio::test]
async fn a_response_that_a_failed_transaction_cannot_keep_leaves_its_call_in_doubt() {
    let (rig, webhook) = (Rig::new(), Webhook::start().await);
    let network = network(&webhook, Retry::Ask);
    let change = |spec: &mut ServiceSpec| spec.network = network;
    // The calls have most of it, also on a busy machine.
    let size = Size { deadline: Duration::from_secs(4), ..Size::clone(&size("s", 50_000_000_000, 64 * MIB)) };
    rig.launch("courier", "call.wat", &GUEST, &[Arc::new(size)], change).await.expect("it starts");
    // Both responses arrive, the guest never ends, and one of them is all that the record of a failure may hold.
    webhook.react(Reaction::Long(3 * MIB as usize));
    let body = format!("2={}", webhook.authority());
    let missed = rig.send_as("courier", "parcel", &body).await;
    assert!(cause(&missed).starts_with("deadline: "), "{missed:?}");
    let doubts = rig.doubts("courier").await;
    let [Doubt { index: 1, reason: DoubtReason::TooLarge, .. }] = &doubts[..] else { panic!("{doubts:?}") };
    let reported = |event: &Event| matches!(event, Event::CallInDoubt { call, reason: DoubtReason::TooLarge, .. } if call.index == 1);
    assert_eq!(rig.events().iter().filter(|event| reported(event)).count(), 1);
    let unsent = rig.settle("courier", "parcel", 1, Settlement::NotSent).await;
    assert!(matches!(unsent, Err(SettleError::WasMade { index: 1, .. })), "{unsent:?}");
    let denied = rig.send_as("courier", "parcel", &body).await;
    let text = denied.expect_err("it is in doubt").to_string();
    assert!(
        text.contains("call 1 in doubt, POST http://127.0.0.1:") && text.contains("too large to be kept"),
        "{text}"
    );
    assert_eq!(webhook.counts()["parcel"], 2);
}

#[tokio::test]
async fn a_transaction_for_which_no_machine_has_room_finds_its_calls_again() {
    // The larger size fits no machine.
    let rig = Rig::with(|config| {
        config.machines.truncate(1);
        config.machines[0].memory_bytes = 100 * MIB;
    });
    let webhook = Webhook::start().await;
    let settings = network(&webhook, Retry::Ask);
    let change = |spec: &mut ServiceSpec| spec.network = settings;
    let sizes = [size("s", 50_000_000, 8 * MIB), size("l", 50_000_000, 120 * MIB)];
    rig.launch("courier", "call.wat", &GUEST, &sizes, change).await.expect("it starts");
    let body = format!("2^{}", webhook.authority());
    for attempt in 0..2 {
        let failed = rig.send_as("courier", "parcel", &body).await;
        assert!(cause(&failed).contains("no machine has room for size 'l'"), "{failed:?}");
        assert_eq!(webhook.counts()["parcel"], 2, "attempt {attempt}");
    }
    assert_eq!(rig.doubts("courier").await, []);
}

#[tokio::test]
async fn a_call_in_doubt_beyond_the_deduplication_window_is_reported_and_forgotten() {
    let webhook = Webhook::start().await;
    let (storage, _) = in_doubt(&webhook, Retry::Ask, "").await;
    let rig = open(&storage, &webhook, Retry::Ask, 2).await.expect("starts again");
    assert_eq!(rig.status("courier").await.doubts, 1);
    rig.clock.advance(Duration::from_secs(365 * 24 * 60 * 60));
    for next in 0..3 {
        assert_eq!(ok(&rig.send_as("courier", &format!("{next}"), format!("1{}", webhook.authority())).await), "200");
    }
    let forgotten = |event: &Event| matches!(event, Event::CallForgotten { call, .. } if call.transaction == "parcel");
    assert_eq!(rig.events().iter().filter(|event| forgotten(event)).count(), 1);
    assert_eq!((rig.doubts("courier").await, rig.status("courier").await.doubts), (Vec::new(), 0));
}

/// A command of the CLI on one directory, with the workload `courier`.
fn run_courier(data: &std::path::Path, webhook: &Webhook, retry: &str) -> crate::util::Lifeboat {
    let target = webhook.target();
    lifeboat([
        "run",
        "--envelope",
        "--json",
        "--service",
        "courier",
        "--allow-net",
        &target,
        "--retry",
        retry,
        "--data",
    ])
    .arg(data)
    .arg(prebuilt("courier"))
}

/// A parcel with an id, and how its line of input says it.
fn parcel(webhook: &Webhook, id: &str) -> String {
    let to = format!("{}/hook", webhook.target());
    serde_json::json!({"id": id, "json": {"post": {"to": to, "parcel": "a letter"}}}).to_string()
}

/// Runs a command on a thread, because it blocks.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("no panic")
}

#[tokio::test]
async fn kill_9_while_a_server_reads_leaves_the_call_in_doubt_and_verify_calls_nothing() {
    for (retry, expected) in [("ask", "denied"), ("never", "refused"), ("idempotent", "ok")] {
        let webhook = Webhook::start().await;
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        let (first, second) = (parcel(&webhook, "1"), parcel(&webhook, "2"));
        let ready = run_courier(&data, &webhook, retry);
        let line = first.clone();
        let answered = blocking(move || ready.input(line + "\n").output()).await;
        assert_eq!(answered.code, 0, "{}", answered.stderr);
        assert_eq!(answered.json_lines()[0]["outcome"], "ok");

        webhook.react(Reaction::Stall);
        let mut running = run_courier(&data, &webhook, retry).start();
        running.send(&second);
        webhook.has_read(2).await;
        blocking(move || running.kill()).await;
        webhook.react(Reaction::Answer(200));

        let again = run_courier(&data, &webhook, retry);
        let lines = format!("{first}\n{second}\n");
        let answered = blocking(move || again.input(lines).output()).await;
        let replies = answered.json_lines();
        assert_eq!((&replies[0]["outcome"], &replies[1]["outcome"]), (&"ok".into(), &expected.into()), "{replies:?}");
        let posts = webhook.seen();
        let seconds: Vec<_> = posts.iter().filter(|seen| seen.body.contains("\"id\":\"2\"")).collect();
        match retry {
            "ask" | "never" => {
                assert_eq!((posts.len(), seconds.len()), (2, 1));
                assert!(replies[1].to_string().contains("in doubt"), "{replies:?}");
            }
            _ => {
                assert_eq!((posts.len(), seconds.len()), (3, 2));
                assert_eq!(seconds[0], seconds[1], "the same key and body");
            }
        }
        let data = data.clone();
        let verified = blocking(move || lifeboat(["data", "verify", "--data"]).arg(data).output()).await;
        assert!(verified.exits(0).contains("courier: proven"), "{verified:?}");
        assert_eq!(webhook.seen().len(), posts.len(), "a replay is silent");
    }
}

#[tokio::test]
async fn kill_9_at_any_moment_of_a_call_leaves_it_made_once_or_in_doubt() {
    for moment in ["accepted", "read", "answered", "replied"] {
        let webhook = Webhook::start().await;
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        let line = parcel(&webhook, "1");
        webhook.react(if matches!(moment, "accepted" | "read") { Reaction::Stall } else { Reaction::Answer(200) });
        let mut running = run_courier(&data, &webhook, "ask").start();
        running.send(&line);
        match moment {
            "accepted" => webhook.has_accepted(1).await,
            "read" => webhook.has_read(1).await,
            "answered" => webhook.has_answered(1).await,
            _ => running = blocking(move || running.line().map(|_| running)).await.expect("a reply"),
        }
        blocking(move || running.kill()).await;
        webhook.react(Reaction::Answer(200));
        let again = run_courier(&data, &webhook, "ask");
        let replies = blocking(move || again.input(line + "\n").output()).await.json_lines();
        let outcome = replies[0]["outcome"].as_str().expect("an outcome");
        match moment {
            "accepted" | "read" => assert_eq!(outcome, "denied", "{moment}: {replies:?}"),
            "answered" => assert!(["ok", "denied"].contains(&outcome), "{moment}: {replies:?}"),
            _ => assert_eq!(outcome, "ok", "{moment}: {replies:?}"),
        }
        let listed =
            blocking(move || lifeboat(["data", "doubts", "--json", "--data"]).arg(data).arg("courier").output());
        let in_doubt = json(&listed.await)["doubts"].as_array().expect("a list").len();
        assert_eq!(in_doubt, usize::from(outcome == "denied"), "{moment}");
        assert!(webhook.seen().len() <= 1, "{moment}: {:?}", webhook.seen());
    }
}

fn json(output: &Output) -> Value {
    serde_json::from_str(output.exits(0)).expect("JSON")
}

#[tokio::test]
async fn an_operator_settles_calls_with_a_server_and_without() {
    let webhook = Webhook::start().await;
    let (target, to) = (webhook.target(), format!("{}/hook", webhook.target()));
    let seen = (0..2).map(|count| webhook.reader(count + 1)).collect::<Vec<_>>();
    webhook.react(Reaction::Stall);
    blocking(move || {
        let folder = Folder::new();
        let client = |arguments: &[&str]| folder.client(arguments).within(&folder.path(""));
        std::fs::write(folder.path("receipt.txt"), "received").expect("written");
        let mut server = folder.serve();
        client(&["deploy", "post", "--allow-net", &target]).arg(prebuilt("courier")).output().exits(0);
        let transaction = format!("{{\"post\":{{\"to\":\"{to}\",\"parcel\":\"a letter\"}}}}");
        let send = |id: &str| client(&["tx", "post", "--id", id, &transaction]);
        for (id, has_read) in ["p-1", "p-2"].into_iter().zip(seen) {
            let sending = send(id).start();
            has_read();
            server.kill();
            drop(sending);
            server = folder.serve();
        }
        // The operator sees them everywhere, and the client learns what to wait for.
        send("p-1")
            .output()
            .exits_with_one_line(1, &["in_doubt", "call 0 in doubt, POST http://", "lifeboat doubts post"]);
        let services = client(&["services"]).output();
        assert!(
            services.exits(0).contains("post: calls in doubt: 2; lifeboat doubts post lists them\n"),
            "{services:?}"
        );
        let listed = json(&client(&["doubts", "post", "--json"]).output());
        let of = |key: &str| listed["doubts"].as_array().expect("a list").iter().map(|it| it[key].clone()).collect();
        let (ids, reasons): (Vec<Value>, Vec<Value>) = (of("id"), of("reason"));
        assert_eq!((ids, reasons), (vec!["p-1".into(), "p-2".into()], vec!["interrupted".into(); 2]));
        let shown = client(&["doubts", "post"]).output();
        let lines: Vec<&str> = shown.exits(0).lines().collect();
        assert!(lines[0].starts_with("call") && lines[1].starts_with("p-1/0") && lines.len() == 3, "{shown:?}");

        // Mistakes change nothing.
        let settle = |options: &[&str]| client(&[&["doubts", "post", "--settle"], options].concat()).output();
        settle(&["p-1/1", "--not-sent"]).exits_with_one_line(2, &["call 1 of transaction 'p-1' is not in doubt"]);
        settle(&["p-1/0", "--answered", "99"]).exits(2);
        settle(&["p-1/0"]).exits(2);
        settle(&["p-1/0", "--answered", "200", "--body", "missing.txt"])
            .exits_with_one_line(2, &["the body 'missing.txt' cannot be read"]);
        let settled = settle(&["p-1/0", "--answered", "202", "--body", "receipt.txt"]);
        assert!(settled.exits(0).contains("p-2/0") && !settled.exits(0).contains("p-1/0"), "{settled:?}");
        let answered = send("p-1").output();
        assert!(answered.exits(0).contains("202"), "{answered:?}");
        let events = client(&["events", "--service", "post"]).output();
        let text = "Call settled: post: call 0 of transaction 'p-1' of admin, POST http://";
        assert!(events.exits(0).contains(text), "{events:?}");

        // The same for a directory that no server has open.
        server.kill();
        let data = |options: &[&str]| client(&[&["data", "doubts", "--data", "data", "post"], options].concat());
        assert!(data(&[]).output().exits(0).contains("p-2/0"));
        data(&["--settle", "p-1/0", "--not-sent"]).output().exits(2);
        let services = client(&["data", "services", "--data", "data"]).output();
        let text = "post: calls in doubt: 1; lifeboat data doubts --data data post lists them\n";
        assert!(services.exits(0).contains(text), "{services:?}");

        // A copy has none of them. It calls nobody, so it cannot make the call again.
        let snapshot = client(&["data", "snapshot", "--data", "data", "post", "--out", "post.snapshot"]).output();
        snapshot.exits(0);
        assert!(snapshot.stderr.contains("post: 1 call in doubt, which the file does not have"), "{snapshot:?}");
        let restore = ["data", "restore", "post.snapshot", "--data", "copy", "--name", "copy"];
        client(&restore).output().exits(0);
        let again = client(&["run", "--data", "copy", "--service", "copy", "--envelope", "--json"]);
        let line = format!("{{\"id\":\"p-2\",\"json\":{transaction}}}\n");
        assert_eq!(again.input(line).output().json_lines()[0]["outcome"], "refused");

        let settled = data(&["--settle", "p-2/0", "--answered", "204"]).output();
        settled.exits(0);
        assert!(settled.stderr.contains("no call of post is in doubt"), "{settled:?}");
        assert_eq!(json(&data(&["--json"]).output()), serde_json::json!({ "doubts": [] }));
        let _server = folder.serve();
        let answered = send("p-2").output();
        assert!(answered.exits(0).contains("204"), "{answered:?}");
    })
    .await;
    assert_eq!(webhook.seen().len(), 2);
    webhook.release();
}
