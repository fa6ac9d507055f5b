//! The trait that a workload implements, and the context of each call.

use std::fmt::Display;

use serde::Serialize;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _};

use crate::codec::{Decode, Encode};
use crate::snapshot::{StateCodec, StateReader};

/// A state machine that Lifeboat runs. The implementing type is the state.
///
/// Write the impl under [`#[workload]`](macro@crate::workload), which inserts missing items: `Error` becomes `String`,
/// `Codec` becomes [`Json`](crate::Json), `StateCodec` becomes [`Postcard`](crate::Postcard), and without a `fn query`
/// every query is refused.
///
/// The state of a new service is `Default::default()`. `Serialize` and `Deserialize` determine the contents of a
/// snapshot; fields that can be derived from others may be skipped and rebuilt. The default codec of the state,
/// [`Postcard`](crate::Postcard), is not self-describing. A state with `serde_json::Value`, `#[serde(untagged)]`,
/// `#[serde(flatten)]` or `skip_serializing_if` is therefore refused at its first snapshot; such types do work in JSON.
/// Give such a value a type, keep it as a `String`, or write `type StateCodec = MessagePack;`.
/// [`testing`](crate::testing) finds such a mistake natively.
pub trait Workload: Default + Serialize + DeserializeOwned + 'static {
    /// A request that may change the state.
    type Transaction;
    /// The answer to a transaction that was not refused.
    type Reply;
    /// A question that changes nothing. The default is [`NoQuery`].
    type Query;
    /// The answer to a query. The default is [`NoQuery`].
    type Answer;
    /// The reason for which a transaction or a query is refused. The user reads its `Display`. The default is `String`.
    type Error: Display;
    /// The conversion of users' bytes to transactions and of replies to bytes. The default is [`Json`](crate::Json).
    type Codec: Decode<Self::Transaction> + Encode<Self::Reply> + Decode<Self::Query> + Encode<Self::Answer>;

    /// The conversion of the state to the bytes of a snapshot and back. The default is [`Postcard`](crate::Postcard).
    type StateCodec: StateCodec;

    /// The version of the state that this build writes. Increment it whenever the shape of the state changes:
    /// [`snapshot`](crate::snapshot#to-change-the-shape-of-the-state) describes how.
    const STATE_VERSION: u32 = 1;

    /// Applies one transaction and answers it.
    ///
    /// A transaction that cannot be decoded never reaches this function. A panic leaves no trace in the state.
    ///
    /// # Errors
    /// The transaction is refused. Changes made before are retained: check first, change afterwards.
    fn execute(&mut self, context: &Context, transaction: Self::Transaction) -> Result<Self::Reply, Self::Error>;

    /// Answers a question about the state between two transactions.
    ///
    /// # Errors
    /// The query is refused.
    fn query(&self, context: &Context, query: Self::Query) -> Result<Self::Answer, Self::Error>;

    /// Converts a state that an older build wrote as `version`, which is below [`STATE_VERSION`](Self::STATE_VERSION),
    /// to this build's state.
    ///
    /// It is not called for the build's own version, nor for a newer one, which is refused. Read the old shape with
    /// [`StateReader::read`]. The default implementation accepts no older state.
    ///
    /// # Errors
    /// One sentence with the reason. The host retains its current VM.
    fn migrate(version: u32, state: StateReader) -> Result<Self, String> {
        let _ = state;
        Err(format!(
            "state has version {version}, this workload reads only version {}: implement `Workload::migrate` to read \
             older ones",
            Self::STATE_VERSION
        ))
    }
}

/// The user, id and time of a call. They are the same in every replay of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// The transaction's id, unique for its user and service.
    pub id: String,
    /// The name of the authenticated user.
    pub user: String,
    /// The transaction's position in the service's history, from 1. A query sees that of the last transaction.
    pub sequence: u64,
    /// Nanoseconds since 1970-01-01T00:00:00Z. Never goes back from one transaction to the next.
    pub timestamp: u64,
}

/// A placeholder for the query, and for its answer, of a workload that answers none. It has no values: decoding one
/// always fails, and the user gets that error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoQuery {}

impl NoQuery {
    pub(crate) const REASON: &str = "this workload answers no queries";
}

impl<'de> Deserialize<'de> for NoQuery {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::custom(Self::REASON))
    }
}

impl Serialize for NoQuery {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        match *self {}
    }
}
