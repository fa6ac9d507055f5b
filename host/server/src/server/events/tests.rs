use super::*;
use lifeboat_api::id::VmId;
use proptest::prelude::*;

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn event() -> Event {
    Event::Started { service: name("bank") }
}

fn line(service: &str) -> Event {
    Event::Log { service: name(service), line: "a line".into() }
}

fn numbers(log: &EventLog, after: u64) -> Vec<u64> {
    log.buffer().after(after).map(|logged| logged.number).collect()
}

/// Returns a log that has discarded its first ten events.
fn full_log() -> EventLog {
    let log = EventLog::new(Timestamp(5_000_000));
    (1..=EVENTS_KEPT_MAX + 10).for_each(|_| log.add(&event(), Timestamp(0)));
    log
}

#[test]
fn a_reader_learns_how_many_events_it_missed() {
    let log = full_log();
    let read = |after| log.read(&mut log.cursor(after));
    let (ready, missed) = read(Some(0));
    assert_eq!((ready.first().expect("some").number, missed), (11, 10));
    assert_eq!(read(Some(5)).1, 5);
    assert_eq!(read(Some(10)).1, 0);
    assert_eq!(read(None).1, 0, "a reader of the retained events misses nothing");
}

#[test]
fn a_reader_continues_behind_the_id_that_it_names() {
    let log = full_log();
    assert_eq!(log.number("5-3"), Some(3));
    let (ready, _) = log.read(&mut log.cursor(log.number(&format!("5-{}", EVENTS_KEPT_MAX + 8))));
    assert_eq!(ready.len(), 2);
    assert_eq!(log.id(ready[0].number), format!("5-{}", EVENTS_KEPT_MAX + 9));
    for unknown in ["4-7", "nonsense", "5-", "5-x", &format!("5-{}", EVENTS_KEPT_MAX + 11)] {
        assert_eq!(log.number(unknown), None, "{unknown}");
    }
}

#[test]
fn an_id_of_another_start_is_recognised() {
    let log = EventLog::new(Timestamp(5_000_000));
    assert!(log.is_of_earlier_start("4-7") && log.is_of_earlier_start("6-7"));
    assert!(!["5-7", "4-", "4", "x-7"].iter().any(|id| log.is_of_earlier_start(id)));
}

#[test]
fn lines_of_guests_displace_neither_events_nor_the_lines_of_others() {
    let log = EventLog::new(Timestamp(0));
    log.add(&event(), Timestamp(0));
    log.add(&line("quiet"), Timestamp(0));
    for service in 0..8 {
        (0..3_000).for_each(|_| log.add(&line(&format!("chatty-{service}")), Timestamp(0)));
    }
    log.add(&event(), Timestamp(0));
    let kept = numbers(&log, 0);
    assert_eq!((kept.len(), &kept[..2]), (LOGS_KEPT_MAX + 2, &[1, 2][..]));
    assert!(kept.is_sorted());
    assert_eq!(kept.last(), Some(&24_003));
    let kept = log.buffer();
    assert!(kept.logs_of.values().all(|theirs| theirs.numbers.len() <= LOGS_KEPT_PER_SERVICE_MAX));
    assert_eq!(kept.logs_of.values().map(|theirs| theirs.numbers.len()).sum::<usize>(), kept.logs.len());
}

const GUEST_LINE_BYTES: usize = 16 * 1024;

/// Returns a log with a short line of `quiet`, and as many long lines of `one` and `other` as it retains.
fn log_of_long_lines() -> EventLog {
    let log = EventLog::new(Timestamp(0));
    log.add(&line("quiet"), Timestamp(0));
    let long = |service: &str| Event::Log { service: name(service), line: "x".repeat(GUEST_LINE_BYTES) };
    for number in 0..3_000 {
        log.add(&long(if number % 3 == 0 { "one" } else { "other" }), Timestamp(0));
    }
    log
}

#[test]
fn long_lines_of_guests_are_bounded_in_bytes() {
    let log = log_of_long_lines();
    assert_eq!(numbers(&log, 0).first(), Some(&1), "a short line displaces nothing and is not displaced");
    let kept = log.buffer();
    let bytes: usize = kept.logs.values().map(|logged| logged.line_bytes()).sum();
    assert_eq!(bytes, kept.log_bytes);
    assert!(bytes <= LOGS_KEPT_BYTES_MAX && bytes > LOGS_KEPT_BYTES_MAX - GUEST_LINE_BYTES, "{bytes}");
    assert_eq!(kept.logs_of.values().map(|theirs| theirs.bytes).sum::<usize>(), bytes);
    assert_eq!(kept.logs_of[&name("one")].numbers.len(), 1_000, "who has less keeps all");
}

