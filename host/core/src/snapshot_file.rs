//! Snapshots as files. They are written under another name, synced and renamed. A reader checks a whole file before it
//! uses any of it.
//!
//! A file has a prefix of fixed length with a checksum of its own, which distinguishes a newer version from damage. The
//! prefix is followed by a header that describes the snapshot, as a list of parts (`parts.rs`), and by the chunks of
//! its sections. `docs/format.md` gives every byte. Headers of version 1, which had fixed fields, are still read. A
//! file holds no secret and no path: it may leave the machine. The chunks of the virtual disk are in packs beside the
//! file, which other snapshots of the service share (`snapshot_file/disk.rs`).
//!
//! This module never removes or replaces a snapshot. Only the code that restored a newer snapshot decides which one is
//! old enough to be removed.

pub(crate) mod disk;

use crate::parts::{Parts, PartsError, exactly};
use bytes::Bytes;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::meter::NetworkAmount;
use lifeboat_api::name::Name;
use lifeboat_disk::{Disk, Packs};
use lifeboat_journal::frame::RecordNumber;
use lifeboat_journal::storage::{Storage, StorageFile};
use lifeboat_vm::snapshot::{self, SectionKind, Snapshot};
use serde::{Deserialize, Serialize};
use std::io;
use std::ops::Range;
use thiserror::Error;

/// The version of the format that this host writes, and the newest that it reads.
pub(crate) const SNAPSHOT_VERSION: u32 = 2;

/// The longest header, in bytes.
pub(crate) const SNAPSHOT_HEADER_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// The longest body, in bytes: a state and a disk of 2 GiB each, with the disk's table, and a workload.
pub(crate) const SNAPSHOT_BODY_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024;

/// The section with the state that the guest exported.
pub const SECTION_STATE: u16 = 1;

/// The section with the table of the virtual disk. Absent if nothing was ever made on the disk.
pub const SECTION_DISK: u16 = 2;

/// The section of a portable snapshot with the bytes that the workload was loaded from.
pub const SECTION_WORKLOAD: u16 = 3;

/// The section of a portable snapshot with the service's settings.
pub const SECTION_SETTINGS: u16 = 4;

/// The section with the newest times in forgotten ids, for each user. It is optional: a host that does not know it uses
/// [`ResumePoint::forgotten_id_time`] for all users.
pub const SECTION_FORGOTTEN: u16 = 5;

/// The section of a portable snapshot with the pack that has all chunks of the disk.
pub const SECTION_PACK: u16 = 6;

/// The kinds of sections that this host knows.
const SECTIONS_KNOWN: [u16; 6] =
    [SECTION_STATE, SECTION_DISK, SECTION_WORKLOAD, SECTION_SETTINGS, SECTION_FORGOTTEN, SECTION_PACK];

/// The kinds of a header's parts.
mod header_part {
    pub(super) const SERVICE: u16 = 1;
    /// The hash of the workload, and the version of its state.
    pub(super) const WORKLOAD: u16 = 2;
    /// The last transaction, its time, and the last record.
    pub(super) const END: u16 = 3;
    /// The VM's number, its size, and the fuel that its tank was charged.
    pub(super) const VM: u16 = 4;
    pub(super) const EPOCH: u16 = 5;
    pub(super) const FIRST_ANSWER: u16 = 6;
    /// Absent if no id with a time was forgotten.
    pub(super) const FORGOTTEN_ID_TIME: u16 = 7;
    pub(super) const SECTIONS: u16 = 8;
    /// The calls and bytes that the VM's allowance of network was charged. Absent if there were no calls.
    pub(super) const NETWORK: u16 = 9;
    pub(super) const KNOWN: [u16; 9] =
        [SERVICE, WORKLOAD, END, VM, EPOCH, FIRST_ANSWER, FORGOTTEN_ID_TIME, SECTIONS, NETWORK];
}

const MAGIC: [u8; 8] = *b"LBSNAPS\n";

/// The length of the prefix, in bytes: magic, version, lengths, hash, checksum.
const PREFIX_BYTES: usize = 64;

/// The offset of the hash in the prefix, which is the length of the fields before it.
const HASH_OFFSET: usize = 24;

/// The offset of the checksum in the prefix. It covers the bytes before it.
const CHECKSUM_OFFSET: usize = 56;

