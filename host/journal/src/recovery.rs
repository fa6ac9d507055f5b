//! Reads a journal after a stop of any kind: finds every trustworthy record, and the services that lost some.
//!
//! Frames are read in order. A frame is written only after the sync of the previous one, so a crash can tear only the
//! last frame of an unsealed journal. Any other deviation from the written bytes is [`Damage`]:
//!
//! - A damaged body under an intact header: the services that the header names are *quarantined* from their first
//!   record in it.
//! - A damaged header, or an unreadable or missing segment: the owners of its records are unknown. So every service is
//!   *suspect* until a later frame continues its records without a gap. A gap means quarantine.
//!
//! A quarantined service gets no records from the damage on, unless relocated copies of the lost ones are found later.
//! A damaged part of a journal is never truncated: its segment stays as long as a service depends on it.
//!
//! A set of relocated copies has one or more runs. The service may append records between them, and the set repeats
//! these records. No original goes before the set is complete. So a set that a crash interrupted only repeats existing
//! records, and is skipped. Once originals are gone, a complete set follows, and supersedes the interrupted one. A
//! set also supersedes originals of which some are gone. It has to reach the last record that any frame mentions;
//! otherwise the service is quarantined.
//!
//! Reading changes nothing. [`inspect`] only reads; [`crate::segments::Log::open`] continues the journal.

use super::frame::{
    BLOCK_BYTES, DirectoryId, FORMAT_VERSION, FrameHash, FrameHeader, FrameKey, FrameRecord, HEADER_BYTES_MAX,
    HeaderError, Position, RecordNumber, Run, RunKind, decode_body, decode_header,
};
use super::segment_header::{SEGMENT_HEADER_BYTES, SegmentHeader, SegmentHeaderError, segment_name};
use crate::storage::{FileIdentity, Storage};
use lifeboat_api::name::Name;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use thiserror::Error;

/// The longest segment file that is read, in bytes.
pub const SEGMENT_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The end of a journal after a clean stop. It is stored outside the journal, and removed there before the journal
/// continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// The data directory of the journal.
    pub directory: DirectoryId,
    /// The position after its last frame.
    pub position: Position,
    /// The hash of that frame.
    pub hash: FrameHash,
}

/// The location of a record. It is valid until the segment is truncated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// The number of the segment.
    pub segment: u64,
    /// The offset of the frame in the segment's file, in bytes.
    pub frame_offset: u32,
    /// The offset of the record in the frame, in bytes.
    pub record_offset: u32,
}

/// An event that [`inspect`] reports, in the order of the journal.
#[derive(Debug)]
pub enum Found<'a> {
    /// Earlier records of this name do not count: the service begins, or relocated copies repeat its records from an
    /// earlier one on.
    Begins {
        /// The name of the service.
        service: &'a Name,
    },
    /// The next record of a service. The numbers of a service grow by one.
    Record {
        /// The service of the record.
        service: &'a Name,
        /// The number of the record.
        number: RecordNumber,
        /// The bytes as they were submitted.
        bytes: &'a [u8],
        /// The location of the record.
        location: Location,
    },
    /// The service was removed.
    Ends {
        /// The name of the service.
        service: &'a Name,
    },
}

/// How far a service's records can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integrity {
    /// No record is missing.
    Intact,
    /// No record is known to be missing, but some may be at the end.
    Suspect {
        /// The index of the damage that may have contained them.
        damage: usize,
    },
    /// Records are missing.
    Quarantined {
        /// The first missing record.
        from: RecordNumber,
        /// The index of the damage that contained it. If there is none, the journal contradicts itself.
        damage: Option<usize>,
    },
}

/// The remaining records of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordRange {
    /// The first of its records that is still in the journal. A state that needs an earlier one cannot be recovered.
    pub first: RecordNumber,
    /// The number after the last record that was found.
    pub next: RecordNumber,
    /// Whether these are all of its records.
    pub standing: Integrity,
}

/// A damaged part of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("segment {segment}, position {from}: {kind}")]
pub struct Damage {
    /// The segment with the damage, or the missing segment.
    pub segment: u64,
    /// The position at which the damage begins.
    pub from: Position,
    /// The kind of the damage.
    pub kind: DamageKind,
}

