//! A backend that lets redb keep its file in our storage. So the faults of the simulated storage affect the catalog
//! too.
//!
//! A failed write, change of length or sync is final. The disk may have any part of the earlier writes, and a later
//! successful sync does not change that. So nothing is written after it, not even by redb when it is dropped.
//!
//! The backend also records how far a failed commit came. In a commit of two phases redb writes its header twice, each
//! time with a sync before and after it. The second time it flips the bit that selects one of its two roots. Before
//! that write no part of the commit is on the disk, and after the sync that follows all of it is.
//!
//! The backend also has the disk hold room behind the end of the file, the *reserve*, where the file system can. The
//! reserve is as much as redb needs when it has no free page left: it doubles the file. A change with [`Room::Reserve`]
//! may grow into the reserve. A change with [`Room::Ordinary`] does not begin unless the reserve is whole.
//!
//! Held room need not be released, or written again after a crash: it belongs to the file on the disk, and no other
//! file can take it in between. The reserve is checked at each opening, growth and cut of the file, and before each
//! change that needs it whole.
//!
//! The reserve also counts towards the longest file: a change with [`Room::Ordinary`] grows the file only so far that
//! it can be doubled once more. In a file that a removal has already doubled, the free pages are the reserve: nothing
//! is added while less is free than is in use.

use lifeboat_api::size::Bytes as ByteCount;
use lifeboat_journal::storage::StorageFile;
use redb::StorageBackend;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// The longest file of a catalog, in bytes. It keeps redb from asking for more because of a damaged file. Changes with
/// [`Room::Ordinary`] leave the file at half of that at most. They are refused while it is longer and less than half of
/// it is free.
pub(super) const CATALOG_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// The least room that is held behind the end of the file, in bytes. A file longer than this needs as much room as it
/// is long.
const RESERVE_BYTES_MIN: u64 = 4 * 1024 * 1024;

/// The space that the reserve leaves to other files on the disk, in bytes: snapshots and the journal need some, too.
pub(super) const SPARE_BYTES: u64 = 16 * 1024 * 1024;

/// The offset in the file of the byte of redb's header that selects the root that counts.
const ROOT_BYTE: usize = 9;

/// The bit of that byte that selects the root.
const ROOT_BIT: u8 = 1;

/// A file for redb.
#[derive(Debug)]
pub(super) struct Backend {
    file: Arc<dyn StorageFile>,
    progress: Arc<Progress>,
}

/// The room that a change may take if the file has no free pages for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Only room that leaves the reserve whole.
    Ordinary,
    /// The reserve as well: for changes that make room, and for those of a stop or a start.
    Reserve,
}

/// The first failure of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failed {
    /// A write, or a change of length. A reader of the file sees what the disk has.
    Write,
    /// A sync. What a reader sees may not be on the disk, and no later sync can tell the difference.
    Sync,
    /// Any other failure.
    Otherwise,
}

/// How far a commit came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Reached {
    /// No part of it is on the disk, or ever will be.
    Nothing,
    /// It may be on the disk.
    Perhaps,
    /// It is on the disk.
    Disk,
}

/// A file, the outcome of the writes to it, and its reserve. A copy in memory has no file, so nothing is written.
#[derive(Debug, Default)]
pub(super) struct Progress {
    file: Option<Arc<dyn StorageFile>>,
    /// The longest length of the file, in bytes.
    bytes_max: u64,
    /// Whether the current writes must leave the reserve whole.
    is_ordinary: AtomicBool,
    /// The end of the held room, as far as it is known. To ask the disk again would slow down the next sync.
    held: AtomicU64,
    /// The end of the missing room when a change with [`Room::Ordinary`] last had no free page left.
    missing: AtomicU64,
    failed: OnceLock<Failed>,
    /// The last root bit that was written, plus one; 0 if none was.
    root: AtomicU8,
    /// A [`Reached`].
    reached: AtomicU8,
    /// How many callers asked for a transaction, which they may have to wait for.
    #[cfg(test)]
    beginnings: AtomicU64,
}

impl Progress {
    /// Creates the progress of a file to which nothing was written yet, and which may grow to `bytes_max`.
    pub(super) fn of(file: Box<dyn StorageFile>, bytes_max: u64) -> Self {
        Self { file: Some(file.into()), bytes_max, ..Self::default() }
    }

    /// Creates the progress of the same file after it was reopened.
    pub(super) fn anew(&self, file: Box<dyn StorageFile>) -> Self {
        Self { missing: self.missing().into(), ..Self::of(file, self.bytes_max) }
    }

    /// Returns the end of the missing room, as an offset in the file in bytes; 0 if that is not known.
    pub(super) fn missing(&self) -> u64 {
        self.missing.load(Ordering::Acquire)
    }

    /// Makes the next change check whether there is room for it: pages have become free, or it needs fewer.
    pub(super) fn forget_missing(&self) {
        self.missing.store(0, Ordering::Release);
    }

    /// Has the disk hold the reserve, and the room for which a change was refused. No other commit may be in progress.
    ///
    /// # Errors
    /// There is no room for it. [`io::ErrorKind::FileTooLarge`] if the file would exceed its longest length with it.
    pub(super) fn hold_reserve(&self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        self.hold_whole(file.as_ref(), reserve_end(file.bytes()?))?;
        self.hold_whole(file.as_ref(), self.missing())?;
        self.missing.store(0, Ordering::Release);
        Ok(())
    }

    /// Returns whether the file is too long for a reserve because a change with [`Room::Reserve`] has grown it.
    pub(super) fn is_too_long(&self) -> bool {
        reserve_end(self.bytes()) > self.bytes_max
    }

