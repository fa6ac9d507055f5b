//! A data directory: the state of all services that outlives the process.
//!
//! | file | contents | owner |
//! |---|---|---|
//! | `catalog.redb` | services, their settings and secrets; users and tokens; the seal of the journal | `catalog.rs` |
//! | `*.segment`, `*.spare` | the journal of all services | `journal/` |
//! | `SERVICE.RECORD.snapshot` | snapshots | `snapshot_file.rs`, `data/snapshot_writer.rs` |
//! | `SERVICE.RECORD.pack` | chunks of virtual disks, which snapshots refer to | `snapshot_file/disk.rs`, `data/stored_snapshot.rs` |
//! | `HASH.workload` | workloads, by their BLAKE3 hash | `data/workload_files.rs` |
//! | `lock` | held by the process that has the directory | `storage.rs` of the journal |
//!
//! [`Locked`] is a directory that belongs to this process. [`Locked::read`] reads it without changing a byte, if it was
//! opened by [`Locked::open_read_only`]. [`Locked::open_journal`] continues with it: it removes the seal, and then the
//! journal accepts records. Both return the same [`Contents`]: for each service the intact state, or why there is none
//! (*quarantined*).
//!
//! A service is created in this order, each step durable before the next: its workload's file, the first record of its
//! journal, its entry in the catalog. So an entry without a journal is a loss, and is reported.
//!
//! A service is removed in this order: its entry is removed and the catalog notes the name; its journal ends; its files
//! are removed; the note is removed. So a service without an entry and without a note was not removed. It is retained
//! and reported (`data/orphans.rs`).

mod contents;
mod error;
mod locked;
mod orphans;
pub(crate) mod snapshot_writer;
pub(crate) mod stored_snapshot;
mod workload_files;

pub use contents::{Contents, FoundService, FoundSnapshot, Interrupted, findings};
pub(crate) use contents::{count_transactions, kept, last_transaction};
pub use error::DataError;
pub use locked::Locked;
pub use orphans::Orphan;
pub(crate) use workload_files::workload_bytes;
pub use workload_files::{KeptWorkload, keep_workload, read_workload};

use crate::catalog::{Catalog, Room, ServiceEntry, UsersGuard};
use lifeboat_api::event::{Event, EventSink};
use lifeboat_api::id::WorkloadHash;
use lifeboat_api::name::Name;
use lifeboat_journal::commit::{self, CommitError, Committer, Writer};
use lifeboat_journal::frame::RecordNumber;
use lifeboat_journal::recovery::Seal;
use lifeboat_journal::storage::{LockGuard, Storage};
use snapshot_writer::Written;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use workload_files::{PART, remove_workload, workload_of};

/// The default length of a journal, in bytes, above which a journal that is pinned by damage is reported. It is
/// reported again when it is twice as long.
pub const PINNED_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// The options to open a directory with.
#[derive(Debug, Clone)]
pub struct DataOptions {
    /// The length of new segments of the journal, in bytes.
    pub segment_bytes: u64,
    /// The bound of the records that wait to be written, in bytes.
    pub queue_bytes: usize,
    /// The length above which a journal that is pinned by damage is reported, in bytes.
    pub pinned_bytes: u64,
}

impl Default for DataOptions {
    fn default() -> Self {
        Self {
            segment_bytes: lifeboat_journal::segments::SEGMENT_BYTES,
            queue_bytes: commit::QUEUE_BYTES_MAX,
            pinned_bytes: PINNED_BYTES_MAX,
        }
    }
}

/// The first records of its journal that a service needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Needed {
    /// The first record for a replay from the oldest retained snapshot.
    pub(crate) replay: RecordNumber,
    /// The first record for answers to repeated ids.
    pub(crate) answers: RecordNumber,
}

/// The state of the journal while a directory is being closed.
#[derive(Debug)]
enum Journal {
    Open(Writer),
    /// It accepts no more records, and the catalog has no seal of it.
    Ended(Result<Seal, CommitError>),
    Sealed,
}

