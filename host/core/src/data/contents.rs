//! The contents of a data directory: for each service its intact snapshots and the records after them, or why it cannot
//! continue.

use super::orphans::{Orphan, Orphans, Search};
use super::snapshot_writer::{self, SNAPSHOTS_RETAINED};
use super::{DataError, read_workload};
use crate::answers::{Caller, ForgottenTimes, ID_CLOCK_SKEW_MAX, IdKey, KeptId};
use crate::catalog::{Catalog, ServiceEntry};
use crate::journal::answer::AnswerPlace;
use crate::journal::durable::FoundAnswer;
use crate::journal::record::{self, AnswerCheck};
use crate::journal::{CallIntent, CallOutcome, NetworkRecord, Record, RelocatedAnswer, TailEntry, TransactionRecord};
use crate::service::doubts::{self, Doubt};
use crate::snapshot_file::{self, Checked, ResumePoint, SECTION_FORGOTTEN, SnapshotHeader};
use lifeboat_api::call::{CallRecord, NEVER_SEEN};
use lifeboat_api::clock::Timestamp;
use lifeboat_api::event::{Event, Fallback};
use lifeboat_api::id::WorkloadHash;
use lifeboat_api::id::id_time;
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::meter::NetworkAmount;
use lifeboat_api::name::Name;
use lifeboat_api::text::chain;
use lifeboat_disk::Packs;
use lifeboat_journal::frame::RecordNumber;
use lifeboat_journal::recovery::{Found, Integrity, RecordRange, Recovery};
use lifeboat_journal::storage::Storage;
use lifeboat_vm::snapshot::Snapshot;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The contents that were found in a directory.
#[derive(Debug)]
pub struct Contents {
    /// The services of the catalog, by name.
    pub services: Vec<FoundService>,
    /// The services that are missing from the catalog. They are left as they are.
    pub orphans: Vec<Orphan>,
    /// The services that were not fully created, or were removed. The next start ends their journals.
    pub ending: Vec<Name>,
    /// The names that are absent by the catalog, and of which the journal has no records any more.
    pub(super) gone: Vec<Name>,
    /// Whether workloads that no service of the catalog runs can be removed.
    pub(super) are_workloads_known: bool,
    /// The recovery of the journal as a whole.
    pub recovery: Recovery,
}

/// A service that was found.
#[derive(Debug)]
pub struct FoundService {
    /// The name of the service.
    pub name: Name,
    /// The catalog's entry of the service.
    pub entry: ServiceEntry,
    /// Its intact snapshots, newest first. The last is the empty one, unless the service began with another.
    pub snapshots: Vec<FoundSnapshot>,
    /// The files of damaged snapshots, and the damage of each.
    pub damaged_snapshots: Vec<(String, String)>,
    /// The files of unreadable snapshots that the service does not need, and the reason of each.
    pub unreadable_snapshots: Vec<(String, String)>,
    /// Its records after the oldest of those snapshots, or all records, in order.
    pub records: Vec<(RecordNumber, Record)>,
    /// The transactions with ids from clients, in order, as far back as the journal goes.
    pub(crate) answered: Vec<(KeptId, FoundAnswer)>,
    /// The first record in the journal.
    pub first: RecordNumber,
    /// The last record in the journal.
    pub last: RecordNumber,
    /// The epoch of the last record.
    pub epoch: Epoch,
    /// The transaction that had begun to make calls when its host stopped.
    pub interrupted: Option<Interrupted>,
    /// The last answers to ids with calls in doubt, in no order.
    pub(crate) doubts: Vec<TransactionRecord>,
    /// The bytes of all its records.
    pub journal_bytes: u64,
    /// Whether all records that its snapshots need are there, even if the service cannot continue for another reason.
    pub is_journal_sound: bool,
    /// Whether the service can continue. The error is the reason why it cannot.
    pub standing: Result<(), String>,
}

