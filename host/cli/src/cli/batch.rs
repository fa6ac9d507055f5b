//! `lifeboat batch`: sends many transactions to a service of the server, one a line.

mod resume;
mod state;

use super::remote::{self, Login, Waiting};
use super::run::lines::Lines;
use super::stop::Stop;
use super::{UsageError, exit, is_pipe_open, output, tx};
use anyhow::Context;
use clap::Args;
use futures::{FutureExt, StreamExt, stream};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use lifeboat_api::clock::{Clock, SystemClock};
use lifeboat_api::lines::{self, ENVELOPE_BYTES_MAX, Line};
use lifeboat_api::name::Name;
use lifeboat_api::size::grouped;
use lifeboat_api::transaction::Outcome;
use lifeboat_client::{Batch as Sending, BatchAnswer, ClientError, Found, Progress};
use resume::Resume;
use serde::Deserialize;
use serde_json::value::RawValue;
use state::{Answers, End, Event, Failure, Sent, State};
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

/// The number of answers between two lines about the progress, without a terminal for a bar.
const ANSWERS_PER_NOTE: u64 = 10_000;

const AFTER_HELP: &str = "\
A line is a JSON object, as lifeboat run --envelope reads it:
  {\"id\"?: ID, \"query\"?: true, and one of \"json\": ANY | \"text\": STRING | \"base64\": STRING}
With --bodies, a line is the body of a transaction, byte for byte, as lifeboat run reads it.

A line without an id gets a UUID of version 7. Answers are printed in the order of the lines, as lifeboat run prints
them. When the connection breaks, no server listens, or the server restarts, the lines without an answer are sent again
with their ids, and nothing is done twice.

With --resume FILE, the ids of lines without one are derived from FILE. The command creates FILE if it is missing, and
removes it when every line is answered and printed. After a crash of this machine, or any other end, the same command
with the same lines sends the rest and prints all answers. Only one batch at a time can use the file.

The server denies a line as too old, and does not execute it, if its answer may be forgotten: after a day or a million
ids. If a batch continues that late, these are the lines that were sent earlier and up to 4,096 lines after them. It is
unknown whether these were sent. Check the state of the service to find out which lines were done, and send the others
with another FILE.

Ctrl-C, SIGTERM or SIGHUP ends the input: the batch waits for the answers under way, and standard error reports how to
continue. A second signal ends the batch at once: lines without an answer may or may not be done.";

/// Arguments of `batch`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Batch {
    /// Store the source of the ids in FILE, so that the same command can be repeated, even after a crash
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
    /// Lines are bodies of transactions, without an envelope
    #[arg(long)]
    bodies: bool,
    #[command(flatten)]
    waiting: Waiting,
    /// Print every answer as JSON
    #[arg(long)]
    json: bool,
    /// The service
    #[arg(value_name = "SERVICE")]
    service: Name,
    /// The lines, or - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Batch {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let backoff = self.waiting.backoff(true);
        let client = Login::find()?.client()?;
        let (lines, count) = self.input()?;
        let resume = match &self.resume {
            None => None,
            Some(file) => {
                // Each user has ids of their own. Under another user's ids, the lines would be executed again.
                let (asking, url) = (Login::find()?.client()?.with_patience(backoff), client.url());
                let user = remote::block_on(async { Ok(asking.who_am_i().await?.user) })?;
                Some(Arc::new(Mutex::new(Resume::take(file, url, &user, &self.service)?)))
            }
        };
        let draw_id: Box<dyn FnMut(u64) -> io::Result<String> + Send> = match resume.clone() {
            None => Box::new(|_| tx::fresh_id().map_err(io::Error::other)),
            Some(resume) => Box::new(move |line| locked(&resume).id(line, SystemClock.now())),
        };
        let lines = Arc::new(Mutex::new(lines));
        let reading = Arc::clone(&lines);
        let is_body = self.bodies;
        let input = stream::poll_fn(move |cx| {
            let line = std::task::ready!(locked(&reading).poll_next(cx));
            let wrapped = |line: Line| Line { bytes: line.bytes.map(|body| lines::wrap(&body)), ..line };
            Poll::Ready(if is_body { line.map(|line| line.map(wrapped)) } else { line })
        });
        let sending = client.batch(&self.service, input.boxed(), draw_id, backoff);
        let report = Report::new(count);
        let driven = remote::block_on(self.drive(sending, &lines, &report));
        report.end();
        let Ended { end, answers, sent, error } = driven?;
        if let (End::Untaken, Some(resume)) = (end, &resume) {
            locked(resume).remove_if_unused();
        }
        match (error, end.reason(&answers, sent)) {
            (Some(error), Some(reason)) => return Err(error.context(reason)),
            (Some(error), None) => return Err(error),
            (None, Some(reason)) => {
                output::note(&format!("lifeboat: {reason}"));
                return Ok(ExitCode::from(exit::SOME_NOT_OK));
            }
            (None, None) => {}
        }
        let outcomes = answers.outcomes;
        // Denied transactions were not executed and may be sent again unchanged. With new ids, the others would be
        // executed again.
        let is_over = !outcomes.contains_key(&Outcome::Denied) && !outcomes.contains_key(&Outcome::Failed);
        if let (Some(file), Some(resume)) = (&self.resume, resume) {
            if !is_over {
                output::note(&format!(
                    "{} is retained: the same command sends again the lines that may now succeed. Lines denied as too \
                     old, or because another line was sent under their id, are denied again: check the state of the \
                     service to find out which of them were done, and send the others with another FILE",
                    shown(file)
                ));
                return Ok(ExitCode::from(exit::SOME_NOT_OK));
            }
            let after = locked(&resume).id_after();
            if let Some(id) = after
                && self.was_sent(&id)?
            {
                output::note(&format!(
                    "{} is retained: more lines were sent with it before; repeat the command with all of them",
                    shown(file)
                ));
                return Ok(ExitCode::from(exit::SOME_NOT_OK));
            }
            sync_answers().context("cannot write the answers")?;
            locked(&resume).remove().with_context(|| format!("cannot remove {}", shown(file)))?;
        }
        let is_all_ok = outcomes.keys().all(|outcome| *outcome == Outcome::Ok);
        Ok(ExitCode::from(if is_all_ok { exit::OK } else { exit::SOME_NOT_OK }))
    }

    /// Returns whether the server knows a transaction with this id.
    fn was_sent(&self, id: &str) -> anyhow::Result<bool> {
        remote::with_server(async |client| match client.look_up(&self.service, id).await {
            Ok(found) => Ok(found != Found::Unknown),
            // Nobody can know such a transaction any more. The server would deny it, too.
            Err(ClientError::Problem { code, .. }) if code == "id_too_old" => Ok(false),
            Err(error) => Err(error.into()),
        })
    }

    /// Opens the lines, and counts them if standard error is a terminal and the input a file.
    fn input(&self) -> anyhow::Result<(Lines, Option<u64>)> {
        if self.is_standard_input() {
            if io::stdin().is_terminal() {
                let what = if self.bodies { "transactions" } else { "JSON envelopes" };
                output::note(&format!("Waiting for {what}, one per line; end with Ctrl-D."));
            }
            return Ok((Lines::read(io::stdin(), ENVELOPE_BYTES_MAX), None));
        }
        let unreadable = |error: io::Error| {
            UsageError(format!("{}: cannot be read: {error}; name a file of lines", shown(&self.file)))
        };
        let file = File::open(&self.file).map_err(unreadable)?;
        if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return Err(unreadable(io::ErrorKind::IsADirectory.into()).into());
        }
        let is_counted = io::stderr().is_terminal() && file.metadata().is_ok_and(|metadata| metadata.is_file());
        let count = is_counted.then(|| count_lines(&self.file)).transpose().map_err(unreadable)?;
        Ok((Lines::read(file, ENVELOPE_BYTES_MAX), count))
    }

    fn is_standard_input(&self) -> bool {
        self.file.as_os_str() == "-"
    }

    /// Sends the lines and prints their answers until the batch is over.
    async fn drive(&self, mut sending: Sending, lines: &Mutex<Lines>, report: &Report) -> anyhow::Result<Ended> {
        let unwritable = |error: io::Error| Some(anyhow::Error::new(error).context("cannot write the answers"));
        let mut stop = Stop::new()?;
        let mut out = BufWriter::new(standard_output().context("cannot write the answers")?);
        let (mut state, mut answers, mut error) = (State::default(), Answers::default(), None);
        let end = loop {
            let event = match next(&mut sending, &mut stop, &mut out, &mut answers).await {
                Happened::Signal => {
                    let is_input_left = self.give_up(lines);
                    sending.end_input();
                    Event::Signal { is_input_left, unanswered: sending.unanswered() as u64 }
                }
                Happened::ReaderGone => Event::ReaderGone,
                Happened::Unwritable(failed) => {
                    error = unwritable(failed);
                    Event::Unwritable
                }
                Happened::Answer(answer) => match is_pipe_open(print(&mut out, &answer, self.json)) {
                    Ok(true) => {
                        answers.add(answer.outcome);
                        report.answered(answers.total());
                        if let Some(failover) = &answer.failover {
                            report.suspended(|| output::note_failover(failover));
                        }
                        Event::Answered
                    }
                    Ok(false) => Event::ReaderGone,
                    Err(failed) => {
                        error = unwritable(failed);
                        Event::Unwritable
                    }
                },
                Happened::Retrying { error, .. }
                    if matches!(error, ClientError::Refused { .. }) || error.is_starting() =>
                {
                    Event::Away { error: error.to_string() }
                }
                Happened::Retrying { error, unanswered, wait } => {
                    Event::ConnectionBroke { error: error.cause(), unanswered: unanswered as u64, wait }
                }
                Happened::AllAnswered => Event::AllAnswered,
                Happened::Failed(failed) => {
                    let failure = Failure::of(&failed, sending.may_be_done());
                    error = Some(failed.into());
                    Event::Failed(failure)
                }
            };
            let (after, note) = state.after(&event);
            state = after;
            if let Some(note) = note {
                report.note(&note);
            }
            if let Some(end) = state.end() {
                break end;
            }
        };
        if matches!(end, End::Complete | End::Interrupted) {
            report.finish(&answers);
        }
        let sent = Sent {
            unanswered: sending.unanswered() as u64,
            last_line: sending.last_line(),
            has_file: self.resume.is_some(),
        };
        Ok(Ended { end, answers, sent, error })
    }

    /// Stops reading lines. Returns whether there may be more.
    fn give_up(&self, lines: &Mutex<Lines>) -> bool {
        // A terminal has no lines beyond those that were typed.
        let is_typed = self.is_standard_input() && io::stdin().is_terminal();
        locked(lines).give_up(!is_typed)
    }
}