/// An open data directory.
#[derive(Debug)]
pub struct DataDirectory {
    storage: Arc<dyn Storage>,
    catalog: Catalog,
    committer: Committer,
    journal: Mutex<Journal>,
    /// The records that each service needs. A service without an entry needs all.
    needed: Mutex<BTreeMap<Name, Needed>>,
    /// How far the snapshots of each running service are written.
    written: Mutex<BTreeMap<Name, Arc<Written>>>,
    /// Held while a workload's file is written or removed.
    workload_files: Mutex<()>,
    /// The services that are missing from the catalog.
    orphans: Mutex<BTreeMap<Name, Orphan>>,
    /// The workloads of services that are not in the catalog yet, with the number of these services.
    awaited: Arc<Mutex<BTreeMap<WorkloadHash, usize>>>,
    options: DataOptions,
    is_recovered: AtomicBool,
    /// Held during a reclaim: the length of the journal when it was last reported as pinned. None once a stop has ended
    /// reclaims.
    reclaiming: Arc<tokio::sync::Mutex<Option<u64>>>,
    /// Whether a requested reclaim has not begun, because it waits for `reclaiming`.
    is_reclaim_waiting: AtomicBool,
    // This is the last field, because fields are dropped in order and the catalog still writes when it is closed.
    _lock: LockGuard,
}

impl DataDirectory {
    /// Returns the catalog.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Returns the storage with the directory's files.
    #[must_use]
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Returns the handle to the journal.
    #[must_use]
    pub fn committer(&self) -> &Committer {
        &self.committer
    }

    /// Notes what each service needs of the journal. Ends the journals of services that were not fully created, or were
    /// removed.
    fn clear_up(&self, contents: &Contents) -> Result<(), DataError> {
        // A service that is not started, for any reason, needs only what its snapshots need.
        for found in contents.services.iter().filter(|found| found.is_journal_sound) {
            let newest = || found.usable().take(snapshot_writer::SNAPSHOTS_RETAINED);
            let replay = newest().map(|snapshot| snapshot.record().next()).min();
            let answers = newest().map(FoundSnapshot::first_answer).min();
            if let Some((replay, answers)) = replay.zip(answers) {
                self.set_needed(&found.name, Needed { replay, answers });
            }
        }
        for service in &contents.ending {
            let change = commit::Change::End;
            drop(self.committer.submit(commit::Entry { service: service.clone(), change }, None)?);
        }
        if self.sweep(contents)? {
            // The next start finds that the journals that end now are gone. So it also removes these notes if they
            // cannot be removed now.
            let _ = self.catalog.forget_absent(&contents.gone);
        }
        Ok(())
    }

    /// Removes the files of snapshots and workloads that belong to no service, and partial files whose writing a crash
    /// cut off. No other thread writes such files yet. Returns whether all could be removed.
    fn sweep(&self, contents: &Contents) -> Result<bool, DataError> {
        let services = contents.services.iter().map(|found| &found.name);
        let services: BTreeSet<&Name> = services.chain(contents.orphans.iter().map(|orphan| &orphan.name)).collect();
        let workloads: BTreeSet<WorkloadHash> = contents.services.iter().map(|found| found.entry.workload).collect();
        let is_left = |file: &String| match (snapshot_writer::service_of(file), workload_of(file)) {
            (Some(service), _) => file.ends_with(PART) || !services.contains(&service),
            (None, Some(hash)) => file.ends_with(PART) || contents.are_workloads_known && !workloads.contains(&hash),
            (None, None) => false,
        };
        let files = self.storage.list().map_err(DataError::storage("list the data directory"))?;
        let (mut is_changed, mut is_all) = (false, true);
        for file in files.iter().filter(|file| is_left(file)) {
            // A file that stays only takes space: the next start tries again.
            let is_removed = self.storage.remove(file).is_ok();
            is_changed |= is_removed;
            is_all &= is_removed;
        }
        if is_changed {
            self.storage.sync_directory().map_err(DataError::storage("sync the data directory"))?;
        }
        Ok(is_all)
    }

