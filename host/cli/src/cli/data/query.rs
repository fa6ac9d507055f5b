//! `lifeboat data query`: sends a query to a service of a data directory, in its current or an earlier state.

use super::super::query::Question;
use super::super::{UsageError, arguments, exit, is_pipe_open};
use super::directory::{Directory, note_if_cut_off, runtime, scratch};
use anyhow::Context;
use clap::Args;
use lifeboat_api::id::{Sequence, VmId};
use lifeboat_api::lines;
use lifeboat_api::name::Name;
use lifeboat_api::text::Printable;
use lifeboat_api::transaction::{Outcome, Reply};
use std::io::{self, Write};
use std::process::ExitCode;

const AFTER_HELP: &str = "\
A scratch VM restores the state from the newest earlier snapshot and the transactions since. The query sees the time of
the last transaction in the state.";

/// Arguments of `data query`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Query {
    #[command(flatten)]
    directory: Directory,
    /// Query the state after transaction SEQ [default: the last one]
    #[arg(long, value_name = "SEQ", value_parser = arguments::whole, allow_negative_numbers = true)]
    at: Option<u64>,
    /// The user who queries [default: operator]
    #[arg(long, value_name = "NAME")]
    user: Option<Name>,
    #[command(flatten)]
    question: Question,
}

impl Query {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let user = self.user.map_or_else(|| Name::new("operator"), Ok).map_err(UsageError)?;
        let body = self.question.body()?;
        let locked = self.directory.open_read_only()?;
        let found = self.directory.find(&locked, &self.question.service)?;
        let storage = &**locked.storage();
        let runtime = runtime()?;
        let (scratch, program) = scratch(&runtime, &self.directory, storage, &found)?;
        let at = self.at.map(Sequence);
        let state = runtime
            .block_on(scratch.state(storage, &program, &found, at))
            .map_err(|error| self.directory.no_state(&found.name, error))?;
        let (sequence, timestamp) = (state.sequence, state.timestamp);
        let vm = VmId { service: found.name.clone(), number: state.resume_point.vm_number };
        let attempt = runtime.block_on(scratch.query(state, &user, &body));
        for line in &attempt.log {
            let _ = writeln!(io::stderr(), "{}: {}", found.name, Printable(line));
        }
        let outcome = attempt.answer.outcome();
        let reply = Reply {
            id: "query".into(),
            sequence,
            timestamp,
            answer: attempt.answer,
            fuel_used: attempt.fuel_used,
            is_repeated: false,
            vm,
            failover: None,
        };
        let printed = lines::print(&mut io::stdout().lock(), None, &Ok(reply), self.question.json);
        is_pipe_open(printed).context("cannot write the reply")?;
        // A user who named the transaction knows which state answers.
        let is_cut_off = at.is_none() && note_if_cut_off(&found, sequence);
        let is_ok = outcome == Outcome::Ok && !is_cut_off;
        Ok(ExitCode::from(if is_ok { exit::OK } else { exit::SOME_NOT_OK }))
    }
}
