//! Output that is divided into chunks.

use std::io;

use super::{CHUNK_BYTES, Sink};

/// Gathers output in one chunk and passes it on when full, so that every chunk but the last is full.
pub(super) struct Writer<'a> {
    sink: &'a mut dyn Sink,
    /// The current chunk, allocated once because it is never longer than [`CHUNK_BYTES`].
    chunk: Vec<u8>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(sink: &'a mut dyn Sink) -> Self {
        Self { sink, chunk: Vec::with_capacity(CHUNK_BYTES) }
    }

    pub(super) fn push(&mut self, byte: u8) {
        if self.chunk.len() == CHUNK_BYTES {
            self.flush();
        }
        self.chunk.push(byte);
    }

    pub(super) fn extend(&mut self, mut bytes: &[u8]) {
        loop {
            if self.chunk.is_empty() {
                // Whole chunks are passed on without a copy.
                while let Some((chunk, rest)) = bytes.split_at_checked(CHUNK_BYTES) {
                    self.sink.write(chunk);
                    bytes = rest;
                }
            }
            let Some((now, later)) = bytes.split_at_checked(CHUNK_BYTES - self.chunk.len()) else {
                return self.chunk.extend_from_slice(bytes);
            };
            self.chunk.extend_from_slice(now);
            self.flush();
            bytes = later;
        }
    }

    pub(super) fn flush(&mut self) {
        if !self.chunk.is_empty() {
            self.sink.write(&self.chunk);
            self.chunk.clear();
        }
    }
}

impl io::Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
