//! The reason why a body is not JSON of its type, worded for a user.
//!
//! `serde` and `serde_json` word their errors for a programmer (`invalid type: string "5", expected i64`), and provide
//! them only as text. Text that is not recognised here is passed on unchanged: a type may have its own wording.
//!
//! Every workload that accepts JSON contains this code, so tables and few functions keep it small.

use serde_json::error::{Category, Error};

/// The longest value or name that is quoted from a body, in characters.
const QUOTED_MAX_CHARS: usize = 60;

/// The longest body that is checked for being only whitespace, in bytes.
const EMPTY_WITHIN_BYTES: usize = 1024;

/// The length of the part of a body that is searched for line starts, in bytes. Lines beyond it are not examined.
const LINES_WITHIN_BYTES: usize = 16 * 1024;

/// The length of an error's end that is searched for its parts, in bytes: an error may quote the whole body.
const PARTS_WITHIN_BYTES: usize = 4096;

/// The syntax errors of a body.
const SYNTAX: &[(&str, &str)] = &[
    ("expected ident", "neither `true`, `false` nor `null`"),
    ("key must be a string", "a name in quotes is needed"),
    ("number out of range", "the number is too large"),
    ("invalid escape", "the text has an invalid escape"),
    ("invalid unicode code point", "the text is not UTF-8"),
    ("recursion limit exceeded", "the values are nested too deeply"),
    ("trailing characters", "nothing more may follow"),
    ("trailing comma", "nothing follows the comma"),
];

/// The prefixes of `serde`'s errors about values in JSON.
const BEGINNINGS: &[&str] = &[
    "invalid type: ",
    "invalid value: ",
    "invalid length ",
    "unknown field ",
    "unknown variant ",
    "missing field ",
    "duplicate field ",
];

/// The wording of a body's value where the value itself is not quoted.
const GIVEN: &[(&str, &str)] = &[
    ("map", "an object"),
    ("sequence", "a list"),
    ("unit variant", "a name alone"),
    ("newtype variant", "a name with a value"),
    ("tuple variant", "a name with a value"),
    ("struct variant", "a name with a value"),
];

/// The wording of the needed value. An integer has its range; `isize` and `usize` have that of a VM, also in native
/// tests.
const NEEDED: &[(&str, &str)] = &[
    ("i8", "-128 to 127"),
    ("i16", "-32768 to 32767"),
    ("i32", "-2147483648 to 2147483647"),
    ("isize", "-2147483648 to 2147483647"),
    ("i64", "-9223372036854775808 to 9223372036854775807"),
    ("i128", "-2^127 to 2^127 - 1"),
    ("u8", "0 to 255"),
    ("u16", "0 to 65535"),
    ("u32", "0 to 4294967295"),
    ("usize", "0 to 4294967295"),
    ("u64", "0 to 18446744073709551615"),
    ("u128", "0 to 2^128 - 1"),
    ("f32", "a number"),
    ("f64", "a number"),
    ("a string", "a text"),
    ("a character", "a text of one character"),
    ("a boolean", "`true` or `false`"),
    ("a sequence", "a list"),
    ("a map", "an object"),
    ("unit", "`null`"),
    ("newtype variant", "an object"),
    ("tuple variant", "an object"),
    ("variant identifier", "a name in quotes"),
    ("string or map", "an object or a text"),
];

/// The wording of a needed value whose name is followed by that of a type or by a length.
const NEEDED_BEGINNINGS: &[(&str, &str)] = &[
    ("unit struct ", "`null`"),
    ("struct ", "an object"),
    ("enum ", "an object or a text"),
    ("tuple ", "a list"),
    ("a tuple of size ", "a list of "),
    ("an array of length ", "a list of "),
];

/// Words the error for `body`, with its place: the last character that was read, if it is known.
pub(super) fn reason(error: &Error, body: &[u8]) -> String {
    let (line, mut column) = (error.line(), error.column());
    let mut words = Words(String::new());
    let text = error.to_string();
    let Some((text, _)) = halves(&text, " at line ").filter(|_| line > 0) else {
        words.data(&text);
        return words.0;
    };
    let category = error.classify();
    if category == Category::Eof && is_empty(body) {
        words.add(&["the body is empty"]);
        return words.0;
    }
    let [byte, next_byte] = around(body, line, column);
    // A list or an object in place of another type is refused before its first character is read.
    column += usize::from(text.starts_with("invalid type: ") && matches!(next_byte, b'[' | b'{'));
    words.0 = format!("line {line}, column {column}: ");
    match category {
        Category::Eof => words.add(&["the body ends before its JSON does"]),
        Category::Data => words.data(text),
        Category::Syntax | Category::Io => words.syntax(text, byte, next_byte),
    }
    words.0
}

/// Returns whether a body is only whitespace. A long body never counts as empty.
fn is_empty(body: &[u8]) -> bool {
    body.len() <= EMPTY_WITHIN_BYTES && body.iter().all(u8::is_ascii_whitespace)
}

/// Returns the byte at a position that counts from 1, and the one after it; 0 for a byte that is absent or unknown.
fn around(body: &[u8], line: usize, column: usize) -> [u8; 2] {
    let Some(start) = line_start(&body[..body.len().min(LINES_WITHIN_BYTES)], line) else { return [0; 2] };
    // Column 0 is the end of the previous line.
    [0, 1]
        .map(|behind| (start + column + behind).checked_sub(1).and_then(|at| body.get(at)).copied().unwrap_or_default())
}

/// Returns the start of a line that counts from 1, if it is within `beginning`. It reads nothing from there on.
fn line_start(beginning: &[u8], line: usize) -> Option<usize> {
    let mut start = 0;
    for _ in 1..line {
        start += beginning[start..].iter().position(|byte| *byte == b'\n')? + 1;
    }
    Some(start)
}

