//! The results of a simulation: numbers for machines (`Serialize`) and tables for people (`Display`).
//!
//! Everything that differs between two runs with one seed is in objects named `timings`.

use crate::reconcile::{Finding, FindingKind};
use lifeboat_api::event::FailoverCause;
use lifeboat_api::id::Sequence;
use lifeboat_api::meter::Resource;
use lifeboat_api::name::Name;
use lifeboat_api::size::grouped;
use lifeboat_api::transaction::Outcome;
use lifeboat_host::service::Counts;
use serde::{Serialize, Serializer};
use std::fmt;
use std::time::Duration;

/// The report of a simulation.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The scenario's file, or `built-in`.
    pub scenario: String,
    /// The seed of all random numbers.
    pub seed: u64,
    /// Acknowledged transactions that are missing from their service's state.
    pub lost: u64,
    /// Transactions that took effect twice.
    pub duplicated: u64,
    /// Other ways in which the clients' records differ from what happened.
    pub diverged: u64,
    /// Each of those, as a sentence and as fields.
    pub findings: Vec<Finding>,
    /// The number of requests that users sent, including repetitions.
    pub requests: u64,
    /// The number of users.
    pub users: u64,
    /// The number of machines.
    pub machines: u64,
    /// The outcomes over all services.
    pub outcomes: Outcomes,
    /// The failovers over all services.
    pub failovers: Failovers,
    /// The reports of the services, in the scenario's order.
    pub services: Vec<ServiceReport>,
    /// The values that differ between runs.
    pub timings: RunTimings,
}

/// The report of one service.
#[derive(Debug, Clone, Serialize)]
pub struct ServiceReport {
    /// The name of the service.
    pub name: Name,
    /// Its workload: the name of an embedded workload, or the last part of a file's path.
    pub workload: String,
    /// The number of requests that users sent to it, including repetitions.
    pub requests: u64,
    /// The outcomes of these requests.
    pub outcomes: Outcomes,
    /// The number of these requests that were answered from a retained answer.
    pub repeated: u64,
    /// The number of SLA failures.
    pub sla_failures: u64,
    /// Failovers by cause.
    pub failovers: Failovers,
    /// The highest utilisation of each resource.
    pub peaks: Peaks,
    /// The number of the VM that served at the end.
    pub vm: String,
    /// The machine of that VM.
    pub machine: Name,
    /// The size of that VM.
    pub size: String,
    /// The sequence number of the last transaction.
    pub sequence: Sequence,
    /// The reason why it is degraded, if it is.
    pub degraded: Option<String>,
    /// The reason why it is unmovable, if it is.
    pub unmovable: Option<String>,
    /// The reason why it is stopped, if it is.
    pub stopped: Option<String>,
    /// The counts of its other operations.
    pub counts: Counts,
    /// The causes of failed and denied requests with their frequency, the most frequent first.
    pub failures: Vec<Failure>,
    /// The extent of the comparison with the clients' records.
    pub reconciliation: Reconciliation,
    /// The values that differ between runs.
    pub timings: PauseTimings,
}

/// Requests by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Outcomes {
    /// The guest answered.
    pub ok: u64,
    /// The guest answered `err`.
    pub refused: u64,
    /// The guest did not finish, and no change was retained.
    pub failed: u64,
    /// The request never reached the guest.
    pub denied: u64,
}

impl Outcomes {
    pub(super) fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Ok => self.ok += 1,
            Outcome::Refused => self.refused += 1,
            Outcome::Failed => self.failed += 1,
            Outcome::Denied => self.denied += 1,
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            ok: self.ok + other.ok,
            refused: self.refused + other.refused,
            failed: self.failed + other.failed,
            denied: self.denied + other.denied,
        }
    }
}

/// Failovers by cause. In JSON, the name of each cause has its number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Failovers([u64; FailoverCause::ALL.len()]);

impl Failovers {
    /// Returns the number of failovers for `cause`.
    #[must_use]
    pub fn of(self, cause: FailoverCause) -> u64 {
        self.0[cause as usize]
    }

