//! The calls of a service's history, as they happened, for a replay to repeat.

use crate::network::Network;
use bytes::Bytes;
use lifeboat_api::call::CallRecord;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::meter::NetworkAmount;
use lifeboat_api::name::Name;
use lifeboat_api::transaction::{Answer, ReplyHash};
use std::sync::Arc;

/// The approximate size of a record without its body and answer, in bytes.
pub const RECORD_BYTES: u64 = 256;

/// The approximate size of a query without its id and its body, in bytes.
const QUERY_BYTES: u64 = 96;

/// A transaction as it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionRecord {
    /// Its sequence number in the history.
    pub sequence: Sequence,
    /// Its idempotency key.
    pub id: Box<str>,
    /// Whether the client supplied the id, so that this record answers a repetition of it.
    pub is_id_kept: bool,
    /// The user who sent it.
    pub user: Name,
    /// The incarnation of the user: several users may have had this name one after another.
    pub incarnation: u64,
    /// The time that both clocks of the guest showed.
    pub timestamp: Timestamp,
    /// The epoch, which selects the random numbers that the guest saw.
    pub epoch: Epoch,
    /// The body that the guest received. Empty in a retained answer.
    pub body: Bytes,
    /// The hash of the body.
    pub body_hash: ReplyHash,
    /// Its outcome.
    pub answer: Answer,
    /// The fuel burnt by the attempt that was answered: for `ok` and `refused`, the charge to the VM's tank.
    pub fuel_used: u64,
    /// The fuel charged for queries since the previous record, on the same VM.
    pub query_fuel_used: u64,
    /// What it did on the network. None if it had no network.
    pub network: Option<Arc<NetworkRecord>>,
}

/// What a transaction did on the network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkRecord {
    /// What is charged to the VM, also of attempts that were rolled back.
    pub charged: NetworkAmount,
    /// The calls of a kept transaction, for a replay, with the times at which its guest saw them. Those of a failed one,
    /// for the next attempt of its id.
    pub calls: Arc<[CallRecord]>,
}

impl NetworkRecord {
    /// Returns its approximate size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.calls.iter().map(CallRecord::bytes).sum()
    }
}

impl TransactionRecord {
    /// Returns the approximate size of the record in bytes, with the calls of which it has the results. The body and,
    /// unless it may run again, the calls count only until a snapshot includes it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let calls = if self.may_run_again() { 0 } else { self.network_bytes() };
        self.answer_bytes() + self.body.len() as u64 + calls
    }

    /// Returns the approximate number of bytes that the record takes while only its answer is retained.
    #[must_use]
    pub fn answer_bytes(&self) -> u64 {
        let answer = match &self.answer {
            Answer::Ok(reply) => reply.len(),
            Answer::Refused(text) => text.len(),
            Answer::Failed(_) => 0,
        };
        let calls = if self.may_run_again() { self.network_bytes() } else { 0 };
        RECORD_BYTES + (self.id.len() + answer) as u64 + calls
    }

    fn network_bytes(&self) -> u64 {
        self.network.as_ref().map_or(0, |network| network.bytes())
    }

    /// Returns whether the host caused its failure, so that the same id may run again.
    #[must_use]
    pub fn may_run_again(&self) -> bool {
        matches!(&self.answer, Answer::Failed(cause) if cause.is_retryable())
    }

    /// Returns the network of its replay.
    #[must_use]
    pub fn replayed_network(&self) -> Network {
        self.network.as_ref().map_or(Network::None, |network| Network::Recorded(Arc::clone(&network.calls)))
    }
}

/// A query that was answered `ok` or `refused`. It may have changed the instance, so a replay repeats it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryRecord {
    /// The id that the guest saw.
    pub id: Box<str>,
    /// The user who sent it.
    pub user: Name,
    /// The time that both clocks of the guest showed.
    pub timestamp: Timestamp,
    /// The body that the guest received.
    pub body: Bytes,
    /// The hash of its answer. A replay reports a difference only together with a transaction that differs.
    pub reply_hash: ReplyHash,
    /// The fuel that it burnt.
    pub fuel_used: u64,
}

impl QueryRecord {
    /// Returns its approximate size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        QUERY_BYTES + (self.id.len() + self.body.len()) as u64
    }
}

/// Queries that ran one after another, with no transaction in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueriesRecord {
    /// The sequence number of the last transaction before them.
    pub sequence: Sequence,
    /// The epoch, which selects the random numbers that the guest saw.
    pub epoch: Epoch,
    /// The queries, in order.
    pub queries: Vec<QueryRecord>,
}

impl QueriesRecord {
    /// Returns their approximate size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.queries.iter().map(QueryRecord::bytes).sum()
    }
}

/// An entry of a tail: the calls of one record, for a replay to repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TailEntry {
    /// A transaction that was answered `ok` or `refused`.
    Transaction(Arc<TransactionRecord>),
    /// Queries that ran one after another.
    Queries(Arc<QueriesRecord>),
}

impl TailEntry {
    /// Returns the number of calls in the entry.
    #[must_use]
    pub fn calls(&self) -> usize {
        match self {
            Self::Transaction(_) => 1,
            Self::Queries(record) => record.queries.len(),
        }
    }

    /// Returns the number of transactions in the entry.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        u64::from(matches!(self, Self::Transaction(_)))
    }

    /// Returns the fuel that its calls burnt.
    #[must_use]
    pub fn fuel_used(&self) -> u64 {
        match self {
            Self::Transaction(record) => record.fuel_used,
            Self::Queries(record) => record.queries.iter().map(|query| query.fuel_used).sum(),
        }
    }

    /// Returns its approximate size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Transaction(record) => record.bytes(),
            Self::Queries(record) => record.bytes(),
        }
    }
}
