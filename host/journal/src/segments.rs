//! The journal on disk: frames one after another in preallocated segment files.
//!
//! [`Log`] owns the files and is the only one that writes them. It knows of each service how far its records go, and
//! refuses any that would leave a gap; what the records mean is not its business.
//!
//! - A frame is written and synced before the next one is written. An error in between is final: the log is *poisoned*
//!   and only repeats it, since after a failed sync nobody knows what is on the disk.
//! - An error while a segment is begun is not final, as long as nothing of it has a segment's name: what is staged stays,
//!   and the commit can be tried again. So that this is known early, the file of the next segment is opened and filled
//!   while the active one has room.
//! - The first frame of a segment, and the last one before a clean stop, list every sound service with its next record:
//!   the *roster*. After damage, it tells who lost nothing although it was idle, and it remembers a service when all
//!   its records are gone.
//! - Space is given back from the oldest segment on. Of a service that pins it, the records are *relocated*: written once
//!   more. Segments that are given up become *spares*, so that a journal in its stride only overwrites.
//!
//! Crash safety, step by step: a spare gets its header and is synced before it is renamed to a segment, and the
//! directory is synced before a frame is written to it; a segment is renamed to a spare, and the directory synced,
//! before anything of it is overwritten, one after another so that no hole can appear, and only after all copies of what
//! is relocated from it are synced; what may be left of a torn frame is made unrecognisable, and synced, before the journal
//! goes on.

pub mod header;
mod reclaim;

pub use reclaim::{
    Moved, RELOCATED_FRAME_BYTES, RELOCATED_SHARE, RELOCATION_READ_BYTES, RELOCATION_READ_FRAMES, RESERVE_SHARE,
    Reclaim, Reclaimed, Step,
};

use super::frame::{
    BLOCK_BYTES, DirectoryId, FRAME_BYTES_MAX, FrameBuilder, FrameFull, FrameHash, FrameHeader, FrameKey, Position,
    RecordNumber, RunKind, Staged,
};
use super::reader::Reader;
use super::recovery::{
    Found, Integrity, Kept, Location, OpenError, Recovery, SEGMENT_BYTES_MAX, Seal, Segment, segment_name, walk,
};
use crate::storage::{FileIdentity, Storage, StorageFile};
use header::{SEGMENT_HEADER_BYTES, SegmentHeader};
use lifeboat_api::name::Name;
use lifeboat_api::size::Bytes;
use reclaim::Relocation;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use thiserror::Error;

/// How long a segment file is, in bytes, unless configured otherwise.
pub const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;

/// The shortest segment, in bytes: its header, a roster, and a frame.
pub const SEGMENT_BYTES_MIN: u64 = (SEGMENT_HEADER_BYTES + 4 * BLOCK_BYTES) as u64;

/// Segments that are kept to be overwritten.
pub const SPARES_MAX: usize = 3;

/// The file of the next segment is made ready once as much of the active one is used as its own length divided by this.
pub const NEXT_SHARE: u64 = 4;

/// Without the file of the next segment, the active one is short of room once it has no more than its own length divided by
/// this. The rest is for what was executed before that was known, and for what operators order: no less than the longest
/// frame.
pub const SHORT_SHARE: u64 = 2;

// A failure to make the file is known before the journal is short of room.
const _: () = assert!(SEGMENT_BYTES / SHORT_SHARE < SEGMENT_BYTES - SEGMENT_BYTES / NEXT_SHARE);
const _: () = assert!(FRAME_BYTES_MAX as u64 <= SEGMENT_BYTES / SHORT_SHARE);

/// Of how many segments it is checked at once, beside the active one, that their files are still at their places. The next
/// check goes on behind them.
pub const PLACES_CHECKED_MAX: usize = 16;

/// Which journal is opened, and how its new segments are.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which journal.
    pub directory: DirectoryId,
    /// How long new segments are, in bytes: from [`SEGMENT_BYTES_MIN`] to [`SEGMENT_BYTES_MAX`].
    pub segment_bytes: u64,
    /// How many segments are kept to be overwritten.
    pub spares_max: usize,
}

