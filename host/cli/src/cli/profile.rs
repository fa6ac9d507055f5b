//! `lifeboat profile`: shows which functions of a workload burn its fuel, and what its transactions need.

use super::run::counted;
use super::sample::{Sample, UnstartableWorkload, made, with_progress};
use super::{UsageError, code_cache, exit, help, is_pipe_open, load_workload};
use clap::Args;
use lifeboat_api::lines::json_lines;
use lifeboat_api::size::{BytesBeside, Size, grouped};
use lifeboat_api::text::{of_system, plain};
use lifeboat_api::transaction::Outcome;
use lifeboat_check::{Guest, Profile as Found, Spent};
use lifeboat_profile::{Row, folded, shortened, svg, table};
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The columns of the tables without a terminal, and the fewest on one.
const COLUMNS: usize = 80;

/// The columns of a number of fuel.
const FUEL_COLUMNS: usize = 15;

const AFTER_HELP: &str = "\
The transactions run twice: once as they are, and once while the stack of the guest is looked at. Then each query of an
envelope, and each --query, is asked once. own is the fuel that a function burnt itself, total the fuel with everything
that it called. (host) is what the host charged for its functions. docs/profile.md describes how exact that is.

A line of FILE is the body of a transaction, or with --envelope a JSON object, as lifeboat run reads it. A program runs
once for each transaction.

Time and random numbers are the same in each run of the command, and so is its output. No server is called: requests
get status 200 and {}.

Example:
  lifeboat profile counter.wasm --transactions transactions.jsonl --svg counter.svg";

/// Arguments of `profile`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Profile {
    #[command(flatten)]
    sample: Sample,
    /// Show this many functions
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    top: usize,
    /// Write folded stacks to FILE, for other tools
    #[arg(long, value_name = "FILE")]
    folded: Option<PathBuf>,
    /// Write a flame graph to FILE, for a browser
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
    /// The workload: a component, a core module, or either as text
    #[arg(value_name = "WORKLOAD")]
    workload: PathBuf,
}

impl Profile {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let (size, input) = (self.sample.size()?, self.sample.input()?);
        let (workload, _) = load_workload(&self.workload)?;
        // What would be wrong with these files after the runs is wrong before them.
        let inputs = [&*self.workload, &*self.sample.transactions];
        let folded_file = self.folded.as_deref().map(|file| Output::open(file, &inputs)).transpose()?;
        let inputs_and_folded: Vec<&Path> = inputs.into_iter().chain(self.folded.as_deref()).collect();
        let svg_file = self.svg.as_deref().map(|file| Output::open(file, &inputs_and_folded)).transpose()?;
        let guest = made(Guest::for_profile(workload, size.clone(), code_cache::of_user()?))?;
        let found = with_progress(self.json, |progress| guest.profile(&input, progress));
        let found = found.map_err(|error| UnstartableWorkload::new(&self.workload, error))?;
        if let Some(file) = folded_file {
            file.write(|out| folded(&found.tree, out))?;
        }
        if let Some(file) = svg_file {
            file.write(|out| out.write_all(svg(&found.tree, &format!("Fuel of {}", found.workload)).as_bytes()))?;
        }
        let text = if self.json { json_lines(&self.json_of(&found))? } else { self.text_of(&found, &size) };
        is_pipe_open(io::stdout().write_all(text.as_bytes()))?;
        Ok(ExitCode::from(exit::OK))
    }

    fn json_of(&self, found: &Found) -> Value {
        let functions: Vec<Value> = table(&found.tree)
            .into_iter()
            .take(self.top)
            .map(|Row { name, own, total }| json!({ "name": name, "own": own, "total": total }))
            .collect();
        let of = |spent: &[Spent]| {
            let Fuel { total, p50, p99, max } = Fuel::of(spent.iter().map(|spent| spent.fuel));
            let [ok, refused, failed] = outcomes(spent);
            json!({
                "count": spent.len(),
                "outcomes": { "ok": ok, "refused": refused, "failed": failed },
                "fuel": { "total": total, "p50": p50, "p99": p99, "max": max },
            })
        };
        let Network { calls, bytes, calls_max } = Network::of(found);
        json!({
            "workload": found.workload,
            "fuel": found.fuel(),
            "exact": found.is_exact,
            "checkpoints": found.checkpoints,
            "transactions": of(&found.transactions),
            "queries": of(&found.queries),
            "peak": { "memory_bytes": found.peak.memory_bytes, "disk_bytes": found.peak.disk_bytes },
            "network": { "calls": calls, "bytes": bytes, "calls_max": calls_max },
            "functions": functions,
        })
    }

    /// Returns the tables and sentences. Numbers of bytes have the units of the size's limits.
    fn text_of(&self, found: &Found, size: &Size) -> String {
        let columns = help::output_columns().unwrap_or(COLUMNS).max(COLUMNS);
        let rows = table(&found.tree);
        let total = found.fuel();
        let mut text = functions(&rows, self.top, total, columns);
        if rows.len() > self.top {
            text +=
                &format!("and {} more functions; --top COUNT shows them\n", grouped((rows.len() - self.top) as u64));
        }
        text += &format!("\n{}", needs(found));
        let Network { calls, bytes, calls_max } = Network::of(found);
        let of_network = match calls {
            0 => "no calls to the network".to_owned(),
            calls => format!(
                "{} calls to the network with {}, at most {} in a transaction",
                grouped(calls),
                BytesBeside { bytes, bound: size.network_bytes },
                grouped(calls_max)
            ),
        };
        let count = found.transactions.len() as u64;
        let [ok, refused, failed] = outcomes(&found.transactions).map(grouped);
        text += &format!("\n{}: {ok} ok, {refused} refused, {failed} failed\n", counted(count, "transaction"));
        let memory = BytesBeside { bytes: found.peak.memory_bytes, bound: size.memory_bytes };
        let disk = BytesBeside { bytes: found.peak.disk_bytes, bound: size.disk_bytes };
        text += &help::fitting(format!("peak memory {memory}, peak disk {disk}, {of_network}\n"), Some(columns), 2);
        let how = match found.is_exact {
            true => "each function call and each loop was looked at",
            false => "the fuel of functions is estimated from parts of the run (docs/profile.md)",
        };
        let summary = format!("{}: {} fuel; {how}\n", plain(&found.workload), grouped(total));
        text + &help::fitting(summary, Some(columns), 2)
    }
}

