//! Prints replies as lines.

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

/// The reason why a line has no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotDone {
    /// The host denied the request.
    #[error(transparent)]
    Denied(Denial),
    /// The request may have been executed.
    #[error(transparent)]
    OutcomeUnknown(OutcomeUnknown),
    /// The line was denied before it was sent.
    #[error("line {line}: {denial}")]
    Line {
        /// The number of the line.
        line: u64,
        /// The reason.
        denial: Denial,
    },
    /// The line is not an envelope.
    #[error("line {line} is not an envelope: {reason}")]
    Envelope {
        /// The number of the line.
        line: u64,
        /// The error in the line.
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

/// Returns the outcome, or None if it is unknown.
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
    /// None if the outcome is unknown.
    outcome: Option<Outcome>,
    #[serde(flatten)]
    payload: Payload<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    /// The fuel that the request used, unless it is of a batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    fuel_used: Option<u64>,
    /// The line that operators see of a failover that the request caused.
    #[serde(skip_serializing_if = "Option::is_none")]
    failover: Option<String>,
}

/// Bytes in the first of the three forms that can represent them, or no bytes.
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
    /// Returns the form of `bytes`: JSON only if they `may_be_json` and are on one line.
    #[must_use]
    pub fn of(bytes: &'a [u8], may_be_json: bool) -> Self {
        let mut payload = Self::default();
        match std::str::from_utf8(bytes) {
            Err(_) => payload.base64 = Some(STANDARD.encode(bytes)),
            Ok(text) => match serde_json::from_str::<&RawValue>(text) {
                Ok(value) if may_be_json && !has_lines(text) => payload.json = Some(value),
                _ => payload.text = Some(text),
            },
        }
        payload
    }
}

/// Prints a reply on one line. An `ok` whose content is a line is printed unchanged, all else as a JSON object. With
/// `json`, everything is a JSON object, which includes the fuel that a request used.
///
/// # Errors
/// The errors of `out`.
pub fn print(out: &mut impl Write, id: Option<String>, result: &Result<Reply, NotDone>, json: bool) -> io::Result<()> {
    write(out, id, result, json, false)
}

/// Prints the answer to a line of a batch as a JSON object on one line. The object includes the failover that the
/// request caused, because the client may not receive events.
///
/// # Errors
/// The errors of `out`.
pub fn print_of_batch(out: &mut impl Write, id: Option<String>, result: &Result<Reply, NotDone>) -> io::Result<()> {
    write(out, id, result, true, true)
}

/// The form of an answer's content in its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// JSON, unchanged.
    Json,
    /// A JSON string.
    Text,
    /// A string in base64.
    Base64,
}

/// The line of a batch around the content of an answer, for content that is too long to print at once.
#[derive(Debug)]
pub struct Parts {
    /// The part before the content.
    pub head: Vec<u8>,
    /// The content, which is not printed yet.
    pub content: Bytes,
    /// The form of the content.
    pub form: Form,
    /// The part after the content.
    pub tail: Vec<u8>,
}

