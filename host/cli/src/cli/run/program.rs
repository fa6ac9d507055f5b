//! A program that `lifeboat run` runs once, outside of any service.

use super::super::disk::{Files, export};
use super::super::stop::Stop;
use super::super::{UsageError, arguments, code_cache, exit, output, pack, report};
use super::Run;
use clap::Args;
use lifeboat_api::clock::{Clock, SystemClock, Timestamp};
use lifeboat_api::http::DiskListing;
use lifeboat_api::id::Sequence;
use lifeboat_api::lines::json_line;
use lifeboat_api::meter::{NetworkAmount, NetworkUsage, Unit, Usage};
use lifeboat_api::size::{Bytes, BytesBeside, Size, grouped};
use lifeboat_api::transaction::Cause;
use lifeboat_client::FilePart;
use lifeboat_disk::{Disk, Error};
use lifeboat_host::files::{self, Part};
use lifeboat_vm::engine::{Engine, PoolLimits, joined};
use lifeboat_vm::instance::{
    self, CommandLine, LINGER_MAX, Machine, OwnStreams, Ran, RunEnd, Surroundings, TcpNetwork, is_granted, run_once,
};
use lifeboat_vm::store::{Allowance, Inputs};
use lifeboat_vm::workload::{Wasi, Workload};
use std::collections::HashMap;
use std::env::VarError;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// The size whose limits a program has by default.
const SIZE_DEFAULT: &str = "huge";

/// The time that a deterministic program sees: 2000-01-01T00:00:00Z, in nanoseconds since 1970.
const FIXED_TIME: Timestamp = Timestamp(946_684_800_000_000_000);

/// How long after its time limit a program may still wait for the reader of its output.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(1);

/// The longest wait that a timer can express.
const TIMER_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The key of the random numbers that a deterministic program sees.
const FIXED_SECRET: [u8; 32] = [0; 32];

/// The most bytes that the arguments of a program for preview 1 take in its adapter, and the most that its variables
/// take there ([`adapted_bytes`]). The adapter has 59,016 bytes for that, and traps if it needs more.
const ADAPTED_BYTES_MAX: u64 = 56 * 1024;

/// The bytes of a text in the table of the adapter: a pointer and a length.
const ADAPTED_TEXT_BYTES: u64 = 8;

/// Arguments of `run` that only a program has that runs once.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of a program that runs once")]
pub(super) struct Once {
    /// Copy the virtual disk into this new directory at the end; without it, the files that the program wrote are lost
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// End the program after this time [such as 90s or 500ms; default: no limit]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
    /// Clocks begin at 2000-01-01 and are moved by sleeps alone, and random numbers are always the same
    #[arg(long)]
    deterministic: bool,
    /// Print what the program used of each resource at the end, on standard error
    #[arg(long)]
    usage: bool,
}

impl Once {
    /// Returns one of these options that was given.
    pub(super) fn option(&self) -> Option<&'static str> {
        let Self { save, timeout, deterministic, usage } = self;
        [
            (save.is_some(), "--save"),
            (timeout.is_some(), "--timeout"),
            (*deterministic, "--deterministic"),
            (*usage, "--usage"),
        ]
        .into_iter()
        .find_map(|(is_given, option)| is_given.then_some(option))
    }
}

/// A variable of a program's environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Variable {
    name: String,
    /// None for that of this command.
    value: Option<String>,
}

impl FromStr for Variable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        if name.is_empty() {
            return Err(format!("{} has no name; write NAME=VALUE, or NAME alone", arguments::shown(text)));
        }
        Ok(Self { name: name.to_owned(), value: value.map(str::to_owned) })
    }
}

/// Returns the environment of a program. Of several variables with one name it has the last value. A variable that this
/// command does not have is left out.
///
/// # Errors
/// [`UsageError`] if the value of this command is not UTF-8, as all strings of WASI are.
pub(crate) fn environment(variables: &[Variable]) -> Result<Vec<(String, String)>, UsageError> {
    let mut environment: Vec<(String, String)> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for Variable { name, value } in variables {
        let value = match value.clone().map_or_else(|| std::env::var(name), Ok) {
            Ok(value) => value,
            Err(VarError::NotPresent) => continue,
            Err(VarError::NotUnicode(_)) => {
                let shown = arguments::shown(name);
                return Err(UsageError(format!(
                    "--env: the variable {shown} of this command is not UTF-8, as a variable of a program must be; give \
                     it another value, as NAME=VALUE"
                )));
            }
        };
        match places.get(name.as_str()) {
            Some(&place) => environment[place].1 = value,
            None => {
                places.insert(name, environment.len());
                environment.push((name.clone(), value));
            }
        }
    }
    Ok(environment)
}

