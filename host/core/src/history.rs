//! The history of one service: what a replay repeats since the last proven snapshot, and which transaction answered
//! which id. It is the same above every [`Log`].
//!
//! ```text
//!   append --> log (record N) --> tail, until a snapshot includes it
//!                             \-> index of ids, until it is beyond the deduplication window --> released in the log
//! ```
//!
//! The index points to records of the log, and the log retains what the index points to. Only this file changes either,
//! so that they agree.

use crate::answers::{Answers, Caller, IdKey, KeptId, Moment};
use crate::journal::tail::{ForgottenTail, Tail};
use crate::journal::{
    Appended, Commit, JOURNAL_BYTES_MAX, JournalError, Log, RECORD_BYTES, Record, TailEntry, TransactionRecord,
};
use lifeboat_api::clock::Timestamp;
use lifeboat_journal::frame::RecordNumber;
use std::sync::Arc;
use std::time::Duration;

/// The history of one service.
pub(crate) struct History {
    log: Box<dyn Log>,
    /// The last record.
    last: RecordNumber,
    tail: Tail,
    /// [`Log::written_bytes`] after the last record.
    written_bytes: Option<u64>,
    /// [`Log::written_bytes`] when the last proven snapshot was adopted.
    snapshot_bytes: u64,
    answers: Answers,
}

/// What was found of a history.
#[derive(Debug)]
pub(crate) struct FoundHistory {
    /// The last record.
    pub(crate) last: RecordNumber,
    /// What a replay repeats since the snapshot from which the service continues, in order.
    pub(crate) tail: Vec<(RecordNumber, TailEntry)>,
    /// The part of [`Log::written_bytes`] that is included in that snapshot.
    pub(crate) snapshot_bytes: u64,
}

impl History {
    /// Begins the history of a service with an empty log.
    pub(crate) fn new(mut log: Box<dyn Log>, answers: Answers) -> Self {
        let written_bytes = log.written_bytes();
        let snapshot_bytes = written_bytes.unwrap_or_default();
        Self { log, last: RecordNumber(0), tail: Tail::default(), written_bytes, snapshot_bytes, answers }
    }

    /// Continues a history. `answers` points to the answers that `log` retains.
    pub(crate) fn continued(mut log: Box<dyn Log>, answers: Answers, found: FoundHistory) -> Self {
        let written_bytes = log.written_bytes();
        Self {
            log,
            last: found.last,
            tail: found.tail.into_iter().collect(),
            written_bytes,
            snapshot_bytes: found.snapshot_bytes,
            answers,
        }
    }

    /// Returns the last record.
    pub(crate) fn last_record(&self) -> RecordNumber {
        self.last
    }

    /// Returns the bytes of the records since the last proven snapshot was adopted, or in memory since it was begun.
    pub(crate) fn tail_bytes(&self) -> u64 {
        self.written_bytes.map_or(self.tail.bytes(), |written| written.saturating_sub(self.snapshot_bytes))
    }

    /// Returns the bytes that count towards [`JOURNAL_BYTES_MAX`] until a snapshot is proven.
    pub(crate) fn held_bytes(&self) -> u64 {
        // Failed transactions are not in the tail, but they are in the log.
        self.tail.bytes().max(self.tail_bytes())
    }

    /// Returns the share of some entries of the tail in [`History::held_bytes`].
    pub(crate) fn held_bytes_of(&self, entries: &[TailEntry]) -> u64 {
        let bytes: u64 = entries.iter().map(TailEntry::bytes).sum();
        // On a disk, a record also takes its share of the padding of its frame.
        let held = u128::from(bytes) * u128::from(self.held_bytes());
        let held = held.checked_div(u128::from(self.tail.bytes())).unwrap_or_default();
        u64::try_from(held).unwrap_or(u64::MAX)
    }

    /// Checks that records of `bytes` more can be held. The service calls this before it executes a transaction,
    /// because an executed transaction must be journalled.
    ///
    /// # Errors
    /// [`JournalError::Full`].
    pub(crate) fn check_room(&self, bytes: u64) -> Result<(), JournalError> {
        let bytes = self.held_bytes().saturating_add(bytes).saturating_add(RECORD_BYTES);
        if bytes > JOURNAL_BYTES_MAX {
            return Err(JournalError::Full { bytes, limit_bytes: JOURNAL_BYTES_MAX });
        }
        Ok(())
    }

    /// As [`Log::is_stalled`].
    pub(crate) fn is_stalled(&self) -> bool {
        self.log.is_stalled()
    }

    /// Waits until room for a record of about `bytes` is reserved. The service calls this before it executes a
    /// transaction, too.
    ///
    /// # Errors
    /// As [`Log::reserve`].
    pub(crate) async fn reserve(&mut self, bytes: u64) -> Result<(), JournalError> {
        if self.log.try_reserve(bytes) {
            return Ok(());
        }
        self.log.reserve(bytes).await
    }

    /// Waits until room for the outcome of a call of about `bytes` is reserved.
    ///
    /// # Errors
    /// As [`Log::reserve`].
    pub(crate) async fn reserve_outcome(&mut self, bytes: u64) -> Result<(), JournalError> {
        self.log.reserve_outcome(bytes).await
    }

