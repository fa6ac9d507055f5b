//! Lines of input: plain bodies, or envelopes.

use super::NotDone;
use crate::name::{NAME_BYTES_MAX, Name};
use crate::text::is_deceptive;
use crate::transaction::{BODY_BYTES_MAX, Denial, Kind, Request, TRANSACTION_ID_BYTES_MAX};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// The longest envelope, in bytes: a body in base64, an id, and some reserve.
pub const ENVELOPE_BYTES_MAX: usize = BODY_BYTES_MAX / 3 * 4 + 64 * 1024;

/// One line of input, without its line ending.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// The number of the line, starting at 1.
    pub number: u64,
    /// The bytes of the line, or the length of a line that is too long.
    pub bytes: Result<Vec<u8>, usize>,
}

/// The user and the request of a line. For an invalid line, its id if that is a permitted one, and the reason.
pub type Parsed = Result<(Name, Request), (Option<String>, NotDone)>;

/// Parses a line as the body of a transaction.
pub fn plain(line: Line, user: &Name) -> Parsed {
    match line.bytes {
        Ok(body) => Ok((user.clone(), Request { id: None, body: Bytes::from(body), kind: Kind::Transaction })),
        Err(bytes) => {
            let denial = Denial::BodyTooLarge { bytes, limit_bytes: BODY_BYTES_MAX };
            Err((None, NotDone::Line { line: line.number, denial }))
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    id: Option<String>,
    user: Option<Name>,
    #[serde(default)]
    query: bool,
    #[serde(default, deserialize_with = "present")]
    json: Option<Box<RawValue>>,
    text: Option<String>,
    base64: Option<String>,
}

/// Deserialises an optional body. A body that is written as `null` counts as present, not as absent.
///
/// # Errors
/// The body is not JSON.
pub fn present<'de, D: Deserializer<'de>>(json: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::deserialize(json).map(Some)
}

/// Parses a line as an envelope: `{"id"?, "user"?, "query"?, "json"|"text"|"base64"}`. The default user is `user`.
pub fn parse_envelope(line: Line, user: &Name) -> Parsed {
    let number = line.number;
    let wrong = |id: Option<String>, reason: String| (id, NotDone::Envelope { line: number, reason });
    let bytes = line.bytes.map_err(|bytes| {
        let limits = format!("the limit is {ENVELOPE_BYTES_MAX}, and {BODY_BYTES_MAX} for the body in it");
        wrong(None, format!("it is {bytes} bytes long, {limits}; send less"))
    })?;
    // Serde would also accept an array of the same fields.
    let is_object = bytes.trim_ascii_start().starts_with(b"{");
    let envelope = serde_json::from_slice::<Envelope>(&bytes).ok().filter(|_| is_object);
    let envelope = envelope.ok_or_else(|| wrong(None, explained(&bytes)))?;
    let Envelope { id, user: named, query, json, text, base64 } = envelope;
    if let Some(id) = id.as_ref().filter(|id| id.len() > TRANSACTION_ID_BYTES_MAX) {
        // Do not echo the id: it may fill the line, and no budget counts the memory of denied requests.
        return Err((None, NotDone::Line { line: number, denial: Denial::IdTooLong { bytes: id.len() } }));
    }
    let body = match (json, text, base64) {
        (Some(json), None, None) => Bytes::copy_from_slice(json.get().as_bytes()),
        (None, Some(text), None) => Bytes::from(text),
        (None, None, Some(text)) => match STANDARD.decode(text) {
            Ok(bytes) => Bytes::from(bytes),
            Err(_) => {
                return Err(wrong(id, "\"base64\" is not base64; write the alphabet of RFC 4648 with padding".into()));
            }
        },
        (None, None, None) => return Err(wrong(id, explained(&bytes))),
        _ => {
            return Err(wrong(
                id,
                "it must have exactly one of \"json\", \"text\" and \"base64\"; leave the others out".into(),
            ));
        }
    };
    if id.as_ref().is_some_and(String::is_empty) {
        return Err(wrong(None, "its id is empty; leave it out, or give each transaction one of its own".into()));
    }
    let kind = if query { Kind::Query } else { Kind::Transaction };
    Ok((named.unwrap_or_else(|| user.clone()), Request { id, body, kind }))
}

/// The length up to which text is not encoded in base64 to save space, in bytes.
const WRAPPED_TEXT_BYTES_MIN: usize = 1_024;

/// The longest line that a message shows wrapped, in bytes.
const WRAPPED_BYTES_MAX: usize = 80;

/// Wraps a line as a body in an envelope: JSON unchanged, other text as a string, other bytes in base64.
#[must_use]
pub fn wrap(body: &[u8]) -> Vec<u8> {
    let text = str::from_utf8(body).ok();
    let as_text = |text: &str| serde_json::to_vec(text).unwrap_or_default();
    // Text with many characters that JSON escapes grows up to six times, which only matters if it is long.
    let text_bytes_max = (body.len().div_ceil(3) * 4).max(WRAPPED_TEXT_BYTES_MIN);
    match text.map(as_text).filter(|text| text.len() <= text_bytes_max) {
        Some(text) => [b"{\"text\":", &text[..], b"}"].concat(),
        None => format!("{{\"base64\":\"{}\"}}", STANDARD.encode(body)).into_bytes(),
    }
}

/// Returns why a line is not an envelope, and what to write instead.
fn explained(bytes: &[u8]) -> String {
    let shape = "write {\"id\"?, \"user\"?, \"query\"?, and one of \"json\", \"text\", \"base64\"}";
    let text = str::from_utf8(bytes).ok().map(str::trim);
    let value = serde_json::from_slice::<serde_json::Value>(bytes);
    let keys = match &value {
        Ok(serde_json::Value::Object(object)) => Some(object),
        _ => None,
    };
    let has_body = keys.is_some_and(|keys| ["json", "text", "base64"].iter().any(|key| keys.contains_key(*key)));
    match (keys, &value) {
        (Some(keys), _) if has_body => {
            let of_envelope = |key: &&String| ["id", "user", "query", "json", "text", "base64"].contains(&key.as_str());
            if let Some(key) = keys.keys().find(|key| !of_envelope(key)) {
                let key: String = key.chars().take(NAME_BYTES_MAX).collect();
                return format!("it has an unknown key \"{}\"; {shape}", key.escape_debug());
            }
            for key in ["id", "user", "text", "base64"] {
                let may_be_null = matches!(key, "id" | "user");
                if keys.get(key).is_some_and(|value| !(value.is_string() || value.is_null() && may_be_null)) {
                    return format!("\"{key}\" must be a text in quotes; {shape}");
                }
            }
            if keys.get("query").is_some_and(|value| !value.is_boolean()) {
                return format!("\"query\" must be true or false; {shape}");
            }
            if let Some(Err(reason)) = keys.get("user").and_then(serde_json::Value::as_str).map(Name::new) {
                return format!("\"user\": {reason}");
            }
            format!("it has a key twice; {shape}")
        }
        (_, Err(error)) if bytes.trim_ascii_start().starts_with(b"{") => {
            format!("it is not valid JSON from column {} on; {shape}", error.column())
        }
        (keys, value) => {
            let what = match (keys, text) {
                (Some(_), _) => "it has none of \"json\", \"text\" and \"base64\"",
                (_, None) => "it is not UTF-8 text",
                (_, Some("")) => "it is empty",
                _ => "it is not a JSON object",
            };
            let wrapped = match (value, text) {
                (Ok(_), Some(text)) => format!("{{\"json\":{text}}}"),
                _ => String::from_utf8_lossy(&wrap(bytes)).into_owned(),
            };
            let is_shown = wrapped.len() <= WRAPPED_BYTES_MAX && !wrapped.contains(is_deceptive);
            let wrapped = match (is_shown, value) {
                (true, _) => wrapped,
                (_, Ok(_)) => "{\"json\":...}".into(),
                _ => "{\"text\":...}".into(),
            };
            format!(
                "{what}; to send the line as a body, wrap it: {wrapped}, or use lifeboat batch --bodies, or lifeboat run \
                 without --envelope"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn user() -> Name {
        Name::new("ada").expect("a name")
    }

    fn envelope(text: &str) -> Parsed {
        parse_envelope(Line { number: 7, bytes: Ok(text.as_bytes().to_vec()) }, &user())
    }

    #[test]
    fn every_field_of_an_envelope_is_read() {
        let (name, request) = envelope(r#"{"id":"a","user":"bob","query":true,"json":{"x": 1.0}}"#).expect("valid");
        assert_eq!((&*name, request.id.as_deref(), request.kind), ("bob", Some("a"), Kind::Query));
        assert_eq!(&*request.body, br#"{"x": 1.0}"#);
        let (name, request) = envelope(r#"{"base64":"/wA="}"#).expect("valid");
        assert_eq!((&*name, &*request.body, request.kind), ("ada", &[0xff, 0][..], Kind::Transaction));
        assert_eq!(&*envelope(r#"{"text":"hi"}"#).expect("valid").1.body, b"hi");
    }

    #[test]
    fn a_body_of_null_is_a_body() {
        assert_eq!(&*envelope(r#"{"json":null}"#).expect("valid").1.body, b"null");
        assert!(envelope(r#"{"json":null,"text":"a"}"#).is_err());
        // Only JSON can contain null.
        assert!(envelope(r#"{"text":null}"#).is_err());
    }

    #[test]
    fn a_wrong_envelope_is_denied_with_its_line() {
        for wrong in [
            "",
            "1",
            "[1]",
            r#"{"id":"","text":"a"}"#,
            "{}",
            r#"{"text":"a","json":1}"#,
            r#"{"txt":"a"}"#,
            r#"{"base64":"?"}"#,
            r#"{"user":"a b","text":""}"#,
        ] {
            let Err((_, denied)) = envelope(wrong) else { panic!("{wrong} was taken") };
            assert!(denied.to_string().starts_with("line 7 "), "{denied}");
        }
    }

    #[test]
    fn an_id_over_the_limit_is_denied_without_repeating_it() {
        let long = "i".repeat(TRANSACTION_ID_BYTES_MAX);
        assert_eq!(envelope(&format!(r#"{{"id":"{long}","text":"a"}}"#)).expect("valid").1.id, Some(long.clone()));
        for body in [r#""text":"a""#, r#""base64":"?""#, r#""text":"a","json":1"#] {
            let (id, denied) = envelope(&format!(r#"{{"id":"{long}i",{body}}}"#)).expect_err("it is too long");
            assert_eq!(id, None);
            assert!(denied.to_string().starts_with("line 7: the transaction id is 129 bytes long"), "{denied}");
        }
    }

    #[test]
    fn a_line_that_is_no_envelope_is_denied_with_a_remedy() {
        let printed = |text: &str| envelope(text).expect_err(text).1.to_string();
        for (line, expected) in [
            (
                r#"{"add":1}"#,
                r#"line 7 is not an envelope: it has none of "json", "text" and "base64"; to send the line as a body, wrap it: {"json":{"add":1}}, or use lifeboat batch --bodies, or lifeboat run without --envelope"#,
            ),
            (
                "17",
                r#"line 7 is not an envelope: it is not a JSON object; to send the line as a body, wrap it: {"json":17}, or"#,
            ),
            (
                "hello",
                r#"line 7 is not an envelope: it is not a JSON object; to send the line as a body, wrap it: {"text":"hello"}, or"#,
            ),
            ("", r#"line 7 is not an envelope: it is empty; to send the line as a body, wrap it: {"text":""}, or"#),
            (r#"{"txt":"a","json":1}"#, r#"line 7 is not an envelope: it has an unknown key "txt"; write {"id"?"#),
            (r#"{"id":3,"json":1}"#, r#"line 7 is not an envelope: "id" must be a text in quotes; write"#),
            (r#"{"query":3,"json":1}"#, r#"line 7 is not an envelope: "query" must be true or false; write"#),
            (r#"{"user":"a b","json":1}"#, r#"line 7 is not an envelope: "user": 'a b' is not a name: use 1 to 64"#),
            (r#"{"id":"a","id":"b","json":1}"#, "line 7 is not an envelope: it has a key twice; write"),
            (r#"{"json":1"#, "line 7 is not an envelope: it is not valid JSON from column 9 on; write"),
            (r#"{"base64":"?"}"#, r#"line 7 is not an envelope: "base64" is not base64; write"#),
        ] {
            assert!(printed(line).starts_with(expected), "{}\n{expected}", printed(line));
        }
        let long = format!("{{\"add\":\"{}\"}}", "x".repeat(100));
        assert!(printed(&long).contains("wrap it: {\"json\":...}, or"), "{}", printed(&long));
    }

    proptest! {
        #[test]
        fn a_wrapped_body_is_the_body(bytes in prop::collection::vec(any::<u8>(), 0..2_000), is_text in any::<bool>()) {
            let body = if is_text { String::from_utf8_lossy(&bytes).into_owned().into_bytes() } else { bytes };
            let wrapped = wrap(&body);
            prop_assert!(wrapped.len() <= (body.len().div_ceil(3) * 4).max(WRAPPED_TEXT_BYTES_MIN) + 13);
            let parsed = parse_envelope(Line { number: 1, bytes: Ok(wrapped) }, &user());
            prop_assert_eq!(&*parsed.expect("an envelope").1.body, &body[..]);
        }

        #[test]
        fn random_lines_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_envelope(Line { number: 1, bytes: Ok(bytes) }, &user());
        }
    }
}
