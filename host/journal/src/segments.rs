//! The journal on disk: consecutive frames in preallocated segment files.
//!
//! [`Log`] owns the files and is their only writer. It tracks the next record of each service, and refuses any record
//! that would leave a gap. It does not interpret the records.
//!
//! - A frame is written and synced before the next one is written. An error in between is final: the log is *poisoned*
//!   and only repeats the error, because after a failed sync the contents of the disk are unknown.
//! - An error while a segment is begun is not final, as long as its file does not have a segment's name yet. The staged
//!   records stay, and the commit can be retried. To detect such errors early, the log opens and fills the file of the
//!   next segment while the active one has room.
//! - The first frame of a segment, and the last one before a clean stop, list every intact service with its next
//!   record: the *roster*. After damage, the roster shows which idle services lost nothing. It also preserves a service
//!   whose records are all gone.
//! - Truncation begins at the oldest segment. If a service pins that segment, its records are *relocated*: written once
//!   more at the end. Truncated segments become *spares*, so that a journal in steady state only overwrites.
//!
//! Crash safety, step by step:
//!
//! - A spare gets its header and is synced before it is renamed to a segment. The directory is synced before a frame is
//!   written to the segment.
//! - A segment is renamed to a spare, and the directory synced, before any of its bytes are overwritten. This is done
//!   one segment at a time, so that no hole can appear, and only after all copies of its relocated records are synced.
//! - The remains of a possible torn frame are made unrecognisable, and synced, before the journal continues.

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
    Found, Integrity, Location, OpenError, RecordRange, Recovery, SEGMENT_BYTES_MAX, Seal, Segment, walk,
};
use super::segment_header::{SEGMENT_HEADER_BYTES, SegmentHeader, segment_name};
use crate::storage::{FileIdentity, Storage, StorageFile};
use lifeboat_api::name::Name;
use lifeboat_api::size::Bytes;
use reclaim::Relocation;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use thiserror::Error;

/// The default length of a segment file, in bytes.
pub const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;

/// The shortest segment, in bytes: its header, a roster, and a frame.
pub const SEGMENT_BYTES_MIN: u64 = (SEGMENT_HEADER_BYTES + 4 * BLOCK_BYTES) as u64;

/// The default number of spare segments that are retained.
pub const SPARES_MAX: usize = 3;

/// The file of the next segment is prepared once this share of the active segment is used, as a divisor of its length.
pub const NEXT_SHARE: u64 = 4;

/// Without the file of the next segment, the active one is short of room once it has no more than this share left, as a
/// divisor of its length. The rest is for transactions that were executed before the shortage was known, and for
/// operators' orders: no less than the longest frame.
pub const SHORT_SHARE: u64 = 2;

// A failure to prepare the file is known before the journal is short of room.
const _: () = assert!(SEGMENT_BYTES / SHORT_SHARE < SEGMENT_BYTES - SEGMENT_BYTES / NEXT_SHARE);
const _: () = assert!(FRAME_BYTES_MAX as u64 <= SEGMENT_BYTES / SHORT_SHARE);

/// The number of segments, besides the active one, that one check of the files' places covers. The next check continues
/// after them.
pub const PLACES_CHECKED_MAX: usize = 16;

/// The options of a journal and its new segments.
#[derive(Debug, Clone)]
pub struct Options {
    /// The data directory of the journal.
    pub directory: DirectoryId,
    /// The length of new segments, in bytes: from [`SEGMENT_BYTES_MIN`] to [`SEGMENT_BYTES_MAX`].
    pub segment_bytes: u64,
    /// The number of spare segments that are retained.
    pub spares_max: usize,
}

impl Options {
    /// Returns the default options for the journal of `directory`.
    #[must_use]
    pub fn new(directory: DirectoryId) -> Self {
        Self { directory, segment_bytes: SEGMENT_BYTES, spares_max: SPARES_MAX }
    }
}

/// Whether a journal should exist already.
#[derive(Debug, Clone, Copy)]
pub enum Origin {
    /// The journal is created, unless an interrupted start has created it already.
    Create,
    /// The journal was in use. The seal is given if it was sealed.
    Existing(Option<Seal>),
}

/// The reason why the log refused an operation.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum LogError {
    /// The frame is full: commit it first.
    #[error("the frame is full")]
    FrameFull,
    /// The record is longer than the longest frame allows.
    #[error("a record of {bytes} bytes is longer than the limit of {limit_bytes} bytes")]
    RecordTooLong {
        /// The length of the record, in bytes.
        bytes: usize,
        /// The bound, in bytes.
        limit_bytes: usize,
    },
    /// The record does not follow the last one of its service, or the service has not begun.
    #[error("record {number} of service '{service}' does not follow: the next is {next}")]
    OutOfOrder {
        /// The service of the record.
        service: Name,
        /// The number of the record.
        number: RecordNumber,
        /// The number that would follow.
        next: RecordNumber,
    },
    /// Records of the service may be missing, so it cannot continue. It can begin anew.
    #[error("service '{service}' is quarantined: its journal is damaged")]
    NotSound {
        /// The service.
        service: Name,
    },
    /// There is no room or no descriptor for the next segment. The staged records stay, and the commit can be retried.
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
    /// The action that failed.
    pub action: &'static str,
    /// The cause. The message of the failure includes it, so it is not repeated as the source.
    pub error: io::Error,
    /// Whether the failure ends the log: records that count may or may not be on the disk.
    pub is_final: bool,
}

