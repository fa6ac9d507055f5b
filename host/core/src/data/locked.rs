//! A data directory that belongs to this process, before its journal is opened.

use super::contents::{self, Contents};
use super::orphans::{Orphan, Orphans, Search};
use super::workload_files::{remove_workload, workload_of};
use super::{DataDirectory, DataError, DataOptions, Journal, clear_snapshots, snapshot_writer};
use crate::catalog::{CATALOG_FILE, Catalog, CatalogError};
use crate::network::NetworkSettings;
use lifeboat_api::clock::SystemClock;
use lifeboat_api::name::Name;
use lifeboat_journal::commit;
use lifeboat_journal::frame::DirectoryId;
use lifeboat_journal::recovery::{Found, OpenError, Recovery};
use lifeboat_journal::segments::{Log, Options, Origin};
use lifeboat_journal::storage::{LockGuard, Storage};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

/// A directory that no other process has, with its catalog.
#[derive(Debug)]
pub struct Locked {
    storage: Arc<dyn Storage>,
    catalog: Catalog,
    // This is the last field, because fields are dropped in order and the catalog still writes when it is closed.
    lock: LockGuard,
}

impl Locked {
    /// Opens the directory in `storage`. An empty one becomes the data directory `new`, if that is given.
    ///
    /// # Errors
    /// [`DataError`]. Existing files are not changed.
    pub fn open(storage: Arc<dyn Storage>, new: Option<DirectoryId>) -> Result<Self, DataError> {
        let lock = lock(&*storage, new.is_some())?;
        let catalog = if is_ours(&*storage)? {
            Catalog::open(&*storage)?
        } else {
            let catalog = Catalog::create(&*storage, new.ok_or(DataError::Empty)?)?;
            // Created files must be locked, too.
            storage.check_lock().map_err(DataError::storage("lock the data directory"))?;
            catalog
        };
        // Commands without a host also check the catalog's file, however long they wait for a user's answer.
        catalog.reopen_from(Arc::clone(&storage), Arc::new(SystemClock));
        Ok(Self { storage, lock, catalog })
    }

    /// Opens the directory in `storage` to read it, and changes nothing in it. The lock file is created if it is
    /// missing.
    ///
    /// # Errors
    /// [`DataError`].
    pub fn open_read_only(storage: Arc<dyn Storage>) -> Result<Self, DataError> {
        let lock = lock(&*storage, false)?;
        let catalog = Catalog::open_copy(&*storage)?;
        Ok(Self { storage, lock, catalog })
    }

    /// Returns the catalog of services and their settings.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Returns the storage with the directory's files.
    #[must_use]
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Gives services their network, and returns those that had another one. Names without a service are left out.
    ///
    /// # Errors
    /// [`DataError::Catalog`]. All services have their former network, unless the outcome is unknown.
    pub fn set_networks(&self, networks: &BTreeMap<Name, NetworkSettings>) -> Result<Vec<Name>, DataError> {
        Ok(self.catalog.set_networks(networks)?)
    }

    /// Removes a service permanently, with its snapshots, and its workload if no other service runs it. When a host
    /// next opens the directory, the service's part of the journal ends and its space is reclaimed.
    ///
    /// # Errors
    /// [`DataError`]. The service counts as removed once it is not in the catalog any more. Another call removes the
    /// rest.
    pub fn remove_service(&self, service: &Name) -> Result<(), DataError> {
        let entry = self.catalog.service(service)?;
        let (recovery, orphans) = self.look_for_orphans()?;
        let removed = self.catalog.remove_service(service, recovery.end, &self.catalog.hold_users());
        removed.map_err(|error| match error {
            source @ CatalogError::OutcomeUnknown { .. } => {
                DataError::RemovalUnknown { service: service.clone(), source }
            }
            error => error.into(),
        })?;
        clear_snapshots(&*self.storage, service)?;
        // Orphans may run the workload, too.
        let entry = entry.filter(|_| orphans.are_workloads_known);
        entry.map_or(Ok(()), |entry| remove_workload(&*self.storage, &self.catalog, &entry.workload))
    }

    /// Returns whether anything is left of a service: an entry, or files that a removal did not reach.
    ///
    /// # Errors
    /// [`DataError`].
    pub fn has_any_of(&self, service: &Name) -> Result<bool, DataError> {
        let names = self.storage.list().map_err(DataError::storage("list the data directory"))?;
        Ok(self.catalog.service(service)?.is_some() || names.iter().any(|name| snapshot_writer::is_of(name, service)))
    }

    /// Returns the service of this name, if it is missing from the catalog.
    ///
    /// # Errors
    /// [`DataError`].
    pub fn orphan(&self, service: &Name) -> Result<Option<Orphan>, DataError> {
        let (_, orphans) = self.look_for_orphans()?;
        Ok(orphans.kept.into_iter().find(|orphan| orphan.name == *service))
    }

    fn look_for_orphans(&self) -> Result<(Recovery, Orphans), DataError> {
        let files = self.storage.list().map_err(DataError::storage("list the data directory"))?;
        let search = Search::new(&self.catalog, self.catalog.services()?.keys(), &files)?;
        let (storage, seal) = (&*self.storage, self.catalog.seal()?);
        let recovery =
            lifeboat_journal::recovery::inspect(storage, self.catalog.directory(), seal.as_ref(), &mut |_| {})?;
        let orphans = search.finish(&recovery);
        Ok((recovery, orphans))
    }

