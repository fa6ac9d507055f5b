//! Checks the journal's guarantees against a storage that loses and damages whatever it may.
//!
//! The model is a map from services to everything that they appended since they began. After a stop of any kind, the
//! journal must return a tail of it. The tail reaches back to what is still needed. It ends with the last acknowledged
//! frame, or with the next one, which was in flight. No service may be distrusted.

use super::frame::{BLOCK_BYTES, DirectoryId, Position, RecordNumber, RunKind};
use super::reader::ReadError;
use super::recovery::{DamageKind, Found, Integrity, Location, OpenError, Recovery, Seal, SealState, inspect};
use super::segment_header::SEGMENT_HEADER_BYTES;
use super::segments::{
    Log, LogError, Moved, Options, Origin, PLACES_CHECKED_MAX, Reclaim, Reclaimed, SEGMENT_BYTES_MIN, Step,
};
use crate::storage::{Operation, SimulatedStorage, Storage};
use lifeboat_api::name::Name;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

mod relocation;

const DIRECTORY: DirectoryId = DirectoryId([9; 16]);
const SERVICES: usize = 4;

fn name(index: usize) -> Name {
    Name::new(["ant", "bee", "cat", "dog", "eel", "fox"][index]).expect("a name")
}

fn options(blocks: u64) -> Options {
    Options {
        directory: DIRECTORY,
        segment_bytes: SEGMENT_HEADER_BYTES as u64 + blocks * BLOCK_BYTES as u64,
        spares_max: 3,
    }
}

/// The records of each service, in the order in which they were found.
type Histories = BTreeMap<Name, Vec<(RecordNumber, Vec<u8>)>>;

fn gather(histories: &mut Histories, found: Found<'_>) {
    match found {
        Found::Begins { service } => {
            histories.insert(service.clone(), Vec::new());
        }
        Found::Record { service, number, bytes, .. } => {
            histories.entry(service.clone()).or_default().push((number, bytes.to_vec()));
        }
        Found::Ends { service } => {
            histories.remove(service);
        }
    }
}

/// Returns a new, empty journal.
fn created(seed: u64, options: Options) -> (SimulatedStorage, Log, Histories) {
    let storage = SimulatedStorage::new(seed);
    let (log, _, _) = open(&storage, options, Origin::Create).expect("opens");
    (storage, log, Histories::new())
}

fn open(storage: &SimulatedStorage, options: Options, origin: Origin) -> Result<(Log, Recovery, Histories), OpenError> {
    let mut histories = Histories::new();
    let (log, recovery) =
        Log::open(Arc::new(storage.clone()), options, origin, &mut |found| gather(&mut histories, found))?;
    Ok((log, recovery, histories))
}

fn look(storage: &SimulatedStorage, seal: Option<&Seal>) -> (Recovery, Histories) {
    let mut histories = Histories::new();
    let recovery = inspect(storage, DIRECTORY, seal, &mut |found| gather(&mut histories, found)).expect("readable");
    (recovery, histories)
}

/// Returns a record whose contents depend on its service and number.
fn record(service: usize, number: u64, bytes: usize) -> Vec<u8> {
    let mut record = format!("{service}/{number}/").into_bytes();
    record.resize(record.len() + bytes, b'0' + u8::try_from(number % 10).expect("a digit"));
    record
}

#[derive(Debug, Clone)]
enum Action {
    Append {
        service: usize,
        bytes: usize,
    },
    /// Appends many records, each as a frame.
    Fill {
        service: usize,
        count: usize,
    },
    Begin {
        service: usize,
    },
    End {
        service: usize,
    },
    Commit,
    /// Reclaims. Each service but one needs only its last few records.
    Reclaim {
        kept: u64,
        needs_all: usize,
    },
    /// Continues the reclaim in progress.
    Steps {
        count: usize,
    },
    /// Continues the reclaim beside staged records, as if there were no room for those.
    StepsWhileHeld {
        count: usize,
    },
    Crash,
    PowerOff {
        nth: u64,
    },
    Stop,
    Reopen,
}

fn action() -> impl Strategy<Value = Action> {
    let service = 0..SERVICES;
    prop_oneof![
        12 => (service.clone(), prop_oneof![0..600_usize, 0..7000_usize])
            .prop_map(|(service, bytes)| Action::Append { service, bytes }),
        2 => (service.clone(), 1..30_usize).prop_map(|(service, count)| Action::Fill { service, count }),
        1 => service.clone().prop_map(|service| Action::Begin { service }),
        1 => service.prop_map(|service| Action::End { service }),
        8 => Just(Action::Commit),
        2 => (0..6_u64, 0..SERVICES).prop_map(|(kept, needs_all)| Action::Reclaim { kept, needs_all }),
        4 => prop_oneof![1..4_usize, Just(100)].prop_map(|count| Action::Steps { count }),
        2 => prop_oneof![1..4_usize, Just(100)].prop_map(|count| Action::StepsWhileHeld { count }),
        1 => Just(Action::Crash),
        2 => (1..15_u64).prop_map(|nth| Action::PowerOff { nth }),
        1 => Just(Action::Stop),
        1 => Just(Action::Reopen),
    ]
}

/// Everything that a service appended since it began.
#[derive(Debug, Clone, Default, PartialEq)]
struct Life {
    records: Vec<Vec<u8>>,
    /// The first record that is still needed.
    needed: u64,
}

type Lives = BTreeMap<Name, Life>;

struct Driver {
    storage: SimulatedStorage,
    options: Options,
    log: Option<Log>,
    reclaim: Option<Reclaim>,
    seal: Option<Seal>,
    /// The acknowledged records.
    kept: Lives,
    /// The acknowledged and staged records.
    staged: Lives,
    stops: usize,
    /// Frames with relocated records in the current reclaim; below, the most in any reclaim.
    relocating: usize,
    relocated: usize,
}

