//! The records of a service, and the logs that hold them: transactions, SLA failures, failovers.
//!
//! A [`Log`] appends records, and reads those back whose answers it retains. It knows nothing of ids or replays: these
//! belong to the history of the service (`history.rs`), which is the same above every log. [`MemoryLog`] lives as long
//! as its process. [`durable::DurableLog`] writes to the journal of a data directory. A reply leaves the host only when
//! the [`Commit`] of its record is over.

pub mod answer;
pub mod durable;
mod memory;
pub mod record;
mod retained;
pub(crate) mod tail;

pub use memory::MemoryLog;

use lifeboat_journal::{commit, frame, ticket};
pub use lifeboat_vm::tail::{NetworkRecord, QueriesRecord, QueryRecord, RECORD_BYTES, TailEntry, TransactionRecord};

use frame::RecordNumber;
use futures::future::BoxFuture;
use lifeboat_api::call::{CallRecord, RequestHash};
use lifeboat_api::clock::Timestamp;
use lifeboat_api::event::{Failover, SlaFailure};
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::name::Name;
use lifeboat_api::size::{Bytes as ByteCount, BytesBeside};
use lifeboat_api::transaction::ReplyHash;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use ticket::{Committed, Ticket};

/// The limit of a service's history since its last snapshot, in bytes: in memory, for replays, and for a durable
/// service also on the disk. A service whose snapshots fail denies transactions beyond it.
pub const JOURNAL_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The parts of [`JOURNAL_BYTES_MAX`], in percent and ascending, at which a service reports that its journal fills up.
/// Half of the limit is twice as much as any service holds whose snapshots succeed. Below the first part, the journal
/// counts as relieved.
pub const JOURNAL_FILLING_PERCENT: [u64; 2] = [50, 80];

/// An entry of the history.
#[derive(Debug, Clone)]
pub enum Record {
    /// A host started the service. The records after this one belong to this epoch.
    Opened {
        /// The time of the start.
        timestamp: Timestamp,
        /// The epoch that begins.
        epoch: Epoch,
    },
    /// A snapshot of the current state was begun.
    Snapshot {
        /// The last transaction that is part of the snapshot.
        sequence: Sequence,
    },
    /// A transaction.
    Transaction(Arc<TransactionRecord>),
    /// The utilisation of a resource reached the threshold.
    SlaFailure(SlaFailure),
    /// The service moved into a fresh VM, whose size this names.
    Failover(Failover),
    /// The queries that ran since the previous transaction.
    Queries(Arc<QueriesRecord>),
    /// A copy of a retained answer, so that the original record can be reclaimed.
    Relocated(RelocatedAnswer),
    /// A transaction is about to make a call to the network.
    CallIntent(Arc<CallIntent>),
    /// The outcome of a call, as it arrived.
    CallOutcome(Arc<CallOutcome>),
}

/// A transaction is about to make a call. The call is made once this record is durable. If no [`CallOutcome`] follows,
/// it is unknown whether the call was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallIntent {
    /// The transaction's sequence number.
    pub sequence: Sequence,
    /// The transaction's id.
    pub id: Box<str>,
    /// Whether the client supplied the id.
    pub is_id_kept: bool,
    /// The user who sent the transaction.
    pub user: Name,
    /// The incarnation of the user.
    pub incarnation: u64,
    /// The time at which the transaction began.
    pub timestamp: Timestamp,
    /// The hash of the transaction's body.
    pub body_hash: ReplyHash,
    /// The place of the call among those of the transaction, from 0.
    pub index: u32,
    /// The hash of the request.
    pub hash: RequestHash,
    /// The method of the request.
    pub method: String,
    /// The address of the request, as of [`CallRequest::target`](lifeboat_api::call::CallRequest::target).
    pub target: String,
    /// The bytes of the request.
    pub bytes: u64,
}

/// The outcome of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallOutcome {
    /// The sequence number of the transaction that made the call.
    pub sequence: Sequence,
    /// The call. It has a result.
    pub call: CallRecord,
    /// How long the call took. 0 if an earlier attempt made it.
    pub took: Duration,
    /// The bytes of the response.
    pub bytes: u64,
}