/// The end of a batch, and what to report about it.
struct Ended {
    end: End,
    answers: Answers,
    sent: Sent,
    error: Option<anyhow::Error>,
}

/// An event for which a batch waits.
enum Happened {
    Answer(BatchAnswer),
    Retrying { error: ClientError, unanswered: usize, wait: Duration },
    AllAnswered,
    Failed(ClientError),
    Signal,
    ReaderGone,
    Unwritable(io::Error),
}

/// Waits for what happens next. Flushes the answers before every wait and before the end, since their reader may act on
/// them.
async fn next(sending: &mut Sending, stop: &mut Stop, out: &mut impl Write, answers: &mut Answers) -> Happened {
    // None if they were flushed.
    let mut flush = || match is_pipe_open(out.flush()) {
        Ok(true) => {
            answers.flushed = answers.total();
            None
        }
        Ok(false) => Some(Happened::ReaderGone),
        Err(error) => Some(Happened::Unwritable(error)),
    };
    let progress = match sending.next().now_or_never() {
        Some(progress) => progress,
        None => match flush() {
            Some(happened) => return happened,
            None => tokio::select! {
                biased;
                () = stop.asked() => return Happened::Signal,
                progress = sending.next() => progress,
            },
        },
    };
    match progress {
        Ok(Some(Progress::Answer(answer))) => Happened::Answer(answer),
        Ok(Some(Progress::Retrying { error, unanswered, wait })) => Happened::Retrying { error, unanswered, wait },
        Ok(None) => flush().unwrap_or(Happened::AllAnswered),
        Err(error) => flush().unwrap_or(Happened::Failed(error)),
    }
}

