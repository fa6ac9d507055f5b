//! `lifeboat data verify`: checks and replays the services of a data directory.

use super::super::{FindingError, code_cache, exit, is_pipe_open, output};
use super::directory::{Directory, memories_max, read, runtime};
use super::services::{journal_json, journal_lines, orphan_line};
use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lifeboat_api::lines::json_lines;
use lifeboat_api::name::Name;
use lifeboat_api::size::grouped;
use lifeboat_api::text::{Printable, plain};
use lifeboat_host::data::{Contents, FoundService, Locked};
use lifeboat_host::scratch::{Scratch, StateError};
use lifeboat_host::verify::{Finding, Proof, transactions, verify};
use lifeboat_journal::storage::Storage;
use lifeboat_vm::rehydrate::RehydrateError;
use serde_json::json;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

const AFTER_HELP: &str = "\
The command compares the journal, the snapshots and the workloads with their hashes. It then executes every transaction
since the oldest snapshot again in a scratch VM: each answer must be the recorded one, and at each newer snapshot the
state must be the stored one. Failed transactions changed nothing; they are counted but not executed again. Queries
between the transactions are executed again, because they may have changed the instance. Nothing is changed.";

/// The interval between two drawings of the progress.
const DRAW_INTERVAL: Duration = Duration::from_millis(100);

/// Arguments of `data verify`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Verify {
    #[command(flatten)]
    directory: Directory,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
    /// The service to verify [default: all]
    #[arg(value_name = "SERVICE")]
    service: Option<Name>,
}

impl Verify {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let (locked, contents) = match self.read() {
            Ok(read) => read,
            // A finding means that the directory differs from what was written. Any other error means that it cannot be
            // read.
            Err(error) if error.is::<FindingError>() => {
                let reason = plain(&format!("{error:#}"));
                let text = if self.json {
                    json_lines(&json!({"services": [], "directory": reason}))?
                } else {
                    output::fitting(format!("directory damaged: {reason}\n"))
                };
                is_pipe_open(io::stdout().write_all(text.as_bytes()))?;
                return Ok(ExitCode::from(exit::SOME_NOT_OK));
            }
            Err(error) => return Err(error),
        };
        let is_wanted = |found: &&FoundService| self.service.as_ref().is_none_or(|service| found.name == *service);
        let wanted: Vec<&FoundService> = contents.services.iter().filter(is_wanted).collect();
        if let (Some(service), []) = (&self.service, &wanted[..]) {
            return Err(self.directory.no_service(service, &contents.orphans));
        }
        let orphans = if self.service.is_none() { &contents.orphans[..] } else { &[] };
        let mut proofs = Vec::new();
        let journal = output::fitting(journal_lines(&contents.recovery));
        if !self.json && !is_pipe_open(io::stdout().write_all(journal.as_bytes()))? {
            return Ok(ExitCode::from(exit::OK));
        }
        let runtime = runtime()?;
        let hashes = wanted.iter().map(|found| &found.entry.workload);
        let memories = memories_max(&**locked.storage(), hashes, None);
        let sizes = wanted.iter().flat_map(|found| &found.entry.settings.sizes);
        let scratch = Scratch::with_memories(memories, sizes, code_cache::of_read_directory(self.directory.path())?)?;
        for found in wanted {
            let bar = bar(found, self.json);
            let mut progress = |transactions| bar.inc(transactions);
            let proof = runtime.block_on(verify(&scratch, &**locked.storage(), found, &mut progress));
            bar.finish_and_clear();
            let cannot_verify = || format!("cannot verify service '{}'", found.name);
            let proof = proof.with_context(cannot_verify)?;
            if !self.json {
                let way_on = self.way_on_line(&scratch, &**locked.storage(), found, &proof);
                let way_on = runtime.block_on(way_on).with_context(cannot_verify)?;
                let text = output::fitting(lines(&proof) + &trusted_line(found, &proof) + &way_on);
                is_pipe_open(io::stdout().write_all(text.as_bytes()))?;
            }
            proofs.push(proof);
        }
        if self.json {
            let orphans: Vec<_> = orphans
                .iter()
                .map(|orphan| json!({"name": orphan.name, "reason": self.directory.reason(orphan)}))
                .collect();
            let report = json!({"services": proofs, "orphans": orphans, "journal": journal_json(&contents.recovery)});
            is_pipe_open(io::stdout().write_all(json_lines(&report)?.as_bytes()))?;
        } else {
            let text = orphans.iter().map(|orphan| orphan_line(orphan, &self.directory)).collect();
            is_pipe_open(io::stdout().write_all(output::fitting(text).as_bytes()))?;
        }
        let is_sound = contents.recovery.damages.is_empty() && orphans.is_empty();
        let is_proven = is_sound && proofs.iter().all(|proof| proof.findings.is_empty());
        Ok(ExitCode::from(if is_proven { exit::OK } else { exit::SOME_NOT_OK }))
    }

    /// Returns what an operator may do if a transaction diverges. The proof replays from the oldest snapshot, and a
    /// start from the newest: only a divergence of the latter stops the service, and can be accepted.
    async fn way_on_line(
        &self,
        scratch: &Scratch,
        storage: &dyn Storage,
        found: &FoundService,
        proof: &Proof,
    ) -> anyhow::Result<String> {
        let is_diverged = proof.findings.iter().any(|finding| matches!(finding, Finding::Diverged { .. }));
        // The finding of a quarantine has a remedy of its own.
        if !is_diverged || found.standing.is_err() {
            return Ok(String::new());
        }
        let program = scratch.program(storage, found).await?;
        let way_on = match scratch.state(storage, &program, found, None).await {
            Err(StateError::Rehydrate(RehydrateError::Diverged { sequence, .. })) => {
                self.directory.way_on(&found.name, sequence)
            }
            Err(StateError::Rehydrate(error)) if !error.is_transient() => format!("no start succeeds: {error}"),
            Err(error) => return Err(error.into()),
            Ok(_) => "a start is not affected: its replay from the newest snapshot ends as recorded".into(),
        };
        Ok(format!("{}: {}\n", found.name, Printable(&way_on)))
    }

    fn read(&self) -> anyhow::Result<(Locked, Contents)> {
        let locked = self.directory.open_read_only()?;
        let contents = read(&locked, None)?;
        Ok((locked, contents))
    }
}

