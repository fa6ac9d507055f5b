//! The server on the command line: which one, as whom, and what is printed of what it says.

use super::{UsageError, arguments, exit, help, tx};
use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use lifeboat_api::access::{PASSWORD_BYTES_MAX, PASSWORD_CHARS_MAX};
use lifeboat_api::http::{Service, ServiceState, Vm};
use lifeboat_api::lines;
use lifeboat_api::name::Name;
use lifeboat_api::size::grouped;
use lifeboat_api::text::{Printable, plain};
use lifeboat_api::transaction::Outcome;
use lifeboat_client::{Answer, Backoff, Client, ClientError, Notice, Profile, ProfileError, STARTING_BACKOFF, Server};
use serde::Serialize;
use serde_json::Value;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use thiserror::Error;

/// The server of a log-in that names none.
pub(crate) const SERVER_DEFAULT: &str = "http://127.0.0.1:7098";

/// How often a server is tried where nobody listens, by commands that somebody waits for: for about 3 s.
const PATIENCE: Backoff = Backoff { failures_max: 6, ..STARTING_BACKOFF };

/// The same of requests, unless it is said: for about half a minute, since somebody may be watching.
const ATTEMPTS_DEFAULT: u32 = 12;

/// The same of what may go on unattended: for about two minutes, so that a server that is started again is back.
const ATTEMPTS_UNATTENDED: u32 = STARTING_BACKOFF.failures_max;

/// How long a server is waited for, of commands that let it be said.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Waiting {
    /// Try up to N times in a row while nobody listens at the server, it asks to try later, or the connection breaks
    /// [default: 12, about half a minute; of batch, and with --follow or --watch, 30, about two minutes]. One that is
    /// starting is waited for in any case, for about two minutes
    #[arg(long, value_name = "N", value_parser = arguments::attempts, allow_negative_numbers = true)]
    attempts: Option<u32>,
}

impl Waiting {
    /// Whether it was said.
    pub(crate) fn is_said(self) -> bool {
        self.attempts.is_some()
    }

    pub(crate) fn backoff(self, is_unattended: bool) -> Backoff {
        let default = if is_unattended { ATTEMPTS_UNATTENDED } else { ATTEMPTS_DEFAULT };
        Backoff { failures_max: self.attempts.unwrap_or(default), ..STARTING_BACKOFF }
    }
}

/// Nobody is logged in.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct NotLoggedIn(String);

/// Where the profile is.
pub(crate) fn profile_place() -> anyhow::Result<PathBuf> {
    Profile::place(|name| std::env::var_os(name)).map_err(|error| UsageError(error.to_string()).into())
}

/// The profile, and where it is.
pub(crate) fn profile() -> anyhow::Result<(PathBuf, Option<Profile>)> {
    let place = profile_place()?;
    let profile = Profile::read(&place).map_err(|error| match error {
        error @ ProfileError::Io { .. } => anyhow::Error::from(error),
        error => UsageError(error.to_string()).into(),
    })?;
    Ok((place, profile))
}

/// A variable of the environment; an empty one is one that is not set.
pub(crate) fn variable(name: &str) -> anyhow::Result<Option<String>> {
    let Some(value) = std::env::var_os(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    let value = value.into_string();
    value.map(Some).map_err(|_| UsageError(format!("the variable {name} is not UTF-8 text")).into())
}

/// The variable that stands for `--ca`.
pub(crate) const CA_VARIABLE: &str = "LIFEBOAT_CA";

/// The file of certificates that the environment names.
pub(crate) fn ca_variable() -> Option<PathBuf> {
    std::env::var_os(CA_VARIABLE).filter(|file| !file.is_empty()).map(PathBuf::from)
}

/// Which server, and with which token, if there is one.
pub(crate) struct Login {
    pub(crate) server: Server,
    pub(crate) token: Option<String>,
}

impl Login {
    /// As the environment says, and else the profile. A profile's token goes to the profile's server alone.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let (url, token) = (variable("LIFEBOAT_SERVER")?, variable("LIFEBOAT_TOKEN")?);
        // Who says everything needs no profile.
        let profile = if url.is_some() && token.is_some() { None } else { profile()?.1 };
        let Some(url) = url.or_else(|| profile.as_ref().map(|profile| profile.url.clone())) else {
            let text = "nobody is logged in, and no server is named: run lifeboat login --server URL, or set LIFEBOAT_SERVER \
                        and LIFEBOAT_TOKEN";
            return Err(NotLoggedIn(text.into()).into());
        };
        let of_profile = profile.filter(|profile| Server::is_same(&profile.url, &url));
        let ca = ca_variable().or_else(|| of_profile.as_ref().and_then(|profile| profile.ca.clone()));
        let token = token.or_else(|| of_profile.and_then(|profile| profile.token));
        Ok(Self { server: Server { url, ca }, token })
    }

    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        let Some(token) = &self.token else {
            // What is no URL is the first thing to mend.
            client(&self.server, None)?;
            let url = Printable(&self.server.url);
            return Err(NotLoggedIn(format!("nobody is logged in at {url}: run lifeboat login --server {url}")).into());
        };
        client(&self.server, Some(token))
    }
}

