//! What a service costs, as ratios to the least that the same work could cost: `cargo bench -p lifeboat`.
//!
//! Each ratio sets two strategies side by side in one run, interleaved A B A B, so that a busy machine slows both; the
//! figure is the median over at least [`pairs::PAIRS_MIN`] pairs of the ratio within a pair. Set-up is outside of the
//! timed part, random choices come from a fixed seed, and nothing here fails for being slow: the targets are printed
//! beside the figures, and `docs/benchmarks.md` says what to make of them.
//!
//! `cargo bench -p lifeboat --bench ratios -- NAME` measures the experiments whose name contains `NAME`.
//!
//! Each experiment is a file: [`transaction`], [`metering`], [`ready`], [`failover`], [`panics`], [`durable`],
//! [`shadow`], [`http`], [`neighbour`], [`idle`]. [`served`] is a host with services, [`ledger`] a client of one, [`bare`]
//! and [`disk`] the controls, [`pairs`] and [`cpu`] the measuring, [`child`] this program as a process of its own,
//! [`report`] the table.

mod bare;
mod child;
mod cpu;
mod disk;
mod durable;
mod failover;
mod http;
mod idle;
mod ledger;
mod metering;
mod neighbour;
mod pairs;
mod panics;
mod ready;
mod report;
mod served;
mod shadow;
mod transaction;

use mimalloc::MiMalloc;
use report::Row;

/// That of the command.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// An experiment's name and what measures it.
type Experiment = (&'static str, fn() -> Vec<Row>);

const EXPERIMENTS: [Experiment; 15] = [
    ("transaction-trivial", transaction::trivial),
    ("transaction-with-ids", transaction::with_ids),
    ("transaction-one-at-a-time", transaction::one_at_a_time),
    ("transaction-10us", transaction::working),
    ("metering", metering::metering),
    ("vm-ready", ready::ready),
    ("failover", failover::failover),
    ("panics", panics::panics),
    ("durable-throughput", durable::throughput),
    ("durable-latency", durable::latency),
    ("durable-recovery", durable::recovery),
    ("shadow", shadow::shadow),
    ("http", http::http),
    ("neighbour", neighbour::neighbour),
    ("idle", idle::idle),
];

/// What a child is by its name.
const CHILDREN: [(&str, fn()); 5] = [
    (http::SERVICE, http::serve_service),
    (http::ECHO, http::serve_echo),
    (idle::SERVICES, || idle::with_services(idle::COUNT)),
    (idle::NO_SERVICES, || idle::with_services(0)),
    (idle::INSTANCES, idle::with_instances),
];

fn main() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(child::ARGUMENT) {
        let name = arguments.next().unwrap_or_default();
        let (_, be) = CHILDREN.iter().find(|(child, _)| *child == name).expect("the name of a child");
        return be();
    }
    // Cargo passes `--bench`; options are not names.
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    report::print_header();
    for (_, measure) in EXPERIMENTS.iter().filter(|(name, _)| name.contains(&filter)) {
        measure().iter().for_each(Row::print);
    }
}
