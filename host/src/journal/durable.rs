//! A history on disk: records go to the group commit of all services, the tail stays in memory for replays, and kept
//! answers are read back from where they were written.
//!
//! One `DurableJournal` belongs to one service's task. It never touches a file: [`Committer`] writes, and tells through
//! a [`Board`] where records are, also when they are carried to another place later.

use super::board::{Board, Placed};
use super::commit::{Change, Committer, Entry, Room};
use super::frame::RecordNumber;
use super::reader::{ReadError, Reader};
use super::recovery::Location;
use super::{
    Commit, FORGOTTEN_PLACES_MAX, ForgottenTail, JOURNAL_BYTES_MAX, Journal, JournalError, RECORD_BYTES, Record,
    RelocatedAnswer, Relocation, Tail, TailEntry, TransactionRecord, index_near_front, record, without_body,
};
use crate::id::Epoch;
use crate::name::Name;
use futures::future::{BoxFuture, FutureExt};
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

/// What a record is guessed to take beside its body before it is executed, in bytes: longer answers exceed the bound
/// of the queue.
const ANSWER_BYTES_GUESS: u64 = 64 * 1024;

/// The part of what a service writes that may be relocated answers, as a divisor: 1/4.
pub const RELOCATED_SHARE: u64 = 4;

/// Bytes of relocated answers that are saved up for at the most: a service that needed none for long relocates no more
/// of them at once.
pub const RELOCATED_CREDIT_MAX: u64 = 64 * 1024 * 1024;

/// Answers that are relocated at once, and bytes of them from which on no more are: a transaction waits for no longer.
pub const RELOCATED_ANSWERS_MAX: usize = 4096;

/// See [`RELOCATED_ANSWERS_MAX`].
pub const RELOCATED_BYTES_MAX: usize = 1024 * 1024;

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
    /// By record.
    answered: VecDeque<Answered>,
    /// How many of them are forgotten.
    forgotten: usize,
    /// Bytes of relocated answers that are paid for by what was written.
    relocation_credit: u64,
    /// Nothing is relocated before the service's records take so many bytes: the last time an answer could not be read.
    relocates_from: u64,
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
    number: RecordNumber,
    place: Place,
    /// Of this service's records, up to this one.
    journal_bytes: u64,
}

#[derive(Debug)]
enum Place {
    /// The answer is not retained any more.
    Forgotten,
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
    /// Transactions whose ids the clients gave, by record.
    pub answered: Vec<FoundAnswer>,
    /// Bytes of all records that were found.
    pub journal_bytes: u64,
    /// Bytes of those that the snapshot makes superfluous which the service goes on from.
    pub snapshot_bytes: u64,
}

/// A transaction whose id the client gave, as it was found.
#[derive(Debug, Clone, Copy)]
pub struct FoundAnswer {
    /// The record that holds its answer.
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
            forgotten: 0,
            relocation_credit: 0,
            relocates_from: 0,
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
        let appended_bytes = self.placed.journal_bytes - placed_bytes;
        self.journal_bytes += appended_bytes;
        self.relocation_credit =
            self.relocation_credit.saturating_add(appended_bytes / RELOCATED_SHARE).min(RELOCATED_CREDIT_MAX);
        for (number, location) in &self.placed.records {
            let is_next = |next: &Answered| next.number == *number;
            if !self.answered.get(self.next_placed).is_some_and(is_next) {
                // One without a kept answer, or the first since some were forgotten.
                self.next_placed = self.answered.partition_point(|answered| answered.number < *number);
            }
            if let Some(answered) = self.answered.get_mut(self.next_placed).filter(|next| is_next(next)) {
                answered.place.set(*location);
                self.next_placed += 1;
            }
        }
        for moved in self.placed.moved.values() {
            let first = self.answered.partition_point(|answered| answered.number < moved.first);
            for answered in self.answered.range_mut(first..) {
                let Some(location) = moved.location(answered.number) else { break };
                answered.place.set(location);
            }
        }
    }

    fn find(&self, number: RecordNumber) -> Option<&Answered> {
        let index = self.answered.binary_search_by_key(&number, |answered| answered.number).ok()?;
        Some(&self.answered[index])
    }

    async fn read(&mut self, number: RecordNumber) -> Result<Option<Arc<TransactionRecord>>, JournalError> {
        let mut lookups = 0;
        loop {
            lookups += 1;
            self.catch_up();
            let location = match self.find(number).map(|answered| &answered.place) {
                None | Some(Place::Forgotten) => return Ok(None),
                Some(Place::Submitted(record)) => return Ok(Some(Arc::clone(record))),
                Some(Place::At(location)) => *location,
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
                Ok(Record::Transaction(transaction) | Record::Relocated(RelocatedAnswer { transaction, .. }))
                    if transaction.is_id_kept =>
                {
                    Ok(Some(transaction))
                }
                Ok(_) if lookups < LOOKUPS_MAX => continue,
                Ok(_) => Err(unreadable("another record is in its place".into())),
                Err(error) => Err(unreadable(error.to_string())),
            };
        }
    }
}

impl Place {
    fn set(&mut self, location: Location) {
        if !matches!(self, Self::Forgotten) {
            *self = Self::At(location);
        }
    }
}

/// Relocation.
impl DurableJournal {
    /// The first retained answers that are on the disk, as many as are relocated at once.
    fn first_answers(&self) -> Vec<(RecordNumber, Location)> {
        let mut first = Vec::new();
        for answered in &self.answered {
            match answered.place {
                Place::Forgotten => {}
                Place::At(location) if first.len() < RELOCATED_ANSWERS_MAX => first.push((answered.number, location)),
                Place::At(_) | Place::Submitted(_) => break,
            }
        }
        first
    }

