//! Parsers of argument values, and the line that explains what is wrong with a command line.

use super::UsageError;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Command};
use lifeboat_api::meter::Percent;
use lifeboat_api::size::{
    Bytes, DISK_BYTES_MAX, DISK_BYTES_MIN, FUEL_MIN, NETWORK_BYTES_MIN, NETWORK_CALLS_MIN, Size, grouped, parse_bytes,
};
use lifeboat_api::sla::{THRESHOLD_MIN, parse_threshold};
use lifeboat_host::network::{AllowList, Allowed, NetworkSettings, Retry};
use lifeboat_server::config::SIZE_MEMORY_BYTES_MIN;
use lifeboat_simulate::PACE_MAX;
use lifeboat_vm::engine::MEMORY_BYTES_MAX;
use std::ffi::OsString;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;

/// The longest part of a value that a message shows, in characters.
const SHOWN_CHARS_MAX: usize = 64;

/// The options for the network of a new service.
#[derive(Debug, Args)]
pub(crate) struct NetworkArguments {
    /// Let transactions call this address over HTTP: https://HOST or https://HOST:PORT, or https://*.HOST for all names below
    /// it; ",private" lets the name resolve to addresses that are not public; repeatable [default: no address]
    #[arg(long = "allow-net", value_name = "TARGET[,private]")]
    allow: Vec<Allowed>,
    #[arg(long, value_name = "MODE", help = RETRY_HELP)]
    retry: Option<Retry>,
}

/// The help for `--retry`.
pub(crate) const RETRY_HELP: &str = "\
What the service does about a call in doubt, whose result is lost (as by a crash): ask, it denies the transaction until an \
operator settles the call (lifeboat doubts); never, it does not make the call again, and the guest gets an error; \
idempotent, it makes the call again with the same Idempotency-Key [default: ask; of a service without --data: never]";

impl NetworkArguments {
    pub(crate) fn new(allow: Vec<Allowed>, retry: Option<Retry>) -> Self {
        Self { allow, retry }
    }

    /// Returns the settings, with the defaults for options that are left out.
    ///
    /// # Errors
    /// [`UsageError`] if there are too many addresses.
    pub(crate) fn settings(&self) -> Result<NetworkSettings, UsageError> {
        let allow = AllowList::new(self.allow.clone()).map_err(|error| UsageError(error.to_string()))?;
        Ok(NetworkSettings { allow, retry: self.retry.unwrap_or_default() })
    }

    pub(crate) fn retry(&self) -> Option<Retry> {
        self.retry
    }

    /// Returns the addresses and the mode as parameters of a deployment.
    pub(crate) fn parameters(&self) -> (Option<String>, Option<String>) {
        let allow: Vec<String> = self.allow.iter().map(ToString::to_string).collect();
        ((!allow.is_empty()).then(|| allow.join(" ")), self.retry.map(|retry| retry.to_string()))
    }

    /// Returns whether an option has another value than `settings`. Options that are left out have none.
    pub(crate) fn differ_from(&self, settings: &NetworkSettings) -> bool {
        let is_another_list = !self.allow.is_empty() && self.allow != settings.allow.entries();
        is_another_list || self.retry.is_some_and(|retry| retry != settings.retry)
    }
}

/// Describes what a service may call, as its options would.
pub(crate) fn network_text(NetworkSettings { allow, retry }: &NetworkSettings) -> String {
    let entries = allow.entries().iter().map(|allowed| format!("--allow-net {allowed} "));
    let entries = if allow.is_empty() { "no --allow-net, ".to_owned() } else { entries.collect() };
    format!("{entries}--retry {retry}")
}

/// Parses a whole number within bounds. It may have `_` or `,` between its digits.
fn within(text: &str, range: RangeInclusive<u64>, of_what: &str) -> Result<u64, String> {
    let number = text.replace(['_', ','], "").parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| {
        let (least, most) = (grouped(*range.start()), grouped(*range.end()));
        format!("{} is not a whole number between {least} and {most}{of_what}", shown(text))
    })
}

