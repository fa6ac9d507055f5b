use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::rc::Rc;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::header::HEADER_MAX_BYTES;
use super::*;
use crate::Context;

/// One value of every kind that postcard encodes differently.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Everything {
    numbers: (u8, i16, u32, i64, u128),
    floats: (f32, f64),
    character: char,
    text: String,
    bytes: Vec<u8>,
    optional: Option<Box<Everything>>,
    map: BTreeMap<String, Vec<String>>,
    choice: Choice,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
enum Choice {
    #[default]
    Unit,
    One(String),
    Many {
        left: u64,
        right: Box<str>,
    },
}

/// Checks each chunk and collects the bytes.
#[derive(Default)]
struct Chunks {
    bytes: Vec<u8>,
    sizes: Vec<usize>,
}

impl Sink for Chunks {
    fn write(&mut self, chunk: &[u8]) {
        assert!((1..=CHUNK_BYTES).contains(&chunk.len()), "chunk of {} bytes", chunk.len());
        self.bytes.extend_from_slice(chunk);
        self.sizes.push(chunk.len());
    }
}

/// Returns bytes in chunks whose sizes cycle through `sizes`, and counts the reads.
struct Drip {
    bytes: std::io::Cursor<Vec<u8>>,
    sizes: Vec<u32>,
    reads: Rc<Cell<usize>>,
}

impl Source for Drip {
    fn read(&mut self, max: u32) -> Vec<u8> {
        let size = self.sizes[self.reads.get() % self.sizes.len()].min(max);
        self.reads.set(self.reads.get() + 1);
        let mut chunk = Vec::new();
        (&mut self.bytes).take(u64::from(size)).read_to_end(&mut chunk).expect("reading from memory cannot fail");
        chunk
    }
}

fn drip(bytes: Vec<u8>, sizes: Vec<u32>) -> StateReader {
    StateReader::new(Drip { bytes: std::io::Cursor::new(bytes), sizes, reads: Rc::default() })
}

fn saved<T: Serialize + DeserializeOwned>(value: &T) -> Vec<u8> {
    let mut chunks = Chunks::default();
    Postcard::write(value, &mut chunks).expect("it has an encoding");
    chunks.bytes
}

/// Returns what a build without headers wrote.
fn saved_before<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("it has an encoding")
}

fn saved_by_name<T: Serialize + DeserializeOwned>(value: &T) -> Vec<u8> {
    let mut chunks = Chunks::default();
    MessagePack::write(value, &mut chunks).expect("it has an encoding");
    chunks.bytes
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["\\PC{0,12}", (0..200_000usize).prop_map(|length| "aé".repeat(length / 3))]
}

fn everything() -> impl Strategy<Value = Everything> {
    let choice = prop_oneof![
        Just(Choice::Unit),
        text().prop_map(Choice::One),
        (any::<u64>(), text()).prop_map(|(left, right)| Choice::Many { left, right: right.into() }),
    ];
    let leaf = (
        any::<(u8, i16, u32, i64, u128)>(),
        (any::<u32>(), any::<u32>()),
        any::<char>(),
        text(),
        prop::collection::vec(any::<u8>(), 0..300),
        prop::collection::btree_map("\\PC{0,8}", prop::collection::vec("\\PC{0,8}", 0..4), 0..6),
        choice,
    )
        .prop_map(|(numbers, (single, double), character, text, bytes, map, choice)| Everything {
            numbers,
            // They are made from integers, because a NaN would not equal itself.
            floats: (single as f32, f64::from(double) / 3.0),
            character,
            text,
            bytes,
            optional: None,
            map,
            choice,
        })
        .boxed();
    (leaf.clone(), prop::option::of(leaf))
        .prop_map(|(value, inner)| Everything { optional: inner.map(Box::new), ..value })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_state_survives_any_chunking(value in everything(), sizes in prop::collection::vec(1..70_000u32, 1..5)) {
        let bytes = saved(&value);
        prop_assert_eq!(&bytes[HEADER_MAX_BYTES..], &saved_before(&value));
        prop_assert_eq!(drip(bytes, sizes).read::<Everything>(), Ok(value));
    }

    #[test]
    fn state_of_a_build_without_headers_is_read(value in everything(), sizes in prop::collection::vec(1..70_000u32, 1..5)) {
        prop_assert_eq!(drip(saved_before(&value), sizes).read::<Everything>(), Ok(value));
    }

    #[test]
    fn any_state_survives_with_names(value in everything(), sizes in prop::collection::vec(1..70_000u32, 1..5)) {
        prop_assert_eq!(MessagePack::read(drip(saved_by_name(&value), sizes)), Ok(value));
    }

    #[test]
    fn damaged_state_with_names_never_panics(value in everything(), at in any::<prop::sample::Index>(), flip in any::<u8>()) {
        let mut bytes = saved_by_name(&value);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let _ = MessagePack::read::<Everything>(bytes.into());
    }

    #[test]
    fn state_that_is_cut_off_is_refused(value in everything(), at in any::<prop::sample::Index>()) {
        let mut bytes = saved(&value);
        bytes.truncate(at.index(bytes.len()));
        let reason = StateReader::from(bytes).read::<Everything>().expect_err("it is cut off");
        prop_assert!(reason.starts_with("cannot read the state: "), "{}", reason);
    }

    #[test]
    fn damaged_state_never_panics(value in everything(), flips in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..8)) {
        let mut bytes = saved(&value);
        for (at, flip) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        let _ = StateReader::from(bytes).read::<Everything>();
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = StateReader::from(bytes).read::<Everything>();
    }
}