    async fn relocate(&mut self, span_bytes: u64) -> Result<Vec<Relocation>, JournalError> {
        self.catch_up();
        let is_due = |journal: &Self| {
            journal.answers_span_bytes() > span_bytes
                && journal.relocation_credit > 0
                && journal.journal_bytes >= journal.relocates_from
        };
        let mut relocated = Vec::new();
        if !is_due(self) {
            return Ok(relocated);
        }
        let (reader, service, first) = (self.committer.reader().clone(), self.service.clone(), self.first_answers());
        let budget = RELOCATED_BYTES_MAX.min(usize::try_from(self.relocation_credit).unwrap_or(usize::MAX));
        let read = tokio::task::spawn_blocking(move || read_answers(&reader, &service, &first, budget)).await;
        let (read, is_failed) = read.unwrap_or_else(|_| (Vec::new(), true));
        if is_failed && read.is_empty() {
            // It may have been moved meanwhile, or be damaged, and then it stays where it is.
            self.relocates_from = self.journal_bytes.saturating_add(RELOCATED_CREDIT_MAX);
        }
        for (from, answer) in read {
            if !is_due(self) {
                break;
            }
            let transaction = Arc::clone(&answer.transaction);
            self.append(Record::Relocated(answer))?;
            self.forget_answer(from);
            relocated.push(Relocation { transaction, from, to: self.last });
        }
        Ok(relocated)
    }
}

/// Reads answers until they take `budget` bytes or one cannot be read, which is then told.
fn read_answers(
    reader: &Reader,
    service: &Name,
    answers: &[(RecordNumber, Location)],
    budget: usize,
) -> (Vec<(RecordNumber, RelocatedAnswer)>, bool) {
    let (mut read, mut bytes) = (Vec::new(), 0);
    let mut answers = answers.iter().peekable();
    while let Some((_, location)) = answers.peek().copied().filter(|_| bytes < budget) {
        let is_same =
            |other: &Location| (other.segment, other.frame_offset) == (location.segment, location.frame_offset);
        let mut numbers = Vec::new();
        while let Some((number, location)) = answers.next_if(|(_, other)| is_same(other)) {
            numbers.push((*number, *location));
        }
        let Ok(records) = reader.records(service, &numbers) else { return (read, true) };
        for ((number, _), record) in numbers.into_iter().zip(records) {
            // Its epoch is of no interest to who asks what was answered.
            let answer = match record::decode(service, Epoch::default(), &record) {
                Ok(Record::Transaction(transaction)) => {
                    RelocatedAnswer { transaction: without_body(&transaction), bytes: transaction.bytes() }
                }
                Ok(Record::Relocated(answer)) => answer,
                _ => return (read, true),
            };
            bytes = bytes.saturating_add(usize::try_from(answer.transaction.answer_bytes()).unwrap_or(usize::MAX));
            read.push((number, answer));
        }
    }
    (read, false)
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

    fn is_stalled(&self) -> bool {
        self.committer.denies()
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
                // What it has would be missing from what it waits for.
                self.room = None;
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

    fn answer_bytes(&self, record: &TransactionRecord) -> u64 {
        record.bytes()
    }

    fn answers_span_bytes(&self) -> u64 {
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
                let _ = refused.set(crate::text::chain(error));
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
                        number,
                        place: Place::Submitted(Arc::clone(&record)),
                        journal_bytes: self.journal_bytes,
                    });
                }
            }
            Record::Relocated(RelocatedAnswer { transaction, .. }) => {
                let bytes = transaction.answer_bytes();
                self.relocation_credit = self.relocation_credit.saturating_sub(bytes);
                let place = Place::Submitted(transaction);
                self.answered.push_back(Answered { number, place, journal_bytes: self.journal_bytes });
            }
            Record::Snapshot { .. } | Record::SlaFailure(_) | Record::Failover(_) | Record::Queries(_) => {}
        }
        Ok(Commit::pending(ticket))
    }

    fn tail(&self, after: RecordNumber) -> Result<Vec<TailEntry>, JournalError> {
        Ok(self.tail.after(after))
    }

    fn answered(
        &mut self,
        number: RecordNumber,
    ) -> BoxFuture<'_, Result<Option<Arc<TransactionRecord>>, JournalError>> {
        self.read(number).boxed()
    }

    fn forget_tail(&mut self, through: RecordNumber) -> ForgottenTail {
        self.catch_up();
        self.snapshot_bytes = self.journal_bytes;
        self.tail.forget(through)
    }

    fn forget_answer(&mut self, number: RecordNumber) {
        let index = index_near_front(&self.answered, |answered| answered.number < number);
        let Some(answered) = self.answered.get_mut(index).filter(|answered| answered.number == number) else { return };
        if !matches!(std::mem::replace(&mut answered.place, Place::Forgotten), Place::Forgotten) {
            self.forgotten += 1;
        }
        while self.answered.pop_front_if(|answered| matches!(answered.place, Place::Forgotten)).is_some() {
            self.forgotten -= 1;
            self.next_placed = self.next_placed.saturating_sub(1);
        }
        if self.forgotten > self.answered.len() / 2 && self.forgotten > FORGOTTEN_PLACES_MAX {
            self.answered.retain(|answered| !matches!(answered.place, Place::Forgotten));
            self.forgotten = 0;
            // Looked for with the next that is placed.
            self.next_placed = self.answered.len();
        }
    }

    fn relocate_answers(&mut self, span_bytes: u64) -> BoxFuture<'_, Result<Vec<Relocation>, JournalError>> {
        self.relocate(span_bytes).boxed()
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
