//! The bytes of a file, in chunks that copies of the file share.
//!
//! A file of `len` bytes has a chunk for each [`CHUNK_BYTES`] that were written. A missing chunk, and the part of a
//! chunk behind its stored bytes, are zeros. No chunk stores bytes at or behind `len`.
//!
//! The fuel of each operation is a function of the operations on the file alone. A chunk that a copy shares is copied
//! by a write, and a chunk that no copy shares is not; but whether a copy still exists is not for a guest to observe.
//! So the first write to a chunk under a new [`Mark`] costs a copy in both cases.

use crate::chunk::{CHUNK_BYTES, Chunk, FUEL_PER_FIRST_WRITE, Mark};
use crate::tree::Tree;
use std::ops::Bound;
use std::sync::Arc;

/// The fuel of a chunk that a truncation or the end of a file releases.
pub const FUEL_PER_CHUNK_RELEASED: u64 = 20;

/// The bytes, read or written, that cost one fuel.
pub const BYTES_PER_FUEL: u64 = 8;

/// [`CHUNK_BYTES`] for arithmetic with offsets.
const CHUNK: u64 = CHUNK_BYTES as u64;

/// A file allocates at most its length and this part of it.
const SPARE_PART: u64 = 8;

/// The chunks of a file by their index.
pub(crate) type Chunks = Tree<u64, Arc<Chunk>>;

/// Chunks that no file has any more. A drop of many takes long: a caller may do it on another thread.
#[derive(Default)]
pub struct Released {
    large: Vec<Chunks>,
    chunks: usize,
}

impl Released {
    /// The number of chunks from which on they are kept for the caller. Dropping fewer takes microseconds.
    const LARGE_CHUNKS: usize = 64;

    /// Returns the most bytes that the drop frees. Copies of a file keep the chunks that they share.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.chunks as u64 * CHUNK
    }

    /// Adds chunks, or drops them if they are few. Returns the fuel.
    fn push(&mut self, chunks: Chunks) -> u64 {
        let count = chunks.len();
        if count >= Self::LARGE_CHUNKS {
            self.chunks += count;
            self.large.push(chunks);
        }
        FUEL_PER_CHUNK_RELEASED * count as u64
    }
}

impl std::fmt::Debug for Released {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Released").field("chunks", &self.chunks).finish_non_exhaustive()
    }
}

/// The bytes of a file. A copy costs one reference count.
#[derive(Clone, Default)]
pub(crate) struct Contents {
    len: u64,
    chunks: Chunks,
}

/// Returns the fuel of `count` bytes that are read or written.
pub(crate) fn fuel_of_bytes(count: u64) -> u64 {
    count.div_ceil(BYTES_PER_FUEL)
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents").field("len", &self.len).field("chunks", &self.chunks.len()).finish()
    }
}

impl Contents {
    /// Returns the length in bytes, with holes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Returns a file of `len` bytes, with these chunks, in the order of their indices.
    pub(crate) fn with_chunks(len: u64, chunks: impl Iterator<Item = (u64, Arc<Chunk>)>) -> Self {
        Self { len, chunks: chunks.collect() }
    }

    /// Returns the chunks with their indices, in order.
    pub(crate) fn chunks(&self) -> &Chunks {
        &self.chunks
    }

    /// Returns the bytes from `offset` on: `len` of them, or as many as there are.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let end = self.len.min(offset.saturating_add(len as u64));
        // A length that `len` bounds fits into a `usize`.
        let position = |at: u64| at.saturating_sub(offset) as usize;
        let mut bytes = Vec::with_capacity(position(end));
        for (index, chunk) in self.chunks.iter_from(Bound::Included(&(offset / CHUNK))) {
            let start = index * CHUNK;
            if start >= end {
                break;
            }
            // The end of the chunk before, and chunks between, may be holes.
            if bytes.len() < position(start) {
                bytes.resize(position(start), 0);
            }
            let from = offset.saturating_sub(start) as usize;
            let to = chunk.bytes().len().min((end - start).min(CHUNK) as usize);
            bytes.extend_from_slice(chunk.bytes().get(from..to).unwrap_or_default());
        }
        bytes.resize(position(end), 0);
        bytes
    }

    /// Writes `bytes` at `offset`, and lengthens the file if they end behind it. Returns the fuel.
    ///
    /// The caller has checked that `offset` and the number of bytes add up to at most [`i64::MAX`].
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8], mark: Mark) -> u64 {
        let mut fuel = fuel_of_bytes(bytes.len() as u64);
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let from = (at % CHUNK) as usize;
            let (part, later) = rest.split_at(rest.len().min(CHUNK_BYTES - from));
            fuel += self.write_chunk(at / CHUNK, from, part, mark);
            at += part.len() as u64;
            rest = later;
        }
        if !bytes.is_empty() {
            self.len = self.len.max(at);
        }
        fuel
    }

    /// Sets the length to `len`, at most [`i64::MAX`]. Chunks that are cut off go to `released`. Returns the fuel.
    pub(crate) fn set_len(&mut self, len: u64, mark: Mark, released: &mut Released) -> u64 {
        let was_longer = len < self.len;
        self.len = len;
        if !was_longer {
            return 0;
        }
        let mut fuel = released.push(self.chunks.split_off(&len.div_ceil(CHUNK)));
        let kept = (len % CHUNK) as usize;
        if kept > 0
            && let Some(chunk) = self.chunks.get_mut(&(len / CHUNK))
        {
            fuel += chunk.fuel_of_write(mark);
            match Arc::get_mut(chunk) {
                Some(chunk) => chunk.truncate(kept, mark),
                None => *chunk = Arc::new(chunk.truncated(kept, mark)),
            }
        }
        fuel
    }

    /// Ends the file: all chunks go to `released`. Returns the fuel.
    pub(crate) fn release(self, released: &mut Released) -> u64 {
        released.push(self.chunks)
    }

    /// Writes `part` into one chunk, which has room for it behind `from`. Returns the fuel of a first write, or 0.
    fn write_chunk(&mut self, index: u64, from: usize, part: &[u8], mark: Mark) -> u64 {
        let end = from + part.len();
        let Some(chunk) = self.chunks.get_mut(&index) else {
            let mut chunk = Chunk::new(capacity(index, end, index == 0), mark);
            chunk.write(from, part, mark);
            self.chunks.insert(index, Arc::new(chunk));
            return FUEL_PER_FIRST_WRITE;
        };
        let fuel = chunk.fuel_of_write(mark);
        let capacity = capacity(index, end.max(chunk.bytes().len()), end <= chunk.bytes().len());
        match Arc::get_mut(chunk) {
            Some(chunk) => {
                chunk.grow(end, capacity);
                chunk.write(from, part, mark);
            }
            // A guest that rewrites a file writes whole chunks: a copy of the bytes that it replaces would be wasted.
            None => *chunk = Arc::new(chunk.replaced(from, part, capacity, mark)),
        }
        fuel
    }
}

/// Returns the capacity of chunk `index` of which `len` bytes are stored.
///
/// A chunk that is about to grow gets room for an eighth of the file up to here. So appends copy each byte a bounded
/// number of times, and the chunks of a large file are allocated once.
fn capacity(index: u64, len: usize, is_exact: bool) -> usize {
    let spare = if is_exact { 0 } else { (index * CHUNK + len as u64) / SPARE_PART };
    (len as u64 + spare).min(CHUNK) as usize
}

#[cfg(test)]
mod tests;
