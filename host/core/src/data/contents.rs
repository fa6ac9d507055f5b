//! What a data directory holds: of each service its good snapshots and the records after them, or why it cannot go on.

use super::orphans::{Orphan, Orphans, Search};
use super::snapshot_writer::SNAPSHOTS_RETAINED;
use super::{DataError, read_workload};
use crate::answers::{Caller, ForgottenTimes, ID_CLOCK_SKEW_MAX, IdKey, KeptId};
use crate::catalog::{Catalog, ServiceEntry};
use crate::journal::answer::AnswerPlace;
use crate::journal::durable::FoundAnswer;
use crate::journal::record::{self, AnswerCheck};
use crate::journal::{Record, RelocatedAnswer, TailEntry, TransactionRecord};
use crate::snapshot_file::{self, ResumePoint, SECTION_FORGOTTEN, SnapshotFileError, SnapshotHeader};
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::WorkloadHash;
use lifeboat_api::id::id_time;
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::name::Name;
use lifeboat_api::text::chain;
use lifeboat_journal::frame::RecordNumber;
use lifeboat_journal::recovery::{Found, Integrity, Kept, Recovery};
use lifeboat_journal::storage::Storage;
use lifeboat_vm::snapshot::Snapshot;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What was found.
#[derive(Debug)]
pub struct Contents {
    /// Every service of the catalog, by name.
    pub services: Vec<FoundService>,
    /// Services that the catalog does not have, though it should: they are kept as they are.
    pub orphans: Vec<Orphan>,
    /// Services that never came to be, or were removed: the next start ends what the journal has of them.
    pub ending: Vec<Name>,
    /// Names that the catalog says are absent, and of which the journal has nothing any more.
    pub(super) gone: Vec<Name>,
    /// Whether workloads that no service of the catalog runs are nobody's.
    pub(super) are_workloads_known: bool,
    /// What was found of the journal as a whole.
    pub recovery: Recovery,
}

/// A service that was found.
#[derive(Debug)]
pub struct FoundService {
    /// Its name.
    pub name: Name,
    /// What the catalog says of it.
    pub entry: ServiceEntry,
    /// Its good snapshots, newest first. The last is the empty one, unless the service began with another.
    pub snapshots: Vec<FoundSnapshot>,
    /// Files of snapshots that are not what was written, and what is wrong with them.
    pub damaged_snapshots: Vec<(String, String)>,
    /// Its records after the oldest of those snapshots, or all that there are, in order.
    pub records: Vec<(RecordNumber, Record)>,
    /// Transactions whose ids the clients gave, in order, as far back as the journal goes.
    pub(crate) answered: Vec<(KeptId, FoundAnswer)>,
    /// The first record that the journal still has.
    pub first: RecordNumber,
    /// The last record.
    pub last: RecordNumber,
    /// The epoch of the last record.
    pub epoch: Epoch,
    /// Bytes of all its records.
    pub journal_bytes: u64,
    /// Whether all its records are there that its snapshots need, whatever else it lacks.
    pub is_journal_sound: bool,
    /// Why it cannot go on, if it cannot.
    pub standing: Result<(), String>,
}

/// A snapshot that was checked: a file, or the empty one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSnapshot {
    /// Its file. None is the empty one.
    pub file: Option<String>,
    /// What the file says. None is the empty one.
    pub header: Option<SnapshotHeader>,
}

impl FoundSnapshot {
    /// The last record that is part of it.
    #[must_use]
    pub fn record(&self) -> RecordNumber {
        self.header.as_ref().map_or(RecordNumber(0), |header| header.record)
    }

