//! Proofs and portable snapshots, on a disk that corrupts data and loses power. Every damage is reported, and no
//! damaged data is trusted.

use crate::rig::{MIB, Rig, guest_bytes, name, size};
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::sla::{FailoverMode, Thresholds};
use lifeboat_api::transaction::Answer;
use lifeboat_host::answers::DeduplicationWindow;
use lifeboat_host::catalog::{CATALOG_FILE, ServiceSettings};
use lifeboat_host::command_line::ProgramSettings;
use lifeboat_host::data::{Contents, DataError, DataOptions, FoundService, Locked};
use lifeboat_host::host::NewService;
use lifeboat_host::network::NetworkSettings;
use lifeboat_host::portable::{NewIdentity, Portable};
use lifeboat_host::scratch::Scratch;
use lifeboat_host::snapshot_file::{self, SECTION_STATE, SnapshotHeader};
use lifeboat_host::verify::{Finding, Proof, verify};
use lifeboat_journal::frame::{DirectoryId, RecordNumber};
use lifeboat_journal::segment_header::SEGMENT_HEADER_BYTES;
use lifeboat_journal::storage::{Operation, SimulatedStorage, Storage};
use lifeboat_vm::workload::{LoadLimits, load};
use std::sync::Arc;

const DIRECTORY: DirectoryId = DirectoryId([1; 16]);

fn options() -> DataOptions {
    DataOptions { segment_bytes: 256 * 1024, ..DataOptions::default() }
}

fn settings() -> ServiceSettings {
    ServiceSettings {
        size: "s".into(),
        sizes: vec![(*size("s", 400_000, MIB)).clone()],
        thresholds: Thresholds::default(),
        deduplication_window: DeduplicationWindow::durable(),
        failover: FailoverMode::Direct,
        network: NetworkSettings::default(),
        program: ProgramSettings::default(),
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(future)
}

/// Starts a host with the directory in `storage`.
async fn start(storage: &SimulatedStorage) -> Rig {
    let locked = Locked::open(Arc::new(storage.clone()), Some(DIRECTORY)).expect("taken");
    let (directory, contents) = locked.open_journal(&options()).expect("opens");
    let rig = Rig::recovered(directory, contents).await;
    for service in ["ant", "bee", "new"] {
        rig.grant(service);
    }
    rig
}

async fn create(rig: &Rig, service: &str, guest: &str) {
    create_with(rig, service, guest_bytes(guest), settings()).await;
}

async fn create_with(rig: &Rig, service: &str, bytes: Vec<u8>, settings: ServiceSettings) {
    let new = NewService {
        name: name(service),
        workload: load(service, &bytes, &LoadLimits::default()).expect("valid"),
        workload_bytes: bytes.into(),
        settings,
        secret: [7; 32],
        epoch: Epoch([99; 16]),
        disk: None,
    };
    rig.host.create_durable_service(new).await.expect("created");
}

/// Returns a directory with two counters that counted to eight over two starts and stopped cleanly.
fn sample() -> SimulatedStorage {
    let storage = SimulatedStorage::new(1);
    block_on(async {
        let rig = start(&storage).await;
        create(&rig, "ant", "count.wat").await;
        create(&rig, "bee", "work.wat").await;
        for round in 0..8 {
            for service in ["ant", "bee"] {
                rig.send_as(service, &format!("t{round}"), "1").await.expect("kept");
            }
            if round == 2 || round == 5 {
                rig.snapshot("ant").await;
            }
        }
        rig.host.stop().await.expect("sealed");
    });
    storage.copy()
}

fn look(storage: &SimulatedStorage) -> Result<Contents, DataError> {
    Locked::open_read_only(Arc::new(storage.clone()))?.read(None)
}

fn found<'a>(contents: &'a Contents, service: &str) -> &'a FoundService {
    contents.services.iter().find(|found| *found.name == *service).expect("it is in the catalog")
}

