//! What a journal has to say after a stop of any kind: every record that can be trusted, and whom to distrust.
//!
//! Frames are read in order. The next one is written only after the sync of the one before, so only the last frame of a
//! journal that was not sealed can be torn by a crash. Whatever else is not as it was written is [`Damage`]:
//!
//! - a bad body under a good header: the services that the header names are *quarantined* from their first record in
//!   it;
//! - a bad header, or a segment that is unreadable or missing: nobody knows whose records these were, so every service
//!   is *suspect* until a later frame continues its records without a gap; a gap is quarantine.
//!
//! A quarantined service gets no records from the damage on, unless relocated copies of the lost ones turn up later. A
//! journal never shortens what is damaged, and its segment stays as long as a service hangs on it.
//!
//! A set of relocated copies comes in as many runs as it takes, and records of the service may be appended between them,
//! which the set then tells once more. Before the set is whole no original goes: so a set that a crash cut off repeats what
//! is there, and is skipped, and once originals are gone a whole set follows on it, which counts instead. A set counts
//! instead of originals of which some are gone as well, and has to reach the last record that any frame told of: one that
//! never does is a quarantine.
//!
//! Reading changes nothing. [`inspect`] is for those who only look; [`crate::segments::Log::open`] goes on.

use super::frame::{
    BLOCK_BYTES, DirectoryId, FORMAT_VERSION, FrameHash, FrameHeader, FrameKey, FrameRecord, HEADER_BYTES_MAX,
    HeaderError, Position, RecordNumber, Run, RunKind, decode_body, decode_header,
};
use super::segments::header::{SEGMENT_HEADER_BYTES, SegmentHeader, SegmentHeaderError};
use crate::storage::{FileIdentity, Storage};
use lifeboat_api::name::Name;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use thiserror::Error;

/// The longest segment file that is read, in bytes.
pub const SEGMENT_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The end of a journal after a clean stop. It is kept elsewhere, and removed there before the journal goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// Which journal.
    pub directory: DirectoryId,
    /// Where its last frame ends.
    pub position: Position,
    /// The hash of that frame.
    pub hash: FrameHash,
}

/// Where a record is. It is there until its segment goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// The number of the segment.
    pub segment: u64,
    /// Where the frame begins in the segment's file.
    pub frame_offset: u32,
    /// Where the record begins in the frame.
    pub record_offset: u32,
}

/// What [`inspect`] finds, in the order of the journal.
#[derive(Debug)]
pub enum Found<'a> {
    /// What was found of this name before does not count: the service begins, or its records come once more, from an
    /// earlier one on.
    Begins {
        /// Its name.
        service: &'a Name,
    },
    /// The next record of a service. Numbers of a service grow by one.
    Record {
        /// Whose it is.
        service: &'a Name,
        /// Its number.
        number: RecordNumber,
        /// What was handed in.
        bytes: &'a [u8],
        /// Where it is.
        location: Location,
    },
    /// The service was removed.
    Ends {
        /// Its name.
        service: &'a Name,
    },
}

/// How far a service's records can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integrity {
    /// They are all there.
    Intact,
    /// None is known to be missing, but some may be at the end.
    Suspect {
        /// Index of the damage that they may have been in.
        damage: usize,
    },
    /// Records are missing.
    Quarantined {
        /// The first that is missing.
        from: RecordNumber,
        /// Index of the damage that it was in, if there is one: else the journal contradicts itself.
        damage: Option<usize>,
    },
}

/// What is left of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The first of its records that is still in the journal. Whoever needs an earlier one cannot be recovered.
    pub first: RecordNumber,
    /// The number after the last one that was found.
    pub next: RecordNumber,
    /// Whether that is all.
    pub standing: Integrity,
}

/// A part of the journal that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("segment {segment}, position {from}: {kind}")]
pub struct Damage {
    /// The segment that it is in, or that is missing.
    pub segment: u64,
    /// Where it begins.
    pub from: Position,
    /// What is damaged.
    pub kind: DamageKind,
}

