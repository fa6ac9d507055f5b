//! Room and file descriptors that run out and become available again. Requests without room are refused, everything
//! continues without a restart, and acknowledged transactions are retained.

use crate::rig::guest_bytes;
use crate::serving::{PASSWORD, Serving, set_up};
use crate::site::{Answered, Site};
use lifeboat_api::access::Grant;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::name::Name;
use lifeboat_host::catalog::{AccountsChange, CATALOG_FILE, CatalogError, Room, TokenEntry};
use lifeboat_host::credential::TokenHash;
use lifeboat_host::data::{DataOptions, Locked};
use lifeboat_journal::commit::{Change, Entry};
use lifeboat_journal::frame::RecordNumber;
use lifeboat_journal::storage::{Fault, Operation, SimulatedStorage, Storage};
use serde_json::{Value, json};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// The number of file descriptors of the server: fewer than the idle connections to it.
const DESCRIPTORS: u32 = 96;

/// The number of idle connections.
const IDLE: usize = 160;

/// The number of transactions, each with a long body: more than a segment holds.
const TRANSACTIONS: usize = 24;

/// The length of a record of which a segment holds only two.
const FILLER_BYTES: usize = 6_000_000;

/// The longest wait for the end of a host: longer than it holds its records.
const STOPPED_MAX: Duration = Duration::from_secs(30);

/// The longest wait for a connection that the kernel may not accept.
const CONNECT_MAX: Duration = Duration::from_millis(500);

/// Returns a body of which a segment holds few.
fn long_body() -> String {
    "x".repeat(1_000_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_denies_transactions_until_there_is_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let storage = SimulatedStorage::new(1);
    let site = Site::start_on(Arc::new(storage.clone()), folder.path(), "").await;
    let admin = site.log_in("admin").await;
    site.deploy(&admin, "bank", "count.wat", "size=small").await;
    storage.break_down(Operation::Create, io::ErrorKind::StorageFull);
    let mut answered = 0;
    let denied = loop {
        let answer = site.transact(&admin, "bank", &format!("t{answered}"), &long_body()).await;
        if answer.status != 200 {
            break answer;
        }
        answered += 1;
        assert!(answered < 20, "a segment holds no more");
    };
    assert_eq!((denied.status, denied.code().as_str(), denied.header("lifeboat-outcome")), (503, "storage", "denied"));
    assert!(denied.text().contains("it continues by itself"), "{}", denied.text());
    assert!(!denied.header("retry-after").is_empty());
    let ready = site.get("/readyz", "").await;
    assert_eq!((ready.status, ready.code().as_str()), (503, "storage"));
    let metrics = site.get("/metrics", &admin).await;
    assert!(metrics.text().contains("lifeboat_journal_stalled 1"), "{}", metrics.text());
    // Requests that change nothing continue.
    assert_eq!(site.post("/v1/services/bank/query", &admin, "").await.text(), answered.to_string());

    storage.mend(Operation::Create);
    until(|| async { site.get("/readyz", "").await.status == 200 }).await;
    let again = site.transact(&admin, "bank", &format!("t{answered}"), &long_body()).await;
    assert_eq!((again.status, again.text()), (200, (answered + 1).to_string().as_str()));
    let metrics = site.get("/metrics", &admin).await;
    assert!(metrics.text().contains("lifeboat_journal_stalled 0"), "{}", metrics.text());
    let printed = site.get("/v1/events?follow=false", &admin).await;
    assert!(printed.text().contains("Journal stalled: it cannot begin a new segment"), "{}", printed.text());
    assert!(printed.text().contains("Journal resumed: "), "{}", printed.text());
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_reported_as_done_once_it_is_on_the_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let storage = SimulatedStorage::new(1);
    let site = Site::start_on(Arc::new(storage.clone()), folder.path(), "").await;
    let admin = site.log_in("admin").await;
    site.deploy(&admin, "bank", "count.wat", "size=small").await;
    assert_eq!(site.transact(&admin, "bank", "1", "x").await.text(), "1");
    let snapshots = || {
        let names = storage.list().expect("the power is on");
        names.iter().filter(|name| name.ends_with(".snapshot")).count()
    };
    let before = snapshots();
    storage.break_down(Operation::Create, io::ErrorKind::StorageFull);
    let refused = site.post("/v1/services/bank/snapshot", &admin, "").await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "storage"), "{refused:?}");
    assert!(refused.text().contains("cannot write the snapshot of service 'bank'"), "{}", refused.text());
    assert_eq!(snapshots(), before);
    let listed = site.get("/v1/services", &admin).await.json();
    assert_eq!(listed["services"][0]["vm"]["snapshot_sequence"], 0, "what is not on the disk does not count");
    storage.mend(Operation::Create);
    let done = site.post("/v1/services/bank/snapshot", &admin, "").await;
    assert_eq!((done.status, snapshots()), (200, before + 1), "{done:?}");
    assert_eq!(done.json()["vm"]["snapshot_sequence"], 1);

    // The catalog accepts no change, so a service that is to be removed continues to run.
    let host = site.server.host();
    storage.break_down(Operation::Write, io::ErrorKind::StorageFull);
    let bank = Name::new("bank").expect("a name");
    assert!(host.remove_service(&bank).await.is_err());
    assert!(host.has_service(&bank));
    assert_eq!(site.post("/v1/services/bank/query", &admin, "").await.text(), "1");
    storage.mend(Operation::Write);
    assert_eq!(site.transact(&admin, "bank", "2", "x").await.text(), "2");
    // The catalog continues as well, for log-ins and removals.
    let admin = site.log_in("admin").await;
    assert_eq!(site.delete("/v1/services/bank", &admin).await.status, 204);
    assert!(!host.has_service(&bank));
    assert_eq!(snapshots(), 0);
}

