//! The command line: the subcommands, and the errors and readers that they share.

mod arguments;
mod batch;
mod check;
mod code_cache;
mod config;
mod data;
mod deploy;
mod dev;
mod disk;
mod doubts;
mod events;
pub(crate) mod exit;
mod help;
mod init;
mod inspect;
mod limits;
mod login;
mod new;
mod old_forms;
mod on_disk;
mod operate;
mod output;
mod pack;
mod profile;
mod query;
mod remote;
mod remove;
mod run;
mod sample;
mod serve;
mod services;
mod simulate;
mod stop;
mod table;
mod tx;
mod usage;
mod user;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use lifeboat_api::size::Bytes;
use lifeboat_api::text::plain;
use lifeboat_client::{ClientError, ProfileError};
use lifeboat_host::auth::Salt;
use lifeboat_host::service::LaunchError;
use lifeboat_vm::engine::EngineError;
use lifeboat_vm::workload::{LoadError, ReadError, Workload};
use operate::Operation;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use thiserror::Error;

/// Runs stateful WebAssembly programs in metered virtual machines and fails them over at 98 % with nothing lost.
#[derive(Debug, Parser)]
#[command(name = "lifeboat", bin_name = "lifeboat", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a workload as a service and send it transactions, one per line; or run a program once.
    Run(run::Run),
    /// Drive a fleet of services with users and traffic, and prove that nothing was lost.
    Simulate(simulate::Simulate),
    /// Show what the loader finds in a workload.
    Inspect(inspect::Inspect),
    /// Write a workload to start from, in one of several languages.
    New(new::New),
    /// Build a guest, run it, and move its state into each new build.
    Dev(dev::Dev),
    /// Find the bugs of a workload that only a host would meet.
    Check(check::Check),
    /// Show which functions of a workload burn its fuel, and what its transactions need.
    Profile(profile::Profile),
    /// Show, check, copy and repair the contents of a data directory, without a server.
    Data(data::Data),
    /// Set up a server: a configuration file, and a data directory with the first admin.
    Init(init::Init),
    /// Check a configuration file.
    Config(config::Config),
    /// Serve the services of a data directory over HTTP.
    Serve(serve::Serve),
    /// Get a token from a server, for the commands that use it.
    Login(login::Login),
    /// Make the token void.
    Logout(login::Logout),
    /// Show who is logged in, and what they may do.
    Whoami(login::WhoAmI),
    /// Create a service from a workload, on the server.
    Deploy(deploy::Deploy),
    /// List the services of the server.
    Services(services::Services),
    /// Send a transaction to a service of the server, or look up its answer.
    Tx(tx::Tx),
    /// Send many transactions to a service of the server, one per line.
    Batch(batch::Batch),
    /// Query a service of the server; nothing is changed.
    Query(query::Query),
    /// Show or copy the files of a service of the server.
    Disk(disk::OfDisk),
    /// Show how full the VMs of the server are, and what its services did.
    Usage(usage::Usage),
    /// Show what happened to the services of the server.
    Events(events::Events),
    /// Show what a service of the server wrote.
    Logs(events::Logs),
    /// Move a service of the server to a fresh VM.
    Failover(operate::Operate),
    /// Take a snapshot of a service of the server, and release its VM.
    Stop(operate::Operate),
    /// Start a service of the server that was stopped or quarantined.
    Start(operate::Operate),
    /// Drop the queued requests of a user to a service of the server.
    Drop(operate::Drop),
    /// List the calls in doubt of a service of the server, or settle one.
    Doubts(doubts::Doubts),
    /// Remove a service of the server and its history permanently.
    Remove(remove::Remove),
    /// Manage the users of the server and their grants.
    User(user::User),
}

/// The environment variable that replaces `--data`.
const DATA_VARIABLE: &str = "LIFEBOAT_DATA";

