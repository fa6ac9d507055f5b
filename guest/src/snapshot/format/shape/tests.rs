use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::*;
use types::*;

fn untyped<T: DeserializeOwned>() -> Option<String> {
    of::<T>().untyped.clone()
}

/// Types that are only read.
#[expect(dead_code, reason = "read by serde alone")]
mod types {
    use super::*;

    #[derive(Deserialize)]
    pub(super) struct Everything {
        numbers: (u8, i16, u32, i64, u128),
        floats: (f32, f64),
        flag: bool,
        character: char,
        text: Box<str>,
        bytes: Vec<u8>,
        optional: Option<u64>,
        map: BTreeMap<String, Vec<String>>,
        unit: (),
        point: Point,
        wrapped: Wrapped,
        choice: Choice,
    }

    #[derive(Deserialize)]
    pub(super) struct Point(i32, i32);

    #[derive(Deserialize)]
    pub(super) struct Wrapped(RefCell<Box<u16>>);

    #[derive(Deserialize)]
    enum Choice {
        Unit,
        One(String),
        Pair(u8, u8),
        Many { left: u64, right: Choices },
    }

    #[derive(Deserialize)]
    enum Choices {
        First,
        Second(i8),
        Third,
    }

    #[derive(Deserialize)]
    pub(super) struct Tree {
        name: String,
        children: Vec<Tree>,
    }

    #[derive(Deserialize)]
    pub(super) struct Chain {
        next: Option<Box<Chain>>,
        length: u8,
    }

    #[derive(Deserialize)]
    pub(super) enum Expression {
        Add(Box<Expression>, Box<Expression>),
        Negate(Box<Expression>),
        Block(Vec<Tree>),
        Literal(i64),
    }

    #[derive(Deserialize)]
    pub(super) enum Endless {
        Both(Box<Endless>, Box<Endless>),
        List(Vec<Endless>),
    }

    #[derive(Deserialize)]
    pub(super) struct Left {
        right: Option<Box<Right>>,
    }

    #[derive(Deserialize)]
    struct Right {
        left: Vec<Left>,
        value: u8,
    }

    #[derive(Deserialize)]
    pub(super) struct Picky {
        non_zero: NonZeroU32,
        address: IpAddr,
        wait: Duration,
        day: Day,
        id: Id,
        last: u64,
    }

    #[derive(Deserialize)]
    pub(super) struct Ids {
        by_id: HashMap<Id, Hidden>,
    }

    #[derive(Deserialize)]
    struct Hidden {
        value: serde_json::Value,
    }

    #[derive(Deserialize)]
    pub(super) struct Unreachable {
        never: Vec<Never>,
        hidden: Hidden,
    }

    #[derive(Deserialize)]
    pub(super) struct ByVariant {
        events: Vec<Event>,
    }

    #[derive(Deserialize)]
    enum Event {
        Started,
        Stopped { reason: String },
        Other(serde_json::Value),
    }
}

/// A date in a text.
struct Day;

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        match <String>::deserialize(deserializer)?.split('-').count() {
            3 => Ok(Self),
            _ => Err(D::Error::custom("no date")),
        }
    }
}

/// Sixteen bytes, as in a UUID.
#[derive(Hash, PartialEq, Eq)]
struct Id;

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Id;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("16 bytes")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> std::result::Result<Id, E> {
                if bytes.len() == 16 { Ok(Id) } else { Err(E::invalid_length(bytes.len(), &self)) }
            }
        }
        deserializer.deserialize_bytes(Visitor)
    }
}

struct Never;

impl<'de> Deserialize<'de> for Never {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let number = u8::deserialize(deserializer)?;
        Err(D::Error::custom(format!("{number} is refused")))
    }
}

#[test]
fn shape_has_names_kinds_and_order() {
    assert_eq!(
        text::<Everything>(),
        "{numbers:(u8,i16,u32,i64,u128),floats:(f32,f64),flag:bool,character:char,text:text,bytes:[u8],optional:u64?,\
         map:[text:[text]],unit,point:(i32,i32),wrapped:u16,\
         choice:<Unit|One:text|Pair:(u8,u8)|Many:{left:u64,right:<First|Second:i8|Third>}>}"
    );
}

