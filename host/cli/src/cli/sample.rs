//! What `check` and `profile` share: the options for the transactions and queries of a workload, and the progress of
//! their runs.

use super::{UsageError, arguments};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lifeboat_api::name::Name;
use lifeboat_api::size::{Bytes, Size};
use lifeboat_api::transaction::Cause;
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
#[error("{}: {}{}", file.escape_debug(), error.detailed(), remedy_of(error))]
pub(crate) struct UnstartableWorkload {
    file: String,
    error: MoveError,
}

impl UnstartableWorkload {
    pub(super) fn new(file: &Path, error: MoveError) -> Self {
        Self { file: file.display().to_string(), error }
    }
}

/// Returns the remedy for an error of a start. A trap has said all that is known about it.
fn remedy_of(error: &MoveError) -> &'static str {
    match error {
        MoveError::Instantiate(cause)
            if !matches!(cause, Cause::Trap { .. } | Cause::Exit { .. } | Cause::Explained { .. }) =>
        {
            "; lifeboat inspect shows what it needs"
        }
        _ => "",
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

/// Shows a stage, and how much of how much of it is done.
fn show(bar: &ProgressBar, stage: &'static str, done: usize, of: usize) {
    // Only the last call draws, so that no drawing has the name of one stage and the numbers of another.
    bar.clone().with_message(stage).update(|state| {
        state.set_len(of as u64);
        state.set_pos(done as u64);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::TermLike;
    use std::sync::{Arc, Mutex};

    /// A terminal that keeps what is written to it.
    #[derive(Debug, Clone, Default)]
    struct Terminal(Arc<Mutex<Vec<String>>>);

    impl TermLike for Terminal {
        fn width(&self) -> u16 {
            80
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().expect("no test panicked").push(text.to_owned());
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_drawing_of_the_bar_mixes_two_stages() {
        let terminal = Terminal::default();
        let bar = bar(ProgressDrawTarget::term_like(Box::new(terminal.clone())));
        for (stage, done, of) in [("plain run", 0, 45), ("plain run", 44, 45), ("moves", 0, 60), ("wrong input", 1, 7)]
        {
            show(&bar, stage, done, of);
        }
        bar.finish_and_clear();
        let written = terminal.0.lock().expect("no test panicked");
        let drawn = written.iter().filter(|text| !text.trim().is_empty()).map(|text| {
            let words: Vec<&str> = text.split(|c: char| " ━╌".contains(c)).filter(|word| !word.is_empty()).collect();
            words.join(" ")
        });
        let expected = ["plain run 0 of 45", "plain run 44 of 45", "moves 0 of 60", "wrong input 1 of 7"];
        assert_eq!(drawn.collect::<Vec<_>>(), expected);
    }
}
