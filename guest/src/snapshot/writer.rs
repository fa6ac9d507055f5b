//! The output of postcard, divided into chunks.

use postcard::Result;
use postcard::ser_flavors::Flavor;

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

    fn flush(&mut self) {
        if !self.chunk.is_empty() {
            self.sink.write(&self.chunk);
            self.chunk.clear();
        }
    }
}

impl Flavor for Writer<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> Result<()> {
        if self.chunk.len() == CHUNK_BYTES {
            self.flush();
        }
        self.chunk.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, mut data: &[u8]) -> Result<()> {
        loop {
            let room = CHUNK_BYTES - self.chunk.len();
            let Some((now, later)) = data.split_at_checked(room) else {
                self.chunk.extend_from_slice(data);
                return Ok(());
            };
            self.chunk.extend_from_slice(now);
            self.flush();
            data = later;
        }
    }

    fn finalize(mut self) -> Result<()> {
        self.flush();
        Ok(())
    }
}
