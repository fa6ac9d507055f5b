//! What a service that spins, and fails over and over, does to the one beside it.

use crate::pairs::Turns;
use crate::report::Row;
use crate::served::{Served, anonymous};
use lifeboat::transaction::Request;
use std::time::Duration;

/// The neighbour's, one after another, in one turn.
const TRANSACTIONS: u32 = 10_000;

const PAIRS: usize = 31;

/// Iterations of the loop of each transaction of the service that spins: some 10 ms.
const SPIN: &[u8] = b"20000000";

/// So many of them use a VM up. A turn without a failover does not count.
const SPINS_PER_VM: u64 = 3;

/// The hundredth part of a neighbour's transactions that waits the longest waits at least that long.
pub(crate) fn neighbour() -> Vec<Row> {
    let served = Served::new();
    served.start("neighbour", &served.compile("count.wat"));
    let work = served.compile("work.wat");
    served.start("probe", &work);
    let fuel_per_spin = served.transact("probe", [anonymous(SPIN)], 1).fuel_used;
    served.start_with_fuel("spins", &work, SPINS_PER_VM * fuel_per_spin);

    let requests = || (0..TRANSACTIONS).map(|_| anonymous(b"1".as_slice()));
    let none = std::iter::empty::<Request>();
    let turn = |_| {
        let before = served.failovers();
        let spins = std::iter::repeat_with(|| anonymous(SPIN));
        let beside = p99(served.latencies_beside("neighbour", requests(), "spins", spins));
        let failed_over = served.failovers() > before;
        let alone = p99(served.latencies_beside("neighbour", requests(), "spins", none.clone()));
        failed_over.then_some((beside, alone))
    };
    let pairs = Turns::of((0..PAIRS).map(turn)).pairs(1, |pair| *pair);
    let (a, b) = ("another spins and fails over", "alone");
    vec![Row { name: "p99 of a neighbour, one at a time", a, b, pairs, target: None }]
}

fn p99(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    took[took.len() * 99 / 100]
}