impl Driver {
    fn new(seed: u64, ignores_syncs: bool) -> Result<Self, String> {
        let storage = SimulatedStorage::new(seed);
        if ignores_syncs {
            storage.ignore_syncs();
        }
        if seed.is_multiple_of(2) {
            storage.write_short();
        }
        let options = options(4 + seed % 9);
        let (log, recovery, _) = open(&storage, options.clone(), Origin::Create).map_err(|error| error.to_string())?;
        if !recovery.is_new {
            return Err("a new journal is new".into());
        }
        let (kept, staged) = (Lives::new(), Lives::new());
        Ok(Self {
            storage,
            options,
            log: Some(log),
            reclaim: None,
            seal: None,
            kept,
            staged,
            stops: 0,
            relocating: 0,
            relocated: 0,
        })
    }

    fn act(&mut self, action: &Action) -> Result<(), String> {
        if let Action::Fill { service, count } = *action {
            return (0..count).try_for_each(|_| {
                self.act(&Action::Append { service, bytes: 1500 })?;
                self.act(&Action::Commit)
            });
        }
        let log = self.log.as_mut().ok_or("the log is open")?;
        let result = match *action {
            Action::Append { service, bytes } => {
                let name = name(service);
                let (kind, number) = match self.staged.get(&name) {
                    Some(life) => (RunKind::Continue, life.records.len() as u64 + 1),
                    None => (RunKind::Begin, 1),
                };
                let bytes = record(service, number, bytes.min(log.record_bytes_max() - 30));
                match log.stage(kind, &name, RecordNumber(number), &bytes) {
                    Ok(_) => self.staged.entry(name).or_default().records.push(bytes),
                    Err(LogError::FrameFull) => {}
                    Err(error) => return Err(format!("cannot stage: {error}")),
                }
                Ok(())
            }
            Action::Begin { service } => {
                let bytes = record(service, 1, 20);
                if log.stage(RunKind::Begin, &name(service), RecordNumber(1), &bytes).is_ok() {
                    self.staged.insert(name(service), Life { records: vec![bytes], needed: 0 });
                }
                Ok(())
            }
            Action::End { service } => {
                if log.stage_end(&name(service)).is_ok() {
                    self.staged.remove(&name(service));
                    // From now on no record of the service is needed.
                    if let Some(life) = self.kept.get_mut(&name(service)) {
                        life.needed = u64::MAX;
                    }
                }
                Ok(())
            }
            Action::Fill { .. } => Ok(()),
            Action::Commit => Self::commit(log, &mut self.seal, &mut self.kept, &self.staged),
            Action::Reclaim { kept, needs_all } => {
                Self::commit(log, &mut self.seal, &mut self.kept, &self.staged).map(|()| {
                    for (name, life) in self.kept.iter_mut().chain(self.staged.iter_mut()) {
                        if *name != self::name(needs_all) {
                            life.needed = life.needed.max((life.records.len() as u64).saturating_sub(kept) + 1);
                        }
                    }
                    let needed = self.kept.iter().map(|(name, life)| (name.clone(), RecordNumber(life.needed)));
                    self.reclaim = Some(log.begin_reclaim(needed.collect()));
                    self.relocating = 0;
                })
            }
            Action::Steps { count } => Self::commit(log, &mut self.seal, &mut self.kept, &self.staged)
                .and_then(|()| self.step(count, Log::step)),
            Action::StepsWhileHeld { count } => {
                self.seal = None;
                self.step(count, Log::step_while_held)
            }
            Action::PowerOff { nth } => {
                self.storage.power_off(nth);
                Ok(())
            }
            Action::Crash => return self.restart(true),
            Action::Reopen => {
                let is_off = self.storage.is_off();
                return self.restart(is_off);
            }
            Action::Stop => {
                self.seal = None;
                let log = self.log.take().ok_or("the log is open")?;
                self.seal = log.seal().ok();
                let is_off = self.storage.is_off();
                return self.restart(is_off);
            }
        };
        match result {
            Ok(()) => Ok(()),
            Err(_) if self.storage.is_off() => self.restart(true),
            Err(error) => Err(format!("{action:?} fails: {error}")),
        }
    }

    fn step(
        &mut self,
        count: usize,
        step: impl Fn(&mut Log, &mut Reclaim) -> Result<Step, LogError>,
    ) -> Result<(), LogError> {
        for _ in 0..count {
            let (Some(log), Some(reclaim)) = (&mut self.log, &mut self.reclaim) else { break };
            match step(log, reclaim)? {
                Step::Going(moved) => {
                    self.relocating += usize::from(!moved.is_empty());
                    self.relocated = self.relocated.max(self.relocating);
                }
                Step::Over(reclaimed) => {
                    let is_reported = reclaimed.pinned_by.is_empty() || self.storage.is_off();
                    assert!(is_reported, "nothing is damaged: {reclaimed:?}");
                    self.reclaim = None;
                }
            }
        }
        Ok(())
    }

    fn commit(log: &mut Log, seal: &mut Option<Seal>, kept: &mut Lives, staged: &Lives) -> Result<(), LogError> {
        *seal = None;
        log.commit()?;
        kept.clone_from(staged);
        Ok(())
    }

    /// Drops the log, cuts the power if `is_crash`, opens the journal again, and compares it with the model.
    fn restart(&mut self, is_crash: bool) -> Result<(), String> {
        (self.log, self.reclaim) = (None, None);
        self.stops += 1;
        if is_crash {
            self.storage = self.storage.crash();
        }
        let (log, recovery, histories) = loop {
            let origin = match self.seal {
                Some(seal) => Origin::Existing(Some(seal)),
                // An interrupted start may not have created it completely.
                None => Origin::Create,
            };
            match open(&self.storage, self.options.clone(), origin) {
                Ok(opened) => break opened,
                Err(_) if self.storage.is_off() => self.storage = self.storage.crash(),
                Err(error) => return Err(format!("cannot open: {error}")),
            }
        };
        if !recovery.damages.is_empty() {
            return Err(format!("false corruption: {recovery:?}"));
        }
        if self.seal.is_some() && (recovery.torn.is_some() || recovery.seal != SealState::Compared) {
            return Err(format!("a sealed journal has no torn tail: {recovery:?}"));
        }
        if let Some(kept) = recovery.services.values().find(|kept| kept.standing != Integrity::Intact) {
            return Err(format!("false quarantine: {kept:?}"));
        }
        let is_kept = compare(&self.kept, &recovery, &histories);
        let is_staged = compare(&self.staged, &recovery, &histories);
        match (is_kept, is_staged) {
            (Ok(()), _) => self.staged = self.kept.clone(),
            (Err(_), Ok(())) => self.kept = self.staged.clone(),
            (Err(error), Err(_)) => return Err(error),
        }
        self.log = Some(log);
        Ok(())
    }
}