impl Options {
    /// The usual ones for the journal of `directory`.
    #[must_use]
    pub fn new(directory: DirectoryId) -> Self {
        Self { directory, segment_bytes: SEGMENT_BYTES, spares_max: SPARES_MAX }
    }
}

/// Whether there should be a journal already.
#[derive(Debug, Clone, Copy)]
pub enum Origin {
    /// It is created, unless a start that did not get far has done that.
    Create,
    /// It was in use, and was sealed if there is a seal.
    Existing(Option<Seal>),
}

/// What the log does not do.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum LogError {
    /// The frame is full: commit it first.
    #[error("the frame is full")]
    FrameFull,
    /// The record is longer than any frame.
    #[error("a record of {bytes} bytes is longer than the limit of {limit_bytes} bytes")]
    RecordTooLong {
        /// Its length.
        bytes: usize,
        /// The bound.
        limit_bytes: usize,
    },
    /// The record does not follow on the last one of its service, or the service has not begun.
    #[error("record {number} of service '{service}' does not follow: the next is {next}")]
    OutOfOrder {
        /// Whose it is.
        service: Name,
        /// Its number.
        number: RecordNumber,
        /// The number that would follow.
        next: RecordNumber,
    },
    /// Records of the service may be missing, so nothing can follow on them. It can begin anew.
    #[error("service '{service}' is quarantined: its journal is damaged")]
    NotSound {
        /// The service.
        service: Name,
    },
    /// There is no room or no descriptor for the next segment. What is staged stays, and the commit can be tried again.
    #[error("cannot {}", .0.action)]
    NotBegun(#[source] Arc<Failure>),
    /// A write or a sync failed, now or earlier. Nothing is appended any more.
    #[error("the journal failed: cannot {}", .0.action)]
    Poisoned(#[source] Arc<Failure>),
}

/// An error of the storage.
#[derive(Debug, Error)]
#[error("{error}")]
pub struct Failure {
    /// What was tried.
    pub action: &'static str,
    /// Why it failed. It is what the failure itself says, and not told once more as its source.
    pub error: io::Error,
    /// Whether it ends the log: bytes that count may or may not be on the disk.
    pub is_final: bool,
}

/// The file of a segment that is not begun yet.
#[derive(Debug)]
struct Next {
    name: String,
    file: Box<dyn StorageFile>,
    identity: FileIdentity,
    is_zeroed: bool,
}

/// A frame that can no longer be lost.
#[derive(Debug)]
pub struct Committed {
    header: FrameHeader,
    segment: u64,
    frame_offset: u32,
}

impl Committed {
    /// Where a record of the frame is.
    #[must_use]
    pub fn location(&self, staged: Staged) -> Location {
        let record_offset = staged.offset_in(&self.header);
        Location { segment: self.segment, frame_offset: self.frame_offset, record_offset }
    }

    /// How long the frame is, in bytes.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        self.header.frame_bytes
    }
}

/// The journal, open to append.
#[derive(Debug)]
pub struct Log {
    storage: Arc<dyn Storage>,
    options: Options,
    key: FrameKey,
    segments: VecDeque<Segment>,
    /// The file of the last segment, if it can be appended to.
    active: Option<Box<dyn StorageFile>>,
    /// The number of the segment whose place is checked next.
    unchecked: u64,
    spares: Vec<String>,
    /// What becomes the next segment, opened ahead.
    next: Option<Next>,
    /// Every service, as far as it is staged.
    services: BTreeMap<Name, Kept>,
    /// The next record of every sound service, as far as frames tell.
    committed: BTreeMap<Name, RecordNumber>,
    /// The segment with the last whole roster, if this process wrote one: those before it may go.
    roster_segment: Option<u64>,
    /// What is on its way to another place.
    relocation: Option<Relocation>,
    /// How many bytes may be relocated: a part of what was written since, or of the journal when it was opened.
    relocatable_bytes: u64,
    /// Services that could not be relocated.
    unrelocatable: BTreeSet<Name>,
    /// Services of which a relocation was cut off. Copies that are not whole are no matter as long as all originals are there.
    half_relocated: BTreeSet<Name>,
    position: Position,
    /// The position as well, for whoever has no log: it never falls back.
    end: Arc<AtomicU64>,
    previous: FrameHash,
    builder: FrameBuilder,
    buffer: Vec<u8>,
    poison: Option<Arc<Failure>>,
}

