//! How replies are printed.

use crate::text::is_deceptive;
use crate::transaction::{Answer, Denial, Outcome, OutcomeUnknown, Reply, RequestError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::io::{self, Write};
use thiserror::Error;

/// Why a line led to no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotDone {
    /// The host denied it.
    #[error(transparent)]
    Denied(Denial),
    /// It may have been executed.
    #[error(transparent)]
    OutcomeUnknown(OutcomeUnknown),
    /// The host denied it before it was sent.
    #[error("line {line}: {denial}")]
    Line {
        /// Which line.
        line: u64,
        /// Why.
        denial: Denial,
    },
    /// It is no envelope.
    #[error("line {line} is not an envelope: {reason}")]
    Envelope {
        /// Which line.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
}

impl From<RequestError> for NotDone {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Denied(denial) => Self::Denied(denial),
            RequestError::OutcomeUnknown(unknown) => Self::OutcomeUnknown(unknown),
        }
    }
}

/// Returns how it ended; None if that is not known.
#[must_use]
pub fn outcome(result: &Result<Reply, NotDone>) -> Option<Outcome> {
    match result {
        Ok(reply) => Some(reply.answer.outcome()),
        Err(NotDone::OutcomeUnknown(_)) => None,
        Err(NotDone::Denied(_) | NotDone::Line { .. } | NotDone::Envelope { .. }) => Some(Outcome::Denied),
    }
}

#[derive(Serialize)]
struct Printed<'a> {
    id: Option<&'a str>,
    /// None if it is not known.
    outcome: Option<Outcome>,
    #[serde(flatten)]
    payload: Payload<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    /// The line that operators see of the failover that it caused.
    #[serde(skip_serializing_if = "Option::is_none")]
    failover: Option<String>,
}

/// Bytes in the first of the three forms that can hold them, or none.
#[derive(Default, Serialize)]
pub struct Payload<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    json: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

impl<'a> Payload<'a> {
    /// `bytes`; as JSON only if they `may_be_json` and are on one line.
    #[must_use]
    pub fn of(bytes: &'a [u8], may_be_json: bool) -> Self {
        let mut payload = Self::default();
        match std::str::from_utf8(bytes) {
            Err(_) => payload.base64 = Some(STANDARD.encode(bytes)),
            Ok(text) => match serde_json::from_str::<&RawValue>(text) {
                Ok(value) if may_be_json && !text.contains(['\n', '\r']) => payload.json = Some(value),
                _ => payload.text = Some(text),
            },
        }
        payload
    }
}

/// Prints a reply on one line: an `ok` that is a line itself as it is, all else as a JSON object; with `json` that, too.
///
/// # Errors
/// Those of `out`.
pub fn print(out: &mut impl Write, id: Option<String>, result: &Result<Reply, NotDone>, json: bool) -> io::Result<()> {
    write(out, id, result, json, false)
}

/// Prints the answer to a line of a batch as a JSON object on one line, with the failover that it caused: its client may
/// have no events beside it.
///
/// # Errors
/// Those of `out`.
pub fn print_of_batch(out: &mut impl Write, id: Option<String>, result: &Result<Reply, NotDone>) -> io::Result<()> {
    write(out, id, result, true, true)
}

/// How the content of an answer stands in its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Json,
    /// As a string.
    Text,
    /// As base64.
    Base64,
}

/// The line of a batch around the content of an answer, for content that is too long to be printed at once.
#[derive(Debug)]
pub struct Parts {
    /// What stands before the content.
    pub head: Vec<u8>,
    /// The content, which is yet to be printed.
    pub content: Bytes,
    /// How.
    pub form: Form,
    /// What stands after it.
    pub tail: Vec<u8>,
}

/// What [`print_of_batch`] prints, in parts. None if the answer has no content.
#[must_use]
pub fn parts_of_batch(id: Option<&str>, reply: Reply) -> Option<Parts> {
    let outcome = reply.answer.outcome();
    let (key, form, content) = match reply.answer {
        Answer::Ok(bytes) => {
            let payload = match std::str::from_utf8(&bytes) {
                Err(_) => ("base64", Form::Base64),
                Ok(text) if serde_json::from_str::<&RawValue>(text).is_ok() && !text.contains(['\n', '\r']) => {
                    ("json", Form::Json)
                }
                Ok(_) => ("text", Form::Text),
            };
            // Space around a value is no part of it.
            let bytes = if payload.1 == Form::Json { bytes.slice_ref(bytes.trim_ascii()) } else { bytes };
            (payload.0, payload.1, bytes)
        }
        Answer::Refused(text) => ("cause", Form::Text, Bytes::from(text)),
        Answer::Failed(_) => return None,
    };
    let json = |text: &str| serde_json::Value::from(text).to_string();
    let quote = if form == Form::Json { "" } else { "\"" };
    let id = id.map_or_else(|| "null".to_owned(), json);
    let head = format!("{{\"id\":{id},\"outcome\":\"{outcome}\",\"{key}\":{quote}");
    let failover = reply.failover.map(|failover| format!(",\"failover\":{}", json(&failover.to_string())));
    let tail = format!("{quote}{}}}\n", failover.unwrap_or_default());
    Some(Parts { head: escaped(head.into_bytes()), content, form, tail: escaped(tail.into_bytes()) })
}

