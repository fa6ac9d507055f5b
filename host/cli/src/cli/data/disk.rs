//! `lifeboat data disk`: lists, prints and copies the files of a service, as they are or were after a transaction.

use super::super::disk::{Command, Files, Source};
use super::super::{UsageError, arguments};
use super::directory::{Directory, note_if_cut_off, runtime, scratch};
use clap::Args;
use lifeboat_api::http::DiskListing;
use lifeboat_api::id::Sequence;
use lifeboat_api::name::Name;
use lifeboat_client::FilePart;
use lifeboat_disk::{Disk, Error};
use lifeboat_host::files::{self, Part};
use std::process::ExitCode;

const AFTER_HELP: &str = "\
A scratch VM restores the disk from the newest earlier snapshot and the transactions since. Nothing is changed.";

/// Arguments of `data disk`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct OfDisk {
    #[command(subcommand)]
    command: Command<State>,
}

impl OfDisk {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        self.command.execute()
    }
}

/// Whose disk, and when.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
struct State {
    #[command(flatten)]
    directory: Directory,
    /// Show the disk after transaction SEQ [default: the last one]
    #[arg(long, value_name = "SEQ", value_parser = arguments::whole, allow_negative_numbers = true)]
    at: Option<u64>,
    /// The service
    #[arg(value_name = "SERVICE")]
    service: Name,
}

impl Source for State {
    fn service(&self) -> &Name {
        &self.service
    }

    fn with_files<T>(&self, work: impl FnOnce(&mut dyn Files) -> anyhow::Result<T>) -> anyhow::Result<(T, bool)> {
        let locked = self.directory.open_read_only()?;
        let found = self.directory.find(&locked, &self.service)?;
        let storage = &**locked.storage();
        let runtime = runtime()?;
        let (scratch, program) = scratch(&runtime, &self.directory, storage, &found)?;
        let state = runtime
            .block_on(scratch.state(storage, &program, &found, self.at.map(Sequence)))
            .map_err(|error| self.directory.no_state(&found.name, error))?;
        // A user who named the transaction knows which state this is.
        let is_cut_off = self.at.is_none() && note_if_cut_off(&found, state.sequence);
        let mut files = Restored { state: self, disk: state.disk().clone(), sequence: state.sequence };
        Ok((work(&mut files)?, is_cut_off))
    }
}

/// The disk that a scratch VM has restored.
struct Restored<'a> {
    state: &'a State,
    disk: Disk,
    sequence: Sequence,
}

impl Restored<'_> {
    fn wrong(&self, path: &str, error: Error) -> anyhow::Error {
        let path = arguments::shown(path);
        let reason = match error {
            Error::NoEntry => "there is no such file or directory, or a link leads to none".to_owned(),
            Error::IsDirectory => "it is a directory; name a file in it".to_owned(),
            error => error.to_string(),
        };
        let State { directory, service, at } = self.state;
        let at = at.map_or(String::new(), |at| format!(" --at {at}"));
        let list = format!("lifeboat data disk ls {}{at} {service}", directory.option());
        UsageError(format!("{path} on the disk of '{service}': {reason}; {list} lists what is there")).into()
    }
}

impl Files for Restored<'_> {
    fn list(&mut self, path: &str, after: Option<&str>) -> anyhow::Result<DiskListing> {
        files::list(&mut self.disk, path, after, self.sequence).map_err(|error| self.wrong(path, error))
    }

    fn read(&mut self, path: &str, offset: u64, _version: Option<&str>) -> anyhow::Result<FilePart> {
        let Part { bytes, file_bytes, version } =
            files::read(&mut self.disk, path, offset).map_err(|error| self.wrong(path, error))?;
        Ok(FilePart { sequence: self.sequence.0, file_bytes, version, bytes: bytes.into() })
    }
}
