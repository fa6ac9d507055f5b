//! `lifeboat data services`: lists the services of a data directory.

use super::super::{exit, is_pipe_open, output, table};
use super::directory::{Directory, read};
use clap::Args;
use lifeboat_api::clock::Utc;
use lifeboat_api::lines::json_lines;
use lifeboat_api::size::{Bytes, grouped};
use lifeboat_api::text::Printable;
use lifeboat_host::data::{Contents, FoundService, FoundSnapshot, Orphan};
use lifeboat_journal::recovery::{Recovery, SealState};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::process::ExitCode;

/// The number of characters of a workload's hash in the table.
const HASH_CHARS: usize = 12;

const AFTER_HELP: &str = "\
Columns:
  last       the last transaction
  vm, size   the VM that serves, or will serve after the next start, and its size
  snapshot   the last transaction of the newest intact snapshot, and the bytes of state in it
  journal    bytes of records of the service
  ids        ids of clients in the deduplication window; the oldest of them was answered at `oldest id`
  state      intact; or quarantined, and the reason: then the service is not started";

/// Arguments of `data services`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Services {
    #[command(flatten)]
    directory: Directory,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

impl Services {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let contents = read(&self.directory.open_read_only()?, None)?;
        let text = match self.json {
            true => json_lines(&as_json(&contents))?,
            false => output::fitting(table(&contents, &self.directory)),
        };
        is_pipe_open(io::stdout().write_all(text.as_bytes()))?;
        let is_sound = |found: &FoundService| {
            found.standing.is_ok() && found.damaged_snapshots.is_empty() && found.unreadable_snapshots.is_empty()
        };
        let is_whole = contents.recovery.damages.is_empty() && contents.orphans.is_empty();
        let is_all_sound = is_whole && contents.services.iter().all(is_sound);
        Ok(ExitCode::from(if is_all_sound { exit::OK } else { exit::SOME_NOT_OK }))
    }
}

/// The facts about one service in the table.
struct Row<'a> {
    found: &'a FoundService,
    newest: Option<&'a FoundSnapshot>,
    vm_number: u64,
    size: String,
}

impl<'a> Row<'a> {
    fn new(found: &'a FoundService) -> Self {
        let newest = found.trusted().next();
        let resume_point = newest.map(|newest| found.resume_point(newest, found.records_after(newest)));
        let (vm_number, size) =
            resume_point.map(|resume_point| (resume_point.vm_number, resume_point.size)).unwrap_or_default();
        Self { found, newest, vm_number, size }
    }

    fn cells(&self) -> [String; 10] {
        let Self { found, newest, vm_number, size } = self;
        let (ids, oldest_id) = found.ids();
        [
            found.name.to_string(),
            found.entry.workload.to_string().chars().take(HASH_CHARS).collect(),
            grouped(found.last_transaction().0),
            if *vm_number == 0 { "-".into() } else { format!("{}/{vm_number}", found.name) },
            if size.is_empty() { "-".into() } else { Printable(size).to_string() },
            newest.map_or("none".into(), |newest| {
                format!("{} ({})", grouped(newest.sequence().0), Bytes(newest.state_bytes()))
            }),
            Bytes(found.journal_bytes).to_string(),
            grouped(ids as u64),
            oldest_id.map_or("-".into(), |time| format!("{:.0}", Utc(time))),
            match &found.standing {
                Err(reason) => format!("quarantined: {reason}"),
                Ok(()) if self.is_never_restored() => "intact (never restored: lifeboat data verify tries it)".into(),
                Ok(()) => "intact".into(),
            },
        ]
    }

    /// Returns whether a restore of the service's state is unproven. Only a state that was restored once becomes a
    /// snapshot.
    fn is_never_restored(&self) -> bool {
        self.found.last_transaction().0 > 0 && self.newest.is_none_or(|newest| newest.file.is_none())
    }

