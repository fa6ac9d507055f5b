//! Lets redb keep its file in our storage, so that what the simulated storage does to files it does to the catalog.
//!
//! A failed write, change of length or sync is final: the disk may have any of what was written before it, and a later
//! sync that succeeds says nothing about that. So nothing is written after it, not even what redb writes when it is
//! dropped.
//!
//! It also knows how far a commit came that failed. redb writes its header twice in a commit of two phases, each time
//! with a sync before and after it, and the second time with another bit for which of its two roots counts: before that
//! write nothing of the commit is on the disk, and after the sync that follows all of it is.

use crate::storage::StorageFile;
use redb::StorageBackend;
use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

/// The longest file of a catalog, in bytes. A damaged file must not make redb ask for more.
pub(super) const CATALOG_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Where redb's header, which begins the file, says which of its roots counts.
const ROOT_BYTE: usize = 9;

/// The bit of that byte.
const ROOT_BIT: u8 = 1;

/// A file for redb.
#[derive(Debug)]
pub(super) struct Backend {
    file: Box<dyn StorageFile>,
    progress: Arc<Progress>,
}

/// What has failed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failed {
    /// A write, or a change of length. What the disk has is what a reader of the file sees.
    Write,
    /// A sync: what a reader sees may not be on the disk, and no later sync tells.
    Sync,
    /// Something else.
    Otherwise,
}

/// How far a commit came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Reached {
    /// Nothing of it is on the disk, or ever will be.
    Nothing,
    /// It may be on the disk.
    Perhaps,
    /// It is on the disk.
    Disk,
}

/// What became of the writes to a file.
#[derive(Debug, Default)]
pub(super) struct Progress {
    failed: OnceLock<Failed>,
    /// The last root bit that was written, one more than it is; 0 if none was.
    root: AtomicU8,
    /// A [`Reached`].
    reached: AtomicU8,
}

impl Progress {
    /// What has failed first.
    pub(super) fn failed(&self) -> Option<Failed> {
        self.failed.get().copied()
    }

    /// Notes that something has failed.
    pub(super) fn fail(&self, failed: Failed) {
        // The first one counts.
        let _ = self.failed.set(failed);
    }

    /// Notes that a commit begins. Nobody else may have one under way.
    pub(super) fn begin(&self) {
        self.reached.store(Reached::Nothing as u8, Ordering::Release);
    }

    /// How far the last commit came.
    pub(super) fn reached(&self) -> Reached {
        match self.reached.load(Ordering::Acquire) {
            0 => Reached::Nothing,
            1 => Reached::Perhaps,
            _ => Reached::Disk,
        }
    }

    /// Notes what is about to be written.
    fn writes(&self, offset: u64, data: &[u8]) {
        let Some(byte) = data.get(ROOT_BYTE).filter(|_| offset == 0) else { return };
        let root = 1 + (byte & ROOT_BIT);
        if self.root.swap(root, Ordering::AcqRel) != root {
            self.reached.store(Reached::Perhaps as u8, Ordering::Release);
        }
    }

    /// Notes that all that was written is on the disk.
    fn synced(&self) {
        if self.reached() == Reached::Perhaps {
            self.reached.store(Reached::Disk as u8, Ordering::Release);
        }
    }
}

impl Backend {
    /// `progress` is told of every failure, and refuses all writes after the first.
    pub(super) fn new(file: Box<dyn StorageFile>, progress: Arc<Progress>) -> Self {
        Self { file, progress }
    }

    fn change(&self, failed: Failed, change: impl FnOnce(&dyn StorageFile) -> io::Result<()>) -> io::Result<()> {
        if self.progress.failed().is_some() {
            return Err(io::Error::other("an earlier write failed"));
        }
        change(self.file.as_ref()).inspect_err(|_| self.progress.fail(failed))
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.bytes()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Failed::Write, |file| {
            if len > CATALOG_BYTES_MAX {
                let message = format!("the catalog needs {len} bytes, the limit is {CATALOG_BYTES_MAX} bytes");
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
            }
            let before = file.bytes()?;
            file.set_bytes(len)?;
            // Or what is added takes no room before it is written, and there may be none then.
            file.fill_with_zeros(before, len).inspect_err(|_| drop(file.set_bytes(before)))
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(Failed::Sync, |file| file.sync_data())?;
        self.progress.synced();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Failed::Write, |file| {
            self.progress.writes(offset, data);
            file.write_all_at(offset, data)
        })
    }
}
