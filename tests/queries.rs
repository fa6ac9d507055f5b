//! Queries that change what they must not: a generator, the memory, a log, or the state itself. Whatever follows them,
//! the service recovers, and its directory can be proven.

use crate::rig::{MIB, Rig, guest_bytes, name, size};
use lifeboat_api::event::Event;
use lifeboat_api::id::Epoch;
use lifeboat_api::sla::{FailoverMode, Thresholds};
use lifeboat_api::transaction::{Answer, Reply};
use lifeboat_host::answers::DeduplicationWindow;
use lifeboat_host::catalog::ServiceSettings;
use lifeboat_host::command_line::ProgramSettings;
use lifeboat_host::data::{DataOptions, Locked};
use lifeboat_host::host::NewService;
use lifeboat_host::journal::Record;
use lifeboat_host::network::NetworkSettings;
use lifeboat_host::scratch::Scratch;
use lifeboat_host::service::QUERIES_HELD_MAX;
use lifeboat_host::verify::{Proof, verify};
use lifeboat_journal::frame::DirectoryId;
use lifeboat_journal::storage::SimulatedStorage;
use lifeboat_vm::workload::{LoadLimits, load};
use proptest::prelude::*;
use std::sync::{Arc, OnceLock};

const SERVICE: &str = "ant";

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(future)
}

/// Starts a host with the directory in `storage` and a service of `guest`.
async fn start(storage: &SimulatedStorage, guest: &str, failover: FailoverMode) -> Rig {
    let locked = Locked::open(Arc::new(storage.clone()), Some(DirectoryId([1; 16]))).expect("taken");
    let options = DataOptions { segment_bytes: 256 * 1024, ..DataOptions::default() };
    let (directory, contents) = locked.open_journal(&options).expect("opens");
    let rig = Rig::recovered(directory, contents).await;
    rig.grant(SERVICE);
    let printed = rig.events().into_iter().find(|event| matches!(event, Event::Quarantined { .. }));
    assert!(printed.is_none(), "{printed:?}");
    if rig.host.entry(&name(SERVICE)).expect("readable").is_none() {
        let bytes = guest_bytes(guest);
        let new = NewService {
            name: name(SERVICE),
            workload: load(guest, &bytes, &LoadLimits::default()).expect("valid"),
            workload_bytes: bytes.into(),
            settings: ServiceSettings {
                size: "s".into(),
                sizes: vec![(*size("s", 4_000_000, 4 * MIB)).clone(), (*size("m", 4_000_000, 16 * MIB)).clone()],
                thresholds: Thresholds::default(),
                deduplication_window: DeduplicationWindow::durable(),
                failover,
                network: NetworkSettings::default(),
                program: ProgramSettings::default(),
            },
            secret: [7; 32],
            epoch: Epoch([99; 16]),
            disk: None,
        };
        rig.host.create_durable_service(new).await.expect("created");
    }
    rig
}

/// Returns the proof of the service, which must cover all of it, and the number of its records of queries.
async fn proven(storage: &SimulatedStorage) -> (Proof, usize) {
    static SCRATCH: OnceLock<Scratch> = OnceLock::new();
    let scratch =
        SCRATCH.get_or_init(|| Scratch::new(&[(*size("m", 4_000_000, 16 * MIB)).clone()]).expect("an engine"));
    let contents =
        Locked::open_read_only(Arc::new(storage.clone())).and_then(|locked| locked.read(None)).expect("readable");
    let found = &contents.services[0];
    let proof = verify(scratch, storage, found, &mut |_| {}).await.expect("a proof");
    assert_eq!(proof.findings, []);
    (proof, found.records.iter().filter(|(_, record)| matches!(record, Record::Queries(_))).count())
}

/// Cuts the power and starts the host again.
async fn restart(rig: Rig, storage: &mut SimulatedStorage, guest: &str, failover: FailoverMode) -> Rig {
    *storage = storage.crash();
    drop(rig);
    proven(storage).await;
    start(storage, guest, failover).await
}

