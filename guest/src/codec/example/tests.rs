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
    // A visitor may accept a sample whose JSON reads as another value.
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

/// Returns the example of an enum with one variant, or of a struct with one field, named `name`.
fn named_example(name: &str, is_variant: bool) -> String {
    let names: &'static [&'static str] = Box::leak(Box::new([&*Box::leak(name.to_owned().into_boxed_str())]));
    examples_by(b"", &|sample| {
        let sampler = Sampler { sample, depth: 0, wrappers: 0 };
        if is_variant {
            sampler.deserialize_enum("Odd", names, Anything)
        } else {
            sampler.deserialize_struct("Odd", names, Anything)
        }
    })
}

/// Accepts a unit variant, or a map of texts to flags.
struct Anything;

impl<'de> Visitor<'de> for Anything {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("anything")
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<(), A::Error> {
        let (_, variant): (String, _) = access.variant()?;
        variant.unit_variant()
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        while access.next_entry::<String, bool>()?.is_some() {}
        Ok(())
    }
}

proptest::proptest! {
    #[test]
    fn example_is_json_whatever_the_names_are(name in r#"[a"\\\n\x00-\x1f\x7f/é\u{2028}]{0,12}"#) {
        let variant: String = serde_json::from_str(&named_example(&name, true)).expect("a text");
        proptest::prop_assert_eq!(&variant, &name);
        let object: BTreeMap<String, bool> = serde_json::from_str(&named_example(&name, false)).expect("an object");
        proptest::prop_assert_eq!(object, BTreeMap::from([(name, true)]));
    }
}

#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
enum Odd {
    #[serde(rename = "a\\b\n")]
    Unit,
    #[serde(rename = "\"")]
    Newtype(u8),
}

#[test]
fn odd_names_are_escaped() {
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "read by serde alone")]
    struct Quoted {
        #[serde(rename = "a\"b")]
        field: u8,
    }
    assert_eq!(examples::<Quoted>(b""), r#"{"a\"b":1}"#);
    assert_eq!(examples::<Odd>(b""), r#""a\\b\n" or {"\"":1}"#);
    assert_eq!(examples::<BTreeMap<Odd, u8>>(b""), r#"{"a\\b\n":1}"#);
}

#[test]
fn example_with_an_odd_name_is_read_back() {
    // This type accepts the sample, but no JSON.
    struct Picky;
    impl<'de> Deserialize<'de> for Picky {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Odd;
            impl Visitor<'_> for Odd {
                type Value = Picky;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("a number that is not negative")
                }
                fn visit_u64<E>(self, _: u64) -> Result<Picky, E> {
                    Ok(Picky)
                }
            }
            if std::any::type_name::<D>().contains("serde_json") {
                return Err(serde::de::Error::custom("picky"));
            }
            deserializer.deserialize_u8(Odd)
        }
    }
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "read by serde alone")]
    struct Even {
        a: Picky,
    }
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "read by serde alone")]
    struct Odd {
        #[serde(rename = "\\")]
        a: Picky,
    }
    assert_eq!(examples::<Even>(b""), r#"{"a":1}"#, "plain names are not");
    assert_eq!(examples::<Odd>(b""), "");
}

