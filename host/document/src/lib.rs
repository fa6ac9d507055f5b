//! Reads the tables of a TOML file and collects everything that is wrong with them, each with its place.
//!
//! Serde stops at the first error and speaks of types of Rust. A reader of configurations wants all errors at once, each
//! with the key, the value, and what it must be.

use lifeboat_api::meter::Percent;
use lifeboat_api::name::{NAME_BYTES_MAX, Name};
use lifeboat_api::size::{Bytes, parse_bytes};
use std::cell::RefCell;
use std::ops::RangeInclusive;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Errors that are collected of one file; more are counted in one line.
pub const ERRORS_MAX: usize = 100;

/// Something that is wrong with what stands at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Bytes before it in the file.
    pub offset: usize,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// All that is wrong with a file.
#[derive(Debug, Default)]
pub struct Findings(RefCell<Vec<Wrong>>);

impl Findings {
    /// Notes what is wrong at `offset`, in bytes.
    pub fn add(&self, offset: usize, message: impl Into<String>) {
        self.0.borrow_mut().push(Wrong { offset, message: message.into() });
    }

    /// How many there are until now: whether a part was read without an error is seen by comparing.
    pub fn count(&self) -> usize {
        self.0.borrow().len()
    }

    /// All of them in the order of their places, at most [`ERRORS_MAX`] and a line that counts the rest.
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

/// A value and the place where it stands.
#[derive(Debug, Clone)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Bytes before it in the file.
    pub offset: usize,
}

/// Parses a file. What is left of one with syntax errors is not read further: half a table means something else.
pub fn parse<'a>(text: &'a str, findings: &Findings) -> Option<DeTable<'a>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let message = error.message().lines().map(str::trim).collect::<Vec<_>>().join(" ");
        // The parser counts an error at the end of the text by no place at all.
        findings.add(error.span().map_or(text.len(), |span| span.start), format!("this is not TOML: {message}"));
    }
    errors.is_empty().then(|| document.into_inner())
}

/// A table whose keys are asked for one by one. [`finish`](Self::finish) reports those that nobody asked for.
pub struct Table<'a> {
    entries: &'a DeTable<'a>,
    offset: usize,
    findings: &'a Findings,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Table<'a> {
    /// The table that a whole file is.
    pub fn root(entries: &'a DeTable<'a>, findings: &'a Findings) -> Self {
        Self { entries, offset: 0, findings, known: RefCell::default() }
    }

    /// Where the table begins.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Reports that the table is wrong.
    pub fn wrong<T>(&self, message: impl Into<String>) -> Option<T> {
        self.findings.add(self.offset, message);
        None
    }

    /// The value of a key, if it is there.
    pub fn get(&self, key: &'static str) -> Option<Value<'a>> {
        self.known.borrow_mut().push(key);
        let value = self.entries.get(key)?;
        Some(Value { key: key.to_owned(), value, findings: self.findings })
    }

    /// The value of a key that must be there.
    pub fn need(&self, key: &'static str) -> Option<Value<'a>> {
        let value = self.get(key);
        if value.is_none() {
            self.findings.add(self.offset, format!("the key '{key}' is missing; write it"));
        }
        value
    }

    /// The table of a key; an empty one if it is not there.
    pub fn table(&self, key: &'static str) -> Option<Table<'a>> {
        self.get(key).and_then(|value| value.table())
    }

    /// The tables of a key; none if it is not there.
    pub fn tables(&self, key: &'static str) -> Vec<Table<'a>> {
        self.get(key).map(|value| value.tables()).unwrap_or_default()
    }

    /// Reports the keys that nobody asked for.
    pub fn finish(self) {
        let mut known = self.known.into_inner();
        known.sort_unstable();
        for key in self.entries.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let shown = shown(key.get_ref());
            self.findings
                .add(key.span().start, format!("there is no key {shown} here; there are {}", known.join(", ")));
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
    /// The key that it stands at.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Whether it is a string.
    pub fn is_text(&self) -> bool {
        matches!(self.value.get_ref(), DeValue::String(_))
    }

    /// Where the value begins.
    pub fn offset(&self) -> usize {
        self.value.span().start
    }

    /// Reports that the value is wrong.
    pub fn wrong<T>(&self, message: impl Into<String>) -> Option<T> {
        self.findings.add(self.offset(), message);
        None
    }

    /// Reports that the value is not what it must be.
    pub fn must_be<T>(&self, what: &str) -> Option<T> {
        self.wrong(format!("{} is {}; it must be {what}", self.key, described(self.value.get_ref())))
    }

    fn placed<T>(&self, value: T) -> Placed<T> {
        Placed { value, offset: self.offset() }
    }

    /// A text.
    pub fn text(&self) -> Option<Placed<String>> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(self.placed(text.to_string())),
            _ => self.must_be("a text in quotes"),
        }
    }

    /// A text that `parse` takes, which says in a sentence what it must be.
    pub fn parsed<T>(&self, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<Placed<T>> {
        let text = self.text()?;
        match parse(&text.value) {
            Ok(value) => Some(self.placed(value)),
            Err(message) => self.wrong(message),
        }
    }

    /// A name.
    pub fn name(&self) -> Option<Placed<Name>> {
        self.parsed(Name::new)
    }

    /// One of some words.
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

    /// A whole number within bounds.
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

    /// A number of bytes within bounds, or a text such as `64KiB`.
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

    /// A percentage that `check` takes, which says in a sentence what it must be.
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

    /// A table.
    pub fn table(&self) -> Option<Table<'a>> {
        match self.value.get_ref() {
            DeValue::Table(entries) => {
                Some(Table { entries, offset: self.offset(), findings: self.findings, known: RefCell::default() })
            }
            _ => self.must_be("a table"),
        }
    }

    /// The values of an array.
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

    /// Tables, one or more.
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

/// A text as a message shows it, cut short.
fn shown(text: &str) -> String {
    let short: String = text.chars().take(NAME_BYTES_MAX).collect();
    let more = if short.len() < text.len() { "..." } else { "" };
    format!("'{}{more}'", short.escape_debug())
}

/// A value in words.
fn described(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the text {}", shown(text)),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(_) => "a date".into(),
        DeValue::Array(_) => "an array".into(),
        DeValue::Table(_) => "a table".into(),
    }
}
