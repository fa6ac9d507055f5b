//! `lifeboat data remove`: removes a service and its history for good.

use super::super::exit;
use super::super::remove::Removal;
use super::directory::Directory;
use anyhow::Context;
use clap::Args;
use lifeboat_api::size::{Bytes, grouped};
use std::process::ExitCode;

const AFTER_HELP: &str = "\
Without --yes nothing is changed: standard error reports what would be lost, and the exit code is 2. A quarantined
service is removed as well; its part of the journal is then reclaimed from the next start on. To retain a copy, run
`lifeboat data snapshot` first.";

/// Arguments of `data remove`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Remove {
    #[command(flatten)]
    directory: Directory,
    #[command(flatten)]
    removal: Removal,
}

impl Remove {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let name = &self.removal.service;
        let locked = self.directory.open()?;
        let cannot_read = "cannot read the data directory";
        let is_known = locked.catalog().service(name).context(cannot_read)?.is_some();
        let orphan = if is_known { None } else { locked.orphan(name).context(cannot_read)? };
        if !is_known && orphan.is_none() && !locked.has_any_of(name).context(cannot_read)? {
            return Err(self.directory.no_service(name, &[]));
        }
        if !self.removal.yes {
            let what = if is_known {
                let found = self.directory.find(&locked, name)?;
                let (last, bytes) = (found.last_transaction(), Bytes(found.journal_bytes));
                format!("its state after transaction {}, and its history, {bytes} in the journal", grouped(last.0))
            } else if let Some(orphan) = orphan {
                format!("all that is left of it, because catalog.redb does not contain it: there {}", orphan.found())
            } else {
                "the remains of an earlier removal".into()
            };
            return Err(self.removal.unconfirmed("", &what));
        }
        locked.remove_service(name).with_context(|| format!("cannot remove service '{name}'"))?;
        self.removal.report("; its part of the journal is reclaimed from the next start on")?;
        Ok(ExitCode::from(exit::OK))
    }
}
