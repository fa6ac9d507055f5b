//! Tables: what a snapshot stores of a disk, beside the bytes of its chunks, which are in packs.
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 8 | `LBTABLE\n` |
//! | 8 | 4 | version: 1 |
//! | 12 | 8 | length of the sections |
//! | 20 | 32 | hash of the bytes 0 to 19 and of the sections |
//! | 52 | | sections, to the end |
//!
//! The first 12 bytes have this shape in all versions. A section:
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 2 | kind; a table has a kind at most once |
//! | 2 | 1 | 1 if a host that does not know the kind must refuse the table, 0 if it may leave the section out |
//! | 3 | 8 | length of the content |
//! | 11 | | content |
//!
//! These kinds are known, and all of them are required, in any order:
//!
//! | kind | content |
//! |---|---|
//! | 1 inodes | their number (varint, as all whole numbers without a size here); then each of them, by number |
//! | 2 end | the next inode number (8 bytes), at most [`NEXT_INO_MAX`]; the bytes that the quota counts (8 bytes) |
//! | 3 packs | their number; then by number: number of the pack (8 bytes), bytes of all of its chunks (8 bytes) |
//! | 4 places | for each distinct chunk, in the order in which the inodes first name them: index of the pack in section 3; offset in the pack's file |
//!
//! An inode:
//!
//! | field | content |
//! |---|---|
//! | number | the difference to the inode before; for the first, the root, 1 |
//! | type | 1 byte: 0 file, 1 directory, 2 symbolic link |
//! | links | the number of entries that lead to it; for the root 1 |
//! | times | accessed, modified, changed: 8 bytes each, nanoseconds since 1970 |
//! | of a file | its length; the number of its chunks; of each chunk the number of missing chunks before it, the number of bytes that it is shorter than 16,384, and the hash of its bytes (32 bytes) |
//! | of a directory | the number of entries; then by name: length of the name, name, inode number |
//! | of a link | length of the target, target |
//!
//! A varint is LEB128, in the fewest bytes. Other integers are little-endian, and hashes are BLAKE3. Missing chunks, and
//! the part of a chunk that is not stored, are zeros.
//!
//! The sections 1 and 2 are a function of the operations on a disk, and their hash is the disk's digest. The sections 3
//! and 4 depend on its former snapshots.

mod error;

pub use crate::wire::WireError;
pub use error::{InodeFault, PathFault, TableError};

use crate::chunk::CHUNK_BYTES;
use crate::inode::{Ino, Inode, Node, Type};
use crate::place::Hash;
use crate::wire::{Reader, put_varint};

/// The version of tables that are written, and the newest that is read.
pub const TABLE_VERSION: u32 = 1;

/// The largest next inode number: a table with a larger one is refused, and a disk that has arrived there creates no
/// more inodes. So every table that a disk exports is read again. A disk with a million new inodes in each second takes
/// 2,000 years to arrive there.
pub const NEXT_INO_MAX: u64 = 1 << 56;

/// The kinds of sections.
pub(crate) mod section {
    pub(crate) const INODES: u16 = 1;
    pub(crate) const END: u16 = 2;
    pub(crate) const PACKS: u16 = 3;
    pub(crate) const PLACES: u16 = 4;
    pub(crate) const KNOWN: [u16; 4] = [INODES, END, PACKS, PLACES];
}

const MAGIC: [u8; 8] = *b"LBTABLE\n";

/// The offset of the hash, which covers the bytes before it and those behind it.
const HASH_OFFSET: usize = 20;

/// The bytes before the sections.
pub(crate) const PREFIX_BYTES: usize = 52;

/// The fewest bytes of a chunk in an inode.
pub(crate) const CHUNK_RECORD_BYTES: u64 = 34;

/// The fewest bytes of an entry of a directory.
pub(crate) const ENTRY_RECORD_BYTES: u64 = 3;

/// The fewest bytes of an inode.
pub(crate) const INODE_RECORD_BYTES: u64 = 28;

/// Returns the number of a type.
pub(crate) fn type_number(kind: Type) -> u8 {
    match kind {
        Type::File => 0,
        Type::Directory => 1,
        Type::Link => 2,
    }
}

/// Returns the table with these required sections.
pub(crate) fn seal(sections: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (kind, content) in sections {
        put_section(&mut body, *kind, true, content);
    }
    seal_body(&body)
}

/// Appends a section.
pub(crate) fn put_section(body: &mut Vec<u8>, kind: u16, is_required: bool, content: &[u8]) {
    body.extend_from_slice(&kind.to_le_bytes());
    body.push(is_required.into());
    body.extend_from_slice(&(content.len() as u64).to_le_bytes());
    body.extend_from_slice(content);
}

/// Returns the table with these encoded sections.
pub(crate) fn seal_body(body: &[u8]) -> Vec<u8> {
    let mut table = Vec::with_capacity(PREFIX_BYTES + body.len());
    table.extend_from_slice(&MAGIC);
    table.extend_from_slice(&TABLE_VERSION.to_le_bytes());
    table.extend_from_slice(&(body.len() as u64).to_le_bytes());
    let hash = hash_of(&table, body);
    table.extend_from_slice(&hash);
    table.extend_from_slice(body);
    table
}

