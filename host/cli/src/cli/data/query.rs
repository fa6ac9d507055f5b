//! `lifeboat query`: asks a service, as it is or as it was.

use super::super::{UsageError, arguments, exit, is_pipe_open, remote};
use super::directory::{Source, runtime, scratch, tell_if_cut_off};
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
Without --data the server is asked, as who is logged in. With it, the state is brought back in a scratch VM, from the
newest snapshot before it and the transactions since. The query sees the time of the last transaction that is part of it.";

/// Arguments of `query`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Query {
    #[command(flatten)]
    data: Source,
    /// Ask the state after transaction SEQ, of a data directory [default: the last one]
    #[arg(long, value_name = "SEQ", value_parser = arguments::whole, allow_negative_numbers = true)]
    at: Option<u64>,
    /// Who asks, of a data directory [default: operator]
    #[arg(long, value_name = "NAME")]
    user: Option<Name>,
    #[command(flatten)]
    waiting: remote::Waiting,
    /// Print the reply as JSON
    #[arg(long)]
    json: bool,
    /// The service
    #[arg(value_name = "SERVICE")]
    service: Name,
    /// The body of the query, as the workload takes it
    #[arg(value_name = "BODY", allow_hyphen_values = true)]
    body: String,
}

impl Query {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let Some(data) = self.data.data() else {
            if self.at.is_some() || self.user.is_some() {
                let text = "--at and --user are of a data directory: name it with --data; a server is asked as it is, by who \
                            is logged in";
                return Err(UsageError(text.into()).into());
            }
            return remote::query(&self.service, &self.body, self.json, self.waiting);
        };
        if self.waiting.is_said() {
            let text = "--attempts is of a server, and a data directory is not waited for; leave one of the two out";
            return Err(UsageError(text.into()).into());
        }
        let user = self.user.map_or_else(|| Name::new("operator"), Ok).map_err(UsageError)?;
        let locked = data.open_read_only()?;
        let found = data.find(&locked, &self.service)?;
        let storage = &**locked.storage();
        let runtime = runtime()?;
        let (scratch, program) = scratch(&runtime, storage, &found)?;
        let at = self.at.map(Sequence);
        let state = runtime
            .block_on(scratch.state(storage, &program, &found, at))
            .map_err(|error| data.no_state(&found.name, error))?;
        let (sequence, timestamp) = (state.sequence, state.timestamp);
        let vm = VmId { service: found.name.clone(), number: state.resume_point.vm_number };
        let attempt = runtime.block_on(scratch.query(state, &user, self.body.as_bytes()));
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
        let printed = lines::print(&mut io::stdout().lock(), None, &Ok(reply), self.json);
        is_pipe_open(printed).context("cannot write the reply")?;
        // Who asked for a state that is there knows which one it is.
        let is_cut_off = at.is_none() && tell_if_cut_off(&found, sequence);
        let is_ok = outcome == Outcome::Ok && !is_cut_off;
        Ok(ExitCode::from(if is_ok { exit::OK } else { exit::SOME_NOT_OK }))
    }
}
