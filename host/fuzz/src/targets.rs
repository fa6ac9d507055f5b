//! The decoders. Each runs through the function that its callers use, or through a crate's hidden module `fuzzing`
//! where that function is private.

mod catalog;
mod disk;
mod journal;
mod requests;
mod snapshots;
mod workload;

use crate::{Memory, Repair, Shape, Target};

/// The memory that a decoder of stored data may allocate: the input, its decoded value, and their hash states.
const SMALL: Memory = Memory { base: 512 * 1024, each: 32 };

/// The targets of all decoders.
pub static TARGETS: [Target; 16] = [
    Target {
        name: "frame",
        about: "a frame of the journal: header and body",
        seeds: journal::frames,
        shape: Shape::Bytes,
        repair: journal::repair_frame,
        decode: journal::frame,
        memory: SMALL,
        rounds: 20_000,
    },
    Target {
        name: "segment-header",
        about: "the first blocks of a segment of the journal",
        seeds: journal::segment_headers,
        shape: Shape::Bytes,
        repair: journal::repair_segment_header,
        decode: journal::segment_header,
        memory: SMALL,
        rounds: 10_000,
    },
    Target {
        name: "journal",
        about: "a segment file, as a start reads it: the lengths and hashes of its frames together",
        seeds: journal::segments,
        shape: Shape::Bytes,
        repair: journal::repair_segment,
        decode: journal::segment,
        memory: Memory { base: 4 * 1024 * 1024, each: 64 },
        rounds: 5_000,
    },
    Target {
        name: "record",
        about: "a record of a service's journal, and the answer in it",
        seeds: none,
        shape: Shape::Bytes,
        repair: unchanged,
        decode: journal::record,
        memory: SMALL,
        rounds: 50_000,
    },
    Target {
        name: "snapshot",
        about: "a snapshot file",
        seeds: none,
        shape: Shape::Bytes,
        repair: snapshots::repair,
        decode: snapshots::snapshot,
        memory: Memory { base: 2 * 1024 * 1024, each: 64 },
        rounds: 30_000,
    },
    Target {
        name: "portable",
        about: "a portable snapshot: a snapshot file with a workload and settings",
        seeds: none,
        shape: Shape::Bytes,
        repair: snapshots::repair,
        decode: snapshots::portable,
        memory: Memory { base: 512 * 1024, each: 64 },
        rounds: 3_000,
    },
    Target {
        name: "forgotten-times",
        about: "the section of a snapshot with the newest times in ids whose answers were forgotten",
        seeds: none,
        shape: Shape::Bytes,
        repair: unchanged,
        decode: snapshots::forgotten_times,
        memory: Memory { base: 4 * 1024 * 1024, each: 64 },
        rounds: 50_000,
    },
    Target {
        name: "disk-table",
        about: "the section of a snapshot with the table of a virtual disk",
        seeds: disk::tables,
        shape: Shape::Bytes,
        repair: disk::repair_table,
        decode: disk::table,
        // Each of three bytes may stand for a chunk of 16 KiB that the input names by its hash.
        memory: Memory { base: 2 * 1024 * 1024, each: 512 },
        rounds: 20_000,
    },
    Target {
        name: "pack",
        about: "the header and the index of a pack of chunks",
        seeds: disk::packs,
        shape: Shape::Bytes,
        repair: disk::repair_pack,
        decode: disk::pack,
        memory: SMALL,
        rounds: 20_000,
    },
    Target {
        name: "service-entry",
        about: "a service in the catalog",
        seeds: none,
        shape: Shape::Bytes,
        repair: unchanged,
        decode: catalog::service,
        memory: Memory { base: 2 * 1024 * 1024, each: 64 },
        rounds: 50_000,
    },
    Target {
        name: "user-entry",
        about: "a user in the catalog",
        seeds: none,
        shape: Shape::Bytes,
        repair: unchanged,
        decode: catalog::user,
        memory: SMALL,
        rounds: 50_000,
    },
    Target {
        name: "token-entry",
        about: "a token in the catalog",
        seeds: none,
        shape: Shape::Bytes,
        repair: unchanged,
        decode: catalog::token,
        memory: SMALL,
        rounds: 50_000,
    },
    Target {
        name: "envelope",
        about: "a line of a batch",
        seeds: none,
        shape: Shape::Text,
        repair: unchanged,
        decode: requests::envelope,
        memory: SMALL,
        rounds: 20_000,
    },
    Target {
        name: "configuration",
        about: "lifeboat.toml",
        seeds: requests::configurations,
        shape: Shape::Text,
        repair: unchanged,
        decode: requests::configuration,
        memory: Memory { base: 1024 * 1024, each: 256 },
        rounds: 10_000,
    },
    Target {
        name: "scenario",
        about: "what a simulation is made of",
        seeds: requests::scenarios,
        shape: Shape::Text,
        repair: unchanged,
        decode: requests::scenario,
        memory: Memory { base: 1024 * 1024, each: 256 },
        rounds: 5_000,
    },
    Target {
        name: "workload",
        about: "the loader, in this process",
        seeds: workload::workloads,
        shape: Shape::Wasm,
        repair: unchanged,
        decode: workload::load,
        // The validator reserves memory for up to a million definitions that a section claims.
        memory: Memory { base: 32 * 1024 * 1024, each: 128 },
        rounds: 8_000,
    },
];

/// Returns the target of this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Returns no seeds, for a target whose seeds are all in `corpus/`.
fn none() -> Vec<Vec<u8>> {
    Vec::new()
}

/// Repairs nothing, for inputs without lengths and hashes of the whole.
fn unchanged(_: &mut Vec<u8>, _: Repair) {}

/// Writes `bytes` at `at`, or nothing if they would exceed the input.
fn put(input: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = input.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// Reads the little-endian number of 4 bytes at `at`. Returns 0 if the input is too short.
fn u32_at(input: &[u8], at: usize) -> usize {
    input.get(at..at + 4).map_or(0, |bytes| u32::from_le_bytes(bytes.try_into().unwrap_or_default()) as usize)
}
