//! An SDK for Lifeboat workloads: one trait, one attribute.
//!
//! A workload is a deterministic state machine. The host sends it transactions one at a time, meters the resources that
//! they use, and moves its state into a fresh VM before a resource runs out. This is a complete counter:
//!
//! ```
//! use lifeboat_guest::prelude::*;
//!
//! #[derive(Default, Serialize, Deserialize)]
//! struct Counter(i64);
//!
//! #[workload]
//! impl Workload for Counter {
//!     type Transaction = i64;
//!     type Reply = i64;
//!     fn execute(&mut self, _: &Context, add: i64) -> Result<i64, String> {
//!         self.0 = self.0.checked_add(add).ok_or("the total would not fit in 64 bits")?;
//!         Ok(self.0)
//!     }
//! }
//! ```
//!
//! Its `Cargo.toml` contains
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib"]
//!
//! [dependencies]
//! lifeboat-guest = { path = "guest" }
//! serde = { version = "1.0", features = ["derive"] }
//!
//! # An overflow fails its transaction, as in a test, instead of wrapping around.
//! [profile.release]
//! overflow-checks = true
//! ```
//!
//! and `cargo build --release --target wasm32-wasip1` builds it. A user who sends `5` gets `5`, and then sends `-2` and
//! gets `3`. (With an `rlib` beside the `cdylib`, cargo omits link-time optimisation and the module grows by half.)
//!
//! # Rules for a workload
//! - **Be deterministic.** The same state and the same transactions give the same replies; otherwise a replay would not
//!   give the same state. Take the time from [`Context::timestamp`], not from the clock. Use ordered collections
//!   (`BTreeMap`), not hashed ones, wherever the order is visible: a `HashMap` has another order in every VM.
//! - **Keep everything in the state.** A failover moves the state and the virtual disk, and nothing else: a `static`, a
//!   `thread_local!`, a `OnceLock` and a field with `#[serde(skip)]` begin anew in the new VM. They may only hold what
//!   the next call can rebuild, such as a cache.
//! - **Check first, change afterwards.** An `Err` is the outcome `refused`, and changes made before it are retained.
//! - **Panic to undo.** A panic is the outcome `failed`: no change is retained, in memory or on disk.
//! - **Change nothing in a query.** `&self` enforces this. Side effects that remain, such as grown memory, are repeated
//!   in a replay, which runs the query again. A snapshot discards them, because it holds only the exported state.
//!
//! # Files and state
//! A service has a virtual disk: a file system at `/`, which `std::fs` uses. Disk and state move together, and the host
//! rolls them back together.
//! - **Keep large data in files, and small data in the state.** A snapshot exports the whole state, and a failover also
//!   restores it. Of the files, a snapshot writes only what changed since the last one.
//! - A guest never sees a full disk. The host ends the attempt, and runs the transaction again on a larger size.
//! - The host discards what a query writes. In [`snapshot::save`] the disk is read-only: a `Serialize` must not write.
//! - Descriptors end with their call. Open a file anew in each transaction, and keep no `File` in the state.
//! - Writes of a start function, before the first call, count only in a new service. Writes in a restore never count.
//! - A directory lists its entries sorted by the bytes of their names. A file has the times of the transactions that
//!   changed it ([`Context::timestamp`]).
//! - The sample workload `archive` has documents in files. Its tests use a temporary directory.
//!
//! # Network
//! With the feature `http`, a transaction may make requests over HTTP to the addresses that its service may call. The
//! module `http` has the rules, and the sample workload `courier` posts parcels to webhooks.
//!
//! # Contents
//! - [`Workload`], [`Context`]: the trait to implement, and the context of every call.
//! - [`codec`]: from users' bytes to transactions and back. It is [`Json`] unless the workload says
//!   `type Codec = Raw;`.
//! - [`snapshot`]: from state to bytes and back, chunk by chunk, and changes of the state's shape.
//! - `http`: requests over HTTP, with the feature `http`.
//! - [`testing`]: native tests, with a failover after every transaction and restores in chunks of any size.
//! - [`dispatch`]: the work of the exports on bytes, for models on the host.
//!
//! A native build exports nothing, so `cargo test` works for a workload as for any crate.

// Makes the attribute usable inside this crate too: its paths begin with `::lifeboat_guest`.
extern crate self as lifeboat_guest;

pub mod codec;
pub mod dispatch;
#[doc(hidden)]
pub mod exports;
#[cfg(feature = "http")]
pub mod http;
pub mod snapshot;
pub mod testing;
mod workload;

pub use codec::{Decode, Encode, Json, Raw};
pub use lifeboat_guest_macros::workload;
pub use snapshot::{MessagePack, Postcard, StateReader};
pub use workload::{Context, NoQuery, Workload};

/// The items that most workloads use. The derives of `serde` still need `serde` among the crate's dependencies.
pub mod prelude {
    pub use crate::{Context, Workload, workload};
    pub use serde::{Deserialize, Serialize};
}
