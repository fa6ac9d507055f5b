//! The catalog of a data directory: the state outside of its journal and its snapshots. It lists the services, the
//! users with their grants and tokens, and the seal.
//!
//! The catalog is one small redb database, `catalog.redb`, beside the journal's files. A change is a transaction that
//! is on the disk when its method returns. A failed change is not on the disk and never will be. The exception is
//! [`CatalogError::OutcomeUnknown`]: the change failed between the write that makes it count and the sync after that,
//! and only the file shows the outcome.
//!
//! A write usually fails for lack of room. After a failed write, the next change reopens the file, as a start would,
//! and the contents that it reads then are final. While no change succeeds there are pauses between such reopenings.
//! During a pause, additions and log-ins are refused, but a change that may take [`Room::Reserve`] never waits. After a
//! failed sync the catalog accepts no changes until the directory is opened again, because the state of the disk is
//! unknown.
//!
//! [`Storage::check_lock`] checks before and after each change, and before the file is reopened, that the file is still
//! at its path. Whatever is written to a removed or replaced file is gone with the next start. If the check after a
//! change fails, the change has an unknown outcome. The catalog then accepts no changes until the file that was opened
//! is back at its path.
//!
//! redb finds damage by the checksums of its pages and reports it without a panic, if it is configured to check all of
//! them at each opening. The catalog adds three things:
//!
//! - *Each change is committed twice*, the second time as an empty transaction. redb keeps the last two commits. A bit
//!   of its header that no checksum covers selects the one that counts. After a crash, one flipped bit would select the
//!   older commit, so both must have the same contents.
//! - *Commits have two phases*. After a commit with a single phase, redb takes damage for an interrupted commit and
//!   falls back instead of reporting it.
//! - *Every value has a hash* of its own, over its table and its key too. redb does not compare a page with its
//!   checksum again when it reads the page later.
//!
//! The catalog holds the services' secrets and hashes of passwords. Unlike snapshots, it must not leave the machine.
//! `docs/format.md` gives the tables.
//!
//! Concurrency: several threads may call any function, and all functions block on the disk. Changes wait for one
//! another. The caller holds the directory's lock, since opening writes.

mod accounts;
mod backend;
mod entry;
mod reopening;
#[cfg(test)]
mod tests;

pub use accounts::{AccountsChange, TOKEN_VERSION, TokenEntry, USER_VERSION, UserEntry};
pub use backend::Room;
pub(crate) use entry::EntryError;
pub use entry::{ENTRY_BYTES_MAX, ENTRY_VERSION, SETTINGS_VERSION, ServiceEntry, ServiceSettings};
pub use reopening::{REOPEN_RETRY_FIRST, REOPEN_RETRY_MAX};

use crate::network::NetworkSettings;
use backend::{Backend, CATALOG_BYTES_MAX, Failed, Progress, Reached, is_no_room};
use lifeboat_api::clock::Clock;
use lifeboat_api::name::Name;
use lifeboat_api::size::{Bytes as ByteCount, BytesBeside};
use lifeboat_journal::frame::{DirectoryId, POSITION_MAX, Position};
use lifeboat_journal::recovery::Seal;
use lifeboat_journal::storage::{Storage, StorageFile};
use redb::backends::InMemoryBackend;
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, TableHandle, WriteTransaction};
use reopening::{Pauses, Reopening};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;
use thiserror::Error;

/// The name of the catalog's file.
pub const CATALOG_FILE: &str = lifeboat_journal::storage::LASTING_FILE;

/// The version of the format that this host writes, and the newest that it reads.
pub(crate) const CATALOG_VERSION: u32 = 1;

/// The name under which the file is created. A file of this name is not a catalog yet.
const ASIDE_FILE: &str = "catalog.redb.tmp";

/// The memory for redb's pages, in bytes, taken only as the file needs it: the longest file, and once more for changed
/// pages. [`Catalog::mend`] takes a third such amount for a moment: the database whose write failed, beside the new
/// one.
///
/// [`Catalog::open_backend`] scans every table, and so reads all pages that have rows. After a failed write redb reads
/// no more pages, so the cached ones still provide the catalog's contents.
const CACHE_BYTES: usize = 2 * CATALOG_BYTES_MAX as usize;

/// The memory for redb's pages of a copy, in bytes. The copy itself is in memory already.
const COPY_CACHE_BYTES: usize = 1024 * 1024;

/// The length of the truncated hash before each value, in bytes.
const HASH_BYTES: usize = 8;

type Table = TableDefinition<'static, &'static str, &'static [u8]>;

const META: Table = TableDefinition::new("meta");
const SERVICES: Table = TableDefinition::new("services");
// Created with the first user and the first token.
const USERS: Table = TableDefinition::new("users");
const TOKENS: Table = TableDefinition::new("tokens");
// Created with the first token whose issue a start found to be in its future.
const BOUNDS: Table = TableDefinition::new("token_bounds");
// Created with the first user since incarnations are counted. A user without a row has the number 0.
const INCARNATIONS: Table = TableDefinition::new("incarnations");
// Created with the first service that an operator stopped.
const STOPPED: Table = TableDefinition::new("stopped");
// Created with the first service that was put or removed since absences are noted.
const ABSENT: Table = TableDefinition::new("absent");

// The keys of `meta`.
const FORMAT: &str = "format";
const DIRECTORY: &str = "directory";
const JOURNAL_IN_USE: &str = "journal_in_use";
const SEAL: &str = "seal";
const LAST_INCARNATION: &str = "last_incarnation";