/// Returns the table of functions, those with the most fuel of their own first.
fn functions(rows: &[Row<'_>], top: usize, all: u64, columns: usize) -> String {
    let name_columns = columns - 2 * FUEL_COLUMNS - 2 * 7 - 2;
    let line = |own: &str, own_share: &str, total: &str, total_share: &str, name: &str| {
        format!("{own:>FUEL_COLUMNS$}{own_share:>7}{total:>FUEL_COLUMNS$}{total_share:>7}  {name}")
            .trim_end()
            .to_owned()
            + "\n"
    };
    let mut text = line("own fuel", "", "total fuel", "", "function");
    for Row { name, own, total } in &rows[..rows.len().min(top)] {
        text += &line(
            &grouped(*own),
            &share(*own, all),
            &grouped(*total),
            &share(*total, all),
            &shortened(name, name_columns),
        );
    }
    text
}

/// Returns a share of all fuel in percent, with one decimal.
fn share(fuel: u64, all: u64) -> String {
    let per_mille = (u128::from(fuel) * 1_000 + u128::from(all) / 2) / u128::from(all.max(1));
    format!("{}.{}%", per_mille / 10, per_mille % 10)
}

/// Returns the table of what transactions and queries burn.
fn needs(found: &Found) -> String {
    let line = |what: &str, cells: [&str; 5]| {
        let [count, p50, p99, max, total] = cells;
        format!(
            "{what:<12}{count:>8}{p50:>FUEL_COLUMNS$}{p99:>FUEL_COLUMNS$}{max:>FUEL_COLUMNS$}{total:>FUEL_COLUMNS$}\n"
        )
    };
    let mut text = line("fuel of", ["count", "p50", "p99", "max", "total"]);
    for (what, spent) in [("transactions", &found.transactions), ("queries", &found.queries)] {
        if spent.is_empty() {
            continue;
        }
        let Fuel { total, p50, p99, max } = Fuel::of(spent.iter().map(|spent| spent.fuel));
        let [count, p50, p99, max, total] = [spent.len() as u64, p50, p99, max, total].map(grouped);
        text += &line(what, [&count, &p50, &p99, &max, &total]);
    }
    text
}

/// Returns how many transactions or queries were ok, refused and failed.
fn outcomes(spent: &[Spent]) -> [u64; 3] {
    [Outcome::Ok, Outcome::Refused, Outcome::Failed]
        .map(|outcome| spent.iter().filter(|spent| spent.outcome == outcome).count() as u64)
}

/// The fuel of some transactions or queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fuel {
    total: u64,
    /// The least fuel that suffices for half of them.
    p50: u64,
    p99: u64,
    max: u64,
}

