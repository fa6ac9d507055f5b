//! `lifeboat check`: finds the bugs of a workload that only a host would meet.

use super::{UsageError, arguments, data, exit, help, is_pipe_open, load_workload};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lifeboat_api::lines::json_lines;
use lifeboat_api::name::Name;
use lifeboat_api::size::{Bytes, grouped};
use lifeboat_api::text::plain;
use lifeboat_check::{Finding, Guest, GuestError, Input, Report};
use lifeboat_host::portable::Portable;
use lifeboat_vm::instance::MoveError;
use serde_json::json;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use thiserror::Error;

/// The most bytes of a file of transactions or queries.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// The columns of the table without a terminal, and the most on one.
const TABLE_COLUMNS: usize = 80;

/// The column at which a sentence that is too long continues.
const HANGING: usize = 2;

/// The columns of the first column of the table.
const PLACE_COLUMNS: usize = 12;

/// The fewest columns of the other columns of the table.
const CELL_COLUMNS_MIN: usize = 12;

const AFTER_HELP: &str = "\
The transactions run several times: without a move, with a move (a snapshot and a restore in a fresh VM) at each
boundary between two of them, with queries and exports in between, with gaps between their sequence numbers, with
servers that fail. All of these runs must agree. Then the command sends wrong bodies, repeats a transaction a thousand
times, and restores the state in other chunks and versions. docs/check.md describes each kind of finding, and its
remedy.

A line of FILE is the body of a transaction, or with --envelope a JSON object, as lifeboat run reads it. A query in an
envelope and each --query is asked at every boundary: state that no reply shows is only found by a query.

Time and random numbers are those of the check, the same in each run of it. No server is called: requests get status 200
and {}. Nothing is written.

Example:
  lifeboat check counter.wasm --transactions transactions.jsonl --query '\"total\"'";

/// Arguments of `check`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Check {
    /// Check the workload with the transactions in FILE
    #[arg(long, value_name = "FILE")]
    transactions: PathBuf,
    /// Lines are JSON objects with an id, a user and a body
    #[arg(long)]
    envelope: bool,
    /// Ask this query at each boundary; may be repeated
    #[arg(long = "query", value_name = "BODY")]
    queries: Vec<String>,
    /// The user of transactions that name none, and of --query
    #[arg(long, value_name = "NAME", default_value = "operator")]
    user: Name,
    /// The size of the first VM [default: small]
    #[arg(long, value_name = "NAME")]
    size: Option<String>,
    /// Also check that the workload restores this state, a file that lifeboat data snapshot wrote
    #[arg(long, value_name = "SNAPSHOT")]
    from: Option<PathBuf>,
    /// Warnings count as findings for the exit code
    #[arg(long)]
    strict: bool,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// The workload: a component, a core module, or either as text
    #[arg(value_name = "WORKLOAD")]
    workload: PathBuf,
}

/// A workload that cannot be started.
#[derive(Debug, Error)]
#[error("{}: {error}; lifeboat inspect shows what it needs", file.escape_debug())]
pub(crate) struct UnstartableWorkload {
    file: String,
    error: MoveError,
}

impl UnstartableWorkload {
    pub(super) fn new(file: &Path, error: MoveError) -> Self {
        Self { file: file.display().to_string(), error }
    }
}

impl Check {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let size = arguments::built_in_size(self.size.as_deref().unwrap_or("small"))?;
        let input = self.input()?;
        let older = self.from.as_deref().map(Portable::read).transpose().map_err(data::sorted)?;
        let (workload, _) = load_workload(&self.workload)?;
        let guest = Guest::new(workload, size).map_err(|error| match error {
            GuestError::Engine(error) => anyhow::Error::from(error),
            error => error.into(),
        })?;
        let bar = bar(self.json);
        let progress = |stage: &'static str, done: usize, of: usize| {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
            bar.set_message(stage);
        };
        let report = guest.check_with(&input, older.as_ref().map(|older| &older.snapshot), &progress);
        bar.finish_and_clear();
        let report = report.map_err(|error| UnstartableWorkload::new(&self.workload, error))?;
        let text = if self.json { json_lines(&self.json_of(&report))? } else { self.text_of(&report) };
        is_pipe_open(io::stdout().write_all(text.as_bytes()))?;
        let is_ok = if self.strict { report.findings.is_empty() } else { report.is_sound() };
        Ok(ExitCode::from(if is_ok { exit::OK } else { exit::SOME_NOT_OK }))
    }

    fn input(&self) -> Result<Input, UsageError> {
        let mut input = read_input(&self.transactions, self.envelope, &self.user)?;
        for query in &self.queries {
            input.add_query(self.user.clone(), query.clone().into());
        }
        Ok(input)
    }

    fn json_of(&self, report: &Report) -> serde_json::Value {
        let is_ok = if self.strict { report.findings.is_empty() } else { report.is_sound() };
        let mut value = json!({ "ok": is_ok });
        if let (Some(value), Ok(serde_json::Value::Object(report))) =
            (value.as_object_mut(), serde_json::to_value(report))
        {
            value.extend(report);
        }
        value
    }

    fn text_of(&self, report: &Report) -> String {
        let columns = help::output_columns().unwrap_or(TABLE_COLUMNS).min(TABLE_COLUMNS);
        let mut text = table(&report.findings, columns);
        if !report.findings.is_empty() {
            text.push('\n');
        }
        for reason in &report.unchecked {
            text += &help::fitting(format!("not checked: {reason}\n"), Some(columns), HANGING);
        }
        let Report { workload, transactions, outcomes, queries, moves, findings, .. } = report;
        let count =
            |count: usize, one: &str| format!("{} {one}{}", grouped(count as u64), if count == 1 { "" } else { "s" });
        let warnings = findings.iter().filter(|finding| finding.is_warning).count();
        let queries = match queries {
            0 => "no queries: state that no reply shows is not compared, --query BODY asks for it".to_owned(),
            queries => count(*queries, "query").replace("querys", "queries") + " at each boundary",
        };
        let summary = format!(
            "{}: {}, {} in {} ({} ok, {} refused, {} failed) with {} and {queries}\n",
            plain(workload),
            count(findings.len() - warnings, "finding"),
            count(warnings, "warning"),
            count(*transactions, "transaction"),
            grouped(outcomes.ok as u64),
            grouped(outcomes.refused as u64),
            grouped(outcomes.failed as u64),
            count(*moves, "move"),
        );
        text + &help::fitting(summary, Some(columns), HANGING)
    }
}