/// The catalog of a data directory.
#[derive(Debug)]
pub struct Catalog {
    /// The open database, replaced when the file is reopened. A reader keeps the one that it began with: redb closes a
    /// database that is dropped under its readers.
    open: RwLock<Open>,
    directory: DirectoryId,
    /// The means to reopen the file, if that is allowed.
    reopening: OnceLock<Reopening>,
    /// Held by the thread that reopens the file. Meanwhile other threads read from the old database.
    pauses: Mutex<Pauses>,
    /// Whether the database is a copy in memory.
    is_copy: bool,
    /// See [`Catalog::hold_users`].
    users: Mutex<()>,
}

/// The catalog's note on a name without a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Absent {
    /// The end of the journal at that time. Records of a service of this name that began before do not count.
    pub journal_end: Position,
    /// Whether a service of this name was being created. Otherwise one was removed.
    pub is_being_created: bool,
}

impl Absent {
    fn to_bytes(self) -> [u8; 9] {
        let mut bytes = [u8::from(self.is_being_created); 9];
        bytes[1..].copy_from_slice(&self.journal_end.0.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (kind, end) = bytes.split_first()?;
        let is_being_created = [false, true].into_iter().find(|is| u8::from(*is) == *kind)?;
        Some(Self { journal_end: Position(u64::from_le_bytes(end.try_into().ok()?)), is_being_created })
    }
}

/// A guard that prevents other threads from changing users.
#[derive(Debug)]
#[must_use]
pub struct UsersGuard<'a> {
    _held: MutexGuard<'a, ()>,
}

/// A table that is being read.
struct Reading {
    // This field must be dropped first.
    table: redb::ReadOnlyTable<&'static str, &'static [u8]>,
    _database: Arc<Database>,
}

impl Deref for Reading {
    type Target = redb::ReadOnlyTable<&'static str, &'static [u8]>;

    fn deref(&self) -> &Self::Target {
        &self.table
    }
}

/// The database, and the outcome of the writes to its file.
#[derive(Debug, Clone)]
struct Open {
    database: Arc<Database>,
    progress: Arc<Progress>,
}

/// A failure to open, read or change the catalog.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// There is already a catalog.
    #[error("'{CATALOG_FILE}' exists already")]
    Exists,
    /// The file is not a catalog.
    #[error(
        "'{CATALOG_FILE}' is not a catalog: {reason}; restore it from the newest copy of the directory; the journal is \
         unchanged"
    )]
    NotACatalog {
        /// What shows that the file is not a catalog.
        reason: String,
    },
    /// A newer host wrote the item.
    #[error("'{CATALOG_FILE}' has {what} of version {found}, this host reads up to {newest}; use a newer host")]
    FutureVersion {
        /// The item.
        what: String,
        /// The version of the item.
        found: u32,
        /// The newest version that this host reads.
        newest: u32,
    },
    /// A newer host wrote the item, with a part that this host must not ignore.
    #[error("'{CATALOG_FILE}' has {what} with a part of kind {kind}, which this host does not know; use a newer host")]
    UnknownPart {
        /// The item.
        what: String,
        /// The kind of the part.
        kind: u16,
    },
    /// The contents are not those that were written.
    #[error(
        "'{CATALOG_FILE}' is damaged: {reason}; restore it from the newest copy of the directory; the journal is \
         unchanged"
    )]
    Damaged {
        /// The damaged item, and the kind of damage.
        reason: String,
    },
    /// An entry is too long. Nothing was changed.
    #[error(
        "the entry of service '{service}' takes {}, the limit is {}; name fewer sizes or accept fewer divergences",
        BytesBeside { bytes: *bytes as u64, bound: ENTRY_BYTES_MAX as u64 }, ByteCount(ENTRY_BYTES_MAX as u64)
    )]
    EntryTooLong {
        /// The service.
        service: Name,
        /// The length of the entry, in bytes.
        bytes: usize,
    },
    /// The catalog was opened read-only. Nothing was changed.
    #[error("'{CATALOG_FILE}' was opened for reading only")]
    ReadOnly,
    /// An earlier change failed.
    #[error("'{CATALOG_FILE}' accepts no changes, because one failed; check the disk, and restart the host")]
    Poisoned,
    /// Writes fail, and the file has just been reopened because of that. Nothing was changed.
    #[error(
        "'{CATALOG_FILE}' accepts no changes for {} ms, because writes to it fail; check the disk, and try again then",
        retry_after.as_millis().max(1)
    )]
    Pausing {
        /// The time until the file may be reopened again.
        retry_after: Duration,
    },
    /// The storage failed in the last step of a change.
    #[error(
        "a change of '{CATALOG_FILE}' may or may not be on the disk; check the disk and repeat the change, or restart \
         the host if it is refused"
    )]
    OutcomeUnknown {
        /// The failure of the storage.
        source: io::Error,
    },
    /// The addition would leave no room for removals on the disk. Nothing was changed.
    #[error(
        "'{CATALOG_FILE}' accepts nothing new while the disk lacks room for it and for {} that removals may need; make \
         room on the disk, or remove services or users, and it continues by itself",
        ByteCount(*reserve)
    )]
    NoRoom {
        /// The room that is reserved for removals, in bytes.
        reserve: u64,
        /// The error of the disk.
        source: io::Error,
    },
    /// The addition would leave removals no part of the longest file. Nothing was changed.
    #[error(
        "'{CATALOG_FILE}' is full and accepts nothing new; remove services, users or tokens, and it continues by \
         itself, at the latest when half of its {} is free",
        ByteCount(*bytes)
    )]
    Full {
        /// The length of the file, in bytes.
        bytes: u64,
        /// An error that reports the length that the file would have.
        source: io::Error,
    },
    /// The storage failed. Nothing was changed.
    #[error("cannot {action} '{CATALOG_FILE}'")]
    Storage {
        /// The action that failed.
        action: &'static str,
        /// The cause of the failure.
        source: io::Error,
    },
}

