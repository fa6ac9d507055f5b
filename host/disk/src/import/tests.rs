//! Tables and packs that are damaged or hostile.

use super::*;
use crate::table::{InodeFault, PathFault, put_section, seal, seal_body, section};
use crate::wire::{WireError, put_varint};
use crate::*;
use std::collections::BTreeMap;

const CREATE: OpenHow =
    OpenHow { create: true, exclusive: false, truncate: false, directory: false, follow: false, write: true };

/// Returns a disk with an inode of each type, a hard link, a hole and two equal chunks.
fn filled() -> Disk {
    let mut disk = Disk::new(5);
    disk.enter(Call { now_ns: 1_000, mark: Mark::new(1, 0), limit_bytes: 1 << 30, is_read_only: false });
    disk.create_directory_at(Ino::ROOT, "d").expect("there is room");
    for path in ["d/a", "d/b"] {
        let (ino, _) = disk.open_at(Ino::ROOT, path, CREATE).expect("there is room");
        disk.write(ino, 3 * CHUNK_BYTES as u64, b"bytes").expect("there is room");
        disk.write(ino, 0, path.as_bytes()).expect("there is room");
        disk.close(ino);
    }
    disk.symlink_at("d/a", Ino::ROOT, "l").expect("there is room");
    disk.link_at(Ino::ROOT, "d/b", Ino::ROOT, "c").expect("there is room");
    disk
}

/// Returns the table of a disk, and its pack.
fn stored(disk: &Disk) -> (Vec<u8>, Vec<u8>) {
    let export = disk.export(7, &Packs::new());
    (export.table().to_vec(), export.pack().flatten().copied().collect())
}

fn read(table: &[u8], pack: &[u8]) -> std::result::Result<Disk, ImportError<String>> {
    let imported = Disk::import(table, Origin::OwnPacks, |place, len, _| {
        let start = usize::try_from(place.offset).map_err(|error| error.to_string())?;
        pack.get(start..).and_then(|rest| rest.get(..len)).map(<[u8]>::to_vec).ok_or("behind the end".to_owned())
    });
    imported.map(|imported| imported.disk)
}

/// Checks a whole pack, as one who has no table does.
fn check_pack(pack: &[u8]) -> std::result::Result<(), PackError> {
    let header = PackHeader::read(pack.get(..PACK_HEADER_BYTES).unwrap_or(pack))?;
    let part = |range: std::ops::Range<u64>| -> &[u8] {
        pack.get(range.start as usize..).and_then(|rest| rest.get(..(range.end - range.start) as usize)).unwrap_or(&[])
    };
    if pack.len() as u64 != header.file_bytes() {
        return Err(PackError::WrongLength { part: "file", bytes: 0, expected_bytes: 0 });
    }
    for chunk in header.read_index(part(header.index_range()))? {
        if !chunk.is_intact(part(chunk.range())) {
            return Err(PackError::DamagedIndex);
        }
    }
    Ok(())
}

#[test]
fn a_disk_is_read_as_it_was_written() {
    let disk = filled();
    let (table, pack) = stored(&disk);
    let copy = read(&table, &pack).expect("nothing is damaged");
    assert_eq!(copy.digest(), disk.digest());
    assert_eq!((copy.used_bytes(), copy.inodes()), (disk.used_bytes(), disk.inodes()));
    assert_eq!(stored(&copy), (table.clone(), pack.clone()));
    assert_eq!(check_table(&table), Ok(Packs::from([(7, 11)])));
    check_pack(&pack).expect("nothing is damaged");
}

#[test]
fn each_distinct_chunk_is_read_once_and_shared() {
    let (table, pack) = stored(&filled());
    let mut reads = BTreeMap::new();
    let imported = Disk::import(&table, Origin::OwnPacks, |place, len, hash| {
        *reads.entry(*hash).or_insert(0) += 1;
        Ok::<_, ()>(pack[place.offset as usize..][..len].to_vec())
    });
    imported.expect("nothing is damaged");
    // `d/a`, `d/b`, and `bytes` in both files.
    assert_eq!(reads.into_values().collect::<Vec<_>>(), [1, 1, 1]);
}

