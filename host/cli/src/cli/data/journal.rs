//! `lifeboat data journal`: prints the retained history of a service.

use super::super::{arguments, exit, help, is_pipe_open, output};
use super::directory::Directory;
use anyhow::Context;
use clap::Args;
use lifeboat_api::clock::{Timestamp, Utc};
use lifeboat_api::event::Event;
use lifeboat_api::id::Sequence;
use lifeboat_api::lines::{Payload, json_line};
use lifeboat_api::name::Name;
use lifeboat_api::size::{Bytes as ByteCount, grouped};
use lifeboat_api::text::Printable;
use lifeboat_api::transaction::{Answer, Cause, Outcome};
use lifeboat_host::data::FoundService;
use lifeboat_host::journal::{
    CallIntent, CallOutcome, NetworkRecord, QueriesRecord, QueryRecord, Record, RelocatedAnswer, TransactionRecord,
};
use lifeboat_journal::frame::RecordNumber;
use lifeboat_journal::recovery::Recovery;
use serde::Serialize;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

/// The number of characters of a body or a reply in a line. They fit a terminal below the number of the record.
const PREVIEW_CHARS: usize = 60;

/// The column at which a record that is too long for the terminal continues: below its time.
const HANGING: usize = 10;

/// Arguments of `data journal`.
#[derive(Debug, Args)]
pub(crate) struct Journal {
    #[command(flatten)]
    directory: Directory,
    /// Print each record as a JSON object on a line, with the whole body and reply
    #[arg(long)]
    json: bool,
    /// Begin after transaction SEQ
    #[arg(long, value_name = "SEQ", value_parser = arguments::whole, allow_negative_numbers = true)]
    after: Option<u64>,
    /// Print at most N records
    #[arg(long, value_name = "N", value_parser = arguments::whole, allow_negative_numbers = true)]
    limit: Option<u64>,
    /// The service
    #[arg(value_name = "SERVICE")]
    service: Name,
}

impl Journal {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let (found, recovery) = self.directory.find_with_journal(&self.directory.open_read_only()?, &self.service)?;
        let mut records = &found.records[..];
        if let Some(after) = self.after {
            let is_after = |record: &Record| sequence(record).is_some_and(|sequence| sequence.0 > after);
            // Records between two transactions belong to the first of them.
            let first = records.iter().position(|(_, record)| is_after(record)).unwrap_or(records.len());
            records = &records[first..];
        }
        let limit = self.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        let count = limit.min(records.len());
        let columns = help::output_columns();
        let mut out = BufWriter::new(io::stdout().lock());
        for (number, record) in &records[..count] {
            let written = if self.json {
                write_json(&mut out, &found, *number, record)
            } else {
                out.write_all(help::fitting(line(&found, *number, record), columns, HANGING).as_bytes())
            };
            if !is_pipe_open(written).context("cannot write the journal")? {
                return Ok(ExitCode::from(exit::OK));
            }
        }
        is_pipe_open(out.flush()).context("cannot write the journal")?;
        let missing = missing(&found, &recovery);
        let _ = io::stderr().write_all(output::fitting_error(missing.clone()).as_bytes());
        Ok(ExitCode::from(if missing.is_empty() { exit::OK } else { exit::SOME_NOT_OK }))
    }
}

/// Describes what the history may lack, and why, a line each.
fn missing(found: &FoundService, recovery: &Recovery) -> String {
    let name = &found.name;
    let mut text: String =
        recovery.damages.iter().map(|damage| format!("lifeboat: journal damaged: {damage}\n")).collect();
    // Without damage, earlier records are missing only because snapshots replaced them.
    match found.records.first() {
        Some((first, _)) if first.0 > 1 && !text.is_empty() => {
            text += &format!(
                "lifeboat: the history of service '{name}' begins with record {}: the damage affects earlier records, \
                 or they were truncated before\n",
                grouped(first.0)
            );
        }
        None if !text.is_empty() => {
            text += &format!("lifeboat: no record of service '{name}' is left: the damage may affect them\n");
        }
        _ => {}
    }
    if let Err(reason) = &found.standing {
        text += &format!("lifeboat: service '{name}' is quarantined: {reason}\n");
    }
    text
}