/// Returns the value of an environment variable. An empty one counts as unset.
fn variable(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

impl Cli {
    /// Reads the command line. An empty [`DATA_VARIABLE`] counts as unset.
    ///
    /// # Errors
    /// An error of clap, if the command line is wrong or asks for help.
    pub(crate) fn parse() -> Result<Self, clap::Error> {
        Self::parse_from(old_forms::renewed(std::env::args_os()))
    }

    /// Reads arguments that are no form of earlier versions.
    fn parse_from(arguments: Vec<OsString>) -> Result<Self, clap::Error> {
        let mut command = help::fitted(Self::command(), "", help::columns());
        if std::env::var_os(DATA_VARIABLE).is_some_and(|directory| directory.is_empty()) {
            command = without_variable(command);
        }
        Self::from_arg_matches_mut(&mut command.try_get_matches_from_mut(arguments)?)
            .map_err(|error| error.format(&mut command))
    }

    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Run(run) => run.execute(),
            Command::Simulate(simulate) => simulate.execute(),
            Command::Inspect(inspect) => inspect.execute(),
            Command::New(new) => new.execute(),
            Command::Dev(dev) => dev.execute(),
            Command::Check(check) => check.execute(),
            Command::Profile(profile) => profile.execute(),
            Command::Data(data) => data.execute(),
            Command::Init(init) => init.execute(),
            Command::Config(config) => config.execute(),
            Command::Login(login) => login.execute(),
            Command::Logout(logout) => logout.execute(),
            Command::Whoami(whoami) => whoami.execute(),
            Command::Deploy(deploy) => deploy.execute(),
            Command::Services(services) => services.execute(),
            Command::Tx(tx) => tx.execute(),
            Command::Batch(batch) => batch.execute(),
            Command::Query(query) => query.execute(),
            Command::Disk(disk) => disk.execute(),
            Command::Usage(usage) => usage.execute(),
            Command::Events(events) => events.execute(),
            Command::Logs(logs) => logs.execute(),
            Command::Failover(operate) => operate.execute(Operation::Failover),
            Command::Stop(operate) => operate.execute(Operation::Stop),
            Command::Start(operate) => operate.execute(Operation::Start),
            Command::Drop(drop) => drop.execute(),
            Command::Doubts(doubts) => doubts.execute(),
            Command::Remove(remove) => remove.execute(),
            Command::User(user) => user.execute(),
            Command::Serve(serve) => serve.execute(),
        }
    }
}

/// Reads the command line of `run` again, with the last `count` arguments before the workload that they follow: they are
/// options. What follows a program is the program's, so only the workload shows what they are.
///
/// # Errors
/// The exit code, if the options are wrong or ask for help. The message is printed.
fn with_options_first(count: usize) -> Result<run::Run, ExitCode> {
    let mut arguments = old_forms::renewed(std::env::args_os());
    let workload = arguments.len().saturating_sub(count + 1);
    let last = arguments.remove(workload);
    // An option that lacks its value must not take the workload for it.
    arguments.extend(["--".into(), last]);
    match Cli::parse_from(arguments).map_err(|error| refuse(&error))?.command {
        Command::Run(run) => Ok(run),
        _ => unreachable!("the command is `run`"),
    }
}

/// Returns the command without the environment variable for `--data`.
fn without_variable(command: clap::Command) -> clap::Command {
    let unset = |arg: clap::Arg| if arg.get_long() == Some("data") { arg.env(None::<&str>) } else { arg };
    command.mut_args(unset).mut_subcommands(without_variable)
}

/// A request that cannot be carried out as the user made it.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

/// Stored data that cannot satisfy a request, because it is damaged or has changed.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct FindingError(pub(crate) String);

/// A workload's file that cannot be read.
#[derive(Debug, Error)]
#[error("{}: cannot be read: {error}; name a .wasm or .wat file", file.escape_debug())]
struct UnreadableWorkload {
    file: String,
    error: io::Error,
}

/// Several errors in one file.
#[derive(Debug, Error)]
#[error("{}", .0.join("\n"))]
pub(crate) struct UsageErrors(pub(crate) Vec<String>);

/// A reason for which the operating system refuses this user a file or room for it, with the remedy.
pub(crate) struct Unusable {
    kind: io::ErrorKind,
    /// The words of the reason, as [`plain`] prints them.
    words: &'static str,
    remedy: &'static str,
    /// The exit code of a command that needs the file.
    code: u8,
}

/// The standard library's words for a full disk whose error has no number. [`FULL`] is the wording everywhere else.
const BARE_FULL: &str = "no storage space";
const FULL: &str = "no space left on the device";

/// The remedy for a full disk.
const MAKE_ROOM: &str = "make room on its disk (df shows the free space), and run the command again";

const UNUSABLE: [Unusable; 4] = [
    Unusable { kind: io::ErrorKind::StorageFull, words: FULL, remedy: MAKE_ROOM, code: exit::HOST },
    Unusable {
        kind: io::ErrorKind::QuotaExceeded,
        words: "the disk quota is used up",
        remedy: "remove files of its owner there, or have the quota raised, and run the command again",
        code: exit::HOST,
    },
    Unusable {
        kind: io::ErrorKind::PermissionDenied,
        words: "Permission denied",
        remedy: "run the command as the owner, or change the owner or the mode (ls -l shows them, chown and chmod change \
                 them)",
        code: exit::USAGE,
    },
    Unusable {
        kind: io::ErrorKind::ReadOnlyFilesystem,
        words: "Read-only file system",
        remedy: "mount it writable, or copy its contents to a writable place",
        code: exit::USAGE,
    },
];