#[test]
fn mebibyte_string_survives_small_or_large_chunks() {
    let text = "é".repeat(512 * 1024);
    let value = (1u8, text, String::from("after"));
    for size in [1, 1000, 65_536, 1 << 20] {
        assert_eq!(drip(saved(&value), vec![size]).read(), Ok(value.clone()), "in chunks of {size} bytes");
    }
}

#[test]
fn chunks_are_full_when_the_state_is_long() {
    let mut chunks = Chunks::default();
    Postcard::write(&(0..200_000u32).collect::<Vec<_>>(), &mut chunks).expect("it has an encoding");
    let last = chunks.sizes.pop().expect("there are chunks");
    assert!(last <= CHUNK_BYTES && chunks.sizes.len() == 8);
    assert!(chunks.sizes.iter().all(|size| *size == CHUNK_BYTES), "{:?}", chunks.sizes);
}

#[test]
fn types_that_insist_on_borrowing_are_read() {
    // This is how a UUID reads: `deserialize_bytes`, and an owned value made from the borrowed one.
    #[derive(Debug, PartialEq)]
    struct Id([u8; 4]);
    impl<'de> Deserialize<'de> for Id {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Visitor;
            impl<'de> serde::de::Visitor<'de> for Visitor {
                type Value = Id;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("4 bytes")
                }
                fn visit_borrowed_bytes<E: serde::de::Error>(self, bytes: &'de [u8]) -> Result<Id, E> {
                    bytes.try_into().map(Id).map_err(E::custom)
                }
            }
            deserializer.deserialize_bytes(Visitor)
        }
    }

    // With this many, freeing them recursively would overflow the stack.
    let count = 100_000u32;
    let mut bytes = saved_before(&count);
    (0..count).for_each(|i| bytes.extend([&[4], &i.to_le_bytes()[..]].concat()));
    let ids: Vec<Id> = drip(bytes, vec![7, 64_000]).read().expect("it is whole");
    assert!(ids.len() == count as usize && ids[99_999] == Id(99_999u32.to_le_bytes()));
}

#[test]
fn false_length_gathers_no_more_than_arrives() {
    // The length announces a string of 4 GiB; 100,000 bytes follow.
    let mut bytes = vec![0xff, 0xff, 0xff, 0xff, 0x0f];
    bytes.resize(100_005, b'a');
    let reason = StateReader::from(bytes.clone()).read::<String>().expect_err("it is cut off");
    assert!(reason.ends_with("at byte 100005"), "{reason}");

    // serde bounds a sequence: its initial capacity is at most 1 MiB for any announced length.
    assert!(StateReader::from(bytes).read::<Vec<String>>().is_err());
}

#[test]
fn bytes_after_the_state_are_refused() {
    let mut bytes = saved(&7u64);
    bytes.push(0);
    for size in [1, 100] {
        let reason = drip(bytes.clone(), vec![size]).read::<u64>();
        assert_eq!(reason, Err("cannot read the state: it goes on after its end at byte 17".to_owned()));
    }
    let mut bytes = saved_by_name(&7u64);
    bytes.push(0);
    let reason = MessagePack::read::<u64>(bytes.into());
    assert_eq!(reason, Err("cannot read the state: it goes on after its end at byte 9".to_owned()));
}

