//! Transactions just within a limit: what is `ok` live must be `ok` after every kind of recovery.
//!
//! The guest goes as near to a limit as its body says; the test finds the nearest by trial. It then kills the host. The
//! acknowledged transactions are proven, recovered, queried and exported from its directory.

use crate::rig::{MIB, Rig, guest_bytes, name};
use crate::world::WORLD;
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::size::Size;
use lifeboat_api::sla::{FailoverMode, Thresholds};
use lifeboat_api::transaction::Answer;
use lifeboat_host::answers::DeduplicationWindow;
use lifeboat_host::catalog::ServiceSettings;
use lifeboat_host::command_line::ProgramSettings;
use lifeboat_host::data::{Contents, DataOptions, Locked};
use lifeboat_host::host::NewService;
use lifeboat_host::network::NetworkSettings;
use lifeboat_host::scratch::Scratch;
use lifeboat_host::verify::verify;
use lifeboat_journal::frame::DirectoryId;
use lifeboat_journal::storage::SimulatedStorage;
use lifeboat_vm::workload::{LoadLimits, load};
use std::sync::Arc;
use std::time::Duration;

const SERVICE: &str = "edges";

fn settings() -> ServiceSettings {
    let size = Size {
        name: "s".into(),
        fuel: 50_000_000,
        memory_bytes: 8 * MIB,
        disk_bytes: MIB,
        network_calls: 1_000,
        network_bytes: MIB,
        deadline: Duration::from_secs(3),
    };
    ServiceSettings {
        size: "s".into(),
        sizes: vec![size],
        thresholds: Thresholds::default(),
        deduplication_window: DeduplicationWindow::durable(),
        failover: FailoverMode::Direct,
        network: NetworkSettings::default(),
        program: ProgramSettings::default(),
    }
}

fn contents(storage: &SimulatedStorage) -> Contents {
    Locked::open_read_only(Arc::new(storage.clone())).and_then(|locked| locked.read(None)).expect("readable")
}

/// Starts a host with the directory in `storage`.
async fn start(storage: &SimulatedStorage) -> Rig {
    let locked = Locked::open(Arc::new(storage.clone()), Some(DirectoryId([1; 16]))).expect("taken");
    let (directory, contents) = locked.open_journal(&DataOptions::default()).expect("opens");
    let rig = Rig::recovered(directory, contents).await;
    rig.grant(SERVICE);
    rig
}

async fn create(rig: &Rig) {
    let bytes = WORLD.component(std::str::from_utf8(&guest_bytes("assembled/edges.wat")).expect("text"));
    let new = NewService {
        name: name(SERVICE),
        workload: load("edges.wat", &bytes, &LoadLimits::default()).expect("valid"),
        workload_bytes: bytes.into(),
        settings: settings(),
        secret: [7; 32],
        epoch: Epoch([99; 16]),
        disk: None,
    };
    rig.host.create_durable_service(new).await.expect("created");
}

async fn is_ok(rig: &Rig, body: &str) -> bool {
    let reply = rig.send(SERVICE, body).await.unwrap_or_else(|denial| panic!("{body}: {denial:?}"));
    matches!(reply.answer, Answer::Ok(_))
}

/// Returns the largest number up to `most` that is `ok` after `letter`.
async fn edge(rig: &Rig, letter: char, most: u32) -> u32 {
    let tried = |number: u32| async move {
        // Memory and table entries that were taken before must not count.
        if ['m', 't'].contains(&letter) {
            rig.snapshot(SERVICE).await;
        }
        is_ok(rig, &format!("{letter}{number}")).await
    };
    let (mut good, mut bad) = (0, most + 1);
    // Most limits are at their documented value, or close to it.
    let mut step = 1;
    while bad > good + 1 {
        let number = bad.saturating_sub(step).max(good + 1);
        if tried(number).await {
            good = number;
            break;
        }
        bad = number;
        step *= 2;
    }
    while bad > good + 1 {
        let number = good.midpoint(bad);
        if tried(number).await { good = number } else { bad = number }
    }
    good
}

/// Runs transactions just within a limit, kills the host, and recovers its state in every possible way.
async fn survives(edges: &[(char, u32)]) {
    let storage = SimulatedStorage::new(1);
    let rig = start(&storage).await;
    create(&rig).await;
    let mut bodies = Vec::new();
    for &(letter, most) in edges {
        let number = edge(&rig, letter, most).await;
        assert!(number > 0, "{letter}");
        bodies.push(format!("{letter}{number}"));
    }
    rig.snapshot(SERVICE).await;
    for body in &bodies {
        assert!(is_ok(&rig, body).await, "{body}: it was ok before");
    }
    let status = rig.status(SERVICE).await;
    let last = status.sequence;
    let killed = storage.copy();
    drop(rig);

    let contents = contents(&killed);
    let [found] = &contents.services[..] else { panic!("one service") };
    let scratch = Scratch::new(&found.entry.settings.sizes).expect("an engine");
    let proof = verify(&scratch, &killed, found, &mut |_| {}).await.expect("proven");
    assert_eq!((proof.findings.len(), proof.through), (0, last), "{bodies:?}: {proof:?}");
    let program = scratch.program(&killed, found).await.expect("runs");
    let earlier = Sequence(last.0 - 1);
    for at in [earlier, last] {
        let state = scratch.state(&killed, &program, found, Some(at)).await.expect("brought back");
        let answer = scratch.query(state, &name("ada"), b"x").await.answer;
        assert!(matches!(answer, Answer::Ok(_)), "{bodies:?} at {at}: {answer:?}");
    }
    let state = scratch.state(&killed, &program, found, None).await.expect("brought back");
    scratch.export(scratch.replay_context_of(&program, found), state).await.expect("exported");

    let rig = start(&killed).await;
    let status = rig.status(SERVICE).await;
    assert_eq!((status.stopped, status.sequence), (None, last), "{bodies:?}");
    assert!(is_ok(&rig, "x").await);
}

#[tokio::test]
async fn the_deepest_recursion_that_is_ok_is_brought_back() {
    survives(&[('s', 100_000)]).await;
}

#[tokio::test]
async fn a_state_just_within_any_limit_is_restored() {
    survives(&[
        ('s', 20_000),
        ('f', 10_000_000),
        ('r', 4 * 1024 * 1024),
        ('l', 64 * 1024),
        ('h', 100_000),
        ('d', 3_000_000_000),
        ('t', 100_000),
        ('m', 49),
    ])
    .await;
}
