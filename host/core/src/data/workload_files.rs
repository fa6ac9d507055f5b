//! The files of workloads, by their BLAKE3 hash.

use super::DataError;
use crate::catalog::Catalog;
use lifeboat_api::id::WorkloadHash;
use lifeboat_journal::storage::{Storage, StorageFile};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// The suffix of a file's name while the file is being written.
pub(super) const PART: &str = ".tmp";

/// Returns the name of a workload's file.
pub(super) fn workload_file(hash: &WorkloadHash) -> String {
    format!("{hash}.workload")
}

/// Returns the workload whose file, whole or partial, has this name.
pub(super) fn workload_of(file: &str) -> Option<WorkloadHash> {
    let name = file.strip_suffix(PART).unwrap_or(file);
    let hash = name.strip_suffix(".workload")?.parse().ok()?;
    // Hexadecimal digits have two forms, and file names use only one of them.
    (workload_file(&hash) == name).then_some(hash)
}

/// Stores a workload under its hash.
///
/// # Errors
/// [`DataError::Storage`].
pub fn keep_workload(storage: &dyn Storage, hash: &WorkloadHash, bytes: &[u8]) -> Result<(), DataError> {
    let name = workload_file(hash);
    let failed = |action: &str| DataError::storage(format!("{action} '{name}'"));
    let names = storage.list().map_err(failed("look for"))?;
    // An existing file may be damaged: it is written again unless it is intact.
    if names.contains(&name) && read_workload(storage, hash).is_ok() {
        return Ok(());
    }
    let aside = format!("{name}{PART}");
    if names.contains(&aside) {
        storage.remove(&aside).map_err(failed("remove an unfinished copy of"))?;
    }
    let file = storage.create(&aside).map_err(failed("create"))?;
    let written = file.write_all_at(0, bytes).map_err(failed("write"));
    let written = written.and_then(|()| file.sync_data().map_err(failed("sync")));
    let named = written.and_then(|()| storage.rename(&aside, &name).map_err(failed("name")));
    if named.is_err() {
        drop(file);
        // A partial file would take the room that other files need.
        let _ = storage.remove(&aside);
        return named;
    }
    storage.sync_directory().map_err(failed("sync the directory of"))?;
    // The temporary file may have been removed or replaced.
    file.identity().and_then(|identity| storage.check_place(&name, &identity)).map_err(failed("check"))
}

/// Removes the file of a workload that no service runs any more.
pub(super) fn remove_workload(storage: &dyn Storage, catalog: &Catalog, hash: &WorkloadHash) -> Result<(), DataError> {
    if catalog.services()?.values().any(|entry| entry.workload == *hash) {
        return Ok(());
    }
    let name = workload_file(hash);
    match storage.remove(&name) {
        // The file was lost before.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(DataError::storage(format!("remove '{name}'"))(error)),
        Ok(()) => storage.sync_directory().map_err(DataError::storage("sync the data directory")),
    }
}

/// Reads a workload.
///
/// # Errors
/// [`DataError::WorkloadMissing`], [`DataError::WorkloadDamaged`], [`DataError::Storage`].
pub fn read_workload(storage: &dyn Storage, hash: &WorkloadHash) -> Result<Vec<u8>, DataError> {
    let (name, file, bytes) = open_workload(storage, hash)?;
    let mut content = vec![0; usize::try_from(bytes).expect("MODULE_BYTES_MAX fits")];
    file.read_exact_at(0, &mut content).map_err(|error| no_workload(&name, "read", error))?;
    if WorkloadHash::of(&content) != *hash {
        return Err(DataError::WorkloadDamaged { file: name });
    }
    Ok(content)
}

/// Returns the length of a stored workload, in bytes.
///
/// # Errors
/// The errors of [`read_workload`].
pub(crate) fn workload_bytes(storage: &dyn Storage, hash: &WorkloadHash) -> Result<u64, DataError> {
    open_workload(storage, hash).map(|(_, _, bytes)| bytes)
}

/// Opens a stored workload. Returns its name, its file and its length, which is at most the maximum.
fn open_workload(storage: &dyn Storage, hash: &WorkloadHash) -> Result<(String, Box<dyn StorageFile>, u64), DataError> {
    let name = workload_file(hash);
    let file = storage.open(&name).map_err(|error| no_workload(&name, "open", error))?;
    let bytes = file.bytes().map_err(|error| no_workload(&name, "read", error))?;
    if bytes > lifeboat_vm::workload::MODULE_BYTES_MAX {
        return Err(DataError::WorkloadDamaged { file: name });
    }
    Ok((name, file, bytes))
}

/// Returns the error for a stored workload that cannot be read from file `name`.
fn no_workload(name: &str, action: &str, error: io::Error) -> DataError {
    match error.kind() {
        io::ErrorKind::NotFound => DataError::WorkloadMissing { file: name.into() },
        io::ErrorKind::IsADirectory => DataError::NotAFile { file: name.into() },
        _ => DataError::storage(format!("{action} '{name}'"))(error),
    }
}

/// A guard that keeps a workload's file for a service that is not in the catalog yet.
#[derive(Debug)]
#[must_use]
pub struct KeptWorkload {
    pub(super) hash: WorkloadHash,
    pub(super) awaited: Arc<Mutex<BTreeMap<WorkloadHash, usize>>>,
}

impl Drop for KeptWorkload {
    fn drop(&mut self) {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = awaited.get_mut(&self.hash) {
            *count -= 1;
            if *count == 0 {
                awaited.remove(&self.hash);
            }
        }
    }
}