/// Returns the snapshot files, oldest first.
fn snapshot_files(storage: &SimulatedStorage) -> Vec<String> {
    let names = storage.list().expect("the power is on").into_iter();
    names.filter(|name| name.ends_with(".snapshot")).collect()
}

/// Returns the texts of the retained events of a kind.
async fn texts(site: &Site, admin: &str, kind: &str) -> Vec<String> {
    let answered = site.get(&format!("/v1/events?follow=false&event={kind}"), admin).await;
    answered.events().iter().map(|event| event["text"].as_str().expect("a text").to_owned()).collect()
}

/// Executes transaction `number` of `bank`, and has a snapshot written.
async fn snapshot(site: &Site, admin: &str, number: u64) {
    let id = number.to_string();
    assert_eq!(site.transact(admin, "bank", &id, "x").await.text(), id);
    let done = site.post("/v1/services/bank/snapshot", admin, "").await;
    assert_eq!(done.status, 200, "{done:?}");
}

/// A server whose service `bank` has taken three snapshots, of which the oldest could not be removed.
struct Stuck {
    site: Site,
    admin: String,
    storage: SimulatedStorage,
    /// The files of the first two snapshots.
    files: Vec<String>,
    fault: Fault,
    folder: tempfile::TempDir,
}

impl Stuck {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = SimulatedStorage::new(1);
        let site = Site::start_on(Arc::new(storage.clone()), folder.path(), "").await;
        let admin = site.log_in("admin").await;
        site.deploy(&admin, "bank", "count.wat", "size=small").await;
        snapshot(&site, &admin, 1).await;
        snapshot(&site, &admin, 2).await;
        let files = snapshot_files(&storage);
        let fault = storage.fail_in(&files[0], Operation::Remove, 1);
        snapshot(&site, &admin, 3).await;
        Self { site, admin, storage, files, fault, folder }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_snapshot_that_cannot_be_removed_is_reported_as_that() {
    let Stuck { site, admin, storage, files, fault, folder: _folder } = Stuck::start().await;
    // Reclaims follow removals, and an order waits for neither.
    until(|| async { fault.has_fired() && !texts(&site, &admin, "old_snapshots_not_removed").await.is_empty() }).await;
    let printed = texts(&site, &admin, "old_snapshots_not_removed").await;
    let expected = format!(
        "Old snapshots not removed: bank does not need them, but they take space: cannot remove snapshot '{}': ",
        files[0]
    );
    assert!(printed.len() == 1 && printed[0].starts_with(&expected), "{printed:?}");
    assert!(printed[0].ends_with("the next snapshot tries again"), "{printed:?}");
    assert_eq!(texts(&site, &admin, "snapshot_not_kept").await, [""; 0]);
    assert_eq!(snapshot_files(&storage).len(), 3);
    snapshot(&site, &admin, 4).await;
    until(|| async { snapshot_files(&storage).len() == 2 }).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_snapshot_that_cannot_be_opened_prevents_no_start() {
    let Stuck { site, storage, fault, folder, .. } = Stuck::start().await;
    until(|| async { fault.has_fired() }).await;
    site.stop().await;
    let files = snapshot_files(&storage);
    assert_eq!(files.len(), 3);
    // The two newest are needed. That the disk fails now proves nothing about them.
    for file in &files[1..] {
        let storage = storage.copy();
        let _fault = storage.fail_in(file, Operation::Open, 1);
        let locked = Locked::open(Arc::new(storage), None).expect("free");
        let error = locked.open_journal(&DataOptions::default()).expect_err("one that is needed");
        assert!(error.to_string().contains(file), "{error}");
    }
    let copy = storage.copy();
    let _fault = copy.fail_in(&files[0], Operation::Open, 1);
    let contents = Locked::open(Arc::new(copy), None).expect("free").read(None).expect("readable");
    let found = &contents.services[0];
    assert_eq!((found.damaged_snapshots.len(), &found.unreadable_snapshots[0].0), (0, &files[0]));
    let fault = storage.fail_in(&files[0], Operation::Open, 1);
    let site = Site::start_on(Arc::new(storage.clone()), folder.path(), "").await;
    assert!(fault.has_fired());
    let admin = site.log_in("admin").await;
    let printed = texts(&site, &admin, "old_snapshots_not_removed").await;
    assert!(
        printed.len() == 1 && printed[0].contains(&format!("cannot open snapshot '{}': ", files[0])),
        "{printed:?}"
    );
    snapshot(&site, &admin, 4).await;
    until(|| async { snapshot_files(&storage).len() == 2 }).await;
    site.stop().await;
}

/// Fills the journal with records that do not belong to services while the disk accepts no new segment. Then has a
/// transaction of `bank` wait for room: it was executed before the shortage was known. Returns its answer.
async fn hold_a_transaction(storage: &SimulatedStorage, site: &Site, admin: &str) -> Answered {
    storage.break_down(Operation::Create, io::ErrorKind::StorageFull);
    let held = storage.hold_writes();
    let host = site.server.host();
    let filler = Name::new("filler").expect("a name");
    for number in 1..=3 {
        let record = vec![0; FILLER_BYTES];
        let number = RecordNumber(number);
        let change = if number.0 == 1 { Change::Begin { number, record } } else { Change::Continue { number, record } };
        let entry = Entry { service: filler.clone(), change };
        drop(host.data().expect("it has one").committer().submit(entry, None).expect("open"));
    }
    let bank = Name::new("bank").expect("a name");
    let before = host.status_of(&bank).await.expect("it runs").sequence;
    let executed = async {
        until(|| async { host.status_of(&bank).await.expect("it runs").sequence > before }).await;
        drop(held);
    };
    tokio::join!(site.transact(admin, "bank", "held", "x"), executed).0
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_journal_has_no_room_nothing_is_reported_as_done_that_may_be_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let storage = SimulatedStorage::new(1);
    let site = Site::start_on(Arc::new(storage.clone()), folder.path(), "").await;
    let admin = site.log_in("admin").await;
    for service in ["bank", "shop", "mill"] {
        site.deploy(&admin, service, "count.wat", "size=small").await;
    }
    assert_eq!(site.transact(&admin, "bank", "1", "x").await.text(), "1");
    assert_eq!(site.post("/v1/services/mill/stop", &admin, "").await.status, 200);

    let unknown = hold_a_transaction(&storage, &site, &admin).await;
    for answer in [unknown, site.transact(&admin, "bank", "held", "x").await] {
        assert_eq!((answer.status, answer.code().as_str()), (503, "outcome_unknown"), "{answer:?}");
        assert_eq!(answer.header("lifeboat-outcome"), "");
        for words in ["the outcome of 'held'", "make room on its disk", "send it again with the same id"] {
            assert!(answer.text().contains(words), "{}", answer.text());
        }
    }
    let found = site.get("/v1/services/bank/transactions/held", &admin).await;
    assert_eq!((found.status, found.code().as_str()), (503, "outcome_unknown"), "{found:?}");
    let denied = site.transact(&admin, "shop", "1", "x").await;
    assert_eq!((denied.status, denied.code().as_str(), denied.header("lifeboat-outcome")), (503, "storage", "denied"));

    // Requests that need no room are carried out; the others are denied.
    assert_eq!(site.get("/v1/services", &admin).await.status, 200);
    assert_eq!(site.get("/v1/services/bank", &admin).await.json()["vm"]["sequence"], 2);
    for (refused, words) in [
        (site.post("/v1/services/mill/start", &admin, "").await, "make room on its disk"),
        (site.post("/v1/services/bank/failover", &admin, "").await, "make room on its disk"),
        (site.post("/v1/services/bank/snapshot", &admin, "").await, "cannot write the snapshot of service 'bank'"),
        (site.put("/v1/services/inn?size=small", &admin, guest_bytes("count.wat")).await, "make room on its disk"),
    ] {
        assert_eq!((refused.status, refused.code().as_str()), (503, "storage"), "{refused:?}");
        assert!(refused.text().contains(words), "{}", refused.text());
    }
    assert_eq!(site.post("/v1/services/bank/stop", &admin, "").await.json()["state"], "stopped");
    assert_eq!(site.delete("/v1/services/shop", &admin).await.status, 204);
    assert_eq!(site.delete("/v1/services/mill", &admin).await.status, 204);

    storage.mend(Operation::Create);
    until(|| async { site.get("/readyz", "").await.status == 200 }).await;
    assert_eq!(site.post("/v1/services/bank/start", &admin, "").await.status, 200);
    let repeated = site.transact(&admin, "bank", "held", "x").await;
    assert_eq!((repeated.status, repeated.text(), repeated.header("lifeboat-repeated")), (200, "2", "true"));
    assert_eq!(site.transact(&admin, "bank", "3", "x").await.text(), "3");
    site.stop().await;
}

/// Without a free byte, an operator can log in, read, stop and remove. A removal releases the room that was missing.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_an_operator_makes_room_by_removing_a_service() {
    let folder = tempfile::tempdir().expect("a folder");
    let storage = SimulatedStorage::new(1);
    let site = Site::start_on(Arc::new(storage.clone()), folder.path(), "").await;
    let admin = site.log_in("admin").await;
    for service in ["bank", "shop", "mill"] {
        site.deploy(&admin, service, "count.wat", "size=small").await;
    }
    // The records pass the end of a segment, which then contains no records of others.
    let segments = || {
        let names = storage.list().expect("the power is on");
        names.iter().filter(|name| name.ends_with(".segment")).count()
    };
    let mut sent = 0;
    while segments() < 3 {
        sent += 1;
        assert_eq!(site.transact(&admin, "bank", &format!("t{sent}"), &long_body()).await.status, 200);
    }
    storage.limit_space(storage.taken_bytes());
    let denied = loop {
        sent += 1;
        let answer = site.transact(&admin, "bank", &format!("t{sent}"), &long_body()).await;
        if answer.status != 200 {
            break answer;
        }
    };
    assert_eq!((denied.status, denied.code().as_str()), (503, "storage"), "{denied:?}");

    let admin = site.log_in("admin").await;
    assert_eq!(site.get("/v1/services/bank", &admin).await.json()["vm"]["sequence"], sent - 1);
    assert_eq!(site.post("/v1/services/shop/stop", &admin, "").await.json()["state"], "stopped");
    let refused = site.post("/v1/services/shop/start", &admin, "").await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "storage"), "{refused:?}");
    // The other services need so little that it is relocated.
    assert_eq!(site.delete("/v1/services/bank", &admin).await.status, 204);
    until(|| async { site.get("/readyz", "").await.status == 200 }).await;
    assert!(segments() < 3);
    assert_eq!(site.post("/v1/services/shop/start", &admin, "").await.status, 200);
    for service in ["shop", "mill"] {
        assert_eq!(site.transact(&admin, service, "1", "x").await.text(), "1");
    }
    site.stop().await;
}

