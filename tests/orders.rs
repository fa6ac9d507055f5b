//! Orders on a storage that fails. What is reported as done is on the disk, and what is reported as not done is not. A
//! service acknowledges nothing that the disk may not have.

use crate::durable::{create, disk_with, new_service, settings};
use crate::rig::{Rig, name};
use lifeboat_api::access::Grant;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::Epoch;
use lifeboat_api::sla::FailoverMode;
use lifeboat_host::NewService;
use lifeboat_host::catalog::{AccountsChange, CATALOG_FILE, Room, UserEntry};
use lifeboat_host::credential::PasswordHash;
use lifeboat_host::data::{DataError, DataOptions, Locked};
use lifeboat_host::service::LaunchError;
use lifeboat_journal::frame::DirectoryId;
use lifeboat_journal::storage::{Operation, SimulatedStorage, Storage};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The orders on a directory with a running service `ant` and a service `idle` that an operator stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Snapshot,
    Stop,
    Start,
    Create,
    CreateWithFiles,
    Remove,
}

/// The result that an order reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Done,
    NotDone,
    Unknown,
}

impl Order {
    const ALL: [Self; 6] = [Self::Snapshot, Self::Stop, Self::Start, Self::Create, Self::CreateWithFiles, Self::Remove];

    /// Returns whether the order creates its service.
    fn creates(self) -> bool {
        matches!(self, Self::Create | Self::CreateWithFiles)
    }

    /// Returns the service of the order.
    fn service(self) -> &'static str {
        match self {
            Self::Snapshot | Self::Stop | Self::Remove => "ant",
            Self::Start => "idle",
            Self::Create | Self::CreateWithFiles => "new",
        }
    }

    async fn give(self, rig: &Rig) -> Result<(), LaunchError> {
        let service = name(self.service());
        match self {
            Self::Snapshot => {
                rig.snapshot(&service).await;
                Ok(rig.host.data().expect("it is durable").snapshots_written(&service).await?)
            }
            Self::Stop => Ok(rig.host.stop_service(&service).await?),
            Self::Start => rig.host.start_service(&service, Epoch([7; 16])).await,
            Self::Create => {
                let new = new_service(&service, "count.wat", settings(FailoverMode::Direct));
                rig.host.create_durable_service(new).await
            }
            Self::CreateWithFiles => {
                let new = new_service(&service, "count.wat", settings(FailoverMode::Direct));
                let disk = Some(disk_with("file", &[7; 40_000]));
                rig.host.create_durable_service(NewService { disk, ..new }).await
            }
            Self::Remove => Ok(rig.host.remove_service(&service).await?),
        }
    }
}

/// The state of the order's service.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stands {
    is_there: bool,
    runs: bool,
    snapshots: BTreeSet<String>,
    granted: bool,
}

fn stands(rig: &Rig, storage: &SimulatedStorage, order: Order) -> Stands {
    let service = name(order.service());
    let prefix = format!("{service}.");
    let names = storage.list().expect("the power is on").into_iter();
    let users = rig.host.data().expect("it is durable").catalog().users().expect("readable");
    Stands {
        is_there: rig.host.entry(&service).expect("readable").is_some(),
        runs: rig.host.has_service(&service),
        snapshots: names.filter(|file| file.starts_with(&prefix) && file.ends_with(".snapshot")).collect(),
        granted: users[&name("eve")].grants.contains_key(&service),
    }
}

async fn open(storage: &SimulatedStorage) -> Rig {
    let (directory, contents) = Locked::open(Arc::new(storage.clone()), Some(DirectoryId([1; 16])))
        .and_then(|locked| locked.open_journal(&DataOptions { segment_bytes: 256 * 1024, ..DataOptions::default() }))
        .expect("a data directory");
    let rig = Rig::recovered(directory, contents).await;
    for service in ["ant", "idle", "new"] {
        rig.grant(service);
    }
    rig
}

