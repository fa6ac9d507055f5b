//! The bytes of one group commit: a frame contains the records that several services append to the journal at once.
//!
//! This is a codec without policy: it decides whether bytes are a frame and what it contains, never how to react. The
//! header lists the services of the frame and has a hash of its own. So a frame with a damaged body still names the
//! affected services. Header hashes are keyed by the directory. So neither a frame of another directory nor bytes that
//! a user put into a record can pass for a frame. `docs/format.md` specifies every byte.

use lifeboat_api::name::{NAME_BYTES_MAX, Name};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;
use thiserror::Error;

/// The version of the journal's format that this host writes, and the newest that it reads.
pub(crate) const FORMAT_VERSION: u16 = 1;

/// The alignment of frames, in bytes: a page of the page cache, and the most that disks write at once. So no write ever
/// touches bytes that were synced before.
pub const BLOCK_BYTES: usize = 4096;

/// The longest frame, in bytes.
pub const FRAME_BYTES_MAX: usize = 7 * 1024 * 1024;

/// The longest record, in bytes: the longest body with the longest answer, and some reserve.
pub const RECORD_BYTES_MAX: usize = 6 * 1024 * 1024;

/// The maximum number of runs in a frame. A service has one run, or another if it begins anew in the same frame.
pub(crate) const RUNS_PER_FRAME_MAX: usize = 1024;

/// The longest header, in bytes.
pub const HEADER_BYTES_MAX: usize = FIXED_BYTES + RUNS_PER_FRAME_MAX * (RUN_BYTES + NAME_BYTES_MAX) + HASH_BYTES;

const MAGIC: [u8; 8] = *b"LBFRAME\n";

/// The length of the start that all versions of a header share, in bytes: magic, version, reserved, length.
const COMMON_BYTES: usize = 16;

/// The length of the header before its runs, in bytes.
const FIXED_BYTES: usize = 104;

/// The length of a run in the header without its service's name, in bytes.
const RUN_BYTES: usize = 18;

/// The size of the length field before each record, in bytes.
pub const RECORD_LENGTH_BYTES: usize = 4;

const HASH_BYTES: usize = 32;

/// The identity of a data directory, to which its journal belongs: 128 random bits, drawn when it is created.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DirectoryId(pub [u8; 16]);

impl fmt::Display for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirectoryId({self})")
    }
}

/// The number of a record in the journal of its service, starting at 1. Transactions, SLA failures and failovers are
/// all records, so this counts faster than [`lifeboat_api::id::Sequence`]. A lost record of any kind leaves a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecordNumber(pub u64);

impl RecordNumber {
    /// Returns the next number.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for RecordNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The position of a frame: the bytes of all frames before it since the journal was created. Positions only grow, even
/// when segments are truncated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub u64);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The last position of a frame or segment, in bytes: more than any disk holds. A higher one was never written, and
/// addition to one up to this cannot overflow.
pub const POSITION_MAX: Position = Position(u64::MAX / 2);

/// The hash of a frame's header, which includes the hashes of its body and of the previous frame. So it represents the
/// whole journal up to there. Before the first frame it is zero.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FrameHash(pub [u8; HASH_BYTES]);

impl fmt::Debug for FrameHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameHash({})", blake3::Hash::from_bytes(self.0).to_hex())
    }
}

/// The key of a directory's header hashes.
#[derive(Clone)]
pub struct FrameKey([u8; HASH_BYTES]);

impl FrameKey {
    /// Returns the key of `directory`.
    #[must_use]
    pub fn new(directory: DirectoryId) -> Self {
        Self(blake3::derive_key("lifeboat journal frame header 1", &directory.0))
    }

    fn hash(&self, bytes: &[u8]) -> FrameHash {
        FrameHash(*blake3::keyed_hash(&self.0, bytes).as_bytes())
    }
}

impl fmt::Debug for FrameKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FrameKey")
    }
}

