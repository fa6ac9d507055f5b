//! The chunks that files consist of. Copies of a file share them.

use crate::place::{Hash, Place};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The bytes of a full chunk.
pub const CHUNK_BYTES: usize = 16 * 1024;

/// The fuel of the first write to a chunk under a mark: the host may have to copy the chunk.
pub const FUEL_PER_FIRST_WRITE: u64 = 2_000;

static RESIDENT_BYTES: AtomicU64 = AtomicU64::new(0);

/// Returns the bytes that the chunks of all disks of the process have allocated. A shared chunk counts once.
#[must_use]
pub fn resident_bytes() -> u64 {
    RESIDENT_BYTES.load(Ordering::Relaxed)
}

/// Identifies the call of a guest that writes.
///
/// Two calls in the history of a disk must not have equal marks, and no call may have the default mark, which is for
/// chunks that were read from a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark(u64);

impl Mark {
    /// Returns the mark of `phase`, which is below 4, of the transaction `sequence`.
    #[must_use]
    pub fn new(sequence: u64, phase: u8) -> Self {
        Self(sequence << 2 | u64::from(phase & 3))
    }
}

/// At most [`CHUNK_BYTES`] of a file. Counted in [`resident_bytes`].
pub(crate) struct Chunk {
    bytes: Vec<u8>,
    written: Mark,
    /// The hash of the bytes, from the first snapshot after a write on.
    hash: OnceLock<Hash>,
    /// Where a pack stores the bytes, if one does.
    place: Mutex<Option<Place>>,
}

impl Chunk {
    pub(crate) fn new(capacity: usize, written: Mark) -> Self {
        let bytes = Vec::with_capacity(capacity);
        RESIDENT_BYTES.fetch_add(bytes.capacity() as u64, Ordering::Relaxed);
        Self { bytes, written, hash: OnceLock::new(), place: Mutex::default() }
    }

    /// Returns a chunk that was read: `bytes` have this hash.
    pub(crate) fn stored(mut bytes: Vec<u8>, hash: Hash, place: Option<Place>) -> Self {
        // The capacity counts as resident.
        bytes.shrink_to_fit();
        RESIDENT_BYTES.fetch_add(bytes.capacity() as u64, Ordering::Relaxed);
        Self { bytes, written: Mark::default(), hash: OnceLock::from(hash), place: Mutex::new(place) }
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    #[cfg(test)]
    pub(crate) fn written(&self) -> Mark {
        self.written
    }

    /// Returns the stored bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the hash of the stored bytes. Only the first call after a write computes it.
    pub(crate) fn hash(&self) -> &Hash {
        self.hash.get_or_init(|| blake3::hash(&self.bytes).into())
    }

    /// Returns where a pack stores the bytes, if one does.
    pub(crate) fn place(&self) -> Option<Place> {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a pack stores the bytes.
    pub(crate) fn set_place(&self, place: Place) {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
    }

    /// Notes that the bytes are about to change.
    fn change(&mut self, mark: Mark) {
        self.written = mark;
        self.hash = OnceLock::new();
        self.place = Mutex::default();
    }

    /// Returns the fuel of the first write under `mark`, or 0 for a later one.
    pub(crate) fn fuel_of_write(&self, mark: Mark) -> u64 {
        if self.written == mark { 0 } else { FUEL_PER_FIRST_WRITE }
    }

    /// Makes room for `len` bytes: if there is none, for `capacity` bytes.
    pub(crate) fn grow(&mut self, len: usize, capacity: usize) {
        if len > self.bytes.capacity() {
            self.reallocate(|bytes| bytes.reserve_exact(capacity - bytes.len()));
        }
    }

    /// Keeps the first `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize, mark: Mark) {
        self.change(mark);
        self.bytes.truncate(len);
        self.reallocate(Vec::shrink_to_fit);
    }

    fn reallocate(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        let before = self.bytes.capacity() as u64;
        change(&mut self.bytes);
        let after = self.bytes.capacity() as u64;
        RESIDENT_BYTES.fetch_add(after.saturating_sub(before), Ordering::Relaxed);
        RESIDENT_BYTES.fetch_sub(before.saturating_sub(after), Ordering::Relaxed);
    }

    /// Writes `part` at `from`. There is room for it.
    pub(crate) fn write(&mut self, from: usize, part: &[u8], mark: Mark) {
        self.change(mark);
        if self.bytes.len() < from {
            self.bytes.resize(from, 0);
        }
        let (inside, behind) = part.split_at(part.len().min(self.bytes.len() - from));
        self.bytes[from..from + inside.len()].copy_from_slice(inside);
        self.bytes.extend_from_slice(behind);
    }

    /// Returns a copy of the first `len` bytes.
    pub(crate) fn truncated(&self, len: usize, mark: Mark) -> Self {
        let kept = &self.bytes[..len.min(self.bytes.len())];
        let mut chunk = Self::new(kept.len(), mark);
        chunk.bytes.extend_from_slice(kept);
        chunk
    }

    /// Returns a copy with `part` at `from`. The capacity suffices for all of it.
    pub(crate) fn replaced(&self, from: usize, part: &[u8], capacity: usize, mark: Mark) -> Self {
        let mut chunk = Self::new(capacity, mark);
        chunk.bytes.extend_from_slice(&self.bytes[..from.min(self.bytes.len())]);
        chunk.bytes.resize(from, 0);
        chunk.bytes.extend_from_slice(part);
        chunk.bytes.extend_from_slice(self.bytes.get(from + part.len()..).unwrap_or_default());
        chunk
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        RESIDENT_BYTES.fetch_sub(self.bytes.capacity() as u64, Ordering::Relaxed);
    }
}