/// Compares the found records with the appended ones.
fn compare(lives: &Lives, recovery: &Recovery, histories: &Histories) -> Result<(), String> {
    if let Some(invented) = histories.keys().find(|name| !lives.contains_key(*name)) {
        return Err(format!("{invented} is invented"));
    }
    for (name, life) in lives {
        let end = RecordNumber(life.records.len() as u64 + 1);
        let found = histories.get(name).map(Vec::as_slice).unwrap_or_default();
        let first = found.first().map_or(end, |(number, _)| *number);
        if first.0 > life.needed.max(1) {
            return Err(format!("{name} is needed from {} and begins at {first}", life.needed));
        }
        let kept = recovery.services.get(name).ok_or_else(|| format!("{name} is not listed"))?;
        if kept.next != end || !found.is_empty() && kept.first > first {
            return Err(format!("{name} ends at {end} and is listed as {kept:?}"));
        }
        let first = usize::try_from(first.0 - 1).expect("few");
        let expected = life.records[first..].iter().zip(first as u64 + 1..);
        if !expected.map(|(bytes, number)| (RecordNumber(number), bytes)).eq(found.iter().map(|(n, b)| (*n, b))) {
            return Err(format!("{name} has other records"));
        }
    }
    Ok(())
}

fn run(seed: u64, actions: &[Action], ignores_syncs: bool) -> Result<usize, String> {
    let mut driver = Driver::new(seed, ignores_syncs)?;
    for action in actions {
        driver.act(action)?;
    }
    driver.restart(true)?;
    Ok(driver.relocated)
}

proptest! {
    #![proptest_config(Config { max_shrink_iters: 3000, ..Config::default() })]

    #[test]
    fn no_schedule_loses_an_acknowledged_record_or_suspects_an_intact_service(
        seed in any::<u64>(),
        actions in prop::collection::vec(action(), 1..120),
    ) {
        prop_assert_eq!(run(seed, &actions, false).err(), None);
    }
}

#[test]
fn random_schedules_relocate_much() {
    let mut runner = TestRunner::deterministic();
    let strategy = (any::<u64>(), prop::collection::vec(action(), 120));
    let relocated = (0..50).map(|_| {
        let (seed, actions) = strategy.new_tree(&mut runner).expect("a case").current();
        run(seed, &actions, false).expect("nothing is lost")
    });
    let relocated: Vec<usize> = relocated.collect();
    assert!(relocated.iter().filter(|frames| **frames > 1).count() > 15, "{relocated:?}");
}

#[test]
fn a_disk_that_lies_about_syncs_is_caught() {
    let mut runner = TestRunner::deterministic();
    let strategy = (any::<u64>(), prop::collection::vec(action(), 60));
    let caught = (0..100).filter(|_| {
        let (seed, actions) = strategy.new_tree(&mut runner).expect("a case").current();
        run(seed, &actions, true).is_err()
    });
    assert!(caught.count() > 50, "the test of acknowledged records can fail");
}

/// Reclaims to the end, and returns the result and the relocated records.
fn reclaim(log: &mut Log, needed: &BTreeMap<Name, RecordNumber>) -> Result<(Reclaimed, Vec<Moved>), LogError> {
    let mut reclaim = log.begin_reclaim(needed.clone());
    let mut all = Vec::new();
    loop {
        match log.step(&mut reclaim)? {
            Step::Going(moved) => all.extend(moved),
            Step::Over(reclaimed) => return Ok((reclaimed, all)),
        }
    }
}

/// Appends a record to each of the services as one frame. Returns the locations of the records.
fn append(log: &mut Log, histories: &mut Histories, services: &[usize]) -> Result<Vec<Location>, LogError> {
    let mut staged = Vec::new();
    for &service in services {
        let history = histories.get(&name(service)).map_or(0, Vec::len) as u64;
        let number = RecordNumber(history + 1);
        let kind = if history == 0 { RunKind::Begin } else { RunKind::Continue };
        let bytes = record(service, number.0, 50);
        staged.push((service, number, log.stage(kind, &name(service), number, &bytes)?, bytes));
    }
    let committed = log.commit()?.expect("a frame");
    let mut locations = Vec::new();
    for (service, number, place, bytes) in staged {
        histories.entry(name(service)).or_default().push((number, bytes));
        locations.push(committed.location(place));
    }
    Ok(locations)
}

/// A journal of two segments, with the services and locations of its frames.
struct Sample {
    storage: SimulatedStorage,
    histories: Histories,
    seal: Option<Seal>,
    frames: Vec<(Vec<usize>, Location)>,
}

fn sample(is_sealed: bool) -> Sample {
    let (storage, mut log, mut histories) = created(1, options(4));
    let mut frames = Vec::new();
    for services in [&[0, 1, 2][..], &[1], &[0, 2], &[2], &[0]] {
        let location = append(&mut log, &mut histories, services).expect("appends")[0];
        frames.push((services.to_vec(), location));
    }
    assert_eq!(log.segment_count(), 2);
    let seal = is_sealed.then(|| log.seal().expect("seals"));
    Sample { storage, histories, seal, frames }
}

/// Returns whether `found` is a prefix of the records that a service appended.
fn is_beginning(found: Option<&Vec<(RecordNumber, Vec<u8>)>>, whole: &[(RecordNumber, Vec<u8>)]) -> bool {
    whole.starts_with(found.map(Vec::as_slice).unwrap_or_default())
}

