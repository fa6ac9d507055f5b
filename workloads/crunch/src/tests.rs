use lifeboat_guest::{dispatch, testing};

use super::*;

fn run(crunch: &mut Crunch, transaction: &str) -> Result<String, String> {
    dispatch::execute(crunch, &Context::default(), transaction.as_bytes())
        .map(|reply| String::from_utf8(reply).expect("JSON is UTF-8"))
}

#[test]
fn primes_are_counted() {
    for (below, primes) in
        [(0, 0), (2, 0), (3, 1), (4, 2), (5, 2), (10, 4), (1000, 168), (65_538, 6543), (1_000_000, 78_498)]
    {
        assert_eq!(primes_below(below), primes, "below {below}");
    }
}

#[test]
fn pattern_is_hashed_whole_across_blocks() {
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(hex(&sha256_of_pattern(0)), empty);
    for bytes in [1u32, 250, 251, 252, 4015, 4016, 4017, 20_000] {
        let pattern: Vec<u8> = (0..bytes).map(|i| (i % 251) as u8).collect();
        assert_eq!(sha256_of_pattern(bytes), <[u8; 32]>::from(Sha256::digest(pattern)), "{bytes} bytes");
    }
}

#[test]
fn checksum_depends_on_every_record() {
    assert_eq!(json_checksum(0), 0xcbf2_9ce4_8422_2325);
    assert_ne!(json_checksum(99), json_checksum(100));
    assert_eq!(json_checksum(100), json_checksum(100));
}

#[test]
fn sizes_over_their_bound_are_refused_without_a_change() {
    let mut crunch = Crunch::default();
    for (transaction, reason) in [
        (r#"{"primes":{"below":10000001}}"#, "below is 10000001, limit is 10000000"),
        (r#"{"sha256":{"bytes":67108865}}"#, "bytes is 67108865, limit is 67108864"),
        (r#"{"json":{"records":20001}}"#, "records is 20001, limit is 20000"),
    ] {
        assert_eq!(run(&mut crunch, transaction), Err(reason.to_owned()));
    }
    assert_eq!(crunch, Crunch::default());
}

#[test]
fn summary_digests_the_replies_of_all_jobs() {
    let mut crunch = Crunch::default();
    assert_eq!(run(&mut crunch, r#"{"primes":{"below":1000}}"#).as_deref(), Ok(r#"{"primes":168}"#));
    let digest = Sha256::new_with_prefix([0; 32]).chain_update(r#"{"primes":168}"#).finalize();
    let answer = dispatch::query(&crunch, &Context::default(), br#""summary""#).expect("it is a query");
    let summary: Summary = serde_json::from_slice(&answer).expect("it is a summary");
    assert_eq!(summary, Summary { jobs: 1, digest: hex(&digest) });
}

#[test]
fn sample_survives_a_move_after_every_line() {
    let mut crunch = Crunch::default();
    let (mut jobs, mut refused) = (0, 0);
    for line in include_str!("../../crunch.transactions.jsonl").lines() {
        match run(&mut crunch, line) {
            Ok(_) => jobs += 1,
            Err(_) => refused += 1,
        }
        let moved = testing::moved(&crunch);
        assert_eq!(moved, crunch);
        crunch = moved;
    }
    assert_eq!(crunch.jobs, jobs);
    assert!(refused > 3);
}
