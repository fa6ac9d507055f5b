//! Durable services against a model. Whatever is cut off, torn or full, an answer that was seen is given again, and
//! nothing is executed twice.
//!
//! The disk is simulated. At a power cut it retains a random subset of what was not synced, and it fails on request.
//! Everything else is the real product: a host, its data directory, the group commit, and recovery.

use crate::rig::{MIB, Rig, guest_bytes, name, ok, size};
use lifeboat_api::clock::{Clock, Timestamp, VirtualClock};
use lifeboat_api::event::{Event, HostPressure};
use lifeboat_api::id::Epoch;
use lifeboat_api::meter::{HostResource, Usage};
use lifeboat_api::sla::{FailoverMode, THRESHOLD_DEFAULT, Thresholds};
use lifeboat_api::transaction::{Answer, Denial, Reply, RequestError};
use lifeboat_disk::{Call, Disk, Ino, Mark, OpenHow};
use lifeboat_host::answers::DeduplicationWindow;
use lifeboat_host::catalog::ServiceSettings;
use lifeboat_host::command_line::ProgramSettings;
use lifeboat_host::data::{DataOptions, Locked};
use lifeboat_host::fleet::Machine;
use lifeboat_host::host::{Host, HostConfig, NewService};
use lifeboat_host::metrics::{JournalMetrics, Metrics, Scrape};
use lifeboat_host::monitor::Admission;
use lifeboat_host::network::NetworkSettings;
use lifeboat_host::service::{LaunchError, TRIAL_TRANSACTIONS};
use lifeboat_journal::commit::{Change, Entry};
use lifeboat_journal::frame::{DirectoryId, RecordNumber};
use lifeboat_journal::recovery::{Found, inspect};
use lifeboat_journal::storage::{Operation, SimulatedStorage, Storage};
use lifeboat_vm::workload::{LoadLimits, load};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, Weak, mpsc};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;

const SERVICES: [&str; 2] = ["ant", "bee"];

/// Starts a host with the directory in `storage`, and creates the services if they are missing.
async fn start(storage: &SimulatedStorage, failover: FailoverMode) -> Result<Rig, String> {
    start_with(storage, failover, 0, |_| {}).await
}

/// Does the same for a numbered start, which determines its epochs, and with settings changed by `change`.
pub(crate) async fn start_with(
    storage: &SimulatedStorage,
    failover: FailoverMode,
    number: u8,
    change: impl Fn(&mut ServiceSettings),
) -> Result<Rig, String> {
    start_at(storage, failover, number, None, change).await
}

/// Does the same with a clock that shows `now`.
pub(crate) async fn start_at(
    storage: &SimulatedStorage,
    failover: FailoverMode,
    number: u8,
    now: Option<Timestamp>,
    change: impl Fn(&mut ServiceSettings),
) -> Result<Rig, String> {
    let options = DataOptions { segment_bytes: 256 * 1024, pinned_bytes: 1 << 20, ..DataOptions::default() };
    let opened = Locked::open(Arc::new(storage.clone()), Some(DirectoryId([1; 16])))
        .and_then(|locked| locked.open_journal(&options))
        .map_err(|error| format!("{error:?}"))?;
    let (directory, contents) = opened;
    let mut rig = Rig::new();
    rig.clock.set(now.unwrap_or(rig.clock.now()));
    rig.host = rig.host.with_data(directory);
    let mut epoch = 0;
    let draw = || {
        epoch += 1;
        let mut bytes = [epoch; 16];
        bytes[0] = number;
        Epoch(bytes)
    };
    rig.host.recover(contents, draw).await;
    for service in SERVICES {
        rig.grant(service);
        if rig.host.entry(&name(service)).map_err(|error| error.to_string())?.is_some() {
            continue;
        }
        let mut settings = settings(failover);
        change(&mut settings);
        create(&rig, service, "work.wat", settings).await?;
    }
    Ok(rig)
}

/// Creates a service of a guest of `tests/guests`.
pub(crate) async fn create(rig: &Rig, service: &str, guest: &str, settings: ServiceSettings) -> Result<(), String> {
    rig.grant(service);
    let new = new_service(service, guest, settings);
    rig.host.create_durable_service(new).await.map_err(|error| error.to_string())
}

/// Creates a service of a guest from its bytes.
pub(crate) async fn create_with(
    rig: &Rig,
    service: &str,
    file: &str,
    bytes: Vec<u8>,
    settings: ServiceSettings,
) -> Result<(), String> {
    let new = of_bytes(service, file, bytes, settings);
    rig.host.create_durable_service(new).await.map_err(|error| error.to_string())
}

/// Returns the parameters of a new durable service of a guest of `tests/guests`.
pub(crate) fn new_service(service: &str, guest: &str, settings: ServiceSettings) -> NewService {
    of_bytes(service, guest, guest_bytes(guest), settings)
}

fn of_bytes(service: &str, guest: &str, bytes: Vec<u8>, settings: ServiceSettings) -> NewService {
    NewService {
        name: name(service),
        workload: load(guest, &bytes, &LoadLimits::default()).expect("valid"),
        workload_bytes: bytes.into(),
        settings,
        secret: [7; 32],
        epoch: Epoch([99; 16]),
        disk: None,
    }
}

/// Returns a disk with one file.
pub(crate) fn disk_with(path: &str, bytes: &[u8]) -> Disk {
    let mut disk = Disk::new(0);
    disk.enter(Call { now_ns: 1, mark: Mark::default(), limit_bytes: 1 << 30, is_read_only: false });
    let how = OpenHow { create: true, write: true, ..OpenHow::default() };
    let (ino, _) = disk.open_at(Ino::ROOT, path, how).expect("created");
    disk.write(ino, 0, bytes).expect("written");
    disk.close(ino);
    disk
}

/// Returns settings with small sizes and the longest deduplication window.
pub(crate) fn settings(failover: FailoverMode) -> ServiceSettings {
    ServiceSettings {
        size: "s".into(),
        sizes: vec![(*size("s", 400_000, MIB)).clone(), (*size("m", 400_000, 4 * MIB)).clone()],
        thresholds: Thresholds::default(),
        deduplication_window: DeduplicationWindow::durable(),
        failover,
        network: NetworkSettings::default(),
        program: ProgramSettings::default(),
    }
}

/// A transaction, as its client knows it.
#[derive(Debug, Clone)]
struct Sent {
    service: &'static str,
    id: String,
    body: String,
    /// The answer, if one was seen.
    seen: Option<Reply>,
}

/// The state of the client of all services.
#[derive(Debug, Default)]
struct Client {
    sent: Vec<Sent>,
}

