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
fn transaction_is_applied_to_the_state() {
    let mut counter = Counter::default();
    assert_eq!(execute(&mut counter, &Context::default(), b"5"), Ok(b"5".to_vec()));
    assert_eq!(execute(&mut counter, &Context::default(), b" -2 "), Ok(b"3".to_vec()));
}

#[test]
fn refusal_carries_the_workloads_reason() {
    let mut counter = Counter::default();
    assert_eq!(execute(&mut counter, &Context::default(), b"13"), Err("13 is refused".to_owned()));
    assert_eq!(counter.0, 13);
}

#[test]
fn undecodable_transaction_is_refused_without_a_change() {
    let mut counter = Counter(7);
    let long = format!("{:?}", "x\n".repeat(5000));
    for bytes in [&b""[..], b"{", b"\"5\"", b"5 5", b"\xff", b"1e400", long.as_bytes(), "[".repeat(100_000).as_bytes()]
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