/// The number of bytes that are read at once to check a file.
const READ_BYTES: usize = 1024 * 1024;

/// The description of a snapshot and of its contents.
///
/// The serde encoding of this type and of its fields is version 1 of the header. Never change a field here without a
/// separate struct for that version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotHeader {
    /// The service.
    pub service: Name,
    /// The BLAKE3 hash of the workload that exported it.
    pub workload_hash: [u8; 32],
    /// The number that the guest's `state-version` returned.
    pub state_version: u32,
    /// The last transaction that is part of the snapshot.
    pub sequence: Sequence,
    /// The time of that transaction.
    pub timestamp: Timestamp,
    /// The last record of the service's journal that is part of the snapshot. A replay begins after it.
    pub record: RecordNumber,
    /// The point from which the service resumes.
    pub resume_point: ResumePoint,
    /// The sections of the body, in order.
    pub sections: Vec<Section>,
}

impl SnapshotHeader {
    /// Returns the number of bytes that the guest exported.
    #[must_use]
    pub fn state_bytes(&self) -> u64 {
        self.sections.iter().filter(|section| section.kind == SECTION_STATE).map(Section::bytes).sum()
    }

    fn to_bytes(&self) -> Vec<u8> {
        let ResumePoint { vm_number, size, fuel_used, network_used, epoch, first_answer, forgotten_id_time } =
            &self.resume_point;
        let mut parts = Parts::default()
            .with(header_part::SERVICE, &self.service)
            .with(header_part::WORKLOAD, &(self.workload_hash, self.state_version))
            .with(header_part::END, &(self.sequence, self.timestamp, self.record))
            .with(header_part::VM, &(vm_number, size, fuel_used))
            .with(header_part::EPOCH, epoch)
            .with(header_part::FIRST_ANSWER, first_answer);
        if let Some(time) = forgotten_id_time {
            parts = parts.with(header_part::FORGOTTEN_ID_TIME, time);
        }
        if *network_used != NetworkAmount::default() {
            parts = parts.with(header_part::NETWORK, &(network_used.calls, network_used.bytes));
        }
        parts.with(header_part::SECTIONS, &self.sections).append_to(Vec::new())
    }

    fn from_bytes(bytes: &[u8], version: u32) -> Result<Self, PartsError> {
        if version == 1 {
            return exactly(bytes);
        }
        let parts = Parts::read(bytes, &header_part::KNOWN)?;
        let (workload_hash, state_version) = parts.get(header_part::WORKLOAD)?;
        let (sequence, timestamp, record) = parts.get(header_part::END)?;
        let (vm_number, size, fuel_used) = parts.get(header_part::VM)?;
        let (calls, bytes) = parts.find(header_part::NETWORK)?.unwrap_or_default();
        let resume_point = ResumePoint {
            vm_number,
            size,
            fuel_used,
            network_used: NetworkAmount { calls, bytes },
            epoch: parts.get(header_part::EPOCH)?,
            first_answer: parts.get(header_part::FIRST_ANSWER)?,
            forgotten_id_time: parts.find(header_part::FORGOTTEN_ID_TIME)?,
        };
        let service = parts.get(header_part::SERVICE)?;
        let sections = parts.get(header_part::SECTIONS)?;
        Ok(Self { service, workload_hash, state_version, sequence, timestamp, record, resume_point, sections })
    }
}

/// The data beside its state with which a service resumes from a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumePoint {
    /// The number of the service's VM.
    pub vm_number: u64,
    /// The name of that VM's size.
    pub size: String,
    /// The fuel that the VM's tank was charged.
    pub fuel_used: u64,
    /// The network that the VM's allowance was charged. Version 1 of the header does not have it.
    #[serde(skip)]
    pub network_used: NetworkAmount,
    /// The epoch of the random numbers that the last transactions saw.
    pub epoch: Epoch,
    /// The first record of the service's journal with a retained answer.
    pub first_answer: RecordNumber,
    /// The newest time in a forgotten id, of all users.
    pub forgotten_id_time: Option<Timestamp>,
}

/// The record that stands for everything in the snapshot from which a service begins: one that is restored, or one that
/// has files before its first transaction.
pub(crate) const FIRST_RECORD: RecordNumber = RecordNumber(1);

