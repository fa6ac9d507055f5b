//! Calls of services to the network: each is made once, whatever happens to its transaction.

use crate::durable::{create_with, settings};
use crate::rig::{MIB, Rig, cause, guest_bytes, name, ok, size};
use crate::webhook::{Reaction, Webhook};
use crate::world::HTTP_WORLD;
use lifeboat_api::call::CallResponse;
use lifeboat_api::event::{Event, FailoverCause};
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::meter::{Percent, Resource, Unit};
use lifeboat_api::size::Size;
use lifeboat_api::sla::{FailoverMode, Thresholds};
use lifeboat_api::transaction::{Answer, Denial, Reply, RequestError};
use lifeboat_host::data::{DataOptions, Locked};
use lifeboat_host::journal::Record;
use lifeboat_host::network::{GrantedCalls, NetworkSettings, Retry, ServiceNetwork};
use lifeboat_host::service::{ServiceSpec, Settlement};
use lifeboat_journal::frame::DirectoryId;
use lifeboat_journal::storage::SimulatedStorage;
use lifeboat_net::{AllowList, Allowed, Client, Grant, Roots, SystemResolver, Target};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// The guest `call.wat`.
pub(crate) static GUEST: LazyLock<Vec<u8>> =
    LazyLock::new(|| HTTP_WORLD.component(std::str::from_utf8(&guest_bytes("assembled/call.wat")).expect("text")));

/// Returns an allow-list with one server.
pub(crate) fn allow(webhook: &Webhook) -> AllowList {
    let target: Target = webhook.target().parse().expect("a target");
    AllowList::new(vec![Allowed::from(target)]).expect("short")
}

/// Returns the network of a service that may call one server.
pub(crate) fn network(webhook: &Webhook, retry: Retry) -> ServiceNetwork {
    let client = Client::new(Arc::new(SystemResolver::default()), Roots::system());
    let grant = Grant { allow: allow(webhook), ..Grant::default() };
    ServiceNetwork { maker: Some(Arc::new(GrantedCalls::new(client, grant))), retry }
}

/// Starts the guest in memory, with a tank of `fuel`.
pub(crate) async fn start(rig: &Rig, webhook: &Webhook, fuel: u64) {
    let network = network(webhook, Retry::Never);
    let change = |spec: &mut ServiceSpec| spec.network = network;
    rig.launch("courier", "call.wat", &GUEST, &[size("s", fuel, 8 * MIB)], change).await.expect("it starts");
}

pub(crate) fn refused(result: &Result<Reply, RequestError>) -> &str {
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
    let change = |spec: &mut ServiceSpec| spec.network = network;
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
    let text = "the transaction would have 6 calls and 184 B, a full allowance is 5 calls and 64 MiB; ";
    let refusal = rig.send_as("courier", "many", &body).await;
    assert!(refused(&refusal).starts_with("limit reached: call 5, POST http://"), "{refusal:?}");
    assert!(refused(&refusal).contains(text), "{refusal:?}");
    assert_eq!(webhook.counts()["many"], 5);
}

