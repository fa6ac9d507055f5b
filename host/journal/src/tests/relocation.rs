//! Relocated records: wherever a relocation is interrupted, no record is lost or found twice, and no service is
//! distrusted.

use super::*;
use crate::segments::{RELOCATED_SHARE, RELOCATION_READ_BYTES, RELOCATION_READ_FRAMES};

/// The length of a record, in bytes, so that a few fill a frame.
const LONG_BYTES: usize = 2000;

/// Appends a long record to a service as a frame of its own.
fn append_long(log: &mut Log, histories: &mut Histories, service: usize) -> Result<(), LogError> {
    let history = histories.entry(name(service)).or_default();
    let number = RecordNumber(history.len() as u64 + 1);
    let kind = if history.is_empty() { RunKind::Begin } else { RunKind::Continue };
    let bytes = record(service, number.0, LONG_BYTES);
    log.stage(kind, &name(service), number, &bytes)?;
    log.commit()?;
    history.push((number, bytes));
    Ok(())
}

/// A journal with an idle service, which wrote 60 long records, and a busy one, which wrote many since. All records of
/// the first are needed, and the last one of the second.
struct Resting {
    storage: SimulatedStorage,
    log: Log,
    histories: Histories,
}

impl Resting {
    fn new(seed: u64) -> Result<Self, LogError> {
        Self::beside(seed, 240)
    }

    /// Returns a journal with `count` records of the busy service.
    fn beside(seed: u64, count: usize) -> Result<Self, LogError> {
        let storage = SimulatedStorage::new(seed);
        let (mut log, _, _) = open(&storage, options(8), Origin::Create).expect("opens");
        let mut histories = Histories::new();
        for _ in 0..60 {
            append_long(&mut log, &mut histories, 1)?;
        }
        for _ in 0..count {
            append_long(&mut log, &mut histories, 0)?;
        }
        Ok(Self { storage, log, histories })
    }

    fn needed(&self) -> BTreeMap<Name, RecordNumber> {
        needed(&self.histories)
    }
}

fn needed(histories: &Histories) -> BTreeMap<Name, RecordNumber> {
    let last = histories[&name(0)].len() as u64;
    BTreeMap::from([(name(0), RecordNumber(last)), (name(1), RecordNumber(1))])
}

/// Checks the result of a start. The idle service must have all acknowledged records, and may have the one that was in
/// flight. The busy one must have the last records. Adds the record that was in flight to `histories`.
fn check(what: &str, recovery: &Recovery, found: &Histories, histories: &mut Histories, under_way: Option<usize>) {
    assert_eq!(recovery.damages, [], "{what}");
    for service in [0, 1] {
        let history = histories.get_mut(&name(service)).expect("it wrote");
        let records = found.get(&name(service)).map(Vec::as_slice).unwrap_or_default();
        let kept = &recovery.services[&name(service)];
        assert_eq!(kept.standing, Integrity::Intact, "{what}: {service}");
        let next = history.len() as u64 + 1;
        if under_way == Some(service) && kept.next.0 == next + 1 {
            history.push((RecordNumber(next), record(service, next, LONG_BYTES)));
        }
        assert_eq!(kept.next.0, history.len() as u64 + 1, "{what}: {service}");
        assert!(history.ends_with(records), "{what}: {service} has other records");
        assert!(service == 0 || records.len() == history.len(), "{what}: {} of {}", records.len(), history.len());
    }
}

