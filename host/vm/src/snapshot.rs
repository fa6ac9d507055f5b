//! A service's state at one sequence number: what the guest exported.
//!
//! Exported state, not a memory image: it compacts, survives an upgrade of the workload, and holds what the guest's
//! author says is the state. It is a list of sections, so that what a VM has beside the guest's state can join it.

use bytes::Bytes;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::Sequence;

/// The longest chunk that a guest may write at once, in bytes.
pub const CHUNK_BYTES_MAX: usize = 1024 * 1024;

/// The most bytes of state that a guest may export, besides no more than its memory could hold.
pub const STATE_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// What a section of a snapshot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectionKind {
    /// What the guest exported.
    State,
}

impl SectionKind {
    /// All kinds, in the order in which a snapshot has them.
    pub const ALL: [Self; 1] = [Self::State];
}

/// A part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// What it holds.
    pub kind: SectionKind,
    /// Its bytes, cut as they were written; none of the chunks is longer than [`CHUNK_BYTES_MAX`].
    pub chunks: Vec<Bytes>,
}

impl Section {
    /// Returns how many bytes it has.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.len() as u64).sum()
    }
}

/// The state after one transaction.
#[derive(Debug, Clone)]
pub struct Snapshot {
    sequence: Sequence,
    timestamp: Timestamp,
    state_version: u32,
    /// At most one of each kind.
    sections: Vec<Section>,
    is_birth: bool,
}

impl Snapshot {
    /// The state before the first transaction. There is nothing to restore: a fresh instance is in it.
    #[must_use]
    pub fn empty() -> Self {
        Self { sequence: Sequence(0), timestamp: Timestamp(0), state_version: 0, sections: Vec::new(), is_birth: true }
    }

    /// The `sections` of a VM after transaction `sequence`, whose time was `timestamp`; at most one of each kind.
    #[must_use]
    pub fn new(sequence: Sequence, timestamp: Timestamp, state_version: u32, sections: Vec<Section>) -> Self {
        Self { sequence, timestamp, state_version, sections, is_birth: false }
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

    /// All sections, in the order of [`SectionKind::ALL`].
    #[must_use]
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// Returns the chunks of all sections, one section after the other.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        self.sections.iter().flat_map(|section| &section.chunks).map(|chunk| &chunk[..])
    }

    /// Returns the chunks of one section; none if there is no such section.
    #[must_use]
    pub fn chunks_of(&self, kind: SectionKind) -> &[Bytes] {
        self.sections.iter().find(|section| section.kind == kind).map_or(&[], |section| &section.chunks)
    }

    /// How many bytes of state were exported.
    #[must_use]
    pub fn state_bytes(&self) -> u64 {
        self.chunks_of(SectionKind::State).iter().map(|chunk| chunk.len() as u64).sum()
    }
}