    /// Checks that the journal can be opened, without changing a byte.
    ///
    /// # Errors
    /// [`DataError`]. Damage with which a host can continue is not an error.
    pub fn check(&self) -> Result<(), DataError> {
        self.inspect(&mut |_| {}).map(drop)
    }

    fn inspect(&self, found: &mut dyn FnMut(Found<'_>)) -> Result<Recovery, DataError> {
        let seal = self.catalog.seal()?;
        let is_new = !self.catalog.is_journal_in_use()?;
        let recovery =
            lifeboat_journal::recovery::inspect(&*self.storage, self.catalog.directory(), seal.as_ref(), found)?;
        if recovery.is_new && !is_new && seal.is_none() {
            return Err(OpenError::Missing.into());
        }
        Ok(recovery)
    }

    /// Reads the directory without changing a byte. For the service `whole`, the result has every record in the
    /// journal. For the others, it has only the records that their snapshots need.
    ///
    /// # Errors
    /// [`DataError`]. Damage is not an error: the [`Contents`] report it.
    pub fn read(&self, whole: Option<&Name>) -> Result<Contents, DataError> {
        let mut gathering = contents::Gathering::new(&*self.storage, &self.catalog, whole, true)?;
        let recovery = self.inspect(&mut |found| gathering.add(found))?;
        gathering.finish(recovery)
    }

    /// Opens the journal, so that services can run.
    ///
    /// # Errors
    /// [`DataError`]. Damage is not an error: the [`Contents`] report it.
    pub fn open_journal(self, options: &DataOptions) -> Result<(Arc<DataDirectory>, Contents), DataError> {
        let Self { storage, lock, catalog } = self;
        let seal = catalog.seal()?;
        let origin = if catalog.is_journal_in_use()? { Origin::Existing(seal) } else { Origin::Create };
        let mut gathering = contents::Gathering::new(&*storage, &catalog, None, false)?;
        let journal = Options { segment_bytes: options.segment_bytes, ..Options::new(catalog.directory()) };
        let (log, recovery) = Log::open(Arc::clone(&storage), journal, origin, &mut |found| gathering.add(found))?;
        let contents = gathering.finish(recovery)?;
        // From the first frame on, the seal would be wrong.
        if seal.is_some() {
            catalog.set_seal(None)?;
        }
        let (writer, committer) =
            commit::start(log, options.queue_bytes).map_err(DataError::storage("start a thread for the journal"))?;
        let directory = Arc::new(DataDirectory {
            storage,
            catalog,
            committer,
            journal: Mutex::new(Journal::Open(writer)),
            needed: Mutex::default(),
            written: Mutex::default(),
            workload_files: Mutex::default(),
            orphans: Mutex::new(contents.orphans.iter().map(|it| (it.name.clone(), it.clone())).collect()),
            awaited: Arc::default(),
            options: options.clone(),
            is_recovered: AtomicBool::new(false),
            reclaiming: Arc::new(tokio::sync::Mutex::new(Some(0))),
            is_reclaim_waiting: AtomicBool::new(false),
            _lock: lock,
        });
        directory.clear_up(&contents)?;
        Ok((directory, contents))
    }
}

impl AsRef<Catalog> for Locked {
    fn as_ref(&self) -> &Catalog {
        &self.catalog
    }
}

/// Takes the lock of a data directory. The directory may be a new one if `may_be_new` is set.
fn lock(storage: &dyn Storage, may_be_new: bool) -> Result<LockGuard, DataError> {
    // Check this before the lock, which is a file: no file is created in a directory that is not ours.
    if !is_ours(storage)? && !may_be_new {
        return Err(DataError::Empty);
    }
    storage.lock().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => DataError::InUse,
        io::ErrorKind::IsADirectory => DataError::NotAFile { file: "lock".into() },
        _ => DataError::storage("lock the data directory")(error),
    })
}

/// Returns whether the directory is a data directory, or false if it is empty.
fn is_ours(storage: &dyn Storage) -> Result<bool, DataError> {
    let files = storage.list().map_err(DataError::storage("look into the data directory"))?;
    if files.iter().any(|file| file == CATALOG_FILE) {
        return Ok(true);
    }
    if let Some(file) = files.iter().find(|file| is_part(file)) {
        return Err(DataError::CatalogMissing { file: file.clone() });
    }
    // The catalog's temporary file may be left by a start that was cut off early.
    match files.into_iter().find(|file| !file.starts_with(CATALOG_FILE)) {
        Some(file) => Err(DataError::NotOurs { file }),
        None => Ok(false),
    }
}

/// Returns whether only a data directory that has, or had, a service contains a file of this name.
fn is_part(file: &str) -> bool {
    let is_segment = |number: &str| number.len() >= 10 && number.bytes().all(|byte| byte.is_ascii_digit());
    file.strip_suffix(".segment").is_some_and(is_segment)
        || workload_of(file).is_some()
        || snapshot_writer::service_of(file).is_some()
}