impl CatalogError {
    /// Returns the time until the caller should retry, if that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Pausing { retry_after } => Some(*retry_after),
            _ => None,
        }
    }

    /// Returns a function for `map_err`: the storage failed to do `action`.
    fn storage(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Storage { action, source }
    }

    /// Returns a function for `map_err`: redb failed to do `action`.
    fn redb<E: Into<redb::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |error| match error.into() {
            // redb reports with this error that the file does not begin as it should.
            redb::Error::Io(source) if source.kind() == io::ErrorKind::InvalidData => {
                Self::NotACatalog { reason: "it does not begin as a catalog does".into() }
            }
            redb::Error::Io(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
                Self::Damaged { reason: "it is cut off".into() }
            }
            redb::Error::Io(source) => Self::Storage { action, source },
            redb::Error::PreviousIo => Self::Poisoned,
            redb::Error::TableDoesNotExist(table) => {
                Self::NotACatalog { reason: format!("it has no table '{}'", table.escape_debug()) }
            }
            redb::Error::TableTypeMismatch { table, .. } => {
                Self::NotACatalog { reason: format!("its table '{}' has another type", table.escape_debug()) }
            }
            redb::Error::Corrupted(_) => Self::Damaged { reason: "its pages differ from what was written".into() },
            error => Self::Damaged { reason: error.to_string() },
        }
    }
}