impl Fuel {
    fn of(fuel: impl IntoIterator<Item = u64>) -> Self {
        let mut fuel: Vec<u64> = fuel.into_iter().collect();
        fuel.sort_unstable();
        let at = |percent: usize| {
            let index = (fuel.len() * percent).div_ceil(100).saturating_sub(1);
            fuel.get(index).copied().unwrap_or_default()
        };
        Self {
            total: fuel.iter().fold(0, |sum, fuel| sum.saturating_add(*fuel)),
            p50: at(50),
            p99: at(99),
            max: at(100),
        }
    }
}

/// The calls to the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    calls: u64,
    bytes: u64,
    /// The most calls of a transaction.
    calls_max: u64,
}

impl Network {
    fn of(found: &Found) -> Self {
        let spent = &found.transactions;
        Self {
            calls: spent.iter().map(|spent| spent.calls).sum(),
            bytes: spent.iter().map(|spent| spent.call_bytes).sum(),
            calls_max: spent.iter().map(|spent| spent.calls).max().unwrap_or_default(),
        }
    }
}

/// A file that is open, and is written after the runs.
struct Output<'a> {
    path: &'a Path,
    file: File,
}

impl<'a> Output<'a> {
    /// Opens a file, which keeps its content for now. It must be none of `others`.
    fn open(path: &'a Path, others: &[&Path]) -> Result<Self, UsageError> {
        if let Some(other) = others.iter().find(|other| is_same(path, other)) {
            let (file, other) = (path.display().to_string(), other.display().to_string());
            return Err(UsageError(format!(
                "{}: cannot be written: it is the same file as '{}'; name another file",
                file.escape_debug(),
                other.escape_debug()
            )));
        }
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        opened.map(|file| Self { path, file }).map_err(|error| unwritable(path, &error))
    }

    /// Replaces the content.
    fn write(self, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<(), UsageError> {
        let Self { path, file } = self;
        let written = file.metadata().and_then(|found| if found.is_file() { file.set_len(0) } else { Ok(()) });
        let written = written.and_then(|()| {
            let mut out = BufWriter::new(file);
            write(&mut out)?;
            out.flush()
        });
        written.map_err(|error| unwritable(path, &error))
    }
}

/// Returns whether both paths lead to the same file. Devices and pipes may be named twice.
fn is_same(one: &Path, other: &Path) -> bool {
    match (fs::metadata(one), fs::metadata(other)) {
        (Ok(one), Ok(other)) => one.is_file() && (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

fn unwritable(file: &Path, error: &io::Error) -> UsageError {
    let (file, error) = (file.display().to_string(), of_system(error));
    UsageError(format!("{}: cannot be written: {error}; name a file in a folder of yours", file.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_fits_80_columns_with_the_largest_numbers_that_occur() {
        let long = format!("core::{}::end", "x".repeat(200));
        let rows =
            [Row { name: &long, own: 99_999_999_999, total: 99_999_999_999 }, Row { name: "f", own: 1, total: 7 }];
        let text = functions(&rows, 20, 100_000_000_000, 80);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(
            text.contains("99,999,999,999 100.0%") && text.contains("::end\n") && text.contains("  core::"),
            "{text}"
        );
        assert_eq!(functions(&rows, 1, 1, 80).lines().count(), 2);
    }

    #[test]
    fn percentiles_are_the_least_fuel_that_suffices() {
        assert_eq!(Fuel::of((1..=200).rev()), Fuel { total: 20_100, p50: 100, p99: 198, max: 200 });
        assert_eq!(Fuel::of([7, 1, 3]), Fuel { total: 11, p50: 3, p99: 7, max: 7 });
        assert_eq!(Fuel::of([]), Fuel { total: 0, p50: 0, p99: 0, max: 0 });
    }

    #[test]
    fn a_share_is_rounded_to_one_decimal() {
        assert_eq!([share(1, 3), share(2, 3), share(0, 0)], ["33.3%", "66.7%", "0.0%"]);
    }
}
