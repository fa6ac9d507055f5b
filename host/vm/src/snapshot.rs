//! A service's state at one sequence number, as its guest exported it.
//!
//! A snapshot is exported state, not a memory image: it is compact, survives an upgrade of the workload, and holds what
//! the guest's author declares to be the state. It is a list of sections, so that other state of a VM can join the
//! guest's. The virtual disk of that time belongs to it: a copy, which shares with the disk all that neither changes.

use bytes::Bytes;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::Sequence;
use lifeboat_disk::Disk;

/// The longest chunk that a guest may write at once, in bytes.
pub const CHUNK_BYTES_MAX: usize = 1024 * 1024;

/// The most bytes of state that a guest may export. The size of its memory limits an export as well.
pub const STATE_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// The contents of a section of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectionKind {
    /// The state that the guest exported.
    State,
}

impl SectionKind {
    /// All kinds, in the order in which a snapshot holds them.
    pub const ALL: [Self; 1] = [Self::State];
}

/// A part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// The kind of its contents.
    pub kind: SectionKind,
    /// Its bytes, in the chunks that the guest wrote; no chunk is longer than [`CHUNK_BYTES_MAX`].
    pub chunks: Vec<Bytes>,
}

impl Section {
    /// Returns the length of the section, in bytes.
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
    disk: Disk,
    is_birth: bool,
}

impl Snapshot {
    /// Returns the state before the first transaction, with an empty disk. No guest state needs to be restored: a fresh
    /// instance has this state.
    #[must_use]
    pub fn empty() -> Self {
        Self::birth(Disk::new(0))
    }

    /// Returns the state before the first transaction of a guest that starts with `disk`.
    #[must_use]
    pub fn birth(disk: Disk) -> Self {
        Self {
            sequence: Sequence(0),
            timestamp: Timestamp(0),
            state_version: 0,
            sections: Vec::new(),
            disk,
            is_birth: true,
        }
    }

    /// Creates a snapshot of `sections`, at most one of each kind, and of `disk`, after transaction `sequence` with time
    /// `timestamp`.
    #[must_use]
    pub fn new(
        sequence: Sequence,
        timestamp: Timestamp,
        state_version: u32,
        sections: Vec<Section>,
        disk: Disk,
    ) -> Self {
        Self { sequence, timestamp, state_version, sections, disk, is_birth: false }
    }

    /// Returns the virtual disk. It is read-only: an instance gets a copy.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Returns whether this is the state before the first transaction: no guest exported anything, and `restore` is not
    /// called.
    #[must_use]
    pub fn is_birth(&self) -> bool {
        self.is_birth
    }

    /// Returns the sequence number of the last transaction that is part of the state.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// Returns the time of that transaction.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// Returns the guest's `state-version` at the time of the export.
    #[must_use]
    pub fn state_version(&self) -> u32 {
        self.state_version
    }

    /// Returns all sections, in the order of [`SectionKind::ALL`].
    #[must_use]
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// Returns the chunks of all sections, one section after the other.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        self.sections.iter().flat_map(|section| &section.chunks).map(|chunk| &chunk[..])
    }

    /// Returns the chunks of one section, or none if there is no such section.
    #[must_use]
    pub(crate) fn chunks_of(&self, kind: SectionKind) -> &[Bytes] {
        self.sections.iter().find(|section| section.kind == kind).map_or(&[], |section| &section.chunks)
    }

    /// Returns the number of bytes of state that the guest exported.
    #[must_use]
    pub fn state_bytes(&self) -> u64 {
        self.chunks_of(SectionKind::State).iter().map(|chunk| chunk.len() as u64).sum()
    }
}
