//! A log on disk. Records go to the group commit of all services, and retained answers are read from where they were
//! written.
//!
//! One `DurableLog` belongs to the task of one service. It never writes a file: [`Committer`] writes, and reports
//! through a [`LocationFeed`] where records are, also when they are relocated later.

use super::answer::{ANSWER_READ_BYTES, AnswerPlace, AnswerReader};
use super::record::AnswerCheck;
use super::retained::Retained;
use super::{
    Appended, Commit, JournalError, Log, Pinned, RECORD_BYTES, Record, RelocatedAnswer, TransactionRecord, record,
};
use futures::future::{BoxFuture, FutureExt};
use lifeboat_api::name::Name;
use lifeboat_api::transaction::BODY_BYTES_MAX;
use lifeboat_journal::commit::{Change, Committer, Entry, Room};
use lifeboat_journal::frame::RecordNumber;
use lifeboat_journal::location_feed::{LocationFeed, LocationUpdate};
use lifeboat_journal::reader::ReadError;
use lifeboat_journal::recovery::Location;
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

/// The estimated size of a record beside its body before the transaction runs, in bytes. Longer answers exceed the
/// bound of the queue.
const ANSWER_BYTES_GUESS: u64 = 64 * 1024;

/// The share of relocated answers, frames included, in what a service writes otherwise, as a divisor: 1/4.
pub const RELOCATED_SHARE: u64 = 4;

/// The maximum credit for relocated answers, in bytes: a service that needed no relocations for a long time does not
/// relocate more of them at once.
pub const RELOCATED_CREDIT_MAX: u64 = 64 * 1024 * 1024;

/// The maximum number of answers that are relocated after one transaction, so that the transaction does not wait for
/// longer. The longest body pays for as many. [`RELOCATED_BYTES_MAX`] is the bound of the bytes.
pub const RELOCATED_ANSWERS_MAX: usize = 1024;

/// The number of bytes after which no more answers are read for relocation. See [`RELOCATED_ANSWERS_MAX`].
pub const RELOCATED_BYTES_MAX: usize = 1024 * 1024;

/// The maximum number of bytes that are read to relocate an answer, for each byte of its charge. So relocation reads at
/// most half as much as the service writes.
pub const RELOCATED_READ_SHARE: u64 = 2;

// The start of a record, then what follows its body: the lengths and numbers beside an answer, and the answer.
const _: () = assert!(ANSWER_READ_BYTES as u64 + 5 + 2 * 10 + 10 <= RELOCATED_READ_SHARE * RECORD_BYTES);
const _: () = assert!(RELOCATED_ANSWERS_MAX as u64 * RECORD_BYTES >= BODY_BYTES_MAX as u64 / RELOCATED_SHARE);

/// How often an answer is looked up that was relocated meanwhile.
const LOOKUPS_MAX: usize = 3;

/// A log that outlives its process.
#[derive(Debug)]
pub struct DurableLog {
    service: Name,
    committer: Committer,
    location_feed: Arc<LocationFeed>,
    /// The last submitted record. 0 if the journal has none of this service.
    last: RecordNumber,
    answers: Retained<RetainedAnswer>,
    /// The bytes of relocated answers that are paid for by earlier writes. A negative value is still to be paid for.
    relocation_credit: i64,
    /// The relocated answers whose written size is not known yet, and the bytes that were paid for each.
    relocated: VecDeque<(RecordNumber, u64)>,
    /// The bytes of the service's records before which nothing is relocated: the last attempt could not read an answer.
    relocates_from: u64,
    /// The bytes of this service's records in the journal, counted from some point in time.
    journal_bytes: u64,
    /// The last update from the location feed.
    locations: LocationUpdate,
    room: Option<Room>,
    /// The room for the outcome of a call.
    outcome_room: Option<Room>,
    /// The reason of the first refused record. An executed transaction is then missing from the log, and nothing may
    /// follow it.
    refused: Arc<OnceLock<String>>,
}

