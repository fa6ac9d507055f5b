//! A directory of the file system.

use super::{FileIdentity, LASTING_FILE, LockGuard, Storage, StorageFile, check_file_name};
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The file whose lock represents the directory's lock.
const LOCK_FILE: &str = "lock";

/// The mode bits that a data directory must not have: with them, others could replace its files.
const OTHERS_WRITE: u32 = 0o022;

/// The mode bits that its files must not have: with them, others could read states and hashes of passwords. A group may
/// read if an operator allowed that.
const OTHERS_USE: u32 = 0o037;

/// The unit of [`MetadataExt::blocks`], in bytes.
#[cfg(target_os = "linux")]
const BLOCK_BYTES: u64 = 512;

/// The most that a file takes after its end without any reserved space, in bytes: the rest of its last block, and the
/// file system's metadata.
#[cfg(target_os = "linux")]
const HELD_BYTES_MIN: u64 = 64 * 1024;

/// The number of attempts to open and lock a file that is replaced meanwhile.
const LOCK_ATTEMPTS: usize = 16;

/// A directory on disk.
#[derive(Debug)]
pub struct DiskStorage {
    path: PathBuf,
    /// The directory itself, independent of what is at its path later.
    directory: File,
    /// Whether it is opened only to be read.
    is_looked_at: bool,
    /// Whether this process may not write to it. This is known once it is locked.
    is_read_only: AtomicBool,
    /// The locked files, while the lock is held.
    locks: Arc<Mutex<Option<Locks>>>,
}

/// The files whose locks represent the directory's lock.
#[derive(Debug)]
struct Locks {
    lock: File,
    /// The [`LASTING_FILE`], once it exists, if files can be locked and this process may open it.
    lasting: Option<File>,
}

