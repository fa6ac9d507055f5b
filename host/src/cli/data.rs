//! The data directory on the command line: `--data DIR`, and what goes wrong with it.

use super::{UsageError, random};
use anyhow::Context;
use lifeboat::data::{DataError, Locked};
use lifeboat::journal::frame::DirectoryId;
use lifeboat::storage::DiskStorage;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where services are kept.
#[derive(Debug, clap::Args)]
pub(crate) struct Data {
    /// The data directory; no host may have it open meanwhile
    #[arg(long = "data", value_name = "DIR", env = "LIFEBOAT_DATA")]
    directory: PathBuf,
}

impl Data {
    /// Takes the directory, which must be there.
    pub(crate) fn take(&self) -> anyhow::Result<Locked> {
        take(&self.directory, false)
    }
}

/// Takes a data directory; an empty one is made one if it `may_be_new`.
pub(crate) fn take(path: &Path, may_be_new: bool) -> anyhow::Result<Locked> {
    let named = || format!("'{}'", path.display().to_string().escape_debug());
    let storage = if may_be_new { DiskStorage::create(path) } else { DiskStorage::open(path) };
    let storage = storage.map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::NotFound if may_be_new => "its parent directory is not there".to_owned(),
            io::ErrorKind::NotFound => "there is no such directory".to_owned(),
            io::ErrorKind::NotADirectory => "it is no directory".to_owned(),
            _ => error.to_string(),
        };
        UsageError(format!("data directory {}: {why}", named()))
    })?;
    let mut new = None;
    if may_be_new {
        let bytes: [u8; 32] = random()?;
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[..16]);
        new = Some(DirectoryId(id));
    }
    match Locked::take(Arc::new(storage), new) {
        Ok(locked) => Ok(locked),
        // What the operator can put right by naming another directory.
        Err(error @ (DataError::InUse | DataError::NotOurs { .. } | DataError::Empty)) => {
            Err(UsageError(format!("data directory {}: {error}", named())).into())
        }
        Err(error) => Err(error).with_context(|| format!("data directory {}", named())),
    }
}
