//! What is known about a trap beside its message: what the guest said about it, and where it was.
//!
//! Only operators of the service see it, since it may contain parts of the state. It is no part of what a replay
//! compares: a replay skips failed transactions.

use lifeboat_api::text::shortened;
use lifeboat_api::transaction::Cause;
use wasmtime::WasmBacktrace;

/// The most characters of the details of a cause.
const DETAILS_CHARS_MAX: usize = 2_000;

/// The most lines of standard error in the details, unless they begin with a panic of Rust.
const ERROR_LINES_MAX: usize = 4;

/// The most functions of a backtrace in the details. The innermost ones are there.
const FRAMES_MAX: usize = 16;

/// The characters that are shown of the name of a function. Names of generic functions may be longer.
const NAME_CHARS_MAX: usize = 100;

/// The functions that Rust calls for a panic. They say nothing about its place.
const OF_PANICS: [&str; 9] = [
    "__rust_",
    "__rustc",
    "abort",
    "core::option::",
    "core::panicking::",
    "core::result::unwrap_failed",
    "rust_panic",
    "std::panicking::",
    "std::sys::",
];

/// What the standard library of Rust prints after a panic. A workload has no environment.
const NOTE: &str = "note: run with `RUST_BACKTRACE";

/// Adds to the cause of a trap or an exit what the guest wrote to standard error during the call, and the functions
/// that it was in.
pub(crate) fn explained(cause: Cause, error: &wasmtime::Error, said: &str) -> Cause {
    if !matches!(cause, Cause::Trap { .. } | Cause::Exit { .. }) {
        return cause;
    }
    let names = error.downcast_ref::<WasmBacktrace>().map(names).unwrap_or_default();
    match details(said, names) {
        Some(details) => Cause::Explained { summary: cause.to_string(), details },
        None => cause,
    }
}

/// Returns the names of the functions that the guest was in, the innermost first. Functions without a name are left
/// out: a number would help nobody.
fn names(trace: &WasmBacktrace) -> Vec<String> {
    let named = trace.frames().iter().filter_map(|frame| frame.func_name());
    named.map(|name| format!("{:#}", rustc_demangle::demangle(name))).collect()
}

fn details(said: &str, names: Vec<String>) -> Option<String> {
    let is_of_panic = |name: &String| OF_PANICS.iter().any(|function| name.starts_with(function));
    let names = names.into_iter().skip_while(is_of_panic).take(FRAMES_MAX);
    let names: Vec<String> = names.map(|name| shortened(&name, NAME_CHARS_MAX)).collect();
    let place = (!names.is_empty()).then(|| format!("in {}", names.join(" < ")));
    let parts: Vec<String> =
        last_words(said).map(|words| format!("it said: {words}")).into_iter().chain(place).collect();
    (!parts.is_empty()).then(|| shortened(&parts.join("; "), DETAILS_CHARS_MAX))
}

/// Returns the last lines of standard error on one line: a panic of Rust with its message, or the last few.
fn last_words(said: &str) -> Option<String> {
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(NOTE));
    let lines: Vec<&str> = lines.collect();
    let panic = lines.iter().rposition(|line| line.contains("panicked at "));
    let last = &lines[panic.unwrap_or(lines.len().saturating_sub(ERROR_LINES_MAX))..];
    // The backtrace must find room beside them.
    (!last.is_empty()).then(|| shortened(&last.join(" "), DETAILS_CHARS_MAX / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(said: &str, names: &[&str]) -> String {
        details(said, names.iter().map(|name| format!("{:#}", rustc_demangle::demangle(name))).collect())
            .unwrap_or_default()
    }

    #[test]
    fn a_panic_is_its_message_and_the_functions_that_led_to_it() {
        let said = "starting\n\nthread '<unnamed>' (1) panicked at src/lib.rs:14:9:\nattempt to add with overflow\nnote: run \
                    with `RUST_BACKTRACE=1` environment variable to display a backtrace\n";
        let names = [
            "__rust_start_panic",
            "rust_panic",
            "_ZN4core9panicking9panic_fmt17h0123456789abcdefE",
            "_ZN7counter7Counter3add17h0123456789abcdefE",
            "lifeboat:vm/workload@0.1.0#execute",
        ];
        let expected = "it said: thread '<unnamed>' (1) panicked at src/lib.rs:14:9: attempt to add with overflow; in \
                        counter::Counter::add < lifeboat:vm/workload@0.1.0#execute";
        assert_eq!(of(said, &names), expected);
    }

    #[test]
    fn a_guest_that_said_nothing_has_its_functions_alone_or_nothing() {
        assert_eq!(of("", &["execute"]), "in execute");
        assert_eq!(of("Traceback\n a\n b\n c\n d\n", &[]), "it said: a b c d");
        assert_eq!(details(" \n", Vec::new()), None);
    }

    #[test]
    fn whatever_a_guest_says_the_details_are_one_short_printable_line() {
        let long = format!("panicked at \u{1b}[2J {}", "x".repeat(100_000));
        let deep: Vec<String> = (0..100).map(|index| format!("f{index}{}", "y".repeat(1_000))).collect();
        let details = details(&long, deep).expect("known");
        assert!(details.chars().count() <= DETAILS_CHARS_MAX + 3, "{details}");
        assert!(!details.contains('\u{1b}') && details.contains("...; in f0y"), "{details}");
    }
}
