use super::*;
use crate::frame::DirectoryId;
use crate::location_feed::LocationUpdate;
use crate::recovery::Location;
use crate::recovery::{Found, Integrity, Recovery, inspect};
use crate::segments::{Options, Origin};
use crate::storage::{Operation, SimulatedStorage};
use std::pin::pin;
use std::task::{Context, Poll, Wake, Waker};

const DIRECTORY: DirectoryId = DirectoryId([5; 16]);

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn open(storage: &SimulatedStorage) -> Log {
    let options = Options { segment_bytes: 256 * 1024, ..Options::new(DIRECTORY) };
    Log::open(Arc::new(storage.clone()), options, Origin::Create, &mut |_| {}).expect("opens").0
}

fn look(storage: &SimulatedStorage, seal: Option<&Seal>) -> (Recovery, BTreeMap<Name, Vec<Vec<u8>>>) {
    let mut found: BTreeMap<Name, Vec<Vec<u8>>> = BTreeMap::new();
    let recovery = inspect(storage, DIRECTORY, seal, &mut |event| match event {
        Found::Begins { service } | Found::Ends { service } => drop(found.remove(service)),
        Found::Record { service, bytes, .. } => {
            found.entry(service.clone()).or_default().push(bytes.to_vec());
        }
    });
    (recovery.expect("readable"), found)
}

fn entry(service: &str, number: u64) -> Entry {
    let (record, number) = (format!("{service}{number}").into_bytes(), RecordNumber(number));
    let change = if number.0 == 1 { Change::Begin { number, record } } else { Change::Continue { number, record } };
    Entry { service: name(service), change }
}

/// A waker for a thread that waits for a future.
struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn tickets_locate_the_records_of_services_that_share_frames() {
    let storage = SimulatedStorage::new(1);
    let (writer, committer) = start(open(&storage), QUEUE_BYTES_MAX).expect("starts");
    std::thread::scope(|scope| {
        for service in ["ant", "bee", "cat", "dog"] {
            let committer = &committer;
            scope.spawn(move || {
                for first in (1..400).step_by(40) {
                    let tickets: Vec<Ticket> = (first..first + 40)
                        .map(|number| committer.submit(entry(service, number), None).expect("open"))
                        .collect();
                    for (ticket, number) in tickets.into_iter().zip(first..) {
                        let location = ticket.wait().expect("committed").expect("a record");
                        let record = committer.reader().record(&name(service), RecordNumber(number), location);
                        let record = record.expect("readable");
                        assert_eq!(record, format!("{service}{number}").into_bytes());
                    }
                }
            });
        }
    });
    assert!(storage.count(Operation::SyncData) < 800, "{}", storage.count(Operation::SyncData));
    let Totals { frames, frame_bytes } = committer.totals();
    assert!((1..800).contains(&frames) && frame_bytes >= 1600 * 5, "{frames} frames of {frame_bytes} bytes");
    assert_eq!(committer.commit_times().count(), frames);
    let seal = writer.stop().expect("sealed");
    assert!(matches!(committer.submit(entry("ant", 401), None), Err(CommitError::Closed)));
    let (recovery, found) = look(&storage, Some(&seal));
    assert!(recovery.damages.is_empty());
    assert!(found.len() == 4 && found.values().all(|records| records.len() == 400));
}

#[test]
fn a_record_that_nobody_waits_for_shares_the_frame_of_the_next_one() {
    let storage = SimulatedStorage::new(1);
    let (_writer, committer) = start(open(&storage), QUEUE_BYTES_MAX).expect("starts");
    let long = Some(Duration::from_secs(60 * 60));
    let tickets = [
        committer.submit_within(entry("ant", 1), None, long),
        committer.submit_within(entry("bee", 1), None, long),
        committer.submit(entry("ant", 2), None),
    ];
    for ticket in tickets {
        ticket.expect("open").wait().expect("committed");
    }
    assert_eq!(committer.totals().frames, 1);
}

