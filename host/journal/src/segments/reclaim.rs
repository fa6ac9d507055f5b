//! Gives space back: which segments may go, and what is relocated so that they can.
//!
//! The oldest segment goes when no service needs a record in it. A service that does has all records that it needs
//! *relocated*: written once more at the end, whatever the service does or does not do meanwhile. That goes step by step, a
//! frame each, between which the log takes the records of all services, those that are relocated included: what they append
//! is relocated as well, so the copies are whole when they have caught up. Only then do the originals count no more, and
//! their segments go. A relocation that a stop cuts off leaves copies that recovery skips, as long as all originals are there:
//! so before one of them goes, the service is relocated whole (*half-relocated* ones, needed or not).
//!
//! What is relocated is paid for: of what services write, a [`RELOCATED_SHARE`]th may be relocated, and what is saved up for
//! that is never more than a `RELOCATED_SHARE`th of the journal. A relocation begins when that suffices for all that it takes. So
//! relocating writes at most a quarter as much as services do; and as each record is relocated once while the whole journal
//! goes, that is never longer than about five times what all services need. A bound for each reclaim alone would not do:
//! services that rest, one after another, would be relocated round and round with every snapshot of a small neighbour.

use super::{Committed, Failure, Log, LogError, frame_bytes_max, spare_name};
use crate::frame::{FrameBuilder, FrameFull, FrameHeader, RecordNumber, Run, RunKind, Staged, decode_body};
use crate::reader::ReadError;
use crate::recovery::{Integrity, Location, Share, segment_name};
use crate::storage::StorageFile;
use lifeboat_api::name::Name;
use std::collections::{BTreeMap, VecDeque};
use std::io;

/// The part of the journal that may be relocated, and of what is written, as a divisor: 1/4.
pub const RELOCATED_SHARE: u64 = 4;

/// The part of what is left that may be relocated while the journal is short of room, as a divisor: 1/4.
pub const RESERVE_SHARE: u64 = 4;

/// Bytes from which on a frame of relocated records takes no more: what services commit waits for no longer one.
pub const RELOCATED_FRAME_BYTES: usize = 1024 * 1024;

/// Bytes of frames that a step reads, beside as many as were committed since the last one: records that are to be relocated
/// may lie far apart.
pub const RELOCATION_READ_BYTES: usize = 8 * 1024 * 1024;

/// Frames that a step reads, beside as many as were committed since the last one: short ones may each be a seek.
pub const RELOCATION_READ_FRAMES: usize = 256;

/// What a reclaim did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Reclaimed {
    /// Segments that were given up.
    pub segments: u64,
    /// Services that pin the oldest segment which is left and cannot be relocated: records of theirs are damaged, and what
    /// is damaged is never given up.
    pub pinned_by: Vec<Name>,
    /// Services that pin it as well, and are not relocated since the journal is short of room.
    pub lacking_room: Vec<Name>,
    /// Bytes of the segments that are left.
    pub segment_bytes_left: u64,
}

/// Consecutive records of a service that are elsewhere now, in one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Whose they are.
    pub service: Name,
    /// The number of the first.
    pub first: RecordNumber,
    /// The number of the segment.
    pub segment: u64,
    /// Where the frame begins in the segment's file.
    pub frame_offset: u32,
    /// Where each of them begins in the frame.
    pub record_offsets: Vec<u32>,
}

impl Moved {
    /// The number after the last of them.
    #[must_use]
    pub fn end(&self) -> RecordNumber {
        RecordNumber(self.first.0 + self.record_offsets.len() as u64)
    }

    /// Where a record is, if it is one of them.
    #[must_use]
    pub fn location(&self, number: RecordNumber) -> Option<Location> {
        let index = usize::try_from(number.0.checked_sub(self.first.0)?).ok()?;
        let record_offset = *self.record_offsets.get(index)?;
        Some(Location { segment: self.segment, frame_offset: self.frame_offset, record_offset })
    }
}

/// A reclaim that is under way. Dropped before its end, it leaves a journal that is as good and longer.
#[derive(Debug)]
pub struct Reclaim {
    /// Of each service the first record that it still needs; one that is left out needs all.
    needed: BTreeMap<Name, RecordNumber>,
    /// The segment that was active when it began. This and later ones are left for the next time, or it might never end.
    end: u64,
    reclaimed: Reclaimed,
}

/// What became of a reclaim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It goes on. These records can be read elsewhere from now on; where they were, until the next step at least.
    Going(Vec<Moved>),
    /// It is over.
    Over(Reclaimed),
}

