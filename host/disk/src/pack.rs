//! Packs: the files with the bytes of chunks that are new in a snapshot.
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 8 | `LBPACKS\n` |
//! | 8 | 4 | version: 1 |
//! | 12 | 8 | the number of the pack |
//! | 20 | 8 | the number of chunks, *n* |
//! | 28 | 8 | the bytes of all chunks |
//! | 36 | 32 | hash of the index |
//! | 68 | 8 | the first 8 bytes of the hash of the bytes 0 to 67 |
//! | 76 | 44 *n* | the index |
//! | 76 + 44 *n* | | the chunks, in the order of the index, without gaps |
//!
//! The file ends with the last chunk. The first 12 bytes have this shape in all versions. An entry of the index:
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 32 | hash of the chunk's bytes |
//! | 32 | 8 | offset of the chunk in the file |
//! | 40 | 4 | length of the chunk: from 1 to 16,384 |
//!
//! Integers are little-endian, and hashes are BLAKE3. A disk is read with the places in its table alone; the index is
//! for those who check a pack, or look into it.

use crate::chunk::{CHUNK_BYTES, Chunk};
use crate::place::Hash;
use crate::wire::{Reader, WireError};
use std::ops::Range;
use std::sync::Arc;

/// The version of packs that are written, and the newest that is read.
pub const PACK_VERSION: u32 = 1;

/// The bytes of a pack's header.
pub const PACK_HEADER_BYTES: usize = 76;

/// The bytes of an entry of a pack's index.
pub const PACK_ENTRY_BYTES: usize = 44;

const MAGIC: [u8; 8] = *b"LBPACKS\n";

/// The offset of the checksum in the header. It covers the bytes before it.
const CHECKSUM_OFFSET: usize = 68;

/// Why a pack cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// The bytes do not begin like a pack.
    #[error("it is not a pack")]
    NotAPack,
    /// A newer host wrote the pack.
    #[error("it has version {found}, this host reads up to {PACK_VERSION}; use a newer host")]
    FutureVersion {
        /// The version of the pack.
        found: u32,
    },
    /// The header does not match its checksum.
    #[error("its header is damaged: it does not match its checksum")]
    DamagedHeader,
    /// The index does not match its hash.
    #[error("its index is damaged: it does not match its hash")]
    DamagedIndex,
    /// The pack is cut off, or continues behind its end.
    #[error("its {part} has {bytes} bytes, {expected_bytes} are expected")]
    WrongLength {
        /// `header`, `index` or `chunks`.
        part: &'static str,
        /// The length of that part, in bytes.
        bytes: u64,
        /// The expected length, in bytes.
        expected_bytes: u64,
    },
    /// The header or the index cannot be decoded.
    #[error("it is malformed: {0}")]
    Malformed(#[from] WireError),
    /// A chunk does not follow the one before, or has a length that no chunk has.
    #[error(
        "chunk {chunk} of its index has offset {offset} and length {bytes} instead of offset {expected_offset} and \
         a length from 1 to {CHUNK_BYTES}"
    )]
    BadChunk {
        /// The index of the chunk.
        chunk: u64,
        /// Its offset.
        offset: u64,
        /// Its length, in bytes.
        bytes: u32,
        /// The end of the chunk before.
        expected_offset: u64,
    },
}

/// The header of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackHeader {
    number: u64,
    chunks: u64,
    bytes: u64,
    index_hash: Hash,
}

impl PackHeader {
    /// Decodes the first [`PACK_HEADER_BYTES`] of a pack.
    ///
    /// # Errors
    ///
    /// [`PackError`] if they are not a header of this version, or another number of bytes.
    pub fn read(bytes: &[u8]) -> Result<Self, PackError> {
        let mut reader = Reader::new(bytes);
        if bytes.len() < PACK_HEADER_BYTES || reader.array()? != MAGIC {
            return Err(match bytes.strip_prefix(&MAGIC) {
                Some(_) => wrong_length("header", bytes.len() as u64, PACK_HEADER_BYTES as u64),
                None => PackError::NotAPack,
            });
        }
        let version = reader.u32()?;
        if version > PACK_VERSION {
            return Err(PackError::FutureVersion { found: version });
        }
        let header =
            Self { number: reader.u64()?, chunks: reader.u64()?, bytes: reader.u64()?, index_hash: reader.array()? };
        if reader.array()? != checksum(bytes) || version != PACK_VERSION {
            return Err(PackError::DamagedHeader);
        }
        reader.end()?;
        let is_possible = header.chunks.checked_mul(PACK_ENTRY_BYTES as u64).is_some_and(|index| {
            index.checked_add(PACK_HEADER_BYTES as u64).and_then(|head| head.checked_add(header.bytes)).is_some()
        });
        if is_possible { Ok(header) } else { Err(PackError::DamagedHeader) }
    }

