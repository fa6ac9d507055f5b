//! One VM's inside: what a workload is, what compiles it, the store and the instance that run it, and how a state is
//! brought back.
//!
//! ```text
//!   bytes -> workload (loader) -> engine (compiler, pool) -> program
//!                                                              |
//!                    store (limits) + wasi (what the guest sees) -> instance: execute, query, snapshot, restore
//!                                                                      |
//!                              rehydrate: a snapshot and a replay of the tail, in a fresh instance
//! ```
//!
//! It knows neither users nor disks: what a call is made of, and what a replay repeats, is given to it.
//!
//! | module | what is in it |
//! |---|---|
//! | [`workload`] | the loader: bytes in, a checked component out |
//! | [`engine`] | Wasmtime's configuration, the pool, compiling, loading in a process of its own |
//! | [`store`] | the only place that makes a `Store`: limits, and what calls of the host cost |
//! | [`instance`] | one store and the instance in it |
//! | [`snapshot`] | a state that a guest exported |
//! | [`tail`] | the transactions and queries since, as they happened |
//! | [`rehydrate`] | snapshot and tail make the state again |

pub mod engine;
pub mod instance;
pub mod rehydrate;
pub mod snapshot;
mod stop;
pub mod store;
pub mod tail;
mod wasi;
pub mod workload;