impl ResumePoint {
    /// Returns the point at which a service begins whose first snapshot stands for [`FIRST_RECORD`].
    pub(crate) fn first(size: String, epoch: Epoch, forgotten_id_time: Option<Timestamp>) -> Self {
        Self {
            vm_number: 1,
            size,
            fuel_used: 0,
            network_used: NetworkAmount::default(),
            epoch,
            first_answer: FIRST_RECORD.next(),
            forgotten_id_time,
        }
    }
}

/// A section of the body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// The kind: [`SECTION_STATE`], [`SECTION_DISK`], [`SECTION_WORKLOAD`], [`SECTION_SETTINGS`],
    /// [`SECTION_FORGOTTEN`] or [`SECTION_PACK`].
    pub kind: u16,
    /// Whether a host that does not know the kind may skip the section. Otherwise it must refuse the snapshot.
    pub is_optional: bool,
    /// The lengths of the chunks, in bytes.
    pub chunk_bytes: Vec<u32>,
}

/// Returns the kind of a snapshot's section in a file.
fn kind_number(kind: SectionKind) -> u16 {
    match kind {
        SectionKind::State => SECTION_STATE,
    }
}

impl Section {
    /// Returns the sections of `snapshot`, in the order of its chunks.
    ///
    /// # Panics
    /// If a chunk has 4 GiB or more: `CHUNK_BYTES_MAX` is below that.
    pub(crate) fn of(snapshot: &Snapshot) -> Vec<Self> {
        let length = |chunk: &Bytes| u32::try_from(chunk.len()).expect("CHUNK_BYTES_MAX is below 4 GiB");
        let section = |section: &snapshot::Section| Self {
            kind: kind_number(section.kind),
            is_optional: false,
            chunk_bytes: section.chunks.iter().map(length).collect(),
        };
        snapshot.sections().iter().map(section).collect()
    }

    /// Returns the section with the table of a disk.
    ///
    /// # Panics
    /// If the table has 4 GiB or more: that of a disk of `DISK_BYTES_MAX` has some hundred MiB at most.
    pub(crate) fn of_table(table: &[u8]) -> Self {
        let bytes = u32::try_from(table.len()).expect("a table is below 4 GiB");
        Self { kind: SECTION_DISK, is_optional: false, chunk_bytes: vec![bytes] }
    }

    fn bytes(&self) -> u64 {
        self.chunk_bytes.iter().map(|bytes| u64::from(*bytes)).sum()
    }
}

