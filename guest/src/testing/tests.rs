use std::cell::Cell;
use std::collections::HashSet;

use super::*;
use crate::prelude::*;

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Counter {
    total: i64,
}

#[workload]
impl Workload for Counter {
    type Transaction = i64;
    type Reply = (i64, u64);
    type Query = ();
    type Answer = i64;

    fn execute(&mut self, context: &Context, add: i64) -> Result<(i64, u64), String> {
        self.total = self.total.checked_add(add).ok_or("too much")?;
        Ok((self.total, context.sequence))
    }

    fn query(&self, _: &Context, (): ()) -> Result<i64, String> {
        Ok(self.total)
    }
}

/// Forgets a part of its state in a failover.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Forgetful {
    #[serde(skip)]
    total: i64,
}

#[workload]
impl Workload for Forgetful {
    type Transaction = i64;
    type Reply = i64;

    fn execute(&mut self, _: &Context, add: i64) -> Result<i64, String> {
        self.total += add;
        Ok(self.total)
    }
}

/// Exports a hashed set.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Hashed(HashSet<u64>);

#[workload]
impl Workload for Hashed {
    type Transaction = ();
    type Reply = ();

    fn execute(&mut self, _: &Context, (): ()) -> Result<(), String> {
        self.0.extend(0..1000);
        Ok(())
    }
}

#[test]
fn chunks_return_all_bytes_in_pieces_of_their_size() {
    let mut chunks = Chunks::new(*b"abcdefgh", 3);
    let read: Vec<Vec<u8>> = std::iter::from_fn(|| Some(chunks.read(100)).filter(|chunk| !chunk.is_empty())).collect();
    assert_eq!(read, [&b"abc"[..], b"def", b"gh"]);
    assert_eq!(Chunks::new(*b"abcdefgh", 100).read(2), b"ab");
}

#[test]
fn service_has_users_sequences_and_time() {
    thread_local! { static SEEN: Cell<u64> = const { Cell::new(0) }; }
    #[derive(Debug, Default, Serialize, Deserialize)]
    struct Clock;
    #[workload]
    impl Workload for Clock {
        type Transaction = ();
        type Reply = (String, String, u64, u64);
        fn execute(&mut self, context: &Context, (): ()) -> Result<Self::Reply, String> {
            let Context { id, user, sequence, timestamp } = context.clone();
            let since = timestamp - SEEN.replace(timestamp);
            Ok((id, user, sequence, since))
        }
    }
    let mut service = Service::<Clock>::new();
    assert_eq!(service.execute("null"), Ok("[\"test-1\",\"ann\",1,1735689600000000000]".to_owned()));
    service.set_user("bob");
    service.advance(Duration::from_secs(9));
    assert_eq!(service.execute("null"), Ok("[\"test-2\",\"bob\",2,10000000000]".to_owned()));
}

#[test]
fn failovers_of_a_good_workload_are_invisible() {
    assert_failovers_are_invisible::<Counter>(&["1", "\"one\"", "9223372036854775807", "2"], &["null"]);
    let mut service = Service::<Counter>::failing_over();
    assert_eq!(service.execute("5"), Ok("[5,1]".to_owned()));
    assert_eq!(service.query("null"), Ok("5".to_owned()));
    assert_eq!(service.state(), &Counter { total: 5 });
}

#[test]
#[should_panic(expected = "a failover changes the reply to 2: is all of the state exported?")]
fn state_that_is_not_exported_is_found() {
    assert_failovers_are_invisible::<Forgetful>(&["1", "2"], &[]);
}

#[test]
#[should_panic(expected = "the order of a hashed collection")]
fn hashed_order_in_a_snapshot_is_found() {
    assert_failovers_are_invisible::<Hashed>(&["null"], &[]);
}

#[test]
fn state_of_another_version_is_refused() {
    let bytes = snapshot(&Counter { total: 5 });
    assert_eq!(restore(1, &bytes), Ok(Counter { total: 5 }));
    let newer = restore::<Counter>(2, &bytes).expect_err("it is newer");
    assert!(newer.contains("version 2"), "{newer}");
}

#[test]
fn shape_is_readable() {
    assert_eq!(shape::<Counter>(), "{total:i64}");
}
