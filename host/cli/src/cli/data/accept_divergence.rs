//! `lifeboat data accept-divergence`: lets a service continue after a divergence that an operator accepts.

use super::super::{UsageError, arguments, exit};
use super::directory::{Directory, runtime, scratch};
use anyhow::Context;
use clap::Args;
use lifeboat_api::id::Sequence;
use lifeboat_api::name::Name;
use lifeboat_host::scratch::StateError;
use lifeboat_vm::rehydrate::RehydrateError;
use std::io::{self, Write};
use std::process::ExitCode;

const AFTER_HELP: &str = "\
A service whose replay ends differently from its journal is not started: its workload is not deterministic, and clients
got answers that its state does not match. After this command, the next start continues with the state of the replay.
The answers that clients got stay in the journal, and repetitions of their ids get them again.";

/// Arguments of `data accept-divergence`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct AcceptDivergence {
    #[command(flatten)]
    directory: Directory,
    /// The transaction whose replay may end differently
    #[arg(
        long,
        value_name = "SEQ",
        value_parser = arguments::whole,
        allow_negative_numbers = true
    )]
    at: u64,
    /// The service
    #[arg(value_name = "SERVICE")]
    service: Name,
}

impl AcceptDivergence {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let locked = self.directory.open()?;
        let mut found = self.directory.find(&locked, &self.service)?;
        let (name, accepted) = (found.name.clone(), Sequence(self.at));
        if let Err(reason) = &found.standing {
            let text =
                format!("service '{name}' is quarantined: {reason}: accepting a divergence does not repair that");
            return Err(UsageError(text).into());
        }
        let storage = &**locked.storage();
        let runtime = runtime()?;
        let (scratch, program) = scratch(&runtime, &self.directory, storage, &found)?;
        match runtime.block_on(scratch.state(storage, &program, &found, None)) {
            Err(StateError::Rehydrate(RehydrateError::Diverged { sequence, recorded, replayed, .. }))
                if sequence == accepted =>
            {
                found.entry.accepted_divergences.insert(accepted);
                let put = locked.catalog().put_service(&name, &found.entry);
                put.with_context(|| format!("cannot change service '{name}'"))?;
                let _ = writeln!(
                    io::stderr(),
                    "{name}: accepted: transaction {accepted} was {recorded} and is {replayed}; the next start \
                     continues with that"
                );
            }
            Err(StateError::Rehydrate(RehydrateError::Diverged { sequence, .. })) => {
                let text = format!(
                    "service '{name}' does not diverge first at {accepted}, but at sequence {sequence}: use --at {sequence}"
                );
                return Err(UsageError(text).into());
            }
            Ok(state) => {
                let text = format!(
                    "service '{name}' does not diverge: its replay gives what was recorded, up to transaction {}; \
                     there is nothing to accept",
                    state.sequence
                );
                return Err(UsageError(text).into());
            }
            Err(error) => return Err(self.directory.no_state(&name, error)),
        }
        match runtime.block_on(scratch.state(storage, &program, &found, None)) {
            Ok(state) => {
                let _ = writeln!(io::stderr(), "{name}: the replay reaches its end, transaction {}", state.sequence);
                Ok(ExitCode::from(exit::OK))
            }
            Err(error) => {
                Err(self.directory.no_state(&name, error).context(format!("service '{name}' will still not start")))
            }
        }
    }
}