/// A retained answer, and where to find it.
#[derive(Debug)]
struct RetainedAnswer {
    place: Place,
    check: AnswerCheck,
    /// The bytes of this service's records, up to this one.
    journal_bytes: u64,
}

#[derive(Debug)]
enum Place {
    /// The record was submitted, and its location is not known yet.
    Submitted(Arc<TransactionRecord>),
    At(Location),
}

/// The records of a service that were found when the journal was opened.
#[derive(Debug, Default)]
pub struct FoundLog {
    /// The last record; 0 if there is none.
    pub last: RecordNumber,
    /// The transactions whose ids the clients gave, by record.
    pub answered: Vec<FoundAnswer>,
    /// The bytes of all records that were found.
    pub journal_bytes: u64,
}

/// A transaction that was found, whose id the client gave.
#[derive(Debug, Clone, Copy)]
pub struct FoundAnswer {
    /// The record that holds its answer.
    pub number: RecordNumber,
    /// The place of that record.
    pub place: AnswerPlace,
    /// The bytes of the service's records before it.
    pub journal_bytes: u64,
}

impl DurableLog {
    /// Creates the log of a service of which the journal has the records `found`.
    #[must_use]
    pub fn new(service: Name, committer: Committer, found: FoundLog) -> Self {
        let location_feed = Arc::new(LocationFeed::default());
        committer.register(&service, Arc::clone(&location_feed));
        let mut answers = Retained::default();
        for FoundAnswer { number, place, journal_bytes } in found.answered {
            answers
                .push(number, RetainedAnswer { place: Place::At(place.location), check: place.check, journal_bytes });
        }
        Self {
            service,
            committer,
            location_feed,
            last: found.last,
            answers,
            relocation_credit: 0,
            relocated: VecDeque::new(),
            relocates_from: 0,
            journal_bytes: found.journal_bytes,
            locations: LocationUpdate::default(),
            room: None,
            outcome_room: None,
            refused: Arc::default(),
        }
    }

    /// Applies the updates from the writer since the last call.
    fn catch_up(&mut self) {
        let placed_bytes = self.locations.journal_bytes;
        if !self.location_feed.take(&mut self.locations) {
            return;
        }
        let appended_bytes = self.locations.journal_bytes - placed_bytes;
        self.journal_bytes += appended_bytes;
        let mut paying_bytes = 0;
        for (number, location, bytes) in &self.locations.records {
            match self.relocated.pop_front_if(|(relocated, _)| relocated == number) {
                // Without this, answers that each take a block would pay for one another, and be relocated again and
                // again.
                Some((_, charged)) => {
                    let beside_bytes = bytes.saturating_sub(charged);
                    self.relocation_credit = self.relocation_credit.saturating_sub_unsigned(beside_bytes);
                }
                None => paying_bytes += bytes,
            }
            // Locations arrive in the order of the records.
            if let Some(answer) = self.answers.next_mut(*number) {
                answer.place = Place::At(*location);
            }
        }
        self.relocation_credit = self
            .relocation_credit
            .saturating_add_unsigned(paying_bytes / RELOCATED_SHARE)
            .min(RELOCATED_CREDIT_MAX.cast_signed());
        for moved in self.locations.moved.values() {
            for (number, answer) in self.answers.range_mut(moved.first) {
                let Some(location) = moved.location(number) else { break };
                answer.place = Place::At(location);
            }
        }
    }

    async fn read_answer(&mut self, number: RecordNumber) -> Result<Option<Arc<TransactionRecord>>, JournalError> {
        let mut lookups = 0;
        loop {
            lookups += 1;
            self.catch_up();
            let place = match self.answers.get(number) {
                None => return Ok(None),
                Some(RetainedAnswer { place: Place::Submitted(record), .. }) => return Ok(Some(Arc::clone(record))),
                Some(RetainedAnswer { place: Place::At(location), check, .. }) => {
                    AnswerPlace { location: *location, check: *check }
                }
            };
            let unreadable = |reason: String| JournalError::Unreadable { number, reason };
            let (reader, service) = (self.committer.reader().clone(), self.service.clone());
            let read = tokio::task::spawn_blocking(move || AnswerReader::new(&reader, &service).read(&[place])).await;
            match read.map_err(|error| unreadable(error.to_string()))? {
                Ok(answer) => return Ok(Some(answer.transaction)),
                // The record may have been relocated since its location was read. The location feed reports that before
                // its segment is reclaimed.
                Err(ReadError::Gone | ReadError::Damaged) if lookups < LOOKUPS_MAX => {}
                Err(error) => return Err(unreadable(error.to_string())),
            }
        }
    }
}

