//! The ordered history of a service since its last snapshot: transactions, SLA failures, failovers.
//!
//! [`Journal`] is the interface that a service uses. [`MemoryJournal`] keeps the history in memory, for services that
//! live as long as their process. [`durable::DurableJournal`] keeps it on disk. A reply leaves the host only when the
//! [`Commit`] of its record is over.

pub mod answer;
pub mod durable;
pub mod record;

use lifeboat_journal::{commit, frame, ticket};
pub use lifeboat_vm::tail::{QueriesRecord, QueryRecord, RECORD_BYTES, TailEntry, TransactionRecord};

use bytes::Bytes;
use frame::RecordNumber;
use futures::future::{BoxFuture, FutureExt};
use lifeboat_api::clock::Timestamp;
use lifeboat_api::event::{Failover, SlaFailure};
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::size::{Bytes as ByteCount, BytesBeside};
use lifeboat_vm::rehydrate::RehydrateError;
use std::collections::VecDeque;
use std::sync::Arc;
use thiserror::Error;
use ticket::{Committed, Ticket};

/// The limit of a service's history since its last snapshot, in bytes: in memory, for replays, and for a durable
/// service also on the disk. A service whose snapshots fail denies transactions beyond it.
pub const JOURNAL_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The parts of [`JOURNAL_BYTES_MAX`], in percent and ascending, at which a service reports that its journal fills up.
/// Half of the limit is twice as much as any service holds whose snapshots succeed. Below the first part, the journal
/// counts as relieved.
pub const JOURNAL_FILLING_PERCENT: [u64; 2] = [50, 80];

/// The number of SLA failures and failovers that a [`MemoryJournal`] retains.
pub const EVENTS_KEPT_MAX: usize = 10_000;

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
}