    /// The last transaction that is part of it.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        self.header.as_ref().map_or(Sequence(0), |header| header.sequence)
    }

    /// The time of that transaction.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.header.as_ref().map_or(Timestamp(0), |header| header.timestamp)
    }

    /// How many bytes of state it holds.
    #[must_use]
    pub fn state_bytes(&self) -> u64 {
        self.header.as_ref().map_or(0, SnapshotHeader::state_bytes)
    }

    /// Reads its state.
    ///
    /// # Errors
    /// [`DataError::Snapshot`].
    pub fn load(&self, storage: &dyn Storage) -> Result<Snapshot, DataError> {
        self.load_all(storage).map(|(snapshot, _)| snapshot)
    }

    /// Reads its state, and which ids were forgotten when it was taken.
    pub(crate) fn load_all(&self, storage: &dyn Storage) -> Result<(Snapshot, ForgottenTimes), DataError> {
        let Some(file) = &self.file else { return Ok((Snapshot::empty(), ForgottenTimes::default())) };
        let content = snapshot_file::read(storage, file)?;
        let section: Vec<u8> =
            content.chunks(SECTION_FORGOTTEN).into_iter().flat_map(|at| &content.body[at]).copied().collect();
        // A file without the section does not distinguish users.
        let of_all = content.header.resume_point.forgotten_id_time;
        let forgotten = ForgottenTimes::from_bytes(&section).unwrap_or_else(|| ForgottenTimes::for_all(of_all));
        Ok((content.into_snapshot(), forgotten))
    }

    /// The first record with an answer that was kept when it was taken.
    #[must_use]
    pub fn first_answer(&self) -> RecordNumber {
        self.header.as_ref().map_or(RecordNumber(1), |header| header.resume_point.first_answer)
    }
}

/// What is gathered of a service while the journal is read.
#[derive(Default)]
struct Gathered {
    records: Vec<(RecordNumber, Record)>,
    answered: Vec<(KeptId, FoundAnswer)>,
    epoch: Epoch,
    journal_bytes: u64,
    /// The first record that is none, and why: those after it are of no use.
    undecodable: Option<(RecordNumber, String)>,
}

impl Gathered {
    fn add_answer(&mut self, transaction: &TransactionRecord, bytes: u64, number: RecordNumber, place: AnswerPlace) {
        let TransactionRecord { user, incarnation, id, sequence, timestamp, .. } = transaction;
        let kept = KeptId {
            key: IdKey::new(user, *incarnation, id),
            caller: Caller { user: user.clone(), incarnation: *incarnation },
            sequence: *sequence,
            number,
            timestamp: *timestamp,
            id_time: id_time(id),
            bytes,
        };
        self.answered.push((kept, FoundAnswer { number, place, journal_bytes: self.journal_bytes }));
    }

    /// The answers in the order in which they were given, each where it was relocated to last.
    fn take_answered(&mut self) -> Vec<(KeptId, FoundAnswer)> {
        let mut answered = std::mem::take(&mut self.answered);
        answered.sort_by_key(|(kept, _)| (kept.sequence, std::cmp::Reverse(kept.number)));
        answered.dedup_by_key(|(kept, _)| kept.sequence);
        answered
    }
}

/// Reads snapshots and workloads first, then the journal, then makes sense of all.
pub(super) struct Gathering {
    services: BTreeMap<Name, FoundService>,
    /// Why each workload cannot be read, if it cannot.
    workloads: BTreeMap<WorkloadHash, Result<(), String>>,
    gathered: BTreeMap<Name, Gathered>,
    whole: Option<Name>,
    /// Left out with all services but one.
    orphans: Option<Search>,
}

