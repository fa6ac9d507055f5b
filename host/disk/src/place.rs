//! Where the bytes of chunks are stored.

use std::collections::BTreeMap;

/// A BLAKE3 hash.
pub type Hash = [u8; 32];

/// The packs that store chunks: the number of each, with the bytes of all of its chunks.
pub type Packs = BTreeMap<u64, u64>;

/// Where the bytes of a chunk are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The number of the pack.
    pub pack: u64,
    /// The offset in the pack's file.
    pub offset: u64,
}