/// Records that are being relocated.
#[derive(Debug, Default)]
pub(super) struct Relocation {
    /// The services, and of each the next record that is to be read.
    next: BTreeMap<Name, RecordNumber>,
    /// The last frame that was read: its segment, and where it begins there.
    read: Option<(u64, u32)>,
    /// The file of that segment.
    file: Option<Box<dyn StorageFile>>,
    /// What was read and is not written yet.
    read_ahead: VecDeque<(Name, RecordNumber, Vec<u8>)>,
    read_ahead_bytes: usize,
    /// What the copies are to their segments.
    copies: BTreeMap<u64, BTreeMap<Name, Share>>,
    /// Bytes that the services appended and no step has made up for.
    appended_bytes: u64,
    /// What was committed since the last step.
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

    /// One frame less.
    fn take(&mut self, frame_bytes: usize) {
        self.frames = self.frames.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(frame_bytes);
    }
}

impl Relocation {
    /// What a step may read. What was committed comes on top, or services that write much were never caught up with.
    fn begin_reading(&mut self) -> Reading {
        let Reading { frames, bytes } = std::mem::take(&mut self.committed);
        Reading { frames: frames + RELOCATION_READ_FRAMES, bytes: bytes + RELOCATION_READ_BYTES }
    }

    /// Takes note of a frame that was committed meanwhile.
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
            // What there was of it does not count any more.
            RunKind::Begin | RunKind::End => self.forget(&run.service),
        }
    }

    /// Carries a service no further.
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

/// What was staged of each service: the number of the first record, and their places.
type Copies = BTreeMap<Name, (RecordNumber, Vec<Staged>)>;

/// Services with records that cannot be read, or not be written again.
struct Unrelocatable {
    services: Vec<Name>,
    /// False for an error of the storage that may pass.
    is_for_good: bool,
}

impl Log {
    /// Begins to give up the oldest segments, as far as nobody needs them. `needed` says of each service which record is
    /// the first that it still needs; a service that it leaves out needs all. One that is under way is given up.
    pub fn begin_reclaim(&mut self, needed: BTreeMap<Name, RecordNumber>) -> Reclaim {
        self.relocation = None;
        self.relocatable_bytes = self.relocatable_bytes.min(self.segment_bytes() / RELOCATED_SHARE);
        let end = self.segments.back().map_or(0, |active| active.number);
        Reclaim { needed, end, reclaimed: Reclaimed::default() }
    }

    /// Goes on with a reclaim: writes a frame of records that are relocated, or gives up a segment.
    ///
    /// # Errors
    /// [`LogError::FrameFull`] if records are staged: commit them first. [`LogError::NotBegun`]: it can be tried again.
    /// [`LogError::Poisoned`].
    pub fn step(&mut self, reclaim: &mut Reclaim) -> Result<Step, LogError> {
        self.check()?;
        if !self.builder.is_empty() {
            return Err(LogError::FrameFull);
        }
        self.step_while_held(reclaim)
    }

