//! Text from guests and clients, made safe for operators; and errors on one line.

use std::{fmt, io};

/// Returns whether a character is deceptive. Such a character may end a line, control a terminal, or change the order
/// in which the following text is shown. Or it is invisible, so that two different texts look the same.
#[must_use]
pub fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// A guest's or a client's text, displayed for an operator. Deceptive characters are displayed as escapes: control
/// characters, which could forge a line or control a terminal; characters that end lines or change the direction of
/// text; and invisible ones.
#[derive(Debug, Clone, Copy)]
pub struct Printable<'a>(
    /// The original text.
    pub &'a str,
);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .chars()
            .try_for_each(|c| if is_deceptive(c) { write!(f, "{}", c.escape_default()) } else { write!(f, "{c}") })
    }
}

/// The longest part of a value that a message shows, in characters.
pub const SHOWN_CHARS_MAX: usize = 64;

/// Returns the first `chars_max` characters of a guest's text, printable.
pub fn shortened(text: &str, chars_max: usize) -> String {
    let short: String = text.chars().take(chars_max).collect();
    let dots = if short.len() < text.len() { "..." } else { "" };
    format!("{}{dots}", Printable(&short))
}

/// The operating system's messages about missing resources, and our words for them. A message that ends with another
/// one comes first.
const SYSTEM_WORDS: [(&str, &str); 4] = [
    ("No space left on device", "no space left on the device"),
    ("Disk quota exceeded", "the disk quota is used up"),
    ("Too many open files in system", "too many open files on the machine"),
    ("Too many open files", "too many open files"),
];

/// Removes the numbers that Rust adds to errors of the operating system in `text`, and replaces messages about space
/// and files by the words of operators.
#[must_use]
pub fn plain(text: &str) -> String {
    const BEGINNING: &str = " (os error ";
    let mut parts = text.split(BEGINNING);
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(')') {
            Some((number, rest)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                if let Some((theirs, ours)) = SYSTEM_WORDS.iter().find(|(theirs, _)| plain.ends_with(theirs)) {
                    plain.truncate(plain.len() - theirs.len());
                    plain += ours;
                }
                plain += rest;
            }
            _ => plain = plain + BEGINNING + part,
        }
    }
    plain
}

/// Returns the message of an error of the operating system, as [`plain`] text.
#[must_use]
pub fn of_system(error: &io::Error) -> String {
    plain(&error.to_string())
}

/// Returns an error and its causes, on one line of [`plain`] text.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    plain(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_end_a_line_or_turn_the_direction_are_escaped() {
        let turning =
            ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}').chain(['\u{200e}', '\u{200f}', '\u{61c}']);
        for c in turning.chain(['\u{2028}', '\u{2029}', '\u{85}', '\u{7f}', '\r']) {
            let shown = Printable(&format!("a{c}b")).to_string();
            assert!(shown.is_ascii() && !shown.contains(c) && shown.contains('\\'), "{shown}");
        }
        assert_eq!(Printable("a\u{301}\u{5d0}\u{627}").to_string(), "a\u{301}\u{5d0}\u{627}");
    }

    #[test]
    fn invisible_characters_are_escaped() {
        let spaces = ('\u{200b}'..='\u{200f}').chain('\u{2060}'..='\u{2064}').chain(['\u{feff}', '\u{ad}', '\u{180e}']);
        for c in spaces.chain(['\u{e0000}', '\u{e0041}', '\u{e007f}']) {
            let shown = Printable(&format!("a{c}b")).to_string();
            assert_eq!(shown, format!("a{}b", c.escape_unicode()));
        }
    }

    #[test]
    fn numbers_of_the_operating_system_are_left_out() {
        assert_eq!(plain("a: No such file (os error 2); b (os error 13)"), "a: No such file; b");
        assert_eq!(plain("(os error x) (os error y) (os error"), "(os error x) (os error y) (os error");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn errors_of_the_operating_system_are_put_in_words_of_operators() {
        for (number, words) in [
            (28, "no space left on the device"),
            (122, "the disk quota is used up"),
            (24, "too many open files"),
            (23, "too many open files on the machine"),
            (13, "Permission denied"),
        ] {
            let error = io::Error::from_raw_os_error(number);
            assert_eq!(of_system(&error), words);
            // The same holds where the message is only a part of the text.
            let within = io::Error::new(error.kind(), format!("{error} (it takes 4 MiB)"));
            assert_eq!(chain(&within), format!("{words} (it takes 4 MiB)"));
        }
    }
}