#[test]
fn a_flipped_bit_or_a_cut_is_an_error() {
    let (table, pack) = stored(&filled());
    for index in 0..table.len() {
        for bit in [1, 0x80] {
            let mut damaged = table.clone();
            damaged[index] ^= bit;
            assert!(read(&damaged, &pack).is_err(), "byte {index} of the table");
        }
        assert!(read(&table[..index], &pack).is_err(), "the first {index} bytes of the table");
    }
    let chunks_start = PACK_HEADER_BYTES + 3 * PACK_ENTRY_BYTES;
    for index in 0..pack.len() {
        for bit in [1, 0x80] {
            let mut damaged = pack.clone();
            damaged[index] ^= bit;
            assert!(check_pack(&damaged).is_err(), "byte {index} of the pack");
            // A disk is read without the head.
            assert_eq!(read(&table, &damaged).is_err(), index >= chunks_start, "byte {index} of the pack");
        }
        assert!(check_pack(&pack[..index]).is_err(), "the first {index} bytes of the pack");
        assert!(read(&table, &pack[..index]).is_err(), "the first {index} bytes of the pack");
    }
    assert!(check_pack(&[&pack[..], &[0]].concat()).is_err());
    assert!(read(&[&table[..], &[0]].concat(), &pack).is_err());
}

#[test]
fn a_damaged_chunk_is_named() {
    let (table, mut pack) = stored(&filled());
    let last = pack.len() - 1;
    pack[last] ^= 1;
    let error = read(&table, &pack).expect_err("it is damaged");
    let text = error.to_string();
    let expected = "the chunk at offset 216 of pack 7 is damaged: its 3 bytes do not match the hash of the 3 bytes that \
                    were stored";
    assert_eq!(text, expected);
}

/// Bytes under a valid hash, changed in every way: an error or a disk, but no panic.
#[test]
fn a_sealed_table_with_any_byte_changed_does_not_panic() {
    let (table, pack) = stored(&filled());
    let body = &table[table::PREFIX_BYTES..];
    let (mut read_well, mut refused) = (0, 0);
    for index in 0..body.len() {
        for value in [0, 1, 2, 0x7f, 0x80, 0xff, body[index].wrapping_add(1), body[index].wrapping_sub(1)] {
            let mut changed = body.to_vec();
            changed[index] = value;
            match read(&seal_body(&changed), &pack) {
                Ok(disk) => {
                    // It is a disk that works.
                    let (table, pack) = stored(&disk);
                    assert_eq!(read(&table, &pack).expect("it was just written").digest(), disk.digest());
                    read_well += 1;
                }
                Err(_) => refused += 1,
            }
        }
        assert!(read(&seal_body(&body[..index]), &pack).is_err());
    }
    assert!(read_well > 100 && refused > 1_000, "{read_well} read, {refused} refused");
}

/// An inode of a hostile table.
struct Raw {
    step: u64,
    kind: u8,
    links: u64,
    rest: Vec<u8>,
}

fn directory(step: u64, entries: &[(&[u8], u64)]) -> Raw {
    let mut rest = Vec::new();
    put_varint(&mut rest, entries.len() as u64);
    for (name, to) in entries {
        put_varint(&mut rest, name.len() as u64);
        rest.extend_from_slice(name);
        put_varint(&mut rest, *to);
    }
    Raw { step, kind: 1, links: 1, rest }
}

/// A file with chunks: gap, missing bytes, and a byte that the hash consists of.
fn file(len: u64, chunks: &[(u64, u64, u8)]) -> Raw {
    let mut rest = Vec::new();
    put_varint(&mut rest, len);
    put_varint(&mut rest, chunks.len() as u64);
    for (gap, missing, byte) in chunks {
        put_varint(&mut rest, *gap);
        put_varint(&mut rest, *missing);
        rest.extend_from_slice(&[*byte; 32]);
    }
    Raw { step: 1, kind: 0, links: 1, rest }
}

fn link(target: &[u8]) -> Raw {
    let mut rest = Vec::new();
    put_varint(&mut rest, target.len() as u64);
    rest.extend_from_slice(target);
    Raw { step: 1, kind: 2, links: 1, rest }
}

fn inodes(raw: &[Raw]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_varint(&mut bytes, raw.len() as u64);
    for inode in raw {
        put_varint(&mut bytes, inode.step);
        bytes.push(inode.kind);
        put_varint(&mut bytes, inode.links);
        bytes.extend_from_slice(&[0; 24]);
        bytes.extend_from_slice(&inode.rest);
    }
    bytes
}

/// Returns a table without packs, whose end is `end`.
fn table_of(raw: &[Raw], end: [u64; 2]) -> Vec<u8> {
    let end = end.map(u64::to_le_bytes).concat();
    seal(&[(section::INODES, &inodes(raw)), (section::END, &end), (section::PACKS, &[0]), (section::PLACES, &[])])
}

fn error_of(raw: &[Raw], end: [u64; 2]) -> TableError {
    check_table(&table_of(raw, end)).expect_err("it is hostile")
}

