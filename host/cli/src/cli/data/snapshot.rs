//! `lifeboat data snapshot`: writes a service's state to a portable file.

use super::super::{FindingError, UsageError, exit, output, with_need};
use super::directory::{Directory, graded, note_if_cut_off, runtime, scratch};
use clap::Args;
use lifeboat_api::name::Name;
use lifeboat_api::size::{Bytes, grouped};
use lifeboat_host::portable::{Portable, PortableError};
use lifeboat_vm::rehydrate::RehydrateError;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

const AFTER_HELP: &str = "\
The file contains the state, the workload and the settings, and no secret. `lifeboat data restore` creates a service
from it in any data directory. Nothing in the data directory is changed. For a quarantined service, the command writes
the state that can be trusted, standard error reports its last transaction, and the exit code is 1. If the workload is
missing, nothing is written.";

/// Arguments of `data snapshot`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Snapshot {
    #[command(flatten)]
    directory: Directory,
    /// The file to write; an existing file is not overwritten
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The service
    #[arg(value_name = "SERVICE")]
    service: Name,
}

impl Snapshot {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let locked = self.directory.open_read_only()?;
        let found = self.directory.find(&locked, &self.service)?;
        // The file is checked before the work, and again at the end.
        if self.out.symlink_metadata().is_ok() {
            let file = self.out.display().to_string().escape_debug().to_string();
            return Err(UsageError(PortableError::Exists { file }.to_string()).into());
        }
        let storage = &**locked.storage();
        let runtime = runtime()?;
        let (scratch, program) = scratch(&runtime, &self.directory, storage, &found)?;
        let state = runtime
            .block_on(scratch.state(storage, &program, &found, None))
            .map_err(|error| self.directory.no_state(&found.name, error))?;
        let (record, mut resume_point) = (state.record, state.resume_point.clone());
        resume_point.forgotten_id_time = found.newest_id_time(state.sequence);
        let exported = runtime.block_on(scratch.export(scratch.replay_context_of(&program, &found), state));
        let snapshot = exported.map_err(|error| match RehydrateError::from(error) {
            error if error.is_transient() => anyhow::Error::from(error),
            error => FindingError(format!("the state of '{}' cannot be exported: {error}", found.name)).into(),
        })?;
        let portable = Portable {
            service: found.name.clone(),
            record,
            resume_point,
            workload_hash: found.entry.workload,
            workload: lifeboat_host::data::read_workload(storage, &found.entry.workload).map_err(graded)?.into(),
            settings: found.entry.settings.clone(),
            snapshot,
        };
        portable.write(&self.out).map_err(|error| match error {
            // The error concerns the file that the command line names.
            PortableError::Exists { .. } => UsageError(error.to_string()).into(),
            error if error.is_no_room() => with_need(error, "the file", portable.bytes_min()),
            PortableError::Storage { action: "create", .. } => {
                UsageError(format!("{:#}; name a file in a writable directory", anyhow::Error::from(error))).into()
            }
            error => anyhow::Error::from(error),
        })?;
        let sequence = portable.snapshot.sequence();
        let is_cut_off = note_if_cut_off(&found, sequence);
        let _ = writeln!(
            io::stderr(),
            "{}: state after transaction {} ({}) written to '{}'",
            found.name,
            grouped(sequence.0),
            Bytes(portable.snapshot.state_bytes()),
            self.out.display().to_string().escape_debug(),
        );
        let doubts = found.doubts().len();
        if doubts > 0 {
            let noun = if doubts == 1 { "call" } else { "calls" };
            output::note(&format!(
                "{}: {doubts} {noun} in doubt, which the file does not have; settle what is in doubt first, or see to it \
                 that the copy does not make such calls again: lifeboat data doubts {} {} lists them",
                found.name,
                self.directory.option(),
                found.name
            ));
        }
        Ok(ExitCode::from(if is_cut_off { exit::SOME_NOT_OK } else { exit::OK }))
    }
}