/// What is damaged.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DamageKind {
    /// The body of a frame: only the services that it names are concerned.
    #[error("the body of a frame is damaged")]
    Body,
    /// The headers of one or more frames up to `to`. They may have held records of any service.
    #[error("frames up to position {to} are damaged")]
    Frames {
        /// Where it is readable again.
        to: Position,
    },
    /// A frame or a segment that is good in itself, but does not follow on what is before it: parts of two journals.
    #[error("what follows does not belong to what is before")]
    Foreign,
    /// One copy of a segment's header. The other one is good, so nothing is lost.
    #[error("one of two copies of the segment's header is damaged")]
    HeaderCopy,
    /// Both copies of a segment's header. Its frames may have held records of any service.
    #[error("both copies of the segment's header are damaged")]
    Header,
    /// The segment is missing. It may have held records of any service.
    #[error("the segment is missing")]
    Missing,
}

impl DamageKind {
    /// Whether records of any service may have been lost.
    #[must_use]
    pub fn concerns_all(&self) -> bool {
        !matches!(self, Self::Body | Self::HeaderCopy)
    }
}

/// The last frame was being written when the host went down. Nothing in it was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// Where it began.
    pub position: Position,
    /// The services in it, if its header is whole.
    pub services: Option<Vec<Name>>,
}

/// What became of the seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealState {
    /// There is none: the host did not stop cleanly, or the journal is new.
    Absent,
    /// The journal was compared with it.
    Kept,
    /// The journal goes on after it: whoever went on did not remove it. The journal is taken as not sealed.
    Outdated,
}

/// All that is known after a journal was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Whether there was no segment: the journal was created now.
    pub is_new: bool,
    /// What became of the seal.
    pub seal: SealState,
    /// Every service that the journal has something of. One that is not here wrote nothing, or, if some damage
    /// [`DamageKind::concerns_all`], everything that it wrote may be lost.
    pub services: BTreeMap<Name, Kept>,
    /// Where each of them began, unless that is not in the journal any more.
    pub begun: BTreeMap<Name, Position>,
    /// From here on nothing is missing that could tell that a service began.
    pub whole_from: Position,
    /// All damages, in order.
    pub damages: Vec<Damage>,
    /// The torn tail, if one can be seen. In a recycled segment it cannot always be told from what was there before.
    pub torn: Option<TornTail>,
    /// Frames that were read.
    pub frames: u64,
    /// Where the journal ends.
    pub end: Position,
}

impl Recovery {
    /// Whether records may be missing of services that [`Recovery::services`] does not list.
    #[must_use]
    pub fn concerns_unlisted(&self) -> bool {
        self.damages.iter().any(|damage| damage.kind.concerns_all())
    }

    /// Whether all that the journal has under a name is surely of a service that had begun before the journal reached `end`.
    #[must_use]
    pub fn began_before(&self, service: &Name, end: Position) -> bool {
        // A journal that begins later does not tell, and one that ends before is not the one in which it was removed.
        (self.whole_from..=self.end).contains(&end) && self.begun.get(service).is_none_or(|begun| *begun < end)
    }
}

/// A journal cannot be opened at all. Nothing was changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There should be a journal, but there is none.
    #[error("the journal has no segments, although it was in use")]
    Missing,
    /// It belongs to another directory.
    #[error("'{file}' belongs to journal {found}, not to {expected}")]
    OtherDirectory {
        /// The file that says so, or `seal`.
        file: String,
        /// Which journal it belongs to.
        found: DirectoryId,
        /// Which was expected.
        expected: DirectoryId,
    },
    /// A newer host wrote it.
    #[error("'{file}' has format version {found}, this host reads up to {FORMAT_VERSION}; use a newer host")]
    FutureVersion {
        /// The file.
        file: String,
        /// Its version.
        found: u16,
    },
    /// A file is too long to be a segment.
    #[error("'{file}' is {bytes} bytes, a segment has at most {SEGMENT_BYTES_MAX}")]
    SegmentTooLong {
        /// The file.
        file: String,
        /// Its length.
        bytes: u64,
    },
    /// The segments are to be of a length that cannot be.
    #[error(
        "a segment of {bytes} bytes is out of bounds: from {min} to {SEGMENT_BYTES_MAX}, a multiple of {BLOCK_BYTES}"
    )]
    SegmentBytes {
        /// The length that was asked for.
        bytes: u64,
        /// The least.
        min: u64,
    },
    /// The storage fails.
    #[error("cannot {action}")]
    Storage {
        /// What was tried.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl OpenError {
    /// For `map_err`: the storage failed to do `action`.
    pub(crate) fn storage(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Storage { action, source }
    }
}

