//! Decoders that no caller outside of this crate needs, for the fuzz targets of `host/fuzz`: not a part of the
//! interface.

use crate::workload::Workload;

/// Decodes what a loader's process hands to the host, and returns the encoding of what it holds.
#[must_use]
pub fn loaded(bytes: &[u8]) -> Option<Vec<u8>> {
    Workload::decode(bytes)?.encode().ok()
}

/// What a loader's process hands to the host.
///
/// # Errors
/// It has no encoding.
pub fn encode(workload: &Workload) -> Result<Vec<u8>, String> {
    workload.encode()
}
