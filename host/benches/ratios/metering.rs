//! What counting fuel, and giving way by it, costs a guest that computes.

use crate::bare::{BareTask, link};
use crate::pairs::Pairs;
use crate::report::Row;
use crate::served::Served;

const PAIRS: usize = 21;

/// Some tens of milliseconds each.
const JOBS: [(&str, &[u8]); 3] = [
    ("metering, sieve", br#"{"primes":{"below":5000000}}"#),
    ("metering, SHA-256", br#"{"sha256":{"bytes":4194304}}"#),
    ("metering, JSON round trip", br#"{"json":{"records":5000}}"#),
];

/// The jobs of `crunch` on the host's engine, and on one that does not consume fuel but is configured alike.
pub(crate) fn metering() -> Vec<Row> {
    let served = Served::new();
    let program = served.compile("crunch.wasm");
    let component = &program.workload().component;
    let metered = BareTask::start(&link(program.engine(), component), true);
    let mut config = program.engine().config().clone();
    config.consume_fuel(false);
    let unmetered_engine = wasmtime::Engine::new(&config).expect("an engine without fuel");
    let unmetered = BareTask::start(&link(&unmetered_engine, component), false);

    let measured =
        JOBS.map(|(_, body)| Pairs::measure(PAIRS, 1, || metered.execute(body, 1), || unmetered.execute(body, 1)));
    let mean = Pairs::geometric_mean(&measured);
    let row = |name, pairs, target| Row { name, a: "fuel, yields", b: "neither", pairs, target };
    let mut rows: Vec<Row> = JOBS.iter().zip(measured).map(|((name, _), pairs)| row(name, pairs, None)).collect();
    rows.push(row("metering, geometric mean", mean, Some(1.2)));
    rows
}
