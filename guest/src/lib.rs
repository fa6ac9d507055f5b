//! Writes a Lifeboat workload: one trait, one attribute.
//!
//! A workload is a deterministic state machine. The host sends it transactions one at a time, meters what they use,
//! and moves its state into a fresh VM before a resource runs out. A whole counter:
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
//! Its `Cargo.toml` says
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
//! and it is built with `cargo build --release --target wasm32-wasip1`. The user sends `5` and gets `5`, sends `-2` and
//! gets `3`. (With an `rlib` beside the `cdylib`, cargo leaves link-time optimisation out and the module grows by half.)
//!
//! # What a workload must keep to
//! - **Be deterministic.** The same state and the same transactions give the same replies, or a replay would not give
//!   the same state. Take the time from [`Context::timestamp`], not from the clock; take ordered collections
//!   (`BTreeMap`), not hashed ones, wherever the order can be seen.
//! - **Check first, change afterwards.** An `Err` is the outcome `refused`, and what was changed before it is kept.
//! - **Panic to undo.** A panic is the outcome `failed`: nothing is kept, in memory or on disk.
//! - **Change nothing in a query.** `&self` sees to it. What a query leaves behind all the same, such as grown memory, is
//!   repeated in a replay, where it runs again, and is lost with a snapshot, which has the exported state alone.
//!
//! # What is where
//! - [`Workload`], [`Context`]: what to implement, and what every call is told.
//! - [`codec`]: bytes of users to transactions and back. [`Json`] unless the workload says `type Codec = Raw;`.
//! - [`snapshot`]: state to bytes and back, chunk by chunk, and the migration of older states.
//! - [`dispatch`]: what the exports do with bytes, for tests and for models on the host.
//!
//! Natively nothing is exported, so `cargo test` works for a workload as for any crate.

// Lets the attribute be used inside this crate too: its paths begin with `::lifeboat_guest`.
extern crate self as lifeboat_guest;

pub mod codec;
pub mod dispatch;
#[doc(hidden)]
pub mod exports;
pub mod snapshot;
mod workload;

pub use codec::{Decode, Encode, Json, Raw};
pub use lifeboat_guest_macros::workload;
pub use snapshot::StateReader;
pub use workload::{Context, NoQuery, Workload};

/// Everything that most workloads use; the derives of `serde` still need `serde` among the crate's dependencies.
pub mod prelude {
    pub use crate::{Context, Workload, workload};
    pub use serde::{Deserialize, Serialize};
}