/// Returns the number of the transaction that a record belongs to, unless that is the last one before it.
fn sequence(record: &Record) -> Option<Sequence> {
    match record {
        Record::Transaction(transaction) => Some(transaction.sequence),
        // These come before the record of their transaction.
        Record::CallIntent(intent) => Some(intent.sequence),
        Record::CallOutcome(outcome) => Some(outcome.sequence),
        _ => None,
    }
}

/// The origin of a service, which its first record shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Origin {
    /// The service was created with its workload.
    Created,
    /// The service was restored from a portable snapshot.
    Restored,
}

/// Returns the origin of the service, if record `number` is its first.
fn origin(found: &FoundService, number: RecordNumber) -> Option<Origin> {
    let origin = if found.entry.first_snapshot.is_some() { Origin::Restored } else { Origin::Created };
    (number == RecordNumber(1)).then_some(origin)
}

fn line(found: &FoundService, number: RecordNumber, record: &Record) -> String {
    let (time, what) = match record {
        Record::Opened { timestamp, .. } => {
            let what = match origin(found, number) {
                Some(Origin::Created) => "opened: the service was created",
                Some(Origin::Restored) => "opened: the service was restored from a portable snapshot",
                None => "opened: a host started the service",
            };
            (Some(*timestamp), what.into())
        }
        Record::Snapshot { sequence } => (None, format!("snapshot of transaction {}", grouped(sequence.0))),
        Record::Transaction(transaction) => (Some(transaction.timestamp), transaction_line(transaction)),
        Record::SlaFailure(failure) => (failure.timestamp, Event::SlaFailure(failure.clone()).to_string()),
        Record::Failover(failover) => (failover.timestamp, Event::Failover(failover.clone()).to_string()),
        Record::Queries(record) => (record.queries.first().map(|first| first.timestamp), queries_line(record)),
        Record::Relocated(RelocatedAnswer { transaction, .. }) => {
            (None, format!("answer of transaction {} relocated", grouped(transaction.sequence.0)))
        }
        Record::CallIntent(intent) => {
            let CallIntent { sequence, index, method, target, .. } = &**intent;
            let (method, target) = (Printable(method), preview(target.as_bytes()));
            (None, format!("call {}/{index} intended: {method} {target}", grouped(sequence.0)))
        }
        Record::CallOutcome(outcome) => (None, outcome_line(outcome)),
    };
    let time = time.map(|time| Utc(time).to_string()).unwrap_or_default();
    format!("{:>8}  {time:<24}  {what}\n", grouped(number.0))
}

fn transaction_line(transaction: &TransactionRecord) -> String {
    let TransactionRecord { sequence, id, is_id_kept, user, body, answer, fuel_used, .. } = transaction;
    // An id that the host made up has no meaning, and occurs again after the next start.
    let id = if *is_id_kept { format!("'{}'", Printable(id)) } else { "(no id)".into() };
    let outcome = answer.outcome();
    let reply = match answer {
        Answer::Ok(bytes) => preview(bytes),
        Answer::Refused(text) => preview(text.as_bytes()),
        Answer::Failed(cause) => preview(cause.to_string().as_bytes()),
    };
    let body = match answer {
        // Its host stopped before it wrote the body.
        Answer::Failed(Cause::Interrupted) if body.is_empty() => "(body not kept)".into(),
        _ => preview(body),
    };
    format!(
        "transaction {} {id} by {user}: {body} -> {outcome} {reply} ({} fuel){}",
        grouped(sequence.0),
        grouped(*fuel_used),
        in_doubt(transaction),
    )
}

/// Names the calls in doubt of a transaction that may run again.
fn in_doubt(transaction: &TransactionRecord) -> String {
    let network = transaction.network.iter().filter(|_| transaction.may_run_again() && transaction.is_id_kept);
    let calls = network.flat_map(|network| network.calls.iter());
    let shown = calls.filter_map(|call| {
        let (reason, target) = (call.doubt()?, preview(call.target.as_bytes()));
        Some(format!("; call {} is in doubt, {} {target}: {reason}", call.index, Printable(&call.method)))
    });
    shown.collect()
}

