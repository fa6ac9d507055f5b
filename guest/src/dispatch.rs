//! The work of the exports on bytes: decode, call, encode.
//!
//! The exports of a component are these functions around one state. Tests of a workload, and models on the host that
//! check a service's answers, call them natively and get the same bytes.

use crate::codec::reason::shortened;
use crate::codec::{Decode, Encode};
use crate::{Context, Workload};

/// The longest reason that is returned for undecodable bytes, in characters.
const REASON_MAX_CHARS: usize = 600;

/// Applies one transaction, with bytes in and bytes out.
///
/// # Errors
/// The transaction is refused: by the workload, or because it cannot be decoded. In the second case the state is
/// unchanged.
///
/// # Panics
/// If the workload panics, or if its reply cannot be encoded: the state has changed by then, and only a failed
/// transaction undoes that. After a panic the state must not be used again.
pub fn execute<W: Workload>(state: &mut W, context: &Context, transaction: &[u8]) -> Result<Vec<u8>, String> {
    let transaction = <W::Codec as Decode<W::Transaction>>::decode(transaction)
        .map_err(|reason| format!("cannot decode the transaction: {}", one_line(reason)))?;
    let reply = state.execute(context, transaction).map_err(|error| error.to_string())?;
    match <W::Codec as Encode<W::Reply>>::encode(&reply) {
        Ok(bytes) => Ok(bytes),
        Err(reason) => panic!("cannot encode the reply: {reason}"),
    }
}

/// Answers one query, with bytes in and bytes out.
///
/// # Errors
/// The query is refused: by the workload, or because the query cannot be decoded or its answer cannot be encoded.
///
/// # Panics
/// If the workload panics.
pub fn query<W: Workload>(state: &W, context: &Context, query: &[u8]) -> Result<Vec<u8>, String> {
    let query = <W::Codec as Decode<W::Query>>::decode(query)
        .map_err(|reason| format!("cannot decode the query: {}", one_line(reason)))?;
    let answer = state.query(context, query).map_err(|error| error.to_string())?;
    <W::Codec as Encode<W::Answer>>::encode(&answer).map_err(|reason| format!("cannot encode the answer: {reason}"))
}

/// Makes `reason` fit for a log: a decoder may quote the user's bytes, of any content and length.
fn one_line(reason: String) -> String {
    // Nearly all reasons are fit already. Going through their characters would burn more fuel than decoding.
    if reason.len() <= REASON_MAX_CHARS && reason.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return reason;
    }
    let reason = shortened(&reason, REASON_MAX_CHARS, "...");
    reason.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Raw;
    use crate::prelude::*;

    #[derive(Default, Serialize, Deserialize)]
    struct Counter(i64);

    #[workload]
    impl Workload for Counter {
        type Transaction = i64;
        type Reply = i64;
        fn execute(&mut self, _: &Context, add: i64) -> Result<i64, String> {
            self.0 += add;
            if add == 13 { Err("13 is refused".to_owned()) } else { Ok(self.0) }
        }
    }

    #[derive(Default, Serialize, Deserialize)]
    struct Tape(Vec<u8>);

    #[workload]
    impl Workload for Tape {
        type Transaction = Vec<u8>;
        type Reply = String;
        type Query = String;
        type Answer = Vec<u8>;
        type Error = std::fmt::Error;
        type Codec = Raw;

        fn execute(&mut self, context: &Context, bytes: Vec<u8>) -> Result<String, std::fmt::Error> {
            self.0.extend(bytes);
            Ok(format!("{} wrote at {}", context.user, context.sequence))
        }

        fn query(&self, _: &Context, query: String) -> Result<Vec<u8>, std::fmt::Error> {
            if query == "all" { Ok(self.0.clone()) } else { Err(std::fmt::Error) }
        }
    }

    #[derive(Default, Serialize, Deserialize)]
    struct Unencodable;

    #[workload]
    impl Workload for Unencodable {
        type Transaction = ();
        type Reply = std::collections::BTreeMap<Vec<u8>, u8>;
        fn execute(&mut self, _: &Context, (): ()) -> Result<Self::Reply, String> {
            Ok([(vec![1], 1)].into())
        }
    }

    #[test]
    fn transaction_is_decoded_applied_and_answered() {
        let mut counter = Counter::default();
        assert_eq!(execute(&mut counter, &Context::default(), b"5"), Ok(b"5".to_vec()));
        assert_eq!(execute(&mut counter, &Context::default(), b" -2 "), Ok(b"3".to_vec()));
    }

    #[test]
    fn refusal_carries_the_workloads_reason_and_keeps_its_changes() {
        let mut counter = Counter::default();
        assert_eq!(execute(&mut counter, &Context::default(), b"13"), Err("13 is refused".to_owned()));
        assert_eq!(counter.0, 13);
    }

    #[test]
    fn undecodable_transaction_is_refused_and_changes_nothing() {
        let mut counter = Counter(7);
        let long = format!("{:?}", "x\n".repeat(5000));
        for bytes in
            [&b""[..], b"{", b"\"5\"", b"5 5", b"\xff", b"1e400", long.as_bytes(), "[".repeat(100_000).as_bytes()]
        {
            let reason = execute(&mut counter, &Context::default(), bytes).expect_err("it is no number");
            assert!(reason.starts_with("cannot decode the transaction: "), "{reason}");
            assert!(reason.ends_with(": send a body such as 1"), "{reason}");
            assert!(reason.len() < 300 && !reason.contains('\n'), "{reason}");
        }
        assert_eq!(counter.0, 7);
    }

    #[test]
    fn workload_without_queries_says_so_whatever_it_is_asked() {
        for bytes in [&b"null"[..], b"", b"\xff"] {
            let answer = query(&Counter::default(), &Context::default(), bytes);
            assert_eq!(answer, Err("cannot decode the query: this workload answers no queries".to_owned()));
        }
    }

    #[test]
    fn raw_codec_hands_bytes_through() {
        let mut tape = Tape::default();
        let context = Context { user: "ann".to_owned(), sequence: 4, ..Context::default() };
        assert_eq!(execute(&mut tape, &context, b"\x00\xff"), Ok(b"ann wrote at 4".to_vec()));
        assert_eq!(query(&tape, &context, b"all"), Ok(b"\x00\xff".to_vec()));
        assert!(query(&tape, &context, b"none").is_err());
        let not_text = "cannot decode the query: byte 1 is not UTF-8: send text in UTF-8";
        assert_eq!(query(&tape, &context, b"\xff"), Err(not_text.to_owned()));
    }

    #[test]
    #[should_panic(expected = "cannot encode the reply: key must be a string")]
    fn reply_without_an_encoding_panics() {
        let _ = execute(&mut Unencodable, &Context::default(), b"null");
    }
}