/// A reason that is being worded.
struct Words(String);

impl Words {
    /// Appends these parts, with less code than each use of `concat` and `format!` would need.
    #[inline(never)]
    fn add(&mut self, parts: &[&str]) {
        parts.iter().for_each(|part| self.0.push_str(part));
    }

    /// Words a syntax error. An enum reports the same error for a value of another type.
    fn syntax(&mut self, text: &str, byte: u8, next_byte: u8) {
        let given = match byte {
            _ if text != "expected value" => {
                return match text.strip_prefix("expected `") {
                    Some(needed) => self.add(&["`", needed, " is needed"]),
                    None => self.add(&[lookup(SYNTAX, text).unwrap_or(text)]),
                };
            }
            _ if next_byte == b',' => return self.add(&["nothing more may follow"]),
            b'-' | b'0'..=b'9' => "a number is given, ",
            b'[' => "a list is given, ",
            b't' | b'f' | b'n' => "",
            b'!'..=b'~' => {
                return self.add(&["`", char::from(byte).encode_utf8(&mut [0; 4]), "` is not allowed here"]);
            }
            0 => return self.add(&["another value is needed"]),
            _ => return self.add(&["no value begins here"]),
        };
        self.add(&[given, "an object or a text is needed"]);
    }

    /// Words the error for valid JSON that does not match its type.
    fn data(&mut self, text: &str) {
        let Some((beginning, rest)) = BEGINNINGS.iter().find_map(|known| Some((*known, text.strip_prefix(known)?)))
        else {
            return self.add(&[text]);
        };
        let (value, expected) = halves(rest, ", expected ").unwrap_or((rest, ""));
        match beginning {
            "missing field " => self.add(&["the field ", rest, " is missing"]),
            "duplicate field " => self.add(&["the field ", rest, " is there twice"]),
            "unknown field " | "unknown variant " => {
                let name = if expected.is_empty() {
                    halves(value, ", there are").map_or(value, |(name, _)| name)
                } else {
                    value
                };
                self.add(&["there is no ", if beginning == "unknown field " { "field " } else { "" }]);
                self.add_shortened(name, QUOTED_MAX_CHARS, "...`");
                if !expected.is_empty() {
                    self.add(&[", only ", expected.strip_prefix("one of ").unwrap_or(expected)]);
                }
            }
            _ if expected.is_empty() => self.add(&[rest]),
            _ => {
                if beginning == "invalid length " {
                    self.add(&["a list of "]);
                }
                self.given(value);
                self.add(&[" is given, "]);
                self.needed(expected);
                self.add(&[" is needed"]);
            }
        }
    }

    /// Words `serde`'s name of a value in the body.
    fn given(&mut self, value: &str) {
        if let Some(text) = value.strip_prefix("string ") {
            self.add(&["the text "]);
            return self.add_shortened(text, QUOTED_MAX_CHARS, "...\"");
        }
        match halves(value, " `") {
            Some(("boolean", value)) => self.add(&[value.strip_suffix('`').unwrap_or(value)]),
            Some(("integer" | "floating point", value)) => {
                self.add(&["the number ", value.strip_suffix('`').unwrap_or(value)]);
            }
            _ => self.add(&[lookup(GIVEN, value).unwrap_or(value)]),
        }
    }

    /// Words `serde`'s name of the value that a type needs.
    fn needed(&mut self, name: &str) {
        let (name, except) = match name.strip_prefix("a nonzero ") {
            Some(integer) => (integer, " except 0"),
            None => (name, ""),
        };
        if let Some(text) = lookup(NEEDED, name) {
            let is_range = matches!(text.as_bytes(), [b'-' | b'0', ..]);
            return self.add(&[if is_range { "a whole number from " } else { "" }, text, except]);
        }
        for (beginning, text) in NEEDED_BEGINNINGS {
            if let Some(rest) = name.strip_prefix(beginning) {
                return self.add(&[text, if text.ends_with(' ') { rest } else { "" }]);
            }
        }
        self.add(&[name]);
    }

    /// Appends the beginning of `text`, followed by `end` if it is truncated.
    #[inline(never)]
    fn add_shortened(&mut self, text: &str, max_chars: usize, end: &str) {
        let cut = if text.len() > max_chars { text.char_indices().nth(max_chars) } else { None };
        match cut {
            Some((cut, _)) => self.add(&[text.get(..cut).unwrap_or_default(), end]),
            None => self.add(&[text]),
        }
    }
}

/// Concatenates the parts.
pub(super) fn joined(parts: &[&str]) -> String {
    let mut words = Words(String::new());
    words.add(parts);
    words.0
}

/// Returns the beginning of `text`, followed by `end` if it is truncated.
pub(crate) fn shortened(text: &str, max_chars: usize, end: &str) -> String {
    let mut words = Words(String::new());
    words.add_shortened(text, max_chars, end);
    words.0
}

fn lookup(table: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    table.iter().find(|(key, _)| *key == name).map(|(_, text)| *text)
}

/// Returns the text before and after the last `separator`, if that is near the end. `rsplit_once` would add 3 kB to a
/// module.
fn halves<'a>(text: &'a str, separator: &str) -> Option<(&'a str, &'a str)> {
    let (bytes, separator_bytes) = (text.as_bytes(), separator.as_bytes());
    let at = (bytes.len().saturating_sub(PARTS_WITHIN_BYTES)..bytes.len())
        .rev()
        .find(|at| bytes[*at] == separator_bytes[0] && bytes[*at..].starts_with(separator_bytes))?;
    Some((text.get(..at)?, text.get(at + separator.len()..)?))
}

#[cfg(test)]
mod tests;
