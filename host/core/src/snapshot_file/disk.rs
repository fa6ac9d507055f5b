//! The virtual disk of a snapshot: a table in the snapshot's file, and the chunks that it names in packs.
//!
//! A pack is a file of its own beside the snapshots of a service: several snapshots refer to it, and each snapshot
//! writes a pack with only the chunks that are new. A portable snapshot has no such neighbours: it contains one pack
//! with all chunks. `lifeboat_disk` defines the bytes of both.

use super::{SnapshotFileError, write_aside};
use lifeboat_api::name::Name;
use lifeboat_disk::{
    Disk, Export, Hash, ImportError, Imported, Origin, PACK_HEADER_BYTES, PackError, PackHeader, Packs, Place,
    TableError, check_table,
};
use lifeboat_journal::storage::{Storage, StorageFile};
use std::collections::VecDeque;
use std::io;

/// Returns the name of a pack's file. Packs are numbered by the records of the snapshots that they were written with.
pub(crate) fn pack_name(service: &Name, number: u64) -> String {
    format!("{service}.{number:020}.pack")
}

/// Writes the new pack of an export, if it has one. When this returns, the file survives a crash. A file of this name is
/// replaced: no snapshot refers to it yet.
///
/// # Errors
/// [`SnapshotFileError::Pack`].
pub(crate) fn write_pack(
    storage: &dyn Storage,
    service: &Name,
    number: u64,
    export: &Export,
) -> Result<(), SnapshotFileError> {
    if export.pack_bytes() == 0 {
        return Ok(());
    }
    let name = pack_name(service, number);
    let failed = |action, source| SnapshotFileError::Pack { name: name.clone(), action, source };
    write_aside(storage, &name, &failed, |file| {
        let mut offset = 0;
        for part in export.pack() {
            file.write_all_at(offset, part).map_err(|source| failed("write", source))?;
            offset += part.len() as u64;
        }
        file.sync_data().map_err(|source| failed("sync", source))
    })
}

/// Checks the table of a snapshot, and that all packs are there that it refers to, with the expected lengths. Reads no
/// chunk. `name` is the snapshot's file.
///
/// # Errors
/// [`SnapshotFileError`].
pub(super) fn check(
    storage: &dyn Storage,
    name: &str,
    service: &Name,
    table: &[u8],
) -> Result<Packs, SnapshotFileError> {
    let packs = check_table(table).map_err(|error| table_error(name, &error))?;
    for (number, bytes) in &packs {
        drop(open_pack(storage, name, service, *number, *bytes)?);
    }
    Ok(packs)
}

/// Returns those of `packs` that are there, with their numbers and lengths, and whose indexes are intact.
pub(crate) fn present(storage: &dyn Storage, service: &Name, packs: &Packs) -> Packs {
    let is_there = |(number, bytes): &(&u64, &u64)| check_index(storage, "", service, **number, **bytes).is_ok();
    packs.iter().filter(is_there).map(|(number, bytes)| (*number, *bytes)).collect()
}

/// Reads the disk of a snapshot from its table and the packs beside it.
///
/// # Errors
/// [`SnapshotFileError`]: a damaged chunk is named by its pack and its place there.
pub(super) fn import(
    storage: &dyn Storage,
    name: &str,
    service: &Name,
    table: &[u8],
) -> Result<Imported, SnapshotFileError> {
    check(storage, name, service, table)?;
    let mut files = PackFiles { storage, service, open: VecDeque::new() };
    let read_chunk = |place: Place, bytes: usize, _: &Hash| files.read(place, bytes);
    Disk::import(table, Origin::OwnPacks, read_chunk).map_err(|error| match error {
        ImportError::DamagedChunk { place, bytes, .. } => SnapshotFileError::Disk {
            name: name.to_owned(),
            reason: format!(
                "pack '{}': its {bytes} bytes from offset {} on do not match their hash",
                pack_name(service, place.pack),
                place.offset
            ),
        },
        error => import_error(name, service, error),
    })
}

/// Reads a disk from its table and the one pack with all of its chunks.
///
/// # Errors
/// [`SnapshotFileError`].
pub(super) fn import_from(name: &str, service: &Name, table: &[u8], pack: &[u8]) -> Result<Disk, SnapshotFileError> {
    let read_chunk = |place: Place, bytes: usize, _: &Hash| {
        let start = usize::try_from(place.offset).ok();
        let chunk = start.and_then(|start| pack.get(start..start.checked_add(bytes)?));
        chunk.map(<[u8]>::to_vec).ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
    };
    let imported = Disk::import(table, Origin::Elsewhere, read_chunk);
    Ok(imported.map_err(|error| import_error(name, service, error))?.disk)
}

/// Reads every chunk of a snapshot, and compares it with its hash, without keeping it.
///
/// # Errors
/// [`SnapshotFileError`], as [`import`].
pub(super) fn check_chunks(
    storage: &dyn Storage,
    name: &str,
    service: &Name,
    table: &[u8],
) -> Result<(), SnapshotFileError> {
    for (number, bytes) in &check(storage, name, service, table)? {
        check_index(storage, name, service, *number, *bytes)?;
    }
    // A disk is at most a size's, which the host has memory for.
    import(storage, name, service, table).map(drop)
}

