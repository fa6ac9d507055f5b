//! Targets for the table of a virtual disk, and for packs.

use super::put;
use crate::{Outcome, Repair};
use lifeboat_disk::{
    Call, Disk, Hash, ImportError, Ino, Mark, OpenHow, Origin, PACK_HEADER_BYTES, PackHeader, Packs, Place, check_table,
};

// These offsets follow `docs/format.md`, so that repairs do not depend on the code.
const TABLE_PREFIX_BYTES: usize = 52;
const TABLE_LENGTH_AT: usize = 12;
const TABLE_HASH_AT: usize = 20;
const PACK_COUNT_AT: usize = 20;
const PACK_HASH_AT: usize = 36;
const PACK_CHECKSUM_AT: usize = 68;
const ENTRY_BYTES: usize = 44;

/// The chunks that the files of all inputs consist of. A decoder asks for chunks by their hash.
const CHUNKS: [&[u8]; 4] = [b"one", b"two", &[7; 300], &[9; 16 * 1024]];

/// Makes a disk with files, directories and links, whose files consist of [`CHUNKS`].
fn disk(files: u64) -> Disk {
    let mut disk = Disk::new(0);
    let call = |sequence| Call {
        now_ns: sequence * 1_000,
        mark: Mark::new(sequence + 1, 1),
        limit_bytes: 1 << 30,
        is_read_only: false,
    };
    disk.enter(call(1));
    disk.create_directory_at(Ino::ROOT, "d").expect("there is room");
    disk.create_directory_at(Ino::ROOT, "d/e").expect("there is room");
    disk.symlink_at("d/e", Ino::ROOT, "link").expect("there is room");
    for file in 0..files {
        disk.enter(call(file + 2));
        let how = OpenHow { create: true, write: true, ..OpenHow::default() };
        let path = if file % 2 == 0 { format!("d/{file}") } else { format!("f{file}") };
        let (ino, _) = disk.open_at(Ino::ROOT, &path, how).expect("there is room");
        let chunk = CHUNKS[usize::try_from(file).unwrap_or(0) % CHUNKS.len()];
        // Some files have holes.
        disk.write(ino, (file % 3) * 16 * 1024, chunk).expect("there is room");
        disk.close_all();
    }
    if files > 1 {
        disk.link_at(Ino::ROOT, "d/0", Ino::ROOT, "again").expect("there is room");
    }
    disk
}

pub(super) fn tables() -> Vec<Vec<u8>> {
    let mut tables: Vec<Vec<u8>> =
        [0, 1, 2, 9].map(|files| disk(files).export(7, &Packs::new()).table().to_vec()).into();
    // A table with two packs.
    let mut disk = disk(3);
    let export = disk.export(7, &Packs::new());
    let packs = export.packs().clone();
    export.commit();
    disk.enter(Call { now_ns: 9, mark: Mark::new(99, 1), limit_bytes: 1 << 30, is_read_only: false });
    let how = OpenHow { create: true, write: true, ..OpenHow::default() };
    let (ino, _) = disk.open_at(Ino::ROOT, "new", how).expect("there is room");
    disk.write(ino, 0, CHUNKS[3]).expect("there is room");
    disk.close_all();
    tables.push(disk.export(8, &packs).table().to_vec());
    tables
}

/// Repairs the hash of a table, and its length.
pub(super) fn repair_table(table: &mut Vec<u8>, repair: Repair) {
    if repair == Repair::Lengths {
        table.resize(table.len().max(TABLE_PREFIX_BYTES), 0);
        put(table, 0, b"LBTABLE\n");
        let bytes = (table.len() - TABLE_PREFIX_BYTES) as u64;
        put(table, TABLE_LENGTH_AT, &bytes.to_le_bytes());
    }
    if table.len() >= TABLE_PREFIX_BYTES {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&table[..TABLE_HASH_AT]).update(&table[TABLE_PREFIX_BYTES..]);
        put(table, TABLE_HASH_AT, hasher.finalize().as_bytes());
    }
}