/// A client that says on standard error what it waits for, of a server where nobody listens for a short while.
pub(crate) fn client(server: &Server, token: Option<&str>) -> anyhow::Result<Client> {
    Ok(Client::new(server, token)?.with_patience(PATIENCE).with_notice(tell))
}

/// Says that a server is waited for, and why, or that it is back.
pub(crate) fn tell(notice: Notice<'_>) {
    note(&match notice {
        // What it was about is sent again, or changes nothing.
        Notice::Waiting(ClientError::Interrupted { url, reason, .. }) => {
            format!("lifeboat: waiting for the server: the connection to {} broke: {reason}", Printable(url))
        }
        Notice::Waiting(error) => format!("lifeboat: waiting for the server: {error}"),
        Notice::Back => "lifeboat: the server answers again".into(),
        Notice::RunsAgain(answer) => {
            let cause = Printable(str::from_utf8(&answer.body).unwrap_or_default()).to_string();
            format!("lifeboat: the transaction failed, and is sent again: {cause}")
        }
    });
}

/// A runtime that talks to a server.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(work);
    // A thread that reads standard input may never end.
    runtime.shutdown_background();
    result
}

/// Does something with the server, as who is logged in.
pub(crate) fn with_server<T>(work: impl AsyncFnOnce(Client) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let client = Login::find()?.client()?;
    block_on(work(client))
}

/// The exit code that an error of the client means.
pub(crate) fn code_of(error: &ClientError) -> u8 {
    match error {
        ClientError::Unreachable { .. } | ClientError::Refused { .. } | ClientError::Interrupted { .. } => {
            exit::UNREACHABLE
        }
        ClientError::Setup(_) | ClientError::Input(_) | ClientError::Ids(_) => exit::USAGE,
        ClientError::Problem { status: 401, code, .. } if code != "wrong_credentials" => exit::UNREACHABLE,
        ClientError::Problem { code, .. } if code == "workload_refused" => exit::WORKLOAD,
        // Also of a transaction, which is denied then: the command line names what is not there.
        ClientError::Problem { code, .. } if matches!(&**code, "not_found" | "id_too_long" | "not_an_id") => {
            exit::USAGE
        }
        ClientError::Problem { outcome: Some(_), .. } => exit::SOME_NOT_OK,
        ClientError::Problem { status: 500.., .. } => exit::HOST,
        ClientError::Problem { status: 400 | 404 | 405, .. } => exit::USAGE,
        ClientError::Problem { .. } => exit::SOME_NOT_OK,
        _ => exit::HOST,
    }
}

/// The exit code of an error that is about the server or the log-in, if it is.
pub(crate) fn code_of_any(error: &anyhow::Error) -> Option<u8> {
    if error.is::<NotLoggedIn>() {
        return Some(exit::UNREACHABLE);
    }
    error.downcast_ref::<ClientError>().map(code_of)
}

/// Passwords, from the terminal without showing them, or a line each from standard input.
pub(crate) struct Passwords {
    pub(crate) from_stdin: bool,
}

impl Passwords {
    /// The next password.
    pub(crate) fn ask(&self, whose: &str) -> anyhow::Result<String> {
        if !self.from_stdin {
            let prompt = format!("{whose}: ");
            return rpassword::prompt_password(prompt).map_err(|error| {
                let text = format!(
                    "no terminal to ask for a password on ({error}): give --password-stdin, and the password on standard input"
                );
                UsageError(text).into()
            });
        }
        Ok(password_line(&mut io::stdin().lock(), whose)?)
    }

    /// A password that is being chosen: typed twice.
    pub(crate) fn choose(&self, whose: &str) -> anyhow::Result<String> {
        let password = self.ask(whose)?;
        if !self.from_stdin && self.ask("The same again")? != password {
            return Err(UsageError("the two passwords differ; start over".into()).into());
        }
        Ok(password)
    }
}

