//! Lets redb keep its file in our storage, so that what the simulated storage does to files it does to the catalog.
//!
//! A failed write, change of length or sync is final: the disk may have any of what was written before it, and a later
//! sync that succeeds says nothing about that. So nothing is written after it, not even what redb writes when it is
//! dropped.

use crate::storage::StorageFile;
use redb::StorageBackend;
use std::io;
use std::sync::{Arc, OnceLock};

/// The longest file of a catalog, in bytes. A damaged file must not make redb ask for more.
pub(super) const CATALOG_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// A file for redb.
#[derive(Debug)]
pub(super) struct Backend {
    file: Box<dyn StorageFile>,
    failure: Arc<FailureFlag>,
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

/// Says once that something has failed.
#[derive(Debug, Default)]
pub(super) struct FailureFlag(OnceLock<Failed>);

impl FailureFlag {
    pub(super) fn get(&self) -> Option<Failed> {
        self.0.get().copied()
    }

    pub(super) fn set(&self, failed: Failed) {
        // The first one counts.
        let _ = self.0.set(failed);
    }
}

impl Backend {
    /// `failure` is set by the first failure, and refuses all writes once it is set.
    pub(super) fn new(file: Box<dyn StorageFile>, failure: Arc<FailureFlag>) -> Self {
        Self { file, failure }
    }

    fn change(&self, failed: Failed, change: impl FnOnce(&dyn StorageFile) -> io::Result<()>) -> io::Result<()> {
        if self.failure.get().is_some() {
            return Err(io::Error::other("an earlier write failed"));
        }
        change(self.file.as_ref()).inspect_err(|_| self.failure.set(failed))
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
        self.change(Failed::Sync, |file| file.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Failed::Write, |file| file.write_all_at(offset, data))
    }
}
