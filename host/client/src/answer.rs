//! The answers to transactions and queries, read from the headers and the body of a reply.

use super::ClientError;
use super::error::retry_after;
use bytes::Bytes;
use lifeboat_api::http::{
    self, FAILOVER_HEADER, FUEL_USED_HEADER, OUTCOME_HEADER, REPEATED_HEADER, SEQUENCE_HEADER, TRANSACTION_ID_HEADER,
    VM_HEADER,
};
use lifeboat_api::text::Printable;
use lifeboat_api::transaction::Outcome;
use reqwest::header::{HeaderMap, HeaderValue};
use std::time::Duration;

/// The answer to a transaction or query that reached its guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The outcome: `ok`, `refused` or `failed`.
    pub outcome: Outcome,
    /// The answer of the guest, or the reason if the outcome is not `ok`.
    pub body: Bytes,
    /// The VM that executed the request.
    pub vm: String,
    /// The sequence number of the transaction. For a query, that of the last transaction that it saw.
    pub sequence: u64,
    /// The fuel that the request used.
    pub fuel_used: u64,
    /// The id of the transaction, if it was sent with one.
    pub id: Option<String>,
    /// Whether the answer had been given before.
    pub is_repeated: bool,
    /// The line that operators see, if the request caused a failover.
    pub failover: Option<String>,
    /// The time after which the same transaction may end differently.
    pub retry_after: Option<Duration>,
}

/// The result of looking up a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The transaction was executed, with this answer.
    Answered(Answer),
    /// The service is busy; look it up again later.
    Pending,
    /// The transaction was never executed, or its answer is beyond the deduplication window.
    Unknown,
}

/// Reads an answer from a reply, or returns `None` if the reply is not an answer.
pub(super) fn read(headers: &HeaderMap, body: Bytes) -> Option<Answer> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let word = text(OUTCOME_HEADER)?;
    let outcome = Outcome::ALL.into_iter().find(|outcome| outcome.to_string() == word)?;
    let body = match outcome {
        Outcome::Ok => body,
        Outcome::Refused | Outcome::Failed => serde_json::from_slice::<http::Problem>(&body).ok()?.detail.into(),
        Outcome::Denied => return None,
    };
    Some(Answer {
        outcome,
        body,
        vm: text(VM_HEADER)?.to_owned(),
        sequence: text(SEQUENCE_HEADER)?.parse().ok()?,
        fuel_used: text(FUEL_USED_HEADER)?.parse().ok()?,
        id: match text(TRANSACTION_ID_HEADER) {
            Some(id) => Some(decoded(id)?),
            None => None,
        },
        is_repeated: text(REPEATED_HEADER) == Some("true"),
        failover: text(FAILOVER_HEADER).map(|line| Printable(line).to_string()),
        retry_after: retry_after(headers),
    })
}

/// Encodes an id as the value of `Idempotency-Key`: a string of RFC 8941.
pub(super) fn key(id: &str) -> Result<HeaderValue, ClientError> {
    let wrong =
        |what: &str| ClientError::Setup(format!("the transaction id '{}' {what}; use printable ASCII", Printable(id)));
    if id.is_empty() {
        return Err(wrong("is empty"));
    }
    if matches!(id, "." | "..") {
        return Err(wrong("cannot be part of the path of a URL, by which its answer is looked up"));
    }
    if !id.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        return Err(wrong("has characters that no header can contain"));
    }
    let quoted = format!("\"{}\"", id.replace('\\', "\\\\").replace('"', "\\\""));
    HeaderValue::try_from(quoted).map_err(|_| wrong("has characters that no header can contain"))
}

/// Decodes percent-encoding. Returns `None` if the text is not a valid encoding of UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first == b'%' {
            let (digits, after) = after.split_at_checked(2)?;
            let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = after;
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(outcome: &'static str) -> HeaderMap {
        let pairs = [
            (OUTCOME_HEADER, outcome),
            (VM_HEADER, "bank/3"),
            (SEQUENCE_HEADER, "7"),
            (FUEL_USED_HEADER, "12"),
            (TRANSACTION_ID_HEADER, "a%20b%25%C3%A9"),
            (REPEATED_HEADER, "true"),
        ];
        pairs
            .into_iter()
            .map(|(name, value)| (name.parse().expect("a name"), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn an_answer_is_read_from_its_response() {
        let answer = read(&headers("ok"), Bytes::from_static(b"5")).expect("an answer");
        assert_eq!((answer.outcome, &*answer.body, &*answer.vm), (Outcome::Ok, &b"5"[..], "bank/3"));
        assert_eq!((answer.sequence, answer.fuel_used, answer.id.as_deref()), (7, 12, Some("a b%é")));
        assert!(answer.is_repeated && answer.failover.is_none() && answer.retry_after.is_none());
    }

    #[test]
    fn the_cause_of_a_refusal_is_read_from_its_problem() {
        let problem =
            br#"{"type":"","title":"","status":422,"code":"refused","detail":"no money","outcome":"refused"}"#;
        let answer = read(&headers("refused"), Bytes::from_static(problem)).expect("an answer");
        assert_eq!((answer.outcome, &*answer.body), (Outcome::Refused, &b"no money"[..]));
    }

    #[test]
    fn an_incomplete_response_is_no_answer() {
        assert_eq!(read(&headers("denied"), Bytes::new()), None);
        assert_eq!(read(&headers("fine"), Bytes::new()), None);
        assert_eq!(read(&headers("failed"), Bytes::from_static(b"<html>")), None);
        for missing in [VM_HEADER, SEQUENCE_HEADER, FUEL_USED_HEADER] {
            let mut headers = headers("ok");
            headers.remove(missing);
            assert_eq!(read(&headers, Bytes::new()), None);
        }
        let mut of_query = headers("ok");
        of_query.remove(TRANSACTION_ID_HEADER);
        assert_eq!(read(&of_query, Bytes::new()).map(|answer| answer.id), Some(None));
    }

    #[test]
    fn ids_go_through_headers_unchanged_or_not_at_all() {
        assert_eq!(key("a\"b\\c d").expect("a key"), "\"a\\\"b\\\\c d\"");
        for wrong in ["", "é", "a\nb"] {
            assert!(key(wrong).is_err(), "{wrong:?}");
        }
        for wrong in ["%", "%1", "%zz", "%+1", "%ff"] {
            assert_eq!(decoded(wrong), None, "{wrong}");
        }
    }
}
