//! The cost of panics for the transactions around them: each is a rollback, whose replays must stay bounded.

use crate::pairs::{PAIRS_MIN, Pairs};
use crate::report::Row;
use crate::served::{Served, anonymous};
use bytes::Bytes;
use lifeboat_api::transaction::Request;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use std::time::Duration;

const TRANSACTIONS: u32 = 100_000;

const PANICS: usize = 1_000;

const SEED: u64 = 7;

/// Measures a counter with a thousand overflows among a hundred thousand transactions, at positions that the seed
/// chooses. It is compared with a counter without overflows.
pub(crate) fn panics() -> Vec<Row> {
    let served = Served::new();
    let program = served.compile("counter.wasm");
    for service in ["panics", "counts"] {
        served.start(service, &program);
        // From here on the total is above zero, so adding the largest number overflows it.
        served.transact(service, vec![add("1")], 1);
    }
    let mut random = ChaCha20Rng::seed_from_u64(SEED);
    let panicking = || {
        let mut bodies = vec!["1"; TRANSACTIONS as usize];
        for place in rand::seq::index::sample(&mut random, bodies.len(), PANICS) {
            bodies[place] = "9223372036854775807";
        }
        run(&served, "panics", bodies, PANICS)
    };
    let counting = || run(&served, "counts", vec!["1"; TRANSACTIONS as usize], 0);
    let pairs = Pairs::measure(PAIRS_MIN, TRANSACTIONS, panicking, counting);
    let (a, b) = ("1,000 panics among 100,000", "the same without panics");
    vec![Row { name: "transaction, counter", a, b, pairs, target: Some(3.0) }]
}

fn run(served: &Served, service: &str, bodies: Vec<&str>, failures: usize) -> Duration {
    let requests: Vec<Request> = bodies.into_iter().map(add).collect();
    let answered = served.transact(service, requests, 256);
    assert_eq!(answered.failed, failures, "what panics fails, and nothing else does");
    answered.elapsed
}

fn add(number: &str) -> Request {
    anonymous(Bytes::from(format!(r#"{{"add":{number}}}"#)))
}