fn fault_of(raw: &[Raw]) -> (u64, InodeFault) {
    match error_of(raw, [100, 0]) {
        TableError::Inode { ino, fault } => (ino, fault),
        other => panic!("{other}"),
    }
}

#[test]
fn a_table_is_one_tree() {
    let root = |entries| directory(1, entries);
    assert_eq!(error_of(&[], [2, 0]), TableError::NoRoot { ino: 0 });
    assert_eq!(error_of(&[directory(2, &[])], [9, 0]), TableError::NoRoot { ino: 2 });
    assert_eq!(error_of(&[file(0, &[])], [9, 0]), TableError::NoRoot { ino: 1 });
    // A cycle beside the root, and one through it.
    let cycle = [root(&[]), directory(1, &[(b"a", 3)]), directory(1, &[(b"b", 2)])];
    assert_eq!(fault_of(&cycle), (2, InodeFault::Unreachable));
    let entries = |links, entries| InodeFault::Entries { links, entries };
    assert_eq!(fault_of(&[root(&[(b"a", 1)])]), (1, entries(1, 1)));
    assert_eq!(fault_of(&[root(&[(b"a", 2)]), directory(1, &[(b"a", 2)])]), (2, entries(1, 2)));
    // Two parents, and none.
    let parents = [root(&[(b"a", 2), (b"b", 3)]), directory(1, &[(b"a", 3)]), directory(1, &[])];
    assert_eq!(fault_of(&parents), (3, entries(1, 2)));
    assert_eq!(fault_of(&[root(&[]), directory(1, &[])]), (2, entries(1, 0)));
    assert_eq!(fault_of(&[root(&[]), file(0, &[])]), (2, entries(1, 0)));
    let missing = InodeFault::NoInode { name: "a".into(), to: 5 };
    assert_eq!(fault_of(&[root(&[(b"a", 5)])]), (1, missing));
}

#[test]
fn an_inode_has_possible_numbers() {
    let root = || directory(1, &[(b"a", 2)]);
    assert_eq!(
        fault_of(&[root(), Raw { links: 2, ..file(0, &[]) }]),
        (2, InodeFault::Entries { links: 2, entries: 1 })
    );
    for links in [0, 65_001, u64::MAX] {
        assert_eq!(fault_of(&[root(), Raw { links, ..file(0, &[]) }]), (2, InodeFault::Links { links }));
    }
    assert_eq!(fault_of(&[root(), Raw { links: 2, ..directory(1, &[]) }]), (2, InodeFault::Links { links: 2 }));
    assert_eq!(fault_of(&[root(), Raw { kind: 3, ..file(0, &[]) }]), (2, InodeFault::Type { value: 3 }));
    assert_eq!(fault_of(&[root(), Raw { step: 0, ..file(0, &[]) }]), (1, InodeFault::Order));
    assert_eq!(fault_of(&[root(), Raw { step: u64::MAX, ..file(0, &[]) }]), (1, InodeFault::Order));
    assert_eq!(fault_of(&[root(), Raw { step: 99, ..file(0, &[]) }]), (100, InodeFault::NotBelowNext { next: 100 }));
    let far = 1 << 63;
    assert_eq!(fault_of(&[root(), file(far, &[])]), (2, InodeFault::Length { bytes: far }));
    for next in [NEXT_INO_MAX + 1, far - 1, far, u64::MAX] {
        assert_eq!(error_of(&[directory(1, &[])], [next, 0]), TableError::NextIno { next });
    }
    let full = [root(), file(far - 1, &[])];
    let sum_bytes = (1 << 63) - 1 + 1_025;
    assert_eq!(error_of(&full, [9, 7]), TableError::UsedBytes { used_bytes: 7, sum_bytes });
    check_table(&table_of(&full, [9, sum_bytes as u64])).expect("the sum is right");
}

#[test]
fn a_disk_at_the_last_inode_number_exports_a_table_that_is_read() {
    let table = table_of(&[directory(1, &[])], [NEXT_INO_MAX - 1, 0]);
    let call = Call { now_ns: 1_000, mark: Mark::new(1, 0), limit_bytes: 1 << 30, is_read_only: false };
    let mut disk = read(&table, &[]).expect("there is a number left");
    disk.enter(call);
    disk.create_directory_at(Ino::ROOT, "last").expect("it gets the last number");
    for _ in 0..2 {
        assert_eq!(disk.create_directory_at(Ino::ROOT, "more"), Err(Error::NoInode));
        assert_eq!(disk.symlink_at("last", Ino::ROOT, "more"), Err(Error::NoInode));
        let (table, _) = stored(&disk);
        disk = read(&table, &[]).expect("it is at the bound");
        assert_eq!(stored(&disk).0, table);
        disk.enter(call);
    }
}