impl Unusable {
    /// Finds the reason in a plain text, for errors that were converted to text.
    pub(crate) fn in_text(text: &str) -> Option<&'static Self> {
        UNUSABLE.iter().find(|unusable| text.contains(unusable.words))
    }

    /// Returns whether a line about this reason already contains the remedy.
    fn has_remedy_in(&self, line: &str) -> bool {
        matches!(self.kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) && line.contains("make room")
    }

    /// Finds the reason in an error. An error that a server reports about its own files does not concern this user.
    fn in_error(error: &anyhow::Error, text: &str) -> Option<&'static Self> {
        match error.downcast_ref::<ClientError>() {
            Some(ClientError::Setup(text)) => return Self::in_text(text),
            None | Some(ClientError::Input(_) | ClientError::Ids(_)) => {}
            Some(_) => return None,
        }
        let of_kind = kinds(error).find_map(|kind| UNUSABLE.iter().find(|unusable| unusable.kind == kind));
        let is_text = error.is::<UsageError>()
            || error.is::<UsageErrors>()
            || error.is::<FindingError>()
            || error.is::<UnreadableWorkload>()
            || error.is::<ProfileError>();
        of_kind.or_else(|| if is_text { Self::in_text(text) } else { None })
    }
}

fn kinds(error: &anyhow::Error) -> impl Iterator<Item = io::ErrorKind> {
    error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind)
}

/// Adds to an error about a full disk what was to be written, and the least number of bytes that it takes.
pub(crate) fn with_need(error: impl Into<anyhow::Error>, what: &str, bytes: u64) -> anyhow::Error {
    let error = error.into();
    let is_full = |kind| matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    if kinds(&error).any(is_full) { error.context(format!("{what} takes at least {}", Bytes(bytes))) } else { error }
}

/// Prints the help that the command line asks for, or its error on one line, which a terminal shows folded. Returns the
/// exit code.
pub(crate) fn refuse(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // The ignored error can only be a failed write.
        let _ = error.print();
    } else {
        let arguments = old_forms::renewed(std::env::args_os());
        let arguments = arguments.get(1..).unwrap_or_default();
        output::note(&format!("lifeboat: {}", arguments::explained(error, &Cli::command(), arguments)));
    }
    ExitCode::from(if error.use_stderr() { exit::USAGE } else { exit::OK })
}

/// Prints an error and maps it to the exit code. No other function maps errors to codes.
///
/// An error takes one line unless it consists of several. A terminal shows long lines folded.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let mut text = plain(&format!("{error:#}")).replace(BARE_FULL, FULL);
    // A server goes on once the cause is gone. A command has ended, and must be run again.
    if !error.is::<ClientError>() {
        text = text.replace(", and it continues by itself", ", and run the command again");
    }
    let unusable = Unusable::in_error(error, &text);
    for line in text.lines() {
        // Lines that do not report the system's reason have their own remedy.
        print_line(line, unusable.filter(|unusable| line.contains(unusable.words)));
    }
    ExitCode::from(unusable.map_or_else(|| code_of(error), |unusable| unusable.code))
}

/// Prints a line about an error, with the remedy if the operating system refused this user a file.
pub(crate) fn print_line(line: &str, unusable: Option<&Unusable>) {
    let unusable = unusable.filter(|unusable| !unusable.has_remedy_in(line));
    let remedy = unusable.map_or(String::new(), |unusable| format!("; {}", unusable.remedy));
    output::note(&format!("lifeboat: {line}{remedy}"));
}

fn code_of(error: &anyhow::Error) -> u8 {
    if let Some(code) = remote::code_of_any(error) {
        code
    } else if error.is::<UsageError>() || error.is::<UsageErrors>() {
        exit::USAGE
    } else if error.is::<FindingError>() {
        exit::SOME_NOT_OK
    } else if error.downcast_ref().is_some_and(|error: &LoadError| !error.may_pass())
        || error.is::<UnreadableWorkload>()
        || error.is::<sample::UnstartableWorkload>()
    {
        exit::WORKLOAD
    } else {
        match (error.downcast_ref::<EngineError>(), error.downcast_ref::<LaunchError>()) {
            (Some(error), _) | (_, Some(LaunchError::Engine(error))) if is_of_workload(error) => exit::WORKLOAD,
            (_, Some(LaunchError::Size(_) | LaunchError::Instantiate { .. })) => exit::WORKLOAD,
            _ => exit::HOST,
        }
    }
}

