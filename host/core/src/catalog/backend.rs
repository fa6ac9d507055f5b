//! Lets redb keep its file in our storage, so that what the simulated storage does to files it does to the catalog.
//!
//! A failed write, change of length or sync is final: the disk may have any of what was written before it, and a later
//! sync that succeeds says nothing about that. So nothing is written after it, not even what redb writes when it is
//! dropped.
//!
//! It also knows how far a commit came that failed. redb writes its header twice in a commit of two phases, each time
//! with a sync before and after it, and the second time with another bit for which of its two roots counts: before that
//! write nothing of the commit is on the disk, and after the sync that follows all of it is.
//!
//! And it has the disk hold room behind the end of the file, the *reserve*, where the file system can: as much as redb asks
//! for when it has no free page left, which is to double the file. A change with [`Room::Reserve`] may grow into it, one
//! with [`Room::Ordinary`] not even begins while it is not whole. Nothing has to be released, or written again after a
//! crash: the disk knows to whom the room belongs, nobody else gets it in between, and what is held is seen to at each
//! opening, growth and cut of the file and before each change that needs it whole. The reserve is part of the longest file,
//! too: a change with [`Room::Ordinary`] grows the file no further than that it may be doubled once more. In one that a
//! removal has doubled already, the reserve is what is free: nothing is added while that is less than what is in use.

use lifeboat_api::size::Bytes as ByteCount;
use lifeboat_journal::storage::StorageFile;
use redb::StorageBackend;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// The longest file of a catalog, in bytes. A damaged file must not make redb ask for more. Changes with [`Room::Ordinary`]
/// leave it at half of that at most, and are refused while it is longer and less than half of it is free.
pub(super) const CATALOG_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// The least room that is held behind the end of the file, in bytes; as much as the file is long if that is more.
const RESERVE_BYTES_MIN: u64 = 4 * 1024 * 1024;

/// What is left of the disk to others, in bytes, when room is held for the reserve: snapshots and the journal need some, too.
pub(super) const SPARE_BYTES: u64 = 16 * 1024 * 1024;

/// Where redb's header, which begins the file, says which of its roots counts.
const ROOT_BYTE: usize = 9;

/// The bit of that byte.
const ROOT_BIT: u8 = 1;

/// A file for redb.
#[derive(Debug)]
pub(super) struct Backend {
    file: Arc<dyn StorageFile>,
    progress: Arc<Progress>,
}

/// Which room a change may take for what the file has no free pages for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// What leaves the reserve whole.
    Ordinary,
    /// The reserve, too: for what makes room, and for what a stop or a start writes.
    Reserve,
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

/// A file, what became of the writes to it, and its reserve. Without a file there is nothing to write.
#[derive(Debug, Default)]
pub(super) struct Progress {
    file: Option<Arc<dyn StorageFile>>,
    /// How long the file may be at most, in bytes.
    bytes_max: u64,
    /// Whether what is written now must leave the reserve whole.
    is_ordinary: AtomicBool,
    /// Up to where room is held, as far as that is known: to ask the disk again would make the next sync slower.
    held: AtomicU64,
    /// Up to where room was missing when a change with [`Room::Ordinary`] had no free page left.
    missing: AtomicU64,
    failed: OnceLock<Failed>,
    /// The last root bit that was written, one more than it is; 0 if none was.
    root: AtomicU8,
    /// A [`Reached`].
    reached: AtomicU8,
    /// How many asked for a transaction, which they may have to wait for.
    #[cfg(test)]
    beginnings: AtomicU64,
}

impl Progress {
    /// Of a file of which nothing was written yet, and which may become `bytes_max` long.
    pub(super) fn of(file: Box<dyn StorageFile>, bytes_max: u64) -> Self {
        Self { file: Some(file.into()), bytes_max, ..Self::default() }
    }

    /// Of the same file that was opened anew.
    pub(super) fn anew(&self, file: Box<dyn StorageFile>) -> Self {
        Self { missing: self.missing().into(), ..Self::of(file, self.bytes_max) }
    }

    /// Up to where room is missing, in bytes from the begin of the file; 0 if that is not known.
    pub(super) fn missing(&self) -> u64 {
        self.missing.load(Ordering::Acquire)
    }

    /// Has the next change find out whether there is room for it: pages have become free, or it needs fewer.
    pub(super) fn forget_missing(&self) {
        self.missing.store(0, Ordering::Release);
    }