#[test]
fn aliases_of_a_field_are_left_out() {
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "read by serde alone")]
    struct Renamed {
        #[serde(alias = "sum", alias = "value")]
        amount: u8,
        inner: Vec<Name>,
    }
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "read by serde alone")]
    struct Name {
        #[serde(alias = "title")]
        name: String,
        sum: bool,
    }
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "read by serde alone")]
    enum Request {
        Add {
            #[serde(alias = "amount")]
            sum: u8,
        },
    }
    assert_eq!(examples::<Renamed>(b""), r#"{"amount":1,"inner":[{"name":"text","sum":true}]}"#);
    assert_eq!(examples::<Request>(b""), r#"{"Add":{"amount":1}}"#);
}

#[test]
fn aliases_are_left_out_up_to_a_bound() {
    macro_rules! alias {
        ($name:ident $($alias:literal)*) => {
            #[derive(Deserialize)]
            #[expect(dead_code, reason = "read by serde alone")]
            struct $name {
                $(#[serde(alias = $alias)])*
                a: u8,
            }
        };
    }
    alias!(Most "b" "c" "d" "e" "f" "g" "h" "i");
    alias!(TooMany "b" "c" "d" "e" "f" "g" "h" "i" "j");
    assert_eq!(examples::<Most>(b""), r#"{"a":1}"#);
    assert_eq!(examples::<TooMany>(b""), "");
}

#[derive(Deserialize)]
#[serde(tag = "do", content = "with")]
#[expect(dead_code, reason = "read by serde alone")]
enum Adjacent {
    Get(String),
    Put(u8),
    Set { key: u8 },
}

#[test]
fn adjacently_tagged_enum_shows_every_variant_or_the_one_that_a_body_names() {
    assert_eq!(examples::<Adjacent>(b""), r#"{"do":"Get","with":"text"} or {"do":"Put","with":1}"#);
    assert_eq!(examples::<Adjacent>(br#"{"do":"Put","with":"x"}"#), r#"{"do":"Put","with":1}"#);
    assert_eq!(examples::<Adjacent>(br#"{"do":"Set","with":"x"}"#), "", "its struct does not say what it wants");
}

#[test]
fn enum_inside_of_a_struct_shows_one_variant() {
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "read by serde alone")]
    struct Order {
        first: Request,
        by: u8,
    }
    assert_eq!(examples::<Order>(br#"{"first":"get"}"#), r#"{"first":"stop","by":1}"#);
}

#[test]
fn recursive_newtypes_have_a_finite_example_or_none() {
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "read by serde alone")]
    struct Chain(Option<Box<Chain>>);
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "read by serde alone")]
    struct Endless(Box<Endless>);
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "read by serde alone")]
    struct Link {
        chain: Chain,
    }
    assert_eq!(examples::<Chain>(b""), "null");
    assert_eq!(examples::<Link>(b""), r#"{"chain":null}"#);
    assert_eq!(examples::<Endless>(b""), "");
}

#[test]
fn bytes_have_an_example_where_json_has_them() {
    struct Bytes<const IS_LIST: bool>;
    impl<'de, const IS_LIST: bool> Visitor<'de> for Bytes<IS_LIST> {
        type Value = Self;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("bytes")
        }
        fn visit_bytes<E>(self, _: &[u8]) -> Result<Self, E> {
            Ok(self)
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Self, A::Error> {
            if !IS_LIST {
                return Err(serde::de::Error::custom("no list"));
            }
            while access.next_element::<u8>()?.is_some() {}
            Ok(self)
        }
    }
    impl<'de, const IS_LIST: bool> Deserialize<'de> for Bytes<IS_LIST> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_bytes(Self)
        }
    }
    assert_eq!(examples::<Bytes<true>>(b""), "[1]");
    assert_eq!(examples::<Bytes<false>>(b""), "", "its sample is not what JSON gives it");
}

#[test]
fn variants_are_tried_up_to_a_bound() {
    #[derive(Deserialize)]
    #[rustfmt::skip]
    enum Many { A, B, C, D, E, F, G, H, I, J, K, L, M, N, O, P, Q, R }
    let examples = examples::<Many>(b"");
    assert!(examples.ends_with(r#" or "O" or "P""#), "{examples}");
}

#[test]
fn variant_is_looked_for_at_the_beginning_of_a_body() {
    let behind = |spaces| [&vec![b' '; spaces][..], br#"{"get":1}"#].concat();
    assert_eq!(examples::<Request>(&behind(NAMED_WITHIN_BYTES - 6)), r#"{"get":"text"}"#);
    assert!(examples::<Request>(&behind(NAMED_WITHIN_BYTES)).starts_with(r#""stop" or"#));
    assert_eq!(NAMED_WITHIN_BYTES, 128, "a longer search takes more fuel");
}