#[test]
fn equal_encodings_have_equal_shapes() {
    assert_eq!(text::<Vec<u8>>(), text::<VecDeque<u8>>());
    assert_eq!(text::<Box<str>>(), text::<String>());
    assert_eq!(text::<Point>(), text::<(i32, i32)>());
    assert_eq!(text::<Wrapped>(), text::<u16>());
    assert_eq!(text::<HashMap<u8, u8>>(), text::<BTreeMap<u8, u8>>());
    assert_ne!(text::<u8>(), text::<i8>());
}

#[test]
fn recursive_types_have_a_shape() {
    assert_eq!(text::<Tree>(), "{name:text,children:[^]}");
    assert_eq!(text::<Chain>(), "{next:^?,length:u8}");
    assert_eq!(text::<Expression>(), "<Add:(^,^)|Negate:^|Block:[{name:text,children:[^]}]|Literal:i64>");
    assert_eq!(text::<Endless>(), "<Both:(^,^)|List:[^]>");
    assert_eq!(text::<Left>(), "{right:{left:[^^],value:u8}?}");
}

#[test]
fn types_that_refuse_samples_get_others() {
    assert_eq!(
        text::<Picky>(),
        "{non_zero:u32,address:<V4:(u8,u8,u8,u8)|V6:(u8,u8,u8,u8,u8,u8,u8,u8,u8,u8,u8,u8,u8,u8,u8,u8)>,\
         wait:{secs:u64,nanos:u32},day:text,id:[u8],last:u64}"
    );
}

#[test]
fn what_follows_a_type_without_a_sample_is_still_seen() {
    assert_eq!(untyped::<Unreachable>(), Some("hidden.value".to_owned()));
}

#[test]
fn value_without_a_type_is_found_behind_keys_options_and_variants() {
    assert_eq!(untyped::<Ids>(), Some("by_id.value".to_owned()));
    assert_eq!(untyped::<ByVariant>(), Some("events.Other".to_owned()));
    assert_eq!(untyped::<serde_json::Value>(), Some(String::new()));
    assert_eq!(untyped::<Everything>(), None);
}

#[test]
fn fingerprint_is_that_of_the_text_for_ever() {
    // These numbers are in snapshots: a change here makes every state of these shapes unreadable.
    assert_eq!(text::<Chain>(), "{next:^?,length:u8}");
    assert_eq!(of::<Chain>().fingerprint, 0x9fd5e38c208db11e);
    assert_eq!(of::<u64>().fingerprint, 0x4d35d3193e8d66f2);
}

#[test]
fn steps_grow_with_the_size_of_the_type_alone() {
    let steps = [traced::<u64>().steps, traced::<Everything>().steps, traced::<Vec<Expression>>().steps];
    assert!(steps[0] <= 2 && steps[1] <= 500 && steps[2] <= 1000, "{steps:?}");

    // An enum of 64 variants with two fields each, alone and in a list.
    let steps = [traced::<(u64, Wide)>().steps, traced::<Vec<Wide>>().steps];
    assert!(steps.iter().all(|steps| *steps <= 1000), "{steps:?}");
    assert_eq!(text::<Wide>().matches("a:u64,b:text").count(), 64);
}

/// Declares an enum whose variants have two fields each.
macro_rules! wide {
    ($($variant:ident)*) => {
        #[derive(Deserialize)]
        #[expect(dead_code, reason = "read by serde alone")]
        enum Wide { $($variant { a: u64, b: String }),* }
    };
}

wide! {
    V00 V01 V02 V03 V04 V05 V06 V07
    V10 V11 V12 V13 V14 V15 V16 V17
    V20 V21 V22 V23 V24 V25 V26 V27
    V30 V31 V32 V33 V34 V35 V36 V37
    V40 V41 V42 V43 V44 V45 V46 V47
    V50 V51 V52 V53 V54 V55 V56 V57
    V60 V61 V62 V63 V64 V65 V66 V67
    V70 V71 V72 V73 V74 V75 V76 V77
}