#[test]
fn few_long_lines_of_guests_are_read_at_once() {
    let log = log_of_long_lines();
    assert_eq!(log.read(&mut log.cursor(Some(1))).0.len(), READ_BYTES_AT_ONCE / GUEST_LINE_BYTES);
}

#[test]
fn events_from_before_a_service_was_created_again_are_of_the_former_one() {
    let log = EventLog::new(Timestamp(0));
    let created = |service: &str| Event::Created {
        vm: VmId { service: name(service), number: 1 },
        machine: name("m1"),
        size: "small".into(),
        workload: lifeboat_api::id::WorkloadHash::of(b""),
    };
    for event in [created("bank"), line("bank"), line("other"), created("bank"), line("bank")] {
        log.add(&event, Timestamp(0));
    }
    let (read, _) = log.read(&mut log.cursor(None));
    let former = read.iter().map(|logged| logged.is_of_former.load(Ordering::Relaxed)).collect::<Vec<_>>();
    assert_eq!(former, [true, true, false, false, false]);
}

#[test]
fn a_slow_reader_learns_how_much_was_displaced() {
    let log = EventLog::new(Timestamp(0));
    let long = Event::Log { service: name("chatty"), line: "x".repeat(READ_BYTES_AT_ONCE / 4) };
    let add = |event: &Event, count: u64| (0..count).for_each(|_| log.add(event, Timestamp(0)));
    add(&long, 1_000);
    let (mut resumed, mut new) = (log.cursor(Some(0)), log.cursor(None));
    for cursor in [&mut resumed, &mut new] {
        let (read, missed) = log.read(cursor);
        assert_eq!((read.last().expect("some").number, missed), (4, 0));
    }
    add(&line("chatty"), LOGS_KEPT_PER_SERVICE_MAX as u64);
    for cursor in [&mut resumed, &mut new] {
        let (read, missed) = log.read(cursor);
        assert_eq!((read[0].number, missed), (1_001, 996));
    }
    add(&event(), 1);
    assert_eq!(log.read(&mut log.cursor(None)).1, 0, "who begins now misses nothing");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// The events that a reader sees and those that it learns are gone are together what it is owed. This holds
    /// whenever it reads, and whatever is displaced meanwhile. It never sees an event that was reported as gone.
    #[test]
    fn every_event_is_either_seen_or_reported_as_missed(
        steps in prop::collection::vec((0_u8..4, 1_u64..4_000, any::<bool>()), 1..24),
        resumes in any::<prop::sample::Index>(),
    ) {
        let log = EventLog::new(Timestamp(0));
        let begins = resumes.index(steps.len());
        let mut readers = Vec::new();
        for (step, (kind, count, reads)) in steps.into_iter().enumerate() {
            if step == begins {
                let last = log.buffer().last;
                let kept = numbers(&log, 0).len() as u64;
                // The cursor; the events before it that it is owed; those that it has seen; those that were
                // reported as gone.
                readers.push((log.cursor(None), kept, 0, 0));
                readers.push((log.cursor(Some(last / 3)), last - last / 3, 0, 0));
            }
            let added = match kind {
                0 => event(),
                1 => line("one"),
                2 => line("other"),
                _ => Event::Log { service: name("long"), line: "x".repeat(16 * 1024) },
            };
            (0..count).for_each(|_| log.add(&added, Timestamp(0)));
            for (cursor, owed, seen, printed) in &mut readers {
                *owed += count;
                if reads {
                    let (before, (read, missed)) = (cursor.read, log.read(cursor));
                    prop_assert!(read.is_sorted_by_key(|logged| logged.number));
                    prop_assert!(read.first().is_none_or(|first| first.number > before));
                    *seen += read.len() as u64;
                    *printed += missed;
                }
            }
        }
        for (cursor, owed, seen, printed) in &mut readers {
            while cursor.read < log.buffer().last {
                let (read, missed) = log.read(cursor);
                *seen += read.len() as u64;
                *printed += missed;
            }
            prop_assert_eq!(*seen + *printed, *owed, "seen {}, printed {}", seen, printed);
        }
    }
}
