//! docs/limits.md against the constants: a row must state the value that a constant has in the sources.
//!
//! Most constants are private to their crates. The test therefore reads their declarations and evaluates them: numbers,
//! durations, and expressions with other constants. A row must show the value of each constant that it names, in one of
//! the usual notations.

use crate::util::root;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// The constants that are not numbers. Their rows describe them in words.
const IN_WORDS: [&str; 1] = ["FEATURES"];

/// The suffixes that turn a number into another value.
const UNITS: [&str; 11] = ["KiB", "MiB", "GiB", "ns", "us", "ms", "s", "min", "minutes", "h", "hour"];

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Number(u128),
    Time(Duration),
    Percent(u128),
    /// The elements of an array, or the fields of a struct.
    Several(Vec<Value>),
}

/// A declaration: its file and its expression.
#[derive(Debug, Clone)]
struct Declared {
    file: String,
    expression: String,
}

type Constants = BTreeMap<String, Vec<Declared>>;

fn declared(folder: &Path, constants: &mut Constants) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            declared(&path, constants);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = std::fs::read_to_string(&path).expect("a source");
            for part in source.split("const ").skip(1) {
                let Some((name, rest)) = part.split_once(": ") else { continue };
                let is_constant = name.chars().all(|it| it.is_ascii_uppercase() || it.is_ascii_digit() || it == '_');
                let Some((kind, rest)) = rest.split_once(" =") else { continue };
                let Some((expression, _)) = rest.split_once(';') else { continue };
                // The length of an array follows a semicolon as well.
                if is_constant && !name.is_empty() && !kind.contains('\n') {
                    let file = path.display().to_string();
                    constants
                        .entry(name.to_owned())
                        .or_default()
                        .push(Declared { file, expression: expression.into() });
                }
            }
        }
    }
}

fn constants() -> Constants {
    let mut constants = Constants::new();
    for krate in std::fs::read_dir(root().join("host")).expect("the crates") {
        let sources = krate.expect("an entry").path().join("src");
        if sources.is_dir() {
            declared(&sources, &mut constants);
        }
    }
    constants
}

/// The evaluation of a declaration's expression.
struct Evaluation<'a> {
    constants: &'a Constants,
    file: &'a str,
    rest: &'a str,
}

impl<'a> Evaluation<'a> {
    fn of(constants: &'a Constants, declared: &'a Declared) -> Option<Value> {
        let mut evaluation = Evaluation { constants, file: &declared.file, rest: &declared.expression };
        let value = evaluation.sum()?;
        evaluation.rest.trim().is_empty().then_some(value)
    }

    fn take(&mut self, token: &str) -> bool {
        match self.rest.trim_start().strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn word(&mut self) -> &'a str {
        let text = self.rest.trim_start();
        let end = text.find(|it: char| !it.is_ascii_alphanumeric() && it != '_').unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        self.rest = rest;
        word
    }

    /// Evaluates `a + b`, `a - b`, `a << b`. None of our constants needs precedence among them.
    fn sum(&mut self) -> Option<Value> {
        let mut value = self.product()?;
        loop {
            let apply: fn(u128, u128) -> u128 = if self.take("<<") {
                |a, b| a << b
            } else if self.take("+") {
                |a, b| a + b
            } else if self.take("-") {
                |a, b| a - b
            } else {
                return Some(value);
            };
            value = both(value, self.product()?, apply)?;
        }
    }

    fn product(&mut self) -> Option<Value> {
        let mut value = self.atom()?;
        loop {
            let apply: fn(u128, u128) -> u128 = if self.take("*") {
                |a, b| a * b
            } else if self.take("/") {
                |a, b| a / b
            } else if self.take("as ") {
                self.word();
                continue;
            } else {
                return Some(value);
            };
            value = both(value, self.atom()?, apply)?;
        }
    }

    fn atom(&mut self) -> Option<Value> {
        if self.take("(") {
            let value = self.sum()?;
            return self.take(")").then_some(value);
        }
        if self.take("[") {
            let mut values = Vec::new();
            while !self.take("]") {
                values.push(self.sum()?);
                self.take(",");
            }
            return Some(Value::Several(values));
        }
        let mut path = vec![self.word()];
        while self.take("::") {
            path.push(self.word());
        }
        let last = *path.last()?;
        if last.starts_with(|it: char| it.is_ascii_digit()) {
            let digits: String = last.chars().take_while(|it| it.is_ascii_digit() || *it == '_').collect();
            return digits.replace('_', "").parse().ok().map(Value::Number);
        }
        if self.take("(") {
            let Value::Number(number) = self.sum()? else { return None };
            self.take(")");
            let small = u64::try_from(number).ok()?;
            return Some(match (*path.first()?, last) {
                ("Duration", "from_secs") => Value::Time(Duration::from_secs(small)),
                ("Duration", "from_millis") => Value::Time(Duration::from_millis(small)),
                ("Duration", "from_micros") => Value::Time(Duration::from_micros(small)),
                ("Duration", "from_nanos") => Value::Time(Duration::from_nanos(small)),
                ("Percent", "whole") => Value::Percent(number),
                _ => return None,
            });
        }
        if self.take("{") {
            let mut values = Vec::new();
            while !self.take("}") {
                if self.take("..") {
                    // A field taken from another constant is stated in the row of that constant.
                    self.sum()?;
                } else {
                    let _field = self.word();
                    values.push(if self.take(":") { self.sum()? } else { return None });
                }
                self.take(",");
            }
            return Some(Value::Several(values));
        }
        // A constant of the same file has priority over others of the same name.
        let others = self.constants.get(last)?;
        let declared = others.iter().find(|other| other.file == self.file).or(others.first())?;
        Evaluation::of(self.constants, declared)
    }
}