/// A failure to write or read a snapshot file. Existing files were not changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SnapshotFileError {
    /// There is already a snapshot of this name.
    #[error("snapshot '{name}' exists already")]
    Exists {
        /// The name of the file.
        name: String,
    },
    /// The lengths in the sections differ from those of the given chunks.
    #[error("snapshot '{name}' has sections of {sections_bytes} bytes, but its chunks have {chunks_bytes}")]
    WrongSections {
        /// The name of the file.
        name: String,
        /// The length of all chunks by the sections, in bytes.
        sections_bytes: u64,
        /// The length of the given chunks, in bytes.
        chunks_bytes: u64,
    },
    /// The file does not begin like a snapshot.
    #[error("'{name}' is not a snapshot")]
    NotASnapshot {
        /// The name of the file.
        name: String,
    },
    /// A newer host wrote the file.
    #[error("snapshot '{name}' has version {found}, this host reads up to {SNAPSHOT_VERSION}; use a newer host")]
    FutureVersion {
        /// The name of the file.
        name: String,
        /// The version of the file.
        found: u32,
    },
    /// The file has a section that this host does not know and must not skip.
    #[error("snapshot '{name}' has a section of kind {kind}, which this host does not know; use a newer host")]
    UnknownSection {
        /// The name of the file.
        name: String,
        /// The kind of the section.
        kind: u16,
    },
    /// The header has a part that this host does not know and must not skip.
    #[error(
        "snapshot '{name}' has a header with a part of kind {kind}, which this host does not know; use a newer host"
    )]
    UnknownPart {
        /// The name of the file.
        name: String,
        /// The kind of the part.
        kind: u16,
    },
    /// The header or the body is longer than allowed.
    #[error("snapshot '{name}' has {bytes} bytes of {part}, the limit is {limit_bytes}")]
    TooLong {
        /// The name of the file.
        name: String,
        /// `header` or `body`.
        part: &'static str,
        /// The length of that part, in bytes.
        bytes: u64,
        /// The limit, in bytes.
        limit_bytes: u64,
    },
    /// The file is cut off within its prefix, which would contain its length.
    #[error("snapshot '{name}' is cut off: it is {bytes} bytes long, and every snapshot has at least {PREFIX_BYTES}")]
    CutOff {
        /// The name of the file.
        name: String,
        /// The length of the file, in bytes.
        bytes: u64,
    },
    /// The file is cut off, or continues after its end.
    #[error("snapshot '{name}' is {bytes} bytes long, but was written with {expected_bytes}")]
    WrongLength {
        /// The name of the file.
        name: String,
        /// The length of the file, in bytes.
        bytes: u64,
        /// The expected length, in bytes.
        expected_bytes: u64,
    },
    /// The contents are not those that were written.
    #[error("snapshot '{name}' is damaged: its {part} does not match its hash")]
    Damaged {
        /// The name of the file.
        name: String,
        /// `prefix` or `content`.
        part: &'static str,
    },
    /// The contents are those that were written, but the header is invalid.
    #[error("snapshot '{name}' has a header that cannot be read: {reason}")]
    BadHeader {
        /// The name of the file.
        name: String,
        /// The reason why the header is invalid.
        reason: String,
    },
    /// The table of the disk, or a pack that it refers to, is not as it was written.
    #[error("snapshot '{name}' has a damaged disk: {reason}")]
    Disk {
        /// The name of the snapshot's file.
        name: String,
        /// The damage, with the pack and the place of a chunk.
        reason: String,
    },
    /// A newer host wrote the table of the disk, or a pack.
    #[error("'{name}' has a disk of a newer host: {reason}")]
    FutureDisk {
        /// The name of the file.
        name: String,
        /// What this host does not know.
        reason: String,
    },
    /// The storage failed for a pack.
    #[error("cannot {action} pack '{name}'")]
    Pack {
        /// The name of the pack's file.
        name: String,
        /// The action that failed.
        action: &'static str,
        /// The cause of the failure.
        source: io::Error,
    },
    /// The storage failed.
    #[error("cannot {action} snapshot '{name}'")]
    Storage {
        /// The name of the file.
        name: String,
        /// The action that failed.
        action: &'static str,
        /// The cause of the failure.
        source: io::Error,
    },
}