/// Reads the journal of `directory` without changing it, and hands everything that can be trusted to `found`.
///
/// It takes no lock: what a running host appends meanwhile is seen or not.
///
/// # Errors
/// [`OpenError`]. Damage is none.
pub fn inspect(
    storage: &dyn Storage,
    directory: DirectoryId,
    seal: Option<&Seal>,
    found: &mut dyn FnMut(Found<'_>),
) -> Result<Recovery, OpenError> {
    Ok(walk(storage, directory, seal, found)?.recovery)
}

/// The name of the file of a segment.
pub(crate) fn segment_name(number: u64) -> String {
    format!("{number:010}.segment")
}

/// The number of the segment in the file of this name.
fn segment_number(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".segment")?.parse().ok()?;
    (segment_name(number) == name).then_some(number)
}

/// A segment that was read.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    /// Where its first frame begins, unless its header is unreadable.
    pub(crate) first: Option<Position>,
    pub(crate) file_bytes: u64,
    /// Which file it was when it was opened.
    pub(crate) identity: FileIdentity,
    /// Whether all after its frames is zero, but for a torn tail.
    pub(crate) is_zeroed: bool,
    pub(crate) is_damaged: bool,
    /// What it has of each service: of a sound one records that count, of any other all.
    pub(crate) shares: BTreeMap<Name, Share>,
}

/// What a segment has of a service.
#[derive(Debug, Default, Clone)]
pub(crate) struct Share {
    pub(crate) last: RecordNumber,
    pub(crate) bytes: u64,
    /// Where the frames with its records begin in the file.
    pub(crate) frame_offsets: Vec<u32>,
}

/// A recovery with what is needed to go on.
#[derive(Debug)]
pub(crate) struct Walked {
    pub(crate) recovery: Recovery,
    pub(crate) segments: Vec<Segment>,
    /// The hash of the last frame.
    pub(crate) previous: FrameHash,
    /// Whether the last segment can be appended to.
    pub(crate) is_last_usable: bool,
    /// Services of which copies were being relocated when the host went down.
    pub(crate) half_relocated: BTreeSet<Name>,
}

