//! What a data directory holds: of each service its good snapshots and the records after them, or why it cannot go on.

use super::DataError;
use crate::catalog::{Catalog, ServiceEntry};
use crate::journal::Record;
use crate::journal::durable::FoundAnswer;
use crate::journal::frame::RecordNumber;
use crate::journal::record;
use crate::journal::recovery::{Found, Kept, Recovery, Standing};
use crate::name::Name;
use crate::service::{IdKey, KeptId, id_time};
use crate::snapshot::file::{self, SnapshotHeader};
use crate::storage::Storage;
use crate::transaction::Epoch;
use std::collections::BTreeMap;

/// What was found.
#[derive(Debug)]
pub struct Contents {
    /// Every service of the catalog, by name.
    pub services: Vec<FoundService>,
    /// Services that the journal has something of, but the catalog has not: they never came to be, or were removed.
    pub orphans: Vec<Name>,
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

    /// The first record with an answer that was kept when it was taken.
    #[must_use]
    pub fn first_answer(&self) -> RecordNumber {
        self.header.as_ref().map_or(RecordNumber(1), |header| header.course.first_answer)
    }
}

/// What is gathered of a service while the journal is read.
#[derive(Default)]
struct Gathered {
    records: Vec<(RecordNumber, Record)>,
    answered: Vec<(KeptId, FoundAnswer)>,
    epoch: Epoch,
    journal_bytes: u64,
    undecodable: Option<String>,
}

/// Reads snapshots first, then the journal, then makes sense of both.
pub(super) struct Gathering {
    services: BTreeMap<Name, FoundService>,
    gathered: BTreeMap<Name, Gathered>,
    whole: Option<Name>,
}

impl Gathering {
    pub(super) fn new(storage: &dyn Storage, catalog: &Catalog, whole: Option<&Name>) -> Result<Self, DataError> {
        let mut services: BTreeMap<Name, FoundService> = BTreeMap::new();
        for (name, entry) in catalog.services()? {
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
                standing: Ok(()),
            };
            services.insert(name, found);
        }
        let mut files = storage.list().map_err(DataError::storage("list the data directory"))?;
        files.sort_unstable();
        // Newest first.
        for name in files.into_iter().rev() {
            let Some(found) = service_of(&name).and_then(|service| services.get_mut(&service)) else { continue };
            let checked = file::check(storage, &name).map_err(|error| super::chain(&error)).and_then(|header| {
                let is_its_own =
                    header.service == found.name && file::file_name(&header.service, header.record) == name;
                if is_its_own { Ok(header) } else { Err(format!("'{name}' is a snapshot of something else")) }
            });
            match checked {
                Ok(header) => found.snapshots.push(FoundSnapshot { file: Some(name), header: Some(header) }),
                Err(reason) => found.damaged_snapshots.push((name, reason)),
            }
        }
        for found in services.values_mut().filter(|found| found.entry.first_snapshot.is_none()) {
            found.snapshots.push(FoundSnapshot { file: None, header: None });
        }
        Ok(Self { services, gathered: BTreeMap::new(), whole: whole.cloned() })
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
                let record = match record::decode(service, gathered.epoch, bytes) {
                    Ok(record) => record,
                    Err(error) => {
                        gathered.undecodable.get_or_insert(format!("record {number}: {error}"));
                        return;
                    }
                };
                match &record {
                    Record::Opened { epoch, .. } => gathered.epoch = *epoch,
                    Record::Transaction(transaction) if transaction.is_id_kept => {
                        let kept = KeptId {
                            key: IdKey::new(&transaction.user, &transaction.id),
                            sequence: transaction.sequence,
                            timestamp: transaction.timestamp,
                            id_time: id_time(&transaction.id, transaction.timestamp),
                        };
                        let journal_bytes = gathered.journal_bytes;
                        let sequence = transaction.sequence;
                        gathered.answered.push((kept, FoundAnswer { sequence, number, location, journal_bytes }));
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
        let Self { mut services, mut gathered, .. } = self;
        let orphans: Vec<Name> =
            recovery.services.keys().filter(|name| !services.contains_key(*name)).cloned().collect();
        for (name, found) in &mut services {
            let Gathered { records, answered, epoch, journal_bytes, undecodable } =
                gathered.remove(name).unwrap_or_default();
            (found.records, found.answered, found.journal_bytes) = (records, answered, journal_bytes);
            // The epoch of records that are gone is in the snapshots.
            let known = found.snapshots.first().and_then(|snapshot| snapshot.header.as_ref());
            found.epoch =
                if epoch == Epoch::default() { known.map_or(epoch, |header| header.course.epoch) } else { epoch };
            found.standing = standing(found, &recovery, undecodable);
        }
        // Records that were decoded before their epoch was seen belong to that of the snapshot before them.
        for found in services.values_mut() {
            found.give_epochs();
        }
        Ok(Contents { services: services.into_values().collect(), orphans, recovery })
    }
}

impl FoundService {
    /// Snapshots that its records follow on, newest first: those that it can be brought back from.
    pub fn usable(&self) -> impl Iterator<Item = &FoundSnapshot> {
        self.snapshots.iter().filter(|snapshot| self.reaches(snapshot))
    }