#[test]
fn a_record_that_nobody_waits_for_is_committed_without_another_one() {
    let storage = SimulatedStorage::new(1);
    let (writer, committer) = start(open(&storage), QUEUE_BYTES_MAX).expect("starts");
    for number in 1..=3 {
        committer.submit_patiently(entry("ant", number), None).expect("open").wait().expect("committed");
    }
    // A stop waits for no time.
    let held = committer.submit_within(entry("ant", 4), None, Some(Duration::from_secs(60 * 60))).expect("open");
    let seal = writer.stop().expect("sealed");
    held.wait().expect("committed");
    let (_, found) = look(&storage, Some(&seal));
    assert_eq!(found[&name("ant")].len(), 4);
}

#[test]
fn an_acknowledged_record_survives_a_crash_at_once() {
    for seed in 0..40 {
        let storage = SimulatedStorage::new(seed);
        let (_writer, committer) = start(open(&storage), QUEUE_BYTES_MAX).expect("starts");
        let tickets: Vec<Ticket> =
            (1..=20).map(|number| committer.submit(entry("ant", number), None).expect("open")).collect();
        let acknowledged = tickets.into_iter().take(usize::try_from(seed % 20).expect("few")).map(Ticket::wait);
        let acknowledged = acknowledged.filter(Result::is_ok).count();
        let (recovery, found) = look(&storage.crash(), None);
        let kept = found.get(&name("ant")).map_or(0, Vec::len);
        assert!(kept >= acknowledged && recovery.damages.is_empty(), "{kept} of {acknowledged}");
    }
}

#[test]
fn after_a_failure_every_ticket_gets_the_first_cause() {
    let storage = SimulatedStorage::new(1);
    let (writer, committer) = start(open(&storage), QUEUE_BYTES_MAX).expect("starts");
    committer.submit(entry("ant", 1), None).expect("open").wait().expect("committed");
    storage.fail(Operation::SyncData, 1);
    let tickets: Vec<_> = (2..50).map(|number| committer.submit(entry("ant", number), None)).collect();
    for ticket in tickets {
        let error = ticket.map(Ticket::wait).and_then(|result| result).expect_err("the sync failed");
        assert_eq!(error.to_string(), "the journal failed: cannot write and sync a frame");
    }
    let later = committer.submit(entry("bee", 1), None).expect_err("final");
    assert_eq!(later.to_string(), "the journal failed: cannot write and sync a frame");
    assert!(block_on(committer.room(1)).is_err() && block_on(committer.reclaim(BTreeMap::new())).is_err());
    assert!(writer.stop().is_err());
}

/// Waits until `is_so` returns true for the journal's stall.
fn await_stall(committer: &Committer, is_so: impl Fn(Option<&Stall>) -> bool) -> Option<Stall> {
    let mut stalls = committer.stalls();
    block_on(async { stalls.wait_for(|stall| is_so(stall.as_ref())).await.expect("it goes on").clone() })
}

#[test]
fn a_journal_without_descriptors_or_room_stalls_until_they_come_back() {
    let kinds = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::Interrupted];
    for kind in kinds.into_iter().chain([io::ErrorKind::Other]) {
        let storage = SimulatedStorage::new(1);
        let (writer, committer) = start(open(&storage), QUEUE_BYTES_MAX).expect("starts");
        let commit = |number| committer.submit(long_entry("ant", number), None).expect("open").wait();
        commit(1).expect("committed");
        storage.break_down(Operation::Create, kind);
        // As a service does: submit only records that have room.
        let mut number = 1;
        while let Some(room) = committer.room_now(LONG_BYTES) {
            number += 1;
            let ticket = committer.submit(long_entry("ant", number), Some(room)).expect("open");
            ticket.wait().expect("what was taken has room in the last segment");
        }
        let stall = committer.stall().expect("it is stalled");
        assert!(stall.denies && stall.reason.contains("continues by itself"), "{stall:?}");
        assert!(matches!(block_on(committer.room(1)), Err(CommitError::Stalled(_))));
        assert!(committer.failure().is_none());
        // Records of transactions that were executed nevertheless are committed late, and not lost.
        let late: Vec<_> = (number + 1..number + 200)
            .map(|number| committer.submit(long_entry("ant", number), None).expect("open"))
            .collect();
        assert!(!late.last().expect("some").is_over());
        storage.mend(Operation::Create);
        for ticket in late {
            ticket.wait().expect("committed");
        }
        assert_eq!(await_stall(&committer, |stall| stall.is_none()), None);
        assert!(block_on(committer.room(1)).is_ok());
        commit(number + 200).expect("committed");
        let seal = writer.stop().expect("sealed");
        let (recovery, found) = look(&storage, Some(&seal));
        assert!(recovery.damages.is_empty());
        assert_eq!(found[&name("ant")].len() as u64, number + 200);
    }
}