/// Returns whether the found records are a part of those that the service appended, and any loss is reported.
fn is_honest(service: usize, recovery: &Recovery, found: &Histories, histories: &Histories) -> bool {
    let whole = &histories[&name(service)];
    let part = found.get(&name(service)).map(Vec::as_slice).unwrap_or_default();
    let is_part = part.is_empty() || whole.windows(part.len()).any(|window| window == part);
    let is_reported = match recovery.services.get(&name(service)) {
        None => recovery.concerns_unlisted(),
        Some(kept) => kept.standing != Integrity::Intact || kept.first > whole[0].0,
    };
    is_part && (part == whole || is_reported)
}

#[test]
fn a_damaged_byte_of_a_sealed_journal_affects_only_the_services_of_its_frame() {
    let Sample { storage, histories, seal, frames } = sample(true);
    let (clean, found) = look(&storage, seal.as_ref());
    assert_eq!((clean.damages.len(), &found), (0, &histories));
    let (mut bodies, mut headers) = (0, 0);
    for (segment, first) in [(1_u64, Position(0)), (2, Position(4 * BLOCK_BYTES as u64))] {
        let file = format!("{segment:010}.segment");
        let used = usize::try_from(clean.end.0 - first.0).expect("few").min(4 * BLOCK_BYTES);
        let file_bytes = SEGMENT_HEADER_BYTES + 4 * BLOCK_BYTES;
        for offset in 0..file_bytes {
            storage.flip(&file, offset, 0x10);
            let (recovery, found) = look(&storage, seal.as_ref());
            storage.flip(&file, offset, 0x10);
            if offset >= SEGMENT_HEADER_BYTES + used {
                assert_eq!((recovery, found), (clean.clone(), histories.clone()), "nothing was there");
                continue;
            }
            assert_eq!((recovery.damages.len(), recovery.torn.clone()), (1, None), "{file} {offset}");
            let named: Option<&Vec<usize>> = frames
                .iter()
                .find(|(_, at)| {
                    let start = at.frame_offset as usize;
                    at.segment == segment && (start..start + BLOCK_BYTES).contains(&offset)
                })
                .map(|(services, _)| services);
            match recovery.damages[0].kind {
                DamageKind::HeaderCopy => {
                    assert!(offset < SEGMENT_HEADER_BYTES);
                    assert_eq!(found, histories);
                }
                DamageKind::Body => {
                    bodies += 1;
                    for service in 0..3 {
                        let (whole, part) = (&histories[&name(service)], found.get(&name(service)));
                        let kept = &recovery.services[&name(service)];
                        if named.is_some_and(|named| named.contains(&service)) {
                            assert!(matches!(kept.standing, Integrity::Quarantined { damage: Some(0), .. }));
                            assert!(is_beginning(part, whole) && part != Some(whole));
                        } else {
                            assert_eq!((kept.standing, part), (Integrity::Intact, Some(whole)), "{file} {offset}");
                        }
                    }
                }
                DamageKind::Frames { .. } => {
                    headers += 1;
                    assert!(named.is_some() || offset >= SEGMENT_HEADER_BYTES);
                    for service in 0..3 {
                        let (whole, part) = (&histories[&name(service)], found.get(&name(service)));
                        assert!(is_honest(service, &recovery, &found, &histories), "{file} {offset}");
                        let standing = recovery.services.get(&name(service)).map(|kept| kept.standing);
                        // The roster of the second segment and that of the seal clear the services that lost nothing.
                        if part == Some(whole) && named.is_some() {
                            assert_eq!(standing, Some(Integrity::Intact), "{file} {offset}");
                        }
                    }
                }
                ref other => panic!("{file} {offset}: {other:?}"),
            }
        }
    }
    assert!(bodies > 10_000 && headers > 1000, "{bodies} {headers}");
}

#[test]
fn in_a_journal_that_was_not_sealed_only_the_last_frame_can_be_torn() {
    let Sample { storage, histories, frames, .. } = sample(false);
    let (clean, _) = look(&storage, None);
    let (_, last) = frames.last().expect("frames");
    for (services, at) in &frames {
        let file = format!("{:010}.segment", at.segment);
        for offset in (0..BLOCK_BYTES).step_by(7) {
            storage.flip(&file, at.frame_offset as usize + offset, 1);
            let (recovery, found) = look(&storage, None);
            storage.flip(&file, at.frame_offset as usize + offset, 1);
            if at != last {
                assert!((0..3).all(|service| is_honest(service, &recovery, &found, &histories)));
            }
            if at == last {
                let torn = recovery.torn.expect("a torn tail");
                assert_eq!(recovery.damages, []);
                assert_eq!(torn.position.0 + BLOCK_BYTES as u64, clean.end.0);
                let named = services.iter().map(|service| name(*service)).collect();
                assert!(torn.services.is_none_or(|services| services == Vec::<Name>::from_iter::<Vec<_>>(named)));
            } else {
                assert_eq!((recovery.damages.len(), recovery.torn), (1, None));
            }
        }
    }
}

#[test]
fn a_torn_tail_is_reported_by_one_start_alone() -> Result<(), LogError> {
    let mut torn = 0;
    for seed in 0..60 {
        let storage = SimulatedStorage::new(seed);
        let (mut log, _, _) = open(&storage, options(12), Origin::Create).expect("opens");
        let mut histories = Histories::new();
        append(&mut log, &mut histories, &[0])?;
        let long = vec![1; log.record_bytes_max()];
        log.stage(RunKind::Continue, &name(0), RecordNumber(2), &long)?;
        storage.fail(Operation::SyncData, 1);
        assert!(log.commit().is_err());
        drop(log);
        let storage = storage.crash();
        let (log, recovery, found) = open(&storage, options(12), Origin::Existing(None)).expect("opens");
        drop(log);
        torn += usize::from(recovery.torn.is_some());
        let (again, found_again) = look(&storage.crash(), None);
        assert_eq!((again.torn, found_again), (None, found));
    }
    assert!(torn > 30, "{torn}");
    Ok(())
}