/// Returns arguments as text.
///
/// # Errors
/// [`UsageError`] if one is not UTF-8, as all strings of WASI are.
pub(super) fn texts(arguments: &[OsString]) -> anyhow::Result<Vec<String>> {
    let text = |argument: &OsString| {
        argument.to_str().map(str::to_owned).ok_or_else(|| {
            let shown = arguments::shown(&argument.to_string_lossy());
            UsageError(format!("the argument {shown} is not UTF-8, as an argument of a program must be")).into()
        })
    };
    arguments.iter().map(text).collect()
}

/// Returns the bytes that these texts take in the memory of the adapter for preview 1: a table of all, and the longest
/// one. The adapter passes each text through the room behind the table alone.
fn adapted_bytes<'a>(texts: impl Iterator<Item = &'a String>) -> u64 {
    let add = |(count, longest): (u64, u64), text: &String| (count + 1, longest.max(text.len() as u64));
    let (count, longest) = texts.fold((0, 0), add);
    count * ADAPTED_TEXT_BYTES + longest
}

/// Checks that the adapter for preview 1 can pass the arguments and the variables on.
///
/// # Errors
/// [`UsageError`] if they take more than [`ADAPTED_BYTES_MAX`].
fn check_adapted(command_line: &CommandLine) -> Result<(), UsageError> {
    let CommandLine { arguments, environment } = command_line;
    let of_arguments = adapted_bytes(arguments.iter());
    let of_variables = adapted_bytes(environment.iter().flat_map(|(name, value)| [name, value]));
    let kinds = [
        (of_arguments, "arguments", "8 for each, and the longest one"),
        (of_variables, "variables of --env", "16 for each, and the longest name or value"),
    ];
    match kinds.into_iter().find(|(bytes, ..)| *bytes > ADAPTED_BYTES_MAX) {
        Some((bytes, kind, parts)) => Err(UsageError(format!(
            "the {kind} take {} bytes ({parts}), and a program for preview 1 has {} for them; put them into a file, \
             and give it to the program with --dir",
            grouped(bytes),
            grouped(ADAPTED_BYTES_MAX)
        ))),
        None => Ok(()),
    }
}

/// Parses a time: a whole number of `ms`, `s` or `m`. Seconds if it has no unit.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let millis_of_unit = match &text[digits.len()..] {
        "ms" => Some(1),
        "" | "s" => Some(1_000),
        "m" | "min" => Some(60_000),
        _ => None,
    };
    let number = digits.parse::<u64>().ok().filter(|number| *number > 0);
    let millis = number.zip(millis_of_unit).and_then(|(number, unit)| number.checked_mul(unit));
    millis.map(Duration::from_millis).ok_or_else(|| {
        format!(
            "{} is not a time; write a whole number above zero with ms, s or m, such as 90s",
            arguments::shown(text)
        )
    })
}

/// The clocks and random numbers of this machine.
struct ThisMachine(SystemClock);

impl Machine for ThisMachine {
    fn wall_ns(&mut self) -> u64 {
        self.0.now().0
    }

    fn monotonic_ns(&mut self) -> u64 {
        u64::try_from(self.0.monotonic().as_nanos()).unwrap_or(u64::MAX)
    }

    fn fill_random(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        getrandom::fill(bytes).map_err(|error| io::Error::other(error.to_string()))
    }
}

