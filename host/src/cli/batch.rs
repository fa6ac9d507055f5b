//! `lifeboat batch`: many transactions of the server, one a line.

use super::remote::{self, Login, from_base64, to_base64};
use super::run::lines::Lines;
use super::{UsageError, exit, is_pipe_open, random, tx};
use anyhow::Context;
use clap::Args;
use futures::{FutureExt, StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use lifeboat::client::{Backoff, Batch as Sending, BatchAnswer, Client, ClientError, LineIds, Progress};
use lifeboat::clock::{Clock, SystemClock, Timestamp};
use lifeboat::lines::{ENVELOPE_BYTES_MAX, is_one_line};
use lifeboat::name::Name;
use lifeboat::size::grouped;
use lifeboat::transaction::Outcome;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Answers between two lines about the progress, where there is no terminal for a bar.
const ANSWERS_PER_NOTE: u64 = 10_000;

/// The longest file of `--resume`, in bytes.
const RESUME_BYTES_MAX: u64 = 64 * 1024;

const AFTER_HELP: &str = "\
A line is a JSON object, as lifeboat run --envelope takes them:
  {\"id\"?: ID, \"query\"?: true, and one of \"json\": ANY | \"text\": STRING | \"base64\": STRING}
One without an id is given a UUID of version 7. Answers come in the order of the lines, as those of lifeboat run do. When
the connection breaks, or the server is started again, the lines without an answer are sent again under their ids, and
nothing is done twice.

With --resume FILE the ids of lines that have none are made of what stands in FILE, which is made if it is missing and
removed when every line is answered: after a crash of this machine, the same command with the same lines does what was
not done, and prints all answers.

Exit codes:
  0  every line is answered with ok
  1  some were refused, failed or denied
  2  the command line is wrong, or the file cannot be read
  5  the server cannot be reached, or nobody is logged in";

/// Arguments of `batch`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Batch {
    /// Keep what ids are made of in FILE, so that the same command can be given again after a crash
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
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
        let login = Login::find()?;
        let client = login.client()?;
        let (lines, count) = self.input()?;
        let draw_id: Box<dyn FnMut(u64) -> String + Send> = match &self.resume {
            None => {
                // A seed for the case that randomness can be had no more, which is not expected.
                let ids = LineIds { time: SystemClock.now(), seed: random()? };
                Box::new(move |line| tx::fresh_id().unwrap_or_else(|_| ids.id(line)))
            }
            Some(file) => {
                // Ids are each user's own: another's would be executed once more.
                let asking = login.client()?;
                let user = remote::block_on(who_am_i(&asking))?;
                let ids = Resume::read_or_create(file, client.url(), &user, &self.service)?;
                Box::new(move |line| ids.id(line))
            }
        };
        let input =
            stream::unfold(lines, |mut lines| async move { lines.next().await.transpose().map(|line| (line, lines)) });
        let sending = client.batch(&self.service, input.boxed(), draw_id, Backoff::default());
        let outcomes = remote::block_on(self.drive(sending, Told::new(count)))?;
        // What was denied was not executed, and may be sent again as it is; new ids would do the rest once more.
        let is_over = !outcomes.contains_key(&Outcome::Denied) && !outcomes.contains_key(&Outcome::Failed);
        if let Some(file) = &self.resume {
            if !is_over {
                remote::note(&format!("{} stays: the same command sends again what may end otherwise", shown(file)));
                return Ok(ExitCode::from(exit::SOME_NOT_OK));
            }
            fs::remove_file(file).with_context(|| format!("cannot remove {}", shown(file)))?;
        }
        let is_all_ok = outcomes.keys().all(|outcome| *outcome == Outcome::Ok);
        Ok(ExitCode::from(if is_all_ok { exit::OK } else { exit::SOME_NOT_OK }))
    }

    /// The lines, and how many they are, if that can be told.
    fn input(&self) -> anyhow::Result<(Lines, Option<u64>)> {
        if self.file.as_os_str() == "-" {
            return Ok((Lines::read(io::stdin(), ENVELOPE_BYTES_MAX), None));
        }
        let unreadable = |error: io::Error| {
            UsageError(format!("{}: cannot be read: {error}; name a file of lines", shown(&self.file)))
        };
        let file = File::open(&self.file).map_err(unreadable)?;
        let is_counted = io::stderr().is_terminal() && file.metadata().is_ok_and(|metadata| metadata.is_file());
        let count = is_counted.then(|| count_lines(&self.file)).transpose().map_err(unreadable)?;
        Ok((Lines::read(file, ENVELOPE_BYTES_MAX), count))
    }

    /// Prints the answers. Returns how many ended in which way.
    async fn drive(&self, mut sending: Sending, mut told: Told) -> anyhow::Result<BTreeMap<Outcome, u64>> {
        let mut out = BufWriter::new(io::stdout().lock());
        loop {
            let progress = match sending.next().now_or_never() {
                Some(progress) => progress,
                // What was answered is seen before anything is waited for: its reader may act on it.
                None => {
                    if !is_pipe_open(out.flush()).context("cannot write the answers")? {
                        return Err(
                            UsageError("nobody reads the answers any more; what was sent is done".into()).into()
                        );
                    }
                    sending.next().await
                }
            };
            let progress = match progress {
                Ok(progress) => progress,
                Err(error) => {
                    is_pipe_open(out.flush()).context("cannot write the answers")?;
                    if matches!(error, ClientError::Unreachable { .. }) && told.answered() == 0 {
                        return Err(error.into());
                    }
                    let (answered, open) = (grouped(told.answered()), grouped(sending.unanswered() as u64));
                    return Err(error).with_context(|| {
                        format!("{answered} lines are answered, {open} were under way and may be done; the rest was not sent")
                    });
                }
            };
            match progress {
                None => {
                    is_pipe_open(out.flush()).context("cannot write the answers")?;
                    told.finish();
                    return Ok(told.outcomes);
                }
                Some(Progress::Answer(answer)) => {
                    if !is_pipe_open(print(&mut out, &answer, self.json)).context("cannot write the answers")? {
                        return Err(
                            UsageError("nobody reads the answers any more; what was sent is done".into()).into()
                        );
                    }
                    told.answer(answer.outcome);
                }
                Some(Progress::Retrying { error, unanswered, wait }) => {
                    let (lines, wait) = (grouped(unanswered as u64), wait.as_secs_f64());
                    told.note(&format!("lifeboat: {error}; {lines} lines are sent again in {wait:.1} s"));
                }
            }
        }
    }
}