#[test]
fn a_resting_service_does_not_pin_the_journal_however_much_it_retains() -> Result<(), LogError> {
    let storage = SimulatedStorage::new(3);
    let (mut log, _, _) = open(&storage, options(20), Origin::Create).expect("opens");
    let mut histories = Histories::new();
    for _ in 0..200 {
        append_long(&mut log, &mut histories, 1)?;
    }
    let needed_bytes = 200 * LONG_BYTES as u64;
    let mut places = BTreeMap::new();
    let (mut most, mut relocated_bytes, mut written) = (0, 0, 0);
    for round in 0..3000_u64 {
        append_long(&mut log, &mut histories, 0)?;
        written += BLOCK_BYTES;
        if round % 25 == 0 {
            let (reclaimed, moved) = reclaim(&mut log, &needed(&histories))?;
            assert_eq!(reclaimed.pinned_by, []);
            for moved in moved.iter().filter(|moved| moved.service == name(1)) {
                relocated_bytes += moved.record_offsets.len() * LONG_BYTES;
                for number in moved.first.0..moved.end().0 {
                    places.insert(number, moved.location(RecordNumber(number)).expect("one of them"));
                }
            }
            if round > 500 {
                most = most.max(storage.used_bytes());
            }
        }
    }
    assert!(most <= 5 * needed_bytes + 9 * options(20).segment_bytes, "{most} bytes for {needed_bytes}");
    let share = usize::try_from(RELOCATED_SHARE).expect("few");
    assert!(relocated_bytes <= written / share + 1_000_000, "{relocated_bytes} bytes for {written}");
    assert!(relocated_bytes > 4 * 200 * LONG_BYTES, "it was relocated again and again");
    let reader = log.reader();
    for (number, bytes) in &histories[&name(1)] {
        assert_eq!(reader.record(&name(1), *number, places[&number.0]).expect("readable"), *bytes);
    }
    drop(log);
    let (recovery, found) = look(&storage.crash(), None);
    check("in the end", &recovery, &found, &mut histories, None);
    Ok(())
}

/// The end of a relocation.
#[derive(Debug, Default, PartialEq)]
struct Ended {
    /// The number of frames with copies.
    frames: usize,
    /// The service whose record was being appended when the storage failed.
    under_way: Option<usize>,
    pinned_by: Vec<Name>,
}

/// Relocates the idle service, while both services append, until the end or a failure of the storage.
fn continue_relocation(log: &mut Log, histories: &mut Histories) -> Ended {
    let mut reclaim = log.begin_reclaim(needed(histories));
    let mut ended = Ended::default();
    for round in 0.. {
        match log.step(&mut reclaim) {
            Ok(Step::Going(moved)) => ended.frames += usize::from(!moved.is_empty()),
            Ok(Step::Over(reclaimed)) => return Ended { pinned_by: reclaimed.pinned_by, ..ended },
            Err(_) => return ended,
        }
        if round < 20 && append_long(log, histories, round % 2).is_err() {
            return Ended { under_way: Some(round % 2), ..ended };
        }
    }
    ended
}

#[test]
fn a_power_cut_anywhere_in_a_relocation_preserves_every_record_once() -> Result<(), LogError> {
    let (mut cuts, mut is_over) = (0, false);
    while !is_over {
        cuts += 1;
        let Resting { storage, mut log, mut histories } = Resting::new(cuts)?;
        storage.power_off(cuts);
        let ended = continue_relocation(&mut log, &mut histories);
        is_over = !storage.is_off();
        assert!(!is_over || ended.frames > 5 && ended.pinned_by.is_empty(), "{ended:?}");
        drop(log);
        // The remains of one relocation do not disturb the next one, nor do the remains of that.
        let storage = storage.crash();
        let (mut log, recovery, found) = open(&storage, options(8), Origin::Existing(None)).expect("opens");
        check(&format!("cut {cuts}"), &recovery, &found, &mut histories, ended.under_way);
        for _ in 0..60 {
            append_long(&mut log, &mut histories, 0)?;
        }
        storage.power_off(1 + cuts % 17);
        let ended = continue_relocation(&mut log, &mut histories);
        drop(log);
        let storage = storage.crash();
        let (mut log, recovery, found) = open(&storage, options(8), Origin::Existing(None)).expect("opens");
        check(&format!("cut {cuts} and once more"), &recovery, &found, &mut histories, ended.under_way);
        for _ in 0..200 {
            append_long(&mut log, &mut histories, 0)?;
        }
        assert_eq!(continue_relocation(&mut log, &mut histories).pinned_by, []);
        assert!(log.segment_count() < 30, "{} segments", log.segment_count());
        let seal = log.seal()?;
        let (recovery, found) = look(&storage, Some(&seal));
        check(&format!("after cut {cuts}"), &recovery, &found, &mut histories, None);
    }
    assert!(cuts > 50, "{cuts} cuts");
    Ok(())
}