    /// Returns the length of the file, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.file.as_ref().map_or(0, |file| file.bytes().unwrap_or_default())
    }

    /// Has the disk hold a reserve up to `end`, if the file may become that long.
    ///
    /// # Errors
    /// The errors of [`Progress::hold_reserve`].
    fn hold_whole(&self, file: &dyn StorageFile, end: u64) -> io::Result<()> {
        if end > self.bytes_max {
            let (end, max) = (ByteCount(end), ByteCount(self.bytes_max));
            let text = format!("with what is reserved for removals it would be {end} long, the limit is {max}");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        self.hold(file, end, SPARE_BYTES)
    }

    /// Has the disk hold room up to `end`, and leave `spare` to other files unless that is 0.
    ///
    /// # Errors
    /// There is no room. A file system that cannot hold room is not an error: it has room or not once the file is
    /// written.
    fn hold(&self, file: &dyn StorageFile, end: u64, spare: u64) -> io::Result<()> {
        if end > self.held.load(Ordering::Acquire) {
            file.hold_room(end, spare).or_else(|error| if is_no_room(error.kind()) { Err(error) } else { Ok(()) })?;
            self.held.store(end, Ordering::Release);
        }
        Ok(())
    }

    /// Records that there is no room up to `end`, if the current writes must leave the reserve whole.
    fn note_missing(&self, end: u64) {
        if self.is_ordinary.load(Ordering::Acquire) {
            self.missing.store(end, Ordering::Release);
        }
    }

    /// Ensures the room for a file that is about to grow to `bytes`.
    fn hold_growth(&self, file: &dyn StorageFile, bytes: u64) -> io::Result<()> {
        let end = reserve_end(bytes);
        match self.hold_whole(file, end) {
            Err(error) if self.is_ordinary.load(Ordering::Acquire) => {
                self.note_missing(end);
                Err(error)
            }
            // The reserve exists for this.
            Err(_) => self.hold(file, bytes, 0),
            Ok(()) => Ok(()),
        }
    }

    /// Restores the held room of a file that was cut to `bytes`. The cut released it.
    fn hold_cut(&self, file: &dyn StorageFile, bytes: u64) {
        let held = self.held.swap(0, Ordering::AcqRel);
        let end = reserve_end(bytes);
        // First hold again the room that was held, whatever that leaves to other files. Hold more only if it leaves
        // them their spare.
        if held > 0 {
            let _ = self.hold(file, held.min(end).min(self.bytes_max), 0);
        }
        // Find out about missing room before it is needed.
        let _ = self.hold_whole(file, end);
    }

    /// Returns the length of the reserve, in bytes.
    pub(super) fn reserve_bytes(&self) -> u64 {
        let bytes = self.bytes();
        reserve_end(bytes) - bytes
    }

    /// Returns the first failure.
    pub(super) fn failed(&self) -> Option<Failed> {
        self.failed.get().copied()
    }

    /// Records a failure.
    pub(super) fn fail(&self, failed: Failed) {
        // Only the first failure counts.
        let _ = self.failed.set(failed);
    }

    #[cfg(test)]
    pub(super) fn note_beginning(&self) {
        self.beginnings.fetch_add(1, Ordering::AcqRel);
    }

    #[cfg(test)]
    pub(super) fn beginnings(&self) -> u64 {
        self.beginnings.load(Ordering::Acquire)
    }

    /// Records that a commit begins, and which room it may take. No other commit may be in progress.
    pub(super) fn begin(&self, room: Room) {
        self.reached.store(Reached::Nothing as u8, Ordering::Release);
        self.is_ordinary.store(room == Room::Ordinary, Ordering::Release);
    }

    /// Returns how far the last commit came.
    pub(super) fn reached(&self) -> Reached {
        match self.reached.load(Ordering::Acquire) {
            0 => Reached::Nothing,
            1 => Reached::Perhaps,
            _ => Reached::Disk,
        }
    }

    /// Records what is about to be written.
    fn writes(&self, offset: u64, data: &[u8]) {
        let Some(byte) = data.get(ROOT_BYTE).filter(|_| offset == 0) else { return };
        let root = 1 + (byte & ROOT_BIT);
        if self.root.swap(root, Ordering::AcqRel) != root {
            self.reached.store(Reached::Perhaps as u8, Ordering::Release);
        }
    }

    /// Records that all writes are on the disk.
    fn synced(&self) {
        if self.reached() == Reached::Perhaps {
            self.reached.store(Reached::Disk as u8, Ordering::Release);
        }
    }
}

/// Returns the end of the reserve of a file of `bytes`.
fn reserve_end(bytes: u64) -> u64 {
    bytes.saturating_add(bytes.max(RESERVE_BYTES_MIN))
}

/// Returns whether an operation failed for lack of room.
pub(super) fn is_no_room(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Backend {
    /// Creates a backend that reports every failure of its file to `progress`, and refuses all writes after the first.
    pub(super) fn new(progress: Arc<Progress>) -> Self {
        let file = Arc::clone(progress.file.as_ref().expect("it is of a file"));
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
            let bytes_max = self.progress.bytes_max;
            if len > bytes_max {
                self.progress.note_missing(reserve_end(len));
                let message = format!("it would be {} long, the limit is {}", ByteCount(len), ByteCount(bytes_max));
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
            }
            let before = file.bytes()?;
            if len <= before {
                file.set_bytes(len)?;
                self.progress.hold_cut(file, len);
                return Ok(());
            }
            self.progress.hold_growth(file, len)?;
            file.set_bytes(len)?;
            // Otherwise the added range takes no room before it is written, and there may be none then.
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
