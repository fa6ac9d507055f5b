//! `lifeboat remove`: removes a service of the server and its history for good.

use super::remote::with_server_or_data;
use super::{DATA_VARIABLE, UsageError, exit, output};
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
        // Earlier releases removed it from that directory.
        if std::env::var_os(DATA_VARIABLE).is_some_and(|directory| !directory.is_empty()) {
            return Err(UsageError(format!(
                "{DATA_VARIABLE} names a data directory, and lifeboat remove removes '{service}' from the server; run \
                 lifeboat data remove {service} for the directory, or unset {DATA_VARIABLE}"
            ))
            .into());
        }
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
