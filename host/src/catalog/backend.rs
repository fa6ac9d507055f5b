//! Lets redb keep its file in our storage, so that what the simulated storage does to files it does to the catalog.
//!
//! A failed write, change of length or sync is final: the disk may have any of what was written before it, and a later
//! sync that succeeds says nothing about that. So nothing is written after it, not even what redb writes when it is
//! dropped.

use crate::storage::StorageFile;
use redb::StorageBackend;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The longest file of a catalog, in bytes. A damaged file must not make redb ask for more.
pub(super) const CATALOG_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// A file for redb.
#[derive(Debug)]
pub(super) struct Backend {
    file: Box<dyn StorageFile>,
    has_failed: Arc<AtomicBool>,
}

impl Backend {
    /// `has_failed` is set by the first failure, and refuses all writes once it is set.
    pub(super) fn new(file: Box<dyn StorageFile>, has_failed: Arc<AtomicBool>) -> Self {
        Self { file, has_failed }
    }

    fn change(&self, change: impl FnOnce(&dyn StorageFile) -> io::Result<()>) -> io::Result<()> {
        if self.has_failed.load(Ordering::SeqCst) {
            return Err(io::Error::other("an earlier write failed"));
        }
        change(self.file.as_ref()).inspect_err(|_| self.has_failed.store(true, Ordering::SeqCst))
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
        self.change(|file| {
            if len > CATALOG_BYTES_MAX {
                let message = format!("the catalog needs {len} bytes, the limit is {CATALOG_BYTES_MAX} bytes");
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
            }
            file.set_bytes(len)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(|file| file.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(|file| file.write_all_at(offset, data))
    }
}