fn is_of_workload(error: &EngineError) -> bool {
    let is_of_compiler = matches!(
        error,
        EngineError::Compile { .. } | EngineError::Exceeded { .. } | EngineError::CompileDeadline { .. }
    );
    is_of_compiler || matches!(error, EngineError::Load(error) if !error.may_pass())
}

/// Returns 32 unpredictable bytes.
pub(crate) fn random() -> anyhow::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no random numbers are available: {error}"))?;
    Ok(bytes)
}

/// Returns a random salt for a new password.
pub(crate) fn random_salt() -> anyhow::Result<Salt> {
    let mut salt = Salt::default();
    let length = salt.len();
    salt.copy_from_slice(&random()?[..length]);
    Ok(salt)
}

/// Returns an unpredictable epoch.
pub(crate) fn random_epoch() -> anyhow::Result<lifeboat_api::id::Epoch> {
    let bytes = random()?;
    let mut epoch = [0; 16];
    epoch.copy_from_slice(&bytes[..16]);
    Ok(lifeboat_api::id::Epoch(epoch))
}

/// Reads and validates the workload in `file`, and returns it with its bytes. Reads no more than the loader accepts.
pub(crate) fn load_workload(file: &Path) -> anyhow::Result<(Workload, Vec<u8>)> {
    let bytes = read_workload(file)?;
    let workload = lifeboat_vm::engine::load(&file.display().to_string(), &bytes)?;
    Ok((workload, bytes))
}

/// Reads the workload in `file`. Reads no more than the loader accepts.
pub(crate) fn read_workload(file: &Path) -> anyhow::Result<Vec<u8>> {
    lifeboat_vm::workload::read(file).map_err(|error| match error {
        ReadError::Io(error) => UnreadableWorkload { file: file.display().to_string(), error }.into(),
        ReadError::Load(refused) => refused.into(),
        other => other.into(),
    })
}

/// Returns whether standard output is still open after a write. A reader that has gone is not an error.
pub(crate) fn is_pipe_open(written: io::Result<()>) -> io::Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn an_unusable_file_has_one_exit_code_whatever_reports_it() {
        // This user can write neither without permission, nor to a read-only file system, nor to a full disk.
        for (number, code, remedy) in [
            (13, exit::USAGE, "run the command as the owner"),
            (30, exit::USAGE, "mount it writable"),
            (28, exit::HOST, "make room on its disk"),
            (122, exit::HOST, "remove files of its owner there"),
        ] {
            let denied = || io::Error::from_raw_os_error(number);
            let of_library = anyhow::Error::from(denied()).context("cannot open the journal");
            let of_text = UsageError(format!("d: {}", denied())).into();
            let of_workload = UnreadableWorkload { file: "w".into(), error: denied() }.into();
            for error in [of_library, of_text, of_workload] {
                let text = plain(&format!("{error:#}"));
                let unusable = Unusable::in_error(&error, &text).expect("it may not be used");
                assert!(unusable.remedy.starts_with(remedy) && text.contains(unusable.words), "{text}");
                assert_eq!(unusable.code, code, "{text}");
            }
            let of_server = ClientError::Problem {
                status: 503,
                code: "storage".into(),
                detail: denied().to_string(),
                retry_after: None,
                outcome: None,
            };
            assert!(Unusable::in_error(&of_server.into(), &denied().to_string()).is_none());
        }
    }

    #[test]
    fn a_file_without_room_is_named_with_the_bytes_that_it_takes() {
        let of_kind = |kind: io::ErrorKind| with_need(io::Error::from(kind), "file 'f'", 3 << 20);
        assert!(format!("{:#}", of_kind(io::ErrorKind::StorageFull)).starts_with("file 'f' takes at least 3 MiB: "));
        assert!(!format!("{:#}", of_kind(io::ErrorKind::NotFound)).contains("takes"));
    }

    #[test]
    fn a_remedy_that_an_error_already_has_is_recognised() {
        let full = UNUSABLE.iter().find(|unusable| unusable.remedy == MAKE_ROOM).expect("it is there");
        assert!(full.has_remedy_in("no space left on the device; make room on its disk, and it continues by itself"));
        assert!(!full.has_remedy_in("no space left on the device"));
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
