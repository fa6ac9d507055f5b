//! Services with files: the disk under the SLA, and what becomes of it in every failure.

use crate::durable::{create, disk_with, new_service, settings};
use crate::rig::{MIB, Rig, cause, guest_bytes, name, ok};
use lifeboat_api::event::{Event, FailoverCause, Fallback};
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::meter::Resource;
use lifeboat_api::size::Size;
use lifeboat_api::sla::FailoverMode;
use lifeboat_api::transaction::Answer;
use lifeboat_host::catalog::ServiceSettings;
use lifeboat_host::data::{DataOptions, Locked};
use lifeboat_host::fleet::Machine;
use lifeboat_host::network::NetworkSettings;
use lifeboat_host::portable::{NewIdentity, Portable};
use lifeboat_host::scratch::Scratch;
use lifeboat_host::snapshot_file;
use lifeboat_host::verify::{Finding, verify};
use lifeboat_host::{NewService, files};
use lifeboat_journal::frame::{DirectoryId, RecordNumber};
use lifeboat_journal::storage::{SimulatedStorage, Storage};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const KIB: u64 = 1024;

/// The guest with documents in files.
const ARCHIVE: &str = "archive.wasm";

/// Returns a size with a large tank.
fn size(name: &str, memory_bytes: u64, disk_bytes: u64) -> Arc<Size> {
    let (name, deadline) = (name.into(), Duration::from_secs(60));
    let fuel = 20_000_000_000;
    Arc::new(Size { name, fuel, memory_bytes, disk_bytes, network_calls: 1_000, network_bytes: MIB, deadline })
}

