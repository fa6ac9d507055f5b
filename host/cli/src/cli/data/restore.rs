//! `lifeboat data restore`: creates a service from a portable file.

use super::super::arguments::NetworkArguments;
use super::super::{FindingError, UsageError, code_cache, exit, output, random, random_epoch, with_need};
use super::directory::{Directory, graded, runtime};
use anyhow::Context;
use clap::Args;
use lifeboat_api::clock::{Clock, SystemClock};
use lifeboat_api::name::Name;
use lifeboat_api::size::grouped;
use lifeboat_host::data::{DataError, DataOptions, findings};
use lifeboat_host::portable::{NewIdentity, Portable, PortableError};
use lifeboat_host::scratch::Scratch;
use lifeboat_host::snapshot_file::SnapshotFileError;
use lifeboat_vm::engine::load;
use lifeboat_vm::rehydrate::RehydrateError;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

const AFTER_HELP: &str = "\
A scratch VM restores the state first, and nothing is written if that fails. The service continues with the transaction
after the snapshot's last, in VM 1 of its settings' first size. It has its own random numbers. It does not recognise ids
that the other service answered: it refuses those with an earlier time, and executes the others. It calls nobody, even
if the other service did, unless --allow-net names the addresses.";

/// Arguments of `data restore`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Restore {
    #[command(flatten)]
    directory: Directory,
    /// The name of the new service
    #[arg(long, value_name = "NEW")]
    name: Name,
    #[command(flatten)]
    network: NetworkArguments,
    /// The file that `lifeboat data snapshot` wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Restore {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let network = self.network.settings()?;
        let portable = Portable::read(&self.file).map_err(sorted)?;
        let secret = random()?;
        self.prove(&portable, &secret)?;
        let locked = self.directory.open_or_create()?;
        if locked.catalog().service(&self.name)?.is_some() {
            return Err(UsageError(DataError::Exists { service: self.name }.to_string()).into());
        }
        let (directory, contents) = locked
            .open_journal(&DataOptions::default())
            .map_err(graded)
            .context("cannot continue with the data directory")?;
        for event in findings(&contents) {
            let _ = writeln!(io::stderr(), "{event}");
        }
        let (name, epoch, timestamp) = (self.name.clone(), random_epoch()?, SystemClock.now());
        let new = NewIdentity { name, secret, epoch, timestamp, network };
        let restored = portable.restore(&directory, new);
        // The directory is closed cleanly even if the restore failed, so that the next start finds the other services
        // unchanged.
        let closed = directory.close();
        restored
            .map_err(|error| with_need(graded(error), "its state with its workload", portable.bytes_min()))
            .with_context(|| format!("cannot restore service '{}' with {}", self.name, self.directory.option()))?;
        closed.context("the data directory was not closed cleanly")?;
        let text = format!(
            "{}: restored after transaction {} of '{}'; continue with lifeboat run {} --service {}\n",
            self.name,
            grouped(portable.snapshot.sequence().0),
            portable.service,
            self.directory.option(),
            self.name,
        );
        let _ = io::stderr().write_all(output::fitting_error(text).as_bytes());
        Ok(ExitCode::from(exit::OK))
    }

    /// Proves that a scratch VM can restore the state.
    fn prove(&self, portable: &Portable, secret: &[u8; 32]) -> anyhow::Result<()> {
        let name = self.file.display().to_string();
        let workload = load(&name, &portable.workload)?;
        let runtime = runtime()?;
        // The directory may not exist yet.
        let code_cache = code_cache::of_user()?;
        let scratch = Scratch::with_memories(workload.footprint.memories, &portable.settings.sizes, code_cache)?;
        let program = runtime.block_on(scratch.compile(workload))?;
        let accepted = BTreeSet::new();
        let replay_context = scratch.replay_context(&program, secret, &accepted);
        runtime.block_on(scratch.prove(replay_context, &portable.snapshot)).map_err(|error| match RehydrateError::from(
            error,
        ) {
            error if error.is_transient() => anyhow::Error::from(error),
            error => FindingError(format!("{}: cannot be restored: {error}", name.escape_debug())).into(),
        })
    }
}

/// Converts the error of a portable file to the type that determines its exit code.
pub(crate) fn sorted(error: PortableError) -> anyhow::Error {
    match error {
        // The error concerns the file that the command line names.
        PortableError::Storage { .. } => {
            UsageError(format!("{:#}; name a file that lifeboat data snapshot wrote", anyhow::Error::from(error)))
                .into()
        }
        PortableError::NotPortable { .. } | PortableError::File(SnapshotFileError::NotASnapshot { .. }) => {
            UsageError(format!("{error}; name a file that lifeboat data snapshot wrote")).into()
        }
        PortableError::File(SnapshotFileError::Storage { .. }) => error.into(),
        error if error.is_damage() => FindingError(format!(
            "{error}; copy the file again from its source, or write a new one with lifeboat data snapshot"
        ))
        .into(),
        error => FindingError(error.to_string()).into(),
    }
}