impl RetainedAnswer {
    /// Returns whether the answer is on the disk, but not at `location`.
    fn is_elsewhere(&self, location: Location) -> bool {
        matches!(self.place, Place::At(now) if now != location)
    }
}

/// Relocation.
impl DurableLog {
    /// Returns the first retained answers that are on the disk and hold up more than `span_bytes`. Returns as many as
    /// are relocated at once and paid for.
    fn due_places(&self, span_bytes: u64) -> Vec<(RecordNumber, AnswerPlace)> {
        let mut due = Vec::new();
        let Ok(credit) = u64::try_from(self.relocation_credit) else { return due };
        if credit == 0 || self.journal_bytes < self.relocates_from {
            return due;
        }
        let paid = usize::try_from(credit.div_ceil(RECORD_BYTES)).unwrap_or(usize::MAX);
        let paid = paid.min(RELOCATED_ANSWERS_MAX);
        for (number, answer) in self.answers.iter() {
            let is_due = self.journal_bytes.saturating_sub(answer.journal_bytes) > span_bytes;
            match answer.place {
                Place::At(location) if is_due && due.len() < paid => {
                    due.push((number, AnswerPlace { location, check: answer.check }));
                }
                Place::At(_) | Place::Submitted(_) => break,
            }
        }
        due
    }

    async fn read_due(&mut self, span_bytes: u64) -> Vec<(RecordNumber, RelocatedAnswer)> {
        self.catch_up();
        loop {
            let (numbers, places): (Vec<_>, Vec<_>) = self.due_places(span_bytes).into_iter().unzip();
            let Some((number, at)) = numbers.first().copied().zip(places.first().map(|place| place.location)) else {
                return Vec::new();
            };
            let (reader, service) = (self.committer.reader().clone(), self.service.clone());
            let budget = RELOCATED_BYTES_MAX.min(usize::try_from(self.relocation_credit).unwrap_or_default());
            let read =
                tokio::task::spawn_blocking(move || AnswerReader::new(&reader, &service).read_all(&places, budget));
            let (answers, is_failed) =
                read.await.map_or_else(|_| (Vec::new(), true), |(read, result)| (read, result.is_err()));
            if is_failed && answers.is_empty() {
                self.catch_up();
                // The answer was relocated meanwhile. The location feed reports that before its segment is reclaimed.
                if self.answers.get(number).is_some_and(|answer| answer.is_elsewhere(at)) {
                    continue;
                }
                // The answer is damaged, and stays where it is.
                self.relocates_from = self.journal_bytes.saturating_add(RELOCATED_CREDIT_MAX);
            }
            // All answers that were read are relocated, so that none is read again.
            return numbers.into_iter().zip(answers).collect();
        }
    }
}

/// Returns the approximate bytes of the record of a transaction with a body of `bytes`.
fn with_answer(bytes: u64) -> usize {
    usize::try_from(bytes.saturating_add(ANSWER_BYTES_GUESS)).unwrap_or(usize::MAX)
}