/// An intact snapshot: a file, or the empty one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSnapshot {
    /// The file, or none for the empty snapshot.
    pub file: Option<String>,
    /// The header of the file, or none for the empty snapshot.
    pub header: Option<SnapshotHeader>,
    /// The packs with the chunks of its disk.
    pub packs: Packs,
}

impl FoundSnapshot {
    /// Returns the last record that is part of the snapshot.
    #[must_use]
    pub fn record(&self) -> RecordNumber {
        self.header.as_ref().map_or(RecordNumber(0), |header| header.record)
    }

    /// Returns the last transaction that is part of the snapshot.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        self.header.as_ref().map_or(Sequence(0), |header| header.sequence)
    }

    /// Returns the time of that transaction.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.header.as_ref().map_or(Timestamp(0), |header| header.timestamp)
    }

    /// Returns this snapshot as what replaces a damaged one.
    pub(crate) fn as_fallback(&self) -> Fallback {
        if self.file.is_some() { Fallback::Snapshot(self.sequence()) } else { Fallback::Beginning }
    }

    /// Returns the bytes of its state.
    #[must_use]
    pub fn state_bytes(&self) -> u64 {
        self.header.as_ref().map_or(0, SnapshotHeader::state_bytes)
    }

    /// Reads the state.
    ///
    /// # Errors
    /// [`DataError::Snapshot`].
    pub fn load(&self, storage: &dyn Storage) -> Result<Snapshot, DataError> {
        self.load_all(storage).map(|(snapshot, _)| snapshot)
    }

    /// Reads the state, and the ids that were forgotten when the snapshot was taken.
    pub(crate) fn load_all(&self, storage: &dyn Storage) -> Result<(Snapshot, ForgottenTimes), DataError> {
        let Some(file) = &self.file else { return Ok((Snapshot::empty(), ForgottenTimes::default())) };
        let content = snapshot_file::read(storage, file)?;
        let disk = content.disk(storage, file)?;
        let section: Vec<u8> =
            content.chunks(SECTION_FORGOTTEN).into_iter().flat_map(|at| &content.body[at]).copied().collect();
        // A file without the section does not distinguish users.
        let of_all = content.header.resume_point.forgotten_id_time;
        let forgotten = ForgottenTimes::from_bytes(&section).unwrap_or_else(|| ForgottenTimes::for_all(of_all));
        Ok((content.into_snapshot(disk), forgotten))
    }

    /// Checks every chunk of its disk.
    ///
    /// # Errors
    /// [`DataError::Snapshot`].
    pub fn check_disk(&self, storage: &dyn Storage) -> Result<(), DataError> {
        match &self.file {
            Some(file) if !self.packs.is_empty() => Ok(snapshot_file::check_disk(storage, file)?),
            _ => Ok(()),
        }
    }

    /// Returns the first record whose answer was retained when the snapshot was taken.
    #[must_use]
    pub(crate) fn first_answer(&self) -> RecordNumber {
        self.header.as_ref().map_or(RecordNumber(1), |header| header.resume_point.first_answer)
    }
}

/// A transaction that had begun to make calls when its host stopped. No record says how it ended.
#[derive(Debug, Clone, Default)]
pub struct Interrupted {
    /// Its sequence number.
    pub sequence: Sequence,
    /// The first of its intents, which names the transaction. None if it made no call itself.
    pub intent: Option<Arc<CallIntent>>,
    /// The calls that it made, by their index. Those without a result are in doubt.
    pub made: BTreeMap<u32, CallRecord>,
    /// The last outcomes of the calls that it did not make: its host refused them, or an earlier attempt made them. An
    /// earlier transaction may have had the same sequence number, if it left nothing but these.
    told: BTreeMap<u32, CallRecord>,
    /// The calls that are charged, and their bytes.
    pub charged: NetworkAmount,
}

