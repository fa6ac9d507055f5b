//! The cost of a service as ratios to the minimum cost of the same work: `cargo bench -p lifeboat`.
//!
//! Each ratio compares two strategies in one run, interleaved A B A B, so that a busy machine slows both. The figure is
//! the median over at least [`pairs::PAIRS_MIN`] pairs of the ratio within a pair. Setup is outside the timed part, and
//! random choices come from a fixed seed. Nothing here fails for being slow: the targets are printed beside the
//! figures, and `docs/benchmarks.md` explains how to interpret them.
//!
//! `cargo bench -p lifeboat --bench ratios -- NAME` measures the experiments whose name contains `NAME`.
//!
//! Each experiment is a file: [`transaction`], [`metering`], [`ready`], [`failover`], [`panics`], [`durable`],
//! [`relocation`], [`shadow`], [`virtual_disk`], [`streams`], [`charges`], [`full_disk`], [`http`], [`neighbour`],
//! [`idle`], [`programs`], [`network`]. [`served`] is a host with services, [`ledger`] is a client of one, and [`guests`] makes guests
//! with files. [`bare`] and [`disk`] are the controls, [`pairs`] and [`cpu`] take the measurements, [`child`] runs this
//! program as a separate process, and [`report`] prints the table.

mod bare;
mod charges;
mod child;
mod cpu;
mod disk;
mod durable;
mod failover;
mod full_disk;
mod guests;
mod http;
mod idle;
mod ledger;
mod metering;
mod neighbour;
mod network;
mod pairs;
mod panics;
mod programs;
mod ready;
mod relocation;
mod report;
mod served;
mod shadow;
mod streams;
mod transaction;
mod virtual_disk;

use mimalloc::MiMalloc;
use report::Row;

/// The allocator of the `lifeboat` command.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// An experiment's name and the function that measures it.
type Experiment = (&'static str, fn() -> Vec<Row>);

const EXPERIMENTS: [Experiment; 29] = [
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
    ("relocation", relocation::relocation),
    ("shadow", shadow::shadow),
    ("disk-copy", virtual_disk::copies),
    ("disk-snapshot", virtual_disk::snapshots),
    ("disk-streams", streams::streams),
    ("disk-charges", charges::charges),
    ("disk-failover", virtual_disk::failovers),
    ("disk-memory", full_disk::memory),
    ("http", http::http),
    ("neighbour", neighbour::neighbour),
    ("idle", idle::idle),
    ("program-run", programs::run),
    ("program-sqlite", programs::sqlite),
    ("program-metering", programs::metering),
    ("network-call", network::call),
    ("network-at-once", network::at_once),
    ("network-replay", network::replay),
    ("network-neighbour", network::neighbour),
];

/// The roles of a child, by name.
const CHILDREN: [(&str, fn()); 9] = [
    (http::SERVICE, http::serve_service),
    (http::ECHO, http::serve_echo),
    (idle::SERVICES, || idle::with_services(idle::COUNT)),
    (idle::NO_SERVICES, || idle::with_services(0)),
    (idle::INSTANCES, idle::with_instances),
    (full_disk::NOTHING, || full_disk::hold(full_disk::nothing)),
    (full_disk::ONE_FILE, || full_disk::hold(full_disk::one_file)),
    (full_disk::SMALL_FILES, || full_disk::hold(full_disk::small_files)),
    (full_disk::EMPTY_FILES, || full_disk::hold(full_disk::empty_files)),
];

fn main() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(child::ARGUMENT) {
        let name = arguments.next().unwrap_or_default();
        let (_, be) = CHILDREN.iter().find(|(child, _)| *child == name).expect("the name of a child");
        return be();
    }
    // Cargo passes `--bench`, so arguments that are options are not names.
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    report::print_header();
    for (_, measure) in EXPERIMENTS.iter().filter(|(name, _)| name.contains(&filter)) {
        measure().iter().for_each(Row::print);
    }
}
