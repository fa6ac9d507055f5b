//! A history on disk. Records go to the group commit of all services, the tail stays in memory for replays, and
//! retained answers are read from where they were written.
//!
//! One `DurableJournal` belongs to the task of one service. It never writes a file: [`Committer`] writes, and reports
//! through a [`LocationFeed`] where records are, also when they are relocated later.

use super::answer::{ANSWER_READ_BYTES, AnswerPlace, AnswerReader};
use super::record::AnswerCheck;
use super::{
    Commit, FORGOTTEN_PLACES_MAX, ForgottenTail, JOURNAL_BYTES_MAX, Journal, JournalError, RECORD_BYTES, Record,
    RelocatedAnswer, Relocation, Tail, TailEntry, TransactionRecord, index_near_front, record,
};
use futures::future::{BoxFuture, FutureExt};
use lifeboat_api::id::Epoch;
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

/// A history that outlives its process.
#[derive(Debug)]
pub struct DurableJournal {
    service: Name,
    committer: Committer,
    location_feed: Arc<LocationFeed>,
    /// The last submitted record.
    last: RecordNumber,
    is_begun: bool,
    epoch: Epoch,
    tail: Tail,
    /// The retained answers, by record.
    answered: VecDeque<Answered>,
    /// The number of forgotten ones among them.
    forgotten: usize,
    /// The bytes of relocated answers that are paid for by earlier writes. A negative value is still to be paid for.
    relocation_credit: i64,
    /// The relocated answers whose written size is not known yet, and the bytes that were paid for each.
    relocated: VecDeque<(RecordNumber, u64)>,
    /// The bytes of the service's records before which nothing is relocated: the last attempt could not read an answer.
    relocates_from: u64,
    /// The bytes of this service's records in the journal, counted from some point in time.
    journal_bytes: u64,
    /// The value of `journal_bytes` when the last proven snapshot was taken.
    snapshot_bytes: u64,
    /// The last update from the location feed.
    locations: LocationUpdate,
    /// The index of the answer whose location is expected next: locations arrive in the order of the records.
    next_placed: usize,
    room: Option<Room>,
    /// The reason of the first refused record. An executed transaction is then missing from the history, and nothing
    /// may follow it.
    refused: Arc<OnceLock<String>>,
}

/// A retained answer, and where to find it.
#[derive(Debug)]
struct Answered {
    number: RecordNumber,
    place: Place,
    check: AnswerCheck,
    /// The bytes of this service's records, up to this one.
    journal_bytes: u64,
}

#[derive(Debug)]
enum Place {
    /// The answer is not retained any more.
    Forgotten,
    /// The record was submitted, and its location is not known yet.
    Submitted(Arc<TransactionRecord>),
    At(Location),
}

