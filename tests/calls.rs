//! Calls of services to the network: each is made once, whatever happens to its transaction.

use crate::durable::{create_with, settings};
use crate::rig::{MIB, Rig, cause, guest_bytes, name, ok, size};
use crate::util::{lifeboat, prebuilt};
use crate::webhook::{Reaction, Webhook};
use crate::world::HTTP_WORLD;
use lifeboat_api::call::CallResponse;
use lifeboat_api::event::{Event, FailoverCause};
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::meter::{Resource, Unit};
use lifeboat_api::size::Size;
use lifeboat_api::sla::FailoverMode;
use lifeboat_api::transaction::{Answer, Reply, RequestError};
use lifeboat_host::data::{DataOptions, Locked};
use lifeboat_host::journal::Record;
use lifeboat_host::network::{GrantedCalls, Retry, ServiceNetwork};
use lifeboat_host::service::{Doubt, ServiceSpec, SettleError, Settlement};
use lifeboat_journal::frame::DirectoryId;
use lifeboat_journal::storage::SimulatedStorage;
use lifeboat_net::{AllowList, Allowed, Client, Grant, Roots, SystemResolver, Target};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// The guest `call.wat`.
static GUEST: LazyLock<Vec<u8>> =
    LazyLock::new(|| HTTP_WORLD.component(std::str::from_utf8(&guest_bytes("assembled/call.wat")).expect("text")));

/// Returns an allow-list with one server.
fn allow(webhook: &Webhook) -> AllowList {
    let target: Target = webhook.target().parse().expect("a target");
    AllowList::new(vec![Allowed::from(target)]).expect("short")
}

/// Returns the network of a service that may call one server.
fn network(webhook: &Webhook, retry: Retry) -> ServiceNetwork {
    let client = Client::new(Arc::new(SystemResolver::default()), Roots::system());
    let grant = Grant { allow: allow(webhook), ..Grant::default() };
    ServiceNetwork { maker: Arc::new(GrantedCalls::new(client, grant)), retry }
}

/// Starts the guest in memory, with a tank of `fuel`.
async fn start(rig: &Rig, webhook: &Webhook, fuel: u64) {
    let network = network(webhook, Retry::Never);
    let change = |spec: &mut ServiceSpec| spec.network = Some(network);
    rig.launch("courier", "call.wat", &GUEST, &[size("s", fuel, 8 * MIB)], change).await.expect("it starts");
}

