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

impl Log for DurableLog {
    fn append(&mut self, expected: RecordNumber, record: &Record) -> Result<Appended, JournalError> {
        if let Some(reason) = self.refused.get() {
            return Err(JournalError::Ended { reason: reason.clone() });
        }
        JournalError::fence(expected, self.last)?;
        self.catch_up();
        let bytes = record::encode(record);
        let mut room = if matches!(record, Record::Transaction(_)) { self.room.take() } else { None };
        if let Some(room) = &mut room {
            room.shrink(bytes.len());
        }
        let record_bytes = bytes.len() as u64;
        let answer = answer_of(record).map(|transaction| {
            let place = Place::Submitted(Arc::clone(transaction));
            let check = AnswerCheck::of(&bytes, transaction.body_hash);
            RetainedAnswer { place, check, journal_bytes: self.journal_bytes }
        });
        let change = if self.last == RecordNumber(0) {
            Change::Begin { number: expected, record: bytes }
        } else {
            Change::Continue { number: expected, record: bytes }
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
        self.last = expected;
        let mut answer_bytes = 0;
        match record {
            Record::Transaction(transaction) if transaction.is_id_kept => answer_bytes = transaction.bytes(),
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
mod tests {
    use super::*;
    use bytes::Bytes;
    use lifeboat_api::clock::Timestamp;
    use lifeboat_api::id::{Epoch, Sequence};
    use lifeboat_api::transaction::{Answer, ReplyHash};
    use lifeboat_journal::commit;
    use lifeboat_journal::frame::{BLOCK_BYTES, DirectoryId};
    use lifeboat_journal::segments::{self, Options, Origin};
    use lifeboat_journal::storage::{SimulatedStorage, Storage};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn name(text: &str) -> Name {
        Name::new(text).expect("a name")
    }

    fn open(storage: &SimulatedStorage) -> (commit::Writer, Committer) {
        let options = Options::new(DirectoryId([5; 16]));
        let (log, _) =
            segments::Log::open(Arc::new(storage.clone()), options, Origin::Create, &mut |_| {}).expect("opens");
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

    fn append(log: &mut DurableLog, record: &Record) -> Commit {
        log.append(log.last.next(), record).expect("appended").commit
    }

    /// Relocates the answers that are due. Returns the records that held them.
    async fn relocate(log: &mut DurableLog, span_bytes: u64) -> Vec<u64> {
        let due = log.due(span_bytes).await;
        let relocate = |(from, answer): (RecordNumber, RelocatedAnswer)| {
            drop(append(log, &Record::Relocated(answer)));
            log.release(from);
            from.0
        };
        due.into_iter().map(relocate).collect()
    }

    /// Appends records to logs, all in one frame if the writer is fast enough, and waits until they are durable.
    async fn commit(appended: Vec<(&mut DurableLog, Record)>) {
        let tickets: Vec<Commit> = appended.into_iter().map(|(log, record)| append(log, &record)).collect();
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
                let mut ant = DurableLog::new(name("ant"), committer.clone(), FoundLog::default());
                let mut bee = DurableLog::new(name("bee"), committer.clone(), FoundLog::default());
                let (mut read_bytes, mut relocated) = (0, 0);
                for sequence in 1..300_u64 {
                    let of_ant = transaction(sequence, sequence.is_multiple_of(with_ids), body_bytes, answer_bytes);
                    let of_bee = transaction(sequence, false, beside_bytes, 0);
                    commit(vec![
                        (&mut bee, Record::Transaction(of_bee)),
                        (&mut ant, Record::Transaction(of_ant)),
                    ]).await;
                    let before = storage.read_bytes();
                    let relocations = relocate(&mut ant, span_bytes).await;
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
        let mut ant = DurableLog::new(name("ant"), committer, FoundLog::default());
        let answers = 3 * RELOCATED_ANSWERS_MAX as u64;
        for sequence in 1..=answers {
            drop(append(&mut ant, &Record::Transaction(transaction(sequence, true, 0, 0))));
        }
        for sequence in 1..=20 {
            let long = transaction(answers + sequence, false, BODY_BYTES_MAX, 0);
            commit(vec![(&mut ant, Record::Transaction(long))]).await;
        }
        let before = storage.read_bytes();
        let mut relocated = Vec::new();
        for call in 0..3 {
            let relocations = relocate(&mut ant, 16 * BODY_BYTES_MAX as u64).await;
            assert!(relocations.len() <= RELOCATED_ANSWERS_MAX, "{call}: {}", relocations.len());
            relocated.extend(relocations);
        }
        assert_eq!(relocated, (1..=answers).collect::<Vec<_>>());
        let read = storage.read_bytes() - before;
        // The answers are close to each other.
        assert!(read <= answers * (ANSWER_READ_BYTES as u64), "{read}");
        assert!(relocate(&mut ant, 16 * BODY_BYTES_MAX as u64).await.is_empty());
        assert_eq!(storage.read_bytes() - before, read);
    }

    #[tokio::test]
    async fn relocated_answers_are_charged_what_their_frames_take_and_pay_for_no_others() {
        let storage = SimulatedStorage::new(1);
        let (_writer, committer) = open(&storage);
        let mut ant = DurableLog::new(name("ant"), committer.clone(), FoundLog::default());
        for sequence in 1..=8 {
            commit(vec![(&mut ant, Record::Transaction(transaction(sequence, sequence == 1, 0, 0)))]).await;
        }
        ant.catch_up();
        let before = (ant.journal_bytes, ant.relocation_credit);
        assert_eq!(relocate(&mut ant, 0).await, [1]);
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
            let mut ant = DurableLog::new(name("ant"), committer.clone(), FoundLog::default());
            let mut bee = DurableLog::new(name("bee"), committer.clone(), FoundLog::default());
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
            let mut relocating = std::pin::pin!(relocate(&mut ant, 0));
            tokio::select! {
                biased;
                _ = &mut relocating => panic!("nothing was read"),
                () = std::future::ready(()) => {}
            }
            let reclaimed = committer.reclaim(BTreeMap::from([(name("bee"), bee.last)])).await.expect("reclaimed");
            assert!(reclaimed.segments > 0, "{reclaimed:?}");
            drop(release);
            assert_eq!(relocating.await, [1]);
            assert!(waiting.await.expect("it has ended"));
        });
    }

    #[tokio::test]
    async fn a_repetition_reads_its_answer_and_neither_body_nor_frame_and_finds_damage() {
        let storage = SimulatedStorage::new(1);
        let (writer, committer) = open(&storage);
        let mut ant = DurableLog::new(name("ant"), committer, FoundLog::default());
        let long = transaction(1, true, BODY_BYTES_MAX, 100);
        commit(vec![(&mut ant, Record::Transaction(Arc::clone(&long)))]).await;
        ant.catch_up();
        let before = storage.read_bytes();
        let answered = ant.read(RecordNumber(1)).await.expect("readable").expect("retained");
        assert_eq!((&answered.answer, answered.body_hash), (&long.answer, long.body_hash));
        let read = storage.read_bytes() - before;
        assert!(read < 2 * ANSWER_READ_BYTES as u64, "{read} bytes of {BODY_BYTES_MAX}");
        let Some(RetainedAnswer { place: Place::At(location), .. }) = ant.answers.get(RecordNumber(1)) else {
            panic!("durable")
        };
        let names = storage.list().expect("a list");
        let segment = names.iter().find(|name| name.ends_with(".segment")).expect("there is one");
        let offset = location.frame_offset;
        let body_at = (offset + location.record_offset) as usize + BLOCK_BYTES;
        storage.flip(segment, body_at, 1);
        assert!(ant.read(RecordNumber(1)).await.is_ok(), "no part of the answer is damaged");
        storage.flip(segment, body_at + BODY_BYTES_MAX - BLOCK_BYTES + 100, 1);
        let error = ant.read(RecordNumber(1)).await.expect_err("the answer is damaged");
        assert!(matches!(error, JournalError::Unreadable { .. }), "{error}");
        // The answer stays where it is, and does not stop the journal.
        for sequence in 2..4 {
            commit(vec![(&mut ant, Record::Transaction(transaction(sequence, true, BODY_BYTES_MAX, 0)))]).await;
            assert!(relocate(&mut ant, BODY_BYTES_MAX as u64).await.is_empty());
        }
        assert_eq!(ant.pinned().map(|pinned| pinned.first), Some(RecordNumber(1)));
        drop(writer);
    }

    #[tokio::test]
    async fn a_record_that_does_not_follow_the_last_is_fenced_and_not_written() {
        let storage = SimulatedStorage::new(1);
        let (_writer, committer) = open(&storage);
        let mut ant = DurableLog::new(name("ant"), committer.clone(), FoundLog::default());
        commit(vec![(&mut ant, Record::Transaction(transaction(1, true, 0, 0)))]).await;
        let record = Record::Transaction(transaction(2, true, 0, 0));
        for expected in [0, 1, 3] {
            let expected = RecordNumber(expected);
            let error = ant.append(expected, &record).expect_err("it does not follow");
            assert_eq!(error, JournalError::Fenced { expected, last: RecordNumber(1) });
        }
        commit(vec![(&mut ant, record)]).await;
        assert!(ant.read(RecordNumber(2)).await.expect("readable").is_some());
    }
}