/// Parses any whole number: a seed, the sequence of a transaction, a count of records.
pub(crate) fn whole(text: &str) -> Result<u64, String> {
    within(text, 0..=u64::MAX, "")
}

/// Parses a number of attempts.
pub(crate) fn attempts(text: &str) -> Result<u32, String> {
    let attempts = within(text, 1..=u32::MAX.into(), "")?;
    Ok(u32::try_from(attempts).unwrap_or(u32::MAX))
}

/// Parses a rate in transactions a second.
pub(crate) fn pace(text: &str) -> Result<NonZeroU32, String> {
    let pace = within(text, 1..=PACE_MAX.into(), " transactions a second")?;
    Ok(u32::try_from(pace).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN))
}

/// Parses the fuel of a full tank.
pub(crate) fn fuel(text: &str) -> Result<u64, String> {
    within(text, FUEL_MIN..=u64::MAX, "; one unit is about one WebAssembly instruction")
}

/// Parses the linear memory of a VM, in bytes.
pub(crate) fn memory(text: &str) -> Result<u64, String> {
    bytes_within(text, SIZE_MEMORY_BYTES_MIN..=MEMORY_BYTES_MAX)
}

/// Parses the virtual disk of a VM, in bytes.
pub(crate) fn disk(text: &str) -> Result<u64, String> {
    bytes_within(text, DISK_BYTES_MIN..=DISK_BYTES_MAX)
}

/// Parses the calls to the network of a VM.
pub(crate) fn network_calls(text: &str) -> Result<u64, String> {
    within(text, NETWORK_CALLS_MIN..=u64::MAX, "")
}

/// Parses the bytes that a VM may exchange with the network.
pub(crate) fn network_bytes(text: &str) -> Result<u64, String> {
    parse_bytes(text).ok().filter(|bytes| *bytes >= NETWORK_BYTES_MIN).ok_or_else(|| {
        let least = Bytes(NETWORK_BYTES_MIN);
        format!("{} is not a size of at least {least}; write a whole number such as 67108864 or 64MiB", shown(text))
    })
}

fn bytes_within(text: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    let [least, most] = [*range.start(), *range.end()].map(Bytes);
    parse_bytes(text).ok().filter(|bytes| range.contains(bytes)).ok_or_else(|| {
        format!(
            "{} is not a size between {least} and {most}; write a whole number such as 67108864 or 64MiB",
            shown(text)
        )
    })
}

/// Returns the built-in size of this name.
pub(crate) fn built_in_size(name: &str) -> Result<Size, UsageError> {
    let mut built_in = Size::built_in();
    if let Some(at) = built_in.iter().position(|size| size.name == name) {
        return Ok(built_in.swap_remove(at));
    }
    let names: Vec<&str> = built_in.iter().map(|size| size.name.as_str()).collect();
    Err(UsageError(format!("there is no size {}: use one of {}", shown(name), names.join(", "))))
}

/// Parses the utilisation at which a resource fails its SLA.
pub(crate) fn percent(text: &str) -> Result<Percent, String> {
    parse_threshold(text).map_err(|_| {
        format!(
            "{} is not a percentage between {} and 100; write one such as 98 or 97.5",
            shown(text),
            f64::from(THRESHOLD_MIN)
        )
    })
}

/// Returns a value as a message shows it: quoted, escaped, and cut to [`SHOWN_CHARS_MAX`] characters.
pub(crate) fn shown(text: &str) -> String {
    let short: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    let more = if short.len() < text.len() { "..." } else { "" };
    format!("'{}{more}'", short.escape_debug())
}

/// Returns the command that a command line names, with its parents: `lifeboat user grant`.
fn path_of(command: &Command, arguments: &[OsString]) -> String {
    let mut path = command.get_name().to_owned();
    let mut command = command;
    for argument in arguments.iter().filter_map(|argument| argument.to_str()) {
        if argument.starts_with('-') {
            continue;
        }
        let Some(found) = command.find_subcommand(argument) else { break };
        command = found;
        path = format!("{path} {}", command.get_name());
    }
    path
}