impl Log for DurableLog {
    fn append(&mut self, expected: RecordNumber, record: &Record) -> Result<Appended, JournalError> {
        if let Some(reason) = self.refused.get() {
            return Err(JournalError::Ended { reason: reason.clone() });
        }
        JournalError::fence(expected, self.last)?;
        self.catch_up();
        let bytes = record::encode(record);
        let mut room = match record {
            Record::Transaction(_) => self.room.take(),
            Record::CallOutcome(_) => self.outcome_room.take(),
            _ => None,
        };
        if let Some(room) = &mut room {
            room.shrink(bytes.len());
        }
        let record_bytes = bytes.len() as u64;
        let answer = record.retained_answer().map(|transaction| {
            let place = Place::Submitted(Arc::clone(transaction));
            let check = AnswerCheck::of(&bytes, transaction.body_hash);
            RetainedAnswer { place, check, journal_bytes: self.journal_bytes }
        });
        let change = if self.last == RecordNumber(0) {
            Change::Begin { number: expected, record: bytes }
        } else {
            Change::Continue { number: expected, record: bytes }
        };
        let entry = Entry { service: self.service.clone(), change };
        let ticket = match record {
            // The record of its transaction follows, or the next intent. Until then a crash leaves the call in doubt.
            Record::CallOutcome(_) => self.committer.submit_patiently(entry, room),
            _ => self.committer.submit(entry, room),
        };
        let ticket = ticket.map_err(|error| JournalError::ended(&error))?;
        let refused = Arc::clone(&self.refused);
        ticket.then(move |committed| {
            if let Err(error) = committed {
                let _ = refused.set(lifeboat_api::text::chain(error));
            }
        });
        self.last = expected;
        let mut answer_bytes = 0;
        match record {
            Record::Transaction(transaction) if transaction.is_id_kept => {
                answer_bytes = transaction.answer_bytes() + transaction.body.len() as u64;
            }
            Record::Relocated(RelocatedAnswer { transaction, .. }) => {
                // A failure has no answer that counts, but it has a text.
                let charged = transaction.answer_bytes().max(record_bytes);
                self.relocation_credit = self.relocation_credit.saturating_sub_unsigned(charged);
                self.relocated.push_back((expected, charged));
            }
            _ => {}
        }
        if let Some(answer) = answer {
            self.answers.push(expected, answer);
        }
        Ok(Appended { commit: Commit::pending(ticket), answer_bytes, written_bytes: Some(self.journal_bytes) })
    }

    fn read(&mut self, number: RecordNumber) -> BoxFuture<'_, Result<Option<Arc<TransactionRecord>>, JournalError>> {
        self.read_answer(number).boxed()
    }

    fn release(&mut self, number: RecordNumber) {
        self.answers.release(number);
    }

    fn try_reserve(&mut self, bytes: u64) -> bool {
        if self.room.is_none() {
            self.room = self.committer.room_now(with_answer(bytes));
        }
        self.room.is_some() && !self.committer.denies()
    }

    fn reserve(&mut self, bytes: u64) -> BoxFuture<'_, Result<(), JournalError>> {
        async move {
            if self.room.is_none() || self.committer.denies() {
                // The room that it already has would be missing from the room that it waits for.
                self.room = None;
                let room = self.committer.room(with_answer(bytes)).await;
                self.room = Some(room.map_err(|error| JournalError::ended(&error))?);
            }
            Ok(())
        }
        .boxed()
    }

    fn reserve_outcome(&mut self, bytes: u64) -> BoxFuture<'_, Result<(), JournalError>> {
        async move {
            self.outcome_room = None;
            let room = self.committer.room(usize::try_from(bytes).unwrap_or(usize::MAX)).await;
            self.outcome_room = Some(room.map_err(|error| JournalError::ended(&error))?);
            Ok(())
        }
        .boxed()
    }

    fn is_stalled(&self) -> bool {
        self.committer.denies()
    }

    fn written_bytes(&mut self) -> Option<u64> {
        self.catch_up();
        Some(self.journal_bytes)
    }

    fn pinned(&self) -> Option<Pinned> {
        let (first, answer) = self.answers.first()?;
        Some(Pinned { first, span_bytes: self.journal_bytes.saturating_sub(answer.journal_bytes) })
    }

    fn due(&mut self, span_bytes: u64) -> BoxFuture<'_, Vec<(RecordNumber, RelocatedAnswer)>> {
        self.read_due(span_bytes).boxed()
    }
}

#[cfg(test)]
mod tests;