impl Gathering {
    /// A host goes back no further than to the older of two snapshots, and does not hold what is before; `reaches_back`
    /// is for those who want all that there is. `only` leaves out all services but one.
    pub(super) fn new(
        storage: &dyn Storage,
        catalog: &Catalog,
        only: Option<&Name>,
        whole: Option<&Name>,
        reaches_back: bool,
    ) -> Result<Self, DataError> {
        let mut services: BTreeMap<Name, FoundService> = BTreeMap::new();
        for (name, entry) in catalog.services()?.into_iter().filter(|(name, _)| only.is_none_or(|only| only == name)) {
            let found = FoundService {
                name: name.clone(),
                entry,
                snapshots: Vec::new(),
                damaged_snapshots: Vec::new(),
                records: Vec::new(),
                answered: Vec::new(),
                first: RecordNumber(0),
                last: RecordNumber(0),
                epoch: Epoch::default(),
                journal_bytes: 0,
                is_journal_sound: false,
                standing: Ok(()),
            };
            services.insert(name, found);
        }
        let mut files = storage.list().map_err(DataError::storage("list the data directory"))?;
        files.sort_unstable();
        let orphans = only.is_none().then(|| Search::new(catalog, services.keys(), &files)).transpose()?;
        // Newest first.
        for name in files.into_iter().rev() {
            let Some(found) = service_of(&name).and_then(|service| services.get_mut(&service)) else { continue };
            match snapshot_file::check(storage, &name) {
                Ok(header)
                    if header.service == found.name && snapshot_file::file_name(&found.name, header.record) == name =>
                {
                    found.snapshots.push(FoundSnapshot { file: Some(name), header: Some(header) });
                }
                Ok(_) => {
                    let reason = format!("'{name}' is a snapshot of something else");
                    found.damaged_snapshots.push((name, reason));
                }
                Err(error) if error.is_damage() => found.damaged_snapshots.push((name, error.to_string())),
                // A disk that fails now may not tomorrow: nothing is concluded from that.
                Err(error @ SnapshotFileError::Storage { .. }) => return Err(error.into()),
                // A newer host's, which is good: that host can go on with it.
                Err(error) => found.standing = Err(error.to_string()),
            }
        }
        let begins_empty = |found: &&mut FoundService| {
            found.entry.first_snapshot.is_none() && (reaches_back || found.snapshots.len() < SNAPSHOTS_RETAINED)
        };
        for found in services.values_mut().filter(begins_empty) {
            found.snapshots.push(FoundSnapshot { file: None, header: None });
        }
        let mut workloads = BTreeMap::new();
        for found in services.values() {
            let read = |hash: &WorkloadHash| read_workload(storage, hash).map(drop).map_err(|error| chain(&error));
            workloads.entry(found.entry.workload).or_insert_with_key(read);
        }
        Ok(Self { services, workloads, gathered: BTreeMap::new(), whole: whole.cloned(), orphans })
    }

    pub(super) fn add(&mut self, found: Found<'_>) {
        match found {
            Found::Begins { service } => {
                self.gathered.insert(service.clone(), Gathered::default());
            }
            Found::Ends { service } => {
                self.gathered.remove(service);
            }
            Found::Record { service, number, bytes, location } => {
                let Some(known) = self.services.get(service) else { return };
                let is_whole = self.whole.as_ref() == Some(service);
                let oldest = known.snapshots.last().map_or(RecordNumber(u64::MAX), FoundSnapshot::record);
                let gathered = self.gathered.entry(service.clone()).or_default();
                if gathered.undecodable.is_some() {
                    return;
                }
                let record = match record::decode(service, gathered.epoch, bytes) {
                    Ok(record) => record,
                    Err(error) => {
                        gathered.undecodable = Some((number, error.to_string()));
                        return;
                    }
                };
                let place = |transaction: &TransactionRecord| {
                    let check = AnswerCheck::of(bytes, transaction.body_hash);
                    AnswerPlace { location, check }
                };
                match &record {
                    Record::Opened { epoch, .. } => gathered.epoch = *epoch,
                    Record::Transaction(transaction) if transaction.is_id_kept => {
                        gathered.add_answer(transaction, transaction.bytes(), number, place(transaction));
                    }
                    Record::Relocated(RelocatedAnswer { transaction, bytes }) => {
                        gathered.add_answer(transaction, *bytes, number, place(transaction));
                    }
                    _ => {}
                }
                gathered.journal_bytes += bytes.len() as u64 + 4;
                if is_whole || number > oldest {
                    gathered.records.push((number, record));
                }
            }
        }
    }

    pub(super) fn finish(self, recovery: Recovery) -> Result<Contents, DataError> {
        let Self { mut services, workloads, mut gathered, orphans, .. } = self;
        let Orphans { kept, ending, gone, are_workloads_known } =
            orphans.map_or_else(Orphans::default, |search| search.finish(&recovery));
        for (name, found) in &mut services {
            let mut gathered = gathered.remove(name).unwrap_or_default();
            let answered = gathered.take_answered();
            let Gathered { records, epoch, journal_bytes, undecodable, .. } = gathered;
            (found.records, found.answered, found.journal_bytes) = (records, answered, journal_bytes);
            // The epoch of records that are gone is in the snapshots.
            let known = found.snapshots.first().and_then(|snapshot| snapshot.header.as_ref());
            found.epoch =
                if epoch == Epoch::default() { known.map_or(epoch, |header| header.resume_point.epoch) } else { epoch };
            let of_journal = standing(found, &recovery, undecodable);
            found.is_journal_sound = of_journal.is_ok();
            let of_workload = workloads.get(&found.entry.workload).cloned().unwrap_or(Ok(()));
            found.standing = std::mem::replace(&mut found.standing, Ok(())).and(of_journal).and(of_workload);
        }
        // Records that were decoded before their epoch was seen belong to that of the snapshot before them.
        for found in services.values_mut() {
            found.give_epochs();
        }
        let services = services.into_values().collect();
        Ok(Contents { services, orphans: kept, ending, gone, are_workloads_known, recovery })
    }
}