/// Returns a journal of four segments: one service has two records in the oldest, another one has all other records. A
/// frame is held because no segment can be created. It has a record of the first service that is too long for the
/// remaining room, and one that begins a third service.
fn hold(seed: u64, kind: RunKind, number: RecordNumber) -> Result<Resting, LogError> {
    let storage = SimulatedStorage::new(seed);
    let (mut log, _, _) = open(&storage, options(20), Origin::Create).expect("opens");
    let mut histories = Histories::new();
    for service in [1, 1].into_iter().chain([0; 66]) {
        append_long(&mut log, &mut histories, service)?;
    }
    storage.break_down(Operation::Create, io::ErrorKind::StorageFull);
    log.stage(RunKind::Begin, &name(2), RecordNumber(1), b"2/1")?;
    log.stage(kind, &name(1), number, &record(1, number.0, 9 * BLOCK_BYTES))?;
    assert!(matches!(log.commit(), Err(LogError::NotBegun(_))));
    assert_eq!(log.segment_count(), 4);
    Ok(Resting { storage, log, histories })
}

#[test]
fn a_power_cut_in_a_relocation_of_held_records_preserves_every_record_once() -> Result<(), LogError> {
    let (mut cuts, mut is_over) = (0, false);
    while !is_over {
        cuts += 1;
        let Resting { storage, mut log, mut histories } = hold(cuts, RunKind::Continue, RecordNumber(3))?;
        storage.power_off(cuts);
        let mut reclaim = log.begin_reclaim(needed(&histories));
        let mut moved = 0;
        let reclaimed = loop {
            match log.step_while_held(&mut reclaim) {
                Ok(Step::Going(more)) => moved += more.iter().map(|moved| moved.record_offsets.len()).sum::<usize>(),
                Ok(Step::Over(reclaimed)) => break Some(reclaimed),
                Err(_) => break None,
            }
        };
        let committed = log.commit();
        is_over = !storage.is_off();
        if is_over {
            assert_eq!((reclaimed.map(|reclaimed| reclaimed.segments), moved), (Some(3), 2));
            assert!(committed?.is_some(), "what was given up is the room");
        }
        drop(log);
        let (recovery, found) = look(&storage.crash(), None);
        let is_written = found.contains_key(&name(2));
        assert!(is_written || !is_over);
        if is_written {
            let history = histories.get_mut(&name(1)).expect("it wrote");
            history.push((RecordNumber(3), record(1, 3, 9 * BLOCK_BYTES)));
        }
        check(&format!("cut {cuts}"), &recovery, &found, &mut histories, None);
    }
    assert!(cuts > 10, "{cuts} cuts");
    Ok(())
}

#[test]
fn a_service_that_begins_anew_has_its_old_records_until_the_held_frame_is_written() -> Result<(), LogError> {
    let Resting { storage, mut log, mut histories } = hold(1, RunKind::Begin, RecordNumber(50))?;
    let mut reclaim = log.begin_reclaim(needed(&histories));
    while matches!(log.step_while_held(&mut reclaim)?, Step::Going(_)) {}
    let (recovery, found) = look(&storage.copy().crash(), None);
    check("while it is held", &recovery, &found, &mut histories, None);
    storage.mend(Operation::Create);
    log.commit()?;
    let (reclaimed, _) = super::reclaim(&mut log, &needed(&histories))?;
    assert_eq!(reclaimed.segments, 4);
    let (_, found) = look(&storage.crash(), None);
    assert_eq!(found[&name(1)], [(RecordNumber(50), record(1, 50, 9 * BLOCK_BYTES))]);
    Ok(())
}

#[test]
fn a_storage_failure_in_mid_relocation_loses_no_record() -> Result<(), LogError> {
    for kind in [Operation::Write, Operation::SyncData, Operation::SyncDirectory, Operation::Rename, Operation::Open] {
        let mut failures = 0;
        for nth in 1.. {
            let Resting { storage, mut log, mut histories } = Resting::new(nth)?;
            storage.fail(kind, nth);
            let before = storage.count(kind);
            let ended = continue_relocation(&mut log, &mut histories);
            if storage.count(kind) - before < nth {
                break;
            }
            failures += 1;
            drop(log);
            let (recovery, found) = look(&storage.crash(), None);
            check(&format!("{kind:?} {nth}"), &recovery, &found, &mut histories, ended.under_way);
        }
        assert!(failures > 0, "{kind:?}");
    }
    Ok(())
}

