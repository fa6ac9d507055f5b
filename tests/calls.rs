//! Calls of services to the network: each is made once, whatever happens to its transaction.

use crate::rig::{MIB, Rig, cause, guest_bytes, ok, size};
use crate::webhook::{Reaction, Webhook};
use crate::world::HTTP_WORLD;
use lifeboat_api::event::{Event, FailoverCause};
use lifeboat_api::meter::{Resource, Unit};
use lifeboat_api::size::Size;
use lifeboat_api::transaction::{Answer, Reply, RequestError};
use lifeboat_host::network::{GrantedCalls, Retry, ServiceNetwork};
use lifeboat_host::service::ServiceSpec;
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