    /// Stores a workload under its hash. Its file stays at least until the returned guard is dropped, even if a service
    /// that runs the workload is removed.
    ///
    /// # Errors
    /// [`DataError::Storage`].
    pub fn keep_workload(&self, hash: &WorkloadHash, bytes: &[u8]) -> Result<KeptWorkload, DataError> {
        let _files = self.workload_files();
        keep_workload(&*self.storage, hash, bytes)?;
        *self.awaited().entry(*hash).or_default() += 1;
        Ok(KeptWorkload { hash: *hash, awaited: Arc::clone(&self.awaited) })
    }

    /// Removes the snapshots of a free name. They may be left by a service that was not fully created or was removed,
    /// and would be taken for those of the next service of that name.
    ///
    /// # Errors
    /// [`DataError::Storage`].
    pub(crate) fn clear_snapshots(&self, service: &Name) -> Result<(), DataError> {
        clear_snapshots(&*self.storage, service)
    }

    /// Returns the catalog's entry of a service, for an order that may take `room`. First settles the outcome of an
    /// earlier change, if it is unknown whether that is on the disk.
    ///
    /// # Errors
    /// [`DataError::Catalog`].
    pub(crate) fn entry_for_order(&self, service: &Name, room: Room) -> Result<Option<ServiceEntry>, DataError> {
        self.catalog.mend(room)?;
        Ok(self.catalog.service(service)?)
    }

    /// Checks that a name is not that of a service that is missing from the catalog.
    ///
    /// # Errors
    /// [`DataError::Orphan`].
    pub(crate) fn check_orphan(&self, service: &Name) -> Result<(), DataError> {
        match self.orphans().get(service) {
            Some(orphan) => Err(DataError::Orphan { service: service.clone(), reason: orphan.reason() }),
            None => Ok(()),
        }
    }

    /// Removes a service from the catalog, with all grants on it. From then on no start restores it. Returns its entry
    /// in the catalog.
    ///
    /// # Errors
    /// [`DataError::Catalog`]: the service is still in the catalog. [`DataError::OutcomeUnknown`]: no request to it may
    /// be acknowledged any more.
    pub(crate) fn remove_entry(
        &self,
        service: &Name,
        users: &UsersGuard<'_>,
    ) -> Result<Option<ServiceEntry>, DataError> {
        let entry = self.entry_for_order(service, Room::Reserve)?;
        // This is after the service began, and before the next service of its name does.
        let journal_end = self.committer.end();
        self.catalog.remove_service(service, journal_end, users).map_err(DataError::of_order(service, "removed"))?;
        Ok(entry)
    }

    /// Removes the rest of a service that is not in the catalog any more: ends its part of the journal, and removes its
    /// files. Its task and its snapshot writer must have ended. Without an `entry` its workload's file stays until the
    /// next start.
    ///
    /// # Errors
    /// [`DataError`]: the next start removes the rest.
    pub(crate) fn remove_rest(&self, service: &Name, entry: Option<&ServiceEntry>) -> Result<(), DataError> {
        self.written().remove(service);
        let end = commit::Entry { service: service.clone(), change: commit::Change::End };
        let ended = match self.committer.commit_unless_stalled(end) {
            Ok(()) => Ok(true),
            // Do not wait for this: the removal may release the room that is missing.
            Err(CommitError::Stalled(_)) => Ok(false),
            Err(error) => Err(DataError::from(error)),
        };
        self.committer.unregister(service);
        self.needed().remove(service);
        self.orphans().remove(service);
        // The files are not needed any more, whatever the outcome for the journal.
        let cleared = clear_snapshots(&*self.storage, service);
        let workload = entry.map_or(Ok(()), |entry| {
            let _files = self.workload_files();
            // Orphans may run the workload, too.
            if self.awaited().contains_key(&entry.workload) || !self.orphans().is_empty() {
                return Ok(());
            }
            remove_workload(&*self.storage, &self.catalog, &entry.workload)
        });
        cleared.and(workload)?;
        if ended? {
            self.catalog.forget_absent([service])?;
        }
        Ok(())
    }

