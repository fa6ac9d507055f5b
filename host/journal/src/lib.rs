//! The journal of a data directory: one log for all services, on a disk that may fail.
//!
//! The crate knows names, numbers and bytes. Its callers define what a record means.
//!
//! ```text
//!   append -> commit (a thread: groups of records, one write and one sync) -> ticket: the record is durable
//!                |
//!             segments (frames in files of one size) -> storage (the disk, or a simulated one)
//!                |
//!             recovery (what a start finds) and reader (one frame or segment again)
//! ```
//!
//! | module | contents |
//! |---|---|
//! | [`storage`] | files behind a trait: the disk, and with the feature `simulated` one in memory that injects faults |
//! | [`frame`] | the bytes of records and frames |
//! | [`segment_header`] | the name and the header of a segment's file |
//! | [`segments`] | the files: appending, relocating records, truncating |
//! | [`recovery`], [`reader`] | reading the journal at a start; reading one frame or segment again |
//! | [`commit`], [`ticket`] | group commit, and the notification that a record is durable |
//! | [`location_feed`] | the locations of records, for the services that read them |
//! | [`adaptive_spin`] | whether a thread polls briefly before it blocks |

pub mod adaptive_spin;
pub mod commit;
pub mod frame;
pub mod location_feed;
pub mod reader;
pub mod recovery;
pub mod segment_header;
pub mod segments;
pub mod storage;
#[cfg(test)]
mod tests;
pub mod ticket;