impl Run {
    /// Runs a program, and returns its exit code.
    pub(super) async fn run_once(self, workload: Workload) -> anyhow::Result<ExitCode> {
        let size = self.size_of_program()?;
        if let Some(option) = self.option_of_service() {
            let text =
                format!("{option} is for a service, and this program runs once; leave it out, or add --transactions");
            return Err(UsageError(text).into());
        }
        let network = self.network_of_program(&size)?;
        let file = Path::new(&self.workload_and_arguments[0]);
        let shown = file.display().to_string();
        if let Some(out) = &self.once.save
            && out.symlink_metadata().is_ok()
        {
            let out = arguments::shown(&out.display().to_string());
            return Err(UsageError(format!("--save: {out} exists already; name a new directory")).into());
        }
        if workload.initial_memory_bytes > size.memory_bytes {
            let (initial, limit) = (Bytes(workload.initial_memory_bytes), Bytes(size.memory_bytes));
            return Err(UsageError(format!(
                "{} begins with {initial} of memory, and the limit is {limit}; give it more with --memory",
                arguments::shown(&shown)
            ))
            .into());
        }
        let name = file.file_name().unwrap_or(file.as_os_str()).to_owned();
        let arguments: Vec<OsString> = std::iter::once(name).chain(self.arguments().iter().cloned()).collect();
        let command_line = CommandLine { arguments: texts(&arguments)?, environment: environment(&self.environment)? };
        if workload.wasi == Some(Wasi::Preview1) {
            check_adapted(&command_line)?;
        }
        let disk = pack::disk(&self.dirs, size.disk_bytes, SystemClock.now())?.unwrap_or_else(|| Disk::new(0));
        let before = disk.clone();
        let has_network = network.is_some();
        let wants_network = workload.denied.iter().any(|import| is_granted(import));
        if has_network && !wants_network {
            output::note(&format!(
                "lifeboat: {shown}: --allow-net has no effect, because the program imports no wasi:sockets of WASI \
                 0.2; preview 1 has no connections"
            ));
        }
        let surroundings = match self.once.deterministic {
            true => Surroundings::Fixed { now: FIXED_TIME, secret: FIXED_SECRET },
            false => Surroundings::Machine { machine: Box::new(ThisMachine(SystemClock)), network },
        };
        let deadline = self.once.timeout.unwrap_or(Duration::MAX);
        let run = instance::Run {
            command_line,
            streams: OwnStreams {
                stdin: Box::new(io::stdin()),
                stdout: Box::new(io::stdout()),
                stderr: Box::new(io::stderr()),
            },
            disk,
            preopens: self.dirs.iter().map(pack::Dir::preopen).collect(),
            allowance: Allowance {
                fuel: size.fuel,
                memory_bytes: size.memory_bytes,
                disk_bytes: size.disk_bytes,
                inputs: Inputs::Live { deadline },
            },
            surroundings,
        };

        let memories = workload.footprint.memories;
        let limits = PoolLimits { stores: 1, memories, memory_bytes: size.memory_bytes };
        let engine = if has_network { Engine::with_sockets(limits) } else { Engine::new(limits) }?;
        let engine = Arc::new(engine.with_cache(code_cache::of_user()?));
        let program = engine.compile(workload).await?;
        // A signal from here on removes the directory again.
        let mut stop = self.once.save.is_some().then(Stop::new).transpose()?;
        let saved = self.once.save.as_deref().map(NewDirectory::create).transpose()?;
        let running = joined(engine.spawn(async move { run_once(&program, run).await }));
        // A program that waits for the reader of its output has no turn in which it could end by itself.
        let patience = deadline.saturating_add(OUTPUT_PATIENCE).min(TIMER_MAX);
        let interrupted = async {
            match &mut stop {
                Some(stop) => stop.number().await,
                None => std::future::pending().await,
            }
        };
        let in_time = tokio::select! {
            in_time = tokio::time::timeout(patience, running) => in_time,
            number = interrupted => {
                output::note(&format!(
                    "lifeboat: {shown}: interrupted: --save did not copy the files, because a program that a signal \
                     ends leaves none; --timeout ends it, and keeps them"
                ));
                drop(saved);
                std::process::exit(exit::SIGNAL + number);
            }
        };
        let Ok(ran) = in_time else {
            output::note(&format!("lifeboat: {shown}: {}", ended(&Cause::Deadline { deadline }, Unit::Calls)));
            let missing = [
                (saved.is_some(), "--save did not copy the files"),
                (self.once.usage, "--usage does not know the usage"),
            ];
            let missing: Vec<&str> = missing.into_iter().filter_map(|(is_given, it)| is_given.then_some(it)).collect();
            if !missing.is_empty() {
                output::note(&format!(
                    "lifeboat: {shown}: {}, because the program waited for the reader of its output; read the output, or \
                     write it to a file",
                    missing.join(", and ")
                ));
            }
            drop(saved);
            // The thread that writes would hold the end of this process.
            std::process::exit(exit::ENDED_BY_HOST.into());
        };
        let ran = ran.map_err(|error| anyhow::anyhow!("a directory of --dir is not on the virtual disk: {error}"))?;
        // A program that has not ended its last line leaves it here.
        drop(io::stdout().flush());
        let code = match &ran.end {
            RunEnd::Exit(code) => *code,
            RunEnd::OutputClosed => exit::OUTPUT_CLOSED,
            RunEnd::Failed(cause) => {
                let (fuller, _) = network_usage(&ran, size.network());
                output::note(&format!("lifeboat: {shown}: {}", ended(cause, fuller)));
                exit::ENDED_BY_HOST
            }
        };
        if let Some(peer) = &ran.denied_peer {
            output::note(&format!(
                "lifeboat: {shown}: network: the program asked for {peer}, which no --allow-net names; add --allow-net \
                 HOST:PORT, by the name or the address that the program uses"
            ));
        }
        if code != exit::OK && wants_network && !has_network {
            output::note(&format!(
                "lifeboat: {shown}: network: the program can use sockets, and they are denied; --allow-net HOST:PORT \
                 lets it connect there"
            ));
        }
        if ran.has_unsent {
            output::note(&format!(
                "lifeboat: {shown}: network: a peer did not take all that the program sent within {} s after its end, \
                 or within --timeout; the rest may be lost; let the program wait for the answer of its peer",
                LINGER_MAX.as_secs()
            ));
        }
        if self.once.usage {
            let allowance = if has_network { size.network() } else { NetworkAmount::default() };
            let text = match self.json {
                true => json_line(&usage_json(&ran, &size, allowance))?,
                false => usage(&ran, &size, allowance),
            };
            drop(io::stderr().write_all(text.as_bytes()));
        }
        let is_kept = match saved {
            Some(directory) => directory.fill(&ran.disk),
            None => {
                if !ran.disk.is_copy_of(&before) {
                    output::note(
                        "lifeboat: the program changed files on its virtual disk, which ended with it; --save DIR keeps \
                         them",
                    );
                }
                true
            }
        };
        let code = if code == exit::OK && !is_kept { exit::HOST } else { code };
        Ok(ExitCode::from(code))
    }

