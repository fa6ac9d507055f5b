use std::collections::BTreeMap;
use std::num::NonZeroU8;

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read by serde alone")]
struct Everything {
    whole: i64,
    small: NonZeroU8,
    real: f64,
    flag: bool,
    letter: char,
    text: Box<str>,
    nothing: (),
    pair: (u8, String),
    array: [u32; 2],
    list: Vec<i8>,
    map: BTreeMap<u32, bool>,
    maybe: Option<Inner>,
    free: serde_json::Value,
}

#[derive(Deserialize)]
struct Inner(#[expect(dead_code, reason = "read by serde alone")] String);

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "read by serde alone")]
enum Request {
    Stop,
    Get(String),
    Move(u8, u8),
    SetLevel { to: i64 },
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "read by serde alone")]
enum Term {
    Not(Box<Term>),
    All(Vec<Term>),
    Is(i64),
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "read by serde alone")]
struct Chain {
    next: Option<Box<Chain>>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "read by serde alone")]
struct Endless {
    next: Box<Endless>,
}

#[derive(Deserialize)]
#[serde(tag = "kind")]
#[expect(dead_code, reason = "read by serde alone")]
enum Tagged {
    Get { name: String },
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Even;

impl TryFrom<String> for Even {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.len().is_multiple_of(2) { Ok(Self) } else { Err("of odd length".to_owned()) }
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Never;

impl TryFrom<String> for Never {
    type Error = String;

    fn try_from(_: String) -> Result<Self, String> {
        Err("never".to_owned())
    }
}

#[test]
fn plain_types_have_one_example() {
    assert_eq!(examples::<i64>(b""), "1");
    assert_eq!(examples::<String>(b""), "\"text\"");
    assert_eq!(examples::<()>(b""), "null");
    assert_eq!(examples::<Option<u8>>(b""), "1");
    assert_eq!(examples::<Even>(b""), "\"text\"");
}

#[test]
fn object_has_every_field() {
    let example = examples::<Everything>(b"");
    assert_eq!(
        example,
        r#"{"whole":1,"small":1,"real":1.5,"flag":true,"letter":"a","text":"text","nothing":null,"pair":[1,"text"],"array":[1,1],"list":[1],"map":{"1":true},"maybe":"text","free":null}"#
    );
}

#[test]
fn every_variant_has_an_example() {
    assert_eq!(examples::<Request>(b"[]"), r#""stop" or {"get":"text"} or {"move":[1,1]} or {"set_level":{"to":1}}"#);
}

#[test]
fn variant_that_a_body_names_is_the_only_one_shown() {
    assert_eq!(examples::<Request>(br#"{"set_level":{"to":"high"}}"#), r#"{"set_level":{"to":1}}"#);
    assert_eq!(examples::<Request>(br#"{"get":1,"move":2}"#), r#"{"get":"text"}"#);
}

#[test]
fn types_that_contain_themselves_have_a_finite_example_or_none() {
    assert_eq!(examples::<Term>(br#"{"Is":null}"#), r#"{"Is":1}"#);
    assert!(examples::<Term>(b"").starts_with(r#"{"Not":{"#), "{}", examples::<Term>(b""));
    assert_eq!(examples::<Chain>(b""), r#"{"next":{"next":{"next":null}}}"#);
    assert_eq!(examples::<Endless>(b""), "");
}

#[test]
fn types_that_take_no_sample_have_no_example() {
    assert_eq!(examples::<Tagged>(b""), "");
    assert_eq!(examples::<Never>(b""), "");
    assert_eq!(examples::<crate::NoQuery>(b""), "");
}

#[test]
fn example_that_the_type_does_not_read_from_json_is_left_out() {
    // A visitor may take a sample whose JSON reads as another value.
    assert_eq!(examples::<BTreeMap<(u8, u8), u8>>(b""), "");
}

#[test]
fn examples_have_bounded_length() {
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "read by serde alone")]
    struct Broad {
        next: [Option<Box<Broad>>; 32],
    }
    assert_eq!(examples::<Broad>(b""), "");
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "read by serde alone")]
    enum Wide {
        Short(u8),
        Long(Box<[[u64; 32]; 5]>),
    }
    assert_eq!(examples::<Wide>(b""), r#"{"Short":1}"#);
}
