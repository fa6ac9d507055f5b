//! `lifeboat disk`: the files of a service of the server.

use super::super::UsageError;
use super::super::remote::{Waiting, with_server_or_data};
use super::{Command, Files, Source};
use clap::Args;
use lifeboat_api::http::DiskListing;
use lifeboat_api::name::Name;
use lifeboat_client::{Backoff, Client, ClientError, FilePart};
use std::process::ExitCode;
use tokio::runtime::Runtime;

const AFTER_HELP: &str = "\
The command shows the files after the last transaction, to a user with the grant `observe`. `lifeboat data disk` shows
those of a data directory, also after an earlier transaction.";

/// Arguments of `disk`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct OfDisk {
    #[command(subcommand)]
    command: Command<OfServer>,
}

impl OfDisk {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        self.command.execute()
    }
}

/// Whose disk.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
struct OfServer {
    #[command(flatten)]
    waiting: Waiting,
    /// An option of `lifeboat data disk`
    #[arg(long, hide = true, allow_hyphen_values = true)]
    at: Option<String>,
    /// The service
    #[arg(value_name = "SERVICE")]
    service: Name,
}

impl Source for OfServer {
    fn service(&self) -> &Name {
        &self.service
    }

    fn with_files<T>(&self, work: impl FnOnce(&mut dyn Files) -> anyhow::Result<T>) -> anyhow::Result<(T, bool)> {
        if self.at.is_some() {
            let text = "--at is an option for a data directory: use it with lifeboat data disk --data DIR; a server \
                        shows its present state";
            return Err(UsageError(text.into()).into());
        }
        let backoff = self.waiting.backoff(false);
        let client = with_server_or_data("disk ls", async |client| Ok(client.with_patience(backoff)))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok((work(&mut Remote { service: &self.service, client, backoff, runtime })?, false))
    }
}

/// The disk of a service of the server.
struct Remote<'a> {
    service: &'a Name,
    client: Client,
    backoff: Backoff,
    runtime: Runtime,
}

impl Remote<'_> {
    fn ask<T>(&self, ask: impl AsyncFn() -> Result<T, ClientError>) -> anyhow::Result<T> {
        Ok(self.runtime.block_on(self.client.ask_until_answered(ask, &self.backoff))?)
    }
}

impl Files for Remote<'_> {
    fn list(&mut self, path: &str, after: Option<&str>) -> anyhow::Result<DiskListing> {
        self.ask(async || self.client.list_disk(self.service, path, after).await)
    }

    fn read(&mut self, path: &str, offset: u64, version: Option<&str>) -> anyhow::Result<FilePart> {
        self.ask(async || self.client.read_disk(self.service, path, offset, version).await)
    }
}
