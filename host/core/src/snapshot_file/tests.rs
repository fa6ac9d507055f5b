use super::*;
use lifeboat_journal::storage::{Operation, SimulatedStorage};
use proptest::prelude::*;

const NAME: &str = "bank.00000000000000000007.snapshot";

fn header(chunks: &[&[u8]]) -> SnapshotHeader {
    let length = |chunk: &&[u8]| u32::try_from(chunk.len()).expect("short");
    SnapshotHeader {
        service: Name::new("bank").expect("a name"),
        workload_hash: [3; 32],
        state_version: 2,
        sequence: Sequence(7),
        timestamp: Timestamp(1_000_000_007),
        record: RecordNumber(7),
        resume_point: ResumePoint {
            vm_number: 3,
            size: "small".into(),
            fuel_used: 123,
            network_used: NetworkAmount { calls: 17, bytes: 1_800 },
            epoch: Epoch([4; 16]),
            first_answer: RecordNumber(5),
            forgotten_id_time: Some(Timestamp(6)),
        },
        sections: vec![Section {
            kind: SECTION_STATE,
            is_optional: false,
            chunk_bytes: chunks.iter().map(length).collect(),
        }],
    }
}

const CHUNKS: [&[u8]; 3] = [b"first chunk", b"", b"third chunk"];

fn sample() -> SimulatedStorage {
    let storage = SimulatedStorage::new(1);
    write(&storage, NAME, &header(&CHUNKS), CHUNKS).expect("writes");
    storage
}

/// Changes the lengths or the version in the prefix, and corrects its checksum.
fn rewrite_prefix(storage: &SimulatedStorage, change: impl Fn(&mut [u8])) {
    let file = storage.open(NAME).expect("opens");
    let mut prefix = [0; PREFIX_BYTES];
    file.read_exact_at(0, &mut prefix).expect("reads");
    change(&mut prefix);
    let checksum = blake3::hash(&prefix[..CHECKSUM_OFFSET]);
    prefix[CHECKSUM_OFFSET..].copy_from_slice(&checksum.as_bytes()[..8]);
    file.write_all_at(0, &prefix).expect("writes");
}

#[test]
fn a_snapshot_comes_back_with_its_chunks() -> Result<(), SnapshotFileError> {
    let storage = sample();
    let content = read(&storage, NAME)?;
    assert_eq!((&content.header, &check(&storage, NAME)?.header), (&header(&CHUNKS), &header(&CHUNKS)));
    let chunks: Vec<&[u8]> = content.chunks(SECTION_STATE).into_iter().map(|at| &content.body[at]).collect();
    assert_eq!(chunks, CHUNKS);
    assert_eq!(file_name(&content.header.service, content.header.record), NAME);
    assert_eq!(storage.list().expect("lists"), [NAME]);
    Ok(())
}

#[test]
fn a_snapshot_whose_file_is_replaced_while_it_is_written_is_not_there() {
    let storage = SimulatedStorage::new(1);
    let held = storage.hold_writes();
    let written = std::thread::scope(|scope| {
        let writing = scope.spawn(|| write(&storage, NAME, &header(&CHUNKS), CHUNKS));
        let aside = format!("{NAME}.tmp");
        while storage.remove(&aside).is_err() {
            std::thread::yield_now();
        }
        storage.create(&aside).expect("created");
        drop(held);
        writing.join().expect("it does not panic")
    });
    let error = written.expect_err("the file at its place is another");
    assert!(matches!(error, SnapshotFileError::Storage { action: "check", .. }), "{error}");
}

#[test]
fn every_flipped_byte_is_found() {
    let storage = sample();
    let bytes = usize::try_from(storage.used_bytes()).expect("short");
    for index in 0..bytes {
        storage.flip(NAME, index, 0x20);
        let (whole, streamed) = (read(&storage, NAME), check(&storage, NAME));
        storage.flip(NAME, index, 0x20);
        let text = whole.expect_err("flipped").to_string();
        assert_eq!(text, streamed.expect_err("flipped").to_string());
        let expected = match index {
            0..8 => "'bank.00000000000000000007.snapshot' is not a snapshot",
            8..64 => "snapshot 'bank.00000000000000000007.snapshot' is damaged: its prefix does not match its hash",
            _ => "snapshot 'bank.00000000000000000007.snapshot' is damaged: its content does not match its hash",
        };
        assert_eq!(text, expected, "byte {index}");
    }
    assert!(read(&storage, NAME).is_ok());
}