fn put(document: &str, text: &str) -> String {
    format!(r#"{{"put":{{"name":"{document}","text":"{text}"}}}}"#)
}

/// Returns the answer to `stats` for these documents.
fn stats(documents: usize, bytes: usize) -> String {
    format!(r#"{{"documents":{documents},"bytes":{bytes},"disk_bytes":{bytes}}}"#)
}

async fn has(rig: &Rig, service: &str, documents: &BTreeMap<String, String>) -> Result<(), String> {
    let bytes = documents.values().map(String::len).sum();
    let answer = rig.query(service, "\"stats\"").await.map_err(|error| error.to_string())?.answer;
    if answer != Answer::Ok(stats(documents.len(), bytes).into()) {
        return Err(format!("{} documents of {bytes} bytes are {answer:?}", documents.len()));
    }
    for (document, text) in documents {
        let answer = rig.query(service, format!(r#"{{"get":"{document}"}}"#)).await;
        let answer = answer.map_err(|error| error.to_string())?.answer;
        if answer != Answer::Ok(format!(r#"{{"text":"{text}"}}"#).into()) {
            return Err(format!("{document} is {answer:?}"));
        }
    }
    Ok(())
}

// The rule of 98 %.

#[tokio::test]
async fn a_disk_at_its_threshold_moves_the_service_to_the_next_size() {
    for mode in [FailoverMode::Direct, FailoverMode::Shadow] {
        let rig = Rig::new();
        let sizes = [size("s", 4 * MIB, 64 * KIB), size("m", 4 * MIB, 256 * KIB)];
        rig.try_start("vault", ARCHIVE, &sizes, |spec| spec.failover = mode).await.expect("starts");
        let mut documents = BTreeMap::new();
        while rig.failovers().is_empty() {
            let (document, text) = (format!("d{}", documents.len()), "x".repeat(200));
            ok(&rig.send("vault", put(&document, &text)).await);
            documents.insert(document, text);
            assert!(documents.len() < 64, "64 KiB hold no more");
        }
        let status = rig.status("vault").await;
        assert_eq!((status.size.as_str(), status.vm.number, status.degraded), ("m", 2, None));
        assert_eq!(status.meter.disk.limit, 256 * KIB);
        let failures = rig.events().into_iter().filter_map(|event| match event {
            Event::SlaFailure(failure) => Some((failure.resource, failure.usage.limit, failure.usage.used >= 64_225)),
            _ => None,
        });
        assert_eq!(failures.collect::<Vec<_>>(), [(Resource::Disk, 64 * KIB, true)]);
        let failover = rig.failovers().remove(0);
        assert_eq!((failover.cause, &*failover.size), (FailoverCause::Disk, "m"));
        assert!(failover.to_string().contains(", disk 6"), "{failover}");
        has(&rig, "vault", &documents).await.expect("all are there");
    }
}

#[tokio::test]
async fn a_transaction_that_does_not_fit_runs_again_on_a_larger_size() {
    let rig = Rig::new();
    let sizes = [size("s", 4 * MIB, 64 * KIB), size("m", 4 * MIB, 96 * KIB), size("l", 4 * MIB, 256 * KIB)];
    rig.start("vault", ARCHIVE, &sizes).await;
    ok(&rig.send("vault", put("a", &"x".repeat(40_000))).await);
    ok(&rig.send("vault", put("b", &"y".repeat(60_000))).await);
    let status = rig.status("vault").await;
    assert_eq!((status.size.as_str(), status.vm.number), ("l", 2), "on the one between, it did not fit either");
    assert_eq!(rig.failovers()[0].cause, FailoverCause::Disk);
    assert_eq!(ok(&rig.query("vault", "\"stats\"").await), stats(2, 100_000));
}

#[tokio::test]
async fn a_transaction_that_fits_no_size_fails_and_leaves_the_disk_as_it_was() {
    let rig = Rig::new();
    rig.start("vault", ARCHIVE, &[size("s", 4 * MIB, 64 * KIB)]).await;
    ok(&rig.send("vault", put("a", "kept")).await);
    let used = rig.status("vault").await.meter.disk.used;
    for _ in 0..3 {
        let failed = cause(&rig.send("vault", put("b", &"y".repeat(65_000))).await);
        assert!(failed.starts_with("disk: ") && failed.contains("would exceed the limit of 64 KiB"), "{failed}");
        assert_eq!(ok(&rig.query("vault", "\"stats\"").await), stats(1, 4));
    }
    let status = rig.status("vault").await;
    assert_eq!((status.vm.number, status.meter.disk.used), (1, used));
    assert!(rig.events().iter().any(|event| matches!(event, Event::NotCured { resource: Resource::Disk, .. })));
    ok(&rig.send("vault", put("b", &"y".repeat(40_000))).await);
}

#[tokio::test]
async fn a_larger_disk_that_no_machine_has_room_for_is_named() {
    let machine = Machine { name: name("m1"), slots: 4, memory_bytes: 64 * MIB, disk_bytes: 128 * KIB };
    let rig = Rig::with(|config| config.machines = vec![machine]);
    let sizes = [size("s", 4 * MIB, 64 * KIB), size("m", 4 * MIB, 256 * KIB), size("l", 4 * MIB, MIB)];
    rig.start("vault", ARCHIVE, &sizes).await;
    let failed = cause(&rig.send("vault", put("a", &"x".repeat(65_000))).await);
    let missing = " would exceed the limit of 64 KiB, and no machine has room for size 'm', whose limit is 256 KiB;";
    assert!(failed.starts_with("disk: ") && failed.contains(missing), "{failed}");
    ok(&rig.send("vault", put("a", &"x".repeat(63_300))).await);
    let degraded = rig.status("vault").await.degraded.expect("it is at its threshold");
    let missing = "no machine has room for size 'm' (4 MiB of memory, 256 KiB of disk), which has enough;";
    assert!(degraded.contains(missing), "{degraded}");
}

#[tokio::test]
async fn without_a_larger_disk_the_service_is_degraded_and_serves_until_it_has_room() {
    let rig = Rig::new();
    // More memory is no help, and less disk is not larger.
    rig.start("vault", ARCHIVE, &[size("s", 4 * MIB, 64 * KIB), size("m", 8 * MIB, 64 * KIB)]).await;
    ok(&rig.send("vault", put("a", &"x".repeat(63_300))).await);
    let status = rig.status("vault").await;
    assert_eq!((status.vm.number, rig.failovers().len()), (1, 0));
    let degraded = status.degraded.expect("it is at its threshold");
    assert!(degraded.contains(" of disk, over 83% of size 's', and no larger size has enough"), "{degraded}");
    for _ in 0..100 {
        ok(&rig.send("vault", r#"{"append":{"name":"a","text":"x"}}"#).await);
    }
    let tries = rig.events().into_iter().filter(|event| matches!(event, Event::SlaFailure(_))).count();
    assert!(tries < 4, "it tries again after 64, 128, ... requests: {tries}");
    ok(&rig.send("vault", r#"{"delete":"a"}"#).await);
    rig.snapshot("vault").await;
    assert_eq!(rig.status("vault").await.degraded, None);
    assert!(rig.events().iter().any(|event| matches!(event, Event::Recovered { .. })));
}

#[tokio::test]
async fn deleting_files_ends_the_degraded_state() {
    let rig = Rig::new();
    rig.start("vault", ARCHIVE, &[size("s", 4 * MIB, 64 * KIB)]).await;
    let conditions = || {
        let kind = |event: &Event| matches!(event, Event::Degraded { .. } | Event::Recovered { .. });
        rig.events().iter().filter(|event| kind(event)).map(Event::kind).collect::<Vec<_>>()
    };
    // Three documents of a third: without one of them, the disk is below 83 %, and without a small one it is not.
    for (document, bytes) in [("a", 19_800), ("b", 19_800), ("c", 19_800), ("d", 800)] {
        ok(&rig.send("vault", put(document, &"x".repeat(bytes))).await);
    }
    assert!(rig.status("vault").await.degraded.is_some());
    ok(&rig.send("vault", r#"{"delete":"d"}"#).await);
    assert!(rig.status("vault").await.degraded.is_some(), "it is below the threshold, and has no headroom");
    assert_eq!(conditions(), ["degraded"]);
    ok(&rig.send("vault", r#"{"delete":"a"}"#).await);
    let status = rig.status("vault").await;
    assert_eq!((status.degraded, status.vm.number, status.snapshot_sequence), (None, 1, Sequence(4)));
    assert_eq!(conditions(), ["degraded", "recovered"]);
    // A guest that fills its disk and removes files in turn causes neither failovers nor events each time.
    for _ in 0..5 {
        for (document, bytes) in [("a", 19_800), ("d", 800)] {
            ok(&rig.send("vault", put(document, &"x".repeat(bytes))).await);
        }
        for document in ["a", "d"] {
            ok(&rig.send("vault", format!(r#"{{"delete":"{document}"}}"#)).await);
        }
    }
    assert_eq!(conditions(), ["degraded", "recovered"]);
    let failures = rig.events().into_iter().filter(|event| matches!(event, Event::SlaFailure(_))).count();
    assert_eq!(failures, 1);
    // A snapshot with headroom ends the wait for the next attempt.
    rig.snapshot("vault").await;
    for (document, bytes) in [("a", 19_800), ("d", 800)] {
        ok(&rig.send("vault", put(document, &"x".repeat(bytes))).await);
    }
    let degraded = rig.status("vault").await.degraded.expect("it is full again");
    assert!(degraded.starts_with("its state takes "), "{degraded}");
}

#[tokio::test]
async fn a_transaction_that_fuel_cuts_off_anywhere_is_kept_in_full_or_not_at_all() {
    const CUTS: u64 = 150;
    /// The fleet of a rig has slots for no more.
    const SERVICES: u64 = 14;
    let mut rig = Rig::new();
    // The first is short: a full tank of most services does not suffice for the second.
    let (first, second) = (put("a", "short"), put("b", &"y".repeat(60_000)));
    rig.start("whole", ARCHIVE, &[size("s", 4 * MIB, MIB)]).await;
    let used = [rig.send("whole", &first).await, rig.send("whole", &second).await]
        .map(|reply| reply.expect("executed").fuel_used);
    let (mut kept, mut failed) = (0, 0);
    for cut in 0..=CUTS {
        let service = format!("vault-{cut}");
        if cut % SERVICES == SERVICES - 1 {
            rig = Rig::new();
        }
        // The first has a little to spare: whether the last unit of a tank counts is not the matter here.
        let fuel = used[0] + used[0] / 10 + used[1] * cut / CUTS;
        rig.start(&service, ARCHIVE, &[Arc::new(Size { fuel, ..Size::clone(&size("s", 4 * MIB, MIB)) })]).await;
        let of_first = rig.send(&service, &first).await;
        let before = rig.disk(&service).await.expect("it runs").0.digest();
        let answer = rig.send(&service, &second).await.expect("executed").answer;
        let mut documents = BTreeMap::from([("a".to_owned(), "short".to_owned())]);
        match answer {
            Answer::Ok(_) => {
                kept += 1;
                documents.insert("b".to_owned(), "y".repeat(60_000));
            }
            _ => {
                failed += 1;
                assert_eq!(rig.disk(&service).await.expect("it runs").0.digest(), before, "{cut}");
            }
        }
        ok(&of_first);
        let mut disk = rig.disk(&service).await.expect("it runs").0;
        let listing = files::list(&mut disk, "documents", None, Sequence(0)).expect("a directory");
        let found: Vec<_> = listing.entries.iter().map(|entry| (entry.name.clone(), entry.bytes)).collect();
        let expected: Vec<_> = documents.iter().map(|(name, text)| (name.clone(), text.len() as u64)).collect();
        assert_eq!(found, expected, "{cut}");
    }
    assert!(kept > 0 && failed > 0, "{kept} kept, {failed} failed");
}

#[tokio::test]
async fn a_trap_leaves_the_disk_as_it_was() {
    let rig = Rig::new();
    rig.start("log", "files.wat", &[size("s", 8 * MIB, MIB)]).await;
    ok(&rig.send("log", "wone ").await);
    assert!(cause(&rig.send("log", "xtwo ").await).contains("unreachable"));
    assert_eq!(ok(&rig.query("log", "r").await), "one ");
    ok(&rig.send("log", "wthree").await);
    assert_eq!(ok(&rig.query("log", "r").await), "one three");
}

#[tokio::test]
async fn a_guest_that_leaves_files_open_is_reported_once() {
    let rig = Rig::new();
    rig.start("log", "files.wat", &[size("s", 8 * MIB, MIB)]).await;
    ok(&rig.send("log", "wone").await);
    let lines =
        || rig.events().into_iter().filter(|event| event.to_string().contains("leaves descriptors open")).count();
    assert_eq!(lines(), 0);
    for _ in 0..3 {
        ok(&rig.send("log", "k").await);
    }
    assert_eq!(lines(), 1);
}

/// Returns the guest `files.wat`, whose export succeeds, with a further change.
fn movable_guest(change: impl FnOnce(String) -> String) -> Vec<u8> {
    let text = String::from_utf8(guest_bytes("files.wat")).expect("text");
    let (before, after) = text.split_once("#snapshot\") (result i32)").expect("an export");
    let (_, after) = after.split_once("(i32.const 64) (i32.const 3)))").expect("it removes the file");
    let text = format!("{before}#snapshot\") (result i32) (local $errno i32){after}");
    change(text).into_bytes()
}

#[tokio::test]
async fn what_a_restore_writes_is_not_part_of_the_disk() {
    let restore = "#restore\") (param $version i32) (result i32)";
    let guest = movable_guest(|text| {
        assert!(text.contains(restore));
        let writes = format!("{restore} (drop (call $run (i32.const 96) (i32.const 2)))");
        text.replace(restore, &writes).replace("(global $heap", "(data (i32.const 96) \"wR\")\n  (global $heap")
    });
    let rig = Rig::new();
    rig.start_bytes("log", &guest, &[size("s", 8 * MIB, MIB)]).await;
    ok(&rig.send("log", "wone").await);
    for number in 2..5 {
        assert_eq!(rig.fail_over("log").await.vm.number, number);
        assert_eq!(ok(&rig.query("log", "r").await), "one");
    }
}

#[tokio::test]
async fn a_disk_that_differs_in_a_replay_is_not_adopted() {
    let run = "(func $run (param $body i32) (param $length i32) (result i32)\n";
    let guest = movable_guest(|text| {
        assert!(text.contains(run));
        // What is written begins with the number of calls of this instance, which no restore sets.
        let counts = format!(
            "(global $calls (mut i32) (i32.const 48))\n  {run}
            (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
            (i32.store8 (i32.add (local.get $body) (i32.const 1)) (global.get $calls))\n"
        );
        let (before, after) = text.split_once(run).expect("once");
        let (locals, after) = after.split_once('\n').expect("its locals");
        let (head, rest) = counts.split_once("(result i32)\n").expect("its head");
        format!("{before}{head}(result i32)\n{locals}\n{rest}{after}")
    });
    let rig = Rig::new();
    let shadow = |spec: &mut lifeboat_host::service::ServiceSpec| spec.failover = FailoverMode::Shadow;
    rig.launch("log", "inline", &guest, &[size("s", 8 * MIB, MIB)], shadow).await.expect("starts");
    ok(&rig.send("log", "w?").await);
    assert!(rig.snapshot("log").await.unmovable.is_none());
    ok(&rig.send("log", "w?").await);
    let unmovable = rig.snapshot("log").await.unmovable.expect("the shadow began to count anew");
    assert!(unmovable.contains("after sequence 2 its disk differs"), "{unmovable}");
    assert_eq!(ok(&rig.query("log", "r").await), "12", "the serving VM continues");
}

// Snapshots, packs and power cuts.

/// Returns settings with small disks.
fn disks(mode: FailoverMode) -> ServiceSettings {
    let sizes = [size("s", 4 * MIB, 128 * KIB), size("m", 4 * MIB, 512 * KIB), size("l", 4 * MIB, 4 * MIB)];
    ServiceSettings { sizes: sizes.iter().map(|size| Size::clone(size)).collect(), ..settings(mode) }
}

fn open(storage: &SimulatedStorage) -> Locked {
    Locked::open(Arc::new(storage.clone()), Some(DirectoryId([1; 16]))).expect("it is free")
}

async fn start(storage: &SimulatedStorage, mode: FailoverMode) -> Rig {
    let options = DataOptions { segment_bytes: 256 * 1024, ..DataOptions::default() };
    let (directory, contents) = open(storage).open_journal(&options).expect("opens");
    let rig = Rig::recovered(directory, contents).await;
    rig.grant("vault");
    if rig.host.entry(&name("vault")).expect("readable").is_none() {
        create(&rig, "vault", ARCHIVE, disks(mode)).await.expect("created");
    }
    rig
}

/// Proves the directory, and returns the findings.
async fn findings(storage: &SimulatedStorage) -> Vec<Finding> {
    let copy = storage.copy();
    let locked = Locked::open_read_only(Arc::new(copy.clone())).expect("it is free");
    let contents = locked.read(None).expect("readable");
    let scratch = Scratch::new(&disks(FailoverMode::Direct).sizes).expect("an engine");
    let proof = verify(&scratch, &copy, &contents.services[0], &mut |_| {}).await.expect("the disk works");
    proof.findings
}

fn packs(storage: &SimulatedStorage) -> BTreeSet<String> {
    storage.list().expect("lists").into_iter().filter(|file| file.ends_with(".pack")).collect()
}

fn snapshots(storage: &SimulatedStorage) -> Vec<String> {
    let mut files = storage.list().expect("lists");
    files.retain(|file| file.ends_with(".snapshot"));
    files.sort_unstable();
    files
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u16),
    Delete(u8),
    Snapshot,
    FailOver,
    /// A power cut after so many operations of the storage, while a snapshot is taken.
    Crash(u64),
    Stop,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0u8..12, 1u16..40_000).prop_map(|(document, bytes)| Step::Put(document, bytes)),
        3 => (0u8..12).prop_map(Step::Delete),
        3 => Just(Step::Snapshot),
        1 => Just(Step::FailOver),
        2 => (1u64..40).prop_map(Step::Crash),
        1 => Just(Step::Stop),
    ];
    prop::collection::vec(step, 1..30)
}

async fn play(steps: Vec<Step>, seed: u64, mode: FailoverMode) -> Result<(), String> {
    let mut storage = SimulatedStorage::new(seed);
    let mut rig = start(&storage, mode).await;
    let mut documents: BTreeMap<String, String> = BTreeMap::new();
    for (index, step) in steps.into_iter().chain([Step::Crash(5), Step::Stop]).enumerate() {
        match step {
            Step::Put(document, bytes) => {
                // The bytes differ from chunk to chunk and from step to step.
                let text: String = format!("{index} ").chars().cycle().take(bytes.into()).collect();
                ok(&rig.send("vault", put(&format!("d{document}"), &text)).await);
                documents.insert(format!("d{document}"), text);
            }
            Step::Delete(document) => {
                let document = format!("d{document}");
                let deleted = rig.send("vault", format!(r#"{{"delete":"{document}"}}"#)).await;
                let is_deleted = matches!(deleted.map_err(|error| error.to_string())?.answer, Answer::Ok(_));
                if is_deleted != documents.remove(&document).is_some() {
                    return Err(format!("{document} was deleted: {is_deleted}"));
                }
            }
            Step::Snapshot => drop(rig.snapshot("vault").await),
            Step::FailOver => drop(rig.fail_over("vault").await),
            Step::Crash(operations) => {
                storage.power_off(operations);
                let _ = rig.try_snapshot("vault").await;
                storage = storage.crash();
                rig = start(&storage, mode).await;
            }
            Step::Stop => {
                rig.host.stop().await.map_err(|error| error.to_string())?;
                drop(rig);
                rig = start(&storage, mode).await;
            }
        }
        if let Some(reason) = rig.host.quarantined(&name("vault")) {
            return Err(format!("quarantined: {reason}"));
        }
        has(&rig, "vault", &documents).await?;
    }
    rig.host.stop().await.map_err(|error| error.to_string())?;
    drop(rig);
    let found = findings(&storage).await;
    if !found.is_empty() {
        return Err(format!("{found:?}"));
    }
    only_needed_packs(&storage)
}

/// Checks that each pack is one that a snapshot needs, and the other way round.
fn only_needed_packs(storage: &SimulatedStorage) -> Result<(), String> {
    let mut needed = BTreeSet::new();
    for file in snapshots(storage) {
        let checked = snapshot_file::check(storage, &file).map_err(|error| error.to_string())?;
        needed.extend(checked.packs.into_keys().map(|number| format!("vault.{number:020}.pack")));
    }
    if packs(storage) != needed {
        return Err(format!("{:?} are there, {needed:?} are needed", packs(storage)));
    }
    Ok(())
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_acknowledged_file_survives_power_cuts_between_packs_and_snapshots(
        steps in steps(),
        seed in any::<u64>(),
        mode in prop_oneof![Just(FailoverMode::Direct), Just(FailoverMode::Shadow)],
    ) {
        block_on(play(steps, seed, mode)).map_err(TestCaseError::fail)?;
    }
}

/// Writes two snapshots of a service, each with chunks of its own. Returns its documents.
async fn two_snapshots_of(rig: &Rig) -> BTreeMap<String, String> {
    let mut documents = BTreeMap::new();
    for document in ["a", "b"] {
        let text = document.repeat(20_000);
        ok(&rig.send("vault", put(document, &text)).await);
        documents.insert(document.to_owned(), text);
        rig.snapshot("vault").await;
        rig.host.data().expect("durable").snapshots_written(&name("vault")).await.expect("written");
    }
    documents
}

/// Writes two snapshots on a new storage, and a tail after them. Returns the documents.
async fn two_snapshots(storage: &SimulatedStorage) -> BTreeMap<String, String> {
    let rig = start(storage, FailoverMode::Direct).await;
    let mut documents = two_snapshots_of(&rig).await;
    ok(&rig.send("vault", put("c", "the tail")).await);
    documents.insert("c".to_owned(), "the tail".to_owned());
    documents
}

#[tokio::test]
async fn a_damaged_chunk_is_named_and_the_older_snapshot_is_used() {
    let storage = SimulatedStorage::new(3);
    let documents = two_snapshots(&storage).await;
    let storage = storage.crash();
    let newest_pack = packs(&storage).into_iter().next_back().expect("two packs");
    let newest = snapshots(&storage).pop().expect("two snapshots");
    storage.flip(&newest_pack, 76 + 2 * 44 + 5, 1);
    let found = findings(&storage).await;
    let is_named = |reason: &str| {
        reason.contains(&newest) && reason.contains("bytes from offset") && reason.contains("do not match their hash")
    };
    assert!(
        matches!(&found[..], [Finding::SnapshotDamaged { file, reason }] if *file == newest && is_named(reason)),
        "{found:?}"
    );
    let rig = start(&storage, FailoverMode::Direct).await;
    let reason = rig.events().into_iter().find_map(|event| match event {
        Event::SnapshotDamaged { file, reason, instead: Fallback::Snapshot(Sequence(1)), .. } if file == newest => {
            Some(reason)
        }
        _ => None,
    });
    assert!(reason.as_deref().is_some_and(is_named), "{:?}", rig.events());
    has(&rig, "vault", &documents).await.expect("the older snapshot and the journal have all");
    // The next snapshots are whole again.
    for _ in 0..2 {
        ok(&rig.send("vault", put("d", "more")).await);
        rig.snapshot("vault").await;
    }
    rig.host.stop().await.expect("sealed");
    drop(rig);
    assert_eq!(findings(&storage).await, []);
}

#[tokio::test]
async fn a_snapshot_with_a_missing_or_cut_pack_is_damaged() {
    for bytes in [None, Some(0), Some(40), Some(100), Some(20_000)] {
        let storage = SimulatedStorage::new(3);
        let documents = two_snapshots(&storage).await;
        let storage = storage.crash();
        let newest_pack = packs(&storage).into_iter().next_back().expect("two packs");
        let newest = snapshots(&storage).pop().expect("two snapshots");
        match bytes {
            None => storage.remove(&newest_pack).expect("it is there"),
            Some(bytes) => storage.truncate(&newest_pack, bytes),
        }
        let rig = start(&storage, FailoverMode::Direct).await;
        let is_it = |event: &Event| matches!(event, Event::SnapshotDamaged { file, reason, .. } if *file == newest && reason.contains(&newest_pack));
        assert!(rig.events().iter().any(is_it), "{bytes:?}: {:?}", rig.events());
        has(&rig, "vault", &documents).await.expect("the older snapshot and the journal have all");
    }
}

#[tokio::test]
async fn a_service_whose_snapshots_are_all_damaged_is_replayed_from_its_beginning() {
    let storage = SimulatedStorage::new(3);
    let documents = two_snapshots(&storage).await;
    let storage = storage.crash();
    let both = snapshots(&storage);
    assert_eq!(both.len(), 2);
    // The chunk of the first document is part of both.
    let oldest_pack = packs(&storage).into_iter().next().expect("two packs");
    storage.flip(&oldest_pack, 76 + 2 * 44 + 5, 1);
    let rig = start(&storage, FailoverMode::Direct).await;
    let damaged = rig.events().into_iter().filter_map(|event| match event {
        Event::SnapshotDamaged { file, instead: Fallback::Beginning, .. } => Some(file),
        _ => None,
    });
    assert_eq!(damaged.collect::<BTreeSet<_>>(), both.into_iter().collect());
    has(&rig, "vault", &documents).await.expect("the journal has all");
}

#[tokio::test]
async fn every_flipped_byte_of_a_pack_is_found() {
    let storage = SimulatedStorage::new(3);
    two_snapshots(&storage).await;
    let storage = storage.crash();
    let pack = packs(&storage).into_iter().next_back().expect("two packs");
    let newest = snapshots(&storage).pop().expect("two snapshots");
    let bytes = storage.open(&pack).expect("opens").bytes().expect("a length");
    let index_end = 76 + 2 * 44;
    let mut found = 0;
    for offset in (0..usize::try_from(bytes).expect("short")).filter(|at| *at < index_end || at.is_multiple_of(97)) {
        storage.flip(&pack, offset, 0x20);
        let is_found =
            snapshot_file::check(&storage, &newest).and_then(|_| snapshot_file::check_disk(&storage, &newest));
        storage.flip(&pack, offset, 0x20);
        assert!(is_found.is_err(), "byte {offset}");
        found += usize::from(is_found.is_err());
    }
    assert!(found > 100 && snapshot_file::check_disk(&storage, &newest).is_ok(), "{found}");
}

#[tokio::test]
async fn chunks_of_a_pack_that_vanished_are_written_again() {
    let storage = SimulatedStorage::new(3);
    let rig = start(&storage, FailoverMode::Direct).await;
    let mut documents = two_snapshots_of(&rig).await;
    for pack in packs(&storage) {
        storage.remove(&pack).expect("it is there");
    }
    ok(&rig.send("vault", put("c", "more")).await);
    documents.insert("c".to_owned(), "more".to_owned());
    rig.host.stop().await.expect("sealed");
    drop(rig);
    let rig = start(&storage, FailoverMode::Direct).await;
    has(&rig, "vault", &documents).await.expect("the newest snapshot has every chunk");
}

#[tokio::test]
async fn only_new_chunks_are_written() {
    let storage = SimulatedStorage::new(3);
    let rig = start(&storage, FailoverMode::Direct).await;
    for document in 0..40 {
        ok(&rig.send("vault", put(&format!("d{document}"), &format!("{document} ").repeat(10_000))).await);
    }
    let mut written = Vec::new();
    for round in 0..4 {
        ok(&rig.send("vault", put("small", &round.to_string())).await);
        rig.snapshot("vault").await;
        rig.host.data().expect("durable").snapshots_written(&name("vault")).await.expect("written");
        let newest = packs(&storage).into_iter().next_back().expect("a pack");
        written.push(storage.open(&newest).expect("opens").bytes().expect("a length"));
    }
    assert!(written[0] > 500_000 && written[1..].iter().all(|bytes| *bytes < 1_000), "{written:?}");
    rig.host.stop().await.expect("sealed");
    only_needed_packs(&storage).expect("old ones are gone");
}

#[tokio::test]
async fn a_portable_snapshot_has_every_file() {
    let storage = SimulatedStorage::new(3);
    let documents = two_snapshots(&storage).await;
    let storage = storage.crash();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("vault.snapshot");
    {
        let locked = open(&storage);
        let contents = locked.read(None).expect("readable");
        let found = &contents.services[0];
        let scratch = Scratch::new(&found.entry.settings.sizes).expect("an engine");
        let program = scratch.program(&storage, found).await.expect("it compiles");
        let state = scratch.state(&storage, &program, found, None).await.expect("the last state");
        let (record, resume_point) = (state.record, state.resume_point.clone());
        let snapshot = scratch.export(scratch.replay_context_of(&program, found), state).await.expect("exported");
        let portable = Portable {
            service: found.name.clone(),
            snapshot,
            resume_point,
            record,
            workload_hash: found.entry.workload,
            workload: guest_bytes(ARCHIVE).into(),
            settings: found.entry.settings.clone(),
        };
        portable.write(&path).expect("written");
        assert!(path.metadata().expect("a file").len() >= portable.bytes_min());
    }
    let other = SimulatedStorage::new(4);
    let (directory, _) = open(&other).open_journal(&DataOptions::default()).expect("opens");
    let portable = Portable::read(&path).expect("readable");
    let (secret, epoch, timestamp) = ([9; 32], Epoch([9; 16]), portable.snapshot.timestamp());
    tokio::task::spawn_blocking(move || {
        let network = NetworkSettings::default();
        let new = NewIdentity { name: name("vault"), secret, epoch, timestamp, network };
        portable.restore(&directory, new).expect("restored");
        directory.close().expect("sealed");
    })
    .await
    .expect("no panic");
    let rig = start(&other, FailoverMode::Direct).await;
    has(&rig, "vault", &documents).await.expect("all are there");
    // What the new service writes builds on the packs of its own.
    ok(&rig.send("vault", put("e", "new")).await);
    rig.snapshot("vault").await;
    rig.host.stop().await.expect("sealed");
    drop(rig);
    assert_eq!(findings(&other).await, []);
}

// A service that begins with files.

/// Returns the bytes of a file of the service.
async fn file(rig: &Rig, path: &str) -> Vec<u8> {
    let mut disk = rig.disk("vault").await.expect("it runs").0;
    files::read(&mut disk, path, 0).unwrap_or_else(|error| panic!("{path}: {error}")).bytes
}

/// Returns the name of the snapshot with which a service begins.
fn first_snapshot() -> String {
    snapshot_file::file_name(&name("vault"), RecordNumber(1))
}

async fn start_with_files(storage: &SimulatedStorage) -> Rig {
    let (directory, contents) = open(storage).open_journal(&DataOptions::default()).expect("opens");
    let rig = Rig::recovered(directory, contents).await;
    rig.grant("vault");
    if rig.host.entry(&name("vault")).expect("readable").is_none() {
        let disk = Some(disk_with("seed", &[7; 40_000]));
        let new = NewService { disk, ..new_service("vault", ARCHIVE, disks(FailoverMode::Direct)) };
        rig.host.create_durable_service(new).await.expect("created");
    }
    rig
}

#[tokio::test]
async fn files_given_at_the_creation_survive_crashes_rollbacks_and_failovers() {
    let storage = SimulatedStorage::new(3);
    let rig = start_with_files(&storage).await;
    assert_eq!(file(&rig, "seed").await, [7; 40_000]);
    assert_eq!(snapshots(&storage), [first_snapshot()]);
    drop(rig);
    let storage = storage.crash();
    assert_eq!(findings(&storage).await, []);
    let rig = start_with_files(&storage).await;
    assert_eq!(file(&rig, "seed").await, [7; 40_000], "a start from the first snapshot");
    // The service moves to the largest size. There, a document does not fit.
    let mut documents = 0;
    while let Answer::Ok(_) =
        rig.send("vault", put(&format!("d{documents}"), &"y".repeat(65_000))).await.expect("executed").answer
    {
        documents += 1;
        assert!(documents < 70, "4 MiB hold no more");
    }
    assert!(rig.failovers().len() >= 2, "{:?}", rig.failovers());
    assert_eq!(file(&rig, "seed").await, [7; 40_000]);
    rig.snapshot("vault").await;
    ok(&rig.send("vault", r#"{"delete":"d0"}"#).await);
    rig.host.data().expect("durable").snapshots_written(&name("vault")).await.expect("written");
    rig.snapshot("vault").await;
    rig.host.data().expect("durable").snapshots_written(&name("vault")).await.expect("written");
    assert!(!snapshots(&storage).contains(&first_snapshot()), "{:?}", snapshots(&storage));
    drop(rig);
    let storage = storage.crash();
    let rig = start_with_files(&storage).await;
    assert_eq!(file(&rig, "seed").await, [7; 40_000], "its chunks are in a pack that is still needed");
    rig.host.stop().await.expect("sealed");
    drop(rig);
    assert_eq!(findings(&storage).await, []);
}

#[tokio::test]
async fn a_service_whose_first_files_are_damaged_does_not_begin_without_them() {
    let storage = SimulatedStorage::new(3);
    drop(start_with_files(&storage).await);
    let storage = storage.crash();
    let pack = packs(&storage).pop_first().expect("a pack");
    // Two of its three chunks are equal.
    storage.flip(&pack, 76 + 2 * 44 + 5, 1);
    let rig = start_with_files(&storage).await;
    let reason = rig.host.quarantined(&name("vault")).expect("quarantined");
    assert!(reason.contains(&format!("pack '{pack}': its 16384 bytes from offset")), "{reason}");
    assert_eq!(snapshots(&storage), [first_snapshot()], "it is left as it is");
}

#[tokio::test]
async fn files_that_do_not_fit_the_size_are_refused() {
    let rig = start(&SimulatedStorage::new(3), FailoverMode::Direct).await;
    let disk = Some(disk_with("seed", &[7; 200_000]));
    let new = NewService { disk, ..new_service("other", ARCHIVE, disks(FailoverMode::Direct)) };
    let refused = rig.host.create_durable_service(new).await.expect_err("too much").to_string();
    let words = "the files of service 'other' use 196.3 KiB, the disk of size 's' has 128 KiB; choose a larger size";
    assert_eq!(refused, words);
    assert!(rig.host.entry(&name("other")).expect("readable").is_none());
}

#[tokio::test]
async fn a_service_without_files_has_no_pack_and_no_table() {
    let storage = SimulatedStorage::new(3);
    let rig = crate::durable::start_with(&storage, FailoverMode::Direct, 0, |_| {}).await.expect("starts");
    ok(&rig.send("ant", "1").await);
    rig.snapshot("ant").await;
    rig.host.stop().await.expect("sealed");
    assert_eq!(packs(&storage), BTreeSet::new());
    let newest = snapshots(&storage).into_iter().rfind(|file| file.starts_with("ant.")).expect("a snapshot");
    let content = snapshot_file::read(&storage, &newest).expect("readable");
    let kinds: Vec<u16> = content.header.sections.iter().map(|section| section.kind).collect();
    assert_eq!((kinds, content.header.sequence), (vec![snapshot_file::SECTION_STATE], Sequence(1)));
}
