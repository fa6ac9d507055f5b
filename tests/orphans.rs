//! Directories whose catalog is older than their journal. A start retains and reports what the catalog does not have.
//! It only removes services that were removed, or that were never fully created.

use crate::durable::{create, settings};
use crate::rig::{Rig, name, ok};
use lifeboat_api::event::Event;
use lifeboat_api::id::Epoch;
use lifeboat_api::sla::FailoverMode;
use lifeboat_api::transaction::{Denial, RequestError};
use lifeboat_host::catalog::{Absent, CATALOG_FILE};
use lifeboat_host::data::{DataDirectory, DataError, DataOptions, Locked, findings};
use lifeboat_host::service::LaunchError;
use lifeboat_journal::commit::{Change, Entry};
use lifeboat_journal::frame::{DirectoryId, Position, RecordNumber};
use lifeboat_journal::storage::{SimulatedStorage, Storage};
use std::sync::Arc;

const DIRECTORY: DirectoryId = DirectoryId([1; 16]);

/// Returns the catalog's file as it is now.
fn catalog(storage: &SimulatedStorage) -> Vec<u8> {
    let file = storage.open(CATALOG_FILE).expect("it is there");
    let mut bytes = vec![0; usize::try_from(file.bytes().expect("known")).expect("fits")];
    file.read_exact_at(0, &mut bytes).expect("reads");
    bytes
}

/// Replaces the catalog by another one.
fn put_back(storage: &SimulatedStorage, bytes: &[u8]) {
    storage.remove(CATALOG_FILE).expect("it was there");
    let file = storage.create(CATALOG_FILE).expect("creates");
    file.write_all_at(0, bytes).and_then(|()| file.sync_data()).expect("writes");
    storage.sync_directory().expect("synced");
}

fn take(storage: &SimulatedStorage) -> Locked {
    Locked::open(Arc::new(storage.clone()), Some(DIRECTORY)).expect("it is ours")
}

/// Starts a host with the directory, with short segments.
async fn open(storage: &SimulatedStorage) -> Rig {
    let options = DataOptions { segment_bytes: 256 * 1024, ..DataOptions::default() };
    let (directory, contents) = take(storage).open_journal(&options).expect("opens");
    Rig::recovered(directory, contents).await
}

/// Creates a service that has records before and after a snapshot.
async fn used(rig: &Rig, service: &str) {
    create(rig, service, "count.wat", settings(FailoverMode::Direct)).await.expect("created");
    for id in ["a", "b", "c"] {
        rig.send_as(service, id, "x").await.expect("kept");
        if id == "b" {
            rig.snapshot(service).await;
            rig.host.data().expect("it is durable").snapshots_written(&name(service)).await.expect("written");
        }
    }
}

/// Asserts that a service of [`used`] has lost nothing.
async fn assert_whole(rig: &Rig, service: &str) {
    rig.grant(service);
    for (id, answer) in [("a", "1"), ("b", "2"), ("c", "3")] {
        let reply = rig.send_as(service, id, "x").await;
        assert!(reply.as_ref().is_ok_and(|reply| reply.is_repeated), "{service}: {reply:?}");
        assert_eq!(ok(&reply), answer, "{service}");
    }
}

/// Asserts that a service is retained and reported, and that its name is taken.
async fn assert_kept(rig: &Rig, service: &str) {
    let says = |text: &str| {
        text.contains("catalog.redb does not contain it") && text.contains(&format!("remove {service} --yes"))
    };
    let is_told =
        |event: &Event| matches!(event, Event::Quarantined { service: of, reason } if **of == *service && says(reason));
    assert_eq!(rig.events().iter().filter(|event| is_told(event)).count(), 1, "{service}: {:?}", rig.events());
    assert_eq!(rig.host.idle_services().get(&name(service)), Some(&true));
    rig.grant(service);
    let denied = rig.send_as(service, "a", "x").await;
    assert!(matches!(&denied, Err(RequestError::Denied(Denial::Orphan { reason, .. })) if says(reason)), "{denied:?}");
    let denied = create(rig, service, "count.wat", settings(FailoverMode::Direct)).await;
    assert!(denied.as_ref().is_err_and(|reason| says(reason)), "{denied:?}");
    let denied = rig.host.start_service(&name(service), Epoch([7; 16])).await;
    assert!(matches!(denied, Err(LaunchError::Data(DataError::Orphan { .. }))), "{denied:?}");
}