pub(super) fn table(bytes: &[u8]) -> Outcome {
    let checked = check_table(bytes);
    let (disk, packs) = match Disk::import(bytes, Origin::OwnPacks, chunk_of) {
        Ok(imported) => (imported.disk, imported.packs),
        Err(ImportError::Table(error)) => {
            assert_eq!(
                checked.err().map(|error| error.to_string()),
                Some(error.to_string()),
                "a check refuses it alike"
            );
            return Outcome::Refused(error.to_string());
        }
        Err(error) => {
            assert!(checked.is_ok(), "a table whose chunks are asked for is right");
            return Outcome::Refused(error.to_string());
        }
    };
    assert_eq!(checked.ok().as_ref(), Some(&packs), "a check finds the same packs");
    let unused = (0..).find(|number| !packs.contains_key(number)).expect("there are few packs");
    let export = disk.export(unused, &packs);
    assert_eq!(export.digest(), &disk.digest(), "an export is of the whole disk");
    // All packs are known, so nothing is new, although a pack may be mostly dead.
    assert_eq!(export.new_bytes(), 0, "every chunk has its place");
    let again = Disk::import(export.table(), Origin::OwnPacks, chunk_of).map(|imported| imported.disk);
    let again = again.unwrap_or_else(|error| panic!("what was read cannot be read again: {error}"));
    assert_eq!(again.digest(), disk.digest(), "what was written is read");
    assert_eq!(again.used_bytes(), disk.used_bytes(), "it uses the same bytes");
    Outcome::Accepted(export.table().to_vec())
}

fn chunk_of(_: Place, _: usize, hash: &Hash) -> Result<Vec<u8>, &'static str> {
    let chunk = CHUNKS.into_iter().find(|chunk| blake3::hash(chunk).as_bytes() == hash);
    chunk.map(<[u8]>::to_vec).ok_or("there is no such chunk")
}

/// Makes the heads of packs: header and index.
pub(super) fn packs() -> Vec<Vec<u8>> {
    [1, 2, 9].map(|files| disk(files).export(7, &Packs::new()).pack().next().expect("it is new").to_vec()).into()
}

/// Repairs the hashes of the header, and with the lengths also the offsets in the index.
pub(super) fn repair_pack(head: &mut Vec<u8>, repair: Repair) {
    if repair == Repair::Lengths {
        let count = head.len().saturating_sub(PACK_HEADER_BYTES) / ENTRY_BYTES;
        head.resize(PACK_HEADER_BYTES + count * ENTRY_BYTES, 0);
        put(head, 0, b"LBPACKS\n");
        let start = head.len() as u64;
        let mut offset = start;
        for entry in head[PACK_HEADER_BYTES..].chunks_exact_mut(ENTRY_BYTES) {
            let bytes = u32::from_le_bytes([entry[40], entry[41], entry[42], entry[43]]).clamp(1, 16 * 1024);
            entry[32..40].copy_from_slice(&offset.to_le_bytes());
            entry[40..44].copy_from_slice(&bytes.to_le_bytes());
            offset += u64::from(bytes);
        }
        put(head, PACK_COUNT_AT, &(count as u64).to_le_bytes());
        put(head, PACK_COUNT_AT + 8, &(offset - start).to_le_bytes());
    }
    if head.len() >= PACK_HEADER_BYTES {
        let hash = *blake3::hash(&head[PACK_HEADER_BYTES..]).as_bytes();
        put(head, PACK_HASH_AT, &hash);
        let checksum = *blake3::hash(&head[..PACK_CHECKSUM_AT]).as_bytes();
        put(head, PACK_CHECKSUM_AT, &checksum[..8]);
    }
}

pub(super) fn pack(bytes: &[u8]) -> Outcome {
    let head = &bytes[..bytes.len().min(PACK_HEADER_BYTES)];
    let header = match PackHeader::read(head) {
        Ok(header) => header,
        Err(error) => return Outcome::Refused(error.to_string()),
    };
    match header.read_index(&bytes[head.len()..]) {
        Ok(chunks) => {
            let sum: u64 = chunks.iter().map(|chunk| chunk.range().end - chunk.range().start).sum();
            assert_eq!(sum, header.chunk_bytes(), "the chunks have the bytes that the header says");
            assert_eq!(chunks.last().map_or(header.index_range().end, |chunk| chunk.range().end), header.file_bytes());
            assert!(chunks.iter().all(|chunk| !chunk.is_intact(b"")), "no chunk is empty");
            Outcome::Accepted(bytes.to_vec())
        }
        Err(error) => Outcome::Refused(error.to_string()),
    }
}