    pub(crate) fn set_written(&self, service: &Name, written: Arc<Written>) {
        self.written().insert(service.clone(), written);
    }

    /// Waits until the snapshots that a service has taken so far are on the disk.
    ///
    /// # Errors
    /// [`DataError::Storage`]: the cause, if the last snapshot is not on the disk.
    pub async fn snapshots_written(&self, service: &Name) -> Result<(), DataError> {
        let written = self.written().get(service).cloned();
        let Some(written) = written else { return Ok(()) };
        let failed = |reason: String| DataError::Storage {
            action: format!("write the snapshot of service '{service}'"),
            source: io::Error::other(reason),
        };
        written.all().await.map_err(failed)
    }

    /// Keeps every record where it is until the returned guard is dropped. Waits for a reclaim that has begun.
    pub(crate) async fn hold_still(&self) -> impl Drop + Send {
        self.reclaiming.lock().await
    }

    /// Waits for the current reclaim. No reclaim begins afterwards: one that was requested meanwhile no longer holds
    /// the directory, so that the directory is free once this handle is dropped.
    pub(crate) async fn end_reclaims(&self) {
        *self.reclaiming.lock().await = None;
    }

    /// Finds a service that does not run, as a start would. The journal must be held still until the service's location
    /// feed is registered. Otherwise records could be relocated meanwhile without notice.
    ///
    /// # Errors
    /// [`DataError`]; [`CommitError::Stalled`] while its last records wait for room. Damage is not an error: the result
    /// reports it.
    pub(crate) async fn find(self: &Arc<Self>, service: &Name) -> Result<Option<FoundService>, DataError> {
        self.find_without(service, BTreeSet::new()).await
    }

    /// Finds a service as [`find`](Self::find) does, as if these files of snapshots were not there.
    pub(crate) async fn find_without(
        self: &Arc<Self>,
        service: &Name,
        damaged: BTreeSet<String>,
    ) -> Result<Option<FoundService>, DataError> {
        // After this, the last records of the service are written.
        self.committer.settle().await?;
        let (directory, name) = (Arc::clone(self), service.clone());
        let reading = tokio::task::spawn_blocking(move || {
            let (storage, catalog) = (&*directory.storage, &directory.catalog);
            let mut gathering = contents::Gathering::of_one(storage, catalog, &name, &damaged)?;
            let recovery = lifeboat_journal::recovery::inspect(storage, catalog.directory(), None, &mut |found| {
                gathering.add(found);
            })?;
            let contents = gathering.finish(recovery)?;
            Ok(contents.services.into_iter().next())
        });
        lifeboat_vm::engine::joined(reading).await
    }

    /// Records which part of the journal `service` needs from now on.
    pub(crate) fn set_needed(&self, service: &Name, needed: Needed) {
        self.needed().insert(service.clone(), needed);
    }

    /// Reclaims the records that no service needs any more, and reports to `events` what prevents that. If the journal
    /// is held still or another reclaim is running, this happens later, in a task of its own.
    pub(crate) async fn reclaim(self: &Arc<Self>, events: &EventSink) {
        // Before recovery ends, the writer could notify no service of relocated records. A reclaim that has not begun
        // covers all changes until it begins.
        if !self.is_recovered.load(Ordering::Acquire) || self.is_reclaim_waiting.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Ok(mut reported_bytes) = self.reclaiming.try_lock() {
            if let Some(reported_bytes) = &mut *reported_bytes {
                self.reclaim_now(reported_bytes, events).await;
            }
            return;
        }
        self.spawn_reclaim(events);
    }

