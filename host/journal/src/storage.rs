//! One directory of files for the journal, the snapshots and the catalog. Every byte that must survive a crash goes
//! through [`Storage`].
//!
//! The trait is small and blocking, and guarantees no more than POSIX does. Bytes are durable after
//! [`StorageFile::sync_data`], names are durable after [`Storage::sync_directory`], and nothing is ordered before that.
//! Callers are responsible for the order. [`DiskStorage`] is the file system. [`SimulatedStorage`] is a directory in
//! memory that loses unsynced data at a crash, and fails on demand.
//!
//! Concurrency: all methods may be called from several threads. Callers ensure that each file has one writer.

mod disk;
#[cfg(any(test, feature = "simulated"))]
mod simulated;

pub use disk::{DiskStorage, create_file, open_file, rename_file};
#[cfg(any(test, feature = "simulated"))]
pub use simulated::{Fault, HeldWrites, Operation, SimulatedStorage};

use std::fmt;
use std::io;
use std::time::SystemTime;

/// The longest name of a file, in bytes.
pub(crate) const FILE_NAME_BYTES_MAX: usize = 200;

/// The file that every data directory has: [`Storage::lock`] locks it too.
pub const LASTING_FILE: &str = "catalog.redb";

/// The size of one write when a file is filled with zeros, in bytes.
const ZEROS_BYTES: usize = 1024 * 1024;

/// The identity of a file, independent of its name and its contents.
#[derive(Debug, Clone, Copy)]
pub struct FileIdentity {
    device: u64,
    number: u64,
    /// The time of the creation, because a file system reuses the number of a removed file for the next one.
    created: Option<SystemTime>,
}

impl FileIdentity {
    /// Returns whether both identify the same file.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let (one, other_created) = (self.created, other.created);
        // A file system may not report the time of a file's creation, or not each time.
        let is_of_same_time = one.is_none() || other_created.is_none() || one == other_created;
        (self.device, self.number) == (other.device, other.number) && is_of_same_time
    }
}

/// One directory, without subdirectories.
pub trait Storage: Send + Sync + fmt::Debug {
    /// Locks the directory for this process, until the guard is dropped or the process ends.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if another process holds the lock.
    fn lock(&self) -> io::Result<LockGuard>;

    /// Checks that the files locked by [`Storage::lock`] are still where other processes look for them, and locks those
    /// that were missing before.
    ///
    /// # Errors
    /// They are not there: another process may have locked the directory, or may lock it. The caller must not
    /// acknowledge anything any more.
    fn check_lock(&self) -> io::Result<()> {
        Ok(())
    }

    /// Checks that the path of the directory and `name` still lead to the file with this `identity`. If the path cannot
    /// be examined, the result is unknown, which is not an error.
    ///
    /// # Errors
    /// The name is that of another file, or of none: the contents of the original file are lost once it is closed.
    fn check_place(&self, name: &str, identity: &FileIdentity) -> io::Result<()>;

    /// Creates an empty file. Its name is durable after [`Storage::sync_directory`].
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] if there is a file of that name.
    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>>;

    /// Opens a file to read and write.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is no file of that name.
    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>>;

    /// Opens a file for sequential writes, each durable before the next. It is like [`Storage::open`], but
    /// [`StorageFile::write_synced_at`] may be faster.
    ///
    /// # Errors
    /// As [`Storage::open`].
    fn open_synced(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        self.open(name)
    }

    /// Returns the names of all files, in no order.
    ///
    /// # Errors
    /// The directory cannot be read.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Renames a file, and replaces the file that had the new name. After a crash before [`Storage::sync_directory`]
    /// the file has either name.
    ///
    /// # Errors
    /// Nothing was renamed.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. After a crash before [`Storage::sync_directory`] it may be back.
    ///
    /// # Errors
    /// Nothing was removed.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes all names durable that were created, changed or removed before.
    ///
    /// # Errors
    /// Any of these changes may be lost.
    fn sync_directory(&self) -> io::Result<()>;
}

/// A file that can be read and written at any offset.
pub trait StorageFile: Send + Sync + fmt::Debug {
    /// Returns the length of the file, in bytes.
    ///
    /// # Errors
    /// The length cannot be determined.
    fn bytes(&self) -> io::Result<u64>;

    /// Returns the identity of the file.
    ///
    /// # Errors
    /// The identity cannot be determined.
    fn identity(&self) -> io::Result<FileIdentity>;

    /// Writes some of `bytes` at `offset`, and returns how many. The file grows if necessary.
    ///
    /// # Errors
    /// Some of the bytes may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize>;

    /// Reads into `buffer` from `offset`, and returns how many bytes: 0 only at the end of the file.
    ///
    /// # Errors
    /// The file cannot be read.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Sets the length of the file: truncates it, or appends zeros. The zeros may not take space yet, so a later write
    /// there may still find the disk full.
    ///
    /// # Errors
    /// The length is unchanged.
    fn set_bytes(&self, bytes: u64) -> io::Result<()>;

    /// Reserves disk space for the first `bytes` of the file without changing its length, so that the file can grow
    /// that far when the disk is full. [`StorageFile::set_bytes`] to at most the current length releases the space
    /// reserved after it. Unless `spare` is 0, space is reserved only if at least `spare` bytes remain for others.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] or [`io::ErrorKind::QuotaExceeded`]: the space that was reserved before still is,
    /// and perhaps some more. [`io::ErrorKind::Unsupported`] among others, where files cannot reserve space.
    fn hold_room(&self, bytes: u64, spare: u64) -> io::Result<()>;

    /// Makes all bytes durable that were written before, and the file's length.
    ///
    /// # Errors
    /// Any of the bytes may be lost. A later success does not show that they are durable: do not retry.
    fn sync_data(&self) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// Some of the bytes may have been written.
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

    /// Writes all of `bytes` at `offset`, and makes them durable.
    ///
    /// # Errors
    /// As [`StorageFile::write_all_at`] and [`StorageFile::sync_data`]. The error does not distinguish the two.
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
    /// file's metadata. The zeros are written and not only reserved. A reserved extent is converted at its first write,
    /// which slows down the next sync. A full disk is reported here and not in the middle of a commit.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] among others.
    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        self.fill_with_zeros(0, bytes)
    }

    /// Writes zeros from offset `from` to `to`. Writes nothing if `to` is not greater.
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

/// A held lock of a directory.
pub struct LockGuard {
    _held: Box<dyn Send + Sync>,
}

impl LockGuard {
    /// Returns a guard that holds the lock as long as `held` lives.
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

/// Checks that `name` is the name of a file directly in the directory.
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