/// The kind of a damage, which decides whose records are affected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DamageKind {
    /// The body of a frame is damaged. Only the services that its header names are affected.
    #[error("the body of a frame is damaged")]
    Body,
    /// The headers of one or more frames up to `to` are damaged. They may have contained records of any service.
    #[error("frames up to position {to} are damaged")]
    Frames {
        /// The position at which the journal is readable again.
        to: Position,
    },
    /// An intact frame or segment that does not follow the previous one: parts of two journals.
    #[error("an intact frame or segment does not follow the one before it")]
    Foreign,
    /// One copy of a segment's header is damaged. The other one is intact, so nothing is lost.
    #[error("one of two copies of the segment's header is damaged")]
    HeaderCopy,
    /// Both copies of a segment's header are damaged. Its frames may have contained records of any service.
    #[error("both copies of the segment's header are damaged")]
    Header,
    /// The segment is missing. It may have contained records of any service.
    #[error("the segment is missing")]
    Missing,
}

impl DamageKind {
    /// Returns whether records of any service may have been lost.
    #[must_use]
    pub fn concerns_all(&self) -> bool {
        !matches!(self, Self::Body | Self::HeaderCopy)
    }
}

/// The frame that was being written when the host went down. No record in it was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The position of the frame.
    pub position: Position,
    /// The services of the frame, if its header is intact.
    pub services: Option<Vec<Name>>,
}

/// The result of the comparison with the seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealState {
    /// There is no seal: the host did not stop cleanly, or the journal is new.
    Absent,
    /// The journal was compared with the seal.
    Compared,
    /// The journal continues after the seal, which was not removed then. The journal is read as unsealed.
    Outdated,
}

/// The report about a journal that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Whether there was no segment, so that the journal is created now.
    pub is_new: bool,
    /// The result of the comparison with the seal.
    pub seal: SealState,
    /// Every service that the journal mentions. A service that is not listed wrote nothing. Or everything that it wrote
    /// may be lost, if there is damage that [`DamageKind::concerns_all`].
    pub services: BTreeMap<Name, RecordRange>,
    /// The position at which each service began, if it is still in the journal.
    pub begun: BTreeMap<Name, Position>,
    /// The start of the part without losses: if a service began after this position, the journal shows it.
    pub whole_from: Position,
    /// All damages, in order.
    pub damages: Vec<Damage>,
    /// The torn tail, if it is recognisable. In a recycled segment it cannot always be distinguished from older frames.
    pub torn: Option<TornTail>,
    /// The number of frames that were read.
    pub frames: u64,
    /// The end of the journal.
    pub end: Position,
}

impl Recovery {
    /// Returns whether records may be missing of services that [`Recovery::services`] does not list.
    #[must_use]
    pub fn concerns_unlisted(&self) -> bool {
        self.damages.iter().any(|damage| damage.kind.concerns_all())
    }

    /// Returns whether all records of the service certainly belong to a service that began before the journal reached
    /// `end`.
    #[must_use]
    pub fn began_before(&self, service: &Name, end: Position) -> bool {
        // A journal that begins later cannot show that. One that ends before `end` is not the journal in which the
        // service was removed.
        (self.whole_from..=self.end).contains(&end) && self.begun.get(service).is_none_or(|begun| *begun < end)
    }
}

/// The reason why a journal cannot be opened at all. Nothing was changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The journal that should exist is missing.
    #[error("the journal has no segments, although it was in use")]
    Missing,
    /// The journal belongs to another directory.
    #[error("'{file}' belongs to journal {found}, not to {expected}")]
    OtherDirectory {
        /// The name of the file with the other identity, or `seal`.
        file: String,
        /// The directory that it belongs to.
        found: DirectoryId,
        /// The directory that was expected.
        expected: DirectoryId,
    },
    /// A newer host wrote the journal.
    #[error("'{file}' has format version {found}, this host reads up to {FORMAT_VERSION}; use a newer host")]
    FutureVersion {
        /// The name of the file.
        file: String,
        /// The version of its format.
        found: u16,
    },
    /// A file is too long to be a segment.
    #[error("'{file}' is {bytes} bytes, a segment has at most {SEGMENT_BYTES_MAX}")]
    SegmentTooLong {
        /// The name of the file.
        file: String,
        /// The length of the file, in bytes.
        bytes: u64,
    },
    /// The configured length of segments is out of bounds.
    #[error(
        "a segment of {bytes} bytes is out of bounds: from {min} to {SEGMENT_BYTES_MAX}, a multiple of {BLOCK_BYTES}"
    )]
    SegmentBytes {
        /// The configured length, in bytes.
        bytes: u64,
        /// The minimum, in bytes.
        min: u64,
    },
    /// The storage failed.
    #[error("cannot {action}")]
    Storage {
        /// The action that failed.
        action: String,
        /// The cause.
        source: io::Error,
    },
}