/// Asserts that nothing is left of a service, and that its name is free.
async fn assert_gone(rig: &Rig, storage: &SimulatedStorage, service: &str) {
    let left = storage.list().expect("lists");
    assert!(!left.iter().any(|file| file.starts_with(&format!("{service}."))), "{left:?}");
    assert_eq!(rig.host.quarantined(&name(service)), None);
    create(rig, service, "count.wat", settings(FailoverMode::Direct)).await.expect("the name is free");
    assert_eq!(ok(&rig.send_as(service, "a", "x").await), "1");
}

/// Has another service write so much that the segment that is now the first one is reclaimed.
async fn write_much(rig: &Rig, storage: &SimulatedStorage) {
    let first = segments(storage).remove(0);
    create(rig, "busy", "count.wat", settings(FailoverMode::Direct)).await.expect("created");
    for round in 0.. {
        for _ in 0..100 {
            rig.send("busy", "x".repeat(4000)).await.expect("kept");
        }
        rig.snapshot("busy").await;
        rig.host.data().expect("it is durable").snapshots_written(&name("busy")).await.expect("written");
        if !segments(storage).contains(&first) {
            return;
        }
        assert!(round < 40, "no space is given back");
    }
}

fn segments(storage: &SimulatedStorage) -> Vec<String> {
    let mut files = storage.list().expect("lists");
    files.retain(|file| file.ends_with(".segment"));
    files.sort_unstable();
    files
}

/// Stops a host cleanly, which seals its journal.
async fn stop(rig: Rig) {
    rig.host.stop().await.expect("sealed");
}

#[tokio::test]
async fn services_survive_a_catalog_from_before_the_first_of_them() {
    let storage = SimulatedStorage::new(1);
    // The state that `lifeboat init` leaves.
    drop(take(&storage));
    let old = catalog(&storage);
    let rig = open(&storage).await;
    used(&rig, "ant").await;
    used(&rig, "bee").await;
    drop(rig);
    let mut storage = storage.crash();
    let right = catalog(&storage);
    put_back(&storage, &old);
    for start in 0..4 {
        let rig = open(&storage).await;
        assert_kept(&rig, "ant").await;
        assert_kept(&rig, "bee").await;
        // It does not prevent others from running. Its records are only protected from loss.
        if start == 0 {
            used(&rig, "new").await;
            write_much(&rig, &storage).await;
        }
        assert_whole(&rig, "new").await;
        if start % 2 == 1 {
            rig.host.stop().await.expect("sealed");
        }
        drop(rig);
        storage = storage.crash();
    }
    put_back(&storage, &right);
    let rig = open(&storage).await;
    assert_whole(&rig, "ant").await;
    assert_whole(&rig, "bee").await;
    assert_kept(&rig, "new").await;
}

#[tokio::test]
async fn services_that_a_sealed_catalog_lacks_survive_the_next_starts() {
    let storage = SimulatedStorage::new(2);
    let rig = open(&storage).await;
    used(&rig, "ant").await;
    stop(rig).await;
    let old = catalog(&storage);
    let rig = open(&storage).await;
    used(&rig, "bee").await;
    stop(rig).await;
    let right = catalog(&storage);
    for ends in [[false, false], [false, true], [true, false], [true, true]] {
        let mut storage = storage.copy();
        put_back(&storage, &old);
        for is_stopped in ends {
            let rig = open(&storage).await;
            assert_whole(&rig, "ant").await;
            assert_kept(&rig, "bee").await;
            if is_stopped {
                rig.host.stop().await.expect("sealed");
            }
            drop(rig);
            storage = storage.crash();
        }
        put_back(&storage, &right);
        let rig = open(&storage).await;
        assert_whole(&rig, "ant").await;
        assert_whole(&rig, "bee").await;
    }
}

