//! The effect on a neighbour of services that spin, fail over again and again, or call the host without end.

use crate::pairs::Turns;
use crate::report::Row;
use crate::served::{Served, anonymous};
use std::time::Duration;

/// The number of the neighbour's transactions in one turn, one after another.
pub(crate) const TRANSACTIONS: u32 = 10_000;

const PAIRS: usize = 31;

/// The loop iterations of each transaction of the spinning service: some 10 ms.
const SPIN: &[u8] = b"20000000";

/// The number of such transactions that exhaust a VM. A turn without a failover does not count.
const SPINS_PER_VM: u64 = 3;

/// The body with which `two-host-calls.wat` calls the host in an endless loop.
const FLOOD: &[u8] = b"boom";

/// The fuel of each such transaction: some 30 ms of calls.
const FLOOD_FUEL: u64 = 20_000_000;

/// The services that call the host: as many as a machine with two processors has threads for guests.
const FLOODS: [&str; 2] = ["flood-1", "flood-2"];

/// Measures the 99th percentile of the neighbour's latencies.
pub(crate) fn neighbour() -> Vec<Row> {
    let served = Served::new();
    served.start("neighbour", &served.compile("count.wat"));
    let work = served.compile("work.wat");
    served.start("probe", &work);
    let fuel_per_spin = served.transact("probe", [anonymous(SPIN)], 1).fuel_used;
    served.start_with_fuel("spins", &work, SPINS_PER_VM * fuel_per_spin);
    let calls = served.compile("two-host-calls.wat");
    for flood in FLOODS {
        served.start_with_fuel(flood, &calls, FLOOD_FUEL);
    }

    let requests = || (0..TRANSACTIONS).map(|_| anonymous(b"1".as_slice()));
    let took = |beside: &[(&str, &'static [u8])]| p99(served.latencies_beside("neighbour", requests(), beside));
    let turn = |_| {
        let before = served.failovers();
        let beside = took(&[("spins", SPIN)]);
        let failed_over = served.failovers() > before;
        let alone = took(&[]);
        failed_over.then_some((beside, alone))
    };
    let pairs = Turns::of((0..PAIRS).map(turn)).pairs(1, |pair| *pair);
    let flooded = (0..PAIRS).map(|_| Some((took(&FLOODS.map(|flood| (flood, FLOOD))), took(&[]))));
    let flooded = Turns::of(flooded).pairs(1, |pair| *pair);
    let row = |a, pairs| Row { name: "p99 of a neighbour, one at a time", a, b: "alone", pairs, target: None };
    vec![row("another spins and fails over", pairs), row("two call the host in endless loops", flooded)]
}

pub(crate) fn p99(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    took[took.len() * 99 / 100]
}