/// The relation of a run of records to its service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunKind {
    /// The run follows the records that the journal has of the service. A run without records only states the next
    /// number.
    Continue,
    /// The service begins here: earlier records of its name do not count.
    Begin,
    /// Relocated copies of all records of the service that were still needed, so that their old segments can go. They
    /// take one or more frames. Where originals are gone, the copies supersede the records that were found before.
    Relocated,
    /// The service was removed: earlier records of its name do not count. The run has no records.
    End,
}

impl RunKind {
    fn to_byte(self) -> u8 {
        match self {
            Self::Continue => 0,
            Self::Begin => 1,
            Self::Relocated => 2,
            Self::End => 3,
        }
    }

    fn of_byte(byte: u8) -> Option<Self> {
        [Self::Continue, Self::Begin, Self::Relocated, Self::End].into_iter().find(|kind| kind.to_byte() == byte)
    }
}

/// Consecutive records of one service in one frame, as its header lists them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The relation of the records to the service.
    pub kind: RunKind,
    /// The service of the records.
    pub service: Name,
    /// The number of the first record. Without records, the number of the next one that will be appended.
    pub first: RecordNumber,
    /// The number of records.
    pub count: u32,
    /// The length of the records in the body, in bytes.
    pub bytes: u32,
}

impl Run {
    /// Returns the number after the last record.
    #[must_use]
    pub fn end(&self) -> RecordNumber {
        RecordNumber(self.first.0.saturating_add(u64::from(self.count)))
    }
}

/// The decoded header of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameHeader {
    /// The position of the frame.
    pub position: Position,
    /// The hash of the previous frame.
    pub previous: FrameHash,
    /// The hash of this frame.
    pub hash: FrameHash,
    /// The length of the header, in bytes.
    pub header_bytes: usize,
    /// The length of the frame, in bytes: a multiple of [`BLOCK_BYTES`].
    pub frame_bytes: usize,
    /// The runs of the frame, in the order of the body.
    pub runs: Vec<Run>,
    body_hash: [u8; HASH_BYTES],
}

impl FrameHeader {
    /// Returns the position of the next frame.
    #[must_use]
    pub fn end(&self) -> Position {
        Position(self.position.0 + self.frame_bytes as u64)
    }
}

/// The reason why bytes are not the header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// The bytes do not begin like a header.
    #[error("there is no frame")]
    Absent,
    /// The bytes begin like a header, but are damaged, or were written for another directory.
    #[error("the header of the frame is damaged")]
    Damaged,
    /// A newer host wrote them.
    #[error("the frame has format version {found}, this host reads up to {FORMAT_VERSION}")]
    FutureVersion {
        /// The version of their format.
        found: u16,
    },
}

/// The error for a frame whose body is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the body of the frame is damaged")]
pub struct BodyError;

/// Reads the header at the start of `bytes`, which may be longer than the header.
///
/// # Errors
/// [`HeaderError`], for any bytes that [`FrameBuilder::finish`] did not write with this key.
pub fn decode_header(key: &FrameKey, bytes: &[u8]) -> Result<FrameHeader, HeaderError> {
    if !bytes.starts_with(&MAGIC) {
        return Err(HeaderError::Absent);
    }
    let mut fields = Fields(&bytes[MAGIC.len()..]);
    let version = fields.u16().ok_or(HeaderError::Damaged)?;
    let reserved = fields.u16();
    // These fields, and the hash at the end of the header, are the same in all versions.
    let header_bytes = fields.u32().ok_or(HeaderError::Damaged)? as usize;
    if !(FIXED_BYTES + HASH_BYTES..=HEADER_BYTES_MAX).contains(&header_bytes) || header_bytes > bytes.len() {
        return Err(HeaderError::Damaged);
    }
    let (hashed, hash) = bytes[..header_bytes].split_at(header_bytes - HASH_BYTES);
    let actual = key.hash(hashed);
    if actual.0 != hash {
        return Err(HeaderError::Damaged);
    }
    if version > FORMAT_VERSION {
        return Err(HeaderError::FutureVersion { found: version });
    }
    decode_fields(Fields(&hashed[COMMON_BYTES..]), header_bytes, actual)
        .filter(|_| version == FORMAT_VERSION && reserved == Some(0))
        .ok_or(HeaderError::Damaged)
}

