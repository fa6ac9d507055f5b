//! `lifeboat failover`, `stop`, `start` and `drop`: the operations of an operator on a service of the server.

use super::remote::with_server;
use super::services::{is_well, service_line};
use super::{exit, output};
use clap::Args;
use lifeboat_api::http::{DropReply, ServiceState};
use lifeboat_api::name::Name;
use lifeboat_api::size::grouped;
use std::process::ExitCode;

/// Arguments of each of them.
#[derive(Debug, Args)]
pub(crate) struct Operate {
    /// Print the resulting state of the service as JSON
    #[arg(long)]
    json: bool,
    /// The service
    #[arg(value_name = "SERVICE")]
    service: Name,
}

/// Arguments of `drop`.
#[derive(Debug, Args)]
pub(crate) struct Drop {
    /// Print `{"dropped": N}`
    #[arg(long)]
    json: bool,
    /// The user whose requests are dropped: they are denied, and not executed
    #[arg(long, value_name = "NAME")]
    user: Name,
    /// Drop only the requests with this id
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// The service
    #[arg(value_name = "SERVICE")]
    service: Name,
}

impl Drop {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        with_server(async |client| {
            let dropped = client.drop_queued(&self.service, &self.user, self.id.as_deref()).await?;
            let line = || {
                let noun = if dropped == 1 { "request" } else { "requests" };
                format!("{}: {} {noun} of '{}' dropped", self.service, grouped(dropped as u64), self.user)
            };
            output::print(self.json, &DropReply { dropped }, line)
        })?;
        Ok(ExitCode::from(exit::OK))
    }
}

/// The operation on the service.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Operation {
    Failover,
    Stop,
    Start,
}

impl Operate {
    pub(crate) fn execute(self, operation: Operation) -> anyhow::Result<ExitCode> {
        let is_done = with_server(async |client| {
            let service = match operation {
                Operation::Failover => client.fail_over(&self.service).await?,
                Operation::Stop => client.stop(&self.service).await?,
                Operation::Start => client.start(&self.service).await?,
            };
            output::print(self.json, &service, || service_line(&service))?;
            // A service that cannot serve does not become one that an operator stopped.
            let is_stopped = service.state == ServiceState::Stopped;
            Ok(if matches!(operation, Operation::Stop) { is_stopped } else { is_well(&service) })
        })?;
        Ok(ExitCode::from(if is_done { exit::OK } else { exit::SOME_NOT_OK }))
    }
}