#[test]
fn a_stalled_journal_resumes_without_a_new_record() {
    let storage = SimulatedStorage::new(1);
    let (_writer, committer) = start(open(&storage), QUEUE_BYTES_MAX).expect("starts");
    committer.submit(entry("ant", 1), None).expect("open").wait().expect("committed");
    storage.limit_space(storage.used_bytes() + 1000);
    let mut number = 1;
    while let Some(room) = committer.room_now(LONG_BYTES) {
        number += 1;
        committer.submit(long_entry("ant", number), Some(room)).expect("open").wait().expect("committed");
    }
    assert!(storage.used_bytes() < 2 * 256 * 1024, "no part of a segment stays");
    storage.limit_space(u64::MAX);
    assert_eq!(await_stall(&committer, |stall| stall.is_none()), None);
    assert!(committer.room_now(1).is_some());
}

#[test]
fn a_stop_does_not_wait_for_room() {
    let storage = SimulatedStorage::new(1);
    let (writer, committer) = start(open(&storage), QUEUE_BYTES_MAX).expect("starts");
    storage.break_down(Operation::Create, io::ErrorKind::StorageFull);
    let ticket = committer.submit(entry("ant", 1), None).expect("open");
    await_stall(&committer, |stall| stall.is_some_and(|stall| stall.denies));
    assert!(!ticket.is_over());
    let refused = writer.stop().expect_err("it is not sealed");
    assert_eq!(refused.to_string(), "cannot begin a new segment");
    assert!(ticket.wait().is_err());
    assert!(look(&storage, None).1.is_empty());
}

/// Submits records of `service` until one is held, on a disk on which no segment can be begun. Returns their
/// tickets and the number of the last.
fn hold(committer: &Committer, service: &str, mut number: u64) -> (Vec<Ticket>, u64) {
    let mut tickets = Vec::new();
    loop {
        number += 1;
        tickets.push(committer.submit(long_entry(service, number), None).expect("open"));
        if let Err(error) = block_on(tickets[tickets.len() - 1].clone().committed_or_held()) {
            assert!(matches!(&error, CommitError::Stalled(_)), "{error}");
            return (tickets, number);
        }
    }
}

#[test]
fn a_waiter_for_a_held_record_learns_of_the_stall_before_the_commit() {
    let storage = SimulatedStorage::new(1);
    let (writer, committer) = start(open(&storage), QUEUE_BYTES_MAX).expect("starts");
    committer.submit(entry("ant", 1), None).expect("open").wait().expect("committed");
    storage.break_down(Operation::Create, io::ErrorKind::StorageFull);
    let (mut tickets, last) = hold(&committer, "ant", 1);
    // This happens at once, because other records have waited long enough.
    let later = committer.submit(entry("ant", last + 1), None).expect("open");
    later.then_or_held(|committed| assert!(matches!(committed, Err(CommitError::Stalled(_)))));
    assert!(matches!(block_on(later.clone().committed_or_held()), Err(CommitError::Stalled(_))));
    assert!(!later.is_over());
    tickets.push(later);
    assert!(matches!(block_on(committer.settle()), Err(CommitError::Stalled(_))));
    let reclaimed = block_on(committer.reclaim(BTreeMap::new())).expect("it ends, with nothing to give up");
    assert_eq!(reclaimed.segments, 0);
    storage.mend(Operation::Create);
    for ticket in tickets {
        ticket.wait().expect("committed");
    }
    await_stall(&committer, |stall| stall.is_none());
    let next = committer.submit(entry("ant", last + 2), None).expect("open");
    block_on(next.committed_or_held()).expect("it has an end");
    block_on(committer.settle()).expect("there is room");
    writer.stop().expect("sealed");
    assert_eq!(look(&storage, None).1[&name("ant")].len() as u64, last + 2);
}