impl Log {
    /// Opens the journal in `storage`, hands every record that can be trusted to `found`, and says what is left.
    ///
    /// The caller holds the lock of the directory as long as the log lives.
    ///
    /// # Errors
    /// [`OpenError`]. Damage is none: it is told in the [`Recovery`].
    pub fn open(
        storage: Arc<dyn Storage>,
        options: Options,
        origin: Origin,
        found: &mut dyn FnMut(Found<'_>),
    ) -> Result<(Self, Recovery), OpenError> {
        let bytes = options.segment_bytes;
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes) || !bytes.is_multiple_of(BLOCK_BYTES as u64) {
            return Err(OpenError::SegmentBytes { bytes, min: SEGMENT_BYTES_MIN });
        }
        let seal = if let Origin::Existing(seal) = origin { seal } else { None };
        let walked = walk(&*storage, options.directory, seal.as_ref(), found)?;
        if walked.recovery.is_new && matches!(origin, Origin::Existing(None)) {
            return Err(OpenError::Missing);
        }
        let services = walked.recovery.services.clone();
        let sound = services.iter().filter(|(_, kept)| kept.standing == Integrity::Intact);
        let mut log = Self {
            committed: sound.map(|(service, kept)| (service.clone(), kept.next)).collect(),
            services,
            key: FrameKey::new(options.directory),
            segments: walked.segments.into(),
            active: None,
            unchecked: 0,
            spares: Vec::new(),
            next: None,
            roster_segment: None,
            relocation: None,
            relocatable_bytes: u64::MAX,
            unrelocatable: BTreeSet::new(),
            half_relocated: walked.half_relocated,
            position: walked.recovery.end,
            end: Arc::new(AtomicU64::new(walked.recovery.end.0)),
            previous: walked.previous,
            builder: FrameBuilder::new(frame_bytes_max(&options)),
            buffer: Vec::new(),
            poison: None,
            storage,
            options,
        };
        if walked.is_last_usable {
            log.open_active()?;
        }
        log.find_spares()?;
        Ok((log, walked.recovery))
    }

    /// Goes on in the last segment, where nothing must be left that could be taken for a frame. One that was all zeros
    /// is made so again, so that the next torn tail can be told from this one.
    fn open_active(&mut self) -> Result<(), OpenError> {
        let Some(last) = self.segments.back() else { return Ok(()) };
        let name = segment_name(last.number);
        let failed = |action: &str| OpenError::storage(format!("{action} '{name}'"));
        let file = self.storage.open(&name).map_err(failed("open"))?;
        let mut offset = self.active_offset();
        let mut block = vec![0; BLOCK_BYTES];
        let mut is_changed = false;
        while offset + BLOCK_BYTES as u64 <= last.file_bytes {
            file.read_exact_at(offset, &mut block).map_err(failed("read"))?;
            if block.iter().any(|byte| *byte != 0) {
                file.write_all_at(offset, &[0; BLOCK_BYTES]).map_err(failed("write"))?;
                is_changed = true;
            }
            if !last.is_zeroed {
                break;
            }
            offset += BLOCK_BYTES as u64;
        }
        if is_changed {
            file.sync_data().map_err(failed("sync"))?;
        }
        self.active = Some(self.storage.open_synced(&name).map_err(failed("open"))?);
        Ok(())
    }