fn write(
    out: &mut impl Write,
    id: Option<String>,
    result: &Result<Reply, NotDone>,
    json: bool,
    is_of_batch: bool,
) -> io::Result<()> {
    if let Ok(Reply { answer: Answer::Ok(bytes), .. }) = result
        && !json
        && let Some(line) = as_line(bytes)
    {
        out.write_all(&line)?;
        return out.write_all(b"\n");
    }
    let mut printed = Printed {
        id: id.as_deref(),
        outcome: outcome(result),
        payload: Payload::default(),
        cause: None,
        failover: None,
    };
    match result {
        Err(not_done) => printed.cause = Some(not_done.to_string()),
        Ok(reply) => {
            // In a batch, the id that a line had: nobody can ask by one that the host made up.
            printed.id = if is_of_batch { printed.id } else { Some(&reply.id) };
            printed.failover = reply.failover.as_ref().filter(|_| is_of_batch).map(ToString::to_string);
            match &reply.answer {
                Answer::Ok(bytes) => printed.payload = Payload::of(bytes, json),
                Answer::Refused(text) => printed.cause = Some(text.clone()),
                Answer::Failed(cause) => printed.cause = Some(cause.to_string()),
            }
        }
    }
    let mut line = escaped(serde_json::to_vec(&printed)?);
    line.push(b'\n');
    out.write_all(&line)
}

/// JSON with all its control characters as escapes, and all that end lines, turn the direction of text, or are not shown.
/// Serde writes some as they are, of which terminals understand one (CSI) as the beginning of a command. They can be in
/// strings alone.
#[must_use]
pub fn escaped(json: Vec<u8>) -> Vec<u8> {
    // How DEL, U+0080 to U+009F, U+00AD, U+061C, U+180E, those from U+2000 to U+207F, U+FEFF, and the tags begin.
    let may_be_deceptive = |pair: &[u8]| match pair[0] {
        0x7f => true,
        0xc2 => matches!(pair[1], 0x80..=0x9f | 0xad),
        0xd8 => pair[1] == 0x9c,
        0xe1 => pair[1] == 0xa0,
        0xe2 => matches!(pair[1], 0x80 | 0x81),
        0xef => pair[1] == 0xbb,
        0xf3 => pair[1] == 0xa0,
        _ => false,
    };
    if !json.windows(2).any(may_be_deceptive) {
        return json;
    }
    let Ok(text) = str::from_utf8(&json) else { return json };
    let mut escaped = String::with_capacity(json.len() + 16);
    for c in text.chars() {
        match c {
            c if c >= '\u{7f}' && is_deceptive(c) => {
                let units = c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect::<String>();
                escaped += &units;
            }
            c => escaped.push(c),
        }
    }
    escaped.into_bytes()
}

/// A reply as the line that a terminal may be shown, if it is one: as it is, or as the same JSON with escapes.
#[must_use]
pub fn as_line(bytes: &[u8]) -> Option<Cow<'_, [u8]>> {
    if is_one_line(bytes) {
        return Some(Cow::Borrowed(bytes));
    }
    is_json_line(bytes).then(|| Cow::Owned(escaped(bytes.to_vec())))
}

/// JSON as text, escaped as [`escaped`] does.
#[must_use]
pub fn escaped_text(json: String) -> String {
    String::from_utf8(escaped(json.into_bytes())).expect("it was text")
}

/// A value as JSON on one line that a terminal may be shown: escaped as [`escaped`] does. All commands print JSON by this
/// or by [`json_lines`].
///
/// # Errors
/// Those of its serialisation.
pub fn json_line(value: &impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string(value).map(|json| escaped_text(json) + "\n")
}

/// The same on several lines, indented for people.
///
/// # Errors
/// As [`json_line`].
pub fn json_lines(value: &impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string_pretty(value).map(|json| escaped_text(json) + "\n")
}