#[test]
fn bytes_of_all_kinds_are_written_and_read_as_lists() {
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Bytes {
        list: Vec<u8>,
        boxed: Box<[u8]>,
        optional: Option<Vec<u8>>,
        lists: Vec<Vec<u8>>,
        map: BTreeMap<u8, Vec<u8>>,
        numbers: Vec<i8>,
        #[serde(deserialize_with = "reversed")]
        reversed: Vec<u8>,
    }
    /// Reads a `Vec<u8>` by a visitor of its own, which makes it from something else than bytes.
    fn reversed<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<u8>, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = list.next_element()? {
                    bytes.insert(0, byte);
                }
                Ok(bytes)
            }
        }
        deserializer.deserialize_seq(Visitor)
    }

    let long: Vec<u8> = (0..3_000_000).map(|i| (i % 251) as u8).collect();
    let mut value = Bytes {
        list: long.clone(),
        boxed: vec![1; 70_000].into(),
        optional: Some(vec![]),
        lists: vec![vec![1], vec![2; 65_536]],
        map: [(3, vec![4])].into(),
        numbers: vec![-1],
        reversed: vec![1, 2, 3],
    };
    let bytes = saved(&value);
    assert_eq!(&bytes[HEADER_MAX_BYTES..], &saved_before(&value));
    value.reversed.reverse();
    for size in [1000, 65_536] {
        assert!(drip(bytes.clone(), vec![size]).read::<Bytes>() == Ok(value.clone()), "in chunks of {size} bytes");
    }
}

#[test]
fn long_bytes_get_exactly_the_memory_they_need() {
    let bytes = saved(&vec![7u8; 5_000_000]);
    let read: Vec<u8> = drip(bytes, vec![65_536]).read().expect("it is whole");
    assert_eq!((read.len(), read.capacity()), (5_000_000, 5_000_000));
}

#[test]
fn state_without_an_encoding_is_refused() {
    #[derive(Deserialize)]
    struct Unsized;
    impl Serialize for Unsized {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq((0..5).filter(|i| i % 2 == 0))
        }
    }
    let reason = Postcard::write(&Unsized, &mut Vec::new()).expect_err("its length is unknown");
    assert!(reason.starts_with("cannot write the state `Unsized`: "), "{reason}");
}

