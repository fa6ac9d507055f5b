//! Answers of the server to transactions and queries.

use super::super::output::note_failover;
use super::super::{exit, is_pipe_open};
use anyhow::Context;
use lifeboat_api::lines;
use lifeboat_api::text::Printable;
use lifeboat_api::transaction::Outcome;
use lifeboat_client::Answer;
use serde::Serialize;
use std::io::{self, Write};

#[derive(Serialize)]
struct PrintedAnswer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    outcome: Outcome,
    #[serde(flatten)]
    payload: lines::Payload<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a str>,
    vm: &'a str,
    sequence: u64,
    fuel_used: u64,
    is_repeated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    failover: Option<&'a str>,
}

/// Prints an answer, and notes a failover on standard error. An `ok` on one line is printed unchanged. Any other
/// answer, or every one with `json`, is a JSON object. Returns the exit code.
pub(crate) fn print_answer(answer: &Answer, json: bool) -> anyhow::Result<u8> {
    let is_ok = answer.outcome == Outcome::Ok;
    let mut line = Vec::new();
    if is_ok
        && !json
        && let Some(shown) = lines::as_line(&answer.body)
    {
        line.extend_from_slice(&shown);
    } else {
        let text = str::from_utf8(&answer.body).unwrap_or_default();
        let printed = PrintedAnswer {
            id: answer.id.as_deref(),
            outcome: answer.outcome,
            payload: if is_ok { lines::Payload::of(&answer.body, json) } else { lines::Payload::default() },
            cause: (!is_ok).then_some(text),
            vm: &answer.vm,
            sequence: answer.sequence,
            fuel_used: answer.fuel_used,
            is_repeated: answer.is_repeated,
            failover: answer.failover.as_deref(),
        };
        line = lines::escaped(serde_json::to_vec(&printed)?);
    }
    line.push(b'\n');
    is_pipe_open(io::stdout().lock().write_all(&line)).with_context(|| {
        let whose = answer.id.as_ref().map_or("a query".into(), |id| format!("transaction '{}'", Printable(id)));
        format!("cannot write the answer to {whose}, which ended with {}", answer.outcome)
    })?;
    if let Some(failover) = &answer.failover {
        note_failover(failover);
    }
    Ok(if is_ok { exit::OK } else { exit::SOME_NOT_OK })
}