    fn find_spares(&mut self) -> Result<(), OpenError> {
        let names = self.storage.list().map_err(OpenError::storage("list the journal"))?;
        for name in names.into_iter().filter(|name| name.ends_with(".spare")) {
            let failed = |action: &str| OpenError::storage(format!("{action} '{name}'"));
            let bytes = self.storage.open(&name).and_then(|file| file.bytes()).map_err(failed("open"))?;
            if bytes == self.options.segment_bytes && self.spares.len() < self.options.spares_max {
                self.spares.push(name);
            } else {
                self.storage.remove(&name).map_err(failed("remove"))?;
            }
        }
        Ok(())
    }

    /// Which journal it is.
    #[must_use]
    pub fn directory(&self) -> DirectoryId {
        self.options.directory
    }

    /// The longest record that it takes, in bytes.
    #[must_use]
    pub fn record_bytes_max(&self) -> usize {
        self.builder.record_bytes_max()
    }

    /// How many segments there are.
    #[must_use]
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// Adds a record to the next frame: one that continues its service, or with which the service begins.
    ///
    /// # Errors
    /// [`LogError`]; nothing was added.
    pub fn stage(
        &mut self,
        kind: RunKind,
        service: &Name,
        number: RecordNumber,
        record: &[u8],
    ) -> Result<Staged, LogError> {
        self.check()?;
        let limit_bytes = self.record_bytes_max();
        if record.len() > limit_bytes {
            return Err(LogError::RecordTooLong { bytes: record.len(), limit_bytes });
        }
        let next = match (kind, self.services.get(service)) {
            (RunKind::Begin, _) => RecordNumber(number.0.max(1)),
            (RunKind::Continue, Some(kept)) if kept.standing == Integrity::Intact => kept.next,
            (RunKind::Continue, Some(_)) => return Err(LogError::NotSound { service: service.clone() }),
            (RunKind::Continue, None) | (RunKind::Relocated | RunKind::End, _) => RecordNumber(0),
        };
        if number != next || number.0 == u64::MAX {
            return Err(LogError::OutOfOrder { service: service.clone(), number, next });
        }
        let staged = self.builder.push(kind, service, number, record).map_err(|FrameFull| LogError::FrameFull)?;
        match self.services.get_mut(service) {
            Some(kept) if kind == RunKind::Continue => kept.next = number.next(),
            _ => {
                let kept = Kept { first: number, next: number.next(), standing: Integrity::Intact };
                self.services.insert(service.clone(), kept);
            }
        }
        Ok(staged)
    }

    /// Notes in the next frame that a service was removed: its records are no longer needed. One that is not there is
    /// noted as well.
    ///
    /// # Errors
    /// [`LogError::FrameFull`] or [`LogError::Poisoned`]; nothing was noted.
    pub fn stage_end(&mut self, service: &Name) -> Result<(), LogError> {
        self.check()?;
        let next = self.services.get(service).map_or(RecordNumber(1), |kept| kept.next);
        self.builder.push_empty(RunKind::End, service, next).map_err(|FrameFull| LogError::FrameFull)?;
        self.services.remove(service);
        self.forget(service);
        Ok(())
    }

    /// Writes what was added as one frame, and returns once it is safe. Nothing happens if nothing was added.
    ///
    /// # Errors
    /// [`LogError::NotBegun`]: nothing was written, what was added is still there, and this can be called again.
    /// [`LogError::Poisoned`]: whether any of it is there after a restart is unknown.
    pub fn commit(&mut self) -> Result<Option<Committed>, LogError> {
        self.check()?;
        if self.builder.is_empty() {
            return Ok(None);
        }
        let result = self.make_room().and_then(|()| {
            let header = self.builder.finish(&self.key, self.position, self.previous, &mut self.buffer);
            self.write_frame(header)
        });
        let committed = result.map_err(|failure| self.poison(failure))?;
        self.relocatable_bytes =
            self.relocatable_bytes.saturating_add(committed.frame_bytes() as u64 / RELOCATED_SHARE);
        Ok(Some(committed))
    }