impl OpenError {
    /// Returns a function for `map_err`: the storage failed to do `action`.
    pub(crate) fn storage(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Storage { action, source }
    }
}

/// Reads the journal of `directory` without changing it, and passes every trustworthy record to `found`.
///
/// It takes no lock: it may or may not see what a running host appends meanwhile.
///
/// # Errors
/// [`OpenError`]. Damage is not an error.
pub fn inspect(
    storage: &dyn Storage,
    directory: DirectoryId,
    seal: Option<&Seal>,
    found: &mut dyn FnMut(Found<'_>),
) -> Result<Recovery, OpenError> {
    Ok(walk(storage, directory, seal, found)?.recovery)
}

/// Returns the number of the segment whose file has this name.
fn segment_number(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".segment")?.parse().ok()?;
    (segment_name(number) == name).then_some(number)
}

/// A segment that was read.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    /// The position of its first frame, unless its header is unreadable.
    pub(crate) first: Option<Position>,
    pub(crate) file_bytes: u64,
    /// The identity of the file that was opened.
    pub(crate) identity: FileIdentity,
    /// Whether all bytes after its frames are zero, except for a torn tail.
    pub(crate) is_zeroed: bool,
    pub(crate) is_damaged: bool,
    /// The segment's share of each service. For an intact service only records that count are in it, for others all.
    pub(crate) shares: BTreeMap<Name, Share>,
}

/// The records of a service in a segment.
#[derive(Debug, Default, Clone)]
pub(crate) struct Share {
    pub(crate) last: RecordNumber,
    pub(crate) bytes: u64,
    /// The offsets in the file of the frames with its records.
    pub(crate) frame_offsets: Vec<u32>,
}

/// A recovery, and the data with which the log continues.
#[derive(Debug)]
pub(crate) struct Walked {
    pub(crate) recovery: Recovery,
    pub(crate) segments: Vec<Segment>,
    /// The hash of the last frame.
    pub(crate) previous: FrameHash,
    /// Whether the last segment can be appended to.
    pub(crate) is_last_usable: bool,
    /// Services whose relocation was in progress when the host went down.
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
        mentioned: BTreeMap::new(),
        counted: BTreeMap::new(),
        begun: BTreeMap::new(),
        whole_from: None,
        damages: Vec::new(),
        seal: if seal.is_some() { SealState::Compared } else { SealState::Absent },
        torn: None,
        frames: 0,
    };
    walk.segments(storage, &files, seal)?;
    walk.count_shares();
    let is_last_usable = files.last().is_some_and(|file| file.header.is_some());
    let half_relocated =
        walk.mentioned.iter().filter(|(_, mentioned)| mentioned.is_half_relocated).map(|(service, _)| service.clone());
    let half_relocated = half_relocated.collect();
    let recovery = Recovery {
        is_new: files.is_empty(),
        seal: walk.seal,
        services: walk.mentioned.into_iter().map(|(service, mentioned)| (service, mentioned.into_found())).collect(),
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

/// Finds all segments, in order. Checks that this host may read all of them before it reads any frame.
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
            // An intact header under another segment's name is treated like a damaged one.
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

/// The state of reading: all frames before `at` were processed.
struct Walk<'f> {
    key: FrameKey,
    found: &'f mut dyn FnMut(Found<'_>),
    at: Position,
    /// The hash of the frame that ends at `at`.
    previous: FrameHash,
    segments: Vec<Segment>,
    mentioned: BTreeMap<Name, Mentioned>,
    /// The records of each service, by segment, that were passed on and still count.
    counted: BTreeMap<Name, BTreeMap<u64, Share>>,
    /// As [`Recovery::begun`].
    begun: BTreeMap<Name, Position>,
    /// As [`Recovery::whole_from`]. None until a frame is read, and again after damage.
    whole_from: Option<Position>,
    damages: Vec<Damage>,
    seal: SealState,
    torn: Option<TornTail>,
    frames: u64,
}

