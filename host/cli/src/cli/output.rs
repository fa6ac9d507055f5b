//! What commands print: sentences and JSON on standard output, notes on standard error.

use super::help;
use anyhow::Context;
use lifeboat_api::lines;
use lifeboat_api::text::plain;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// The column at which a sentence that is too long for the terminal continues.
const HANGING: usize = 2;

/// Prints text with lines that fit a terminal, or with `json` the value on one line.
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

/// Breaks sentences to fit the terminal at standard error.
pub(crate) fn fitting_error(text: String) -> String {
    help::fitting(text, help::error_columns(), HANGING)
}

/// Breaks sentences and tables to fit the terminal at standard output.
pub(crate) fn fitting(text: String) -> String {
    help::fitting(text, help::output_columns(), HANGING)
}

/// Prints sentences on standard error: on one line, or folded on a terminal.
pub(crate) fn note(text: &str) {
    let _ = io::stderr().lock().write_all(noted(text, help::error_columns()).as_bytes());
}

fn noted(text: &str, columns: Option<usize>) -> String {
    help::fitting(plain(text) + "\n", columns, HANGING)
}

/// Prints a failover on standard error. It stays one line, so that text copied from a terminal has it on one line too.
pub(crate) fn note_failover(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", plain(text));
}

/// Returns whether standard output is a terminal.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_that_a_terminal_shows_folded() {
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
}