    /// Ends the journal in a way that can be checked at the next start. What was added but not committed is not in it.
    ///
    /// # Errors
    /// [`LogError::NotBegun`], [`LogError::Poisoned`]: it is not sealed.
    pub fn seal(mut self) -> Result<Seal, LogError> {
        self.check()?;
        let result = self.write_roster();
        result.map_err(|failure| self.poison(failure))?;
        Ok(Seal { directory: self.options.directory, position: self.position, hash: self.previous })
    }

    /// Checks that the directory is still this process's, and that segments are where they were: the next
    /// [`PLACES_CHECKED_MAX`].
    ///
    /// # Errors
    /// [`LogError::Poisoned`]: it is not so, and nothing is appended any more.
    pub fn check_places(&mut self) -> Result<(), LogError> {
        self.check()?;
        self.try_check_places().map_err(|failure| self.poison(failure))
    }

    fn try_check_places(&mut self) -> Result<(), Failure> {
        self.try_check_lock()?;
        let first = self.segments.partition_point(|segment| segment.number < self.unchecked);
        let in_turn = self.segments.range(first..).chain(self.segments.range(..first));
        let mut unchecked = self.unchecked;
        for segment in in_turn.take(PLACES_CHECKED_MAX) {
            self.check_place(segment)?;
            unchecked = segment.number + 1;
        }
        self.unchecked = unchecked;
        Ok(())
    }

    fn try_check_lock(&self) -> Result<(), Failure> {
        self.storage.check_lock().map_err(lost)
    }

    /// Checks that a segment is the file that a start finds: what was written to another is gone with this process.
    fn check_place(&self, segment: &Segment) -> Result<(), Failure> {
        self.storage.check_place(&segment_name(segment.number), &segment.identity).map_err(lost)
    }

    /// Begins a new segment if the active one has no room for the frame that was built.
    fn make_room(&mut self) -> Result<(), Failure> {
        let frame_bytes = self.builder.frame_bytes() as u64;
        if self.room() >= frame_bytes { Ok(()) } else { self.roll(Some(frame_bytes)) }
    }

    /// Whether it is time to make the file of the next segment ready.
    #[must_use]
    pub fn wants_next(&self) -> bool {
        self.next.is_none()
            && self.active.is_some()
            && self.room() <= self.options.segment_bytes - self.options.segment_bytes / NEXT_SHARE
    }