/// Describes the outcome of a call, without anything that the server sent but the status.
fn outcome_line(outcome: &CallOutcome) -> String {
    let CallOutcome { sequence, call, took, bytes } = outcome;
    let result = match &call.result {
        Some(Ok(response)) => {
            format!("{} ({}, {} ms)", response.status, ByteCount(*bytes), took.as_millis())
        }
        // The remedy is at its end.
        Some(Err(error)) => Printable(&error.to_string()).to_string(),
        None => "unknown".to_owned(),
    };
    format!(
        "call {}/{}: {} {} -> {result}",
        grouped(sequence.0),
        call.index,
        Printable(&call.method),
        preview(call.target.as_bytes())
    )
}

fn queries_line(record: &QueriesRecord) -> String {
    let fuel: u64 = record.queries.iter().map(|query| query.fuel_used).sum();
    let noun = if record.queries.len() == 1 { "query" } else { "queries" };
    format!("{} {noun} ({} fuel)", grouped(record.queries.len() as u64), grouped(fuel))
}

/// Returns the beginning of a text in printable form. An escape counts with all of its characters.
fn preview(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let (mut shown, mut chars) = (String::new(), 0);
    for (at, c) in text.char_indices() {
        let next = Printable(&text[at..at + c.len_utf8()]).to_string();
        chars += next.chars().count();
        if chars > PREVIEW_CHARS {
            return shown + "...";
        }
        shown += &next;
    }
    shown
}

/// A record as a line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    record: RecordNumber,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(flatten)]
    what: What<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum What<'a> {
    Named(Named<'a>),
    /// An event, which contains its own name.
    Event(Event),
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Named<'a> {
    Opened {
        #[serde(skip_serializing_if = "Option::is_none")]
        origin: Option<Origin>,
    },
    Snapshot {
        sequence: Sequence,
    },
    AnswerRelocated {
        sequence: Sequence,
    },
    Transaction {
        sequence: Sequence,
        /// The id that the client sent.
        id: Option<&'a str>,
        /// The id that the host made up for the guest. It is neither recognised again nor unique.
        #[serde(skip_serializing_if = "Option::is_none")]
        made_up_id: Option<&'a str>,
        user: &'a Name,
        outcome: Outcome,
        body: Payload<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reply: Option<Payload<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cause: Option<String>,
        fuel_used: u64,
        query_fuel_used: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        network: Option<NetworkUse>,
    },
    CallIntent {
        /// The transaction that makes the call.
        sequence: Sequence,
        index: u32,
        method: &'a str,
        target: &'a str,
        sent_bytes: u64,
    },
    CallOutcome {
        /// The transaction that made the call.
        sequence: Sequence,
        index: u32,
        method: &'a str,
        target: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<u16>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        received_bytes: u64,
        took_ms: u64,
    },
    Queries {
        /// The last transaction before the queries.
        sequence: Sequence,
        queries: Vec<Query<'a>>,
    },
}

/// What a transaction did on the network.
#[derive(Serialize)]
struct NetworkUse {
    calls: usize,
    charged_calls: u64,
    charged_bytes: u64,
}

impl NetworkUse {
    fn of(network: &NetworkRecord) -> Self {
        let NetworkRecord { charged, calls } = network;
        Self { calls: calls.len(), charged_calls: charged.calls, charged_bytes: charged.bytes }
    }
}

/// An answered query. Its answer is not stored.
#[derive(Serialize)]
struct Query<'a> {
    id: &'a str,
    user: &'a Name,
    time: String,
    body: Payload<'a>,
    fuel_used: u64,
}