impl FoundService {
    /// Snapshots that its records follow on, newest first: those that it can be brought back from.
    pub fn usable(&self) -> impl Iterator<Item = &FoundSnapshot> {
        self.snapshots.iter().filter(|snapshot| self.reaches(snapshot))
    }

    /// Snapshots that a state can be brought back from, newest first. Of a service that cannot go on these are also
    /// those that its records do not follow on: what they hold is true, whatever was lost after it.
    pub fn trusted(&self) -> impl Iterator<Item = &FoundSnapshot> {
        self.snapshots
            .iter()
            .filter(|snapshot| self.reaches(snapshot) || self.standing.is_err() && snapshot.header.is_some())
    }

    /// The records that follow on a snapshot, in order; none if some between are missing.
    #[must_use]
    pub fn records_after(&self, snapshot: &FoundSnapshot) -> &[(RecordNumber, Record)] {
        if !self.reaches(snapshot) {
            return &[];
        }
        let first = self.records.partition_point(|(number, _)| *number <= snapshot.record());
        &self.records[first..]
    }

    /// What the service goes on with after a snapshot and some of the records that follow on it.
    #[must_use]
    pub fn resume_point(&self, snapshot: &FoundSnapshot, records: &[(RecordNumber, Record)]) -> ResumePoint {
        let mut resume_point = snapshot.header.as_ref().map_or_else(
            || ResumePoint {
                vm_number: 1,
                size: self.entry.settings.size.clone(),
                fuel_used: 0,
                epoch: Epoch::default(),
                first_answer: RecordNumber(1),
                forgotten_id_time: None,
            },
            |header| header.resume_point.clone(),
        );
        for (_, record) in records {
            match record {
                Record::Transaction(transaction) => {
                    resume_point.fuel_used = resume_point.fuel_used.saturating_add(transaction.query_fuel_used);
                    if transaction.answer.is_kept() {
                        resume_point.fuel_used = resume_point.fuel_used.saturating_add(transaction.fuel_used);
                    }
                }
                Record::Failover(failover) => {
                    (resume_point.vm_number, resume_point.fuel_used) = (failover.to.number, 0);
                    resume_point.size.clone_from(&failover.size);
                }
                Record::Opened { epoch, .. } => resume_point.epoch = *epoch,
                // The fuel of queries comes with the transaction after them.
                Record::Snapshot { .. } | Record::SlaFailure(_) | Record::Queries(_) | Record::Relocated(_) => {}
            }
        }
        resume_point
    }

    /// The last transaction that is known, of the records or of a snapshot.
    #[must_use]
    pub fn last_transaction(&self) -> Sequence {
        let last = last_transaction(&self.records).map(|(sequence, _)| sequence);
        self.snapshots.iter().map(FoundSnapshot::sequence).chain(last).max().unwrap_or_default()
    }

    /// How many ids that clients gave are in the journal, and when the oldest of these was answered.
    #[must_use]
    pub fn ids(&self) -> (usize, Option<Timestamp>) {
        (self.answered.len(), self.answered.first().map(|(kept, _)| kept.timestamp))
    }

    /// The newest time that an id of a transaction up to `through` carries in itself, forgotten ones included.
    #[must_use]
    pub fn newest_id_time(&self, through: Sequence) -> Option<Timestamp> {
        let forgotten = self.snapshots.iter().filter(|snapshot| snapshot.sequence() <= through);
        let forgotten = forgotten.filter_map(|snapshot| snapshot.header.as_ref()?.resume_point.forgotten_id_time);
        let kept = self.answered.iter().filter(|(kept, _)| kept.sequence <= through);
        // One from far ahead would lock out all until then.
        let id_times =
            kept.filter_map(|(kept, _)| kept.id_time.filter(|time| *time <= kept.timestamp.plus(ID_CLOCK_SKEW_MAX)));
        forgotten.chain(id_times).max()
    }