    /// Whether little more than what is under way has room, unless a segment is begun, whose file is not ready.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.next.is_none() && self.room() <= self.options.segment_bytes / SHORT_SHARE
    }

    /// Makes the file of the next segment ready, so that beginning the segment takes neither room nor a descriptor.
    ///
    /// # Errors
    /// [`LogError::NotBegun`]: it can be tried again. [`LogError::Poisoned`].
    pub fn prepare_next(&mut self) -> Result<(), LogError> {
        self.check()?;
        self.make_next().map_err(|error| {
            let failure = self.not_begun(error);
            self.poison(failure)
        })
    }

    /// Forgets what a service that is to end has in the segments, so that they can be given up before the frame that ends it
    /// has room.
    pub fn forget(&mut self, service: &Name) {
        for segment in &mut self.segments {
            segment.shares.remove(service);
        }
        if let Some(relocation) = &mut self.relocation {
            relocation.forget(service);
        }
    }

    fn make_next(&mut self) -> io::Result<()> {
        if self.next.is_some() {
            return Ok(());
        }
        if let Some(name) = self.spares.last() {
            let file = match self.storage.open_synced(name) {
                // Somebody who made room removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.spares.pop();
                    return self.make_next();
                }
                opened => opened?,
            };
            let identity = file.identity()?;
            let name = self.spares.pop().expect("it was the last");
            self.next = Some(Next { name, file, identity, is_zeroed: false });
            return Ok(());
        }
        let name = spare_name(self.segments.back().map_or(1, |last| last.number + 1));
        let file = match self.storage.create(&name) {
            // Left by an attempt that could not clear up after itself.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.storage.remove(&name)?;
                self.storage.create(&name)?
            }
            created => created?,
        };
        // Synced here, so that a disk which allocates late is found to be full now.
        let made = file.preallocate(self.options.segment_bytes).and_then(|()| file.sync_data());
        let made = made.and_then(|()| self.storage.open_synced(&name));
        match made.and_then(|file| Ok((file.identity()?, file))) {
            Ok((identity, file)) => {
                self.next = Some(Next { name, file, identity, is_zeroed: true });
                Ok(())
            }
            Err(error) => {
                // A part of a file would take the room that others need to go on, and nobody could use it.
                drop(file);
                let _ = self.storage.remove(&name);
                Err(error)
            }
        }
    }

    fn not_begun(&self, error: io::Error) -> Failure {
        let takes = Bytes(self.options.segment_bytes);
        let error = io::Error::new(error.kind(), format!("{error} (it takes {takes})"));
        Failure { action: BEGIN_SEGMENT, error, is_final: false }
    }

    /// Begins a new segment. With `frame_bytes`, a roster comes first if that leaves room for a frame so long.
    fn roll(&mut self, frame_bytes: Option<u64>) -> Result<(), Failure> {
        self.try_check_lock()?;
        // What was opened ahead may have been removed or replaced: then nothing is lost, and another takes its place.
        if let Some(next) = self.next.take_if(|next| self.storage.check_place(&next.name, &next.identity).is_err()) {
            let _ = self.storage.remove(&next.name);
        }
        self.make_next().map_err(|error| self.not_begun(error))?;
        let Some(Next { name, file, identity, is_zeroed }) = self.next.take() else { return Ok(()) };
        let number = self.segments.back().map_or(1, |last| last.number + 1);
        let header = SegmentHeader {
            directory: self.options.directory,
            number,
            first: self.position,
            previous: self.previous,
            is_zeroed,
        };
        let begun = file
            .write_all_at(0, &header.encode())
            .and_then(|()| file.sync_data())
            .and_then(|()| self.storage.rename(&name, &segment_name(number)));
        if let Err(error) = begun {
            // Nothing was written under a segment's name. What is in the file is not known: the next attempt takes another.
            drop(file);
            let _ = self.storage.remove(&name);
            return Err(self.not_begun(error));
        }
        // From here on an error is final: whether the name is safe is not known, and no later sync would tell.
        let failed = |error| Failure { action: BEGIN_SEGMENT, error, is_final: true };
        self.storage.sync_directory().map_err(failed)?;
        self.segments.push_back(Segment {
            number,
            first: Some(self.position),
            file_bytes: self.options.segment_bytes,
            identity,
            is_zeroed,
            is_damaged: false,
            shares: BTreeMap::new(),
        });
        self.active = Some(file);
        if let Some(frame_bytes) = frame_bytes {
            let roster_bytes: usize = self.roster().iter().map(FrameBuilder::frame_bytes).sum();
            if roster_bytes as u64 + frame_bytes <= self.room() {
                self.write_roster()?;
            }
        }
        Ok(())
    }

    /// Writes frames that list every sound service with its next record.
    fn write_roster(&mut self) -> Result<(), Failure> {
        let mut first = None;
        for mut builder in self.roster() {
            if self.room() < builder.frame_bytes() as u64 {
                self.roll(None)?;
            }
            let header = builder.finish(&self.key, self.position, self.previous, &mut self.buffer);
            let committed = self.write_frame(header)?;
            first.get_or_insert(committed.segment);
        }
        self.roster_segment = first.or(self.segments.back().map(|active| active.number));
        Ok(())
    }

    /// Frames that list every sound service with its next record, as committed.
    fn roster(&self) -> Vec<FrameBuilder> {
        let mut builders: Vec<FrameBuilder> = Vec::new();
        for (service, next) in &self.committed {
            let is_added = builders
                .last_mut()
                .is_some_and(|builder| builder.push_empty(RunKind::Continue, service, *next).is_ok());
            if !is_added {
                let mut builder = FrameBuilder::new(frame_bytes_max(&self.options));
                builder.push_empty(RunKind::Continue, service, *next).expect("an empty frame has room for a name");
                builders.push(builder);
            }
        }
        builders
    }

    /// Writes the frame in the buffer, which fits into the active segment, and syncs it.
    fn write_frame(&mut self, header: FrameHeader) -> Result<Committed, Failure> {
        let offset = self.active_offset();
        let active = self.active.as_ref().ok_or_else(|| Failure {
            action: "write a frame",
            error: io::Error::other("there is no segment to write to"),
            is_final: true,
        })?;
        let failed = |error| Failure { action: "write and sync a frame", error, is_final: true };
        active.write_synced_at(offset, &self.buffer).map_err(failed)?;
        if let Some(active) = self.segments.back() {
            self.check_place(active)?;
        }
        let frame_offset = u32::try_from(offset).expect("SEGMENT_BYTES_MAX is below 4 GiB");
        if let Some(relocation) = &mut self.relocation {
            relocation.note(&header);
        }
        for run in &header.runs {
            if matches!(run.kind, RunKind::Begin | RunKind::End) {
                for segment in &mut self.segments {
                    segment.shares.remove(&run.service);
                }
                self.unrelocatable.remove(&run.service);
                self.half_relocated.remove(&run.service);
            }
            // Copies do not count before all of them are there.
            if run.kind != RunKind::Relocated
                && let Some(active) = self.segments.back_mut()
            {
                active.add_share(run, frame_offset);
            }
            match (run.kind, self.committed.get_mut(&run.service)) {
                (RunKind::End, _) => {
                    self.committed.remove(&run.service);
                }
                (RunKind::Begin | RunKind::Continue, Some(next)) => *next = run.end(),
                (RunKind::Begin | RunKind::Continue, None) => {
                    self.committed.insert(run.service.clone(), run.end());
                }
                (RunKind::Relocated, _) => {}
            }
        }
        self.position = header.end();
        self.end.store(self.position.0, Ordering::Release);
        self.previous = header.hash;
        let segment = self.segments.back().map_or(0, |active| active.number);
        Ok(Committed { header, segment, frame_offset })
    }

    /// Where the next frame begins in the active segment.
    fn active_offset(&self) -> u64 {
        let first = self.segments.back().and_then(|last| last.first).unwrap_or(self.position);
        self.position.0 - first.0 + SEGMENT_HEADER_BYTES as u64
    }

    /// How many bytes of frames the active segment has room for.
    fn room(&self) -> u64 {
        match (&self.active, self.segments.back()) {
            (Some(_), Some(last)) => last.file_bytes.saturating_sub(self.active_offset()),
            _ => 0,
        }
    }

    fn check(&self) -> Result<(), LogError> {
        self.poison.as_ref().map_or(Ok(()), |first| Err(LogError::Poisoned(Arc::clone(first))))
    }

    fn poison(&mut self, failure: Failure) -> LogError {
        if !failure.is_final {
            return LogError::NotBegun(Arc::new(failure));
        }
        LogError::Poisoned(Arc::clone(self.poison.get_or_insert(Arc::new(failure))))
    }

    /// Where the journal ends, from now on.
    pub(super) fn end(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.end)
    }

    /// Reads single records, beside the log.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader { storage: Arc::clone(&self.storage), key: self.key.clone() }
    }
}

/// The directory or a file of the journal is not where it was.
fn lost(error: io::Error) -> Failure {
    Failure { action: "go on in the data directory", error, is_final: true }
}

/// What is tried when a segment is begun.
const BEGIN_SEGMENT: &str = "begin a new segment";

/// The longest frame, so that a segment has room for a roster beside it, and a segment that is short of room for the frame.
fn frame_bytes_max(options: &Options) -> usize {
    let bytes = usize::try_from(options.segment_bytes).expect("SEGMENT_BYTES_MAX fits");
    (bytes.saturating_sub(SEGMENT_HEADER_BYTES) / SHORT_SHARE as usize).min(FRAME_BYTES_MAX)
}

fn spare_name(number: u64) -> String {
    format!("{number:010}.spare")
}