#[test]
fn the_room_that_a_reclaim_releases_ends_a_stall() {
    for is_ended in [false, true] {
        let storage = SimulatedStorage::new(1);
        let (writer, committer) = start(open(&storage), QUEUE_BYTES_MAX).expect("starts");
        // These fill three segments of one service.
        let last = 300;
        let tickets: Vec<_> =
            (1..=last).map(|number| committer.submit(long_entry("ant", number), None).expect("open")).collect();
        assert!(tickets.into_iter().all(|ticket| ticket.wait().is_ok()));
        block_on(committer.settle()).expect("there is room");
        storage.break_down(Operation::Create, io::ErrorKind::StorageFull);
        let busy = if is_ended { "bee" } else { "ant" };
        let (tickets, last) = hold(&committer, busy, if is_ended { 0 } else { last });
        let needed = if is_ended {
            let end = Entry { service: name("ant"), change: Change::End };
            assert!(matches!(committer.commit_unless_stalled(end), Err(CommitError::Stalled(_))));
            BTreeMap::new()
        } else {
            BTreeMap::from([(name("ant"), RecordNumber(last))])
        };
        let reclaimed = block_on(committer.reclaim(needed)).expect("it needs no room");
        assert!(reclaimed.segments > 0, "{reclaimed:?}");
        for ticket in tickets {
            ticket.wait().expect("committed");
        }
        writer.stop().expect("sealed");
        let (recovery, found) = look(&storage, None);
        assert!(recovery.damages.is_empty(), "{recovery:?}");
        assert!(!is_ended || !found.contains_key(&name("ant")));
        assert!(found[&name(busy)].last().expect("a record").starts_with(format!("{busy}{last}").as_bytes()));
    }
}

/// Writes one record of `bee` and then three segments of `ant`. Submits records of `cat`, of `bytes` each, until
/// one is held, and ends `ant`. Then reclaims, and returns the tickets of `cat`.
fn reclaim_while_held(storage: &SimulatedStorage, bytes: usize) -> (Writer, Reclaimed, Vec<Ticket>) {
    let (writer, committer) = start(open(storage), QUEUE_BYTES_MAX).expect("starts");
    committer.submit(entry("bee", 1), None).expect("open").wait().expect("committed");
    let tickets: Vec<_> =
        (1..=300).map(|number| committer.submit(long_entry("ant", number), None).expect("open")).collect();
    assert!(tickets.into_iter().all(|ticket| ticket.wait().is_ok()));
    block_on(committer.settle()).expect("there is room");
    storage.break_down(Operation::Create, io::ErrorKind::StorageFull);
    let mut held = Vec::new();
    let mut is_held = false;
    while !is_held {
        let mut entry = entry("cat", held.len() as u64 + 1);
        if let Change::Begin { record, .. } | Change::Continue { record, .. } = &mut entry.change {
            record.resize(bytes, b'.');
        }
        let ticket = committer.submit(entry, None).expect("open");
        is_held = block_on(ticket.clone().committed_or_held()).is_err();
        held.push(ticket);
    }
    let end = Entry { service: name("ant"), change: Change::End };
    assert!(matches!(committer.commit_unless_stalled(end), Err(CommitError::Stalled(_))));
    let reclaimed = block_on(committer.reclaim(BTreeMap::new())).expect("it is over");
    (writer, reclaimed, held)
}