impl DiskStorage {
    /// Opens the directory at `path`, and creates it if it is missing. Its parent must exist. Its own name is then
    /// durable too.
    ///
    /// # Errors
    /// The path is not a directory, or the directory cannot be created.
    pub fn create(path: &Path) -> io::Result<Self> {
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        // A previous process may have died between the creation and this sync.
        sync_parent(path)?;
        Self::open(path)
    }

    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// Nothing is there, it is not a directory, or it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        if !fs::metadata(path)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let directory = File::open(path)?;
        let is_read_only = AtomicBool::new(false);
        Ok(Self { path: path.to_owned(), directory, is_looked_at: false, is_read_only, locks: Arc::default() })
    }

    /// Opens the directory at `path` only to read it. If this process may not write to it, the lock is still taken as
    /// far as possible.
    ///
    /// # Errors
    /// As [`DiskStorage::open`].
    pub fn open_to_look(path: &Path) -> io::Result<Self> {
        Ok(Self { is_looked_at: true, ..Self::open(path)? })
    }

    /// Returns whether nothing is written to the directory, not even a lock file. This is known once it is locked.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.is_read_only.load(Ordering::Acquire)
    }

    /// Refuses a directory that others may write to, and removes others' permissions from its files.
    fn restrict(&self) -> io::Result<()> {
        let mode = self.directory.metadata()?.permissions().mode() & 0o7777;
        if mode & OTHERS_WRITE != 0 {
            let path = self.path.display().to_string();
            let text = format!(
                "others can write to it (mode {mode:04o}), and replace its files; run chmod go-w '{}'",
                path.escape_debug()
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        for name in self.list()? {
            let path = self.path.join(name);
            let Ok(mode) = fs::symlink_metadata(&path).map(|metadata| metadata.permissions().mode()) else { continue };
            if mode & OTHERS_USE != 0 {
                // This fails for a file of another owner, which stays as it was at earlier starts.
                let _ = fs::set_permissions(&path, fs::Permissions::from_mode(mode & !OTHERS_USE & 0o7777));
            }
        }
        Ok(())
    }

    /// Locks a directory that is only read: no server may lock it meanwhile, if its permissions allow this lock.
    fn lock_shared(&self) -> io::Result<LockGuard> {
        let mut held = Vec::new();
        for path in [self.path.clone(), self.path.join(LOCK_FILE), self.path.join(LASTING_FILE)] {
            let Ok(file) = File::open(path) else { continue };
            match file.try_lock_shared() {
                Ok(()) => held.push(file),
                Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::WouldBlock.into()),
                // The file system does not support locks.
                Err(TryLockError::Error(_)) => {}
            }
        }
        Ok(LockGuard::new(Box::new(held)))
    }

    fn refuse_write(&self) -> io::Result<()> {
        if self.is_read_only() { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
    }

    fn path_of(&self, name: &str) -> io::Result<PathBuf> {
        check_file_name(name)?;
        Ok(self.path.join(name))
    }
}

/// The locks of a directory: its own, which nobody can tidy up; that of the lock file, which is the only one that older
/// releases check; and that of the [`LASTING_FILE`]. A network file system may not lock directories, or only within one
/// machine.
struct Held {
    _directory: Option<File>,
    locks: Arc<Mutex<Option<Locks>>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Returns whether both are of the same file.
fn is_same(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

fn identity(metadata: &fs::Metadata) -> FileIdentity {
    FileIdentity { device: metadata.dev(), number: metadata.ino(), created: metadata.created().ok() }
}

/// Returns the identity of the file at `path`, which may itself be a link.
#[cfg(target_os = "linux")]
fn identity_at(path: &Path) -> io::Result<FileIdentity> {
    use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, statx};
    use std::time::{Duration, UNIX_EPOCH};
    // Ask for no other time than that of the creation. Since 6.13 (multigrain timestamps), Linux records the time of a
    // change more finely once a process has asked for the last one. Then each write changes the inode, which takes half
    // as long as a sync.
    let found = match statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::INO | StatxFlags::BTIME) {
        // Older systems and some sandboxes do not have the call.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => return Ok(identity(&fs::symlink_metadata(path)?)),
        found => found?,
    };
    let seconds = u64::try_from(found.stx_btime.tv_sec).ok();
    let created = seconds.and_then(|s| UNIX_EPOCH.checked_add(Duration::new(s, found.stx_btime.tv_nsec)));
    Ok(FileIdentity {
        device: makedev(found.stx_dev_major, found.stx_dev_minor),
        number: found.stx_ino,
        created: created.filter(|_| found.stx_mask & StatxFlags::BTIME.bits() != 0),
    })
}

#[cfg(not(target_os = "linux"))]
fn identity_at(path: &Path) -> io::Result<FileIdentity> {
    Ok(identity(&fs::symlink_metadata(path)?))
}

fn open_lock_file(directory: &Path) -> io::Result<File> {
    private().create(true).truncate(false).write(true).open(directory.join(LOCK_FILE))
}

/// Opens and locks the lock file in `directory`: the file that still has that name once it is locked.
fn lock_file(directory: &Path) -> io::Result<File> {
    lock_named(&directory.join(LOCK_FILE), || open_lock_file(directory))
}

/// Locks the [`LASTING_FILE`] in `directory`. Returns none if the file does not exist yet or cannot be locked.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] if another process holds the lock.
fn lock_lasting_file(directory: &Path) -> io::Result<Option<File>> {
    let path = directory.join(LASTING_FILE);
    // Open it for writing, or a network file system gives no lock that excludes others.
    let open = || File::options().read(true).write(true).open(&path).or_else(|_| File::open(&path));
    match lock_named(&path, open) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
        // Code that needs the file reports later that it cannot be opened.
        Err(_) => Ok(None),
    }
}

/// Locks the file that `open` opens at `path`: the file that still has that name once it is locked.
fn lock_named(path: &Path, open: impl Fn() -> io::Result<File>) -> io::Result<File> {
    for _ in 0..LOCK_ATTEMPTS {
        let file = open()?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let named = fs::metadata(path);
        if named.is_ok_and(|named| file.metadata().is_ok_and(|own| is_same(&own, &named))) {
            return Ok(file);
        }
    }
    Err(io::ErrorKind::WouldBlock.into())
}