fn decode_fields(mut fields: Fields<'_>, header_bytes: usize, hash: FrameHash) -> Option<FrameHeader> {
    let frame_bytes = fields.u32()? as usize;
    let run_count = fields.u32()? as usize;
    let position = Position(fields.u64()?);
    let previous = FrameHash(fields.array()?);
    let body_hash = fields.array()?;
    let reserved = fields.u64()?;
    if reserved != 0 || run_count > RUNS_PER_FRAME_MAX || frame_bytes > FRAME_BYTES_MAX || position > POSITION_MAX {
        return None;
    }
    let mut runs = Vec::with_capacity(run_count);
    let mut body_bytes = 0_usize;
    for _ in 0..run_count {
        let run = decode_run(&mut fields)?;
        body_bytes = body_bytes.checked_add(run.bytes as usize)?;
        runs.push(run);
    }
    let is_canonical =
        fields.0.is_empty() && frame_bytes == (header_bytes.checked_add(body_bytes)?).next_multiple_of(BLOCK_BYTES);
    is_canonical.then_some(FrameHeader { position, previous, hash, header_bytes, frame_bytes, runs, body_hash })
}

fn decode_run(fields: &mut Fields<'_>) -> Option<Run> {
    let kind = RunKind::of_byte(fields.u8()?)?;
    let name_bytes = usize::from(fields.u8()?);
    let first = RecordNumber(fields.u64()?);
    let count = fields.u32()?;
    let bytes = fields.u32()?;
    let service = Name::new(std::str::from_utf8(fields.take(name_bytes)?).ok()?).ok()?;
    let has_records = count > 0;
    let is_valid = first.0 > 0
        && first.0.checked_add(u64::from(count)).is_some()
        && bytes as usize >= count as usize * RECORD_LENGTH_BYTES
        && (has_records || bytes == 0)
        && match kind {
            RunKind::Continue => true,
            RunKind::Begin | RunKind::Relocated => has_records,
            RunKind::End => !has_records,
        };
    is_valid.then_some(Run { kind, service, first, count, bytes })
}

/// A reader of little-endian fields, which returns none at the end of the bytes.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

/// One record of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRecord<'a> {
    /// The number of the record.
    pub number: RecordNumber,
    /// The offset of the record in the frame, in bytes, at its length field.
    pub offset: u32,
    /// The bytes as they were submitted.
    pub bytes: &'a [u8],
}

/// Checks the body of `frame`, the whole frame with the header `header`, and returns the records of each run.
///
/// # Errors
/// [`BodyError`] if the body is damaged or too short.
pub fn decode_body<'a>(header: &FrameHeader, frame: &'a [u8]) -> Result<Vec<Vec<FrameRecord<'a>>>, BodyError> {
    let frame = frame.get(..header.frame_bytes).ok_or(BodyError)?;
    if *blake3::hash(&frame[header.header_bytes..]).as_bytes() != header.body_hash {
        return Err(BodyError);
    }
    let mut offset = header.header_bytes;
    let mut runs = Vec::with_capacity(header.runs.len());
    for run in &header.runs {
        let end = offset + run.bytes as usize;
        // `decode_run` checked that a run has at least so many bytes.
        let mut records = Vec::with_capacity(run.count as usize);
        for index in 0..u64::from(run.count) {
            let bytes = record_at(&frame[..end], offset).ok_or(BodyError)?;
            let number = RecordNumber(run.first.0 + index);
            records.push(FrameRecord { number, offset: u32::try_from(offset).map_err(|_| BodyError)?, bytes });
            offset += RECORD_LENGTH_BYTES + bytes.len();
        }
        if offset != end {
            return Err(BodyError);
        }
        runs.push(records);
    }
    Ok(runs)
}

