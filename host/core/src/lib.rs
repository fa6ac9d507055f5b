//! Lifeboat runs stateful WebAssembly programs in metered virtual machines under a service level agreement.
//!
//! It meters the resources of every VM, and authenticates users before it dispatches their transactions. When a VM
//! reaches 98 % of a resource, Lifeboat records an SLA failure and moves the service's state to a fresh VM with fresh
//! resources. It loses no transaction. `ARCHITECTURE.md` describes the nouns and the flows.

pub mod answers;
pub mod auth;
pub mod budget;
pub mod catalog;
pub mod credential;
pub mod data;
pub mod failover;
pub mod fleet;
#[doc(hidden)]
pub mod fuzzing;
mod history;
pub mod host;
pub mod journal;
pub mod locks;
pub mod metrics;
pub mod monitor;
mod parts;
pub mod portable;
pub mod scratch;
pub mod service;
pub mod snapshot_file;
pub mod verify;
mod vm;
