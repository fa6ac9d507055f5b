//! `lifeboat failover`, `stop` and `start`: what an operator does to a service of the server.

use super::exit;
use super::remote::{self, is_well, service_line, with_server};
use clap::Args;
use lifeboat::api::Standing;
use lifeboat::name::Name;
use std::process::ExitCode;

/// Arguments of each of them.
#[derive(Debug, Args)]
pub(crate) struct Operate {
    /// Print the service, as it is then, as JSON
    #[arg(long)]
    json: bool,
    /// The service
    #[arg(value_name = "SERVICE")]
    service: Name,
}

/// What is done.
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
            remote::print(self.json, &service, || service_line(&service))?;
            // One that cannot serve does not become one that an operator stopped.
            let is_stopped = service.standing == Standing::Stopped;
            Ok(if matches!(operation, Operation::Stop) { is_stopped } else { is_well(&service) })
        })?;
        Ok(ExitCode::from(if is_done { exit::OK } else { exit::SOME_NOT_OK }))
    }
}