#[derive(Deserialize)]
struct Printed {
    json: Option<Box<RawValue>>,
    text: Option<String>,
}

/// An `ok` that is a line itself as it is, all else as the JSON that came; with `json` that, too.
fn print(out: &mut impl Write, answer: &BatchAnswer, json: bool) -> io::Result<()> {
    if answer.outcome == Outcome::Ok && !json {
        let printed: Printed = serde_json::from_slice(&answer.line)?;
        let text = printed.json.as_ref().map(|json| json.get()).or(printed.text.as_deref());
        if let Some(text) = text.filter(|text| is_one_line(text.as_bytes())) {
            return writeln!(out, "{text}");
        }
    }
    out.write_all(&answer.line)?;
    out.write_all(b"\n")
}

/// What is told of the progress: a bar on a terminal, lines elsewhere.
struct Told {
    bar: Option<ProgressBar>,
    outcomes: BTreeMap<Outcome, u64>,
}

impl Told {
    fn new(count: Option<u64>) -> Self {
        // Answers on the same terminal are progress enough.
        let has_bar = io::stderr().is_terminal() && !remote::is_terminal();
        let bar = has_bar.then(|| match count {
            Some(count) => {
                let style =
                    ProgressStyle::with_template("{bar:40} {human_pos} of {human_len} ({per_sec}, {eta} left) {msg}");
                ProgressBar::new(count).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
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
                remote::note(&format!("{} answered", grouped(self.answered())));
            }
            None => {}
        }
    }

    fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| remote::note(text)),
            None => remote::note(text),
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let counts: Vec<String> =
            self.outcomes.iter().map(|(outcome, count)| format!("{} {outcome}", grouped(*count))).collect();
        let counts = if counts.is_empty() { String::new() } else { format!(": {}", counts.join(", ")) };
        remote::note(&format!("{} answered{counts}", grouped(self.answered())));
    }
}

