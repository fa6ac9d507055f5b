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
use std::collections::BTreeMap;
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
    let mut files = PackFiles::new(storage, name, service);
    for (number, bytes) in &packs {
        files.open(*number, *bytes)?;
    }
    Ok(packs)
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
    let packs = check_table(table).map_err(|error| table_error(name, &error))?;
    let mut files = PackFiles::new(storage, name, service);
    for (number, bytes) in &packs {
        files.open(*number, *bytes)?;
    }
    let read_chunk = |place: Place, bytes: usize, _: &Hash| files.read(place, bytes);
    Disk::import(table, Origin::OwnPacks, read_chunk).map_err(|error| import_error(name, service, error))
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
    // A disk is at most a size's, which the host has memory for.
    import(storage, name, service, table).map(drop)
}

/// The open packs of a service.
struct PackFiles<'a> {
    storage: &'a dyn Storage,
    /// The file of the snapshot that refers to them.
    snapshot: &'a str,
    service: &'a Name,
    files: BTreeMap<u64, Box<dyn StorageFile>>,
}

impl<'a> PackFiles<'a> {
    fn new(storage: &'a dyn Storage, snapshot: &'a str, service: &'a Name) -> Self {
        Self { storage, snapshot, service, files: BTreeMap::new() }
    }

    /// Opens a pack, and checks its header against its number and the length of its chunks.
    fn open(&mut self, number: u64, chunk_bytes: u64) -> Result<(), SnapshotFileError> {
        let name = pack_name(self.service, number);
        let snapshot = self.snapshot;
        let wrong = |reason: String| SnapshotFileError::Disk {
            name: snapshot.to_owned(),
            reason: format!("pack '{name}': {reason}"),
        };
        let failed = |action, source| SnapshotFileError::Pack { name: name.clone(), action, source };
        let file = self.storage.open(&name).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => wrong("it is missing".into()),
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
        if header.number() != number || header.chunk_bytes() != chunk_bytes {
            let (found, bytes) = (header.number(), header.chunk_bytes());
            return Err(wrong(format!("it is pack {found} with chunks of {bytes} bytes, expected are {chunk_bytes}")));
        }
        if header.file_bytes() != found_bytes {
            return Err(wrong(format!("it has {found_bytes} bytes, expected are {}", header.file_bytes())));
        }
        self.files.insert(number, file);
        Ok(())
    }

    fn read(&self, place: Place, bytes: usize) -> io::Result<Vec<u8>> {
        let file = self.files.get(&place.pack).ok_or(io::ErrorKind::NotFound)?;
        let mut chunk = vec![0; bytes];
        file.read_exact_at(place.offset, &mut chunk)?;
        Ok(chunk)
    }
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