impl Record {
    /// Returns the transaction whose answer a log retains, if the record has one: the client gave its id, or it is a
    /// copy.
    #[must_use]
    pub fn retained_answer(&self) -> Option<&Arc<TransactionRecord>> {
        match self {
            Self::Transaction(transaction) if transaction.is_id_kept => Some(transaction),
            Self::Relocated(RelocatedAnswer { transaction, .. }) => Some(transaction),
            _ => None,
        }
    }

    /// Returns what a replay repeats of the record, or none if the replay does not need it.
    #[must_use]
    pub(crate) fn tail_entry(&self) -> Option<TailEntry> {
        match self {
            Self::Transaction(transaction) if transaction.answer.is_kept() => {
                Some(TailEntry::Transaction(Arc::clone(transaction)))
            }
            Self::Queries(queries) => Some(TailEntry::Queries(Arc::clone(queries))),
            _ => None,
        }
    }
}

/// A copy of a retained answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelocatedAnswer {
    /// The transaction, without its body.
    pub transaction: Arc<TransactionRecord>,
    /// The approximate bytes of its first record, which its user is charged for.
    pub bytes: u64,
}

/// The journal refuses records, or cannot return a record that was written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The history since the last snapshot has reached its limit.
    #[error(
        "the journal would hold {} since the last snapshot, the limit is {}; the service must be snapshotted first",
        BytesBeside { bytes: *bytes, bound: *limit_bytes }, ByteCount(*limit_bytes)
    )]
    Full {
        /// The bytes that the journal would hold with the refused record.
        bytes: u64,
        /// The limit, in bytes.
        limit_bytes: u64,
    },
    /// The journal is short of room, and cannot begin its next segment for now. Nothing is lost.
    #[error("{reason}")]
    Stalled {
        /// What is missing.
        reason: String,
    },
    /// The journal ended because the storage failed or the host stops. It accepts no more records.
    #[error("the journal has ended: {reason}; check the disk and start the host again")]
    Ended {
        /// The cause.
        reason: String,
    },
    /// The log has another last record than its owner appended.
    #[error(
        "record {expected} cannot be appended: the last record of the journal is {last}, so something else has appended \
         to it; start the host again"
    )]
    Fenced {
        /// The number of the record that was to be appended.
        expected: RecordNumber,
        /// The number of the last record.
        last: RecordNumber,
    },
    /// A written record cannot be read.
    #[error("record {number} of the journal cannot be read: {reason}; check the directory with lifeboat data verify")]
    Unreadable {
        /// The number of the record.
        number: RecordNumber,
        /// The cause.
        reason: String,
    },
}

/// A notification that a record can no longer be lost, as far as the journal promises. The reply to a transaction waits
/// for its own record. The reply to a repeated id or a query waits for the last record. The service continues
/// meanwhile.
#[derive(Debug, Clone)]
pub struct Commit(Option<Ticket>);

impl Commit {
    /// Returns a commit that is over: the record is as safe as it can be.
    #[must_use]
    pub fn done() -> Self {
        Self(None)
    }

    /// Returns a commit that is over when `ticket` is.
    #[must_use]
    pub fn pending(ticket: Ticket) -> Self {
        Self(Some(ticket))
    }

    /// Returns whether the outcome of the record is known.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.as_ref().is_none_or(Ticket::is_over)
    }

    /// Calls `then` when the record is safe: now, or later on the journal's thread, which it must not block. It gets an
    /// error if the record could not be made safe: whether the record exists after a restart is then unknown.
    pub fn then(&self, then: impl FnOnce(Result<(), JournalError>) + Send + 'static) {
        match &self.0 {
            None => then(Ok(())),
            Some(ticket) => ticket.then(|committed| then(of_journal(committed.clone()))),
        }
    }

    /// Calls `then` as [`Commit::then`] does, but waits for room no longer than [`HELD_MAX`](commit::HELD_MAX). After
    /// that, `then` gets [`JournalError::Stalled`], and the record is made safe later.
    pub fn then_or_held(&self, then: impl FnOnce(Result<(), JournalError>) + Send + 'static) {
        match &self.0 {
            None => then(Ok(())),
            Some(ticket) => ticket.then_or_held(|committed| then(of_journal(committed.clone()))),
        }
    }

    /// Waits until the record is safe, as long as [`Commit::then_or_held`] does.
    ///
    /// # Errors
    /// The errors of [`Commit::durable`], and [`JournalError::Stalled`].
    pub(crate) async fn durable_or_held(self) -> Result<(), JournalError> {
        match self.0 {
            None => Ok(()),
            Some(ticket) => of_journal(ticket.committed_or_held().await),
        }
    }

    /// Waits until the record is safe.
    ///
    /// # Errors
    /// The record could not be made safe: whether it exists after a restart is unknown.
    pub async fn durable(self) -> Result<(), JournalError> {
        match self.0 {
            None => Ok(()),
            Some(ticket) => of_journal(ticket.committed().await),
        }
    }
}