    /// Reclaims as [`reclaim`](Self::reclaim) does, but always in a task of its own.
    pub(crate) fn reclaim_beside(self: &Arc<Self>, events: &EventSink) {
        if self.is_recovered.load(Ordering::Acquire) && !self.is_reclaim_waiting.swap(true, Ordering::AcqRel) {
            self.spawn_reclaim(events);
        }
    }

    fn spawn_reclaim(self: &Arc<Self>, events: &EventSink) {
        let (directory, reclaiming) = (Arc::downgrade(self), Arc::clone(&self.reclaiming));
        let events = Arc::clone(events);
        tokio::spawn(async move {
            let mut reported_bytes = reclaiming.lock_owned().await;
            // The task holds the directory only while it holds the lock, and not after a stop has held it: a stop does
            // not wait for a task that has not begun.
            if let Some(reported_bytes) = &mut *reported_bytes
                && let Some(directory) = directory.upgrade()
            {
                directory.reclaim_now(reported_bytes, &events).await;
            }
        });
    }

    async fn reclaim_now(&self, reported_bytes: &mut u64, events: &EventSink) {
        self.is_reclaim_waiting.swap(false, Ordering::AcqRel);
        let needed =
            self.needed().iter().map(|(name, needed)| (name.clone(), needed.replay.min(needed.answers))).collect();
        let Ok(reclaimed) = self.committer.reclaim(needed).await else { return };
        if let Some((first, others)) = reclaimed.lacking_room.split_first()
            && let Some(stall) = self.committer.stall()
        {
            let others = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
            let reason = format!(
                "{}; until then it reclaims no room, because its oldest segment has records of service \
                 '{first}'{others}, and there is too little room to relocate them: removing those services helps as \
                 well",
                stall.reason
            );
            events(&Event::JournalStalled { reason });
        }
        let journal_bytes = reclaimed.segment_bytes_left;
        if reclaimed.pinned_by.is_empty() {
            *reported_bytes = 0;
            return;
        }
        if journal_bytes <= self.options.pinned_bytes.max(2 * *reported_bytes) {
            return;
        }
        *reported_bytes = journal_bytes;
        for service in reclaimed.pinned_by {
            events(&Event::JournalPinned { service, journal_bytes });
        }
    }

    /// Records that the journal knows every service that was found. From now on space is reclaimed.
    pub(crate) fn set_recovered(&self) {
        self.is_recovered.store(true, Ordering::Release);
    }

    /// Ends the journal of a service that was not fully created.
    pub(crate) fn end_journal(&self, service: &Name) {
        // If a failed journal does not accept this any more, the service is an orphan at the next start.
        let _ = self.committer.submit(commit::Entry { service: service.clone(), change: commit::Change::End }, None);
        self.committer.unregister(service);
    }

    /// Adds a service whose journal has begun.
    ///
    /// # Errors
    /// [`DataError::Catalog`]: the service was not added. [`DataError::OutcomeUnknown`].
    pub(crate) fn add_service(&self, service: &Name, entry: &ServiceEntry) -> Result<(), DataError> {
        self.catalog.put_service(service, entry).map_err(DataError::of_order(service, "created"))
    }

    /// Records that an operator stopped a service, or started it again.
    ///
    /// # Errors
    /// [`DataError::Catalog`]: nothing was changed. [`DataError::OutcomeUnknown`].
    pub(crate) fn set_stopped(&self, service: &Name, is_stopped: bool) -> Result<(), DataError> {
        let order = if is_stopped { "stopped" } else { "started" };
        self.catalog.set_stopped(service, is_stopped).map_err(DataError::of_order(service, order))
    }