#[test]
fn after_a_damaged_header_a_service_is_suspect_until_its_records_continue() -> Result<(), LogError> {
    let (storage, mut log, mut histories) = created(1, options(60));
    append(&mut log, &mut histories, &[0, 1, 2])?;
    let lost = append(&mut log, &mut histories, &[0])?[0];
    append(&mut log, &mut histories, &[0])?;
    append(&mut log, &mut histories, &[1])?;
    drop(log);
    let file = format!("{:010}.segment", lost.segment);
    storage.flip(&file, lost.frame_offset as usize + 40, 1);

    let (mut log, recovery, found) = open(&storage, options(60), Origin::Existing(None)).expect("opens");
    let standing = |service: usize| recovery.services[&name(service)].standing;
    assert_eq!(standing(0), Integrity::Quarantined { from: RecordNumber(2), damage: Some(0) });
    assert_eq!(standing(1), Integrity::Intact);
    assert_eq!(standing(2), Integrity::Suspect { damage: 0 });
    assert_eq!(found[&name(0)], histories[&name(0)][..1]);
    assert_eq!(found[&name(1)], histories[&name(1)]);
    assert!(recovery.concerns_unlisted() && recovery.torn.is_none());

    // The other services continue. The affected ones do not, and their segment stays until they begin anew.
    append(&mut log, &mut histories, &[1])?;
    for service in [0, 2] {
        let next = recovery.services[&name(service)].next;
        let refused = log.stage(RunKind::Continue, &name(service), next, b"");
        assert!(matches!(refused, Err(LogError::NotSound { .. })));
    }
    let seal = log.seal()?;
    let (mut log, again, _) = open(&storage, options(60), Origin::Existing(Some(seal))).expect("opens");
    assert_eq!((again.damages.len(), again.services[&name(2)].standing), (1, standing(2)));
    for _ in 0..100 {
        append(&mut log, &mut histories, &[1])?;
    }
    let needed = histories.keys().map(|name| (name.clone(), RecordNumber(u64::MAX))).collect();
    assert_eq!(reclaim(&mut log, &needed)?.0.pinned_by, [name(0), name(2)]);
    for service in [0, 2] {
        log.stage(RunKind::Begin, &name(service), RecordNumber(1), b"anew")?;
    }
    log.commit()?;
    assert_eq!(reclaim(&mut log, &needed)?.0.segments, 1);
    drop(log);
    let (recovery, found) = look(&storage, None);
    assert!(recovery.damages.is_empty() && found[&name(2)] == [(RecordNumber(1), b"anew".to_vec())]);
    Ok(())
}

/// A sealed journal of more than four segments.
struct Sealed {
    storage: SimulatedStorage,
    /// A copy of the directory from before the last records.
    before: SimulatedStorage,
    histories: Histories,
    seal: Seal,
    /// The names of the segments, in their order.
    names: Vec<String>,
}

fn sealed() -> Result<Sealed, LogError> {
    let (storage, mut log, mut histories) = created(1, options(4));
    for _ in 0..10 {
        append(&mut log, &mut histories, &[0, 1])?;
    }
    let before = storage.copy();
    for _ in 0..4 {
        append(&mut log, &mut histories, &[1])?;
    }
    let seal = log.seal()?;
    let mut names = storage.list().expect("lists");
    names.sort();
    assert!(names.len() > 4);
    Ok(Sealed { storage, before, histories, seal, names })
}

#[test]
fn a_missing_segment_is_damage() -> Result<(), LogError> {
    let Sealed { storage, histories, seal, names, .. } = sealed()?;
    storage.remove(&names[1]).expect("removes");
    let (recovery, found) = look(&storage, Some(&seal));
    assert_eq!(recovery.damages.iter().map(|damage| &damage.kind).collect::<Vec<_>>(), [&DamageKind::Missing]);
    assert!(matches!(recovery.services[&name(0)].standing, Integrity::Quarantined { .. }));
    assert!(is_beginning(found.get(&name(0)), &histories[&name(0)]));
    Ok(())
}

#[test]
fn a_journal_that_ends_before_its_seal_is_damaged() -> Result<(), LogError> {
    let Sealed { storage, seal, names, .. } = sealed()?;
    storage.remove(names.last().expect("a segment")).expect("removes");
    let (recovery, _) = look(&storage, Some(&seal));
    assert!(recovery.concerns_unlisted() && recovery.torn.is_none(), "{recovery:?}");
    assert!(recovery.services.values().all(|kept| kept.standing != Integrity::Intact));
    // The journal continues after the seal, and the loss is still known.
    let (mut log, _, _) = open(&storage, options(4), Origin::Existing(Some(seal))).expect("opens");
    log.stage(RunKind::Begin, &name(5), RecordNumber(1), b"new")?;
    log.commit()?;
    drop(log);
    let (recovery, found) = look(&storage, None);
    assert!(recovery.concerns_unlisted() && found.contains_key(&name(5)));
    assert!(recovery.services[&name(0)].standing != Integrity::Intact);
    Ok(())
}

/// An older copy of the directory continued by itself: its segments do not fit in between.
#[test]
fn a_foreign_segment_is_damage() -> Result<(), LogError> {
    let Sealed { storage, before, histories, seal, names } = sealed()?;
    let mut log = open(&before, options(4), Origin::Existing(None)).expect("opens").0;
    let mut other = histories.clone();
    for history in other.values_mut() {
        history.truncate(10);
    }
    for _ in 0..9 {
        append(&mut log, &mut other, &[0])?;
    }
    drop(log);
    let file = before.open(&names[4]).expect("opens");
    let mut bytes = vec![0; usize::try_from(file.bytes().expect("long")).expect("short")];
    file.read_exact_at(0, &mut bytes).expect("reads");
    storage.open(&names[4]).and_then(|file| file.write_all_at(0, &bytes)).expect("writes");
    let (recovery, found) = look(&storage, Some(&seal));
    assert!(recovery.damages.iter().any(|damage| damage.kind == DamageKind::Foreign), "{recovery:?}");
    for (name, history) in &found {
        assert!(is_beginning(Some(history), &histories[name]), "{name}");
    }
    Ok(())
}