/// Log-ins have taken every free page of the catalog, and the disk has no free byte.
#[tokio::test(flavor = "multi_thread")]
async fn an_admin_can_remove_from_a_catalog_that_log_ins_have_filled() {
    let folder = tempfile::tempdir().expect("a folder");
    let storage = SimulatedStorage::new(1);
    let site = Site::start_on(Arc::new(storage.clone()), folder.path(), "").await;
    let admin = site.log_in("admin").await;
    site.deploy(&admin, "bank", "count.wat", "size=small").await;
    site.deploy(&admin, "shop", "count.wat", "size=small").await;
    let ada = site.user(&admin, "ada", "bank", &[Grant::Transact]).await;
    storage.limit_space(storage.taken_bytes());
    // A log-in's writes, without the hashing of its password.
    let host = site.server.host();
    let catalog = host.data().expect("it is durable").catalog();
    let token = TokenEntry { user: Name::new("ada").expect("a name"), issued: Timestamp(1), expires: Timestamp(2) };
    let refused = (0_u64..).find_map(|number| {
        let mut hash = [1; 32];
        hash[..8].copy_from_slice(&number.to_be_bytes());
        let put_tokens = [(TokenHash(hash), token.clone())].into();
        catalog.change_accounts(&AccountsChange { put_tokens, ..AccountsChange::default() }, Room::Ordinary).err()
    });
    assert!(matches!(refused, Some(CatalogError::NoRoom { .. })), "{refused:?}");

    let body = json!({"user": "ada", "password": crate::site::PASSWORD}).to_string();
    let refused = site.post("/v1/login", "", body).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "storage"), "{refused:?}");
    assert!(refused.text().contains("make room on the disk, or remove services or users"), "{}", refused.text());
    assert_eq!(site.transact(&ada, "bank", "1", "x").await.status, 200, "who is in stays in");
    let admin = site.log_in("admin").await;
    for path in ["/v1/services/shop", "/v1/users/ada/grants/bank/transact", "/v1/services/bank", "/v1/users/ada"] {
        let removed = site.delete(path, &admin).await;
        assert_eq!(removed.status, 204, "{path}: {removed:?}");
    }
    storage.limit_space(u64::MAX);
    site.user(&admin, "eve", "bank", &[Grant::Transact]).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_host_does_not_wait_for_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let storage = SimulatedStorage::new(1);
    let site = Site::start_on(Arc::new(storage.clone()), folder.path(), "").await;
    let admin = site.log_in("admin").await;
    site.deploy(&admin, "bank", "count.wat", "size=small").await;
    assert_eq!(hold_a_transaction(&storage, &site, &admin).await.code(), "outcome_unknown");
    let ended = tokio::time::timeout(STOPPED_MAX, site.server.host().stop()).await.expect("it ends");
    let error = ended.expect_err("the journal is not sealed");
    assert_eq!(error.to_string(), "cannot begin a new segment");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_of_unknown_outcome_is_reported_as_such() {
    let folder = tempfile::tempdir().expect("a folder");
    let storage = SimulatedStorage::new(1);
    let site = Site::start_on(Arc::new(storage.clone()), folder.path(), "").await;
    let admin = site.log_in("admin").await;
    site.user(&admin, "ada", "bank", &[Grant::Transact]).await;
    site.deploy(&admin, "bank", "count.wat", "size=small").await;
    assert_eq!(site.transact(&admin, "bank", "1", "x").await.status, 200);
    // The sync after the write that makes a change of the catalog effective.
    let fault = storage.fail_in(CATALOG_FILE, Operation::SyncData, 2);
    let removed = site.delete("/v1/services/bank", &admin).await;
    assert!(fault.has_fired());
    assert_eq!((removed.status, removed.code().as_str()), (503, "outcome_unknown"), "{removed:?}");
    assert!(removed.text().contains("'bank' may or may not be removed"), "{}", removed.text());
    assert!(removed.text().contains("restart the host"), "{}", removed.text());
    let denied = site.transact(&admin, "bank", "2", "x").await;
    assert_eq!((denied.status, denied.code().as_str()), (503, "quarantined"), "{denied:?}");
    // The catalog accepts no more changes, so nothing starts the service again.
    for again in [
        site.post("/v1/services/bank/start", &admin, "").await,
        site.post("/v1/services/bank/stop", &admin, "").await,
        site.delete("/v1/services/bank", &admin).await,
        site.delete("/v1/users/ada/grants/vault/observe", &admin).await,
        site.delete("/v1/users/ada", &admin).await,
    ] {
        assert_eq!((again.status, again.code().as_str()), (503, "storage"), "{again:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_that_take_all_descriptors_end_no_journal() {
    let folder = tempfile::tempdir().expect("a folder");
    set_up(folder.path());
    let serving = Serving::start_with_descriptors(folder.path(), DESCRIPTORS);
    let address = serving.address;
    // A connection that exists before the others.
    let mut wire = Wire::open(address).await;
    while wire.request("GET", "/readyz", "", "", "").await.expect("answered").0 != 200 {}
    let login = json!({"user": "admin", "password": PASSWORD}).to_string();
    let (_, answer) = wire.request("POST", "/v1/login", "", "", &login).await.expect("answered");
    let answer: Value = serde_json::from_str(&answer).expect("an object");
    let token = answer["token"].as_str().expect("a token");
    let guest = String::from_utf8(guest_bytes("count.wat")).expect("text");
    let deployed = wire.request("PUT", "/v1/services/bank?size=small", token, "", &guest).await;
    assert_eq!(deployed.expect("answered").0, 201);

    let mut idle = Vec::new();
    while idle.len() < IDLE {
        // Connections beyond the limit wait in the kernel, as far as it accepts them.
        let Ok(Ok(connection)) = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address)).await else { break };
        idle.push(connection);
    }
    assert!(idle.len() > DESCRIPTORS as usize, "{} connections", idle.len());
    let (mut acknowledged, mut denied) = (0, 0);
    // These transactions pass the ends of two segments.
    while acknowledged < TRANSACTIONS {
        let id = format!("t{acknowledged}");
        match wire.request("POST", "/v1/services/bank/transactions", token, &id, &long_body()).await {
            Ok((200, _)) => acknowledged += 1,
            Ok((503, text)) => {
                assert!(text.contains("it continues by itself") && !text.contains("os error"), "{text}");
                denied += 1;
                idle.clear();
                while wire.request("GET", "/readyz", "", "", "").await.ok().is_none_or(|(status, _)| status != 200) {
                    wire = Wire::open(address).await;
                }
            }
            Ok(other) => panic!("{other:?}"),
            // The request was answered before all of it was read.
            Err(_) => wire = Wire::open(address).await,
        }
        // This happens once, or not at all if connections leave the journal its descriptors.
        assert!(denied < 2, "it does not go on");
    }
    serving.kill();
    let serving = Serving::start(folder.path());
    let mut wire = Wire::open(serving.address).await;
    while wire.request("GET", "/readyz", "", "", "").await.expect("answered").0 != 200 {}
    let (_, count) = wire.request("POST", "/v1/services/bank/query", token, "", "").await.expect("answered");
    assert_eq!(count, TRANSACTIONS.to_string());
    drop(wire);
    assert_eq!(serving.terminate(), Some(0));
}