impl SnapshotFileError {
    /// Returns whether the contents of the file are not those that were written. Other errors mean that another host
    /// wrote it, or that it could not be read.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::NotASnapshot { .. }
                | Self::CutOff { .. }
                | Self::WrongLength { .. }
                | Self::Damaged { .. }
                | Self::BadHeader { .. }
                | Self::Disk { .. }
        )
    }

    /// Returns the error of the storage, if it is the storage that failed.
    #[must_use]
    pub fn storage_error(&self) -> Option<&io::Error> {
        match self {
            Self::Storage { source, .. } | Self::Pack { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Returns the name of a snapshot's file. The file names of a service sort in the order of its snapshots.
#[must_use]
pub fn file_name(service: &Name, record: RecordNumber) -> String {
    format!("{service}.{:020}.snapshot", record.0)
}

/// Writes a snapshot. When this returns, the file survives a crash. Before that, there is no file of this name.
///
/// # Errors
/// [`SnapshotFileError`]. The next attempt overwrites a file that is left under the temporary name. If the sync of the
/// directory or the check of the place failed, the whole file may be there: another attempt gets
/// [`SnapshotFileError::Exists`].
pub fn write<'a>(
    storage: &dyn Storage,
    name: &str,
    header: &SnapshotHeader,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(), SnapshotFileError> {
    let failed = |action, source| SnapshotFileError::Storage { name: name.to_owned(), action, source };
    check_absent(storage, name)?;
    write_aside(storage, name, &failed, |file| write_to(file, name, header, chunks))
}

/// Checks that there is no snapshot of this name.
///
/// # Errors
/// [`SnapshotFileError::Exists`], [`SnapshotFileError::Storage`].
pub(crate) fn check_absent(storage: &dyn Storage, name: &str) -> Result<(), SnapshotFileError> {
    let failed = |source| SnapshotFileError::Storage { name: name.to_owned(), action: "look for", source };
    if storage.list().map_err(failed)?.iter().any(|other| other == name) {
        return Err(SnapshotFileError::Exists { name: name.to_owned() });
    }
    Ok(())
}

/// Writes a file by `fill`, which syncs it, under another name, and renames it.
fn write_aside(
    storage: &dyn Storage,
    name: &str,
    failed: &dyn Fn(&'static str, io::Error) -> SnapshotFileError,
    fill: impl FnOnce(&dyn StorageFile) -> Result<(), SnapshotFileError>,
) -> Result<(), SnapshotFileError> {
    let failed = |action| move |source| failed(action, source);
    let aside = format!("{name}.tmp");
    match storage.remove(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove an unfinished copy of")(error));
        }
        _ => {}
    }
    let file = storage.create(&aside).map_err(failed("create"))?;
    let named = fill(&*file).and_then(|()| storage.rename(&aside, name).map_err(failed("name")));
    if named.is_err() {
        drop(file);
        // A partial file would take the room that other files need.
        let _ = storage.remove(&aside);
        return named;
    }
    storage.sync_directory().map_err(failed("sync the directory of"))?;
    // The temporary file may have been removed or replaced.
    file.identity().and_then(|identity| storage.check_place(name, &identity)).map_err(failed("check"))
}

/// Writes a snapshot into an empty `file`. Errors call the file `name`. When this returns, the bytes survive a crash.
/// The caller is responsible for the file's name on the disk.
///
/// # Errors
/// [`SnapshotFileError`]. The file holds no valid snapshot then.
pub(crate) fn write_to<'a>(
    file: &dyn StorageFile,
    name: &str,
    header: &SnapshotHeader,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(), SnapshotFileError> {
    let failed = |action| move |source| SnapshotFileError::Storage { name: name.to_owned(), action, source };
    let header_bytes = header.to_bytes();
    let body_bytes: u64 = header.sections.iter().map(Section::bytes).sum();
    check_lengths(name, header_bytes.len() as u64, body_bytes)?;
    let header_length = u32::try_from(header_bytes.len()).expect("SNAPSHOT_HEADER_BYTES_MAX is below 4 GiB");
    let mut prefix = prefix_without_hash(header_length, body_bytes);
    let mut hasher = blake3::Hasher::new();
    hasher.update(&prefix).update(&header_bytes);
    let mut offset = PREFIX_BYTES as u64;
    file.write_all_at(offset, &header_bytes).map_err(failed("write"))?;
    offset += header_bytes.len() as u64;
    let mut lengths = header.sections.iter().flat_map(|section| &section.chunk_bytes);
    let mut chunks_bytes = 0;
    for chunk in chunks {
        chunks_bytes += chunk.len() as u64;
        if lengths.next().is_none_or(|bytes| *bytes as usize != chunk.len()) {
            return Err(SnapshotFileError::WrongSections {
                name: name.to_owned(),
                sections_bytes: body_bytes,
                chunks_bytes,
            });
        }
        hasher.update(chunk);
        file.write_all_at(offset, chunk).map_err(failed("write"))?;
        offset += chunk.len() as u64;
    }
    if chunks_bytes != body_bytes {
        return Err(SnapshotFileError::WrongSections {
            name: name.to_owned(),
            sections_bytes: body_bytes,
            chunks_bytes,
        });
    }
    prefix.extend_from_slice(hasher.finalize().as_bytes());
    let checksum = blake3::hash(&prefix);
    prefix.extend_from_slice(&checksum.as_bytes()[..PREFIX_BYTES - CHECKSUM_OFFSET]);
    file.write_all_at(0, &prefix).map_err(failed("write"))?;
    file.sync_data().map_err(failed("sync"))
}

/// The contents of a snapshot file that was read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotContent {
    /// The header, which describes the snapshot.
    pub header: SnapshotHeader,
    /// The bytes of all sections.
    pub body: Vec<u8>,
}

impl SnapshotContent {
    /// Returns the snapshot in the file, with `disk`. Without a section for the state, no guest has exported any: it is
    /// the state before the first transaction.
    #[must_use]
    pub fn into_snapshot(self, disk: Disk) -> Snapshot {
        if !self.header.sections.iter().any(|section| section.kind == SECTION_STATE) {
            return Snapshot::birth(disk);
        }
        let ranges = SectionKind::ALL.map(|kind| (kind, self.chunks(kind_number(kind))));
        let Self { header, body } = self;
        // Slices would keep all of the body in memory.
        let has_more = header.sections.iter().any(|section| section.kind == SECTION_PACK);
        let body = Bytes::from(body);
        let chunk =
            |range: Range<usize>| if has_more { Bytes::copy_from_slice(&body[range]) } else { body.slice(range) };
        let sections = ranges.into_iter().map(|(kind, ranges)| {
            let chunks = ranges.into_iter().map(chunk).collect();
            snapshot::Section { kind, chunks }
        });
        Snapshot::new(header.sequence, header.timestamp, header.state_version, sections.collect(), disk)
    }

    /// Reads the disk, whose chunks are in the packs beside the file `name`.
    ///
    /// # Errors
    /// [`SnapshotFileError`].
    pub fn disk(&self, storage: &dyn Storage, name: &str) -> Result<Disk, SnapshotFileError> {
        match self.section(SECTION_DISK) {
            None => Ok(Disk::new(0)),
            Some(table) => Ok(disk::import(storage, name, &self.header.service, table)?.disk),
        }
    }

    /// Reads the disk of a portable snapshot, which contains all chunks.
    ///
    /// # Errors
    /// [`SnapshotFileError`].
    pub(crate) fn portable_disk(&self, name: &str) -> Result<Disk, SnapshotFileError> {
        match self.section(SECTION_DISK) {
            None => Ok(Disk::new(0)),
            Some(table) => {
                let pack = self.section(SECTION_PACK).unwrap_or_default();
                disk::import_from(name, &self.header.service, table, pack)
            }
        }
    }

    /// Returns the bytes of a section, or none if there is no such section.
    fn section(&self, kind: u16) -> Option<&[u8]> {
        if !self.header.sections.iter().any(|section| section.kind == kind) {
            return None;
        }
        // A section's chunks are one after another.
        Some(match &self.chunks(kind)[..] {
            [] => &[],
            [first, .., last] => &self.body[first.start..last.end],
            [only] => &self.body[only.clone()],
        })
    }

    /// Returns the ranges in the body of the chunks of a section. They are empty if there is no such section.
    #[must_use]
    pub fn chunks(&self, kind: u16) -> Vec<Range<usize>> {
        let mut chunks = Vec::new();
        let mut start = 0;
        for section in &self.header.sections {
            for bytes in &section.chunk_bytes {
                let end = start + *bytes as usize;
                if section.kind == kind {
                    chunks.push(start..end);
                }
                start = end;
            }
        }
        chunks
    }
}

/// Reads a snapshot into memory. Nothing is decoded before all of it was compared with its hash.
///
/// # Errors
/// [`SnapshotFileError`].
pub fn read(storage: &dyn Storage, name: &str) -> Result<SnapshotContent, SnapshotFileError> {
    read_whole(&Stored::open(storage, name)?)
}

/// Reads a snapshot from an open file. Errors call the file `name`.
///
/// # Errors
/// [`SnapshotFileError`].
pub(crate) fn read_from(file: Box<dyn StorageFile>, name: &str) -> Result<SnapshotContent, SnapshotFileError> {
    read_whole(&Stored::begin(file, name)?)
}

fn read_whole(stored: &Stored<'_>) -> Result<SnapshotContent, SnapshotFileError> {
    let mut body = vec![0; usize::try_from(stored.body_bytes).expect("SNAPSHOT_BODY_BYTES_MAX fits")];
    let header_bytes = stored.read_header()?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&stored.prefix[..HASH_OFFSET]).update(&header_bytes);
    let mut offset = PREFIX_BYTES as u64 + header_bytes.len() as u64;
    for part in body.chunks_mut(READ_BYTES) {
        stored.read(offset, part)?;
        hasher.update(part);
        offset += part.len() as u64;
    }
    stored.check_hash(&hasher)?;
    Ok(SnapshotContent { header: stored.decode_header(&header_bytes)?, body })
}

/// A snapshot file that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The header, which describes the snapshot.
    pub header: SnapshotHeader,
    /// The packs with the chunks of its disk.
    pub packs: Packs,
}

