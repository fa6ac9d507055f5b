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
    /// The bytes of all records.
    pub(crate) written_bytes: u64,
    /// The bytes of the records that are included in that snapshot.
    pub(crate) snapshot_bytes: u64,
}

impl History {
    /// Begins the history of a service with an empty log.
    pub(crate) fn new(mut log: Box<dyn Log>, answers: Answers) -> Self {
        let written_bytes = log.written_bytes();
        let last = RecordNumber(0);
        Self { log, last, tail: Tail::default(), written_bytes, snapshot_bytes: 0, answers }
    }

    /// Continues a history. `answers` points to the answers that `log` retains.
    pub(crate) fn continued(log: Box<dyn Log>, answers: Answers, found: FoundHistory) -> Self {
        Self {
            log,
            last: found.last,
            tail: found.tail.into_iter().collect(),
            written_bytes: Some(found.written_bytes),
            snapshot_bytes: found.snapshot_bytes,
            answers,
        }
    }

    /// Returns the last record.
    pub(crate) fn last_record(&self) -> RecordNumber {
        self.last
    }

    /// Returns the bytes of the records since the last proven snapshot.
    pub(crate) fn tail_bytes(&self) -> u64 {
        self.written_bytes.map_or(self.tail.bytes(), |written| written.saturating_sub(self.snapshot_bytes))
    }

