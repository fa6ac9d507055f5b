//! What a check found.

use crate::kind::Kind;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;

/// A bug, where it showed first, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The kind of bug.
    pub kind: Kind,
    /// The number of the kind in `docs/check.md`.
    pub number: &'static str,
    /// Whether it is a warning: the service works, but not for ever, or not well.
    #[serde(rename = "warning")]
    pub is_warning: bool,
    /// The line of the transaction at which it showed. None if it belongs to no transaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The id of that transaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What was seen, on one line.
    pub finding: String,
    /// What to do about it.
    pub remedy: &'static str,
}

impl Finding {
    /// Creates a finding that belongs to no transaction.
    pub(crate) fn new(kind: Kind, finding: String) -> Self {
        Self {
            kind,
            number: kind.number(),
            is_warning: kind.is_warning(),
            line: None,
            id: None,
            finding,
            remedy: kind.remedy(),
        }
    }
}

/// The result of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The name of the workload.
    pub workload: String,
    /// The number of transactions that were executed.
    pub transactions: usize,
    /// Of these, the number with each outcome.
    pub outcomes: Outcomes,
    /// The number of queries that were asked at each boundary between two transactions.
    pub queries: usize,
    /// The number of boundaries at which the guest was moved.
    pub moves: usize,
    /// The first transaction that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_failure: Option<Failure>,
    /// What was found, at most one finding of each kind, in the order of the kinds.
    pub findings: Vec<Finding>,
    /// What was found of the kinds that are allowed.
    pub allowed: Vec<Finding>,
    /// What could not be checked, and why.
    pub unchecked: Vec<String>,
}

/// The number of transactions with each outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Outcomes {
    /// Those that were answered.
    pub ok: usize,
    /// Those that the guest refused.
    pub refused: usize,
    /// Those that failed.
    pub failed: usize,
}

/// A transaction that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Its line.
    pub line: u64,
    /// Its id.
    pub id: String,
    /// Why it failed, on one line.
    pub cause: String,
    /// The next size that has more of the fuel or time that it lacked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub larger_size: Option<String>,
}

impl Report {
    /// Returns the kinds that were found.
    #[must_use]
    pub fn kinds(&self) -> Vec<Kind> {
        self.findings.iter().map(|finding| finding.kind).collect()
    }

    /// Returns whether nothing was found, except for warnings.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|finding| finding.is_warning)
    }

    /// Returns whether no transaction was `ok`. Then nothing but refusals and failures was compared.
    #[must_use]
    pub fn has_no_ok(&self) -> bool {
        self.outcomes.ok == 0
    }

    /// Leaves out findings that are the consequence of another one.
    pub(crate) fn leave_out_consequences(&mut self) {
        // A descriptor that an instance keeps is what its memory knows of the files.
        if self.kinds().contains(&Kind::StaleDescriptor) {
            self.findings.retain(|finding| finding.kind != Kind::DiskDisagrees);
        }
    }

    /// Sets findings of these kinds apart.
    pub(crate) fn allow(&mut self, kinds: &BTreeSet<Kind>) {
        let findings = std::mem::take(&mut self.findings).into_iter();
        (self.allowed, self.findings) = findings.partition(|finding| kinds.contains(&finding.kind));
    }

    /// Adds a finding, unless there is one of its kind.
    pub(crate) fn add(&mut self, finding: Finding) {
        if self.findings.iter().all(|found| found.kind != finding.kind) {
            self.findings.push(finding);
            self.findings.sort_by_key(|finding| finding.kind);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            let Finding { kind, line, finding, remedy, .. } = finding;
            let place = line.map_or_else(String::new, |line| format!("line {line}: "));
            writeln!(f, "{kind}: {place}{finding}; {remedy}")?;
        }
        for Finding { kind, finding, .. } in &self.allowed {
            writeln!(f, "allowed: {kind}: {finding}")?;
        }
        for reason in &self.unchecked {
            writeln!(f, "not checked: {reason}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_memory_disagrees_with_are_no_second_finding_beside_a_stale_descriptor() {
        let report = |kinds: &[Kind]| {
            let mut report = Report::default();
            for kind in kinds {
                report.add(Finding::new(*kind, "seen".into()));
            }
            report.leave_out_consequences();
            report.kinds()
        };
        assert_eq!(report(&[Kind::DiskDisagrees, Kind::StaleDescriptor]), [Kind::StaleDescriptor]);
        assert_eq!(report(&[Kind::DiskDisagrees, Kind::DiskLitter]), [Kind::DiskLitter, Kind::DiskDisagrees]);
    }
}
