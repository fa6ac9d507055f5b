//! Ledger transfers per second, compared with the stores that would otherwise hold a ledger:
//! `cargo bench -p lifeboat --bench peers`.
//!
//! There are [`ACCOUNTS`] accounts. A transfer moves one unit between two random ones, and counts once its answer
//! arrives. No system answers before the transfer is durable. A client has one request in flight. At the end of each
//! turn, the balances must still sum to the initial total, or the run fails.
//!
//! Every turn of a system starts in an empty directory of the same disk, warms up, measures, and leaves no process
//! running. The systems take turns, so that a busy machine slows all of them, and a figure is the median of its turns.
//! Nothing here fails for being slow: `docs/benchmarks.md` explains how to interpret the figures.
//!
//! Each system is a file: [`raw_log`], the control; [`mod@lifeboat`], in this process; [`http`], its server with and
//! without batches; [`postgresql`]; [`redis`]. [`server`] starts and stops programs, [`scratch`] creates the
//! directories for their data, and [`machine`] and [`report`] print the result. Nothing is installed: a missing program
//! is reported with its Debian packages and exit code 2, as is a wrong command line. The exit code of any other failure
//! is 1.

mod http;
mod lifeboat;
mod machine;
mod postgresql;
mod raw_log;
mod redis;
mod report;
mod scratch;
mod server;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use machine::Machine;
use mimalloc::MiMalloc;
use report::{Cell, Report};
use scratch::Scratch;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// The allocator of the `lifeboat` command.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The number of accounts, each of which starts with [`BALANCE`].
const ACCOUNTS: u16 = 1000;

/// The initial balance of an account: far more than a turn could withdraw.
const BALANCE: u64 = 1_000_000;

/// The sum of all balances, before and after.
const TOTAL: u64 = ACCOUNTS as u64 * BALANCE;

/// The time for which transfers run before any is counted.
const WARM_UP: Duration = Duration::from_secs(2);

/// A store that can hold a ledger.
struct System {
    name: &'static str,
    /// Returns the name and version of the program, or an error with the missing packages.
    version: fn() -> Result<String>,
    /// Sets up in an empty directory, warms up, and lets so many clients make transfers for the duration. Returns the
    /// number that became durable per second. Fails if the total of the balances changed.
    transfers_per_second: fn(&Path, usize, Duration) -> Result<f64>,
}

/// The systems, in the order of a turn and of the table's columns.
const SYSTEMS: &[System] = &[
    System { name: "raw log", version: raw_log::version, transfers_per_second: raw_log::transfers_per_second },
    System { name: "Lifeboat", version: lifeboat::version, transfers_per_second: lifeboat::transfers_per_second },
    System { name: "Lifeboat HTTP", version: http::version, transfers_per_second: http::by_request },
    System { name: "Lifeboat batch", version: http::version, transfers_per_second: http::by_batch },
    System { name: "PostgreSQL", version: postgresql::version, transfers_per_second: postgresql::transfers_per_second },
    System { name: "Redis", version: redis::version, transfers_per_second: redis::transfers_per_second },
];

/// Measures ledger transfers per second, each durable before it is answered.
#[derive(Parser)]
#[command(name = "peers")]
struct Arguments {
    /// Measure only the systems whose name contains this
    #[arg(default_value = "", hide_default_value = true)]
    name: String,
    /// Where every system keeps its data, in a directory that is removed in the end [default: one in `target`]
    #[arg(long, value_name = "DIR", default_value = env!("CARGO_TARGET_TMPDIR"), hide_default_value = true)]
    directory: PathBuf,
    /// How long a turn is measured, in seconds
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// How often each system is measured with each number of clients
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    turns: u64,
    /// How many clients, each with one request in flight
    #[arg(long, value_name = "N,N", default_value = "1,16,64,256", value_delimiter = ',')]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1000))]
    clients: Vec<u16>,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    /// Cargo passes it
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let prepared = match prepare(&arguments) {
        Ok(prepared) => prepared,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::from(2);
        }
    };
    match measure(&arguments, prepared) {
        Ok(report) if arguments.json => report.print_json(),
        Ok(report) => report.print_table(),
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// The systems to measure, and the machine.
struct Prepared {
    machine: Machine,
    systems: Vec<(&'static System, String)>,
}

/// Finds everything that the run needs, so that it does not fail halfway.
fn prepare(arguments: &Arguments) -> Result<Prepared> {
    let name = arguments.name.to_lowercase();
    let mut systems = Vec::new();
    let mut missing = Vec::new();
    for system in SYSTEMS.iter().filter(|system| system.name.to_lowercase().contains(&name)) {
        match (system.version)() {
            Ok(version) => systems.push((system, version)),
            Err(error) => missing.push(format!("{}: {error:#}", system.name)),
        }
    }
    ensure!(missing.is_empty(), "{}", missing.join("\nerror: "));
    ensure!(!systems.is_empty(), "no system has a name that contains `{}`", arguments.name);
    let machine = Machine::look(&arguments.directory)?;
    ensure!(
        !["tmpfs", "ramfs"].contains(&machine.file_system.as_str()),
        "`{}` is a {}, where nothing is durable: choose another with --directory",
        arguments.directory.display(),
        machine.file_system
    );
    Ok(Prepared { machine, systems })
}

/// Measures all systems, in turns.
fn measure(arguments: &Arguments, prepared: Prepared) -> Result<Report> {
    let mut cells = Vec::new();
    for clients in arguments.clients.iter().copied().map(usize::from) {
        let mut per_system = vec![Vec::new(); prepared.systems.len()];
        for turn in 1..=arguments.turns {
            for ((system, _), turns) in prepared.systems.iter().zip(&mut per_system) {
                let directory = Scratch::create_in(&arguments.directory)?;
                let duration = Duration::from_secs(arguments.seconds);
                let rate = (system.transfers_per_second)(directory.path(), clients, duration)
                    .with_context(|| format!("{} with {clients} clients", system.name))?;
                eprintln!("{clients} clients, turn {turn}, {}: {rate:.0} transfers/s", system.name);
                turns.push(rate);
            }
        }
        let measured = prepared.systems.iter().zip(per_system);
        cells.extend(measured.map(|((system, _), turns)| Cell { system: system.name, clients, turns }));
    }
    let systems = prepared.systems.into_iter().map(|(system, version)| (system.name, version)).collect();
    Ok(Report { machine: prepared.machine, seconds: arguments.seconds, systems, cells })
}
