//! Reclaims space: decides which segments can be truncated, and relocates the records that prevent it.
//!
//! The oldest segment can go when no service needs a record in it. A service that pins it has all records that it needs
//! *relocated*: written once more at the end, whether or not the service is active meanwhile. This is done in steps of
//! one frame. Between two steps the log accepts the records of all services, including relocated ones. Their new
//! records are relocated as well, so the copies are complete once they have caught up. Only then do the originals no
//! longer count, and their segments go.
//!
//! If a stop interrupts a relocation, recovery skips its copies as long as all originals are there. So before an
//! original goes, such a *half-relocated* service is relocated completely, whether or not its records are needed.
//!
//! Relocation has a budget: a [`RELOCATED_SHARE`]th of the bytes that services write may be relocated. The unused
//! budget is never more than a `RELOCATED_SHARE`th of the journal. A relocation begins when the budget suffices for all
//! of it. So relocation writes at most a quarter as much as services do. While the whole journal is truncated once,
//! each record is relocated once. So the journal is never longer than about five times the records that services need.
//!
//! A bound for each reclaim alone would not suffice. Idle services, one after another, would be relocated again and
//! again with every snapshot of a small neighbour.

use super::{Committed, Failure, Log, LogError, frame_bytes_max, spare_name};
use crate::frame::{FrameBuilder, FrameFull, FrameHeader, RecordNumber, Run, RunKind, Staged, decode_body};
use crate::reader::ReadError;
use crate::recovery::{Integrity, Location, Share};
use crate::segment_header::segment_name;
use crate::storage::StorageFile;
use lifeboat_api::name::Name;
use std::collections::{BTreeMap, VecDeque};
use std::io;

/// The share of the journal, and of the written bytes, that may be relocated, as a divisor: 1/4.
pub const RELOCATED_SHARE: u64 = 4;

/// The share of the remaining room that may be relocated while the journal is short of room, as a divisor: 1/4.
pub const RESERVE_SHARE: u64 = 4;

/// The length from which on a frame of relocated records takes no more, in bytes. It bounds the time that commits wait
/// for the frame.
pub const RELOCATED_FRAME_BYTES: usize = 1024 * 1024;

/// The bytes of frames that a step reads, besides as many as were committed since the last one. Records to be relocated
/// may be far apart.
pub const RELOCATION_READ_BYTES: usize = 8 * 1024 * 1024;

/// The number of frames that a step reads, besides as many as were committed since the last one. Each short frame may
/// cost a seek.
pub const RELOCATION_READ_FRAMES: usize = 256;

/// The result of a reclaim.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Reclaimed {
    /// The number of truncated segments.
    pub segments: u64,
    /// Services that pin the oldest remaining segment and cannot be relocated, because some of their records are
    /// damaged. Damaged records are never truncated.
    pub pinned_by: Vec<Name>,
    /// Services that pin it as well, and are not relocated because the journal is short of room.
    pub lacking_room: Vec<Name>,
    /// The bytes of the remaining segments.
    pub segment_bytes_left: u64,
}

/// Consecutive relocated records of a service, in one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// The service of the records.
    pub service: Name,
    /// The number of the first record.
    pub first: RecordNumber,
    /// The number of the segment.
    pub segment: u64,
    /// The offset of the frame in the segment's file, in bytes.
    pub frame_offset: u32,
    /// The offset of each record in the frame, in bytes.
    pub record_offsets: Vec<u32>,
}

impl Moved {
    /// Returns the number after the last record.
    #[must_use]
    pub fn end(&self) -> RecordNumber {
        RecordNumber(self.first.0 + self.record_offsets.len() as u64)
    }

    /// Returns the location of a record, if it is one of these.
    #[must_use]
    pub fn location(&self, number: RecordNumber) -> Option<Location> {
        let index = usize::try_from(number.0.checked_sub(self.first.0)?).ok()?;
        let record_offset = *self.record_offsets.get(index)?;
        Some(Location { segment: self.segment, frame_offset: self.frame_offset, record_offset })
    }
}