/// Returns a bar that shows the progress of one service on a terminal.
fn bar(found: &FoundService, is_json: bool) -> ProgressBar {
    if is_json || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} {bar:20} {human_pos} of {human_len} transactions");
    let bar = ProgressBar::with_draw_target(Some(transactions(found)), ProgressDrawTarget::stderr());
    bar.set_style(style.expect("a literal template").progress_chars("━━╌"));
    bar.set_message(found.name.to_string());
    bar.enable_steady_tick(DRAW_INTERVAL);
    bar
}

fn lines(proof: &Proof) -> String {
    let Proof {
        service,
        after,
        through,
        replayed_transactions,
        failed_transactions,
        replayed_queries,
        agreeing_snapshots,
        findings,
        ..
    } = proof;
    let counted = |count: u64, noun: &str| format!("{} {noun}{}", grouped(count), if count == 1 { "" } else { "s" });
    let queries = match *replayed_queries {
        0 => String::new(),
        1 => " and 1 query".into(),
        queries => format!(" and {} queries", grouped(queries)),
    };
    let failed = match *failed_transactions {
        0 => String::new(),
        failed => format!(", {} failed and changed nothing", grouped(failed)),
    };
    let done = format!(
        "from transaction {} to {}: {}{queries} replayed{failed}, {} compared",
        grouped(after.0),
        grouped(through.0),
        counted(*replayed_transactions, "transaction"),
        counted(*agreeing_snapshots, "snapshot"),
    );
    if findings.is_empty() {
        return format!("{service}: proven {done}\n");
    }
    let mut text: String =
        findings.iter().map(|finding| format!("{service}: {}\n", Printable(&finding.to_string()))).collect();
    text += &format!("{service}: not proven as a whole; proven {done}\n");
    text
}

/// Names the state of a quarantined service that `query` and `snapshot` use.
fn trusted_line(found: &FoundService, proof: &Proof) -> String {
    match (&found.standing, proof.trusted) {
        (Err(_), Some(sequence)) => {
            format!(
                "{}: its state after transaction {} is the last that can be trusted\n",
                found.name,
                grouped(sequence.0)
            )
        }
        _ => String::new(),
    }
}
