//! Long answers as JSON, one piece at a time. Escapes can make an answer six times as long, and only one escaped piece
//! exists at a time.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use lifeboat_api::http;
use lifeboat_api::lines::{Form, Parts, escaped};
use lifeboat_host::budget::Permit;

/// The longest answer that is sent whole, in bytes.
pub(super) const WHOLE_BYTES_MAX: usize = 16 * 1024;

/// The length of a piece before it is escaped, in bytes. A multiple of three, so that base64 needs no padding between
/// pieces.
const PIECE_BYTES: usize = 12 * 1024;

/// A long answer that is being sent.
pub(super) struct Pieces {
    head: Option<Vec<u8>>,
    content: Bytes,
    form: Form,
    tail: Option<Vec<u8>>,
    /// The permit for the content, until all of it is sent.
    _permit: Option<Permit>,
}

impl Pieces {
    /// Creates the pieces of a batch's line.
    pub(super) fn of_line(parts: Parts, permit: Option<Permit>) -> Self {
        let Parts { head, content, form, tail } = parts;
        Self { head: Some(head), content, form, tail: Some(tail), _permit: permit }
    }

    /// Creates the pieces of a problem, with `detail` in place of its own.
    pub(super) fn of_problem(problem: &http::Problem, detail: String, permit: Option<Permit>) -> Self {
        const EMPTY: &[u8] = b"\"detail\":\"\"";
        let json = serde_json::to_vec(problem).unwrap_or_default();
        let at = json.windows(EMPTY.len()).position(|part| part == EMPTY).map_or(0, |at| at + EMPTY.len() - 1);
        let (head, tail) = (json[..at].to_vec(), json[at..].to_vec());
        Self { head: Some(head), content: detail.into(), form: Form::Text, tail: Some(tail), _permit: permit }
    }

    fn next_of(&mut self, bytes_max: usize) -> Option<Bytes> {
        if let Some(head) = self.head.take() {
            return Some(head.into());
        }
        if self.content.is_empty() {
            return self.tail.take().map(Bytes::from);
        }
        let mut length = self.content.len().min(bytes_max);
        if !matches!(self.form, Form::Base64) {
            // A piece must not end within a character.
            while length < self.content.len() && self.content[length] & 0xc0 == 0x80 {
                length += 1;
            }
        }
        let piece = self.content.split_to(length);
        let mut text = match self.form {
            Form::Base64 => return Some(STANDARD.encode(&piece).into()),
            Form::Json => piece.to_vec(),
            Form::Text => {
                let mut quoted = serde_json::to_vec(&String::from_utf8_lossy(&piece)).unwrap_or_default();
                quoted.pop();
                quoted.drain(..1);
                quoted
            }
        };
        // `escaped` looks at pairs of bytes: a control character at the end needs a byte after it.
        text.push(b' ');
        let mut text = escaped(text);
        text.pop();
        Some(text.into())
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        self.next_of(PIECE_BYTES)
    }
}

/// A long answer that is being sent, preceded by the text printed before it.
#[derive(Default)]
pub(super) struct Outgoing {
    before: Bytes,
    pieces: Option<Pieces>,
}

impl Outgoing {
    /// Sends `before` and then the answer. The previous answer must have been sent.
    pub(super) fn begin(&mut self, before: Bytes, pieces: Pieces) {
        *self = Self { before, pieces: Some(pieces) };
    }

    pub(super) fn next(&mut self) -> Option<Bytes> {
        if !self.before.is_empty() {
            return Some(std::mem::take(&mut self.before));
        }
        let piece = self.pieces.as_mut()?.next();
        if piece.is_none() {
            self.pieces = None;
        }
        piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_api::clock::Timestamp;
    use lifeboat_api::id::{Sequence, VmId};
    use lifeboat_api::lines::{parts_of_batch, print_of_batch};
    use lifeboat_api::name::Name;
    use lifeboat_api::transaction::{Answer, Reply};
    use proptest::prelude::*;

    fn reply(answer: Answer) -> Reply {
        Reply {
            id: "t1".into(),
            sequence: Sequence(1),
            timestamp: Timestamp(0),
            answer,
            fuel_used: 1,
            is_repeated: false,
            vm: VmId { service: Name::new("bank").expect("a name"), number: 1 },
            failover: None,
        }
    }

    fn assert_same(answer: Answer) {
        let id = Some("a\u{7f}\"b".to_owned());
        let mut whole = Vec::new();
        print_of_batch(&mut whole, id.clone(), &Ok(reply(answer.clone()))).expect("a vector takes everything");
        let parts = parts_of_batch(id.as_deref(), reply(answer)).expect("it has content");
        let mut pieces = Pieces::of_line(parts, None);
        let mut joined = Vec::new();
        while let Some(piece) = pieces.next_of(3) {
            joined.extend_from_slice(&piece);
        }
        assert_eq!(String::from_utf8_lossy(&joined), String::from_utf8_lossy(&whole));
    }

    #[test]
    fn a_problem_in_pieces_is_the_problem() {
        let mut problem = http::Problem {
            kind: "about:blank".into(),
            title: "Unprocessable Entity".into(),
            status: 422,
            code: "refused".into(),
            detail: String::new(),
            outcome: Some("refused".into()),
        };
        let detail = "no \"way\"\n\u{7f}".repeat(5_000);
        let pieces: Vec<u8> = Pieces::of_problem(&problem, detail.clone(), None).flatten().collect();
        problem.detail = detail;
        assert_eq!(serde_json::from_slice::<http::Problem>(&pieces).expect("JSON"), problem);
    }

    proptest! {
        #[test]
        fn pieces_are_the_line_that_is_printed_at_once(
            text in "[\\x00-\\x7f\u{80}-\u{a0}é€𝄞\"\\\\]{0,40}",
            bytes in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            assert_same(Answer::Ok(Bytes::from(text.clone().into_bytes())));
            assert_same(Answer::Ok(Bytes::from(serde_json::to_vec(&text).expect("a text"))));
            assert_same(Answer::Ok(Bytes::from(bytes)));
            assert_same(Answer::Refused(text));
        }
    }
}
