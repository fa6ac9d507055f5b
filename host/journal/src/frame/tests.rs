use super::*;
use proptest::prelude::*;

fn key() -> FrameKey {
    FrameKey::new(DirectoryId([7; 16]))
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

/// Returns a frame of three services, and its header.
fn sample() -> (FrameHeader, Vec<u8>) {
    let mut builder = FrameBuilder::new(FRAME_BYTES_MAX);
    for (kind, service, number, record) in [
        (RunKind::Begin, "bank", 1, "one"),
        (RunKind::Continue, "shop", 41, "two"),
        (RunKind::Continue, "bank", 2, ""),
        (RunKind::Continue, "shop", 42, "three"),
    ] {
        builder.push(kind, &name(service), RecordNumber(number), record.as_bytes()).expect("room");
    }
    builder.push_empty(RunKind::End, &name("gone"), RecordNumber(9)).expect("room");
    let mut frame = Vec::new();
    let header = builder.finish(&key(), Position(8192), FrameHash([3; 32]), &mut frame);
    (header, frame)
}

#[test]
fn a_frame_comes_back_grouped_by_service() -> Result<(), BodyError> {
    let (header, frame) = sample();
    assert_eq!(decode_header(&key(), &frame), Ok(header.clone()));
    assert_eq!((header.frame_bytes, header.end()), (BLOCK_BYTES, Position(12288)));
    let runs = decode_body(&header, &frame)?;
    let seen: Vec<(String, u64, &[u8])> = header
        .runs
        .iter()
        .zip(&runs)
        .flat_map(|(run, records)| records.iter().map(|r| (run.service.to_string(), r.number.0, r.bytes)))
        .collect();
    let expected: [(String, u64, &[u8]); 4] = [
        ("bank".into(), 1, b"one"),
        ("bank".into(), 2, b""),
        ("shop".into(), 41, b"two"),
        ("shop".into(), 42, b"three"),
    ];
    assert_eq!(seen, expected);
    assert_eq!(record_at(&frame, runs[1][1].offset as usize), Some(&b"three"[..]));
    Ok(())
}

#[test]
fn every_flipped_bit_is_found_in_its_part_of_the_frame() {
    let (header, frame) = sample();
    for bit in 0..frame.len() * 8 {
        let mut flipped = frame.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match decode_header(&key(), &flipped) {
            Ok(read) => {
                assert!(bit / 8 >= header.header_bytes, "bit {bit} of the header was not missed");
                assert_eq!(read, header);
                assert_eq!(decode_body(&read, &flipped), Err(BodyError), "bit {bit}");
            }
            Err(_) => assert!(bit / 8 < header.header_bytes, "bit {bit} of the body leaves the header good"),
        }
    }
}

#[test]
fn truncated_frames_are_refused() {
    let (header, frame) = sample();
    for bytes in 0..frame.len() {
        match decode_header(&key(), &frame[..bytes]) {
            Ok(read) => {
                assert!(bytes >= header.header_bytes);
                assert_eq!(decode_body(&read, &frame[..bytes]), Err(BodyError));
            }
            Err(_) => assert!(bytes < header.header_bytes),
        }
    }
}

#[test]
fn a_frame_of_another_directory_is_not_recognised() {
    let (_, frame) = sample();
    let other = FrameKey::new(DirectoryId([8; 16]));
    assert_eq!(decode_header(&other, &frame), Err(HeaderError::Damaged));
}

#[test]
fn a_frame_of_a_newer_version_is_refused_with_its_version() {
    let (_, mut newer) = sample();
    newer[8] = 9;
    let header_bytes = u32::from_le_bytes([newer[12], newer[13], newer[14], newer[15]]) as usize;
    let hash = key().hash(&newer[..header_bytes - HASH_BYTES]);
    newer[header_bytes - HASH_BYTES..header_bytes].copy_from_slice(&hash.0);
    assert_eq!(decode_header(&key(), &newer), Err(HeaderError::FutureVersion { found: 9 }));
}

#[test]
fn a_full_frame_has_exactly_the_length_of_its_bound() {
    let mut builder = FrameBuilder::new(3 * BLOCK_BYTES);
    let record = vec![1; 500];
    let mut count = 0;
    while builder.push(RunKind::Continue, &name("a"), RecordNumber(1 + count), &record).is_ok() {
        count += 1;
    }
    assert_eq!((builder.frame_bytes(), count), (3 * BLOCK_BYTES, 24));
    let mut frame = Vec::new();
    let header = builder.finish(&key(), Position(0), FrameHash::default(), &mut frame);
    assert_eq!(decode_header(&key(), &frame).as_ref(), Ok(&header));
    let longest = vec![1; builder.record_bytes_max()];
    let longest_name = name(&"n".repeat(NAME_BYTES_MAX));
    assert!(builder.push(RunKind::Begin, &longest_name, RecordNumber(1), &longest).is_ok());
}

#[test]
fn a_frame_with_the_most_runs_has_the_longest_header() {
    let mut builder = FrameBuilder::new(FRAME_BYTES_MAX);
    let full = (0..).find(|index| {
        let service = name(&format!("{index:064}"));
        builder.push_empty(RunKind::Continue, &service, RecordNumber(1)).is_err()
    });
    assert_eq!(full, Some(RUNS_PER_FRAME_MAX));
    let mut frame = Vec::new();
    let header = builder.finish(&key(), Position(0), FrameHash::default(), &mut frame);
    assert_eq!(header.header_bytes, HEADER_BYTES_MAX);
    assert_eq!(decode_header(&key(), &frame), Ok(header));
}

#[test]
fn a_frame_behind_the_last_position_is_refused() {
    let mut builder = FrameBuilder::new(FRAME_BYTES_MAX);
    let mut frame_at = |position| {
        builder.push_empty(RunKind::Continue, &name("bank"), RecordNumber(1)).expect("room");
        let mut frame = Vec::new();
        builder.finish(&key(), position, FrameHash::default(), &mut frame);
        decode_header(&key(), &frame).map(|header| header.end())
    };
    assert_eq!(frame_at(POSITION_MAX), Ok(Position(POSITION_MAX.0 + BLOCK_BYTES as u64)));
    assert_eq!(frame_at(Position(POSITION_MAX.0 + 1)), Err(HeaderError::Damaged));
    assert_eq!(frame_at(Position(u64::MAX)), Err(HeaderError::Damaged));
}

proptest! {
    #[test]
    fn random_bytes_are_never_a_frame(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(decode_header(&key(), &bytes).is_err());
        let magic = bytes.len().min(MAGIC.len());
        bytes[..magic].copy_from_slice(&MAGIC[..magic]);
        prop_assert!(decode_header(&key(), &bytes).is_err());
        // Invalid fields are refused even with a valid hash.
        if bytes.len() > FIXED_BYTES + HASH_BYTES {
            let header_bytes = bytes.len();
            bytes[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
            bytes[10..12].copy_from_slice(&[0; 2]);
            bytes[12..16].copy_from_slice(&to_u32(header_bytes).to_le_bytes());
            let hash = key().hash(&bytes[..header_bytes - HASH_BYTES]);
            bytes[header_bytes - HASH_BYTES..].copy_from_slice(&hash.0);
            prop_assert!(decode_header(&key(), &bytes).is_err());
        }
    }
}
