//! The state of a workload as a stream of chunks.
//!
//! The format is the state's type in [postcard](https://postcard.jamesmunns.com/wire-format) and nothing else: no
//! magic, version or checksum. The host stores the version beside the bytes, and hashes and bounds them.
//!
//! A VM that moves because its memory is nearly full cannot also hold its whole encoded state. Both directions
//! therefore hold at most one chunk of [`CHUNK_BYTES`]; in addition, reading needs room for the longest single string.

mod reader;
mod writer;

pub use reader::StateReader;

use postcard::ser_flavors::Flavor as _;
use serde::Serialize;

use crate::Workload;
use writer::Writer;

/// The size of a chunk, in bytes: the most that is passed to [`Sink::write`] or requested from [`Source::read`]. The
/// host allows 1 MiB.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// Receives exported state. In a VM this is the host's `state.write`.
pub trait Sink {
    /// Appends `chunk`, of 1 to [`CHUNK_BYTES`] bytes.
    fn write(&mut self, chunk: &[u8]);
}

/// Returns exported state. In a VM this is the host's `state.read`.
pub trait Source {
    /// Returns the next 1 to `max` bytes, or none at the end and after it.
    fn read(&mut self, max: u32) -> Vec<u8>;
}

impl Sink for Vec<u8> {
    fn write(&mut self, chunk: &[u8]) {
        self.extend_from_slice(chunk);
    }
}

/// Writes all of `state` to `sink`.
///
/// # Errors
/// The state has no encoding: it contains a sequence or map of unknown length, or a custom `Serialize` failed. The
/// bytes written until then are unusable.
pub fn save<T: Serialize>(state: &T, sink: &mut dyn Sink) -> Result<(), String> {
    let mut serializer = postcard::Serializer { output: Writer::new(sink) };
    state
        .serialize(&mut serializer)
        .and_then(|()| serializer.output.finalize())
        .map_err(|error| format!("cannot write the state: {error}"))
}

/// Restores a state that [`save`] wrote as `version`, through [`Workload::migrate`] if that version is older.
///
/// # Errors
/// - `version` is newer than [`Workload::STATE_VERSION`].
/// - The bytes are not exactly one state: they are truncated, damaged, or followed by others.
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