/// Checks a snapshot as [`read`] does, without keeping its body in memory. Checks the table of its disk, and that the
/// packs are there; the chunks in them are checked when the disk is read.
///
/// # Errors
/// [`SnapshotFileError`].
pub fn check(storage: &dyn Storage, name: &str) -> Result<Checked, SnapshotFileError> {
    let (stored, header) = check_file(storage, name)?;
    let packs = match stored.table(&header)? {
        None => Packs::new(),
        Some(table) => disk::check(storage, name, &header.service, &table)?,
    };
    Ok(Checked { header, packs })
}

/// Checks every chunk of a snapshot's disk.
///
/// # Errors
/// [`SnapshotFileError`]: a damaged chunk is named by its pack and its place there.
pub fn check_disk(storage: &dyn Storage, name: &str) -> Result<(), SnapshotFileError> {
    let stored = Stored::open(storage, name)?;
    let header = stored.decode_header(&stored.read_header()?)?;
    match stored.table(&header)? {
        None => Ok(()),
        Some(table) => disk::check_chunks(storage, name, &header.service, &table),
    }
}

fn check_file<'a>(storage: &dyn Storage, name: &'a str) -> Result<(Stored<'a>, SnapshotHeader), SnapshotFileError> {
    let stored = Stored::open(storage, name)?;
    let header_bytes = stored.read_header()?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&stored.prefix[..HASH_OFFSET]).update(&header_bytes);
    let mut offset = PREFIX_BYTES as u64 + header_bytes.len() as u64;
    let end = offset + stored.body_bytes;
    let mut buffer = vec![0; READ_BYTES];
    while offset < end {
        let count = buffer.len().min(usize::try_from(end - offset).unwrap_or(usize::MAX));
        stored.read(offset, &mut buffer[..count])?;
        hasher.update(&buffer[..count]);
        offset += count as u64;
    }
    stored.check_hash(&hasher)?;
    let header = stored.decode_header(&header_bytes)?;
    Ok((stored, header))
}