#[tokio::test]
async fn transactions_that_call_and_fail_use_the_allowance_up_and_get_no_other() {
    let (rig, webhook) = (Rig::new(), Webhook::start().await);
    start_with_calls(&rig, &webhook, 1_000).await;
    let boom = format!("1!{}", webhook.authority());
    for parcel in 0..1_000 + 3 {
        let failed = rig.send_as("courier", &format!("p{parcel}"), &boom).await;
        assert!(cause(&failed).starts_with("trap: "), "{failed:?}");
    }
    assert_eq!((webhook.seen().len(), rig.failovers().len()), (1_000 + 3, 0));
    let refusal = rig.send_as("courier", "last", &boom).await;
    assert!(
        refused(&refusal).contains("transactions that failed have used up the allowance of 1000 calls"),
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
    let change = |spec: &mut ServiceSpec| spec.network = network;
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

#[tokio::test]
async fn a_transaction_that_misses_its_deadline_after_its_calls_makes_them_once() {
    let (rig, webhook) = (Rig::new(), Webhook::start().await);
    let network = network(&webhook, Retry::Ask);
    let change = |spec: &mut ServiceSpec| spec.network = network;
    // The calls have most of it, also on a busy machine.
    let size = Size { deadline: Duration::from_secs(3), ..Size::clone(&size("s", 50_000_000_000, 8 * MIB)) };
    rig.launch("courier", "call.wat", &GUEST, &[Arc::new(size)], change).await.expect("it starts");
    let body = format!("2={}", webhook.authority());
    for attempt in 0..2 {
        let missed = rig.send_as("courier", "parcel", &body).await;
        assert!(cause(&missed).starts_with("deadline: "), "{missed:?}");
        assert_eq!(webhook.counts()["parcel"], 2, "attempt {attempt}");
    }
    assert_eq!(rig.status("courier").await.meter.network.calls.used, 2, "they are charged once");
}

/// Opens the directory in `storage`, with the service if it is missing.
pub(crate) async fn open(
    storage: &SimulatedStorage,
    webhook: &Webhook,
    retry: Retry,
    number: u8,
) -> Result<Rig, String> {
    open_with(storage, NetworkSettings { allow: allow(webhook), retry }, number).await
}

/// Does the same with this network, also if the service is there.
pub(crate) async fn open_with(storage: &SimulatedStorage, network: NetworkSettings, number: u8) -> Result<Rig, String> {
    let options = DataOptions { segment_bytes: 256 * 1024, pinned_bytes: 1 << 20, ..DataOptions::default() };
    let networks = [(name("courier"), network.clone())].into();
    let (directory, contents) = Locked::open(Arc::new(storage.clone()), Some(DirectoryId([1; 16])))
        .and_then(|locked| locked.set_networks(&networks).map(|_| locked))
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
        settings.network = network;
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
                    |event: &Event| matches!(event, Event::CallInDoubt { call, .. } if call.transaction == "parcel");
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
async fn cures_in_vain_for_fuel_lend_no_network_without_bounds() {
    let webhook = Webhook::start().await;
    let start = async |fuel: u64| {
        let rig = Rig::new();
        let network = network(&webhook, Retry::Never);
        let change = |spec: &mut ServiceSpec| {
            spec.network = network;
            spec.thresholds = Thresholds::all(Percent::whole(100));
        };
        let size = Size { network_calls: 10, ..Size::clone(&size("s", fuel, 8 * MIB)) };
        rig.launch("courier", "call.wat", &GUEST, &[Arc::new(size)], change).await.expect("it starts");
        let first = rig.send_as("courier", "first", format!("1{}", webhook.authority())).await;
        assert_eq!(ok(&first), "200");
        (rig, first.map(|reply| reply.fuel_used).unwrap_or_default())
    };
    let (_, fuel_used) = start(50_000_000).await;
    // The tank of the next VM is as good as empty after the same transaction, so each one after it needs a full tank.
    let (rig, _) = start(fuel_used + 1).await;
    let before = webhook.seen().len();
    for parcel in 0..12 {
        // It makes its calls on the full tank, and then burns more than any tank has.
        let failed = rig.send_as("courier", &format!("p{parcel}"), format!("1={}", webhook.authority())).await;
        assert!(failed.is_ok(), "{failed:?}");
    }
    let (calls, allowance) = (webhook.seen().len() - before, 10);
    assert!(rig.failovers().is_empty());
    assert!(calls > 0 && calls <= allowance + 3, "{calls} calls");
}

/// What a service must have done, by the counts of a server: a transaction without an answer has made each of its calls at
/// most once, and an answered one exactly once.
#[tokio::test]
async fn random_schedules_of_calls_failures_failovers_and_crashes_call_once() {
    let (mut answered, mut in_doubt, mut crashes) = (0, 0, 0);
    for seed in 0..12 {
        let mut random = Draws(seed);
        let webhook = Webhook::start().await;
        let mut storage = SimulatedStorage::new(seed);
        let mut rig = open(&storage, &webhook, Retry::Ask, 1).await.expect("starts");
        let mut expected: BTreeMap<String, usize> = BTreeMap::new();
        for step in 0..24 {
            let (id, calls) = (format!("s{step}"), random.below(4) + 1);
            let mark = ["", "", "~", "^", "!"][random.below(5)];
            if random.below(6) == 0 {
                let _ = rig.try_fail_over("courier").await;
            }
            if random.below(3) == 0 {
                storage.power_off(random.below(12) as u64 + 1);
            }
            let body = format!("{calls}{mark}{}", webhook.authority());
            let mut is_settled = false;
            // A client sends the same id until it has an answer.
            for attempt in 0..8 {
                let sent = rig.send_as("courier", &id, &body).await;
                let made = webhook.counts().get(&id).copied().unwrap_or_default();
                assert!(made <= calls, "seed {seed}, {id}, attempt {attempt}: {made} of {calls} calls");
                match sent {
                    Ok(Reply { answer: Answer::Ok(_), .. }) => {
                        // A settled call was made by its operator, as it were.
                        assert!(is_settled || made == calls, "seed {seed}, {id}: {made} of {calls} calls");
                        answered += 1;
                        break;
                    }
                    Ok(Reply { answer: Answer::Failed(cause), .. }) if !cause.is_retryable() => {
                        assert!(mark == "!" && (is_settled || made == calls), "seed {seed}, {id}: {cause}");
                        break;
                    }
                    Ok(Reply { answer: Answer::Failed(_), .. }) => {}
                    Ok(reply) => panic!("seed {seed}, {id}: {reply:?}"),
                    Err(RequestError::Denied(Denial::InDoubt { call, .. })) => {
                        let response =
                            CallResponse { status: 200, headers: Vec::new(), body: "".into(), trailers: Vec::new() };
                        let settlement = Settlement::Answered(response);
                        rig.settle("courier", &id, call.index, settlement).await.expect("it is in doubt");
                        (in_doubt, is_settled) = (in_doubt + 1, true);
                    }
                    Err(_) => {
                        storage = storage.crash();
                        drop(rig);
                        rig = open(&storage, &webhook, Retry::Ask, u8::try_from(step + attempt + 2).expect("few"))
                            .await
                            .expect("starts again");
                        crashes += 1;
                    }
                }
            }
            expected.insert(id, webhook.counts().get(&format!("s{step}")).copied().unwrap_or_default());
        }
        // Nothing that happened later made a call of an earlier transaction, nor does a replay of them all. The power may
        // be about to go.
        storage = storage.crash();
        drop(rig);
        rig = open(&storage, &webhook, Retry::Ask, u8::MAX).await.expect("starts again");
        rig.fail_over("courier").await;
        let made = |(id, count): (&String, &usize)| (*count > 0).then(|| (id.clone(), *count));
        assert_eq!(webhook.counts(), expected.iter().filter_map(made).collect(), "seed {seed}");
        assert_eq!(rig.status("courier").await.stopped, None);
    }
    assert!(
        answered > 100 && in_doubt > 0 && crashes > 10,
        "{answered} answered, {in_doubt} in doubt, {crashes} crashes"
    );
}

/// Draws numbers from a seed.
struct Draws(u64);

impl Draws {
    /// Returns the next number below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        // SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap_or_default()
    }
}

#[tokio::test]
async fn eight_services_receive_four_long_responses_each_at_once() {
    let webhook = Webhook::start().await;
    webhook.react(Reaction::Long(4 * MIB as usize));
    let storage = SimulatedStorage::new(1);
    let options = DataOptions::default();
    let (directory, contents) = Locked::open(Arc::new(storage.clone()), Some(DirectoryId([1; 16])))
        .and_then(|locked| locked.open_journal(&options))
        .expect("an empty directory");
    let rig = Rig::recovered(directory, contents).await;
    let services: Vec<String> = (0..8).map(|number| format!("c{number}")).collect();
    for service in &services {
        rig.grant(service);
        let mut settings = settings(FailoverMode::Direct);
        settings.network = NetworkSettings { allow: allow(&webhook), retry: Retry::Ask };
        create_with(&rig, service, "call.wat", GUEST.clone(), settings).await.expect("created");
    }
    let body = format!("4{}", webhook.authority());
    let sent = services.iter().map(|service| rig.send_as(service, service, &body));
    for sent in futures::future::join_all(sent).await {
        // Four responses are all that a transaction may receive, with nothing to spare for their headers.
        let refusal = refused(&sent);
        assert!(refusal.contains("its response is dropped") && refusal.contains("may receive 16 MiB"), "{refusal}");
    }
    let three = format!("3{}", webhook.authority());
    let sent = services.iter().map(|service| rig.send_as(service, "three", &three));
    for sent in futures::future::join_all(sent).await {
        assert_eq!(ok(&sent), "200");
    }
    assert_eq!(webhook.seen().len(), 8 * 7);
    // A replay of all of it calls nothing, and answers the same.
    for service in &services {
        rig.fail_over(service).await;
        assert_eq!(rig.status(service).await.stopped, None);
    }
    assert_eq!(webhook.seen().len(), 8 * 7);
}