/// Whose ids the lines get. A server that is starting is waited for, as the batch itself would.
async fn who_am_i(client: &Client) -> anyhow::Result<String> {
    let backoff = Backoff::default();
    for failures in 1.. {
        let error = match client.who_am_i().await {
            Ok(who) => return Ok(who.user),
            Err(error) => error,
        };
        let is_there = !matches!(error, ClientError::Unreachable { .. });
        let wait = backoff.delay(failures).filter(|_| is_there && error.is_retryable());
        let Some(wait) = wait else { return Err(error.into()) };
        tokio::time::sleep(wait.max(error.retry_after().unwrap_or_default())).await;
    }
    unreachable!("there are no more attempts than numbers")
}

/// What the ids of a batch are made of, as it is kept in a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resume {
    server: String,
    user: String,
    service: Name,
    time: Timestamp,
    seed: String,
}

impl Resume {
    fn read_or_create(file: &Path, server: &str, user: &str, service: &Name) -> anyhow::Result<LineIds> {
        let failed = |error: io::Error| UsageError(format!("{}: {error}; name a file that can be kept", shown(file)));
        let mut text = String::new();
        match File::open(file) {
            Ok(opened) => {
                opened.take(RESUME_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let ids = LineIds { time: SystemClock.now(), seed: random()? };
                let resume = Self {
                    server: server.into(),
                    user: user.into(),
                    service: service.clone(),
                    time: ids.time,
                    seed: to_base64(&ids.seed),
                };
                resume.write(file).map_err(failed)?;
                return Ok(ids);
            }
            Err(error) => return Err(failed(error).into()),
        }
        let wrong = |reason: &str| {
            let shown = shown(file);
            UsageError(format!("{shown} {reason}; name another file, or remove it if its batch is not to go on"))
        };
        let Self { server: of_server, user: of_user, service: of_service, time, seed } =
            toml::from_str(&text).map_err(|_| wrong("is not what --resume writes"))?;
        if of_service != *service || !remote::is_same_server(&of_server, server) {
            return Err(
                wrong(&format!("is of a batch to service '{of_service}' at {}", of_server.escape_debug())).into()
            );
        }
        if of_user != user {
            return Err(
                wrong(&format!("is of a batch of user '{}', and you are '{user}'", of_user.escape_debug())).into()
            );
        }
        let seed = from_base64(&seed).and_then(|seed| <[u8; 32]>::try_from(seed).ok());
        Ok(LineIds { time, seed: seed.ok_or_else(|| wrong("is not what --resume writes"))? })
    }

    /// It is on the disk before anything is sent.
    fn write(&self, file: &Path) -> io::Result<()> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        let mut aside = file.as_os_str().to_owned();
        aside.push(format!(".{}.new", std::process::id()));
        let mut opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        opened.write_all(text.as_bytes())?;
        opened.sync_all()?;
        fs::rename(&aside, file)?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
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

    #[test]
    fn a_batch_that_goes_on_has_the_ids_that_it_had() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("resume");
        let bank = Name::new("bank").expect("a name");
        let ids = Resume::read_or_create(&file, "http://a", "ada", &bank).expect("made");
        assert_eq!(Resume::read_or_create(&file, "http://a/", "ada", &bank).expect("there"), ids);
        let other = Name::new("other").expect("a name");
        assert!(Resume::read_or_create(&file, "http://a", "ada", &other).is_err());
        assert!(Resume::read_or_create(&file, "http://b", "ada", &bank).is_err());
        let other = Resume::read_or_create(&file, "http://a", "bob", &bank).expect_err("ids are each user's own");
        assert!(other.to_string().contains("of user 'ada'"), "{other}");
        fs::write(&file, "time = 1").expect("writable");
        assert!(Resume::read_or_create(&file, "http://a", "ada", &bank).is_err());
    }

    #[test]
    fn answers_are_printed_as_those_of_a_run() {
        let printed = |line: &'static str, json| {
            let outcome = if line.contains("\"ok\"") { Outcome::Ok } else { Outcome::Refused };
            let mut out = Vec::new();
            let answer = BatchAnswer { id: None, outcome, line: line.into() };
            print(&mut out, &answer, json).expect("a vector takes everything");
            String::from_utf8(out).expect("text")
        };
        let ok = r#"{"id":"a","outcome":"ok","json":{"x": 1.0}}"#;
        assert_eq!(printed(ok, false), "{\"x\": 1.0}\n");
        assert_eq!(printed(ok, true), format!("{ok}\n"));
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
