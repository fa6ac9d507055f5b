//! What a data directory has of services that are not in its catalog.
//!
//! Some never came to be, or were removed before a crash; what is left of them is of no use. Others are missing since the
//! catalog is an older copy: all that was acknowledged for them is in the journal and the snapshots, and stays until the
//! right catalog is put back or an operator removes them. Only what is certain is taken for the first kind.

use super::{DataError, PART, snapshot_writer};
use crate::catalog::{Absent, Catalog};
use lifeboat_api::name::Name;
use lifeboat_api::size::grouped;
use lifeboat_journal::frame::RecordNumber;
use lifeboat_journal::recovery::{Integrity, Kept, Recovery};
use std::collections::{BTreeMap, BTreeSet};

/// A service that the catalog does not have, and of which nothing says that it was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// Its name.
    pub name: Name,
    /// Its last record that was found in the journal; 0 if there is none.
    pub last: RecordNumber,
    /// How many files of snapshots it has, damaged ones included.
    pub snapshots: usize,
}

impl Orphan {
    /// Why it does not run, and what to do.
    #[must_use]
    pub fn reason(&self) -> String {
        let name = &self.name;
        format!(
            "catalog.redb does not have it, but there {}: the catalog may be an older copy; to have the service back, stop \
             the server and put back the newest copy of catalog.redb that has it; to give it up for good, lifeboat remove \
             {name} --yes",
            self.found()
        )
    }

    /// What there is of it.
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

/// What is known of the services that are not in the catalog, before the journal is read.
#[derive(Debug)]
pub(super) struct Search {
    known: BTreeSet<Name>,
    /// As [`Catalog::absent`].
    absent: BTreeMap<Name, Absent>,
    /// How many snapshots each has.
    snapshots: BTreeMap<Name, usize>,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    pub(super) kept: Vec<Orphan>,
    /// Those in the journal that nobody misses.
    pub(super) ending: Vec<Name>,
    /// Those that the catalog says are absent, and that are not in the journal any more.
    pub(super) gone: Vec<Name>,
    /// Whether a workload is nobody's that no service of the catalog runs.
    pub(super) are_workloads_known: bool,
}

impl Search {
    /// `known` are the services of the catalog, `files` those of the directory.
    pub(super) fn new<'a>(
        catalog: &Catalog,
        known: impl Iterator<Item = &'a Name>,
        files: &[String],
    ) -> Result<Self, DataError> {
        let known: BTreeSet<Name> = known.cloned().collect();
        let mut snapshots = BTreeMap::new();
        for service in
            files.iter().filter(|file| !file.ends_with(PART)).filter_map(|file| snapshot_writer::service_of(file))
        {
            if !known.contains(&service) {
                *snapshots.entry(service).or_default() += 1;
            }
        }
        Ok(Self { known, absent: catalog.absent()?, snapshots })
    }

    pub(super) fn finish(self, recovery: &Recovery) -> Orphans {
        let Self { known, absent, snapshots } = self;
        // Otherwise the journal may have lost what it had of a service.
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
                // Of a service that is restored, a snapshot comes before the first record.
                None => is_journal_whole || was_being_created,
                // All its state may be in that snapshot.
                Some(kept) => has_only_begun(kept) && (snapshots == 0 || was_being_created),
            };
            if !was_removed && !never_was {
                let last = records.map_or(RecordNumber(0), |kept| RecordNumber(kept.next.0.saturating_sub(1)));
                found.kept.push(Orphan { name: name.clone(), last, snapshots });
            } else if records.is_some() {
                found.ending.push(name.clone());
            }
        }
        let is_kept = |name: &Name| found.kept.iter().any(|orphan| orphan.name == *name);
        found.gone =
            absent.into_keys().filter(|name| !recovery.services.contains_key(name) && !is_kept(name)).collect();
        // Which one an orphan runs only the catalog says that has it.
        found.are_workloads_known = is_journal_whole && found.kept.is_empty();
        found
    }
}

/// Whether a service has the record with which it began, and no other.
fn has_only_begun(kept: &Kept) -> bool {
    *kept == Kept { first: RecordNumber(1), next: RecordNumber(2), standing: Integrity::Intact }
}