/// Returns the parts of the line that [`print_of_batch`] prints, or None if the answer has no content.
#[must_use]
pub fn parts_of_batch(id: Option<&str>, reply: Reply) -> Option<Parts> {
    let outcome = reply.answer.outcome();
    let (key, form, content) = match reply.answer {
        Answer::Ok(bytes) => {
            let payload = match std::str::from_utf8(&bytes) {
                Err(_) => ("base64", Form::Base64),
                Ok(text) if serde_json::from_str::<&RawValue>(text).is_ok() && !has_lines(text) => ("json", Form::Json),
                Ok(_) => ("text", Form::Text),
            };
            // Whitespace around a value is not part of it.
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
        fuel_used: None,
        failover: None,
    };
    match result {
        Err(not_done) => printed.cause = Some(not_done.to_string()),
        Ok(reply) => {
            // In a batch, print only the id that the line had: a client cannot use an id that the host generated.
            printed.id = if is_of_batch { printed.id } else { Some(&reply.id) };
            printed.fuel_used = (json && !is_of_batch).then_some(reply.fuel_used);
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

/// Escapes all control characters in JSON, and all characters that end lines, change the direction of text, or are
/// invisible. Serde writes some of them unescaped, of which terminals interpret one (CSI) as the beginning of a
/// command. They can occur only in strings.
#[must_use]
pub fn escaped(json: Vec<u8>) -> Vec<u8> {
    // The first bytes of DEL, U+0080 to U+009F, U+00AD, U+061C, U+180E, U+2000 to U+207F, U+FEFF, and the tags.
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

/// Returns whether a text has several lines. One line may have its end, as the output of a program has.
fn has_lines(text: &str) -> bool {
    text.strip_suffix('\n').unwrap_or(text).contains(['\n', '\r'])
}

/// Returns a reply as a line without its end that is safe for a terminal, if it is one line: unchanged, or as the same
/// JSON with escapes.
#[must_use]
pub fn as_line(bytes: &[u8]) -> Option<Cow<'_, [u8]>> {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if is_one_line(bytes) {
        return Some(Cow::Borrowed(bytes));
    }
    is_json_line(bytes).then(|| Cow::Owned(escaped(bytes.to_vec())))
}

/// Escapes JSON like [`escaped`], and returns it as text.
#[must_use]
pub fn escaped_text(json: String) -> String {
    String::from_utf8(escaped(json.into_bytes())).expect("it was text")
}

/// Serialises a value as JSON on one line, escaped like [`escaped`] for a terminal. All commands print JSON by this
/// function or by [`json_lines`].
///
/// # Errors
/// The errors of the serialisation.
pub fn json_line(value: &impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string(value).map(|json| escaped_text(json) + "\n")
}

/// Serialises a value like [`json_line`], on several indented lines for people.
///
/// # Errors
/// As [`json_line`].
pub fn json_lines(value: &impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string_pretty(value).map(|json| escaped_text(json) + "\n")
}

/// Returns whether the bytes are JSON on one line. Other deceptive characters can only be in its strings.
fn is_json_line(bytes: &[u8]) -> bool {
    let has_no_control = |text: &str| !text.chars().any(|c| c.is_ascii_control() && c != '\t');
    std::str::from_utf8(bytes).is_ok_and(has_no_control) && serde_json::from_slice::<&RawValue>(bytes).is_ok()
}

/// Returns whether the bytes are one line of text that is safe for a terminal: without control characters, and without
/// characters that end lines or change the direction of text.
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
    fn escaping_deceptive_characters_preserves_the_json_value() {
        let all: String = ('\0'..=char::MAX).filter(|c| is_deceptive(*c)).collect();
        let value = serde_json::json!({ &*all: ["é\u{1f600}", &all] });
        for json in [json_line(&value).expect("JSON"), json_lines(&value).expect("JSON")] {
            assert!(!json.chars().any(|c| is_deceptive(c) && c != '\n'), "{json:?}");
            assert!(json.contains("é\u{1f600}"));
            assert_eq!(serde_json::from_str::<serde_json::Value>(&json).expect("JSON"), value);
        }
        // Check each character separately as well: a fast check skips JSON that has none of them.
        for c in all.chars() {
            assert!(json_line(&c).expect("JSON").is_ascii(), "{c:?}");
        }
    }

    #[test]
    fn a_line_may_have_its_end() {
        for (bytes, plain, json) in [
            (&b"[1]\n"[..], "[1]\n", "\"json\":[1]"),
            (b"text\n", "text\n", "\"text\":\"text\\n\""),
            (b"\n", "\n", "\"text\":\"\\n\""),
        ] {
            assert_eq!(printed(ok(bytes), false), plain);
            let line = printed(ok(bytes), true);
            assert!(line.ends_with(&format!("{json},\"fuel_used\":1}}\n")), "{line}");
        }
        for bytes in [&b"a\n\n"[..], b"a\nb\n", b"[1,\n2]\n", b"a\r\n"] {
            assert!(printed(ok(bytes), false).contains("\"text\":"), "{bytes:?}");
        }
    }

    fn ok(bytes: &'static [u8]) -> Answer {
        Answer::Ok(Bytes::from_static(bytes))
    }

    #[test]
    fn a_printable_line_is_printed_unchanged() {
        assert_eq!(printed(ok(b"{\"a\":1}"), false), "{\"a\":1}\n");
        assert_eq!(printed(ok(b""), false), "\n");
        // JSON keeps its form.
        assert_eq!(printed(ok("[\"\u{61c}\u{2066}\u{9b}\"]".as_bytes()), false), "[\"\\u061c\\u2066\\u009b\"]\n");
    }

    #[test]
    fn a_reply_that_is_no_printable_line_is_printed_as_json() {
        assert_eq!(printed(ok(b"a\nb"), false), "{\"id\":\"t1\",\"outcome\":\"ok\",\"text\":\"a\\nb\"}\n");
        assert_eq!(printed(ok(b"\x1b[2J"), false), "{\"id\":\"t1\",\"outcome\":\"ok\",\"text\":\"\\u001b[2J\"}\n");
        assert_eq!(
            printed(ok("\u{9b}2J\u{7f}\u{a0}é".as_bytes()), false),
            "{\"id\":\"t1\",\"outcome\":\"ok\",\"text\":\"\\u009b2J\\u007f\u{a0}é\"}\n"
        );
        assert_eq!(
            printed(ok("a\u{202e}b\u{2028}c\u{2014}".as_bytes()), false),
            "{\"id\":\"t1\",\"outcome\":\"ok\",\"text\":\"a\\u202eb\\u2028c\u{2014}\"}\n"
        );
        assert_eq!(printed(ok(b"\xff"), false), "{\"id\":\"t1\",\"outcome\":\"ok\",\"base64\":\"/w==\"}\n");
    }

    #[test]
    fn every_reply_is_printed_as_json_on_request() {
        assert_eq!(
            printed(ok(b"{\"a\":1}"), true),
            "{\"id\":\"t1\",\"outcome\":\"ok\",\"json\":{\"a\":1},\"fuel_used\":1}\n"
        );
        let text = "{\"id\":\"t1\",\"outcome\":\"ok\",\"text\":\"{\\n}\",\"fuel_used\":1}\n";
        assert_eq!(printed(ok(b"{\n}"), true), text);
        assert_eq!(
            printed(ok("\"\u{9b}\"".as_bytes()), true),
            "{\"id\":\"t1\",\"outcome\":\"ok\",\"json\":\"\\u009b\",\"fuel_used\":1}\n"
        );
    }

    #[test]
    fn an_answer_other_than_ok_is_printed_as_json() {
        assert_eq!(
            printed(Answer::Refused("no".into()), false),
            "{\"id\":\"t1\",\"outcome\":\"refused\",\"cause\":\"no\"}\n"
        );
        let cause = Cause::Trap { message: "wasm `unreachable` instruction executed".into() };
        assert!(printed(Answer::Failed(cause), false).contains("\"outcome\":\"failed\",\"cause\":\"trap: wasm"));
    }
}