    fn reaches(&self, snapshot: &FoundSnapshot) -> bool {
        snapshot.record().next() >= self.first && snapshot.record() <= self.last
    }

    /// Gives the transactions before the first [`Record::Opened`] that is left the epoch that the oldest usable
    /// snapshot knows.
    fn give_epochs(&mut self) {
        let oldest = self.usable().last().and_then(|snapshot| snapshot.header.as_ref());
        let Some((epoch, after)) = oldest.map(|header| (header.course.epoch, header.record)) else { return };
        for (number, record) in &mut self.records {
            match record {
                Record::Opened { .. } if *number > after => return,
                Record::Transaction(transaction) if *number > after && transaction.epoch == Epoch::default() => {
                    std::sync::Arc::make_mut(transaction).epoch = epoch;
                }
                _ => {}
            }
        }
    }
}

/// Whether a service can go on, from what was found of its journal.
fn standing(found: &mut FoundService, recovery: &Recovery, undecodable: Option<String>) -> Result<(), String> {
    let Some(Kept { first, next, standing }) = recovery.services.get(&found.name) else {
        return Err(match recovery.damages.iter().find(|damage| damage.kind.concerns_all()) {
            Some(damage) => format!("all its records may be lost: {damage}"),
            None => "the journal has nothing of it, although it was in use".into(),
        });
    };
    (found.first, found.last) = (*first, RecordNumber(next.0 - 1));
    if let Some(reason) = undecodable {
        return Err(reason);
    }
    match standing {
        Standing::Sound => {}
        Standing::Suspect { damage } => {
            return Err(format!("records after {} may be lost: {}", found.last, recovery.damages[*damage]));
        }
        Standing::Quarantined { from, damage: Some(damage) } => {
            return Err(format!("records from {from} on are lost: {}", recovery.damages[*damage]));
        }
        Standing::Quarantined { from, damage: None } => {
            return Err(format!("records from {from} on are missing, and the journal does not say why"));
        }
    }
    if let Some(newest) = found.snapshots.first().map(FoundSnapshot::record).filter(|newest| *newest > found.last) {
        let last = found.last;
        return Err(format!(
            "its newest snapshot is of record {newest}, but its journal ends with {last}: records are lost"
        ));
    }
    if found.usable().next().is_none() {
        return Err(format!("no good snapshot reaches to record {}, with which its journal begins", found.first));
    }
    Ok(())
}

/// The service that the file of a snapshot is named after.
fn service_of(file: &str) -> Option<Name> {
    let (service, number) = file.strip_suffix(".snapshot")?.rsplit_once('.')?;
    let is_number = number.len() == 20 && number.bytes().all(|byte| byte.is_ascii_digit());
    Name::new(service).ok().filter(|_| is_number)
}