    /// Returns the limits of a program that runs once.
    fn size_of_program(&self) -> anyhow::Result<Size> {
        let wanted = self.limits.size.as_deref().unwrap_or(SIZE_DEFAULT);
        let mut size = arguments::built_in_size(wanted)?;
        size.fuel = self.limits.fuel.unwrap_or(size.fuel);
        size.memory_bytes = self.limits.memory.unwrap_or(size.memory_bytes);
        size.disk_bytes = self.limits.disk.unwrap_or(size.disk_bytes);
        size.network_calls = self.limits.network_calls.unwrap_or(size.network_calls);
        size.network_bytes = self.limits.network_bytes.unwrap_or(size.network_bytes);
        Ok(size)
    }

    /// Returns the network of a program that runs once, if it has one.
    fn network_of_program(&self, size: &Size) -> anyhow::Result<Option<TcpNetwork>> {
        let network = self.network.of_program(size.network())?;
        if network.is_some() && self.once.deterministic {
            let text = "--allow-net and --deterministic exclude each other, because no second run gets the same \
                        answers from a network; leave out one of them";
            return Err(UsageError(text.into()).into());
        }
        let limits = [(self.limits.network_calls, "--network-calls"), (self.limits.network_bytes, "--network-bytes")];
        let limit = limits.into_iter().find_map(|(limit, option)| limit.and(Some(option)));
        if let (None, Some(option)) = (&network, limit) {
            let text = format!(
                "{option} is for a service, or for a program with a network; leave it out, or add --allow-net HOST:PORT"
            );
            return Err(UsageError(text).into());
        }
        Ok(network)
    }
}