/// The next line of an input, as a password.
fn password_line(input: &mut impl BufRead, whose: &str) -> Result<String, UsageError> {
    let mut line = Vec::new();
    // With its end, and a byte by which one that is too long is recognised.
    let read = input.take(PASSWORD_BYTES_MAX as u64 + 3).read_until(b'\n', &mut line);
    read.map_err(|error| {
        UsageError(format!("'{whose}' cannot be read from standard input: {error}; write it there, on a line"))
    })?;
    let password = line.strip_suffix(b"\n").unwrap_or(&line);
    let password = password.strip_suffix(b"\r").unwrap_or(password);
    if password.is_empty() {
        let text = format!("'{whose}' is asked for, and standard input has no line for it; write it there");
        return Err(UsageError(text));
    }
    let is_too_long = |is_long| {
        let text = format!(
            "'{whose}': the line on standard input is longer than {PASSWORD_CHARS_MAX} characters, the most that a password \
             has; choose a shorter one"
        );
        if is_long { Err(UsageError(text)) } else { Ok(()) }
    };
    // What was read of such a line may end within a character.
    is_too_long(password.len() > PASSWORD_BYTES_MAX)?;
    let text = str::from_utf8(password).map_err(|_| {
        UsageError(format!("'{whose}': the line on standard input is not UTF-8 text; write the password in UTF-8"))
    })?;
    is_too_long(text.chars().count() > PASSWORD_CHARS_MAX)?;
    Ok(text.to_owned())
}

#[derive(Serialize)]
struct PrintedAnswer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    outcome: Outcome,
    #[serde(flatten)]
    payload: lines::Payload<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a str>,
    vm: &'a str,
    sequence: u64,
    fuel_used: u64,
    is_repeated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    failover: Option<&'a str>,
}

/// Prints an answer: an `ok` on one line as it is, all else as a JSON object; with `json` that, too. Standard error is
/// told of a failover. Returns the exit code.
pub(crate) fn print_answer(answer: &Answer, json: bool) -> anyhow::Result<u8> {
    let is_ok = answer.outcome == Outcome::Ok;
    let mut line = Vec::new();
    if is_ok
        && !json
        && let Some(shown) = lines::as_line(&answer.body)
    {
        line.extend_from_slice(&shown);
    } else {
        let text = str::from_utf8(&answer.body).unwrap_or_default();
        let printed = PrintedAnswer {
            id: answer.id.as_deref(),
            outcome: answer.outcome,
            payload: if is_ok { lines::Payload::of(&answer.body, json) } else { lines::Payload::default() },
            cause: (!is_ok).then_some(text),
            vm: &answer.vm,
            sequence: answer.sequence,
            fuel_used: answer.fuel_used,
            is_repeated: answer.is_repeated,
            failover: answer.failover.as_deref(),
        };
        line = lines::escaped(serde_json::to_vec(&printed)?);
    }
    line.push(b'\n');
    super::is_pipe_open(io::stdout().lock().write_all(&line)).with_context(|| {
        let whose = answer.id.as_ref().map_or("a query".into(), |id| format!("transaction '{}'", Printable(id)));
        format!("cannot write the answer to {whose}, which ended with {}", answer.outcome)
    })?;
    if let Some(failover) = &answer.failover {
        note_failover(failover);
    }
    Ok(if is_ok { exit::OK } else { exit::SOME_NOT_OK })
}

/// The same for a command that could work on a data directory instead.
fn with_server_or_data<T>(work: impl AsyncFnOnce(Client) -> anyhow::Result<T>) -> anyhow::Result<T> {
    with_server(work).map_err(|error| match error.downcast::<NotLoggedIn>() {
        Ok(NotLoggedIn(text)) => NotLoggedIn(format!("{text}; or name a data directory with --data DIR")).into(),
        Err(error) => error,
    })
}

/// `lifeboat services` of the server.
pub(crate) fn services(json: bool) -> anyhow::Result<ExitCode> {
    let is_sound = with_server_or_data(async |client| {
        let services = client.services().await?;
        if services.is_empty() && !json {
            note(
                "there is no service, or none on which you have a grant; an admin makes one: lifeboat deploy SERVICE WORKLOAD",
            );
        }
        print(json, &serde_json::json!({ "services": services }), || services_table(&services))?;
        Ok(services.iter().all(is_well))
    })?;
    Ok(ExitCode::from(if is_sound { exit::OK } else { exit::SOME_NOT_OK }))
}