fn of_journal(committed: Committed) -> Result<(), JournalError> {
    committed.map(drop).map_err(|error| JournalError::ended(&error))
}

impl JournalError {
    /// Checks that the record `expected` follows the `last` one of a log.
    ///
    /// # Errors
    /// [`JournalError::Fenced`].
    pub fn fence(expected: RecordNumber, last: RecordNumber) -> Result<(), Self> {
        if expected == last.next() { Ok(()) } else { Err(Self::Fenced { expected, last }) }
    }

    fn ended(error: &commit::CommitError) -> Self {
        match error {
            commit::CommitError::Stalled(_) => Self::Stalled { reason: error.to_string() },
            error => Self::Ended { reason: lifeboat_api::text::chain(error) },
        }
    }
}

/// A record was appended.
#[derive(Debug)]
pub struct Appended {
    /// Is over when the record can no longer be lost.
    pub commit: Commit,
    /// The bytes that it takes to retain the answer in a record. Zero for any record but a transaction with an id of
    /// the client.
    pub answer_bytes: u64,
    /// As [`Log::written_bytes`].
    pub written_bytes: Option<u64>,
}

/// What the first retained answer of a log holds up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pinned {
    /// The record of that answer.
    pub first: RecordNumber,
    /// The bytes of the log from that record on.
    pub span_bytes: u64,
}

/// The records of one service, numbered in order.
///
/// A log retains each answer of [`Record::retained_answer`] until it is released. Everything else that the service
/// needs of its past is in its history and in its snapshots.
pub trait Log: Send {
    /// Appends a record. `expected` is its number, and follows that of the last record.
    ///
    /// # Errors
    /// [`JournalError::Fenced`] if it does not follow, [`JournalError::Ended`], [`JournalError::Stalled`]. Nothing was
    /// appended.
    fn append(&mut self, expected: RecordNumber, record: &Record) -> Result<Appended, JournalError>;

    /// Returns the retained answer in record `number`, or none if the log retains none there. It may lack the
    /// transaction's body.
    ///
    /// # Errors
    /// The record cannot be read.
    fn read(&mut self, number: RecordNumber) -> BoxFuture<'_, Result<Option<Arc<TransactionRecord>>, JournalError>>;

    /// Releases the answer in record `number`, so that the log may be truncated behind it.
    fn release(&mut self, number: RecordNumber);

    /// Reserves room for a record of about `bytes` if there is some now. Returns whether the next record can be
    /// appended.
    fn try_reserve(&mut self, bytes: u64) -> bool;

    /// Waits until room for a record of about `bytes` is reserved.
    ///
    /// # Errors
    /// [`JournalError::Stalled`], [`JournalError::Ended`].
    fn reserve(&mut self, bytes: u64) -> BoxFuture<'_, Result<(), JournalError>>;

    /// Waits until room for the outcome of a call of about `bytes` is reserved.
    ///
    /// # Errors
    /// As [`Log::reserve`].
    fn reserve_outcome(&mut self, bytes: u64) -> BoxFuture<'_, Result<(), JournalError>>;

    /// Returns whether appended records may wait for a long time because there is no room for them.
    fn is_stalled(&self) -> bool;

    /// Returns the bytes of all records that were written, counted from some point in time. None if the log takes no
    /// room beside the history.
    fn written_bytes(&mut self) -> Option<u64>;

    /// Returns what the first retained answer holds up. None if no answer is retained, or if answers hold up nothing.
    fn pinned(&self) -> Option<Pinned>;

    /// Reads the first retained answers that hold up more than `span_bytes`, in order, to append them once more. Reads
    /// only as many as the records appended since pay for.
    fn due(&mut self, span_bytes: u64) -> BoxFuture<'_, Vec<(RecordNumber, RelocatedAnswer)>>;
}