/// Describes why the host ended a program, with the option that gives it more. Of the network, `fuller` is the unit that
/// it used most of.
fn ended(cause: &Cause, fuller: Unit) -> String {
    match cause {
        Cause::Fuel { limit_fuel } => {
            format!("cpu: it used up its {} fuel; give it more with --fuel", grouped(*limit_fuel))
        }
        Cause::Memory { wanted_bytes, limit_bytes } => format!(
            "memory: {} would exceed the limit of {}; give it more with --memory",
            BytesBeside { bytes: *wanted_bytes, bound: *limit_bytes },
            Bytes(*limit_bytes)
        ),
        Cause::Deadline { deadline } => {
            format!("deadline: not finished within {} ms; give it more with --timeout", deadline.as_millis())
        }
        Cause::Network { limit_calls, limit_bytes } => {
            let (allowance, option) = match fuller {
                Unit::Bytes => (Bytes(*limit_bytes).to_string(), "--network-bytes"),
                Unit::Calls | Unit::Fuel => (super::counted(*limit_calls, "call"), "--network-calls"),
            };
            format!("network: it used up its allowance of {allowance}; give it more with {option}")
        }
        cause => cause.detailed(),
    }
}

/// Returns the use of the network in the unit that is fuller. A program without a network has no allowance.
fn network_usage(ran: &Ran, allowance: NetworkAmount) -> (Unit, Usage) {
    let mut usage = NetworkUsage::new(allowance);
    (usage.calls.used, usage.bytes.used) = (ran.network.calls, ran.network.bytes);
    usage.fuller()
}

fn usage(ran: &Ran, size: &Size, allowance: NetworkAmount) -> String {
    let row = |name: &str, used: u64, limit: u64, texts: [String; 2]| {
        if limit == 0 {
            return format!("  {name:<8}   none\n");
        }
        let percent = used as f64 * 100.0 / limit as f64;
        let [used, limit] = texts;
        format!("  {name:<8} {percent:>5.1}%  {used:>16} of {limit}\n")
    };
    let bytes = |name: &str, used: u64, limit: u64| {
        row(name, used, limit, [BytesBeside { bytes: used, bound: limit }.to_string(), Bytes(limit).to_string()])
    };
    let Ran { fuel_used, levels, .. } = ran;
    let mut text = String::from("\n");
    text += &row("cpu", *fuel_used, size.fuel, [grouped(*fuel_used), format!("{} fuel", grouped(size.fuel))]);
    text += &match network_usage(ran, allowance) {
        (Unit::Bytes, Usage { used, limit }) => bytes("network", used, limit),
        (_, Usage { used, limit }) => row("network", used, limit, [grouped(used), format!("{} calls", grouped(limit))]),
    };
    text += &bytes("memory", levels.memory_bytes, size.memory_bytes);
    text += &bytes("disk", levels.disk_bytes, size.disk_bytes);
    text
}

fn usage_json(ran: &Ran, size: &Size, allowance: NetworkAmount) -> serde_json::Value {
    let row = |used: u64, limit: u64| serde_json::json!({ "used": used, "limit": limit });
    serde_json::json!({ "usage": {
        "cpu": row(ran.fuel_used, size.fuel),
        "network": {
            "calls": row(ran.network.calls, allowance.calls),
            "bytes": row(ran.network.bytes, allowance.bytes),
        },
        "memory": row(ran.levels.memory_bytes, size.memory_bytes),
        "disk": row(ran.levels.disk_bytes, size.disk_bytes),
    }})
}

/// The new directory of `--save`, which is removed again if the program does not come to its end.
struct NewDirectory<'a> {
    path: &'a Path,
    is_filled: bool,
}

impl<'a> NewDirectory<'a> {
    fn create(path: &'a Path) -> anyhow::Result<Self> {
        export::create(path)?;
        Ok(Self { path, is_filled: false })
    }