    /// Returns the bytes that count towards [`JOURNAL_BYTES_MAX`] until a snapshot is proven.
    pub(crate) fn held_bytes(&self) -> u64 {
        // Failed transactions are not in the tail, but they are in the log.
        self.tail.bytes().max(self.tail_bytes())
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
    /// call checks the next user's.
    pub(crate) fn trim(&mut self, now: Moment) {
        while let Some(number) = self.answers.trim(now) {
            self.log.release(number);
        }
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
            self.append(&Record::Relocated(answer))?;
            self.log.release(from);
            if !self.answers.relocate(&key, from, self.last) {
                self.log.release(self.last);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answers::{DeduplicationWindow, ForgottenTimes, ID_FLOOR};
    use crate::journal::durable::{DurableLog, FoundLog};
    use crate::journal::tail::TAIL_PART;
    use crate::journal::{MemoryLog, QueriesRecord, QueryRecord};
    use bytes::Bytes;
    use futures::future::FutureExt;
    use lifeboat_api::id::{Epoch, Sequence};
    use lifeboat_api::name::Name;
    use lifeboat_api::transaction::{Answer, Cause, ReplyHash};
    use lifeboat_journal::commit;
    use lifeboat_journal::frame::DirectoryId;
    use lifeboat_journal::segments::{self, Options, Origin};
    use lifeboat_journal::storage::SimulatedStorage;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const NOW: Timestamp = Timestamp(1_700_000_000_000_000_000);

    fn ant() -> Name {
        Name::new("ant").expect("a name")
    }

    fn caller() -> Caller {
        Caller { user: Name::new("ada").expect("a name"), incarnation: 0 }
    }

    fn key(id: &str) -> IdKey {
        IdKey::new(&caller().user, 0, id)
    }

    fn transaction(sequence: u64, id: &str, is_id_kept: bool, answer: Answer) -> Record {
        let body = Bytes::from(format!("body {sequence}"));
        Record::Transaction(Arc::new(TransactionRecord {
            sequence: Sequence(sequence),
            id: id.into(),
            is_id_kept,
            user: caller().user,
            incarnation: 0,
            timestamp: Timestamp(sequence),
            epoch: Epoch::default(),
            body_hash: ReplyHash::of_body(&body),
            body,
            answer,
            fuel_used: 1,
            query_fuel_used: 0,
        }))
    }

    fn record(sequence: u64) -> Record {
        transaction(sequence, &sequence.to_string(), false, Answer::Ok(Bytes::from_static(b"1")))
    }

    fn answers(window: DeduplicationWindow) -> Answers {
        Answers::new(window, ForgottenTimes::default(), NOW)
    }

    fn in_memory() -> History {
        History::new(Box::new(MemoryLog::default()), answers(DeduplicationWindow::default()))
    }

    fn open(storage: &SimulatedStorage) -> (commit::Writer, commit::Committer) {
        let options = Options { segment_bytes: 256 * 1024, ..Options::new(DirectoryId([5; 16])) };
        let (log, _) =
            segments::Log::open(Arc::new(storage.clone()), options, Origin::Create, &mut |_| {}).expect("opens");
        commit::start(log, commit::QUEUE_BYTES_MAX).expect("starts")
    }

    /// Appends a transaction with an id from the client, and indexes it.
    fn append_with_id(history: &mut History, sequence: u64, id: &str, answer: Answer, now: Timestamp) {
        let (_, bytes) = history.append(&transaction(sequence, id, true, answer)).expect("appended");
        let (number, sequence) = (history.last_record(), Sequence(sequence));
        let (key, caller) = (key(id), caller());
        history.index(KeptId { key, caller, sequence, number, timestamp: now, id_time: None, bytes }, now);
    }

    fn sequences(tail: &[TailEntry]) -> Vec<u64> {
        let sequence = |entry: &TailEntry| match entry {
            TailEntry::Transaction(record) => record.sequence.0,
            TailEntry::Queries(record) => record.sequence.0,
        };
        tail.iter().map(sequence).collect()
    }

    /// Forgets the tail through a record. Returns the number of entries that it had.
    fn released(history: &mut History, through: RecordNumber) -> u64 {
        let before = history.tail(RecordNumber(0)).len();
        drop(history.forget_tail(through));
        (before - history.tail(RecordNumber(0)).len()) as u64
    }

    #[test]
    fn the_tail_ends_at_the_snapshot() -> Result<(), JournalError> {
        let mut history = in_memory();
        for sequence in 1..=10 {
            history.append(&record(sequence))?;
        }
        assert_eq!(released(&mut history, RecordNumber(6)), 6);
        assert_eq!(sequences(&history.tail(RecordNumber(0))), [7, 8, 9, 10]);
        assert_eq!(sequences(&history.tail(RecordNumber(9))), [10]);
        assert_eq!(released(&mut history, RecordNumber(10)), 4);
        assert_eq!(history.tail_bytes(), 0);
        Ok(())
    }

    #[test]
    fn an_answer_outlives_the_snapshot_that_includes_its_transaction() {
        let mut history = in_memory();
        append_with_id(&mut history, 1, "a", Answer::Ok(Bytes::from_static(b"1")), NOW);
        drop(history.forget_tail(RecordNumber(1)));
        let answered = history.answered(&key("a")).now_or_never().expect("at once").expect("readable");
        let answered = answered.expect("retained");
        assert_eq!(answered.answer, Answer::Ok(Bytes::from_static(b"1")));
        assert_eq!((answered.body_hash, &answered.body[..]), (ReplyHash::of_body(b"body 1"), &b""[..]));
    }

    #[test]
    fn a_known_id_without_its_record_is_an_error_and_not_unknown() {
        let mut history = in_memory();
        append_with_id(&mut history, 1, "a", Answer::Ok(Bytes::new()), NOW);
        history.log.release(RecordNumber(1));
        let error = history.answered(&key("a")).now_or_never().expect("at once").expect_err("it is not there");
        assert!(matches!(error, JournalError::Unreadable { number: RecordNumber(1), .. }), "{error}");
        assert!(history.answered(&key("b")).now_or_never().expect("at once").expect("readable").is_none());
    }

    #[test]
    fn a_tail_of_many_parts_is_released_from_any_transaction_on() -> Result<(), JournalError> {
        let part = TAIL_PART as u64;
        let last = 3 * part + 10;
        let mut history = in_memory();
        for sequence in 1..=last {
            history.append(&record(sequence))?;
        }
        let bytes_of_all = history.tail_bytes();
        let mut through = 0;
        for step in [0, 1, part - 2, 1, 1, part, 10, part - 10, 8] {
            assert_eq!(released(&mut history, RecordNumber(through + step)), step);
            through += step;
            for after in [0, through, through + 1, through + part, last - 1, last] {
                let tail = sequences(&history.tail(RecordNumber(after)));
                assert_eq!(tail, (after.max(through) + 1..=last).collect::<Vec<u64>>(), "{through}, {after}");
            }
        }
        assert_eq!(through, last - 1);
        assert!(history.tail_bytes() > 0 && history.tail_bytes() < bytes_of_all / part);
        assert_eq!(released(&mut history, RecordNumber(last)), 1);
        assert_eq!(history.tail_bytes(), 0);
        Ok(())
    }

    #[test]
    fn a_snapshot_between_two_records_of_queries_parts_the_tail_there() -> Result<(), JournalError> {
        let queries = |id: &str| {
            let query = QueryRecord {
                id: id.into(),
                user: caller().user,
                timestamp: Timestamp(1),
                body: Bytes::from_static(b"total"),
                reply_hash: ReplyHash::of_body(b"1"),
                fuel_used: 7,
            };
            let record = QueriesRecord { sequence: Sequence(1), epoch: Epoch::default(), queries: vec![query] };
            Record::Queries(Arc::new(record))
        };
        let mut history = in_memory();
        for record in [record(1), queries("a"), Record::Snapshot { sequence: Sequence(1) }, queries("b"), record(2)] {
            history.append(&record)?;
        }
        assert_eq!(sequences(&history.tail(RecordNumber(0))), [1, 1, 1, 2]);
        let bytes = history.tail_bytes();
        assert_eq!(released(&mut history, RecordNumber(3)), 2);
        assert!(history.tail_bytes() > 0 && history.tail_bytes() < bytes);
        let tail = history.tail(RecordNumber(3));
        assert_eq!((tail.len(), tail[0].calls(), tail[0].fuel_used(), tail[0].transactions()), (2, 1, 7, 0));
        assert!(matches!(&tail[0], TailEntry::Queries(record) if &*record.queries[0].id == "b"));
        Ok(())
    }

    /// Returns a history without a tail, of which as much was written as fits, and `snapshot_bytes` are in a snapshot.
    fn full(log: impl Log + 'static, snapshot_bytes: u64) -> History {
        let found = FoundHistory {
            last: RecordNumber(7),
            tail: Vec::new(),
            written_bytes: JOURNAL_BYTES_MAX - RECORD_BYTES - 10,
            snapshot_bytes,
        };
        History::continued(Box::new(log), answers(DeduplicationWindow::default()), found)
    }

    #[test]
    fn a_full_history_refuses_before_anything_is_executed() {
        let history = full(MemoryLog::default(), 0);
        assert_eq!(history.check_room(10), Ok(()));
        let refused = history.check_room(11).expect_err("it is full");
        assert!(matches!(refused, JournalError::Full { bytes, .. } if bytes == JOURNAL_BYTES_MAX + 1), "{refused}");
    }

    #[test]
    fn transactions_that_failed_since_the_snapshot_count_as_held() {
        // The tail is empty, because all of these transactions failed.
        let in_snapshot = JOURNAL_BYTES_MAX - RECORD_BYTES - 10;
        assert_eq!(full(MemoryLog::default(), 0).held_bytes(), in_snapshot);
        assert_eq!(full(MemoryLog::default(), in_snapshot).held_bytes(), 0);
    }

    #[derive(Debug, Clone)]
    enum Action {
        /// A transaction with an id of the client, or one that fails and may be tried again.
        Transaction { id: u8, is_retryable: bool },
        /// A transaction with an id of the host.
        Unnamed,
        /// A snapshot includes all records.
        Snapshot,
        /// So many seconds pass.
        Wait(u64),
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            6 => (0..24_u8, any::<bool>()).prop_map(|(id, is_retryable)| Action::Transaction { id, is_retryable }),
            6 => Just(Action::Unnamed),
            1 => Just(Action::Snapshot),
            2 => (0..40_u64).prop_map(Action::Wait),
        ]
    }

    /// Acts on a history above `log`, and compares it with a model.
    async fn check_against_model(log: Box<dyn Log>, actions: &[Action]) -> Result<usize, TestCaseError> {
        let window = DeduplicationWindow { ids: 16, age: 2 * ID_FLOOR, bytes: 16 * RECORD_BYTES };
        let mut history = History::new(log, answers(window));
        // The sequence and the answer of each id, the kept sequences by record, and the last record in a snapshot.
        let (mut named, mut kept) = (BTreeMap::<String, (u64, Answer)>::new(), BTreeMap::new());
        let (mut through, mut relocated) = (RecordNumber(0), 0);
        let mut now = NOW;
        for (action, sequence) in actions.iter().zip(1..) {
            let moment = Moment { wall: now, steady: now };
            match action {
                Action::Transaction { id, is_retryable } => {
                    let id = format!("id-{id}");
                    let known = history.answered(&key(&id)).await?;
                    let is_settled = known.is_some_and(|known| matches!(known.answer, Answer::Ok(_)));
                    if is_settled || history.make_room(&caller(), moment).is_err() {
                        continue;
                    }
                    let answer = match is_retryable {
                        true => Answer::Failed(Cause::Deadline { deadline: Duration::from_secs(1) }),
                        false => Answer::Ok(format!("answer {sequence}").into()),
                    };
                    append_with_id(&mut history, sequence, &id, answer.clone(), now);
                    if !is_retryable {
                        kept.insert(history.last_record(), sequence);
                    }
                    named.insert(id, (sequence, answer));
                }
                Action::Unnamed => {
                    history.append(&record(sequence))?;
                    kept.insert(history.last_record(), sequence);
                }
                Action::Snapshot => {
                    through = history.last_record();
                    drop(history.forget_tail(through));
                }
                Action::Wait(seconds) => now = now.plus(Duration::from_secs(*seconds)),
            }
            history.trim_all(Moment { wall: now, steady: now });
            let before = history.last_record();
            history.relocate_answers().await?;
            relocated += history.last_record().0 - before.0;
            let expected: Vec<u64> = kept.range(through.next()..).map(|(_, sequence)| *sequence).collect();
            prop_assert_eq!(sequences(&history.tail(through)), expected);
            let mut retained = 0;
            for (id, (sequence, answer)) in &named {
                if let Some(found) = history.answered(&key(id)).await? {
                    prop_assert_eq!((found.sequence.0, &found.answer), (*sequence, answer), "{}", id);
                    retained += 1;
                }
            }
            prop_assert!(retained <= 16 + 1, "{} answers", retained);
            prop_assert!(retained > 0 || history.first_answer() == history.last_record().next());
        }
        history.trim_all(Moment { wall: now.plus(3 * ID_FLOOR), steady: now.plus(3 * ID_FLOOR) });
        prop_assert_eq!(history.first_answer(), history.last_record().next(), "nothing is left to retain");
        Ok(usize::try_from(relocated).unwrap_or(usize::MAX))
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_history_in_memory_is_that_of_the_model(actions in prop::collection::vec(action(), 1..60)) {
            block_on(check_against_model(Box::new(MemoryLog::default()), &actions))?;
        }

        #[test]
        fn a_history_on_disk_is_that_of_the_model(actions in prop::collection::vec(action(), 1..60)) {
            let (_writer, committer) = open(&SimulatedStorage::new(1));
            let log = DurableLog::new(ant(), committer, FoundLog::default());
            block_on(check_against_model(Box::new(log), &actions))?;
        }
    }
}