/// Checks the header, the length and the index of a pack. A start needs no index, so that a damaged one is no reason to
/// leave a snapshot out.
fn check_index(
    storage: &dyn Storage,
    snapshot: &str,
    service: &Name,
    number: u64,
    chunk_bytes: u64,
) -> Result<(), SnapshotFileError> {
    let (file, header) = open_pack(storage, snapshot, service, number, chunk_bytes)?;
    let range = header.index_range();
    let mut index = vec![0; usize::try_from(range.end - range.start).expect("a pack's chunks are on one disk")];
    let failed = |source| SnapshotFileError::Pack { name: pack_name(service, number), action: "read", source };
    file.read_exact_at(range.start, &mut index).map_err(failed)?;
    let damaged = |error: PackError| SnapshotFileError::Disk {
        name: snapshot.to_owned(),
        reason: format!(
            "pack '{}': {error}; the service starts without it, and its next two snapshots replace the pack",
            pack_name(service, number)
        ),
    };
    header.read_index(&index).map(drop).map_err(damaged)
}

/// The most packs that are open at once while a disk is read.
const OPEN_PACKS_MAX: usize = 16;

/// The packs of a service, those that were read last open.
struct PackFiles<'a> {
    storage: &'a dyn Storage,
    service: &'a Name,
    open: VecDeque<(u64, Box<dyn StorageFile>)>,
}

impl PackFiles<'_> {
    fn read(&mut self, place: Place, bytes: usize) -> io::Result<Vec<u8>> {
        if !self.open.iter().any(|(number, _)| *number == place.pack) {
            let file = self.storage.open(&pack_name(self.service, place.pack))?;
            self.open.truncate(OPEN_PACKS_MAX - 1);
            self.open.push_front((place.pack, file));
        }
        let (_, file) = self.open.iter().find(|(number, _)| *number == place.pack).ok_or(io::ErrorKind::NotFound)?;
        let mut chunk = vec![0; bytes];
        file.read_exact_at(place.offset, &mut chunk)?;
        Ok(chunk)
    }
}

/// Opens a pack, and checks its header against its number and the length of its chunks. `snapshot` is the file that
/// refers to it.
fn open_pack(
    storage: &dyn Storage,
    snapshot: &str,
    service: &Name,
    number: u64,
    chunk_bytes: u64,
) -> Result<(Box<dyn StorageFile>, PackHeader), SnapshotFileError> {
    let name = pack_name(service, number);
    let wrong = |reason: String| SnapshotFileError::Disk {
        name: snapshot.to_owned(),
        reason: format!("pack '{name}': {reason}"),
    };
    let failed = |action, source| SnapshotFileError::Pack { name: name.clone(), action, source };
    let file = storage.open(&name).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => wrong("it is missing".into()),
        io::ErrorKind::IsADirectory => wrong("it is a directory".into()),
        _ => failed("open", source),
    })?;
    let found_bytes = file.bytes().map_err(|source| failed("read", source))?;
    let mut head = [0; PACK_HEADER_BYTES];
    let head = &mut head[..PACK_HEADER_BYTES.min(usize::try_from(found_bytes).unwrap_or(usize::MAX))];
    file.read_exact_at(0, head).map_err(|source| failed("read", source))?;
    let header = PackHeader::read(head).map_err(|error| match error {
        PackError::FutureVersion { .. } => {
            SnapshotFileError::FutureDisk { name: name.clone(), reason: error.to_string() }
        }
        error => wrong(error.to_string()),
    })?;
    if header.number() != number {
        return Err(wrong(format!("it is pack {}", header.number())));
    }
    if header.chunk_bytes() != chunk_bytes {
        let found = header.chunk_bytes();
        return Err(wrong(format!("it has chunks of {found} bytes instead of {chunk_bytes}")));
    }
    if header.file_bytes() != found_bytes {
        return Err(wrong(format!("it has {found_bytes} bytes instead of {}", header.file_bytes())));
    }
    Ok((file, header))
}

fn table_error(name: &str, error: &TableError) -> SnapshotFileError {
    let (name, reason) = (name.to_owned(), error.to_string());
    match error {
        TableError::FutureVersion { .. } | TableError::UnknownSection { .. } => {
            SnapshotFileError::FutureDisk { name, reason }
        }
        _ => SnapshotFileError::Disk { name, reason },
    }
}

fn import_error(name: &str, service: &Name, error: ImportError<io::Error>) -> SnapshotFileError {
    match error {
        ImportError::Table(error) => table_error(name, &error),
        // The lengths were compared before: a chunk behind the end is not in its pack.
        ImportError::Read { place, source, .. } if source.kind() != io::ErrorKind::UnexpectedEof => {
            SnapshotFileError::Pack { name: pack_name(service, place.pack), action: "read", source }
        }
        error => SnapshotFileError::Disk { name: name.to_owned(), reason: error.to_string() },
    }
}