/// Returns a directory with `ant`, and with `bee`, which its catalog does not have; and the catalog that has both.
async fn with_orphan(seed: u64) -> (SimulatedStorage, Vec<u8>) {
    let storage = SimulatedStorage::new(seed);
    let rig = open(&storage).await;
    used(&rig, "ant").await;
    let old = catalog(&storage);
    used(&rig, "bee").await;
    drop(rig);
    let storage = storage.crash();
    let right = catalog(&storage);
    put_back(&storage, &old);
    (storage, right)
}

#[tokio::test]
async fn a_power_cut_in_the_removal_of_an_orphan_leaves_all_of_it_or_nothing() {
    let (mut kept, mut gone) = (0, 0);
    for is_offline in [true, false] {
        for nth in 1.. {
            let (storage, right) = with_orphan(nth).await;
            let rig = if is_offline { None } else { Some(open(&storage).await) };
            storage.power_off(nth);
            let removed = match &rig {
                None => Locked::open(Arc::new(storage.clone()), None).and_then(|it| it.remove_service(&name("bee"))),
                Some(rig) => rig.host.remove_service(&name("bee")).await,
            };
            let is_over = !storage.is_off();
            drop(rig);
            let storage = storage.crash();
            let rig = open(&storage).await;
            assert_whole(&rig, "ant").await;
            if rig.host.quarantined(&name("bee")).is_some() {
                kept += 1;
                assert!(removed.is_err(), "{nth}: it was said to be removed");
                assert_kept(&rig, "bee").await;
                drop(rig);
                let storage = storage.crash();
                put_back(&storage, &right);
                assert_whole(&open(&storage).await, "bee").await;
            } else {
                gone += 1;
                assert_gone(&rig, &storage, "bee").await;
            }
            if is_over {
                break;
            }
        }
    }
    assert!(kept > 4 && gone > 4, "{kept} {gone}");
}

#[tokio::test]
async fn a_note_of_a_removal_is_not_taken_for_one_of_a_service_that_has_the_name_later() {
    let storage = SimulatedStorage::new(3);
    let rig = open(&storage).await;
    used(&rig, "ant").await;
    used(&rig, "bee").await;
    drop(rig);
    let storage = storage.crash();
    // Of the removal, only the change of the catalog is on the disk.
    take(&storage).remove_service(&name("bee")).expect("removed");
    let noted = catalog(&storage);
    let rig = open(&storage).await;
    used(&rig, "bee").await;
    for is_much in [false, true] {
        if is_much {
            // Nothing in the journal shows any more where the service began.
            write_much(&rig, &storage).await;
        }
        let mut copy = storage.copy();
        let right = catalog(&copy);
        put_back(&copy, &noted);
        for _ in 0..2 {
            let rig = open(&copy).await;
            assert_kept(&rig, "bee").await;
            drop(rig);
            copy = copy.crash();
        }
        put_back(&copy, &right);
        assert_whole(&open(&copy).await, "bee").await;
    }
}

#[tokio::test]
async fn the_remains_of_a_removal_by_an_earlier_release_stay_until_removed_again() {
    let storage = SimulatedStorage::new(4);
    let rig = open(&storage).await;
    used(&rig, "ant").await;
    used(&rig, "bee").await;
    drop(rig);
    let storage = storage.crash();
    let locked = take(&storage);
    // Earlier releases noted nothing.
    let users = locked.catalog().hold_users();
    locked.catalog().remove_service(&name("bee"), Position(0), &users).expect("removed");
    locked.catalog().forget_absent([&name("bee")]).expect("forgotten");
    drop(users);
    drop(locked);
    let rig = open(&storage).await;
    assert_kept(&rig, "bee").await;
    rig.host.remove_service(&name("bee")).await.expect("removed");
    assert_gone(&rig, &storage, "bee").await;
}