/// Returns the proofs of all services.
fn proofs(scratch: &Scratch, storage: &SimulatedStorage, contents: &Contents) -> Vec<Proof> {
    let prove = |found: &FoundService| {
        block_on(verify(scratch, storage, found, &mut |_| {})).unwrap_or_else(|error| panic!("{error}"))
    };
    contents.services.iter().map(prove).collect()
}

/// Returns the count of a service, as its state shows it.
fn count(scratch: &Scratch, storage: &SimulatedStorage, found: &FoundService, at: Option<u64>) -> String {
    block_on(async {
        let program = scratch.program(storage, found).await.expect("runs");
        let state = scratch.state(storage, &program, found, at.map(Sequence)).await.expect("brought back");
        match scratch.query(state, &name("ada"), b"x").await.answer {
            Answer::Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            other => panic!("{other:?}"),
        }
    })
}

/// Returns a portable snapshot of the service's present state.
fn export(scratch: &Scratch, storage: &SimulatedStorage, found: &FoundService) -> Portable {
    block_on(async {
        let program = scratch.program(storage, found).await.expect("runs");
        let state = scratch.state(storage, &program, found, None).await.expect("brought back");
        let (record, resume_point) = (state.record, state.resume_point.clone());
        let snapshot = scratch.export(scratch.replay_context_of(&program, found), state).await.expect("exported");
        let workload = lifeboat_host::data::read_workload(storage, &found.entry.workload).expect("readable").into();
        let (service, settings) = (found.name.clone(), found.entry.settings.clone());
        Portable { service, snapshot, resume_point, record, workload_hash: found.entry.workload, workload, settings }
    })
}

fn new_identity(service: &str) -> NewIdentity {
    let network = NetworkSettings::default();
    NewIdentity { name: name(service), secret: [8; 32], epoch: Epoch([77; 16]), timestamp: Timestamp(1), network }
}

#[test]
fn a_state_that_can_never_be_restored_shows_before_the_first_failover() {
    let storage = SimulatedStorage::new(7);
    block_on(async {
        let rig = start(&storage).await;
        for (service, guest) in [("ant", "refuse-restore.wat"), ("bee", "refuse-snapshot.wat"), ("cat", "count.wat")] {
            rig.grant(service);
            create(&rig, service, guest).await;
            for round in 0..3 {
                rig.send_as(service, &format!("t{round}"), "x").await.expect("kept");
            }
        }
    });
    let contents = look(&storage.copy()).expect("readable");
    let proofs = proofs(&Scratch::new(&settings().sizes).expect("an engine"), &storage, &contents);
    let unmovable = |proof: &Proof, why: &str| match &proof.findings[..] {
        [finding @ Finding::Unmovable { sequence, .. }] => {
            sequence.0 == 3 && finding.to_string().contains(why) && proof.replayed_transactions == 3
        }
        _ => false,
    };
    assert!(unmovable(&proofs[0], "the guest's restore returned an error: no thanks"), "{proofs:?}");
    assert!(unmovable(&proofs[1], "the guest's snapshot returned an error: "), "{proofs:?}");
    assert_eq!(proofs[2].findings, []);
}

#[test]
fn an_intact_directory_is_proven_without_a_change() {
    let storage = sample();
    let scratch = Scratch::new(&settings().sizes).expect("an engine");
    let before = [Operation::Write, Operation::Create, Operation::Rename, Operation::Remove, Operation::SetBytes]
        .map(|operation| storage.count(operation));
    let contents = look(&storage).expect("readable");
    let proofs = proofs(&scratch, &storage, &contents);
    let after = [Operation::Write, Operation::Create, Operation::Rename, Operation::Remove, Operation::SetBytes]
        .map(|operation| storage.count(operation));
    assert_eq!(before, after);
    for proof in &proofs {
        assert_eq!((proof.findings.len(), proof.after.0, proof.through.0), (0, 0, 8), "{proof:?}");
        assert_eq!(proof.replayed_transactions, 8);
    }
    // Two snapshots are retained. Each was reached by a replay from the one before, or from the empty state.
    assert_eq!(proofs.iter().map(|proof| proof.agreeing_snapshots).collect::<Vec<_>>(), [2, 1]);
    for at in 0..=8 {
        assert_eq!(count(&scratch, &storage, found(&contents, "ant"), Some(at)), at.to_string());
    }
}

