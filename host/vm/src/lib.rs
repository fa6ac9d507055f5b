//! The inside of one VM: its workload, the compiler, the store and the instance that run it, and the rehydration of its
//! state.
//!
//! ```text
//!   bytes -> workload (loader) -> engine (compiler, pool) -> program
//!                                                              |
//!                    store (limits) + wasi (what the guest sees) -> instance: execute, query, snapshot, restore
//!                                                                      |
//!                              rehydrate: a snapshot and a replay of the tail, in a fresh instance
//! ```
//!
//! This crate knows neither users nor data directories: its callers supply the contents of each call and the tail of
//! each replay.
//!
//! | module | contents |
//! |---|---|
//! | [`workload`] | the loader: bytes in, a checked component out |
//! | [`engine`] | the configuration of Wasmtime, the pool, compiling, loading in a separate process |
//! | [`store`] | the only place that creates a `Store`: limits, and the cost of host calls |
//! | [`instance`] | one store and the instance in it |
//! | [`network`] | a guest's calls to the network, between it and its service |
//! | [`snapshot`] | a state that a guest exported |
//! | [`tail`] | the transactions and queries after a snapshot, as they happened |
//! | [`profile`] | looks at the stack of a guest while it burns its fuel |
//! | [`rehydrate`] | rebuilds the state from a snapshot and its tail |

pub mod engine;
mod explain;
#[doc(hidden)]
pub mod fuzzing;
pub mod instance;
pub mod network;
pub mod profile;
pub mod rehydrate;
pub mod snapshot;
mod stop;
pub mod store;
pub mod tail;
mod wasi;
pub mod workload;
