//! What is known about a trap beside its message: what the guest said about it, and where it was.
//!
//! Only operators of the service see it, since it may contain parts of the state. It is no part of what a replay
//! compares: a replay skips failed transactions. It depends on the workload alone, and on no setting of the host.

mod lines;

use lifeboat_api::text::{Printable, shortened};
use lifeboat_api::transaction::Cause;
use lines::{Place, Position, positions};
use wasmtime::{FrameInfo, WasmBacktrace};

/// The most characters of the details of a cause.
const DETAILS_CHARS_MAX: usize = 2_000;

/// The most lines of standard error in the details, unless they begin with a panic of Rust.
const ERROR_LINES_MAX: usize = 4;

/// The most functions of a backtrace in the details. The innermost ones are there.
const FRAMES_MAX: usize = 16;

/// The characters that are shown of the name of a function. Names of generic functions may be longer.
const NAME_CHARS_MAX: usize = 100;

/// The characters that are shown of the path of a source file, its last ones.
const PATH_CHARS_MAX: usize = 60;

/// The functions that Rust and Go call for a panic, by the beginnings of their names. They do not show its place.
const OF_PANICS: [&str; 11] = [
    "__rust_",
    "__rustc",
    "abort",
    "core::option::",
    "core::panicking::",
    "core::result::unwrap_failed",
    "runtime.",
    "rust_panic",
    "std::panicking::",
    "std::process::abort",
    "std::sys::",
];

/// What the standard library of Rust prints after a panic. A workload has no environment.
const NOTE: &str = "note: run with `RUST_BACKTRACE";

/// Adds to the cause of a trap or an exit what the guest wrote to standard error during the call, and the functions
/// that it was in, with source positions where `component` has them.
pub(crate) fn explained(cause: Cause, error: &wasmtime::Error, said: &str, component: &[u8]) -> Cause {
    if !matches!(cause, Cause::Trap { .. } | Cause::Exit { .. }) {
        return cause;
    }
    let frames = error.downcast_ref::<WasmBacktrace>().map(|trace| frames(trace, component)).unwrap_or_default();
    match details(said, &frames) {
        Some(details) => Cause::Explained { summary: cause.to_string(), details },
        None => cause,
    }
}

/// A function that the guest was in.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Frame {
    name: String,
    position: Option<Position>,
}

/// Returns the name of a frame's function, if it has one.
pub(crate) fn name_of(frame: &FrameInfo) -> Option<String> {
    frame.func_name().map(|name| format!("{:#}", rustc_demangle::demangle(name)))
}

/// Returns the functions that the guest was in, the innermost first, without those of a panic. Functions without a name
/// are left out: a number would help nobody.
fn frames(trace: &WasmBacktrace, component: &[u8]) -> Vec<Frame> {
    let named = trace.frames().iter().filter_map(|frame| Some((name_of(frame)?, frame)));
    let is_of_panic = |name: &String| OF_PANICS.iter().any(|function| name.starts_with(function));
    let (names, frames): (Vec<_>, Vec<_>) = named.skip_while(|(name, _)| is_of_panic(name)).take(FRAMES_MAX).unzip();
    // An adapter that Wasmtime made has offsets of its own. The component has no function of this index there.
    let place = |frame: &&FrameInfo| Place {
        offset: frame.module_offset().unwrap_or(usize::MAX),
        function: frame.func_index(),
    };
    let positions = positions(component, &frames.iter().map(place).collect::<Vec<_>>());
    names.into_iter().zip(positions).map(|(name, position)| Frame { name, position }).collect()
}

fn details(said: &str, frames: &[Frame]) -> Option<String> {
    let shown = |frame: &Frame| {
        let name = shortened(&frame.name, NAME_CHARS_MAX);
        match &frame.position {
            Some(Position { file, line }) => format!("{name} ({}:{line})", short_path(file)),
            None => name,
        }
    };
    let functions: Vec<String> = frames.iter().map(shown).collect();
    let place = (!functions.is_empty()).then(|| format!("in {}", functions.join(" < ")));
    let parts: Vec<String> =
        last_words(said).map(|words| format!("it said: {words}")).into_iter().chain(place).collect();
    (!parts.is_empty()).then(|| shortened(&parts.join("; "), DETAILS_CHARS_MAX))
}