/// A reclaim in progress. If it is dropped before its end, the journal is intact but longer.
#[derive(Debug)]
pub struct Reclaim {
    /// The first record that each service still needs. A service that is left out needs all of its records.
    needed: BTreeMap<Name, RecordNumber>,
    /// The segment that was active at the start. This one and later ones are left for the next reclaim, or this one
    /// might never end.
    end: u64,
    reclaimed: Reclaimed,
}

/// The result of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The reclaim continues. These records can be read at their new locations from now on, and at the old ones at
    /// least until the next step.
    Going(Vec<Moved>),
    /// The reclaim has ended.
    Over(Reclaimed),
}

/// A relocation in progress.
#[derive(Debug, Default)]
pub(super) struct Relocation {
    /// The services, and the next record to read of each.
    next: BTreeMap<Name, RecordNumber>,
    /// The last frame that was read: its segment, and its offset there.
    read: Option<(u64, u32)>,
    /// The file of that segment.
    file: Option<Box<dyn StorageFile>>,
    /// Records that were read but not written yet.
    read_ahead: VecDeque<(Name, RecordNumber, Vec<u8>)>,
    read_ahead_bytes: usize,
    /// The shares that the copies have in their segments.
    copies: BTreeMap<u64, BTreeMap<Name, Share>>,
    /// Bytes that the services appended and no step has compensated for.
    appended_bytes: u64,
    /// The frames that were committed since the last step.
    committed: Reading,
}

/// An amount of frames to read.
#[derive(Debug, Default, Clone, Copy)]
struct Reading {
    frames: usize,
    bytes: usize,
}

impl Reading {
    fn is_over(self) -> bool {
        self.frames == 0 || self.bytes == 0
    }

    /// Subtracts a frame.
    fn take(&mut self, frame_bytes: usize) {
        self.frames = self.frames.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(frame_bytes);
    }
}

impl Relocation {
    /// Returns how much a step may read. Committed frames are added, or a step could never catch up with busy services.
    fn begin_reading(&mut self) -> Reading {
        let Reading { frames, bytes } = std::mem::take(&mut self.committed);
        Reading { frames: frames + RELOCATION_READ_FRAMES, bytes: bytes + RELOCATION_READ_BYTES }
    }

    /// Records a frame that was committed during the relocation.
    pub(super) fn note(&mut self, header: &FrameHeader) {
        self.committed.frames += 1;
        self.committed.bytes += header.frame_bytes;
        header.runs.iter().for_each(|run| self.note_run(run));
    }

    fn note_run(&mut self, run: &Run) {
        if !self.next.contains_key(&run.service) {
            return;
        }
        match run.kind {
            RunKind::Continue => self.appended_bytes += u64::from(run.bytes),
            RunKind::Relocated => {}
            // Earlier records of the service no longer count.
            RunKind::Begin | RunKind::End => self.forget(&run.service),
        }
    }

    /// Removes a service from the relocation.
    pub(super) fn forget(&mut self, service: &Name) {
        if self.next.remove(service).is_some() {
            self.read_ahead.retain(|(of, ..)| of != service);
            self.read_ahead_bytes = self.read_ahead.iter().map(|(.., record)| record.len()).sum();
            self.copies.values_mut().for_each(|shares| drop(shares.remove(service)));
        }
    }

    fn take_copies(&mut self, committed: &Committed) {
        let shares = self.copies.entry(committed.segment).or_default();
        for run in committed.header.runs.iter().filter(|run| run.kind == RunKind::Relocated) {
            shares.entry(run.service.clone()).or_default().add(run, committed.frame_offset);
        }
    }
}

/// The staged records of each service: the number of the first record, and their places.
type Copies = BTreeMap<Name, (RecordNumber, Vec<Staged>)>;

/// Services with records that cannot be read, or cannot be written again.
struct Unrelocatable {
    services: Vec<Name>,
    /// False for an error of the storage that may be temporary.
    is_for_good: bool,
}

