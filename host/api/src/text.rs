//! Text of others on its way to an operator, and errors on one line.

use std::fmt;

/// Whether a character may end a line, drive a terminal, or change the order in which what follows it is shown.
#[must_use]
pub fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A guest's or a client's text on its way to an operator: control characters, which could forge a line or drive a
/// terminal, and those that end lines or turn the direction of text, are shown as escapes.
#[derive(Debug, Clone, Copy)]
pub struct Printable<'a>(
    /// The text as it came.
    pub &'a str,
);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .chars()
            .try_for_each(|c| if is_deceptive(c) { write!(f, "{}", c.escape_default()) } else { write!(f, "{c}") })
    }
}

/// The first `chars_max` characters of a guest's text, printable.
pub fn shortened(text: &str, chars_max: usize) -> String {
    let short: String = text.chars().take(chars_max).collect();
    let dots = if short.len() < text.len() { "..." } else { "" };
    format!("{}{dots}", Printable(&short))
}

/// An error and what caused it, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_line_or_turns_the_direction_of_text_is_escaped() {
        let turning =
            ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}').chain(['\u{200e}', '\u{200f}', '\u{61c}']);
        for c in turning.chain(['\u{2028}', '\u{2029}', '\u{85}', '\u{7f}', '\r']) {
            let shown = Printable(&format!("a{c}b")).to_string();
            assert!(shown.is_ascii() && !shown.contains(c) && shown.contains('\\'), "{shown}");
        }
        assert_eq!(Printable("a\u{200d}\u{5d0}\u{627}").to_string(), "a\u{200d}\u{5d0}\u{627}");
    }
}
