//! The journal of a data directory: one log for all services, on a disk that may fail.
//!
//! It knows names, numbers and bytes: what a record means is its callers' affair.
//!
//! ```text
//!   append -> commit (a thread: groups of records, one write and one sync) -> ticket: the record is safe
//!                |
//!             segments (frames in files of one size) -> storage (the disk, or a simulated one)
//!                |
//!             recovery (what a start finds) and reader (one frame or segment again)
//! ```
//!
//! | module | what is in it |
//! |---|---|
//! | [`storage`] | files behind a trait: the disk, and with the feature `simulated` one in memory that injects faults |
//! | [`frame`] | the bytes of records and frames |
//! | [`segments`] | the files: appending, relocating records, truncating |
//! | [`recovery`], [`reader`] | what is found at a start; a frame or segment that is read again |
//! | [`commit`], [`ticket`] | group commit, and the word that a record is safe |
//! | [`location_feed`] | where records are, for the services that read them |
//! | [`adaptive_spin`] | whether a thread polls briefly before it blocks |

pub mod adaptive_spin;
pub mod commit;
pub mod frame;
pub mod location_feed;
pub mod reader;
pub mod recovery;
pub mod segments;
pub mod storage;
#[cfg(test)]
mod tests;
pub mod ticket;