fn services_table(services: &[Service]) -> String {
    let head = ["name", "state", "vm", "machine", "size", "failover", "last", "snapshot", "cpu", "memory"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(services.iter().map(|service| {
        let of_vm = |part: &dyn Fn(&Vm) -> String| service.vm.as_ref().map_or("-".into(), part);
        let percent = |name: &str| {
            of_vm(&|vm| vm.resources.get(name).map_or("-".into(), |used| format!("{:.1}%", used.utilisation_percent)))
        };
        vec![
            Printable(&service.name).to_string(),
            word(&service.state),
            of_vm(&|vm| Printable(&vm.id).to_string()),
            of_vm(&|vm| Printable(&vm.machine).to_string()),
            of_vm(&|vm| Printable(&vm.size).to_string()),
            Printable(&service.failover).to_string(),
            of_vm(&|vm| grouped(vm.sequence)),
            of_vm(&|vm| grouped(vm.snapshot_sequence)),
            percent("cpu"),
            percent("memory"),
        ]
    }));
    let mut text = terminal_table(&rows);
    for service in services {
        text += &conditions(service);
    }
    text
}

/// `lifeboat query` of the server.
pub(crate) fn query(service: &Name, body: &str, json: bool, waiting: Waiting) -> anyhow::Result<ExitCode> {
    let body = tx::read_body(body)?;
    let code = with_server_or_data(async |client| {
        let backoff = waiting.backoff(false);
        let client = client.with_patience(backoff);
        let ask = async || client.query(service, body.clone().into()).await;
        print_answer(&client.ask_until_answered(ask, &backoff).await?, json)
    })?;
    Ok(ExitCode::from(code))
}

/// `lifeboat remove` of the server.
pub(crate) fn remove(service: &Name, is_sure: bool, json: bool) -> anyhow::Result<ExitCode> {
    with_server_or_data(async |client| {
        if !is_sure {
            let found = client.service(service).await?;
            let last = found.vm.map_or("all".into(), |vm| grouped(vm.sequence));
            let text = format!(
                "'{service}' would be removed from the server for good: its state, the history of {last} transactions; add \
                 --yes to do it"
            );
            return Err(UsageError(text).into());
        }
        client.remove(service).await?;
        if json {
            return print(true, &serde_json::json!({ "removed": service }), String::new);
        }
        note(&format!("{service}: removed"));
        Ok(())
    })?;
    Ok(ExitCode::from(exit::OK))
}

/// Prints text, with lines that fit a terminal, or with `json` the value on one line.
pub(crate) fn print(json: bool, value: &impl Serialize, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    let mut text = if json { lines::json_line(value)? } else { fitting(text()) };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let mut out = io::stdout().lock();
    super::is_pipe_open(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
        .context("cannot write to standard output")?;
    Ok(())
}

/// Sentences as standard error takes them.
pub(crate) fn fitting_error(text: String) -> String {
    help::fitting(text, help::error_columns(), HANGING)
}

/// Sentences and tables as standard output takes them.
pub(crate) fn fitting(text: String) -> String {
    help::fitting(text, help::output_columns(), HANGING)
}

/// Prints sentences on standard error: on one line, or folded if that is a terminal.
pub(crate) fn note(text: &str) {
    let _ = io::stderr().lock().write_all(noted(text, help::error_columns()).as_bytes());
}

fn noted(text: &str, columns: Option<usize>) -> String {
    help::fitting(plain(text) + "\n", columns, HANGING)
}

/// Prints a failover on standard error. It stays one line, also in what a terminal was copied to.
pub(crate) fn note_failover(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", plain(text));
}

/// Whether standard output is a terminal.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// A service on one line.
pub(crate) fn service_line(service: &Service) -> String {
    let state = word(&service.state);
    let place = service.vm.as_ref().map_or_else(
        || service.reason.as_ref().map_or(String::new(), |reason| format!(": {}", Printable(reason))),
        |vm| {
            let Vm { id, machine, size, sequence, .. } = vm;
            let (id, machine, size) = (Printable(id), Printable(machine), Printable(size));
            format!(": {id} on {machine} ({size}), transaction {}", grouped(*sequence))
        },
    );
    let mut text = format!("{}: {state}{place}\n", Printable(&service.name));
    if service.vm.is_some() {
        text += &conditions(service);
    }
    text
}

/// Whether a service can serve, or an operator has stopped it.
pub(crate) fn is_well(service: &Service) -> bool {
    service.state != ServiceState::Quarantined && service.vm.as_ref().is_none_or(|vm| vm.stopped.is_none())
}

/// What is the matter with a service, a line each.
fn conditions(service: &Service) -> String {
    let vm = service.vm.as_ref();
    let journal = vm.and_then(|vm| {
        let condition = if vm.journal_full { "journal full" } else { "journal filling" };
        vm.journal_filling.as_ref().map(|text| format!("{condition}: {text}"))
    });
    let of_state = if service.state == ServiceState::Quarantined { "quarantined: " } else { "" };
    let conditions = [
        (of_state, &service.reason),
        ("degraded: ", vm.map_or(&None, |vm| &vm.degraded)),
        ("unmovable: ", vm.map_or(&None, |vm| &vm.unmovable)),
        ("", &journal),
    ];
    let mut text = String::new();
    for (condition, reason) in conditions {
        if let Some(reason) = reason {
            text += &format!("{}: {condition}{}\n", Printable(&service.name), Printable(reason));
        }
    }
    text
}

/// A value that is one word in JSON.
pub(crate) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => "?".into(),
    }
}

