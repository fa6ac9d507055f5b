//! What a session prints about itself on standard error: as a sentence, or as JSON.

use super::super::output;
use super::super::run::counted;
use super::super::run::lines::Waiting;
use super::session::COMMANDS;
use lifeboat_api::meter::{Meter, Resource};
use lifeboat_api::name::Name;
use lifeboat_api::size::{Bytes, grouped};
use lifeboat_api::transaction::Outcome;
use serde::Serialize;
use std::fmt;

/// What a session did so far, beside requests.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    pub(super) builds: u64,
    pub(super) failed_builds: u64,
    pub(super) reloads: u64,
    pub(super) queries: u64,
}

/// Returns one line about how full a VM is.
pub(super) fn meters(vm: &str, fuel_used: Option<u64>, meter: &Meter) -> String {
    let fuel = fuel_used.map_or(String::new(), |fuel| format!("{} fuel: ", grouped(fuel)));
    let fill = |resource: Resource| format!("{resource} {:.1}%", meter.usage(resource).utilisation_percent());
    format!("  {fuel}{vm} {}", Resource::ALL.map(fill).join(", "))
}

/// The number of requests with each outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Outcomes {
    ok: u64,
    refused: u64,
    failed: u64,
    denied: u64,
    outcome_unknown: u64,
}

impl Outcomes {
    /// Takes the counts of each outcome. None stands for an unknown one.
    pub(super) fn of(count: impl Fn(Option<Outcome>) -> u64) -> Self {
        let [ok, refused, failed, denied] = Outcome::ALL.map(|outcome| count(Some(outcome)));
        Self { ok, refused, failed, denied, outcome_unknown: count(None) }
    }

    fn counts(self) -> impl Iterator<Item = (&'static str, u64)> {
        let Self { ok, refused, failed, denied, outcome_unknown } = self;
        let words = ["ok", "refused", "failed", "denied", "of unknown outcome"];
        words.into_iter().zip([ok, refused, failed, denied, outcome_unknown])
    }

    fn all(self) -> u64 {
        self.counts().map(|(_, count)| count).sum()
    }
}

/// What a session reports, as JSON: one object, whose `dev` names the variant.
#[derive(Debug, Serialize)]
#[serde(tag = "dev", rename_all = "snake_case")]
pub(super) enum Notice<'a> {
    Building {
        command: String,
    },
    BuildFailed {
        reason: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        output: Option<String>,
    },
    /// An order ends the build under way.
    BuildEnded {
        order: &'static str,
    },
    /// The module is missing or invalid, and no command builds it.
    NotLoaded {
        reason: String,
    },
    Serving {
        vm: String,
        module: String,
        bytes: u64,
        size: String,
    },
    NotStarted {
        reason: String,
    },
    Reloaded {
        from: String,
        to: String,
        state_bytes: u64,
        pause_ms: f64,
    },
    NotReloaded {
        service: &'a Name,
        reason: String,
        /// Whether the old guest serves.
        goes_on: bool,
        remedy: &'static str,
    },
    Unchanged {
        service: &'a Name,
    },
    GoesOn {
        service: &'a Name,
    },
    Waiting,
    Changed {
        file: String,
    },
    Partial {
        files: usize,
    },
    /// Files count as outputs from now on.
    Output {
        file: String,
        /// The number of files beside it.
        more: usize,
        builds: u32,
    },
    /// A change begins no build.
    Unbuilt {
        file: String,
        builds: u32,
    },
    Unknown {
        command: String,
    },
    Wrong {
        error: String,
    },
    NotDone(Waiting),
    Help {
        commands: Vec<&'static str>,
    },
    Ended {
        #[serde(flatten)]
        outcomes: Outcomes,
        failovers: u64,
        #[serde(flatten)]
        counts: Counts,
        is_well: bool,
    },
}

impl Notice<'_> {
    /// Returns the text for standard error, folded on a terminal.
    pub(super) fn text(&self) -> String {
        output::fitting_error(format!("{self}\n"))
    }
}