#[test]
fn a_sealed_journal_may_end_in_mid_relocation() -> Result<(), LogError> {
    for steps in 0..8 {
        let mut resting = Resting::new(1)?;
        let mut reclaim = resting.log.begin_reclaim(resting.needed());
        for _ in 0..steps {
            assert!(matches!(resting.log.step(&mut reclaim)?, Step::Going(_)));
        }
        let Resting { storage, log, mut histories } = resting;
        let seal = log.seal()?;
        let (mut log, recovery, found) = open(&storage, options(8), Origin::Existing(Some(seal))).expect("opens");
        check(&format!("after {steps} steps"), &recovery, &found, &mut histories, None);
        append_long(&mut log, &mut histories, 1)?;
        assert_eq!(continue_relocation(&mut log, &mut histories).pinned_by, []);
        drop(log);
        let (recovery, found) = look(&storage, None);
        check(&format!("after {steps} steps and a relocation"), &recovery, &found, &mut histories, None);
    }
    Ok(())
}

#[test]
fn a_service_that_ends_or_begins_anew_in_mid_relocation_is_not_brought_back() -> Result<(), LogError> {
    for (steps, is_begun) in (1..8).flat_map(|steps| [(steps, false), (steps, true)]) {
        let mut resting = Resting::new(2)?;
        let mut reclaim = resting.log.begin_reclaim(resting.needed());
        for _ in 0..steps {
            resting.log.step(&mut reclaim)?;
        }
        let Resting { storage, mut log, mut histories } = resting;
        if is_begun {
            histories.remove(&name(1));
            append_long(&mut log, &mut histories, 1)?;
            append_long(&mut log, &mut histories, 1)?;
        } else {
            log.stage_end(&name(1))?;
            log.commit()?;
            histories.remove(&name(1));
        }
        while matches!(log.step(&mut reclaim)?, Step::Going(_)) {}
        assert!(log.segment_count() < 12, "{} segments", log.segment_count());
        drop(log);
        let (recovery, found) = look(&storage.crash(), None);
        assert_eq!(found.get(&name(1)), histories.get(&name(1)), "after {steps} steps");
        assert!(recovery.damages.is_empty() && recovery.services[&name(0)].standing == Integrity::Intact);
    }
    Ok(())
}

#[test]
fn a_service_that_ends_in_a_frame_that_is_held_is_relocated_no_further() -> Result<(), LogError> {
    for steps in 1..8 {
        let mut resting = Resting::new(2)?;
        let mut reclaim = resting.log.begin_reclaim(resting.needed());
        for _ in 0..steps {
            resting.log.step(&mut reclaim)?;
        }
        let Resting { storage, mut log, mut histories } = resting;
        log.stage_end(&name(1))?;
        let reclaimed = loop {
            match log.step_while_held(&mut reclaim)? {
                Step::Going(moved) => assert!(moved.iter().all(|moved| moved.service != name(1)), "{moved:?}"),
                Step::Over(reclaimed) => break reclaimed,
            }
        };
        assert!(reclaimed.pinned_by.is_empty() && log.segment_count() < 12, "{reclaimed:?}");
        let (recovery, _) = look(&storage.copy().crash(), None);
        assert!(recovery.damages.is_empty() && recovery.services[&name(0)].standing == Integrity::Intact);
        log.commit()?;
        drop(log);
        histories.remove(&name(1));
        let (recovery, found) = look(&storage.crash(), None);
        assert!(recovery.damages.is_empty() && !found.contains_key(&name(1)), "after {steps} steps");
        assert!(histories[&name(0)].ends_with(&found[&name(0)]) && !found[&name(0)].is_empty());
    }
    Ok(())
}

/// Returns the locations of the idle service's records, as a start finds them.
fn locations(storage: &SimulatedStorage) -> BTreeMap<u64, Location> {
    let mut locations = BTreeMap::new();
    let recovery = inspect(storage, DIRECTORY, None, &mut |found| match found {
        Found::Begins { service } | Found::Ends { service } if *service == name(1) => locations.clear(),
        Found::Record { service, number, location, .. } if *service == name(1) => {
            locations.insert(number.0, location);
        }
        _ => {}
    });
    assert_eq!(recovery.expect("readable").services[&name(1)].standing, Integrity::Intact);
    locations
}