/// Checks a reason: its words, and that the host shows all of it.
fn explains(reason: &str, words: &[&str]) {
    for word in words {
        assert!(reason.contains(word), "`{word}` is not in: {reason}");
    }
    assert!(reason.len() <= 200, "{} bytes: {reason}", reason.len());
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Profile {
    name: String,
    extra: serde_json::Value,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(u64),
    Text(String),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Tagged {
    Get { key: u64 },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Flat {
    id: u64,
    #[serde(flatten)]
    rest: BTreeMap<String, u64>,
}

#[test]
fn self_describing_state_is_refused_when_it_is_written() {
    let written = |result: Result<(), String>| result.expect_err("it could not be read back");
    let reason = written(Postcard::write(&Profile::default(), &mut Vec::new()));
    explains(&reason, &["`Profile`", "`extra`", "serde_json::Value", "type StateCodec = MessagePack;"]);

    #[derive(Serialize, Deserialize)]
    struct Outer {
        profiles: BTreeMap<u64, Option<Profile>>,
    }
    let empty = Outer { profiles: BTreeMap::new() };
    explains(&written(Postcard::write(&empty, &mut Vec::new())), &["`Outer`", "`profiles.extra`"]);

    explains(&written(Postcard::write(&Untagged::Number(1), &mut Vec::new())), &["`Untagged`", "untagged"]);
    explains(&written(Postcard::write(&Tagged::Get { key: 1 }, &mut Vec::new())), &["`Tagged`"]);
    explains(
        &written(Postcard::write(&Flat { id: 1, rest: BTreeMap::new() }, &mut Vec::new())),
        &["`Flat`", "flatten"],
    );
}

#[test]
fn self_describing_state_of_an_earlier_build_is_refused_with_a_remedy() {
    let bytes = saved_before(&Profile { name: "ann".into(), extra: serde_json::json!({"a": [1]}) });
    let reason = StateReader::from(bytes).read::<Profile>().expect_err("postcard does not say what follows");
    explains(&reason, &["`Profile`", "`extra`", "serde_json::Value", "type StateCodec = MessagePack;"]);
}

#[test]
fn field_that_is_left_out_is_refused_when_it_is_written() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sparse {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<u64>,
        count: u64,
    }
    let sparse = Sparse { note: None, count: 1 };
    let reason = Postcard::write(&sparse, &mut Vec::new()).expect_err("the count would be read as the note");
    explains(&reason, &["`Sparse`", "`note`", "skip_serializing_if", "MessagePack"]);
    assert_eq!(MessagePack::read(saved_by_name(&sparse).into()), Ok(sparse));
}

#[test]
fn state_with_names_may_be_self_describing() {
    let profile = Profile { name: "ann".into(), extra: serde_json::json!({"a": [1, -2.5, null, "é"]}) };
    assert_eq!(MessagePack::read(saved_by_name(&profile).into()), Ok(profile));
    for value in [Untagged::Number(7), Untagged::Text("seven".into())] {
        assert_eq!(MessagePack::read(saved_by_name(&value).into()), Ok(value));
    }
    let tagged = Tagged::Get { key: 8 };
    assert_eq!(MessagePack::read(saved_by_name(&tagged).into()), Ok(tagged));
    let flat = Flat { id: 9, rest: [("b".to_owned(), 2)].into() };
    assert_eq!(MessagePack::read(saved_by_name(&flat).into()), Ok(flat));
    let numbers = BTreeMap::from([((1u8, -1i8), f64::INFINITY)]);
    assert_eq!(MessagePack::read(saved_by_name(&numbers).into()), Ok(numbers));
}

#[test]
fn swapped_fields_of_one_type_are_refused() {
    #[derive(Debug, Serialize, Deserialize)]
    struct Transfer {
        from: u64,
        to: u64,
    }
    mod swapped {
        #[derive(Debug, serde::Serialize, serde::Deserialize)]
        pub(super) struct Transfer {
            pub(super) to: u64,
            pub(super) from: u64,
        }
    }
    let bytes = saved(&vec![Transfer { from: 1, to: 2 }]);
    let reason = StateReader::from(bytes.clone()).read::<Vec<swapped::Transfer>>().expect_err("it is another shape");
    explains(&reason, &["`Vec`", "STATE_VERSION", "`migrate`"]);
    assert!(StateReader::from(bytes).read::<Vec<Transfer>>().is_ok());

    let by_name = saved_by_name(&Transfer { from: 1, to: 2 });
    let read: swapped::Transfer = MessagePack::read(by_name.into()).expect("fields are found by name");
    assert_eq!((read.from, read.to), (1, 2));
}

#[test]
fn state_of_the_other_codec_is_refused() {
    let reason = MessagePack::read::<u64>(saved(&7u64).into()).expect_err("it is postcard");
    explains(&reason, &["by MessagePack", "Postcard wrote it", "STATE_VERSION"]);
    let reason = MessagePack::read::<u64>(saved_before(&7u64).into()).expect_err("it is postcard");
    explains(&reason, &["Postcard wrote it"]);
    let reason = Postcard::read::<u64>(saved_by_name(&7u64).into()).expect_err("it is MessagePack");
    explains(&reason, &["by Postcard", "MessagePack wrote it"]);
}

#[test]
fn state_of_a_later_codec_is_refused() {
    let mut bytes = saved(&7u64);
    bytes[7] = 9;
    let reason = StateReader::from(bytes).read::<u64>().expect_err("the codec is unknown");
    explains(&reason, &["a later build of the SDK"]);
}

/// Version 3 of a state that was a plain number in version 2.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Named {
    name: String,
    total: u64,
}

#[crate::workload]
impl Workload for Named {
    type Transaction = ();
    type Reply = ();
    const STATE_VERSION: u32 = 3;

    fn execute(&mut self, _: &Context, (): ()) -> Result<(), String> {
        Ok(())
    }

    fn migrate(version: u32, state: StateReader) -> Result<Self, String> {
        match version {
            2 => Ok(Self { name: "from 2".to_owned(), total: state.read()? }),
            _ => Err(format!("version {version} is forgotten")),
        }
    }
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Plain;

#[crate::workload]
impl Workload for Plain {
    type Transaction = ();
    type Reply = ();
    const STATE_VERSION: u32 = 2;

    fn execute(&mut self, _: &Context, (): ()) -> Result<(), String> {
        Ok(())
    }
}

#[test]
fn older_state_is_migrated() {
    let migrated = restore::<Named>(2, StateReader::from(saved(&500u64)));
    assert_eq!(migrated, Ok(Named { name: "from 2".to_owned(), total: 500 }));
    assert_eq!(restore::<Named>(1, StateReader::from(vec![])), Err("version 1 is forgotten".to_owned()));
}

#[test]
fn migration_must_read_to_the_end() {
    let reason = restore::<Named>(2, StateReader::from(vec![1, 2])).expect_err("a byte is left");
    assert!(reason.contains("goes on after its end"), "{reason}");
}

#[test]
fn older_state_without_a_migration_is_refused_with_both_versions() {
    let reason = restore::<Plain>(1, StateReader::from(vec![])).expect_err("nobody can read it");
    assert_eq!(
        reason,
        "state has version 1, this workload reads only version 2: implement `Workload::migrate` to read older ones"
    );
}

#[test]
fn newer_state_is_refused_without_reading_it() {
    let reads = Rc::new(Cell::new(0));
    let source = Drip { bytes: std::io::Cursor::default(), sizes: vec![1], reads: Rc::clone(&reads) };
    let reason = restore::<Named>(4, StateReader::new(source)).expect_err("it is from the future");
    assert_eq!(reason, "state has version 4, this workload reads up to version 3: use the newer build that wrote it");
    assert_eq!(reads.get(), 0);
}

#[test]
fn bytes_of_a_foreign_state_can_be_read_as_they_are() {
    let mut text = String::new();
    drip(b"plain text".to_vec(), vec![3]).read_to_string(&mut text).expect("it is UTF-8");
    assert_eq!(text, "plain text");
}
