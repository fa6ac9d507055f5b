//! Values of arguments, and the line that says what is wrong with a command line.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use lifeboat_api::meter::Percent;
use lifeboat_api::size::{Bytes, FUEL_MIN, grouped, parse_bytes};
use lifeboat_api::sla::{THRESHOLD_MIN, parse_threshold};
use lifeboat_server::config::SIZE_MEMORY_BYTES_MIN;
use lifeboat_simulate::PACE_MAX;
use lifeboat_vm::engine::MEMORY_BYTES_MAX;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;

/// The longest part of a value that a message shows, in characters.
const SHOWN_CHARS_MAX: usize = 64;

/// A whole number within bounds, which may be written with `_` or `,` between its digits.
fn within(text: &str, range: RangeInclusive<u64>, of_what: &str) -> Result<u64, String> {
    let number = text.replace(['_', ','], "").parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| {
        let (least, most) = (grouped(*range.start()), grouped(*range.end()));
        format!("{} is not a whole number between {least} and {most}{of_what}", shown(text))
    })
}

/// Any whole number: a seed, the sequence of a transaction, how many records.
pub(crate) fn whole(text: &str) -> Result<u64, String> {
    within(text, 0..=u64::MAX, "")
}

/// How often something is tried.
pub(crate) fn attempts(text: &str) -> Result<u32, String> {
    let attempts = within(text, 1..=u32::MAX.into(), "")?;
    Ok(u32::try_from(attempts).unwrap_or(u32::MAX))
}

/// Transactions a second.
pub(crate) fn pace(text: &str) -> Result<NonZeroU32, String> {
    let pace = within(text, 1..=PACE_MAX.into(), " transactions a second")?;
    Ok(u32::try_from(pace).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN))
}

/// Fuel in a full tank.
pub(crate) fn fuel(text: &str) -> Result<u64, String> {
    within(text, FUEL_MIN..=u64::MAX, "; one unit is about one WebAssembly instruction")
}

/// The linear memory of a VM.
pub(crate) fn memory(text: &str) -> Result<u64, String> {
    let [least, most] = [SIZE_MEMORY_BYTES_MIN, MEMORY_BYTES_MAX].map(Bytes);
    let bytes = parse_bytes(text).ok().filter(|bytes| (SIZE_MEMORY_BYTES_MIN..=MEMORY_BYTES_MAX).contains(bytes));
    bytes.ok_or_else(|| {
        format!(
            "{} is not a size between {least} and {most}; write a whole number such as 67108864 or 64MiB",
            shown(text)
        )
    })
}

/// The utilisation at which a resource fails its SLA.
pub(crate) fn percent(text: &str) -> Result<Percent, String> {
    parse_threshold(text).map_err(|_| {
        format!(
            "{} is not a percentage between {} and 100; write one such as 98 or 97.5",
            shown(text),
            f64::from(THRESHOLD_MIN)
        )
    })
}

/// A value as a message shows it.
pub(crate) fn shown(text: &str) -> String {
    let short: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    let more = if short.len() < text.len() { "..." } else { "" };
    format!("'{}{more}'", short.escape_debug())
}

/// What is wrong with a command line, on one line.
pub(crate) fn explained(error: &clap::Error) -> String {
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
    let command = if command.is_empty() { "lifeboat".to_owned() } else { command.join(" ") };
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
            let remedy = match list(ContextKind::SuggestedArg).last() {
                Some(similar) => format!("did you mean {similar}?"),
                None => format!("{command} --help lists those that there are"),
            };
            format!("there is no option {} of {command}; {remedy}", shown(&argument))
        }
        ErrorKind::UnknownArgument => {
            format!("{} is one argument too many; write: {usage}", shown(&argument))
        }
        ErrorKind::InvalidSubcommand => {
            let wrong = shown(&text(ContextKind::InvalidSubcommand).unwrap_or_default());
            let remedy = match list(ContextKind::SuggestedSubcommand).last() {
                Some(similar) => format!("did you mean {similar}?"),
                None => format!("{command} --help lists those that there are"),
            };
            format!("there is no command {wrong} of {command}; {remedy}")
        }
        ErrorKind::MissingRequiredArgument => {
            let missing = list(ContextKind::InvalidArg);
            let command = command.strip_prefix("lifeboat ").unwrap_or(&command);
            format!("{command} needs {}; write: {usage}", missing.join(" and "))
        }
        ErrorKind::ArgumentConflict => {
            let prior: Vec<String> = list(ContextKind::PriorArg).iter().map(|prior| bare(prior)).collect();
            format!("{name} and {} exclude each other; leave one of them out", prior.join(", "))
        }
        // Rare ones: the first paragraph of what the library says.
        _ => {
            let text = error.render().to_string();
            let lines: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
            format!("{}; see {command} --help", lines.join(" ").trim_start_matches("error: "))
        }
    }
}

/// `--fuel` of `--fuel <N>`, `SERVICE` of `<SERVICE>`.
fn bare(argument: &str) -> String {
    let first = argument.split(' ').next().unwrap_or_default();
    first.trim_matches(['<', '>', '[', ']', '.']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_taken_within_their_bounds_and_refused_with_them() {
        assert_eq!(fuel("50_000,000"), Ok(50_000_000));
        assert_eq!(memory("64KiB"), Ok(65_536));
        assert_eq!(percent("97.5%").map(f64::from), Ok(97.5));
        assert_eq!(attempts("4294967295"), Ok(u32::MAX));
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
            (percent("0").err(), "'0' is not a percentage between 20 and 100; write"),
            (percent("NaN").err(), "'NaN' is not a percentage between 20 and 100; write"),
        ];
        for (message, expected) in refused {
            let message = message.expect(expected);
            assert!(message.starts_with(expected), "{message}");
        }
        assert_eq!(shown(&"x".repeat(100)), format!("'{}...'", "x".repeat(SHOWN_CHARS_MAX)));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,100}") {
            let _ = (fuel(&text), memory(&text), percent(&text), attempts(&text), whole(&text));
            prop_assert!(!shown(&text).contains(char::is_control));
        }
    }
}