#[test]
fn chunks_are_within_their_file() {
    let fault = |len, chunks: &[(u64, u64, u8)]| fault_of(&[directory(1, &[(b"a", 2)]), file(len, chunks)]);
    let full = CHUNK_BYTES as u64;
    let length = |missing| (2, InodeFault::ChunkLength { chunk: 0, missing });
    assert_eq!(fault(full, &[(0, full, 1)]), length(full));
    assert_eq!(fault(full, &[(0, u64::MAX, 1)]), length(u64::MAX));
    let index = |chunk, bytes| (2, InodeFault::ChunkIndex { chunk, stored: CHUNK_BYTES, bytes });
    assert_eq!(fault(full - 1, &[(0, 0, 1)]), index(0, full - 1));
    assert_eq!(fault(2 * full, &[(0, 0, 1), (1, 0, 2)]), index(2, 2 * full));
    assert_eq!(fault(full, &[(u64::MAX, 0, 1)]), index(u64::MAX, full));
    assert_eq!(fault(2 * full, &[(0, 0, 1), (u64::MAX, 0, 1)]), index(u64::MAX, 2 * full));
    let hash = InodeFault::ChunkHash { chunk: 1, stored: CHUNK_BYTES - 1, other: CHUNK_BYTES };
    assert_eq!(fault(2 * full, &[(0, 0, 1), (0, 1, 1)]), (2, hash));
}

#[test]
fn names_and_targets_are_those_that_operations_give() {
    let long = [b'n'; 256];
    for (name, fault) in [
        (&b""[..], PathFault::Length),
        (&long, PathFault::Length),
        (b"\xff", PathFault::NotUtf8),
        (b".", PathFault::NotAllowed),
        (b"..", PathFault::NotAllowed),
        (b"a/b", PathFault::NotAllowed),
        (b"a\0", PathFault::NotAllowed),
    ] {
        let bytes = name.len() as u64;
        // The name of an entry that is empty would be followed by too few bytes.
        let found = fault_of(&[directory(1, &[(name, 2)]), file(0, &[])]);
        assert_eq!(found, (1, InodeFault::Name { index: 0, bytes, fault }), "{name:?}");
    }
    for names in [[b"b", b"a"], [b"a", b"a"]] {
        let found = fault_of(&[directory(1, &[(names[0], 2), (names[1], 2)]), file(0, &[])]);
        let text = |index: usize| String::from_utf8_lossy(names[index]).into_owned();
        assert_eq!(found, (1, InodeFault::EntryOrder { name: text(0), next: text(1) }));
    }
    let long = vec![b'n'; 4_096];
    for (target, fault) in [
        (&b""[..], PathFault::Length),
        (&long, PathFault::Length),
        (b"\xff", PathFault::NotUtf8),
        (b"/a", PathFault::NotAllowed),
        (b"a\0", PathFault::NotAllowed),
    ] {
        let bytes = target.len() as u64;
        let found = fault_of(&[directory(1, &[(b"a", 2)]), link(target)]);
        assert_eq!(found, (2, InodeFault::Target { bytes, fault }), "{target:?}");
    }
}

#[test]
fn a_count_that_the_bytes_have_no_room_for_is_refused() {
    let huge = |fields: &[u64]| {
        let mut rest = Vec::new();
        for field in fields {
            put_varint(&mut rest, *field);
        }
        rest
    };
    for count in [5, u64::from(u32::MAX), u64::MAX] {
        let root = directory(1, &[(b"a", 2)]);
        let cases = [
            vec![Raw { rest: huge(&[count]), ..directory(1, &[]) }],
            vec![root, Raw { rest: huge(&[0, count]), ..file(0, &[]) }],
            vec![directory(1, &[(b"a", 2)]), Raw { rest: huge(&[count]), ..link(b"") }],
        ];
        for raw in cases {
            let error = error_of(&raw, [9, 0]);
            let is_cut_off = matches!(error, TableError::Malformed { error: WireError::CutOff { .. }, .. });
            assert!(is_cut_off, "{error}");
        }
        let mut section = Vec::new();
        put_varint(&mut section, count);
        for (inodes, packs) in [(&section, &vec![0]), (&inodes(&[directory(1, &[])]), &section)] {
            let end = [2_u64, 0].map(u64::to_le_bytes).concat();
            let table = seal(&[
                (section::INODES, inodes),
                (section::END, &end),
                (section::PACKS, packs),
                (section::PLACES, &[]),
            ]);
            assert!(matches!(check_table(&table), Err(TableError::Malformed { .. })));
        }
    }
}