/// Columns, as wide as their widest cell.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// The same on a terminal: columns that are too many for it stand below each row, with their names.
pub(crate) fn terminal_table(rows: &[Vec<String>]) -> String {
    help::output_columns().map_or_else(|| table(rows), |columns| folded_table(rows, columns))
}

/// A table of at most so many columns of characters, if its cells allow it.
fn folded_table(rows: &[Vec<String>], columns: usize) -> String {
    let whole = table(rows);
    if whole.lines().all(|line| line.chars().count() <= columns) {
        return whole;
    }
    let Some((head, _)) = rows.split_first() else { return whole };
    let fits = |count: usize| {
        let part: Vec<Vec<String>> = rows.iter().map(|row| row.iter().take(count).cloned().collect()).collect();
        table(&part).lines().all(|line| line.chars().count() <= columns)
    };
    let kept = (1..=head.len()).rev().find(|count| fits(*count)).unwrap_or(1);
    let part: Vec<Vec<String>> = rows.iter().map(|row| row.iter().take(kept).cloned().collect()).collect();
    let mut text = String::new();
    for (index, line) in table(&part).lines().enumerate() {
        text += line;
        text.push('\n');
        if index == 0 {
            continue;
        }
        let mut below = String::new();
        for (name, cell) in head.iter().zip(&rows[index]).skip(kept) {
            let item = format!("{name} {cell}");
            if !below.is_empty() && below.chars().count() + 2 + item.chars().count() > columns {
                text += &below;
                text.push('\n');
                below.clear();
            }
            below += if below.is_empty() { BELOW } else { "  " };
            below += &item;
        }
        text += &help::broken(&below, columns);
        text.push('\n');
    }
    text
}

/// The column at which a sentence goes on that is too long for the terminal.
const HANGING: usize = 2;

/// What stands before the columns below a row.
const BELOW: &str = "    ";

