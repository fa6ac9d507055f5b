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
    let (log, _) = segments::Log::open(Arc::new(storage.clone()), options, Origin::Create, &mut |_| {}).expect("opens");
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
        network: None,
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
async fn each_due_answer_is_read_once_to_be_relocated() {
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
async fn relocated_answers_pay_for_no_others() {
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
async fn a_repetition_reads_only_its_answer() {
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
async fn a_record_that_does_not_follow_the_last_is_fenced() {
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