fn both(a: Value, b: Value, apply: fn(u128, u128) -> u128) -> Option<Value> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => Some(Value::Number(apply(a, b))),
        _ => None,
    }
}

/// The notations of a value.
impl Value {
    fn ways(&self) -> Vec<String> {
        match self {
            Self::Number(number) => {
                let mut ways = vec![grouped(*number), number.to_string()];
                for (unit, bytes) in [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)] {
                    if *number >= bytes && number % bytes == 0 {
                        ways.push(format!("{} {unit}", grouped(number / bytes)));
                    } else if *number >= bytes {
                        ways.push(format!("{:.1} {unit}", *number as f64 / bytes as f64));
                    }
                }
                let words = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
                ways.extend(usize::try_from(*number).ok().and_then(|it| words.get(it)).map(|&it| it.to_owned()));
                // A share, by its divisor.
                let shares = ["", "", "half", "third", "quarter", "fifth", "sixth", "seventh", "eighth"];
                ways.extend(usize::try_from(*number).ok().and_then(|it| shares.get(it)).map(|&it| it.to_owned()));
                ways.retain(|way| !way.is_empty());
                ways
            }
            Self::Percent(number) => vec![format!("{number} %")],
            Self::Time(time) => {
                let nanos = time.as_nanos();
                let units: [(&[&str], u128); 7] = [
                    (&["ns"], 1),
                    (&["us"], 1_000),
                    (&["ms"], 1_000_000),
                    (&["s", "seconds", "second"], 1_000_000_000),
                    (&["min", "minutes", "minute"], 60_000_000_000),
                    (&["h", "hours", "hour"], 3_600_000_000_000),
                    (&["days", "day"], 86_400_000_000_000),
                ];
                let mut ways = Vec::new();
                for (names, unit) in units.into_iter().filter(|(_, unit)| nanos.is_multiple_of(*unit)) {
                    for name in names {
                        ways.push(format!("{} {name}", grouped(nanos / unit)));
                        if nanos == unit {
                            ways.extend(["a", "an", "each", "every", "per"].map(|article| format!("{article} {name}")));
                        }
                    }
                }
                ways
            }
            Self::Several(_) => Vec::new(),
        }
    }

    /// Returns whether `row` shows the value, or all of its parts.
    fn is_in(&self, row: &str) -> bool {
        match self {
            Self::Several(values) => values.iter().all(|value| value.is_in(row)),
            value => value.ways().iter().any(|way| has_word(row, way, matches!(value, Self::Number(_)))),
        }
    }
}

/// Returns whether `text` contains `word`, but not as part of a longer number or word. A number must not have a unit of
/// its own.
fn has_word(text: &str, word: &str, is_number: bool) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + word.len()..]);
        let begins = !before.ends_with(|it: char| it.is_ascii_alphanumeric() || it == ',' || it == '.');
        let mut rest = after.chars();
        let ends = match rest.next() {
            Some(it) if it.is_ascii_alphanumeric() => false,
            Some(',' | '.') => !rest.next().is_some_and(|it| it.is_ascii_digit()),
            _ => true,
        };
        let next = after.strip_prefix(' ').unwrap_or_default();
        let unit = next.split(|it: char| !it.is_ascii_alphanumeric()).next().unwrap_or_default();
        begins && ends && !(is_number && UNITS.contains(&unit))
    })
}

fn grouped(number: u128) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// An error of a row.
#[derive(Debug)]
struct Wrong<'a> {
    name: &'a str,
    why: String,
    row: &'a str,
}

impl fmt::Display for Wrong<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}: {}", self.name, self.why, self.row)
    }
}

/// Returns whether a row names this file, such as `service/misses.rs` or `journal/src/commit.rs`.
fn names_file(row: &str, file: &str) -> bool {
    let mut names = row.split('`').skip(1).step_by(2).filter(|name| name.ends_with(".rs"));
    names.any(|name| file.ends_with(&format!("/{name}")))
}