/// Returns the record whose length field is at `offset` of `frame`.
#[must_use]
pub fn record_at(frame: &[u8], offset: usize) -> Option<&[u8]> {
    let mut fields = Fields(frame.get(offset..)?);
    let bytes = fields.u32()? as usize;
    fields.take(bytes)
}

/// The place of a record that was added by [`FrameBuilder::push`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Staged {
    run: usize,
    offset: usize,
}

/// The error for a record that does not fit into the frame under construction: finish that frame first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the frame is full")]
pub struct FrameFull;

/// A builder that collects records into a frame.
#[derive(Debug)]
pub struct FrameBuilder {
    frame_bytes_max: usize,
    runs: Vec<(Run, Vec<u8>)>,
    /// The last run of each service.
    run_of: HashMap<Name, usize>,
    header_bytes: usize,
    body_bytes: usize,
}

impl FrameBuilder {
    /// Returns a builder of frames of at most `frame_bytes_max`, which [`FRAME_BYTES_MAX`] bounds.
    #[must_use]
    pub fn new(frame_bytes_max: usize) -> Self {
        Self {
            frame_bytes_max: frame_bytes_max.min(FRAME_BYTES_MAX) / BLOCK_BYTES * BLOCK_BYTES,
            runs: Vec::new(),
            run_of: HashMap::new(),
            header_bytes: FIXED_BYTES + HASH_BYTES,
            body_bytes: 0,
        }
    }

    /// Returns the length of the longest record that an empty frame has room for, in bytes. It allows for a service
    /// with the longest name and for a run without records.
    #[must_use]
    pub(crate) fn record_bytes_max(&self) -> usize {
        let beside = FIXED_BYTES + 2 * (RUN_BYTES + NAME_BYTES_MAX) + HASH_BYTES + RECORD_LENGTH_BYTES;
        self.frame_bytes_max.saturating_sub(beside).min(RECORD_BYTES_MAX)
    }

    /// Returns whether the frame is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Returns whether a service begins in the frame.
    #[must_use]
    pub fn begins(&self, service: &Name) -> bool {
        self.runs.iter().any(|(run, _)| run.kind == RunKind::Begin && run.service == *service)
    }