/// Returns the end of a path, printable. It says more than the beginning.
fn short_path(path: &str) -> String {
    let length = path.chars().count();
    if length <= PATH_CHARS_MAX {
        return Printable(path).to_string();
    }
    let end: String = path.chars().skip(length - PATH_CHARS_MAX).collect();
    format!("...{}", Printable(&end))
}

/// Returns whether a line of standard error begins what Rust or Go prints for a panic.
fn begins_panic(line: &str) -> bool {
    line.contains("panicked at ") || line.starts_with("panic: ") || line.starts_with("fatal error: ")
}

/// Returns the last lines of standard error on one line: a panic of Rust or Go with its message, or the last few.
fn last_words(said: &str) -> Option<String> {
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(NOTE));
    let lines: Vec<&str> = lines.collect();
    let panic = lines.iter().rposition(|line| begins_panic(line));
    let last = &lines[panic.unwrap_or(lines.len().saturating_sub(ERROR_LINES_MAX))..];
    // The backtrace must find room beside them.
    (!last.is_empty()).then(|| shortened(&last.join(" "), DETAILS_CHARS_MAX / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(name: &str) -> Frame {
        Frame { name: name.to_owned(), position: None }
    }

    #[test]
    fn a_panic_is_its_message_and_the_functions_that_led_to_it() {
        let said = "starting\n\nthread '<unnamed>' (1) panicked at src/lib.rs:14:9:\nattempt to add with overflow\nnote: run \
                    with `RUST_BACKTRACE=1` environment variable to display a backtrace\n";
        let frames = [frame("counter::Counter::add"), frame("lifeboat:vm/workload@0.1.0#execute")];
        let expected = "it said: thread '<unnamed>' (1) panicked at src/lib.rs:14:9: attempt to add with overflow; in \
                        counter::Counter::add < lifeboat:vm/workload@0.1.0#execute";
        assert_eq!(details(said, &frames).as_deref(), Some(expected));
    }

    #[test]
    fn a_panic_of_go_is_its_message_and_the_lines_behind_it() {
        let said = "starting\npanic: oh no\n\ngoroutine 1 [running]:\nmain.(*Counter).Execute(...)\n\ttally/counter.go:26\n\
                    main.execute(0x28e0a6, 0x6)\n\ttally/lifeboat_wasip1.go:57 +0x18\n";
        let expected = "it said: panic: oh no goroutine 1 [running]: main.(*Counter).Execute(...) tally/counter.go:26 \
                        main.execute(0x28e0a6, 0x6) tally/lifeboat_wasip1.go:57 +0x18";
        assert_eq!(details(said, &[]).as_deref(), Some(expected));
        assert!(details("fatal error: all goroutines are asleep\n", &[]).is_some_and(|text| text.contains("asleep")));
    }

    #[test]
    fn a_guest_that_said_nothing_has_its_functions_alone_or_nothing() {
        assert_eq!(details("", &[frame("execute")]).as_deref(), Some("in execute"));
        assert_eq!(details("Traceback\n a\n b\n c\n d\n", &[]).as_deref(), Some("it said: a b c d"));
        assert_eq!(details(" \n", &[]), None);
    }

    #[test]
    fn a_function_has_its_source_position_with_the_end_of_a_long_path() {
        let at = |file: &str| Frame { position: Some(Position { file: file.into(), line: 14 }), ..frame("add") };
        assert_eq!(details("", &[at("src/lib.rs")]).as_deref(), Some("in add (src/lib.rs:14)"));
        let long = format!("/{}\u{1b}/lib.rs", "x".repeat(1_000));
        let found = details("", &[at(&long)]).expect("known");
        assert_eq!(found, format!("in add (...{}\\u{{1b}}/lib.rs:14)", "x".repeat(PATH_CHARS_MAX - 8)));
    }

    #[test]
    fn whatever_a_guest_says_the_details_are_one_short_printable_line() {
        let long = format!("panicked at \u{1b}[2J {}", "x".repeat(100_000));
        let deep: Vec<Frame> = (0..100).map(|index| frame(&format!("f{index}{}", "y".repeat(1_000)))).collect();
        let details = details(&long, &deep).expect("known");
        assert!(details.chars().count() <= DETAILS_CHARS_MAX + 3, "{details}");
        assert!(!details.contains('\u{1b}') && details.contains("...; in f0y"), "{details}");
    }
}