/// A snapshot file with a valid prefix and the expected length.
struct Stored<'a> {
    name: &'a str,
    file: Box<dyn StorageFile>,
    prefix: [u8; PREFIX_BYTES],
    version: u32,
    header_bytes: u32,
    body_bytes: u64,
}

impl<'a> Stored<'a> {
    fn open(storage: &dyn Storage, name: &'a str) -> Result<Self, SnapshotFileError> {
        let failed = |action| move |source| SnapshotFileError::Storage { name: name.to_owned(), action, source };
        Self::begin(storage.open(name).map_err(failed("open"))?, name)
    }

    fn begin(file: Box<dyn StorageFile>, name: &'a str) -> Result<Self, SnapshotFileError> {
        let failed = |action| move |source| SnapshotFileError::Storage { name: name.to_owned(), action, source };
        let bytes = file.bytes().map_err(failed("read"))?;
        let mut prefix = [0; PREFIX_BYTES];
        let start = PREFIX_BYTES.min(usize::try_from(bytes).unwrap_or(PREFIX_BYTES));
        file.read_exact_at(0, &mut prefix[..start]).map_err(failed("read"))?;
        if !prefix.starts_with(&MAGIC) {
            return Err(SnapshotFileError::NotASnapshot { name: name.to_owned() });
        }
        if start < PREFIX_BYTES {
            return Err(SnapshotFileError::CutOff { name: name.to_owned(), bytes });
        }
        let checksum = blake3::hash(&prefix[..CHECKSUM_OFFSET]);
        if checksum.as_bytes()[..PREFIX_BYTES - CHECKSUM_OFFSET] != prefix[CHECKSUM_OFFSET..] {
            return Err(SnapshotFileError::Damaged { name: name.to_owned(), part: "prefix" });
        }
        let version = u32::from_le_bytes(array(&prefix, 8));
        if !(1..=SNAPSHOT_VERSION).contains(&version) {
            return Err(SnapshotFileError::FutureVersion { name: name.to_owned(), found: version });
        }
        let header_bytes = u32::from_le_bytes(array(&prefix, 12));
        let body_bytes = u64::from_le_bytes(array(&prefix, 16));
        check_lengths(name, u64::from(header_bytes), body_bytes)?;
        let expected_bytes = PREFIX_BYTES as u64 + u64::from(header_bytes) + body_bytes;
        if bytes != expected_bytes {
            return Err(SnapshotFileError::WrongLength { name: name.to_owned(), bytes, expected_bytes });
        }
        Ok(Self { name, file, prefix, version, header_bytes, body_bytes })
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), SnapshotFileError> {
        let failed = |source| SnapshotFileError::Storage { name: self.name.to_owned(), action: "read", source };
        self.file.read_exact_at(offset, buffer).map_err(failed)
    }