#[test]
fn a_truncated_file_is_refused_with_its_length() {
    let whole = usize::try_from(sample().used_bytes()).expect("short");
    for bytes in 0..whole {
        let storage = sample();
        storage.truncate(NAME, bytes);
        match read(&storage, NAME) {
            Err(SnapshotFileError::NotASnapshot { .. }) => assert!(bytes < MAGIC.len()),
            // Nothing else contains the original length.
            Err(SnapshotFileError::CutOff { bytes: found, .. }) if bytes < PREFIX_BYTES => {
                assert_eq!(found, bytes as u64);
            }
            Err(SnapshotFileError::WrongLength { bytes: found, expected_bytes, .. }) => {
                assert_eq!((found, expected_bytes), (bytes as u64, whole as u64));
            }
            other => panic!("{bytes}: {other:?}"),
        }
    }
}

#[test]
fn an_extended_file_is_refused() {
    let storage = sample();
    let whole = storage.used_bytes();
    storage.open(NAME).and_then(|file| file.write_all_at(whole, b"x")).expect("writes");
    assert!(matches!(read(&storage, NAME), Err(SnapshotFileError::WrongLength { .. })));
}

#[test]
fn a_file_with_a_part_over_its_limit_is_refused() {
    let storage = sample();
    rewrite_prefix(&storage, |prefix| prefix[16..24].copy_from_slice(&u64::MAX.to_le_bytes()));
    assert!(matches!(read(&storage, NAME), Err(SnapshotFileError::TooLong { part: "body", .. })));
    rewrite_prefix(&storage, |prefix| prefix[12..16].copy_from_slice(&u32::MAX.to_le_bytes()));
    assert!(matches!(check(&storage, NAME), Err(SnapshotFileError::TooLong { part: "header", .. })));
}

#[test]
fn a_file_of_a_newer_version_is_refused_as_such() {
    let storage = sample();
    // A newer version may have another layout behind its version.
    rewrite_prefix(&storage, |prefix| {
        prefix[12..24].fill(0xff);
        prefix[8] = 3;
    });
    assert_eq!(
        check(&storage, NAME).expect_err("newer").to_string(),
        "snapshot 'bank.00000000000000000007.snapshot' has version 3, this host reads up to 2; use a newer host"
    );
}

/// Replaces the file by one of `version` with this `header` and correct hashes.
fn rewrite_header(storage: &SimulatedStorage, version: u32, header: &[u8]) {
    let content = read(storage, NAME).expect("readable");
    let length = u32::try_from(header.len()).expect("short");
    let mut prefix = prefix_without_hash(length, content.body.len() as u64);
    prefix[8..12].copy_from_slice(&version.to_le_bytes());
    let mut hasher = blake3::Hasher::new();
    hasher.update(&prefix).update(header).update(&content.body);
    prefix.extend_from_slice(hasher.finalize().as_bytes());
    prefix.extend_from_slice(&blake3::hash(&prefix).as_bytes()[..PREFIX_BYTES - CHECKSUM_OFFSET]);
    storage.remove(NAME).expect("removed");
    let file = storage.create(NAME).expect("created");
    file.write_all_at(0, &[prefix, header.to_vec(), content.body].concat()).expect("writes");
}

#[test]
fn a_snapshot_of_an_earlier_release_is_read() -> Result<(), SnapshotFileError> {
    let storage = sample();
    let mut earlier = header(&CHUNKS);
    rewrite_header(&storage, 1, &postcard::to_stdvec(&earlier).expect("encoded"));
    // The network was not metered then.
    earlier.resume_point.network_used = NetworkAmount::default();
    assert_eq!((&read(&storage, NAME)?.header, &check(&storage, NAME)?.header), (&earlier, &earlier));
    // A header of version 2 has the network if there were calls.
    let parts = |header: &SnapshotHeader| Parts::read(&header.to_bytes(), &header_part::KNOWN).expect("a header");
    let without = parts(&header(&CHUNKS)).without(header_part::NETWORK);
    assert_eq!(parts(&earlier), without);
    rewrite_header(&storage, 2, &without.append_to(Vec::new()));
    assert_eq!(read(&storage, NAME)?.header, earlier);
    Ok(())
}