/// Reads a journal from its first segment to its end.
pub(crate) fn walk(
    storage: &dyn Storage,
    directory: DirectoryId,
    seal: Option<&Seal>,
    found: &mut dyn FnMut(Found<'_>),
) -> Result<Walked, OpenError> {
    if let Some(seal) = seal.filter(|seal| seal.directory != directory) {
        return Err(OpenError::OtherDirectory { file: "seal".into(), found: seal.directory, expected: directory });
    }
    let files = list_segments(storage, directory)?;
    let mut walk = Walk {
        key: FrameKey::new(directory),
        found,
        at: Position(0),
        previous: FrameHash::default(),
        segments: Vec::new(),
        told: BTreeMap::new(),
        counted: BTreeMap::new(),
        begun: BTreeMap::new(),
        whole_from: None,
        damages: Vec::new(),
        seal: if seal.is_some() { SealState::Kept } else { SealState::Absent },
        torn: None,
        frames: 0,
    };
    walk.segments(storage, &files, seal)?;
    walk.count_shares();
    let is_last_usable = files.last().is_some_and(|file| file.header.is_some());
    let half_relocated =
        walk.told.iter().filter(|(_, told)| told.is_half_relocated).map(|(service, _)| service.clone());
    let half_relocated = half_relocated.collect();
    let recovery = Recovery {
        is_new: files.is_empty(),
        seal: walk.seal,
        services: walk.told.into_iter().map(|(service, told)| (service, told.into_kept())).collect(),
        begun: walk.begun,
        whole_from: walk.whole_from.unwrap_or(walk.at),
        damages: walk.damages,
        torn: walk.torn,
        frames: walk.frames,
        end: walk.at,
    };
    Ok(Walked { recovery, segments: walk.segments, previous: walk.previous, is_last_usable, half_relocated })
}

/// A segment file before its frames are read.
struct SegmentFile {
    number: u64,
    name: String,
    bytes: u64,
    identity: FileIdentity,
    header: Option<SegmentHeader>,
    is_copy_damaged: bool,
}

/// Finds all segments, in order, and checks that this host may read them before it reads any frame.
fn list_segments(storage: &dyn Storage, directory: DirectoryId) -> Result<Vec<SegmentFile>, OpenError> {
    let mut numbers: Vec<u64> = storage
        .list()
        .map_err(OpenError::storage("list the journal"))?
        .iter()
        .filter_map(|name| segment_number(name))
        .collect();
    numbers.sort_unstable();
    let mut files = Vec::with_capacity(numbers.len());
    for number in numbers {
        let name = segment_name(number);
        let file = storage.open(&name).map_err(OpenError::storage(format!("open '{name}'")))?;
        let bytes = file.bytes().map_err(OpenError::storage(format!("read '{name}'")))?;
        let identity = file.identity().map_err(OpenError::storage(format!("read '{name}'")))?;
        if bytes > SEGMENT_BYTES_MAX {
            return Err(OpenError::SegmentTooLong { file: name, bytes });
        }
        let mut start = vec![0; SEGMENT_HEADER_BYTES.min(usize::try_from(bytes).unwrap_or(SEGMENT_HEADER_BYTES))];
        file.read_exact_at(0, &mut start).map_err(OpenError::storage(format!("read '{name}'")))?;
        let (header, is_copy_damaged) = match SegmentHeader::decode(&start) {
            Ok((header, _)) if header.directory != directory => {
                return Err(OpenError::OtherDirectory { file: name, found: header.directory, expected: directory });
            }
            // Under another segment's name it is no better than a damaged one.
            Ok((header, is_whole)) => (Some(header).filter(|header| header.number == number), !is_whole),
            Err(SegmentHeaderError::FutureVersion { found }) => {
                return Err(OpenError::FutureVersion { file: name, found });
            }
            Err(SegmentHeaderError::Damaged) => (None, true),
        };
        files.push(SegmentFile { number, name, bytes, identity, header, is_copy_damaged });
    }
    Ok(files)
}

/// The state of reading: all frames up to `at` were seen to.
struct Walk<'f> {
    key: FrameKey,
    found: &'f mut dyn FnMut(Found<'_>),
    at: Position,
    /// The hash of the frame that ends at `at`.
    previous: FrameHash,
    segments: Vec<Segment>,
    told: BTreeMap<Name, Told>,
    /// What the segments, by number, have of the records of each service that were handed out and still count.
    counted: BTreeMap<Name, BTreeMap<u64, Share>>,
    /// As [`Recovery::begun`].
    begun: BTreeMap<Name, Position>,
    /// As [`Recovery::whole_from`]; none until a frame is read, also after a damage.
    whole_from: Option<Position>,
    damages: Vec<Damage>,
    seal: SealState,
    torn: Option<TornTail>,
    frames: u64,
}

/// What frames have told of a service.
#[derive(Debug)]
struct Told {
    kept: Kept,
    /// The number after the last record that any frame told of. If that is more than [`Kept::next`], records are lost, or
    /// their relocated copies are still to come.
    end: RecordNumber,
    /// Whether the last copies do not reach that: a relocation that was cut off.
    is_half_relocated: bool,
}

