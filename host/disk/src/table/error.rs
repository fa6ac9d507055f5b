//! Why a table cannot be read.

use super::{NEXT_INO_MAX, TABLE_VERSION};
use crate::chunk::CHUNK_BYTES;
use crate::disk::HARD_LINKS_MAX;
use crate::path::{NAME_BYTES_MAX, PATH_BYTES_MAX};
use crate::wire::WireError;

/// Why a table cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The bytes do not begin like a table.
    #[error("it is not a table of a disk")]
    NotATable,
    /// A newer host wrote the table.
    #[error("it has version {found}, this host reads up to {TABLE_VERSION}; use a newer host")]
    FutureVersion {
        /// The version of the table.
        found: u32,
    },
    /// The table is cut off, or continues behind its end.
    #[error("it has {bytes} bytes, {expected_bytes} are expected")]
    WrongLength {
        /// The length of the table, in bytes.
        bytes: u64,
        /// The expected length, in bytes.
        expected_bytes: u64,
    },
    /// The contents are not those that were written.
    #[error("it is damaged: it does not match its hash")]
    Damaged,
    /// A newer host wrote the table: it has a section that this host must not skip.
    #[error("it has a section of kind {kind}, which this host does not know; use a newer host")]
    UnknownSection {
        /// The kind of the section.
        kind: u16,
    },
    /// Two sections have the same kind.
    #[error("it has two sections of kind {kind}")]
    RepeatedSection {
        /// The kind of the sections.
        kind: u16,
    },
    /// A section is missing.
    #[error("it has no section of kind {kind}")]
    MissingSection {
        /// The kind of the section.
        kind: u16,
    },
    /// The byte that tells whether a section is required is neither 0 nor 1.
    #[error("its section of kind {kind} has the flag {value}, which must be 0 or 1")]
    BadFlag {
        /// The kind of the section.
        kind: u16,
        /// The value of the byte.
        value: u8,
    },
    /// A section cannot be decoded.
    #[error("its {section}: {error}")]
    Malformed {
        /// Which section.
        section: &'static str,
        /// What is wrong.
        error: WireError,
    },
    /// The first inode is not a directory with number 1 and one link.
    #[error("inode {ino} comes first, which must be the root: a directory with number 1 and one link")]
    NoRoot {
        /// The first inode, or 0 if there is none.
        ino: u64,
    },
    /// An inode is wrong.
    #[error("inode {ino}: {fault}")]
    Inode {
        /// The number of the inode.
        ino: u64,
        /// What is wrong.
        fault: InodeFault,
    },
    /// The next inode number is too large.
    #[error("the next inode number is {next}, the limit is {NEXT_INO_MAX}")]
    NextIno {
        /// The number.
        next: u64,
    },
    /// The used bytes are not those of the inodes.
    #[error("the disk uses {used_bytes} bytes, its inodes have {sum_bytes}")]
    UsedBytes {
        /// The used bytes in the table.
        used_bytes: u64,
        /// The sum over all inodes and entries.
        sum_bytes: u128,
    },
    /// Packs are not in the order of their numbers, or one is there twice.
    #[error("pack {pack} does not come before the next, {next}")]
    PackOrder {
        /// The number of a pack.
        pack: u64,
        /// The number of the pack behind it.
        next: u64,
    },
    /// The place of a chunk names no pack, or ends behind all offsets.
    #[error("chunk {chunk} is at offset {offset} of pack {index} of {packs}")]
    Place {
        /// The index of the distinct chunk.
        chunk: usize,
        /// The index of the pack.
        index: u64,
        /// The number of packs.
        packs: usize,
        /// The offset in the pack.
        offset: u64,
    },
    /// The chunks in a pack have more bytes than the pack, or none.
    #[error("pack {pack} has {bytes} bytes of chunks, {live_bytes} of them are used")]
    PackBytes {
        /// The number of the pack.
        pack: u64,
        /// The bytes of all chunks in it.
        bytes: u64,
        /// The bytes of the chunks with a place in it.
        live_bytes: u64,
    },
}

/// What is wrong with an inode in a table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InodeFault {
    /// The number is that of the inode before, or more than a `u64`.
    #[error("its number does not follow that of the inode before")]
    Order,
    /// The number is not below the next one.
    #[error("its number must be below the next inode number, {next}")]
    NotBelowNext {
        /// The next inode number.
        next: u64,
    },
    /// The type is unknown.
    #[error("it has type {value}, the last type is 2")]
    Type {
        /// The number of the type.
        value: u8,
    },
    /// The number of links is impossible.
    #[error("it has {links} links, the limits are 1 and {HARD_LINKS_MAX}, and 1 for a directory")]
    Links {
        /// The number of links.
        links: u64,
    },
    /// The number of entries that lead to it differs from its links.
    #[error("it has {links} links, but {entries} entries lead to it")]
    Entries {
        /// The number of links.
        links: u32,
        /// The number of entries that lead to it.
        entries: u64,
    },
    /// An entry leads to no inode.
    #[error("its entry {name:?} leads to inode {to}, which does not exist")]
    NoInode {
        /// The name of the entry.
        name: String,
        /// Where it leads.
        to: u64,
    },
    /// No path leads from the root to the directory.
    #[error("no path leads from the root to it")]
    Unreachable,
    /// Entries are not in the order of their names, or a name is there twice.
    #[error("its entry {name:?} does not come before the next, {next:?}")]
    EntryOrder {
        /// The name of an entry.
        name: String,
        /// The name of the entry behind it.
        next: String,
    },
    /// An entry has a name that no operation gives.
    #[error("its entry {index} has a name of {bytes} bytes that {fault}, the limit is {NAME_BYTES_MAX} bytes")]
    Name {
        /// The index of the entry.
        index: usize,
        /// The length of the name.
        bytes: u64,
        /// What is wrong with it.
        fault: PathFault,
    },
    /// A symbolic link has a target that no operation gives.
    #[error("its target of {bytes} bytes {fault}, the limit is {PATH_BYTES_MAX} bytes")]
    Target {
        /// The length of the target.
        bytes: u64,
        /// What is wrong with it.
        fault: PathFault,
    },
    /// The file is too long.
    #[error("it has {bytes} bytes, the limit is {}", i64::MAX)]
    Length {
        /// The length of the file.
        bytes: u64,
    },
    /// A chunk has no bytes, or fewer.
    #[error("its chunk {chunk} is {missing} bytes shorter than {CHUNK_BYTES}")]
    ChunkLength {
        /// The index of the chunk.
        chunk: u64,
        /// The bytes that it is shorter than a full chunk.
        missing: u64,
    },
    /// A chunk ends behind the end of the file.
    #[error("its chunk {chunk} stores {stored} bytes, but the file has {bytes} bytes in all")]
    ChunkIndex {
        /// The index of the chunk.
        chunk: u64,
        /// The bytes that it stores.
        stored: usize,
        /// The length of the file.
        bytes: u64,
    },
    /// Two chunks have the same hash, but not the same length.
    #[error("its chunk {chunk} stores {stored} bytes, but one with the same hash {other}")]
    ChunkHash {
        /// The index of the chunk.
        chunk: u64,
        /// The bytes that it stores.
        stored: usize,
        /// The bytes that the other one stores.
        other: usize,
    },
}

/// What is wrong with a name or the target of a symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// It has more bytes than the limit, or none.
    #[error("is empty or too long")]
    Length,
    /// It is not UTF-8.
    #[error("is not UTF-8")]
    NotUtf8,
    /// A NUL in it; in a name also a slash, `.` and `..`; or a target that is absolute.
    #[error("is not allowed")]
    NotAllowed,
}