/// A connection that never reconnects without the caller's knowledge.
struct Wire(BufReader<TcpStream>);

impl Wire {
    async fn open(address: SocketAddr) -> Self {
        Self(BufReader::new(TcpStream::connect(address).await.expect("connected")))
    }

    /// Sends a request, and returns the status and the body of its answer.
    async fn request(
        &mut self,
        method: &str,
        path: &str,
        token: &str,
        id: &str,
        body: &str,
    ) -> io::Result<(u16, String)> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: here\r\ncontent-length: {}\r\n", body.len());
        if !token.is_empty() {
            head += &format!("authorization: Bearer {token}\r\n");
        }
        if !id.is_empty() {
            head += &format!("idempotency-key: \"{id}\"\r\n");
        }
        self.0.write_all(format!("{head}\r\n{body}").as_bytes()).await?;
        let (mut status, mut bytes) = (0, 0);
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(rest) = line.strip_prefix("http/1.1 ") {
                status = rest[..3].parse().map_err(io::Error::other)?;
            } else if let Some(length) = line.strip_prefix("content-length: ") {
                bytes = length.parse().map_err(io::Error::other)?;
            }
        }
        let mut body = vec![0; bytes];
        self.0.read_exact(&mut body).await?;
        Ok((status, String::from_utf8(body).map_err(io::Error::other)?))
    }
}

async fn until<F: Future<Output = bool>>(is_so: impl Fn() -> F) {
    let waiting = async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it comes to be so");
}
