//! A history on disk: records go to the group commit of all services, the tail stays in memory for replays, and kept
//! answers are read back from where they were written.
//!
//! One `DurableJournal` belongs to one service's task. It never touches a file: [`Committer`] writes, and tells through
//! a [`Board`] where records are, also when they are carried to another place later.

use super::board::{Board, Placed};
use super::commit::{Change, Committer, Entry, Room};
use super::frame::RecordNumber;
use super::reader::ReadError;
use super::recovery::Location;
use super::{
    Commit, ForgottenTail, JOURNAL_BYTES_MAX, Journal, JournalError, RECORD_BYTES, Record, Tail, TailEntry,
    TransactionRecord, record,
};
use crate::name::Name;
use crate::transaction::{Epoch, Sequence};
use futures::future::{BoxFuture, FutureExt};
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

/// What a record is guessed to take beside its body before it is executed, in bytes: longer answers exceed the bound
/// of the queue.
const ANSWER_BYTES_GUESS: u64 = 64 * 1024;

/// How often an answer is looked up that was carried elsewhere meanwhile.
const LOOKUPS_MAX: usize = 3;

/// A history that outlives its process.
#[derive(Debug)]
pub struct DurableJournal {
    service: Name,
    committer: Committer,
    board: Arc<Board>,
    /// The last record that was handed in.
    last: RecordNumber,
    is_begun: bool,
    epoch: Epoch,
    tail: Tail,
    answered: VecDeque<Answered>,
    /// Bytes that this service's records take in the journal, since some time.
    journal_bytes: u64,
    /// The same when the last proven snapshot was taken.
    snapshot_bytes: u64,
    /// What was last taken from the board.
    placed: Placed,
    /// Where the next answer is looked for that was placed: they are placed in their order.
    next_placed: usize,
    room: Option<Room>,
    /// Why a record was refused, once one was: what was executed is not in the history, and nothing may follow it.
    refused: Arc<OnceLock<String>>,
}

/// A kept answer: where to find it.
#[derive(Debug)]
struct Answered {
    sequence: Sequence,
    number: RecordNumber,
    place: Place,
    /// Of this service's records, up to this one.
    journal_bytes: u64,
}

#[derive(Debug)]
enum Place {
    /// On its way.
    Submitted(Arc<TransactionRecord>),
    At(Location),
}

/// What was found of a service's history when the journal was opened.
#[derive(Debug, Default)]
pub struct History {
    /// The last record; 0 if there is none.
    pub last: RecordNumber,
    /// The epoch of the last record.
    pub epoch: Epoch,
    /// What a replay repeats since the oldest snapshot that may be needed, in order.
    pub tail: Vec<(RecordNumber, TailEntry)>,
    /// Transactions whose ids the clients gave, in order.
    pub answered: Vec<FoundAnswer>,
    /// Bytes of all records that were found.
    pub journal_bytes: u64,
    /// Bytes of those that the snapshot makes superfluous which the service goes on from.
    pub snapshot_bytes: u64,
}

/// A transaction whose id the client gave, as it was found.
#[derive(Debug, Clone, Copy)]
pub struct FoundAnswer {
    /// The transaction.
    pub sequence: Sequence,
    /// Its record.
    pub number: RecordNumber,
    /// Where that is.
    pub location: Location,
    /// Bytes of the service's records before it.
    pub journal_bytes: u64,
}

impl DurableJournal {
    /// The journal of a service of which `history` was found.
    #[must_use]
    pub fn new(service: Name, committer: Committer, history: History) -> Self {
        let board = Arc::new(Board::default());
        committer.register(&service, Arc::clone(&board));
        let answered = history.answered.into_iter().map(|found| Answered {
            sequence: found.sequence,
            number: found.number,
            place: Place::At(found.location),
            journal_bytes: found.journal_bytes,
        });
        Self {
            service,
            committer,
            board,
            is_begun: history.last > RecordNumber(0),
            last: history.last,
            epoch: history.epoch,
            tail: history.tail.into_iter().collect(),
            answered: answered.collect(),
            journal_bytes: history.journal_bytes,
            snapshot_bytes: history.snapshot_bytes,
            placed: Placed::default(),
            next_placed: 0,
            room: None,
            refused: Arc::default(),
        }
    }