/// The file of the segment that is begun next.
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
    /// Returns the location of a record of the frame.
    #[must_use]
    pub fn location(&self, staged: Staged) -> Location {
        let record_offset = staged.offset_in(&self.header);
        Location { segment: self.segment, frame_offset: self.frame_offset, record_offset }
    }

    /// Returns the length of the frame, in bytes.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        self.header.frame_bytes
    }
}

/// A journal that is open for appending.
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
    /// The file of the next segment, opened ahead.
    next: Option<Next>,
    /// Every service, including its staged records.
    services: BTreeMap<Name, RecordRange>,
    /// The next record of every intact service, by the committed frames.
    committed: BTreeMap<Name, RecordNumber>,
    /// The segment with the last complete roster, if this process wrote one. Earlier rosters may be truncated.
    roster_segment: Option<u64>,
    /// The relocation in progress.
    relocation: Option<Relocation>,
    /// The number of bytes that may be relocated: a share of the bytes written since, or of the journal when it was
    /// opened.
    relocatable_bytes: u64,
    /// Services that could not be relocated.
    unrelocatable: BTreeSet<Name>,
    /// Services with an interrupted relocation. Incomplete copies do no harm as long as all originals are there.
    half_relocated: BTreeSet<Name>,
    position: Position,
    /// A copy of the position for readers without the log. It never decreases.
    end: Arc<AtomicU64>,
    previous: FrameHash,
    builder: FrameBuilder,
    buffer: Vec<u8>,
    poison: Option<Arc<Failure>>,
}

