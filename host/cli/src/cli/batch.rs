//! `lifeboat batch`: many transactions of the server, one a line.

mod resume;

use super::remote::{self, Login, Waiting};
use super::run::counted;
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
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

/// Answers between two lines about the progress, where there is no terminal for a bar.
const ANSWERS_PER_NOTE: u64 = 10_000;

const AFTER_HELP: &str = "\
A line is a JSON object, as lifeboat run --envelope takes them:
  {\"id\"?: ID, \"query\"?: true, and one of \"json\": ANY | \"text\": STRING | \"base64\": STRING}
With --bodies it is the body of a transaction, byte for byte, as lifeboat run takes them.

One without an id is given a UUID of version 7. Answers come in the order of the lines, as those of lifeboat run do. When
the connection breaks, nobody listens, or the server is started again, the lines without an answer are sent again under
their ids, and nothing is done twice.

With --resume FILE the ids of lines that have none are made of what stands in FILE, which is made if it is missing and
removed when every line is answered and printed: after a crash of this machine, or whatever else ended it, the same command
with the same lines does what was not done, and prints all answers. One batch at a time can have the file.

The server denies as too old, and does not do, what may have been done so long ago that its answer is forgotten, a day or a
million ids. When a batch goes on that late, these are the lines that were sent then, and up to 4,096 after them: whether
they were sent nobody can tell any more. See from the service which of them were done, and send the others under another
FILE.

Ctrl-C, SIGTERM or SIGHUP ends the input: what is under way is answered, and standard error says how to go on with the rest. A
second one ends the batch at once: what has no answer by then may be done or not.";

/// Arguments of `batch`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Batch {
    /// Keep what ids are made of in FILE, so that the same command can be given again, after a crash too
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
                // Ids are each user's own: another's would be executed once more.
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
        let mut is_untaken = false;
        let driven = remote::block_on(self.drive(sending, &lines, Told::new(count), &mut is_untaken));
        if let (true, Some(resume)) = (is_untaken, &resume) {
            locked(resume).remove_if_unused();
        }
        let (outcomes, end) = driven?;
        if let Some(reason) = end {
            output::note(&format!("lifeboat: {reason}"));
            return Ok(ExitCode::from(exit::SOME_NOT_OK));
        }
        // What was denied was not executed, and may be sent again as it is; new ids would do the rest once more.
        let is_over = !outcomes.contains_key(&Outcome::Denied) && !outcomes.contains_key(&Outcome::Failed);
        if let (Some(file), Some(resume)) = (&self.resume, resume) {
            if !is_over {
                output::note(&format!(
                    "{} stays: the same command sends again what may end otherwise; what is denied as too old stays so: see \
                     from the service which of these lines were done, and send the others under another FILE",
                    shown(file)
                ));
                return Ok(ExitCode::from(exit::SOME_NOT_OK));
            }
            let after = locked(&resume).id_after();
            if let Some(id) = after
                && self.was_sent(&id)?
            {
                output::note(&format!(
                    "{} stays: more lines were sent with it than there were now; give the command with all of them",
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

    /// Whether the server knows of a transaction of this id.
    fn was_sent(&self, id: &str) -> anyhow::Result<bool> {
        remote::with_server(async |client| match client.look_up(&self.service, id).await {
            Ok(found) => Ok(found != Found::Unknown),
            // What cannot be told any more: it would be denied, too.
            Err(ClientError::Problem { code, .. }) if code == "id_too_old" => Ok(false),
            Err(error) => Err(error.into()),
        })
    }

    /// The lines, and how many they are, if that can be told.
    fn input(&self) -> anyhow::Result<(Lines, Option<u64>)> {
        if self.is_standard_input() {
            if io::stdin().is_terminal() {
                let what = if self.bodies { "transactions" } else { "JSON envelopes" };
                output::note(&format!("Waiting for {what}, one a line; end with Ctrl-D."));
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

    /// Prints the answers, or finds that the server refuses the batch as a whole: `is_untaken`. Returns how many ended in
    /// which way, and why it ended before the last line, if it did.
    async fn drive(
        &self,
        mut sending: Sending,
        lines: &Mutex<Lines>,
        mut told: Told,
        is_untaken: &mut bool,
    ) -> anyhow::Result<(BTreeMap<Outcome, u64>, Option<String>)> {
        let mut stop = Stop::new()?;
        let mut out = BufWriter::new(io::stdout().lock());
        // Since the first interruption: whether there may be lines that were not sent.
        let mut is_input_left = None;
        // Answers that have certainly left.
        let mut printed = 0;
        let mut has_retried = false;
        // For a server that is not there, which was told.
        let mut is_waiting = false;
        let unwritable = "cannot write the answers";
        let progress = loop {
            let progress = match sending.next().now_or_never() {
                Some(progress) => progress,
                // What was answered is seen before anything is waited for: its reader may act on it.
                None => {
                    if !is_pipe_open(out.flush()).context(unwritable)? {
                        return Ok(self.nobody_reads(&sending, told, printed));
                    }
                    printed = told.answered();
                    tokio::select! {
                        biased;
                        () = stop.asked() => {
                            if is_input_left.is_some() {
                                let so_far = so_far(told.answered(), &sending);
                                let go_on = self.how_to_go_on(told.answered(), sending.unanswered() == 0);
                                return Ok((told.end(), Some(format!("interrupted twice: {so_far}; {go_on}"))));
                            }
                            // A terminal has no more than what was typed.
                            let is_typed = self.is_standard_input() && io::stdin().is_terminal();
                            is_input_left = Some(locked(lines).give_up(!is_typed));
                            sending.end_input();
                            if sending.unanswered() > 0 {
                                let waiting = counted(sending.unanswered() as u64, "answer");
                                told.note(&format!(
                                    "lifeboat: interrupted: waiting for {waiting}; interrupt once more to end at once"
                                ));
                            }
                            continue;
                        }
                        progress = sending.next() => progress,
                    }
                }
            };
            match progress {
                Ok(Some(Progress::Answer(answer))) => {
                    if !is_pipe_open(print(&mut out, &answer, self.json)).context(unwritable)? {
                        return Ok(self.nobody_reads(&sending, told, printed));
                    }
                    told.answer(answer.outcome);
                    if let Some(failover) = &answer.failover {
                        told.suspended(|| output::note_failover(failover));
                    }
                    if std::mem::take(&mut is_waiting) {
                        told.note("lifeboat: the server answers again");
                    }
                }
                Ok(Some(Progress::Retrying { error, unanswered, wait })) => {
                    // It has done nothing.
                    let is_away = matches!(error, ClientError::Refused { .. }) || error.is_starting();
                    has_retried |= !is_away;
                    if is_away {
                        // Once, and not at every attempt.
                        if !std::mem::replace(&mut is_waiting, true) {
                            told.note(&format!("lifeboat: waiting for the server: {error}"));
                        }
                        continue;
                    }
                    let (unanswered, wait) = (counted(unanswered as u64, "line"), wait.as_secs_f64());
                    told.note(&format!("lifeboat: {error}; sending {unanswered} again in {wait:.1} s"));
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if !is_pipe_open(out.flush()).context(unwritable)? {
            return Ok(self.nobody_reads(&sending, told, printed));
        }
        let answered = told.answered();
        match progress {
            Err(error @ (ClientError::Unreachable { .. } | ClientError::Refused { .. }))
                if answered == 0 && !has_retried =>
            {
                Err(error.into())
            }
            Err(error @ ClientError::Problem { .. }) if !sending.may_be_done() => {
                *is_untaken = true;
                let _ = told.end();
                Err(error.into())
            }
            Err(error) => {
                let _ = told.end();
                let is_void = matches!(error, ClientError::Problem { status: 401, .. });
                let after = if is_void { "after lifeboat login " } else { "" };
                let (so_far, go_on) =
                    (so_far(answered, &sending), self.how_to_go_on(answered, sending.unanswered() == 0));
                Err(error).context(format!("{so_far}; {after}{go_on}"))
            }
            Ok(()) => {
                told.finish();
                let reason = is_input_left.unwrap_or(false).then(|| {
                    let sent = match answered {
                        0 => "before the first line".into(),
                        answered => format!("with {} answered", counted(answered, "line")),
                    };
                    format!("interrupted {sent}; the rest was not sent: {}", self.how_to_go_on(answered, true))
                });
                Ok((told.end(), reason))
            }
        }
    }

    fn nobody_reads(&self, sending: &Sending, told: Told, printed: u64) -> (BTreeMap<Outcome, u64>, Option<String>) {
        let (last, go_on) = (grouped(sending.last_line()), self.how_to_go_on(printed, false));
        (told.end(), Some(format!("nobody reads the answers any more; all up to line {last} may be done: {go_on}")))
    }

    /// What to do about the lines after so many that were answered. `is_clean` if none of them was sent.
    fn how_to_go_on(&self, answered: u64, is_clean: bool) -> String {
        if self.resume.is_some() {
            return "the same command does what is left, and prints all answers".into();
        }
        let twice = if is_clean {
            ""
        } else {
            ", with the same ids; a line that had none may then be done twice, which --resume FILE prevents"
        };
        format!("go on with line {}{twice}", grouped(answered + 1))
    }
}

/// `4,000 lines are answered, 12 more were sent and may be done or not`
fn so_far(answered: u64, sending: &Sending) -> String {
    let is = if answered == 1 { "is" } else { "are" };
    let answered = format!("{} {is} answered", counted(answered, "line"));
    match sending.unanswered() as u64 {
        0 => answered,
        unanswered => format!("{answered}, {} more may be done or not", grouped(unanswered)),
    }
}

/// Has the answers on the disk if they go to a file: what they are made of again is removed after that.
fn sync_answers() -> io::Result<()> {
    let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    if out.metadata()?.is_file() { out.sync_all() } else { Ok(()) }
}

/// Nobody panics with the lock.
fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Deserialize)]
struct Printed {
    #[serde(default, deserialize_with = "lines::present")]
    json: Option<Box<RawValue>>,
    text: Option<String>,
}

/// An `ok` that is a line itself as it is, all else as the JSON that came; with `json` that, too.
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

/// What is told of the progress: a bar on a terminal, lines elsewhere.
struct Told {
    bar: Option<ProgressBar>,
    outcomes: BTreeMap<Outcome, u64>,
}

impl Told {
    fn new(count: Option<u64>) -> Self {
        // Answers on the same terminal are progress enough.
        let has_bar = io::stderr().is_terminal() && !output::is_terminal();
        let bar = has_bar.then(|| match count {
            Some(count) => {
                let style = ProgressStyle::with_template("{bar:30} {human_pos} of {human_len} ({rate}/s, {eta} left)")
                    .unwrap_or_else(|_| ProgressStyle::default_bar());
                let style = style.with_key("rate", |state: &ProgressState, out: &mut dyn fmt::Write| {
                    // Whole ones; where it cannot be written nobody sees it.
                    let _ = out.write_str(&grouped(state.per_sec() as u64));
                });
                ProgressBar::new(count).with_style(style)
            }
            None => ProgressBar::new_spinner(),
        });
        Self { bar, outcomes: BTreeMap::new() }
    }

    fn answered(&self) -> u64 {
        self.outcomes.values().sum()
    }

    fn answer(&mut self, outcome: Outcome) {
        *self.outcomes.entry(outcome).or_default() += 1;
        match &self.bar {
            Some(bar) => bar.inc(1),
            None if self.answered().is_multiple_of(ANSWERS_PER_NOTE) => {
                output::note(&format!("{} answered", grouped(self.answered())));
            }
            None => {}
        }
    }

    fn note(&self, text: &str) {
        self.suspended(|| output::note(text));
    }

    /// Prints something while there is no bar.
    fn suspended(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Leaves the terminal as it was. Returns how many ended in which way.
    fn end(self) -> BTreeMap<Outcome, u64> {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.outcomes
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let counts: Vec<String> =
            self.outcomes.iter().map(|(outcome, count)| format!("{} {outcome}", grouped(*count))).collect();
        let counts = if counts.is_empty() { String::new() } else { format!(": {}", counts.join(", ")) };
        output::note(&format!("{} answered{counts}", grouped(self.answered())));
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
    fn the_help_tells_how_many_lines_may_be_too_old_though_they_were_not_sent() {
        assert!(AFTER_HELP.contains(&format!("up to {} after them", grouped(ID_BLOCK_LINES_MAX))));
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