#[test]
fn exports_of_equal_state_agree_whatever_their_bytes() {
    // The export also contains how often this instance was restored, and a restore does not import that.
    let text = String::from_utf8(guest_bytes("count.wat")).expect("text");
    let text = text
        .replace("(global $count (mut", "(global $restored (mut i64) (i64.const 0))\n  (global $count (mut")
        .replace(
            "(i64.store (i32.const 32) (global.get $count))\n    (call $write (i32.const 32) (i32.const 8))",
            "(i64.store (i32.const 32) (global.get $count))\n    (i64.store (i32.const 40) (global.get $restored))
    (call $write (i32.const 32) (i32.const 16))",
        )
        .replace(
            "(global.set $count (i64.load (i32.const 32)))",
            "(global.set $count (i64.load (i32.const 32)))\n    (global.set $restored (i64.const 1))",
        );
    let storage = SimulatedStorage::new(1);
    block_on(async {
        let rig = start(&storage).await;
        let settings = ServiceSettings { failover: FailoverMode::Shadow, ..settings() };
        create_with(&rig, "new", text.into_bytes(), settings).await;
        rig.send("new", "x").await.expect("kept");
        // The snapshot is taken by a shadow: the instance that exports the next one was never restored.
        rig.snapshot("new").await;
        // The snapshot must be on the disk, or the next one replaces it.
        while rig.status("new").await.snapshot_sequence == Sequence(0) {}
        rig.send("new", "x").await.expect("kept");
        rig.host.stop().await.expect("sealed");
    });
    let storage = storage.copy();
    let snapshots = storage.list().expect("lists").into_iter().filter(|file| file.starts_with("new."));
    let restored = |file: String| {
        let content = snapshot_file::read(&storage, &file).expect("readable");
        let chunk = content.chunks(SECTION_STATE).into_iter().next().expect("a chunk");
        content.body[chunk][8]
    };
    assert_eq!(snapshots.map(restored).collect::<Vec<_>>(), [0, 0]);
    let scratch = Scratch::new(&settings().sizes).expect("an engine");
    let proofs = proofs(&scratch, &storage, &look(&storage).expect("readable"));
    assert_eq!((&proofs[0].findings, proofs[0].agreeing_snapshots), (&vec![], 2));
}

#[test]
fn every_flipped_byte_is_a_finding_of_its_own_service() {
    let storage = sample();
    let scratch = Scratch::new(&settings().sizes).expect("an engine");
    let contents = look(&storage).expect("readable");
    let journal_bytes = SEGMENT_HEADER_BYTES + usize::try_from(contents.recovery.end.0).expect("short");
    drop(contents);
    let mut flips = 0;
    for file in storage.list().expect("lists") {
        let is_journal = file.ends_with(".segment");
        if !is_journal && !file.ends_with(".snapshot") && !file.ends_with(".workload") {
            continue;
        }
        let opened = storage.open(&file).expect("opens");
        let bytes = usize::try_from(opened.bytes().expect("a length")).expect("short");
        let mut content = vec![0; if is_journal { journal_bytes } else { bytes }];
        opened.read_exact_at(0, &mut content).expect("reads");
        let step = if file.ends_with(".workload") { 997 } else { 61 };
        for (offset, byte) in content.iter().enumerate() {
            if !offset.is_multiple_of(step) && (*byte == 0 || file.ends_with(".workload")) {
                continue;
            }
            flips += 1;
            storage.flip(&file, offset, 0x20);
            let contents = look(&storage).unwrap_or_else(|error| panic!("{file} {offset}: {error}"));
            let proofs = proofs(&scratch, &storage, &contents);
            let hurt: Vec<&Proof> = proofs.iter().filter(|proof| !proof.findings.is_empty()).collect();
            if is_journal {
                assert!(!contents.recovery.damages.is_empty(), "{offset}: {:?}", contents.recovery);
            } else {
                assert_eq!(hurt.len(), 1, "{file} {offset}: {proofs:?}");
                let is_its_own = match &hurt[0].findings[..] {
                    [Finding::SnapshotDamaged { file: named, reason }] => *named == file && reason.contains(&file),
                    [Finding::Workload { reason }] => reason.contains(&file),
                    _ => false,
                };
                assert!(is_its_own, "{file} {offset}: {hurt:?}");
            }
            // Whatever can still be proven has its original value.
            for proof in &proofs {
                let is_false =
                    |finding: &Finding| matches!(finding, Finding::Diverged { .. } | Finding::StateDiverged { .. });
                assert!(!proof.findings.iter().any(is_false), "{file} {offset}: {proof:?}");
            }
            storage.flip(&file, offset, 0x20);
        }
    }
    assert!(flips > 1_000, "{flips}");
    let contents = look(&storage).expect("readable");
    assert!(proofs(&scratch, &storage, &contents).iter().all(|proof| proof.findings.is_empty()));
}