    /// Copies the files of a disk to the directory, and reports how many, or why not. Returns whether all are there, but
    /// for links that lead out.
    fn fill(mut self, disk: &Disk) -> bool {
        self.is_filled = true;
        let shown = arguments::shown(&self.path.display().to_string());
        let (files, bytes, skipped) = match export::export_all(&mut OnDisk(disk.clone()), self.path) {
            Ok(copied) => copied,
            Err(error) => {
                // The code of the command is that of the program.
                let _ = report(&error.context(format!("--save: {shown} does not have all files of the program")));
                return false;
            }
        };
        output::note(&format!("lifeboat: {shown} has {} with {:#}", super::counted(files, "file"), Bytes(bytes)));
        if let [first, ..] = &skipped[..] {
            let links = super::counted(skipped.len() as u64, "link");
            output::note(&format!(
                "lifeboat: {links} that lead out of it, or in a circle, were left out, such as {first}"
            ));
        }
        true
    }
}

impl Drop for NewDirectory<'_> {
    fn drop(&mut self) {
        if !self.is_filled {
            // If this fails, the next run with this directory says that it is there.
            let _ = fs::remove_dir(self.path);
        }
    }
}

/// The files of a disk that no service has.
struct OnDisk(Disk);

fn unreadable(path: &str, error: Error) -> anyhow::Error {
    anyhow::anyhow!("cannot copy {} from the virtual disk: {error}", arguments::shown(path))
}

impl Files for OnDisk {
    fn list(&mut self, path: &str, after: Option<&str>) -> anyhow::Result<DiskListing> {
        files::list(&mut self.0, path, after, Sequence(0)).map_err(|error| unreadable(path, error))
    }

    fn read(&mut self, path: &str, offset: u64, _version: Option<&str>) -> anyhow::Result<FilePart> {
        let Part { bytes, file_bytes, version } =
            files::read(&mut self.0, path, offset).map_err(|error| unreadable(path, error))?;
        Ok(FilePart { sequence: 0, file_bytes, version, bytes: bytes.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit() {
        for (text, expected) in [("500ms", 500), ("90s", 90_000), ("90", 90_000), ("2m", 120_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(expected)), "{text}");
        }
        for text in ["", "0", "0s", "s", "1h", "-1s", "1.5s", "18446744073709551615m"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn texts_take_a_table_and_the_longest_one_in_the_adapter() {
        let line = |arguments: &[&str], variables: &[(&str, &str)]| CommandLine {
            arguments: arguments.iter().map(|&text| text.to_owned()).collect(),
            environment: variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
        };
        let CommandLine { arguments, environment } = line(&["p", "abc", ""], &[("NAME", "1"), ("N", "")]);
        assert_eq!(adapted_bytes(arguments.iter()), 3 * 8 + 3);
        assert_eq!(adapted_bytes(environment.iter().flat_map(|(name, value)| [name, value])), 2 * 16 + 4);
        let long = "x".repeat(57_328);
        assert!(check_adapted(&line(&["p", &long], &[(long.as_str(), "1")])).is_ok());
        let error = |line: CommandLine| check_adapted(&line).expect_err("too long").to_string();
        let (more, longer) = (error(line(&["p", &long, ""], &[])), long.clone() + "x");
        assert!(more.contains("arguments take 57,352 bytes (8 for each"), "{more}");
        let more = error(line(&[], &[("A", longer.as_str())]));
        assert!(more.contains("variables of --env take 57,345 bytes (16 for each"), "{more}");
    }

    #[test]
    fn a_variable_has_a_value_or_that_of_this_command() {
        let variable =
            |name: &str, value: Option<&str>| Ok(Variable { name: name.to_owned(), value: value.map(str::to_owned) });
        assert_eq!("A=b=c".parse(), variable("A", Some("b=c")));
        assert_eq!("A=".parse(), variable("A", Some("")));
        assert_eq!("A".parse(), variable("A", None));
        assert!("=b".parse::<Variable>().is_err());
        let missing = Variable { name: "LIFEBOAT_NO_SUCH_VARIABLE".into(), value: None };
        assert!(environment(&[missing]).is_ok_and(|environment| environment.is_empty()));
    }

    #[test]
    fn the_last_variable_of_a_name_wins() {
        let variables =
            ["A=1", "B=2", "A=3", "LIFEBOAT_NO_SUCH_VARIABLE"].map(|text| text.parse::<Variable>().expect("a name"));
        let environment = environment(&variables).expect("they are text");
        assert_eq!(environment, [("A", "3"), ("B", "2")].map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