/// Returns standard output as a file. Unlike `io::stdout`, it reports a descriptor that is not open for writing.
fn standard_output() -> io::Result<File> {
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}

/// Syncs the answers to disk if they go to a file. The resume file, from which they could be printed again, is removed
/// after that.
fn sync_answers() -> io::Result<()> {
    let out = standard_output()?;
    if out.metadata()?.is_file() { out.sync_all() } else { Ok(()) }
}

/// Locks `shared`. Nobody panics while holding the lock.
fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Deserialize)]
struct Printed {
    #[serde(default, deserialize_with = "lines::present")]
    json: Option<Box<RawValue>>,
    text: Option<String>,
}

/// Prints an answer. An `ok` that is a line is printed unchanged. Any other answer, or every one with `json`, is
/// printed as the JSON that the server sent.
fn print(out: &mut impl Write, answer: &BatchAnswer, json: bool) -> io::Result<()> {
    if answer.outcome == Outcome::Ok && !json {
        let printed: Printed = serde_json::from_slice(&answer.line)?;
        let text = printed.json.as_ref().map(|json| json.get()).or(printed.text.as_deref());
        if let Some(line) = text.and_then(|text| lines::as_line(text.as_bytes())) {
            out.write_all(&line)?;
            return out.write_all(b"\n");
        }
    }
    let mut line = lines::escaped(answer.line.to_vec());
    line.push(b'\n');
    out.write_all(&line)
}