impl Log {
    /// Begins to truncate the oldest segments, as far as no service needs them. `needed` has the first record that each
    /// service still needs; a service that it leaves out needs all of its records. A reclaim in progress is abandoned.
    pub fn begin_reclaim(&mut self, needed: BTreeMap<Name, RecordNumber>) -> Reclaim {
        self.relocation = None;
        self.relocatable_bytes = self.relocatable_bytes.min(self.segment_bytes() / RELOCATED_SHARE);
        let end = self.segments.back().map_or(0, |active| active.number);
        Reclaim { needed, end, reclaimed: Reclaimed::default() }
    }

    /// Continues a reclaim: writes a frame of relocated records, or truncates a segment.
    ///
    /// # Errors
    /// [`LogError::FrameFull`] if records are staged: commit them first. [`LogError::NotBegun`]: the call can be
    /// repeated. [`LogError::Poisoned`].
    pub fn step(&mut self, reclaim: &mut Reclaim) -> Result<Step, LogError> {
        self.check()?;
        if !self.builder.is_empty() {
            return Err(LogError::FrameFull);
        }
        self.step_while_held(reclaim)
    }

    /// Continues a reclaim while staged records wait for room. These stay staged. Copies are written before them, into
    /// a part of the room that is too small for the staged records.
    ///
    /// # Errors
    /// [`LogError::NotBegun`]: the call can be repeated. [`LogError::Poisoned`].
    pub(crate) fn step_while_held(&mut self, reclaim: &mut Reclaim) -> Result<Step, LogError> {
        self.check()?;
        // Staged records become a frame only when they are written, so another frame can come before it.
        let empty = FrameBuilder::new(frame_bytes_max(&self.options));
        let held = std::mem::replace(&mut self.builder, empty);
        let result = self.try_step(reclaim, &held);
        self.builder = held;
        result.map_err(|failure| self.poison(failure))
    }

    fn try_step(&mut self, reclaim: &mut Reclaim, held: &FrameBuilder) -> Result<Step, Failure> {
        if let Some(relocation) = self.relocation.take() {
            if !self.has_reserve(&relocation.next, held) {
                reclaim.reclaimed.lacking_room = relocation.next.into_keys().collect();
                return Ok(self.over(reclaim));
            }
            return self.continue_relocation(relocation, reclaim);
        }
        let oldest = self.segments.front().filter(|oldest| oldest.number < reclaim.end);
        let Some(oldest) = oldest.filter(|_| reclaim.reclaimed.pinned_by.is_empty()) else {
            return Ok(self.over(reclaim));
        };
        if oldest.is_damaged {
            let unsound: Vec<Name> = self.services.keys().filter(|name| !self.is_sound(name)).cloned().collect();
            if !unsound.is_empty() {
                reclaim.reclaimed.pinned_by = unsound;
                return Ok(self.over(reclaim));
            }
        }
        let pins = oldest.shares.iter().filter_map(|(name, share)| {
            let first = reclaim.needed.get(name).copied().unwrap_or_default();
            let is_half_relocated = self.half_relocated.contains(name);
            (share.last >= first || is_half_relocated).then(|| (name.clone(), first))
        });
        let pins: BTreeMap<Name, RecordNumber> = pins.collect();
        if pins.is_empty() {
            // The remaining segments must list every service up to its last record.
            if self.roster_segment.is_none_or(|roster| roster <= oldest.number) {
                self.write_roster()?;
            }
            self.retire_oldest()?;
            reclaim.reclaimed.segments += 1;
            return Ok(Step::Going(Vec::new()));
        }
        let unsound: Vec<Name> = pins.keys().filter(|name| !self.is_sound(name)).cloned().collect();
        // If the held frame begins a service anew, the old records of the service count until the frame is written.
        let is_replaced = pins.keys().any(|name| held.begins(name));
        if !unsound.is_empty() || is_replaced {
            reclaim.reclaimed.pinned_by = unsound;
            return Ok(self.over(reclaim));
        }
        if !self.has_reserve(&pins, held) {
            reclaim.reclaimed.lacking_room = pins.into_keys().collect();
            return Ok(self.over(reclaim));
        }
        if self.bytes_of(&pins) > self.relocatable_bytes {
            return Ok(self.over(reclaim));
        }
        let next = pins.into_iter().map(|(name, needed)| {
            let first = self.services.get(&name).map_or(RecordNumber(1), |kept| kept.first);
            // At least one record is relocated: only a complete set supersedes an interrupted one.
            let last = self.committed.get(&name).map_or(first, |end| RecordNumber(end.0 - 1));
            (name, needed.min(last).max(first))
        });
        let next: BTreeMap<Name, RecordNumber> = next.collect();
        self.continue_relocation(Relocation { next, ..Relocation::default() }, reclaim)
    }