    /// Returns the number of all failovers.
    #[must_use]
    pub fn all(self) -> u64 {
        self.0.iter().sum()
    }

    pub(super) fn count(&mut self, cause: FailoverCause) {
        self.0[cause as usize] += 1;
    }

    fn plus(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(sum, more)| *sum += more);
        self
    }
}

impl Serialize for Failovers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(FailoverCause::ALL.into_iter().map(|cause| (cause.to_string(), self.of(cause))))
    }
}

/// The highest utilisation of each resource, in percent, over all VMs of a service. In JSON, the keys are
/// `cpu_percent` and so on.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Peaks([f64; Resource::ALL.len()]);

impl Peaks {
    /// Returns the highest utilisation of `resource`.
    #[must_use]
    pub fn of(self, resource: Resource) -> f64 {
        self.0[resource as usize]
    }

    pub(super) fn of_mut(&mut self, resource: Resource) -> &mut f64 {
        &mut self.0[resource as usize]
    }
}

impl Serialize for Peaks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(Resource::ALL.into_iter().map(|it| (format!("{it}_percent"), self.of(it))))
    }
}

/// A cause of failed or denied requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// `failed` or `denied`.
    pub outcome: Outcome,
    /// The cause as reported to the clients.
    pub cause: String,
    /// The number of requests with this cause.
    pub transactions: u64,
}

/// The extent and result of the comparison for one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reconciliation {
    /// The number of acknowledged transactions that were executed again.
    pub records: u64,
    /// The number of queries whose answers were compared.
    pub queries: u64,
    /// The number of the scenario's queries that were not answered, so that there was nothing to compare.
    pub queries_unanswered: u64,
    /// Whether a model in plain Rust agreed. Null if the workload has no model, or if the model was skipped because the
    /// roomy VM had already disagreed.
    pub model_agrees: Option<bool>,
    /// The number of ways in which the records differ.
    pub findings: u64,
}

/// The pauses of a service during its failovers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PauseTimings {
    /// The median of all failovers.
    pub pause_p50_us: u64,
    /// The pause that 99 of 100 failovers do not exceed.
    pub pause_p99_us: u64,
    /// The longest pause.
    pub pause_max_us: u64,
}

impl PauseTimings {
    /// Summarises `pauses` by the nearest rank; zeros without failovers.
    pub(super) fn of(mut pauses: Vec<Duration>) -> Self {
        pauses.sort_unstable();
        let at = |percent: usize| {
            let rank = (pauses.len() * percent).div_ceil(100).max(1);
            let pause = pauses.get(rank - 1).copied().unwrap_or_default();
            u64::try_from(pause.as_micros()).unwrap_or(u64::MAX)
        };
        Self { pause_p50_us: at(50), pause_p99_us: at(99), pause_max_us: at(100) }
    }
}

/// The durations of the phases of the simulation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RunTimings {
    /// Compiling the workloads and starting the services, in milliseconds.
    pub start_ms: u64,
    /// Serving all requests, including failovers, in milliseconds.
    pub serve_ms: u64,
    /// Reconciling, in milliseconds.
    pub reconcile_ms: u64,
}

impl Report {
    /// Computes the totals over all services.
    pub(super) fn sum_up(&mut self) {
        let count = |kind| self.findings.iter().filter(|finding| finding.kind == kind).count() as u64;
        (self.lost, self.duplicated, self.diverged) =
            (count(FindingKind::Lost), count(FindingKind::Duplicated), count(FindingKind::Diverged));
        self.requests = self.services.iter().map(|service| service.requests).sum();
        self.outcomes = self.services.iter().fold(Outcomes::default(), |sum, service| sum.plus(service.outcomes));
        self.failovers = self.services.iter().fold(Failovers::default(), |sum, service| sum.plus(service.failovers));
    }