#[test]
fn while_records_are_held_records_that_fit_the_room_left_are_relocated() {
    let storage = SimulatedStorage::new(1);
    let (writer, reclaimed, held) = reclaim_while_held(&storage, 100_000);
    assert!(reclaimed.segments > 0 && reclaimed.lacking_room.is_empty(), "{reclaimed:?}");
    let count = held.len();
    assert!(held.into_iter().all(|ticket| ticket.wait().is_ok()));
    let (recovery, found) = look(&storage.crash(), None);
    assert!(recovery.damages.is_empty(), "{recovery:?}");
    assert_eq!((&found[&name("bee")], found[&name("cat")].len()), (&vec![b"bee1".to_vec()], count));
    assert!(writer.stop().is_err());
}

#[test]
fn a_reclaim_names_services_whose_records_it_has_no_room_to_relocate() {
    let storage = SimulatedStorage::new(1);
    // The remaining room is too small for one of these records.
    let (writer, reclaimed, held) = reclaim_while_held(&storage, LONG_BYTES);
    assert_eq!((reclaimed.segments, &reclaimed.lacking_room), (0, &vec![name("bee")]), "{reclaimed:?}");
    assert!(reclaimed.pinned_by.is_empty());
    storage.mend(Operation::Create);
    assert!(held.into_iter().all(|ticket| ticket.wait().is_ok()));
    writer.stop().expect("sealed");
}

#[test]
fn the_time_for_which_a_frame_was_held_counts_for_the_next_of_its_batch() {
    let storage = SimulatedStorage::new(1);
    let mut log = open(&storage);
    storage.break_down(Operation::Create, io::ErrorKind::StorageFull);
    let (writer, committer) = start(open(&SimulatedStorage::new(2)), QUEUE_BYTES_MAX).expect("starts");
    // The held record is tried once more, and abandoned.
    drop(writer);
    let shared = &committer.shared;
    let (printed, hears) = std::sync::mpsc::channel();
    let (completion, ticket) = ticket();
    ticket.then_or_held(move |committed| printed.send(committed.clone()).expect("it is heard"));
    log.stage(RunKind::Begin, &name("ant"), RecordNumber(1), b"ant1").expect("staged");
    let staged = [StagedRecord { record: None, record_bytes: 4, completion, _room: None }];
    let mut retry = Retry::default();
    for is_later in [false, true] {
        let (mut batch, mut orders) = (VecDeque::new(), Orders::default());
        let committed = commit_in_time(&mut log, &staged, &mut batch, shared, &mut retry, &mut orders);
        assert!(matches!(committed, Err(LogError::NotBegun(_))));
        assert_eq!(hears.try_recv().is_ok_and(|printed| matches!(printed, Err(CommitError::Stalled(_)))), is_later);
        // Pretend that the attempt took that long.
        retry.report_at = retry.report_at.map(|report_at| report_at - HELD_MAX);
    }
}

#[test]
fn a_caller_that_does_not_wait_for_room_learns_what_is_missing() {
    let storage = SimulatedStorage::new(1);
    let (writer, committer) = start(open(&storage), QUEUE_BYTES_MAX).expect("starts");
    storage.break_down(Operation::Create, io::ErrorKind::StorageFull);
    let stalled = committer.commit_unless_stalled(entry("ant", 1)).expect_err("there is no segment");
    assert!(stalled.to_string().contains("make room on its disk"), "{stalled}");
    storage.mend(Operation::Create);
    await_stall(&committer, |stall| stall.is_none());
    committer.commit_unless_stalled(entry("ant", 2)).expect("it went on by itself");
    drop(writer);
    assert_eq!(look(&storage, None).1[&name("ant")].len(), 2, "what had waited was committed");
}

#[test]
fn a_journal_that_lost_its_directory_acknowledges_nothing_more() {
    let storage = SimulatedStorage::new(1);
    let (writer, committer) = start(open(&storage), QUEUE_BYTES_MAX).expect("starts");
    committer.submit(entry("ant", 1), None).expect("open").wait().expect("committed");
    storage.replace();
    // The check comes with the next segment, or after a second.
    let mut number = 1;
    let error = loop {
        number += 1;
        let ticket = committer.submit(long_entry("ant", number), None);
        if let Err(error) = ticket.and_then(Ticket::wait) {
            break error;
        }
        assert!(number < 200, "a segment holds no more");
    };
    assert_eq!(error.to_string(), "the journal failed: cannot continue in the data directory");
    assert!(writer.stop().is_err());
}