    /// Returns the current length of the frame, in bytes.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        (self.header_bytes + self.body_bytes).next_multiple_of(BLOCK_BYTES)
    }

    /// Adds a record. A record that follows the last one of its service joins its run.
    ///
    /// # Errors
    /// [`FrameFull`]; nothing was added.
    pub fn push(
        &mut self,
        kind: RunKind,
        service: &Name,
        number: RecordNumber,
        record: &[u8],
    ) -> Result<Staged, FrameFull> {
        let bytes = RECORD_LENGTH_BYTES + record.len();
        let joined = self.run_of.get(service).copied().filter(|&run| {
            let run = &self.runs[run].0;
            let is_follower = kind == RunKind::Continue || kind == run.kind && kind != RunKind::Begin;
            is_follower && run.kind != RunKind::End && run.end() == number
        });
        self.check_room(if joined.is_some() { 0 } else { RUN_BYTES + service.len() }, bytes)?;
        let index = joined.unwrap_or_else(|| self.add_run(kind, service, number));
        let (run, body) = &mut self.runs[index];
        let staged = Staged { run: index, offset: body.len() };
        run.count += 1;
        run.bytes += to_u32(bytes);
        body.extend_from_slice(&to_u32(record.len()).to_le_bytes());
        body.extend_from_slice(record);
        self.body_bytes += bytes;
        Ok(staged)
    }

    /// Adds a run without records. [`RunKind::Continue`] states that `next` is the next record, [`RunKind::End`] that
    /// there is none.
    ///
    /// # Errors
    /// [`FrameFull`]; nothing was added.
    pub fn push_empty(&mut self, kind: RunKind, service: &Name, next: RecordNumber) -> Result<(), FrameFull> {
        self.check_room(RUN_BYTES + service.len(), 0)?;
        self.add_run(kind, service, next);
        Ok(())
    }

    /// Writes the frame to `frame`, whose contents are replaced, and starts the next one.
    pub fn finish(
        &mut self,
        key: &FrameKey,
        position: Position,
        previous: FrameHash,
        frame: &mut Vec<u8>,
    ) -> FrameHeader {
        let (header_bytes, frame_bytes) = (self.header_bytes, self.frame_bytes());
        frame.clear();
        frame.reserve(frame_bytes);
        frame.resize(header_bytes, 0);
        for (_, body) in &self.runs {
            frame.extend_from_slice(body);
        }
        frame.resize(frame_bytes, 0);
        let body_hash = *blake3::hash(&frame[header_bytes..]).as_bytes();

        let mut header = Vec::with_capacity(header_bytes);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        header.extend_from_slice(&[0; 2]);
        header.extend_from_slice(&to_u32(header_bytes).to_le_bytes());
        header.extend_from_slice(&to_u32(frame_bytes).to_le_bytes());
        header.extend_from_slice(&to_u32(self.runs.len()).to_le_bytes());
        header.extend_from_slice(&position.0.to_le_bytes());
        header.extend_from_slice(&previous.0);
        header.extend_from_slice(&body_hash);
        header.extend_from_slice(&[0; 8]);
        for (run, _) in &self.runs {
            header.push(run.kind.to_byte());
            header.push(u8::try_from(run.service.len()).unwrap_or(0));
            header.extend_from_slice(&run.first.0.to_le_bytes());
            header.extend_from_slice(&run.count.to_le_bytes());
            header.extend_from_slice(&run.bytes.to_le_bytes());
            header.extend_from_slice(run.service.as_bytes());
        }
        let hash = key.hash(&header);
        header.extend_from_slice(&hash.0);
        frame[..header_bytes].copy_from_slice(&header);

        let runs = std::mem::take(&mut self.runs).into_iter().map(|(run, _)| run).collect();
        self.clear();
        FrameHeader { position, previous, hash, header_bytes, frame_bytes, runs, body_hash }
    }

    /// Removes all records and runs.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.run_of.clear();
        self.header_bytes = FIXED_BYTES + HASH_BYTES;
        self.body_bytes = 0;
    }

    fn check_room(&self, header_bytes: usize, body_bytes: usize) -> Result<(), FrameFull> {
        let bytes = self.header_bytes + self.body_bytes + header_bytes + body_bytes;
        let is_room = bytes <= self.frame_bytes_max && (header_bytes == 0 || self.runs.len() < RUNS_PER_FRAME_MAX);
        if is_room { Ok(()) } else { Err(FrameFull) }
    }

    fn add_run(&mut self, kind: RunKind, service: &Name, first: RecordNumber) -> usize {
        let index = self.runs.len();
        self.runs.push((Run { kind, service: service.clone(), first, count: 0, bytes: 0 }, Vec::new()));
        self.run_of.insert(service.clone(), index);
        self.header_bytes += RUN_BYTES + service.len();
        index
    }
}

impl Staged {
    /// Returns the offset of the record in the frame that was finished with `header`, in bytes.
    #[must_use]
    pub(crate) fn offset_in(self, header: &FrameHeader) -> u32 {
        let before: usize = header.runs[..self.run].iter().map(|run| run.bytes as usize).sum();
        to_u32(header.header_bytes + before + self.offset)
    }
}

/// Converts a length within a frame, which [`FRAME_BYTES_MAX`] bounds.
fn to_u32(length: usize) -> u32 {
    u32::try_from(length).expect("a frame is shorter than 4 GiB")
}

#[cfg(test)]
mod tests;