    /// Returns whether the records that these services need may be relocated. While the journal is short of room, that
    /// is so only if they take little of the remaining room, or if the file of the next segment can be made. In the
    /// second case the truncated segments provide the missing room. The next segment is for the held records, if there
    /// are any.
    fn has_reserve(&mut self, pins: &BTreeMap<Name, RecordNumber>, held: &FrameBuilder) -> bool {
        !self.is_short()
            || self.bytes_of(pins) <= self.room() / RESERVE_SHARE
            || held.is_empty() && self.make_next().is_ok()
    }

    fn over(&self, reclaim: &mut Reclaim) -> Step {
        let reclaimed = std::mem::take(&mut reclaim.reclaimed);
        Step::Over(Reclaimed { segment_bytes_left: self.segment_bytes(), ..reclaimed })
    }

    fn segment_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.file_bytes).sum()
    }

    /// Returns whether, as far as is known, all records of a service are there and can be read.
    fn is_sound(&self, service: &Name) -> bool {
        let standing = self.services.get(service).map(|kept| kept.standing);
        standing == Some(Integrity::Intact) && !self.unrelocatable.contains(service)
    }

    /// Returns the bytes of some services in all segments with records that they need.
    fn bytes_of(&self, pins: &BTreeMap<Name, RecordNumber>) -> u64 {
        let shares = self.segments.iter().flat_map(|segment| &segment.shares);
        let needed = shares.filter(|(name, share)| pins.get(*name).is_some_and(|first| share.last >= *first));
        needed.map(|(_, share)| share.bytes).sum()
    }

    /// Writes the next frame of copies, or more if the services append as much; the last frame makes the copies count.
    /// A step that has read enough leaves the rest to the next one.
    fn continue_relocation(&mut self, mut relocation: Relocation, reclaim: &mut Reclaim) -> Result<Step, Failure> {
        let mut moved = Vec::new();
        let mut reading = relocation.begin_reading();
        loop {
            let staged = match self.read_on(&mut relocation, &mut reading).and_then(|is_ready| match is_ready {
                true => self.stage_copies(&mut relocation).map(Some),
                false => Ok(None),
            }) {
                Ok(Some(staged)) => staged,
                Ok(None) => {
                    self.relocation = Some(relocation);
                    return Ok(Step::Going(moved));
                }
                // Records that cannot be relocated stay in place: the next start reports the services that the damage
                // concerns.
                Err(Unrelocatable { services, is_for_good: true }) => {
                    self.unrelocatable.extend(services.iter().cloned());
                    reclaim.reclaimed.pinned_by = services;
                    return Ok(Step::Going(moved));
                }
                Err(Unrelocatable { is_for_good: false, .. }) => {
                    reclaim.end = 0;
                    return Ok(Step::Going(moved));
                }
            };
            if !self.builder.is_empty() {
                self.make_room()?;
                let header = self.builder.finish(&self.key, self.position, self.previous, &mut self.buffer);
                let committed = self.write_frame(header)?;
                let frame_bytes = committed.frame_bytes() as u64;
                self.relocatable_bytes = self.relocatable_bytes.saturating_sub(frame_bytes);
                relocation.appended_bytes = relocation.appended_bytes.saturating_sub(frame_bytes);
                // From now on there are copies that only a complete set supersedes.
                self.half_relocated.extend(staged.keys().cloned());
                relocation.take_copies(&committed);
                moved.extend(places(&committed, staged));
            }
            if relocation.read_ahead.is_empty() && self.behind(&relocation).next().is_none() {
                self.replace_by_copies(relocation)?;
                return Ok(Step::Going(moved));
            }
            if relocation.appended_bytes == 0 {
                self.relocation = Some(relocation);
                return Ok(Step::Going(moved));
            }
        }
    }

    /// Reads on until there is enough for a frame, or no more. Returns false if the next step has to continue.
    fn read_on(&self, relocation: &mut Relocation, reading: &mut Reading) -> Result<bool, Unrelocatable> {
        while relocation.read_ahead_bytes < RELOCATED_FRAME_BYTES && self.behind(relocation).next().is_some() {
            if reading.is_over() {
                return Ok(false);
            }
            reading.take(self.read_frame(relocation)?);
        }
        Ok(true)
    }

    /// Reads the next frame with records to relocate, and returns its length. Frames in the journal's order have the
    /// records of a service in their order, whatever copies there are from an earlier relocation.
    fn read_frame(&self, relocation: &mut Relocation) -> Result<usize, Unrelocatable> {
        let Some((segment, frame_offset)) = self.next_frame(relocation) else {
            let services = self.behind(relocation).cloned().collect();
            return Err(Unrelocatable { services, is_for_good: true });
        };
        let reader = self.reader();
        if relocation.read.is_none_or(|(read, _)| read != segment) {
            relocation.file = None;
        }
        relocation.read = Some((segment, frame_offset));
        // The frame may have other records of a service that began anew later. These do not count.
        let of_segment = self.segments.binary_search_by_key(&segment, |segment| segment.number);
        let has_share = |name: &Name| {
            let share = of_segment.ok().and_then(|index| self.segments[index].shares.get(name));
            share.is_some_and(|share| share.frame_offsets.binary_search(&frame_offset).is_ok())
        };
        let unrelocatable = |relocation: &Relocation, error: &ReadError| Unrelocatable {
            services: relocation.next.keys().filter(|name| has_share(name)).cloned().collect(),
            is_for_good: !matches!(error, ReadError::Storage(_)),
        };
        let read = match relocation.file.take().map_or_else(|| reader.open(segment), Ok) {
            Ok(file) => reader.frame(&**relocation.file.insert(file), frame_offset),
            Err(error) => Err(error),
        };
        let (header, frame) = read.map_err(|error| unrelocatable(relocation, &error))?;
        let records = decode_body(&header, &frame).map_err(|error| unrelocatable(relocation, &error.into()))?;
        for (index, (run, records)) in header.runs.iter().zip(records).enumerate() {
            let Some(next) = relocation.next.get_mut(&run.service).filter(|_| has_share(&run.service)) else {
                continue;
            };
            let begins_later = |later: &Run| later.service == run.service && later.kind == RunKind::Begin;
            if header.runs[index + 1..].iter().any(begins_later) {
                continue;
            }
            for record in records {
                if record.number == *next {
                    relocation.read_ahead.push_back((run.service.clone(), record.number, record.bytes.to_vec()));
                    relocation.read_ahead_bytes += record.bytes.len();
                    *next = next.next();
                }
            }
        }
        Ok(header.frame_bytes)
    }

    /// Adds copies to the next frame until it is full enough, or there are no more. A run without records comes before
    /// those of a service and states its next record. Where no originals are left, it shows a reader how far the copies
    /// have to reach.
    fn stage_copies(&mut self, relocation: &mut Relocation) -> Result<Copies, Unrelocatable> {
        let mut staged = Copies::new();
        while let Some((service, number, record)) = relocation.read_ahead.front()
            && self.builder.frame_bytes() < RELOCATED_FRAME_BYTES
        {
            let end = self.committed.get(service).copied().unwrap_or(*number);
            let printed = match staged.contains_key(service) {
                true => Ok(()),
                false => self.builder.push_empty(RunKind::Continue, service, end),
            };
            match printed.and_then(|()| self.builder.push(RunKind::Relocated, service, *number, record)) {
                Ok(place) => staged.entry(service.clone()).or_insert((*number, Vec::new())).1.push(place),
                Err(FrameFull) if staged.is_empty() => {
                    // The record was written when frames could be longer.
                    self.builder.clear();
                    return Err(Unrelocatable { services: vec![service.clone()], is_for_good: true });
                }
                Err(FrameFull) => break,
            }
            relocation.read_ahead_bytes -= record.len();
            relocation.read_ahead.pop_front();
        }
        Ok(staged)
    }

    /// Returns the services that have unread records.
    fn behind<'a>(&'a self, relocation: &'a Relocation) -> impl Iterator<Item = &'a Name> {
        let is_behind =
            |(name, next): &(&Name, &RecordNumber)| self.committed.get(*name).is_some_and(|end| end > *next);
        relocation.next.iter().filter(is_behind).map(|(name, _)| name)
    }

    /// Returns the next frame with records of the relocated services: its segment, and its offset there.
    fn next_frame(&self, relocation: &Relocation) -> Option<(u64, u32)> {
        let from = relocation.read.map_or(0, |(segment, _)| segment);
        let first = self.segments.partition_point(|segment| segment.number < from);
        self.segments.range(first..).find_map(|segment| {
            let after = relocation.read.filter(|(read, _)| *read == segment.number).map(|(_, offset)| offset);
            let frames = relocation.next.iter().filter_map(|(name, next)| {
                let share = segment.shares.get(name).filter(|share| share.last >= *next)?;
                let index = after.map_or(0, |after| share.frame_offsets.partition_point(|offset| *offset <= after));
                share.frame_offsets.get(index)
            });
            frames.min().map(|offset| (segment.number, *offset))
        })
    }

    /// Replaces the segments' shares of the relocated services by the copies.
    fn replace_by_copies(&mut self, relocation: Relocation) -> Result<(), Failure> {
        // After damage, the roster shows that there were no more copies. It may begin a segment, as long as the
        // originals count.
        self.write_roster()?;
        let Relocation { next, mut copies, .. } = relocation;
        for segment in &mut self.segments {
            segment.shares.retain(|service, _| !next.contains_key(service));
            segment.shares.extend(copies.remove(&segment.number).unwrap_or_default());
        }
        self.half_relocated.retain(|service| !next.contains_key(service));
        Ok(())
    }

    /// Truncates the oldest segment, which is not the active one.
    fn retire_oldest(&mut self) -> Result<(), Failure> {
        let Some(oldest) = self.segments.front() else { return Ok(()) };
        let name = segment_name(oldest.number);
        let is_spare = oldest.file_bytes == self.options.segment_bytes && self.spares.len() < self.options.spares_max;
        let spare = spare_name(oldest.number);
        let failed = |is_final| move |error| Failure { action: "truncate the oldest segment", error, is_final };
        let result = if is_spare { self.storage.rename(&name, &spare) } else { self.storage.remove(&name) };
        match result {
            // The segment was renamed or removed, although an error was reported.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // The file remains a segment until the next reclaim.
            result => result.map_err(failed(false))?,
        }
        self.segments.pop_front();
        self.storage.sync_directory().map_err(failed(true))?;
        if is_spare {
            self.spares.push(spare);
        }
        Ok(())
    }
}

/// Returns the locations of the records in a frame with copies.
fn places(committed: &Committed, staged: Copies) -> impl Iterator<Item = Moved> {
    staged.into_iter().map(|(service, (first, places))| Moved {
        service,
        first,
        segment: committed.segment,
        frame_offset: committed.frame_offset,
        record_offsets: places.into_iter().map(|place| place.offset_in(&committed.header)).collect(),
    })
}
