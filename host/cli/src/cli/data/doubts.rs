//! `lifeboat data doubts`: the calls in doubt of a service of a data directory.

use super::super::doubts::{Call, Known, OfDoubts};
use super::super::on_disk::{Beside, bring_up};
use super::super::{UsageError, exit, output, random, random_epoch};
use super::directory::{Directory, note_if_cut_off};
use anyhow::Context;
use clap::Args;
use lifeboat_api::access::Grant;
use lifeboat_api::call::CallResponse;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::event::Event;
use lifeboat_api::http::Doubt;
use lifeboat_api::name::Name;
use lifeboat_api::text::Printable;
use lifeboat_host::auth::Identity;
use lifeboat_host::host::Host;
use lifeboat_host::service::{self, SettleError, Settlement};
use std::process::ExitCode;
use std::sync::Arc;

const AFTER_HELP: &str = "\
A call is in doubt if its host stopped after it began the call and before it recorded the outcome, or if the call was
made and its response was too large to be kept. The list changes nothing. With --settle, the command starts the services of the directory, settles the call, and stops them again.";

/// Arguments of `data doubts`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Doubts {
    #[command(flatten)]
    directory: Directory,
    #[command(flatten)]
    of: OfDoubts,
}

impl Doubts {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let (doubts, is_damaged) = match &self.of.settle {
            None => {
                let locked = self.directory.open_read_only()?;
                let found = self.directory.find(&locked, &self.of.service)?;
                (found.doubts(), note_if_cut_off(&found, found.last_transaction()))
            }
            Some(call) => {
                let settlement = match self.of.known()? {
                    None => Settlement::NotSent,
                    Some(Known { status, body }) => Settlement::Answered(CallResponse {
                        status,
                        headers: Vec::new(),
                        body: body.into(),
                        trailers: Vec::new(),
                    }),
                };
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(self.settle(call.clone(), settlement))?
            }
        };
        let doubts: Vec<Doubt> = doubts.into_iter().map(Into::into).collect();
        self.of.print(&doubts)?;
        Ok(ExitCode::from(if is_damaged { exit::SOME_NOT_OK } else { exit::OK }))
    }

    /// Settles a call. Returns the calls that are still in doubt, and whether the journal is damaged.
    async fn settle(&self, call: Call, settlement: Settlement) -> anyhow::Result<(Vec<service::Doubt>, bool)> {
        let service = &self.of.service;
        // A mistake changes nothing.
        let doubts = self.directory.find(&self.directory.open_read_only()?, service)?.doubts();
        if !doubts.iter().any(|doubt| (&doubt.id, doubt.index) == (&call.id, call.index)) {
            return Err(self.not_in_doubt(&call.id, call.index).into());
        }
        let locked = self.directory.open()?;
        // What the starts and stops of the other services report is in the journal, or happens again.
        let events = Arc::new(move |event: &Event| {
            let is_of_start = matches!(event, Event::Restored { .. } | Event::Started { .. } | Event::Stopped { .. });
            if !is_of_start && !matches!(event, Event::Log { .. }) {
                output::note(&event.to_string());
            }
        });
        let (host, is_damaged) = bring_up(self.directory.path(), locked, service, Beside::default(), events).await?;
        let settled = self.settle_on(&host, call, settlement).await;
        host.stop().await.context("the data directory was not closed cleanly")?;
        Ok((settled?, is_damaged))
    }

    fn not_in_doubt(&self, id: &str, index: u32) -> UsageError {
        let (id, option, service) = (Printable(id), self.directory.option(), &self.of.service);
        UsageError(format!(
            "call {index} of transaction '{id}' is not in doubt; lifeboat data doubts {option} {service} lists those that are"
        ))
    }

    async fn settle_on(&self, host: &Host, call: Call, settlement: Settlement) -> anyhow::Result<Vec<service::Doubt>> {
        let service = &self.of.service;
        // A service that an operator has stopped stays so.
        let was_stopped = !host.has_service(service);
        if was_stopped {
            host.start_service(service, random_epoch()?).await?;
        }
        let operator = operator(host, service)?;
        let Call { id, index } = call;
        let settled = host.settle_doubt(&operator, service, self.of.user.clone(), id, index, settlement).await;
        let doubts = host.doubts(&operator, service).await;
        if was_stopped {
            host.stop_service(service).await?;
        }
        settled?.map_err(|error| match error {
            SettleError::Journal(_) => anyhow::Error::from(error),
            SettleError::NotInDoubt { id, index } => self.not_in_doubt(&id, index).into(),
            error => UsageError(error.to_string()).into(),
        })?;
        Ok(doubts?)
    }
}

/// Adds a user who may operate `service`.
fn operator(host: &Host, service: &Name) -> anyhow::Result<Identity> {
    let user = Name::new("operator").map_err(UsageError)?;
    let random = random()?;
    let incarnation = host.stored_incarnation(&user)?;
    let mut authority = host.authority();
    authority.add_user_as(&user, incarnation);
    for grant in [Grant::Observe, Grant::Operate] {
        authority.grant(&user, service, grant);
    }
    let token =
        authority.issue(&user, Timestamp(u64::MAX), random).context("a user that was just added is not known")?;
    drop(authority);
    Ok(host.authenticate(token.reveal())?)
}