/// How the frames of a segment end.
#[derive(Debug, Clone, Copy)]
enum End {
    /// There: the next segment or the seal says so, and what the hash of the last frame is.
    At(Position, FrameHash),
    /// Where no more frame is found, and nothing is known of what comes next.
    Unknown,
    /// Where no more frame is found, and the last one may be torn.
    Tail,
}

/// The bytes of one segment.
struct Frames<'a> {
    bytes: &'a [u8],
    first: Position,
    number: u64,
    file: &'a str,
}

impl Walk<'_> {
    fn segments(&mut self, storage: &dyn Storage, files: &[SegmentFile], seal: Option<&Seal>) -> Result<(), OpenError> {
        for (index, file) in files.iter().enumerate() {
            let before = index.checked_sub(1).map(|before| &files[before]);
            if let Some(before) = before.filter(|before| before.number + 1 != file.number) {
                self.add_damage(before.number + 1, DamageKind::Missing);
            }
            self.segments.push(Segment {
                number: file.number,
                first: file.header.map(|header| header.first),
                file_bytes: file.bytes,
                identity: file.identity,
                is_zeroed: file.header.is_some_and(|header| header.is_zeroed),
                is_damaged: false,
                shares: BTreeMap::new(),
            });
            let Some(header) = file.header else {
                self.add_damage(file.number, DamageKind::Header);
                // Positions that it may have used are not used again.
                self.at = Position(self.at.0 + file.bytes.next_multiple_of(BLOCK_BYTES as u64));
                continue;
            };
            if file.is_copy_damaged {
                self.add_damage(file.number, DamageKind::HeaderCopy);
            }
            let is_neighbour = before.is_some_and(|before| before.header.is_some() && before.number + 1 == file.number);
            if is_neighbour && (header.first != self.at || header.previous != self.previous) {
                self.add_damage(file.number, DamageKind::Foreign);
            }
            self.at = header.first;
            self.previous = header.previous;

            let end = match files.get(index + 1) {
                Some(next) => match next.header {
                    Some(next_header) if next.number == file.number + 1 && next_header.first >= header.first => {
                        End::At(next_header.first, next_header.previous)
                    }
                    _ => End::Unknown,
                },
                None => match seal {
                    Some(seal) if seal.position >= header.first => End::At(seal.position, seal.hash),
                    Some(_) => {
                        self.seal = SealState::Outdated;
                        End::Tail
                    }
                    None => End::Tail,
                },
            };
            let bytes = read(storage, &file.name, file.bytes)?;
            let frames = Frames { bytes: &bytes, first: header.first, number: file.number, file: &file.name };
            self.frames(&frames, end, header.is_zeroed)?;
            if index + 1 == files.len() && seal.is_some() && self.frame(&frames, self.at)?.is_some() {
                self.seal = SealState::Outdated;
                self.frames(&frames, End::Tail, header.is_zeroed)?;
            }
        }
        let is_last_lost = files.last().is_none_or(|file| file.header.is_none());
        if let Some(seal) = seal.filter(|seal| is_last_lost && seal.position > self.at) {
            self.add_damage(files.last().map_or(1, |file| file.number + 1), DamageKind::Missing);
            self.at = seal.position;
            self.previous = seal.hash;
        }
        Ok(())
    }

    /// Reads the frames of a segment from `self.at` to its end.
    fn frames(&mut self, frames: &Frames<'_>, end: End, is_zeroed: bool) -> Result<(), OpenError> {
        loop {
            if let End::At(limit, previous) = end
                && self.at >= limit
            {
                if self.at != limit || self.previous != previous {
                    self.add_damage(frames.number, DamageKind::Foreign);
                    self.at = limit;
                    self.previous = previous;
                }
                return Ok(());
            }
            let header = self.frame(frames, self.at)?.filter(|header| match end {
                End::At(limit, _) => header.end() <= limit,
                End::Unknown | End::Tail => true,
            });
            if let Some(header) = header {
                let frame = frames.from(header.position).unwrap_or_default();
                if header.previous != self.previous {
                    self.add_damage(frames.number, DamageKind::Foreign);
                } else if let Ok(records) = decode_body(&header, frame) {
                    self.apply(frames, &header, Some(&records));
                } else if matches!(end, End::Tail) && self.scan(frames, header.end(), None)?.is_none() {
                    let services: BTreeSet<Name> = header.runs.iter().map(|run| run.service.clone()).collect();
                    self.torn = Some(TornTail { position: self.at, services: Some(services.into_iter().collect()) });
                    return Ok(());
                } else {
                    self.add_damage(frames.number, DamageKind::Body);
                    self.apply(frames, &header, None);
                }
                self.at = header.end();
                self.previous = header.hash;
                continue;
            }
            let limit = if let End::At(limit, _) = end { Some(limit) } else { None };
            let from = Position(self.at.0 + BLOCK_BYTES as u64);
            match (self.scan(frames, from, limit)?, end) {
                (Some(next), _) => {
                    self.add_damage(frames.number, DamageKind::Frames { to: next.position });
                    self.at = next.position;
                    self.previous = next.previous;
                }
                (None, End::At(limit, previous)) => {
                    self.add_damage(frames.number, DamageKind::Frames { to: limit });
                    self.at = limit;
                    self.previous = previous;
                }
                (None, End::Tail) => {
                    let rest = frames.from(self.at).unwrap_or_default();
                    if is_zeroed && rest.iter().any(|byte| *byte != 0) {
                        self.torn = Some(TornTail { position: self.at, services: None });
                    }
                    return Ok(());
                }
                (None, End::Unknown) => return Ok(()),
            }
        }
    }

    /// The header of the frame at `position`, if there is one.
    fn frame(&self, frames: &Frames<'_>, position: Position) -> Result<Option<FrameHeader>, OpenError> {
        let Some(bytes) = frames.from(position) else { return Ok(None) };
        match decode_header(&self.key, &bytes[..bytes.len().min(HEADER_BYTES_MAX)]) {
            Ok(header) if header.position == position => Ok(Some(header)),
            // What an earlier use of the file left behind.
            Ok(_) | Err(HeaderError::Absent | HeaderError::Damaged) => Ok(None),
            Err(HeaderError::FutureVersion { found }) => {
                Err(OpenError::FutureVersion { file: frames.file.to_owned(), found })
            }
        }
    }

    /// The first frame from `position` on that ends before `limit`.
    fn scan(
        &self,
        frames: &Frames<'_>,
        mut position: Position,
        limit: Option<Position>,
    ) -> Result<Option<FrameHeader>, OpenError> {
        let limit = limit.unwrap_or(Position(u64::MAX));
        while position < limit && frames.from(position).is_some() {
            if let Some(header) = self.frame(frames, position)?.filter(|header| header.end() <= limit) {
                return Ok(Some(header));
            }
            position.0 += BLOCK_BYTES as u64;
        }
        Ok(None)
    }

    fn add_damage(&mut self, segment: u64, kind: DamageKind) {
        let index = self.damages.len();
        if kind.concerns_all() {
            self.whole_from = None;
            for told in self.told.values_mut().filter(|told| told.kept.standing == Integrity::Intact) {
                told.kept.standing = Integrity::Suspect { damage: index };
            }
        }
        if kind != DamageKind::HeaderCopy
            && let Some(segment) = self.segments.last_mut()
        {
            segment.is_damaged = true;
        }
        self.damages.push(Damage { segment, from: self.at, kind });
    }

    /// Sees to what a frame says of each service. Without `records` its body is the last damage.
    fn apply(&mut self, frames: &Frames<'_>, header: &FrameHeader, records: Option<&[Vec<FrameRecord<'_>>]>) {
        self.frames += 1;
        self.whole_from.get_or_insert(header.position);
        let frame_offset = frames.offset_of(header.position);
        for (index, run) in header.runs.iter().enumerate() {
            if matches!(run.kind, RunKind::Begin | RunKind::End) {
                for segment in &mut self.segments {
                    segment.shares.remove(&run.service);
                }
                match run.kind {
                    RunKind::Begin => self.begun.insert(run.service.clone(), header.position),
                    _ => self.begun.remove(&run.service),
                };
            }
            if let Some(segment) = self.segments.last_mut() {
                segment.add_share(run, frame_offset);
            }
            self.apply_run(run, records.map(|records| records[index].as_slice()), frames.number, frame_offset);
        }
    }

    /// Leaves to each segment what it has of sound services that counts: no originals that relocated copies count instead of,
    /// and no copies that were skipped, or they would pin it, and be relocated once more. Of the others everything stays.
    fn count_shares(&mut self) {
        for (service, told) in &self.told {
            if told.kept.standing != Integrity::Intact || told.kept.next < told.end {
                continue;
            }
            let mut counted = self.counted.remove(service).unwrap_or_default();
            for segment in &mut self.segments {
                segment.shares.remove(service);
                if let Some(share) = counted.remove(&segment.number) {
                    segment.shares.insert(service.clone(), share);
                }
            }
        }
    }

    fn apply_run(&mut self, run: &Run, records: Option<&[FrameRecord<'_>]>, segment: u64, frame_offset: u32) {
        let service = &run.service;
        match run.kind {
            RunKind::End => {
                self.told.remove(service);
                self.counted.remove(service);
                (self.found)(Found::Ends { service });
                return;
            }
            RunKind::Begin => {
                self.told.insert(service.clone(), Told::at(run.first));
                self.counted.remove(service);
                (self.found)(Found::Begins { service });
            }
            RunKind::Continue | RunKind::Relocated => {}
        }
        let damage = self.damages.len().checked_sub(1);
        let told = self.told.entry(service.clone()).or_insert_with(|| Told::at(run.first));
        let is_relocated = run.kind == RunKind::Relocated;
        if matches!(told.kept.standing, Integrity::Quarantined { damage: None, .. }) {
            // A journal that contradicts itself cannot put itself right.
            return;
        }
        if is_relocated && (run.first < told.kept.first || told.is_cut_off() && run.first != told.kept.next) {
            // The originals are gone, and with them what was before those that were found; or this is another set than the
            // one that was cut off, since the runs of a set follow on each other. Whoever relocated this one knows only of its
            // places, and gives the others up.
            told.begin_again(run.first);
            self.counted.remove(service);
            (self.found)(Found::Begins { service });
        }
        let is_gap = run.first > if is_relocated { told.kept.next } else { told.end };
        let is_repetition = run.kind == RunKind::Continue && run.first < told.end;
        told.end = told.end.max(run.end());
        if is_relocated {
            told.is_half_relocated = run.end() < told.end;
        }
        let kept = &mut told.kept;
        if is_repetition {
            kept.quarantine(None);
        } else if is_gap {
            kept.quarantine(match kept.standing {
                Integrity::Suspect { damage } => Some(damage),
                _ => None,
            });
        } else if records.is_none() && run.count > 0 && run.end() > kept.next {
            kept.quarantine(damage);
        } else if run.first <= kept.next && (run.end() > kept.next || run.count == 0) {
            for record in records.into_iter().flatten().filter(|record| record.number >= kept.next) {
                let (number, bytes) = (record.number, record.bytes);
                let location = Location { segment, frame_offset, record_offset: record.offset };
                (self.found)(Found::Record { service, number, bytes, location });
            }
            if run.count > 0 {
                let counted = self.counted.entry(service.clone()).or_default();
                counted.entry(segment).or_default().add(run, frame_offset);
            }
            kept.next = run.end();
            told.reach(is_relocated);
        }
        // What is left is a repetition of what is there, or follows on records whose relocated copies are still to come:
        // those tell this one again.
    }
}