    /// The same while records are staged that wait for room: these stay staged, and copies go before them, into a part of
    /// the room that is too little for them.
    ///
    /// # Errors
    /// [`LogError::NotBegun`]: it can be tried again. [`LogError::Poisoned`].
    pub fn step_while_held(&mut self, reclaim: &mut Reclaim) -> Result<Step, LogError> {
        self.check()?;
        // What is staged becomes a frame only when it is written, so another can come before it.
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
            // What the segments that stay say of each service must reach to its end.
            if self.roster_segment.is_none_or(|roster| roster <= oldest.number) {
                self.write_roster()?;
            }
            self.retire_oldest()?;
            reclaim.reclaimed.segments += 1;
            return Ok(Step::Going(Vec::new()));
        }
        let unsound: Vec<Name> = pins.keys().filter(|name| !self.is_sound(name)).cloned().collect();
        // Of a service that begins anew in the frame that is held, what it had counts until that is written.
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
            // One is relocated in any case: only a whole set makes up for one that was cut off.
            let last = self.committed.get(&name).map_or(first, |end| RecordNumber(end.0 - 1));
            (name, needed.min(last).max(first))
        });
        let next: BTreeMap<Name, RecordNumber> = next.collect();
        self.continue_relocation(Relocation { next, ..Relocation::default() }, reclaim)
    }

    /// Whether what these need may be relocated: while the journal is short of room, only if it takes little of what is left,
    /// or if the next segment's file can be made. Then the segments that are given up are the room which is missing. The
    /// next segment is for what is held, if anything is.
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

    /// Whether all records of a service are there and can be read, as far as is known.
    fn is_sound(&self, service: &Name) -> bool {
        let standing = self.services.get(service).map(|kept| kept.standing);
        standing == Some(Integrity::Intact) && !self.unrelocatable.contains(service)
    }

    /// How many bytes the needed records of some services take, and what lies beside them in the same segments.
    fn bytes_of(&self, pins: &BTreeMap<Name, RecordNumber>) -> u64 {
        let shares = self.segments.iter().flat_map(|segment| &segment.shares);
        let needed = shares.filter(|(name, share)| pins.get(*name).is_some_and(|first| share.last >= *first));
        needed.map(|(_, share)| share.bytes).sum()
    }

    /// Writes the next frame of copies, or more if the services append so much; with the last one the copies count. What
    /// one step does not make up for, because it has read enough, is left to the next.
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
                // What cannot be relocated stays where it is: the next start tells whom damage concerns.
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
                // From now on there are copies that only a whole set makes up for.
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

    /// Reads on until there is enough for a frame, or no more. Returns false if it is for the next step to go on.
    fn read_on(&self, relocation: &mut Relocation, reading: &mut Reading) -> Result<bool, Unrelocatable> {
        while relocation.read_ahead_bytes < RELOCATED_FRAME_BYTES && self.behind(relocation).next().is_some() {
            if reading.is_over() {
                return Ok(false);
            }
            reading.take(self.read_frame(relocation)?);
        }
        Ok(true)
    }

    /// Reads the next frame that has records which are to be relocated, and returns how long it is. In the order of the
    /// journal these are in theirs, whatever copies there are of them from an earlier relocation.
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
        // Of what else is in the frame, records of a service that began anew later do not count.
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

    /// Adds copies to the next frame until it is full enough, or there are no more. A run without records before those of a
    /// service says how far it got: where no originals are left, a reader knows from it what the copies have to reach.
    fn stage_copies(&mut self, relocation: &mut Relocation) -> Result<Copies, Unrelocatable> {
        let mut staged = Copies::new();
        while let Some((service, number, record)) = relocation.read_ahead.front()
            && self.builder.frame_bytes() < RELOCATED_FRAME_BYTES
        {
            let end = self.committed.get(service).copied().unwrap_or(*number);
            let told = match staged.contains_key(service) {
                true => Ok(()),
                false => self.builder.push_empty(RunKind::Continue, service, end),
            };
            match told.and_then(|()| self.builder.push(RunKind::Relocated, service, *number, record)) {
                Ok(place) => staged.entry(service.clone()).or_insert((*number, Vec::new())).1.push(place),
                Err(FrameFull) if staged.is_empty() => {
                    // It was written when frames could be longer.
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

    /// Services of which not all records were read.
    fn behind<'a>(&'a self, relocation: &'a Relocation) -> impl Iterator<Item = &'a Name> {
        let is_behind =
            |(name, next): &(&Name, &RecordNumber)| self.committed.get(*name).is_some_and(|end| end > *next);
        relocation.next.iter().filter(is_behind).map(|(name, _)| name)
    }

    /// The next frame with records of the services that are relocated: its segment, and where it begins there.
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

    /// From now on the copies are what segments have of the services that were relocated.
    fn replace_by_copies(&mut self, relocation: Relocation) -> Result<(), Failure> {
        // After damage, it tells that there were no more copies. It may begin a segment, as long as the originals count.
        self.write_roster()?;
        let Relocation { next, mut copies, .. } = relocation;
        for segment in &mut self.segments {
            segment.shares.retain(|service, _| !next.contains_key(service));
            segment.shares.extend(copies.remove(&segment.number).unwrap_or_default());
        }
        self.half_relocated.retain(|service| !next.contains_key(service));
        Ok(())
    }

    /// Gives up the oldest segment, which is not the active one.
    fn retire_oldest(&mut self) -> Result<(), Failure> {
        let Some(oldest) = self.segments.front() else { return Ok(()) };
        let name = segment_name(oldest.number);
        let is_spare = oldest.file_bytes == self.options.segment_bytes && self.spares.len() < self.options.spares_max;
        let spare = spare_name(oldest.number);
        let failed = |is_final| move |error| Failure { action: "give up a segment", error, is_final };
        let result = if is_spare { self.storage.rename(&name, &spare) } else { self.storage.remove(&name) };
        match result {
            // It was renamed or removed, although that was reported to have failed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // It stays a segment until the next reclaim.
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

/// Where the records of a frame with copies are.
fn places(committed: &Committed, staged: Copies) -> impl Iterator<Item = Moved> {
    staged.into_iter().map(|(service, (first, places))| Moved {
        service,
        first,
        segment: committed.segment,
        frame_offset: committed.frame_offset,
        record_offsets: places.into_iter().map(|place| place.offset_in(&committed.header)).collect(),
    })
}
