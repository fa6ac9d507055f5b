//! The state of a workload as a stream of chunks.
//!
//! A stream is a short header and the state, in the codec of the workload: [`Postcard`], or [`MessagePack`] if it says
//! `type StateCodec = MessagePack;`. The host stores the state's version beside the bytes, and hashes and bounds them.
//!
//! A VM that moves because its memory is nearly full cannot also hold its whole encoded state. Both directions
//! therefore hold at most one chunk of [`CHUNK_BYTES`]. A long string or `Vec<u8>` is read into the memory that it
//! keeps.
//!
//! # To change the shape of the state
//! A snapshot of [`Postcard`] has a fingerprint of the names, order and types of all fields and variants. A build whose
//! state has another one refuses the snapshot, even if the bytes could be read: two fields of one type that are swapped
//! would otherwise exchange their values. To change the shape on purpose:
//!
//! 1. Copy the old types into a module, such as `v1`. Their own names may change, those of fields and variants may not.
//! 2. Change the state, and raise [`Workload::STATE_VERSION`].
//! 3. Implement [`Workload::migrate`]: read the old type with [`StateReader::read`], and convert it.
//!
//! ```
//! use lifeboat_guest::prelude::*;
//! use lifeboat_guest::StateReader;
//!
//! #[derive(Default, Serialize, Deserialize)]
//! struct Total {
//!     sum: i64,
//!     count: u64,
//! }
//!
//! mod v1 {
//!     #[derive(serde::Serialize, serde::Deserialize)]
//!     pub struct Total {
//!         pub sum: i64,
//!     }
//! }
//!
//! #[workload]
//! impl Workload for Total {
//!     type Transaction = i64;
//!     type Reply = i64;
//!     const STATE_VERSION: u32 = 2;
//!
//!     fn execute(&mut self, _: &Context, add: i64) -> Result<i64, String> {
//!         self.sum = self.sum.checked_add(add).ok_or("the sum would not fit in 64 bits")?;
//!         self.count += 1;
//!         Ok(self.sum)
//!     }
//!
//!     fn migrate(version: u32, state: StateReader) -> Result<Self, String> {
//!         match version {
//!             1 => state.read().map(|v1::Total { sum }| Self { sum, count: 0 }),
//!             _ => Err(format!("state has version {version}, which this workload does not read")),
//!         }
//!     }
//! }
//! ```
//!
//! A test that pins [`testing::shape`](crate::testing::shape) of the state finds a change that was not on purpose. For
//! a new name in the code alone, `#[serde(rename = "old")]` retains the name in the snapshot. States that builds
//! without fingerprints wrote are read as before.

mod codec;
mod format;
mod header;
mod reader;
mod writer;

pub use codec::{MessagePack, Postcard, StateCodec};
pub use reader::StateReader;

use serde::de::DeserializeOwned;

use crate::Workload;

/// The size of a chunk, in bytes: the most that is passed to [`Sink::write`] or requested from [`Source::read`]. The
/// host allows 1 MiB.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// Receives exported state. In a VM this is the host's `state.write`.
pub trait Sink {
    /// Appends `chunk`, of 1 to [`CHUNK_BYTES`] bytes.
    fn write(&mut self, chunk: &[u8]);
}

/// Returns exported state. In a VM this is the host's `state.read`, in tests
/// [`testing::Chunks`](crate::testing::Chunks).
pub trait Source {
    /// Returns the next 1 to `max` bytes, or none at the end and after it.
    fn read(&mut self, max: u32) -> Vec<u8>;
}

impl Sink for Vec<u8> {
    fn write(&mut self, chunk: &[u8]) {
        self.extend_from_slice(chunk);
    }
}

/// Writes all of `state` to `sink`, in the codec of the workload.
///
/// # Errors
/// The state could not be read back, contains a sequence or map of unknown length, or a custom `Serialize` failed. The
/// bytes written until then are unusable.
pub fn save<W: Workload>(state: &W, sink: &mut dyn Sink) -> Result<(), String> {
    W::StateCodec::write(state, sink)
}

/// Restores a state that [`save`] wrote as `version`, through [`Workload::migrate`] if that version is older.
///
/// # Errors
/// - `version` is newer than [`Workload::STATE_VERSION`].
/// - The bytes are not exactly one state: they are truncated, damaged, or followed by others.
/// - The state has another shape, or was written by another codec, although its version is the same.
/// - The migration failed.
pub fn restore<W: Workload>(version: u32, state: StateReader) -> Result<W, String> {
    let own = W::STATE_VERSION;
    match version.cmp(&own) {
        std::cmp::Ordering::Equal => W::StateCodec::read(state),
        std::cmp::Ordering::Less => W::migrate(version, state),
        std::cmp::Ordering::Greater => Err(format!(
            "state has version {version}, this workload reads up to version {own}: use the newer build that wrote it"
        )),
    }
}

/// Returns the text of a type's shape.
pub(crate) fn shape_text<T: DeserializeOwned>() -> String {
    format::shape::text::<T>()
}

#[cfg(test)]
mod tests;