#[test]
fn after_a_set_that_was_cut_off_records_are_where_the_whole_one_has_them() -> Result<(), LogError> {
    let mut resting = Resting::new(7)?;
    let mut reclaim = resting.log.begin_reclaim(resting.needed());
    for _ in 0..2 {
        assert!(matches!(resting.log.step(&mut reclaim)?, Step::Going(moved) if !moved.is_empty()));
    }
    let Resting { storage, log, mut histories } = resting;
    drop(log);
    let storage = storage.crash();
    let (mut log, _, _) = open(&storage, options(8), Origin::Existing(None)).expect("opens");
    for _ in 0..240 {
        append_long(&mut log, &mut histories, 0)?;
    }
    // The set is complete, and the first originals go; then the reclaim pauses until the check.
    let (mut moved, mut reclaim) = (Vec::new(), log.begin_reclaim(needed(&histories)));
    let before = log.segment_count();
    while moved.is_empty() || log.segment_count() >= before {
        let Step::Going(more) = log.step(&mut reclaim)? else { break };
        moved.extend(more);
    }
    let of_set = |number| {
        let moved =
            moved.iter().find(|moved| moved.service == name(1) && moved.location(RecordNumber(number)).is_some());
        moved.and_then(|moved| moved.location(RecordNumber(number)))
    };
    let found = locations(&storage);
    assert_eq!(found.len(), 60);
    for (number, location) in &found {
        assert_eq!(Some(*location), of_set(*number), "record {number}");
    }
    while matches!(log.step(&mut reclaim)?, Step::Going(_)) {}
    for (number, bytes) in &histories[&name(1)] {
        assert_eq!(
            log.reader().record(&name(1), *number, found[&number.0]).expect("still there"),
            *bytes,
            "record {number}"
        );
    }
    Ok(())
}

#[test]
fn a_start_relocates_nothing_once_more_of_which_the_copies_count() -> Result<(), LogError> {
    let Resting { storage, mut log, mut histories } = Resting::new(10)?;
    let (before, mut reclaim) = (log.segment_count(), log.begin_reclaim(needed(&histories)));
    // All copies are there, and the first originals are gone.
    let mut copies = Vec::new();
    while copies.is_empty() || log.segment_count() >= before {
        let Step::Going(moved) = log.step(&mut reclaim)? else { panic!("there is more to give up") };
        copies.extend(moved);
    }
    drop(log);
    let (mut log, recovery, found) = open(&storage, options(8), Origin::Existing(None)).expect("opens");
    check("after the relocation", &recovery, &found, &mut histories, None);
    let first_copy = format!("{:010}.segment", copies[0].segment);
    let is_before_copies = || {
        let files = storage.list().expect("lists");
        files.iter().any(|file| file.ends_with(".segment") && *file < first_copy)
    };
    let mut reclaim = log.begin_reclaim(needed(&histories));
    while is_before_copies() {
        let Step::Going(moved) = log.step(&mut reclaim)? else { panic!("nothing pins what is before the copies") };
        assert!(moved.iter().all(|moved| moved.service != name(1)), "{moved:?}");
    }
    drop(log);
    let (recovery, found) = look(&storage.crash(), None);
    check("after the originals went", &recovery, &found, &mut histories, None);
    Ok(())
}

#[test]
fn copies_that_do_not_count_are_not_paid_for_once_more() -> Result<(), LogError> {
    // A quarter of the journal suffices to relocate the first service once, but not twice.
    let Resting { storage, mut log, mut histories } = Resting::beside(11, 120)?;
    let mut reclaim = log.begin_reclaim(needed(&histories));
    let mut copies = 0;
    while copies < 55 {
        let Step::Going(moved) = log.step(&mut reclaim)? else { panic!("it is relocated") };
        copies += moved.iter().map(|moved| moved.record_offsets.len()).sum::<usize>();
    }
    assert!(copies < 60, "it is cut off");
    drop(log);
    let (mut log, recovery, found) = open(&storage, options(8), Origin::Existing(None)).expect("opens");
    check("after the cut", &recovery, &found, &mut histories, None);
    let (reclaimed, moved) = super::reclaim(&mut log, &needed(&histories))?;
    assert!(reclaimed.segments > 5 && reclaimed.pinned_by.is_empty() && !moved.is_empty(), "{reclaimed:?}");
    drop(log);
    let (recovery, found) = look(&storage.crash(), None);
    check("after the originals went", &recovery, &found, &mut histories, None);
    Ok(())
}

