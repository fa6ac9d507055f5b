//! Lines of input: as they are, or as envelopes.

use super::NotDone;
use crate::name::Name;
use crate::transaction::{BODY_BYTES_MAX, Denial, Kind, Request};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// The longest envelope: a body in base64, an id, and room around them.
pub const ENVELOPE_BYTES_MAX: usize = BODY_BYTES_MAX / 3 * 4 + 64 * 1024;

/// One line, without its end.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// Counted from 1.
    pub number: u64,
    /// The bytes, or the length of a line that is too long.
    pub bytes: Result<Vec<u8>, usize>,
}

/// Whose request a line is, and the request; or its id, if it has one, and what is wrong with it.
pub type Parsed = Result<(Name, Request), (Option<String>, NotDone)>;

/// The line as the body of a transaction.
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

/// For a body that is optional: one that is written as `null` is that, and not left out.
///
/// # Errors
/// It is not JSON.
pub fn present<'de, D: Deserializer<'de>>(json: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::deserialize(json).map(Some)
}

/// The line as an envelope: `{"id"?, "user"?, "query"?, "json"|"text"|"base64"}`. Without a user it is `user`'s.
pub fn parse_envelope(line: Line, user: &Name) -> Parsed {
    let number = line.number;
    let wrong = |id: Option<String>, reason: String| (id, NotDone::Envelope { line: number, reason });
    let bytes = line.bytes.map_err(|bytes| {
        wrong(None, format!("it is {bytes} bytes long, the limit is {ENVELOPE_BYTES_MAX}; send less"))
    })?;
    let shape = "write {\"id\"?, \"user\"?, \"query\"?, \"json\"|\"text\"|\"base64\"}";
    // Serde would take an array of the same fields, too.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(wrong(None, format!("it is not a JSON object; {shape}")));
    }
    let envelope: Envelope = serde_json::from_slice(&bytes).map_err(|error| {
        // Each line is a text of its own to the parser.
        wrong(None, format!("{}; {shape}", error.to_string().replace(" at line 1 column ", " at column ")))
    })?;
    let Envelope { id, user: named, query, json, text, base64 } = envelope;
    let body = match (json, text, base64) {
        (Some(json), None, None) => Bytes::copy_from_slice(json.get().as_bytes()),
        (None, Some(text), None) => Bytes::from(text),
        (None, None, Some(text)) => match STANDARD.decode(text) {
            Ok(bytes) => Bytes::from(bytes),
            Err(error) => return Err(wrong(id, format!("\"base64\" is not base64: {error}"))),
        },
        _ => return Err(wrong(id, "it must have exactly one of \"json\", \"text\" and \"base64\"".into())),
    };
    if id.as_ref().is_some_and(String::is_empty) {
        return Err(wrong(None, "its id is empty; leave it out, or give each transaction one of its own".into()));
    }
    let kind = if query { Kind::Query } else { Kind::Transaction };
    Ok((named.unwrap_or_else(|| user.clone()), Request { id, body, kind }))
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
    fn an_envelope_carries_id_user_kind_and_body() {
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
        // Nothing but JSON can say nothing.
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

    proptest! {
        #[test]
        fn random_lines_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_envelope(Line { number: 1, bytes: Ok(bytes) }, &user());
        }
    }
}