    /// Appends a record. The sequence numbers of transactions must increase. Returns the commit of the record, and the
    /// bytes that it takes to retain its answer.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub(crate) fn append(&mut self, record: &Record) -> Result<(Commit, u64), JournalError> {
        let number = self.last.next();
        let Appended { commit, answer_bytes, written_bytes } = self.log.append(number, record)?;
        self.last = number;
        self.written_bytes = written_bytes;
        if let Some(entry) = record.tail_entry() {
            self.tail.push(number, entry);
        }
        Ok((commit, answer_bytes))
    }

    /// Returns what a replay repeats of the records after `after`, in order. Failed transactions changed nothing and
    /// are not repeated.
    pub(crate) fn tail(&self, after: RecordNumber) -> Vec<TailEntry> {
        self.tail.after(after)
    }

    /// Forgets what is only needed to replay records up to `through`, because a proven snapshot includes them. Returns
    /// it, so that the caller can drop it where no client waits: for a long tail that takes milliseconds.
    #[must_use]
    pub(crate) fn forget_tail(&mut self, through: RecordNumber) -> ForgottenTail {
        self.written_bytes = self.log.written_bytes();
        self.snapshot_bytes = self.written_bytes.unwrap_or_default();
        self.tail.forget(through)
    }

    /// Returns the first record that is needed for answers, or the one after the last if no answer is retained.
    pub(crate) fn first_answer(&self) -> RecordNumber {
        self.log.pinned().map_or(self.last.next(), |pinned| pinned.first)
    }

    /// Returns the index of ids.
    pub(crate) fn answers(&self) -> &Answers {
        &self.answers
    }

    /// As [`Answers::look_at_clock`].
    pub(crate) fn look_at_clock(&mut self, before: Timestamp, now: Moment) {
        self.answers.look_at_clock(before, now);
    }

    /// Returns the retained answer to the id with this key, or none if the id is unknown. It may lack the
    /// transaction's body.
    ///
    /// # Errors
    /// The id is known, and its answer cannot be read. The transaction must not be executed again.
    pub(crate) async fn answered(&mut self, key: &IdKey) -> Result<Option<Arc<TransactionRecord>>, JournalError> {
        let Some(number) = self.answers.find(key) else { return Ok(None) };
        let record = self.log.read(number).await?;
        let missing = || JournalError::Unreadable { number, reason: "the journal retains no answer there".into() };
        record.ok_or_else(missing).map(Some)
    }

    /// The same, with the record that holds the answer.
    ///
    /// # Errors
    /// As [`History::answered`].
    pub(crate) async fn answered_at(
        &mut self,
        key: &IdKey,
    ) -> Result<Option<(RecordNumber, Arc<TransactionRecord>)>, JournalError> {
        let Some(number) = self.answers.find(key) else { return Ok(None) };
        Ok(self.answered(key).await?.map(|record| (number, record)))
    }

    /// Replaces the retained answer of a key, which is in record `from`, by a copy that says more.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub(crate) fn replace_answer(
        &mut self,
        key: &IdKey,
        from: RecordNumber,
        copy: Record,
    ) -> Result<Commit, JournalError> {
        let (commit, _) = self.append(&copy)?;
        self.log.release(from);
        if !self.answers.relocate(key, from, self.last) {
            self.log.release(self.last);
        }
        Ok(commit)
    }

    /// Makes room for the answer to one more id of a user.
    ///
    /// # Errors
    /// There is no room. The error is the time until the user's oldest answer may be forgotten.
    pub(crate) fn make_room(&mut self, caller: &Caller, now: Moment) -> Result<(), Duration> {
        let mut forgotten = Vec::new();
        let room = self.answers.make_room(caller, now, &mut forgotten);
        forgotten.into_iter().for_each(|number| self.log.release(number));
        room
    }

    /// Indexes the id of the transaction in the last record. Replaces an earlier, retryable answer of the same id.
    pub(crate) fn index(&mut self, kept: KeptId, wall: Timestamp) {
        if let Some(replaced) = self.answers.insert(kept, wall) {
            self.log.release(replaced);
        }
    }

    /// Forgets answers beyond the deduplication window. Each call checks the age of one user's answers, and the next
    /// call checks the next user's. Returns whether it forgot some.
    pub(crate) fn trim(&mut self, now: Moment) -> bool {
        let mut has_forgotten = false;
        while let Some(number) = self.answers.trim(now) {
            self.log.release(number);
            has_forgotten = true;
        }
        has_forgotten
    }

    /// Forgets all answers beyond the deduplication window.
    pub(crate) fn trim_all(&mut self, now: Moment) {
        for _ in 0..=self.answers.users() {
            self.trim(now);
        }
    }

    /// Relocates the first retained answers to the end of the log if they hold up more than the deduplication window
    /// allows. Relocates only as many as the records appended since pay for. Returns at once if there is nothing to
    /// relocate.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub(crate) async fn relocate_answers(&mut self) -> Result<(), JournalError> {
        let span_bytes = self.answers.span_bytes_max();
        if self.log.pinned().is_none_or(|pinned| pinned.span_bytes <= span_bytes) {
            return Ok(());
        }
        for (from, answer) in self.log.due(span_bytes).await {
            let TransactionRecord { user, incarnation, id, .. } = &*answer.transaction;
            let key = IdKey::new(user, *incarnation, id);
            self.replace_answer(&key, from, Record::Relocated(answer))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
