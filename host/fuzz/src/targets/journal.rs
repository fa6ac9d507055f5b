//! Targets for the parts of the journal: frames, headers of segments, whole segments, records.

use super::{put, u32_at};
use crate::{INPUT_BYTES_MAX, Outcome, Repair};
use bytes::Bytes;
use lifeboat_api::id::Epoch;
use lifeboat_api::name::Name;
use lifeboat_api::transaction::TRANSACTION_ID_BYTES_MAX;
use lifeboat_host::journal::{Record, RelocatedAnswer, TransactionRecord, record};
use lifeboat_journal::frame::{
    BLOCK_BYTES, DirectoryId, FRAME_BYTES_MAX, FrameBuilder, FrameHash, FrameHeader, FrameKey, FrameRecord, Position,
    RecordNumber, RunKind, decode_body, decode_header, record_at,
};
use lifeboat_journal::recovery::{Found, Recovery, Seal, inspect};
use lifeboat_journal::segment_header::{SEGMENT_HEADER_BYTES, SegmentHeader};
use lifeboat_journal::segments::{Log, Options, Origin};
use lifeboat_journal::storage::{SimulatedStorage, Storage};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The directory id of all inputs.
const DIRECTORY: DirectoryId = DirectoryId([7; 16]);

/// The file name of a segment that is an input.
const SEGMENT_FILE: &str = "0000000001.segment";

/// The length of the following segment, in bytes.
const LATER_SEGMENT_BYTES: u64 = 256 * 1024;

// These lengths and offsets follow `docs/format.md`, so that repairs do not depend on the code.
const HASH_BYTES: usize = 32;
const FIXED_BYTES: usize = 104;
const RUN_BYTES: usize = 18;
const RUNS_MAX: usize = 1024;
const BODY_HASH_AT: usize = 64;

fn name(text: &str) -> Name {
    Name::new(text).expect("it is a name")
}

fn key() -> FrameKey {
    FrameKey::new(DIRECTORY)
}

/// A record for a frame: the kind of its run, its service, its number and its bytes.
type Addition<'a> = (RunKind, &'a str, u64, &'a [u8]);

