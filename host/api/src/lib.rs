//! What a host and its clients agree on.
//!
//! | module | what is in it |
//! |---|---|
//! | [`name`], [`id`], [`clock`] | what things are known by, and when they happen |
//! | [`size`], [`meter`], [`sla`] | what a VM may use, what it uses, and when that fails its SLA |
//! | [`transaction`], [`event`] | requests and how they end; what a host tells of its services |
//! | [`lines`] | the JSON of a batch: an envelope a line, an answer a line |
//! | [`http`] | the JSON of the HTTP API |
//! | [`access`] | grants, and the bounds of passwords |
//! | [`text`] | text of guests and users, made fit for a terminal |
//! | [`distribution`] | how durations are spread |
//!
//! It holds no engine, no storage and no server: whoever speaks to a host needs this crate alone.

pub mod access;
pub mod clock;
pub mod distribution;
pub mod event;
pub mod http;
pub mod id;
pub mod lines;
pub mod meter;
pub mod name;
pub mod size;
pub mod sla;
pub mod text;
pub mod transaction;