impl Catalog {
    /// Creates the empty catalog of `directory`. It is written under another name and renamed: after a crash there is a
    /// whole catalog or none.
    ///
    /// # Errors
    /// [`CatalogError::Exists`], [`CatalogError::Storage`]. The unfinished file is left to the next attempt.
    pub fn create(storage: &dyn Storage, directory: DirectoryId) -> Result<Self, CatalogError> {
        if Self::exists(storage).map_err(CatalogError::storage("look for"))? {
            return Err(CatalogError::Exists);
        }
        match storage.remove(ASIDE_FILE) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(CatalogError::storage("remove an unfinished copy of")(error));
            }
            _ => {}
        }
        let file = storage.create(ASIDE_FILE).map_err(CatalogError::storage("create"))?;
        let progress = Arc::new(Progress::of(file, CATALOG_BYTES_MAX));
        let database = redb::Builder::new()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(Backend::new(Arc::clone(&progress)))
            .map_err(CatalogError::redb("create"))?;
        let aside = Self::of(database, progress, false);
        aside.change("create", Room::Reserve, |transaction| {
            transaction.open_table(SERVICES)?;
            put_meta(transaction, FORMAT, &CATALOG_VERSION.to_le_bytes())?;
            put_meta(transaction, DIRECTORY, &directory.0)?;
            put_meta(transaction, JOURNAL_IN_USE, &[0])
        })?;
        let Open { database, .. } = aside.open.into_inner().unwrap_or_else(PoisonError::into_inner);
        let database = Arc::into_inner(database).expect("nobody reads it");
        database.close().map_err(CatalogError::redb("create"))?;
        storage.rename(ASIDE_FILE, CATALOG_FILE).map_err(CatalogError::storage("name"))?;
        storage.sync_directory().map_err(CatalogError::storage("sync the directory of"))?;
        Self::open(storage)
    }

    /// Returns whether there is a catalog, readable or not.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn exists(storage: &dyn Storage) -> io::Result<bool> {
        Ok(storage.list()?.iter().any(|name| name == CATALOG_FILE))
    }

    /// Opens the catalog and checks all of it. A change that a crash interrupted is rolled back, in the file too.
    ///
    /// # Errors
    /// [`CatalogError`]. It is [`CatalogError::Storage`] too if there is no catalog.
    pub fn open(storage: &dyn Storage) -> Result<Self, CatalogError> {
        Self::open_of_at_most(storage, CATALOG_BYTES_MAX)
    }

    /// Opens the catalog, whose file may grow only to `bytes_max`.
    fn open_of_at_most(storage: &dyn Storage, bytes_max: u64) -> Result<Self, CatalogError> {
        let (file, _) = open_file(storage)?;
        let progress = Arc::new(Progress::of(file, bytes_max));
        Self::open_backend(Backend::new(Arc::clone(&progress)), progress, false)
    }

    /// Allows the catalog to reopen its file after a failed write. `storage` contains the file. Pauses between
    /// reopenings are measured by the monotonic time of `clock`.
    pub(crate) fn reopen_from(&self, storage: Arc<dyn Storage>, clock: Arc<dyn Clock>) {
        // If they were set before, they are the same.
        let _ = self.reopening.set(Reopening { storage, clock });
    }

    /// Reopens the file if a write to it failed, as the next change does as well. After that, the outcome of the failed
    /// change can be read. During a pause between two reopenings, this is done only for a change that may take
    /// [`Room::Reserve`]: other changes must not delay those that make room.
    ///
    /// # Errors
    /// [`CatalogError::Pausing`] for [`Room::Ordinary`], [`CatalogError::Poisoned`], or those of [`Catalog::open`].
    /// [`CatalogError::Storage`] too if another file or directory is at the path of the one that was opened.
    /// [`CatalogError::NotACatalog`] if the catalog belongs to another directory.
    pub(crate) fn mend(&self, room: Room) -> Result<(), CatalogError> {
        self.reopen(|pauses, now| match pauses.left(now) {
            Some(retry_after) if room == Room::Ordinary => Err(CatalogError::Pausing { retry_after }),
            _ => Ok(()),
        })
    }

    /// Reopens the file as [`mend`](Self::mend) does, if `may` permits it at this time.
    fn reopen(&self, may: impl FnOnce(&Pauses, Duration) -> Result<(), CatalogError>) -> Result<(), CatalogError> {
        if self.current().progress.failed().is_none() {
            return Ok(());
        }
        let mut pauses = self.pauses();
        // Check this only now: another caller may have been first, and its attempt may have failed permanently.
        let Reopening { storage, clock } = match (self.current().progress.failed(), self.reopening.get()) {
            (None, _) => return Ok(()),
            (Some(Failed::Write), Some(reopening)) => reopening,
            _ => return Err(CatalogError::Poisoned),
        };
        may(&pauses, clock.monotonic())?;
        // Without this check, another file could be opened in the place of the one that failed.
        let progress = storage
            .check_lock()
            .map_err(CatalogError::storage("check"))
            .and_then(|()| open_file(&**storage))
            .map(|(file, _)| Arc::new(self.current().progress.anew(file)))
            .inspect_err(|_| pauses.opened(clock.monotonic()))?;
        let anew = Self::open_backend(Backend::new(Arc::clone(&progress)), Arc::clone(&progress), false);
        pauses.opened(clock.monotonic());
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let anew = match anew {
            // Final, like any failed sync: the contents that the next attempt reads may be only in memory.
            Err(error) if progress.failed() == Some(Failed::Sync) => {
                open.progress = progress;
                return Err(error);
            }
            anew => anew?,
        };
        if anew.directory != self.directory {
            // This also prevents writes when it is dropped.
            progress.fail(Failed::Otherwise);
            return Err(CatalogError::NotACatalog { reason: "it belongs to another directory".into() });
        }
        // The failed database writes nothing any more, not even when it is dropped.
        *open = anew.open.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(())
    }

    fn pauses(&self) -> MutexGuard<'_, Pauses> {
        self.pauses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Open {
        self.open.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn of(database: Database, progress: Arc<Progress>, is_copy: bool) -> Self {
        let open = RwLock::new(Open { database: Arc::new(database), progress });
        Self {
            open,
            directory: DirectoryId([0; 16]),
            reopening: OnceLock::new(),
            pauses: Mutex::default(),
            is_copy,
            users: Mutex::default(),
        }
    }

    /// Opens a copy in memory, because redb writes even when it only reads, and when it rolls back an interrupted
    /// change. The file is not changed, and the catalog accepts no changes.
    ///
    /// # Errors
    /// As [`Catalog::open`].
    pub(crate) fn open_copy(storage: &dyn Storage) -> Result<Self, CatalogError> {
        let (file, bytes) = open_file(storage)?;
        let mut content = vec![0; usize::try_from(bytes).expect("CATALOG_BYTES_MAX fits")];
        let copy = InMemoryBackend::new();
        file.read_exact_at(0, &mut content)
            .and_then(|()| copy.set_len(bytes))
            .and_then(|()| copy.write(0, &content))
            .map_err(CatalogError::storage("read"))?;
        drop(content);
        Self::open_backend(copy, Arc::default(), true).map_err(|error| match error {
            // A copy in memory fails only so, when redb reads behind its end.
            CatalogError::Storage { source, .. } if source.kind() == io::ErrorKind::InvalidInput => {
                CatalogError::Damaged { reason: "it is cut off".into() }
            }
            error => error,
        })
    }

    fn open_backend(
        backend: impl StorageBackend,
        progress: Arc<Progress>,
        is_copy: bool,
    ) -> Result<Self, CatalogError> {
        let database = redb::Builder::new()
            .set_cache_size(if is_copy { COPY_CACHE_BYTES } else { CACHE_BYTES })
            .set_check_integrity_on_open(true)
            .create_with_backend(backend)
            .map_err(CatalogError::redb("open"))?;
        let mut catalog = Self::of(database, progress, is_copy);
        // Check the format before anything else, which may look different in a later version.
        let format = catalog.meta_array(FORMAT)?.map(u32::from_le_bytes);
        match format {
            Some(CATALOG_VERSION) => {}
            Some(found) if found > CATALOG_VERSION => {
                return Err(CatalogError::FutureVersion { what: "a format".into(), found, newest: CATALOG_VERSION });
            }
            _ => return Err(CatalogError::NotACatalog { reason: "it has no format version".into() }),
        }
        catalog.directory = DirectoryId(catalog.meta_array(DIRECTORY)?.ok_or_else(|| missing(DIRECTORY))?);
        catalog.is_journal_in_use()?;
        catalog.seal()?;
        catalog.services()?;
        catalog.stopped()?;
        catalog.absent()?;
        catalog.users()?;
        catalog.incarnations()?;
        catalog.tokens()?;
        catalog.token_bounds()?;
        // Report missing room before it is needed.
        let _ = catalog.current().progress.hold_reserve();
        Ok(catalog)
    }

    /// Returns the directory that the catalog belongs to.
    #[must_use]
    pub fn directory(&self) -> DirectoryId {
        self.directory
    }

    /// Returns the end of the journal, if the host stopped cleanly.
    ///
    /// # Errors
    /// [`CatalogError::Damaged`], [`CatalogError::Storage`].
    pub fn seal(&self) -> Result<Option<Seal>, CatalogError> {
        let Some(bytes) = self.meta(SEAL)? else { return Ok(None) };
        match postcard::take_from_bytes::<Seal>(&bytes) {
            Ok((seal, [])) if seal.position <= POSITION_MAX => Ok(Some(seal)),
            _ => Err(unreadable(META, SEAL, "it is not a seal")),
        }
    }

    /// Replaces the seal, or removes it.
    ///
    /// # Errors
    /// [`CatalogError::Poisoned`], [`CatalogError::Storage`], [`CatalogError::Damaged`]: the old seal is still there.
    /// The same holds after [`CatalogError::Storage`] because the file was removed or replaced. Once the file is put
    /// back, changes are possible again. [`CatalogError::OutcomeUnknown`]: the old or the new seal is there when the
    /// catalog is opened again.
    pub fn set_seal(&self, seal: Option<&Seal>) -> Result<(), CatalogError> {
        let bytes = seal.map(|seal| postcard::to_stdvec(seal).expect("a seal is plain numbers"));
        self.change("write", Room::Reserve, |transaction| {
            if let Some(bytes) = bytes {
                return put_meta(transaction, SEAL, &bytes);
            }
            transaction.open_table(META)?.remove(SEAL)?;
            Ok(())
        })
    }

    /// Returns whether there was ever a service. If so, a missing journal is a loss.
    ///
    /// # Errors
    /// [`CatalogError::Damaged`], [`CatalogError::Storage`].
    pub(crate) fn is_journal_in_use(&self) -> Result<bool, CatalogError> {
        match self.meta_array(JOURNAL_IN_USE)? {
            Some([0]) => Ok(false),
            Some([1]) => Ok(true),
            Some(_) => Err(unreadable(META, JOURNAL_IN_USE, "it is neither 0 nor 1")),
            None => Err(missing(JOURNAL_IN_USE)),
        }
    }

    /// Returns all services.
    ///
    /// # Errors
    /// [`CatalogError::Damaged`], [`CatalogError::Storage`], [`CatalogError::FutureVersion`].
    pub fn services(&self) -> Result<BTreeMap<Name, ServiceEntry>, CatalogError> {
        self.services_where(|_| true)
    }

    /// Returns the services whose names are wanted. Other entries are not read.
    ///
    /// # Errors
    /// As [`Catalog::services`].
    pub(crate) fn services_where(
        &self,
        is_wanted: impl Fn(&Name) -> bool,
    ) -> Result<BTreeMap<Name, ServiceEntry>, CatalogError> {
        let mut services = BTreeMap::new();
        self.for_each_service(|name, value| {
            if is_wanted(&name) {
                let entry = decode_entry(&name, value)?;
                services.insert(name, entry);
            }
            Ok(())
        })?;
        Ok(services)
    }

    /// Returns the number of services whose names are wanted.
    ///
    /// # Errors
    /// As [`Catalog::services`].
    pub(crate) fn count_services(&self, is_wanted: impl Fn(&Name) -> bool) -> Result<usize, CatalogError> {
        let mut count = 0;
        self.for_each_service(|name, _| {
            count += usize::from(is_wanted(&name));
            Ok(())
        })?;
        Ok(count)
    }

    fn for_each_service(
        &self,
        mut each: impl FnMut(Name, &[u8]) -> Result<(), CatalogError>,
    ) -> Result<(), CatalogError> {
        let table = self.read(SERVICES)?;
        for row in table.iter().map_err(CatalogError::redb("read"))? {
            let (key, value) = row.map_err(CatalogError::redb("read"))?;
            let name = Name::new(key.value()).map_err(|reason| unreadable(SERVICES, key.value(), &reason))?;
            each(name, value.value())?;
        }
        Ok(())
    }

    /// Returns the service of this name, if there is one.
    ///
    /// # Errors
    /// [`CatalogError::Damaged`], [`CatalogError::Storage`], [`CatalogError::FutureVersion`].
    pub fn service(&self, name: &Name) -> Result<Option<ServiceEntry>, CatalogError> {
        let table = self.read(SERVICES)?;
        let value = table.get(&**name).map_err(CatalogError::redb("read"))?;
        value.map(|value| decode_entry(name, value.value())).transpose()
    }

    /// Adds a service to the catalog, or replaces its entry. The journal is in use from then on. The name is no longer
    /// [`Catalog::absent`]: since this service began, the journal's earlier records of the name do not count.
    ///
    /// # Errors
    /// [`CatalogError::EntryTooLong`], [`CatalogError::NoRoom`], [`CatalogError::Full`], and the errors of
    /// [`Catalog::set_seal`].
    pub fn put_service(&self, name: &Name, entry: &ServiceEntry) -> Result<(), CatalogError> {
        let bytes = entry.to_bytes();
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(CatalogError::EntryTooLong { service: name.clone(), bytes: bytes.len() });
        }
        let put = self.change("write", Room::Ordinary, |transaction| {
            put(transaction, SERVICES, name, &bytes)?;
            transaction.open_table(ABSENT)?.remove(&**name)?;
            put_meta(transaction, JOURNAL_IN_USE, &[1])
        });
        // A long entry without room does not imply that shorter additions have none.
        put.inspect_err(|_| self.current().progress.forget_missing())
    }

    /// Gives services their network in one change, and returns those that had another one. Names without a service are
    /// left out. The change may take the reserve, because it may withdraw what a service was allowed.
    ///
    /// # Errors
    /// [`CatalogError::EntryTooLong`], and the errors of [`Catalog::services`] and [`Catalog::set_seal`].
    pub(crate) fn set_networks(&self, networks: &BTreeMap<Name, NetworkSettings>) -> Result<Vec<Name>, CatalogError> {
        let mut changed = Vec::new();
        for (name, mut entry) in self.services_where(|name| networks.contains_key(name))? {
            let network = &networks[&name];
            if entry.settings.network == *network {
                continue;
            }
            entry.settings.network = network.clone();
            let bytes = entry.to_bytes();
            if bytes.len() > ENTRY_BYTES_MAX {
                return Err(CatalogError::EntryTooLong { service: name, bytes: bytes.len() });
            }
            changed.push((name, bytes));
        }
        if !changed.is_empty() {
            self.change("write", Room::Reserve, |transaction| {
                changed.iter().try_for_each(|(name, bytes)| put(transaction, SERVICES, name, bytes))
            })?;
        }
        Ok(changed.into_iter().map(|(name, _)| name).collect())
    }

    /// Removes a service from the catalog with all grants on it, which the next service of its name must not inherit.
    /// Notes the name in [`Catalog::absent`]. `journal_end` is the end of the journal. Returns whether the service was
    /// there. `_users` must be the guard of this catalog.
    ///
    /// # Errors
    /// The errors of [`Catalog::set_seal`], and of [`Catalog::users`].
    pub fn remove_service(
        &self,
        name: &Name,
        journal_end: Position,
        _users: &UsersGuard<'_>,
    ) -> Result<bool, CatalogError> {
        // Otherwise this would write the state before a change with an unknown outcome.
        self.mend(Room::Reserve)?;
        let mut users = self.users()?;
        users.retain(|_, entry| entry.grants.remove(name).is_some());
        self.change("write", Room::Reserve, |transaction| {
            for (user, entry) in &users {
                accounts::put_user(transaction, user, entry)?;
            }
            transaction.open_table(STOPPED)?.remove(&**name)?;
            let noted = Absent { journal_end, is_being_created: false };
            put(transaction, ABSENT, name, &noted.to_bytes())?;
            Ok(transaction.open_table(SERVICES)?.remove(&**name)?.is_some())
        })
    }

    /// Returns the names without a service for which the journal may have records, or the directory may have files.
    ///
    /// # Errors
    /// [`CatalogError::Damaged`], [`CatalogError::Storage`].
    pub fn absent(&self) -> Result<BTreeMap<Name, Absent>, CatalogError> {
        let mut absent = BTreeMap::new();
        let Some(table) = self.read_if_there(ABSENT)? else { return Ok(absent) };
        for row in table.iter().map_err(CatalogError::redb("read"))? {
            let (key, value) = row.map_err(CatalogError::redb("read"))?;
            let name = Name::new(key.value()).map_err(|reason| unreadable(ABSENT, key.value(), &reason))?;
            let bytes = without_hash(ABSENT, key.value(), value.value())?;
            let noted =
                Absent::from_bytes(bytes).ok_or_else(|| unreadable(ABSENT, key.value(), "it is not a valid note"))?;
            absent.insert(name, noted);
        }
        Ok(absent)
    }

    /// Notes that a service of a free name is being created, with more than its first record. `journal_end` is the end
    /// of the journal.
    ///
    /// # Errors
    /// The errors of [`Catalog::set_seal`].
    pub(crate) fn note_creation(&self, name: &Name, journal_end: Position) -> Result<(), CatalogError> {
        let noted = Absent { journal_end, is_being_created: true };
        self.change("write", Room::Ordinary, |transaction| put(transaction, ABSENT, name, &noted.to_bytes()))
    }

    /// Removes the notes on names of which nothing is left.
    ///
    /// # Errors
    /// The errors of [`Catalog::set_seal`].
    pub fn forget_absent<'a>(&self, names: impl IntoIterator<Item = &'a Name>) -> Result<(), CatalogError> {
        let mut names = names.into_iter().peekable();
        if names.peek().is_none() {
            return Ok(());
        }
        self.change("write", Room::Reserve, |transaction| {
            let mut table = transaction.open_table(ABSENT)?;
            for name in names {
                table.remove(&**name)?;
            }
            Ok(())
        })
    }

    /// Waits until no other thread changes users based on their current entries. The guard must be held from when users
    /// are read until the change has reached their copy in memory.
    pub fn hold_users(&self) -> UsersGuard<'_> {
        UsersGuard { _held: self.users.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Returns the services that an operator stopped. A start does not start them.
    ///
    /// # Errors
    /// [`CatalogError::Damaged`], [`CatalogError::Storage`].
    pub fn stopped(&self) -> Result<BTreeSet<Name>, CatalogError> {
        let mut stopped = BTreeSet::new();
        let Some(table) = self.read_if_there(STOPPED)? else { return Ok(stopped) };
        for row in table.iter().map_err(CatalogError::redb("read"))? {
            let (key, value) = row.map_err(CatalogError::redb("read"))?;
            without_hash(STOPPED, key.value(), value.value())?;
            stopped.insert(Name::new(key.value()).map_err(|reason| unreadable(STOPPED, key.value(), &reason))?);
        }
        Ok(stopped)
    }

    /// Records that an operator stopped a service, or started it again.
    ///
    /// # Errors
    /// The errors of [`Catalog::set_seal`].
    pub(crate) fn set_stopped(&self, name: &Name, is_stopped: bool) -> Result<(), CatalogError> {
        self.change("write", Room::Reserve, |transaction| {
            if is_stopped {
                return put(transaction, STOPPED, name, &[]);
            }
            transaction.open_table(STOPPED)?.remove(&**name)?;
            Ok(())
        })
    }

    /// Commits a change to the file at the catalog's path.
    fn change<T>(
        &self,
        action: &'static str,
        room: Room,
        change: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, CatalogError> {
        let done = self.change_open(action, room, change)?;
        match self.reopening.get().map(|it| it.storage.check_lock()) {
            Some(Err(source)) => {
                // The outcome is decided by the file that is at the path in the end.
                self.current().progress.fail(Failed::Write);
                Err(CatalogError::OutcomeUnknown { source })
            }
            _ => Ok(done),
        }
    }

    /// Commits a change to the open file, and then an empty one. The module docs give the reason.
    fn change_open<T>(
        &self,
        action: &'static str,
        room: Room,
        change: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, CatalogError> {
        if self.is_copy {
            return Err(CatalogError::ReadOnly);
        }
        let no_room = |open: &Open, source: io::Error| match source.kind() {
            io::ErrorKind::FileTooLarge => CatalogError::Full { bytes: open.progress.bytes(), source },
            _ => CatalogError::NoRoom { reserve: open.progress.reserve_bytes(), source },
        };
        let refused = |open: &Open, error| match CatalogError::redb(action)(error) {
            CatalogError::Storage { source, .. }
                if room == Room::Ordinary
                    && (is_no_room(source.kind()) || source.kind() == io::ErrorKind::FileTooLarge) =>
            {
                no_room(open, source)
            }
            error => error,
        };
        let (open, transaction) = loop {
            self.mend(room)?;
            let open = self.current();
            match open.begin(room) {
                Ok(transaction) => break (open, transaction),
                // The transaction waited for a change whose write failed.
                Err(_) if open.progress.failed() == Some(Failed::Write) => {}
                Err(error) => {
                    open.progress.fail(Failed::Otherwise);
                    return Err(refused(&open, error));
                }
            }
        };
        // The backend knows of the storage's failures, but redb may have others.
        let failed = |error| {
            open.progress.fail(Failed::Otherwise);
            error
        };
        let no_room = |source| no_room(&open, source);
        let refused = |error| refused(&open, error);
        // Whatever is written to a replaced file is gone with the next start.
        if let Some(Err(error)) = self.reopening.get().map(|it| it.storage.check_lock()) {
            return Err(CatalogError::storage("check")(error));
        }
        match open.progress.hold_reserve() {
            Err(source) if room == Room::Ordinary && !open.is_half_free(&transaction) => {
                // The writes at the end of the transaction may take the reserve.
                open.progress.begin(Room::Reserve);
                // With each commit redb cuts off some of the free pages at the end.
                if open.progress.is_too_long()
                    && let Err(error) = transaction.commit()
                {
                    failed(error.into());
                }
                return Err(no_room(source));
            }
            _ => {}
        }
        let done = change(&transaction).map_err(failed).map_err(refused)?;
        if let Err(error) = transaction.commit() {
            let (reached, error) = (open.progress.reached(), failed(error.into()));
            if reached == Reached::Nothing {
                return Err(refused(error));
            }
            // redb shows the old state, even if the whole change is on the disk.
            if reached == Reached::Disk && self.reopen(|_, _| Ok(())).is_ok() {
                self.pauses().stored();
                return Ok(done);
            }
            let source = match error {
                redb::Error::Io(source) => source,
                error => io::Error::other(error),
            };
            return Err(CatalogError::OutcomeUnknown { source });
        }
        if room == Room::Reserve {
            open.progress.forget_missing();
        }
        let once_more = open.begin(Room::Reserve).and_then(|transaction| {
            // Report missing room before it is needed.
            let _ = open.progress.hold_reserve();
            Ok(transaction.commit()?)
        });
        // Committed twice or only once, the change is stored.
        match once_more {
            Ok(()) => self.pauses().stored(),
            Err(error) => drop(failed(error)),
        }
        Ok(done)
    }

    fn read(&self, table: Table) -> Result<Reading, CatalogError> {
        self.read_if_there(table)?
            .ok_or_else(|| CatalogError::NotACatalog { reason: format!("it has no table '{}'", table.name()) })
    }

    /// Reads a table as [`read`](Self::read) does. The table may never have been written to.
    fn read_if_there(&self, table: Table) -> Result<Option<Reading>, CatalogError> {
        let Open { database, .. } = self.current();
        let transaction = database.begin_read().map_err(CatalogError::redb("read"))?;
        match transaction.open_table(table) {
            Ok(table) => Ok(Some(Reading { table, _database: database })),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(CatalogError::redb("read")(error)),
        }
    }

    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, CatalogError> {
        let table = self.read(META)?;
        let value = table.get(key).map_err(CatalogError::redb("read"))?;
        value.map(|value| Ok(without_hash(META, key, value.value())?.to_vec())).transpose()
    }

    fn meta_array<const N: usize>(&self, key: &str) -> Result<Option<[u8; N]>, CatalogError> {
        let array = |bytes: Vec<u8>| {
            let found = bytes.len();
            bytes.try_into().map_err(|_| unreadable(META, key, &format!("it is {found} bytes long, not {N}")))
        };
        self.meta(key)?.map(array).transpose()
    }
}

impl Open {
    /// Returns whether the file is too long for a reserve behind its end, but at least as much of it is free as is in
    /// use. Those free pages are a reserve as well. For a file of that length redb visits all pages in use: this takes
    /// some 30 ms for 136 MiB.
    fn is_half_free(&self, transaction: &WriteTransaction) -> bool {
        let progress = &self.progress;
        // The last addition must not have found that room is missing.
        progress.is_too_long()
            && progress.missing() == 0
            && transaction.stats().is_ok_and(|stats| {
                let in_use = stats.allocated_pages().saturating_mul(stats.page_size() as u64);
                in_use <= progress.bytes() / 2
            })
    }

    /// Begins a transaction for a change that may take `room`.
    fn begin(&self, room: Room) -> Result<WriteTransaction, redb::Error> {
        #[cfg(test)]
        self.progress.note_beginning();
        let mut transaction = self.database.begin_write()?;
        self.progress.begin(room);
        transaction.set_two_phase_commit(true);
        Ok(transaction)
    }
}

impl AsRef<Self> for Catalog {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// Opens the catalog's file, checks that a catalog may have its length, and returns both.
fn open_file(storage: &dyn Storage) -> Result<(Box<dyn StorageFile>, u64), CatalogError> {
    let file = storage.open(CATALOG_FILE).map_err(CatalogError::storage("open"))?;
    let bytes = file.bytes().map_err(CatalogError::storage("open"))?;
    // redb would turn an empty file into a new database.
    if !(1..=CATALOG_BYTES_MAX).contains(&bytes) {
        let reason = format!("it is {bytes} bytes long, a catalog has 1 to {CATALOG_BYTES_MAX}");
        return Err(CatalogError::NotACatalog { reason });
    }
    Ok((file, bytes))
}

fn decode_entry(name: &Name, value: &[u8]) -> Result<ServiceEntry, CatalogError> {
    ServiceEntry::from_bytes(without_hash(SERVICES, name, value)?)
        .map_err(|error| error.of(SERVICES, name, format!("an entry of service '{name}'"), ENTRY_VERSION))
}

impl EntryError {
    /// Returns the error of the entry `what` at `key` in `table`, of which this host reads versions up to `newest`.
    fn of(self, table: Table, key: &str, what: String, newest: u8) -> CatalogError {
        match self {
            Self::FutureVersion(found) => {
                CatalogError::FutureVersion { what, found: found.into(), newest: newest.into() }
            }
            Self::UnknownPart(kind) => CatalogError::UnknownPart { what, kind },
            Self::Unreadable(reason) => unreadable(table, key, &reason),
        }
    }
}

/// Decodes an entry of a service, and returns the encoding of what it holds, which must be decoded as the same.
pub(crate) fn recode_service(bytes: &[u8]) -> Result<Vec<u8>, String> {
    recode(bytes, ServiceEntry::from_bytes, ServiceEntry::to_bytes)
}

/// The same of a user.
pub(crate) fn recode_user(bytes: &[u8]) -> Result<Vec<u8>, String> {
    recode(bytes, UserEntry::from_bytes, UserEntry::to_bytes)
}

/// The same of a token.
pub(crate) fn recode_token(bytes: &[u8]) -> Result<Vec<u8>, String> {
    recode(bytes, TokenEntry::from_bytes, TokenEntry::to_bytes)
}

fn recode<T: fmt::Debug + PartialEq>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, EntryError>,
    encode: impl Fn(&T) -> Vec<u8>,
) -> Result<Vec<u8>, String> {
    let entry = decode(bytes).map_err(recoding_failed)?;
    let again = encode(&entry);
    assert_eq!(decode(&again), Ok(entry), "what was encoded is decoded");
    Ok(again)
}

fn recoding_failed(error: EntryError) -> String {
    match error {
        EntryError::FutureVersion(version) => format!("it has version {version}"),
        EntryError::UnknownPart(kind) => format!("it has a part of kind {kind}"),
        EntryError::Unreadable(reason) => reason,
    }
}

fn put_meta(transaction: &WriteTransaction, key: &str, bytes: &[u8]) -> Result<(), redb::Error> {
    put(transaction, META, key, bytes)
}

fn put(transaction: &WriteTransaction, table: Table, key: &str, bytes: &[u8]) -> Result<(), redb::Error> {
    let mut value = hash(table, key, bytes).to_vec();
    value.extend_from_slice(bytes);
    transaction.open_table(table)?.insert(key, value.as_slice())?;
    Ok(())
}

/// Returns the contents of `value` without its hash.
fn without_hash<'a>(table: Table, key: &str, value: &'a [u8]) -> Result<&'a [u8], CatalogError> {
    match value.split_first_chunk() {
        Some((found, bytes)) if *found == hash(table, key, bytes) => Ok(bytes),
        _ => Err(unreadable(table, key, "it does not match its hash")),
    }
}

/// Returns the hash of a value. Neither tables nor keys contain a zero byte, so the three inputs cannot be confused.
fn hash(table: Table, key: &str, bytes: &[u8]) -> [u8; HASH_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(table.name().as_bytes()).update(&[0]).update(key.as_bytes()).update(&[0]).update(bytes);
    let mut hash = [0; HASH_BYTES];
    hash.copy_from_slice(&hasher.finalize().as_bytes()[..HASH_BYTES]);
    hash
}

fn unreadable(table: Table, key: &str, reason: &str) -> CatalogError {
    CatalogError::Damaged { reason: format!("'{}' in table '{}': {reason}", key.escape_debug(), table.name()) }
}

fn missing(key: &str) -> CatalogError {
    unreadable(META, key, "it is missing")
}