    /// Returns the number of the pack.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Returns the bytes of all chunks.
    #[must_use]
    pub fn chunk_bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns where the index is.
    #[must_use]
    pub fn index_range(&self) -> Range<u64> {
        let start = PACK_HEADER_BYTES as u64;
        start..start + self.chunks * PACK_ENTRY_BYTES as u64
    }

    /// Returns the length of the pack's file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.index_range().end + self.bytes
    }

    /// Decodes the index, which are the bytes in [`index_range`](Self::index_range).
    ///
    /// # Errors
    ///
    /// [`PackError`] if they are not the index that was written with this header.
    pub fn read_index(&self, bytes: &[u8]) -> Result<Vec<PackedChunk>, PackError> {
        let range = self.index_range();
        if bytes.len() as u64 != range.end - range.start {
            return Err(wrong_length("index", bytes.len() as u64, range.end - range.start));
        }
        if *blake3::hash(bytes).as_bytes() != self.index_hash {
            return Err(PackError::DamagedIndex);
        }
        let mut reader = Reader::new(bytes);
        let (mut expected_offset, mut chunks) = (range.end, Vec::new());
        while reader.left() > 0 {
            let (hash, offset, bytes) = (reader.array()?, reader.u64()?, reader.u32()?);
            if offset != expected_offset || bytes == 0 || bytes as usize > CHUNK_BYTES {
                return Err(PackError::BadChunk { chunk: chunks.len() as u64, offset, bytes, expected_offset });
            }
            expected_offset = offset.saturating_add(bytes.into());
            chunks.push(PackedChunk { hash, offset, bytes });
        }
        if expected_offset != self.file_bytes() {
            return Err(wrong_length("chunks", expected_offset - range.end, self.bytes));
        }
        Ok(chunks)
    }
}

/// A chunk in a pack's index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedChunk {
    /// The hash of its bytes.
    pub hash: Hash,
    offset: u64,
    bytes: u32,
}

impl PackedChunk {
    /// Returns where its bytes are in the pack's file.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.bytes.into())
    }

    /// Returns whether `bytes` are those that were stored.
    #[must_use]
    pub fn is_intact(&self, bytes: &[u8]) -> bool {
        bytes.len() == self.bytes as usize && *blake3::hash(bytes).as_bytes() == self.hash
    }
}

fn wrong_length(part: &'static str, bytes: u64, expected_bytes: u64) -> PackError {
    PackError::WrongLength { part, bytes, expected_bytes }
}

/// Returns the checksum of a header.
fn checksum(header: &[u8]) -> [u8; 8] {
    let mut checksum = [0; 8];
    checksum.copy_from_slice(&blake3::hash(&header[..CHECKSUM_OFFSET]).as_bytes()[..8]);
    checksum
}

/// Returns the offset of the first of `count` chunks.
pub(crate) fn first_offset(count: usize) -> u64 {
    (PACK_HEADER_BYTES + count * PACK_ENTRY_BYTES) as u64
}

/// Returns the header and the index of a pack.
pub(crate) fn head(number: u64, chunks: &[Arc<Chunk>]) -> Vec<u8> {
    let mut index = Vec::with_capacity(chunks.len() * PACK_ENTRY_BYTES);
    let start = first_offset(chunks.len());
    let mut offset = start;
    for chunk in chunks {
        let len = chunk.bytes().len() as u32;
        index.extend_from_slice(chunk.hash());
        index.extend_from_slice(&offset.to_le_bytes());
        index.extend_from_slice(&len.to_le_bytes());
        offset += u64::from(len);
    }
    let mut head = Vec::with_capacity(PACK_HEADER_BYTES + index.len());
    head.extend_from_slice(&MAGIC);
    head.extend_from_slice(&PACK_VERSION.to_le_bytes());
    head.extend_from_slice(&number.to_le_bytes());
    head.extend_from_slice(&(chunks.len() as u64).to_le_bytes());
    head.extend_from_slice(&(offset - start).to_le_bytes());
    head.extend_from_slice(blake3::hash(&index).as_bytes());
    let checksum = checksum(&head);
    head.extend_from_slice(&checksum);
    head.append(&mut index);
    head
}