/// Whether the bytes are JSON on one line, but for characters that can only be in its strings.
fn is_json_line(bytes: &[u8]) -> bool {
    let has_no_control = |text: &str| !text.chars().any(|c| c.is_ascii_control() && c != '\t');
    std::str::from_utf8(bytes).is_ok_and(has_no_control) && serde_json::from_slice::<&RawValue>(bytes).is_ok()
}

/// Whether the bytes are one line of text, which a terminal may see as it is: no control characters, nor those that end
/// lines or turn the direction of text.
#[must_use]
fn is_one_line(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| !text.chars().any(|c| is_deceptive(c) && c != '\t'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::id::{Sequence, VmId};
    use crate::name::Name;
    use crate::transaction::Cause;

    fn printed(answer: Answer, json: bool) -> String {
        let reply = Reply {
            id: "t1".into(),
            sequence: Sequence(1),
            timestamp: Timestamp(0),
            answer,
            fuel_used: 1,
            is_repeated: false,
            vm: VmId { service: Name::new("bank").expect("a name"), number: 1 },
            failover: None,
        };
        let mut out = Vec::new();
        print(&mut out, None, &Ok(reply), json).expect("a vector takes everything");
        String::from_utf8(out).expect("JSON is UTF-8")
    }

    #[test]
    fn json_has_every_deceptive_character_as_an_escape_and_stays_the_same_value() {
        let all: String = ('\0'..=char::MAX).filter(|c| is_deceptive(*c)).collect();
        let value = serde_json::json!({ &*all: ["é\u{1f600}", &all] });
        for json in [json_line(&value).expect("JSON"), json_lines(&value).expect("JSON")] {
            assert!(!json.chars().any(|c| is_deceptive(c) && c != '\n'), "{json:?}");
            assert!(json.contains("é\u{1f600}"));
            assert_eq!(serde_json::from_str::<serde_json::Value>(&json).expect("JSON"), value);
        }
        // Each by itself as well: most JSON has none, which is found out first.
        for c in all.chars() {
            assert!(json_line(&c).expect("JSON").is_ascii(), "{c:?}");
        }
    }

    #[test]
    fn one_line_is_printed_as_it_is_and_the_rest_as_json() {
        let ok = |bytes: &'static [u8]| Answer::Ok(Bytes::from_static(bytes));
        assert_eq!(printed(ok(b"{\"a\":1}"), false), "{\"a\":1}\n");
        assert_eq!(printed(ok(b""), false), "\n");
        assert_eq!(printed(ok(b"{\"a\":1}"), true), "{\"id\":\"t1\",\"outcome\":\"ok\",\"json\":{\"a\":1}}\n");
        assert_eq!(printed(ok(b"a\nb"), false), "{\"id\":\"t1\",\"outcome\":\"ok\",\"text\":\"a\\nb\"}\n");
        assert_eq!(printed(ok(b"{\n}"), true), "{\"id\":\"t1\",\"outcome\":\"ok\",\"text\":\"{\\n}\"}\n");
        assert_eq!(printed(ok(b"\x1b[2J"), false), "{\"id\":\"t1\",\"outcome\":\"ok\",\"text\":\"\\u001b[2J\"}\n");
        assert_eq!(
            printed(ok("\u{9b}2J\u{7f}\u{a0}é".as_bytes()), false),
            "{\"id\":\"t1\",\"outcome\":\"ok\",\"text\":\"\\u009b2J\\u007f\u{a0}é\"}\n"
        );
        assert_eq!(
            printed(ok("\"\u{9b}\"".as_bytes()), true),
            "{\"id\":\"t1\",\"outcome\":\"ok\",\"json\":\"\\u009b\"}\n"
        );
        assert_eq!(
            printed(ok("a\u{202e}b\u{2028}c\u{2014}".as_bytes()), false),
            "{\"id\":\"t1\",\"outcome\":\"ok\",\"text\":\"a\\u202eb\\u2028c\u{2014}\"}\n"
        );
        // JSON stays what it is.
        assert_eq!(printed(ok("[\"\u{61c}\u{2066}\u{9b}\"]".as_bytes()), false), "[\"\\u061c\\u2066\\u009b\"]\n");
        assert_eq!(printed(ok(b"\xff"), false), "{\"id\":\"t1\",\"outcome\":\"ok\",\"base64\":\"/w==\"}\n");
        assert_eq!(
            printed(Answer::Refused("no".into()), false),
            "{\"id\":\"t1\",\"outcome\":\"refused\",\"cause\":\"no\"}\n"
        );
        let cause = Cause::Trap { message: "wasm `unreachable` instruction executed".into() };
        assert!(printed(Answer::Failed(cause), false).contains("\"outcome\":\"failed\",\"cause\":\"trap: wasm"));
    }
}