/// Returns whether the user may have meant `similar` by `wrong`: `wrong` is a prefix of it, or the two differ by at
/// most a third of their letters.
fn is_similar(wrong: &str, similar: &str) -> bool {
    let [wrong, similar] = [wrong, similar].map(|word| word.trim_start_matches('-').to_lowercase());
    let begins = wrong.len() >= 3 && similar.starts_with(&wrong);
    begins || distance(&wrong, &similar) <= wrong.chars().count().max(similar.chars().count()) / 3
}

/// Counts the letters to insert, remove, change, or swap with their neighbour to turn one word into the other.
fn distance(one: &str, other: &str) -> usize {
    let [one, other]: [Vec<char>; 2] = [one, other].map(|word| word.chars().collect());
    let mut rows = vec![(0..=other.len()).collect::<Vec<usize>>()];
    for (line, letter) in one.iter().enumerate() {
        let mut row = vec![line + 1];
        for (column, of_other) in other.iter().enumerate() {
            let changed = rows[line][column] + usize::from(letter != of_other);
            let mut least = changed.min(rows[line][column + 1] + 1).min(row[column] + 1);
            if line > 0 && column > 0 && *letter == other[column - 1] && one[line - 1] == *of_other {
                least = least.min(rows[line - 1][column - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[one.len()][other.len()]
}

/// Explains on one line what is wrong with a command line with these `arguments`.
///
/// All wording of clap's errors is here.
pub(crate) fn explained(error: &clap::Error, of: &Command, arguments: &[OsString]) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(" ")),
        _ => None,
    };
    let list = |kind| match error.get(kind) {
        Some(ContextValue::Strings(texts)) => texts.clone(),
        Some(ContextValue::String(text)) => vec![text.clone()],
        _ => Vec::new(),
    };
    let argument = text(ContextKind::InvalidArg).unwrap_or_default();
    let name = bare(&argument);
    let value = text(ContextKind::InvalidValue).unwrap_or_default();
    let usage = match error.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => usage.to_string(),
        _ => String::new(),
    };
    let usage = usage.lines().next().unwrap_or_default().trim().trim_start_matches("Usage: ").to_owned();
    let command: Vec<&str> =
        usage.split_whitespace().take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase())).collect();
    let command = if command.is_empty() { path_of(of, arguments) } else { command.join(" ") };
    let similar = |kind, wrong: &str| list(kind).into_iter().rev().find(|similar| is_similar(wrong, similar));
    let suggested = |similar: Option<String>| {
        similar.map_or_else(|| format!("{command} --help lists them all"), |similar| format!("did you mean {similar}?"))
    };
    match error.kind() {
        ErrorKind::ValueValidation => {
            let reason = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            format!("{name}: {reason}")
        }
        ErrorKind::InvalidValue if value.is_empty() && argument.starts_with('-') => {
            format!("{name} needs a value: {argument}")
        }
        ErrorKind::InvalidValue if value.is_empty() => format!("{name} is empty; write: {command} {argument}"),
        ErrorKind::InvalidValue => {
            format!("{name}: {} is not one of {}", shown(&value), list(ContextKind::ValidValue).join(", "))
        }
        ErrorKind::TooManyValues => format!("{name} takes no value, and has {}; write it alone", shown(&value)),
        ErrorKind::UnknownArgument if argument.starts_with('-') => {
            let remedy = elsewhere(of, &command, &argument)
                .unwrap_or_else(|| suggested(similar(ContextKind::SuggestedArg, &argument)));
            format!("there is no option {} of {command}; {remedy}", shown(&argument))
        }
        ErrorKind::UnknownArgument => {
            format!("{} is an extra argument; write: {usage}", shown(&argument))
        }
        ErrorKind::InvalidSubcommand => {
            let wrong = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            let near = similar(ContextKind::SuggestedSubcommand, &wrong);
            let in_group = || in_group(of, &wrong).filter(|_| command == of.get_name());
            let remedy = suggested(near.or_else(in_group));
            format!("there is no command {} of {command}; {remedy}", shown(&wrong))
        }
        ErrorKind::MissingRequiredArgument => {
            let missing = list(ContextKind::InvalidArg);
            let command = command.strip_prefix("lifeboat ").unwrap_or(&command);
            format!("{command} needs {}; write: {usage}", missing.join(" and "))
        }
        ErrorKind::ArgumentConflict => {
            let prior: Vec<String> = list(ContextKind::PriorArg).iter().map(|prior| bare(prior)).collect();
            if prior.iter().all(|prior| *prior == name) {
                return format!("{name} is given more than once; give it once");
            }
            format!("{name} and {} exclude each other; leave one of them out", prior.join(", "))
        }
        ErrorKind::InvalidUtf8 => {
            let wrong = arguments.iter().filter(|argument| argument.to_str().is_none());
            let wrong: Vec<String> = wrong.map(|argument| shown(&argument.to_string_lossy())).collect();
            format!("the argument {} is not UTF-8 text; write it in UTF-8", wrong.join(", "))
        }
        // Rare errors: the first paragraph of clap's text.
        _ => {
            let text = error.render().to_string();
            let lines: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
            format!("{}; see {command} --help", lines.join(" ").trim_start_matches("error: "))
        }
    }
}