/// The history of a service that was found when the journal was opened.
#[derive(Debug, Default)]
pub struct History {
    /// The last record; 0 if there is none.
    pub last: RecordNumber,
    /// The epoch of the last record.
    pub epoch: Epoch,
    /// The entries that a replay repeats since the snapshot from which the service continues, in order.
    pub tail: Vec<(RecordNumber, TailEntry)>,
    /// The transactions whose ids the clients gave, by record.
    pub answered: Vec<FoundAnswer>,
    /// The bytes of all records that were found.
    pub journal_bytes: u64,
    /// The bytes of the records that are included in the snapshot from which the service continues.
    pub snapshot_bytes: u64,
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

impl DurableJournal {
    /// Creates the journal of a service with the given `history`.
    #[must_use]
    pub fn new(service: Name, committer: Committer, history: History) -> Self {
        let location_feed = Arc::new(LocationFeed::default());
        committer.register(&service, Arc::clone(&location_feed));
        let answered = history.answered.into_iter().map(|found| Answered {
            number: found.number,
            place: Place::At(found.place.location),
            check: found.place.check,
            journal_bytes: found.journal_bytes,
        });
        Self {
            service,
            committer,
            location_feed,
            is_begun: history.last > RecordNumber(0),
            last: history.last,
            epoch: history.epoch,
            tail: history.tail.into_iter().collect(),
            answered: answered.collect(),
            forgotten: 0,
            relocation_credit: 0,
            relocated: VecDeque::new(),
            relocates_from: 0,
            journal_bytes: history.journal_bytes,
            snapshot_bytes: history.snapshot_bytes,
            locations: LocationUpdate::default(),
            next_placed: 0,
            room: None,
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
            let is_next = |next: &Answered| next.number == *number;
            if !self.answered.get(self.next_placed).is_some_and(is_next) {
                // A record without a retained answer, or the first one since some were forgotten.
                self.next_placed = self.answered.partition_point(|answered| answered.number < *number);
            }
            if let Some(answered) = self.answered.get_mut(self.next_placed).filter(|next| is_next(next)) {
                answered.place.set(*location);
                self.next_placed += 1;
            }
        }
        self.relocation_credit = self
            .relocation_credit
            .saturating_add_unsigned(paying_bytes / RELOCATED_SHARE)
            .min(RELOCATED_CREDIT_MAX.cast_signed());
        for moved in self.locations.moved.values() {
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
            let place = match self.find(number) {
                None | Some(Answered { place: Place::Forgotten, .. }) => return Ok(None),
                Some(Answered { place: Place::Submitted(record), .. }) => return Ok(Some(Arc::clone(record))),
                Some(Answered { place: Place::At(location), check, .. }) => {
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

impl Answered {
    /// Returns whether the answer is on the disk, but not at `location`.
    fn is_elsewhere(&self, location: Location) -> bool {
        matches!(self.place, Place::At(now) if now != location)
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
    /// Returns the first retained answers that are on the disk and pin more than `span_bytes`. Returns as many as are
    /// relocated at once and paid for. Other answers that are skipped are forgotten once these are relocated.
    fn due_answers(&self, span_bytes: u64) -> Vec<(RecordNumber, AnswerPlace)> {
        let mut due = Vec::new();
        let Ok(credit) = u64::try_from(self.relocation_credit) else { return due };
        if credit == 0 || self.journal_bytes < self.relocates_from {
            return due;
        }
        let paid = usize::try_from(credit.div_ceil(RECORD_BYTES)).unwrap_or(usize::MAX);
        let paid = paid.min(RELOCATED_ANSWERS_MAX);
        let is_due = |answered: &&Answered| self.journal_bytes.saturating_sub(answered.journal_bytes) > span_bytes;
        for Answered { number, place, check, .. } in self.answered.iter().take_while(is_due) {
            match place {
                Place::Forgotten => {}
                Place::At(location) if due.len() < paid => {
                    due.push((*number, AnswerPlace { location: *location, check: *check }));
                }
                Place::At(_) | Place::Submitted(_) => break,
            }
        }
        due
    }

    async fn relocate(&mut self, span_bytes: u64) -> Result<Vec<Relocation>, JournalError> {
        self.catch_up();
        let (numbers, answers) = loop {
            let (numbers, places): (Vec<_>, Vec<_>) = self.due_answers(span_bytes).into_iter().unzip();
            let Some((number, at)) = numbers.first().copied().zip(places.first().map(|place| place.location)) else {
                return Ok(Vec::new());
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
                if self.find(number).is_some_and(|answered| answered.is_elsewhere(at)) {
                    continue;
                }
                // The answer is damaged, and stays where it is.
                self.relocates_from = self.journal_bytes.saturating_add(RELOCATED_CREDIT_MAX);
            }
            break (numbers, answers);
        };
        // All answers that were read are relocated, so that none is read again.
        let mut relocated = Vec::new();
        for (from, answer) in numbers.into_iter().zip(answers) {
            let transaction = Arc::clone(&answer.transaction);
            self.append(Record::Relocated(answer))?;
            self.forget_answer(from);
            relocated.push(Relocation { transaction, from, to: self.last });
        }
        Ok(relocated)
    }
}

/// Returns the transaction whose answer is retained in a record, if there is one.
fn answer_of(record: &Record) -> Option<&Arc<TransactionRecord>> {
    match record {
        Record::Transaction(transaction) if transaction.is_id_kept => Some(transaction),
        Record::Relocated(RelocatedAnswer { transaction, .. }) => Some(transaction),
        _ => None,
    }
}

/// Returns the approximate bytes of the record of a transaction with a body of `bytes`.
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
                // The room that it already has would be missing from the room that it waits for.
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
        // Failed transactions are not in the tail, but they are in the journal.
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
        let record_bytes = bytes.len() as u64;
        let check = answer_of(&record).map(|transaction| AnswerCheck::of(&bytes, transaction.body_hash));
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
                let _ = refused.set(lifeboat_api::text::chain(error));
            }
        });
        self.last = number;
        self.is_begun = true;
        if let Some(entry) = record.tail_entry() {
            self.tail.push(number, entry);
        }
        match record {
            Record::Opened { epoch, .. } => self.epoch = epoch,
            Record::Relocated(RelocatedAnswer { ref transaction, .. }) => {
                // A failure has no answer that counts, but it has a text.
                let bytes = transaction.answer_bytes().max(record_bytes);
                self.relocation_credit = self.relocation_credit.saturating_sub_unsigned(bytes);
                self.relocated.push_back((number, bytes));
            }
            Record::Transaction(_)
            | Record::Snapshot { .. }
            | Record::SlaFailure(_)
            | Record::Failover(_)
            | Record::Queries(_) => {}
        }
        if let Some((transaction, check)) = answer_of(&record).cloned().zip(check) {
            let place = Place::Submitted(transaction);
            self.answered.push_back(Answered { number, place, check, journal_bytes: self.journal_bytes });
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
            // The next location update searches for it.
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
    use bytes::Bytes;
    use lifeboat_api::clock::Timestamp;
    use lifeboat_api::id::Sequence;
    use lifeboat_api::transaction::{Answer, ReplyHash};
    use lifeboat_journal::commit;
    use lifeboat_journal::frame::{BLOCK_BYTES, DirectoryId};
    use lifeboat_journal::segments::{Log, Options, Origin};
    use lifeboat_journal::storage::{SimulatedStorage, Storage};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

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
        // The tail is empty, because all of these transactions failed.
        let refused = journal(0).check_room(0).expect_err("it is full");
        assert!(matches!(refused, JournalError::Full { bytes, .. } if bytes > JOURNAL_BYTES_MAX), "{refused}");
        assert_eq!(journal(JOURNAL_BYTES_MAX).check_room(0), Ok(()));
        assert_eq!(journal(JOURNAL_BYTES_MAX).tail_bytes(), 0);
    }

    fn name(text: &str) -> Name {
        Name::new(text).expect("a name")
    }

    fn open(storage: &SimulatedStorage) -> (commit::Writer, Committer) {
        let options = Options::new(DirectoryId([5; 16]));
        let (log, _) = Log::open(Arc::new(storage.clone()), options, Origin::Create, &mut |_| {}).expect("opens");
        commit::start(log, commit::QUEUE_BYTES_MAX).expect("starts")
    }

    /// Returns a transaction whose body and answer have these lengths.
    fn transaction(sequence: u64, is_id_kept: bool, body_bytes: usize, answer_bytes: usize) -> Arc<TransactionRecord> {
        let body = Bytes::from(vec![b'b'; body_bytes]);
        Arc::new(TransactionRecord {
            sequence: Sequence(sequence),
            id: format!("id-{sequence}").into(),
            is_id_kept,
            user: name("ada"),
            incarnation: 1,
            timestamp: Timestamp(1_700_000_000_000_000_000),
            epoch: Epoch::default(),
            body_hash: ReplyHash::of_body(&body),
            body,
            answer: Answer::Ok(vec![b'a'; answer_bytes].into()),
            fuel_used: 1,
            query_fuel_used: 0,
        })
    }

    /// Appends records to journals, all in one frame if the writer is fast enough, and waits until they are durable.
    async fn commit(appended: Vec<(&mut DurableJournal, Record)>) {
        let tickets: Vec<Commit> =
            appended.into_iter().map(|(journal, record)| journal.append(record).expect("appended")).collect();
        for ticket in tickets {
            ticket.durable().await.expect("durable");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn relocating_answers_reads_at_most_half_of_what_the_service_writes(
            body_bytes in prop_oneof![0..300_usize, 1000..100_000_usize],
            beside_bytes in prop_oneof![0..300_usize, 1000..100_000_usize],
            answer_bytes in prop_oneof![0..300_usize, 300..20_000_usize],
            with_ids in 1..5_u64,
            span_bytes in 10_000..500_000_u64,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async {
                let storage = SimulatedStorage::new(1);
                let (_writer, committer) = open(&storage);
                let mut ant = DurableJournal::new(name("ant"), committer.clone(), History::default());
                let mut bee = DurableJournal::new(name("bee"), committer.clone(), History::default());
                let (mut read_bytes, mut relocated) = (0, 0);
                for sequence in 1..300_u64 {
                    let of_ant = transaction(sequence, sequence.is_multiple_of(with_ids), body_bytes, answer_bytes);
                    let of_bee = transaction(sequence, false, beside_bytes, 0);
                    commit(vec![
                        (&mut bee, Record::Transaction(of_bee)),
                        (&mut ant, Record::Transaction(of_ant)),
                    ]).await;
                    let before = storage.read_bytes();
                    let relocations = ant.relocate_answers(span_bytes).await.expect("relocated");
                    let read = storage.read_bytes() - before;
                    let longest = ANSWER_READ_BYTES + answer_bytes + 35;
                    assert!(read <= (relocations.len() * longest) as u64, "{read} bytes for {}", relocations.len());
                    read_bytes += read;
                    relocated += relocations.len();
                    let written = ant.journal_bytes;
                    let bound = written * RELOCATED_READ_SHARE / RELOCATED_SHARE + longest as u64;
                    assert!(read_bytes <= bound, "{read_bytes} bytes were read, {written} written");
                }
                let is_long = ant.journal_bytes > 2 * span_bytes;
                assert!(relocated > 0 || !is_long, "{} bytes", ant.journal_bytes);
            });
        }
    }

    #[tokio::test]
    async fn many_answers_that_are_due_are_relocated_some_at_a_time_and_none_is_read_twice() {
        let storage = SimulatedStorage::new(1);
        let (_writer, committer) = open(&storage);
        let mut ant = DurableJournal::new(name("ant"), committer, History::default());
        let answers = 3 * RELOCATED_ANSWERS_MAX as u64;
        for sequence in 1..=answers {
            drop(ant.append(Record::Transaction(transaction(sequence, true, 0, 0))).expect("appended"));
        }
        for sequence in 1..=20 {
            let long = transaction(answers + sequence, false, BODY_BYTES_MAX, 0);
            commit(vec![(&mut ant, Record::Transaction(long))]).await;
        }
        let before = storage.read_bytes();
        let mut relocated = Vec::new();
        for call in 0..3 {
            let relocations = ant.relocate_answers(16 * BODY_BYTES_MAX as u64).await.expect("relocated");
            assert!(relocations.len() <= RELOCATED_ANSWERS_MAX, "{call}: {}", relocations.len());
            relocated.extend(relocations.into_iter().map(|relocation| relocation.from.0));
        }
        assert_eq!(relocated, (1..=answers).collect::<Vec<_>>());
        let read = storage.read_bytes() - before;
        // The answers are close to each other.
        assert!(read <= answers * (ANSWER_READ_BYTES as u64), "{read}");
        assert!(ant.relocate_answers(16 * BODY_BYTES_MAX as u64).await.expect("none is due").is_empty());
        assert_eq!(storage.read_bytes() - before, read);
    }

    #[tokio::test]
    async fn relocated_answers_are_charged_what_their_frames_take_and_pay_for_no_others() {
        let storage = SimulatedStorage::new(1);
        let (_writer, committer) = open(&storage);
        let mut ant = DurableJournal::new(name("ant"), committer.clone(), History::default());
        for sequence in 1..=8 {
            commit(vec![(&mut ant, Record::Transaction(transaction(sequence, sequence == 1, 0, 0)))]).await;
        }
        ant.catch_up();
        let before = (ant.journal_bytes, ant.relocation_credit);
        assert_eq!(ant.relocate_answers(0).await.expect("relocated").len(), 1);
        committer.settle().await.expect("written");
        ant.catch_up();
        let written = ant.journal_bytes - before.0;
        assert!(written >= BLOCK_BYTES as u64, "it is alone in its frame: {written}");
        assert_eq!(before.1 - ant.relocation_credit, written.cast_signed());
    }

    #[test]
    fn an_answer_whose_record_moves_before_it_is_read_to_be_relocated_is_relocated() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().expect("a runtime");
        runtime.block_on(async {
            let storage = SimulatedStorage::new(1);
            let (_writer, committer) = open(&storage);
            let mut ant = DurableJournal::new(name("ant"), committer.clone(), History::default());
            let mut bee = DurableJournal::new(name("bee"), committer.clone(), History::default());
            for sequence in 1..=3 {
                let transaction = transaction(sequence, sequence == 1, 1000, 0);
                commit(vec![(&mut ant, Record::Transaction(transaction))]).await;
            }
            let mut sequence = 0;
            while !storage.list().expect("a list").contains(&"0000000003.segment".to_owned()) {
                sequence += 1;
                commit(vec![(&mut bee, Record::Transaction(transaction(sequence, false, BODY_BYTES_MAX, 0)))]).await;
            }
            // Block the readers of answers.
            let (release, released) = std::sync::mpsc::channel::<()>();
            let waiting = tokio::task::spawn_blocking(move || released.recv().is_err());
            let mut relocating = std::pin::pin!(ant.relocate(0));
            tokio::select! {
                biased;
                _ = &mut relocating => panic!("nothing was read"),
                () = std::future::ready(()) => {}
            }
            let reclaimed = committer.reclaim(BTreeMap::from([(name("bee"), bee.last)])).await.expect("reclaimed");
            assert!(reclaimed.segments > 0, "{reclaimed:?}");
            drop(release);
            assert_eq!(relocating.await.expect("relocated").len(), 1);
            assert!(waiting.await.expect("it has ended"));
        });
    }

    #[tokio::test]
    async fn a_repetition_reads_its_answer_and_neither_body_nor_frame_and_finds_damage() {
        let storage = SimulatedStorage::new(1);
        let (writer, committer) = open(&storage);
        let mut ant = DurableJournal::new(name("ant"), committer, History::default());
        let long = transaction(1, true, BODY_BYTES_MAX, 100);
        commit(vec![(&mut ant, Record::Transaction(Arc::clone(&long)))]).await;
        ant.catch_up();
        let before = storage.read_bytes();
        let answered = ant.answered(RecordNumber(1)).await.expect("readable").expect("retained");
        assert_eq!((&answered.answer, answered.body_hash), (&long.answer, long.body_hash));
        let read = storage.read_bytes() - before;
        assert!(read < 2 * ANSWER_READ_BYTES as u64, "{read} bytes of {BODY_BYTES_MAX}");
        let Some(Answered { place: Place::At(location), .. }) = ant.find(RecordNumber(1)) else { panic!("durable") };
        let names = storage.list().expect("a list");
        let segment = names.iter().find(|name| name.ends_with(".segment")).expect("there is one");
        let offset = location.frame_offset;
        let body_at = (offset + location.record_offset) as usize + BLOCK_BYTES;
        storage.flip(segment, body_at, 1);
        assert!(ant.answered(RecordNumber(1)).await.is_ok(), "no part of the answer is damaged");
        storage.flip(segment, body_at + BODY_BYTES_MAX - BLOCK_BYTES + 100, 1);
        let error = ant.answered(RecordNumber(1)).await.expect_err("the answer is damaged");
        assert!(matches!(error, JournalError::Unreadable { .. }), "{error}");
        // The answer stays where it is, and does not stop the journal.
        for sequence in 2..4 {
            commit(vec![(&mut ant, Record::Transaction(transaction(sequence, true, BODY_BYTES_MAX, 0)))]).await;
            assert!(ant.relocate_answers(BODY_BYTES_MAX as u64).await.expect("not now").is_empty());
        }
        assert_eq!(ant.first_answer(), RecordNumber(1));
        drop(writer);
    }
}
