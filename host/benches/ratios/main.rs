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
//! [`shadow`]. [`served`] is a host with services, [`ledger`] a client of one, [`bare`] and [`disk`] the controls,
//! [`pairs`] and [`cpu`] the measuring, [`report`] the table.

mod bare;
mod cpu;
mod disk;
mod durable;
mod failover;
mod ledger;
mod metering;
mod pairs;
mod panics;
mod ready;
mod report;
mod served;
mod shadow;
mod transaction;

use report::Row;

/// An experiment's name and what measures it.
type Experiment = (&'static str, fn() -> Vec<Row>);

const EXPERIMENTS: [Experiment; 12] = [
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
];

fn main() {
    // Cargo passes `--bench`; options are not names.
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    report::print_header();
    for (_, measure) in EXPERIMENTS.iter().filter(|(name, _)| name.contains(&filter)) {
        measure().iter().for_each(Row::print);
    }
}
