//! A log that lives as long as its process.

use super::retained::Retained;
use super::{Appended, Commit, JournalError, Log, Pinned, Record, RelocatedAnswer, TransactionRecord};
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use lifeboat_journal::frame::RecordNumber;
use std::sync::Arc;

/// A log in memory. It retains answers alone: the tail belongs to the history, and SLA failures and failovers are
/// reported as events. Memory is released answer by answer, so no answer pins others, and none is relocated.
#[derive(Debug, Default)]
pub struct MemoryLog {
    last: RecordNumber,
    /// The transactions whose answers are retained, without their bodies.
    answers: Retained<Arc<TransactionRecord>>,
}

impl Log for MemoryLog {
    fn append(&mut self, expected: RecordNumber, record: &Record) -> Result<Appended, JournalError> {
        JournalError::fence(expected, self.last)?;
        self.last = expected;
        if let Some(transaction) = record.retained_answer() {
            self.answers.push(expected, without_body(transaction));
        }
        let answer_bytes = match record {
            Record::Transaction(transaction) if transaction.is_id_kept => transaction.answer_bytes(),
            _ => 0,
        };
        Ok(Appended { commit: Commit::done(), answer_bytes, written_bytes: None })
    }

    fn read(&mut self, number: RecordNumber) -> BoxFuture<'_, Result<Option<Arc<TransactionRecord>>, JournalError>> {
        std::future::ready(Ok(self.answers.get(number).cloned())).boxed()
    }

    fn release(&mut self, number: RecordNumber) {
        self.answers.release(number);
    }

    fn try_reserve(&mut self, _bytes: u64) -> bool {
        true
    }

    fn reserve(&mut self, _bytes: u64) -> BoxFuture<'_, Result<(), JournalError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn reserve_outcome(&mut self, _bytes: u64) -> BoxFuture<'_, Result<(), JournalError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn is_stalled(&self) -> bool {
        false
    }

    fn written_bytes(&mut self) -> Option<u64> {
        None
    }

    fn pinned(&self) -> Option<Pinned> {
        None
    }

    fn due(&mut self, _span_bytes: u64) -> BoxFuture<'_, Vec<(RecordNumber, RelocatedAnswer)>> {
        std::future::ready(Vec::new()).boxed()
    }
}

/// Returns what is retained of an answer. The calls are for the next attempt, if there may be one.
fn without_body(record: &TransactionRecord) -> Arc<TransactionRecord> {
    let network = record.network.clone().filter(|_| record.may_run_again());
    Arc::new(TransactionRecord { body: Bytes::new(), network, ..record.clone() })
}
