//! Lines of input: read with a bound, taken as they are or as envelopes.

use crate::cli::reply::NotDone;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use lifeboat::name::Name;
use lifeboat::transaction::{BODY_BYTES_MAX, Denial, Kind, Request};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::io::{self, BufRead, BufReader, Read};
use tokio::sync::mpsc::{self, error::TryRecvError};

/// The longest envelope: a body in base64, an id, and room around them.
pub(super) const ENVELOPE_BYTES_MAX: usize = BODY_BYTES_MAX / 3 * 4 + 64 * 1024;

/// Lines that are read ahead.
const READ_AHEAD: usize = 64;

/// One line, without its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Counted from 1.
    pub(super) number: u64,
    /// The bytes, or the length of a line that is too long.
    pub(super) bytes: Result<Vec<u8>, usize>,
}

/// Lines, read on a thread of their own: a read from a terminal cannot be waited for otherwise.
pub(super) struct Lines(mpsc::Receiver<io::Result<Line>>);

impl Lines {
    pub(super) fn read(input: impl Read + Send + 'static, line_bytes_max: usize) -> Self {
        let (sender, receiver) = mpsc::channel(READ_AHEAD);
        std::thread::spawn(move || {
            let mut input = BufReader::with_capacity(64 * 1024, input);
            for number in 1.. {
                let line = match read_line(&mut input, line_bytes_max) {
                    Ok(None) => return,
                    Ok(Some(bytes)) => Ok(Line { number, bytes }),
                    Err(error) => Err(error),
                };
                let is_last = line.is_err();
                if sender.blocking_send(line).is_err() || is_last {
                    return;
                }
            }
        });
        Self(receiver)
    }

    /// The next line, or none at the end.
    pub(super) async fn next(&mut self) -> io::Result<Option<Line>> {
        self.0.recv().await.transpose()
    }

    /// Gives the rest up, and says whether there may be any: lines that were read ahead, or else, `if_unread`, what
    /// nobody has read yet.
    pub(super) fn give_up(&mut self, if_unread: bool) -> bool {
        let next = self.0.try_recv();
        self.0.close();
        match next {
            Ok(_) => true,
            Err(TryRecvError::Empty) => if_unread,
            Err(TryRecvError::Disconnected) => false,
        }
    }
}

/// Reads up to a line feed, which is dropped, or the end. Holds `bytes_max` at the most; of a longer line only the
/// length is returned.
fn read_line(input: &mut impl BufRead, bytes_max: usize) -> io::Result<Option<Result<Vec<u8>, usize>>> {
    let mut line = Vec::new();
    let mut length = 0;
    let mut is_at_end = true;
    loop {
        let buffer = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if buffer.is_empty() {
            break;
        }
        is_at_end = false;
        let end = buffer.iter().position(|&byte| byte == b'\n');
        let part = &buffer[..end.unwrap_or(buffer.len())];
        length += part.len();
        if length <= bytes_max {
            line.extend_from_slice(part);
        }
        let consumed = end.map_or(buffer.len(), |end| end + 1);
        input.consume(consumed);
        if end.is_some() {
            break;
        }
    }
    Ok((!is_at_end).then_some(if length <= bytes_max { Ok(line) } else { Err(length) }))
}

type Parsed = Result<(Name, Request), (Option<String>, NotDone)>;

/// The line as the body of a transaction.
pub(super) fn plain(line: Line, user: &Name) -> Parsed {
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
    json: Option<Box<RawValue>>,
    text: Option<String>,
    base64: Option<String>,
}

/// The line as an envelope.
pub(super) fn parse_envelope(line: Line, user: &Name) -> Parsed {
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

    fn all(input: &[u8], bytes_max: usize) -> Vec<Result<Vec<u8>, usize>> {
        let mut reader = BufReader::with_capacity(3, input);
        std::iter::from_fn(|| read_line(&mut reader, bytes_max).expect("a slice can be read")).collect()
    }

    #[test]
    fn lines_are_bodies_byte_for_byte() {
        let bodies = all(b"a\r\n\n\xff\x00\nlast", 10);
        assert_eq!(bodies, [Ok(b"a\r".to_vec()), Ok(vec![]), Ok(vec![0xff, 0]), Ok(b"last".to_vec())]);
        assert_eq!(all(b"", 10), []);
    }

    #[test]
    fn a_line_that_is_too_long_is_measured_and_not_held() {
        assert_eq!(all(b"12345\n123456\nok\n", 5), [Ok(b"12345".to_vec()), Err(6), Ok(b"ok".to_vec())]);
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