/// Returns the offset of a byte of the frame with the idle service's record 4, in the first segment.
fn original_of_4() -> usize {
    SEGMENT_HEADER_BYTES + 3 * BLOCK_BYTES + 3000
}

/// Returns the locations of the frames with copies.
fn copies(moved: &[Moved]) -> Vec<(String, u32)> {
    moved.iter().map(|moved| (format!("{:010}.segment", moved.segment), moved.frame_offset)).collect()
}

#[test]
fn damage_of_a_frame_with_copies_affects_only_their_service() -> Result<(), LogError> {
    let Resting { storage, mut log, histories } = Resting::new(4)?;
    let (_, moved) = reclaim(&mut log, &needed(&histories))?;
    let seal = log.seal()?;
    let copies = copies(&moved);
    assert!(copies.len() > 5, "{copies:?}");
    for (index, (file, offset)) in copies.iter().enumerate() {
        storage.flip(file, *offset as usize + 3000, 1);
        let (recovery, found) = look(&storage, Some(&seal));
        storage.flip(file, *offset as usize + 3000, 1);
        assert_eq!(recovery.damages.iter().map(|damage| &damage.kind).collect::<Vec<_>>(), [&DamageKind::Body]);
        let from = moved[index].first;
        let standing = recovery.services[&name(1)].standing;
        assert_eq!(standing, Integrity::Quarantined { from, damage: Some(0) }, "frame {index}");
        assert_eq!(recovery.services[&name(0)].standing, Integrity::Intact);
        let before = usize::try_from(from.0 - 1).expect("few");
        let part = found.get(&name(1)).map(Vec::as_slice).unwrap_or_default();
        assert_eq!(part, &histories[&name(1)][..before], "frame {index}");

        // A damaged header names no service, and these records have no other copies either.
        storage.flip(file, *offset as usize + 50, 1);
        let (recovery, found) = look(&storage, Some(&seal));
        storage.flip(file, *offset as usize + 50, 1);
        assert!(recovery.services[&name(1)].standing != Integrity::Intact || recovery.services[&name(1)].first > from);
        assert_eq!(recovery.services[&name(0)].standing, Integrity::Intact, "frame {index}");
        assert!(is_honest(1, &recovery, &found, &histories), "frame {index}");
    }
    Ok(())
}

#[test]
fn copies_replace_damaged_records_only_once_all_of_them_are_there() -> Result<(), LogError> {
    let mut resting = Resting::new(5)?;
    let mut reclaim = resting.log.begin_reclaim(resting.needed());
    let mut snapshots = vec![resting.storage.copy()];
    while matches!(resting.log.step(&mut reclaim)?, Step::Going(moved) if !moved.is_empty()) {
        snapshots.push(resting.storage.copy());
    }
    let whole = snapshots.pop().expect("it was relocated");
    assert!(snapshots.len() > 5, "{} steps", snapshots.len());
    let offset = original_of_4();
    for (step, storage) in snapshots.into_iter().enumerate() {
        storage.flip("0000000001.segment", offset, 1);
        let (recovery, found) = look(&storage, None);
        let kept = &recovery.services[&name(1)];
        assert!(matches!(kept.standing, Integrity::Quarantined { damage: Some(0), .. }), "step {step}: {kept:?}");
        assert!(is_beginning(found.get(&name(1)), &resting.histories[&name(1)]), "step {step}");
        assert_eq!(recovery.services[&name(0)].standing, Integrity::Intact);
    }
    whole.flip("0000000001.segment", offset, 1);
    let (recovery, found) = look(&whole, None);
    assert_eq!(recovery.services[&name(1)].standing, Integrity::Intact);
    assert_eq!((recovery.damages.len(), &found[&name(1)]), (1, &resting.histories[&name(1)]));
    Ok(())
}