    /// Ends the journal and seals it. It accepts no more records.
    ///
    /// # Errors
    /// The journal failed, now or earlier, or the catalog failed: the journal is not sealed. If it was the catalog,
    /// another call tries to seal it again.
    pub fn close(&self) -> Result<(), DataError> {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = match std::mem::replace(&mut *journal, Journal::Ended(Err(CommitError::Closed))) {
            Journal::Open(writer) => writer.stop(),
            Journal::Ended(ended) => ended,
            Journal::Sealed => {
                *journal = Journal::Sealed;
                return Ok(());
            }
        };
        let sealed = match &ended {
            Ok(seal) => self.catalog.set_seal(Some(seal)).map_err(DataError::from),
            Err(error) => Err(error.clone().into()),
        };
        *journal = if sealed.is_ok() { Journal::Sealed } else { Journal::Ended(ended) };
        sealed
    }

    fn needed(&self) -> MutexGuard<'_, BTreeMap<Name, Needed>> {
        self.needed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn written(&self) -> MutexGuard<'_, BTreeMap<Name, Arc<Written>>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn workload_files(&self) -> MutexGuard<'_, ()> {
        self.workload_files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn orphans(&self) -> MutexGuard<'_, BTreeMap<Name, Orphan>> {
        self.orphans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn awaited(&self) -> MutexGuard<'_, BTreeMap<WorkloadHash, usize>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsRef<Catalog> for DataDirectory {
    fn as_ref(&self) -> &Catalog {
        &self.catalog
    }
}

fn clear_snapshots(storage: &dyn Storage, service: &Name) -> Result<(), DataError> {
    let names = storage.list().map_err(DataError::storage("list the data directory"))?;
    let left = names.into_iter().filter(|name| snapshot_writer::is_of(name, service));
    let mut is_changed = false;
    for name in left {
        storage.remove(&name).map_err(DataError::storage(format!("remove '{name}'")))?;
        is_changed = true;
    }
    if is_changed {
        storage.sync_directory().map_err(DataError::storage("sync the data directory"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{CATALOG_FILE, CatalogError};
    use lifeboat_journal::commit::{Change, Entry};
    use lifeboat_journal::frame::DirectoryId;
    use lifeboat_journal::storage::{DiskStorage, Operation, SimulatedStorage};

    /// Opens a directory whose segments have room for two long records.
    fn open(storage: &SimulatedStorage) -> Arc<DataDirectory> {
        let locked = Locked::open(Arc::new(storage.clone()), Some(DirectoryId([1; 16]))).expect("taken");
        let options = DataOptions { segment_bytes: 256 * 1024, ..DataOptions::default() };
        let (directory, _) = locked.open_journal(&options).expect("opens");
        directory.set_recovered();
        directory
    }

    fn long_record() -> Vec<u8> {
        vec![0; 100_000]
    }

    async fn commit(directory: &DataDirectory, service: &str, change: Change) {
        let entry = Entry { service: Name::new(service).expect("a name"), change };
        let ticket = directory.committer().submit(entry, None).expect("open");
        ticket.committed().await.expect("committed");
    }

    #[tokio::test]
    async fn a_reclaim_during_a_hold_of_all_records_is_done_afterwards() {
        let storage = SimulatedStorage::new(1);
        let directory = open(&storage);
        // Four segments of a service that ends.
        let mut changes = vec![Change::Begin { number: RecordNumber(1), record: long_record() }];
        changes.extend((2..=8).map(|number| Change::Continue { number: RecordNumber(number), record: long_record() }));
        changes.push(Change::End);
        for change in changes {
            commit(&directory, "ant", change).await;
        }
        let segments = || storage.list().expect("lists").iter().filter(|file| file.ends_with(".segment")).count();
        let before = segments();
        assert!(before > 2, "{before}");
        let events: EventSink = Arc::new(|_| {});
        let still = directory.hold_still().await;
        for _ in 0..3 {
            directory.reclaim(&events).await;
        }
        assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 1, "of many, one waits");
        tokio::task::yield_now().await;
        assert_eq!(segments(), before);
        drop(still);
        // Another caller that holds records still waits until it ends.
        let _still = directory.hold_still().await;
        assert_eq!(segments(), 1);
    }

    #[tokio::test]
    async fn a_reclaim_that_waits_does_not_have_the_directory_after_a_stop() {
        for is_beside in [false, true] {
            let storage = SimulatedStorage::new(1);
            let directory = open(&storage);
            let still = directory.hold_still().await;
            let events: EventSink = Arc::new(|_| {});
            match is_beside {
                true => directory.reclaim_beside(&events),
                false => directory.reclaim(&events).await,
            }
            drop(still);
            // Its task has not run yet.
            directory.end_reclaims().await;
            directory.close().expect("sealed");
            drop(directory);
            drop(open(&storage));
            tokio::task::yield_now().await;
            assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
        }
    }

    #[test]
    fn a_seal_that_the_catalog_did_not_take_is_put_there_by_the_next_close() {
        let storage = SimulatedStorage::new(1);
        let directory = open(&storage);
        let fault = storage.fail_in(CATALOG_FILE, Operation::Write, 1);
        assert!(directory.close().is_err() && fault.has_fired());
        assert_eq!(directory.catalog.seal().expect("readable"), None);
        for _ in 0..2 {
            directory.close().expect("sealed");
            assert!(directory.catalog.seal().expect("readable").is_some());
        }
    }

    #[test]
    fn a_close_in_a_pause_of_the_catalog_seals_the_journal() {
        let storage = SimulatedStorage::new(1);
        let directory = open(&storage);
        for _ in 0..3 {
            let fault = storage.fail_in(CATALOG_FILE, Operation::Write, 1);
            let service = Name::new("ant").expect("a name");
            assert!(directory.catalog.set_stopped(&service, true).is_err() && fault.has_fired());
        }
        directory.close().expect("sealed");
        assert!(directory.catalog.seal().expect("readable").is_some());
    }

    #[test]
    fn a_catalog_that_was_replaced_takes_no_changes_without_a_host() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = Arc::new(DiskStorage::open(folder.path()).expect("it is there"));
        let locked = Locked::open(storage, Some(DirectoryId([1; 16]))).expect("free");
        locked.catalog().set_seal(None).expect("it is the one");
        let (file, copy) = (folder.path().join(CATALOG_FILE), folder.path().join("copy"));
        std::fs::copy(&file, &copy).expect("copied");
        std::fs::rename(&copy, &file).expect("put back");
        let refused = locked.catalog().set_seal(None);
        assert!(matches!(refused, Err(CatalogError::Storage { .. })), "{refused:?}");
    }

    #[tokio::test]
    async fn a_stalled_journal_names_those_whose_records_it_has_no_room_to_relocate() {
        let storage = SimulatedStorage::new(1);
        let directory = open(&storage);
        for service in ["ant", "bee"] {
            commit(&directory, service, Change::Begin { number: RecordNumber(1), record: long_record() }).await;
        }
        // By then the second segment's file is made.
        directory.committer().settle().await.expect("there is room");
        let mut stalls = directory.committer().stalls();
        storage.break_down(Operation::Create, io::ErrorKind::StorageFull);
        commit(&directory, "ant", Change::Continue { number: RecordNumber(2), record: long_record() }).await;
        commit(&directory, "ant", Change::Continue { number: RecordNumber(3), record: vec![0; 20_000] }).await;
        stalls.wait_for(|stall| stall.as_ref().is_some_and(|stall| stall.denies)).await.expect("it goes on");
        let printed = Arc::new(Mutex::new(Vec::new()));
        let events: EventSink = {
            let printed = Arc::clone(&printed);
            Arc::new(move |event| printed.lock().expect("no panic").push(event.to_string()))
        };
        directory.reclaim(&events).await;
        let printed = printed.lock().expect("no panic");
        let words = "its oldest segment has records of service 'ant' and 1 more";
        assert!(
            printed.len() == 1 && printed[0].starts_with("Journal stalled: ") && printed[0].contains(words),
            "{printed:?}"
        );
    }
}