/// The records of a service that frames mention.
#[derive(Debug)]
struct Mentioned {
    found: RecordRange,
    /// The number after the last record that any frame mentions. If it exceeds [`RecordRange::next`], records are lost, or
    /// their relocated copies follow later.
    end: RecordNumber,
    /// Whether the last copies do not reach `end`, because the relocation was interrupted.
    is_half_relocated: bool,
}

/// How the frames of a segment end.
#[derive(Debug, Clone, Copy)]
enum End {
    /// At this position, with this hash of the last frame: the next segment or the seal states both.
    At(Position, FrameHash),
    /// Where no more frame is found. The continuation is unknown.
    Unknown,
    /// Where no more frame is found. The last one may be torn.
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
                // Positions that the unreadable segment may have used are not used again.
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

    /// Returns the header of the frame at `position`, if there is one.
    fn frame(&self, frames: &Frames<'_>, position: Position) -> Result<Option<FrameHeader>, OpenError> {
        let Some(bytes) = frames.from(position) else { return Ok(None) };
        match decode_header(&self.key, &bytes[..bytes.len().min(HEADER_BYTES_MAX)]) {
            Ok(header) if header.position == position => Ok(Some(header)),
            // These bytes remain from an earlier use of the file.
            Ok(_) | Err(HeaderError::Absent | HeaderError::Damaged) => Ok(None),
            Err(HeaderError::FutureVersion { found }) => {
                Err(OpenError::FutureVersion { file: frames.file.to_owned(), found })
            }
        }
    }

    /// Returns the first frame at or after `position` that ends before `limit`.
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
            for mentioned in
                self.mentioned.values_mut().filter(|mentioned| mentioned.found.standing == Integrity::Intact)
            {
                mentioned.found.standing = Integrity::Suspect { damage: index };
            }
        }
        if kind != DamageKind::HeaderCopy
            && let Some(segment) = self.segments.last_mut()
        {
            segment.is_damaged = true;
        }
        self.damages.push(Damage { segment, from: self.at, kind });
    }

    /// Processes the runs of a frame. Without `records`, the last damage is that of its body.
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

    /// Limits each segment's shares of intact services to records that count. Originals that relocated copies
    /// supersede, and skipped copies, would otherwise pin the segment and be relocated once more. Shares of other
    /// services stay complete.
    fn count_shares(&mut self) {
        for (service, mentioned) in &self.mentioned {
            if mentioned.found.standing != Integrity::Intact || mentioned.found.next < mentioned.end {
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
                self.mentioned.remove(service);
                self.counted.remove(service);
                (self.found)(Found::Ends { service });
                return;
            }
            RunKind::Begin => {
                self.mentioned.insert(service.clone(), Mentioned::at(run.first));
                self.counted.remove(service);
                (self.found)(Found::Begins { service });
            }
            RunKind::Continue | RunKind::Relocated => {}
        }
        let damage = self.damages.len().checked_sub(1);
        let mentioned = self.mentioned.entry(service.clone()).or_insert_with(|| Mentioned::at(run.first));
        let is_relocated = run.kind == RunKind::Relocated;
        if matches!(mentioned.found.standing, Integrity::Quarantined { damage: None, .. }) {
            // A journal that contradicts itself cannot repair itself.
            return;
        }
        if is_relocated
            && (run.first < mentioned.found.first || mentioned.is_cut_off() && run.first != mentioned.found.next)
        {
            // There are two cases. The originals are gone, and with them the records before those that were found. Or
            // this is not the interrupted set, because the runs of one set follow each other. The host that relocated
            // this set knew only the locations of its copies, and truncates the others.
            mentioned.begin_again(run.first);
            self.counted.remove(service);
            (self.found)(Found::Begins { service });
        }
        let is_gap = run.first > if is_relocated { mentioned.found.next } else { mentioned.end };
        let is_repetition = run.kind == RunKind::Continue && run.first < mentioned.end;
        mentioned.end = mentioned.end.max(run.end());
        if is_relocated {
            mentioned.is_half_relocated = run.end() < mentioned.end;
        }
        let found = &mut mentioned.found;
        if is_repetition {
            found.quarantine(None);
        } else if is_gap {
            found.quarantine(match found.standing {
                Integrity::Suspect { damage } => Some(damage),
                _ => None,
            });
        } else if records.is_none() && run.count > 0 && run.end() > found.next {
            found.quarantine(damage);
        } else if run.first <= found.next && (run.end() > found.next || run.count == 0) {
            for record in records.into_iter().flatten().filter(|record| record.number >= found.next) {
                let (number, bytes) = (record.number, record.bytes);
                let location = Location { segment, frame_offset, record_offset: record.offset };
                (self.found)(Found::Record { service, number, bytes, location });
            }
            if run.count > 0 {
                let counted = self.counted.entry(service.clone()).or_default();
                counted.entry(segment).or_default().add(run, frame_offset);
            }
            found.next = run.end();
            mentioned.reach(is_relocated);
        }
        // What remains is a repetition of existing records. Or it follows records whose relocated copies come later,
        // and those copies include this run.
    }
}