    /// Returns whether the answers to every client match what happened.
    #[must_use]
    pub fn is_reconciled(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.diverged == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Simulation of the {} scenario, seed {}: {} requests of {} to {} on {} in {:.1} s",
            self.scenario,
            self.seed,
            grouped(self.requests),
            plural(self.users, "user"),
            plural(self.services.len() as u64, "service"),
            plural(self.machines, "machine"),
            seconds(self.timings.serve_ms),
        )?;
        writeln!(f, "\n{}", self.requests_table())?;
        writeln!(f, "{}", self.failovers_table())?;
        writeln!(f, "{}", self.vms_table())?;
        writeln!(f, "{}", self.maintenance_table())?;
        self.write_conditions(f)?;
        write!(f, "{}", self.reconciliation_table())?;
        self.write_verdict(f)
    }
}

impl Report {
    fn requests_table(&self) -> Table {
        let mut table =
            Table::new(&["Requests", "workload<", "sent", "ok", "refused", "failed", "denied", "answered again"]);
        let row = |name: &str, workload: &str, requests, outcomes: Outcomes, repeated| {
            let Outcomes { ok, refused, failed, denied } = outcomes;
            let counts = [requests, ok, refused, failed, denied, repeated].map(grouped);
            [name.to_owned(), workload.to_owned()].into_iter().chain(counts).collect()
        };
        for service in &self.services {
            table.push(row(&service.name, &service.workload, service.requests, service.outcomes, service.repeated));
        }
        let repeated = self.services.iter().map(|service| service.repeated).sum();
        table.push(row("total", "", self.requests, self.outcomes, repeated));
        table
    }

    fn failovers_table(&self) -> Table {
        let causes = FailoverCause::ALL.map(|cause| cause.to_string());
        let headings = ["Failovers"].into_iter().chain(causes.iter().map(String::as_str));
        let headings: Vec<&str> = headings.chain(["p50 ms", "p99 ms", "max ms"]).collect();
        let mut table = Table::new(&headings);
        let row = |name: &str, failovers: Failovers, pauses: [String; 3]| {
            let counts = FailoverCause::ALL.map(|cause| grouped(failovers.of(cause)));
            [name.to_owned()].into_iter().chain(counts).chain(pauses).collect()
        };
        for ServiceReport { name, failovers, timings, .. } in &self.services {
            let pauses = [timings.pause_p50_us, timings.pause_p99_us, timings.pause_max_us];
            let has_paused = failovers.all() > 0;
            let shown = pauses.map(|pause| if has_paused { milliseconds(pause) } else { "-".into() });
            table.push(row(name, *failovers, shown));
        }
        table.push(row("total", self.failovers, [const { String::new() }; 3]));
        table
    }

    fn vms_table(&self) -> Table {
        // The first of the peaks says so for all of them: 80 columns are enough.
        let is_first = |resource| resource == Resource::ALL[0];
        let peaks = Resource::ALL.map(|it| if is_first(it) { format!("peak {it}") } else { it.to_string() });
        let headings = ["Last VM", "on<", "size<"].into_iter().chain(peaks.iter().map(String::as_str));
        let headings: Vec<&str> = headings.chain(["SLA failures"]).collect();
        let mut table = Table::new(&headings);
        for ServiceReport { vm, machine, size, peaks, sla_failures, .. } in &self.services {
            let peaks = Resource::ALL.map(|resource| format!("{:.1}%", peaks.of(resource)));
            let row = [vm.clone(), machine.to_string(), size.clone()].into_iter().chain(peaks);
            table.push(row.chain([grouped(*sla_failures)]).collect());
        }
        table
    }

    fn maintenance_table(&self) -> Table {
        let mut table = Table::new(&["Maintenance", "snapshots", "rollbacks", "replayed"]);
        for ServiceReport { name, counts, .. } in &self.services {
            let counts = [counts.snapshots, counts.rollbacks, counts.replayed_transactions].map(grouped);
            table.push([name.to_string()].into_iter().chain(counts).collect());
        }
        table
    }