    fn read_header(&self) -> Result<Vec<u8>, SnapshotFileError> {
        let mut bytes = vec![0; self.header_bytes as usize];
        self.read(PREFIX_BYTES as u64, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads the table of the disk, if there is one. The header is that of this file.
    fn table(&self, header: &SnapshotHeader) -> Result<Option<Vec<u8>>, SnapshotFileError> {
        let mut offset = PREFIX_BYTES as u64 + u64::from(self.header_bytes);
        for section in &header.sections {
            if section.kind == SECTION_DISK {
                let mut table = vec![0; usize::try_from(section.bytes()).expect("SNAPSHOT_BODY_BYTES_MAX fits")];
                self.read(offset, &mut table)?;
                return Ok(Some(table));
            }
            offset += section.bytes();
        }
        Ok(None)
    }

    fn check_hash(&self, hasher: &blake3::Hasher) -> Result<(), SnapshotFileError> {
        if hasher.finalize().as_bytes()[..] == self.prefix[HASH_OFFSET..CHECKSUM_OFFSET] {
            return Ok(());
        }
        Err(SnapshotFileError::Damaged { name: self.name.to_owned(), part: "content" })
    }

    /// Decodes a header whose hash is correct. The header may still be invalid.
    fn decode_header(&self, bytes: &[u8]) -> Result<SnapshotHeader, SnapshotFileError> {
        let bad = |reason: String| SnapshotFileError::BadHeader { name: self.name.to_owned(), reason };
        let header = SnapshotHeader::from_bytes(bytes, self.version).map_err(|error| match error {
            PartsError::Unknown(kind) => SnapshotFileError::UnknownPart { name: self.name.to_owned(), kind },
            PartsError::Malformed(reason) => bad(reason),
        })?;
        // A service increments these numbers.
        let counted = [header.sequence.0, header.record.0, header.timestamp.0, header.resume_point.vm_number];
        if counted.into_iter().any(|number| number > u64::MAX / 2) {
            return Err(bad("its sequence, record, timestamp or VM is out of range".into()));
        }
        let sections_bytes = header.sections.iter().map(Section::bytes).sum::<u64>();
        if sections_bytes != self.body_bytes {
            return Err(bad(format!("its sections have {sections_bytes} bytes, the body has {}", self.body_bytes)));
        }
        let unknown =
            header.sections.iter().find(|section| !SECTIONS_KNOWN.contains(&section.kind) && !section.is_optional);
        match unknown {
            Some(section) => Err(SnapshotFileError::UnknownSection { name: self.name.to_owned(), kind: section.kind }),
            None => Ok(header),
        }
    }
}

fn check_lengths(name: &str, header_bytes: u64, body_bytes: u64) -> Result<(), SnapshotFileError> {
    let parts =
        [("header", header_bytes, u64::from(SNAPSHOT_HEADER_BYTES_MAX)), ("body", body_bytes, SNAPSHOT_BODY_BYTES_MAX)];
    match parts.into_iter().find(|(_, bytes, limit_bytes)| bytes > limit_bytes) {
        Some((part, bytes, limit_bytes)) => {
            Err(SnapshotFileError::TooLong { name: name.to_owned(), part, bytes, limit_bytes })
        }
        None => Ok(()),
    }
}

fn prefix_without_hash(header_bytes: u32, body_bytes: u64) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(PREFIX_BYTES);
    prefix.extend_from_slice(&MAGIC);
    prefix.extend_from_slice(&SNAPSHOT_VERSION.to_le_bytes());
    prefix.extend_from_slice(&header_bytes.to_le_bytes());
    prefix.extend_from_slice(&body_bytes.to_le_bytes());
    prefix
}

fn array<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[offset..offset + N]);
    array
}

#[cfg(test)]
mod tests;