/// The progress on standard error: a bar on a terminal, lines elsewhere.
struct Report(Option<ProgressBar>);

impl Report {
    fn new(count: Option<u64>) -> Self {
        // Answers on the same terminal already show the progress.
        let has_bar = io::stderr().is_terminal() && !output::is_terminal();
        Self(has_bar.then(|| match count {
            Some(count) => {
                let style = ProgressStyle::with_template("{bar:30} {human_pos} of {human_len} ({rate}/s, {eta} left)")
                    .unwrap_or_else(|_| ProgressStyle::default_bar());
                let style = style.with_key("rate", |state: &ProgressState, out: &mut dyn fmt::Write| {
                    // The rate is rounded down to a whole number. If it cannot be written, nobody sees it.
                    let _ = out.write_str(&grouped(state.per_sec() as u64));
                });
                ProgressBar::new(count).with_style(style)
            }
            None => ProgressBar::new_spinner(),
        }))
    }

    /// Shows one more answered line. `total` counts all of them.
    fn answered(&self, total: u64) {
        match &self.0 {
            Some(bar) => bar.inc(1),
            None if total.is_multiple_of(ANSWERS_PER_NOTE) => output::note(&format!("{} answered", grouped(total))),
            None => {}
        }
    }

    fn note(&self, text: &str) {
        self.suspended(|| output::note(text));
    }

    /// Prints something while the bar is hidden.
    fn suspended(&self, print: impl FnOnce()) {
        match &self.0 {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Restores the terminal.
    fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }

    fn finish(&self, answers: &Answers) {
        self.end();
        let counts: Vec<String> =
            answers.outcomes.iter().map(|(outcome, count)| format!("{} {outcome}", grouped(*count))).collect();
        let counts = if counts.is_empty() { String::new() } else { format!(": {}", counts.join(", ")) };
        output::note(&format!("{} answered{counts}", grouped(answers.total())));
    }
}

fn count_lines(file: &Path) -> io::Result<u64> {
    let mut reader = BufReader::with_capacity(64 * 1024, File::open(file)?);
    let (mut count, mut last) = (0, b'\n');
    loop {
        let buffer = reader.fill_buf()?;
        let Some(&end) = buffer.last() else { break };
        count += buffer.iter().filter(|byte| **byte == b'\n').count() as u64;
        last = end;
        let length = buffer.len();
        reader.consume(length);
    }
    Ok(count + u64::from(last != b'\n'))
}

fn shown(path: &Path) -> String {
    format!("'{}'", path.display().to_string().escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_client::ID_BLOCK_LINES_MAX;
    use std::fs;

    #[test]
    fn the_help_states_how_many_lines_may_be_too_old_though_they_were_not_sent() {
        assert!(AFTER_HELP.contains(&format!("up to {} lines after them", grouped(ID_BLOCK_LINES_MAX))));
    }

    #[test]
    fn answers_are_printed_as_those_of_a_run() {
        let printed = |line: &'static str, json| {
            let outcome = if line.contains("\"ok\"") { Outcome::Ok } else { Outcome::Refused };
            let mut out = Vec::new();
            let answer = BatchAnswer { id: None, outcome, line: line.into(), failover: None };
            print(&mut out, &answer, json).expect("a vector takes everything");
            String::from_utf8(out).expect("text")
        };
        let ok = r#"{"id":"a","outcome":"ok","json":{"x": 1.0}}"#;
        assert_eq!(printed(ok, false), "{\"x\": 1.0}\n");
        assert_eq!(printed(ok, true), format!("{ok}\n"));
        assert_eq!(printed(r#"{"id":"a","outcome":"ok","json":null}"#, false), "null\n");
        assert_eq!(printed(r#"{"id":"a","outcome":"ok","text":"hi"}"#, false), "hi\n");
        for line in [
            r#"{"id":"a","outcome":"ok","text":"\u001b[2J"}"#,
            r#"{"id":"a","outcome":"ok","base64":"/w=="}"#,
            r#"{"id":"a","outcome":"refused","cause":"no"}"#,
        ] {
            assert_eq!(printed(line, false), format!("{line}\n"));
        }
    }

    #[test]
    fn lines_are_counted_as_they_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("lines");
        for (text, count) in [("", 0), ("a", 1), ("a\n", 1), ("a\n\nb", 3)] {
            fs::write(&file, text).expect("writable");
            assert_eq!(count_lines(&file).expect("readable"), count);
        }
    }
}
