//! The minimum cost of durability on this disk: overwriting a preallocated file, and `fdatasync`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The size of the file in bytes. Once it is full, it is overwritten from its start.
const FILE_BYTES: usize = 64 * 1024 * 1024;

/// The default length of a write, in bytes: the smallest frame of a journal.
pub(crate) const BLOCK_BYTES: usize = 4096;

/// The number of writes of a probe.
const PROBE_WRITES: u64 = 16;

/// Creates a directory on the disk of the build, which is removed on drop.
pub(crate) fn scratch() -> TempDir {
    tempfile::Builder::new().prefix("ratios-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

/// A file whose blocks are already allocated.
pub(crate) struct RawLog {
    file: File,
    offset: usize,
}

impl RawLog {
    /// Preallocates the file at `path` by writing zeros. Otherwise the file system would have to record with each
    /// `fdatasync` that another part of the file is in use.
    pub(crate) fn create(path: &Path) -> Self {
        let file = File::options().write(true).create_new(true).open(path).expect("a file");
        file.write_all_at(&vec![0; FILE_BYTES], 0).expect("space");
        file.sync_all().expect("a disk");
        Self { file, offset: 0 }
    }

    /// Makes `count` writes of `bytes` bytes durable, one after another, and returns the elapsed time.
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

    /// Measures the current speed of the disk.
    pub(crate) fn probe(&mut self) -> Duration {
        self.write(PROBE_WRITES, BLOCK_BYTES)
    }
}
