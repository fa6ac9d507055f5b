//! The state of a workload as a stream of chunks.
//!
//! The format is [postcard](https://postcard.jamesmunns.com/wire-format) of the state's type and nothing else: no
//! magic, version or checksum. The host keeps the version beside it, and hashes and bounds the bytes.
//!
//! A VM that moves because its memory is nearly full cannot also hold its whole state encoded, so both directions hold
//! at most one chunk of [`CHUNK_BYTES`]; beyond that, reading needs room for the longest single string.

mod reader;
mod writer;

pub use reader::StateReader;

use postcard::ser_flavors::Flavor as _;
use serde::Serialize;

use crate::Workload;
use writer::Writer;

/// The size of a chunk, in bytes: what is handed to [`Sink::write`] at most and asked of [`Source::read`]. The host
/// allows 1 MiB.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// Takes exported state. In a VM this is the host's `state.write`.
pub trait Sink {
    /// Appends `chunk`, of 1 to [`CHUNK_BYTES`] bytes.
    fn write(&mut self, chunk: &[u8]);
}

/// Gives exported state back. In a VM this is the host's `state.read`.
pub trait Source {
    /// Takes the next 1 to `max` bytes; none at the end, and again none after it.
    fn read(&mut self, max: u32) -> Vec<u8>;
}

impl Sink for Vec<u8> {
    fn write(&mut self, chunk: &[u8]) {
        self.extend_from_slice(chunk);
    }
}

/// Writes the whole of `state` to `sink`.
///
/// # Errors
/// The state has no encoding: a sequence or map of unknown length, or an error of a hand-written `Serialize`. What was
/// written by then is of no use.
pub fn save<T: Serialize>(state: &T, sink: &mut dyn Sink) -> Result<(), String> {
    let mut serializer = postcard::Serializer { output: Writer::new(sink) };
    state
        .serialize(&mut serializer)
        .and_then(|()| serializer.output.finalize())
        .map_err(|error| format!("cannot write the state: {error}"))
}

/// Reads back what [`save`] wrote as `version`, through [`Workload::migrate`] if that is an older one.
///
/// # Errors
/// - `version` is newer than [`Workload::STATE_VERSION`].
/// - The bytes are not one whole state: cut off, damaged, or followed by others.
/// - The migration failed.
pub fn restore<W: Workload>(version: u32, state: StateReader) -> Result<W, String> {
    let own = W::STATE_VERSION;
    match version.cmp(&own) {
        std::cmp::Ordering::Equal => state.read(),
        std::cmp::Ordering::Less => W::migrate(version, state),
        std::cmp::Ordering::Greater => Err(format!(
            "state has version {version}, this workload reads up to version {own}: use the newer build that wrote it"
        )),
    }
}

#[cfg(test)]
mod tests;