fn hash_of(prefix: &[u8], body: &[u8]) -> Hash {
    *blake3::Hasher::new().update(prefix).update(body).finalize().as_bytes()
}

/// The contents of the known sections.
pub(crate) struct Sections<'a>([Option<&'a [u8]>; section::KNOWN.len()]);

impl<'a> Sections<'a> {
    /// Checks the hash of a table, and finds its sections.
    pub(crate) fn open(table: &'a [u8]) -> Result<Self, TableError> {
        let mut reader = Reader::new(table);
        if !table.starts_with(&MAGIC) {
            return Err(TableError::NotATable);
        }
        let bytes = table.len() as u64;
        let cut_off = |_| TableError::WrongLength { bytes, expected_bytes: PREFIX_BYTES as u64 };
        reader.take(MAGIC.len() as u64).map_err(cut_off)?;
        let version = reader.u32().map_err(cut_off)?;
        if version > TABLE_VERSION {
            return Err(TableError::FutureVersion { found: version });
        }
        let body_bytes = reader.u64().map_err(cut_off)?;
        let hash: Hash = reader.array().map_err(cut_off)?;
        if reader.left() as u64 != body_bytes {
            let expected_bytes = body_bytes.saturating_add(PREFIX_BYTES as u64);
            return Err(TableError::WrongLength { bytes, expected_bytes });
        }
        if hash_of(&table[..HASH_OFFSET], &table[PREFIX_BYTES..]) != hash || version != TABLE_VERSION {
            return Err(TableError::Damaged);
        }
        let mut sections = Self(Default::default());
        let malformed = |error| TableError::Malformed { section: "list of sections", error };
        while reader.left() > 0 {
            let kind = reader.u16().map_err(malformed)?;
            let required = reader.u8().map_err(malformed)?;
            let len = reader.u64().map_err(malformed)?;
            let content = reader.take(len).map_err(malformed)?;
            if required > 1 {
                return Err(TableError::BadFlag { kind, value: required });
            }
            match section::KNOWN.iter().position(|known| *known == kind) {
                Some(index) if sections.0[index].is_some() => return Err(TableError::RepeatedSection { kind }),
                Some(index) => sections.0[index] = Some(content),
                None if required == 1 => return Err(TableError::UnknownSection { kind }),
                None => {}
            }
        }
        Ok(sections)
    }

    /// Returns a reader of a section's content.
    pub(crate) fn reader(&self, kind: u16) -> Result<Reader<'a>, TableError> {
        let index = section::KNOWN.iter().position(|known| *known == kind);
        let content = index.and_then(|index| self.0[index]).ok_or(TableError::MissingSection { kind })?;
        Ok(Reader::new(content))
    }
}

/// Encodes the inodes of a disk.
pub(crate) struct InodeWriter {
    bytes: Vec<u8>,
    last: u64,
}

impl InodeWriter {
    pub(crate) fn new(inodes: usize) -> Self {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, inodes as u64);
        Self { bytes, last: 0 }
    }

    pub(crate) fn put(&mut self, ino: Ino, inode: &Inode) {
        let bytes = &mut self.bytes;
        put_varint(bytes, ino.get() - self.last);
        self.last = ino.get();
        bytes.push(type_number(inode.kind()));
        put_varint(bytes, inode.links.into());
        for time_ns in [inode.times.accessed_ns, inode.times.modified_ns, inode.times.changed_ns] {
            bytes.extend_from_slice(&time_ns.to_le_bytes());
        }
        match &inode.node {
            Node::File(contents) => {
                put_varint(bytes, contents.len());
                put_varint(bytes, contents.chunks().len() as u64);
                let mut next = 0;
                for (index, chunk) in contents.chunks() {
                    put_varint(bytes, index - next);
                    put_varint(bytes, (CHUNK_BYTES - chunk.bytes().len()) as u64);
                    bytes.extend_from_slice(chunk.hash());
                    next = index + 1;
                }
            }
            Node::Directory { entries, .. } => {
                put_varint(bytes, entries.len() as u64);
                for (name, entry) in entries {
                    put_varint(bytes, name.len() as u64);
                    bytes.extend_from_slice(name.as_bytes());
                    put_varint(bytes, entry.ino.get());
                }
            }
            Node::Link(target) => {
                put_varint(bytes, target.len() as u64);
                bytes.extend_from_slice(target.as_bytes());
            }
        }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Encodes the section with the end.
pub(crate) fn end_section(next_ino: Ino, used_bytes: u64) -> [u8; 16] {
    let mut end = [0; 16];
    end[..8].copy_from_slice(&next_ino.get().to_le_bytes());
    end[8..].copy_from_slice(&used_bytes.to_le_bytes());
    end
}