fn text(reply: &Reply) -> String {
    match &reply.answer {
        Answer::Ok(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => panic!("{other:?}"),
    }
}

/// Sends queries between transactions, crashes and a rollback, and also a snapshot and a failover if `moves`. Without
/// `moves`, the guest's replies depend on how much memory there was, which a restore does not bring back.
async fn lives_through(guest: &str, query: &str, transaction: &str, queries: usize, moves: bool) {
    let mut storage = SimulatedStorage::new(3);
    let mut rig = start(&storage, guest, FailoverMode::Direct).await;
    let mut seen = Vec::new();
    for round in 0..8 {
        let answer = text(&rig.send_as(SERVICE, &format!("a{round}"), transaction).await.expect("kept"));
        seen.push((format!("a{round}"), answer));
        for _ in 0..queries {
            text(&rig.query(SERVICE, query).await.expect("answered"));
        }
        let answer = text(&rig.send_as(SERVICE, &format!("b{round}"), transaction).await.expect("kept"));
        seen.push((format!("b{round}"), answer));
        match round {
            1 => assert!(!rig.send(SERVICE, "boom").await.expect("rolled back").answer.is_kept()),
            3 if moves => drop(rig.snapshot(SERVICE).await),
            5 if moves => drop(rig.fail_over(SERVICE).await),
            _ => rig = restart(rig, &mut storage, guest, FailoverMode::Direct).await,
        }
        text(&rig.query(SERVICE, query).await.expect("answered"));
        assert_eq!(rig.status(SERVICE).await.stopped, None, "after round {round}");
    }
    rig.host.stop().await.expect("sealed");
    drop(rig);
    let (proof, records) = proven(&storage).await;
    assert!(proof.replayed_queries > 0 && records > 0, "{proof:?}");
    let rig = start(&storage, guest, FailoverMode::Direct).await;
    for (id, answer) in &seen {
        assert_eq!(&text(&rig.send_as(SERVICE, id, transaction).await.expect("kept")), answer);
    }
}

#[test]
fn a_query_that_moves_a_generator_is_replayed() {
    block_on(lives_through("moving-query.wat", "x", "x", 2, true));
}

#[test]
fn a_query_that_grows_memory_is_replayed() {
    block_on(lives_through("moving-query.wat", "grow", "size", 1, false));
}

#[test]
fn a_query_that_logs_is_replayed() {
    block_on(lives_through("moving-query.wat", "log", "size", 1, false));
}

#[test]
fn a_query_that_changes_the_state_itself_is_replayed() {
    block_on(lives_through("counting-query.wat", "x", "x", 1, true));
}

#[test]
fn queries_that_no_transaction_follows_are_journalled_when_they_are_many() {
    block_on(async {
        let mut storage = SimulatedStorage::new(3);
        let rig = start(&storage, "moving-query.wat", FailoverMode::Direct).await;
        rig.send(SERVICE, "x").await.expect("kept");
        for _ in 0..QUERIES_HELD_MAX + 10 {
            rig.query(SERVICE, "x").await.expect("answered");
        }
        // No answer waits for the record of queries.
        rig.host.data().expect("it is durable").committer().settle().await.expect("written");
        // A power cut loses which queries followed the last record, and with them their changes.
        let rig = restart(rig, &mut storage, "moving-query.wat", FailoverMode::Direct).await;
        let (proof, records) = proven(&storage.copy()).await;
        assert_eq!((proof.replayed_queries, records), (QUERIES_HELD_MAX as u64, 1));
        rig.query(SERVICE, "x").await.expect("answered");
        rig.send(SERVICE, "x").await.expect("kept");
        restart(rig, &mut storage, "moving-query.wat", FailoverMode::Direct).await;
    });
}

#[test]
fn a_query_that_fails_takes_the_others_since_the_last_record_with_it() {
    block_on(async {
        let mut storage = SimulatedStorage::new(3);
        let rig = start(&storage, "moving-query.wat", FailoverMode::Direct).await;
        let first = text(&rig.query(SERVICE, "x").await.expect("answered"));
        assert!(!rig.query(SERVICE, "boom").await.expect("rolled back").answer.is_kept());
        // The generator is in its earlier state.
        assert_eq!(text(&rig.query(SERVICE, "x").await.expect("answered")), first);
        rig.send(SERVICE, "x").await.expect("kept");
        let (proof, _) = proven(&storage.copy()).await;
        assert_eq!(proof.replayed_queries, 1);
        restart(rig, &mut storage, "moving-query.wat", FailoverMode::Direct).await;
    });
}

#[derive(Debug, Clone)]
enum Step {
    /// A transaction with this body.
    Send(&'static str),
    /// A number of queries with this body.
    Query(&'static str, usize),
    FailOver,
    Snapshot,
    /// A power cut.
    Crash,
    /// A clean stop of the host.
    Stop,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => prop_oneof![8 => Just("x"), 1 => Just("refuse"), 1 => Just("boom")].prop_map(Step::Send),
        8 => (prop_oneof![8 => Just("x"), 1 => Just("grow"), 1 => Just("log"), 1 => Just("boom")],
              prop_oneof![6 => 1usize..4, 1 => Just(QUERIES_HELD_MAX + 1)])
            .prop_map(|(body, count)| Step::Query(body, if body == "x" { count } else { 1 })),
        1 => Just(Step::FailOver),
        1 => Just(Step::Snapshot),
        1 => Just(Step::Crash),
        1 => Just(Step::Stop),
    ];
    prop::collection::vec(step, 1..40)
}

async fn play(steps: Vec<Step>, seed: u64, failover: FailoverMode) {
    const GUEST: &str = "moving-query.wat";
    let mut storage = SimulatedStorage::new(seed);
    let mut rig = start(&storage, GUEST, failover).await;
    let mut seen: Vec<(String, &str, Answer)> = Vec::new();
    for step in steps.into_iter().chain([Step::Crash, Step::Stop]) {
        match step {
            Step::Send(body) => {
                let id = format!("t{}", seen.len());
                let reply = rig.send_as(SERVICE, &id, body).await.expect("answered");
                seen.push((id, body, reply.answer));
            }
            Step::Query(body, count) => {
                for _ in 0..count {
                    rig.query(SERVICE, body).await.expect("answered");
                }
            }
            Step::FailOver => drop(rig.fail_over(SERVICE).await),
            Step::Snapshot => drop(rig.snapshot(SERVICE).await),
            Step::Crash => rig = restart(rig, &mut storage, GUEST, failover).await,
            Step::Stop => {
                rig.host.stop().await.expect("sealed");
                rig = restart(rig, &mut storage, GUEST, failover).await;
            }
        }
        let status = rig.status(SERVICE).await;
        assert_eq!((&status.stopped, &status.unmovable), (&None, &None));
    }
    for (id, body, answer) in seen {
        assert_eq!(rig.send_as(SERVICE, &id, body).await.expect("answered").answer, answer);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_query_makes_a_service_diverge(
        steps in steps(),
        seed in any::<u64>(),
        failover in prop_oneof![Just(FailoverMode::Direct), Just(FailoverMode::Shadow)],
    ) {
        block_on(play(steps, seed, failover));
    }
}
