//! `lifeboat remove`: removes a service of the server and its history for good.

use super::remote::with_server_or_data;
use super::{UsageError, exit, output};
use clap::Args;
use lifeboat_api::name::Name;
use lifeboat_api::size::grouped;
use serde_json::json;
use std::process::ExitCode;

const AFTER_HELP: &str = "\
Without --yes nothing is changed: standard error says what would be lost, and the exit code is 2. `lifeboat data remove`
removes a service of a data directory.";

/// Arguments of `remove`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Remove {
    /// Really remove it
    #[arg(long)]
    yes: bool,
    /// Print what was removed as JSON
    #[arg(long)]
    json: bool,
    /// The service
    #[arg(value_name = "SERVICE")]
    service: Name,
}

impl Remove {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let service = &self.service;
        with_server_or_data("remove", async |client| {
            if !self.yes {
                let found = client.service(service).await?;
                let last = found.vm.map_or("all".into(), |vm| grouped(vm.sequence));
                let text = format!(
                    "'{service}' would be removed from the server for good: its state, the history of {last} transactions; \
                     add --yes to do it"
                );
                return Err(UsageError(text).into());
            }
            client.remove(service).await?;
            if self.json {
                return output::print(true, &json!({ "removed": service }), String::new);
            }
            output::note(&format!("{service}: removed"));
            Ok(())
        })?;
        Ok(ExitCode::from(exit::OK))
    }
}
