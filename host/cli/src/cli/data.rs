//! `lifeboat data`: the commands that work on a data directory while no host has it open.

mod accept_divergence;
mod directory;
mod disk;
mod doubts;
mod journal;
mod query;
mod remove;
mod restore;
mod services;
mod snapshot;
mod verify;

use clap::{Args, Subcommand};
pub(crate) use directory::{
    DATA_BYTES_MIN, accounts, check_users, completed, graded, look_as_server, memories_max, open, option,
};
pub(crate) use restore::sorted;
use std::process::ExitCode;

const AFTER_HELP: &str = "\
All commands but restore, remove, accept-divergence and doubts --settle leave the directory unchanged. The variable
LIFEBOAT_DATA names the directory if --data is omitted.";

/// Arguments of `data`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Data {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the services of a data directory.
    Services(services::Services),
    /// Show the history of a service, one record per line.
    Journal(journal::Journal),
    /// Check a data directory, replay its services, and compare every answer and every snapshot.
    Verify(verify::Verify),
    /// Query a service, as it is or as it was after a transaction; nothing is changed.
    Query(query::Query),
    /// Show or copy the files of a service, as they are or as they were after a transaction.
    Disk(disk::OfDisk),
    /// List the calls in doubt of a service, or settle one.
    Doubts(doubts::Doubts),
    /// Write the state of a service, with its workload and settings, to a file that may leave the machine.
    Snapshot(snapshot::Snapshot),
    /// Create a service from a file that `lifeboat data snapshot` wrote.
    Restore(restore::Restore),
    /// Remove a service and its history permanently.
    Remove(remove::Remove),
    /// Let a service continue whose replay differs from its journal.
    AcceptDivergence(accept_divergence::AcceptDivergence),
}

impl Data {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Services(services) => services.execute(),
            Command::Journal(journal) => journal.execute(),
            Command::Verify(verify) => verify.execute(),
            Command::Query(query) => query.execute(),
            Command::Disk(disk) => disk.execute(),
            Command::Doubts(doubts) => doubts.execute(),
            Command::Snapshot(snapshot) => snapshot.execute(),
            Command::Restore(restore) => restore.execute(),
            Command::Remove(remove) => remove.execute(),
            Command::AcceptDivergence(accept) => accept.execute(),
        }
    }
}
