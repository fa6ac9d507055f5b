//! Writes a snapshot with its disk: the new pack first, then the file that refers to it.
//!
//! ```text
//!   export -> SERVICE.RECORD.pack, synced, renamed -> SERVICE.RECORD.snapshot, synced, renamed -> commit
//! ```
//!
//! A crash in between leaves a pack to which no snapshot refers. The next snapshot removes it. The chunks on the disk
//! learn where they are stored only at the end, so that after a failure the next pack has them once more.

use crate::snapshot_file::{self, Section, SnapshotFileError, SnapshotHeader, disk};
use lifeboat_disk::Packs;
use lifeboat_journal::storage::Storage;
use lifeboat_vm::snapshot::Snapshot;

/// A snapshot that was written.
pub(crate) struct Stored {
    /// The packs that it refers to.
    pub(crate) packs: Packs,
    /// The bytes of all files that were written for it, without their headers.
    pub(crate) bytes: u64,
}

/// Writes `snapshot`, and fills in the sections of its `header`. `others` are further sections with one chunk each.
/// `packs` are the packs of the service that stay at least until this returns. When this returns, the snapshot survives
/// a crash.
///
/// # Errors
/// [`SnapshotFileError`], as [`snapshot_file::write`].
pub(crate) fn write(
    storage: &dyn Storage,
    mut header: SnapshotHeader,
    snapshot: &Snapshot,
    others: Vec<(Section, Vec<u8>)>,
    packs: &Packs,
) -> Result<Stored, SnapshotFileError> {
    let (service, number) = (header.service.clone(), header.record.0);
    let name = snapshot_file::file_name(&service, header.record);
    // A pack of this number would belong to the snapshot that exists.
    snapshot_file::check_absent(storage, &name)?;
    header.sections = Section::of(snapshot);
    // Chunks of a pack that somebody removed or damaged are written once more: they are still in memory.
    let export = || snapshot.disk().export(number, &disk::present(storage, &service, packs));
    let export = (!snapshot.disk().is_untouched()).then(export);
    if let Some(export) = &export {
        disk::write_pack(storage, &service, number, export)?;
        header.sections.push(Section::of_table(export.table()));
    }
    header.sections.extend(others.iter().map(|(section, _)| section.clone()));
    let table = export.as_ref().map(|export| export.table());
    let chunks = snapshot.chunks().chain(table).chain(others.iter().map(|(_, chunk)| &chunk[..]));
    let written = snapshot_file::write(storage, &name, &header, chunks);
    if written.is_err() && export.as_ref().is_some_and(|export| export.pack_bytes() > 0) {
        // It would take the room that the next attempt needs. Only the first error is reported.
        let is_there = snapshot_file::check_absent(storage, &name).is_err();
        if !is_there {
            let _ = storage.remove(&disk::pack_name(&service, number));
        }
    }
    written?;
    let mut stored = Stored { packs: Packs::new(), bytes: snapshot.state_bytes() };
    if let Some(export) = export {
        stored.packs = export.packs().clone();
        stored.bytes += export.table().len() as u64 + export.pack_bytes();
        export.commit();
    }
    Ok(stored)
}