#[test]
fn a_header_with_an_unknown_part_is_refused_if_the_part_is_required() -> Result<(), SnapshotFileError> {
    let storage = sample();
    let parts = || Parts::read(&header(&CHUNKS).to_bytes(), &header_part::KNOWN).expect("a header");
    rewrite_header(&storage, 2, &parts().with_optional(99, &"new").append_to(Vec::new()));
    assert_eq!(read(&storage, NAME)?.header, header(&CHUNKS));
    rewrite_header(&storage, 2, &parts().with(99, &"new").append_to(Vec::new()));
    let refused = read(&storage, NAME).expect_err("newer");
    assert!(matches!(refused, SnapshotFileError::UnknownPart { kind: 99, .. }) && !refused.is_damage(), "{refused}");
    Ok(())
}

#[test]
fn unknown_sections_are_refused_unless_they_may_be_left_out() -> Result<(), SnapshotFileError> {
    let storage = SimulatedStorage::new(1);
    let mut header = header(&CHUNKS);
    header.sections.push(Section { kind: 77, is_optional: true, chunk_bytes: vec![4] });
    write(&storage, "a", &header, CHUNKS.into_iter().chain([&b"disk"[..]]))?;
    let content = read(&storage, "a")?;
    assert_eq!(content.chunks(SECTION_STATE).len(), 3);
    assert_eq!(content.chunks(77).into_iter().map(|at| &content.body[at]).collect::<Vec<_>>(), [b"disk"]);
    header.sections[1].is_optional = false;
    write(&storage, "b", &header, CHUNKS.into_iter().chain([&b"disk"[..]]))?;
    assert!(matches!(read(&storage, "b"), Err(SnapshotFileError::UnknownSection { kind: 77, .. })));
    Ok(())
}

#[test]
fn a_snapshot_is_never_replaced() {
    let storage = sample();
    let again = write(&storage, NAME, &header(&CHUNKS), CHUNKS);
    assert!(matches!(again, Err(SnapshotFileError::Exists { .. })));
}

#[test]
fn chunks_that_are_not_those_of_their_sections_are_refused() {
    let storage = sample();
    for chunks in [&CHUNKS[..2], &[b"first chunk", b"x", b"third chunk"]] {
        let wrong = write(&storage, "other", &header(&CHUNKS), chunks.iter().copied());
        assert!(matches!(wrong, Err(SnapshotFileError::WrongSections { .. })), "{wrong:?}");
    }
    assert!(write(&storage, "other", &header(&CHUNKS), CHUNKS).is_ok(), "what was left aside does not hinder");
}

#[test]
fn after_a_crash_or_an_error_at_any_point_there_is_the_whole_snapshot_or_none() {
    let older = "bank.00000000000000000003.snapshot";
    for seed in 0..600 {
        let storage = SimulatedStorage::new(seed);
        write(&storage, older, &header(&CHUNKS), CHUNKS).expect("writes");
        let kinds = [Operation::Write, Operation::SyncData, Operation::Rename, Operation::SyncDirectory];
        if seed % 2 == 0 {
            storage.power_off(1 + seed % 15);
        } else {
            storage.fail(kinds[usize::try_from(seed / 2).expect("few") % 4], 1 + seed / 8 % 4);
        }
        let is_written = write(&storage, NAME, &header(&CHUNKS), CHUNKS).is_ok();
        let after = storage.crash();
        assert!(read(&after, older).is_ok(), "the older one stays");
        match read(&after, NAME) {
            Ok(content) => assert_eq!(content.header, header(&CHUNKS)),
            Err(SnapshotFileError::Storage { source, .. }) => {
                assert!(!is_written && source.kind() == io::ErrorKind::NotFound);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..200),
        is_disguised in any::<bool>(),
    ) {
        if is_disguised && bytes.len() >= PREFIX_BYTES {
            // An invalid header with a correct hash.
            let header_bytes = u32::try_from(bytes.len() - PREFIX_BYTES).expect("short");
            let mut prefix = prefix_without_hash(header_bytes, 0);
            let mut hasher = blake3::Hasher::new();
            hasher.update(&prefix).update(&bytes[PREFIX_BYTES..]);
            prefix.extend_from_slice(hasher.finalize().as_bytes());
            let checksum = blake3::hash(&prefix);
            prefix.extend_from_slice(&checksum.as_bytes()[..8]);
            bytes[..PREFIX_BYTES].copy_from_slice(&prefix);
        }
        let storage = SimulatedStorage::new(1);
        storage.create("a").and_then(|file| file.write_all_at(0, &bytes)).expect("writes");
        prop_assert!(read(&storage, "a").is_err());
        prop_assert!(check(&storage, "a").is_err());
    }
}