#[test]
fn places_are_in_packs() {
    let raw = [directory(1, &[(b"a", 2)]), file(5, &[(0, CHUNK_BYTES as u64 - 5, 1)])];
    let (inodes, end) = (inodes(&raw), [9_u64, 1_030].map(u64::to_le_bytes).concat());
    let error = |packs: &[(u64, u64)], places: &[u64]| {
        let (mut packs_section, mut places_section) = (Vec::new(), Vec::new());
        put_varint(&mut packs_section, packs.len() as u64);
        for (pack, bytes) in packs {
            packs_section.extend_from_slice(&[pack.to_le_bytes(), bytes.to_le_bytes()].concat());
        }
        for place in places {
            put_varint(&mut places_section, *place);
        }
        check_table(&seal(&[
            (section::INODES, &inodes),
            (section::END, &end),
            (section::PACKS, &packs_section),
            (section::PLACES, &places_section),
        ]))
    };
    assert_eq!(error(&[(3, 5)], &[0, 120]), Ok(Packs::from([(3, 5)])));
    let place = |index, packs, offset| Err(TableError::Place { chunk: 0, index, packs, offset });
    assert_eq!(error(&[(3, 5)], &[1, 120]), place(1, 1, 120));
    assert_eq!(error(&[], &[0, 120]), place(0, 0, 120));
    assert_eq!(error(&[(3, 5)], &[0, u64::MAX]), place(0, 1, u64::MAX));
    let bytes = |pack, bytes, live_bytes| Err(TableError::PackBytes { pack, bytes, live_bytes });
    assert_eq!(error(&[(3, 4)], &[0, 120]), bytes(3, 4, 5));
    assert_eq!(error(&[(3, 5), (4, 9)], &[0, 120]), bytes(4, 9, 0));
    assert_eq!(error(&[(3, 5), (3, 5)], &[0, 120]), Err(TableError::PackOrder { pack: 3, next: 3 }));
    assert!(matches!(error(&[(3, 5)], &[0]), Err(TableError::Malformed { section: "places", .. })));
    assert!(matches!(error(&[(3, 5)], &[0, 120, 0]), Err(TableError::Malformed { section: "places", .. })));
}

#[test]
fn a_newer_table_is_distinguished_from_damage() {
    let (table, _) = stored(&filled());
    let body = &table[table::PREFIX_BYTES..];
    let with = |kind, is_required| {
        let mut body = body.to_vec();
        put_section(&mut body, kind, is_required, b"new");
        check_table(&seal_body(&body)).map(drop)
    };
    assert_eq!(with(9, false), Ok(()));
    assert_eq!(with(9, true), Err(TableError::UnknownSection { kind: 9 }));
    assert_eq!(with(section::END, true), Err(TableError::RepeatedSection { kind: section::END }));
    assert_eq!(check_table(&seal_body(&[])), Err(TableError::MissingSection { kind: section::END }));
    let mut newer = table.clone();
    newer[8] = 2;
    assert_eq!(check_table(&newer), Err(TableError::FutureVersion { found: 2 }));
    assert_eq!(check_table(b"LBSNAPS\n"), Err(TableError::NotATable));
}

#[test]
fn a_table_may_have_ten_thousand_levels() {
    const LEVELS: u64 = 10_000;
    let chain = |last: Raw| -> Vec<Raw> { (2..=LEVELS).map(|to| directory(1, &[(b"d", to)])).chain([last]).collect() };
    // Little stack: recursion over the depth would overflow it.
    let thread = std::thread::Builder::new().stack_size(128 * 1024).spawn(move || {
        let end = [LEVELS + 1, (LEVELS - 1) * 1_025];
        let table = table_of(&chain(directory(1, &[])), end);
        let disk = read(&table, &[]).expect("it is deep, but a tree");
        assert_eq!(disk.inodes() as u64, LEVELS);
        assert_eq!(stored(&disk).0, table);
        // The last one leads back to the second.
        let error = error_of(&chain(directory(1, &[(b"d", 2)])), end);
        assert_eq!(error, fault_entries(2));
    });
    thread.expect("a thread").join().expect("no overflow");
}

fn fault_entries(ino: u64) -> TableError {
    TableError::Inode { ino, fault: InodeFault::Entries { links: 1, entries: 2 } }
}
