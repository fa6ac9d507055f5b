//! The cost of relocating what idle services need, so that a segment can be truncated. The control is a file for each
//! service, written aside, synced and renamed: what a journal would do that *spills* these records instead.

use crate::disk::scratch;
use crate::pairs::{PAIRS_MIN, Pairs};
use crate::report::Row;
use lifeboat_api::name::Name;
use lifeboat_journal::commit::{self, Change, Committer, Entry};
use lifeboat_journal::frame::{DirectoryId, RecordNumber};
use lifeboat_journal::segments::{Log, Options, Origin};
use lifeboat_journal::storage::DiskStorage;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The number of idle services whose records are in the first segments.
const SERVICES: u32 = 1_000;

/// The number of records of each, and the bytes of each record.
const RECORDS: u64 = 16;
const RECORD_BYTES: usize = 200;

/// What another service writes, so that the relocation has its budget, in bytes.
const BESIDE_BYTES: usize = 32 * 1024 * 1024;

/// The bytes of its records.
const BESIDE_RECORD_BYTES: usize = 64 * 1024;

const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;

/// Measures both for a thousand services.
pub(crate) fn relocation() -> Vec<Row> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let pairs = Pairs::measure(PAIRS_MIN, SERVICES, || runtime.block_on(relocate()), spill);
    vec![Row {
        name: "room made behind an idle service",
        a: "its records are relocated",
        b: "a file: write, fsync, rename",
        pairs,
        target: Some(1.0),
    }]
}

/// Fills a journal, then reclaims the segments that only idle services need. Returns the time of the reclaim.
async fn relocate() -> Duration {
    let scratch = scratch();
    let storage = Arc::new(DiskStorage::open(scratch.path()).expect("a directory"));
    let options = Options { segment_bytes: SEGMENT_BYTES, ..Options::new(DirectoryId([7; 16])) };
    let (log, _) = Log::open(storage, options, Origin::Create, &mut |_| {}).expect("a journal");
    let (writer, committer) = commit::start(log, commit::QUEUE_BYTES_MAX).expect("a thread");
    let services: Vec<Name> = (0..SERVICES).map(|service| name(&format!("idle-{service}"))).collect();
    for number in 1..=RECORDS {
        for service in &services {
            submit(&committer, service, number, RECORD_BYTES);
        }
        committer.settle().await.expect("written");
    }
    let beside = name("beside");
    let records = (BESIDE_BYTES / BESIDE_RECORD_BYTES) as u64;
    for number in 1..=records {
        submit(&committer, &beside, number, BESIDE_RECORD_BYTES);
        if number % 16 == 0 {
            committer.settle().await.expect("written");
        }
    }
    committer.settle().await.expect("written");
    let start = Instant::now();
    let reclaimed = committer.reclaim(BTreeMap::from([(beside, RecordNumber(records))])).await.expect("reclaimed");
    let elapsed = start.elapsed();
    assert!(reclaimed.segments > 0 && reclaimed.pinned_by.is_empty(), "{reclaimed:?}");
    drop(committer);
    writer.stop().expect("stopped");
    elapsed
}

/// Writes the records of each service to a file of its own. Returns the time.
fn spill() -> Duration {
    let scratch = scratch();
    let bytes = vec![b'r'; usize::try_from(RECORDS).expect("few") * RECORD_BYTES];
    let start = Instant::now();
    for service in 0..SERVICES {
        let (aside, place) = ("spill.new", format!("idle-{service}.spill"));
        let mut file = File::create(scratch.path().join(aside)).expect("a file");
        file.write_all(&bytes).and_then(|()| file.sync_data()).expect("written");
        fs::rename(scratch.path().join(aside), scratch.path().join(place)).expect("renamed");
    }
    // One sync makes all names durable, before the segments go.
    File::open(scratch.path()).and_then(|directory| directory.sync_all()).expect("synced");
    start.elapsed()
}

fn submit(committer: &Committer, service: &Name, number: u64, bytes: usize) {
    let (number, record) = (RecordNumber(number), vec![b'r'; bytes]);
    let change =
        if number == RecordNumber(1) { Change::Begin { number, record } } else { Change::Continue { number, record } };
    drop(committer.submit(Entry { service: service.clone(), change }, None).expect("the journal takes it"));
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}