    fn write_conditions(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut has_any = false;
        for ServiceReport { name, failures, degraded, unmovable, stopped, .. } in &self.services {
            for Failure { outcome, cause, transactions } in failures {
                writeln!(f, "{name}: {} {outcome}: {cause}", grouped(*transactions))?;
                has_any = true;
            }
            for (condition, reason) in [("degraded", degraded), ("unmovable", unmovable), ("stopped", stopped)] {
                if let Some(reason) = reason {
                    writeln!(f, "{name} is {condition}: {reason}")?;
                    has_any = true;
                }
            }
        }
        if has_any { writeln!(f) } else { Ok(()) }
    }

    fn reconciliation_table(&self) -> Table {
        let mut table = Table::new(&["Reconciliation", "records", "queries", "in one roomy VM<", "in plain Rust<"]);
        for ServiceReport { name, reconciliation, .. } in &self.services {
            let Reconciliation { records, queries, queries_unanswered, model_agrees, findings } = reconciliation;
            let unanswered = match queries_unanswered {
                0 => String::new(),
                unanswered => format!(" ({unanswered} not answered)"),
            };
            table.push(vec![
                name.to_string(),
                grouped(*records),
                format!("{}{unanswered}", grouped(*queries)),
                match (*records + *queries, *findings == 0 || *model_agrees == Some(false)) {
                    (0, _) => "nothing to compare",
                    (_, true) => "equal",
                    (_, false) => "DIFFERENT",
                }
                .to_owned(),
                match model_agrees {
                    _ if *records + *queries == 0 => "-",
                    Some(true) => "equal",
                    Some(false) => "DIFFERENT",
                    None => "-",
                }
                .to_owned(),
            ]);
        }
        table
    }

    fn write_verdict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        for (kind, word) in
            [(FindingKind::Lost, "lost"), (FindingKind::Duplicated, "duplicated"), (FindingKind::Diverged, "diverged")]
        {
            for finding in self.findings.iter().filter(|finding| finding.kind == kind) {
                writeln!(f, "{word} 1: {finding}")?;
            }
        }
        let diverged = if self.diverged > 0 { format!(", diverged {}", self.diverged) } else { String::new() };
        writeln!(f, "lost {}, duplicated {}{diverged}", self.lost, self.duplicated)
    }
}

fn plural(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(count), if count == 1 { "" } else { "s" })
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1e3
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn milliseconds(microseconds: u64) -> String {
    format!("{:.2}", microseconds as f64 / 1e3)
}

/// Rows of text in columns as wide as their widest cell. The first column, and those whose heading ends in `<`, are
/// left-aligned; the others are right-aligned.
struct Table {
    left: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(headings: &[&str]) -> Self {
        let left = headings.iter().enumerate().map(|(index, heading)| index == 0 || heading.ends_with('<')).collect();
        let row = headings.iter().map(|heading| heading.trim_end_matches('<').to_owned()).collect();
        Self { left, rows: vec![row] }
    }

    fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.left.len()).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let gap = if column == 0 { "" } else { "  " };
                let width = widths[column];
                line +=
                    &if self.left[column] { format!("{gap}{cell:<width$}") } else { format!("{gap}{cell:>width$}") };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_ranked() {
        let pauses = (1..=200).rev().map(Duration::from_micros).collect();
        assert_eq!(PauseTimings::of(pauses), PauseTimings { pause_p50_us: 100, pause_p99_us: 198, pause_max_us: 200 });
        assert_eq!(PauseTimings::of(vec![Duration::from_micros(5)]).pause_p50_us, 5);
        assert_eq!(PauseTimings::of(Vec::new()), PauseTimings::default());
    }

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["Name", "size<", "n"]);
        table.push(vec!["a".into(), "small".into(), "1,000".into()]);
        table.push(vec!["tally".into(), "s".into(), "7".into()]);
        assert_eq!(table.to_string(), "Name   size       n\na      small  1,000\ntally  s          7\n");
    }
}
