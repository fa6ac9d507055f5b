//! A service's state at one sequence number: what the guest exported.
//!
//! Exported state, not a memory image: it compacts, survives an upgrade of the workload, and holds what the guest's
//! author says is the state. The virtual disk will join as a section of its own.

use bytes::Bytes;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::Sequence;

/// The longest chunk that a guest may write at once, in bytes.
pub const CHUNK_BYTES_MAX: usize = 1024 * 1024;

/// The most bytes of state that a guest may export, besides no more than its memory could hold.
pub const STATE_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// The state after one transaction.
#[derive(Debug, Clone)]
pub struct Snapshot {
    sequence: Sequence,
    timestamp: Timestamp,
    state_version: u32,
    chunks: Vec<Bytes>,
    is_birth: bool,
}

impl Snapshot {
    /// The state before the first transaction. There is nothing to restore: a fresh instance is in it.
    #[must_use]
    pub fn empty() -> Self {
        Self { sequence: Sequence(0), timestamp: Timestamp(0), state_version: 0, chunks: Vec::new(), is_birth: true }
    }

    /// What a guest exported in `chunks` after transaction `sequence`, whose time was `timestamp`.
    #[must_use]
    pub fn new(sequence: Sequence, timestamp: Timestamp, state_version: u32, chunks: Vec<Bytes>) -> Self {
        Self { sequence, timestamp, state_version, chunks, is_birth: false }
    }

    /// Whether this is the empty snapshot: nothing was exported, and nothing is to be restored.
    #[must_use]
    pub fn is_birth(&self) -> bool {
        self.is_birth
    }

    /// The last transaction that is part of the state.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// The time of that transaction.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// What the guest's `state-version` said when it exported this.
    #[must_use]
    pub fn state_version(&self) -> u32 {
        self.state_version
    }

    /// The exported bytes, as they were written.
    #[must_use]
    pub fn chunks(&self) -> &[Bytes] {
        &self.chunks
    }

    /// How many bytes were exported.
    #[must_use]
    pub fn state_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.len() as u64).sum()
    }
}