#[test]
fn a_service_whose_records_cannot_be_read_pins_its_segments() -> Result<(), LogError> {
    let Resting { storage, mut log, mut histories } = Resting::new(6)?;
    storage.flip("0000000001.segment", original_of_4(), 1);
    for _ in 0..3 {
        let before = storage.count(Operation::Write);
        let (reclaimed, moved) = reclaim(&mut log, &needed(&histories))?;
        assert_eq!((reclaimed.segments, reclaimed.pinned_by), (0, vec![name(1)]));
        assert!(moved.len() < 5 && storage.count(Operation::Write) - before < 5, "it is not tried again and again");
        append_long(&mut log, &mut histories, 0)?;
    }
    // Remove the service, so that its records are no longer needed.
    log.stage_end(&name(1))?;
    log.commit()?;
    assert!(reclaim(&mut log, &needed(&histories))?.0.segments > 5);
    Ok(())
}

#[test]
fn a_service_without_copies_leaves_a_relocation_once_it_needs_no_records() -> Result<(), LogError> {
    let Resting { storage, mut log, mut histories } = Resting::new(8)?;
    storage.flip("0000000001.segment", original_of_4(), 1);
    let (reclaimed, moved) = reclaim(&mut log, &needed(&histories))?;
    assert_eq!((reclaimed.segments, reclaimed.pinned_by, moved), (0, vec![name(1)], Vec::new()));
    append_long(&mut log, &mut histories, 0)?;
    let mut needed = needed(&histories);
    needed.insert(name(1), RecordNumber(61));
    let (reclaimed, moved) = reclaim(&mut log, &needed)?;
    assert!(reclaimed.segments > 5 && reclaimed.pinned_by.is_empty() && moved.is_empty(), "{reclaimed:?}");
    Ok(())
}

/// Returns a journal with a service whose records are far apart, each in a frame together with a record of a neighbour.
fn scattered(filler_bytes: usize, count: usize) -> Result<(SimulatedStorage, Log, Histories), LogError> {
    let storage = SimulatedStorage::new(9);
    let (mut log, _, _) = open(&storage, options(40), Origin::Create).expect("opens");
    let mut histories = Histories::new();
    for _ in 0..count {
        append_beside(&mut log, &mut histories, filler_bytes)?;
    }
    Ok((storage, log, histories))
}

fn append_beside(log: &mut Log, histories: &mut Histories, filler_bytes: usize) -> Result<(), LogError> {
    for (service, bytes) in [(1, 50), (0, filler_bytes)] {
        let history = histories.entry(name(service)).or_default();
        let number = RecordNumber(history.len() as u64 + 1);
        let kind = if history.is_empty() { RunKind::Begin } else { RunKind::Continue };
        let bytes = record(service, number.0, bytes);
        log.stage(kind, &name(service), number, &bytes)?;
        history.push((number, bytes));
    }
    log.commit()?;
    Ok(())
}

#[test]
fn a_step_of_a_relocation_reads_a_bounded_part_however_much_the_service_appends() -> Result<(), LogError> {
    for (filler_bytes, is_active) in [(0, false), (0, true), (60_000, false), (60_000, true)] {
        let (storage, mut log, mut histories) = scattered(filler_bytes, 700)?;
        let mut reclaim = log.begin_reclaim(needed(&histories));
        let frame_bytes = (filler_bytes + 200).next_multiple_of(BLOCK_BYTES);
        let frames_max = (RELOCATION_READ_BYTES / frame_bytes + 1).min(RELOCATION_READ_FRAMES);
        let (mut steps, mut reading) = (0, 0);
        let reclaimed = loop {
            let before = storage.count(Operation::Read);
            let step = log.step(&mut reclaim)?;
            let reads = usize::try_from(storage.count(Operation::Read) - before).expect("few");
            steps += 1;
            reading += usize::from(reads > 0);
            // Each frame takes a read of its first block and a read of the rest. The frame that was committed since is
            // added.
            assert!(reads <= 2 * (frames_max + 1), "{reads} reads in step {steps} of at most {frames_max} frames");
            if let Step::Over(reclaimed) = step {
                break reclaimed;
            }
            assert!(steps < 1000, "it comes to no end");
            if is_active && steps < 200 {
                append_beside(&mut log, &mut histories, filler_bytes)?;
            }
        };
        assert!(reading > 2 && reclaimed.segments > 5 && reclaimed.pinned_by.is_empty(), "{reading}: {reclaimed:?}");
        drop(log);
        let (recovery, found) = look(&storage.crash(), None);
        assert!(recovery.services.values().all(|kept| kept.standing == Integrity::Intact), "{recovery:?}");
        assert_eq!(found[&name(1)], histories[&name(1)]);
    }
    Ok(())
}