impl Mentioned {
    /// Returns the state of a service whose first record here has this number.
    fn at(first: RecordNumber) -> Self {
        Self {
            found: RecordRange { first, next: first, standing: Integrity::Intact },
            end: first,
            is_half_relocated: false,
        }
    }

    /// Returns whether later copies may belong to another relocation. Without damage, no copies of this one are missing
    /// in between.
    fn is_cut_off(&self) -> bool {
        self.found.standing == Integrity::Intact && self.found.next < self.end
    }

    /// Lets relocated copies supersede the records that were found before, from an earlier record on. Earlier damage no
    /// longer matters, except that records may be missing at the end.
    fn begin_again(&mut self, first: RecordNumber) {
        let standing = match self.found.standing {
            Integrity::Quarantined { damage: Some(damage), .. } => Integrity::Suspect { damage },
            standing => standing,
        };
        self.found = RecordRange { first, next: first, standing };
    }

    /// Updates the standing after more records were found, or after a run stated that there are no more so far. Copies
    /// do not state that: more of them may have been written and lost.
    fn reach(&mut self, is_relocated: bool) {
        let Self { found, end, .. } = self;
        let is_all = found.next == *end;
        match &mut found.standing {
            Integrity::Quarantined { damage: Some(damage), .. } if is_all => {
                found.standing = Integrity::Suspect { damage: *damage };
            }
            Integrity::Quarantined { from, .. } => *from = found.next,
            Integrity::Suspect { .. } if is_all && !is_relocated => found.standing = Integrity::Intact,
            Integrity::Suspect { .. } | Integrity::Intact => {}
        }
    }

    /// Returns the result for the service at the end of the journal.
    fn into_found(self) -> RecordRange {
        let Self { mut found, end, .. } = self;
        if found.next < end {
            found.quarantine(match found.standing {
                Integrity::Suspect { damage } => Some(damage),
                _ => None,
            });
        }
        found
    }
}

impl RecordRange {
    /// Quarantines the service, because its next record is missing.
    fn quarantine(&mut self, damage: Option<usize>) {
        if !matches!(self.standing, Integrity::Quarantined { .. }) {
            self.standing = Integrity::Quarantined { from: self.next, damage };
        }
    }
}

impl Segment {
    /// Adds the records of a service in the frame at `frame_offset` of the file.
    pub(crate) fn add_share(&mut self, run: &Run, frame_offset: u32) {
        if run.count > 0 {
            self.shares.entry(run.service.clone()).or_default().add(run, frame_offset);
        }
    }
}

impl Share {
    /// Adds the records of a run in the frame at `frame_offset` of the file.
    pub(crate) fn add(&mut self, run: &Run, frame_offset: u32) {
        self.last = self.last.max(RecordNumber(run.end().0.saturating_sub(1)));
        self.bytes += u64::from(run.bytes);
        if self.frame_offsets.last() != Some(&frame_offset) {
            self.frame_offsets.push(frame_offset);
        }
    }
}

impl<'a> Frames<'a> {
    /// Returns the bytes from `position` on, if the segment has any.
    fn from(&self, position: Position) -> Option<&'a [u8]> {
        let offset = position.0.checked_sub(self.first.0)?.checked_add(SEGMENT_HEADER_BYTES as u64)?;
        self.bytes.get(usize::try_from(offset).ok()?..).filter(|bytes| !bytes.is_empty())
    }

    /// Returns the offset in the file of a frame that exists.
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