#[test]
fn an_outdated_seal_hides_no_later_record() -> Result<(), LogError> {
    for segment_blocks in [4, 60] {
        let (storage, mut log, mut histories) = created(1, options(segment_blocks));
        append(&mut log, &mut histories, &[0, 1])?;
        let seal = log.seal()?;
        let (mut log, recovery, _) =
            open(&storage, options(segment_blocks), Origin::Existing(Some(seal))).expect("opens");
        assert_eq!(recovery.seal, SealState::Compared);
        for _ in 0..6 {
            append(&mut log, &mut histories, &[0])?;
        }
        drop(log);
        let (recovery, found) = look(&storage, Some(&seal));
        assert_eq!((recovery.seal, recovery.damages.len()), (SealState::Outdated, 0), "{recovery:?}");
        assert_eq!(found, histories);
    }
    Ok(())
}

/// Runs a fixed history until the log fails for good. Records that are not committed because no segment can be begun
/// are committed by the next attempt. Returns the acknowledged records, the number of failures to begin a segment, and
/// the error.
fn run_until_failure(storage: &SimulatedStorage) -> (Histories, usize, Result<(), LogError>) {
    let mut histories = Histories::new();
    let mut stalls = 0;
    let Ok((mut log, _, _)) = open(storage, options(4), Origin::Create) else { return (histories, 0, Ok(())) };
    for round in 0..25 {
        let services = [0, 1 + round % 3];
        let result = append(&mut log, &mut histories, &services).or_else(|error| {
            if !matches!(error, LogError::NotBegun(_)) {
                return Err(error);
            }
            stalls += 1;
            // All records are still staged.
            log.commit()?.expect("a frame");
            for service in services {
                let history = histories.entry(name(service)).or_default();
                let number = history.len() as u64 + 1;
                history.push((RecordNumber(number), record(service, number, 50)));
            }
            Ok(Vec::new())
        });
        if let Err(error) = result {
            let again = append(&mut log, &mut histories, &[1]);
            assert_eq!(again.err().map(|again| again.to_string()), Some(error.to_string()));
            assert!(reclaim(&mut log, &BTreeMap::new()).is_err());
            assert!(log.seal().is_err());
            return (histories, stalls, Err(error));
        }
        if round % 8 == 7 {
            let needed: BTreeMap<_, _> =
                histories.iter().map(|(name, life)| (name.clone(), RecordNumber(life.len() as u64))).collect();
            match reclaim(&mut log, &needed) {
                Ok(_) => {}
                Err(LogError::NotBegun(_)) => stalls += 1,
                Err(error) => {
                    assert!(append(&mut log, &mut histories, &[1]).is_err());
                    return (histories, stalls, Err(error));
                }
            }
        }
    }
    (histories, stalls, Ok(()))
}

/// Fails each operation of each kind once, and checks that acknowledged records are found after a crash.
#[test]
fn a_failing_operation_loses_no_acknowledged_record() {
    let kinds = [
        Operation::Write,
        Operation::SyncData,
        Operation::SyncDirectory,
        Operation::Create,
        Operation::Rename,
        Operation::Open,
    ];
    for kind in kinds {
        let (mut ends, mut stalls) = (0, 0);
        for nth in 1.. {
            let storage = SimulatedStorage::new(nth);
            storage.fail(kind, nth);
            let before = storage.count(kind);
            let (histories, stalled, result) = run_until_failure(&storage);
            if storage.count(kind) - before < nth {
                break;
            }
            ends += usize::from(result.is_err());
            stalls += stalled;
            assert!(stalled == 0 || result.is_ok(), "{kind:?} {nth}: one fault is one or the other");
            let storage = storage.crash();
            let (log, recovery, found) = open(&storage, options(4), Origin::Create).expect("opens");
            assert!(recovery.damages.is_empty(), "{kind:?} {nth}: {recovery:?}");
            for (name, history) in &histories {
                let found = found.get(name).map(Vec::as_slice).unwrap_or_default();
                let last = history.last().expect("a record");
                assert!(found.contains(last), "{kind:?} {nth}: {name} lost {}", last.0);
            }
            drop(log);
        }
        match kind {
            // These fail for a frame, or before a segment has its name.
            Operation::Write | Operation::SyncData => assert!(ends > 0 && stalls > 0, "{kind:?} {ends} {stalls}"),
            // These fail for a new segment, or for a truncated one, which then stays a segment.
            Operation::Create | Operation::Open | Operation::Rename => {
                assert!(ends == 0 && stalls > 0, "{kind:?} {ends} {stalls}");
            }
            _ => assert!(ends > 0 && stalls == 0, "{kind:?} {ends} {stalls}"),
        }
    }
}

#[test]
fn staged_records_are_committed_once_a_full_disk_has_room() -> Result<(), LogError> {
    let storage = SimulatedStorage::new(3);
    let space_bytes = 3 * SEGMENT_BYTES_MIN + 100;
    storage.limit_space(space_bytes);
    let (mut log, _, _) = open(&storage, options(4), Origin::Create).expect("opens");
    let mut histories = Histories::new();
    let error = loop {
        if let Err(error) = append(&mut log, &mut histories, &[0]) {
            break error;
        }
    };
    let LogError::NotBegun(first) = error else { panic!("{error}") };
    assert_eq!(first.error.kind(), std::io::ErrorKind::StorageFull);
    assert!(log.is_short());
    assert!(storage.used_bytes() <= 3 * SEGMENT_BYTES_MIN, "what could not be made whole is removed");
    for _ in 0..3 {
        assert!(matches!(log.commit(), Err(LogError::NotBegun(_))));
        assert!(matches!(log.prepare_next(), Err(LogError::NotBegun(_))));
    }
    let acknowledged = look(&storage.copy(), None).1;
    assert_eq!(acknowledged, histories);
    storage.limit_space(u64::MAX);
    assert!(log.commit()?.is_some());
    let number = RecordNumber(histories[&name(0)].len() as u64 + 1);
    histories.entry(name(0)).or_default().push((number, record(0, number.0, 50)));
    append(&mut log, &mut histories, &[0, 1])?;
    drop(log);
    let (recovery, found) = look(&storage.crash(), None);
    assert_eq!((recovery.damages.len(), &found), (0, &histories));
    Ok(())
}