impl Storage for DiskStorage {
    fn lock(&self) -> io::Result<LockGuard> {
        if self.is_looked_at {
            let may_not = [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem];
            if open_lock_file(&self.path).is_err_and(|error| may_not.contains(&error.kind())) {
                self.is_read_only.store(true, Ordering::Release);
                return self.lock_shared();
            }
        } else {
            self.restrict()?;
        }
        // Open it again: a lock belongs to an open file, and ends with it.
        let directory = File::open(&self.path)?;
        if !is_same(&directory.metadata()?, &self.directory.metadata()?) {
            return Err(replaced());
        }
        let directory = match directory.try_lock() {
            Ok(()) => Some(directory),
            Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::WouldBlock.into()),
            // Some file systems lock only files.
            Err(TryLockError::Error(_)) => None,
        };
        let locks = Locks { lock: lock_file(&self.path)?, lasting: lock_lasting_file(&self.path)? };
        *self.locks.lock().unwrap_or_else(PoisonError::into_inner) = Some(locks);
        Ok(LockGuard::new(Box::new(Held { _directory: directory, locks: Arc::clone(&self.locks) })))
    }

    fn check_lock(&self) -> io::Result<()> {
        match fs::metadata(&self.path) {
            Ok(named) if is_same(&named, &self.directory.metadata()?) => {}
            Ok(_) => return Err(replaced()),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(replaced());
            }
            // A path that cannot be examined need not have been replaced.
            Err(_) => {}
        }
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(held) = &mut *locks else { return Ok(()) };
        let is_there = match fs::metadata(self.path.join(LOCK_FILE)) {
            Ok(named) => is_same(&named, &held.lock.metadata()?),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        };
        if !is_there {
            // An operator removed the file. An older release must find it locked again.
            match lock_file(&self.path) {
                Ok(file) => held.lock = file,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(taken(LOCK_FILE)),
                // The directory's own lock is held. The next check retries the file's lock.
                Err(_) => {}
            }
        }
        match (&held.lasting, fs::metadata(self.path.join(LASTING_FILE))) {
            (Some(own), Ok(named)) if !is_same(&named, &own.metadata()?) => return Err(other_file(LASTING_FILE)),
            (Some(_), Err(error)) if error.kind() == io::ErrorKind::NotFound => return Err(no_file(LASTING_FILE)),
            // The file was created meanwhile.
            (None, Ok(_)) => match lock_lasting_file(&self.path) {
                Ok(file) => held.lasting = file,
                Err(_) => return Err(taken(LASTING_FILE)),
            },
            // The file does not exist yet. Or it cannot be examined, and then it need not have been replaced.
            _ => {}
        }
        Ok(())
    }

    fn check_place(&self, name: &str, own: &FileIdentity) -> io::Result<()> {
        match identity_at(&self.path_of(name)?) {
            Ok(named) if named.is_same(own) => Ok(()),
            Ok(_) => Err(other_file(name)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Err(no_file(name))
            }
            // A path that cannot be examined need not have been replaced.
            Err(_) => Ok(()),
        }
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        self.refuse_write()?;
        let file = private().create_new(true).read(true).write(true).open(self.path_of(name)?)?;
        Ok(Box::new(DiskFile::new(file)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let file = File::options().read(true).write(!self.is_read_only()).open(self.path_of(name)?)?;
        Ok(Box::new(DiskFile::new(file)))
    }

    // On other systems a sync may do more than this flag: it reaches the medium, and the flag only the drive's cache.
    #[cfg(target_os = "linux")]
    fn open_synced(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        self.refuse_write()?;
        let mut options = File::options();
        // On Linux each write is then synced as by `fdatasync`, in one system call instead of two, which takes a tenth
        // less.
        let file = options.read(true).write(true).custom_flags(libc::O_DSYNC).open(self.path_of(name)?)?;
        Ok(Box::new(DiskFile { file, syncs_writes: true }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
                && name != LOCK_FILE
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.refuse_write()?;
        fs::rename(self.path_of(from)?, self.path_of(to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.refuse_write()?;
        fs::remove_file(self.path_of(name)?)
    }

    fn sync_directory(&self) -> io::Result<()> {
        // Use the open directory: in the middle of a commit, no new descriptor is needed.
        self.directory.sync_all()
    }
}

/// Returns the error for a file of this name that another process has locked.
fn taken(name: &str) -> io::Error {
    let text = format!(
        "its file '{name}' was removed or replaced, and another process has locked it; stop one of the two processes"
    );
    io::Error::other(text)
}

/// Returns the error for a name that now refers to another file than the open one.
fn other_file(name: &str) -> io::Error {
    io::Error::other(format!("its '{name}' is now another file; put back the file that was opened, and start again"))
}

/// Returns the error for a name that no longer refers to any file.
fn no_file(name: &str) -> io::Error {
    let text = format!(
        "its '{name}' is gone; move back the file that was opened, or put the newest copy there, and start again"
    );
    io::Error::other(text)
}

fn replaced() -> io::Error {
    io::Error::other(
        "its path now names another directory, or none; put back the directory that was opened, and start again",
    )
}

/// Creates a file at any path, for data that leaves a data directory. Only its owner may use it.
///
/// # Errors
/// There is a file of this name, or it cannot be created.
pub fn create_file(path: &Path) -> io::Result<Box<dyn StorageFile>> {
    let file = private().create_new(true).read(true).write(true).open(path)?;
    Ok(Box::new(DiskFile::new(file)))
}

/// Opens a file at any path, read-only.
///
/// # Errors
/// It cannot be opened.
pub fn open_file(path: &Path) -> io::Result<Box<dyn StorageFile>> {
    Ok(Box::new(DiskFile::new(File::open(path)?)))
}

/// Renames a file within its directory. The new name is durable when this returns.
///
/// # Errors
/// The file has the old or the new name.
pub fn rename_file(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_parent(to)
}

/// Makes the names durable in the directory that contains `path`.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// Returns options for a file that only its owner may use, because it may contain states and secrets.
fn private() -> fs::OpenOptions {
    let mut options = File::options();
    options.mode(0o600);
    options
}

#[derive(Debug)]
struct DiskFile {
    file: File,
    /// Whether a write returns only once its bytes are durable.
    syncs_writes: bool,
}

impl DiskFile {
    fn new(file: File) -> Self {
        Self { file, syncs_writes: false }
    }
}

impl StorageFile for DiskFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        Ok(identity(&self.file.metadata()?))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        FileExt::write_at(&self.file, bytes, offset)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        FileExt::read_at(&self.file, buffer, offset)
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    #[cfg(target_os = "linux")]
    fn hold_room(&self, bytes: u64, spare: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
        // Reserve space only after the end: the rest was written.
        let metadata = self.file.metadata()?;
        let end = metadata.len();
        if bytes <= end {
            return Ok(());
        }
        let hold = |bytes| rustix::io::retry_on_intr(|| fallocate(&self.file, FallocateFlags::KEEP_SIZE, end, bytes));
        let taken = metadata.blocks() * BLOCK_BYTES;
        if spare > 0 && bytes > taken {
            let disk = fstatvfs(&self.file)?;
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            // A file system without a fixed size (tmpfs with `size=0`) reports no blocks.
            if disk.f_blocks > 0 && free < (bytes - taken).saturating_add(spare) {
                // Where space cannot be reserved at all, report that instead of the lack of space.
                hold(1)?;
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        hold(bytes - end).map_err(|error| {
            // ext4 and XFS keep the space that they reserved before the disk was full. Truncating the file releases all
            // of it.
            if taken <= end + HELD_BYTES_MIN {
                let _ = self.file.set_len(end);
            }
            error.into()
        })
    }

    #[cfg(not(target_os = "linux"))]
    fn hold_room(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write_synced_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(offset, bytes)?;
        if self.syncs_writes { Ok(()) } else { self.sync_data() }
    }
}

#[cfg(test)]
mod tests;
