//! Reads the tables of a TOML file, and collects all errors in them with their positions.
//!
//! Serde stops at the first error and refers to Rust types. A person who writes a configuration needs all errors at
//! once, each with the key, the value, and the permitted values.

use lifeboat_api::meter::Percent;
use lifeboat_api::name::{NAME_BYTES_MAX, Name};
use lifeboat_api::size::{Bytes, parse_bytes};
use lifeboat_api::text::shortened;
use std::cell::RefCell;
use std::ops::RangeInclusive;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The maximum number of errors that are collected from one file; one line counts the others.
pub const ERRORS_MAX: usize = 100;

/// An error at a position in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// The position of the error, in bytes from the start of the file.
    pub offset: usize,
    /// The error, and its correction.
    pub message: String,
}

/// The errors in a file.
#[derive(Debug, Default)]
pub struct Findings(RefCell<Vec<Wrong>>);

impl Findings {
    /// Adds an error at `offset`, in bytes.
    pub fn add(&self, offset: usize, message: impl Into<String>) {
        self.0.borrow_mut().push(Wrong { offset, message: message.into() });
    }

    /// Returns the number of errors so far. Comparing two numbers shows whether the part in between was read without an
    /// error.
    pub fn count(&self) -> usize {
        self.0.borrow().len()
    }

    /// Returns the errors in the order of their positions: at most [`ERRORS_MAX`], and a line that counts the rest.
    pub fn sorted(self) -> Vec<Wrong> {
        let mut all = self.0.into_inner();
        all.sort_by_key(|wrong| wrong.offset);
        all.dedup();
        if all.len() > ERRORS_MAX {
            let (offset, more) = (all[ERRORS_MAX].offset, all.len() - ERRORS_MAX);
            all.truncate(ERRORS_MAX);
            all.push(Wrong { offset, message: format!("there are {more} more errors; correct those above first") });
        }
        all
    }
}

/// A value and its position.
#[derive(Debug, Clone)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// The position of the value, in bytes from the start of the file.
    pub offset: usize,
}

/// Parses a file. Returns None after syntax errors, because a part of a table may have another meaning.
pub fn parse<'a>(text: &'a str, findings: &Findings) -> Option<DeTable<'a>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let message = error.message().lines().map(str::trim).collect::<Vec<_>>().join(" ");
        // The parser reports no position for an error at the end of the text.
        findings.add(error.span().map_or(text.len(), |span| span.start), format!("this is not TOML: {message}"));
    }
    errors.is_empty().then(|| document.into_inner())
}