impl Log {
    /// Opens the journal in `storage`, passes every trustworthy record to `found`, and returns the log and a report.
    ///
    /// The caller holds the lock of the directory as long as the log lives.
    ///
    /// # Errors
    /// [`OpenError`]. Damage is not an error: the [`Recovery`] reports it.
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
        let sound = services.iter().filter(|(_, found)| found.standing == Integrity::Intact);
        let mut log = Self {
            committed: sound.map(|(service, found)| (service.clone(), found.next)).collect(),
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

    /// Continues in the last segment, where no bytes may remain that could pass for a frame. A segment whose rest was
    /// zeros is zeroed again, so that the next torn tail can be distinguished from the current one.
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

    /// Returns the data directory of the journal.
    #[must_use]
    pub fn directory(&self) -> DirectoryId {
        self.options.directory
    }

    /// Returns the length of the longest record that the log accepts, in bytes.
    #[must_use]
    pub(crate) fn record_bytes_max(&self) -> usize {
        self.builder.record_bytes_max()
    }

    /// Returns the number of segments.
    #[must_use]
    pub(crate) fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// Adds a record to the next frame. It continues its service or begins it.
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
            (RunKind::Continue, Some(found)) if found.standing == Integrity::Intact => found.next,
            (RunKind::Continue, Some(_)) => return Err(LogError::NotSound { service: service.clone() }),
            (RunKind::Continue, None) | (RunKind::Relocated | RunKind::End, _) => RecordNumber(0),
        };
        if number != next || number.0 == u64::MAX {
            return Err(LogError::OutOfOrder { service: service.clone(), number, next });
        }
        let staged = self.builder.push(kind, service, number, record).map_err(|FrameFull| LogError::FrameFull)?;
        match self.services.get_mut(service) {
            Some(found) if kind == RunKind::Continue => found.next = number.next(),
            _ => {
                let found = RecordRange { first: number, next: number.next(), standing: Integrity::Intact };
                self.services.insert(service.clone(), found);
            }
        }
        Ok(staged)
    }

    /// Adds the removal of a service to the next frame: its records are no longer needed. The removal of an unknown
    /// service is added as well.
    ///
    /// # Errors
    /// [`LogError::FrameFull`] or [`LogError::Poisoned`]; nothing was added.
    pub(crate) fn stage_end(&mut self, service: &Name) -> Result<(), LogError> {
        self.check()?;
        let next = self.services.get(service).map_or(RecordNumber(1), |found| found.next);
        self.builder.push_empty(RunKind::End, service, next).map_err(|FrameFull| LogError::FrameFull)?;
        self.services.remove(service);
        self.forget(service);
        Ok(())
    }

    /// Writes the staged records as one frame, and returns once it is durable. Does nothing if nothing was staged.
    ///
    /// # Errors
    /// [`LogError::NotBegun`]: nothing was written, the staged records are still there, and the call can be repeated.
    /// [`LogError::Poisoned`]: it is unknown whether the records are there after a restart.
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

    /// Seals the journal, so that the next start can check its end. Staged records that were not committed are
    /// discarded.
    ///
    /// # Errors
    /// [`LogError::NotBegun`], [`LogError::Poisoned`]: the journal is not sealed.
    pub fn seal(mut self) -> Result<Seal, LogError> {
        self.check()?;
        let result = self.write_roster();
        result.map_err(|failure| self.poison(failure))?;
        Ok(Seal { directory: self.options.directory, position: self.position, hash: self.previous })
    }

    /// Checks that this process still owns the directory, and that the next [`PLACES_CHECKED_MAX`] segments are at
    /// their places.
    ///
    /// # Errors
    /// [`LogError::Poisoned`]: one of these is not so, and nothing is appended any more.
    pub(crate) fn check_places(&mut self) -> Result<(), LogError> {
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

    /// Checks that a start would find the same file for the segment. Records in any other file are lost when this
    /// process ends.
    fn check_place(&self, segment: &Segment) -> Result<(), Failure> {
        self.storage.check_place(&segment_name(segment.number), &segment.identity).map_err(lost)
    }

    /// Begins a new segment if the active one has no room for the frame that was built.
    fn make_room(&mut self) -> Result<(), Failure> {
        let frame_bytes = self.builder.frame_bytes() as u64;
        if self.room() >= frame_bytes { Ok(()) } else { self.roll(Some(frame_bytes)) }
    }

    /// Returns whether it is time to prepare the file of the next segment.
    #[must_use]
    pub(crate) fn wants_next(&self) -> bool {
        self.next.is_none()
            && self.active.is_some()
            && self.room() <= self.options.segment_bytes - self.options.segment_bytes / NEXT_SHARE
    }

    /// Returns whether the active segment is short of room and the file of the next segment is not ready.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.next.is_none() && self.room() <= self.options.segment_bytes / SHORT_SHARE
    }

    /// Prepares the file of the next segment, so that beginning the segment needs neither room nor a descriptor.
    ///
    /// # Errors
    /// [`LogError::NotBegun`]: the call can be repeated. [`LogError::Poisoned`].
    pub(crate) fn prepare_next(&mut self) -> Result<(), LogError> {
        self.check()?;
        self.make_next().map_err(|error| {
            let failure = self.not_begun(error);
            self.poison(failure)
        })
    }

    /// Discards the segments' shares of a service that is to end, so that they can be truncated before there is room
    /// for the frame that ends the service.
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
                // An operator removed the file to make room.
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
            // A previous attempt could not remove the file.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.storage.remove(&name)?;
                self.storage.create(&name)?
            }
            created => created?,
        };
        // Sync now, so that a disk with delayed allocation reports here that it is full.
        let made = file.preallocate(self.options.segment_bytes).and_then(|()| file.sync_data());
        let made = made.and_then(|()| self.storage.open_synced(&name));
        match made.and_then(|file| Ok((file.identity()?, file))) {
            Ok((identity, file)) => {
                self.next = Some(Next { name, file, identity, is_zeroed: true });
                Ok(())
            }
            Err(error) => {
                // A partly filled file is useless, and takes room that others need.
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

    /// Begins a new segment. Given `frame_bytes`, also writes a roster if that leaves room for a frame of that length.
    fn roll(&mut self, frame_bytes: Option<u64>) -> Result<(), Failure> {
        self.try_check_lock()?;
        // The prepared file may have been removed or replaced. Then nothing is lost, and another file takes its place.
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
            // Nothing was written under a segment's name. The contents of the file are unknown, so the next attempt
            // uses another one.
            drop(file);
            let _ = self.storage.remove(&name);
            return Err(self.not_begun(error));
        }
        // From here on an error is final: it is unknown whether the name is durable, and no later sync would show it.
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

    /// Writes frames that list every intact service with its next record.
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

    /// Returns frames that list every intact service with its next record, as committed.
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

    /// Writes the frame in the buffer to the active segment, which has room for it, and syncs it.
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
            // Copies do not count before they are complete.
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

    /// Returns the offset of the next frame in the active segment.
    fn active_offset(&self) -> u64 {
        let first = self.segments.back().and_then(|last| last.first).unwrap_or(self.position);
        self.position.0 - first.0 + SEGMENT_HEADER_BYTES as u64
    }

    /// Returns the room for frames in the active segment, in bytes.
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

    /// Returns the end of the journal, updated from now on.
    pub(super) fn end(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.end)
    }

    /// Returns a reader of single records, for use while the log appends.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader { storage: Arc::clone(&self.storage), key: self.key.clone() }
    }
}

/// Returns the failure for a directory or a file of the journal that is not at its place.
fn lost(error: io::Error) -> Failure {
    Failure { action: "continue in the data directory", error, is_final: true }
}

/// The action of beginning a segment, for errors.
const BEGIN_SEGMENT: &str = "begin a new segment";

/// Returns the length of the longest frame, in bytes. It leaves room for a roster in a segment, and for the frame in a
/// segment that is short of room.
fn frame_bytes_max(options: &Options) -> usize {
    let bytes = usize::try_from(options.segment_bytes).expect("SEGMENT_BYTES_MAX fits");
    (bytes.saturating_sub(SEGMENT_HEADER_BYTES) / SHORT_SHARE as usize).min(FRAME_BYTES_MAX)
}

fn spare_name(number: u64) -> String {
    format!("{number:010}.spare")
}