/// Returns a bar that shows the progress on a terminal, unless the output is for a program.
pub(super) fn bar(is_json: bool) -> ProgressBar {
    if is_json || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg:12} {bar:20} {human_pos} of {human_len}");
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    bar.set_style(style.expect("a literal template").progress_chars("━━╌"));
    bar
}

/// Reads a file with transactions, and with queries if its lines are envelopes.
pub(super) fn read_input(path: &Path, is_envelope: bool, user: &Name) -> Result<Input, UsageError> {
    let text = read(path)?;
    let file = path.display().to_string();
    let input = Input::read(&text, is_envelope, user);
    let input = input.map_err(|error| UsageError(format!("{}: {error}", file.escape_debug())))?;
    if input.transactions.is_empty() {
        let file = file.escape_debug();
        return Err(UsageError(format!("{file}: it has no transactions; write one on each line")));
    }
    Ok(input)
}

/// Reads a file of limited length.
fn read(path: &Path) -> Result<Vec<u8>, UsageError> {
    let file = path.display().to_string();
    let unreadable = |error: io::Error| {
        UsageError(format!("{}: cannot be read: {error}; name a file of transactions", file.escape_debug()))
    };
    let mut text = Vec::new();
    File::open(path).and_then(|opened| opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut text)).map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        let (file, limit) = (file.escape_debug(), Bytes(FILE_BYTES_MAX));
        return Err(UsageError(format!("{file}: it is over {limit} long, the limit; use fewer transactions")));
    }
    Ok(text)
}

/// Returns the findings as a table: transaction, finding and remedy, each broken to fit its column.
fn table(findings: &[Finding], columns: usize) -> String {
    if findings.is_empty() {
        return String::new();
    }
    let cell_columns = (columns.saturating_sub(PLACE_COLUMNS + 4) / 2).max(CELL_COLUMNS_MIN);
    let mut text = row(["transaction", "finding", "remedy"].map(|head| vec![head.to_owned()]), cell_columns);
    for finding in findings {
        let Finding { kind, is_warning, line, id, finding, remedy, .. } = finding;
        let mut place = vec![line.map_or_else(|| "-".to_owned(), |line| format!("line {}", grouped(line)))];
        let is_named = line.is_some_and(|line| id.as_deref() != Some(&format!("line-{line}")));
        if let Some(id) = id.as_ref().filter(|_| is_named) {
            place.extend(cells(&plain(id), PLACE_COLUMNS));
        }
        let warning = if *is_warning { "warning, " } else { "" };
        let mut what = vec![format!("{warning}{kind}:")];
        what.extend(cells(&plain(finding), cell_columns));
        text += &row([place, what, cells(remedy, cell_columns)], cell_columns);
    }
    text
}

/// Returns one row of the table, whose cells have several lines.
fn row(cells: [Vec<String>; 3], cell_columns: usize) -> String {
    let [place, finding, remedy] = cells;
    let lines = place.len().max(finding.len()).max(remedy.len());
    let mut text = String::new();
    for index in 0..lines {
        let cell = |lines: &[String]| lines.get(index).cloned().unwrap_or_default();
        let line = format!("{:<PLACE_COLUMNS$}  {:<cell_columns$}  {}", cell(&place), cell(&finding), cell(&remedy));
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Breaks text into lines of at most `columns` characters. A longer word is broken, too.
fn cells(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        loop {
            let line = lines.last_mut().expect("there is a line");
            let used = line.chars().count();
            let space = usize::from(used > 0);
            if used + space + word.len() <= columns {
                line.extend((space > 0).then_some(' ').into_iter().chain(word));
                break;
            }
            if used == 0 {
                line.extend(word.drain(..columns));
            }
            lines.push(String::new());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_check::Kind;

    #[test]
    fn the_table_fits_its_columns_and_loses_no_word() {
        let kind = Kind::all().next().expect("a kind");
        let long = "x".repeat(100);
        let finding = format!("the reply is {long} after a move, and 3 without");
        let (number, remedy) = (kind.number(), kind.remedy());
        let finding = Finding {
            kind,
            number,
            is_warning: false,
            line: Some(1_234),
            id: Some("a-long-id-of-a-user".into()),
            finding,
            remedy,
        };
        for columns in [40, 60, 80] {
            let text = table(std::slice::from_ref(&finding), columns);
            assert!(text.lines().all(|line| line.chars().count() <= columns), "{columns}:\n{text}");
            let letters = |text: &str| text.chars().filter(|c| *c == 'x').count();
            assert_eq!(letters(&text), 100 + letters(remedy));
            assert!(text.contains("line 1,234") && text.contains("state-lost:"), "{text}");
        }
        assert_eq!(table(&[], 80), "");
    }

    #[test]
    fn a_word_that_is_too_long_is_broken() {
        assert_eq!(cells("ab abcdefgh c", 4), ["ab", "abcd", "efgh", "c"]);
        assert_eq!(cells("", 4), [""]);
    }
}