/// Finds a command of a group that the user may have meant by its name alone: `data verify` for `verifi`.
fn in_group(of: &Command, wrong: &str) -> Option<String> {
    let commands = of.get_subcommands().flat_map(|group| group.get_subcommands().map(move |command| (group, command)));
    let mut similar = commands.filter(|(_, command)| is_similar(wrong, command.get_name()));
    similar.next().map(|(group, command)| format!("{} {}", group.get_name(), command.get_name()))
}

/// Finds an option that a command lacks: at the command of the same name in or out of `lifeboat data`, or at the
/// commands of its group.
fn elsewhere(of: &Command, command: &str, option: &str) -> Option<String> {
    let name = option.strip_prefix("--")?.split('=').next()?;
    let find = |path: &[&str]| path.iter().try_fold(of, |command, name| command.find_subcommand(name));
    let has = |command: &Command| command.get_arguments().any(|argument| argument.get_long() == Some(name));
    let words: Vec<&str> = command.split(' ').skip(1).collect();
    let namesake = match &words[..] {
        ["data", name] => vec![*name],
        [name] => vec!["data", *name],
        _ => return None,
    };
    if find(&namesake).is_some_and(has) {
        return Some(format!("lifeboat {} has this option", namesake.join(" ")));
    }
    let is_of_group = find(&words)?.get_subcommands().any(has);
    is_of_group.then(|| format!("write it after a command of the group: {command} COMMAND --{name}"))
}