fn refused(result: &Result<Reply, RequestError>) -> &str {
    match result {
        Ok(Reply { answer: Answer::Refused(text), .. }) => text,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_call_is_made_once_and_its_answer_moves_with_the_service() {
    let (rig, webhook) = (Rig::new(), Webhook::start().await);
    start(&rig, &webhook, 50_000_000).await;
    let body = format!("1{}", webhook.authority());
    assert_eq!(ok(&rig.send_as("courier", "a", &body).await), "200");
    assert_eq!(ok(&rig.send_as("courier", "a", &body).await), "200", "it is answered again");
    // A failover exports the state, and a trap replays the transaction.
    rig.fail_over("courier").await;
    assert_eq!(ok(&rig.send_as("courier", "b", &body).await), "200");
    let boom = format!("1!{}", webhook.authority());
    assert!(cause(&rig.send_as("courier", "c", &boom).await).starts_with("trap: "));
    assert_eq!(ok(&rig.query("courier", "").await), "2");
    assert!(rig.status("courier").await.counts.replayed_transactions > 0);
    let seen = webhook.seen();
    assert_eq!(webhook.counts(), [("a", 1), ("b", 1), ("c", 1)].map(|(id, count)| (id.to_owned(), count)).into());
    assert!(seen.iter().all(|seen| seen.key.len() == 32), "{seen:?}");
    assert_ne!(seen[0].key, seen[1].key);
}

#[tokio::test]
async fn a_service_without_an_allow_list_calls_nothing() {
    let (rig, webhook) = (Rig::new(), Webhook::start().await);
    rig.start_bytes("courier", &GUEST, &[size("s", 50_000_000, 8 * MIB)]).await;
    let body = format!("1{}", webhook.authority());
    // `HTTP-request-denied`.
    assert_eq!(refused(&rig.send("courier", &body).await), "code 15");
    start(&Rig::new(), &webhook, 50_000_000).await;
    assert!(webhook.seen().is_empty());
}

#[tokio::test]
async fn a_server_that_is_not_allowed_is_not_called() {
    let (rig, webhook, other) = (Rig::new(), Webhook::start().await, Webhook::start().await);
    start(&rig, &webhook, 50_000_000).await;
    let body = format!("1{}", other.authority());
    assert_eq!(refused(&rig.send_as("courier", "a", &body).await), "code 15");
    assert!(other.seen().is_empty());
    // The refusal is kept, so a replay repeats it.
    let boom = format!("1!{}", webhook.authority());
    assert!(cause(&rig.send("courier", &boom).await).starts_with("trap: "));
    assert_eq!(rig.status("courier").await.stopped, None);
    assert_eq!(ok(&rig.query("courier", "").await), "0");
}

#[tokio::test]
async fn a_transaction_that_is_cured_makes_its_calls_once() {
    let (rig, webhook) = (Rig::new(), Webhook::start().await);
    // A transaction burns about 600,000 fuel after its call.
    start(&rig, &webhook, 3_000_000).await;
    let body = format!("2~{}", webhook.authority());
    for parcel in 0..24 {
        assert_eq!(ok(&rig.send_as("courier", &format!("p{parcel}"), &body).await), "200");
    }
    let cures = rig.failovers().iter().filter(|failover| failover.cause == FailoverCause::Cpu).count();
    assert!(cures >= 3, "{cures}");
    assert!(rig.status("courier").await.counts.rollbacks > 0, "some attempts were cut after their call");
    assert_eq!(webhook.counts().values().collect::<Vec<_>>(), [&2; 24]);
    assert_eq!(ok(&rig.query("courier", "").await), "24");
}

#[tokio::test]
async fn a_connection_that_is_cut_is_an_error_of_the_call() {
    let (rig, webhook) = (Rig::new(), Webhook::start().await);
    start(&rig, &webhook, 50_000_000).await;
    webhook.react(Reaction::HangUp);
    let body = format!("1{}", webhook.authority());
    let hung_up = rig.send_as("courier", "a", &body).await;
    // `connection-terminated`.
    assert_eq!(refused(&hung_up), "code 7");
    webhook.react(Reaction::Answer(503));
    assert_eq!(ok(&rig.send_as("courier", "b", &body).await), "503");
}

/// Starts the guest in memory, with an allowance of `calls`.
async fn start_with_calls(rig: &Rig, webhook: &Webhook, calls: u64) {
    let network = network(webhook, Retry::Never);
    let change = |spec: &mut ServiceSpec| spec.network = Some(network);
    let size = Arc::new(Size { network_calls: calls, ..Size::clone(&size("s", 50_000_000, 8 * MIB)) });
    rig.launch("courier", "call.wat", &GUEST, &[size], change).await.expect("it starts");
}

#[tokio::test]
async fn an_allowance_that_is_nearly_used_up_moves_the_service_to_a_fresh_one() {
    let (rig, webhook) = (Rig::new(), Webhook::start().await);
    start_with_calls(&rig, &webhook, 3).await;
    let body = format!("1{}", webhook.authority());
    for parcel in 0..7 {
        assert_eq!(ok(&rig.send_as("courier", &format!("p{parcel}"), &body).await), "200");
    }
    let failures = rig.events().into_iter().filter_map(|event| match event {
        Event::SlaFailure(failure) => Some((failure.resource, failure.unit, failure.usage.used, failure.usage.limit)),
        _ => None,
    });
    assert_eq!(failures.collect::<Vec<_>>(), [(Resource::Network, Unit::Calls, 3, 3); 2]);
    assert!(rig.failovers().iter().all(|failover| failover.cause == FailoverCause::Network));
    let status = rig.status("courier").await;
    assert_eq!((status.vm.number, status.meter.network.calls.used), (3, 1));
    assert!(status.meter.network.bytes.used > 0);
    assert_eq!(webhook.counts().values().collect::<Vec<_>>(), [&1; 7]);
}

#[tokio::test]
async fn an_allowance_that_runs_out_in_a_transaction_is_cured_like_fuel() {
    let (rig, webhook) = (Rig::new(), Webhook::start().await);
    start_with_calls(&rig, &webhook, 5).await;
    let body = format!("2{}", webhook.authority());
    for parcel in 0..6 {
        assert_eq!(ok(&rig.send_as("courier", &format!("p{parcel}"), &body).await), "200");
    }
    assert_eq!(webhook.counts().values().collect::<Vec<_>>(), [&2; 6], "no call is made twice");
    assert!(rig.status("courier").await.counts.rollbacks > 0);
    assert!(rig.failovers().iter().all(|failover| failover.cause == FailoverCause::Network));
    assert_eq!(ok(&rig.query("courier", "").await), "6");
    // Not even a full allowance is enough: the guest gets an error, and keeps what it did before.
    let body = format!("7{}", webhook.authority());
    let text = "limit reached: a full allowance is 5 calls and ";
    let refusal = rig.send_as("courier", "many", &body).await;
    assert!(refused(&refusal).starts_with(text), "{refusal:?}");
    assert_eq!(webhook.counts()["many"], 5);
}

#[tokio::test]
async fn transactions_that_call_and_fail_use_the_allowance_up_and_get_no_other() {
    let (rig, webhook) = (Rig::new(), Webhook::start().await);
    start_with_calls(&rig, &webhook, 10).await;
    let boom = format!("1!{}", webhook.authority());
    for parcel in 0..10 + 3 {
        let failed = rig.send_as("courier", &format!("p{parcel}"), &boom).await;
        assert!(cause(&failed).starts_with("trap: "), "{failed:?}");
    }
    let refusal = rig.send_as("courier", "last", &boom).await;
    assert!(
        refused(&refusal).contains("transactions that failed have used up the allowance of 10 calls"),
        "{refusal:?}"
    );
    assert!(!webhook.counts().contains_key("last"));
    // That refusal was kept, so the service moves now.
    assert_eq!(rig.failovers().len(), 1);
    let body = format!("1{}", webhook.authority());
    assert_eq!(ok(&rig.send_as("courier", "next", &body).await), "200");
}

#[tokio::test]
async fn a_service_that_waits_shows_what_it_waits_for_and_its_neighbour_goes_on() {
    let (rig, webhook) = (Rig::new(), Webhook::start().await);
    start(&rig, &webhook, 50_000_000).await;
    rig.start("neighbour", "count.wat", &[size("s", 50_000_000, 8 * MIB)]).await;
    webhook.react(Reaction::Stall);
    let body = format!("2{}", webhook.authority());
    let sending = async { rig.send_as("courier", "a", &body).await };
    let looking = async {
        webhook.has_read(2).await;
        let status = rig.status("courier").await;
        let waiting = status.waiting.expect("it waits");
        assert_eq!((waiting.target, status.sequence.0), (webhook.target(), 0));
        assert_eq!(ok(&rig.send("neighbour", "x").await), "1");
        webhook.release();
    };
    let (sent, ()) = tokio::join!(sending, looking);
    assert_eq!(ok(&sent), "200");
    assert_eq!(rig.status("courier").await.waiting, None);
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_an_error_before_the_deadline() {
    let (rig, webhook) = (Rig::new(), Webhook::start().await);
    let network = network(&webhook, Retry::Never);
    let change = |spec: &mut ServiceSpec| spec.network = Some(network);
    let size = Size { deadline: Duration::from_millis(500), ..Size::clone(&size("s", 50_000_000, 8 * MIB)) };
    rig.launch("courier", "call.wat", &GUEST, &[Arc::new(size)], change).await.expect("it starts");
    webhook.react(Reaction::Stall);
    let body = format!("1{}", webhook.authority());
    // `HTTP-response-timeout`.
    assert_eq!(refused(&rig.send_as("courier", "a", &body).await), "code 33");
    webhook.release();
    assert_eq!(webhook.counts()["a"], 1);
    // The refusal is the answer, so the same id makes no call.
    assert_eq!(refused(&rig.send_as("courier", "a", &body).await), "code 33");
    assert_eq!(webhook.counts()["a"], 1);
}

/// Opens the directory in `storage`, with the service if it is missing.
async fn open(storage: &SimulatedStorage, webhook: &Webhook, retry: Retry, number: u8) -> Result<Rig, String> {
    let options = DataOptions { segment_bytes: 256 * 1024, pinned_bytes: 1 << 20, ..DataOptions::default() };
    let (directory, contents) = Locked::open(Arc::new(storage.clone()), Some(DirectoryId([1; 16])))
        .and_then(|locked| locked.open_journal(&options))
        .map_err(|error| format!("{error:?}"))?;
    let mut rig = Rig::new();
    rig.host = rig.host.with_data(directory);
    rig.host.recover(contents, || Epoch([number; 16])).await;
    rig.grant("courier");
    if rig.host.entry(&name("courier")).map_err(|error| error.to_string())?.is_none() {
        let mut settings = settings(FailoverMode::Direct);
        settings.sizes = [8, 32].map(|mib| Size::clone(&size(&format!("s{mib}"), 50_000_000, mib * MIB))).into();
        settings.size = "s8".into();
        settings.network.allow = allow(webhook);
        settings.network.retry = retry;
        create_with(&rig, "courier", "call.wat", GUEST.clone(), settings).await?;
    }
    Ok(rig)
}

#[tokio::test]
async fn whenever_the_power_goes_a_parcel_is_posted_once_or_in_doubt() {
    let (mut answered, mut in_doubt, mut unsent) = (0, 0, 0);
    for (seed, nth) in (0..3).flat_map(|seed| (1..=16).map(move |nth| (seed, nth))) {
        let webhook = Webhook::start().await;
        let storage = SimulatedStorage::new(seed * 100 + nth);
        let rig = open(&storage, &webhook, Retry::Never, 1).await.expect("starts");
        let body = format!("2{}", webhook.authority());
        assert_eq!(ok(&rig.send_as("courier", "before", &body).await), "200");
        storage.power_off(nth);
        let first = rig.send_as("courier", "parcel", &body).await;
        let acknowledged = first.is_ok();
        let calls = webhook.counts().get("parcel").copied().unwrap_or_default();

        let again = open(&storage.crash(), &webhook, Retry::Never, 2).await.expect("starts again");
        assert_eq!(again.status("courier").await.stopped, None);
        let second = again.send_as("courier", "parcel", &body).await;
        let total = webhook.counts().get("parcel").copied().unwrap_or_default();
        assert!(total <= 2, "the two calls of the parcel were made {total} times");
        match &second {
            Ok(Reply { answer: Answer::Ok(_), .. }) => {
                assert_eq!(total, 2);
                answered += usize::from(calls > 0);
                unsent += usize::from(calls == 0);
            }
            _ => {
                assert!(refused(&second).starts_with("in doubt: call "), "{second:?}");
                assert!(!acknowledged, "an acknowledged transaction is never in doubt");
                in_doubt += 1;
                let reported =
                    |event: &Event| matches!(event, Event::CallInDoubt { transaction, .. } if transaction == "parcel");
                assert!(again.events().iter().any(reported));
                // What the guest was told is kept.
                assert_eq!(refused(&again.send_as("courier", "parcel", &body).await), refused(&second));
            }
        }
        // A replay of all that calls nothing.
        let calls = webhook.seen().len();
        let boom = format!("1!{}", webhook.authority());
        assert!(cause(&again.send_as("courier", "boom", &boom).await).starts_with("trap: "));
        assert_eq!((again.status("courier").await.stopped, webhook.seen().len()), (None, calls + 1));
    }
    assert!(answered > 0 && in_doubt > 0 && unsent > 0, "{answered} answered, {in_doubt} in doubt, {unsent} unsent");
}

/// Stops the host while a server reads the call of `parcel`. Returns the directory.
async fn in_doubt(webhook: &Webhook) -> (SimulatedStorage, String) {
    webhook.react(Reaction::Stall);
    let storage = SimulatedStorage::new(1);
    let rig = open(&storage, webhook, Retry::Never, 1).await.expect("starts");
    let body = format!("1{}", webhook.authority());
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
        let (storage, body) = in_doubt(&webhook).await;
        let rig = open(&storage, &webhook, Retry::Never, 2).await.expect("starts again");
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
        let rig = open(&storage, &webhook, Retry::Never, 3).await.expect("starts again");
        assert_eq!(rig.doubts("courier").await, doubts);
        let other = rig.settle("courier", "parcel", 1, settlement.clone()).await;
        assert!(matches!(other, Err(SettleError::NotInDoubt { .. })), "{other:?}");
        rig.settle("courier", "parcel", 0, settlement).await.expect("it is in doubt");
        assert_eq!(rig.doubts("courier").await, []);
        // The decision survives a crash.
        let storage = storage.crash();
        drop(rig);
        let rig = open(&storage, &webhook, Retry::Never, 4).await.expect("starts again");
        assert_eq!(rig.doubts("courier").await, []);
        assert_eq!(ok(&rig.send_as("courier", "parcel", &body).await), expected);
        assert_eq!(webhook.seen().len(), calls);
    }
}

/// A cure may take a snapshot, up to which the journal is truncated. The record of the transaction comes later.
#[tokio::test]
async fn calls_before_a_snapshot_within_their_transaction_are_recorded_again_after_it() {
    let webhook = Webhook::start().await;
    let storage = SimulatedStorage::new(1);
    let rig = open(&storage, &webhook, Retry::Never, 1).await.expect("starts");
    assert_eq!(ok(&rig.send_as("courier", "before", format!("1{}", webhook.authority())).await), "200");
    assert_eq!(ok(&rig.send_as("courier", "grows", format!("2^{}", webhook.authority())).await), "200");
    assert_eq!(rig.failovers().last().map(|failover| failover.size.clone()), Some("s32".into()));
    assert_eq!(webhook.counts()["grows"], 2);

    let (_, contents) = Locked::open(Arc::new(storage.crash()), Some(DirectoryId([1; 16])))
        .and_then(|locked| locked.open_journal(&DataOptions::default()))
        .expect("intact");
    let records = &contents.services[0].records;
    let last = |is_meant: &dyn Fn(&Record) -> bool| records.iter().rposition(|(_, record)| is_meant(record));
    let of_transaction = Sequence(2);
    let snapshot = last(&|record| matches!(record, Record::Snapshot { sequence: Sequence(1) })).expect("it was cured");
    let outcome = last(&|record| matches!(record, Record::CallOutcome(it) if it.sequence == of_transaction));
    let intent = last(&|record| matches!(record, Record::CallIntent(it) if it.sequence == of_transaction));
    let transaction = last(&|record| matches!(record, Record::Transaction(it) if it.sequence == of_transaction));
    assert!(Some(snapshot) < intent && intent < outcome && outcome < transaction, "{records:?}");
    let Some((_, Record::Transaction(grows))) = transaction.map(|at| &records[at]) else { panic!("a transaction") };
    let network = grows.network.as_ref().expect("it has calls");
    assert_eq!((network.charged.calls, network.calls.len()), (2, 2));
    assert!(network.calls.iter().all(|call| call.result.is_some()), "{network:?}");
}

#[tokio::test]
async fn a_service_may_repeat_a_call_in_doubt_under_its_key() {
    let webhook = Webhook::start().await;
    webhook.react(Reaction::Stall);
    let storage = SimulatedStorage::new(1);
    let rig = open(&storage, &webhook, Retry::Idempotent, 1).await.expect("starts");
    let body = format!("1{}", webhook.authority());
    let stalled = rig.send_as("courier", "parcel", &body);
    tokio::select! {
        _ = stalled => panic!("the server does not answer"),
        () = webhook.has_read(1) => {}
    }
    let storage = storage.crash();
    webhook.react(Reaction::Answer(200));
    let again = open(&storage, &webhook, Retry::Idempotent, 2).await.expect("starts again");
    assert_eq!(ok(&again.send_as("courier", "parcel", &body).await), "200");
    let seen = webhook.seen();
    assert_eq!((seen.len(), &seen[0]), (2, &seen[1]), "the same key and body");
    webhook.release();
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
    for (retry, expected) in [("never", "refused"), ("idempotent", "ok")] {
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
            "never" => {
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
