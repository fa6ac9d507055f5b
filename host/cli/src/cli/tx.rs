//! `lifeboat tx`: sends one transaction to the server, or looks up its outcome.

use super::remote::{Waiting, print_answer, with_server};
use super::stop::Stop;
use super::{UsageError, exit, output, random};
use anyhow::Context;
use clap::Args;
use lifeboat_api::clock::{Clock, SystemClock};
use lifeboat_api::name::Name;
use lifeboat_api::text::Printable;
use lifeboat_client::{Client, ClientError, Found, uuid_v7};
use serde_json::json;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::process::ExitCode;

/// The longest body that is read, in bytes: far more than a server accepts by default.
const BODY_READ_BYTES_MAX: u64 = 64 * 1024 * 1024;

const AFTER_HELP: &str = "\
The body reaches the workload byte for byte. A transaction has an id: a UUID of version 7, or the one of --id. If no
server listens, the connection breaks, or the server asks to retry later, the command sends the transaction again with
that id, and it is executed once. Standard error reports what the command waits for. A transaction that fails at its
deadline is sent up to three times. If the answer stays unknown, or Ctrl-C, SIGTERM or SIGHUP ends the waiting, the last
line reports how to look it up.";

/// Arguments of `tx`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Tx {
    /// The transaction's id: a repetition of the same id and body gets the same answer and is not executed again
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    waiting: Waiting,
    /// Only look up the answer to the transaction with this --id
    #[arg(long, requires = "id", conflicts_with = "body")]
    look_up: bool,
    /// Print the answer as JSON, with all its details
    #[arg(long)]
    json: bool,
    /// The service
    #[arg(value_name = "SERVICE")]
    service: Name,
    /// The transaction, @FILE, or - for standard input [default: -]
    #[arg(value_name = "BODY", allow_hyphen_values = true)]
    body: Option<String>,
}

impl Tx {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let code = match &self.id {
            Some(id) if self.look_up => with_server(async |client| self.look_up(&client, id).await)?,
            _ => self.send()?,
        };
        Ok(ExitCode::from(code))
    }

    fn send(&self) -> anyhow::Result<u8> {
        let body = self.body.as_deref().unwrap_or("-");
        if body == "-" && io::stdin().is_terminal() {
            output::note("Waiting for the transaction; end with Ctrl-D.");
        }
        let body = read_body(body)?;
        let id = self.id.clone().map_or_else(fresh_id, Ok)?;
        let service = &self.service;
        let backoff = self.waiting.backoff(false);
        let how_to_know = || {
            let id = quoted(&id);
            format!("to look up the outcome of the transaction, run lifeboat tx {service} --id {id} --look-up")
        };
        with_server(async |client| {
            let mut stop = Stop::new()?;
            let sent = tokio::select! {
                sent = client.transact_until_known(service, &id, body.into(), &backoff) => sent,
                () = stop.asked() => {
                    output::note(&format!("lifeboat: interrupted; {}", how_to_know()));
                    return Ok(exit::SOME_NOT_OK);
                }
            };
            let answer = match sent {
                Err(error @ (ClientError::Interrupted { .. } | ClientError::BadReply { .. })) => {
                    return Err(error).with_context(how_to_know);
                }
                sent => sent?,
            };
            print_answer(&answer, self.json)
        })
    }

    async fn look_up(&self, client: &Client, id: &str) -> anyhow::Result<u8> {
        let backoff = self.waiting.backoff(false);
        let client = client.clone().with_patience(backoff);
        let ask = async || client.look_up(&self.service, id).await;
        let (state, text) = match client.ask_until_answered(ask, &backoff).await? {
            Found::Answered(answer) => return print_answer(&answer, self.json),
            Found::Pending => ("pending", "is pending: the service is busy; try again later"),
            Found::Unknown => (
                "unknown",
                "is unknown: it was never executed, or its answer is forgotten; you may send the same id again",
            ),
        };
        if self.json {
            output::print(true, &json!({ "id": id, "state": state }), String::new)?;
        } else {
            output::note(&format!("transaction '{}' {text}", Printable(id)));
        }
        Ok(exit::SOME_NOT_OK)
    }
}

/// Returns a new unique id.
pub(crate) fn fresh_id() -> anyhow::Result<String> {
    let bytes = random()?;
    let mut drawn = [0; 10];
    drawn.copy_from_slice(&bytes[..10]);
    Ok(uuid_v7(SystemClock.now(), drawn))
}

/// Returns the bytes that the argument `BODY` denotes.
pub(crate) fn read_body(body: &str) -> anyhow::Result<Vec<u8>> {
    let (what, read) = match (body, body.strip_prefix('@')) {
        ("-", _) => ("standard input".to_owned(), read_bounded(io::stdin().lock())),
        (_, Some(file)) => (format!("'{}'", file.escape_debug()), File::open(file).and_then(read_bounded)),
        (text, None) => return Ok(text.as_bytes().to_vec()),
    };
    let bytes =
        read.map_err(|error| UsageError(format!("{what}: cannot be read: {error}; name a body, -, or @FILE")))?;
    if bytes.len() as u64 > BODY_READ_BYTES_MAX {
        return Err(UsageError(format!("{what}: is longer than {BODY_READ_BYTES_MAX} bytes; send less")).into());
    }
    Ok(bytes)
}

fn read_bounded(input: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(BODY_READ_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Quotes an id so that a shell reads it as one word.
fn quoted(id: &str) -> String {
    if id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./:".contains(&byte)) {
        id.to_owned()
    } else {
        format!("'{}'", id.replace('\'', r"'\''"))
    }
}
