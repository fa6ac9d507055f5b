//! What `check` and `profile` share: the options for the transactions and queries of a workload, and the progress of
//! their runs.

use super::{UsageError, arguments};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lifeboat_api::name::Name;
use lifeboat_api::size::{Bytes, Size};
use lifeboat_check::{Guest, GuestError, Input};
use lifeboat_vm::instance::MoveError;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The most bytes of a file of transactions or queries.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// The transactions and queries of a workload, and the size of its VM.
#[derive(Debug, Args)]
pub(crate) struct Sample {
    /// Execute the transactions in FILE
    #[arg(long, value_name = "FILE")]
    pub(super) transactions: PathBuf,
    /// Lines are JSON objects with an id, a user and a body
    #[arg(long)]
    envelope: bool,
    /// Also ask this query; may be repeated
    #[arg(long = "query", value_name = "BODY")]
    queries: Vec<String>,
    /// The user of transactions that name none, and of --query
    #[arg(long, value_name = "NAME", default_value = "operator")]
    user: Name,
    /// The size of the VM [default: small]
    #[arg(long, value_name = "NAME")]
    size: Option<String>,
}

impl Sample {
    /// Reads the transactions, and the queries of both the file and the options.
    pub(super) fn input(&self) -> Result<Input, UsageError> {
        let text = read(&self.transactions)?;
        let file = self.transactions.display().to_string();
        let input = Input::read(&text, self.envelope, &self.user);
        let mut input = input.map_err(|error| UsageError(format!("{}: {error}", file.escape_debug())))?;
        if input.transactions.is_empty() {
            let file = file.escape_debug();
            return Err(UsageError(format!("{file}: it has no transactions; write one on each line")));
        }
        for query in &self.queries {
            input.add_query(self.user.clone(), query.clone().into());
        }
        Ok(input)
    }

    pub(super) fn size(&self) -> Result<Size, UsageError> {
        arguments::built_in_size(self.size.as_deref().unwrap_or("small"))
    }
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

/// Returns the guest, or the engine's own error, on which the exit code depends.
pub(super) fn made(guest: Result<Guest, GuestError>) -> anyhow::Result<Guest> {
    guest.map_err(|error| match error {
        GuestError::Engine(error) => anyhow::Error::from(error),
        error => error.into(),
    })
}

/// Calls `run` with a function that shows its progress: the stage, and how much of how much of it is done. Nothing is
/// shown without a terminal, or if the output is for a program.
pub(super) fn with_progress<T>(is_json: bool, run: impl FnOnce(&dyn Fn(&'static str, usize, usize)) -> T) -> T {
    let is_shown = !is_json && io::stderr().is_terminal();
    let bar = bar(if is_shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() });
    let found = run(&|stage, done, of| show(&bar, stage, done, of));
    bar.finish_and_clear();
    found
}

fn bar(target: ProgressDrawTarget) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:12} {bar:20} {human_pos} of {human_len}");
    let bar = ProgressBar::with_draw_target(Some(0), target);
    bar.set_style(style.expect("a literal template").progress_chars("━━╌"));
    bar
}

fn show(bar: &ProgressBar, stage: &'static str, done: usize, of: usize) {
    bar.set_length(of as u64);
    bar.set_position(done as u64);
    bar.set_message(stage);
}
