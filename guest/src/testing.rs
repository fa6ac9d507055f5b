//! Native tests of a workload: its transactions, and what a failover does to its state.
//!
//! ```
//! use lifeboat_guest::prelude::*;
//! use lifeboat_guest::testing::{self, Service};
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
//!
//! // Replies are the same with a failover after every transaction.
//! testing::assert_failovers_are_invisible::<Counter>(&["5", "-2", "\"five\""], &[]);
//!
//! let mut service = Service::<Counter>::new();
//! assert_eq!(service.execute("5"), Ok("5".to_owned()));
//! service.fail_over();
//! assert_eq!(service.execute("-2"), Ok("3".to_owned()));
//!
//! // A change of the shape needs a new version of the state, and this line fails until it is changed too.
//! assert_eq!(testing::shape::<Counter>(), "i64");
//! ```
//!
//! A native test keeps what a VM loses: statics and thread-locals survive [`Service::fail_over`]. `lifeboat run` with a
//! small `--fuel` shows a failover that loses them.

use std::io::{Cursor, Read as _};
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::snapshot::{self, CHUNK_BYTES, Source, StateReader};
use crate::{Context, Workload, dispatch};

/// The sizes of chunks in which [`restore`] reads a state, in bytes. A host may choose any.
const CHUNK_SIZES: [usize; 4] = [1, 7, 4096, CHUNK_BYTES];

/// The time of the first transaction: 2025-01-01T00:00:00Z, in nanoseconds since 1970.
const FIRST_TIMESTAMP: u64 = 1_735_689_600_000_000_000;

/// The time between two transactions of a [`Service`].
const BETWEEN_TRANSACTIONS: Duration = Duration::from_secs(1);

/// Bytes of a state in memory, in chunks of at most a given size.
#[derive(Clone, Debug)]
pub struct Chunks {
    bytes: Cursor<Vec<u8>>,
    size: usize,
}

impl Chunks {
    /// Creates a source of `bytes` that returns at most `size_bytes` at a time.
    ///
    /// # Panics
    /// If `size_bytes` is 0, which would be the end.
    pub fn new(bytes: impl Into<Vec<u8>>, size_bytes: usize) -> Self {
        assert!(size_bytes > 0, "a chunk has at least one byte");
        Self { bytes: Cursor::new(bytes.into()), size: size_bytes }
    }
}

impl Source for Chunks {
    fn read(&mut self, max: u32) -> Vec<u8> {
        let max = self.size.min(max as usize);
        let mut chunk = Vec::with_capacity(max.min(self.bytes.get_ref().len()));
        (&mut self.bytes).take(max as u64).read_to_end(&mut chunk).expect("reading from memory cannot fail");
        chunk
    }
}

/// Returns the snapshot of a state.
///
/// # Panics
/// If the state cannot be written, or could not be read back.
pub fn snapshot<W: Workload>(state: &W) -> Vec<u8> {
    let mut bytes = Vec::new();
    snapshot::save(state, &mut bytes).unwrap_or_else(|reason| panic!("{reason}"));
    bytes
}

/// Restores a state that was written as `version`, once in chunks of each of 1, 7, 4,096 and 65,536 bytes.
///
/// # Errors
/// The state is refused.
///
/// # Panics
/// If the size of the chunks makes a difference: to whether the state is restored, or to its snapshot. The snapshot
/// also differs if the order of a hashed collection is in it.
pub fn restore<W: Workload>(version: u32, bytes: &[u8]) -> Result<W, String> {
    let restored = CHUNK_SIZES.map(|size| snapshot::restore::<W>(version, StateReader::new(Chunks::new(bytes, size))));
    let snapshots = restored.each_ref().map(|restored| restored.as_ref().map(snapshot));
    for (size, other) in CHUNK_SIZES.iter().zip(&snapshots) {
        assert!(
            *other == snapshots[0],
            "a restore in chunks of {size} bytes differs from one byte by byte: does the state depend on chunks, or on \
             the order of a hashed collection?"
        );
    }
    let [.., last] = restored;
    last
}

