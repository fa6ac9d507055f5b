//! Targets for snapshot files and the contents of their sections.

use super::{put, u32_at};
use crate::{Outcome, Repair};
use lifeboat_api::size::DEADLINE_MAX;
use lifeboat_api::text::is_deceptive;
use lifeboat_host::fuzzing;
use lifeboat_host::portable::Portable;
use lifeboat_host::snapshot_file::{self, SnapshotContent};
use lifeboat_journal::storage::{SimulatedStorage, Storage};
use std::time::Duration;

// These offsets follow `docs/format.md`, so that repairs do not depend on the code.
const PREFIX_BYTES: usize = 64;
const HASH_AT: usize = 24;
const CHECKSUM_AT: usize = 56;

/// Repairs the lengths, hash and checksum of the prefix, which are the same in all versions.
pub(super) fn repair(file: &mut Vec<u8>, repair: Repair) {
    if repair == Repair::Lengths {
        file.resize(file.len().max(PREFIX_BYTES), 0);
        put(file, 0, b"LBSNAPS\n");
        let rest = file.len() - PREFIX_BYTES;
        let header_bytes = u32_at(file, 12).min(rest);
        put(file, 12, &(header_bytes as u32).to_le_bytes());
        put(file, 16, &((rest - header_bytes) as u64).to_le_bytes());
    }
    if file.len() < PREFIX_BYTES {
        return;
    }
    let hash = *blake3::Hasher::new().update(&file[..HASH_AT]).update(&file[PREFIX_BYTES..]).finalize().as_bytes();
    put(file, HASH_AT, &hash);
    let checksum = *blake3::hash(&file[..CHECKSUM_AT]).as_bytes();
    put(file, CHECKSUM_AT, &checksum[..PREFIX_BYTES - CHECKSUM_AT]);
}

pub(super) fn snapshot(bytes: &[u8]) -> Outcome {
    const NAME: &str = "bank.00000000000000000007.snapshot";
    let storage = SimulatedStorage::new(1);
    let file = storage.create(NAME).expect("it is new");
    file.write_all_at(0, bytes).expect("there is room");
    drop(file);
    let (whole, checked) = (snapshot_file::read(&storage, NAME), snapshot_file::check(&storage, NAME));
    let content = match (whole, checked) {
        (Ok(content), Ok(checked)) => {
            assert_eq!(content.header, checked.header, "both ways of reading it return the same header");
            content
        }
        // Only a check reads the table and looks for the packs, as a read of the disk does.
        (Ok(content), Err(checked)) => match content.disk(&storage, NAME) {
            Err(error) => {
                assert_eq!(error.to_string(), checked.to_string(), "both ways of reading the disk fail alike");
                return Outcome::Refused(checked.to_string());
            }
            Ok(_) => panic!("its disk can be read, and its check fails: {checked}"),
        },
        (Err(whole), Err(checked)) => {
            assert_eq!(whole.to_string(), checked.to_string(), "both ways of reading it fail alike");
            return Outcome::Refused(whole.to_string());
        }
        (whole, checked) => panic!("one way of reading it fails: {:?}, {:?}", whole.err(), checked.err()),
    };
    snapshot_file::write(&storage, "again", &content.header, chunks(&content)).expect("what was read can be written");
    let file = storage.open("again").expect("it was written");
    let mut again = vec![0; usize::try_from(file.bytes().expect("it has a length")).expect("it is short")];
    file.read_exact_at(0, &mut again).expect("it is readable");
    assert_eq!(snapshot_file::read(&storage, "again").ok().as_ref(), Some(&content), "what was written is read");
    let state_bytes = content.header.state_bytes();
    let disk = content.disk(&storage, NAME);
    let disk = disk.unwrap_or_else(|error| panic!("its check passed, and its disk cannot be read: {error}"));
    assert_eq!(content.into_snapshot(disk).state_bytes(), state_bytes, "the state is as long as the header says");
    Outcome::Accepted(again)
}

/// Returns the chunks of all sections, in the order of the body.
fn chunks(content: &SnapshotContent) -> impl Iterator<Item = &[u8]> {
    let mut rest = &content.body[..];
    content.header.sections.iter().flat_map(|section| &section.chunk_bytes).map(move |bytes| {
        let (chunk, after) = rest.split_at(*bytes as usize);
        rest = after;
        chunk
    })
}

pub(super) fn portable(bytes: &[u8]) -> Outcome {
    // The files are in memory if possible, since each file that is written is synced.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let folder = folder.expect("there is a folder for temporary files");
    let (path, again) = (folder.path().join("one"), folder.path().join("two"));
    std::fs::write(&path, bytes).expect("there is room");
    let portable = match Portable::read(&path) {
        Ok(portable) => portable,
        // The path differs in each run.
        Err(error) => return Outcome::Refused(error.to_string().replace(&path.display().to_string(), "one")),
    };
    for size in &portable.settings.sizes {
        assert!((Duration::from_nanos(1)..=DEADLINE_MAX).contains(&size.deadline), "the deadline of {size} can be");
        assert!(!size.name.contains(is_deceptive), "the name of {size:?} can be shown");
    }
    portable.write(&again).expect("what was read can be written");
    let written = std::fs::read(&again).expect("it was written");
    let read = Portable::read(&again).expect("what was written is read");
    assert_eq!(of_parts(&read), of_parts(&portable), "what was written is read");
    Outcome::Accepted(written)
}

/// Formats all parts that are written. The epoch and the use of the network are not.
fn of_parts(portable: &Portable) -> String {
    let mut resume_point = portable.resume_point.clone();
    resume_point.epoch = Default::default();
    resume_point.network_used = Default::default();
    let Portable { service, snapshot, record, workload_hash, workload, settings, .. } = portable;
    format!("{service} {snapshot:?} {resume_point:?} {record} {workload_hash:?} {workload:?} {settings:?}")
}

pub(super) fn forgotten_times(bytes: &[u8]) -> Outcome {
    Outcome::of(fuzzing::forgotten_times(bytes).ok_or("it is nothing that this host knows"))
}
