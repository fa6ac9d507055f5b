//! The types that a host shares with its clients.
//!
//! | module | contents |
//! |---|---|
//! | [`name`], [`id`], [`clock`] | the identities of things, and time |
//! | [`size`], [`meter`], [`sla`] | the resources that a VM may use and does use, and when its usage fails its SLA |
//! | [`transaction`], [`event`] | requests and their outcomes; a host's reports about its services |
//! | [`call`] | calls of a service to the network |
//! | [`lines`] | the JSON of a batch: an envelope per line, an answer per line |
//! | [`http`] | the JSON of the HTTP API |
//! | [`access`] | grants, and the bounds of passwords |
//! | [`text`] | text of guests and users, made safe for a terminal |
//! | [`distribution`] | histograms of durations |
//!
//! The crate has no engine, no storage and no server: a client needs this crate alone.

pub mod access;
pub mod call;
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