impl Interrupted {
    fn intend(&mut self, intent: &Arc<CallIntent>) {
        self.intent.get_or_insert_with(|| Arc::clone(intent));
        let CallIntent { index, hash, method, target, bytes, .. } = (**intent).clone();
        // A snapshot within the transaction repeats what is known of its calls.
        if self.made.contains_key(&index) {
            return;
        }
        self.made.insert(index, CallRecord { index, hash, method, target, seen: NEVER_SEEN, result: None });
        self.charged.calls += 1;
        self.charged.bytes = self.charged.bytes.saturating_add(bytes);
    }

    fn conclude(&mut self, outcome: &CallOutcome) {
        match self.made.get_mut(&outcome.call.index).filter(|made| made.hash == outcome.call.hash) {
            Some(made) if made.result.is_some() => {}
            Some(made) => {
                *made = outcome.call.clone();
                self.charged.bytes = self.charged.bytes.saturating_add(outcome.bytes);
            }
            None => drop(self.told.insert(outcome.call.index, outcome.call.clone())),
        }
    }

    /// Gives the calls of a transaction their results, which are in records of their own.
    fn complete(&self, transaction: &mut Arc<TransactionRecord>) {
        let Some(network) = &transaction.network else { return };
        let mut calls = network.calls.to_vec();
        for call in &mut calls {
            let is_same = |known: &&CallRecord| known.hash == call.hash;
            let made = self.made.get(&call.index).filter(is_same);
            let known = made.or_else(|| self.told.get(&call.index).filter(is_same));
            call.result = call.result.take().or_else(|| known.and_then(|known| known.result.clone()));
        }
        let network = Arc::new(NetworkRecord { calls: calls.into(), ..(**network).clone() });
        Arc::make_mut(transaction).network = Some(network);
    }
}

/// What is gathered of a service while the journal is read.
#[derive(Default)]
struct Gathered {
    records: Vec<(RecordNumber, Record)>,
    answered: Vec<(KeptId, FoundAnswer)>,
    epoch: Epoch,
    /// The last answers to ids with calls in doubt.
    doubts: BTreeMap<IdKey, TransactionRecord>,
    /// The transaction whose calls were read last, until its own record is read.
    interrupted: Option<Interrupted>,
    journal_bytes: u64,
    /// The first record that cannot be decoded, and why. Records after it cannot be used.
    undecodable: Option<(RecordNumber, String)>,
}

impl Gathered {
    fn add_answer(&mut self, transaction: &TransactionRecord, bytes: u64, number: RecordNumber, place: AnswerPlace) {
        let TransactionRecord { user, incarnation, id, sequence, timestamp, .. } = transaction;
        let key = IdKey::new(user, *incarnation, id);
        match doubts::of(transaction) {
            Some(in_doubt) => drop(self.doubts.insert(key, in_doubt)),
            None => drop(self.doubts.remove(&key)),
        }
        let kept = KeptId {
            key,
            caller: Caller { user: user.clone(), incarnation: *incarnation },
            sequence: *sequence,
            number,
            timestamp: *timestamp,
            id_time: id_time(id),
            bytes,
        };
        self.answered.push((kept, FoundAnswer { number, place, journal_bytes: self.journal_bytes }));
    }

    /// Returns the calls of a transaction that has no record yet.
    fn calls_of(&mut self, sequence: Sequence) -> &mut Interrupted {
        self.interrupted = self.interrupted.take().filter(|it| it.sequence == sequence);
        self.interrupted.get_or_insert_with(|| Interrupted { sequence, ..Interrupted::default() })
    }

    /// Returns the answers in the order in which they were given, each at the place to which it was last relocated.
    fn take_answered(&mut self) -> Vec<(KeptId, FoundAnswer)> {
        let mut answered = std::mem::take(&mut self.answered);
        answered.sort_by_key(|(kept, _)| (kept.sequence, std::cmp::Reverse(kept.number)));
        answered.dedup_by_key(|(kept, _)| kept.sequence);
        answered
    }
}