#[test]
fn the_lock_is_checked_once_in_a_while() {
    let start = Instant::now();
    let mut retry = Retry::default();
    assert!(retry.checks_lock(start) && !retry.checks_lock(start + LOCK_CHECK_INTERVAL / 2));
    assert!(retry.checks_lock(start + LOCK_CHECK_INTERVAL) && !retry.checks_lock(start + LOCK_CHECK_INTERVAL));
}

#[test]
fn a_failure_is_tried_again_after_twice_as_long_each_time() {
    let start = Instant::now();
    let mut retry = Retry::default();
    assert!(retry.is_due(start) && retry.due().is_none());
    let (mut now, mut delay) = (start, SEGMENT_RETRY_FIRST);
    for _ in 0..10 {
        retry.failed(now);
        assert_eq!(retry.due(), Some(now + delay));
        assert!(!retry.is_due(now) && retry.is_due(now + delay));
        now += delay;
        delay = (2 * delay).min(SEGMENT_RETRY_MAX);
    }
    assert_eq!(delay, SEGMENT_RETRY_MAX);
    retry.succeeded();
    retry.failed(now);
    assert_eq!(retry.due(), Some(now + SEGMENT_RETRY_FIRST));
}

#[test]
fn a_mistake_of_one_service_is_its_own() {
    let storage = SimulatedStorage::new(1);
    let (writer, committer) = start(open(&storage), QUEUE_BYTES_MAX).expect("starts");
    let wrong = committer.submit(entry("ant", 7), None).expect("open");
    let right = committer.submit(entry("bee", 1), None).expect("open");
    assert!(matches!(wrong.wait(), Err(CommitError::Log(LogError::OutOfOrder { .. }))));
    assert!(right.wait().is_ok());
    let end = Entry { service: name("bee"), change: Change::End };
    assert!(matches!(committer.submit(end, None).expect("open").wait(), Ok(None)));
    writer.stop().expect("sealed");
}

#[test]
fn room_is_released_once_records_are_safe() {
    let storage = SimulatedStorage::new(1);
    let (writer, committer) = start(open(&storage), 4 * (RECORD_BYTES + 100)).expect("starts");
    for number in 1..100 {
        // At most four are in flight, so this loop ends only if their room is released.
        let room = block_on(committer.room(100)).expect("room");
        committer.submit(entry("ant", number), Some(room)).expect("open");
    }
    let _all = block_on(committer.room(usize::MAX / 2)).expect("room");
    writer.stop().expect("sealed");
    assert!(block_on(committer.room(1)).is_err());
}

const LONG_BYTES: usize = 2000;

fn long_entry(service: &str, number: u64) -> Entry {
    let mut entry = entry(service, number);
    if let Change::Begin { record, .. } | Change::Continue { record, .. } = &mut entry.change {
        record.resize(LONG_BYTES, b'.');
    }
    entry
}

/// Writes a journal with 500 long records of `ant`, all of which are needed, and then 2500 of `bee`, of which only
/// the last is needed.
fn long_journal(storage: &SimulatedStorage) -> (Writer, Committer, BTreeMap<Name, RecordNumber>) {
    let (writer, committer) = start(open(storage), QUEUE_BYTES_MAX).expect("starts");
    for (service, count) in [("ant", 500), ("bee", 2500)] {
        let tickets: Vec<Ticket> =
            (1..=count).map(|number| committer.submit(long_entry(service, number), None).expect("open")).collect();
        assert!(tickets.into_iter().all(|ticket| ticket.wait().is_ok()));
    }
    (writer, committer, BTreeMap::from([(name("ant"), RecordNumber(1)), (name("bee"), RecordNumber(2500))]))
}

/// Submits the next record on the writer's thread when the previous one is durable, as long as `is_going_on`.
fn keep_appending(committer: Committer, number: u64, places: Arc<Mutex<Vec<Location>>>, is_going_on: Arc<AtomicBool>) {
    let Ok(ticket) = committer.submit(long_entry("bee", number), None) else { return };
    ticket.then(move |committed| {
        let Ok(Some(place)) = committed else { return };
        places.lock().expect("no panic").push(*place);
        if is_going_on.load(Ordering::Acquire) {
            keep_appending(committer, number + 1, places, is_going_on);
        }
    });
}