    /// Takes over what the writer told since the last time.
    fn catch_up(&mut self) {
        let placed_bytes = self.placed.journal_bytes;
        if !self.board.take(&mut self.placed) {
            return;
        }
        self.journal_bytes += self.placed.journal_bytes - placed_bytes;
        for (number, location) in &self.placed.records {
            let is_next = |next: &Answered| next.number == *number;
            if !self.answered.get(self.next_placed).is_some_and(is_next) {
                // One without a kept answer, or the first since some were forgotten.
                self.next_placed = self.answered.partition_point(|answered| answered.number < *number);
            }
            if let Some(answered) = self.answered.get_mut(self.next_placed).filter(|next| is_next(next)) {
                answered.place = Place::At(*location);
                self.next_placed += 1;
            }
        }
        for moved in self.placed.moved.values() {
            let first = self.answered.partition_point(|answered| answered.number < moved.first);
            for answered in self.answered.range_mut(first..) {
                let Some(location) = moved.location(answered.number) else { break };
                answered.place = Place::At(location);
            }
        }
    }

    fn find(&self, sequence: Sequence) -> Option<&Answered> {
        let index = self.answered.binary_search_by_key(&sequence, |answered| answered.sequence).ok()?;
        Some(&self.answered[index])
    }

    async fn read(&mut self, sequence: Sequence) -> Result<Option<Arc<TransactionRecord>>, JournalError> {
        let mut lookups = 0;
        loop {
            lookups += 1;
            self.catch_up();
            let (number, location) = match self.find(sequence) {
                None => return Ok(None),
                Some(Answered { place: Place::Submitted(record), .. }) => return Ok(Some(Arc::clone(record))),
                Some(Answered { place: Place::At(location), number, .. }) => (*number, *location),
            };
            let unreadable = |reason: String| JournalError::Unreadable { number, reason };
            let (reader, service) = (self.committer.reader().clone(), self.service.clone());
            let read = tokio::task::spawn_blocking(move || reader.record(&service, number, location)).await;
            let bytes = match read.map_err(|error| unreadable(error.to_string()))? {
                Ok(bytes) => bytes,
                // It may have been carried elsewhere since we looked where it is: before its segment went, that was on
                // the board.
                Err(ReadError::Gone | ReadError::Damaged) if lookups < LOOKUPS_MAX => continue,
                Err(error) => return Err(unreadable(error.to_string())),
            };
            // Its epoch is of no interest to who asks what was answered.
            return match record::decode(&self.service, Epoch::default(), &bytes) {
                Ok(Record::Transaction(record)) if record.sequence == sequence => Ok(Some(record)),
                Ok(_) if lookups < LOOKUPS_MAX => continue,
                Ok(_) => Err(unreadable("another record is in its place".into())),
                Err(error) => Err(unreadable(error.to_string())),
            };
        }
    }
}

/// Bytes of the record of a transaction whose body has `bytes`, about.
fn with_answer(bytes: u64) -> usize {
    usize::try_from(bytes.saturating_add(ANSWER_BYTES_GUESS)).unwrap_or(usize::MAX)
}

impl Journal for DurableJournal {
    fn check_room(&self, bytes: u64) -> Result<(), JournalError> {
        let bytes = self.held_bytes().saturating_add(bytes).saturating_add(RECORD_BYTES);
        if bytes > JOURNAL_BYTES_MAX {
            return Err(JournalError::Full { bytes, limit_bytes: JOURNAL_BYTES_MAX });
        }
        Ok(())
    }

    fn has_room(&mut self, bytes: u64) -> bool {
        if self.room.is_none() {
            self.room = self.committer.room_now(with_answer(bytes));
        }
        self.room.is_some() && !self.committer.denies()
    }

