//! Services in a data directory that are not in its catalog.
//!
//! Some were not fully created, or were removed before a crash: the rest of them is useless. Others are missing because
//! the catalog is an older copy. All that was acknowledged for these is in the journal and the snapshots. It stays
//! until the right catalog is put back or an operator removes it. Only certain cases count as the first kind.

use super::{DataError, PART, snapshot_writer};
use crate::catalog::{Absent, Catalog};
use lifeboat_api::name::Name;
use lifeboat_api::size::grouped;
use lifeboat_journal::frame::RecordNumber;
use lifeboat_journal::recovery::{Integrity, RecordRange, Recovery};
use std::collections::{BTreeMap, BTreeSet};

/// A service that is not in the catalog, without evidence that it was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// The name of the service.
    pub name: Name,
    /// Its last record in the journal; 0 if there is none.
    pub last: RecordNumber,
    /// The number of its snapshot files, including damaged ones.
    pub snapshots: usize,
}

impl Orphan {
    /// Returns why the service does not run, and what to do.
    #[must_use]
    pub fn reason(&self) -> String {
        let name = &self.name;
        format!(
            "catalog.redb does not contain it, but there {}: the catalog may be an older copy; to recover the service, \
             stop the server and restore the newest copy of catalog.redb that contains it; to remove it permanently, \
             run lifeboat remove {name} --yes",
            self.found()
        )
    }

    /// Returns a text that describes the records and snapshots found.
    #[must_use]
    pub fn found(&self) -> String {
        let records = match self.last.0 {
            0 => None,
            last => Some(format!("are records up to {} in the journal", grouped(last))),
        };
        let snapshots = match self.snapshots {
            0 => None,
            1 => Some("is a snapshot".to_owned()),
            snapshots => Some(format!("are {} snapshots", grouped(snapshots as u64))),
        };
        records.into_iter().chain(snapshots).collect::<Vec<_>>().join(" and ")
    }
}

/// What is known of services outside of the catalog, before the journal is read.
#[derive(Debug)]
pub(super) struct Search {
    known: BTreeSet<Name>,
    /// The notes of [`Catalog::absent`].
    absent: BTreeMap<Name, Absent>,
    /// The number of snapshots of each service.
    snapshots: BTreeMap<Name, usize>,
}

/// The result of the search.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    pub(super) kept: Vec<Orphan>,
    /// The services in the journal that can be ended.
    pub(super) ending: Vec<Name>,
    /// The services that are absent by the catalog, and that are not in the journal any more.
    pub(super) gone: Vec<Name>,
    /// Whether workloads that no service of the catalog runs can be removed.
    pub(super) are_workloads_known: bool,
}

impl Search {
    /// Begins a search. `known` are the services of the catalog, `files` those of the directory.
    pub(super) fn new<'a>(
        catalog: &Catalog,
        known: impl Iterator<Item = &'a Name>,
        files: &[String],
    ) -> Result<Self, DataError> {
        let known: BTreeSet<Name> = known.cloned().collect();
        let mut snapshots = BTreeMap::new();
        let is_snapshot = |file: &&String| !file.ends_with(PART) && !snapshot_writer::is_pack(file);
        for service in files.iter().filter(is_snapshot).filter_map(|file| snapshot_writer::service_of(file)) {
            if !known.contains(&service) {
                *snapshots.entry(service).or_default() += 1;
            }
        }
        Ok(Self { known, absent: catalog.absent()?, snapshots })
    }

    pub(super) fn finish(self, recovery: &Recovery) -> Orphans {
        let Self { known, absent, snapshots } = self;
        // Otherwise the journal may have lost the records of a service.
        let is_journal_whole = !recovery.is_new && !recovery.concerns_unlisted();
        let unknown: BTreeSet<&Name> =
            recovery.services.keys().chain(snapshots.keys()).filter(|name| !known.contains(*name)).collect();
        let mut found = Orphans::default();
        for name in unknown {
            let (records, snapshots) = (recovery.services.get(name), snapshots.get(name).copied().unwrap_or_default());
            let noted = absent.get(name);
            let was_removed = noted.is_some_and(|noted| recovery.began_before(name, noted.journal_end));
            let was_being_created = noted.is_some_and(|noted| noted.is_being_created);
            let never_was = match records {
                // When a service is restored, its snapshot is written before its first record.
                None => is_journal_whole || was_being_created,
                // That snapshot may hold the whole state.
                Some(found) => has_only_begun(found) && (snapshots == 0 || was_being_created),
            };
            if !was_removed && !never_was {
                let last = records.map_or(RecordNumber(0), |found| RecordNumber(found.next.0.saturating_sub(1)));
                found.kept.push(Orphan { name: name.clone(), last, snapshots });
            } else if records.is_some() {
                found.ending.push(name.clone());
            }
        }
        let is_kept = |name: &Name| found.kept.iter().any(|orphan| orphan.name == *name);
        found.gone =
            absent.into_keys().filter(|name| !recovery.services.contains_key(name) && !is_kept(name)).collect();
        // Only a catalog that has an orphan knows which workload the orphan runs.
        found.are_workloads_known = is_journal_whole && found.kept.is_empty();
        found
    }
}

/// Returns whether a service has only the record with which it began.
fn has_only_begun(found: &RecordRange) -> bool {
    *found == RecordRange { first: RecordNumber(1), next: RecordNumber(2), standing: Integrity::Intact }
}