#[test]
fn a_power_cut_during_a_restore_leaves_a_whole_service_or_a_free_name() {
    let original = sample();
    let scratch = Scratch::new(&settings().sizes).expect("an engine");
    let contents = look(&original).expect("readable");
    let portable = export(&scratch, &original, found(&contents, "ant"));
    drop(contents);
    let restore = |storage: &SimulatedStorage| -> Result<(), DataError> {
        let (directory, _) = Locked::open(Arc::new(storage.clone()), Some(DIRECTORY))?.open_journal(&options())?;
        portable.restore(&directory, new_identity("new"))?;
        directory.close()
    };
    let (mut whole, mut none) = (0, 0);
    for nth in 1.. {
        // One directory is new, and the other has services.
        let mut is_over = true;
        for storage in [SimulatedStorage::new(nth), original.copy()] {
            storage.power_off(nth);
            let result = restore(&storage);
            is_over &= !storage.is_off();
            let storage = storage.crash();
            let is_there = Locked::open(Arc::new(storage.clone()), Some(DIRECTORY))
                .and_then(|locked| Ok(locked.catalog().service(&name("new"))?.is_some()))
                .unwrap_or_else(|error| panic!("{nth}: {error}"));
            assert!(is_there || result.is_err(), "{nth}: it was said to be there");
            if is_there {
                whole += 1;
            } else {
                none += 1;
                restore(&storage).unwrap_or_else(|error| panic!("{nth}: {error}"));
            }
            let contents = look(&storage).unwrap_or_else(|error| panic!("{nth}: {error}"));
            for proof in proofs(&scratch, &storage, &contents) {
                assert_eq!(proof.findings, [], "{nth}: {}", proof.service);
            }
            assert_eq!(count(&scratch, &storage, found(&contents, "new"), None), "8", "{nth}");
            drop(contents);
            let again = restore(&storage);
            assert!(matches!(again, Err(DataError::Exists { .. })), "{again:?}");
        }
        if is_over {
            break;
        }
    }
    assert!(whole > 2 && none > 20, "{whole} {none}");
}