impl Told {
    /// Of a service whose first record here has this number.
    fn at(first: RecordNumber) -> Self {
        Self { kept: Kept { first, next: first, standing: Integrity::Intact }, end: first, is_half_relocated: false }
    }

    /// Whether copies that are still to come may be those of a later relocation: where nothing is damaged, none of this one are
    /// missing in between.
    fn is_cut_off(&self) -> bool {
        self.kept.standing == Integrity::Intact && self.kept.next < self.end
    }

    /// Relocated copies count instead of what was found before, from an earlier record on. Whatever damaged that is no
    /// matter any more, but that some may be missing at the end.
    fn begin_again(&mut self, first: RecordNumber) {
        let standing = match self.kept.standing {
            Integrity::Quarantined { damage: Some(damage), .. } => Integrity::Suspect { damage },
            standing => standing,
        };
        self.kept = Kept { first, next: first, standing };
    }

    /// More of its records were found, or it was said that there are no more so far. Copies do not say that, and more of
    /// them may have been written that were lost.
    fn reach(&mut self, is_relocated: bool) {
        let Self { kept, end, .. } = self;
        let is_all = kept.next == *end;
        match &mut kept.standing {
            Integrity::Quarantined { damage: Some(damage), .. } if is_all => {
                kept.standing = Integrity::Suspect { damage: *damage };
            }
            Integrity::Quarantined { from, .. } => *from = kept.next,
            Integrity::Suspect { .. } if is_all && !is_relocated => kept.standing = Integrity::Intact,
            Integrity::Suspect { .. } | Integrity::Intact => {}
        }
    }