/// Returns consecutive frames, from `position` on.
fn chain(mut position: Position, mut previous: FrameHash) -> Vec<Vec<u8>> {
    let mut builder = FrameBuilder::new(FRAME_BYTES_MAX);
    let mut frames = Vec::new();
    let groups: [&[Addition<'_>]; 4] = [
        &[
            (RunKind::Begin, "bank", 1, b"one"),
            (RunKind::Begin, "shop", 1, b"two"),
            (RunKind::Continue, "bank", 2, b""),
        ],
        &[(RunKind::Continue, "bank", 3, &[1; 200]), (RunKind::Continue, "shop", 2, b"three")],
        &[(RunKind::Relocated, "bank", 1, b"one"), (RunKind::Relocated, "bank", 2, b"")],
        &[(RunKind::Continue, "shop", 3, &[2; 5_000]), (RunKind::Begin, "gone", 1, b"four")],
    ];
    for (index, records) in groups.into_iter().enumerate() {
        if index == 2 {
            builder.push_empty(RunKind::Continue, &name("bank"), RecordNumber(4)).expect("there is room");
        }
        for (kind, service, number, record) in records {
            builder.push(*kind, &name(service), RecordNumber(*number), record).expect("there is room");
        }
        if index == 3 {
            builder.push_empty(RunKind::End, &name("gone"), RecordNumber(2)).expect("there is room");
        }
        let mut frame = Vec::new();
        let header = builder.finish(&key(), position, previous, &mut frame);
        (position, previous) = (header.end(), header.hash);
        frames.push(frame);
    }
    frames
}

pub(super) fn frames() -> Vec<Vec<u8>> {
    let mut frames = chain(Position(8192), FrameHash([3; 32]));
    let mut builder = FrameBuilder::new(FRAME_BYTES_MAX);
    for index in 0..200 {
        builder.push_empty(RunKind::Continue, &name(&format!("{index:064}")), RecordNumber(7)).expect("there is room");
    }
    let mut frame = Vec::new();
    builder.finish(&key(), Position(1 << 40), FrameHash::default(), &mut frame);
    frames.push(frame);
    frames
}

/// Repairs the fields of a frame that must agree with the rest of it.
pub(super) fn repair_frame(frame: &mut Vec<u8>, repair: Repair) {
    if repair == Repair::Lengths && frame.len() >= FIXED_BYTES {
        put(frame, 0, b"LBFRAME\n");
        put(frame, 8, &1_u16.to_le_bytes());
        put(frame, 10, &[0; 2]);
        put(frame, 96, &[0; 8]);
        let (mut end, mut body_bytes) = (FIXED_BYTES, 0);
        for _ in 0..u32_at(frame, 20).min(RUNS_MAX) {
            let Some(name_bytes) = frame.get(end + 1) else { break };
            body_bytes += u32_at(frame, end + 14);
            end += RUN_BYTES + usize::from(*name_bytes);
        }
        let header_bytes = end + HASH_BYTES;
        let frame_bytes = (header_bytes + body_bytes).next_multiple_of(BLOCK_BYTES);
        if frame_bytes <= INPUT_BYTES_MAX {
            frame.resize(frame_bytes, 0);
            put(frame, 12, &(header_bytes as u32).to_le_bytes());
            put(frame, 16, &(frame_bytes as u32).to_le_bytes());
        }
    }
    hash_frame(frame);
}

/// Repairs both hashes of a frame, and returns that of its header.
fn hash_frame(frame: &mut [u8]) -> Option<[u8; HASH_BYTES]> {
    let header_bytes = u32_at(frame, 12);
    if !(FIXED_BYTES + HASH_BYTES..=frame.len()).contains(&header_bytes) {
        return None;
    }
    let body = &frame[header_bytes..u32_at(frame, 16).clamp(header_bytes, frame.len())];
    let body_hash = *blake3::hash(body).as_bytes();
    put(frame, BODY_HASH_AT, &body_hash);
    let key = blake3::derive_key("lifeboat journal frame header 1", &DIRECTORY.0);
    let hash = *blake3::keyed_hash(&key, &frame[..header_bytes - HASH_BYTES]).as_bytes();
    put(frame, header_bytes - HASH_BYTES, &hash);
    Some(hash)
}

pub(super) fn frame(bytes: &[u8]) -> Outcome {
    let header = match decode_header(&key(), bytes) {
        Ok(header) => header,
        Err(error) => return Outcome::Refused(error.to_string()),
    };
    let runs = match decode_body(&header, bytes) {
        Ok(runs) => runs,
        Err(error) => return Outcome::Refused(error.to_string()),
    };
    for record in runs.iter().flatten() {
        assert_eq!(record_at(bytes, record.offset as usize), Some(record.bytes), "a record is where it is said to be");
    }
    assert_eq!(header.end().0 - header.position.0, header.frame_bytes as u64, "a frame ends after its bytes");
    let again = encode(&header, &runs);
    let again_header = decode_header(&key(), &again).expect("what was encoded is decoded");
    let again_runs = decode_body(&again_header, &again).expect("what was encoded is decoded");
    assert_eq!(
        of_services(&header, &runs),
        of_services(&again_header, &again_runs),
        "each service has the records that it had"
    );
    Outcome::Accepted(again)
}

fn encode(header: &FrameHeader, runs: &[Vec<FrameRecord<'_>>]) -> Vec<u8> {
    let mut builder = FrameBuilder::new(FRAME_BYTES_MAX);
    for (run, records) in header.runs.iter().zip(runs) {
        if records.is_empty() {
            builder.push_empty(run.kind, &run.service, run.first).expect("it had room");
        }
        for (index, record) in records.iter().enumerate() {
            let kind = if run.kind == RunKind::Begin && index > 0 { RunKind::Continue } else { run.kind };
            builder.push(kind, &run.service, record.number, record.bytes).expect("it had room");
        }
    }
    let mut frame = Vec::new();
    builder.finish(&key(), header.position, header.previous, &mut frame);
    frame
}

type Records<'a> = Vec<(RecordNumber, &'a [u8])>;

fn of_services<'a>(header: &'a FrameHeader, runs: &[Vec<FrameRecord<'a>>]) -> BTreeMap<&'a Name, Records<'a>> {
    let mut services = BTreeMap::<_, Records<'_>>::new();
    for (run, records) in header.runs.iter().zip(runs) {
        let records = records.iter().map(|record| (record.number, record.bytes));
        services.entry(&run.service).or_default().extend(records);
    }
    services
}

/// Returns the header of the first segment of a journal.
fn first_header() -> SegmentHeader {
    SegmentHeader {
        directory: DIRECTORY,
        number: 1,
        first: Position(0),
        previous: FrameHash::default(),
        is_zeroed: true,
    }
}

pub(super) fn segment_headers() -> Vec<Vec<u8>> {
    let header = first_header();
    let later = SegmentHeader {
        number: 300,
        first: Position(1 << 33),
        previous: FrameHash([9; 32]),
        is_zeroed: false,
        ..header
    };
    vec![header.encode(), later.encode()]
}

pub(super) fn repair_segment_header(segment: &mut Vec<u8>, repair: Repair) {
    if repair == Repair::Lengths {
        segment.resize(SEGMENT_HEADER_BYTES, 0);
    }
    hash_segment_header(segment);
}

fn hash_segment_header(segment: &mut [u8]) {
    for copy in segment.chunks_exact_mut(BLOCK_BYTES).take(2) {
        let hash = *blake3::hash(&copy[..BLOCK_BYTES - HASH_BYTES]).as_bytes();
        put(copy, BLOCK_BYTES - HASH_BYTES, &hash);
    }
}

pub(super) fn segment_header(bytes: &[u8]) -> Outcome {
    Outcome::of(SegmentHeader::decode(bytes).map(|(header, _)| {
        let again = header.encode();
        assert_eq!(SegmentHeader::decode(&again), Ok((header, true)), "what was encoded is decoded");
        again
    }))
}

pub(super) fn segments() -> Vec<Vec<u8>> {
    let header = first_header();
    let of_first_use = chain(header.first, header.previous).concat();
    let first = [header.encode(), of_first_use.clone(), vec![0; BLOCK_BYTES]].concat();
    let header = SegmentHeader { first: Position(1 << 33), previous: FrameHash([9; 32]), is_zeroed: false, ..header };
    // Frames of an earlier use of the file follow the valid ones.
    let recycled = [header.encode(), chain(header.first, header.previous).concat(), of_first_use].concat();
    vec![first, recycled]
}

/// Repairs a segment so that each frame chains to the previous one.
pub(super) fn repair_segment(segment: &mut Vec<u8>, repair: Repair) {
    segment.resize(segment.len().max(SEGMENT_HEADER_BYTES).next_multiple_of(BLOCK_BYTES), 0);
    if repair == Repair::Lengths {
        for copy in segment.chunks_exact_mut(BLOCK_BYTES).take(2) {
            put(copy, 0, b"LBSEGMT\n\x01\0");
            put(copy, 16, &DIRECTORY.0);
            put(copy, 32, &1_u64.to_le_bytes());
        }
    }
    hash_segment_header(segment);
    let (header, frames) = segment.split_at_mut(SEGMENT_HEADER_BYTES);
    let mut position = u64::from_le_bytes(header[40..48].try_into().unwrap_or_default());
    let mut previous = header[48..80].to_vec();
    let mut at = 0;
    while at < frames.len() {
        let frame = &mut frames[at..];
        if repair == Repair::Lengths {
            put(frame, 24, &position.to_le_bytes());
            put(frame, 32, &previous);
        }
        let frame_bytes = u32_at(frame, 16).max(1).next_multiple_of(BLOCK_BYTES);
        if let Some(hash) = hash_frame(frame) {
            previous = hash.to_vec();
        }
        at += frame_bytes;
        position = position.wrapping_add(frame_bytes as u64);
    }
}

/// Returns the recovery of a journal with this one segment, and the records of its intact services.
fn intact(storage: &SimulatedStorage, seal: Option<&Seal>) -> Result<(Recovery, BTreeMap<Name, Stored>), String> {
    let mut services = BTreeMap::<Name, Stored>::new();
    let recovery = inspect(storage, DIRECTORY, seal, &mut |found| match found {
        Found::Begins { service } => drop(services.insert(service.clone(), Stored::new())),
        Found::Record { service, number, bytes, .. } => {
            services.entry(service.clone()).or_default().push((number, bytes.to_vec()));
        }
        Found::Ends { service } => drop(services.remove(service)),
    });
    let recovery = recovery.map_err(|error| error.to_string())?;
    for records in services.values() {
        assert!(records.is_sorted_by(|one, next| one.0.next() == next.0), "records come without gaps");
    }
    Ok((recovery, services))
}

type Stored = Vec<(RecordNumber, Vec<u8>)>;

/// Reads the journal, appends to it, and reads it again. Checks that nothing of any service is lost.
pub(super) fn segment(bytes: &[u8]) -> Outcome {
    let storage = SimulatedStorage::new(1);
    let file = storage.create(SEGMENT_FILE).expect("it is new");
    file.write_all_at(0, bytes).expect("there is room");
    file.sync_data().and_then(|()| storage.sync_directory()).expect("it does not fail");
    let (before, services) = match intact(&storage, None) {
        Ok(found) => found,
        Err(error) => return Outcome::Refused(error),
    };
    let storage = Arc::new(storage);
    let options = Options { segment_bytes: LATER_SEGMENT_BYTES, spares_max: 0, ..Options::new(DIRECTORY) };
    let mut records = 0;
    let opened = Log::open(Arc::clone(&storage) as Arc<dyn Storage>, options, Origin::Existing(None), &mut |found| {
        records += u32::from(matches!(found, Found::Record { .. }));
    });
    let (mut log, recovery) = opened.expect("what can be read can be opened");
    assert_eq!(recovery, before, "a start finds what was found");
    let new = name("fuzz.new");
    log.stage(RunKind::Begin, &new, RecordNumber(1), b"new").expect("a new service begins in any journal");
    log.commit().expect("the storage does not fail");
    let seal = log.seal().expect("the storage does not fail");
    let (after, now) = intact(&storage, Some(&seal)).expect("what was written can be read");
    for (service, kept) in &before.services {
        if *service != new {
            let now_kept = after.services.get(service).expect("no service is lost");
            assert_eq!(now_kept, kept, "nothing changed of {service}");
            assert_eq!(now.get(service), services.get(service), "no record is lost of {service}");
        }
    }
    assert_eq!(now.get(&new), Some(&vec![(RecordNumber(1), b"new".to_vec())]), "the new record is there");
    Outcome::Accepted(bytes.to_vec())
}

pub(super) fn record(bytes: &[u8]) -> Outcome {
    let service = name("bank");
    let answer = lifeboat_host::fuzzing::answer(&service, bytes);
    Outcome::of(record::decode(&service, Epoch([5; 16]), bytes).map(|record| {
        let again = record::encode(&record);
        assert_eq!(record::bytes_in_frame(&record), again.len() as u64 + 4, "a record takes its bytes and its length");
        let read = record::decode(&service, Epoch([5; 16]), &again).expect("what was encoded is decoded");
        assert_eq!(shown(&read), shown(&record), "what was encoded is decoded");
        // Numbers in more bytes than necessary are decoded as well, but never written. The same is true of an id that
        // is too long.
        let is_written =
            |answer: &RelocatedAnswer| again == bytes && answer.transaction.id.len() <= TRANSACTION_ID_BYTES_MAX;
        if let Some(expected) = lifeboat_host::fuzzing::answer_in(&record).filter(is_written) {
            assert_eq!(answer, Some(expected), "the answer of a record can be read without its body");
        }
        again
    }))
}

/// Formats all parts of a record that are encoded. The body of a relocated answer is not.
fn shown(record: &Record) -> String {
    match record {
        Record::Relocated(RelocatedAnswer { transaction, bytes }) => {
            format!("{bytes} {:?}", TransactionRecord { body: Bytes::new(), ..(**transaction).clone() })
        }
        record => format!("{record:?}"),
    }
}