impl fmt::Display for Notice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Building { command } => write!(f, "Build: {command}"),
            Notice::BuildFailed { reason, output } => {
                write!(f, "{}Build failed: {reason}", output.as_deref().unwrap_or_default())
            }
            Notice::BuildEnded { order } => write!(f, "Build ended: {order} begins it anew"),
            Notice::NotLoaded { reason } => write!(f, "Not loaded: {reason}"),
            Notice::Serving { vm, module, bytes, size } => {
                write!(f, "Serving: {vm} of size {size}, from {module} ({})", Bytes(*bytes))
            }
            Notice::NotStarted { reason } => {
                write!(f, "Not started: {reason}; change the guest, or mend the cause and send :reload")
            }
            Notice::Reloaded { from, to, state_bytes, pause_ms } => {
                write!(f, "Reloaded: {from} -> {to} (state {}, pause {pause_ms:.1} ms)", Bytes(*state_bytes))
            }
            Notice::NotReloaded { service, reason, goes_on: true, remedy } => {
                write!(f, "Not reloaded: {reason}; the old guest of {service} goes on; {remedy}")
            }
            Notice::NotReloaded { reason, goes_on: false, remedy, .. } => {
                write!(f, "Not reloaded: {reason}; {remedy}")
            }
            Notice::Unchanged { service } => write!(f, "Unchanged: the module is the one that {service} runs"),
            Notice::GoesOn { service } => write!(f, "The guest of {service} goes on; a change is built again"),
            Notice::Waiting => write!(f, "No guest runs; a change or :reload builds again"),
            Notice::Changed { file } => write!(f, "Changed: {file}"),
            Notice::Partial { files } => write!(
                f,
                "The folder has more than {} files, and changes of the others are not seen; send :reload after them",
                grouped(*files as u64)
            ),
            Notice::Output { file, more, builds } => {
                write!(f, "Output: {file}")?;
                if *more > 0 {
                    write!(f, " and {}", counted(*more as u64, "more file"))?;
                }
                write!(
                    f,
                    ", changed in {builds} builds in a row; further changes during a build are taken for its own; send \
                     :reload after one that is yours"
                )
            }
            Notice::Unbuilt { file, builds } => write!(
                f,
                "Not built again: {file} changed during a build, and {builds} builds in a row began because of such \
                 changes; send :reload if the change is yours"
            ),
            Notice::Unknown { command } => write!(
                f,
                "Unknown command: {command}; :help shows the commands, and a transaction that begins with a colon is \
                 written with two"
            ),
            Notice::Wrong { error } => write!(f, "Not done: {error}"),
            Notice::NotDone(Waiting { lines, may_be_more: true }) => {
                write!(f, "Not done: {} or more lines that waited", grouped(*lines as u64))
            }
            Notice::NotDone(Waiting { lines, may_be_more: false }) => {
                write!(f, "Not done: {} that waited", counted(*lines as u64, "line"))
            }
            Notice::Help { .. } => {
                let lines: Vec<String> =
                    COMMANDS.iter().map(|(command, what)| format!("  {command:<12} {what}")).collect();
                f.write_str(&lines.join("\n"))
            }
            Notice::Ended { outcomes, failovers, counts, .. } => {
                let Counts { builds, failed_builds, reloads, .. } = counts;
                write!(f, "Ended: {}", counted(outcomes.all(), "request"))?;
                let counts = outcomes.counts().filter(|(_, count)| *count > 0);
                for (index, (outcome, count)) in counts.enumerate() {
                    write!(f, "{}{} {outcome}", if index == 0 { " (" } else { ", " }, grouped(count))?;
                }
                f.write_str(if outcomes.all() == 0 { "" } else { ")" })?;
                write!(f, ", {}, {}", counted(*failovers, "failover"), counted(*reloads, "reload"))?;
                match builds {
                    0 => Ok(()),
                    _ => write!(f, ", {} ({} failed)", counted(*builds, "build"), grouped(*failed_builds)),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_api::meter::{Levels, NetworkAmount};

    #[test]
    fn summary_names_only_outcomes_that_occurred() {
        let ended = |ok, refused, builds| Notice::Ended {
            outcomes: Outcomes { ok, refused, failed: 0, denied: 0, outcome_unknown: 0 },
            failovers: 1,
            counts: Counts { builds, failed_builds: builds / 3, reloads: 2, queries: 1 },
            is_well: true,
        };
        let rest = ", 1 failover, 2 reloads, 3 builds (1 failed)\n";
        assert_eq!(ended(1_000, 1, 3).text(), format!("Ended: 1,001 requests (1,000 ok, 1 refused){rest}"));
        assert_eq!(ended(0, 0, 3).text(), format!("Ended: 0 requests{rest}"));
        assert_eq!(ended(0, 0, 0).text(), "Ended: 0 requests, 1 failover, 2 reloads\n", "nothing was built");
    }

    #[test]
    fn outputs_are_reported_with_their_number_and_the_remedy() {
        let output = |more| Notice::Output { file: "a.txt".into(), more, builds: 3 }.to_string();
        assert!(output(0).starts_with("Output: a.txt, changed in 3 builds in a row; "), "{}", output(0));
        assert!(output(1).starts_with("Output: a.txt and 1 more file, changed in 3 "), "{}", output(1));
        assert!(output(2).contains(" and 2 more files, ") && output(2).contains("send :reload after"), "{}", output(2));
    }

    #[test]
    fn lines_that_waited_are_counted() {
        let not_done = |lines, may_be_more| Notice::NotDone(Waiting { lines, may_be_more });
        assert_eq!(not_done(1, false).to_string(), "Not done: 1 line that waited");
        assert_eq!(not_done(2, false).to_string(), "Not done: 2 lines that waited");
        assert_eq!(not_done(64, true).to_string(), "Not done: 64 or more lines that waited");
        let json = serde_json::to_value(not_done(2, false)).expect("JSON");
        assert_eq!(json, serde_json::json!({ "dev": "not_done", "lines": 2, "may_be_more": false }));
    }

    #[test]
    fn meters_of_a_reply_fit_80_columns() {
        let levels = Levels { memory_bytes: 16 << 20, disk_bytes: 64 << 20 };
        let network = NetworkAmount { calls: 1_000, bytes: 64 << 20 };
        let mut meter = Meter::new(50_000_000, network, levels, Levels { memory_bytes: 16 << 20, disk_bytes: 0 });
        meter.charge(50_000_000, levels);
        let line = meters("tally/12", Some(48_000_000), &meter);
        assert_eq!(line, "  48,000,000 fuel: tally/12 cpu 100.0%, network 0.0%, memory 100.0%, disk 100.0%");
        assert!(line.len() <= 80, "{}", line.len());
    }
}
