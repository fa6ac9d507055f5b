//! What a workload implements, and what it is told with every call.

use std::fmt::Display;

use serde::Serialize;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _};

use crate::codec::{Decode, Encode};
use crate::snapshot::StateReader;

/// A state machine that Lifeboat runs. The implementing type is the state.
///
/// Write the impl under [`#[workload]`](macro@crate::workload), which inserts what is left out: `Error` becomes
/// `String`, `Codec` becomes [`Json`](crate::Json), and without a `fn query` every query is refused.
///
/// The state of a new service is `Default::default()`. `Serialize` and `Deserialize` say what a snapshot holds; fields
/// that can be derived from others may be skipped and rebuilt. The format (postcard) is not self-describing, so
/// `serde_json::Value`, `#[serde(untagged)]`, `#[serde(flatten)]` and `skip_serializing_if` do not work *in the state*,
/// although it may be written; they do in JSON. Keep free-form JSON as a `String`. A test that restores what
/// [`snapshot::save`](crate::snapshot::save) wrote shows it, and so does `lifeboat verify`.
pub trait Workload: Default + Serialize + DeserializeOwned + 'static {
    /// A request that may change the state.
    type Transaction;
    /// The answer to a transaction that was not refused.
    type Reply;
    /// A question that changes nothing. Left out: [`NoQuery`].
    type Query;
    /// The answer to a query. Left out: [`NoQuery`].
    type Answer;
    /// Why a transaction or a query is refused. The user reads its `Display`. Left out: `String`.
    type Error: Display;
    /// How users' bytes become transactions and replies become bytes. Left out: [`Json`](crate::Json).
    type Codec: Decode<Self::Transaction> + Encode<Self::Reply> + Decode<Self::Query> + Encode<Self::Answer>;

    /// The version of the state that this build writes. Add one whenever the state's shape changes.
    const STATE_VERSION: u32 = 1;

    /// Applies one transaction and answers it.
    ///
    /// A transaction that cannot be decoded never reaches it. A panic leaves no trace in the state.
    ///
    /// # Errors
    /// The transaction is refused. What was changed before is kept: check first, change afterwards.
    fn execute(&mut self, context: &Context, transaction: Self::Transaction) -> Result<Self::Reply, Self::Error>;

    /// Answers a question about the state between two transactions.
    ///
    /// # Errors
    /// The query is refused.
    fn query(&self, context: &Context, query: Self::Query) -> Result<Self::Answer, Self::Error>;

    /// Makes this build's state of one that an older build wrote as `version`, which is below
    /// [`STATE_VERSION`](Self::STATE_VERSION).
    ///
    /// Not called for the own version, nor for a newer one: that is refused. Read the old shape with
    /// [`StateReader::read`]. Unless implemented, no older state is accepted.
    ///
    /// # Errors
    /// One sentence. The host keeps the VM that it has.
    fn migrate(version: u32, state: StateReader) -> Result<Self, String> {
        let _ = state;
        Err(format!(
            "state has version {version}, this workload reads only version {}: implement `Workload::migrate` to read \
             older ones",
            Self::STATE_VERSION
        ))
    }
}

/// Who asks for what, and when. The same however often a transaction is replayed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// The transaction's id: unique for its user and service.
    pub id: String,
    /// The name of the authenticated user.
    pub user: String,
    /// The transaction's place in the service's history, from 1. A query sees that of the last transaction.
    pub sequence: u64,
    /// Nanoseconds since 1970-01-01T00:00:00Z. Never goes back from one transaction to the next.
    pub timestamp: u64,
}

/// Stands for the query, and for its answer, of a workload that answers none. It has no values: decoding one always
/// fails, which is what the user is told.
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
