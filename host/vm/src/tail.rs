//! The calls of a service's history, as they happened: what a replay repeats.

use bytes::Bytes;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::name::Name;
use lifeboat_api::transaction::{Answer, ReplyHash};
use std::sync::Arc;

/// Bytes that a record takes beside its body and answer, roughly.
pub const RECORD_BYTES: u64 = 256;

/// Bytes that a query takes beside its id and its body, roughly.
const QUERY_BYTES: u64 = 96;

/// One transaction, as it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionRecord {
    /// Its place in the history.
    pub sequence: Sequence,
    /// Its id.
    pub id: Box<str>,
    /// Whether the client gave the id, so that a repetition of it is to be answered from here.
    pub is_id_kept: bool,
    /// Who sent it.
    pub user: Name,
    /// Which of the users who had that name one after another.
    pub incarnation: u64,
    /// The time that the guest saw.
    pub timestamp: Timestamp,
    /// Which random numbers the guest saw.
    pub epoch: Epoch,
    /// What the guest got. Empty in a kept answer.
    pub body: Bytes,
    /// The hash of the body.
    pub body_hash: ReplyHash,
    /// How it ended.
    pub answer: Answer,
    /// Fuel that the answered attempt burnt: for `ok` and `refused`, what the VM's tank was charged.
    pub fuel_used: u64,
    /// Fuel that queries were charged since the record before, on the same VM.
    pub query_fuel_used: u64,
}

impl TransactionRecord {
    /// Bytes that the record takes, roughly: its body only until a snapshot includes it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.answer_bytes() + self.body.len() as u64
    }

    /// Bytes that it goes on to take while its answer is kept.
    #[must_use]
    pub fn answer_bytes(&self) -> u64 {
        let answer = match &self.answer {
            Answer::Ok(reply) => reply.len(),
            Answer::Refused(text) => text.len(),
            Answer::Failed(_) => 0,
        };
        RECORD_BYTES + (self.id.len() + answer) as u64
    }
}

/// A query that was answered `ok` or `refused`. It may have changed the instance, so a replay runs it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryRecord {
    /// Its id, as the guest saw it.
    pub id: Box<str>,
    /// Who sent it.
    pub user: Name,
    /// The time that the guest saw.
    pub timestamp: Timestamp,
    /// What the guest got.
    pub body: Bytes,
    /// The hash of its answer. A replay reports a difference only with a transaction that differs.
    pub reply_hash: ReplyHash,
    /// Fuel that it burnt.
    pub fuel_used: u64,
}

impl QueryRecord {
    /// Bytes that it takes, roughly.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        QUERY_BYTES + (self.id.len() + self.body.len()) as u64
    }
}

/// Queries that ran one after another, with no transaction in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueriesRecord {
    /// The last transaction before them.
    pub sequence: Sequence,
    /// Which random numbers the guest saw.
    pub epoch: Epoch,
    /// The queries, in order.
    pub queries: Vec<QueryRecord>,
}

impl QueriesRecord {
    /// Bytes that they take, roughly.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.queries.iter().map(QueryRecord::bytes).sum()
    }
}

/// An entry of a tail: calls that a replay repeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TailEntry {
    /// A transaction that was answered `ok` or `refused`.
    Transaction(Arc<TransactionRecord>),
    /// Queries.
    Queries(Arc<QueriesRecord>),
}

impl TailEntry {
    /// How many calls it repeats.
    #[must_use]
    pub fn calls(&self) -> usize {
        match self {
            Self::Transaction(_) => 1,
            Self::Queries(record) => record.queries.len(),
        }
    }

    /// How many of them are transactions.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        u64::from(matches!(self, Self::Transaction(_)))
    }

    /// Fuel that its calls burnt.
    #[must_use]
    pub fn fuel_used(&self) -> u64 {
        match self {
            Self::Transaction(record) => record.fuel_used,
            Self::Queries(record) => record.queries.iter().map(|query| query.fuel_used).sum(),
        }
    }

    /// Bytes that it takes, roughly.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Transaction(record) => record.bytes(),
            Self::Queries(record) => record.bytes(),
        }
    }
}
