//! `lifeboat deploy`: creates a service of the server from a workload.

use super::arguments::NetworkArguments;
use super::pack::{Dir, pack};
use super::remote::with_server;
use super::run::program::{Variable, environment};
use super::services::service_line;
use super::{arguments, exit, output, read_workload};
use clap::Args;
use lifeboat_api::http::Deployment;
use lifeboat_api::name::Name;
use lifeboat_api::sla::FailoverMode;
use lifeboat_api::text::Printable;
use lifeboat_client::ClientError;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `deploy`.
#[derive(Debug, Args)]
pub(crate) struct Deploy {
    /// The size of the first VM [default: that of the server's configuration]
    #[arg(long, value_name = "NAME")]
    size: Option<String>,
    /// Fuel in a full tank, instead of the size's [about one unit for each Wasm instruction]
    #[arg(long, value_name = "N", value_parser = arguments::fuel, allow_negative_numbers = true)]
    fuel: Option<u64>,
    /// How the service fails over: direct, shadow or auto
    #[arg(long, value_name = "MODE")]
    failover: Option<FailoverMode>,
    #[command(flatten)]
    network: NetworkArguments,
    /// Begin with the files of this directory, as GUEST on the virtual disk [default: the same path]; repeatable. They
    /// may take up to 256 MiB, and must fit the disk of the size
    #[arg(long = "dir", value_name = "HOST[::GUEST]")]
    dirs: Vec<Dir>,
    /// An argument of a program; repeatable, in their order
    #[arg(long = "arg", value_name = "TEXT", allow_hyphen_values = true)]
    arguments: Vec<String>,
    /// A variable of a program's environment; without a value, that of this command; repeatable
    #[arg(long = "env", value_name = "NAME[=VALUE]")]
    environment: Vec<Variable>,
    /// Print the service as JSON
    #[arg(long)]
    json: bool,
    /// The service's name
    #[arg(value_name = "SERVICE")]
    service: Name,
    /// The workload: a component, a core module, or either as text
    #[arg(value_name = "WORKLOAD")]
    workload: PathBuf,
}

impl Deploy {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let workload = read_workload(&self.workload)?;
        // Its bounds are reported before the workload is sent.
        self.network.settings()?;
        let (allow_net, retry) = self.network.parameters();
        let failover = self.failover.map(|mode| mode.to_string());
        let environment: BTreeMap<String, String> = environment(&self.environment)?.into_iter().collect();
        let arguments = (!self.arguments.is_empty()).then(|| serde_json::to_string(&self.arguments)).transpose()?;
        let environment = (!environment.is_empty()).then(|| serde_json::to_string(&environment)).transpose()?;
        let deployment =
            Deployment { size: self.size, fuel: self.fuel, failover, allow_net, retry, arguments, environment };
        with_server(async |client| {
            let deployed = match self.dirs.is_empty() {
                true => client.deploy(&self.service, workload.into(), &deployment).await,
                false => client.deploy_archive(&self.service, pack(&workload, &self.dirs)?.into(), &deployment).await,
            };
            let service = deployed.map_err(|error| about_file(error, &self.service, &self.workload))?;
            output::print(self.json, &service, || service_line(&service))?;
            if let Some(warning) = &service.warning {
                output::note(&warning_line(&self.service, warning));
            }
            Ok(())
        })?;
        Ok(ExitCode::from(exit::OK))
    }
}

/// Returns one line about what the trial of a new service's state found.
fn warning_line(service: &Name, warning: &str) -> String {
    format!(
        "lifeboat: warning: '{service}' runs, but {}; find the cause with lifeboat check before it fails over",
        Printable(warning)
    )
}

/// Rewords an error about the workload to name its file. The server knows the workload by the service's name.
fn about_file(error: ClientError, service: &Name, file: &Path) -> ClientError {
    match error {
        ClientError::Problem { status, code, detail, retry_after, outcome } if code == "workload_refused" => {
            let named = format!("`{service}`");
            let shown = format!("`{}`", file.display().to_string().escape_debug());
            let detail = match detail.strip_prefix(&named) {
                Some(rest) => shown + rest,
                None => detail,
            };
            ClientError::Problem { status, code, detail, retry_after, outcome }
        }
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_one_line_with_a_remedy() {
        let service = Name::new("bank").expect("a name");
        let line = warning_line(&service, "a trial of its state failed: no\u{1b}[2J\nthanks");
        let expected = "lifeboat: warning: 'bank' runs, but a trial of its state failed: no\\u{1b}[2J\\nthanks; find \
                        the cause with lifeboat check before it fails over";
        assert_eq!(line, expected);
    }
}