/// Returns a directory whose host has stopped.
async fn prepare() -> SimulatedStorage {
    let storage = SimulatedStorage::new(3);
    let rig = open(&storage).await;
    for service in ["ant", "idle"] {
        create(&rig, service, "count.wat", settings(FailoverMode::Direct)).await.expect("created");
        rig.send_as(service, "first", "1").await.expect("kept");
    }
    rig.host.stop_service(&name("idle")).await.expect("stopped");
    let eve = UserEntry {
        password: PasswordHash::from_phc("$none$".into()).expect("a PHC string"),
        is_admin: false,
        created: Timestamp(1),
        grants: ["ant", "idle"].map(|service| (name(service), BTreeSet::from([Grant::Transact]))).into(),
    };
    let put_users = BTreeMap::from([(name("eve"), eve)]);
    let catalog = rig.host.data().expect("it is durable").catalog();
    catalog
        .change_accounts(&AccountsChange { put_users, ..AccountsChange::default() }, Room::Ordinary)
        .expect("stored");
    rig.host.stop().await.expect("sealed");
    storage
}

/// A kind of fault: an operation on files whose names have this ending, or on any file.
type Kind = (Option<&'static str>, Operation);

/// The faults on the file in which an order is recorded as done.
const OF_CATALOG: [Kind; 3] = [
    (Some(CATALOG_FILE), Operation::Write),
    (Some(CATALOG_FILE), Operation::SyncData),
    (Some(CATALOG_FILE), Operation::SetBytes),
];

/// The faults on all other files.
const OF_OTHERS: [Kind; 13] = [
    (Some(".pack.tmp"), Operation::Write),
    (Some(".pack.tmp"), Operation::Rename),
    (Some(".snapshot.tmp"), Operation::Create),
    (Some(".snapshot.tmp"), Operation::Write),
    (Some(".snapshot.tmp"), Operation::SyncData),
    (Some(".snapshot.tmp"), Operation::Rename),
    (Some(".workload.tmp"), Operation::Create),
    (Some(".workload.tmp"), Operation::Write),
    (Some(".workload.tmp"), Operation::SyncData),
    (Some(".workload.tmp"), Operation::Rename),
    (Some(".segment"), Operation::Write),
    (Some(".segment"), Operation::SyncData),
    (None, Operation::SyncDirectory),
];

/// Gives an order while the `nth` operation of a kind fails. Compares the reported result with the host's state and
/// with what the next host finds. Returns `None` if the order was complete before.
async fn check(prepared: &SimulatedStorage, order: Order, kind: Kind, nth: u64) -> Option<Told> {
    let storage = prepared.copy();
    let rig = open(&storage).await;
    if order != Order::Start {
        rig.send_as("ant", "second", "1").await.expect("kept");
    }
    let old = stands(&rig, &storage, order);
    // No write from before the order may take its fault.
    rig.host.data().expect("it is durable").committer().settle().await.expect("there is room");
    let fault = match kind {
        (Some(ending), operation) => storage.fail_in(ending, operation, nth),
        (None, operation) => storage.fail(operation, nth),
    };
    let given = order.give(&rig).await;
    let has_failed = fault.has_fired();
    let printed = match &given {
        Ok(()) => Told::Done,
        // The service is configured to run, but does not: the next start tries again.
        Err(LaunchError::Data(DataError::OutcomeUnknown { .. }) | LaunchError::Quarantined { .. }) => Told::Unknown,
        Err(_) => Told::NotDone,
    };
    let now = stands(&rig, &storage, order);
    let mut files_of_new = storage.list().expect("the power is on");
    files_of_new.retain(|file| file.starts_with("new.") && !file.ends_with(".tmp"));
    let mut acknowledged = BTreeSet::new();
    for service in ["ant", "idle", "new"] {
        if rig.send_as(service, "last", "1").await.is_ok() {
            acknowledged.insert(service);
        }
    }
    drop(rig);
    let storage = storage.crash();
    let rig = open(&storage).await;
    let found = stands(&rig, &storage, order);
    let what = format!(
        "{order:?}, {kind:?} {nth}: {given:?}, before {old:?}, then {now:?}, after a start {found:?}, \
         acknowledged by {acknowledged:?}"
    );
    for service in &acknowledged {
        let again = rig.send_as(service, "last", "1").await.unwrap_or_else(|denial| panic!("{what}: {denial}"));
        assert!(again.is_repeated, "{what}");
    }
    let is_done = |stands: &Stands| match order {
        Order::Snapshot => stands.snapshots != old.snapshots,
        Order::Stop => stands.is_there && !stands.runs,
        Order::Start | Order::Create | Order::CreateWithFiles => stands.is_there && stands.runs,
        Order::Remove => !stands.is_there && !stands.runs,
    };
    assert_eq!(found.granted, found.is_there && !order.creates(), "{what}");
    match printed {
        Told::Done => assert!(is_done(&now) && is_done(&found), "{what}"),
        // An additional snapshot does no harm.
        Told::NotDone if order == Order::Snapshot => {}
        Told::NotDone => {
            assert!(!is_done(&now) && !is_done(&found) && now.runs == old.runs, "{what}");
            assert!(!order.creates() || files_of_new.is_empty(), "{what}: {files_of_new:?}");
        }
        Told::Unknown => assert!(!now.runs, "{what}"),
    }
    if found.is_there && !order.creates() {
        rig.host.start_service(&name(order.service()), Epoch([8; 16])).await.expect("it is whole");
        assert!(rig.send_as(order.service(), "first", "1").await.expect("kept").is_repeated, "{what}");
    }
    has_failed.then_some(printed)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_storage_fails_says_what_the_disk_has() {
    let prepared = prepare().await;
    for order in Order::ALL {
        let (mut printed, mut unknown) = (Vec::new(), 0);
        for kind in OF_CATALOG.into_iter().chain(OF_OTHERS) {
            for nth in 1.. {
                let Some(outcome) = check(&prepared, order, kind, nth).await else { break };
                unknown += usize::from(OF_CATALOG.contains(&kind) && outcome == Told::Unknown);
                printed.push(outcome);
            }
        }
        // The write that makes a change of the catalog effective, and the sync after it.
        assert_eq!(unknown, if order == Order::Snapshot { 0 } else { 2 }, "{order:?}: {printed:?}");
        assert!(printed.contains(&Told::NotDone), "{order:?}: {printed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_of_unknown_outcome_can_be_repeated_or_undone() {
    let prepared = prepare().await;
    let mut unknown = 0;
    for nth in 1.. {
        let storage = prepared.copy();
        let rig = open(&storage).await;
        rig.send_as("ant", "second", "1").await.expect("kept");
        let fault = storage.fail_in(CATALOG_FILE, Operation::Write, nth);
        let removed = rig.host.remove_service(&name("ant")).await;
        if !fault.has_fired() {
            removed.expect("nothing failed");
            break;
        }
        match removed {
            Err(DataError::OutcomeUnknown { .. }) => unknown += 1,
            _ => continue,
        }
        assert!(rig.host.quarantined(&name("ant")).is_some_and(|reason| reason.contains("may or may not be removed")));
        // After a failed write, the next order finds out what the disk has.
        let started = rig.host.start_service(&name("ant"), Epoch([9; 16])).await;
        if started.is_ok() {
            rig.grant("ant");
            assert!(rig.send_as("ant", "first", "1").await.expect("kept").is_repeated);
        } else {
            assert!(matches!(started, Err(LaunchError::Data(DataError::NoService { .. }))), "{started:?}");
        }
        rig.host.remove_service(&name("ant")).await.expect("removed");
        assert!(rig.host.quarantined(&name("ant")).is_none());
        create(&rig, "ant", "count.wat", settings(FailoverMode::Direct)).await.expect("the name is free");
        assert!(!rig.send_as("ant", "first", "1").await.expect("kept").is_repeated);
    }
    assert_eq!(unknown, 1, "one write makes it count");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_of_unknown_outcome_without_a_host_can_be_repeated() {
    let prepared = prepare().await;
    let take = |storage: &SimulatedStorage| Locked::open(Arc::new(storage.clone()), None).expect("it is free");
    let mut unknown = 0;
    for nth in 1.. {
        let storage = prepared.copy();
        let locked = take(&storage);
        let fault = storage.fail_in(CATALOG_FILE, Operation::Write, nth);
        let removed = locked.remove_service(&name("ant"));
        if !fault.has_fired() {
            removed.expect("nothing failed");
            break;
        }
        let Err(error @ DataError::RemovalUnknown { .. }) = removed else { continue };
        unknown += 1;
        assert_eq!(error.to_string(), "service 'ant' may or may not be removed; check the disk, and remove it again");
        drop(locked);
        let locked = take(&storage);
        locked.remove_service(&name("ant")).expect("the disk has recovered");
        assert!(!locked.has_any_of(&name("ant")).expect("readable"));
    }
    assert_eq!(unknown, 1, "one write makes it count");
}