/// Returns `--fuel` for `--fuel <N>`, `SERVICE` for `<SERVICE>`.
fn bare(argument: &str) -> String {
    let first = argument.split(' ').next().unwrap_or_default();
    first.trim_matches(['<', '>', '[', ']', '.']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use proptest::prelude::*;

    #[test]
    fn numbers_within_their_bounds_are_accepted() {
        assert_eq!(fuel("50_000,000"), Ok(50_000_000));
        assert_eq!(memory("64KiB"), Ok(65_536));
        assert_eq!((network_calls("1,000"), network_bytes("64KiB")), (Ok(1_000), Ok(65_536)));
        assert_eq!(percent("97.5%").map(f64::from), Ok(97.5));
        assert_eq!(attempts("4294967295"), Ok(u32::MAX));
    }

    #[test]
    fn numbers_outside_of_their_bounds_are_refused_with_the_bounds() {
        let refused = [
            (fuel("0").err(), "'0' is not a whole number between 10,000 and 18,446,744,073,709,551,615; one unit"),
            (fuel("abc").err(), "'abc' is not a whole number between 10,000 and"),
            (attempts("0").err(), "'0' is not a whole number between 1 and 4,294,967,295"),
            (attempts("-1").err(), "'-1' is not a whole number between 1 and 4,294,967,295"),
            (whole("99999999999999999999").err(), "'99999999999999999999' is not a whole number between 0 and"),
            (whole("").err(), "'' is not a whole number between 0 and"),
            (memory("0").err(), "'0' is not a size between 64 KiB and 4032 MiB; write"),
            (memory("1X").err(), "'1X' is not a size between 64 KiB and 4032 MiB; write"),
            (memory("100GiB").err(), "'100GiB' is not a size between 64 KiB and 4032 MiB; write"),
            (network_calls("0").err(), "'0' is not a whole number between 1 and"),
            (network_bytes("63KiB").err(), "'63KiB' is not a size of at least 64 KiB; write"),
            (network_bytes("some").err(), "'some' is not a size of at least 64 KiB; write"),
            (percent("0").err(), "'0' is not a percentage between 20 and 100; write"),
            (percent("NaN").err(), "'NaN' is not a percentage between 20 and 100; write"),
        ];
        for (message, expected) in refused {
            let message = message.expect(expected);
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn long_arguments_are_cut_in_errors() {
        assert_eq!(shown(&"x".repeat(100)), format!("'{}...'", "x".repeat(SHOWN_CHARS_MAX)));
    }

    /// Returns the explanation of a wrong command line.
    fn explained_of(arguments: &[&[u8]]) -> String {
        use std::os::unix::ffi::OsStringExt;
        let arguments: Vec<OsString> = arguments.iter().map(|argument| OsString::from_vec(argument.to_vec())).collect();
        let mut command = super::super::Cli::command();
        let line = [OsString::from("lifeboat")].into_iter().chain(arguments.iter().cloned());
        let error = command.try_get_matches_from_mut(line).expect_err("it is wrong");
        explained(&error, &command, &arguments)
    }

    #[test]
    fn every_error_of_a_command_line_names_its_remedy() {
        let cases: &[(&[&[u8]], &str)] = &[
            (&[b"inspect", b""], "WORKLOAD is empty; write: lifeboat inspect <WORKLOAD>"),
            (&[b"user", b"--json", b"grant", b"a", b"c", b""], "GRANT is empty; write: lifeboat user grant <GRANT>..."),
            (&[b"run", b"--size", b"a", b"--size", b"a", b"x"], "--size is given more than once; give it once"),
            (&[b"nope"], "there is no command 'nope' of lifeboat; lifeboat --help lists them all"),
            (&[b"depoly"], "there is no command 'depoly' of lifeboat; did you mean deploy?"),
            (&[b"run", b"--fule"], "there is no option '--fule' of lifeboat run; did you mean --fuel?"),
            (&[b"snap"], "there is no command 'snap' of lifeboat; did you mean data snapshot?"),
            (&[b"verifi"], "there is no command 'verifi' of lifeboat; did you mean data verify?"),
            (
                &[b"data", b"query", b"--attempts", b"3"],
                "there is no option '--attempts' of lifeboat data query; lifeboat query has this option",
            ),
            (
                &[b"data", b"--data", b"d", b"verify"],
                "there is no option '--data' of lifeboat data; write it after a command of the group: lifeboat data COMMAND \
                 --data",
            ),
            (&[b"events", b"--folow"], "there is no option '--folow' of lifeboat events; did you mean --follow?"),
            (&[b"tx", b"c", b"x\xff"], "the argument 'x\u{fffd}' is not UTF-8 text; write it in UTF-8"),
        ];
        for (arguments, expected) in cases {
            assert_eq!(explained_of(arguments), *expected);
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,100}") {
            let _ = (fuel(&text), memory(&text), percent(&text), attempts(&text), whole(&text));
            prop_assert!(!shown(&text).contains(char::is_control));
        }
    }
}
