//! One directory of files, as the journal, the snapshots and the catalog need it: every byte that must outlive a crash
//! goes through [`Storage`].
//!
//! The trait is small and blocking, and it promises no more than POSIX does: bytes are safe after
//! [`StorageFile::sync_data`], names after [`Storage::sync_directory`], and nothing is ordered before that. What the
//! order must be is the callers' business. [`DiskStorage`] is the file system; [`SimulatedStorage`] is its twin in
//! memory that loses whatever it may lose, and fails when told to.
//!
//! Concurrency: all of it may be called from several threads. Callers see to it that a file has one writer.

mod disk;
#[cfg(any(test, feature = "simulated"))]
mod simulated;

pub use disk::{DiskStorage, create_file, open_file, rename_file};
#[cfg(any(test, feature = "simulated"))]
pub use simulated::{HeldWrites, Operation, SimulatedStorage};

use std::fmt;
use std::io;
use std::time::SystemTime;

/// The longest name of a file, in bytes.
pub const FILE_NAME_BYTES_MAX: usize = 200;

/// The file that a data directory is never without: [`Storage::lock`] locks it too.
pub const LASTING_FILE: &str = "catalog.redb";

/// How much is written at once when a file is filled with zeros, in bytes.
const ZEROS_BYTES: usize = 1024 * 1024;

/// Which file it is, whatever its name is and whatever is written to it.
#[derive(Debug, Clone, Copy)]
pub struct FileIdentity {
    device: u64,
    number: u64,
    /// A file system gives the number of a file that is gone to the next one.
    created: Option<SystemTime>,
}

impl FileIdentity {
    /// Whether both are of the same file.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let (one, other_created) = (self.created, other.created);
        // Not every file system, and not each time, says when a file was created.
        let is_of_same_time = one.is_none() || other_created.is_none() || one == other_created;
        (self.device, self.number) == (other.device, other.number) && is_of_same_time
    }
}

/// One directory, without folders below it.
pub trait Storage: Send + Sync + fmt::Debug {
    /// Takes the directory for this process, until the guard is dropped or the process ends.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if another holds it.
    fn lock(&self) -> io::Result<LockGuard>;

    /// Checks that what [`Storage::lock`] locked still stands where others look for it, and locks what was not there yet.
    ///
    /// # Errors
    /// It does not: another process may have, or take, the directory. Nothing may be promised any more.
    fn check_lock(&self) -> io::Result<()> {
        Ok(())
    }

    /// Checks that `name` is still the name of the file with this `identity`, for whoever comes by the directory's path. Of
    /// one that nobody can look at nothing is known, and that is no error.
    ///
    /// # Errors
    /// It is that of another file, or of none: what was written to the file is gone once it is closed.
    fn check_place(&self, name: &str, identity: &FileIdentity) -> io::Result<()>;

    /// Creates an empty file. Its name is safe after [`Storage::sync_directory`].
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] if there is one of that name.
    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>>;

    /// Opens a file to read and write.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is none of that name.
    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>>;

    /// Opens a file whose writes are one after another, each to be safe before the next: as [`Storage::open`], but
    /// [`StorageFile::write_synced_at`] may be faster.
    ///
    /// # Errors
    /// As [`Storage::open`].
    fn open_synced(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        self.open(name)
    }

    /// The names of all files, in no order.
    ///
    /// # Errors
    /// The directory cannot be read.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Gives a file another name, and takes that name from the file that had it. After a crash before
    /// [`Storage::sync_directory`] the file has either name.
    ///
    /// # Errors
    /// Nothing was renamed.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. After a crash before [`Storage::sync_directory`] it may be back.
    ///
    /// # Errors
    /// Nothing was removed.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes all names safe that were created, changed or removed before.
    ///
    /// # Errors
    /// Any of them may be lost.
    fn sync_directory(&self) -> io::Result<()>;
}

/// A file that can be read and written at any offset.
pub trait StorageFile: Send + Sync + fmt::Debug {
    /// How long it is, in bytes.
    ///
    /// # Errors
    /// It cannot be asked.
    fn bytes(&self) -> io::Result<u64>;

    /// Returns which file it is.
    ///
    /// # Errors
    /// It cannot be asked.
    fn identity(&self) -> io::Result<FileIdentity>;

    /// Writes some of `bytes` at `offset`, and says how many. The file grows if it must.
    ///
    /// # Errors
    /// Some of them may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize>;

    /// Reads into `buffer` from `offset`, and says how many bytes: 0 only at the end of the file.
    ///
    /// # Errors
    /// It cannot be read.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Makes the file this long: cuts it off, or adds zeros. These may take no space yet, so that a write there still
    /// finds the disk full.
    ///
    /// # Errors
    /// It is as long as it was.
    fn set_bytes(&self, bytes: u64) -> io::Result<()>;

    /// Has the disk hold room for the first `bytes` of the file without making it longer, so that it can grow as far when the
    /// disk is full. [`StorageFile::set_bytes`] to no more than its length releases what is held behind that. Unless `spare` is
    /// 0, what is not held yet is held only if that leaves others as many bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] or [`io::ErrorKind::QuotaExceeded`]: what was held before is held, and perhaps more if
    /// there was any.
    /// [`io::ErrorKind::Unsupported`] among others where files cannot hold room.
    fn hold_room(&self, bytes: u64, spare: u64) -> io::Result<()>;

    /// Makes all bytes safe that were written before, and the file's length.
    ///
    /// # Errors
    /// Any of them may be lost, and a later success says nothing about them: do not try again.
    fn sync_data(&self) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// Some of them may have been written.
    fn write_all_at(&self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_at(offset, bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    offset += count as u64;
                    bytes = &bytes[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes all of `bytes` at `offset`, and makes them safe.
    ///
    /// # Errors
    /// As [`StorageFile::write_all_at`] and [`StorageFile::sync_data`]; which of the two it was, the error does not tell.
    fn write_synced_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(offset, bytes)?;
        self.sync_data()
    }

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the file is shorter.
    fn read_exact_at(&self, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(offset, buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    offset += count as u64;
                    buffer = &mut buffer[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Fills an empty file with `bytes` zeros, so that overwriting them later needs neither space nor a change of the
    /// file's metadata. Written rather than reserved: a reserved extent is converted at its first write, which makes
    /// the sync after it slower, and a full disk is to be seen here and not in the middle of a commit.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] among others.
    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        self.fill_with_zeros(0, bytes)
    }

    /// Writes zeros from offset `from` up to `to`, if that is behind it.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] among others.
    fn fill_with_zeros(&self, mut from: u64, to: u64) -> io::Result<()> {
        let left = |from: u64| usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
        let zeros = vec![0; ZEROS_BYTES.min(left(from))];
        while from < to {
            let count = zeros.len().min(left(from));
            self.write_all_at(from, &zeros[..count])?;
            from += count as u64;
        }
        Ok(())
    }
}

/// Holds a directory's lock.
pub struct LockGuard {
    _held: Box<dyn Send + Sync>,
}

impl LockGuard {
    /// A lock that is held as long as `held` lives.
    #[must_use]
    pub fn new(held: Box<dyn Send + Sync>) -> Self {
        Self { _held: held }
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LockGuard")
    }
}

/// Checks that `name` names a file in the directory itself.
fn check_file_name(name: &str) -> io::Result<()> {
    let is_valid = !name.is_empty()
        && name.len() <= FILE_NAME_BYTES_MAX
        && name != "."
        && name != ".."
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if is_valid {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("'{}' is not a file name", name.escape_debug())))
}