/// Returns the state after a failover: restored from its snapshot.
///
/// # Panics
/// If the state cannot be written or restored, or if the restored state has another snapshot.
pub fn moved<W: Workload>(state: &W) -> W {
    let bytes = snapshot(state);
    let moved = restore(W::STATE_VERSION, &bytes).unwrap_or_else(|reason| panic!("{reason}"));
    assert!(
        snapshot(&moved) == bytes,
        "the restored state has another snapshot: use ordered collections (BTreeMap), and the same form in `Serialize` \
         and `Deserialize`"
    );
    moved
}

/// Returns the text of the shape that [`Postcard`](snapshot::Postcard) has for a state, such as `{total:i64}`.
///
/// It has the names, the order and the types of all fields and variants, and no names of types. While it is the same,
/// older snapshots can be restored.
pub fn shape<T: DeserializeOwned>() -> String {
    crate::snapshot::shape_text::<T>()
}

/// A workload in memory, with bytes in and out as in a VM.
#[derive(Debug)]
pub struct Service<W> {
    state: W,
    context: Context,
    fails_over: bool,
}

impl<W: Workload> Default for Service<W> {
    fn default() -> Self {
        Self::new()
    }
}

impl<W: Workload> Service<W> {
    /// Creates a service with the default state. Its user is `ann`. Its transactions are a second apart, from
    /// 2025-01-01T00:00:00Z on.
    #[must_use]
    pub fn new() -> Self {
        let context = Context { user: "ann".to_owned(), timestamp: FIRST_TIMESTAMP, ..Context::default() };
        Self { state: W::default(), context, fails_over: false }
    }

    /// Creates a service that fails over before its first and after every transaction.
    #[must_use]
    pub fn failing_over() -> Self {
        let mut service = Self { fails_over: true, ..Self::new() };
        service.fail_over();
        service
    }

    /// Returns the state.
    pub fn state(&self) -> &W {
        &self.state
    }

    /// Makes `user` the user of all calls from now on.
    pub fn set_user(&mut self, user: &str) {
        user.clone_into(&mut self.context.user);
    }

    /// Lets time pass.
    pub fn advance(&mut self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).expect("the time of a test fits in 64 bits");
        self.context.timestamp += nanoseconds;
    }

    /// Applies a transaction. Returns its reply, or the reason for which it was refused.
    ///
    /// # Errors
    /// The transaction is refused.
    ///
    /// # Panics
    /// If the workload panics, or its reply is not text.
    pub fn execute(&mut self, transaction: impl AsRef<[u8]>) -> Result<String, String> {
        self.context.sequence += 1;
        self.context.id = format!("test-{}", self.context.sequence);
        let reply = dispatch::execute(&mut self.state, &self.context, transaction.as_ref());
        self.advance(BETWEEN_TRANSACTIONS);
        if self.fails_over {
            self.fail_over();
        }
        reply.map(text)
    }

    /// Answers a query.
    ///
    /// # Errors
    /// The query is refused.
    ///
    /// # Panics
    /// If the workload panics, or its answer is not text.
    pub fn query(&self, query: impl AsRef<[u8]>) -> Result<String, String> {
        dispatch::query(&self.state, &self.context, query.as_ref()).map(text)
    }

    /// Moves the state as a failover does, by [`moved`].
    ///
    /// # Panics
    /// As [`moved`].
    pub fn fail_over(&mut self) {
        self.state = moved(&self.state);
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("the reply is text")
}

/// Asserts that a service answers the same with a failover after every transaction as without one, and asks `queries`
/// of both after every transaction.
///
/// # Panics
/// At the first reply or answer that differs: part of the state is not in the snapshot, or not restored from it. And as
/// [`moved`].
#[track_caller]
pub fn assert_failovers_are_invisible<W: Workload>(transactions: &[&str], queries: &[&str]) {
    let [mut roomy, mut moving] = [Service::<W>::new(), Service::failing_over()];
    for transaction in transactions {
        let replies = [roomy.execute(transaction), moving.execute(transaction)];
        assert_eq!(
            replies[0], replies[1],
            "a failover changes the reply to {transaction}: is all of the state exported?"
        );
        for query in queries {
            let answers = [roomy.query(query), moving.query(query)];
            assert_eq!(
                answers[0], answers[1],
                "a failover changes the answer to {query}: is all of the state exported?"
            );
        }
    }
}

#[cfg(test)]
mod tests;
