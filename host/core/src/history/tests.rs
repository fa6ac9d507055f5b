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
        network: None,
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
    let (log, _) = segments::Log::open(Arc::new(storage.clone()), options, Origin::Create, &mut |_| {}).expect("opens");
    commit::start(log, commit::QUEUE_BYTES_MAX).expect("starts")
}

/// Appends a transaction with an id from the client, and indexes it.
fn append_with_id(history: &mut History, sequence: u64, id: &str, answer: Answer, now: Timestamp) -> Commit {
    let (commit, bytes) = history.append(&transaction(sequence, id, true, answer)).expect("appended");
    let (number, sequence) = (history.last_record(), Sequence(sequence));
    let (key, caller) = (key(id), caller());
    history.index(KeptId { key, caller, sequence, number, timestamp: now, id_time: None, bytes }, now);
    commit
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
    let _ = append_with_id(&mut history, 1, "a", Answer::Ok(Bytes::from_static(b"1")), NOW);
    drop(history.forget_tail(RecordNumber(1)));
    let answered = history.answered(&key("a")).now_or_never().expect("at once").expect("readable");
    let answered = answered.expect("retained");
    assert_eq!(answered.answer, Answer::Ok(Bytes::from_static(b"1")));
    assert_eq!((answered.body_hash, &answered.body[..]), (ReplyHash::of_body(b"body 1"), &b""[..]));
}

#[test]
fn a_known_id_without_its_record_is_an_error() {
    let mut history = in_memory();
    let _ = append_with_id(&mut history, 1, "a", Answer::Ok(Bytes::new()), NOW);
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
fn full(committer: &commit::Committer, snapshot_bytes: u64) -> History {
    let last = RecordNumber(7);
    let found = FoundLog { last, journal_bytes: FULL_BYTES, ..FoundLog::default() };
    let log = DurableLog::new(ant(), committer.clone(), found);
    let found = FoundHistory { last, tail: Vec::new(), snapshot_bytes };
    History::continued(Box::new(log), answers(DeduplicationWindow::default()), found)
}

/// The bytes of a journal that takes a record of 10 bytes more.
const FULL_BYTES: u64 = JOURNAL_BYTES_MAX - RECORD_BYTES - 10;

#[test]
fn a_full_history_refuses_before_anything_is_executed() {
    let (_writer, committer) = open(&SimulatedStorage::new(1));
    let history = full(&committer, 0);
    assert_eq!(history.check_room(10), Ok(()));
    let refused = history.check_room(11).expect_err("it is full");
    assert!(matches!(refused, JournalError::Full { bytes, .. } if bytes == JOURNAL_BYTES_MAX + 1), "{refused}");
}

#[test]
fn transactions_that_failed_since_the_snapshot_count_as_held() {
    // The tail is empty, because all of these transactions failed.
    let (_writer, committer) = open(&SimulatedStorage::new(1));
    assert_eq!(full(&committer, 0).held_bytes(), FULL_BYTES);
    assert_eq!(full(&committer, FULL_BYTES).held_bytes(), 0);
}

#[test]
fn a_failed_transaction_takes_room_on_disk() -> Result<(), JournalError> {
    let (_writer, committer) = open(&SimulatedStorage::new(1));
    let log = DurableLog::new(ant(), committer, FoundLog::default());
    let mut history = History::new(Box::new(log), answers(DeduplicationWindow::default()));
    let failed = Answer::Failed(Cause::Deadline { deadline: Duration::from_secs(1) });
    for sequence in 1..=2 {
        let (commit, _) = history.append(&transaction(sequence, "a", false, failed.clone()))?;
        block_on(commit.durable())?;
    }
    // What was written of a record counts from the next record on.
    assert!(history.tail(RecordNumber(0)).is_empty() && history.held_bytes() > 0, "{}", history.held_bytes());
    assert_eq!(history.held_bytes_of(&[]), 0);
    Ok(())
}

#[test]
fn a_part_of_the_tail_has_its_share_of_what_the_log_holds() -> Result<(), JournalError> {
    let (_writer, committer) = open(&SimulatedStorage::new(1));
    let log = DurableLog::new(ant(), committer, FoundLog::default());
    let mut history = History::new(Box::new(log), answers(DeduplicationWindow::default()));
    for sequence in 1..=9 {
        block_on(history.append(&record(sequence))?.0.durable())?;
    }
    let (all, half) = (history.tail(RecordNumber(0)), history.tail(RecordNumber(6)));
    assert_eq!(history.held_bytes_of(&all), history.held_bytes());
    assert_eq!(history.held_bytes_of(&half), history.held_bytes() / 3);
    Ok(())
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
    // The sequence, the answer and the time of each id, the kept sequences by record, and the last record in a
    // snapshot.
    let (mut named, mut kept) = (BTreeMap::<String, (u64, Answer, Timestamp)>::new(), BTreeMap::new());
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
                append_with_id(&mut history, sequence, &id, answer.clone(), now).durable().await?;
                if !is_retryable {
                    kept.insert(history.last_record(), sequence);
                }
                named.insert(id, (sequence, answer, now));
            }
            Action::Unnamed => {
                history.append(&record(sequence))?.0.durable().await?;
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
        for (id, (sequence, answer, time)) in &named {
            if let Some(found) = history.answered(&key(id)).await? {
                prop_assert_eq!((found.sequence.0, &found.answer), (*sequence, answer), "{}", id);
                retained += 1;
            } else {
                prop_assert!(now >= time.plus(ID_FLOOR), "{} is forgotten too early", id);
            }
        }
        prop_assert!(retained <= 16 + 1, "{} answers", retained);
        prop_assert!(retained > 0 || history.first_answer() == history.last_record().next());
    }
    history.trim_all(Moment { wall: now.plus(3 * ID_FLOOR), steady: now.plus(3 * ID_FLOOR) });
    prop_assert_eq!(history.first_answer(), history.last_record().next(), "nothing is left to retain");
    for number in 1..=history.last.0 {
        let retained = history.log.read(RecordNumber(number)).await?;
        prop_assert!(retained.is_none(), "the log retains the answer in record {}", number);
    }
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

#[test]
fn an_answer_on_disk_is_relocated_when_the_log_has_grown_behind_it() {
    let (_writer, committer) = open(&SimulatedStorage::new(1));
    let log = DurableLog::new(ant(), committer, FoundLog::default());
    let mut actions = vec![Action::Unnamed; 40];
    actions[3] = Action::Transaction { id: 7, is_retryable: false };
    let relocated = block_on(check_against_model(Box::new(log), &actions)).expect("as the model");
    assert!(relocated > 0, "the window allows {} bytes, and each record takes a block", 16 * RECORD_BYTES);
}