#[test]
fn a_journal_that_is_short_of_room_takes_the_longest_frame() -> Result<(), LogError> {
    let (storage, mut log, mut histories) = created(4, options(16));
    append(&mut log, &mut histories, &[0])?;
    storage.break_down(Operation::Create, std::io::ErrorKind::StorageFull);
    while !log.is_short() {
        append(&mut log, &mut histories, &[0])?;
    }
    let longest = vec![1; log.record_bytes_max()];
    log.stage(RunKind::Begin, &name(1), RecordNumber(1), &longest)?;
    assert!(log.commit()?.is_some());
    Ok(())
}

#[test]
fn a_segment_that_cannot_be_released_stays_until_the_next_time() -> Result<(), LogError> {
    for (spares_max, operation) in [(3, Operation::Rename), (0, Operation::Remove)] {
        let (storage, mut log, mut histories) = created(4, Options { spares_max, ..options(8) });
        while log.segment_count() < 3 {
            append(&mut log, &mut histories, &[0])?;
        }
        let last = histories[&name(0)].last().expect("a record").0;
        let needed = BTreeMap::from([(name(0), last)]);
        storage.break_down(operation, std::io::ErrorKind::PermissionDenied);
        let error = reclaim(&mut log, &needed).expect_err("it cannot be given up");
        assert!(
            matches!(&error, LogError::NotBegun(failure) if failure.action == "truncate the oldest segment"),
            "{error}"
        );
        append(&mut log, &mut histories, &[0])?;
        assert!(log.segment_count() >= 3);
        assert_eq!(look(&storage.copy(), None).1, histories);
        storage.mend(operation);
        let (reclaimed, _) = reclaim(&mut log, &needed)?;
        assert_eq!((reclaimed.segments, log.segment_count()), (2, 1));
    }
    Ok(())
}

#[test]
fn a_segment_whose_release_was_reported_to_have_failed_may_be_released() -> Result<(), LogError> {
    for spares_max in [3, 0] {
        let (storage, mut log, mut histories) = created(4, Options { spares_max, ..options(8) });
        while log.segment_count() < 3 {
            append(&mut log, &mut histories, &[0])?;
        }
        let last = histories[&name(0)].last().expect("a record").0;
        let done = match spares_max {
            0 => storage.remove("0000000001.segment"),
            _ => storage.rename("0000000001.segment", "0000000001.spare"),
        };
        done.expect("it is there");
        let (reclaimed, _) = reclaim(&mut log, &BTreeMap::from([(name(0), last)]))?;
        assert_eq!((reclaimed.segments, log.segment_count()), (2, 1));
        while log.segment_count() < 4 {
            append(&mut log, &mut histories, &[0])?;
        }
        assert!(look(&storage.copy(), None).0.damages.is_empty());
    }
    Ok(())
}

#[test]
fn a_segment_whose_file_was_made_ahead_is_begun_without_a_descriptor_or_room() -> Result<(), LogError> {
    let (storage, mut log, mut histories) = created(5, options(16));
    append(&mut log, &mut histories, &[0])?;
    assert!(!log.wants_next(), "little of the first is used");
    while !log.wants_next() {
        append(&mut log, &mut histories, &[0])?;
    }
    log.prepare_next()?;
    assert!(!log.wants_next() && !log.is_short());
    for operation in [Operation::Create, Operation::Open] {
        storage.break_down(operation, std::io::ErrorKind::Other);
    }
    storage.limit_space(storage.used_bytes());
    let segments = log.segment_count();
    while log.segment_count() == segments {
        append(&mut log, &mut histories, &[0])?;
    }
    for operation in [Operation::Create, Operation::Open] {
        storage.mend(operation);
    }
    drop(log);
    assert_eq!(look(&storage.crash(), None).1, histories);
    Ok(())
}

#[test]
fn an_idle_service_does_not_pin_a_busy_journal() -> Result<(), LogError> {
    let (storage, mut log, mut histories) = created(3, options(20));
    let idle = append(&mut log, &mut histories, &[1, 2])?;
    let reader = log.reader();
    let (mut most, mut idle_at) = (0, idle[0]);
    for round in 0..3000_u64 {
        append(&mut log, &mut histories, &[0])?;
        if round % 25 == 0 {
            let needed = BTreeMap::from([
                (name(0), RecordNumber(round)),
                (name(1), RecordNumber(1)),
                (name(2), RecordNumber(9)),
            ]);
            let (reclaimed, moved) = reclaim(&mut log, &needed)?;
            assert_eq!(reclaimed.pinned_by, []);
            for moved in moved.into_iter().filter(|moved| moved.service == name(1)) {
                idle_at = moved.location(RecordNumber(1)).expect("it has one record");
            }
            most = most.max(storage.used_bytes());
        }
    }
    assert!(idle_at.segment > 100);
    let read = |service: &Name, number, location| reader.record(service, RecordNumber(number), location);
    assert_eq!(read(&name(1), 1, idle_at).expect("readable"), histories[&name(1)][0].1);
    assert!(matches!(read(&name(1), 1, idle[0]), Err(ReadError::Gone)));
    // Other records are at these places now.
    assert!(matches!(read(&name(0), 1, idle_at), Err(ReadError::Gone)));
    assert!(matches!(read(&name(1), 2, idle_at), Err(ReadError::Gone)));
    assert!(most <= 8 * options(20).segment_bytes, "{most}");
    assert!(storage.count(Operation::Create) < 10, "segments are recycled");
    drop(log);
    let (recovery, found) = look(&storage, None);
    assert_eq!(found[&name(1)], histories[&name(1)]);
    assert_eq!(recovery.services[&name(2)].next, RecordNumber(2), "the roster remembers it");
    Ok(())
}