impl Record {
    /// Returns what a replay repeats of the record, or none if the replay does not need it.
    #[must_use]
    pub fn tail_entry(&self) -> Option<TailEntry> {
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
    #[error("the journal takes no more: {reason}; see to the disk and start the host again")]
    Ended {
        /// The cause.
        reason: String,
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
    pub async fn durable_or_held(self) -> Result<(), JournalError> {
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

impl From<JournalError> for RehydrateError {
    fn from(error: JournalError) -> Self {
        Self::Unreadable { reason: error.to_string() }
    }
}

fn of_journal(committed: Committed) -> Result<(), JournalError> {
    committed.map(drop).map_err(|error| JournalError::ended(&error))
}

impl JournalError {
    fn ended(error: &commit::CommitError) -> Self {
        match error {
            commit::CommitError::Stalled(_) => Self::Stalled { reason: error.to_string() },
            error => Self::Ended { reason: lifeboat_api::text::chain(error) },
        }
    }
}

/// The interface of a service's history.
pub trait Journal: Send {
    /// Checks that records of `bytes` more can be appended. The service calls this before it executes a transaction,
    /// because an executed transaction must be journalled.
    ///
    /// # Errors
    /// [`JournalError::Full`].
    fn check_room(&self, bytes: u64) -> Result<(), JournalError>;

    /// Returns whether appended records may wait for a long time because the disk has no room for them.
    fn is_stalled(&self) -> bool {
        false
    }

    /// Returns whether a record of about `bytes` can be accepted now. If so, room for one is reserved.
    fn has_room(&mut self, bytes: u64) -> bool;

    /// Waits until [`has_room`](Journal::has_room) is true. The service calls this before it executes a transaction,
    /// too.
    ///
    /// # Errors
    /// [`JournalError::Stalled`], [`JournalError::Ended`].
    fn room(&mut self, bytes: u64) -> BoxFuture<'_, Result<(), JournalError>>;

    /// Returns the bytes of the records since the last proven snapshot.
    fn tail_bytes(&self) -> u64;

    /// Returns the bytes that count towards [`JOURNAL_BYTES_MAX`] until a snapshot is proven.
    fn held_bytes(&self) -> u64;

    /// Returns the bytes that it takes to retain the answer to this transaction.
    fn answer_bytes(&self, record: &TransactionRecord) -> u64;

    /// Returns the bytes of the history since the first retained answer.
    fn answers_span_bytes(&self) -> u64;

    /// Returns the number of the last appended record.
    fn last_record(&self) -> RecordNumber;

    /// Returns the first record that is needed for answers, or the one after the last if no answer is retained.
    fn first_answer(&self) -> RecordNumber;

    /// Appends a record. The sequence numbers of transactions must increase.
    ///
    /// # Errors
    /// Nothing was appended.
    fn append(&mut self, record: Record) -> Result<Commit, JournalError>;

    /// Returns what a replay repeats of the records after `after`, in order. Failed transactions changed nothing and
    /// are not repeated.
    ///
    /// # Errors
    /// The records cannot be read.
    fn tail(&self, after: RecordNumber) -> Result<Vec<TailEntry>, JournalError>;

    /// Returns the retained answer in record `number`, to a transaction whose id the client gave. It may lack the
    /// transaction's body.
    ///
    /// # Errors
    /// The record cannot be read.
    fn answered(&mut self, number: RecordNumber)
    -> BoxFuture<'_, Result<Option<Arc<TransactionRecord>>, JournalError>>;

    /// Releases what is only needed to replay records up to `through`, because a proven snapshot includes them. Returns
    /// it, so that the caller can drop it where no client waits: for a long tail that takes milliseconds.
    #[must_use]
    fn forget_tail(&mut self, through: RecordNumber) -> ForgottenTail;

    /// Forgets the answer in record `number`.
    fn forget_answer(&mut self, number: RecordNumber);

    /// Relocates the first retained answers to the end of the history, if retained answers pin more than `span_bytes` of
    /// it. Relocates only as many as the records appended since pay for. Returns the relocated answers. Returns at once
    /// if there is nothing to relocate.
    fn relocate_answers(&mut self, span_bytes: u64) -> BoxFuture<'_, Result<Vec<Relocation>, JournalError>>;
}

/// An answer that was relocated to another record.
#[derive(Debug, Clone)]
pub struct Relocation {
    /// The transaction, without its body.
    pub transaction: Arc<TransactionRecord>,
    /// The record that held the answer.
    pub from: RecordNumber,
    /// The record that holds the answer now.
    pub to: RecordNumber,
}

/// An entry of the tail since the last proven snapshot.
#[derive(Debug, Clone)]
struct InTail {
    number: RecordNumber,
    entry: TailEntry,
    /// The bytes of this entry and all earlier ones, since the journal was opened.
    bytes_through: u64,
}

/// The number of entries of a tail that are stored and released together.
const TAIL_PART: usize = 1024;

/// The released part of a tail.
#[derive(Debug, Default)]
pub struct ForgottenTail(Vec<Vec<InTail>>);

impl ForgottenTail {
    /// Returns the number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    /// Returns whether there are no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The entries that a replay repeats since the last proven snapshot, in parts of which none is empty. Parts make the
/// release cheap: a client waits while all but the last entries of a tail of a million transactions are released.
#[derive(Debug, Default)]
struct Tail {
    parts: VecDeque<Vec<InTail>>,
    bytes_through: u64,
    bytes_forgotten: u64,
}

impl Tail {
    fn bytes(&self) -> u64 {
        self.bytes_through - self.bytes_forgotten
    }

    fn push(&mut self, number: RecordNumber, entry: TailEntry) {
        self.bytes_through += entry.bytes();
        let last = InTail { number, entry, bytes_through: self.bytes_through };
        match self.parts.back_mut().filter(|part| part.len() < TAIL_PART) {
            Some(part) => part.push(last),
            None => {
                let mut part = Vec::with_capacity(TAIL_PART);
                part.push(last);
                self.parts.push_back(part);
            }
        }
    }

    /// Returns how many parts, from the first on, hold nothing after `number`.
    fn parts_through(&self, number: RecordNumber) -> usize {
        self.parts.partition_point(|part| part.last().is_none_or(|last| last.number <= number))
    }

    fn after(&self, number: RecordNumber) -> Vec<TailEntry> {
        let kept = self.parts.range(self.parts_through(number)..).flatten();
        kept.skip_while(|kept| kept.number <= number).map(|kept| kept.entry.clone()).collect()
    }

    /// Releases the entries up to `through`. This takes as long as moving one part, and a pointer for each of the
    /// others.
    fn forget(&mut self, through: RecordNumber) -> ForgottenTail {
        let mut forgotten: Vec<_> = self.parts.drain(..self.parts_through(through)).collect();
        if let Some(part) = self.parts.front_mut() {
            let count = part.partition_point(|kept| kept.number <= through);
            if count > 0 {
                forgotten.push(part.drain(..count).collect());
            }
        }
        if let Some(last) = forgotten.last().and_then(|part| part.last()) {
            self.bytes_forgotten = last.bytes_through;
        }
        ForgottenTail(forgotten)
    }
}

impl FromIterator<(RecordNumber, TailEntry)> for Tail {
    fn from_iter<I: IntoIterator<Item = (RecordNumber, TailEntry)>>(entries: I) -> Self {
        let mut tail = Self::default();
        entries.into_iter().for_each(|(number, entry)| tail.push(number, entry));
        tail
    }
}

/// A history that lives as long as its process.
#[derive(Debug, Default)]
pub struct MemoryJournal {
    tail: Tail,
    last_record: RecordNumber,
    /// The transactions whose ids are retained, without their bodies, by record. None replaces a forgotten one.
    answered: VecDeque<(RecordNumber, Option<Arc<TransactionRecord>>)>,
    forgotten: usize,
    events: VecDeque<Record>,
}

impl MemoryJournal {
    /// Returns the last [`EVENTS_KEPT_MAX`] SLA failures and failovers, in order.
    pub fn events(&self) -> impl Iterator<Item = &Record> {
        self.events.iter()
    }
}

impl Journal for MemoryJournal {
    fn check_room(&self, bytes: u64) -> Result<(), JournalError> {
        let bytes = self.held_bytes().saturating_add(bytes).saturating_add(RECORD_BYTES);
        if bytes > JOURNAL_BYTES_MAX {
            return Err(JournalError::Full { bytes, limit_bytes: JOURNAL_BYTES_MAX });
        }
        Ok(())
    }

    fn has_room(&mut self, _bytes: u64) -> bool {
        true
    }

    fn room(&mut self, _bytes: u64) -> BoxFuture<'_, Result<(), JournalError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn tail_bytes(&self) -> u64 {
        self.tail.bytes()
    }

    fn held_bytes(&self) -> u64 {
        self.tail.bytes()
    }

    fn answer_bytes(&self, record: &TransactionRecord) -> u64 {
        record.answer_bytes()
    }

    fn answers_span_bytes(&self) -> u64 {
        // Memory is released answer by answer.
        0
    }

    fn last_record(&self) -> RecordNumber {
        self.last_record
    }

    fn first_answer(&self) -> RecordNumber {
        // Memory is released answer by answer.
        self.last_record.next()
    }

    fn append(&mut self, record: Record) -> Result<Commit, JournalError> {
        self.last_record = self.last_record.next();
        if let Some(entry) = record.tail_entry() {
            self.tail.push(self.last_record, entry);
        }
        match record {
            Record::Transaction(record) => {
                if record.is_id_kept {
                    self.answered.push_back((self.last_record, Some(without_body(&record))));
                }
            }
            Record::Queries(_) => {}
            event => {
                if self.events.len() == EVENTS_KEPT_MAX {
                    self.events.pop_front();
                }
                self.events.push_back(event);
            }
        }
        Ok(Commit::done())
    }

    fn tail(&self, after: RecordNumber) -> Result<Vec<TailEntry>, JournalError> {
        Ok(self.tail.after(after))
    }

    fn answered(
        &mut self,
        number: RecordNumber,
    ) -> BoxFuture<'_, Result<Option<Arc<TransactionRecord>>, JournalError>> {
        let found = self.answered.binary_search_by_key(&number, |(number, _)| *number);
        std::future::ready(Ok(found.ok().and_then(|index| self.answered[index].1.clone()))).boxed()
    }

    fn forget_tail(&mut self, through: RecordNumber) -> ForgottenTail {
        self.tail.forget(through)
    }

    fn forget_answer(&mut self, number: RecordNumber) {
        let index = index_near_front(&self.answered, |(found, _)| *found < number);
        let Some((_, answer)) = self.answered.get_mut(index).filter(|(found, _)| *found == number) else { return };
        self.forgotten += usize::from(answer.take().is_some());
        while self.answered.pop_front_if(|(_, answer)| answer.is_none()).is_some() {
            self.forgotten -= 1;
        }
        if self.forgotten > self.answered.len() / 2 && self.forgotten > FORGOTTEN_PLACES_MAX {
            self.answered.retain(|(_, answer)| answer.is_some());
            self.forgotten = 0;
        }
    }

    fn relocate_answers(&mut self, _span_bytes: u64) -> BoxFuture<'_, Result<Vec<Relocation>, JournalError>> {
        std::future::ready(Ok(Vec::new())).boxed()
    }
}

/// The number of forgotten places that are left among those of retained answers. More are removed once they are the
/// majority.
const FORGOTTEN_PLACES_MAX: usize = 1024;

/// Returns how many items at the front satisfy `is_before`. Usually there are none or few, and a binary search of a
/// long queue would touch memory all over it.
fn index_near_front<T>(queue: &VecDeque<T>, is_before: impl Fn(&T) -> bool) -> usize {
    let (mut start, mut step) = (0, 1);
    while queue.get(start + step - 1).is_some_and(&is_before) {
        start += step;
        step *= 2;
    }
    let end = queue.len().min(start + step);
    let (mut low, mut high) = (start, end);
    while low < high {
        let middle = low.midpoint(high);
        if is_before(&queue[middle]) { low = middle + 1 } else { high = middle }
    }
    low
}

fn without_body(record: &TransactionRecord) -> Arc<TransactionRecord> {
    Arc::new(TransactionRecord { body: Bytes::new(), ..record.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_api::name::Name;
    use lifeboat_api::transaction::{Answer, ReplyHash};

    fn record(sequence: u64, is_id_kept: bool) -> Record {
        let body = Bytes::from(format!("body {sequence}"));
        Record::Transaction(Arc::new(TransactionRecord {
            sequence: Sequence(sequence),
            id: sequence.to_string().into(),
            is_id_kept,
            user: Name::new("ada").expect("a name"),
            incarnation: 0,
            timestamp: Timestamp(sequence),
            epoch: Epoch::default(),
            body_hash: ReplyHash::of_body(&body),
            body,
            answer: Answer::Ok(Bytes::from_static(b"1")),
            fuel_used: 1,
            query_fuel_used: 0,
        }))
    }

    fn sequences(tail: &[TailEntry]) -> Vec<u64> {
        let sequence = |entry: &TailEntry| match entry {
            TailEntry::Transaction(record) => record.sequence.0,
            TailEntry::Queries(record) => record.sequence.0,
        };
        tail.iter().map(sequence).collect()
    }

    fn answered(journal: &mut MemoryJournal, number: u64) -> Option<Arc<TransactionRecord>> {
        journal.answered(RecordNumber(number)).now_or_never().expect("at once").expect("readable")
    }

    #[test]
    fn the_tail_ends_at_the_snapshot_and_kept_answers_outlive_it() -> Result<(), JournalError> {
        let mut journal = MemoryJournal::default();
        for sequence in 1..=10 {
            journal.append(record(sequence, sequence % 2 == 0))?;
        }
        assert_eq!(journal.forget_tail(RecordNumber(6)).len(), 6);
        assert_eq!(sequences(&journal.tail(RecordNumber(0))?), [7, 8, 9, 10]);
        assert_eq!(journal.tail(RecordNumber(9))?.len(), 1);
        assert!(answered(&mut journal, 4).is_some_and(|kept| kept.body.is_empty()));
        assert!(answered(&mut journal, 8).is_some_and(|kept| kept.body_hash == ReplyHash::of_body(b"body 8")));
        assert!(answered(&mut journal, 5).is_none());
        journal.forget_answer(RecordNumber(4));
        assert!(answered(&mut journal, 2).is_some() && answered(&mut journal, 4).is_none());
        journal.forget_answer(RecordNumber(2));
        assert!(answered(&mut journal, 4).is_none() && answered(&mut journal, 8).is_some());
        assert_eq!((journal.answered.len(), journal.forgotten), (3, 0));
        assert_eq!(journal.forget_tail(RecordNumber(10)).len(), 4);
        assert_eq!(journal.tail_bytes(), 0);
        for number in [10, 6, 7, 8, 8] {
            journal.forget_answer(RecordNumber(number));
        }
        assert!(journal.answered.is_empty());
        Ok(())
    }

    #[test]
    fn an_item_is_found_from_the_front_wherever_it_is() {
        for length in 0..70 {
            let queue: VecDeque<u32> = (0..length).map(|item| 2 * item).collect();
            for bound in 0..150 {
                let expected = queue.partition_point(|item| *item < bound);
                assert_eq!(index_near_front(&queue, |item| *item < bound), expected, "{length}, {bound}");
            }
        }
    }

    #[test]
    fn a_tail_of_many_parts_is_told_and_given_up_from_any_transaction_on() -> Result<(), JournalError> {
        let part = TAIL_PART as u64;
        let last = 3 * part + 10;
        let mut journal = MemoryJournal::default();
        for sequence in 1..=last {
            journal.append(record(sequence, false))?;
        }
        let bytes_of_all = journal.tail_bytes();
        let mut through = 0;
        for step in [0, 1, part - 2, 1, 1, part, 10, part - 10, 8] {
            assert_eq!(journal.forget_tail(RecordNumber(through + step)).len() as u64, step);
            through += step;
            for after in [0, through, through + 1, through + part, last - 1, last] {
                let told = sequences(&journal.tail(RecordNumber(after))?);
                assert_eq!(told, (after.max(through) + 1..=last).collect::<Vec<u64>>(), "{through}, {after}");
            }
        }
        assert_eq!(through, last - 1);
        assert!(journal.tail_bytes() > 0 && journal.tail_bytes() < bytes_of_all / part);
        assert_eq!(journal.forget_tail(RecordNumber(last)).len(), 1);
        assert_eq!(journal.tail_bytes(), 0);
        Ok(())
    }

    #[test]
    fn queries_are_of_the_tail_in_their_place_and_a_snapshot_between_two_of_a_sequence_parts_them()
    -> Result<(), JournalError> {
        let queries = |id: &str| {
            let query = QueryRecord {
                id: id.into(),
                user: Name::new("ada").expect("a name"),
                timestamp: Timestamp(1),
                body: Bytes::from_static(b"total"),
                reply_hash: ReplyHash::of_body(b"1"),
                fuel_used: 7,
            };
            let record = QueriesRecord { sequence: Sequence(1), epoch: Epoch::default(), queries: vec![query] };
            Record::Queries(Arc::new(record))
        };
        let mut journal = MemoryJournal::default();
        for record in
            [record(1, false), queries("a"), Record::Snapshot { sequence: Sequence(1) }, queries("b"), record(2, false)]
        {
            journal.append(record)?;
        }
        assert_eq!(sequences(&journal.tail(RecordNumber(0))?), [1, 1, 1, 2]);
        let bytes = journal.tail_bytes();
        assert_eq!(journal.forget_tail(RecordNumber(3)).len(), 2);
        assert!(journal.tail_bytes() > 0 && journal.tail_bytes() < bytes);
        let tail = journal.tail(RecordNumber(3))?;
        assert_eq!((tail.len(), tail[0].calls(), tail[0].fuel_used(), tail[0].transactions()), (2, 1, 7, 0));
        assert!(matches!(&tail[0], TailEntry::Queries(record) if &*record.queries[0].id == "b"));
        Ok(())
    }

    #[test]
    fn a_full_journal_says_so_before_anything_is_executed() {
        let tail = Tail { bytes_through: JOURNAL_BYTES_MAX - RECORD_BYTES - 10, ..Tail::default() };
        let journal = MemoryJournal { tail, ..MemoryJournal::default() };
        assert!(journal.check_room(10).is_ok());
        assert!(journal.check_room(11).is_err());
    }
}
