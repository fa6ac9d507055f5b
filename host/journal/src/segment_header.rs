//! The name and the header of a segment's file. There are two copies, each in a block of its own, so that no single damage hides a
//! whole segment. They are written and synced before the file gets its name, and never again.

use crate::frame::{BLOCK_BYTES, DirectoryId, FORMAT_VERSION, FrameHash, POSITION_MAX, Position};
use thiserror::Error;

/// The offset of the first frame in a segment, in bytes.
pub const SEGMENT_HEADER_BYTES: usize = 2 * BLOCK_BYTES;

/// Returns the name of a segment's file.
pub(crate) fn segment_name(number: u64) -> String {
    format!("{number:010}.segment")
}

const MAGIC: [u8; 8] = *b"LBSEGMT\n";

/// The hashed bytes of a copy; the hash follows.
const HASHED_BYTES: usize = BLOCK_BYTES - 32;

/// Set if the rest of the file was zero when it became this segment.
const FLAG_ZEROED: u16 = 1;

/// The contents of a segment file's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The data directory of the journal.
    pub directory: DirectoryId,
    /// The number of the segment: 1 for the first segment of a journal.
    pub number: u64,
    /// The position of its first frame.
    pub first: Position,
    /// The hash of the frame before that.
    pub previous: FrameHash,
    /// Whether the rest of the file was zero when it became this segment. Otherwise it still contains older frames,
    /// which can be recognised by their positions.
    pub is_zeroed: bool,
}

/// The reason why bytes are not the header of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SegmentHeaderError {
    /// Both copies are damaged.
    #[error("both copies of the segment's header are damaged")]
    Damaged,
    /// A newer host wrote them.
    #[error("the segment has format version {found}, this host reads up to {FORMAT_VERSION}")]
    FutureVersion {
        /// The version of their format.
        found: u16,
    },
}

impl SegmentHeader {
    /// Returns both copies.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut block = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        block.extend_from_slice(&MAGIC);
        block.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        block.extend_from_slice(&if self.is_zeroed { FLAG_ZEROED } else { 0 }.to_le_bytes());
        block.extend_from_slice(&[0; 4]);
        block.extend_from_slice(&self.directory.0);
        block.extend_from_slice(&self.number.to_le_bytes());
        block.extend_from_slice(&self.first.0.to_le_bytes());
        block.extend_from_slice(&self.previous.0);
        block.resize(HASHED_BYTES, 0);
        let hash = blake3::hash(&block);
        block.extend_from_slice(hash.as_bytes());
        block.extend_from_within(..);
        block
    }

    /// Reads a header from the first [`SEGMENT_HEADER_BYTES`] of a segment, and returns it with whether both copies are
    /// intact.
    ///
    /// # Errors
    /// [`SegmentHeaderError`] if neither copy is intact.
    pub fn decode(bytes: &[u8]) -> Result<(Self, bool), SegmentHeaderError> {
        let first = decode_copy(bytes.get(..BLOCK_BYTES).unwrap_or_default());
        let second = decode_copy(bytes.get(BLOCK_BYTES..SEGMENT_HEADER_BYTES).unwrap_or_default());
        match (first, second) {
            (Ok(header), second) => Ok((header, second == Ok(header))),
            (Err(SegmentHeaderError::Damaged), Ok(header)) => Ok((header, false)),
            (Err(SegmentHeaderError::Damaged), Err(error)) | (Err(error), _) => Err(error),
        }
    }
}

fn decode_copy(block: &[u8]) -> Result<SegmentHeader, SegmentHeaderError> {
    let damaged = SegmentHeaderError::Damaged;
    if block.len() != BLOCK_BYTES || !block.starts_with(&MAGIC) {
        return Err(damaged);
    }
    let (hashed, hash) = block.split_at(HASHED_BYTES);
    if blake3::hash(hashed).as_bytes() != hash {
        return Err(damaged);
    }
    let version = u16::from_le_bytes(array(block, 8));
    if version > FORMAT_VERSION {
        return Err(SegmentHeaderError::FutureVersion { found: version });
    }
    let flags = u16::from_le_bytes(array(block, 10));
    let header = SegmentHeader {
        directory: DirectoryId(array(block, 16)),
        number: u64::from_le_bytes(array(block, 32)),
        first: Position(u64::from_le_bytes(array(block, 40))),
        previous: FrameHash(array(block, 48)),
        is_zeroed: flags & FLAG_ZEROED != 0,
    };
    // Reserved bytes are zero in this version.
    let is_canonical = header.encode()[..BLOCK_BYTES] == *block;
    if is_canonical && header.first <= POSITION_MAX { Ok(header) } else { Err(damaged) }
}

fn array<const N: usize>(block: &[u8], offset: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&block[offset..offset + N]);
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> SegmentHeader {
        SegmentHeader {
            directory: DirectoryId([1; 16]),
            number: 2,
            first: Position(3 * 4096),
            previous: FrameHash([4; 32]),
            is_zeroed: true,
        }
    }

    #[test]
    fn a_segment_header_survives_damage_to_one_copy() {
        let bytes = sample().encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok((sample(), true)));
        for index in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[index] ^= 1;
            assert_eq!(SegmentHeader::decode(&flipped), Ok((sample(), false)), "byte {index}");
            flipped[(index + BLOCK_BYTES) % SEGMENT_HEADER_BYTES] ^= 1;
            assert_eq!(SegmentHeader::decode(&flipped), Err(SegmentHeaderError::Damaged), "byte {index}");
        }
        assert_eq!(SegmentHeader::decode(&bytes[..BLOCK_BYTES]), Ok((sample(), false)));
        assert_eq!(SegmentHeader::decode(&bytes[..100]), Err(SegmentHeaderError::Damaged));
    }

    #[test]
    fn a_segment_behind_the_last_position_is_damaged() {
        let at = |first| {
            SegmentHeader::decode(&SegmentHeader { first, ..sample() }.encode()).map(|(header, _)| header.first)
        };
        assert_eq!(at(POSITION_MAX), Ok(POSITION_MAX));
        assert_eq!(at(Position(POSITION_MAX.0 + 1)), Err(SegmentHeaderError::Damaged));
        assert_eq!(at(Position(u64::MAX)), Err(SegmentHeaderError::Damaged));
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut bytes = sample().encode();
        bytes[8] = 7;
        let hash = blake3::hash(&bytes[..HASHED_BYTES]);
        bytes[HASHED_BYTES..BLOCK_BYTES].copy_from_slice(hash.as_bytes());
        let copy = bytes[..BLOCK_BYTES].to_vec();
        bytes[BLOCK_BYTES..].copy_from_slice(&copy);
        assert_eq!(SegmentHeader::decode(&bytes), Err(SegmentHeaderError::FutureVersion { found: 7 }));
    }
}