    fn as_json(&self) -> Value {
        let Self { found, newest, vm_number, size } = self;
        let (ids, oldest_id) = found.ids();
        let files = |files: &[(String, String)]| -> Vec<Value> {
            files.iter().map(|(file, reason)| json!({"file": file, "reason": reason})).collect()
        };
        json!({
            "name": found.name,
            "workload": found.entry.workload.to_string(),
            "last_transaction": found.last_transaction(),
            "vm": vm_number,
            "size": size,
            "snapshot": newest.map(|newest| json!({
                "sequence": newest.sequence(), "state_bytes": newest.state_bytes(), "file": newest.file,
            })),
            "never_restored": self.is_never_restored(),
            "damaged_snapshots": files(&found.damaged_snapshots),
            "unreadable_snapshots": files(&found.unreadable_snapshots),
            "journal_bytes": found.journal_bytes,
            // Only a server knows the length of the queue.
            "queue_length": null,
            "ids": ids,
            "oldest_id": oldest_id.map(|time| format!("{:.9}", Utc(time))),
            "calls_in_doubt": found.doubts().len(),
            "state": if found.standing.is_ok() { "intact" } else { "quarantined" },
            "reason": found.standing.as_ref().err(),
            "network": found.entry.settings.network,
            "accepted_divergences": found.entry.accepted_divergences,
        })
    }
}

fn as_json(contents: &Contents) -> Value {
    let Contents { services, orphans, ending, recovery, .. } = contents;
    json!({
        "services": services.iter().map(|found| Row::new(found).as_json()).collect::<Vec<_>>(),
        "journal": journal_json(recovery),
        "orphans": orphans.iter().map(|orphan| &orphan.name).collect::<Vec<_>>(),
        "ending": ending,
    })
}

/// Returns the state of the whole journal as JSON.
pub(crate) fn journal_json(recovery: &Recovery) -> Value {
    json!({
        "seal": match recovery.seal {
            SealState::Compared => "kept",
            SealState::Absent => "absent",
            SealState::Outdated => "outdated",
        },
        "frames": recovery.frames,
        "end": recovery.end.0,
        "torn_at": recovery.torn.as_ref().map(|torn| torn.position.0),
        "damages": recovery.damages.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn table(contents: &Contents, directory: &Directory) -> String {
    let head = ["name", "workload", "last", "vm", "size", "snapshot", "journal", "ids", "oldest id", "state"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(contents.services.iter().map(|found| Row::new(found).cells().to_vec()));
    let mut text = table::terminal_table(&rows);
    for found in &contents.services {
        for (_, reason) in &found.damaged_snapshots {
            text += &format!("{}: snapshot damaged: {reason}\n", found.name);
        }
        for (_, reason) in &found.unreadable_snapshots {
            text += &format!("{}: old snapshot unreadable, and not needed: {reason}\n", found.name);
        }
        let doubts = found.doubts().len();
        if doubts > 0 {
            let (name, option) = (&found.name, directory.option());
            text += &format!("{name}: calls in doubt: {doubts}; lifeboat data doubts {option} {name} lists them\n");
        }
    }
    for orphan in &contents.orphans {
        text += &orphan_line(orphan, directory);
    }
    for name in &contents.ending {
        text += &format!("{name}: was not fully created, or was removed: the next start ends its journal\n");
    }
    text += &journal_lines(&contents.recovery);
    text
}

/// Describes a service that is missing from the catalog.
pub(crate) fn orphan_line(orphan: &Orphan, directory: &Directory) -> String {
    format!("{}: quarantined: {}\n", orphan.name, directory.reason(orphan))
}

/// Describes the state of the whole journal.
pub(crate) fn journal_lines(recovery: &Recovery) -> String {
    let seal = match recovery.seal {
        SealState::Compared => "sealed by a clean stop",
        SealState::Absent if recovery.frames == 0 => "empty",
        SealState::Absent => "not sealed: the host did not stop cleanly",
        SealState::Outdated => "not sealed: it continues after an older seal",
    };
    let frames = if recovery.frames == 1 { "1 frame".into() } else { format!("{} frames", grouped(recovery.frames)) };
    let mut text = format!("journal: {seal} ({frames}, ends at position {})\n", grouped(recovery.end.0));
    if let Some(torn) = &recovery.torn {
        let position = grouped(torn.position.0);
        text += &format!(
            "journal: torn at position {position}: the host went down while it wrote the last frame, and nothing in it \
             was acknowledged; or the disk damaged the frame\n"
        );
    }
    for damage in &recovery.damages {
        text += &format!("journal damaged: {damage}\n");
    }
    text
}