/// A reader of a directory. It reads snapshots and workloads first, then the journal, and then combines them.
pub(super) struct Gathering {
    services: BTreeMap<Name, FoundService>,
    /// Whether each workload can be read. The error is the reason why it cannot.
    workloads: BTreeMap<WorkloadHash, Result<(), String>>,
    gathered: BTreeMap<Name, Gathered>,
    whole: Option<Name>,
    /// None if all services but one are left out.
    orphans: Option<Search>,
}

impl Gathering {
    /// Begins to read a directory. A host needs at most the older of two snapshots, and records before it are not held,
    /// unless `reaches_back` asks for all of them.
    pub(super) fn new(
        storage: &dyn Storage,
        catalog: &Catalog,
        whole: Option<&Name>,
        reaches_back: bool,
    ) -> Result<Self, DataError> {
        Self::begin(storage, catalog, None, whole, reaches_back, &BTreeSet::new())
    }

    /// Begins to read what a host needs of one service, without the files of snapshots in `left_out`.
    pub(super) fn of_one(
        storage: &dyn Storage,
        catalog: &Catalog,
        service: &Name,
        left_out: &BTreeSet<String>,
    ) -> Result<Self, DataError> {
        Self::begin(storage, catalog, Some(service), None, false, left_out)
    }

    fn begin(
        storage: &dyn Storage,
        catalog: &Catalog,
        only: Option<&Name>,
        whole: Option<&Name>,
        reaches_back: bool,
        left_out: &BTreeSet<String>,
    ) -> Result<Self, DataError> {
        let mut services: BTreeMap<Name, FoundService> = BTreeMap::new();
        for (name, entry) in catalog.services()?.into_iter().filter(|(name, _)| only.is_none_or(|only| only == name)) {
            let found = FoundService {
                name: name.clone(),
                entry,
                snapshots: Vec::new(),
                damaged_snapshots: Vec::new(),
                unreadable_snapshots: Vec::new(),
                records: Vec::new(),
                answered: Vec::new(),
                first: RecordNumber(0),
                last: RecordNumber(0),
                epoch: Epoch::default(),
                interrupted: None,
                doubts: Vec::new(),
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
        for name in files.into_iter().rev().filter(|name| !left_out.contains(name)) {
            let Some(found) = service_of(&name).and_then(|service| services.get_mut(&service)) else { continue };
            match snapshot_file::check(storage, &name) {
                Ok(Checked { header, packs })
                    if header.service == found.name && snapshot_file::file_name(&found.name, header.record) == name =>
                {
                    found.snapshots.push(FoundSnapshot { file: Some(name), header: Some(header), packs });
                }
                Ok(_) => {
                    let reason = format!("'{name}' is a snapshot of another service or record");
                    found.damaged_snapshots.push((name, reason));
                }
                Err(error) if error.is_damage() => found.damaged_snapshots.push((name, error.to_string())),
                // It should have been removed, and the next snapshot tries that again.
                Err(error) if error.storage_error().is_some() && found.snapshots.len() >= SNAPSHOTS_RETAINED => {
                    found.unreadable_snapshots.push((name, chain(&error)));
                }
                // A disk that fails now may work tomorrow, so its failure proves nothing about the snapshot.
                Err(error) if error.storage_error().is_some() => return Err(error.into()),
                // A newer host wrote the snapshot, which is intact. That host can continue with it.
                Err(error) => found.standing = Err(error.to_string()),
            }
        }
        let begins_empty = |found: &&mut FoundService| {
            found.entry.first_snapshot.is_none() && (reaches_back || found.snapshots.len() < SNAPSHOTS_RETAINED)
        };
        for found in services.values_mut().filter(begins_empty) {
            found.snapshots.push(FoundSnapshot { file: None, header: None, packs: Packs::new() });
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
                let mut record = match record::decode(service, gathered.epoch, bytes) {
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
                match &mut record {
                    Record::Opened { epoch, .. } => gathered.epoch = *epoch,
                    Record::Transaction(transaction) => {
                        let of_it = gathered.interrupted.take().filter(|it| it.sequence == transaction.sequence);
                        if let Some(of_it) = of_it.filter(|_| transaction.answer.is_kept()) {
                            of_it.complete(transaction);
                        }
                        if transaction.is_id_kept {
                            let bytes = transaction.answer_bytes() + transaction.body.len() as u64;
                            gathered.add_answer(transaction, bytes, number, place(transaction));
                        }
                    }
                    Record::CallIntent(intent) => gathered.calls_of(intent.sequence).intend(intent),
                    Record::CallOutcome(outcome) => gathered.calls_of(outcome.sequence).conclude(outcome),
                    Record::Relocated(RelocatedAnswer { transaction, bytes }) => {
                        gathered.add_answer(transaction, *bytes, number, place(transaction));
                    }
                    Record::Snapshot { .. } | Record::SlaFailure(_) | Record::Failover(_) | Record::Queries(_) => {}
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
            let Gathered { records, epoch, journal_bytes, undecodable, interrupted, doubts, .. } = gathered;
            (found.records, found.answered, found.journal_bytes) = (records, answered, journal_bytes);
            found.doubts = doubts.into_values().collect();
            found.interrupted = interrupted.filter(|it| it.intent.is_some());
            // Snapshots contain the epoch of records that are gone.
            let known = found.snapshots.first().and_then(|snapshot| snapshot.header.as_ref());
            found.epoch =
                if epoch == Epoch::default() { known.map_or(epoch, |header| header.resume_point.epoch) } else { epoch };
            let of_journal = standing(found, &recovery, undecodable);
            found.is_journal_sound = of_journal.is_ok();
            let of_workload = workloads.get(&found.entry.workload).cloned().unwrap_or(Ok(()));
            found.standing = std::mem::replace(&mut found.standing, Ok(())).and(of_journal).and(of_workload);
        }
        // Records that were decoded before their epoch was known belong to the epoch of the snapshot before them.
        for found in services.values_mut() {
            found.give_epochs();
        }
        let services = services.into_values().collect();
        Ok(Contents { services, orphans: kept, ending, gone, are_workloads_known, recovery })
    }
}

impl FoundService {
    /// Returns the snapshots with all later records, newest first: the service can be restored from these.
    pub fn usable(&self) -> impl Iterator<Item = &FoundSnapshot> {
        self.snapshots.iter().filter(|snapshot| self.reaches(snapshot))
    }

    /// Returns the snapshots that a state can be restored from, newest first. If the service cannot continue, they
    /// include snapshots whose later records are missing: their states are correct, whatever was lost after them.
    pub fn trusted(&self) -> impl Iterator<Item = &FoundSnapshot> {
        self.snapshots
            .iter()
            .filter(|snapshot| self.reaches(snapshot) || self.standing.is_err() && snapshot.header.is_some())
    }

    /// Returns the records that follow a snapshot, in order. Returns none if some between them are missing.
    #[must_use]
    pub fn records_after(&self, snapshot: &FoundSnapshot) -> &[(RecordNumber, Record)] {
        if !self.reaches(snapshot) {
            return &[];
        }
        let first = self.records.partition_point(|(number, _)| *number <= snapshot.record());
        &self.records[first..]
    }

    /// Returns the point at which the service resumes after a snapshot and some of the records that follow it.
    #[must_use]
    pub fn resume_point(&self, snapshot: &FoundSnapshot, records: &[(RecordNumber, Record)]) -> ResumePoint {
        let mut resume_point = snapshot.header.as_ref().map_or_else(
            || ResumePoint {
                vm_number: 1,
                size: self.entry.settings.size.clone(),
                fuel_used: 0,
                network_used: NetworkAmount::default(),
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
                    if let Some(network) = &transaction.network {
                        resume_point.network_used = resume_point.network_used.plus(network.charged);
                    }
                }
                Record::Failover(failover) => {
                    (resume_point.vm_number, resume_point.fuel_used) = (failover.to.number, 0);
                    resume_point.network_used = NetworkAmount::default();
                    resume_point.size.clone_from(&failover.size);
                }
                Record::Opened { epoch, .. } => resume_point.epoch = *epoch,
                // The fuel of queries is reported with the transaction after them, and calls with theirs.
                Record::Snapshot { .. }
                | Record::SlaFailure(_)
                | Record::Queries(_)
                | Record::Relocated(_)
                | Record::CallIntent(_)
                | Record::CallOutcome(_) => {}
            }
        }
        resume_point
    }

    /// Returns the calls in doubt that the journal has, in the order of their transactions. A host forgets those that
    /// are beyond the deduplication window.
    #[must_use]
    pub fn doubts(&self) -> Vec<Doubt> {
        let interrupted = self.interrupted.as_ref().and_then(|it| Some((it, it.intent.as_ref()?)));
        let interrupted = interrupted.filter(|(_, intent)| intent.is_id_kept);
        let is_replaced = |record: &TransactionRecord, doubt: &Doubt| {
            interrupted.is_some_and(|(it, intent)| {
                let same =
                    (&intent.user, intent.incarnation, &intent.id) == (&record.user, record.incarnation, &record.id);
                same && it.made.contains_key(&doubt.index)
            })
        };
        let mut all = Vec::new();
        for record in &self.doubts {
            all.extend(doubts::calls_of(record).into_iter().filter(|doubt| !is_replaced(record, doubt)));
        }
        if let Some((it, intent)) = interrupted {
            let of = (&intent.user, &*intent.id);
            all.extend(it.made.values().filter_map(|call| Doubt::of(of, it.sequence, intent.timestamp, call)));
        }
        all.sort_by_key(|doubt| (doubt.sequence, doubt.index));
        all
    }

    /// Returns the last known transaction, from the records or from a snapshot.
    #[must_use]
    pub fn last_transaction(&self) -> Sequence {
        let last = last_transaction(&self.records).map(|(sequence, _)| sequence);
        self.snapshots.iter().map(FoundSnapshot::sequence).chain(last).max().unwrap_or_default()
    }

    /// Returns how many ids from clients are in the journal, and when the oldest of them was answered.
    #[must_use]
    pub fn ids(&self) -> (usize, Option<Timestamp>) {
        (self.answered.len(), self.answered.first().map(|(kept, _)| kept.timestamp))
    }

    /// Returns the newest time in an id of a transaction up to `through`, forgotten ones included.
    #[must_use]
    pub fn newest_id_time(&self, through: Sequence) -> Option<Timestamp> {
        let forgotten = self.snapshots.iter().filter(|snapshot| snapshot.sequence() <= through);
        let forgotten = forgotten.filter_map(|snapshot| snapshot.header.as_ref()?.resume_point.forgotten_id_time);
        let kept = self.answered.iter().filter(|(kept, _)| kept.sequence <= through);
        // A time that is far ahead would lock out all ids until then.
        let id_times =
            kept.filter_map(|(kept, _)| kept.id_time.filter(|time| *time <= kept.timestamp.plus(ID_CLOCK_SKEW_MAX)));
        forgotten.chain(id_times).max()
    }

    fn reaches(&self, snapshot: &FoundSnapshot) -> bool {
        snapshot.record().next() >= self.first && snapshot.record() <= self.last
    }

    /// Sets the epoch of transactions and queries before the first remaining [`Record::Opened`] to that of the oldest
    /// usable snapshot.
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

/// Returns whether a service can continue, based on its journal.
fn standing(
    found: &mut FoundService,
    recovery: &Recovery,
    undecodable: Option<(RecordNumber, String)>,
) -> Result<(), String> {
    let Some(RecordRange { first, next, standing }) = recovery.services.get(&found.name) else {
        return Err(match recovery.damages.iter().find(|damage| damage.kind.concerns_all()) {
            Some(damage) => format!("all its records may be lost: {damage}"),
            None => "the journal has no record of it, although the journal was in use".into(),
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
            return Err(format!("records from {from} on are missing, and the journal shows no reason"));
        }
    }
    if let Some(newest) = found.snapshots.first().map(FoundSnapshot::record).filter(|newest| *newest > found.last) {
        let last = found.last;
        return Err(format!(
            "its newest snapshot has record {newest}, but its journal ends with {last}: records are lost"
        ));
    }
    let Some(newest) = found.usable().next() else {
        return Err(format!("no intact snapshot reaches record {}, with which its journal begins", found.first));
    };
    // A replay does not need these records. But without them, a repetition of one of their ids would run again.
    let first_answer = newest.first_answer();
    if first_answer < found.first {
        return Err(format!(
            "its newest snapshot retains answers from record {first_answer} on, but its journal begins with {}: \
             answers are lost",
            found.first
        ));
    }
    Ok(())
}

/// Returns the transactions and queries among `records` that may have changed the state: a replay repeats these.
pub(crate) fn kept(records: &[(RecordNumber, Record)]) -> Vec<TailEntry> {
    records.iter().filter_map(|(_, record)| record.tail_entry()).collect()
}

/// Returns the number of transactions in `records`, whatever their outcome.
pub(crate) fn count_transactions(records: &[(RecordNumber, Record)]) -> usize {
    records.iter().filter(|(_, record)| matches!(record, Record::Transaction(_))).count()
}

/// Returns the last transaction among `records`, and its time.
pub(crate) fn last_transaction(records: &[(RecordNumber, Record)]) -> Option<(Sequence, Timestamp)> {
    records.iter().rev().find_map(|(_, record)| match record {
        Record::Transaction(transaction) => Some((transaction.sequence, transaction.timestamp)),
        _ => None,
    })
}

/// Returns the service in the name of a snapshot file that is whole, as far as its name says.
pub(super) fn service_of(file: &str) -> Option<Name> {
    snapshot_writer::service_of(file).filter(|_| file.ends_with(".snapshot"))
}

/// Returns the events that report damage to a directory. The damaged snapshots of a service that can continue are
/// reported when it is brought back: only then it is certain what takes their place.
#[must_use]
pub fn findings(contents: &Contents) -> Vec<Event> {
    let recovery = &contents.recovery;
    let mut events: Vec<Event> =
        recovery.damages.iter().map(|damage| Event::JournalDamaged { damage: damage.to_string() }).collect();
    if let Some(torn) = &recovery.torn {
        events.push(Event::JournalTorn { position: torn.position.0 });
    }
    for found in &contents.services {
        for (file, reason) in found.damaged_snapshots.iter().filter(|_| found.standing.is_err()) {
            let (service, file, reason) = (found.name.clone(), file.clone(), reason.clone());
            events.push(Event::SnapshotDamaged { service, file, reason, instead: Fallback::Nothing });
        }
        for (_, reason) in &found.unreadable_snapshots {
            events.push(Event::OldSnapshotsNotRemoved { service: found.name.clone(), reason: reason.clone() });
        }
        if let Err(reason) = &found.standing {
            events.push(Event::Quarantined { service: found.name.clone(), reason: reason.clone() });
        }
    }
    let orphans = contents.orphans.iter();
    events.extend(orphans.map(|it| Event::Quarantined { service: it.name.clone(), reason: it.reason() }));
    events
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_api::call::{CallError, CallResponse, CallResult, RequestHash};
    use lifeboat_api::transaction::{Answer, ReplyHash};
    use std::time::Duration;

    fn intent(index: u32, hash: u8) -> Arc<CallIntent> {
        Arc::new(CallIntent {
            sequence: Sequence(7),
            id: "p".into(),
            is_id_kept: true,
            user: Name::new("ada").expect("a name"),
            incarnation: 0,
            timestamp: Timestamp(1),
            body_hash: ReplyHash::of_body(b""),
            index,
            hash: RequestHash([hash; 16]),
            method: "POST".into(),
            target: "http://a".into(),
            bytes: 10,
        })
    }

    fn outcome(index: u32, hash: u8, result: CallResult, bytes: u64) -> CallOutcome {
        let CallIntent { method, target, .. } = (*intent(index, hash)).clone();
        let hash = RequestHash([hash; 16]);
        let call = CallRecord { index, hash, method, target, seen: Timestamp(2), result: Some(result) };
        CallOutcome { sequence: Sequence(7), call, took: Duration::ZERO, bytes }
    }

    fn response(status: u16) -> CallResult {
        Ok(Arc::new(CallResponse { status, headers: Vec::new(), body: "".into(), trailers: Vec::new() }))
    }

    fn refusal() -> CallResult {
        Err(CallError::Limit { reason: "too many".into() })
    }

    /// Returns what a replay of a kept transaction with this call gets.
    fn replayed(interrupted: &Interrupted, index: u32, hash: u8) -> Option<CallResult> {
        let call = CallRecord { result: None, ..outcome(index, hash, refusal(), 0).call };
        let CallIntent { id, user, body_hash, .. } = (*intent(index, hash)).clone();
        let mut transaction = Arc::new(TransactionRecord {
            sequence: Sequence(7),
            id,
            is_id_kept: true,
            user,
            incarnation: 0,
            timestamp: Timestamp(1),
            epoch: Epoch::default(),
            body: bytes::Bytes::new(),
            body_hash,
            answer: Answer::Ok(bytes::Bytes::new()),
            fuel_used: 0,
            query_fuel_used: 0,
            network: Some(Arc::new(NetworkRecord { charged: NetworkAmount::default(), calls: [call].into() })),
        });
        interrupted.complete(&mut transaction);
        transaction.network.as_ref().and_then(|network| network.calls[0].result.clone())
    }

    #[test]
    fn a_call_that_is_made_after_it_was_refused_has_its_own_outcome() {
        // A transaction that made no call leaves its number to the next one.
        let mut interrupted = Interrupted::default();
        interrupted.conclude(&outcome(0, 1, refusal(), 0));
        assert!(interrupted.intent.is_none() && interrupted.made.is_empty());
        interrupted.intend(&intent(0, 1));
        assert!(interrupted.made[&0].doubt().is_some(), "it is in doubt until its outcome is there");
        interrupted.conclude(&outcome(0, 1, response(200), 5));
        assert_eq!(replayed(&interrupted, 0, 1), Some(response(200)));
        assert_eq!(interrupted.charged, NetworkAmount { calls: 1, bytes: 15 });
        // A snapshot within the transaction repeats both.
        interrupted.intend(&intent(0, 1));
        interrupted.conclude(&outcome(0, 1, response(200), 5));
        assert_eq!(interrupted.charged, NetworkAmount { calls: 1, bytes: 15 });
    }

    #[test]
    fn another_request_that_was_refused_leaves_the_call_that_was_made() {
        let mut interrupted = Interrupted::default();
        interrupted.intend(&intent(0, 1));
        interrupted.conclude(&outcome(0, 1, response(200), 5));
        interrupted.conclude(&outcome(0, 2, refusal(), 0));
        assert_eq!(interrupted.made[&0].result, Some(response(200)));
        // The attempt that was kept made the other one.
        assert_eq!(replayed(&interrupted, 0, 2), Some(refusal()));
        assert_eq!(replayed(&interrupted, 0, 3), None);
    }
}
