//! A stream of exported state, assembled from chunks.

use std::io;

use serde::de::DeserializeOwned;

use super::format::{Error, Result};
use super::header::{HEADER_MAX_BYTES, Header};
use super::{CHUNK_BYTES, Postcard, Source, StateCodec as _};

/// A string up to this length gets its memory at once, in bytes: 1 MiB. A longer one gets the rest when this much has
/// arrived, since a damaged length may announce gigabytes.
const ARRIVED_BYTES: usize = 1024 * 1024;

/// A stream of exported state that is read once.
///
/// [`StateReader::read`] reads a state that a build of this SDK wrote. `impl Read` returns the raw bytes, for a state
/// that something else wrote.
pub struct StateReader {
    source: Box<dyn Source>,
    chunk: Vec<u8>,
    /// The number of bytes of `chunk` that have been read.
    taken: usize,
    /// The number of bytes in the chunks before this one.
    before: u64,
}

impl StateReader {
    /// Creates a reader of `source`.
    pub fn new(source: impl Source + 'static) -> Self {
        Self { source: Box::new(source), chunk: Vec::new(), taken: 0, before: 0 }
    }

    /// Reads the whole stream as one `T`, by [`Postcard`]. For a state that `MessagePack` wrote, use `read` of
    /// [`MessagePack`](super::MessagePack).
    ///
    /// # Errors
    /// The stream ends early, is not a `T`, continues after it, or was written with another shape than that of `T`. The
    /// message contains the position in bytes.
    pub fn read<T: DeserializeOwned>(self) -> std::result::Result<T, String> {
        Postcard::read(self)
    }

    /// Takes the header, if the stream begins with one. Streams of earlier builds of this SDK have none.
    pub(super) fn header(&mut self) -> Option<Header> {
        while self.chunk.len() < HEADER_MAX_BYTES {
            let more = self.source.read(CHUNK_BYTES as u32);
            if more.is_empty() {
                break;
            }
            if self.chunk.is_empty() {
                self.chunk = more;
            } else {
                self.chunk.extend_from_slice(&more);
            }
        }
        let (header, length) = Header::parse(&self.chunk)?;
        self.taken = length;
        Some(header)
    }

    /// Returns the position in the stream, in bytes.
    pub(super) fn position(&self) -> u64 {
        self.before + self.taken as u64
    }

    /// Returns whether the stream has more bytes.
    pub(super) fn has_more(&mut self) -> bool {
        !self.available().is_empty()
    }

    /// Takes the next byte.
    #[inline]
    pub(super) fn pop(&mut self) -> Result<u8> {
        let byte = match self.chunk.get(self.taken) {
            Some(byte) => *byte,
            None => *self.available().first().ok_or(Error::End)?,
        };
        self.taken += 1;
        Ok(byte)
    }

    /// Takes the next `count` bytes if they are all within the current chunk.
    pub(super) fn take_from_chunk(&mut self, count: usize) -> Option<&[u8]> {
        if self.available().len() < count {
            return None;
        }
        self.taken += count;
        Some(&self.chunk[self.taken - count..self.taken])
    }

    /// Takes the next `count` bytes.
    pub(super) fn gather(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut buffer = Vec::new();
        for end in [count.min(ARRIVED_BYTES), count] {
            buffer.try_reserve_exact(end - buffer.len()).map_err(|_| Error::Memory)?;
            while buffer.len() < end {
                let available = self.available();
                if available.is_empty() {
                    return Err(Error::End);
                }
                let some = available.len().min(end - buffer.len());
                buffer.extend_from_slice(&available[..some]);
                self.taken += some;
            }
        }
        Ok(buffer)
    }

    /// Returns the available bytes, which are empty only at the end.
    fn available(&mut self) -> &[u8] {
        if self.taken == self.chunk.len() {
            self.before += self.chunk.len() as u64;
            self.taken = 0;
            // The old chunk is dropped first, so that two are never held at once.
            self.chunk = Vec::new();
            self.chunk = self.source.read(CHUNK_BYTES as u32);
        }
        &self.chunk[self.taken..]
    }
}

impl From<Vec<u8>> for StateReader {
    /// Reads from memory, for tests.
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(crate::testing::Chunks::new(bytes, CHUNK_BYTES))
    }
}

impl io::Read for StateReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.available();
        let some = available.len().min(buffer.len());
        buffer[..some].copy_from_slice(&available[..some]);
        self.taken += some;
        Ok(some)
    }
}

impl std::fmt::Debug for StateReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateReader").field("position", &self.position()).finish_non_exhaustive()
    }
}
