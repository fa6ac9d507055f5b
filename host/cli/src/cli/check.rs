//! `lifeboat check`: finds the bugs of a workload that only a host would meet.

use super::sample::{Sample, UnstartableWorkload, made, with_progress};
use super::{arguments, code_cache, data, exit, help, is_pipe_open, load_workload, output};
use clap::Args;
use lifeboat_api::lines::json_lines;
use lifeboat_api::size::grouped;
use lifeboat_api::text::plain;
use lifeboat_check::{Failure, Finding, Guest, Kind, Report};
use lifeboat_host::portable::Portable;
use serde_json::json;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

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
and {}. Nothing is written but compiled code, which lifeboat run keeps and uses as well.

Example:
  lifeboat check counter.wasm --transactions transactions.jsonl --query '\"total\"'";

/// Arguments of `check`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Check {
    #[command(flatten)]
    sample: Sample,
    /// Also check that the workload restores this state, a file that lifeboat data snapshot wrote
    #[arg(long, value_name = "SNAPSHOT")]
    from: Option<PathBuf>,
    /// Warnings count as findings for the exit code
    #[arg(long)]
    strict: bool,
    /// A finding of this kind is no finding for the exit code; may be repeated
    #[arg(long = "allow", value_name = "KIND", value_parser = kind_named)]
    allowed: Vec<Kind>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// The workload: a component, a core module, or either as text
    #[arg(value_name = "WORKLOAD")]
    workload: PathBuf,
}

impl Check {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let (size, input) = (self.sample.size()?, self.sample.input()?.allowing(self.allowed.iter().copied()));
        let older = self.from.as_deref().map(Portable::read).transpose().map_err(data::sorted)?;
        let (workload, _) = load_workload(&self.workload)?;
        let guest = made(Guest::with_cache(workload, size, code_cache::of_user()?))?;
        let older = older.as_ref().map(|older| &older.snapshot);
        let report = with_progress(self.json, |progress| guest.check_with(&input, older, progress));
        let report = report.map_err(|error| UnstartableWorkload::new(&self.workload, error))?;
        let text = if self.json { json_lines(&self.json_of(&report))? } else { self.text_of(&report) };
        is_pipe_open(io::stdout().write_all(text.as_bytes()))?;
        if report.has_no_ok() {
            let file = self.sample.transactions.display();
            let reason = report.first_failure.as_ref().map_or_else(String::new, reason_of);
            output::note(&format!("lifeboat: no transaction was ok: is {file} for this workload?{reason}"));
        }
        Ok(ExitCode::from(if self.is_ok(&report) { exit::OK } else { exit::SOME_NOT_OK }))
    }

    fn is_ok(&self, report: &Report) -> bool {
        let is_sound = if self.strict { report.findings.is_empty() } else { report.is_sound() };
        // Then only refusals and failures were compared, which says nothing about the workload.
        is_sound && !report.has_no_ok()
    }

    fn json_of(&self, report: &Report) -> serde_json::Value {
        let mut value = json!({ "ok": self.is_ok(report), "no_ok": report.has_no_ok() });
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
        for Finding { kind, line, finding, .. } in &report.allowed {
            let place = line.map_or_else(String::new, |line| format!("line {}: ", grouped(line)));
            text += &help::fitting(format!("allowed: {kind}: {place}{}\n", plain(finding)), Some(columns), HANGING);
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

/// Parses the name of a kind of findings.
fn kind_named(name: &str) -> Result<Kind, String> {
    Kind::named(name).ok_or_else(|| {
        let names: Vec<&str> = Kind::all().map(Kind::name).collect();
        format!("there is no kind {}: use one of {}", arguments::shown(name), names.join(", "))
    })
}

/// Describes the first failure, as the end of a line.
fn reason_of(failure: &Failure) -> String {
    let Failure { line, cause, larger_size, .. } = failure;
    let size = larger_size.as_ref().map_or_else(String::new, |size| format!("; or check it with --size {size}"));
    format!(" Line {} failed: {}{size}", grouped(*line), plain(cause))
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

    #[test]
    fn the_table_fits_its_columns_and_loses_no_word() {
        let kind = Kind::StateLost;
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