/// A table that is read key by key. [`finish`](Self::finish) reports the unknown keys, which were never read.
pub struct Table<'a> {
    entries: &'a DeTable<'a>,
    offset: usize,
    findings: &'a Findings,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Table<'a> {
    /// Returns the table of a whole file.
    pub fn root(entries: &'a DeTable<'a>, findings: &'a Findings) -> Self {
        Self { entries, offset: 0, findings, known: RefCell::default() }
    }

    /// Returns the position of the table, in bytes.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Reports an error in the table.
    pub fn wrong<T>(&self, message: impl Into<String>) -> Option<T> {
        self.findings.add(self.offset, message);
        None
    }

    /// Returns the value of a key, if the key is present.
    pub fn get(&self, key: &'static str) -> Option<Value<'a>> {
        self.known.borrow_mut().push(key);
        let value = self.entries.get(key)?;
        Some(Value { key: key.to_owned(), value, findings: self.findings })
    }

    /// Returns the value of a required key, or reports that it is missing.
    pub fn need(&self, key: &'static str) -> Option<Value<'a>> {
        let value = self.get(key);
        if value.is_none() {
            self.findings.add(self.offset, format!("the key '{key}' is missing; write it"));
        }
        value
    }

    /// Returns the table of a key, or None if the key is missing or is not a table.
    pub fn table(&self, key: &'static str) -> Option<Table<'a>> {
        self.get(key).and_then(|value| value.table())
    }

    /// Returns the tables of a key, or none if the key is missing.
    pub fn tables(&self, key: &'static str) -> Vec<Table<'a>> {
        self.get(key).map(|value| value.tables()).unwrap_or_default()
    }

    /// Returns the keys of a table with their values, if the file may name the keys as it likes.
    pub fn entries(self) -> Vec<(Placed<String>, Value<'a>)> {
        let entries = self.entries.iter().map(|(key, value)| {
            let name: &str = key.get_ref();
            let placed = Placed { value: name.to_owned(), offset: key.span().start };
            (placed, Value { key: shown(name), value, findings: self.findings })
        });
        entries.collect()
    }

    /// Reports the keys that were never read.
    pub fn finish(self) {
        let mut known = self.known.into_inner();
        known.sort_unstable();
        for key in self.entries.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let shown = shown(key.get_ref());
            self.findings
                .add(key.span().start, format!("there is no key {shown} here; the keys are {}", known.join(", ")));
        }
    }
}

/// A value of a key.
pub struct Value<'a> {
    key: String,
    value: &'a Spanned<DeValue<'a>>,
    findings: &'a Findings,
}

impl<'a> Value<'a> {
    /// Returns the key of the value.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns whether the value is a string.
    pub fn is_text(&self) -> bool {
        matches!(self.value.get_ref(), DeValue::String(_))
    }

    /// Returns whether the value is a table.
    pub fn is_table(&self) -> bool {
        matches!(self.value.get_ref(), DeValue::Table(_))
    }

    /// Returns the position of the value, in bytes.
    pub fn offset(&self) -> usize {
        self.value.span().start
    }

    /// Reports an error in the value.
    pub fn wrong<T>(&self, message: impl Into<String>) -> Option<T> {
        self.findings.add(self.offset(), message);
        None
    }

    /// Reports that the value is invalid, and what it must be.
    pub(crate) fn must_be<T>(&self, what: &str) -> Option<T> {
        self.wrong(format!("{} is {}; it must be {what}", self.key, described(self.value.get_ref())))
    }

    fn placed<T>(&self, value: T) -> Placed<T> {
        Placed { value, offset: self.offset() }
    }

    /// Returns the value as text.
    pub fn text(&self) -> Option<Placed<String>> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(self.placed(text.to_string())),
            _ => self.must_be("a text in quotes"),
        }
    }

    /// Returns the value as parsed by `parse`, whose error is a sentence with the permitted values.
    pub fn parsed<T>(&self, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<Placed<T>> {
        let text = self.text()?;
        match parse(&text.value) {
            Ok(value) => Some(self.placed(value)),
            Err(message) => self.wrong(message),
        }
    }

    /// Returns the value as a name.
    pub fn name(&self) -> Option<Placed<Name>> {
        self.parsed(Name::new)
    }

    /// Returns the value as one of some words.
    pub fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<Placed<T>> {
        let found = match self.value.get_ref() {
            DeValue::String(text) => words.iter().find(|(word, _)| *word == text.as_ref()),
            _ => None,
        };
        match found {
            Some((_, value)) => Some(self.placed(*value)),
            None => {
                let words: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
                self.must_be(&words.join(" or "))
            }
        }
    }

    /// Returns the value as true or false.
    pub fn boolean(&self) -> Option<Placed<bool>> {
        match self.value.get_ref() {
            DeValue::Boolean(value) => Some(self.placed(*value)),
            _ => self.must_be("true or false"),
        }
    }

    /// Returns the value as a whole number within bounds.
    pub fn whole(&self, range: RangeInclusive<u64>) -> Option<Placed<u64>> {
        match self.value.get_ref() {
            DeValue::Integer(number) => {
                let number = i128::from_str_radix(number.as_str(), number.radix()).ok();
                match number.and_then(|number| u64::try_from(number).ok()).filter(|number| range.contains(number)) {
                    Some(number) => Some(self.placed(number)),
                    None => self.must_be(&format!("{} to {}", range.start(), range.end())),
                }
            }
            _ => self.must_be(&format!("a whole number from {} to {}", range.start(), range.end())),
        }
    }

    /// Returns the value as a number of bytes within bounds. It may be a text such as `64KiB`.
    pub fn bytes(&self, range: RangeInclusive<u64>) -> Option<Placed<u64>> {
        let [least, most] = [*range.start(), *range.end()].map(Bytes);
        let bytes = match self.value.get_ref() {
            DeValue::String(text) => match parse_bytes(text) {
                Ok(bytes) => bytes,
                Err(message) => return self.wrong(format!("{}: {message}", self.key)),
            },
            DeValue::Integer(number) => match u64::from_str_radix(number.as_str(), number.radix()) {
                Ok(bytes) => bytes,
                Err(_) => return self.must_be(&format!("{least} to {most}")),
            },
            _ => {
                return self.must_be(&format!("a number of bytes from {least} to {most}, or a text such as \"64MiB\""));
            }
        };
        if range.contains(&bytes) {
            return Some(self.placed(bytes));
        }
        self.wrong(format!("{} is {}; it must be {least} to {most}", self.key, Bytes(bytes)))
    }

    /// Returns the value as a percentage that `check` converts. The error of `check` is a sentence with the permitted
    /// values.
    pub fn percent(&self, check: impl FnOnce(f64) -> Result<Percent, String>) -> Option<Placed<Percent>> {
        let number = match self.value.get_ref() {
            #[expect(clippy::cast_precision_loss, reason = "a percentage has three digits")]
            DeValue::Integer(number) => {
                i64::from_str_radix(number.as_str(), number.radix()).ok().map(|whole| whole as f64)
            }
            DeValue::Float(number) => number.as_str().parse().ok(),
            _ => None,
        };
        let Some(number) = number else { return self.must_be("a percentage, such as 98 or 97.5") };
        match check(number) {
            Ok(percent) => Some(self.placed(percent)),
            Err(message) => self.wrong(format!("{}: {message}", self.key)),
        }
    }

    /// Returns the value as a table.
    pub fn table(&self) -> Option<Table<'a>> {
        match self.value.get_ref() {
            DeValue::Table(entries) => {
                Some(Table { entries, offset: self.offset(), findings: self.findings, known: RefCell::default() })
            }
            _ => self.must_be("a table"),
        }
    }

    /// Returns the values of an array.
    pub fn values(&self) -> Vec<Value<'a>> {
        match self.value.get_ref() {
            DeValue::Array(values) => {
                let entry = |value| Value { key: format!("an entry of {}", self.key), value, findings: self.findings };
                values.iter().map(entry).collect()
            }
            _ => {
                self.must_be::<()>("an array");
                Vec::new()
            }
        }
    }

    /// Returns the value as an array of one or more tables.
    pub fn tables(&self) -> Vec<Table<'a>> {
        match self.value.get_ref() {
            DeValue::Array(_) => self.values().iter().filter_map(Value::table).collect(),
            _ => {
                let key = &self.key;
                self.must_be::<()>(&format!("an array of tables, each under a line [[{key}]]"));
                Vec::new()
            }
        }
    }
}

/// Returns a text in the form for a message, shortened.
fn shown(text: &str) -> String {
    let short: String = text.chars().take(NAME_BYTES_MAX).collect();
    let more = if short.len() < text.len() { "..." } else { "" };
    format!("'{}{more}'", short.escape_debug())
}

/// Describes a value in words.
fn described(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the text {}", shown(text)),
        // The parser takes them as they stand: of any length, and with characters that no number has.
        DeValue::Integer(number) => shortened(&number.to_string(), NAME_BYTES_MAX),
        DeValue::Float(number) => shortened(&number.to_string(), NAME_BYTES_MAX),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(_) => "a date".into(),
        DeValue::Array(_) => "an array".into(),
        DeValue::Table(_) => "a table".into(),
    }
}
