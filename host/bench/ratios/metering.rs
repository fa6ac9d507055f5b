//! The cost of counting fuel, and of the yields that it causes, for a guest that computes. It is measured in CPU time.

use crate::bare::{Bare, link};
use crate::cpu::time_of_this_thread;
use crate::pairs::Pairs;
use crate::report::Row;
use crate::served::Served;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use wasmtime::component::InstancePre;

const PAIRS: usize = 21;

/// The jobs, which take some tens of milliseconds each.
const JOBS: [(&str, &[u8]); 3] = [
    ("metering, sieve", br#"{"primes":{"below":5000000}}"#),
    ("metering, SHA-256", br#"{"sha256":{"bytes":4194304}}"#),
    ("metering, JSON round trip", br#"{"json":{"records":5000}}"#),
];

/// Measures the jobs of `crunch` on the host's engine, and on an engine with the same configuration except for fuel.
pub(crate) fn metering() -> Vec<Row> {
    let served = Served::new();
    let program = served.compile("crunch.wasm");
    let component = &program.workload().component;
    let mut metered = Crunch::start(&link(program.engine(), component), true);
    let mut config = program.engine().config().clone();
    config.consume_fuel(false);
    let unmetered_engine = wasmtime::Engine::new(&config).expect("an engine without fuel");
    let mut unmetered = Crunch::start(&link(&unmetered_engine, component), false);

    let measured = JOBS.map(|(_, body)| Pairs::measure(PAIRS, 1, || metered.execute(body), || unmetered.execute(body)));
    let mean = Pairs::geometric_mean(&measured);
    let row = |name, pairs, target| Row { name, a: "fuel, yields", b: "neither", pairs, target };
    let mut rows: Vec<Row> = JOBS.iter().zip(measured).map(|((name, _), pairs)| row(name, pairs, None)).collect();
    rows.push(row("metering, geometric mean", mean, Some(1.2)));
    rows
}

/// An instance of `crunch` on this thread.
struct Crunch {
    runtime: Runtime,
    bare: Bare,
}

impl Crunch {
    fn start(pre: &InstancePre<()>, is_metered: bool) -> Self {
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        let bare = runtime.block_on(Bare::instantiate(pre, is_metered));
        Self { runtime, bare }
    }

    /// Runs one job and returns its CPU time.
    fn execute(&mut self, body: &'static [u8]) -> Duration {
        let start = time_of_this_thread();
        self.runtime.block_on(self.bare.execute(body));
        time_of_this_thread() - start
    }
}