#[test]
fn wrong_directories_are_refused_with_one_clear_sentence() -> Result<(), LogError> {
    let storage = SimulatedStorage::new(1);
    assert!(matches!(open(&storage, options(4), Origin::Existing(None)), Err(OpenError::Missing)));
    assert!(matches!(
        open(&storage, Options { segment_bytes: 4096, ..options(4) }, Origin::Create),
        Err(OpenError::SegmentBytes { .. })
    ));
    let (mut log, _, _) = open(&storage, options(4), Origin::Create).expect("opens");
    append(&mut log, &mut Histories::new(), &[0])?;
    drop(log);
    let other = Options { directory: DirectoryId([1; 16]), ..options(4) };
    let error = open(&storage, other, Origin::Create).map(drop).expect_err("another directory");
    assert_eq!(
        error.to_string(),
        "'0000000001.segment' belongs to journal 09090909090909090909090909090909, \
         not to 01010101010101010101010101010101"
    );
    Ok(())
}

#[test]
fn records_out_of_order_are_refused_without_a_change() -> Result<(), LogError> {
    let storage = SimulatedStorage::new(1);
    let (mut log, _, _) = open(&storage, options(4), Origin::Create).expect("opens");
    let ant = name(0);
    assert!(matches!(log.stage(RunKind::Continue, &ant, RecordNumber(1), b""), Err(LogError::OutOfOrder { .. })));
    log.stage(RunKind::Begin, &ant, RecordNumber(5), b"")?;
    for number in [0, 5, 7, u64::MAX] {
        let refused = log.stage(RunKind::Continue, &ant, RecordNumber(number), b"");
        assert!(matches!(refused, Err(LogError::OutOfOrder { next: RecordNumber(6), .. })), "{refused:?}");
    }
    log.stage(RunKind::Continue, &ant, RecordNumber(6), b"")?;
    assert!(log.commit()?.is_some() && log.commit()?.is_none());
    Ok(())
}

#[test]
fn a_record_over_the_limit_is_refused_without_a_change() -> Result<(), LogError> {
    let storage = SimulatedStorage::new(1);
    let (mut log, _, _) = open(&storage, options(4), Origin::Create).expect("opens");
    let ant = name(0);
    log.stage(RunKind::Begin, &ant, RecordNumber(5), b"")?;
    let too_long = vec![0; log.record_bytes_max() + 1];
    let refused = log.stage(RunKind::Continue, &ant, RecordNumber(6), &too_long);
    assert!(matches!(refused, Err(LogError::RecordTooLong { .. })), "{refused:?}");
    log.stage(RunKind::Continue, &ant, RecordNumber(6), b"")?;
    assert!(log.commit()?.is_some() && log.commit()?.is_none());
    Ok(())
}

/// Removes a file, and puts a copy of it at its place if `by_copy`.
fn replace(storage: &SimulatedStorage, name: &str, by_copy: bool) {
    let file = storage.open(name).expect("there");
    let mut bytes = vec![0; usize::try_from(file.bytes().expect("known")).expect("short")];
    file.read_exact_at(0, &mut bytes).expect("read");
    storage.remove(name).expect("removed");
    if by_copy {
        storage.create(name).and_then(|copy| copy.write_all_at(0, &bytes)).expect("copied");
    }
}

/// An operator may do this by moving files while the host runs.
#[test]
fn a_record_is_acknowledged_only_in_the_file_that_a_start_finds() -> Result<(), LogError> {
    for by_copy in [true, false] {
        let (storage, mut log, mut histories) = created(7, options(8));
        append(&mut log, &mut histories, &[0])?;
        replace(&storage, "0000000001.segment", by_copy);
        for _ in 0..2 {
            let error = append(&mut log, &mut histories, &[0]).expect_err("it is gone with the process");
            assert_eq!(error.to_string(), "the journal failed: cannot continue in the data directory");
            let file = std::error::Error::source(&error).expect("it has a cause").to_string();
            assert!(file.contains("its '0000000001.segment' is "), "{file}");
        }
        assert!(log.seal().is_err());
    }
    Ok(())
}

#[test]
fn a_removed_or_replaced_segment_ends_the_journal_even_if_it_is_not_written_to() -> Result<(), LogError> {
    for by_copy in [true, false] {
        for number in 1..=3 {
            let (storage, mut log, mut histories) = created(7, options(4));
            while log.segment_count() < 4 {
                append(&mut log, &mut histories, &[0])?;
            }
            log.check_places()?;
            replace(&storage, &format!("{number:010}.segment"), by_copy);
            let error = log.check_places().expect_err("a start would not find it");
            assert_eq!(error.to_string(), "the journal failed: cannot continue in the data directory");
            assert!(append(&mut log, &mut histories, &[0]).is_err(), "nothing is promised any more");
        }
    }
    Ok(())
}

#[test]
fn places_of_more_segments_than_are_checked_at_once_are_checked_by_turns() -> Result<(), LogError> {
    let (storage, mut log, mut histories) = created(7, options(4));
    while log.segment_count() < PLACES_CHECKED_MAX + 2 {
        append(&mut log, &mut histories, &[0])?;
    }
    replace(&storage, &format!("{:010}.segment", PLACES_CHECKED_MAX + 1), false);
    log.check_places()?;
    assert!(log.check_places().is_err(), "it was its turn");
    Ok(())
}

#[test]
fn a_file_made_ahead_that_was_removed_or_replaced_costs_nothing() -> Result<(), LogError> {
    for by_copy in [true, false] {
        let (storage, mut log, mut histories) = created(7, options(4));
        append(&mut log, &mut histories, &[0])?;
        log.prepare_next()?;
        replace(&storage, "0000000002.spare", by_copy);
        while log.segment_count() < 3 {
            append(&mut log, &mut histories, &[0])?;
        }
        log.check_places()?;
        drop(log);
        assert_eq!(look(&storage.crash(), None).1, histories);
    }
    Ok(())
}
