use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::rc::Rc;

use proptest::prelude::*;
use serde::Deserialize;

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

fn saved<T: Serialize>(value: &T) -> Vec<u8> {
    let mut chunks = Chunks::default();
    save(value, &mut chunks).expect("it has an encoding");
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
        prop_assert_eq!(&bytes, &postcard::to_stdvec(&value).expect("it has an encoding"));
        prop_assert_eq!(drip(bytes, sizes).read::<Everything>(), Ok(value));
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
    save(&(0..200_000u32).collect::<Vec<_>>(), &mut chunks).expect("it has an encoding");
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
    let mut bytes = saved(&count)[..].to_vec();
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

    let mut gathered = Vec::new();
    let mut input = StateReader::from(bytes.clone());
    assert!(input.gather(u32::MAX as usize, &mut gathered).is_err());
    assert!(gathered.capacity() < 300_000, "{} bytes", gathered.capacity());

    // serde bounds a sequence: its initial capacity is at most 1 MiB for any announced length.
    assert!(StateReader::from(bytes).read::<Vec<String>>().is_err());
}

#[test]
fn bytes_after_the_state_are_refused() {
    let mut bytes = saved(&7u64);
    bytes.push(0);
    for size in [1, 100] {
        let reason = drip(bytes.clone(), vec![size]).read::<u64>();
        assert_eq!(reason, Err("cannot read the state: it goes on after its end at byte 1".to_owned()));
    }
}

#[test]
fn state_without_an_encoding_is_refused() {
    struct Unsized;
    impl Serialize for Unsized {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq((0..5).filter(|i| i % 2 == 0))
        }
    }
    let reason = save(&Unsized, &mut Vec::new()).expect_err("its length is unknown");
    assert!(reason.starts_with("cannot write the state: "), "{reason}");
}

#[test]
fn self_describing_state_is_refused_with_a_remedy() {
    #[derive(Debug, Serialize, Deserialize)]
    struct Profile {
        name: String,
        extra: serde_json::Value,
    }
    let bytes = saved(&Profile { name: "ann".into(), extra: serde_json::json!({"a": [1]}) });
    let reason = StateReader::from(bytes).read::<Profile>().expect_err("postcard does not say what follows");
    for words in ["`Profile`", "at byte 4", "serde_json::Value", "keep JSON as a String"] {
        assert!(reason.contains(words), "`{words}` is not in: {reason}");
    }
    // The host shows no more than this of the reason.
    assert!(reason.len() <= 200, "{} bytes", reason.len());
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
