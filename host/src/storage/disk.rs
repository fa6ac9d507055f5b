//! A directory of the file system.

use super::{LockGuard, Storage, StorageFile, check_file_name};
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file whose lock stands for the directory's.
const LOCK_FILE: &str = "lock";

/// A directory on disk.
#[derive(Debug)]
pub struct DiskStorage {
    path: PathBuf,
}

impl DiskStorage {
    /// The directory at `path`, which is created if it is missing; its parent must be there. Its own name is then safe
    /// too.
    ///
    /// # Errors
    /// It is no directory, or it cannot be created.
    pub fn create(path: &Path) -> io::Result<Self> {
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        // Whoever created it may have died before this.
        sync_parent(path)?;
        Self::open(path)
    }

    /// The directory at `path`.
    ///
    /// # Errors
    /// There is none.
    pub fn open(path: &Path) -> io::Result<Self> {
        if !fs::metadata(path)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self { path: path.to_owned() })
    }

    fn path_of(&self, name: &str) -> io::Result<PathBuf> {
        check_file_name(name)?;
        Ok(self.path.join(name))
    }
}

impl Storage for DiskStorage {
    fn lock(&self) -> io::Result<LockGuard> {
        let file = File::options().create(true).truncate(false).write(true).open(self.path.join(LOCK_FILE))?;
        match file.try_lock() {
            Ok(()) => Ok(LockGuard::new(Box::new(file))),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let file = private().create_new(true).read(true).write(true).open(self.path_of(name)?)?;
        Ok(Box::new(DiskFile::new(file)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let file = File::options().read(true).write(true).open(self.path_of(name)?)?;
        Ok(Box::new(DiskFile::new(file)))
    }

    // Elsewhere a sync may do more than this flag: it reaches the medium, and the flag the drive's cache.
    #[cfg(target_os = "linux")]
    fn open_synced(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let mut options = File::options();
        // On Linux each write is then synced as by `fdatasync`, in one system call instead of two: a tenth less.
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
        fs::rename(self.path_of(from)?, self.path_of(to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path_of(name)?)
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// Creates a file anywhere, for what is to leave a data directory.
///
/// # Errors
/// There is one of this name, or it cannot be created.
pub fn create_file(path: &Path) -> io::Result<Box<dyn StorageFile>> {
    let file = File::options().create_new(true).read(true).write(true).open(path)?;
    Ok(Box::new(DiskFile::new(file)))
}

/// Opens a file anywhere, to read it only.
///
/// # Errors
/// It cannot be opened.
pub fn open_file(path: &Path) -> io::Result<Box<dyn StorageFile>> {
    Ok(Box::new(DiskFile::new(File::open(path)?)))
}

/// Gives a file its name, in the same directory. It is safe when this returns.
///
/// # Errors
/// It has the old or the new name.
pub fn rename_file(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_parent(to)
}

/// Makes the names safe in the directory that `path` is in.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// Options for a file of the owner alone: states and secrets are nobody else's.
fn private() -> fs::OpenOptions {
    let mut options = File::options();
    options.mode(0o600);
    options
}

#[derive(Debug)]
struct DiskFile {
    file: File,
    /// Whether a write returns once its bytes are safe.
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

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        FileExt::write_at(&self.file, bytes, offset)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        FileExt::read_at(&self.file, buffer, offset)
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
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
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_until_the_first_is_dropped() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let first = DiskStorage::create(&directory.path().join("journal"))?;
        let second = DiskStorage::open(&directory.path().join("journal"))?;
        let guard = first.lock()?;
        assert_eq!(second.lock().map(drop).map_err(|error| error.kind()), Err(io::ErrorKind::WouldBlock));
        drop(guard);
        second.lock().map(drop)
    }

    #[test]
    fn what_is_written_and_synced_in_one_is_there() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let storage = DiskStorage::create(directory.path())?;
        storage.create("a")?.preallocate(16)?;
        for file in [storage.open("a")?, storage.open_synced("a")?] {
            file.write_synced_at(7, b"seven")?;
            file.write_synced_at(12, b"x")?;
            let mut read = [0; 6];
            storage.open("a")?.read_exact_at(7, &mut read)?;
            assert_eq!((&read, file.bytes()?), (b"sevenx", 16));
        }
        assert_eq!(storage.open_synced("b").map(drop).map_err(|error| error.kind()), Err(io::ErrorKind::NotFound));
        Ok(())
    }

    #[test]
    fn a_file_is_cut_off_and_grows_with_zeros() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let file = DiskStorage::create(directory.path())?.create("a")?;
        file.write_all_at(0, b"seven")?;
        file.set_bytes(2)?;
        assert_eq!(file.bytes()?, 2);
        file.set_bytes(4)?;
        let mut read = [1; 4];
        file.read_exact_at(0, &mut read)?;
        assert_eq!(&read, b"se\0\0");
        Ok(())
    }

    #[test]
    fn files_keep_what_is_written_and_names_stay_in_the_directory() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let storage = DiskStorage::create(directory.path())?;
        let file = storage.create("a")?;
        file.preallocate(3 * 1024 * 1024 + 5)?;
        file.write_all_at(7, b"seven")?;
        file.sync_data()?;
        storage.rename("a", "b")?;
        storage.sync_directory()?;
        assert_eq!(storage.list()?, ["b"]);
        let file = storage.open("b")?;
        assert_eq!(file.bytes()?, 3 * 1024 * 1024 + 5);
        let mut read = [0; 6];
        file.read_exact_at(6, &mut read)?;
        assert_eq!(&read, b"\0seven");
        for name in ["../a", "", "..", "a/b"] {
            assert_eq!(storage.create(name).map(drop).map_err(|error| error.kind()), Err(io::ErrorKind::InvalidInput));
        }
        assert_eq!(storage.create("b").map(drop).map_err(|error| error.kind()), Err(io::ErrorKind::AlreadyExists));
        storage.remove("b")?;
        assert!(storage.list()?.is_empty());
        Ok(())
    }
}