/// Bytes as text that goes into a file.
pub(crate) fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The bytes of such a text.
pub(crate) fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_names_cannot_drive_a_terminal() {
        let evil = "\u{1b}[2J\u{9b}2J\n";
        let service: Service = serde_json::from_value(serde_json::json!({
            "name": evil, "workload": evil, "state": "running", "failover": evil, "reason": evil,
            "vm": {
                "id": evil, "machine": evil, "size": evil, "sequence": 1, "snapshot_sequence": 1, "resources": {},
                "degraded": evil, "unmovable": evil, "stopped": evil,
            },
        }))
        .expect("a service");
        let stopped = Service { vm: None, ..service.clone() };
        for text in [service_line(&service), service_line(&stopped), services_table(&[service, stopped])] {
            assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_one_line_that_a_terminal_shows_folded() {
        let text = "lifeboat: `spare disk/a.wasm`: No such file or directory (os error 2); name a file that is there";
        let line = "lifeboat: `spare disk/a.wasm`: No such file or directory; name a file that is there\n";
        assert_eq!(noted(text, None), line);
        assert_eq!(noted(text, Some(100)), line);
        let folded = noted(text, Some(40));
        let expected = "lifeboat: `spare disk/a.wasm`: No such\n  file or directory; name a file that is\n  there\n";
        assert_eq!(folded, expected);
        let long = format!("lifeboat: {}: no such file", "x".repeat(50));
        let expected = format!("lifeboat:\n  {}:\n  no such file\n", "x".repeat(50));
        assert_eq!(noted(&long, Some(40)), expected, "no word is broken");
    }

    #[test]
    fn passwords_are_lines_of_text_up_to_the_longest() {
        let longest = "\u{1f600}".repeat(PASSWORD_CHARS_MAX);
        let mut input = io::Cursor::new(format!("one two\r\n{longest}\r\n{longest}y\n"));
        assert_eq!(password_line(&mut input, "Password").expect("a line"), "one two");
        assert_eq!(password_line(&mut input, "Password").expect("a line"), longest);
        let error =
            |input: &[u8]| password_line(&mut io::Cursor::new(input), "Password").expect_err("none").to_string();
        let long = error(format!("{longest}y\n").as_bytes());
        assert!(long.contains("longer than 1024 characters") && long.ends_with("choose a shorter one"), "{long}");
        assert!(error(&[b'x'; 1_025]).contains("longer than 1024 characters"));
        assert!(error(&[b'x'; 100_000]).contains("longer than 1024 characters"));
        assert!(error(b"\xff\xfe\n").ends_with("is not UTF-8 text; write the password in UTF-8"));
        assert!(error(b"").ends_with("has no line for it; write it there"));
    }

    #[test]
    fn a_journal_that_fills_up_is_shown_with_its_service() {
        let mut service: Service = serde_json::from_value(serde_json::json!({
            "name": "bank", "workload": "", "state": "running", "failover": "auto",
            "vm": {
                "id": "bank/1", "machine": "m1", "size": "small", "sequence": 1, "snapshot_sequence": 0, "resources": {},
                "degraded": null, "unmovable": null, "stopped": null, "journal_filling": "half", "journal_full": false,
            },
        }))
        .expect("a service");
        assert!(service_line(&service).ends_with("\nbank: journal filling: half\n"));
        service.vm.as_mut().expect("it serves").journal_full = true;
        assert!(services_table(&[service]).ends_with("\nbank: journal full: half\n"));
    }

    #[test]
    fn a_table_fits_its_columns_and_loses_no_cell() {
        let row = |cells: [&str; 4]| cells.map(str::to_owned).to_vec();
        let rows = [
            row(["name", "vm", "cpu", "state"]),
            row(["bank", "bank/17", "98.3%", "running"]),
            row(["ledger", "-", "-", "quarantined: its journal is damaged, see verify"]),
        ];
        assert_eq!(folded_table(&rows, 200), table(&rows));
        let expected = "\
name    vm       cpu
bank    bank/17  98.3%
    state running
ledger  -        -
    state quarantined: its
    journal is damaged, see
    verify
";
        assert_eq!(folded_table(&rows, 28), expected);
        let expected = "\
name  vm       cpu
bank  bank/17  98.3%
    state running
";
        assert_eq!(folded_table(&rows[..2], 20), expected);
        assert_eq!(folded_table(&[], 10), "");
    }

    #[test]
    fn errors_of_the_client_have_their_exit_codes() {
        let problem = |status, code: &str, outcome| {
            code_of(&ClientError::Problem {
                status,
                code: code.into(),
                detail: String::new(),
                retry_after: None,
                outcome,
            })
        };
        assert_eq!(problem(401, "not_authenticated", Some(Outcome::Denied)), exit::UNREACHABLE);
        assert_eq!(problem(401, "wrong_credentials", None), exit::SOME_NOT_OK);
        assert_eq!(problem(403, "not_granted", Some(Outcome::Denied)), exit::SOME_NOT_OK);
        assert_eq!(problem(503, "stopped", Some(Outcome::Denied)), exit::SOME_NOT_OK);
        assert_eq!(problem(503, "storage", None), exit::HOST);
        assert_eq!(problem(404, "not_found", None), exit::USAGE);
        assert_eq!(problem(404, "not_found", Some(Outcome::Denied)), exit::USAGE);
        assert_eq!(problem(400, "id_too_long", Some(Outcome::Denied)), exit::USAGE);
        assert_eq!(problem(400, "not_an_id", None), exit::USAGE);
        assert_eq!(problem(400, "not_an_id", Some(Outcome::Denied)), exit::USAGE);
        assert_eq!(problem(422, "workload_refused", None), exit::WORKLOAD);
        assert_eq!(problem(409, "service_exists", None), exit::SOME_NOT_OK);
        let unreachable = ClientError::Unreachable { url: String::new(), reason: String::new() };
        assert_eq!(code_of_any(&anyhow::Error::from(unreachable).context("more")), Some(exit::UNREACHABLE));
        assert_eq!(code_of_any(&anyhow::anyhow!("else")), None);
    }
}