fn write_json<'a>(
    out: &mut impl Write,
    found: &'a FoundService,
    number: RecordNumber,
    record: &'a Record,
) -> io::Result<()> {
    let at = |time: &Timestamp| Some(format!("{:.9}", Utc(*time)));
    let (time, what) = match record {
        Record::Opened { timestamp, .. } => {
            (at(timestamp), What::Named(Named::Opened { origin: origin(found, number) }))
        }
        Record::Snapshot { sequence } => (None, What::Named(Named::Snapshot { sequence: *sequence })),
        Record::Transaction(transaction) => {
            let (reply, cause) = match &transaction.answer {
                Answer::Ok(bytes) => (Some(Payload::of(bytes, true)), None),
                Answer::Refused(text) => (None, Some(text.clone())),
                Answer::Failed(cause) => (None, Some(cause.detailed())),
            };
            let named = Named::Transaction {
                sequence: transaction.sequence,
                id: transaction.is_id_kept.then_some(&*transaction.id),
                made_up_id: (!transaction.is_id_kept).then_some(&*transaction.id),
                user: &transaction.user,
                outcome: transaction.answer.outcome(),
                body: Payload::of(&transaction.body, true),
                reply,
                cause,
                fuel_used: transaction.fuel_used,
                query_fuel_used: transaction.query_fuel_used,
                network: transaction.network.as_deref().map(NetworkUse::of),
            };
            (at(&transaction.timestamp), What::Named(named))
        }
        Record::SlaFailure(failure) => {
            (failure.timestamp.as_ref().and_then(at), What::Event(Event::SlaFailure(failure.clone())))
        }
        Record::Failover(failover) => {
            (failover.timestamp.as_ref().and_then(at), What::Event(Event::Failover(failover.clone())))
        }
        Record::Queries(record) => {
            let query = |query: &'a QueryRecord| Query {
                id: &query.id,
                user: &query.user,
                time: format!("{:.9}", Utc(query.timestamp)),
                body: Payload::of(&query.body, true),
                fuel_used: query.fuel_used,
            };
            let queries = record.queries.iter().map(query).collect();
            let time = record.queries.first().and_then(|first| at(&first.timestamp));
            (time, What::Named(Named::Queries { sequence: record.sequence, queries }))
        }
        Record::Relocated(RelocatedAnswer { transaction, .. }) => {
            (None, What::Named(Named::AnswerRelocated { sequence: transaction.sequence }))
        }
        Record::CallIntent(intent) => {
            let CallIntent { sequence, index, method, target, bytes, .. } = &**intent;
            let named = Named::CallIntent { sequence: *sequence, index: *index, method, target, sent_bytes: *bytes };
            (None, What::Named(named))
        }
        Record::CallOutcome(outcome) => {
            let CallOutcome { sequence, call, took, bytes } = &**outcome;
            let result = call.result.as_ref();
            let named = Named::CallOutcome {
                sequence: *sequence,
                index: call.index,
                method: &call.method,
                target: &call.target,
                status: result.and_then(|result| result.as_ref().ok()).map(|response| response.status),
                error: result.and_then(|result| result.as_ref().err()).map(ToString::to_string),
                received_bytes: *bytes,
                took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            };
            (None, What::Named(named))
        }
    };
    out.write_all(json_line(&Line { record: number, time, what })?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_api::id::Epoch;
    use lifeboat_api::transaction::ReplyHash;

    #[test]
    fn a_record_fits_eighty_columns_whatever_a_client_sent() {
        let body = "\u{202e}".repeat(PREVIEW_CHARS);
        let record = TransactionRecord {
            sequence: Sequence(1_234_567),
            id: "0199e2a0-7b1c-7c3d-8e4f-0123456789ab".into(),
            is_id_kept: true,
            user: Name::new("operator").expect("a name"),
            incarnation: 0,
            timestamp: Timestamp(0),
            epoch: Epoch([0; 16]),
            body: body.clone().into_bytes().into(),
            body_hash: ReplyHash([0; 16]),
            answer: Answer::Refused(body),
            fuel_used: 1,
            query_fuel_used: 0,
            network: None,
        };
        let line = format!("{:>8}  {}  {}\n", "1", "2026-03-01T12:00:00.000Z", transaction_line(&record));
        let shown = help::fitting(line, Some(80), HANGING);
        assert!(shown.lines().count() > 1 && shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        assert!(shown.contains("\\u{202e}...") && shown.lines().skip(1).all(|line| line.starts_with("          ")));
    }
}