/// Returns the constants whose values a row states. They precede the values.
fn stated(row: &str) -> impl Iterator<Item = &str> {
    let values = row.trim_end_matches([' ', '|']).rfind(" | ").unwrap_or(row.len());
    named(&row[..values])
}

/// Returns the constants that a row names.
fn named(row: &str) -> impl Iterator<Item = &str> {
    row.split('`').skip(1).step_by(2).filter(|name| {
        name.len() > 3 && name.chars().all(|it| it.is_ascii_uppercase() || it.is_ascii_digit() || it == '_')
    })
}

/// Checks the rows of a list. A constant among the values of one row may have a row of its own that states it.
fn check<'a>(constants: &Constants, rows: &[&'a str]) -> Vec<Wrong<'a>> {
    let is_stated = |name: &str| rows.iter().any(|row| stated(row).any(|stated| stated == name));
    let mut wrong = Vec::new();
    for row in rows {
        let others = named(row).filter(|name| !is_stated(name));
        check_row(constants, row, stated(row).chain(others), &mut wrong);
    }
    wrong
}

fn check_row<'a>(
    constants: &Constants,
    row: &'a str,
    names: impl Iterator<Item = &'a str>,
    wrong: &mut Vec<Wrong<'a>>,
) {
    for name in names.filter(|name| !IN_WORDS.contains(name)) {
        let Some(all) = constants.get(name) else {
            wrong.push(Wrong { name, why: "is in no source".into(), row });
            continue;
        };
        // Several constants may have the same name. The row then names the file.
        let of_row: Vec<_> = all.iter().filter(|declared| names_file(row, &declared.file)).collect();
        let meant = if of_row.is_empty() { all.iter().collect() } else { of_row };
        let mut values: Vec<_> = meant.iter().filter_map(|declared| Evaluation::of(constants, declared)).collect();
        values.dedup();
        if values.len() > 1 {
            wrong.push(Wrong { name, why: format!("is several, and the row names no file: {values:?}"), row });
        } else if values.is_empty() {
            wrong.push(Wrong { name, why: format!("cannot be evaluated: {all:?}"), row });
        } else if !values.iter().any(|value| value.is_in(row)) {
            wrong.push(Wrong { name, why: format!("is {values:?}"), row });
        }
    }
}

#[test]
fn every_value_in_the_list_of_limits_is_that_of_its_constant() {
    let constants = constants();
    let text = std::fs::read_to_string(root().join("docs/limits.md")).expect("docs/limits.md");
    let rows: Vec<_> = text.lines().filter(|line| line.starts_with('|')).collect();
    assert!(rows.iter().flat_map(|row| named(row)).count() > 200, "the rows are read");
    let lines: Vec<_> = check(&constants, &rows).iter().map(Wrong::to_string).collect();
    assert!(lines.is_empty(), "{} of docs/limits.md:\n{}", lines.len(), lines.join("\n"));
}

#[test]
fn a_row_with_another_value_is_noticed() {
    let mut constants = Constants::new();
    let of = |expression: &str| vec![Declared { file: "one.rs".into(), expression: expression.into() }];
    constants.insert("WAIT_MAX".into(), of("Duration::from_secs(2 * 60)"));
    constants.insert("QUEUE_BYTES".into(), of("HALF * 2"));
    constants.insert("HALF".into(), of("(1 << 20) + 0"));
    constants.insert("RETRIES".into(), of("2"));
    let in_file = |file: &str, expression: &str| Declared { file: file.into(), expression: expression.into() };
    constants.insert("TWICE".into(), vec![in_file("src/a.rs", "1024"), in_file("src/b.rs", "2048")]);
    for (row, is_right) in [
        ("| how long | `WAIT_MAX` | 2 min |", true),
        ("| how long | `WAIT_MAX` | 120 s |", true),
        ("| how long | `WAIT_MAX` | 1,120 s |", false),
        ("| how long | `WAIT_MAX` | 2 |", false),
        ("| bytes | `QUEUE_BYTES` | 2 MiB |", true),
        ("| bytes | `QUEUE_BYTES` | 2 KiB |", false),
        ("| bytes | `NOWHERE` | 2 KiB |", false),
        ("| how many | `RETRIES` | 2 |", true),
        ("| how many | `RETRIES` | 3, each after 2 min |", false),
        ("| bytes | `TWICE` | 1 KiB |", false),
        ("| bytes | `TWICE` (`a.rs`) | 1 KiB |", true),
        ("| bytes | `TWICE` (`a.rs`) | 2 KiB |", false),
    ] {
        let wrong = check(&constants, &[row]);
        assert_eq!(wrong.is_empty(), is_right, "{row}: {wrong:?}");
    }
}