    fn room(&mut self, bytes: u64) -> BoxFuture<'_, Result<(), JournalError>> {
        async move {
            if self.room.is_none() || self.committer.denies() {
                let room = self.committer.room(with_answer(bytes)).await;
                self.room = Some(room.map_err(|error| JournalError::ended(&error))?);
            }
            Ok(())
        }
        .boxed()
    }

    fn tail_bytes(&self) -> u64 {
        self.journal_bytes.saturating_sub(self.snapshot_bytes)
    }

    fn held_bytes(&self) -> u64 {
        // What failed is not in the tail, and in the journal all the same.
        self.tail.bytes().max(self.tail_bytes())
    }

    fn answers_bytes(&self) -> u64 {
        self.answered.front().map_or(0, |first| self.journal_bytes.saturating_sub(first.journal_bytes))
    }

    fn last_record(&self) -> RecordNumber {
        self.last
    }

    fn first_answer(&self) -> RecordNumber {
        self.answered.front().map_or(self.last.next(), |first| first.number)
    }

    fn append(&mut self, record: Record) -> Result<Commit, JournalError> {
        if let Some(reason) = self.refused.get() {
            return Err(JournalError::Ended { reason: reason.clone() });
        }
        self.catch_up();
        let bytes = record::encode(&record);
        let number = self.last.next();
        let mut room = if matches!(record, Record::Transaction(_)) { self.room.take() } else { None };
        if let Some(room) = &mut room {
            room.shrink(bytes.len());
        }
        let change = if self.is_begun {
            Change::Continue { number, record: bytes }
        } else {
            Change::Begin { number, record: bytes }
        };
        let ticket = self
            .committer
            .submit(Entry { service: self.service.clone(), change }, room)
            .map_err(|error| JournalError::ended(&error))?;
        let refused = Arc::clone(&self.refused);
        ticket.then(move |committed| {
            if let Err(error) = committed {
                let _ = refused.set(crate::data::chain(error));
            }
        });
        self.last = number;
        self.is_begun = true;
        if let Some(entry) = TailEntry::of(&record) {
            self.tail.push(number, entry);
        }
        match record {
            Record::Opened { epoch, .. } => self.epoch = epoch,
            Record::Transaction(record) => {
                if record.is_id_kept {
                    self.answered.push_back(Answered {
                        sequence: record.sequence,
                        number,
                        place: Place::Submitted(Arc::clone(&record)),
                        journal_bytes: self.journal_bytes,
                    });
                }
            }
            Record::Snapshot { .. } | Record::SlaFailure(_) | Record::Failover(_) | Record::Queries(_) => {}
        }
        Ok(Commit::pending(ticket))
    }

    fn tail(&self, after: RecordNumber) -> Result<Vec<TailEntry>, JournalError> {
        Ok(self.tail.after(after))
    }

    fn answered(&mut self, sequence: Sequence) -> BoxFuture<'_, Result<Option<Arc<TransactionRecord>>, JournalError>> {
        self.read(sequence).boxed()
    }

    fn forget_tail(&mut self, through: RecordNumber) -> ForgottenTail {
        self.catch_up();
        self.snapshot_bytes = self.journal_bytes;
        self.tail.forget(through)
    }

    fn forget_answers(&mut self, before: Sequence) {
        // As a rule it is one. The deque is long, and to search it is to touch memory all over it.
        while self.answered.front().is_some_and(|answered| answered.sequence < before) {
            self.answered.pop_front();
            self.next_placed = self.next_placed.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::commit;
    use crate::journal::frame::DirectoryId;
    use crate::journal::segments::{Log, Options, Origin};
    use crate::storage::SimulatedStorage;

    #[test]
    fn what_failed_since_the_snapshot_counts_as_well_as_what_was_kept() {
        let storage = Arc::new(SimulatedStorage::new(1));
        let options = Options { segment_bytes: 256 * 1024, ..Options::new(DirectoryId([5; 16])) };
        let (log, _) = Log::open(storage, options, Origin::Create, &mut |_| {}).expect("opens");
        let (_writer, committer) = commit::start(log, commit::QUEUE_BYTES_MAX).expect("starts");
        let journal = |snapshot_bytes| {
            let history = History { journal_bytes: JOURNAL_BYTES_MAX, snapshot_bytes, ..History::default() };
            DurableJournal::new(Name::new("ant").expect("a name"), committer.clone(), history)
        };
        // Its tail is empty: all of these transactions failed.
        let refused = journal(0).check_room(0).expect_err("it is full");
        assert!(matches!(refused, JournalError::Full { bytes, .. } if bytes > JOURNAL_BYTES_MAX), "{refused}");
        assert_eq!(journal(JOURNAL_BYTES_MAX).check_room(0), Ok(()));
        assert_eq!(journal(JOURNAL_BYTES_MAX).tail_bytes(), 0);
    }
}
