//! `lifeboat remove`: removes a service of the server and its history for good.

use super::remote::with_server_or_data;
use super::{DATA_VARIABLE, UsageError, exit, output, variable};
use clap::Args;
use lifeboat_api::name::Name;
use lifeboat_api::size::grouped;
use serde_json::json;
use std::process::ExitCode;

const AFTER_HELP: &str = "\
Without --yes nothing is changed: standard error reports what would be lost, and the exit code is 2. `lifeboat data
remove` removes a service of a data directory.";

/// The service to remove, of a server or of a data directory.
#[derive(Debug, Args)]
pub(crate) struct Removal {
    /// Remove the service; without this option, nothing is changed
    #[arg(long)]
    pub(crate) yes: bool,
    /// Print what was removed as JSON
    #[arg(long)]
    json: bool,
    /// The service
    #[arg(value_name = "SERVICE")]
    pub(crate) service: Name,
}

impl Removal {
    /// Returns the error of a removal without `--yes`: `what` would be lost. `from` names the place that loses it.
    pub(crate) fn unconfirmed(&self, from: &str, what: &str) -> anyhow::Error {
        UsageError(format!("'{}' would be removed{from} permanently: {what}; add --yes to remove it", self.service))
            .into()
    }

    /// Reports that the service was removed, with `more` for people.
    pub(crate) fn report(&self, more: &str) -> anyhow::Result<()> {
        if self.json {
            return output::print(true, &json!({ "removed": self.service }), String::new);
        }
        output::note(&format!("{}: removed{more}", self.service));
        Ok(())
    }
}

/// Arguments of `remove`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Remove {
    #[command(flatten)]
    removal: Removal,
}

impl Remove {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let service = &self.removal.service;
        // Earlier releases removed it from that directory.
        if variable(DATA_VARIABLE).is_some() {
            return Err(UsageError(format!(
                "{DATA_VARIABLE} names a data directory, but lifeboat remove removes '{service}' from the server; run \
                 lifeboat data remove {service} for the directory, or unset {DATA_VARIABLE}"
            ))
            .into());
        }
        with_server_or_data("remove", async |client| {
            if !self.removal.yes {
                let found = client.service(service).await?;
                let last = found.vm.map_or("all".into(), |vm| grouped(vm.sequence));
                let what = format!("its state, the history of {last} transactions");
                return Err(self.removal.unconfirmed(" from the server", &what));
            }
            client.remove(service).await?;
            self.removal.report("")
        })?;
        Ok(ExitCode::from(exit::OK))
    }
}
