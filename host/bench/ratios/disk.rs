//! The least that durability could cost on this disk: overwriting a preallocated file, and `fdatasync`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The size of the file, which is overwritten from its start again once it is full.
const FILE_BYTES: usize = 64 * 1024 * 1024;

/// What is written where nobody asks for more, in bytes: the smallest frame of a journal.
pub(crate) const BLOCK_BYTES: usize = 4096;

/// Writes of a probe.
const PROBE_WRITES: u64 = 16;

/// A directory on the disk of the build, until it is dropped.
pub(crate) fn scratch() -> TempDir {
    tempfile::Builder::new().prefix("ratios-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

/// A file that is there already, and its blocks too.
pub(crate) struct RawLog {
    file: File,
    offset: usize,
}

impl RawLog {
    /// Preallocates the file at `path`. Zeros are written, as the file system would otherwise have to note
    /// with each `fdatasync` that a part of the file is in use now.
    pub(crate) fn create(path: &Path) -> Self {
        let file = File::options().write(true).create_new(true).open(path).expect("a file");
        file.write_all_at(&vec![0; FILE_BYTES], 0).expect("space");
        file.sync_all().expect("a disk");
        Self { file, offset: 0 }
    }

    /// Makes `count` writes of `bytes` durable, one after another, and says how long that took.
    pub(crate) fn write(&mut self, count: u64, bytes: usize) -> Duration {
        let frame = vec![0x5a; bytes];
        let start = Instant::now();
        for _ in 0..count {
            if self.offset + bytes > FILE_BYTES {
                self.offset = 0;
            }
            self.file.write_all_at(&frame, self.offset as u64).expect("it is preallocated");
            self.file.sync_data().expect("a disk");
            self.offset += bytes;
        }
        start.elapsed()
    }

    /// How the disk is just now.
    pub(crate) fn probe(&mut self) -> Duration {
        self.write(PROBE_WRITES, BLOCK_BYTES)
    }
}
