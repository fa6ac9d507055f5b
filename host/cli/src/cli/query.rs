//! `lifeboat query`: sends a query to a service of the server.

use super::remote::{Waiting, print_answer, with_server_or_data};
use super::{UsageError, tx};
use clap::Args;
use lifeboat_api::name::Name;
use std::process::ExitCode;

const AFTER_HELP: &str = "\
The command queries the server as the user who is logged in. `lifeboat data query` queries a data directory, also in an
earlier state.";

/// What a query asks, of a server or of a data directory.
#[derive(Debug, Args)]
pub(crate) struct Question {
    /// Print the reply as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// The service
    #[arg(value_name = "SERVICE")]
    pub(crate) service: Name,
    /// The query, @FILE, or - for standard input
    #[arg(value_name = "BODY", allow_hyphen_values = true)]
    body: String,
}

impl Question {
    /// Returns the bytes of the body.
    pub(crate) fn body(&self) -> anyhow::Result<Vec<u8>> {
        tx::read_body(&self.body)
    }
}

/// Arguments of `query`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Query {
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    question: Question,
    /// Options of `lifeboat data query`, which a body that may begin with a hyphen would swallow
    #[arg(long, hide = true, allow_hyphen_values = true)]
    at: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    user: Option<String>,
}

impl Query {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        if self.at.is_some() || self.user.is_some() {
            let text = "--at and --user are options for a data directory: use them with lifeboat data query --data \
                        DIR; a server answers from its present state, to the user who is logged in";
            return Err(UsageError(text.into()).into());
        }
        let body = self.question.body()?;
        let code = with_server_or_data("query", async |client| {
            let backoff = self.waiting.backoff(false);
            let client = client.with_patience(backoff);
            let ask = async || client.query(&self.question.service, body.clone().into()).await;
            print_answer(&client.ask_until_answered(ask, &backoff).await?, self.question.json)
        })?;
        Ok(ExitCode::from(code))
    }
}