    fn reaches(&self, snapshot: &FoundSnapshot) -> bool {
        snapshot.record().next() >= self.first && snapshot.record() <= self.last
    }

    /// Gives the transactions and queries before the first [`Record::Opened`] that is left the epoch that the oldest
    /// usable snapshot knows.
    fn give_epochs(&mut self) {
        let oldest = self.usable().last().and_then(|snapshot| snapshot.header.as_ref());
        let Some((epoch, after)) = oldest.map(|header| (header.resume_point.epoch, header.record)) else { return };
        for (number, record) in &mut self.records {
            match record {
                Record::Opened { .. } if *number > after => return,
                Record::Transaction(transaction) if *number > after && transaction.epoch == Epoch::default() => {
                    Arc::make_mut(transaction).epoch = epoch;
                }
                Record::Queries(queries) if *number > after && queries.epoch == Epoch::default() => {
                    Arc::make_mut(queries).epoch = epoch;
                }
                _ => {}
            }
        }
    }
}

/// Whether a service can go on, from what was found of its journal.
fn standing(
    found: &mut FoundService,
    recovery: &Recovery,
    undecodable: Option<(RecordNumber, String)>,
) -> Result<(), String> {
    let Some(Kept { first, next, standing }) = recovery.services.get(&found.name) else {
        return Err(match recovery.damages.iter().find(|damage| damage.kind.concerns_all()) {
            Some(damage) => format!("all its records may be lost: {damage}"),
            None => "the journal has nothing of it, although it was in use".into(),
        });
    };
    (found.first, found.last) = (*first, RecordNumber(next.0 - 1));
    if let Some((number, reason)) = undecodable {
        found.last = RecordNumber(number.0 - 1);
        return Err(format!("record {number}: {reason}"));
    }
    match standing {
        Integrity::Intact => {}
        Integrity::Suspect { damage } => {
            return Err(format!("records after {} may be lost: {}", found.last, recovery.damages[*damage]));
        }
        Integrity::Quarantined { from, damage: Some(damage) } => {
            return Err(format!("records from {from} on are lost: {}", recovery.damages[*damage]));
        }
        Integrity::Quarantined { from, damage: None } => {
            return Err(format!("records from {from} on are missing, and the journal does not say why"));
        }
    }
    if let Some(newest) = found.snapshots.first().map(FoundSnapshot::record).filter(|newest| *newest > found.last) {
        let last = found.last;
        return Err(format!(
            "its newest snapshot is of record {newest}, but its journal ends with {last}: records are lost"
        ));
    }
    let Some(newest) = found.usable().next() else {
        return Err(format!("no good snapshot reaches to record {}, with which its journal begins", found.first));
    };
    // A replay does without them, but a client that repeats one of their ids would be executed again.
    let first_answer = newest.first_answer();
    if first_answer < found.first {
        return Err(format!(
            "its newest snapshot keeps answers from record {first_answer} on, but its journal begins with {}: answers \
             are lost",
            found.first
        ));
    }
    Ok(())
}

/// The transactions and queries among `records` that may have changed something: what a replay repeats.
pub(crate) fn kept(records: &[(RecordNumber, Record)]) -> Vec<TailEntry> {
    records.iter().filter_map(|(_, record)| record.tail_entry()).collect()
}

/// How many of `records` are transactions, whatever they came to.
pub(crate) fn count_transactions(records: &[(RecordNumber, Record)]) -> usize {
    records.iter().filter(|(_, record)| matches!(record, Record::Transaction(_))).count()
}

/// The last transaction among `records`, and its time.
pub(crate) fn last_transaction(records: &[(RecordNumber, Record)]) -> Option<(Sequence, Timestamp)> {
    records.iter().rev().find_map(|(_, record)| match record {
        Record::Transaction(transaction) => Some((transaction.sequence, transaction.timestamp)),
        _ => None,
    })
}

/// The service that the file of a snapshot is named after.
pub(super) fn service_of(file: &str) -> Option<Name> {
    let (service, number) = file.strip_suffix(".snapshot")?.rsplit_once('.')?;
    let is_number = number.len() == 20 && number.bytes().all(|byte| byte.is_ascii_digit());
    Name::new(service).ok().filter(|_| is_number)
}
