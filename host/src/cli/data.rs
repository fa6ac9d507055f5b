//! The data directory on the command line: `--data DIR`, and what goes wrong with it.

use super::{FindingError, UsageError, random};
use anyhow::Context;
use lifeboat::data::{DataError, FoundService, Locked};
use lifeboat::engine::Program;
use lifeboat::journal::frame::DirectoryId;
use lifeboat::name::Name;
use lifeboat::scratch::{ProgramError, Scratch, StateError};
use lifeboat::storage::{DiskStorage, Storage};
use lifeboat::transaction::Sequence;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Runtime;

/// Where services are kept.
#[derive(Debug, clap::Args)]
pub(crate) struct Data {
    /// The data directory; no host may have it open meanwhile
    #[arg(long = "data", value_name = "DIR", env = "LIFEBOAT_DATA")]
    directory: PathBuf,
}

impl Data {
    /// Takes the directory, which must be there, to look at it.
    pub(crate) fn look(&self) -> anyhow::Result<Locked> {
        taken(&self.directory, Locked::look(storage(&self.directory, false)?))
    }

    /// Takes the directory, which must be there, to change it.
    pub(crate) fn take(&self) -> anyhow::Result<Locked> {
        take(&self.directory, false)
    }

    /// Takes the directory, which is made one if it is missing or empty.
    pub(crate) fn take_or_create(&self) -> anyhow::Result<Locked> {
        take(&self.directory, true)
    }

    /// The option as it is to be given again.
    pub(crate) fn option(&self) -> String {
        format!("--data {}", self.directory.display().to_string().escape_debug())
    }
}

/// The service of this name, with all that the journal has of it.
pub(crate) fn find(locked: &Locked, service: &Name) -> anyhow::Result<FoundService> {
    let contents = locked.read(Some(service)).context("cannot read the data directory")?;
    let found = contents.services.into_iter().find(|found| found.name == *service);
    found.ok_or_else(|| UsageError(DataError::NoService { service: service.clone() }.to_string()).into())
}

/// An engine for one service, with its program.
pub(crate) fn scratch(
    runtime: &Runtime,
    storage: &dyn Storage,
    found: &FoundService,
) -> anyhow::Result<(Scratch, Arc<Program>)> {
    let scratch = Scratch::new(&found.entry.settings.sizes)?;
    let program = runtime.block_on(scratch.program(storage, &found.entry.workload));
    let program = program.map_err(|error| match error {
        ProgramError::Data(error @ DataError::WorkloadDamaged { .. }) => FindingError(error.to_string()).into(),
        error => anyhow::Error::from(error),
    });
    Ok((scratch, program.with_context(|| format!("cannot run service '{}'", found.name))?))
}

/// A runtime for guests that nothing else waits for.
pub(crate) fn runtime() -> anyhow::Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_time().build()?)
}

/// The error that says which exit code it means.
pub(crate) fn sorted(error: StateError) -> anyhow::Error {
    match error {
        StateError::OutOfRange { .. } => UsageError(error.to_string()).into(),
        StateError::Nothing { .. } => FindingError(error.to_string()).into(),
        StateError::Rehydrate(ref failure) if !failure.is_transient() => FindingError(error.to_string()).into(),
        error => error.into(),
    }
}

/// Says that a service has lost something after `sequence`, if it has; then the exit code is not 0.
pub(crate) fn tell_if_cut_off(found: &FoundService, sequence: Sequence) -> bool {
    let Err(reason) = &found.standing else { return false };
    let name = &found.name;
    let _ = writeln!(
        io::stderr(),
        "lifeboat: service '{name}' is quarantined: {reason}; this is what can be trusted of it: its state after \
         transaction {sequence}. Later ones are missing"
    );
    true
}

/// Takes a data directory; an empty one is made one if it `may_be_new`.
pub(crate) fn take(path: &Path, may_be_new: bool) -> anyhow::Result<Locked> {
    let storage = storage(path, may_be_new)?;
    let mut new = None;
    if may_be_new {
        let bytes: [u8; 32] = random()?;
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[..16]);
        new = Some(DirectoryId(id));
    }
    taken(path, Locked::take(storage, new))
}

fn storage(path: &Path, may_be_new: bool) -> anyhow::Result<Arc<DiskStorage>> {
    let storage = if may_be_new { DiskStorage::create(path) } else { DiskStorage::open(path) };
    let storage = storage.map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::NotFound if may_be_new => "its parent directory is not there".to_owned(),
            io::ErrorKind::NotFound => "there is no such directory".to_owned(),
            io::ErrorKind::NotADirectory => "it is no directory".to_owned(),
            _ => error.to_string(),
        };
        UsageError(format!("data directory {}: {why}", named(path)))
    })?;
    Ok(Arc::new(storage))
}

/// The directory, or the error that says which exit code it means.
fn taken(path: &Path, taken: Result<Locked, DataError>) -> anyhow::Result<Locked> {
    match taken {
        Ok(locked) => Ok(locked),
        // What the operator can put right by naming another directory.
        Err(error @ (DataError::InUse | DataError::NotOurs { .. } | DataError::Empty)) => {
            Err(UsageError(format!("data directory {}: {error}", named(path))).into())
        }
        Err(error) => Err(error).with_context(|| format!("data directory {}", named(path))),
    }
}

fn named(path: &Path) -> String {
    format!("'{}'", path.display().to_string().escape_debug())
}