#[test]
fn a_restore_of_unknown_outcome_can_be_repeated() {
    let original = sample();
    let scratch = Scratch::new(&settings().sizes).expect("an engine");
    let portable = export(&scratch, &original, found(&look(&original).expect("readable"), "ant"));
    let open = |storage: &SimulatedStorage| {
        let locked = Locked::open(Arc::new(storage.clone()), None).expect("it is free");
        locked.open_journal(&options()).unwrap_or_else(|error| panic!("{error}")).0
    };
    let (mut stored, mut not_stored) = (0, 0);
    let mut storage = original;
    for operation in [Operation::Write, Operation::SyncData].repeat(4) {
        // With a different seed, the disk retains what was not synced, or does not.
        storage = storage.crash();
        let original = storage.copy();
        for nth in 1.. {
            let storage = original.copy();
            let directory = open(&storage);
            let fault = storage.fail_in(CATALOG_FILE, operation, nth);
            let restored = portable.restore(&directory, new_identity("new"));
            if !fault.has_fired() {
                restored.expect("nothing failed");
                break;
            }
            let Err(error @ DataError::RestoreUnknown { .. }) = restored else { continue };
            drop(directory);
            let storage = storage.crash();
            assert_eq!(
                error.to_string(),
                "service 'new' may or may not be restored; check the disk, and restore it again, which fails if the \
                 service exists already"
            );
            let directory = open(&storage);
            match portable.restore(&directory, new_identity("new")) {
                Ok(()) => not_stored += 1,
                Err(DataError::Exists { .. }) => stored += 1,
                Err(error) => panic!("{operation:?} {nth}: {error}"),
            }
            directory.close().expect("sealed");
            drop(directory);
            let contents = look(&storage).expect("readable");
            assert_eq!(count(&scratch, &storage, found(&contents, "new"), None), "8", "{operation:?} {nth}");
        }
    }
    assert!(stored > 0 && not_stored > 0, "{stored} {not_stored}");
}

#[test]
fn a_restored_service_continues_its_own_history() {
    let storage = sample();
    let scratch = Scratch::new(&settings().sizes).expect("an engine");
    let portable = export(&scratch, &storage, found(&look(&storage).expect("readable"), "ant"));
    let (directory, _) = Locked::open(Arc::new(storage.clone()), None)
        .and_then(|locked| locked.open_journal(&options()))
        .unwrap_or_else(|error| panic!("{error}"));
    portable.restore(&directory, new_identity("new")).expect("restored");
    directory.close().expect("sealed");
    drop(directory);
    assert_eq!((portable.snapshot.sequence().0, portable.resume_point.vm_number), (8, 1));
    block_on(async {
        let mut storage = storage;
        for restart in 0..6 {
            let rig = start(&storage).await;
            assert_eq!(rig.host.quarantined(&name("new")), None);
            let reply = rig.send("new", "x").await.expect("kept");
            assert_eq!((reply.sequence.0, reply.answer), (9 + restart, Answer::Ok((9 + restart).to_string().into())));
            // The other service counts separately.
            assert_eq!(rig.send_as("ant", "t7", "1").await.expect("kept").answer, Answer::Ok("8".into()));
            // After three crashes there are clean stops, whose snapshots replace the first one.
            if restart >= 3 {
                rig.host.stop().await.expect("sealed");
            }
            storage = storage.crash();
        }
    });
}

#[test]
fn a_snapshot_of_an_unfinished_restore_is_not_one_of_the_next_service() {
    let storage = sample();
    // As far as a restore of `new` gets before a crash.
    let newest = storage.list().expect("lists").into_iter().filter(|file| file.starts_with("ant.")).max();
    let content = snapshot_file::read(&storage, &newest.expect("one of ant")).expect("readable");
    let header = SnapshotHeader { service: name("new"), record: RecordNumber(1), ..content.header.clone() };
    let chunks = content.chunks(SECTION_STATE).into_iter().map(|at| &content.body[at]);
    snapshot_file::write(&storage, &snapshot_file::file_name(&name("new"), RecordNumber(1)), &header, chunks)
        .expect("written");

    block_on(async {
        let rig = start(&storage).await;
        create(&rig, "new", "count.wat").await;
        assert_eq!(rig.send("new", "x").await.expect("kept").answer, Answer::Ok("1".into()));
        // The next start has only what is on the disk.
        let storage = storage.crash();
        drop(rig);
        let rig = start(&storage).await;
        assert_eq!(rig.send("new", "x").await.expect("kept").answer, Answer::Ok("2".into()));
    });
}