impl Client {
    /// Sends new transactions all at once, polls them `polls` times, and records the answers that arrived until then.
    async fn send(&mut self, rig: &Rig, bodies: Vec<(usize, String)>, polls: usize) {
        let first = self.sent.len();
        for (service, body) in bodies {
            let id = format!("t{}", self.sent.len());
            self.sent.push(Sent { service: SERVICES[service % SERVICES.len()], id, body, seen: None });
        }
        self.ask(rig, first, polls).await;
    }

    /// Sends all transactions from `first` on that have no answer.
    async fn ask(&mut self, rig: &Rig, first: usize, polls: usize) {
        type Asking<'a> = Pin<Box<dyn Future<Output = Result<Reply, RequestError>> + 'a>>;
        let mut asking: Vec<(usize, Asking<'_>)> = Vec::new();
        let open = self.sent.iter().enumerate().skip(first).filter(|(_, sent)| sent.seen.is_none());
        for (index, sent) in open.map(|(index, sent)| (index, sent.clone())) {
            let answer = async move { rig.send_as(sent.service, &sent.id, sent.body).await };
            asking.push((index, Box::pin(answer)));
        }
        let mut polls_left = polls;
        poll_fn(|cx| {
            asking.retain_mut(|(index, answer)| match answer.as_mut().poll(cx) {
                Poll::Ready(Ok(reply)) => {
                    self.sent[*index].seen = Some(reply);
                    false
                }
                // It was not executed, or its outcome is unknown: it is sent again.
                Poll::Ready(Err(_)) => false,
                Poll::Pending => true,
            });
            if asking.is_empty() || polls_left == 0 {
                return Poll::Ready(());
            }
            polls_left -= 1;
            Poll::Pending
        })
        .await;
    }

    /// Checks that every answer is given again, in the same words.
    async fn check_answers(&self, rig: &Rig) -> Result<(), String> {
        for sent in &self.sent {
            let Some(seen) = &sent.seen else { continue };
            let again = rig.send_as(sent.service, &sent.id, &sent.body).await.map_err(|error| error.to_string())?;
            if !again.is_repeated || again.answer != seen.answer || again.sequence != seen.sequence {
                return Err(format!("{}/{} was {seen:?} and is {again:?}", sent.service, sent.id));
            }
        }
        Ok(())
    }

    /// Checks that after a power cut the answers are there, and that the rest is executed once.
    async fn goes_on_after_a_crash(&mut self, storage: &SimulatedStorage) {
        let rig = start(&storage.crash(), FailoverMode::Direct).await.expect("starts again");
        self.check_answers(&rig).await.expect("nothing lost");
        self.ask(&rig, 0, usize::MAX).await;
        self.check_counts(&rig).await.expect("each once");
    }

    /// Checks, after all were answered, that each transaction counted once.
    async fn check_counts(&self, rig: &Rig) -> Result<(), String> {
        for service in SERVICES {
            let mut counts: Vec<u64> = Vec::new();
            for sent in self.sent.iter().filter(|sent| sent.service == service) {
                match sent.seen.as_ref().map(|seen| &seen.answer) {
                    Some(Answer::Ok(bytes)) => {
                        counts.push(String::from_utf8_lossy(bytes).parse().map_err(|_| "no count".to_owned())?);
                    }
                    Some(_) => {}
                    None => return Err(format!("{} was never answered", sent.id)),
                }
            }
            counts.sort_unstable();
            let count = rig.query(service, "x").await.map_err(|error| error.to_string())?;
            let expected: Vec<u64> = (1..=counts.len() as u64).collect();
            if counts != expected || count.answer != Answer::Ok(counts.len().to_string().into()) {
                return Err(format!("{service} counted {counts:?}, and says {:?}", count.answer));
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// Transactions sent at once, whose answers are awaited for a number of polls.
    Send(Vec<(usize, String)>, usize),
    FailOver(usize),
    Snapshot(usize),
    /// A power cut.
    Crash,
    /// A clean stop of the host.
    Stop,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let body = prop_oneof![
        6 => (0u32..3_000).prop_map(|iterations| iterations.to_string()),
        2 => Just("grow".to_owned()),
        1 => Just("boom".to_owned()),
        1 => Just("refuse".to_owned()),
        1 => Just("4000000000".to_owned()),
    ];
    let bodies = prop::collection::vec((0usize..2, body), 1..40);
    let step = prop_oneof![
        6 => (bodies, prop_oneof![0usize..60, Just(1_000_000)]).prop_map(|(bodies, polls)| Step::Send(bodies, polls)),
        1 => (0usize..2).prop_map(Step::FailOver),
        1 => (0usize..2).prop_map(Step::Snapshot),
        2 => Just(Step::Crash),
        1 => Just(Step::Stop),
    ];
    prop::collection::vec(step, 1..14)
}

async fn play(steps: Vec<Step>, seed: u64, failover: FailoverMode) -> Result<(), String> {
    let mut storage = SimulatedStorage::new(seed);
    let mut rig = start(&storage, failover).await?;
    let mut client = Client::default();
    for step in steps.into_iter().chain([Step::Crash, Step::Stop]) {
        match step {
            Step::Send(bodies, polls) => client.send(&rig, bodies, polls).await,
            Step::FailOver(service) => drop(rig.fail_over(SERVICES[service]).await),
            Step::Snapshot(service) => drop(rig.snapshot(SERVICES[service]).await),
            Step::Crash => {
                storage = storage.crash();
                rig = start(&storage, failover).await?;
                client.check_answers(&rig).await?;
            }
            Step::Stop => {
                rig.host.stop().await.map_err(|error| error.to_string())?;
                drop(rig);
                rig = start(&storage, failover).await?;
                client.check_answers(&rig).await?;
            }
        }
        let printed = rig.events().into_iter().find(|event| matches!(event, Event::Quarantined { .. }));
        if let Some(quarantined) = printed {
            return Err(format!("a false quarantine: {quarantined}"));
        }
    }
    client.ask(&rig, 0, usize::MAX).await;
    client.check_answers(&rig).await?;
    client.check_counts(&rig).await
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_acknowledged_transaction_survives_exactly_once(
        steps in steps(),
        seed in any::<u64>(),
        failover in prop_oneof![Just(FailoverMode::Direct), Just(FailoverMode::Shadow)],
    ) {
        block_on(play(steps, seed, failover)).map_err(TestCaseError::fail)?;
    }
}

/// The check of [`play`] is one that can fail.
#[tokio::test]
async fn a_disk_that_lies_about_syncs_is_noticed_after_a_power_cut() {
    let bodies: Vec<(usize, String)> = (0..60).map(|index| (index, "1".to_owned())).collect();
    let (mut noticed, mut started) = (0, 0);
    for seed in 0..20 {
        let storage = SimulatedStorage::new(seed);
        let rig = start(&storage, FailoverMode::Direct).await.expect("starts");
        let mut client = Client::default();
        storage.ignore_syncs();
        client.send(&rig, bodies.clone(), usize::MAX).await;
        // A start may be refused as well: the power cut has left what the disk never wrote.
        let Ok(again) = start(&storage.crash(), FailoverMode::Direct).await else { continue };
        started += 1;
        noticed += usize::from(client.check_answers(&again).await.is_err());
    }
    assert!(started >= 10 && noticed >= 5, "{noticed} of {started} starts lack answers that were acknowledged");
}

#[tokio::test]
async fn a_failed_sync_ends_acknowledgements_without_losing_any() {
    for nth in 1..30 {
        let storage = SimulatedStorage::new(nth);
        let rig = start(&storage, FailoverMode::Direct).await.expect("starts");
        let mut client = Client::default();
        client.send(&rig, vec![(0, "1".into()), (1, "1".into())], usize::MAX).await;
        storage.fail(Operation::SyncData, nth);
        for round in 0..10 {
            client.send(&rig, vec![(round, "1".into()), (round + 1, "refuse".into())], usize::MAX).await;
        }
        let is_failed = client.sent.iter().any(|sent| sent.seen.is_none());
        if is_failed {
            // The failure is final: the host accepts no more transactions.
            client.send(&rig, vec![(0, "1".into())], usize::MAX).await;
            assert!(client.sent.last().is_some_and(|sent| sent.seen.is_none()), "acknowledged after a failed sync");
            assert!(rig.host.stop().await.is_err(), "a journal that failed is not sealed");
        }
        client.goes_on_after_a_crash(&storage).await;
    }
}

#[tokio::test]
async fn a_failover_is_reported_once_it_is_durable_whenever_the_power_goes() {
    let mut cut = 0;
    for nth in (1..90).step_by(2) {
        let storage = SimulatedStorage::new(nth);
        let rig = start(&storage, FailoverMode::Direct).await.expect("starts");
        storage.power_off(nth);
        let mut reported = Vec::new();
        for _ in 0..30 {
            match rig.send("ant", "3000").await {
                Ok(Reply { failover: Some(failover), .. }) => reported.push(failover.to_string()),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        // The answer waits for the record that it reports. The order may have failed.
        let answered = rig.try_fail_over("ant").await;
        if storage.is_off() {
            cut += 1;
        }
        let before = rig.failovers();
        let is_known = |line: &String| before.iter().any(|failover| failover.to_string() == *line);
        assert!(reported.iter().all(is_known), "an answer reports what no event does: {reported:?}, {before:?}");
        drop(rig);

        let rig = start(&storage.crash(), FailoverMode::Direct).await.expect("starts again");
        let last = before.last().map_or(1, |failover| failover.to.number);
        let vm = rig.status("ant").await.vm;
        // A stopped service does not report a move.
        let moved = answered.ok().filter(|status| status.stopped.is_none());
        let last = moved.map_or(last, |status| last.max(status.vm.number));
        assert!(vm.number >= last, "cut at {nth}: {vm} serves after a failover to ant/{last} was reported");
        rig.fail_over("ant").await;
        let after = rig.failovers();
        assert!(after.iter().all(|failover| failover.to.number > last), "cut at {nth}: {before:?}, then {after:?}");
    }
    assert!(cut > 20, "the power was cut {cut} times");
}

#[tokio::test]
async fn a_start_reports_a_clock_that_is_behind_the_last_transaction() {
    let storage = SimulatedStorage::new(4);
    let rig = start(&storage, FailoverMode::Direct).await.expect("starts");
    rig.clock.advance(Duration::from_secs(61));
    let last = rig.send("ant", "1").await.expect("kept").timestamp;
    let sooner = rig.send("bee", "1").await.expect("kept").timestamp;
    rig.host.stop().await.expect("sealed");
    drop(rig);
    let rig = start(&storage, FailoverMode::Direct).await.expect("starts again");
    let behind = |event: &Event| matches!(event, Event::ClockBehind { now, .. } if now.0 + 61_000_000_000 == last.0);
    assert_eq!(rig.events().iter().filter(|event| behind(event)).count(), 2, "{:?}", rig.events());
    assert_eq!(rig.send("ant", "1").await.expect("kept").timestamp.0, last.0 + 1);
    assert_eq!(rig.send("bee", "1").await.expect("kept").timestamp.0, sooner.0 + 1);
}

#[tokio::test]
async fn a_full_disk_loses_no_acknowledged_transaction() {
    let storage = SimulatedStorage::new(3);
    let rig = start(&storage, FailoverMode::Direct).await.expect("starts");
    let mut client = Client::default();
    client.send(&rig, vec![(0, "1".into()), (1, "1".into())], usize::MAX).await;
    storage.limit_space(storage.used_bytes());
    for _ in 0..200 {
        client.send(&rig, (0..8).map(|index| (index, "1".to_owned())).collect(), usize::MAX).await;
    }
    assert!(client.sent.iter().any(|sent| sent.seen.is_none()), "the disk was never full");
    client.goes_on_after_a_crash(&storage).await;
}

/// While the journal denies transactions, a removal does not wait for the reclaim that follows it. The reclaim has not
/// begun when the host is stopped, since the only thread for it is busy.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_task_of_a_removal_without_room_does_not_have_the_directory_after_a_stop() {
    let storage = SimulatedStorage::new(1);
    let take = || Locked::open(Arc::new(storage.clone()), Some(DirectoryId([1; 16])));
    let options = DataOptions { segment_bytes: 256 * 1024, ..DataOptions::default() };
    let (directory, contents) = take().expect("free").open_journal(&options).expect("opens");
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(Some(released));
    let mut rig = Rig::watched(move |event| {
        if matches!(event, Event::Removed { .. }) {
            let released = released.lock().expect("no panic").take().expect("one is removed");
            let (begin, begun) = mpsc::channel();
            tokio::spawn(async move {
                begin.send(()).expect("it is waited for");
                let _ = released.recv();
            });
            begun.recv().expect("it begins");
        }
    });
    rig.host = rig.host.with_data(Arc::clone(&directory));
    rig.host.recover(contents, || Epoch([1; 16])).await;
    create(&rig, "ant", "work.wat", settings(FailoverMode::Direct)).await.expect("created");
    storage.break_down(Operation::Create, io::ErrorKind::StorageFull);
    for change in [
        Change::Begin { number: RecordNumber(1), record: vec![0; 100_000] },
        Change::Continue { number: RecordNumber(2), record: vec![0; 50_000] },
    ] {
        drop(directory.committer().submit(Entry { service: name("filler"), change }, None).expect("open"));
    }
    let mut stalls = directory.committer().stalls();
    stalls.wait_for(|stall| stall.as_ref().is_some_and(|stall| stall.denies)).await.expect("it goes on");
    rig.host.remove_service(&name("ant")).await.expect("removed");
    assert!(directory.committer().denies());
    storage.mend(Operation::Create);
    rig.host.stop().await.expect("sealed");
    drop((rig, directory));
    take().expect("nobody has it");
    drop(release);
}

#[tokio::test]
async fn guests_of_two_copies_of_a_directory_see_different_random_numbers() {
    let original = SimulatedStorage::new(5);
    let rig = start_with(&original, FailoverMode::Direct, 1, |_| {}).await.expect("starts");
    create(&rig, "dice", "wasi.wat", settings(FailoverMode::Direct)).await.expect("created");
    rig.host.stop().await.expect("sealed");
    drop(rig);
    let copy = original.copy();
    let mut rolled = Vec::new();
    for (storage, start) in [(original, 2), (copy, 3)] {
        let rig = start_with(&storage, FailoverMode::Direct, start, |_| {}).await.expect("starts");
        rig.grant("dice");
        let first = rig.send_as("dice", "roll", "random").await.expect("rolled");
        assert_eq!(first.sequence.0, 1);
        let storage = storage.crash();
        drop(rig);
        // The service's random number is the same again, and the replay does not differ.
        let rig = start_with(&storage, FailoverMode::Direct, 9, |_| {}).await.expect("starts again");
        rig.grant("dice");
        let again = rig.send_as("dice", "roll", "random").await.expect("rolled before");
        assert!(again.is_repeated && again.answer == first.answer);
        assert!(rig.host.quarantined(&name("dice")).is_none());
        rolled.push(first.answer);
    }
    assert_ne!(rolled[0], rolled[1], "the copies share secret, service and sequence, but not the epoch");
}

/// Returns a UUID of version 7 with this time, in milliseconds after the Unix epoch.
pub(crate) fn uuid7(milliseconds: u64, tail: u64) -> String {
    format!("{:08x}-{:04x}-7000-8000-{tail:012x}", milliseconds >> 16, milliseconds & 0xffff)
}

#[tokio::test]
async fn an_id_older_than_its_answer_may_be_is_denied_also_after_a_restart() {
    let mut storage = SimulatedStorage::new(6);
    let few = |settings: &mut ServiceSettings| settings.deduplication_window.ids = 10;
    let now_ms = 1_700_000_000_000;
    let rig = start_with(&storage, FailoverMode::Direct, 1, few).await.expect("starts");
    for number in 0..40 {
        rig.send_as("ant", &uuid7(now_ms - 100 + number, number), "1").await.expect("kept");
        if number % 7 == 0 {
            rig.snapshot("ant").await;
        }
    }
    let mut rig = rig;
    for restart in 0..3 {
        let old = rig.send_as("ant", &uuid7(now_ms - 100 + 3, 3), "1").await;
        assert!(matches!(old, Err(RequestError::Denied(Denial::TooOld { .. }))), "restart {restart}: {old:?}");
        // Within the deduplication window, it is answered again. An id without a time is like any other id.
        let kept = rig.send_as("ant", &uuid7(now_ms - 100 + 39, 39), "1").await.expect("answered before");
        assert!(kept.is_repeated);
        rig.send_as("ant", &format!("plain-{restart}"), "1").await.expect("new");
        rig.send_as("ant", &uuid7(now_ms + 1000, 100 + restart), "1").await.expect("new");
        storage = storage.crash();
        drop(rig);
        rig = start_with(&storage, FailoverMode::Direct, 2, few).await.expect("starts again");
    }
}

#[tokio::test]
async fn a_damaged_newest_snapshot_is_passed_over_with_an_event() {
    let storage = SimulatedStorage::new(8);
    let rig = start(&storage, FailoverMode::Direct).await.expect("starts");
    let mut client = Client::default();
    for round in 0..4 {
        client.send(&rig, (0..6).map(|index| (index, "1".to_owned())).collect(), usize::MAX).await;
        if round < 3 {
            rig.snapshot("ant").await;
        }
    }
    rig.host.stop().await.expect("sealed");
    drop(rig);
    let storage = storage.crash();
    let mut snapshots: Vec<String> =
        storage.list().expect("lists").into_iter().filter(|file| file.starts_with("ant.")).collect();
    snapshots.sort_unstable();
    assert_eq!(snapshots.len(), 2, "the newest and the one before it are kept: {snapshots:?}");
    storage.flip(&snapshots[1], 100, 1);
    let rig = start(&storage, FailoverMode::Direct).await.expect("starts again");
    let printed = rig.events().iter().any(
        |event| matches!(event, Event::SnapshotDamaged { service, file, .. } if **service == *"ant" && *file == snapshots[1]),
    );
    assert!(printed, "{:?}", rig.events());
    client.check_answers(&rig).await.expect("nothing lost");
    client.check_counts(&rig).await.expect("each once");
}

#[tokio::test]
async fn only_the_service_that_cannot_be_brought_back_is_quarantined() {
    let storage = SimulatedStorage::new(8);
    let rig = start(&storage, FailoverMode::Direct).await.expect("starts");
    create(&rig, "lost", "count.wat", settings(FailoverMode::Direct)).await.expect("created");
    let mut client = Client::default();
    client.send(&rig, (0..6).map(|index| (index, "1".to_owned())).collect(), usize::MAX).await;
    rig.host.stop().await.expect("sealed");
    drop(rig);
    let storage = storage.crash();
    let workload = load("count.wat", &guest_bytes("count.wat"), &LoadLimits::default()).expect("valid").hash;
    storage.flip(&format!("{workload}.workload"), 30, 1);
    let rig = start(&storage, FailoverMode::Direct).await.expect("starts again");
    rig.grant("lost");
    let denied = rig.send("lost", "x").await;
    assert!(
        matches!(&denied, Err(RequestError::Denied(Denial::Quarantined { reason, .. })) if reason.contains("damaged")),
        "{denied:?}"
    );
    client.check_answers(&rig).await.expect("the others are as they were");
    client.check_counts(&rig).await.expect("each once");
}

#[tokio::test]
async fn a_copy_of_a_directory_in_use_is_of_one_moment_or_reports_its_gaps() {
    let (mut whole, mut refused) = (0, 0);
    for seed in 0..24 {
        let storage = SimulatedStorage::new(seed);
        let rig = start(&storage, FailoverMode::Direct).await.expect("starts");
        let mut client = Client::default();
        let copy = SimulatedStorage::new(seed);
        let mut files = storage.list().expect("lists");
        // The order of files differs from run to run, with work between any two files.
        let turn = usize::try_from(seed).expect("few") % files.len();
        files.rotate_left(turn);
        for (index, file) in files.iter().enumerate() {
            let (from, to) = (storage.open(file).expect("opens"), copy.create(file).expect("creates"));
            let mut bytes = vec![0; usize::try_from(from.bytes().expect("known")).expect("fits")];
            from.read_exact_at(0, &mut bytes).expect("reads");
            to.write_all_at(0, &bytes).expect("writes");
            client.send(&rig, (0..20).map(|index| (index, "1".to_owned())).collect(), usize::MAX).await;
            if index % 2 == 0 {
                rig.snapshot("ant").await;
            }
        }
        drop(rig);
        let Ok(rig) = start(&copy, FailoverMode::Direct).await else {
            refused += 1;
            continue;
        };
        for service in SERVICES {
            if rig.host.quarantined(&name(service)).is_some() {
                refused += 1;
                continue;
            }
            // The copy is of an earlier moment: its count is the number of its transactions.
            let count = rig.query(service, "x").await.expect("answered");
            assert_eq!(count.answer, Answer::Ok(rig.status(service).await.sequence.0.to_string().into()));
            whole += 1;
        }
    }
    assert!(whole > 0, "{refused} refused");
}

#[tokio::test]
async fn a_bounded_directory_serves_for_ever() {
    let storage = SimulatedStorage::new(9);
    let rig = start(&storage, FailoverMode::Direct).await.expect("starts");
    create(&rig, "few", "count.wat", settings(FailoverMode::Direct)).await.expect("created");
    rig.send_as("few", "first", "x").await.expect("kept");
    // One service becomes idle, and the other does not. The idle one must not pin the journal.
    rig.send_as("bee", "first", "1").await.expect("kept");
    for _ in 0..60 {
        rig.send("bee", "y".repeat(4000)).await.expect("kept");
    }
    let mut largest = BTreeMap::new();
    for round in 0..40 {
        for index in 0..100 {
            rig.send("ant", "x".repeat(4000))
                .await
                .map(drop)
                .unwrap_or_else(|error| panic!("{round}/{index}: {error}"));
        }
        rig.snapshot("ant").await;
        rig.status("ant").await;
        largest.insert(round, storage.used_bytes());
    }
    let most = largest.values().skip(15).max().expect("some");
    assert!(*most <= 6 << 20, "it grew to {most} bytes: {largest:?}");
    // Their records are relocated while they run and are idle.
    assert!(rig.send_as("few", "first", "x").await.expect("kept").is_repeated);
    assert!(rig.send_as("bee", "first", "1").await.expect("kept").is_repeated);
}

/// More than a directory from which all is reclaimed needs, also on a busy machine, where a reclaim lags behind by some
/// segments. It is less than 40 rounds of [`write_much`] write.
const RECLAIMED_BYTES_MAX: u64 = 8 << 20;

/// Has another service write 100 transactions and a snapshot in each of `rounds`. Returns the largest size of the
/// directory.
async fn write_much(rig: &Rig, storage: &SimulatedStorage, rounds: usize) -> u64 {
    let mut most = 0;
    for round in 0..rounds {
        for index in 0..100 {
            let sent = rig.send("ant", "x".repeat(4000)).await;
            sent.map(drop).unwrap_or_else(|error| panic!("{round}/{index}: {error}"));
        }
        rig.snapshot("ant").await;
        // On a busy machine, the files of snapshots and the reclaim after them could fall behind.
        let directory = rig.host.data().expect("it has a directory");
        directory.snapshots_written(&name("ant")).await.expect("written");
        most = most.max(storage.used_bytes());
    }
    most
}

/// Creates answers of `bee` that are retained and do not fit into a segment.
async fn keep_answers(rig: &Rig) -> Client {
    let mut client = Client::default();
    for _ in 0..12 {
        client.send(rig, (0..10).map(|_| (1, "y".repeat(4000))).collect(), usize::MAX).await;
    }
    client
}

#[tokio::test]
async fn a_stopped_service_retains_its_answers_without_pinning_the_journal() {
    let storage = SimulatedStorage::new(14);
    let rig = start(&storage, FailoverMode::Direct).await.expect("starts");
    let client = keep_answers(&rig).await;
    rig.host.stop_service(&name("bee")).await.expect("stopped");
    // 16 MB of records, beside half a megabyte that the stopped service needs.
    let most = write_much(&rig, &storage, 40).await;
    assert!(most <= RECLAIMED_BYTES_MAX, "it grew to {most} bytes");
    rig.host.start_service(&name("bee"), Epoch([44; 16])).await.expect("started");
    client.check_answers(&rig).await.expect("nothing is forgotten");

    // The same across a start of the host, which finds the service stopped, and across a power cut.
    rig.host.stop_service(&name("bee")).await.expect("stopped");
    rig.host.stop().await.expect("sealed");
    drop(rig);
    let rig = start(&storage, FailoverMode::Direct).await.expect("starts again");
    let most = write_much(&rig, &storage, 40).await;
    assert!(most <= RECLAIMED_BYTES_MAX, "it grew to {most} bytes");
    let storage = storage.crash();
    drop(rig);
    let rig = start(&storage, FailoverMode::Direct).await.expect("starts again");
    rig.host.start_service(&name("bee"), Epoch([45; 16])).await.expect("started");
    client.check_answers(&rig).await.expect("nothing is forgotten");
}

#[tokio::test]
async fn an_idle_service_whose_records_are_relocated_answers_repetitions_all_the_time() {
    let storage = SimulatedStorage::new(15);
    let rig = start(&storage, FailoverMode::Direct).await.expect("starts");
    let client = keep_answers(&rig).await;
    for _ in 0..40 {
        let most = write_much(&rig, &storage, 1).await;
        assert!(most <= RECLAIMED_BYTES_MAX, "it grew to {most} bytes");
        client.check_answers(&rig).await.expect("nothing is forgotten");
    }
}

#[tokio::test]
async fn a_service_whose_workload_is_missing_is_relocated_as_well() {
    let storage = SimulatedStorage::new(16);
    let rig = start(&storage, FailoverMode::Direct).await.expect("starts");
    create(&rig, "lost", "count.wat", settings(FailoverMode::Direct)).await.expect("created");
    for index in 0..120 {
        rig.send_as("lost", &format!("t{index}"), "y".repeat(4000)).await.expect("kept");
    }
    rig.host.stop().await.expect("sealed");
    drop(rig);
    let workload = load("count.wat", &guest_bytes("count.wat"), &LoadLimits::default()).expect("valid").hash;
    let (file, aside) = (format!("{workload}.workload"), "aside.workload.tmp");
    storage.rename(&file, aside).expect("renamed");
    let rig = start(&storage, FailoverMode::Direct).await.expect("starts again");
    assert!(rig.host.quarantined(&name("lost")).is_some());
    let most = write_much(&rig, &storage, 40).await;
    assert!(most <= RECLAIMED_BYTES_MAX, "it grew to {most} bytes");
    storage.rename(aside, &file).expect("renamed");
    rig.host.start_service(&name("lost"), Epoch([46; 16])).await.expect("started");
    rig.grant("lost");
    for index in 0..120 {
        let again = rig.send_as("lost", &format!("t{index}"), "y".repeat(4000)).await.expect("kept");
        assert!(again.is_repeated, "t{index}");
    }
}

#[tokio::test]
async fn a_damaged_service_that_pins_the_journal_is_reported() {
    let storage = SimulatedStorage::new(17);
    let rig = start(&storage, FailoverMode::Direct).await.expect("starts");
    keep_answers(&rig).await;
    rig.host.stop().await.expect("sealed");
    drop(rig);
    // A byte in the middle of a body.
    storage.flip("0000000001.segment", 120_000, 1);
    let rig = start(&storage, FailoverMode::Direct).await.expect("starts again");
    assert!(rig.host.quarantined(&name("bee")).is_some());
    write_much(&rig, &storage, 20).await;
    let printed: Vec<String> = rig
        .events()
        .iter()
        .filter(|event| matches!(event, Event::JournalPinned { service, .. } if **service == *"bee"))
        .map(ToString::to_string)
        .collect();
    assert!((1..5).contains(&printed.len()), "{printed:?}");
    assert!(printed[0].contains("records of bee are damaged"), "{printed:?}");
    assert!(storage.list().expect("lists").iter().any(|file| file == "0000000001.segment"));
    rig.host.remove_service(&name("bee")).await.expect("removed");
    write_much(&rig, &storage, 1).await;
    assert!(storage.used_bytes() < 5 << 20, "{} bytes", storage.used_bytes());
}

/// Starts a host with the directory in `storage`, and returns what the trials of its services will find.
async fn start_tried(storage: &SimulatedStorage) -> (Rig, UnboundedReceiver<String>) {
    let locked = Locked::open(Arc::new(storage.clone()), Some(DirectoryId([1; 16]))).expect("it is ours");
    let (directory, contents) = locked.open_journal(&DataOptions::default()).expect("opens");
    let (mut rig, reasons) = Rig::tried();
    rig.host = rig.host.with_data(directory);
    rig.host.recover(contents, || Epoch([1; 16])).await;
    rig.grant("tally");
    (rig, reasons)
}

#[tokio::test]
async fn a_trial_counts_the_transactions_before_a_start_of_the_host() {
    let storage = SimulatedStorage::new(6);
    let (before, _unread) = start_tried(&storage).await;
    create(&before, "tally", "forgetful.wat", settings(FailoverMode::Direct)).await.expect("created");
    let early = TRIAL_TRANSACTIONS - 3;
    for expected in 1..=early {
        assert_eq!(ok(&before.send("tally", "x").await), expected.to_string());
    }
    let (rig, mut reasons) = start_tried(&storage.crash()).await;
    for expected in early + 1..=TRIAL_TRANSACTIONS {
        assert_eq!(ok(&rig.send("tally", "x").await), expected.to_string());
    }
    let reason = reasons.recv().await.expect("it is reported");
    assert!(reason.contains("the replay diverged at sequence 5, transaction 'host-5'"), "{reason}");
    assert_eq!(ok(&rig.send("tally", "x").await), (TRIAL_TRANSACTIONS + 1).to_string());
}

/// The guest loses its count in each restore, which replies after the start would show.
#[tokio::test]
async fn a_service_that_a_start_has_restored_from_a_snapshot_is_not_tried() {
    let storage = SimulatedStorage::new(7);
    let (before, _unread) = start_tried(&storage).await;
    create(&before, "tally", "forgetful.wat", settings(FailoverMode::Direct)).await.expect("created");
    assert_eq!(ok(&before.send("tally", "x").await), "1");
    before.host.stop().await.expect("sealed");
    drop(before);
    let (rig, mut reasons) = start_tried(&storage).await;
    for expected in ["1", "2"] {
        assert_eq!(ok(&rig.send("tally", "x").await), expected);
    }
    assert_eq!(rig.host.try_state(&name("tally")).await, None);
    assert!(reasons.try_recv().is_err(), "{:?}", rig.events());
}

#[tokio::test]
async fn a_service_that_is_reported_as_created_takes_requests() {
    let taking = Arc::new(Mutex::new(Vec::new()));
    let host: Arc<OnceLock<Weak<Host>>> = Arc::default();
    let (seen, asked) = (Arc::clone(&taking), Arc::clone(&host));
    let sink = move |event: &Event| {
        if let Event::Created { vm, .. } = event {
            let host = asked.get().and_then(Weak::upgrade).expect("it is there");
            seen.lock().expect("no test panics in here").push(host.has_service(&vm.service));
        }
    };
    let storage = SimulatedStorage::new(1);
    let locked = Locked::open(Arc::new(storage), Some(DirectoryId([1; 16]))).expect("it is ours");
    let (directory, _) = locked.open_journal(&DataOptions::default()).expect("opens");
    let config = HostConfig::new(Machine::pair(8, 1024 * MIB), 128 * MIB);
    let clock = Arc::new(VirtualClock::new(Timestamp(1_700_000_000_000_000_000)));
    let creating = Arc::new(Host::new(config, clock, Arc::new(sink)).expect("a host").with_data(directory));
    host.set(Arc::downgrade(&creating)).expect("set once");
    creating
        .create_durable_service(new_service("ant", "work.wat", settings(FailoverMode::Direct)))
        .await
        .expect("created");
    assert_eq!(*taking.lock().expect("no test panics in here"), [true]);
    creating.stop().await.expect("sealed");
}

/// Returns the positions of the frames with records of `bee`, in a directory whose host has stopped.
fn frames_of_bee(storage: &SimulatedStorage) -> BTreeSet<(u64, u32)> {
    let mut frames = BTreeSet::new();
    let locked = Locked::open_read_only(Arc::new(storage.copy())).expect("a data directory");
    let seal = locked.catalog().seal().expect("readable");
    let recovery = inspect(storage, DirectoryId([1; 16]), seal.as_ref(), &mut |found| match found {
        Found::Begins { service } | Found::Ends { service } if **service == *"bee" => frames.clear(),
        Found::Record { service, location, .. } if **service == *"bee" => {
            frames.insert((location.segment, location.frame_offset));
        }
        _ => {}
    });
    assert!(recovery.expect("readable").damages.is_empty());
    frames
}

#[tokio::test]
async fn damaged_copies_are_found_even_if_only_repetitions_need_them() {
    let storage = SimulatedStorage::new(18);
    let rig = start(&storage, FailoverMode::Direct).await.expect("starts");
    let client = keep_answers(&rig).await;
    // Its last snapshot contains its final state: no replay needs its records any more.
    rig.host.stop_service(&name("bee")).await.expect("stopped");
    write_much(&rig, &storage, 40).await;
    rig.host.stop().await.expect("sealed");
    drop(rig);
    let frames = frames_of_bee(&storage);
    assert!(frames.len() > 2, "{frames:?}");
    for (segment, frame_offset) in frames {
        let damaged = storage.copy();
        damaged.flip(&format!("{segment:010}.segment"), frame_offset as usize + 50, 1);
        let rig = start(&damaged, FailoverMode::Direct).await.expect("starts again");
        let refused = rig.host.start_service(&name("bee"), Epoch([44; 16])).await.map_err(|error| error.to_string());
        let what = format!("segment {segment}, offset {frame_offset}: {refused:?}");
        assert!(refused.is_err_and(|reason| reason.contains("lost")), "{what}");
        assert!(rig.host.quarantined(&name("ant")).is_none(), "{what}");
    }
    let rig = start(&storage, FailoverMode::Direct).await.expect("starts again");
    rig.host.start_service(&name("bee"), Epoch([45; 16])).await.expect("started");
    client.check_answers(&rig).await.expect("nothing is forgotten");
}

/// Removes `ant` from a directory with `ant` and `bee`, with a power cut after `operations` of the storage. Returns
/// whether the removal was complete before.
async fn remove_with_a_cut_after(operations: u64) -> bool {
    let storage = SimulatedStorage::new(operations);
    let rig = start(&storage, FailoverMode::Direct).await.expect("starts");
    create(&rig, "last", "count.wat", settings(FailoverMode::Direct)).await.expect("created");
    for service in ["ant", "bee", "last"] {
        rig.send_as(service, "first", "1").await.expect("kept");
        rig.snapshot(service).await;
    }
    storage.power_off(operations);
    let removed = rig.host.remove_service(&name("ant")).await.is_ok();
    // A workload that no service uses any more is removed with the last service.
    let is_last_removed = removed && rig.host.remove_service(&name("last")).await.is_ok();
    // Otherwise the next start cleans up.
    let is_over = is_last_removed && !storage.is_off();
    if is_over {
        let left: Vec<String> = storage.list().expect("lists");
        assert!(!left.iter().any(|file| file.starts_with("ant.") || file.starts_with("last.")), "{left:?}");
        assert_eq!(left.iter().filter(|file| file.ends_with(".workload")).count(), 1, "{left:?}");
        let denied = rig.send("ant", "1").await;
        assert!(
            matches!(denied, Err(RequestError::Denied(Denial::NotGranted { .. }))),
            "the grants are gone: {denied:?}"
        );
        rig.grant("ant");
        let denied = rig.send("ant", "1").await;
        assert!(matches!(denied, Err(RequestError::Denied(Denial::NoService { .. }))), "{denied:?}");
    }
    drop(rig);
    let storage = storage.crash();
    let rig = Rig::new();
    let locked = Locked::open(Arc::new(storage.clone()), None).expect("it is ours");
    let (directory, contents) = locked.open_journal(&DataOptions::default()).expect("opens");
    let mut rig = rig;
    rig.host = rig.host.with_data(directory);
    rig.host.recover(contents, || Epoch([3; 16])).await;
    // Whatever was cut off, no file of a removed service remains.
    let left: BTreeSet<String> = storage.list().expect("lists").into_iter().collect();
    let services = rig.host.data().expect("it is durable").catalog().services().expect("readable");
    let workloads: BTreeSet<String> = services.values().map(|entry| format!("{}.workload", entry.workload)).collect();
    let is_workload = |file: &&String| file.contains(".workload");
    assert_eq!(left.iter().filter(is_workload).cloned().collect::<BTreeSet<_>>(), workloads, "{left:?}");
    let of_removed = |file: &&String| {
        ["ant", "last"]
            .iter()
            .any(|service| file.starts_with(&format!("{service}.")) && !services.contains_key(*service))
    };
    assert_eq!(left.iter().find(of_removed), None, "{left:?}");
    rig.grant("ant");
    rig.grant("bee");
    assert!(rig.send_as("bee", "first", "1").await.expect("kept").is_repeated, "the other lost nothing");
    assert!(rig.host.quarantined(&name("ant")).is_none() && rig.host.quarantined(&name("last")).is_none());
    if rig.host.has_service(&name("ant")) {
        assert!(!removed, "it was printed removed");
        assert!(rig.send_as("ant", "first", "1").await.expect("kept").is_repeated, "it is whole");
    } else {
        create(&rig, "ant", "work.wat", settings(FailoverMode::Direct)).await.expect("the name is free");
        let fresh = rig.send_as("ant", "first", "1").await.expect("kept");
        assert!(!fresh.is_repeated && fresh.sequence.0 == 1, "nothing of the old one is left: {fresh:?}");
    }
    assert!(!is_last_removed || !rig.host.has_service(&name("last")), "it was printed removed");
    rig.host.stop().await.expect("sealed");
    is_over
}

#[tokio::test]
async fn a_service_whose_removal_was_cut_off_is_whole_or_gone() {
    let mut cuts = 0;
    while !remove_with_a_cut_after(cuts + 1).await {
        cuts += 1;
        assert!(cuts < 200, "it never ends");
    }
    assert!(cuts > 10, "{cuts} cuts");
}

/// Puts an empty file into the directory.
fn leave(storage: &SimulatedStorage, file: &str) {
    drop(storage.create(file).expect("it is new"));
    storage.sync_directory().expect("synced");
}

#[tokio::test]
async fn a_start_removes_only_files_that_belong_to_no_service() {
    let storage = SimulatedStorage::new(12);
    let rig = start(&storage, FailoverMode::Direct).await.expect("starts");
    create(&rig, "last", "count.wat", settings(FailoverMode::Direct)).await.expect("created");
    rig.send_as("last", "first", "1").await.expect("kept");
    rig.snapshot("last").await;
    let workload = rig.host.entry(&name("last")).expect("readable").expect("it is there").workload;
    rig.host.stop().await.expect("sealed");
    drop(rig);
    storage.flip(&format!("{workload}.workload"), 9, 1);
    let before: BTreeSet<String> = storage.list().expect("lists").into_iter().collect();
    assert!(before.iter().any(|file| file.starts_with("last.") && file.ends_with(".snapshot")), "{before:?}");
    let (zeros, hash) = ("0".repeat(20), "ab".repeat(32));
    let ours = [
        format!("gone.{zeros}.snapshot"),
        format!("gone.too.{zeros}.snapshot.damaged"),
        format!("gone.{zeros}.snapshot.tmp"),
        format!("last.{zeros}.snapshot.tmp"),
        format!("{hash}.workload"),
        format!("{hash}.workload.tmp"),
        format!("{workload}.workload.tmp"),
    ];
    let others = [
        "notes.txt".to_owned(),
        "gone.1.snapshot".to_owned(),
        format!("-.{zeros}.snapshot"),
        format!("{}.workload", "AB".repeat(32)),
        "12.workload".to_owned(),
    ];
    ours.iter().chain(&others).for_each(|file| leave(&storage, file));

    let locked = Locked::open_read_only(Arc::new(storage.clone())).expect("it is ours");
    locked.read(None).expect("readable");
    drop(locked);
    assert!(ours.iter().all(|file| storage.list().expect("lists").contains(file)), "a look changes nothing");

    let rig = start(&storage, FailoverMode::Direct).await.expect("starts again");
    assert!(rig.host.quarantined(&name("last")).is_some());
    let left: BTreeSet<String> = storage.list().expect("lists").into_iter().collect();
    assert_eq!(ours.iter().find(|file| left.contains(*file)), None);
    assert!(others.iter().all(|file| left.contains(file)), "{left:?}");
    let is_file = |file: &&String| file.ends_with(".snapshot") || file.ends_with(".workload");
    assert!(before.iter().filter(is_file).all(|file| left.contains(file)), "{left:?}");
}

#[tokio::test]
async fn a_workload_stays_while_a_service_of_it_is_created() {
    let storage = SimulatedStorage::new(11);
    let rig = start(&storage, FailoverMode::Direct).await.expect("starts");
    create(&rig, "last", "count.wat", settings(FailoverMode::Direct)).await.expect("created");
    let bytes = guest_bytes("count.wat");
    let hash = load("count.wat", &bytes, &LoadLimits::default()).expect("valid").hash;
    let has_workload = || storage.list().expect("lists").contains(&format!("{hash}.workload"));
    // As while another service of the same workload is created.
    let kept = rig.host.data().expect("it is durable").keep_workload(&hash, &bytes).expect("stored");
    rig.host.remove_service(&name("last")).await.expect("removed");
    assert!(has_workload());
    drop(kept);
    create(&rig, "last", "count.wat", settings(FailoverMode::Direct)).await.expect("created");
    rig.host.remove_service(&name("last")).await.expect("removed");
    assert!(!has_workload());
}

#[tokio::test]
async fn a_host_that_is_stopped_creates_no_service() {
    let storage = SimulatedStorage::new(11);
    let rig = start(&storage, FailoverMode::Direct).await.expect("starts");
    let ended = rig.host.stop().await.expect("sealed");
    assert_eq!((ended.services, ended.not_snapshotted.len()), (SERVICES.len(), 0), "{ended:?}");
    let refused = create(&rig, "last", "count.wat", settings(FailoverMode::Direct)).await;
    assert_eq!(refused, Err("the host is being stopped; try again when it is back".to_owned()));
}

#[tokio::test]
async fn a_start_compiles_a_workload_once_however_many_services_run_it() {
    const COPIES: usize = 12;
    let storage = SimulatedStorage::new(21);
    let copies: Vec<String> = (0..COPIES).map(|copy| format!("copy-{copy}")).collect();
    let begin = async || {
        let (directory, contents) = Locked::open(Arc::new(storage.clone()), Some(DirectoryId([1; 16])))
            .and_then(|locked| locked.open_journal(&DataOptions::default()))
            .expect("whole");
        let mut rig = Rig::new();
        rig.host = rig.host.with_data(directory);
        rig.host.recover(contents, || Epoch([3; 16])).await;
        rig
    };
    let rig = begin().await;
    let creating = copies.iter().map(|copy| create(&rig, copy, "count.wat", settings(FailoverMode::Direct)));
    futures::future::join_all(creating).await.into_iter().for_each(|created| created.expect("created"));
    assert_eq!(rig.host.compiled(), 1, "also if they are created at once");
    rig.host.stop().await.expect("sealed");
    drop(rig);

    let rig = begin().await;
    assert_eq!(rig.host.compiled(), 1);
    for copy in &copies {
        rig.grant(copy);
        assert_eq!(rig.status(copy).await.stopped, None);
        rig.host.remove_service(&name(copy)).await.expect("removed");
    }
    // No service runs it any more, so it was released.
    create(&rig, "last", "count.wat", settings(FailoverMode::Direct)).await.expect("created");
    assert_eq!(rig.host.compiled(), 2);
}

#[tokio::test]
async fn under_pressure_only_new_services_are_refused() {
    let storage = SimulatedStorage::new(12);
    let rig = start(&storage, FailoverMode::Direct).await.expect("starts");
    rig.send_as("ant", "1", "x").await.expect("kept");
    rig.host.stop().await.expect("sealed");
    drop(rig);

    let admission = Admission::default();
    admission.set(vec![HostPressure {
        resource: HostResource::Memory,
        usage: Usage { used: 986, limit: 1_000 },
        threshold_percent: THRESHOLD_DEFAULT,
    }]);
    let (directory, contents) = Locked::open(Arc::new(storage), None)
        .and_then(|locked| locked.open_journal(&DataOptions::default()))
        .expect("what the first start left");
    let mut rig = Rig::new();
    rig.host = rig.host.with_data(Arc::clone(&directory)).with_admission(admission.clone());
    rig.host.recover(contents, || Epoch([2; 16])).await;
    rig.grant("ant");
    assert!(rig.send_as("ant", "1", "x").await.expect("recognised").is_repeated);
    assert_eq!(rig.fail_over("ant").await.vm.number, 2);

    let refused = create(&rig, "cat", "count.wat", settings(FailoverMode::Direct)).await.expect_err("refused");
    assert!(refused.starts_with("the host is under pressure: memory 98.6% (986 B of 1.0 kB"), "{refused}");
    let in_memory = rig.try_start("dog", "count.wat", &[size("s", 400_000, MIB)], |_| {}).await;
    assert!(matches!(in_memory, Err(LaunchError::UnderPressure(_))), "{in_memory:?}");
    // A service that was refused for that reason is created afterwards.
    let mut admitted = std::pin::pin!(rig.host.admitted());
    assert!(futures::FutureExt::now_or_never(admitted.as_mut()).is_none());
    admission.set(Vec::new());
    admitted.await;
    create(&rig, "cat", "count.wat", settings(FailoverMode::Direct)).await.expect("created");

    let metrics = Metrics::default();
    rig.events().iter().for_each(|event| metrics.observe(event));
    let status = rig.status("ant").await;
    let text = metrics.encode(Scrape {
        statuses: BTreeMap::from([(name("ant"), status)]),
        idle: rig.host.idle_services(),
        queue_lengths: rig.host.queue_lengths(),
        journal: Some(JournalMetrics::from(directory.committer())),
        host: None,
    });
    for line in [
        r#"lifeboat_failovers_total{service="ant",cause="forced"} 1"#,
        r#"lifeboat_failover_pause_seconds_count{service="ant"} 1"#,
        r#"lifeboat_queue_length{service="cat"} 0"#,
    ] {
        assert!(text.lines().any(|found| found == line), "no line '{line}' in\n{text}");
    }
    assert!(!text.contains("lifeboat_commit_seconds_count 0"), "{text}");
}