    /// Has the disk hold the reserve, and what a change was refused for. Nobody else may have a commit under way.
    ///
    /// # Errors
    /// There is no room for it. [`io::ErrorKind::FileTooLarge`] if the file would become longer with it than it may.
    pub(super) fn hold_reserve(&self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        self.hold_whole(file.as_ref(), reserve_end(file.bytes()?))?;
        self.hold_whole(file.as_ref(), self.missing())?;
        self.missing.store(0, Ordering::Release);
        Ok(())
    }

    /// Whether the file is so long that no reserve fits: a change with [`Room::Reserve`] has grown it.
    pub(super) fn is_too_long(&self) -> bool {
        reserve_end(self.bytes()) > self.bytes_max
    }

    /// How long the file is, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.file.as_ref().map_or(0, |file| file.bytes().unwrap_or_default())
    }

    /// Has the disk hold a reserve up to `end`, if the file may become as long.
    ///
    /// # Errors
    /// As [`Progress::hold_reserve`].
    fn hold_whole(&self, file: &dyn StorageFile, end: u64) -> io::Result<()> {
        if end > self.bytes_max {
            let (end, max) = (ByteCount(end), ByteCount(self.bytes_max));
            let text = format!("with what is reserved for removals it would be {end} long, the limit is {max}");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        self.hold(file, end, SPARE_BYTES)
    }

    /// Has the disk hold room up to `end`, and leave `spare` to others unless that is 0.
    ///
    /// # Errors
    /// There is none. A file system that cannot hold room has it or not once it is written.
    fn hold(&self, file: &dyn StorageFile, end: u64, spare: u64) -> io::Result<()> {
        if end > self.held.load(Ordering::Acquire) {
            file.hold_room(end, spare).or_else(|error| if is_no_room(error.kind()) { Err(error) } else { Ok(()) })?;
            self.held.store(end, Ordering::Release);
        }
        Ok(())
    }

    /// Notes that there is no room up to `end`, if what is written is to leave the reserve whole.
    fn note_missing(&self, end: u64) {
        if self.is_ordinary.load(Ordering::Acquire) {
            self.missing.store(end, Ordering::Release);
        }
    }

    /// Sees to the room for a file that is to be of `bytes`.
    fn hold_growth(&self, file: &dyn StorageFile, bytes: u64) -> io::Result<()> {
        let end = reserve_end(bytes);
        match self.hold_whole(file, end) {
            Err(error) if self.is_ordinary.load(Ordering::Acquire) => {
                self.note_missing(end);
                Err(error)
            }
            // The reserve is there for this.
            Err(_) => self.hold(file, bytes, 0),
            Ok(()) => Ok(()),
        }
    }

    /// Sees to the room of a file that was cut to `bytes`, with which what was held ends.
    fn hold_cut(&self, file: &dyn StorageFile, bytes: u64) {
        let held = self.held.swap(0, Ordering::AcqRel);
        let end = reserve_end(bytes);
        // What was held is held again, whatever that leaves to others, and more only if it leaves them theirs.
        if held > 0 {
            let _ = self.hold(file, held.min(end).min(self.bytes_max), 0);
        }
        // What is missing shows before it is needed.
        let _ = self.hold_whole(file, end);
    }

    /// How long the reserve is, in bytes.
    pub(super) fn reserve_bytes(&self) -> u64 {
        let bytes = self.bytes();
        reserve_end(bytes) - bytes
    }

    /// What has failed first.
    pub(super) fn failed(&self) -> Option<Failed> {
        self.failed.get().copied()
    }

    /// Notes that something has failed.
    pub(super) fn fail(&self, failed: Failed) {
        // The first one counts.
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

    /// Notes that a commit begins, and which room it may take. Nobody else may have one under way.
    pub(super) fn begin(&self, room: Room) {
        self.reached.store(Reached::Nothing as u8, Ordering::Release);
        self.is_ordinary.store(room == Room::Ordinary, Ordering::Release);
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

/// Where the reserve of a file ends that is so long.
fn reserve_end(bytes: u64) -> u64 {
    bytes.saturating_add(bytes.max(RESERVE_BYTES_MIN))
}

/// Whether an operation failed for want of room.
pub(super) fn is_no_room(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Backend {
    /// `progress` is told of every failure of its file, and refuses all writes after the first.
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