#[tokio::test]
async fn a_workload_that_an_orphan_may_run_stays() {
    let (storage, right) = with_orphan(5).await;
    let workloads = || {
        let files = storage.list().expect("lists");
        files.into_iter().filter(|file| file.ends_with(".workload")).collect::<Vec<_>>()
    };
    let before = workloads();
    assert_eq!(before.len(), 1, "both run it");
    let rig = open(&storage).await;
    rig.host.remove_service(&name("ant")).await.expect("removed");
    assert_eq!(workloads(), before);
    drop(rig);
    let copy = storage.crash();
    put_back(&copy, &right);
    assert_whole(&open(&copy).await, "bee").await;

    // The same without the server.
    let (storage, _) = with_orphan(5).await;
    let left = || storage.list().expect("lists").contains(&before[0]);
    take(&storage).remove_service(&name("ant")).expect("removed");
    assert!(left());
    drop(open(&storage).await);
    assert!(left());
    take(&storage).remove_service(&name("bee")).expect("removed");
    drop(open(&storage).await);
    assert!(!left(), "nobody runs it any more");
}

#[tokio::test]
async fn a_note_of_a_removal_lasts_no_longer_than_its_remains() {
    let storage = SimulatedStorage::new(6);
    let rig = open(&storage).await;
    used(&rig, "ant").await;
    used(&rig, "bee").await;
    let noted = |directory: &DataDirectory| directory.catalog().absent().expect("readable");
    rig.host.remove_service(&name("bee")).await.expect("removed");
    assert_eq!(noted(rig.host.data().expect("it is durable")).len(), 0);
    drop(rig);
    let storage = storage.crash();
    take(&storage).remove_service(&name("ant")).expect("removed");
    let absent: Vec<Absent> = take(&storage).catalog().absent().expect("readable").into_values().collect();
    assert!(matches!(absent[..], [Absent { is_being_created: false, .. }]), "{absent:?}");
    for left in [1, 0] {
        let rig = open(&storage).await;
        assert_eq!(noted(rig.host.data().expect("it is durable")).len(), left);
        rig.host.stop().await.expect("sealed");
    }
}

/// A creation that a crash cut off has a record that nobody knows about.
#[tokio::test]
async fn a_service_that_never_came_to_be_goes_unless_it_has_more_than_its_first_record() {
    for (records, snapshots, is_kept) in [(1, 0, false), (2, 0, true), (1, 1, true), (0, 1, false)] {
        let storage = SimulatedStorage::new(7);
        drop(open(&storage).await);
        let rig = open(&storage).await;
        used(&rig, "ant").await;
        let directory = Arc::clone(rig.host.data().expect("it is durable"));
        for number in (1..=records).map(RecordNumber) {
            let record = b"opened".to_vec();
            let change = match number.0 {
                1 => Change::Begin { number, record },
                _ => Change::Continue { number, record },
            };
            let ticket = directory.committer().submit(Entry { service: name("bee"), change }, None).expect("open");
            ticket.committed().await.expect("committed");
        }
        for _ in 0..snapshots {
            drop(storage.create(&format!("bee.{:020}.snapshot", 1)).expect("creates"));
        }
        storage.sync_directory().expect("synced");
        drop((directory, rig));
        let storage = storage.crash();
        let contents = take(&storage).read(None).expect("readable");
        let kept: Vec<String> = contents.orphans.iter().map(|orphan| orphan.name.to_string()).collect();
        assert_eq!((kept == ["bee"], kept.len()), (is_kept, usize::from(is_kept)), "{records} {snapshots}");
        assert_eq!(findings(&contents).len(), usize::from(is_kept));
        let rig = open(&storage).await;
        match is_kept {
            true => assert_kept(&rig, "bee").await,
            false => assert_gone(&rig, &storage, "bee").await,
        }
    }
}