    /// What is left of it when nothing more comes.
    fn into_kept(self) -> Kept {
        let Self { mut kept, end, .. } = self;
        if kept.next < end {
            kept.quarantine(match kept.standing {
                Integrity::Suspect { damage } => Some(damage),
                _ => None,
            });
        }
        kept
    }
}

impl Kept {
    /// Its next record is missing.
    fn quarantine(&mut self, damage: Option<usize>) {
        if !matches!(self.standing, Integrity::Quarantined { .. }) {
            self.standing = Integrity::Quarantined { from: self.next, damage };
        }
    }
}

impl Segment {
    /// Notes what a frame at `frame_offset` of the file has of a service.
    pub(crate) fn add_share(&mut self, run: &Run, frame_offset: u32) {
        if run.count > 0 {
            self.shares.entry(run.service.clone()).or_default().add(run, frame_offset);
        }
    }
}

impl Share {
    /// Notes the records of a run that a frame at `frame_offset` of the file has.
    pub(crate) fn add(&mut self, run: &Run, frame_offset: u32) {
        self.last = self.last.max(RecordNumber(run.end().0.saturating_sub(1)));
        self.bytes += u64::from(run.bytes);
        if self.frame_offsets.last() != Some(&frame_offset) {
            self.frame_offsets.push(frame_offset);
        }
    }
}

impl<'a> Frames<'a> {
    /// The bytes from `position` on, if the segment has any.
    fn from(&self, position: Position) -> Option<&'a [u8]> {
        let offset = position.0.checked_sub(self.first.0)?.checked_add(SEGMENT_HEADER_BYTES as u64)?;
        self.bytes.get(usize::try_from(offset).ok()?..).filter(|bytes| !bytes.is_empty())
    }

    /// Where a frame that is there begins in the file.
    fn offset_of(&self, position: Position) -> u32 {
        let offset = position.0 - self.first.0 + SEGMENT_HEADER_BYTES as u64;
        u32::try_from(offset).expect("SEGMENT_BYTES_MAX is below 4 GiB")
    }
}

/// Reads a whole file whose length was bounded.
fn read(storage: &dyn Storage, name: &str, bytes: u64) -> Result<Vec<u8>, OpenError> {
    let file = storage.open(name).map_err(OpenError::storage(format!("open '{name}'")))?;
    let mut content = vec![0; usize::try_from(bytes).expect("SEGMENT_BYTES_MAX fits")];
    file.read_exact_at(0, &mut content).map_err(OpenError::storage(format!("read '{name}'")))?;
    Ok(content)
}
