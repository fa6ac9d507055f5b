//! What a service that spins, and fails over and over, does to the one beside it.

use crate::pairs::Pairs;
use crate::report::Row;
use crate::served::{Served, anonymous};
use lifeboat::transaction::Request;
use std::time::Duration;

/// The neighbour's, one after another, in one turn.
const TRANSACTIONS: u32 = 2_000;

const PAIRS: usize = 21;

/// Iterations of the loop of each transaction of the service that spins: some 10 ms.
const SPIN: &[u8] = b"20000000";

/// So many of them use a VM up.
const SPINS_PER_VM: u64 = 10;

/// The hundredth part of a neighbour's transactions that waits the longest waits at least that long.
pub(crate) fn neighbour() -> Vec<Row> {
    let served = Served::new();
    served.start("neighbour", &served.compile("count.wat"));
    let work = served.compile("work.wat");
    served.start("probe", &work);
    let fuel_per_spin = served.transact("probe", [anonymous(SPIN)], 1).fuel_used;
    served.start_with_fuel("spins", &work, SPINS_PER_VM * fuel_per_spin);

    let requests = || (0..TRANSACTIONS).map(|_| anonymous(b"1".as_slice()));
    let mut turns_without_failover = 0;
    let beside = || {
        let before = served.failovers();
        let spins = std::iter::repeat_with(|| anonymous(SPIN));
        let took = served.latencies_beside("neighbour", requests(), "spins", spins);
        turns_without_failover += u32::from(served.failovers() == before);
        p99(took)
    };
    let none = std::iter::empty::<Request>();
    let alone = || p99(served.latencies_beside("neighbour", requests(), "spins", none.clone()));
    let pairs = Pairs::measure(PAIRS, 1, beside, alone);
    assert_eq!(turns_without_failover, 0, "turns in which the service that spins did not fail over");
    let (a, b) = ("another spins and fails over", "alone");
    vec![Row { name: "p99 of a neighbour, one at a time", a, b, pairs, target: None }]
}

fn p99(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    took[took.len() * 99 / 100]
}