#[test]
fn records_are_committed_between_the_frames_of_a_relocation() {
    let storage = SimulatedStorage::new(1);
    let (writer, committer, needed) = long_journal(&storage);
    let location_feed = Arc::new(LocationFeed::default());
    committer.register(&name("ant"), Arc::clone(&location_feed));
    let (places, is_going_on) = (Arc::default(), Arc::new(AtomicBool::new(true)));
    keep_appending(committer.clone(), 2501, Arc::clone(&places), Arc::clone(&is_going_on));
    let reclaimed = block_on(committer.reclaim(needed)).expect("open");
    is_going_on.store(false, Ordering::Release);
    assert!(reclaimed.segments > 15 && reclaimed.pinned_by.is_empty(), "{reclaimed:?}");

    let moved: Vec<Moved> = {
        let mut locations = LocationUpdate::default();
        location_feed.take(&mut locations);
        locations.moved.into_values().collect()
    };
    assert!(moved.len() > 6, "{} frames", moved.len());
    let copies: Vec<(u64, u32)> = moved.iter().map(|moved| (moved.segment, moved.frame_offset)).collect();
    let between = |pair: &&[(u64, u32)]| {
        let places = places.lock().expect("no panic");
        places.iter().any(|place| (pair[0]..pair[1]).contains(&(place.segment, place.frame_offset)))
    };
    assert_eq!(copies.windows(2).filter(between).count(), copies.len() - 1, "between any two frames");
    for (number, moved) in moved.iter().flat_map(|moved| (moved.first.0..moved.end().0).map(move |n| (n, moved))) {
        let location = moved.location(RecordNumber(number)).expect("one of them");
        let record = committer.reader().record(&name("ant"), RecordNumber(number), location).expect("readable");
        assert!(record.starts_with(format!("ant{number}.").as_bytes()), "{number}");
    }
    let seal = writer.stop().expect("sealed");
    let (recovery, found) = look(&storage, Some(&seal));
    assert!(recovery.damages.is_empty() && found[&name("ant")].len() == 500);
}

#[test]
fn a_relocation_that_a_stop_or_its_caller_ends_loses_nothing() {
    for is_dropped in [false, true] {
        let storage = SimulatedStorage::new(2);
        let (writer, committer, needed) = long_journal(&storage);
        let mut reclaiming = Box::pin(committer.reclaim(needed.clone()));
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        assert!(reclaiming.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let seal = if is_dropped {
            drop(reclaiming);
            block_on(committer.settle()).expect("there is room");
            assert!(committer.submit(long_entry("ant", 501), None).expect("open").wait().is_ok());
            block_on(committer.reclaim(needed)).expect("open");
            writer.stop().expect("sealed")
        } else {
            let seal = writer.stop().expect("sealed");
            // The reclaim ended before, or was refused.
            assert!(matches!(block_on(reclaiming), Ok(_) | Err(CommitError::Closed)));
            seal
        };
        let (recovery, found) = look(&storage, Some(&seal));
        assert!(recovery.damages.is_empty());
        assert!(recovery.services.values().all(|kept| kept.standing == Integrity::Intact), "{recovery:?}");
        assert_eq!(found[&name("ant")].len(), if is_dropped { 501 } else { 500 });
    }
}

#[test]
fn a_writer_that_is_dropped_leaves_the_journal_whole_but_not_sealed() {
    let storage = SimulatedStorage::new(1);
    let (writer, committer) = start(open(&storage), QUEUE_BYTES_MAX).expect("starts");
    let ticket = committer.submit(entry("ant", 1), None).expect("open");
    drop(writer);
    assert!(ticket.wait().is_ok());
    assert_eq!(look(&storage, None).1[&name("ant")], [b"ant1".to_vec()]);
    drop(open(&storage));
}
